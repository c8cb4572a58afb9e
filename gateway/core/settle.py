"""Settle: from the verdicts of a burst to what happens to its rows. A decision; the lane actor carries it out.

Which verdict ends a row and which is retried stands in `core/retry.py`; here the rows are sorted by what must be done.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.columns import I64, U8, Rows
from gateway.core.lifetimes import row_deadlines
from gateway.core.retry import NO_VERDICT, Action, RetryPolicy
from gateway.ledger import LedgerPage, Reason
from gateway.verdict import Verdict

#: Why a row that got this verdict waits, or ended.
REASON_OF: dict[Verdict, Reason] = {
    Verdict.ACCEPTED: Reason.NONE,
    Verdict.REJECTED: Reason.REJECTED_BY_VENDOR,
    Verdict.TOKEN_DEAD: Reason.TOKEN_DEAD,
    Verdict.TOKEN_MUTED: Reason.TOKEN_MUTED,
    Verdict.THROTTLED: Reason.THROTTLED,
    Verdict.QUOTA: Reason.QUOTA_EXHAUSTED,
    Verdict.CREDENTIAL: Reason.CREDENTIAL_REFUSED,
    Verdict.UNAVAILABLE: Reason.VENDOR_UNAVAILABLE,
    Verdict.UNCERTAIN: Reason.NO_ANSWER,
}
_REASONS: U8 = np.array([REASON_OF[verdict] for verdict in Verdict], np.uint8)


class Settlement(NamedTuple):
    """Rows by what must be done; reasons beside them. not_before: (k,) monotonic seconds, of the retried rows."""

    accepted: Rows
    failed: Rows
    failed_reasons: U8
    uncertain: Rows
    retried: Rows
    retried_reasons: U8
    not_before: npt.NDArray[np.float64]
    expiring: Rows
    expiring_reasons: U8


class Verdicts(NamedTuple):
    """Verdicts of k rows of one page. retry_after_s: nan where the vendor said nothing. is_refreshable: (k,) bool.
    reasons: (k,) what the vendor said beyond the verdict, `Reason.NONE` where nothing."""

    rows: Rows
    verdicts: U8
    retry_after_s: npt.NDArray[np.float64]
    is_refreshable: npt.NDArray[np.bool_]
    reasons: U8


def settle(
    page: LedgerPage, answers: Verdicts, policy: RetryPolicy, *, now: float, random: npt.NDArray[np.float64]
) -> Settlement:
    """What becomes of the rows. random: (k,) in [0, 1), spreads retries."""
    rows, verdicts = answers.rows, answers.verdicts
    batch = page.batch
    # The policy counts in Unix ms; a process counts in monotonic seconds. The batch knows both of its birth.
    now_unix_ms = batch.born_unix_ms + int((now - batch.born) * 1000)
    deadlines = row_deadlines(batch, rows)
    deadline_unix_ms: I64 = batch.born_unix_ms + ((deadlines - batch.born) * 1000).astype(np.int64)
    was_refused = page.reason[rows] == Reason.CREDENTIAL_REFUSED
    decisions = policy.decide(
        verdicts,
        page.attempts[rows],
        answers.retry_after_s,
        now_unix_ms=now_unix_ms,
        deadline_unix_ms=deadline_unix_ms,
        random=random,
        is_refreshable=answers.is_refreshable,
        previous=np.where(was_refused, np.uint8(Verdict.CREDENTIAL), np.uint8(NO_VERDICT)),
    )
    actions = decisions.actions
    reasons = _REASONS[verdicts]
    is_explained = (actions == Action.FINAL_FAILED) & (answers.reasons != Reason.NONE)
    reasons[is_explained] = answers.reasons[is_explained]
    reasons[actions == Action.FINAL_EXHAUSTED] = Reason.ATTEMPTS_USED_UP
    is_failed = (actions == Action.FINAL_FAILED) | (actions == Action.FINAL_EXHAUSTED)
    is_retried = actions == Action.RETRY
    is_expiring = actions == Action.WAIT_EXPIRY
    return Settlement(
        accepted=rows[actions == Action.FINAL_ACCEPTED],
        failed=rows[is_failed],
        failed_reasons=reasons[is_failed],
        uncertain=rows[actions == Action.FINAL_UNCERTAIN],
        retried=rows[is_retried],
        retried_reasons=reasons[is_retried],
        not_before=now + (decisions.not_before_unix_ms[is_retried] - now_unix_ms) / 1000.0,
        expiring=rows[is_expiring],
        expiring_reasons=reasons[is_expiring],
    )
