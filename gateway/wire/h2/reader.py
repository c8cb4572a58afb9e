"""Payloads of received frames: padding, priority fields, header blocks in pieces (RFC 9113 sections 6.1, 6.2, 6.10)."""

from __future__ import annotations

from gateway.errors import RemoteProtocolError
from gateway.wire.h2.frames import PADDED, PRIORITY_FIELDS, ErrorCode

_PRIORITY_BYTES = 5


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
