"""Bytes that no HTTP/2 server may send, by form. Written by hand, because `h2` and `hyperframe` refuse to make them.

Source: RFC 9113 sections 4.2, 5.1, 6.5, 6.9, 6.10, 8.4 and 10.5.1; RFC 7541 sections 4.3, 6.1 and 7.3. Each form says
with which code a client has to end the connection, or which codes it may choose from.
"""

from __future__ import annotations

import struct
from typing import Literal, get_args

from hpack.hpack import encode_integer

Form = Literal[
    "frame_size",
    "settings_length",
    "settings_value",
    "window_overflow",
    "idle_stream",
    "push_promise",
    "interrupted_block",
    "empty_continuations",
    "hpack_index",
    "hpack_size_update",
    "hpack_bomb",
    "http1",
]
FORMS: tuple[Form, ...] = get_args(Form)

_DATA, _HEADERS, _SETTINGS, _PUSH_PROMISE, _PING, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 4, 5, 6, 8, 9
_END_STREAM, _END_HEADERS = 0x1, 0x4
_WINDOW_MAX = 2**31 - 1
_FRAME_BYTES_MAX = 16_384  # what a client accepts that has announced nothing else
_IDLE_STREAM_ID = 2**31 - 1  # odd, and far beyond any that a client has opened
_N_EMPTY = 10_000  # CONTINUATION frames: enough for any limit, 90 KB
_STATUS_200 = b"\x88"
_ACCEPT_ENCODING = b"\x90"  # static entry 16: one byte stands for 28 (60 with the overhead that limits count)
_BOMB_NAME = b"x-bomb"


def malformed(form: Form, stream_id: int, header_table_bytes: int) -> bytes:
    """What is sent instead of the answer on `stream_id`.

    header_table_bytes: the client's SETTINGS_HEADER_TABLE_SIZE, which says how much a bomb can put into its table.
    """
    match form:
        case "frame_size":
            return _frame(_DATA, 0, stream_id, bytes(_FRAME_BYTES_MAX + 1))
        case "settings_length":
            return _frame(_SETTINGS, 0, 0, bytes(5))
        case "settings_value":
            return _frame(_SETTINGS, 0, 0, struct.pack(">HL", 4, 2**31))  # INITIAL_WINDOW_SIZE
        case "window_overflow":
            return _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">L", _WINDOW_MAX)) * 2
        case "idle_stream":
            return _frame(_HEADERS, _END_HEADERS | _END_STREAM, _IDLE_STREAM_ID, _STATUS_200)
        case "push_promise":
            return _frame(_PUSH_PROMISE, _END_HEADERS, stream_id, struct.pack(">L", 2) + _STATUS_200)
        case "interrupted_block":
            return _frame(_HEADERS, 0, stream_id, _STATUS_200) + _frame(_PING, 0, 0, bytes(8))
        case "empty_continuations":
            return _frame(_HEADERS, 0, stream_id, _STATUS_200) + _frame(_CONTINUATION, 0, stream_id, b"") * _N_EMPTY
        case "hpack_index":
            return _head(stream_id, _indexed(1_000_000))
        case "hpack_size_update":
            return _head(stream_id, _prefixed(header_table_bytes + 1, 5, 0x20) + _STATUS_200)
        case "hpack_bomb":
            return _head(stream_id, _bomb(header_table_bytes))
        case "http1":
            return b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


def _bomb(header_table_bytes: int) -> bytes:
    """A block of one frame that stands for megabytes: one long entry of the dynamic table, named again and again.

    A client without a dynamic table gets the longest entry of the static one instead.
    """
    first = _prefixed(header_table_bytes, 5, 0x20)  # a client that has lowered the limit wants to hear of it
    value_bytes = min(header_table_bytes - 32 - len(_BOMB_NAME), _FRAME_BYTES_MAX // 2)
    if value_bytes > 0:
        first += b"\x40" + _string(_BOMB_NAME) + _string(b"x" * value_bytes)
        named = _indexed(62)  # the newest dynamic entry
    else:
        named = _ACCEPT_ENCODING
    return first + _STATUS_200 + named * (_FRAME_BYTES_MAX - len(first) - 1)


def _head(stream_id: int, block: bytes) -> bytes:
    return _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream_id, block)


def _indexed(index: int) -> bytes:
    return _prefixed(index, 7, 0x80)


def _string(text: bytes) -> bytes:
    return _prefixed(len(text), 7, 0) + text


def _prefixed(value: int, prefix_bits: int, mark: int) -> bytes:
    """An integer of RFC 7541 section 5.1 with `mark` in the bits above its prefix."""
    encoded = encode_integer(value, prefix_bits)
    encoded[0] |= mark
    return bytes(encoded)


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload
