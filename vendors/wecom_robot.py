"""Group robots of WeCom (enterprise WeChat). Targets are names of robots.

Source: https://developer.work.weixin.qq.com/document/path/91770, "group robots" (2026-11, copies; codes from memory:
there is no fact sheet).

One message per request, the robot's key in its query. A message that opens something is markdown with a link (`click`
of type url, or `card_url`), any other a text, or markdown with `style`. A robot writes 20 messages a minute. Mentions
stand in texts only; in markdown the caller writes `<@userid>`. `raw.wecom_robot` is a JSON Merge Patch (RFC 7396) over
the request: other kinds of message (news, template_card), mentions of one message.

Doubts, each with a safe default: nothing tells a second copy from a first, so rows without an answer end by the rule of
their class; how long a robot stays shut out after its 20 (a minute); whether 93000 is a wrong key or a robot that its
group removed (the row ends, the target stays).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from gateway.content import Variant
from gateway.template_values import Tree, merge_patch
from gateway.vendor import FieldLimit, Limits, Refusal, RequestTemplate, Slot, TemplateParts, parse_template
from gateway.verdict import Answer
from vendors.auth.robot_keys import Robot
from vendors.codes import ACCEPTED, ERROR, PAYLOAD, REFUSED, THROTTLED_DEVICE, table
from vendors.neutral import own_raw
from vendors.robot import (
    SIGNED,
    RobotBase,
    RobotSettings,
    credential,
    markdown,
    markdown_link,
    room_bytes,
    secret_place,
)
from vendors.work_chat import TEXT

__all__ = ["Settings", "WecomRobot", "credential", "secret_place"]

TITLE_BYTES_MAX = 128
TEXT_BYTES_MAX, MARKDOWN_BYTES_MAX = 2048, 4096


class Settings(RobotSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The robots of one app; see vendors/robot.py."""

    host: str = "qyapi.weixin.qq.com"


#: errcode -> answer.
ANSWERS = table(
    {
        "0": ("ok", ACCEPTED),
        "-1": ("busy", ERROR),
        "93000": ("key", REFUSED),
        "93004": ("robot_stopped", REFUSED),
        "93008": ("not_in_group", REFUSED),
        **dict.fromkeys(["40008", "40058", "44004", "45002", "47001"], ("message", PAYLOAD)),
        "45009": ("too_frequent", THROTTLED_DEVICE._replace(retry_after_s=60.0)),
        "45033": ("too_many_at_once", THROTTLED_DEVICE._replace(retry_after_s=5.0)),
    }
)

_PATH: TemplateParts = (b"/cgi-bin/webhook/send?key=", Slot("signature"))
_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = ((b"content-type", (b"application/json",)),)


class WecomRobot(RobotBase):
    """The vendor port for the robots of one app (gateway/vendor.py)."""

    name: ClassVar[str] = "wecom_robot"
    answers: ClassVar[Mapping[str, Answer]] = ANSWERS

    def limits(self, variant: Variant) -> Limits:
        most = MARKDOWN_BYTES_MAX if self._is_markdown(variant) else TEXT_BYTES_MAX
        body = room_bytes(variant, self.settings, most, TITLE_BYTES_MAX)
        title = FieldLimit("utf8_bytes", TITLE_BYTES_MAX)
        return Limits(1 << 16, title, FieldLimit("utf8_bytes", body), counts_token=False)

    def _is_markdown(self, variant: Variant) -> bool:
        opens = self.settings.card_url or (variant.click is not None and variant.click.type == "url")
        return bool(opens) or self.settings.style == "markdown"

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name)
        if isinstance(raw, Refusal):
            return raw
        link = markdown_link(variant, self.settings, with_variables=with_variables)
        if isinstance(link, Refusal):
            return link
        body = parse_template(msgspec.json.encode(merge_patch(self._message(variant, link), raw)))
        return RequestTemplate(_PATH, _HEADERS, body, signed=SIGNED)

    def _message(self, variant: Variant, link: bytes | None) -> Tree:
        if self._is_markdown(variant):
            return {"msgtype": "markdown", "markdown": {"content": markdown("**{}**\n", link)}}
        text: Tree = {"content": TEXT}
        if self.settings.mentioned:
            text["mentioned_list"] = list(self.settings.mentioned)
        if self.settings.mentioned_mobiles:
            text["mentioned_mobile_list"] = list(self.settings.mentioned_mobiles)
        return {"msgtype": "text", "text": text}

    def query(self, robot: Robot | None, stamp: bytes) -> bytes:
        return b"unknown" if robot is None else robot.key
