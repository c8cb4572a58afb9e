"""When the long link takes its next step: at once, when a socket has something, or a moment later.

A step costs some 200 us however little it finds, most of it in caches that went cold since the one before. So a step
that did little is followed by a wait for the sockets, not by another step that would find nothing; and PUBACKs, which
no device waits for, are let come together, as network drivers let packets:

    few PUBACKs, nothing else, many rows in flight     the next step comes when enough for one are there by the rate at
                                                       which these came, sockets or not
    nothing, or many rows were sent; many in flight    the next that a socket asks for, `MANY_WAIT_S` after this one
    few PUBACKs, nothing else, some rows in flight     the next that a socket asks for, `FEW_GAP_S` after this one
    a few rows were sent, some are in flight           the same: the first PUBACK waits for the others
    anything else                                      the next that a socket asks for, at once

Whoever connects or says anything else meanwhile waits no longer than that.

Where processors are short (`is_short`), every small step waits for company, whatever it found, for `SHORT_GAP_S`: a
turn of the loop costs two to four times what it does alone there, since others have used the caches meanwhile, and all
of them wait for it. What devices wait for is not touched: rows are written when they come, not by steps.
"""

from __future__ import annotations

#: A step that did less is followed by a wait for the sockets.
SMALL_STEP = 16
#: PUBACKs: more are worth a step.
_FEW_ACKS = 256
#: Rows in flight from which on a further PUBACK is certain to come within `MANY_WAIT_S`.
_MANY_IN_FLIGHT = 256
#: How long the PUBACKs of one step came together at least. The next step is as much later as more of them are worth
#: one, so that two workers, each with half of the PUBACKs, take as many in a step as one; within what nobody notices.
MANY_WAIT_S = 0.002
MANY_WAIT_S_MAX = 0.008
#: The few rows of a small batch are answered by phones one after the other.
FEW_GAP_S = 0.005
#: The same for all small steps where processors are short. A phone that connects waits for one or two of them.
SHORT_GAP_S = 0.015


class StepPauses:
    """wait_s: how long the next step has time. gather_until: a step that a socket asks for before has time until then;
    0.0 for none."""

    def __init__(self) -> None:
        self.wait_s = 0.0
        self.gather_until = 0.0
        self.is_short = False
        """Processes wait for processors: observe/processor_wait.py."""
        #: Since when the answers came that the next step finds; None: nobody is to answer.
        self._since: float | None = None

    def end(self) -> None:
        """The next step comes as soon as a socket asks."""
        self.wait_s = self.gather_until = 0.0

    def on_step(self, now: float, n_reads: int, n_others: int, n_in_flight: int, *, is_cut: bool = False) -> None:
        """A step is over that found so many reads, and did so much beside settling PUBACKs. is_cut: there may be more
        already, which would not have fitted into it; where steps are small, few reads are a full one."""
        self.end()
        came_s = MANY_WAIT_S if self._since is None else max(MANY_WAIT_S, now - self._since)
        self._since = now if n_in_flight else None
        if is_cut or n_reads >= _FEW_ACKS:
            return
        if self.is_short and n_reads + n_others < SMALL_STEP and n_in_flight < _MANY_IN_FLIGHT:
            self.gather_until = now + SHORT_GAP_S
            return
        if n_others or not n_in_flight:
            return
        if n_in_flight < _MANY_IN_FLIGHT:
            self.gather_until = now + FEW_GAP_S if n_reads else 0.0
        elif n_reads:
            self.wait_s = min(came_s * _FEW_ACKS / n_reads, MANY_WAIT_S_MAX)
        else:
            self.gather_until = now + MANY_WAIT_S

    def on_delivered(self, now: float, n_in_flight: int) -> None:
        """Rows were sent beside the steps, and so many are in flight now."""
        if n_in_flight:
            if self._since is None:
                self._since = now
            few_s = SHORT_GAP_S if self.is_short else FEW_GAP_S
            self.gather_until = now + (MANY_WAIT_S if n_in_flight >= _MANY_IN_FLIGHT else few_s)
