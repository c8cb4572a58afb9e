"""Aliyun SMS: the sheet's example, signatures as a server computes them, verdicts."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from gateway.content import Variant
from gateway.verdict import Scope, Verdict
from vendors.aliyun_sms import ANSWERS, AliyunSms, Settings
from vendors.text_template import TextTemplate

SETTINGS = Settings(
    access_key_id="testId",
    access_key_secret_file="s",
    sign_name="阿里云短信测试专用",
    templates={"default": TextTemplate(id="SMS_71390007", params={"customer": "{{body}}"})},
)
VENDOR = AliyunSms(SETTINGS)
NUMBER = "15300000001"


def form(body: bytes) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(body.decode("ascii"), strict_parsing=True).items()}


def check_signature(request: Any, secret: str) -> None:
    """The twin, from what a server reads."""
    headers = {"host": "dysmsapi.aliyuncs.com"} | request.headers
    scheme, _, signature = headers["authorization"].rpartition(",Signature=")
    names = scheme.rpartition("SignedHeaders=")[2]
    assert scheme.startswith("ACS3-HMAC-SHA256 Credential=testId,")
    content = hashlib.sha256(request.body).hexdigest()
    assert headers["x-acs-content-sha256"] == content
    lines = "".join(f"{name}:{headers[name]}\n" for name in names.split(";"))
    canonical = f"POST\n/\n\n{lines}\n{names}\n{content}"
    text = "ACS3-HMAC-SHA256\n" + hashlib.sha256(canonical.encode()).hexdigest()
    assert signature == hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def test_the_published_parameters_come_out_field_for_field(render: Callable[..., Any]) -> None:
    made = render(VENDOR, Variant("t", "test"), [NUMBER], authorization=b"testSecret")
    (request,) = made.requests
    fields = form(request.body)
    out_id = fields.pop("OutId")
    assert fields == {
        "PhoneNumbers": NUMBER,
        "SignName": "阿里云短信测试专用",
        "TemplateCode": "SMS_71390007",
        "TemplateParam": '{"customer":"test"}',
    }
    assert len(out_id) == 36
    check_signature(request, "testSecret")
    assert request.headers["x-acs-date"] == "2025-11-21T04:40:00Z"
    assert request.headers["x-acs-signature-nonce"].startswith(out_id)


@pytest.mark.parametrize(("rows_max", "sizes"), [(1, [1, 1, 1]), (1000, [3])])
def test_numbers_go_singly_unless_somebody_asks_for_lists(
    render: Callable[..., Any], rows_max: int, sizes: list[int]
) -> None:
    vendor = AliyunSms(msgspec.structs.replace(SETTINGS, rows_per_request_max=rows_max))
    numbers = [NUMBER, "+8615300000002", "008615300000003"]
    made = render(vendor, Variant("t", "b" * 40), numbers, authorization=b"s")
    assert [len(request.rows) for request in made.requests] == sizes
    told: list[str] = []
    for request in made.requests:
        check_signature(request, "s")
        told += form(request.body)["PhoneNumbers"].split(",")
        assert json.loads(form(request.body)["TemplateParam"]) == {"customer": "b" * 34 + "…"}
    assert sorted(told) == sorted(numbers)
    nonces = {request.headers["x-acs-signature-nonce"] for request in made.requests}
    assert len(nonces) == len(made.requests)


@pytest.mark.parametrize("several", [False, True])
def test_different_texts_are_signed_one_by_one(render: Callable[..., Any], several: bool) -> None:
    texts, numbers = ["a", 'b"&', "长" * 50], [NUMBER, "15300000002", "15300000003"]
    if several:
        made = render(VENDOR, [Variant("t", text) for text in texts], numbers, authorization=b"s")
    else:
        made = render(VENDOR, Variant("t", "{{x}}"), numbers, variables={"x": texts}, authorization=b"s")
    told = {}
    for request in made.requests:
        check_signature(request, "s")
        fields = form(request.body)
        told[fields["PhoneNumbers"]] = json.loads(fields["TemplateParam"])["customer"]
    assert told == dict(zip(numbers, ["a", 'b"&', "长" * 34 + "…"], strict=True))


def test_raw_chooses_template_and_parameters(render: Callable[..., Any]) -> None:
    raw = {"aliyun_sms": msgspec.Raw(b'{"TemplateCode":"SMS_9","TemplateParam":{"customer":null,"code":"{{c}}"}}')}
    made = render(VENDOR, Variant("t", "b", raw=raw), [NUMBER], variables={"c": ["123456"]})
    fields = form(made.requests[0].body)
    assert (fields["TemplateCode"], json.loads(fields["TemplateParam"])) == ("SMS_9", {"code": "123456"})
    made = render(VENDOR, Variant("t", "b", raw={"aliyun_sms": msgspec.Raw(b'{"PhoneNumbers":"1"}')}), [NUMBER])
    assert made.refused[0][1] == "raw"


def test_without_a_template_a_message_is_refused(render: Callable[..., Any]) -> None:
    bare = AliyunSms(msgspec.structs.replace(SETTINGS, templates={}))
    (refused,) = render(bare, Variant("t", "b", category="order"), [NUMBER]).refused
    assert refused[1:] == ("category", "category 'order' has no template, and there is no default (aliyun_sms)")


@pytest.mark.parametrize("number", ["", "12ab", "1380000000,1", "+86 138", "13800000000;", "1" * 30])
def test_what_is_no_number_is_no_target(number: str) -> None:
    assert "telephone number" in VENDOR.check_token(number)
    assert not number or number not in VENDOR.check_token(number)


TABLE = """
ACCEPTED OK
TOKEN_DEAD isv.MOBILE_NUMBER_ILLEGAL isv.DOMESTIC_NUMBER_NOT_SUPPORTED
REJECTED isv.MOBILE_COUNT_OVER_LIMIT isv.INVALID_PARAMETERS isv.INVALID_JSON_PARAM isv.TEMPLATE_MISSING_PARAMETERS
REJECTED isv.TEMPLATE_PARAMS_ILLEGAL isv.PARAM_LENGTH_LIMIT isv.PARAM_NOT_SUPPORT_URL isv.BLACK_KEY_CONTROL_LIMIT
REJECTED isv.SMS_TEMPLATE_ILLEGAL isv.SMS_SIGNATURE_ILLEGAL isv.SMS_SIGN_ILLEGAL
THROTTLED isv.BUSINESS_LIMIT_CONTROL Throttling.User Throttling
QUOTA isv.DAY_LIMIT_CONTROL isv.MONTH_LIMIT_CONTROL
CREDENTIAL isv.AMOUNT_NOT_ENOUGH isv.OUT_OF_SERVICE isv.ACCOUNT_ABNORMAL isv.ACCOUNT_NOT_EXISTS
CREDENTIAL isv.PRODUCT_UN_SUBSCRIPT isv.PRODUCT_UNSUBSCRIBE isv.DENY_IP_RANGE isp.RAM_PERMISSION_DENY
CREDENTIAL SignatureDoesNotMatch InvalidAccessKeyId.NotFound InvalidTimeStamp.Expired
UNAVAILABLE isp.SYSTEM_ERROR isp.UNKNOWN_ERR_CODE ServiceUnavailable SignatureNonceUsed
"""


def test_every_code_of_the_sheet_has_its_verdict(judged: Callable[..., Any]) -> None:
    found = judged(TABLE, lambda code: VENDOR.classify(200, {}, json.dumps({"Code": code}).encode()))
    assert set(found) == set(ANSWERS)
    assert all(answer.name == ("" if code == "OK" else code.replace(".", "_")) for code, answer in found.items())
    unknown = VENDOR.classify(200, {}, b'{"Code":"isv.NEW_ONE"}')
    assert (unknown.verdict, unknown.name, unknown.is_unknown) == (Verdict.REJECTED, "isv_NEW_ONE", True)


@pytest.mark.parametrize(
    ("message", "verdict", "wait_s"),
    [
        ("触发分钟级流控Permits:1", Verdict.THROTTLED, 60.0),
        ("触发小时级流控Permits:5", Verdict.THROTTLED, 3600.0),
        ("触发天级流控Permits:10", Verdict.QUOTA, None),
        ("?", Verdict.THROTTLED, 60.0),
    ],
)
def test_flow_control_says_how_long(message: str, verdict: Verdict, wait_s: float | None) -> None:
    body = json.dumps({"Code": "isv.BUSINESS_LIMIT_CONTROL", "Message": message}).encode()
    answer = VENDOR.classify(200, {}, body)
    assert (answer.verdict, answer.scope, answer.retry_after_s) == (verdict, Scope.DEVICE, wait_s)


def test_of_a_list_nobody_is_buried() -> None:
    told = VENDOR.judge(200, {}, b'{"Code":"isv.MOBILE_NUMBER_ILLEGAL"}', is_distinct=False)
    assert (told.rest.verdict, told.rest.name) == (Verdict.REJECTED, "isv_MOBILE_NUMBER_ILLEGAL")


def test_texts_that_differ_go_a_hundred_at_once_where_that_is_asked_for(render: Callable[..., Any]) -> None:
    own = AliyunSms(msgspec.structs.replace(SETTINGS, messages_per_request_max=100))
    numbers = [f"1530000{number:04d}" for number in range(150)]
    names = [f'王"{number}&' for number in range(150)]
    made = render(own, Variant("t", "{{x}}"), numbers, variables={"x": names}, authorization=b"testSecret")
    assert [len(request.rows) for request in made.requests] == [75, 75]
    found: list[tuple[str, str, str]] = []
    for request in made.requests:
        assert request.headers["x-acs-action"] == "SendBatchSms"
        check_signature(request, "testSecret")
        fields = form(request.body)
        assert fields["TemplateCode"] == "SMS_71390007"
        assert len(fields["OutId"]) == 46
        arrays = [json.loads(fields[name]) for name in ("PhoneNumberJson", "SignNameJson", "TemplateParamJson")]
        found += [(number, sign, params["customer"]) for number, sign, params in zip(*arrays, strict=True)]
    assert found == [(number, SETTINGS.sign_name, name) for number, name in zip(numbers, names, strict=True)]
    # One text for all of them still goes by SendSms where that takes many; alone a row goes singly.
    shared = AliyunSms(msgspec.structs.replace(own.settings, rows_per_request_max=1000))
    (request,) = render(shared, Variant("t", "b"), numbers).requests
    assert (request.headers["x-acs-action"], len(form(request.body)["PhoneNumbers"].split(","))) == ("SendSms", 150)
    (request,) = render(own, Variant("t", "{{x}}"), numbers[:1], variables={"x": ["a"]}).requests
    assert request.headers["x-acs-action"] == "SendSms"
    # One answer for all of them: it names nobody.
    body = b'{"Code":"isv.MOBILE_NUMBER_ILLEGAL","Message":"x"}'
    assert own.judge(400, {}, body, is_distinct=True).rest.verdict is Verdict.REJECTED
    with pytest.raises(ValueError, match="messages_per_request_max"):
        AliyunSms(Settings(access_key_id="i", access_key_secret_file="s", messages_per_request_max=101))
