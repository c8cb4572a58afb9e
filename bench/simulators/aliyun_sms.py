"""Alibaba Cloud SMS (Dysmsapi 2017-05-25) as a judge: SendSms and SendBatchSms, both signatures, SmsReport. No sockets.

Written from facts/vendors-china.md section 7A. Order of the checks: signature (version 1 in the parameters, version 3
in the headers), time, nonce, action, numbers, sign name, template, its variables, balance and frequency of a number.

A text is known to the template only: recorded as title is the sign name, as body TemplateParam as it came; what names
a row is OutId. Errors of access have statuses of their own (from memory: 400, 403, 404), all others come with 200.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import re
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import parse_qsl, quote

import msgspec

from bench.simulators.config_base import Count, Seconds
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import parsed, to_json
from bench.simulators.push_api import (
    FORM_TYPE,
    Kit,
    PushApi,
    PushSection,
    Refused,
    header_of,
    json_answer,
    media_type_of,
    new_id,
    path_of,
    query_of,
    refused_answer,
)
from bench.simulators.receipts import Callback, Due
from bench.simulators.received import Message
from bench.simulators.sms import URL_FORM, Frequency, is_number

VERSION = "2017-05-25"
NUMBERS_MAX, BATCH_MAX = 1_000, 100
OUT_ID_CHARS_MAX = 256
TIME_SKEW_S = 900.0
NONCES_MAX = 200_000
V3_SCHEME = "ACS3-HMAC-SHA256"
V3_FORM = re.compile(r"ACS3-HMAC-SHA256 Credential=([^,]+),\s*SignedHeaders=([a-z0-9;-]+),\s*Signature=([0-9a-f]{64})")
V3_NEEDED = frozenset(
    {"host", "x-acs-action", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce", "x-acs-version"}
)
STATUSES = {
    "SignatureDoesNotMatch": 400,
    "IncompleteSignature": 400,
    "InvalidTimeStamp.Expired": 400,
    "InvalidTimeStamp.Format": 400,
    "SignatureNonceUsed": 400,
    "InvalidAccessKeyId.NotFound": 404,
    "InvalidAction.NotFound": 404,
    "InvalidVersion": 400,
    "Throttling.User": 400,
    "ServiceUnavailable": 503,
}


class AliyunSmsSection(PushSection, frozen=True, kw_only=True):
    """The Aliyun simulator. templates: code -> names of its variables; empty = any code and names.

    otp_templates: those under the flow control of one-time passwords.
    """

    access_key_id: str = "sim-aliyun-key-id"
    access_key_secret: str = "sim-aliyun-key-secret"
    rate_per_s: float = 5_000.0
    sign_names: tuple[str, ...] = ("Demo",)
    templates: dict[str, list[str]] = msgspec.field(default_factory=dict)
    otp_templates: tuple[str, ...] = ()
    variable_chars_max: Count = 35
    otp_per_minute: Count = 1
    otp_per_hour: Count = 5
    otp_per_day: Count = 10
    balance: Count = 0
    nonce_life_s: Seconds = 900.0


class AliyunSms(PushApi):
    """Aliyun's judgement; implements exchange.Vendor."""

    name = "aliyun_sms"
    receipt_fates: ClassVar[Mapping[str, str]] = {
        "unreachable": "UNDELIV",
        "blacklisted": "BLACKLIST",
        "empty_number": "MK:0001",
    }
    known_fates = frozenset({"isv.MOBILE_NUMBER_ILLEGAL"})
    events = ("DELIVERED", "", "")
    throttle_code = (400, "Throttling.User")
    fault_code = (200, "isp.SYSTEM_ERROR")

    def __init__(self, section: AliyunSmsSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self._frequency = Frequency(
            [
                ("分钟", 60.0, section.otp_per_minute),
                ("小时", 3_600.0, section.otp_per_hour),
                ("天", 86_400.0, section.otp_per_day),
            ]
        )
        self._nonces: OrderedDict[str, float] = OrderedDict()
        self._n_sent = 0

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """The secret signs each request."""
        section = self._section
        return {"access_key_id": section.access_key_id, "access_key_secret": section.access_key_secret}

    def reset(self) -> None:
        """No nonce is known, no number has had a text, the balance is whole."""
        super().reset()
        self._frequency.reset()
        self._nonces.clear()
        self._n_sent = 0

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`Code`, `Message` and `RequestId`."""
        body = {"Code": refused.code, "Message": refused.text or refused.why, "RequestId": str(uuid.uuid4()).upper()}
        return refused_answer(refused, body, STATUSES.get(refused.code, 200))

    def answer_call(self, request: Request) -> Answer:
        """One of the two actions."""
        if path_of(request) != "/" or request.method not in ("GET", "POST"):
            raise Refused("InvalidAction.NotFound", f"{request.method[:16]} {path_of(request)[:40]}")
        parameters = self._parameters(request)
        is_v3 = header_of(request, b"authorization").startswith(V3_SCHEME)
        self.kit.n_seen["signature version 3" if is_v3 else "signature version 1"] += 1
        if is_v3:
            self._authorize_v3(request)
            action, version = header_of(request, b"x-acs-action"), header_of(request, b"x-acs-version")
        else:
            self._authorize_v1(request.method, parameters)
            action, version = parameters.get("Action", ""), parameters.get("Version", "")
        if version != VERSION:
            raise Refused("InvalidVersion", f"version is {version[:20]!r}, expected {VERSION}")
        if action not in ("SendSms", "SendBatchSms"):
            raise Refused("InvalidAction.NotFound", f"action {action[:40]!r} is not simulated")
        rows = self._read_single(parameters) if action == "SendSms" else self._read_batch(parameters)
        self.pace(1)
        return self._take(rows, parameters)

    def _parameters(self, request: Request) -> dict[str, str]:
        pairs = list(query_of(request).items())
        if media_type_of(request) == FORM_TYPE:
            pairs += parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)
        if len(dict(pairs)) != len(pairs):
            raise Refused("isv.INVALID_PARAMETERS", "a parameter is repeated")
        return dict(pairs)

    # ---- signatures

    def _authorize_v1(self, method: str, parameters: Mapping[str, str]) -> None:
        if parameters.get("AccessKeyId") != self._section.access_key_id:
            raise Refused("InvalidAccessKeyId.NotFound", "AccessKeyId is unknown")
        if parameters.get("SignatureMethod") != "HMAC-SHA1" or parameters.get("SignatureVersion") != "1.0":
            raise Refused("IncompleteSignature", "SignatureMethod or SignatureVersion is not HMAC-SHA1, 1.0")
        expected = signature_v1(method, parameters, self._section.access_key_secret)
        if parameters.get("Signature") != expected:
            raise Refused("SignatureDoesNotMatch", "Signature is not that of these parameters")
        self._check_time(parameters.get("Timestamp", ""))
        self._check_nonce(parameters.get("SignatureNonce", ""))

    def _authorize_v3(self, request: Request) -> None:
        found = V3_FORM.fullmatch(header_of(request, b"authorization"))
        if found is None:
            raise Refused("IncompleteSignature", "authorization has not the form of version 3")
        key_id, signed, signature = found.groups()
        if key_id != self._section.access_key_id:
            raise Refused("InvalidAccessKeyId.NotFound", "Credential is unknown")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        missing = V3_NEEDED - set(signed.split(";"))
        if missing:
            raise Refused("IncompleteSignature", f"not signed: {', '.join(sorted(missing))}")
        body_hash = hashlib.sha256(request.body).hexdigest()
        if headers.get("x-acs-content-sha256") != body_hash:
            raise Refused("SignatureDoesNotMatch", "x-acs-content-sha256 is not that of the body")
        query = request.path.partition("?")[2]
        if signature != signature_v3(
            request.method, query, headers, signed, body_hash, self._section.access_key_secret
        ):
            raise Refused("SignatureDoesNotMatch", "Signature is not that of this request")
        self._check_time(headers["x-acs-date"])
        self._check_nonce(headers["x-acs-signature-nonce"])

    def _check_time(self, value: str) -> None:
        try:
            sent = datetime.datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
        except ValueError:
            raise Refused(
                "InvalidTimeStamp.Format", f"the time is {value[:30]!r}, expected YYYY-MM-DDThh:mm:ssZ"
            ) from None
        if abs(sent.timestamp() - self.now) > TIME_SKEW_S:
            raise Refused("InvalidTimeStamp.Expired", f"the time is more than {TIME_SKEW_S:.0f} s off")

    def _check_nonce(self, nonce: str) -> None:
        if not nonce or self._nonces.get(nonce, 0.0) > self.now:
            raise Refused("SignatureNonceUsed", "the nonce is empty or was used before")
        self._nonces[nonce] = self.now + self._section.nonce_life_s
        if len(self._nonces) > NONCES_MAX:
            self._nonces.popitem(last=False)

    # ---- texts

    def _read_single(self, parameters: Mapping[str, str]) -> list[tuple[str, str, str]]:
        """(number, sign name, TemplateParam) of each row, checked. Raises Refused."""
        numbers = parameters.get("PhoneNumbers", "").split(",")
        if len(numbers) > NUMBERS_MAX:
            raise Refused("isv.MOBILE_COUNT_OVER_LIMIT", f"{len(numbers)} numbers, limit {NUMBERS_MAX}")
        sign, values = parameters.get("SignName", ""), parameters.get("TemplateParam", "")
        rows = [(number, sign, values) for number in numbers]
        self._check_rows(rows[:1], parameters.get("TemplateCode", ""))
        self._check_rows(rows, parameters.get("TemplateCode", ""), numbers_only=True)
        return rows

    def _read_batch(self, parameters: Mapping[str, str]) -> list[tuple[str, str, str]]:
        lists = [parsed(parameters.get(name, "")) for name in ("PhoneNumberJson", "SignNameJson", "TemplateParamJson")]
        if lists[2] is None and "TemplateParamJson" not in parameters and isinstance(lists[0], list):
            lists[2] = [{}] * len(lists[0])
        if not all(isinstance(one, list) for one in lists):
            raise Refused(
                "isv.INVALID_JSON_PARAM", "PhoneNumberJson, SignNameJson or TemplateParamJson is no list in JSON"
            )
        numbers, signs, values = lists
        if len(numbers) > BATCH_MAX:
            raise Refused("isv.MOBILE_COUNT_OVER_LIMIT", f"{len(numbers)} numbers, limit {BATCH_MAX}")
        if not len(numbers) == len(signs) == len(values):
            raise Refused("isv.INVALID_PARAMETERS", "the three lists have different lengths")
        texts = [one if isinstance(one, str) else to_json(one).decode() for one in values]
        rows = [(str(number), str(sign), text) for number, sign, text in zip(numbers, signs, texts, strict=True)]
        self._check_rows(rows, parameters.get("TemplateCode", ""))
        return rows

    def _check_rows(self, rows: Sequence[tuple[str, str, str]], template: str, *, numbers_only: bool = False) -> None:
        for number, sign, values in rows:
            fate = self.sync_fate(number)
            if not is_number(number) or fate is not None:
                raise Refused("isv.MOBILE_NUMBER_ILLEGAL", "a number is malformed or dead")
            if numbers_only:
                continue
            if sign not in self._section.sign_names:
                raise Refused("isv.SMS_SIGNATURE_ILLEGAL", "SignName is missing or not approved")
            self._check_template(template, values)

    def _check_template(self, template: str, values: str) -> None:
        names = self._section.templates.get(template)
        if not template or (names is None and self._section.templates):
            raise Refused("isv.SMS_TEMPLATE_ILLEGAL", "TemplateCode is missing or not approved")
        given = parsed(values) if values else {}
        if not isinstance(given, dict):
            raise Refused("isv.INVALID_JSON_PARAM", "TemplateParam is no object in JSON")
        if names is not None and not set(names) <= set(given):
            raise Refused("isv.TEMPLATE_MISSING_PARAMETERS", f"missing: {', '.join(sorted(set(names) - set(given)))}")
        for name, value in given.items():
            if not isinstance(value, str):
                raise Refused("isv.TEMPLATE_PARAMS_ILLEGAL", f"{name[:40]} is no text")
            if len(value) > self._section.variable_chars_max:
                raise Refused(
                    "isv.PARAM_LENGTH_LIMIT", f"{name[:40]} has more than {self._section.variable_chars_max} characters"
                )
            if URL_FORM.search(value):
                raise Refused("isv.PARAM_NOT_SUPPORT_URL", f"{name[:40]} holds a URL")

    def _take(self, rows: Sequence[tuple[str, str, str]], parameters: Mapping[str, str]) -> Answer:
        section = self._section
        out_id = parameters.get("OutId", "")
        if len(out_id) > OUT_ID_CHARS_MAX:
            raise Refused("isv.INVALID_PARAMETERS", f"OutId has more than {OUT_ID_CHARS_MAX} characters")
        if section.balance and self._n_sent + len(rows) > section.balance:
            raise Refused("isv.AMOUNT_NOT_ENOUGH", f"the balance was {section.balance} texts")
        if parameters.get("TemplateCode") in section.otp_templates:
            for number, sign, _ in rows:
                full = self._frequency.take(f"{sign} {number}", self.now)
                if full:
                    raise Refused("isv.BUSINESS_LIMIT_CONTROL", "too often to one number", text=f"触发{full}级流控")
        self._n_sent += len(rows)
        biz_id = f"{new_id(18)}^0"
        taken: list[Message] = []
        dues: list[Due] = []
        for number, sign, values in rows:
            taken += self.rows_of(out_id, values, [number], sign, values, is_single=len(rows) == 1)
            dues += self.receipts_of(number, Due(section.receipts.callback_url, number, out_id, biz_id, ""))
        body = {"Code": "OK", "Message": "OK", "BizId": biz_id, "RequestId": str(uuid.uuid4()).upper()}
        return json_answer(200, body, rows=tuple(taken), receipts=tuple(dues))

    # ---- receipts

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """SmsReport, an array."""
        moment = datetime.datetime.fromtimestamp(self.now, datetime.UTC) + datetime.timedelta(hours=8)
        stamp = moment.strftime("%Y-%m-%d %H:%M:%S")
        reports = [
            {
                "phone_number": due.token,
                "send_time": stamp,
                "report_time": stamp,
                "success": due.event == "DELIVERED",
                "err_code": due.event,
                "err_msg": "用户接收成功" if due.event == "DELIVERED" else due.event,
                "sms_size": "1",
                "biz_id": due.message_id,
                "out_id": due.reference,
            }
            for due in dues
        ]
        yield Callback(to_json(reports), (("content-type", "application/json"),), len(reports))

    def is_receipt_taken(self, status: int, body: bytes) -> bool:
        """200 with code 0."""
        value = parsed(body)
        return status == 200 and isinstance(value, dict) and value.get("code") == 0


def signature_v1(method: str, parameters: Mapping[str, str], secret: str) -> str:
    """Base64 of HMAC-SHA1 over the method and the sorted parameters without Signature."""
    pairs = sorted((key, value) for key, value in parameters.items() if key != "Signature")
    query = "&".join(f"{_quoted(key)}={_quoted(value)}" for key, value in pairs)
    text = f"{method}&%2F&{_quoted(query)}"
    return base64.b64encode(hmac.new(f"{secret}&".encode(), text.encode(), hashlib.sha1).digest()).decode()


def signature_v3(method: str, query: str, headers: Mapping[str, str], signed: str, body_hash: str, secret: str) -> str:
    """Lower hex of HMAC-SHA256 over the canonical request."""
    pairs = sorted(parse_qsl(query, keep_blank_values=True))
    canonical_query = "&".join(f"{_quoted(key)}={_quoted(value)}" for key, value in pairs)
    lines = "".join(f"{name}:{headers.get(name, '').strip()}\n" for name in signed.split(";"))
    canonical = f"{method}\n/\n{canonical_query}\n{lines}\n{signed}\n{body_hash}"
    text = f"{V3_SCHEME}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def _quoted(value: str) -> str:
    return quote(value, safe="-_.~")
