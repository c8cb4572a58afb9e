"""Retry-After, names and status classes, for all vendors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.verdict import Verdict
from vendors import REGISTRY
from vendors.http_answer import by_status_class, counted_name, decode_object, id_of, retry_after_s

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b""}, None),
        ({b"retry-after": b"0"}, 0.0),
        ({b"retry-after": b" 120 "}, 120.0),
        ({b"retry-after": b"9" * 5000}, 86_400.0),
        ({b"retry-after": b"-5"}, None),
        ({b"retry-after": b"1.5"}, None),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"Sun, 06 Nov 1994 08:51:07 GMT", b"date": DATE}, 90.0),
        ({b"retry-after": b"Sun, 06 Nov 1994 08:51:07 -0000", b"date": DATE}, 90.0),
        ({b"retry-after": b"Sun, 06 Nov 1994 08:00:00 GMT", b"date": DATE}, 0.0),
        ({b"retry-after": b"Sun, 06 Nov 2094 08:00:00 GMT", b"date": DATE}, 86_400.0),
        # no clock of our own: the date form means nothing without the answer's date
        ({b"retry-after": b"Sun, 06 Nov 1994 08:51:07 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_both_forms(headers: dict[bytes, bytes], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


@given(st.binary(max_size=60), st.binary(max_size=60) | st.just(DATE))
def test_retry_after_is_total(value: bytes, date: bytes) -> None:
    seconds = retry_after_s({b"retry-after": value, b"date": date})
    assert seconds is None or 0 <= seconds <= 86_400


@given(st.binary(max_size=60) | st.integers().map(lambda number: b'{"id":%d}' % number))
def test_the_id_of_a_request_is_total_and_fits_a_line(body: bytes) -> None:
    found = id_of(body, ("data.id", "id"))
    assert len(found) <= 128
    assert found.isascii()


@pytest.mark.parametrize(
    ("vendor", "body", "request_id"),
    [
        (
            "huawei",
            b'{"code":"80000000","msg":"Success","requestId":"1574409555495"}',
            "1574409555495",
        ),
        ("harmony", b'{"code":"80000000","msg":"Success","requestId":"1574"}', "1574"),
        ("honor", b'{"code":200,"message":"ok","data":{"sendResult":true,"requestId":"161"}}', "161"),
        ("xiaomi", b'{"result":"ok","trace_id":"Xcm0","code":0,"data":{"id":"scm00b0"}}', "scm00b0"),
        ("xiaomi", b'{"result":"error","trace_id":"Xcm0","code":21301}', "Xcm0"),
        ("oppo", b'{"code":0,"message":"Success","data":{"messageId":"5b4e","status":"call_success"}}', "5b4e"),
        ("vivo", b'{"result":0,"desc":"ok","taskId":"800000000000000001"}', "800000000000000001"),
        ("meizu", b'{"code":"200","message":"","value":{},"msgId":"c2ee5c3b","redirect":""}', "c2ee5c3b"),
        ("meizu", b"not json", ""),
        ("huawei", b'{"requestId":"two\\nlines"}', ""),
        ("huawei", b'{"requestId":123}', "123"),
    ],
)
def test_each_vendors_answer_names_its_request(vendor: str, body: bytes, request_id: str) -> None:
    found: Any = REGISTRY[vendor].vendor
    assert found.request_id(found, body) == request_id


@given(st.text(max_size=80), st.integers(0, 999))
def test_counted_names_are_fit_for_a_metric_label(name: str, status: int) -> None:
    counted = counted_name(name, status)
    assert counted.isascii()
    assert 0 < len(counted) <= 64
    assert counted.replace("_", "").replace("-", "").isalnum()


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b'{"a":1}x', b"[" * 100_000, b'{"a":"\xff"}'])
def test_what_is_no_object_decodes_to_an_empty_one(body: bytes) -> None:
    assert decode_object(body) == {}


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0, Verdict.UNCERTAIN),
        (100, Verdict.UNCERTAIN),
        (200, Verdict.ACCEPTED),
        (204, Verdict.UNCERTAIN),
        (302, Verdict.UNAVAILABLE),
        (400, Verdict.REJECTED),
        (401, Verdict.CREDENTIAL),
        (403, Verdict.CREDENTIAL),
        (408, Verdict.UNAVAILABLE),
        (410, Verdict.REJECTED),
        (429, Verdict.THROTTLED),
        (499, Verdict.REJECTED),
        (500, Verdict.UNAVAILABLE),
        (599, Verdict.UNAVAILABLE),
    ],
)
def test_unknown_answers_map_by_status_class(status: int, verdict: Verdict) -> None:
    assert by_status_class(status, "", {}).verdict is verdict


def test_unknown_answers_keep_retry_after() -> None:
    assert by_status_class(503, "", {b"retry-after": b"3"}).retry_after_s == 3.0
