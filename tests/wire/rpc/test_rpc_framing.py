"""Frames cut at any byte, limits, and what a silent reader holds."""

from __future__ import annotations

import itertools
import random
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.rpc.framing import FrameReader, FrameTooLarge, frame


def read_all(reader: FrameReader, chunks: list[bytes]) -> list[bytes]:
    out = []
    for chunk in chunks:
        reader.feed(chunk)
        while (payload := reader.next_payload()) is not None:
            out.append(payload)
    return out


@given(payloads=st.lists(st.binary(max_size=40), max_size=8), data=st.data())
def test_framing_gives_the_same_payloads_however_the_stream_is_cut(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read_all(FrameReader(100), chunks) == payloads
    assert read_all(FrameReader(100), [stream[i : i + 1] for i in range(len(stream))]) == payloads
    assert read_all(FrameReader(100), [stream]) == payloads


@given(
    sizes=st.lists(st.integers(0, 150_000), min_size=1, max_size=4),
    cuts=st.lists(st.one_of(st.integers(0, 400_000), st.integers(0, 5_000)), max_size=12),
)
def test_framing_puts_large_and_small_chunks_together(sizes: list[int], cuts: list[int]) -> None:
    payloads = [random.Random(size).randbytes(size) for size in sizes]
    stream = b"".join(map(frame, payloads))
    ends = [*sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    chunks = [stream[a:b] for a, b in itertools.pairwise([0, *ends])]
    assert read_all(FrameReader(1 << 20), chunks) == payloads


def test_framing_costs_no_object_for_each_chunk_of_a_peer_that_sends_single_bytes() -> None:
    stream = frame(bytes(1 << 20))[:200_000]
    chunks = [stream[at : at + 1] for at in range(len(stream))]
    reader = FrameReader(1 << 20)
    tracemalloc.start()
    try:
        read_all(reader, chunks)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.buffered_bytes == 200_000
    assert held < 300_000


def test_framing_refuses_a_length_over_the_limit_before_the_payload_comes() -> None:
    reader = FrameReader(10)
    reader.feed(b"\x00\x00\x00\x0b")
    with pytest.raises(FrameTooLarge, match="frame is 11 bytes, limit 10"):
        reader.next_payload()
    split = FrameReader(10)
    assert read_all(split, [b"\x7f"]) == []
    split.feed(b"\xff\xff\xff")
    with pytest.raises(FrameTooLarge):
        split.next_payload()


def test_framing_takes_a_frame_of_exactly_the_limit() -> None:
    assert read_all(FrameReader(10), [frame(b"0123456789")]) == [b"0123456789"]


def test_framing_lets_the_limit_rise_between_two_frames_of_one_chunk() -> None:
    reader = FrameReader(4)
    reader.feed(frame(b"abcd") + frame(b"abcdefgh"))
    assert reader.next_payload() == b"abcd"
    reader.frame_bytes_max = 8
    assert reader.next_payload() == b"abcdefgh"


def test_framing_holds_what_has_arrived_and_not_what_was_promised() -> None:
    reader = FrameReader(16 << 20)
    assert read_all(reader, [frame(bytes(16 << 20))[:1004]]) == []
    assert reader.has_partial
    assert reader.buffered_bytes == 1004


def test_framing_reader_without_a_partial_frame_holds_no_buffer() -> None:
    reader = FrameReader(100)
    read_all(reader, [frame(b"abc")])
    assert not reader.has_partial
    assert reader.buffered_bytes == 0
    assert sys.getsizeof(reader) < 150


def test_framing_payload_is_a_copy_that_does_not_pin_the_chunk() -> None:
    chunk = bytearray(frame(b"abc") + frame(b"def"))
    reader = FrameReader(100)
    reader.feed(chunk)
    first = reader.next_payload()
    chunk.clear()
    assert (first, reader.next_payload()) == (b"abc", b"def")
