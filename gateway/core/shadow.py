"""Shadow: rows of a batch that another worker journaled, as their holder sees them.

A slice that arrives from its home becomes a batch of its own here, with a ledger page that router, lanes, inbox and
long link use like any other: they cannot tell the difference, and there is one code path. What differs is who is told.
A shadow keeps, per row, whether anything changed since the last report (`dirty`); the report of a shadow is a copy of
the changed rows' columns. So what waits to be reported is bounded by the rows that were handed out, however often they
move, and a report is never refused (DESIGN.md section 4, the stream of outcomes).

That rows have left (IN_FLIGHT) is **late** news: it waits for what becomes of them, since a device that acknowledges at
once is then reported once, not twice. Nobody's decision hangs on it: when its holder dies, a row that its home has
QUEUED for a device goes again with the flag of one that had left, and a vendor's rows are announced before they leave.
Of a batch that goes on with a task it is not late: an audience's next chunk waits for it.

    home's page   rows 3 7 9 ... --slice--> shadow page 0 1 2 ...   `home_rows` leads back

A shadow's address has a sequence beyond those of message ids, so that tags of rows (sequence << 16 | row) never clash
with the worker's own batches. Message ids stay the home's.

**Rows of an app on disk** leave when their home has answered that their marks are durable: rows that leave together are
announced together, under a number, and the answer names it (core/foreign_marks.py). While their home is down they wait,
since nobody could count them if both died. Rows of apps in memory leave when the report of them is in the kernel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

import numpy as np

from gateway import message_id
from gateway.batch import Batch
from gateway.columns import I64, U8, U16, U32, Bool, Rows
from gateway.core.addresses import SHADOWS_FROM, as_sent
from gateway.core.outcomes import LATE, NOW, Outcomes, take_outcomes
from gateway.ledger import IS_FINAL, LedgerPage, State
from gateway.message_id import BatchAddress

#: Shadows of one worker are told apart by so many numbers; tags stay within 63 bits.
_SHADOWS_MAX = 1 << 40
#: A shadow whose rows have all ended is kept this long for late acknowledgements: ten times the default of
#: `long_link.ack_timeout_s`, and less where many end at once.
KEEP_S = 60.0
KEPT_ROWS_MAX = 1 << 20
_U32_MAX = (1 << 32) - 1
#: A slice of so many rows that have all ended is worth a report of its own: nothing is to come together with.
FEW_ROWS = 32
#: States in which a row that was announced may have left.
_MAY_BE_OUT: Bool = np.array([state in (State.QUEUED, State.IN_FLIGHT) for state in State], np.bool_)


class ShadowPage(LedgerPage):
    """home, incarnation: the worker that journaled the batch, and which life of it. home_rows: (n,) uint16.

    size_bytes: what the slice cost in credit. dirty: (n,) uint8, not 0 for rows whose news is not reported, and n_late
    how many of them have late news alone. is_announced: (n,) bool, are about to leave the process, or have. is_told:
    (n,) bool, and their home has been told so. goes_back: (n,) bool, the next report gives them back; is_back: (n,)
    bool, one has, and they are nothing to us: CANCELLED, which nobody is told.
    asked: of an app on disk, (n,) uint32, the number under which the row was announced while its home has not
    answered, 0: none; None for an app in memory. unasked: numbers that no report has brought to the home yet.
    """

    __slots__ = (
        "asked",
        "dirty",
        "goes_back",
        "has_dirty",
        "has_home",
        "home",
        "home_address",
        "home_rows",
        "incarnation",
        "is_announced",
        "is_back",
        "is_orphan",
        "is_told",
        "may_be_late",
        "may_go_back",
        "n_late",
        "new_number",
        "on_awaited",
        "on_dirty",
        "on_done",
        "on_ended",
        "on_late",
        "on_soon",
        "on_told",
        "size_bytes",
        "unasked",
    )

    def __init__(
        self, batch: Batch, *, home: int, incarnation: int, home_address: BatchAddress, home_rows: U16, size_bytes: int
    ) -> None:
        super().__init__(batch)
        self.home = home
        self.incarnation = incarnation
        self.home_address = home_address
        self.home_rows = home_rows
        self.size_bytes = size_bytes
        self.dirty: U8 = np.zeros(batch.n, np.uint8)
        self.n_late = 0
        self.may_be_late = not any(segment.is_continued for segment in batch.segments)
        self.is_announced: Bool = np.zeros(batch.n, np.bool_)
        self.is_told: Bool = np.zeros(batch.n, np.bool_)
        self.goes_back: Bool = np.zeros(batch.n, np.bool_)
        self.is_back: Bool = np.zeros(batch.n, np.bool_)
        self.asked: U32 | None = None
        self.unasked: list[int] = []
        self.new_number: Callable[[], int] = lambda: 0
        self.has_dirty = self.may_go_back = False
        self.has_home = True
        #: Its home is dead and will not be back.
        self.is_orphan = False
        #: Called once each when rows may leave that might not before.
        self.on_told: list[Callable[[], None]] = []
        self.on_dirty: Callable[[ShadowPage], None] = _nobody
        self.on_late: Callable[[ShadowPage], None] = _nobody
        self.on_soon: Callable[[ShadowPage], None] = _nobody
        self.on_done: Callable[[ShadowPage], None] = _nobody
        self.on_awaited: Callable[[ShadowPage], None] = _nobody
        self.on_ended: Callable[[ShadowPage, int], None] = _nobody_counts

    def touch(self, rows: Rows) -> None:
        """These rows are reported with the next report."""
        if self.n_late:
            self.n_late -= int(np.count_nonzero(self.dirty[rows] == LATE))
            if not self.n_late:
                self.on_late(self)
        self.dirty[rows] = NOW
        if not self.has_dirty:
            self.has_dirty = True
            self.on_dirty(self)

    def touch_late(self, rows: Rows) -> None:
        """These rows are reported when there is more to say of them, or with all late news."""
        new = rows[self.dirty[rows] == 0]
        if len(new):
            had_none = not self.n_late
            self.dirty[new] = LATE
            self.n_late += len(new)
            if had_none:
                self.on_late(self)

    def moved(self, rows: Rows, to: State, came: I64, now: float) -> None:
        """The rows have moved; their home will hear of it. came: (11,) how many from each state."""
        if self.may_go_back:
            self.goes_back[rows] = False  # not in the inbox any more, or not yet again
        if IS_FINAL[to]:
            self.final_ms[rows] = self.stamp(now)
            self.on_ended(self, len(rows) - int(came[IS_FINAL].sum()))
            if self.n <= FEW_ROWS and not self.n_open:
                self.on_done(self)
        if not _MAY_BE_OUT[to]:
            # It waits, is kept or has ended: its next attempt is announced anew.
            self._forget_announced(rows)
        if to is State.IN_FLIGHT and self.may_be_late:
            self.touch_late(rows)
        else:
            self.touch(rows)
            if to is State.IN_FLIGHT:
                self.on_soon(self)

    def give_back(self, rows: Rows) -> None:
        """These rows, HELD, are in a durable inbox: their home has them again when the next report is out, unless they
        have moved by then."""
        self.goes_back[rows] = self.may_go_back = True
        self.touch(rows)

    def stay(self) -> None:
        """Nobody takes rows back."""
        self.goes_back[:] = self.may_go_back = False

    def let_go(self, rows: Rows) -> None:
        """These rows, HELD, are their home's."""
        self.goes_back[rows] = False
        self.is_back[rows] = True
        self.state[rows] = State.CANCELLED
        self.counts[State.HELD] -= len(rows)
        self.counts[State.CANCELLED] += len(rows)
        self.on_ended(self, len(rows))

    def announce(self, rows: Rows) -> None:
        """These rows are about to leave the process: their home is told before they do."""
        new = rows[~self.is_announced[rows]]
        if len(new):
            self.is_announced[new] = True
            self.goes_back[new] = False
            if self.asked is not None:
                number = self.new_number()
                self.asked[new] = number
                self.unasked.append(number)
            self.touch(new)
            self.on_awaited(self)

    def stay_here(self, rows: Rows) -> None:
        """Announced rows that did not leave after all: nobody need count them as sent."""
        old = rows[self.is_announced[rows]]
        if len(old):
            self._forget_announced(old)
            self.touch(old)

    def _forget_announced(self, rows: Rows) -> None:
        self.is_announced[rows] = False
        self.is_told[rows] = False
        if self.asked is not None:
            self.asked[rows] = 0
        if self.on_told:
            self.ring_waiting()

    @property
    def waits_for_home(self) -> bool:
        """Its home is down and will be back: what it has not answered for stays until then."""
        return self.asked is not None and not self.has_home and not self.is_orphan

    def may_leave(self, rows: Rows, ring: Callable[[], None]) -> bool:
        """Their home knows that these rows leave, or is no more; else `ring` is called when that may have changed."""
        waits = ~self.is_told[rows]
        if not waits.any() or (not self.has_home and not self.waits_for_home):
            return True
        # One that ended, or is kept elsewhere, is nobody's to wait for.
        if not (waits & (self.is_announced[rows] | _MAY_BE_OUT[self.state[rows]])).any():
            return True
        self.ring_when_free(ring)
        return False

    def ring_when_free(self, ring: Callable[[], None]) -> None:
        """Called once when rows may leave that might not before."""
        if ring not in self.on_told:
            self.on_told.append(ring)
        self.on_awaited(self)

    def told(self, rows: Rows) -> None:
        """A report of these rows is on its way, and outlives this process."""
        if self.asked is None:
            self.is_told[rows] = self.is_announced[rows]
            self.ring_waiting()

    def answered(self, number: int) -> None:
        """The home has durable marks of what was announced under this number."""
        if self.asked is not None:
            rows = np.flatnonzero(self.asked == number)
            self.is_told[rows] = True
            self.asked[rows] = 0
        self.ring_waiting()

    def is_announced_whole(self, rows: Rows) -> bool:
        """Those of the rows that are still queued are announced, where they must be: else they are to be so anew."""
        return self.asked is None or bool((self.is_announced[rows] | (self.state[rows] != State.QUEUED)).all())

    def lose_home(self) -> None:
        """Nobody answers."""
        self.has_home = False
        if self.asked is not None:
            self.asked[:] = 0
            self.unasked.clear()
        self.ring_waiting()

    def find_home(self) -> None:
        """The new life of the home hears of all rows. Those that left are marked in its journal; what is yet to leave
        is announced anew."""
        self.has_home = True
        stays = np.flatnonzero(self.is_announced & (self.state != State.IN_FLIGHT))
        self._forget_announced(stays)
        if self.asked is None:
            self.is_told[:] = False
        self.touch(np.arange(self.n))
        self.ring_waiting()

    def ring_waiting(self) -> None:
        waiting, self.on_told = self.on_told, []
        for ring in waiting:
            ring()


def stay_here(page: LedgerPage, rows: Rows) -> None:
    """Rows that were announced to their home, where that is another worker, did not leave after all."""
    if isinstance(page, ShadowPage):
        page.stay_here(rows)


def waits_for_home(page: LedgerPage) -> bool:
    """Its home is another worker that is down and will be back; until then its rows stay."""
    return isinstance(page, ShadowPage) and page.waits_for_home


def _nobody(_page: ShadowPage) -> None:
    """A shadow outside of a table."""


def _nobody_counts(_page: ShadowPage, _rows: int) -> None:
    """The same."""


def _nobody_listens(_page: ShadowPage, _rows: Rows) -> None:
    """There is no home around this table."""


class Life(NamedTuple):
    """One life of a worker."""

    worker: int
    incarnation: int


class Shadows:
    """The shadows of one worker. secret: of message ids. on_dirty: called when a life has something to be told
    of a page, with how many of its rows are yet to end."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._pages: dict[int, ShadowPage] = {}
        self._number = 0
        #: Pages with changes that were not reported yet, each once, by whose rows they are.
        self._dirty: dict[Life, deque[ShadowPage]] = {}
        #: Pages with late news, by sequence, by whose rows they are.
        self._late: dict[Life, dict[int, ShadowPage]] = {}
        #: Worker -> its last life that has ended.
        self._dead: dict[int, int] = {}
        #: (until, page) of shadows that have ended.
        self._ended: deque[tuple[float, ShadowPage]] = deque()
        self._kept_rows = 0
        #: Pages of apps on disk with rows that wait for the answer of that number.
        self._asked: dict[Life, dict[int, ShadowPage]] = {}
        self._asks = 0
        #: Rows that are not final.
        self.rows_open = 0
        #: Rows with news for a home that has died: counted and dropped.
        self.rows_for_the_dead = 0
        self.on_for_the_dead: Callable[[int], None] = lambda _rows: None
        self.on_dirty: Callable[[Life, int], None] = lambda _life, _rows: None
        #: Called when a life has late news to be told, the first, or none any more.
        self.on_late: Callable[[Life, bool], None] = lambda _life, _is_some: None
        #: Called when a life has something to be told that it waits for, though no row does.
        self.on_soon: Callable[[Life], None] = lambda _life: None
        #: Called when a small page has nothing more to tell that life than what it has now.
        self.on_done: Callable[[Life], None] = lambda _life: None
        self.on_awaited: Callable[[Life], None] = lambda _life: None
        #: Takes rows that changed and whose home is no more.
        self.on_orphans: Callable[[ShadowPage, Rows], None] = _nobody_listens
        #: Whether an app's batches come back with the next life of their home, which then adopts what is held here.
        self.awaits_home: Callable[[int], bool] = lambda _app: False

    def __len__(self) -> int:
        return len(self._pages)

    def __iter__(self) -> Iterator[ShadowPage]:
        return iter(list(self._pages.values()))

    def get(self, sequence: int) -> ShadowPage | None:
        return self._pages.get(sequence)

    def open(self, life: Life, batch: Batch, home_rows: U16, size_bytes: int) -> ShadowPage:
        """The page of an arrived slice, QUEUED, with its message ids. Takes over the batch.

        Raises ValueError where the rows do not fit the batch.
        """
        if len(home_rows) != batch.n or (batch.n > 1 and not bool((home_rows[1:] > home_rows[:-1]).all())):
            raise ValueError(f"{len(home_rows)} rows for a slice of {batch.n}, expected as many, rising")
        address = batch.address
        batch.message_ids = message_id.MessageIds(self._secret, as_sent(address), home_rows)
        sequence = SHADOWS_FROM + self._number % _SHADOWS_MAX
        self._number += 1
        batch.address = BatchAddress(address.unix_ms, address.journal, sequence)
        page = ShadowPage(
            batch,
            home=life.worker,
            incarnation=life.incarnation,
            home_address=address,
            home_rows=home_rows,
            size_bytes=size_bytes,
        )
        page.on_dirty, page.on_ended, page.on_awaited = self._is_dirty, self._count_ended, self._is_awaited
        page.on_late, page.on_soon, page.on_done = self._late_changed, self._is_wanted_soon, self._is_done
        if self.awaits_home(batch.app):
            page.asked, page.new_number = np.zeros(page.n, np.uint32), self._new_number
        self._pages[sequence] = page
        self.rows_open += page.n
        return page

    def _new_number(self) -> int:
        self._asks = self._asks % _U32_MAX + 1
        return self._asks

    def _is_dirty(self, page: ShadowPage) -> None:
        life = Life(page.home, page.incarnation)
        if life.incarnation <= self._dead.get(life.worker, -1):
            self._drop_news(page)
            return
        self._dirty.setdefault(life, deque()).append(page)
        self.on_dirty(life, page.n_open)

    def _late_changed(self, page: ShadowPage) -> None:
        life = Life(page.home, page.incarnation)
        if life.incarnation <= self._dead.get(life.worker, -1):
            self._drop_news(page)
            return
        pages = self._late.setdefault(life, {})
        had_some = bool(pages)
        if page.n_late:
            pages[page.batch.address.sequence] = page
        else:
            pages.pop(page.batch.address.sequence, None)
        if bool(pages) is not had_some:
            self.on_late(life, not had_some)

    def _is_wanted_soon(self, page: ShadowPage) -> None:
        self.on_soon(Life(page.home, page.incarnation))

    def _is_done(self, page: ShadowPage) -> None:
        self.on_done(Life(page.home, page.incarnation))

    def _is_awaited(self, page: ShadowPage) -> None:
        self.on_awaited(Life(page.home, page.incarnation))

    def _count_ended(self, page: ShadowPage, rows: int) -> None:
        self.rows_open -= rows

    def has_news(self, life: Life) -> bool:
        return bool(self._dirty.get(life) or self._late.get(life))

    def take_news(self, life: Life, now: float, *, with_late: bool = False) -> tuple[ShadowPage, Rows, Outcomes] | None:
        """The next report for that home, with what to call `told` with when it is out; None when there is none.
        with_late: of late news, too; it knows everything when there is none."""
        queue = self._dirty.get(life)
        if queue:
            page = queue.popleft()
        elif with_late and self._late.get(life):
            page = next(iter(self._late[life].values()))
        else:
            return None
        rows, outcomes = take_outcomes(page, with_late=with_late)
        if outcomes.questions:
            self._asked.setdefault(life, {}).update((question.number, page) for question in outcomes.questions)
        if not page.n_open and not page.bursts:
            self._keep(page, now)
        return page, rows, outcomes

    def answered(self, life: Life, number: int) -> None:
        """That home has durable marks of the rows that were announced under this number."""
        page = self._asked.get(life, {}).pop(number, None)
        if page is not None:
            page.answered(number)

    def home_died(self, life: Life) -> int:
        """That home hears no reports any more; its rows go on to their end, and `on_orphans` is told. Returns how
        many."""
        self._dead[life.worker] = max(life.incarnation, self._dead.get(life.worker, -1))
        for page in (*self._dirty.pop(life, deque()), *self._late.pop(life, {}).values()):
            self._drop_news(page)
        left = 0
        for page in self.of(life):
            left += page.n_open
            page.lose_home()
        self._asked.pop(life, None)
        return left

    def of_batch(self, home_address: BatchAddress) -> list[ShadowPage]:
        """Slices of that batch of another home. A look at all of them: asked for rows with a fallback chain alone."""
        return [page for page in self if page.home_address == home_address]

    def of_earlier_lives(self, life: Life) -> list[ShadowPage]:
        """Those whose home was that worker in a life that has ended, rows that have ended meanwhile included."""
        return [page for page in self if page.home == life.worker and page.incarnation < life.incarnation]

    def adopt(self, life: Life, addresses: Container[BatchAddress]) -> None:
        """These batches are in the journal of that new life: it is the home of their rows and hears of all of them.
        The others are nobody's any more."""
        for page in self.of_earlier_lives(life):
            page.has_dirty = False
            if page.home_address in addresses:
                page.incarnation = life.incarnation
                page.find_home()
            else:
                self._orphan(page)

    def drop_if_done(self, page: ShadowPage) -> None:
        """A page of a home that is no more, and of which nothing is left here, is forgotten."""
        if not page.n_open and not page.has_home:
            self._pages.pop(page.batch.address.sequence, None)

    def _drop_news(self, page: ShadowPage) -> None:
        page.has_dirty = False
        if page.is_orphan or not self.awaits_home(page.batch.app):
            self._orphan(page)
        elif not page.n_open:
            self._keep(page, page.batch.born + float(page.final_ms.max()) / 1000)

    def _orphan(self, page: ShadowPage) -> None:
        page.is_orphan = True
        page.ring_waiting()
        rows = np.flatnonzero(page.dirty)
        page.dirty[rows] = 0
        page.n_late = 0
        if len(rows):
            self.rows_for_the_dead += len(rows)
            self.on_for_the_dead(len(rows))
        self.on_orphans(page, rows)
        if not page.n_open:
            self._pages.pop(page.batch.address.sequence, None)

    def of(self, life: Life) -> Iterator[ShadowPage]:
        return (page for page in self if (page.home, page.incarnation) == life)

    def _keep(self, page: ShadowPage, now: float) -> None:
        self._ended.append((now + KEEP_S, page))
        self._kept_rows += page.n
        while self._ended and (self._ended[0][0] <= now or self._kept_rows > KEPT_ROWS_MAX):
            _, gone = self._ended.popleft()
            self._kept_rows -= gone.n
            self._pages.pop(gone.batch.address.sequence, None)
