"""Probing: which tokens go over probe connections, how long they wait for one, how many are risked at once.

Why (DESIGN.md section 5; facts/field-notes.md section 5, pushy #476): after any rejection APNs allows one stream until
the next success and resets the excess ones. A bad token on a busy connection therefore stalls a thousand good ones. A
token is *proven* once the vendor took a message for it (or its app vouches for it); until then its rows go over
connections of their own, where they stall nobody but each other.

    row --proven--> normal connections
     |  unproven
     '--> backlog --> probe connections --ACCEPTED--> token is proven
             |                          '-rejected--> token is dead, muted or suspect (unproven again)
             '-- waited too long --> normal connections, counted

Decisions only: time is an argument, and rows are counts.
"""

from __future__ import annotations

import math
from collections import deque

#: Connections that may be probes, of all that a pool may have. With fewer than two there is nothing to divide.
PROBE_SHARE = 0.5
#: Marks that the backlog keeps of when rows entered; a row waits at most wait_s / 64 less than it may.
_MARKS = 64
#: Requests risked at once on a connection that has said nothing yet: half a burst of a small batch.
_WINDOW_START = 64
#: Fewest: one round trip for each token would take minutes for a thousand of them.
_WINDOW_MIN = 8
#: Most: what APNs grants is 1,000 streams; a larger number is never reached.
_WINDOW_MAX = 65_536


def probes_max(connections_max: int) -> int:
    """Probe connections that a pool may have; 0: it does not probe."""
    return int(connections_max * PROBE_SHARE)


class ProbeBacklog:
    """How many of the rows that wait for a probe have waited too long. Rows leave in the order in which they entered;
    rows that come back without having been processed stand first again, as old as they were.

    So nothing need be kept per row: of w waiting rows those are overdue that are not among the ones that entered
    within the last wait_s seconds.
    """

    __slots__ = ("_grain_s", "_marks", "_recent", "_wait_s")

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._grain_s = wait_s / _MARKS
        #: (when, rows that entered from then on until the next mark), oldest first.
        self._marks: deque[tuple[float, int]] = deque()
        self._recent = 0

    def on_entered(self, rows: int, now: float) -> None:
        if self._marks and now - self._marks[-1][0] < self._grain_s:
            at, before = self._marks[-1]
            self._marks[-1] = (at, before + rows)
        else:
            self._marks.append((now, rows))
        self._recent += rows

    def overdue(self, waiting: int, now: float) -> int:
        """Of so many rows that wait now, those that may wait no longer."""
        self._forget(now)
        return max(0, waiting - self._recent)

    def next_deadline(self, waiting: int, now: float) -> float:
        """When the first of so many waiting rows becomes overdue; now if one is, `math.inf` if none waits."""
        if not waiting:
            return math.inf
        if self.overdue(waiting, now):
            return now
        newer = 0
        for at, rows in reversed(self._marks):
            newer += rows
            if newer >= waiting:
                return at + self._wait_s
        return now

    def _forget(self, now: float) -> None:
        marks = self._marks
        while marks and marks[0][0] + self._wait_s <= now:
            self._recent -= marks.popleft()[1]


class ProbeWindow:
    """Requests that may be in flight at once on a connection that carries probes.

    The first rejection among them has the rest reset, which costs both sides their work and brings nothing. So the
    window is twice the run of acceptances seen between rejections, and grows by what is accepted while there are none:
    a campaign of good new tokens has the whole connection after a few round trips.
    """

    __slots__ = ("_run", "rows")

    def __init__(self) -> None:
        self.rows = _WINDOW_START
        self._run = 0

    def on_answers(self, accepted: int, rejected: int) -> None:
        if rejected:
            self.rows = min(max(2 * (self._run + accepted) // rejected, _WINDOW_MIN), _WINDOW_MAX)
            self._run = 0
        else:
            self._run += accepted
            self.rows = min(self.rows + accepted, _WINDOW_MAX)

    def room(self, open_requests: int) -> int:
        return max(0, self.rows - open_requests)
