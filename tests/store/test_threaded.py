"""Turns of a journal's thread: who goes with whom, and what becomes of calls that are cancelled or cut by a bug."""

from __future__ import annotations

import threading
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
        self.is_buggy = False

    def commit(self, records: Sequence[Sealed]) -> Sequence[int]:
        self.leave.acquire()
        self.commits.append(len(records))
        if self.is_buggy:
            raise ZeroDivisionError
        self.sealed += records
        return range(len(self.sealed) - len(records), len(self.sealed))

    def let_go(self, epoch: int, positions: Sequence[int]) -> None:
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


async def test_the_call_that_should_begin_the_next_turn_may_be_cancelled_in_that_very_moment() -> None:
    scope = trio.CancelScope()

    journal, answers = GatedJournal(), []
    wake_next = journal._turns._wake_next

    def cancel_and_wake() -> None:
        # The cancellation is on its way to the second call when the first one's turn ends and would wake it.
        scope.cancel()
        wake_next()

    journal._turns._wake_next = cancel_and_wake  # type: ignore[method-assign]

    async def second() -> None:
        with scope:
            await journal.append(EPOCH, [JournalRecord(9, ())])

    async def third() -> None:
        answers.append(list(await journal.append(EPOCH, [record_of(2)])))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await begun(nursery, journal, 1, answers)
            for call in (second, third):
                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
            journal.leave.release(2)
    assert len(answers) == 2
    assert all(record.kind != 9 for record in journal.sealed)


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
