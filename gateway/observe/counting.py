"""Observers: what actors report, as metrics and log lines. One small class per actor, each call cheap per slice.

Actors know these only by the protocols in their own files; metrics never drive logic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gateway.columns import U8, Rows
from gateway.errors import CloseReason
from gateway.ledger import Channel, Flag, LedgerPage, Reason, State
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.verdict import Verdict


class HomeCounts:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def moved(self, page: LedgerPage, rows: Rows, to: State, reason: Reason | U8) -> None:
        metrics = self._metrics
        channels = np.bincount(page.channel[rows], minlength=len(Channel))
        for channel in np.flatnonzero(channels).tolist():
            metrics.row_moves.add(int(channels[channel]), channel, to)
        if isinstance(reason, Reason):
            if reason:
                metrics.row_reasons.add(len(rows), reason)
        else:
            reasons = np.bincount(reason)
            for code in np.flatnonzero(reasons).tolist():
                if code:
                    metrics.row_reasons.add(int(reasons[code]), code)
        if to is State.DROPPED and reason is Reason.DUPLICATE_TARGET:
            metrics.rows_duplicate.add(len(rows))
        if to is State.UNCERTAIN:
            for channel in np.flatnonzero(channels).tolist():
                metrics.rows_uncertain.add(int(channels[channel]), channel)

    def finished(self, page: LedgerPage, rows: Rows, now: float) -> None:
        """Latency of rows that reached somebody; all rows of one move end at one moment."""
        states = page.state[rows]
        good = (states == State.DEVICE_ACKED) | (states == State.VENDOR_ACCEPTED)
        good &= (page.flags[rows] & Flag.WAITED_OFFLINE) == 0
        counts = np.bincount(page.channel[rows][good], minlength=len(Channel))
        for channel in np.flatnonzero(counts).tolist():
            self._metrics.delivery_s.observe(now - page.batch.born, channel, weight=int(counts[channel]))


class IntakeCounts:
    def __init__(self, metrics: Metrics, app_keys: Sequence[str]) -> None:
        self._metrics = metrics
        self._app_keys = list(app_keys)

    def accepted(self, app: int, rows: int, batches: int) -> None:
        self._metrics.rows_accepted.add(rows, self._app_keys[app])
        self._metrics.batch_rows.observe(rows, weight=batches)

    def gathered(self, wait_s: float) -> None:
        self._metrics.gather_s.observe(wait_s)


class RouterCounts:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def routed(self, page: LedgerPage, seconds: float) -> None:
        self._metrics.route_s.observe(seconds)

    def delivered_to_edge(self, rows: int) -> None:
        self._metrics.rows_to_edge.add(rows)

    def handed_over(self, rows: int) -> None:
        self._metrics.rows_handed_over_unacked.add(rows)

    def tokens_dead(self, channel: Channel, rows: int, forgotten: int) -> None:
        self._metrics.tokens_dead.add(forgotten, channel)

    def truncated(self, rows: int) -> None:
        self._metrics.rows_truncated.add(rows, Channel.LONG_LINK)


class OwnerCounts:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def acknowledged(self, page: LedgerPage, rows: Rows, now: float) -> None:
        if len(rows):
            issued_s = page.batch.born + page.issued_ms[rows] / 1000.0
            self._metrics.request_s.observe_many(now - issued_s, Channel.LONG_LINK)

    def late(self, rows: int) -> None:
        self._metrics.late_acknowledgements.add(rows)

    def stray(self, tags: int) -> None:
        self._metrics.refusals.add(tags, "acknowledgement_of_unknown_row")

    def uplink(self, event: str) -> None:
        self._metrics.uplink_events.add(1, event)


class LaneCounts:
    """Of all lanes of one vendor."""

    def __init__(self, metrics: Metrics, log: Log, channel: Channel) -> None:
        self._metrics = metrics
        self._log = log
        self._channel = channel

    def issued(self, rows: int, queue_s: float) -> None:
        self._metrics.bursts.add(1, self._channel)
        self._metrics.queue_s.observe(queue_s, self._channel, weight=rows)

    def answered(self, page: LedgerPage, verdicts: U8, request_s: float) -> None:
        metrics = self._metrics
        metrics.request_s.observe(request_s, self._channel, weight=len(verdicts))
        counts = np.bincount(verdicts)
        for verdict in np.flatnonzero(counts).tolist():
            metrics.verdicts.add(int(counts[verdict]), self._channel, verdict)

    def named(self, verdict: Verdict, name: str, rows: int) -> None:
        self._metrics.verdict_names.add(rows, self._channel, name or verdict.name.lower())

    def retried(self, reasons: U8) -> None:
        uncertain = int((reasons == Reason.NO_ANSWER).sum())
        counts = np.bincount(reasons)
        for reason in np.flatnonzero(counts).tolist():
            self._metrics.retries.add(int(counts[reason]), self._channel, reason)
        if uncertain:
            self._metrics.rows_resent_uncertain.add(uncertain, self._channel)

    def truncated(self, rows: int) -> None:
        self._metrics.rows_truncated.add(rows, self._channel)

    def throttled(self, seconds: float) -> None:
        self._metrics.bucket_waits.add(1, self._channel)
        self._metrics.bucket_wait_s.add(seconds, self._channel)

    def credential_refused(self, name: str) -> None:
        self._log.warning("credential refused by vendor", vendor=self._channel.name.lower(), vendor_word=name)


class PoolCounts:
    """Of the connections of one (app, vendor)."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log
        self._open: set[int] = set()

    def connected(self, number: int) -> None:
        self._open.add(number)
        self._metrics.connections.add(1, "vendor")
        self._metrics.connections_open.set(self._metrics.connections_open.value("vendor") + 1, "vendor")
        self._log.info("connected", connection=number)

    def closed(self, number: int, reason: CloseReason, text: str) -> None:
        if number in self._open:
            self._open.discard(number)
            self._metrics.connections_open.set(self._metrics.connections_open.value("vendor") - 1, "vendor")
        self._metrics.closes.add(1, "vendor", reason.value)
        is_wanted = reason in (CloseReason.SHUTDOWN, CloseReason.IDLE, CloseReason.CREDENTIAL_REPLACED)
        level = self._log.info if is_wanted else self._log.warning
        level("connection closed", connection=number, why=reason.value, text=text)


class RpcCounts:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def opened(self, listener: str) -> None:
        self._metrics.connections.add(1, listener)
        self._metrics.connections_open.set(self._metrics.connections_open.value(listener) + 1, listener)

    def closed(self, listener: str, reason: CloseReason) -> None:
        self._metrics.connections_open.set(self._metrics.connections_open.value(listener) - 1, listener)
        self._metrics.closes.add(1, listener, reason.value)

    def received(self, size: int) -> None:
        self._metrics.rpc_bytes.add(size, "in")

    def sent(self, size: int) -> None:
        self._metrics.rpc_bytes.add(size, "out")


class ServiceCounts:
    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log

    def requested(self, kind: str) -> None:
        self._metrics.rpc_frames.add(1, "in", kind)

    def submit(self, outcome: str) -> None:
        self._metrics.submits.add(1, outcome)

    def refused_rows(self, fields: Sequence[str]) -> None:
        for field in fields:
            self._metrics.rows_refused.add(1, field)

    def error(self, code: str) -> None:
        self._metrics.rpc_errors.add(1, code)

    def audit(self, command: str, fields: Mapping[str, object]) -> None:
        self._log.info("operator command", command=command, **fields)


class SupervisorCounts:
    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log

    def crashed(self, actor: str, error: Exception, restart_in_s: float) -> None:
        self._metrics.actor_restarts.add(1, actor)
        self._log.crash("actor crashed", error, actor=actor, restart_in_s=restart_in_s)
