"""Honor: the sheet's example, verdicts with the addendum's table."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.verdict import Scope, Verdict
from vendors.honor import ANSWERS, Honor, Settings

SETTINGS = Settings(
    app_id="104400001", client_id="c", client_secret_file="secret", badge_class="com.example.app.MainActivity"
)
VENDOR = Honor(SETTINGS)
TOKENS = ["BAEAAAAAB.fakeTokenAAA", "BAEAAAAAB.fakeTokenBBB"]


def test_the_example_of_the_sheet_comes_out_field_for_field(render: Callable[..., Any]) -> None:
    """Section 5.12. Ours besides: message_id in data, the address as biTag."""
    raw = {"android": {"notification": {"badge": {"addNum": 1, "setNum": None}}}}
    order = Variant(
        "Order shipped",
        "Parcel 8841 left the depot",
        data={"order_id": "8841"},
        ttl_s=86_400,
        collapse_id="8841",
        badge=1,
        raw={"honor": msgspec.Raw(json.dumps(raw).encode())},
    )
    (request,) = render(VENDOR, order, TOKENS, authorization=b"Bearer eyJfake").requests
    assert request.path == "/api/v1/104400001/sendMessage"
    assert request.headers == {
        "authorization": "Bearer eyJfake",
        "content-type": "application/json; charset=UTF-8",
        "timestamp": "1763700000000",
    }
    body = json.loads(request.body)
    data = json.loads(body.pop("data"))
    assert data.pop("message_id")
    assert data == {"order_id": "8841"}
    assert len(body["android"].pop("biTag")) == 46
    assert body == {
        "token": TOKENS,
        "notification": {"title": "Order shipped", "body": "Parcel 8841 left the depot"},
        "android": {
            "ttl": "86400s",
            "targetUserType": 0,
            "notification": {
                "title": "Order shipped",
                "body": "Parcel 8841 left the depot",
                "clickAction": {"type": 3},
                "importance": "NORMAL",
                "notifyId": 8841,
                "badge": {"addNum": 1, "badgeClass": "com.example.app.MainActivity"},
            },
        },
    }


def test_marketing_is_low_and_carries_no_image(render: Callable[..., Any]) -> None:
    image = "https://cdn.example.com/a.png"
    for class_, importance, has_image in (("system", "NORMAL", True), ("marketing", "LOW", False)):
        (request,) = render(VENDOR, Variant("t", "b", image=image, class_=class_), TOKENS).requests
        notification = json.loads(request.body)["android"]["notification"]
        assert notification["importance"] == importance
        assert ("image" in notification) == has_image


def test_texts_that_stand_twice_count_twice(render: Callable[..., Any]) -> None:
    (request,) = render(VENDOR, Variant("t", "长" * 3000), ["t"]).requests
    body = json.loads(request.body)
    assert body["notification"]["body"] == body["android"]["notification"]["body"]
    body["token"] = [""]
    assert 4070 < len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()) <= 4096


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"click": Click("url", "http://a.b")}, "click"),
        ({"image": "http://a.b/c.png"}, "image"),
        ({"raw": {"honor": msgspec.Raw(b'{"token":[]}')}}, "raw"),
    ],
)
def test_what_honor_could_never_take_is_refused_before(
    render: Callable[..., Any], change: dict[str, Any], field: str
) -> None:
    made = render(VENDOR, msgspec.structs.replace(Variant("t", "b"), **change), TOKENS)
    assert [(rows, named) for rows, named, _ in made.refused] == [([0, 1], field)]


TABLE = """
ACCEPTED 200 80000000
REJECTED 400 80100003 80200020 80200050 80200056 80300006 80300008 80300010 10300
CREDENTIAL 401 403 404 80200022 10001 10205 10207
UNAVAILABLE 500 502
THROTTLED 429 503
QUOTA 80200047
TOKEN_DEAD 80300007
UNCERTAIN 80100000
"""


def test_every_code_of_the_sheets_has_its_verdict(judged: Callable[..., Any]) -> None:
    for body in ('{"code":%s}', '{"code":"%s"}'):
        assert set(judged(TABLE, lambda code, body=body: VENDOR.classify(200, {}, (body % code).encode()))) == set(
            ANSWERS
        )
    assert VENDOR.classify(200, {}, b'{"code":403}').is_refreshable
    for status, verdict in ((400, "REJECTED"), (403, "CREDENTIAL"), (503, "THROTTLED"), (502, "UNAVAILABLE")):
        assert VENDOR.classify(status, {}, b"").verdict.name == verdict


def test_0_is_success_only_with_its_word() -> None:
    assert VENDOR.classify(200, {}, b'{"code":0,"data":{"sendResult":true}}').verdict is Verdict.ACCEPTED
    assert VENDOR.classify(200, {}, b'{"code":0}').verdict is Verdict.REJECTED


def test_expired_tokens_are_dead_and_failed_ones_are_tried_again() -> None:
    data = {"sendResult": True, "failTokens": ["A"], "expireTokens": ["B"]}
    for code in (200, 80100000):
        told = VENDOR.judge(200, {}, json.dumps({"code": code, "data": data}).encode(), is_distinct=False)
        found = {token: (answer.verdict.name, answer.scope) for token, answer in told.by_token.items()}
        assert found == {b"A": ("THROTTLED", Scope.DEVICE), b"B": ("TOKEN_DEAD", Scope.DEVICE)}
        assert told.rest.verdict is Verdict.ACCEPTED
