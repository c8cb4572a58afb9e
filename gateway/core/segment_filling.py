"""SegmentsFilling: all keys of a `Segments` that has none yet, gathered first and then laid out segment by segment.

A load brings its keys in no order of their shards. Put in one by one, each costs a walk through slots that are in no
cache, and every segment is rebuilt at each doubling; gathered by ranges of shards and laid out range by range it costs
60 ns, and no range takes longer than a millisecond or two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from gateway.columns import I32, I64, U16, U64
from gateway.core.segments import SHARD_COUNT, Drop, Segments, entries_of

#: Keys of a range on average: their segments have 2 to 4 slots for each, 65,536 at the most, which sort fastest.
_RANGE_KEYS = 1 << 14
#: More ranges cost each slice of a load more than larger ones do.
_RANGES_MAX = 256


class SegmentsFilling:
    """One owner; nobody else may use the index before `steps` has ended. n_expected: about so many keys are to come.
    drop: as in `Segments.fill`."""

    __slots__ = ("_drop", "_edges", "_index", "_parts", "_width")

    def __init__(self, index: Segments, n_expected: int, drop: Drop | None = None) -> None:
        wanted = 1 << (max(n_expected, 1) // _RANGE_KEYS).bit_length()
        width = SHARD_COUNT // min(wanted, _RANGES_MAX)
        self._index = index
        self._drop = drop
        self._width = width
        self._edges = np.arange(0, SHARD_COUNT + 1, width)
        self._parts: list[list[tuple[U16, U64]]] = [[] for _ in range(SHARD_COUNT // width)]

    def add(self, shards: I64 | U16, hashes: U64, rows: I32) -> None:
        """The keys are among those to come. rows: distinct, also from those before."""
        narrow, entries = shards.astype(np.uint16), entries_of(hashes, rows)
        first, last = int(narrow.min(initial=0)) // self._width, int(narrow.max(initial=0)) // self._width
        if first == last:
            # Devices come by neighbouring shards.
            self._parts[first].append((narrow, entries))
            return
        order = np.argsort(narrow, kind="stable")
        narrow, entries = narrow[order], entries[order]
        cuts = np.searchsorted(narrow, self._edges).tolist()
        for part, (start, stop) in zip(self._parts, itertools.pairwise(cuts), strict=True):
            if stop > start:
                part.append((narrow[start:stop], entries[start:stop]))

    def steps(self) -> Iterator[None]:
        """After the last step all keys lead to their rows, but for those that were dropped. Raises Overloaded."""
        for first, stop, part in zip(self._edges[:-1].tolist(), self._edges[1:].tolist(), self._parts, strict=True):
            if part:
                owners = np.concatenate([shards for shards, _ in part]).astype(np.int64)
                entries = np.concatenate([entries for _, entries in part])
                part.clear()
                self._index.fill(range(first, stop), owners, entries, self._drop)
                yield
