"""Rows of inboxes go to the worker that owns their devices now, before any of them runs. Blocks.

    inbox.db, inbox-001.db ...     one per worker; rows of device ids that its shard groups hold

A start with another number of workers moves what belongs elsewhere: written there, durable, then deleted here, some
thousand rows at a time. Cut anywhere it is begun again, and a row that stands in both is stored once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gateway.columns import U8
from gateway.store.database import Database, named_errors
from gateway.store.sqlite_inbox import CACHE_BYTES, FILE_BYTES_MAX, SCHEMA

_ROWS = 10_000
_COLUMNS = "tag, device, hash, app, born, deadline, arrival, bytes, collapse"


def inbox_path(folder: Path, worker: int) -> Path:
    return folder / ("inbox.db" if worker == 0 else f"inbox-{worker:03d}.db")


def clean_mark(folder: Path, worker: int) -> Path:
    """A file that is there while no process has the inbox, and the last one ended with everything written."""
    return folder / f"inbox-{worker:03d}.clean"


def move_rows(folder: Path, owners: Callable[[U8], U8], *, workers_max: int) -> int:
    """Every row is in the inbox of its owner; how many were moved. owners: (n, 16) ids -> (n,) their workers.

    Raises StoreError.
    """
    open_: dict[int, Database] = {}
    moved = 0

    def database(worker: int) -> Database:
        if worker not in open_:
            path = inbox_path(folder, worker)
            open_[worker] = Database(path, SCHEMA, bytes_max=FILE_BYTES_MAX, cache_bytes=CACHE_BYTES)
        return open_[worker]

    try:
        for worker in range(workers_max):
            if inbox_path(folder, worker).exists():
                moved += _move_from(worker, database, owners)
    finally:
        for one in open_.values():
            one.close()
    return moved


def _move_from(worker: int, database: Callable[[int], Database], owners: Callable[[U8], U8]) -> int:
    source, after, moved = database(worker), -1, 0
    while True:
        with named_errors(source.place):
            query = f"SELECT {_COLUMNS} FROM rows WHERE tag > ? ORDER BY tag LIMIT ?"
            rows = source.read.execute(query, (after, _ROWS)).fetchall()
        if not rows:
            return moved
        after = rows[-1][0]
        ids = np.frombuffer(b"".join(row[1] for row in rows), np.uint8).reshape(-1, 16)
        owner_of = owners(ids)
        for owner in np.unique(owner_of[owner_of != worker]).tolist():
            part = [rows[at] for at in np.flatnonzero(owner_of == owner).tolist()]
            target = database(owner)
            with named_errors(target.place):
                target.write(0).executemany("INSERT OR IGNORE INTO rows VALUES (?,?,?,?,?,?,?,?,?)", part)
            target.commit()
            with named_errors(source.place):
                text = json.dumps([row[0] for row in part])
                source.write(0).execute("DELETE FROM rows WHERE tag IN (SELECT value FROM json_each(?))", (text,))
            source.commit()
            moved += len(part)
