"""What comes late about rows whose pages may have left memory: receipts, acknowledgements. A queue of LedgerActor's.

A page is brought back once for all that waits for it: where words come faster than pages can be read, more of them wait
for each page, and fewer pages are read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from gateway.columns import Rows
from gateway.errors import StoreCorrupt
from gateway.ledger import LedgerPage

#: Words that wait for their page, in calls; beyond it they are dropped and counted as strays.
LATE_MAX = 10_000

#: Told of the page, for a change in this step of the loop, and of the rows that were asked for.
Then: TypeAlias = Callable[[LedgerPage, Rows], None]


class LateWords:
    def __init__(self) -> None:
        #: By sequence, in the order in which they came.
        self._waiting: dict[int, list[tuple[Rows, Then, Callable[[], None]]]] = {}
        self._n = 0

    def add(self, sequence: int, rows: Rows, then: Then, missing: Callable[[], None]) -> bool:
        """`then` will be told of the page, or `missing` called where there is none; False where too many wait."""
        if self._n >= LATE_MAX:
            return False
        self._waiting.setdefault(sequence, []).append((rows, then, missing))
        self._n += 1
        return True

    async def bring(
        self, fetch: Callable[[int], Awaitable[LedgerPage | None]], failed: Callable[[StoreCorrupt], None]
    ) -> None:
        """Nothing waits. fetch: the page, for a change in this step of the loop. failed: told of pages that cannot be
        read, for which nobody waits any longer. Raises StoreError: what was not told waits."""
        while self._waiting:
            sequence = next(iter(self._waiting))
            try:
                page = await fetch(sequence)
            except StoreCorrupt as error:
                # It will not get better, and others wait behind it.
                failed(error)
                page = None
            waiting = self._waiting.pop(sequence)
            self._n -= len(waiting)
            for rows, then, missing in waiting:
                if page is None:
                    missing()
                else:
                    then(page, rows[rows < page.n])
