"""vivo: vivo Push server API (vivo, iQOO; mainland China).

Source: facts/vendors-china.md section 3 and facts/vendors-addendum.md section 2.2 (2026-11), made from mirrors of
vivo's API pages 2.9 and later, dev.vivo.com.cn doc 896, and public clients that copy the reference.

One content for 2 to 1000 phones takes two steps: `saveListPayload` gives a task id, `pushToList` sends it; different
texts go one by one. vivo's older receipts (`callback_url`) come for single pushes only; then `receipts` says what
counts more. Receipts of the console (`callback_id`) come for both. `raw.vivo` is a JSON Merge Patch (RFC 7396) over the
message.

Doubts, each with a safe default: whether a Chinese character counts one or two of 40 and 100 (`text_unit`; two is right
under both rules); HTTP/2 (`http_version`); an overseas host is not known, so there is none; 10071 (outside of the hours
for operational messages) holds the class for an hour at a time, since a vendor file has no clock to wait for 07:00.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

import msgspec

from gateway.content import Variant
from gateway.template_values import Tree, merge_patch, text_value
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
    slot_text,
)
from gateway.verdict import Answer
from vendors.auth.credential import SecretPlace
from vendors.auth.digest_token import VivoToken
from vendors.codes import (
    ACCEPTED,
    AUTH,
    AUTH_CONFIG,
    DEAD,
    ERROR,
    MUTED,
    PAYLOAD,
    QUOTA_CLASS,
    SENSITIVE,
    THROTTLED,
    answer_of,
    of_list,
    table,
)
from vendors.http_answer import code_of, decode_object, text_of
from vendors.neutral import (
    BulkSettings,
    BulkVendorBase,
    category_of_class,
    check_callback,
    check_identifier,
    check_list_token,
    check_secret,
    data_tree,
    own_raw,
)

LIST_MAX = 1000
TTL_S_MIN, TTL_S_MAX = 60, 86_400
TITLE_MAX, CONTENT_MAX = 40, 100
CUSTOM_MAP_CHARACTERS_MAX = 1024
SKIP_CONTENT_CHARACTERS_MAX = 2048
#: No limit of the body is known; far above anything the fields allow.
PAYLOAD_BYTES_MAX = 1 << 16


class Settings(BulkSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One app. The app secret is a file or an environment variable, never inline; app_key_id is vivo's AppKey, which
    stands in the app itself.

    rate_per_s: messages; 3000 is the quota of apps with up to 5 million users. callback_id: of a receipt address in the
    console; callback_url: the older receipts, single pushes only. receipts: with `callback_url` alone, "prefer" sends
    every row singly, "throughput" uses lists and goes without receipts. notify_type: 1 none, 2 ring, 3 vibrate, 4 both.
    """

    app_id: int
    app_key_id: str
    app_secret_file: str = ""
    app_secret_env: str = ""
    token_uri: str = ""
    host: str = "api-push.vivo.com.cn"
    rate_per_s: float = 3_000.0
    burst: int = 3_000
    callback_id: str = ""
    callback_url: str = ""
    receipts: Literal["prefer", "throughput"] = "prefer"
    text_unit: Literal["half_width", "code_points"] = "half_width"
    notify_type: int = 4
    test_messages: bool = False

    def __post_init__(self) -> None:
        self.check(rows_max=LIST_MAX)
        check_secret("app_secret", self.app_secret_file, self.app_secret_env)
        check_identifier("app_key_id", self.app_key_id)
        check_callback(self.callback_url)
        if self.app_id <= 0:
            raise ValueError("app_id must be a positive number")
        if self.notify_type not in (1, 2, 3, 4):
            raise ValueError(f"notify_type is {self.notify_type}, expected 1 to 4")


#: An hour at a time until 07:00 comes.
_OUT_OF_HOURS = Answer(THROTTLED.verdict, scope=QUOTA_CLASS.scope, retry_after_s=3600.0)
#: result -> answer: every row of the sheet's section 3.13.
ANSWERS = table(
    {
        "0": ("success", ACCEPTED),
        "10000": ("auth_failed", AUTH),
        "10040": ("try_again", ERROR),
        "10043": ("push_channel_closed", AUTH_CONFIG),
        "10045": ("app_under_review", AUTH_CONFIG),
        "10050": ("regid_empty", PAYLOAD),
        "10051": ("class_not_supported", PAYLOAD),
        "10054": ("field_error", PAYLOAD),
        "10055": ("title_empty", PAYLOAD),
        "10056": ("title_too_long", PAYLOAD),
        "10057": ("content_empty", PAYLOAD),
        "10058": ("content_too_long", PAYLOAD),
        "10059": ("ttl_wrong", PAYLOAD),
        "10060": ("field_error", PAYLOAD),
        "10065": ("field_error", PAYLOAD),
        "10067": ("custom_map_too_long", PAYLOAD),
        "10070": ("operational_total", QUOTA_CLASS),
        "10071": ("outside_allowed_time", _OUT_OF_HOURS),
        "10072": ("too_fast", THROTTLED),
        "10073": ("system_total", QUOTA_CLASS),
        "10082": ("system_switch_not_open", PAYLOAD),
        "10085": ("content_rule", PAYLOAD),
        "10093": ("auth_too_frequent", THROTTLED),
        "10094": ("token_of_another_app", AUTH_CONFIG),
        "10095": ("field_error", PAYLOAD),
        "10096": ("category_wrong", PAYLOAD),
        "10097": ("category_mismatch", PAYLOAD),
        "10103": ("sensitive_content", SENSITIVE),
        "10104": ("not_a_formal_message", PAYLOAD),
        "10150": ("regids_empty", PAYLOAD),
        "10151": ("task_id_empty", PAYLOAD),
        "10152": ("task_id_wrong", PAYLOAD),
        "10153": ("regid_count", PAYLOAD),
        # saved anew with the next attempt
        "10155": ("saved_message_missing", ERROR),
        "10200": ("auth_app_id_empty", AUTH_CONFIG),
        "10201": ("auth_app_key_empty", AUTH_CONFIG),
        "10202": ("auth_app_key_wrong", AUTH_CONFIG),
        "10203": ("auth_timestamp_empty", AUTH_CONFIG),
        "10204": ("auth_sign_empty", AUTH_CONFIG),
        "10205": ("app_id_unknown", AUTH_CONFIG),
        "10206": ("auth_sign_wrong", AUTH_CONFIG),
        "10207": ("auth_timestamp_wrong", AUTH_CONFIG),
        "10252": ("list_total", QUOTA_CLASS),
        "10254": ("broadcast_count", QUOTA_CLASS),
        "10302": ("regid_invalid", DEAD),
        "10303": ("alias_invalid", DEAD),
        "10304": ("extra_key", PAYLOAD),
        "10305": ("callback_too_long", PAYLOAD),
        "10306": ("callback_param_too_long", PAYLOAD),
        "10307": ("alias_invalid", DEAD),
        "10311": ("not_to_be_pushed_now", MUTED),
        "10352": ("request_id_empty", PAYLOAD),
        "10353": ("request_id_too_long", PAYLOAD),
        "10800": ("ups_token_count", PAYLOAD),
        "10801": ("ups_notification_empty", PAYLOAD),
    }
)
STATUSES: dict[int, Answer] = {}
#: `status` of an invalid user -> answer. 2 and 3 come back by themselves when the app registers again.
USER_STATES: dict[str, Answer] = {
    "1": DEAD._replace(name="user_1_not_existing"),
    "2": MUTED._replace(name="user_2_uninstalled_or_closed"),
    "3": MUTED._replace(name="user_3_inactive"),
    "4": PAYLOAD._replace(name="user_4_no_test_user"),
}
_UNKNOWN_STATE = PAYLOAD._replace(name="user_unknown_state", is_unknown=True)
_RAW_REFUSED = ("appId", "regId", "regIds", "alias", "aliases", "taskId", "requestId")
_SAVED_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = (
    (b"authtoken", (Slot("authorization"),)),
    (b"content-type", (b"application/json; charset=UTF-8",)),
)
_SEND: TemplateParts = (b"/message/send",)
_SAVE: TemplateParts = (b"/message/saveListPayload",)
_LIST_PATH: TemplateParts = (b"/message/pushToList",)
_LIST = RowList("regids", (b'"', Slot("token"), b'"'), b",")
_TTL = msgspec.Raw(slot_text(f"ttl:s:{TTL_S_MIN}:{TTL_S_MAX}"))
_NUMBER = msgspec.Raw(slot_text("collapse_number"))
_ADDRESS = slot_json("address")


class Vivo(BulkVendorBase):
    """The vendor port for one app (gateway/vendor.py)."""

    name: ClassVar[str] = "vivo"
    request_id_keys: ClassVar[tuple[str, ...]] = ("taskId", "requestId")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        unit = settings.text_unit
        title, body = FieldLimit(unit, TITLE_MAX), FieldLimit(unit, CONTENT_MAX)
        self._limits = Limits(PAYLOAD_BYTES_MAX, title, body, counts_token=False, needs_texts=True)
        costs_receipts = bool(settings.callback_url) and not settings.callback_id and settings.receipts == "prefer"
        self._uses_lists = not costs_receipts and settings.rows_per_request_max > 1
        push: Tree = {
            "appId": settings.app_id,
            "regIds": msgspec.Raw(b"[" + slot_text("regids") + b"]"),
            "taskId": slot_json("saved"),
            "requestId": _ADDRESS,
        }
        if settings.test_messages:
            push["pushMode"] = 1
        self._push = parse_template(msgspec.json.encode(push))

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    def limits(self, variant: Variant) -> Limits:
        return self._limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name, _RAW_REFUSED)
        if isinstance(raw, Refusal):
            return raw
        message = self._message(variant, with_variables)
        if isinstance(message, Refusal):
            return message
        merge_patch(message, raw)
        app: Tree = {"appId": self.settings.app_id}
        single = parse_template(msgspec.json.encode({**app, "regId": slot_json("token"), **message}))
        shared = None
        if self._uses_lists:
            save = RequestTemplate(_SAVE, _HEADERS, parse_template(msgspec.json.encode({**app, **message})))
            rows_max = self.settings.rows_per_request_max
            shared = BulkTemplate(_LIST_PATH, _HEADERS, self._push, (_LIST,), rows_max, save=save)
        return RequestTemplate(_SEND, _HEADERS, single, shared=shared)

    def _message(self, variant: Variant, with_variables: bool) -> Tree | Refusal:
        settings = self.settings
        skip = _skip(variant, with_variables)
        custom = data_tree(variant, with_variables=with_variables, as_text=True)
        # vivo refuses a category that does not fit the class (10097), so we do before.
        category = category_of_class(variant, settings.categories, self.name)
        for part in (skip, custom, category):
            if isinstance(part, Refusal):
                return part
        assert isinstance(custom, dict)
        size = sum(len(key) + len(value) for key, value in custom.items() if isinstance(value, str)) + 10 + 36
        if size > CUSTOM_MAP_CHARACTERS_MAX:
            return Refusal("data", f"data is {size} characters, limit {CUSTOM_MAP_CHARACTERS_MAX} (vivo)")
        message: Tree = {
            "notifyType": settings.notify_type,
            "title": slot_json("title"),
            "content": slot_json("body"),
            "timeToLive": _TTL,
        }
        if isinstance(skip, dict):
            message |= skip
        message["networkType"] = -1
        message["classification"] = 0 if variant.class_ == "marketing" else 1
        if category:
            message["category"] = category
        message |= {"clientCustomMap": custom, "requestId": _ADDRESS, "pushMode": int(settings.test_messages)}
        if variant.collapse_id:
            message["notifyId"] = _NUMBER
        if variant.ttl_s == 0:
            message["sendOnline"] = True
        if settings.callback_id:
            message["extra"] = {"callback.id": settings.callback_id, "callback.param": _ADDRESS}
        elif settings.callback_url:
            message["extra"] = {"callback": settings.callback_url, "callback.param": _ADDRESS}
        return message

    def check_token(self, token: str) -> str:
        return check_list_token(token)

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        fields = decode_object(body)
        answer = answer_of(ANSWERS, code_of(fields.get("result")), status, headers, STATUSES)
        told = _invalid_users([fields.get("invalidUser")])
        if told and answer.verdict in (DEAD.verdict, ACCEPTED.verdict):
            return next(iter(told.values()))
        return answer

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        fields = decode_object(body)
        answer = answer_of(ANSWERS, code_of(fields.get("result")), status, headers, STATUSES)
        users = fields.get("invalidUsers")
        told = _invalid_users(users) if isinstance(users, list) else {}
        if answer.verdict is DEAD.verdict and told:
            # The list holds which; the others were taken.
            answer = ACCEPTED
        answer = of_list(answer)
        return BulkAnswer(answer, told if answer.verdict is ACCEPTED.verdict else {})

    def read_saved(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> str | Answer:
        fields = decode_object(body)
        answer = answer_of(ANSWERS, code_of(fields.get("result")), status, headers, STATUSES)
        if answer.verdict is not ACCEPTED.verdict:
            return answer
        task = fields.get("taskId")
        name = str(task) if isinstance(task, int) and abs(task) < 10**40 else text_of(task)
        return name if _SAVED_ID.fullmatch(name) else ERROR._replace(name="no_task_id", is_unknown=True)


def _skip(variant: Variant, with_variables: bool) -> Tree | Refusal:
    """What a tap does. A payload is for the app, in clientCustomMap."""
    click = variant.click
    if click is None or click.type in ("app", "payload"):
        return {"skipType": 1}
    if len(click.value) > SKIP_CONTENT_CHARACTERS_MAX:
        text = f"click is {len(click.value)} characters, limit {SKIP_CONTENT_CHARACTERS_MAX} (vivo)"
        return Refusal("click", text)
    value = text_value(click.value, with_variables=with_variables)
    return {"skipType": 2 if click.type == "url" else 4, "skipContent": value}


def _invalid_users(users: list[object]) -> dict[bytes, Answer]:
    """Token -> answer."""
    told: dict[bytes, Answer] = {}
    for user in users:
        if isinstance(user, dict) and text_of(user.get("userid")):
            answer = USER_STATES.get(code_of(user.get("status")), _UNKNOWN_STATE)
            told[text_of(user.get("userid")).encode("utf-8", "replace")] = answer
    return told


def secret_place(settings: Settings) -> SecretPlace:
    """Where the app secret is."""
    return SecretPlace(settings.app_secret_file, settings.app_secret_env)


def credential(settings: Settings, secret: bytes) -> VivoToken:
    """The asker for tokens. Raises ValueError for a secret of the wrong form."""
    url = settings.token_uri or f"https://{settings.host}:{settings.port}/message/auth"
    return VivoToken(secret, app_id=settings.app_id, app_key=settings.app_key_id, url=url)
