"""Packing: the parts of a ledger page as the archive keeps them, and back. Knows types of columns, not what they mean.

    packed page = version 2 (1 byte) | CRC-32 of the rest (4 bytes) | header length (4 bytes) | header | bodies
    before that = version 1 (1 byte) | zlib of the bytes

Most of a page is columns that are one value throughout, small numbers, or random (device ids, hashes). zlib costs 20 to
30 ns a byte on the last two and gains little or nothing, three quarters of all that an archive cost. So each part goes
by what it is, at one or two ns a byte:

    constant   every element is the same: it is kept once
    narrow     numbers of which the smallest is taken off, in the fewest bytes that hold the rest
    text       zlib; also columns that are mostly runs, on which it is fast
    plain      what is left

A page of a few rows is headers above all: zlib over everything, as version 1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

_WHOLE, _PARTS = b"\x01", b"\x02"
_CHECKSUM = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
#: Level 1: runs shrink to nothing at any level.
_LEVEL = 1
#: Pages below that are packed whole: 20 us, and parts would cost more than that in their headers alone.
_PARTS_BYTES_MIN = 8 << 10
#: One element in so many differs from the one before it: runs.
_RUN_LENGTH = 16
_PLAIN, _TEXT, _CONSTANT, _NARROW = range(4)
_Numbers = np.ndarray[Any, Any]


class _Part(msgspec.Struct, array_like=True):
    """kept: bytes of its body. size: bytes unpacked. item: bytes of an element; low, width: of a narrow one, what was
    taken off and the bytes of what is left."""

    kind: int
    kept: int
    size: int
    item: int = 1
    low: int = 0
    width: int = 1


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[_Part])


def pack_page(parts: Sequence[bytes | memoryview]) -> bytes:
    """The page's bytes packed. Lets other threads run while it computes."""
    if sum(memoryview(part).nbytes for part in parts) < _PARTS_BYTES_MIN:
        return _WHOLE + zlib.compress(b"".join(parts), _LEVEL)
    packed = [_pack(part) for part in parts]
    header = _ENCODER.encode([part for part, _ in packed])
    rest = b"".join([_LENGTH.pack(len(header)), header, *(body for _, body in packed)])
    return b"".join([_PARTS, _CHECKSUM.pack(zlib.crc32(rest)), rest])


def unpack_page(data: bytes, behind: Sequence[bytes] = ()) -> bytes:
    """The bytes of all parts, and what is to stand behind them. Lets other threads run. Raises ValueError for damaged
    bytes."""
    if data[:1] == _PARTS:
        return b"".join([*_bodies(memoryview(data)[1:]), *behind])
    if data[:1] != _WHOLE:
        raise ValueError(f"page has version {data[:1].hex()}, expected {_WHOLE.hex()} or {_PARTS.hex()}")
    return b"".join([_inflate(memoryview(data)[1:]), *behind])


def _pack(part: bytes | memoryview) -> tuple[_Part, bytes | memoryview]:
    view = memoryview(part)
    size, item = view.nbytes, view.itemsize
    if isinstance(part, bytes):
        return _text(part, size, item)
    numbers: _Numbers = np.frombuffer(view, f"<u{item}")
    if not size:
        return _Part(_PLAIN, 0, 0), b""
    low, high = int(numbers.min()), int(numbers.max())
    if low == high:
        return _Part(_CONSTANT, item, size, item), numbers[:1].tobytes()
    if np.count_nonzero(numbers[1:] != numbers[:-1]) * _RUN_LENGTH < len(numbers):
        return _text(numbers.tobytes(), size, item)
    width = next(width for width in (1, 2, item) if high - low < 1 << 8 * width)
    if width < item:
        narrow = (numbers - numbers.dtype.type(low)).astype(f"<u{width}")
        return _Part(_NARROW, narrow.nbytes, size, item, low, width), narrow.data
    return _Part(_PLAIN, size, size, item), view


def _text(data: bytes, size: int, item: int) -> tuple[_Part, bytes]:
    packed = zlib.compress(data, _LEVEL)
    return (_Part(_TEXT, len(packed), size, item), packed) if len(packed) < size else (_Part(_PLAIN, size, size), data)


def _bodies(data: memoryview) -> list[bytes | memoryview]:
    rest = data[_CHECKSUM.size :]
    try:
        (checksum,) = _CHECKSUM.unpack_from(data)
        if checksum != zlib.crc32(rest):
            raise ValueError("page does not agree with its checksum")
        (size,) = _LENGTH.unpack_from(rest)
        at = _LENGTH.size + size
        header = _DECODER.decode(rest[_LENGTH.size : at])
    except (struct.error, msgspec.DecodeError) as error:
        raise ValueError(f"page: {error}") from error
    bodies: list[bytes | memoryview] = []
    for part in header:
        bodies.append(_unpack(part, rest[at : at + part.kept]))
        at += part.kept
    return bodies


def _unpack(part: _Part, body: memoryview) -> bytes | memoryview:
    if part.kind == _CONSTANT:
        return bytes(body) * (part.size // part.item)
    if part.kind == _NARROW:
        wide: _Numbers = np.frombuffer(body, f"<u{part.width}").astype(f"<u{part.item}")
        wide += wide.dtype.type(part.low)
        return wide.tobytes()
    return _inflate(body) if part.kind == _TEXT else body


def _inflate(data: memoryview) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error as error:
        raise ValueError(f"page: {error}") from error
