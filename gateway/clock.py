"""Time as a collaborator: every actor is given one Clock; machines get its readings as arguments.

Deadlines inside a process are monotonic seconds. Persisted times are Unix milliseconds, which never go back here, even
when the wall clock is set back, so that a TTL is never lengthened.

`DevelopmentClock` can be moved forward (`pushgw clock advance`), which moves both readings and wakes every sleeper
whose deadline has come. It is for rehearsals and the demo; `[dev] clock = true` says so loudly at start.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import trio


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds; never goes back."""
        ...

    def unix_ms(self) -> int:
        """Unix milliseconds; never goes back within this process."""
        ...

    def move_on_at(self, deadline: float) -> AbstractContextManager[trio.CancelScope]:
        """As `trio.move_on_at`, for a deadline on this clock."""
        ...

    async def sleep_until(self, deadline: float) -> None:
        """Returns when `monotonic()` has reached the deadline; `math.inf` sleeps for ever."""
        ...

    def moved_between(self, start: float, stop: float) -> bool:
        """True when the clock was moved by hand between these two of its readings."""
        ...


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self._newest_unix_ms = 0

    def monotonic(self) -> float:
        return trio.current_time()

    def unix_ms(self) -> int:
        self._newest_unix_ms = max(self._newest_unix_ms, int(time.time() * 1000))
        return self._newest_unix_ms

    def move_on_at(self, deadline: float) -> AbstractContextManager[trio.CancelScope]:
        return trio.move_on_at(deadline)

    async def sleep_until(self, deadline: float) -> None:
        await trio.sleep_until(deadline)

    def moved_between(self, start: float, stop: float) -> bool:
        return False


class ElapsedUnix:
    """Unix milliseconds that go on with the monotonic clock from a first reading, or slower: where the wall clock is
    set forward, nothing of this process is older for it. read: Unix milliseconds; the clock's own without it."""

    def __init__(self, clock: Clock, read: Callable[[], int] | None = None) -> None:
        self._clock = clock
        self._read = read or clock.unix_ms
        self._first: tuple[float, int] | None = None

    def begin(self) -> None:
        """The first reading is taken, where none was."""
        self.unix_ms()

    def unix_ms(self) -> int:
        now, unix_ms = self._clock.monotonic(), self._read()
        if self._first is None:
            self._first = now, unix_ms
        since, first_unix_ms = self._first
        return min(unix_ms, first_unix_ms + int((now - since) * 1000))


class DevelopmentClock:
    """The machine's clocks plus an offset that only grows."""

    def __init__(self, offset_s: float = 0.0) -> None:
        """offset_s: by how much the clocks of the other workers have been moved before this one was started."""
        self._system = SystemClock()
        self._offset_s = offset_s
        self._scopes: set[trio.CancelScope] = set()
        #: The reading just before and just after each move.
        self._moves: list[tuple[float, float]] = []

    def monotonic(self) -> float:
        # As the system's: a call less, for one that is made several times per burst.
        return trio.current_time() + self._offset_s

    def unix_ms(self) -> int:
        return self._system.unix_ms() + int(self._offset_s * 1000)

    def advance(self, seconds: float) -> None:
        """Both readings are `seconds` later afterwards, and whoever waits for a time in between wakes.

        Raises ValueError below 0.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"advance by {seconds} s, expected 0 or more")
        before = self.monotonic()
        self._offset_s += seconds
        self._moves.append((before, before + seconds))
        for scope in list(self._scopes):
            scope.deadline -= seconds

    @contextmanager
    def move_on_at(self, deadline: float) -> Iterator[trio.CancelScope]:
        with trio.move_on_at(deadline - self._offset_s) as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    async def sleep_until(self, deadline: float) -> None:
        with self.move_on_at(deadline):
            await trio.sleep_forever()

    def moved_between(self, start: float, stop: float) -> bool:
        return any(start <= before and after <= stop for before, after in self._moves)
