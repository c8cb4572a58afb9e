"""What a home tells its observer, and what it says of itself."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from gateway.columns import U8, Rows
from gateway.ledger import Channel, LedgerPage, Reason, Receipt, State


class HomeObserver(Protocol):
    """Metrics of the home; called per slice, never per row."""

    def moved(
        self, page: LedgerPage, rows: Rows, to: State, reason: Reason | U8 | None, channel: Channel | U8
    ) -> None: ...

    def finished(self, page: LedgerPage, rows: Rows, to: State, channel: Channel | U8, now: float) -> None: ...

    def receipts_rose(self, rows: int, receipt: Receipt, channel: Channel | U8) -> None: ...


class HomeStatistics(NamedTuple):
    pages: int
    rows_open: int
    ledger_bytes: int
    pages_evicted: int
    changes_first: int
    changes_next: int
