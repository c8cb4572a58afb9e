"""DeviceTable: every device of the apps a worker owns, in memory: who it is, whether it is online, its vendor token.

A device is known by (app, id); the same id in another app is another device. It has a *row*, an int32 that stays the
same until the device is removed. Look-ups go from ids or tokens to rows, everything else takes rows.

    ids ----------> Segments (by shard) --+
                                          +--> row --> DeviceRecords (64 bytes a device: presence, token address)
    vendor tokens -> TokenIndex ----------+        --> TokenStore (token bytes, by length)
                                                   --> Details (alias, tags, profile)

A row number may be used again after `remove`, so whoever kept one over a wait names what he means: presence by fd and
generation, a token by its hash. Calls that come too late change nothing.

Every call is one step of the loop, so callers slice: a look-up takes about 85 ns a row, a registration about 4 us, the
growth of segments included.
"""

from __future__ import annotations

import struct

import msgspec
import numpy as np

from gateway.columns import I32, I64, U8, U32, U64, Bool, TextColumn
from gateway.content import Fault
from gateway.core.details import Details
from gateway.core.device_answers import Device, DeviceStatistics, OwnTokens, PresenceColumns, Routing
from gateway.core.device_changes import DeviceChanges
from gateway.core.records import (
    DEVICE,
    FLAG_BLOCKED,
    FLAG_CLOSED,
    FLAG_DETAILS,
    FLAG_MUTED,
    FLAG_NOTIFICATIONS_OFF,
    NO_APP,
    OFFLINE,
    DeviceRecords,
    are_devices,
)
from gateway.core.registration import (
    DetailsColumns,
    Outcome,
    Registered,
    Registrations,
    RowPlan,
    TokenPlan,
    earlier_of_equal,
    form_faults,
    plan_details,
)
from gateway.core.segments import HashKey, Segments, device_shard, device_shards
from gateway.core.stored_devices import Restoring, export_rows
from gateway.core.tokens import FreeRows, TokenGroup, TokenIndex
from gateway.device_columns import DeviceColumns
from gateway.errors import Overloaded

#: Up to this many ids a plain loop is faster than the array calls (4 us a row against 35 us a call).
_FEW_ROWS = 8
#: `dead_since_unix_ms` of a row whose vendor did not say since when.
SINCE_UNKNOWN = -1


class DeviceLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one table. All memory but that of profiles is reserved at start, and touched as it fills."""

    #: Devices; 64 bytes each and about 20 in the index. A worker of a million devices fits 200 MiB with its tokens.
    devices_max: int = 1_000_000
    #: Bytes of all tokens; 192 a device, since FCM's have 142 to 200 and APNs' 64.
    token_bytes_max: int = 192_000_000
    #: Devices with an alias; 48 bytes each for user ids of up to 16 bytes, 240 at the longest.
    aliases_max: int = 1_000_000
    #: Distinct tags of all apps; some 60 bytes each, 204 at the longest.
    tags_max: int = 100_000
    #: (device, tag) pairs; 5 bytes each, and up to 23 more per device that has any.
    tag_bindings_max: int = 10_000_000
    #: Distinct (platform, app version, time zone); 40 time zones times a few hundred versions of all apps.
    profiles_max: int = 65_536


class DeviceTable:
    """See the module's docstring. One owner; arrays given are not kept, arrays returned are copies."""

    __slots__ = (
        "_details",
        "_forgotten",
        "_free",
        "_index",
        "_key",
        "_limits",
        "_muted",
        "_next_row",
        "_online",
        "_online_by_app",
        "_records",
        "_taken_over",
        "_tokens",
        "changes",
    )

    def __init__(self, limits: DeviceLimits, key: HashKey) -> None:
        """key: random, secret; the same after a restart if token hashes are to outlive it."""
        self._limits = limits
        self._key = key
        self._records = DeviceRecords(limits.devices_max)
        #: What the registry has not got yet.
        self.changes = DeviceChanges(limits.devices_max)
        self._index = Segments(limits.devices_max, "device_index_slots_max")
        self._tokens = TokenIndex(
            self._records, key, tokens_max=limits.devices_max, token_bytes_max=limits.token_bytes_max
        )
        self._details = Details(
            key,
            devices_max=limits.devices_max,
            profiles_max=limits.profiles_max,
            aliases_max=limits.aliases_max,
            tags_max=limits.tags_max,
            tag_bindings_max=limits.tag_bindings_max,
        )
        self._free = FreeRows()
        self._next_row = 1
        self._online = 0
        self._online_by_app: I64 = np.zeros(NO_APP + 1, np.int64)
        self._muted = 0
        self._taken_over = self._forgotten = 0

    def __len__(self) -> int:
        return self._next_row - 1 - len(self._free)

    # Look-ups

    def find(self, ids: U8, app_index: int) -> I32:
        """ids: (n, 16) uint8 -> (n,) int32 row of each device of this app, -1 for an unknown one."""
        if len(ids) <= _FEW_ROWS:
            blob = ids.tobytes()
            return np.array([self.find_one(blob[at : at + 16], app_index) for at in range(0, len(blob), 16)], np.int32)
        ids = np.ascontiguousarray(ids)
        return self._find_hashed(ids, device_shards(ids), self._key.hash_rows(ids, app_index), app_index)

    def locate(self, ids: U8, app_index: int) -> tuple[I32, Routing]:
        """`find` and `routing` in one: each record is touched once, to check its id and to read the rest."""
        if len(ids) <= _FEW_ROWS:
            rows = self.find(ids, app_index)
            return rows, self.routing(rows)
        ids = np.ascontiguousarray(ids)
        words = ids.view("<u8")
        seen: list[U64] = []

        def verify(index: slice | I64, rows: I32) -> Bool:
            found = self._records.gather_words(rows)
            seen.append(found)
            return are_devices(found, words[index], app_index)

        rows = self._index.find(device_shards(ids), self._key.hash_rows(ids, app_index), verify)
        # More than one look: two ids of one fingerprint, once in millions of look-ups.
        return rows, self.routing(rows) if len(seen) != 1 else self._routing_of(rows, seen[0])

    def find_one(self, device_id: bytes, app_index: int) -> int:
        """The row of one device or -1."""
        low, high = struct.unpack("<QQ", device_id)
        records = self._records

        def verify_row(row: int) -> bool:
            return bool(
                records.id_low.item(row) == low
                and records.id_high.item(row) == high
                and records.app.item(row) == app_index
            )

        return self._index.find_one(device_shard(device_id), self._key.hash_one(device_id, app_index), verify_row)

    def find_tokens(self, channel: int, tokens: TextColumn, app_index: int) -> I32:
        """(n,) int32 row of the device of this app that holds each token, -1 where none does (push to it anyway)."""
        column = self._tokens.column(app_index, np.full(len(tokens), channel, np.uint8), tokens)
        return self._tokens.find(column, np.arange(len(tokens)))

    def alias_rows(self, app_index: int, alias: bytes) -> I32:
        """(k,) int32 the devices of an alias, at most 10, in order."""
        return self._details.alias_rows(app_index, alias)

    def routing(self, rows: I32) -> Routing:
        """What routing needs of n rows, -1 among them."""
        return self._routing_of(rows, self._records.gather_words(rows))

    @staticmethod
    def _routing_of(rows: I32, words: U64) -> Routing:
        """words: (n, 8), the records of the rows, a copy that columns of the answer are views of."""
        found = words.view(DEVICE)[:, 0]
        flags = np.ascontiguousarray(found["flags"])
        return Routing(
            is_known=rows >= 0,
            is_online=found["fd"] != OFFLINE,
            has_token=(found["token_length"] > 0) & ((flags & np.uint8(FLAG_MUTED)) == 0),
            channel=np.ascontiguousarray(found["channel"]),
            fd=found["fd"],
            generation=found["generation"],
            proven_unix_s=found["proven_unix_s"],
            filters=flags & np.uint8(FLAG_BLOCKED | FLAG_CLOSED),
        )

    def shard_records(self, shards: range, rows_max: int) -> tuple[int, I32, U64]:
        """How many of the shards were read (see `rows_of_shards`), rows and (n, 8) records of their devices, a copy."""
        k, rows = self._index.rows_of_shards(shards, rows_max)
        return k, rows, self._records.gather_words(rows)

    def ids(self, rows: I32) -> U8:
        """(n, 16) uint8 ids of known rows."""
        return np.ascontiguousarray(self._records.gather_words(rows)[:, :2]).view(np.uint8)

    def id_of(self, row: int) -> bytes:
        """The id of one known row."""
        return struct.pack("<QQ", self._records.id_low.item(row), self._records.id_high.item(row))

    def device(self, row: int) -> Device:
        """Everything about one known row."""
        found = self._records.gather(np.array([row]))[0]
        length = int(found["token_length"])
        token = self._tokens.store.gather(length, found["token_row"].reshape(1)).tobytes() if length else b""
        return Device(
            device_id=struct.pack("<QQ", found["id_low"], found["id_high"]),
            app_index=int(found["app"]),
            channel=int(found["channel"]),
            token=token,
            is_muted=bool(found["flags"] & FLAG_MUTED),
            is_blocked=bool(found["flags"] & FLAG_BLOCKED),
            is_closed=bool(found["flags"] & FLAG_CLOSED),
            fd=int(found["fd"]),
            generation=int(found["generation"]),
            registered_unix_s=int(found["registered_unix_s"]),
            proven_unix_s=int(found["proven_unix_s"]),
            first_seen_unix_s=int(found["first_seen_unix_s"]),
            last_seen_unix_s=int(found["last_seen_unix_s"]),
            profile=self._details.profiles.profile(int(found["profile"])),
            alias=self._details.alias(row),
            tags=self._details.tags(row),
        )

    # Presence

    def set_online(self, row: int, fd: int, generation: int, now_unix_s: int) -> tuple[int, int] | None:
        """Afterwards the device is online there. Returns the (fd, generation) it was online at before, to be closed."""
        records = self._records
        previous = (records.fd.item(row), records.generation.item(row))
        records.fd[row] = fd
        records.generation[row] = generation
        records.last_seen_unix_s[row] = now_unix_s
        self.changes.mark_later(row)
        if previous[0] != OFFLINE:
            return previous
        self._online += 1
        self._online_by_app[records.app.item(row)] += 1
        return None

    def set_offline(self, rows: I32, fds: I32, generations: U32, now_unix_s: int) -> Bool:
        """(n,) which devices went offline: those that were still online at just that fd and generation."""
        records = self._records
        is_current: Bool = (rows >= 0) & (records.fd[rows] == fds) & (records.generation[rows] == generations)
        is_current &= fds != OFFLINE
        gone = np.unique(rows[is_current])
        self._mark_offline(gone)
        records.last_seen_unix_s[gone] = now_unix_s
        self.changes.mark_later(gone)
        return is_current

    def _mark_offline(self, rows: I32) -> None:
        """rows: distinct and online."""
        self._records.fd[rows] = OFFLINE
        self._online -= len(rows)
        np.subtract.at(self._online_by_app, self._records.app[rows], 1)

    def is_online(self, row: int) -> bool:
        """Whether a known device has a session."""
        return bool(self._records.fd.item(row) != OFFLINE)

    def presence(self, rows: I32) -> PresenceColumns:
        """Of n rows, -1 among them."""
        found = self._records.gather(rows)
        names = ("app", "fd", "generation", "last_seen_unix_s", "profile")
        return PresenceColumns(*(found[name].copy() for name in names))

    def profiles(self, rows: I32) -> U32:
        """Profile numbers of n known devices: a tenth of what `presence` costs."""
        return self._records.profile[rows]

    def platform(self, profile: int) -> str:
        """The platform that a profile number stands for."""
        return self._details.profiles.profile(profile).platform.decode("utf-8", "replace")

    def app_of(self, row: int) -> int:
        """The app index of a known device."""
        return int(self._records.app.item(row))

    def are_notifications_off(self, row: int) -> bool:
        return bool(self._records.flags.item(row) & FLAG_NOTIFICATIONS_OFF)

    def switch_notifications(self, row: int, *, is_on: bool) -> bool:
        """What the user of a known device wants from now on; true where it was something else."""
        is_new = self.are_notifications_off(row) is is_on
        if is_new:
            self._records.flags[row] ^= np.uint8(FLAG_NOTIFICATIONS_OFF)
            self.changes.mark_later(row)
        return is_new

    def have_tag(self, rows: I32, tag: bytes) -> Bool:
        """(n,) which of the rows, -1 among them, have the tag."""
        return self._details.have_tag(rows, tag)

    def online_count(self, app_index: int | None = None) -> int:
        """Devices online, of one app or of all."""
        return self._online if app_index is None else int(self._online_by_app[app_index])

    # Tokens

    def take_tokens(self, rows: I32, channel: int) -> list[TokenGroup]:
        """The tokens of n devices for one channel, grouped by length. Devices that have no usable token of it (any
        more) are in no group; -1 is allowed and never is."""
        return self._tokens.take(rows, channel)

    def take_own_tokens(self, rows: I32, ids: U8, channel: int) -> OwnTokens:
        """As `take_tokens`, for rows that were looked up a while ago: those that are no longer the devices with these
        ids, (n, 16) uint8, are in no group.

        One touch of each record: it is the cache miss that costs.
        """
        words = self._records.gather_words(rows)
        own = np.ascontiguousarray(ids).view(np.uint64)
        is_same: Bool = (words[:, 0] == own[:, 0]) & (words[:, 1] == own[:, 1])
        is_same &= rows >= 0
        hashes = (words[:, 4] >> np.uint64(32)).astype(np.uint32)
        # Word 5 of a record holds `registered_unix_s` below `proven_unix_s`.
        proven_unix_s = words.view(np.uint32)[:, 11]
        return OwnTokens(self._tokens.take_found(words, is_same, channel), hashes, proven_unix_s)

    def token_hashes(self, rows: I32) -> U32:
        """(n,) uint32 hash of each device's token, 0 where there is none: what a batch keeps to know a token again."""
        return (self._records.gather_words(rows)[:, 4] >> np.uint64(32)).astype(np.uint32)

    def hash_tokens(self, channel: int | U8, tokens: TextColumn, app_index: int) -> U32:
        """(n,) uint32, the same hash of tokens given as text: of targets that are tokens, and of receipts. channel: of
        all, or (n,). 0 for an empty text."""
        hashes = self._tokens.column(app_index, np.full(len(tokens), channel, np.uint8), tokens).hashes
        return (hashes >> np.uint64(32)).astype(np.uint32)

    def are_proven(self, channel: int, tokens: TextColumn, app_index: int) -> Bool:
        """(n,) whether a device of this app holds each token and the vendor took a message for it."""
        rows = self.find_tokens(channel, tokens, app_index)
        is_proven: Bool = self._records.gather(rows)["proven_unix_s"] != 0
        return is_proven & (rows >= 0)

    def forget_tokens(self, rows: I32, token_hashes: U32, dead_since_unix_ms: I64) -> Bool:
        """After TOKEN_DEAD. (n,) which verdicts were about the token the device still has; those tokens are gone.

        A token stays when the device has another one by now, and when it registered after the vendor saw it dead
        (APNs' 410 says when; registrations know seconds). dead_since_unix_ms: `SINCE_UNKNOWN` where nobody said.
        What stays is suspect.
        """
        found = self._records.gather(rows)
        self.suspect_tokens(rows, token_hashes)
        is_dead = self._is_same_token(rows, token_hashes)
        is_dead &= (dead_since_unix_ms == SINCE_UNKNOWN) | (found["registered_unix_s"] <= dead_since_unix_ms // 1000)
        dead = np.unique(rows[is_dead])
        self._forgotten += self._detach(dead)
        self.changes.mark(dead)
        return is_dead

    def mute_tokens(self, rows: I32, token_hashes: U32) -> Bool:
        """After TOKEN_MUTED. (n,) which were about the token the device still has; kept, not sent to until it registers
        again."""
        is_same = self._is_same_token(rows, token_hashes)
        muted = np.unique(rows[is_same])
        muted = muted[(self._records.flags[muted] & FLAG_MUTED) == 0]
        self._records.flags[muted] |= np.uint8(FLAG_MUTED)
        self._records.proven_unix_s[rows[is_same]] = 0
        self._muted += len(muted)
        self.changes.mark(muted)
        return is_same

    def prove_tokens(self, rows: I32, token_hashes: U32, now_unix_s: int) -> None:
        """After ACCEPTED: the vendor took a message for the token, so it needs no probe."""
        proven = rows[self._is_same_token(rows, token_hashes)]
        # That it is proven is worth a write, not when for the hundredth time.
        self.changes.mark_later(proven[self._records.proven_unix_s[proven] == 0])
        self._records.proven_unix_s[proven] = now_unix_s

    def suspect_tokens(self, rows: I32, token_hashes: U32) -> None:
        """After a rejection that speaks of the token: it needs a probe again."""
        suspect = rows[self._is_same_token(rows, token_hashes)]
        self.changes.mark_later(suspect[self._records.proven_unix_s[suspect] != 0])
        self._records.proven_unix_s[suspect] = 0

    def block(self, rows: I32, is_blocked: bool) -> None:
        """Afterwards nothing is sent to the devices, known and distinct, or may be again."""
        flags = self._records.flags[rows] & np.uint8(~FLAG_BLOCKED & 0xFF)
        self._records.flags[rows] = flags | np.uint8(FLAG_BLOCKED) if is_blocked else flags
        self.changes.mark(rows)

    def _is_same_token(self, rows: I32, token_hashes: U32) -> Bool:
        words = self._records.gather_words(rows)
        is_same: Bool = (words[:, 7] & np.uint64(0xFFFF)) != 0
        is_same &= (words[:, 4] >> np.uint64(32)) == token_hashes
        return is_same

    def _detach(self, rows: I32) -> int:
        """Afterwards none of the distinct devices has a token. Returns how many had."""
        self._muted -= int(((self._records.flags[rows] & FLAG_MUTED) != 0).sum())
        return self._tokens.detach(rows)

    # Registration

    def register(self, app_index: int, batch: Registrations, now_unix_s: int) -> Registered:
        """Afterwards each row that was not refused is the whole state of its device; see `registration.py`.

        Presence stays. A token that another device of the app held goes to the new holder. Raises Overloaded when an
        index is used up, and ValueError for columns that do not fit together; then nothing changed.
        """
        faults = form_faults(batch)
        ids = np.ascontiguousarray(batch.ids)
        shards, hashes = device_shards(ids), self._key.hash_rows(ids, app_index)
        rows = self._find_hashed(ids, shards, hashes, app_index)
        plan = RowPlan(rows, faults)
        is_superseded = earlier_of_equal(hashes, plan.is_chosen, lambda index: ids[index].tobytes())
        plan.is_chosen &= ~is_superseded
        self._refuse_devices(plan)
        self._details.profiles.reclaim()
        details = plan_details(self._details, app_index, batch, plan)
        self._index.reserve(shards[plan.is_chosen & (rows < 0)])
        tokens = self._plan_tokens(app_index, batch, plan)

        is_new = plan.is_chosen & (rows < 0)
        holders = tokens.holders[tokens.holders >= 0]
        self._detach(np.unique(np.concatenate([rows[plan.is_chosen & ~is_new & ~tokens.keeps], holders])))
        self.changes.mark(holders)
        rows[is_new] = self._new_rows(ids[is_new], app_index, now_unix_s)
        self._index.insert(shards[is_new], hashes[is_new], rows[is_new])
        chosen = np.flatnonzero(plan.is_chosen)
        self._write(rows[chosen], batch.proven_unix_s[chosen], tokens.keeps[chosen], now_unix_s)
        if batch.is_closed is not None:
            self._records.flags[rows[chosen[batch.is_closed[chosen]]]] |= np.uint8(FLAG_CLOSED)
        self._tokens.attach(rows[tokens.positions], tokens.column, tokens.positions, tokens.token_rows)
        n_taken_over = tokens.n_lost + len(holders)
        self._write_details(app_index, rows[chosen], details.take(chosen))
        self._taken_over += n_taken_over
        self.changes.mark(rows[chosen])

        outcomes = np.where(is_new, np.uint8(Outcome.CREATED), np.uint8(Outcome.REPLACED))
        outcomes[~plan.is_chosen] = Outcome.REFUSED
        outcomes[is_superseded] = Outcome.SUPERSEDED
        return Registered(outcomes, np.where(plan.is_chosen, rows, np.int32(-1)), faults, n_taken_over)

    def add_bare(self, device_id: bytes, app_index: int, now_unix_s: int) -> int:
        """The row of a device that was unknown and has nothing but its id: `register` of one, a hundredth of its cost.

        Raises Overloaded at `devices_max`, and when the index is used up; then nothing changed.
        """
        if len(self) >= self._limits.devices_max:
            raise Overloaded("devices_max", len(self), self._limits.devices_max)
        row = int(self._free.take(1)[0]) if (is_reused := len(self._free) > 0) else self._next_row
        try:
            self._index.insert_one(device_shard(device_id), self._key.hash_one(device_id, app_index), row)
        except Overloaded:
            if is_reused:
                self._free.give(np.array([row], np.uint32))
            raise
        self._next_row += not is_reused
        self._records.has_grown(self._next_row)
        records = self._records
        records.id_low[row], records.id_high[row] = struct.unpack("<QQ", device_id)
        records.app[row] = app_index
        records.fd[row] = OFFLINE
        records.registered_unix_s[row] = now_unix_s
        records.first_seen_unix_s[row] = now_unix_s
        self.changes.mark(np.array([row]))
        return row

    def _find_hashed(self, ids: U8, shards: I64, hashes: U64, app_index: int) -> I32:
        words = ids.view("<u8")

        def verify(index: slice | I64, rows: I32) -> Bool:
            return are_devices(self._records.gather_words(rows), words[index], app_index)

        return self._index.find(shards, hashes, verify)

    def _refuse_devices(self, plan: RowPlan) -> None:
        """Refuses the new devices for which there is no row, the last ones of the batch."""
        limit = self._limits.devices_max
        fault = Fault("device_id", f"devices are {limit}, limit {limit} (devices_max)")
        for index in np.flatnonzero(plan.is_chosen & (plan.rows < 0))[max(limit - len(self), 0) :].tolist():
            plan.refuse(index, fault)

    def _plan_tokens(self, app_index: int, batch: Registrations, plan: RowPlan) -> TokenPlan:
        """What the tokens of the batch need; refuses the rows for which the store has no room."""
        column = self._tokens.column(app_index, batch.channels, batch.tokens)
        wants = plan.is_chosen & (batch.channels != 0)
        is_lost = earlier_of_equal(
            column.hashes, wants, lambda index: bytes([batch.channels[index]]) + batch.tokens.row(index)
        )
        wants &= ~is_lost
        self._tokens.reserve(column.hashes[wants])
        keeps = wants & self._tokens.holds(plan.rows, column)
        fresh = np.flatnonzero(wants & ~keeps)
        token_rows, has_room = self._tokens.allocate(column.lengths[fresh])
        for index in fresh[~has_room].tolist():
            limit = self._tokens.store.limit_bytes
            text = f"token of {column.lengths[index]} bytes finds no room, limit {limit} bytes of all (token_bytes_max)"
            plan.refuse(index, Fault("token", text))
        fresh = fresh[has_room]
        holders = self._tokens.find(column, fresh)
        return TokenPlan(column, fresh, token_rows[has_room], holders, keeps, int(is_lost.sum()))

    def _new_rows(self, ids: U8, app_index: int, now_unix_s: int) -> I32:
        """Rows of new devices, with nothing in them but who they are and since when. There is room."""
        rows = self._unused_rows(len(ids))
        # Untouched rows are all zero, and `remove` leaves them so.
        records = self._records
        records.words[rows, :2] = ids.view("<u8")
        records.app[rows] = app_index
        records.fd[rows] = OFFLINE
        records.first_seen_unix_s[rows] = now_unix_s
        return rows

    def _unused_rows(self, count: int) -> I32:
        """They are in use now. There is room."""
        rows = self._free.take(count).astype(np.int32)
        first, self._next_row = self._next_row, self._next_row + count - len(rows)
        rows = np.append(rows, np.arange(first, self._next_row, dtype=np.int32))
        self._records.has_grown(self._next_row)
        return rows

    def _write(self, rows: I32, proven_unix_s: U32, keeps_token: Bool, now_unix_s: int) -> None:
        """The fields every registration writes. Of a token that stays, the later proof counts, theirs or ours."""
        records = self._records
        self._muted -= int(((records.flags[rows] & FLAG_MUTED) != 0).sum())
        records.flags[rows] &= np.uint8(~(FLAG_MUTED | FLAG_CLOSED) & 0xFF)
        records.registered_unix_s[rows] = now_unix_s
        ours = np.where(keeps_token, records.proven_unix_s[rows], np.uint32(0))
        records.proven_unix_s[rows] = np.maximum(ours, proven_unix_s)

    def _write_details(self, app_index: int, rows: I32, details: DetailsColumns) -> None:
        records, profiles = self._records, self._details.profiles
        profiles.count(records.profile[rows], -1)
        profiles.count(details.profiles, 1)
        records.profile[rows] = details.profiles
        had = (records.flags[rows] & FLAG_DETAILS) != 0
        if len(touched := np.flatnonzero(had | details.has_any)):
            some = details.take(touched)
            self._details.write(rows[touched], app_index, some.aliases, some.tags)
        flags = records.flags[rows] & np.uint8(~FLAG_DETAILS & 0xFF)
        records.flags[rows] = np.where(details.has_any, flags | np.uint8(FLAG_DETAILS), flags)

    def remove(self, rows: I32) -> None:
        """Afterwards the devices, known and distinct, are unknown, and their rows may become other devices'."""
        self._detach(rows)
        records = self._records
        self._mark_offline(rows[records.fd[rows] != OFFLINE])
        self._details.profiles.count(records.profile[rows], -1)
        self._details.forget(rows[(records.flags[rows] & FLAG_DETAILS) != 0])
        ids, apps = self.ids(rows), records.app[rows]
        self._index.remove(device_shards(ids), self._key.hash_rows(ids, apps.astype(np.uint64)), rows)
        self.changes.drop(rows)
        records.words[rows] = 0
        records.app[rows] = NO_APP
        records.fd[rows] = OFFLINE
        self._free.give(rows.astype(np.uint32))

    # The registry

    def export(self, rows: I32) -> DeviceColumns:
        """The whole states of known rows, for the registry."""
        return export_rows(rows, self._records, self._tokens, self._details)

    def restoring(self, n_expected: int) -> Restoring:
        """Puts stored devices, about so many, into this table, which is empty and used for nothing else meanwhile."""
        return Restoring(
            records=self._records,
            index=self._index,
            tokens=self._tokens,
            details=self._details,
            key=self._key,
            unused_rows=self._unused_rows,
            n_expected=n_expected,
            ended=self._restored,
        )

    def _restored(self, n_muted: int) -> None:
        self._muted = n_muted

    def statistics(self) -> DeviceStatistics:
        return DeviceStatistics(
            devices=len(self),
            online=self._online,
            muted=self._muted,
            taken_over=self._taken_over,
            forgotten=self._forgotten,
            device_index=self._index.statistics(),
            token_index=self._tokens.statistics(),
            token_store=self._tokens.store.statistics(),
            details=self._details.statistics(),
        )
