"""Patience: submits gather while the loop is busy, and not longer than they are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from gateway.actors.patience import Patience


class Work:
    """Keeps the loop from resting until `until`, as a chain of steps that each take a millisecond of CPU."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.cpu_s = 0.0

    def cpu_clock(self) -> float:
        return self.cpu_s

    async def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 1000)):
            self.clock.jump(0.001)
            self.cpu_s += 0.001
            await trio.lowlevel.checkpoint()


async def took(wait: Callable[[], Awaitable[None]]) -> float:
    started = trio.current_time()
    await wait()
    return round(trio.current_time() - started, 3)


async def test_patience_of_an_idle_loop_ends_with_the_gathering(autojump_clock: Any) -> None:
    patience = Patience(0.001, 0.5)
    for _ in range(3):
        assert await took(patience.wait_company) == 0.001
        assert await took(patience.wait_rest) == 0.0
        await trio.sleep(1.0)


async def test_patience_lasts_until_the_loop_rests(mock_clock: Any, nursery: trio.Nursery) -> None:
    work = Work(mock_clock)
    patience = Patience(0.0, 0.5, work.cpu_clock)
    await patience.wait_rest()
    nursery.start_soon(work.run, 0.1)
    mock_clock.autojump_threshold = 0
    # A tenth of a second of work, and the pause that keeps the loop from being full.
    assert await took(patience.wait_rest) == round(0.1 / 0.85, 3)


async def test_patience_with_a_loop_that_never_rests_has_an_end(mock_clock: Any, nursery: trio.Nursery) -> None:
    work = Work(mock_clock)
    patience = Patience(0.0, 0.02, work.cpu_clock)
    await patience.wait_rest()
    nursery.start_soon(work.run, 1.0)
    assert 0.02 <= await took(patience.wait_rest) <= 0.022
    # Between batches: the wait for the commit of one counts for the next.
    await trio.lowlevel.checkpoint()
    assert 0.018 <= await took(patience.wait_rest) <= 0.022
    nursery.cancel_scope.cancel()


async def test_patience_ends_when_there_is_enough(mock_clock: Any, nursery: trio.Nursery) -> None:
    work = Work(mock_clock)
    patience = Patience(10.0, 10.0, work.cpu_clock)
    await patience.wait_rest()
    nursery.start_soon(work.run, 1.0)
    patience.end()
    assert await took(patience.wait_company) <= 0.002
    assert await took(patience.wait_rest) <= 0.002
    # One batch is made of that; the next has patience again, until it is told otherwise.
    nursery.start_soon(_end_after_ten_steps, patience)
    assert 0.009 <= await took(patience.wait_rest) <= 0.013
    nursery.cancel_scope.cancel()


async def _end_after_ten_steps(patience: Patience) -> None:
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    patience.end()
