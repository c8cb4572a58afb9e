"""What the journal's actor reports, as metrics and log lines. Told per record, never per row."""

from __future__ import annotations

from gateway.errors import StoreCorrupt, StoreError, StoreFull, StoreReadOnly
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics

#: Kinds of errors, as `journal_errors` names them.
_KINDS: tuple[tuple[type[StoreError], str], ...] = (
    (StoreFull, "full"),
    (StoreReadOnly, "read_only"),
    (StoreCorrupt, "corrupt"),
)


class JournalCounts:
    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log
        self._last = ""
        self._was_unmarked = False

    def written(self, what: str, seconds: float) -> None:
        self._metrics.journal_write_s.observe(seconds, what)

    def failed(self, error: StoreError) -> None:
        """Each try is counted, and what is new is said."""
        kind = next((name for type_, name in _KINDS if isinstance(error, type_)), "other")
        self._metrics.journal_errors.add(1, kind)
        self._metrics.journal_failed.set(1)
        if self._last != str(error):
            self._last = str(error)
            self._log.error("journal fails, intake is stopped for apps on disk", text=str(error))

    def works_again(self) -> None:
        self._metrics.journal_failed.set(0)
        self._last, self._was_unmarked = "", False
        self._log.info("journal works again")

    def issued_unmarked(self, rows: int) -> None:
        self._metrics.rows_issued_unmarked.add(rows)
        if not self._was_unmarked:
            self._was_unmarked = True
            self._log.error("rows leave without a durable mark: after a crash they would be sent again", rows=rows)
