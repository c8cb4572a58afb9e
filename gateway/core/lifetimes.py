"""How long rows live, and why those that ran out of time did. Decisions over columns of a page."""

from __future__ import annotations

import math

import numpy as np

from gateway.batch import Batch
from gateway.columns import F64, U8, U32, Rows
from gateway.content import Variant
from gateway.ledger import IS_FINAL, OPEN_STATES, LedgerPage, Reason, State

#: A row with TTL 0 is sent at once or not at all; a connection and a credential may have to be made first.
NOW_OR_NEVER_S = 5.0
#: Rows that may be expired by the clock; IN_FLIGHT rows wait for their answer.
_EXPIRABLE = np.array([state in OPEN_STATES and state is not State.IN_FLIGHT for state in State])
#: Rows that are due and have to wait for their answer are looked at again so much later.
_LOOK_AGAIN_S = 1.0


def lifetime_s(variant: Variant) -> float:
    """How long rows of the variant may stay open. TTL 0 means now or never: time for one attempt."""
    return variant.ttl_s or NOW_OR_NEVER_S


def row_deadlines(batch: Batch, rows: Rows) -> F64:
    """(k,) monotonic seconds at which the TTL of each row ends."""
    deadlines: F64 = batch.born + batch.of_contents(rows, lifetime_s, np.float64)
    return deadlines


def due_rows(page: LedgerPage, now: float) -> tuple[Rows, float]:
    """Rows of the page whose time is over and that nobody has in flight; and when the page is to be looked at again."""
    open_rows = np.flatnonzero(~IS_FINAL[page.state])
    deadlines = row_deadlines(page.batch, open_rows)
    passed = deadlines <= now
    expirable = _EXPIRABLE[page.state[open_rows]]
    if page.away is not None:
        # Their holder ends them, and says so.
        expirable &= page.away[open_rows] == 0
    rest = deadlines[~passed]
    again = float(rest.min()) if len(rest) else math.inf
    if bool(np.any(passed & ~expirable)):
        again = min(again, now + _LOOK_AGAIN_S)
    rows: Rows = open_rows[passed & expirable]
    return rows, again


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
