"""Runs of frames against a plain search for them; padding, priority fields and header blocks in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RemoteProtocolError
from gateway.wire.h2.frames import END_HEADERS, END_STREAM, PADDED, ErrorCode, FrameType, frame
from gateway.wire.h2.reader import BlockAssembly, find_run, strip_padding, strip_priority

FRAMES_MAX = 16384


def plain_run(frames: list[tuple[int, int, int, bytes]]) -> int:
    """How many units (HEADERS, HEADERS + DATA, DATA) from the first frame on are alike; 0 when it begins no unit."""
    units = []
    at = 0
    while at < len(frames):
        kind, flags, stream_id, payload = frames[at]
        has_data = (
            kind == FrameType.HEADERS
            and flags == END_HEADERS
            and at + 1 < len(frames)
            and frames[at + 1][:3] == (FrameType.DATA, END_STREAM, stream_id)
        )
        if units and has_data and units[0][0] == "headers":
            has_data = False  # the pattern is set by the first unit
        if has_data:
            units.append(("both", payload, len(frames[at + 1][3])))
            at += 2
            continue
        if kind == FrameType.DATA and flags == END_STREAM:
            units.append(("data", b"", len(payload)))
        elif kind == FrameType.HEADERS and flags in {END_HEADERS, END_HEADERS | END_STREAM}:
            units.append(("headers", payload, flags))
        else:
            units.append((at,))
        at += 1
    if len(units[0]) == 1:
        return 0
    return next((index for index, unit in enumerate(units) if unit != units[0]), len(units))


@st.composite
def frame_lists(draw):
    first_id = draw(st.integers(0, 1000)) * 2 + 1
    out = []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.sampled_from(["end", "head", "both", "data", "data padded", "data open"]))
        block = draw(st.sampled_from([b"\x88", b"\x8d", b"abc", b""]))
        size = draw(st.integers(0, 4))
        for _ in range(draw(st.sampled_from([1, 7, 8, 9, 63, 64, 65, 90]))):
            first_id += 2
            body = draw(st.binary(min_size=size, max_size=size)) if size else b""
            if shape == "end":
                out.append((FrameType.HEADERS, END_HEADERS | END_STREAM, first_id, block))
            if shape in {"head", "both"}:
                out.append((FrameType.HEADERS, END_HEADERS, first_id, block))
            if shape in {"data", "both"}:
                out.append((FrameType.DATA, END_STREAM, first_id, body))
            if shape == "data padded":
                out.append((FrameType.DATA, END_STREAM | PADDED, first_id, b"\x00" + body))
            if shape == "data open":
                out.append((FrameType.DATA, 0, first_id, body))
    return out


@given(frames=frame_lists(), tail=st.integers(0, 8))
def test_run_is_the_longest_stretch_of_like_frames(frames, tail: int) -> None:
    buffer = b"".join(frame(*each) for each in frames) + b"\x00" * tail
    expected = plain_run(frames)
    run = find_run(buffer, 0, len(frames[0][3]), FRAMES_MAX)
    if expected < 8:
        assert run is None
        return
    assert run is not None
    assert run.n == expected
    step = 2 if run.block is not None and run.bodies is not None else 1
    units = [frames[at : at + step] for at in range(0, run.n * step, step)]
    assert run.ids.tolist() == [unit[0][2] for unit in units]
    assert run.size == sum(len(frame(*each)) for unit in units for each in unit)
    assert run.first_frame_size == len(frame(*frames[0]))
    assert run.has_end == bool(units[0][-1][1] & END_STREAM)
    if run.bodies is not None:
        assert [row.tobytes() for row in run.bodies] == [unit[-1][3] for unit in units]
    if run.block is not None:
        assert run.block == frames[0][3]


def test_run_does_not_begin_with_a_frame_over_the_limit_behind_its_headers() -> None:
    unit = frame(FrameType.HEADERS, END_HEADERS, 1, b"\x88") + frame(FrameType.DATA, END_STREAM, 1, b"a" * 20)
    assert find_run(unit * 9, 0, 1, 19) is None
    assert find_run(unit * 9, 0, 1, 20) is not None


@given(data=st.binary(max_size=20), padding=st.integers(0, 255))
def test_padding_is_stripped(data: bytes, padding: int) -> None:
    payload = bytes([padding]) + data + bytes(padding)
    assert strip_padding(PADDED, payload) == data
    assert strip_padding(0, payload) == payload


@pytest.mark.parametrize(("payload", "code"), [(b"", ErrorCode.FRAME_SIZE_ERROR), (b"\x02a", ErrorCode.PROTOCOL_ERROR)])
def test_padding_longer_than_the_frame_is_refused(payload: bytes, code: ErrorCode) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        strip_padding(PADDED, payload)
    assert caught.value.wire_code == code


def test_priority_fields_are_stripped() -> None:
    assert strip_priority(0x20, b"\x80\x00\x00\x01\x10block") == b"block"
    with pytest.raises(RemoteProtocolError) as caught:
        strip_priority(0x20, b"\x80\x00\x00\x01")
    assert caught.value.wire_code == ErrorCode.FRAME_SIZE_ERROR


def test_block_assembly_refuses_many_empty_fragments_and_many_bytes() -> None:
    assembly = BlockAssembly(1, 0, 100)
    for _ in range(BlockAssembly.FRAMES_MAX):
        assembly.add(b"")
    with pytest.raises(RemoteProtocolError) as caught:
        assembly.add(b"")
    assert caught.value.wire_code == ErrorCode.ENHANCE_YOUR_CALM
    with pytest.raises(RemoteProtocolError):
        BlockAssembly(1, 0, 100).add(b"a" * 101)
