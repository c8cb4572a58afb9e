"""Starts and stops simulators: one TLS listener per vendor and one control port for all.

async with await serve_simulators(config, directory) as simulators:
    simulators.ready()      # ports, CA file, credentials
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from bench.simulators import apns, fcm
from bench.simulators.aliyun_sms import AliyunSms
from bench.simulators.apns_provider_token import Key, ProviderTokens
from bench.simulators.clock import Clock
from bench.simulators.config import ApnsSection, FcmSection, SimulatorsConfig
from bench.simulators.config_base import Http2Section
from bench.simulators.control import ControlPort
from bench.simulators.counts import Counts
from bench.simulators.credentials import ApnsKey, ServiceAccount, make_apns_key, make_service_account
from bench.simulators.dingtalk import Dingtalk
from bench.simulators.dingtalk_robot import DingtalkRobot
from bench.simulators.email import Email
from bench.simulators.exchange import Exchange, Vendor
from bench.simulators.fates import Fates
from bench.simulators.faults import FaultScript
from bench.simulators.fcm_oauth import OAuth
from bench.simulators.front import Front
from bench.simulators.h2_rules import Http2Rules
from bench.simulators.harmony import Harmony
from bench.simulators.honor import Honor
from bench.simulators.huawei import Huawei
from bench.simulators.meizu import Meizu
from bench.simulators.oppo import Oppo
from bench.simulators.push_api import Kit, PushApi, PushSection
from bench.simulators.rate import DeviceWindow, TokenBucket
from bench.simulators.receipts import Courier
from bench.simulators.received import Received
from bench.simulators.smtp_front import SmtpFront
from bench.simulators.tencent_sms import TencentSms
from bench.simulators.tls import TlsFiles, make_tls_files
from bench.simulators.vivo import Vivo
from bench.simulators.webhook import Ups, Webhook
from bench.simulators.wechat import Wechat
from bench.simulators.wecom import Wecom
from bench.simulators.wecom_robot import WecomRobot
from bench.simulators.xiaomi import Xiaomi

DEVICE_RATE_WINDOW_S = 60.0
#: section of the configuration -> judge
PUSH_APIS: Mapping[str, type[PushApi]] = {
    "huawei": Huawei,
    "harmony": Harmony,
    "honor": Honor,
    "xiaomi": Xiaomi,
    "oppo": Oppo,
    "vivo": Vivo,
    "meizu": Meizu,
    "wechat": Wechat,
    "aliyun_sms": AliyunSms,
    "tencent_sms": TencentSms,
    "wecom": Wecom,
    "dingtalk": Dingtalk,
    "wecom_robot": WecomRobot,
    "dingtalk_robot": DingtalkRobot,
    "webhook": Webhook,
    "ups": Ups,
    "email": Email,
}


@dataclass(slots=True)
class Simulator:
    """One vendor: what it knows, its listener, and what clients need to reach it."""

    exchange: Exchange
    front: Front | SmtpFront
    credentials: dict[str, Any]
    fates_of_config: Callable[[], Fates]

    def reset(self) -> None:
        """As after the start, except for the clock, the credentials and the open connections."""
        self.exchange.reset()
        self.exchange.vendor.fates = self.fates_of_config()
        self.front.on_faults_changed()


@dataclass(slots=True)
class Simulators:
    """The running simulators by name, their clock and their control port."""

    config: SimulatorsConfig
    clock: Clock
    tls_files: TlsFiles
    by_name: dict[str, Simulator] = field(default_factory=dict)
    control: ControlPort | None = None

    async def __aenter__(self) -> Simulators:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def ready(self) -> dict[str, Any]:
        """Ports, paths and credentials as one JSON object."""
        assert self.control is not None
        return {
            "ready": True,
            "ca_file": str(self.tls_files.ca),
            "control": {"host": self.config.host, "port": self.control.port},
        } | {name: simulator.credentials for name, simulator in self.by_name.items()}

    async def stop(self) -> None:
        """Listeners are closed; connections had a GOAWAY and up to `drain_s` to finish, then they are aborted."""
        for simulator in self.by_name.values():
            simulator.exchange.is_shutting_down = True
        await asyncio.gather(*(one.front.stop(self.config.drain_s) for one in self.by_name.values()))
        couriers = [one.exchange.courier for one in self.by_name.values()]
        await asyncio.gather(*(courier.stop() for courier in couriers if courier is not None))
        if self.control is not None:
            await self.control.stop()


async def serve_simulators(config: SimulatorsConfig, directory: Path, clock: Clock | None = None) -> Simulators:
    """The enabled simulators listen; their certificates and credentials are in `directory`.

    Raises:
        ValueError: a key file, fate or fault of the configuration is wrong.
        OSError: a port is taken, or the directory cannot be written.
    """
    simulators = Simulators(config, clock or Clock(), make_tls_files(directory, config.apns.topics[0]))
    try:
        if config.apns.enabled:
            await _start_apns(simulators, directory)
        if config.fcm.enabled:
            await _start_fcm(simulators, directory)
        for name, judge in PUSH_APIS.items():
            if getattr(config, name).enabled:
                await _start_push_api(simulators, name, judge, directory)
        simulators.control = ControlPort(simulators)
        await simulators.control.start(config.host, config.control_port)
    except BaseException:
        await simulators.stop()
        raise
    return simulators


async def _start_apns(simulators: Simulators, directory: Path) -> None:
    config, section = simulators.config, simulators.config.apns
    generated = make_apns_key(directory, section.key_id)
    vendor = apns.Apns(
        tokens=ProviderTokens(_apns_keys(section, generated), section.environment),
        team_topics={section.team_id: frozenset(section.topics)},
        fates=Fates(section.fates, apns.FATES),
        device_window=DeviceWindow(section.device_messages_per_minute, DEVICE_RATE_WINDOW_S),
        clock=simulators.clock,
        malformed_payload_reason=section.malformed_payload_reason,
        is_push_type_required=section.push_type_required,
        is_sandbox=section.environment == "sandbox",
    )
    exchange = _exchange(vendor, simulators, section, Counts())
    clients = section.client_certificates
    front = Front(exchange, _rules(section.http2), simulators.tls_files, ["h2"], config, clients=clients)
    await front.start(config.host, section.port)
    credentials = {
        "host": config.host,
        "port": front.port,
        "team_id": section.team_id,
        "key_id": generated.key_id,
        "key_file": str(generated.path),
        "topics": list(section.topics),
        "certificate_file": str(simulators.tls_files.client),
        "environment": section.environment,
    }
    fates = partial(Fates, section.fates, apns.FATES)
    simulators.by_name["apns"] = Simulator(exchange, front, credentials, fates)


async def _start_fcm(simulators: Simulators, directory: Path) -> None:
    config, section = simulators.config, simulators.config.fcm
    oauth = OAuth("", "", cast(RSAPublicKey, None), "", section.access_token_life_s)
    vendor = fcm.Fcm(
        project_id=section.project_id,
        project_number=section.project_number,
        forbidden_projects=frozenset(section.forbidden_projects),
        oauth=oauth,
        fates=Fates(section.fates, fcm.FATES),
        device_windows=[
            DeviceWindow(section.device_messages_per_minute, DEVICE_RATE_WINDOW_S),
            DeviceWindow(section.device_messages_per_hour, 60 * DEVICE_RATE_WINDOW_S),
        ],
        clock=simulators.clock,
        token_length_min=section.token_length_min,
        token_length_max=section.token_length_max,
        bad_token_form=section.bad_token_form,
    )
    exchange = _exchange(vendor, simulators, section, Counts())
    front = Front(exchange, _rules(section.http2), simulators.tls_files, ["h2", "http/1.1"], config)
    await front.start(config.host, section.port)
    # The audience of assertions is this very endpoint, and its port is known only now.
    token_uri = f"https://{config.host}:{front.port}{fcm.TOKEN_PATH}"
    account = make_service_account(directory, section.project_id, token_uri)
    _let_in(oauth, account, token_uri)
    credentials = {
        "host": config.host,
        "port": front.port,
        "project_id": section.project_id,
        "service_account_file": str(account.path),
        "token_uri": token_uri,
    }
    fates = partial(Fates, section.fates, fcm.FATES)
    simulators.by_name["fcm"] = Simulator(exchange, front, credentials, fates)


async def _start_push_api(simulators: Simulators, name: str, judge: type[PushApi], directory: Path) -> None:
    """One simulator per region; all but the first are named vendor_region."""
    config = simulators.config
    section: PushSection = getattr(config, name)
    for region in judge.regions_of(section):
        is_first = region == judge.regions_of(section)[0]
        own_name = name if is_first else f"{name}_{region}"
        counts = Counts()
        kit = Kit(
            clock=simulators.clock,
            chance=random.Random(f"{config.seed} {own_name} receipts"),
            n_seen=counts.variants,
            is_strict=config.unknown_fields == "refuse",
            directory=directory,
            region=region,
        )
        vendor = judge(section, kit)
        exchange = _exchange(vendor, simulators, section, counts)
        if any(vendor.events) or vendor.receipt_fates:
            exchange.courier = Courier(
                vendor.callbacks, section.receipts, config.courier, kit.chance, counts.receipts, vendor.is_receipt_taken
            )
            exchange.courier.start()
        protocols: list[str] = list(section.protocols)
        front: Front | SmtpFront
        if isinstance(vendor, Email):
            front = SmtpFront(exchange, vendor, simulators.tls_files, config.connections_max)
        else:
            front = Front(exchange, _rules(config.http2), simulators.tls_files, protocols, config)
        fates = partial(judge.fresh_fates, section)
        simulators.by_name[own_name] = Simulator(exchange, front, {}, fates)
        await front.start(config.host, section.port if is_first else judge.region_port(section, region))
        where = {"host": config.host, "port": front.port}
        simulators.by_name[own_name].credentials = where | vendor.credentials(config.host, front.port)


def _let_in(oauth: OAuth, account: ServiceAccount, token_uri: str) -> None:
    oauth.client_email = account.client_email
    oauth.private_key_id = account.private_key_id
    oauth.public_key = cast(RSAPublicKey, load_pem_public_key(account.public_pem))
    oauth.token_uri = token_uri


def _apns_keys(section: ApnsSection, generated: ApnsKey) -> dict[str, Key]:
    """Keys by key id. Raises ValueError for a file that holds no P-256 public key."""
    keys = {generated.key_id: _key(generated.key_id, section.team_id, generated.public_pem, [], "")}
    for one in section.keys:
        try:
            pem = Path(one.public_key_file).read_bytes()
        except OSError as error:
            raise ValueError(f"apns.keys.public_key_file is {one.public_key_file}: {error.strerror}") from error
        keys[one.key_id] = _key(one.key_id, one.team_id, pem, one.topics, one.environment)
    return keys


def _key(key_id: str, team_id: str, public_pem: bytes, topics: Iterable[str], environment: str) -> Key:
    public_key = load_pem_public_key(public_pem)
    if not isinstance(public_key, EllipticCurvePublicKey):
        raise ValueError(f"public key of {key_id} is not an elliptic curve key")
    return Key(key_id, team_id, public_key, frozenset(topics), environment)


def _rules(section: Http2Section) -> Http2Rules:
    return Http2Rules(
        header_table_size=section.header_table_size,
        streams_max=section.streams_max,
        streams_before_auth=section.streams_before_auth,
        initial_window_bytes=section.initial_window_bytes,
        frame_bytes_max=section.frame_bytes_max,
        header_list_bytes_max=section.header_list_bytes_max,
        is_strict=section.strict_streams,
        excess=section.excess_streams,
        success_form=section.success_form,
        idle_stream_s=section.idle_stream_s,
        idle_close_s=section.idle_close_s,
        errors_until_disconnect=section.errors_until_disconnect,
    )


def _exchange(
    vendor: Vendor, simulators: Simulators, section: ApnsSection | FcmSection | PushSection, counts: Counts
) -> Exchange:
    """What a simulator knows. A PushApi paces itself, since its requests cost what they carry."""
    config = simulators.config
    rate_per_s = 0.0 if isinstance(section, PushSection) else section.rate_per_s
    exchange = Exchange(
        vendor=vendor,
        script=FaultScript(random.Random(f"{config.seed} {vendor.name}"), counts.faults),
        received=Received(
            rows_max=config.received.rows_max,
            keep_texts=config.received.keep_texts,
            texts_bytes_max=config.received.texts_bytes_max,
        ),
        counts=counts,
        clock=simulators.clock,
        bucket=TokenBucket(rate_per_s, section.burst or rate_per_s, simulators.clock.now_unix_s()),
        has_retry_after=not isinstance(section, PushSection) and section.retry_after,
        recent=deque(maxlen=config.received.requests_kept),
        refused=deque(maxlen=config.received.requests_kept),
    )
    for fault in section.faults:
        exchange.script.arm(fault, exchange.monotonic())
    return exchange
