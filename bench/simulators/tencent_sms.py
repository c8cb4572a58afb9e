"""Tencent Cloud SMS (2021-01-11) as a judge: SendSms with TC3-HMAC-SHA256, and its status callback. No sockets.

Written from facts/vendors-china.md section 7B. Order of the checks: path, signature, time, action, JSON, numbers, app
id, sign name, template, its parameters, hours of marketing, then number by number with a code each.

A text is known to the template only: recorded as title is the sign name, as body the parameters joined by line feeds;
what names a row is SessionContext. The status callback does not echo it (the sheet's `ext` is no context): rows are
told by `sid`, which is the SerialNo of the answer.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from bench.simulators.config_base import Count
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import Check, each, parsed, record, text, to_json
from bench.simulators.push_api import (
    SHANGHAI_S,
    Kit,
    PushApi,
    PushSection,
    Refused,
    header_of,
    json_answer,
    new_id,
    path_of,
    refused_answer,
)
from bench.simulators.receipts import Callback, Due
from bench.simulators.received import Message
from bench.simulators.sms import URL_FORM, Frequency, mainland

VERSION, SERVICE, ALGORITHM = "2021-01-11", "sms", "TC3-HMAC-SHA256"
NUMBERS_MAX = 200
TIME_SKEW_S = 300.0
MARKETING_BEGINS_H, MARKETING_ENDS_H = 8, 22
SCHEME_FORM = re.compile(
    r"TC3-HMAC-SHA256 Credential=([^/,]+)/([0-9]{4}-[0-9]{2}-[0-9]{2})/([a-z]+)/tc3_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
NUMBER_FORM = re.compile(r"\+[1-9][0-9]{6,14}|1[3-9][0-9]{9}|0086[0-9]{11}")
TEXTS = {
    "InternalError.OtherError": "other error",
    "RequestLimitExceeded": "the frequency of requests is over the limit",
    "AuthFailure.SignatureFailure": "the signature is wrong",
}
REQUEST: Check = record(
    {
        "PhoneNumberSet": each(text(), 1_000_000, 1),
        "SmsSdkAppId": text(32, 1),
        "TemplateId": text(32, 1),
        "SignName": text(64),
        "TemplateParamSet": each(text(), 100),
        "ExtendCode": text(32),
        "SessionContext": text(512),
        "SenderId": text(32),
    },
    ["PhoneNumberSet", "SmsSdkAppId", "TemplateId"],
)


class TencentSmsSection(PushSection, frozen=True, kw_only=True):
    """The Tencent simulator. templates: id -> number of its parameters; empty = any id and number.

    marketing_templates: those sent between 8 and 22 hours only.
    """

    secret_id: str = "sim-tencent-secret-id"
    secret_key: str = "sim-tencent-secret-key"
    rate_per_s: float = 3_000.0
    sdk_app_id: str = "1400000000"
    sign_names: tuple[str, ...] = ("Demo",)
    templates: dict[str, int] = msgspec.field(default_factory=dict)
    marketing_templates: tuple[str, ...] = ()
    parameter_chars_max: Count = 12
    number_per_30_s: Count = 1
    number_per_hour: Count = 5
    number_per_day: Count = 10
    app_per_day: Count = 0
    balance: Count = 0


class TencentSms(PushApi):
    """Tencent's judgement; implements exchange.Vendor."""

    name = "tencent_sms"
    receipt_fates: ClassVar[Mapping[str, str]] = {"unreachable": "UNDELIV", "expired": "EXPIRED", "rejected": "REJECTD"}
    known_fates = frozenset({"FailedOperation.PhoneNumberInBlacklist"})
    events = ("DELIVRD", "", "")
    throttle_code = (200, "RequestLimitExceeded")
    fault_code = (200, "InternalError.OtherError")

    def __init__(self, section: TencentSmsSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self._frequency = Frequency(
            [
                ("LimitExceeded.PhoneNumberThirtySecondLimit", 30.0, section.number_per_30_s),
                ("LimitExceeded.PhoneNumberOneHourLimit", 3_600.0, section.number_per_hour),
                ("LimitExceeded.PhoneNumberDailyLimit", 86_400.0, section.number_per_day),
            ]
        )
        self._app = Frequency([("LimitExceeded.AppDailyLimit", 86_400.0, section.app_per_day)])
        self._n_sent = 0

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """The key signs each request."""
        section = self._section
        return {"secret_id": section.secret_id, "secret_key": section.secret_key, "sdk_app_id": section.sdk_app_id}

    def reset(self) -> None:
        """No number has had a text, the balance is whole."""
        super().reset()
        self._frequency.reset()
        self._app.reset()
        self._n_sent = 0

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`Response.Error`."""
        error = {"Code": refused.code, "Message": TEXTS.get(refused.code, refused.why)}
        return refused_answer(refused, {"Response": {"Error": error, "RequestId": str(uuid.uuid4())}})

    def answer_call(self, request: Request) -> Answer:
        """SendSms."""
        if path_of(request) != "/" or request.method != "POST":
            raise Refused("404", f"{request.method[:16]} {path_of(request)[:40]}", status=404)
        self._authorize(request)
        action, version = header_of(request, b"x-tc-action"), header_of(request, b"x-tc-version")
        if action != "SendSms":
            raise Refused("InvalidAction", f"X-TC-Action is {action[:40]!r}, expected SendSms")
        if version != VERSION:
            raise Refused("NoSuchVersion", f"X-TC-Version is {version[:20]!r}, expected {VERSION}")
        if not header_of(request, b"x-tc-region"):
            raise Refused("MissingParameter", "X-TC-Region is missing")
        value = self.read(request)
        self.pace(1)
        return self._take(value)

    def _authorize(self, request: Request) -> None:
        found = SCHEME_FORM.fullmatch(header_of(request, b"authorization"))
        if found is None:
            raise Refused("AuthFailure.SignatureFailure", "authorization has not the form of TC3-HMAC-SHA256")
        secret_id, date, service, signed, signature = found.groups()
        if secret_id != self._section.secret_id:
            raise Refused("AuthFailure.SecretIdNotFound", "the secret id is unknown")
        stamp = header_of(request, b"x-tc-timestamp")
        if not re.fullmatch(r"[0-9]{10}", stamp) or abs(int(stamp) - self.now) > TIME_SKEW_S:
            raise Refused("AuthFailure.SignatureExpire", f"X-TC-Timestamp is not within {TIME_SKEW_S:.0f} s of now")
        if date != utc_date(int(stamp)) or service != SERVICE:
            raise Refused("AuthFailure.SignatureFailure", "the scope is not the UTC date of the timestamp and sms")
        if not {"content-type", "host"} <= set(signed.split(";")):
            raise Refused("AuthFailure.SignatureFailure", "content-type and host are not signed")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        lowered = {name: value.lower() for name, value in headers.items()}  # as newer pages of Tencent want it
        key = self._section.secret_key
        if signature not in (
            signature_tc3(headers, signed, request.body, stamp, SERVICE, key),
            signature_tc3(lowered, signed, request.body, stamp, SERVICE, key),
        ):
            raise Refused("AuthFailure.SignatureFailure", "Signature is not that of this request")

    def read(self, request: Request) -> dict[str, Any]:
        """The request, checked; nothing has changed. Raises Refused."""
        section = self._section
        value = parsed(request.body)
        if not isinstance(value, dict):
            raise Refused("FailedOperation.JsonParseFail", "the body is not an object in JSON")
        fault = self.faults_of(REQUEST, value)
        if fault is not None:
            code = {"missing": "MissingParameter", "unknown": "UnknownParameter"}.get(fault.kind, "InvalidParameter")
            raise Refused(code, str(fault))
        numbers = value["PhoneNumberSet"]
        if len(numbers) > NUMBERS_MAX:
            raise Refused("LimitExceeded.PhoneNumberCountLimit", f"{len(numbers)} numbers, limit {NUMBERS_MAX}")
        homes = {mainland(number) is not None for number in numbers}
        if len(homes) > 1:
            raise Refused("UnsupportedOperation.ContainDomesticAndInternationalPhoneNumber", "numbers of both kinds")
        if value["SmsSdkAppId"] != section.sdk_app_id:
            raise Refused("InvalidParameterValue.SdkAppIdNotExist", "SmsSdkAppId is unknown")
        if True in homes and not value.get("SignName"):
            raise Refused("FailedOperation.MissingSignature", "SignName is missing for mainland numbers")
        if value.get("SignName") and value["SignName"] not in section.sign_names:
            raise Refused("FailedOperation.SignatureIncorrectOrUnapproved", "SignName is not approved")
        self._check_template(value["TemplateId"], value.get("TemplateParamSet", []))
        return value

    def _check_template(self, template: str, parameters: Sequence[str]) -> None:
        section = self._section
        count = section.templates.get(template)
        if count is None and section.templates:
            raise Refused("FailedOperation.TemplateIncorrectOrUnapproved", "TemplateId is not approved")
        if count is not None and count != len(parameters):
            why = f"{len(parameters)} parameters, expected {count}"
            raise Refused("InvalidParameterValue.TemplateParameterFormatError", why)
        for parameter in parameters:
            if len(parameter) > section.parameter_chars_max:
                why = f"a parameter has {len(parameter)} characters, limit {section.parameter_chars_max}"
                raise Refused("InvalidParameterValue.TemplateParameterLengthLimit", why)
            if URL_FORM.search(parameter):
                raise Refused("InvalidParameterValue.ProhibitedUseUrlInTemplateParameter", "a parameter holds a URL")
        hour = (self.now + SHANGHAI_S) % 86_400 / 3_600
        if template in section.marketing_templates and not MARKETING_BEGINS_H <= hour < MARKETING_ENDS_H:
            raise Refused("FailedOperation.MarketingSendTimeConstraint", "marketing goes out from 8 to 22 hours")

    def _take(self, value: Mapping[str, Any]) -> Answer:
        context, numbers = value.get("SessionContext", ""), value["PhoneNumberSet"]
        title, body = value.get("SignName", ""), "\n".join(value.get("TemplateParamSet", []))
        told, taken, reasons = [], list[Message](), dict[str, int]()
        dues: list[Due] = []
        for number in numbers:
            code = self._code_of(number)
            serial = f"2645:{new_id(12)}" if not code else ""
            told.append(
                {
                    "SerialNo": serial,
                    "PhoneNumber": number,
                    "Fee": 0 if code else 1,
                    "SessionContext": context,
                    "Code": code or "Ok",
                    "Message": code or "send success",
                    "IsoCode": "CN" if mainland(number) is not None else "",
                }
            )
            if code:
                reasons[code] = reasons.get(code, 0) + 1
                continue
            self._n_sent += 1
            taken += self.rows_of(context, "", [number], title, body, is_single=len(numbers) == 1)
            due = Due(self._section.receipts.callback_url, number, context, serial, "")
            dues += self.receipts_of(number, due)
        answer = {"Response": {"SendStatusSet": told, "RequestId": str(uuid.uuid4())}}
        return json_answer(200, answer, rows=tuple(taken), receipts=tuple(dues), row_reasons=reasons)

    def _code_of(self, number: str) -> str:
        """Why this number gets no text; empty when it gets one."""
        section = self._section
        if not NUMBER_FORM.fullmatch(number):
            return "InvalidParameterValue.IncorrectPhoneNumber"
        fate = self.sync_fate(number)
        if fate is not None:
            return fate.fate
        if section.balance and self._n_sent >= section.balance:
            return "FailedOperation.InsufficientBalanceInSmsPackage"
        return self._frequency.take(number, self.now) or self._app.take("", self.now)

    # ---- receipts

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """An array of statuses."""
        moment = datetime.datetime.fromtimestamp(self.now, datetime.UTC) + datetime.timedelta(hours=8)
        reports = []
        for due in dues:
            home = mainland(due.token)
            reports.append(
                {
                    "user_receive_time": moment.strftime("%Y-%m-%d %H:%M:%S"),
                    "nationcode": "86" if home is not None else "",
                    "mobile": home or due.token.removeprefix("+"),
                    "report_status": "SUCCESS" if due.event == "DELIVRD" else "FAIL",
                    "errmsg": due.event,
                    "description": "用户短信送达成功" if due.event == "DELIVRD" else due.event,
                    "sid": "0:forged" if due.is_forged else due.message_id,
                }
            )
        yield Callback(to_json(reports), (("content-type", "application/json"),), len(reports))

    def is_receipt_taken(self, status: int, body: bytes) -> bool:
        """200 with result 0."""
        value = parsed(body)
        return status == 200 and isinstance(value, dict) and value.get("result") == 0


def utc_date(unix_s: int) -> str:
    """YYYY-MM-DD."""
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime("%Y-%m-%d")


def signature_tc3(
    headers: Mapping[str, str], signed: str, body: bytes, stamp: str, service: str, secret_key: str
) -> str:
    """Lower hex of the signature of a POST to / without query; header values as they came, byte by byte."""
    lines = "".join(f"{name}:{headers.get(name, '').strip()}\n" for name in signed.split(";"))
    canonical = f"POST\n/\n\n{lines}\n{signed}\n{hashlib.sha256(body).hexdigest()}"
    date = utc_date(int(stamp))
    text_ = f"{ALGORITHM}\n{stamp}\n{date}/{service}/tc3_request\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"TC3{secret_key}".encode()
    for part in (date, service, "tc3_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text_.encode(), hashlib.sha256).hexdigest()
