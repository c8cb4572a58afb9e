"""Who may connect and who gets an identity: the parts of a worker that know devices by name, built here."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from gateway.actors.audience_desk import AudienceDesk
from gateway.actors.audiences import AudienceJournal, Audiences
from gateway.actors.device_reports import DeviceReports
from gateway.actors.long_link import LongLink
from gateway.actors.long_link_port import App as LinkApp
from gateway.actors.long_link_port import LongLinkSettings
from gateway.actors.presence import Presence
from gateway.actors.uplink import UplinkActor
from gateway.api.consents import ConsentsPort
from gateway.api.devices import DeviceDesk
from gateway.app_consents import consent_desk
from gateway.app_siblings import ownership_of
from gateway.config_bans import read_bans
from gateway.config_settings import signing_limits
from gateway.core.admission import Admission, Bans
from gateway.core.presence import OTHER, PlatformCounts
from gateway.core.signed_requests import SignedRequests
from gateway.core.uplink_rates import UplinkRates
from gateway.errors import ConfigError
from gateway.net.files import raise_files_limit
from gateway.observe.counting import AudienceCounts, UplinkCounts
from gateway.observe.metrics import Metrics
from gateway.observe.processor_wait import ProcessorWait
from gateway.wire.rpc.messages import ConsentsReported, ReportConsents

if TYPE_CHECKING:
    from gateway.app import Worker

#: Gauges of one app and platform each; what the platforms of real phones need, several times over.
_PLATFORM_SERIES_MAX = 48


def build_desk(worker: Worker) -> tuple[DeviceDesk, ConsentsPort | None]:
    """POST /v1/devices and, where consents are counted, POST /v1/consents. Passwords are made from the newest secret,
    which is the first."""
    requests = SignedRequests(worker.app_secrets, signing_limits(worker.config))
    desk = DeviceDesk(
        requests=requests,
        newest_secret=lambda app_key: worker.app_secrets[app_key][0],
        register=lambda app_key, message: worker.front.register(message, app_key),
        new_id=lambda: secrets.token_bytes(16),
        now=worker.clock.monotonic,
        now_unix_s=lambda: worker.clock.unix_ms() / 1000,
    )
    worker.service.consents = consent_desk(worker)
    if worker.consents is None:
        return desk, None

    async def report(message: ReportConsents, app_key: str) -> ConsentsReported:
        return await worker.front.report_consents(message, app_key)

    return desk, ConsentsPort(requests, worker.clock.monotonic, lambda: worker.clock.unix_ms() / 1000, report)


def build_audiences(worker: Worker) -> Audiences:
    """Broadcasts, pushes to a tag or to aliases; several workers find the devices of all (app_links.py)."""
    limits, router = worker.config.audiences, worker.router
    desk = AudienceDesk(
        devices=worker.devices,
        online=worker.presence.online_ids,
        is_busy=lambda: router.queued_rows > limits.chunk_rows_max,
        shard_groups=ownership_of(worker.config).shard_groups,
    )
    return Audiences(
        intake=worker.intake,
        home=worker.home,
        clock=worker.clock,
        observer=AudienceCounts(worker.metrics),
        finder=desk if worker.joint is None else worker.joint.join_audiences(desk),
        chunk_rows=limits.chunk_rows_max,
        queued_rows_max=limits.queued_rows_max,
        running_max=limits.running_max,
        check_room=worker.check_room,
        journal=None
        if worker.disk is None
        else AudienceJournal(
            worker.disk.apps,
            [app.key for app in worker.config.apps],
            worker.disk.actor.let_go,
            knows_devices=worker.stores.registry is not None,
        ),
    )


def build_presence(worker: Worker) -> Presence:
    """Who is online, told to those who ask and to those who follow."""
    presence = Presence(
        n_apps=len(worker.config.apps),
        devices=worker.devices,
        link=lambda: worker.long_link,
        clock=worker.clock,
        now=trio.current_time,
        changes_max=worker.config.long_link.presence_changes_max,
        tags_max=worker.config.long_link.presence_tags_max,
        incarnation=secrets.randbits(64),
    )
    worker.owner.on_came, worker.owner.on_went = presence.came, presence.went
    return presence


def build_uplink(worker: Worker) -> UplinkActor:
    """What devices report."""
    config, app_keys = worker.config, [app.key for app in worker.config.apps]
    observer = UplinkCounts(worker.metrics, app_keys)
    disk = worker.disk
    apps_on_disk = frozenset() if disk is None else disk.apps
    reports = DeviceReports(
        devices=worker.devices,
        home=worker.home,
        clock=worker.clock,
        observer=observer,
        notes=None if disk is None else disk.notes,
    )
    reports.ask_archive = worker.stores.ask_archive
    if worker.joint is not None:
        worker.joint.share_reports(reports, observer)
    uplink = UplinkActor(
        devices=worker.devices,
        reports=reports,
        clock=worker.clock,
        rates=UplinkRates(
            config.devices.devices_max,
            events_per_minute=config.long_link.uplink_events_per_minute_max,
            changes_per_hour=config.long_link.uplink_changes_per_hour_max,
            now=worker.clock.monotonic(),
        ),
        observer=observer,
        app_keys=app_keys,
        changes_max=config.long_link.uplink_changes_max,
        register=worker.service.register,
        states=worker.presence,
        wait_written=worker.stores.wait_written,
        apps_on_disk=apps_on_disk,
    )
    worker.owner.on_uplink = uplink.take
    return uplink


def within_files_limit(worker: Worker, settings: LongLinkSettings) -> LongLinkSettings:
    """The settings, with a larger reserve where the system gives this process fewer files than `files_max`."""
    edge = settings.edge
    files = raise_files_limit(edge.files_max)
    if files < edge.files_max:
        worker.log.warning("fewer files than long_link.files_max", files=files, files_max=edge.files_max)
    reserve = edge.files_reserve + edge.files_max - files
    worker.metrics.accept_files_max.set(edge.files_max - reserve)
    return msgspec.structs.replace(settings, edge=msgspec.structs.replace(edge, files_reserve=reserve))


def make_long_link(worker: Worker, settings: LongLinkSettings, apps: Mapping[str, LinkApp]) -> LongLink:
    """Not listening yet."""
    made = LongLink(
        settings,
        apps,
        worker.owner,
        admission=worker.admission,
        # Sockets live on the machine's clock: a moved development clock must not cut ten thousand phones off.
        clock=trio.current_time,
        elsewhere=worker.passing,
        are_processors_short=ProcessorWait(worker.metrics).are_short,
    )

    def on_certificate(file: str, fault: str) -> None:
        if fault:
            worker.log.error("changed certificate refused, the one in use stays", file=file, error=fault)
        else:
            worker.log.info("changed certificate in use", file=file)

    made.edge.layers.on_certificate = on_certificate
    return made


class BansWatch:
    """Applies the bans file when made and whenever it changes. Raises ConfigError when made with a wrong file."""

    def __init__(self, worker: Worker, path: Path) -> None:
        self._worker = worker
        self._path = path
        self._seen = self._stamp()
        worker.admission.replace_bans(self._read())

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> Bans:
        return read_bans(self._path, self._worker.app_secrets)

    async def run(self) -> None:
        """Looks every `bans_check_s`. If cancelled: the bans in force stay."""
        while True:
            await trio.sleep(self._worker.config.long_link.bans_check_s)
            await self.check()

    async def check(self) -> None:
        """Takes a changed file; one that cannot be used is logged, once, and the bans in force stay. In a thread: the
        largest takes a tenth of a second. If cancelled: the bans in force stay."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            bans = await trio.to_thread.run_sync(self._read)
        except ConfigError as error:
            self._worker.log.error("bans file refused, the bans in force stay", error=str(error))
            return
        self._worker.admission.replace_bans(bans)
        self._worker.long_link.bans_changed()
        self._worker.log.info("bans applied", file=str(self._path))


def record_admission(metrics: Metrics, admission: Admission) -> None:
    """The admission's counts as metrics; just before a scrape."""
    for (app_key, rule), n in admission.refused.items():
        metrics.logins_refused.follow(n, app_key, rule.value)
    for app_key, uses in admission.secret_uses.items():
        for index, n in enumerate(uses.tolist()):
            metrics.secret_uses.follow(n, app_key, str(index), "device")
    metrics.failed_addresses.set(admission.n_addresses)
    metrics.failed_addresses_forgotten.follow(admission.forgotten)


class OnlineGauges:
    """Devices online by app and platform as gauges; those that are gone by the next look fall to 0."""

    def __init__(self, metrics: Metrics, app_keys: Sequence[str]) -> None:
        self._metrics = metrics
        self._app_keys = app_keys
        self._shown: set[tuple[str, str]] = set()

    def record(self, counts: PlatformCounts) -> None:
        named = {(self._app_keys[app], platform or "unknown"): n for (app, platform), n in counts.items()}
        totals: dict[tuple[str, str], int] = dict.fromkeys(self._shown, 0)
        for (app_key, platform), n in named.items():
            # Callers write platforms: beyond some, a new one is shown under `other`, whose sum must not be the last.
            key = (app_key, platform)
            if key not in self._shown and len(self._shown) >= _PLATFORM_SERIES_MAX:
                key = (app_key, OTHER)
            totals[key] = totals.get(key, 0) + n
        self._shown = set(totals)
        for (app_key, platform), n in totals.items():
            self._metrics.devices_online_by.set(n, app_key, platform)
