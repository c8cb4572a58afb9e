"""What happened to rows of a page beside their state: receipts with their times, and attempts that others followed.

    rows  (n,) uint16 | kinds (n,) uint8 of `Kind` | channels (n,) uint8 | at_ms (n,) uint32, after the batch's birth

A side table in the order in which things happened: a row that nobody said anything of costs nothing, and a page that
nobody heard of has no table. A receipt of a row stands in it once, however often it comes, so receipts are at most
eight entries a row; earlier attempts are bounded by `ATTEMPTS_PER_ROW_MAX` for all rows of the page together.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np

from gateway.columns import U8, U16, U32, Bool, Rows
from gateway.receipts import Event

#: Entries about attempts in a page, by its rows; beyond it they are not written. A row has one or two such attempts.
ATTEMPTS_PER_ROW_MAX = 8
#: Entries that a new table has room for, and by how much it grows.
_ROOM_MIN = 16


class Kind(enum.IntEnum):
    """Numbers stand in ledger pages and journals: append only. The first eight are receipts, `receipts.Event`."""

    DELIVERED = Event.DELIVERED
    DISPLAYED = Event.DISPLAYED
    CLICKED = Event.CLICKED
    NOTIFICATIONS_CLOSED = Event.NOTIFICATIONS_CLOSED
    TOKEN_DEAD = Event.TOKEN_DEAD
    TOKEN_MUTED = Event.TOKEN_MUTED
    QUOTA = Event.QUOTA
    UNDELIVERED = Event.UNDELIVERED
    #: It was written to the device's socket at that time, over the long link, and left it unacknowledged later.
    LINK_ATTEMPT = 16
    #: It left the long link for another holder.
    HANDED_OVER = 17
    #: It left that channel for the next one of its strategy or chain.
    FELL_BACK = 18


#: Kinds below are receipts; each has a bit of `heard`.
RECEIPT_KINDS = 8
_BITS: U8 = np.array([1 << kind if kind < RECEIPT_KINDS else 0 for kind in range(256)], np.uint8)


class PageHistory:
    """Of one page with `size` rows; owned by the home of the page.

    heard: (size,) uint8, a bit for each receipt kind that stands in the table. written: entries before it are in the
    journal. records: positions of the journal's records that hold entries (core/receipt_notes.py).
    """

    __slots__ = ("_at_ms", "_attempts", "_channels", "_kinds", "_rows", "heard", "n", "records", "written")

    def __init__(self, size: int) -> None:
        self.heard: U8 = np.zeros(size, np.uint8)
        self.n = self._attempts = self.written = 0
        self.records: list[int] = []
        self._rows: U16 = np.zeros(0, np.uint16)
        self._kinds: U8 = np.zeros(0, np.uint8)
        self._channels: U8 = np.zeros(0, np.uint8)
        self._at_ms: U32 = np.zeros(0, np.uint32)

    @property
    def rows(self) -> U16:
        return self._rows[: self.n]

    @property
    def kinds(self) -> U8:
        return self._kinds[: self.n]

    @property
    def channels(self) -> U8:
        return self._channels[: self.n]

    @property
    def at_ms(self) -> U32:
        return self._at_ms[: self.n]

    def hear(self, rows: Rows, kinds: U8, channels: U8, at_ms: U32) -> int:
        """Receipts (k,) stand in the table, those that do not yet; how many are new. A pair may come twice."""
        news = np.flatnonzero((self.heard[rows] & _BITS[kinds]) == 0)
        news = news[kinds[news] < RECEIPT_KINDS]
        if len(news) > 1:
            codes = rows[news].astype(np.int64) << 8 | kinds[news]
            news = news[np.sort(np.unique(codes, return_index=True)[1])]
        if len(news):
            np.bitwise_or.at(self.heard, rows[news], _BITS[kinds[news]])
            self._append(rows[news], kinds[news], channels[news], at_ms[news])
        return len(news)

    def attempted(self, rows: Rows, kind: Kind, channels: U8, at_ms: U32) -> None:
        """Something of (k,) rows' attempts stands in the table, while it has room for such."""
        room = ATTEMPTS_PER_ROW_MAX * len(self.heard) - self._attempts
        rows, channels, at_ms = rows[:room], channels[:room], at_ms[:room]
        self._attempts += len(rows)
        self._append(rows, np.full(len(rows), kind, np.uint8), channels, at_ms)

    def restore(self, rows: Rows, kinds: U8, channels: U8, at_ms: U32) -> None:
        """The table goes on with what was written."""
        is_receipt = kinds < RECEIPT_KINDS
        np.bitwise_or.at(self.heard, rows[is_receipt], _BITS[kinds[is_receipt]])
        self._attempts += int(np.count_nonzero(~is_receipt))
        self._append(rows, kinds, channels, at_ms)
        self.written = self.n

    def _append(self, rows: Rows, kinds: U8, channels: U8, at_ms: U32) -> None:
        n = self.n + len(rows)
        if n > len(self._rows):
            room = max(n, 2 * len(self._rows), _ROOM_MIN)
            for name in ("_rows", "_kinds", "_channels", "_at_ms"):
                old = getattr(self, name)
                new = np.zeros(room, old.dtype)
                new[: self.n] = old[: self.n]
                setattr(self, name, new)
        span = slice(self.n, n)
        self._rows[span], self._kinds[span] = rows, kinds
        self._channels[span], self._at_ms[span] = channels, at_ms
        self.n = n

    def rose(self, receipt: U8) -> tuple[Rows, U32]:
        """Rows whose receipt (size,) is as high as an entry says, and when that came."""
        which: Bool = self.kinds <= Kind.CLICKED
        which &= self.kinds + np.uint8(1) == receipt[self.rows]
        return self.rows[which].astype(np.intp), self.at_ms[which]

    def of_row(self, row: int) -> list[tuple[Kind, int, int]]:
        """(kind, channel, ms after the batch's birth) of one row, in their order."""
        found = np.flatnonzero(self.rows == row)
        return [(Kind(int(self.kinds[at])), int(self.channels[at]), int(self.at_ms[at])) for at in found.tolist()]

    def memory_bytes(self) -> int:
        return len(self.heard) + 8 * len(self._rows)


class RowNotes(NamedTuple):
    """k entries about rows of the batch with that address. rows: (k,) uint16. kinds, channels: (k,) uint8. at_ms: (k,)
    uint32, after its birth."""

    unix_ms: int
    sequence: int
    rows: U16
    kinds: U8
    channels: U8
    at_ms: U32
