"""One SQLite database of a store: opened by one process, of a known schema, with errors in the gateway's words.

WAL and synchronous=FULL (https://www.sqlite.org/pragma.html, read 2026-11-22): a commit is durable when it returns.
The schema version stands in `user_version`: an older database is migrated forward when it is opened, a newer one is
refused by name. `locking_mode = EXCLUSIVE` keeps a second process out; so a copy of a running store is made by the
process that has it open (`copy_to`).

Rules for authors: a schema is a list of steps, one script per version; a step that was released is never changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.batch import OwnershipEpoch
from gateway.errors import StoreCorrupt, StoreError, StoreFull, StoreInUse, StoreReadOnly
from gateway.store.epochs import NewestEpoch

#: Primary result codes of SQLite; the rest is StoreError.
_ERRORS: dict[int, type[StoreError]] = {
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_READONLY: StoreReadOnly,
    sqlite3.SQLITE_CORRUPT: StoreCorrupt,
    sqlite3.SQLITE_NOTADB: StoreCorrupt,
    sqlite3.SQLITE_BUSY: StoreInUse,
}
#: Pages copied in one go by `copy_to`: 4 MiB, some 10 ms.
_COPY_PAGES = 1024
#: SQLite's own default.
CACHE_BYTES = 2 << 20
#: SQLite's own default.
PAGE_BYTES = 4096
#: Bytes of the write-ahead log before it is written back: 32 MiB, so that a page of an index that is touched by every
#: commit is written back once for many of them.
_LOG_BYTES = 32 << 20
#: Every database has it: the newest ownership epoch of its writers.
_WRITER = "CREATE TABLE writer (epoch INTEGER NOT NULL); INSERT INTO writer VALUES (0);"


@contextmanager
def named_errors(place: str) -> Iterator[None]:
    """What SQLite and the system raise inside becomes a StoreError that names the place."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        kind = StoreError if code is None else _ERRORS.get(code & 0xFF, StoreError)
        raise kind(place, str(error)) from error
    except OSError as error:
        # Its own text would name the path once more, and the number of the error.
        where = "" if error.filename in (None, place) else f" ({error.filename})"
        raise StoreError(place, f"{error.strerror or error}{where}") from error


class Database:
    """Opening blocks, and migrates. Every other method blocks too and belongs into a turn (`turns.py`).

    schema: scripts; number k brings version k to k + 1. bytes_max: of the database without its write-ahead log.
    cache_bytes: of pages in memory. page_bytes: of a new database; larger ones read large values faster.

    Raises StoreInUse, StoreCorrupt (a newer schema, not a database), StoreFull, StoreReadOnly, StoreError.
    """

    #: Tests that open hundreds of databases turn it off.
    synchronous = "FULL"

    def __init__(
        self,
        path: Path,
        schema: Sequence[str],
        *,
        bytes_max: int,
        cache_bytes: int = CACHE_BYTES,
        page_bytes: int = PAGE_BYTES,
    ) -> None:
        self.path = path
        self.place = str(path)
        with named_errors(self.place):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64
            )
        try:
            with named_errors(self.place):
                self._open(schema, bytes_max, cache_bytes, page_bytes)
        except BaseException:
            self.close()
            raise
        path.chmod(0o600)
        with named_errors(self.place):
            self._files = {file: _identity(file) for file in (path, path.with_name(path.name + "-wal"))}

    def _open(self, schema: Sequence[str], bytes_max: int, cache_bytes: int, page_bytes: int) -> None:
        run = self._connection.execute
        # In force for a new database; an old one keeps its own.
        run(f"PRAGMA page_size = {page_bytes}")
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {self.synchronous}")
        run(f"PRAGMA cache_size = -{cache_bytes // 1024}")
        # What is deleted is overwritten: an erased device must not be found in the file.
        run("PRAGMA secure_delete = ON")
        (page_bytes,) = run("PRAGMA page_size").fetchone()
        run(f"PRAGMA wal_autocheckpoint = {_LOG_BYTES // page_bytes}")
        run(f"PRAGMA max_page_count = {max(bytes_max // page_bytes, 64)}")
        (version,) = run("PRAGMA user_version").fetchone()
        if version > len(schema):
            what = f"database has schema {version}, this version knows up to {len(schema)}"
            raise StoreCorrupt(self.place, what)
        for number in range(version, len(schema)):
            writer = "" if number else _WRITER
            script = f"BEGIN; {writer} {schema[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            self._connection.executescript(script)
        (epoch,) = run("SELECT epoch FROM writer").fetchone()
        self._epoch: int = epoch
        # Takes the lock now, not at the first write.
        run("UPDATE writer SET epoch = epoch")

    @property
    def epoch(self) -> int:
        """The newest that a writer of this database announced."""
        return self._epoch

    @property
    def is_writing(self) -> bool:
        return self._connection.in_transaction

    def write(self, epoch: int) -> sqlite3.Connection:
        """The connection, inside of a transaction that announces the epoch with the writes of its turn."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        if epoch > self._epoch:
            self._connection.execute("UPDATE writer SET epoch = ?", (epoch,))
            self._epoch = epoch
        return self._connection

    @property
    def read(self) -> sqlite3.Connection:
        """The connection, for SELECT."""
        return self._connection

    def commit(self) -> None:
        """What was written is durable. Nothing written: nothing done. Raises StoreError, also where another file, or
        none, stands at the path by now: SQLite would go on writing to what nobody can open again."""
        if self._connection.in_transaction:
            with named_errors(self.place):
                if not self.is_in_place():
                    raise StoreError(self.place, "was removed while it was in use")
                self._connection.execute("COMMIT")

    def is_in_place(self) -> bool:
        """Its files still stand under their names. Asks the file system alone, so it may be called beside a turn."""
        return all(_identity(file) == identity for file, identity in self._files.items())

    def undo(self) -> None:
        """What was written since the last commit is not there."""
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            (self._epoch,) = self._connection.execute("SELECT epoch FROM writer").fetchone()

    def scrub(self) -> None:
        """The write-ahead log holds nothing of what was deleted before."""
        with named_errors(self.place):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def file_bytes(self) -> int:
        """On disk, with the write-ahead log. Asks the file system alone, so it may be called beside a turn."""
        size = 0
        for name in (self.path.name, self.path.name + "-wal"):
            with suppress(OSError):
                size += self.path.with_name(name).stat().st_size
        return size

    def copy_to(self, path: Path) -> None:
        """A consistent copy of what is committed stands in a new file, which is one database without a log beside it.

        Raises StoreError where the file is there already.
        """
        if path.exists():
            raise StoreError(str(path), "is there already")
        # What an earlier call of the same turn wrote is durable before it is copied.
        self.commit()
        with named_errors(str(path)):
            copy = sqlite3.connect(path)
            try:
                self._connection.backup(copy, pages=_COPY_PAGES)
                copy.execute("PRAGMA journal_mode = DELETE")
            finally:
                copy.close()
            path.chmod(0o600)

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()


def _identity(path: Path) -> tuple[int, int]:
    """Which file stands there; (0, 0) for none, or where nobody can look. Some two microseconds."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


class EpochGuard:
    """The epoch of a store over one or more databases: checked when a call is made, before anything waits."""

    def __init__(self, databases: Sequence[Database]) -> None:
        self._newest = NewestEpoch(max((database.epoch for database in databases), default=0))

    def check(self, epoch: OwnershipEpoch) -> int:
        """Its number. Raises StaleEpoch."""
        self._newest.check(epoch)
        return epoch.number
