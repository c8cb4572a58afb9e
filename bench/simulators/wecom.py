"""WeCom (enterprise WeChat) as a judge: gettoken, application messages to persons. No sockets. Robots: wecom_robot.py.

No fact sheet covers it. Written from developer.work.weixin.qq.com, "发送应用消息" (a copy at qiyeweixin.apifox.cn,
read in 2026-11, for partial failures, 81013 and the check for repeats), the codes and limits from memory. Order of the
checks: path, access token, JSON, agent, receivers, message, then person by person.

Receivers are persons (touser) only. A text card is recorded with title and description, other messages with an empty
title and the content. Nothing is echoed and nothing reported; rows are named by `message_id` in the query of a text
card's url, else not at all. Texts that WeCom would cut silently (2,048 bytes) are refused with 45002.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from bench.simulators.config_base import Count, Seconds
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import Check, an_object, octets, one_of, parsed, record, text, to_json, whole
from bench.simulators.kept_token import KeptToken
from bench.simulators.push_api import (
    Kit,
    PushApi,
    PushSection,
    Refused,
    errcode_answer,
    json_answer,
    message_id_of_url,
    path_of,
    query_of,
)
from bench.simulators.rate import DeviceWindow
from bench.simulators.received import target_of

TOKEN_PATH, SEND_PATH = "/cgi-bin/gettoken", "/cgi-bin/message/send"
USERS_MAX = 1_000
TEXT_BYTES_MAX = 2_048
MARKDOWN_BYTES_MAX = 2_048
REPEAT_S = 1_800.0
USER_FORM = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.@-]{0,63}")
TEXTS = {
    "-1": "system busy",
    "40001": "invalid credential",
    "40008": "invalid message type",
    "40013": "invalid corpid",
    "40014": "invalid access_token",
    "40056": "invalid agentid",
    "42001": "access_token expired",
    "44004": "empty content",
    "45002": "content size out of limit",
    "45009": "api freq out of limit",
    "47001": "data format error",
    "81013": "user & party & tag all invalid",
    "82001": "touser & toparty & totag all empty",
}
_FLAG = one_of(0, 1)
_PLAIN: Check = record({"content": octets(TEXT_BYTES_MAX)}, ["content"])
MESSAGES: Mapping[str, Check] = {
    "text": _PLAIN,
    "markdown": record({"content": octets(MARKDOWN_BYTES_MAX)}, ["content"]),
    "textcard": record(
        {"title": text(128, 1), "description": octets(512), "url": octets(TEXT_BYTES_MAX), "btntxt": text(4)},
        ["title", "description", "url"],
    ),
}
ENVELOPE: Check = record(
    {
        "touser": text(65_536),
        "agentid": whole(0, 2**31 - 1),
        "msgtype": text(32),
        **dict.fromkeys(MESSAGES, an_object),
        "safe": _FLAG,
        "enable_id_trans": _FLAG,
        "enable_duplicate_check": _FLAG,
        "duplicate_check_interval": whole(1, 14_400),
    },
    ["msgtype", "agentid"],
)


class WecomSection(PushSection, frozen=True, kw_only=True):
    """The WeCom simulator."""

    corpid: str = "ww0000000000000001"
    corpsecret: str = "sim-wecom-secret"
    agentid: int = 1_000_002
    access_token_life_s: Seconds = 7_200.0
    user_per_minute: Count = 30
    user_per_hour: Count = 1_000


class Wecom(PushApi):
    """WeCom's judgement; implements exchange.Vendor."""

    name = "wecom"
    known_fates = frozenset({"invaliduser", "unlicenseduser"})
    throttle_code = (200, "45009")
    fault_code = (200, "-1")
    oauth_paths = frozenset({TOKEN_PATH})

    def __init__(self, section: WecomSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self._token_kept = KeptToken(section.access_token_life_s)
        self.reset()

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """Of the application."""
        section = self._section
        return {"corpid": section.corpid, "corpsecret": section.corpsecret, "agentid": section.agentid}

    def reset(self) -> None:
        """No token is valid, nobody has had a message."""
        super().reset()
        self._token_kept.clear()
        section = self._section
        self._per_minute = DeviceWindow(section.user_per_minute, 60.0)
        self._per_hour = DeviceWindow(section.user_per_hour, 3_600.0)
        self._repeats = DeviceWindow(1, REPEAT_S)

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`errcode` and `errmsg`."""
        return errcode_answer(refused, TEXTS)

    def answer_call(self, request: Request) -> Answer:
        """A token, or a message to persons."""
        call = (request.method, path_of(request))
        query = query_of(request)
        match call:
            case ("GET", path) if path == TOKEN_PATH:
                return self._token(query)
            case ("POST", path) if path == SEND_PATH:
                self._token_kept.check(query.get("access_token", ""), self.now)
                return self._send(_object_in(request))
            case _:
                raise Refused("404", f"{call[0][:16]} {call[1][:60]} is not simulated", status=404)

    # ---- authorization

    def _token(self, query: Mapping[str, str]) -> Answer:
        if query.get("corpid") != self._section.corpid:
            raise Refused("40013", "corpid is unknown")
        if query.get("corpsecret") != self._section.corpsecret:
            raise Refused("40001", "corpsecret is wrong")
        token, left_s = self._token_kept.give(self.now)
        return json_answer(200, {"errcode": 0, "errmsg": "ok", "access_token": token, "expires_in": left_s})

    # ---- messages

    def _send(self, value: Mapping[str, Any]) -> Answer:
        kind = self._check(value, ENVELOPE, MESSAGES)
        if value["agentid"] != self._section.agentid:
            raise Refused("40056", "agentid is not the application's")
        users = value.get("touser", "").split("|")
        if users == [""]:
            raise Refused("82001", "touser is empty")
        if len(users) > USERS_MAX or "@all" in users:
            raise Refused("40031", f"{len(users)} persons, limit {USERS_MAX}; everyone is not simulated")
        self.pace(1)
        fates = {user: self._fate_of(user) for user in users}
        good = [user for user in users if not fates[user]]
        if not good:
            raise Refused("81013", "no person is valid")
        shown = [user for user in good if self._is_shown(user, value)]
        title, body, named = _texts_of(kind, value[kind])
        listed = {
            name: "|".join(user.lower() for user in users if fates[user] == name)
            for name in ("invaliduser", "unlicenseduser")
        }
        said = {"errcode": 0, "errmsg": "ok", **listed, "invalidparty": "", "invalidtag": ""}
        rows = self.rows_of(named, "", shown, title, body, is_single=len(users) == 1) if shown else ()
        reasons = {name: list(fates.values()).count(name) for name in listed if listed[name]}
        return json_answer(200, said | {"msgid": secrets.token_urlsafe(48)}, rows=rows, row_reasons=reasons)

    def _check(self, value: Mapping[str, Any], envelope: Check, messages: Mapping[str, Check]) -> str:
        """The message type of a request whose fields are right. Raises Refused."""
        fault = self.faults_of(envelope, value)
        if fault is not None:
            raise Refused({"agentid": "40056", "msgtype": "40008"}.get(fault.path, "47001"), str(fault))
        kind: str = value["msgtype"]
        if kind not in messages:
            raise Refused("40008", f"msgtype {kind[:32]!r} is not simulated")
        if not value.get(kind):
            raise Refused("44004", f"{kind} is missing or empty")
        fault = self.faults_of(messages[kind], value[kind])
        if fault is not None:
            raise Refused("45002" if fault.kind == "value" else "47001", f"{kind}.{fault}")
        if not (value[kind].get("content") or value[kind].get("description")):
            raise Refused("44004", "the text is empty")
        return kind

    def _fate_of(self, user: str) -> str:
        if not USER_FORM.fullmatch(user):
            return "invaliduser"
        fate = self.sync_fate(user)
        return "" if fate is None else fate.fate

    def _is_shown(self, user: str, value: Mapping[str, Any]) -> bool:
        """Whether a person sees this message: not more than so many, and no repeat where that is checked."""
        if self._per_minute.take(user, self.now) > 0 or self._per_hour.take(user, self.now) > 0:
            self.kit.n_seen["over the limit of a person, not shown"] += 1
            return False
        if value.get("enable_duplicate_check") == 1:
            content = to_json(value).decode()
            if self._repeats.take(target_of(f"{user} {content}").hex(), self.now) > 0:
                self.kit.n_seen["repeat, not shown"] += 1
                return False
        return True


def _texts_of(kind: str, message: Mapping[str, Any]) -> tuple[str, str, str]:
    """(title, body, message id) of a message."""
    if kind != "textcard":
        return "", message["content"], ""
    named = message_id_of_url(message["url"])
    return message["title"], message["description"], named


def _object_in(request: Request) -> dict[str, Any]:
    value = parsed(request.body)
    if not isinstance(value, dict):
        raise Refused("47001", "the body is not an object in JSON")
    return value
