"""CallbackHistory: what an app's service was told, and what it was not, across processes. One per app with callbacks.

    Callbacks --told up to then--> ledger archive          at most once a second, after something was told
    start: told() --> changes since then: pages in memory (out of the journal), then archived ones --> Callbacks

Waits for: the ledger archive. Is waited for by: Callbacks of its app.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

import numpy as np
import trio

from gateway.clock import Clock, ElapsedUnix
from gateway.core.changes import Change
from gateway.core.home import Home
from gateway.core.untold import untold
from gateway.ledger import IS_FINAL, LedgerPage
from gateway.store.ports import PageKey

#: Pages named in one read.
_KEYS_MAX = 256
#: A change is told again where it came so shortly before the moment up to which all was told: two batches' clocks may
#: differ by the rounding of their births.
MARGIN_MS = 1000


class Archive(Protocol):
    """As `actors/ledger.py` offers it."""

    async def told(self, app: int) -> int | None: ...

    async def tell(self, app: int, unix_ms: int) -> None: ...

    async def changed(self, app: int, since_unix_ms: int, after: PageKey | None, keys_max: int) -> list[PageKey]: ...

    async def page(self, key: PageKey) -> LedgerPage | None: ...


class CallbackHistory:
    def __init__(self, *, archive: Archive, home: Home, clock: Clock, app: int) -> None:
        self._archive = archive
        self._home = home
        self._app = app
        self._clock = clock
        self._elapsed = ElapsedUnix(clock, lambda: home.label(clock.unix_ms(), clock.monotonic()))
        self._elapsed.begin()

    def now_unix_ms(self) -> int:
        """No later than changes are timed from now on. A page's times go on from its birth with the monotonic clock: a
        wall clock that was set forward meanwhile is ahead of those of older pages. (What came since is told again,
        then.)"""
        return self._elapsed.unix_ms()

    async def begin(self) -> int | None:
        """Up to when everything was told by processes before; None for the first one, which begins now. Raises
        StoreError."""
        since = await self._archive.told(self._app)
        if since is None:
            await self._archive.tell(self._app, self.now_unix_ms())
        return since

    async def tell(self, unix_ms: int) -> None:
        """Every change before that was told. Raises StoreError."""
        await self._archive.tell(self._app, unix_ms - MARGIN_MS)

    async def changes(self, since_unix_ms: int) -> AsyncGenerator[Change, None]:
        """Changes since then, page by page. Raises StoreError."""
        seen = set()
        for page in [page for page in self._home.pages() if page.batch.app == self._app]:
            seen.add(PageKey(page.batch.address.unix_ms, page.batch.address.sequence))
            self._stamp(page)
            await trio.lowlevel.checkpoint()
            for change in untold(page, since_unix_ms):
                yield change
        for few in [page for page in self._home.few_pages() if page.batch.app == self._app]:
            # What of it is not written yet is news, too.
            key = PageKey(few.batch.address.unix_ms, few.batch.address.sequence)
            found = None if key in seen else await self._archive.page(key)
            seen.add(key)
            for change in [] if found is None else untold(found, since_unix_ms):
                yield change
        after: PageKey | None = None
        while keys := await self._archive.changed(self._app, since_unix_ms, after, _KEYS_MAX):
            for after in keys:
                archived = None if after in seen else await self._archive.page(after)
                for change in [] if archived is None else untold(archived, since_unix_ms):
                    yield change

    def _stamp(self, page: LedgerPage) -> None:
        """Rows that ended before a crash, and of which only a mark was left, ended now at the latest: their page is
        found again if this process ends before it has told of them."""
        rows = np.flatnonzero(IS_FINAL[page.state] & (page.final_ms == 0))
        if len(rows):
            page.final_ms[rows] = page.stamp(self._clock.monotonic())
            page.note_changes(rows)
            if page.n_open:
                self._home.kept(page, 0)
            else:
                self._home.on_done(page)
