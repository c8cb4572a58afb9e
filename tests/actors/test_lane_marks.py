"""A lane whose batches are on disk: nothing leaves before its mark is durable, rendering runs ahead of marks, and what
cannot leave is marked no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.content import Variant
from gateway.core.trail import Trail
from gateway.errors import CloseReason
from gateway.ledger import Channel, Reason, State


def content(**fields: Any) -> Variant:
    return Variant("title", "body", **{"strategy": 2} | fields)


@pytest.fixture
def trail() -> Trail:
    return Trail(issued_rows_max=64)


async def test_rows_leave_when_their_mark_is_durable(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, trail: Trail
) -> None:
    world = make_world(trail=trail)
    await world.start(nursery)
    page = await world.send(world.register(3), content())
    assert (world.apns.requests(), world.states(page)) == ([], {"queued": 3})
    (mark,) = await world.write_marks()
    assert mark.states.tolist() == [State.IN_FLIGHT] * 3
    assert mark.channels.tolist() == [Channel.APNS] * 3
    assert len(world.apns.requests()) == 3
    world.apns.last.answer(n=3)
    await world.settle()
    assert world.states(page) == {"vendor_accepted": 3}
    # The whole batch is final: it may go, and nothing more is written of it.
    assert not trail.has_dirty
    assert [batch.page for batch in trail.take_final(10)] == [page]


async def test_rendering_runs_ahead_of_marks_by_two_bursts_at_most(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, trail: Trail
) -> None:
    world = make_world(trail=trail, burst_rows_max=10, connections_max=1)
    await world.start(nursery)
    await world.send(world.register(60), content())
    assert trail.issued_rows() == 20
    sent = []
    while await world.write_marks():
        sent.append(len(world.apns.requests()))
    assert sent == [20, 40, 60]


async def test_rendering_waits_for_room_for_a_whole_burst(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, trail: Trail
) -> None:
    world = make_world(trail=trail, burst_rows_max=30, connections_max=1)
    await world.start(nursery)
    # Beyond what is ahead the window has room for 4 rows more; 30 are to leave first.
    page = await world.send(world.register(100), content())
    assert trail.issued_rows() == 60
    await world.write_marks()
    assert (len(world.apns.requests()), page.trail.marked.astype(bool).sum()) == (60, 64)


async def test_a_full_window_holds_rows_until_outcomes_are_durable(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    trail = Trail(issued_rows_max=8)
    world = make_world(trail=trail)
    await world.start(nursery)
    page = await world.send(world.register(20), content())
    await world.write_marks()
    assert len(world.apns.requests()) == 8
    world.apns.last.answer(n=8)
    await world.settle()
    # They are known, and not durably so.
    assert len(world.apns.requests()) == 8
    assert await world.write_marks()
    assert await world.write_marks()
    assert len(world.apns.requests()) == 16
    assert world.states(page) == {"vendor_accepted": 8, "in_flight": 8, "queued": 4}


async def test_rows_that_ended_while_their_mark_was_written_do_not_leave(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, trail: Trail
) -> None:
    world = make_world(trail=trail)
    await world.start(nursery)
    page = await world.send(world.register(4), content())
    world.home.move(page, np.array([1, 2]), State.CANCELLED, Reason.NONE, trio.current_time())
    await world.write_marks()
    await world.write_marks()
    assert len(world.apns.requests()) == 2
    assert world.states(page) == {"cancelled": 2, "in_flight": 2}


async def test_marked_rows_that_cannot_leave_are_taken_back(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, trail: Trail
) -> None:
    world = make_world(trail=trail, connections_max=1)
    world.apns.streams_max = 2
    await world.start(nursery)
    page = await world.send(world.register(6), content())
    await world.write_marks()
    assert (len(world.apns.requests()), trail.issued_rows()) == (2, 6)
    lane = world.lane()
    lane.return_stalled()
    assert trail.issued_rows() == 6
    lane.return_stalled()
    await world.settle()
    (mark,) = await world.write_marks()
    assert mark.rows.tolist() == [2, 3, 4, 5]
    assert mark.states.tolist() == [State.QUEUED] * 4
    assert trail.issued_rows() == 2
    # They go out later, each once.
    for _ in range(4):
        world.apns.last.answer(n=len(world.apns.last.open))
        await world.settle()
        await world.write_marks()
    assert len(world.apns.requests()) == 6
    assert set(world.states(page)) <= {"vendor_accepted", "in_flight"}


async def test_rows_that_wait_for_their_mark_are_no_stall(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, trail: Trail
) -> None:
    """A disk that is slower than the look for stalls must not send rows round in circles."""
    world = make_world(trail=trail)
    await world.start(nursery)
    await world.send(world.register(3), content())
    for _ in range(5):
        world.lane().return_stalled()
        await world.wait(0.3)
    await world.write_marks()
    assert len(world.apns.requests()) == 3


async def test_a_disk_slower_than_rendered_rows_stay_fresh_sends_all_the_same(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, trail: Trail
) -> None:
    world = make_world(trail=trail, burst_rows_max=5)
    await world.start(nursery)
    page = await world.send(world.register(20), content())
    for _ in range(8):
        await world.wait(1.5)
        await world.write_marks()
    assert len(world.apns.requests()) == 20
    assert world.states(page) == {"in_flight": 20}


async def test_a_row_that_comes_back_unsent_is_written_down_as_such(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, trail: Trail
) -> None:
    world = make_world(trail=trail)
    await world.start(nursery)
    await world.send(world.register(4), content())
    await world.write_marks()
    world.apns.last.close(CloseReason.GOAWAY, refused=4)
    await world.settle()
    (mark,) = await world.write_marks()
    assert mark.rows.tolist() == [0, 1, 2, 3]
    assert set(mark.states.tolist()) == {State.QUEUED}
    assert trail.issued_rows() == 0


async def test_rows_for_the_long_link_are_marked_and_a_held_row_before_it_is_delivered(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, trail: Trail
) -> None:
    world = make_world(trail=trail)
    await world.start(nursery)
    (away,) = world.register(1, Channel.NONE)
    page = await world.send([away])
    assert world.states(page) == {"held": 1}
    assert not trail.has_dirty
    world.go_online(away)
    await world.settle()
    assert world.states(page) == {"held": 1}
    (mark,) = await world.write_marks()
    assert (mark.states.tolist(), mark.channels.tolist()) == ([State.IN_FLIGHT], [Channel.LONG_LINK])
    assert world.states(page) == {"in_flight": 1}
