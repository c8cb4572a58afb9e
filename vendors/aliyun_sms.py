"""Aliyun SMS: Alibaba Cloud Dysmsapi, version 2017-05-25. Targets are telephone numbers.

Source: facts/vendors-china.md sections 7A and 10 (2026-11), made from help.aliyun.com (SendSms, API error codes, V3
signature); parts of it from memory, as the sheet marks.

Signature version 3 (ACS3-HMAC-SHA256) in headers, parameters as a form. A text is an approved template with parameters
(vendors/text_template.py); category -> `templates`, or `raw.aliyun_sms`, a JSON Merge Patch (RFC 7396) over SignName,
TemplateCode, TemplateParam and SmsUpExtendCode.

One request takes up to 1000 numbers of one text (SendSms) or 100 with a text each (SendBatchSms, one template) and
answers for all of them at once: one number that Aliyun does not like refuses the others as well, and only receipts name
numbers. So `rows_per_request_max` and `messages_per_request_max` are 1 unless somebody asks for more. There is no
idempotency: an answer that got lost leaves a text that may have been sent.

Doubts, each with a safe default: the length of a parameter depends on the kind of template (`param_code_points_max`,
35); whether a flow control is by minute, hour or day stands in the message's text only, and the shortest is taken where
it cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from gateway.columns import Piece, Pieces, join
from gateway.content import Variant
from gateway.template_values import Tree, form_parts, merge_patch, with_slots
from gateway.vendor import (
    BulkAnswer,
    BulkTemplate,
    Refusal,
    RequestTemplate,
    RowList,
    SignedFields,
    Slot,
    TemplateParts,
    parse_template,
    slot_text,
)
from gateway.verdict import Answer, Verdict
from vendors.auth.credential import SecretPlace
from vendors.auth.digest_columns import constant_of
from vendors.auth.request_hmac import ACS3, ACS3_SIGNED, acs3_signatures
from vendors.auth.static_key import StaticKey
from vendors.codes import (
    ACCEPTED,
    APP_RIGHT,
    AUTH_CONFIG,
    DEAD,
    ERROR,
    PAYLOAD,
    QUOTA_APP,
    QUOTA_DEVICE,
    THROTTLED,
    THROTTLED_DEVICE,
    UNREADABLE,
)
from vendors.http_answer import by_status_class, counted_name, decode_object, retry_after_s, text_of
from vendors.neutral import check_identifier, check_secret, form_value, own_raw
from vendors.sms import SmsBase, SmsSettings
from vendors.text_template import parameter, template_of

VERSION, ACTION, BATCH_ACTION = "2017-05-25", "SendSms", "SendBatchSms"
NUMBERS_MAX, MESSAGES_MAX = 1000, 100
PARAM_CODE_POINTS_MAX = 35
#: Mainland numbers in their four spellings, others with their country code.
NUMBER_FORM = re.compile(r"(\+|00)?[0-9]{6,18}")


class Settings(SmsSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One account (RAM user). The access key's secret is a file or an environment variable, never inline.

    messages_per_request_max: texts of their own in one request. rate_per_s: requests; 5000 is a user's quota. The rest:
    vendors/sms.py.
    """

    access_key_id: str
    access_key_secret_file: str = ""
    access_key_secret_env: str = ""
    param_code_points_max: int = PARAM_CODE_POINTS_MAX
    host: str = "dysmsapi.aliyuncs.com"
    rows_per_request_max: int = 1
    messages_per_request_max: int = 1

    def __post_init__(self) -> None:
        self.check_sms(rows_max=NUMBERS_MAX)
        if not 1 <= self.messages_per_request_max <= MESSAGES_MAX:
            raise ValueError(
                f"messages_per_request_max is {self.messages_per_request_max}, expected 1 to {MESSAGES_MAX}"
            )
        check_secret("access_key_secret", self.access_key_secret_file, self.access_key_secret_env)
        check_identifier("access_key_id", self.access_key_id)


#: Code -> answer: every row of the sheet's section 7A.13.
ANSWERS: dict[str, Answer] = {
    "OK": ACCEPTED,
    **dict.fromkeys(["isv.MOBILE_NUMBER_ILLEGAL", "isv.DOMESTIC_NUMBER_NOT_SUPPORTED"], DEAD),
    **dict.fromkeys(
        [
            *("isv.MOBILE_COUNT_OVER_LIMIT", "isv.INVALID_PARAMETERS", "isv.INVALID_JSON_PARAM"),
            *("isv.TEMPLATE_MISSING_PARAMETERS", "isv.TEMPLATE_PARAMS_ILLEGAL", "isv.PARAM_LENGTH_LIMIT"),
            *("isv.PARAM_NOT_SUPPORT_URL", "isv.BLACK_KEY_CONTROL_LIMIT"),
            *("isv.SMS_TEMPLATE_ILLEGAL", "isv.SMS_SIGNATURE_ILLEGAL", "isv.SMS_SIGN_ILLEGAL"),
        ],
        PAYLOAD,
    ),
    # of one number; `_flow_control` knows for how long
    "isv.BUSINESS_LIMIT_CONTROL": THROTTLED_DEVICE,
    **dict.fromkeys(["isv.DAY_LIMIT_CONTROL", "isv.MONTH_LIMIT_CONTROL"], QUOTA_APP),
    **dict.fromkeys(["Throttling.User", "Throttling"], THROTTLED),
    **dict.fromkeys(
        [
            *("isv.AMOUNT_NOT_ENOUGH", "isv.OUT_OF_SERVICE", "isv.ACCOUNT_ABNORMAL", "isv.ACCOUNT_NOT_EXISTS"),
            *("isv.PRODUCT_UN_SUBSCRIPT", "isv.PRODUCT_UNSUBSCRIBE", "isv.DENY_IP_RANGE"),
            *("SignatureDoesNotMatch", "InvalidAccessKeyId.NotFound", "InvalidTimeStamp.Expired"),
        ],
        AUTH_CONFIG,
    ),
    "isp.RAM_PERMISSION_DENY": APP_RIGHT,
    # the nonce of the next attempt is another one
    "SignatureNonceUsed": ERROR,
    **dict.fromkeys(["isp.SYSTEM_ERROR", "isp.UNKNOWN_ERR_CODE", "ServiceUnavailable"], ERROR),
}
#: What the text of BUSINESS_LIMIT_CONTROL says -> seconds.
_MINUTE_S, _HOUR_S = 60.0, 3600.0
_FIELDS = ("SignName", "TemplateCode", "TemplateParam", "SmsUpExtendCode")
_NUMBERS = RowList("numbers", (Slot("token"),), b",", "f")
#: Array of SendBatchSms -> the field of SendSms that is in it for each number.
_ARRAYS = {"TemplateParamJson": "TemplateParam", "SignNameJson": "SignName", "SmsUpExtendCodeJson": "SmsUpExtendCode"}
_SINGLE_NONCE: TemplateParts = (Slot("message_id"), b"-", Slot("now_unix_ms"))
_MANY_NONCE: TemplateParts = (Slot("address"), b"-", Slot("now_unix_ms"))


class AliyunSms(SmsBase[Settings]):
    """The vendor port for one account (gateway/vendor.py)."""

    name: ClassVar[str] = "aliyun_sms"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._credential = f"{ACS3} Credential={settings.access_key_id},SignedHeaders={ACS3_SIGNED},Signature=".encode()

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name)
        if isinstance(raw, Refusal):
            return raw
        for key in raw:
            if key not in _FIELDS:
                return Refusal("raw", f"raw.aliyun_sms key {key[:64]} is not one of {', '.join(_FIELDS)}")
        message = self._message(variant, with_variables)
        if isinstance(message, Refusal):
            return message
        merge_patch(message, with_slots(raw, with_variables=with_variables))  # type: ignore[arg-type]  # a dict stays one
        if not isinstance(message.get("TemplateCode"), str):
            text = f"category {variant.category[:64]!r} has no template, and there is no default (aliyun_sms)"
            return Refusal("category", text)
        fields = {name: form_value(message[name]) for name in _FIELDS if name in message and name != "TemplateParam"}
        params = message.get("TemplateParam")
        if params:
            fields["TemplateParam"] = msgspec.json.encode(params)
        single = form_parts({"PhoneNumbers": slot_text("token|"), **fields, "OutId": slot_text("message_id|")})
        around = form_parts({**fields, "OutId": slot_text("address|")})
        many: TemplateParts = (b"PhoneNumbers=", Slot("numbers"), b"&", *around)
        shared = BulkTemplate(
            (b"/",),
            self._headers(ACTION, _MANY_NONCE),
            many,
            (_NUMBERS,),
            self.settings.rows_per_request_max,
            signed=_signed(ACTION, _MANY_NONCE),
        )
        signed, headers = _signed(ACTION, _SINGLE_NONCE), self._headers(ACTION, _SINGLE_NONCE)
        distinct = self._batch(message)
        return RequestTemplate((b"/",), headers, single, signed=signed, shared=shared, distinct=distinct)

    def _batch(self, message: Tree) -> BulkTemplate | None:
        """The request of many texts: arrays that run beside each other. Parameters first: they are what is counted."""
        rows_max = self.settings.messages_per_request_max
        if rows_max == 1:
            return None
        lists: list[RowList] = []
        parts: list[bytes | Slot] = []
        for name, key in _ARRAYS.items():
            if message.get(key):
                parts += [f"&{name}=%5B".encode(), Slot(name), b"%5D"]
                lists.append(RowList(name, parse_template(msgspec.json.encode(message[key])), b",", "f"))
        lists.append(RowList("numbers", (b'"', Slot("token"), b'"'), b",", "f"))
        code = form_parts({"TemplateCode": form_value(message["TemplateCode"]), "OutId": slot_text("address|")})
        body: TemplateParts = (b"PhoneNumberJson=%5B", Slot("numbers"), b"%5D&", *code, *parts)
        headers = self._headers(BATCH_ACTION, _MANY_NONCE)
        signed = _signed(BATCH_ACTION, _MANY_NONCE)
        return BulkTemplate((b"/",), headers, body, tuple(lists), rows_max, signed=signed)

    def _message(self, variant: Variant, with_variables: bool) -> Tree | Refusal:
        message: Tree = {"SignName": self.settings.sign_name}
        template = template_of(self.settings.templates, variant.category)
        if template is None:
            return message
        params: Tree = {}
        for name, text in template.params.items():
            value = parameter(text, variant, with_variables=with_variables)
            if isinstance(value, Refusal):
                return value
            params[name] = value
        return message | {"TemplateCode": template.id, "TemplateParam": params}

    def _headers(self, action: str, nonce: TemplateParts) -> tuple[tuple[bytes, TemplateParts], ...]:
        return (
            (b"content-type", (b"application/x-www-form-urlencoded",)),
            (b"x-acs-action", (action.encode(),)),
            (b"x-acs-version", (VERSION.encode(),)),
            (b"x-acs-date", (Slot("now_utc"),)),
            (b"x-acs-signature-nonce", nonce),
            (b"x-acs-content-sha256", (Slot("signature:0:64"),)),
            (b"authorization", (self._credential, Slot("signature:64:128"))),
        )

    def check_token(self, token: str) -> str:
        return "" if NUMBER_FORM.fullmatch(token) else "token is no telephone number"

    def sign(self, fields: Sequence[Pieces], n: int) -> Piece:
        """The body's hash, which is a header as well, and the signature: 64 hex digits each."""
        action, secret, date, nonces, bodies = fields
        return acs3_signatures(
            constant_of(secret),
            host=self._host,
            action=constant_of(action),
            version=VERSION,
            date=constant_of(date),
            nonces=nonces,
            bodies=join(bodies, 0, n),
        )

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        fields = decode_object(body)
        code = text_of(fields.get("Code"))
        answer = ANSWERS.get(code)
        name = code.replace(".", "_")
        if answer is None:
            if status == 200:
                return PAYLOAD._replace(name=counted_name(name, status), is_unknown=True) if code else UNREADABLE
            return by_status_class(status, name, headers)
        if answer.verdict is ACCEPTED.verdict:
            return answer if status == 200 else UNREADABLE
        if code == "isv.BUSINESS_LIMIT_CONTROL":
            answer = _flow_control(text_of(fields.get("Message")))
        wait_s = retry_after_s(headers)
        return answer._replace(name=name, retry_after_s=answer.retry_after_s if wait_s is None else wait_s)

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        answer = self.classify(status, headers, body)
        # It is about one number and does not say which.
        return BulkAnswer(PAYLOAD._replace(name=answer.name) if answer.verdict is Verdict.TOKEN_DEAD else answer)


def _flow_control(message: str) -> Answer:
    """How long a number has to be left alone: the text alone says it."""
    if "天" in message or "day" in message.lower():
        return QUOTA_DEVICE
    if "小时" in message or "hour" in message.lower():
        return THROTTLED_DEVICE._replace(retry_after_s=_HOUR_S)
    return THROTTLED_DEVICE._replace(retry_after_s=_MINUTE_S)


def _signed(action: str, nonce: TemplateParts) -> SignedFields:
    return (action.encode(),), (Slot("authorization"),), (Slot("now_utc"),), nonce, (Slot("payload"),)


def secret_place(settings: Settings) -> SecretPlace:
    """Where the access key's secret is."""
    return SecretPlace(settings.access_key_secret_file, settings.access_key_secret_env)


def credential(settings: Settings, secret: bytes) -> StaticKey:
    """What requests are signed with. Raises ValueError for a secret of the wrong form."""
    return StaticKey(secret, what="an access key secret")
