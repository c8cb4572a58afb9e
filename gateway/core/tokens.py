"""Device tokens: `TokenStore` keeps their bytes, `TokenIndex` knows which device holds which.

The store. Tokens of all lengths lie side by side, so that a burst gathers them with one array call. One pool of bytes
is reserved once. It is handed out in *extents* of 64 KiB, each of which belongs to one token length from then on;
inside it lie tokens of that length, back to back. A token of length L is addressed by (L, row): it stands at byte
row * L of the pool. So all tokens of one length are rows of one 2-D view of the whole pool, wherever their extents
lie, and `np.take` copies k of them in one call.

    pool   | 64 64 64 64 ... | 163 163 163 ... | 64 64 64 ... | untouched, costs nothing
    view of length 64: pool[: n * 64].reshape(n, 64), of length 163: pool[: n * 163].reshape(n, 163), ...

A freed row serves the next token of the same length; extents do not change hands, so what the pool can lose is what
lengths that died out still hold (`statistics` shows it). Rejected: a slab array per length (each would have to be
reserved at the full limit, or copied to grow); padding to size classes (FCM tokens of 142 bytes would cost 160).

The index. A vendor token belongs to one device of an app at a time. The key of a token is (app, channel, text); its
64-bit hash stands in the device's record, so that letting go of a token needs no look at its text. The upper half of
the hash, 4 bytes, is the token hash that batches keep to find a row by the token a receipt names.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.columns import I32, I64, U8, U32, U64, Bool, TextColumn
from gateway.core.records import FLAG_MUTED, DeviceRecords, as_run
from gateway.core.segment_filling import SegmentsFilling
from gateway.core.segments import HASHED_BYTES_MAX, Drop, HashKey, Segments, SegmentsStatistics, hash_shards

#: The longest device token, bytes. FCM names no maximum and issues about 142 to 200; the longest in the fact sheets is
#: 255; 4 KiB is what a header line of the vendors' servers takes.
TOKEN_BYTES_MAX = HASHED_BYTES_MAX
#: Small enough that a hundred lengths with a few tokens each cost 6 MiB, large enough that extents are rare.
EXTENT_BYTES = 1 << 16


class FreeRows:
    """A stack of row numbers that may be used again. 4 bytes each; no object per row."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows = array("I")

    def __len__(self) -> int:
        return len(self._rows)

    def give(self, rows: U32) -> None:
        self._rows.frombytes(np.ascontiguousarray(rows, np.uint32).tobytes())

    def take(self, count: int) -> U32:
        """Up to `count` rows, those given last."""
        first = max(0, len(self._rows) - count)
        taken = np.frombuffer(self._rows[first:].tobytes(), np.uint32)
        del self._rows[first:]
        return taken


class LengthGroup(NamedTuple):
    """Texts of one length. positions: (k,) int64 into the column. texts: (k, length) uint8."""

    length: int
    positions: I64
    texts: U8


def by_length(column: TextColumn) -> Iterator[LengthGroup]:
    """The rows of a column, grouped by length, short ones first. Empty rows are left out."""
    fixed = column.fixed()
    if fixed is not None:
        if fixed.shape[1]:
            yield LengthGroup(fixed.shape[1], np.arange(len(column)), fixed)
        return
    lengths = column.lengths()
    blob = np.frombuffer(column.blob, np.uint8)
    starts = column.offsets[:-1].astype(np.int64)
    for length in np.unique(lengths).tolist():
        if length:
            positions = np.flatnonzero(lengths == length)
            yield LengthGroup(length, positions, blob[starts[positions][:, None] + np.arange(length)])


class TokenStoreStatistics(NamedTuple):
    """tokens: kept now. used_bytes: of those. extent_bytes: handed out to lengths. limit_bytes: token_bytes_max."""

    tokens: int
    lengths: int
    used_bytes: int
    extent_bytes: int
    limit_bytes: int


class TokenStore:
    """Tokens by (length, row). One owner; callers keep the addresses."""

    __slots__ = ("_extents", "_extents_max", "_free", "_pool", "_tokens", "_used_bytes", "_views")

    def __init__(self, token_bytes_max: int) -> None:
        """token_bytes_max: bytes of the pool, reserved at once, touched as it fills; at least one extent."""
        self._extents_max = max(1, token_bytes_max // EXTENT_BYTES)
        self._pool: U8 = np.zeros(self._extents_max * EXTENT_BYTES, np.uint8)
        self._extents = 0
        self._views: dict[int, U8] = {}
        self._free: dict[int, FreeRows] = {}
        self._tokens = 0
        self._used_bytes = 0

    @property
    def limit_bytes(self) -> int:
        return len(self._pool)

    def allocate(self, length: int, count: int) -> U32:
        """Rows for `count` tokens of `length` (1 to `TOKEN_BYTES_MAX`), fewer where the pool is full."""
        free = self._free.setdefault(length, FreeRows())
        while len(free) < count and self._extents < self._extents_max:
            start = self._extents * EXTENT_BYTES
            self._extents += 1
            first = -(-start // length)
            # The last rows first: rows are taken from the end, so the pool fills from the front.
            free.give(np.arange((start + EXTENT_BYTES) // length - 1, first - 1, -1, dtype=np.uint32))
        rows = free.take(count)
        self._tokens += len(rows)
        self._used_bytes += len(rows) * length
        return rows

    def free(self, length: int, rows: U32) -> None:
        """Afterwards the rows, all distinct, may serve other tokens of this length."""
        self._free[length].give(rows)
        self._tokens -= len(rows)
        self._used_bytes -= len(rows) * length

    def write(self, length: int, rows: U32, tokens: U8) -> None:
        """tokens: (k, length) uint8."""
        self._view(length)[as_run(rows)] = tokens

    def gather(self, length: int, rows: U32) -> U8:
        """(k, length) uint8, a copy. A row beyond the pool gives the last one: for callers that check afterwards."""
        return self._view(length).take(rows, axis=0, mode="clip")

    def _view(self, length: int) -> U8:
        view = self._views.get(length)
        if view is None:
            n = len(self._pool) // length
            view = self._views[length] = self._pool[: n * length].reshape(n, length)
        return view

    def statistics(self) -> TokenStoreStatistics:
        return TokenStoreStatistics(
            self._tokens, len(self._free), self._used_bytes, self._extents * EXTENT_BYTES, len(self._pool)
        )


class TokenGroup(NamedTuple):
    """Usable tokens of one length. positions: (k,) int64 into the rows asked for. tokens: (k, length) uint8, a copy."""

    length: int
    positions: I64
    tokens: U8


class TokenColumn(NamedTuple):
    """n tokens of one app as the index wants them. channels: (n,). lengths: (n,), 0 where there is no token, or one
    longer than `TOKEN_BYTES_MAX`. hashes: (n,), 0 there. texts: by length, (k, length). places: (n,) row in those."""

    app_index: int
    channels: U8
    lengths: I64
    hashes: U64
    places: I64
    texts: dict[int, U8]


class TokenIndex:
    """Which device holds which token. Owns the token fields of the records it is given, and the store."""

    __slots__ = ("_index", "_key", "_records", "store")

    def __init__(self, records: DeviceRecords, key: HashKey, *, tokens_max: int, token_bytes_max: int) -> None:
        self._records = records
        self._key = key
        self._index = Segments(tokens_max, "token_index_slots_max")
        self.store = TokenStore(token_bytes_max)

    def column(self, app_index: int, channels: U8, tokens: TextColumn) -> TokenColumn:
        """The tokens, hashed as tokens of that app and those channels (n,)."""
        n = len(tokens)
        lengths, places = np.zeros(n, np.int64), np.zeros(n, np.int64)
        hashes = np.zeros(n, np.uint64)
        texts: dict[int, U8] = {}
        salts = channels.astype(np.uint64) | np.uint64(app_index << 8)
        for group in by_length(tokens):
            if group.length <= TOKEN_BYTES_MAX:
                at = as_run(group.positions)
                lengths[at], places[at] = group.length, np.arange(len(group.positions))
                hashes[at] = self._key.hash_rows(group.texts, salts[at])
                texts[group.length] = group.texts
        return TokenColumn(app_index, channels, lengths, hashes, places, texts)

    def find(self, column: TokenColumn, positions: I64) -> I32:
        """(k,) int32 the row that holds each token, -1 where nobody does. A muted token is held."""

        def verify(index: slice | I64, rows: I32) -> Bool:
            found = self._records.gather(rows)
            is_same: Bool = found["app"] == column.app_index
            return self._is_same_token(found, column, positions[index], is_same)

        hashes = column.hashes[positions]
        rows = self._index.find(hash_shards(hashes), hashes, verify)
        return np.where(column.lengths[positions] > 0, rows, np.int32(-1))

    def holds(self, rows: I32, column: TokenColumn) -> Bool:
        """(n,) whether each device, -1 for none, of the column's app holds exactly its token of the column now."""
        return self._is_same_token(self._records.gather(rows), column, np.arange(len(rows)), column.lengths > 0)

    def _is_same_token(self, found: npt.NDArray[np.void], column: TokenColumn, positions: I64, is_same: Bool) -> Bool:
        """`is_same`, cleared where the token of the record is not that of the column. found: (k,) records."""
        is_same &= found["token_hash"] == column.hashes[positions]
        is_same &= found["token_length"] == column.lengths[positions]
        is_same &= found["channel"] == column.channels[positions]
        # Equal hashes are as good as equal texts unless somebody chose them; few lengths are left to compare.
        alike = np.flatnonzero(is_same)
        lengths = column.lengths[positions[alike]]
        for length in np.unique(lengths).tolist():
            at = alike[lengths == length]
            if length:
                texts = column.texts[length][column.places[positions[at]]]
                is_same[at] = (self.store.gather(length, found["token_row"][at]) == texts).all(axis=1)
        return is_same

    def allocate(self, lengths: I64) -> tuple[U32, Bool]:
        """(k,) rows of the store for tokens of these lengths, and (k,) whether there was room for each."""
        rows = np.zeros(len(lengths), np.uint32)
        has_room = np.zeros(len(lengths), np.bool_)
        for length in np.unique(lengths).tolist():
            at = np.flatnonzero(lengths == length)
            got = self.store.allocate(length, len(at))
            rows[at[: len(got)]] = got
            has_room[at[: len(got)]] = True
        return rows, has_room

    def filling(self, n_tokens: int, drop: Drop) -> SegmentsFilling:
        """For `load` of about so many tokens, where nobody holds one yet."""
        return SegmentsFilling(self._index, n_tokens, drop)

    def load(self, rows: I32, column: TokenColumn, positions: I64, token_rows: U32, filling: SegmentsFilling) -> None:
        """`attach` of many, but for the records: who holds a token is known when the filling has ended."""
        hashes = column.hashes[positions]
        filling.add(hash_shards(hashes), hashes, rows)
        self._store(column, positions, token_rows)

    def reserve(self, hashes: U64) -> None:
        """Afterwards `attach` of these tokens cannot fail. Raises Overloaded; then nothing changed."""
        self._index.reserve(hash_shards(hashes))

    def attach(self, rows: I32, column: TokenColumn, positions: I64, token_rows: U32) -> None:
        """Afterwards each device holds its token. The devices, distinct, have none, and nobody holds these tokens.

        token_rows: (k,) from `allocate`. Raises Overloaded if there was no `reserve`.
        """
        hashes, lengths = column.hashes[positions], column.lengths[positions]
        self._index.insert(hash_shards(hashes), hashes, rows)
        self._store(column, positions, token_rows)
        records = self._records
        records.channel[rows] = column.channels[positions]
        records.token_row[rows] = token_rows
        records.token_length[rows] = lengths
        records.token_hash[rows] = hashes

    def _store(self, column: TokenColumn, positions: I64, token_rows: U32) -> None:
        """positions: ascending, each of a token."""
        lengths = column.lengths[positions]
        for length, texts in column.texts.items():
            if len(texts) == len(positions) and len(column.texts) == 1:
                self.store.write(length, token_rows, texts)
            else:
                at = np.flatnonzero(lengths == length)
                self.store.write(length, token_rows[at], texts[column.places[positions[at]]])

    def detach(self, rows: I32) -> int:
        """Afterwards none of the devices, all distinct, holds a token. Returns how many did."""
        found = self._records.gather(rows)
        has = found["token_length"] > 0
        rows, found = rows[has], found[has]
        if not len(rows):
            return 0
        hashes = np.ascontiguousarray(found["token_hash"])
        self._index.remove(hash_shards(hashes), hashes, rows)
        self.let_go(rows, found)
        return len(rows)

    def let_go(self, rows: I32, found: npt.NDArray[np.void]) -> None:
        """Afterwards the devices have no token, of whom the index knows nothing. found: their records, each with a
        token."""
        lengths = found["token_length"]
        for length in np.unique(lengths).tolist():
            self.store.free(length, found["token_row"][lengths == length])
        records = self._records
        records.channel[rows] = 0
        records.token_row[rows] = 0
        records.token_length[rows] = 0
        records.token_hash[rows] = 0
        records.flags[rows] &= np.uint8(~FLAG_MUTED & 0xFF)

    def take(self, rows: I32, channel: int) -> list[TokenGroup]:
        """The tokens of the devices, grouped by length. Rows without a usable token of the channel are in no group."""
        return self.take_found(self._records.gather_words(rows), None, channel)

    def take_found(self, words: U64, may: Bool | None, channel: int) -> list[TokenGroup]:
        """The same for records that were gathered before: (n, 8) words. may: rows to be left out where false."""
        # Word 2: app, channel, flags; word 3: generation, token row; low 16 bits of word 7: token length (records.py).
        lengths = (words[:, 7] & np.uint64(0xFFFF)).astype(np.int64)
        heads = words[:, 2]
        wanted = np.uint64(channel << 16)
        usable: Bool = (heads & np.uint64(0xFF0000 | FLAG_MUTED << 24)) == wanted
        if may is not None:
            usable &= may
        token_rows = (words[:, 3] >> np.uint64(32)).astype(np.uint32)
        n = len(words)
        length = int(lengths[0]) if n else 0
        if length and np.count_nonzero(lengths == length) == n and np.count_nonzero(usable) == n:
            return [TokenGroup(length, np.arange(n), self.store.gather(length, token_rows))]
        lengths[~usable] = 0
        groups = []
        for length in np.unique(lengths).tolist():
            if length:
                positions = np.flatnonzero(lengths == length)
                groups.append(TokenGroup(length, positions, self.store.gather(length, token_rows[positions])))
        return groups

    def statistics(self) -> SegmentsStatistics:
        return self._index.statistics()
