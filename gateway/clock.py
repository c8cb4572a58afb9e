"""Time as a collaborator: every actor is given one Clock; machines get its readings as arguments.

Deadlines inside a process are monotonic seconds. Persisted times are Unix milliseconds, which never go back here, even
when the wall clock is set back, so that a TTL is never lengthened.

`DevelopmentClock` can be moved forward (`pushgw clock advance`), which moves both readings and wakes every sleeper
whose deadline has come. It is for rehearsals and the demo; `[dev] clock = true` says so loudly at start.
"""

from __future__ import annotations

import math
import time
from typing import Protocol

import trio


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds; never goes back."""
        ...

    def unix_ms(self) -> int:
        """Unix milliseconds; never goes back within this process."""
        ...

    async def sleep_until(self, deadline: float) -> None:
        """Returns when `monotonic()` has reached the deadline; `math.inf` sleeps for ever."""
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

    async def sleep_until(self, deadline: float) -> None:
        await trio.sleep_until(deadline)


class DevelopmentClock:
    """The machine's clocks plus an offset that only grows."""

    def __init__(self) -> None:
        self._system = SystemClock()
        self._offset_s = 0.0
        self._moved = trio.Event()

    def monotonic(self) -> float:
        return self._system.monotonic() + self._offset_s

    def unix_ms(self) -> int:
        return self._system.unix_ms() + int(self._offset_s * 1000)

    def advance(self, seconds: float) -> None:
        """Both readings are `seconds` later afterwards, and sleepers look again. Raises ValueError below 0."""
        if not 0 <= seconds < math.inf:
            raise ValueError(f"advance by {seconds} s, expected 0 or more")
        self._offset_s += seconds
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def sleep_until(self, deadline: float) -> None:
        while True:
            left_s = deadline - self.monotonic()
            if left_s <= 0:
                await trio.lowlevel.checkpoint()
                return
            with trio.move_on_after(left_s):
                await self._moved.wait()
