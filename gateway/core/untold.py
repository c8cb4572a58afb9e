"""Untold: what of a page somebody has not heard of yet, who was told of every change before a moment. Pure.

A process that ends takes the ring of changes with it; pages remain, and say when each row ended and when its receipt
last rose. What a page does not say is what was between: of the receipts of a row only the highest is told, and of its
end the time of the newest of the page. A row of which only a journal's mark was left has no time; it is told again.
"""

from __future__ import annotations

import numpy as np

from gateway.columns import U32, Bool
from gateway.core.changes import Change, told_batch
from gateway.ledger import IS_FINAL, LedgerPage, Receipt, State


def changed_unix_ms(page: LedgerPage) -> int:
    """When a row of the page last ended or had a receipt; 0 before that. Of one of which a few rows are here: one of
    these."""
    newest = int((page.final_ms if page.here is None else page.final_ms[page.here.rows]).max())
    if page.history is not None:
        newest = max(newest, int(page.history.at_ms.max(initial=0)))
    return page.batch.born_unix_ms + newest if newest else 0


def untold(page: LedgerPage, since_unix_ms: int) -> list[Change]:
    """The page's changes from that moment on: ends, then receipts."""
    since_ms = max(0, since_unix_ms - page.batch.born_unix_ms)
    is_final = IS_FINAL[page.state]
    found = _change(page, is_final & ((page.final_ms >= since_ms) | (page.final_ms == 0)), page.final_ms, is_end=True)
    if page.history is not None:
        rows, at_ms = page.history.rose(page.receipt)
        receipt_ms = np.zeros(page.n, np.uint32)
        receipt_ms[rows] = at_ms
        found += _change(page, (receipt_ms != 0) & (receipt_ms >= since_ms), receipt_ms, is_end=False)
    return found


def _change(page: LedgerPage, which: Bool, times_ms: U32, *, is_end: bool) -> list[Change]:
    rows = np.flatnonzero(which)
    if not len(rows):
        return []
    states = page.state[rows]
    receipts = page.receipt[rows]
    if is_end:
        # A device that acknowledges has it; what came later is another change.
        receipts = np.where(states == State.DEVICE_ACKED, np.uint8(Receipt.DELIVERED), np.uint8(Receipt.NONE))
    at_unix_ms = page.batch.born_unix_ms + int(times_ms[rows].max())
    columns = (rows.astype(np.uint16), states, page.reason[rows], receipts, page.channel[rows])
    return [Change(told_batch(page, rows), *columns, at_unix_ms)]
