"""Callbacks to services: what became of the rows they told of."""

from __future__ import annotations

from gateway.observe.log import Log
from gateway.observe.metrics import Metrics


class CallbackCounts:
    def __init__(self, metrics: Metrics, log: Log, app_key: str) -> None:
        self._metrics = metrics
        self._log = log
        self._app_key = app_key

    def ended(self, outcome: str, rows: int) -> None:
        self._metrics.callback_rows.add(rows, self._app_key, outcome)

    def queued(self, rows: int) -> None:
        self._metrics.callback_queue_rows.set(rows, self._app_key)

    def failing(self, why: str, attempt: int, wait_s: float) -> None:
        self._metrics.callback_retries.add(1, self._app_key)
        self._log.warning("callback failed", why=why, attempt=attempt, wait_s=round(wait_s, 3))

    def lost(self, outcome: str, rows: int, after_cursor: str) -> None:
        self._log.error("callbacks lost", outcome=outcome, rows=rows, after_cursor=after_cursor)
