"""Group robots of WeCom as a judge. No sockets.

Written from developer.work.weixin.qq.com, "群机器人配置说明" (path 91770; copies read in 2026-11 for fields, limits of
bytes and the rate), the codes from memory. Order of the checks: path, key, JSON, kind, message, rate of the robot.

A message is recorded with an empty title and its content; news with those of their first article. A row's target is the
robot's key. It is named by `message_id` in the query of the first link of markdown, or of an article, else not at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bench.simulators.config_base import Count
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import Check, an_object, each, octets, parsed, record, text
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

PATH = "/cgi-bin/webhook/send"
TEXT_BYTES_MAX, MARKDOWN_BYTES_MAX = 2_048, 4_096
MENTIONED_MAX = 1_000
ARTICLES_MAX = 8
ROBOT_KEY = "00000000-0000-0000-0000-000000000001"
KEY_FORM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LINK_FORM = re.compile(r"\[[^\]]*\]\(([^)]*)\)")
TEXTS = {
    "-1": "system busy",
    "40008": "invalid message type",
    "44004": "empty content",
    "45002": "content size out of limit",
    "45009": "api freq out of limit",
    "47001": "data format error",
    "93000": "invalid webhook url",
}
_ARTICLE = record(
    {"title": octets(128), "description": octets(512), "url": octets(2_048), "picurl": octets(2_048)},
    ["title", "url"],
)
MESSAGES: Mapping[str, Check] = {
    "text": record(
        {
            "content": octets(TEXT_BYTES_MAX),
            "mentioned_list": each(text(64), MENTIONED_MAX),
            "mentioned_mobile_list": each(text(20), MENTIONED_MAX),
        },
        ["content"],
    ),
    "markdown": record({"content": octets(MARKDOWN_BYTES_MAX)}, ["content"]),
    "news": record({"articles": each(_ARTICLE, ARTICLES_MAX)}, ["articles"]),
}
ENVELOPE: Check = record({"msgtype": text(32), **dict.fromkeys(MESSAGES, an_object)}, ["msgtype"])


class WecomRobotSection(PushSection, frozen=True, kw_only=True):
    """The simulator of WeCom's robots. robot_keys: those that groups have; empty = any key in the form of a UUID."""

    robot_keys: tuple[str, ...] = ()
    messages_per_minute: Count = 20


class WecomRobot(PushApi):
    """The robots' judgement; implements exchange.Vendor."""

    name = "wecom_robot"
    throttle_code = (200, "45009")
    fault_code = (200, "-1")

    def __init__(self, section: WecomRobotSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self.reset()

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """A robot has a key in its URL, and nothing else."""
        key = (*self._section.robot_keys, ROBOT_KEY)[0]
        return {"robot_key": key, "robot_url": f"https://{host}:{port}{PATH}?key={key}"}

    def reset(self) -> None:
        """No robot has written anything."""
        super().reset()
        self._per_robot = DeviceWindow(self._section.messages_per_minute, 60.0)

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`errcode` and `errmsg`."""
        return errcode_answer(refused, TEXTS)

    def answer_call(self, request: Request) -> Answer:
        """A message of a robot."""
        if (request.method, path_of(request)) != ("POST", PATH):
            raise Refused("404", f"{request.method[:16]} {path_of(request)[:60]} is not simulated", status=404)
        key, known = query_of(request).get("key", ""), self._section.robot_keys
        if (known and key not in known) or not KEY_FORM.fullmatch(key):
            raise Refused("93000", "key is unknown")
        value = parsed(request.body)
        if not isinstance(value, dict):
            raise Refused("47001", "the body is not an object in JSON")
        title, body, named = _texts_of(*self._message_in(value))
        self.pace(1)
        if self._per_robot.take(key, self.now) > 0:
            raise Refused("45009", f"more than {self._section.messages_per_minute} messages in a minute")
        return json_answer(200, {"errcode": 0, "errmsg": "ok"}, rows=self.rows_of(named, "", [key], title, body))

    def _message_in(self, value: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Kind and message of a request whose fields are right. Raises Refused."""
        fault = self.faults_of(ENVELOPE, value)
        if fault is not None:
            raise Refused("40008" if fault.path == "msgtype" else "47001", str(fault))
        kind: str = value["msgtype"]
        if kind not in MESSAGES:
            raise Refused("40008", f"msgtype {kind[:32]!r} is not simulated")
        message = value.get(kind)
        if not message:
            raise Refused("44004", f"{kind} is missing or empty")
        fault = self.faults_of(MESSAGES[kind], message)
        if fault is not None:
            raise Refused("45002" if fault.kind == "value" else "47001", f"{kind}.{fault}")
        if not (message.get("articles") or message.get("content", "").strip()):
            raise Refused("44004", "the text is empty")
        shown: Mapping[str, Any] = message
        return kind, shown


def _texts_of(kind: str, message: Mapping[str, Any]) -> tuple[str, str, str]:
    """(title, body, message id) of a message."""
    if kind == "news":
        first = message["articles"][0]
        return first["title"], first.get("description", ""), message_id_of_url(first["url"])
    link = LINK_FORM.search(message["content"]) if kind == "markdown" else None
    return "", message["content"], "" if link is None else message_id_of_url(link[1])
