"""What is counted of vendors' receipts."""

from __future__ import annotations

import numpy as np

from gateway.columns import U8
from gateway.ledger import Channel
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.observe.vendor_health import GuardCounts
from gateway.receipts import Event


class ReceiptCounts:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def events(self, channel: Channel, events: U8) -> None:
        counts = np.bincount(events, minlength=len(Event))
        for event in counts.nonzero()[0].tolist():
            self._metrics.receipt_events.add(int(counts[event]), channel, Event(event))

    def outcome(self, channel: Channel, outcome: str, receipts: int) -> None:
        self._metrics.vendor_receipts.add(receipts, channel, outcome)

    def unknown(self, channel: Channel, name: str, receipts: int) -> None:
        self._metrics.receipt_unknown.add(receipts, channel, name)

    def dropped(self, reports: int) -> None:
        """Another worker did not come back in time."""
        self._metrics.refusals.add(reports, "receipts.worker_gone")

    def own_ids(self, remembered: int, fallen: int) -> None:
        self._metrics.own_ids.set(remembered)
        if fallen:
            self._metrics.own_ids_fallen.add(fallen)

    def tokens_dead(self, channel: Channel, rows: int, forgotten: int) -> None:
        self._metrics.tokens_dead.add(forgotten, channel)

    def tokens_muted(self, channel: Channel, muted: int) -> None:
        self._metrics.tokens_muted.add(muted, channel)

    def tokens_replaced(self, channel: Channel, replaced: int) -> None:
        self._metrics.tokens_replaced.add(replaced, channel)


class PollCounts:
    """Questions to one vendor about what became of its messages."""

    def __init__(self, metrics: Metrics, channel: Channel) -> None:
        self._metrics, self._channel = metrics, channel

    def asked(self, outcome: str, questions: int = 1) -> None:
        self._metrics.outcome_questions.add(questions, self._channel, outcome)


class ReceiptGuardCounts(GuardCounts):
    """The guard of receipts has the gauges of its own; what became of removals is counted together."""

    def __init__(self, metrics: Metrics, log: Log, app: str, channel: Channel) -> None:
        super().__init__(metrics, log.bind(of="receipts"), app, channel)
        self._holding, self._removals = metrics.receipt_guard_holding, metrics.receipt_removals_held
        self._holding.set(0, *self._labels)
