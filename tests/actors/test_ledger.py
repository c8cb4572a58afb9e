"""LedgerActor: pages that are done go to the archive before memory drops them, and are found there like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from gateway.actors import page_forms
from gateway.actors.task_reports import TaskReports
from gateway.batch import OwnershipEpoch
from gateway.content import Variant
from gateway.core.counters import tally_pages
from gateway.core.home import row_tags
from gateway.errors import Overloaded, StoreCorrupt, StoreFull
from gateway.ledger import Channel, LedgerPage, Receipt
from gateway.store.memory import MemoryLedgerArchive
from gateway.store.ports import ArchivedPage, PageKey
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import BadRequest

EPOCH = OwnershipEpoch(1)


class _Disk(MemoryLedgerArchive):
    is_full = False
    written = 0

    def __init__(self) -> None:
        super().__init__()
        self.amended: list[int] = []

    async def write(self, epoch: OwnershipEpoch, pages: Any) -> None:
        if self.is_full:
            raise StoreFull("ledger.db", "disk is full")
        # Views of a batch are joined at once, as a disk would.
        self.written += len(pages)
        await super().write(epoch, [page._replace(parts=[b"".join(page.parts)]) for page in pages])

    async def amend(self, epoch: OwnershipEpoch, changes: Any) -> set[PageKey]:
        if self.is_full:
            raise StoreFull("ledger.db", "disk is full")
        self.amended += [len(one.record) for one in changes]
        return await super().amend(epoch, changes)


async def delivered(world: Any, n: int = 3, title: str = "t") -> tuple[list[bytes], LedgerPage]:
    """n devices got a message and acknowledged it."""
    devices = world.register(n, Channel.NONE)
    for device in devices:
        world.go_online(device)
    page = await world.send(devices, [Variant(title, "b")] * n)
    for device in devices:
        world.acknowledge(device, 1)
    await world.settle()
    assert world.states(page) == {"device_acked": n}
    return devices, page


def drop_from_memory(world: Any) -> None:
    """As the home does when memory is short: the oldest pages that may go."""
    world.home._ledger_bytes_max = 0
    with pytest.raises(Overloaded) if any(world.home.pages()) and not _may_all_go(world) else trio.CancelScope():
        world.home.check_room(1)
    world.home._ledger_bytes_max = 1 << 40


def _may_all_go(world: Any) -> bool:
    return all(page.n_open == 0 and world.home.may_drop(page) for page in world.home.pages())


async def test_a_page_leaves_memory_only_when_the_archive_has_it(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world, store = make_world(), _Disk()
    ledger = world.ledger_on(store)
    await ledger.load()
    await world.start(nursery)
    store.is_full = True
    nursery.start_soon(ledger.run)
    await delivered(world)
    drop_from_memory(world)
    assert len(list(world.home.pages())) == 1
    assert ledger.unsaved_pages == 1
    store.is_full = False
    await trio.sleep(2)
    assert ledger.unsaved_pages == 0
    drop_from_memory(world)
    assert list(world.home.pages()) == []


async def test_an_archived_page_answers_as_one_in_memory_does(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world, store = make_world(), _Disk()
    ledger = world.ledger_on(store)
    await ledger.load()
    await world.start(nursery)
    nursery.start_soon(ledger.run)
    devices, page = await delivered(world)
    task_id, identifier = page.batch.segments[0].task_id, page.batch.message_ids[1].tobytes()
    reports = TaskReports(ledger, world.clock)
    questions = [
        messages.TaskState(id=1, task_id=task_id),
        messages.TaskRows(id=1, task_id=task_id),
        messages.Trace(id=1, task_id=task_id, device_id=devices[2]),
        messages.Trace(id=1, message_id=identifier),
    ]
    before = [await reports.answer(question, lambda _page: True) for question in questions]
    last = await reports.last_messages(0, devices[0])
    assert len(last) == 1
    drop_from_memory(world)
    after = [await reports.answer(question, lambda _page: True) for question in questions]
    assert [_plain(one) for one in after] == [_plain(one) for one in before]
    assert await reports.last_messages(0, devices[0]) == last
    # Somebody else's task, and a device that is not in it.
    with pytest.raises(BadRequest, match="no task"):
        await reports.answer(questions[0], lambda _page: False)
    with pytest.raises(BadRequest, match="is not in the task"):
        await reports.answer(messages.Trace(id=1, task_id=task_id, device_id=bytes([9]) * 16), lambda _page: True)


def _plain(answer: Any) -> Any:
    return {
        name: bytes(value) if isinstance(value := getattr(answer, name), memoryview) else value
        for name in answer.__struct_fields__
    }


async def test_pages_that_are_done_are_written_together_and_at_once_where_memory_is_short(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world, store = make_world(), _Disk()
    ledger = world.ledger_on(store)
    await ledger.load()
    await world.start(nursery)
    nursery.start_soon(ledger.run)
    writes: list[int] = []
    whole = store.write

    async def write(epoch: OwnershipEpoch, pages: Any) -> None:
        writes.append(len(pages))
        await whole(epoch, pages)

    store.write = write  # type: ignore[method-assign]
    await world.settle()
    for device in range(3):
        # Nobody knows it: the row ends at once.
        await world.send([bytes([device]) * 16], [Variant("t", "b")])
    assert (writes, ledger.unsaved_pages) == ([], 3)
    await world.wait(1)
    assert (writes, ledger.unsaved_pages) == ([3], 0)
    await world.send([bytes(16)], [Variant("t", "b")])
    assert ledger.unsaved_pages == 1
    world.home.on_short()
    await world.settle()
    assert (writes, ledger.unsaved_pages) == ([3, 1], 0)


async def test_a_late_receipt_raises_that_of_an_archived_row(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world, store = make_world(), _Disk()
    ledger = world.ledger_on(store)
    await ledger.load()
    await world.start(nursery)
    nursery.start_soon(ledger.run)
    _, page = await delivered(world)
    page.receipt[:] = Receipt.NONE
    world.home.on_done(page)
    await world.wait(1)
    sequence = page.batch.address.sequence
    drop_from_memory(world)
    assert world.home.page(sequence) is None
    world.owner.ask_archive = ledger.late
    world.owner.acknowledged_late(row_tags(sequence, np.array([1])), np.zeros(1), 0.0)
    await world.settle()
    assert world.home.page(sequence).receipt.tolist() == [0, Receipt.DELIVERED, 0]
    drop_from_memory(world)
    found = await ledger.find_row(page.batch.message_ids[1].tobytes())
    assert found is not None
    assert found[0].receipt.tolist() == [0, Receipt.DELIVERED, 0]


async def test_late_receipts_of_a_large_page_are_written_beside_it_and_seen_at_once(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Counters and recount agree all the time; records become one before there are too many; a full disk loses none."""
    world, store = make_world(), _Disk()
    ledger = world.ledger_on(store)
    await ledger.load()
    await world.start(nursery)
    nursery.start_soon(ledger.run)
    # Nobody knows them: a page of rows that ended at once.
    n = page_forms.AMENDED_ROWS_MIN
    ids = np.random.default_rng(1).integers(0, 256, (n, 16), np.uint8)
    page = await world.send([one.tobytes() for one in ids], [Variant("t", "b")] * n)
    await world.wait(1)
    key = PageKey(page.batch.address.unix_ms, page.batch.address.sequence)
    drop_from_memory(world)
    assert (store.written, store.amended) == (1, [])

    async def receive(row: int) -> None:
        home, rows = world.home, np.array([row])
        ledger.late(
            key.sequence, rows, lambda p, r: home.raise_receipts(p, r, Receipt.DISPLAYED, world.clock.monotonic())
        )
        await world.wait(1)

    expected = np.zeros(n, np.uint8)
    for row in range(page_forms.RECORDS_MAX + 3):
        await receive(row)
        expected[row] = Receipt.DISPLAYED
        drop_from_memory(world)
        assert world.home.page(key.sequence) is None
        found = await ledger.page(key)
        assert found is not None
        assert found.receipt.tolist() == expected.tolist()
        assert found.history is not None
        assert len(found.history.of_row(row)) == 1
        counted = await ledger.counts(range(1 << 20))
        (tally,) = tally_pages([found], world.home.counters.day_offset_s)
        assert counted.kept == dict(tally.cells)
    assert store.written == 1
    assert len(store.amended) == page_forms.RECORDS_MAX + 3
    # The one that stands for all before it.
    assert store.amended[page_forms.RECORDS_MAX] > 3 * store.amended[0]
    assert len(store._records[key]) == 3

    store.is_full = True
    await receive(500)
    store.is_full = False
    expected[500] = Receipt.DISPLAYED
    await world.wait(3)
    # Nobody knows what became of the record, so the page is written.
    assert store.written == 2
    drop_from_memory(world)
    found = await ledger.page(key)
    assert found is not None
    assert found.receipt.tolist() == expected.tolist()

    # Retention took it while it was in memory.
    await receive(600)
    await store.forget(EPOCH, [key])
    await receive(601)
    assert store.written == 3
    assert (await ledger.page(key)) is not None


async def test_late_words_about_one_page_bring_it_back_once_and_a_damaged_page_holds_nobody_up(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world, store = make_world(), _Disk()
    ledger = world.ledger_on(store)
    await ledger.load()
    await world.start(nursery)
    nursery.start_soon(ledger.run)
    # Nobody knows the devices: the rows end at once.
    pages = [await world.send([bytes([at]) * 16 for at in range(3)], [Variant("t", "b")] * 3) for _ in range(2)]
    await world.wait(1)
    keys = [PageKey(page.batch.address.unix_ms, page.batch.address.sequence) for page in pages]
    drop_from_memory(world)
    store._pages[keys[0]] = store._pages[keys[0]]._replace(parts=[b"damaged"])
    reads: list[PageKey] = []
    read = store.read

    async def counted_read(key: PageKey) -> bytes | None:
        reads.append(key)
        return await read(key)

    store.read = counted_read  # type: ignore[method-assign]
    heard: list[tuple[int, int]] = []
    missing: list[int] = []
    for row in range(3):
        for key in keys:
            ledger.late(
                key.sequence,
                np.array([row]),
                lambda page, rows: heard.append((page.batch.address.sequence, int(rows[0]))),
                lambda row=row: missing.append(row),  # type: ignore[misc]
            )
    await world.settle()
    assert reads == keys
    assert heard == [(keys[1].sequence, row) for row in range(3)]
    assert missing == [0, 1, 2]
    assert len(ledger._observer.failures) == 1


async def test_new_batches_come_behind_those_of_the_archive(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    store = _Disk()
    far = 4_000_000_000_000
    ids = np.zeros((1, 16), np.uint8)
    await store.write(EPOCH, [ArchivedPage(PageKey(far, 41), 0, 1, ids, [], [b"x"])])
    world = make_world()
    await world.ledger_on(store).load()
    address = world.home.next_address(world.clock.unix_ms(), world.clock.monotonic())
    assert (address.sequence, address.unix_ms) == (42, far)


async def test_a_damaged_page_is_an_error_of_the_question_alone(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world, store = make_world(), _Disk()
    ledger = world.ledger_on(store)
    await ledger.load()
    await world.start(nursery)
    nursery.start_soon(ledger.run)
    _, page = await delivered(world)
    await world.wait(1)
    key = PageKey(page.batch.address.unix_ms, page.batch.address.sequence)
    store._pages[key] = store._pages[key]._replace(parts=[b"damaged"])
    identifier = page.batch.message_ids[0].tobytes()
    drop_from_memory(world)
    with pytest.raises(StoreCorrupt, match="page"):
        await ledger.find_row(identifier)


async def test_a_wall_clock_that_is_set_forward_deletes_no_page(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, store = make_world(), _Disk()
    ledger = world.ledger_on(store, retention_s=3600.0)
    await ledger.load()
    await world.start(nursery)
    nursery.start_soon(ledger.run)
    await world.settle()
    before = world.clock.unix_ms
    key = PageKey(before() - 1_000, 900_001)
    await store.write(EPOCH, [ArchivedPage(key, 0, 1, np.zeros((1, 16), np.uint8), [], [b"x"])])
    monkeypatch.setattr(world.clock, "unix_ms", lambda: before() + 30 * 86_400_000)
    await trio.sleep(700)
    assert await store.read(key) == b"x"


async def test_pages_older_than_their_time_are_deleted(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world, store = make_world(), _Disk()
    ledger = world.ledger_on(store, retention_s=3600.0)
    await ledger.load()
    await world.start(nursery)
    nursery.start_soon(ledger.run)
    _, page = await delivered(world)
    now = world.clock.unix_ms()
    old, older = PageKey(now - 3_500_000, 900_001), PageKey(now - 3_700_000, 900_000)
    await store.write(EPOCH, [ArchivedPage(key, 0, 1, np.zeros((1, 16), np.uint8), [], [b"x"]) for key in (old, older)])
    await trio.sleep(700)
    assert await store.read(older) is None
    assert await store.read(old) == b"x"
    assert (await store.newest(None)).sequence == page.batch.address.sequence
