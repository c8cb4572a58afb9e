"""What joins a worker to its siblings: rows that go to their owners and come from other homes, and requests that
another worker has to answer. Built only where there are several workers; a worker alone has none of it.

    router --> Spread --+                                     RpcListener --> Front --> Service
                        +--> WorkerLinks <--> siblings                          |
    router <-- ForeignRows                                                      +--> WorkerLinks
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from gateway.actors.audience_desk import AudienceDesk
from gateway.actors.audience_peers import JoinedDesk
from gateway.actors.borrowed_credential import BorrowedCredential, CredentialMakers
from gateway.actors.credentials import CredentialKeeper
from gateway.actors.device_reports import DeviceReports, DistantReports, ReportObserver
from gateway.actors.foreign_rows import ForeignRows
from gateway.actors.foreign_stops import ForeignStops
from gateway.actors.front import Front
from gateway.actors.held_rows import HeldRows
from gateway.actors.inbox_places import InboxPlaces
from gateway.actors.joined_copies import JoinedCopies
from gateway.actors.joined_spans import JoinedSpans
from gateway.actors.ledger import LedgerActor
from gateway.actors.merged_receipts import ReceiptSource
from gateway.actors.merged_streams import MergedStream
from gateway.actors.pools_ahead import PoolsAhead
from gateway.actors.rate_sharing import RateSharing, SharedRate
from gateway.actors.service import Service
from gateway.actors.spread import Spread
from gateway.actors.stand_ins import StandIns
from gateway.actors.store_desk import StoreDesk
from gateway.actors.vendor_breaker import VendorBreaker
from gateway.actors.worker_links import WorkerLinks, make_hello
from gateway.app_consents import join_consents
from gateway.app_siblings import Siblings, counter_of_consents, ownership_of
from gateway.columns import Bool, Rows
from gateway.config import Config, message_id_secret
from gateway.core.options import AppDefaults, compile_options
from gateway.core.recovery import resend_table
from gateway.core.request_ids import request_key
from gateway.core.shadow import Life
from gateway.ledger import CHANNEL_NAMES, LedgerPage
from gateway.net.link_stream import LinkStream
from gateway.net.unix import open_unix_listener
from gateway.observe.links import LinkCounts
from vendors import SENT_ONCE

if TYPE_CHECKING:
    from gateway.app import Worker
    from gateway.app_vendors import VendorLane


class Joint:
    """worker: built as far as its router; its service is named by `serve`."""

    def __init__(self, worker: Worker, siblings: Siblings, defaults: list[AppDefaults]) -> None:
        config, place = worker.config, siblings.place
        self._worker = worker
        self._siblings = siblings
        self.ownership = ownership_of(config)
        counts = LinkCounts(worker.metrics, worker.log)
        self.spread = Spread(
            ownership=self.ownership,
            me=place.worker,
            home=worker.home,
            clock=worker.clock,
            observer=counts,
            resends=functools.partial(_resends, config, defaults),
            parked_rows_max=config.links.parked_rows_max,
        )
        self.foreign = ForeignRows(
            home=worker.home,
            clock=worker.clock,
            observer=counts,
            route=worker.router.route,
            check_room=worker.router.check_room,
            open_rows_max=config.gateway.open_rows_max,
            credit_rows=config.links.credit_rows,
            credit_bytes=config.links.credit_bytes,
        )
        hello = make_hello(
            place.worker,
            place.incarnation,
            place.workers,
            credit_rows=config.links.credit_rows,
            credit_bytes=config.links.credit_bytes,
        )
        self.links = WorkerLinks(hello, spread=self.spread, foreign=self.foreign, observer=counts, dial=self._dial)
        self.makers = CredentialMakers(self.links)
        join_consents(worker, self.links)
        self.stops = ForeignStops(worker.home, self.links, worker.control)
        self.foreign.on_arrived = self.stops.arrived
        self.held = HeldRows(worker.home, self.spread.holders, self.links)
        self.links.is_serving = worker.disk is None
        if worker.disk is not None:
            disk_apps = worker.disk.apps
            worker.disk.held = self.held
            worker.home.shadows.awaits_home = lambda app: app in disk_apps
        self.inbox_places: InboxPlaces | None = None
        self._copies: JoinedCopies | None = None
        self._spans: JoinedSpans | None = None
        if worker.stores.ledger is not None:
            self._join_stores(worker.stores.ledger)
        worker.router.connect_spread(self.spread)
        worker.router.on_routed = self.foreign.on_routed
        self.spread.route_again = worker.router.route_again
        self.stand_ins = StandIns(
            ownership=self.ownership,
            me=place.worker,
            links=self.links,
            request_ids=worker.request_ids,
            clock=worker.clock,
            observer=counts,
            disk_apps=[app.key for app in config.apps if app.durability == "disk"],
        )
        self.front: Front | None = None
        self._audiences: JoinedDesk | None = None
        self._distant_reports: DistantReports | None = None
        self._pools_ahead: PoolsAhead | None = None

    def _join_stores(self, ledger: LedgerActor) -> None:
        """Rows of the inbox may have their page at another worker."""
        worker, place = self._worker, self._siblings.place
        self.inbox_places = worker.inbox.places = InboxPlaces(
            home=worker.home,
            clock=worker.clock,
            store=worker.inbox_store,
            ownership=self.ownership,
            me=place.worker,
            node=worker.config.gateway.node,
            links=self.links,
            spread=self.spread,
            pages=worker.inbox,
            forget=worker.inbox.forget_stored,
            on_arrived=self.stops.arrived,
        )
        ledger.stored_rows = self.inbox_places.stored_rows

    def join_desk(self, desk: StoreDesk) -> StoreDesk:
        """The desk knows the tasks of all homes, and copies the stores of all workers."""
        me = self._siblings.place.worker
        self._spans = JoinedSpans(desk.spans, self.links, home_of=self._home_of, me=me)
        desk.find_spans = self._spans.find
        if desk.copies is not None:
            place = self._siblings.place
            self._copies = JoinedCopies(desk.copies, self.links, workers=place.workers, me=place.worker)
            desk.copies = self._copies
        return desk

    def join_audiences(self, desk: AudienceDesk) -> JoinedDesk:
        """Audiences reach the devices of all workers."""
        self._audiences = JoinedDesk(desk, self.links, self.ownership, self._siblings.place.worker)
        return self._audiences

    def _home_of(self, task_id: bytes) -> int:
        assert self.front is not None
        return self.front.home_of(task_id)

    def share_credential(
        self, name: str, keeper: CredentialKeeper, breaker: VendorBreaker
    ) -> CredentialKeeper | BorrowedCredential:
        """The keeper itself where it is this worker's to make the value, else one that asks for it."""
        maker = self.ownership.owner_of_name(f"credential/{name}")
        if maker == self._siblings.place.worker:
            self.makers.add(name, keeper)
            return keeper
        lease_s = self._worker.config.links.lease_s
        borrowed = BorrowedCredential(
            name, keeper, maker=maker, links=self.links, clock=self._worker.clock, lease_s=lease_s
        )

        def on_value() -> None:
            breaker.credential_issued()
            breaker.ring()

        borrowed.on_value = on_value
        return borrowed

    def share_reports(self, reports: DeviceReports, observer: ReportObserver) -> None:
        """Reports of this worker's devices count for rows of any home."""
        place = self._siblings.place
        reports.distant = self._distant_reports = DistantReports(
            links=self.links,
            ownership=self.ownership,
            me=place.worker,
            node=self._worker.config.gateway.node,
            here=reports,
            observer=observer,
        )

    def _share_rates(self, vendors: list[VendorLane]) -> RateSharing:
        """What the workers' shares of each vendor's rate add up to moves to those who need it."""
        place = self._siblings.place
        rates = [
            SharedRate(
                f"{built.app.key}/{built.channel.name.lower()}",
                built.bucket.statistics().rate_per_s * place.workers,
                built.bucket.statistics().burst,
                built.bucket,
                functools.partial(_waiting_rows, built),
                functools.partial(_ring, built),
            )
            for built in vendors
            if built.bucket.statistics().rate_per_s != math.inf
        ]
        return RateSharing(
            rates,
            lender_of=lambda name: self.ownership.owner_of_name(f"rate/{name}"),
            me=place.worker,
            workers=place.workers,
            links=self.links,
            clock=self._worker.clock,
            lease_s=self._worker.config.links.lease_s,
        )

    def serve(self, service: Service) -> Front:
        """Requests go through this from now on."""
        config, place = self._worker.config, self._siblings.place
        life = Life(place.worker, place.incarnation)
        self.front = Front(
            service=service,
            links=self.links,
            ownership=self.ownership,
            me=place.worker,
            node=config.gateway.node,
            app_numbers={app.key: index for index, app in enumerate(config.apps)},
            request_key=functools.partial(request_key, message_id_secret(config)),
            receipts=MergedStream(ReceiptSource(self._worker.home), self.links, life, place.workers),
            presence=MergedStream(self._worker.presence.source(), self.links, life, place.workers),
            stand_ins=self.stand_ins,
            counter_of_consents=counter_of_consents(config),
        )
        return self.front

    async def start(self, nursery: trio.Nursery, supervise: Callable[..., None]) -> None:
        """The socket for links is open, and everything here runs. With a journal on the disk, most of what others ask
        is answered when that is read."""
        assert self.front is not None
        assert self._distant_reports is not None
        assert self._audiences is not None
        supervise(nursery, "spread", self.spread.run)
        supervise(nursery, "foreign rows", self.foreign.run)
        supervise(nursery, "stops", self.stops.run)
        supervise(nursery, "front", self.front.run)
        supervise(nursery, "stand-ins", self.stand_ins.run)
        supervise(nursery, "audience peers", self._audiences.run)
        if self.inbox_places is not None:
            supervise(nursery, "inbox places", self.inbox_places.run)
        if self._copies is not None:
            supervise(nursery, "copies", self._copies.run)
        assert self._spans is not None
        supervise(nursery, "task spans", self._spans.run)
        supervise(nursery, "device reports", self._distant_reports.run)
        supervise(nursery, "rates", self._share_rates(self._worker.vendor_lanes).run)
        listener = await open_unix_listener(str(self._path(self._siblings.place.worker)), mode=0o600)
        nursery.start_soon(trio.serve_listeners, self._serve_link, [listener])
        # Not supervised: where it fails, rows are under way that nobody can account for, and the worker must end.
        nursery.start_soon(self.links.run)
        peers = self._siblings.peers
        peers.watch_meeting(self.stand_ins)
        for watcher in (self.links, self.stand_ins):
            peers.watch_links(watcher)
            peers.watch(watcher)
        pools = {
            f"{built.app.key}/{built.channel_name}": built.pool for built in self._worker.vendor_lanes if built.is_http2
        }
        self._pools_ahead = PoolsAhead(pools, self.links)
        self._siblings.control.linked()

    async def begin(self) -> None:
        """This worker is ready to take request ids, and takes them. If cancelled: it does not."""
        assert self._pools_ahead is not None
        await self._pools_ahead.open(self._siblings.living)
        await self.stand_ins.begin()

    async def _dial(self, worker: int) -> trio.abc.Stream:
        return LinkStream(await trio.open_unix_socket(str(self._path(worker))))

    async def _serve_link(self, stream: trio.SocketStream) -> None:
        await self.links.serve(LinkStream(stream))

    def _path(self, worker: int) -> Path:
        return Path(self._siblings.place.run_folder) / f"worker-{worker}.sock"

    def record(self) -> None:
        """Gauges, just before a scrape."""
        metrics = self._worker.metrics
        metrics.links_open.set(len(self.links.lives()))
        metrics.link_parked_rows.set(self.spread.parked_rows)
        metrics.foreign_rows_open.set(self._worker.home.shadows.rows_open)

    async def flush(self, deadline: float) -> None:
        """The homes know what became of their rows, unless that takes longer. If cancelled: some do not."""
        shadows = self._worker.home.shadows
        with trio.move_on_at(deadline):
            for life in self.links.lives():
                self.links.late_news_now(life)
            while any(shadows.has_news(life) for life in self.links.lives()):  # noqa: ASYNC110
                await trio.sleep(0.005)


def _waiting_rows(built: VendorLane) -> int:
    return sum(lane.waiting_rows for lane in (*built.lanes, *built.probe_lanes))


def _ring(built: VendorLane) -> None:
    for lane in (*built.lanes, *built.probe_lanes):
        lane.ring()


def _resends(config: Config, defaults: list[AppDefaults], page: LedgerPage, rows: Rows) -> Bool:
    """Which rows may go again though a first attempt may have arrived: `retry.on_uncertain_*` of their class."""
    options = compile_options(page.batch, defaults[page.batch.app], rows)
    rules = config.retry
    table = resend_table(
        system=rules.on_uncertain_system == "resend",
        marketing=rules.on_uncertain_marketing == "resend",
        once=[CHANNEL_NAMES[name] for name in SENT_ONCE],
    )
    chosen: Bool = table[page.channel[rows], options.classes[options.variant_index(page.batch, rows)]]
    return chosen
