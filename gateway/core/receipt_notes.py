"""Receipt notes: what receipts did to pages is written to the journal; who told of them hears when it is. A machine.

    Home.hear() --> page's history --note()--> noted pages --take()--> one record of entries --> written()
    wait(told) --> told(True) when all that was noted before is durable, told(False) where the disk refused

A note is the new entries of a page's history (page_history.py): which row, what, when. Everything that a receipt does
to a row follows from them again at a start (`hear_again`). Records are let go when the archive has the page as it is,
or, without an archive, when its batch leaves the journal: then nothing of the page outlives the process anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import U8, Bool, Rows
from gateway.core.home import Home
from gateway.core.receipt_reports import FLAGS, RECEIPTS
from gateway.core.shadow import ShadowPage
from gateway.ledger import IS_FINAL, Channel, LedgerPage, Reason, Receipt, State
from gateway.page_history import RECEIPT_KINDS, PageHistory, RowNotes

#: Called once: whether what was noted before is durable.
Told = Callable[[bool], None]


class TakenNotes(NamedTuple):
    """What one record is to hold. ends: entries of each page up to which it goes. told: who waits for it."""

    notes: list[RowNotes]
    pages: list[LedgerPage]
    ends: list[int]
    told: list[Told]


class ReceiptNotes:
    """apps: those on the disk. on_work: called when something has to be written or let go."""

    def __init__(self, apps: Collection[int]) -> None:
        self._apps = apps
        #: Pages outlive their rows: there is an archive.
        self.has_archive = False
        self.on_work: Callable[[], None] = lambda: None
        self._noted: dict[int, LedgerPage] = {}
        self._waiting: list[Told] = []
        self._under_way: TakenNotes | None = None
        #: Records -> pages that still need them; and those that nobody needs.
        self._needed_by: dict[int, int] = {}
        self._free: list[int] = []

    def note(self, page: LedgerPage) -> None:
        """The page's history has grown."""
        if page.batch.app not in self._apps or isinstance(page, ShadowPage):
            return
        if not self.has_archive and (page.trail is None or page.trail.may_go):
            return
        self._noted[page.batch.address.sequence] = page
        self.on_work()

    def wait(self, told: Told) -> None:
        """`told` is called when everything that was noted so far is durable; at once where it is."""
        if self._noted:
            self._waiting.append(told)
            self.on_work()
        elif self._under_way is not None:
            self._under_way.told.append(told)
        else:
            told(True)

    @property
    def has_noted(self) -> bool:
        return bool(self._noted)

    @property
    def is_awaited(self) -> bool:
        return bool(self._waiting)

    def take(self) -> TakenNotes | None:
        """Everything that was noted; None where nothing was. It must be `written` or `unwritten` before the next."""
        if not self._noted:
            return None
        pages, self._noted = list(self._noted.values()), {}
        told, self._waiting = self._waiting, []
        notes = [new_notes(page) for page in pages]
        ends = [0 if page.history is None else page.history.n for page in pages]
        self._under_way = TakenNotes(notes, pages, ends, told)
        return self._under_way

    def written(self, taken: TakenNotes, position: int) -> None:
        """The record of these is durable there."""
        self._under_way = None
        needing = []
        for page, end in zip(taken.pages, taken.ends, strict=True):
            assert page.history is not None
            page.history.written = end
            if not self._is_kept(page):
                needing.append(page)
        self.adopt(position, needing)
        for told in taken.told:
            told(True)

    def unwritten(self, taken: TakenNotes) -> None:
        """The record could not be written: it will be tried again."""
        self._under_way = None
        for page in taken.pages:
            self._noted[page.batch.address.sequence] = page
        for told in taken.told:
            told(False)

    def _is_kept(self, page: LedgerPage) -> bool:
        """Nobody needs a record of the page."""
        if self.has_archive:
            return page.is_saved
        return page.trail is None or page.trail.may_go

    def adopt(self, position: int, pages: Collection[LedgerPage]) -> None:
        """A record, and the pages whose entries stand in it and nowhere else."""
        for page in pages:
            assert page.history is not None
            page.history.records.append(position)
        if pages:
            self._needed_by[position] = len(pages)
        else:
            self._free.append(position)
            self.on_work()

    def archived(self, page: LedgerPage) -> None:
        """The page is durable elsewhere, as it is; or its batch is to leave the journal, where there is no archive."""
        history = page.history
        if history is None:
            return
        for position in history.records:
            self._needed_by[position] -= 1
            if not self._needed_by[position]:
                del self._needed_by[position]
                self._free.append(position)
        history.records = []
        if self._free:
            self.on_work()

    @property
    def has_free(self) -> bool:
        return bool(self._free)

    def take_free(self) -> list[int]:
        """Positions of records that no page needs any more."""
        free, self._free = self._free, []
        return free


def new_notes(page: LedgerPage) -> RowNotes:
    """What of the page's history is not in the journal."""
    address, history = page.batch.address, page.history
    assert history is not None
    new = slice(history.written, history.n)
    return RowNotes(
        address.unix_ms,
        address.sequence,
        history.rows[new].copy(),
        history.kinds[new].copy(),
        history.channels[new].copy(),
        history.at_ms[new].copy(),
    )


def merged(notes: Sequence[RowNotes]) -> RowNotes:
    """Several of one page as one, in their order."""
    first = notes[0]
    return RowNotes(first.unix_ms, first.sequence, *(np.concatenate([one[at] for one in notes]) for at in range(2, 6)))


# -- at a start


def receipts_of(n: int, notes: Iterable[RowNotes]) -> tuple[U8, Bool]:
    """(n,) the highest receipt of each row, and whether any receipt shows that its channel took it."""
    receipt, was_heard = np.zeros(n, np.uint8), np.zeros(n, np.bool_)
    for note in notes:
        which = (note.rows < n) & (note.kinds < RECEIPT_KINDS)
        rows = note.rows[which].astype(np.intp)
        np.maximum.at(receipt, rows, RECEIPTS[note.kinds[which]])
        was_heard[rows] = True
    return receipt, was_heard


def hear_again(
    home: Home, page: LedgerPage, notes: Sequence[RowNotes], now: float, elsewhere: Rows | None = None
) -> int:
    """What an earlier process heard of the page's rows counts; how many entries are new to it. Nobody is told of
    receipts, since they were counted then; rows that turn out to have arrived end, and are not sent again.

    elsewhere: rows whose holder, another worker, ends them."""
    found = 0
    heard: list[Rows] = []
    for note in notes:
        which = (note.rows < page.n) & (note.kinds < RECEIPT_KINDS)
        rows: Rows = note.rows[which].astype(np.intp)
        if page.history is None:
            page.history = PageHistory(page.n)
        found += page.history.hear(rows, note.kinds[which], note.channels[which], note.at_ms[which])
        np.maximum.at(page.receipt, rows, RECEIPTS[note.kinds[which]])
        np.bitwise_or.at(page.flags, rows, FLAGS[note.kinds[which]])
        heard.append(rows)
    if page.history is not None:
        # They stand in the records that they came from.
        page.history.written = page.history.n
    receipt, was_heard = receipts_of(page.n, notes)
    if found:
        page.note_changes(np.concatenate(heard))
        home.counters.touch(page)
    if elsewhere is not None:
        was_heard[elsewhere] = False
    delivered = was_heard & (receipt >= Receipt.DELIVERED)
    _end_arrived(home, page, np.flatnonzero(was_heard), np.flatnonzero(delivered), now)
    if found and not page.n_open:
        home.on_done(page)
    return found


def _end_arrived(home: Home, page: LedgerPage, heard: Rows, delivered: Rows, now: float) -> None:
    home.move(page, heard[page.state[heard] == State.UNCERTAIN], State.VENDOR_ACCEPTED, Reason.NONE, now)
    open_ = delivered[~IS_FINAL[page.state[delivered]] & (page.state[delivered] != State.HELD)]
    on_link = page.channel[open_] == Channel.LONG_LINK
    home.move(page, open_[on_link], State.DEVICE_ACKED, Reason.NONE, now)
    at_vendor = open_[~on_link]
    home.move(page, at_vendor[page.state[at_vendor] == State.QUEUED], State.WAITING, None, now)
    home.move(page, at_vendor, State.VENDOR_ACCEPTED, Reason.NONE, now)
