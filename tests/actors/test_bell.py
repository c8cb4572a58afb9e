"""Bell: a ring is never lost and never queued twice."""

from __future__ import annotations

import trio
import trio.testing

from gateway.actors.bell import Bell


async def test_bell_that_was_rung_before_returns_at_once() -> None:
    bell = Bell()
    bell.ring()
    with trio.fail_after(1):
        await bell.wait()


async def test_bell_waits_until_it_is_rung(autojump_clock: trio.testing.MockClock) -> None:
    bell = Bell()
    returned_at: list[float] = []
    begun = trio.current_time()

    async def listen() -> None:
        await bell.wait()
        returned_at.append(trio.current_time() - begun)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.sleep(3)
        bell.ring()
    assert returned_at == [3]


async def test_bell_rung_often_rings_once(autojump_clock: trio.testing.MockClock) -> None:
    bell = Bell()
    for _ in range(5):
        bell.ring()
    await bell.wait()
    with trio.move_on_after(10) as scope:
        await bell.wait()
    assert scope.cancelled_caught


async def test_bell_rung_between_two_waits_is_heard() -> None:
    bell = Bell()
    bell.ring()
    await bell.wait()
    bell.ring()
    with trio.fail_after(1):
        await bell.wait()


async def test_bell_keeps_its_ring_when_the_listener_is_cancelled() -> None:
    bell = Bell()
    bell.ring()
    with trio.CancelScope() as scope:
        scope.cancel()
        await bell.wait()
    assert scope.cancelled_caught
    with trio.fail_after(1):
        await bell.wait()


async def test_bell_rung_in_the_turn_of_the_cancellation_is_not_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The ring and the cancellation reach a waiting listener together: it returned, or the ring is still there."""
    bell = Bell()
    heard: list[str] = []
    scope = trio.CancelScope()

    async def listen() -> None:
        with scope:
            await bell.wait()
            heard.append("first")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        bell.ring()
        scope.cancel()
    if not heard:
        with trio.fail_after(1):
            await bell.wait()
            heard.append("second")
    assert len(heard) == 1
