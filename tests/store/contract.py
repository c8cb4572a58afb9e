"""The contract of the store ports (gateway/store/ports.py), one suite for every adapter.

An adapter's test file derives from the classes below and says how a store is opened:

    class TestMemoryJournal(JournalContract):
        def open(self) -> MemoryJournal: ...

Each class holds a store against a plain model, with calls in any order, repeated, run side by side, and cut off at any
checkpoint. A cut call may have happened or not; what it must never leave is a half.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import trio
from hypothesis import given

from gateway.batch import OwnershipEpoch
from gateway.errors import StaleEpoch
from gateway.store.ports import Journal, JournalRecord

EPOCH = OwnershipEpoch(5)
OLDER, NEWER = OwnershipEpoch(4), OwnershipEpoch(6)
#: Checkpoints after which a call is cut; more than any adapter has in one call of these tests.
CUTS = range(6)


class Cut:
    """Cancels a call at its checkpoint number `after` (0: before it has begun to wait)."""

    def __init__(self, after: int) -> None:
        self._left = after
        self._scope = trio.CancelScope()

    async def run(self, call: Callable[[], Awaitable[Any]]) -> tuple[bool, Any]:
        """(whether it returned, what it returned)."""
        with self._scope:
            if self._left == 0:
                self._scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._count)
                answer = await call()
                nursery.cancel_scope.cancel()
            return True, answer
        return False, None

    async def _count(self) -> None:
        while self._left:
            await trio.lowlevel.checkpoint()
            self._left -= 1
        self._scope.cancel()


async def together(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Pipelined: all calls are under way at once. Their answers in the order given."""
    answers: list[Any] = [None] * len(calls)

    async def one(index: int, call: Callable[[], Awaitable[Any]]) -> None:
        answers[index] = await call()

    async with trio.open_nursery() as nursery:
        for index, call in enumerate(calls):
            nursery.start_soon(one, index, call)
    return answers


def ids_of(ids: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(ids), np.uint8).reshape(len(ids), 16)


def tags_of(*tags: int) -> np.ndarray:
    return np.array(tags, np.int64)


class EpochsContract(ABC):
    """Every write of a port, each refused under an older epoch than the store has seen."""

    @abstractmethod
    def open(self) -> Any:
        """A new empty store."""

    @abstractmethod
    def writes(self, store: Any, epoch: OwnershipEpoch) -> list[Callable[[], Awaitable[Any]]]:
        """One call of every kind that writes."""

    @abstractmethod
    async def content(self, store: Any) -> Any:
        """Everything in the store, for comparison."""

    async def test_a_write_under_an_older_epoch_is_refused_and_changes_nothing(self) -> None:
        for number in range(len(self.writes(self.open(), EPOCH))):
            store = self.open()
            for write in self.writes(store, EPOCH)[:1]:
                await write()
            before = await self.content(store)
            with pytest.raises(StaleEpoch) as refused:
                await self.writes(store, OLDER)[number]()
            assert (refused.value.epoch, refused.value.newest) == (4, 5)
            assert await self.content(store) == before

    async def test_every_kind_of_write_announces_its_epoch(self) -> None:
        for number in range(len(self.writes(self.open(), EPOCH))):
            store = self.open()
            await self.writes(store, NEWER)[number]()
            for write in self.writes(store, EPOCH):
                with pytest.raises(StaleEpoch):
                    await write()
            for write in self.writes(store, NEWER):
                await write()

    async def test_the_same_epoch_writes_on(self) -> None:
        store = self.open()
        for _ in range(2):
            for write in self.writes(store, EPOCH):
                await write()

    async def test_a_refused_write_does_not_lower_the_epoch(self) -> None:
        store = self.open()
        await self.writes(store, NEWER)[0]()
        for epoch in (OLDER, EPOCH):
            with pytest.raises(StaleEpoch):
                await self.writes(store, epoch)[0]()


# Journal


def record_of(name: int, parts: int = 1) -> JournalRecord:
    return JournalRecord(1 + name % 3, tuple(b"%d/%d" % (name, part) * (name % 4) for part in range(parts)))


def plain_record(record: JournalRecord) -> tuple[int, bytes]:
    return record.kind, b"".join(bytes(buffer) for buffer in record.buffers)


async def replayed(journal: Journal, position: int = 0) -> list[tuple[int, tuple[int, bytes]]]:
    return [(at, plain_record(record)) async for at, record in journal.replay(position)]


class JournalContract(EpochsContract):
    @abstractmethod
    def open(self) -> Journal: ...

    def writes(self, store: Journal, epoch: OwnershipEpoch) -> list[Callable[[], Awaitable[Any]]]:
        return [lambda: store.append(epoch, [record_of(1)]), lambda: store.release(epoch, [0])]

    async def content(self, store: Journal) -> Any:
        return await replayed(store)

    @given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6))
    async def test_records_come_back_in_the_order_they_were_appended(self, appends: list[list[int]]) -> None:
        journal = self.open()
        given = [list(await journal.append(EPOCH, [record_of(name, 2) for name in names])) for names in appends]
        found = await replayed(journal)
        assert [record for _, record in found] == [plain_record(record_of(n, 2)) for names in appends for n in names]
        positions = [at for at, _ in found]
        assert positions == sorted(set(positions))
        assert positions == [at for group in given for at in group]
        for at in positions:
            assert await replayed(journal, at) == [one for one in found if one[0] >= at]

    async def test_a_replay_begins_at_the_position_asked_for(self) -> None:
        journal = self.open()
        await journal.append(EPOCH, [record_of(name) for name in range(5)])
        found = await replayed(journal)
        for index, (at, _) in enumerate(found):
            assert await replayed(journal, at) == found[index:]
        assert await replayed(journal, found[-1][0] + 1) == []

    @given(st.sets(st.integers(0, 5)), st.integers(1, 3))
    async def test_released_records_are_gone_however_often_they_are_released(self, which: set[int], times: int) -> None:
        journal = self.open()
        await journal.append(EPOCH, [record_of(name) for name in range(6)])
        found = await replayed(journal)
        for _ in range(times):
            await journal.release(EPOCH, [found[index][0] for index in sorted(which)])
        assert await replayed(journal) == [one for index, one in enumerate(found) if index not in which]

    async def test_an_unknown_position_is_ignored(self) -> None:
        journal = self.open()
        (at,) = await journal.append(EPOCH, [record_of(1)])
        await journal.release(EPOCH, [at + 1000, at + 1])
        assert len(await replayed(journal)) == 1

    async def test_positions_are_not_used_again_after_a_release(self) -> None:
        journal = self.open()
        await journal.append(EPOCH, [record_of(1)])
        ((first, _),) = await replayed(journal)
        await journal.release(EPOCH, [first])
        await journal.append(EPOCH, [record_of(2)])
        ((second, _),) = await replayed(journal)
        assert second > first

    async def test_an_append_of_nothing_changes_nothing(self) -> None:
        journal = self.open()
        await journal.append(EPOCH, [record_of(1)])
        assert list(await journal.append(EPOCH, [])) == []
        assert len(await replayed(journal)) == 1

    @pytest.mark.parametrize("cut", CUTS)
    async def test_a_cut_append_leaves_all_of_its_records_or_none(self, cut: int) -> None:
        journal = self.open()
        await journal.append(EPOCH, [record_of(0)])
        done, _ = await Cut(cut).run(lambda: journal.append(EPOCH, [record_of(name) for name in (1, 2, 3)]))
        names = [record for _, record in await replayed(journal)]
        whole = [plain_record(record_of(name)) for name in (0, 1, 2, 3)]
        assert names in (whole, whole[:1])
        assert not done or names == whole
        await journal.append(EPOCH, [record_of(9)])
        assert [record for _, record in await replayed(journal)] == [*names, plain_record(record_of(9))]

    @pytest.mark.parametrize("cut", CUTS)
    async def test_a_cut_release_can_be_repeated(self, cut: int) -> None:
        journal = self.open()
        await journal.append(EPOCH, [record_of(name) for name in range(4)])
        found = await replayed(journal)
        await Cut(cut).run(lambda: journal.release(EPOCH, [found[1][0], found[2][0]]))
        left = await replayed(journal)
        assert [one for one in left if one not in found[1:3]] == [found[0], found[3]]
        await journal.release(EPOCH, [found[1][0], found[2][0]])
        assert await replayed(journal) == [found[0], found[3]]

    async def test_appends_side_by_side_keep_each_calls_records_together(self) -> None:
        journal = self.open()
        calls = [[10 * call + row for row in range(3)] for call in range(4)]
        await together(*(lambda c=c: journal.append(EPOCH, [record_of(name) for name in c]) for c in calls))
        names = [record for _, record in await replayed(journal)]
        chunks = [names[at : at + 3] for at in range(0, len(names), 3)]
        assert sorted(chunks) == sorted([plain_record(record_of(name)) for name in call] for call in calls)

    async def test_a_replay_stands_appends_and_releases_beside_it(self) -> None:
        journal = self.open()
        await journal.append(EPOCH, [record_of(name) for name in range(6)])
        before = await replayed(journal)
        found = []
        async for at, record in journal.replay(0):
            found.append((at, plain_record(record)))
            if len(found) == 2:
                await journal.release(EPOCH, [before[4][0]])
                await journal.append(EPOCH, [record_of(7)])
        # What was there all the time is seen once and in order; what came or went meanwhile may be or not.
        kept = [one for one in found if one in before and one != before[4]]
        assert kept == [one for one in before if one != before[4]]
        assert [at for at, _ in found] == sorted({at for at, _ in found})

    async def test_buffers_of_any_kind_come_back_as_their_bytes(self) -> None:
        journal = self.open()
        array = np.arange(6, dtype="<u4")
        buffers = (b"head", memoryview(b"middle"), array.view(np.uint8).data, b"")
        record = JournalRecord(7, buffers)
        assert record.payload_bytes() == 4 + 6 + 24
        await journal.append(EPOCH, [record])
        ((_, found),) = await replayed(journal)
        assert found == (7, b"headmiddle" + array.tobytes())
