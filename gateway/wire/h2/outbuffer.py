"""Bytes that wait to be taken by `data_to_send`."""

from __future__ import annotations

from gateway.errors import RemoteProtocolError
from gateway.wire.h2.frames import ErrorCode


class OutBuffer:
    """Requests are bounded by streams and windows; what only answers the peer is bounded by a count of frames."""

    __slots__ = ("_chunks", "_control_frames", "_control_frames_max", "size")

    def __init__(self, control_frames_max: int) -> None:
        self._chunks: list[bytes | bytearray] = []
        self._control_frames = 0
        self._control_frames_max = control_frames_max
        self.size = 0

    def append(self, chunk: bytes | bytearray) -> None:
        self._chunks.append(chunk)
        self.size += len(chunk)

    def answer(self, chunk: bytes) -> None:
        """Appends a frame the peer made us send.

        Raises RemoteProtocolError (ENHANCE_YOUR_CALM) when it makes us send more of them than it reads.
        """
        self._control_frames += 1
        if self._control_frames > self._control_frames_max:
            text = f"{self._control_frames} answers to control frames wait, limit {self._control_frames_max}"
            raise RemoteProtocolError(text, wire_code=ErrorCode.ENHANCE_YOUR_CALM)
        self.append(chunk)

    def take(self) -> bytes | bytearray:
        if not self._chunks:
            return b""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._control_frames = 0
        self.size = 0
        return data
