"""ForeignRows: what an owner does with rows that other workers journaled.

    link --slice--> shadow page --> router (as any page) --> lanes, long link, inbox
                                      |
      credit back <-- when routed ----+          every change --> report --> link --> home

Credit goes back when a slice has been routed, as long as there is room: with the next message to that worker, which is
the report of its rows, or alone when a quarter of all is due, since a message for every slice would wake two workers
for nothing. Without room for more open rows, or with too many parked before full lanes, it is withheld and looked at
again every `_LOOK_AGAIN_S`. Nothing here waits; the reader of a link never does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import trio

from gateway.actors.bell import Bell
from gateway.actors.link_columns import outcomes_message, rows_of
from gateway.clock import Clock
from gateway.columns import Rows
from gateway.core.home import Home
from gateway.core.shadow import Life, ShadowPage
from gateway.errors import Overloaded
from gateway.ledger import LedgerPage
from gateway.wire.worker_link.messages import Outcomes, Slice

#: Withheld credit is looked at again after this long: what makes room does not ring, and nothing is lost meanwhile.
_LOOK_AGAIN_S = 0.02
#: The part of its credit from which on a worker gets it back in a message of its own: with three quarters left it is
#: not stopped meanwhile.
_MUCH = 4


class Report(NamedTuple):
    """A message, and the rows that are told when it is out."""

    message: Outcomes
    page: ShadowPage
    rows: Rows


class Debt:
    """Credit that is due to one life."""

    __slots__ = ("rows", "size")

    def __init__(self) -> None:
        self.rows = 0
        self.size = 0


class NewsPort(Protocol):
    """The links to the homes; see `WorkerLinks`."""

    def news_later(self, life: Life, rows: int) -> None:
        """There is something to report to that life, and of so many rows of the same page there will be more."""
        ...

    def news_soon(self, life: Life) -> None:
        """There is something that its next chunk waits for."""
        ...

    def news_whole(self, life: Life) -> None:
        """What is to be reported of one of its pages is all that there will be."""
        ...

    def late_news(self, life: Life, *, is_some: bool) -> None:
        """There is late news for it, or none any more."""
        ...

    def news_now(self, life: Life) -> None:
        """Rows wait for its report."""
        ...

    def credit_now(self, life: Life) -> None:
        """It may need its credit."""
        ...


class ForeignObserver(Protocol):
    def received(self, worker: int, rows: int) -> None: ...

    def for_the_dead(self, rows: int) -> None: ...


class ForeignRows:
    """open_rows_max: foreign rows that are not final, above which credit is withheld. credit_rows, credit_bytes: what
    each worker has of it at the start."""

    def __init__(
        self,
        *,
        home: Home,
        clock: Clock,
        observer: ForeignObserver,
        route: Callable[[LedgerPage], None],
        check_room: Callable[[], None],
        open_rows_max: int,
        credit_rows: int,
        credit_bytes: int,
    ) -> None:
        self._home = home
        self._clock = clock
        self._observer = observer
        self._route = route
        self._check_room = check_room
        self._open_rows_max = open_rows_max
        self._debts: dict[Life, Debt] = {}
        self._bell = Bell()
        #: Called with each slice before it is routed.
        self.on_arrived: Callable[[ShadowPage], None] = lambda _page: None
        self._much_rows, self._much_bytes = -(-credit_rows // _MUCH), -(-credit_bytes // _MUCH)
        self._news: NewsPort | None = None
        home.shadows.on_for_the_dead = observer.for_the_dead

    def connect(self, news: NewsPort) -> None:
        """Names who carries what is to be told."""
        self._news = news
        shadows = self._home.shadows
        shadows.on_dirty, shadows.on_soon, shadows.on_awaited = news.news_later, news.news_soon, news.news_now
        shadows.on_done = news.news_whole
        shadows.on_late = lambda life, is_some: news.late_news(life, is_some=is_some)

    def on_slice(self, life: Life, slice_: Slice) -> None:
        """The rows are here and will be routed. Raises ValueError for a slice that cannot be read."""
        batch, home_rows = rows_of(slice_, self._clock.monotonic())
        page = self._home.open_shadow(life, batch, home_rows, len(slice_.record))
        self._observer.received(life.worker, page.n)
        self.on_arrived(page)
        self._route(page)

    def on_routed(self, page: LedgerPage) -> None:
        """Called by the router for each page that it has routed."""
        if isinstance(page, ShadowPage) and page.has_home:
            debt = self._debts.setdefault(Life(page.home, page.incarnation), Debt())
            debt.rows += page.n
            debt.size += page.size_bytes
            if self._is_much(debt):
                self._bell.ring()

    def _is_much(self, debt: Debt) -> bool:
        return debt.rows >= self._much_rows or debt.size >= self._much_bytes

    def take_credit(self, life: Life) -> tuple[int, int]:
        """Rows and bytes that are given back to that life with what is sent to it."""
        if life not in self._debts or not self.has_room:
            return 0, 0
        debt = self._debts.pop(life)
        return debt.rows, debt.size

    def next_report(self, life: Life, *, with_late: bool) -> Report | None:
        """What that home is to be told next; None when there is nothing. with_late: late news, too."""
        news = self._home.shadows.take_news(life, self._clock.monotonic(), with_late=with_late)
        return None if news is None else Report(outcomes_message(news[2]), news[0], news[1])

    def on_marked(self, life: Life, number: int) -> None:
        """That home has durable marks of what was announced under this number."""
        self._home.shadows.answered(life, number)

    def on_died(self, life: Life) -> None:
        """That home is no more: its rows go on to their end, and those who follow receipts are told of it here."""
        self._debts.pop(life, None)
        self._home.shadows.home_died(life)

    @property
    def has_room(self) -> bool:
        if self._home.shadows.rows_open >= self._open_rows_max:
            return False
        try:
            self._check_room()
        except Overloaded:
            return False
        return True

    async def run(self) -> None:
        """Gives credit back that is needed, until cancelled. If cancelled: what is due stays due."""
        self._bell.ring()
        while True:
            await self._bell.wait()
            needed = [life for life, debt in self._debts.items() if self._is_much(debt)]
            if needed and not self.has_room:
                await trio.sleep(_LOOK_AGAIN_S)
                self._bell.ring()
                continue
            for life in needed:
                if self._news is not None:
                    self._news.credit_now(life)
