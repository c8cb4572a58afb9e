"""What comes late about rows whose pages may have left memory: receipts, acknowledgements. A queue of LedgerActor's.

A page is brought back once for all that waits for it: where words come faster than pages can be read, more of them wait
for each page, and fewer pages are read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import numpy as np

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
        self,
        fetch: Callable[[int, Rows | None], Awaitable[LedgerPage | None]],
        failed: Callable[[StoreCorrupt], None],
    ) -> None:
        """Nothing waits. fetch: the page, for a change in this step of the loop, of these rows or of all. failed: told
        of pages that cannot be read, for which nobody waits any longer. Raises StoreError: what was not told waits."""
        while self._waiting:
            sequence = next(iter(self._waiting))
            try:
                page = await fetch(sequence, self._rows_of(sequence))
            except StoreCorrupt as error:
                # It will not get better, and others wait behind it.
                failed(error)
                page = None
            waiting = self._waiting[sequence]
            if page is not None and page.here is not None and not _has_all(page, self._rows_of(sequence)):
                # More came meanwhile.
                continue
            del self._waiting[sequence]
            self._n -= len(waiting)
            for rows, then, missing in waiting:
                if page is None:
                    missing()
                else:
                    then(page, rows[rows < page.n])

    def _rows_of(self, sequence: int) -> Rows | None:
        """What is asked for of the page; None: all of it, by one who will look for his rows himself."""
        asked = [rows for rows, _, _ in self._waiting[sequence]]
        return np.unique(np.concatenate(asked)) if all(len(rows) for rows in asked) else None


def _has_all(page: LedgerPage, rows: Rows | None) -> bool:
    return rows is not None and page.here is not None and bool(page.here.has(rows).all())
