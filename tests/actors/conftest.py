"""A small world, long because all actor tests share it. Real are home, device table, stores, renderers and vendors;
twins stand only at the ends.

`SocketsTwin` stands for the long link's sockets, `ConnectionTwin` for one connection to a vendor. Both do what the real
one promises in its docstring, and the test plays the far end.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import trio
import trio.testing

from gateway.actors.device_owner import DeviceOwner
from gateway.actors.inbox import InboxActor
from gateway.actors.journal import IssueMarks
from gateway.actors.lane import LaneActor
from gateway.actors.ledger import LedgerActor
from gateway.actors.long_link import LongLink
from gateway.actors.long_link_port import LongLinkSettings
from gateway.actors.probe_lane import ProbeLane, ProbeWay
from gateway.actors.rendering import LaneRenderer, LinkRenderer
from gateway.actors.router import Router
from gateway.actors.task_control import TaskControl
from gateway.actors.token_guard import TokenGuard
from gateway.actors.vendor_breaker import VendorBreaker, VerdictWatch
from gateway.actors.vendor_pool import VendorPool
from gateway.batch import OwnershipEpoch, Submission
from gateway.clock import Clock, SystemClock
from gateway.columns import TextColumn, join
from gateway.content import Class, Variant
from gateway.core.breaker import BreakerSettings
from gateway.core.bucket import TokenBucket
from gateway.core.device_gates import DeviceGates
from gateway.core.devices import DeviceLimits, DeviceTable
from gateway.core.gather import Part, build_batch
from gateway.core.home import Home
from gateway.core.lane import Lane, LaneKey
from gateway.core.options import AppDefaults
from gateway.core.registration import Registrations
from gateway.core.render import Renderer
from gateway.core.retry import RetryPolicy
from gateway.core.segments import HashKey
from gateway.core.stopping import StoppedTasks
from gateway.core.target_paces import TargetPaces
from gateway.core.trail import Trail
from gateway.core.unregister_guard import GuardSettings
from gateway.errors import CloseReason, StoreError
from gateway.ledger import NO_VERDICT, Channel, LedgerPage, Reason, State
from gateway.marks import RowMarks
from gateway.net.edge_settings import EdgeSettings, ListenerSettings
from gateway.observe.counting import HomeCounts, LaneCounts, OwnerCounts, PoolCounts, RouterCounts
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.observe.vendor_health import BreakerCounts, GuardCounts
from gateway.store.memory import MemoryInbox
from gateway.vendor import TargetPace
from gateway.wire.h2.events import AnswerDetail, Answers, SettingsChanged, Terminated
from gateway.wire.rpc.client import Answered, ClientSession, Closed
from vendors import apns, fcm, huawei, vivo

SECRET = b"message id secret"
#: Steps of all tasks that one wait of a test may take. A wait takes dozens; actors that wake each other in a circle
#: would take for ever, since trio's test clock only moves when all rest.
STEPS_MAX = 20_000
EPOCH = OwnershipEpoch(1)
NO_TAGS = np.zeros(0, np.int64)


class _Steps(trio.abc.Instrument):
    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self.n = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.n += 1
        if self.n > STEPS_MAX:
            self._scope.cancel()


@contextlib.contextmanager
def may_not_spin() -> Iterator[None]:
    """Fails the test where the actors wake each other without end."""
    with trio.CancelScope() as scope:
        steps = _Steps(scope)
        trio.lowlevel.add_instrument(steps)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(steps)
    assert steps.n <= STEPS_MAX, "the actors spin"


class CredentialTwin:
    """What a lane asks of the credential keeper."""

    def __init__(self) -> None:
        self.value: bytes | None = b"bearer one"
        self.refused_values: list[bytes] = []
        self.kept = 0
        self.is_denied = False

    def get_nowait(self) -> bytes | None:
        return self.value

    def refused(self, value: bytes) -> None:
        self.refused_values.append(value)

    def keep_current(self) -> None:
        self.kept += 1


class SocketsTwin:
    """The long link's sockets. windows: how many more rows each device takes (absent: 32)."""

    def __init__(self) -> None:
        self.windows: dict[bytes, int] = {}
        self.live: dict[int, tuple[bytes, int]] = {}
        #: Per device, (tag, payload) in the order in which its socket took them.
        self.sent: dict[bytes, list[tuple[int, dict[str, Any]]]] = {}
        #: The same of rows sent again over a resumed session: (packet id, payload).
        self.again: dict[bytes, list[tuple[int, dict[str, Any]]]] = {}
        self.calls = 0
        self.seconds_left: list[int] = []
        """What rows of MQTT 5.0 would carry as their message expiry interval."""
        self.rows_max = 1000

    def deliver_rows_max(self) -> int:
        return self.rows_max

    def send_rest(self) -> bool:
        return False

    def deliver(
        self, fds: Any, generations: Any, device_ids: Any, tags: Any, payload: Any, now: float, expiry_s: Any = None
    ) -> Any:
        self.calls += 1
        if expiry_s is not None:
            self.seconds_left += expiry_s(np.arange(len(fds))).tolist()
        taken = np.zeros(len(fds), np.bool_)
        bodies = join(payload, 0, len(fds))
        for index in range(len(fds)):
            device_id = device_ids[index].tobytes()
            if self.live.get(int(fds[index])) != (device_id, int(generations[index])):
                continue
            room = self.windows.get(device_id, 32)
            if room <= 0:
                continue
            self.windows[device_id] = room - 1
            self.sent.setdefault(device_id, []).append((int(tags[index]), json.loads(bodies[index])))
            taken[index] = True
        return taken

    def redeliver(
        self, fds: Any, device_ids: Any, packet_ids: Any, payload: Any, now: float, expiry_s: Any = None
    ) -> Any:
        """What a device that is live is sent again, with its packet ids."""
        if expiry_s is not None:
            self.seconds_left += expiry_s(np.arange(len(fds))).tolist()
        bodies = join(payload, 0, len(fds))
        sent = np.zeros(len(fds), np.bool_)
        for index in range(len(fds)):
            device_id = device_ids[index].tobytes()
            if self.live.get(int(fds[index]), (b"", 0))[0] == device_id:
                row = (int(packet_ids[index]), json.loads(bodies[index]))
                self.again.setdefault(device_id, []).append(row)
                sent[index] = True
        return sent

    def titles(self, device_id: bytes) -> list[str]:
        return [payload["title"] for _, payload in self.sent.get(device_id, [])]

    def tags(self, device_id: bytes) -> Any:
        return np.array([tag for tag, _ in self.sent.get(device_id, [])], np.int64)


class ConnectionTwin:
    """One connection to a vendor, as `VendorPool` sees it. The test answers for the vendor."""

    def __init__(self, on_events: Callable[[object, list[Any]], None], vendor: VendorTwin) -> None:
        self._on_events = on_events
        self._vendor = vendor
        self.is_up = False
        self.open: list[int] = []
        #: (path, headers, body) of every request taken, and its tag.
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.tags: list[int] = []
        self.deadlines: list[float] = []
        self.drained: tuple[float, CloseReason] | None = None
        self._end = trio.Event()
        self._reason = CloseReason.PEER_CLOSED

    # what the pool calls

    def capacity(self) -> int:
        if not self.is_up or self.drained is not None:
            return 0
        return max(0, self._vendor.streams_max - len(self.open))

    def send(self, requests: Any, start: int, tags: Any, deadline: float) -> int:
        k = min(requests.n - start, len(tags), self.capacity())
        paths = join(requests.path, start, start + k)
        bodies = join(requests.body, start, start + k)
        names = [name.decode() for name, _ in requests.headers]
        values = [join(pieces, start, start + k) for _, pieces in requests.headers]
        for index in range(k):
            headers = {name: column[index].decode() for name, column in zip(names, values, strict=True)}
            self.requests.append((paths[index].decode(), headers, json.loads(bodies[index])))
            self.deadlines.append(deadline)
        self.open += tags[:k].tolist()
        self.tags += tags[:k].tolist()
        return k

    def open_requests(self) -> int:
        return len(self.open) if self.is_up else 0

    def is_leaving(self) -> bool:
        return self.drained is not None

    def drain(self, timeout_s: float, reason: CloseReason) -> None:
        if self.drained is None:
            self.drained = (timeout_s, reason)
            if not self.open:
                self.close(reason)

    async def run(self) -> CloseReason:
        vendor = self._vendor
        try:
            await vendor.gate.wait()
            await trio.lowlevel.checkpoint()
            if vendor.fails_with is not None:
                self._on_events(self, [Terminated(vendor.fails_with, NO_TAGS, NO_TAGS, 0, "no connection")])
                return vendor.fails_with
            self.is_up = True
            self._on_events(self, [SettingsChanged(100, 65535, 16384, 4096)])
            await self._end.wait()
        except trio.Cancelled:
            self._terminate(CloseReason.SHUTDOWN, [], self.open)
            raise
        return self._reason

    # what the test calls

    def answer(
        self, status: int = 200, body: bytes = b"", headers: dict[bytes, bytes] | None = None, n: int = 1
    ) -> None:
        """The n oldest open requests get this answer, in one event."""
        tags, self.open = self.open[:n], self.open[n:]
        assert len(tags) == n
        detail = AnswerDetail(headers or {}, body)
        details = {} if status == 200 and not body else dict.fromkeys(range(n), detail)
        self._on_events(self, [Answers(np.array(tags, np.int64), np.full(n, status, np.uint16), details)])
        if self.drained is not None and not self.open:
            self.close(self.drained[1])

    def tell(self, kind: Any, *args: Any, n: int = 1) -> None:
        """The n oldest open requests end in an event of that kind (Refused, Reset, TimedOut)."""
        tags, self.open = self.open[:n], self.open[n:]
        self._on_events(self, [kind(np.array(tags, np.int64), *args)])

    def close(self, reason: CloseReason, *, refused: int = 0) -> None:
        """The connection is over; the `refused` newest open requests were surely not processed."""
        cut = len(self.open) - refused
        self._terminate(reason, self.open[cut:], self.open[:cut])

    def _terminate(self, reason: CloseReason, refused: list[int], uncertain: list[int]) -> None:
        if self._end.is_set():
            return
        self.is_up, self._reason, self.open = False, reason, []
        self._end.set()
        event = Terminated(reason, np.array(refused, np.int64), np.array(uncertain, np.int64), 0, "the end")
        self._on_events(self, [event])


class VendorTwin:
    """The far end of one pool. gate: connections come up once it is set. fails_with: they fail instead."""

    def __init__(self) -> None:
        self.connections: list[ConnectionTwin] = []
        self.streams_max = 1000
        self.gate = trio.Event()
        self.gate.set()
        self.fails_with: CloseReason | None = None
        self.opened_at: list[float] = []

    def open(self, on_events: Callable[[object, list[Any]], None]) -> ConnectionTwin:
        connection = ConnectionTwin(on_events, self)
        self.connections.append(connection)
        self.opened_at.append(trio.current_time())
        return connection

    @property
    def last(self) -> ConnectionTwin:
        return self.connections[-1]

    def requests(self) -> list[tuple[str, dict[str, str], dict[str, Any]]]:
        return [request for connection in self.connections for request in connection.requests]


def make_vendor(channel: Channel) -> Any:
    if channel is Channel.HUAWEI:
        settings = huawei.Settings(client_id="1", client_secret_file="secret", rows_per_request_max=10)
        return huawei.Huawei(settings)
    if channel is Channel.VIVO:
        return vivo.Vivo(vivo.Settings(app_id=1, app_key_id="k", app_secret_file="secret", rows_per_request_max=10))
    if channel is Channel.APNS:
        return apns.Apns(apns.Settings("TEAM123456", "KEY1234567", "com.example.app", key_file="key.p8"))
    return fcm.Fcm(fcm.Settings("sim-project", service_account_file="account.json"))


PATIENT = RetryPolicy(first_s=1.0, jitter=0.0, throttle_s=5.0, cap_s=60.0, wait_s_min=0.5)
#: Never opens: for tests of everything else.
UNTOUCHED = BreakerSettings(rows_min=1 << 30, connect_failures_max=1 << 30, credential_refusals_max=1 << 30)


class ArchiveWatch:
    """What a ledger reports: how many pages are written, how many are gone again, and what the disk said."""

    def __init__(self) -> None:
        self.pages = self.deleted = 0
        self.failures: list[StoreError] = []

    def archived(self, pages: int) -> None:
        self.pages += pages

    def failed(self, error: StoreError) -> None:
        self.failures.append(error)

    def retained(self, pages: int) -> None:
        self.deleted += pages


class World:
    """Two apps, the first with both vendors, all real actors in between. Nothing runs until `start`."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        inbox_store: Any = None,
        parked_rows_max: int = 10_000,
        lane_rows_max: int = 10_000,
        slice_rows: int = 64,
        strategy4_wait_s: float = 10.0,
        rate_per_s: float = math.inf,
        burst: int = 10_000,
        burst_rows_max: int = 100,
        connections_max: int = 2,
        policy: RetryPolicy | None = None,
        strategy: int = 1,
        change_rows_max: int = 1 << 20,
        has_probes: bool = False,
        probe_wait_s: float = 5.0,
        journal: int = 0,
        breaker: BreakerSettings = UNTOUCHED,
        guard: GuardSettings | None = None,
        trail: Trail | None = None,
        more_channels: Sequence[Channel] = (),
        request_bucket: TokenBucket | None = None,
        target_pace: TargetPace | None = None,
    ) -> None:
        self.paces = target_pace and TargetPaces(target_pace)
        self.trail, self.clock = trail, clock or SystemClock()
        self.metrics, self.log_lines = Metrics(), io.StringIO()
        self.log = Log(stream=self.log_lines)
        self.home = Home(
            secret=SECRET,
            journal=journal,
            observer=HomeCounts(self.metrics),
            ledger_bytes_max=1 << 30,
            rows_open_max=1 << 20,
            change_rows_max=change_rows_max,
            now=self.clock.monotonic(),
        )
        limits = DeviceLimits(devices_max=5000, token_bytes_max=1 << 22, aliases_max=10, tag_bindings_max=10)
        self.devices = DeviceTable(limits, HashKey(b"k" * 32))
        self.inbox_store = MemoryInbox(rows_per_device_max=100, rows_max=10_000) if inbox_store is None else inbox_store
        self.inbox = InboxActor(store=self.inbox_store, epoch=EPOCH, home=self.home, clock=self.clock)
        self.renderer = Renderer(address_secret=SECRET)
        self._request_bucket = request_bucket
        self.router = Router(
            home=self.home,
            devices=self.devices,
            inbox=self.inbox,
            renderer=LinkRenderer(self.renderer),
            clock=self.clock,
            observer=RouterCounts(self.metrics),
            defaults=[AppDefaults(strategy)] * 2,
            slice_rows=slice_rows,
            parked_rows_max=parked_rows_max,
            strategy4_wait_s=strategy4_wait_s,
            trail=trail,
        )
        self._add_devices_end()
        self.vendors: dict[Channel, VendorTwin] = {}
        self.pools: dict[Channel, VendorPool] = {}
        self.credentials: dict[Channel, CredentialTwin] = {}
        self.breakers: dict[Channel, VendorBreaker] = {}
        self.guards: dict[tuple[int, Channel], TokenGuard] = {}
        self.lanes: dict[LaneKey, LaneActor] = {}
        self.probe_lanes: dict[LaneKey, ProbeLane] = {}
        self._probe_wait_s = probe_wait_s if has_probes else None
        for channel in (Channel.APNS, Channel.FCM, *more_channels):
            self._add_vendor(
                channel,
                connections_max=connections_max,
                bucket=TokenBucket(rate_per_s, burst, now=self.clock.monotonic()),
                lane_rows_max=lane_rows_max,
                burst_rows_max=burst_rows_max,
                policy=policy or PATIENT,
                health=(breaker, guard or GuardSettings()),
            )
        self.router.connect(self.lanes, self.guards)
        self.apns, self.fcm = self.vendors[Channel.APNS], self.vendors[Channel.FCM]
        self._fds = 100

    def _add_devices_end(self) -> None:
        """What rows go to and come from on the devices' side, what a disk is told of them (`write_marks`), and what
        stops them."""
        self.control = TaskControl(home=self.home, inbox=self.inbox, clock=self.clock, stopped=StoppedTasks(100))
        self.home.trail = self.trail
        self._positions = 0
        self.sockets = SocketsTwin()
        self.router.connect_link(self.sockets)
        self.inbox.connect(self.router)
        self.owner = DeviceOwner(
            devices=self.devices,
            home=self.home,
            router=self.router,
            inbox=self.inbox,
            clock=self.clock,
            observer=OwnerCounts(self.metrics),
        )

    def _add_vendor(
        self,
        channel: Channel,
        *,
        connections_max: int,
        bucket: TokenBucket,
        lane_rows_max: int,
        burst_rows_max: int,
        policy: RetryPolicy,
        health: tuple[BreakerSettings, GuardSettings],
    ) -> None:
        """Pool and lanes of one vendor of app 0."""
        twin = self.vendors[channel] = VendorTwin()
        log = self.log.bind(app="shop", vendor=channel.name.lower())
        breaker = self.breakers[channel] = VendorBreaker(
            health[0], clock=self.clock, observer=BreakerCounts(self.metrics, log, "shop", channel)
        )
        guard = self.guards[0, channel] = TokenGuard(
            health[1],
            devices=self.devices,
            clock=self.clock,
            observer=GuardCounts(self.metrics, log, "shop", channel),
        )
        pool = self.pools[channel] = VendorPool(
            open_connection=twin.open,
            connections_max=connections_max,
            idle_s=3600.0,
            clock=self.clock,
            observer=PoolCounts(self.metrics, self.log),
            breaker=breaker,
        )
        credential = self.credentials[channel] = CredentialTwin()
        vendor = make_vendor(channel)
        observer = LaneCounts(self.metrics, self.log, channel)
        render = functools.partial(
            LaneRenderer,
            renderer=self.renderer,
            devices=self.devices,
            vendor=vendor,
            channel=channel,
            paces=self.paces,
        )
        shared: dict[str, Any] = {
            "vendor": vendor,
            "credentials": credential,
            "home": self.home,
            "router": self.router,
            "policy": policy,
            "clock": self.clock,
            "observer": observer,
            "burst_rows_max": burst_rows_max,
            "step_s_max": 10.0,
            "request_timeout_s": 30.0,
            "watch": VerdictWatch(breaker, guard),
            "device_gates": DeviceGates(),
            "marks": None if self.trail is None else IssueMarks(self.trail, 0, channel),
            "request_bucket": self._request_bucket,
        }
        wait_s = self._probe_wait_s
        for class_ in Class:
            key = LaneKey(0, channel, class_)
            queue = functools.partial(Lane, key, bucket, rows_max=lane_rows_max)
            main = self.lanes[key] = LaneActor(
                lane=queue(), pool=pool, renderer=render(needs_proof=wait_s is not None), **shared
            )
            if wait_s is not None:
                way = ProbeWay(pool, wait_s=wait_s, clock=self.clock, observer=observer)
                self.probe_lanes[key] = ProbeLane(main=main, way=way, lane=queue(), renderer=render(), **shared)

    def lane(self, channel: Channel = Channel.APNS, class_: Class = Class.SYSTEM) -> LaneActor:
        return self.lanes[LaneKey(0, channel, class_)]

    def ledger_on(self, store: Any, **over: Any) -> LedgerActor:
        """The actor that keeps this home's pages in the archive; it has an ArchiveWatch."""
        usual = {
            "inbox": self.inbox_store,
            "held_write_s": 5.0,
            "retention_s": 86_400.0,
            "retention_bytes_max": 1 << 40,
            "retention_check_s": 600.0,
            "counter_days_max": 400,
        }
        return LedgerActor(
            store=store,
            epoch=OwnershipEpoch(1),
            home=self.home,
            clock=self.clock,
            observer=ArchiveWatch(),
            **(usual | over),
        )

    async def start(self, nursery: trio.Nursery) -> None:
        """All actors run, and have nothing to do."""
        for run in (self.router.run, self.inbox.run):
            nursery.start_soon(run)
        for pool in self.pools.values():
            nursery.start_soon(pool.run)
        for lane in (*self.lanes.values(), *self.probe_lanes.values()):
            nursery.start_soon(lane.run)
        await self.settle()

    # -- devices

    def register(
        self, n: int, channel: Channel = Channel.APNS, *, first: int = 0, proven_unix_s: int = 0
    ) -> list[bytes]:
        """n devices with a token each (none for NONE); returns their ids."""
        ids = [(b"%c" % int(channel)) + b"device" + number.to_bytes(9, "big") for number in range(first, first + n)]
        tokens = [b"" if channel is Channel.NONE else device_id.hex().encode() * 2 for device_id in ids]
        self.devices.register(0, self.registration(ids, channel, tokens, proven_unix_s), self.clock.unix_ms() // 1000)
        return ids

    def registration(
        self, ids: Sequence[bytes], channel: Channel, tokens: Sequence[bytes], proven_unix_s: int = 0
    ) -> Registrations:
        n = len(ids)
        return Registrations(
            np.frombuffer(b"".join(ids), np.uint8).reshape(n, 16),
            np.full(n, channel, np.uint8),
            TextColumn.from_rows(tokens),
            np.full(n, proven_unix_s, np.uint32),
        )

    def token(self, device_id: bytes) -> bytes:
        return self.devices.device(self.devices.find_one(device_id, 0)).token

    def go_online(self, device_id: bytes, *, window: int = 32) -> int:
        """The device connects and subscribes; returns its fd."""
        self._fds += 1
        fd = self._fds
        self.sockets.windows[device_id] = window
        self.sockets.live[fd] = (device_id, 1)
        slot = self.owner.connect(0, device_id, fd, 1, trio.current_time())
        self.owner.subscribed(np.array([slot], np.int32), np.array([fd], np.int32), np.array([1], np.uint32), 0.0)
        return fd

    def go_offline(self, fd: int) -> None:
        device_id, generation = self.sockets.live.pop(fd)
        slot = self.devices.find_one(device_id, 0)
        self.owner.disconnected(
            np.array([slot], np.int32),
            np.array([fd], np.int32),
            np.array([generation], np.uint32),
            [CloseReason.PEER_CLOSED],
        )

    def acknowledge(self, device_id: bytes, n: int = 1, *, first: int = 0) -> None:
        """n rows, from the first-th that the device got, are acknowledged; its window opens by as many."""
        tags = self.sockets.tags(device_id)[first : first + n]
        assert len(tags) == n
        self.sockets.windows[device_id] += n
        self.owner.acknowledged(tags, np.zeros(n), trio.current_time())

    # -- batches

    def submission(self, targets: Sequence[Any], variants: Variant | Sequence[Variant], **columns: Any) -> Submission:
        """targets: device ids, or (channel, token) pairs. Several variants: one per target."""
        n = len(targets)
        several = not isinstance(variants, Variant)
        ids, channels, tokens = [], [], []
        for target in targets:
            is_token = isinstance(target, tuple)
            ids.append(bytes(16) if is_token else target)
            channels.append(target[0] if is_token else 0)
            tokens.append(target[1] if is_token else b"")
        values: dict[str, Any] = {
            "request_id": "",
            "variants": list(variants) if several else [variants],
            "n": n,
            "source_rows": None,
            "device_ids": np.frombuffer(b"".join(ids), np.uint8).reshape(n, 16),
            "channels": np.array(channels, np.uint8) if any(channels) else None,
            "tokens": TextColumn.from_rows(tokens) if any(channels) else None,
            "variant_index": np.arange(n, dtype=np.uint16) if several else None,
            "variables": {},
            "duplicates": None,
            "faults": [],
        }
        return Submission(**(values | columns))

    def open(
        self, targets: Sequence[Any], variants: Variant | Sequence[Variant] | None = None, **columns: Any
    ) -> LedgerPage:
        """A page of the home, not routed yet."""
        found = variants or Variant("title", "body")
        now = self.clock.monotonic()
        batch = build_batch(
            self.home.next_address(self.clock.unix_ms(), self.clock.monotonic()),
            0,
            now,
            [Part(self.submission(targets, found, **columns), None, 0)],
            [None],
            SECRET,
        )
        page = self.home.open(batch, now)
        if self.trail is not None:
            self.trail.follow(page, 1)
        return page

    async def write_marks(self) -> list[RowMarks]:
        """What is marked is durable, and whatever waited for it has happened; the record."""
        assert self.trail is not None
        taken = self.trail.take(1000)
        if taken is None:
            return []
        self._positions += 1
        for ring in self.trail.written(taken, self._positions):
            ring()
        await self.settle()
        return taken.marks

    async def send(
        self, targets: Sequence[Any], variants: Variant | Sequence[Variant] | None = None, **columns: Any
    ) -> LedgerPage:
        """A page that was routed, and everything that can happen at once has happened."""
        page = self.open(targets, variants, **columns)
        self.router.route(page)
        await self.settle()
        return page

    # -- seeing

    async def settle(self) -> None:
        """Everything that can happen without time passing has happened."""
        with may_not_spin():
            await trio.testing.wait_all_tasks_blocked()

    async def wait(self, seconds: float) -> None:
        """So much time has passed, and whatever it brings has happened."""
        with may_not_spin():
            await trio.sleep(seconds)
            await trio.testing.wait_all_tasks_blocked()

    @staticmethod
    def states(page: LedgerPage) -> dict[str, int]:
        """Rows per state, recounted, and equal to the counts that the page keeps."""
        found = Counter(State(code).name.lower() for code in page.state.tolist())
        assert found == {State(code).name.lower(): int(n) for code, n in enumerate(page.counts.tolist()) if n}
        return dict(found)

    @staticmethod
    def reasons(page: LedgerPage) -> list[str]:
        return [Reason(code).name.lower() for code in page.reason.tolist()]

    @staticmethod
    def verdicts(page: LedgerPage) -> list[tuple[int, list[int], list[int]]]:
        """(attempt, rows, verdicts) per burst."""
        return [(burst.attempt, burst.rows.tolist(), burst.verdicts.tolist()) for burst in page.bursts]

    @staticmethod
    def assert_one_verdict_per_attempt(page: LedgerPage) -> None:
        """Rows that were surely not processed have no verdict; all other attempts have one, and are counted."""
        attempts = Counter(
            row
            for burst in page.bursts
            for row, verdict in zip(burst.rows.tolist(), burst.verdicts.tolist(), strict=True)
            if verdict != NO_VERDICT
        )
        assert {row: attempts[row] for row in range(page.n)} == dict(enumerate(page.attempts.tolist()))


class RpcPeer:
    """The other side of an RPC connection: the client's real session on one end of a stream.

    answers: everything that came, in order. lost: set when the connection is over.
    """

    def __init__(
        self, stream: trio.abc.Stream, app_key: str = "shop", secret: bytes | None = b"secret", **role: Any
    ) -> None:
        self.stream = stream
        self.session = ClientSession(app_key, secret, nonce=os.urandom(32), now=trio.current_time(), **role)
        self.answers: list[Any] = []
        self.lost: Closed | None = None
        self._changed = trio.Event()

    async def run(self) -> None:
        """Reads until the connection is over."""
        while self.session.close_reason is None:
            try:
                data = await self.stream.receive_some(1 << 16)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            events = self.session.receive_data(data) if data else self.session.peer_closed()
            for event in events:
                if isinstance(event, Answered):
                    self.answers.append(event.message)
                elif isinstance(event, Closed):
                    self.lost = event
            await self.flush()
            self._changed.set()
            self._changed = trio.Event()

    async def flush(self) -> None:
        data = self.session.data_to_send()
        if data:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.stream.send_all(data)

    async def until(self, is_so: Callable[[], Any]) -> None:
        with trio.fail_after(30):
            while not is_so():
                await self._changed.wait()

    async def ready(self) -> RpcPeer:
        await self.until(lambda: self.session.welcome is not None)
        return self

    async def send(self, request: Any) -> int:
        """The request is on its way under a fresh number, which is returned."""
        number = self.session.next_id()
        self.session.send(msgspec.structs.replace(request, id=number))
        await self.flush()
        return number

    def answers_to(self, number: int) -> list[Any]:
        return [answer for answer in self.answers if answer.id == number]

    async def call(self, request: Any) -> Any:
        """The one answer to the request."""
        number = await self.send(request)
        await self.until(lambda: self.answers_to(number) or self.lost)
        (answer,) = self.answers_to(number)
        return answer


class LinkApp(NamedTuple):
    """The one app of a LinkSite."""

    index: int = 0
    secrets: tuple[bytes, ...] = (b"app secret",)


class AnyDevice:
    """A long link's owner that knows every device; what else it is told does not matter."""

    def __init__(self) -> None:
        self.online: list[bytes] = []

    def connect(self, app_index: int, device_id: bytes, fd: int, generation: int, now: float) -> int:
        self.online.append(device_id)
        return len(self.online) - 1

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *columns: None


class LinkSite:
    """The long link over real sockets, with clocks of ours. others_s: what the rest of the worker uses of the CPU
    between two steps. look_s: what each look at the CPU's clock costs."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] | None = None,
        elsewhere: Any = None,
        look_s: float = 0.0,
        is_websocket: bool = False,
        **limits: Any,
    ) -> None:
        self.now = 100.0
        self._clock = clock or (lambda: self.now)
        self.cpu_s = self.others_s = 0.0
        self._look_s = look_s
        self.owner, self.elsewhere = AnyDevice(), elsewhere
        edge = EdgeSettings(listeners=(ListenerSettings(port=0, is_websocket=is_websocket),), **limits)
        self.link = LongLink(
            LongLinkSettings(edge=edge),
            {"app": LinkApp()},
            self.owner,
            clock=self._clock,
            cpu_clock=self._cpu_clock,
            elsewhere=elsewhere,
        )
        (self.address,) = self.link.listen()
        self.clients: list[socket.socket] = []

    def _cpu_clock(self) -> float:
        self.cpu_s += self._look_s
        return self.cpu_s

    def connect(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(self.address, timeout=10)
        client.sendall(data)
        self.clients.append(client)
        return client

    def step(self) -> int:
        """How many it let in."""
        before = len(self.owner.online)
        self.cpu_s += self.others_s
        # Many have connected at once: nobody is accepted before.
        self.now = self.link.edge.accept_again_at or self.now
        select.select([self.link.edge.fileno()], [], [], 0.02)
        self.link.step(self._clock())
        self.link.tick(self._clock())
        return len(self.owner.online) - before

    def until(self, holds: Callable[[], object]) -> list[int]:
        """How many each step let in."""
        deadline, counts = time.monotonic() + 20, []
        while not holds():
            assert time.monotonic() < deadline
            counts.append(self.step())
        return counts

    def count(self, name: str) -> int:
        return self.link.statistics().counts[name]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.link.dispose()


@pytest.fixture
def new_link_site() -> Iterator[Callable[..., LinkSite]]:
    with contextlib.ExitStack() as made:

        def make(**options: Any) -> LinkSite:
            site = LinkSite(**options)
            made.callback(site.close)
            return site

        yield make


@pytest.fixture
def new_peer() -> type[RpcPeer]:
    return RpcPeer


@pytest.fixture
def make_world() -> Callable[..., World]:
    """Builds worlds. To be called inside of a test that runs on trio's test clock (autojump_clock)."""
    return World


@pytest.fixture
def new_sockets() -> Callable[[], SocketsTwin]:
    return SocketsTwin


@pytest.fixture
def new_vendor() -> Callable[[], VendorTwin]:
    return VendorTwin
