"""What a worker shows of itself: gauges at the moment of a scrape, and its lanes in `pushgw status`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gateway.actors.lane import LaneActor
from gateway.app_consents import refresh_consents
from gateway.app_devices import record_admission
from gateway.app_vendors import VendorLane
from gateway.core.home import Home
from gateway.core.report import see_rows
from gateway.ledger import Channel, State
from gateway.observe.counting import record_link

if TYPE_CHECKING:
    from gateway.app import Worker


def rows_open(home: Home) -> dict[str, int]:
    """Rows in each open state, by its name, those of pages that are away included."""
    seeing = see_rows(home)
    while True:
        try:
            next(seeing)
        except StopIteration as end:
            return {State(state).name.lower(): n for state, n in enumerate(end.value.open)}


def refresh_gauges(worker: Worker) -> Iterator[None]:
    """Gauges say how it is now; yields after each part, a fraction of a millisecond where nothing is cold."""
    metrics = worker.metrics
    seen = yield from see_rows(worker.home)
    for state, rows in enumerate(seen.open):
        metrics.rows_open.set(rows, state)
    if seen.not_conserved is not None:
        metrics.rows_not_conserved.set(seen.not_conserved)
    yield
    _refresh_tables(worker)
    yield
    # Columns of the long link, then their counts by name.
    figures = worker.long_link.statistics()
    yield
    record_link(metrics, figures)
    record_admission(metrics, worker.admission)
    yield
    worker.online_gauges.record(worker.presence.counts())
    yield
    if worker.disk is not None:
        worker.disk.refresh_gauges()
    worker.stores.refresh_gauges()
    refresh_consents(worker)
    yield
    yield from _refresh_lanes(worker)


def _refresh_tables(worker: Worker) -> None:
    metrics, devices = worker.metrics, worker.devices.statistics()
    metrics.memory_part_bytes.set(worker.home.ledger_bytes, "ledger")
    metrics.devices_registered.set(devices.devices)
    metrics.devices_online.set(devices.online)
    metrics.inbox_rows.set(len(worker.inbox_store))
    metrics.inbox_swept.follow(worker.inbox.swept)
    metrics.receipts_waiting.set(worker.receipts.desk.waiting)
    metrics.refusals.follow(worker.presence.tags.forgotten, "long_link.presence_tags_max")
    metrics.idempotency_ids.set(len(worker.request_ids))
    metrics.idempotency_window_s.set(worker.request_ids.window_ms(worker.clock.unix_ms()) / 1000)
    if worker.joint is not None:
        worker.joint.record()


def _refresh_lanes(worker: Worker) -> Iterator[None]:
    """By channel; many apps may have the same one."""
    metrics, parked = worker.metrics, worker.router.parked()
    by_channel: dict[Channel, list[VendorLane]] = {}
    for built in worker.vendor_lanes:
        by_channel.setdefault(built.channel, []).append(built)
    for channel, pools in by_channel.items():
        lanes = [actor.lane for built in pools for actor in built.lanes]
        for class_ in {lane.key.class_ for lane in lanes}:
            ours = [lane for lane in lanes if lane.key.class_ == class_]
            metrics.lane_rows.set(sum(lane.rows for lane in ours), channel, class_)
            metrics.lane_parked_rows.set(sum(parked.get(lane.key, 0) for lane in ours), channel, class_)
        metrics.credential_expires_s.set(min(built.keeper.expires_in_s() for built in pools), channel)
        metrics.probe_rows.set(sum(each.waiting_rows for built in pools for each in built.probe_lanes), channel)
        metrics.probe_connections.set(sum(built.pool.statistics().probe_connections for built in pools), channel)
        yield


def lane_status(built: VendorLane, actor: LaneActor) -> dict[str, Any]:
    """A lane in `pushgw status`."""
    pool = built.pool.statistics()
    return {
        "app": built.app.key,
        "vendor": built.channel.name.lower(),
        "class": actor.lane.key.class_.name.lower(),
        "rows": actor.lane.rows,
        "probe_rows": 0 if actor.probes is None else actor.probes.waiting_rows,
        "connections": pool.connections,
        "probe_connections": pool.probe_connections,
        "open_requests": pool.open_requests,
        "has_credential": built.keeper.get_nowait() is not None,
        "last_close": "" if pool.last_close is None else pool.last_close.value,
    }
