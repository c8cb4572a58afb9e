"""Meizu Flyme Push as a judge: varnished and unvarnished pushes by id, tasks in two steps. No sockets.

Written from facts/vendors-china.md section 4 (MEIZUPUSH/PushAPI README, 2025-04-09) and vendors-addendum.md 2.2. Order
of the checks: path, method, form, app id, signature, parameters, fields, rate, then target by target with the codes of
`value`.

Where the sheet is silent: whether the rate counts targets or requests (`rate_counts`); the code of a text that is too
long (1005); which code a closed unvarnished push gets (110053 here, until `unvarnished` opens it). Aliases, tags,
everyone, cancelling and statistics are not simulated.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import urlencode

from bench.simulators.config_base import Count
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import Check, an_object, octets, one_of, parsed, record, text, to_json, whole
from bench.simulators.push_api import (
    FORM_TYPE,
    DayCaps,
    Kit,
    PushApi,
    PushSection,
    Refused,
    form_of,
    json_answer,
    path_of,
    refused_answer,
)
from bench.simulators.rate import DeviceWindow
from bench.simulators.receipts import Callback, Due, gathered

_PUSH = "/garcia/api/server/push/"
VARNISHED, UNVARNISHED = _PUSH + "varnished/pushByPushId", _PUSH + "unvarnished/pushByPushId"
TASK, TASK_PUSH = _PUSH + "pushTask/getTaskId", _PUSH + "task/varnished/pushByPushId"
TARGETS_MAX = 100
FOLD_WINDOW_S = 60.0
TASKS_MAX = 10_000
PUBLIC, PRIVATE = 0, 1
PUSH_ID_FORM = re.compile(r"[0-9A-Za-z]{40,46}")
CALLBACK_BYTES_MAX = 128
TEXTS = {
    "500": "其他异常",
    "1001": "系统错误",
    "1003": "服务器忙",
    "1005": "参数错误",
    "1006": "签名认证失败",
    "110000": "appId不合法",
    "110004": "参数不能为空",
    "110010": "应用推送消息过快",
    "110032": "非法的taskId",
    "110053": "透传消息受限",
}

_SWITCH = one_of(0, 1)
_MESSAGE_FIELDS: Mapping[str, Check] = {
    "noticeBarInfo": record(
        {
            "noticeMsgType": one_of(PUBLIC, PRIVATE),
            "noticeBarType": one_of(0, 2),
            "title": text(32, 1),
            "content": text(100, 1),
        },
        ["title", "content"],
    ),
    "noticeExpandInfo": record(
        {
            "noticeExpandType": one_of(0, 1, 2),
            "noticeExpandContent": text(),
            "noticeExpandImgUrl": text(),
        }
    ),
    "clickTypeInfo": record(
        {
            "clickType": one_of(0, 1, 2, 3),
            "url": text(),
            "parameters": an_object,
            "activity": text(),
            "customAttribute": octets(1_000),
        }
    ),
    "pushTimeInfo": record(
        {
            "offLine": _SWITCH,
            "validTime": whole(1, 72),
            "pushTimeType": _SWITCH,
            "startTime": text(form=re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")),
        }
    ),
    "advanceInfo": record(
        {
            **dict.fromkeys(("suspend", "clearNoticeBar", "fixDisplay"), _SWITCH),
            **{name: text() for name in ("fixStartDisplayTime", "fixEndDisplayTime")},
            "notificationType": record(dict.fromkeys(("vibrate", "lights", "sound"), _SWITCH)),
            "notifyKey": text(8, 1, re.compile(r"[0-9A-Za-z_-]+")),
        }
    ),
    "vipInfo": record(
        {
            "subtitle": text(16),
            "pullDownTop": _SWITCH,
            "timeTop": whole(1_800, 7_200),
            "notGroup": _SWITCH,
            "titleColor": one_of("#206CFF", "#E42D22"),
            **{name: text() for name in ("backgroundImgUrl", "smallIconUrl", "bigIconUrl")},
        }
    ),
    "extra": record(
        {"callback": octets(CALLBACK_BYTES_MAX), "callback.param": octets(64), "callback.type": one_of("1", "2", "3")}
    ),
}
MESSAGE: Check = record(_MESSAGE_FIELDS, ["noticeBarInfo"])
DATA_MESSAGE: Check = record(
    {
        "title": text(32),
        "content": text(2_000, 1),
        "pushTimeInfo": _MESSAGE_FIELDS["pushTimeInfo"],
        "extra": _MESSAGE_FIELDS["extra"],
    },
    ["content"],
)


class MeizuSection(PushSection, frozen=True, kw_only=True):
    """The Meizu simulator. callback_urls: registered in the console; empty = any. access_token: sent with receipts."""

    app_id: str = "110000"
    app_secret: str = "sim-meizu-app-secret"
    rate_per_s: float = 200.0
    rate_counts: Literal["targets", "requests"] = "targets"
    unvarnished: bool = False
    public_per_device_per_day: Count = 3
    device_messages_per_minute: Count = 5
    callback_urls: tuple[str, ...] = ()
    access_token: str = "sim-meizu-access-token"


@dataclass(frozen=True, slots=True)
class Message:
    """A message that has passed all checks of form. mask: receipts wanted, 1 delivered, 2 clicked."""

    title: str
    body: str
    payload: str
    is_public: bool
    callback: str
    param: str
    mask: int


class Meizu(PushApi):
    """Meizu's judgement; implements exchange.Vendor."""

    name = "meizu"
    known_fates = frozenset({"110002", "110003", "110010", "201", "501", "513", "519"})
    receipt_fates: ClassVar[Mapping[str, str]] = {}
    events = ("1", "", "2")
    throttle_code = (200, "110010")
    fault_code = (200, "1001")
    save_paths = frozenset({TASK})

    def __init__(self, section: MeizuSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self._caps = DayCaps({}, {"public": section.public_per_device_per_day})
        self._fold = DeviceWindow(section.device_messages_per_minute, FOLD_WINDOW_S)
        self._tasks: OrderedDict[str, Message] = OrderedDict()

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """The secret signs each request; the access token comes with receipts."""
        section = self._section
        return {"app_id": section.app_id, "app_secret": section.app_secret, "access_token": section.access_token}

    def reset(self) -> None:
        """Nothing is used, no task is known."""
        super().reset()
        self._caps.reset()
        self._fold = DeviceWindow(self._section.device_messages_per_minute, FOLD_WINDOW_S)
        self._tasks.clear()

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`code` as a text, and an empty text as `value`."""
        message = TEXTS.get(refused.code, refused.why)
        return refused_answer(refused, {"code": refused.code, "message": message, "value": "", "redirect": ""})

    def answer_call(self, request: Request) -> Answer:
        """One of the calls above."""
        path = path_of(request)
        if path not in (VARNISHED, UNVARNISHED, TASK, TASK_PUSH) or request.method != "POST":
            raise Refused("404", f"{request.method[:16]} {path[:80]} is not simulated", status=404)
        form = form_of(request, "1005")
        self._authorize(form)
        if path == TASK:
            return self._make_task(form)
        if path == UNVARNISHED and not self._section.unvarnished:
            raise Refused("110053", "unvarnished pushes are closed")
        targets = form.get("pushIds", "").split(",")
        if targets == [""]:
            raise Refused("110004", "pushIds is missing")
        if len(targets) > TARGETS_MAX:
            raise Refused("1005", f"{len(targets)} pushIds, limit {TARGETS_MAX}")
        if path == TASK_PUSH:
            message = self._tasks.get(form.get("taskId", ""))
            if message is None:
                raise Refused("110032", "taskId is unknown")
        else:
            message = self.read(form, is_data=path == UNVARNISHED)
        self._check_parameters(form, {"appId", "pushIds", "sign", "taskId" if path == TASK_PUSH else "messageJson"})
        self.pace(len(targets) if self._section.rate_counts == "targets" else 1)
        return self._deliver(targets, message)

    def _authorize(self, form: Mapping[str, str]) -> None:
        if form.get("appId") != self._section.app_id:
            raise Refused("110000", "appId is missing or unknown")
        if not form.get("sign"):
            raise Refused("1006", "sign is missing")
        if form["sign"] != signature(form, self._section.app_secret):
            raise Refused("1006", "sign is not md5 of the sorted parameters and the app secret in lower hex")

    def _check_parameters(self, form: Mapping[str, str], known: set[str]) -> None:
        for name in form:
            if name not in known:
                if self.kit.is_strict:
                    raise Refused("1005", f"{name[:40]} is not a documented parameter")
                self.kit.n_seen[f"unknown field {name[:80]}"] += 1

    def _make_task(self, form: Mapping[str, str]) -> Answer:
        if form.get("pushType") != "0":
            raise Refused("1005", "pushType is not 0")
        self._check_parameters(form, {"appId", "pushType", "messageJson", "sign"})
        message = self.read(form, is_data=False)
        self.pace(1)
        task_id = str(secrets.randbelow(10**12))
        self._tasks[task_id] = message
        if len(self._tasks) > TASKS_MAX:
            self._tasks.popitem(last=False)
        return _ok({"taskId": task_id, "pushType": 0, "appId": int(self._section.app_id)})

    def read(self, form: Mapping[str, str], *, is_data: bool) -> Message:
        """The message in messageJson, checked; nothing has changed but counters. Raises Refused."""
        if not form.get("messageJson"):
            raise Refused("110004", "messageJson is missing")
        value = parsed(form["messageJson"])
        fault = self.faults_of(DATA_MESSAGE if is_data else MESSAGE, value)
        if fault is not None:
            raise Refused("110004" if fault.kind == "missing" else "1005", str(fault))
        shown = value if is_data else value["noticeBarInfo"]
        click = value.get("clickTypeInfo", {})
        needed = {1: "activity", 2: "url", 3: "customAttribute"}.get(click.get("clickType", 0))
        if needed is not None and not click.get(needed):
            raise Refused("110004", f"clickTypeInfo.{needed} is missing for clickType {click['clickType']}")
        if click.get("clickType") == 3:
            self.kit.n_seen["clickType 3, which is retired"] += 1
        extra = value.get("extra", {})
        callback = extra.get("callback", self._section.receipts.callback_url)
        if self._section.callback_urls and "callback" in extra and callback not in self._section.callback_urls:
            raise Refused("1005", "extra.callback is not registered in the console")
        return Message(
            title=shown.get("title", ""),
            body=shown["content"],
            payload=to_json(click.get("parameters", {})).decode(),
            is_public=not is_data and shown.get("noticeMsgType", PUBLIC) == PUBLIC,
            callback=callback,
            param=extra.get("callback.param", ""),
            mask=int(extra.get("callback.type", "3")),
        )

    def _deliver(self, targets: Sequence[str], message: Message) -> Answer:
        failed: dict[str, list[str]] = defaultdict(list)
        good = []
        for target in targets:
            code = self._code_of(target, message)
            if code:
                failed[code].append(target)
            else:
                good.append(target)
        message_id = secrets.token_hex(16)
        dues: list[Due] = []
        for target in good:
            due = Due(message.callback, target, message.param, message_id, "")
            dues += [one for one in self.receipts_of(target, due) if int(one.event) & message.mask]
        rows = self.rows_of(message.param, message.payload, good, message.title, message.body) if good else ()
        reasons = {code: len(ids) for code, ids in failed.items()}
        return _ok(failed, message_id, rows=rows, receipts=tuple(dues), row_reasons=reasons)

    def _code_of(self, target: str, message: Message) -> str:
        """The code under which a target is listed; empty for one that gets the message."""
        if not PUSH_ID_FORM.fullmatch(target):
            return "110003"
        fate = self.sync_fate(target)
        if fate is not None:
            return fate.fate
        if self._fold.take(target, self.now) > 0:
            return "520"
        return "110011" if message.is_public and not self._caps.use_device("public", target, self.now) else ""

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """A form with `cb`, an object keyed by message id and type, and the console's access token."""
        reports = {
            f"{message_id}-{event}": {
                "param": group[0].reference,
                "type": int(event),
                "targets": [due.token for due in group],
            }
            for (message_id, event), group in gathered(dues).items()
        }
        is_forged = any(due.is_forged for due in dues)
        token = "forged" if is_forged else self._section.access_token
        body = urlencode({"cb": to_json(reports).decode(), "access_token": token}).encode()
        yield Callback(body, (("content-type", FORM_TYPE),), len(dues))


def signature(form: Mapping[str, str], app_secret: str) -> str:
    """Lower hex of md5 over key=value of all parameters but sign, sorted and without separators, and the secret."""
    joined = "".join(f"{key}={value}" for key, value in sorted(form.items()) if key != "sign")
    return hashlib.md5((joined + app_secret).encode(), usedforsecurity=False).hexdigest()


def _ok(value: Mapping[str, Any], message_id: str = "", **fields: Any) -> Answer:
    body = {"code": "200", "message": "", "value": value, "msgId": message_id, "redirect": ""}
    return json_answer(200, body, **fields)
