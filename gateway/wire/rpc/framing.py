"""Frames: a 4-byte big-endian length, then that many bytes of payload. Shared by both session machines.

A reader that holds no partial frame holds no buffer: ten thousand silent connections cost one small object each.
A partial frame costs what has arrived of it, never what its length promises; chunks are joined once, when it is whole.
"""

from __future__ import annotations

from gateway.errors import RemoteProtocolError

HEADER_BYTES = 4
#: Chunks below this size are collected in one buffer of up to so many bytes: a peer that sends single bytes must not
#: cost an object for each.
_SMALL_BYTES = 4 << 10
_COLLECTED_BYTES_MAX = 64 << 10


class FrameTooLarge(RemoteProtocolError):
    """The peer announced a frame over the limit. Nothing after it can be read."""

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(f"frame is {size} bytes, limit {limit}")


def frame(payload: bytes) -> bytes:
    """The payload with its length before it. The caller has checked the peer's limit."""
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


class FrameReader:
    """Cuts a stream of bytes into payloads. Each payload is its own bytes object: columns may be views of it.

    `next_payload()` takes them one by one, so that the limit can rise between two frames of one chunk.
    """

    __slots__ = ("_at", "_data", "_held", "_partial", "_wanted", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        #: Bytes not yet looked at, and how far they are used up.
        self._data = b""
        self._at = 0
        #: Start of a frame whose end has not arrived, header included; empty when there is none. A complete header is
        #: all in the first piece.
        self._partial: list[bytes | bytearray] = []
        #: Bytes in these pieces.
        self._held = 0
        #: Size of the partial frame with its header, 0 while the header itself is incomplete.
        self._wanted = 0

    @property
    def has_partial(self) -> bool:
        """Bytes of an incomplete frame are held."""
        return bool(self._partial)

    @property
    def buffered_bytes(self) -> int:
        return len(self._data) - self._at + self._held

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Takes a chunk; call `next_payload()` until it gives None before feeding the next one."""
        rest = self._data[self._at :] if self._at < len(self._data) else b""
        self._data = rest + bytes(data) if rest else bytes(data)
        self._at = 0

    def next_payload(self) -> bytes | None:
        """The next whole payload, or None until more bytes come.

        Raises FrameTooLarge as soon as the length prefix is known; the reader is of no use afterwards.
        """
        if self._partial:
            return self._go_on()
        data, at = self._data, self._at
        left = len(data) - at
        if left >= HEADER_BYTES:
            start = at + HEADER_BYTES
            size = self._check(int.from_bytes(data[at:start], "big"))
            if left >= HEADER_BYTES + size:
                self._at = start + size
                return data[start : start + size]
            self._wanted = HEADER_BYTES + size
        self._move(left)
        return None

    def clear(self) -> None:
        """Forgets everything held: the connection has ended."""
        self._data, self._at, self._wanted = b"", 0, 0
        self._partial, self._held = [], 0

    def _check(self, size: int) -> int:
        if size > self.frame_bytes_max:
            raise FrameTooLarge(size, self.frame_bytes_max)
        return size

    def _go_on(self) -> bytes | None:
        if not self._wanted:
            self._move(HEADER_BYTES - self._held)
            if self._held < HEADER_BYTES:
                return None
            self._wanted = HEADER_BYTES + self._check(int.from_bytes(self._partial[0], "big"))
        self._move(self._wanted - self._held)
        if self._held < self._wanted:
            return None
        first, *others = self._partial
        self._partial, self._held, self._wanted = [], 0, 0
        return b"".join([memoryview(first)[HEADER_BYTES:], *others])

    def _move(self, count: int) -> None:
        """Up to count bytes go from the chunk to the partial frame; a chunk that goes whole is not copied."""
        data, at = self._data, self._at
        end = min(at + count, len(data))
        size = end - at
        partial = self._partial
        if size >= _SMALL_BYTES:
            partial.append(data[at:end])
        elif size:
            last = partial[-1] if partial else None
            if isinstance(last, bytearray) and len(last) < _COLLECTED_BYTES_MAX:
                last += memoryview(data)[at:end]
            else:
                partial.append(bytearray(memoryview(data)[at:end]))
        self._held += size
        self._at = end
        if end == len(data):
            self._data, self._at = b"", 0
