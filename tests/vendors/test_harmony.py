"""HarmonyOS: the sheet's example, reasons of illegal tokens, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.vendor import Refusal
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


def _own(**raw: Any) -> dict[str, msgspec.Raw]:
    return {"harmony": msgspec.Raw(json.dumps(raw).encode())}


def test_the_push_type_follows_from_the_raw_object_then_the_configuration_then_the_category(
    render: Callable[..., Any],
) -> None:
    vendor = Harmony(msgspec.structs.replace(SETTINGS, push_types={"ring": 10}, categories={"read_out": "PLAY_VOICE"}))
    expected = [
        (Variant("t", "b"), "0"),
        (Variant("t", "b", category="voip"), "0"),
        (Variant("t", "b", category="play_voice"), "2"),
        (Variant("t", "b", category="read_out"), "2"),
        (Variant("t", "b", category="ring"), "10"),
        (Variant("t", "b", category="ring", raw=_own(pushType=6)), "6"),
        (Variant("t", "b", category="ring", raw=_own(pushType=0)), "0"),
    ]
    for variant, push_type in expected:
        (request,) = render(vendor, variant, TOKENS).requests
        assert request.headers["push-type"] == push_type
        assert b"pushType" not in request.body


@pytest.mark.parametrize("push_type", [6, 10])
def test_background_messages_and_calls_carry_the_data_as_text_and_no_notification(
    render: Callable[..., Any], push_type: int
) -> None:
    variant = Variant("t", "b", data={"room": 'a"7', "n": 1}, ttl_s=600, raw=_own(pushType=push_type))
    (request,) = render(VENDOR, variant, TOKENS).requests
    body = json.loads(request.body)
    assert list(body["payload"]) == ["extraData"]
    told = json.loads(body["payload"]["extraData"])
    assert told.pop("message_id")
    assert told == {"room": 'a"7', "n": 1}
    assert body["pushOptions"]["ttl"] == (60 if push_type == 10 else 600)
    assert body["target"] == {"token": TOKENS}


def test_a_voice_broadcast_has_its_category_and_the_data_beside_the_notification(render: Callable[..., Any]) -> None:
    variant = Variant("t", "b", data={"say": "12"}, category="im", raw=_own(pushType=2))
    (request,) = render(VENDOR, variant, TOKENS).requests
    payload = json.loads(request.body)["payload"]
    assert payload["notification"]["category"] == "PLAY_VOICE"
    assert json.loads(payload["extraData"])["say"] == "12"
    assert payload["notification"]["clickAction"]["data"]["say"] == "12"


def test_a_card_is_refreshed_with_one_token_a_request_and_the_data_as_its_form(render: Callable[..., Any]) -> None:
    card = {"formId": 7, "version": 1, "moduleName": "m", "formName": "f", "abilityName": "a"}
    made = render(VENDOR, Variant("t", "b", data={"n": 3}, raw=_own(pushType=1, payload=card)), TOKENS)
    assert [json.loads(request.body)["target"]["token"] for request in made.requests] == [[token] for token in TOKENS]
    payload = json.loads(made.requests[0].body)["payload"]
    assert payload["formData"].pop("message_id")
    assert payload == card | {"formData": {"n": 3}}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"pushType": 3}, "pushType is none of"),
        ({"pushType": True}, "pushType is none of"),
        ({"pushType": "6"}, "pushType is none of"),
        ({"pushType": 1}, "push-type 1 has no formId"),
        ({"pushType": 7, "payload": {"activityId": 1, "event": "TAXI"}}, "push-type 7 has no operation"),
        ({"pushType": 6, "payload": {"extraData": None}}, "push-type 6 has no extraData"),
        ({"pushType": 6, "payload": {"notification": {"title": "x"}}}, "takes no notification"),
        ({"pushType": 6, "pushOptions": {"collapseKey": 1}}, "collapseKey is not for push-type 6"),
        ({"pushOptions": {"backgroundMode": 0}}, "backgroundMode is not for push-type 0"),
        ({"payload": {"notification": {"category": "PLAY_VOICE"}}}, "belong together"),
        ({"payload": {"notification": None}}, "push-type 0 has no notification"),
        ({"payload": 1}, "must be objects"),
    ],
)
def test_what_does_not_belong_to_the_push_type_is_refused_before_the_vendor_sees_it(
    raw: dict[str, Any], text: str
) -> None:
    refusal = VENDOR.template(Variant("t", "b", raw=_own(**raw)))
    assert isinstance(refusal, Refusal)
    assert refusal.field == "raw"
    assert text in refusal.text


def test_data_that_no_text_can_make_room_for_is_refused_where_title_and_body_are_not_sent(
    render: Callable[..., Any],
) -> None:
    made = render(VENDOR, Variant("t", "b" * 9000, data={"k": "x" * 5000}, raw=_own(pushType=6)), TOKENS)
    assert made.requests == []
    assert [rows for rows, _, _ in made.refused] == [[0, 1]]
    made = render(VENDOR, Variant("", "b" * 9000, data={"k": "x"}, raw=_own(pushType=6)), TOKENS)
    assert len(made.requests) == 1


@pytest.mark.parametrize("wrong", [{"push_types": {"a": 5}}, {"call_ttl_s": 0}])
def test_settings_of_push_types_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        msgspec.convert({"project_id": "1", "account_key_file": "f"} | wrong, Settings)


TABLE = """
REJECTED 80100001 80100003 80100004 80100022 80300007 80300008 80300010 80300030
CREDENTIAL 80200001 80200005 80200006 80300002 80300036 80300037
THROTTLED 80300029
UNAVAILABLE 81000001
ACCEPTED 80000000
UNCERTAIN 80100000
"""


def test_every_code_of_the_sheet_has_its_verdict(judged: Callable[..., Any]) -> None:
    found = judged(TABLE, lambda code: VENDOR.classify(200, {}, json.dumps({"code": code, "msg": "x"}).encode()))
    assert set(found) == set(ANSWERS)
    assert {code for code in found if found[code].is_refreshable} == {"80200001", "80200005", "80300036"}
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
