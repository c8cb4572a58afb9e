"""Which generations of an inbox's index are merged, and how sorted entries of several sources become those of one.

A merge goes on in steps of some thousand entries, whatever the size of its sources, so that the calls of the store that
wait are never behind more than a few milliseconds of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gateway.store.inbox_entries import NO_ENTRIES, Entries, in_order, joined, settled

#: Entries that are sealed into a generation. Until then they are in memory, at 24 bytes, and so are as many that are
#: being sealed: 25 MB.
SEAL_ENTRIES = 1 << 19
#: Generations of one size that are merged: of a hundred million rows there are some 17, and an entry is written four
#: times in its life, 20 bytes each.
FAN_OUT = 8
#: Entries that generations have for each row that is there, before all are merged: the others are of rows that have
#: left, and cost memory for nothing. Some more, for what is small.
ENTRIES_PER_ROW_MAX = 1.5


def to_merge(sizes: Sequence[int], rows: int) -> range | None:
    """Generations to merge next, neighbours always; None: they are well as they are.

    sizes: entries of each, the oldest first. rows: that are there.
    """
    if len(sizes) > 1 and sum(sizes) > ENTRIES_PER_ROW_MAX * rows + 4 * SEAL_ENTRIES:
        return range(len(sizes))
    size_max = SEAL_ENTRIES * FAN_OUT // 2
    while True:
        first = len(sizes)
        while first and sizes[first - 1] < size_max:
            first -= 1
        if len(sizes) - first >= FAN_OUT:
            return range(first, len(sizes))
        if not first:
            return None
        size_max *= FAN_OUT


class Source:
    """Sorted entries that are read a part at a time. read: the next part, None behind the last."""

    def __init__(self, read: Callable[[], Entries | None]) -> None:
        self._read = read
        self._ahead = NO_ENTRIES
        self.is_over = False

    @property
    def n_ahead(self) -> int:
        return len(self._ahead.hashes)

    @property
    def last_hash(self) -> int:
        """Of what was read; there is something."""
        return int(self._ahead.hashes[-1])

    def read_on(self) -> None:
        part = self._read()
        if part is None:
            self.is_over = True
        else:
            self._ahead = joined([self._ahead, part])

    def cut(self, end: int | None) -> Entries:
        """What is ahead with hashes below `end`, or all; it is not ahead any more."""
        stop = self.n_ahead if end is None else int(np.searchsorted(self._ahead.hashes, end))
        found = self._ahead.part(0, stop)
        self._ahead = self._ahead.part(stop, self.n_ahead)
        return found


class Merge:
    """sources: the oldest first, so that of one tag what came earlier stands earlier."""

    def __init__(self, sources: Sequence[Source], entries_max: int) -> None:
        """entries_max: some so many entries are taken in a step."""
        self._sources = sources
        self._ahead_min = max(1, entries_max // max(len(sources), 1))
        self.is_over = False

    def step(self) -> tuple[int, Entries]:
        """How many entries were taken, and the next of the merged ones: all of the hashes that they have."""
        for source in self._sources:
            while not source.is_over and source.n_ahead < self._ahead_min:
                source.read_on()
        while True:
            going_on = [source for source in self._sources if not source.is_over]
            # What a source has of its last hash may go on behind what was read.
            end = min((source.last_hash for source in going_on), default=None)
            parts = [source.cut(end) for source in self._sources]
            taken = sum(len(part.hashes) for part in parts)
            if taken or end is None:
                break
            # One hash fills all that was read.
            for source in going_on:
                if source.last_hash == end:
                    source.read_on()
        self.is_over = end is None
        return taken, settled(in_order(joined(parts)))
