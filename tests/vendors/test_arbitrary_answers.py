"""Arbitrary bytes as an answer: no vendor raises, accepts, or buries a token for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.vendor import BulkVendor
from gateway.verdict import Answer, Verdict
from vendors import REGISTRY
from vendors.codes import ACCEPTED, answer_of

#: Every vendor that takes many rows in a request.
NAMES = sorted(REGISTRY.keys() - {"apns", "fcm", "ups", "email"})
WORDS = [
    *("code", "result", "data", "msg", "value", "bad_regids", "invalidUsers", "invalidUser", "status", "userid"),
    *("failTokens", "expireTokens", "sendResult", "illegal_tokens", "illegalTokens", "errorCode", "message_id"),
    *("accepted", "rejected", "index", "is_target_dead", "error", "Code", "Ok", "OK", "errcode"),
    *("Response", "Error", "SendStatusSet", "PhoneNumber", "invaliduser", "81013"),
    *("taskId", "0", "200", "10000", "80100000", "80000000", "80300007", "20301", "reason"),
]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
trees = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(WORDS), below, max_size=4),
    max_leaves=12,
)
bodies = st.binary(max_size=80) | trees.map(lambda tree: json.dumps(tree).encode("utf-8", "replace"))
headers = st.dictionaries(st.sampled_from([b"retry-after", b"date"]), st.binary(max_size=12), max_size=2)


#: Those that answer with a number in a field of this name.
CODED = set(NAMES) - {"webhook", "aliyun_sms", "tencent_sms"}


@pytest.fixture(params=NAMES)
def vendor(vendor_of: Callable[[str], Any], request: pytest.FixtureRequest) -> BulkVendor:
    return vendor_of(request.param)


@pytest.mark.parametrize("name", NAMES)
@given(status=st.integers(0, 999), head=headers, body=bodies, is_distinct=st.booleans())
def test_no_answer_raises(
    vendor_of: Callable[[str], Any], name: str, status: int, head: dict[bytes, bytes], body: bytes, is_distinct: bool
) -> None:
    vendor = vendor_of(name)
    answer = vendor.classify(status, head, body)
    assert isinstance(answer.verdict, Verdict)
    told = vendor.judge(status, head, body, is_distinct=is_distinct)
    assert all(isinstance(token, bytes) for token in told.by_token)
    assert isinstance(vendor.read_saved(status, head, body), str | Answer)
    if status != 200:
        assert Verdict.ACCEPTED not in (answer.verdict, told.rest.verdict)


@pytest.mark.parametrize("body", [b"", b"<html>ok</html>", b"\xff\xfe", b"{}", b"[]", b'{"code":null}', b"1" * 5000])
def test_a_200_that_says_nothing_proves_nothing(vendor: BulkVendor, body: bytes) -> None:
    assert vendor.classify(200, {}, body).verdict is Verdict.UNCERTAIN
    assert vendor.judge(200, {}, body, is_distinct=False).rest.verdict is Verdict.UNCERTAIN


@pytest.mark.parametrize("code", [1234567, "1234567"])
@pytest.mark.parametrize("name", sorted(CODED))
def test_a_code_that_nobody_knows_is_final_and_counted_by_name(
    vendor_of: Callable[[str], Any], name: str, code: int | str
) -> None:
    vendor = vendor_of(name)
    body = json.dumps({"code": code, "result": code, "errcode": code}).encode()
    answer = vendor.classify(200, {}, body)
    assert (answer.verdict, answer.name, answer.is_unknown) == (Verdict.REJECTED, "code_1234567", True)


def test_a_yes_in_the_body_of_an_error_is_no_yes() -> None:
    assert answer_of({"0": ACCEPTED}, "0", 500, {}, {}).verdict is Verdict.UNCERTAIN
