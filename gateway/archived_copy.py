"""What the archive has of a page in memory: which rows have changed since, so that only they are written.

    marks  (n,) uint8    SAME: as in the page's own bytes | LOGGED: in a record beside them | NEW: nowhere yet

The archive keeps a page as its bytes and a log of records beside them (store/page_changes.py). Whoever changes a row
says so (`LedgerPage.note_changes`); history and bursts only grow, so how far they had come is enough.
"""

from __future__ import annotations

import numpy as np

from gateway.columns import U8, Rows
from gateway.few_rows import Here

SAME, LOGGED, NEW = range(3)


class ArchivedCopy:
    """Of one page with `size` rows; owned by the home of the page. here: of a page of which a few rows are in memory:
    past and bursts are then of what the page has of these rows, and of what came since; bursts_before: what the archive
    had of all rows when they were read.

    past, bursts: entries of the history, and bursts, in the page's own bytes; past_logged, bursts_logged: with the
    records. records, log_bytes: of the log. has_texts: the page's own bytes have texts of rows that were open then.
    is_durable: all of that is so; False while a write is under way, and after one that failed.
    """

    __slots__ = (
        "bursts",
        "bursts_before",
        "bursts_logged",
        "has_texts",
        "is_durable",
        "log_bytes",
        "marks",
        "past",
        "past_logged",
        "records",
    )

    def __init__(self, size: int, past: int, bursts: int, *, has_texts: bool, here: Here | None = None) -> None:
        self.marks: U8 = np.zeros(size, np.uint8) if here is None else here.zeros(size, np.uint8)
        self.past = self.past_logged = past
        self.bursts = self.bursts_logged = bursts
        self.bursts_before = 0
        self.records = self.log_bytes = 0
        self.has_texts = has_texts
        self.is_durable = False

    def changed(self, *, since_page: bool) -> Rows:
        """Rows that are not as in the log; or, with `since_page`, not as in the page's own bytes."""
        rows: Rows = self.marks.nonzero()[0]
        return rows if since_page else rows[self.marks[rows] == NEW]

    def logged(self, rows: Rows, past: int, bursts: int, size: int, *, since_page: bool) -> None:
        """A record of so many bytes says what these rows are and how far history and bursts have come; it stands in
        place of the others where it says so of all changes since the page was written."""
        self.marks[rows] = LOGGED
        self.past_logged, self.bursts_logged = past, bursts
        self.records = 1 if since_page else self.records + 1
        self.log_bytes = size if since_page else self.log_bytes + size
