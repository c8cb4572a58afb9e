"""Several workers in one loop, joined by links over memory streams; each is a world of tests/actors/conftest.py."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from gateway.actors.audience_desk import AudienceDesk
from gateway.actors.audiences import Audiences
from gateway.actors.foreign_rows import ForeignRows
from gateway.actors.foreign_stops import ForeignStops
from gateway.actors.front import Front
from gateway.actors.inbox_places import InboxPlaces
from gateway.actors.intake import Intake
from gateway.actors.ledger import LedgerActor
from gateway.actors.merged_receipts import ReceiptSource
from gateway.actors.merged_streams import MergedStream
from gateway.actors.presence import Presence
from gateway.actors.service import AppView, Service
from gateway.actors.spread import Spread
from gateway.actors.stand_ins import StandIns
from gateway.actors.worker_link import GATHER_S, LATE_S
from gateway.actors.worker_links import WorkerLinks, make_hello
from gateway.batch import OwnershipEpoch
from gateway.content import Variant
from gateway.core.ownership import Ownership, journal_of
from gateway.core.request_ids import RequestIds, request_key
from gateway.core.shadow import Life
from gateway.errors import Overloaded, RemoteProtocolError
from gateway.ledger import Channel, LedgerPage
from gateway.message_id import SEQUENCES_MAX
from gateway.net.edge_table import ConnectionTable
from gateway.observe.counting import AudienceCounts, IntakeCounts, ServiceCounts
from gateway.store.memory import MemoryInbox, MemoryJournal, MemoryLedgerArchive
from gateway.store.ports import InboxQuery
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.refusal import refusal
from gateway.wire.rpc.server import Requested


class Watch:
    """What the actors of a worker report."""

    def __init__(self) -> None:
        self.rows_sent = 0
        self.dropped = 0
        self.again = 0
        self.uncertain = 0
        self.received_rows = 0
        self.dead_rows = 0
        self.errors: list[RemoteProtocolError] = []
        self.links = 0

    def sent(self, worker: int, rows: int, size: int) -> None:
        self.rows_sent += rows

    def reported(self, worker: int, rows: int, dropped: int) -> None:
        self.dropped += dropped

    def taken_back(self, worker: int, again: int, uncertain: int) -> None:
        self.again += again
        self.uncertain += uncertain

    def received(self, worker: int, rows: int) -> None:
        self.received_rows += rows

    def for_the_dead(self, rows: int) -> None:
        self.dead_rows += rows

    def opened(self, worker: int) -> None:
        self.links += 1

    def ended(self, worker: int) -> None:
        self.links -= 1

    def broken(self, worker: int, error: RemoteProtocolError) -> None:
        self.errors.append(error)


class Limits:
    """Of all mailboxes between workers."""

    def __init__(
        self,
        credit_rows: int = 1000,
        credit_bytes: int = 1 << 20,
        parked_rows_max: int = 10_000,
        foreign_rows_max: int = 10_000,
    ) -> None:
        self.credit_rows = credit_rows
        self.credit_bytes = credit_bytes
        self.parked_rows_max = parked_rows_max
        self.foreign_rows_max = foreign_rows_max


class WorkerTwin:
    """One life of a worker: its world, and what joins it to the others."""

    def __init__(self, cluster: Cluster, index: int, incarnation: int) -> None:
        self.cluster = cluster
        self.life = Life(index, incarnation)
        self.world = world = cluster.make_world(journal=journal_of(0, index))
        self.watch = Watch()
        limits = cluster.limits
        self.spread = Spread(
            ownership=cluster.ownership,
            me=index,
            home=world.home,
            clock=world.clock,
            observer=self.watch,
            resends=lambda page, rows: np.full(len(rows), cluster.resends),
            parked_rows_max=limits.parked_rows_max,
        )
        self.foreign = ForeignRows(
            home=world.home,
            clock=world.clock,
            observer=self.watch,
            route=world.router.route,
            check_room=world.router.check_room,
            open_rows_max=limits.foreign_rows_max,
            credit_rows=limits.credit_rows,
            credit_bytes=limits.credit_bytes,
        )
        hello = make_hello(
            index,
            incarnation,
            cluster.ownership.workers,
            credit_rows=limits.credit_rows,
            credit_bytes=limits.credit_bytes,
        )
        self.links = WorkerLinks(hello, spread=self.spread, foreign=self.foreign, observer=self.watch, dial=self.dial)
        self.stops = ForeignStops(world.home, self.links, world.control)
        self.foreign.on_arrived = self.stops.arrived
        world.router.connect_spread(self.spread)
        world.router.on_routed = self.foreign.on_routed
        self.spread.route_again = world.router.route_again
        self.nursery: trio.Nursery | None = None
        self.ended = trio.Event()

    async def dial(self, worker: int) -> trio.abc.Stream:
        return await self.cluster.connect(worker)

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as self.nursery:
                for run in (self.spread.run, self.foreign.run, self.stops.run, self.links.run):
                    self.nursery.start_soon(run)
                await self.world.start(self.nursery)
        finally:
            self.nursery = None
            self.ended.set()


class Cluster:
    """n workers, and what their supervisor does."""

    def __init__(
        self,
        nursery: trio.Nursery,
        make_world: Callable[..., Any],
        n: int = 2,
        limits: dict[str, int] | None = None,
        **world: Any,
    ) -> None:
        self._nursery = nursery
        self._make_world = make_world
        self._world = world
        self.ownership = Ownership(n)
        self.limits = Limits(**(limits or {}))
        #: Rows that may have left a dead worker go again; else they end uncertain.
        self.resends = False
        self.workers: list[WorkerTwin] = []
        self._incarnation = 0
        self.registered = 0

    def make_world(self, **fields: Any) -> Any:
        return self._make_world(**(self._world | fields))

    async def connect(self, worker: int) -> trio.abc.Stream:
        twin = self.workers[worker]
        if twin.nursery is None:
            raise ConnectionRefusedError(111, "nobody listens")
        ours, theirs = trio.testing.memory_stream_pair()
        twin.nursery.start_soon(twin.links.serve, theirs)
        return ours

    async def start(self) -> None:
        for index in range(self.ownership.workers):
            self.workers.append(self._make(index))
        for worker in self.workers:
            await self._up(worker)
        await self.settle()

    def _make(self, index: int) -> WorkerTwin:
        self._incarnation += 1
        return WorkerTwin(self, index, self._incarnation)

    async def _up(self, worker: WorkerTwin) -> None:
        self._nursery.start_soon(worker.run)
        for other in self.workers:
            if other is not worker and other.nursery is not None:
                other.links.peer_up(*worker.life)
                worker.links.peer_up(*other.life)
        await self.settle()

    async def kill(self, index: int) -> WorkerTwin:
        """What the worker had not written is lost with it; the others hear of it a moment later."""
        worker = self.workers[index]
        assert worker.nursery is not None
        worker.nursery.cancel_scope.cancel()
        await worker.ended.wait()
        for other in self.workers:
            if other is not worker:
                other.links.peer_died(*worker.life)
        await self.settle()
        return worker

    async def revive(self, index: int, devices: Sequence[bytes] = ()) -> None:
        """The next life of the worker, which knows these devices already."""
        self.workers[index] = self._make(index)
        for device in devices:
            self.workers[index].world.register(1, Channel(device[0]), first=int.from_bytes(device[7:], "big"))
        await self._up(self.workers[index])

    async def settle(self) -> None:
        """Everything has happened that happens at once, reports that gather and late news included."""
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(LATE_S + 3 * GATHER_S)
        await trio.testing.wait_all_tasks_blocked()

    # -- devices and rows

    def owned_by(self, worker: int, n: int, channel: Channel = Channel.APNS) -> list[bytes]:
        """n devices of that worker, registered there, each with a token (none for NONE)."""
        found: list[bytes] = []
        while len(found) < n:
            self.registered += 1
            name = (b"%c" % int(channel)) + b"device" + self.registered.to_bytes(9, "big")
            if self.ownership.owner(name) == worker:
                found += self.workers[worker].world.register(1, channel, first=self.registered)
        return found

    def world(self, index: int) -> Any:
        return self.workers[index].world

    async def send(self, home: int, targets: list[Any], variant: Variant | None = None, **columns: Any) -> LedgerPage:
        world = self.world(home)
        page: LedgerPage = world.open(targets, variant, **columns)
        world.router.route(page)
        await self.settle()
        return page

    def answer_all(self, worker: int, status: int = 200) -> int:
        """The vendors of that worker answer everything they have; returns how many."""
        n = 0
        for vendor in self.world(worker).vendors.values():
            for connection in vendor.connections:
                if connection.open:
                    n += len(connection.open)
                    connection.answer(status, n=len(connection.open))
        return n


class Site:
    """Workers whose inboxes outlive them, as on a disk. has_archives: pages, too, and little memory for them."""

    def __init__(
        self, cluster: Cluster, nursery: trio.Nursery, store_type: type[MemoryInbox], *, has_archives: bool
    ) -> None:
        self.cluster = cluster
        self._nursery = nursery
        self.stores = [store_type(rows_per_device_max=100, rows_max=10_000) for _ in cluster.workers]
        self.archives = [MemoryLedgerArchive() for _ in cluster.workers] if has_archives else []
        self.places: list[InboxPlaces] = []
        self._scopes: list[trio.CancelScope] = []

    async def join_all(self) -> None:
        for index in range(len(self.cluster.workers)):
            await self._join(index)
        await self.cluster.settle()

    async def _join(self, index: int) -> None:
        worker = self.cluster.workers[index]
        world = worker.world
        world.inbox._store = self.stores[index]
        places = InboxPlaces(
            home=world.home,
            clock=world.clock,
            store=self.stores[index],
            ownership=self.cluster.ownership,
            me=index,
            node=0,
            links=worker.links,
            spread=worker.spread,
            pages=world.inbox,
            forget=world.inbox.forget_stored,
            on_arrived=worker.stops.arrived,
        )
        world.inbox.places = places
        runs = [places.run]
        if self.archives:
            runs.append((await self._open_archive(index, places)).run)
        scope = trio.CancelScope()
        self.places[index:] = [places, *self.places[index + 1 :]]
        self._scopes[index:] = [scope, *self._scopes[index + 1 :]]
        self._nursery.start_soon(self._run, runs, scope)

    async def _open_archive(self, index: int, places: InboxPlaces) -> LedgerActor:
        world = self.cluster.workers[index].world
        world.home._ledger_bytes_max = 20_000
        ledger: LedgerActor = world.ledger_on(self.archives[index], inbox=self.stores[index], held_write_s=0.1)
        await ledger.load()
        # As app_stores does.
        stored = self.stores[index]._rows
        born = [row.born_unix_ms for row in stored.values()]
        world.inbox.doubtful_until_unix_ms = max([ledger.newest_at_start_unix_ms, *born])
        own = [(row.born_unix_ms, tag >> 16) for tag, row in stored.items() if tag >> (16 + 22) == index]
        if own:
            world.home.begin_after(max(own)[1] % SEQUENCES_MAX, max(own)[0])
        ledger.stored_rows = places.stored_rows
        ledger.on_due = world.router.sweep_soon
        world.inbox.fetch, world.inbox.fetch_to_end = ledger.fetch, ledger.fetch_to_end
        world.inbox.fetch_rows = ledger.fetch_rows
        world.owner.ask_archive = ledger.late
        return ledger

    @staticmethod
    async def _run(runs: Sequence[Callable[[], Awaitable[None]]], scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                for run in runs:
                    nursery.start_soon(run)

    async def kill(self, index: int) -> None:
        self._scopes[index].cancel()
        await self.cluster.kill(index)

    async def revive(self, index: int, devices: list[bytes]) -> None:
        twin = self.cluster.workers[index] = self.cluster._make(index)
        for device in devices:
            twin.world.register(1, Channel(device[0]), first=int.from_bytes(device[7:], "big"))
        # Before others hear of it and send what they have for it.
        await self._join(index)
        await self.cluster._up(twin)

    async def tags(self, index: int) -> list[int]:
        found: list[int] = (await self.stores[index].find(InboxQuery(), 1000)).tags.tolist()
        return found

    def shadows_open(self, index: int) -> int:
        rows: int = self.cluster.world(index).home.shadows.rows_open
        return rows


#: What a client's session puts its own number over.
UNSENT = 1
#: Of message ids and request ids.
SECRET = b"message id secret"


class Session:
    def __init__(self, role: str, credit: int) -> None:
        self.role, self.app_key, self.name = role, "shop" if role == "app" else "", "a client"
        self.credit = credit

    def stream_credit(self, stream: int) -> int:
        return self.credit


class Client:
    """One connection to a worker, as its front sees it."""

    def __init__(self, front: Front, role: str = "app", credit: int = 1000) -> None:
        self.front = front
        self.session = Session(role, credit)
        self.answers: list[Any] = []
        self.granted = 0

    def answer(self, message: Any) -> bool:
        self.answers.append(message)
        if isinstance(message, messages.Receipts | messages.PresenceChanges):
            self.session.credit -= message.n
        return True

    def refuse(self, request_id: int, cause: BadRequest | Overloaded) -> None:
        self.answers.append(refusal(request_id, cause))

    def grant(self, rows: int, payload_bytes: int) -> None:
        self.granted += rows

    async def ask(self, message: Any) -> Any:
        """The one answer."""
        if message.id == UNSENT:
            message.id = 5
        before = len(self.answers)
        self.front.request(self, Requested(message, 100, {}))
        with trio.fail_after(10):
            while len(self.answers) == before:
                await trio.sleep(0.01)
        assert len(self.answers) == before + 1
        return self.answers[-1]


class Offices:
    """A service and a front at each worker."""

    def __init__(self, cluster: Any, disk_apps: Sequence[str] = ()) -> None:
        self.cluster = cluster
        self.disk_apps = disk_apps
        self.fronts: list[Any] = [None] * cluster.ownership.workers
        self.presences: list[Any] = [None] * cluster.ownership.workers
        self.stand_ins: list[Any] = [None] * cluster.ownership.workers
        self.stood_in: list[int] = []
        self.ids_told = 0
        for index in range(cluster.ownership.workers):
            self.open(index)

    def open(self, index: int) -> None:
        worker = self.cluster.workers[index]
        world = worker.world
        request_ids = RequestIds(ids_max=100, age_ms=3_600_000)
        intake = Intake(
            home=world.home,
            journal=MemoryJournal(),
            epoch=OwnershipEpoch(1),
            secret=SECRET,
            clock=world.clock,
            route=world.router.route,
            observer=IntakeCounts(world.metrics, ["shop"]),
            gather_s=0.001,
            gather_busy_s=0.0,
            gather_rows_max=100_000,
            batch_bytes_max=1 << 20,
            request_ids=request_ids,
            app_keys=["shop"],
            tasks=world.control,
        )
        table = ConnectionTable(64, 40, now=trio.current_time())

        class Sessions:
            def __init__(self) -> None:
                self.table = table

        presence = Presence(n_apps=1, devices=world.devices, link=Sessions, clock=world.clock, now=trio.current_time)
        audiences = Audiences(
            intake=intake,
            home=world.home,
            clock=world.clock,
            observer=AudienceCounts(world.metrics),
            finder=AudienceDesk(devices=world.devices, online=presence.online_ids),
            chunk_rows=10,
            queued_rows_max=100,
            running_max=2,
        )
        service = Service(
            apps=[AppView(0, "shop", frozenset({Channel.APNS}), {Channel.APNS: lambda token: ""})],
            intake=intake,
            home=world.home,
            devices=world.devices,
            clock=world.clock,
            observer=ServiceCounts(world.metrics, world.log),
            status=dict,
            check_room=lambda: None,
            newest_secret=lambda key: b"secret",
            presence=presence,
            audiences=audiences,
            control=world.control,
        )
        workers = self.cluster.ownership.workers
        self.presences[index] = presence
        stand_ins = self.stand_ins[index] = StandIns(
            ownership=self.cluster.ownership,
            me=index,
            links=worker.links,
            request_ids=request_ids,
            clock=world.clock,
            observer=self,
            disk_apps=self.disk_apps,
        )
        front = self.fronts[index] = Front(
            service=service,
            links=worker.links,
            ownership=self.cluster.ownership,
            me=index,
            node=0,
            app_numbers={"shop": 0},
            request_key=functools.partial(request_key, SECRET),
            receipts=MergedStream(ReceiptSource(world.home), worker.links, worker.life, workers),
            presence=MergedStream(presence.source(), worker.links, worker.life, workers),
            stand_ins=stand_ins,
        )
        for run in (intake.run, service.run, front.run, stand_ins.run):
            worker.nursery.start_soon(run)
        self.meet(index)
        worker.nursery.start_soon(stand_ins.begin)

    def meet(self, index: int) -> None:
        """As the supervisor does it when a worker is linked."""
        down = []
        for other in self.cluster.workers:
            if other.nursery is None or self.stand_ins[other.life.worker] is None:
                down.append(Life(other.life.worker, other.life.incarnation - (other.nursery is not None)))
            elif other.life.worker != index:
                self.stand_ins[index].peer_linked(*other.life)
                self.stand_ins[other.life.worker].peer_linked(*self.cluster.workers[index].life)
        self.stand_ins[index].peers_met(down)

    async def kill(self, index: int, *, is_known: bool = True) -> None:
        worker = await self.cluster.kill(index)
        self.stand_ins[index] = None
        if is_known:
            self.tell_of_death(worker.life)

    def tell_of_death(self, life: Life) -> None:
        for stand_ins in self.stand_ins:
            if stand_ins is not None:
                stand_ins.peer_died(*life)

    async def revive(self, index: int, devices: Sequence[bytes] = ()) -> None:
        await self.cluster.revive(index, devices)
        self.open(index)
        await self.cluster.settle()

    def stood_in_for(self, worker: int) -> None:
        self.stood_in.append(worker)

    def told(self, ids: int) -> None:
        self.ids_told += ids

    def client(self, index: int, **fields: Any) -> Client:
        return Client(self.fronts[index], **fields)

    def clients(self, **fields: Any) -> list[Client]:
        return [self.client(index, **fields) for index in range(self.cluster.ownership.workers)]


@pytest.fixture
def cluster_type() -> type[Cluster]:
    return Cluster


@pytest.fixture
def make_cluster(make_world: Callable[..., Any], nursery: trio.Nursery) -> Callable[..., Any]:
    async def make(n: int = 2, limits: dict[str, int] | None = None, **world: Any) -> Cluster:
        cluster = Cluster(nursery, make_world, n, limits, **world)
        await cluster.start()
        return cluster

    return make


@pytest.fixture
def make_site(make_cluster: Callable[..., Any], nursery: trio.Nursery) -> Callable[..., Any]:
    async def make(
        n: int = 2, store_type: type[MemoryInbox] = MemoryInbox, *, has_archives: bool = False, **cluster: Any
    ) -> Site:
        made = Site(await make_cluster(n, **cluster), nursery, store_type, has_archives=has_archives)
        await made.join_all()
        return made

    return make


@pytest.fixture
def open_offices(make_cluster: Callable[..., Any]) -> Callable[..., Any]:
    async def make(n: int = 2, disk_apps: Sequence[str] = (), **fields: Any) -> Offices:
        offices = Offices(await make_cluster(n, **fields), disk_apps)
        await offices.cluster.settle()
        return offices

    return make
