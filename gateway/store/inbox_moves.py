"""Rows of inboxes go to the worker that owns their devices now, before any of them runs. Blocks.

    inbox.db, inbox-001.db ...     one per worker; rows of device ids that its shard groups hold

A start with another number of workers moves what belongs elsewhere: written there, durable, then deleted here, some
thousand rows at a time. Cut anywhere it is begun again, and a row that stands in both is stored once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gateway.columns import I64, U8
from gateway.store.database import Database, named_errors
from gateway.store.inbox_entries import Entries
from gateway.store.inbox_index import open_index
from gateway.store.sqlite_inbox import CACHE_BYTES, FILE_BYTES_MAX, SCHEMA

_ROWS = 10_000
_WITH_TAGS = "FROM rows WHERE tag IN (SELECT value FROM json_each(?))"
_COLUMNS = "tag, device, hash, app, born, deadline, arrival, bytes, collapse"


def inbox_path(folder: Path, worker: int) -> Path:
    return folder / ("inbox.db" if worker == 0 else f"inbox-{worker:03d}.db")


def clean_mark(folder: Path, worker: int) -> Path:
    """A file that is there while no process has the inbox, and the last one ended with everything written."""
    return folder / f"inbox-{worker:03d}.clean"


class _Opened:
    """The inbox of a worker, while rows are moved."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, SCHEMA, bytes_max=FILE_BYTES_MAX, cache_bytes=CACHE_BYTES)
        try:
            self._index = open_index(self.database, lambda entries: None)
        except BaseException:
            self.database.close()
            raise

    def rows_after(self, tag: int) -> list[tuple[Any, ...]]:
        with named_errors(self.database.place):
            query = f"SELECT {_COLUMNS} FROM rows WHERE tag > ? ORDER BY tag LIMIT ?"
            return self.database.read.execute(query, (tag, _ROWS)).fetchall()

    def take(self, rows: list[tuple[Any, ...]]) -> None:
        """The rows are here, durably; those that were are as they were."""
        with named_errors(self.database.place):
            connection = self.database.write(0)
            known = {tag for (tag,) in connection.execute(f"SELECT tag {_WITH_TAGS}", (_tags(rows),))}
            new = [row for row in rows if row[0] not in known]
            connection.executemany("INSERT INTO rows VALUES (?,?,?,?,?,?,?,?,?)", new)
        if new:
            tags, hashes, born, arrivals, sizes = (_column(new, at) for at in (0, 2, 4, 6, 7))
            self._index.add(Entries(hashes, tags, sizes))
            self._index.saw(born, tags)
            self._index.next_arrival = max(self._index.next_arrival, int(arrivals.max()) + 1)
        self._commit()

    def drop(self, rows: list[tuple[Any, ...]]) -> None:
        """The rows, which were read here, are gone."""
        with named_errors(self.database.place):
            self.database.write(0).execute(f"DELETE {_WITH_TAGS}", (_tags(rows),))
        self._index.add(Entries(_column(rows, 2), _column(rows, 0), ~_column(rows, 7)))
        self._commit()

    def _commit(self) -> None:
        self._index.work(self.database.read)
        self.database.commit()
        self._index.commit()


def _tags(rows: list[tuple[Any, ...]]) -> str:
    return json.dumps([row[0] for row in rows])


def _column(rows: list[tuple[Any, ...]], at: int) -> I64:
    return np.array([row[at] for row in rows], np.int64)


def move_rows(folder: Path, owners: Callable[[U8], U8], *, workers_max: int) -> int:
    """Every row is in the inbox of its owner; how many were moved. owners: (n, 16) ids -> (n,) their workers.

    Raises StoreError.
    """
    open_: dict[int, _Opened] = {}
    moved = 0

    def inbox(worker: int) -> _Opened:
        if worker not in open_:
            open_[worker] = _Opened(inbox_path(folder, worker))
        return open_[worker]

    try:
        for worker in range(workers_max):
            if inbox_path(folder, worker).exists():
                moved += _move_from(worker, inbox, owners)
    finally:
        for one in open_.values():
            one.database.close()
    return moved


def _move_from(worker: int, inbox: Callable[[int], _Opened], owners: Callable[[U8], U8]) -> int:
    source, after, moved = inbox(worker), -1, 0
    while rows := source.rows_after(after):
        after = rows[-1][0]
        ids = np.frombuffer(b"".join(row[1] for row in rows), np.uint8).reshape(-1, 16)
        owner_of = owners(ids)
        for owner in np.unique(owner_of[owner_of != worker]).tolist():
            part = [rows[at] for at in np.flatnonzero(owner_of == owner).tolist()]
            inbox(owner).take(part)
            source.drop(part)
            moved += len(part)
    return moved
