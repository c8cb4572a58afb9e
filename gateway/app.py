"""The application: builds one worker's actors from a configuration and runs them until it is told to stop.

    RpcListener --> Service --> Intake --> Router --> LaneActor --> VendorPool --> VendorConnection
                                   |          |  ^
                                Journal       |  +------ DeviceOwner <-- LongLink
                                              +--> InboxActor

Shutdown has phases with one budget (`drain_s`): stop accepting, make durable what was taken, let lanes and devices
finish what is in flight, close, report the rest. Who waits for whom: docs/architecture.md.
"""

from __future__ import annotations

import functools
import gc
import secrets
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import trio

from gateway.actors.device_owner import DeviceOwner
from gateway.actors.device_passing import DevicePassing
from gateway.actors.intake import Intake
from gateway.actors.lane import LaneActor
from gateway.actors.precedence import Precedence
from gateway.actors.rendering import LinkRenderer
from gateway.actors.router import Router
from gateway.actors.rpc_listener import RpcListener
from gateway.actors.service import Service
from gateway.actors.supervisor import supervise
from gateway.actors.vendor_ceiling import Ceiling
from gateway.actors.vendor_connection import OnEvents, VendorConnection
from gateway.api.health import HealthServer
from gateway.app_consents import build_consents, consent_actors
from gateway.app_devices import (
    BansWatch,
    OnlineGauges,
    build_audiences,
    build_desk,
    build_presence,
    build_uplink,
    make_long_link,
    within_files_limit,
)
from gateway.app_doors import Doors
from gateway.app_journal import DataDir, DiskJournal, app_defaults
from gateway.app_journals_ready import make_data_ready
from gateway.app_leaving import leave, wait_told
from gateway.app_links import Joint
from gateway.app_memory import keep_freed_memory
from gateway.app_parts import app_view, cut_rules, make_log
from gateway.app_receipts import Receipts
from gateway.app_seeing import lane_status, refresh_gauges, rows_open
from gateway.app_siblings import Siblings, journals_of, living, online_counts, place_of
from gateway.app_signals import serve_until_signal
from gateway.app_stores import Stores
from gateway.app_tasks import build_control, callback_actors, resume_audiences
from gateway.app_vendors import VendorLane, build_vendor
from gateway.batch import OwnershipEpoch
from gateway.clock import Clock, DevelopmentClock, SystemClock
from gateway.config import Config, Listener, load_config, make_missing_secrets, message_id_secret
from gateway.config_sections import App
from gateway.config_settings import (
    admission_limits,
    client_config,
    connection_limits,
    device_limits,
    health_settings,
    long_link_settings,
    rpc_limits,
)
from gateway.config_types import Address
from gateway.core.admission import Admission
from gateway.core.devices import DeviceTable
from gateway.core.home import Home
from gateway.core.render import Renderer
from gateway.core.request_ids import RequestIds
from gateway.observe.counting import (
    HomeCounts,
    IntakeCounts,
    OwnerCounts,
    RouterCounts,
    RpcCounts,
    ServiceCounts,
    SupervisorCounts,
)
from gateway.observe.log import Log
from gateway.observe.loop_lag import StepWatch, watch_lag
from gateway.observe.metrics import Metrics
from gateway.observe.scrape import Scrape, SharedScrape
from gateway.store.memory import MemoryJournal

#: Rows routed in one step: about a millisecond at the rates of docs/performance.md.
ROUTE_SLICE_ROWS = 5120
#: New objects between two looks of the garbage collector: two to four milliseconds each, and rarely anything to find:
#: rows are columns and content structs hold no cycles.
_YOUNG_OBJECTS = 10_000
#: A worker that runs alone owns everything from the first epoch on.
FIRST_EPOCH = OwnershipEpoch(1)


class Ready(NamedTuple):
    """The addresses that a started worker listens on, as users write them."""

    rpc: list[str]
    operator: str
    http: str
    long_link: list[str]
    receipts: list[str]


@dataclass(frozen=True, slots=True)
class LinkApp:
    """An app as the long link sees it."""

    index: int
    secrets: tuple[bytes, ...]


class Worker:
    """One worker's actors. Built, then `run` once."""

    def __init__(
        self,
        config: Config,
        *,
        log: Log | None = None,
        metrics: Metrics | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        """siblings: what a worker among several has beside; config is then its share (config_shares.py)."""
        self.config = config
        self.siblings = siblings
        self.metrics = metrics or Metrics(label_values_max=config.observe.label_values_max)
        self.log = log or make_log(config, self.metrics)
        offset_s = 0.0 if siblings is None else siblings.clock_offset_s
        self.clock: Clock = DevelopmentClock(offset_s) if config.dev.clock else SystemClock()
        self.app_secrets = {app.key: tuple(secret.read() for secret in app.secrets) for app in config.apps}
        self.admin_keys = () if config.operator.admin_key is None else (config.operator.admin_key.read(),)
        self.step_watch = StepWatch(self.metrics, step_s_max=config.gateway.step_ms_max / 1000)
        self.metrics.started_unix_s.set(self.clock.unix_ms() / 1000)
        self._stopping = trio.Event()
        self._crashes = SupervisorCounts(self.metrics, self.log)
        self.doors = Doors(siblings, self._crashes)
        self._scrape = Scrape(self.metrics, functools.partial(refresh_gauges, self))
        self._is_ready = False
        self._nursery: trio.Nursery | None = None
        self.ceiling = Ceiling(config.http2.connections_max)
        self.precedence = Precedence()
        self._build_core()
        self.vendor_lanes = [lane for index, app in enumerate(config.apps) for lane in self._build_vendors(index, app)]
        lanes = {actor.lane.key: actor for built in self.vendor_lanes for actor in built.lanes}
        self._build_edges()
        self.router.connect(lanes, {(built.app_index, built.channel): built.guard for built in self.vendor_lanes})
        self.inbox.connect(self.router)
        self.receipts.desk.on_undelivered = self.router.fallbacks.undelivered

    # -- building

    def _build_core(self) -> None:
        config, clock, metrics = self.config, self.clock, self.metrics
        secret = message_id_secret(config)
        now, journals = clock.monotonic(), journals_of(config, self.siblings)
        keys = [app.key for app in config.apps]
        self.home = Home(
            secret=secret,
            journal=journals[0],
            observer=HomeCounts(metrics),
            ledger_bytes_max=config.ledger.ledger_memory_bytes_max,
            rows_open_max=config.gateway.open_rows_max,
            change_rows_max=config.ledger.receipt_log_rows_max,
            now=now,
            adopted=journals[1:],
        )
        self.disk: DiskJournal | None = None
        if any(app.durability == "disk" for app in config.apps):
            self.disk = DiskJournal(self, self.home.journal, secret, FIRST_EPOCH)
        self.stores = Stores(config, FIRST_EPOCH, metrics, self.log, place_of(self.siblings))
        self.pages = self.stores.keep_pages(self.home, clock)
        self.devices = DeviceTable(device_limits(config), self.stores.hash_key(secret))
        self.stores.follow(self.devices)
        self.inbox_store = self.stores.inbox
        self.inbox = self.stores.inbox_actor(self.home, clock, offer_again_s=config.inbox.offer_again_s)
        self.consents = build_consents(self, secret, FIRST_EPOCH)
        self.renderer = Renderer(
            rules=cut_rules(config),
            templates_max=config.lanes.templates_max,
            downlink_payload_bytes_max=config.long_link.payload_bytes_max,
            address_secret=secret,
            first_number=secrets.randbits(32),
        )
        defaults = [app_defaults(app) for app in config.apps]
        self.router = Router(
            home=self.home,
            devices=self.devices,
            inbox=self.inbox,
            renderer=LinkRenderer(self.renderer),
            clock=clock,
            observer=RouterCounts(metrics),
            defaults=defaults,
            slice_rows=ROUTE_SLICE_ROWS,
            parked_rows_max=config.lanes.parked_rows_max,
            strategy4_wait_s=config.retry.strategy4_wait_s,
            trail=None if self.disk is None else self.disk.trail,
            remembers_devices=self.stores.registry is not None,
            precedence=self.precedence,
        )
        if self.disk is not None:
            self.disk.stand_beside(self.stores.ledger, self.stores.registry)
        self.request_ids = RequestIds(
            ids_max=config.ledger.idempotency_ids_max, age_ms=int(config.ledger.idempotency_s * 1000)
        )
        self.control = build_control(self)
        self.joint = None if self.siblings is None else Joint(self, self.siblings, defaults)
        self.intake = Intake(
            home=self.home,
            journal=MemoryJournal(),
            epoch=FIRST_EPOCH,
            secret=secret,
            clock=clock,
            route=self.router.route,
            observer=IntakeCounts(metrics, keys),
            gather_s=config.gateway.gather_ms / 1000,
            gather_busy_s=config.gateway.gather_busy_ms / 1000,
            gather_rows_max=config.gateway.gather_rows_max,
            batch_bytes_max=config.gateway.batch_bytes_max,
            request_ids=self.request_ids,
            app_keys=keys,
            disk=None if self.disk is None else self.disk.actor,
            disk_apps=() if self.disk is None else self.disk.apps,
            tasks=self.control,
            precedence=self.precedence,
        )

    def _build_vendors(self, index: int, app: App) -> list[VendorLane]:
        open_connection = self._open_connection
        return [
            build_vendor(self, index, app, name, settings, open_connection) for name, settings in app.vendors.items()
        ]

    def _open_connection(
        self,
        open_stream: Callable[[], Awaitable[trio.abc.Stream]],
        on_events: OnEvents,
        *,
        keeps_ok_bodies: bool = False,
    ) -> VendorConnection:
        """keeps_ok_bodies: of a vendor that tells errors in the body of a 200."""
        return VendorConnection(
            open_stream=open_stream,
            config=msgspec.structs.replace(client_config(self.config), is_ok_body_kept=keeps_ok_bodies),
            limits=connection_limits(self.config),
            on_events=on_events,
        )

    def _build_edges(self) -> None:
        config, metrics = self.config, self.metrics
        self.owner = DeviceOwner(
            devices=self.devices,
            home=self.home,
            router=self.router,
            inbox=self.inbox,
            clock=self.clock,
            observer=OwnerCounts(metrics, [app.key for app in config.apps]),
            connections_max=[app.connections_max for app in config.apps],
            **online_counts(self.siblings),
        )
        self._link_settings = within_files_limit(self, long_link_settings(config))
        self._link_apps = {app.key: LinkApp(index, self.app_secrets[app.key]) for index, app in enumerate(config.apps)}
        self.admission = Admission(self._link_apps, admission_limits(config))
        bans_file = config.long_link.bans_file
        self.bans_watch = None if bans_file is None else BansWatch(self, bans_file)
        self.passing: DevicePassing | None = None
        if self.siblings is not None and self.joint is not None:
            place, peers = self.siblings.place, self.siblings.peers
            self.passing = DevicePassing(place, peers, self.joint.ownership, lambda: self.long_link)
        self._connect_link()
        self.online_gauges = OnlineGauges(metrics, [app.key for app in config.apps])
        self.presence = build_presence(self)
        desk = self.stores.desk(self.devices, self.pages, self.inbox)
        self.audiences = build_audiences(self)
        self.control.stop_audience = self.audiences.stop
        self.service = Service(
            apps=[app_view(index, app) for index, app in enumerate(config.apps)],
            intake=self.intake,
            home=self.home,
            devices=self.devices,
            clock=self.clock,
            observer=ServiceCounts(metrics, self.log.bind(actor="operator")),
            status=self.status,
            check_room=self.check_room,
            newest_secret=lambda app_key: self.app_secrets[app_key][0],
            presence=self.presence,
            wait_registered=self.stores.wait_written,
            pages=self.pages,
            desk=desk if self.joint is None else self.joint.join_desk(desk),
            audiences=self.audiences,
            control=self.control,
        )
        self.uplink = build_uplink(self)
        self.receipts = Receipts(self)
        self.front = self.service if self.joint is None else self.joint.serve(self.service)
        self.desks = build_desk(self)
        self.rpc = RpcListener(
            limits=rpc_limits(config),
            service=self.front,
            observer=RpcCounts(metrics),
            look_up_secret=self._look_up_secret,
            connections_max=config.rpc.connections_max,
            hellos_max=config.rpc.hellos_max,
            unsent_bytes_max=config.rpc.unsent_bytes_max,
            frames_bytes_max=config.rpc.frames_bytes_max,
        )

    def check_room(self) -> None:
        """Raises Overloaded when too many rows are parked, here or for other workers."""
        self.router.check_room()
        if self.joint is not None:
            self.joint.spread.check_room()

    def _connect_link(self) -> None:
        self.long_link = make_long_link(self, self._link_settings, self._link_apps)
        self.router.connect_link(self.long_link)

    async def _run_long_link(self) -> None:
        """After a crash, which closed every connection, a new long link takes the same addresses."""
        if self.long_link.is_disposed:
            self._connect_link()
            self.long_link.listen()
        await self.long_link.run()

    def _look_up_secret(self, app_key: str) -> tuple[bytes, ...]:
        return self.app_secrets.get(app_key, ()) if app_key else self.admin_keys

    # -- running

    async def run(self, ready: Callable[[Ready], None] | None = None) -> None:
        """Serves until `stop`, then drains. If cancelled: closes at once and drains nothing."""
        try:
            await self._run(ready)
        finally:
            self.close()

    async def _run(self, ready: Callable[[Ready], None] | None) -> None:
        trio.lowlevel.add_instrument(self.step_watch)
        async with self.stores.opened(), trio.open_nursery() as nursery:
            self._nursery = nursery
            self.stores.start(functools.partial(self._supervise, nursery), self.owner, self.router)
            self._supervise(nursery, "service", self.service.run)
            self._supervise(nursery, "inbox", self.inbox.run)
            self._supervise(nursery, "inbox sweep", self.inbox.sweep)
            self._supervise(nursery, "presence", self.presence.run)
            self._supervise(nursery, "audiences", self.audiences.run)
            self._supervise(nursery, "uplink", self.uplink.run)
            for name, run in (*self.receipts.actors(), *consent_actors(self)):
                self._supervise(nursery, name, run)
            self._supervise(nursery, "router", self.router.run)
            self._supervise(nursery, "intake", self.intake.run)
            for built in self.vendor_lanes:
                name = f"{built.app.key}/{built.channel.name.lower()}"
                self._supervise(nursery, f"credentials {name}", built.keeper.run)
                self._supervise(nursery, f"pool {name}", built.pool.run)
                for actor in built.lanes:
                    self._supervise(nursery, f"lane {name}/{actor.lane.key.class_.name.lower()}", actor.run)
                for probes in built.probe_lanes:
                    self._supervise(nursery, f"probes {name}/{probes.lane.key.class_.name.lower()}", probes.run)
            nursery.start_soon(
                functools.partial(watch_lag, self.metrics, interval_s=self.config.observe.lag_interval_ms / 1000)
            )
            if self.joint is not None:
                await self.joint.start(nursery, self._supervise)
            if self.disk is not None:
                await self.disk.start(self.request_ids, self.router.route, self._lane_actors(), living(self.siblings))
                resume_audiences(self, self.disk)
                self._supervise(nursery, "journal", self.disk.actor.run)
            for name, run in callback_actors(self):
                self._supervise(nursery, name, run)
            _settle_garbage()
            keep_freed_memory()
            if self.joint is not None:
                await self.joint.begin()
            addresses = await self._listen(nursery)
            self._is_ready = True
            self._announce(addresses)
            if ready is not None:
                ready(addresses)
            if self.siblings is not None:
                self.siblings.control.ready()
            await self._stopping.wait()
            await self._drain()
            await self.stores.flush()
            if self.siblings is not None:
                await self.siblings.control.over()
            nursery.cancel_scope.cancel()
        if self.passing is not None:
            self.passing.close()

    def stop(self) -> None:
        """`run` drains and returns. A second call changes nothing."""
        self._stopping.set()

    def close(self) -> None:
        """Files are closed, once nothing runs any more."""
        if self.disk is not None:
            self.disk.close()

    async def refresh(self) -> None:
        """Gauges say how it is now."""
        await self._scrape.refresh()

    async def leave(self, spread_s: float, *, may_lose: bool) -> dict[str, int]:
        return await leave(self, spread_s, may_lose=may_lose)

    async def reopen(self) -> None:
        """What `leave` closed is open again, at the same addresses."""
        assert self._nursery is not None
        if self.config.long_link.listeners:
            self.long_link.listen()
        self.doors = self.doors.reopened()
        await self._open_doors(self._nursery)
        self.rpc.end_shutdown()

    def _supervise(self, nursery: trio.Nursery, name: str, run: Callable[[], Awaitable[None]]) -> None:
        run_supervised = functools.partial(supervise, name, run, clock=self.clock, observer=self._crashes)
        nursery.start_soon(run_supervised, name=name)

    async def _listen(self, nursery: trio.Nursery) -> Ready:
        config = self.config
        await self._open_operator(nursery)
        if self.siblings is not None and self.passing is not None:
            self.passing.listen()
            self.siblings.peers.watch(self.passing)
            self._supervise(nursery, "device passing", self.passing.run)
        links = self.long_link.listen() if config.long_link.listeners else []
        if links:
            bound = tuple(
                msgspec.structs.replace(listener, port=port)
                for listener, (_, port) in zip(self._link_settings.edge.listeners, links, strict=True)
            )
            edge = msgspec.structs.replace(self._link_settings.edge, listeners=bound)
            self._link_settings = msgspec.structs.replace(self._link_settings, edge=edge)
            self._supervise(nursery, "long link", self._run_long_link)
            if self.bans_watch is not None:
                self._supervise(nursery, "bans", self.bans_watch.run)
        rpc, http, receipts = await self._open_doors(nursery)
        return Ready(
            rpc=rpc,
            operator=f"unix://{config.operator_socket}",
            http=http,
            long_link=[
                str(Address(listener.address.scheme, host, port))
                for listener, (host, port) in zip(config.long_link.listeners, links, strict=True)
            ],
            receipts=receipts,
        )

    async def _open_operator(self, nursery: trio.Nursery) -> None:
        """Where operators ask: themselves, or the supervisor for them (app_operator.py)."""
        doors, config = Doors(None, self._crashes), self.config
        converse = functools.partial(self.rpc.converse, name="operator", has_trusted_peer=True)
        path = config.operator_socket if self.siblings is None else self.siblings.operator_socket
        await doors.open(nursery, "operator.socket", Listener(address=Address("unix", path=str(path))), converse)
        if config.operator.address is not None and self.siblings is None:
            converse = functools.partial(self.rpc.converse, name="operator")
            await doors.open(nursery, "operator.address", Listener(address=config.operator.address), converse)

    async def _open_doors(self, nursery: trio.Nursery) -> tuple[list[str], str, list[str]]:
        """The addresses of RPC, HTTP and receipts."""
        converse = functools.partial(self.rpc.converse, name="rpc")
        rpc = await self.doors.open_each(nursery, "rpc.listeners", self.config.rpc.listeners, converse)
        shared = self.siblings
        page = (
            self._scrape.page
            if shared is None
            else SharedScrape(self.metrics, shared.columns, shared.control.refresh_all).page
        )
        http = HealthServer(page, self._not_ready, self.metrics, health_settings(self.config), *self.desks)
        address = await self.doors.open(
            nursery, "http.address", Listener(address=self.config.http.address), http.converse
        )
        told = self.receipts.site(self._not_ready).converse
        receipts = await self.doors.open_each(nursery, "receipts.listeners", self.config.receipts.listeners, told)
        return rpc, address.replace("tcp:", "http:"), receipts

    def _announce(self, addresses: Ready) -> None:
        self.log.info("ready", **addresses._asdict())
        if self.config.dev.clock:
            self.log.warning("THE DEVELOPMENT CLOCK IS ON: time can be moved by an operator; never in production")

    async def _drain(self) -> None:
        """Shutdown, phase by phase, within `drain_s`; what is left is reported."""
        self._is_ready = False
        budget_s = self.config.gateway.drain_s
        self.log.info("stopping", drain_s=budget_s)
        deadline = trio.current_time() + budget_s
        self.rpc.begin_shutdown()
        if self.siblings is not None:
            # Others are there to answer; alone, whoever connects now is told that we are shutting down.
            self.doors.close()
        with trio.move_on_at(deadline):
            await self.intake.stop()
            await self._wait_idle()
        if not self.long_link.is_disposed:
            self.long_link.stop(max(0.0, deadline - trio.current_time()))
        async with trio.open_nursery() as nursery:
            for built in self.vendor_lanes:
                nursery.start_soon(built.pool.drain, max(0.1, deadline - trio.current_time()))
            if self.config.long_link.listeners:
                nursery.start_soon(self._wait_long_link, deadline)
        if self.joint is not None:
            await self.joint.flush(deadline)
            await wait_told(self, deadline)
        # The journal lets go what the archive has.
        await self.stores.flush()
        left = {"rows_in_journal": 0} if self.disk is None else await self.disk.finish(deadline)
        left["rows_in_stores"] = self.stores.rows_kept(self.home)
        lost = self.home.rows_open - sum(left.values())
        self.log.info("stopped", rows_open=self.rows_open(), rows_lost=lost, connections=len(self.rpc), **left)

    async def _wait_idle(self) -> None:
        """Returns when no row is being routed, queued in a lane or in flight at a vendor."""
        lanes = self._lane_actors()
        while not self.router.is_idle or not all(actor.is_idle for actor in lanes):  # noqa: ASYNC110 - once, at the end
            await trio.sleep(0.01)

    def _lane_actors(self) -> list[LaneActor]:
        return [actor for built in self.vendor_lanes for actor in (*built.lanes, *built.probe_lanes)]

    async def _wait_long_link(self, deadline: float) -> None:
        with trio.move_on_at(deadline + 1.0):
            await self.long_link.wait_stopped()

    # -- seeing

    def _not_ready(self) -> list[str]:
        own = [] if self._is_ready else ["starting or stopping"]
        return own if self.siblings is None else own + self.siblings.control.not_ready

    def rows_open(self) -> dict[str, int]:
        return rows_open(self.home)

    def status(self) -> dict[str, Any]:
        """What `pushgw status` shows."""
        home, devices = self.home.statistics(), self.devices.statistics()
        longest = self.metrics.longest_step_s.value()
        return {
            "node": self.config.gateway.node,
            "is_ready": self._is_ready,
            "now_unix_ms": self.clock.unix_ms(),
            "rows_open": self.rows_open(),
            "pages": home.pages,
            "ledger_bytes": home.ledger_bytes,
            "devices": devices.devices,
            "devices_online": devices.online,
            "inbox_rows": len(self.inbox_store),
            "parked_rows": self.router.parked_rows,
            "journal": {} if self.disk is None else self.disk.status(),
            "connections": len(self.rpc),
            "longest_step_ms": round(longest * 1000, 3),
            "lanes": [lane_status(built, actor) for built in self.vendor_lanes for actor in built.lanes],
        }


# -- settings of parts


def _settle_garbage() -> None:
    """What was made at start lives as long as the process, and looking through it costs tens of milliseconds each
    time: the collector is told to leave it alone, and to look at young objects only in portions that fit a step. Done
    while nobody waits for this worker yet."""
    gc.collect()
    gc.freeze()
    # What has survived is looked through once more after few portions: after fifty it was a step of 20 ms.
    gc.set_threshold(_YOUNG_OBJECTS, 8, 6000)


def serve(config: Config, *, ready: Callable[[dict[str, Any]], None] | None = None) -> int:
    """Runs the gateway until SIGTERM or SIGINT; returns the exit code. Raises ConfigError before anything starts."""
    data_dir = DataDir(config.gateway.data_dir)
    make_missing_secrets(config)
    make_data_ready(config)
    # The journal's thread must not wait for long, nor hold the loop up: docs/decisions.md has the measurement.
    sys.setswitchinterval(config.gateway.switch_interval_ms / 1000)
    try:
        serve_until_signal(lambda: Worker(config), None if ready is None else lambda found: ready(found._asdict()))
    finally:
        data_dir.close()
    return 0


def load(path: str, **overrides: Any) -> Config:
    """The configuration of a file, with its missing development secrets made first."""
    config = load_config(path, overrides=overrides, with_files=False)
    make_missing_secrets(config)
    return load_config(path, overrides=overrides)
