"""ArchivedPages: pages for a question, from memory or the archive; all read-only, and not kept.

Waits for: the ledger archive. Is waited for by: Service and whoever else asks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import trio

from gateway.actors.page_source import MemoryPages, settle_touched
from gateway.batch import TaskSegment
from gateway.clock import Clock
from gateway.core.home import Home
from gateway.errors import StoreCorrupt
from gateway.ledger import LedgerPage
from gateway.message_id import TASK_DOMAIN
from gateway.store.inbox_filing import device_hash
from gateway.store.page_rows import overlay
from gateway.store.pages import page_of
from gateway.store.ports import DayCounts, LedgerArchive, PageKey
from gateway.tally import PageTally, add_keys

#: Rows of an app's newest pages that are searched for one device.
_DEVICE_ROWS_MAX = 20_000_000


class ArchivedPages:
    """A page source (page_source.py)."""

    def __init__(self, *, store: LedgerArchive, home: Home, clock: Clock) -> None:
        self._store = store
        self._home = home
        self._clock = clock
        # A lock, though one actor writes: what a write moves from the counters in memory to those of the archive must
        # be seen once by whoever adds the two.
        self._moving = trio.Lock()
        self._in_memory = MemoryPages(home)

    async def known(self, keys: Sequence[PageKey]) -> set[PageKey]:
        """Those of the pages that the archive has. Raises StoreError."""
        return await self._store.known(keys)

    async def find_row(self, identifier: bytes) -> tuple[LedgerPage, int] | None:
        """The page and row of a message id, from memory or the archive. Raises StoreError."""
        found = self._home.find_row(identifier)
        if found is not None:
            await trio.lowlevel.checkpoint()
            return found
        address = self._home.addresses.decode(identifier)
        if address is None:
            return None
        page = await self._read(PageKey(address.batch.unix_ms, address.batch.sequence))
        return None if page is None or address.row >= page.n else (page, address.row)

    async def task_slices(
        self, task_id: bytes, device_id: bytes | None = None
    ) -> AsyncGenerator[tuple[LedgerPage, TaskSegment], None]:
        """The rows of a task, page by page in the order of their batches; with a device, only pages that may have it.

        Raises StoreError.
        """
        address = self._home.addresses.decode(task_id, TASK_DOMAIN)
        if address is None:
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
        address = self._home.addresses.decode(task_id, TASK_DOMAIN)
        if address is None:
            return []
        own = PageKey(address.batch.unix_ms, address.batch.sequence)
        return sorted({own, *await self._in_memory.task_keys(task_id), *await self._store.parts(task_id)})

    async def _read_to_keep(self, key: PageKey) -> LedgerPage | None:
        """With what the archive counts for it, since it is to change in the home."""
        page = await self._read_archived(key)
        if page is not None:
            (page.archived_tally,) = await self._store.tallies([key])
        return page

    async def _read(self, key: PageKey) -> LedgerPage | None:
        """As it is now: a few of its rows may be in memory, and all of them by the time it has been read."""
        page = await self._read_archived(key)
        here = self._home.some_page(key.sequence)
        if page is None or here is None or here.batch.address != page.batch.address:
            return page
        if here.here is None:
            return here
        overlay(page, here)
        return page

    async def _read_archived(self, key: PageKey) -> LedgerPage | None:
        data = await self._store.read(key)
        if data is None:
            return None
        try:
            now = self._clock.monotonic()
            page = page_of(data, now=now, now_unix_ms=self._home.label(self._clock.unix_ms(), now))
        except ValueError as error:
            raise StoreCorrupt("ledger", f"page {key.sequence} of {key.unix_ms}: {error}") from error
        page.batch.address = self._home.addresses.kept(page.batch.address)
        page.saved = page.changes
        self._home.name_rows(page.batch)
        return page
