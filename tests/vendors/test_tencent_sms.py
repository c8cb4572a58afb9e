"""Tencent Cloud SMS: the sheet's example byte for byte, signatures, a code for each number."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.content import Variant
from gateway.verdict import Scope, Verdict
from vendors.auth.request_hmac import tc3_signatures
from vendors.tencent_sms import ANSWERS, CONTENT_TYPE, FAMILIES, Settings, TencentSms
from vendors.text_template import TextTemplate

SETTINGS = Settings(
    secret_id="AKIDEXAMPLE",
    secret_key_file="s",
    sdk_app_id="1400000000",
    sign_name="Demo",
    templates={"default": TextTemplate(id="1234567", params={"1": "{{body}}"})},
)
VENDOR = TencentSms(SETTINGS)
NUMBER = "+8613800000000"


def check_signature(request: Any, secret: bytes) -> None:
    stamp = int(request.headers["x-tc-timestamp"])
    signature = tc3_signatures(
        secret,
        host="sms.tencentcloudapi.com",
        service="sms",
        content_type=CONTENT_TYPE,
        unix_s=stamp,
        bodies=[request.body],
    )
    assert request.headers["authorization"] == (
        "TC3-HMAC-SHA256 Credential=AKIDEXAMPLE/2025-11-21/sms/tc3_request, "
        f"SignedHeaders=content-type;host, Signature={signature.tobytes().decode()}"
    )


def test_the_example_of_the_sheet_comes_out_field_for_field(render: Callable[..., Any]) -> None:
    (request,) = render(VENDOR, Variant("t", "123456"), [NUMBER], authorization=b"DEMOSECRETKEY").requests
    body = json.loads(request.body)
    assert len(body.pop("SessionContext")) == 36
    assert body == {
        "PhoneNumberSet": [NUMBER],
        "SmsSdkAppId": "1400000000",
        "TemplateId": "1234567",
        "SignName": "Demo",
        "TemplateParamSet": ["123456"],
    }
    headers = dict(request.headers)
    check_signature(request, b"DEMOSECRETKEY")
    del headers["authorization"]
    assert headers == {
        "content-type": "application/json; charset=utf-8",
        "x-tc-action": "SendSms",
        "x-tc-version": "2021-01-11",
        "x-tc-region": "ap-guangzhou",
        "x-tc-timestamp": "1763700000",
    }


def test_one_text_goes_to_two_hundred_numbers_at_most(render: Callable[..., Any]) -> None:
    numbers = [f"+86138{index:08d}" for index in range(450)]
    made = render(VENDOR, Variant("t", "很长的一条短信内容超过了十二个字"), numbers, authorization=b"k")
    assert [len(request.rows) for request in made.requests] == [150, 150, 150]
    told: list[str] = []
    for request in made.requests:
        check_signature(request, b"k")
        body = json.loads(request.body)
        told += body["PhoneNumberSet"]
        assert body["TemplateParamSet"] == ["很长的一条短信内容超过…"]
    assert told == numbers


def test_different_texts_are_signed_one_by_one(render: Callable[..., Any]) -> None:
    made = render(VENDOR, Variant("t", "{{x}}"), [NUMBER, "+8613800000001"], variables={"x": ["a", 'b"']})
    for request in made.requests:
        check_signature(request, b"credential")
    assert [json.loads(request.body)["TemplateParamSet"] for request in made.requests] == [["a"], ['b"']]


def test_numbers_of_both_kinds_never_meet() -> None:
    abroad = TencentSms(msgspec.structs.replace(SETTINGS, numbers="international"))
    assert (VENDOR.check_token(NUMBER), abroad.check_token("+442071838750")) == ("", "")
    assert VENDOR.check_token("+442071838750") == "token is no mainland number"
    assert abroad.check_token(NUMBER) == "token is no international number"
    for number in ("13800000000", "+86 138", "+0123456789", ""):
        assert "E.164" in VENDOR.check_token(number)


def test_parameters_are_places_without_a_gap() -> None:
    table = {"secret_id": "a", "sdk_app_id": "1", "secret_key_file": "s"}
    with pytest.raises(msgspec.ValidationError, match="1, 2"):
        msgspec.convert(table | {"templates": {"default": {"id": "1", "params": {"2": "x"}}}}, Settings)


TABLE = """
ACCEPTED Ok
TOKEN_DEAD InvalidParameterValue.IncorrectPhoneNumber FailedOperation.PhoneNumberInBlacklist
TOKEN_DEAD FailedOperation.PhoneNumberOnBlacklist
REJECTED InvalidParameterValue.ContentLengthLimit InvalidParameterValue.TemplateParameterFormatError
REJECTED InvalidParameterValue.TemplateParameterLengthLimit FailedOperation.ContainSensitiveWord
REJECTED InvalidParameterValue.ProhibitedUseUrlInTemplateParameter FailedOperation.JsonParseFail
REJECTED FailedOperation.FailResolvePacket UnsupportedOperation.ContainDomesticAndInternationalPhoneNumber
REJECTED UnsupportedOperation.UnsuportedRegion LimitExceeded.PhoneNumberCountLimit
REJECTED FailedOperation.SignatureIncorrectOrUnapproved FailedOperation.TemplateIncorrectOrUnapproved
REJECTED FailedOperation.MissingSignature
THROTTLED FailedOperation.MarketingSendTimeConstraint LimitExceeded.DeliveryFrequencyLimit RequestLimitExceeded
THROTTLED LimitExceeded.PhoneNumberThirtySecondLimit LimitExceeded.PhoneNumberOneHourLimit
QUOTA LimitExceeded.AppDailyLimit LimitExceeded.DailyLimit LimitExceeded.PhoneNumberDailyLimit
QUOTA LimitExceeded.PhoneNumberSameContentDailyLimit
CREDENTIAL FailedOperation.InsufficientBalanceInSmsPackage InvalidParameterValue.SdkAppIdNotExist
CREDENTIAL InternalError.RequestTimeException
UNCERTAIN InternalError.Timeout InternalError.SendAndRecvFail
UNAVAILABLE InternalError.OtherError InternalError.UnknownError FailedOperation.OtherError
"""
BY_FAMILY = """
REJECTED InvalidParameter InvalidParameterValue MissingParameter UnknownParameter
CREDENTIAL UnauthorizedOperation AuthFailure
THROTTLED RequestLimitExceeded
"""


def of_number(code: str) -> bytes:
    return json.dumps({"Response": {"SendStatusSet": [{"PhoneNumber": NUMBER, "Code": code}]}}).encode()


def of_request(code: str) -> bytes:
    return json.dumps({"Response": {"Error": {"Code": code, "Message": ""}}}).encode()


def test_every_code_of_the_sheet_has_its_verdict() -> None:
    for table, answers, suffix in ((TABLE, ANSWERS, ""), (BY_FAMILY, FAMILIES, ".Something")):
        seen: set[str] = set()
        for line in table.strip().splitlines():
            verdict, *codes = line.split()
            seen |= set(codes)
            for code in codes:
                assert VENDOR.classify(200, {}, of_number(code + suffix)).verdict.name == verdict, code
                told = VENDOR.judge(200, {}, of_request(code + suffix), is_distinct=False)
                # Neither "dead" nor "Ok" of a whole request says for whom.
                expected = {"TOKEN_DEAD": "REJECTED", "ACCEPTED": "UNCERTAIN"}.get(verdict, verdict)
                assert told.rest.verdict.name == expected, code
        assert seen == set(answers)


def test_each_number_has_its_own_code() -> None:
    entries = [
        {"PhoneNumber": "+861", "Code": "Ok"},
        {"PhoneNumber": "+862", "Code": "FailedOperation.PhoneNumberInBlacklist"},
        {"PhoneNumber": "+863", "Code": "LimitExceeded.PhoneNumberDailyLimit"},
        {"PhoneNumber": "+864", "Code": "Brand.New"},
    ]
    told = VENDOR.judge(200, {}, json.dumps({"Response": {"SendStatusSet": entries}}).encode(), is_distinct=False)
    assert told.rest.verdict is Verdict.ACCEPTED
    assert {number: answer.verdict.name for number, answer in told.by_token.items()} == {
        b"+861": "ACCEPTED",
        b"+862": "TOKEN_DEAD",
        b"+863": "QUOTA",
        b"+864": "REJECTED",
    }
    assert told.by_token[b"+863"].scope is Scope.DEVICE
    assert told.by_token[b"+864"].is_unknown
    for nameless in ({"PhoneNumber": "+861"}, {"Code": "Ok"}, 7):
        body = json.dumps({"Response": {"SendStatusSet": [*entries, nameless]}}).encode()
        assert VENDOR.judge(200, {}, body, is_distinct=False).rest.verdict is Verdict.UNCERTAIN
