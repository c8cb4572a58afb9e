"""Precedence: nobody's step stands between rows that are durable and their answer, and nobody starves."""

from __future__ import annotations

import trio
import trio.testing

from gateway.actors.bell import Bell
from gateway.actors.patience import Patience
from gateway.actors.precedence import Precedence, wait_rest


class Worker:
    """An actor with steps that nobody waits for."""

    def __init__(self, precedence: Precedence, done: list[str]) -> None:
        self.bell = Bell(precedence)
        self._done = done

    async def run(self) -> None:
        while True:
            await self.bell.wait()
            for _ in range(3):
                self._done.append("step")
                await self.bell.pause()


async def test_an_answer_that_needs_three_turns_is_through_before_the_next_step() -> None:
    precedence, done = Precedence(), []
    worker = Worker(precedence, done)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(precedence.append_done)
        worker.bell.ring()
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        done.append("answer")
        precedence.answered()
        await trio.testing.wait_all_tasks_blocked()
        assert done == ["answer", "step", "step", "step"]
        worker.bell.ring()
        await trio.lowlevel.checkpoint()
        precedence.append_done()
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        done.append("answer")
        precedence.answered()
        await trio.testing.wait_all_tasks_blocked()
        assert done[4:].index("answer") <= 1, "between two steps as before the first"
        nursery.cancel_scope.cancel()


async def test_steps_go_on_though_an_answer_never_comes() -> None:
    precedence, done = Precedence(), []
    precedence.append_done()
    worker = Worker(precedence, done)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        worker.bell.ring()
        await trio.testing.wait_all_tasks_blocked()
        assert done == ["step"] * 3
        nursery.cancel_scope.cancel()


async def test_a_ring_that_comes_while_its_listener_lets_others_go_first_is_heard_once() -> None:
    precedence, done = Precedence(), []
    precedence.append_done()
    worker = Worker(precedence, done)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        worker.bell.ring()
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        worker.bell.ring()
        precedence.answered()
        await trio.testing.wait_all_tasks_blocked()
        assert done == ["step"] * 3
        nursery.cancel_scope.cancel()


async def test_a_batch_that_is_due_goes_first_until_it_is_made(autojump_clock: trio.testing.MockClock) -> None:
    precedence = Precedence()
    patience = Patience(0.001, 0.5, cpu_clock=lambda: 1e9, precedence=precedence)
    await patience.wait_rest()
    assert not precedence.is_wanted
    seen: list[bool] = []

    async def busy() -> None:
        while True:
            await trio.sleep(0.1)
            seen.append(precedence.is_wanted)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        began = trio.current_time()
        await patience.wait_rest()
        assert trio.current_time() - began <= 0.5
        assert not any(seen), "it is not due yet"
        nursery.cancel_scope.cancel()
    assert not precedence.is_wanted, "nobody waits for a batch that is made"


def test_what_one_gathers_does_not_end_the_hurry_of_the_other() -> None:
    async def main() -> None:
        precedence = Precedence()
        one, other = object(), object()
        precedence.batch_due(one, trio.current_time())
        precedence.batch_due(other, float("inf"))
        assert precedence.is_wanted
        precedence.batch_due(one, float("inf"))
        assert not precedence.is_wanted

    trio.run(main)


async def test_a_wait_for_rest_lasts_as_long_as_others_have_work() -> None:
    turns = 0

    async def works(n: int) -> None:
        nonlocal turns
        for _ in range(n):
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(works, 50)
        await wait_rest()
        assert turns == 50


async def test_a_wait_for_rest_ends_where_there_is_none() -> None:
    async def never_rests() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(never_rests)
        began = trio.current_time()
        with trio.fail_after(20):
            await wait_rest(0.02)
        assert trio.current_time() - began >= 0.02
        nursery.cancel_scope.cancel()
