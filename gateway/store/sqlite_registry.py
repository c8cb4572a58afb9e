"""The registry in SQLite: per shard group one database with snapshots in columns and a log of what changed since.

    group-007.db  snapshots  block of 16 shards -> devices as one blob (registry_codec.py)
                  log        position -> kind, devices that were written or ids that were erased
                  apps       number in the blobs -> app key; the configuration may order its apps otherwise tomorrow

A write appends its devices to the logs of their groups, one row per call and group, whatever the number of devices.
When a log outgrows its group (`_FOLD_SHARE`), it is folded into the snapshots, one block per turn, so that writes are
not kept waiting for longer than one block takes. A log says what a device is at last, so it may be laid over a snapshot
that has it already: a process may end between any two blocks. An erase folds its groups at once and leaves nothing of
the device in the files.

A load gives what the log of a group says, and then its snapshots without the devices that the log speaks of, in whole
columns: nothing here is a Python object per device. What is written beside it may be in it or not.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trio

from gateway.batch import OwnershipEpoch
from gateway.columns import U8, U16, Bool
from gateway.device_columns import DeviceColumns, concatenate, keep_last
from gateway.device_sets import DeviceSet
from gateway.errors import StoreCorrupt, StoreError
from gateway.store.database import Database, EpochGuard, named_errors
from gateway.store.registry_codec import (
    HEAD_BYTES_MAX,
    StoredBlob,
    count_devices,
    decode_blobs,
    decode_keys,
    encode_devices,
    encode_keys,
    open_blob,
)
from gateway.store.turns import Turns

SHARDS = 4096
#: Shards of one snapshot: at a million devices a block is 3,900 of them and 800 KB, some 10 ms to fold.
BLOCK_SHARDS = 16
#: 16 GiB in each of 16 groups hold some 80 million devices each; a limit beyond any table in memory.
BYTES_MAX = 16 << 30
#: A log is folded when it is larger than this, and than a half of the group's snapshots: each device is then written
#: three times at most, and a load reads a half more than it must.
FOLD_BYTES_MIN = 1 << 20
_FOLD_SHARE = 0.5
_WRITTEN, _ERASED = 1, 2
_POSITION_MAX = (1 << 63) - 1
#: Snapshots that a load decodes together, unless one is larger: some 2,000 devices, so that a small registry is not one
#: array call per few hundred. Larger ones are better left alone: a blob that is decoded alone is not copied.
_READ_BYTES = 1 << 18
#: So many of those are read in one turn: at a million devices 5 ms of the thread, where a turn costs 0.3 ms by itself.
_TURN_RUNS = 4
#: Devices that a load gives at a time: a millisecond or two of who takes them.
_CHUNK_ROWS = 4096

SCHEMA = (
    """
    CREATE TABLE apps (number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
    CREATE TABLE snapshots (block INTEGER PRIMARY KEY, devices BLOB NOT NULL);
    CREATE TABLE log (position INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, data BLOB NOT NULL);
    """,
    # Tags are columns in the blobs now; those written before are read, and go with the next fold.
    "",
)


class RegistryStatistics(NamedTuple):
    """log_bytes: not folded yet. folds: groups folded since start. data_bytes: snapshots and logs, without slack."""

    log_bytes: int
    folds: int
    data_bytes: int


class _Log(NamedTuple):
    """What a log says. last: (k,) whole states, the last of each device. named: those devices, and what was erased."""

    last: DeviceColumns
    named: DeviceSet


class _Folding(NamedTuple):
    """A fold under way: the log up to `position` as columns. blocks: those still to do."""

    position: int
    log: _Log
    blocks: list[int]


class _Group:
    """One shard group: its database, and what is to be known of it between turns. Used in turns only."""

    def __init__(self, path: Path, apps: Sequence[str], first_block: int, n_blocks: int) -> None:
        self.database = Database(path, SCHEMA, bytes_max=BYTES_MAX)
        self.blocks = range(first_block, first_block + n_blocks)
        self.folding: _Folding | None = None
        self.folds = 0
        with named_errors(self.database.place):
            run = self.database.read.execute
            known = {key: number for number, key in run("SELECT number, key FROM apps")}
            for key in apps:
                if key not in known:
                    known[key] = len(known)
                    self.database.write(0).execute("INSERT INTO apps VALUES (?, ?)", (known[key], key))
            self.database.commit()
            (self.log_bytes,) = run("SELECT coalesce(sum(length(data)), 0) FROM log").fetchone()
            (self.snapshot_bytes,) = run("SELECT coalesce(sum(length(devices)), 0) FROM snapshots").fetchone()
        #: The configuration's number of an app -> the database's, and back; 65,535 for one that is not configured.
        self.to_stored = np.array([known[key] for key in apps], np.uint16)
        self.from_stored = np.full(max(known.values(), default=0) + 1, 0xFFFF, np.uint16)
        self.from_stored[self.to_stored] = np.arange(len(apps), dtype=np.uint16)

    # writing

    def append(self, epoch: int, kind: int, data: bytes) -> None:
        with named_errors(self.database.place):
            self.database.write(epoch).execute("INSERT INTO log (kind, data) VALUES (?, ?)", (kind, data))
        self.log_bytes += len(data)

    @property
    def needs_fold(self) -> bool:
        return self.folding is not None or self.log_bytes > max(FOLD_BYTES_MIN, _FOLD_SHARE * self.snapshot_bytes)

    def fold_some(self, blocks_max: int) -> None:
        """At most so many blocks of a fold that is begun if there is none; after the last one the log is cut."""
        with named_errors(self.database.place):
            if self.folding is None:
                (position,) = self.database.read.execute("SELECT coalesce(max(position), 0) FROM log").fetchone()
                log = self.read_log(position)
                self.folding = _Folding(position, log, self._used_blocks(log))
            folding = self.folding
            run = self.database.write(0).execute
            for block in folding.blocks[:blocks_max]:
                devices = self.merged(block, folding.log)
                if devices.n:
                    run("REPLACE INTO snapshots VALUES (?, ?)", (block, encode_devices(devices)))
                else:
                    # A load takes a turn for each block that has a row.
                    run("DELETE FROM snapshots WHERE block = ?", (block,))
            del folding.blocks[:blocks_max]
            if not folding.blocks:
                run("DELETE FROM log WHERE position <= ?", (folding.position,))
                self.measure()
                self.folding = None
                self.folds += 1

    def measure(self) -> None:
        run = self.database.read.execute
        (self.log_bytes,) = run("SELECT coalesce(sum(length(data)), 0) FROM log").fetchone()
        (self.snapshot_bytes,) = run("SELECT coalesce(sum(length(devices)), 0) FROM snapshots").fetchone()

    # reading

    def read_log(self, position: int | None = None) -> _Log:
        """The log up to a position, or all of it, the last word of each device."""
        rows = self.database.read.execute(
            "SELECT position, kind, data FROM log WHERE position <= ? ORDER BY position",
            (_POSITION_MAX if position is None else position,),
        )
        parts: list[DeviceColumns] = []
        ids: list[U8] = []
        apps: list[U16] = []
        for kind, run in itertools.groupby(rows, key=lambda row: row[1]):
            if kind == _WRITTEN:
                devices = self.decoded([(data, f"log at {at}") for at, _, data in run])
                if ids:
                    # Written again after an erase: the erase no longer counts.
                    written = DeviceSet(devices.device_ids, devices.apps)
                    stays = ~written.have(np.concatenate(ids), np.concatenate(apps))
                    ids, apps = [np.concatenate(ids)[stays]], [np.concatenate(apps)[stays]]
                parts.append(devices)
            else:
                for _, _, data in run:
                    app, keys = decode_keys(data)
                    ids.append(keys)
                    apps.append(np.full(len(keys), app, np.uint16))
        devices = concatenate(parts)
        last = keep_last(devices)
        if len(last) < devices.n:
            devices = devices.take(last)
        named = DeviceSet(devices.device_ids, devices.apps)
        if ids:
            erased_ids, erased_apps = np.concatenate(ids), np.concatenate(apps)
            erased = DeviceSet(erased_ids, erased_apps)
            devices = devices.take(np.flatnonzero(~erased.have(devices.device_ids, devices.apps)))
            named = DeviceSet(
                np.concatenate([devices.device_ids, erased_ids]), np.concatenate([devices.apps, erased_apps])
            )
        return _Log(devices, named)

    def count(self) -> int:
        """Devices in the snapshots, as their heads say."""
        with named_errors(self.database.place):
            heads = self.database.read.execute("SELECT substr(devices, 1, ?) FROM snapshots", (HEAD_BYTES_MAX,))
            return sum(count_devices(head) for (head,) in heads)

    def _used_blocks(self, log: _Log) -> list[int]:
        known = {block for (block,) in self.database.read.execute("SELECT block FROM snapshots")}
        return sorted(known | set((log.last.shards // BLOCK_SHARDS).tolist()))

    def merged(self, block: int, log: _Log) -> DeviceColumns:
        """The devices of a block: its snapshot with the log laid over it."""
        newer = log.last.take(np.flatnonzero(log.last.shards // BLOCK_SHARDS == block))
        return concatenate([self.snapshots(range(block, block + 1), log), newer])

    def snapshots(self, blocks: range, log: _Log) -> DeviceColumns:
        """The devices of the snapshots of these blocks that the log does not speak of."""
        rows = self.database.read.execute(
            "SELECT block, devices FROM snapshots WHERE block >= ? AND block < ?", (blocks.start, blocks.stop)
        )
        devices = self.decoded([(data, f"snapshot {block}") for block, data in rows])
        if len(log.named) and (is_named := log.named.have(devices.device_ids, devices.apps)).any():
            devices = devices.take(np.flatnonzero(~is_named))
        return devices

    def runs(self, shards: range) -> list[range]:
        """The blocks that have a snapshot and one of the shards, in runs of about `_READ_BYTES`."""
        with named_errors(self.database.place):
            found = self.database.read.execute("SELECT block, length(devices) FROM snapshots ORDER BY block").fetchall()
        runs: list[range] = []
        n_bytes = 0
        for block, size in found:
            if block * BLOCK_SHARDS < shards.stop and (block + 1) * BLOCK_SHARDS > shards.start and len(shards):
                if runs and n_bytes + size <= _READ_BYTES:
                    runs[-1] = range(runs[-1].start, block + 1)
                    n_bytes += size
                else:
                    runs.append(range(block, block + 1))
                    n_bytes = size
        return runs

    def decoded(self, rows: Sequence[tuple[bytes, str]]) -> DeviceColumns:
        """rows: blobs, each with what it is."""
        blobs: list[StoredBlob] = []
        try:
            for data, _ in rows:
                blobs.append(open_blob(data))
            return decode_blobs(blobs)
        except ValueError as error:
            at = min(len(blobs), len(rows) - 1)
            raise StoreCorrupt(self.database.place, f"{rows[at][1]}: {error}") from error

    def configured(self, devices: DeviceColumns, shards: range) -> DeviceColumns:
        """Of the apps that the configuration has, under its numbers, and of the shards asked for."""
        apps = self.from_stored[devices.apps]
        is_wanted: Bool = (apps != 0xFFFF) & (devices.shards >= shards.start) & (devices.shards < shards.stop)
        devices = devices._replace(apps=apps)
        return devices if is_wanted.all() else devices.take(np.flatnonzero(is_wanted))


def fix_shard_groups(folder: Path, shard_groups: int) -> None:
    """The folder has so many shard groups, now and for ever. Raises StoreError where it has another number."""
    path = folder / "shard_groups"
    with named_errors(str(folder)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_known = path.exists()
        try:
            found = int(path.read_text()) if is_known else len(list(folder.glob("group-*.db")))
        except ValueError as error:
            raise StoreCorrupt(str(path), "is no number") from error
        if found != shard_groups and (is_known or found):
            what = f"folder has {found} shard groups, the configuration {shard_groups} (shard_groups)"
            raise StoreError(str(folder), what)
        if not is_known:
            path.write_text(f"{shard_groups}\n", encoding="ascii")


def group_path(folder: Path, group: int) -> Path:
    """The database of a shard group."""
    return folder / f"group-{group:03d}.db"


class SqliteRegistry:
    """Opening blocks. apps: their keys in the order of the configuration. shard_groups: a power of two, fixed for a
    folder when it is made. groups: those that are opened, of whose devices all calls are; None for all.

    Raises StoreInUse, StoreCorrupt, StoreFull, StoreReadOnly, StoreError.
    """

    def __init__(
        self, folder: Path, apps: Sequence[str], *, shard_groups: int = 16, groups: Sequence[int] | None = None
    ) -> None:
        self._folder = folder
        self._group_shards = SHARDS // shard_groups
        fix_shard_groups(folder, shard_groups)
        self._by_number: dict[int, _Group] = {}
        n_blocks = self._group_shards // BLOCK_SHARDS
        try:
            for number in range(shard_groups) if groups is None else groups:
                path = group_path(folder, number)
                self._by_number[number] = _Group(path, apps, number * n_blocks, n_blocks)
        except BaseException:
            self.close()
            raise
        self._epochs = EpochGuard([group.database for group in self._groups])
        self._turns = Turns(str(folder), commit=self._commit, undo=self._undo)

    @property
    def _groups(self) -> list[_Group]:
        return list(self._by_number.values())

    @property
    def databases(self) -> list[Database]:
        """For copies; used in turns only."""
        return [group.database for group in self._groups]

    @property
    def turns(self) -> Turns:
        return self._turns

    def statistics(self) -> RegistryStatistics:
        groups = self._groups
        return RegistryStatistics(
            log_bytes=sum(group.log_bytes for group in groups),
            folds=sum(group.folds for group in groups),
            data_bytes=sum(group.log_bytes + group.snapshot_bytes for group in groups),
        )

    def file_bytes(self) -> int:
        return sum(group.database.file_bytes() for group in self._groups)

    def close(self) -> None:
        """Blocks; no call may be under way."""
        for group in self._groups:
            group.database.close()

    # the port

    async def write(self, epoch: OwnershipEpoch, devices: DeviceColumns) -> None:
        """As the port says. Raises StaleEpoch, StoreError."""
        await trio.lowlevel.checkpoint()
        number = self._epochs.check(epoch)
        await self._turns.run(lambda: self._write(number, devices))

    async def erase(self, epoch: OwnershipEpoch, app: int, device_ids: U8, shards: U16) -> None:
        """As the port says; nothing of the devices is left in the files. Raises StaleEpoch, StoreError."""
        await trio.lowlevel.checkpoint()
        number = self._epochs.check(epoch)
        groups = sorted({int(shard) // self._group_shards for shard in shards})
        await self._turns.run(lambda: self._erase(number, app, device_ids, shards))
        for group in groups:
            while await self._turns.run(lambda g=group: self._fold_whole(self._by_number[g])):  # type: ignore[misc]
                pass
            await self._turns.run(self._by_number[group].database.scrub)

    async def count(self) -> int:
        """As the port says. Raises StoreError."""
        return sum([await self._turns.run(group.count) for group in self._groups])

    async def load(self, shards: range) -> AsyncIterator[DeviceColumns]:
        """As the port says. Raises StoreCorrupt."""
        for group in self._groups:
            log, runs = await self._turns.run(lambda g=group: self._begin(g, shards))  # type: ignore[misc]
            found = [log.last]
            while found:
                for part in found:
                    devices = group.configured(part, shards)
                    for first in range(0, devices.n, _CHUNK_ROWS):
                        yield devices.part(first, min(first + _CHUNK_ROWS, devices.n))
                some, runs = runs[:_TURN_RUNS], runs[_TURN_RUNS:]
                found = await self._turns.run(lambda g=group, r=some, lg=log: self._read(g, r, lg)) if some else []  # type: ignore[misc]

    async def tidy(self) -> None:
        """One block of each log that needs to be folded is. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        for group in self._groups:
            if group.needs_fold:
                await self._turns.run(lambda g=group: g.fold_some(1))  # type: ignore[misc]

    # in the thread

    def _write(self, epoch: int, devices: DeviceColumns) -> None:
        numbers = devices.shards // self._group_shards
        for number in np.unique(numbers).tolist():
            group = self._by_number[number]
            part = devices if (numbers == number).all() else devices.take(np.flatnonzero(numbers == number))
            stored = part._replace(apps=group.to_stored[part.apps])
            group.append(epoch, _WRITTEN, encode_devices(stored))

    def _erase(self, epoch: int, app: int, device_ids: U8, shards: U16) -> None:
        numbers = shards // self._group_shards
        for number in np.unique(numbers).tolist():
            group = self._by_number[number]
            group.append(epoch, _ERASED, encode_keys(device_ids[numbers == number], int(group.to_stored[app])))

    @staticmethod
    def _fold_whole(group: _Group) -> bool:
        """Ends a fold that is under way, else folds the whole log. Whether there is more to do."""
        was_under_way = group.folding is not None
        group.fold_some(len(group.blocks))
        return was_under_way

    @staticmethod
    def _begin(group: _Group, shards: range) -> tuple[_Log, list[range]]:
        with named_errors(group.database.place):
            return group.read_log(), group.runs(shards)

    @staticmethod
    def _read(group: _Group, runs: list[range], log: _Log) -> list[DeviceColumns]:
        with named_errors(group.database.place):
            return [group.snapshots(blocks, log) for blocks in runs]

    def _commit(self) -> None:
        for group in self._groups:
            group.database.commit()

    def _undo(self) -> None:
        for group in self._groups:
            was_writing = group.database.is_writing
            group.database.undo()
            if was_writing:
                group.folding = None
                # A database that cannot be read says so to the next call.
                with suppress(StoreError), named_errors(group.database.place):
                    group.measure()
