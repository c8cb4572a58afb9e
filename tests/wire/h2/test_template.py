"""Header blocks of bursts against the fields of each row."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway import columns
from gateway.columns import TextColumn
from gateway.vendor import Requests
from gateway.wire.h2 import template
from gateway.wire.hpack.decoder import Decoder
from gateway.wire.hpack.encoder import Encoder
from gateway.wire.hpack.integer import encode_integer

VALUE_ROWS = st.binary(max_size=300)


@st.composite
def requests_of(draw, n: int) -> Requests:
    def pieces():
        match draw(st.sampled_from(["constant", "fixed", "ragged", "mixed"])):
            case "constant":
                return (draw(st.binary(max_size=40)),)
            case "fixed":
                return (np.frombuffer(draw(st.binary(min_size=3 * n, max_size=3 * n)), np.uint8).reshape(n, 3),)
            case "ragged":
                return (TextColumn.from_rows(draw(st.lists(VALUE_ROWS, min_size=n, max_size=n))),)
            case _:
                return (b"a/", TextColumn.from_rows(draw(st.lists(VALUE_ROWS, min_size=n, max_size=n))), b"/z")

    names = draw(st.lists(st.sampled_from([b"authorization", b"apns-id", b"x-a", b"x-b", b"accept"]), max_size=4))
    return Requests(n, b"push.example", pieces(), tuple((name, pieces()) for name in names), ())


def plain_fields(requests: Requests, row: int) -> list[tuple[bytes, bytes]]:
    return [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", requests.authority),
        (b":path", columns.row_bytes(requests.path, row)),
        *[(name, columns.row_bytes(pieces, row)) for name, pieces in requests.headers],
    ]


@given(data=st.data(), table_bytes=st.sampled_from([0, 60, 200, 4096]))
def test_blocks_of_many_bursts_decode_to_the_fields_of_each_row(data, table_bytes: int) -> None:
    encoder = Encoder(table_bytes_max=table_bytes)
    decoder = Decoder(header_list_bytes_max=1 << 20)
    for _ in range(data.draw(st.integers(1, 3))):
        n = data.draw(st.integers(1, 5))
        requests = data.draw(requests_of(n))
        fields = template.burst_fields(requests, encoder, frozenset({b"x-b"}))
        row = 0
        while row < n and row < 2 and not template.is_warm(encoder, fields):
            assert decoder.decode(template.warming_block(encoder, fields, row)) == plain_fields(requests, row)
            row += 1
        if row < n:
            generation = encoder.generation
            pieces = template.block_pieces(template.plan_block(encoder, fields), requests, row, n)
            assert encoder.generation == generation
            for offset, block in enumerate(columns.join(pieces, 0, n - row)):
                assert decoder.decode(block) == plain_fields(requests, row + offset)
        assert decoder.table_bytes == encoder.table_bytes


def test_one_warming_row_is_enough_for_constants_that_fit() -> None:
    encoder = Encoder()
    headers = ((b"authorization", (b"bearer " + b"a" * 200,)), (b"apns-topic", (b"com.example",)))
    requests = Requests(3, b"push.example", (b"/3/device/", TextColumn.from_rows([b"a", b"bb", b"c"])), headers, ())
    fields = template.burst_fields(requests, encoder, frozenset())
    template.warming_block(encoder, fields, 0)
    assert template.is_warm(encoder, fields)
    # :method and :scheme are static, three dynamic entries, then the literal path: all but the path is one byte each.
    plan = template.plan_block(encoder, fields)
    blocks = columns.join(template.block_pieces(plan, requests, 1, 3), 0, 2)
    assert [len(block) for block in blocks] == [5 + 2 + 12, 5 + 2 + 11]


def test_replaced_authorization_is_indexed_anew() -> None:
    encoder = Encoder()
    for token in (b"old", b"new"):
        requests = Requests(1, b"h", (b"/",), ((b"authorization", (token,)),), ())
        fields = template.burst_fields(requests, encoder, frozenset())
        assert not template.is_warm(encoder, fields)
        template.warming_block(encoder, fields, 0)
    assert encoder.field_index(b"authorization", b"new") == 62


def test_secret_that_fits_no_table_is_never_indexed() -> None:
    encoder = Encoder(table_bytes_max=0)
    requests = Requests(1, b"h", (b"/",), ((b"authorization", (b"s",)),), ())
    fields = template.burst_fields(requests, encoder, frozenset())
    encoder.begin_block()
    assert template.is_warm(encoder, fields)
    (block,) = template.plan_block(encoder, fields)
    assert block.endswith(b"\x1f\x08\x01s")


@given(st.lists(st.integers(0, 5000), max_size=8))
def test_length_prefixes_are_those_of_single_lengths(lengths: list[int]) -> None:
    prefixes = template.length_prefixes(np.array(lengths, np.int64))
    assert columns.piece_rows(prefixes, 0, len(lengths)) == [encode_integer(length, 7) for length in lengths]


@given(data=st.data(), n=st.integers(1, 4))
def test_row_bytes_is_what_join_gives(data, n: int) -> None:
    requests = data.draw(requests_of(n))
    for pieces in (requests.path, *(each for _, each in requests.headers)):
        assert [columns.row_bytes(pieces, row) for row in range(n)] == columns.join(pieces, 0, n)


def test_shape_tells_constants_and_widths_apart() -> None:
    one = np.zeros((2, 3), np.uint8)
    two = np.zeros((2, 4), np.uint8)
    ragged = TextColumn.from_rows([b"a", b"b"])
    shapes = {
        template.shape_of(Requests(2, authority, path, ((name, value),), ()))
        for authority in (b"a", b"b")
        for path in ((b"/p",), (b"/q",))
        for name in (b"x", b"y")
        for value in ((b"v",), (b"w",), (one,), (two,), (ragged,), (b"v", one))
    }
    assert len(shapes) == 2 * 2 * 2 * 6
