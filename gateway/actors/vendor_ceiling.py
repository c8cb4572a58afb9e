"""Ceiling: how many connections to vendors a worker may have, over all apps.

Most apps are quiet most of the time, so there may be more of them than connections. When the ceiling is reached, the
connection that has been idle for longest makes room, whoever's it is. Where none is idle, an app without any
connection gets the least busy one of the app that has most; every app can send, none can keep others out.

Not an actor: plain calls between pools of one worker. Waits for nobody; a pool that found no room is rung when a
connection has gone.
"""

from __future__ import annotations

from typing import Protocol

from gateway.core.reclaiming import Holder, Reclaim, choose


class PoolUnderCeiling(Protocol):
    """What the ceiling needs of a pool; see `actors/vendor_pool.py`."""

    def quietest(self) -> tuple[float, int] | None: ...

    def spare(self) -> int: ...

    def has_none(self) -> bool: ...

    def reclaim(self, number: int | None = None) -> bool: ...

    def ring(self) -> None: ...


class Ceiling:
    """connections_max: connections of all pools, those on their way and those that drain included."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self._pools: list[PoolUnderCeiling] = []
        #: Pools that found no room, in the order in which they asked.
        self._waiting: dict[PoolUnderCeiling, None] = {}
        #: Connections that were told to make room and have not gone yet.
        self._leaving = 0
        self.connections = 0
        #: Connections that had to make room, since start.
        self.reclaimed = 0

    def add(self, pool: PoolUnderCeiling) -> None:
        self._pools.append(pool)

    def take(self, pool: PoolUnderCeiling, now: float) -> bool:
        """True: the pool may open a connection, and it counts from now on. Else the pool waits in line and is rung when
        a connection has gone; whoever is in line must ask again or `withdraw`."""
        before = list(self._waiting)
        place = before.index(pool) if pool in self._waiting else len(before)
        if place < self._connections_max - self.connections:
            self._waiting.pop(pool, None)
            self.connections += 1
            return True
        self._waiting[pool] = None
        if self._leaving < len(self._waiting):
            self._make_room(pool, now)
        return False

    def withdraw(self, pool: PoolUnderCeiling) -> None:
        """The pool needs no further connection now. Idempotent."""
        if pool in self._waiting:
            del self._waiting[pool]
            self._ring_next()

    def give_back(self) -> None:
        """A connection has gone."""
        self.connections -= 1
        self._leaving = max(0, self._leaving - 1)
        self._ring_next()

    def _ring_next(self) -> None:
        if self._waiting and self.connections < self._connections_max:
            next(iter(self._waiting)).ring()

    def _make_room(self, asking: PoolUnderCeiling, now: float) -> None:
        others = [pool for pool in self._pools if pool is not asking]
        holders = [Holder(quietest=pool.quietest(), spare=pool.spare()) for pool in others]
        match choose(holders, has_none=asking.has_none(), now=now):
            case Reclaim(holder=holder, number=number):
                # None of its connections may be open yet: then nobody leaves, and the next who asks tries again.
                if others[holder].reclaim(number):
                    self._leaving += 1
                    self.reclaimed += 1
            case None:
                pass
