"""Observers: what actors report, as metrics and log lines. One small class per actor, each call cheap per slice.

Actors know these only by the protocols in their own files; metrics never drive logic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from gateway.columns import U8, Rows
from gateway.errors import CloseReason
from gateway.ledger import Channel, Flag, LedgerPage, Reason, Receipt, State
from gateway.observe.log import Log
from gateway.observe.metric_types import Cell
from gateway.observe.metrics import Metrics
from gateway.verdict import Verdict

#: States in which somebody outside has the row.
_REACHED = frozenset({State.DEVICE_ACKED, State.VENDOR_ACCEPTED})
#: As numpy takes it at once: an enum member costs eight times as much.
_WAITED_OFFLINE = np.uint8(Flag.WAITED_OFFLINE)


def _by_channel(channel: Channel | U8, rows: int) -> list[tuple[int, int]]:
    """(channel, rows) of each channel among the rows; one number per slice, as a rule."""
    if isinstance(channel, Channel):
        return [(channel, rows)]
    counts = np.bincount(channel)
    return [(code, int(counts[code])) for code in counts.nonzero()[0].tolist()]


class HomeCounts:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        #: Label look-ups cost more than counting; the pairs in use are a few dozen.
        self._moves: dict[tuple[int, State], Cell] = {}
        self._reasons: dict[int, Cell] = {}

    def moved(self, page: LedgerPage, rows: Rows, to: State, reason: Reason | U8 | None, channel: Channel | U8) -> None:
        for code, n in _by_channel(channel, len(rows)):
            cell = self._moves.get((code, to))
            if cell is None:
                cell = self._moves[code, to] = self._metrics.row_moves.cell(code, to)
            cell.add(n)
            if to is State.UNCERTAIN:
                self._metrics.rows_uncertain.add(n, code)
        if reason is None or reason is Reason.NONE:
            return
        if isinstance(reason, Reason):
            self._count_reason(reason, len(rows))
        else:
            counts = np.bincount(reason)
            for code in counts.nonzero()[0].tolist():
                if code:
                    self._count_reason(code, int(counts[code]))
        if to is State.DROPPED and reason is Reason.DUPLICATE_TARGET:
            self._metrics.rows_duplicate.add(len(rows))

    def _count_reason(self, reason: int, n: int) -> None:
        cell = self._reasons.get(reason)
        if cell is None:
            cell = self._reasons[reason] = self._metrics.row_reasons.cell(reason)
        cell.add(n)

    def finished(self, page: LedgerPage, rows: Rows, to: State, channel: Channel | U8, now: float) -> None:
        """Latency of rows that reached somebody; all rows of one move end at one moment."""
        if to not in _REACHED:
            return
        waited = int(np.count_nonzero(page.flags[rows] & _WAITED_OFFLINE))
        if waited == len(rows):
            return
        # Rows that waited for their device are left out; they are of one channel, the long link.
        for code, n in _by_channel(channel, len(rows)):
            weight = n - (waited if code == Channel.LONG_LINK else 0)
            if weight > 0:
                self._metrics.delivery_s.observe(now - page.batch.born, code, weight=weight)

    def receipts_rose(self, rows: int, receipt: Receipt, channel: Channel | U8) -> None:
        for code, n in _by_channel(channel, rows):
            self._metrics.receipts.add(n, code, receipt)


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

    def fell_back(self, channel: Channel, rows: int) -> None:
        self._metrics.rows_fell_back.add(rows, channel)

    def routed(self, page: LedgerPage, seconds: float) -> None:
        self._metrics.route_s.observe(seconds)

    def delivered_to_edge(self, rows: int) -> None:
        self._metrics.rows_to_edge.add(rows)

    def handed_over(self, rows: int) -> None:
        self._metrics.rows_handed_over_unacked.add(rows)

    def tokens_dead(self, channel: Channel, rows: int, forgotten: int) -> None:
        self._metrics.tokens_dead.add(forgotten, channel)

    def tokens_muted(self, channel: Channel, muted: int) -> None:
        self._metrics.tokens_muted.add(muted, channel)

    def truncated(self, rows: int) -> None:
        self._metrics.rows_truncated.add(rows, Channel.LONG_LINK)


class OwnerCounts:
    def __init__(self, metrics: Metrics, app_keys: Sequence[str] = ()) -> None:
        self._metrics = metrics
        self._app_keys = list(app_keys)

    def acknowledged(self, page: LedgerPage, rows: Rows, now: float) -> None:
        """Rows of one page are issued in few calls: a handful of distinct times, each observed once with its weight."""
        if not len(rows):
            return
        issued_ms = page.issued_ms[rows]
        elapsed_s = now - page.batch.born
        if not np.count_nonzero(issued_ms != issued_ms[0]):
            seconds = max(0.0, elapsed_s - int(issued_ms[0]) / 1000.0)
            self._metrics.request_s.observe(seconds, Channel.LONG_LINK, weight=len(rows))
            return
        times, counts = np.unique(issued_ms, return_counts=True)
        self._metrics.request_s.observe_many(
            np.maximum(elapsed_s - times / 1000.0, 0.0), Channel.LONG_LINK, weights=counts
        )

    def late(self, rows: int) -> None:
        self._metrics.late_acknowledgements.add(rows)

    def stray(self, tags: int) -> None:
        self._metrics.refusals.add(tags, "acknowledgement_of_unknown_row")

    def app_full(self, app_index: int) -> None:
        self._metrics.logins_refused.add(1, self._app_keys[app_index], "app_connections_max")


class UplinkCounts:
    def __init__(self, metrics: Metrics, app_keys: Sequence[str]) -> None:
        self._metrics = metrics
        self._app_keys = app_keys

    def taken(self, event: str) -> None:
        self._metrics.uplink_events.add(1, event)

    def refused(self, why: str) -> None:
        self._metrics.refusals.add(1, f"uplink.{why}")

    def custom(self, app_index: int, number: int) -> None:
        self._metrics.custom_events.add(1, self._app_keys[app_index], str(number))


class LinkFigures(Protocol):
    """What the long link counts in its own columns; see `actors/long_link_port.py`."""

    @property
    def connections(self) -> int: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def closed(self) -> Mapping[str, int]: ...
    @property
    def packets_in(self) -> Mapping[str, int]: ...
    @property
    def packets_out(self) -> Mapping[str, int]: ...
    @property
    def connacks(self) -> Mapping[str, int]: ...


def record_link(metrics: Metrics, figures: LinkFigures) -> None:
    """The long link's columns as metrics; just before a scrape. What they have grown by is added: those
    of a new long link begin at 0, and what the one before had counted stays counted."""
    metrics.connections_open.set(figures.connections, "long_link")
    metrics.connections.follow(figures.counts["accepted"], "long_link")
    for reason, n in figures.closed.items():
        metrics.closes.follow(n, "long_link", reason)
    for direction, packets in (("in", figures.packets_in), ("out", figures.packets_out)):
        metrics.mqtt_bytes.follow(figures.counts[f"bytes_{direction}"], direction)
        for kind, n in packets.items():
            if n:
                metrics.mqtt_packets.follow(n, direction, kind)
    for code, n in figures.connacks.items():
        metrics.mqtt_connacks.follow(n, code)
    for name, n in figures.counts.items():
        if name.startswith(("refused_", "evicted_")):
            metrics.refusals.follow(n, f"long_link.{name}")
        else:
            metrics.mqtt_events.follow(n, name)


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
        if not np.count_nonzero(verdicts):
            metrics.verdicts.add(len(verdicts), self._channel, Verdict.ACCEPTED)
            return
        counts = np.bincount(verdicts)
        for verdict in np.flatnonzero(counts).tolist():
            metrics.verdicts.add(int(counts[verdict]), self._channel, verdict)

    def named(self, verdict: Verdict, name: str, rows: int, *, is_unknown: bool = False) -> None:
        self._metrics.verdict_names.add(rows, self._channel, name or verdict.name.lower())
        if is_unknown:
            self._metrics.unknown_answers.add(rows, self._channel)

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

    def probed(self, rows: int) -> None:
        self._metrics.rows_probed.add(rows, self._channel)

    def probe_wait_over(self, rows: int) -> None:
        self._metrics.probe_waits_over.add(rows, self._channel)

    def credential_refused(self, name: str) -> None:
        self._log.warning("credential refused by vendor", vendor=self._channel.name.lower(), vendor_word=name)


_WANTED_CLOSES = (CloseReason.SHUTDOWN, CloseReason.IDLE, CloseReason.CREDENTIAL_REPLACED, CloseReason.RECLAIMED)


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
        level = self._log.info if reason in _WANTED_CLOSES else self._log.warning
        level("connection closed", connection=number, why=reason.value, text=text)


class SocketCounts:
    """Of the sockets of one (app, vendor) that speaks HTTP/1.1: each is a connection, and none is news."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log

    def connected(self) -> None:
        self._metrics.connections.add(1, "vendor")
        self._metrics.connections_open.set(self._metrics.connections_open.value("vendor") + 1, "vendor")

    def closed(self, reason: CloseReason, text: str, *, was_open: bool) -> None:
        """was_open: it was connected before."""
        if was_open:
            self._metrics.connections_open.set(self._metrics.connections_open.value("vendor") - 1, "vendor")
        self._metrics.closes.add(1, "vendor", reason.value)
        self._log.debug("socket closed", why=reason.value, text=text)


class BundleCounts:
    """Of the bundles of such sockets, which the pool takes for connections: they are told, and not counted again."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def connected(self, number: int) -> None:
        self._log.info("connected", connection=number)

    def closed(self, number: int, reason: CloseReason, text: str) -> None:
        level = self._log.info if reason in _WANTED_CLOSES else self._log.warning
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


class SupervisorCounts:
    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log

    def crashed(self, actor: str, error: Exception, restart_in_s: float) -> None:
        self._metrics.actor_restarts.add(1, actor)
        self._log.crash("actor crashed", error, actor=actor, restart_in_s=restart_in_s)


class ServiceCounts(SupervisorCounts):
    def __init__(self, metrics: Metrics, log: Log) -> None:
        super().__init__(metrics, log)
        #: Counted with every request: looked up once.
        self._kinds: dict[str, Cell] = {}
        self._outcomes: dict[str, Cell] = {}

    def requested(self, kind: str) -> None:
        cell = self._kinds.get(kind)
        if cell is None:
            cell = self._kinds[kind] = self._metrics.rpc_frames.cell("in", kind)
        cell.add(1)

    def submit(self, outcome: str) -> None:
        cell = self._outcomes.get(outcome)
        if cell is None:
            cell = self._outcomes[outcome] = self._metrics.submits.cell(outcome)
        cell.add(1)

    def refused_rows(self, fields: Sequence[str]) -> None:
        for field in fields:
            self._metrics.rows_refused.add(1, field)

    def error(self, code: str) -> None:
        self._metrics.rpc_errors.add(1, code)

    def proven(self, app_key: str, secret_index: int) -> None:
        self._metrics.secret_uses.add(1, app_key, str(secret_index), "rpc")

    def audit(self, command: str, fields: Mapping[str, object]) -> None:
        self._log.info("operator command", command=command, **fields)


class AudienceCounts:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def running(self, audiences: int) -> None:
        self._metrics.audiences_running.set(audiences)

    def ended(self, audience_rows: int, rows_left: int) -> None:
        self._metrics.audience_rows_left.add(rows_left)
