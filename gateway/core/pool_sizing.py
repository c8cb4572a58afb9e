"""How many connections a pool wants: Little's law, decided before rows queue, undone when the need is long gone.

    requests in flight = rate x latency                       (Little, 1961; holds for any arrivals)
    connections wanted = rate x latency x head room / streams that one connection takes

Rate is what is sent, and what waits if it is to leave within a second, at most what the token bucket lets through;
latency is measured as the area under the open requests over the requests that ended, so that no request is timed by
itself. `Load` measures, `connections_wanted` and `next_step` decide. Time is an argument.

Two things are not believed at once. The stream limit of a connection that has not answered yet: APNs allows one stream
until the first accepted token. And full connections: a new one is opened for them only when rows have found no room for
`PATIENCE_S`, since answers may be on their way.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

#: Wanted above what Little's law asks for: a connection is never planned fuller than 80 %.
HEAD_ROOM = 1.25
#: Rows that wait are to leave within so many seconds.
CATCH_UP_S = 1.0
#: Assumed before the first answer: a round trip to a vendor and its own work (facts/field-notes.md: 40 to 300 ms).
LATENCY_S_START = 0.1
#: Rows may find all connections full for so long before another is opened: a round trip around the world, as a TLS
#: handshake takes several.
PATIENCE_S = 0.25
#: Length of a measurement. The rate is half that of the newest; latency is looked at over about two seconds, since few
#: requests may end within one window.
_WINDOW_S = 0.25
_RATE_KEPT = 0.5
_LATENCY_KEPT = 0.88


class Load:
    """Measures rate and latency of the requests of one kind."""

    __slots__ = ("_area", "_ended", "_folded_at", "_seen_at", "_sent", "in_flight", "latency_s", "rate_per_s")

    def __init__(self, now: float) -> None:
        self.in_flight = 0
        self.rate_per_s = 0.0
        self.latency_s = LATENCY_S_START
        #: Requests sent since the last measurement; request seconds and requests ended, older ones counting less.
        self._sent = 0
        self._area = 0.0
        self._ended = 0.0
        self._folded_at = now
        self._seen_at = now

    def on_sent(self, requests: int, now: float) -> None:
        self._advance(now)
        self.in_flight += requests
        self._sent += requests

    def on_ended(self, requests: int, now: float) -> None:
        self._advance(now)
        self.in_flight -= requests
        self._ended += requests

    def measure(self, now: float) -> None:
        """Rate and latency are as of now, if a window has passed."""
        self._advance(now)
        elapsed_s = now - self._folded_at
        if elapsed_s < _WINDOW_S:
            return
        # Several windows without a look count as one each.
        windows = elapsed_s / _WINDOW_S
        kept = _RATE_KEPT**windows
        self.rate_per_s = kept * self.rate_per_s + (1 - kept) * self._sent / elapsed_s
        if self._ended >= 1:
            self.latency_s = self._area / self._ended
        elif self.in_flight:
            # Nobody has answered: it takes at least as long as this.
            self.latency_s = max(self.latency_s, self._area / self.in_flight)
        kept = _LATENCY_KEPT**windows
        self._area, self._ended = kept * self._area, kept * self._ended
        self._sent, self._folded_at = 0, now

    def _advance(self, now: float) -> None:
        self._area += self.in_flight * max(0.0, now - self._seen_at)
        self._seen_at = max(self._seen_at, now)


def connections_wanted(
    *, rate_per_s: float, latency_s: float, in_flight: int, waiting: int, streams: int, rate_per_s_max: float
) -> int:
    """Connections for this load; 0 for none. waiting: rows that want to leave. streams: of one connection, at least 1.
    rate_per_s_max: what the token bucket lets through."""
    if not in_flight and not waiting:
        return 0
    rate = min(rate_per_s + waiting / CATCH_UP_S, max(rate_per_s_max, rate_per_s))
    return max(1, math.ceil(rate * latency_s * HEAD_ROOM / streams))


class Kind(NamedTuple):
    """Connections and rows of one role, as `next_step` sees them.

    connections: open ones and those on their way; on_the_way: of those. wanted: as above. starved_s: how long rows have
    found no room at all, 0 while they do or there are none. most: connections it may have. due: those it may have
    whatever the other role wants; those of both roles add up to all that may be.
    """

    connections: int
    on_the_way: int
    wanted: int
    starved_s: float
    most: int
    due: int


class Step(enum.Enum):
    NOTHING = "nothing"
    OPEN = "open"
    #: One of the other role's connections changes its role.
    TAKE_OVER = "take_over"


def next_step(mine: Kind, other: Kind, connections_max: int) -> Step:
    """What one role is to do now. One connection is on its way at a time."""
    is_starved = mine.starved_s >= PATIENCE_S
    if mine.on_the_way or mine.connections >= mine.most or not (mine.wanted > mine.connections or is_starved):
        return Step.NOTHING
    if mine.connections + other.connections < connections_max:
        return Step.OPEN
    has_spare = other.connections > other.wanted and not other.starved_s
    if (is_starved or not mine.connections) and (mine.connections < mine.due or has_spare):
        return Step.TAKE_OVER
    return Step.NOTHING


class Surplus:
    """Which connections were not needed for long. It remembers when each number of connections was last wanted."""

    __slots__ = ("_idle_s", "_wanted_at")

    def __init__(self, connections_max: int, idle_s: float, now: float) -> None:
        self._idle_s = idle_s
        self._wanted_at = [now] * (connections_max + 1)

    def on_wanted(self, connections: int, now: float) -> None:
        """So many connections are in use or wanted now."""
        for number in range(min(connections, len(self._wanted_at) - 1) + 1):
            self._wanted_at[number] = max(self._wanted_at[number], now)

    def is_surplus(self, connections: int, now: float) -> bool:
        """One of so many connections may go."""
        if not connections:
            return False
        return now - self._wanted_at[min(connections, len(self._wanted_at) - 1)] >= self._idle_s
