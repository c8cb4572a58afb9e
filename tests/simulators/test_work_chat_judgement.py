"""The judges of WeCom and DingTalk: tokens, messages to persons, partial failures."""

from __future__ import annotations

import json
import uuid
from urllib.parse import urlencode

import pytest

WECOM, DINGTALK = "/cgi-bin/message/send", "/topapi/message/corpconversation/asyncsend_v2"
RESULT = "/topapi/message/corpconversation/getsendresult"


def _said(answer):
    return json.loads(answer.body)["errcode"]


# ---- WeCom


def _wecom_token(wecom, **changes):
    query = {"corpid": wecom.known["corpid"], "corpsecret": wecom.known["corpsecret"]} | changes
    return json.loads(wecom.ask(f"/cgi-bin/gettoken?{urlencode(query)}", method="GET").body)


def _wecom(wecom, *, token=None, **changes):
    body = {"touser": "Zhang|li", "msgtype": "text", "agentid": 1000002, "text": {"content": "hello"}, "safe": 0}
    body = {key: value for key, value in (body | changes).items() if value is not None}
    token = _wecom_token(wecom)["access_token"] if token is None else token
    return wecom.ask(f"{WECOM}?access_token={token}", body)


def test_wecom_sends_to_persons_and_names_the_invalid_ones(judge):
    wecom = judge("wecom", fates=[{"fate": "invaliduser", "tokens": ["li"]}])
    said = json.loads(_wecom(wecom).body)
    assert (said["errcode"], said["invaliduser"], said["unlicenseduser"]) == (0, "li", "")
    assert said["msgid"]
    [row] = _wecom(wecom).rows
    assert (row.token, row.title, row.body) == ("Zhang", "", "hello")
    assert _said(_wecom(wecom, touser="li")) == 81013


def test_wecom_text_card_names_its_row_in_the_url(judge):
    message_id = uuid.uuid4()
    card = {"title": "t", "description": "b", "url": f"https://x/?message_id={message_id}"}
    [row] = _wecom(judge("wecom"), touser="li", msgtype="textcard", textcard=card, text=None).rows
    assert (row.message_id, row.title, row.body) == (message_id.bytes, "t", "b")


WECOM_FAULTS = {
    "another agent": ({"agentid": 1}, 40056),
    "agent as a text": ({"agentid": "1000002"}, 40056),
    "message type": ({"msgtype": "voice"}, 40008),
    "no text": ({"text": None}, 44004),
    "empty text": ({"text": {"content": ""}}, 44004),
    "text of 2049 bytes": ({"text": {"content": "x" * 2_049}}, 45002),
    "nobody": ({"touser": None}, 82001),
    "everybody": ({"touser": "@all"}, 40031),
    "unknown field": ({"toUser": "li"}, 47001),
}


@pytest.mark.parametrize("case", WECOM_FAULTS)
def test_wecom_refuses(judge, case):
    changes, code = WECOM_FAULTS[case]
    answer = _wecom(judge("wecom"), **changes)
    assert (_said(answer), answer.rows) == (code, ())


def test_wecom_token_stays_the_same_while_it_is_good(judge):
    wecom = judge("wecom")
    first = _wecom_token(wecom)
    assert (first["expires_in"], _wecom_token(wecom)["access_token"]) == (7_200, first["access_token"])
    wecom.clock.advance(7_200)
    assert _said(_wecom(wecom, token=first["access_token"])) == 42001
    assert _said(_wecom(wecom, token="x")) == 40014
    assert _wecom_token(wecom, corpsecret="x")["errcode"] == 40001
    assert _wecom_token(wecom, corpid="x")["errcode"] == 40013


def test_wecom_person_sees_so_many_messages_and_no_checked_repeat(judge):
    wecom = judge("wecom", user_per_minute=2)
    assert [len(_wecom(wecom, touser="li").rows) for _ in range(3)] == [1, 1, 0]
    again = judge("wecom")
    assert [len(_wecom(again, touser="li", enable_duplicate_check=1).rows) for _ in range(2)] == [1, 0]


# ---- DingTalk


def _dingtalk_token(dingtalk, **changes):
    query = {"appkey": dingtalk.known["appkey"], "appsecret": dingtalk.known["appsecret"]} | changes
    return json.loads(dingtalk.ask(f"/gettoken?{urlencode(query)}", method="GET").body)


def _dingtalk(dingtalk, path=DINGTALK, *, is_form=False, **changes):
    body = {"agent_id": 1234567, "userid_list": "a,b", "msg": {"msgtype": "text", "text": {"content": "hello"}}}
    body = {key: value for key, value in (body | changes).items() if value is not None}
    path = f"{path}?access_token={_dingtalk_token(dingtalk)['access_token']}"
    if is_form:
        return dingtalk.ask(
            path, [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in body.items()]
        )
    return dingtalk.ask(path, body)


@pytest.mark.parametrize("is_form", [False, True])
def test_dingtalk_takes_a_notice_and_tells_by_its_task_what_became_of_it(judge, is_form):
    dingtalk = judge("dingtalk", fates=[{"fate": "invalid", "tokens": ["b"]}])
    answer = _dingtalk(dingtalk, is_form=is_form)
    said = json.loads(answer.body)
    assert (said["errcode"], [(row.token, row.body) for row in answer.rows]) == (0, [("a", "hello")])
    fields = {"task_id": said["task_id"], "userid_list": None, "msg": None}
    told = json.loads(_dingtalk(dingtalk, RESULT, **fields).body)["send_result"]
    assert (told["invalid_user_id_list"], told["unread_user_id_list"]) == (["b"], ["a"])
    assert _said(_dingtalk(dingtalk, RESULT, task_id=1)) == 40035


DINGTALK_FAULTS = {
    "another agent": {"agent_id": 1},
    "nobody": {"userid_list": None},
    "101 persons": {"userid_list": ",".join(map(str, range(101)))},
    "message type": {"msg": {"msgtype": "voice"}},
    "empty text": {"msg": {"msgtype": "text", "text": {"content": ""}}},
    "2049 bytes": {"msg": {"msgtype": "text", "text": {"content": "x" * 2_049}}},
    "unknown field": {"colour": 1},
}


@pytest.mark.parametrize("case", DINGTALK_FAULTS)
def test_dingtalk_refuses(judge, case):
    answer = _dingtalk(judge("dingtalk"), **DINGTALK_FAULTS[case])
    assert (_said(answer), answer.rows) == (40035, ())


def test_dingtalk_shows_a_text_once_a_day_to_a_person(judge):
    dingtalk = judge("dingtalk")
    assert [len(_dingtalk(dingtalk).rows) for _ in range(2)] == [2, 0]
    dingtalk.clock.advance(12 * 3600)
    assert len(_dingtalk(dingtalk).rows) == 2
    assert len(_dingtalk(judge("dingtalk", same_text_once_a_day=False)).rows) == 2


def test_dingtalk_refuses_strangers(judge):
    dingtalk = judge("dingtalk")
    assert _dingtalk_token(dingtalk, appsecret="x")["errcode"] == 40089
    assert _said(dingtalk.ask(f"{DINGTALK}?access_token=x", {})) == 40014
    token = _dingtalk_token(dingtalk)["access_token"]
    dingtalk.clock.advance(7_200)
    assert _said(dingtalk.ask(f"{DINGTALK}?access_token={token}", {})) == 42001
