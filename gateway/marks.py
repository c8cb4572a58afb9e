"""Marks: what a journal has to know of rows beside their batch, so that a restart goes on where the process ended.

A mark is a snapshot of a few rows of one batch; a later one of the same row replaces it, except that a final state
stays. What stands in no mark was never with anybody outside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gateway.columns import U8, Bool, Rows
from gateway.few_rows import Here
from gateway.message_id import ROWS_MAX

#: (app index, channel)
Window = tuple[int, int]
#: Where the batch of a page is in the journal that is not there any more: the archive and the inbox hold its rows.
NO_POSITION = -1
#: A ticket that is durable from the beginning: of rows that no journal holds.
NO_TICKET = 0
#: The columns of all pages of which nothing is marked.
_NOTHING: U8 = np.zeros(ROWS_MAX, np.uint8)
_NOTHING.flags.writeable = False
U16Rows = np.ndarray[tuple[int], np.dtype[np.uint16]]


class RowMarks(NamedTuple):
    """k rows of the batch with that sequence. rows: (k,) uint16.

    states: (k,) uint8 `State`; IN_FLIGHT: issued, nobody knows whether it arrived; QUEUED: with nobody again;
    WAITING: a vendor took it, and it waits for a receipt; else the final state. reasons, channels, flags: (k,)
    uint8 as in the ledger page.
    """

    sequence: int
    rows: U16Rows
    states: U8
    reasons: U8
    channels: U8
    flags: U8


class PageTrail:
    """What the trail knows of one page; n rows.

    marked: (n,) uint8, the channel under which a row is marked as issued, 0: not. is_sure: (n,) bool, the mark is
    durable, or need not be. dirty: (n,) bool, not written as it is. ended: rows whose mark was taken back in memory, by
    window. position: of the batch's record, or NO_POSITION. records: positions of the records that hold marks of it.
    ticket: of its newest mark. is_finished: no row is open. may_go: nothing more need be written of it. is_gone: its
    batch was let go. is_recovered: an earlier process took it.

    here: where a few rows of the page are in memory. The columns are nobody's and all zero until `own`: a row that
    waits for its lane costs nothing here.
    """

    __slots__ = (
        "dirty",
        "ended",
        "here",
        "is_finished",
        "is_gone",
        "is_own",
        "is_recovered",
        "is_sure",
        "marked",
        "may_go",
        "n",
        "position",
        "records",
        "ticket",
    )

    def __init__(self, n: int, position: int, *, is_recovered: bool, here: Here | None = None) -> None:
        self.here = here
        self.n = n
        self.is_own = False
        self.marked: U8 = _NOTHING[:n]
        self.is_sure: Bool = _NOTHING[:n].view(np.bool_)
        self.dirty: Bool = self.is_sure
        self.ended: dict[Window, int] = {}
        self.position = position
        self.records: list[int] = []
        self.ticket = NO_TICKET
        self.is_finished = False
        self.may_go = False
        self.is_gone = False
        self.is_recovered = is_recovered

    def own(self) -> None:
        """The columns may be written. To be called before each write that may be the first."""
        if not self.is_own:
            self.is_own = True
            n, zeros = self.n, np.zeros if self.here is None else self.here.zeros
            self.marked, self.is_sure, self.dirty = zeros(n, np.uint8), zeros(n, np.bool_), zeros(n, np.bool_)

    def widen(self, rows: Rows) -> None:
        """The page is whole: until now these of its rows were here."""
        old, n = (self.marked, self.is_sure, self.dirty), self.n
        self.here = None
        if self.is_own:
            self.marked, self.is_sure, self.dirty = np.zeros(n, np.uint8), np.zeros(n, np.bool_), np.zeros(n, np.bool_)
            for column, few in zip((self.marked, self.is_sure, self.dirty), old, strict=True):
                column[rows] = few[rows]

    @property
    def holds_batch(self) -> bool:
        """The journal has the batch, and with it every row of the page."""
        return self.position != NO_POSITION and not self.is_gone

    @property
    def is_blank(self) -> bool:
        """The journal holds nothing of the page, and need not."""
        return self.position == NO_POSITION and not self.records and not self.dirty.any() and not self.marked.any()
