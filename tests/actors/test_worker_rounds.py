"""What the supervisor asks all workers: signs of life and gauges, one worker after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from gateway.actors.worker_process import STUCK_S, WATCH_S
from gateway.actors.worker_rounds import ASKED_S, HEARD_S, REFRESH_S, WorkerRounds
from gateway.wire.worker_control import Message, Ping, Refresh


class Worker:
    """Notes when it is asked what; answers when the test does."""

    def __init__(self, *, is_running: bool = True) -> None:
        self.is_running = is_running
        self.asked: list[tuple[float, Message]] = []

    def send(self, message: Message) -> None:
        self.asked.append((trio.current_time(), message))


class Setting:
    def __init__(self, workers: list[Worker]) -> None:
        self.workers, self.began, self.before = workers, trio.current_time(), 0
        self.rounds = WorkerRounds(workers, self._count)
        self.done: list[float] = []

    def _count(self) -> None:
        self.before += 1

    def asked(self, worker: int) -> list[tuple[float, Message]]:
        return [(round(at - self.began, 6), message) for at, message in self.workers[worker].asked]

    def refresh(self) -> None:
        self.rounds.refresh(lambda: self.done.append(round(trio.current_time() - self.began, 6)))


@asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[Setting]:
    setting = Setting(list(workers))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.rounds.run)
        await wait_all_tasks_blocked()
        yield setting
        nursery.cancel_scope.cancel()


async def test_signs_of_life_are_asked_of_one_worker_after_the_other(autojump_clock: trio.abc.Clock) -> None:
    workers = [Worker() for _ in range(4)]
    setting = Setting(workers)
    with trio.move_on_after(2 * WATCH_S + 0.01):
        await setting.rounds.watch()
    steps = [WATCH_S * (place + 1) / 4 for place in range(4)]
    for worker, at in enumerate(steps):
        assert setting.asked(worker) == [(at, Ping(round=0)), (at + WATCH_S, Ping(round=0))]
    # Several may go unanswered before a worker is killed for it.
    assert 3 * WATCH_S <= STUCK_S


async def test_gauges_are_asked_for_one_worker_after_the_other(autojump_clock: trio.abc.Clock) -> None:
    async with running(Worker(), Worker(), Worker(is_running=False)) as setting:
        setting.refresh()
        await wait_all_tasks_blocked()
        assert [len(setting.asked(worker)) for worker in range(3)] == [1, 0, 0]
        setting.rounds.answered(1, 0)
        await wait_all_tasks_blocked()
        # Nobody is waited for who does not run.
        assert [len(setting.asked(worker)) for worker in range(3)] == [1, 1, 0]
        assert setting.done == []
        setting.rounds.answered(1, 1)
        await wait_all_tasks_blocked()
        assert (setting.done, setting.before) == ([0.0], 1)


async def test_slow_worker_keeps_the_others_waiting_for_a_moment_only(autojump_clock: trio.abc.Clock) -> None:
    async with running(*(Worker() for _ in range(4))) as setting:
        setting.refresh()
        await trio.sleep(ASKED_S + 0.01)
        asked_at = [setting.asked(worker)[0][0] for worker in range(4)]
        assert asked_at == [0.0, *(round(ASKED_S * place / 4, 6) for place in (1, 2, 3))]
        for worker in (1, 2, 3):
            setting.rounds.answered(1, worker)
        await trio.sleep(REFRESH_S)
        assert setting.done == [REFRESH_S]
        # An answer that comes after all is nobody's.
        setting.rounds.answered(1, 0)


async def test_worker_that_ends_is_not_waited_for(autojump_clock: trio.abc.Clock) -> None:
    async with running(Worker(), Worker()) as setting:
        setting.refresh()
        await wait_all_tasks_blocked()
        setting.rounds.answered(1, 0)
        setting.rounds.ended(1)
        await wait_all_tasks_blocked()
        assert setting.done == [0.0]


async def test_scrapes_at_once_share_the_next_round(autojump_clock: trio.abc.Clock) -> None:
    async with running(Worker()) as setting:
        setting.refresh()
        await wait_all_tasks_blocked()
        for _ in range(3):
            setting.refresh()
        setting.rounds.answered(1, 0)
        await wait_all_tasks_blocked()
        assert setting.done == [0.0]
        setting.rounds.answered(2, 0)
        await wait_all_tasks_blocked()
        assert setting.done == [0.0] * 4
        assert [message for _, message in setting.asked(0)] == [Refresh(round=1), Refresh(round=2)]


async def test_restart_waits_until_all_have_read_or_do_not_read(autojump_clock: trio.abc.Clock) -> None:
    async with running(Worker(), Worker()) as setting, trio.open_nursery() as nursery:
        waits = trio.Event()

        async def wait() -> None:
            await setting.rounds.wait_heard()
            setting.done.append(round(trio.current_time() - setting.began, 6))
            waits.set()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert [setting.asked(worker) for worker in (0, 1)] == [[(0.0, Ping(round=1))]] * 2
        setting.rounds.answered(1, 1)
        await wait_all_tasks_blocked()
        assert setting.done == []
        setting.rounds.answered(1, 0)
        await waits.wait()
        nursery.start_soon(wait)
        await trio.sleep(2 * HEARD_S)
        assert setting.done == [0.0, HEARD_S]
