"""What a worker shows of itself: gauges at the moment of a scrape, and its lanes in `pushgw status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.actors.lane import LaneActor
from gateway.app_consents import refresh_consents
from gateway.app_devices import record_admission
from gateway.app_vendors import VendorLane
from gateway.core.home import Home
from gateway.core.report import open_rows, rows_held_away
from gateway.ledger import State
from gateway.observe.counting import record_link

if TYPE_CHECKING:
    from gateway.app import Worker


def rows_open(home: Home) -> dict[str, int]:
    """Rows in each open state, by its name, those of pages that are away included."""
    found, few, held = open_rows(home.pages()), open_rows(home.few_pages()), State.HELD.name.lower()
    return {state: n + (rows_held_away(home) if state == held else few[state]) for state, n in found.items()}


def refresh_gauges(worker: Worker) -> None:
    """Gauges say how it is now."""
    metrics = worker.metrics
    for name, rows in worker.rows_open().items():
        metrics.rows_open.set(rows, State[name.upper()])
    home, devices = worker.home.statistics(), worker.devices.statistics()
    metrics.memory_part_bytes.set(home.ledger_bytes, "ledger")
    metrics.devices_registered.set(devices.devices)
    metrics.devices_online.set(devices.online)
    metrics.inbox_rows.set(len(worker.inbox_store))
    metrics.inbox_swept.follow(worker.inbox.swept)
    metrics.receipts_waiting.set(worker.receipts.desk.waiting)
    metrics.rows_not_conserved.set(worker.home.rows_not_conserved())
    if worker.joint is not None:
        worker.joint.record()
    record_link(metrics, worker.long_link.statistics())
    record_admission(metrics, worker.admission)
    metrics.refusals.follow(worker.presence.tags.forgotten, "long_link.presence_tags_max")
    worker.online_gauges.record(worker.presence.counts())
    metrics.idempotency_ids.set(len(worker.request_ids))
    oldest_ms = worker.request_ids.oldest_unix_ms()
    metrics.idempotency_oldest_s.set((worker.clock.unix_ms() - oldest_ms) / 1000 if oldest_ms else 0.0)
    if worker.disk is not None:
        worker.disk.refresh_gauges()
    worker.stores.refresh_gauges()
    refresh_consents(worker)
    parked = worker.router.parked()
    lanes = [(built.channel, actor.lane) for built in worker.vendor_lanes for actor in built.lanes]
    for channel, class_ in {(channel, lane.key.class_) for channel, lane in lanes}:
        ours = [lane for at, lane in lanes if (at, lane.key.class_) == (channel, class_)]
        metrics.lane_rows.set(sum(lane.rows for lane in ours), channel, class_)
        metrics.lane_parked_rows.set(sum(parked.get(lane.key, 0) for lane in ours), channel, class_)
    for channel in {built.channel for built in worker.vendor_lanes}:
        ends = [built.keeper.expires_in_s() for built in worker.vendor_lanes if built.channel == channel]
        metrics.credential_expires_s.set(min(ends), channel)
        pools = [built for built in worker.vendor_lanes if built.channel == channel]
        metrics.probe_rows.set(sum(each.waiting_rows for built in pools for each in built.probe_lanes), channel)
        metrics.probe_connections.set(sum(built.pool.statistics().probe_connections for built in pools), channel)


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
