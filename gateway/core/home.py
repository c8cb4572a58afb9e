"""Home: the ledger pages of the batches this worker journaled, and every rule about moving rows between states.

The home is the only writer of its pages. Router, lanes and long link report outcomes through `move`, `answered`,
`raise_receipts`; within one process that outcome stream is a plain call: it is never refused and never waits
(DESIGN.md section 4). What lanes and inbox queue are hints; the page is the truth: a holder takes a queued row only
while its state still says so.

Expiry is decided here, once, for every holder: a wheel holds one entry per page and deadline. Rows in flight are left
alone until their answer, which a request deadline bounds.

Changes are kept in a bounded ring for `subscribe_receipts`; positions in it are the cursors.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from gateway import message_id
from gateway.batch import Batch, TaskSegment, task_segments
from gateway.columns import I64, U8, U16, Rows
from gateway.core.addresses import SHADOWS_FROM, Addresses, as_sent
from gateway.core.away import AwayPage, AwayPages
from gateway.core.changes import Change, ChangeRing, told_batch
from gateway.core.counters import Counters
from gateway.core.home_words import HomeObserver, HomeStatistics
from gateway.core.lifetimes import due_rows, lifetime_s
from gateway.core.long_tasks import LongTasks
from gateway.core.shadow import Life, ShadowPage, Shadows
from gateway.core.trail import Trail
from gateway.core.wheel import TimingWheel
from gateway.errors import Overloaded
from gateway.ledger import FINAL_STATES, Channel, Flag, LedgerPage, Reason, Receipt, State
from gateway.message_id import BatchAddress, RowAddress
from gateway.page_history import Kind

#: Pages looked at in one call of `evict`.
_EVICT_LOOK = 64
#: A TTL is in seconds; a twentieth of one is precise enough and lets a burst of batches share a tick.
_EXPIRY_TICK_S = 0.05
_FINAL = np.array([state in FINAL_STATES for state in State])
_IS_FINAL: list[bool] = _FINAL.tolist()


class Home:
    """Pages by batch sequence of one journal.

    ledger_bytes_max: pages beyond it are evicted, oldest first, if their rows are final or wait in the inbox alone.
    rows_open_max: intake is refused above it. change_rows_max: rows the ring of changes may hold.
    adopted: journals of workers that this start does not have, whose archived pages are this home's.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        journal: int,
        observer: HomeObserver,
        ledger_bytes_max: int,
        rows_open_max: int,
        change_rows_max: int,
        now: float,
        adopted: Collection[int] = (),
    ) -> None:
        self._secret = secret
        self.addresses = Addresses(secret, journal, adopted)
        self.counters = Counters()
        self.journal = self._journal = journal
        #: Called once for each batch when its last row has become final: its journal record may go.
        self.on_final: Callable[[int], None] = lambda _sequence: None
        #: Told of each move of rows that a journal on disk holds.
        self.trail: Trail | None = None
        #: Called when receipts of rows of a page came that had not come before.
        self.on_heard: Callable[[LedgerPage], None] = lambda _page: None
        #: Called when a page's last row has become final, and when it changes after that: it is to be archived.
        self.on_done: Callable[[LedgerPage], None] = lambda _page: None
        #: Called when the open rows of a page all wait in the inbox, for the time being.
        self.on_rest: Callable[[LedgerPage], None] = lambda _page: None
        #: Whether a page without open rows, or one that rests, may leave memory.
        self.may_drop: Callable[[LedgerPage], bool] = lambda page: page.n_open == 0
        #: Called when memory is short and no page may be dropped.
        self.on_short: Callable[[], None] = lambda: None
        #: Called when rows of a page that is away may be due; it is to be brought back, and looked at again.
        self.on_away_due: Callable[[BatchAddress], None] = lambda _address: None
        self.away_pages = AwayPages()
        self._observer = observer
        self._ledger_bytes_max = ledger_bytes_max
        self._rows_open_max = rows_open_max
        self._pages: OrderedDict[int, LedgerPage] = OrderedDict()
        #: Rows that other workers journaled and this one holds.
        self.shadows = Shadows(secret)
        self.shadows.on_orphans = self._tell_orphans
        self._page_bytes: dict[int, int] = {}
        self.rows_open = self._rows_wanted = 0
        self._bytes = self._evicted = self._next_sequence = self._newest_unix_ms = 0
        #: The monotonic time of that label.
        self._labelled_at = now
        self._long_tasks = LongTasks()
        #: Addresses, not pages: an evicted page must not live on in here.
        self._wheel: TimingWheel[BatchAddress] = TimingWheel(
            tick_s=_EXPIRY_TICK_S, slots=1024, now=now, items_max=message_id.SEQUENCES_MAX
        )
        #: Taken off the wheel and not looked at yet.
        self._due: deque[BatchAddress] = deque()
        self._changes = ChangeRing(change_rows_max)

    # -- making batches

    def label(self, unix_ms: int, now: float) -> int:
        """The time that batches are labelled with. It never goes back, and while the wall clock stands before it, it
        goes on with the monotonic one: ages that are counted from labels after a restart must not be too short."""
        elapsed_ms = int((now - self._labelled_at) * 1000)
        if unix_ms > self._newest_unix_ms + elapsed_ms or not self._newest_unix_ms:
            self._newest_unix_ms, self._labelled_at = max(unix_ms, self._newest_unix_ms), now
        elif elapsed_ms > 0:
            self._newest_unix_ms += elapsed_ms
            self._labelled_at += elapsed_ms / 1000
        return self._newest_unix_ms

    def label_after(self, unix_ms: int, now: float) -> None:
        """Batches are labelled no earlier than that."""
        self._newest_unix_ms, self._labelled_at = max(self._newest_unix_ms, unix_ms), now

    @property
    def next_sequence(self) -> int:
        return self._next_sequence

    def next_address(self, unix_ms: int, now: float) -> BatchAddress:
        """The address of the next batch."""
        label = self.label(unix_ms, now)
        sequence = self._next_sequence
        while sequence in self._pages or sequence in self.away_pages:
            # Sequences start again after four million batches; one that is still open keeps its number.
            sequence = (sequence + 1) % message_id.SEQUENCES_MAX
        self._next_sequence = (sequence + 1) % message_id.SEQUENCES_MAX
        return BatchAddress(label, self._journal, sequence)

    def begin_after(self, sequence: int, unix_ms: int) -> None:
        """A batch of an earlier run has this address, or was to get it; new ones come behind the newest that is named,
        by whichever store: the archive, the inbox and the journal each know of others. To be called before anything is
        opened or labelled."""
        following = (sequence + 1) % message_id.SEQUENCES_MAX
        # Numbers begin again after four million batches: of two with one label the one behind the other is the newer.
        is_ahead = (following - self._next_sequence) % message_id.SEQUENCES_MAX < message_id.SEQUENCES_MAX // 2
        if unix_ms > self._newest_unix_ms or (unix_ms == self._newest_unix_ms and is_ahead):
            self._next_sequence = following
            self._newest_unix_ms = unix_ms

    def is_ours(self, address: BatchAddress) -> bool:
        """Whether batches of this home have such addresses."""
        return self.addresses.is_ours(address)

    def check_room(self, rows: int) -> None:
        """Raises Overloaded when `rows` more would exceed a limit."""
        self._rows_wanted = rows
        if self._is_full:
            self.evict()
            # Rows of pages that are away are bounded by the inbox.
            rows_open = self.rows_open - self.away_pages.rows + rows
            if rows_open > self._rows_open_max:
                raise Overloaded("open rows", rows_open, self._rows_open_max)
            if self.ledger_bytes > self._ledger_bytes_max:
                raise Overloaded("ledger bytes", self.ledger_bytes, self._ledger_bytes_max)

    def open(self, batch: Batch, now: float, long_tasks: Sequence[bytes] = ()) -> LedgerPage:
        """The batch has a page; duplicates in it are dropped; its expiry is in the wheel.

        long_tasks: ids of tasks that have rows in this batch and in others.
        """
        self.name_rows(batch)
        page = LedgerPage(batch)
        sequence = batch.address.sequence
        self._pages[sequence] = page
        self.resized(page)
        self.rows_open += page.n
        self.counters.touch(page)
        for task_id in long_tasks:
            self._note_part(task_id, batch.address)
        deadline = batch.born + min(lifetime_s(variant) for variant in batch.variants)
        self._wheel.add(deadline, batch.address)
        if batch.duplicates is not None:
            rows = np.flatnonzero(batch.duplicates)
            if len(rows):
                self.move(page, rows, State.DROPPED, Reason.DUPLICATE_TARGET, now)
        self._rows_wanted = 0
        if self._is_full:
            self.evict()
        return page

    def open_shadow(self, life: Life, batch: Batch, home_rows: U16, size_bytes: int) -> ShadowPage:
        """Rows that the other worker journaled are here, QUEUED; their expiry is in the wheel. Takes over the batch.

        Raises ValueError where the rows do not fit the batch.
        """
        page = self.shadows.open(life, batch, home_rows, size_bytes)
        self._wheel.add(batch.born + min(lifetime_s(variant) for variant in batch.variants), batch.address)
        return page

    @property
    def _is_full(self) -> bool:
        """A limit is passed, with the rows that were last asked room for."""
        rows = self.rows_open - self.away_pages.rows + self._rows_wanted
        return rows > self._rows_open_max or self._bytes + self.away_pages.memory_bytes > self._ledger_bytes_max

    @property
    def ledger_bytes_max(self) -> int:
        return self._ledger_bytes_max

    @property
    def ledger_bytes(self) -> int:
        return self._bytes + self.away_pages.memory_bytes

    def evict(self) -> None:
        """Oldest pages that need not be here leave memory until the limits hold; where they do not, `on_short`."""
        if not self.evict_some():
            self.on_short()

    def evict_some(self) -> bool:
        """The same without telling anybody; whether the limits hold. Looks at a few pages only."""
        for sequence in list(itertools.islice(self._pages, _EVICT_LOOK)):
            if not self._is_full:
                return True
            page = self._pages[sequence]
            # One without open rows is dropped for its bytes alone.
            if self.may_drop(page) and (page.n_open or self.ledger_bytes > self._ledger_bytes_max):
                self._drop(sequence, page)
            else:
                # One that is needed is looked at again after all others, so that a slow batch does not block eviction.
                self._pages.move_to_end(sequence)
        return not self._is_full

    def _drop(self, sequence: int, page: LedgerPage) -> None:
        del self._pages[sequence]
        self.counters.left(page)
        self._bytes -= self._page_bytes.pop(sequence)
        self._evicted += 1
        for segment in page.batch.segments if self._long_tasks else ():
            self._long_tasks.forget(segment.task_id, page.batch.address)
        # Of one of which a few rows were here it stands there already.
        self.away_pages.pop(sequence)
        if page.n_open:
            # Its deadline stays in the wheel.
            self.away_pages.add(AwayPage(page.batch.address, page.n_open))

    def adopt(self, page: LedgerPage) -> None:
        """A page that had left memory is here again, because it is about to change; others make room for it. One of
        which a few rows are here stays away."""
        if self._is_full:
            self.evict()
        self.counters.came_back(page)
        self._pages[page.batch.address.sequence] = page
        if page.here is None:
            self.came_whole(page)
        else:
            self.resized(page)

    def came_whole(self, page: LedgerPage) -> None:
        """All rows of a page are here; it is not away any more, and found by its tasks."""
        away = self.away_pages.pop(page.batch.address.sequence)
        self.rows_open += page.n_open - (0 if away is None else away.held)
        for segment in [one for one in page.batch.segments if one.is_continued or one.task_id in self._long_tasks]:
            self._note_part(segment.task_id, page.batch.address)
        self.resized(page)

    def resized(self, page: LedgerPage) -> None:
        """A page of this home takes as much memory as it says."""
        sequence, size = page.batch.address.sequence, page.memory_bytes()
        self._bytes += size - self._page_bytes.get(sequence, 0)
        self._page_bytes[sequence] = size

    def adopt_away(self, address: BatchAddress, held: int, deadline: float) -> None:
        """An earlier process left a page in the archive with so many rows held; the first of them is due then."""
        self.away_pages.add(AwayPage(address, held))
        self.rows_open += held
        self._wheel.add(deadline, address)

    def forget_away(self, sequence: int) -> None:
        """The archive has no such page any more: nobody can say what became of its rows."""
        away = self.away_pages.pop(sequence)
        if sequence in self._pages:
            # A few of its rows.
            self._bytes -= self._page_bytes.pop(sequence)
            self.counters.left(self._pages.pop(sequence))
        self.rows_open -= 0 if away is None else away.held

    def look_again(self, address: BatchAddress, now: float) -> None:
        """Rows of that page may be due."""
        self._wheel.add(now, address)

    def kept(self, page: LedgerPage, rows: int) -> None:
        """So many of the page's held rows are in the inbox store, or have ended meanwhile."""
        page.keeping -= rows
        self._may_rest(page)

    def _may_rest(self, page: LedgerPage) -> None:
        if page.n_open and page.rests and not isinstance(page, ShadowPage):
            self.on_rest(page)

    def _note_part(self, task_id: bytes, part: BatchAddress) -> None:
        """The task has rows in that batch; the one in which it began is noted with its second."""
        if task_id not in self._long_tasks:
            begun = [page.batch.address for page in self.task_pages(task_id) if self.segments_of(page, task_id)]
            self._long_tasks.begin(task_id, begun)
        self._long_tasks.note(task_id, part)

    # -- moving rows

    def move(
        self,
        page: LedgerPage,
        rows: Rows,
        to: State,
        reason: Reason | U8 | None,
        now: float,
        *,
        channel: Channel | None = None,
        receipt: Receipt | None = None,
    ) -> None:
        """Rows are in state `to`; counters, stage times and changes follow. Raises LocalProtocolError (our bug).

        reason: None keeps what the row had. channel: of all rows, where the caller knows it. receipt: rises with it.
        """
        if not len(rows):
            return
        came = page.move(rows, to, reason)
        if isinstance(page, ShadowPage):
            # Its home counts and records.
            if receipt is not None:
                page.receipt[rows] = np.maximum(page.receipt[rows], np.uint8(receipt))
            page.moved(rows, to, came, now)
            return
        page.note_changes(rows)
        channels: Channel | U8 = page.channel[rows] if channel is None else channel
        self.counters.touch(page)
        if page.trail is not None and self.trail is not None:
            self.trail.moved(page, rows, to)
        self._observer.moved(page, rows, to, reason, channels)
        if receipt is not None:
            page.receipt[rows] = np.maximum(page.receipt[rows], np.uint8(receipt))
            self._observer.receipts_rose(len(rows), receipt, channels)
        if _IS_FINAL[to]:
            ended, n_open = len(rows) - came.item(State.UNCERTAIN), page.n_open
            self.rows_open -= ended
            if page.here is not None:
                self.away_pages.ended(page.batch.address.sequence, ended)
            page.final_ms[rows] = page.stamp(now)
            if not n_open:
                self.counters.ended(page)
                if page.forget_texts():
                    self.resized(page)
                if ended:
                    if page.trail is not None and self.trail is not None:
                        self.trail.finished(page)
                    self.on_final(page.batch.address.sequence)
                self.on_done(page)
            elif n_open == page.counts.item(State.HELD):
                self._may_rest(page)
            self._observer.finished(page, rows, to, channels, now)
            self._record(page, rows, to, page.reason[rows] if reason is None else reason, channels, now)

    def ended_before(self, page: LedgerPage) -> None:
        """All rows of a page from a journal had ended when the process before ended: only what follows was missing."""
        page.n_routed = page.n
        if self.trail is not None:
            self.trail.finished(page)
        self.on_done(page)

    def raise_receipts(self, page: LedgerPage, rows: Rows, receipt: Receipt, now: float) -> Rows:
        """Receipts of rows are at least `receipt`; uncertain rows become accepted. Returns the rows where it rose."""
        rose = rows[page.receipt[rows] < receipt]
        page.receipt[rose] = receipt
        if receipt:
            # That a device has what it acknowledged is said by its state.
            is_news = (page.state[rows] != State.DEVICE_ACKED) | (receipt > Receipt.DELIVERED)
            self.hear(page, rows[is_news], Kind(receipt - 1), now)
        uncertain = rows[page.state[rows] == State.UNCERTAIN]
        self.move(page, uncertain, State.VENDOR_ACCEPTED, Reason.NONE, now)
        if page.batch.has_fallback and receipt >= Receipt.DELIVERED:
            self._reached(page, rows, now)
        if isinstance(page, ShadowPage):
            page.touch(rose)
            return rose
        page.note_changes(rose)
        self.counters.touch(page)
        if len(rose):
            if page.n_open:
                self._may_rest(page)
            else:
                self.counters.ended(page)
                self.on_done(page)
            channels = page.channel[rose]
            self._observer.receipts_rose(len(rose), receipt, channels)
            self._record(page, rose, page.state[rose], page.reason[rose], channels, now)
        return rose

    def hear(self, page: LedgerPage, rows: Rows, kinds: U8 | Kind, now: float) -> None:
        """Receipts (k,) of the rows came now, each of which counts once; what they do to the rows is the caller's."""
        if page.hear(rows, kinds, now):
            page.note_changes(rows)
            if self._pages.get(page.batch.address.sequence) is page:
                self.resized(page)
            self.on_heard(page)

    def _reached(self, page: LedgerPage, rows: Rows, now: float) -> None:
        """Rows that waited for this receipt have ended: their chains end here. Those at another worker end there."""
        waits = (page.state[rows] == State.WAITING) & (page.reason[rows] == Reason.FALLBACK)
        if page.away is not None:
            waits &= page.away[rows] == 0
        self.move(page, rows[waits], State.VENDOR_ACCEPTED, Reason.NONE, now)

    def _record(
        self, page: LedgerPage, rows: Rows, state: State | U8, reason: Reason | U8, channel: Channel | U8, now: float
    ) -> None:
        at_unix_ms = page.batch.born_unix_ms + int((now - page.batch.born) * 1000)
        told = told_batch(page, rows)
        self._changes.add(Change(told, rows.astype(np.uint16), state, reason, page.receipt[rows], channel, at_unix_ms))

    def _tell_orphans(self, page: ShadowPage, rows: Rows) -> None:
        """Rows whose home has died with its ledger: who follows receipts hears of their end from their holder."""
        ended = rows[_FINAL[page.state[rows]]]
        if len(ended):
            now = page.batch.born + float(page.final_ms[ended].max()) / 1000
            self._record(page, ended, page.state[ended], page.reason[ended], page.channel[ended], now)

    def changes(self, cursor: int, changes_max: int) -> tuple[list[Change], int] | None:
        """Changes from a cursor on and the next cursor; None when the cursor has fallen out of the ring."""
        return self._changes.read(cursor, changes_max)

    @property
    def next_cursor(self) -> int:
        return self._changes.next

    # -- rows that leave the process

    def announce(self, page: LedgerPage, rows: Rows) -> None:
        """These rows are about to leave: whoever must know it first is told."""
        if isinstance(page, ShadowPage):
            page.announce(rows)

    def may_leave(self, page: LedgerPage, rows: Rows, ring: Callable[[], None]) -> bool:
        """Whoever must know it knows that these rows leave; else `ring` is called when that may have changed."""
        return not isinstance(page, ShadowPage) or page.may_leave(rows, ring)

    # -- expiry

    def next_deadline(self) -> float:
        if self._due:
            return -math.inf
        deadline = self._wheel.next_deadline()
        return math.inf if deadline is None else deadline

    def due(self, now: float) -> Iterator[tuple[LedgerPage, Rows]]:
        """Rows whose TTL has passed and that nobody has in flight, page by page.

        The caller moves them (`expire`) with a reason of its choice and may yield to the loop in between. Rows in
        flight are looked at again a second later.
        """
        self._due.extend(self._wheel.expire(now))
        while self._due:
            address = self._due[0]
            page = self.page(address.sequence)
            rows = None
            away = self.away_pages.get(address.sequence)
            if away is not None and away.address == address:
                self.on_away_due(address)
            if page is not None and page.batch.address == address and page.n_open:
                rows = self._look_at(page, now)
            self._due.popleft()
            if page is not None and rows is not None and len(rows):
                yield page, rows

    def _look_at(self, page: LedgerPage, now: float) -> Rows:
        """Rows of the page that are due; the page is looked at again when the next of the others is."""
        rows, again = due_rows(page, now)
        if again < math.inf:
            self._wheel.add(again, page.batch.address)
        return rows

    # -- looking up

    def page(self, sequence: int) -> LedgerPage | None:
        """The page of a batch of this home, all of it, or the shadow of a slice that it holds."""
        page = self.some_page(sequence)
        return page if page is None or page.here is None else None

    def some_page(self, sequence: int) -> LedgerPage | None:
        """The same; a few of its rows may be all that is here."""
        return self._pages.get(sequence) if sequence < SHADOWS_FROM else self.shadows.get(sequence)

    def page_with(self, sequence: int, rows: Rows) -> LedgerPage | None:
        """The same, if these rows are here."""
        page = self.some_page(sequence)
        return page if page is None or page.here is None or bool(page.here.has(rows).all()) else None

    def every_page(self) -> list[LedgerPage]:
        """Those that are here, whole or a few rows of them."""
        return list(self._pages.values())

    def pages(self) -> Iterator[LedgerPage]:
        """Those that are here whole."""
        return iter([page for page in self._pages.values() if page.here is None])

    def few_pages(self) -> list[LedgerPage]:
        """Those of which a few rows are here."""
        return [page for page in self._pages.values() if page.here is not None]

    def crowding(self, pages_max: int, share: float) -> list[LedgerPage]:
        """The pages that eviction looks at next, where the ledger has more than that share of its bytes; else none."""
        is_crowded = self.ledger_bytes > share * self._ledger_bytes_max
        first = itertools.islice(self._pages.values(), pages_max) if is_crowded else ()
        return [page for page in first if page.here is None]

    def find_row(self, identifier: bytes) -> tuple[LedgerPage, int] | None:
        """The page and row of a message id; None when it is not ours or no longer in memory."""
        address = self.address_of(identifier)
        if address is None:
            return None
        page = self.page(address.batch.sequence)
        if page is None or page.batch.address != address.batch or address.row >= page.n:
            return None
        return page, address.row

    def address_of(self, identifier: bytes) -> RowAddress | None:
        """Where the row of a message id is, in memory or not; None when it is not ours."""
        return self.addresses.decode(identifier)

    def find_task(self, task_id: bytes) -> list[tuple[LedgerPage, TaskSegment]]:
        """The rows of a task: (page, segment) in order; empty when unknown or no longer in memory."""
        pages = self.task_pages(task_id)
        return [(page, segment) for page in pages for segment in self.segments_of(page, task_id)]

    def task_pages(self, task_id: bytes) -> list[LedgerPage]:
        """The pages that have rows of the task, in order; costs a look-up for each."""
        address = self.addresses.decode(task_id, message_id.TASK_DOMAIN)
        if address is None:
            return []
        parts = self._long_tasks.parts(task_id) or [address.batch]
        return [page for part in parts if (page := self.page(part.sequence)) is not None]

    def segments_of(self, page: LedgerPage, task_id: bytes) -> list[TaskSegment]:
        """The task's rows in the page."""
        segments = page.batch.segments
        if len(segments) == 1:
            return [segments[0]] if segments[0].task_id == task_id else []
        address = self.addresses.decode(task_id, message_id.TASK_DOMAIN)
        if address is not None and address.batch == page.batch.address:
            # Segments are sorted by first row: a batch of 65,536 one-row tasks is searched in 16 steps.
            own = segments[bisect.bisect_right(segments, address.row, key=lambda one: one.first) - 1]
            return [own] if own.task_id == task_id else []
        return task_segments(page.batch, task_id)

    def name_rows(self, batch: Batch) -> None:
        """The batch has message ids."""
        batch.message_ids = message_id.MessageIds(self._secret, as_sent(batch.address))

    def rows_not_conserved(self) -> int:
        """Open rows by count of moves less open rows by look at the columns: 0, or a bug of ours."""
        return self.rows_open - self.away_pages.rows - sum(page.count_open() for page in self.pages() if page.n_open)

    def statistics(self) -> HomeStatistics:
        return HomeStatistics(
            len(self._pages), self.rows_open, self.ledger_bytes, self._evicted, self._changes.first, self._changes.next
        )


def split_by_sequence(tags: I64) -> list[tuple[int, Rows]]:
    """Row tags (sequence << 16 | row) -> (sequence, rows) per batch; rows keep their order."""
    if not len(tags):
        return []
    sequences = tags >> 16
    if int(sequences[0]) == int(sequences[-1]) and bool(np.all(sequences == sequences[0])):
        return [(int(sequences[0]), (tags & 0xFFFF).astype(np.intp))]
    order = np.argsort(sequences, kind="stable")
    ordered = tags[order]
    cuts = np.flatnonzero(np.diff(ordered >> 16)) + 1
    return [(int(part[0] >> 16), (part & 0xFFFF).astype(np.intp)) for part in np.split(ordered, cuts)]


def row_tags(sequence: int, rows: Rows) -> I64:
    """The home address of rows as one int64 each."""
    return rows.astype(np.int64) | np.int64(sequence << 16)


def mark(page: LedgerPage, rows: Rows, flag: Flag) -> None:
    page.flags[rows] |= np.uint8(flag)
