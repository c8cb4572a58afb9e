"""VendorBreaker: the breaker of one (app, vendor), as its pool and lanes use it; and VerdictWatch, which feeds it.

    lane --verdicts of a burst--> VerdictWatch --+--> VendorBreaker (core/breaker.py) --room--> pool
                                                 +--> TokenGuard    (core/unregister_guard.py)

No task of its own: the pool, which waits for the network anyway, also waits for the end of an opening. Everything is
called once per burst or event, never per row. One (app, vendor) has one breaker, so nobody else is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from gateway.actors.token_guard import TokenGuard
from gateway.clock import Clock
from gateway.columns import U8
from gateway.core.breaker import Breaker, BreakerCause, BreakerSettings, BreakerState, Outcomes, Transition
from gateway.ledger import Reason
from gateway.verdict import Answer, Scope, Verdict

#: What rows that wait for it are told. A vendor that cannot be reached is unavailable, breaker or not.
_REASON_OF: dict[BreakerCause, Reason] = {
    BreakerCause.NONE: Reason.BREAKER_OPEN,
    BreakerCause.FAILURES: Reason.BREAKER_OPEN,
    BreakerCause.CONNECT: Reason.VENDOR_UNAVAILABLE,
    BreakerCause.CREDENTIAL: Reason.CREDENTIAL_REFUSED,
}


class BreakerObserver(Protocol):
    def moved(self, state: BreakerState, cause: BreakerCause, open_s: float) -> None:
        """open_s: how long an opening lasts at least."""
        ...


class VendorBreaker:
    """See the module's docstring. `connect` is called by the pool that obeys it."""

    def __init__(self, settings: BreakerSettings, *, clock: Clock, observer: BreakerObserver) -> None:
        self._machine = Breaker(settings)
        self._clock = clock
        self._observer = observer
        self.ring: Callable[[], None] = lambda: None
        self._in_flight: Callable[[], int] = lambda: 0

    def connect(self, *, ring: Callable[[], None], in_flight: Callable[[], int]) -> None:
        """ring: the pool and its lanes look again. in_flight: rows at the vendor now."""
        self.ring, self._in_flight = ring, in_flight

    # -- asked

    @property
    def state(self) -> BreakerState:
        return self._machine.state

    @property
    def may_connect(self) -> bool:
        return self._machine.state is not BreakerState.OPEN

    @property
    def waiting_reason(self) -> Reason | None:
        """Why rows do not leave; None while they may."""
        return None if self._machine.state is BreakerState.CLOSED else _REASON_OF[self._machine.cause]

    def room(self, rows: int) -> int:
        """How many of `rows` may be sent now."""
        return min(rows, self._machine.room())

    def next_deadline(self) -> float:
        return self._machine.next_deadline()

    # -- told

    def sent(self, rows: int) -> None:
        if self._machine.state is BreakerState.HALF_OPEN:
            self._machine.on_sent(rows, self._clock.monotonic())

    def ended(self, outcomes: Outcomes) -> None:
        is_quiet = self._machine.state is BreakerState.CLOSED and not outcomes.failed and not outcomes.refused
        in_flight = 0 if is_quiet else self._in_flight()
        self._follow(self._machine.on_outcomes(outcomes, self._clock.monotonic(), in_flight=in_flight))

    def connect_failed(self) -> None:
        self._follow(self._machine.on_connect_failure(self._clock.monotonic(), in_flight=self._in_flight()))

    def credential_lost(self) -> None:
        """None is in force, or the one made after a refusal is refused as well."""
        self._follow(self._machine.on_credential_lost(self._clock.monotonic(), in_flight=self._in_flight()))

    def credential_issued(self) -> None:
        self._follow(self._machine.on_credential_issued(self._clock.monotonic()))

    def check_deadline(self) -> None:
        self._follow(self._machine.on_deadline(self._clock.monotonic()))

    def _follow(self, transition: Transition | None) -> None:
        if transition is None:
            return
        open_s = transition.until - self._clock.monotonic() if transition.state is BreakerState.OPEN else 0.0
        self._observer.moved(transition.state, transition.cause, open_s)
        self.ring()


class VerdictWatch:
    """Tells breaker and guard of one (app, vendor) what its bursts came to."""

    def __init__(self, breaker: VendorBreaker, guard: TokenGuard) -> None:
        self.breaker = breaker
        self._guard = guard

    def judge(self, verdicts: U8, answers: Mapping[int, Answer]) -> None:
        """verdicts: (n,) of rows that ended just now, before anything follows from them. answers: by position, of those
        that are no plain acceptance."""
        n = len(verdicts)
        if not answers and not np.count_nonzero(verdicts):
            self.accepted(n)
            return
        counts = np.bincount(verdicts, minlength=len(Verdict)).tolist()
        failed = counts[Verdict.UNAVAILABLE] + counts[Verdict.UNCERTAIN]
        refused = void = 0
        if counts[Verdict.CREDENTIAL]:
            ours = [answer for answer in answers.values() if _blames_us(answer)]
            # One that may help when it is made anew says nothing yet: the keeper reports if that is refused, too.
            void = sum(answer.is_refreshable for answer in ours)
            refused = len(ours) - void
        self.breaker.ended(Outcomes(n - failed - refused - void, failed, refused, void))
        dead = counts[Verdict.TOKEN_DEAD]
        self._guard.on_verdicts(counts[Verdict.ACCEPTED] + counts[Verdict.TOKEN_MUTED], dead)

    def accepted(self, rows: int) -> None:
        """`judge` where the vendor took all of so many rows."""
        self.breaker.ended(Outcomes(answered=rows))
        self._guard.on_verdicts(rows, 0)

    def judge_requests(self, answers: Sequence[Answer], verdicts: U8) -> None:
        """The same where a request may carry many rows. answers: what each request's answer says of itself, since the
        breaker counts what the pool sends, requests; verdicts: (n,) of all rows, for the guard."""
        counts = [0] * len(Verdict)
        refused = void = 0
        for answer in answers:
            counts[answer.verdict] += 1
            if _blames_us(answer):
                void += answer.is_refreshable
                refused += not answer.is_refreshable
        failed = counts[Verdict.UNAVAILABLE] + counts[Verdict.UNCERTAIN]
        self.breaker.ended(Outcomes(len(answers) - failed - refused - void, failed, refused, void))
        if len(verdicts):
            rows = np.bincount(verdicts, minlength=len(Verdict)).tolist()
            self._guard.on_verdicts(rows[Verdict.ACCEPTED] + rows[Verdict.TOKEN_MUTED], rows[Verdict.TOKEN_DEAD])

    def not_sent(self, rows: int) -> None:
        """Rows that were surely not processed: no outcome."""
        self.breaker.ended(Outcomes(void=rows))


def _blames_us(answer: Answer) -> bool:
    return answer.verdict is Verdict.CREDENTIAL and answer.scope is Scope.APP
