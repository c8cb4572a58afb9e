"""LossReports: counts, funnels and rows of one cause are the same in memory, from the archive and after a restart."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.loss_reports import LossReports, cells_of, merge_counted
from gateway.actors.page_source import MemoryPages
from gateway.batch import OwnershipEpoch
from gateway.cli.loss import rows_of, total
from gateway.clock import SystemClock
from gateway.content import Variant
from gateway.core.home import row_tags
from gateway.errors import StoreFull
from gateway.ledger import Channel, LedgerPage, Reason, Receipt, State
from gateway.message_id import to_text
from gateway.store.memory import MemoryLedgerArchive
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import BadRequest

EPOCH = OwnershipEpoch(1)
WIDE = 1 << 40
APPS = ["shop", "news"]


class _Disk(MemoryLedgerArchive):
    is_full = False

    async def write(self, epoch: OwnershipEpoch, pages: Any) -> None:
        if self.is_full:
            raise StoreFull("ledger.db", "disk is full")
        # Views of a batch are joined at once, as a disk would.
        await super().write(epoch, [page._replace(parts=[b"".join(page.parts)]) for page in pages])


def reports_of(world: Any, pages: Any) -> LossReports:
    return LossReports(home=world.home, pages=pages, clock=world.clock, app_keys=APPS)


def drop_from_memory(world: Any) -> None:
    world.home._ledger_bytes_max = 0
    world.home.evict_some()
    world.home._ledger_bytes_max = WIDE


async def test_pages_that_have_ended_are_looked_for_ever_less_often_while_there_are_none(
    autojump_clock: trio.abc.Clock,
) -> None:
    began, looks, settled = trio.current_time(), [], []
    ended = {3, 4}

    class Counters:
        """Something has ended by the fourth and the fifth look."""

        def portions(self, *, only_ended: bool) -> list[int]:
            looks.append(trio.current_time() - began)
            return [len(looks)] if len(looks) - 1 in ended else []

        def settle(self, portion: int) -> None:
            settled.append(portion)

    class Home:
        counters = Counters()

    home: Any = Home()
    reports = LossReports(home=home, pages=MemoryPages(home), clock=SystemClock(), app_keys=APPS)
    with trio.move_on_after(35):
        await reports.run()
    pauses = [round(after - before, 6) for before, after in itertools.pairwise([0.0, *looks])]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 0.5, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert settled == [4, 5]


SPRING = Variant("t", "b", plan_id="spring", class_="marketing", ttl_s=60)
PLAIN = Variant("t", "b", ttl_s=60)


async def busy_day(world: Any) -> list[LedgerPage]:
    """Rows of every fate: acknowledged, shown, to an unknown device, accepted and refused by a vendor, held."""
    online = world.register(3, Channel.NONE)
    for device in online:
        world.go_online(device)
    tokens = world.register(4, Channel.APNS)
    away = world.register(2, Channel.NONE, first=50)
    first = await world.send([*online, *tokens, b"nobody knows him"], [PLAIN] * 8)
    second = await world.send([*away, online[0]], [PLAIN, SPRING, SPRING])
    for device, n in zip(online, (2, 1, 1), strict=True):
        world.acknowledge(device, n)
    connection = world.apns.last
    connection.answer()
    connection.answer(410, b'{"reason":"Unregistered","timestamp":1700000000000}')
    connection.answer(413, b'{"reason":"PayloadTooLarge"}')
    connection.answer()
    await world.settle()
    world.home.raise_receipts(first, np.array([1]), Receipt.DISPLAYED, world.clock.monotonic())
    return [first, second]


def plain_funnel(pages: list[LedgerPage]) -> Counter[tuple[str, str]]:
    """(state, receipt) of each row."""
    return Counter(
        (State(int(page.state[row])).name, Receipt(int(page.receipt[row])).name)
        for page in pages
        for row in range(page.n)
    )


def counted_funnel(counted: messages.RowsCounted) -> Counter[tuple[str, str]]:
    cells = cells_of(counted)
    found: Counter[tuple[str, str]] = Counter()
    for state, receipt, n in zip(cells.state.tolist(), cells.receipt.tolist(), cells.rows.tolist(), strict=True):
        found[State(state).name, Receipt(receipt).name] += n
    return found


def _plain(answer: Any) -> Any:
    """Columns as bytes, in an order of their own: cells stand in the order in which they were counted."""
    if isinstance(answer, messages.RowsCounted):
        cells = cells_of(answer)
        at = np.frombuffer(answer.key, "<u4")
        rows = zip(*(column.tolist() for column in cells), strict=True)
        return sorted(((answer.keys[int(key)], row) for key, row in zip(at, rows, strict=True)), key=repr)
    return {
        name: bytes(value) if isinstance(value := getattr(answer, name), memoryview) else value
        for name in answer.__struct_fields__
    }


async def test_the_same_is_said_of_pages_in_memory_in_the_archive_and_after_a_restart(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world, store = make_world(), _Disk()
    ledger = world.ledger_on(store)
    await ledger.load()
    await world.start(nursery)
    pages = await busy_day(world)
    # What waits for its device ends; the archive gets pages without open rows.
    for page in pages:
        rows = np.flatnonzero(page.state == State.HELD)
        world.home.move(page, rows, State.EXPIRED, Reason.DEVICE_OFFLINE, world.clock.monotonic())
    reports = reports_of(world, ledger)
    task_id = pages[0].batch.segments[0].task_id
    questions = [
        messages.CountRows(id=1, app_key="shop"),
        messages.CountRows(id=1, task_id=task_id),
        messages.CountRows(id=1, plan_id="spring"),
        messages.Loss(id=1),
        messages.Loss(id=1, task_id=task_id),
        messages.Loss(id=1, plan_id="spring"),
        messages.LossRows(id=1, cause="token_dead"),
        messages.LossRows(id=1, cause="device_offline", plan_id="spring"),
        messages.LossRows(id=1, cause="not_displayed", task_id=task_id, n=1),
    ]
    before = [_plain(await reports.answer(question, "")) for question in questions]
    counted = await reports.answer(questions[0], "")
    assert counted_funnel(counted) == plain_funnel(pages)
    assert sum(plain_funnel(pages).values()) == 11
    nursery.start_soon(ledger.run)
    await world.settle()
    drop_from_memory(world)
    assert list(world.home.pages()) == []
    assert dict(world.home.counters.totals()) == {}
    assert [_plain(await reports.answer(question, "")) for question in questions] == before
    # Another process, with the same secret and disk.
    later = make_world()
    again = later.ledger_on(store)
    await again.load()
    reports = reports_of(later, again)
    assert [_plain(await reports.answer(question, "")) for question in questions] == before
    recount = await reports.answer(messages.CountRows(id=1, recount=True), "")
    assert (_plain(recount), recount.differing) == (before[0], 0)


async def test_a_late_receipt_moves_a_row_of_an_archived_page_in_the_counters_once(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world, store = make_world(), _Disk()
    ledger = world.ledger_on(store)
    await ledger.load()
    await world.start(nursery)
    nursery.start_soon(ledger.run)
    tokens = world.register(2, Channel.APNS)
    page = await world.send(tokens, [PLAIN] * 2)
    world.apns.last.answer(n=2)
    await world.wait(1)
    drop_from_memory(world)
    assert list(world.home.pages()) == []
    reports = reports_of(world, ledger)

    async def delivered() -> list[int]:
        found = await reports.answer(messages.Loss(id=1), "")
        return found.channels["apns"]

    assert await delivered() == [2, 2, 2, 2, 0, 0, 0]
    world.owner.ask_archive = ledger.late
    tags = row_tags(page.batch.address.sequence, np.array([1]))
    store.is_full = True
    world.owner.acknowledged_late(tags, np.zeros(1), 0.0)
    # Brought back and changed; written again; dropped again.
    await world.settle()
    assert await delivered() == [2, 2, 2, 2, 1, 0, 0]
    store.is_full = False
    await world.wait(2.0)
    assert dict(world.home.counters.totals()) == {}
    assert await delivered() == [2, 2, 2, 2, 1, 0, 0]
    drop_from_memory(world)
    assert await delivered() == [2, 2, 2, 2, 1, 0, 0]
    recount = await reports.answer(messages.CountRows(id=1, recount=True), "")
    assert (recount.differing, sum(cells_of(recount).rows.tolist())) == (0, 2)


async def test_without_an_archive_counts_outlive_their_pages_and_say_so(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    reports = reports_of(world, MemoryPages(world.home))
    nursery.start_soon(reports.run)
    tokens = world.register(3, Channel.APNS)
    await world.send(tokens, [SPRING] * 3)
    world.apns.last.answer(n=3)
    await world.wait(1.0)
    # What has ended is counted though nobody asked.
    assert not list(world.home.counters.portions())
    drop_from_memory(world)
    found = await reports.answer(messages.Loss(id=1, plan_id="spring"), "")
    assert (total(found), found.rows_gone) == ([3, 3, 3, 3, 0, 0, 0], 3)
    rows = await reports.answer(messages.LossRows(id=1, plan_id="spring", cause="no_receipt"), "")
    assert (rows.n, rows.next_cursor) == (0, b"")


async def test_rows_of_a_cause_come_page_by_page_with_the_vendors_word(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    reports = reports_of(world, MemoryPages(world.home))
    first, second = await busy_day(world)

    async def rows(**of: Any) -> list[Any]:
        found, cursor = [], b""
        for _ in range(10):
            page = await reports.answer(messages.LossRows(id=1, cursor=cursor, **of), "shop")
            found += rows_of(page)
            cursor = page.next_cursor
            if not cursor:
                return found
        raise AssertionError("the cursor does not end")

    (dead,) = await rows(cause="token_dead")
    task = to_text(first.batch.segments[0].task_id)
    assert dead[:2] == (to_text(first.batch.message_ids[4].tobytes()), task)
    assert dead[3:8] == ("apns", "failed", "token_dead", "", 1)
    assert dead[-1] == "Unregistered"
    # One at a time, over two pages.
    held = await rows(cause="held", n=1)
    assert [row[0] for row in held] == [to_text(second.batch.message_ids[at].tobytes()) for at in (0, 1)]
    assert held[0][-2:] == ("", "")
    assert len(await rows(cause="not_displayed", stage="delivered", channel="long_link", n=2)) == 3
    assert await rows(cause="not_displayed", channel="apns") == []
    assert len(await rows(cause="held", plan_id="spring")) == 1


async def test_forbidden_words_and_missing_rights_have_the_buckets_that_are_theirs(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(more_channels=[Channel.VIVO])
    await world.start(nursery)
    targets = [*world.register(2, Channel.VIVO), *world.register(3, Channel.APNS, first=20)]
    page = await world.send(targets, [Variant("t", "b", strategy=2)] * 5)
    world.vendors[Channel.VIVO].last.answer(200, b'{"result":10103,"desc":"a word"}', n=2)
    world.apns.last.answer(403, b'{"reason":"Forbidden"}')
    world.apns.last.answer(n=2)
    await world.settle()
    assert sorted(world.reasons(page)) == ["no_permission", "none", "none", *["sensitive_content"] * 2]
    reports = reports_of(world, MemoryPages(world.home))
    found = await reports.answer(messages.Loss(id=1), "")
    lost = {(line.stage, line.channel, line.cause): (line.bucket, line.rows) for line in found.losses}
    assert lost.pop(("sent", "vivo", "sensitive_content")) == ("d4", 2)
    assert lost.pop(("sent", "apns", "no_permission")) == ("d8", 1)
    assert lost == {("taken", "apns", "no_receipt"): ("d14", 2)}
    assert total(found) == [5, 5, 5, 2, 0, 0, 0]
    recount = await reports.answer(messages.CountRows(id=1, recount=True), "")
    assert recount.differing == 0
    rows = await reports.answer(messages.LossRows(id=1, cause="sensitive_content"), "")
    assert [(row[4], row[5], row[-1]) for row in rows_of(rows)] == [
        ("failed", "sensitive_content", "10103_sensitive_content")
    ] * 2


async def test_an_app_is_told_of_itself_alone_and_what_is_not_there_is_refused(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    reports = reports_of(world, MemoryPages(world.home))
    first, _ = await busy_day(world)
    task_id = first.batch.segments[0].task_id
    assert (await reports.answer(messages.Loss(id=1), "news")).channels == {}
    assert (await reports.answer(messages.LossRows(id=1, cause="token_dead"), "news")).n == 0
    assert (await reports.answer(messages.Loss(id=1, from_day="1999-01-01", to_day="1999-12-31"), "")).channels == {}
    for question, app, word in [
        (messages.Loss(id=1, task_id=task_id), "news", "no task"),
        (messages.LossRows(id=1, task_id=task_id, cause="token_dead"), "news", "no task"),
        (messages.Loss(id=1, task_id=bytes(16)), "", "no task"),
        (messages.Loss(id=1, app_key="other"), "", "not configured"),
        (messages.Loss(id=1, task_id=task_id, plan_id="spring"), "", "as a whole"),
        (messages.Loss(id=1, from_day="2026-02-30"), "", "no calendar"),
        (
            messages.Loss(id=1, from_day="2026-02-20", to_day="2026-02-19"),
            "",
            "to_day is 2026-02-19, before",
        ),
        (messages.LossRows(id=1, cause="bad luck"), "", "cause has no"),
        (messages.LossRows(id=1, cause="held", channel="pigeon"), "", "channel has no"),
        (messages.LossRows(id=1, cause="held", stage="third"), "", "stage has no"),
        (messages.LossRows(id=1, cause="held", cursor=b"?"), "", "cursor"),
        # More milliseconds than a message id has: the archive on the disk could not even be asked.
        (messages.LossRows(id=1, cause="held", cursor=b"\x80" + bytes(15)), "", "cursor"),
        (messages.LossRows(id=1, cause="held", cursor=b"\xff" * 16), "", "cursor"),
        (messages.LossRows(id=1, cause="held", cursor=bytes(12) + b"\xff" * 4), "", "cursor"),
    ]:
        with pytest.raises(BadRequest, match=word):
            await reports.answer(question, app)


async def test_counts_of_several_workers_add_up(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    worlds = [make_world(), make_world(journal=1)]
    answers, pages = [], []
    for world in worlds:
        await world.start(nursery)
        pages += await busy_day(world)
        reports = reports_of(world, MemoryPages(world.home))
        answers.append(await reports.answer(messages.CountRows(id=1), ""))
    merged = merge_counted(messages.CountRows(id=7), answers)
    assert counted_funnel(merged) == plain_funnel(pages)
    assert (merged.id, merged.n, len(merged.keys)) == (7, answers[0].n + answers[1].n, len(answers[0].keys))
