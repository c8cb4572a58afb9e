"""Ledger pages as the archive takes them."""

from __future__ import annotations

import numpy as np

from gateway.batch import continued_tasks
from gateway.core.lifetimes import row_deadlines
from gateway.ledger import LedgerPage, State
from gateway.store.pages import page_parts
from gateway.store.ports import ArchivedPage, PageKey
from gateway.tally import PageTally


def is_archived(page: LedgerPage) -> bool:
    """The archive has it as it is, and the journal knows."""
    return page.is_saved and (page.trail is None or page.trail.is_blank)


def archived_form(page: LedgerPage, tally: PageTally) -> ArchivedPage:
    """The page as it is now; what of it may change is copied. tally: what it adds to the counters."""
    batch = page.batch
    held = np.flatnonzero(page.state == State.HELD)
    over_s = float(row_deadlines(batch, held).min()) - batch.born if len(held) else 0.0
    return ArchivedPage(
        key=PageKey(batch.address.unix_ms, batch.address.sequence),
        app=batch.app,
        rows=page.n,
        device_ids=batch.device_ids,
        long_tasks=continued_tasks(batch),
        parts=page_parts(page),
        held=len(held),
        deadline_unix_ms=batch.born_unix_ms + int(over_s * 1000),
        tally=tally,
    )
