"""Journals and request ids are with the workers of this start, before any of them runs.

    data_dir/journal/workers       how many there were at the last start, and in how many groups the keys of request ids
                                   are owned; without it: one worker

A batch is open at the worker that answers for the journal number in its address (`Ownership.worker_of_journal`), and so
are the marks about it and the audiences whose tasks began there. With another number of workers their records are
copied to that worker's journal, which is durable, and then released where they were. Addresses do not change: a home
keeps batches of other journals under their worker's number (core/addresses.py), and so do marks:

    own batches          sequence                  the same record means another batch in another journal, so sequences
    of other journals    worker << 22 | sequence   are translated on the way

Cut anywhere it is begun again: with each part of a copy stands a record that names the source and its last position,
and what is before that is not copied twice. How far a journal has counted stays where it is: its worker may be back.

A request id's owner follows from its key, so the entries of all logs, and of all batches, are sorted anew.

Called once per start by the process that has the lock of the data folder. Blocks. Raises StoreError, ConfigError.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trio

from gateway.app_siblings import ownership_of
from gateway.app_stores import write_secret
from gateway.app_stores_ready import make_stores_ready
from gateway.batch import OwnershipEpoch
from gateway.config import Config
from gateway.core.ownership import WORKERS_MAX, Ownership, journal_of
from gateway.core.request_ids import Entries, entry
from gateway.errors import ConfigError, StoreCorrupt, StoreError, StoreInUse
from gateway.marks import RowMarks
from gateway.message_id import SEQUENCES_MAX, BatchAddress, RowAddress
from gateway.observe.log import Log
from gateway.page_history import RowNotes
from gateway.store.audience_records import decode_audience, decode_reached
from gateway.store.database import named_errors
from gateway.store.log_journal import LogJournal
from gateway.store.marks import (
    Count,
    Marks,
    Moved,
    decode_marks,
    decode_moved,
    encode_count,
    encode_marks,
    encode_moved,
)
from gateway.store.ports import (
    AUDIENCE_RECORD,
    BATCH_RECORD,
    COUNT_RECORD,
    MARKS_RECORD,
    MOVED_RECORD,
    REACHED_RECORD,
    RECEIPTS_RECORD,
    JournalRecord,
)
from gateway.store.receipt_records import decode_receipts, encode_receipts
from gateway.store.records import read_heading
from gateway.store.request_log import RequestLog
from gateway.store.threaded import READ_BYTES_MAX

WORKERS_FILE = "workers"
_EPOCH = OwnershipEpoch(1)
#: Copied in one commit, about.
_PART_BYTES = 8 << 20
_PART_RECORDS = 1000
#: Entries of one block of a request log.
_BLOCK_ENTRIES = 1 << 16


def make_data_ready(config: Config) -> None:
    """Stores and journals are with the workers of this start."""
    make_stores_ready(config)
    make_journals_ready(config)


def make_journals_ready(config: Config) -> None:
    """Every record is in the journal of its worker, where there is another number of them than before."""
    folder, workers = config.gateway.data_dir / "journal", config.gateway.workers
    if not any(app.durability == "disk" for app in config.apps):
        return
    ownership = ownership_of(config)
    path, is_now = folder / WORKERS_FILE, f"{workers} {ownership.shard_groups}"
    with named_errors(str(path)):
        before = path.read_text().strip() if path.exists() else "1"
    # One worker owns all keys, in however many groups.
    if before != is_now and (workers > 1 or before.split()[0] != "1"):
        moved, ids = trio.run(functools.partial(_move_all, config, folder, ownership))
        Log().info(
            "another number of workers", before=before.split()[0], workers=workers, records_moved=moved, request_ids=ids
        )
    if before != is_now:
        with named_errors(str(path)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_secret(path, f"{is_now}\n".encode())


async def _move_all(config: Config, folder: Path, ownership: Ownership) -> tuple[int, int]:
    """How many records went to another journal, and how many request ids are known."""
    node = config.gateway.node
    places = {worker: folder / f"{journal_of(node, worker):04d}" for worker in range(WORKERS_MAX)}
    moved = 0
    entries: list[Entries] = []
    with ExitStack() as stack:
        open_: dict[int, LogJournal] = {}
        for worker, place in places.items():
            if place.exists() or worker < ownership.workers:
                open_[worker] = journal = _open(config, place)
                stack.callback(journal.close)
        reached = {worker: _moved_before(journal) for worker, journal in open_.items()}
        for worker in open_:
            found = await _move_from(worker, open_, ownership, node, reached)
            moved += found.moved
            entries.append(found.entries)
        for journal, marks in zip(open_.values(), reached.values(), strict=True):
            await journal.release(_EPOCH, [position for position, _ in marks])
        ids = _sort_ids({worker: places[worker] for worker in open_}, entries, ownership, config)
    return moved, ids


def _open(config: Config, place: Path) -> LogJournal:
    limits = config.journal
    try:
        return LogJournal(place, segment_bytes=limits.segment_bytes, bytes_max=limits.bytes_max)
    except StoreInUse as error:
        raise ConfigError("gateway.data_dir", str(place), "a folder that no other gateway is using") from error


def _moved_before(journal: LogJournal) -> list[tuple[int, Moved]]:
    """What an interrupted pass has copied into this journal; more is added as this one goes on."""
    return [
        (position, decode_moved(record.buffers[0]))
        for position, record in _records(journal)
        if record.kind == MOVED_RECORD
    ]


def _records(journal: LogJournal, *, skips_damaged: bool = True) -> Iterator[tuple[int, JournalRecord]]:
    """Everything that the journal holds; damaged records apart, which its worker names. Raises StoreError."""
    position: int | None = 0
    while position is not None:
        records, position, fault = journal.read(position, READ_BYTES_MAX)
        yield from records
        if fault is not None:
            if not isinstance(fault, StoreCorrupt) or fault.position < 0 or not skips_damaged:
                raise fault
            position = fault.position + 1


class _Found(NamedTuple):
    """entries: request ids of the batches in the journal, wherever these are now."""

    moved: int
    entries: Entries


class _Copies:
    """Records of one source on their way to other journals. moved: by worker, what stands in its journal of whom."""

    def __init__(
        self, source: int, journals: Mapping[int, LogJournal], moved: Mapping[int, list[tuple[int, Moved]]]
    ) -> None:
        self._source = source
        self._journals = journals
        self._moved = moved
        self._records: dict[int, list[JournalRecord]] = {}
        self._bytes = self._n = 0
        self.copied = 0
        self._done = {
            worker: max((one.position for _, one in found if one.source == source), default=-1)
            for worker, found in moved.items()
        }

    def add(self, worker: int, position: int, record: JournalRecord) -> None:
        """The record is in that worker's journal, or will be by the next `flush`."""
        if position <= self._done[worker]:
            return
        self._records.setdefault(worker, []).append(record)
        self._bytes += record.payload_bytes()
        self._n += 1

    async def flush_if_full(self, position: int) -> None:
        """The same of `flush`, where enough has gathered. Called between two records of the source: of one that goes to
        several journals all parts stand before the mark that says so, or none."""
        if self._bytes > _PART_BYTES or self._n >= _PART_RECORDS:
            await self.flush(position)

    async def flush(self, position: int) -> None:
        """Everything up to that position is durable where it belongs."""
        records, self._records = self._records, {}
        for worker, some in records.items():
            mark = Moved(self._source, position)
            positions = await self._journals[worker].append(_EPOCH, [*some, encode_moved(mark)])
            self._moved[worker].append((positions[-1], mark))
            self.copied += len(some)
        self._bytes = self._n = 0


async def _move_from(
    source: int,
    journals: Mapping[int, LogJournal],
    ownership: Ownership,
    node: int,
    moved: Mapping[int, list[tuple[int, Moved]]],
) -> _Found:
    """What belongs to other journals is there and here no more."""
    copies = _Copies(source, journals, moved)
    gone: list[int] = []
    entries: list[tuple[int, int, int]] = []
    newest: BatchAddress | None = None
    last = -1
    try:
        for last, record in _records(journals[source], skips_damaged=source < ownership.workers):
            (payload,) = record.buffers
            if record.kind == BATCH_RECORD:
                address, requests = read_heading(payload)
                entries += [entry(one.key, one.digest, RowAddress(address, one.row)) for one in requests]
                if address.journal == journal_of(node, source):
                    newest = address
                parts = {_worker_of(address.journal, ownership, node, source): record}
            elif record.kind == MARKS_RECORD:
                parts = _split_marks(decode_marks(payload), source, ownership)
            elif record.kind == RECEIPTS_RECORD:
                parts = _split_receipts(decode_receipts(payload), source, ownership)
            elif record.kind in (AUDIENCE_RECORD, REACHED_RECORD):
                decode = decode_audience if record.kind == AUDIENCE_RECORD else decode_reached
                journal = int.from_bytes(decode(payload).task_id[6:8], "big") & 0xFFF
                parts = {_worker_of(journal, ownership, node, source): record}
            else:
                assert record.kind in (COUNT_RECORD, MOVED_RECORD)
                continue
            for worker, part in parts.items():
                if worker != source:
                    copies.add(worker, last, part)
            await copies.flush_if_full(last)
            if source not in parts:
                gone.append(last)
    except (StoreCorrupt, ValueError) as error:
        what = f"{error}; start once more with the number of workers before, whose journal this is, and mend it there"
        raise StoreError(f"journal of worker {source}", what) from error
    await copies.flush(last)
    if newest is not None and gone:
        # Its worker may be back, and must not give a number again that a batch has.
        count = Count(0, newest.unix_ms, (newest.sequence + 1) % SEQUENCES_MAX)
        await journals[source].append(_EPOCH, [encode_count(count)])
    await journals[source].release(_EPOCH, gone)
    return _Found(copies.copied, np.array(entries, np.uint64).reshape(-1, 3))


def _worker_of(journal: int, ownership: Ownership, node: int, source: int) -> int:
    """Who answers for that journal number; one of another node stays where it is."""
    worker = ownership.worker_of_journal(journal, node)
    return source if worker is None else worker


def _split_marks(found: Marks, source: int, ownership: Ownership) -> dict[int, JournalRecord]:
    """The marks by the journals that they belong to, under the sequences that mean their batches there."""
    parts: dict[int, list[RowMarks]] = {}
    for mark in found.marks:
        worker, sequence = _place(mark.sequence, source, ownership)
        parts.setdefault(worker, []).append(mark._replace(sequence=sequence))
    return {worker: encode_marks(found.unix_ms, marks) for worker, marks in parts.items()}


def _split_receipts(found: Sequence[RowNotes], source: int, ownership: Ownership) -> dict[int, JournalRecord]:
    """The same for receipts."""
    parts: dict[int, list[RowNotes]] = {}
    for note in found:
        worker, sequence = _place(note.sequence, source, ownership)
        parts.setdefault(worker, []).append(note._replace(sequence=sequence))
    return {worker: encode_receipts(notes) for worker, notes in parts.items()}


def _place(kept: int, source: int, ownership: Ownership) -> tuple[int, int]:
    """Whose journal a batch belongs to, and the sequence that means it there. kept: what means it in `source`."""
    of, plain = divmod(kept, SEQUENCES_MAX)
    # Without a number they are of the journal that they stand in.
    of = of or source
    worker = of % ownership.workers
    return worker, plain if of == worker else of * SEQUENCES_MAX + plain


def _sort_ids(places: Mapping[int, Path], of_batches: Sequence[Entries], ownership: Ownership, config: Config) -> int:
    """Each entry is in the log of the worker that owns its key, the newest of each key; how many there are."""
    ids_max = config.ledger.idempotency_ids_max
    with ExitStack() as stack:
        logs: dict[int, RequestLog] = {}
        found = list(of_batches)
        for worker, place in places.items():
            logs[worker] = log = RequestLog(place / "ids", ids_max=ids_max)
            stack.callback(log.close)
            found += log.load()
            for path in log.damaged:
                Log().error("damaged request ids", file=str(path), text="the file's other ids are known")
        entries = np.concatenate([np.zeros((0, 3), np.uint64), *found])
        entries = entries[np.argsort(entries[:, 1] >> np.uint64(16), kind="stable")]
        _, newest = np.unique(entries[::-1, 0], return_index=True)
        entries = entries[np.sort(len(entries) - 1 - newest)]
        homes = ownership.homes_of_requests(entries[:, 0])
        for worker in range(ownership.workers):
            own = entries[homes == worker][-ids_max:]
            for first in range(0, len(own), _BLOCK_ENTRIES):
                logs[worker].append(own[first : first + _BLOCK_ENTRIES], 0)
        for log in logs.values():
            log.forget_loaded(log.paths_at_start)
        return len(entries)
