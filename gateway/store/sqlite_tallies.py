"""What archived pages add to the counters: one tally per page, and their sums by day, written with the pages.

    tallies  (sequence, unix_ms) -> the page's tally as bytes (gateway/tally.py)
    counts   day, app, plan, label (the group), class, cell, is_gone -> rows

Both change in the transaction that writes a page, so that the sums always are those of the pages: what the page said
before is taken off, what it says now is added. When retention deletes a page its rows stay, with is_gone = 1.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gateway.errors import StoreCorrupt
from gateway.store.database import Database, named_errors
from gateway.store.ports import ArchivedPage, DayCounts, PageChanges, PageKey
from gateway.tally import PageTally, TallyKey, decode_tally, encode_tally

SCHEMA = """
    CREATE TABLE tallies (sequence INTEGER NOT NULL, unix_ms INTEGER NOT NULL, tally BLOB NOT NULL,
        PRIMARY KEY (sequence, unix_ms)) WITHOUT ROWID;
    CREATE TABLE counts (day INTEGER NOT NULL, app INTEGER NOT NULL, plan TEXT NOT NULL, label TEXT NOT NULL,
        class INTEGER NOT NULL, cell INTEGER NOT NULL, is_gone INTEGER NOT NULL, rows INTEGER NOT NULL,
        PRIMARY KEY (day, app, plan, label, class, cell, is_gone)) WITHOUT ROWID;
"""

#: (key, cell, is_gone) -> rows more, or less.
_Changes = dict[tuple[TallyKey, int, int], int]


def write(connection: sqlite3.Connection, pages: Sequence[ArchivedPage | PageChanges]) -> None:
    """The tallies and sums are those of these pages, in place of what was there."""
    changes: _Changes = {}
    for page in pages:
        before = _find(connection, page.key)
        if before == page.tally:
            continue
        if before is not None:
            _add(changes, before, 0, -1)
        _add(changes, page.tally, 0, 1)
        values = (page.key.sequence, page.key.unix_ms, encode_tally(page.tally))
        connection.execute("REPLACE INTO tallies VALUES (?,?,?)", values)
    _apply(connection, changes)


def pages_gone(connection: sqlite3.Connection, keys: Sequence[PageKey]) -> None:
    """The pages are deleted; their rows stay counted."""
    changes: _Changes = {}
    for key in keys:
        tally = _find(connection, key)
        if tally is not None:
            _add(changes, tally, 0, -1)
            _add(changes, tally, 1, 1)
            connection.execute("DELETE FROM tallies WHERE sequence = ? AND unix_ms = ?", (key.sequence, key.unix_ms))
    _apply(connection, changes)


def tallies(database: Database, keys: Sequence[PageKey]) -> list[PageTally | None]:
    with named_errors(database.place):
        return [_find(database.read, key) for key in keys]


def counts(database: Database, first_day: int, last_day: int) -> DayCounts:
    found = DayCounts({}, {})
    with named_errors(database.place):
        rows = database.read.execute("SELECT * FROM counts WHERE day BETWEEN ? AND ?", (first_day, last_day))
        for *key, cell, is_gone, n in rows:
            (found.gone if is_gone else found.kept).setdefault(TallyKey(*key), {})[cell] = n
    return found


def forget_days(database: Database, epoch: int, before_day: int) -> None:
    with named_errors(database.place):
        database.write(epoch).execute("DELETE FROM counts WHERE is_gone = 1 AND day < ?", (before_day,))


def _find(connection: sqlite3.Connection, key: PageKey) -> PageTally | None:
    found = connection.execute(
        "SELECT tally FROM tallies WHERE sequence = ? AND unix_ms = ?", (key.sequence, key.unix_ms)
    ).fetchone()
    try:
        return None if found is None else decode_tally(found[0])
    except ValueError as error:
        raise StoreCorrupt("ledger", f"page {key.sequence} of {key.unix_ms}: {error}") from error


def _add(changes: _Changes, tally: PageTally, is_gone: int, sign: int) -> None:
    for key, cells in tally.cells.items():
        for cell, n in cells.items():
            place = (key, cell, is_gone)
            changes[place] = changes.get(place, 0) + sign * n


def _apply(connection: sqlite3.Connection, changes: _Changes) -> None:
    rows = [(*key, cell, is_gone, n) for (key, cell, is_gone), n in changes.items() if n]
    connection.executemany(
        "INSERT INTO counts VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET rows = rows + excluded.rows", rows
    )
    emptied = [row[:-1] for row in rows if row[-1] < 0]
    connection.executemany(
        """DELETE FROM counts WHERE day = ? AND app = ? AND plan = ? AND label = ? AND class = ? AND cell = ?
            AND is_gone = ? AND rows = 0""",
        emptied,
    )
