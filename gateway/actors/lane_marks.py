"""Rendered rows of a lane that wait for room on a connection, and for the mark that they are about to be issued.

Where a journal on disk holds the app's batches, a lane renders ahead: while one burst's mark is being written the next
one is rendered, so that the connection does not wait for the disk. What is ahead is bounded by a burst's rows, by the
window of the marks, and by the number of bursts, each of which is a page in the record of the marks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping

from gateway.actors.lane_bursts import Saving, Unsent
from gateway.actors.lane_ports import Marks
from gateway.actors.rendering import RenderedBurst
from gateway.core.lane import Lane
from gateway.core.render_bulk import fill_saved
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
    """unsent: the lane's rendered rows. saves: its first steps under way. marks: None where the app's batches are in
    memory: then nothing waits for a mark, and nothing is rendered ahead. ring: wakes the lane."""

    def __init__(
        self,
        unsent: deque[Unsent],
        saves: Mapping[int, Saving],
        marks: Marks | None,
        *,
        rows_max: int,
        ring: Callable[[], None],
    ) -> None:
        self._unsent = unsent
        self._saves = saves
        #: Names that first steps gave, and until when they serve others, oldest first.
        self._saved: OrderedDict[Hashable, tuple[str, float]] = OrderedDict()
        self._marks = marks
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

    def room(self) -> int:
        """Rows that may be rendered now."""
        if self._marks is None:
            return 0 if len(self._unsent) >= _AHEAD_BURSTS_IN_MEMORY else _NO_LIMIT
        if len(self._unsent) >= _AHEAD_BURSTS:
            return 0
        ahead = self._rows_max - sum(len(unsent.rows) for unsent in self._unsent)
        return min(ahead, self._marks.room(self._ring)) if ahead > 0 else 0

    def return_stalled(self, lane: Lane) -> bool:
        """Rendered rows that were free to leave at the last call and did not are queued again, and marked no more, so
        that nobody takes them for issued while a vendor is away. False where there were none."""
        first = self._unsent[0] if self._unsent and self._marks is not None else None
        if first is not None and not self.is_marked(first):
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
        return True


def _key(unsent: Unsent) -> Hashable:
    """What a first step under way will serve."""
    bulk = unsent.rendered.requests.bulk
    return None if bulk is None or bulk.save_once is None else bulk.save_once.key
