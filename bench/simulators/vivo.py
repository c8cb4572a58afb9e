"""vivo Push as a judge: auth, send, saveListPayload, pushToList, statistics. No sockets.

Written from facts/vendors-china.md section 3 and vendors-addendum.md 2.2. Order of the checks: path, method, token,
JSON, appId, request id, target, fields, class, time of day, quota, then target by target.

Where the sheet is silent: which field of the auth call has which code of 10200..10207, and which fault of a list push
which of 10150..10153 (both in the order in which the sheet names the faults); what a repeated requestId gets (the first
answer again, nothing is sent); the body of new receipts beyond one public client's (`receipt_form`). A title that the
older counting (a Chinese character counts two) refuses is taken and counted. Aliases, tags and everyone are not
simulated; neither is vivo's own classifier, nor its drop of a text that a user had before.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import msgspec

from bench.simulators.access_tokens import AccessTokens
from bench.simulators.config_base import Count, Seconds
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import (
    Check,
    an_object,
    both,
    coded,
    each,
    flag,
    one_of,
    record,
    text,
    texts_map,
    to_json,
    whole,
)
from bench.simulators.push_api import (
    SHANGHAI_S,
    DayCaps,
    Kit,
    PushApi,
    PushSection,
    Refused,
    as_number,
    header_of,
    json_answer,
    json_of,
    new_id,
    path_of,
    query_of,
    refused_answer,
    retry_after,
)
from bench.simulators.rate import DeviceWindow
from bench.simulators.receipts import Callback, Due, layers

AUTH, SEND, SAVE, LIST = "/message/auth", "/message/send", "/message/saveListPayload", "/message/pushToList"
STATISTICS = "/report/getStatistics"
LIST_MIN, LIST_MAX = 2, 1_000
AUTH_SKEW_S = 600
TTL_S_MIN, TTL_S_MAX = 60, 86_400
TITLE_MAX, CONTENT_MAX = 40, 100
REMEMBERED_MAX = 200_000  # answers by requestId; the oldest goes first
TASKS_MAX = 10_000
NIGHT_ENDS_H, NIGHT_BEGINS_H = 7, 23
SYSTEM, OPERATIONAL = 1, 0
CATEGORIES = {
    SYSTEM: frozenset({"IM", "ACCOUNT", "TODO", "DEVICE_REMINDER", "ORDER", "SUBSCRIPTION"}),
    OPERATIONAL: frozenset({"NEWS", "CONTENT", "MARKETING", "SOCIAL"}),
}
OLD_FORM = re.compile(r"[0-9]{23}")
NEW_FORM = re.compile(r"v2-[!-~]{1,253}")
ANY_FORM = re.compile(r"[!-+\--:<-~]{1,256}")  # printable without comma and semicolon
STATUS_OF_FATE = {"not_existing": 1, "uninstalled": 2, "offline": 3}
TEXTS = {
    "0": "请求成功",
    "10000": "权限认证失败",
    "10070": "运营消息总量超限",
    "10072": "发送速度超限",
    "10302": "regId不合法",
    "10311": "regId暂不支持推送",
}

_EXTRA: Check = coded(
    record(
        {
            "callback": coded(text(128, form=re.compile(r"https?://\S+")), "10305"),
            "callback.param": coded(text(192), "10306"),
            "callback.id": text(64),
        }
    ),
    "10304",
)
_FIELDS: Mapping[str, Check] = {
    "appId": whole(0, 2**53),
    "notifyType": coded(one_of(1, 2, 3, 4), "10054"),
    "title": both(coded(text(n_min=1), "10055"), coded(text(TITLE_MAX), "10056")),
    "content": both(coded(text(n_min=1), "10057"), coded(text(CONTENT_MAX), "10058")),
    "timeToLive": coded(whole(TTL_S_MIN, 2**31 - 1), "10059"),
    "skipType": coded(one_of(1, 2, 3, 4), "10060"),
    "skipContent": coded(text(2_048), "10060"),
    "networkType": coded(one_of(-1, 1), "10065"),
    "classification": coded(one_of(SYSTEM, OPERATIONAL), "10095"),
    "category": coded(text(64, 1), "10096"),
    "clientCustomMap": coded(texts_map, "10067"),
    "extra": _EXTRA,
    "requestId": coded(text(64, 1), "10353"),
    "pushMode": coded(one_of(0, 1), "10095"),
    "notifyId": coded(whole(1, 2**31 - 1), "10095"),
    "sendOnline": coded(flag, "10095"),
    "foregroundShow": coded(flag, "10095"),
    "timedDisplay": coded(an_object, "10095"),
    "profileId": coded(text(64), "10095"),
    "auditReview": coded(each(an_object, 10), "10095"),
    "addBadge": coded(flag, "10095"),
}
PAYLOAD: Check = record(_FIELDS, ["notifyType", "title", "content", "skipType"])
SINGLE: Check = record({**_FIELDS, "regId": text(256, 1)}, ["notifyType", "title", "content", "skipType", "regId"])
LIST_REQUEST: Check = record(
    {
        "appId": whole(0, 2**53),
        "regIds": coded(each(text(256, 1), 1_000_000), "10153"),
        "taskId": coded(text(64, 1), "10151"),
        "requestId": coded(text(64, 1), "10353"),
        "pushMode": one_of(0, 1),
    },
    ["regIds", "taskId"],
)
MISSING_CODES = {
    "notifyType": "10054",
    "title": "10055",
    "content": "10057",
    "skipType": "10060",
    "regId": "10050",
    "regIds": "10150",
    "taskId": "10151",
}


class VivoSection(PushSection, frozen=True, kw_only=True):
    """The vivo simulator. callback_ids: id of the console -> URL. test_users: devices that take pushMode 1."""

    app_id: int = 10_004
    app_key: str = "sim-vivo-app-key"
    app_secret: str = "sim-vivo-app-secret"
    auth_token_life_s: Seconds = 86_400.0
    auth_calls_per_s: Count = 10
    rate_per_s: float = 3_000.0
    system_open: bool = True
    test_users: tuple[str, ...] = ()
    content_rules: bool = False
    sensitive_words: tuple[str, ...] = ()
    night: Literal["ignored", "refused"] = "ignored"
    operational_per_day: Count = 20_000
    system_per_day: Count = 200_000
    operational_per_device_per_day: Count = 2
    saves_per_day: Count = 0
    saved_life_s: Seconds = 86_400.0
    receipt_form: Literal["ack", "legacy"] = "ack"
    callback_ids: dict[str, str] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """A message that has passed all checks of form. callback is empty where vivo would not report."""

    title: str
    body: str
    payload: str
    classification: int
    callback: str
    param: str
    is_test: bool
    saved_unix_s: float = 0.0


class Vivo(PushApi):
    """vivo's judgement; implements exchange.Vendor."""

    name = "vivo"
    known_fates = frozenset({*STATUS_OF_FATE, "muted"})
    receipt_fates: ClassVar[Mapping[str, str]] = {}
    events = ("0", "", "")
    throttle_code = (200, "10072")
    fault_code = (500, "500")
    oauth_paths = frozenset({AUTH})
    save_paths = frozenset({SAVE})

    def __init__(self, section: VivoSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self._tokens = AccessTokens(section.auth_token_life_s)
        self._auth_window = DeviceWindow(section.auth_calls_per_s, 1.0)
        self._caps = DayCaps(
            {
                "class 0": section.operational_per_day,
                "class 1": section.system_per_day,
                "saves": section.saves_per_day,
            },
            {"class 0": section.operational_per_device_per_day},
        )
        self._saved: OrderedDict[str, Message] = OrderedDict()
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._tasks: OrderedDict[str, int] = OrderedDict()

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """All three are for the auth call."""
        return {
            "app_id": self._section.app_id,
            "app_key": self._section.app_key,
            "app_secret": self._section.app_secret,
        }

    def reset(self) -> None:
        """No token is valid, nothing is saved, answered or used."""
        super().reset()
        self._tokens.clear()
        self._auth_window = DeviceWindow(self._section.auth_calls_per_s, 1.0)
        self._caps.reset()
        self._saved.clear()
        self._answers.clear()
        self._tasks.clear()

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`result` and `desc`; HTTP 500 has no body that anybody described."""
        code = refused.code
        if refused.status >= 500 and not re.fullmatch(r"1[0-9]{4}", code):
            return Answer(refused.status, retry_after(refused), b"", code, refused.why)
        desc = refused.text or TEXTS.get(code, refused.why)
        return refused_answer(refused, {"result": as_number(code), "desc": desc, **(refused.data or {})})

    def answer_call(self, request: Request) -> Answer:
        """One of the calls above."""
        path = path_of(request)
        if path not in (AUTH, SEND, SAVE, LIST, STATISTICS):
            raise Refused("404", f"{path[:60]} is not simulated", status=404)
        if request.method != ("GET" if path == STATISTICS else "POST"):
            raise Refused("405", f"method is {request.method[:16]}", status=405)
        if path != AUTH and not self._tokens.is_valid(header_of(request, b"authtoken"), self.now):
            raise Refused("10000", "authToken is missing, unknown or expired")
        if path == STATISTICS:
            return self._statistics(query_of(request))
        value = json_of(request, "10095")
        if path == AUTH:
            return self._auth(value)
        if value.get("appId") != self._section.app_id:
            raise Refused("10094", "appId is not the token's")
        calls = {SEND: self._send, LIST: self._push_to_list}
        return self._save(value) if path == SAVE else self._once(value, calls[path])

    # ---- authorization

    def _auth(self, value: Mapping[str, Any]) -> Answer:
        section = self._section
        if self._auth_window.take("auth", self.now) > 0:
            raise Refused("10093", f"more than {section.auth_calls_per_s} auth calls in a second")
        app_id, app_key, stamp = value.get("appId"), value.get("appKey"), value.get("timestamp")
        for name, code in (("appId", "10200"), ("appKey", "10201"), ("timestamp", "10203"), ("sign", "10204")):
            if value.get(name) in (None, ""):
                raise Refused(code, f"{name} is missing")
        if app_id != section.app_id:
            raise Refused("10205", "appId is unknown")
        if app_key != section.app_key:
            raise Refused("10202", "appKey is wrong")
        if isinstance(stamp, bool) or not isinstance(stamp, int) or abs(stamp / 1000 - self.now) > AUTH_SKEW_S:
            raise Refused("10207", f"timestamp is no number of milliseconds within {AUTH_SKEW_S} s of now")
        if value["sign"] != auth_signature(str(app_id), section.app_key, str(stamp), section.app_secret):
            raise Refused("10206", "sign is not md5(appId + appKey + timestamp + appSecret) in lower hex")
        token = secrets.token_hex(20)
        self._tokens.add(token, self.now)
        return self._ok({"authToken": token})

    # ---- sending

    def _once(self, value: Mapping[str, Any], call: Any) -> Answer:
        """The answer of `call`, remembered by request id: a repeated one gets it again and nothing is sent."""
        request_id = value.get("requestId")
        if not request_id:
            raise Refused("10352", "requestId is missing")
        known = self._answers.get(str(request_id))
        if known is not None:
            self.kit.n_seen["requestId repeated"] += 1
            return known
        answer: Answer = call(value)
        self._answers[str(request_id)] = answer.without_rows()
        if len(self._answers) > REMEMBERED_MAX:
            self._answers.popitem(last=False)
        return answer

    def _send(self, value: Mapping[str, Any]) -> Answer:
        message = self.read(value, SINGLE, is_list=False)
        reg_id = value["regId"]
        self.pace(1)
        self._check_quota(message)
        status = self._status_of(reg_id, message)
        if status:
            user = {"invalidUser": {"status": status, "userid": reg_id}}
            raise Refused("10302" if status in (1, 4) else "10311", f"status {status} of the regId", data=user)
        task_id = new_id(18)
        return self._deliver([reg_id], message, value["requestId"], task_id, {"taskId": task_id})

    def _save(self, value: Mapping[str, Any]) -> Answer:
        message = self.read(value, PAYLOAD, is_list=True)
        self.pace(1)
        if self._caps.app_room("saves", self.now) < 1:
            raise Refused("10252", f"more than {self._section.saves_per_day} saved messages today")
        self._caps.use_app("saves", 1, self.now)
        task_id = new_id(18)
        self._saved[task_id] = replace(message, saved_unix_s=self.now)
        if len(self._saved) > TASKS_MAX:
            self._saved.popitem(last=False)
        return self._ok({"taskId": task_id})

    def _push_to_list(self, value: Mapping[str, Any]) -> Answer:
        self._check(LIST_REQUEST, value)
        reg_ids = value["regIds"]
        if not LIST_MIN <= len(reg_ids) <= LIST_MAX:
            raise Refused("10152", f"{len(reg_ids)} regIds, expected {LIST_MIN}..{LIST_MAX}")
        message = self._saved.get(value["taskId"])
        if message is None or message.saved_unix_s + self._section.saved_life_s <= self.now:
            raise Refused("10155", "the saved message is unknown or expired")
        message = replace(message, is_test=message.is_test or value.get("pushMode") == 1)
        self.pace(len(reg_ids))
        self._check_quota(message)
        invalid = [(reg_id, status) for reg_id in reg_ids if (status := self._status_of(reg_id, message))]
        bad = {reg_id for reg_id, _ in invalid}
        good = [reg_id for reg_id in reg_ids if reg_id not in bad]
        users = [{"status": status, "userid": reg_id} for reg_id, status in invalid]
        more = {"invalidUsers": users} if users else {}
        return self._deliver(good, message, value["requestId"], value["taskId"], more, len(bad))

    def read(self, value: Mapping[str, Any], check: Check, *, is_list: bool) -> Message:
        """A message, checked; nothing has changed but counters. Raises Refused."""
        self._check(check, value)
        for name, limit in (("title", TITLE_MAX), ("content", CONTENT_MAX)):
            if _width_of(value[name]) > limit:
                self.kit.n_seen[f"{name} over the older limit"] += 1
        if value.get("timeToLive", TTL_S_MIN) > TTL_S_MAX:
            self.kit.n_seen["timeToLive over one day"] += 1
        if sum(len(key) + len(text_) for key, text_ in value.get("clientCustomMap", {}).items()) > 1_024:
            raise Refused("10067", "clientCustomMap has more than 1024 characters")
        if value["skipType"] in (2, 4) and not value.get("skipContent"):
            raise Refused("10060", f"skipContent is missing for skipType {value['skipType']}")
        classification = value.get("classification", SYSTEM)
        self._check_class(classification, value.get("category", ""))
        is_test = value.get("pushMode", 0) == 1
        if not is_test:
            self._check_texts(value["title"], value["content"])
        extra = value.get("extra", {})
        return Message(
            title=value["title"],
            body=value["content"],
            payload=to_json(value.get("clientCustomMap", {})).decode(),
            classification=classification,
            callback=self._callback_of(extra, is_silent=is_list or is_test),
            param=extra.get("callback.param", ""),
            is_test=is_test,
        )

    def _check(self, check: Check, value: Mapping[str, Any]) -> None:
        fault = self.faults_of(check, value)
        if fault is None:
            return
        code = fault.code or (MISSING_CODES.get(fault.path, "10095") if fault.kind == "missing" else "10095")
        raise Refused(code, str(fault))

    def _check_class(self, classification: int, category: str) -> None:
        if classification == SYSTEM and not self._section.system_open:
            raise Refused("10082", "the switch for system messages is not open")
        if category and not any(category in names for names in CATEGORIES.values()):
            raise Refused("10096", f"category {category[:32]!r} is unknown")
        if category and category not in CATEGORIES[classification]:
            raise Refused("10097", f"category {category} is not of classification {classification}")
        hour = (self.now + SHANGHAI_S) % 86_400 / 3_600
        is_night = not NIGHT_ENDS_H <= hour < NIGHT_BEGINS_H
        if classification == OPERATIONAL and is_night and self._section.night == "refused":
            raise Refused("10071", "operational messages go out between 7 and 23 hours")

    def _check_texts(self, title: str, content: str) -> None:
        if any(word in title + content for word in self._section.sensitive_words):
            raise Refused("10103", "a text holds a sensitive word")
        if not self._section.content_rules:
            return
        for shown in (title, content):
            if not any(unicodedata.category(letter) == "Lo" for letter in shown):
                raise Refused("10104", "a text has only digits, Latin letters or symbols")
            if "测试" in shown or any(letter in shown for letter in "{}[]"):
                raise Refused("10104", "a text looks like a test")

    def _callback_of(self, extra: Mapping[str, str], *, is_silent: bool) -> str:
        """A console id works for lists too; the older URL for single production messages only."""
        if "callback.id" in extra:
            self.kit.n_seen["callback.id"] += 1
            return self._section.callback_ids.get(extra["callback.id"], self._section.receipts.callback_url)
        if is_silent:
            return ""
        return extra.get("callback", self._section.receipts.callback_url)

    def _check_quota(self, message: Message) -> None:
        if self._caps.app_room(f"class {message.classification}", self.now) < 1:
            self.kit.n_seen["calls after the quota was used up"] += 1
            raise Refused("10073" if message.classification == SYSTEM else "10070", "quota of the day")

    def _status_of(self, reg_id: str, message: Message) -> int:
        """Why a target is invalid; 0 for one that is not."""
        if not ANY_FORM.fullmatch(reg_id):
            return 1
        form = "23 digits" if OLD_FORM.fullmatch(reg_id) else "v2" if NEW_FORM.fullmatch(reg_id) else "other"
        self.kit.n_seen[f"regId of {form}"] += 1
        if message.is_test and reg_id not in self._section.test_users:
            return 4
        fate = self.sync_fate(reg_id)
        return 0 if fate is None else STATUS_OF_FATE.get(fate.fate, 2)

    def _deliver(
        self,
        reg_ids: Sequence[str],
        message: Message,
        request_id: str,
        task_id: str,
        more: Mapping[str, Any],
        n_bad: int = 0,
    ) -> Answer:
        self._caps.use_app(f"class {message.classification}", len(reg_ids), self.now)
        self._tasks[task_id] = self._tasks.get(task_id, 0) + len(reg_ids)
        if len(self._tasks) > TASKS_MAX:
            self._tasks.popitem(last=False)
        dues: list[Due] = []
        for reg_id in reg_ids:
            if self._caps.use_device(f"class {message.classification}", reg_id, self.now):
                dues += self.receipts_of(reg_id, Due(message.callback, reg_id, message.param, task_id, ""))
            else:
                self.kit.n_seen["over the cap of a device, not shown"] += 1
        rows = self.rows_of(message.param or request_id, message.payload, reg_ids, message.title, message.body)
        reasons = {"invalid_user": n_bad} if n_bad else None
        return self._ok({"requestId": request_id, **more}, rows=rows, receipts=tuple(dues), row_reasons=reasons)

    def _statistics(self, query: Mapping[str, str]) -> Answer:
        asked = query.get("taskIds", "").split(",")
        told = [
            {"taskId": task_id, "send": self._tasks[task_id], "receive": self._tasks[task_id], "display": 0, "click": 0}
            for task_id in asked
            if task_id in self._tasks
        ]
        return self._ok({"statistics": told})

    def _ok(self, more: Mapping[str, Any], **fields: Any) -> Answer:
        return json_answer(200, {"result": 0, "desc": TEXTS["0"], **more}, **fields)

    # ---- receipts

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """An object keyed by task id."""
        is_ack = self._section.receipt_form == "ack"
        for layer in layers(dues):
            body = {
                group[0].message_id: {
                    "param": group[0].reference,
                    "targets": ",".join(due.token for due in group),
                    **({"ackTime": self.now_ms, "ackType": group[0].event} if is_ack else {}),
                }
                for group in layer
            }
            count = sum(map(len, layer))
            yield Callback(to_json(body), (("content-type", "application/json"),), count)


def auth_signature(app_id: str, app_key: str, timestamp: str, app_secret: str) -> str:
    """Lower hex of md5(appId + appKey + timestamp + appSecret), blanks at both ends taken off."""
    text_ = f"{app_id}{app_key}{timestamp}{app_secret}".strip()
    return hashlib.md5(text_.encode(), usedforsecurity=False).hexdigest()


def _width_of(value: str) -> int:
    """Characters by the older counting: East Asian wide ones count two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in value)
