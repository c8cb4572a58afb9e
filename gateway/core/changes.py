"""What changed in ledger pages lately: the ring that subscribers of receipts read. Its positions are their cursors."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from gateway.columns import U8, Rows
from gateway.ledger import LedgerPage


class Change(NamedTuple):
    """Rows of one batch whose state or receipt changed together, as they were just after it.

    state, reason, receipt, channel: one for all rows or a column.
    """

    page: LedgerPage
    rows: Rows
    state: U8 | int
    reason: U8 | int
    receipt: U8 | int
    channel: U8 | int
    at_unix_ms: int


class ChangeRing:
    """rows_max: rows that the changes in it may have together; the oldest go first. first, next: cursors."""

    __slots__ = ("_changes", "_rows", "_rows_max", "first")

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._rows = 0
        self._changes: deque[Change] = deque()
        self.first = 0

    def add(self, change: Change) -> None:
        self._changes.append(change)
        self._rows += len(change.rows)
        while self._rows > self._rows_max:
            self._rows -= len(self._changes.popleft().rows)
            self.first += 1

    def read(self, cursor: int, changes_max: int) -> tuple[list[Change], int] | None:
        """Changes from a cursor on and the next cursor; None when the cursor has fallen out of the ring."""
        if cursor < self.first:
            return None
        start = cursor - self.first
        stop = min(start + changes_max, len(self._changes))
        return [self._changes[index] for index in range(start, stop)], self.first + max(stop, start)

    @property
    def next(self) -> int:
        return self.first + len(self._changes)
