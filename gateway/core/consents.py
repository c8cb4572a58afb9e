"""Consents: how many messages of a template a user has agreed to, and which of them rows are already on their way with.

    report (the user agreed) --> left += n          a row is about to be sent --> held += 1, while left > held
                                                    its vendor took it        --> held -= 1, left -= 1
                                                    it ended otherwise        --> held -= 1
                                                    its vendor knows of none  --> held -= 1, left  = 0

A key is 128 bits of a keyed hash over app, template and user, so that neither the table nor the store names a person.
Two keys are taken for one if all bits agree, which is not going to happen. A key without a consent and without a held
row is not kept: "none" and "never heard of" are the same here. All columns are of one owner; arrays given are not kept.

Source: facts/vendors-china.md section 6.7 (2026-11): one acceptance is one message of one template.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from gateway.columns import I32, I64, U8, U16, U64, Bool
from gateway.consent_columns import Changed
from gateway.core.segments import HashKey, Segments
from gateway.core.tokens import FreeRows
from gateway.errors import Overloaded

#: Consents of one key at most: a column of two bytes. Nobody agrees to more before one is used.
LEFT_MAX = 0xFFFF
#: Bytes of one key: 16 its hash, 2 + 2 its counts, 1 its mark, some 14 its place in the index (at a load of 0.6).
KEY_BYTES = 36


def key_salts(app_key: str, template: str) -> tuple[int, int]:
    """What tells templates of apps apart in `hash_users`."""
    digest = hashlib.blake2b(f"{app_key}\0{template}".encode(), digest_size=8, person=b"consent").digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def hash_users(key: HashKey, users: U8, salts: tuple[int, int]) -> U64:
    """users: (n, width) uint8 -> (n, 2) uint64 keys."""
    return np.stack([key.hash_rows(users, salt) for salt in salts], axis=1)


class ConsentStatistics(NamedTuple):
    """keys: with a consent, or a row under way. held: rows under way."""

    keys: int
    held: int


class ConsentTable:
    """keys_max: bounds the table; memory that was never used costs nothing. is_stored: somebody takes what changes."""

    __slots__ = (
        "_free",
        "_gone",
        "_held",
        "_index",
        "_is_changed",
        "_is_stored",
        "_keys",
        "_keys_max",
        "_left",
        "_next",
        "_total_held",
    )

    def __init__(self, keys_max: int, *, is_stored: bool = True) -> None:
        self._keys_max = keys_max
        self._is_stored = is_stored
        self._index = Segments(keys_max, "consents_index_slots_max")
        self._keys: U64 = np.zeros((keys_max + 1, 2), np.uint64)
        self._left: U16 = np.zeros(keys_max + 1, np.uint16)
        self._held: U16 = np.zeros(keys_max + 1, np.uint16)
        self._is_changed: Bool = np.zeros(keys_max + 1, np.bool_)
        self._free = FreeRows()
        self._next = 1
        self._total_held = 0
        #: Keys that left the table and whose end the store has not got.
        self._gone: list[U64] = []

    def __len__(self) -> int:
        return self._next - 1 - len(self._free)

    @property
    def knows_none(self) -> bool:
        """Nobody agreed to anything."""
        return not len(self)

    def find(self, keys: U64) -> I32:
        """(n,) int32 the place of each key, -1 for one that is not there. It stays the same while a row is held."""

        def verify(index: slice | I64, rows: I32) -> Bool:
            is_same: Bool = (self._keys[rows] == keys[index]).all(axis=1)
            return is_same

        return self._index.find(_shards(keys), keys[:, 0], verify)

    def left(self, keys: U64) -> U16:
        """(n,) consents that no row is on its way with."""
        places = self.find(keys)
        free: U16 = np.maximum(self._left[places].astype(np.int32) - self._held[places], 0).astype(np.uint16)
        free[places < 0] = 0
        return free

    # what users say

    def report(self, keys: U64, counts: U64, *, is_total: bool) -> None:
        """Afterwards each key has so many consents more, or, with is_total, just so many beside those that rows are on
        their way with; a key that comes twice is added up, or has what it said last.

        Raises Overloaded where there is no room for all new keys; then nothing changed.
        """
        distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        wanted = np.zeros(len(distinct), np.int64)
        if is_total:
            wanted[inverse] = np.minimum(counts, LEFT_MAX).astype(np.int64)
        else:
            np.add.at(wanted, inverse, np.minimum(counts, LEFT_MAX).astype(np.int64))
        places = self.find(distinct)
        is_new = (places < 0) & (wanted > 0)
        n_new = int(is_new.sum())
        if len(self) + n_new > self._keys_max:
            raise Overloaded("consents.keys_max", len(self), self._keys_max)
        if n_new:
            places[is_new] = self._add(distinct[is_new])
        known = places >= 0
        at, counts_at = places[known], wanted[known]
        before = self._held[at] if is_total else self._left[at]
        self._left[at] = np.minimum(before + counts_at, LEFT_MAX).astype(np.uint16)
        self._is_changed[at] = True
        self._let_go(at)

    def _add(self, keys: U64) -> I32:
        self._index.reserve(_shards(keys))
        places = self._free.take(len(keys)).astype(np.int32)
        n_fresh = len(keys) - len(places)
        places = np.concatenate([places, np.arange(self._next, self._next + n_fresh, dtype=np.int32)])
        self._next += n_fresh
        self._keys[places] = keys
        self._index.insert(_shards(keys), keys[:, 0], places)
        return places

    # what rows do

    def hold(self, keys: U64) -> I32:
        """(n,) the places of the keys of rows that may go, -1 of those for which no consent is left. Of rows with the
        same key the first ones go."""
        places = self.find(keys)
        order = np.argsort(places, kind="stable")
        ordered = places[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else order
        lengths = np.diff(np.append(starts, len(ordered)))
        rank = np.empty(len(places), np.int64)
        rank[order] = np.arange(len(ordered)) - np.repeat(starts, lengths)
        free = self._left[places].astype(np.int64) - self._held[places]
        may_go: Bool = (places >= 0) & (rank < free)
        places[~may_go] = -1
        np.add.at(self._held, places[may_go], 1)
        self._total_held += int(may_go.sum())
        return places

    def are_held(self, keys: U64) -> Bool:
        """(n,) of which keys rows are under way."""
        places = self.find(keys)
        held: Bool = (self._held[places] > 0) & (places >= 0)
        return held

    def give_back(self, places: I32) -> None:
        """Rows that were on their way have not used their consent."""
        self._release(places)
        self._let_go(places)

    def spend(self, places: I32) -> None:
        """Rows have used it."""
        self._release(places)
        distinct, used = np.unique(places, return_counts=True)
        self._left[distinct] -= np.minimum(used, self._left[distinct]).astype(np.uint16)
        self._is_changed[distinct] = True
        self._let_go(places)

    def empty(self, places: I32) -> None:
        """The vendor knows of no consent."""
        self._release(places)
        self._left[places] = 0
        self._is_changed[places] = True
        self._let_go(places)

    def lower(self, keys: U64, counts: I64) -> None:
        """Each key has so many fewer, as far as it has any; what rows hold stays held."""
        places = self.find(keys)
        known = places >= 0
        distinct, inverse = np.unique(places[known], return_inverse=True)
        fewer = np.bincount(inverse, np.minimum(counts[known], LEFT_MAX), len(distinct)).astype(np.int64)
        self._left[distinct] -= np.minimum(fewer, self._left[distinct]).astype(np.uint16)
        self._is_changed[distinct] = True
        self._let_go(distinct)

    def idle(self) -> Changed:
        """The keys with consents that no row is on its way with, and how many."""
        places = np.flatnonzero(self._left[: self._next] > self._held[: self._next])
        return Changed(self._keys[places], self._left[places] - self._held[places])

    def keys_at(self, places: I32) -> U64:
        return self._keys[places]

    def are_empty(self, places: I32) -> Bool:
        """(n,) at which places no consent is left, whatever rows hold."""
        empty: Bool = self._left[places] == 0
        return empty

    def _release(self, places: I32) -> None:
        np.subtract.at(self._held, places, 1)
        self._total_held -= len(places)

    def _let_go(self, places: I32) -> None:
        """Places without consent and without a held row are free."""
        places = np.unique(places)
        places = places[(self._left[places] == 0) & (self._held[places] == 0)]
        if len(places):
            keys = self._keys[places]
            self._index.remove(_shards(keys), keys[:, 0], places)
            if self._is_stored:
                self._gone.append(keys)
            self._is_changed[places] = False
            self._keys[places] = 0
            self._free.give(places.astype(np.uint32))

    # the store

    def take_changed(self) -> Changed:
        """What the store has not got; the caller writes it, or brings it back with `mark`."""
        places = np.flatnonzero(self._is_changed[: self._next])
        keys = self._keys[places]
        self._is_changed[places] = False
        gone = np.unique(np.concatenate(self._gone), axis=0) if self._gone else keys[:0]
        self._gone.clear()
        gone = gone[self.find(gone) < 0]
        return Changed(
            np.concatenate([gone, keys]), np.concatenate([np.zeros(len(gone), np.uint16), self._left[places]])
        )

    def mark(self, keys: U64) -> None:
        """They could not be written."""
        places = self.find(keys)
        self._is_changed[places[places >= 0]] = True
        self._gone.append(keys[places < 0])

    def restore(self, stored: Changed) -> None:
        """What a store had, in a table that does not know these keys. Raises Overloaded."""
        if len(self) + len(stored.keys) > self._keys_max:
            raise Overloaded("consents.keys_max", len(self) + len(stored.keys), self._keys_max)
        self._left[self._add(stored.keys)] = stored.left

    def statistics(self) -> ConsentStatistics:
        return ConsentStatistics(len(self), self._total_held)


def _shards(keys: U64) -> I64:
    """By bits of the hash that neither the fingerprint nor the home slot uses, as tokens do."""
    return (keys[:, 0] >> np.uint64(20)).view(np.int64) & 0xFFF
