"""The parts of a worker that know what users of mini programs have agreed to: table, gates, store, desk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import vendors
from gateway.actors.consent_desk import ConsentDesk
from gateway.actors.consent_loans import ConsentLender, ConsentLoans
from gateway.actors.consents import ConsentGate, ConsentRules, Consents
from gateway.actors.worker_links import WorkerLinks
from gateway.app_siblings import counter_of_consents, place_of
from gateway.batch import OwnershipEpoch
from gateway.config import App
from gateway.config_relations import counts_consents
from gateway.errors import StoreError
from gateway.ledger import Channel
from gateway.observe.fault_lines import FaultLines
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics

if TYPE_CHECKING:
    from gateway.app import Worker


class ConsentCounts:
    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._faults = FaultLines(log, "consents not written, trying again", "consents are written again")

    def consents(self, app_key: str, what: str, count: int) -> None:
        self._metrics.consent_events.add(count, app_key, what)

    def not_written(self, error: StoreError) -> None:
        self._metrics.store_failures.add(1, "consents", type(error).__name__)
        self._faults.failed(error)

    def written(self) -> None:
        self._faults.works()


def build_consents(worker: Worker, secret: bytes, epoch: OwnershipEpoch) -> Consents | ConsentLoans | None:
    """What counts them, or borrows from the worker that does; None where no app has a channel with consents."""
    config = worker.config
    if not counts_consents(config):
        return None
    key, counter = worker.stores.hash_key(secret), counter_of_consents(config)
    keys_max, write_s = config.consents.keys_max, config.consents.write_s
    observer = ConsentCounts(worker.metrics, worker.log.bind(actor="consents"))
    consents: Consents | ConsentLoans
    if place_of(worker.siblings).worker == counter:
        store = worker.stores.consents
        consents = Consents(keys_max=keys_max, write_s=write_s, key=key, epoch=epoch, store=store, observer=observer)
    else:
        consents = ConsentLoans(keys_max=keys_max, write_s=write_s, key=key, lender=counter, observer=observer)
    worker.stores.behind.append(consents)
    return consents


def join_consents(worker: Worker, links: WorkerLinks) -> None:
    """Those that borrow have somebody to ask."""
    consents = worker.consents
    if isinstance(consents, Consents):
        ConsentLender(consents, worker.config.consents.keys_max, links)
    elif consents is not None:
        consents.connect(links)


def consent_gate(
    consents: Consents | ConsentLoans | None, app: App, channel: Channel, settings: Any, vendor: Any
) -> ConsentGate | None:
    """The gate of one app's vendor; None for one without consents."""
    if consents is None or not hasattr(vendor, "consent_of"):
        return None
    rules = ConsentRules(vendor.consent_of, vendor.no_consent, settings.consents == "strict")
    return consents.gate(app.key, channel, rules)


def consent_desk(worker: Worker) -> ConsentDesk | None:
    """Who answers reports; None where another worker does."""
    if not isinstance(worker.consents, Consents):
        return None
    checks: dict[str, Callable[[str], str]] = {}
    for app in worker.config.apps:
        for name, settings in app.vendors.items():
            if "consents" in settings.__struct_fields__:
                checks[app.key] = vendors.entry_of(name).vendor(settings).check_token
    return ConsentDesk(worker.consents, checks)


def consent_actors(worker: Worker) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """What has to run, by name."""
    if worker.consents is not None:
        yield "consents", worker.consents.run


def refresh_consents(worker: Worker) -> None:
    """Gauges say how it is now."""
    if worker.consents is not None:
        found = worker.consents.table.statistics()
        worker.metrics.consents.set(found.keys)
        worker.metrics.consents_held.set(found.held)
