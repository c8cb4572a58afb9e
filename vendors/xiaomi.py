"""Xiaomi: MiPush server API (Xiaomi, Redmi; mainland China and four overseas regions).

Source: facts/vendors-china.md section 1 and facts/vendors-addendum.md section 2.2 (2026-11), made from
dev.mi.com/xiaomihyperos/documentation pages 1559, 1560, 1656, 2314, 1696, 1695 and the sources of Xiaomi's own server
SDK.

Forms: one content for up to 1000 registration ids (`/v3/message/regid`), different texts as a JSON array in a form
(`/v2/multi_messages/regids`). Xiaomi counts requests per second, not targets. Classes are channels of the console
(`channels`, `system_channel`, `marketing_channel`); an app without one sends in the default class, which new apps do
not have any more. `raw.xiaomi` is a JSON Merge Patch (RFC 7396) over the message with its `extra` object. Templates of
private messages go there, with variables in their parameters:
`{"extra": {"template_id": "T1", "template_param": {"no": "{{no}}"}}}`.

Doubts, each with a safe default: Xiaomi asks to urlencode `payload` beyond the form's own encoding
(`payload_encoding`); title and description stay beside a template; the payload's limit (4 KB) is from memory,
`payload_bytes_max` holds it; pictures must be uploaded to Xiaomi first, so a neutral image is not sent; 20301 that
says that no target was valid kills the token of a single push only: for a list it may as well be a wrong region or
package, so the list is tried again, in other company, where `bad_regids` names the dead ones.
"""

from __future__ import annotations

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
    scalar_text,
    text_value,
    with_slots,
)
from gateway.vendor import (
    BulkAnswer,
    BulkTemplate,
    FieldLimit,
    HttpVersion,
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
from vendors.auth.static_key import StaticKey
from vendors.codes import (
    ACCEPTED,
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
    check_callback,
    check_identifier,
    check_list_token,
    check_secret,
    data_tree,
    form_value,
    own_raw,
)

TARGETS_MAX = 1000
TITLE_MAX, DESCRIPTION_MAX = 49, 127
CUSTOM_PAIRS_MAX = 10
CUSTOM_CHARACTERS_MAX = 1024
#: One day for public messages, ten for private ones; older and smaller than what Xiaomi once took.
TTL_MS_MAX = {"marketing": 86_400_000, "system": 864_000_000}
#: The region of the device decides; another region's host calls its ids invalid.
HOSTS = {
    "cn": "api.xmpush.xiaomi.com",
    "ru": "ru-api.xmpush.global.xiaomi.com",
    "in": "idmb-api.xmpush.global.xiaomi.com",
    "eu": "fr-api.xmpush.global.xiaomi.com",
    "global": "sgp-api.xmpush.global.xiaomi.com",
}
#: delivered 1, clicked 2, invalid 16, disabled 32, filtered 64, cap 128, expired 1024.
CALLBACK_TYPE = 1267


class Settings(BulkSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One app (package). The app secret is a file or an environment variable, never inline.

    region: cn, ru, in, eu (with UK) or global (everywhere else). rate_per_s, burst: requests; 500 is the quota of apps
    with fewer than 100,000 devices. messages_per_request_max: of different texts. channels: a message's category ->
    channel id. data_in: custom pairs as `extra` pairs (at most 10) or in `payload`.
    """

    package_name: str
    app_secret_file: str = ""
    app_secret_env: str = ""
    region: Literal["cn", "ru", "in", "eu", "global"] = "cn"
    http_version: HttpVersion = "2"
    rate_per_s: float = 500.0
    burst: int = 500
    messages_per_request_max: int = 1000
    channels: dict[str, str] = msgspec.field(default_factory=dict)
    system_channel: str = ""
    marketing_channel: str = ""
    data_in: Literal["extra", "payload"] = "extra"
    payload_encoding: Literal["twice", "once"] = "twice"
    payload_bytes_max: int = 4096
    callback_url: str = ""
    callback_type: int = CALLBACK_TYPE

    def __post_init__(self) -> None:
        self.check(rows_max=TARGETS_MAX)
        check_secret("app_secret", self.app_secret_file, self.app_secret_env)
        check_identifier("package_name", self.package_name)
        check_callback(self.callback_url)
        if not 1 <= self.messages_per_request_max <= TARGETS_MAX:
            limit = self.messages_per_request_max
            raise ValueError(f"messages_per_request_max is {limit}, expected 1 to {TARGETS_MAX}")
        if self.payload_bytes_max < 256:
            raise ValueError(f"payload_bytes_max is {self.payload_bytes_max}, expected 256 or more")


_LENGTH = ("length_or_shape", PAYLOAD)
_TOO_OFTEN = ("too_frequent", THROTTLED)
_BAD_APP = ("bad_app_or_secret", AUTH_CONFIG)
_FORBIDDEN = ("forbidden", AUTH_CONFIG)
_PARAMETER = ("bad_parameter", PAYLOAD)
#: code -> answer: every row of the sheet's section 1.13.
ANSWERS = table(
    {
        "0": ("success", ACCEPTED),
        **dict.fromkeys(["-1", "1", "10001"], ("system_error", ERROR)),
        "10002": ("busy", ERROR),
        **dict.fromkeys(["10003", "20607", "26003", "65029", "65030", "22102"], ("internal_error", ERROR)),
        "10037": ("request_expired", ERROR),
        **dict.fromkeys(["10008", "10016", "10017", "10018", "21305", "100", "65011"], _PARAMETER),
        "10012": ("illegal_request", PAYLOAD),
        **dict.fromkeys(["10020", "10021", "10007"], ("no_such_api", PAYLOAD)),
        "10041": ("title_or_description", PAYLOAD),
        **dict.fromkeys(["65009", "65014", "65015", "65036", "65037", "65038", "65008", "65010"], _LENGTH),
        **dict.fromkeys(["65012", "65013", "65016", "65017", "65035", "20209"], _LENGTH),
        "27001": ("channel_missing", PAYLOAD),
        "26006": ("needs_review", PAYLOAD),
        **dict.fromkeys(["10022", "10023", "10024", "10027", "10028", "26004"], _TOO_OFTEN),
        "200002": ("over_qps", THROTTLED),
        **dict.fromkeys(["10030", "10032", "10039"], ("queries_too_frequent", THROTTLED)),
        **dict.fromkeys(["10034", "200001"], ("daily_total", QUOTA_CLASS)),
        # where the reason says that no target is valid, `_answer` knows better
        "20301": ("send_failed", ERROR),
        "66007": ("regid_illegal", DEAD),
        "10029": ("device_unknown", DEAD),
        "65003": ("regid_not_found", DEAD),
        **dict.fromkeys(["21301", "21302", "21303"], ("auth_failed", AUTH_CONFIG)),
        **dict.fromkeys([*(str(code) for code in range(22000, 22009)), "22022"], _BAD_APP),
        **dict.fromkeys(["10004", "10005", "10014", "10026", "10031", "10033", "10036", "10038"], _FORBIDDEN),
    }
)
STATUSES: dict[int, Answer] = {}
_BAD_REGID = DEAD._replace(name="bad_regid")
NO_TARGET = "20301_no_valid_target"
#: Texts of 20301 that say it, of whatever case.
_NO_TARGET_WORDS = ("no valid target", "no valid regid", "没有有效")

_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = (
    (b"authorization", (Slot("authorization"),)),
    (b"content-type", (b"application/x-www-form-urlencoded",)),
)
_PATH: TemplateParts = (b"/v3/message/regid",)
_MULTI_PATH: TemplateParts = (b"/v2/multi_messages/regids",)
#: Escaped as a whole: registration ids hold `+`, `/` and `=`, and each would become a text of its own length.
_TOKENS = RowList("tokens", (Slot("token"),), b",", "f")
_RAW_REFUSED = ("registration_id", "alias", "user_account", "topic", "restricted_package_name", "target")


class Xiaomi(BulkVendorBase):
    """The vendor port for one app (gateway/vendor.py)."""

    name: ClassVar[str] = "xiaomi"
    request_id_keys: ClassVar[tuple[str, ...]] = ("data.id", "trace_id")
    #: QPS counts requests, whatever they carry.
    rate_counts_requests: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        title, body = FieldLimit("code_points", TITLE_MAX), FieldLimit("code_points", DESCRIPTION_MAX)
        # Texts are bounded by their characters, the rest by `_check_sizes`; encoded it may be nine times that.
        self._limits = Limits(1 << 20, title, body, counts_token=False, needs_texts=True)

    def authority(self) -> tuple[str, int]:
        return self.settings.host or HOSTS[self.settings.region], self.settings.port

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
        extra = message.pop("extra")
        if not isinstance(extra, dict):
            return Refusal("raw", "raw.xiaomi.extra is not a JSON object")
        if isinstance(extra.get("template_param"), dict):
            extra["template_param"] = json_text(with_slots(extra["template_param"], with_variables=with_variables))
        refusal = _check_custom(extra)
        if refusal is not None:
            return refusal
        package = self.settings.package_name
        flat = {"restricted_package_name": package, **message} | {f"extra.{key}": extra[key] for key in extra}
        fields = {name: form_value(value) for name, value in flat.items()}
        single = form_parts({"registration_id": slot_text("token|"), **fields})
        around = form_parts(fields)
        many: TemplateParts = (b"registration_id=", Slot("tokens"), b"&", *around)
        rows_max = self.settings.rows_per_request_max
        element = {"restricted_package_name": package, **message, "extra": {k: _json_value(extra[k]) for k in extra}}
        target = msgspec.json.encode({"target": slot_json("token"), "message": element})
        distinct = BulkTemplate(
            _MULTI_PATH,
            _HEADERS,
            (b"messages=%5B", Slot("messages"), b"%5D"),
            (RowList("messages", parse_template(layered(target, "f")), b"%2C"),),
            self.settings.messages_per_request_max,
        )
        return RequestTemplate(
            _PATH,
            _HEADERS,
            single,
            shared=BulkTemplate(_PATH, _HEADERS, many, (_TOKENS,), rows_max),
            distinct=distinct,
        )

    def _message(self, variant: Variant, with_variables: bool) -> Tree | Refusal:
        """The fields as JSON has them; `extra` apart."""
        settings = self.settings
        extra = self._extra(variant, with_variables)
        if settings.data_in == "payload":
            data = data_tree(variant, with_variables=with_variables)
        else:
            pairs = variant.data or {}
            if len(pairs) > CUSTOM_PAIRS_MAX:
                return Refusal("data", f"data has {len(pairs)} pairs, limit {CUSTOM_PAIRS_MAX} (xiaomi)")
            for key, value in pairs.items():
                if key in extra or key.startswith(("callback", "template_")):
                    return Refusal("data", f"data key {key} is taken (xiaomi)")
                extra[key] = scalar_text(value, with_variables=with_variables)
            data = data_tree(msgspec.structs.replace(variant, data=None), with_variables=with_variables)
        if isinstance(data, Refusal):
            return data
        size = len(msgspec.json.encode(data))
        if size > settings.payload_bytes_max:
            return Refusal("data", f"payload is {size} bytes, limit {settings.payload_bytes_max} (xiaomi)")
        payload = json_text(data)
        if settings.payload_encoding == "twice":
            payload = msgspec.Raw(b'"' + layered(layered(msgspec.json.encode(data), "f"), "j") + b'"')
        most = TTL_MS_MAX[variant.class_]
        return {
            "pass_through": 0,
            "title": slot_json("title"),
            "description": slot_json("body"),
            "payload": payload,
            "notify_type": -1,
            "notify_id": msgspec.Raw(slot_text("notify_number")),
            "time_to_live": msgspec.Raw(slot_text(f"ttl:ms:1000:{most}")),
            "extra": extra,
        }

    def _extra(self, variant: Variant, with_variables: bool) -> Tree:
        settings = self.settings
        extra: Tree = {}
        default = settings.marketing_channel if variant.class_ == "marketing" else settings.system_channel
        channel = settings.channels.get(variant.category, default)
        if channel:
            extra["channel_id"] = channel
        click = variant.click
        if click is None or click.type in ("app", "payload"):
            extra["notify_effect"] = "1"
        else:
            is_url = click.type == "url"
            extra["notify_effect"] = "3" if is_url else "2"
            value = text_value(click.value, with_variables=with_variables)
            extra["web_uri" if is_url else "intent_uri"] = value
        if variant.sound:
            extra["sound_uri"] = variant.sound
        if variant.ttl_s == 0:
            extra["only_send_once"] = "1"
        if settings.callback_url:
            extra["callback"] = settings.callback_url
            extra["callback.param"] = slot_json("address")
            extra["callback.type"] = str(settings.callback_type)
        return extra

    def check_token(self, token: str) -> str:
        return check_list_token(token)

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        fields = decode_object(body)
        answer = _answer(fields, status, headers)
        if answer.name == NO_TARGET:
            return DEAD._replace(name=NO_TARGET)
        return _BAD_REGID if answer.verdict is ACCEPTED.verdict and _bad_regids(fields) else answer

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        fields = decode_object(body)
        answer = of_list(_answer(fields, status, headers))
        if answer.verdict is not ACCEPTED.verdict:
            return BulkAnswer(answer)
        data = fields.get("data")
        if isinstance(data, dict) and data.get("channel_exceed_quota"):
            # Some were dropped, and nobody says which.
            answer = answer._replace(name="channel_exceed_quota")
        return BulkAnswer(answer, dict.fromkeys(_bad_regids(fields), _BAD_REGID))


_OWN_EXTRA = frozenset(
    [
        *("channel_id", "channel_name", "channel_description", "template_id", "template_param", "notify_effect"),
        *("intent_uri", "web_uri", "notify_foreground", "sound_uri", "jobkey", "only_send_once", "flow_control"),
        *("callback", "callback.param", "callback.type", "locale", "locale_not_in", "model", "model_not_in"),
        *("app_version", "app_version_not_in", "connpt"),
    ]
)


def _check_custom(extra: Tree) -> Refusal | None:
    """What is known of custom pairs before variables are put in."""
    custom = [key for key in extra if key not in _OWN_EXTRA and not key.startswith("notification_")]
    if len(custom) > CUSTOM_PAIRS_MAX:
        return Refusal("data", f"custom pairs are {len(custom)}, limit {CUSTOM_PAIRS_MAX} (xiaomi)")
    characters = sum(len(key) + len(str(extra[key])) for key in custom if not isinstance(extra[key], msgspec.Raw))
    if characters > CUSTOM_CHARACTERS_MAX:
        return Refusal("data", f"custom pairs are {characters} characters, limit {CUSTOM_CHARACTERS_MAX} (xiaomi)")
    return None


def _answer(fields: dict[str, object], status: int, headers: Mapping[bytes, bytes]) -> Answer:
    code = code_of(fields.get("code"))
    answer = answer_of(ANSWERS, code, status, headers, STATUSES)
    if code == "20301":
        words = f"{text_of(fields.get('reason'))} {text_of(fields.get('description'))}".lower()
        if any(word in words for word in _NO_TARGET_WORDS):
            return answer._replace(name=NO_TARGET)
    return answer


def _bad_regids(fields: dict[str, object]) -> list[bytes]:
    data = fields.get("data")
    listed = text_of(data.get("bad_regids")) if isinstance(data, dict) else ""
    return [token.strip().encode("utf-8", "replace") for token in listed.split(",") if token.strip()]


def _json_value(value: object) -> object:
    """A value of `extra`, where everything is a string."""
    return value if isinstance(value, str | msgspec.Raw) else json_text(value)


def secret_place(settings: Settings) -> SecretPlace:
    """Where the app secret is."""
    return SecretPlace(settings.app_secret_file, settings.app_secret_env)


def credential(settings: Settings, secret: bytes) -> StaticKey:
    """The header's value, `key=` in lower case. Raises ValueError for a secret of the wrong form."""
    return StaticKey(secret, what="an app secret", prefix="key=")
