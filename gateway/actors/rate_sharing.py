"""RateSharing: the rate of each (app, vendor), shared by the workers as they need it.

A worker's bucket begins with its fair share; every fifth of a lease, or a little sooner, so that workers do not ask in
one moment, it asks the lender of that name, who lives in the worker that owns hash(name), what it may have, and says
what it had to send (core/leases.py tells why the sum never passes the rate). Names of one lender are one question:
what costs is that two workers wake for it. A lender who does not answer is asked again when there is a link to him, and
ever less often without one. Without a lender everybody is back at his fair share after `lease_s`. Waits for: the
lender's answers, the clock. Is waited for by: nobody.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import trio

from gateway.actors.bell import Bell
from gateway.actors.worker_links import Reply, WorkerGone, WorkerLinks
from gateway.clock import Clock
from gateway.core.bucket import TokenBucket
from gateway.core.leases import Grant, RateLender, RateShare, Share
from gateway.core.shadow import Life
from gateway.errors import Overloaded

WHAT = "rate"
#: Between two questions to a lender who does not answer; twice as long after each, up to the usual time.
_RETRY_S = 0.2
#: Of that time, what is drawn by lot.
_LOT = 0.2
#: Rates of one question: some 10 us each for the lender.
WISHES_MAX = 64


class SharedRate(NamedTuple):
    """rate_per_s: of all workers together. burst: of this worker's bucket. waiting_rows: what its lanes hold now.
    ring: called when the bucket has another rate."""

    name: str
    rate_per_s: float
    burst: int
    bucket: TokenBucket
    waiting_rows: Callable[[], int]
    ring: Callable[[], None]


class Wish(NamedTuple):
    """Of one rate: what its worker had for sending of late, and the share that it has, for how long."""

    name: str
    wanted_per_s: float
    per_s: float
    for_s: float


class _Question:
    """Rates that one lender is asked for together."""

    __slots__ = ("is_heard", "lender", "rates")

    def __init__(self, lender: int, rates: list[SharedRate]) -> None:
        self.lender = lender
        self.rates = rates
        self.is_heard = False


class RateSharing:
    """All shared rates of one worker, and the lenders of those that live here. lenders: name -> worker."""

    def __init__(
        self,
        rates: list[SharedRate],
        *,
        lender_of: Callable[[str], int],
        me: int,
        workers: int,
        links: WorkerLinks,
        clock: Clock,
        lease_s: float,
    ) -> None:
        self._rates = rates
        self._me = me
        self._links = links
        self._clock = clock
        self._lease_s = lease_s
        now = clock.monotonic()
        self._lenders = {
            rate.name: RateLender(rate.rate_per_s, workers, lease_s=lease_s, now=now)
            for rate in rates
            if lender_of(rate.name) == me
        }
        self._shares = {rate.name: RateShare(rate.rate_per_s, workers, lease_s=lease_s, now=now) for rate in rates}
        self._taken = {rate.name: 0 for rate in rates}
        self._wanted = {rate.name: 0.0 for rate in rates}
        self._measured_at = now
        by_lender: dict[int, list[SharedRate]] = {}
        for rate in rates:
            by_lender.setdefault(lender_of(rate.name), []).append(rate)
        self._questions = [
            _Question(lender, rates[first : first + WISHES_MAX])
            for lender, rates in by_lender.items()
            for first in range(0, len(rates), WISHES_MAX)
        ]
        self._bell = Bell()
        links.answer_with(WHAT, self._on_ask)
        links.watch_deaths(self)
        links.watch_openings(self._opened)
        for rate in rates:
            self._set(rate)

    def on_died(self, life: Life) -> None:
        for lender in self._lenders.values():
            lender.on_died(life.worker)

    def _opened(self, life: Life) -> None:
        if any(question.lender == life.worker and not question.is_heard for question in self._questions):
            self._bell.ring()

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        now = self._clock.monotonic()
        reply(msgspec.msgpack.encode([self._grant(life.worker, Wish(*wish), now) for wish in head["wishes"]]))

    def _grant(self, worker: int, wish: Wish, now: float) -> Grant | None:
        lender = self._lenders.get(wish.name)
        return None if lender is None else lender.on_ask(worker, wish.wanted_per_s, Share(wish.per_s, wish.for_s), now)

    async def run(self) -> None:
        """Asks for all rates in turns until cancelled. If cancelled: shares stay until their leases end."""
        due_at, retry_s = self._clock.monotonic(), _RETRY_S
        while self._rates:
            now = self._clock.monotonic()
            if now >= due_at:
                self._measure(now)
                due_at = self._next_deadline(now)
                for question in self._questions:
                    question.is_heard = False
            for question in self._questions:
                if not question.is_heard:
                    question.is_heard = await self._ask(question)
            if all(question.is_heard for question in self._questions):
                again_at, retry_s = due_at, _RETRY_S
            else:
                again_at, retry_s = now + retry_s, min(2 * retry_s, self._lease_s / 5)
            with self._clock.move_on_at(min(due_at, again_at)):
                await self._bell.wait()
            for rate in self._rates:
                self._set(rate)

    def _next_deadline(self, now: float) -> float:
        """When to ask again, or before that when a share ends by itself.

        A raised share lasts a lease less two such times: others' shares are known to be lower for so long.
        """
        ends = [share.next_deadline() for share in self._shares.values()]
        usual_s = self._lease_s / 5 * random.uniform(1 - _LOT, 1.0)
        return min([now + usual_s, *(end for end in ends if end > now)])

    def _measure(self, now: float) -> None:
        """Rows per second that this worker had for sending of late, what waits now included."""
        since_s = max(1e-3, now - self._measured_at)
        self._measured_at = now
        for rate in self._rates:
            taken = rate.bucket.statistics().taken
            sent, self._taken[rate.name] = taken - self._taken[rate.name], taken
            self._wanted[rate.name] = (max(0, sent) + rate.waiting_rows()) / since_s

    async def _ask(self, question: _Question) -> bool:
        """False when there was no answer."""
        asked_at, lender = self._clock.monotonic(), question.lender
        wishes = [
            Wish(rate.name, self._wanted[rate.name], *self._shares[rate.name].share(asked_at))
            for rate in question.rates
        ]
        grants: list[Grant | None] | None
        if lender == self._me:
            grants = [self._grant(self._me, wish, asked_at) for wish in wishes]
            await trio.lowlevel.checkpoint()
        else:
            grants = await self._ask_lender(lender, wishes)
        if grants is None:
            return False
        now = self._clock.monotonic()
        for rate, grant in zip(question.rates, grants, strict=True):
            if grant is not None:
                self._shares[rate.name].on_grant(grant, asked_at=asked_at, now=now)
                self._set(rate)
        return None not in grants

    async def _ask_lender(self, lender: int, wishes: list[Wish]) -> list[Grant | None] | None:
        """None: he is not there."""
        with trio.move_on_after(self._lease_s / 3):
            try:
                body = await self._links.ask(lender, WHAT, {"wishes": wishes})
            except (WorkerGone, Overloaded):
                return None
            return msgspec.msgpack.decode(body, type=list[Grant | None])
        return None

    def _set(self, rate: SharedRate) -> None:
        now = self._clock.monotonic()
        per_s = self._shares[rate.name].rate_per_s(now)
        if per_s != rate.bucket.statistics().rate_per_s:
            rate.bucket.set_rate(now, per_s, rate.burst)
            rate.ring()
