"""RateSharing: the rate of each (app, vendor), shared by the workers as they need it.

A worker's bucket begins with its fair share; every fifth of a lease it asks the lender of that name, who lives in the
worker that owns hash(name), what it may have, and says what it had to send (core/leases.py tells why the sum never
passes the rate). Without a lender everybody is back at his fair share after `lease_s`. Waits for: the lender's
answers, the clock. Is waited for by: nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import trio

from gateway.actors.worker_links import Reply, WorkerGone, WorkerLinks
from gateway.clock import Clock
from gateway.core.bucket import TokenBucket
from gateway.core.leases import Grant, RateLender, RateShare, Share
from gateway.core.shadow import Life
from gateway.errors import Overloaded

WHAT = "rate"
#: Between two questions while there is no answer.
_RETRY_S = 0.2


class SharedRate(NamedTuple):
    """rate_per_s: of all workers together. burst: of this worker's bucket. waiting_rows: what its lanes hold now.
    ring: called when the bucket has another rate."""

    name: str
    rate_per_s: float
    burst: int
    bucket: TokenBucket
    waiting_rows: Callable[[], int]
    ring: Callable[[], None]


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
        self._lender_of = lender_of
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
        self._asked_at = now
        links.answer_with(WHAT, self._on_ask)
        links.watch_deaths(self)
        for rate in rates:
            self._set(rate)

    def on_died(self, life: Life) -> None:
        for lender in self._lenders.values():
            lender.on_died(life.worker)

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        lender = self._lenders.get(head["name"])
        grant = None
        if lender is not None:
            share = Share(head["rate_per_s"], head["for_s"])
            grant = lender.on_ask(life.worker, head["wanted_per_s"], share, self._clock.monotonic())
        reply(msgspec.msgpack.encode(grant))

    async def run(self) -> None:
        """Asks for all rates in turns until cancelled. If cancelled: shares stay until their leases end."""
        while self._rates:
            now = self._clock.monotonic()
            since_s = max(1e-3, now - self._asked_at)
            self._asked_at = now
            are_heard = [await self._ask(rate, self._wanted(rate, since_s)) for rate in self._rates]
            deadline = self._next_deadline(now)
            await self._clock.sleep_until(deadline if all(are_heard) else min(deadline, now + _RETRY_S))
            for rate in self._rates:
                self._set(rate)

    def _next_deadline(self, now: float) -> float:
        """When to ask again, or before that when a share ends by itself.

        A raised share lasts a lease less two such times: others' shares are known to be lower for so long.
        """
        ends = [share.next_deadline() for share in self._shares.values()]
        return min([now + self._lease_s / 5, *(end for end in ends if end > now)])

    def _wanted(self, rate: SharedRate, since_s: float) -> float:
        """Rows per second that this worker had for sending of late, what waits now included."""
        taken = rate.bucket.statistics().taken
        sent, self._taken[rate.name] = taken - self._taken[rate.name], taken
        return (max(0, sent) + rate.waiting_rows()) / since_s

    async def _ask(self, rate: SharedRate, wanted_per_s: float) -> bool:
        """False when there was no answer."""
        share, lender = self._shares[rate.name], self._lender_of(rate.name)
        asked_at = self._clock.monotonic()
        has = share.share(asked_at)
        grant: Grant | None
        if lender == self._me:
            grant = self._lenders[rate.name].on_ask(self._me, wanted_per_s, has, asked_at)
            await trio.lowlevel.checkpoint()
        else:
            head = {"name": rate.name, "wanted_per_s": wanted_per_s, "rate_per_s": has.rate_per_s, "for_s": has.for_s}
            grant = await self._ask_lender(lender, head)
        if grant is not None:
            share.on_grant(grant, asked_at=asked_at, now=self._clock.monotonic())
            self._set(rate)
        return grant is not None

    async def _ask_lender(self, lender: int, head: dict[str, Any]) -> Grant | None:
        """None: he is not there, or does not know the name yet."""
        with trio.move_on_after(self._lease_s / 3):
            try:
                body = await self._links.ask(lender, WHAT, head)
            except (WorkerGone, Overloaded):
                return None
            return msgspec.msgpack.decode(body, type=Grant | None)
        return None

    def _set(self, rate: SharedRate) -> None:
        now = self._clock.monotonic()
        per_s = self._shares[rate.name].rate_per_s(now)
        if per_s != rate.bucket.statistics().rate_per_s:
            rate.bucket.set_rate(now, per_s, rate.burst)
            rate.ring()
