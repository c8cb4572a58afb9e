"""Honor: Honor Push, REST (Honor phones with Magic UI 4 and later; older ones are reached through Huawei).

Source: facts/vendors-international.md section 5, replaced in parts by facts/vendors-addendum.md sections 2.1 and 2.3
(2026-11), made from Honor's own posts, an aggregator's table of codes and public clients that copy the reference.

One request takes 1 to 1000 tokens of one content; different texts go one by one. The class is `importance`: LOW is
marketing, NORMAL is service and needs the self-classification right. An image goes with NORMAL only (80200050).
`raw.honor` is a JSON Merge Patch (RFC 7396) over the body.

Doubts, each with a safe default: hosts (`host`, `token_uri` are keys; older names are push-api.cloud.hihonor.com and
iam.developer.hihonor.com); success is 200, and as aliases "80000000" and 0 with `sendResult`; `failTokens` says nothing
of a reason, so those rows are tried again and unregister nobody; whether 3000 a second counts tokens (it is taken so);
where a receipt id stands is not known (`receipt_id`, written as android.receiptId).
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
from gateway.verdict import Answer, Scope, Verdict
from vendors.auth.client_credentials import ClientCredentialsGrant
from vendors.auth.credential import SecretPlace
from vendors.codes import (
    ACCEPTED,
    AUTH,
    AUTH_CONFIG,
    DEAD,
    ERROR,
    PAYLOAD,
    QUOTA_CLASS,
    RIGHT,
    SENSITIVE,
    THROTTLED,
    UNREADABLE,
    answer_of,
    table,
)
from vendors.http_answer import code_of, decode_object
from vendors.neutral import (
    BADGE_MAX,
    BulkSettings,
    BulkVendorBase,
    check_identifier,
    check_list_token,
    check_secret,
    data_tree,
    own_raw,
)

PAYLOAD_BYTES_MAX = 4096
TOKENS_MAX = 1000
TTL_S_MAX = 1_296_000
DEFAULT_TOKEN_URI = "https://iam.developer.honor.com/auth/token"


class Settings(BulkSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One app. The client secret is a file or an environment variable, never inline.

    app_id: in the URL. client_id: of OAuth, another number than the App ID. rate_per_s: tokens; 3000 is everybody's
    quota. badge_class: the launcher activity, without which Honor shows no badge. test_messages: 1000 a day.
    """

    app_id: str
    client_id: str
    client_secret_file: str = ""
    client_secret_env: str = ""
    token_uri: str = DEFAULT_TOKEN_URI
    host: str = "push-api.cloud.honor.com"
    rate_per_s: float = 3_000.0
    burst: int = 3_000
    receipt_id: str = ""
    badge_class: str = ""
    test_messages: bool = False

    def __post_init__(self) -> None:
        self.check(rows_max=TOKENS_MAX)
        check_secret("client_secret", self.client_secret_file, self.client_secret_env)
        check_identifier("app_id", self.app_id)
        check_identifier("client_id", self.client_id)


#: code -> answer: every row of the addendum's table and of the sheet's section 5.9. HTTP status and body share the low
#: numbers.
ANSWERS = table(
    {
        "200": ("success", ACCEPTED),
        "80000000": ("success", ACCEPTED),
        "80100000": ("partly_sent", ACCEPTED),
        "400": ("bad_parameter", PAYLOAD),
        "401": ("unauthorized", AUTH),
        "403": ("not_authorised", AUTH),
        "404": ("no_such_service", AUTH_CONFIG),
        "429": ("too_many", THROTTLED),
        "500": ("server_error", ERROR),
        "502": ("connection_error", ERROR),
        "503": ("over_qps", THROTTLED),
        "80100003": ("message_structure", PAYLOAD),
        "80200020": ("receipt_id_mismatch", PAYLOAD),
        "80200022": ("no_right_for_message_type", RIGHT),
        "80200047": ("test_messages_cap", QUOTA_CLASS),
        "80200050": ("image_in_marketing", PAYLOAD),
        "80200056": ("sensitive_content", SENSITIVE),
        "80300006": ("token_repeated", PAYLOAD),
        "80300007": ("all_tokens_invalid", DEAD),
        "80300008": ("payload_too_large", PAYLOAD),
        "80300010": ("token_count", PAYLOAD),
        "10001": ("timestamp_empty", AUTH_CONFIG),
        "10205": ("app_id_unknown", AUTH_CONFIG),
        "10207": ("timestamp_wrong", AUTH_CONFIG),
        "10300": ("token_empty", PAYLOAD),
    }
)
STATUSES: dict[int, Answer] = {
    400: ANSWERS["400"],
    401: ANSWERS["401"],
    403: ANSWERS["403"],
    404: ANSWERS["404"],
    429: ANSWERS["429"],
    500: ANSWERS["500"],
    502: ANSWERS["502"],
    503: ANSWERS["503"],
}
_EXPIRED = DEAD._replace(name="expire_token")
#: Tried again after a wait of its own, like a device that wants to be left alone: the vendor itself is well.
_FAILED = Answer(Verdict.THROTTLED, "fail_token", Scope.DEVICE)
_RAW_REFUSED = ("token", "topic", "condition")

_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = (
    (b"authorization", (Slot("authorization"),)),
    (b"content-type", (b"application/json; charset=UTF-8",)),
    (b"timestamp", (Slot("now_unix_ms"),)),
)
_TITLE, _BODY, _ADDRESS = slot_json("title"), slot_json("body"), slot_json("address")
_TTL = msgspec.Raw(b'"' + slot_text(f"ttl:s:1:{TTL_S_MAX}") + b's"')
_ONE = msgspec.Raw(b"[" + slot_json("token") + b"]")
_MANY = msgspec.Raw(b"[" + slot_text("tokens") + b"]")
_LIST = RowList("tokens", (b'"', Slot("token"), b'"'), b",")


class Honor(BulkVendorBase):
    """The vendor port for one app (gateway/vendor.py)."""

    name: ClassVar[str] = "honor"
    request_id_keys: ClassVar[tuple[str, ...]] = ("data.requestId", "requestId")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._path: TemplateParts = (f"/api/v1/{settings.app_id}/sendMessage".encode(),)
        self._limits = Limits(PAYLOAD_BYTES_MAX, counts_token=False)

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    def limits(self, variant: Variant) -> Limits:
        """4096 bytes, taken as Huawei's: without the tokens."""
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
        body: Tree = {
            "token": _ONE,
            "data": json_text(data),
            "notification": {"title": _TITLE, "body": _BODY},
            "android": android,
        }
        merge_patch(body, raw)
        single = parse_template(msgspec.json.encode(body))
        body["token"] = _MANY
        many = parse_template(msgspec.json.encode(body))
        shared = BulkTemplate(self._path, _HEADERS, many, (_LIST,), self.settings.rows_per_request_max)
        return RequestTemplate(self._path, _HEADERS, single, shared=shared)

    def _android(self, variant: Variant, with_variables: bool) -> Tree | Refusal:
        settings = self.settings
        click: Tree = {"type": 3}
        if variant.click is not None:
            value = text_value(variant.click.value, with_variables=with_variables)
            if variant.click.type == "url":
                if not variant.click.value.startswith(("https://", "{{")):
                    return Refusal("click", "click url must be https (honor)")
                click = {"type": 2, "url": value}
            elif variant.click.type == "intent":
                click = {"type": 1, "intent": value}
        is_marketing = variant.class_ == "marketing"
        notification: Tree = {"title": _TITLE, "body": _BODY, "clickAction": click}
        if variant.image and not is_marketing:
            if not variant.image.startswith("https://"):
                return Refusal("image", "image must be an https URL (honor)")
            notification["image"] = variant.image
        notification["importance"] = "LOW" if is_marketing else "NORMAL"
        if variant.collapse_id:
            notification["notifyId"] = msgspec.Raw(slot_text("collapse_number"))
        if settings.badge_class and variant.badge is not None:
            notification["badge"] = {"setNum": min(variant.badge, BADGE_MAX), "badgeClass": settings.badge_class}
        android: Tree = {"ttl": _TTL, "biTag": _ADDRESS, "targetUserType": int(settings.test_messages)}
        if settings.receipt_id:
            android["receiptId"] = settings.receipt_id
        android["notification"] = notification
        return android

    def check_token(self, token: str) -> str:
        return check_list_token(token)

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        told = self.judge(status, headers, body, is_distinct=False)
        return next(iter(told.by_token.values()), told.rest)

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        fields = decode_object(body)
        code = code_of(fields.get("code"))
        data = fields.get("data")
        told = data if isinstance(data, dict) else {}
        if status == 200 and code == "0" and told.get("sendResult") is True:
            code = "200"
        answer = answer_of(ANSWERS, code, status, headers, STATUSES)
        if answer.verdict is not ACCEPTED.verdict:
            return BulkAnswer(answer)
        tokens = dict.fromkeys(_texts(told.get("failTokens")), _FAILED)
        tokens |= dict.fromkeys(_texts(told.get("expireTokens")), _EXPIRED)
        if code == "80100000" and not tokens:
            return BulkAnswer(UNREADABLE)
        return BulkAnswer(answer, tokens)


def _texts(listed: object) -> list[bytes]:
    entries = listed if isinstance(listed, list) else []
    return [entry.encode("utf-8", "replace") for entry in entries if isinstance(entry, str) and entry]


def secret_place(settings: Settings) -> SecretPlace:
    """Where the client secret is."""
    return SecretPlace(settings.client_secret_file, settings.client_secret_env)


def credential(settings: Settings, secret: bytes) -> ClientCredentialsGrant:
    """The asker for access tokens. Raises ValueError for a secret of the wrong form."""
    return ClientCredentialsGrant(secret, client_id=settings.client_id, token_uri=settings.token_uri)
