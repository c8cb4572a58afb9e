"""OPPO: OPPO Push server API (OPPO, OnePlus, realme; mainland China and overseas).

Source: facts/vendors-china.md section 2 and facts/vendors-addendum.md section 2.2 (2026-11), made from OPPO's pages
11233 to 11236, its server SDK 1.1.0 and public clients.

Forms with JSON inside. One content for many takes two steps: `save_message_content` gives a message id, `broadcast`
sends it to up to 1000 registration ids. Different texts go as a list of up to 1000 (`unicast_batch`). Messages of class
system are service messages, which are single pushes only: of one content they go by `unicast_batch` as well, never by
broadcast.
`raw.oppo` is a JSON Merge Patch (RFC 7396) over `notification`; private templates go there, with variables in their
parameters: `{"private_msg_template_id": "t", "private_title_parameters": {"name": "{{name}}"}}`.

Doubts, each with a safe default: the mainland host moved (`host`; the old one is api.push.oppomobile.com); style 1
takes 50 characters of content or 200 (`content_code_points_max`, 50); errors of a broadcast come as keys with a list or
a text of ids, both are read; HTTP/2 (`http_version`); whether QPS counts targets (it is taken so).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

import msgspec

from gateway.content import Variant
from gateway.template_values import (
    Tree,
    form_parts,
    json_text,
    layered,
    merge_patch,
    text_value,
    with_slots,
)
from gateway.vendor import (
    BulkAnswer,
    BulkTemplate,
    FieldLimit,
    Limits,
    Names,
    Refusal,
    RequestTemplate,
    RowList,
    Slot,
    TemplateParts,
    parse_template,
    slot_json,
    slot_text,
)
from gateway.verdict import NOT_IN_ANSWER, Answer
from vendors.auth.credential import SecretPlace
from vendors.auth.digest_token import OppoToken
from vendors.codes import (
    ACCEPTED,
    APP_RIGHT,
    AUTH,
    AUTH_CONFIG,
    DEAD,
    ERROR,
    PAYLOAD,
    QUOTA_CLASS,
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
    form_value,
    own_raw,
)

TARGETS_MAX = 1000
TITLE_MAX, CONTENT_MAX_DEFAULT = 50, 50
TTL_S_MIN, TTL_S_MAX = 3600, 864_000
PARAMETERS_CHARACTERS_MAX = 4000
URL_CHARACTERS_MAX, ACTIVITY_CHARACTERS_MAX = 2000, 500
CALLBACK_URL_CHARACTERS_MAX = 200
HOSTS = {"cn": "api-push-cn.heytapmobi.com", "intl": "api-intl.push.oppomobile.com"}


class Settings(BulkSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One app. The master secret (of servers, not the app secret) is a file or an environment variable, never inline;
    app_key_id is OPPO's AppKey, which stands in the app itself.

    region: cn, or intl for phones sold elsewhere. rate_per_s: targets; 5000 is the quota of apps with fewer than 10
    million users. channels: a message's category -> channel_id; default_channel for the rest. notify_level: 1 bar, 2
    lock screen, 16 banner and sound, sent with a category only; 0 leaves it to OPPO.
    """

    app_key_id: str
    master_secret_file: str = ""
    master_secret_env: str = ""
    token_uri: str = ""
    region: Literal["cn", "intl"] = "cn"
    messages_per_request_max: int = 1000
    channels: dict[str, str] = msgspec.field(default_factory=dict)
    default_channel: str = ""
    notify_level: Literal[0, 1, 2, 16] = 0
    content_code_points_max: int = CONTENT_MAX_DEFAULT
    callback_url: str = ""

    def __post_init__(self) -> None:
        self.check(rows_max=TARGETS_MAX)
        check_secret("master_secret", self.master_secret_file, self.master_secret_env)
        check_identifier("app_key_id", self.app_key_id)
        check_callback(self.callback_url, CALLBACK_URL_CHARACTERS_MAX)
        if not 1 <= self.messages_per_request_max <= TARGETS_MAX:
            limit = self.messages_per_request_max
            raise ValueError(f"messages_per_request_max is {limit}, expected 1 to {TARGETS_MAX}")
        if not 1 <= self.content_code_points_max <= 200:
            raise ValueError(f"content_code_points_max is {self.content_code_points_max}, expected 1 to 200")


_CALL = ("call_malformed", PAYLOAD)
_RIGHT = ("no_permission", APP_RIGHT)
_APP = ("auth_wrong", AUTH_CONFIG)
#: code -> answer: every row of the sheet's section 2.13.
ANSWERS = table(
    {
        "0": ("success", ACCEPTED),
        "-1": ("service_unavailable", ERROR),
        "-2": ("flow_control", THROTTLED),
        "11": ("token_invalid", AUTH),
        "29": ("token_missing", AUTH),
        "13": ("call_limited", THROTTLED),
        "55": ("frequency_limit", THROTTLED),
        **dict.fromkeys(["14", "15", "16", "17", "18", "19"], _APP),
        **dict.fromkeys(["12", "20", "21", "22", "23", "24", "25"], _CALL),
        "26": ("ip_blacklisted", AUTH_CONFIG),
        "28": ("app_disabled", AUTH_CONFIG),
        **dict.fromkeys(["27", "30", "59"], _RIGHT),
        # of a broadcast: saved anew with the next attempt
        "31": ("data_not_exist", ERROR),
        # the app_message_id of a row is its own on every attempt: it was taken before
        "32": ("duplicate", ACCEPTED),
        "33": ("daily_total", QUOTA_CLASS),
        "34": ("daily_pictures", QUOTA_CLASS),
        "40": ("argument_missing", PAYLOAD),
        # of a registration id where the message says so, `_answer` knows better
        "41": ("argument_invalid", PAYLOAD),
        "42": ("save_total", QUOTA_CLASS),
        "51": ("picture_invalid", PAYLOAD),
        "54": ("template_missing", PAYLOAD),
        "67": ("category_or_level", PAYLOAD),
        "69": ("global_limit", THROTTLED),
        "10000": ("registration_id_invalid", DEAD),
        **{str(code): ("server_error", ERROR) for code in range(500, 600)},
    }
)
STATUSES: dict[int, Answer] = {}
_BAD_ID = DEAD._replace(name="41_registration_id")
_RAW_REFUSED = ("app_message_id",)
_SAVED_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = (
    (b"content-type", (b"application/x-www-form-urlencoded; charset=UTF-8",)),
)
_PLACE = b"/server/v1/message/notification/"
_UNICAST: TemplateParts = (_PLACE + b"unicast",)
_BATCH: TemplateParts = (_PLACE + b"unicast_batch",)
_SAVE: TemplateParts = (_PLACE + b"save_message_content",)
_BROADCAST: TemplateParts = (_PLACE + b"broadcast",)
_AUTH_TOKEN = slot_text("authorization|")
_TOKENS = RowList("tokens", (Slot("token|f"),), b"%3B")
_ACTIVITY = re.compile(r"[A-Za-z_][\w.$]*\.[A-Z][\w$]*")


class Oppo(BulkVendorBase):
    """The vendor port for one app (gateway/vendor.py)."""

    name: ClassVar[str] = "oppo"
    request_id_keys: ClassVar[tuple[str, ...]] = ("data.messageId", "data.message_id", "data.task_id")
    distinct_names: ClassVar[Names] = Names.ALL_IN_ORDER

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        content = FieldLimit("code_points", settings.content_code_points_max)
        # No limit of the body is known; its fields are bounded, and encoded they may be nine times as long.
        title = FieldLimit("code_points", TITLE_MAX)
        self._limits = Limits(1 << 20, title, content, counts_token=False, needs_texts=True)
        form = {"auth_token": _AUTH_TOKEN, "message_id": slot_text("saved|"), "target_type": b"2"}
        # The saved id has no character that a form would change.
        around = form_parts(form)
        plain = tuple(Slot("saved") if part == Slot("saved|f") else part for part in around)
        self._broadcast: TemplateParts = (*plain, b"&target_value=", Slot("tokens"))

    def authority(self) -> tuple[str, int]:
        return place(self.settings), self.settings.port

    def limits(self, variant: Variant) -> Limits:
        return self._limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name, _RAW_REFUSED)
        if isinstance(raw, Refusal):
            return raw
        notification = self._notification(variant, with_variables)
        if isinstance(notification, Refusal):
            return notification
        merge_patch(notification, raw)
        for key in ("private_title_parameters", "private_content_parameters"):
            if key in notification:
                notification[key] = with_slots(notification[key], with_variables=with_variables)
        envelope: Tree = {
            "target_type": 2,
            "target_value": slot_json("token"),
            "verify_registration_id": True,
            "notification": {"app_message_id": slot_json("message_id"), **notification},
        }
        message = msgspec.json.encode(envelope)
        single = form_parts({"auth_token": _AUTH_TOKEN, "message": message})
        batch = BulkTemplate(
            _BATCH,
            _HEADERS,
            (*form_parts({"auth_token": _AUTH_TOKEN}), b"&messages=%5B", Slot("messages"), b"%5D"),
            (RowList("messages", parse_template(layered(message, "f")), b"%2C"),),
            self.settings.messages_per_request_max,
        )
        is_service = variant.class_ != "marketing" or "private_msg_template_id" in notification
        shared = None if is_service else self._shared(notification)
        return RequestTemplate(_UNICAST, _HEADERS, single, shared=shared, distinct=batch)

    def _shared(self, notification: Tree) -> BulkTemplate:
        flat: Tree = {"app_message_id": slot_json("address"), **notification}
        fields = {"auth_token": _AUTH_TOKEN, **{name: form_value(value) for name, value in flat.items()}}
        save = RequestTemplate(_SAVE, _HEADERS, form_parts(fields))
        rows_max = self.settings.rows_per_request_max
        return BulkTemplate(_BROADCAST, _HEADERS, self._broadcast, (_TOKENS,), rows_max, save=save)

    def _notification(self, variant: Variant, with_variables: bool) -> Tree | Refusal:
        settings = self.settings
        action = _action(variant, with_variables)
        # OPPO refuses a category of the other class (67), so we do before.
        category = category_of_class(variant, settings.categories, self.name)
        data = data_tree(variant, with_variables=with_variables)
        for part in (action, category, data):
            if isinstance(part, Refusal):
                return part
        parameters = json_text(data)
        if len(bytes(parameters)) > PARAMETERS_CHARACTERS_MAX:
            text = f"data is {len(bytes(parameters))} bytes, limit {PARAMETERS_CHARACTERS_MAX} (oppo)"
            return Refusal("data", text)
        notification: Tree = {"style": 1, "title": slot_json("title"), "content": slot_json("body")}
        if isinstance(action, dict):
            notification |= action
        notification["action_parameters"] = parameters
        notification["off_line"] = variant.ttl_s != 0
        notification["off_line_ttl"] = msgspec.Raw(slot_text(f"ttl:s:{TTL_S_MIN}:{TTL_S_MAX}"))
        channel = settings.channels.get(variant.category, settings.default_channel)
        if channel:
            notification["channel_id"] = channel
        if category:
            notification["category"] = category
            if settings.notify_level:
                notification["notify_level"] = settings.notify_level
        if variant.collapse_id:
            notification["notify_id"] = msgspec.Raw(slot_text("collapse_number"))
        if variant.badge is not None:
            notification |= {"badge_operation_type": 0, "badge_message_count": variant.badge}
        if settings.callback_url:
            notification["call_back_url"] = settings.callback_url
            notification["call_back_parameter"] = slot_json("address")
        return notification

    def check_token(self, token: str) -> str:
        return check_list_token(token)

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        fields = decode_object(body)
        return _answer(code_of(fields.get("code")), text_of(fields.get("message")), status, headers)

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        fields = decode_object(body)
        answer = of_list(self.classify(status, headers, body))
        data = fields.get("data")
        if answer.verdict is not ACCEPTED.verdict:
            return BulkAnswer(answer)
        if is_distinct:
            # In order of the request; an object instead of an array means that the whole call failed.
            if not isinstance(data, list):
                return BulkAnswer(ERROR._replace(name="batch_failed"))
            return BulkAnswer(answer, by_position=_by_position(data, headers), n_told=len(data))
        return BulkAnswer(answer, _by_code(data, headers) if isinstance(data, dict) else {})

    def read_saved(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> str | Answer:
        fields = decode_object(body)
        answer = self.classify(status, headers, body)
        if answer.verdict is not ACCEPTED.verdict:
            return of_list(answer)
        data = fields.get("data")
        name = ""
        if isinstance(data, dict):
            name = text_of(data.get("message_id")) or text_of(data.get("messageId"))
        return name if _SAVED_ID.fullmatch(name) else ERROR._replace(name="no_message_id", is_unknown=True)


def place(settings: Settings) -> str:
    """The host of the region, unless another is named."""
    return settings.host or HOSTS[settings.region]


def _answer(code: str, message: str, status: int, headers: Mapping[bytes, bytes]) -> Answer:
    if status == 200 and code == "41" and "registration_id" in message.lower():
        return _BAD_ID
    return answer_of(ANSWERS, code, status, headers, STATUSES)


def _by_position(data: list[object], headers: Mapping[bytes, bytes]) -> dict[int, Answer]:
    """Rows of a list that got an error, or of which nothing is said."""
    told: dict[int, Answer] = {}
    for index, entry in enumerate(data):
        fields = entry if isinstance(entry, dict) else {}
        code = code_of(fields.get("errorCode"))
        if not (code or fields.get("messageId") or fields.get("registrationId")):
            told[index] = NOT_IN_ANSWER
        elif code and code != "0":
            told[index] = _answer(code, text_of(fields.get("errorMessage")), 200, headers)
    return told


def _by_code(data: dict[str, object], headers: Mapping[bytes, bytes]) -> dict[bytes, Answer]:
    """Ids of a broadcast under the code of their error; a code that no table knows refuses them."""
    told: dict[bytes, Answer] = {}
    for code, listed in data.items():
        if not code_of(code):
            continue
        ids = listed if isinstance(listed, list) else re.split(r"[,;\s\[\]\"]+", text_of(listed))
        answer = _answer(code, "", 200, headers)
        told |= {token.encode("utf-8", "replace"): answer for token in ids if isinstance(token, str) and token}
    return told


def _action(variant: Variant, with_variables: bool) -> Tree | Refusal:
    """What a tap does: an activity by its class name, an intent action, else a URL of whatever scheme."""
    click = variant.click
    if click is None or click.type in ("app", "payload"):
        return {"click_action_type": 0}
    value = text_value(click.value, with_variables=with_variables)
    is_url = click.type == "url"
    if is_url or ":" in click.value:
        if len(click.value) > URL_CHARACTERS_MAX:
            return Refusal("click", f"click is {len(click.value)} characters, limit {URL_CHARACTERS_MAX} (oppo)")
        return {"click_action_type": 2 if is_url else 5, "click_action_url": value}
    if len(click.value) > ACTIVITY_CHARACTERS_MAX:
        return Refusal("click", f"click is {len(click.value)} characters, limit {ACTIVITY_CHARACTERS_MAX} (oppo)")
    return {"click_action_type": 4 if _ACTIVITY.fullmatch(click.value) else 1, "click_action_activity": value}


def secret_place(settings: Settings) -> SecretPlace:
    """Where the master secret is."""
    return SecretPlace(settings.master_secret_file, settings.master_secret_env)


def credential(settings: Settings, secret: bytes) -> OppoToken:
    """The asker for tokens. Raises ValueError for a secret of the wrong form."""
    url = settings.token_uri or f"https://{place(settings)}:{settings.port}/server/v1/auth"
    return OppoToken(secret, app_key=settings.app_key_id, url=url)
