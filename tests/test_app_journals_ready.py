"""Journals, audiences and request ids of another number of workers: with their workers before any of them runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import gateway.app_journals_ready as ready
from gateway.app_journals_ready import make_journals_ready
from gateway.batch import Batch, OwnershipEpoch, RequestMark
from gateway.config import Config, load_config
from gateway.content import Variant
from gateway.core.ownership import SHARDS, Ownership
from gateway.core.request_ids import RequestIds, entry
from gateway.errors import StoreError
from gateway.ledger import Channel, State
from gateway.marks import RowMarks
from gateway.message_id import SEQUENCES_MAX, BatchAddress, RowAddress
from gateway.page_history import RowNotes
from gateway.store.audience_records import Reached, decode_audience, decode_reached, encode_audience, encode_reached
from gateway.store.log_journal import LogJournal
from gateway.store.marks import Count, decode_count, decode_marks, encode_count, encode_marks
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
from gateway.store.records import encode_batch, read_heading
from gateway.store.request_log import RequestLog

EPOCH = OwnershipEpoch(1)
KEY = 1 << 52
#: (worker of the batch, its sequence) -> positions in the order of what is there; "batch" or the states of its rows.
Contents = dict[tuple[int, int], list[Any]]


class Node:
    """A data folder whose journals tests write as workers do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "secret").write_text("secret")

    def config(self, workers: int) -> Config:
        text = (
            f'[gateway]\ndata_dir = "data"\nworkers = {workers}\n[journal]\nsegment_bytes = 65536\n'
            '[[apps]]\nkey = "shop"\ndurability = "disk"\nsecrets = [{ file = "secret" }]\n'
        )
        return load_config(self.folder / "gateway.toml", text=text.encode())

    def place(self, worker: int) -> Path:
        return self.folder / "data" / "journal" / f"{worker:04d}"

    def journal(self, worker: int) -> LogJournal:
        return LogJournal(self.place(worker), segment_bytes=65_536, bytes_max=1 << 30)

    def append(self, worker: int, *records: JournalRecord) -> None:
        async def write() -> None:
            journal = self.journal(worker)
            await journal.append(EPOCH, records)
            journal.close()

        trio.run(write)

    def read(self, worker: int) -> list[JournalRecord]:
        async def read() -> list[JournalRecord]:
            journal = self.journal(worker)
            found = [record async for _, record in journal.replay(0)]
            journal.close()
            return found

        return trio.run(read) if self.place(worker).exists() else []

    def start(self, workers: int) -> None:
        make_journals_ready(self.config(workers))

    def contents(self, worker: int) -> Contents:
        """What a home of this journal knows of each batch."""
        found: Contents = {}
        for record in self.read(worker):
            (payload,) = record.buffers
            if record.kind == BATCH_RECORD:
                address, _ = read_heading(payload)
                found.setdefault((address.journal, address.sequence), []).append("batch")
            elif record.kind == MARKS_RECORD:
                for mark in decode_marks(payload).marks:
                    of, sequence = divmod(mark.sequence, SEQUENCES_MAX)
                    found.setdefault((of or worker, sequence), []).append(mark.states.tolist())
            elif record.kind == RECEIPTS_RECORD:
                for note in decode_receipts(payload):
                    of, sequence = divmod(note.sequence, SEQUENCES_MAX)
                    found.setdefault((of or worker, sequence), []).append(f"heard at {note.at_ms.tolist()}")
        return found

    def ids(self, worker: int) -> dict[int, RowAddress | None]:
        log = RequestLog(self.place(worker) / "ids", ids_max=1000)
        ids = RequestIds(ids_max=1000, age_ms=1 << 40)
        entries = list(log.load())
        log.close()
        found: dict[int, RowAddress | None] = {}
        for rows in entries:
            ids.add(rows, 1000)
            for key in rows[:, 0].tolist():
                known = ids.find(key, 1000)
                assert known is not None
                found[key] = known.address
        return found


def batch(worker: int, sequence: int, *keys: int) -> JournalRecord:
    made = Batch(
        BatchAddress(1000 + sequence, worker, sequence),
        0,
        0.0,
        3,
        device_ids=np.zeros((3, 16), np.uint8),
        variants=[Variant("title", "body")],
        requests=[RequestMark(row, key, 7) for row, key in enumerate(keys)],
    )
    return encode_batch(made, "shop")


def marks(*of: tuple[int, State]) -> JournalRecord:
    """A record that says of a row of each of these sequences what its state is."""
    rows, zeros, channels = np.zeros(1, np.uint16), np.zeros(1, np.uint8), np.full(1, Channel.APNS, np.uint8)
    made = [RowMarks(number, rows, np.full(1, state, np.uint8), zeros, channels, zeros) for number, state in of]
    return encode_marks(5, made)


def receipts(*of: tuple[int, int]) -> JournalRecord:
    """A record that says of a row of each of these sequences when a receipt came for it, in ms."""
    row, zero = np.zeros(1, np.uint16), np.zeros(1, np.uint8)
    return encode_receipts([RowNotes(5, number, row, zero, zero, np.full(1, at, np.uint32)) for number, at in of])


def task(worker: int) -> bytes:
    return b"\0" * 6 + (0x8000 | worker).to_bytes(2, "big") + b"\0" * 8


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


ISSUED, ENDED = State.IN_FLIGHT, State.VENDOR_ACCEPTED


def test_batches_and_their_marks_go_to_the_worker_that_answers_for_them_and_back(node: Node) -> None:
    node.start(2)
    node.append(0, batch(0, 5), marks((5, ISSUED)))
    node.append(
        1, batch(1, 5), batch(1, 6), marks((5, ISSUED), (6, ENDED)), marks((5, ENDED)), encode_count(Count(1, 2, 9))
    )
    node.start(1)
    # The same sequence in two journals stays two batches.
    here: Contents = {
        (0, 5): ["batch", [ISSUED]],
        (1, 5): ["batch", [ISSUED], [ENDED]],
        (1, 6): ["batch", [ENDED]],
    }
    assert node.contents(0) == here
    # How far that journal has counted waits for its worker, its batches that have gone included.
    counts = [decode_count(record.buffers[0]).sequence for record in node.read(1) if record.kind == COUNT_RECORD]
    assert (counts, len(node.read(1))) == ([9, 7], 2)
    # Marks that the home made meanwhile name the batch by its number.
    node.append(0, marks((SEQUENCES_MAX + 6, ISSUED), (5, ENDED)))
    node.start(3)
    assert node.contents(1) == {(1, 5): ["batch", [ISSUED], [ENDED]], (1, 6): ["batch", [ENDED], [ISSUED]]}
    assert node.contents(0)[0, 5] == ["batch", [ISSUED], [ENDED]]
    assert node.contents(2) == {}


def test_receipts_go_where_their_batches_go(node: Node) -> None:
    node.start(2)
    node.append(0, batch(0, 5), receipts((5, 40)))
    node.append(1, batch(1, 5), batch(1, 6), receipts((5, 50), (6, 60)))
    node.start(1)
    node.append(0, receipts((SEQUENCES_MAX + 6, 61), (5, 41)))
    node.start(2)
    assert node.contents(0)[0, 5] == ["batch", "heard at [40]", "heard at [41]"]
    assert node.contents(1) == {
        (1, 5): ["batch", "heard at [50]"],
        (1, 6): ["batch", "heard at [60]", "heard at [61]"],
    }


def test_a_start_with_the_same_number_of_workers_reads_no_journal(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.append(0, batch(0, 1))
    node.start(1)
    node.start(2)

    def refuse(*_: Any) -> Any:
        raise AssertionError("a pass over the journals")

    monkeypatch.setattr(ready, "_move_all", refuse)
    node.start(2)
    with pytest.raises(AssertionError):
        node.start(1)


def test_audiences_go_with_their_tasks(node: Node) -> None:
    ids = np.arange(32, dtype=np.uint8).reshape(2, 16)
    for worker in (0, 1):
        parts = encode_audience(task(worker), "shop", Variant("title", "body"), None, ids)
        node.append(worker, *parts, encode_reached(Reached(task(worker), 1, 9)))
    node.start(2)
    node.start(1)
    found = node.read(0)
    of = [decode_audience(one.buffers[0]).task_id for one in found if one.kind == AUDIENCE_RECORD]
    reached = [decode_reached(one.buffers[0]).task_id for one in found if one.kind == REACHED_RECORD]
    assert of == reached == [task(0), task(1)]
    assert node.read(1) == []


def test_request_ids_are_with_the_owners_of_their_keys_whatever_held_them(node: Node) -> None:
    ownership = Ownership(2, shard_groups=SHARDS)
    keys = [KEY * shard + shard for shard in range(1, 9)]
    node.append(0, batch(0, 3, *keys[:2]))
    log = RequestLog(node.place(0) / "ids", ids_max=1000)
    log.append(np.array([entry(key, 7, RowAddress(BatchAddress(1, 0, 2), 4)) for key in keys[2:]], np.uint64), 0)
    log.close()
    node.start(1)
    for workers in (2, 3, 1, 2):
        node.start(workers)
    for worker in (0, 1):
        own = [key for key in keys if ownership.home_of_request(key) == worker]
        assert sorted(node.ids(worker)) == own
        for key, address in node.ids(worker).items():
            wanted = RowAddress(BatchAddress(1003, 0, 3), keys.index(key)) if key in keys[:2] else None
            assert address == (wanted or RowAddress(BatchAddress(1, 0, 2), 4))
    # Each stands once, however often they were sorted.
    files = [path for worker in range(3) for path in (node.place(worker) / "ids").glob("*.ids")]
    assert len(files) == 2


def test_of_a_request_id_that_was_used_again_the_newest_answer_counts_after_every_change_of_workers(node: Node) -> None:
    """Its day was over in between; each of the two stands in the log of another start."""
    key = KEY * 3 + 3
    for unix_ms, sequence in ((9_000, 2), (1_000, 1), (5_000, 3)):
        log = RequestLog(node.place(0) / "ids", ids_max=1000)
        log.append(np.array([entry(key, 7, RowAddress(BatchAddress(unix_ms, 0, sequence), 4))], np.uint64), 0)
        log.close()
    node.append(0, batch(0, 5, KEY * 5 + 5))
    owner = Ownership(2, shard_groups=SHARDS).home_of_request(key)
    node.start(1)
    for workers in (2, 1):
        node.start(workers)
        assert node.ids(owner if workers == 2 else 0)[key] == RowAddress(BatchAddress(9_000, 0, 2), 4)


@settings(max_examples=12 if os.environ.get("PROFILE") != "ci" else 60)
@given(st.integers(0, 8), st.sampled_from(["append", "release", "sort"]))
def test_a_pass_that_is_cut_anywhere_is_begun_again_and_copies_nothing_twice(
    tmp_path_factory: pytest.TempPathFactory, cut_at: int, where: str
) -> None:
    node = Node(tmp_path_factory.mktemp("node"))
    node.start(2)
    for number in range(6):
        node.append(1, batch(1, number, KEY * number + 1), marks((number, ISSUED), (SEQUENCES_MAX * 2 + 3, ENDED)))
    calls = Counter[str]()

    def cutting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def cut(*args: Any) -> Any:
            calls[name] += 1
            if name == where and calls[name] > cut_at:
                raise StoreError("folder", "the machine was switched off")
            return call(*args)

        return cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ready, "_PART_RECORDS", 2)
        patch.setattr(LogJournal, "commit", cutting("append", LogJournal.commit))
        patch.setattr(LogJournal, "let_go", cutting("release", LogJournal.let_go))
        patch.setattr(RequestLog, "append", cutting("sort", RequestLog.append))
        try:
            node.start(1)
        except StoreError:
            assert calls[where] > cut_at
    node.start(1)
    found = node.contents(0)
    assert found.pop((2, 3)) == [[ENDED]] * 6
    assert found == {(1, number): ["batch", [ISSUED]] for number in range(6)}
    assert {record.kind for record in node.read(1)} == {COUNT_RECORD}
    assert sorted(node.ids(0)) == [KEY * number + 1 for number in range(6)]
    assert not any(record.kind == MOVED_RECORD for record in node.read(0))


def test_a_damaged_record_that_nobody_would_name_stops_the_start(node: Node) -> None:
    node.start(2)
    node.append(1, batch(1, 1))
    node.append(1, batch(1, 2))
    path = next(node.place(1).glob("*.log"))
    data = bytearray(path.read_bytes())
    at = data.index(b"title")
    data[at : at + 5] = b"totle"
    path.write_bytes(data)
    with pytest.raises(StoreError, match="number of workers before"):
        node.start(1)
    # The worker whose journal it is says so itself, as before.
    node.start(2)
