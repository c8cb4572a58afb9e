"""Pages whose open rows all wait in the inbox, and that are in the archive instead of in memory: what is known of them.

    in memory --rests, and the archive has it--> away --somebody needs it--> in memory again

A row that waits for its device is in the inbox store, and its text in the archived page; here stands only that there
are such rows: some 300 bytes a page, whatever it holds.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.message_id import BatchAddress

#: The record, its address, the entry in the dictionary and the one in the wheel of deadlines. Measured: 290.
AWAY_BYTES = 300


class AwayPage(NamedTuple):
    """held: rows that have not ended: they wait for their devices, but for a few that are in memory."""

    address: BatchAddress
    held: int


class AwayPages:
    """By sequence. rows: held in all of them."""

    __slots__ = ("_pages", "rows")

    def __init__(self) -> None:
        self._pages: dict[int, AwayPage] = {}
        self.rows = 0

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._pages

    def get(self, sequence: int) -> AwayPage | None:
        return self._pages.get(sequence)

    def add(self, page: AwayPage) -> None:
        self._pages[page.address.sequence] = page
        self.rows += page.held

    def pop(self, sequence: int) -> AwayPage | None:
        page = self._pages.pop(sequence, None)
        if page is not None:
            self.rows -= page.held
        return page

    def ended(self, sequence: int, rows: int) -> None:
        """So many open rows of that page have ended, though it is away: a few of its rows are in memory."""
        page = self._pages[sequence]
        self._pages[sequence] = page._replace(held=page.held - rows)
        self.rows -= rows

    @property
    def memory_bytes(self) -> int:
        return AWAY_BYTES * len(self._pages)
