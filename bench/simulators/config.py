"""Configuration of the simulators: TOML to frozen structs, unknown keys refused.

configs/simulators.toml shows every key. Defaults here and in that file are the same; a test compares them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from bench.simulators.aliyun_sms import AliyunSmsSection
from bench.simulators.config_base import Count, Frozen, Http2Section, PlainHttp2Section, Port, Positive, Seconds
from bench.simulators.dingtalk import DingtalkSection
from bench.simulators.dingtalk_robot import DingtalkRobotSection
from bench.simulators.email import EmailSection
from bench.simulators.fates import Fate
from bench.simulators.fault_kinds import Fault
from bench.simulators.harmony import HarmonySection
from bench.simulators.honor import HonorSection
from bench.simulators.huawei import HuaweiSection
from bench.simulators.meizu import MeizuSection
from bench.simulators.oppo import OppoSection
from bench.simulators.receipts import CourierSection
from bench.simulators.tencent_sms import TencentSmsSection
from bench.simulators.vivo import VivoSection
from bench.simulators.webhook import WebhookSection
from bench.simulators.wechat import WechatSection
from bench.simulators.wecom import WecomSection
from bench.simulators.wecom_robot import WecomRobotSection
from bench.simulators.xiaomi import XiaomiSection


class FcmHttp2Section(Http2Section, frozen=True, kw_only=True):
    """The same with FCM's defaults: about 100 streams, GOAWAY for more, no state after a rejection."""

    streams_max: Positive = 100
    streams_before_auth: Positive = 100
    header_list_bytes_max: Positive = 65_536
    strict_streams: bool = False
    excess_streams: Literal["refuse", "goaway"] = "goaway"
    idle_close_s: Seconds = 240.0


class ApnsKeySection(Frozen, frozen=True, kw_only=True):
    """One more provider key beside the generated one. topics: empty = team-scoped; environment: empty = both."""

    key_id: str
    team_id: str
    public_key_file: str
    topics: tuple[str, ...] = ()
    environment: Literal["", "production", "sandbox"] = ""


class ApnsSection(Frozen, frozen=True, kw_only=True):
    """The APNs simulator."""

    enabled: bool = True
    port: Port = 0
    team_id: Annotated[str, msgspec.Meta(pattern="^[A-Z0-9]{10}$")] = "DEF123GHIJ"
    key_id: Annotated[str, msgspec.Meta(pattern="^([A-Z0-9]{10})?$")] = ""
    topics: tuple[str, ...] = ("com.example.app",)
    environment: Literal["production", "sandbox"] = "production"
    push_type_required: bool = False
    client_certificates: Literal["no", "optional", "required"] = "optional"
    malformed_payload_reason: str = "PayloadEmpty"
    rate_per_s: Seconds = 0.0
    burst: Seconds = 0.0
    retry_after: bool = False
    device_messages_per_minute: Count = 0
    keys: tuple[ApnsKeySection, ...] = ()
    http2: Http2Section = Http2Section()
    fates: tuple[Fate, ...] = ()
    faults: tuple[Fault, ...] = ()


class FcmSection(Frozen, frozen=True, kw_only=True):
    """The FCM simulator with its OAuth endpoint."""

    enabled: bool = True
    port: Port = 0
    project_id: str = "sim-project"
    project_number: str = "123456789012"
    forbidden_projects: tuple[str, ...] = ()
    access_token_life_s: Seconds = 3_600.0
    token_length_min: Positive = 20
    token_length_max: Positive = 4_096
    bad_token_form: Literal["fcm_error", "field_violation"] = "fcm_error"
    rate_per_s: Seconds = 10_000.0
    burst: Seconds = 600_000.0
    retry_after: bool = True
    device_messages_per_minute: Count = 240
    device_messages_per_hour: Count = 5_000
    http2: FcmHttp2Section = FcmHttp2Section()
    fates: tuple[Fate, ...] = ()
    faults: tuple[Fault, ...] = ()


class ReceivedSection(Frozen, frozen=True, kw_only=True):
    """What is remembered of what was received; see received.Received."""

    rows_max: Positive = 5_000_000
    keep_texts: bool = False
    texts_bytes_max: Count = 268_435_456
    requests_kept: Count = 1_000


class SimulatorsConfig(Frozen, frozen=True, kw_only=True):
    """The whole file."""

    host: str = "127.0.0.1"
    control_port: Port = 0
    seed: int = 1
    connections_max: Positive = 1_000
    handshake_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    drain_s: Seconds = 1.0
    unknown_fields: Literal["refuse", "count"] = "refuse"
    received: ReceivedSection = ReceivedSection()
    courier: CourierSection = CourierSection()
    http2: PlainHttp2Section = PlainHttp2Section()
    apns: ApnsSection = ApnsSection()
    fcm: FcmSection = FcmSection()
    huawei: HuaweiSection = HuaweiSection()
    harmony: HarmonySection = HarmonySection()
    honor: HonorSection = HonorSection()
    xiaomi: XiaomiSection = XiaomiSection()
    oppo: OppoSection = OppoSection()
    vivo: VivoSection = VivoSection()
    meizu: MeizuSection = MeizuSection()
    wechat: WechatSection = WechatSection()
    aliyun_sms: AliyunSmsSection = AliyunSmsSection()
    tencent_sms: TencentSmsSection = TencentSmsSection()
    wecom: WecomSection = WecomSection()
    dingtalk: DingtalkSection = DingtalkSection()
    wecom_robot: WecomRobotSection = WecomRobotSection()
    dingtalk_robot: DingtalkRobotSection = DingtalkRobotSection()
    webhook: WebhookSection = WebhookSection()
    ups: WebhookSection = WebhookSection()
    email: EmailSection = EmailSection()


def read_config(path: Path | None) -> SimulatorsConfig:
    """The configuration in `path`; None gives the defaults.

    Raises:
        ValueError: the file is not TOML, or a key or value is wrong; the text names file, key path and expectation.
        OSError: the file cannot be read.
    """
    if path is None:
        return SimulatorsConfig()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=SimulatorsConfig)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ValueError(f"{path}: {error}") from error


def simulator_names() -> tuple[str, ...]:
    """Names of all sections that are simulators."""
    return tuple(
        name for name in SimulatorsConfig.__struct_fields__ if hasattr(getattr(SimulatorsConfig(), name), "enabled")
    )


def only(config: SimulatorsConfig, names: Collection[str]) -> SimulatorsConfig:
    """`config` with these simulators enabled and no others.

    Raises:
        ValueError: a name is not that of a simulator.
    """
    known = simulator_names()
    for name in names:
        if name not in known:
            raise ValueError(f"simulator is {name!r}, expected one of {', '.join(known)}")
    changed = {
        name: msgspec.structs.replace(getattr(config, name), enabled=name in names)
        for name in known
        if getattr(config, name).enabled != (name in names)
    }
    return msgspec.structs.replace(config, **changed)
