"""The loop budget as it is measured: long steps are found with their task, lag with its size."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from gateway.observe.loop_lag import LongestStep, StepWatch, short_task_name, watch_lag
from gateway.observe.metrics import Metrics


def burn(seconds: float) -> None:
    """Holds the loop: the fault that the watch is there to find."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def short_steps() -> None:
    for _ in range(100):
        await trio.lowlevel.checkpoint()


async def one_long_step() -> None:
    await trio.lowlevel.checkpoint()
    burn(0.05)
    await trio.lowlevel.checkpoint()


def run_watched(*tasks: object) -> tuple[StepWatch, Metrics]:
    metrics = Metrics()
    watch = StepWatch(metrics, step_s_max=0.03)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)  # type: ignore[arg-type]

    trio.run(main, instruments=[watch])
    return watch, metrics


def test_longest_step_is_found_with_its_task() -> None:
    watch, metrics = run_watched(short_steps, one_long_step)
    longest = watch.take_longest()
    assert longest.duration_s >= 0.05
    assert longest.task.endswith("one_long_step")
    assert metrics.longest_step_s.value() == longest.duration_s
    assert metrics.step_s.count(short_task_name(longest.task)) == 1
    assert watch.steps > 100


def test_short_steps_are_not_counted_as_long() -> None:
    _, metrics = run_watched(short_steps)
    assert not any("short_steps" in name for name in metrics.step_s.labels[0].values)


def test_step_begins_where_the_one_before_ended_and_waiting_is_none() -> None:
    """By a clock that the tasks move, and the wait for I/O."""
    now = 0.0
    watch = StepWatch(Metrics(), clock=lambda: now)

    class Waiting(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            nonlocal now
            now += 1000.0

    async def work(seconds: float) -> None:
        nonlocal now
        for _ in range(3):
            now += seconds
            await trio.sleep(0.001)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for seconds in (1.0, 5.0, 2.0):
                nursery.start_soon(work, seconds)

    trio.run(main, instruments=[Waiting(), watch])
    assert watch.take_longest().duration_s == 5.0


def test_taking_the_longest_step_starts_over() -> None:
    watch, _ = run_watched(one_long_step)
    watch.take_longest()
    assert watch.take_longest() == LongestStep(0.0, "")


def test_lag_is_how_late_a_timer_fires() -> None:
    metrics = Metrics()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: watch_lag(metrics, interval_s=0.001))
            await trio.testing.wait_all_tasks_blocked()
            burn(0.05)
            while not metrics.loop_lag_s.count():
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert metrics.longest_lag_s.value() >= 0.045


async def test_lag_of_an_idle_loop_is_nothing_and_is_looked_for_ever_less_often(
    autojump_clock: trio.testing.MockClock,
) -> None:
    metrics = Metrics()
    with trio.move_on_after(0.63 + 10 * 0.64 + 0.005):
        await watch_lag(metrics, interval_s=0.01, cpu_clock=lambda: 0.0)
    # 10, 20, 40, 80, 160 and 320 ms, then 640 ms each
    assert metrics.loop_lag_s.count() == 16
    assert metrics.longest_lag_s.value() == pytest.approx(0.0, abs=1e-9)


async def test_lag_of_a_loop_that_becomes_busy_is_looked_for_at_every_interval(
    autojump_clock: trio.testing.MockClock,
) -> None:
    metrics = Metrics()
    with trio.move_on_after(1.005):
        # half of the time on the CPU
        await watch_lag(metrics, interval_s=0.01, cpu_clock=lambda: trio.current_time() / 2)
    assert metrics.loop_lag_s.count() == 100


def test_task_names_are_shortened_to_what_tells_them_apart() -> None:
    assert short_task_name("gateway.actors.lane.Lane.run") == "lane.Lane.run"
    assert short_task_name("a.b.serve.<locals>.inner") == "b.serve.inner"
    assert short_task_name("main") == "main"
