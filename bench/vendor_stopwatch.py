"""A stopwatch on the rows of one vendor, laid around the parts of a worker from outside; it changes nothing of them.

    due --> submitted, routed, queued --> taken by the lane --> handed to the kernel ~~> answer readable --> verdict
    |                                     '------- added -------'                        '----- added -----'
    '------------------------------------------- whole ------------------------------------------------------'

Taken: `Lane.take` has given the row out. Handed: `BurstTiming.handed_s` of the connection. Verdict: the row's state is
VENDOR_ACCEPTED in its page. Readable is when the loop's poll returned; when it returned at once the answer may have
waited since the poll before, and that time is taken: an upper bound. Kept per page in columns; one call per burst.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
import trio

from bench.harness import Line
from gateway.columns import Rows
from gateway.ledger import LedgerPage, State

Floats = npt.NDArray[np.float64]
#: A poll that took longer has waited: what it reports is new.
_BLOCKED_S = 20e-6


class _Times:
    """Of one page. due: seconds on trio's clock, one for all. taken, handed: (rows,)."""

    def __init__(self, page: LedgerPage, due: float) -> None:
        self.page = page
        self.due = due
        n = len(page.state)
        self.taken: Floats = np.full(n, np.nan)
        self.handed: Floats = np.full(n, np.nan)


class Stopwatch(trio.abc.Instrument):
    """connections: those whose bursts are timed, all of one vendor and at most one open; none: only `whole_s`."""

    def __init__(self, worker: Any, built: Any, connections: list[Any]) -> None:
        self._worker = worker
        self._lanes = [actor.lane for actor in built.lanes]
        self._channel = built.channel
        self._connections = connections
        self._pages: dict[int, _Times] = {}
        self._due: deque[tuple[int, float]] = deque()
        self._sends: deque[tuple[_Times, Rows]] = deque()
        self._polled = self._returned = self._readable = 0.0
        self.added_s: list[Floats] = []
        self.whole_s: list[Floats] = []

    def __enter__(self) -> Stopwatch:
        trio.lowlevel.add_instrument(self)
        for connection in self._connections:
            connection.take_timings()
        for lane in self._lanes:
            self._wrap_take(lane)
        self._wrap_move(self._worker.home)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)
        for lane in self._lanes:
            del lane.take
        del self._worker.home.move

    def reset(self) -> None:
        """What was measured is forgotten; no row may be open."""
        for each in (self._pages, self._due, self._sends, self.added_s, self.whole_s):
            each.clear()

    def due(self, rows: int, at: float) -> None:
        """The next rows of the app were to be submitted at that time."""
        self._due.append((rows, at))

    # -- the loop

    def before_io_wait(self, timeout: float) -> None:
        self._polled = trio.current_time()

    def after_io_wait(self, timeout: float) -> None:
        now = trio.current_time()
        self._readable = now if now - self._polled > _BLOCKED_S else self._returned
        self._returned = now

    # -- the worker's parts

    def _wrap_take(self, lane: Any) -> None:
        take = lane.take

        def timed(now: float, room: int) -> Any:
            slice_ = take(now, room)
            if slice_ is not None:
                self._times(slice_.page).taken[slice_.rows] = trio.current_time()
            return slice_

        lane.take = timed

    def _wrap_move(self, home: Any) -> None:
        move = home.move

        def timed(page: LedgerPage, rows: Rows, state: State, *others: Any, **named: Any) -> Any:
            result = move(page, rows, state, *others, **named)
            times = self._pages.get(id(page))
            if times is not None:
                if state is State.IN_FLIGHT:
                    self._sends.append((times, rows))
                elif state is State.VENDOR_ACCEPTED:
                    self._on_verdict(times, rows, trio.current_time())
            return result

        home.move = timed

    def _times(self, page: LedgerPage) -> _Times:
        times = self._pages.get(id(page))
        if times is None:
            times = self._pages[id(page)] = _Times(page, self._claim(len(page.state)))
        return times

    def _claim(self, rows: int) -> float:
        """When the first of so many rows was due; pages come in the order of their submits."""
        first = self._due[0][1]
        while rows > 0:
            n, at = self._due.popleft()
            if n > rows:
                self._due.appendleft((n - rows, at))
            rows -= n
        return first

    def _on_verdict(self, times: _Times, rows: Rows, now: float) -> None:
        self.whole_s.append(np.full(len(rows), now - times.due))
        if not self._connections:
            return
        for connection in self._connections:
            for timing in connection.take_timings():
                sent, sent_rows = self._sends.popleft()
                assert timing.rows == len(sent_rows), "bursts and timings are out of step"
                sent.handed[sent_rows] = timing.handed_s
        self.added_s.append(times.handed[rows] - times.taken[rows] + now - self._readable)


def percentiles(samples: list[Floats]) -> Line:
    """In milliseconds, with the number of rows."""
    values = np.concatenate(samples) * 1000 if samples else np.zeros(1)
    assert not np.isnan(values).any(), "a row was not timed"
    p50, p99, p999 = np.percentile(values, [50, 99, 99.9])
    figures = {"p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "max_ms": values.max()}
    return {"rows": len(values), **{name: round(float(value), 3) for name, value in figures.items()}}
