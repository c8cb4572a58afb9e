"""What an inbox's index by device is made of: columns sorted by a hash of the device, in memory and in blocks.

    entry        hash of the device, tag of the row, bytes of its text; ~bytes where the row has left
    Recent       entries of the last writes, in memory, as sorted runs
    Generation   entries that were sealed into blocks on the disk; of it in memory: the first hash of each block, and a
                 filter of 10 bits per entry, that says of which devices it may have entries

A row is there when its tag came once more than it left, over all generations and what is recent. So nothing that was
written is changed; an entry and its end meet in a merge, and neither is written any more (`settled`).

Nothing here reads or writes a disk: `inbox_index.py` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import I64, U8, U64, Bool, fixed_rows

#: Entries of a block: what stands in one page of 4 KiB of the database. A look into a generation reads one.
BLOCK_ENTRIES = 200
ENTRY_BYTES = 20
#: Of one block: ten bits for each of its entries. Four bits set by each make 1.2 % of all others pass.
FILTER_BYTES = 250
_FILTER_BITS = 8 * FILTER_BYTES
#: Hashes of a block have their first bits in common; the bits of its filter come from a second mix (as in
#: `inbox_filing.py`).
_MIX = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
#: Places that say whether something recent may be of a device: an eighth is taken with half a million entries.
MARKS = 1 << 22


class Entries(NamedTuple):
    """(n,) int64 each."""

    hashes: I64
    tags: I64
    sizes: I64

    def take(self, at: I64 | Bool) -> Entries:
        return Entries(self.hashes[at], self.tags[at], self.sizes[at])

    def part(self, start: int, stop: int) -> Entries:
        return Entries(self.hashes[start:stop], self.tags[start:stop], self.sizes[start:stop])

    def of(self, one_hash: int) -> Entries:
        """Those of one hash; self is sorted."""
        start = np.searchsorted(self.hashes, one_hash)
        return self.part(int(start), int(np.searchsorted(self.hashes, one_hash, "right")))


_NOTHING = np.zeros(0, np.int64)
NO_ENTRIES = Entries(_NOTHING, _NOTHING, _NOTHING)


def joined(parts: Sequence[Entries]) -> Entries:
    """One behind the other."""
    if not parts:
        return NO_ENTRIES
    return parts[0] if len(parts) == 1 else Entries(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def in_order(entries: Entries) -> Entries:
    """Sorted by hash; those of one hash in the order in which they stood, which is that in which they were made."""
    return entries.take(np.argsort(entries.hashes, kind="stable"))


def settled(entries: Entries) -> Entries:
    """Sorted ones without those of rows that came and left within them; those of one hash and tag alternate."""
    if not (entries.sizes < 0).any():
        return entries
    order = np.lexsort((entries.tags, entries.hashes))
    hashes, tags, sizes = entries.take(order)
    is_first = np.ones(len(hashes), np.bool_)
    is_first[1:] = (hashes[1:] != hashes[:-1]) | (tags[1:] != tags[:-1])
    firsts = np.flatnonzero(is_first)
    left = np.add.reduceat(np.where(sizes < 0, -1, 1), firsts)
    lasts = np.append(firsts[1:], len(hashes)) - 1
    return entries.take(order[lasts[left != 0]])


def blocks_of(entries: Entries) -> list[bytes]:
    """Sorted entries as blocks; the last may be shorter."""
    n = len(entries.hashes)
    whole = n // BLOCK_ENTRIES * BLOCK_ENTRIES
    blocks = _equal_blocks(entries.part(0, whole), BLOCK_ENTRIES) if whole else []
    return blocks + (_equal_blocks(entries.part(whole, n), n - whole) if whole < n else [])


def _equal_blocks(entries: Entries, size: int) -> list[bytes]:
    n = len(entries.hashes) // size
    block: U8 = np.empty((n, size * ENTRY_BYTES), np.uint8)
    block[:, : 8 * size] = entries.hashes.astype("<i8").view(np.uint8).reshape(n, -1)
    block[:, 8 * size : 16 * size] = entries.tags.astype("<i8").view(np.uint8).reshape(n, -1)
    block[:, 16 * size :] = entries.sizes.astype("<i4").view(np.uint8).reshape(n, -1)
    return fixed_rows(block)


def entries_of(blocks: Sequence[bytes]) -> Entries:
    """What `blocks_of` was given."""
    if not blocks:
        return NO_ENTRIES
    whole = [block for block in blocks if len(block) == len(blocks[0])]
    size = len(blocks[0]) // ENTRY_BYTES
    rows = np.frombuffer(b"".join(whole), np.uint8).reshape(len(whole), -1)
    found = Entries(
        np.ascontiguousarray(rows[:, : 8 * size]).view("<i8").ravel(),
        np.ascontiguousarray(rows[:, 8 * size : 16 * size]).view("<i8").ravel(),
        np.ascontiguousarray(rows[:, 16 * size :]).view("<i4").ravel().astype(np.int64),
    )
    # Blocks of another length are rare: the last one of a generation, or parts of what is recent.
    return found if len(whole) == len(blocks) else joined([found, entries_of(blocks[len(whole) :])])


def filter_places(one_hash: int) -> tuple[int, int, int, int]:
    """The bits of a hash in the filter of its block."""
    mixed = one_hash * _MIX & _MASK
    mixed ^= mixed >> 32
    first, second, third, fourth = ((mixed >> shift & 0xFFFF) * _FILTER_BITS >> 16 for shift in (0, 16, 32, 48))
    return first, second, third, fourth


def filters_of(hashes: I64) -> U8:
    """(n,) sorted -> (blocks, FILTER_BYTES) uint8."""
    mixed: U64 = hashes.view(np.uint64) * np.uint64(_MIX)
    mixed ^= mixed >> np.uint64(32)
    n_blocks = -(-len(hashes) // BLOCK_ENTRIES)
    bits = np.zeros((n_blocks, _FILTER_BITS), np.bool_)
    blocks = np.arange(len(hashes)) // BLOCK_ENTRIES
    for shift in (0, 16, 32, 48):
        places = (mixed >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64) * _FILTER_BITS >> 16
        bits[blocks, places] = True
    return np.packbits(bits, axis=1, bitorder="little")


class Generation:
    """A sealed part of the index, as it is known in memory.

    number: of its blocks. until: the newest part of what was recent that it has. n: entries. fences: (blocks,) int64,
    the first hash of each block, sorted. filters: (blocks, FILTER_BYTES) uint8.
    """

    __slots__ = ("_bits", "fences", "n", "number", "until")

    def __init__(self, number: int, until: int, n: int, fences: I64, filters: U8) -> None:
        self.number = number
        self.until = until
        self.n = n
        self.fences = fences
        self._bits = memoryview(filters.tobytes())

    @property
    def memory_bytes(self) -> int:
        return self.fences.nbytes + self._bits.nbytes

    def may_hold(self, one_hash: int, places: Sequence[int]) -> bool:
        """Never false for a hash that has entries. places: its `filter_places`."""
        block = int(np.searchsorted(self.fences, one_hash, "right")) - 1
        if block < 0:
            return False
        bits, base = self._bits, block * FILTER_BYTES
        return all(bits[base + (place >> 3)] >> (place & 7) & 1 for place in places)

    def blocks_with(self, one_hash: int) -> range:
        """The blocks that may have entries of the hash."""
        last = int(np.searchsorted(self.fences, one_hash, "right")) - 1
        # It begins within the block before the first that begins with it.
        first = max(int(np.searchsorted(self.fences, one_hash, "left")) - 1, 0)
        return range(first, last + 1)


class Recent:
    """Entries in memory as sorted runs, the oldest first; each at least twice as long as the next: some 20 at most."""

    def __init__(self) -> None:
        self.runs: list[Entries] = []
        self.n = 0
        #: The last part of what the disk calls recent.
        self.until = 0
        self._marks = np.zeros(MARKS, np.bool_)

    def add(self, entries: Entries, until: int) -> None:
        """entries: in the order in which they were made."""
        self.until = until
        if not len(entries.hashes):
            return
        self._marks[entries.hashes & (MARKS - 1)] = True
        self.n += len(entries.hashes)
        runs = [*self.runs, in_order(entries)]
        while len(runs) > 1 and len(runs[-2].hashes) < 2 * len(runs[-1].hashes):
            newer, older = runs.pop(), runs.pop()
            runs.append(in_order(joined([older, newer])))
        self.runs = runs

    def may_hold(self, one_hash: int) -> bool:
        return bool(self._marks[one_hash & (MARKS - 1)])

    def find(self, one_hash: int) -> list[Entries]:
        """The entries of a hash, in the order in which they were made."""
        return [run.of(one_hash) for run in self.runs] if self.may_hold(one_hash) else []
