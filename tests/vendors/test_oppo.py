"""OPPO: the sheet's example, two steps, lists, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.verdict import Answer, Verdict
from vendors.oppo import ANSWERS, Oppo, Settings

SETTINGS = Settings(
    app_key_id="ak_demo",
    master_secret_file="secret",
    channels={"im": "messages"},
    notify_level=2,
    callback_url="https://gw.example.com/cb/oppo",
)
VENDOR = Oppo(SETTINGS)
PLACE = "/server/v1/message/notification/"


def form(body: bytes) -> dict[str, str]:
    parsed = parse_qs(body.decode("ascii"), strict_parsing=True, keep_blank_values=True)
    assert all(len(values) == 1 for values in parsed.values())
    return {name: values[0] for name, values in parsed.items()}


def test_the_example_of_the_sheet_comes_out_field_for_field(render: Callable[..., Any]) -> None:
    """Section 2.16. Ours besides: message_id in the parameters, as app_message_id and as callback parameter."""
    raw = {
        "private_msg_template_id": "tpl1",
        "private_title_parameters": {"name": "A"},
        "private_content_parameters": {"text": "{{text}}"},
    }
    variant = Variant(
        "新消息",
        "你好",
        data={"conv": "c1"},
        ttl_s=86_400,
        category="im",
        click=Click("intent", "com.example.app.MainActivity"),
        raw={"oppo": msgspec.Raw(json.dumps(raw).encode())},
    )
    token = "CN_00000000000000000000000000000001"
    made = render(VENDOR, variant, [token], authorization=b"demo-token-1", variables={"text": ["你好"]})
    (request,) = made.requests
    assert request.path == PLACE + "unicast"
    assert request.headers == {"content-type": "application/x-www-form-urlencoded; charset=UTF-8"}
    fields = form(request.body)
    assert fields.pop("auth_token") == "demo-token-1"
    message = json.loads(fields.pop("message"))
    assert fields == {}
    notification = message["notification"]
    message_id = notification.pop("app_message_id")
    assert message_id == notification.pop("call_back_parameter")
    assert len(message_id) == 36
    assert json.loads(notification.pop("action_parameters")) == {"message_id": message_id, "conv": "c1"}
    assert message == {
        "target_type": 2,
        "target_value": token,
        "verify_registration_id": True,
        "notification": {
            "style": 1,
            "title": "新消息",
            "content": "你好",
            "click_action_type": 4,
            "click_action_activity": "com.example.app.MainActivity",
            "off_line": True,
            "off_line_ttl": 86400,
            "channel_id": "messages",
            "category": "IM",
            "notify_level": 2,
            "private_msg_template_id": "tpl1",
            "private_title_parameters": {"name": "A"},
            "private_content_parameters": {"text": "你好"},
            "call_back_url": "https://gw.example.com/cb/oppo",
        },
    }


def test_marketing_of_one_content_is_saved_once_and_broadcast_to_lists(render: Callable[..., Any]) -> None:
    vendor = Oppo(msgspec.structs.replace(SETTINGS, rows_per_request_max=3))
    variant = Variant("标题", 'a"&b', data={"k": "v"}, class_="marketing", badge=3)
    made = render(vendor, variant, ["CN_a", "CN_b", "CN_c", "CN_d"])
    assert [request.path for request in made.requests] == [PLACE + "broadcast"] * 2
    save = made.requests[0].save
    assert save.path == PLACE + "save_message_content"
    saved = form(save.body)
    assert len(saved.pop("app_message_id")) == 46
    assert len(saved.pop("call_back_parameter")) == 46
    assert json.loads(saved.pop("action_parameters"))["k"] == "v"
    assert saved == {
        "auth_token": "credential",
        "style": "1",
        "title": "标题",
        "content": 'a"&b',
        "click_action_type": "0",
        "off_line": "true",
        "off_line_ttl": "7200",
        "badge_operation_type": "0",
        "badge_message_count": "3",
        "call_back_url": "https://gw.example.com/cb/oppo",
    }
    first, second = [request.body.replace(b"\x00saved\x00", b"M1") for request in made.requests]
    assert form(first) == {
        "auth_token": "credential",
        "message_id": "M1",
        "target_type": "2",
        "target_value": "CN_a;CN_b",
    }
    assert form(second)["target_value"] == "CN_c;CN_d"


def test_service_messages_of_one_content_never_go_by_broadcast(render: Callable[..., Any]) -> None:
    (request,) = render(VENDOR, Variant("标题", "b"), ["CN_a", "CN_b"]).requests
    assert request.path == PLACE + "unicast_batch"
    messages = json.loads(form(request.body)["messages"])
    assert [message["target_value"] for message in messages] == ["CN_a", "CN_b"]
    assert len({message["notification"]["app_message_id"] for message in messages}) == 2


def test_different_texts_go_as_a_list_and_each_is_cut_for_itself(render: Callable[..., Any]) -> None:
    values = ["short", "长" * 60, 'q"\\']
    made = render(VENDOR, Variant("{{x}}", "{{x}}"), ["CN_a", "CN_b", "CN_c"], variables={"x": values})
    (request,) = made.requests
    texts = [message["notification"]["content"] for message in json.loads(form(request.body)["messages"])]
    assert texts == ["short", "长" * 49 + "…", 'q"\\']
    assert made.truncated == [1]


@pytest.mark.parametrize(
    ("click", "action"),
    [
        (None, {"click_action_type": 0}),
        (Click("url", "https://a.b"), {"click_action_type": 2, "click_action_url": "https://a.b"}),
        (Click("intent", "app://x"), {"click_action_type": 5, "click_action_url": "app://x"}),
        (Click("intent", "com.a.OPEN.x"), {"click_action_type": 1, "click_action_activity": "com.a.OPEN.x"}),
    ],
)
def test_clicks_have_their_type(render: Callable[..., Any], click: Click | None, action: dict[str, Any]) -> None:
    (request,) = render(VENDOR, Variant("t", "b", click=click), ["CN_a"]).requests
    assert action.items() <= json.loads(form(request.body)["message"])["notification"].items()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"data": {"k": "v" * 4001}}, "data"),
        ({"category": "marketing"}, "category"),
        ({"category": "im", "class_": "marketing"}, "category"),
        ({"click": Click("url", "https://a.b/" + "c" * 2000)}, "click"),
        ({"raw": {"oppo": msgspec.Raw(b'{"app_message_id":"x"}')}}, "raw"),
    ],
)
def test_what_oppo_could_never_take_is_refused_before(
    render: Callable[..., Any], change: dict[str, Any], field: str
) -> None:
    made = render(VENDOR, msgspec.structs.replace(Variant("t", "b"), **change), ["CN_a"])
    assert made.requests == []
    assert [named for _, named, _ in made.refused] == [field]


TABLE = """
ACCEPTED 0 32
UNAVAILABLE -1 31 500 550 599
THROTTLED -2 13 55 69
CREDENTIAL 11 29 14 15 16 17 18 19 26 27 28 30 59
REJECTED 12 20 21 22 23 24 25 40 41 51 54 67
QUOTA 33 34 42
TOKEN_DEAD 10000
"""


def test_every_code_of_the_sheet_has_its_verdict(judged: Callable[..., Any]) -> None:
    found = judged(
        TABLE, lambda code: VENDOR.classify(200, {}, json.dumps({"code": int(code), "message": ""}).encode())
    )
    assert set(found) | {str(code) for code in range(500, 600)} == set(ANSWERS)
    assert {code for code in found if found[code].is_refreshable} == {"11", "29"}


def test_41_that_blames_the_id_kills_the_token() -> None:
    answer = VENDOR.classify(200, {}, '{"code":41,"message":"invalid registration_id 格式不正确"}'.encode())
    assert answer.verdict is Verdict.TOKEN_DEAD


def test_a_list_is_answered_in_its_order() -> None:
    data = [{"messageId": "1"}, {"registrationId": "x", "errorCode": 10000, "errorMessage": ""}, "?", {"errorCode": 33}]
    told = VENDOR.judge(200, {}, json.dumps({"code": 0, "data": data}).encode(), is_distinct=True)
    assert {index: answer.verdict.name for index, answer in told.by_position.items()} == {
        1: "TOKEN_DEAD",
        2: "UNCERTAIN",
        3: "QUOTA",
    }
    whole = VENDOR.judge(200, {}, b'{"code":0,"data":{"message_id":"x"}}', is_distinct=True)
    assert whole.rest.verdict is Verdict.UNAVAILABLE


def test_errors_of_a_broadcast_stand_under_their_codes() -> None:
    data = {"message_id": "m", "task_id": "t", "10000": ["A", "B"], "33": "C,D"}
    told = VENDOR.judge(200, {}, json.dumps({"code": 0, "data": data}).encode(), is_distinct=False)
    found = {token: answer.verdict.name for token, answer in told.by_token.items()}
    assert found == {b"A": "TOKEN_DEAD", b"B": "TOKEN_DEAD", b"C": "QUOTA", b"D": "QUOTA"}
    assert told.rest.verdict is Verdict.ACCEPTED


def test_the_name_of_a_saved_message_is_read_or_why_there_is_none() -> None:
    assert VENDOR.read_saved(200, {}, b'{"code":0,"data":{"message_id":"5f-1_a"}}') == "5f-1_a"
    for body in (b'{"code":0,"data":{}}', b'{"code":0,"data":{"message_id":"a&b"}}', b"", b'{"code":42}'):
        told = VENDOR.read_saved(200, {}, body)
        assert isinstance(told, Answer)
        assert told.verdict is not Verdict.ACCEPTED


def test_the_region_chooses_the_host() -> None:
    assert VENDOR.authority() == ("api-push-cn.heytapmobi.com", 443)
    assert Oppo(msgspec.structs.replace(SETTINGS, region="intl")).authority()[0] == "api-intl.push.oppomobile.com"
