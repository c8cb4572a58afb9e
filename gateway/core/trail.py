"""Trail: what a journal must be told of the rows it holds, and which of its records may go. A machine.

    mark()      rows are about to be issued       -+
    moved()     rows came back, or are final      -+-> dirty rows --take()--> one record of snapshots --written()-->
    finished()  the last row of a batch is final -+
    archived()  the archive has its page          +--> take_final() --> batch let go --released()--> its marks let go

What is written of a row is what it is when the record is made, so a row that moved twice is written once, and the order
in which things happened cannot be got wrong. A batch that is final before anything of it had to be written costs its
release and nothing else. With an archive it goes when its page is there as well, and meanwhile its outcomes are written
like others: the room in its window must not wait for the archive.

**Held rows.** A batch whose open rows all wait in a durable inbox may go like one that is final, once the archive has
its page: what comes later of such a page is marks without a batch, which a start finds in the archive.

**Window.** Per (app, channel), at most `issued_rows_max` rows have a mark that no later record takes back. After a
crash no more rows than that are uncertain. The room comes back when the outcome is durable, not when it is known.

**Tickets.** `mark` names the record that will hold the mark; `is_durable(ticket)` says whether bytes may leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import U8, Rows
from gateway.ledger import IS_FINAL, Channel, LedgerPage, Reason, State
from gateway.marks import NO_POSITION, NO_TICKET, PageTrail, RowMarks, Window

Ring = Callable[[], None]


class Taken(NamedTuple):
    """What one record is to hold. credits: rows whose room comes back with it. rings: who waits for it."""

    ticket: int
    marks: list[RowMarks]
    pages: list[LedgerPage]
    credits: dict[Window, int]
    rings: list[Ring]

    @property
    def issued_rows(self) -> int:
        return sum(int(np.count_nonzero(mark.states == State.IN_FLIGHT)) for mark in self.marks)


class Leaving(NamedTuple):
    """A batch, or what was marked of one that is gone, that may be let go. trail: what the page had then; by now it may
    have a new one."""

    page: LedgerPage
    trail: PageTrail


class Trail:
    """issued_rows_max: of a window. on_work: called when something has to be written or let go."""

    def __init__(self, *, issued_rows_max: int) -> None:
        self.issued_rows_max = issued_rows_max
        #: A batch that is final is let go only when it is `archived`, too.
        self.awaits_archive = False
        self.on_work: Ring = lambda: None
        #: Somebody waits for the next record.
        self.is_urgent = False
        self._windows: dict[Window, int] = {}
        self._dirty: dict[int, LedgerPage] = {}
        self._final: list[Leaving] = []
        self._rings: dict[Ring, None] = {}
        self._blocked: dict[Ring, None] = {}
        self._taken = NO_TICKET
        self._written = NO_TICKET
        #: Records of marks -> pages that still need them; and those that nobody needs.
        self._needed_by: dict[int, int] = {}
        self._free: list[int] = []

    # -- what happens to rows

    def follow(self, page: LedgerPage, position: int, *, is_recovered: bool = False) -> None:
        """The page's batch is durable at that position."""
        page.trail = PageTrail(page.n, position, is_recovered=is_recovered, here=page.here)
        if page.n_open == 0:
            self.finished(page)

    def room(self, app: int, channel: Channel, ring: Ring) -> int:
        """Rows that may be marked now; where there are none, `ring` is called when there may be."""
        room = self.issued_rows_max - self._windows.get((app, int(channel)), 0)
        if room <= 0:
            self._blocked[ring] = None
        return max(room, 0)

    def mark(self, page: LedgerPage, rows: Rows, channel: Channel, ring: Ring) -> int:
        """The rows are about to be issued there; the ticket of the record that says so. ring: called when it is
        durable."""
        trail = page.trail
        if trail is None:
            return NO_TICKET
        before = trail.marked[rows]
        is_new = before != int(channel)
        n_new = int(np.count_nonzero(is_new))
        if n_new:
            trail.own()
            # The usual burst: none of it is marked.
            new = rows if n_new == len(rows) else rows[is_new]
            self._end(page, trail, before[is_new] if before.any() else before[:0])
            trail.marked[new] = int(channel)
            trail.is_sure[new] = False
            window = (page.batch.app, int(channel))
            self._windows[window] = self._windows.get(window, 0) + len(new)
            self._soil(page, trail, new)
            trail.ticket = self._taken + 1
        elif trail.is_sure[rows].all():
            return NO_TICKET
        if trail.ticket > self._written:
            self._rings[ring] = None
            if trail.ticket > self._taken:
                self.is_urgent = True
                self.on_work()
        return trail.ticket

    def remember(self, page: LedgerPage, rows: Rows, channels: U8) -> None:
        """The journal says of these rows, which are with their holders yet, that they were issued there."""
        trail = page.trail
        assert trail is not None
        trail.own()
        trail.marked[rows] = channels
        trail.is_sure[rows] = True
        for channel, count in enumerate(np.bincount(channels).tolist()):
            if count:
                window = (page.batch.app, channel)
                self._windows[window] = self._windows.get(window, 0) + count

    def is_durable(self, ticket: int) -> bool:
        return ticket <= self._written

    def unmark(self, page: LedgerPage, rows: Rows) -> None:
        """The rows were not issued after all."""
        trail = page.trail
        if trail is None or trail.is_gone:
            return
        marked = trail.marked[rows]
        n_ended = int(np.count_nonzero(marked))
        if n_ended:
            self._end(page, trail, marked)
            ended = rows if n_ended == len(rows) else rows[marked != 0]
            trail.marked[ended] = 0
            trail.is_sure[ended] = False
            self._soil(page, trail, ended)

    def moved(self, page: LedgerPage, rows: Rows, to: State) -> None:
        """The rows of a page that is followed are in that state now."""
        trail = page.trail
        assert trail is not None
        if to is State.IN_FLIGHT or trail.is_gone:
            return
        self.unmark(page, rows)
        if IS_FINAL[to]:
            self._soil(page, trail, rows)
        elif to is State.WAITING:
            self._soil(page, trail, rows[page.reason[rows] == Reason.FALLBACK])

    def renew(self, page: LedgerPage, rows: Rows) -> None:
        """What is known of the rows is to be written, though they did not move."""
        if page.trail is not None and len(rows):
            self._soil(page, page.trail, rows)

    def finished(self, page: LedgerPage) -> None:
        """No row of the page is open any more: nothing more need be written of it. Again changes nothing."""
        trail = page.trail
        assert trail is not None
        if trail.is_finished:
            return
        trail.is_finished = True
        if not self.awaits_archive:
            self._may_go(page, trail)

    def archived(self, page: LedgerPage) -> None:
        """The page is durable elsewhere, as it is, and its open rows are in a durable inbox. Again changes nothing."""
        trail = page.trail
        if trail is None:
            return
        if not page.n_open:
            trail.is_finished = True
            self._may_go(page, trail)
        elif not trail.marked.any() and not trail.is_blank:
            self._may_go(page, trail)
            page.trail = PageTrail(page.n, NO_POSITION, is_recovered=trail.is_recovered, here=page.here)

    def _may_go(self, page: LedgerPage, trail: PageTrail) -> None:
        if not trail.may_go:
            trail.may_go = True
            self._dirty.pop(page.batch.address.sequence, None)
            self._final.append(Leaving(page, trail))
            self.on_work()

    def _end(self, page: LedgerPage, trail: PageTrail, marked: U8) -> None:
        """marked: what rows had; 0 of those that had no mark."""
        for channel, n in _counts(marked):
            if channel:
                window = (page.batch.app, channel)
                trail.ended[window] = trail.ended.get(window, 0) + n

    def _soil(self, page: LedgerPage, trail: PageTrail, rows: Rows) -> None:
        trail.own()
        trail.dirty[rows] = True
        is_first = not self._dirty
        self._dirty[page.batch.address.sequence] = page
        if is_first:
            self.on_work()

    # -- what is written of them

    @property
    def has_dirty(self) -> bool:
        return bool(self._dirty)

    def take(self, pages_max: int) -> Taken | None:
        """Snapshots of what changed, of at most so many pages; None when nothing did. One at a time: it must be
        `written` or `unwritten` before the next."""
        self.is_urgent = False
        if not self._dirty:
            return None
        marks: list[RowMarks] = []
        pages: list[LedgerPage] = []
        credits: dict[Window, int] = {}
        # Tickets name a record, so the record must hold every page that has one: only what nobody waits for may wait.
        for sequence in list(self._dirty):
            page = self._dirty[sequence]
            trail = page.trail
            assert trail is not None
            if len(pages) >= pages_max and trail.ticket <= self._taken:
                continue
            del self._dirty[sequence]
            pages.append(page)
            marks.append(_snapshot(page, trail))
            trail.dirty.fill(False)
            _add(credits, trail.ended)
            trail.ended = {}
        self._taken += 1
        rings, self._rings = list(self._rings), {}
        return Taken(self._taken, marks, pages, credits, rings)

    def written(self, taken: Taken, position: int) -> list[Ring]:
        """The record of these is durable there. Who is to be rung."""
        alive = [page for page in taken.pages if page.trail is not None and not page.trail.is_gone]
        for page in alive:
            assert page.trail is not None
            page.trail.records.append(position)
        if alive:
            self._needed_by[position] = len(alive)
        else:
            self._free.append(position)
        return self._settle(taken)

    def unwritten(self, taken: Taken) -> list[Ring]:
        """The record could not be written: it will be tried again, and nobody waits for it. Who is to be rung."""
        rings = self._settle(taken)
        for page, mark in zip(taken.pages, taken.marks, strict=True):
            trail = page.trail
            assert trail is not None
            if not trail.is_gone and not trail.may_go:
                trail.own()
                trail.dirty[mark.rows] = True
                self._dirty[page.batch.address.sequence] = page
        return rings

    def _settle(self, taken: Taken) -> list[Ring]:
        for page, mark in zip(taken.pages, taken.marks, strict=True):
            trail = page.trail
            assert trail is not None
            # It may have a new one by now.
            trail.own()
            # What became dirty meanwhile waits for the next record.
            trail.is_sure[mark.rows] = mark.states == State.IN_FLIGHT
            trail.is_sure[trail.dirty.nonzero()[0]] = False
        self._written = taken.ticket
        return [*taken.rings, *self._give_back(taken.credits)]

    def _give_back(self, credits: dict[Window, int]) -> list[Ring]:
        for window, rows in credits.items():
            self._windows[window] -= rows
        if not credits:
            return []
        rings, self._blocked = list(self._blocked), {}
        return rings

    # -- what may go

    @property
    def has_final(self) -> bool:
        return bool(self._final) or bool(self._free)

    def take_final(self, batches_max: int) -> list[Leaving]:
        """Batches that may be let go; they must be `released` when that is durable."""
        batches, self._final = self._final[:batches_max], self._final[batches_max:]
        return batches

    def put_back_final(self, batches: Sequence[Leaving]) -> None:
        """They could not be let go yet."""
        self._final[:0] = batches

    def released(self, batches: Sequence[Leaving]) -> list[Ring]:
        """These are durably gone. Who is to be rung."""
        credits: dict[Window, int] = {}
        for page, trail in batches:
            trail.is_gone = True
            if page.trail is trail:
                self._dirty.pop(page.batch.address.sequence, None)
            _add(credits, trail.ended)
            trail.ended = {}
            for position in trail.records:
                self._needed_by[position] -= 1
                if not self._needed_by[position]:
                    del self._needed_by[position]
                    self._free.append(position)
            trail.records = []
        return self._give_back(credits)

    def take_free(self) -> list[int]:
        """Positions of mark records that no batch needs any more."""
        free, self._free = self._free, []
        return free

    def put_back_free(self, positions: Sequence[int]) -> None:
        self._free += positions

    def adopt(self, position: int, pages: Sequence[LedgerPage]) -> None:
        """A mark record of an earlier run, and the followed pages that it is about."""
        for page in pages:
            assert page.trail is not None
            page.trail.records.append(position)
        if pages:
            self._needed_by[position] = len(pages)
        else:
            self._free.append(position)

    def issued_rows(self) -> int:
        """Rows that would be uncertain if the process ended now."""
        return sum(self._windows.values())


def _add(credits: dict[Window, int], more: dict[Window, int]) -> None:
    for window, rows in more.items():
        credits[window] = credits.get(window, 0) + rows


def _counts(values: U8) -> list[tuple[int, int]]:
    """Each value that occurs, and how often. One value throughout is the usual case and a sixth of the cost."""
    n, texts = len(values), values.tobytes()
    if texts == texts[:1] * n:
        return [(texts[0], n)] if n else []
    counts = np.bincount(values)
    return [(value, int(counts[value])) for value in counts.nonzero()[0].tolist()]


def _snapshot(page: LedgerPage, trail: PageTrail) -> RowMarks:
    rows = trail.dirty.nonzero()[0]
    before, reasons, channels = page.state[rows], page.reason[rows], page.channel[rows]
    states = before
    is_open = ~IS_FINAL[before]
    if is_open.any():
        states, marked = before.copy(), trail.marked[rows]
        is_issued = is_open & (marked != 0)
        states[is_open] = int(State.QUEUED)
        states[is_issued] = int(State.IN_FLIGHT)
        # A vendor took them and they wait for a receipt: they must not go there again.
        states[(before == State.WAITING) & (reasons == Reason.FALLBACK)] = int(State.WAITING)
        channels[is_issued] = marked[is_issued]
    return RowMarks(page.batch.address.sequence, rows.astype(np.uint16), states, reasons, channels, page.flags[rows])
