"""LedgerActor: pages that have nothing to do but to be remembered go to the archive, and come back when needed.

    Home --page is done, or changed after that--> LedgerActor --> archive.write        memory may drop it afterwards
    Home --open rows all wait in the inbox---> held_write_s --+
    Service ----> find_row, task_slices ---------------------> archive.read            to look at, not kept
    InboxActor, StoreDesk --> fetch; DeviceOwner --> late ---> archive.read --> Home   to be changed

A page stays in memory as long as there is room (the home drops the oldest); it may be dropped only when the archive has
it as it is. A page whose open rows all wait in the inbox (it *rests*) may be dropped like one whose rows have ended,
and its batch may leave the journal: inbox and archive hold its rows. It is written `held_write_s` after it came to
rest, since a device often comes back at once, or sooner when memory is short.

After a start nobody is sure that the inbox has every row that an archived page calls held: those that it has not were
on their way to their device when the process before ended, and are uncertain (`check`).

Waits for: the ledger archive, the inbox store. Is waited for by: Service, InboxActor.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import numpy as np
import trio

from gateway.actors.archived_pages import ArchivedPages
from gateway.actors.bell import Bell
from gateway.actors.held_checks import HeldChecks, StoredRows
from gateway.actors.late_words import LateWords, Then
from gateway.actors.page_forms import HashTokens, PageForm, hash_targets, is_archived, may_amend, page_form, put_forms
from gateway.actors.row_loads import RowLoads
from gateway.batch import OwnershipEpoch
from gateway.clock import Clock, ElapsedUnix
from gateway.columns import Rows
from gateway.core.home import Home
from gateway.core.untold import changed_unix_ms
from gateway.errors import StoreCorrupt, StoreError
from gateway.ledger import LedgerPage
from gateway.message_id import TASK_DOMAIN, BatchAddress
from gateway.store.page_rows import become_whole
from gateway.store.ports import Inbox, InboxQuery, LedgerArchive, PageKey
from gateway.tally import day_of

#: Pages of one write: a turn of the store packs 16 full ones in about a second, and a thousand small ones in as long.
_WRITE_ROWS = 1 << 20
_WRITE_PAGES = 256
#: How long a page that is done waits for others: a commit of the archive costs some 0.6 ms of CPU and a sync, whatever
#: is in it, and 10 a second are enough for what is in memory and in the journal anyway.
_COMPANY_S = 0.1
#: Pages that have rested for so much of their time go along with one whose time is over: a commit for each costs more
#: than what is in it.
_COMPANY_SHARE = 0.8
#: Pages with held rows that are learnt of in one read at a start.
_HELD_PAGES = 4096
#: How long an archive whose disk failed is left alone; operators need seconds to make room.
_RETRY_S = 1.0
#: How much of the ledger's memory pages may take that are brought back at once because rows of them may be due, and how
#: long they have: the router looks every 50 ms. With the default that is 36 full pages.
_DUE_SHARE = 0.125
_DUE_WAIT_S = 0.1


#: `LedgerActor.late`.
AskArchive: TypeAlias = Callable[[int, Rows, Then, Callable[[], None]], bool]


class LedgerObserver(Protocol):
    def archived(self, pages: int) -> None: ...

    def failed(self, error: StoreError) -> None: ...

    def retained(self, pages: int) -> None: ...


class LedgerActor(ArchivedPages):
    """inbox: where held rows are. held_write_s, retention_s, retention_bytes_max, retention_check_s, counter_days_max:
    see [ledger] in configs/reference.toml."""

    def __init__(
        self,
        *,
        store: LedgerArchive,
        inbox: Inbox,
        epoch: OwnershipEpoch,
        home: Home,
        clock: Clock,
        observer: LedgerObserver,
        held_write_s: float,
        retention_s: float,
        retention_bytes_max: int,
        retention_check_s: float,
        counter_days_max: int,
    ) -> None:
        super().__init__(store=store, home=home, clock=clock)
        self._inbox = inbox
        self._held_write_s = held_write_s
        self._epoch = epoch
        self._observer = observer
        self._retention_s = retention_s
        self._retention_bytes_max = retention_bytes_max
        self._retention_check_s = retention_check_s
        self._counter_days_max = counter_days_max
        self._bell = Bell()
        #: By which pages and days grow old: none is deleted for a wall clock that is set forward.
        self._ages = ElapsedUnix(clock)
        #: What a page keeps of targets that are tokens; until somebody names it, nothing.
        self.hash_tokens: HashTokens = lambda _channels, tokens, _app: np.zeros(len(tokens), np.uint32)
        #: Apps whose services are told of changes, in the next process, too.
        self.told_apps: frozenset[int] = frozenset()
        #: Pages that the archive has not got as they are; bounded by what the home keeps in memory.
        self._unsaved: OrderedDict[int, LedgerPage] = OrderedDict()
        #: Pages that rest, and since when; in that order.
        self._resting: OrderedDict[int, tuple[LedgerPage, float]] = OrderedDict()
        self._is_short = False
        #: When what is unsaved is to be written, though nobody hurries.
        self._write_at = math.inf
        #: Called with each page that is in the home again; one of an earlier process when its held rows are checked.
        self.on_brought_back: Callable[[LedgerPage], None] = lambda _page: None
        self._late = LateWords()
        self._rows = RowLoads(
            home=home,
            store=store,
            clock=clock,
            fetch=self.fetch,
            is_whole=lambda sequence: sequence in self._fetched,
            listener=self,
        )
        #: Pages of an earlier process whose held rows the inbox has not been asked for.
        self.checks = HeldChecks(
            home=home,
            clock=clock,
            stored_rows=self._ask_for_rows,
            on_checked=self._checked,
        )
        #: Pages that are away and may have rows that are due.
        self._due: deque[BatchAddress] = deque()
        self._due_after = -math.inf
        #: Pages that are on their way, by sequence.
        self._fetched: dict[int, trio.Event] = {}
        #: Told of each page with held rows that is in memory again, before anything of it moves.
        self.on_adopted: Callable[[LedgerPage], None] = lambda _page: None
        #: Apps whose receipts a journal on disk is told.
        self.noted_apps: frozenset[int] = frozenset()
        #: Told of each page that the archive has as it is.
        self.on_archived: Callable[[LedgerPage], None] = lambda _page: None
        #: Called when memory is short, for pages that cannot leave it.
        self.make_room: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        #: Called when a page is here whose rows may be due.
        self.on_due: Callable[[], None] = lambda: None
        #: Places of a page's rows, of all or of these, that wait in an inbox.
        self.stored_rows: StoredRows = self._rows_in_inbox
        #: When the newest batch that an earlier process archived was submitted; 0 where there is none.
        self.newest_at_start_unix_ms = 0

    async def load(self) -> None:
        """New batches get addresses behind those of the archive, its pages with held rows are known, and pages that end
        are followed. Raises StoreError."""
        home = self._home
        newest = await self._store.newest(None)
        now, now_unix_ms = self._clock.monotonic(), self._clock.unix_ms()
        if newest is not None:
            self.newest_at_start_unix_ms = newest.unix_ms
            home.begin_after(newest.sequence, newest.unix_ms)
            # A wall clock that was set back between two processes makes no row younger.
            now_unix_ms = max(now_unix_ms, newest.unix_ms)
        key: PageKey | None = None
        while found := await self._store.held(key, _HELD_PAGES):
            for key, held, deadline_unix_ms in found:
                address = home.addresses.of_sequence(key.unix_ms, key.sequence)
                home.adopt_away(address, held, now + (deadline_unix_ms - now_unix_ms) / 1000)
                self.checks.expect(key.sequence)
        home.on_done = self._done
        home.on_rest = self._rest
        home.on_short = self._on_short
        home.on_away_due = self._on_due
        home.may_drop = self._may_drop

    def _done(self, page: LedgerPage) -> None:
        self.checks.forget(page.batch.address.sequence)
        if page.saved >= 0 and self._is_noted(page):
            # The journal has its receipts: it is written once for all that come in a while.
            self._rest(page)
            return
        self._resting.pop(page.batch.address.sequence, None)
        self._unsaved[page.batch.address.sequence] = page
        if self._write_at == math.inf:
            self._write_at = trio.current_time() + _COMPANY_S
            self._bell.ring()

    def _is_noted(self, page: LedgerPage) -> bool:
        return not page.n_open and page.history is not None and page.batch.app in self.noted_apps

    def _rest(self, page: LedgerPage) -> None:
        self._resting.setdefault(page.batch.address.sequence, (page, trio.current_time()))
        if len(self._resting) == 1:
            self._bell.ring()

    def _on_short(self) -> None:
        self._is_short = True
        self._bell.ring()

    def _on_due(self, address: BatchAddress) -> None:
        self._due.append(address)
        self._bell.ring()

    def _may_drop(self, page: LedgerPage) -> bool:
        """The archive has it as it is, and nobody holds a row of it but the inbox."""
        if not page.is_saved or self._unsaved.get(page.batch.address.sequence) is page:
            return False
        if self.checks.is_asking(page):
            return False
        if page.here is not None and (page.batch.address.sequence in self._fetched or self._is_loading(page)):
            # What is being read now may not say what it says.
            return False
        return page.n_open == 0 or (page.rests and (page.trail is None or page.trail.is_blank))

    def _is_loading(self, page: LedgerPage) -> bool:
        return self._rows.is_loading(page.batch.address.sequence)

    @property
    def unsaved_pages(self) -> int:
        return len(self._unsaved)

    def late(self, sequence: int, rows: Rows, then: Then, missing: Callable[[], None] = lambda: None) -> bool:
        """The newest page of the sequence will be brought back, and `then` told, or `missing` where there is none;
        False where too many wait."""
        is_taken = self._late.add(sequence, rows, then, missing)
        self._bell.ring()
        return is_taken

    # -- who was told

    async def told(self, app: int) -> int | None:
        """Up to when the app's service was told of changes. Raises StoreError."""
        return await self._store.told(app)

    async def tell(self, app: int, unix_ms: int) -> None:
        """The app's service was told of every change before that. Raises StoreError."""
        await self._store.tell(self._epoch, app, unix_ms)

    async def changed(self, app: int, since_unix_ms: int, after: PageKey | None, keys_max: int) -> list[PageKey]:
        """Archived pages with changes since then. Raises StoreError."""
        return await self._store.changed(app, since_unix_ms, after, keys_max)

    # -- bringing back

    async def fetch(self, sequence: int) -> LedgerPage | None:
        """The newest page of the sequence is in the home and may be changed, in this step of the loop; None where there
        is none, or none that has open rows. Raises StoreError."""
        while True:
            page = self._home.page(sequence)
            if page is None and sequence in self._home.away_pages:
                await self.bring_back(sequence)
            elif page is not None and sequence in self.checks:
                await self.check(page)
            else:
                return page

    async def fetch_rows(self, sequence: int, rows: Rows) -> LedgerPage | None:
        """The same of these rows, which wait in an inbox: the others may not be here. Raises StoreError."""
        while True:
            page = await self._rows.fetch(sequence, rows)
            if page is None or not len(doubtful := self.checks.doubtful(page)):
                return page
            await self.checks.check_rows(page, doubtful)

    async def check(self, page: LedgerPage) -> None:
        """Held rows of a page of an earlier process that the inbox has not got are uncertain. Raises StoreError."""
        await self.checks.check(page)

    async def fetch_to_end(self, sequence: int) -> LedgerPage | None:
        """The same for rows that have left the inbox and end now: not asked whether the inbox has them. Raises
        StoreError."""
        page = self._home.page(sequence)
        return await self.bring_back(sequence) if page is None and sequence in self._home.away_pages else page

    async def bring_back(self, sequence: int) -> LedgerPage:
        """A page that is away is in the home. Raises StoreError; a page that cannot be read is away no longer."""
        while (page := self._home.page(sequence)) is None:
            away = self._home.away_pages.get(sequence)
            if away is None:
                raise StoreCorrupt("ledger", f"page {sequence} is gone")
            is_coming = self._fetched.get(sequence)
            if is_coming is not None:
                await is_coming.wait()
                continue
            is_coming = self._fetched[sequence] = trio.Event()
            try:
                await self._bring_back(PageKey(away.address.unix_ms, sequence))
            finally:
                del self._fetched[sequence]
                is_coming.set()
        return page

    async def bring(self, key: PageKey) -> LedgerPage | None:
        """That page is in the home, whatever its rows are; None where there is none. The inbox is not asked for its
        held rows. Raises StoreError."""
        page = self._home.page(key.sequence)
        away = self._home.away_pages.get(key.sequence)
        if page is None and away is not None and away.address.unix_ms == key.unix_ms:
            page = await self.bring_back(key.sequence)
        elif page is None and away is None:
            page = await self._read_to_keep(key)
            if page is not None:
                self._home.adopt(page)
        return page if page is not None and page.batch.address.unix_ms == key.unix_ms else None

    async def _bring_back(self, key: PageKey) -> None:
        try:
            page = await self._read_to_keep(key)
        except StoreCorrupt:
            self._forget_away(key.sequence)
            raise
        if page is None:
            self._forget_away(key.sequence)
            return
        few = self._home.some_page(key.sequence)
        if few is None:
            self._home.adopt(page)
            self.on_adopted(page)
        else:
            become_whole(few, page)
            self._home.came_whole(few)
            page = few
        self.some_came(page)

    async def _ask_for_rows(self, page: LedgerPage, rows: Rows | None) -> Rows:
        return await self.stored_rows(page, rows)

    def _checked(self, page: LedgerPage) -> None:
        self.on_brought_back(page)

    def some_came(self, page: LedgerPage) -> None:
        """Rows of the page are here again."""
        if page.batch.address.sequence not in self.checks:
            self.on_brought_back(page)

    def _forget_away(self, sequence: int) -> None:
        self._home.forget_away(sequence)
        self.checks.forget(sequence)

    async def away_parts(self, task_id: bytes) -> list[int]:
        """Sequences of pages that are away and may have rows of the task. Raises StoreError."""
        began = self._home.addresses.decode(task_id, TASK_DOMAIN)
        if began is None or not len(self._home.away_pages):
            await trio.lowlevel.checkpoint()
            return []
        keys = {PageKey(began.batch.unix_ms, began.batch.sequence), *await self._store.parts(task_id)}
        away = [(key, self._home.away_pages.get(key.sequence)) for key in sorted(keys)]
        return [key.sequence for key, page in away if page is not None and page.address.unix_ms == key.unix_ms]

    async def _rows_in_inbox(self, page: LedgerPage, rows: Rows | None) -> Rows:
        first = page.batch.address.sequence << 16
        spans = [(first, first + page.n - 1)] if rows is None else [(tag, tag) for tag in (first + rows).tolist()]
        found = await self._inbox.find(InboxQuery(tags=spans), page.n)
        places: Rows = (found.tags - first).astype(np.intp)
        return places

    # -- work

    async def run(self) -> None:
        """Works until cancelled. If cancelled: what was not written is so by the next run."""
        self._ages.begin()
        self._write_at = -math.inf
        self._bell.ring()
        next_check = trio.current_time()
        while True:
            due_at = self._due_after if self._due else math.inf
            with trio.move_on_at(min(next_check, self._next_rested(), self._write_at, due_at)):
                await self._bell.wait()
            try:
                await self._bring_due()
                await self._late.bring(self._fetch_any, self._observer.failed)
                self._take_rested()
                is_short = self._is_short
                if is_short or trio.current_time() >= self._write_at:
                    await self._write_unsaved()
                if is_short:
                    await self.make_room()
                if trio.current_time() >= next_check:
                    next_check = trio.current_time() + self._retention_check_s
                    await self._retain()
            except StoreError as error:
                self._observer.failed(error)
                await trio.sleep(_RETRY_S)
                self._write_at = -math.inf
                self._bell.ring()

    def _next_rested(self) -> float:
        """When the page that has rested longest is to be written."""
        for _, since in self._resting.values():
            return since + self._held_write_s
        return math.inf

    def _take_rested(self, *, all_of_them: bool = False) -> None:
        """Pages that have rested long enough are to be written; all that rest, where memory is short."""
        now = math.inf if all_of_them or self._is_short else trio.current_time()
        # The sum that `run` waits for: the difference may be a rounding error away from it.
        if self._next_rested() > now:
            return
        now += self._held_write_s * (1 - _COMPANY_SHARE)
        while self._next_rested() <= now and self._resting:
            sequence, (page, _) = self._resting.popitem(last=False)
            # Otherwise it will say so when it rests again.
            if page.rests and self._home.some_page(sequence) is page and not is_archived(page):
                self._unsaved[sequence] = page
                self._write_at = -math.inf

    async def flush(self) -> None:
        """Every page that is done, or rests, is in the archive as it is. Raises StoreError."""
        self._take_rested(all_of_them=True)
        await self._write_unsaved()

    async def _write_unsaved(self) -> None:
        self._write_at = math.inf
        while self._unsaved:
            pages: list[LedgerPage] = []
            rows = 0
            for page in self._unsaved.values():
                pages.append(page)
                rows += 0 if may_amend(page) else page.n
                if rows >= _WRITE_ROWS or len(pages) >= _WRITE_PAGES:
                    break
            await self._write(pages)
        if self._is_short:
            self._is_short = False
            self._home.evict_some()

    async def _write(self, pages: list[LedgerPage]) -> None:
        forms: list[tuple[LedgerPage, int, PageForm]] = []
        for page in pages:
            await hash_targets(page.batch, self.hash_tokens)
            if page.here is not None and not may_amend(page):
                await self._make_whole(page)
            if page.rests and self._home.some_page(page.batch.address.sequence) is page:
                forms.append((page, page.changes, self._form(page)))
            else:
                # It has begun to move again, and says so when it rests anew, or ends; or it cannot be read any more.
                del self._unsaved[page.batch.address.sequence]
            await trio.lowlevel.checkpoint()
        if not forms:
            return
        async with self._moving:
            forms = await put_forms(self._store, self._epoch, forms)
            for page, _, form in forms:
                self._home.counters.archived(page, form.tally)
        self._observer.archived(len(forms))
        for page, changes, form in forms:
            sequence = page.batch.address.sequence
            is_same = page.changes == changes
            page.saved = changes
            if is_same:
                self.on_archived(page)
            if self._home.trail is not None and (is_same or not form.held):
                self._home.trail.archived(page)
            if self._unsaved.get(sequence) is not page:
                continue
            if is_same or not page.rests:
                del self._unsaved[sequence]
            elif self._is_noted(page):
                del self._unsaved[sequence]
                self._rest(page)
            else:
                self._unsaved.move_to_end(sequence)

    async def _make_whole(self, page: LedgerPage) -> None:
        """It is to be written whole. Raises StoreError; one that cannot be read is not in the home any more."""
        try:
            await self.bring_back(page.batch.address.sequence)
        except StoreCorrupt as error:
            self._observer.failed(error)

    def _form(self, page: LedgerPage) -> PageForm:
        form = page_form(page, self._home.counters.settled(page))
        is_told = page.batch.app in self.told_apps
        return form._replace(changed_unix_ms=changed_unix_ms(page)) if is_told else form

    async def _bring_due(self) -> None:
        """Some at a time: they must be looked at before memory for the next ones makes them leave again."""
        if trio.current_time() < self._due_after:
            return
        room = self._home.ledger_bytes_max * _DUE_SHARE
        while self._due and room > 0:
            address = self._due[0]
            page = await self.fetch(address.sequence)
            self._due.popleft()
            self._due_after = trio.current_time() + _DUE_WAIT_S
            if page is not None and page.batch.address == address:
                room -= page.memory_bytes()
                self._home.look_again(address, self._clock.monotonic())
                self.on_due()

    async def _fetch_any(self, sequence: int, rows: Rows | None) -> LedgerPage | None:
        """The newest page of the sequence is in the home, whatever its rows are; these rows are, at least. Raises
        StoreError."""
        page = await (self.fetch(sequence) if rows is None else self.fetch_rows(sequence, rows))
        if page is None:
            key = await self._store.newest(sequence)
            page = None if key is None else await self._read_to_keep(key)
            # A new batch of that number may have come meanwhile.
            if page is not None and self._home.page(sequence) is None and sequence not in self._home.away_pages:
                self._home.adopt(page)
        return page

    async def _retain(self) -> None:
        unix_ms = self._ages.unix_ms()
        oldest = unix_ms - int(self._retention_s * 1000)
        deleted = await self._store.retain(self._epoch, oldest, self._retention_bytes_max)
        if deleted:
            self._observer.retained(deleted)
        today = day_of(unix_ms, self._home.counters.day_offset_s)
        await self._store.forget_days(self._epoch, today - self._counter_days_max)
