"""Turns of a journal's thread: who goes with whom, and what becomes of calls that are cancelled or cut by a bug."""

from __future__ import annotations

import functools
import threading
import time
import zlib
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from contract import EPOCH, record_of

from gateway.errors import StoreError
from gateway.store import threaded
from gateway.store.ports import JournalRecord
from gateway.store.threaded import ReadAhead, Sealed, ThreadedJournal


class GatedJournal(ThreadedJournal):
    """Each commit waits for leave. commits: sizes in records."""

    def __init__(self) -> None:
        super().__init__("gated", 0)
        self.commits: list[int] = []
        self.sealed: list[Sealed] = []
        self.leave = threading.Semaphore(0)
        self.may_let_go = threading.Lock()
        self.is_buggy = False

    def commit(self, records: Sequence[Sealed]) -> Sequence[int]:
        self.leave.acquire()
        self.commits.append(len(records))
        if self.is_buggy:
            raise ZeroDivisionError
        self.sealed += records
        return range(len(self.sealed) - len(records), len(self.sealed))

    def let_go(self, epoch: int, positions: Sequence[int]) -> None:
        with self.may_let_go:
            pass

    def read(self, position: int, bytes_max: int) -> ReadAhead:
        return ReadAhead([], None)

    def close(self) -> None:
        pass


async def begun(nursery: trio.Nursery, journal: GatedJournal, n: int, answers: list[object]) -> None:
    """n appends of one record are under way, in the order of their numbers."""

    async def one(name: int) -> None:
        answers.append((name, list(await journal.append(EPOCH, [record_of(name)]))))

    for name in range(n):
        nursery.start_soon(one, name)
        await trio.testing.wait_all_tasks_blocked()


async def test_calls_that_come_during_a_turn_go_together_in_the_next() -> None:
    journal, answers = GatedJournal(), []
    async with trio.open_nursery() as nursery:
        await begun(nursery, journal, 6, answers)
        journal.leave.release(2)
    assert journal.commits == [1, 5]
    assert sorted(answers) == [(name, [name]) for name in range(6)]


async def test_the_loop_runs_on_while_the_thread_blocks() -> None:
    journal, answers = GatedJournal(), []
    async with trio.open_nursery() as nursery:
        await begun(nursery, journal, 1, answers)
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert answers == []
        journal.leave.release()


@pytest.mark.parametrize("which", range(4))
async def test_a_cancelled_call_that_only_waited_never_happened_and_holds_up_nobody(which: int) -> None:
    journal = GatedJournal()
    done: list[int] = []
    scopes = [trio.CancelScope() for _ in range(4)]

    async def one(name: int) -> None:
        with scopes[name]:
            await journal.append(EPOCH, [JournalRecord(1 + name, ())])
            done.append(name)

    async with trio.open_nursery() as nursery:
        for name in range(4):
            nursery.start_soon(one, name)
            await trio.testing.wait_all_tasks_blocked()
        scopes[which].cancel()
        # The first one is in the turn already: it happens, whether or not its caller still hears of it.
        await trio.testing.wait_all_tasks_blocked()
        journal.leave.release(3)
    kinds = [record.kind - 1 for record in journal.sealed]
    assert kinds == [name for name in range(4) if name != which or which == 0]
    assert sorted(name for name in done if name != 0) == [name for name in range(1, 4) if name != which]


async def test_a_call_that_a_turn_has_is_not_cancelled() -> None:
    journal = GatedJournal()
    scope = trio.CancelScope()
    answers = []

    async def one() -> None:
        with scope:
            answers.append(list(await journal.append(EPOCH, [record_of(0)])))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not scope.cancelled_caught
        journal.leave.release()
    assert answers == [[0]]


async def test_a_call_that_comes_during_a_turn_needs_no_turn_of_the_loop_before_its_own() -> None:
    journal, answers = GatedJournal(), []
    async with trio.open_nursery() as nursery:
        await begun(nursery, journal, 2, answers)
        journal.leave.release(2)
        # The loop stands still and both are durable.
        deadline = time.monotonic() + 60
        while len(journal.commits) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert journal.commits == [1, 1]


async def test_an_append_is_answered_before_what_came_earlier_is_let_go() -> None:
    journal, done = GatedJournal(), []

    async def release() -> None:
        await journal.release(EPOCH, [7])
        done.append("release")

    async def append(name: int) -> None:
        await journal.append(EPOCH, [record_of(name)])
        done.append(name)

    async with trio.open_nursery() as nursery:
        for call in (functools.partial(append, 0), functools.partial(append, 1), release, functools.partial(append, 2)):
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
        journal.may_let_go.acquire()
        journal.leave.release(2)
        with trio.fail_after(60):
            while len(done) < 3:
                await trio.sleep(0.001)
        assert sorted(map(str, done)) == ["0", "1", "2"]
        journal.may_let_go.release()
    assert journal.commits == [1, 2]


async def test_a_bug_in_the_thread_is_raised_once_and_told_to_the_others() -> None:
    journal = GatedJournal()
    told: list[type] = []

    async def one() -> None:
        try:
            await journal.append(EPOCH, [record_of(1)])
        except (ZeroDivisionError, StoreError) as error:
            told.append(type(error))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
        journal.is_buggy = True
        journal.leave.release(2)
    assert sorted(kind.__name__ for kind in told) == ["StoreError", "ZeroDivisionError", "ZeroDivisionError"]


async def test_a_turn_takes_no_more_than_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threaded, "GROUP_RECORDS_MAX", 3)
    journal, answers = GatedJournal(), []
    async with trio.open_nursery() as nursery:
        await begun(nursery, journal, 8, answers)
        journal.leave.release(4)
    assert journal.commits == [1, 3, 3, 1]
    monkeypatch.setattr(threaded, "GROUP_BYTES_MAX", 10)
    journal = GatedJournal()
    journal.leave.release(1)
    await journal.append(EPOCH, [JournalRecord(1, (bytes(100),))])
    assert journal.commits == [1]


async def test_a_checksum_is_the_same_in_slices_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threaded, "_CHECKSUM_SLICE_BYTES", 7)
    journal = GatedJournal()
    journal.leave.release(1)
    buffers = (b"", b"abc", bytes(range(50)), memoryview(b"some more, longer than a slice"))
    await journal.append(EPOCH, [JournalRecord(1, buffers)])
    (sealed,) = journal.sealed
    whole = b"".join(buffers)
    assert (sealed.checksum, sealed.size) == (zlib.crc32(whole), len(whole))
