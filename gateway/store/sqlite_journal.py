"""The journal in SQLite: WAL, synchronous=FULL (https://www.sqlite.org/pragma.html, read 2026-11-22).

A commit is one INSERT with all records of the group as VALUES, outside of a transaction, so that the statement is the
transaction: the thread enters the interpreter when it begins, after the step and after the reset. Payloads are joined,
since SQLite takes a value in one piece; that copy holds the interpreter.

SQLite's own checksums cover the write-ahead log, not the database; so each row carries the CRC-32 of its payload.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gateway.errors import StoreCorrupt
from gateway.store.database import named_errors
from gateway.store.ports import JournalRecord
from gateway.store.threaded import ReadAhead, Sealed, ThreadedJournal

#: PRAGMA user_version. A newer one is refused.
SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE records (
    position INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, checksum INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE writer (epoch INTEGER NOT NULL);
INSERT INTO writer VALUES (0);
"""
_INSERT = "INSERT INTO records (position, kind, checksum, payload) VALUES "
_RELEASE = "DELETE FROM records WHERE position IN (SELECT value FROM json_each(?))"
_READ = "SELECT position, kind, checksum, payload FROM records WHERE position >= ? ORDER BY position"
#: As in the log: store/log_journal.py.
BYTES_MAX = 4 << 30


class SqliteJournal(ThreadedJournal):
    """Opening blocks. bytes_max: of the database; the write-ahead log beside it is checkpointed at 4 MiB by SQLite.

    Raises StoreInUse, StoreCorrupt, StoreFull, StoreReadOnly, StoreError.
    """

    def __init__(self, path: Path, *, bytes_max: int = BYTES_MAX) -> None:
        self._path = str(path)
        # Every statement is a transaction of its own. The cache holds one INSERT for each size of a group.
        with named_errors(self._path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256
            )
        try:
            with named_errors(self._path):
                epoch, self._next = self._open(bytes_max)
        except BaseException:
            self._database.close()
            raise
        super().__init__(self._path, epoch)
        self._epoch = epoch

    def _open(self, bytes_max: int) -> tuple[int, int]:
        """(newest epoch, next position)"""
        run = self._database.execute
        # One process: the lock is held until the end, and no shared memory is needed.
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        (page_bytes,) = run("PRAGMA page_size").fetchone()
        run(f"PRAGMA max_page_count = {max(bytes_max // page_bytes, 8)}")
        (version,) = run("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreCorrupt(self._path, f"database has schema {version}, this version knows up to {SCHEMA_VERSION}")
        if version == 0:
            self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        (epoch,) = run("SELECT epoch FROM writer").fetchone()
        (newest,) = run("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()
        # Takes the lock now, not at the first write.
        run("UPDATE writer SET epoch = epoch")
        return epoch, newest + 1

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()

    # in the thread

    def commit(self, records: Sequence[Sealed]) -> Sequence[int]:
        positions = range(self._next, self._next + len(records))
        values: list[object] = []
        for position, record in zip(positions, records, strict=True):
            values += (position, record.kind, record.checksum, b"".join(record.buffers))
        with named_errors(self._path):
            self._announce(max(record.epoch for record in records))
            self._database.execute(_INSERT + ",".join(["(?,?,?,?)"] * len(records)), values)
        self._next = positions.stop
        return positions

    def let_go(self, epoch: int, positions: Sequence[int]) -> None:
        with named_errors(self._path):
            self._announce(epoch)
            self._database.execute(_RELEASE, (f"[{','.join(map(str, positions))}]",))

    def read(self, position: int, bytes_max: int) -> ReadAhead:
        found: list[tuple[int, JournalRecord]] = []
        size = 0
        with named_errors(self._path):
            rows = self._database.execute(_READ, (position,))
            for at, kind, checksum, payload in rows:
                if size >= bytes_max:
                    rows.close()
                    return ReadAhead(found, at)
                if zlib.crc32(payload) != checksum:
                    rows.close()
                    what = f"record at position {at} does not agree with its checksum"
                    fault = StoreCorrupt(self._path, what, position=at)
                    return ReadAhead(found, None, fault)
                found.append((at, JournalRecord(kind, (payload,))))
                size += len(payload)
        return ReadAhead(found, None)

    def _announce(self, epoch: int) -> None:
        if epoch > self._epoch:
            self._database.execute("UPDATE writer SET epoch = ?", (epoch,))
            self._epoch = epoch
