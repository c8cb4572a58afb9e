"""Layouts and the check of many Huffman strings, against the decoder one block at a time."""

from __future__ import annotations

import hpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RemoteProtocolError
from gateway.wire.hpack.decoder import Decoder
from gateway.wire.hpack.huffman import FORBIDDEN_IN_VALUES, huffman_decode, huffman_encode, huffman_good_rows
from gateway.wire.hpack.layout import MARGIN_BYTES, VALUE_BYTES_MAX, Layout, Literal, short_literals
from gateway.wire.hpack.tables import STATIC_FIELDS

NAMES = [b":status", b"apns-id", b"date", b"x-long-name-of-a-header", b"retry-after", b"server"]
VALUES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"200", b"", b"0b5c1b5e-1f2d-4a3c-9e8d-7f6a5b4c3d2e", b"x" * 130, b"a" * 126, b"\x00", b"a\nb"]),
)


@st.composite
def blocks_of_fields(draw) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Fields, and their block as the `hpack` library writes it for a peer without a table."""
    fields = draw(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), min_size=1, max_size=5))
    return fields, encoded(fields, huffman=draw(st.booleans()))


def encoded(fields: list[tuple[bytes, bytes]], *, huffman: bool) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(fields, huffman=huffman)[1:]  # without the size update in front


def decoder() -> Decoder:
    made = Decoder(table_bytes_max=0, header_list_bytes_max=1 << 20)
    made.decode(b"\x20")
    return made


@given(made=blocks_of_fields())
def test_short_literals_are_the_values_that_stand_in_the_block(made) -> None:
    fields, block = made
    for literal in short_literals(block):
        name, value = fields[literal.field]
        text = block[literal.start + 1 : literal.end]
        assert len(text) <= VALUE_BYTES_MAX
        assert (huffman_decode(text) if block[literal.start] & 0x80 else text) == value
        assert block[literal.start] & 0x7F == len(text)
        assert name in NAMES
    literal_fields = {literal.field for literal in short_literals(block)}
    for index, field in enumerate(fields):
        assert index in literal_fields or field in STATIC_FIELDS or len(field[1]) > VALUE_BYTES_MAX * 5 // 8


def is_like(block: bytes, fields: list[tuple[bytes, bytes]], varying: set[int]) -> bool:
    """The plain twin: decodes, and has the same fields but for the varying values, which hold nothing forbidden."""
    try:
        found = decoder().decode(block)
    except RemoteProtocolError:
        return False
    if [name for name, _ in found] != [name for name, _ in fields]:
        return False
    if any(a != b for i, (a, b) in enumerate(zip(found, fields, strict=True)) if i not in varying):
        return False
    return all(not set(found[i][1]) & set(FORBIDDEN_IN_VALUES) for i in varying)


@st.composite
def alike_and_damaged(draw):
    """A block, its layout with some values varying, and blocks that mostly have it."""
    fields, block = draw(blocks_of_fields())
    literals = short_literals(block)
    varying = draw(st.lists(st.sampled_from(literals), unique=True)) if literals else []
    varying.sort()
    blocks = []
    for _ in range(draw(st.integers(1, 12))):
        changed = list(fields)
        for literal in varying:
            changed[literal.field] = fields[literal.field][0], draw(VALUES)
        if draw(st.integers(0, 9)) == 0:
            index = draw(st.integers(0, len(fields) - 1))
            changed[index] = draw(st.sampled_from(NAMES)), draw(VALUES)
        other = bytearray(encoded(changed, huffman=draw(st.booleans())))
        if draw(st.integers(0, 9)) == 0:
            other[draw(st.integers(0, len(other) - 1))] ^= 1 << draw(st.integers(0, 7))
        if draw(st.integers(0, 9)) == 0:
            other = other[: draw(st.integers(0, len(other)))]
        blocks.append(bytes(other))
    return fields, block, varying, blocks


@given(made=alike_and_damaged(), gap=st.binary(max_size=3))
def test_layout_takes_only_what_decodes_to_the_same_fields(made, gap: bytes) -> None:
    fields, block, varying, blocks = made
    layout = Layout.of(block, varying)
    assert layout.matches(block) is is_like(block, fields, {literal.field for literal in varying})
    good = [layout.matches(other) for other in blocks]
    for other, is_good in zip(blocks, good, strict=True):
        # A layout may say no where the decoder says yes (another way to write the same), never the other way round.
        if is_good:
            assert is_like(other, fields, {literal.field for literal in varying})
    data = gap.join(blocks) + bytes(MARGIN_BYTES)
    starts = np.cumsum([0, *[len(other) + len(gap) for other in blocks[:-1]]])
    ends = starts + np.array([len(other) for other in blocks])
    expected = good.index(False) if False in good else len(good)
    assert layout.matching_rows(np.frombuffer(data, np.uint8), starts, ends) == expected


@pytest.mark.parametrize("huffman", [False, True])
def test_layout_takes_ids_of_every_length_it_may(huffman: bool) -> None:
    fields = [(b":status", b"200"), (b"apns-id", b"0"), (b"server", b"nginx")]
    block = encoded(fields, huffman=huffman)
    layout = Layout.of(block, [literal for literal in short_literals(block) if literal.field == 1])
    for length in range(200):
        other = encoded([fields[0], (b"apns-id", b"0" * length), fields[2]], huffman=huffman)
        # hpack codes even a text that Huffman does not make shorter; an empty one is plain in neither.
        assert layout.matches(other) is (short_literals(other) != [] and 1 in {x.field for x in short_literals(other)})


def test_layout_of_nothing_varying_is_the_block() -> None:
    layout = Layout.of(b"\x88", [])
    assert layout.matches(b"\x88")
    assert not layout.matches(b"\x88\x88")
    assert layout == Layout((b"\x88",), ())
    assert hash(layout) == hash(Layout((b"\x88",), ()))
    assert layout != Layout.of(b"\x0f\x00\x01a", [Literal(0, 2, 4)])


@given(
    texts=st.lists(
        st.one_of(st.binary(max_size=20).map(huffman_encode), st.binary(max_size=20)), min_size=1, max_size=20
    ),
    tail=st.integers(0, 255),
)
def test_huffman_rows_are_good_where_the_decoder_takes_them(texts: list[bytes], tail: int) -> None:
    width = max(map(len, texts))
    rows = np.full((len(texts), width), tail, np.uint8)
    for index, text in enumerate(texts):
        rows[index, : len(text)] = np.frombuffer(text, np.uint8)
    expected = []
    for text in texts:
        try:
            expected.append(not set(huffman_decode(text)) & set(FORBIDDEN_IN_VALUES))
        except RemoteProtocolError:
            expected.append(False)
    lengths = np.array([len(text) for text in texts])
    assert huffman_good_rows(rows, lengths).tolist() == expected
