"""Stopping: what a stopped task's rows do from then on. Decisions over columns.

    queued, held, waiting (retry, hand-over)             -> cancelled, now
    taken by a vendor, waiting for a receipt (fallback)  -> vendor_accepted: it went out, and goes on nowhere
    in flight                                            -> its answer ends it; if the row would go on, it is cancelled
    final                                                -> stays as it is

`LedgerPage.stopped` keeps the second line: whoever brings rows back from an attempt asks `go_on` which of them may take
another. A row that left the long link unacknowledged, or was sent again after an uncertain end, keeps the flag that
says so: cancelled, and its device may have seen it all the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gateway.columns import Bool, Rows
from gateway.errors import GatewayError
from gateway.ledger import Flag, LedgerPage, Reason, State
from gateway.message_id import to_text

if TYPE_CHECKING:
    from gateway.core.home import Home

#: States in which nobody has the row in flight.
STOPPABLE: Bool = np.array([state in (State.QUEUED, State.HELD, State.WAITING) for state in State], np.bool_)
_MAY_HAVE_ARRIVED = np.uint8(Flag.HANDED_OVER | Flag.RESENT_UNCERTAIN)


class TaskStopped(GatewayError):
    """The caller submits to a task that was stopped."""

    def __init__(self, task_id: bytes, stopped_unix_ms: int) -> None:
        self.stopped_unix_ms = stopped_unix_ms
        at = datetime.fromtimestamp(stopped_unix_ms // 1000, UTC)
        super().__init__(f"task {to_text(task_id)} was stopped at {at:%Y-%m-%d %H:%M:%S} UTC")


class Stopped(NamedTuple):
    """Rows that one stop has cancelled. may_have_arrived: of them, those whose device may have seen an earlier attempt.
    held: those that were in the inbox, which is to be told."""

    cancelled: int
    may_have_arrived: int
    held: Rows


def stop_rows(home: Home, page: LedgerPage, rows: Rows, now: float) -> Stopped:
    """Those of the rows that are here and nobody has in flight are CANCELLED; the others make no further attempt."""
    if page.stopped is None:
        page.stopped = np.zeros(page.n, np.bool_)
    page.stopped[rows] = True
    states = page.state[rows]
    ends = STOPPABLE[states]
    if page.away is not None:
        # Their holder ends them, and says so.
        ends &= page.away[rows] == 0
    # A vendor took them, and only their chain was waiting: they went out.
    taken = ends & (states == State.WAITING) & (page.reason[rows] == Reason.FALLBACK)
    home.move(page, rows[taken], State.VENDOR_ACCEPTED, Reason.NONE, now)
    ends &= ~taken
    ended = rows[ends]
    held = rows[ends & (states == State.HELD)]
    home.move(page, ended, State.CANCELLED, Reason.STOPPED, now)
    seen = int(np.count_nonzero(page.flags[ended] & _MAY_HAVE_ARRIVED))
    return Stopped(len(ended), seen, held)


def go_on(home: Home, page: LedgerPage, rows: Rows, now: float) -> Rows:
    """Of rows that came back QUEUED or WAITING, those that may take another attempt; rows of a stopped task end."""
    if page.stopped is None or not len(rows):
        return rows
    is_stopped = page.stopped[rows]
    home.move(page, rows[is_stopped], State.CANCELLED, Reason.STOPPED, now)
    return rows[~is_stopped]


def unsettled(page: LedgerPage, first: int, stop: int) -> bool:
    """Rows of the span are with other workers, which have not said yet that they ended or are in flight."""
    if page.away is None:
        return False
    return bool((STOPPABLE[page.state[first:stop]] & (page.away[first:stop] != 0)).any())


class StoppedTasks:
    """Which tasks take no rows any more: the newest `tasks_max` that were stopped."""

    def __init__(self, tasks_max: int) -> None:
        self._tasks_max = tasks_max
        self._at: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, task_id: bytes) -> bool:
        return task_id in self._at

    def add(self, task_id: bytes, unix_ms: int) -> bool:
        """The task is stopped; False where it was before, and stays stopped since then."""
        if task_id in self._at:
            return False
        self._at[task_id] = unix_ms
        while len(self._at) > self._tasks_max:
            self._at.popitem(last=False)
        return True

    def check(self, task_id: bytes) -> None:
        """Raises TaskStopped."""
        at = self._at.get(task_id)
        if at is not None:
            raise TaskStopped(task_id, at)

    def of(self, task_ids: Iterable[bytes]) -> frozenset[bytes]:
        """Those of the tasks that are stopped."""
        return frozenset(self._at.keys() & set(task_ids)) if self._at else frozenset()
