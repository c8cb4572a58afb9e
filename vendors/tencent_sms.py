"""Tencent Cloud SMS, version 2021-01-11. Targets are telephone numbers in E.164.

Source: facts/vendors-china.md sections 7B and 10 (2026-11), made from cloud.tencent.com/document/product/382 (SendSms,
error codes); parts of it from memory, as the sheet marks.

JSON signed by TC3-HMAC-SHA256. A text is an approved template with parameters by place (vendors/text_template.py; their
names are 1, 2, ...); category -> `templates`, or `raw.tencent_sms`, a JSON Merge Patch (RFC 7396) over the request.
One request takes up to 200 numbers of one text and answers with a code for each. All have to be mainland numbers or all
others, so `numbers` says which of them the channel takes. There is no idempotency: an answer that got lost leaves a
text that may have been sent, and so does InternalError.Timeout.

Doubts, each with a safe default: a parameter has 12 characters unless the account is an enterprise's
(`param_code_points_max`); marketing is refused from 22 to 8 o'clock, and the row waits half an hour at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from gateway.columns import Piece, Pieces, fill, join
from gateway.content import Variant
from gateway.template_values import Tree, merge_patch, with_slots
from gateway.vendor import (
    BulkAnswer,
    BulkTemplate,
    Names,
    Refusal,
    RequestTemplate,
    RowList,
    SignedFields,
    Slot,
    TemplateParts,
    parse_template,
    slot_json,
    slot_text,
)
from gateway.verdict import Answer, Scope, Verdict
from vendors.auth.credential import SecretPlace
from vendors.auth.digest_columns import constant_of
from vendors.auth.request_hmac import TC3, TC3_SIGNED, tc3_date, tc3_signatures
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
    SENSITIVE,
    THROTTLED,
    THROTTLED_DEVICE,
    UNREADABLE,
)
from vendors.http_answer import by_status_class, counted_name, decode_object, retry_after_s, text_of
from vendors.neutral import (
    OWN_ID_CHARACTERS_MAX,
    check_at_most_one,
    check_identifier,
    check_secret,
    own_raw,
)
from vendors.sms import SmsBase, SmsSettings
from vendors.text_template import parameter, template_of

VERSION, ACTION, SERVICE = "2021-01-11", "SendSms", "sms"
CONTENT_TYPE = "application/json; charset=utf-8"
NUMBERS_MAX = 200
PARAM_CODE_POINTS_MAX = 12
MAINLAND_FORM = re.compile(r"\+861[3-9][0-9]{9}")
NUMBER_FORM = re.compile(r"\+[1-9][0-9]{6,14}")


class Settings(SmsSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One SMS application. The secret key is a file or an environment variable, never inline.

    sign_name is required for mainland numbers; parameters of templates are named by their place, from 1. numbers: which
    numbers are targets. rate_per_s: requests; 3000 is the API's. callback_secret: the end of the path that reports are
    posted to, since they are not signed; without one they are not taken. The rest: vendors/sms.py.
    """

    secret_id: str
    sdk_app_id: str
    secret_key_file: str = ""
    secret_key_env: str = ""
    numbers: Literal["mainland", "international"] = "mainland"
    region: str = "ap-guangzhou"
    param_code_points_max: int = PARAM_CODE_POINTS_MAX
    callback_secret_file: str = ""
    callback_secret_env: str = ""
    host: str = "sms.tencentcloudapi.com"
    rate_per_s: float = 3_000.0
    burst: int = 3_000
    rows_per_request_max: int = NUMBERS_MAX

    def __post_init__(self) -> None:
        self.check_sms(rows_max=NUMBERS_MAX)
        check_secret("secret_key", self.secret_key_file, self.secret_key_env)
        check_at_most_one("callback_secret", self.callback_secret_file, self.callback_secret_env)
        for name in ("secret_id", "sdk_app_id", "region"):
            check_identifier(name, getattr(self, name))
        for category, template in self.templates.items():
            if set(template.params) != {str(place) for place in range(1, len(template.params) + 1)}:
                raise ValueError(f"params of template {category} are not named 1, 2, ...")


_HALF_MINUTE_S, _HALF_HOUR_S, _HOUR_S = 30.0, 1800.0, 3600.0
#: Timeouts may have been sent.
_MAYBE_SENT = Answer(Verdict.UNCERTAIN, scope=Scope.APP)
#: Code -> answer: every row of the sheet's section 7B.13.
ANSWERS: dict[str, Answer] = {
    "Ok": ACCEPTED,
    **dict.fromkeys(
        [
            "InvalidParameterValue.IncorrectPhoneNumber",
            *("FailedOperation.PhoneNumberInBlacklist", "FailedOperation.PhoneNumberOnBlacklist"),
        ],
        DEAD,
    ),
    **dict.fromkeys(
        [
            *("InvalidParameterValue.ContentLengthLimit", "InvalidParameterValue.TemplateParameterFormatError"),
            "InvalidParameterValue.TemplateParameterLengthLimit",
            "InvalidParameterValue.ProhibitedUseUrlInTemplateParameter",
            *("FailedOperation.JsonParseFail", "FailedOperation.FailResolvePacket"),
            "UnsupportedOperation.ContainDomesticAndInternationalPhoneNumber",
            *("UnsupportedOperation.UnsuportedRegion", "LimitExceeded.PhoneNumberCountLimit"),
            *("FailedOperation.SignatureIncorrectOrUnapproved", "FailedOperation.TemplateIncorrectOrUnapproved"),
            "FailedOperation.MissingSignature",
        ],
        PAYLOAD,
    ),
    "FailedOperation.ContainSensitiveWord": SENSITIVE,
    # not before 8 o'clock, of this message
    "FailedOperation.MarketingSendTimeConstraint": THROTTLED_DEVICE._replace(retry_after_s=_HALF_HOUR_S),
    "LimitExceeded.DeliveryFrequencyLimit": THROTTLED_DEVICE,
    "LimitExceeded.PhoneNumberThirtySecondLimit": THROTTLED_DEVICE._replace(retry_after_s=_HALF_MINUTE_S),
    "LimitExceeded.PhoneNumberOneHourLimit": THROTTLED_DEVICE._replace(retry_after_s=_HOUR_S),
    "RequestLimitExceeded": THROTTLED,
    **dict.fromkeys(["LimitExceeded.AppDailyLimit", "LimitExceeded.DailyLimit"], QUOTA_APP),
    **dict.fromkeys(
        ["LimitExceeded.PhoneNumberDailyLimit", "LimitExceeded.PhoneNumberSameContentDailyLimit"], QUOTA_DEVICE
    ),
    **dict.fromkeys(
        ["FailedOperation.InsufficientBalanceInSmsPackage", "InvalidParameterValue.SdkAppIdNotExist"], AUTH_CONFIG
    ),
    # our clock is more than ten minutes off
    "InternalError.RequestTimeException": AUTH_CONFIG,
    **dict.fromkeys(["InternalError.Timeout", "InternalError.SendAndRecvFail"], _MAYBE_SENT),
    **dict.fromkeys(["InternalError.OtherError", "InternalError.UnknownError", "FailedOperation.OtherError"], ERROR),
}
#: The rest by what stands before the dot.
FAMILIES: dict[str, Answer] = {
    **dict.fromkeys(["InvalidParameter", "InvalidParameterValue", "MissingParameter", "UnknownParameter"], PAYLOAD),
    "UnauthorizedOperation": APP_RIGHT,
    "AuthFailure": AUTH_CONFIG,
    "RequestLimitExceeded": THROTTLED,
}
#: Secret, time, body.
_SIGNED: SignedFields = ((Slot("authorization"),), (Slot("now_unix_s"),), (Slot("payload"),))
_RAW_REFUSED = ("PhoneNumberSet", "SmsSdkAppId", "SessionContext")
_NUMBERS = RowList("numbers", (b'"', Slot("token"), b'"'), b",")


class TencentSms(SmsBase[Settings]):
    """The vendor port for one SMS application (gateway/vendor.py)."""

    name: ClassVar[str] = "tencent_sms"
    #: Reports name `sid`, which is the number's SerialNo.
    keeps_own_ids: ClassVar[bool] = True
    shared_names: ClassVar[Names] = Names.ALL_BY_TOKEN

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # The whole header is the signature's: the date in its scope changes with the day.
        self._headers: tuple[tuple[bytes, TemplateParts], ...] = (
            (b"content-type", (CONTENT_TYPE.encode(),)),
            (b"x-tc-action", (ACTION.encode(),)),
            (b"x-tc-version", (VERSION.encode(),)),
            (b"x-tc-region", (settings.region.encode(),)),
            (b"x-tc-timestamp", (Slot("now_unix_s"),)),
            (b"authorization", (Slot("signature"),)),
        )

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name, _RAW_REFUSED)
        if isinstance(raw, Refusal):
            return raw
        message = self._message(variant, with_variables)
        if isinstance(message, Refusal):
            return message
        merge_patch(message, with_slots(raw, with_variables=with_variables))  # type: ignore[arg-type]  # a dict stays one
        if not message.get("TemplateId"):
            text = f"category {variant.category[:64]!r} has no template, and there is no default (tencent_sms)"
            return Refusal("category", text)
        one = msgspec.Raw(b"[" + slot_json("token") + b"]")
        many = msgspec.Raw(b"[" + slot_text("numbers") + b"]")
        own: Tree = {"SmsSdkAppId": self.settings.sdk_app_id, **message}
        single = _body({"PhoneNumberSet": one, **own, "SessionContext": slot_json("message_id")})
        listed = _body({"PhoneNumberSet": many, **own, "SessionContext": slot_json("address")})
        rows_max = self.settings.rows_per_request_max
        path: TemplateParts = (b"/",)
        shared = BulkTemplate(path, self._headers, listed, (_NUMBERS,), rows_max, signed=_SIGNED)
        return RequestTemplate(path, self._headers, single, signed=_SIGNED, shared=shared)

    def _message(self, variant: Variant, with_variables: bool) -> Tree | Refusal:
        message: Tree = {"SignName": self.settings.sign_name} if self.settings.sign_name else {}
        template = template_of(self.settings.templates, variant.category)
        if template is None:
            return message
        params: list[object] = []
        for place in range(1, len(template.params) + 1):
            value = parameter(template.params[str(place)], variant, with_variables=with_variables)
            if isinstance(value, Refusal):
                return value
            params.append(value)
        return message | {"TemplateId": template.id, "TemplateParamSet": params}

    def check_token(self, token: str) -> str:
        if not NUMBER_FORM.fullmatch(token):
            return "token is no telephone number in E.164 (+ and 7 to 15 digits)"
        if (MAINLAND_FORM.fullmatch(token) is not None) is not (self.settings.numbers == "mainland"):
            return f"token is no {self.settings.numbers} number"
        return ""

    def sign(self, fields: Sequence[Pieces], n: int) -> Piece:
        """The value of `authorization`."""
        secret, stamp, bodies = fields
        unix_s = int(constant_of(stamp))
        signatures = tc3_signatures(
            constant_of(secret),
            host=self._host,
            service=SERVICE,
            content_type=CONTENT_TYPE,
            unix_s=unix_s,
            bodies=join(bodies, 0, n),
        )
        scope = f"{self.settings.secret_id}/{tc3_date(unix_s)}/{SERVICE}/tc3_request"
        return fill((f"{TC3} Credential={scope}, SignedHeaders={TC3_SIGNED}, Signature=".encode(), signatures), 0, n)

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        told = self.judge(status, headers, body, is_distinct=False)
        return next(iter(told.by_token.values()), told.rest)

    def own_ids(self, body: bytes) -> Sequence[str]:
        listed = _response_in(body).get("SendStatusSet")
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        serials = [text_of(entry.get("SerialNo")) for entry in entries]
        return [serial for serial in serials if 0 < len(serial) <= OWN_ID_CHARACTERS_MAX]

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        response = _response_in(body)
        error = response.get("Error")
        if isinstance(error, dict) or status != 200:
            code = text_of(error.get("Code")) if isinstance(error, dict) else ""
            answer = _answer(code, status, headers)
            if answer.verdict is Verdict.ACCEPTED:
                answer = UNREADABLE
            elif answer.verdict is Verdict.TOKEN_DEAD:
                # It is about one number, and does not say which.
                answer = PAYLOAD._replace(name=answer.name)
            return BulkAnswer(answer)
        listed = response.get("SendStatusSet")
        if not isinstance(listed, list) or not listed:
            return BulkAnswer(UNREADABLE)
        told: dict[bytes, Answer] = {}
        for entry in listed:
            number = text_of(entry.get("PhoneNumber")) if isinstance(entry, dict) else ""
            code = text_of(entry.get("Code")) if isinstance(entry, dict) else ""
            if not number or not code:
                return BulkAnswer(UNREADABLE)
            told[number.encode("utf-8", "replace")] = _answer(code, status, headers)
        return BulkAnswer(ACCEPTED, told)


def _response_in(body: bytes) -> dict[str, object]:
    response = decode_object(body).get("Response")
    return response if isinstance(response, dict) else {}


def _answer(code: str, status: int, headers: Mapping[bytes, bytes]) -> Answer:
    answer = ANSWERS.get(code, FAMILIES.get(code.partition(".")[0]))
    name = code.replace(".", "_")
    if answer is None:
        if status != 200:
            return by_status_class(status, name, headers)
        return PAYLOAD._replace(name=counted_name(name, status), is_unknown=True) if code else UNREADABLE
    if answer is ACCEPTED:
        return answer if status == 200 else UNREADABLE
    wait_s = retry_after_s(headers)
    return answer._replace(
        name=counted_name(name, status), retry_after_s=answer.retry_after_s if wait_s is None else wait_s
    )


def _body(tree: Tree) -> TemplateParts:
    return parse_template(msgspec.json.encode(tree))


def secret_place(settings: Settings) -> SecretPlace:
    """Where the secret key is."""
    return SecretPlace(settings.secret_key_file, settings.secret_key_env)


def credential(settings: Settings, secret: bytes) -> StaticKey:
    """What requests are signed with. Raises ValueError for a secret of the wrong form."""
    return StaticKey(secret, what="a secret key")
