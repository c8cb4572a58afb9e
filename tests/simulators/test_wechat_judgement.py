"""The judge of WeChat subscribe messages: tokens, the example of the fact sheet, value forms, consent, events."""

from __future__ import annotations

import hashlib
import json
import uuid
from xml.etree import ElementTree

import pytest

from bench.simulators.wechat import callback_signature

SEND = "/cgi-bin/message/subscribe/send"
OPENID, TEMPLATE = "oDEMO00000000000000000000001", "TPLdemo000000000000000000000000000000000000"
EXAMPLE = {
    "touser": OPENID,
    "template_id": TEMPLATE,
    "page": "pages/order/index?id=1",
    "miniprogram_state": "formal",
    "lang": "zh_CN",
    "data": {
        "character_string1": {"value": "A20261121"},
        "thing2": {"value": "您的包裹已发货"},
        "time3": {"value": "2026年11月21日 21:30"},
    },
}


def _token(wechat, **changes):
    body = {"grant_type": "client_credential", "appid": wechat.known["appid"], "secret": wechat.known["secret"]}
    return json.loads(wechat.ask("/cgi-bin/stable_token", body | changes).body)


def _ask(wechat, body=EXAMPLE, *, token=None):
    token = _token(wechat)["access_token"] if token is None else token
    return wechat.ask(f"{SEND}?access_token={token}", body)


def _said(answer):
    return json.loads(answer.body)["errcode"]


def test_wechat_accepts_the_example(judge):
    wechat = judge("wechat", receipts={"callback_url": "http://x"})
    answer = _ask(wechat)
    assert (answer.status, _said(answer), json.loads(answer.body)["errmsg"]) == (200, 0, "ok")
    [row] = answer.rows
    assert (row.token, row.title, row.body) == (OPENID, TEMPLATE, "A20261121\n您的包裹已发货\n2026年11月21日 21:30")
    message_id = uuid.uuid4()
    [row] = _ask(wechat, EXAMPLE | {"page": f"pages/a?message_id={message_id}"}).rows
    assert row.message_id == message_id.bytes


def test_wechat_stable_token_stays_until_it_is_forced(judge):
    wechat = judge("wechat")
    first = _token(wechat)
    assert first["expires_in"] == 7_200
    assert _token(wechat)["access_token"] == first["access_token"]
    wechat.clock.advance(6_901)
    second = _token(wechat)
    assert second["access_token"] != first["access_token"]
    assert _said(_ask(wechat, token=first["access_token"])) == 0  # the old one lives on for a while
    forced = _token(wechat, force_refresh=True)["access_token"]
    assert _said(_ask(wechat, token=second["access_token"])) == 42001
    assert _said(_ask(wechat, token=forced)) == 0
    assert _token(wechat, force_refresh=True)["errcode"] == 45009


def test_wechat_classic_token_ends_the_ones_before(judge):
    wechat = judge("wechat", classic_calls_per_day=2)
    path = f"/cgi-bin/token?grant_type=client_credential&appid={wechat.known['appid']}&secret={wechat.known['secret']}"
    answers = [json.loads(wechat.ask(path, method="GET").body) for _ in range(3)]
    assert answers[2]["errcode"] == 45009
    wechat.clock.advance(300)
    assert _said(_ask(wechat, token=answers[0]["access_token"])) == 42001
    assert _said(_ask(wechat, token=answers[1]["access_token"])) == 0


@pytest.mark.parametrize(
    ("changes", "code"), [({"grant_type": "x"}, 40002), ({"appid": "wx1"}, 40013), ({"secret": "x"}, 40125)]
)
def test_wechat_refuses_a_token(judge, changes, code):
    assert _token(judge("wechat"), **changes)["errcode"] == code


def _data(**values):
    return EXAMPLE | {"data": {key: {"value": value} for key, value in values.items()}}


FAULTS = {
    "openid": (EXAMPLE | {"touser": "x"}, 40003),
    "template": (EXAMPLE | {"template_id": "x"}, 40037),
    "page": (EXAMPLE | {"page": "https://example.com/a b"}, 41030),
    "state": (EXAMPLE | {"miniprogram_state": "beta"}, 47003),
    "no data": ({key: value for key, value in EXAMPLE.items() if key != "data"}, 47003),
    "empty data": (EXAMPLE | {"data": {}}, 47003),
    "value of no object": (EXAMPLE | {"data": {"thing1": "x"}}, 47003),
    "sensitive": (_data(thing1="forbidden"), 45168),
    "no json": (b"{", 47001),
}


@pytest.mark.parametrize("case", FAULTS)
def test_wechat_refuses(judge, case):
    body, code = FAULTS[case]
    answer = _ask(judge("wechat", sensitive_words=["forbidden"]), body)
    assert (answer.status, _said(answer), answer.rows) == (200, code, ())
    assert " rid: " in json.loads(answer.body)["errmsg"]


GOOD = {
    "thing1": ["x", "您" * 20],
    "number1": ["1", "-12.5", "9" * 32],
    "letter1": ["abcXYZ"],
    "symbol1": ["+-*"],
    "character_string1": ["A-1 #2"],
    "time1": ["15:01", "2019年10月1日 15:01", "15:01~16:01"],
    "date1": ["2019年10月1日", "2019-10-01 15:01", "2019/10/1", "2019.10.1~2019.10.3"],
    "amount1": ["¥12.50", "100元"],
    "phone_number1": ["+86-0766-66888866"],
    "car_number1": ["粤A8Z888挂"],
    "name1": ["张三", "John Smith"],
    "phrase1": ["配送中"],
}
BAD = {
    "thing1": ["", " ", "您" * 21, "a\nb", "a\0"],
    "number1": ["1a", "9" * 33],
    "letter1": ["a1", "a" * 33],
    "symbol1": ["abc", "+" * 6],
    "character_string1": ["您", "x" * 33],
    "time1": ["25:01", "now"],
    "date1": ["15:01", "2019"],
    "amount1": ["12 dollars", "1" * 11],
    "phone_number1": ["1" * 18, "call"],
    "car_number1": ["A" * 9],
    "name1": ["张" * 11, "J" * 21],
    "phrase1": ["配送中的包裹", "abc"],
    "thing": ["x"],
    "text1": ["x"],
}


@pytest.mark.parametrize("key", GOOD)
def test_wechat_takes_values_of_their_type(judge, key):
    for value in GOOD[key]:
        assert _said(_ask(judge("wechat"), _data(**{key: value}))) == 0, value


@pytest.mark.parametrize("key", BAD)
def test_wechat_refuses_values_that_are_not_of_their_type(judge, key):
    for value in BAD[key]:
        answer = _ask(judge("wechat"), _data(**{key: value}))
        assert _said(answer) == 47003, value
        assert f"argument invalid! data.{key}.value invalid" in json.loads(answer.body)["errmsg"]


def test_wechat_wants_the_keys_of_the_template_and_the_values_of_an_enum(judge):
    wechat = judge("wechat", templates={TEMPLATE: ["thing1", "enum2"]}, enums={"enum2": ["a", "b"]})
    assert _said(_ask(wechat, _data(thing1="x", enum2="a"))) == 0
    assert _said(_ask(wechat, _data(thing1="x", enum2="c"))) == 47003
    assert _said(_ask(wechat, _data(thing1="x"))) == 47003
    assert _said(_ask(wechat, _data(thing1="x", enum2="a", thing3="y"))) == 47003
    assert _said(_ask(wechat, EXAMPLE | {"template_id": TEMPLATE[::-1]})) == 40037


def test_wechat_one_acceptance_is_one_message(judge):
    wechat = judge("wechat", acceptances=2)
    assert [_said(_ask(wechat)) for _ in range(3)] == [0, 0, 43101]
    assert _said(_ask(wechat, EXAMPLE | {"template_id": TEMPLATE[::-1]})) == 0


def test_wechat_refuses_strangers_dead_openids_and_too_many_calls(judge):
    wechat = judge("wechat", calls_per_day=1, fates=[{"fate": "40003", "prefixes": ["dead"]}])
    assert _said(wechat.ask(SEND, EXAMPLE)) == 41001
    assert _said(_ask(wechat, token="x")) == 40001
    assert _said(_ask(wechat, EXAMPLE | {"touser": "dead" + OPENID[4:]})) == 40003
    assert [_said(_ask(wechat)) for _ in range(2)] == [0, 45009]
    assert [_said(_ask(judge("wechat", calls_per_minute=1))) for _ in range(1)] == [0]
    limited = judge("wechat", calls_per_minute=1)
    assert [_said(_ask(limited)) for _ in range(2)] == [0, 45011]


@pytest.mark.parametrize("form", ["json", "xml"])
def test_wechat_events_are_signed_and_name_the_message(judge, form):
    wechat = judge("wechat", receipts={"callback_url": "http://x"}, callback_form=form)
    answer = _ask(wechat)
    [callback] = wechat.vendor.callbacks(answer.receipts)
    query = dict(callback.query)
    parts = sorted((wechat.known["callback_token"], query["timestamp"], query["nonce"]))
    assert query["signature"] == hashlib.sha1("".join(parts).encode()).hexdigest()
    assert query["signature"] == callback_signature(*parts)
    message_id = str(json.loads(answer.body)["msgid"])
    if form == "json":
        told = json.loads(callback.body)
        assert (told["Event"], told["FromUserName"]) == ("subscribe_msg_sent_event", OPENID)
        assert (told["List"]["MsgID"], told["List"]["ErrorCode"]) == (message_id, "0")
    else:
        assert ElementTree.fromstring(callback.body).findtext("SubscribeMsgSentEvent/List/MsgID") == message_id
