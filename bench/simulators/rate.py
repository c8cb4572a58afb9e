"""Rates of a vendor: one token bucket for the whole project, and fixed windows per device. Time is an argument."""

from __future__ import annotations


class TokenBucket:
    """Messages per second with a burst; rate 0 means no limit."""

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self.rate_per_s = rate_per_s
        self.burst = max(burst, 1.0)
        self._level = self.burst
        self._last = now

    def take(self, now: float, n: int = 1) -> float:
        """Take n messages; returns 0.0 when allowed, else the seconds until one will be.

        A request of many rows passes when one row would and leaves the bucket in debt: no vendor cuts a request.
        """
        if self.rate_per_s <= 0:
            return 0.0
        self._level = min(self.burst, self._level + max(0.0, now - self._last) * self.rate_per_s)
        self._last = max(self._last, now)
        if self._level >= 1.0:
            self._level -= n
            return 0.0
        return (1.0 - self._level) / self.rate_per_s


class DeviceWindow:
    """At most `limit` messages per device in each fixed window; limit 0 means no limit.

    Memory is bounded by `devices_max`: when more devices were seen in one window, all are forgotten at once, so the
    simulator errs to the lenient side and `forgotten_windows` counts it.
    """

    def __init__(self, limit: int, window_s: float, devices_max: int = 500_000) -> None:
        self.limit = limit
        self.window_s = window_s
        self.devices_max = devices_max
        self.forgotten_windows = 0
        self._window_index = -1
        self._counts: dict[str, int] = {}

    def take(self, device: str, now: float) -> float:
        """Count one message for `device`; returns 0.0 when allowed, else the seconds until the window ends."""
        if self.limit <= 0:
            return 0.0
        index = int(now // self.window_s)
        if index != self._window_index:
            self._window_index = index
            self._counts.clear()
        count = self._counts.get(device, 0)
        if count >= self.limit:
            return (index + 1) * self.window_s - now
        if not count and len(self._counts) >= self.devices_max:
            self._counts.clear()
            self.forgotten_windows += 1
        self._counts[device] = count + 1
        return 0.0
