"""What changed in ledger pages lately: the ring that subscribers of receipts read. Its positions are their cursors.

A change names its rows by their numbers, and readers look them up in its batch. A page that comes back from the archive
for one row, and leaves again, must not live on in here: its changes have a batch of their rows alone (`few_rows`).
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from gateway.batch import Batch, TaskSegment
from gateway.columns import U8, U16, Rows
from gateway.few_rows import FewRows, Here
from gateway.ledger import LedgerPage

#: A change of a larger share of an archived page keeps the batch of the page.
_FEW_ROWS_SHARE = 1 / 8


class Change(NamedTuple):
    """Rows of one batch whose state or receipt changed together, as they were just after it.

    state, reason, receipt, channel: one for all rows or a column.
    """

    batch: Batch
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


def told_batch(page: LedgerPage, rows: Rows) -> Batch:
    """Where readers of a change of these rows look them up. A page that the archive has may leave memory, and come back
    as another object, for each of its rows."""
    is_few = page.saved >= 0 and len(rows) < _FEW_ROWS_SHARE * page.n
    return few_rows(page.batch, rows) if is_few else page.batch


def few_rows(batch: Batch, rows: Rows) -> Batch:
    """What readers of a change look at (targets, ids, contents, tasks), of these rows alone; costs nothing per row of
    the batch, and keeps nothing of it."""
    rows = np.unique(rows)
    variants, variant_index = batch.variants, None
    if batch.variant_index is not None:
        used, places = np.unique(batch.variant_index[rows], return_inverse=True)
        variants = [batch.variants[at] for at in used.tolist()]
        variant_index = cast("U16", FewRows(Here(rows), places.astype(np.uint16)))
    ids, here = batch.message_ids, Here(rows)
    return Batch(
        batch.address,
        batch.app,
        batch.born,
        batch.n,
        device_ids=cast("U8", FewRows(here, batch.device_ids[rows])),
        message_ids=cast("U8", FewRows(here, ids[rows])) if isinstance(ids, np.ndarray) else ids,
        variants=variants,
        variant_index=variant_index,
        segments=_segments_of(batch.segments, rows),
    )


def _segments_of(segments: Sequence[TaskSegment], rows: Rows) -> list[TaskSegment]:
    """Those that have one of the rows, in their order."""
    found: list[TaskSegment] = []
    for row in rows.tolist():
        segment = segments[max(bisect.bisect_right(segments, row, key=lambda one: one.first) - 1, 0)]
        if segment not in found[-1:]:
            found.append(segment)
    return found
