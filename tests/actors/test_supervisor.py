"""Supervisor: a crash is counted and answered with a restart after a growing wait; too many take the worker down."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import trio
import trio.testing

from gateway.actors.supervisor import answered, contained, supervise
from gateway.clock import SystemClock
from gateway.core.restarts import BACKOFF_FIRST_S, BACKOFF_MAX_S, CRASHES_MAX, WINDOW_S


class Crashes:
    """Counts what the supervisor tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, float]] = []

    def crashed(self, actor: str, error: Exception, restart_in_s: float) -> None:
        self.told.append((actor, str(error), restart_in_s))


class Broken(Exception):
    pass


async def test_supervisor_does_not_restart_an_actor_that_ended_by_itself() -> None:
    starts = 0

    async def run() -> None:
        nonlocal starts
        starts += 1
        await trio.lowlevel.checkpoint()

    crashes = Crashes()
    await supervise("actor", run, clock=SystemClock(), observer=crashes)
    assert (starts, crashes.told) == (1, [])


async def test_supervisor_restarts_after_a_crash_and_tells_of_it(autojump_clock: trio.testing.MockClock) -> None:
    started_at: list[float] = []

    async def run() -> None:
        started_at.append(trio.current_time())
        if len(started_at) < 4:
            raise Broken(f"crash {len(started_at)}")

    crashes = Crashes()
    await supervise("lane shop/apns", run, clock=SystemClock(), observer=crashes)
    waits = [later - earlier for earlier, later in itertools.pairwise(started_at)]
    assert waits == pytest.approx([BACKOFF_FIRST_S, 2 * BACKOFF_FIRST_S, 4 * BACKOFF_FIRST_S])
    assert [(actor, text) for actor, text, _ in crashes.told] == [
        ("lane shop/apns", "crash 1"),
        ("lane shop/apns", "crash 2"),
        ("lane shop/apns", "crash 3"),
    ]
    assert [wait for _, _, wait in crashes.told] == pytest.approx(waits)


async def test_supervisor_gives_up_with_the_last_error_when_crashes_are_too_many(
    autojump_clock: trio.testing.MockClock,
) -> None:
    starts = 0

    async def run() -> None:
        nonlocal starts
        starts += 1
        raise Broken(f"crash {starts}")

    crashes = Crashes()
    with pytest.raises(Broken, match=f"crash {CRASHES_MAX}$"):
        await supervise("actor", run, clock=SystemClock(), observer=crashes)
    assert starts == len(crashes.told) == CRASHES_MAX
    assert max(wait for _, _, wait in crashes.told) <= BACKOFF_MAX_S


async def test_supervisor_forgets_crashes_that_are_long_ago(autojump_clock: trio.testing.MockClock) -> None:
    starts = 0

    async def run() -> None:
        nonlocal starts
        starts += 1
        if starts == 3 * CRASHES_MAX:
            return
        await trio.sleep(WINDOW_S / 2)
        raise Broken

    crashes = Crashes()
    await supervise("actor", run, clock=SystemClock(), observer=crashes)
    assert starts == 3 * CRASHES_MAX
    assert crashes.told[-1][2] <= 2 * BACKOFF_FIRST_S


async def test_supervisor_restarts_when_a_child_task_of_the_actor_crashed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """An actor with a nursery crashes with a group of exceptions."""
    starts = 0

    async def crash() -> None:
        raise Broken("in a child")

    async def run() -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crash)
                await trio.sleep_forever()

    crashes = Crashes()
    await supervise("actor", run, clock=SystemClock(), observer=crashes)
    assert starts == 2
    assert len(crashes.told) == 1


@pytest.mark.parametrize("at_s", [0.0, 0.01, 0.06, 0.2])
async def test_supervisor_that_is_cancelled_starts_nothing_again(
    at_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    """Cancelled in the actor or in the wait before its restart."""
    starts: list[float] = []

    async def run() -> None:
        starts.append(trio.current_time())
        await trio.sleep(0.02)
        raise Broken

    crashes = Crashes()
    with trio.move_on_after(at_s) as scope:
        await supervise("actor", run, clock=SystemClock(), observer=crashes)
    n = len(starts)
    await trio.sleep(100)
    assert scope.cancelled_caught
    assert len(starts) == n


async def test_supervisor_lets_go_of_what_is_no_error_of_the_actor() -> None:
    async def run() -> None:
        raise KeyboardInterrupt

    crashes = Crashes()
    with pytest.raises(KeyboardInterrupt):
        await supervise("actor", run, clock=SystemClock(), observer=crashes)
    assert crashes.told == []


async def test_connection_that_crashes_ends_alone_and_is_told_of() -> None:
    """As `trio.serve_listeners` runs it: beside all other connections, and everything else of the worker."""
    crashes, served = Crashes(), []

    async def converse(stream: str) -> None:
        await trio.lowlevel.checkpoint()
        if stream == "strange":
            raise Broken("nobody thought of that")
        if stream == "strange group":
            async with trio.open_nursery() as inner:
                inner.start_soon(converse, "strange")
                await trio.sleep_forever()
        served.append(stream)

    async with trio.open_nursery() as nursery:
        for stream in ("strange", "usual", "strange group"):
            nursery.start_soon(contained(converse, crashes), stream)
    assert served == ["usual"]
    assert [(actor, wait) for actor, _, wait in crashes.told] == [("connection", 0.0)] * 2


async def test_connection_is_cancelled_with_its_worker() -> None:
    crashes = Crashes()

    async def converse(stream: str) -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(trio.sleep_forever)

    with trio.move_on_after(0.01) as scope:
        await contained(converse, crashes)("stream")
    assert (scope.cancelled_caught, crashes.told) == (True, [])


async def test_request_that_crashes_is_refused_and_ends_alone() -> None:
    crashes, refused, done = Crashes(), [], []

    async def work(request: str) -> None:
        await trio.lowlevel.checkpoint()
        if request == "strange":
            raise Broken("nobody thought of that")
        if request == "strange group":
            async with trio.open_nursery() as inner:
                inner.start_soon(work, "strange")
                await trio.sleep_forever()
        done.append(request)

    async with trio.open_nursery() as nursery:
        for one in ("strange", "usual", "strange group"):
            nursery.start_soon(answered, partial(work, one), partial(refused.append, one), crashes)
    assert (done, sorted(refused)) == (["usual"], ["strange", "strange group"])
    assert [(actor, wait) for actor, _, wait in crashes.told] == [("request", 0.0)] * 2


async def test_request_is_cancelled_with_its_actor_and_not_refused() -> None:
    crashes, refused = Crashes(), []
    with trio.move_on_after(0.01) as scope:
        await answered(trio.sleep_forever, partial(refused.append, "request"), crashes)
    assert (scope.cancelled_caught, crashes.told, refused) == (True, [], [])
