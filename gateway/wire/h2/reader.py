"""Payloads of received frames, and runs: stretches of a buffer in which one pattern of frames repeats.

A server that answers a thousand requests alike sends the same HEADERS (and DATA of the same length) a thousand times,
with other stream ids. Such a stretch is a 2-D array whose columns are compared at once:

    | len type flags | id | block ...        |                              HEADERS + END_STREAM, or without an end
    | len type flags | id | block ... | len type flags | id | body ... |    HEADERS, DATA + END_STREAM
    | len type flags | id | body ... |                                      DATA + END_STREAM
      equal                 equal       equal            = id  free
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gateway.columns import I64, U8, Bool
from gateway.errors import RemoteProtocolError
from gateway.wire.h2.frames import (
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_BYTES,
    PADDED,
    PRIORITY_FIELDS,
    ErrorCode,
    FrameType,
)

_PRIORITY_BYTES = 5
#: Fewer rows are not worth the array calls (about 20 us; a frame by itself costs 3).
_RUN_ROWS_MIN = 8
#: Rows compared before the whole stretch is, so that short runs in a large buffer stay cheap.
_RUN_ROWS_FIRST = 64


def strip_padding(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without pad length and padding (RFC 9113 section 6.1).

    Raises RemoteProtocolError when the padding is longer than the payload.
    """
    if not flags & PADDED:
        return payload
    if not payload:
        raise RemoteProtocolError("padded frame without a pad length", wire_code=ErrorCode.FRAME_SIZE_ERROR)
    padding = payload[0]
    if padding >= len(payload):
        text = f"{padding} bytes of padding in a frame of {len(payload)}"
        raise RemoteProtocolError(text, wire_code=ErrorCode.PROTOCOL_ERROR)
    return payload[1 : len(payload) - padding]


def strip_priority(flags: int, payload: bytes) -> bytes:
    """The header block fragment behind deprecated priority fields (section 6.2)."""
    if not flags & PRIORITY_FIELDS:
        return payload
    if len(payload) < _PRIORITY_BYTES:
        raise RemoteProtocolError("HEADERS too short for its priority", wire_code=ErrorCode.FRAME_SIZE_ERROR)
    return payload[_PRIORITY_BYTES:]


class BlockAssembly:
    """A header block under way over HEADERS and CONTINUATION frames (section 6.10)."""

    __slots__ = ("_block", "_bytes_max", "_frames", "flags", "stream_id")

    #: A block of the largest size in frames of a tenth of the smallest MAX_FRAME_SIZE; more are a flood of
    #: (nearly) empty CONTINUATIONs (CVE-2024-27316 and its kin).
    FRAMES_MAX = 64

    def __init__(self, stream_id: int, flags: int, bytes_max: int) -> None:
        self.stream_id = stream_id
        self.flags = flags
        self._bytes_max = bytes_max
        self._block = bytearray()
        self._frames = 0

    def add(self, fragment: bytes) -> None:
        """Raises RemoteProtocolError when the block is too large or comes in too many pieces."""
        self._frames += 1
        self._block += fragment
        if len(self._block) > self._bytes_max or self._frames > self.FRAMES_MAX:
            text = f"header block over {self._bytes_max} bytes or {self.FRAMES_MAX} frames"
            raise RemoteProtocolError(text, wire_code=ErrorCode.ENHANCE_YOUR_CALM)

    def block(self) -> bytes:
        return bytes(self._block)


class Run(NamedTuple):
    """n repetitions of one pattern.

    ids: (n,) int64. block: the header block all share, None in a run of DATA. has_end: the streams end.
    bodies: (n, k) uint8 view of the buffer, None in a run of HEADERS. size: bytes of the whole run;
    first_frame_size: bytes of its first frame.
    """

    n: int
    ids: I64
    block: bytes | None
    bodies: U8 | None
    has_end: bool
    size: int
    first_frame_size: int


def find_run(buffer: bytes, at: int, length: int, frame_bytes_max: int) -> Run | None:
    """The run that begins with the whole HEADERS or DATA frame at `at`, or None when there is none worth it.

    length: of that frame's payload, known to be within frame_bytes_max (ours).
    """
    frame_type, flags = buffer[at + 3], buffer[at + 4]
    end = len(buffer)
    first_size = FRAME_HEADER_BYTES + length
    period = first_size
    body_length = -1
    if frame_type == FrameType.DATA:
        if flags != END_STREAM:
            return None
        body_length = length
    elif flags == END_HEADERS:
        body_length = _joined_data_length(buffer, at, at + first_size)
        if body_length > frame_bytes_max:
            return None
        if body_length >= 0:
            period += FRAME_HEADER_BYTES + body_length
    elif flags != END_HEADERS | END_STREAM:
        return None
    rows = (end - at) // period
    if rows < _RUN_ROWS_MIN or buffer[at : at + 5] != buffer[at + period : at + period + 5]:
        return None
    block_length = 0 if frame_type == FrameType.DATA else length
    if buffer[at + 9 : at + 9 + block_length] != buffer[at + period + 9 : at + period + 9 + block_length]:
        return None
    view = np.frombuffer(buffer, np.uint8, rows * period, at).reshape(rows, period)
    n = _equal_rows(view[:_RUN_ROWS_FIRST], block_length, has_data_behind=period > first_size)
    if n == _RUN_ROWS_FIRST < rows:
        n = _equal_rows(view, block_length, has_data_behind=period > first_size)
    if n < _RUN_ROWS_MIN:
        return None
    view = view[:n]
    ids = np.ascontiguousarray(view[:, 5:9]).view(">u4").reshape(n).astype(np.int64) & 0x7FFFFFFF
    return Run(
        n=n,
        ids=ids,
        block=None if frame_type == FrameType.DATA else buffer[at + 9 : at + first_size],
        bodies=view[:, period - body_length :] if body_length >= 0 else None,
        has_end=body_length >= 0 or flags != END_HEADERS,
        size=n * period,
        first_frame_size=first_size,
    )


def _joined_data_length(buffer: bytes, at: int, next_at: int) -> int:
    """The length of a DATA frame with END_STREAM, unpadded, of the same stream, at next_at; else -1."""
    header = buffer[next_at : next_at + FRAME_HEADER_BYTES]
    is_data = len(header) == FRAME_HEADER_BYTES and header[3] == FrameType.DATA and header[4] == END_STREAM
    if is_data and header[5:9] == buffer[at + 5 : at + 9]:
        return int.from_bytes(header[:3], "big")
    return -1


def _equal_rows(view: U8, block_length: int, *, has_data_behind: bool) -> int:
    """How many rows from the first are like it in all that must be equal."""
    first = view[0]
    data_at = FRAME_HEADER_BYTES + block_length
    equal_end = data_at + 5 if has_data_behind else data_at
    good: Bool = (view[:, :5] == first[:5]).all(axis=1)
    if equal_end > FRAME_HEADER_BYTES:
        good &= (view[:, 9:equal_end] == first[9:equal_end]).all(axis=1)
    if has_data_behind:
        good &= (view[:, data_at + 5 : data_at + 9] == view[:, 5:9]).all(axis=1)
    return len(view) if bool(good.all()) else int(np.argmin(good))
