"""TaskControl: stops tasks. What is queued, waits or is stored ends cancelled; what is in flight is not tried again.

    Service --stop--> marked: no further submits --> on the disk --> its rows here, by page --> rows at other workers

A row that another worker holds is cancelled there, and told to this one as any outcome; a slice that is still on its
way meets the mark that the question leaves behind (`foreign_stops.py`). The mark outlives a crash where the app's
journal is on the disk: recovery ends open rows of stopped tasks before anything is routed.

Waits for: the log of stopped tasks, answers of other workers, the page source. Is waited for by: Service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import trio

from gateway.clock import Clock
from gateway.columns import I64, Rows
from gateway.core.home import Home, row_tags
from gateway.core.stopping import StoppedTasks, stop_rows, unsettled
from gateway.ledger import LedgerPage
from gateway.message_id import BatchAddress

#: Rows ended in one step: about a millisecond.
STOP_ROWS = 16_384
#: How long the answer waits for other workers' reports of rows that they have ended already.
SETTLE_S = 2.0
_LOOK_S = 0.005


class Ended(NamedTuple):
    """Rows that a stop has cancelled, and of them those whose device may have seen an earlier attempt."""

    cancelled: int
    may_have_arrived: int


class Span(NamedTuple):
    """Rows first..stop of a batch."""

    address: BatchAddress
    first: int
    stop: int


class InboxPort(Protocol):
    def forget(self, tags: I64) -> None: ...


#: Ends rows of these spans at a worker. Raises WorkerGone, Overloaded.
StopAt = Callable[[int, Sequence[Span]], Awaitable[Ended]]
#: The task is marked as stopped since then on the disk. Raises StoreError.
Remember = Callable[[bytes, int], Awaitable[None]]


async def _remember_nothing(_task_id: bytes, _unix_ms: int) -> None:
    await trio.lowlevel.checkpoint()


class Archive(Protocol):
    """As `actors/ledger.py` offers it."""

    async def away_parts(self, task_id: bytes) -> list[int]: ...

    async def fetch(self, sequence: int) -> LedgerPage | None: ...


class TaskControl:
    def __init__(
        self,
        *,
        home: Home,
        inbox: InboxPort,
        clock: Clock,
        stopped: StoppedTasks,
        archive: Archive | None = None,
    ) -> None:
        """archive: where pages are whose rows all wait for their devices; None: in memory."""
        self._home = home
        self._inbox = inbox
        self._clock = clock
        self._archive = archive
        #: Tasks whose pages are being brought back, and what ended in pages that opened meanwhile.
        self._stopping: list[tuple[bytes, list[Ended]]] = []
        self.stopped = stopped
        #: Called with each task: an audience that is not through sends no more.
        self.stop_audience: Callable[[bytes], None] = lambda _task_id: None
        #: Writes a mark down where a journal on disk outlives the process.
        self.remember: Remember = _remember_nothing
        #: Several workers: how rows end at another one.
        self.stop_at: StopAt | None = None

    async def stop(self, task_id: bytes) -> Ended:
        """No row of the task that was not under way goes out any more. Again ends what came back since.

        Raises: StoreError, WorkerGone, Overloaded: then it is stopped here, and is to be called again. If cancelled:
        the same.
        """
        now_unix_ms = self._clock.unix_ms()
        self.stopped.add(task_id, now_unix_ms)
        self.stop_audience(task_id)
        await self.remember(task_id, now_unix_ms)
        cancelled = seen = 0
        spans: dict[int, list[Span]] = {}
        for found in self._home.task_pages(task_id):
            for segment in self._home.segments_of(found, task_id):
                first, stop = segment.first, segment.first + segment.n
                page: LedgerPage | None = found
                for start in range(first, stop, STOP_ROWS):
                    # Asked for in each step: it may leave memory in between, and come back as another object.
                    page = self._home.page(found.batch.address.sequence)
                    if page is None:
                        break
                    some = self.stop_rows(page, np.arange(start, min(start + STOP_ROWS, stop)))
                    cancelled, seen = cancelled + some.cancelled, seen + some.may_have_arrived
                    await trio.lowlevel.checkpoint()
                if page is not None and page.away is not None:
                    workers = np.unique(page.away[first:stop] & 0x7F)
                    for worker in workers[workers != 0].tolist():
                        spans.setdefault(worker - 1, []).append(Span(page.batch.address, first, stop))
        stopping = (task_id, list[Ended]())
        self._stopping.append(stopping)
        try:
            away = await self._stop_away(task_id)
        finally:
            self._stopping = [one for one in self._stopping if one is not stopping]
        for some in (away, *stopping[1]):
            cancelled, seen = cancelled + some.cancelled, seen + some.may_have_arrived
        if spans:
            elsewhere = await self._stop_elsewhere(task_id, spans)
            cancelled, seen = cancelled + elsewhere.cancelled, seen + elsewhere.may_have_arrived
        return Ended(cancelled, seen)

    def stop_rows(self, page: LedgerPage, rows: Rows) -> Ended:
        """One step: the rows end, or will as soon as their attempt does."""
        done = stop_rows(self._home, page, rows, self._clock.monotonic())
        self._inbox.forget(row_tags(page.batch.address.sequence, done.held))
        return Ended(done.cancelled, done.may_have_arrived)

    def opened(self, page: LedgerPage) -> None:
        """Called for each new page: rows of tasks that were stopped while they were on their way end at once."""
        stopped = self.stopped.of(segment.task_id for segment in page.batch.segments) if len(self.stopped) else ()
        for segment in page.batch.segments if stopped else ():
            if segment.task_id in stopped:
                rows = np.arange(segment.first, segment.first + segment.n)
                some = self.stop_rows(page, rows if page.here is None else rows[np.isin(rows, page.here.rows)])
                for counted in [ended for task_id, ended in self._stopping if task_id == segment.task_id][:1]:
                    counted.append(some)

    async def _stop_away(self, task_id: bytes) -> Ended:
        """Rows whose page is in the archive alone. Each slice asks for its page: it may have left again."""
        cancelled = seen = 0
        for sequence in [] if self._archive is None else await self._archive.away_parts(task_id):
            first, n = 0, 1
            while first < n and self._archive is not None and (page := await self._archive.fetch(sequence)) is not None:
                n = page.n
                for segment in self._home.segments_of(page, task_id):
                    start, stop = max(first, segment.first), min(first + STOP_ROWS, segment.first + segment.n)
                    if start < stop:
                        some = self.stop_rows(page, np.arange(start, stop))
                        cancelled, seen = cancelled + some.cancelled, seen + some.may_have_arrived
                first += STOP_ROWS
                await trio.lowlevel.checkpoint()
        return Ended(cancelled, seen)

    async def _stop_elsewhere(self, task_id: bytes, spans: dict[int, list[Span]]) -> Ended:
        assert self.stop_at is not None
        cancelled = seen = 0
        for worker, asked in spans.items():
            some, arrived = await self.stop_at(worker, asked)
            cancelled, seen = cancelled + some, seen + arrived
        with trio.move_on_after(SETTLE_S):
            while self._is_unsettled(task_id):  # noqa: ASYNC110 - reports arrive from workers that ring nobody
                await trio.sleep(_LOOK_S)
        return Ended(cancelled, seen)

    def _is_unsettled(self, task_id: bytes) -> bool:
        """Other workers have not told yet what became of the task's rows."""
        found = self._home.find_task(task_id)
        return any(unsettled(page, segment.first, segment.first + segment.n) for page, segment in found)
