"""TagColumns: the tags of n devices as numbers into the texts that occur, each of which stands there once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import I64, U32, Rows, TextColumn
from gateway.text_numbers import distinct, merge_numbered


class TagColumns(NamedTuple):
    """n devices. counts: (n,) tags of each. numbers: (counts.sum(),) uint32, of all devices one after the other,
    rows of `texts`; a device names none twice. texts: UTF-8, all different, none empty."""

    counts: Rows
    numbers: U32
    texts: TextColumn

    @property
    def starts(self) -> I64:
        """(n + 1,) where each device's numbers begin, and where all end."""
        starts = np.zeros(len(self.counts) + 1, np.int64)
        np.cumsum(self.counts, out=starts[1:])
        return starts

    def take(self, rows: I64) -> TagColumns:
        """The devices at the given positions, in their order. Texts are shared."""
        places = run_places(self.starts[rows], self.counts[rows].astype(np.int64))
        return TagColumns(self.counts[rows], self.numbers[places], self.texts)

    def part(self, start: int, stop: int) -> TagColumns:
        """The devices start..stop. Nothing is copied, texts are shared."""
        first, end = self.starts[[start, stop]].tolist()
        return TagColumns(self.counts[start:stop], self.numbers[first:end], self.texts)

    def of(self, row: int) -> tuple[bytes, ...]:
        """The tags of one device."""
        first, stop = self.starts[row : row + 2].tolist()
        return tuple(map(self.texts.row, self.numbers[first:stop].tolist()))


def no_tags(n: int) -> TagColumns:
    """n devices without one."""
    return TagColumns(np.zeros(n, np.uint8), np.zeros(0, np.uint32), TextColumn(b"", np.zeros(1, np.uint32)))


def tags_from_joined(column: TextColumn) -> TagColumns:
    """Of n texts, each the tags of a device with a newline between: a loop, for registries of an older form."""
    rows = [row.split(b"\n") if row else [] for row in column.rows()]
    counts = np.fromiter(map(len, rows), np.uint8, len(rows))
    return TagColumns(counts, *distinct(TextColumn.from_rows([tag for row in rows for tag in row])))


def concatenate_tags(parts: Sequence[TagColumns | None], counts: Sequence[int]) -> TagColumns | None:
    """The devices of all parts, one after another; None where no part has tags. counts: devices of each part."""
    if all(part is None for part in parts):
        return None
    whole = [no_tags(n) if part is None else part for part, n in zip(parts, counts, strict=True)]
    numbers, texts = merge_numbered([(part.numbers, part.texts) for part in whole])
    return TagColumns(np.concatenate([part.counts for part in whole]), numbers, texts)


def run_places(starts: I64, counts: I64) -> I64:
    """Positions of all elements of the runs that begin at `starts`, one run after the other."""
    ends = np.cumsum(counts)
    places: I64 = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
    return places
