"""Holders: which worker holds which rows of a home's batches. Contract of DESIGN.md section 4.

    give(page, rows, worker)      the slice has left its home
    report(page, outcomes, ...)   what its holder says became of rows; a report of rows that it does not hold is dropped
    take_back(worker)             the worker died: what it held is the home's again

One byte per row of a page that has rows elsewhere (`page.away`): 0 is here, else the worker's index + 1, with a bit for
rows that may have left their holder's process already. Which life of the worker holds them need not stand per row: a
worker has one life at a time, and the end of a life takes back all that it held. So a report counts when its sender is
in that life, and everything else is dropped and counted.

A row that was not issued is routed again. One that may have been issued is sent again or ends uncertain, as
`on_uncertain` says of its vendor and class; on the long link it is always sent again, since devices drop second copies.
Lanes announce a burst before it leaves. The long link does not, of an app in memory: a device has its row before the
report of it is written, so a row that no report placed with a vendor may have been shown, and bears the flag when it
goes again. Of an app on disk every row is announced, marked in its home's journal and answered for before it leaves
(core/foreign_marks.py): what has no mark was not sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from gateway.columns import U8, Bool, Rows
from gateway.core.foreign_marks import ForeignMarks
from gateway.core.home import Home
from gateway.core.outcomes import Outcomes, burst_at_home
from gateway.core.stopping import go_on
from gateway.ledger import IS_FINAL, LEGAL_MOVES, Channel, Flag, LedgerPage, Reason, Receipt, State

#: Bit of `page.away`: the row may have left its holder's process.
_ISSUED = np.uint8(0x80)
#: Of `page.away`: the worker that has the row, plus one.
AWAY_WORKER = np.uint8(0x7F)


def _paths() -> dict[tuple[State, State], tuple[State, ...]]:
    """(from, to) -> the states to pass through, `to` last; the shortest legal way. Reports leave steps out."""
    found: dict[tuple[State, State], tuple[State, ...]] = {}
    for start in State:
        ways: dict[State, tuple[State, ...]] = {start: ()}
        edge = [start]
        while edge:
            reached = [(at, State(to)) for at in edge for to in np.flatnonzero(LEGAL_MOVES[at]).tolist()]
            edge = []
            for at, to in reached:
                if to not in ways:
                    ways[to] = (*ways[at], to)
                    edge.append(to)
        found.update({(start, to): way for to, way in ways.items() if way})
    return found


#: A report says where a row is, not how it came there: what lay between is walked through at home, so that its table of
#: legal moves, its counters and its metrics hold for rows elsewhere, too.
PATHS: dict[tuple[State, State], tuple[State, ...]] = _paths()
#: (11, 11) bool: states that lead to each other in legal moves, or are the same.
_IS_WAY: Bool = np.array([[start is to or (start, to) in PATHS for to in State] for start in State], np.bool_)


class Resends(Protocol):
    def __call__(self, page: LedgerPage, rows: Rows) -> Bool:
        """(k,) which rows may go again though their first attempt may have arrived."""
        ...


class Reported(NamedTuple):
    """rows: that were applied. dropped: rows of the report that this worker does not hold."""

    rows: int
    dropped: int


class Returned(NamedTuple):
    """Rows of one page that a dead worker held. again: to be routed again, QUEUED. uncertain: ended so."""

    page: LedgerPage
    again: Rows
    uncertain: Rows


class Holders:
    """Of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.marks = ForeignMarks(home.trail, _still_announced)
        #: worker -> sequence -> page with rows at that worker. Pages leave with their last row.
        self._pages: dict[int, dict[int, LedgerPage]] = {}
        self._rows: dict[int, int] = {}

    def rows_at(self, worker: int) -> int:
        """Rows that this worker holds and that are not final."""
        return self._rows.get(worker, 0)

    def give(self, page: LedgerPage, rows: Rows, worker: int) -> None:
        """These rows, QUEUED and here, are with that worker from now on."""
        if page.away is None:
            page.away = np.zeros(page.n, np.uint8) if page.here is None else page.here.zeros(page.n, np.uint8)
        page.away[rows] = worker + 1
        self._pages.setdefault(worker, {})[page.batch.address.sequence] = page
        self._rows[worker] = self.rows_at(worker) + len(rows)

    def adopt(self, page: LedgerPage, rows: Rows, worker: int) -> None:
        """These rows of a page from a journal are with that worker, which got them of an earlier life of this home, and
        may have left its process: as far as nobody has said more, those that the journal's marks name (all, where there
        are no marks) are taken for sent. Rows that have ended are its own for late receipts alone."""
        is_open = ~IS_FINAL[page.state[rows]]
        if is_open.any():
            self.give(page, rows[is_open], worker)
        elif page.away is None:
            page.away = np.zeros(page.n, np.uint8)
        assert page.away is not None
        page.away[rows] = worker + 1
        page.away[rows[is_open]] |= _ISSUED

    # -- reports

    def report(self, worker: int, outcomes: Outcomes, now: float) -> Reported:
        """The rows' columns are as the holder says. worker: who says so, in the life that holds its rows."""
        reported = self._report(worker, outcomes, now)
        if not reported.rows:
            # They are nobody's: the holder need not wait.
            self._answer(worker, outcomes)
        return reported

    def _report(self, worker: int, outcomes: Outcomes, now: float) -> Reported:
        n = len(outcomes.rows)
        rows = outcomes.rows.astype(np.intp)
        # What another worker holds is here.
        page = self._home.page_with(outcomes.address.sequence, rows)
        if page is None or page.batch.address != outcomes.address or page.away is None:
            return Reported(0, n)
        if n and int(rows[-1]) >= page.n:
            return Reported(0, n)
        page.bursts += [burst_at_home(burst, page.batch.born) for burst in outcomes.bursts]
        is_held = (page.away[rows] & AWAY_WORKER) == worker + 1
        is_held &= _IS_WAY[page.state[rows], outcomes.state]
        if not is_held.all():
            kept = np.flatnonzero(is_held)
            outcomes = _take(outcomes, kept)
            rows = rows[kept]
        if len(rows):
            self._apply(page, rows, outcomes, worker, now)
        return Reported(len(rows), n - len(rows))

    def _apply(self, page: LedgerPage, rows: Rows, outcomes: Outcomes, worker: int, now: float) -> None:
        page.channel[rows] = outcomes.channel
        if outcomes.flags.any():
            page.flags[rows] |= outcomes.flags
        page.attempts[rows] = outcomes.attempts
        page.routed_ms[rows] = outcomes.routed_ms
        page.issued_ms[rows] = outcomes.issued_ms
        page.token_hashes[rows] = outcomes.token_hashes
        assert page.away is not None
        page.away[rows] = np.uint8(worker + 1) | np.where(outcomes.is_announced, _ISSUED, np.uint8(0))
        was_open = page.n_open
        marked = None if page.trail is None else page.trail.marked[rows]
        self._move(page, rows, outcomes, now)
        if marked is not None:
            self._mark(page, rows, marked, outcomes, worker)
        else:
            self._answer(worker, outcomes)
        self._raise_receipts(page, rows, outcomes.receipt, now)
        if outcomes.is_back.any():
            back = rows[outcomes.is_back & (page.state[rows] == State.HELD)]
            page.away[back] = 0
            self._rows[worker] -= len(back)
            if not len(_held_by(page, worker)):
                self._pages[worker].pop(page.batch.address.sequence, None)
            # It may rest now.
            self._home.kept(page, 0)
        if page.n_open < was_open:
            is_final = IS_FINAL[outcomes.state]
            page.final_ms[rows[is_final]] = outcomes.final_ms[is_final]
            self._let_go(worker, page, was_open - page.n_open)

    def _move(self, page: LedgerPage, rows: Rows, outcomes: Outcomes, now: float) -> None:
        """States follow the report, over the steps that it left out."""
        codes = page.state[rows].astype(np.uint16) * np.uint16(len(State)) + outcomes.state
        if bool((codes == codes[0]).all()):
            # The usual report: rows of one burst, all with the same news.
            self._move_group(page, rows, int(codes[0]), outcomes.reason, outcomes.receipt, now)
            return
        for code in np.flatnonzero(np.bincount(codes)).tolist():
            which = np.flatnonzero(codes == code)
            self._move_group(page, rows[which], code, outcomes.reason[which], outcomes.receipt[which], now)

    def _move_group(self, page: LedgerPage, rows: Rows, code: int, reasons: U8, receipts: U8, now: float) -> None:
        start, to = State(code // len(State)), State(code % len(State))
        if start is to:
            page.reason[rows] = reasons
            # Channel and times may be others, though no row moves.
            page.note_changes(rows)
            self._home.counters.touch(page)
            if to is State.WAITING and self._home.trail is not None:
                # What it waits for may be what a start must know.
                self._home.trail.renew(page, rows)
            return
        *between, last = PATHS[start, to]
        for step in between:
            self._home.move(page, rows, step, None, now)
        delivered = Receipt.DELIVERED
        if last is State.DEVICE_ACKED and _are_all(receipts, delivered) and _are_all(reasons, Reason.NONE):
            # As where the device is this worker's: one change, not one for the state and one for the receipt.
            self._home.move(page, rows, last, Reason.NONE, now, channel=_only(page.channel[rows]), receipt=delivered)
        else:
            self._home.move(page, rows, last, reasons, now, channel=_only(page.channel[rows]))

    def _answer(self, worker: int, outcomes: Outcomes) -> None:
        for question in outcomes.questions:
            self.marks.answer(worker, question.number)

    def _mark(self, page: LedgerPage, rows: Rows, before: U8, outcomes: Outcomes, worker: int) -> None:
        """The journal follows what the holder says of rows that leave, or stay after all. before: (k,) the channels
        under which the rows were marked."""
        home_trail, trail = self._home.trail, page.trail
        assert home_trail is not None
        assert trail is not None
        states = page.state[rows]
        leaves = outcomes.is_announced & ~IS_FINAL[states]
        home_trail.unmark(page, rows[(before != 0) & ~outcomes.is_announced & (states != State.IN_FLIGHT)])
        again = leaves & (before == outcomes.channel) & (before != 0) & (trail.marked[rows] == 0)
        for channel in np.unique(before[again]).tolist():
            self.marks.mark_again(page, rows[again & (before == channel)], Channel(channel))
        for number, asked in outcomes.questions:
            self.marks.announced(worker, number, page, asked[asked < page.n].astype(np.intp))

    def _raise_receipts(self, page: LedgerPage, rows: Rows, receipts: U8, now: float) -> None:
        if not receipts.any():
            return
        rose = receipts[receipts > page.receipt[rows]]
        for code in np.flatnonzero(np.bincount(rose)).tolist():
            self._home.raise_receipts(page, rows[receipts == code], Receipt(code), now)

    def _let_go(self, worker: int, page: LedgerPage, ended: int) -> None:
        """So many rows of the page ended at that worker. They stay marked as its own: a late receipt is its to tell."""
        self._rows[worker] -= ended
        if not page.n_open:
            for pages in self._pages.values():
                pages.pop(page.batch.address.sequence, None)

    # -- deaths

    def take_back(self, worker: int, resends: Resends, now: float) -> Iterator[Returned]:
        """Every open row that the worker held is here again, page by page; the caller may yield in between, and may
        begin anew where it was interrupted.

        Rows that go again are QUEUED: the caller routes them. Until the last page is taken, nobody reports for the
        worker, and it is given no rows.
        """
        pages = self._pages.get(worker, {})
        while pages:
            _, page = pages.popitem()
            assert page.away is not None
            marks, rows = page.away, _held_by(page, worker)
            was_issued = (marks[rows] & _ISSUED) != 0
            marks[rows] = 0
            self._rows[worker] -= len(rows)
            yield self._return(page, rows, was_issued, resends, now)

    def _return(self, page: LedgerPage, rows: Rows, was_issued: Bool, resends: Resends, now: float) -> Returned:
        if page.trail is not None:
            # What its holder was not answered for cannot have left.
            was_issued = page.trail.marked[rows] != 0
        was_issued |= page.state[rows] == State.IN_FLIGHT
        may_go = ~was_issued
        issued = np.flatnonzero(was_issued)
        if len(issued):
            at_vendor = page.channel[rows[issued]] > Channel.LONG_LINK
            may_go[issued] = ~at_vendor | resends(page, rows[issued])
        again, uncertain = rows[may_go], rows[~may_go]
        # Announced and not yet reported as sent: it may have been, so it is taken for sent.
        self._home.move(page, uncertain[page.state[uncertain] == State.QUEUED], State.IN_FLIGHT, None, now)
        self._home.move(page, uncertain, State.UNCERTAIN, Reason.PROCESS_ENDED, now)
        may_be_shown = may_go & was_issued
        if page.trail is None:
            may_be_shown |= may_go & _may_be_on_link(page, rows)
        page.flags[rows[may_be_shown]] |= np.uint8(Flag.RESENT_UNCERTAIN)
        self._home.move(page, again[page.state[again] != State.QUEUED], State.QUEUED, Reason.NONE, now)
        if self._home.trail is not None:
            self._home.trail.unmark(page, again)
        return Returned(page, go_on(self._home, page, again, now), uncertain)


def _held_by(page: LedgerPage, worker: int) -> Rows:
    """Open rows of the page that are with that worker."""
    if page.away is None:
        return np.zeros(0, np.intp)
    rows = np.arange(page.n) if page.here is None else page.here.rows
    away, states = (page.away, page.state) if page.here is None else (page.away[rows], page.state[rows])
    found: Rows = rows[((away & AWAY_WORKER) == worker + 1) & ~IS_FINAL[states]]
    return found


def _still_announced(page: LedgerPage, rows: Rows, worker: int) -> Rows:
    """Those of the rows that this worker has, and is about to let leave."""
    if page.away is None:
        return rows[:0]
    kept: Rows = rows[page.away[rows] == (np.uint8(worker + 1) | _ISSUED)]
    return kept


def _are_all(column: U8, value: int) -> bool:
    return column.tobytes() == bytes([value]) * len(column)


def _only(channels: U8) -> Channel | None:
    """The one channel of all rows; None where there are several."""
    first = int(channels[0])
    return Channel(first) if _are_all(channels, first) else None


def _may_be_on_link(page: LedgerPage, rows: Rows) -> Bool:
    """(k,) rows for devices, of which it is not known that their owner gave them to a vendor. One that was stored may
    have been delivered since."""
    states = page.state[rows]
    is_open: Bool = ((states == State.QUEUED) & (page.channel[rows] <= Channel.LONG_LINK)) | (states == State.HELD)
    targets = page.batch.channels
    return is_open if targets is None else is_open & (targets[rows] == 0)


def _take(outcomes: Outcomes, kept: Rows) -> Outcomes:
    """The same of some of its rows."""
    whole = ("address", "bursts", "questions")
    columns = {name: column[kept] for name, column in outcomes._asdict().items() if name not in whole}
    changed: Any = outcomes._replace
    taken: Outcomes = changed(**columns)
    return taken
