"""Huawei: HMS Push Kit, REST v1 and v2 (Android/EMUI and HarmonyOS up to 4.x; HarmonyOS 5 is vendors/harmony.py).

Source: facts/vendors-international.md section 3 (2026-11), made from developer.huawei.com https-send-api, its receipts
and FAQ pages, and HMS-Core/hms-push-serverdemo-python.

Authorization: an access token of OAuth, or one that a service account's key signs (PS256, as for HarmonyOS; section
3.2). One request takes 1 to 1000 tokens of one content; different texts go one by one. v2 (`project_id` set) sends for
a project, v1 for an app. `raw.huawei` is a JSON Merge Patch (RFC 7396) over `message`; `{"android": {"notification":
null}}` makes a pass-through message of `data`.

Doubts, each with a safe default: which HTTP status comes with which code is not said, so the code decides wherever
there is one; a partial answer may carry `illegal_tokens` or HarmonyOS's `illegalTokens` map, both are read; title and
body have no limit in the API page, a third party lists 40 and 80 characters, so `title_code_points_max` and
`body_code_points_max` are keys (0: only the payload's limit).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from gateway.content import Variant
from gateway.template_values import Tree, json_text, merge_patch, text_value
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
from gateway.verdict import NOT_IN_ANSWER, Answer
from vendors.auth.client_credentials import ClientCredentialsGrant
from vendors.auth.credential import SecretPlace
from vendors.auth.ps256 import AccountTokenSigner
from vendors.codes import (
    ACCEPTED,
    APP_RIGHT,
    AUTH,
    AUTH_CONFIG,
    DEAD,
    ERROR,
    PAYLOAD,
    RIGHT,
    SENSITIVE,
    THROTTLED,
    UNREADABLE,
    answer_of,
    is_fewer,
    table,
)
from vendors.http_answer import code_of, decode_object, text_of
from vendors.neutral import (
    BADGE_MAX,
    BulkSettings,
    BulkVendorBase,
    category_of,
    check_callback_secret,
    check_identifier,
    check_list_token,
    check_secret,
    data_tree,
    own_raw,
)

PAYLOAD_BYTES_MAX = 4096
TOKENS_MAX = 1000
TTL_S_MAX = 1_296_000
#: Needs the self-classification right, else everything counts as marketing.
CATEGORIES = frozenset(
    [
        *("IM", "VOIP", "SUBSCRIPTION", "TRAVEL", "HEALTH", "WORK", "ACCOUNT", "EXPRESS", "FINANCE"),
        *("DEVICE_REMINDER", "MAIL", "PLAY_VOICE", "MARKETING"),
    ]
)
DEFAULT_TOKEN_URI = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"


class Settings(BulkSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One app or project. The client secret is a file or an environment variable, never inline; so is account_key, the
    JSON key of a service account, which takes its place.

    client_id: of OAuth; for apps of AppGallery the App ID. project_id: sends by v2 where it is set. rate_per_s:
    devices; 6000 is the floor of Huawei's quota. channels: a message's category -> channel_id of the app. receipt_id:
    which receipt configuration of the console is told. badge_class: the launcher activity, without which Huawei shows
    no badge. test_messages: 500 a day, not counted against caps. callback_user, callback_secret_*: of the console's
    receipt configuration; receipts must be signed with them then.
    """

    client_id: str
    project_id: str = ""
    client_secret_file: str = ""
    client_secret_env: str = ""
    account_key_file: str = ""
    account_key_env: str = ""
    token_uri: str = DEFAULT_TOKEN_URI
    host: str = "push-api.cloud.huawei.com"
    rate_per_s: float = 6_000.0
    burst: int = 6_000
    channels: dict[str, str] = msgspec.field(default_factory=dict)
    receipt_id: str = ""
    callback_user: str = ""
    callback_secret_file: str = ""
    callback_secret_env: str = ""
    badge_class: str = ""
    title_code_points_max: int = 0
    body_code_points_max: int = 0
    test_messages: bool = False
    validate_only: bool = False

    def __post_init__(self) -> None:
        self.check(rows_max=TOKENS_MAX)
        if self.has_account_key:
            check_secret("account_key", self.account_key_file, self.account_key_env)
            if self.client_secret_file or self.client_secret_env:
                raise ValueError("client_secret and account_key are both set, expected one of them")
        else:
            check_secret("client_secret", self.client_secret_file, self.client_secret_env)
        check_identifier("client_id", self.client_id)
        check_callback_secret(self.callback_user, self.callback_secret_file, self.callback_secret_env)
        if self.project_id:
            check_identifier("project_id", self.project_id)

    @property
    def has_account_key(self) -> bool:
        """Tokens are signed, not fetched."""
        return bool(self.account_key_file or self.account_key_env)


#: Code -> answer: every row of the sheet's section 3.9.
ANSWERS = table(
    {
        "80000000": ("success", ACCEPTED),
        # with a list of tokens; `judge` reads it
        "80100000": ("partly_sent", ACCEPTED),
        "80100001": ("bad_parameter", PAYLOAD),
        "80100002": ("token_count", PAYLOAD),
        "80100003": ("message_structure", PAYLOAD),
        "80100004": ("ttl_is_past", PAYLOAD),
        "80100013": ("collapse_key", PAYLOAD),
        "80100016": ("sensitive_content", SENSITIVE),
        "80100017": ("topic_tasks", THROTTLED),
        "80100018": ("audit_signature", PAYLOAD),
        "80200001": ("token_wrong", AUTH),
        "80200003": ("token_expired", AUTH),
        "80200005": ("jwt_expired", AUTH),
        # no right, a token of another app, or overseas not enabled: no reason to unregister
        "80300002": ("no_push_right", APP_RIGHT),
        "80300007": ("all_tokens_invalid", DEAD),
        "80300008": ("payload_too_large", PAYLOAD),
        "80300010": ("token_count", PAYLOAD),
        "80300011": ("no_right_for_priority", RIGHT),
        "80300013": ("receipt_address", AUTH_CONFIG),
        "80600003": ("oauth_lookup_failed", ERROR),
        "81000001": ("internal_error", ERROR),
    }
)
#: Where no code came.
STATUSES: dict[int, Answer] = {
    400: PAYLOAD._replace(name="http_400"),
    401: AUTH._replace(name="http_401"),
    404: AUTH_CONFIG._replace(name="http_404"),
    500: ERROR._replace(name="http_500"),
    502: ERROR._replace(name="http_502"),
    503: THROTTLED._replace(name="http_503"),
}
PARTLY_SENT = "80100000"
_ILLEGAL_TOKEN = DEAD._replace(name="illegal_token")
_RAW_REFUSED = ("token", "topic", "condition")

_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = (
    (b"authorization", (Slot("authorization"),)),
    (b"content-type", (b"application/json;charset=UTF-8",)),
)
_TITLE, _BODY, _ADDRESS = slot_json("title"), slot_json("body"), slot_json("address")
_TTL = msgspec.Raw(b'"' + slot_text(f"ttl:s:1:{TTL_S_MAX}") + b's"')
_NUMBER = msgspec.Raw(slot_text("collapse_number"))
_ONE = msgspec.Raw(b"[" + slot_json("token") + b"]")
_MANY = msgspec.Raw(b"[" + slot_text("tokens") + b"]")
_LIST = RowList("tokens", (b'"', Slot("token"), b'"'), b",")


class Huawei(BulkVendorBase):
    """The vendor port for one app (gateway/vendor.py)."""

    name: ClassVar[str] = "huawei"
    request_id_keys: ClassVar[tuple[str, ...]] = ("requestId",)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        version, sender = ("v2", settings.project_id) if settings.project_id else ("v1", settings.client_id)
        self._path: TemplateParts = (f"/{version}/{sender}/messages:send".encode(),)
        title, body = settings.title_code_points_max, settings.body_code_points_max
        self._limits = Limits(
            PAYLOAD_BYTES_MAX,
            FieldLimit("code_points", title) if title else None,
            FieldLimit("code_points", body) if body else None,
            counts_token=False,
        )

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    def limits(self, variant: Variant) -> Limits:
        """4096 bytes without the tokens."""
        return self._limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name, _RAW_REFUSED)
        if isinstance(raw, Refusal):
            return raw
        data = data_tree(variant, with_variables=with_variables)
        if isinstance(data, Refusal):
            return data
        android = self._android(variant, with_variables)
        if isinstance(android, Refusal):
            return android
        message: Tree = {"token": _ONE, "data": json_text(data), "android": android}
        merge_patch(message, raw)
        whole: Tree = {"validate_only": self.settings.validate_only, "message": message}
        single = parse_template(msgspec.json.encode(whole))
        message["token"] = _MANY
        many = parse_template(msgspec.json.encode(whole))
        shared = BulkTemplate(self._path, _HEADERS, many, (_LIST,), self.settings.rows_per_request_max)
        return RequestTemplate(self._path, _HEADERS, single, shared=shared)

    def _android(self, variant: Variant, with_variables: bool) -> Tree | Refusal:
        settings = self.settings
        notification = _notification(variant, with_variables)
        if isinstance(notification, Refusal):
            return notification
        if settings.badge_class and variant.badge is not None:
            badge: Tree = {"set_num": min(variant.badge, BADGE_MAX), "class": settings.badge_class}
            notification["badge"] = badge
        if variant.category in settings.channels:
            notification["channel_id"] = settings.channels[variant.category]
        android: Tree = {"ttl": _TTL, "bi_tag": _ADDRESS, "notification": notification}
        category = category_of(variant, settings.categories, CATEGORIES)
        if category or variant.class_ == "marketing":
            android["category"] = category or "MARKETING"
        if settings.receipt_id:
            android["receipt_id"] = settings.receipt_id
        if settings.test_messages:
            android["target_user_type"] = 1
        return android

    def check_token(self, token: str) -> str:
        return check_list_token(token)

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        told = self.judge(status, headers, body, is_distinct=False)
        return next(iter(told.by_token.values()), told.rest)

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        fields = decode_object(body)
        code = code_of(fields.get("code"))
        answer = answer_of(ANSWERS, code, status, headers, STATUSES)
        if code != PARTLY_SENT or status != 200:
            return BulkAnswer(answer)
        told = decode_object(text_of(fields.get("msg")).encode("utf-8", "replace"))
        tokens = _illegal_tokens(told)
        if not tokens:
            # Some were not sent, and we cannot tell which.
            return BulkAnswer(UNREADABLE)
        rest = NOT_IN_ANSWER if is_fewer(len(tokens), told.get("failure")) else answer
        return BulkAnswer(rest, dict.fromkeys(tokens, _ILLEGAL_TOKEN))


def _notification(variant: Variant, with_variables: bool) -> Tree | Refusal:
    click: Tree = {"type": 3}
    if variant.click is not None:
        value = text_value(variant.click.value, with_variables=with_variables)
        if variant.click.type == "url":
            if not variant.click.value.startswith(("https://", "{{")):
                return Refusal("click", "click url must be https (huawei)")
            click = {"type": 2, "url": value}
        elif variant.click.type == "intent":
            click = {"type": 1, "intent": value}
    notification: Tree = {"title": _TITLE, "body": _BODY, "click_action": click}
    if variant.image:
        if not variant.image.startswith("https://"):
            return Refusal("image", "image must be an https URL (huawei)")
        notification["image"] = variant.image
    if variant.sound:
        notification["sound"] = variant.sound
    notification["importance"] = "LOW" if variant.class_ == "marketing" else "NORMAL"
    if variant.collapse_id:
        notification["notify_id"] = _NUMBER
    return notification


def _illegal_tokens(told: dict[str, object]) -> list[bytes]:
    """Tokens of a partial answer: a list, or a map from reasons to lists."""
    listed = told.get("illegal_tokens", told.get("illegalTokens"))
    lists = list(listed.values()) if isinstance(listed, dict) else [listed]
    tokens = [token for entry in lists if isinstance(entry, list) for token in entry]
    return [token.encode("utf-8", "replace") for token in tokens if isinstance(token, str)]


def secret_place(settings: Settings) -> SecretPlace:
    """Where the client secret is, or the account key."""
    if settings.has_account_key:
        return SecretPlace(settings.account_key_file, settings.account_key_env)
    return SecretPlace(settings.client_secret_file, settings.client_secret_env)


def credential(settings: Settings, secret: bytes) -> ClientCredentialsGrant | AccountTokenSigner:
    """The asker for access tokens, or the signer of them. Raises ValueError for a secret of the wrong form."""
    if settings.has_account_key:
        return AccountTokenSigner(secret, project_id=settings.project_id)
    return ClientCredentialsGrant(secret, client_id=settings.client_id, token_uri=settings.token_uri)
