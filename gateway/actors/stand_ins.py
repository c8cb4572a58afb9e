"""StandIns: submits with a request id go to whoever answers for the id now, its home or who stands in for it.

    client --> Front --submit with an id--> StandIns --+--> here, if this worker is the id's home now
                                                       +--> the worker that is (links)

core/request_homes.py decides. What a home declines because it leaves goes to who would stand in for it; the ids that
it knows it answers to its end. A worker that begins asks the others for the ids that they took in its stead and takes
none before (`begin`); questions that come earlier wait. Only ids of apps in memory have stand-ins: those on the disk
are in the journal of the worker that is down, where nobody can look whether one was answered before.

What was taken for others is found among this worker's own ids (core/request_ids.py), so it has their limit,
`ledger.idempotency_ids_max`, and their age; pages of _PAGE_IDS of them go to a worker that is back. Requests that wait
here until views agree are bounded as those under way at clients are (`rpc.unanswered_max` and the like), and wait for
PATIENCE_S at most. Waits for: other workers' StandIns, which wait for the intake alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import trio

from gateway.actors.worker_links import Reply, WorkerGone, WorkerLinks
from gateway.clock import Clock, ElapsedUnix
from gateway.core.ownership import Ownership
from gateway.core.request_homes import RequestHomes
from gateway.core.request_ids import RequestIds
from gateway.core.shadow import Life
from gateway.errors import Overloaded
from gateway.wire.rpc.messages import Error

WHAT = "request ids"
#: How long a submit waits for workers to agree who takes it, before its client is told to come back: a death is known
#: to all some milliseconds after it, and a worker that was killed is back after about so long.
PATIENCE_S = 1.0
#: Between two looks while nothing is heard.
_AGAIN_S = 0.02
#: Ids looked through in one step, and told in one answer, of 24 bytes each: a millisecond.
_PAGE_IDS = 8192


class _Page(msgspec.Struct, frozen=True, array_like=True):
    """Ids that were taken in the asker's stead. next: where the next page begins; None after the last."""

    has_begun: bool
    next: int | None
    entries: bytes


_PAGES: msgspec.msgpack.Decoder[_Page] = msgspec.msgpack.Decoder(_Page)


class StandInObserver(Protocol):
    def stood_in_for(self, worker: int) -> None:
        """A submit was taken in that worker's stead."""
        ...

    def told(self, ids: int) -> None:
        """A worker that is back was told of so many ids."""
        ...


class Submitting(NamedTuple):
    """key: of the id. here: answers at this worker. there: asks that worker, and says who declined the id, if it was;
    None: it is not its to take."""

    key: int
    here: Callable[[], Awaitable[Any]]
    there: Callable[[int, Life | None], Awaitable[Any]]


class StandIns:
    """One object per worker, a watcher of `Peers`. disk_apps: keys of apps whose ids are on the disk."""

    def __init__(
        self,
        *,
        ownership: Ownership,
        me: int,
        links: WorkerLinks,
        request_ids: RequestIds,
        clock: Clock,
        observer: StandInObserver,
        disk_apps: Collection[str] = (),
    ) -> None:
        self._ownership = ownership
        self._me = me
        self._links = links
        self._request_ids = request_ids
        self._ages = ElapsedUnix(clock)
        self._observer = observer
        self._disk_apps = frozenset(disk_apps)
        self._homes = RequestHomes(ownership, me)
        self._begun = trio.Event()
        self._met = trio.Event()
        self._changed = trio.Event()
        #: By worker: where the ids begin that may have been taken in its stead.
        self._since: dict[int, int] = {}
        self._first = 0
        #: By home: submits that are being taken in its stead.
        self._under_way = [0] * ownership.workers
        self._nursery: trio.Nursery | None = None
        links.answer_with(WHAT, self._on_ask)

    async def run(self) -> None:
        """Keeps the tasks of answers. If cancelled: those that ask, ask again."""
        self._ages.begin()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # -- who lives; told by `Peers`

    def peer_linked(self, worker: int, incarnation: int) -> None:
        self._homes.on_known(Life(worker, incarnation))
        self._change()

    def peer_up(self, worker: int, incarnation: int) -> None:
        self._homes.on_back(Life(worker, incarnation))
        self._change()

    def peer_died(self, worker: int, incarnation: int) -> None:
        self._since.setdefault(worker, self._request_ids.position)
        self._homes.on_over(Life(worker, incarnation))
        self._change()

    def peer_draining(self, worker: int, incarnation: int, *, is_over: bool) -> None:
        """The ids that it knows are its own to its end; others may be declined from now on, and taken in its stead."""
        self._since.setdefault(worker, self._request_ids.position)
        self._homes.on_leaving(Life(worker, incarnation), is_over=is_over)
        self._change()

    def peers_met(self, down: Collection[Life]) -> None:
        """The supervisor has told of everybody who was linked when this worker was; the others are down."""
        for life in down:
            self.peer_died(*life)
        self._met.set()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- this worker begins

    async def begin(self) -> None:
        """Returns when all living have told what they took in this worker's stead. If cancelled: ids are not taken."""
        await self._met.wait()
        # What is learned from now on is told to those in whose stead it was taken, like what is taken.
        self._first = self._request_ids.position
        while lives := self._homes.lives_to_ask():
            async with trio.open_nursery() as nursery:
                for life in lives:
                    nursery.start_soon(self._learn, life)
        self._homes.begin()
        self._begun.set()

    async def _learn(self, life: Life) -> None:
        """Its ids are known here, or it is asked again, if it lives."""
        await self._links.wait_linked([life])
        start: int | None = None
        while True:
            try:
                body = await self._links.ask(life.worker, WHAT, {"from": start})
            except (WorkerGone, Overloaded):
                body = memoryview(b"")
            if not body:
                await trio.sleep(_AGAIN_S)
                return
            page = _PAGES.decode(body)
            if page.entries:
                entries = np.frombuffer(page.entries, np.uint64).reshape(-1, 3)
                self._request_ids.add(entries, self._ages.unix_ms())
            if page.next is None:
                if not page.has_begun:
                    self._since.setdefault(life.worker, self._first)
                self._homes.on_answered(life, has_begun=page.has_begun)
                return
            start = page.next

    # -- others begin

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        self._homes.on_back(life)
        self._change()
        if self._nursery is None:
            reply(b"")
        else:
            self._nursery.start_soon(self._tell, life.worker, head["from"], reply)

    async def _tell(self, worker: int, start: int | None, reply: Reply) -> None:
        """From the question on nothing more is taken in its stead; what was being taken is waited for."""
        owners = self._homes.stood_in_for(list(range(len(self._under_way))), worker)
        while any(n for n, is_passed in zip(self._under_way, owners, strict=True) if is_passed):
            await self._changed.wait()
        ids = self._request_ids
        stop = self._since.get(worker, ids.position) if start is None else start
        while True:
            entries, stop = ids.since(stop, _PAGE_IDS, self._ages.unix_ms())
            found = entries[self._homes.stood_in_for(self._ownership.homes_of_requests(entries[:, 0]), worker)]
            is_last = stop >= ids.position
            if len(found) or is_last:
                break
            await trio.lowlevel.checkpoint()
        self._observer.told(len(found))
        reply(msgspec.msgpack.encode(_Page(self._homes.has_begun, None if is_last else stop, found.tobytes())))

    # -- submits

    def may_stand_in(self, app_key: str) -> bool:
        """Whether another worker answers for ids of this app while their home is down."""
        return app_key not in self._disk_apps

    def is_here(self, key: int) -> bool:
        """True when this worker is the home of the key by right, and takes it at once."""
        return self._homes.has_begun and self._homes.is_mine_by_right(key)

    @property
    def has_begun(self) -> bool:
        return self._homes.has_begun

    async def wait_begun(self) -> None:
        """This worker knows what was taken in its stead."""
        await self._begun.wait()

    async def submit(self, what: Submitting) -> Any:
        """The answer of whoever takes the id now. Raises WorkerGone where nobody does, and what `there` raises."""
        deadline = trio.current_time() + PATIENCE_S
        while True:
            changed, home = self._changed, self._homes.home(what.key)
            try:
                answer = await self._ask(what, home)
                if _is_declined(answer) and (leaving := self._homes.leaving(home)) is not None:
                    answer = await self._ask(what, self._homes.next_home(what.key), leaving)
            except WorkerGone:
                answer = None
            if answer is not None:
                return answer
            # Dead and not said to be; said to be back and not linked yet; of another view than this worker.
            with trio.move_on_at(min(deadline, trio.current_time() + _AGAIN_S)):
                await changed.wait()
            if trio.current_time() >= deadline:
                raise WorkerGone(home)

    async def _ask(self, what: Submitting, worker: int, declined_by: Life | None = None) -> Any:
        return await (self.take(what, declined_by) if worker == self._me else what.there(worker, declined_by))

    async def take(self, what: Submitting, declined_by: Life | None = None) -> Any:
        """The answer of this worker, to which the id was brought; None where it is another's to take. declined_by: its
        home, which leaves and does not know it."""
        await self._begun.wait()
        homes, key = self._homes, what.key
        if homes.home(key) != self._me and (declined_by is None or not homes.takes_declined(key, declined_by)):
            return None
        owner = self._ownership.home_of_request(what.key)
        if owner == self._me:
            return await what.here()
        self._observer.stood_in_for(owner)
        self._under_way[owner] += 1
        try:
            return await what.here()
        finally:
            self._under_way[owner] -= 1
            self._change()


def _is_declined(answer: Any) -> bool:
    """That worker takes nothing more."""
    return isinstance(answer, Error) and answer.code == "shutting_down"
