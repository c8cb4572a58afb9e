"""What a simulator has counted since its start or its last reset: the body of GET /statistics."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Counts:
    """Counters by name. `outcomes` and `reasons` count requests, `connection` counts everything else.

    Names of `connection`: handshakes_begun, handshakes_completed, handshakes_resumed, client_certificates, opened,
    opened_h2, opened_http1, closed, streams, streams_refused, stream_limit_violations, settings_changes, goaways_sent,
    streams_reset, sockets_reset.
    `client_goaways` counts GOAWAY frames of clients by their code, NO_ERROR left out.
    `rows` counts rows of requests by what became of them: accepted, dropped, doubled, "refused <reason>".
    `variants` counts which of several forms came where the vendor's document leaves it open.
    `receipts` counts what the vendor sent back; see receipts.Courier.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.connection: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self.client_goaways: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.variants: Counter[str] = Counter()
        self.receipts: Counter[str] = Counter()

    def reset(self) -> None:
        """Everything counted is zero again; open connections go on and are counted when they close."""
        for counter in (self.outcomes, self.reasons, self.connection, self.faults, self.closed, self.client_goaways):
            counter.clear()
        for counter in (self.rows, self.variants, self.receipts):
            counter.clear()

    def statistics(self) -> dict[str, Any]:
        """The counters as plain dicts: outcome, reason, fault kind, close reason and connection counts."""
        return {
            "outcomes": dict(self.outcomes),
            "reasons": dict(self.reasons),
            "faults_applied": dict(self.faults),
            "connections": dict(self.connection),
            "closed": dict(self.closed),
            "client_goaways": dict(self.client_goaways),
            "rows": dict(self.rows),
            "variants": dict(self.variants),
            "receipts": dict(self.receipts),
        }
