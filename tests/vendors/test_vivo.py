"""vivo: the sheet's examples, two steps, receipts, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.verdict import Answer, Scope, Verdict
from vendors.vivo import ANSWERS, Settings, Vivo

SETTINGS = Settings(
    app_id=10004, app_key_id="ak-demo", app_secret_file="secret", callback_url="https://gw.example.com/cb/vivo"
)
VENDOR = Vivo(SETTINGS)
LISTS = Vivo(msgspec.structs.replace(SETTINGS, receipts="throughput"))
CHAT = Variant(
    "新消息",
    "小红:你好",
    data={"conv": "c1"},
    ttl_s=3600,
    category="im",
    collapse_id="42",
    click=Click("intent", "intent:#Intent;component=com.example.app/.MainActivity;S.conv=c1;end"),
)
TOKENS = ["15000000000000000000001", "15000000000000000000002"]


def test_the_example_of_the_sheet_comes_out_field_for_field(render: Callable[..., Any]) -> None:
    """Section 3.16. Ours besides: message_id in clientCustomMap, as requestId and as callback parameter."""
    (request,) = render(VENDOR, CHAT, TOKENS[:1], authorization=b"00000000-demo-token").requests
    assert request.path == "/message/send"
    assert request.headers == {
        "authtoken": "00000000-demo-token",
        "content-type": "application/json; charset=UTF-8",
    }
    body = json.loads(request.body)
    message_id = body.pop("requestId")
    assert len(message_id) == 36
    assert body["clientCustomMap"].pop("message_id") == message_id
    assert body["extra"].pop("callback.param") == message_id
    assert body == {
        "appId": 10004,
        "regId": TOKENS[0],
        "notifyType": 4,
        "title": "新消息",
        "content": "小红:你好",
        "timeToLive": 3600,
        "skipType": 4,
        "skipContent": "intent:#Intent;component=com.example.app/.MainActivity;S.conv=c1;end",
        "networkType": -1,
        "classification": 1,
        "category": "IM",
        "clientCustomMap": {"conv": "c1"},
        "pushMode": 0,
        "notifyId": 42,
        "extra": {"callback": "https://gw.example.com/cb/vivo"},
    }


def test_a_list_push_takes_two_steps(render: Callable[..., Any]) -> None:
    (request,) = render(LISTS, CHAT, TOKENS).requests
    assert request.path == "/message/pushToList"
    push = json.loads(request.body.replace(b"\x00saved\x00", b"800000000000000001"))
    request_id = push.pop("requestId")
    assert push == {"appId": 10004, "regIds": TOKENS, "taskId": "800000000000000001"}
    save = json.loads(request.save.body)
    assert request.save.path == "/message/saveListPayload"
    assert "regId" not in save
    assert len(save["requestId"]) == 46
    assert save["requestId"] != request_id


@pytest.mark.parametrize(
    ("change", "uses_lists"),
    [
        ({}, False),
        ({"receipts": "throughput"}, True),
        ({"callback_url": ""}, True),
        ({"callback_id": "12"}, True),
        ({"rows_per_request_max": 1, "callback_url": ""}, False),
    ],
)
def test_receipts_decide_whether_lists_are_used(
    render: Callable[..., Any], change: dict[str, Any], uses_lists: bool
) -> None:
    made = render(Vivo(msgspec.structs.replace(SETTINGS, **change)), CHAT, TOKENS)
    assert [len(request.rows) for request in made.requests] == ([2] if uses_lists else [1, 1])


def test_texts_are_cut_in_half_width_units(render: Callable[..., Any]) -> None:
    body = json.loads(render(VENDOR, Variant("长" * 30, "ab" * 60), TOKENS[:1]).requests[0].body)
    # 19 characters of two units and the mark of two; 98 of one and the mark.
    assert body["title"] == "长" * 19 + "…"
    assert body["content"] == "ab" * 49 + "…"
    wide = Vivo(msgspec.structs.replace(SETTINGS, text_unit="code_points"))
    assert json.loads(render(wide, Variant("长" * 40, "b"), TOKENS[:1]).requests[0].body)["title"] == "长" * 40


@pytest.mark.parametrize(("ttl_s", "seconds"), [(0, 60), (10, 60), (3600, 3600), (40 * 86400, 86_400)])
def test_the_ttl_stays_within_a_minute_and_a_day(render: Callable[..., Any], ttl_s: int, seconds: int) -> None:
    body = json.loads(render(VENDOR, Variant("t", "b", ttl_s=ttl_s), TOKENS[:1]).requests[0].body)
    assert body["timeToLive"] == seconds
    assert body.get("sendOnline", False) == (ttl_s == 0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"data": {"k": "v" * 1024}}, "data"),
        ({"category": "news"}, "category"),
        ({"category": "im", "class_": "marketing"}, "category"),
        ({"click": Click("intent", "x" * 2049)}, "click"),
        ({"raw": {"vivo": msgspec.Raw(b'{"regId":"x"}')}}, "raw"),
    ],
)
def test_what_vivo_could_never_take_is_refused_before(
    render: Callable[..., Any], change: dict[str, Any], field: str
) -> None:
    made = render(VENDOR, msgspec.structs.replace(CHAT, **change), TOKENS)
    assert made.requests == []
    assert [(rows, named) for rows, named, _ in made.refused] == [([0, 1], field)]


TABLE = """
ACCEPTED 0
CREDENTIAL 10000 10094 10200 10201 10202 10203 10204 10205 10206 10207 10043 10045
THROTTLED 10093 10071 10072
UNAVAILABLE 10040 10155
REJECTED 10050 10051 10082 10096 10097 10054 10055 10056 10057 10058 10059 10060 10065 10067 10095 10085 10103 10104
REJECTED 10150 10151 10152 10153 10304 10305 10306 10352 10353 10800 10801
QUOTA 10070 10073 10252 10254
TOKEN_DEAD 10302 10303 10307
TOKEN_MUTED 10311
"""


def test_every_code_of_the_sheet_has_its_verdict(judged: Callable[..., Any]) -> None:
    found = judged(TABLE, lambda code: VENDOR.classify(200, {}, json.dumps({"result": int(code), "desc": ""}).encode()))
    assert set(found) == set(ANSWERS)
    assert {code for code in found if found[code].is_refreshable} == {"10000"}
    assert VENDOR.classify(200, {}, b'{"result":10070}').scope is Scope.CLASS
    assert VENDOR.classify(500, {}, b"").verdict is Verdict.UNAVAILABLE


@pytest.mark.parametrize(
    ("status", "verdict"), [(1, "TOKEN_DEAD"), (2, "TOKEN_MUTED"), (3, "TOKEN_MUTED"), (4, "REJECTED"), (9, "REJECTED")]
)
def test_the_state_of_an_invalid_user_decides(status: int, verdict: str) -> None:
    user = {"status": status, "userid": "A"}
    single = json.dumps({"result": 10302, "desc": "", "invalidUser": user}).encode()
    assert VENDOR.classify(200, {}, single).verdict.name == verdict
    many = json.dumps({"result": 0, "invalidUsers": [user, "?"]}).encode()
    told = VENDOR.judge(200, {}, many, is_distinct=False)
    assert {token: answer.verdict.name for token, answer in told.by_token.items()} == {b"A": verdict}
    assert told.rest.verdict is Verdict.ACCEPTED


def test_the_name_of_a_saved_message_is_read_or_why_there_is_none() -> None:
    assert VENDOR.read_saved(200, {}, b'{"result":0,"taskId":"800000000000000001"}') == "800000000000000001"
    assert VENDOR.read_saved(200, {}, b'{"result":0,"taskId":800}') == "800"
    for body in (b'{"result":0}', b'{"result":0,"taskId":"a/b"}', b"", b'{"result":10252}'):
        told = VENDOR.read_saved(200, {}, body)
        assert isinstance(told, Answer)
        assert told.verdict is not Verdict.ACCEPTED
