"""Group robots of DingTalk ("custom robots"). Targets are names of robots.

Source: https://open.dingtalk.com/document/group/custom-robot-access (2026-11, copies; codes partly from memory: there
is no fact sheet).

One message per request; access token, milliseconds and signature stand in its query. A message that opens something is
a link (`click` of type url, or `card_url`), with `style = "markdown"` markdown with a link; any other is a text or
markdown. A robot writes 20 messages a minute, and who goes on is shut out for ten. A robot is secured by a signature
(a secret in the file), by keywords (the caller's texts have to hold one) or by addresses. `raw.dingtalk_robot` is a
JSON Merge Patch (RFC 7396) over the request: other kinds of message (actionCard, feedCard), mentions of one message.

Doubts, each with a safe default: no limit of bytes is documented (20,000 is what the server was seen to take, from
memory); 310000 is a signature, a keyword or an address, so the row ends and the target stays; nothing tells a second
copy from a first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote_from_bytes

import msgspec

from gateway.content import Variant
from gateway.template_values import Tree, merge_patch
from gateway.vendor import FieldLimit, Limits, Refusal, RequestTemplate, Slot, TemplateParts, parse_template, slot_json
from gateway.verdict import Answer
from vendors.auth.robot_keys import Robot, dingtalk_signature
from vendors.codes import ACCEPTED, ERROR, PAYLOAD, REFUSED, THROTTLED_DEVICE, table
from vendors.neutral import own_raw
from vendors.robot import SIGNED, RobotBase, RobotSettings, credential, markdown, markdown_link, secret_place
from vendors.work_chat import TEXT, card_link

__all__ = ["DingtalkRobot", "Settings", "credential", "secret_place"]

MESSAGE_BYTES_MAX = 20_000
TITLE_CODE_POINTS_MAX = 64
#: How long a robot is shut out that wrote more than its share of a minute.
SHUT_OUT_S = 600.0


class Settings(RobotSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The robots of one app; see vendors/robot.py. message_bytes_max: of a request's body."""

    host: str = "oapi.dingtalk.com"
    message_bytes_max: int = MESSAGE_BYTES_MAX

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1024 <= self.message_bytes_max <= 1 << 20:
            raise ValueError(f"message_bytes_max is {self.message_bytes_max}, expected 1024 to {1 << 20}")


#: errcode -> answer.
ANSWERS = table(
    {
        "0": ("ok", ACCEPTED),
        "-1": ("busy", ERROR),
        "300001": ("access_token", REFUSED),
        "300005": ("robot_is_gone", REFUSED),
        "310000": ("security", REFUSED),
        **dict.fromkeys(["40035", "400013", "400101", "400102"], ("argument", PAYLOAD)),
        **dict.fromkeys(["130101", "410100"], ("too_frequent", THROTTLED_DEVICE._replace(retry_after_s=SHUT_OUT_S))),
        # calls of the month that a company's plan holds
        "90030": ("calls_used_up", THROTTLED_DEVICE._replace(retry_after_s=3600.0)),
    }
)

_PATH: TemplateParts = (b"/robot/send?", Slot("signature"))
_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = ((b"content-type", (b"application/json",)),)


class DingtalkRobot(RobotBase):
    """The vendor port for the robots of one app (gateway/vendor.py)."""

    name: ClassVar[str] = "dingtalk_robot"
    answers: ClassVar[Mapping[str, Answer]] = ANSWERS

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        title = FieldLimit("code_points", TITLE_CODE_POINTS_MAX)
        self._limits = Limits(settings.message_bytes_max, title, counts_token=False)

    def limits(self, variant: Variant) -> Limits:
        return self._limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name)
        if isinstance(raw, Refusal):
            return raw
        message = self._message(variant, with_variables)
        if isinstance(message, Refusal):
            return message
        body = parse_template(msgspec.json.encode(merge_patch(message, raw)))
        return RequestTemplate(_PATH, _HEADERS, body, signed=SIGNED)

    def _message(self, variant: Variant, with_variables: bool) -> Tree | Refusal:
        settings = self.settings
        called: Tree = {"atUserIds": [user for user in settings.mentioned if user != "@all"]}
        called |= {"atMobiles": list(settings.mentioned_mobiles), "isAtAll": "@all" in settings.mentioned}
        at: Tree = {"at": called} if settings.mentioned or settings.mentioned_mobiles else {}
        if settings.style == "markdown":
            link = markdown_link(variant, settings, with_variables=with_variables)
            if isinstance(link, Refusal):
                return link
            shown: Tree = {"title": slot_json("title"), "text": markdown("#### {}\n\n", link)}
            return {"msgtype": "markdown", "markdown": shown} | at
        url = card_link(variant, settings, "message_id", with_variables=with_variables)
        if isinstance(url, Refusal):
            return url
        if url is None:
            return {"msgtype": "text", "text": {"content": TEXT}} | at
        card: Tree = {"title": slot_json("title"), "text": slot_json("body"), "messageUrl": url}
        if variant.image:
            card["picUrl"] = variant.image
        return {"msgtype": "link", "link": card}

    def query(self, robot: Robot | None, stamp: bytes) -> bytes:
        if robot is None:
            return b"access_token=unknown"
        query = b"access_token=" + robot.key
        if not robot.secret:
            return query
        signature = quote_from_bytes(dingtalk_signature(robot.secret, stamp), safe="").encode()
        return query + b"&timestamp=" + stamp + b"&sign=" + signature
