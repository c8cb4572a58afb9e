"""The judges of Aliyun and Tencent SMS: published signatures, the examples of the fact sheet, refusals, reports."""

from __future__ import annotations

import datetime
import hashlib
import json
import uuid
from urllib.parse import urlencode

import pytest

from bench.simulators.aliyun_sms import signature_v1, signature_v3
from bench.simulators.sms import is_number, mainland
from bench.simulators.tencent_sms import signature_tc3, utc_date

NUMBER = "15300000001"


# ---- numbers


@pytest.mark.parametrize("number", ["13800000000", "+8613800000000", "008613800000000", "8613800000000"])
def test_mainland_numbers_have_many_spellings(number):
    assert mainland(number) == "13800000000"
    assert is_number(number)


@pytest.mark.parametrize("number", ["", "12800000000", "1380000000", "+86138000000000", "abc", "0"])
def test_other_texts_are_no_mainland_number(number):
    assert mainland(number) is None


# ---- Aliyun


def _aliyun_time(aliyun):
    return datetime.datetime.fromtimestamp(aliyun.clock.now_unix_s(), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _v1(aliyun, action="SendSms", *, method="GET", **changes):
    form = {
        "AccessKeyId": aliyun.known["access_key_id"],
        "Action": action,
        "Version": "2017-05-25",
        "Format": "JSON",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureVersion": "1.0",
        "SignatureNonce": str(uuid.uuid4()),
        "Timestamp": _aliyun_time(aliyun),
        "PhoneNumbers": NUMBER,
        "SignName": "Demo",
        "TemplateCode": "SMS_71390007",
        "TemplateParam": '{"customer":"test"}',
        "OutId": "123",
    } | changes
    form = {key: value for key, value in form.items() if value is not None}
    form.setdefault("Signature", signature_v1(method, form, aliyun.known["access_key_secret"]))
    if method == "GET":
        return aliyun.ask(f"/?{urlencode(form)}", method="GET", content_type="")
    return aliyun.ask("/", list(form.items()))


def _v3(aliyun, **changes):
    query = urlencode({"PhoneNumbers": NUMBER, "SignName": "Demo", "TemplateCode": "SMS_1"})
    headers = {
        "host": "dysmsapi.aliyuncs.com",
        "x-acs-action": "SendSms",
        "x-acs-version": "2017-05-25",
        "x-acs-date": _aliyun_time(aliyun),
        "x-acs-signature-nonce": str(uuid.uuid4()),
        "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(),
    } | changes
    signed = ";".join(sorted(headers))
    signature = signature_v3(
        "POST", query, headers, signed, headers["x-acs-content-sha256"], aliyun.known["access_key_secret"]
    )
    scheme = f"ACS3-HMAC-SHA256 Credential={aliyun.known['access_key_id']},SignedHeaders={signed},Signature={signature}"
    sent = {name.replace("-", "_"): value for name, value in headers.items()}
    return aliyun.ask(f"/?{query}", method="POST", content_type="", authorization=scheme, **sent)


def _code(answer):
    return json.loads(answer.body)["Code"]


def test_aliyun_signatures_are_those_published():
    regions = {
        "AccessKeyId": "testid",
        "Action": "DescribeRegions",
        "Format": "XML",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
        "SignatureVersion": "1.0",
        "Timestamp": "2016-02-23T12:46:24Z",
        "Version": "2014-05-26",
    }
    assert signature_v1("GET", regions, "testsecret") == "OLeaidS1JvxuMvnyHOwuJ+uX5qY="
    sms = {
        "AccessKeyId": "testId",
        "Action": "SendSms",
        "Format": "XML",
        "OutId": "123",
        "PhoneNumbers": "15300000001",
        "RegionId": "cn-hangzhou",
        "SignName": "阿里云短信测试专用",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": "45e25e9b-0a6f-4070-8c85-2956eda1b466",
        "SignatureVersion": "1.0",
        "TemplateCode": "SMS_71390007",
        "TemplateParam": '{"customer":"test"}',
        "Timestamp": "2017-07-12T02:42:19Z",
        "Version": "2017-05-25",
    }
    assert signature_v1("GET", sms, "testSecret") == "zJDF+Lrzhj/ThnlvIToysFRq6t4="
    empty = hashlib.sha256(b"").hexdigest()
    headers = {
        "host": "ecs.cn-shanghai.aliyuncs.com",
        "x-acs-action": "RunInstances",
        "x-acs-content-sha256": empty,
        "x-acs-date": "2023-10-26T10:22:32Z",
        "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
        "x-acs-version": "2014-05-26",
    }
    query = "ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai"
    found = signature_v3("POST", query, headers, ";".join(sorted(headers)), empty, "YourAccessKeySecret")
    assert found == "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_aliyun_accepts_a_text_signed_in_the_parameters(judge, method):
    aliyun = judge("aliyun_sms", receipts={"callback_url": "http://x"})
    answer = _v1(aliyun, method=method)
    said = json.loads(answer.body)
    assert (answer.status, said["Code"], said["Message"]) == (200, "OK", "OK")
    assert said["BizId"].endswith("^0")
    [row] = answer.rows
    assert (row.token, row.title, row.body, row.reference) == (NUMBER, "Demo", '{"customer":"test"}', "123")
    assert aliyun.seen == {"signature version 1": 1}


def test_aliyun_accepts_a_text_signed_in_the_headers(judge):
    aliyun = judge("aliyun_sms")
    assert _code(_v3(aliyun)) == "OK"
    assert _code(_v3(aliyun, **{"x-acs-content-sha256": "0" * 64})) == "SignatureDoesNotMatch"
    assert _code(_v3(aliyun, **{"x-acs-action": "SendMms"})) == "InvalidAction.NotFound"
    assert aliyun.seen == {"signature version 3": 3}


ALIYUN_FAULTS = {
    "another key": ({"AccessKeyId": "x"}, "InvalidAccessKeyId.NotFound"),
    "wrong signature": ({"Signature": "x"}, "SignatureDoesNotMatch"),
    "another method": ({"SignatureMethod": "HMAC-SHA256"}, "IncompleteSignature"),
    "no nonce": ({"SignatureNonce": ""}, "SignatureNonceUsed"),
    "time format": ({"Timestamp": "2025-11-21 04:00:00"}, "InvalidTimeStamp.Format"),
    "time off": ({"Timestamp": "2025-11-21T05:00:00Z"}, "InvalidTimeStamp.Expired"),
    "version": ({"Version": "2016-01-01"}, "InvalidVersion"),
    "action": ({"action": "QueryX"}, "InvalidAction.NotFound"),
    "number": ({"PhoneNumbers": "12"}, "isv.MOBILE_NUMBER_ILLEGAL"),
    "1001 numbers": ({"PhoneNumbers": ",".join([NUMBER] * 1_001)}, "isv.MOBILE_COUNT_OVER_LIMIT"),
    "sign name": ({"SignName": "Other"}, "isv.SMS_SIGNATURE_ILLEGAL"),
    "template": ({"TemplateCode": "SMS_2"}, "isv.SMS_TEMPLATE_ILLEGAL"),
    "variable missing": ({"TemplateParam": "{}"}, "isv.TEMPLATE_MISSING_PARAMETERS"),
    "variable of a number": ({"TemplateParam": '{"customer":1}'}, "isv.TEMPLATE_PARAMS_ILLEGAL"),
    "variable too long": ({"TemplateParam": json.dumps({"customer": "x" * 36})}, "isv.PARAM_LENGTH_LIMIT"),
    "variable with a url": ({"TemplateParam": '{"customer":"http://x"}'}, "isv.PARAM_NOT_SUPPORT_URL"),
    "no json": ({"TemplateParam": "x"}, "isv.INVALID_JSON_PARAM"),
    "out id": ({"OutId": "x" * 257}, "isv.INVALID_PARAMETERS"),
}


@pytest.mark.parametrize("case", ALIYUN_FAULTS)
def test_aliyun_refuses(judge, case):
    changes, code = ALIYUN_FAULTS[case]
    answer = _v1(judge("aliyun_sms", templates={"SMS_71390007": ["customer"]}), **changes)
    assert (_code(answer), answer.rows) == (code, ())
    assert (answer.status == 200) == code.startswith("isv.")


def test_aliyun_takes_a_nonce_once(judge):
    aliyun = judge("aliyun_sms")
    assert [_code(_v1(aliyun, SignatureNonce="n")) for _ in range(2)] == ["OK", "SignatureNonceUsed"]


def test_aliyun_sends_a_batch_with_texts_of_their_own(judge):
    aliyun = judge("aliyun_sms")
    lists = {
        "PhoneNumberJson": json.dumps(["15300000001", "15300000002"]),
        "SignNameJson": '["Demo","Demo"]',
        "TemplateParamJson": '[{"customer":"a"},{"customer":"b"}]',
        **dict.fromkeys(("PhoneNumbers", "SignName", "TemplateParam")),
    }
    answer = _v1(aliyun, "SendBatchSms", method="POST", **lists)
    assert _code(answer) == "OK"
    assert [(row.token, row.body) for row in answer.rows] == [
        ("15300000001", '{"customer":"a"}'),
        ("15300000002", '{"customer":"b"}'),
    ]
    assert len({row.message_id for row in answer.rows}) == 2
    uneven = lists | {"SignNameJson": '["Demo"]'}
    assert _code(_v1(aliyun, "SendBatchSms", method="POST", **uneven)) == "isv.INVALID_PARAMETERS"


def test_aliyun_one_time_passwords_have_a_flow_control_and_texts_a_balance(judge):
    aliyun = judge("aliyun_sms", otp_templates=["SMS_71390007"], balance=4)
    said = [json.loads(_v1(aliyun).body) for _ in range(2)]
    assert (said[1]["Code"], said[1]["Message"]) == ("isv.BUSINESS_LIMIT_CONTROL", "触发分钟级流控")
    assert _code(_v1(aliyun, PhoneNumbers="15300000002")) == "OK"
    assert _code(_v1(aliyun, TemplateCode="SMS_2")) == "OK"
    aliyun.clock.advance(60)
    assert [_code(_v1(aliyun)), _code(_v1(aliyun, TemplateCode="SMS_2"))] == ["OK", "isv.AMOUNT_NOT_ENOUGH"]


def test_aliyun_reports_are_an_array_and_want_code_0(judge):
    fates = [{"fate": "unreachable", "tokens": ["15300000002"]}]
    aliyun = judge("aliyun_sms", receipts={"callback_url": "http://x"}, fates=fates)
    answer = _v1(aliyun, PhoneNumbers="15300000001,15300000002")
    [callback] = aliyun.vendor.callbacks(answer.receipts)
    first, second = json.loads(callback.body)
    assert (first["phone_number"], first["success"], first["err_code"]) == (NUMBER, True, "DELIVERED")
    assert (second["success"], second["err_code"], second["out_id"]) == (False, "UNDELIV", "123")
    assert first["biz_id"] == json.loads(answer.body)["BizId"]
    assert aliyun.vendor.is_receipt_taken(200, b'{"code":0,"msg":"ok"}')
    assert not aliyun.vendor.is_receipt_taken(200, b'{"code":1}')


# ---- Tencent

SMS = {
    "PhoneNumberSet": ["+8613800000000"],
    "SmsSdkAppId": "1400000000",
    "TemplateId": "1234567",
    "SignName": "Demo",
    "TemplateParamSet": ["123456"],
}


def _tencent(tencent, *, signed="content-type;host", key=None, age_s=0, headers=(), **changes):
    fields = {key_: value for key_, value in (SMS | changes).items() if value is not None}
    body = json.dumps(fields).encode()
    stamp = str(int(tencent.clock.now_unix_s()) - age_s)
    sent = {"content-type": "application/json; charset=utf-8", "host": "sms.tencentcloudapi.com"}
    sent |= {"x-tc-action": "SendSms", "x-tc-version": "2021-01-11", "x-tc-timestamp": stamp}
    sent |= {"x-tc-region": "ap-guangzhou"} | dict(headers)
    signature = signature_tc3(sent, signed, body, stamp, "sms", key or tencent.known["secret_key"])
    scope = f"{tencent.known['secret_id']}/{utc_date(int(stamp))}/sms/tc3_request"
    scheme = f"TC3-HMAC-SHA256 Credential={scope}, SignedHeaders={signed}, Signature={signature}"
    return tencent.ask("/", body, authorization=scheme, **{name.replace("-", "_"): text for name, text in sent.items()})


def _error(answer):
    return json.loads(answer.body)["Response"]["Error"]["Code"]


def _statuses(answer):
    return [one["Code"] for one in json.loads(answer.body)["Response"]["SendStatusSet"]]


def test_tencent_signatures_are_those_published():
    body = b'{"Limit": 1, "Filters": [{"Values": ["\\u672a\\u547d\\u540d"], "Name": "instance-name"}]}'
    headers = {"content-type": "application/json; charset=utf-8", "host": "cvm.tencentcloudapi.com"}
    key = "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE"
    found = signature_tc3(headers, "content-type;host", body, "1551113065", "cvm", key)
    assert found == "72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168"
    body = json.dumps(SMS, separators=(",", ":")).encode()
    headers["host"] = "sms.tencentcloudapi.com"
    found = signature_tc3(headers, "content-type;host", body, "1700000000", "sms", "DEMOSECRETKEY")
    assert found == "3378749cb4bef20a13301f1f10473ece0a367a627d0f8cc33dfedbea59c72f8d"


def test_tencent_accepts_the_example(judge):
    tencent = judge("tencent_sms")
    answer = _tencent(tencent, SessionContext="ctx")
    [status] = json.loads(answer.body)["Response"]["SendStatusSet"]
    assert (status["Code"], status["Message"], status["Fee"], status["IsoCode"]) == ("Ok", "send success", 1, "CN")
    assert status["SessionContext"] == "ctx"
    [row] = answer.rows
    assert (row.token, row.title, row.body, row.reference) == ("+8613800000000", "Demo", "123456", "ctx")


TENCENT_FAULTS = {
    "another key": ({"key": "x"}, "AuthFailure.SignatureFailure"),
    "host not signed": ({"signed": "content-type"}, "AuthFailure.SignatureFailure"),
    "six minutes old": ({"age_s": 360}, "AuthFailure.SignatureExpire"),
    "action": ({"headers": [("x-tc-action", "SendMms")]}, "InvalidAction"),
    "version": ({"headers": [("x-tc-version", "2019-07-11")]}, "NoSuchVersion"),
    "no numbers": ({"PhoneNumberSet": []}, "InvalidParameter"),
    "201 numbers": ({"PhoneNumberSet": ["+8613800000000"] * 201}, "LimitExceeded.PhoneNumberCountLimit"),
    "both kinds": (
        {"PhoneNumberSet": ["+8613800000000", "+12025550100"]},
        "UnsupportedOperation.ContainDomesticAndInternationalPhoneNumber",
    ),
    "app id": ({"SmsSdkAppId": "1"}, "InvalidParameterValue.SdkAppIdNotExist"),
    "no sign name": ({"SignName": None}, "FailedOperation.MissingSignature"),
    "sign name": ({"SignName": "Other"}, "FailedOperation.SignatureIncorrectOrUnapproved"),
    "template": ({"TemplateId": "1"}, "FailedOperation.TemplateIncorrectOrUnapproved"),
    "parameters": ({"TemplateParamSet": []}, "InvalidParameterValue.TemplateParameterFormatError"),
    "parameter too long": ({"TemplateParamSet": ["x" * 13]}, "InvalidParameterValue.TemplateParameterLengthLimit"),
    "url": ({"TemplateParamSet": ["http://x"]}, "InvalidParameterValue.ProhibitedUseUrlInTemplateParameter"),
    "no template": ({"TemplateId": None}, "MissingParameter"),
    "unknown field": ({"Colour": "x"}, "UnknownParameter"),
}


@pytest.mark.parametrize("case", TENCENT_FAULTS)
def test_tencent_refuses(judge, case):
    changes, code = TENCENT_FAULTS[case]
    answer = _tencent(judge("tencent_sms", templates={"1234567": 1}), **changes)
    assert (answer.status, _error(answer), answer.rows) == (200, code, ())


def test_tencent_answers_number_by_number(judge):
    fates = [{"fate": "FailedOperation.PhoneNumberInBlacklist", "tokens": ["+8613800000001"]}]
    tencent = judge("tencent_sms", fates=fates)
    numbers = ["+8613800000000", "+8613800000001", "+8612", "+8613800000000"]
    answer = _tencent(tencent, PhoneNumberSet=[numbers[0], numbers[1], numbers[3]])
    assert _statuses(answer) == [
        "Ok",
        "FailedOperation.PhoneNumberInBlacklist",
        "LimitExceeded.PhoneNumberThirtySecondLimit",
    ]
    assert len(answer.rows) == 1
    tencent.clock.advance(30)
    assert _statuses(_tencent(tencent)) == ["Ok"]
    assert _statuses(_tencent(tencent, PhoneNumberSet=["+86"])) == ["InvalidParameterValue.IncorrectPhoneNumber"]


def test_tencent_has_hours_for_marketing_and_a_balance(judge):
    tencent = judge("tencent_sms", marketing_templates=["1234567"], balance=1)
    assert _statuses(_tencent(tencent)) == ["Ok"]
    assert _statuses(_tencent(tencent)) == ["FailedOperation.InsufficientBalanceInSmsPackage"]
    tencent.clock.advance(10 * 3600)
    assert _error(_tencent(tencent)) == "FailedOperation.MarketingSendTimeConstraint"


def test_tencent_reports_name_the_serial_number_and_want_result_0(judge):
    tencent = judge("tencent_sms", receipts={"callback_url": "http://x"})
    answer = _tencent(tencent)
    [callback] = tencent.vendor.callbacks(answer.receipts)
    [report] = json.loads(callback.body)
    serial = json.loads(answer.body)["Response"]["SendStatusSet"][0]["SerialNo"]
    assert (report["sid"], report["mobile"], report["nationcode"]) == (serial, "13800000000", "86")
    assert (report["report_status"], report["errmsg"]) == ("SUCCESS", "DELIVRD")
    assert tencent.vendor.is_receipt_taken(200, b'{"result":0,"errmsg":"OK"}')
    assert not tencent.vendor.is_receipt_taken(200, b"")
