"""ForeignMarks: what a home's journal is told of rows that other workers hold, before these let them go. A machine.

    holder's report announces rows that leave together, with a number
        announced() --window has room--> Trail.mark --record durable--> advance(): that number is answered
                     \\--none----------> waits for room: the holder waits with it

All marks of a row stand in its home's journal, whoever holds it; so a start reads one journal for one batch, and
`issued_rows_max` bounds the rows of a window over all holders together. A row that ended, came back or was announced
for another channel while it waited for room is left out: its holder asks anew. What has no journal is answered at once.

Room is given in the order of the questions, and the first keeps what it has got until it has all: rows that leave
together are no more than a window (lanes and long link see to that), so the first can always be answered, whoever takes
room beside it. With a question for several bursts, each might have a part of the room and none of them leave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gateway.columns import Rows
from gateway.core.trail import Trail
from gateway.ledger import IS_FINAL, Channel, LedgerPage
from gateway.marks import NO_TICKET, Window


class Answered(NamedTuple):
    """A question of that worker, all of whose rows have durable marks, or need none."""

    worker: int
    number: int


class _Asked:
    """One question that waits. parts: channels whose rows are not all marked. ticket: of its newest mark. marked: rows
    that were so for its sake."""

    __slots__ = ("marked", "number", "parts", "ticket", "worker")

    def __init__(self, worker: int, number: int) -> None:
        self.worker = worker
        self.number = number
        self.parts = 0
        self.ticket = NO_TICKET
        self.marked: list[tuple[LedgerPage, Rows]] = []


class _Part(NamedTuple):
    asked: _Asked
    page: LedgerPage
    rows: Rows
    channel: Channel


class ForeignMarks:
    """trail: of the home; None without a journal on disk. still: which of a page's rows that worker still has
    announced. on_work: called when `advance` may have something to say."""

    def __init__(
        self,
        trail: Trail | None,
        still: Callable[[LedgerPage, Rows, int], Rows],
        on_work: Callable[[], None] = lambda: None,
    ) -> None:
        self._trail = trail
        self._still = still
        self.on_work = on_work
        #: In the order of their marks.
        self._marked: deque[_Asked] = deque()
        self._blocked: dict[Window, deque[_Part]] = {}
        self._is_closed = False

    def close(self) -> None:
        """This home ends, and would not hear what became of rows that leave from now on: nobody is answered any more.
        Holders keep such rows until they hear of the end, and the next start finds them unsent."""
        self._is_closed = True
        self._blocked.clear()

    def announced(self, worker: int, number: int, page: LedgerPage, rows: Rows) -> None:
        """These rows of the page are about to leave that worker under their channels; the number is answered when it
        may let them."""
        if self._is_closed:
            return
        asked = _Asked(worker, number)
        rows = self._still(page, rows, worker)
        channels = page.channel[rows]
        codes = [] if self._trail is None else np.unique(channels).tolist()
        asked.parts = len(codes)
        if self._trail is None or not codes:
            self._marked.append(asked)
        else:
            for code in codes:
                part = _Part(asked, page, rows[channels == code], Channel(code))
                window = (page.batch.app, code)
                queue = self._blocked.get(window)
                left = part if queue else self._mark(self._trail, part)
                if left is not None:
                    self._blocked.setdefault(window, deque()).append(left)
        self.on_work()

    def answer(self, worker: int, number: int) -> None:
        """Nothing has to be marked for that question."""
        self._marked.append(_Asked(worker, number))
        self.on_work()

    def mark_again(self, page: LedgerPage, rows: Rows, channel: Channel) -> None:
        """Rows that were marked so, and are again in this step of the loop: they keep their room."""
        if self._trail is not None:
            self._trail.mark(page, rows, channel, self.on_work)

    def forget(self, worker: int) -> None:
        """That worker has died: nobody waits for its numbers. Its rows are taken back, and those that were not answered
        for have not left, whatever their marks say."""
        if self._trail is not None:
            blocked = (part.asked for queue in self._blocked.values() for part in queue)
            unanswered = {id(asked): asked for asked in (*self._marked, *blocked) if asked.worker == worker}
            for asked in unanswered.values():
                for page, rows in asked.marked:
                    self._trail.unmark(page, self._still(page, rows, worker))
        self._marked = deque(asked for asked in self._marked if asked.worker != worker)
        for window, queue in list(self._blocked.items()):
            left = deque(part for part in queue if part.asked.worker != worker)
            if left:
                self._blocked[window] = left
            else:
                del self._blocked[window]

    def advance(self) -> list[Answered]:
        """Numbers that may be answered now, each once."""
        if self._trail is not None and self._blocked:
            self._unblock(self._trail)
        found: list[Answered] = []
        while self._marked and (self._trail is None or self._trail.is_durable(self._marked[0].ticket)):
            asked = self._marked.popleft()
            found.append(Answered(asked.worker, asked.number))
        return found

    def _unblock(self, trail: Trail) -> None:
        for window, queue in list(self._blocked.items()):
            while queue:
                left = self._mark(trail, queue[0])
                if left is not None:
                    queue[0] = left
                    break
                queue.popleft()
            if not queue:
                del self._blocked[window]

    def _mark(self, trail: Trail, part: _Part) -> _Part | None:
        """As many of the rows are marked as their window has room for; those that are left."""
        asked, page, rows, channel = part
        state = page.trail
        rows = self._still(page, rows, asked.worker)
        rows = rows[(page.channel[rows] == channel) & ~IS_FINAL[page.state[rows]]]
        left = rows[:0]
        if state is not None and len(rows):
            is_new = state.marked[rows] != int(channel)
            new = rows[is_new]
            room = trail.room(page.batch.app, channel, self.on_work) if len(new) else 0
            left = new[room:]
            marked = np.union1d(rows[~is_new], new[:room])
            if len(marked):
                asked.marked.append((page, marked))
                asked.ticket = max(asked.ticket, trail.mark(page, marked, channel, self.on_work))
        if len(left):
            return part._replace(rows=left)
        asked.parts -= 1
        if not asked.parts:
            self._marked.append(asked)
        return None
