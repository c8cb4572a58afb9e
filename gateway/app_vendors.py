"""What belongs to one vendor of one app: its credential, its connections, its lanes. Built from the configuration.

One pool per (app credential, environment, topic family): an app's table names one credential, one environment and one
topic, so a pool per app and vendor is just that.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import trio

import vendors
from gateway.actors.borrowed_credential import BorrowedCredential
from gateway.actors.consent_loans import ConsentLoans
from gateway.actors.consents import Consents
from gateway.actors.credential_words import CredentialWords
from gateway.actors.credentials import CredentialEvent, CredentialKeeper, open_http_client
from gateway.actors.lane import LaneActor
from gateway.actors.own_ids import OwnIdTap
from gateway.actors.precedence import Precedence
from gateway.actors.probe_lane import ProbeLane, ProbeWay
from gateway.actors.rendering import Gate, LaneRenderer
from gateway.actors.router import Router
from gateway.actors.token_guard import TokenGuard
from gateway.actors.vendor_breaker import VendorBreaker, VerdictWatch
from gateway.actors.vendor_ceiling import Ceiling
from gateway.actors.vendor_connection import VendorConnection
from gateway.actors.vendor_connection_smtp import WAITING_MAX
from gateway.actors.vendor_pool import VendorPool
from gateway.app_consents import consent_gate
from gateway.app_http1 import bundle_opener
from gateway.app_journal import DiskJournal
from gateway.app_smtp import session_opener
from gateway.clock import Clock
from gateway.config import Config
from gateway.config_relations import needs_probes
from gateway.config_sections import App
from gateway.config_settings import breaker_settings, guard_settings, keeper_settings, retry_policy
from gateway.config_types import Secret
from gateway.content import Class
from gateway.core.bucket import TokenBucket
from gateway.core.device_gates import DeviceGates
from gateway.core.devices import DeviceTable
from gateway.core.home import Home
from gateway.core.lane import Lane, LaneKey
from gateway.core.render import Renderer
from gateway.core.target_paces import TargetPaces
from gateway.errors import ConfigError
from gateway.ledger import CHANNEL_NAMES, Channel
from gateway.net.proxy import HttpProxy
from gateway.net.tls import ALPN_H2, ALPN_HTTP1, TlsSessions, client_context, open_tls_stream
from gateway.observe.counting import BundleCounts, LaneCounts, PoolCounts, SocketCounts
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.observe.vendor_health import BreakerCounts, GuardCounts
from gateway.regions import section_name
from gateway.vendor import http_version

OpenStream: TypeAlias = Callable[[], Awaitable[trio.abc.Stream]]
#: Of (open stream, on events), and `keeps_ok_bodies` where the body of a 200 is wanted.
OpenConnection: TypeAlias = Callable[..., VendorConnection]


class VendorLane(NamedTuple):
    """Everything of one (app, vendor): its credential, connections and lanes."""

    app_index: int
    app: App
    channel: Channel
    keeper: CredentialKeeper | BorrowedCredential
    guard: TokenGuard
    pool: VendorPool
    bucket: TokenBucket
    lanes: list[LaneActor]
    probe_lanes: list[ProbeLane]
    own_ids: OwnIdTap
    is_http2: bool

    @property
    def channel_name(self) -> str:
        """As its section in the configuration is called."""
        return self.channel.name.lower()


class Lenders(Protocol):
    """Where a credential comes from that all workers share; see `app_links.py`."""

    def share_credential(
        self, name: str, keeper: CredentialKeeper, breaker: VendorBreaker
    ) -> CredentialKeeper | BorrowedCredential: ...


class Site(Protocol):
    """What a worker has that vendors are built on."""

    config: Config
    clock: Clock
    metrics: Metrics
    log: Log
    home: Home
    precedence: Precedence
    devices: DeviceTable
    renderer: Renderer
    router: Router
    ceiling: Ceiling
    consents: Consents | ConsentLoans | None
    disk: DiskJournal | None

    @property
    def joint(self) -> Lenders | None: ...


def build_vendor(
    site: Site, index: int, app: App, name: str, settings: Any, open_connection: OpenConnection
) -> VendorLane:
    """The parts of one vendor of the app with that index; nothing runs yet. Raises ConfigError for a secret or a file
    that is of no use."""
    config, clock, channel = site.config, site.clock, CHANNEL_NAMES[name]
    log = site.log.bind(actor="vendor", app=app.key, vendor=name)
    vendor = vendors.entry_of(name).vendor(settings)
    lanes: list[LaneActor] = []
    probe_lanes: list[ProbeLane] = []
    breaker = VendorBreaker(
        breaker_settings(config), clock=clock, observer=BreakerCounts(site.metrics, log, app.key, channel)
    )
    guard = TokenGuard(
        guard_settings(config),
        devices=site.devices,
        clock=clock,
        observer=GuardCounts(site.metrics, log, app.key, channel),
    )
    own = _keeper(site, app, name, settings, CredentialWords(site.metrics, log, app.key, channel, breaker))
    keeper = own if site.joint is None else site.joint.share_credential(f"{app.key}/{name}", own, breaker)
    spoken = _way(site, app, name, settings, vendor, keeper, open_connection)
    pool = VendorPool(
        open_connection=spoken.opener,
        connections_max=settings.connections_max,
        idle_s=config.http2.idle_s,
        clock=clock,
        observer=BundleCounts(log) if spoken.is_bundled else PoolCounts(site.metrics, log),
        breaker=breaker,
        streams_max=spoken.streams_max,
        rate_per_s_max=settings.rate_per_s,
        ceiling=site.ceiling if spoken.is_http2 else None,
    )
    bucket, request_bucket = TokenBucket(settings.rate_per_s, settings.burst, now=clock.monotonic()), None
    if getattr(vendor, "rate_counts_requests", False):
        bucket, request_bucket = TokenBucket(math.inf, 1, now=clock.monotonic()), bucket
    observer, own_ids = LaneCounts(site.metrics, log, channel), OwnIdTap()
    render = _renderer(site, vendor, channel, consent_gate(site.consents, app, channel, settings, vendor))
    shared: dict[str, Any] = {
        "vendor": vendor,
        "credentials": keeper,
        "home": site.home,
        "router": site.router,
        "clock": clock,
        "observer": observer,
        "burst_rows_max": config.lanes.burst_rows_max,
        "step_s_max": config.gateway.step_ms_max / 1000,
        "request_timeout_s": config.http2.request_timeout_s,
        "watch": VerdictWatch(breaker, guard),
        "device_gates": DeviceGates(),
        "marks": None if site.disk is None else site.disk.marks(index, channel),
        "request_bucket": request_bucket,
        "own_ids": own_ids,
        "precedence": site.precedence,
    }
    has_probes = needs_probes(name, settings)
    for class_ in Class:
        queue = functools.partial(Lane, LaneKey(index, channel, class_), bucket, rows_max=config.lanes.lane_rows_max)
        first_s, may_repeat = getattr(settings, "retry_first_s", None), getattr(vendor, "may_repeat", True)
        policy = retry_policy(config, class_, first_s=first_s, may_repeat=may_repeat)
        main = LaneActor(lane=queue(), pool=pool, renderer=render(needs_proof=has_probes), policy=policy, **shared)
        lanes.append(main)
        if has_probes:
            way = ProbeWay(pool, wait_s=config.http2.probe_wait_s, clock=clock, observer=observer)
            probes = ProbeLane(main=main, way=way, lane=queue(), renderer=render(), policy=policy, **shared)
            probe_lanes.append(probes)
    return VendorLane(index, app, channel, keeper, guard, pool, bucket, lanes, probe_lanes, own_ids, spoken.is_http2)


class _Way(NamedTuple):
    """How a vendor is spoken to. is_bundled: the pool's connections are bundles of sockets, which count themselves."""

    opener: Callable[..., Any]
    streams_max: int
    is_http2: bool = False
    is_bundled: bool = False


def _way(
    site: Site,
    app: App,
    name: str,
    settings: Any,
    vendor: Any,
    keeper: CredentialKeeper | BorrowedCredential,
    open_connection: OpenConnection,
) -> _Way:
    """SMTP, HTTP/2 or HTTP/1.1. Raises ConfigError for files of no use."""
    config, log = site.config, site.log.bind(actor="vendor", app=app.key, vendor=name)
    if getattr(vendor, "speaks_smtp", False):
        return _Way(session_opener(config, app.key, settings, keeper.get_nowait), 1 + WAITING_MAX)
    open_stream = _stream_opener(config, app, name, settings, vendor)
    if http_version(settings) == "2":
        bodies = {"keeps_ok_bodies": True} if getattr(vendor, "is_bulk", False) else {}
        opener = functools.partial(open_connection, open_stream, **bodies)
        return _Way(opener, config.http2.streams_max, is_http2=True)
    bundle = bundle_opener(config, open_stream, SocketCounts(site.metrics, log))
    return _Way(bundle, config.http1.sockets_max + config.http1.queue_max, is_bundled=True)


def _renderer(site: Site, vendor: Any, channel: Channel, gate: Gate | None) -> Callable[..., LaneRenderer]:
    """Makes the renderers of the vendor's lanes, which share the paces of its targets."""
    pace = getattr(vendor, "target_pace", None)
    return functools.partial(
        LaneRenderer,
        renderer=site.renderer,
        devices=site.devices,
        vendor=vendor,
        channel=channel,
        check_token=vendor.check_token,
        gate=gate,
        paces=None if pace is None else TargetPaces(pace),
    )


def _keeper(
    site: Site, app: App, name: str, settings: Any, report: Callable[[CredentialEvent], None]
) -> CredentialKeeper:
    entry = vendors.entry_of(name)
    place = entry.secret_place(settings)
    secret = Secret(file=Path(place.file)) if place.file else Secret(env=place.env)
    try:
        credential = entry.credential(settings, secret.read())
    except ValueError as error:
        raise ConfigError(f"apps.{app.key}.{section_name(name)}", str(error), "a usable secret") from error
    return CredentialKeeper(
        f"{app.key}/{name}",
        credential,
        clock=site.clock,
        report=report,
        random=random.random,
        open_client=functools.partial(open_http_client, settings.ca_file, proxy=proxy_of(app, name, settings)),
        settings=keeper_settings(site.config),
    )


def _stream_opener(config: Config, app: App, name: str, settings: Any, vendor: Any) -> OpenStream:
    try:
        alpn = ALPN_H2 if http_version(settings) == "2" else ALPN_HTTP1
        context = client_context(
            ca_file=settings.ca_file or None,
            certificate_file=settings.certificate_file or None,
            key_file=settings.certificate_key_file or None,
            alpn=(alpn,),
        )
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"apps.{app.key}.{section_name(name)}", str(error), "usable CA and certificate files"
        ) from error
    host, port = vendor.authority()
    return functools.partial(
        open_tls_stream,
        host,
        port,
        context,
        connect_timeout_s=config.http2.connect_timeout_s,
        alpn=alpn,
        sessions=TlsSessions(),
        proxy=proxy_of(app, name, settings),
        # Not all workers and apps begin with the same address.
        turns=itertools.count(random.randrange(1 << 16)),
    )


def proxy_of(app: App, name: str, settings: Any) -> HttpProxy | None:
    """The proxy of a vendor, where it has one. Raises ConfigError for a password of no use."""
    if not settings.proxy:
        return None
    host, port = settings.proxy_place()
    if not settings.proxy_user:
        return HttpProxy(host, port)
    file, env = settings.proxy_password_file, settings.proxy_password_env
    secret = Secret(file=Path(file)) if file else Secret(env=env)
    try:
        return HttpProxy(host, port, settings.proxy_user, secret.read().decode())
    except ValueError as error:
        raise ConfigError(f"apps.{app.key}.{section_name(name)}.proxy_password", secret, "UTF-8 text") from error
