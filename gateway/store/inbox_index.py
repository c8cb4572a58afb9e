"""Which stored rows a device has: an index in generations, so that what is written is written one after another.

    put, forget --> recent (a part per commit, and in memory) --> sealed: a generation --> merged: a larger one

    recent        at -> the entries of one commit, in the order in which they were made
    generations   number -> until, state, entries, blocks
    blocks        number << 32 | block -> BLOCK_ENTRIES entries, sorted by hash
    fences        number << 32 | block -> first hashes and filters of some blocks from that one on

An index of a database is touched at random, and each commit writes a page for nearly every row: 8 KB for one of 107
bytes, with millions of rows. Here an entry of 20 bytes is written four times in its life, whatever the size.

Sealing and merging are done in steps beside the writes, some entries for each that is added, inside of their commits;
so they are as durable as everything, and a crash or an error costs the generation that was being made. Its blocks, and
those of merged ones, are deleted in steps, too. `recent` is read when the database is opened, up to what a generation
has (`until`).

Every method but `may_hold` belongs into a turn.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from gateway.columns import I64, U8
from gateway.store.database import Database, named_errors
from gateway.store.inbox_entries import (
    BLOCK_ENTRIES,
    FILTER_BYTES,
    NO_ENTRIES,
    Entries,
    Generation,
    Recent,
    blocks_of,
    entries_of,
    filter_places,
    filters_of,
    joined,
)
from gateway.store.inbox_merge import SEAL_ENTRIES, Merge, Source, to_merge

SCHEMA = """
    CREATE TABLE recent (at INTEGER PRIMARY KEY, entries BLOB NOT NULL);
    CREATE TABLE generations (
        number INTEGER PRIMARY KEY, until INTEGER NOT NULL, state INTEGER NOT NULL, entries INTEGER NOT NULL,
        blocks INTEGER NOT NULL
    );
    CREATE TABLE blocks (at INTEGER PRIMARY KEY, entries BLOB NOT NULL);
    CREATE TABLE fences (at INTEGER PRIMARY KEY, firsts BLOB NOT NULL, filters BLOB NOT NULL);
    CREATE TABLE newest (worker INTEGER PRIMARY KEY, born INTEGER NOT NULL, tag INTEGER NOT NULL);
    CREATE TABLE arrivals (next INTEGER NOT NULL);
    INSERT INTO arrivals VALUES (1);
"""
#: State of a generation.
_WHOLE, _GONE = 1, 2
#: Entries sealed and merged for each that is added. Sealing takes one, each of three merges of a hundred million rows
#: one, a merge of all at most two; the rest is to spare.
_WORK_PER_ENTRY = 8
#: Entries of a step, some 2 ms; and of the steps of one commit, some 8 ms. A commit of many rows has more of them.
_STEP_ENTRIES = 8192
_COMMIT_ENTRIES = 32_768
_COMMIT_WORK_PER_ENTRY = 4
#: Work that is put off at most: what the next 64 commits do.
_WORK_DUE_MAX = 64 * _COMMIT_ENTRIES
#: Blocks, or parts of what was recent, that are deleted in a step; and how many entries of work that is.
_DELETED = 64
_DELETED_WORK = 1024
#: Entries that are added after an error before anything is sealed or merged again: a disk that is full has no room for
#: a second copy of the index.
_REST_ENTRIES = 10_000
#: Rows of an older schema that are indexed by one commit.
_OLD_ROWS = 8192
#: Above these bits of a tag stands the worker that journaled the row (core/addresses.py).
WORKER_BITS = 38


class _Made:
    """A generation that is being made. replaces: numbers of those that it is merged of; none: it seals what is
    recent."""

    __slots__ = ("blocks", "carried", "fences", "filters", "merge", "n", "number", "replaces", "until")

    def __init__(self, number: int, until: int, replaces: frozenset[int], merge: Merge) -> None:
        self.number = number
        self.until = until
        self.replaces = replaces
        self.merge = merge
        #: Entries that fill no block yet.
        self.carried = NO_ENTRIES
        self.fences: list[I64] = [NO_ENTRIES.hashes]
        self.filters: list[U8] = [np.zeros((0, FILTER_BYTES), np.uint8)]
        self.blocks = 0
        self.n = 0

    def finished(self) -> Generation:
        return Generation(self.number, self.until, self.n, np.concatenate(self.fences), np.concatenate(self.filters))


class _Deleted(NamedTuple):
    """Keys of a table that are deleted, in steps. number: of the generation, which goes with them."""

    table: str
    first: int
    last: int
    number: int | None = None


def open_index(database: Database, file: Callable[[Entries], None]) -> InboxIndex:
    """The index of the rows in the database; file: told of all its entries, in no order. Blocks. Raises StoreError.

    Rows of the first schema are indexed, from the beginning where that was cut before: 10 s for ten million of them.
    """
    with named_errors(database.place):
        is_old = database.read.execute("SELECT 1 FROM sqlite_master WHERE name = 'by_device'").fetchone() is not None
        if is_old:
            _bring_forward(database)
        index = InboxIndex(database)
        index.load(file)
        return index


def _bring_forward(database: Database) -> None:
    connection = database.write(0)
    for table in ("recent", "generations", "blocks", "fences", "newest"):
        connection.execute(f"DELETE FROM {table}")
    index = InboxIndex(database)
    index.load(lambda entries: None)
    after = -1
    while True:
        query = "SELECT tag, hash, bytes, born, arrival FROM rows WHERE tag > ? ORDER BY tag LIMIT ?"
        found = database.read.execute(query, (after, _OLD_ROWS)).fetchall()
        if not found:
            break
        tags, hashes, sizes, born, arrivals = np.array(found, np.int64).T.copy()
        after = int(tags[-1])
        index.next_arrival = max(index.next_arrival, int(arrivals.max()) + 1)
        index.saw(born, tags)
        index.add(Entries(hashes, tags, sizes))
        index.work(database.write(0))
        database.commit()
        index.commit()
    database.write(0).execute("DROP INDEX by_device")
    database.commit()


class InboxIndex:
    """As `open_index` makes it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: The oldest first.
        self.generations: tuple[Generation, ...] = ()
        self._sealing: Recent | None = None
        self._recent = Recent()
        self._pending: list[Entries] = []
        self._seal: _Made | None = None
        self._merge: _Made | None = None
        self._deleted: deque[_Deleted] = deque()
        self._deleted_to: int | None = None
        #: What the commit under way changes in memory once it is durable.
        self._at_commit: list[Callable[[], None]] = []
        self._work_due = 0
        self._rows = 0
        #: Of the next row that comes.
        self.next_arrival = 1
        #: (born, tag) of the newest row that ever came from each worker.
        self.newest: dict[int, tuple[int, int]] = {}
        self._last_number = 0

    # -- opening

    def load(self, file: Callable[[Entries], None]) -> None:
        """What the database has is known; as `open_index` says."""
        run = self._database.read.execute
        with named_errors(self._database.place):
            (self.next_arrival,) = run("SELECT next FROM arrivals").fetchone()
            self.newest = {worker: (born, tag) for worker, born, tag in run("SELECT worker, born, tag FROM newest")}
            kept: list[Generation] = []
            for number, until, state, n, blocks in run("SELECT * FROM generations ORDER BY until").fetchall():
                if state != _WHOLE:
                    # Merged; or begun, and not ended by the process that did.
                    self._delete_generation(number)
                    continue
                kept.append(self._load_generation(number, until, n))
                for entries in self._blocks(number, range(blocks), 4096):
                    self._count(entries)
                    file(entries)
            (self._last_number,) = run("SELECT coalesce(max(number), 0) FROM generations").fetchone()
            self.generations = tuple(kept)
            sealed = max((one.until for one in kept), default=0)
            (first,) = run("SELECT coalesce(min(at), ?) FROM recent", (sealed + 1,)).fetchone()
            if first <= sealed:
                self._deleted.append(_Deleted("recent", first, sealed))
            self._recent.until = sealed
            for at, part in run("SELECT at, entries FROM recent WHERE at > ? ORDER BY at", (sealed,)):
                entries = entries_of([part])
                self._recent.add(entries, at)
                self._count(entries)
                file(entries)

    def _load_generation(self, number: int, until: int, n: int) -> Generation:
        span = (number << 32, (number + 1 << 32) - 1)
        query = "SELECT firsts, filters FROM fences WHERE at BETWEEN ? AND ? ORDER BY at"
        parts = self._database.read.execute(query, span).fetchall()
        fences = np.frombuffer(b"".join(part[0] for part in parts), "<i8").astype(np.int64)
        filters = np.frombuffer(b"".join(part[1] for part in parts), np.uint8).reshape(-1, FILTER_BYTES)
        return Generation(number, until, n, fences, filters)

    def _count(self, entries: Entries) -> None:
        left = int((entries.sizes < 0).sum())
        self._rows += len(entries.sizes) - 2 * left

    # -- what rows there are

    def saw(self, born: I64, tags: I64) -> None:
        """Rows of these came; written with the entries of the commit."""
        if not len(tags):
            return
        workers = tags >> WORKER_BITS
        for worker in np.unique(workers).tolist():
            at = np.flatnonzero(workers == worker)
            newest = at[np.lexsort((tags[at], born[at]))[-1]]
            self.newest[worker] = max(self.newest.get(worker, (0, -1)), (int(born[newest]), int(tags[newest])))

    def add(self, entries: Entries) -> None:
        """Rows that come or leave with this commit."""
        if len(entries.hashes):
            self._pending.append(entries)

    def may_hold(self, one_hash: int) -> bool:
        """Never false for a device with rows. Costs no read; the loop may ask, too."""
        places = filter_places(one_hash)
        sealing = self._sealing
        return (
            self._recent.may_hold(one_hash)
            or (sealing is not None and sealing.may_hold(one_hash))
            or any(one_hash in entries.hashes for entries in self._pending)
            or any(one.may_hold(one_hash, places) for one in self.generations)
        )

    def tags(self, one_hash: int) -> dict[int, int]:
        """Tags of the rows of a hash, and their bytes; a read for each generation that may have some."""
        places = filter_places(one_hash)
        parts: list[Entries] = []
        for one in self.generations:
            if one.may_hold(one_hash, places):
                parts += [part.of(one_hash) for part in self._blocks(one.number, one.blocks_with(one_hash), 64)]
        if self._sealing is not None:
            parts += self._sealing.find(one_hash)
        parts += self._recent.find(one_hash)
        parts += [entries.take(entries.hashes == one_hash) for entries in self._pending]
        found: dict[int, int] = {}
        for part in parts:
            for tag, size in zip(part.tags.tolist(), part.sizes.tolist(), strict=True):
                if size < 0:
                    found.pop(tag, None)
                else:
                    found[tag] = size
        return found

    def _blocks(self, number: int, blocks: range, at_once: int) -> Iterator[Entries]:
        for first in range(blocks.start, blocks.stop, at_once):
            span = (number << 32 | first, number << 32 | min(first + at_once, blocks.stop) - 1)
            query = "SELECT entries FROM blocks WHERE at BETWEEN ? AND ? ORDER BY at"
            yield entries_of([block for (block,) in self._database.read.execute(query, span)])

    # -- commits

    def work(self, connection: sqlite3.Connection) -> None:
        """What was added is written, and some of what was before is sealed and merged. Before the commit."""
        added = joined(self._pending)
        n = len(added.hashes)
        if not n:
            return
        with named_errors(self._database.place):
            until = self._recent.until + 1
            part = (
                until,
                b"".join((added.hashes.tobytes(), added.tags.tobytes(), added.sizes.astype("<i4").tobytes())),
            )
            connection.execute("INSERT INTO recent VALUES (?,?)", part)
            connection.execute("UPDATE arrivals SET next = ?", (self.next_arrival,))
            newest = [(worker, *of_worker) for worker, of_worker in self.newest.items()]
            connection.executemany("INSERT OR REPLACE INTO newest VALUES (?,?,?)", newest)
            self._at_commit.append(lambda: self._take_in(added, until))
            self._work_due = min(self._work_due + _WORK_PER_ENTRY * n, _WORK_DUE_MAX)
            done, done_max = 0, min(self._work_due, max(_COMMIT_ENTRIES, _COMMIT_WORK_PER_ENTRY * n))
            while done < done_max:
                step = self._step(connection)
                if not step:
                    self._work_due = 0
                    return
                done += step
            self._work_due -= done

    def commit(self) -> None:
        """The commit is durable."""
        for change in self._at_commit:
            change()
        self._at_commit.clear()
        self._pending.clear()

    def undo(self) -> None:
        """Nothing of the commit is there. What was being made is begun anew, later."""
        self._at_commit.clear()
        self._pending.clear()
        for made in (self._seal, self._merge):
            if made is not None:
                self._delete_generation(made.number)
        self._seal = self._merge = self._deleted_to = None
        self._work_due = -_WORK_PER_ENTRY * _REST_ENTRIES

    def _take_in(self, added: Entries, until: int) -> None:
        self._count(added)
        self._recent.add(added, until)
        if self._sealing is None and self._recent.n >= SEAL_ENTRIES:
            self._sealing, self._recent = self._recent, Recent()
            self._recent.until = until

    def _step(self, connection: sqlite3.Connection) -> int:
        """Entries of work that were done; 0: there is none, or none before this commit is durable."""
        if self._sealing is not None and not (self._seal is not None and self._seal.merge.is_over):
            if self._seal is None:
                runs = self._sealing.runs
                at_once = max(_STEP_ENTRIES // max(len(runs), 1), 1)
                sources = [_source_of(_parts_of(run, at_once)) for run in runs]
                self._seal = self._begin(connection, self._sealing.until, frozenset(), sources)
            return self._go_on(connection, self._seal)
        if self._deleted:
            return self._delete_some(connection, self._deleted[0])
        if self._merge is None:
            chosen = to_merge([one.n for one in self.generations], self._rows)
            if chosen is None:
                return 0
            parts = self.generations[chosen.start : chosen.stop]
            at_once = max(_STEP_ENTRIES // BLOCK_ENTRIES // len(parts), 1)
            sources = [_source_of(self._blocks(one.number, range(len(one.fences)), at_once)) for one in parts]
            numbers = frozenset(one.number for one in parts)
            self._merge = self._begin(connection, parts[-1].until, numbers, sources)
        return 0 if self._merge.merge.is_over else self._go_on(connection, self._merge)

    def _begin(
        self, connection: sqlite3.Connection, until: int, replaces: frozenset[int], sources: list[Source]
    ) -> _Made:
        self._last_number += 1
        connection.execute("INSERT INTO generations VALUES (?,?,0,0,0)", (self._last_number, until))
        return _Made(self._last_number, until, replaces, Merge(sources, _STEP_ENTRIES))

    def _go_on(self, connection: sqlite3.Connection, made: _Made) -> int:
        taken, found = made.merge.step()
        whole = joined([made.carried, found])
        n = len(whole.hashes) if made.merge.is_over else len(whole.hashes) // BLOCK_ENTRIES * BLOCK_ENTRIES
        made.carried = whole.part(n, len(whole.hashes))
        if n:
            self._write_blocks(connection, made, whole.part(0, n))
        if made.merge.is_over:
            values = (_WHOLE, made.n, made.blocks, made.number)
            connection.execute("UPDATE generations SET state = ?, entries = ?, blocks = ? WHERE number = ?", values)
            gone = [(_GONE, number) for number in made.replaces]
            connection.executemany("UPDATE generations SET state = ? WHERE number = ?", gone)
            self._at_commit.append(lambda: self._end(made))
        return max(taken, 1)

    def _write_blocks(self, connection: sqlite3.Connection, made: _Made, entries: Entries) -> None:
        at = made.number << 32 | made.blocks
        connection.executemany("INSERT INTO blocks VALUES (?,?)", enumerate(blocks_of(entries), at))
        fences, filters = entries.hashes[::BLOCK_ENTRIES].copy(), filters_of(entries.hashes)
        row = (at, fences.astype("<i8").tobytes(), filters.tobytes())
        connection.execute("INSERT INTO fences VALUES (?,?,?)", row)
        made.fences.append(fences)
        made.filters.append(filters)
        made.blocks += len(fences)
        made.n += len(entries.hashes)

    def _end(self, made: _Made) -> None:
        """A generation is whole, and what it was made of is no longer asked."""
        new = made.finished()
        if not made.replaces:
            before = max((one.until for one in self.generations), default=0)
            self.generations = (*self.generations, new)
            self._sealing, self._seal = None, None
            self._deleted.append(_Deleted("recent", before + 1, made.until))
            return
        left = [one for one in self.generations if one.number not in made.replaces]
        self.generations = tuple(sorted([*left, new], key=lambda one: one.until))
        self._merge = None
        for number in sorted(made.replaces):
            self._delete_generation(number)

    def _delete_generation(self, number: int) -> None:
        first, last = number << 32, (number + 1 << 32) - 1
        self._deleted += [_Deleted("fences", first, last), _Deleted("blocks", first, last, number)]

    def _delete_some(self, connection: sqlite3.Connection, deleted: _Deleted) -> int:
        first = deleted.first if self._deleted_to is None else self._deleted_to
        some = f"SELECT at FROM {deleted.table} WHERE at BETWEEN ? AND ? ORDER BY at LIMIT ?"
        span = (first, deleted.last, _DELETED)
        last, n = connection.execute(f"SELECT max(at), count(*) FROM ({some})", span).fetchone()
        if n:
            connection.execute(f"DELETE FROM {deleted.table} WHERE at BETWEEN ? AND ?", (first, last))
            self._deleted_to = last + 1
            return _DELETED_WORK
        # If this is undone, the next start finds the rest.
        if deleted.number is not None:
            connection.execute("DELETE FROM generations WHERE number = ?", (deleted.number,))
        self._deleted_to = None
        self._deleted.popleft()
        return 1


def _parts_of(run: Entries, at_once: int) -> Iterator[Entries]:
    for first in range(0, len(run.hashes), at_once):
        yield run.part(first, first + at_once)


def _source_of(parts: Iterator[Entries]) -> Source:
    return Source(lambda: next(parts, None))
