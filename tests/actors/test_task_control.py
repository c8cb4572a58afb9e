"""TaskControl: a stopped task's rows end wherever they wait, and what is in flight is not tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.long_link_port import Unacknowledged
from gateway.content import Variant
from gateway.errors import StoreError
from gateway.ledger import Channel, Flag, Reason, State
from gateway.wire.h2.events import Refused, RefusedWhy

VENDOR = Variant("title", "body", strategy=2)


def task_of(page: Any) -> bytes:
    task_id: bytes = page.batch.segments[0].task_id
    return task_id


def states(page: Any) -> list[str]:
    return [State(code).name.lower() for code in page.state.tolist()]


async def test_rows_that_are_queued_stored_or_wait_for_a_retry_end_cancelled(
    make_world: Callable[..., Any], nursery: Any, autojump_clock: Any
) -> None:
    world = make_world(rate_per_s=0.001, burst=2)
    await world.start(nursery)
    devices = [*world.register(4), *world.register(2, Channel.NONE)]
    page = await world.send(devices)
    # Two left with the bucket's tokens, two wait for more, two devices are away.
    assert states(page) == ["in_flight"] * 2 + ["queued"] * 2 + ["held"] * 2
    world.apns.connections[0].answer(503, n=1)
    await world.settle()
    assert states(page)[:2].count("waiting") == 1
    ended = await world.control.stop(task_of(page))
    assert ended == (5, 0)
    assert sorted(states(page)) == ["cancelled"] * 5 + ["in_flight"]
    await world.settle()
    assert len(world.inbox_store) == 0
    world.apns.connections[0].answer(200, n=1)
    await world.wait(10_000)
    assert sorted(states(page)) == ["cancelled"] * 5 + ["vendor_accepted"]
    assert {Reason(code).name for code in page.reason[page.state == State.CANCELLED].tolist()} == {"STOPPED"}
    assert len(world.apns.requests()) == 2
    assert world.home.rows_not_conserved() == 0


@pytest.mark.parametrize("status", [503, 429])
async def test_a_row_in_flight_is_cancelled_instead_of_being_tried_again(
    make_world: Callable[..., Any], nursery: Any, autojump_clock: Any, status: int
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await world.send(world.register(3))
    assert await world.control.stop(task_of(page)) == (0, 0)
    world.apns.connections[0].answer(status, n=3)
    await world.wait(5000)
    assert states(page) == ["cancelled"] * 3
    assert len(world.apns.requests()) == 3


async def test_a_row_that_its_device_does_not_acknowledge_is_not_handed_over(
    make_world: Callable[..., Any], nursery: Any, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device])
    assert states(page) == ["in_flight"]
    await world.control.stop(task_of(page))
    world.owner.unacknowledged(world.sockets.tags(device), Unacknowledged.CONNECTION_CLOSED)
    await world.settle()
    assert states(page) == ["cancelled"]
    # Its device may have seen it.
    assert page.flags.tolist() == [Flag.HANDED_OVER]
    assert world.apns.requests() == []
    # And what it says later still counts.
    world.owner.acknowledged_late(world.sockets.tags(device), np.zeros(1), 0.0)
    assert (states(page), page.receipt.tolist()) == (["cancelled"], [1])


async def test_a_row_whose_vendor_refuses_it_does_not_fall_back(
    make_world: Callable[..., Any], nursery: Any, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device], Variant("title", "body", strategy=4))
    assert states(page) == ["in_flight"]
    await world.control.stop(task_of(page))
    world.apns.connections[0].answer(400, n=1)
    await world.settle()
    assert states(page) == ["failed"]
    assert world.sockets.titles(device) == []


async def test_rows_that_a_connection_gives_back_unsent_end(
    make_world: Callable[..., Any], nursery: Any, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await world.send(world.register(3))
    await world.control.stop(task_of(page))
    world.apns.connections[0].tell(Refused, RefusedWhy.REFUSED_STREAM, n=3)
    await world.wait(100)
    assert states(page) == ["cancelled"] * 3
    assert len(world.apns.requests()) == 3


async def test_a_page_that_opens_after_the_stop_ends_at_once_and_other_tasks_go_on(
    make_world: Callable[..., Any], nursery: Any, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    first, other = await world.send(world.register(1)), await world.send(world.register(1, first=1))
    await world.control.stop(task_of(first))
    late = world.open(world.register(2, first=2))
    late.batch.segments = [late.batch.segments[0]._replace(task_id=task_of(first), n=1), other.batch.segments[0]]
    world.control.opened(late)
    assert states(late) == ["cancelled", "queued"]


async def test_a_stop_is_written_down_before_rows_end_and_fails_with_its_disk(
    make_world: Callable[..., Any], nursery: Any, autojump_clock: Any
) -> None:
    world = make_world(rate_per_s=0.001, burst=1)
    await world.start(nursery)
    page = await world.send(world.register(2))
    written: list[bytes] = []

    async def fail(task_id: bytes, unix_ms: int) -> None:
        raise StoreError("somewhere", "disk is full")

    async def remember(task_id: bytes, unix_ms: int) -> None:
        assert "queued" in states(page)
        written.append(task_id)

    world.control.remember = fail
    with pytest.raises(StoreError):
        await world.control.stop(task_of(page))
    assert "cancelled" not in states(page)
    world.control.remember = remember
    assert (await world.control.stop(task_of(page))).cancelled == 1
    assert written == [task_of(page)]


async def test_a_stopped_task_of_many_pages_ends_in_all_of_them(
    make_world: Callable[..., Any], nursery: Any, autojump_clock: Any
) -> None:
    world = make_world(rate_per_s=0.001, burst=1)
    await world.start(nursery)
    stopped: list[bytes] = []
    world.control.stop_audience = stopped.append
    pages = [world.open(world.register(3, first=3 * number)) for number in range(4)]
    task_id = task_of(pages[0])
    for number in (1, 2, 3):
        batch = pages[number].batch
        batch.segments = [batch.segments[0]._replace(task_id=task_id, is_continued=True)]
        pages[number] = world.home.open(batch, world.clock.monotonic(), [task_id])
    ended = await world.control.stop(task_id)
    assert ended.cancelled == 12
    assert all(states(page) == ["cancelled"] * 3 for page in pages)
    assert stopped == [task_id]


class SlowArchive:
    """Knows of no page, and something happens while it looks."""

    def __init__(self, world: Any, happens: Callable[[], None]) -> None:
        self._world = world
        self._happens = happens

    async def away_parts(self, _task_id: bytes) -> list[int]:
        self._happens()
        await trio.lowlevel.checkpoint()
        return []

    async def fetch(self, sequence: int) -> Any:
        await trio.lowlevel.checkpoint()
        return self._world.home.page(sequence)


async def test_a_page_that_opens_while_the_archive_looks_for_others_ends_too(
    make_world: Callable[..., Any], nursery: Any, autojump_clock: Any
) -> None:
    world = make_world(rate_per_s=0.001, burst=1)
    await world.start(nursery)
    first, late = world.open(world.register(2)), world.open(world.register(3, first=2))
    task_id = task_of(first)
    late.batch.segments = [late.batch.segments[0]._replace(task_id=task_id, is_continued=True)]
    world.control._archive = SlowArchive(world, lambda: world.control.opened(late))
    assert await world.control.stop(task_id) == (5, 0)
    assert states(late) == ["cancelled"] * 3
    assert not world.control._stopping
