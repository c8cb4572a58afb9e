"""The offline inbox in SQLite: small rows, found by device through an index in generations (`inbox_index.py`), nothing
read for a device without any.

    rows      tag -> device, app, born, deadline, arrival, bytes, collapse     the tag is the row's address in its batch
    index     hash of the device -> tags                                       a peek reads this and the rows it names

The content of a row is in its batch, once per variant: in its ledger page, in memory or in the ledger archive. So a row
costs some 90 bytes here, whatever it says. Limits are checked against counters in memory (`inbox_filing.py`); only a
device near its limit costs a read.

Of one collapse id of a device the newest by submit time stays (`born`); those it replaces are named in the answer.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import trio

from gateway.batch import OwnershipEpoch
from gateway.columns import I64, U8, Bool, fixed_rows
from gateway.store import inbox_index
from gateway.store.database import Database, EpochGuard, named_errors
from gateway.store.inbox_entries import Entries
from gateway.store.inbox_filing import Filing, buckets_for, device_hash, device_hashes
from gateway.store.ports import InboxCount, InboxFound, InboxPut, InboxQuery, InboxRows, Kept
from gateway.store.turns import Turns

#: 64 GiB: some 700 million rows; `rows_max` and `bytes_max` are what really bounds it.
FILE_BYTES_MAX = 64 << 30

#: Rows come in the order of their tags, and the index is written one block behind the other: what a put touches are the
#: last pages of a few tables. The rest is for devices that return.
CACHE_BYTES = 16 << 20

SCHEMA = (
    """
    CREATE TABLE rows (
        tag INTEGER PRIMARY KEY, device BLOB NOT NULL, hash INTEGER NOT NULL, app INTEGER NOT NULL,
        born INTEGER NOT NULL, deadline INTEGER NOT NULL, arrival INTEGER NOT NULL, bytes INTEGER NOT NULL,
        collapse INTEGER NOT NULL
    );
    CREATE INDEX by_device ON rows (hash, arrival);
    """,
    # by_device is dropped when its rows are in this one (inbox_index.py).
    inbox_index.SCHEMA,
)
_INSERT = "INSERT INTO rows VALUES (?,?,?,?,?,?,?,?,?)"
_TAGS = "SELECT value FROM json_each(?)"
_WITH_TAGS = f"FROM rows WHERE tag IN ({_TAGS}) AND device = ?"
#: Rows that are put in one turn, some 4 ms: a device that returns meanwhile waits for one of them, not for a slice.
PUT_ROWS = 1024
#: Rows that a turn of `find` goes through, some 10 ms.
FOUND_ROWS = 32_768


class SqliteInbox:
    """Opening blocks: it reads the index of the rows that are there, 10 million in a second or two.

    Limits: see [inbox] in configs/reference.toml. worker: whose batches `newest_at_start` is about.

    Raises what `Database` raises.
    """

    def __init__(
        self,
        path: Path,
        *,
        rows_per_device_max: int,
        rows_max: int,
        bytes_per_device_max: int,
        bytes_max: int,
        worker: int = 0,
    ) -> None:
        self._rows_per_device_max = rows_per_device_max
        self._rows_max = rows_max
        self._bytes_per_device_max = bytes_per_device_max
        self._bytes_max = bytes_max
        self.database = Database(path, SCHEMA, bytes_max=FILE_BYTES_MAX, cache_bytes=CACHE_BYTES)
        self._filing = Filing(buckets_for(rows_max, rows_per_device_max))
        try:
            self._index = inbox_index.open_index(self.database, self._file)
        except BaseException:
            self.database.close()
            raise
        #: (born, tag) of the row submitted last, as known when the inbox was opened; (0, -1) where there was none.
        self.newest_at_start = self._index.newest.get(worker, (0, -1))
        #: When the newest row of any worker was submitted, as known then; 0 where there was none.
        self.newest_born_at_start = max((born for born, _ in self._index.newest.values()), default=0)
        self._epochs = EpochGuard([self.database])
        self.turns = Turns(self.database.place, commit=self._commit, undo=self._undo)

    def _file(self, entries: Entries) -> None:
        came = entries.sizes >= 0
        self._filing.add(entries.hashes[came], entries.sizes[came])
        self._filing.add(entries.hashes[~came], ~entries.sizes[~came], -1)
        self._filing.commit()

    def __len__(self) -> int:
        return self._filing.rows

    def file_bytes(self) -> int:
        return self.database.file_bytes()

    def close(self) -> None:
        """Blocks; no call may be under way."""
        self.database.close()

    # the port

    async def put(self, epoch: OwnershipEpoch, rows: InboxRows) -> InboxPut:
        """As the port says. Raises StaleEpoch, StoreError."""
        await trio.lowlevel.checkpoint()
        number = self._epochs.check(epoch)
        n = len(rows.tags)
        if n <= PUT_ROWS:
            return await self.turns.run(lambda: self._put(number, rows))
        kept, replaced = np.zeros(n, np.uint8), [rows.tags[:0]]
        for first in range(0, n, PUT_ROWS):
            part = rows.part(first, first + PUT_ROWS)
            answer = await self.turns.run(functools.partial(self._put, number, part))
            kept[first : first + PUT_ROWS] = answer.kept
            # Rows of this call that a later one of it replaced were never there for who called.
            kept[:first][np.isin(rows.tags[:first], answer.replaced)] = Kept.SUPERSEDED
            replaced.append(answer.replaced[~np.isin(answer.replaced, rows.tags[:first])])
        return InboxPut(kept, np.concatenate(replaced))

    async def peek(self, device_id: bytes, rows_max: int) -> I64:
        """As the port says. Raises StoreError."""
        if not self.holds(device_id):
            await trio.lowlevel.checkpoint()
            return np.zeros(0, np.int64)
        return await self.turns.run(lambda: self._peek(device_id, rows_max))

    async def forget(self, epoch: OwnershipEpoch, tags: I64) -> int:
        """As the port says. Raises StaleEpoch, StoreError."""
        await trio.lowlevel.checkpoint()
        number = self._epochs.check(epoch)
        return await self.turns.run(lambda: self._forget(number, tags))

    def holds(self, device_id: bytes) -> bool:
        one_hash = device_hash(device_id)
        return self._filing.may_hold(one_hash) and self._index.may_hold(one_hash)

    async def count(self, query: InboxQuery) -> InboxCount:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: self._count(query))

    async def find(self, query: InboxQuery, rows_max: int) -> InboxFound:
        """As the port says; in several turns, since it may go through all rows. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        if query.device_id is not None or query.tags is not None or rows_max <= 0:
            return await self.turns.run(lambda: self._find(query, rows_max, None))
        parts, n = [], 0
        last: int | None = query.first_tag
        while last is not None and n < rows_max:
            query = query._replace(first_tag=last)
            last = await self.turns.run(functools.partial(self._after_some, query.first_tag))
            parts.append(await self.turns.run(functools.partial(self._find, query, rows_max - n, last)))
            n += len(parts[-1].tags)
        return InboxFound(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    # in the thread

    def _put(self, epoch: int, rows: InboxRows) -> InboxPut:
        with named_errors(self.database.place):
            connection = self.database.write(epoch)
            if len(np.unique(rows.tags)) == len(rows.tags):
                return self._put_part(connection, rows)
            # A tag that comes twice in a call: one after the other, as if there were a call for each.
            parts = [self._put_part(connection, rows.part(at, at + 1)) for at in range(len(rows.tags))]
            return InboxPut(
                np.concatenate([one.kept for one in parts]), np.concatenate([one.replaced for one in parts])
            )

    def _put_part(self, connection: sqlite3.Connection, rows: InboxRows) -> InboxPut:
        """All tags differ."""
        with named_errors(self.database.place):
            k = len(rows.tags)
            kept = np.full(k, Kept.YES, np.uint8)
            is_new = self._are_new(connection, rows)
            hashes = device_hashes(rows.device_ids) if k else rows.tags
            sizes, collapse, apps, born = (
                rows.column("sizes"),
                rows.column("collapse"),
                rows.column("apps"),
                rows.born(),
            )
            replaced: list[int] = []
            for at in self._may_replace(hashes, is_new & (collapse != 0)).tolist():
                self._collapse(connection, rows, at, hashes, kept, is_new, replaced)
            gone = np.array(replaced, np.int64)
            if len(gone):
                self._delete(connection, gone)
            is_new &= kept == Kept.YES
            self._refuse_beyond(connection, rows, hashes, sizes, kept, is_new)
            is_new &= kept == Kept.YES
            at_rows = np.flatnonzero(is_new)
            tags = rows.tags[at_rows]
            arrivals = range(self._index.next_arrival, self._index.next_arrival + len(tags))
            self._index.next_arrival += len(tags)
            columns = (
                tags.tolist(),
                fixed_rows(np.ascontiguousarray(rows.device_ids[at_rows])),
                hashes[at_rows].tolist(),
                apps[at_rows].tolist(),
                born[at_rows].tolist(),
                rows.deadlines_unix_ms[at_rows].tolist(),
                arrivals,
                sizes[at_rows].tolist(),
                collapse[at_rows].tolist(),
            )
            connection.executemany(_INSERT, zip(*columns, strict=True))
            self._index.add(Entries(hashes[at_rows], tags, sizes[at_rows]))
            self._index.saw(born[at_rows], tags)
            self._filing.add(hashes[at_rows], sizes[at_rows])
            return InboxPut(kept, gone)

    def _are_new(self, connection: sqlite3.Connection, rows: InboxRows) -> Bool:
        """(k,) which tags are not stored. A slice of a batch that comes for the first time costs one look: no stored
        tag lies between its own. What is left of an older batch, whose number was given again, is deleted."""
        tags = rows.tags
        is_new = np.ones(len(tags), np.bool_)
        if not len(tags):
            return is_new
        span = (int(tags.min()), int(tags.max()))
        found = connection.execute("SELECT 1 FROM rows WHERE tag BETWEEN ? AND ? LIMIT 1", span).fetchone()
        if found is not None:
            text = json.dumps(tags.tolist())
            stored = dict(connection.execute(f"SELECT tag, born FROM rows WHERE tag IN ({_TAGS})", (text,)))
            born = dict(zip(tags.tolist(), rows.born().tolist(), strict=True))
            older = [tag for tag, its_born in stored.items() if its_born < born[tag]]
            self._delete(connection, np.array(older, np.int64))
            is_new &= ~np.isin(tags, np.array([tag for tag in stored if tag not in older], np.int64))
        return is_new

    def _may_replace(self, hashes: I64, chosen: Bool) -> I64:
        """Those of the rows, in their order, whose device has another row, stored or in this call."""
        at = np.flatnonzero(chosen)
        _, inverse, n = np.unique(hashes[at], return_inverse=True, return_counts=True)
        is_alone = (n[inverse] == 1) & (self._filing.at_most(hashes[at])[0] == 0)
        may: I64 = at[~is_alone]
        return may

    def _collapse(
        self,
        connection: sqlite3.Connection,
        rows: InboxRows,
        at: int,
        hashes: I64,
        kept: U8,
        is_new: Bool,
        replaced: list[int],
    ) -> None:
        """Row `at` replaces what is older of its collapse id, or is itself too old."""
        collapse, born = rows.column("collapse"), rows.born()
        device_id = rows.device_ids[at].tobytes()
        # Earlier in this call: of two as old as each other the later wins.
        same = np.flatnonzero((collapse[:at] == collapse[at]) & (hashes[:at] == hashes[at]) & is_new[:at])
        for other in same.tolist():
            if rows.device_ids[other].tobytes() == device_id and kept[other] == Kept.YES:
                loser = at if born[other] > born[at] else other
                kept[loser] = Kept.SUPERSEDED
        if kept[at] != Kept.YES or not self._filing.may_hold(int(hashes[at])):
            return
        tags = self._index.tags(int(hashes[at]))
        stored = connection.execute(
            f"SELECT tag, born {_WITH_TAGS} AND collapse = ?", (_as_json(tags), device_id, int(collapse[at]))
        ).fetchall()
        if any(its_born > born[at] for _, its_born in stored):
            kept[at] = Kept.SUPERSEDED
        else:
            replaced += [tag for tag, _ in stored if tag not in replaced]

    def _refuse_beyond(
        self, connection: sqlite3.Connection, rows: InboxRows, hashes: I64, sizes: I64, kept: U8, is_new: Bool
    ) -> None:
        """Rows for which there is no room, per device or in all, are not kept."""
        chosen = np.flatnonzero(is_new)
        n_at_most, bytes_at_most = self._filing.at_most(hashes[chosen])
        order = np.argsort(hashes[chosen], kind="stable")
        ordered = hashes[chosen][order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else order
        # How many of the same hash stand before each in this call, and the bytes of all of them at most.
        before = np.empty(len(chosen), np.int64)
        before[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        size_max = int(sizes[chosen].max(initial=0))
        may_pass = n_at_most + before + 1 > self._rows_per_device_max
        may_pass |= bytes_at_most + (before + 1) * size_max > self._bytes_per_device_max
        used: dict[bytes, list[int]] = {}
        if may_pass.any():
            self._refuse_by_device(connection, rows, hashes, sizes, chosen, may_pass, kept, used)
        chosen = chosen[kept[chosen] == Kept.YES]
        room = self._rows_max - self._filing.rows
        kept[chosen[max(room, 0) :]] = Kept.NO_ROOM
        ends = np.cumsum(sizes[chosen])
        kept[chosen[ends > self._bytes_max - self._filing.bytes]] = Kept.NO_ROOM

    def _refuse_by_device(
        self,
        connection: sqlite3.Connection,
        rows: InboxRows,
        hashes: I64,
        sizes: I64,
        chosen: I64,
        may_pass: Bool,
        kept: U8,
        used: dict[bytes, list[int]],
    ) -> None:
        """One by one, with a look into the database: devices near their limit, or that share a counter."""
        near = set(hashes[chosen[may_pass]].tolist())
        room = self._rows_max - self._filing.rows
        taken = 0
        for at in chosen.tolist():
            if int(hashes[at]) in near:
                device_id = rows.device_ids[at].tobytes()
                has = used.get(device_id)
                if has is None:
                    has = used[device_id] = list(
                        connection.execute(
                            f"SELECT count(*), coalesce(sum(bytes), 0) {_WITH_TAGS}",
                            (_as_json(self._index.tags(int(hashes[at]))), device_id),
                        ).fetchone()
                    )
                fits = has[0] < self._rows_per_device_max and has[1] + sizes[at] <= self._bytes_per_device_max
                if not fits or taken >= room:
                    kept[at] = Kept.NO_ROOM
                    continue
                has[0] += 1
                has[1] += int(sizes[at])
            taken += 1

    def _delete(self, connection: sqlite3.Connection, tags: I64) -> int:
        text = json.dumps(tags.tolist())
        found = connection.execute(f"SELECT hash, tag, bytes FROM rows WHERE tag IN ({_TAGS})", (text,)).fetchall()
        if found:
            connection.execute(f"DELETE FROM rows WHERE tag IN ({_TAGS})", (text,))
            hashes, gone, sizes = np.array(found, np.int64).T.copy()
            self._filing.add(hashes, sizes, -1)
            self._index.add(Entries(hashes, gone, ~sizes))
        return len(found)

    def _forget(self, epoch: int, tags: I64) -> int:
        with named_errors(self.database.place):
            return self._delete(self.database.write(epoch), tags)

    def _peek(self, device_id: bytes, rows_max: int) -> I64:
        with named_errors(self.database.place):
            tags = self._index.tags(device_hash(device_id))
            if not tags:
                return np.zeros(0, np.int64)
            values = (_as_json(tags), device_id, rows_max)
            found = self.database.read.execute(f"SELECT tag {_WITH_TAGS} ORDER BY arrival LIMIT ?", values)
            return np.array([tag for (tag,) in found], np.int64)

    def _count(self, query: InboxQuery) -> InboxCount:
        with named_errors(self.database.place):
            where, values = self._where(query)
            found = self.database.read.execute(
                f"SELECT count(*), coalesce(sum(bytes), 0), count(DISTINCT hash) FROM rows WHERE {where}", values
            ).fetchone()
        return InboxCount(*found)

    def _after_some(self, tag: int) -> int | None:
        """Up to where a turn looks from there on; None: to the end."""
        with named_errors(self.database.place):
            query = "SELECT tag FROM rows WHERE tag >= ? ORDER BY tag LIMIT 1 OFFSET ?"
            found = self.database.read.execute(query, (tag, FOUND_ROWS)).fetchone()
        return None if found is None else int(found[0])

    def _find(self, query: InboxQuery, rows_max: int, end: int | None) -> InboxFound:
        """end: rows of that tag and later ones are not looked at."""
        with named_errors(self.database.place):
            where, values = self._where(query)
            if end is not None:
                where, values = f"{where} AND tag < ?", [*values, end]
            found = self.database.read.execute(
                f"SELECT tag, device, app, born, deadline, bytes FROM rows WHERE {where} ORDER BY tag LIMIT ?",
                [*values, rows_max],
            ).fetchall()
        ids = np.frombuffer(b"".join(row[1] for row in found), np.uint8).reshape(-1, 16)
        columns = np.array([(row[0], *row[2:]) for row in found], np.int64).reshape(-1, 5)
        return InboxFound(columns[:, 0], ids, columns[:, 1], columns[:, 2], columns[:, 3], columns[:, 4])

    def _commit(self) -> None:
        if self.database.is_writing:
            self._index.work(self.database.read)
        self.database.commit()
        self._filing.commit()
        self._index.commit()

    def _undo(self) -> None:
        self.database.undo()
        self._filing.undo()
        self._index.undo()

    def _where(self, query: InboxQuery) -> tuple[str, list[Any]]:
        parts: list[str] = ["tag >= ?"]
        values: list[Any] = [query.first_tag]
        if query.app is not None:
            parts.append("app = ?")
            values.append(query.app)
        if query.device_id is not None:
            parts.append(f"tag IN ({_TAGS}) AND device = ?")
            values += [_as_json(self._index.tags(device_hash(query.device_id))), query.device_id]
        if query.tags is not None:
            spans = ["tag BETWEEN ? AND ?" for _ in query.tags]
            parts.append(f"({' OR '.join(spans) or '0'})")
            values += [bound for span in query.tags for bound in span]
        if query.born_before_unix_ms is not None:
            parts.append("born < ?")
            values.append(query.born_before_unix_ms)
        if query.over_at_unix_ms is not None:
            parts.append("deadline <= ?")
            values.append(query.over_at_unix_ms)
        return " AND ".join(parts), values


def _as_json(tags: Iterable[int]) -> str:
    return json.dumps(list(tags))
