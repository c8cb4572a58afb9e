"""How long rows live, and why those that ran out of time did. Decisions over columns of a page."""

from __future__ import annotations

import numpy as np

from gateway.batch import Batch
from gateway.columns import U8, U32, Rows
from gateway.content import Variant
from gateway.ledger import LedgerPage, Reason, State

#: A row with TTL 0 is sent at once or not at all; a connection and a credential may have to be made first.
NOW_OR_NEVER_S = 5.0


def lifetime_s(variant: Variant) -> float:
    """How long rows of the variant may stay open. TTL 0 means now or never: time for one attempt."""
    return variant.ttl_s or NOW_OR_NEVER_S


def row_deadlines(batch: Batch, rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(k,) monotonic seconds at which the TTL of each row ends."""
    if batch.variant_index is None:
        return np.full(len(rows), batch.born + lifetime_s(batch.variants[0]))
    ttls = np.array([lifetime_s(variant) for variant in batch.variants], np.float64)
    return batch.born + ttls[batch.variant_index[rows]]


def seconds_left(batch: Batch, rows: Rows, now: float) -> U32:
    """(k,) whole seconds of life that are left, at least 1: a row that is over by now is on its way all the same."""
    left: U32 = np.clip(row_deadlines(batch, rows) - now, 1, 0xFFFFFFFF).astype(np.uint32)
    return left


def expiry_reasons(page: LedgerPage, rows: Rows, why_queued: Reason) -> U8:
    """Why rows ran out of time: what they waited for, else what their lane waits for.

    A held row waited for its device. A waiting row keeps the reason it waits for (throttled, unavailable ...).
    """
    reasons = page.reason[rows].copy()
    states = page.state[rows]
    unexplained = (reasons == Reason.NONE) | (reasons == Reason.RETRY) | (reasons == Reason.FALLBACK)
    reasons[unexplained] = why_queued
    reasons[states == State.HELD] = Reason.DEVICE_OFFLINE
    return reasons
