"""Journal records that begin with a header, as those of marks, receipts and audiences do.

record = header length (4 bytes, little-endian) | header (MessagePack) | columns
"""

from __future__ import annotations

import struct
from typing import TypeVar

import msgspec

from gateway.store.ports import JournalRecord

_LENGTH = struct.Struct("<I")
_H = TypeVar("_H")


def headed_record(kind: int, header: bytes, *columns: bytes | memoryview) -> JournalRecord:
    return JournalRecord(kind, (_LENGTH.pack(len(header)), header, *columns))


def read_header(
    payload: bytes | memoryview, headers: msgspec.msgpack.Decoder[_H], what: str
) -> tuple[memoryview, _H, int]:
    """(the payload, its header, where the columns begin). Raises ValueError, which begins with `what`."""
    view = memoryview(payload)
    if len(view) < _LENGTH.size:
        raise ValueError(f"{what} is {len(view)} bytes, expected a header length")
    (size,) = _LENGTH.unpack_from(view)
    at = _LENGTH.size + size
    try:
        return view, headers.decode(view[_LENGTH.size : at]), at
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{what}: {error}") from error
