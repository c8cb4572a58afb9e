"""HarmonyOS: the sheet's example, reasons of illegal tokens, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.verdict import Verdict
from vendors.harmony import ANSWERS, REASONS, Harmony, Settings

SETTINGS = Settings(project_id="388421841221890000", account_key_file="account.json", receipt_id="RCP0001")
VENDOR = Harmony(SETTINGS)
TOKENS = ["MAMzFakeTokenAAA", "MAMzFakeTokenBBB"]


def test_the_example_of_the_sheet_comes_out_field_for_field(render: Callable[..., Any]) -> None:
    """Section 4.12. Ours besides: message_id in the data and as appMessageId, the address as biTag."""
    raw = {
        "payload": {"notification": {"badge": {"addNum": 1, "setNum": None}, "foregroundShow": True}},
        "pushOptions": {"collapseKey": -1},
    }
    order = Variant(
        "Order shipped",
        "Parcel 8841 left the depot",
        data={"order_id": "8841"},
        ttl_s=86_400,
        category="express",
        collapse_id="8841",
        badge=1,
        raw={"harmony": msgspec.Raw(json.dumps(raw).encode())},
    )
    (request,) = render(VENDOR, order, TOKENS, authorization=b"Bearer jwt").requests
    assert request.path == "/v3/388421841221890000/messages:send"
    assert request.headers == {
        "content-type": "application/json",
        "authorization": "Bearer jwt",
        "push-type": "0",
    }
    body = json.loads(request.body)
    notification = body["payload"]["notification"]
    content_id = notification.pop("appMessageId")
    assert notification["clickAction"]["data"].pop("message_id") == content_id
    assert len(body["pushOptions"].pop("biTag")) == 46
    assert body == {
        "payload": {
            "notification": {
                "category": "EXPRESS",
                "title": "Order shipped",
                "body": "Parcel 8841 left the depot",
                "clickAction": {"actionType": 0, "data": {"order_id": "8841"}},
                "notifyId": 8841,
                "badge": {"addNum": 1},
                "foregroundShow": True,
            }
        },
        "target": {"token": TOKENS},
        "pushOptions": {"ttl": 86400, "receiptId": "RCP0001", "collapseKey": -1},
    }


def test_the_app_message_id_has_the_vendors_form_and_is_the_same_on_every_attempt(render: Callable[..., Any]) -> None:
    ids = set()
    for _ in range(2):
        (request,) = render(VENDOR, Variant("t", "b"), TOKENS).requests
        ids.add(json.loads(request.body)["payload"]["notification"]["appMessageId"])
    (content_id,) = ids
    assert 1 <= len(content_id) <= 64
    assert all(character.isalnum() or character in "+/=-_ " for character in content_id)


def test_test_messages_go_to_ten_tokens_at_most(render: Callable[..., Any]) -> None:
    vendor = Harmony(msgspec.structs.replace(SETTINGS, test_messages=True))
    made = render(vendor, Variant("t", "b"), [f"t{number}" for number in range(25)])
    assert max(len(request.rows) for request in made.requests) <= 10
    assert json.loads(made.requests[0].body)["pushOptions"]["testMessage"] is True


@pytest.mark.parametrize(
    ("variant", "category"),
    [
        (Variant("t", "b"), "WORK"),
        (Variant("t", "b", class_="marketing"), "MARKETING"),
        (Variant("t", "b", category="im"), "IM"),
        (Variant("t", "b", category="parcel"), "EXPRESS"),
    ],
)
def test_a_category_is_always_there(render: Callable[..., Any], variant: Variant, category: str) -> None:
    vendor = Harmony(msgspec.structs.replace(SETTINGS, categories={"parcel": "EXPRESS"}))
    (request,) = render(vendor, variant, TOKENS).requests
    assert json.loads(request.body)["payload"]["notification"]["category"] == category


@pytest.mark.parametrize(
    ("click", "action"),
    [
        (Click("app"), {"actionType": 0}),
        (Click("url", "https://a.b"), {"actionType": 1, "uri": "https://a.b"}),
        (Click("intent", "com.a.open"), {"actionType": 1, "action": "com.a.open"}),
    ],
)
def test_clicks_have_their_type(render: Callable[..., Any], click: Click, action: dict[str, Any]) -> None:
    (request,) = render(VENDOR, Variant("t", "b", click=click), TOKENS).requests
    assert action.items() <= json.loads(request.body)["payload"]["notification"]["clickAction"].items()


TABLE = """
REJECTED 80100001 80100003 80100004 80100022 80300007 80300008 80300010 80300030
CREDENTIAL 80200001 80200005 80200006 80300002 80300036 80300037
THROTTLED 80300029
UNAVAILABLE 81000001
ACCEPTED 80000000
UNCERTAIN 80100000
"""


def test_every_code_of_the_sheet_has_its_verdict() -> None:
    seen: set[str] = set()
    for line in TABLE.strip().splitlines():
        verdict, *codes = line.split()
        seen |= set(codes)
        for code in codes:
            answer = VENDOR.classify(200, {}, json.dumps({"code": code, "msg": "x"}).encode())
            assert answer.verdict.name == verdict, code
            assert answer.is_refreshable == (code in ("80200001", "80200005", "80300036"))
    assert seen == set(ANSWERS)
    for status, verdict in ((400, "REJECTED"), (401, "CREDENTIAL"), (404, "CREDENTIAL"), (503, "THROTTLED")):
        assert VENDOR.classify(status, {}, b"").verdict.name == verdict


@pytest.mark.parametrize("code", ["80100000", "80300007"])
def test_reasons_decide_about_each_token(code: str) -> None:
    told = {"illegalTokens": {" " + reason: [f"T{reason}"] for reason in REASONS} | {"brandNew": ["N"]}}
    body = json.dumps({"code": code, "msg": json.dumps(told)}).encode()
    answers = VENDOR.judge(200, {}, body, is_distinct=False)
    for reason, answer in REASONS.items():
        assert answers.by_token[f"T{reason}".encode()] == answer
    assert answers.by_token[b"N"].verdict is Verdict.REJECTED
    assert answers.by_token[b"N"].is_unknown
    dead = {"tokenFormatError", "tokenPlatformNotSupport", "noRight"}
    assert {reason for reason, answer in REASONS.items() if answer.verdict is Verdict.TOKEN_DEAD} == dead
