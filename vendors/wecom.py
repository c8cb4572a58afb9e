"""WeCom (enterprise WeChat): messages of an application to persons. Targets are user ids, in lower case.

Source: https://developer.work.weixin.qq.com, "send application messages" and "gettoken" (2026-11, a copy at
qiyeweixin.apifox.cn; codes and some limits from memory: there is no fact sheet).

One request takes up to 1000 persons of one content; different texts go one by one. A message that opens something is a
text card (`click` of type url, or `card_url`), any other a text. Repeats are checked for half an hour
(`enable_duplicate_check`), so that an answer that got lost does no harm to a message of one person. `raw.wecom` is a
JSON Merge Patch (RFC 7396) over the request.

Doubts, each with a safe default: whether `invaliduser` means gone or not visible to the application (the user is muted,
not forgotten); WeCom answers in lower case, so user ids are registered in it; what is over a person's limit is taken
and not shown, and nobody is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import msgspec

from gateway.content import Variant
from gateway.template_values import Tree, merge_patch
from gateway.vendor import (
    BulkAnswer,
    BulkTemplate,
    FieldLimit,
    Limits,
    Refusal,
    RequestTemplate,
    RowList,
    Slot,
    TemplateParts,
    parse_template,
    slot_json,
)
from gateway.verdict import Answer, Verdict
from vendors.auth.credential import SecretPlace
from vendors.auth.query_token import QueryToken, query_token, token_url
from vendors.codes import (
    ACCEPTED,
    APP_RIGHT,
    AUTH,
    AUTH_CONFIG,
    ERROR,
    MUTED,
    PAYLOAD,
    REFUSED,
    THROTTLED,
    answer_of,
    table,
)
from vendors.http_answer import code_of, decode_object, text_of
from vendors.neutral import BulkVendorBase, check_identifier, check_secret, own_raw
from vendors.work_chat import TEXT, WorkChatSettings, card_link

USERS_MAX = 1000
TITLE_BYTES_MAX, DESCRIPTION_BYTES_MAX = 128, 512
TEXT_BYTES_MAX = 2048
REPEAT_S = 1800
USER_FORM = re.compile(r"[0-9a-z][0-9a-z_.@-]{0,63}")


class Settings(WorkChatSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One application of one company. The application's secret is a file or an environment variable, never inline.

    rate_per_s: persons.
    """

    corpid: str
    agentid: int
    corp_secret_file: str = ""
    corp_secret_env: str = ""
    token_uri: str = ""
    host: str = "qyapi.weixin.qq.com"
    rate_per_s: float = 1_000.0
    burst: int = 1_000
    rows_per_request_max: int = USERS_MAX

    def __post_init__(self) -> None:
        self.check(rows_max=USERS_MAX)
        self.check_cards()
        check_secret("corp_secret", self.corp_secret_file, self.corp_secret_env)
        check_identifier("corpid", self.corpid)


#: errcode -> answer.
ANSWERS = table(
    {
        "0": ("ok", ACCEPTED),
        "-1": ("busy", ERROR),
        **dict.fromkeys(["40001", "40014", "41001", "42001"], ("token", AUTH)),
        **dict.fromkeys(["40013", "40056", "60020"], ("not_authorized", AUTH_CONFIG)),
        **dict.fromkeys(["48002", "60011", "301002"], ("not_authorized", APP_RIGHT)),
        **dict.fromkeys(["40008", "40031", "40058", "44004", "45002", "47001", "82001"], ("message", PAYLOAD)),
        "45009": ("too_frequent", THROTTLED),
        "45033": ("too_many_at_once", THROTTLED),
        # of all persons of the request
        "81013": ("nobody_valid", MUTED),
    }
)
STATUSES: dict[int, Answer] = {}
_INVALID = MUTED._replace(name="invaliduser")
_UNLICENSED = REFUSED._replace(name="unlicenseduser")

_PATH: TemplateParts = (b"/cgi-bin/message/send?access_token=", Slot("authorization"))
_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = ((b"content-type", (b"application/json",)),)
_USERS = RowList("users", (Slot("token"),), b"|")
_RAW_REFUSED = ("touser", "toparty", "totag", "agentid")


class Wecom(BulkVendorBase):
    """The vendor port for one application (gateway/vendor.py)."""

    name: ClassVar[str] = "wecom"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        title, body = FieldLimit("utf8_bytes", TITLE_BYTES_MAX), FieldLimit("utf8_bytes", DESCRIPTION_BYTES_MAX)
        whole = FieldLimit("utf8_bytes", TEXT_BYTES_MAX - TITLE_BYTES_MAX - 1)
        self._card_limits = Limits(1 << 16, title, body, counts_token=False)
        self._text_limits = Limits(1 << 16, title, whole, counts_token=False)

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    def limits(self, variant: Variant) -> Limits:
        is_card = self.settings.card_url or (variant.click is not None and variant.click.type == "url")
        return self._card_limits if is_card else self._text_limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name, _RAW_REFUSED)
        if isinstance(raw, Refusal):
            return raw
        bodies = []
        for users, slot in ((slot_json("token"), "message_id"), (slot_json("users"), "address")):
            message = self._message(variant, slot, with_variables)
            if isinstance(message, Refusal):
                return message
            whole: Tree = {"touser": users, "agentid": self.settings.agentid}
            bodies.append(parse_template(msgspec.json.encode(whole | merge_patch(message, raw))))
        shared = BulkTemplate(_PATH, _HEADERS, bodies[1], (_USERS,), self.settings.rows_per_request_max)
        return RequestTemplate(_PATH, _HEADERS, bodies[0], shared=shared)

    def _message(self, variant: Variant, slot: str, with_variables: bool) -> Tree | Refusal:
        url = card_link(variant, self.settings, slot, with_variables=with_variables)
        if isinstance(url, Refusal):
            return url
        message: Tree = {"enable_duplicate_check": 1, "duplicate_check_interval": REPEAT_S}
        if url is None:
            return message | {"msgtype": "text", "text": {"content": TEXT}}
        card: Tree = {"title": slot_json("title"), "description": slot_json("body"), "url": url}
        return message | {"msgtype": "textcard", "textcard": card}

    def check_token(self, token: str) -> str:
        return "" if USER_FORM.fullmatch(token) else "token is no user id in lower case"

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        told = self.judge(status, headers, body, is_distinct=False)
        return next(iter(told.by_token.values()), told.rest)

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        fields = decode_object(body)
        answer = answer_of(ANSWERS, code_of(fields.get("errcode")), status, headers, STATUSES)
        if answer.verdict is not Verdict.ACCEPTED:
            return BulkAnswer(answer)
        told: dict[bytes, Answer] = {}
        for name, verdict in (("invaliduser", _INVALID), ("unlicenseduser", _UNLICENSED)):
            users = [user for user in text_of(fields.get(name)).split("|") if user]
            told |= {user.encode("utf-8", "replace"): verdict for user in users}
        return BulkAnswer(answer, told)


def secret_place(settings: Settings) -> SecretPlace:
    """Where the application's secret is."""
    return SecretPlace(settings.corp_secret_file, settings.corp_secret_env)


def credential(settings: Settings, secret: bytes) -> QueryToken:
    """The asker for access tokens. Raises ValueError for a secret of the wrong form."""
    url = token_url(settings, "/cgi-bin/gettoken")
    return query_token(secret, url=url, id_name="corpid", id_value=settings.corpid, secret_name="corpsecret")
