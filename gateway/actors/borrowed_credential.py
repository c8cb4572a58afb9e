"""BorrowedCredential: a credential that another worker's keeper makes. One value of each in all workers.

Vendors want it so: APNs complains of too many different provider tokens, and some token endpoints end the old token
when they give a new one. The keeper of a name lives in the worker that owns hash(name); the others ask it, once per
half a lease, and serve what it said until that ends, whatever becomes of it.

A worker that has nothing to serve and has heard nothing for `lease_s` makes its own, as a worker alone does: one token
too many is less than a vendor that gets nothing. Refusals and complaints of the vendor are passed on to the maker.
Waits for: the maker's answers, the clock. Is waited for by: nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from gateway.actors.bell import Bell
from gateway.actors.credentials import CredentialKeeper
from gateway.actors.worker_links import Reply, WorkerGone, WorkerLinks
from gateway.clock import Clock
from gateway.core.leases import Borrowed
from gateway.core.shadow import Life
from gateway.errors import Overloaded

WHAT = "credential"
#: Between two questions while the maker has none to give; one that could not be reached is asked when there is a link.
_RETRY_S = 0.5


class Lent(msgspec.Struct, array_like=True):
    """The maker's answer. authorization None: it has none. lasts_s: from now."""

    authorization: bytes | None
    lasts_s: float
    is_denied: bool


class CredentialMakers:
    """The keepers of this worker that others ask."""

    def __init__(self, links: WorkerLinks) -> None:
        self._keepers: dict[str, CredentialKeeper] = {}
        links.answer_with(WHAT, self._on_ask)

    def add(self, name: str, keeper: CredentialKeeper) -> None:
        self._keepers[name] = keeper

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        keeper = self._keepers.get(head["name"])
        if keeper is None:
            reply(msgspec.msgpack.encode(Lent(None, 0.0, is_denied=False)))
            return
        refused = head.get("refused")
        if refused is not None:
            keeper.refused(refused)
        if head.get("keeps"):
            keeper.keep_current()
        value = keeper.get_nowait()
        reply(msgspec.msgpack.encode(Lent(value, keeper.expires_in_s(), keeper.is_denied)))


class BorrowedCredential:
    """own: the keeper of this worker, which works only while the maker is not heard of. maker: the worker that is
    asked.

    lease_s: how long without a value and without an answer before this worker makes its own.
    """

    def __init__(
        self, name: str, own: CredentialKeeper, *, maker: int, links: WorkerLinks, clock: Clock, lease_s: float
    ) -> None:
        self.name = name
        self._own = own
        self._maker = maker
        self._links = links
        self._clock = clock
        self._lease_s = lease_s
        self._borrowed: Borrowed[bytes] = Borrowed(lease_s=lease_s, retry_s=_RETRY_S)
        self._bell = Bell()
        self._is_denied = False
        self._alone_from = clock.monotonic() + lease_s
        self._expires = 0.0
        #: Words of the vendor for the maker, with the next question.
        self._refused: bytes | None = None
        self._keeps = False
        #: Called when there is a new value.
        self.on_value: Callable[[], None] = lambda: None
        links.watch_openings(self._linked)

    def _linked(self, life: Life) -> None:
        if life.worker == self._maker:
            # A worker that has just begun asked before it had a link, and its rows wait for the answer.
            self._borrowed.on_asked(-math.inf)
            self._bell.ring()

    @property
    def is_alone(self) -> bool:
        """The maker has not been heard of for too long, and nothing it said is in force."""
        now = self._clock.monotonic()
        return now >= self._alone_from and self._borrowed.value(now) is None

    # -- what lanes call

    def get_nowait(self) -> bytes | None:
        """The authorization header's value in force, or None while there is none."""
        value = self._borrowed.value(self._clock.monotonic())
        if value is not None:
            return value
        return self._own.get_nowait() if self.is_alone else None

    def refused(self, authorization: bytes) -> None:
        """The vendor refused this value: its maker is told, and asked for another."""
        if self._borrowed.value(self._clock.monotonic()) == authorization:
            self._refused = authorization
            self._borrowed.drop()
            self._bell.ring()
        else:
            self._own.refused(authorization)

    def keep_current(self) -> None:
        """The vendor complains of too many different values: the maker keeps the one in force."""
        self._keeps = True
        self._own.keep_current()
        self._bell.ring()

    def expires_in_s(self) -> float:
        """Until the credential in force ends; 0 when there is none."""
        if self._borrowed.value(self._clock.monotonic()) is None:
            return self._own.expires_in_s() if self.is_alone else 0.0
        return max(0.0, self._expires - self._clock.monotonic())

    @property
    def is_denied(self) -> bool:
        return self._own.is_denied if self.is_alone else self._is_denied

    # -- the actor

    async def run(self) -> None:
        """Keeps the value fresh until cancelled. If cancelled: what is in force stays."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stand_in)
            while True:
                now = self._clock.monotonic()
                if self._borrowed.should_ask(now) or self._refused is not None or self._keeps:
                    await self._ask()
                with self._clock.move_on_at(max(self._borrowed.next_deadline(), now + 0.01)):
                    await self._bell.wait()

    async def _ask(self) -> None:
        refused, keeps = self._refused, self._keeps
        self._borrowed.on_asked(self._clock.monotonic())
        head = {"name": self.name, "refused": refused, "keeps": keeps}
        try:
            body = await self._links.ask(self._maker, WHAT, head)
        except (WorkerGone, Overloaded):
            return
        self._refused = None if self._refused is refused else self._refused
        self._keeps = False
        now = self._clock.monotonic()
        lent = msgspec.msgpack.decode(body, type=Lent)
        self._alone_from = now + self._lease_s
        self._is_denied = lent.is_denied
        if lent.authorization is not None and lent.lasts_s > 0:
            is_new = self._borrowed.value(now) != lent.authorization
            self._borrowed.on_value(lent.authorization, lent.lasts_s, now)
            self._expires = now + lent.lasts_s
            if is_new:
                self.on_value()

    async def _stand_in(self) -> None:
        """Runs the own keeper for as long as there is nobody else."""
        while True:
            await self._clock.sleep_until(self._alone_from)
            if not self.is_alone:
                await trio.sleep(_RETRY_S)
                continue
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._own.run)
                self.on_value()
                while self.is_alone:  # noqa: ASYNC110 - ends with an answer, seconds later
                    await trio.sleep(_RETRY_S)
                nursery.cancel_scope.cancel()
