"""Signatures of requests: the published vectors of facts/vendors-china.md section 10, and plain twins."""

from __future__ import annotations

import hashlib
import hmac

from vendors.auth.request_hmac import acs3_signature, tc3_date, tc3_signature, webhook_signature

CVM = (
    b'{"Limit": 1, "Filters": [{"Values": ["\\u672a\\u547d\\u540d"], "Name": "instance-name"}]}'  # as Tencent prints it
)
SMS = (
    b'{"PhoneNumberSet":["+8613800000000"],"SmsSdkAppId":"1400000000","TemplateId":"1234567","SignName":"Demo",'
    b'"TemplateParamSet":["123456"]}'
)


def test_acs3_is_as_published() -> None:
    found = acs3_signature(
        b"YourAccessKeySecret",
        host="ecs.cn-shanghai.aliyuncs.com",
        action="RunInstances",
        version="2014-05-26",
        date="2023-10-26T10:22:32Z",
        nonce="3156853299f313e23d1673dc12e1703d",
        content_sha256=hashlib.sha256(b"").hexdigest(),
        query="ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai",
    )
    assert found == "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"


def test_tc3_is_as_published() -> None:
    found = tc3_signature(
        b"Gu5t9xGARNpq86cd98joQYCN3EXAMPLE",
        host="cvm.tencentcloudapi.com",
        service="cvm",
        content_type="application/json; charset=utf-8",
        unix_s=1_551_113_065,
        body=CVM,
    )
    assert found == "72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168"


def test_tc3_of_an_sms_is_that_of_the_sheet() -> None:
    found = tc3_signature(
        b"DEMOSECRETKEY",
        host="sms.tencentcloudapi.com",
        service="sms",
        content_type="application/json; charset=utf-8",
        unix_s=1_700_000_000,
        body=SMS,
    )
    assert found == "3378749cb4bef20a13301f1f10473ece0a367a627d0f8cc33dfedbea59c72f8d"
    assert tc3_date(1_700_000_000) == "2023-11-14"


def test_the_webhooks_is_over_the_time_a_dot_and_the_body() -> None:
    twin = hmac.new(b"secret", b"1700000000.{}", hashlib.sha256).hexdigest()
    assert webhook_signature(b"secret", b"1700000000", b"{}") == twin.encode()
