"""DeviceChanges: which rows of the device table the registry on disk has not got yet, one byte per device.

Two kinds: what a caller was told, or what a vendor said of a token, is written at once (`NOW`); when a device was seen
and that its token is proven are written now and then (`LATER`): they change with every session and every first message,
and losing a few minutes of them in a crash costs a probe or a line in a report.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gateway.columns import I32, U8, Rows

NOW = 1
LATER = 2


class DeviceChanges:
    """on_change: called after rows were marked to be written at once."""

    __slots__ = ("_marks", "on_change")

    def __init__(self, devices_max: int) -> None:
        self._marks: U8 = np.zeros(devices_max + 1, np.uint8)
        self.on_change: Callable[[], None] = _nobody

    def mark(self, rows: Rows) -> None:
        """The rows, -1 not among them, are to be written at once."""
        if len(rows):
            self._marks[rows] |= np.uint8(NOW)
            self.on_change()

    def mark_later(self, rows: Rows | int) -> None:
        """The rows, -1 not among them, are to be written some time."""
        self._marks[rows] |= np.uint8(LATER)

    def drop(self, rows: I32) -> None:
        """The rows are nobody's any more."""
        self._marks[rows] = 0

    def marked(self, kinds: int) -> I32:
        """The rows marked with one of the kinds. They stay marked until `drop`."""
        found: I32 = np.flatnonzero(self._marks & np.uint8(kinds)).astype(np.int32)
        return found


def _nobody() -> None:
    """Nothing is kept of devices but what is in memory."""
