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
from gateway.core.records import DEVICE
from gateway.core.segments import device_shards

#: Devices looked at in one step: 0.3 ms, with tags 0.9.
LOOK_ROWS = 1024
#: The fewest, for small chunks: what is beyond a chunk is looked at again, and a step has costs of its own.
_LOOK_ROWS_MIN = 256
#: Shards looked at in one step: where there are few devices, segments are what costs.
_LOOK_SHARDS = 256


class Stretch(NamedTuple):
    """Shards first..stop, each step-th of them, that are still to come; of `first` the devices behind the id `after`,
    all where it is b""."""

    first: int
    after: bytes
    stop: int
    step: int = 1

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


def whole(shard_groups: int, workers: int = 1) -> list[Stretch]:
    """All shards, in stretches that have one owner each, so that those of one that is down are left for later.

    A stretch is a group, which has one owner at the next start, too, whatever the number of workers. Where each shard
    is a group, which is so when nothing of the registry outlives a start, it is every shard of a worker.
    """
    if shard_groups == SHARDS:
        return [Stretch(worker, b"", SHARDS, workers) for worker in range(workers)]
    size = SHARDS // shard_groups
    return [Stretch(first, b"", first + size) for first in range(0, SHARDS, size)]


def to_come(stretches: Sequence[Stretch]) -> list[Stretch]:
    return [stretch for stretch in stretches if not stretch.is_through]


def look(table: DeviceTable, wanted: Wanted, stretch: Stretch, rows_max: int) -> Looked:
    """At most rows_max of the next devices: one step of the loop, which may find nobody and is not the end then."""
    devices = min(LOOK_ROWS, max(rows_max, _LOOK_ROWS_MIN))
    last, rows, words = _members(table, wanted.app, wanted.tag, stretch, devices)
    is_old = words.view(DEVICE)[:, 0]["first_seen_unix_s"] <= wanted.until_unix_s
    ids = np.ascontiguousarray(words[is_old, :2]).view(np.uint8)
    shards = device_shards(ids)
    highs, lows = _as_numbers(ids)
    order = np.lexsort((lows, highs, shards))
    ids, shards = ids[order], shards[order]
    done = _n_reached(highs[order], lows[order], shards, stretch)
    ids, shards = ids[done : done + rows_max], shards[done : done + rows_max]
    if len(rows[is_old]) - done > rows_max:
        return Looked(ids, stretch._replace(first=int(shards[-1]), after=ids[-1].tobytes()))
    return Looked(ids, stretch._replace(first=last, after=b""))


def count(table: DeviceTable, app: int, tag: bytes, stretch: Stretch) -> tuple[Members, Stretch]:
    """Of the next shards, one step's worth, who is there now; and what is to come."""
    last, rows, words = _members(table, app, tag, stretch, LOOK_ROWS)
    newest = words.view(DEVICE)[:, 0]["first_seen_unix_s"].max(initial=0)
    return Members(len(rows), int(newest)), stretch._replace(first=last, after=b"")


def _members(table: DeviceTable, app: int, tag: bytes, stretch: Stretch, rows_max: int) -> tuple[int, I32, U64]:
    """Of the next shards, a step's worth: the one behind them, rows and (n, 8) records of the app's devices, in no
    order."""
    shards = range(stretch.first, stretch.stop, stretch.step)[:_LOOK_SHARDS]
    k, rows, words = table.shard_records(shards, rows_max)
    last = min(stretch.first + k * stretch.step, stretch.stop)
    found = words.view(DEVICE)[:, 0]
    is_in: Bool = found["app"] == app
    if tag:
        is_in &= table.have_tag(rows, tag)
    return last, rows[is_in], words[is_in]


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
