"""Rendered rows of a lane that wait for room on a connection, and for the mark that they are about to be issued.

Where a journal on disk holds the app's batches, a lane renders ahead: while one burst's mark is being written the next
one is rendered, so that the connection does not wait for the disk. What is ahead is bounded by a burst's rows, by the
window of the marks, and by the number of bursts, each of which is a page in the record of the marks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from gateway.actors.lane_ports import Marks
from gateway.actors.rendering import RenderedBurst
from gateway.columns import Rows
from gateway.ledger import LedgerPage
from gateway.marks import NO_TICKET

_AHEAD_BURSTS = 64
#: More rows than a batch has.
_NO_LIMIT = 1 << 17


class Unsent(NamedTuple):
    """Rendered rows from `start` on; they go out next, unless something about them changed. ticket: of their mark."""

    page: LedgerPage
    rendered: RenderedBurst
    start: int
    authorization: bytes
    rendered_at: float
    ticket: int = NO_TICKET

    @property
    def rows(self) -> Rows:
        return self.rendered.rows[self.start :]


class AheadOfMarks:
    """unsent: the lane's rendered rows. marks: None where the app's batches are in memory: then nothing waits for a
    mark, and nothing is rendered ahead. ring: wakes the lane."""

    def __init__(self, unsent: deque[Unsent], marks: Marks | None, *, rows_max: int, ring: Callable[[], None]) -> None:
        self._unsent = unsent
        self._marks = marks
        self._rows_max = rows_max
        self._ring = ring
        #: The first of the rendered that could have left when stalls were last looked for.
        self._waited: Unsent | None = None

    def add(self, page: LedgerPage, burst: RenderedBurst, authorization: bytes, now: float) -> None:
        ticket = NO_TICKET if self._marks is None else self._marks.mark(page, burst.rows, self._ring)
        self._unsent.append(Unsent(page, burst, 0, authorization, now, ticket))

    def may_send(self) -> bool:
        """There are rendered rows, and the mark of the first is durable."""
        return bool(self._unsent) and (self._marks is None or self._marks.is_durable(self._unsent[0].ticket))

    def room(self) -> int:
        """Rows that may be rendered now."""
        if self._marks is None:
            return 0 if self._unsent else _NO_LIMIT
        if len(self._unsent) >= _AHEAD_BURSTS:
            return 0
        ahead = self._rows_max - sum(len(unsent.rows) for unsent in self._unsent)
        return min(ahead, self._marks.room(self._ring)) if ahead > 0 else 0

    def take_stalled(self) -> list[Unsent]:
        """Rendered rows that were free to leave at the last call and did not: they are to be queued again, and are
        marked no more, so that nobody takes them for issued while a vendor is away. Newest first."""
        first = self._unsent[0] if self._marks is not None and self.may_send() else None
        if first is None or first is not self._waited:
            self._waited = first
            return []
        self._waited = None
        stalled = list(reversed(self._unsent))
        self._unsent.clear()
        return stalled

    def unmark(self, page: LedgerPage, rows: Rows) -> None:
        if self._marks is not None:
            self._marks.unmark(page, rows)
