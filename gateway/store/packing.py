"""Packing: the parts of a ledger page as the archive keeps them, and back. Knows types of columns, not what they mean.

    packed page = version 3 (1 byte) | CRC-32 of the header (4 bytes) | header length (4 bytes) | header | bodies
    before that = version 2 (1 byte) | CRC-32 of the rest (4 bytes) | header length (4 bytes) | header | bodies
    small ones  = version 1 (1 byte) | zlib of the bytes

Most of a page is columns that are one value throughout, small numbers, or random (device ids, hashes). zlib costs 20 to
30 ns a byte on the last two and gains little or nothing, three quarters of all that an archive cost. So each part goes
by what it is, at one or two ns a byte:

    constant   every element is the same: it is kept once
    narrow     numbers of which the smallest is taken off, in the fewest bytes that hold the rest
    text       zlib; also columns that are mostly runs, on which it is fast
    plain      what is left

A body stands in blocks with a checksum each, texts in blocks that were deflated each by itself: a few rows of a page
are read (`PackedParts`) without the rest of it. The smallest bodies stand first, since SQLite finds a place in a large
value by walking to it.

A page of a few rows is headers above all: zlib over everything, as version 1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

_WHOLE, _PARTS, _BLOCKS = b"\x01", b"\x02", b"\x03"
_CHECKSUM = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
#: Level 1: runs shrink to nothing at any level.
_LEVEL = 1
#: Pages below that are packed whole: 20 us, and parts would cost more than that in their headers alone.
_PARTS_BYTES_MIN = 8 << 10
#: Bytes of a block: what is read for one row, of each column. A checksum of it takes 2 us.
_BLOCK_BYTES = 4 << 10
#: Bytes of text in a block: smaller ones deflate worse, larger ones are inflated for one row, 2 us a KiB.
_TEXT_BLOCK_BYTES = 16 << 10
#: What is read at first of a page of which some rows are wanted: the headers of most.
_HEAD_BYTES = 8 << 10
#: One element in so many differs from the one before it: runs.
_RUN_LENGTH = 16
_PLAIN, _TEXT, _CONSTANT, _NARROW = range(4)
_Numbers = np.ndarray[Any, Any]


class _Part(msgspec.Struct, array_like=True):
    """kept: bytes of its body. size: bytes unpacked. item: bytes of an element; low, width: of a narrow one, what was
    taken off and the bytes of what is left. sums: CRC-32 of each block, 4 bytes each; cuts: bytes of each block of a
    text, and block what it is of."""

    kind: int
    kept: int
    size: int
    item: int = 1
    low: int = 0
    width: int = 1
    sums: bytes = b""
    cuts: list[int] = []
    block: int = 0


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[_Part])


def pack_page(parts: Sequence[bytes | memoryview]) -> bytes:
    """The page's bytes packed. Lets other threads run while it computes."""
    if sum(memoryview(part).nbytes for part in parts) < _PARTS_BYTES_MIN:
        return _WHOLE + zlib.compress(b"".join(parts), _LEVEL)
    packed = [_pack(part) for part in parts]
    header = _ENCODER.encode([part for part, _ in packed])
    bodies = [packed[index][1] for index in _order([part for part, _ in packed])]
    return b"".join([_BLOCKS, _CHECKSUM.pack(zlib.crc32(header)), _LENGTH.pack(len(header)), header, *bodies])


def _order(parts: Sequence[_Part]) -> list[int]:
    """Which parts' bodies follow each other."""
    return sorted(range(len(parts)), key=lambda index: parts[index].kept)


def unpack_page(data: bytes, behind: Sequence[bytes] = ()) -> bytes:
    """The bytes of all parts, and what is to stand behind them. Lets other threads run. Raises ValueError for damaged
    bytes."""
    if data[:1] == _BLOCKS:
        view = memoryview(data)
        found = PackedParts(lambda at, n: view[at : at + n], len(data))
        return b"".join([*(found.whole(index) for index in range(len(found.parts))), *behind])
    if data[:1] == _PARTS:
        return b"".join([*_bodies(memoryview(data)[1:]), *behind])
    if data[:1] != _WHOLE:
        raise ValueError(f"page has version {data[:1].hex()}, expected {_WHOLE.hex()} to {_BLOCKS.hex()}")
    return b"".join([_inflate(memoryview(data)[1:]), *behind])


class PackedParts:
    """The parts of a packed page, or of a few bytes of each. read: so many bytes from there on; size: of all of them.

    Raises NotInBlocks for a page of an earlier version, or a small one, and ValueError for damaged bytes; so do the
    methods.
    """

    def __init__(self, read: Callable[[int, int], bytes | memoryview], size: int) -> None:
        self._read = read
        head = read(0, min(_HEAD_BYTES, size))
        if head[:1] != _BLOCKS:
            raise NotInBlocks
        first = 1 + _CHECKSUM.size + _LENGTH.size
        if len(head) < first:
            raise ValueError(f"page is {size} bytes")
        (checksum,), (length,) = _CHECKSUM.unpack_from(head, 1), _LENGTH.unpack_from(head, 1 + _CHECKSUM.size)
        header = head[first : first + length]
        if len(header) < length:
            header = read(first, length)
        if len(header) != length or zlib.crc32(header) != checksum:
            raise ValueError("page does not agree with its checksum")
        try:
            self.parts = _DECODER.decode(header)
        except msgspec.DecodeError as error:
            raise ValueError(f"page: {error}") from error
        self._head = head
        at, self._at = first + length, [0] * len(self.parts)
        for index in _order(self.parts):
            self._at[index] = at
            at += self.parts[index].kept
        if at != size:
            raise ValueError(f"page is {size} bytes, its parts end at {at}")
        self._blocks: dict[tuple[int, int], bytes | memoryview] = {}

    def whole(self, index: int) -> bytes | memoryview:
        """All of a part, as it was given."""
        part = self.parts[index]
        body = self._read(self._at[index], part.kept)
        at, blocks = 0, []
        for number, size in enumerate(_block_sizes(part)):
            self._check(index, number, body[at : at + size])
            blocks.append(body[at : at + size])
            at += size
        if part.kind == _TEXT:
            return b"".join([_inflate(memoryview(block)) for block in blocks])
        return _unpack(part, memoryview(body))

    def some(self, index: int, start: int, stop: int) -> bytes:
        """Bytes start..stop of a part as it was given; for columns: whole elements."""
        part = self.parts[index]
        if not 0 <= start <= stop <= part.size:
            raise ValueError(f"bytes {start} to {stop} of a part of {part.size}")
        if part.kind == _CONSTANT:
            return bytes(self._body(index, 0, part.kept)) * ((stop - start) // part.item)
        if part.kind == _NARROW:
            start, stop = (each // part.item * part.width for each in (start, stop))
            narrow = self._body(index, start, stop)
            return bytes(_unpack(part, memoryview(narrow)))
        if part.kind == _PLAIN:
            return self._body(index, start, stop)
        found = []
        for number in range(start // part.block, -(-stop // part.block)):
            first = number * part.block
            found.append(self._text_block(index, number)[max(start - first, 0) : stop - first])
        return b"".join(found)

    def _body(self, index: int, start: int, stop: int) -> bytes:
        """Bytes of a body that is in blocks of one size."""
        found = []
        kept = self.parts[index].kept
        for number in range(start // _BLOCK_BYTES, -(-stop // _BLOCK_BYTES)):
            first = number * _BLOCK_BYTES
            block = self._blocks.get((index, number))
            if block is None:
                block = self._get(self._at[index] + first, min(_BLOCK_BYTES, kept - first))
                self._check(index, number, block)
                self._blocks[index, number] = block
            found.append(block[max(start - first, 0) : stop - first])
        return b"".join(found)

    def _text_block(self, index: int, number: int) -> bytes | memoryview:
        block = self._blocks.get((index, number))
        if block is None:
            cuts = self.parts[index].cuts
            packed = self._get(self._at[index] + sum(cuts[:number]), cuts[number])
            self._check(index, number, packed)
            block = self._blocks[index, number] = _inflate(memoryview(packed))
        return block

    def _get(self, at: int, n: int) -> bytes | memoryview:
        return self._head[at : at + n] if at + n <= len(self._head) else self._read(at, n)

    def _check(self, index: int, number: int, block: bytes | memoryview) -> None:
        (checksum,) = _CHECKSUM.unpack_from(self.parts[index].sums, 4 * number)
        if zlib.crc32(block) != checksum:
            raise ValueError(f"block {number} of part {index} of a page does not agree with its checksum")


class NotInBlocks(ValueError):
    """The page is read whole or not at all."""


def _block_sizes(part: _Part) -> list[int]:
    if part.kind == _TEXT:
        return part.cuts
    full, rest = divmod(part.kept, _BLOCK_BYTES)
    return [_BLOCK_BYTES] * full + ([rest] if rest else [])


def _sums(body: bytes | memoryview, sizes: Sequence[int]) -> bytes:
    view, at, sums = memoryview(body).cast("B"), 0, []
    for size in sizes:
        sums.append(_CHECKSUM.pack(zlib.crc32(view[at : at + size])))
        at += size
    return b"".join(sums)


def _pack(part: bytes | memoryview) -> tuple[_Part, bytes | memoryview]:
    made, body = _pack_body(part)
    made.sums = _sums(body, _block_sizes(made))
    return made, body


def _pack_body(part: bytes | memoryview) -> tuple[_Part, bytes | memoryview]:
    view = memoryview(part)
    size, item = view.nbytes, view.itemsize
    if isinstance(part, bytes):
        return _text(part, size, item, _TEXT_BLOCK_BYTES)
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


def _text(data: bytes, size: int, item: int, block: int = _BLOCK_BYTES) -> tuple[_Part, bytes]:
    blocks = [zlib.compress(data[at : at + block], _LEVEL) for at in range(0, len(data), block)]
    packed = b"".join(blocks)
    if len(packed) >= size:
        return _Part(_PLAIN, size, size), data
    return _Part(_TEXT, len(packed), size, item, cuts=[len(one) for one in blocks], block=block), packed


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
