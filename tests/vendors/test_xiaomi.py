"""Xiaomi: the sheet's example, forms, lists, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.verdict import Scope, Verdict
from vendors.xiaomi import ANSWERS, HOSTS, Settings, Xiaomi

SETTINGS = Settings(
    package_name="com.example.app", app_secret_file="secret", callback_url="https://gw.example.com/cb/mi"
)
VENDOR = Xiaomi(SETTINGS)
TOKENS = ["dEmO+regidA=", "dEmO+regidB="]


def form(body: bytes) -> dict[str, str]:
    parsed = parse_qs(body.decode("ascii"), strict_parsing=True, keep_blank_values=True)
    assert all(len(values) == 1 for values in parsed.values())
    return {name: values[0] for name, values in parsed.items()}


def test_the_example_of_the_sheet_comes_out_field_for_field(render: Callable[..., Any]) -> None:
    """Section 1.16. Ours besides: message_id in the payload, the address as callback parameter."""
    raw = {"extra": {"template_id": "T0001", "template_param": {"no": "A1"}}}
    order = Variant(
        "订单",
        "已发货",
        data={"k": 1},
        ttl_s=3600,
        category="orders",
        collapse_id="42",
        raw={"xiaomi": msgspec.Raw(json.dumps(raw).encode())},
    )
    vendor = Xiaomi(msgspec.structs.replace(SETTINGS, channels={"orders": "112233"}, data_in="payload"))
    (request,) = render(vendor, order, TOKENS, authorization=b"key=DEMOAPPSECRET==").requests
    assert request.path == "/v3/message/regid"
    assert request.headers == {
        "authorization": "key=DEMOAPPSECRET==",
        "content-type": "application/x-www-form-urlencoded",
    }
    fields = form(request.body)
    payload = json.loads(unquote(fields.pop("payload")))
    assert payload.pop("message_id")
    assert payload == {"k": 1}
    assert len(fields.pop("extra.callback.param")) == 46
    assert b"registration_id=dEmO%2BregidA%3D%2CdEmO%2BregidB%3D&" in request.body
    assert b"title=%E8%AE%A2%E5%8D%95&description=%E5%B7%B2%E5%8F%91%E8%B4%A7" in request.body
    assert json.loads(fields.pop("extra.template_param")) == {"no": "A1"}
    assert fields == {
        "registration_id": "dEmO+regidA=,dEmO+regidB=",
        "restricted_package_name": "com.example.app",
        "pass_through": "0",
        "title": "订单",
        "description": "已发货",
        "notify_type": "-1",
        "notify_id": "42",
        "time_to_live": "3600000",
        "extra.channel_id": "112233",
        "extra.template_id": "T0001",
        "extra.notify_effect": "1",
        "extra.callback": "https://gw.example.com/cb/mi",
        "extra.callback.type": "1267",
    }


def test_different_texts_go_as_a_list_of_messages(render: Callable[..., Any]) -> None:
    values = ['a"b&=%', "长" * 200, "🎉\n"]
    variant = Variant("{{x}}", "b{{x}}", data={"k": "{{x}}"})
    (request,) = render(VENDOR, variant, ["t+1", "t=2", "t3"], variables={"x": values}).requests
    assert request.path == "/v2/multi_messages/regids"
    messages = json.loads(form(request.body)["messages"])
    assert [message["target"] for message in messages] == ["t+1", "t=2", "t3"]
    for message, value in zip(messages, values, strict=True):
        told = message["message"]
        assert told["title"] == (value if len(value) < 50 else "长" * 48 + "…")
        assert told["description"] == ("b" + value if len(value) < 50 else "b" + "长" * 125 + "…")
        assert told["extra"]["k"] == value
        assert told["restricted_package_name"] == "com.example.app"
        assert json.loads(unquote(told["payload"]))["message_id"] == told["extra"]["callback.param"]


def test_a_list_of_one_message_is_a_single_push_with_the_same_texts(render: Callable[..., Any]) -> None:
    variants = [Variant(f"t{number}", "b" * 300) for number in range(3)]
    vendor = Xiaomi(msgspec.structs.replace(SETTINGS, messages_per_request_max=2))
    made = render(vendor, variants, ["t1", "t2", "t3"])
    assert [(request.path, request.rows) for request in made.requests] == [
        ("/v2/multi_messages/regids", [0, 1]),
        ("/v3/message/regid", [2]),
    ]
    alone = form(made.requests[1].body)
    assert (alone["registration_id"], alone["title"], alone["description"]) == ("t3", "t2", "b" * 126 + "…")


def test_each_content_without_a_collapse_id_has_a_slot_of_its_own_and_keeps_it(render: Callable[..., Any]) -> None:
    """notify_id absent or 0 would be one slot for all; a second copy must replace the first."""
    ids = {}
    for title in ("one", "two"):
        for tokens in (["t1", "t2"], ["t1"]):
            (request,) = render(VENDOR, Variant(title, "b"), tokens).requests
            ids.setdefault(title, set()).add(int(form(request.body)["notify_id"]))
    assert all(len(found) == 1 for found in ids.values())
    assert ids["one"] != ids["two"]


@pytest.mark.parametrize(
    ("class_", "ttl_s", "milliseconds"),
    [("system", 7200, 7_200_000), ("system", 40 * 86400, 864_000_000), ("marketing", 40 * 86400, 86_400_000)],
)
def test_the_ttl_is_milliseconds_within_what_the_class_allows(
    render: Callable[..., Any], class_: Any, ttl_s: int, milliseconds: int
) -> None:
    (request,) = render(VENDOR, Variant("t", "b", ttl_s=ttl_s, class_=class_), ["t1"]).requests
    assert form(request.body)["time_to_live"] == str(milliseconds)


def test_now_or_never_is_sent_once(render: Callable[..., Any]) -> None:
    (request,) = render(VENDOR, Variant("t", "b", ttl_s=0), ["t1"]).requests
    assert form(request.body)["extra.only_send_once"] == "1"


@pytest.mark.parametrize(
    ("click", "expected"),
    [
        (Click("app"), {"extra.notify_effect": "1"}),
        (Click("url", "https://a.b/?c=d&e"), {"extra.notify_effect": "3", "extra.web_uri": "https://a.b/?c=d&e"}),
        (Click("intent", "intent:#Intent;end"), {"extra.notify_effect": "2", "extra.intent_uri": "intent:#Intent;end"}),
    ],
)
def test_clicks_have_their_effect(render: Callable[..., Any], click: Click, expected: dict[str, str]) -> None:
    (request,) = render(VENDOR, Variant("t", "b", click=click), ["t1"]).requests
    assert expected.items() <= form(request.body).items()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"data": {f"k{number}": number for number in range(11)}}, "data"),
        ({"data": {"k": "v" * 1025}}, "data"),
        ({"data": {"notify_effect": "9"}}, "data"),
        ({"raw": {"xiaomi": msgspec.Raw(b'{"registration_id":"x"}')}}, "raw"),
        ({"raw": {"xiaomi": msgspec.Raw(b'{"extra":1}')}}, "raw"),
    ],
)
def test_what_xiaomi_could_never_take_is_refused_before(
    render: Callable[..., Any], change: dict[str, Any], field: str
) -> None:
    made = render(VENDOR, msgspec.structs.replace(Variant("t", "b"), **change), TOKENS)
    assert made.requests == []
    assert [(rows, named) for rows, named, _ in made.refused] == [([0, 1], field)]


def test_the_region_chooses_the_host() -> None:
    for region, host in HOSTS.items():
        settings = msgspec.convert({**msgspec.structs.asdict(SETTINGS), "region": region}, Settings)
        assert Xiaomi(settings).authority() == (host, 443)
    assert Xiaomi(msgspec.structs.replace(SETTINGS, host="sim", port=1)).authority() == ("sim", 1)


TABLE = """
UNAVAILABLE -1 1 10001 10002 10003 20607 26003 65029 65030 22102 10037 20301
REJECTED 10008 10016 10017 10018 21305 100 65011 10012 10020 10021 10007 10041 65009 65014 65015 65036 65037 65038
REJECTED 65008 65010 65012 65013 65016 65017 65035 20209 27001 26006
THROTTLED 10022 10023 10024 10027 10028 26004 200002 10030 10032 10039
QUOTA 10034 200001
TOKEN_DEAD 66007 10029 65003
CREDENTIAL 21301 21302 21303 22000 22001 22002 22003 22004 22005 22006 22007 22008 22022
CREDENTIAL 10004 10005 10014 10026 10031 10033 10036 10038
"""


def test_every_code_of_the_sheet_has_its_verdict(judged: Callable[..., Any]) -> None:
    found = judged(
        TABLE, lambda code: VENDOR.classify(200, {}, json.dumps({"result": "error", "code": int(code)}).encode())
    )
    assert set(found) | {"0"} == set(ANSWERS)
    assert not any(answer.is_refreshable for answer in found.values())
    assert VENDOR.classify(200, {}, b'{"code":200001}').scope is Scope.CLASS


def test_bad_regids_of_a_good_answer_are_dead_tokens() -> None:
    body = b'{"result":"ok","code":0,"data":{"id":"scm1","bad_regids":"B,C","day_quota":"20000"}}'
    told = VENDOR.judge(200, {}, body, is_distinct=False)
    assert told.rest.verdict is Verdict.ACCEPTED
    assert {token: answer.verdict.name for token, answer in told.by_token.items()} == {
        b"B": "TOKEN_DEAD",
        b"C": "TOKEN_DEAD",
    }
    assert VENDOR.classify(200, {}, body).verdict is Verdict.TOKEN_DEAD


def test_20301_kills_a_token_only_where_it_says_so_of_one_target() -> None:
    none = b'{"result":"error","code":20301,"reason":"There is no valid targets to send message."}'
    assert VENDOR.classify(200, {}, none).verdict is Verdict.TOKEN_DEAD
    # Of a list it may be a wrong region or package as well: section 1.13 calls it the vendor's error.
    told = VENDOR.judge(200, {}, none, is_distinct=False)
    assert (told.rest.verdict, told.rest.name) == (Verdict.UNAVAILABLE, "20301_no_valid_target")
    assert not told.by_token
    assert VENDOR.classify(200, {}, b'{"code":20301,"reason":"send failed"}').verdict is Verdict.UNAVAILABLE


def test_a_code_about_one_id_does_not_kill_a_list() -> None:
    told = VENDOR.judge(200, {}, b'{"code":66007}', is_distinct=True)
    assert told.rest.verdict is Verdict.REJECTED


def test_messages_dropped_for_a_channels_quota_are_counted_by_name() -> None:
    told = VENDOR.judge(200, {}, b'{"code":0,"data":{"channel_exceed_quota":"a:3"}}', is_distinct=True)
    assert (told.rest.verdict, told.rest.name) == (Verdict.ACCEPTED, "channel_exceed_quota")
