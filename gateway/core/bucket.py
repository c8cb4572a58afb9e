"""TokenBucket: how many rows a lane may send now. Take k of n; counts, never rows.

The level rises by `rate_per_s` up to `burst` and is settled whenever somebody asks: no timer. A lane takes what it
may, sends that many rows, and sleeps until `next_deadline`. What could not be sent after all goes back.

Daily quotas are a limit of another kind (they end at the vendor's midnight) and will stand beside this class, with
the same `take` and `give_back`.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class BucketStatistics(NamedTuple):
    """level: tokens as of the last call. taken: since start, less what was given back."""

    rate_per_s: float
    burst: int
    level: float
    taken: int


class TokenBucket:
    """A full bucket at `now`. In any span of t seconds at most burst + rate * t rows are let through."""

    __slots__ = ("_burst", "_level", "_rate_per_s", "_settled_at", "_taken")

    def __init__(self, rate_per_s: float, burst: int, *, now: float) -> None:
        """rate_per_s: 0 (nothing after the burst) to math.inf (no limit). burst: rows, at least 1.

        Raises ValueError for other values.
        """
        _check(rate_per_s, burst)
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._level = float(burst)
        self._settled_at = now
        self._taken = 0

    def take(self, now: float, wanted: int) -> int:
        """How many of `wanted` rows may go now; they are taken."""
        self._settle(now)
        if self._rate_per_s == math.inf:
            granted = wanted
        else:
            granted = min(wanted, int(self._level))
            self._level -= granted
        self._taken += granted
        return granted

    def give_back(self, count: int) -> None:
        """Rows that were taken and did not go. The level never passes the burst."""
        self._level = min(self._level + count, float(self._burst))
        self._taken -= count

    def next_deadline(self, wanted: int = 1) -> float | None:
        """The time when `wanted` rows (the burst at most) may go; in the past if they may now; None for never."""
        goal = min(wanted, self._burst)
        if self._level >= goal or self._rate_per_s == math.inf:
            return self._settled_at
        if self._rate_per_s == 0:
            return None
        deadline = self._settled_at + (goal - self._level) / self._rate_per_s
        # Rounding may put the sum a hair too early, and a lane that wakes for nothing would sleep for 0 s again.
        nudge = math.ulp(deadline)
        while self._level_at(deadline) < goal:
            deadline += nudge
            nudge *= 2
        return deadline

    def set_rate(self, now: float, rate_per_s: float, burst: int) -> None:
        """Changes the limits from now on; what was earned at the old rate stays, up to the new burst.

        Raises ValueError as the constructor does; then nothing changed.
        """
        _check(rate_per_s, burst)
        self._settle(now)
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._level = min(self._level, float(burst))

    def statistics(self) -> BucketStatistics:
        return BucketStatistics(self._rate_per_s, self._burst, self._level, self._taken)

    def _settle(self, now: float) -> None:
        # A clock that stepped back earns nothing and starts anew from there: neither a burst out of nothing nor a
        # lane that stands still until the clock has caught up.
        self._level = self._level_at(now)
        self._settled_at = now

    def _level_at(self, now: float) -> float:
        if now <= self._settled_at:
            return self._level
        if self._rate_per_s == math.inf:
            return float(self._burst)
        return min(self._level + (now - self._settled_at) * self._rate_per_s, float(self._burst))


def _check(rate_per_s: float, burst: int) -> None:
    if not rate_per_s >= 0:
        raise ValueError(f"rate_per_s is {rate_per_s}, expected 0 or more")
    if burst < 1:
        raise ValueError(f"burst is {burst}, expected 1 or more")
