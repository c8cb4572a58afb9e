"""Group robots of DingTalk ("自定义机器人") as a judge. No sockets.

Written from open.dingtalk.com/document/group/custom-robot-access (copies read in 2026-11 for fields, signature, rate
and the ten minutes a robot is shut out for), the codes from memory. Order of the checks: path, access token, time,
signature, JSON, message, keyword, rate of the robot.

A link and markdown are recorded with title and text, a text with an empty title and the content. A row's target is the
robot's access token. It is named by `message_id` in the query of a link's messageUrl, or of the first link of markdown.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

from bench.simulators.config_base import Count, Seconds
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import Check, an_object, each, flag, record, text
from bench.simulators.push_api import (
    Kit,
    PushApi,
    PushSection,
    Refused,
    errcode_answer,
    json_answer,
    json_of,
    message_id_of_url,
    path_of,
    query_of,
)
from bench.simulators.rate import DeviceWindow

PATH = "/robot/send"
SKEW_S = 3_600.0
TOKEN_FORM = re.compile(r"[0-9a-f]{64}")
ROBOT_TOKEN = "0" * 63 + "1"
LINK_FORM = re.compile(r"\[[^\]]*\]\(([^)]*)\)")
#: Robots that are shut out at once; the one that has been for longest is forgotten first.
SHUT_OUT_MAX = 10_000
TEXTS = {
    "-1": "系统繁忙",
    "40035": "不合法的参数",
    "130101": "send too fast, exceed 20 times per minute",
    "300001": "token is not exist",
    "310000": "robot security check failed",
}
MESSAGES: Mapping[str, Check] = {
    "text": record({"content": text(n_min=1)}, ["content"]),
    "markdown": record({"title": text(n_min=1), "text": text(n_min=1)}, ["title", "text"]),
    "link": record(
        {"title": text(n_min=1), "text": text(n_min=1), "messageUrl": text(n_min=1), "picUrl": text()},
        ["title", "text", "messageUrl"],
    ),
}
_AT = record({"atMobiles": each(text(20), 100), "atUserIds": each(text(64), 100), "isAtAll": flag})
ENVELOPE: Check = record({"msgtype": text(32, 1), **dict.fromkeys(MESSAGES, an_object), "at": _AT}, ["msgtype"])


class DingtalkRobotSection(PushSection, frozen=True, kw_only=True):
    """The simulator of DingTalk's robots. robot_tokens: those that groups have; empty = any of 64 hex digits.
    secret: of all robots, "" = no signature is wanted. keyword: texts must hold it."""

    robot_tokens: tuple[str, ...] = ()
    secret: str = "SECsim-dingtalk-robot-secret"
    keyword: str = ""
    messages_per_minute: Count = 20
    shut_out_s: Seconds = 600.0


class DingtalkRobot(PushApi):
    """The robots' judgement; implements exchange.Vendor."""

    name = "dingtalk_robot"
    throttle_code = (200, "130101")
    fault_code = (200, "-1")

    def __init__(self, section: DingtalkRobotSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self.reset()

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """A robot has an access token in its URL, and a secret."""
        token = (*self._section.robot_tokens, ROBOT_TOKEN)[0]
        url = f"https://{host}:{port}{PATH}?access_token={token}"
        return {"robot_token": token, "robot_secret": self._section.secret, "robot_url": url}

    def reset(self) -> None:
        """No robot has written anything."""
        super().reset()
        self._per_robot = DeviceWindow(self._section.messages_per_minute, 60.0)
        self._shut_out: dict[str, float] = {}

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`errcode` and `errmsg`."""
        return errcode_answer(refused, TEXTS)

    def answer_call(self, request: Request) -> Answer:
        """A message of a robot."""
        if (request.method, path_of(request)) != ("POST", PATH):
            raise Refused("404", f"{request.method[:16]} {path_of(request)[:60]} is not simulated", status=404)
        query, section = query_of(request), self._section
        token = query.get("access_token", "")
        if token not in section.robot_tokens if section.robot_tokens else not TOKEN_FORM.fullmatch(token):
            raise Refused("300001", "access_token of the robot is unknown")
        if section.secret:
            self._check_signature(query)
        value = json_of(request, "40035")
        title, body, named = self._message_in(value)
        if section.keyword and section.keyword not in f"{title} {body}":
            raise Refused("310000", "keywords not in content")
        self.pace(1)
        self._check_rate(token)
        return json_answer(200, {"errcode": 0, "errmsg": "ok"}, rows=self.rows_of(named, "", [token], title, body))

    def _check_signature(self, query: Mapping[str, str]) -> None:
        stamp = query.get("timestamp", "")
        if not re.fullmatch(r"[0-9]{13}", stamp) or abs(int(stamp) / 1000 - self.now) > SKEW_S:
            raise Refused("310000", "invalid timestamp")
        if query.get("sign") != robot_signature(self._section.secret, stamp):
            raise Refused("310000", "sign not match")

    def _check_rate(self, token: str) -> None:
        """Who writes too much is shut out, whatever comes then."""
        if self._shut_out.get(token, 0.0) > self.now:
            raise Refused("130101", "shut out for too many messages")
        if self._per_robot.take(token, self.now) > 0:
            if len(self._shut_out) >= SHUT_OUT_MAX:
                self._shut_out.pop(next(iter(self._shut_out)))
            self._shut_out[token] = self.now + self._section.shut_out_s
            raise Refused("130101", f"more than {self._section.messages_per_minute} messages in a minute")

    def _message_in(self, value: Mapping[str, Any]) -> tuple[str, str, str]:
        """(title, body, message id) of a message whose fields are right. Raises Refused."""
        fault = self.faults_of(ENVELOPE, value)
        if fault is not None:
            raise Refused("40035", str(fault))
        kind: str = value["msgtype"]
        if kind not in MESSAGES:
            raise Refused("40035", f"msgtype {kind[:32]!r} is not simulated")
        fault = self.faults_of(MESSAGES[kind], value.get(kind))
        if fault is not None:
            raise Refused("40035", f"{kind}.{fault}")
        shown = value[kind]
        if kind == "text":
            return "", shown["content"], ""
        link = LINK_FORM.search(shown["text"]) if kind == "markdown" else None
        url = shown.get("messageUrl", "" if link is None else link[1])
        return shown["title"], shown["text"], message_id_of_url(url)


def robot_signature(secret: str, timestamp: str) -> str:
    """Base64 of HMAC-SHA256 with the secret over the milliseconds, a line feed and the secret."""
    text_ = f"{timestamp}\n{secret}".encode()
    return base64.b64encode(hmac.new(secret.encode(), text_, hashlib.sha256).digest()).decode()
