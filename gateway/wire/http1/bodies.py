"""Bodies of answers (RFC 9112 sections 6 and 7): bytes in, until the end of the message.

A reader is fed and gives back what is beyond its message (None while it wants more). It keeps the first
`body_bytes_max` bytes and counts the rest.
"""

from __future__ import annotations

import enum
import re

from gateway.errors import RemoteProtocolError
from gateway.wire.http1.heads import parse_trailers
from gateway.wire.http1.settings import Http1Config

#: A chunk's size in hex with its extensions; nobody has a use for more.
_CHUNK_LINE_BYTES_MAX = 256
#: RFC 9112 section 7.1.1: extensions are ignored. 15 digits stay below any overflow.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")


class Kept:
    """The body so far. size: all of its bytes."""

    __slots__ = ("_data", "_kept_max", "_read_max", "size")

    def __init__(self, config: Http1Config) -> None:
        self._kept_max = config.body_bytes_max
        self._read_max = config.body_bytes_read_max
        self._data = b""
        self.size = 0

    def add(self, data: bytes) -> None:
        """Raises RemoteProtocolError when the body is larger than we read."""
        self.size += len(data)
        if len(self._data) < self._kept_max:
            self._data += data[: self._kept_max - len(self._data)]
        if self.size > self._read_max:
            raise RemoteProtocolError(f"body is over {self._read_max} bytes (body_bytes_read_max)")

    @property
    def data(self) -> bytes:
        return self._data

    @property
    def cut(self) -> int:
        return min(self.size, self._read_max) - len(self._data)


class LengthBody:
    """So many bytes."""

    __slots__ = ("_left", "kept")

    def __init__(self, kept: Kept, length: int) -> None:
        self.kept = kept
        self._left = length

    def receive(self, data: bytes) -> bytes | None:
        part = data[: self._left]
        self._left -= len(part)
        self.kept.add(part)
        return data[len(part) :] if self._left == 0 else None


class CloseBody:
    """All there is until the connection ends."""

    __slots__ = ("kept",)

    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    def receive(self, data: bytes) -> bytes | None:
        self.kept.add(data)
        return None


class _At(enum.Enum):
    SIZE = "size"
    DATA = "data"
    DATA_END = "data_end"
    TRAILERS = "trailers"


class ChunkedBody:
    """Chunks and trailers: SIZE -> DATA -> DATA_END -> SIZE ..., and after a size of 0 TRAILERS until an empty line."""

    __slots__ = ("_at", "_header_bytes_max", "_left", "_rest", "kept")

    def __init__(self, kept: Kept, header_bytes_max: int) -> None:
        self.kept = kept
        self._header_bytes_max = header_bytes_max
        self._at = _At.SIZE
        self._left = 0
        #: A line, or trailers, that have not come to their end.
        self._rest = b""

    def receive(self, data: bytes) -> bytes | None:
        """Raises RemoteProtocolError for what are no chunks."""
        data, self._rest = self._rest + data, b""
        while True:
            match self._at:
                case _At.SIZE:
                    line, found, after = data.partition(b"\r\n")
                    if not found:
                        self._keep(data, _CHUNK_LINE_BYTES_MAX, "chunk size")
                        return None
                    self._on_size(line)
                    data = after
                case _At.DATA:
                    part = data[: self._left]
                    self._left -= len(part)
                    self.kept.add(part)
                    data = data[len(part) :]
                    if self._left:
                        return None
                    self._at = _At.DATA_END
                case _At.DATA_END:
                    if len(data) < 2:
                        if data not in b"\r":
                            raise RemoteProtocolError("chunk does not end with CRLF")
                        self._keep(data, 2, "end of chunk")
                        return None
                    if not data.startswith(b"\r\n"):
                        raise RemoteProtocolError("chunk does not end with CRLF")
                    data = data[2:]
                    self._at = _At.SIZE
                case _At.TRAILERS:
                    if data.startswith(b"\r\n"):
                        return data[2:]
                    block, found, after = data.partition(b"\r\n\r\n")
                    if not found:
                        self._keep(data, self._header_bytes_max, "trailers")
                        return None
                    if len(block) > self._header_bytes_max:
                        raise RemoteProtocolError(f"trailers are {len(block)} bytes, limit {self._header_bytes_max}")
                    parse_trailers(block)
                    return after

    def _on_size(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None or len(line) > _CHUNK_LINE_BYTES_MAX:
            raise RemoteProtocolError(f"chunk size is {line[:64]!r}")
        self._left = int(match[1], 16)
        self._at = _At.DATA if self._left else _At.TRAILERS

    def _keep(self, data: bytes, limit: int, what: str) -> None:
        # Three more than the limit: all but the last byte of CRLF CRLF may have come.
        if len(data) > limit + 3:
            raise RemoteProtocolError(f"{what} is over {limit} bytes")
        self._rest = data
