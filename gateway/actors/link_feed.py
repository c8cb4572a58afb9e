"""LinkFeed: rows on their way from the router to the edge, marked as issued before their bytes leave.

    router --add--> waiting --mark (where a journal on disk holds the batch)--> marked --durable--> one call of the edge
                        +-----announce (where that is another home's)--> announced --answered--^

Marks run ahead of the edge by up to AHEAD_ROWS, so that it does not wait for the disk; rows of batches in memory pass
at once. Rows whose home is down are set aside until it is back. Waits for: its bell. Is waited for by: nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from gateway.actors.bell import Bell
from gateway.actors.precedence import Precedence
from gateway.actors.resending import RedeliverPort
from gateway.columns import I32, I64, U8, U32, Bool, Pieces, Rows
from gateway.core.shadow import ShadowPage, waits_for_home
from gateway.core.trail import Trail
from gateway.ledger import Channel, LedgerPage, State
from gateway.marks import NO_TICKET

#: Rows marked and not given to the edge: some milliseconds of the edge, longer than a commit takes.
AHEAD_ROWS = 8192
#: Calls prepared at once: each is a page in the record of the marks.
_AHEAD_CALLS = 64
#: Texts in one call of the edge: they are copied two or three times there.
_DELIVER_BYTES_MAX = 1 << 20
#: So many rows make no long step, whatever their texts.
_FEW_ROWS = 64


class ForLink(NamedTuple):
    """Rows on their way to the edge, with where their devices were connected when they were routed."""

    page: LedgerPage
    rows: Rows
    fds: I32
    generations: U32

    def take(self, which: slice | Bool) -> ForLink:
        return ForLink(self.page, self.rows[which], self.fds[which], self.generations[which])


class LongLinkPort(RedeliverPort, Protocol):
    """The very call the edge takes: many rows at once, one write per device."""

    def deliver_rows_max(self) -> int:
        """Rows one call may have so that it stays within a step."""

    def send_rest(self) -> bool:
        """Writes more of what it took; False where nothing waits."""

    def deliver(
        self,
        fds: I32,
        generations: U32,
        device_ids: U8,
        tags: I64,
        payload: Pieces,
        now: float,
        expiry_s: Callable[[Rows], U32] | None = None,
    ) -> Bool: ...


class LinkFeed:
    """rows_max: rows of a page that one call of the edge may have. feed: that call. trail: None without a journal on
    disk. send_rest: the edge writes more of what it took; False where nothing is left, and it may be given more."""

    def __init__(
        self,
        rows_max: Callable[[LedgerPage], int],
        feed: Callable[[ForLink], None],
        trail: Trail | None,
        send_rest: Callable[[], bool] = lambda: False,
        precedence: Precedence | None = None,
    ) -> None:
        self._rows_max = rows_max
        self._send_rest = send_rest
        self._feed = feed
        self._trail = trail
        self._bell = Bell(precedence)
        self._waiting: deque[ForLink] = deque()
        self._marked: deque[tuple[int, ForLink]] = deque()
        self._marked_rows = 0
        #: Announced to their homes, which have not answered for all of them.
        self._announced: list[tuple[ShadowPage, ForLink]] = []
        self._announced_rows = 0
        #: Rows whose home is down.
        self._aside: list[ForLink] = []

    def add(self, work: ForLink, *, at_once: bool = False) -> None:
        """at_once: a small page goes to the edge in the caller's turn, where nothing stands before it and nobody has to
        be told first: a turn of the loop for a handful of rows costs as much as they do."""
        may_go = at_once and work.page.n <= _FEW_ROWS and self.is_idle and not self._needs_word(work.page)
        self._waiting.append(work)
        if may_go and len(work.rows) <= self._rows_max(work.page):
            # As in `_step`: what a crash interrupts is done again by the next run.
            self._feed(work)
            self._waiting.popleft()
        else:
            self._bell.ring()

    def _needs_word(self, page: LedgerPage) -> bool:
        """A journal on disk, here or at home, has to know of the page's rows before they leave."""
        if isinstance(page, ShadowPage) and page.asked is not None:
            return True
        return self._trail is not None and page.trail is not None

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._marked and not self._announced

    async def run(self) -> None:
        """Feeds the edge until cancelled. If cancelled: the rest waits for the next run."""
        self._bell.ring()
        while True:
            await self._bell.wait()
            while self._step():
                await self._bell.pause()

    def _step(self) -> bool:
        """The edge writes what it took, or marks what may be marked, and gives the edge one call. False when there is
        nothing to do now."""
        if self._send_rest():
            return True
        while self._waiting and self._marked_rows < AHEAD_ROWS and len(self._marked) < _AHEAD_CALLS:
            if not self._prepare():
                break
            if self._trail is None:
                break
        if self._announced and self._feed_answered():
            return True
        if not self._marked:
            return False
        ticket, work = self._marked[0]
        if self._trail is not None and not self._trail.is_durable(ticket):
            return False
        if self._trail is not None:
            ticket, work = self._merge_marked(self._trail, self._rows_max(work.page))
        # It leaves the queue when the edge has had it: what a crash interrupts is done again by the next run.
        self._feed(work)
        self._marked.popleft()
        self._marked_rows -= len(work.rows)
        return True

    def _merge_marked(self, trail: Trail, size: int) -> tuple[int, ForLink]:
        """The first of the marked, with what follows it of the same page while both may leave and one call of the edge
        takes them."""
        marked = self._marked
        while len(marked) > 1:
            (_, first), (ticket, second) = marked[0], marked[1]
            is_too_long = len(first.rows) + len(second.rows) > size
            if second.page is not first.page or is_too_long or not trail.is_durable(ticket):
                break
            marked.popleft()
            marked[0] = (ticket, _join(first, second))
        return marked[0]

    def _prepare(self) -> bool:
        """The first work, or as much of it as one call may have, is marked. False where its window has no room."""
        size = self._rows_max(self._waiting[0].page)
        work = self._merge(size)
        page = work.page
        if isinstance(page, ShadowPage) and page.asked is not None:
            return self._announce(page, work, size)
        ticket = NO_TICKET
        if self._trail is not None and page.trail is not None:
            room = self._trail.room(page.batch.app, Channel.LONG_LINK, self._bell.ring)
            if not room:
                # Rows of another app may have room in theirs.
                self._waiting.rotate(-1)
                return False
            size = min(size, room)
        part = work.take(slice(0, size))
        if self._trail is not None and page.trail is not None:
            live = part.rows[page.are(part.rows, State.QUEUED, Channel.LONG_LINK)]
            if len(live):
                ticket = self._trail.mark(page, live, Channel.LONG_LINK, self._bell.ring)
        self._marked.append((ticket, part))
        self._marked_rows += len(part.rows)
        self._leave_rest(work, size)
        return True

    def _leave_rest(self, work: ForLink, size: int) -> None:
        """The first work but for its first rows goes on waiting."""
        if len(work.rows) > size:
            self._waiting[0] = work.take(slice(size, None))
        else:
            self._waiting.popleft()

    def _announce(self, page: ShadowPage, work: ForLink, size: int) -> bool:
        """Rows of another home's journal: announced to it, or set aside where it is down. False where too many wait."""
        if page.waits_for_home:
            self._aside.append(self._waiting.popleft())
            page.ring_when_free(self._take_up)
            return True
        if self._announced_rows >= AHEAD_ROWS or len(self._announced) >= _AHEAD_CALLS:
            self._waiting.rotate(-1)
            return False
        if self._trail is not None:
            # What is asked for at once must fit into the window of its home.
            size = min(size, self._trail.issued_rows_max)
        part = work.take(slice(0, size))
        page.announce(part.rows[page.are(part.rows, State.QUEUED, Channel.LONG_LINK)])
        self._announced.append((page, part))
        self._announced_rows += len(part.rows)
        self._leave_rest(work, size)
        return True

    def _feed_answered(self) -> bool:
        """The edge has the first of the announced that may leave. False where none may."""
        for place, (page, work) in enumerate(self._announced):
            may_leave = page.may_leave(work.rows, self._bell.ring)
            if not may_leave and not page.waits_for_home and page.is_announced_whole(work.rows):
                continue
            if may_leave:
                self._feed(work)
            elif not page.is_announced_whole(work.rows):
                # Their home is back, and has to know of them first.
                self._waiting.append(work)
            else:
                page.stay_here(work.rows)
                self._aside.append(work)
                page.ring_when_free(self._take_up)
            del self._announced[place]
            self._announced_rows -= len(work.rows)
            return True
        return False

    def _take_up(self) -> None:
        """A home is back, or is no more: what waited for it is tried again."""
        self._waiting.extend(work for work in self._aside if not waits_for_home(work.page))
        self._aside = [work for work in self._aside if waits_for_home(work.page)]
        for work in self._aside:
            assert isinstance(work.page, ShadowPage)
            work.page.ring_when_free(self._take_up)
        self._bell.ring()

    def _merge(self, size: int) -> ForLink:
        """The first work, with what follows it of the same page until `size` rows are together: full calls of the
        edge cost less per row than several small ones."""
        queue = self._waiting
        while len(queue) > 1 and queue[1].page is queue[0].page and len(queue[0].rows) < size:
            queue.appendleft(_join(queue.popleft(), queue.popleft()))
        return queue[0]


def _join(first: ForLink, second: ForLink) -> ForLink:
    """Both, of one page, as one call of the edge."""
    columns = [np.concatenate(pair) for pair in zip(first[1:], second[1:], strict=True)]
    return ForLink(first.page, *columns)


def rows_of_one_call(page: LedgerPage, rows_max: int) -> int:
    """Rows of the page that one call of the edge may have: rows_max by its pace, and fewer by their texts, which a pace
    learnt on others says nothing of."""
    batch = page.batch
    if batch.n <= _FEW_ROWS:
        return rows_max
    text_bytes = batch.content_bytes_max + sum(len(column.blob) for column in batch.variables.values()) // batch.n
    return min(rows_max, max(_FEW_ROWS, _DELIVER_BYTES_MAX // (text_bytes + 1)))


async def mark_held(trail: Trail | None, page: LedgerPage, rows: Rows) -> bool:
    """Held rows may be delivered: the journal on disk that holds their batch, if one does, has been told. False where
    it is that of a worker that is down. If cancelled: they may be marked."""
    bell = Bell()
    if isinstance(page, ShadowPage):
        if page.asked is None or not len(rows):
            return True
        page.announce(rows)
        while not page.is_orphan:
            held = rows[page.state[rows] == State.HELD]
            if page.is_told[held].all():
                return True
            if page.waits_for_home or not page.is_announced[held].all():
                page.stay_here(held)
                return False
            page.ring_when_free(bell.ring)
            await bell.wait()
        return True
    if trail is None or page.trail is None or not len(rows):
        return True
    while trail.room(page.batch.app, Channel.LONG_LINK, bell.ring) < len(rows):
        await bell.wait()
    ticket = trail.mark(page, rows, Channel.LONG_LINK, bell.ring)
    while not trail.is_durable(ticket):
        await bell.wait()
    return True
