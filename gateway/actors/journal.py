"""JournalActor: one worker's journal on disk, as the others use it: intake appends, lanes wait for marks, batches go.

    Intake --append--> journal                              (answered when durable)
    lanes, long link --trail.mark--> dirty --one record--> journal --> rung: bytes may leave
    Home.move --trail.moved--> dirty --after outcome_wait_s, or with the next mark--> journal
    last row final --> request ids to their log --> batch let go --> marks let go

Outcomes wait a little for company: most batches are final within that time and need no record of them at all. A row
whose outcome is not written yet still counts in its window (core/trail.py).

When the disk refuses: appends fail and say so, and intake is refused until a try after `retry_s` works. Marks fail too,
after the room that the log keeps for them; then rows that were accepted still go out, unmarked, and each is counted
(`rows_issued_unmarked`): after a crash it would be sent again without anybody knowing that it was twice.

Waits for: the journal, its request log, the registry. Is waited for by: Intake, InboxActor; lanes and router are rung.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.batch import OwnershipEpoch
from gateway.clock import Clock, ElapsedUnix
from gateway.columns import Rows
from gateway.core.home import Home
from gateway.core.receipt_notes import ReceiptNotes
from gateway.core.request_ids import Entries, entry
from gateway.core.trail import Ring, Trail
from gateway.errors import StoreError, StoreUnavailable
from gateway.ledger import Channel, LedgerPage
from gateway.marks import NO_POSITION
from gateway.message_id import RowAddress
from gateway.store.marks import Count, encode_count, encode_marks
from gateway.store.ports import Journal, JournalRecord
from gateway.store.receipt_records import encode_receipts

#: Pages in one record of outcomes; a snapshot costs some 10 us.
_PAGES_MAX = 128
#: Batches let go in one call.
_FINAL_MAX = 1024
#: How often holders are asked for rows that they have marked and cannot issue.
_STALLS_S = 0.25


class JournalObserver(Protocol):
    def written(self, what: str, seconds: float) -> None: ...

    def failed(self, error: StoreError) -> None: ...

    def works_again(self) -> None: ...

    def issued_unmarked(self, rows: int) -> None: ...


class RequestIdLog(Protocol):
    """As `store/request_log.py`; blocks."""

    def append(self, entries: Entries, forget_before_unix_ms: int) -> None: ...


class Registry(Protocol):
    """The registry on the disk, as `actors/registry.py` offers it."""

    @property
    def is_behind(self) -> bool: ...

    async def wait_written(self) -> None: ...


class JournalActor:
    """outcome_wait_s, retry_s: see [journal] in configs/reference.toml. request_age_ms: how long request ids live.

    incarnation: starts of this journal, this one included. damage: what recovery found broken, "" for nothing; while it
    stays in the journal nothing is taken.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        trail: Trail,
        notes: ReceiptNotes,
        home: Home,
        request_log: RequestIdLog,
        epoch: OwnershipEpoch,
        clock: Clock,
        observer: JournalObserver,
        outcome_wait_s: float,
        retry_s: float,
        request_age_ms: int,
    ) -> None:
        self._journal = journal
        self.trail = trail
        self.notes = notes
        self._home = home
        self._request_log = request_log
        self._epoch = epoch
        self._clock = clock
        self._ages = ElapsedUnix(clock)
        self._observer = observer
        self._outcome_wait_s = outcome_wait_s
        self._retry_s = retry_s
        self._request_age_ms = request_age_ms
        #: Devices that are known are to be so durably before rows for them are taken; None where they never are.
        self.registry: Registry | None = None
        self.incarnation = 0
        self.damage = ""
        #: Why intake is refused, until when; and until when no marks are tried, which have room of their own.
        self._fault: StoreError | None = None
        self._retry_at = 0.0
        self._marks_retry_at = 0.0
        self._count: Count | None = None
        self._count_position: int | None = None
        #: Positions of records that nobody needs, beside those of the trail.
        self.spent: list[int] = []
        #: Called now and then; each takes back marks of rows that its holder cannot issue.
        self.holders: list[Callable[[], None]] = []
        self._bell = Bell()
        self._urgent = Bell()
        self._final = Bell()
        trail.on_work = notes.on_work = self._on_work

    def _on_work(self) -> None:
        if self._has_dirty:
            self._bell.ring()
        if self.trail.is_urgent or self.notes.is_awaited:
            self._urgent.ring()
        if self.notes.has_free:
            self.let_go(self.notes.take_free())
        if self.trail.has_final:
            self._final.ring()

    @property
    def _has_dirty(self) -> bool:
        return self.trail.has_dirty or self.notes.has_noted

    # -- used by the intake

    def check(self) -> None:
        """Raises StoreUnavailable while nothing can be made durable."""
        if self.damage:
            raise StoreUnavailable(self.damage, retry_after_s=60.0)
        if self._fault is not None and trio.current_time() < self._retry_at:
            raise StoreUnavailable(str(self._fault), retry_after_s=self._retry_s)

    @property
    def fault(self) -> str:
        """Why nothing is taken; "" while all is well."""
        return self.damage or ("" if self._fault is None else str(self._fault))

    async def append(self, records: Sequence[JournalRecord]) -> Sequence[int]:
        """The records are durable. Raises StoreUnavailable; then none of them will be replayed, but where a disk failed
        so that nobody knows. Not cancelled once begun: the caller would not know whether to append them again."""
        started = trio.current_time()
        if self.registry is not None and self.registry.is_behind:
            # Its errors are told to those who register; what is taken here does not depend on them.
            with contextlib.suppress(StoreError):
                await self.registry.wait_written()
        try:
            with trio.CancelScope(shield=True):
                positions = await self._journal.append(self._epoch, records)
        except StoreError as error:
            self._failed(error)
            raise StoreUnavailable(str(error), retry_after_s=self._retry_s) from error
        self._works()
        self._observer.written("batches", trio.current_time() - started)
        return positions

    def follow(self, page: LedgerPage, position: int) -> None:
        """The page's batch is durable there; what becomes of its rows is written down from now on."""
        self.trail.follow(page, position)

    def let_go(self, positions: Sequence[int]) -> None:
        """These records are needed by nobody."""
        self.spent += positions
        self._final.ring()

    # -- the actor

    async def run(self) -> None:
        """Writes and lets go until cancelled. If cancelled: what was not written is so by the next run."""
        self._ages.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            nursery.start_soon(self._let_go)
            nursery.start_soon(self._watch_stalls)
            self._on_work()
            self._final.ring()
            try:
                # The next incarnation.
                await self._note_count()
            except StoreError as error:
                self._failed(error)

    async def finish(self) -> None:
        """Everything that is known is written. If cancelled: some of it is not."""
        while self._has_dirty or self.trail.has_final or self.spent:  # noqa: ASYNC110 - once, at the end
            await trio.sleep(0.01)

    async def _write(self) -> None:
        while True:
            await self._bell.wait()
            while self._has_dirty:
                if not (self.trail.is_urgent or self.notes.is_awaited):
                    wait_s = max(self._outcome_wait_s, self._marks_retry_at - trio.current_time())
                    with trio.move_on_after(wait_s):
                        await self._urgent.wait()
                await self._write_marks()

    async def _write_marks(self) -> None:
        taken, noted = self.trail.take(_PAGES_MAX), self.notes.take()
        if taken is None and noted is None:
            await trio.lowlevel.checkpoint()
            return
        is_done = False
        try:
            if trio.current_time() >= self._marks_retry_at:
                records = []
                if taken is not None:
                    label = self._home.label(self._clock.unix_ms(), self._clock.monotonic())
                    records.append(encode_marks(label, taken.marks))
                if noted is not None:
                    records.append(encode_receipts(noted.notes))
                started = trio.current_time()
                # Not to be cut: what was taken must become written or unwritten.
                with trio.CancelScope(shield=True):
                    positions = await self._journal.append(self._epoch, records)
                self._observer.written("marks", trio.current_time() - started)
                is_done = True
                if noted is not None:
                    self.notes.written(noted, positions[-1])
                if taken is not None:
                    _ring(self.trail.written(taken, positions[0]))
        except StoreError as error:
            self._marks_retry_at = trio.current_time() + self._retry_s
            self._failed(error)
        finally:
            if not is_done:
                if noted is not None:
                    self.notes.unwritten(noted)
                if taken is not None:
                    if taken.issued_rows:
                        self._observer.issued_unmarked(taken.issued_rows)
                    _ring(self.trail.unwritten(taken))
        await trio.lowlevel.checkpoint()

    async def _let_go(self) -> None:
        while True:
            await self._final.wait()
            while self.trail.has_final or self.spent:
                # Company costs nothing but the time until their windows have room again.
                await trio.sleep(self._retry_s if self._fault else self._outcome_wait_s)
                await self._let_some_go()

    async def _let_some_go(self) -> None:
        batches = self.trail.take_final(_FINAL_MAX)
        free, spent = self.trail.take_free(), self.spent
        self.spent = []
        is_done = False
        try:
            with trio.CancelScope(shield=True):
                entries = _entries([page for page, trail in batches if trail.position != NO_POSITION])
                if len(entries):
                    before_ms = self._ages.unix_ms() - self._request_age_ms
                    await trio.to_thread.run_sync(self._request_log.append, entries, before_ms)
                # Numbers and labels of batches that are gone must not be given again.
                await self._note_count()
                positions = [trail.position for _, trail in batches if trail.position != NO_POSITION]
                await self._journal.release(self._epoch, [*positions, *free, *spent])
            is_done = True
        except StoreError as error:
            self._failed(error)
        finally:
            if is_done:
                _ring(self.trail.released(batches))
                for page, _ in () if self.notes.has_archive else batches:
                    self.notes.archived(page)
            else:
                self.trail.put_back_final(batches)
                self.trail.put_back_free(free)
                self.spent += spent

    async def _note_count(self) -> None:
        """How far sequences and labels have come is durable, where they have moved. Raises StoreError."""
        home = self._home
        count = Count(self.incarnation, home.label(self._clock.unix_ms(), self._clock.monotonic()), home.next_sequence)
        if self._count is not None and self._count.sequence == count.sequence:
            return
        (position,) = await self._journal.append(self._epoch, [encode_count(count)])
        if self._count_position is not None:
            self.spent.append(self._count_position)
            self._final.ring()
        self._count, self._count_position = count, position

    async def _watch_stalls(self) -> None:
        while True:
            await trio.sleep(_STALLS_S)
            for take_back in self.holders:
                take_back()

    # -- disks that fail

    def _failed(self, error: StoreError) -> None:
        self._retry_at = trio.current_time() + self._retry_s
        self._fault = error
        self._observer.failed(error)

    def _works(self) -> None:
        if self._fault is not None:
            self._fault = None
            self._observer.works_again()


def _ring(rings: Sequence[Ring]) -> None:
    for ring in rings:
        ring()


def _entries(pages: Sequence[LedgerPage]) -> Entries:
    """What the request log is to hold of these batches."""
    found = [
        entry(request.key, request.digest, RowAddress(page.batch.address, request.row))
        for page in pages
        for request in page.batch.requests
    ]
    return np.array(found, np.uint64).reshape(-1, 3)


class IssueMarks:
    """The trail as the lanes of one (app, channel) see it."""

    def __init__(self, trail: Trail, app: int, channel: Channel) -> None:
        self._trail = trail
        self._channel = channel
        self.room: Callable[[Ring], int] = functools.partial(trail.room, app, channel)
        self.is_durable = trail.is_durable
        self.unmark = trail.unmark

    def mark(self, page: LedgerPage, rows: Rows, ring: Ring) -> int:
        return self._trail.mark(page, rows, self._channel, ring)
