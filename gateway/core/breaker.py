"""Breaker: whether one (app, vendor) is sent to at all. A machine: it counts outcomes and says how many rows may go.

    CLOSED --- trip ---> OPEN --- waited ---> HALF_OPEN --- passed ---> CLOSED
                          ^                       |
                          +-------- trip ---------+

It trips by the share of failures among the outcomes of a window, by nothing but failures for a while (a window of many
good answers would hide them for half of its length), by connects that failed one after another, and by a credential
that the vendor refuses or that cannot be had. An opening lasts `open_s`, twice as long each time until the
vendor has been well for a window, at most `open_s_max`; a refused credential waits the longest at once, since only a
human can mend it and every trial costs a row. Then a few rows try, and the same share decides about them: it opens
again when so many have failed, and closes when those that were sent have ended and too few failed for that.

What was in flight when it opened ends while it waits or tries. Such late failures are no news and count for nothing;
a late answer does, for it shows that somebody lives.

Rules for authors: the vendor's answer is a sign of life, whatever it says of the row; a row that was surely not
processed (REFUSED_STREAM, above GOAWAY) is no outcome. `_TABLE` holds every move; a pair that is missing is our bug.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

from gateway.core.count_window import CountWindow
from gateway.errors import LocalProtocolError

#: Rows that may go while nothing is wrong: more than any burst has.
UNLIMITED = 1 << 30
#: Trials that a refused credential gets at once: each costs a row.
_CREDENTIAL_TRIALS = 1


class BreakerState(enum.IntEnum):
    """The numbers are what the gauge shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class BreakerCause(enum.IntEnum):
    """Why it opened."""

    NONE = 0
    #: UNAVAILABLE and UNCERTAIN verdicts.
    FAILURES = 1
    #: No connection came about, or none that answered.
    CONNECT = 2
    #: The vendor refuses the credential, or its endpoint gives none.
    CREDENTIAL = 3


class _Input(enum.Enum):
    TRIP = enum.auto()
    #: The time of an opening, or of trials that led nowhere, is over.
    WAITED = enum.auto()
    PASSED = enum.auto()
    #: There is a new credential.
    MENDED = enum.auto()


class _Action(enum.Enum):
    STAY = enum.auto()
    WAIT = enum.auto()
    TRY = enum.auto()
    RESUME = enum.auto()


_CLOSED, _HALF_OPEN, _OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN
_TABLE: dict[tuple[BreakerState, _Input], tuple[_Action, BreakerState]] = {
    (_CLOSED, _Input.TRIP): (_Action.WAIT, _OPEN),
    (_CLOSED, _Input.PASSED): (_Action.STAY, _CLOSED),
    (_CLOSED, _Input.MENDED): (_Action.STAY, _CLOSED),
    # it is open already; what comes in is of before
    (_OPEN, _Input.TRIP): (_Action.STAY, _OPEN),
    (_OPEN, _Input.PASSED): (_Action.STAY, _OPEN),
    (_OPEN, _Input.WAITED): (_Action.TRY, _HALF_OPEN),
    (_OPEN, _Input.MENDED): (_Action.TRY, _HALF_OPEN),
    (_HALF_OPEN, _Input.TRIP): (_Action.WAIT, _OPEN),
    (_HALF_OPEN, _Input.PASSED): (_Action.RESUME, _CLOSED),
    (_HALF_OPEN, _Input.WAITED): (_Action.TRY, _HALF_OPEN),
    (_HALF_OPEN, _Input.MENDED): (_Action.TRY, _HALF_OPEN),
}


class BreakerSettings(NamedTuple):
    """Units, defaults and reasons: [breaker] in configs/reference.toml."""

    window_s: float = 10.0
    rows_min: int = 20
    failure_share: float = 0.5
    all_failing_s: float = 1.0
    connect_failures_max: int = 5
    credential_refusals_max: int = 3
    open_s: float = 5.0
    open_s_max: float = 60.0
    trial_rows_max: int = 10


class Outcomes(NamedTuple):
    """How many rows of one burst ended how.

    answered: the vendor judged the row. failed: UNAVAILABLE or UNCERTAIN. refused: the vendor refused the credential
    for good. void: says nothing of the vendor's health (not sent after all, or a credential that is being replaced).
    """

    answered: int = 0
    failed: int = 0
    refused: int = 0
    void: int = 0


class Transition(NamedTuple):
    """A new state, to be counted and logged. until: monotonic seconds, when an opening ends."""

    state: BreakerState
    cause: BreakerCause
    until: float


class Breaker:
    """See the module's docstring. now: monotonic seconds. Calls that change the state return the transition."""

    __slots__ = (
        "_bad_trials",
        "_closed_at",
        "_connect_failures",
        "_failing_since",
        "_failures_in_row",
        "_good_trials",
        "_openings",
        "_refusals",
        "_settings",
        "_stale",
        "_trials",
        "_until",
        "_window",
        "cause",
        "state",
    )

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._window = CountWindow(2, span_s=settings.window_s)
        self.state = BreakerState.CLOSED
        self.cause = BreakerCause.NONE
        self._connect_failures = 0
        self._refusals = 0
        #: Failures since the last answer, and when the first of them came.
        self._failures_in_row = 0
        self._failing_since = math.inf
        #: Openings since the vendor was last well for a window.
        self._openings = 0
        self._closed_at = -math.inf
        self._until = math.inf
        #: Rows that may still try, and what those that did came to.
        self._trials = self._good_trials = self._bad_trials = 0
        #: Rows at most that were in flight when it opened and have not ended.
        self._stale = 0

    # -- asked

    def room(self) -> int:
        """Rows that may be sent now."""
        match self.state:
            case BreakerState.CLOSED:
                return UNLIMITED
            case BreakerState.OPEN:
                return 0
            case BreakerState.HALF_OPEN:
                return self._trials

    def next_deadline(self) -> float:
        """When `on_deadline` wants to be called; `math.inf` for never."""
        return self._until

    # -- told

    def on_sent(self, rows: int, now: float) -> None:
        if self.state is not BreakerState.HALF_OPEN:
            return
        self._trials -= rows
        if self._trials <= 0:
            # For trials that lead nowhere: one that failed may have been taken for a late failure.
            self._until = now + self._settings.open_s_max

    def on_outcomes(self, outcomes: Outcomes, now: float, *, in_flight: int) -> Transition | None:
        """in_flight: rows at the vendor now, these no longer among them; looked at only where something failed."""
        if outcomes.answered:
            self._connect_failures = self._refusals = 0
        else:
            self._refusals += outcomes.refused
        match self.state:
            case BreakerState.CLOSED:
                return self._judge_window(outcomes, now, in_flight)
            case BreakerState.OPEN:
                self._stale = max(0, self._stale - outcomes.failed - outcomes.refused)
                return None
            case BreakerState.HALF_OPEN:
                return self._judge_trials(outcomes, now, in_flight)

    def on_connect_failure(self, now: float, *, in_flight: int) -> Transition | None:
        """A connection did not come about, or ended before its first answer."""
        self._connect_failures += 1
        # While others are at the vendor over another connection, one that fails proves nothing by itself.
        is_trial = self.state is BreakerState.HALF_OPEN and not in_flight
        if is_trial or self._connect_failures >= self._settings.connect_failures_max:
            return self._move(_Input.TRIP, now, BreakerCause.CONNECT, in_flight)
        return None

    def on_credential_lost(self, now: float, *, in_flight: int) -> Transition | None:
        """There is no credential, or the one that was made anew is refused as well."""
        return self._move(_Input.TRIP, now, BreakerCause.CREDENTIAL, in_flight)

    def on_credential_issued(self, now: float) -> Transition | None:
        """There is a new one: what was counted against the old one is void."""
        self._refusals = 0
        if self.cause is not BreakerCause.CREDENTIAL:
            return None
        return self._move(_Input.MENDED, now, self.cause)

    def on_deadline(self, now: float) -> Transition | None:
        if now < self._until:
            return None
        return self._move(_Input.WAITED, now, self.cause)

    # -- decides

    def _judge_window(self, outcomes: Outcomes, now: float, in_flight: int) -> Transition | None:
        settings, window = self._settings, self._window
        window.add(now, outcomes.answered + outcomes.refused, outcomes.failed)
        if outcomes.answered or outcomes.refused:
            self._failures_in_row, self._failing_since = 0, math.inf
        elif outcomes.failed:
            self._failures_in_row += outcomes.failed
            self._failing_since = min(self._failing_since, now)
        if self._refusals >= settings.credential_refusals_max:
            return self._move(_Input.TRIP, now, BreakerCause.CREDENTIAL, in_flight)
        is_judged = outcomes.failed > 0 and window.total >= settings.rows_min
        if is_judged and (window.sums[1] >= settings.failure_share * window.total or self._fails_all(now)):
            return self._move(_Input.TRIP, now, BreakerCause.FAILURES, in_flight)
        return None

    def _fails_all(self, now: float) -> bool:
        """One lost connection ends a thousand rows at a stroke; so time has to pass as well."""
        settings = self._settings
        return self._failures_in_row >= settings.rows_min and now - self._failing_since >= settings.all_failing_s

    def _judge_trials(self, outcomes: Outcomes, now: float, in_flight: int) -> Transition | None:
        # Never more are stale than are in flight, these included: so their number does not outlive them.
        bad = outcomes.failed + outcomes.refused
        late = min(bad, self._stale, in_flight + bad)
        self._stale = min(self._stale - late, in_flight)
        self._trials = min(self._trials + outcomes.void, self._trials_max())
        self._bad_trials += bad - late
        self._good_trials += outcomes.answered
        trials = self._trials_max()
        bad_max = self._settings.failure_share * trials
        if bad > late and self._bad_trials >= bad_max:
            cause = BreakerCause.CREDENTIAL if outcomes.refused > outcomes.failed else BreakerCause.FAILURES
            return self._move(_Input.TRIP, now, cause, in_flight)
        ended = self._good_trials + self._bad_trials
        has_failed = self._bad_trials >= self._settings.failure_share * ended
        if self._good_trials and ended >= trials - self._trials and not has_failed:
            return self._move(_Input.PASSED, now, BreakerCause.NONE)
        return None

    def _trials_max(self) -> int:
        return _CREDENTIAL_TRIALS if self.cause is BreakerCause.CREDENTIAL else self._settings.trial_rows_max

    def _move(self, given: _Input, now: float, cause: BreakerCause, in_flight: int = 0) -> Transition | None:
        found = _TABLE.get((self.state, given))
        if found is None:
            raise LocalProtocolError(f"breaker: {given.name} in state {self.state.name}")
        action, state = found
        match action:
            case _Action.STAY:
                return None
            case _Action.WAIT:
                self._begin_wait(now, cause, in_flight)
            case _Action.TRY:
                self._trials = self._trials_max()
                self._good_trials = self._bad_trials = 0
                self._until = math.inf
            case _Action.RESUME:
                self.cause = cause
                self._until, self._stale, self._closed_at = math.inf, 0, now
                self._connect_failures = self._refusals = 0
                self._failures_in_row, self._failing_since = 0, math.inf
                self._window.clear()
        if self.state is state:
            return None
        self.state = state
        return Transition(state, self.cause, self._until)

    def _begin_wait(self, now: float, cause: BreakerCause, in_flight: int) -> None:
        settings = self._settings
        if self.state is BreakerState.CLOSED and now - self._closed_at > settings.window_s:
            self._openings = 0
        if cause is BreakerCause.CREDENTIAL:
            wait_s = settings.open_s_max
        else:
            # 2^30 of the smallest setting is longer than any maximum.
            wait_s = min(settings.open_s * 2.0 ** min(self._openings, 30), settings.open_s_max)
            self._openings += 1
        self.cause, self._until, self._stale = cause, now + wait_s, in_flight
