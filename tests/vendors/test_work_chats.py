"""WeCom and DingTalk: cards and texts, lists of persons, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.verdict import Verdict
from vendors import dingtalk, wecom

WECOM = wecom.Wecom(wecom.Settings(corpid="ww1", agentid=1_000_002, corp_secret_file="s"))
DINGTALK = dingtalk.Dingtalk(dingtalk.Settings(app_key_id="ding1", agent_id=7, app_secret_file="s"))
VENDORS = {"wecom": WECOM, "dingtalk": DINGTALK}
URL = Click("url", "https://a.b/c?d=e#f")


def test_wecom_sends_cards_where_something_opens_and_texts_elsewhere(render: Callable[..., Any]) -> None:
    (request,) = render(WECOM, Variant("T", 'B"', click=URL), ["zhang"], authorization=b"TOKEN").requests
    assert request.path == "/cgi-bin/message/send?access_token=TOKEN"
    body = json.loads(request.body)
    url = body["textcard"].pop("url")
    assert url.startswith("https://a.b/c?d=e&message_id=01")
    assert url.endswith("#f")
    repeats = {"enable_duplicate_check": 1, "duplicate_check_interval": 1800}
    assert body == {
        "touser": "zhang",
        "agentid": 1_000_002,
        "msgtype": "textcard",
        "textcard": {"title": "T", "description": 'B"'},
        **repeats,
    }
    (request,) = render(WECOM, Variant("T", 'B"'), ["zhang"]).requests
    assert json.loads(request.body) == {
        "touser": "zhang",
        "agentid": 1_000_002,
        "msgtype": "text",
        "text": {"content": 'T\nB"'},
        **repeats,
    }


def test_dingtalk_sends_links_where_something_opens_and_texts_elsewhere(render: Callable[..., Any]) -> None:
    variant = Variant("T", "B", click=URL, image="https://i.b/p.png")
    (request,) = render(DINGTALK, variant, ["u1"], authorization=b"TOKEN").requests
    assert request.path == "/topapi/message/corpconversation/asyncsend_v2?access_token=TOKEN"
    body = json.loads(request.body)
    assert body["msg"]["link"].pop("messageUrl").startswith("https://a.b/c?d=e&message_id=01")
    assert body == {
        "agent_id": 7,
        "userid_list": "u1",
        "msg": {"msgtype": "link", "link": {"title": "T", "text": "B", "picUrl": "https://i.b/p.png"}},
    }
    (request,) = render(DINGTALK, Variant("T", "B"), ["u1"]).requests
    assert json.loads(request.body)["msg"] == {"msgtype": "text", "text": {"content": "T\nB"}}


@pytest.mark.parametrize(
    ("name", "key", "mark", "most"), [("wecom", "touser", "|", 1000), ("dingtalk", "userid_list", ",", 100)]
)
def test_one_content_goes_to_as_many_persons_as_one_request_takes(
    render: Callable[..., Any], name: str, key: str, mark: str, most: int
) -> None:
    users = [f"user{index}" for index in range(2 * most + 1)]
    made = render(VENDORS[name], Variant("t", "b", click=URL), users)
    assert len(made.requests) == 3
    told, links = [], set()
    for request in made.requests:
        body = json.loads(request.body)
        told += body[key].split(mark)
        card = body.get("textcard") or body["msg"]["link"]
        links.add(card.get("url") or card["messageUrl"])
    assert told == users
    # Each request has an address of its own.
    assert len(links) == 3


@pytest.mark.parametrize("name", VENDORS)
def test_long_texts_are_cut_in_the_vendors_unit_and_intents_refused(render: Callable[..., Any], name: str) -> None:
    (request,) = render(VENDORS[name], Variant("长" * 100, "长" * 3000, click=URL), ["u"]).requests
    body = json.loads(request.body)
    if name == "wecom":
        card = body["textcard"]
        assert (len(card["title"].encode()), len(card["description"].encode())) == (126, 510)
    else:
        card = body["msg"]["link"]
        assert len(card["title"]) == 64
        assert len(json.dumps(body["msg"], ensure_ascii=False, separators=(",", ":")).encode()) <= 2048
    (request,) = render(VENDORS[name], Variant("t", "长" * 3000), ["u"]).requests
    assert len(json.loads(request.body).get("text", {}).get("content", "").encode()) <= 2048
    (refused,) = render(VENDORS[name], Variant("t", "b", click=Click("intent", "x")), ["u"]).refused
    assert refused[1] == "click"


def test_the_id_stands_where_the_settings_say(render: Callable[..., Any]) -> None:
    own = wecom.Wecom(msgspec.structs.replace(WECOM.settings, url_parameter="mid", card_url="https://card.b"))
    (request,) = render(own, Variant("t", "b"), ["u"]).requests
    assert json.loads(request.body)["textcard"]["url"].startswith("https://card.b?mid=01")
    none = wecom.Wecom(msgspec.structs.replace(WECOM.settings, url_parameter=""))
    (request,) = render(none, Variant("t", "b", click=URL), ["u"]).requests
    assert json.loads(request.body)["textcard"]["url"] == "https://a.b/c?d=e#f"
    for changes in ({"card_url": "ftp://x"}, {"url_parameter": "a b"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"corpid": "w", "agentid": 1, "corp_secret_file": "s"} | changes, wecom.Settings)


TABLES = {
    "wecom": """
ACCEPTED 0
UNAVAILABLE -1
CREDENTIAL 40001 40014 41001 42001 40013 40056 48002 60011 60020 301002
REJECTED 40008 40031 40058 44004 45002 47001 82001
THROTTLED 45009 45033
TOKEN_MUTED 81013
""",
    "dingtalk": """
ACCEPTED 0
UNAVAILABLE -1
CREDENTIAL 88 40001 40014 42001 40089 60020
REJECTED 40035 34018
TOKEN_MUTED 33012
THROTTLED 90002 90018 143103 143104 143105
""",
}


@pytest.mark.parametrize("name", VENDORS)
def test_every_code_has_its_verdict(name: str, judged: Callable[..., Any]) -> None:
    vendor = VENDORS[name]
    found = judged(TABLES[name], lambda code: vendor.classify(200, {}, json.dumps({"errcode": int(code)}).encode()))
    assert set(found) == set({"wecom": wecom, "dingtalk": dingtalk}[name].ANSWERS)


def test_wecom_names_persons_and_they_are_muted() -> None:
    body = b'{"errcode":0,"errmsg":"ok","invaliduser":"li|wang","unlicenseduser":"zhao"}'
    told = WECOM.judge(200, {}, body, is_distinct=False)
    assert told.rest.verdict is Verdict.ACCEPTED
    assert {user: answer.verdict.name for user, answer in told.by_token.items()} == {
        b"li": "TOKEN_MUTED",
        b"wang": "TOKEN_MUTED",
        b"zhao": "CREDENTIAL",
    }
    assert WECOM.check_token("Zhang") == "token is no user id in lower case"
    assert DINGTALK.check_token("Zhang") == ""


def test_dingtalk_mutes_nobody_for_a_list() -> None:
    assert DINGTALK.judge(200, {}, b'{"errcode":33012}', is_distinct=False).rest.verdict is Verdict.REJECTED
