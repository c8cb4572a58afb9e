"""Rendered rows of a lane that wait for room on a connection, and for the mark that they are about to be issued.

Where a journal on disk holds the app's batches, a lane renders ahead: while one burst's mark is being written the next
one is rendered, so that the connection does not wait for the disk. What is ahead is bounded by the rows of two bursts,
by the window of the marks, and by the number of bursts, each of which is a page in the record of the marks. It is not
filled up by the few rows that happen to have left: half a burst costs nearly what a whole one does.

Rows of another home are marked there. While that home is down they are set aside, so that they keep no other rows from
being rendered; each is still in its page, and comes back to the queue when the home is back.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping

from gateway.actors.lane_bursts import Saving, Unsent
from gateway.actors.lane_ports import Marks
from gateway.actors.rendering import RenderedBurst
from gateway.core.home import Home
from gateway.core.lane import Lane, LaneSlice
from gateway.core.render_bulk import fill_saved
from gateway.core.shadow import ShadowPage, stay_here, waits_for_home
from gateway.ledger import LedgerPage, State
from gateway.marks import NO_TICKET

_AHEAD_BURSTS = 64
#: Contents of a lane whose first step is remembered: some hundred bytes each, and as many as are sent in a minute.
_SAVED_MAX = 256
#: Without a journal on disk: one waits until its rows are known to leave while the next is rendered.
_AHEAD_BURSTS_IN_MEMORY = 2
#: More rows than a batch has.
_NO_LIMIT = 1 << 17


class AheadOfMarks:
    """unsent: the lane's rendered rows. saves: its first steps under way. rows_max: of a burst. marks: None where the
    app's batches are in memory: then nothing waits for a mark, and nothing is rendered ahead. ring: wakes the lane."""

    def __init__(
        self,
        unsent: deque[Unsent],
        saves: Mapping[int, Saving],
        marks: Marks | None,
        home: Home,
        *,
        rows_max: int,
        ring: Callable[[], None],
    ) -> None:
        self._unsent = unsent
        self._saves = saves
        #: Names that first steps gave, and until when they serve others, oldest first.
        self._saved: OrderedDict[Hashable, tuple[str, float]] = OrderedDict()
        self._marks = marks
        self._home = home
        #: Rows whose home is down.
        self._aside: list[LaneSlice] = []
        self._rows_max = rows_max
        self._ring = ring
        #: The first of the rendered that could have left when stalls were last looked for.
        self._waited: Unsent | None = None

    def add(self, page: LedgerPage, burst: RenderedBurst, authorization: bytes, now: float) -> None:
        bulk = burst.requests.bulk
        # A first step sends nothing to anybody: its rows are marked when it has been answered.
        is_first_step = bulk is not None and bulk.save is not None
        ticket = NO_TICKET
        if self._marks is not None and not is_first_step:
            ticket = self._marks.mark(page, burst.rows, self._ring)
        self._unsent.append(Unsent(page, burst, 0, authorization, now, ticket))

    def save_turn(self, now: float, lane: Lane) -> bool | None:
        """Of the first of the rendered: True where it needs no first step any more, since an earlier burst of the same
        content had it; False while that is under way; else None."""
        unsent = self._unsent[0]
        bulk = unsent.rendered.requests.bulk
        if bulk is None or bulk.save is None or bulk.save_once is None:
            return None
        key = bulk.save_once.key
        name, until = self._saved.get(key, ("", 0.0))
        if now < until:
            self._unsent.popleft()
            self._add_second(unsent, name, now, lane)
            return True
        return False if any(_key(saving.unsent) == key for saving in self._saves.values()) else None

    def add_saved(self, unsent: Unsent, name: str, now: float, lane: Lane) -> None:
        """The first step is done: the second is next, and leaves when its mark is durable."""
        bulk = unsent.rendered.requests.bulk
        if bulk is not None and bulk.save_once is not None:
            self._saved[bulk.save_once.key] = name, now + bulk.save_once.valid_s
            self._saved.move_to_end(bulk.save_once.key)
            if len(self._saved) > _SAVED_MAX:
                self._saved.popitem(last=False)
        self._add_second(unsent, name, now, lane)
        # Bursts of the same content may have waited for it.
        self._ring()

    def _add_second(self, unsent: Unsent, name: str, now: float, lane: Lane) -> None:
        """Rows that ended meanwhile get no mark, which nobody would take back."""
        rendered = unsent.rendered._replace(requests=fill_saved(unsent.rendered.requests, name))
        unsent = unsent._replace(rendered=rendered, rendered_at=now)
        ticket = NO_TICKET
        if self._marks is not None and unsent.page.are_all(unsent.rows, State.QUEUED, lane.key.channel):
            ticket = self._marks.mark(unsent.page, unsent.rows, self._ring)
        self._unsent.appendleft(unsent._replace(ticket=ticket))

    def is_marked(self, unsent: Unsent) -> bool:
        """The mark of these rows is durable, or they need none."""
        return self._marks is None or self._marks.is_durable(unsent.ticket)

    def may_leave(self, unsent: Unsent) -> bool:
        """Whoever must know it before these rows leave knows it; else the lane is rung."""
        return self.is_marked(unsent) and self._home.may_leave(unsent.page, unsent.rows, self._ring)

    def bring_forward(self, lane: Lane) -> bool:
        """Whether the first of the rendered may leave; of those that wait for other homes, the first that may. There is
        one."""
        if not isinstance(self._unsent[0].page, ShadowPage):
            return self.is_marked(self._unsent[0])
        while self._unsent and waits_for_home(self._unsent[0].page) and not self.may_leave(self._unsent[0]):
            unsent = self._unsent.popleft()
            stay_here(unsent.page, unsent.rows)
            self.set_aside(LaneSlice(unsent.page, unsent.rows), lane)
        while self._unsent and not _is_announced(self._unsent[0]):
            # Their home is back, and has to know of them first.
            page, rows = self._unsent[0].page, self._unsent.popleft().rows
            is_live = page.are(rows, State.QUEUED, lane.key.channel)
            lane.put_back(page, rows[is_live])
            lane.bucket.give_back(int((~is_live).sum()))
        if not self._unsent or not self.is_marked(self._unsent[0]):
            return False
        for place, unsent in enumerate(self._unsent):
            if self.may_leave(unsent):
                if place:
                    del self._unsent[place]
                    self._unsent.appendleft(unsent)
                return True
        return False

    def set_aside(self, slice_: LaneSlice, lane: Lane) -> bool:
        """True where the rows' home is down: they wait for it."""
        page, rows = slice_
        if not isinstance(page, ShadowPage) or not page.waits_for_home:
            return False
        lane.bucket.give_back(len(rows))
        self._aside.append(slice_)
        page.ring_when_free(self._ring)
        return True

    def take_up(self, lane: Lane) -> None:
        """What waited for a home that is back, or is no more, is queued again."""
        if not self._aside:
            return
        aside, self._aside = self._aside, []
        for page, rows in aside:
            if waits_for_home(page):
                self._aside.append(LaneSlice(page, rows))
            else:
                lane.put_back(page, rows[page.are(rows, State.QUEUED, lane.key.channel)], returns_tokens=False)

    def room(self) -> int:
        """Rows that may be rendered now."""
        if self._marks is None:
            return 0 if len(self._unsent) >= _AHEAD_BURSTS_IN_MEMORY else _NO_LIMIT
        if len(self._unsent) >= _AHEAD_BURSTS:
            return 0
        ahead = 2 * self._rows_max - sum(len(unsent.rows) for unsent in self._unsent)
        room = min(ahead, self._marks.room(self._ring)) if ahead > 0 else 0
        return room if room >= self._rows_max or not self._unsent else 0

    def return_stalled(self, lane: Lane) -> bool:
        """Rendered rows that were free to leave at the last call and did not are queued again, and marked no more, so
        that nobody takes them for issued while a vendor is away. False where there were none."""
        first = self._unsent[0] if self._unsent and self._marks is not None else None
        if first is not None and not self.may_leave(first):
            first = None
        if self._marks is None or first is None or first is not self._waited:
            self._waited = first
            return False
        self._waited = None
        while self._unsent:
            unsent = self._unsent.pop()
            page, rows = unsent.page, unsent.rows
            is_live = page.are(rows, State.QUEUED, lane.key.channel)
            lane.put_back(page, rows[is_live])
            lane.bucket.give_back(int((~is_live).sum()))
            self._marks.unmark(page, rows[is_live])
            stay_here(page, rows[is_live])
        return True


def _is_announced(unsent: Unsent) -> bool:
    page = unsent.page
    return not isinstance(page, ShadowPage) or page.is_announced_whole(unsent.rows)


def _key(unsent: Unsent) -> Hashable:
    """What a first step under way will serve."""
    bulk = unsent.rendered.requests.bulk
    return None if bulk is None or bulk.save_once is None else bulk.save_once.key
