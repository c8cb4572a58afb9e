"""Huawei: the sheet's example, lists of tokens, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.verdict import Scope, Verdict
from vendors.huawei import ANSWERS, Huawei, Settings

SETTINGS = Settings(
    client_id="104000001",
    client_secret_file="secret",
    channels={"EXPRESS": "orders"},
    receipt_id="RCP0001",
    badge_class="com.example.app.MainActivity",
)
VENDOR = Huawei(SETTINGS)
TOKENS = ["IQAAAACy0fakeTokenAAA", "IQAAAACy0fakeTokenBBB"]
ORDER = Variant(
    "Order shipped",
    "Parcel 8841 left the depot",
    data={"order_id": "8841"},
    ttl_s=86_400,
    category="express",
    collapse_id="8841",
    image="https://cdn.example.com/a.png",
)


def test_the_example_of_the_sheet_comes_out_field_for_field(render: Callable[..., Any]) -> None:
    """Section 3.12. Ours besides: message_id in data; `raw` stands for what has no neutral word."""
    own = {"collapse_key": -1, "notification": {"channel_id": "orders", "badge": {"add_num": 1, "set_num": None}}}
    raw = {"huawei": msgspec.Raw(json.dumps({"android": own}).encode())}
    order = msgspec.structs.replace(ORDER, raw=raw, badge=1)
    (request,) = render(VENDOR, order, TOKENS, authorization=b"Bearer CF3fakeAccessToken==").requests
    assert request.path == "/v1/104000001/messages:send"
    assert request.headers == {
        "authorization": "Bearer CF3fakeAccessToken==",
        "content-type": "application/json;charset=UTF-8",
    }
    body = json.loads(request.body)
    data = json.loads(body["message"].pop("data"))
    assert data.pop("message_id").startswith("019")
    assert data == {"order_id": "8841"}
    bi_tag = body["message"]["android"].pop("bi_tag")
    assert 0 < len(bi_tag) <= 50
    assert bi_tag.isascii()
    assert body == {
        "validate_only": False,
        "message": {
            "token": TOKENS,
            "android": {
                "category": "EXPRESS",
                "ttl": "86400s",
                "receipt_id": "RCP0001",
                "collapse_key": -1,
                "notification": {
                    "title": "Order shipped",
                    "body": "Parcel 8841 left the depot",
                    "image": "https://cdn.example.com/a.png",
                    "click_action": {"type": 3},
                    "notify_id": 8841,
                    "importance": "NORMAL",
                    "channel_id": "orders",
                    "badge": {"add_num": 1, "class": "com.example.app.MainActivity"},
                },
            },
        },
    }


def test_v2_sends_for_the_project(render: Callable[..., Any]) -> None:
    vendor = Huawei(msgspec.structs.replace(SETTINGS, project_id="388"))
    assert render(vendor, ORDER, TOKENS).requests[0].path == "/v2/388/messages:send"


def test_lists_are_filled_evenly_and_one_row_goes_alone_with_its_own_id(render: Callable[..., Any]) -> None:
    tokens = [f"token{number}" * (1 + number % 2) for number in range(2001)]
    made = render(VENDOR, ORDER, tokens)
    assert [len(request.rows) for request in made.requests] == [667, 667, 667]
    for request in made.requests:
        assert json.loads(request.body)["message"]["token"] == [tokens[row] for row in request.rows]
    tags = {json.loads(request.body)["message"]["android"]["bi_tag"] for request in made.requests}
    assert len(tags) == 3
    (alone,) = render(VENDOR, ORDER, tokens[:1]).requests
    assert json.loads(alone.body)["message"]["android"]["bi_tag"].count("-") == 4


def test_different_texts_go_one_by_one(render: Callable[..., Any]) -> None:
    values = ['a"b', "c\\d", "中"]
    made = render(VENDOR, Variant("{{x}}", "b", data={"k": "<{{x}}>"}), ["t1", "t2", "t3"], variables={"x": values})
    for request, value in zip(made.requests, values, strict=True):
        message = json.loads(request.body)["message"]
        assert message["android"]["notification"]["title"] == value
        assert json.loads(message["data"])["k"] == f"<{value}>"


def test_the_payload_is_4096_bytes_without_the_tokens(render: Callable[..., Any]) -> None:
    made = render(VENDOR, Variant("t", "长" * 5000), [f"{number:0130d}" for number in range(1000)])
    (request,) = made.requests
    assert made.truncated == list(range(1000))
    body = json.loads(request.body)
    body["message"]["token"] = []
    size = len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())
    assert 4080 < size <= 4096


@pytest.mark.parametrize(
    ("click", "action"),
    [
        (Click("app"), {"type": 3}),
        (Click("url", "https://example.com/x"), {"type": 2, "url": "https://example.com/x"}),
        (Click("intent", "intent://x#Intent;end"), {"type": 1, "intent": "intent://x#Intent;end"}),
        (Click("payload", "p"), {"type": 3}),
    ],
)
def test_clicks_have_their_type(render: Callable[..., Any], click: Click, action: dict[str, Any]) -> None:
    (request,) = render(VENDOR, Variant("t", "b", click=click), ["t1"]).requests
    message = json.loads(request.body)["message"]
    assert message["android"]["notification"]["click_action"] == action
    assert json.loads(message["data"]).get("click_payload") == ("p" if click.type == "payload" else None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"click": Click("url", "http://example.com")}, "click"),
        ({"image": "http://example.com/a.png"}, "image"),
        ({"data": {"message_id": 1}}, "data"),
        ({"raw": {"huawei": msgspec.Raw(b'{"token":["x"]}')}}, "raw"),
        ({"raw": {"huawei": msgspec.Raw(b"[]")}}, "raw"),
    ],
)
def test_what_huawei_could_never_take_is_refused_before(
    render: Callable[..., Any], change: dict[str, Any], field: str
) -> None:
    made = render(VENDOR, msgspec.structs.replace(ORDER, **change), TOKENS)
    assert made.requests == []
    assert [(rows, named) for rows, named, _ in made.refused] == [([0, 1], field)]


def test_marketing_says_so(render: Callable[..., Any]) -> None:
    (request,) = render(VENDOR, Variant("t", "b", class_="marketing"), ["t"]).requests
    android = json.loads(request.body)["message"]["android"]
    assert android["category"] == "MARKETING"
    assert android["notification"]["importance"] == "LOW"


TABLE = """
80100001 REJECTED
80100002 REJECTED
80100003 REJECTED
80100004 REJECTED
80100013 REJECTED
80100016 REJECTED
80100017 THROTTLED
80100018 REJECTED
80200001 CREDENTIAL refreshable
80200003 CREDENTIAL refreshable
80200005 CREDENTIAL refreshable
80300002 CREDENTIAL
80300007 TOKEN_DEAD
80300008 REJECTED
80300010 REJECTED
80300011 CREDENTIAL
80300013 CREDENTIAL
80600003 UNAVAILABLE
81000001 UNAVAILABLE
"""


@pytest.mark.parametrize("row", TABLE.strip().splitlines())
def test_every_code_of_the_sheet_has_its_verdict(row: str) -> None:
    code, verdict, *more = row.split()
    answer = VENDOR.classify(200, {}, json.dumps({"code": code, "msg": "x"}).encode())
    assert answer.verdict.name == verdict
    assert answer.is_refreshable == (more == ["refreshable"])
    assert answer.name.startswith(code)
    assert not answer.is_unknown
    assert set(ANSWERS) == {line.split()[0] for line in TABLE.strip().splitlines()} | {"80000000", "80100000"}


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (400, Verdict.REJECTED),
        (401, Verdict.CREDENTIAL),
        (404, Verdict.CREDENTIAL),
        (500, Verdict.UNAVAILABLE),
        (502, Verdict.UNAVAILABLE),
        (503, Verdict.THROTTLED),
        (200, Verdict.UNCERTAIN),
    ],
)
def test_without_a_code_the_status_decides_and_a_bare_200_proves_nothing(status: int, verdict: Verdict) -> None:
    assert VENDOR.classify(status, {}, b"<html>").verdict is verdict


def test_a_partial_failure_names_its_tokens() -> None:
    body = rb'{"code":"80100000","msg":"{\"success\":1,\"failure\":1,\"illegal_tokens\":[\"B\"]}","requestId":"1"}'
    told = VENDOR.judge(200, {}, body, is_distinct=False)
    assert told.rest.verdict is Verdict.ACCEPTED
    assert {token: answer.verdict for token, answer in told.by_token.items()} == {b"B": Verdict.TOKEN_DEAD}
    harmony_like = body.replace(rb"[\"B\"]", rb"{\"x\":[\"B\"]}").replace(b"illegal_tokens", b"illegalTokens")
    assert list(VENDOR.judge(200, {}, harmony_like, is_distinct=False).by_token) == [b"B"]
    unreadable = VENDOR.judge(200, {}, b'{"code":"80100000","msg":"?"}', is_distinct=False)
    assert unreadable.rest.verdict is Verdict.UNCERTAIN


def test_an_unknown_code_is_final_counted_by_name_and_kills_no_token() -> None:
    answer = VENDOR.classify(200, {}, b'{"code":"80999999"}')
    assert (answer.verdict, answer.name, answer.is_unknown) == (Verdict.REJECTED, "code_80999999", True)
    assert VENDOR.classify(503, {b"retry-after": b"7"}, b"").retry_after_s == 7.0
    assert VENDOR.classify(503, {}, b"").scope is Scope.APP


def test_tokens_that_could_not_stand_in_a_list_are_refused() -> None:
    for token in ("", "a,b", "a;b", 'a"b', "a\\b", "a b", "a\nb", "中", "x" * 513):
        assert VENDOR.check_token(token), token
    assert VENDOR.check_token("IQAAAACy0" + "x" * 120) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": ""},
        {"client_id": "a/b"},
        {"client_secret_file": ""},
        {"client_secret_env": "X"},
        {"rows_per_request_max": 1001},
        {"rows_per_request_max": 0},
        {"port": 0},
        {"rate_per_s": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError)):
        msgspec.convert({**msgspec.structs.asdict(SETTINGS), **change}, Settings)
