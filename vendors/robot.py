"""What the group robots of WeCom and DingTalk share: names as targets, their pace, texts and markdown.

Source: https://developer.work.weixin.qq.com/document/path/91770 and
https://open.dingtalk.com/document/group/custom-robot-access (2026-11, copies).

A target is the name that the secret's file gives to a robot (vendors/auth/robot_keys.py), so that whoever submits knows
no key. A robot writes `messages_per_minute` in any minute; more of its rows wait (gateway/core/target_paces.py), since
who goes on is shut out for a while.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from gateway.columns import Piece, Pieces, TextColumn, join, json_escape
from gateway.content import URL_BYTES_MAX, Variant
from gateway.vendor import BulkAnswer, Refusal, SignedFields, Slot, TargetPace, slot_text
from gateway.verdict import Answer
from vendors.auth.credential import SecretPlace
from vendors.auth.digest_columns import constant_of
from vendors.auth.robot_keys import NAME_FORM, Robot, RobotKeys, robot_of
from vendors.codes import answer_of
from vendors.http_answer import code_of, decode_object
from vendors.neutral import BulkVendorBase, check_secret
from vendors.work_chat import WorkChatSettings, card_link

MESSAGES_PER_MINUTE = 20
#: What stands around texts and link, and what the message id adds to the link.
_AROUND_BYTES = 128
#: The robots' keys, the robot's name, the milliseconds.
SIGNED: SignedFields = ((Slot("authorization"),), (Slot("token"),), (Slot("now_unix_ms"),))


class RobotSettings(WorkChatSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The robots of one app. Their keys are a file or an environment variable, never inline.

    style: of messages that open nothing. link_text: what is shown of a link in markdown. mentioned, mentioned_mobiles:
    user ids (`@all` for everybody) and telephone numbers whose owners are called. rate_per_s: messages of all robots.
    """

    robots_file: str = ""
    robots_env: str = ""
    style: Literal["text", "markdown"] = "text"
    link_text: str = "打开"
    mentioned: tuple[str, ...] = ()
    mentioned_mobiles: tuple[str, ...] = ()
    messages_per_minute: int = MESSAGES_PER_MINUTE
    rate_per_s: float = 100.0
    burst: int = 100
    rows_per_request_max: int = 1

    def __post_init__(self) -> None:
        self.check(rows_max=1)
        self.check_cards()
        check_secret("robots", self.robots_file, self.robots_env)
        if self.messages_per_minute < 1:
            raise ValueError(f"messages_per_minute is {self.messages_per_minute}, expected 1 or more")
        if not self.link_text or not self.link_text.isprintable() or set(self.link_text) & set("[]"):
            raise ValueError("link_text is empty, or holds what a link's text cannot")


class RobotBase(BulkVendorBase):
    """What both vendors answer alike."""

    answers: ClassVar[Mapping[str, Answer]]

    def __init__(self, settings: RobotSettings) -> None:
        self.settings = settings
        #: Of one target (gateway/core/target_paces.py).
        self.target_pace = TargetPace(settings.messages_per_minute, 60.0)

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    @abstractmethod
    def query(self, robot: Robot | None, stamp: bytes) -> bytes:
        """The end of the path; of a robot that the file does not name one that the vendor refuses. stamp: in ms."""

    def sign(self, fields: Sequence[Pieces], n: int) -> Piece:
        robots, stamp = constant_of(fields[0]), constant_of(fields[2])
        return TextColumn.from_rows([self.query(robot_of(robots, name), stamp) for name in join(fields[1], 0, n)])

    def check_token(self, token: str) -> str:
        return "" if NAME_FORM.fullmatch(token) else "token is no name of a robot"

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        return answer_of(self.answers, code_of(decode_object(body).get("errcode")), status, headers, {})

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        return BulkAnswer(self.classify(status, headers, body))


def markdown_link(variant: Variant, settings: RobotSettings, *, with_variables: bool) -> bytes | Refusal | None:
    """The link of a message as markdown, inside of a JSON string; None: nothing opens."""
    url = card_link(variant, settings, "message_id", with_variables=with_variables)
    if url is None or isinstance(url, Refusal):
        return url
    # A bracket would end the link.
    inside = bytes(url)[1:-1].replace(b"(", b"%28").replace(b")", b"%29")
    return b"[" + json_escape(settings.link_text.encode()) + b"](" + inside + b")"


def markdown(head: str, link: bytes | None) -> msgspec.Raw:
    """Title, body and link as a JSON string. head: what stands for the title, with `{}` in its place."""
    before, after = head.split("{}")
    text = json_escape(before.encode()) + slot_text("title") + json_escape(after.encode()) + slot_text("body")
    return msgspec.Raw(b'"' + text + (b"\\n\\n" + link if link else b"") + b'"')


def room_bytes(variant: Variant, settings: RobotSettings, content_bytes_max: int, title_bytes_max: int) -> int:
    """What a content of so many bytes leaves for the body."""
    url = settings.card_url
    if variant.click is not None and variant.click.type == "url":
        url = variant.click.value
    # A bracket becomes three bytes; of what a variable brings nothing is known but its limit.
    url_bytes = len(url.encode()) + 2 * (url.count("(") + url.count(")")) if "{{" not in url else URL_BYTES_MAX
    link_bytes = url_bytes + len(settings.link_text.encode()) + len(settings.url_parameter) if url else 0
    return max(0, content_bytes_max - title_bytes_max - link_bytes - _AROUND_BYTES)


def secret_place(settings: RobotSettings) -> SecretPlace:
    """Where the robots' keys are."""
    return SecretPlace(settings.robots_file, settings.robots_env)


def credential(settings: RobotSettings, secret: bytes) -> RobotKeys:
    """What requests are signed with. Raises ValueError for a file of the wrong form."""
    return RobotKeys(secret)
