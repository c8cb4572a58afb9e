"""Request ids: which submits were answered before, as an index of 24 bytes each. A machine; time is an argument.

    ring     | key | place | rest |   oldest ... newest, one entry per request id that became durable
    index    key -> position in the ring (core/segments.py)

    key      64 bits of a keyed hash over the app's key and the request id
    place    Unix ms of the batch, 48 bits | row of the task's first row, 16 bits
    rest     30 bits of the body's digest | journal number, 12 bits | sequence of the batch, 22 bits

So an entry holds the address of the task's first row, which is what a task id says in other words. An id is forgotten
after `age_ms`, or when `ids_max` newer ones have come, whichever is first. Two ids of 20 million share a key once in
some hundred thousand gateways; the digest then differs, and the second is refused rather than mistaken.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.columns import I32, I64, U64, Bool
from gateway.core.segments import Segments
from gateway.message_id import BatchAddress, RowAddress

_DIGEST_BITS = 30
#: Entries forgotten in one call beside those that make room: a day that ends must not be one long step.
_EXPIRED_MAX = 4096
#: Entries that wait to be put into the index together: one alone costs as much as some hundred, 60 us.
_RECENT_MAX = 1024
#: Row of an id whose submit had no row that could be accepted: there is no task.
_NO_TASK = 0xFFFF

#: (k, 3) uint64: key, place, rest.
Entries = npt.NDArray[np.uint64]


class Known(NamedTuple):
    """address: of the task's first row; None for a submit without rows. digest: of its body, 30 bits."""

    address: RowAddress | None
    digest: int


def request_key(secret: bytes, app_key: str, request_id: str) -> int:
    """The id's key, which also goes into the journal: it must not change between versions."""
    text = f"{app_key}\0{request_id}".encode()
    return int.from_bytes(
        hashlib.blake2b(text, key=secret[:64], digest_size=8, person=b"request id").digest(), "little"
    )


def digest_bits(digest: bytes) -> int:
    """What is kept of a body's digest."""
    return int.from_bytes(digest[:4].ljust(4, b"\0"), "little") & ((1 << _DIGEST_BITS) - 1)


def entry(key: int, digest: int, address: RowAddress | None, *, unix_ms: int = 0) -> tuple[int, int, int]:
    """One row of `Entries`. unix_ms: of a submit without rows."""
    if address is None:
        return key, unix_ms << 16 | _NO_TASK, digest << 34
    batch = address.batch
    # As message ids have it, whoever keeps the batch (core/addresses.py).
    sequence = batch.sequence & 0x3FFFFF
    return key, batch.unix_ms << 16 | address.row, digest << 34 | batch.journal << 22 | sequence


class RequestIds:
    """ids_max: entries kept. age_ms: for how long."""

    def __init__(self, *, ids_max: int, age_ms: int) -> None:
        self._ids_max = ids_max
        self._age_ms = age_ms
        self._segments = Segments(ids_max, "ledger.idempotency_ids_max")
        #: Reserved; a page that nobody wrote to costs nothing.
        self._ring: Entries = np.zeros((ids_max, 3), np.uint64)
        self._oldest = 0
        self._next = 0
        #: The newest, by key, which are not in the ring yet.
        self._recent: dict[int, tuple[int, int, int]] = {}
        self._recent_max = min(_RECENT_MAX, max(1, ids_max // _RECENT_MAX))

    def __len__(self) -> int:
        return self._next - self._oldest + len(self._recent)

    def oldest_unix_ms(self) -> int:
        """When the oldest entry was made; 0 without any."""
        if self._next > self._oldest:
            return int(self._ring[self._oldest % self._ids_max, 1]) >> 16
        return next(iter(self._recent.values()))[1] >> 16 if self._recent else 0

    def window_ms(self, now_unix_ms: int) -> int:
        """How far back a repeated id finds its first answer: `age_ms`, or less where newer ones have taken the place of
        others."""
        if self._next - self._oldest < self._ids_max:
            return self._age_ms
        return min(self._age_ms, max(0, now_unix_ms - self.oldest_unix_ms()))

    def find(self, key: int, now_unix_ms: int) -> Known | None:
        """What the id was answered with; None for one that is not known any more."""
        recent = self._recent.get(key)
        if recent is None:
            ring = self._ring
            row = self._segments.find_one(key >> 52, key, lambda row: int(ring[row, 0]) == key)
            if row < 0:
                return None
            place, rest = int(ring[row, 1]), int(ring[row, 2])
        else:
            _, place, rest = recent
        if place >> 16 < now_unix_ms - self._age_ms:
            return None
        digest = rest >> 34
        if place & 0xFFFF == _NO_TASK:
            return Known(None, digest)
        return Known(address_of(place, rest), digest)

    def remember(self, entry: tuple[int, int, int], now_unix_ms: int) -> None:
        """The same for one whose key is not known."""
        self._recent[entry[0]] = entry
        if len(self._recent) >= self._recent_max:
            entries = np.array(list(self._recent.values()), np.uint64)
            self._recent = {}
            self.add(entries, now_unix_ms)

    def add(self, entries: Entries, now_unix_ms: int) -> None:
        """The entries are the newest; one whose key is known already is passed over. Oldest ones make room."""
        entries = self._unknown(entries[-self._ids_max :], now_unix_ms)
        k = len(entries)
        self._forget(max(0, self._next - self._oldest + k - self._ids_max))
        self._expire(now_unix_ms)
        rows = (np.arange(self._next, self._next + k) % self._ids_max).astype(np.int32)
        self._ring[rows] = entries
        self._segments.insert(*_hashed(entries[:, 0]), rows)
        self._next += k

    @property
    def position(self) -> int:
        """What is remembered from now on is found by `since(position)`, maybe with some of before."""
        return self._next

    def since(self, position: int, n_max: int, now_unix_ms: int) -> tuple[Entries, int]:
        """Up to n_max entries of that position and after it, and the position behind them; none: that was all."""
        if self._recent:
            entries = np.array(list(self._recent.values()), np.uint64)
            self._recent = {}
            self.add(entries, now_unix_ms)
        first = max(position, self._oldest)
        stop = min(first + n_max, self._next)
        return self._ring[np.arange(first, stop) % self._ids_max], stop

    def _unknown(self, entries: Entries, now_unix_ms: int) -> Entries:
        """Those whose key is not known, or has expired: then it no longer leads to what it was answered with before."""
        keys = entries[:, 0]
        _, firsts = np.unique(keys, return_index=True)
        entries = entries[np.sort(firsts)]
        keys = np.ascontiguousarray(entries[:, 0])

        def verify(index: slice | I64, rows: I32) -> Bool:
            found: Bool = self._ring[rows, 0] == keys[index]
            return found

        rows = self._segments.find(*_hashed(keys), verify)
        found = np.flatnonzero(rows >= 0)
        expired = found[~self._is_young(rows[found], now_unix_ms)]
        self._segments.remove(*_hashed(keys[expired]), rows[expired])
        rows[expired] = -1
        return entries[rows < 0]

    def _is_young(self, rows: I32 | I64, now_unix_ms: int) -> Bool:
        oldest = np.uint64(max(0, now_unix_ms - self._age_ms))
        is_young: Bool = (self._ring[rows, 1] >> np.uint64(16)) >= oldest
        return is_young

    def _expire(self, now_unix_ms: int) -> None:
        n = min(self._next - self._oldest, _EXPIRED_MAX)
        if not n or self.oldest_unix_ms() >= now_unix_ms - self._age_ms:
            return
        is_kept = self._is_young(np.arange(self._oldest, self._oldest + n) % self._ids_max, now_unix_ms)
        self._forget(int(np.argmax(is_kept)) if is_kept.any() else n)

    def _forget(self, count: int) -> None:
        if not count:
            return
        rows = (np.arange(self._oldest, self._oldest + count) % self._ids_max).astype(np.int32)
        self._segments.remove(*_hashed(self._ring[rows, 0]), rows)
        self._oldest += count


def address_of(place: int, rest: int) -> RowAddress:
    """The address that an entry holds."""
    return RowAddress(BatchAddress(place >> 16, rest >> 22 & 0xFFF, rest & 0x3FFFFF), place & 0xFFFF)


def _hashed(keys: U64) -> tuple[I64, U64]:
    """Shards and hashes as `Segments` takes them."""
    keys = np.ascontiguousarray(keys)
    shards: I64 = (keys >> np.uint64(52)).view(np.int64)
    return shards, keys
