"""Segments: a keyed open-addressing hash from keys to row numbers, in 4,096 parts that grow one at a time.

A rehash of one big table blocks the loop for 0.6 s at 2 million devices (DESIGN.md section 2), so each of the 4,096
shards has a segment of its own and only that one is rebuilt when it fills up: a few hundred entries at a million
devices. All segments lie in one pool that is reserved once; pages nobody touched cost nothing, and nothing is ever
copied as a whole.

    pool   | segment of shard 7 | segment of shard 2 | free | segment of shard 0 ...        (uint64 entries)
    entry  | fingerprint: 32 bits | row + 1: 32 bits |      0 = empty, row + 1 = 2^32 - 1: tombstone

The fingerprint is the upper half of the key's 64-bit hash, and its low bits are the home slot. So a rebuild needs
the entries alone, no keys. Probing is linear: neighbours share a cache line. Keys are the caller's: `find` proposes
a candidate row per key and the caller's `verify` compares the full keys of all candidates at once.

Hashes. The shard of a device must never change, so it comes from a fixed hash of the id (`device_shards`). The
position inside a segment comes from a secret, so that nobody who may choose ids can choose collisions:
pair-multiply-shift, strongly universal in its upper 32 bits (M. Thorup, "High Speed Hashing for Integers and
Strings", arXiv 1504.06804, section 3.5).

Rules for authors: free blocks of the pool are all zero; `used` counts live entries and tombstones; entries of one
table are distinct, since rows are. Rejected: one power-of-two table (long rehash), incremental two-table rehash
(each look-up probes twice), Robin Hood order (saves probes, but batch inserts become sequential).
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from gateway.columns import I32, I64, U8, U32, U64, Bool
from gateway.core.reserved import Reserved
from gateway.errors import Overloaded

#: Contract (DESIGN.md section 4): devices fall into 4,096 shards.
SHARD_COUNT = 4096
#: The smallest segment: two cache lines.
_SIZE_MIN = 16
#: Above this share of used slots linear probing gets long (mean of a miss: 3.6 probes at 0.6, 5.5 at 0.7).
_LOAD_MAX = 0.6
#: A rebuilt segment is at most this full, so that the next rebuild is a tenth of its size away at least.
_LOAD_AFTER_REBUILD = 0.5

_LOW = 0xFFFF_FFFF
_LOW64 = np.uint64(_LOW)
_HIGH64 = np.uint64(_LOW << 32)
_TOMBSTONE = np.uint64(_LOW)
_ONE64 = np.uint64(1)
_SHIFT32 = np.uint64(32)
_MASK64 = (1 << 64) - 1
#: entry - 1 is below this in its lower half only for a live entry.
_LIVE_BELOW = np.uint64(_LOW - 1)

#: Slots of a long probe that are looked at together: 64 bytes.
_WINDOW = 8
_WINDOW_STEPS: I64 = np.arange(_WINDOW)

#: Odd constants of the fixed hash: 2^64 / golden ratio, and the multiplier of Steele and Vigna's 64-bit LCG.
_FIXED_1 = 0x9E3779B97F4A7C15
_FIXED_2 = 0xD1342543DE82EF95

#: The longest row `HashKey` can hash, bytes: the longest device token the gateway takes.
HASHED_BYTES_MAX = 4096

#: (index, rows) -> (k,) bool: whether the full key at `index` (a slice or positions) is the key of `rows`. A row may
#: be -1; what is said about it is ignored.
Verify: TypeAlias = Callable[[slice | I64, I32], Bool]
#: entries (k,), each of which has the fingerprint of another one of them -> (k,) bool: which of them are left out.
Drop: TypeAlias = Callable[[U64], Bool]


def device_shards(ids: U8) -> I64:
    """ids: (n, 16) uint8, contiguous -> (n,) int64, each 0..4095. Fixed for all time: databases are split by it.

    With lo, hi = the id's halves as little-endian integers: x = lo ^ hi * C1; x = (x ^ x >> 32) * C2; top 12 bits.
    """
    words = ids.view("<u8")
    mixed = words[:, 1] * np.uint64(_FIXED_1)
    mixed ^= words[:, 0]
    mixed ^= mixed >> _SHIFT32
    mixed *= np.uint64(_FIXED_2)
    mixed >>= np.uint64(52)
    return mixed.view(np.int64)


def device_shard(device_id: bytes) -> int:
    """The same for one id of 16 bytes: a numpy call costs more than this whole line."""
    words: tuple[int, int] = struct.unpack("<QQ", device_id)
    mixed = words[0] ^ (words[1] * _FIXED_1 & _MASK64)
    return ((mixed ^ mixed >> 32) * _FIXED_2 & _MASK64) >> 52


def hash_shards(hashes: U64) -> I64:
    """(n,) shard of keys that are no device ids: 12 bits of the hash that neither fingerprint nor home slot uses."""
    return (hashes >> np.uint64(20)).view(np.int64) & (SHARD_COUNT - 1)


class HashKey:
    """The secret of the keyed hash. Same secret, same hashes: keep it where hashes outlive the process."""

    __slots__ = ("_ints", "_words")

    def __init__(self, secret: bytes) -> None:
        """secret: at least 16 random bytes. Raises ValueError for a shorter one."""
        if len(secret) < 16:
            raise ValueError(f"the hash secret is {len(secret)} bytes, expected at least 16")
        n_words = 2 + HASHED_BYTES_MAX // 4
        digest = hashlib.shake_256(b"segments:" + secret).digest(8 * n_words)
        self._words: U64 = np.frombuffer(digest, "<u8")
        self._ints: list[int] = self._words.tolist()

    def hash_rows(self, rows: U8, salt: int | U64 = 0) -> U64:
        """rows: (n, width) uint8 -> (n,) uint64. salt: below 2^32, one for all rows or one per row.

        Rows are padded with zeros to a multiple of 8 bytes; only rows of one width may be told apart by this hash.
        """
        n, width = rows.shape
        if width % 8 or not rows.flags.c_contiguous:
            padded = np.zeros((n, (width + 7) // 8 * 8), np.uint8)
            padded[:, :width] = rows
            rows = padded
        words = rows.view("<u4")
        key = self._words
        if words.shape[1] == 4:
            # Device ids: column by column is half the cost of a 2-D product of so few columns.
            hashes: U64 = (words[:, 0] + key[2]) * (words[:, 1] + key[3])
            hashes += (words[:, 2] + key[4]) * (words[:, 3] + key[5])
        else:
            keyed = words + key[2 : 2 + words.shape[1]]
            hashes = np.einsum("ij,ij->i", keyed[:, 0::2], keyed[:, 1::2])
        if isinstance(salt, int):
            hashes += np.uint64((self._ints[0] + salt * self._ints[1]) & _MASK64)
        else:
            hashes += salt * key[1] + key[0]
        return hashes

    def hash_one(self, row: bytes, salt: int = 0) -> int:
        """The hash of one row of bytes, as a Python int."""
        row += bytes(-len(row) % 8)
        words = struct.unpack(f"<{len(row) // 4}I", row)
        key = self._ints
        total = key[0] + salt * key[1]
        for at in range(0, len(words), 2):
            total += (words[at] + key[at + 2]) * (words[at + 1] + key[at + 3])
        return total & _MASK64


class BlockPool:
    """Power-of-two blocks of one reserved array: a buddy allocator. Block starts are multiples of their size."""

    __slots__ = ("_free", "_reserved", "capacity", "entries", "name", "taken")

    def __init__(self, capacity: int, name: str) -> None:
        """capacity: entries, a power of two. Reserved, not touched."""
        self.name = name
        self.capacity = capacity
        self._reserved = Reserved(capacity)
        self.entries: U64 = self._reserved.words
        self.taken = 0
        #: size -> starts of free blocks; a dict as ordered set, so that the last freed (warm) block goes first.
        self._free: dict[int, dict[int, None]] = {capacity: {0: None}}

    def take(self, size: int) -> int:
        """The start of an all-zero block of `size` entries, a power of two. Raises Overloaded when none is left."""
        found = size
        while not self._free.get(found):
            found *= 2
            if found > self.capacity:
                raise Overloaded(self.name, self.taken + size, self.capacity)
        start, _ = self._free[found].popitem()
        while found > size:
            found //= 2
            self._free.setdefault(found, {})[start + found] = None
        self.taken += size
        self._reserved.has_grown(self.taken * self.entries.itemsize)
        return start

    def take_some(self, size: int, count: int) -> tuple[int, int]:
        """(n, start): n blocks of `size` side by side, as many as are free at once, up to `count`; each is given back
        alone. Raises Overloaded when there is not one."""
        n = 1 << count.bit_length() - 1
        while n > 1:
            with contextlib.suppress(Overloaded):
                return n, self.take(size * n)
            n //= 2
        return 1, self.take(size)

    def give(self, start: int, size: int) -> None:
        """Takes an all-zero block back and joins it with its free buddies."""
        self.taken -= size
        while size < self.capacity:
            free = self._free.get(size, {})
            buddy = start ^ size
            if buddy not in free:
                break
            del free[buddy]
            start &= ~size
            size *= 2
        self._free.setdefault(size, {})[start] = None


class SegmentsStatistics(NamedTuple):
    """live: keys. tombstones: removed, their slots not yet reused. slots: of all segments. rebuilds and moved_entries
    count since start; longest_rebuild is the most entries moved for one segment, longest_step for one call."""

    live: int
    tombstones: int
    slots: int
    rebuilds: int
    moved_entries: int
    longest_rebuild: int
    longest_step: int


class Segments:
    """Keys (as shard and hash) to row numbers. One owner; no method keeps an argument."""

    __slots__ = (
        "_bases",
        "_limits",
        "_live",
        "_longest_rebuild",
        "_longest_step",
        "_masks",
        "_moved",
        "_pool",
        "_rebuilds",
        "_used",
    )

    def __init__(self, keys_max: int, name: str) -> None:
        """Reserves room for `keys_max` keys however they fall into shards. name: the limit's name in errors.

        A segment has at most 4 slots per key it held at its fullest, or 16; blocks that were outgrown cost as much
        again before they are joined. Reserved, not used: at an even spread about 2.5 slots per key are touched.
        """
        wanted = 2 * (4 * keys_max + SHARD_COUNT * _SIZE_MIN)
        self._pool = BlockPool(1 << (wanted - 1).bit_length(), name)
        # Slot 0 stays empty for ever: the segment of all shards that have no key yet.
        self._pool.take(_SIZE_MIN)
        self._bases: I64 = np.zeros(SHARD_COUNT, np.int64)
        self._masks: I64 = np.zeros(SHARD_COUNT, np.int64)
        self._limits: I64 = np.zeros(SHARD_COUNT, np.int64)
        self._live: I64 = np.zeros(SHARD_COUNT, np.int64)
        self._used: I64 = np.zeros(SHARD_COUNT, np.int64)
        self._rebuilds = 0
        self._moved = 0
        self._longest_rebuild = 0
        self._longest_step = 0

    def __len__(self) -> int:
        return int(self._live.sum())

    def find(self, shards: I64, hashes: U64, verify: Verify) -> I32:
        """(n,) int32 row of each key, -1 for an unknown one. All keys are probed at once, then the open ones."""
        pool = self._pool.entries
        masks = self._masks.take(shards, mode="clip")
        bases = self._bases.take(shards, mode="clip")
        highs = hashes & _HIGH64
        slots = (hashes >> _SHIFT32).view(np.int64)
        slots &= masks
        entries = pool.take(bases + slots, mode="clip")
        # A live entry of this fingerprint becomes its row; anything else becomes at least 2^32 - 2.
        found = entries ^ highs
        found -= _ONE64
        is_hit = found < _LIVE_BELOW
        rows: I32 = np.where(is_hit, found, _LOW64).astype(np.uint32).view(np.int32)
        rest = np.flatnonzero((entries != 0) > is_hit)
        if len(rest):
            self._find_behind(rows, rest, bases.take(rest), masks.take(rest), highs.take(rest), slots.take(rest) + 1)
        wrong = np.flatnonzero((rows >= 0) > verify(slice(None), rows))
        for index in wrong.tolist():
            # Two keys of one fingerprint, once in millions of look-ups: go on behind the wrong candidate.
            verify_row = _one_at_a_time(verify, index)
            rows[index] = self.find_one(int(shards[index]), int(hashes[index]), verify_row)
        return rows

    def _find_behind(self, rows: I32, rest: I64, bases: I64, masks: I64, highs: U64, slots: I64) -> None:
        """`rows` at the positions `rest` are found from these slots on: a quarter of the keys, as a rule.

        The next slot is looked at alone, since it ends two searches in three; then a cache line's worth at once, where
        a round for each slot would be twenty rounds for a handful of keys.
        """
        pool = self._pool.entries
        slots &= masks
        entries = pool.take(bases + slots, mode="clip")
        found = entries ^ highs
        found -= _ONE64
        is_hit = found < _LIVE_BELOW
        rows[rest[is_hit]] = found[is_hit]
        is_open = np.flatnonzero((entries != 0) > is_hit)
        slots += 1
        while len(is_open):
            rest, bases, masks = rest.take(is_open), bases.take(is_open), masks.take(is_open)
            highs, slots = highs.take(is_open), slots.take(is_open)
            # (k, _WINDOW): the slots from each one's own on.
            places = slots[:, None] + _WINDOW_STEPS
            places &= masks[:, None]
            places += bases[:, None]
            near = pool.take(places, mode="clip")
            candidates = near ^ highs[:, None]
            candidates -= _ONE64
            is_near_hit = candidates < _LIVE_BELOW
            ends = is_near_hit | (near == 0)
            # Where each search ends: at its first hit or empty slot, at its first slot if there is neither.
            at = ends.argmax(axis=1)
            at += np.arange(0, len(rest) * _WINDOW, _WINDOW)
            hit = np.flatnonzero(is_near_hit.ravel().take(at))
            rows[rest.take(hit)] = candidates.ravel().take(at.take(hit))
            is_open = np.flatnonzero(~ends.ravel().take(at))
            slots += _WINDOW

    def find_one(self, shard: int, key_hash: int, verify_row: Callable[[int], bool]) -> int:
        """The row of one key or -1. For few keys this costs less than the array calls of `find`."""
        item = self._pool.entries.item
        base, mask = self._bases.item(shard), self._masks.item(shard)
        fingerprint = key_hash >> 32
        slot = fingerprint & mask
        while entry := item(base + slot):
            if entry >> 32 == fingerprint and entry & _LOW != _LOW and verify_row((entry & _LOW) - 1):
                return int(entry & _LOW) - 1
            slot = (slot + 1) & mask
        return -1

    def candidates(self, shard: int, key_hash: int) -> list[int]:
        """The rows of all entries with the fingerprint of one key, in no order: of keys that several rows share."""
        item = self._pool.entries.item
        base, mask = self._bases.item(shard), self._masks.item(shard)
        fingerprint = key_hash >> 32
        slot = fingerprint & mask
        rows = []
        while entry := item(base + slot):
            if entry >> 32 == fingerprint and entry & _LOW != _LOW:
                rows.append((entry & _LOW) - 1)
            slot = (slot + 1) & mask
        return rows

    def fill(self, shards: range, owners: I64, entries: U64, drop: Drop | None = None) -> None:
        """Afterwards the entries (`entries_of`), all distinct, are in the segments of these shards, which had no key.
        owners: (k,) the shard of each.

        A segment is laid out at once, in the order of its home slots: no entry is looked at twice, which makes it a
        fourth of the cost of `insert`. drop: see its type. Raises Overloaded; then nothing changed.
        """
        local = owners - shards.start
        counts = np.bincount(local, minlength=len(shards))
        sizes = _sizes_for(counts)
        sizes[counts == 0] = 0
        # The segments side by side, as if they were one.
        starts = np.cumsum(sizes) - sizes
        homes = (entries >> _SHIFT32).view(np.int64) & (sizes - 1)[local]
        homes += starts[local]
        # A sort of 16-bit numbers takes two looks at each.
        narrow = homes.astype(np.uint16) if int(sizes.sum()) <= 1 << 16 else homes
        order = np.argsort(narrow, kind="stable")
        homes, entries, local = homes[order], entries[order], local[order]
        if drop is not None:
            twins = _twins(homes, entries)
            if len(twins):
                stays = np.ones(len(entries), np.bool_)
                stays[twins] = ~drop(entries[twins])
                homes, entries, local = homes[stays], entries[stays], local[stays]
        used = np.flatnonzero(sizes)
        bases = np.zeros(len(shards), np.int64)
        bases[used] = self._take_blocks(sizes[used])
        self._bases[used + shards.start] = bases[used]
        self._masks[used + shards.start] = sizes[used] - 1
        self._limits[used + shards.start] = sizes[used] * _LOAD_MAX
        # With as much room behind each segment as it has itself, what runs over its end runs into no other.
        starts_of = starts[local]
        steps = np.arange(len(entries))
        slots = np.maximum.accumulate(homes + starts_of - steps) + steps - 2 * starts_of
        places = bases[local] + slots
        outside = np.flatnonzero(slots >= sizes[local])
        rest, owners = entries[outside], local[outside] + shards.start
        if len(outside):
            # In the place of another one for now: a mask costs more than writing that one twice.
            inside = int(np.argmax(slots < sizes[local]))
            places[outside], entries[outside] = places[inside], entries[inside]
        self._pool.entries[places] = entries
        live = np.bincount(local, minlength=len(shards))
        self._live[shards.start : shards.stop] = live
        self._used[shards.start : shards.stop] = live
        np.subtract.at(self._used, owners, 1)
        self._longest_step = max(self._longest_step, len(entries))
        # Those go on from the segment's first slot.
        self._place(owners, rest)

    def reserve(self, shards: I64) -> None:
        """Afterwards one more key per element of `shards` fits. Raises Overloaded; then nothing changed."""
        counts = np.bincount(shards, minlength=SHARD_COUNT)
        full = np.flatnonzero((self._used + counts > self._limits) & (counts > 0))
        if len(full):
            self._rebuild(full, counts[full])

    def insert(self, shards: I64, hashes: U64, rows: I32) -> None:
        """Afterwards each key leads to its row. Keys must be absent, and rows distinct and not yet in the table.

        Raises Overloaded when the pool is used up; then nothing was inserted.
        """
        self.reserve(shards)
        self._place(shards, entries_of(hashes, rows))
        np.add.at(self._live, shards, 1)

    def insert_one(self, shard: int, key_hash: int, row: int) -> None:
        """`insert` of one key: a phone that connects for the first time costs no array calls.

        Raises Overloaded when the pool is used up; then nothing was inserted.
        """
        if not self._masks.item(shard):
            self._bases[shard] = self._pool.take(_SIZE_MIN)
            self._masks[shard], self._limits[shard] = _SIZE_MIN - 1, int(_SIZE_MIN * _LOAD_MAX)
            self._rebuilds += 1
        elif self._used.item(shard) >= self._limits.item(shard):
            self._rebuild(np.array([shard]), np.array([1]))
        entries = self._pool.entries
        base, mask = self._bases.item(shard), self._masks.item(shard)
        slot = (key_hash >> 32) & mask
        while (present := entries.item(base + slot)) not in (0, _LOW):
            slot = (slot + 1) & mask
        entries[base + slot] = (key_hash >> 32 << 32) | (row + 1)
        self._used[shard] += present == 0
        self._live[shard] += 1

    def _place(self, shards: I64, entries: U64) -> None:
        """Writes entries, all distinct, into the first free slots from their homes on; `used` follows."""
        pool = self._pool.entries
        bases = self._bases[shards]
        masks = self._masks[shards]
        slots = (entries >> _SHIFT32).view(np.int64) & masks
        while len(entries):
            places = bases + slots
            present = pool[places]
            is_free = (present == 0) | (present == _TOMBSTONE)
            pool[places[is_free]] = entries[is_free]
            # Where several want one slot, the last write stays; the others see that and go on.
            is_placed = pool[places] == entries
            np.add.at(self._used, shards[is_placed & (present == 0)], 1)
            is_open = ~is_placed
            shards, entries, bases, masks = shards[is_open], entries[is_open], bases[is_open], masks[is_open]
            slots = (slots[is_open] + 1) & masks

    def remove(self, shards: I64, hashes: U64, rows: I32) -> Bool:
        """Afterwards none of the keys leads to its row. (n,) bool: which did before. Rows must be distinct."""
        pool = self._pool.entries
        removed = np.zeros(len(rows), np.bool_)
        index = np.arange(len(rows))
        entries = entries_of(hashes, rows)
        masks = self._masks[shards]
        bases = self._bases[shards]
        slots = (hashes >> _SHIFT32).view(np.int64) & masks
        while len(entries):
            places = bases + slots
            present = pool[places]
            is_hit = present == entries
            pool[places[is_hit]] = _TOMBSTONE
            removed[index[is_hit]] = True
            is_open = (present != 0) > is_hit
            index, entries, masks, bases = index[is_open], entries[is_open], masks[is_open], bases[is_open]
            slots = (slots[is_open] + 1) & masks
        np.subtract.at(self._live, shards[removed], 1)
        return removed

    def rows_of(self, shard: int) -> U32:
        """The rows of one shard, in no order. A copy."""
        segment = self._segment(shard)
        return (segment[_is_live(segment)] & _LOW64).astype(np.uint32) - np.uint32(1)

    def rows_of_shards(self, shards: range, rows_max: int) -> tuple[int, I32]:
        """The first k of the shards, at least one, that have no more than so many rows: k and their rows, a copy, in no
        order. Shards without keys cost nothing."""
        live = self._live[shards.start : shards.stop : shards.step]
        k = max(1, int(np.searchsorted(np.cumsum(live), rows_max, side="right")))
        used = np.flatnonzero(live[:k]) * shards.step + shards.start
        return k, np.concatenate([np.zeros(0, np.uint32), *map(self.rows_of, used.tolist())]).astype(np.int32)

    def _segment(self, shard: int) -> U64:
        """A view of the shard's segment; of size 1, never to be written, for a shard without keys."""
        base = int(self._bases[shard])
        return self._pool.entries[base : base + int(self._masks[shard]) + 1]

    def _rebuild(self, shards: I64, n_new: I64) -> None:
        """Afterwards the shards, all distinct, have no tombstones and room for `n_new` more keys each.

        Shards that fill up in one batch are rebuilt together: young segments grow in crowds, and the array calls for
        one of them cost as much as moving a thousand entries. Raises Overloaded; then nothing changed.
        """
        sizes_old = self._masks[shards] + 1
        sizes = np.maximum(_sizes_for(self._live[shards] + n_new), sizes_old)
        grown = np.flatnonzero(sizes > sizes_old)
        bases_old = self._bases[shards]
        bases = bases_old.copy()
        bases[grown] = self._take_blocks(sizes[grown])
        owners, entries = self._lift(shards, bases_old, sizes_old)
        for index in grown.tolist():
            if sizes_old[index] > 1:
                self._pool.give(int(bases_old[index]), int(sizes_old[index]))
        self._bases[shards] = bases
        self._masks[shards] = sizes - 1
        self._limits[shards] = sizes * _LOAD_MAX
        self._used[shards] = 0
        self._place(owners, entries)
        self._rebuilds += len(shards)
        self._moved += len(entries)
        self._longest_rebuild = max(self._longest_rebuild, int(self._live[shards].max()))
        self._longest_step = max(self._longest_step, len(entries))

    def _take_blocks(self, sizes: I64) -> I64:
        """One block of each size, or Overloaded and none."""
        starts = np.zeros(len(sizes), np.int64)
        taken: list[tuple[int, int]] = []
        try:
            for size in np.unique(sizes).tolist():
                wanted = np.flatnonzero(sizes == size)
                found: list[int] = []
                while len(found) < len(wanted):
                    # Blocks side by side are one block until they are given back.
                    n, start = self._pool.take_some(size, len(wanted) - len(found))
                    found += range(start, start + n * size, size)
                    taken += [(first, size) for first in found[-n:]]
                starts[wanted] = found
        except Overloaded:
            for start, size in taken:
                self._pool.give(start, size)
            raise
        return starts

    def _lift(self, shards: I64, bases: I64, sizes: I64) -> tuple[I64, U64]:
        """(shard, entry) of all live entries of the segments; afterwards those are all zero."""
        owners: list[I64] = [np.zeros(0, np.int64)]
        entries: list[U64] = [np.zeros(0, np.uint64)]
        for size in np.unique(sizes[sizes > 1]).tolist():
            chosen = np.flatnonzero(sizes == size)
            blocks = self._pool.entries.reshape(-1, size)
            index = bases[chosen] // size
            content = blocks[index]
            is_live = _is_live(content)
            owners.append(np.repeat(shards[chosen], is_live.sum(axis=1)))
            entries.append(content[is_live])
            blocks[index] = 0
        return np.concatenate(owners), np.concatenate(entries)

    def statistics(self) -> SegmentsStatistics:
        live, used = int(self._live.sum()), int(self._used.sum())
        slots = int((self._masks[self._masks > 0] + 1).sum())
        return SegmentsStatistics(
            live, used - live, slots, self._rebuilds, self._moved, self._longest_rebuild, self._longest_step
        )


def entries_of(hashes: U64, rows: I32) -> U64:
    """(n,) what stands in a segment for a key of this hash and this row."""
    entries: U64 = (hashes & _HIGH64) | (rows.astype(np.uint64) + _ONE64)
    return entries


def rows_of_entries(entries: U64) -> I32:
    """(n,) int32 the rows of live entries."""
    return (entries & _LOW64).astype(np.int32) - np.int32(1)


def _twins(homes: I64, entries: U64) -> I64:
    """Positions, in order, of entries whose fingerprint another one has, too. homes: ascending."""
    is_twin = np.zeros(len(entries), np.bool_)
    near = np.arange(len(entries) - 1)
    distance = 1
    # Equal fingerprints have one home slot, and hardly any slot is the home of more than a handful.
    while len(near := near[homes[near] == homes[near + distance]]):
        equal = near[(entries[near] ^ entries[near + distance]) <= _LOW64]
        is_twin[equal] = is_twin[equal + distance] = True
        distance += 1
        near = near[near + distance < len(entries)]
    return np.flatnonzero(is_twin)


def _one_at_a_time(verify: Verify, index: int) -> Callable[[int], bool]:
    at = np.array([index])
    return lambda row: bool(verify(at, np.array([row], np.int32))[0])


def _is_live(entries: U64) -> Bool:
    """Empty (0) and tombstone (2^32 - 1) fall out by one compare."""
    return ((entries - _ONE64) & _LOW64) < _LIVE_BELOW


def _sizes_for(n_keys: I64) -> I64:
    """(n,) the power of two, at least `_SIZE_MIN`, that holds so many keys at `_LOAD_AFTER_REBUILD`."""
    wanted = np.maximum(n_keys / _LOAD_AFTER_REBUILD, _SIZE_MIN)
    # x = m * 2^e with 0.5 <= m < 1; so 2^e is the power of two above wanted - 1.
    exponents: I64 = np.frexp(wanted - 1)[1].astype(np.int64)
    return np.left_shift(1, exponents)
