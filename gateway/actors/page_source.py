"""Where questions find pages: the port, and its answer without an archive. With one, `ledger.py` is the source."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

import trio

from gateway.batch import TaskSegment
from gateway.core.home import Home
from gateway.ledger import LedgerPage
from gateway.store.ports import DayCounts, PageKey
from gateway.tally import PageTally, add_keys


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
            key_of(page)
            for page in self._home.pages()
            if app in (None, page.batch.app) and page.batch.address.unix_ms in unix_ms
        ]
        return sorted(key for key in found if after is None or key > after)[:keys_max]

    async def tallies(self, keys: Sequence[PageKey]) -> list[PageTally | None]:
        """What each of the pages adds to the counters; None for one that is not there."""
        found: list[PageTally | None] = []
        for key in keys:
            await trio.lowlevel.checkpoint()
            page = self._home.some_page(key.sequence)
            is_it = page is not None and page.batch.address.unix_ms == key.unix_ms
            found.append(self._home.counters.settled(page) if page is not None and is_it else None)
        return found

    async def counts(self, days: range) -> DayCounts:
        """Rows by key and cell, as all pages are now."""
        await settle_touched(self._home)
        counters = self._home.counters
        return DayCounts(add_keys([counters.totals()], days), add_keys([counters.gone()], days))

    async def task_keys(self, task_id: bytes) -> list[PageKey]:
        """Pages that may have rows of the task, in the order of their batches."""
        await trio.lowlevel.checkpoint()
        return sorted({key_of(page) for page, _ in self._home.find_task(task_id)})


def key_of(page: LedgerPage) -> PageKey:
    return PageKey(page.batch.address.unix_ms, page.batch.address.sequence)


async def settle_touched(home: Home) -> None:
    """The counters are as the pages of the home are, but for what changes meanwhile. If cancelled: some are."""
    await trio.lowlevel.checkpoint()
    for portion in home.counters.portions():
        home.counters.settle(portion)
        await trio.lowlevel.checkpoint()
