"""Spread: what a home does about rows whose devices other workers own: sends them there, and has them back on a death.

    router --send_elsewhere()--> queue of each owner --(credit)--> link --> owner
                                                          outcomes --> Holders --> home's pages
    a worker died --> Holders.take_back --> router.route_again (rows for a worker that is down wait in its queue)

Queue entries are hints, as everywhere: a row leaves only while its page says that it is queued and here, so a row that
expired or was cancelled meanwhile costs its place and nothing else. Rows that wait for credit or for a worker that is
down are *parked*; above `parked_rows_max` intake is refused (`check_room`), what was accepted before is kept.

Waits for: its bell. Is waited for by: nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.actors.link_columns import outcomes_of, slice_of
from gateway.clock import Clock
from gateway.columns import Rows
from gateway.core.holders import Holders, Resends
from gateway.core.home import Home
from gateway.core.ownership import Ownership, split_by_owner
from gateway.errors import Overloaded
from gateway.ledger import LedgerPage, State
from gateway.wire.worker_link.messages import Outcomes, Slice

#: Rows of one slice: cutting and encoding them takes about a millisecond.
SLICE_ROWS_MAX = 8192
#: Bytes of text of one slice, about: they are copied three times on their way.
SLICE_BYTES_MAX = 1 << 20


class SpreadObserver(Protocol):
    """Metrics; called per slice."""

    def sent(self, worker: int, rows: int, size: int) -> None: ...

    def reported(self, worker: int, rows: int, dropped: int) -> None: ...

    def taken_back(self, worker: int, again: int, uncertain: int) -> None: ...


class _Waiting(NamedTuple):
    page: LedgerPage
    rows: Rows


class Spread:
    """me: this worker's index. resends: which rows may go again though a first attempt may have arrived."""

    def __init__(
        self,
        *,
        ownership: Ownership,
        me: int,
        home: Home,
        clock: Clock,
        observer: SpreadObserver,
        resends: Resends,
        parked_rows_max: int,
    ) -> None:
        self._ownership = ownership
        self._me = me
        self._home = home
        self._clock = clock
        self._observer = observer
        self._resends = resends
        self._parked_rows_max = parked_rows_max
        self.holders = Holders(home)
        self._mark_bell = Bell()
        self.holders.marks.on_work = self._mark_bell.ring
        #: Called with a worker and the number of its report, when what this announced is durably known.
        self.on_marked: Callable[[int, int], None] = lambda _worker, _number: None
        self._queues: dict[int, deque[_Waiting]] = {}
        self.parked_rows = 0
        self._deaths: deque[int] = deque()
        self._bell = Bell()
        #: Called with a worker for which rows wait.
        self.on_rows: Callable[[int], None] = lambda _worker: None
        #: Takes rows that came back, to be routed again.
        self.route_again: Callable[[LedgerPage, Rows], None] = lambda _page, _rows: None

    # -- from the intake and the router

    def check_room(self) -> None:
        """Raises Overloaded when too many rows wait for other workers."""
        if self.parked_rows >= self._parked_rows_max:
            raise Overloaded("rows parked for other workers", self.parked_rows, self._parked_rows_max)

    def send_elsewhere(self, page: LedgerPage, rows: Rows) -> Rows:
        """Rows of devices that others own are on their way there; returns the rest. Targets without a device stay."""
        batch = page.batch
        owners = self._ownership.owners(batch.device_ids.take(rows, axis=0))
        if batch.channels is not None:
            owners[batch.channels[rows] != 0] = self._me
        mine, others = split_by_owner(owners, self._me)
        if not others:
            return rows
        now = self._clock.monotonic()
        page.routed_ms[rows] = page.stamp(now)
        for worker, positions in others:
            self._queues.setdefault(worker, deque()).append(_Waiting(page, rows[positions]))
            self.parked_rows += len(positions)
            self.on_rows(worker)
        return rows[mine]

    def waiting_rows(self, worker: int) -> int:
        return sum(len(waiting.rows) for waiting in self._queues.get(worker, ()))

    def is_taking_back(self, worker: int) -> bool:
        """What its last life held is not all here again: its next life is given nothing."""
        return worker in self._deaths

    # -- used by the link

    def next_slice(self, worker: int, rows_max: int) -> Slice | None:
        """The next rows for that worker, which holds them from now on: the caller sends them. None: none wait."""
        if self.is_taking_back(worker):
            # Its next life is there already; what the last one held is taken back first.
            return None
        queue = self._queues.get(worker)
        while queue:
            page, rows = self._take(queue, min(rows_max, self._fitting(queue[0].page)))
            if len(rows):
                self.holders.give(page, rows, worker)
                made = slice_of(page.batch, rows, self._clock.monotonic())
                self._observer.sent(worker, made.n, len(made.record))
                return made
        return None

    def _fitting(self, page: LedgerPage) -> int:
        batch = page.batch
        texts = sum(len(each.blob) for each in batch.variables.values())
        texts += 0 if batch.tokens is None else len(batch.tokens.blob)
        contents = sum(len(variant.title) + len(variant.body) for variant in batch.variants[:64])
        per_row = 24 + texts // batch.n + (contents // min(64, len(batch.variants)) if len(batch.variants) > 1 else 0)
        return max(1, min(SLICE_ROWS_MAX, SLICE_BYTES_MAX // per_row))

    def _take(self, queue: deque[_Waiting], rows_max: int) -> _Waiting:
        """Up to rows_max rows of the first page that are still to be sent; what follows of the same page goes along."""
        page = queue[0].page
        parts: list[Rows] = []
        n = 0
        while queue and queue[0].page is page and n < rows_max:
            rows = queue.popleft().rows
            kept, rest = rows[: rows_max - n], rows[rows_max - n :]
            if len(rest):
                queue.appendleft(_Waiting(page, rest))
            self.parked_rows -= len(kept)
            is_here = page.state[kept] == State.QUEUED
            if page.away is not None:
                is_here &= page.away[kept] == 0
            parts.append(kept[is_here])
            n += len(parts[-1])
        # A row that came back and was queued again may stand in two entries.
        return _Waiting(page, parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts)))

    def on_outcomes(self, worker: int, message: Outcomes) -> None:
        """What that worker says became of rows. Raises ValueError for a report that cannot be read."""
        done = self.holders.report(worker, outcomes_of(message), self._clock.monotonic())
        self._observer.reported(worker, done.rows, done.dropped)

    def on_stray_outcomes(self, worker: int, rows: int) -> None:
        """A report from a life that has ended: counted and dropped."""
        self._observer.reported(worker, 0, rows)

    def on_died(self, worker: int) -> None:
        """That life of the worker has ended, and everything it said has been read."""
        self.holders.marks.forget(worker)
        self._deaths.append(worker)
        self._bell.ring()

    # -- the actor

    async def run(self) -> None:
        """Takes rows back after deaths, page by page, and answers holders, until cancelled. If cancelled: the rest is
        done in the next run."""
        self._bell.ring()
        self._mark_bell.ring()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer)
            while True:
                await self._bell.wait()
                while self._deaths:
                    await self._take_back(self._deaths[0])

    async def _answer(self) -> None:
        while True:
            await self._mark_bell.wait()
            for worker, number in self.holders.marks.advance():
                self.on_marked(worker, number)

    async def _take_back(self, worker: int) -> None:
        for page, again, uncertain in self.holders.take_back(worker, self._resends, self._clock.monotonic()):
            self._observer.taken_back(worker, len(again), len(uncertain))
            if len(again):
                self.route_again(page, again)
            await trio.lowlevel.checkpoint()
        self._deaths.popleft()
        self.on_rows(worker)
