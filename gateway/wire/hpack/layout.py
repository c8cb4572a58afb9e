"""Layouts: header blocks that differ only in the values of some literals, recognised without decoding them.

A server that puts an id into each answer sends blocks of one build: the same representations with the same names and
indexes, and another value in one of the literals. Such a block is known by its constants and needs no more than a look
at the varying values: that they end where they should, and that they are well formed.

    | constant: 0x88, literal with its name | H length | value ... | constant: rest of the block |
                                              differs     differs

Checking is all that is needed because the caller does not want these values. Blocks of many rows are checked together,
one step per constant or value and, where values are Huffman-coded, one per byte of the longest.

Rules for authors: `matches` and `matching_rows` say yes only to a block that `Decoder.decode` takes and whose fields
are those of the block the layout was made from, but for the varying values, which hold no forbidden byte. The plain
twin in `tests/wire/hpack/test_layout.py` is the decoder itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import I64, U8, Bool
from gateway.errors import RemoteProtocolError
from gateway.wire.hpack.huffman import FORBIDDEN_IN_VALUES, huffman_decode, huffman_good_rows
from gateway.wire.hpack.integer import decode_integer

#: A varying value is at most so long on the wire: its length takes one byte (7-bit prefix, RFC 7541 section 5.1).
VALUE_BYTES_MAX = 126
#: The most such a value has when decoded: the shortest code has 5 bits.
DECODED_BYTES_MAX = VALUE_BYTES_MAX * 8 // 5
#: Bytes behind the last row that `matching_rows` may read, whatever they are.
MARGIN_BYTES = VALUE_BYTES_MAX + 2


class Literal(NamedTuple):
    """A value that stands in a block: of which field, and where from its length byte to its end."""

    field: int
    start: int
    end: int


def short_literals(block: bytes) -> list[Literal]:
    """The literal values of a block that the decoder has taken, as far as they are short enough to vary."""
    found: list[Literal] = []
    field = 0
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            _, at = decode_integer(block, at, 7)
        elif first & 0xE0 == 0x20:
            _, at = decode_integer(block, at, 5)
            continue
        else:
            index, at = decode_integer(block, at, 6 if first & 0x40 else 4)
            if not index:
                length, at = decode_integer(block, at, 7)
                at += length
            start = at
            length, at = decode_integer(block, at, 7)
            at += length
            if length <= VALUE_BYTES_MAX:
                found.append(Literal(field, start, at))
        field += 1
    return found


class Layout:
    """constants: the k + 1 stretches around k values, each from behind one value to before the length byte of the
    next. is_huffman: (k,) whether each value is Huffman-coded. Immutable and hashable."""

    __slots__ = ("constants", "is_huffman")

    def __init__(self, constants: tuple[bytes, ...], is_huffman: tuple[bool, ...]) -> None:
        self.constants = constants
        self.is_huffman = is_huffman

    @classmethod
    def of(cls, block: bytes, varying: Sequence[Literal]) -> Layout:
        """The layout in which these literals of the block vary. varying: in order."""
        edges = [0, *[edge for literal in varying for edge in (literal.start, literal.end)], len(block)]
        constants = tuple([block[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)])
        return cls(constants, tuple([bool(block[literal.start] & 0x80) for literal in varying]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and (self.constants, self.is_huffman) == (other.constants, other.is_huffman)

    def __hash__(self) -> int:
        return hash((self.constants, self.is_huffman))

    def matches(self, block: bytes) -> bool:
        at = 0
        end = len(block)
        for constant, is_huffman in zip(self.constants, self.is_huffman, strict=False):
            if not block.startswith(constant, at):
                return False
            at += len(constant)
            if at >= end:
                return False
            length = block[at] & 0x7F
            if (block[at] >= 0x80) is not is_huffman or length > VALUE_BYTES_MAX or at + 1 + length > end:
                return False
            if not _is_good_value(block[at + 1 : at + 1 + length], is_huffman=is_huffman):
                return False
            at += 1 + length
        return block[at:] == self.constants[-1]

    def matching_rows(self, data: U8, starts: I64, ends: I64) -> int:
        """How many blocks from the first match. Block i is data[starts[i]:ends[i]]; data goes on for at least
        MARGIN_BYTES behind the last."""
        n = len(starts)
        at = starts
        for index, constant in enumerate(self.constants):
            n = _rows_with(constant, data, at, ends[:n])
            at = at[:n] + len(constant)
            if n == 0 or index == len(self.is_huffman):
                break
            n, at = _rows_with_value(data, at, ends[:n], is_huffman=self.is_huffman[index])
            if n == 0:
                break
        return _first_rows(at[:n] == ends[:n])


def _is_good_value(value: bytes, *, is_huffman: bool) -> bool:
    if is_huffman:
        try:
            value = huffman_decode(value)
        except RemoteProtocolError:
            return False
    return len(value.translate(None, FORBIDDEN_IN_VALUES)) == len(value)


def _first_rows(good: Bool) -> int:
    """How many are true from the first on."""
    first_bad = good.tobytes().find(0)
    return len(good) if first_bad < 0 else first_bad


def rows_at(data: U8, at: I64, width: int) -> U8:
    """(n, width) copy of data[at[i] : at[i] + width]; width > 0, all inside of data."""
    # Items of `width` bytes at every position, overlapping: taking them copies each row in one go.
    items = np.ndarray((len(data) - width + 1,), np.dtype((np.void, width)), data, strides=(1,))
    return items[at].view(np.uint8).reshape(len(at), width)


def _rows_with(constant: bytes, data: U8, at: I64, ends: I64) -> int:
    width = len(constant)
    n = _first_rows(at + width <= ends)
    if width == 0 or n == 0:
        return n
    rows = rows_at(data, at[:n], width)
    if rows.tobytes() == constant * n:
        return n
    is_equal: Bool = (rows == np.frombuffer(constant, np.uint8)).all(axis=1)
    return _first_rows(is_equal)


def _rows_with_value(data: U8, at: I64, ends: I64, *, is_huffman: bool) -> tuple[int, I64]:
    """(rows from the first that have a good value at `at`, where each of these values ends)."""
    n = _first_rows(at < ends)
    prefixes = data[at[:n]]
    lengths = (prefixes & 0x7F).astype(np.int64)
    value_ends = at[:n] + 1 + lengths
    good = ((prefixes >= 0x80) == is_huffman) & (lengths <= VALUE_BYTES_MAX) & (value_ends <= ends[:n])
    n = _first_rows(good)
    width = int(lengths[:n].max()) if n else 0
    if width:
        rows = rows_at(data, at[:n] + 1, width)
        n = _first_rows(huffman_good_rows(rows, lengths[:n])) if is_huffman else _clean_rows(rows, lengths[:n])
    return n, value_ends[:n]


def _clean_rows(rows: U8, lengths: I64) -> int:
    """How many rows from the first hold no forbidden byte in their first lengths[i]."""
    blob = rows.tobytes()
    if not any(value in blob for value in FORBIDDEN_IN_VALUES):
        return len(rows)
    is_bad = np.isin(rows, list(FORBIDDEN_IN_VALUES)) & (np.arange(rows.shape[1]) < lengths[:, None])
    bad_rows = np.flatnonzero(is_bad.any(axis=1))
    return int(bad_rows[0]) if len(bad_rows) else len(rows)
