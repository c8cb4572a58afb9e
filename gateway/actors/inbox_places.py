"""Where the rows of an inbox have their pages: in this home, or at the home of another worker.

An inbox on the disk holds rows of the devices that this worker owns, whoever journaled them; what is written of a row
is the number of its batch (core/addresses.py) and its place there. Its page is its home's. So once a row of another
home is in the inbox, it is given back: home's page says HELD and may go to the archive, and nothing of it stays in
memory here. When the device returns, or is erased, its home is asked:

    owner                                             home
      put, durable --- report: HELD, back ---------->  the row is here again and waits in the owner's inbox
      device returned --- "recall": rows ----------->  brings the page back; the rows are with the owner from now on
      <----------------------------- rows as a slice
      delivered --> tag forgotten; not taken --> given back again
      replaced, purged --- "end held": rows -------->  they end there
      <--- "forget held": tags ---------------------  they expired, were stopped, or acknowledged late

What cannot be told because the other is down is told when it is back. Waits for: answers of other workers, the inbox
store, LedgerActor. Is waited for by: InboxActor, StoreDesk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.actors.link_columns import rows_of, slice_of
from gateway.actors.spread import Spread
from gateway.actors.worker_links import Reply, WorkerGone, WorkerLinks
from gateway.clock import Clock
from gateway.columns import I64, Bool, Rows
from gateway.core.addresses import number_of
from gateway.core.home import Home, row_tags, split_by_sequence
from gateway.core.ownership import Ownership, journal_of
from gateway.core.shadow import Life, ShadowPage
from gateway.errors import Overloaded, StoreError
from gateway.ledger import Channel, Flag, LedgerPage, Reason, Receipt, State
from gateway.message_id import SEQUENCES_MAX
from gateway.store.ports import Inbox, InboxQuery
from gateway.wire.worker_link.messages import Slice, decode, encode

#: Between two tries to tell a worker that is down; it is back in a second or two.
_AGAIN_S = 0.2
#: Batches with rows that were not given back yet, beyond which those without any are forgotten.
_HERE_MIN = 1024


class Pages(Protocol):
    """The pages of this home, by sequence, for a change in this step of the loop. All raise StoreError.

    fetch_rows: these rows of it, at least; the others may not be here. fetch_to_end: of rows that have left the inbox
    and end now. doubtful_until_unix_ms: as in InboxActor.
    """

    doubtful_until_unix_ms: int

    fetch: Callable[[int], Awaitable[LedgerPage | None]]
    fetch_rows: Callable[[int, Rows], Awaitable[LedgerPage | None]]
    fetch_to_end: Callable[[int], Awaitable[LedgerPage | None]]


class Found(NamedTuple):
    """rows: places in their batch; at: in the page, which is a slice of it where another worker is its home."""

    page: LedgerPage
    rows: Rows
    at: Rows


class Located(NamedTuple):
    """later: rows of which nothing can be said now. What is neither is nobody's any more."""

    found: list[Found]
    later: Rows


class Places(Protocol):
    """Numbers are those of stored tags: tag = number << 16 | row."""

    def tags(self, page: LedgerPage, rows: Rows) -> I64:
        """What stands in the inbox of these rows."""
        ...

    def spans(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """First and last tags of rows, by the numbers of their batches in the data folder -> as this inbox has them."""
        ...

    def kept(self, page: LedgerPage, rows: Rows) -> None:
        """These rows, HELD, are in the inbox; or are still, since the long link did not take them."""
        ...

    def stored(self, tags: I64) -> I64:
        """Of rows by their pages (sequence << 16 | row) that wait no more: the tags that are to leave this inbox."""
        ...

    async def locate(self, number: int, rows: Rows, device_id: bytes) -> Located:
        """The rows' pages, for a change in this step of the loop. Raises StoreError."""
        ...

    async def end(self, number: int, rows: Rows, state: State, reason: Reason) -> None:
        """Rows that still wait end so. Raises StoreError."""
        ...

    def given_back(self, page: LedgerPage, rows: Rows) -> Bool:
        """(k,) rows that their home has again."""
        ...

    def acknowledged(self, page: LedgerPage, rows: Rows) -> None:
        """A device acknowledged rows after they had been taken back from its connection; they have not been moved
        yet. Those that are not this worker's to end are ended where they are."""
        ...

    def is_nobodys(self, number: int) -> bool:
        """Nobody else ends these rows, whose time is over."""
        ...


async def end_held(
    home: Home, pages: Pages, clock: Clock, sequence: int, rows: Rows, to: State, reason: Reason, born_unix_ms: int = 0
) -> None:
    """Rows of a page of this home that waited in an inbox have ended. born_unix_ms: of the batch, where its number may
    have been given again. Raises StoreError."""
    page = await pages.fetch_to_end(sequence)
    if page is not None and born_unix_ms in (0, page.batch.born_unix_ms):
        rows = rows[rows < page.n]
        rows = rows[_waits_here(page, rows)]
        receipt = None
        if to is State.DEVICE_ACKED:
            page.channel[rows] = Channel.LONG_LINK
            receipt = Receipt.DELIVERED
        home.move(page, rows, to, reason, clock.monotonic(), receipt=receipt)


def _rows_of(page: LedgerPage, rows: Rows, device_id: bytes) -> Rows:
    """Those of the device. A number is given again after four million batches, or by a home that lost its newest pages:
    an old tag must not lead to somebody else's row."""
    rows = rows[rows < page.n]
    device = np.frombuffer(device_id, np.uint8)
    his: Rows = rows[(page.batch.device_ids.take(rows, axis=0) == device).all(axis=1)]
    return his


def _waits_here(page: LedgerPage, rows: Rows) -> Bool:
    waits: Bool = page.state[rows] == State.HELD
    return waits if page.away is None else waits & (page.away[rows] == 0)


class OwnPlaces:
    """Of a worker whose inbox holds nothing but rows of its own pages and shadows."""

    def __init__(self, home: Home, clock: Clock, pages: Pages) -> None:
        self._home = home
        self._clock = clock
        self._pages = pages

    def tags(self, page: LedgerPage, rows: Rows) -> I64:
        return row_tags(page.batch.address.sequence, rows)

    def spans(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        shadows: dict[int, list[ShadowPage]] = {}
        for page in self._home.shadows:
            shadows.setdefault(number_of(page.home_address), []).append(page)
        found = []
        for first, last in spans:
            number, ends = first >> 16, np.array([first & 0xFFFF, (last & 0xFFFF) + 1])
            sequence = self._home.addresses.sequence_of(number)
            pieces = [] if sequence is None else [(sequence, ends)]
            pieces += [
                (page.batch.address.sequence, np.searchsorted(page.home_rows, ends)) for page in shadows.get(number, ())
            ]
            found += [(own << 16 | int(at), (own << 16 | int(end)) - 1) for own, (at, end) in pieces if at < end]
        return found

    def kept(self, page: LedgerPage, rows: Rows) -> None:
        """They are where they were."""

    def given_back(self, page: LedgerPage, rows: Rows) -> Bool:
        return np.zeros(len(rows), np.bool_)

    def acknowledged(self, page: LedgerPage, rows: Rows) -> None:
        """Nobody else has them."""

    def stored(self, tags: I64) -> I64:
        return tags

    async def locate(self, number: int, rows: Rows, device_id: bytes) -> Located:
        page = await self._pages.fetch_rows(number, rows)
        if page is None:
            return Located([], rows[:0])
        his = _rows_of(page, rows, device_id)
        return Located([Found(page, his, his)], rows[:0])

    async def end(self, number: int, rows: Rows, state: State, reason: Reason) -> None:
        await end_held(self._home, self._pages, self._clock, number, rows, state, reason)

    def is_nobodys(self, number: int) -> bool:
        return self._home.page(number) is None and number not in self._home.away_pages


class _Errand(NamedTuple):
    what: str
    head: dict[str, int]
    tags: I64


class InboxPlaces:
    """Of one of several workers, where inbox and archive are on the disk. me: its index. node: of its journals.

    forget: takes tags out of this worker's inbox.
    """

    def __init__(
        self,
        *,
        home: Home,
        clock: Clock,
        store: Inbox,
        ownership: Ownership,
        me: int,
        node: int,
        links: WorkerLinks,
        spread: Spread,
        pages: Pages,
        forget: Callable[[I64], None],
        on_arrived: Callable[[ShadowPage], None],
    ) -> None:
        self._home = home
        self._clock = clock
        self._store = store
        self._ownership = ownership
        self._me = me
        self._node = node
        self._links = links
        self._spread = spread
        self._pages = pages
        self._forget = forget
        self._on_arrived = on_arrived
        #: Slices with rows that were not given back, by the number of their batch.
        self._here: dict[int, list[ShadowPage]] = {}
        self._here_max = _HERE_MIN
        self._errands: dict[int, deque[_Errand]] = {}
        self._to_end: deque[_Errand] = deque()
        self._bell = Bell()
        self._nursery: trio.Nursery | None = None
        links.answer_with("recall", self._on_recall)
        links.answer_with("find held", self._on_find)
        links.answer_with("end held", self._on_end)
        links.answer_with("forget held", self._on_forget)
        links.watch_deaths(self)

    # -- rows and tags

    def tags(self, page: LedgerPage, rows: Rows) -> I64:
        if isinstance(page, ShadowPage):
            return row_tags(number_of(page.home_address), page.home_rows[rows].astype(np.intp))
        return row_tags(number_of(page.batch.address), rows)

    def spans(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return list(spans)

    def kept(self, page: LedgerPage, rows: Rows) -> None:
        if not isinstance(page, ShadowPage) or not len(rows):
            return
        pages = self._here.setdefault(number_of(page.home_address), [])
        if page not in pages:
            pages.append(page)
        # A fallback chain goes on where its rows are, and they end with the process.
        if page.has_home and not page.batch.has_fallback:
            page.give_back(rows)
        if len(self._here) > self._here_max:
            self._tidy()

    def given_back(self, page: LedgerPage, rows: Rows) -> Bool:
        return page.is_back[rows] if isinstance(page, ShadowPage) else np.zeros(len(rows), np.bool_)

    def acknowledged(self, page: LedgerPage, rows: Rows) -> None:
        if not isinstance(page, ShadowPage):
            return
        is_homes = page.is_back[rows]
        if not page.has_home:
            # Its next life may have them from its archive, and knows that they wait here.
            is_homes |= page.state[rows] == State.HELD
        number = number_of(page.home_address)
        tags = row_tags(number, page.home_rows[rows[is_homes]].astype(np.intp))
        worker = self._home_of(number)
        if len(tags) and worker is not None:
            # Tags of rows that were given back leave the inbox when they are offered next: only then is it known that
            # nobody has them again.
            head = {"state": int(State.DEVICE_ACKED), "reason": int(Reason.NONE), "born": page.home_address.unix_ms}
            self._tell(worker, _Errand("end held", head, tags))

    def _tidy(self) -> None:
        """Slices of which nothing waits here any more are forgotten."""
        held = {number: [page for page in pages if page.counts[State.HELD]] for number, pages in self._here.items()}
        self._here = {number: pages for number, pages in held.items() if pages}
        self._here_max = max(_HERE_MIN, 2 * len(self._here))

    def stored(self, tags: I64) -> I64:
        found = [tags[:0]]
        for sequence, rows in split_by_sequence(tags):
            page = self._home.some_page(sequence)
            if page is None:
                continue
            stored = self.tags(page, rows)
            if isinstance(page, ShadowPage):
                found.append(stored)
                continue
            owners = self._ownership.owners(page.batch.device_ids.take(rows, axis=0))
            found.append(stored[owners == self._me])
            for worker in np.unique(owners[owners != self._me]).tolist():
                self._tell(worker, _Errand("forget held", {}, stored[owners == worker]))
        return np.concatenate(found)

    def _home_of(self, number: int) -> int | None:
        return self._ownership.worker_of_journal(journal_of(self._node, number // SEQUENCES_MAX), self._node)

    def is_nobodys(self, number: int) -> bool:
        sequence = self._home.addresses.sequence_of(number)
        # Another home ends its rows by itself, and they are over.
        return sequence is None or (self._home.page(sequence) is None and sequence not in self._home.away_pages)

    # -- as an owner

    async def locate(self, number: int, rows: Rows, device_id: bytes) -> Located:
        sequence = self._home.addresses.sequence_of(number)
        if sequence is not None:
            page = await self._pages.fetch_rows(sequence, rows)
            return self._in_own(page, rows, device_id)
        found: list[Found] = []
        homeless: list[Found] = []
        for shadow in self._here.get(number, ()):
            at = np.minimum(np.searchsorted(shadow.home_rows, rows), shadow.n - 1)
            is_here = (shadow.home_rows[at] == rows) & (shadow.state[at] == State.HELD)
            if is_here.any():
                # About to be delivered; what is not is given back then.
                shadow.goes_back[at[is_here]] = False
                (found if shadow.has_home else homeless).append(Found(shadow, rows[is_here], at[is_here]))
                rows = rows[~is_here] if shadow.has_home else rows
        worker = self._home_of(number)
        if not len(rows) or worker is None:
            return Located(found, rows[:0])
        recalled, later = await self._recall(worker, number, rows, device_id)
        found += self._without_home(homeless, recalled, later)
        # Any of them may have been given back, or have ended, meanwhile.
        found += recalled
        still = [one._replace(rows=one.rows[waits], at=one.at[waits]) for one, waits in map(_still_held, found)]
        lost = [one.rows[~waits] for one, waits in map(_still_held, found)]
        return Located(still, np.concatenate([later, *lost]))

    def _without_home(self, homeless: list[Found], recalled: list[Found], later: Rows) -> list[Found]:
        """Of rows whose home has died: those that its next life does not know. It knows pages that it had archived."""
        known = np.concatenate([later, *(one.rows for one in recalled)])
        left: list[Found] = []
        for page, rows, at in homeless:
            assert isinstance(page, ShadowPage)
            is_known = np.isin(rows, known) & (page.state[at] == State.HELD)
            page.let_go(at[is_known & ~np.isin(rows, later)])
            self._home.shadows.drop_if_done(page)
            if not np.isin(rows, known).all():
                left.append(Found(page, rows[~np.isin(rows, known)], at[~np.isin(rows, known)]))
        return left

    def _in_own(self, page: LedgerPage | None, rows: Rows, device_id: bytes) -> Located:
        if page is None:
            return Located([], rows[:0])
        rows = _rows_of(page, rows, device_id)
        if page.away is None:
            return Located([Found(page, rows, rows)], rows[:0])
        # On their way between workers: the devices of this home's rows may have had another owner.
        is_here = page.away[rows] == 0
        is_open = page.state[rows] == State.HELD
        return Located([Found(page, rows[is_here], rows[is_here])], rows[~is_here & is_open])

    async def _recall(self, worker: int, number: int, rows: Rows, device_id: bytes) -> tuple[list[Found], Rows]:
        """The home's rows are here, HELD; those of which it cannot say now. If cancelled: rows that its home gives come
        all the same, and are found here by the next who looks."""
        pages: list[ShadowPage] = []
        later = [rows[:0]]

        def take(life: Life, answer: memoryview) -> None:
            left, data = msgspec.msgpack.decode(answer, type=tuple[bytes, bytes])
            later.append(np.frombuffer(left, "<u2").astype(np.intp))
            if data:
                pages.append(self._open_recalled(life, number, data))

        try:
            body = rows.astype("<u2").tobytes()
            await self._links.ask(worker, "recall", {"number": number, "device": device_id}, body, take=take)
        except (WorkerGone, Overloaded):
            return [], rows
        found: list[Found] = []
        for page in pages:
            if not page.has_home:
                return [], rows
            places = page.home_rows.astype(np.intp)
            # In the order in which they were asked for, which is that of their arrival.
            asked = rows[np.isin(rows, places)]
            found.append(Found(page, asked, np.searchsorted(places, asked)))
        return found, np.concatenate(later)

    def _open_recalled(self, life: Life, number: int, data: bytes) -> ShadowPage:
        slice_ = decode(data)
        assert isinstance(slice_, Slice)
        batch, home_rows = rows_of(slice_, self._clock.monotonic())
        page = self._home.open_shadow(life, batch, home_rows, 0)
        page.state[:] = State.HELD
        page.channel[:] = Channel.LONG_LINK
        page.counts[State.HELD], page.counts[State.QUEUED] = page.n, 0
        self._here.setdefault(number, []).append(page)
        self._on_arrived(page)
        return page

    async def end(self, number: int, rows: Rows, state: State, reason: Reason) -> None:
        sequence = self._home.addresses.sequence_of(number)
        if sequence is not None:
            await end_held(self._home, self._pages, self._clock, sequence, rows, state, reason)
            return
        now = self._clock.monotonic()
        for page in self._here.get(number, ()):
            at = np.flatnonzero(np.isin(page.home_rows, rows))
            self._home.move(page, at[page.state[at] == State.HELD], state, reason, now)
        worker = self._home_of(number)
        if worker is not None:
            head = {"state": int(state), "reason": int(reason)}
            self._tell(worker, _Errand("end held", head, row_tags(number, rows)))
        await trio.lowlevel.checkpoint()

    async def stored_rows(self, page: LedgerPage, rows: Rows | None) -> Rows:
        """Places of the page's rows, or of these, that wait in any inbox; asked until all workers answer. Raises
        StoreError."""
        first = number_of(page.batch.address) << 16
        tags = []
        for start, n in [(first, page.n)] if rows is None else [(tag, 1) for tag in (first + rows).tolist()]:
            for worker in range(self._ownership.workers):
                asked = self._find(start, n) if worker == self._me else self._find_at(worker, start, n)
                tags.append(await asked)
        found: Rows = (np.concatenate(tags) - first).astype(np.intp)
        return found

    async def _find_at(self, worker: int, first: int, n: int) -> I64:
        while True:
            try:
                return np.frombuffer(await self._links.ask(worker, "find held", {"first": first, "n": n}), "<i8")
            except (WorkerGone, Overloaded):
                await trio.sleep(_AGAIN_S)

    async def _find(self, first: int, n: int) -> I64:
        return (await self._store.find(InboxQuery(tags=[(first, first + n - 1)]), n)).tags

    # -- as a home, and as a neighbour

    def _on_recall(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        rows = np.frombuffer(body, "<u2").astype(np.intp)
        if self._nursery is None:
            reply(msgspec.msgpack.encode((rows.astype("<u2").tobytes(), b"")))
        else:
            self._nursery.start_soon(self._answer_recall, life, head["number"], rows, head["device"], reply)

    async def _answer_recall(self, life: Life, number: int, rows: Rows, device_id: bytes, reply: Reply) -> None:
        sequence = self._home.addresses.sequence_of(number)
        try:
            page = None if sequence is None else await self._pages.fetch_rows(sequence, np.unique(rows))
        except StoreError:
            reply(msgspec.msgpack.encode((rows.astype("<u2").tobytes(), b"")))
            return
        if page is None:
            reply(msgspec.msgpack.encode((b"", b"")))
            return
        rows = _rows_of(page, rows, device_id)
        is_his = page.state[rows] == State.HELD
        # A slice has its rows in rising order; an inbox has those of one batch in the order in which they came.
        here = np.unique(rows[is_his & _waits_here(page, rows)])
        later = np.setdiff1d(rows[is_his], here)
        if life not in self._links.lives() or self._spread.is_taking_back(life.worker):
            here, later = here[:0], rows[is_his]
        data = b""
        if len(here):
            if page.trail is None and page.batch.born_unix_ms <= self._pages.doubtful_until_unix_ms:
                # Their owner may have tried before, and have told an earlier process of this home.
                page.flags[here] |= np.uint8(Flag.RESENT_UNCERTAIN)
            self._spread.holders.give(page, here, life.worker)
            data = encode(slice_of(page.batch, here, self._clock.monotonic()))
        reply(msgspec.msgpack.encode((later.astype("<u2").tobytes(), data)))

    def _on_find(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._answer_find, head["first"], head["n"], reply)

    async def _answer_find(self, first: int, n: int, reply: Reply) -> None:
        while True:
            try:
                tags = await self._find(first, n)
            except StoreError:
                await trio.sleep(_AGAIN_S)
            else:
                reply(tags.astype("<i8").tobytes())
                return

    def _on_end(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        self._to_end.append(_Errand("end held", head, np.frombuffer(bytes(body), "<i8")))
        self._bell.ring()
        reply(b"")

    def _on_forget(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        self._forget(np.frombuffer(bytes(body), "<i8"))
        reply(b"")

    def on_died(self, life: Life) -> None:
        """That home is no more: what it was given back and has not heard of stays here."""
        for page in self._home.shadows.of(life):
            if page.counts[State.HELD]:
                page.stay()
                pages = self._here.setdefault(number_of(page.home_address), [])
                if page not in pages:
                    pages.append(page)

    # -- the actor

    def _tell(self, worker: int, errand: _Errand) -> None:
        self._errands.setdefault(worker, deque()).append(errand)
        self._bell.ring()

    async def run(self) -> None:
        """Tells others, and ends rows, until cancelled. If cancelled: the rest is done by the next run."""
        self._bell.ring()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                while True:
                    with trio.move_on_after(_AGAIN_S if any(self._errands.values()) or self._to_end else np.inf):
                        await self._bell.wait()
                    await self._end_some()
                    for worker, errands in list(self._errands.items()):
                        await self._tell_some(worker, errands)
        finally:
            self._nursery = None

    async def _end_some(self) -> None:
        while self._to_end:
            _, head, tags = self._to_end[0]
            try:
                for number, rows in split_by_sequence(tags):
                    sequence = self._home.addresses.sequence_of(number)
                    if sequence is not None:
                        how = (State(head["state"]), Reason(head["reason"]), head.get("born", 0))
                        await end_held(self._home, self._pages, self._clock, sequence, rows, *how)
            except StoreError:
                return
            self._to_end.popleft()

    async def _tell_some(self, worker: int, errands: deque[_Errand]) -> None:
        while errands:
            what, head, tags = errands[0]
            try:
                await self._links.ask(worker, what, head, tags.astype("<i8").tobytes())
            except (WorkerGone, Overloaded):
                return
            errands.popleft()


def _still_held(found: Found) -> tuple[Found, Bool]:
    is_held: Bool = found.page.state[found.at] == State.HELD
    return found, is_held
