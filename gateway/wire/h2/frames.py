"""Layout of HTTP/2 frames (RFC 9113 sections 4.1, 6 and 7).

+-----------------------------------------------+
|                 Length (24)                   |   0..2
+---------------+---------------+---------------+
|   Type (8)    |   Flags (8)   |                   3, 4
+-+-------------+---------------+-------------------------------+
|R|                 Stream Identifier (31)                      |   5..8
+=+=============================================================+
"""

from __future__ import annotations

import enum
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER_BYTES = 9
STREAM_ID_MAX = (1 << 31) - 1
WINDOW_MAX = (1 << 31) - 1
WINDOW_DEFAULT = 65_535
FRAME_BYTES_MIN = 1 << 14
FRAME_BYTES_MAX = (1 << 24) - 1
CLIENT_STREAM_ID_FIRST = 1


class FrameType(enum.IntEnum):
    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


# Flags; END_STREAM and ACK share a bit on different types.
END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FIELDS = 0x20


class ErrorCode(enum.IntEnum):
    """RFC 9113 section 7. Codes we do not know travel as plain numbers."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


_HEADER = struct.Struct(">HBBBL")


def frame_header(length: int, frame_type: int, flags: int, stream_id: int) -> bytes:
    return _HEADER.pack(length >> 8, length & 0xFF, frame_type, flags, stream_id)


def frame(frame_type: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return frame_header(len(payload), frame_type, flags, stream_id) + payload


def settings_frame(values: dict[int, int]) -> bytes:
    payload = b"".join(struct.pack(">HL", key, value) for key, value in values.items())
    return frame(FrameType.SETTINGS, 0, 0, payload)


def settings_ack() -> bytes:
    return frame(FrameType.SETTINGS, ACK, 0)


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(FrameType.WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(FrameType.RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def ping(opaque: bytes, *, is_ack: bool) -> bytes:
    return frame(FrameType.PING, ACK if is_ack else 0, 0, opaque)


def goaway(last_stream_id: int, code: int, debug_data: bytes = b"") -> bytes:
    return frame(FrameType.GOAWAY, 0, 0, struct.pack(">LL", last_stream_id, code) + debug_data)


def split_block(stream_id: int, flags: int, block: bytes, frame_bytes_max: int) -> bytes:
    """A header block as HEADERS and as many CONTINUATION frames as it takes; END_HEADERS on the last."""
    first, rest = block[:frame_bytes_max], block[frame_bytes_max:]
    out = [frame(FrameType.HEADERS, flags | (0 if rest else END_HEADERS), stream_id, first)]
    while rest:
        part, rest = rest[:frame_bytes_max], rest[frame_bytes_max:]
        out.append(frame(FrameType.CONTINUATION, 0 if rest else END_HEADERS, stream_id, part))
    return b"".join(out)


def split_data(stream_id: int, flags: int, body: bytes, frame_bytes_max: int) -> bytes:
    """A body as DATA frames; `flags` stand on the last. An empty body is one empty frame."""
    if len(body) <= frame_bytes_max:
        return frame(FrameType.DATA, flags, stream_id, body)
    out = []
    for at in range(0, len(body), frame_bytes_max):
        part = body[at : at + frame_bytes_max]
        out.append(frame(FrameType.DATA, flags if at + len(part) == len(body) else 0, stream_id, part))
    return b"".join(out)
