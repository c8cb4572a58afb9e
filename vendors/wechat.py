"""WeChat mini programs: subscribe messages. Targets are openids.

Source: facts/vendors-china.md section 6 (2026-11), made from developers.weixin.qq.com (api_sendmessage, stable_token);
parts of it from memory, as the sheet marks.

One openid per request; the access token stands in the query. A message is an approved template with typed values
(vendors/text_template.py): keys are type and number (`thing1`, `time3`), and each type has its own form. Title and body
are cut to the types they stand in and lose their line breaks, and so are variables, whose form WeChat judges (47003);
other values that do not fit are refused before WeChat sees them. `raw.wechat` is a JSON Merge Patch (RFC 7396) over the
request.

A click opens a page of the mini program: `intent` names it, `url` goes to `web_view_page` with the URL as its
parameter, `app` and none to `page`. The message id stands in the page's query.

Consent is the quota: one acceptance by the user is one message. WeChat counts it, and so does the gateway where it is
told of acceptances (actors/consents.py); 43101 says that none is left, which ends the row and keeps the openid. A
repeated message would cost a second acceptance, so rows without an answer end uncertain.

Doubts, each with a safe default: calls per minute (`rate_per_s`, 500); the exact forms of types (a value that passes
ours may still get 47003).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from gateway.content import Variant, template_parts
from gateway.template_values import Tree, merge_patch, with_slots
from gateway.vendor import (
    BulkAnswer,
    FieldLimit,
    Limits,
    Refusal,
    RequestTemplate,
    Slot,
    TemplateParts,
    parse_template,
    slot_json,
)
from gateway.verdict import Answer
from vendors.auth.credential import SecretPlace
from vendors.auth.query_token import QueryToken, token_url, wechat_token
from vendors.codes import (
    ACCEPTED,
    APP_RIGHT,
    AUTH,
    AUTH_CONFIG,
    DEAD,
    ERROR,
    PAYLOAD,
    QUOTA_APP,
    SENSITIVE,
    THROTTLED,
    THROTTLED_DEVICE,
    answer_of,
    table,
)
from vendors.http_answer import code_of, decode_object
from vendors.links import link, query_value
from vendors.neutral import BulkSettings, BulkVendorBase, check_at_most_one, check_identifier, check_secret, own_raw
from vendors.text_template import TemplateRooms, TextTemplate, constant_text, parameter, template_of

PAGE_CHARACTERS_MAX = 1024
#: Stands for whatever mark is configured: types that do not take this one take none.
MARK = "…"
OPENID_FORM = re.compile(r"[A-Za-z0-9_-]{28}")
KEY_FORM = re.compile(r"([a-z_]+?)[0-9]{1,2}")
_PAGE_FORM = re.compile(r"[A-Za-z0-9_/-]+(\?[!-~]*)?")
_DATE = r"\d{4}(?:年\d{1,2}月\d{1,2}日|[-/.]\d{1,2}[-/.]\d{1,2})"
_CLOCK = r"(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?"


class ValueType(msgspec.Struct, frozen=True):
    """What one type of value takes. code_points_max: what a text is cut to; 0: it is not cut."""

    code_points_max: int
    form: re.Pattern[str]


def _type(code_points_max: int, pattern: str) -> ValueType:
    return ValueType(code_points_max, re.compile(pattern, re.S))


#: Every type of the sheet's section 6.6. A name with a Chinese character has 10 characters, another one 20; cut to 10.
TYPES: dict[str, ValueType] = {
    "thing": _type(20, r".{1,20}"),
    "number": _type(0, r"-?\d{1,32}(\.\d{1,32})?"),
    "letter": _type(32, r"[A-Za-z]{1,32}"),
    "symbol": _type(5, r".{1,5}"),
    "character_string": _type(32, r"[ -~]{1,32}"),
    "time": _type(0, rf"({_DATE} ?)?{_CLOCK}( ?~ ?.+)?"),
    "date": _type(0, rf"{_DATE}( ?{_CLOCK})?( ?~ ?.+)?"),
    "amount": _type(0, r"[¥￥$€£]?\d{1,10}(\.\d+)?元?"),
    "phone_number": _type(17, r"[0-9+() -]{1,17}"),
    "car_number": _type(8, r".{1,8}"),
    "name": _type(10, r".{1,10}|[ -~]{1,20}"),
    "phrase": _type(5, r"[\u4e00-\u9fff]{1,5}"),
    "enum": _type(0, r".+"),
}


class Settings(BulkSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mini program. The app secret is a file or an environment variable, never inline.

    templates: category -> template and values, `default` for all others. page: what a tap opens without a click of its
    own; empty: nothing. web_view_page: a page that shows the URL in its parameter `url`. callback_secret: the token of
    the console's message push, and on a second line its EncodingAESKey where messages are encrypted; without one events
    are not taken. rate_per_s: messages.
    consents: strict: a row without a reported consent is refused here; trust: WeChat decides. permanent_templates: ids
    of those that need one acceptance for ever. consent_events: WeChat's own events of what users chose are counted, so
    nobody else has to report it.
    """

    appid: str
    app_secret_file: str = ""
    app_secret_env: str = ""
    templates: dict[str, TextTemplate] = msgspec.field(default_factory=dict)
    page: str = ""
    web_view_page: str = ""
    miniprogram_state: Literal["developer", "trial", "formal"] = "formal"
    lang: Literal["zh_CN", "en_US", "zh_HK", "zh_TW"] = "zh_CN"
    consents: Literal["trust", "strict"] = "trust"
    permanent_templates: list[str] = msgspec.field(default_factory=list)
    consent_events: bool = False
    token_uri: str = ""
    callback_secret_file: str = ""
    callback_secret_env: str = ""
    host: str = "api.weixin.qq.com"
    rate_per_s: float = 500.0
    burst: int = 500
    rows_per_request_max: int = 1

    def __post_init__(self) -> None:
        self.check(rows_max=1)
        check_secret("app_secret", self.app_secret_file, self.app_secret_env)
        check_at_most_one("callback_secret", self.callback_secret_file, self.callback_secret_env)
        check_identifier("appid", self.appid)
        for page in (self.page, self.web_view_page):
            if page and not _PAGE_FORM.fullmatch(page):
                raise ValueError(f"page {page!r} is no path of a mini program")
        for category, template in self.templates.items():
            for key, text in template.params.items():
                _check_value(category, key, text)


def _check_value(category: str, key: str, text: str) -> None:
    """Raises ValueError for a value of a template that no message could have."""
    found = KEY_FORM.fullmatch(key)
    kind = TYPES.get(found[1]) if found else None
    if kind is None:
        raise ValueError(f"value {key} of template {category} is not a type of WeChat's and a number")
    parts = template_parts(text)
    texts = [part for part in parts[1::2] if part in ("title", "body")]
    if len(texts) > 1:
        raise ValueError(f"value {key} of template {category} holds more than one of title and body")
    if texts and kind.code_points_max and _constant_length(parts) >= kind.code_points_max:
        raise ValueError(f"value {key} of template {category} has no room for its text")


def _constant_length(parts: list[str]) -> int:
    return sum(len(part) for part in parts[::2])


#: errcode -> answer: every row of the sheet's section 6.13.
ANSWERS = table(
    {
        "0": ("ok", ACCEPTED),
        "-1": ("busy", ERROR),
        **dict.fromkeys(["40001", "40014", "41001", "42001"], ("token", AUTH)),
        **dict.fromkeys(["40013", "40125", "40164", "50002", "61023"], ("not_authorized", AUTH_CONFIG)),
        "48001": ("not_authorized", APP_RIGHT),
        "40003": ("openid", DEAD),
        "40037": ("template_id", PAYLOAD),
        "41030": ("page", PAYLOAD),
        # of this template and this user: the openid stays
        "43101": ("no_consent", PAYLOAD),
        "43107": ("template_banned", APP_RIGHT),
        "43108": ("concurrent_sends", THROTTLED_DEVICE._replace(retry_after_s=1.0)),
        "45009": ("daily_calls", QUOTA_APP),
        "45011": ("too_frequent", THROTTLED),
        "45168": ("sensitive_words", SENSITIVE),
        "47001": ("not_json", PAYLOAD),
        "47003": ("argument", PAYLOAD),
    }
)
STATUSES: dict[int, Answer] = {}
NO_CONSENT = ANSWERS["43101"].name
_PATH: TemplateParts = (b"/cgi-bin/message/subscribe/send?access_token=", Slot("authorization"))
_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = ((b"content-type", (b"application/json",)),)
#: One line, in JSON.
_LINE = "l"


class Wechat(BulkVendorBase):
    """The vendor port for one mini program (gateway/vendor.py)."""

    name: ClassVar[str] = "wechat"
    may_repeat: ClassVar[bool] = False
    no_consent: ClassVar[str] = NO_CONSENT
    #: Reports name it as MsgID.
    request_id_keys: ClassVar[tuple[str, ...]] = ("msgid",)
    keeps_own_ids: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._rooms = TemplateRooms(settings.templates, _limit_of)

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    def limits(self, variant: Variant) -> Limits:
        """Title, body and variables have the room that is left in the values they stand in."""
        title, body, variables = self._rooms.of(variant)
        # No limit of the body is known; its values are bounded.
        return Limits(1 << 16, title, body, counts_token=False, variables=variables)

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name, ("touser",))
        if isinstance(raw, Refusal):
            return raw
        message = self._message(variant, with_variables)
        if isinstance(message, Refusal):
            return message
        patch = with_slots(raw, with_variables=with_variables)
        assert isinstance(patch, dict)
        merge_patch(message, patch)
        if not message.get("template_id"):
            text = f"category {variant.category[:64]!r} has no template, and there is no default (wechat)"
            return Refusal("category", text)
        body = parse_template(msgspec.json.encode({"touser": slot_json("token"), **message}))
        return RequestTemplate(_PATH, _HEADERS, body)

    def consent_of(self, variant: Variant) -> str:
        """The template whose consent a message of this content uses; "" for none, or one that needs none each."""
        template = template_of(self.settings.templates, variant.category)
        raw = own_raw(variant, self.name, ())
        own = None if isinstance(raw, Refusal) else raw.get("template_id")
        name = own if isinstance(own, str) and own else "" if template is None else template.id
        return "" if name in self.settings.permanent_templates else name

    def _message(self, variant: Variant, with_variables: bool) -> Tree | Refusal:
        settings = self.settings
        page = self._page(variant, with_variables)
        if isinstance(page, Refusal):
            return page
        message: Tree = {"miniprogram_state": settings.miniprogram_state, "lang": settings.lang}
        if page is not None:
            message["page"] = page
        template = template_of(settings.templates, variant.category)
        if template is None:
            return message
        data: Tree = {}
        for key, text in template.params.items():
            value = parameter(text, variant, with_variables=with_variables, steps=_LINE)
            refusal = value if isinstance(value, Refusal) else _misfit(key, value)
            if refusal is not None:
                return refusal
            data[key] = {"value": value}
        return message | {"template_id": template.id, "data": data}

    def _page(self, variant: Variant, with_variables: bool) -> msgspec.Raw | Refusal | None:
        """What a tap opens, with the message id in its query; None: nothing."""
        click, page = variant.click, self.settings.page
        if click is not None and click.type == "intent":
            page = click.value
            if not with_variables and not _PAGE_FORM.fullmatch(page):
                return Refusal("click", "click intent is no page of a mini program (wechat)")
        elif click is not None and click.type == "url":
            page = self.settings.web_view_page
            if not page:
                return Refusal("click", "click url needs web_view_page: only own pages open (wechat)")
            url = query_value(click.value, with_variables=with_variables)
            head = bytes(link(page, "message_id", with_variables=False))[:-1]
            made = msgspec.Raw(head + b"&url=" + url + b'"')
            return made if len(bytes(made)) <= PAGE_CHARACTERS_MAX else _TOO_LONG
        if not page:
            return None
        made = link(page, "message_id", with_variables=with_variables)
        return made if len(bytes(made)) <= PAGE_CHARACTERS_MAX else _TOO_LONG

    def check_token(self, token: str) -> str:
        return "" if OPENID_FORM.fullmatch(token) else "token is no openid of 28 characters"

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        return answer_of(ANSWERS, code_of(decode_object(body).get("errcode")), status, headers, STATUSES)

    def own_ids(self, body: bytes) -> Sequence[str]:
        named = self.request_id(body)
        return (named,) if named else ()

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        return BulkAnswer(self.classify(status, headers, body))


_TOO_LONG = Refusal("click", f"page is over {PAGE_CHARACTERS_MAX} characters (wechat)")


def _limit_of(key: str) -> FieldLimit | None:
    found = KEY_FORM.fullmatch(key)
    kind = TYPES[found[1]] if found else None
    if kind is None or not kind.code_points_max:
        return None
    # Letters, digits and phrases take no mark.
    return FieldLimit("code_points", kind.code_points_max, has_mark=kind.form.fullmatch(MARK) is not None)


def _misfit(key: str, value: str | msgspec.Raw) -> Refusal | None:
    """What is wrong with a value that is the same in all rows."""
    text, found = constant_text(value), KEY_FORM.fullmatch(key)
    if text is None or found is None or TYPES[found[1]].form.fullmatch(text):
        return None
    return Refusal("data", f"value of {key} does not have the form of its type (wechat)")


def secret_place(settings: Settings) -> SecretPlace:
    """Where the app secret is."""
    return SecretPlace(settings.app_secret_file, settings.app_secret_env)


def credential(settings: Settings, secret: bytes) -> QueryToken:
    """The asker for access tokens. Raises ValueError for a secret of the wrong form."""
    return wechat_token(secret, appid=settings.appid, url=token_url(settings, "/cgi-bin/stable_token"))
