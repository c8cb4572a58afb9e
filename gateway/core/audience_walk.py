"""Walk: the registered devices of an audience, one after the other, in an order that no crash and no change disturbs.

    shard 0: id < id < id    shard 1: id < id ...    shard 4095
    |---- reached ----->|
                        a Stretch: its shard, the last id that was reached there, and the shard where it ends

Devices are ordered by shard and id, and what is kept is the place that was reached, never a number of devices. So a
device that is erased, registered or registered again meanwhile moves no other one to the other side of that place:
whoever stands behind it is still to come, whoever stands before it had his turn. A table that grows is rebuilt under
the walk, and another worker may own the shards next time; the order stays.

In the audience is who is registered when it is submitted: its newest member's `first_seen_unix_s` is kept
(`Members.newest_unix_s`), and whoever was first seen in a later second is not in it. No clock is asked, so that one
that was set back leaves nobody out. Tags count as they are when the walk comes to a device.

Rejected: row numbers (used again after an erase), positions in a segment (rebuilt when it grows), a list of all ids
(160 MB in the journal for ten million devices, before the first is sent).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import I32, I64, U8, U64, Bool
from gateway.core.devices import DeviceTable
from gateway.core.ownership import SHARDS
from gateway.core.records import DEVICE, FLAG_DETAILS
from gateway.core.segments import device_shards

#: Devices looked at in one step: a millisecond, with tags.
LOOK_ROWS = 4096
#: Shards looked at in one step: where there are few devices, segments are what costs.
_LOOK_SHARDS = 256


class Stretch(NamedTuple):
    """Shards first..stop that are still to come; of `first` the devices behind the id `after`, all where it is b""."""

    first: int
    after: bytes
    stop: int

    @property
    def is_through(self) -> bool:
        return self.first >= self.stop


class Wanted(NamedTuple):
    """Devices of an app, those with the tag where it is not empty, that were first seen in that second or before."""

    app: int
    tag: bytes
    until_unix_s: int


class Members(NamedTuple):
    """How many there are, and when the newest of them was first seen; 0 where there are none."""

    devices: int
    newest_unix_s: int

    def plus(self, other: Members) -> Members:
        return Members(self.devices + other.devices, max(self.newest_unix_s, other.newest_unix_s))


class Looked(NamedTuple):
    """ids: (k, 16) uint8, in order. rest: what is to come behind them."""

    ids: U8
    rest: Stretch


def whole(shard_groups: int) -> list[Stretch]:
    """All shards, a stretch per group of them: each has one owner, and those of one that is down are left for later."""
    size = SHARDS // shard_groups
    return [Stretch(first, b"", first + size) for first in range(0, SHARDS, size)]


def to_come(stretches: Sequence[Stretch]) -> list[Stretch]:
    return [stretch for stretch in stretches if not stretch.is_through]


def look(table: DeviceTable, wanted: Wanted, stretch: Stretch, rows_max: int) -> Looked:
    """At most rows_max of the next devices: one step of the loop, which may find nobody and is not the end then."""
    last = _last_shard(table, stretch)
    rows, words = _members(table, wanted.app, wanted.tag, stretch.first, last)
    is_old = words.view(DEVICE)[:, 0]["first_seen_unix_s"] <= wanted.until_unix_s
    ids = np.ascontiguousarray(words[is_old, :2]).view(np.uint8)
    shards = device_shards(ids)
    highs, lows = _as_numbers(ids)
    order = np.lexsort((lows, highs, shards))
    ids, shards = ids[order], shards[order]
    done = _n_reached(highs[order], lows[order], shards, stretch)
    ids, shards = ids[done : done + rows_max], shards[done : done + rows_max]
    if len(rows[is_old]) - done > rows_max:
        return Looked(ids, Stretch(int(shards[-1]), ids[-1].tobytes(), stretch.stop))
    return Looked(ids, Stretch(last, b"", stretch.stop))


def count(table: DeviceTable, app: int, tag: bytes, stretch: Stretch) -> tuple[Members, Stretch]:
    """Of the next shards, one step's worth, who is there now; and what is to come."""
    last = _last_shard(table, stretch)
    rows, words = _members(table, app, tag, stretch.first, last)
    newest = words.view(DEVICE)[:, 0]["first_seen_unix_s"].max(initial=0)
    return Members(len(rows), int(newest)), Stretch(last, b"", stretch.stop)


def _last_shard(table: DeviceTable, stretch: Stretch) -> int:
    """Where a step ends: as many shards as have LOOK_ROWS devices on the average."""
    per_shard = len(table) // SHARDS + 1
    return min(stretch.stop, stretch.first + max(1, min(_LOOK_SHARDS, LOOK_ROWS // per_shard)))


def _members(table: DeviceTable, app: int, tag: bytes, first: int, stop: int) -> tuple[I32, U64]:
    """Rows and (n, 8) records of the app's devices of some shards, in no order."""
    rows, words = table.shard_records(first, stop)
    found = words.view(DEVICE)[:, 0]
    is_in: Bool = found["app"] == app
    if tag:
        is_in &= (found["flags"] & np.uint8(FLAG_DETAILS)) != 0
        may_be = np.flatnonzero(is_in)
        is_in[may_be] = [tag in table.tags(row) for row in rows[may_be].tolist()]
    return rows[is_in], words[is_in]


def _n_reached(highs: U64, lows: U64, shards: I64, stretch: Stretch) -> int:
    """How many of the devices, which are in order, stand before the place that was reached."""
    if not stretch.after:
        return 0
    (high,), (low,) = _as_numbers(np.frombuffer(stretch.after, np.uint8).reshape(1, 16))
    is_before = (shards == stretch.first) & ((highs < high) | ((highs == high) & (lows <= low)))
    return int(np.count_nonzero(is_before))


def _as_numbers(ids: U8) -> tuple[U64, U64]:
    """High and low halves of ids as numbers that are in the order of their bytes."""
    words = ids.view(">u8").astype(np.uint64)
    return words[:, 0], words[:, 1]
