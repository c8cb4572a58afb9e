"""ProbeLane: the half of a lane that sends to unproven tokens, over probe connections (core/probing.py tells why).

It is a lane like any other (queue, bucket, credential, retry wheel), with three differences: its rows come from the
other half and not from the router; its pool is a `ProbeWay`, which shows it probe connections only, until a row has
waited too long; and what the vendor accepts is proven afterwards, a call per burst. So the other half pays for probing
with one comparison per row, made where the device's record is read anyway.

Waits for: as a lane. Is waited for by: nobody (it takes over every row; the lane's limit counts both halves).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from gateway.actors.lane import LaneActor
from gateway.actors.vendor_pool import LanePort, Role, VendorPool
from gateway.clock import Clock
from gateway.columns import I64, U8, Rows
from gateway.core.probing import ProbeBacklog
from gateway.ledger import LedgerPage, Reason
from gateway.vendor import Requests
from gateway.verdict import Answer, Verdict


class ProbeObserver(Protocol):
    """Metrics; called per burst."""

    def probed(self, rows: int) -> None: ...

    def probe_wait_over(self, rows: int) -> None: ...


class ProbeWay:
    """A pool as its probe lane sees it: probe connections, and the normal ones for rows that have waited too long.

    One per probe lane. wait_s: how long a row waits for a probe at most.
    """

    def __init__(self, pool: VendorPool, *, wait_s: float, clock: Clock, observer: ProbeObserver) -> None:
        self._pool = pool
        self._clock = clock
        self._observer = observer
        self._backlog = ProbeBacklog(wait_s)
        self._lane: ProbeLane

    def add_lane(self, lane: LanePort) -> int:
        assert isinstance(lane, ProbeLane)
        self._lane = lane
        return self._pool.add_lane(lane, Role.PROBE)

    def on_entered(self, rows: int) -> None:
        self._backlog.on_entered(rows, self._clock.monotonic())

    def next_deadline(self) -> float:
        """When the first waiting row may take a normal connection; `math.inf` if one may now, or none waits."""
        now = self._clock.monotonic()
        deadline = self._backlog.next_deadline(self._lane.waiting_rows, now)
        return deadline if deadline > now else math.inf

    def capacity(self, wanted: int) -> int:
        room = self._pool.capacity(wanted, Role.PROBE)
        if room:
            return room
        overdue = self._overdue()
        return min(overdue, self._pool.capacity(min(wanted, overdue))) if overdue else 0

    def send(self, requests: Requests, start: int, tags: I64, deadline: float) -> tuple[int, int]:
        taken, number = self._pool.send(requests, start, tags, deadline, Role.PROBE)
        if taken:
            self._observer.probed(taken)
            return taken, number
        overdue = self._overdue()
        if overdue:
            taken, number = self._pool.send(requests, start, tags[:overdue], deadline)
            self._observer.probe_wait_over(taken)
        return taken, number

    def _overdue(self) -> int:
        return self._backlog.overdue(self._lane.waiting_rows, self._clock.monotonic())

    # the rest is the pool's

    @property
    def not_before(self) -> float:
        return self._pool.not_before

    @property
    def gate_reason(self) -> Reason:
        return self._pool.gate_reason

    @property
    def is_ready(self) -> bool:
        return self._pool.is_ready

    def close_gate(self, until: float, reason: Reason) -> None:
        self._pool.close_gate(until, reason)

    def replace_connection(self, number: int) -> None:
        self._pool.replace_connection(number)


class ProbeLane(LaneActor):
    """main: the half whose unproven rows it takes. The rest as `LaneActor`."""

    def __init__(self, *, main: LaneActor, way: ProbeWay, **settings: Any) -> None:
        super().__init__(pool=way, **settings)
        self._way = way
        self._main = main
        main.probes = self

    def take_over(self, page: LedgerPage, rows: Rows) -> None:
        """These rows, taken from the other half's queue, wait here for a probe."""
        self._way.on_entered(len(rows))
        self.lane.append(page, rows)
        self._bell.ring()

    def _offer_all(self, page: LedgerPage, rows: Rows) -> None:
        """Rows whose retry is due begin to wait for a probe anew."""
        self._way.on_entered(len(rows))
        super()._offer_all(page, rows)

    def _next_send(self) -> float:
        return min(super()._next_send(), self._way.next_deadline())

    def _settle_accepted(self, number: int, first: int, stop: int) -> None:
        flight = self._bursts[number]
        self._router.tokens_proven(flight.page, flight.rows[first:stop])
        super()._settle_accepted(number, first, stop)

    def _settle_burst(self, number: int, places: Rows, verdicts: U8, answers: dict[int, Answer]) -> None:
        flight = self._bursts[number]
        accepted = flight.rows[places[np.flatnonzero(verdicts == Verdict.ACCEPTED)]]
        if len(accepted):
            self._router.tokens_proven(flight.page, accepted)
        super()._settle_burst(number, places, verdicts, answers)
