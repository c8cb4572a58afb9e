"""When something that crashed is started again, and when it is given up. For actors and for worker processes.

The wait doubles with each crash within the window, so that a fault that stays does not eat the machine. One that
crashes `crashes_max` times within it gives up: ten crashes a minute are not an accident that the next start will heal,
and what cannot work must not look alive.
"""

from __future__ import annotations

CRASHES_MAX = 10
WINDOW_S = 60.0
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 5.0


class Restarts:
    """The crashes of one thing."""

    def __init__(self, crashes_max: int = CRASHES_MAX) -> None:
        self.crashes_max = crashes_max
        self._crashes: list[float] = []

    @property
    def count(self) -> int:
        """Crashes within the window that ended with the newest."""
        return len(self._crashes)

    @property
    def is_over(self) -> bool:
        """It crashed too often."""
        return self.count >= self.crashes_max

    def on_crash(self, now: float) -> float:
        """Seconds to wait before the next start."""
        self._crashes = [at for at in self._crashes if now - at < WINDOW_S]
        self._crashes.append(now)
        return float(min(BACKOFF_FIRST_S * 2 ** (self.count - 1), BACKOFF_MAX_S))
