"""The loop budget as a measurement: the longest step, who made it, and how late timers fire (DESIGN.md section 4).

A *step* is what one task does between two checkpoints: nothing else runs meanwhile. `StepWatch` is a trio instrument
that reads the clock after each step: steps follow each other within a turn of the loop, so the end of one is the
beginning of the next, and a turn begins when the wait for I/O is over. Only steps above `step_s_max` cost more.
Measured: 1.3 to 1.8 us per step beside trio's own 4, when it read the clock twice (200,000 empty steps, 2-core
machine). Steps are per burst and not per row, so it is always on. A trio task is the unit trio schedules; work
in threads is not seen here and shows as loop lag when it holds the interpreter.

*Loop lag* is how late a timer fires: `watch_lag` sleeps to a moment and compares. It finds what steps cannot show: many
short steps in a row, garbage collection, a machine that gives us no time. It looks more often the busier the loop is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import trio

from gateway.observe.metrics import Metrics


class LongestStep(NamedTuple):
    """The longest step since it was last taken. task: name of the task; "" when there was no step."""

    duration_s: float
    task: str


class StepWatch(trio.abc.Instrument):
    """Times every step of every task. One per event loop; not thread-safe. clock: in seconds."""

    def __init__(
        self, metrics: Metrics, *, step_s_max: float = 0.002, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._floor_s = step_s_max
        # It may be added in the middle of a step, whose end it then sees without its beginning.
        self._started = clock()
        self._longest_s = 0.0
        self._longest_task = ""
        self.steps = 0

    def after_io_wait(self, timeout: float) -> None:
        self._started = self._clock()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        now = self._clock()
        duration_s, self._started = now - self._started, now
        self.steps += 1
        if duration_s > self._longest_s:
            self._longest_s = duration_s
            self._longest_task = task.name
            self._metrics.longest_step_s.raise_to(duration_s)
        if duration_s > self._floor_s:
            self._metrics.step_s.observe(duration_s, short_task_name(task.name))

    def take_longest(self) -> LongestStep:
        """The longest step since the last call; starts over."""
        taken = LongestStep(self._longest_s, self._longest_task)
        self._longest_s, self._longest_task = 0.0, ""
        return taken


def short_task_name(name: str) -> str:
    """`gateway.actors.lane.Lane.run` -> `lane.Lane.run`: the last three parts, so that labels stay readable."""
    return ".".join(name.replace("<locals>.", "").split(".")[-3:])


#: A quiet loop is sampled less and less often, at last so many intervals apart: what wakes it a hundred times a second
#: costs 3 % of a core (12 quiet workers: a third of one; at 16 intervals it was half of what they did at all), and who
#: comes late there is seen by the sample that follows.
_QUIET_INTERVALS_MAX = 64
#: Share of the time on the CPU from which on a loop is not quiet.
_QUIET_SHARE = 0.25


async def watch_lag(
    metrics: Metrics, *, interval_s: float = 0.01, cpu_clock: Callable[[], float] = time.thread_time
) -> None:
    """Samples the loop lag for ever; each sample is one timer. interval_s: between samples of a busy loop.

    If cancelled: stops at once.
    """
    pause_s = interval_s
    while True:
        used_s = cpu_clock()
        wanted = trio.current_time() + pause_s
        await trio.sleep_until(wanted)
        lag_s = max(0.0, trio.current_time() - wanted)
        metrics.loop_lag_s.observe(lag_s)
        metrics.longest_lag_s.raise_to(lag_s)
        is_quiet = cpu_clock() - used_s < _QUIET_SHARE * pause_s
        pause_s = min(2 * pause_s, _QUIET_INTERVALS_MAX * interval_s) if is_quiet else interval_s
