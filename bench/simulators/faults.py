"""The fault script machine: which armed faults hit the request, connection or handshake that comes now.

Time and chance are arguments; the socket side asks and carries out.

    armed --after_s--> in force --for_s over, for_requests used up, or deleted--> gone

Faults are asked in the order in which they were armed. Those that replace the answer exclude each other (the first
that hits wins); latency, header flood, drop and double combine with whatever else hits.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from bench.simulators.fault_kinds import (
    CONNECTION_KINDS,
    STATE_KINDS,
    Certificate,
    Double,
    Drop,
    Errors,
    ErrorShare,
    Fault,
    Goaway,
    HalfOpen,
    HeaderFlood,
    Latency,
    Malformed,
    NoAnswer,
    RefusedStream,
    ResetSocket,
    ResetStream,
    StopReading,
    StreamLimit,
    Throttle,
    TlsAbort,
    Windows,
    check_fault,
    kind_of,
)

FAULTS_MAX = 64  # armed at once; each request asks them all
Instead = ErrorShare | Throttle | RefusedStream | ResetStream | NoAnswer | Goaway | ResetSocket | TlsAbort | Malformed


@dataclass(slots=True)
class Armed:
    """One fault with its window in monotonic seconds and the number of hits it has left (None = any)."""

    fault_id: int
    fault: Fault
    begins: float
    ends: float
    hits_left: int | None


@dataclass(slots=True)
class Plan:
    """What happens to one request. `instead` replaces or follows the judgement; see Instead and fault_kinds.

    dropped_row_share, doubled_row_share: of the rows of a request that is dropped or doubled, so many are hit.
    flood_bytes: so much of header fields goes with the answer beside its own.
    """

    latency_s: float = 0.0
    instead: Instead | None = None
    is_dropped: bool = False
    is_doubled: bool = False
    dropped_row_share: float = 1.0
    doubled_row_share: float = 1.0
    flood_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Mode:
    """The state a simulator is held in: stream limit (None = its own), reading stopped, half open."""

    stream_limit: int | None = None
    is_reading_stopped: bool = False
    is_half_open: bool = False


BeginT = TypeVar("BeginT", Windows, Certificate)
NO_FAULT = Plan()  # shared by all requests while nothing is armed: nobody may change it


class FaultScript:
    """Armed faults of one simulator.

    Args:
        chance: source of randomness; seeded by the config, so that a run can be repeated.
        applied: counter by kind, raised with each hit.
    """

    def __init__(self, chance: random.Random, applied: Counter[str]) -> None:
        self._chance = chance
        self._applied = applied
        self._armed: list[Armed] = []
        self._next_id = 1

    def arm(self, fault: Fault, now: float) -> int:
        """`fault` is armed; returns its id.

        Raises:
            ValueError: a field is out of range, or FAULTS_MAX are armed.
        """
        check_fault(fault)
        if len(self._armed) >= FAULTS_MAX:
            raise ValueError(f"{len(self._armed)} faults are armed, limit {FAULTS_MAX}")
        begins = now + fault.after_s
        ends = math.inf if fault.for_s is None else begins + fault.for_s
        self._armed.append(Armed(self._next_id, fault, begins, ends, fault.for_requests))
        self._next_id += 1
        return self._next_id - 1

    def disarm(self, fault_id: int | None) -> int:
        """The fault with this id, or every fault for None, is gone; returns how many were."""
        kept = [armed for armed in self._armed if fault_id is not None and armed.fault_id != fault_id]
        count = len(self._armed) - len(kept)
        self._armed = kept
        return count

    def on_request(self, call: str, now: float) -> Plan:
        """The plan for the request that has just arrived; hits are counted and used up.

        Args:
            call: "send", "save" or "oauth"; a fault hits the calls named by its `applies_to`.
        """
        if not self._armed:
            return NO_FAULT
        plan = Plan()
        for armed in self._in_force(now):
            fault = armed.fault
            if isinstance(fault, (*CONNECTION_KINDS, StopReading, HalfOpen)) or fault.applies_to not in (call, "any"):
                continue
            if isinstance(fault, StreamLimit):
                self._use_up(armed)
            elif plan.instead is not None and not isinstance(fault, (Latency, HeaderFlood, Drop, Double)):
                continue
            elif self._is_hit(fault):
                self._apply(fault, plan)
                self._use_up(armed)
        return plan

    def is_row_hit(self, row_share: float) -> bool:
        """Whether one row of a request is hit by a fault that takes this share of its rows."""
        return row_share >= 1 or self._chance.random() < row_share

    def on_connection(self, now: float) -> Windows | None:
        """The windows fault for a connection that begins now, if one hits it."""
        return self._first_of(Windows, now)

    def on_handshake(self, now: float) -> Certificate | None:
        """The certificate fault for a handshake that begins now, if one hits it."""
        return self._first_of(Certificate, now)

    def mode(self, now: float) -> Mode:
        """The state that the faults in force hold the simulator in; of several stream limits the lowest."""
        limits = []
        is_reading_stopped = is_half_open = False
        for armed in self._in_force(now):
            match armed.fault:
                case StreamLimit(limit=limit):
                    limits.append(limit)
                case StopReading():
                    is_reading_stopped = True
                case HalfOpen():
                    is_half_open = True
                case _:
                    pass
        return Mode(min(limits, default=None), is_reading_stopped, is_half_open)

    def next_deadline(self, now: float) -> float | None:
        """Monotonic second at which a fault begins or ends next, so that `mode` must be asked again."""
        moments = [
            moment
            for armed in self._armed
            if isinstance(armed.fault, STATE_KINDS)
            for moment in (armed.begins, armed.ends)
            if now < moment < math.inf
        ]
        return min(moments, default=None)

    def statistics(self, now: float) -> list[dict[str, Any]]:
        """Armed faults as JSON objects with id, whether in force, and what is left of each."""
        self._forget_ended(now)
        return [
            {
                "id": armed.fault_id,
                "fault": msgspec.to_builtins(armed.fault),
                "is_in_force": armed.begins <= now,
                "seconds_left": None if armed.ends == math.inf else round(armed.ends - now, 3),
                "requests_left": armed.hits_left,
            }
            for armed in self._armed
        ]

    def _in_force(self, now: float) -> list[Armed]:
        self._forget_ended(now)
        return [armed for armed in self._armed if armed.begins <= now]

    def _forget_ended(self, now: float) -> None:
        if any(armed.ends <= now for armed in self._armed):
            self._armed = [armed for armed in self._armed if armed.ends > now]

    def _is_hit(self, fault: Fault) -> bool:
        return fault.share >= 1 or self._chance.random() < fault.share

    def _first_of(self, kind: type[BeginT], now: float) -> BeginT | None:
        for armed in self._in_force(now):
            if isinstance(armed.fault, kind) and self._is_hit(armed.fault):
                self._use_up(armed)
                return armed.fault
        return None

    def _use_up(self, armed: Armed) -> None:
        self._applied[kind_of(armed.fault)] += 1
        if armed.hits_left is not None:
            armed.hits_left -= 1
            if armed.hits_left <= 0:
                self._armed.remove(armed)

    def _apply(self, fault: Fault, plan: Plan) -> None:
        match fault:
            case Latency():
                plan.latency_s += self._draw_latency_s(fault)
            case Errors():
                plan.instead = self._draw_error(fault)
            case Drop(row_share=row_share):
                plan.is_dropped, plan.dropped_row_share = True, row_share
            case Double(row_share=row_share):
                plan.is_doubled, plan.doubled_row_share = True, row_share
            case HeaderFlood():
                plan.flood_bytes += fault.bytes
            case Throttle() | RefusedStream() | ResetStream() | NoAnswer() | Goaway():
                plan.instead = fault
            case ResetSocket() | TlsAbort() | Malformed():
                plan.instead = fault
            case _:
                raise AssertionError(f"{kind_of(fault)} is not applied to requests")

    def _draw_error(self, fault: Errors) -> ErrorShare | None:
        position = self._chance.random()
        for line in fault.mix:
            position -= line.share
            if position < 0:
                return line
        return None

    def _draw_latency_s(self, fault: Latency) -> float:
        match fault.distribution:
            case "fixed":
                ms = fault.ms
            case "uniform":
                ms = self._chance.uniform(fault.ms, fault.ms_max if fault.ms_max is not None else fault.ms)
            case "lognormal":
                ms = self._chance.lognormvariate(math.log(fault.ms), fault.sigma) if fault.ms > 0 else 0.0
        ms += self._chance.uniform(0, fault.jitter_ms) if fault.jitter_ms else 0.0
        return (ms if fault.ms_max is None else min(ms, fault.ms_max)) / 1000
