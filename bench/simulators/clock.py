"""The injected clock of the simulators: wall time plus an offset that the control port may advance.

Credential ages, vendor rates and the 20 and 60 minute rules of provider tokens are judged by this clock. Fault windows,
socket timeouts and latencies run on the loop's real time, and TLS looks at the machine's clock: an advance of 40 days
ends a quota or a TTL, it neither ends a fault nor makes a certificate expire.
"""

from __future__ import annotations

import time
from collections.abc import Callable

ADVANCE_S_MAX = 10 * 365 * 86_400.0  # ten years: beyond that 32-bit expiry fields would wrap, and nobody tests that


class Clock:
    """Wall clock in Unix seconds with an offset that only grows."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._offset_s = 0.0

    @property
    def offset_s(self) -> float:
        """Seconds by which this clock is ahead of the wall clock."""
        return self._offset_s

    def now_unix_s(self) -> float:
        """Unix time in seconds, offset included."""
        return self._wall() + self._offset_s

    def advance(self, seconds: float) -> float:
        """Move the clock forward and return the new offset in seconds.

        Raises:
            ValueError: seconds is negative, not finite, or the offset would pass ADVANCE_S_MAX.
        """
        if not 0 <= seconds <= ADVANCE_S_MAX or self._offset_s + seconds > ADVANCE_S_MAX:
            raise ValueError(f"advance of {seconds} s, limit {ADVANCE_S_MAX:.0f} s in all and never back")
        self._offset_s += seconds
        return self._offset_s
