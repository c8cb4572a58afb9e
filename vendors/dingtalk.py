"""DingTalk: work notices of an application to persons. Targets are user ids.

Source: https://open.dingtalk.com, "work notices" (asyncsend_v2; a copy of 2019-1-7 at open-doc.dingtalk.com, read in
2026-11) and "gettoken" (codes and newer limits from memory: there is no fact sheet).

One request takes up to 100 persons of one content; different texts go one by one. A message that opens something is a
link (`click` of type url, or `card_url`), any other a text. DingTalk only says that it took a notice; what became of it
for each person is asked for later (getsendresult, vendors/receipts/dingtalk.py). `raw.dingtalk` is a JSON Merge Patch
(RFC 7396) over `msg`.

Doubts, each with a safe default: the limit of 2,048 bytes is of `msg` (the whole body without its targets is kept below
it); the same text to the same person a second time on one day is taken and not shown, which nobody is told, so the
message id stands in the link.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
from gateway.verdict import Answer
from vendors.auth.credential import SecretPlace
from vendors.auth.query_token import QueryToken, query_token, token_url
from vendors.codes import ACCEPTED, AUTH, AUTH_CONFIG, ERROR, MUTED, PAYLOAD, THROTTLED, answer_of, table
from vendors.http_answer import code_of, decode_object
from vendors.neutral import BulkVendorBase, check_identifier, check_secret, own_raw
from vendors.work_chat import TEXT, WorkChatSettings, card_link

USERS_MAX = 100
MESSAGE_BYTES_MAX = 2048
TITLE_CODE_POINTS_MAX = 64
USER_FORM = re.compile(r"[0-9A-Za-z_.@-]{1,64}")


class Settings(WorkChatSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One application of one company. Its secret is a file or an environment variable, never inline.

    app_key_id: DingTalk's AppKey, which stands in the console for all to see. rate_per_s: persons. results_...: when
    and how often it is asked what became of a notice; results_asks_max 0: never.
    """

    app_key_id: str
    agent_id: int
    app_secret_file: str = ""
    app_secret_env: str = ""
    token_uri: str = ""
    host: str = "oapi.dingtalk.com"
    rate_per_s: float = 1_000.0
    burst: int = 1_000
    rows_per_request_max: int = USERS_MAX
    results_after_s: float = 60.0
    results_again_s: float = 1800.0
    results_asks_max: int = 3
    results_waiting_max: int = 100_000
    results_per_s: float = 10.0

    def __post_init__(self) -> None:
        if min(self.results_after_s, self.results_again_s, self.results_per_s) <= 0 or self.results_asks_max < 0:
            raise ValueError(
                "results_after_s, results_again_s and results_per_s must be positive, results_asks_max 0 or more"
            )
        if not 1 <= self.results_waiting_max <= 10_000_000:
            raise ValueError(f"results_waiting_max is {self.results_waiting_max}, expected 1 to 10000000")
        self.check(rows_max=USERS_MAX)
        self.check_cards()
        check_secret("app_secret", self.app_secret_file, self.app_secret_env)
        check_identifier("app_key_id", self.app_key_id)


#: errcode -> answer.
ANSWERS = table(
    {
        "0": ("ok", ACCEPTED),
        "-1": ("busy", ERROR),
        "88": ("refused", AUTH_CONFIG),
        **dict.fromkeys(["40001", "40014", "42001"], ("token", AUTH)),
        **dict.fromkeys(["40089", "60020"], ("not_authorized", AUTH_CONFIG)),
        **dict.fromkeys(["40035", "34018"], ("argument", PAYLOAD)),
        "33012": ("user_id", MUTED),
        **dict.fromkeys(["90002", "90018", "143103", "143104", "143105"], ("too_frequent", THROTTLED)),
    }
)
STATUSES: dict[int, Answer] = {}

_PATH: TemplateParts = (b"/topapi/message/corpconversation/asyncsend_v2?access_token=", Slot("authorization"))
_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = ((b"content-type", (b"application/json",)),)
_USERS = RowList("users", (Slot("token"),), b",")


class Dingtalk(BulkVendorBase):
    """The vendor port for one application (gateway/vendor.py)."""

    name: ClassVar[str] = "dingtalk"
    #: What became of a notice is asked for by it (vendors/receipts/dingtalk.py).
    request_id_keys: ClassVar[tuple[str, ...]] = ("task_id",)
    keeps_own_ids: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        title = FieldLimit("code_points", TITLE_CODE_POINTS_MAX)
        self._limits = Limits(MESSAGE_BYTES_MAX, title, counts_token=False)

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    def limits(self, variant: Variant) -> Limits:
        return self._limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name)
        if isinstance(raw, Refusal):
            return raw
        bodies = []
        for users, slot in ((slot_json("token"), "message_id"), (slot_json("users"), "address")):
            message = self._message(variant, slot, with_variables)
            if isinstance(message, Refusal):
                return message
            whole = {"agent_id": self.settings.agent_id, "userid_list": users, "msg": merge_patch(message, raw)}
            bodies.append(parse_template(msgspec.json.encode(whole)))
        shared = BulkTemplate(_PATH, _HEADERS, bodies[1], (_USERS,), self.settings.rows_per_request_max)
        return RequestTemplate(_PATH, _HEADERS, bodies[0], shared=shared)

    def _message(self, variant: Variant, slot: str, with_variables: bool) -> Tree | Refusal:
        url = card_link(variant, self.settings, slot, with_variables=with_variables)
        if isinstance(url, Refusal):
            return url
        if url is None:
            return {"msgtype": "text", "text": {"content": TEXT}}
        link: Tree = {"title": slot_json("title"), "text": slot_json("body"), "messageUrl": url}
        if variant.image:
            link["picUrl"] = variant.image
        return {"msgtype": "link", "link": link}

    def check_token(self, token: str) -> str:
        return "" if USER_FORM.fullmatch(token) else "token is no user id"

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        return answer_of(ANSWERS, code_of(decode_object(body).get("errcode")), status, headers, STATUSES)

    def own_ids(self, body: bytes) -> Sequence[str]:
        named = self.request_id(body)
        return (named,) if named.isdigit() else ()

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        answer = self.classify(status, headers, body)
        if answer.verdict is MUTED.verdict:
            # It is about one person and does not say which.
            answer = PAYLOAD._replace(name=answer.name)
        return BulkAnswer(answer)


def secret_place(settings: Settings) -> SecretPlace:
    """Where the application's secret is."""
    return SecretPlace(settings.app_secret_file, settings.app_secret_env)


def credential(settings: Settings, secret: bytes) -> QueryToken:
    """The asker for access tokens. Raises ValueError for a secret of the wrong form."""
    url = token_url(settings, "/gettoken")
    return query_token(secret, url=url, id_name="appkey", id_value=settings.app_key_id, secret_name="appsecret")
