"""Response heads, memoized and by layout, against decoding each block anew."""

from __future__ import annotations

import hpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RemoteProtocolError
from gateway.wire.h2.events import Answers
from gateway.wire.h2.frames import END_HEADERS, END_STREAM, FrameType, frame
from gateway.wire.h2.responses import Head, HeadDecoder, HeadKind, Reported, parse_head
from gateway.wire.hpack.decoder import Decoder

REPORTED = Reported(frozenset({b"x-kept"}), frozenset({b"apns-id", b"x-noise"}))


def plain_head(decoder: Decoder, block: bytes) -> Head:
    return parse_head(decoder.decode(block), REPORTED)


def as_tuple(head: Head) -> tuple[object, ...]:
    return head.kind, head.status, head.headers, head.content_length, head.bare_detail


@st.composite
def answers(draw) -> list[bytes]:
    """Blocks of a server that allows itself a table or not, many of them of one build."""
    encoder = hpack.Encoder()
    encoder.header_table_size = draw(st.sampled_from([0, 0, 0, 200, 4096]))
    huffman = draw(st.booleans())
    builds = draw(
        st.lists(
            st.tuples(
                st.sampled_from([b"200", b"410", b"204", b"103"]),
                st.lists(
                    st.sampled_from([b"apns-id", b"x-noise", b"date", b"x-kept", b"retry-after", b"content-length"]),
                    unique=True,
                    max_size=3,
                ),
                st.booleans(),
            ),
            min_size=1,
            max_size=3,
        )
    )
    blocks = []
    for _ in range(draw(st.integers(1, 40))):
        status, names, is_sensitive = draw(st.sampled_from(builds))
        fields = [(b":status", status, False)]
        fields += [(name, draw(st.sampled_from([b"0", b"17", b"a1b2", b"e" * 30, b"", b"x\ny"])), is_sensitive) for name in names]  # fmt: skip  # noqa: E501
        blocks.append(encoder.encode(fields, huffman=huffman))
    return blocks


@given(blocks=answers())
def test_head_of_each_block_is_that_of_the_plain_decoder(blocks: list[bytes]) -> None:
    heads = HeadDecoder(Decoder(header_list_bytes_max=1 << 16), REPORTED)
    plain = Decoder(header_list_bytes_max=1 << 16)
    for block in blocks:
        assert as_tuple(heads.head(block)) == as_tuple(plain_head(plain, block))
        assert heads.is_pure or heads.decoder.has_changed_table


@given(blocks=answers(), learned=st.integers(0, 40), sizes=st.lists(st.integers(0, 5), min_size=1))
def test_heads_alike_are_those_of_the_plain_decoder(blocks: list[bytes], learned: int, sizes: list[int]) -> None:
    heads = HeadDecoder(Decoder(header_list_bytes_max=1 << 16), REPORTED)
    plain = Decoder(header_list_bytes_max=1 << 16)
    for block in blocks[:learned]:
        heads.head(block)
        plain.decode(block)
    rest = blocks[learned:]
    if not rest:
        return
    gaps = [sizes[index % len(sizes)] for index in range(len(rest))]
    starts = np.cumsum([0, *[len(block) + gap for block, gap in zip(rest[:-1], gaps, strict=False)]])
    ends = starts + np.array([len(block) for block in rest])
    buffer = b"".join(block + b"?" * gap for block, gap in zip(rest, gaps, strict=True))
    found = heads.heads_alike(buffer, starts, ends)
    if found is None:
        return
    head, n = found
    assert n >= 1
    generation = plain.generation
    for block in rest[:n]:
        assert as_tuple(plain_head(plain, block)) == as_tuple(head)
        assert plain.generation == generation


def encoder_without_table() -> hpack.Encoder:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    encoder.encode([(b":status", b"200")])
    return encoder


@pytest.mark.parametrize("huffman", [False, True])
@pytest.mark.parametrize("status", [b"200", b"410"])
def test_blocks_that_differ_in_an_ignored_header_are_decoded_twice_only(status: bytes, huffman: bool) -> None:
    heads = HeadDecoder(Decoder(table_bytes_max=0, header_list_bytes_max=1 << 16), REPORTED)
    encoder = encoder_without_table()
    for index in range(50):
        fields = [(b":status", status), (b"apns-id", b"%032x" % (index * 7919 << 90 | index)), (b"server", b"x")]
        head = heads.head(encoder.encode(fields, huffman=huffman))
        assert head.kind is HeadKind.FINAL
        assert head.headers == ({} if status == b"200" else {b"server": b"x"})
        assert heads.is_pure
    assert heads.decoded_count == 2


def test_blocks_that_differ_in_what_is_reported_are_decoded_each() -> None:
    heads = HeadDecoder(Decoder(table_bytes_max=0, header_list_bytes_max=1 << 16), REPORTED)
    encoder = encoder_without_table()
    for index in range(10):
        for status, name in ((b"200", b"x-kept"), (b"503", b"retry-after"), (b"410", b"x-kept")):
            value = b"%d" % index
            assert heads.head(encoder.encode([(b":status", status), (name, value)])).headers == {name: value}
    assert heads.decoded_count == 30


def test_malformed_huffman_in_an_ignored_header_is_found() -> None:
    heads = HeadDecoder(Decoder(table_bytes_max=0, header_list_bytes_max=1 << 16), REPORTED)
    head = b"\x88\x00\x07apns-id"
    for value in (b"\x81\x07", b"\x81\x0f"):
        assert heads.head(head + value).status == 200
    with pytest.raises(RemoteProtocolError):
        heads.head(head + b"\x84\xff\xff\xff\xff")
    with pytest.raises(RemoteProtocolError):
        heads.head(head + b"\x81\x00")
    with pytest.raises(RemoteProtocolError):
        heads.head(head + b"\x82\x07")
    assert heads.head(head + b"\x03a\nb").kind is HeadKind.MALFORMED


def test_layout_ends_with_the_table_it_was_learned_under() -> None:
    """A literal "with indexing" changes nothing while the peer's table is empty by its size, and everything later."""
    heads = HeadDecoder(Decoder(table_bytes_max=100, header_list_bytes_max=1 << 16), REPORTED)
    block = b"\x88\x40\x07apns-id\x02"
    heads.head(b"\x20" + block + b"aa")
    for value in (b"ab", b"ac", b"ad"):
        heads.head(block + value)
    assert heads.is_pure
    assert heads.decoded_count == 3
    heads.head(b"\x3f\x45" + block + b"ae")  # a table of 100 bytes from now on
    assert not heads.is_pure
    heads.head(block + b"af")
    assert not heads.is_pure
    assert heads.decoder.table_bytes == 2 * (32 + 9)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"X-Upper", b"a"),
        (b"a b", b"a"),
        (b"a:b", b"a"),
        (b"a\x7f", b"a"),
        (b"", b"a"),
        (b"a", b"x\x00y"),
        (b"a", b"\r"),
    ],
)
def test_fields_that_no_message_may_have_are_malformed(name: bytes, value: bytes) -> None:
    assert parse_head([(b":status", b"200"), (name, value)], REPORTED).kind is HeadKind.MALFORMED


@pytest.mark.parametrize("is_huffman", [False, True])
@pytest.mark.parametrize("has_body", [False, True])
def test_unique_ids_in_many_answers_leave_statuses_and_bodies_right(open_dialogue, has_body, is_huffman) -> None:
    n = 400
    dialogue = open_dialogue({0x3: n}, streams_max=n)
    assert dialogue.send(n) == n
    dialogue.sent()
    encoder = encoder_without_table()
    out, expected = dialogue.head(1), {0: (200, None)}
    for row in range(1, n):
        status = 410 if row % 97 == 0 else 200
        fields = [(b":status", b"%d" % status), (b"apns-id", b"%036x" % (row * 0x9E3779B97F4A7C15))]
        flags = END_HEADERS | (0 if has_body else END_STREAM)
        out += frame(FrameType.HEADERS, flags, 2 * row + 1, encoder.encode(fields, huffman=is_huffman))
        body = b"b" * (row % 5) if has_body else b""
        if has_body:
            out += frame(FrameType.DATA, END_STREAM, 2 * row + 1, body)
        expected[row] = status, (body if body or status == 410 else None)
    found = {}
    for event in dialogue.feed(out):
        assert isinstance(event, Answers)
        for index, (tag, status) in enumerate(zip(event.tags.tolist(), event.status.tolist(), strict=True)):
            detail = event.details.get(index)
            assert detail is None or detail.headers == {}
            found[tag] = status, (None if detail is None else detail.body)
    assert found == expected
    # A layout per status: two of each were decoded, and the first.
    assert dialogue.connection.statistics().blocks_decoded == 5
