"""Recovery: what becomes of the rows of a batch that an ended process left in its journal. A decision over columns.

    never issued, or taken back     -> sent
    issued, outcome unknown         -> the rule on_uncertain of (channel, class): sent again, or UNCERTAIN at once
    taken by a vendor, and a step of its fallback chain is left -> goes on waiting for a receipt
    final                           -> stays as it was
    any open row whose TTL is over  -> EXPIRED, with the others of its batch, before anything is sent
    with a worker that lives        -> its own: it says what became of it, whatever the journal knew

TTLs count from the batch's label, which is the submit time, and end at the latest time that anything in the journal
knows of: a wall clock that was set back lengthens none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import U8, Bool, Rows
from gateway.content import Class
from gateway.core.home import Home
from gateway.core.lifetimes import row_deadlines
from gateway.core.options import Options
from gateway.core.receipt_notes import hear_again, receipts_of
from gateway.ledger import IS_FINAL, Channel, Flag, LedgerPage, Reason, Receipt, State
from gateway.marks import RowMarks
from gateway.page_history import RowNotes

#: In `_newest`: no mark.
_UNMARKED = np.uint8(255)
_QUEUED = np.uint8(State.QUEUED)
_WAITING = np.uint8(State.WAITING)
_IN_FLIGHT = np.uint8(State.IN_FLIGHT)


class Recovered(NamedTuple):
    """Rows of one batch, or of many, by what became of them. unsent and resent are on their way again; elsewhere are
    those of workers that outlived this one."""

    final: int = 0
    unsent: int = 0
    resent: int = 0
    uncertain: int = 0
    expired: int = 0
    elsewhere: int = 0

    def plus(self, other: Recovered) -> Recovered:
        return Recovered(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def newest_marks(n: int, marks: Iterable[RowMarks]) -> RowMarks:
    """What is known of each row of a batch at last: k rows, each once. A final state is not replaced."""
    states = np.full(n, _UNMARKED)
    columns = np.zeros((3, n), np.uint8)
    for mark in marks:
        inside = mark.rows < n
        rows = mark.rows[inside].astype(np.intp)
        known = states[rows]
        is_news = (known == _UNMARKED) | ~IS_FINAL[np.minimum(known, State.CANCELLED)] | IS_FINAL[mark.states[inside]]
        rows = rows[is_news]
        states[rows] = mark.states[inside][is_news]
        for column, found in zip(columns, mark[3:], strict=True):
            column[rows] = found[inside][is_news]
    rows = np.flatnonzero(states != _UNMARKED)
    return RowMarks(0, rows.astype(np.uint16), states[rows], *(column[rows] for column in columns))


def leave_out(home: Home, page: LedgerPage, marks: Iterable[RowMarks], held: Rows) -> Rows:
    """Of rows that living workers hold: those that are not final; they are marked as they were. The others have ended,
    and their holder knows nothing but late receipts of them. The page must be open and followed already."""
    newest = newest_marks(page.n, marks)
    ended = newest.rows[IS_FINAL[newest.states]]
    left = held[~IS_FINAL[page.state[held]] & ~np.isin(held, ended)]
    known = _chosen(newest, np.isin(newest.rows, left))
    # That a row was sent again before is to be known of it for ever.
    page.flags[known.rows.astype(np.intp)] |= known.flags
    issued = _chosen(known, known.states == _IN_FLIGHT)
    rows = issued.rows.astype(np.intp)
    page.channel[rows] = issued.channels
    if home.trail is not None:
        home.trail.remember(page, rows, issued.channels)
    return left


def recover(
    home: Home,
    page: LedgerPage,
    marks: Iterable[RowMarks],
    options: Options,
    resends: Bool,
    now: float,
    elsewhere: Rows | None = None,
    notes: Sequence[RowNotes] = (),
) -> Recovered:
    """Every row of the page is in the state that it goes on from. The page must be open and followed already; it is
    new, or comes from the archive with its held rows.

    resends: (channels, classes) bool, whether rows of that kind go again when nobody knows what became of them.
    elsewhere: rows that are left alone, because a living worker has them. notes: receipts that had come; a row that a
    vendor said anything of is not sent to it again.
    """
    newest = newest_marks(page.n, marks)
    if elsewhere is not None and len(elsewhere):
        newest = _chosen(newest, ~np.isin(newest.rows, elsewhere))
    # Duplicates were dropped again when the page was opened; what the archive knows to have ended has.
    newest = _chosen(newest, ~IS_FINAL[page.state[newest.rows]])
    rows: Rows = newest.rows.astype(np.intp)
    is_issued = newest.states == _IN_FLIGHT
    classes = options.classes[options.variant_index(page.batch, rows)]
    goes_again = is_issued & resends[newest.channels, classes]
    if notes:
        goes_again &= ~receipts_of(page.n, notes)[1][rows] | (newest.channels == int(Channel.LONG_LINK))
    states, reasons, flags = newest.states.copy(), newest.reasons.copy(), newest.flags.copy()
    reasons[~IS_FINAL[states] & (states != _WAITING)] = Reason.NONE
    reasons[goes_again] = Reason.NO_ANSWER
    flags[goes_again] |= np.uint8(Flag.RESENT_UNCERTAIN)
    states[goes_again] = _QUEUED
    _restore(home, page, rows, newest._replace(reasons=reasons, flags=flags), states)
    again, lost = rows[goes_again], rows[is_issued & ~goes_again]
    page.attempts[rows[is_issued]] = 1
    home.move(page, lost, State.UNCERTAIN, Reason.PROCESS_ENDED, now)
    if home.trail is not None:
        # Written down as not issued: they are uncertain once, not at each further crash.
        home.trail.renew(page, again)
    if notes:
        hear_again(home, page, notes, now, elsewhere)
    expired = _expire(home, page, elsewhere, now)
    if not page.n_open:
        home.ended_before(page)
    resent = int(np.count_nonzero(page.state[again] == _QUEUED))
    n_elsewhere = 0 if elsewhere is None else len(elsewhere)
    return Recovered(
        final=int(np.count_nonzero(IS_FINAL[states])),
        unsent=page.n_open - resent - n_elsewhere,
        resent=resent,
        uncertain=len(lost),
        expired=expired,
        elsewhere=n_elsewhere,
    )


def _restore(home: Home, page: LedgerPage, rows: Rows, marks: RowMarks, states: U8) -> None:
    """The rows are as an earlier process left them; nobody is told, since they were counted then.

    marks: k rows, of which reasons, channels and flags are taken. states: (k,), what they are now.
    """
    page.state[rows] = states
    page.reason[rows], page.channel[rows], page.flags[rows] = marks.reasons, marks.channels, marks.flags
    # What a device acknowledged was delivered.
    page.receipt[rows[states == State.DEVICE_ACKED]] = Receipt.DELIVERED
    open_before = page.n_open
    page.counts[:] = np.bincount(page.state, minlength=len(State))
    page.note_changes(rows)
    home.rows_open -= open_before - page.n_open
    home.counters.touch(page)


def _chosen(marks: RowMarks, which: Bool) -> RowMarks:
    return marks._replace(
        rows=marks.rows[which],
        states=marks.states[which],
        reasons=marks.reasons[which],
        channels=marks.channels[which],
        flags=marks.flags[which],
    )


def _expire(home: Home, page: LedgerPage, elsewhere: Rows | None, now: float) -> int:
    """Rows whose time is over are not sent any more; how many. Those elsewhere are their holder's to end."""
    rows = np.flatnonzero(~IS_FINAL[page.state])
    if elsewhere is not None and len(elsewhere):
        rows = np.setdiff1d(rows, elsewhere)
    over = rows[row_deadlines(page.batch, rows) <= now]
    home.move(page, over, State.EXPIRED, Reason.TTL_PASSED, now)
    return len(over)


def urgency(options: Options) -> tuple[int, int]:
    """Batches go in this order: high priority first, and of those what is no marketing."""
    codes = options.priorities.astype(np.int64) << 1 | options.classes
    first = int(codes.min())
    return first >> 1, first & 1


def resend_table(*, system: bool, marketing: bool, once: Collection[Channel] = ()) -> Bool:
    """(channels, classes) bool, by the rules `on_uncertain`. The long link always sends again: a device drops the
    second copy by its message id. once: channels on which a second copy is worse than none."""
    table: Bool = np.zeros((len(Channel), len(Class)), np.bool_)
    table[:, Class.SYSTEM], table[:, Class.MARKETING] = system, marketing
    table[Channel.LONG_LINK] = True
    table[list(once)] = False
    return table
