"""One request at a vendor: faults, judgement, rate, recording, counting. No sockets, no event loop.

    request --> plan (faults) --> vendor judges --> rate --> recorded and counted --> answer

The plan is drawn when the request arrives; the judgement is made when its latency is over, so that a request that is
still waiting can be refused unprocessed (GOAWAY, REFUSED_STREAM) without ever having been recorded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bench.simulators.clock import Clock
from bench.simulators.counts import Counts
from bench.simulators.fates import Fates
from bench.simulators.fault_kinds import ErrorShare, Goaway, RefusedStream, ResetSocket, Throttle, TlsAbort
from bench.simulators.faults import NO_FAULT, FaultScript, Plan
from bench.simulators.rate import TokenBucket
from bench.simulators.receipts import Courier, Due
from bench.simulators.received import Message, Received

Header = tuple[bytes, bytes]
BODY_BYTES_MAX = 65_536  # kept of one request body where a request has one target; the rest is counted, thrown away
LOGGED_BODY_BYTES_MAX = 4_096  # of each request kept for GET /requests
FLOOD_FIELD_BYTES = 1_024  # of one field of a header flood, name and value


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came. Header names are lower case and without pseudo headers, duplicates kept.

    `body` may have been cut by the reader; `body_bytes` is the full size.
    """

    method: str
    path: str
    headers: tuple[Header, ...]
    body: bytes
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The vendor's answer. `reason` is empty for success; `why` is for the reader of GET /refused, never for the wire.

    rows: what is recorded when the request was accepted; empty for calls that carry no notification.
    receipts: what the vendor will report of those rows, and of others that it took without an error.
    row_reasons: rows of an accepted request that were refused, by the vendor's word.
    is_bond_broken: the connection shall end after this answer.
    """

    status: int
    headers: tuple[Header, ...] = ()
    body: bytes = b""
    reason: str = ""
    why: str = ""
    rows: tuple[Message, ...] = ()
    receipts: tuple[Due, ...] = ()
    row_reasons: Mapping[str, int] | None = None
    is_bond_broken: bool = False

    @property
    def is_success(self) -> bool:
        """Whether the vendor took the request; many answer an error with status 200 and a code in the body."""
        return self.status < 300 and not self.reason

    def without_rows(self) -> Answer:
        """The same answer to a request that is repeated: nothing is taken, nothing is reported."""
        return replace(self, rows=(), receipts=(), row_reasons=None)


class Vendor(Protocol):
    """What a vendor file provides. `bond` is the vendor's memory of one connection, opaque to the rest."""

    name: str
    fates: Fates
    body_bytes_max: int  # of a request; a longer one is cut (HTTP/2) or answered 413 (HTTP/1.1)

    def new_bond(self, certificate_topics: frozenset[str]) -> Any:
        """Memory for a connection that begins now. certificate_topics: of the client's certificate, if it has one."""

    def call_of(self, request: Request) -> str:
        """ "send", "save" (the first step of two) or "oauth"."""

    def judge(self, request: Request, bond: Any) -> Answer:
        """The answer to `request` by the vendor's document; never raises for bad input."""

    def error(self, status: int, reason: str, request: Request, retry_after_s: int | None) -> Answer:
        """An error answer in the vendor's own form, whatever the request."""

    def throttled(self, request: Request, retry_after_s: int | None) -> Answer:
        """The vendor's 429 for too high a rate."""

    def shutdown(self, request: Request) -> Answer:
        """The vendor's answer while it goes away."""

    def idle(self, request: Request) -> Answer:
        """The vendor's answer to a request whose end does not come."""

    def goaway_data(self, reason: str) -> bytes:
        """Debug data of a GOAWAY frame."""

    def reset(self) -> None:
        """What was learnt since the start (credentials issued, devices counted) is forgotten."""


@dataclass(slots=True)
class Exchange:
    """Everything one simulator knows beside its sockets.

    bucket: the vendor's rate, by the injected clock; `retry_after` says whether its 429 carries Retry-After.
    recent, refused: the last requests and the last refusals, newest last; bounded by their maxlen.
    """

    vendor: Vendor
    script: FaultScript
    received: Received
    counts: Counts
    clock: Clock
    bucket: TokenBucket
    has_retry_after: bool
    recent: deque[dict[str, Any]]
    refused: deque[dict[str, Any]]
    monotonic: Callable[[], float] = time.monotonic
    is_shutting_down: bool = False
    courier: Courier | None = None

    def plan(self, request: Request) -> Plan:
        """What the faults in force do to this request. Call once, when the request has arrived."""
        return self.script.on_request(self.vendor.call_of(request), self.monotonic())

    def judge(self, request: Request, bond: Any, plan: Plan) -> Answer | None:
        """The answer, with everything recorded and counted; None when the plan has the request not even looked at."""
        instead = plan.instead
        if (
            isinstance(instead, RefusedStream)
            or (isinstance(instead, Goaway) and instead.form == "zero")
            or (isinstance(instead, ResetSocket | TlsAbort) and not instead.recorded)
        ):
            self.counts.outcomes["not_looked_at"] += 1
            return None
        answer = self._answer(request, bond, plan)
        self._log(request, answer)
        self._count(request, answer, plan)
        if answer.is_success and (answer.rows or answer.receipts):
            self._take_in(answer, plan)
        return replace(answer, headers=answer.headers + flood(plan.flood_bytes)) if plan.flood_bytes else answer

    def idle(self, request: Request) -> Answer:
        """The vendor's answer to a request whose end did not come in time; logged and counted."""
        answer = self.vendor.idle(request)
        self._log(request, answer)
        self._count(request, answer, NO_FAULT)
        return answer

    def reset(self) -> None:
        """Counts, logs, rows, faults and what the vendor learnt are gone; the clock and the connections stay."""
        self.script.disarm(None)
        self.received.reset()
        self.counts.reset()
        self.recent.clear()
        self.refused.clear()
        self.vendor.reset()
        if self.courier is not None:
            self.courier.reset()

    def _take_in(self, answer: Answer, plan: Plan) -> None:
        """The rows of an accepted request are recorded as the plan wants it, and their receipts are on their way."""
        arrived_unix_ms = int(self.clock.now_unix_s() * 1000)
        n_dropped = n_doubled = 0
        lost_tokens = set()
        for row in answer.rows:
            if plan.is_dropped and self.script.is_row_hit(plan.dropped_row_share):
                n_dropped += 1
                lost_tokens.add(row.token)
                continue
            is_doubled = plan.is_doubled and self.script.is_row_hit(plan.doubled_row_share)
            n_doubled += is_doubled
            for _ in range(2 if is_doubled else 1):
                self.received.add(row, arrived_unix_ms)
        counts = {"accepted": len(answer.rows) - n_dropped - n_doubled, "dropped": n_dropped, "doubled": n_doubled}
        self.counts.rows.update({name: count for name, count in counts.items() if count})
        if self.courier is not None:
            self.courier.offer([due for due in answer.receipts if due.token not in lost_tokens])

    def _answer(self, request: Request, bond: Any, plan: Plan) -> Answer:
        if self.is_shutting_down:
            return self.vendor.shutdown(request)
        match plan.instead:
            case ErrorShare(status=status, reason=reason, retry_after_s=retry_after_s):
                return self.vendor.error(status, reason, request, retry_after_s)
            case Throttle(retry_after_s=retry_after_s):
                return self.vendor.throttled(request, retry_after_s)
            case _:
                pass
        answer = self.vendor.judge(request, bond)
        if answer.is_success and answer.rows:
            wait_s = self.bucket.take(self.clock.now_unix_s())
            if wait_s > 0:
                return self.vendor.throttled(request, max(1, round(wait_s)) if self.has_retry_after else None)
        return answer

    def _count(self, request: Request, answer: Answer, plan: Plan) -> None:
        if isinstance(plan.instead, ErrorShare | Throttle):
            outcome = "error_by_fault"
        elif not answer.is_success:
            outcome = "refused"
        elif not answer.rows:
            call = self.vendor.call_of(request)
            outcome = (
                "other_calls" if call == "send" and not answer.receipts else "accepted" if call == "send" else call
            )
        else:
            outcome = "dropped" if plan.is_dropped else "doubled" if plan.is_doubled else "accepted"
        self.counts.outcomes[outcome] += 1
        if answer.reason:
            self.counts.reasons[f"{answer.status} {answer.reason}"] += 1
        for reason, count in (answer.row_reasons or {}).items():
            self.counts.rows[f"refused {reason}"] += count

    def _log(self, request: Request, answer: Answer) -> None:
        if not self.recent.maxlen:
            return
        is_secret = self.vendor.call_of(request) == "oauth"
        entry = {
            "unix_ms": int(self.clock.now_unix_s() * 1000),
            "method": request.method,
            "path": request.path,
            "headers": request.headers,
            "body": b"not shown: a credential" if is_secret else request.body[:LOGGED_BODY_BYTES_MAX],
            "body_bytes": request.body_bytes,
            "status": answer.status,
            "reason": answer.reason,
            "why": answer.why,
        }
        self.recent.append(entry)
        if not answer.is_success:
            self.refused.append(entry)


def flood(n_bytes: int) -> tuple[Header, ...]:
    """Fields of n_bytes in all, names and values, of a letter whose Huffman code has eight bits too."""
    fields: list[Header] = []
    while n_bytes > 0:
        name = b"x-flood-%d" % len(fields)
        fields.append((name, b"Z" * max(0, min(n_bytes, FLOOD_FIELD_BYTES) - len(name))))
        n_bytes -= FLOOD_FIELD_BYTES
    return tuple(fields)
