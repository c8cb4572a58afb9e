"""RowLoads: a few rows of pages that are away are in memory, without the rest of their pages. A part of LedgerActor.

A device that returns needs one row; its page is 1.3 MB. So its row is read (store/page_rows.py), delivered, and what
became of it is written as a record beside the page, while the page stays away. Of one page one load is under way at a
time, for all who wait: a row that is read must not change meanwhile. A page of which more and more is wanted is brought
back whole: so many rows cost as much.

Waits for: the ledger archive. Is waited for by: InboxActor, LedgerActor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import numpy as np
import trio

from gateway.clock import Clock
from gateway.columns import Rows
from gateway.core.counters import others_of
from gateway.core.home import Home
from gateway.errors import LocalProtocolError, StoreCorrupt
from gateway.ledger import LedgerPage
from gateway.store.page_rows import add_rows, few_of
from gateway.store.ports import LedgerArchive, PageKey
from gateway.tally import PageTally

#: Rows of a page beyond which it is brought back whole: some 4 ms, as sixteen loads of one row are.
FEW_ROWS_MAX = 16


class Listener(Protocol):
    """on_adopted: told of a page when the first of its rows are here. some_came: and whenever some came."""

    on_adopted: Callable[[LedgerPage], None]

    def some_came(self, page: LedgerPage) -> None: ...


class RowLoads:
    """fetch: brings a page back whole; is_whole: whether that page has to be, or is on its way."""

    def __init__(
        self,
        *,
        home: Home,
        store: LedgerArchive,
        clock: Clock,
        fetch: Callable[[int], Awaitable[LedgerPage | None]],
        is_whole: Callable[[int], bool],
        listener: Listener,
    ) -> None:
        self._home = home
        self._store = store
        self._clock = clock
        self._fetch = fetch
        self._is_whole = is_whole
        self._listener = listener
        #: By page, what is wanted of it, and who waits for the load under way.
        self._wanted: dict[int, list[Rows]] = {}
        self._under_way: dict[int, trio.Event] = {}

    def is_loading(self, sequence: int) -> bool:
        return sequence in self._under_way

    async def fetch(self, sequence: int, rows: Rows) -> LedgerPage | None:
        """These rows of the newest page of the sequence are in the home and may be changed, in this step of the loop;
        None where there is none, or none that has open rows. Raises StoreError."""
        home = self._home
        while True:
            page, away = home.some_page(sequence), home.away_pages.get(sequence)
            if away is None or self._is_whole(sequence) or (page is not None and page.here is None):
                return await self._fetch(sequence)
            if page is not None and page.here is not None and bool(page.here.has(rows).all()):
                return page
            n = len(rows) if page is None or page.here is None else len(rows) + len(page.here)
            if n > FEW_ROWS_MAX:
                return await self._fetch(sequence)
            self._wanted.setdefault(sequence, []).append(rows)
            is_loaded = self._under_way.get(sequence)
            if is_loaded is not None:
                await is_loaded.wait()
                continue
            is_loaded = self._under_way[sequence] = trio.Event()
            try:
                is_done = await self._load(PageKey(away.address.unix_ms, sequence), page)
            finally:
                del self._under_way[sequence]
                is_loaded.set()
            if not is_done:
                return await self._fetch(sequence)

    async def _load(self, key: PageKey, page: LedgerPage | None) -> bool:
        """Whether it is worth to look again; False: the page is to be read whole."""
        rows: Rows = np.unique(np.concatenate(self._wanted.pop(key.sequence)))
        n = len(rows)
        if page is not None and page.here is not None:
            rows = rows[~page.here.has(rows)]
            n = len(rows) + len(page.here)
        if n > FEW_ROWS_MAX:
            return False
        try:
            found = await self._store.read_rows(key, rows)
        except StoreCorrupt:
            # Whoever reads it whole says what is wrong with it.
            return False
        if found is None:
            return False
        away, here = self._home.away_pages.get(key.sequence), self._home.some_page(key.sequence)
        if away is None or away.address.unix_ms != key.unix_ms or here is not page:
            return True
        now = self._clock.monotonic()
        fresh = few_of(found, now=now, now_unix_ms=self._home.label(self._clock.unix_ms(), now))
        try:
            before = found.tally if page is None or page.others is None else page.others
            others = others_of(fresh, rows, before, self._home.counters.day_offset_s)
        except LocalProtocolError:
            # The archive counts for the page what its rows are not. Whole it is counted anew.
            return False
        if page is None:
            self._adopt(fresh, others, found.tally)
        elif page.here is not None:
            add_rows(page, found)
            page.others = others
            self._home.resized(page)
            self._listener.some_came(page)
        return True

    def _adopt(self, page: LedgerPage, others: PageTally, archived: PageTally) -> None:
        page.batch.address = self._home.addresses.kept(page.batch.address)
        page.others, page.archived_tally = others, archived
        self._home.name_rows(page.batch)
        self._home.adopt(page)
        self._listener.on_adopted(page)
        self._listener.some_came(page)
