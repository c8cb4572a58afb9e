"""Rows that the edge has taken in one call and writes in several, so that a call of many rows fits into steps.

    deliver (entries, packets: once for all rows) --add--> backlog --send(rows_max), a turn of the loop each--> sockets

What a call costs beside its rows (some 250 us, twice that in a cold cache) is as much as fifty rows' system calls;
steps of a millisecond, each with a call of its own, spent a third of it so. Rows leave in the order in which they came,
so that a device gets its own in theirs. A row whose connection has ended meanwhile is left out: its descriptor may be
another's. Its entry came back with the connection. One that its socket does not take is pending output, as a control
packet is: a reader too slow for it is closed, and its rows come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gateway.columns import I32, U8, U32
from gateway.net.edge_calls import EdgeCalls
from gateway.net.edge_table import ConnectionTable

#: What may wait; beyond it rows are written in the step in which they come. The router's calls have 1,600 rows and a
#: mebibyte at most, and it makes none while rows wait; others (inbox, sessions that come back) make theirs beside it.
BACKLOG_ROWS_MAX = 4_096
BACKLOG_BYTES_MAX = 4 << 20


class _Rows(NamedTuple):
    """packets: (n, width) C-contiguous, or n of them. n_ended: connections that had ended when all of these lived."""

    fds: I32
    generations: U32
    packets: U8 | list[bytes]
    n_ended: int

    def take(self, which: slice) -> _Rows:
        return _Rows(self.fds[which], self.generations[which], self.packets[which], self.n_ended)

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.packets)) if isinstance(self.packets, list) else self.packets.size


class WriteBacklog:
    """Owned by the edge. write_one: takes a row that its socket did not."""

    def __init__(
        self, table: ConnectionTable, calls: EdgeCalls, write_one: Callable[[int, bytes, float], None]
    ) -> None:
        self._table = table
        self._calls = calls
        self._write_one = write_one
        self._waiting: deque[_Rows] = deque()
        self._rows = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._rows

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def clear(self) -> None:
        """All connections are closed."""
        self._waiting.clear()
        self._rows = self._bytes = 0

    def add(self, fds: I32, generations: U32, packets: U8 | list[bytes], now: float) -> None:
        """One packet per connection, no connection twice, each written when those before it were. What is too much is
        written now."""
        rows = _Rows(fds, generations, packets, self._table.n_ended)
        self._waiting.append(rows)
        self._rows += len(fds)
        self._bytes += rows.size_bytes
        while self._rows > BACKLOG_ROWS_MAX or self._bytes > BACKLOG_BYTES_MAX:
            self.send(len(self._waiting[0].fds), now)

    def send(self, rows_max: int, now: float) -> int:
        """Writes up to so many rows of the call that came first; how many left the backlog."""
        if not self._waiting:
            return 0
        rows = self._waiting[0]
        if len(rows.fds) > rows_max:
            self._waiting[0] = rows.take(slice(rows_max, None))
            rows = rows.take(slice(rows_max))
        else:
            self._waiting.popleft()
        n = len(rows.fds)
        self._rows -= n
        self._bytes -= rows.size_bytes
        fds, packets = rows.fds, rows.packets
        if self._table.n_ended != rows.n_ended:
            # Some of all connections have ended since.
            live = self._table.is_live(fds, rows.generations)
            if np.count_nonzero(live) < n:
                kept = np.flatnonzero(live)
                fds = fds[kept]
                packets = [packets[at] for at in kept.tolist()] if isinstance(packets, list) else packets[kept]
        for position in self._calls.write(fds, packets, now):
            self._write_one(int(fds[position]), bytes(packets[position]), now)
        return n
