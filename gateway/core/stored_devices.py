"""Between device table and registry: rows as whole states in columns, and whole states back into an empty table.

A load trusts its columns: they were written from a table that had checked them. Only what two groups of shards may
disagree about after a crash is looked at again: a token that two devices hold belongs to the one registered last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from gateway.columns import I32, I64, U8, U32, U64, Bool, TextColumn
from gateway.content import Fault
from gateway.core.details import Details, Profile
from gateway.core.records import (
    DEVICE,
    FLAG_BLOCKED,
    FLAG_CLOSED,
    FLAG_DETAILS,
    FLAG_MUTED,
    FLAG_NOTIFICATIONS_OFF,
    OFFLINE,
    DeviceRecords,
)
from gateway.core.segment_filling import SegmentsFilling
from gateway.core.segments import HashKey, Segments, device_shards, rows_of_entries
from gateway.core.tokens import TokenIndex
from gateway.device_columns import DeviceColumns
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
    """Puts stored devices into the parts of an empty table: all are given to `add`, then come the steps of `end`.

    No index knows a device before the end. n_expected: devices, about. unused_rows: gives so many rows of the table.
    ended: is told the muted tokens.
    """

    def __init__(
        self,
        *,
        records: DeviceRecords,
        index: Segments,
        tokens: TokenIndex,
        details: Details,
        key: HashKey,
        unused_rows: Callable[[int], I32],
        n_expected: int,
        ended: Callable[[int], None],
    ) -> None:
        self._records = records
        self._tokens = tokens
        self._details = details
        self._key = key
        self._unused_rows = unused_rows
        self._ended = ended
        self._devices = SegmentsFilling(index, n_expected)
        self._token_keys = tokens.filling(n_expected, self._lose)
        self._alias_keys = details.aliases.filling(n_expected)
        self._profiles: dict[bytes, int] = {}
        self._n_muted = 0
        #: Devices that were given; those of them that lost a token to one registered later.
        self.n = 0
        self.n_lost = 0

    def add(self, devices: DeviceColumns) -> None:
        """The devices, none of which was given before, are in the table after the end, all offline.

        Raises Overloaded where a limit of the table is smaller than what was stored.
        """
        self.n += devices.n
        if self.n > self._records.devices_max:
            raise Overloaded("devices_max", self.n, self._records.devices_max)
        apps = np.unique(devices.apps).tolist()
        for app in apps:
            part = devices if len(apps) == 1 else devices.take(np.flatnonzero(devices.apps == app))
            self._add_app(part, app)

    def end(self) -> Iterator[None]:
        """Steps of a millisecond or two; after the last one the table knows the devices. Raises Overloaded."""
        for filling in (self._devices, self._token_keys, self._alias_keys):
            yield from filling.steps()
        self._ended(self._n_muted)

    def _add_app(self, devices: DeviceColumns, app: int) -> None:
        ids = np.ascontiguousarray(devices.device_ids)
        rows = self._unused_rows(devices.n)
        self._devices.add(devices.shards, self._key.hash_rows(ids, app), rows)
        # Made as a whole: a field of a record in the table costs what the whole record does.
        found = np.zeros(devices.n, DEVICE)
        words = ids.view("<u8")
        found["id_low"], found["id_high"] = words[:, 0], words[:, 1]
        found["app"] = app
        found["fd"] = OFFLINE
        found["flags"] = devices.flags & _KEPT_FLAGS
        found["flags"] |= _details_flags(devices)
        found["registered_unix_s"] = devices.registered_unix_s
        found["proven_unix_s"] = devices.proven_unix_s
        found["first_seen_unix_s"] = devices.first_seen_unix_s
        found["last_seen_unix_s"] = devices.last_seen_unix_s
        found["profile"] = numbers = self._profile_numbers(devices)
        self._details.profiles.count(numbers, 1)
        self._add_tokens(rows, found, devices, app)
        self._records.put(rows, found)
        self._details.load(rows, app, devices.aliases, devices.tags, self._alias_keys)

    def _profile_numbers(self, devices: DeviceColumns) -> U32:
        """(n,) the table's numbers. A loop over texts, of which a block of thousands of devices has a few hundred."""
        known = self._profiles
        numbers = np.zeros(len(devices.profile_texts), np.uint32)
        for position, text in enumerate(devices.profile_texts.rows()):
            number = known.get(text)
            if number is None:
                number = known[text] = self._profile_number(text)
            numbers[position] = number
        return numbers[devices.profiles]

    def _profile_number(self, text: bytes) -> int:
        profiles = self._details.profiles
        number = profiles.number(Profile(*text.split(b"\0")))
        if isinstance(number, Fault):
            raise Overloaded("profiles_max", len(profiles), len(profiles))
        return number

    def _add_tokens(self, rows: I32, found: npt.NDArray[np.void], devices: DeviceColumns, app: int) -> None:
        """The records hold their tokens. found: (n,) those of the rows."""
        column = self._tokens.column(app, devices.channels, devices.tokens)
        positions = np.flatnonzero((devices.channels != 0) & (column.lengths > 0))
        lengths = column.lengths[positions]
        token_rows, has_room = self._tokens.allocate(lengths)
        if not has_room.all():
            limit = self._tokens.store.limit_bytes
            raise Overloaded("token_bytes_max", limit, limit)
        self._tokens.load(rows[positions], column, positions, token_rows, self._token_keys)
        at = slice(None) if len(positions) == devices.n else positions
        found["channel"][at] = devices.channels[at]
        found["token_row"][at] = token_rows
        found["token_length"][at] = lengths
        found["token_hash"][at] = column.hashes[at]
        if len(positions) < devices.n:
            without = (devices.channels != 0) & (column.lengths == 0)
            found["flags"][without] &= np.uint8(~FLAG_MUTED & 0xFF)
            found["proven_unix_s"][without] = 0
        self._n_muted += int(np.count_nonzero(found["flags"] & FLAG_MUTED))

    def _lose(self, entries: U64) -> Bool:
        """(k,) which entries of the token index are of devices whose token another one registered later. Those have no
        token afterwards."""
        rows = rows_of_entries(entries)
        found = self._records.gather(rows)
        holders: dict[tuple[int, int, bytes], int] = {}
        loses = np.zeros(len(rows), np.bool_)
        for at in np.lexsort((rows, found["registered_unix_s"])).tolist():
            one = found[at]
            text = self._tokens.store.gather(int(one["token_length"]), one["token_row"].reshape(1)).tobytes()
            key = (int(one["app"]), int(one["channel"]), text)
            if key in holders:
                loses[holders[key]] = True
            holders[key] = at
        rows, found = rows[loses], found[loses]
        self._n_muted -= int(np.count_nonzero(found["flags"] & FLAG_MUTED))
        self.n_lost += len(rows)
        self._tokens.let_go(rows, found)
        self._records.proven_unix_s[rows] = 0
        return loses


def _details_flags(devices: DeviceColumns) -> U8:
    """(n,) FLAG_DETAILS where there is an alias or a tag."""
    has_any = np.zeros(devices.n, np.bool_)
    if devices.aliases is not None:
        has_any |= devices.aliases.offsets[1:] > devices.aliases.offsets[:-1]
    if devices.tags is not None:
        has_any |= devices.tags.counts > 0
    return has_any.view(np.uint8) * np.uint8(FLAG_DETAILS)
