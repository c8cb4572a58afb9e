"""The judges of group robots: keys, signatures, messages, rates."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from urllib.parse import urlencode

import pytest

from bench.simulators.dingtalk_robot import ROBOT_TOKEN, robot_signature


def _said(answer):
    return json.loads(answer.body)["errcode"]


def _wecom(robot, key=None, **body):
    key = robot.known["robot_key"] if key is None else key
    return robot.ask(f"/cgi-bin/webhook/send?key={key}", body)


def test_a_robot_of_wecom_has_a_key_and_a_rate(judge):
    robot = judge("wecom_robot", messages_per_minute=1)
    body = {"msgtype": "markdown", "markdown": {"content": "# hello"}}
    answer = _wecom(robot, **body)
    assert (_said(answer), answer.rows[0].body, answer.rows[0].token) == (0, "# hello", robot.known["robot_key"])
    assert _said(_wecom(robot, **body)) == 45009
    assert _said(_wecom(robot, key="x", **body)) == 93000
    assert _said(_wecom(judge("wecom_robot", robot_keys=["a"]), key=str(uuid.uuid4()), **body)) == 93000


def test_wecom_names_a_row_by_the_link_of_its_markdown_or_article(judge):
    robot, message_id = judge("wecom_robot"), uuid.uuid4()
    link = f"https://x/?message_id={message_id}"
    [row] = _wecom(robot, msgtype="markdown", markdown={"content": f"**t**\nb\n\n[open]({link})"}).rows
    assert row.message_id == message_id.bytes
    articles = [{"title": "t", "description": "b", "url": link}]
    [row] = _wecom(robot, msgtype="news", news={"articles": articles}).rows
    assert (row.message_id, row.title, row.body) == (message_id.bytes, "t", "b")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"msgtype": "voice"}, 40008),
        ({"msgtype": "text"}, 44004),
        ({"msgtype": "text", "text": {"content": " "}}, 44004),
        ({"msgtype": "text", "text": {"content": "x" * 2_049}}, 45002),
        ({"msgtype": "markdown", "markdown": {"content": "x" * 4_097}}, 45002),
        ({"msgtype": "text", "text": {"content": "x", "mentioned_list": "all"}}, 47001),
        ({"msgtype": "text", "text": {"content": "x"}, "colour": 1}, 47001),
        ({}, 40008),
    ],
)
def test_wecom_refuses_a_robots_message(judge, body, code):
    answer = _wecom(judge("wecom_robot"), **body)
    assert (_said(answer), answer.rows) == (code, ())


def _dingtalk(robot, body, **changes):
    secret, stamp = robot.known["robot_secret"], str(int(robot.clock.now_unix_s() * 1000))
    expected = base64.b64encode(hmac.new(secret.encode(), f"{stamp}\n{secret}".encode(), hashlib.sha256).digest())
    assert robot_signature(secret, stamp) == expected.decode()
    query = {"access_token": ROBOT_TOKEN, "timestamp": stamp, "sign": expected.decode()} | changes
    return robot.ask(f"/robot/send?{urlencode(query)}", body)


def _text(content):
    return {"msgtype": "text", "text": {"content": content}, "at": {"isAtAll": False}}


def test_a_robot_of_dingtalk_wants_a_signature_and_a_keyword(judge):
    robot = judge("dingtalk_robot", keyword="gateway")
    assert _said(_dingtalk(robot, _text("gateway"), access_token="x")) == 300001
    assert _said(_dingtalk(robot, _text("gateway"), sign="x")) == 310000
    assert _said(_dingtalk(robot, _text("gateway"), timestamp="1")) == 310000
    assert _said(_dingtalk(robot, _text("hello"))) == 310000
    answer = _dingtalk(robot, _text("gateway down"))
    assert (_said(answer), answer.rows[0].body, answer.rows[0].token) == (0, "gateway down", ROBOT_TOKEN)


def test_a_robot_of_dingtalk_that_writes_too_much_is_shut_out(judge):
    robot = judge("dingtalk_robot", messages_per_minute=1)
    assert [_said(_dingtalk(robot, _text("x"))) for _ in range(2)] == [0, 130101]
    robot.clock.advance(120)
    assert _said(_dingtalk(robot, _text("x"))) == 130101
    # Another robot is not.
    assert _said(_dingtalk(robot, _text("x"), access_token="a" * 64)) == 0
    robot.clock.advance(500)
    assert _said(_dingtalk(robot, _text("x"))) == 0


@pytest.mark.parametrize(
    "body",
    [
        {"msgtype": "voice"},
        {"msgtype": "text"},
        {"msgtype": "text", "text": {"content": ""}},
        {"msgtype": "link", "link": {"title": "t", "text": "x"}},
        _text("x") | {"colour": 1},
        _text("x") | {"at": {"atMobiles": "1"}},
    ],
)
def test_dingtalk_refuses_a_robots_message(judge, body):
    assert _said(_dingtalk(judge("dingtalk_robot"), body)) == 40035
