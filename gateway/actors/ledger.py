"""LedgerActor: pages whose rows have all ended go to the archive, and come back when somebody asks for them.

    Home --page is done, or changed after that--> LedgerActor --> archive.write        memory may drop it afterwards
    Service, DeviceOwner --> find_row, task_slices, late ----> archive.read

A page stays in memory as long as there is room (the home drops the oldest); it may be dropped only when the archive has
it as it is. What is read back for a question is read-only and not kept; a late receipt brings its page into the home
again, which makes it change and be written anew.

Waits for: the ledger archive. Is waited for by: Service.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

import trio

from gateway import message_id
from gateway.actors.bell import Bell
from gateway.batch import OwnershipEpoch, TaskSegment, continued_tasks
from gateway.clock import Clock
from gateway.columns import Rows
from gateway.core.home import Home
from gateway.errors import StoreCorrupt, StoreError
from gateway.ledger import LedgerPage
from gateway.store.inbox_filing import device_hash
from gateway.store.pages import page_of, page_parts
from gateway.store.ports import ArchivedPage, DayCounts, LedgerArchive, PageKey
from gateway.tally import PageTally, add_keys, day_of

#: Pages of one write: a turn of the store packs 16 full ones in about a second, and a thousand small ones in as long.
_WRITE_ROWS = 1 << 20
_WRITE_PAGES = 256
#: How long an archive whose disk failed is left alone; operators need seconds to make room.
_RETRY_S = 1.0
#: Late receipts that wait for their page, in calls; beyond it they are dropped and counted as strays.
LATE_MAX = 10_000
#: Rows of an app's newest pages that are searched for one device.
_DEVICE_ROWS_MAX = 20_000_000


class PageSource(Protocol):
    """Where pages are found for a question. What is given is not to be changed."""

    async def find_row(self, identifier: bytes) -> tuple[LedgerPage, int] | None: ...

    def task_slices(
        self, task_id: bytes, device_id: bytes | None = None
    ) -> AsyncGenerator[tuple[LedgerPage, TaskSegment], None]: ...

    def device_pages(self, app: int, device_id: bytes) -> AsyncGenerator[LedgerPage, None]: ...

    async def task_keys(self, task_id: bytes) -> list[PageKey]: ...

    async def page(self, key: PageKey) -> LedgerPage | None: ...

    async def keys(self, app: int | None, unix_ms: range, after: PageKey | None, keys_max: int) -> list[PageKey]: ...

    async def tallies(self, keys: Sequence[PageKey]) -> list[PageTally | None]: ...

    async def counts(self, days: range) -> DayCounts: ...


class MemoryPages:
    """A page source without an archive: what left memory is not found."""

    def __init__(self, home: Home) -> None:
        self._home = home

    async def find_row(self, identifier: bytes) -> tuple[LedgerPage, int] | None:
        await trio.lowlevel.checkpoint()
        return self._home.find_row(identifier)

    async def task_slices(
        self, task_id: bytes, device_id: bytes | None = None
    ) -> AsyncGenerator[tuple[LedgerPage, TaskSegment], None]:
        for page in self._home.task_pages(task_id):
            await trio.lowlevel.checkpoint()
            for segment in self._home.segments_of(page, task_id):
                yield page, segment

    async def device_pages(self, app: int, device_id: bytes) -> AsyncGenerator[LedgerPage, None]:
        """The app's pages in memory, newest first, whether they have the device or not."""
        for page in reversed(list(self._home.pages())):
            if page.batch.app == app:
                await trio.lowlevel.checkpoint()
                yield page

    async def page(self, key: PageKey) -> LedgerPage | None:
        await trio.lowlevel.checkpoint()
        page = self._home.page(key.sequence)
        return page if page is not None and page.batch.address.unix_ms == key.unix_ms else None

    async def keys(self, app: int | None, unix_ms: range, after: PageKey | None, keys_max: int) -> list[PageKey]:
        """Pages whose batches were born in that time, oldest first, from behind `after` on."""
        await trio.lowlevel.checkpoint()
        found = [
            _key(page)
            for page in self._home.pages()
            if app in (None, page.batch.app) and page.batch.address.unix_ms in unix_ms
        ]
        return sorted(key for key in found if after is None or key > after)[:keys_max]

    async def tallies(self, keys: Sequence[PageKey]) -> list[PageTally | None]:
        """What each of the pages adds to the counters; None for one that is not there."""
        found: list[PageTally | None] = []
        for key in keys:
            page = await self.page(key)
            found.append(None if page is None else self._home.counters.settled(page))
        return found

    async def counts(self, days: range) -> DayCounts:
        """Rows by key and cell, as all pages are now."""
        await settle_touched(self._home)
        counters = self._home.counters
        return DayCounts(add_keys([counters.totals()], days), add_keys([counters.gone()], days))

    async def task_keys(self, task_id: bytes) -> list[PageKey]:
        """Pages that may have rows of the task, in the order of their batches."""
        await trio.lowlevel.checkpoint()
        return sorted({_key(page) for page, _ in self._home.find_task(task_id)})


def _key(page: LedgerPage) -> PageKey:
    return PageKey(page.batch.address.unix_ms, page.batch.address.sequence)


async def settle_touched(home: Home) -> None:
    """The counters are as the pages of the home are, but for what changes meanwhile. If cancelled: some are."""
    await trio.lowlevel.checkpoint()
    for portion in home.counters.portions():
        home.counters.settle(portion)
        await trio.lowlevel.checkpoint()


class LedgerObserver(Protocol):
    def archived(self, pages: int) -> None: ...

    def failed(self, error: StoreError) -> None: ...

    def retained(self, pages: int) -> None: ...


class LedgerActor:
    """retention_s, retention_bytes_max, retention_check_s, counter_days_max: see [ledger] in configs/reference.toml."""

    def __init__(
        self,
        *,
        store: LedgerArchive,
        epoch: OwnershipEpoch,
        home: Home,
        secret: bytes,
        clock: Clock,
        observer: LedgerObserver,
        retention_s: float,
        retention_bytes_max: int,
        retention_check_s: float,
        counter_days_max: int,
    ) -> None:
        self._store = store
        self._epoch = epoch
        self._home = home
        self._secret = secret
        self._clock = clock
        self._observer = observer
        self._retention_s = retention_s
        self._retention_bytes_max = retention_bytes_max
        self._retention_check_s = retention_check_s
        self._counter_days_max = counter_days_max
        # A lock, though one actor writes: what a write moves from the counters in memory to those of the archive must
        # be seen once by whoever adds the two.
        self._moving = trio.Lock()
        self._in_memory = MemoryPages(home)
        self._bell = Bell()
        #: Pages that the archive has not got as they are; bounded by what the home keeps in memory.
        self._unsaved: OrderedDict[int, LedgerPage] = OrderedDict()
        self._late: deque[tuple[int, Rows, Callable[[LedgerPage, Rows], None], Callable[[], None]]] = deque()

    async def load(self) -> None:
        """New batches get addresses behind those of the archive, and pages that end are followed. Raises StoreError."""
        newest = await self._store.newest(None)
        if newest is not None:
            self._home.begin_after(newest.sequence, newest.unix_ms)
        self._home.on_done = self._done
        self._home.may_drop = self._is_saved

    def _done(self, page: LedgerPage) -> None:
        self._unsaved[page.batch.address.sequence] = page
        self._bell.ring()

    def _is_saved(self, page: LedgerPage) -> bool:
        return self._unsaved.get(page.batch.address.sequence) is not page

    @property
    def unsaved_pages(self) -> int:
        return len(self._unsaved)

    def late(
        self,
        sequence: int,
        rows: Rows,
        then: Callable[[LedgerPage, Rows], None],
        missing: Callable[[], None] = lambda: None,
    ) -> bool:
        """The newest page of the sequence will be brought back, and `then` told, or `missing` where there is none;
        False where too many wait."""
        if len(self._late) >= LATE_MAX:
            return False
        self._late.append((sequence, rows, then, missing))
        self._bell.ring()
        return True

    # -- looking up; all read-only, and not kept

    async def known(self, keys: Sequence[PageKey]) -> set[PageKey]:
        """Those of the pages that the archive has. Raises StoreError."""
        return await self._store.known(keys)

    async def find_row(self, identifier: bytes) -> tuple[LedgerPage, int] | None:
        """The page and row of a message id, from memory or the archive. Raises StoreError."""
        found = self._home.find_row(identifier)
        if found is not None:
            await trio.lowlevel.checkpoint()
            return found
        address = message_id.decode(self._secret, identifier)
        if address is None or not self._home.is_ours(address.batch):
            return None
        page = await self._read(PageKey(address.batch.unix_ms, address.batch.sequence))
        return None if page is None or address.row >= page.n else (page, address.row)

    async def task_slices(
        self, task_id: bytes, device_id: bytes | None = None
    ) -> AsyncGenerator[tuple[LedgerPage, TaskSegment], None]:
        """The rows of a task, page by page in the order of their batches; with a device, only pages that may have it.

        Raises StoreError.
        """
        address = message_id.decode(self._secret, task_id, message_id.TASK_DOMAIN)
        if address is None or not self._home.is_ours(address.batch):
            return
        in_memory = {
            PageKey(page.batch.address.unix_ms, page.batch.address.sequence): page
            for page in self._home.task_pages(task_id)
        }
        keys = {PageKey(address.batch.unix_ms, address.batch.sequence), *in_memory, *await self._store.parts(task_id)}
        archived = sorted(keys - in_memory.keys())
        if device_id is not None and archived:
            archived = await self._store.with_device(archived, device_hash(device_id), 0)
        for key in sorted([*in_memory, *archived]):
            page = in_memory[key] if key in in_memory else await self._read(key)
            if page is not None:
                for segment in self._home.segments_of(page, task_id):
                    yield page, segment

    async def device_pages(self, app: int, device_id: bytes) -> AsyncGenerator[LedgerPage, None]:
        """The app's pages in memory, then archived ones that may have the device; newest first. Raises StoreError."""
        known = set()
        async with aclosing(MemoryPages(self._home).device_pages(app, device_id)) as pages:
            async for page in pages:
                known.add(PageKey(page.batch.address.unix_ms, page.batch.address.sequence))
                yield page
        for key in await self._store.with_device(app, device_hash(device_id), _DEVICE_ROWS_MAX):
            if key not in known and (archived := await self._read(key)) is not None:
                yield archived

    async def page(self, key: PageKey) -> LedgerPage | None:
        """From memory or the archive. Raises StoreError."""
        found = await self._in_memory.page(key)
        return await self._read(key) if found is None else found

    async def keys(self, app: int | None, unix_ms: range, after: PageKey | None, keys_max: int) -> list[PageKey]:
        """Pages whose batches were born in that time, oldest first, from behind `after` on. Raises StoreError."""
        found = set(await self._in_memory.keys(app, unix_ms, after, keys_max))
        found.update(await self._store.keys(app, unix_ms, after, keys_max))
        return sorted(found)[:keys_max]

    async def tallies(self, keys: Sequence[PageKey]) -> list[PageTally | None]:
        """What each of the pages adds to the counters; None for one that is not there. Raises StoreError."""
        archived = await self._store.tallies(keys)
        in_memory = await self._in_memory.tallies(keys)
        return [old if new is None else new for old, new in zip(archived, in_memory, strict=True)]

    async def counts(self, days: range) -> DayCounts:
        """Rows by key and cell, as all pages are now; gone: of pages that are deleted. Raises StoreError."""
        await settle_touched(self._home)
        async with self._moving:
            archived = await self._store.counts(days.start, days.stop - 1)
            counters = self._home.counters
            return DayCounts(
                add_keys([archived.kept, counters.totals()], days), add_keys([archived.gone, counters.gone()], days)
            )

    async def task_keys(self, task_id: bytes) -> list[PageKey]:
        """Pages that may have rows of the task, in the order of their batches. Raises StoreError."""
        address = message_id.decode(self._secret, task_id, message_id.TASK_DOMAIN)
        if address is None or not self._home.is_ours(address.batch):
            return []
        own = PageKey(address.batch.unix_ms, address.batch.sequence)
        return sorted({own, *await self._in_memory.task_keys(task_id), *await self._store.parts(task_id)})

    async def _read(self, key: PageKey) -> LedgerPage | None:
        data = await self._store.read(key)
        if data is None:
            return None
        try:
            page = page_of(data, now=self._clock.monotonic(), now_unix_ms=self._clock.unix_ms())
        except ValueError as error:
            raise StoreCorrupt("ledger", f"page {key.sequence} of {key.unix_ms}: {error}") from error
        self._home.encode_rows(page.batch, 0, page.n)
        return page

    # -- work

    async def run(self) -> None:
        """Works until cancelled. If cancelled: what was not written is so by the next run."""
        self._bell.ring()
        next_check = trio.current_time()
        while True:
            with trio.move_on_at(next_check):
                await self._bell.wait()
            try:
                await self._bring_back()
                await self.flush()
                if trio.current_time() >= next_check:
                    next_check = trio.current_time() + self._retention_check_s
                    await self._retain()
            except StoreError as error:
                self._observer.failed(error)
                await trio.sleep(_RETRY_S)
                self._bell.ring()

    async def flush(self) -> None:
        """Every page that is done is in the archive as it is. Raises StoreError."""
        while self._unsaved:
            pages: list[LedgerPage] = []
            rows = 0
            for page in self._unsaved.values():
                pages.append(page)
                rows += page.n
                if rows >= _WRITE_ROWS or len(pages) >= _WRITE_PAGES:
                    break
            await self._write(pages)

    async def _write(self, pages: list[LedgerPage]) -> None:
        changes = [page.changes for page in pages]
        forms = []
        for page in pages:
            tally = self._home.counters.settled(page)
            forms.append(_archived(page, tally))
            await trio.lowlevel.checkpoint()
        async with self._moving:
            await self._store.write(self._epoch, forms)
            for page, form in zip(pages, forms, strict=True):
                self._home.counters.archived(page, form.tally)
        self._observer.archived(len(pages))
        for page, seen in zip(pages, changes, strict=True):
            if self._home.trail is not None:
                self._home.trail.archived(page)
            sequence = page.batch.address.sequence
            if page.changes == seen and self._unsaved.get(sequence) is page:
                del self._unsaved[sequence]
            elif sequence in self._unsaved:
                self._unsaved.move_to_end(sequence)

    async def _bring_back(self) -> None:
        while self._late:
            sequence, rows, then, missing = self._late[0]
            page = self._home.page(sequence)
            if page is None:
                key = await self._store.newest(sequence)
                page = None if key is None else await self._read(key)
                (tally,) = await self._store.tallies([] if key is None else [key]) or [None]
                # Another late receipt, or a new batch of that number, may have come meanwhile.
                if page is not None and self._home.page(sequence) is None:
                    self._home.adopt(page, tally)
            self._late.popleft()
            if page is None:
                missing()
            else:
                then(page, rows[rows < page.n])

    async def _retain(self) -> None:
        oldest = self._clock.unix_ms() - int(self._retention_s * 1000)
        deleted = await self._store.retain(self._epoch, oldest, self._retention_bytes_max)
        if deleted:
            self._observer.retained(deleted)
        today = day_of(self._clock.unix_ms(), self._home.counters.day_offset_s)
        await self._store.forget_days(self._epoch, today - self._counter_days_max)


def _archived(page: LedgerPage, tally: PageTally) -> ArchivedPage:
    batch = page.batch
    return ArchivedPage(
        key=PageKey(batch.address.unix_ms, batch.address.sequence),
        app=batch.app,
        rows=page.n,
        device_ids=batch.device_ids,
        long_tasks=continued_tasks(batch),
        parts=page_parts(page),
        tally=tally,
    )
