"""Meizu: Flyme Push, HTTP API (Meizu phones; mainland China and overseas).

Source: facts/vendors-china.md section 4 and facts/vendors-addendum.md section 2.2 (2026-11), made from
MEIZUPUSH/PushAPI (2025-04-09) and MEIZUPUSH/JavaSdk 1.2.13.

Signed forms: one content for up to 100 push ids, different texts one by one. Every request is signed by MD5 over its
raw parameters, sorted by name, with the app secret behind them; so the message's JSON is serialised once and signed as
it is sent. `raw.meizu` is a JSON Merge Patch (RFC 7396) over `messageJson`.

Doubts, each with a safe default: whether the QPS of 200 counts targets or requests (targets, `rate_per_s`); the unit of
32 and 100 characters (code points); 110010 at the top is throttling, for one push id it is a switch that is off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from gateway.columns import Piece, Pieces, join
from gateway.content import Variant
from gateway.template_values import Tree, layered, merge_patch, text_value
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
from vendors.auth.digest_columns import lead_of, md5_hex
from vendors.auth.static_key import StaticKey
from vendors.codes import (
    ACCEPTED,
    AUTH_CONFIG,
    DEAD,
    ERROR,
    MUTED,
    PAYLOAD,
    QUOTA_CLASS,
    QUOTA_DEVICE,
    RIGHT,
    THROTTLED,
    THROTTLED_DEVICE,
    answer_of,
    of_list,
    table,
)
from vendors.http_answer import code_of, decode_object
from vendors.neutral import (
    BulkSettings,
    BulkVendorBase,
    check_callback,
    check_identifier,
    check_list_token,
    check_secret,
    data_tree,
    own_raw,
)

PUSH_IDS_MAX = 100
TITLE_MAX, CONTENT_MAX = 32, 100
#: No limit of the body is known; far above anything the fields allow.
PAYLOAD_BYTES_MAX = 1 << 20
VALID_HOURS_MIN, VALID_HOURS_MAX = 1, 72
HOSTS = {"cn": "server-api-push.meizu.com", "overseas": "server-api-push.in.meizu.com"}


class Settings(BulkSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One app. The app secret is a file or an environment variable, never inline.

    rate_per_s: targets; 200 is what every app has. callback_url: must be registered in the console as well.
    callback_type: 1 delivered, 2 clicked, 3 both. callback_token_*: the console's access token, which every
    receipt must bring then.
    """

    app_id: str
    app_secret_file: str = ""
    app_secret_env: str = ""
    region: Literal["cn", "overseas"] = "cn"
    rate_per_s: float = 200.0
    burst: int = 200
    rows_per_request_max: int = PUSH_IDS_MAX
    callback_url: str = ""
    callback_type: Literal[1, 2, 3] = 3
    callback_token_file: str = ""
    callback_token_env: str = ""

    def __post_init__(self) -> None:
        self.check(rows_max=PUSH_IDS_MAX)
        check_secret("app_secret", self.app_secret_file, self.app_secret_env)
        check_identifier("app_id", self.app_id)
        check_callback(self.callback_url)
        if self.callback_token_file and self.callback_token_env:
            raise ValueError("at most one of callback_token_file and callback_token_env may be set")


_CONFIG = ("app_or_signature", AUTH_CONFIG)
#: code -> answer: every row of the sheet's section 4.13, of whole requests.
ANSWERS = table(
    {
        "200": ("success", ACCEPTED),
        "300": ("redirect", ERROR),
        "500": ("other_error", ERROR),
        "1001": ("system_error", ERROR),
        "1003": ("busy", ERROR),
        "1005": ("bad_parameter", PAYLOAD),
        "110004": ("parameter_empty", PAYLOAD),
        "110031": ("package", PAYLOAD),
        "110032": ("task_id", PAYLOAD),
        "1006": _CONFIG,
        "110000": _CONFIG,
        "110001": _CONFIG,
        "110033": _CONFIG,
        "110009": ("app_blacklisted", AUTH_CONFIG),
        "110002": ("push_id_unregistered", DEAD),
        "110003": ("push_id_illegal", DEAD),
        "110010": ("app_too_fast", THROTTLED),
        "110019": ("daily_count", QUOTA_CLASS),
        "110051": ("daily_count", QUOTA_CLASS),
        "110053": ("transparent_limit", QUOTA_CLASS),
    }
)
#: The same for single push ids, the keys of `value`.
TARGET_ANSWERS = table(
    {
        # RSP_NO_AUT in its document: no permission
        "201": ("refused", RIGHT),
        "501": ("push_failed", ERROR),
        "513": ("push_failed", ERROR),
        "518": ("speed_limit", THROTTLED_DEVICE),
        "519": ("overload", ERROR),
        "520": ("folded", THROTTLED_DEVICE),
        "110002": ("push_id_unregistered", DEAD),
        "110003": ("push_id_illegal", DEAD),
        "110005": ("alias_off", MUTED),
        "110010": ("switch_off", MUTED),
        "110011": ("device_daily_cap", QUOTA_DEVICE),
    }
)
STATUSES: dict[int, Answer] = {}

_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = (
    (b"content-type", (b"application/x-www-form-urlencoded;charset=UTF-8",)),
)
_PATH: TemplateParts = (b"/garcia/api/server/push/varnished/pushByPushId",)
_IDS = RowList("push_ids", (Slot("token|f"),), b"%2C")
_SIGNED_IDS = RowList("signed_ids", (Slot("token"),), b",")


class Meizu(BulkVendorBase):
    """The vendor port for one app (gateway/vendor.py)."""

    name: ClassVar[str] = "meizu"
    request_id_keys: ClassVar[tuple[str, ...]] = ("msgId",)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        title, body = FieldLimit("code_points", TITLE_MAX), FieldLimit("code_points", CONTENT_MAX)
        self._limits = Limits(PAYLOAD_BYTES_MAX, title, body, counts_token=False, needs_texts=True)

    def authority(self) -> tuple[str, int]:
        return self.settings.host or HOSTS[self.settings.region], self.settings.port

    def limits(self, variant: Variant) -> Limits:
        return self._limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name)
        if isinstance(raw, Refusal):
            return raw
        message = self._message(variant, with_variables)
        if isinstance(message, Refusal):
            return message
        merge_patch(message, raw)
        encoded = msgspec.json.encode(message)
        app = self.settings.app_id.encode()
        form = b"appId=" + app + b"&messageJson=" + layered(encoded, "f") + b"&pushIds="
        sign = b"&sign=" + slot_text("signature")
        signed = b"appId=" + app + b"messageJson=" + encoded + b"pushIds="
        secret = slot_text("authorization")
        many = BulkTemplate(
            _PATH,
            _HEADERS,
            parse_template(form + slot_text("push_ids") + sign),
            (_IDS, _SIGNED_IDS),
            self.settings.rows_per_request_max,
            signed=(parse_template(signed + slot_text("signed_ids") + secret),),
        )
        return RequestTemplate(
            _PATH,
            _HEADERS,
            parse_template(form + slot_text("token|f") + sign),
            signed=(parse_template(signed + slot_text("token") + secret),),
            shared=many,
        )

    def _message(self, variant: Variant, with_variables: bool) -> Tree | Refusal:
        settings = self.settings
        data = data_tree(variant, with_variables=with_variables)
        if isinstance(data, Refusal):
            return data
        valid = msgspec.Raw(slot_text(f"ttl:h:{VALID_HOURS_MIN}:{VALID_HOURS_MAX}"))
        message: Tree = {
            "noticeBarInfo": {
                "noticeMsgType": 0 if variant.class_ == "marketing" else 1,
                "title": slot_json("title"),
                "content": slot_json("body"),
            },
            "clickTypeInfo": _click(variant, with_variables) | {"parameters": data},
            "pushTimeInfo": {"offLine": 0 if variant.ttl_s == 0 else 1, "validTime": valid},
            "advanceInfo": {"notifyKey": slot_json("notify_key8")},
        }
        if settings.callback_url:
            message["extra"] = {
                "callback": settings.callback_url,
                "callback.param": slot_json("address"),
                "callback.type": str(settings.callback_type),
            }
        return message

    def check_token(self, token: str) -> str:
        return check_list_token(token)

    def sign(self, fields: Sequence[Pieces], n: int) -> Piece:
        """MD5, lower-case hex."""
        (text,) = fields
        lead, rest = lead_of(text)
        return md5_hex(lead, join(rest, 0, n))

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        fields = decode_object(body)
        answer = answer_of(ANSWERS, code_of(fields.get("code")), status, headers, STATUSES)
        told = _targets(fields) if answer.verdict is ACCEPTED.verdict else {}
        return next(iter(told.values()), answer)

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        fields = decode_object(body)
        answer = of_list(answer_of(ANSWERS, code_of(fields.get("code")), status, headers, STATUSES))
        return BulkAnswer(answer, _targets(fields) if answer.verdict is ACCEPTED.verdict else {})


def _click(variant: Variant, with_variables: bool) -> Tree:
    """What a tap does: an activity by its class name, else a URI of whatever scheme."""
    click = variant.click
    if click is None or click.type in ("app", "payload"):
        return {"clickType": 0}
    value = text_value(click.value, with_variables=with_variables)
    if click.type == "intent" and ":" not in click.value:
        return {"clickType": 1, "activity": value}
    return {"clickType": 2, "url": value}


def _targets(fields: dict[str, object]) -> dict[bytes, Answer]:
    """Push ids that failed; `value` is an object of lists, or a text where the whole call failed."""
    value = fields.get("value")
    told: dict[bytes, Answer] = {}
    for code, listed in value.items() if isinstance(value, dict) else ():
        ids = listed if isinstance(listed, list) else [listed]
        known = code_of(code)
        if known:
            answer = answer_of(TARGET_ANSWERS, known, 200, {}, STATUSES)
            told |= {token.encode("utf-8", "replace"): answer for token in ids if isinstance(token, str) and token}
    return told


def secret_place(settings: Settings) -> SecretPlace:
    """Where the app secret is."""
    return SecretPlace(settings.app_secret_file, settings.app_secret_env)


def credential(settings: Settings, secret: bytes) -> StaticKey:
    """What requests are signed with. Raises ValueError for a secret of the wrong form."""
    return StaticKey(secret, what="an app secret")
