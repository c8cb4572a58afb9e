"""Xiaomi MiPush as a judge: messages by regid, alias or account, one text for many or one for each. No sockets.

Written from facts/vendors-china.md section 1 and vendors-addendum.md 2.2. Order of the checks: method and path, key,
form, package, targets, fields, channel, template, quota of the app, then target by target. One simulator per region:
a regid of another region is taken, as at Xiaomi, and told as invalid (type 16) by receipt.

Where the sheet is silent: which code a template that does not match gets (10017 here), what a time_to_live over the
class's limit gets (10017), what the quota query answers (day_quota and day_acked, as send answers carry). Topics and
everyone are not simulated (10020).
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import unquote, urlencode

import msgspec

from bench.simulators.config_base import Count
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import Check, coded, digits, json_text, octets, one_of, parsed, record, text, to_json
from bench.simulators.push_api import (
    FORM_TYPE,
    DayCaps,
    Kit,
    PushApi,
    PushSection,
    Refused,
    as_number,
    form_of,
    header_of,
    json_answer,
    path_of,
    refused_answer,
)
from bench.simulators.rate import TokenBucket
from bench.simulators.receipts import Callback, Due, layers
from bench.simulators.received import Message

SEND_PATHS = {
    **{f"/v{version}/message/regid": "registration_id" for version in (2, 3, 4)},
    **{f"/v{version}/message/alias": "alias" for version in (2, 3)},
    "/v2/message/user_account": "user_account",
}
MULTI_PATHS = {
    "/v2/multi_messages/regids": "registration_id",
    "/v2/multi_messages/aliases": "alias",
    "/v2/multi_messages/user_accounts": "user_account",
}
QUOTA_PATH = "/v1/trace/quota/get"
TARGETS_MAX = 1_000
CUSTOM_PAIRS_MAX = 10
CUSTOM_PAIR_CHARS_MAX = 1_024
TEMPLATE_VARIABLES_MAX = 9
TEMPLATE_VALUE_CHARS_MAX = 128
DAY_MS = 86_400_000
TTL_MS_MAX = {"": DAY_MS, "public": DAY_MS, "private": 10 * DAY_MS}
REGID_FORM = re.compile(r"[A-Za-z0-9+/=_.-]{8,128}")
URL_FORM = re.compile(r"https?://\S+")
RECEIPT_BITS = 1 | 2 | 16 | 32 | 64 | 128 | 1_024
TEXTS = {
    "10002": "System is busy",
    "10003": "Remote service error",
    "10008": "Parameter error",
    "10016": "Missing required parameter",
    "10017": "Illegal parameter value",
    "10020": "API does not exist",
    "10021": "HTTP method is not supported",
    "10041": "Title or description is not conforming",
    "20301": "Send failed",
    "21301": "Authentication failed",
    "22006": "Illegal application package name",
    "27001": "Invalid channel info",
    "65009": "Payload too long",
    "200002": "QPS limit exceeded",
}

FIELDS: Check = record(
    {
        **{name: text(1_000_000) for name in ("registration_id", "alias", "user_account")},
        "restricted_package_name": text(1_024),
        "title": coded(text(49, form=re.compile(r"(?s).*\S.*")), "10041"),
        "description": coded(text(127, form=re.compile(r"(?s).*\S.*")), "10041"),
        "payload": coded(octets(4_096), "65009"),
        "pass_through": digits(0, 1),
        "notify_type": digits(-1, 7),
        "notify_id": digits(0, 2**31 - 1),
        "time_to_live": digits(1, 14 * DAY_MS),
        "time_to_send": digits(0, 2**53),
    }
)
EXTRA_CHECKS: Mapping[str, Check] = {
    "channel_id": text(64, 1),
    "channel_name": text(128),
    "channel_description": text(128),
    "template_id": text(64, 1),
    "template_param": json_text(),
    "notify_effect": one_of("1", "2", "3"),
    "intent_uri": text(1_024),
    "web_uri": text(1_024, form=URL_FORM),
    "notify_foreground": one_of("0", "1"),
    "sound_uri": text(256),
    "jobkey": text(20, 1, re.compile(r"[0-9A-Za-z-][0-9A-Za-z_-]*")),
    "only_send_once": one_of("0", "1"),
    "flow_control": digits(1, 2**31 - 1),
    "callback": coded(text(512, form=URL_FORM), "65037"),
    "callback.param": coded(octets(256), "65036"),
    "callback.type": digits(1, RECEIPT_BITS),
    **{f"{name}{end}": text(1_024) for name in ("locale", "model", "app_version") for end in ("", "_not_in")},
    "connpt": text(64),
    "notification_style_type": one_of("0", "1", "2"),
    "notification_bigPic_uri": text(512),
    "notification_large_icon_uri": text(512),
}
EXTRAS: Check = record(EXTRA_CHECKS)


class XiaomiSection(PushSection, frozen=True, kw_only=True):
    """The Xiaomi simulators. channels: channel id -> "public" or "private". templates: id -> names of its variables.

    region_prefixes: region -> how regids of its devices begin; a token without any of them is at home everywhere.
    region_secrets: region -> the app's secret there, which another region does not know; absent: app_secret.
    """

    regions: tuple[str, ...] = ("cn",)
    region_ports: dict[str, int] = msgspec.field(default_factory=dict)
    region_prefixes: dict[str, str] = msgspec.field(default_factory=dict)
    region_secrets: dict[str, str] = msgspec.field(default_factory=dict)
    app_secret: str = "sim-xiaomi-app-secret"
    packages: tuple[str, ...] = ("com.example.app",)
    rate_per_s: float = 3_000.0
    channels: dict[str, Literal["public", "private"]] = msgspec.field(
        default_factory=lambda: {"public": "public", "private": "private"}
    )
    channel_required: bool = True
    templates: dict[str, list[str]] = msgspec.field(default_factory=dict)
    templates_required: bool = False
    default_per_day: Count = 10_000
    public_per_day: Count = 20_000
    default_per_device_per_day: Count = 1
    public_per_device_per_day: Count = 5


@dataclass(frozen=True, slots=True)
class Send:
    """One text for one or many targets. lane: "public", "private" or "" (no channel). mask: receipts wanted."""

    targets: Sequence[str]
    title: str
    body: str
    payload: str
    channel: str
    lane: str
    callback: str
    param: str
    mask: int


class Xiaomi(PushApi):
    """Xiaomi's judgement; implements exchange.Vendor."""

    name = "xiaomi"
    known_fates = frozenset({"bad_regid"})
    receipt_fates: ClassVar[Mapping[str, str]] = {
        "invalid": "16",
        "disabled": "32",
        "filtered": "64",
        "expired": "1024",
        "replaced": "1",
        "bar_off": "1",
    }
    events = ("1", "", "2")
    throttle_code = (200, "200002")
    fault_code = (200, "10003")

    def __init__(self, section: XiaomiSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self._caps = DayCaps(
            {"": section.default_per_day, "public": section.public_per_day},
            {"": section.default_per_device_per_day, "public": section.public_per_device_per_day},
        )
        self._query_rate = TokenBucket(1, 1, self.now)

    @classmethod
    def regions_of(cls, section: XiaomiSection) -> Sequence[str]:
        """As configured; the first one is plain `xiaomi`."""
        return section.regions

    @property
    def _secret(self) -> str:
        """Of the app, as this region knows it."""
        return self._section.region_secrets.get(self.kit.region, self._section.app_secret)

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """The secret is the header, the package is in each request."""
        section = self._section
        known = {"app_secret": self._secret, "packages": list(section.packages), "region": self.kit.region}
        return known | {"channels": dict(section.channels)}

    def reset(self) -> None:
        """Nothing is used."""
        super().reset()
        self._caps.reset()
        self._query_rate = TokenBucket(1, 1, self.now)

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`result` error, HTTP 200 unless a fault says otherwise."""
        code = refused.code
        words = refused.text or TEXTS.get(code, "error")
        body = {"result": "error", "reason": words, "trace_id": _trace_id(), "description": words, "info": ""}
        return refused_answer(refused, body | {"code": as_number(code)})

    def answer_call(self, request: Request) -> Answer:
        """One text for many, one for each, or the quota."""
        path = path_of(request)
        if path not in SEND_PATHS and path not in MULTI_PATHS and path != QUOTA_PATH:
            raise Refused("10020", f"{path[:60]} is not simulated")
        if request.method != ("GET" if path == QUOTA_PATH else "POST"):
            raise Refused("10021", f"method is {request.method[:16]}")
        self._authorize(request)
        if path == QUOTA_PATH:
            return self._quota()
        form = form_of(request, "10008", charset_code="10017")
        sends = self.read_multi(form, MULTI_PATHS[path]) if path in MULTI_PATHS else [self.read(form, SEND_PATHS[path])]
        self.pace(1)
        return self._take_multi(sends) if path in MULTI_PATHS else self._take(sends[0])

    def _authorize(self, request: Request) -> None:
        value = header_of(request, b"authorization")
        if not value.startswith("key="):
            raise Refused("21301", "authorization is missing or does not begin with key=")
        if value != f"key={self._secret}":
            raise Refused("21301", "the app secret is wrong")

    # ---- form

    def read_multi(self, form: Mapping[str, str], target_field: str) -> list[Send]:
        """The messages of a request with one text for each. Raises Refused."""
        entries = parsed(form.get("messages", ""))
        if not isinstance(entries, list) or not entries:
            raise Refused("10016" if "messages" not in form else "10017", "messages is no list in JSON")
        if len(entries) > TARGETS_MAX:
            raise Refused("10017", f"{len(entries)} messages, limit {TARGETS_MAX}")
        sends = []
        for entry in entries:
            if not isinstance(entry, dict) or set(entry) != {"target", "message"}:
                raise Refused("10017", "an entry of messages is not {target, message}")
            message = entry["message"]
            if not isinstance(message, dict) or not isinstance(message.get("extra", {}), dict):
                raise Refused("10017", "message or extra is no object")
            flat = {key: _as_text(value) for key, value in message.items() if key != "extra"}
            flat |= {f"extra.{key}": _as_text(value) for key, value in message.get("extra", {}).items()}
            sends.append(self.read(flat | {target_field: _as_text(entry["target"])}, target_field))
        return sends

    def read(self, form: Mapping[str, str], target_field: str) -> Send:
        """One text and its targets, checked; nothing has changed but counters. Raises Refused."""
        extras = {key[6:]: value for key, value in form.items() if key.startswith("extra.")}
        plain = {key: value for key, value in form.items() if not key.startswith("extra.")}
        packages = plain.get("restricted_package_name", "").split(",")
        if not set(packages) <= set(self._section.packages):
            raise Refused("22006", "restricted_package_name is missing or not the app's")
        targets = plain.get(target_field, "").split(",")
        if targets == [""]:
            raise Refused("10016", f"{target_field} is missing")
        if len(targets) > TARGETS_MAX:
            raise Refused("10017", f"{len(targets)} targets, limit {TARGETS_MAX}")
        known = {key: value for key, value in extras.items() if key in EXTRA_CHECKS or _is_button(key)}
        checked = {key: value for key, value in known.items() if not _is_button(key)}
        fault = self.faults_of(FIELDS, plain) or self.faults_of(EXTRAS, checked)
        if fault is not None:
            raise Refused(fault.code or ("10008" if fault.kind == "unknown" else "10017"), str(fault))
        _check_custom({key: value for key, value in extras.items() if key not in known})
        is_data = plain.get("pass_through") == "1"
        if not is_data and not ("title" in plain and "description" in plain):
            raise Refused("10041", "title or description is missing")
        if is_data and not plain.get("payload"):
            raise Refused("10016", "payload of a data message is missing")
        lane = self._lane_of(extras.get("channel_id", ""))
        self._check_template(extras, lane)
        _check_effect(extras)
        if int(plain.get("time_to_live", "1")) > TTL_MS_MAX[lane]:
            raise Refused("10017", f"time_to_live is {plain['time_to_live']} ms, limit {TTL_MS_MAX[lane]} ms")
        if any(letter in plain.get("payload", "") for letter in '{"'):
            self.kit.n_seen["payload not percent-encoded"] += 1
        return Send(
            targets=targets,
            title=plain.get("title", ""),
            body=plain.get("description", ""),
            payload=unquote(plain.get("payload", "")),
            channel=extras.get("channel_id", "no_channel"),
            lane=lane,
            callback=extras.get("callback", self._section.receipts.callback_url),
            param=extras.get("callback.param", ""),
            mask=int(extras.get("callback.type", "3")),
        )

    def _lane_of(self, channel: str) -> str:
        if channel not in self._section.channels and (channel or self._section.channel_required):
            raise Refused("27001", f"extra.channel_id {channel[:40]!r} is missing or not approved")
        return self._section.channels.get(channel, "")

    def _check_template(self, extras: Mapping[str, str], lane: str) -> None:
        if "template_id" not in extras:
            if lane == "private" and self._section.templates_required:
                raise Refused("10017", "a private message needs extra.template_id")
            return
        variables = self._section.templates.get(extras["template_id"])
        if variables is None and self._section.templates:
            raise Refused("10017", "extra.template_id is unknown")
        values = parsed(extras.get("template_param", "{}"))
        if len(values) > TEMPLATE_VARIABLES_MAX or (variables is not None and set(values) != set(variables)):
            raise Refused("10017", "extra.template_param has not the names of the template")
        for name, value in values.items():
            if not isinstance(value, str) or not 1 <= len(value) <= TEMPLATE_VALUE_CHARS_MAX or not value.strip():
                raise Refused(
                    "10017", f"template variable {name[:40]!r} is not 1..{TEMPLATE_VALUE_CHARS_MAX} characters"
                )
            if any(unicodedata.category(letter) in ("So", "Cn") for letter in value):
                raise Refused("10017", f"template variable {name[:40]!r} has an emoji or an unassigned code point")

    # ---- targets

    def _take(self, send: Send) -> Answer:
        if self._caps.app_room(send.lane, self.now) < 1:
            raise Refused("200001", "quota of the day", text=self._quota_text(send.lane))
        bad = [target for target in send.targets if self._is_bad(target)]
        good = [target for target in send.targets if target not in set(bad)]
        if not good:
            raise Refused("20301", "no valid target", text="No valid targets!")
        message_id = _message_id()
        rows, dues = self._deliver(send, good, message_id)
        data = {"id": message_id, **({"bad_regids": ",".join(bad)} if bad else {}), **self._used(send.lane)}
        info = f"Received push messages for {len(send.targets)} REGID"
        return _ok(data, info, rows=rows, receipts=tuple(dues), row_reasons={"bad_regid": len(bad)} if bad else None)

    def _take_multi(self, sends: Sequence[Send]) -> Answer:
        message_id = _message_id()
        rows: list[Message] = []
        dues: list[Due] = []
        bad: list[str] = []
        over: Counter[str] = Counter()
        for send in sends:
            if self._is_bad(send.targets[0]):
                bad.append(send.targets[0])
            elif self._caps.app_room(send.lane, self.now) < 1:
                over[send.channel] += 1
            else:
                own_rows, own_dues = self._deliver(send, send.targets, message_id)
                rows += own_rows
                dues += own_dues
        if len(bad) == len(sends):
            raise Refused("20301", "no valid target", text="No valid targets!")
        data: dict[str, Any] = {"id": message_id, **({"bad_regids": ",".join(bad)} if bad else {})}
        if over:
            data["channel_exceed_quota"] = " ".join(f"{channel}:{count}" for channel, count in over.items())
        reasons = {"bad_regid": len(bad), "quota": over.total()}
        info = f"Received push messages for {len(sends)} REGID"
        return _ok(
            data,
            info,
            rows=tuple(rows),
            receipts=tuple(dues),
            row_reasons={name: count for name, count in reasons.items() if count},
        )

    def _deliver(self, send: Send, targets: Sequence[str], message_id: str) -> tuple[tuple[Message, ...], list[Due]]:
        self._caps.use_app(send.lane, len(targets), self.now)
        dues: list[Due] = []
        for target in targets:
            event = None
            if self._is_foreign(target):
                event = "16"
            elif not self._caps.use_device(send.lane, target, self.now):
                event = "128"
            used = tuple(self._used(send.lane).items()) if event == "128" else ()
            due = Due(send.callback, target, send.param, message_id, "", extra=used)
            dues += [one for one in self.receipts_of(target, due, event) if int(one.event) & send.mask]
        return self.rows_of(send.param, send.payload, targets, send.title, send.body), dues

    def _is_bad(self, target: str) -> bool:
        return not REGID_FORM.fullmatch(target) or self.sync_fate(target) is not None

    def _is_foreign(self, target: str) -> bool:
        """Whether the device is in another region."""
        for region, prefix in self._section.region_prefixes.items():
            if prefix and target.startswith(prefix):
                return region != self.kit.region
        return False

    # ---- quota

    def _used(self, lane: str) -> dict[str, str]:
        limit = {"": self._section.default_per_day, "public": self._section.public_per_day}.get(lane, 0)
        if not limit:
            return {}
        return {"day_quota": str(limit), "day_acked": str(self._caps.used(lane, self.now))}

    def _quota_text(self, lane: str) -> str:
        used = self._used(lane)
        return f"exceed quota, quota: {used['day_quota']}, have acked: {used['day_acked']}"

    def _quota(self) -> Answer:
        if self._query_rate.take(self.now) > 0:
            raise Refused("10027", "the quota is asked more than once a second")
        return _ok(self._used("public"), "")

    # ---- receipts

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """A form whose field `data` is keyed by message id."""
        for layer in layers(dues):
            data = {group[0].message_id: self._report(group) for group in layer}
            body = urlencode({"data": to_json(data).decode()}).encode()
            yield Callback(body, (("content-type", FORM_TYPE),), sum(map(len, layer)))

    def _report(self, group: Sequence[Due]) -> dict[str, Any]:
        first = group[0]
        fates = {due.token: fate.fate for due in group if (fate := self.fates.of(due.token)) is not None}
        replaced = {token: f"{token}New" for token, fate in fates.items() if fate == "replaced"}
        return {
            "param": first.reference,
            "type": int(first.event),
            "targets": ",".join(due.token for due in group),
            "jobkey": "",
            "barStatus": "Disable" if "bar_off" in fates.values() else "Enable",
            "timestamp": self.now_ms,
            **({"errorCode": 1} if first.event == "16" else {}),
            **({"replaceTarget": replaced} if replaced else {}),
            **(
                {"extra": {"ack": dict(first.extra)["day_acked"], "quota": dict(first.extra)["day_quota"]}}
                if first.event == "128" and first.extra
                else {}
            ),
        }


def _ok(data: Mapping[str, Any], info: str, **fields: Any) -> Answer:
    body = {"result": "ok", "trace_id": _trace_id(), "code": 0, "data": data, "description": "成功", "info": info}
    return json_answer(200, body, **fields)


def _check_custom(custom: Mapping[str, str]) -> None:
    if len(custom) > CUSTOM_PAIRS_MAX:
        raise Refused("65014", f"{len(custom)} custom pairs, limit {CUSTOM_PAIRS_MAX}")
    for key, value in custom.items():
        if len(key) + len(value) > CUSTOM_PAIR_CHARS_MAX:
            raise Refused("65015", f"extra.{key[:40]} has more than {CUSTOM_PAIR_CHARS_MAX} characters")


def _check_effect(extras: Mapping[str, str]) -> None:
    needed = {"2": "intent_uri", "3": "web_uri"}.get(extras.get("notify_effect", ""))
    if needed is not None and not extras.get(needed):
        raise Refused("10016", f"extra.notify_effect {extras['notify_effect']} needs extra.{needed}")
    if int(extras.get("callback.type", "1")) & ~RECEIPT_BITS:
        raise Refused("10017", "extra.callback.type has a bit that is no receipt")


def _is_button(key: str) -> bool:
    return key.startswith(
        ("notification_style_button_left_", "notification_style_button_mid_", "notification_style_button_right_")
    )


def _as_text(value: Any) -> str:
    """A value of a JSON message as a form would carry it."""
    return value if isinstance(value, str) else to_json(value).decode()


def _message_id() -> str:
    return f"scm{secrets.token_hex(10)}"


def _trace_id() -> str:
    return f"Xcm{secrets.token_hex(9)}"
