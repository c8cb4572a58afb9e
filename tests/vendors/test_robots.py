"""Group robots of WeCom and DingTalk: keys and signatures in the query, texts and markdown, mentions, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.verdict import Scope, Verdict
from vendors import dingtalk_robot, wecom_robot
from vendors.auth.robot_keys import RobotKeys, dingtalk_signature
from vendors.dingtalk_robot import DingtalkRobot
from vendors.wecom_robot import WecomRobot

KEY, TOKEN, SECRET = "693a91f6-7000-4bc4-97a0-0ec2000000aa", "f" * 64, "SEC" + "1" * 64
FILE = f"ops {KEY}\nalarms {KEY[::-1]}\nding {TOKEN} {SECRET}\nbare {TOKEN[1:]}\n".encode()
ROBOTS = RobotKeys(FILE).issue(0.0).authorization
URL = Click("url", "https://a.b/c?d=(e)#f")


def wecom(**changes: Any) -> WecomRobot:
    return WecomRobot(wecom_robot.Settings(robots_file="r", **changes))


def dingtalk(**changes: Any) -> DingtalkRobot:
    return DingtalkRobot(dingtalk_robot.Settings(robots_file="r", **changes))


def test_each_message_goes_under_the_key_of_its_robot(render: Callable[..., Any]) -> None:
    made = render(wecom(), Variant("T", 'B"'), ["ops", "alarms", "nobody"], authorization=ROBOTS)
    paths = [request.path for request in made.requests]
    assert paths == [f"/cgi-bin/webhook/send?key={key}" for key in (KEY, KEY[::-1], "unknown")]
    assert json.loads(made.requests[0].body) == {"msgtype": "text", "text": {"content": 'T\nB"'}}


def test_dingtalk_signs_the_milliseconds_where_a_robot_has_a_secret(render: Callable[..., Any]) -> None:
    requests = render(dingtalk(), Variant("T", "B"), ["ding", "bare", "nobody"], authorization=ROBOTS).requests
    path, _, query = requests[0].path.partition("?")
    found = {name: value for name, (value,) in parse_qs(query, strict_parsing=True).items()}
    assert path == "/robot/send"
    assert found["access_token"] == TOKEN
    assert found["sign"] == dingtalk_signature(SECRET.encode(), found["timestamp"].encode()).decode()
    assert [request.path for request in requests[1:]] == [
        f"/robot/send?access_token={TOKEN[1:]}",
        "/robot/send?access_token=unknown",
    ]
    assert json.loads(requests[0].body) == {"msgtype": "text", "text": {"content": "T\nB"}}


def test_what_opens_is_markdown_at_wecom_and_a_link_at_dingtalk(render: Callable[..., Any]) -> None:
    variant = Variant("T", "B", click=URL, image="https://i.b/p.png")
    (request,) = render(wecom(), variant, ["ops"], authorization=ROBOTS).requests
    content = json.loads(request.body)["markdown"]["content"]
    assert content.startswith("**T**\nB\n\n[打开](https://a.b/c?d=%28e%29&message_id=01")
    assert content.endswith("#f)")
    (request,) = render(dingtalk(), variant, ["ding"], authorization=ROBOTS).requests
    link = json.loads(request.body)["link"]
    assert link.pop("messageUrl").startswith("https://a.b/c?d=(e)&message_id=01")
    assert link == {"title": "T", "text": "B", "picUrl": "https://i.b/p.png"}
    (request,) = render(dingtalk(style="markdown"), variant, ["ding"], authorization=ROBOTS).requests
    shown = json.loads(request.body)["markdown"]
    assert shown["title"] == "T"
    assert shown["text"].startswith("#### T\n\nB\n\n[打开](https://a.b/c?d=%28e%29&message_id=01")
    for vendor in (wecom(), dingtalk(), dingtalk(style="markdown")):
        (refused,) = render(vendor, Variant("t", "b", click=Click("intent", "x")), ["ops"]).refused
        assert refused[1] == "click"


def test_mentions_come_from_the_configuration_or_from_raw(render: Callable[..., Any]) -> None:
    called = {"mentioned": ("@all", "zhang"), "mentioned_mobiles": ("13800001111",)}
    (request,) = render(wecom(**called), Variant("t", "b"), ["ops"], authorization=ROBOTS).requests
    text = {"content": "t\nb", "mentioned_list": ["@all", "zhang"], "mentioned_mobile_list": ["13800001111"]}
    assert json.loads(request.body)["text"] == text
    (request,) = render(dingtalk(**called), Variant("t", "b"), ["ding"], authorization=ROBOTS).requests
    at = {"atUserIds": ["zhang"], "atMobiles": ["13800001111"], "isAtAll": True}
    assert json.loads(request.body)["at"] == at
    raw = {"wecom_robot": msgspec.Raw(b'{"text":{"mentioned_list":["li"]}}')}
    (request,) = render(wecom(), Variant("t", "b", raw=raw), ["ops"], authorization=ROBOTS).requests
    assert json.loads(request.body)["text"]["mentioned_list"] == ["li"]


@pytest.mark.parametrize("style", ["text", "markdown"])
@pytest.mark.parametrize("click", [None, Click("url", "https://a.b/" + "長" * 500)])
def test_long_texts_are_cut_to_what_a_robot_takes(render: Callable[..., Any], style: str, click: Click | None) -> None:
    variant = Variant("长" * 100, "长" * 30_000, click=click)
    (request,) = render(wecom(style=style), variant, ["ops"], authorization=ROBOTS).requests
    body = json.loads(request.body)
    most = 4096 if body["msgtype"] == "markdown" else 2048
    assert 0.85 * most < len(body[body["msgtype"]]["content"].encode()) <= most
    made = render(dingtalk(style=style), variant, ["ding"], authorization=ROBOTS)
    assert len(made.requests[0].body) <= 20_000
    assert made.truncated == [0]


TABLES = {
    "wecom_robot": """
ACCEPTED 0
UNAVAILABLE -1
CREDENTIAL 93000 93004 93008
REJECTED 40008 40058 44004 45002 47001
THROTTLED 45009 45033
""",
    "dingtalk_robot": """
ACCEPTED 0
UNAVAILABLE -1
CREDENTIAL 300001 300005 310000
REJECTED 40035 400013 400101 400102
THROTTLED 130101 410100 90030
""",
}


@pytest.mark.parametrize("name", TABLES)
def test_every_code_has_its_verdict_and_blames_one_robot(name: str, judged: Callable[..., Any]) -> None:
    vendor = {"wecom_robot": wecom(), "dingtalk_robot": dingtalk()}[name]
    found = judged(TABLES[name], lambda code: vendor.classify(200, {}, json.dumps({"errcode": int(code)}).encode()))
    assert set(found) == set(vendor.answers)
    blamed = [answer for answer in found.values() if answer.verdict in (Verdict.CREDENTIAL, Verdict.THROTTLED)]
    assert {answer.scope for answer in blamed} == {Scope.DEVICE}


def test_settings_and_names_of_the_wrong_form_are_refused() -> None:
    for changes in ({"messages_per_minute": 0}, {"link_text": "a]"}, {"link_text": ""}, {"rows_per_request_max": 2}):
        with pytest.raises(ValueError):
            wecom(**changes)
    with pytest.raises(ValueError):
        dingtalk(message_bytes_max=10)
    assert wecom().check_token("ops-1.a_b") == ""
    assert wecom().check_token("https://x")
