"""Newcomers: connections that have not logged in, and whose turn it is not yet (core/login_turns.py).

What such a connection has said is kept as a begun packet is, under the same limits, and it waits in line with its
descriptor alone. Part of the long-link actor, which owns it; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.login_turns import LoginTurns
from gateway.net.edge import Edge
from gateway.net.edge_table import ConnectionTable, Count
from gateway.wire.mqtt.session import SessionState


class Newcomers:
    """connect_bytes_max: who has said more does not wait; it is refused."""

    def __init__(
        self,
        turns: LoginTurns,
        table: ConnectionTable,
        edge: Edge,
        cpu_clock: Callable[[], float],
        connect_bytes_max: int,
    ) -> None:
        self.turns = turns
        self._table = table
        self._edge = edge
        self._cpu_clock = cpu_clock
        self._connect_bytes_max = connect_bytes_max
        #: Generation by descriptor, in the order in which they came.
        self._waiting: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, let_in: Callable[[int, bytes, float], None], now: float) -> None:
        """Those whose turn it is in this step are let in."""
        waiting, table = self._waiting, self._table
        if not waiting:
            return
        # The end of one is the beginning of the next: the clock is a system call.
        began = self._cpu_clock()
        while waiting and not self.turns.is_over:
            fd = next(iter(waiting))
            if waiting.pop(fd) == table.generation_at[fd] and table.state_at[fd] == SessionState.HANDSHAKING:
                let_in(fd, b"", now)
                ended = self._cpu_clock()
                self.turns.spend(ended - began)
                began = ended

    def take_one(self, let_in: Callable[[int, bytes, float], None], fd: int, data: bytes, now: float) -> bool:
        """This one has said something: it is let in, or waits in line. False: it is no newcomer."""
        if self._table.state_at[fd] != SessionState.HANDSHAKING:
            return False
        if not self._waiting and not self.turns.is_over:
            self._let_in(let_in, fd, data, now)
            return True
        unparsed = self._edge.join_partial(fd, data)
        size = len(unparsed)
        self._edge.keep_partial(fd, unparsed, 0, now)
        generation = self._table.generation_at[fd]
        if size > self._connect_bytes_max:
            self._let_in(let_in, fd, b"", now)
        elif self._waiting.get(fd) != generation:
            # Of an earlier connection of that number nothing is left.
            self._waiting.pop(fd, None)
            self._waiting[fd] = generation
            self._table.count_at[Count.LOGINS_WAITED] += 1
        return True

    def _let_in(self, let_in: Callable[[int, bytes, float], None], fd: int, data: bytes, now: float) -> None:
        began = self._cpu_clock()
        let_in(fd, data, now)
        self.turns.spend(self._cpu_clock() - began)
