"""Signatures of requests: the published vectors of facts/vendors-china.md section 10, and plain twins."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import TextColumn
from vendors.auth.request_hmac import (
    acs3_signatures,
    tc3_date,
    tc3_signatures,
    webhook_signature,
    webhook_signatures,
)

CVM = (
    b'{"Limit": 1, "Filters": [{"Values": ["\\u672a\\u547d\\u540d"], "Name": "instance-name"}]}'  # as Tencent prints it
)
SMS = (
    b'{"PhoneNumberSet":["+8613800000000"],"SmsSdkAppId":"1400000000","TemplateId":"1234567","SignName":"Demo",'
    b'"TemplateParamSet":["123456"]}'
)
JSON = "application/json; charset=utf-8"
ACS3_NAMES = "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version"


def plain_acs3(secret: bytes, host: str, action: str, version: str, date: str, nonce: str, body: bytes) -> str:
    content = hashlib.sha256(body).hexdigest()
    values = (host, action, content, date, nonce, version)
    lines = "".join(f"{name}:{value}\n" for name, value in zip(ACS3_NAMES.split(";"), values, strict=True))
    canonical = hashlib.sha256(f"POST\n/\n\n{lines}\n{ACS3_NAMES}\n{content}".encode()).hexdigest()
    return content + hmac.new(secret, f"ACS3-HMAC-SHA256\n{canonical}".encode(), "sha256").hexdigest()


def plain_tc3(secret: bytes, host: str, service: str, unix_s: int, body: bytes) -> str:
    content = hashlib.sha256(body).hexdigest()
    canonical = f"POST\n/\n\ncontent-type:{JSON}\nhost:{host}\n\ncontent-type;host\n{content}"
    key = b"TC3" + secret
    for part in (tc3_date(unix_s), service, "tc3_request"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    scope = f"{tc3_date(unix_s)}/{service}/tc3_request"
    text = f"TC3-HMAC-SHA256\n{unix_s}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def test_acs3_is_as_published() -> None:
    found = acs3_signatures(
        b"YourAccessKeySecret",
        host="ecs.cn-shanghai.aliyuncs.com",
        action=b"RunInstances",
        version="2014-05-26",
        date=b"2023-10-26T10:22:32Z",
        nonces=(b"3156853299f313e23d1673dc12e1703d",),
        bodies=[b""],
        query="ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai",
    )
    signature = "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
    assert found.tobytes().decode() == hashlib.sha256(b"").hexdigest() + signature


def test_tc3_is_as_published() -> None:
    found = tc3_signatures(
        b"Gu5t9xGARNpq86cd98joQYCN3EXAMPLE",
        host="cvm.tencentcloudapi.com",
        service="cvm",
        content_type=JSON,
        unix_s=1_551_113_065,
        bodies=[CVM],
    )
    assert found.tobytes() == b"72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168"


def test_tc3_of_an_sms_is_that_of_the_sheet() -> None:
    found = tc3_signatures(
        b"DEMOSECRETKEY",
        host="sms.tencentcloudapi.com",
        service="sms",
        content_type=JSON,
        unix_s=1_700_000_000,
        bodies=[SMS],
    )
    assert found.tobytes() == b"3378749cb4bef20a13301f1f10473ece0a367a627d0f8cc33dfedbea59c72f8d"
    assert tc3_date(1_700_000_000) == "2023-11-14"


def test_the_webhooks_is_over_the_time_a_dot_and_the_body() -> None:
    twin = hmac.new(b"secret", b"1700000000.{}", hashlib.sha256).hexdigest()
    assert webhook_signature(b"secret", b"1700000000", b"{}") == twin.encode()


@given(secret=st.binary(min_size=1, max_size=80), bodies=st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_columns_are_signed_as_each_row_alone(secret: bytes, bodies: list[bytes]) -> None:
    rests = [b"%032x" % (number * 7919) for number in range(len(bodies))]
    host, version, date = "h.example.com", "2017-05-25", "2025-11-21T04:40:00Z"
    fixed, ragged = (
        acs3_signatures(
            secret,
            host=host,
            action=b"SendSms",
            version=version,
            date=date.encode(),
            nonces=(b"N-", column, b"-17"),
            bodies=bodies,
        )
        for column in (np.frombuffer(b"".join(rests), np.uint8).reshape(-1, 32), TextColumn.from_rows(rests))
    )
    tc3 = tc3_signatures(secret, host=host, service="sms", content_type=JSON, unix_s=1_763_700_000, bodies=bodies)
    hooks = webhook_signatures(secret, b"1700000000", bodies)
    assert fixed.tobytes() == ragged.tobytes()
    for row, body in enumerate(bodies):
        nonce = f"N-{rests[row].decode()}-17"
        assert fixed[row].tobytes().decode() == plain_acs3(secret, host, "SendSms", version, date, nonce, body)
        assert tc3[row].tobytes().decode() == plain_tc3(secret, host, "sms", 1_763_700_000, body)
        assert hooks[row].tobytes() == webhook_signature(secret, b"1700000000", body)
