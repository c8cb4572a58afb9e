"""Open streams as columns, one row per stream, in the order of their ids.

Client ids only grow (RFC 9113 section 5.1.1), so appending keeps the table sorted and a look-up of many ids is one
`searchsorted`. A finished row stays as a gap until the table is full; then the open rows move together. The table
is therefore never larger than about twice what was open at once: one stream that is never answered costs one row,
where a ring indexed by stream id would grow with every stream opened after it.
"""

from __future__ import annotations

import math
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from gateway.columns import I64

#: The row is free: nothing of the stream is left.
CLOSED = 0
#: All of the request is in the out-buffer, nothing of the answer has come.
SENT = 1
#: Part of the body waits for a window. A head may have come all the same.
UPLOADING = 2
#: All is sent and the response head has come, but not the end of the answer.
HEADED = 3

#: Rows of the table: a slice where they are neighbours.
Positions: TypeAlias = I64 | slice

_ROWS_START = 64


class InFlight:
    """ids: (cap,) int64 ascending. tags: (cap,) int64. deadlines: (cap,) float64, monotonic s. states: (cap,) uint8.
    heads: (cap,) object, the response head once it came. All owned; the first `_used` rows count."""

    __slots__ = ("_capacity", "_earliest", "_used", "deadlines", "heads", "ids", "open_count", "states", "tags")

    def __init__(self) -> None:
        self._capacity = _ROWS_START
        self._used = 0
        self._earliest = math.inf
        self.open_count = 0
        self.ids = np.zeros(_ROWS_START, np.int64)
        self.tags = np.zeros(_ROWS_START, np.int64)
        self.deadlines = np.zeros(_ROWS_START, np.float64)
        self.states = np.zeros(_ROWS_START, np.uint8)
        self.heads = np.full(_ROWS_START, None, object)

    def append(self, first_id: int, tags: I64, deadline: float, state: int = SENT) -> None:
        """Streams first_id, first_id + 2, ... are open; first_id is above all before."""
        n = len(tags)
        if self._used + n > self._capacity:
            self._make_room(n)
        at, end = self._used, self._used + n
        self.ids[at:end] = np.arange(first_id, first_id + 2 * n, 2)
        self.tags[at:end] = tags
        self.deadlines[at:end] = deadline
        self.states[at:end] = state
        self._used = end
        self.open_count += n
        self._earliest = min(self._earliest, deadline)

    def find(self, ids: I64) -> Positions | None:
        """Positions of open streams in the order of ids, or None when any of the ids is not open. ids: (m,) with m > 0,
        in any order; a slice means that they are distinct."""
        used = self._used
        n = len(ids)
        first = int(self.ids[:used].searchsorted(ids[0]))
        # Most peers answer in order: then the rows are neighbours.
        if first + n <= used and self.ids[first : first + n].tobytes() == ids.tobytes():
            at: Positions = slice(first, first + n)
            return at if CLOSED not in self.states[at].tobytes() else None
        if used == 0:
            return None
        found = np.searchsorted(self.ids[:used], ids)
        if int(found.max()) >= used or not (self.ids[found] == ids).all() or not self.states[found].all():
            return None
        return found

    def are_all(self, positions: Positions, state: int) -> bool:
        states = self.states[positions].tobytes()
        return states.count(state) == len(states)

    def set_head(self, positions: Positions, head: object) -> None:
        """The response head of streams whose request is sent and whose head had not come."""
        self.heads[positions] = head
        self.states[positions] = HEADED

    def end_upload(self, position: int) -> None:
        self.states[position] = SENT if self.heads[position] is None else HEADED

    def find_one(self, stream_id: int) -> int:
        """The position of an open stream, or -1."""
        used = self._used
        at = int(self.ids[:used].searchsorted(stream_id))
        if at < used and self.ids[at] == stream_id and self.states[at] != CLOSED:
            return at
        return -1

    def close(self, positions: Positions) -> I64:
        """The streams are gone. Positions are open and distinct. Returns their tags, (m,) int64, a copy."""
        tags = self.tags[positions].copy() if isinstance(positions, slice) else self.tags[positions]
        self.states[positions] = CLOSED
        self.heads[positions] = None
        self.open_count -= len(tags)
        if self.open_count == 0:
            self._used = 0
            self._earliest = math.inf
        return tags

    def open_positions(self) -> I64:
        return np.flatnonzero(self.states[: self._used])

    def open_above(self, stream_id: int) -> I64:
        """Positions of open streams with an id above the given one."""
        first = int(np.searchsorted(self.ids[: self._used], stream_id, side="right"))
        return np.flatnonzero(self.states[first : self._used]) + first

    def next_deadline(self) -> float:
        """Not later than the earliest deadline of an open stream; infinite when there is none.

        A lower bound: closing does not look for the next one, `expired` does.
        """
        return self._earliest

    def expired(self, now: float) -> I64:
        """Positions of open streams whose deadline is reached; afterwards `next_deadline` is exact for the others."""
        if now < self._earliest:
            return np.zeros(0, np.int64)
        at = self.open_positions()
        deadlines = self.deadlines[at]
        is_late = deadlines <= now
        rest = deadlines[~is_late]
        self._earliest = float(rest.min()) if len(rest) else math.inf
        return at[is_late]

    def _make_room(self, n: int) -> None:
        keep = self.open_positions()
        count = len(keep)
        capacity = self._capacity
        # Half of the table stays free after a move, so that the moves cost each stream a constant.
        while 2 * count + n > capacity:
            capacity *= 2
        if capacity >= 4 * _ROWS_START and 8 * (count + n) < capacity:
            capacity //= 2
        self.ids = _moved(self.ids, keep, capacity)
        self.tags = _moved(self.tags, keep, capacity)
        self.deadlines = _moved(self.deadlines, keep, capacity)
        self.states = _moved(self.states, keep, capacity)
        heads = np.full(capacity, None, object)
        heads[:count] = self.heads[keep]
        self.heads = heads
        self._capacity = capacity
        self._used = count


_Scalar = TypeVar("_Scalar", np.int64, np.float64, np.uint8)


def _moved(column: npt.NDArray[_Scalar], keep: I64, capacity: int) -> npt.NDArray[_Scalar]:
    out = np.zeros(capacity, column.dtype)
    out[: len(keep)] = column[keep]
    return out
