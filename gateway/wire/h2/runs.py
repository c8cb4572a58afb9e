"""Runs: stretches of a received buffer in which one pattern of frames repeats.

A server that answers a thousand requests alike sends the same HEADERS (and perhaps DATA) a thousand times, with other
stream ids. One repetition is a *unit*:

    | HEADERS, END_STREAM |      | HEADERS | DATA, END_STREAM |      | DATA, END_STREAM |      | HEADERS |

Two kinds of runs are recognised, the first first because it costs least:

* even: all units have one length and one header block. The stretch is a 2-D array; each row is compared with the one
  before it in one go, but for the stream ids and bodies:

    | len type flags | id | block ... | len type flags | id | body ... |
      equal                 equal       equal            = id  free

* uneven: lengths or blocks differ (a literal of its own in each block, bodies of different length). The frame headers
  are walked one after the other; what the blocks mean is for the caller to find out (`HeadDecoder.heads_alike`).
"""

from __future__ import annotations

import struct

import numpy as np

from gateway.columns import I64
from gateway.wire.h2.frames import END_HEADERS, END_STREAM, FRAME_HEADER_BYTES, STREAM_ID_MAX, FrameType
from gateway.wire.hpack.layout import rows_at

#: Fewer units are not worth the array calls (about 15 us; a frame by itself costs 3).
EVEN_UNITS_MIN = 8
#: The same for uneven runs, whose blocks are checked in some 50 array calls.
UNEVEN_UNITS_MIN = 16
#: Bytes compared at once for an even run, so that short runs in a large buffer stay cheap.
_EVEN_BYTES_MAX = 32 << 10
#: Units walked for an uneven run: few at first, so that walks in vain stay cheap, more as long as all of them agree.
_WALK_UNITS_FIRST = 64
_WALK_UNITS_MAX = 1024

_DATA_END = FrameType.DATA << 8 | END_STREAM
_HEADERS_OPEN = FrameType.HEADERS << 8 | END_HEADERS
_HEADERS_END = FrameType.HEADERS << 8 | END_HEADERS | END_STREAM
#: Length (upper 16 bits, lower 8), then type and flags as one number.
_read_header = struct.Struct(">HBH").unpack_from


class Run:
    """n units, next to each other in a buffer.

    ids: (n,) int64. block: the header block all share; None when blocks differ or there is none. block_starts,
    block_ends: (n,) int64 into the buffer when blocks differ, else None. body_starts, body_sizes: (n,) int64 into the
    buffer, None without DATA. has_end: the streams end. end: where the run ends in the buffer.
    """

    __slots__ = (
        "block", "block_ends", "block_starts", "body_size", "body_sizes", "body_starts", "buffer", "end", "first_end",
        "has_end", "ids", "n",
    )  # fmt: skip

    def __init__(self, buffer: bytes, ids: I64, *, end: int, first_end: int, has_end: bool) -> None:
        self.buffer = buffer
        self.n = len(ids)
        self.ids = ids
        self.end = end
        #: Where its first frame ends.
        self.first_end = first_end
        self.has_end = has_end
        self.block: bytes | None = None
        self.block_starts: I64 | None = None
        self.block_ends: I64 | None = None
        self.body_starts: I64 | None = None
        self.body_sizes: I64 | None = None
        #: The size all bodies share; -1 when they differ or there are none.
        self.body_size = -1

    @property
    def has_bodies(self) -> bool:
        return self.body_starts is not None

    @property
    def has_blocks(self) -> bool:
        return self.block is not None or self.block_starts is not None

    def body(self, index: int) -> bytes:
        assert self.body_starts is not None
        assert self.body_sizes is not None
        start = int(self.body_starts[index])
        return self.buffer[start : start + int(self.body_sizes[index])]

    def bodies(self) -> list[bytes]:
        assert self.body_starts is not None
        assert self.body_sizes is not None
        starts = self.body_starts.tolist()
        return [self.buffer[at : at + size] for at, size in zip(starts, self.body_sizes.tolist(), strict=True)]

    def has_one_body(self) -> bool:
        """All bodies are the same bytes."""
        if self.body_size <= 0 or self.body_starts is None:
            return self.body_size == 0
        rows = rows_at(np.frombuffer(self.buffer, np.uint8), self.body_starts, self.body_size)
        return rows.tobytes() == self.body(0) * self.n

    def cut(self, n: int) -> Run:
        """Its first n units, 0 < n <= self.n. For a run whose blocks differ."""
        if n == self.n:
            return self
        assert self.block_starts is not None
        assert self.block_ends is not None
        run = Run(
            self.buffer,
            self.ids[:n],
            end=int(self.block_starts[n]) - FRAME_HEADER_BYTES,
            first_end=self.first_end,
            has_end=self.has_end,
        )
        run.block_starts, run.block_ends = self.block_starts[:n], self.block_ends[:n]
        if self.body_starts is not None and self.body_sizes is not None:
            run.body_starts, run.body_sizes, run.body_size = self.body_starts[:n], self.body_sizes[:n], self.body_size
        return run


class RunFinder:
    """frame_bytes_max: ours; no run holds a larger frame."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._walk_units = _WALK_UNITS_FIRST

    def report(self, found: Run, taken: Run | None) -> None:
        """What became of the last run that was found."""
        if found.block_starts is not None:
            is_whole = taken is not None and taken.n == found.n
            self._walk_units = min(4 * self._walk_units, _WALK_UNITS_MAX) if is_whole else _WALK_UNITS_FIRST

    def find(self, buffer: bytes, at: int, length: int) -> Run | None:
        """The run that begins with the whole HEADERS or DATA frame at `at`, or None when there is none worth it.

        length: of that frame's payload, known to be within frame_bytes_max.
        """
        kind = buffer[at + 3] << 8 | buffer[at + 4]
        first_end = at + FRAME_HEADER_BYTES + length
        unit_end = first_end
        body_size = -1
        if kind == _DATA_END:
            body_size = length
        elif kind == _HEADERS_OPEN:
            body_size = self._body_behind(buffer, at, first_end)
            if body_size >= 0:
                unit_end += FRAME_HEADER_BYTES + body_size
        elif kind != _HEADERS_END:
            return None
        # The shortest look ahead: the next unit begins with a frame of the same kind.
        if buffer[at + 3 : at + 5] != buffer[unit_end + 3 : unit_end + 5]:
            return None
        is_even = buffer[at : at + 3] == buffer[unit_end : unit_end + 3]
        run = _even(buffer, at, unit_end - at, first_end - at, body_size, kind) if is_even else None
        if run is None and len(buffer) - at >= UNEVEN_UNITS_MIN * FRAME_HEADER_BYTES:
            run = self._uneven(buffer, at, kind, has_data_behind=unit_end > first_end)
        return run

    def _body_behind(self, buffer: bytes, at: int, next_at: int) -> int:
        """The length of a whole DATA frame with END_STREAM, unpadded, of the stream of the frame at `at`, at next_at;
        else -1."""
        if len(buffer) - next_at < FRAME_HEADER_BYTES or buffer[next_at + 5 : next_at + 9] != buffer[at + 5 : at + 9]:
            return -1
        high, low, kind = _read_header(buffer, next_at)
        size: int = high << 8 | low
        is_whole = next_at + FRAME_HEADER_BYTES + size <= len(buffer)
        return size if kind == _DATA_END and is_whole and size <= self._frame_bytes_max else -1

    def _uneven(self, buffer: bytes, at: int, kind: int, *, has_data_behind: bool) -> Run | None:
        if has_data_behind:
            starts, middles, end = self._walk_pairs(buffer, at)
        else:
            starts, end = self._walk(buffer, at, kind)
            middles = []
        n = len(starts) - 1
        if n < UNEVEN_UNITS_MIN:
            return None
        data = np.frombuffer(buffer, np.uint8)
        edges = np.array(starts, np.int64)
        ids = rows_at(data, edges[:-1] + 5, 4).view(">u4").reshape(n).astype(np.int64) & STREAM_ID_MAX
        frame_ends = edges[1:]
        if has_data_behind:
            data_at = np.array(middles, np.int64)
            data_ids = rows_at(data, data_at + 5, 4).view(">u4").reshape(n) & STREAM_ID_MAX
            n = _first_equal(ids, data_ids.astype(np.int64))
            if n < UNEVEN_UNITS_MIN:
                return None
            ids, frame_ends, end = ids[:n], data_at[:n], int(edges[n])
        run = Run(buffer, ids, end=end, first_end=int(frame_ends[0]), has_end=kind != _HEADERS_OPEN or has_data_behind)
        payloads = edges[:n] + FRAME_HEADER_BYTES
        if kind == _DATA_END:
            run.body_starts, run.body_sizes = payloads, frame_ends - payloads
            return run
        run.block_starts, run.block_ends = payloads, frame_ends
        if has_data_behind:
            run.body_starts = frame_ends + FRAME_HEADER_BYTES
            run.body_sizes = edges[1 : n + 1] - run.body_starts
        return run

    def _walk(self, buffer: bytes, at: int, wanted: int) -> tuple[list[int], int]:
        """Where the frames of one kind begin that follow each other whole from `at` on, and the end of the last."""
        starts = [at]
        last = len(buffer) - FRAME_HEADER_BYTES
        limit = self._walk_units + 1
        while at <= last and len(starts) < limit:
            high, low, kind = _read_header(buffer, at)
            size = high << 8 | low
            at += FRAME_HEADER_BYTES + size
            if kind != wanted or at > last + FRAME_HEADER_BYTES or size > self._frame_bytes_max:
                break
            starts.append(at)
        return starts, starts[-1]

    def _walk_pairs(self, buffer: bytes, at: int) -> tuple[list[int], list[int], int]:
        """The same for pairs of HEADERS and DATA: also where each DATA frame begins."""
        starts = [at]
        middles: list[int] = []
        end = len(buffer)
        limit = self._walk_units + 1
        size_max = self._frame_bytes_max
        while len(starts) < limit and end - at >= 2 * FRAME_HEADER_BYTES:
            high, low, kind = _read_header(buffer, at)
            size = high << 8 | low
            middle = at + FRAME_HEADER_BYTES + size
            if kind != _HEADERS_OPEN or size > size_max or end - middle < FRAME_HEADER_BYTES:
                break
            high, low, kind = _read_header(buffer, middle)
            size = high << 8 | low
            at = middle + FRAME_HEADER_BYTES + size
            if kind != _DATA_END or size > size_max or at > end:
                break
            middles.append(middle)
            starts.append(at)
        return starts, middles, starts[-1]


def _first_equal(a: I64, b: I64) -> int:
    """How many elements from the first are equal."""
    first = (a != b).tobytes().find(1)
    return len(a) if first < 0 else first


def _even(buffer: bytes, at: int, period: int, first_size: int, body_size: int, kind: int) -> Run | None:
    """period: bytes of the first unit; first_size: of its first frame; body_size: of its DATA, -1 without."""
    rows = min((len(buffer) - at) // period, max(2 * EVEN_UNITS_MIN, _EVEN_BYTES_MAX // period))
    if rows < EVEN_UNITS_MIN:
        return None
    block_size = 0 if kind == _DATA_END else first_size - FRAME_HEADER_BYTES
    flat = np.frombuffer(buffer, np.uint8, rows * period, at)
    is_equal = (flat[period:] == flat[:-period]).reshape(rows - 1, period)
    is_equal[:, 5:9] = True
    has_pair = period > first_size
    if has_pair:
        # The id behind is compared below; END_STREAM and the length were compared here.
        is_equal[:, first_size + 5 :] = True
    elif body_size >= 0:
        is_equal[:, FRAME_HEADER_BYTES:] = True
    first_bad = is_equal.tobytes().find(0)
    n = rows if first_bad < 0 else first_bad // period + 1
    if n < EVEN_UNITS_MIN:
        return None
    ids = _ids(buffer, at, n, period)
    if has_pair:
        n = _first_equal(ids, _ids(buffer, at + first_size, n, period))
        if n < EVEN_UNITS_MIN:
            return None
        ids = ids[:n]
    run = Run(
        buffer, ids, end=at + n * period, first_end=at + first_size, has_end=body_size >= 0 or kind == _HEADERS_END
    )
    if kind != _DATA_END:
        run.block = buffer[at + FRAME_HEADER_BYTES : at + FRAME_HEADER_BYTES + block_size]
    if body_size >= 0:
        run.body_starts = np.arange(at + period - body_size, run.end, period) if body_size else np.zeros(n, np.int64)
        run.body_sizes = np.full(n, body_size, np.int64)
        run.body_size = body_size
    return run


def _ids(buffer: bytes, at: int, n: int, period: int) -> I64:
    """(n,) stream ids of frames at `at`, `at + period`, ..."""
    ids: np.ndarray[tuple[int], np.dtype[np.uint32]] = np.ndarray((n,), ">u4", buffer, at + 5, (period,))
    return ids.astype(np.int64) & STREAM_ID_MAX
