"""The log of changes beside archived pages (page_changes.py), in the archive's database.

    changes  (sequence, unix_ms, number) -> record

A record is written in the transaction that changes what the page counts for; it goes when its page is written again,
or when a later record says all that it says. So a page has a few dozen at most, and a start reads none of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gateway.store.ports import PageChanges, PageKey

SCHEMA = """
    CREATE TABLE changes (sequence INTEGER NOT NULL, unix_ms INTEGER NOT NULL, number INTEGER NOT NULL,
        record BLOB NOT NULL, PRIMARY KEY (sequence, unix_ms, number)) WITHOUT ROWID;
"""


def write(connection: sqlite3.Connection, changes: Sequence[PageChanges]) -> None:
    pages_written(connection, [one.key for one in changes if one.in_place])
    rows = [(one.key.sequence, one.key.unix_ms, one.key.sequence, one.key.unix_ms, one.record) for one in changes]
    connection.executemany(
        """INSERT INTO changes VALUES (?, ?,
            (SELECT coalesce(max(number) + 1, 0) FROM changes WHERE sequence = ? AND unix_ms = ?), ?)""",
        rows,
    )


def pages_written(connection: sqlite3.Connection, keys: Sequence[PageKey]) -> None:
    """The pages say by themselves what they are, or are gone."""
    pairs = [(key.sequence, key.unix_ms) for key in keys]
    connection.executemany("DELETE FROM changes WHERE sequence = ? AND unix_ms = ?", pairs)


def log(connection: sqlite3.Connection, key: PageKey) -> list[bytes]:
    found = connection.execute(
        "SELECT record FROM changes WHERE sequence = ? AND unix_ms = ? ORDER BY number", (key.sequence, key.unix_ms)
    )
    return [record for (record,) in found]
