"""What the actors behind the stores report, as metrics and log lines."""

from __future__ import annotations

from gateway.errors import StoreError
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics


class StoreCounts:
    """Of the registry."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log

    def written(self, devices: int) -> None:
        self._metrics.registry_writes.add(devices)

    def write_failed(self, error: StoreError) -> None:
        self._metrics.store_failures.add(1, "registry", type(error).__name__)
        self._log.error("registry not written, trying again", error=str(error))

    def loaded(self, devices: int, lost_tokens: int) -> None:
        self._log.info("registry loaded", devices=devices, tokens_lost_to_newer_devices=lost_tokens)


class LedgerCounts:
    """Of the ledger archive."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log

    def archived(self, pages: int) -> None:
        self._metrics.pages_archived.add(pages)

    def failed(self, error: StoreError) -> None:
        self._metrics.store_failures.add(1, "ledger", type(error).__name__)
        self._log.error("ledger pages not written or read, trying again", error=str(error))

    def retained(self, pages: int) -> None:
        self._metrics.pages_deleted.add(pages)

    def spilled(self, pages: int) -> None:
        self._metrics.pages_spilled.add(pages)

    def not_spilled(self, error: StoreError) -> None:
        self._metrics.store_failures.add(1, "spill", type(error).__name__)
        self._log.error("ledger pages not spilled", error=str(error))
