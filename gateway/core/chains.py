"""Chains: byte strings of up to a few hundred bytes in linked cells of 16, so that any mix of lengths fits one pool.

    cells  | "user-4711"...... | "a very long alias" | ............ |     16 bytes each, padded with zeros
    next   |         0         |   the cell behind   |      0       |     4 bytes each

A string is known by its first cell and its length; who has it keeps both. Strings travel as `Padded`: a matrix with a
row per string, zeros behind its end. Every call works on all strings at once, a round of array calls per cell of the
longest, and none of them costs a Python object per string.

Rejected: rows by length as tokens have them (what a length once took it keeps, and user ids have any length); one run
per string (a freed run of three cells does not serve a string of four).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gateway.columns import I64, U32, U64, TextColumn
from gateway.core.reserved import Reserved
from gateway.core.tokens import FreeRows
from gateway.errors import Overloaded

CELL_BYTES = 16
#: A cell and its link.
BYTES_PER_CELL = CELL_BYTES + 4
_CELL_WORDS = CELL_BYTES // 8
#: (17, 2): the bytes of a cell that belong to a string of which so many bytes are left.
_MASKS: U64 = ((np.arange(CELL_BYTES) < np.arange(CELL_BYTES + 1)[:, None]).astype(np.uint8) * np.uint8(0xFF)).view(
    "<u8"
)


class Padded(NamedTuple):
    """n strings. words: (n, 2 * cells of the longest) uint64, little-endian bytes of the string, then zeros. lengths:
    (n,) int64, bytes."""

    words: U64
    lengths: I64

    def take(self, positions: I64) -> Padded:
        """The strings at the positions, in their order."""
        return Padded(self.words[positions], self.lengths[positions])

    def column(self) -> TextColumn:
        """The same strings without zeros."""
        offsets = np.zeros(len(self.lengths) + 1, np.uint32)
        np.cumsum(self.lengths, out=offsets[1:])
        matrix = self.words.view(np.uint8)
        return TextColumn(matrix[np.arange(matrix.shape[1]) < self.lengths[:, None]].tobytes(), offsets)


def padded(blob: bytes, starts: I64, lengths: I64) -> Padded:
    """The strings that begin at `starts` in the blob."""
    n_cells = n_cells_of(int(lengths.max(initial=0)))
    source = np.zeros(len(blob) + CELL_BYTES, np.uint8)
    source[: len(blob)] = np.frombuffer(blob, np.uint8)
    # A cell from each byte on; no dtype of numbers may stand so crooked.
    windows: np.ndarray[tuple[int], np.dtype[np.void]] = np.ndarray((len(blob) + 1,), "V16", source.data, 0, (1,))
    if n_cells == 1:
        return Padded(windows[starts].view("<u8").reshape(-1, _CELL_WORDS) & _MASKS[lengths], lengths)
    words = np.zeros((len(starts), n_cells, _CELL_WORDS), np.uint64)
    at = np.flatnonzero(lengths > 0)
    for number in range(n_cells):
        left = lengths[at] - number * CELL_BYTES
        cells = windows[starts[at] + number * CELL_BYTES].view("<u8").reshape(-1, _CELL_WORDS)
        words[at, number] = cells & _MASKS[np.minimum(left, CELL_BYTES)]
        at = at[left > CELL_BYTES]
    return Padded(words.reshape(len(starts), n_cells * _CELL_WORDS), lengths)


def padded_texts(column: TextColumn) -> Padded:
    """The rows of a column."""
    starts = column.offsets[:-1].astype(np.int64)
    return padded(column.blob, starts, column.lengths())


def n_cells_of(length: int) -> int:
    return -(-length // CELL_BYTES)


class Chains:
    """One owner, who keeps first cell and length of each string. Cell 0 is of no string."""

    __slots__ = ("_cells", "_cells_max", "_free", "_fresh", "_limit_name", "_next", "_reserved")

    def __init__(self, cells_max: int, limit_name: str) -> None:
        """Room for so many cells, reserved, not touched. limit_name: the limit's name in errors."""
        self._reserved = (Reserved((cells_max + 1) * _CELL_WORDS), Reserved(cells_max // 2 + 1))
        self._cells: U64 = self._reserved[0].words.reshape(-1, _CELL_WORDS)
        self._next: U32 = self._reserved[1].words.view(np.uint32)
        self._cells_max = cells_max
        self._limit_name = limit_name
        self._free = FreeRows()
        self._fresh = 1

    @property
    def cells_used(self) -> int:
        return self._fresh - 1 - len(self._free)

    def write(self, strings: Padded) -> U32:
        """(n,) the first cell of each string, 0 of an empty one. Raises Overloaded; then nothing was written."""
        lengths = strings.lengths
        counts = (lengths + (CELL_BYTES - 1)) // CELL_BYTES
        total = int(counts.sum())
        cells = self._take(total)
        if total and total == len(counts) and (counts == 1).all():
            # Longer strings may have stood beside these.
            self._cells[cells] = strings.words[:, :_CELL_WORDS]
            return cells
        heads, last = np.zeros(len(lengths), np.uint32), np.zeros(len(lengths), np.uint32)
        words = strings.words.reshape(len(lengths), strings.words.shape[1] // _CELL_WORDS, _CELL_WORDS)
        at = np.flatnonzero(counts > 0)
        first = number = 0
        while len(at):
            mine = cells[first : first + len(at)]
            self._cells[mine] = words[at, number]
            if number:
                self._next[last[at]] = mine
            else:
                heads[at] = mine
            last[at] = mine
            first += len(at)
            number += 1
            at = at[counts[at] > number]
        return heads

    def read(self, heads: U32, lengths: I64) -> Padded:
        """The strings with these first cells and lengths."""
        counts = (lengths + (CELL_BYTES - 1)) // CELL_BYTES
        if len(heads) and (counts == 1).all():
            return Padded(self._cells[heads], lengths)
        words = np.zeros((len(heads), int(counts.max(initial=0)), _CELL_WORDS), np.uint64)
        at = np.flatnonzero(counts > 0)
        cells = heads[at]
        for number in range(words.shape[1]):
            words[at, number] = self._cells[cells]
            goes_on = counts[at] > number + 1
            at, cells = at[goes_on], self._next[cells[goes_on]]
        return Padded(words.reshape(len(heads), words.shape[1] * _CELL_WORDS), lengths)

    def free(self, heads: U32, lengths: I64) -> None:
        """The strings, all distinct, are nowhere any more."""
        counts = (lengths + (CELL_BYTES - 1)) // CELL_BYTES
        cells, counts = heads[counts > 0], counts[counts > 0]
        number = 0
        while len(cells):
            number += 1
            goes_on = counts > number
            behind = self._next[cells[goes_on]]
            self._cells[cells] = 0
            self._next[cells] = 0
            self._free.give(cells)
            cells, counts = behind, counts[goes_on]

    def _take(self, count: int) -> U32:
        used = self.cells_used
        if used + count > self._cells_max:
            raise Overloaded(self._limit_name, used + count, self._cells_max)
        cells = self._free.take(count)
        n_fresh = count - len(cells)
        if n_fresh:
            fresh = np.arange(self._fresh, self._fresh + n_fresh, dtype=np.uint32)
            cells = np.concatenate([cells, fresh]) if len(cells) else fresh
            self._fresh += n_fresh
            self._reserved[0].has_grown(self._fresh * CELL_BYTES)
            self._reserved[1].has_grown(self._fresh * 4)
        return cells
