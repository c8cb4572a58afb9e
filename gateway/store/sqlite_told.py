"""What services were told by HTTP, for the process that comes after this one (actors/callback_history.py).

    changed  (sequence, unix_ms) -> app, when a row of the page last ended or had a receipt; of apps with callbacks
    told     app -> its service was told of every change before that

A page's line is written with the page: a change that is in the archive and was not told is always found.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gateway.store.database import Database, named_errors
from gateway.store.ports import ArchivedPage, PageChanges, PageKey

SCHEMA = """
    CREATE TABLE changed (sequence INTEGER NOT NULL, unix_ms INTEGER NOT NULL, app INTEGER NOT NULL,
        at INTEGER NOT NULL, PRIMARY KEY (sequence, unix_ms)) WITHOUT ROWID;
    CREATE INDEX changed_by_time ON changed (app, at);
    CREATE TABLE told (app INTEGER PRIMARY KEY, at INTEGER NOT NULL);
"""


def write(connection: sqlite3.Connection, pages: Sequence[ArchivedPage | PageChanges]) -> None:
    rows = [(page.key.sequence, page.key.unix_ms, page.app, page.changed_unix_ms) for page in pages]
    # Of a page of which some rows are here, only what those say is known.
    connection.executemany(
        "INSERT INTO changed VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)",
        [row for row in rows if row[3]],
    )


def pages_gone(connection: sqlite3.Connection, keys: Sequence[PageKey]) -> None:
    pairs = [(key.sequence, key.unix_ms) for key in keys]
    connection.executemany("DELETE FROM changed WHERE sequence = ? AND unix_ms = ?", pairs)


def changed(database: Database, app: int, since_unix_ms: int, after: PageKey | None, keys_max: int) -> list[PageKey]:
    query = """SELECT unix_ms, sequence FROM changed WHERE app = ? AND at >= ? AND (unix_ms, sequence) > (?, ?)
        ORDER BY unix_ms, sequence LIMIT ?"""
    with named_errors(database.place):
        found = database.read.execute(query, (app, since_unix_ms, *(after or (-1, -1)), keys_max))
        return [PageKey(*row) for row in found]


def told(database: Database, app: int) -> int | None:
    with named_errors(database.place):
        found = database.read.execute("SELECT at FROM told WHERE app = ?", (app,)).fetchone()
    return None if found is None else int(found[0])


def tell(database: Database, epoch: int, app: int, unix_ms: int) -> None:
    with named_errors(database.place):
        database.write(epoch).execute("REPLACE INTO told VALUES (?,?)", (app, unix_ms))
