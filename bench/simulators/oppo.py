"""OPPO Push as a judge: auth, unicast, unicast_batch, save_message_content, broadcast, the permit. No sockets.

Written from facts/vendors-china.md section 2 and vendors-addendum.md 2.2. Order of the checks: path, method, auth
token, form, envelope, fields, category, template, registration id, repeated app_message_id, quota. One simulator per
region ("cn", "intl"): the form of a registration id tells where it belongs.

Where the sheet is silent: what a repeated save_message_content gets (`repeated_save`), whether a failed target of a
broadcast is listed or written as text (`failed_form`), which code a bad registration id gets (`bad_target_code`: both
were seen), the length of a style 1 content (`content_chars_max`), the fields of the permit.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec

from bench.simulators.access_tokens import AccessTokens
from bench.simulators.config_base import Count, Positive, Seconds
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import (
    Check,
    an_object,
    digits,
    flag,
    json_text,
    one_of,
    parsed,
    record,
    text,
    texts_map,
    to_json,
    whole,
)
from bench.simulators.push_api import (
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
from bench.simulators.receipts import Callback, Due, gathered
from bench.simulators.received import Message, target_of

AUTH_PATH = "/server/v1/auth"
_NOTIFICATION_PATH = "/server/v1/message/notification/"
UNICAST, BATCH, SAVE, BROADCAST = (
    _NOTIFICATION_PATH + name for name in ("unicast", "unicast_batch", "save_message_content", "broadcast")
)
PERMIT_PATH = "/server/v1/feedback/fetch_push_permit"
TARGETS_MAX = 1_000
AUTH_SKEW_S = 600
REMEMBERED_MAX = 500_000  # app_message_id and target; the oldest goes first
SAVED_MAX = 10_000
SERVICE_CATEGORIES = ("IM", "ACCOUNT", "TODO", "DEVICE_REMINDER", "ORDER", "SUBSCRIPTION")
PUBLIC_CATEGORIES = ("NEWS", "CONTENT", "MARKETING", "SOCIAL")
CN_FORM = re.compile(r"(?:(?:OPPO_)?CN_)?[0-9a-fA-F]{32}")
INTL_FORM = re.compile(r"(?!CN_|OPPO_CN_)[0-9A-Za-z]+_[0-9A-Za-z_]{1,100}")
STYLE_CHARS_MAX = {2: 128, 3: 50}
TEXTS = {
    "-1": "Service Currently Unavailable",
    "-2": "Service in Flow Control",
    "11": "Invalid AuthToken",
    "14": "Invalid AppKey",
    "15": "Missing AppKey",
    "16": "Invalid Signature",
    "17": "Missing Signature",
    "18": "Missing Timestamp",
    "19": "Invalid Timestamp",
    "29": "Missing Auth Token",
    "31": "Data Not Exist",
    "32": "Duplicate Message",
    "33": "Message Limit Exceeded",
    "40": "Missing Required Arguments",
    "41": "Invalid Arguments",
    "42": "Save Message Limit Exceeded",
    "54": "Private Template Error",
    "67": "Category or NotifyLevel Error",
    "10000": "registration_id格式不正确",
}

_NOTIFICATION_FIELDS: Mapping[str, Check] = {
    "app_message_id": text(64),
    "style": one_of(1, 2, 3),
    "title": text(50, 1),
    "sub_title": text(10),
    "content": text(200, 1),
    "click_action_type": one_of(0, 1, 2, 4, 5),
    "click_action_activity": text(500),
    "click_action_url": text(2_000),
    "action_parameters": json_text(4_000),
    "off_line": flag,
    "off_line_ttl": whole(0, 2**31 - 1),
    "show_ttl": whole(0, 172_800),
    "show_time_type": one_of(0, 1),
    "show_start_time": whole(0, 2**53),
    "show_end_time": whole(0, 2**53),
    "push_time_type": one_of(0, 1),
    "push_start_time": whole(0, 2**53),
    "time_zone": text(32),
    "network_type": one_of(0, 1),
    "fix_speed": flag,
    "fix_speed_rate": whole(0, 2**53),
    "channel_id": text(64),
    "category": one_of(*SERVICE_CATEGORIES, *PUBLIC_CATEGORIES),
    "notify_level": one_of(1, 2, 16),
    "private_msg_template_id": text(64),
    "private_title_parameters": texts_map,
    "private_content_parameters": texts_map,
    "badge_operation_type": one_of(0, 1),
    "badge_message_count": whole(0, 2**31 - 1),
    "call_back_url": text(200, form=re.compile(r"https?://\S+")),
    "call_back_parameter": text(100),
    "notify_id": whole(0, 2**31 - 1),
    "small_picture_id": text(64),
    "big_picture_id": text(64),
    "auditResponse": an_object,
    "audit_response": an_object,
}
NOTIFICATION: Check = record(_NOTIFICATION_FIELDS, ["title", "content"])
ENVELOPE: Check = record(
    {
        "target_type": one_of(2, 5),
        "target_value": text(1_000, 1),
        "verify_registration_id": flag,
        "notification": NOTIFICATION,
    },
    ["target_type", "target_value", "notification"],
)
BROADCAST_FORM: Check = record(
    {
        "auth_token": text(),
        "message_id": text(64, 1),
        "target_type": digits(1, 6),
        "target_value": text(1_000_000, 1),
    },
    ["message_id", "target_type", "target_value"],
)


class OppoSection(PushSection, frozen=True, kw_only=True):
    """The OPPO simulators. categories: service categories approved for the app. templates: id -> variable names.

    region_secrets: region -> the master secret there, which another region does not know; absent: master_secret.
    """

    regions: tuple[Literal["cn", "intl"], ...] = ("cn",)
    region_ports: dict[str, int] = msgspec.field(default_factory=dict)
    region_secrets: dict[str, str] = msgspec.field(default_factory=dict)
    app_id: str = "30000001"
    app_key: str = "sim-oppo-app-key"
    master_secret: str = "sim-oppo-master-secret"
    auth_token_life_s: Seconds = 86_400.0
    rate_per_s: float = 5_000.0
    content_chars_max: Positive = 50
    categories: tuple[str, ...] = SERVICE_CATEGORIES
    notify_level_16: bool = False
    templates: dict[str, list[str]] = msgspec.field(default_factory=dict)
    templates_required: bool = False
    repeated_save: Literal["refuse", "same_id"] = "refuse"
    failed_form: Literal["list", "text"] = "list"
    bad_target_code: Literal["10000", "41"] = "10000"
    public_per_day: Count = 100_000
    public_per_device_per_day: Count = 2
    saves_per_day: Count = 0


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification that has passed all checks of form."""

    message_key: str
    title: str
    body: str
    payload: str
    callback: str
    param: str
    is_service: bool


class Oppo(PushApi):
    """OPPO's judgement; implements exchange.Vendor."""

    name = "oppo"
    known_fates = frozenset({"invalid"})
    receipt_fates: ClassVar[Mapping[str, str]] = {"regid_invalid": "regid_invalid"}
    events = ("push_arrive", "", "")  # clicks come from client reporting only
    throttle_code = (200, "-2")
    fault_code = (200, "-1")
    oauth_paths = frozenset({AUTH_PATH})
    save_paths = frozenset({SAVE})

    def __init__(self, section: OppoSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self._tokens = AccessTokens(section.auth_token_life_s)
        self._caps = DayCaps(
            {"public": section.public_per_day, "saves": section.saves_per_day},
            {"public": section.public_per_device_per_day},
        )
        self._sent: OrderedDict[bytes, None] = OrderedDict()
        self._saved: OrderedDict[str, Notification] = OrderedDict()
        self._saved_keys: dict[str, str] = {}

    @classmethod
    def regions_of(cls, section: OppoSection) -> Sequence[str]:
        """As configured; the first one is plain `oppo`."""
        return section.regions

    @property
    def _secret(self) -> str:
        """The master secret, as this region knows it."""
        return self._section.region_secrets.get(self.kit.region, self._section.master_secret)

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """The master secret signs; the app's own secret is not the server's business."""
        section = self._section
        known = {"app_id": section.app_id, "app_key": section.app_key, "master_secret": self._secret}
        return known | {"region": self.kit.region}

    def reset(self) -> None:
        """No token is valid, nothing is saved, sent or used."""
        super().reset()
        self._tokens.clear()
        self._caps.reset()
        self._sent.clear()
        self._saved.clear()
        self._saved_keys.clear()

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`code` and `message`."""
        code = refused.code
        message = TEXTS.get(code, "error") + (f",{refused.why}" if code in ("40", "41") else "")
        return refused_answer(refused, {"code": as_number(code), "message": message})

    def answer_call(self, request: Request) -> Answer:
        """One of the calls above."""
        path = path_of(request)
        calls = {AUTH_PATH: self._auth, UNICAST: self._unicast, BATCH: self._batch, SAVE: self._save}
        calls |= {BROADCAST: self._broadcast, PERMIT_PATH: self._permit}
        call = calls.get(path)
        if call is None:
            raise Refused("404", f"{path[:60]} is not simulated", status=404)
        if request.method != ("GET" if path == PERMIT_PATH else "POST"):
            raise Refused("12", f"method is {request.method[:16]}")
        form = {} if path == PERMIT_PATH else form_of(request, "41", charset_code="25")
        if path != AUTH_PATH:
            self._authorize(form.get("auth_token", "") or header_of(request, b"auth_token"))
        return call(form)

    # ---- authorization

    def _auth(self, form: Mapping[str, str]) -> Answer:
        section = self._section
        for name, code in (("app_key", "15"), ("sign", "17"), ("timestamp", "18")):
            if not form.get(name):
                raise Refused(code, f"{name} is missing")
        if form["app_key"] != section.app_key:
            raise Refused("14", "app_key is unknown")
        stamp = form["timestamp"]
        if not re.fullmatch(r"[0-9]{13}", stamp) or abs(int(stamp) / 1000 - self.now) > AUTH_SKEW_S:
            raise Refused("19", f"timestamp is {stamp[:20]!r}, expected milliseconds within {AUTH_SKEW_S} s of now")
        if form["sign"] != auth_signature(section.app_key, stamp, self._secret):
            raise Refused("16", "sign is not sha256(app_key + timestamp + master_secret) in lower hex")
        token = secrets.token_hex(24)
        self._tokens.add(token, self.now)
        return _ok({"auth_token": token, "create_time": self.now_ms})

    def _authorize(self, token: str) -> None:
        if not token:
            raise Refused("29", "auth_token is missing")
        if not self._tokens.is_valid(token, self.now):
            raise Refused("11", "auth_token is unknown or expired")

    # ---- one target

    def _unicast(self, form: Mapping[str, str]) -> Answer:
        envelope = parsed(form.get("message", ""))
        if "message" not in form:
            raise Refused("40", "message is missing")
        target, notification = self.read_envelope(envelope)
        self.pace(1)
        self._check_target(target, notification)
        message_id, rows, dues = self._take(target, notification)
        return _ok({"messageId": message_id}, rows=rows, receipts=dues)

    def _batch(self, form: Mapping[str, str]) -> Answer:
        envelopes = parsed(form.get("messages", ""))
        if not isinstance(envelopes, list) or not envelopes:
            raise Refused("40" if "messages" not in form else "41", "messages is no list in JSON")
        if len(envelopes) > TARGETS_MAX:
            raise Refused("41", f"{len(envelopes)} messages, limit {TARGETS_MAX}")
        read = [self.read_envelope(envelope) for envelope in envelopes]
        self.pace(len(read))
        rows: list[Message] = []
        dues: list[Due] = []
        told = []
        reasons: dict[str, int] = defaultdict(int)
        for target, notification in read:
            try:
                self._check_target(target, notification)
            except Refused as refused:
                reasons[refused.code] += 1
                told.append(
                    {
                        "registrationId": target,
                        "errorCode": int(refused.code),
                        "errorMessage": TEXTS.get(refused.code, refused.why),
                    }
                )
                continue
            message_id, own_rows, own_dues = self._take(target, notification)
            rows += own_rows
            dues += own_dues
            told.append({"messageId": message_id, "registrationId": target})
        return _ok(told, rows=tuple(rows), receipts=tuple(dues), row_reasons=reasons)

    def read_envelope(self, envelope: Any) -> tuple[str, Notification]:
        """(target, notification) of a single message, checked. Raises Refused."""
        fault = self.faults_of(ENVELOPE, envelope)
        if fault is not None:
            raise Refused("40" if fault.kind == "missing" else "41", str(fault))
        target = envelope["target_value"]
        if ";" in target or "," in target:
            raise Refused("41", "target_value names more than one target")
        return target, self.read(envelope["notification"], is_broadcast=False)

    def read(self, shown: Mapping[str, Any], *, is_broadcast: bool) -> Notification:
        """A notification, checked; nothing has changed but counters. Raises Refused."""
        style = shown.get("style", 1)
        limit = STYLE_CHARS_MAX.get(style, self._section.content_chars_max)
        if len(shown["content"]) > limit:
            raise Refused("41", f"content has {len(shown['content'])} characters, limit {limit} for style {style}")
        if not is_broadcast and (style == 3 or "big_picture_id" in shown or "small_picture_id" in shown):
            raise Refused("41", "pictures are for broadcasts only")
        action = shown.get("click_action_type", 0)
        needed = {1: "click_action_activity", 4: "click_action_activity", 2: "click_action_url", 5: "click_action_url"}
        if action in needed and not shown.get(needed[action]):
            raise Refused("40", f"{needed[action]} is missing for click_action_type {action}")
        if "off_line_ttl" in shown and not 3_600 <= shown["off_line_ttl"] <= 864_000:
            self.kit.n_seen["off_line_ttl outside 3600..864000"] += 1
        is_service = self._check_category(shown, is_broadcast=is_broadcast)
        self._check_template(shown, is_service=is_service)
        return Notification(
            message_key=shown.get("app_message_id", ""),
            title=shown["title"],
            body=shown["content"],
            payload=shown.get("action_parameters", ""),
            callback=shown.get("call_back_url", self._section.receipts.callback_url),
            param=shown.get("call_back_parameter", ""),
            is_service=is_service,
        )

    def _check_category(self, shown: Mapping[str, Any], *, is_broadcast: bool) -> bool:
        """Whether the message counts as communication and service."""
        category = shown.get("category", "")
        is_service = category in SERVICE_CATEGORIES
        if is_service and category not in self._section.categories:
            raise Refused("67", f"category {category} is not approved")
        if is_service and is_broadcast:
            raise Refused("67", "service messages are single pushes only")
        if "notify_level" in shown and not category:
            raise Refused("67", "notify_level needs a category")
        if shown.get("notify_level") == 16 and not self._section.notify_level_16:
            raise Refused("67", "notify_level 16 is not granted")
        return is_service

    def _check_template(self, shown: Mapping[str, Any], *, is_service: bool) -> None:
        template = shown.get("private_msg_template_id")
        if template is None:
            if is_service and self._section.templates_required:
                raise Refused("54", "private_msg_template_id is missing")
            return
        variables = self._section.templates.get(template)
        if variables is None:
            if self._section.templates:
                raise Refused("54", "private_msg_template_id is unknown")
            return
        given = {**shown.get("private_title_parameters", {}), **shown.get("private_content_parameters", {})}
        if set(given) != set(variables):
            raise Refused("54", "the parameters have not the names of the template")

    def _check_target(self, target: str, notification: Notification) -> None:
        """This target may get this message. Raises Refused."""
        if not self._is_at_home(target):
            raise Refused(self._section.bad_target_code, "registration_id is malformed, dead or of another region")
        if _key_of(notification, target) in self._sent:
            raise Refused("32", "app_message_id has been sent to this target")
        if not notification.is_service and self._caps.app_room("public", self.now) < 1:
            raise Refused("33", f"more than {self._section.public_per_day} public messages today")

    def _is_at_home(self, target: str) -> bool:
        form = CN_FORM if self.kit.region == "cn" else INTL_FORM
        return bool(form.fullmatch(target)) and self.sync_fate(target) is None

    def _take(self, target: str, notification: Notification) -> tuple[str, tuple[Message, ...], tuple[Due, ...]]:
        message_id = f"{self._section.app_id}-1-1-{secrets.token_hex(12)}"
        if notification.message_key:
            self._sent[_key_of(notification, target)] = None
            if len(self._sent) > REMEMBERED_MAX:
                self._sent.popitem(last=False)
        return message_id, *self._deliver([target], notification, message_id)

    # ---- many targets in two steps

    def _save(self, form: Mapping[str, str]) -> Answer:
        shown = _typed({key: value for key, value in form.items() if key != "auth_token"})
        fault = self.faults_of(NOTIFICATION, shown)
        if fault is not None:
            raise Refused("40" if fault.kind == "missing" else "41", str(fault))
        notification = self.read(shown, is_broadcast=True)
        known = self._saved_keys.get(notification.message_key)
        if known is not None:
            if self._section.repeated_save == "refuse":
                raise Refused("32", "app_message_id has been saved")
            return _ok({"message_id": known})
        self.pace(1)
        if self._caps.app_room("saves", self.now) < 1:
            raise Refused("42", f"more than {self._section.saves_per_day} saved messages today")
        self._caps.use_app("saves", 1, self.now)
        message_id = secrets.token_hex(12)
        self._saved[message_id] = notification
        if notification.message_key:
            self._saved_keys[notification.message_key] = message_id
        if len(self._saved) > SAVED_MAX:
            _, forgotten = self._saved.popitem(last=False)
            self._saved_keys.pop(forgotten.message_key, None)
        return _ok({"message_id": message_id})

    def _broadcast(self, form: Mapping[str, str]) -> Answer:
        fault = self.faults_of(BROADCAST_FORM, form)
        if fault is not None:
            raise Refused("40" if fault.kind == "missing" else "41", str(fault))
        if form["target_type"] != "2":
            raise Refused("41", "target_type is not 2: aliases, tags and everyone are not simulated")
        targets = form["target_value"].split(";")
        if len(targets) > TARGETS_MAX:
            raise Refused("41", f"{len(targets)} targets, limit {TARGETS_MAX}")
        notification = self._saved.get(form["message_id"])
        if notification is None:
            raise Refused("31", "message_id is unknown")
        self.pace(len(targets))
        if self._caps.app_room("public", self.now) < 1:
            raise Refused("33", f"more than {self._section.public_per_day} public messages today")
        bad = [target for target in targets if not self._is_at_home(target)]
        good = [target for target in targets if target not in set(bad)]
        task_id = secrets.token_hex(12)
        rows, dues = self._deliver(good, notification, form["message_id"], task_id)
        data: dict[str, Any] = {"message_id": form["message_id"], "task_id": task_id}
        if bad:
            data["10000"] = bad if self._section.failed_form == "list" else ";".join(bad)
        return _ok(data, rows=rows, receipts=dues, row_reasons={"10000": len(bad)} if bad else None)

    def _deliver(
        self, targets: Sequence[str], notification: Notification, message_id: str, task_id: str = ""
    ) -> tuple[tuple[Message, ...], tuple[Due, ...]]:
        if not notification.is_service:
            self._caps.use_app("public", len(targets), self.now)
        dues: list[Due] = []
        for target in targets:
            is_within = notification.is_service or self._caps.use_device("public", target, self.now)
            extra = (("taskId", task_id or message_id),)
            due = Due(notification.callback, target, notification.param, message_id, "", extra=extra)
            dues += self.receipts_of(target, due, None if is_within else "user_daily_limit")
        named = notification.param or notification.message_key
        return self.rows_of(named, notification.payload, targets, notification.title, notification.body), tuple(dues)

    def _permit(self, form: Mapping[str, str]) -> Answer:
        room = self._caps.app_room("public", self.now)
        total = self._section.public_per_day
        return _ok({"total": total, "remain": int(room) if total else 0})

    # ---- receipts

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """An array; one entry tells many registration ids of one message and event."""
        entries = [
            {
                "messageId": message_id,
                "appId": self._section.app_id,
                "taskId": dict(group[0].extra)["taskId"],
                "registrationIds": ",".join(due.token for due in group),
                "eventTime": str(self.now_ms),
                "param": group[0].reference,
                "eventType": event,
            }
            for (message_id, event), group in gathered(dues).items()
        ]
        yield Callback(to_json(entries), (("content-type", "application/json"),), len(dues))


def auth_signature(app_key: str, timestamp: str, master_secret: str) -> str:
    """Lower hex of sha256(app_key + timestamp + master_secret)."""
    return hashlib.sha256(f"{app_key}{timestamp}{master_secret}".encode()).hexdigest()


def _ok(data: Any, **fields: Any) -> Answer:
    return json_answer(200, {"code": 0, "message": "success", "data": data}, **fields)


def _key_of(notification: Notification, target: str) -> bytes:
    return target_of(f"{notification.message_key}\0{target}")


def _typed(form: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a form with the types that the same fields have in JSON."""
    typed: dict[str, Any] = {}
    for name, value in form.items():
        check = _NOTIFICATION_FIELDS.get(name)
        is_other = check is not None and any(check(value, name)) and not any(check(parsed(value), name))
        typed[name] = parsed(value) if is_other else value
    return typed
