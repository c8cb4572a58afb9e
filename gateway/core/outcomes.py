"""Outcomes: what the holder of rows tells their home, and how it is taken from their page (core/shadow.py).

A report is columns of the rows that changed, as their holder has them when it is made; core/holders.py applies it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gateway.columns import U8, U16, U32, Bool, Rows
from gateway.ledger import NO_VERDICT, Burst, Channel, State
from gateway.message_id import BatchAddress

if TYPE_CHECKING:
    from gateway.core.shadow import ShadowPage

#: `ShadowPage.dirty`: news that waits for more of its row, and news that does not.
LATE, NOW = np.uint8(1), np.uint8(2)


class BurstReport(NamedTuple):
    """A burst of which every row was answered. rows: positions at home. issued_ms: after the batch's birth."""

    number: int
    attempt: int
    channel: Channel
    connection: int
    rows: U16
    issued_ms: int
    answered_ms: U32
    verdicts: U8
    names: dict[int, str]
    request_ids: dict[int, str]


class Question(NamedTuple):
    """Rows that are about to leave together; the answer has this number. rows: positions at home."""

    number: int
    rows: U16


class Outcomes(NamedTuple):
    """What became of k rows of one batch: their columns as the holder has them now. rows: positions at home.

    Columns (k,): state, reason, channel, receipt, flags, attempts: uint8; routed_ms, issued_ms, final_ms, token_hashes:
    uint32. is_announced: rows that may have left the process by now. is_back: rows in
    the holder's inbox, durably, which their home has again (actors/inbox_places.py). questions: rows that wait until
    their marks are durable.
    """

    address: BatchAddress
    rows: U16
    state: U8
    reason: U8
    channel: U8
    receipt: U8
    flags: U8
    attempts: U8
    routed_ms: U32
    issued_ms: U32
    final_ms: U32
    token_hashes: U32
    is_announced: Bool
    is_back: Bool
    bursts: Sequence[BurstReport] = ()
    questions: Sequence[Question] = ()


def take_outcomes(page: ShadowPage, *, with_late: bool) -> tuple[Rows, Outcomes]:
    """The report of what changed since the last one, and its rows here; but for late news the page is clean
    afterwards."""
    if page.n_late and not with_late:
        is_news = page.dirty == NOW
        page.dirty[is_news] = 0
    else:
        is_news = page.dirty != 0
        page.dirty[:] = 0
        if page.n_late:
            page.n_late = 0
            page.on_late(page)
    page.has_dirty = False
    rows = np.flatnonzero(is_news & ~page.is_back)
    is_back = page.goes_back[rows] & (page.state[rows] == State.HELD)
    if page.may_go_back:
        page.goes_back[:] = page.may_go_back = False
    is_whole = len(rows) == page.n

    def taken(column: Any) -> Any:
        # A whole slice with news is the usual case, and a copy costs a fraction of picking rows out.
        return column.copy() if is_whole else column[rows]

    outcomes = Outcomes(
        address=page.home_address,
        rows=taken(page.home_rows),
        state=taken(page.state),
        reason=taken(page.reason),
        channel=taken(page.channel),
        receipt=taken(page.receipt),
        flags=taken(page.flags),
        attempts=taken(page.attempts),
        routed_ms=taken(page.routed_ms),
        issued_ms=taken(page.issued_ms),
        final_ms=taken(page.final_ms),
        token_hashes=taken(page.token_hashes),
        is_announced=taken(page.is_announced),
        is_back=is_back,
        bursts=_take_answered_bursts(page),
        questions=_take_questions(page),
    )
    if is_back.any():
        page.let_go(rows[is_back])
    return rows, outcomes


def _take_questions(page: ShadowPage) -> Sequence[Question]:
    """What was announced since the last report and still is."""
    if page.asked is None or not page.unasked:
        return ()
    unasked, page.unasked = page.unasked, []
    found = [Question(number, page.home_rows[page.asked == number]) for number in unasked]
    return [question for question in found if len(question.rows)]


def _take_answered_bursts(page: ShadowPage) -> list[BurstReport]:
    """Bursts that are complete leave the shadow for their home's burst log."""
    if not page.bursts:
        return []
    done: list[BurstReport] = []
    left: list[Burst] = []
    born = page.batch.born
    for burst in page.bursts:
        if bool((burst.verdicts == NO_VERDICT).any()) and page.n_open:
            left.append(burst)
            continue
        rows = page.home_rows[burst.rows.astype(np.intp)]
        issued_ms = max(1, int((burst.issued - born) * 1000))
        report = BurstReport(
            burst.number,
            burst.attempt,
            burst.channel,
            burst.connection,
            rows,
            issued_ms,
            burst.answered,
            burst.verdicts,
            burst.names,
            burst.request_ids or {},
        )
        done.append(report)
    page.bursts = left
    return done


def burst_at_home(report: BurstReport, born: float) -> Burst:
    """The record as the home's burst log holds it."""
    return Burst(
        report.number,
        report.attempt,
        report.channel,
        report.connection,
        report.rows,
        born + report.issued_ms / 1000.0,
        report.answered_ms,
        report.verdicts,
        report.names,
        request_ids=report.request_ids,
    )
