"""What the actors behind the stores report, as metrics and log lines."""

from __future__ import annotations

from gateway.errors import StoreError
from gateway.observe.fault_lines import FaultLines
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics


class StoreCounts:
    """Of the registry."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log
        self._faults = FaultLines(log, "registry not written, trying again", "registry works again")

    def written(self, devices: int) -> None:
        self._metrics.registry_writes.add(devices)
        self._faults.works()

    def write_failed(self, error: StoreError) -> None:
        self._metrics.store_failures.add(1, "registry", type(error).__name__)
        self._faults.failed(error)

    def loaded(self, devices: int, lost_tokens: int) -> None:
        self._log.info("registry loaded", devices=devices, tokens_lost_to_newer_devices=lost_tokens)


class LedgerCounts:
    """Of the ledger archive."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._faults = FaultLines(log, "ledger pages not written or read, trying again", "ledger works again")
        self._spill_faults = FaultLines(log, "ledger pages not spilled", "ledger pages are spilled again")

    def archived(self, pages: int) -> None:
        self._metrics.pages_archived.add(pages)
        self._faults.works()

    def failed(self, error: StoreError) -> None:
        self._metrics.store_failures.add(1, "ledger", type(error).__name__)
        self._faults.failed(error)

    def retained(self, pages: int) -> None:
        self._metrics.pages_deleted.add(pages)

    def spilled(self, pages: int) -> None:
        self._metrics.pages_spilled.add(pages)
        self._spill_faults.works()

    def not_spilled(self, error: StoreError) -> None:
        self._metrics.store_failures.add(1, "spill", type(error).__name__)
        self._spill_faults.failed(error)


class InboxCounts:
    """Of the inbox."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._faults = FaultLines(log, "inbox not written, trying again", "inbox works again")

    def failed(self, error: BaseException) -> None:
        """The inbox tries again; what waits is in ledger pages meanwhile."""
        self._metrics.store_failures.add(1, "inbox", type(error).__name__)
        self._faults.failed(error)

    def works(self) -> None:
        self._faults.works()
