"""OwnIds: numbers that a vendor gives to messages, and whose batches they are of.

Tencent Cloud's SMS and WeChat report by a number of their own (`sid`, `MsgID`) and give nothing back that we sent. So
what their answers call each message is remembered: a hash of the number, and the address of the message's batch; the
report names the receiver as well, by whom the row is found (core/receipt_reports.py).

    positions   0 1 2 3 ...        the n-th number that was told; its place is n modulo the size
    heads       bucket -> the newest position whose hash falls into it, -1: none
    earlier     place -> the position before it in the same bucket

A bucket's positions only go down, and what is overwritten is below all that is not: so nothing need be taken out of a
chain, it ends where it meets a position that is gone. 40 bytes a number, whatever happens; the oldest fall out, and
what is older than `life_s` counts as gone.

In memory only: after a restart reports of messages before it are about nobody.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gateway.columns import I64, U32, U64, Bool
from gateway.message_id import BatchAddress

#: Bytes of one number, with its share of the heads.
OWN_ID_BYTES = 40
#: Reports of numbers that nobody was told yet, which are looked at again: a second of a busy vendor.
UNKNOWN_REPORTS_MAX = 20_000
_FIRST_SIZE = 1024
_JOURNAL_BITS = 12


class Found(NamedTuple):
    """Of k hashes: (k,) whether each is known, and the parts of its batch's address."""

    is_known: Bool
    heads: U64
    sequences: U32

    def batch(self, index: int) -> BatchAddress:
        head = int(self.heads[index])
        return BatchAddress(head >> _JOURNAL_BITS, head & (1 << _JOURNAL_BITS) - 1, int(self.sequences[index]))


class OwnIds:
    """ids_max: numbers remembered at most; memory grows up to it by doubling. life_s: for so long. Times are
    monotonic."""

    __slots__ = (
        "_born",
        "_count",
        "_earlier",
        "_head",
        "_heads",
        "_ids_max",
        "_keys",
        "_life_s",
        "_sequence",
        "fallen",
    )

    def __init__(self, ids_max: int, life_s: float) -> None:
        self._ids_max = ids_max
        self._life_s = life_s
        self._count = 0
        #: Numbers that had to make room before their time.
        self.fallen = 0
        self._allocate(min(_FIRST_SIZE, ids_max))

    def _allocate(self, size: int) -> None:
        self._keys: U64 = np.zeros(size, np.uint64)
        self._head: U64 = np.zeros(size, np.uint64)
        self._sequence: U32 = np.zeros(size, np.uint32)
        self._born: U32 = np.zeros(size, np.uint32)
        self._earlier: I64 = np.full(size, -1, np.int64)
        self._heads: I64 = np.full(1 << max(1, (size - 1).bit_length()), -1, np.int64)

    def __len__(self) -> int:
        return min(self._count, len(self._keys))

    def add(self, hashes: U64, batch: BatchAddress, now: float) -> None:
        """These numbers, (k,), are of messages of the batch."""
        for start in range(0, len(hashes), self._ids_max):
            part = hashes[start : start + self._ids_max]
            self._make_room(len(part), now)
            head = batch.unix_ms << _JOURNAL_BITS | batch.journal
            self._put(
                part,
                np.full(len(part), head, np.uint64),
                np.full(len(part), batch.sequence, np.uint32),
                np.full(len(part), int(now), np.uint32),
            )

    def _make_room(self, k: int, now: float) -> None:
        size = len(self._keys)
        if self._count + k > size and size < self._ids_max:
            # Nothing has been overwritten yet: positions are places.
            n = self._count
            kept = self._keys[:n], self._head[:n], self._sequence[:n], self._born[:n]
            while size < min(self._ids_max, self._count + k):
                size = min(self._ids_max, 2 * size)
            self._allocate(size)
            self._count = 0
            self._put(*kept)
        first = max(0, self._count - size)
        gone = np.arange(first, max(first, self._count + k - size)) % size
        self.fallen += int(np.count_nonzero(self._born[gone] + self._life_s > now))

    def _put(self, keys: U64, heads: U64, sequences: U32, born: U32) -> None:
        size = len(self._keys)
        positions = np.arange(self._count, self._count + len(keys))
        places = positions % size
        self._keys[places], self._head[places] = keys, heads
        self._sequence[places], self._born[places] = sequences, born
        buckets = (keys & np.uint64(len(self._heads) - 1)).astype(np.intp)
        order = np.argsort(buckets, kind="stable")
        buckets, positions, places = buckets[order], positions[order], places[order]
        earlier = self._heads[buckets]
        is_same = np.flatnonzero(buckets[1:] == buckets[:-1]) + 1
        earlier[is_same] = positions[is_same - 1]
        self._earlier[places] = earlier
        # The last of a bucket is its newest.
        is_last = np.append(buckets[1:] != buckets[:-1], True)[: len(buckets)]
        self._heads[buckets[is_last]] = positions[is_last]
        self._count += len(keys)

    def find(self, hashes: U64, now: float) -> Found:
        """Whose these numbers, (k,), are: the newest of each."""
        size, k = len(self._keys), len(hashes)
        found = Found(np.zeros(k, np.bool_), np.zeros(k, np.uint64), np.zeros(k, np.uint32))
        at = self._heads[(hashes & np.uint64(len(self._heads) - 1)).astype(np.intp)]
        rows = np.arange(k)
        while len(rows):
            is_there = at >= max(0, self._count - size)
            rows, at = rows[is_there], at[is_there]
            places = at % size
            is_it = self._keys[places] == hashes[rows]
            hits, here = rows[is_it], places[is_it]
            found.is_known[hits] = self._born[here] + self._life_s > now
            found.heads[hits], found.sequences[hits] = self._head[here], self._sequence[here]
            rows, at = rows[~is_it], self._earlier[places[~is_it]]
        return found
