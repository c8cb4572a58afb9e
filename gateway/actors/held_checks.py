"""HeldChecks: whether the inbox has the held rows of a page that an earlier process left. A part of LedgerActor.

    unchecked --rows are wanted--> those rows are sure --the rest, when there is time--> checked
        +---------------------the page is wanted whole--------------------------------------^

A process that ends between taking a row out of an inbox and what became of it leaves a row that is held in the archive
and waits nowhere: it was with its device, so it is uncertain. Asking for a whole page takes 88 ms of 65,536 rows, and a
device that returns wants one of them: so that one is asked for, and the others in the background, page by page.

**Sure rows** are asked for once and never again: from then on this process moves them, and a row that is on its way
back into the inbox must not be taken for a lost one.

Waits for: the inbox store. Is waited for by: LedgerActor and whoever fetches.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.clock import Clock
from gateway.columns import Rows
from gateway.core.home import Home
from gateway.errors import StoreError
from gateway.ledger import LedgerPage, Reason, State

#: How long an inbox whose disk failed is left alone.
_RETRY_S = 1.0

#: Which rows of a page wait in an inbox; of these, or of all. Raises StoreError.
StoredRows = Callable[[LedgerPage, Rows | None], Awaitable[Rows]]
_NO_ROWS: Rows = np.zeros(0, np.intp)


class HeldChecks:
    """stored_rows: asks the inboxes. on_checked: told of a page whose rows, those that are here, are sure."""

    def __init__(
        self, *, home: Home, clock: Clock, stored_rows: StoredRows, on_checked: Callable[[LedgerPage], None]
    ) -> None:
        self._home = home
        self._clock = clock
        self._stored_rows = stored_rows
        self._on_checked = on_checked
        #: Of each page that is not checked, the rows that are sure, rising.
        self._sure: dict[int, Rows] = {}
        #: Pages that are being asked for.
        self._asked: list[LedgerPage] = []
        self._to_do: dict[int, None] = {}
        self._bell = Bell()

    def __contains__(self, sequence: object) -> bool:
        """The page is one of an earlier process and not checked."""
        return sequence in self._sure

    def expect(self, sequence: int) -> None:
        """An earlier process has left the page with held rows."""
        self._sure[sequence] = _NO_ROWS

    def forget(self, sequence: int) -> None:
        """It has no held row any more, or there is no such page: its number may be given again."""
        self._sure.pop(sequence, None)

    def is_asking(self, page: LedgerPage) -> bool:
        return any(one is page for one in self._asked)

    def doubtful(self, page: LedgerPage) -> Rows:
        """Rows of a page of which a few are here that are not sure yet; none of one that is checked."""
        sure = self._sure.get(page.batch.address.sequence)
        return _NO_ROWS if sure is None or page.here is None else np.setdiff1d(page.here.rows, sure, assume_unique=True)

    async def check(self, page: LedgerPage) -> None:
        """The page, which is here whole, is checked; held rows that no inbox has are uncertain. One that is checked
        already: nothing is asked. Raises StoreError."""
        sequence = page.batch.address.sequence
        if sequence not in self._sure:
            return
        found = await self._ask(page, None)
        if sequence in self._sure and self._home.page(sequence) is page:
            held = page.state == State.HELD
            held[found] = False
            held[self._sure.pop(sequence)] = False
            self._lose(page, np.flatnonzero(held))
            self._on_checked(page)

    async def check_rows(self, page: LedgerPage, rows: Rows) -> None:
        """The same of these rows of a page of which a few are here; the others will be asked for. Raises StoreError."""
        sequence = page.batch.address.sequence
        found = await self._ask(page, rows)
        sure = self._sure.get(sequence)
        if sure is None or self._home.some_page(sequence) is not page:
            return
        # Others may have asked for the same rows, and have moved them since.
        rows = np.setdiff1d(rows, sure, assume_unique=True)
        self._sure[sequence] = np.union1d(sure, rows)
        self._to_do[sequence] = None
        self._bell.ring()
        self._lose(page, rows[(page.state[rows] == State.HELD) & ~np.isin(rows, found)])
        if page.here is not None and not len(self.doubtful(page)):
            self._on_checked(page)

    async def _ask(self, page: LedgerPage, rows: Rows | None) -> Rows:
        # It stays: a page that was brought back for this would come and go for ever.
        self._asked.append(page)
        try:
            return await self._stored_rows(page, rows)
        finally:
            self._asked = [one for one in self._asked if one is not page]

    def _lose(self, page: LedgerPage, lost: Rows) -> None:
        if len(lost):
            now = self._clock.monotonic()
            # They were with their devices, and the only way to say so is to say it now.
            self._home.move(page, lost, State.IN_FLIGHT, None, now)
            self._home.move(page, lost, State.UNCERTAIN, Reason.PROCESS_ENDED, now)

    async def run(self, fetch: Callable[[int], Awaitable[object]]) -> None:
        """Until cancelled: pages of which some rows were asked for are checked whole. fetch: brings one here, and
        checks it."""
        self._bell.ring()
        while True:
            await self._bell.wait()
            while self._to_do:
                sequence = next(iter(self._to_do))
                try:
                    if sequence in self._sure:
                        await fetch(sequence)
                except StoreError:
                    # Whoever writes or reads the same store says so.
                    await trio.sleep(_RETRY_S)
                self._to_do.pop(sequence, None)
                await trio.lowlevel.checkpoint()
