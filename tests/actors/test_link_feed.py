"""LinkFeed: rows of a journal on disk reach the edge after their mark is durable, and marks run ahead of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from gateway.actors import link_feed
from gateway.actors.link_feed import ForLink, LinkFeed, rows_of_one_call
from gateway.batch import Batch
from gateway.content import Variant
from gateway.core.home import Home
from gateway.core.trail import Trail
from gateway.ledger import Channel, LedgerPage, Reason, State


class Silence:
    def moved(self, *told: object) -> None: ...

    def finished(self, *told: object) -> None: ...

    def receipts_rose(self, *told: object) -> None: ...


class Edge:
    """What reached the edge, call by call: (sequence, rows)."""

    def __init__(self, trail: Trail | None, *, call_rows: int = 4) -> None:
        self.trail = trail
        self.calls: list[tuple[int, list[int]]] = []
        self.feed = LinkFeed(rows_max=lambda _: call_rows, feed=self.take, trail=trail)
        self.home = Home(
            secret=b"a secret of sixteen",
            journal=1,
            observer=Silence(),
            ledger_bytes_max=1 << 30,
            rows_open_max=1 << 30,
            change_rows_max=1000,
            now=0.0,
        )
        self.home.trail = trail
        self.positions = 0

    def take(self, work: ForLink) -> None:
        self.calls.append((work.page.batch.address.sequence, work.rows.tolist()))

    def add(self, n: int, *, app: int = 0, on_disk: bool = True, first_n: int = 0, at_once: bool = False) -> LedgerPage:
        ids = np.zeros((n, 16), np.uint8)
        address = self.home.next_address(1_800_000_000_000, 0.0)
        batch = Batch(address, app, 0.0, n, device_ids=ids, message_ids=ids, variants=[Variant("t", "b")])
        page = self.home.open(batch, 0.0)
        page.channel[:] = Channel.LONG_LINK
        if on_disk and self.trail is not None:
            self.trail.follow(page, 1)
        self.add_rows(page, 0, first_n or n, at_once=at_once)
        return page

    def add_rows(self, page: LedgerPage, start: int, stop: int, *, at_once: bool = False) -> None:
        n = stop - start
        work = ForLink(page, np.arange(start, stop), np.zeros(n, np.int32), np.zeros(n, np.uint32))
        self.feed.add(work, at_once=at_once)

    def write(self) -> None:
        """The record of what is marked becomes durable."""
        assert self.trail is not None
        taken = self.trail.take(100)
        assert taken is not None
        self.positions += 1
        for ring in self.trail.written(taken, self.positions):
            ring()

    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def trail() -> Trail:
    return Trail(issued_rows_max=6)


async def test_rows_in_memory_reach_the_edge_at_once_in_full_calls(nursery: trio.Nursery) -> None:
    edge = Edge(None)
    nursery.start_soon(edge.feed.run)
    edge.add(6)
    await edge.settle()
    assert edge.calls == [(0, [0, 1, 2, 3]), (0, [4, 5])]
    assert edge.feed.is_idle


async def test_small_page_in_memory_reaches_the_edge_in_the_turn_of_who_brings_it(nursery: trio.Nursery) -> None:
    edge = Edge(None)
    nursery.start_soon(edge.feed.run)
    await edge.settle()
    edge.add(3, at_once=True)
    assert edge.calls == [(0, [0, 1, 2])]
    assert edge.feed.is_idle
    # What waits goes first, and more than a call takes is cut by the feed.
    edge.add(5, at_once=True)
    edge.add(2, at_once=True)
    assert len(edge.calls) == 1
    await edge.settle()
    assert edge.calls[1:] == [(1, [0, 1, 2, 3]), (1, [4]), (2, [0, 1])]


async def test_small_page_on_disk_waits_for_its_mark_whoever_is_in_haste(nursery: trio.Nursery, trail: Trail) -> None:
    edge = Edge(trail)
    nursery.start_soon(edge.feed.run)
    edge.add(3, at_once=True)
    await edge.settle()
    assert edge.calls == []
    edge.write()
    await edge.settle()
    assert edge.calls == [(0, [0, 1, 2])]


async def test_call_that_was_interrupted_in_the_turn_of_who_brings_it_is_done_again(nursery: trio.Nursery) -> None:
    edge = Edge(None)

    def fail(_work: ForLink) -> None:
        raise OSError("the edge broke")

    edge.feed._feed = fail
    with pytest.raises(OSError, match="the edge broke"):
        edge.add(2, at_once=True)
    edge.feed._feed = edge.take
    nursery.start_soon(edge.feed.run)
    await edge.settle()
    assert edge.calls == [(0, [0, 1])]


async def test_rows_on_disk_wait_for_their_mark(nursery: trio.Nursery, trail: Trail) -> None:
    edge = Edge(trail)
    nursery.start_soon(edge.feed.run)
    edge.add(6)
    await edge.settle()
    assert edge.calls == []
    assert not edge.feed.is_idle
    # Both calls were marked in one record, ahead of the edge.
    edge.write()
    await edge.settle()
    assert edge.calls == [(0, [0, 1, 2, 3]), (0, [4, 5])]


async def test_rows_of_a_page_that_came_bit_by_bit_leave_in_full_calls_when_marked(nursery: trio.Nursery) -> None:
    edge = Edge(Trail(issued_rows_max=1000))
    nursery.start_soon(edge.feed.run)
    page = edge.add(9, first_n=2)
    await edge.settle()
    edge.add_rows(page, 2, 3)
    await edge.settle()
    edge.write()
    # Another page between them, and rows whose mark is not durable yet.
    edge.add(2)
    edge.add_rows(page, 3, 5)
    await edge.settle()
    assert edge.calls == [(0, [0, 1, 2])]
    edge.write()
    edge.add_rows(page, 5, 9)
    await edge.settle()
    assert edge.calls[1:] == [(1, [0, 1]), (0, [3, 4])]
    edge.write()
    await edge.settle()
    assert edge.calls[3:] == [(0, [5, 6, 7, 8])]


async def test_a_full_window_stops_its_app_and_no_other(nursery: trio.Nursery, trail: Trail) -> None:
    edge = Edge(trail)
    nursery.start_soon(edge.feed.run)
    first = edge.add(9)
    edge.add(2, app=1)
    await edge.settle()
    edge.write()
    await edge.settle()
    edge.write()
    await edge.settle()
    assert sorted(edge.calls) == [(0, [0, 1, 2, 3]), (0, [4, 5]), (1, [0, 1])]
    # The window opens when outcomes are durable.
    edge.home.move(first, np.arange(6), State.DROPPED, Reason.STOPPED, 1.0)
    edge.write()
    await edge.settle()
    edge.write()
    await edge.settle()
    assert (0, [6, 7, 8]) in edge.calls
    assert edge.feed.is_idle


async def test_rows_that_ended_meanwhile_are_not_marked(nursery: trio.Nursery, trail: Trail) -> None:
    edge = Edge(trail)
    page = edge.add(4)
    edge.home.move(page, np.arange(4), State.DROPPED, Reason.STOPPED, 1.0)
    nursery.start_soon(edge.feed.run)
    await edge.settle()
    # The edge is asked and finds none of them queued; nothing waited for a disk.
    assert edge.calls == [(0, [0, 1, 2, 3])]
    assert trail.issued_rows() == 0


async def test_what_is_marked_ahead_is_bounded(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_feed, "AHEAD_ROWS", 10)
    trail = Trail(issued_rows_max=1000)
    edge = Edge(trail)
    nursery.start_soon(edge.feed.run)
    edge.add(40)
    await edge.settle()
    assert 10 <= trail.issued_rows() < 14


async def test_a_feed_that_runs_again_goes_on(trail: Trail) -> None:
    edge = Edge(trail)
    edge.add(3)
    for _ in range(2):
        with trio.move_on_after(0.05):
            await edge.feed.run()
    edge.write()
    with trio.move_on_after(0.05):
        await edge.feed.run()
    assert edge.calls == [(0, [0, 1, 2])]


async def test_a_call_that_crashes_is_made_again(trail: Trail) -> None:
    edge = Edge(trail)
    crashes: list[Any] = [1]
    taken = edge.take

    def crash_once(work: ForLink) -> None:
        if crashes:
            crashes.clear()
            raise ZeroDivisionError("a bug")
        taken(work)

    edge.feed = LinkFeed(rows_max=lambda _: 4, feed=crash_once, trail=None)
    edge.trail = None
    edge.add(3, on_disk=False)
    with pytest.raises(ZeroDivisionError):
        await edge.feed.run()
    with trio.move_on_after(0.05):
        await edge.feed.run()
    assert edge.calls == [(0, [0, 1, 2])]


async def test_feed_gives_the_edge_nothing_more_while_it_has_rows_to_write(autojump_clock: Any) -> None:
    edge = Edge(None)
    written: list[int] = []

    def send_rest() -> bool:
        # Each call of the edge takes two turns to write.
        left = 2 * len(edge.calls) - len(written)
        if left:
            written.append(len(edge.calls))
        return left > 0

    edge.feed = LinkFeed(lambda _: 4, edge.take, None, send_rest)
    edge.add(10, on_disk=False)
    with trio.move_on_after(0.05):
        await edge.feed.run()
    assert [rows for _, rows in edge.calls] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert written == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(("characters", "rows"), [(0, 4096), (1024, 1022), (32_000, 64)])
def test_a_call_has_fewer_rows_of_long_contents_which_are_looked_at_once(characters: int, rows: int) -> None:
    class Counted(list[Variant]):
        looks = 0

        def __iter__(self) -> Any:
            self.looks += 1
            return super().__iter__()

    made = [Variant("t", "b")] * 199 + [Variant("t", "b" * characters)]
    batch = Edge(None).add(200).batch
    batch.variants = counted = Counted(made)
    for _ in range(3):
        assert rows_of_one_call(LedgerPage(batch), 4096) == rows
    assert counted.looks == 1
