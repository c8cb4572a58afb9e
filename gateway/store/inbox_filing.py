"""What an inbox keeps in memory beside its rows: how many rows, at most, each device may have there.

A column of counters, indexed by a hash of the device id: a device whose counter is zero has no row, so its return costs
no read; one whose counter is below its limit has room, so its row costs none either. Devices that share a counter make
it too high, never too low. Then the index is asked (`inbox_index.py`), whose filters answer without a read for nearly
all that have no row. So there are as many counters as keep their average well below the limit of a device.
"""

from __future__ import annotations

import numpy as np

from gateway.columns import I64, U8, U64

#: At least: 8 MiB with their bytes, 1 % full with 10,000 devices that are away. At most: 512 MiB.
BUCKETS = 1 << 20
BUCKETS_MAX = 1 << 26
#: Rows of a counter on average when the inbox is full: 12 of 100 that a device may have. By chance it is never a
#: hundred, and devices with many rows are more than their share of a few counters.
_BUCKET_ROWS = 16
#: Odd constants: 2^64 / golden ratio, and the multiplier of Steele and Vigna's 64-bit LCG, as for shards of devices.
_MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95
_MASK = (1 << 64) - 1


def buckets_for(rows_max: int, rows_per_device_max: int) -> int:
    """How many counters an inbox of these limits has: a power of two."""
    wanted = rows_max // max(min(_BUCKET_ROWS, rows_per_device_max // 8), 1)
    return min(max(1 << max(wanted - 1, 0).bit_length(), BUCKETS), BUCKETS_MAX)


def device_hashes(ids: U8) -> I64:
    """(n, 16) uint8 -> (n,) int64, as it stands in the database's index. Not secret: equal ones cost a comparison."""
    words: U64 = np.ascontiguousarray(ids).view("<u8")
    mixed = (words[:, 0] ^ words[:, 1] * np.uint64(_MIX_1)) * np.uint64(_MIX_2)
    mixed ^= mixed >> np.uint64(29)
    return mixed.view(np.int64)


def device_hash(device_id: bytes) -> int:
    """The same of one id."""
    low, high = int.from_bytes(device_id[:8], "little"), int.from_bytes(device_id[8:], "little")
    mixed = ((low ^ (high * _MIX_1 & _MASK)) * _MIX_2) & _MASK
    mixed ^= mixed >> 29
    return mixed - (1 << 64) if mixed >> 63 else mixed


class Filing:
    """Counts by bucket, and of everything. Written in turns, read by the loop; changes since the last commit can be
    taken back."""

    def __init__(self, buckets: int) -> None:
        """buckets: a power of two."""
        self._mask = buckets - 1
        self._counts = np.zeros(buckets, np.uint32)
        self._bytes = np.zeros(buckets, np.uint32)
        self.rows = 0
        self.bytes = 0
        self._uncommitted: list[tuple[I64, I64, int]] = []

    def add(self, hashes: I64, sizes: I64, sign: int = 1) -> None:
        """Rows of these devices are there, or with sign -1 no longer."""
        self._apply(hashes, sizes, sign)
        self._uncommitted.append((hashes, sizes, sign))

    def _apply(self, hashes: I64, sizes: I64, sign: int) -> None:
        at = hashes & self._mask
        np.add.at(self._counts, at, np.uint32(sign & 0xFFFFFFFF))
        np.add.at(self._bytes, at, (sizes * sign).astype(np.uint32))
        self.rows += sign * len(hashes)
        self.bytes += sign * int(sizes.sum())

    def commit(self) -> None:
        self._uncommitted.clear()

    def undo(self) -> None:
        for hashes, sizes, sign in self._uncommitted:
            self._apply(hashes, sizes, -sign)
        self._uncommitted.clear()

    def may_hold(self, one_hash: int) -> bool:
        return bool(self._counts[one_hash & self._mask])

    def at_most(self, hashes: I64) -> tuple[I64, I64]:
        """(n,) rows and bytes that each device has at most."""
        at = hashes & self._mask
        return self._counts[at].astype(np.int64), self._bytes[at].astype(np.int64)
