"""DingTalk as a judge: gettoken, work notices (asyncsend_v2, getsendresult). No sockets.

No fact sheet covers it. Written from open-doc.dingtalk.com, "工作通知消息" (2019-1-7, read in 2026-11: 2,048 bytes,
one text a day for each person), the codes and newer limits from memory. Order of the checks: path, access token, JSON,
agent, receivers, message, then person by person. Robots: dingtalk_robot.py.

A link is recorded with title and text, other messages with an empty title and the content; rows are named by
`message_id` in the query of a link's messageUrl, else not at all. Nothing is reported: what became of a notice is
asked for by getsendresult. A text that a person had today is taken and not shown, as the document says.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from bench.simulators.config_base import Positive, Seconds
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import Check, an_object, flag, parsed, record, text, to_json, whole
from bench.simulators.kept_token import KeptToken
from bench.simulators.push_api import (
    DAY_S,
    SHANGHAI_S,
    Kit,
    PushApi,
    PushSection,
    Refused,
    errcode_answer,
    form_of,
    json_answer,
    media_type_of,
    message_id_of_url,
    new_id,
    path_of,
    query_of,
)
from bench.simulators.rate import DeviceWindow
from bench.simulators.received import target_of

TOKEN_PATH = "/gettoken"
NOTICE_PATH = "/topapi/message/corpconversation/asyncsend_v2"
RESULT_PATH = "/topapi/message/corpconversation/getsendresult"
MESSAGE_BYTES_MAX = 2_048
TASKS_MAX = 10_000
USER_FORM = re.compile(r"[0-9A-Za-z_.@-]{1,64}")
TEXTS = {
    "-1": "系统繁忙",
    "88": "ding talk error",
    "40014": "不合法的access_token",
    "40035": "不合法的参数",
    "40089": "不合法的corpid或corpsecret",
    "42001": "access_token超时",
    "33012": "无效的USERID",
}
MESSAGES: Mapping[str, Check] = {
    "text": record({"content": text(n_min=1)}, ["content"]),
    "markdown": record({"title": text(n_min=1), "text": text(n_min=1)}, ["title", "text"]),
    "link": record(
        {"title": text(n_min=1), "text": text(n_min=1), "messageUrl": text(n_min=1), "picUrl": text()},
        ["title", "text", "messageUrl"],
    ),
}
_MESSAGE_FIELDS: Mapping[str, Check] = {"msgtype": text(32, 1), **dict.fromkeys(MESSAGES, an_object)}
NOTICE: Check = record(
    {
        "agent_id": whole(1, 2**53),
        "userid_list": text(65_536, 1),
        "to_all_user": flag,
        "msg": record(_MESSAGE_FIELDS, ["msgtype"]),
    },
    ["agent_id", "userid_list", "msg"],
)


class DingtalkSection(PushSection, frozen=True, kw_only=True):
    """The DingTalk simulator."""

    appkey: str = "ding0000000000000001"
    appsecret: str = "sim-dingtalk-secret"
    agent_id: int = 1_234_567
    access_token_life_s: Seconds = 7_200.0
    users_max: Positive = 100
    same_text_once_a_day: bool = True


class Dingtalk(PushApi):
    """DingTalk's judgement; implements exchange.Vendor."""

    name = "dingtalk"
    known_fates = frozenset({"invalid", "forbidden", "failed"})
    throttle_code = (200, "90018")
    fault_code = (200, "-1")
    oauth_paths = frozenset({TOKEN_PATH})

    def __init__(self, section: DingtalkSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self._token_kept = KeptToken(section.access_token_life_s)
        self.reset()

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """Of the application."""
        section = self._section
        return {"appkey": section.appkey, "appsecret": section.appsecret, "agent_id": section.agent_id}

    def reset(self) -> None:
        """No token is valid, nobody has had a notice."""
        super().reset()
        self._token_kept.clear()
        self._texts = DeviceWindow(1 if self._section.same_text_once_a_day else 0, DAY_S)
        self._tasks: OrderedDict[int, dict[str, list[str]]] = OrderedDict()

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`errcode` and `errmsg`."""
        return errcode_answer(refused, TEXTS, request_id=secrets.token_hex(6))

    def answer_call(self, request: Request) -> Answer:
        """A token, a notice, or its result."""
        call = (request.method, path_of(request))
        query = query_of(request)
        match call:
            case ("GET", path) if path == TOKEN_PATH:
                return self._token(query)
            case ("POST", path) if path == NOTICE_PATH:
                self._token_kept.check(query.get("access_token", ""), self.now)
                return self._notice(_object_in(request))
            case ("POST", path) if path == RESULT_PATH:
                self._token_kept.check(query.get("access_token", ""), self.now)
                return self._result(_object_in(request))
            case _:
                raise Refused("404", f"{call[0][:16]} {call[1][:60]} is not simulated", status=404)

    # ---- authorization

    def _token(self, query: Mapping[str, str]) -> Answer:
        if query.get("appkey") != self._section.appkey or query.get("appsecret") != self._section.appsecret:
            raise Refused("40089", "appkey or appsecret is wrong")
        token, left_s = self._token_kept.give(self.now)
        return json_answer(200, {"errcode": 0, "access_token": token, "errmsg": "ok", "expires_in": left_s})

    # ---- notices

    def _notice(self, value: dict[str, Any]) -> Answer:
        if isinstance(value.get("msg"), str):  # what came as a form
            value["msg"] = parsed(value["msg"])
        fault = self.faults_of(NOTICE, value)
        if fault is not None:
            raise Refused("40035", str(fault))
        if value["agent_id"] != self._section.agent_id:
            raise Refused("40035", "agent_id is not the application's")
        users = value["userid_list"].split(",")
        if len(users) > self._section.users_max:
            raise Refused("40035", f"{len(users)} persons, limit {self._section.users_max}")
        message = value["msg"]
        size = len(to_json(message))
        if size > MESSAGE_BYTES_MAX:
            raise Refused("40035", f"msg is {size} bytes, limit {MESSAGE_BYTES_MAX}")
        title, body, named = self._texts_of(message)
        self.pace(1)
        task_id = int(new_id(12))
        lists = self._sorted(users, f"{title}\0{body}")
        self._tasks[task_id] = lists
        if len(self._tasks) > TASKS_MAX:
            self._tasks.popitem(last=False)
        shown = lists["unread"]
        rows = self.rows_of(named, "", shown, title, body, is_single=len(users) == 1) if shown else ()
        said = {"errcode": 0, "errmsg": "ok", "task_id": task_id, "request_id": secrets.token_hex(6)}
        reasons = {name: len(lists[name]) for name in self.known_fates if lists[name]}
        # DingTalk answers ok whatever becomes of the persons: an asynchronous call.
        return json_answer(200, said, rows=rows, row_reasons=reasons)

    def _sorted(self, users: list[str], content: str) -> dict[str, list[str]]:
        """Persons by what became of the notice, as getsendresult names it."""
        lists: dict[str, list[str]] = {name: [] for name in ("invalid", "forbidden", "failed", "unread")}
        for user in users:
            fate = self.sync_fate(user)
            if not USER_FORM.fullmatch(user):
                lists["invalid"].append(user)
            elif fate is not None:
                lists[fate.fate].append(user)
            elif self._texts.take(target_of(f"{user} {content}").hex(), self.now + SHANGHAI_S) > 0:
                self.kit.n_seen["same text again today, not shown"] += 1
                lists["forbidden"].append(user)
            else:
                lists["unread"].append(user)
        return lists

    def _result(self, value: Mapping[str, Any]) -> Answer:
        try:
            lists = self._tasks[int(value.get("task_id", 0))]
        except (KeyError, TypeError, ValueError):
            raise Refused("40035", "task_id is unknown") from None
        told = {
            "invalid_user_id_list": lists["invalid"],
            "forbidden_user_id_list": lists["forbidden"],
            "failed_user_id_list": lists["failed"],
            "read_user_id_list": [],
            "unread_user_id_list": lists["unread"],
            "invalid_dept_id_list": [],
        }
        return json_answer(200, {"errcode": 0, "errmsg": "ok", "send_result": told})

    def _texts_of(self, message: Mapping[str, Any]) -> tuple[str, str, str]:
        """(title, body, message id) of a message whose fields are right. Raises Refused."""
        kind = message["msgtype"]
        if kind not in MESSAGES:
            raise Refused("40035", f"msgtype {kind[:32]!r} is not simulated")
        fault = self.faults_of(MESSAGES[kind], message.get(kind))
        if fault is not None:
            raise Refused("40035", f"{kind}.{fault}")
        shown = message[kind]
        if kind == "text":
            return "", shown["content"], ""
        named = message_id_of_url(shown.get("messageUrl", ""))
        return shown["title"], shown["text"], named


def _object_in(request: Request) -> dict[str, Any]:
    """A JSON object, or a form: the older interface takes both."""
    if media_type_of(request) == "application/x-www-form-urlencoded":
        form: dict[str, Any] = dict(form_of(request, "40035"))
        return form | {name: int(form[name]) for name in ("agent_id", "task_id") if form.get(name, "").isdigit()}
    value = parsed(request.body)
    if not isinstance(value, dict):
        raise Refused("40035", "the body is not an object in JSON")
    return value
