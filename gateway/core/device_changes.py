"""DeviceChanges: which rows of the device table the registry on disk has not got yet, one byte per device.

Two kinds: what a caller was told, or what a vendor said of a token, is written at once (`NOW`); when a device was seen
and that its token is proven are written now and then (`LATER`): they change with every session and every first message,
and losing a few minutes of them in a crash costs a probe or a line in a report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gateway.columns import I32, U8, Rows

NOW = 1
LATER = 2


#: Marks looked at in one step: a scan of a hundred million of them takes a tenth of a second in all.
_BLOCK_ROWS = 1 << 20


class DeviceChanges:
    """Marks, and where the urgent ones are for who follows them."""

    __slots__ = ("_marks", "_on_change", "_pending")

    def __init__(self, devices_max: int) -> None:
        self._marks: U8 = np.zeros(devices_max + 1, np.uint8)
        #: Where marks of NOW are, so that a registration costs no look at all devices; some may be gone by now. Empty
        #: while nobody follows: without a registry nobody ever would take them.
        self._pending: list[Rows | I32] = []
        self._on_change: Callable[[], None] | None = None

    def follow(self, on_change: Callable[[], None]) -> None:
        """Calls on_change after rows were marked to be written at once; those that are marked already are pending."""
        self._on_change = on_change
        self._pending = [self.still(rows, NOW) for rows in self.blocks()]

    def mark(self, rows: Rows | I32) -> None:
        """The rows, -1 not among them, are to be written at once."""
        if len(rows):
            fresh = rows[self._marks[rows] & np.uint8(NOW) == 0]
            self._marks[fresh] |= np.uint8(NOW)
            if self._on_change is not None:
                if len(fresh):
                    self._pending.append(fresh)
                self._on_change()

    def mark_later(self, rows: Rows | int) -> None:
        """The rows, -1 not among them, are to be written some time."""
        self._marks[rows] |= np.uint8(LATER)

    def drop(self, rows: Rows | I32) -> None:
        """The rows are nobody's any more, or about to be written."""
        self._marks[rows] = 0

    def take(self) -> I32:
        """The rows that are to be written at once, ascending. They stay marked until `drop`, and are not told again
        unless they come back."""
        pending, self._pending = self._pending, []
        if not pending:
            return np.zeros(0, np.int32)
        rows: I32 = np.unique(np.concatenate(pending)).astype(np.int32)
        return self.still(rows, NOW)

    def come_back(self, rows: I32) -> None:
        """Rows that were taken and not written."""
        if len(rows):
            self._pending.append(rows)

    def still(self, rows: I32, kinds: int = NOW | LATER) -> I32:
        """Those of the rows that are marked with one of the kinds."""
        found: I32 = rows[self._marks[rows] & np.uint8(kinds) != 0]
        return found

    def blocks(self) -> Iterator[I32]:
        """All marked rows, of whichever kind, ascending: what a block has is found when it is asked for."""
        for first in range(0, len(self._marks), _BLOCK_ROWS):
            found: I32 = (np.flatnonzero(self._marks[first : first + _BLOCK_ROWS]) + first).astype(np.int32)
            yield found
