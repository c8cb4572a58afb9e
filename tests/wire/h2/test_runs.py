"""Runs of frames against a plain search for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.h2.frames import END_HEADERS, END_STREAM, PADDED, FrameType, frame
from gateway.wire.h2.runs import EVEN_UNITS_MIN, UNEVEN_UNITS_MIN, Run, RunFinder

FRAMES_MAX = 16384
FIRST_WALK = 64


def units_of(frames: list[tuple[int, int, int, bytes]]) -> list[tuple[object, ...]]:
    """(kind, block, body, stream id) of the units; the first unit decides whether HEADERS and DATA are one."""
    units: list[tuple[object, ...]] = []
    at = 0
    while at < len(frames):
        kind, flags, stream_id, payload = frames[at]
        has_data = (
            kind == FrameType.HEADERS
            and flags == END_HEADERS
            and at + 1 < len(frames)
            and frames[at + 1][:3] == (FrameType.DATA, END_STREAM, stream_id)
        )
        if has_data and not (units and units[0][0] != "both"):
            units.append(("both", payload, frames[at + 1][3], stream_id))
            at += 2
            continue
        if kind == FrameType.DATA and flags == END_STREAM:
            units.append(("data", b"", payload, stream_id))
        elif kind == FrameType.HEADERS and flags in {END_HEADERS, END_HEADERS | END_STREAM}:
            units.append((f"headers {flags}", payload, b"", stream_id))
        else:
            units.append((f"other {at}", b"", b"", stream_id))
        at += 1
    return units


def how_many(units: list[tuple[object, ...]], key) -> int:
    return next((index for index, unit in enumerate(units) if key(unit) != key(units[0])), len(units))


@st.composite
def frame_lists(draw):
    first_id = draw(st.integers(0, 1000)) * 2 + 1
    out = []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.sampled_from(["end", "head", "both", "data", "data padded", "data open"]))
        block = draw(st.sampled_from([b"\x88", b"\x8d", b"abc", b""]))
        size = draw(st.integers(0, 4))
        is_uneven = draw(st.booleans())
        for index in range(draw(st.sampled_from([1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 90]))):
            first_id += 2
            n = (size + index * 7 % 3) if is_uneven else size
            body = draw(st.binary(min_size=n, max_size=n)) if n else b""
            mark = bytes([index]) * (index % 2) if is_uneven else b""
            if shape == "end":
                out.append((FrameType.HEADERS, END_HEADERS | END_STREAM, first_id, block + mark))
            if shape in {"head", "both"}:
                out.append((FrameType.HEADERS, END_HEADERS, first_id, block + mark))
            if shape in {"data", "both"}:
                out.append((FrameType.DATA, END_STREAM, first_id, body))
            if shape == "data padded":
                out.append((FrameType.DATA, END_STREAM | PADDED, first_id, b"\x00" + body))
            if shape == "data open":
                out.append((FrameType.DATA, 0, first_id, body))
    return out


@given(frames=frame_lists(), tail=st.integers(0, 8), at=st.integers(0, 3))
def test_run_is_the_longest_stretch_of_like_frames(frames, tail: int, at: int) -> None:
    buffer = b"?" * at + b"".join(frame(*each) for each in frames) + b"\x00" * tail
    units = units_of(frames)
    kind = str(units[0][0])
    even = how_many(units, lambda unit: (unit[0], unit[1], len(unit[2])))
    uneven = min(how_many(units, lambda unit: unit[0]), FIRST_WALK)
    run = RunFinder(FRAMES_MAX).find(buffer, at, len(frames[0][3]))
    if kind.startswith("other") or (even < EVEN_UNITS_MIN and uneven < UNEVEN_UNITS_MIN):
        assert run is None
        return
    assert run is not None
    is_even = even >= EVEN_UNITS_MIN
    n = even if is_even else uneven
    assert run.n == n
    check_run(run, units[:n], buffer, at, is_even=is_even)


def check_run(run: Run, units, buffer: bytes, at: int, *, is_even: bool) -> None:
    kind = units[0][0]
    size = sum((9 + len(unit[1]) if kind != "data" else 0) + (9 + len(unit[2]) if kind in {"both", "data"} else 0) for unit in units)  # fmt: skip  # noqa: E501
    assert run.ids.tolist() == [unit[3] for unit in units]
    assert run.end == at + size
    assert run.first_end == at + 9 + (len(units[0][2]) if kind == "data" else len(units[0][1]))
    assert run.has_end == (kind in {"both", "data", f"headers {END_HEADERS | END_STREAM}"})
    assert run.has_bodies == (kind in {"both", "data"})
    assert run.has_blocks == (kind != "data")
    if run.has_bodies:
        bodies = [unit[2] for unit in units]
        assert run.bodies() == bodies
        assert [run.body(index) for index in range(run.n)] == bodies
        assert run.has_one_body() == (is_even and len(set(bodies)) == 1)
    if kind != "data" and is_even:
        assert run.block == units[0][1]
    elif kind != "data":
        starts, ends = run.block_starts.tolist(), run.block_ends.tolist()
        assert [buffer[a:b] for a, b in zip(starts, ends, strict=True)] == [unit[1] for unit in units]
        for n in (1, run.n - 1):
            cut = run.cut(n)
            assert cut.n == n
            assert cut.end == starts[n] - 9
            assert cut.ids.tolist() == run.ids.tolist()[:n]


def headers(stream_id: int, block: bytes) -> bytes:
    return frame(FrameType.HEADERS, END_HEADERS | END_STREAM, stream_id, block)


def test_walk_goes_further_while_runs_are_taken_whole() -> None:
    buffer = b"".join(headers(2 * index + 1, b"\x88" * (index % 2 + 1)) for index in range(2000))
    finder = RunFinder(FRAMES_MAX)
    lengths = []
    for _ in range(4):
        run = finder.find(buffer, 0, 1)
        assert run is not None
        lengths.append(run.n)
        finder.report(run, run)
    assert lengths == [64, 256, 1024, 1024]
    finder.report(run, run.cut(20))
    run = finder.find(buffer, 0, 1)
    assert run is not None
    assert run.n == 64
    finder.report(run, None)
    run = finder.find(buffer, 0, 1)
    assert run is not None
    assert run.n == 64


@pytest.mark.parametrize("is_uneven", [False, True])
def test_run_holds_no_frame_over_the_limit(is_uneven: bool) -> None:
    def unit(size: int) -> bytes:
        return frame(FrameType.HEADERS, END_HEADERS, 1, b"\x88") + frame(FrameType.DATA, END_STREAM, 1, b"a" * size)

    buffer = b"".join(unit(20 - index % 2 if is_uneven else 20) for index in range(20))
    assert RunFinder(19).find(buffer, 0, 1) is None
    run = RunFinder(20).find(buffer, 0, 1)
    assert run is not None
    assert run.n == 20
    data = b"".join(frame(FrameType.DATA, END_STREAM, 1, b"a" * (19 + index % 2)) for index in range(20))
    assert RunFinder(19).find(data, 0, 19) is None
