"""Whether processors are short: how long this thread waits for one, beside how long it has one.

Linux counts both (Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat": nanoseconds on a processor, and
nanoseconds ready to run and waiting for one). A process that waits longer than it runs shares its processors with
others that are ready at the same time: each turn finds its caches used by them, and costs a multiple of what it does
alone. Whoever can choose between many small turns and few large ones asks here. Where the system does not say, they are
never short.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.observe.metrics import Metrics

_STATISTICS = "/proc/thread-self/schedstat"
#: Waits in relation to time on a processor, from which on they are short, and below which they are not any more: what
#: follows from it makes the waits shorter.
_SHORT, _ENOUGH = 1.0, 0.25
#: Less than this part of the time is nobody's trouble: an idle process waits longer than it runs at each turn.
_WAIT_SHARE_MIN = 0.02


class Times(NamedTuple):
    """Seconds since the thread began."""

    ran_s: float
    waited_s: float


class ProcessorWait:
    """Of the thread that asks."""

    def __init__(self, metrics: Metrics, path: str = _STATISTICS) -> None:
        self._metrics = metrics
        self._path = path
        self._last: tuple[float, Times] | None = None
        self._is_short = False

    def are_short(self, now: float) -> bool:
        """Whether they were since the last call; now: seconds of a monotonic clock. 30 us: once a second is enough."""
        times = self._times()
        last, self._last = self._last, (now, times)
        self._metrics.processor_wait_s.follow(max(times.waited_s, self._metrics.processor_wait_s.followed()))
        if last is None or now <= last[0]:
            return self._is_short
        ran_s, waited_s = times.ran_s - last[1].ran_s, times.waited_s - last[1].waited_s
        limit = _ENOUGH if self._is_short else _SHORT
        self._is_short = waited_s > limit * ran_s and waited_s > _WAIT_SHARE_MIN * (now - last[0])
        return self._is_short

    def _times(self) -> Times:
        try:
            with open(self._path, "rb", buffering=0) as stream:
                ran, waited = map(int, stream.read(128).split()[:2])
        except (OSError, ValueError):
            # A kernel without the statistics has no such file, or an empty one.
            return Times(0.0, 0.0)
        return Times(ran / 1e9, waited / 1e9)
