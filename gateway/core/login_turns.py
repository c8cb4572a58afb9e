"""LoginTurns: how much of a step of the long link goes to connections that want in. A machine; CPU time is an argument.

When a worker dies, thousands of devices come back at once, and a login costs a hundred times what an acknowledgement
does. A row for a vendor needs some eight turns of the loop, so each millisecond that a step gives to logins is eight
for it. So while others have work, logins get a share of a step, in the order in which they came; alone they get all:

    others used the loop since the last step, or lately   `shared_s` of CPU time in this step
    nobody else has used it for `HOLD_S`                  `alone_s`

Those that wait go on when others have nothing to do at the moment, or after `LOGINS_WAIT_S`.

What does not fit waits with its bytes, which the limits on handshakes bound; while more than a few wait, nobody is
accepted, so that a storm stays in the kernel's queue.

A login alone costs four times what it does among others: steps of its own for its accept, its CONNECT and its way from
another worker, each in caches that are cold. So in a storm (`came`) newcomers are taken every `STORM_REST_S`, together.
"""

from __future__ import annotations

import math

#: Between two steps, the loop alone costs less; whatever takes more was somebody's work.
OTHERS_S = 0.0005
#: Work of others comes in turns with waits between them.
HOLD_S = 0.05
#: Accepting is the cheaper part of letting somebody in, 15 to 25 us: a few hundred more of them in a step at most.
_ACCEPTS_SHARED = 16
_ACCEPTS_ALONE = 64
#: Waiting ones from which on nobody is accepted: two or more steps have work.
_WAITING_MAX = 64
#: A loop that is never at rest has a step of logins as often.
LOGINS_WAIT_S = 0.005
#: Newcomers within about `_STORM_S` that are a storm, 80 a second; whoever comes one after the other is none for long.
#: From so many on, some 500 a second, a step has company enough, and nobody should wait for more.
_STORM, _ENOUGH, _STORM_S = 8.0, 64.0, 0.1
#: What a device waits for others then. It has waited up to seconds before it came.
STORM_REST_S = 0.04


class LoginTurns:
    """shared_s, alone_s: CPU time for logins in a step."""

    __slots__ = ("_alone_s", "_came", "_came_at", "_ended_s", "_left_s", "_shared_s", "_shared_until")

    def __init__(self, shared_s: float, alone_s: float) -> None:
        self._shared_s = shared_s
        self._alone_s = alone_s
        self._shared_until = 0.0
        self._ended_s = 0.0
        self._left_s = alone_s
        #: Newcomers, each counting less the longer ago it came.
        self._came = self._came_at = 0.0

    def begin(self, cpu_s: float, now: float) -> None:
        """A step begins."""
        if cpu_s - self._ended_s > OTHERS_S:
            self._shared_until = now + HOLD_S
        self._left_s = self._shared_s if now < self._shared_until else self._alone_s

    def end(self, cpu_s: float) -> None:
        """The step is over."""
        self._ended_s = cpu_s

    @property
    def is_over(self) -> bool:
        """No login has a place in this step any more."""
        return self._left_s <= 0.0

    def spend(self, seconds: float) -> None:
        """A login took so long. The first of a step always has its place, however long it takes."""
        self._left_s -= seconds

    def accepts_max(self, waiting: int, now: float) -> int:
        """How many may be accepted at the end of this step."""
        if waiting >= _WAITING_MAX:
            return 0
        return _ACCEPTS_SHARED if now < self._shared_until else _ACCEPTS_ALONE

    def came(self, n: int, now: float) -> float:
        """So many newcomers were taken, all that were there: seconds for which others are left to gather."""
        self._came = self._came * math.exp((self._came_at - now) / _STORM_S) + n
        self._came_at = now
        return STORM_REST_S if _STORM <= self._came < _ENOUGH else 0.0
