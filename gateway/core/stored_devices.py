"""Between device table and registry: rows as whole states in columns, and whole states back into an empty table.

A load trusts its columns: they were written from a table that had checked them. Only what two groups of shards may
disagree about after a crash is looked at again: a token that two devices hold belongs to the one registered last.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gateway.columns import I32, I64, U8, U32, Bool, TextColumn
from gateway.content import Fault
from gateway.core.details import Details, Profile
from gateway.core.records import (
    FLAG_BLOCKED,
    FLAG_CLOSED,
    FLAG_DETAILS,
    FLAG_MUTED,
    FLAG_NOTIFICATIONS_OFF,
    DeviceRecords,
)
from gateway.core.registration import earlier_of_equal
from gateway.core.segments import HashKey, Segments, device_shards
from gateway.core.tokens import TokenColumn, TokenIndex
from gateway.device_columns import DeviceColumns, take_texts
from gateway.errors import Overloaded

_KEPT_FLAGS = np.uint8(FLAG_MUTED | FLAG_BLOCKED | FLAG_CLOSED | FLAG_NOTIFICATIONS_OFF)


def export_rows(rows: I32, records: DeviceRecords, tokens: TokenIndex, details: Details) -> DeviceColumns:
    """The whole states of known rows."""
    found = records.gather(rows)
    ids = np.ascontiguousarray(records.gather_words(rows)[:, :2]).view(np.uint8)
    used, profiles = np.unique(found["profile"], return_inverse=True)
    texts = [b"\0".join(details.profiles.profile(number)) for number in used.tolist()]
    aliases = tags = None
    if (found["flags"] & FLAG_DETAILS).any():
        aliases, tags = details.columns(rows)
    return DeviceColumns(
        device_ids=ids,
        shards=device_shards(ids).astype(np.uint16),
        apps=found["app"].copy(),
        channels=found["channel"].copy(),
        flags=found["flags"] & _KEPT_FLAGS,
        tokens=_token_texts(found["token_length"].astype(np.int64), found["token_row"], tokens),
        registered_unix_s=found["registered_unix_s"].copy(),
        proven_unix_s=found["proven_unix_s"].copy(),
        first_seen_unix_s=found["first_seen_unix_s"].copy(),
        last_seen_unix_s=found["last_seen_unix_s"].copy(),
        profiles=profiles.astype(np.uint32),
        profile_texts=TextColumn.from_rows(texts),
        aliases=aliases,
        tags=tags,
    )


def _token_texts(lengths: I64, token_rows: U32, tokens: TokenIndex) -> TextColumn:
    offsets = np.zeros(len(lengths) + 1, np.uint32)
    np.cumsum(lengths, out=offsets[1:])
    blob = np.empty(int(offsets[-1]), np.uint8)
    for length in np.unique(lengths).tolist():
        if length:
            at = np.flatnonzero(lengths == length)
            texts = tokens.store.gather(length, token_rows[at])
            blob[offsets[at].astype(np.int64)[:, None] + np.arange(length)] = texts
    return TextColumn(blob.tobytes(), offsets)


class Restoring:
    """Puts stored devices into the parts of a table that does not know them. `new_rows`: the table's."""

    def __init__(
        self,
        *,
        records: DeviceRecords,
        index: Segments,
        tokens: TokenIndex,
        details: Details,
        key: HashKey,
        new_rows: Callable[[U8, int, int], I32],
    ) -> None:
        self._records = records
        self._index = index
        self._tokens = tokens
        self._details = details
        self._key = key
        self._new_rows = new_rows
        #: Devices that lost a token to one registered later; muted tokens more than before.
        self.n_lost = 0
        self.n_muted = 0

    def expect(self, n_devices: int, sample: DeviceColumns) -> None:
        """Makes room for so many devices, of which as many have a token and an alias as of the sample."""
        share = n_devices / sample.n
        self._tokens.expect(int(np.count_nonzero(sample.channels) * share))
        if sample.aliases is not None:
            self._details.aliases.expect(int(np.count_nonzero(sample.aliases.lengths()) * share))

    def restore(self, devices: DeviceColumns) -> None:
        """Afterwards the devices are known, all offline.

        Raises Overloaded where a limit of the table is smaller than what was stored.
        """
        apps = np.unique(devices.apps).tolist()
        for app in apps:
            part = devices if len(apps) == 1 else devices.take(np.flatnonzero(devices.apps == app))
            self._restore_app(part, app)

    def _restore_app(self, devices: DeviceColumns, app: int) -> None:
        ids = np.ascontiguousarray(devices.device_ids)
        shards, hashes = devices.shards.astype(np.int64), self._key.hash_rows(ids, app)
        self._index.reserve(shards)
        rows = self._new_rows(ids, app, 0)
        self._index.insert(shards, hashes, rows)
        records = self._records
        has_details = np.zeros(devices.n, np.bool_)
        if devices.aliases is not None:
            has_details |= devices.aliases.lengths() > 0
        if devices.tags is not None:
            has_details |= devices.tags.counts > 0
        flags = devices.flags & _KEPT_FLAGS
        records.flags[rows] = np.where(has_details, flags | np.uint8(FLAG_DETAILS), flags)
        records.registered_unix_s[rows] = devices.registered_unix_s
        records.proven_unix_s[rows] = devices.proven_unix_s
        records.first_seen_unix_s[rows] = devices.first_seen_unix_s
        records.last_seen_unix_s[rows] = devices.last_seen_unix_s
        numbers = self._profile_numbers(devices)
        records.profile[rows] = numbers
        self._details.profiles.count(numbers, 1)
        self._attach(rows, devices, app)
        self._details.write(rows, app, devices.aliases, devices.tags)

    def _profile_numbers(self, devices: DeviceColumns) -> U32:
        """(n,) the table's numbers. A loop over texts, of which a block of thousands of devices has a few hundred."""
        profiles = self._details.profiles
        numbers = np.zeros(len(devices.profile_texts), np.uint32)
        for position, text in enumerate(devices.profile_texts.rows()):
            number = profiles.number(Profile(*text.split(b"\0")))
            if isinstance(number, Fault):
                raise Overloaded("profiles_max", len(profiles), len(profiles))
            numbers[position] = number
        return numbers[devices.profiles]

    def _attach(self, rows: I32, devices: DeviceColumns, app: int) -> None:
        """The devices hold their tokens, but for those that somebody else registered later."""
        records = self._records
        with_token = np.flatnonzero(devices.channels)
        is_whole = len(with_token) == devices.n
        tokens = devices.tokens if is_whole else take_texts(devices.tokens, with_token)
        column = self._tokens.column(app, devices.channels if is_whole else devices.channels[with_token], tokens)
        registered = devices.registered_unix_s[with_token]
        wants = (column.lengths > 0) & ~_lost_within(column, tokens, registered)
        positions = np.flatnonzero(wants)
        holders = self._tokens.find(column, positions)
        is_held = holders >= 0
        if is_held.any():
            is_later = ~is_held | (records.registered_unix_s[holders] <= registered[positions])
            losers = np.unique(holders[is_held & is_later])
            self.n_muted -= self._count_muted(losers)
            self._tokens.detach(losers)
            self.n_lost += len(losers)
            wants[positions[~is_later]] = False
            positions = positions[is_later]
        token_rows, has_room = self._tokens.allocate(column.lengths[positions])
        if not has_room.all():
            limit = self._tokens.store.limit_bytes
            raise Overloaded("token_bytes_max", limit, limit)
        self._tokens.reserve(column.hashes[positions])
        held, without = rows[with_token[positions]], rows[with_token[~wants]]
        records.flags[without] &= np.uint8(~FLAG_MUTED & 0xFF)
        records.proven_unix_s[without] = 0
        self.n_lost += len(without)
        self._tokens.attach(held, column, positions, token_rows)
        self.n_muted += self._count_muted(held)

    def _count_muted(self, rows: I32) -> int:
        return int(((self._records.flags[rows] & FLAG_MUTED) != 0).sum())


def _lost_within(column: TokenColumn, tokens: TextColumn, registered_unix_s: U32) -> Bool:
    """(n,) whose token another row of the column has that was registered later, or as late and stands behind."""

    def key_of(at: int) -> bytes:
        return bytes([column.channels[at]]) + tokens.row(at)

    wants = column.lengths > 0
    is_lost = earlier_of_equal(column.hashes, wants, key_of)
    if is_lost.any():
        order = np.argsort(registered_unix_s, kind="stable")
        is_lost[order] = earlier_of_equal(column.hashes[order], wants[order], lambda at: key_of(int(order[at])))
    return is_lost
