"""The ledger archive in SQLite: pages that may leave memory, found by address, by task and by device.

    pages  (sequence, unix_ms) -> app, rows, page (store/packing.py), hashes    sequences come again, with another time
    parts  task id -> addresses, of tasks that have rows in several batches
    tallies, counts                                                             what is counted (sqlite_tallies.py)
    changed, told                                                               who was told of what (sqlite_told.py)
    changes                                                          what pages are by now (sqlite_changes.py)

held: pages whose open rows wait in the inbox, how many they are and when the first of them is over. A table of its own:
columns behind a page's bytes would cost a walk through them.

hashes: the sorted 4-byte hashes of the page's devices. A search for one device reads this column of the app's newest
pages: 262 KB for 65,536 rows; a hit may be another device, so the page decides.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trio

from gateway.batch import OwnershipEpoch
from gateway.columns import Rows
from gateway.errors import StoreCorrupt
from gateway.store import sqlite_changes, sqlite_tallies, sqlite_told
from gateway.store.database import Database, EpochGuard, named_errors
from gateway.store.packing import NotInBlocks, PackedParts, pack_page, unpack_page
from gateway.store.page_rows import RowsOfPage, read_rows
from gateway.store.pages import short_hashes
from gateway.store.ports import ArchivedPage, DayCounts, HeldPage, PageChanges, PageKey
from gateway.store.turns import Turns
from gateway.tally import PageTally

#: 1 TiB; `retention_bytes_max` is what really bounds it.
FILE_BYTES_MAX = 1 << 40
#: A full ledger page is 1.2 MB and its column of hashes 262 KB: chains of pages in SQLite, and long ones at 4 KiB each.
PAGE_BYTES = 32 << 10
#: Hashes of a page that are looked through on both sides of where one would be: eight standard deviations of its place
#: among 65,536.
_LOOK_HASHES = 1024
#: Pages deleted in one turn by `retain`.
_RETAIN_PAGES = 64

SCHEMA = (
    """
    CREATE TABLE pages (
        sequence INTEGER NOT NULL, unix_ms INTEGER NOT NULL, app INTEGER NOT NULL, rows INTEGER NOT NULL,
        bytes INTEGER NOT NULL, hashes BLOB NOT NULL, page BLOB NOT NULL, PRIMARY KEY (sequence, unix_ms)
    );
    CREATE INDEX by_age ON pages (unix_ms, app, rows, bytes);
    CREATE TABLE parts (task BLOB NOT NULL, unix_ms INTEGER NOT NULL, sequence INTEGER NOT NULL,
        PRIMARY KEY (task, unix_ms, sequence)) WITHOUT ROWID;
    CREATE INDEX parts_by_page ON parts (sequence, unix_ms);
    """,
    """
    CREATE TABLE held (unix_ms INTEGER NOT NULL, sequence INTEGER NOT NULL, rows INTEGER NOT NULL,
        deadline INTEGER NOT NULL, PRIMARY KEY (unix_ms, sequence)) WITHOUT ROWID;
    """,
    sqlite_tallies.SCHEMA,
    sqlite_told.SCHEMA,
    sqlite_changes.SCHEMA,
)


class SqliteLedgerArchive:
    """Opening blocks. Raises what `Database` raises."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, SCHEMA, bytes_max=FILE_BYTES_MAX, page_bytes=PAGE_BYTES)
        self._epochs = EpochGuard([self.database])
        self.turns = Turns(self.database.place, commit=self.database.commit, undo=self.database.undo)

    def file_bytes(self) -> int:
        return self.database.file_bytes()

    def close(self) -> None:
        """Blocks; no call may be under way."""
        self.database.close()

    # the port

    async def write(self, epoch: OwnershipEpoch, pages: Sequence[ArchivedPage]) -> None:
        """As the port says. Raises StaleEpoch, StoreError."""
        await trio.lowlevel.checkpoint()
        number = self._epochs.check(epoch)
        await self.turns.run(lambda: self._write(number, pages))

    async def amend(self, epoch: OwnershipEpoch, changes: Sequence[PageChanges]) -> set[PageKey]:
        """As the port says. Raises StaleEpoch, StoreError."""
        await trio.lowlevel.checkpoint()
        number = self._epochs.check(epoch)
        return await self.turns.run(lambda: self._amend(number, changes))

    async def read(self, key: PageKey) -> bytes | None:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: self._read(key))

    async def read_rows(self, key: PageKey, rows: Rows) -> RowsOfPage | None:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: self._read_rows(key, rows))

    async def known(self, keys: Sequence[PageKey]) -> set[PageKey]:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: self._known(keys))

    async def held(self, after: PageKey | None, pages_max: int) -> list[HeldPage]:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: self._held(after, pages_max))

    async def newest(self, sequence: int | None) -> PageKey | None:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: self._newest(sequence))

    async def parts(self, task_id: bytes) -> list[PageKey]:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: self._parts(task_id))

    async def with_device(self, keys: Sequence[PageKey] | int, device_hash: int, rows_max: int) -> list[PageKey]:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: self._with_device(keys, device_hash, rows_max))

    async def forget(self, epoch: OwnershipEpoch, keys: Sequence[PageKey]) -> None:
        """As the port says. Raises StaleEpoch, StoreError."""
        await trio.lowlevel.checkpoint()
        number = self._epochs.check(epoch)
        await self.turns.run(lambda: self._forget(number, keys))

    async def retain(self, epoch: OwnershipEpoch, oldest_unix_ms: int, bytes_max: int) -> int:
        """As the port says. Raises StaleEpoch, StoreError."""
        await trio.lowlevel.checkpoint()
        number = self._epochs.check(epoch)
        deleted = 0
        while some := await self.turns.run(lambda: self._retain(number, oldest_unix_ms, bytes_max)):
            deleted += some
        return deleted

    async def tallies(self, keys: Sequence[PageKey]) -> list[PageTally | None]:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: sqlite_tallies.tallies(self.database, keys))

    async def counts(self, first_day: int, last_day: int) -> DayCounts:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: sqlite_tallies.counts(self.database, first_day, last_day))

    async def keys(self, app: int | None, unix_ms: range, after: PageKey | None, keys_max: int) -> list[PageKey]:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: self._keys(app, unix_ms, after or PageKey(-1, -1), keys_max))

    async def changed(self, app: int, since_unix_ms: int, after: PageKey | None, keys_max: int) -> list[PageKey]:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: sqlite_told.changed(self.database, app, since_unix_ms, after, keys_max))

    async def told(self, app: int) -> int | None:
        """As the port says. Raises StoreError."""
        await trio.lowlevel.checkpoint()
        return await self.turns.run(lambda: sqlite_told.told(self.database, app))

    async def tell(self, epoch: OwnershipEpoch, app: int, unix_ms: int) -> None:
        """As the port says. Raises StaleEpoch, StoreError."""
        await trio.lowlevel.checkpoint()
        number = self._epochs.check(epoch)
        await self.turns.run(lambda: sqlite_told.tell(self.database, number, app, unix_ms))

    async def forget_days(self, epoch: OwnershipEpoch, before_day: int) -> None:
        """As the port says. Raises StaleEpoch, StoreError."""
        await trio.lowlevel.checkpoint()
        number = self._epochs.check(epoch)
        await self.turns.run(lambda: sqlite_tallies.forget_days(self.database, number, before_day))

    # in the thread

    def _write(self, epoch: int, pages: Sequence[ArchivedPage]) -> None:
        packed = [(short_hashes(page.device_ids), pack_page(page.parts)) for page in pages]
        with named_errors(self.database.place):
            connection = self.database.write(epoch)
            sqlite_tallies.write(connection, pages)
            sqlite_told.write(connection, pages)
            sqlite_changes.pages_written(connection, [page.key for page in pages])
            for page, (sorted_hashes, data) in zip(pages, packed, strict=True):
                key = page.key
                hashes = sorted_hashes.astype("<u4").tobytes()
                connection.execute(
                    "REPLACE INTO pages VALUES (?,?,?,?,?,?,?)",
                    (key.sequence, key.unix_ms, page.app, page.rows, len(data) + len(hashes), hashes, data),
                )
                for task in page.long_tasks:
                    connection.execute("REPLACE INTO parts VALUES (?,?,?)", (task, key.unix_ms, key.sequence))
            _write_held(connection, pages)

    def _amend(self, epoch: int, changes: Sequence[PageChanges]) -> set[PageKey]:
        there = self._known([one.key for one in changes])
        kept = [one for one in changes if one.key in there]
        with named_errors(self.database.place):
            connection = self.database.write(epoch)
            sqlite_tallies.write(connection, kept)
            sqlite_told.write(connection, kept)
            sqlite_changes.write(connection, kept)
            _write_held(connection, kept)
        return {one.key for one in changes} - there

    def _read(self, key: PageKey) -> bytes | None:
        with named_errors(self.database.place):
            found = self.database.read.execute(
                "SELECT page FROM pages WHERE sequence = ? AND unix_ms = ?", (key.sequence, key.unix_ms)
            ).fetchone()
            log = [] if found is None else sqlite_changes.log(self.database.read, key)
        return None if found is None else unpack_page(found[0], log)

    def _read_rows(self, key: PageKey, rows: Rows) -> RowsOfPage | None:
        connection = self.database.read
        (tally,) = sqlite_tallies.tallies(self.database, [key])
        with named_errors(self.database.place):
            found = connection.execute(
                "SELECT rowid FROM pages WHERE sequence = ? AND unix_ms = ?", (key.sequence, key.unix_ms)
            ).fetchone()
            if found is None or tally is None:
                return None
            log = sqlite_changes.log(connection, key)
            with connection.blobopen("pages", "page", found[0], readonly=True) as page:

                def read(at: int, n: int) -> bytes:
                    page.seek(at)
                    return page.read(n)

                try:
                    return read_rows(PackedParts(read, len(page)), rows, log, tally)
                except NotInBlocks:
                    return None
                except ValueError as error:
                    raise StoreCorrupt("ledger", f"page {key.sequence} of {key.unix_ms}: {error}") from error

    def _known(self, keys: Sequence[PageKey]) -> set[PageKey]:
        query = "SELECT 1 FROM pages WHERE sequence = ? AND unix_ms = ?"
        with named_errors(self.database.place):
            run = self.database.read.execute
            return {key for key in keys if run(query, (key.sequence, key.unix_ms)).fetchone() is not None}

    def _held(self, after: PageKey | None, pages_max: int) -> list[HeldPage]:
        with named_errors(self.database.place):
            found = self.database.read.execute(
                "SELECT unix_ms, sequence, rows, deadline FROM held WHERE (unix_ms, sequence) > (?, ?)"
                " ORDER BY unix_ms, sequence LIMIT ?",
                (*(after or (-1, -1)), pages_max),
            )
            return [HeldPage(PageKey(unix_ms, sequence), *rest) for unix_ms, sequence, *rest in found]

    def _newest(self, sequence: int | None) -> PageKey | None:
        where, values = ("", ()) if sequence is None else ("WHERE sequence = ?", (sequence,))
        with named_errors(self.database.place):
            found = self.database.read.execute(
                f"SELECT unix_ms, sequence FROM pages {where} ORDER BY unix_ms DESC, rowid DESC LIMIT 1", values
            ).fetchone()
        return None if found is None else PageKey(*found)

    def _parts(self, task_id: bytes) -> list[PageKey]:
        with named_errors(self.database.place):
            found = self.database.read.execute("SELECT unix_ms, sequence FROM parts WHERE task = ?", (task_id,))
            return [PageKey(*row) for row in found]

    def _with_device(self, keys: Sequence[PageKey] | int, device_hash: int, rows_max: int) -> list[PageKey]:
        wanted = np.uint32(device_hash & 0xFFFFFFFF)
        run = self.database.read.execute
        seen = 0
        with named_errors(self.database.place):
            if isinstance(keys, int):
                candidates = run(
                    "SELECT unix_ms, sequence, rows FROM pages WHERE app = ? ORDER BY unix_ms DESC", (keys,)
                )
                chosen = []
                for unix_ms, sequence, rows in candidates:
                    chosen.append(PageKey(unix_ms, sequence))
                    seen += rows
                    if seen >= rows_max:
                        break
                keys = chosen
            found = [key for key in keys if self._may_have(key, wanted)]
        return found

    def _may_have(self, key: PageKey, wanted: np.uint32) -> bool:
        """The hashes of the page's devices have that one. Hashes are spread evenly, so it is looked for where it would
        be: half as much is read as of the whole column, which counts where nothing of it is in a cache."""
        connection = self.database.read
        row = connection.execute(
            "SELECT rowid FROM pages WHERE sequence = ? AND unix_ms = ?", (key.sequence, key.unix_ms)
        ).fetchone()
        if row is None:
            return False
        with connection.blobopen("pages", "hashes", row[0], readonly=True) as column:
            n = len(column) // 4
            first = max(0, (int(wanted) * n >> 32) - _LOOK_HASHES)
            column.seek(4 * first)
            hashes = np.frombuffer(column.read(8 * _LOOK_HASHES), "<u4")
            if not n or (first and hashes[0] >= wanted) or (first + len(hashes) < n and hashes[-1] <= wanted):
                column.seek(0)
                hashes = np.frombuffer(column.read(), "<u4")
        at = int(np.searchsorted(hashes, wanted))
        return at < len(hashes) and bool(hashes[at] == wanted)

    def _keys(self, app: int | None, unix_ms: range, after: PageKey, keys_max: int) -> list[PageKey]:
        where, values = ("", ()) if app is None else ("AND app = ?", (app,))
        with named_errors(self.database.place):
            found = self.database.read.execute(
                f"""SELECT unix_ms, sequence FROM pages WHERE unix_ms >= ? AND unix_ms < ?
                    AND (unix_ms, sequence) > (?, ?) {where} ORDER BY unix_ms, sequence LIMIT ?""",
                (max(unix_ms.start, after.unix_ms), unix_ms.stop, *after, *values, keys_max),
            )
            return [PageKey(*row) for row in found]

    def _forget(self, epoch: int, keys: Sequence[PageKey]) -> None:
        pairs = [(key.sequence, key.unix_ms) for key in keys]
        with named_errors(self.database.place):
            connection = self.database.write(epoch)
            sqlite_tallies.pages_gone(connection, keys)
            sqlite_told.pages_gone(connection, keys)
            sqlite_changes.pages_written(connection, keys)
            connection.executemany("DELETE FROM pages WHERE sequence = ? AND unix_ms = ?", pairs)
            connection.executemany("DELETE FROM parts WHERE sequence = ? AND unix_ms = ?", pairs)
            connection.executemany("DELETE FROM held WHERE sequence = ? AND unix_ms = ?", pairs)

    def _retain(self, epoch: int, oldest_unix_ms: int, bytes_max: int) -> int:
        with named_errors(self.database.place):
            run = self.database.read.execute
            (total,) = run("SELECT coalesce(sum(bytes), 0) FROM pages").fetchone()
            (logs,) = run("SELECT coalesce(sum(length(record)), 0) FROM changes").fetchone()
            total += logs
            oldest = run(
                "SELECT unix_ms, sequence, bytes + (SELECT coalesce(sum(length(record)), 0) FROM changes"
                " WHERE changes.sequence = pages.sequence AND changes.unix_ms = pages.unix_ms)"
                " FROM pages WHERE (unix_ms, sequence) NOT IN"
                " (SELECT unix_ms, sequence FROM held) ORDER BY unix_ms LIMIT ?",
                (_RETAIN_PAGES,),
            ).fetchall()
        keys = []
        for unix_ms, sequence, size in oldest:
            if unix_ms >= oldest_unix_ms and total <= bytes_max:
                break
            keys.append(PageKey(unix_ms, sequence))
            total -= size
        if keys:
            self._forget(epoch, keys)
        return len(keys)


def _write_held(connection: sqlite3.Connection, pages: Sequence[ArchivedPage | PageChanges]) -> None:
    held = [(page.key.unix_ms, page.key.sequence, page.held, page.deadline_unix_ms) for page in pages if page.held]
    connection.executemany("REPLACE INTO held VALUES (?,?,?,?)", held)
    others = [(page.key.unix_ms, page.key.sequence) for page in pages if not page.held]
    connection.executemany("DELETE FROM held WHERE unix_ms = ? AND sequence = ?", others)
