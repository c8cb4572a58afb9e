"""No judge ever raises: whatever bytes, JSON or forms come, there is an answer in the vendor's form."""

from __future__ import annotations

import copy
import json
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.simulators.exchange import Answer, Request
from bench.simulators.server import PUSH_APIS

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
NOTICE = {"title": "t", "content": "c"}
#: vendor -> requests that would be taken: path, content type, fields
GOOD = {
    "huawei": [
        (
            "/v1/104000001/messages:send",
            JSON,
            {
                "message": {
                    "token": ["a", "b"],
                    "android": {"ttl": "1s", "notification": NOTICE | {"body": "b", "click_action": {"type": 3}}},
                }
            },
        )
    ],
    "harmony": [
        (
            "/v3/388421841221890000/messages:send",
            JSON,
            {
                "payload": {
                    "notification": {"category": "IM", "title": "t", "body": "b", "clickAction": {"actionType": 0}}
                },
                "target": {"token": ["a"]},
                "pushOptions": {"ttl": 60},
            },
        )
    ],
    "honor": [
        (
            "/api/v1/104400001/sendMessage",
            JSON,
            {
                "token": ["a"],
                "android": {"ttl": "1s", "notification": {"title": "t", "body": "b", "clickAction": {"type": 3}}},
            },
        )
    ],
    "xiaomi": [
        (
            "/v3/message/regid",
            FORM,
            {"registration_id": "regid000,regid001", "restricted_package_name": "com.example.app", "title": "t"}
            | {"description": "d", "extra.channel_id": "private", "extra.callback.type": "3"},
        ),
        (
            "/v2/multi_messages/regids",
            FORM,
            {
                "messages": [
                    {
                        "target": "regid000",
                        "message": {
                            "title": "t",
                            "description": "d",
                            "restricted_package_name": "com.example.app",
                            "extra": {"channel_id": "private"},
                        },
                    }
                ]
            },
        ),
    ],
    "oppo": [
        (
            "/server/v1/message/notification/unicast",
            FORM,
            {"message": {"target_type": 2, "target_value": "a" * 32, "notification": NOTICE}},
        ),
        (
            "/server/v1/message/notification/unicast_batch",
            FORM,
            {"messages": [{"target_type": 2, "target_value": "a" * 32, "notification": NOTICE}]},
        ),
        ("/server/v1/message/notification/save_message_content", FORM, NOTICE | {"off_line_ttl": "3600"}),
        (
            "/server/v1/message/notification/broadcast",
            FORM,
            {"message_id": "x", "target_type": "2", "target_value": "a;b"},
        ),
        ("/server/v1/auth", FORM, {"app_key": "x", "timestamp": "1", "sign": "x"}),
    ],
    "vivo": [
        (
            "/message/send",
            JSON,
            {
                "appId": 10004,
                "regId": "1" * 23,
                "notifyType": 1,
                "title": "t",
                "content": "c",
                "skipType": 1,
                "requestId": "r",
            }
            | {"clientCustomMap": {"a": "b"}, "extra": {"callback": "https://x"}},
        ),
        ("/message/pushToList", JSON, {"appId": 10004, "regIds": ["a", "b"], "taskId": "1", "requestId": "r"}),
        ("/message/auth", JSON, {"appId": 10004, "appKey": "x", "timestamp": 1, "sign": "x"}),
    ],
    "meizu": [
        (
            "/garcia/api/server/push/varnished/pushByPushId",
            FORM,
            {
                "appId": "110000",
                "pushIds": "a,b",
                "messageJson": {"noticeBarInfo": NOTICE, "clickTypeInfo": {"clickType": 0}},
            },
        )
    ],
    "wechat": [
        (
            "/cgi-bin/message/subscribe/send?access_token=x",
            JSON,
            {"touser": "o" * 28, "template_id": "T" * 43, "page": "a?b=c", "data": {"thing1": {"value": "x"}}},
        ),
        ("/cgi-bin/stable_token", JSON, {"grant_type": "client_credential", "appid": "x", "secret": "x"}),
    ],
    "aliyun_sms": [
        ("/", FORM, {"PhoneNumbers": "15300000001", "SignName": "Demo", "TemplateParam": {"a": "b"}, "Timestamp": "x"})
    ],
    "tencent_sms": [
        (
            "/",
            JSON,
            {"PhoneNumberSet": ["+8613800000000"], "SmsSdkAppId": "1400000000", "TemplateId": "1", "SignName": "Demo"},
        )
    ],
    "wecom": [
        (
            "/cgi-bin/message/send?access_token=x",
            JSON,
            {"touser": "a|b", "msgtype": "text", "agentid": 1000002, "text": {"content": "x"}},
        ),
    ],
    "wecom_robot": [
        (
            "/cgi-bin/webhook/send?key=00000000-0000-0000-0000-000000000001",
            JSON,
            {"msgtype": "text", "text": {"content": "x"}},
        ),
    ],
    "dingtalk": [
        (
            "/topapi/message/corpconversation/asyncsend_v2?access_token=x",
            JSON,
            {"agent_id": 1234567, "userid_list": "a,b", "msg": {"msgtype": "text", "text": {"content": "x"}}},
        ),
        ("/topapi/message/corpconversation/getsendresult?access_token=x", JSON, {"task_id": 1}),
    ],
    "dingtalk_robot": [
        (
            f"/robot/send?access_token={'0' * 64}",
            JSON,
            {"msgtype": "link", "link": {"title": "t", "text": "x", "messageUrl": "u"}},
        ),
    ],
    "webhook": [("/hook", JSON, {"messages": [{"message_id": "0" * 32, "target": "t"}]})],
    "ups": [("/hook", JSON, {"messages": [{"message_id": "0" * 32, "target": "t"}]})],
}
#: Asked for messages instead of paths with JSON.
MAIL = (
    b"From: Sim <no-reply@sim.example.com>\r\nTo: u@x.example\r\nSubject: =?utf-8?b?5qCH6aKY?=\r\n"
    b"Date: Fri, 21 Nov 2025 04:40:00 +0000\r\nMessage-ID: <a@b.c>\r\n"
    b'Content-Type: multipart/alternative; boundary="b"\r\n\r\n--b\r\n'
    b"Content-Type: text/plain; charset=utf-8\r\n\r\nx\r\n--b--\r\n"
)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.sampled_from(
        ["\ud800", "\0", "1" * 5_000, "http://[", "９", "²", "{", "a" * 70_000, "\U0001f468\u200d\U0001f469"]
    ),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.none(), max_size=3),
)


class Open:
    """Lets every caller in: what is asked here is what the judges do with what comes behind the credentials."""

    def __init__(self, vendor):
        self.vendor = vendor
        for name in ("_authorize", "_authorize_v1", "_check_timestamp"):
            if hasattr(vendor, name):
                setattr(vendor, name, lambda *_: None)
        if hasattr(vendor, "_token_kept"):
            vendor._token_kept.check = lambda *_: None
        for tokens in (getattr(vendor, name, None) for name in ("_tokens", "_access")):
            if tokens is not None:
                tokens.is_valid = lambda *_: True
                tokens.is_known = lambda *_: True

    def ask(self, path, kind, body, headers=()):
        pairs = ((b"content-type", kind.encode()), (b"x-request-id", b"r"), (b"push-type", b"0"), *headers)
        pairs += ((b"authorization", b"Bearer x"), (b"authtoken", b"x"))
        return self.vendor.judge(Request("POST", path, pairs, body, len(body)), None)


def _places(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from _places(one, (*path, key))


def _with(fields, path, junk):
    fields = copy.deepcopy(fields)
    if not path:
        return junk
    place = fields
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = junk
    return fields


def _encoded(kind, fields):
    if kind == JSON:
        return json.dumps(fields).encode()
    if not isinstance(fields, dict):
        return str(fields).encode("utf-8", "replace")
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
    return urlencode(texts, errors="surrogatepass").encode()


@pytest.fixture
def open_judge(judge):
    return lambda vendor: Open(judge(vendor, receipts={"callback_url": "http://x"}).vendor)


def test_every_vendor_is_asked():
    assert {*GOOD, "email"} == set(PUSH_APIS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_the_judge_of_mail_never_raises(judge, data):
    begin = data.draw(st.integers(0, len(MAIL)))
    end = data.draw(st.integers(begin, min(len(MAIL), begin + 20)))
    junk = data.draw(
        st.binary(max_size=12) | st.sampled_from([b"=?utf-8?q?", b"<", b"\r\n\r\n", b"@", b'"', b",", b"a" * 999])
    )
    body = MAIL[:begin] + junk + MAIL[end:]
    recipient = data.draw(st.sampled_from(["u@x.example", "", "a b", "@"]))
    vendor = judge("email").vendor
    for method in ("RCPT", "DATA"):
        assert isinstance(vendor.judge(Request(method, recipient, (), body, len(body)), None), Answer)


@pytest.mark.parametrize("vendor", GOOD)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_judge_raises_for_a_field_of_another_kind(open_judge, vendor, data):
    path, kind, fields = data.draw(st.sampled_from(GOOD[vendor]))
    where = data.draw(st.sampled_from(list(_places(fields))))
    asked = open_judge(vendor)
    answer = asked.ask(path, kind, _encoded(kind, _with(fields, where, data.draw(JUNK))))
    assert isinstance(answer, Answer)
    list(asked.vendor.callbacks(answer.receipts)) if answer.receipts else None


@pytest.mark.parametrize("vendor", GOOD)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_judge_raises_for_arbitrary_bytes(judge, vendor, data):
    path, kind, _ = data.draw(st.sampled_from(GOOD[vendor]))
    names = [
        b"authorization",
        b"timestamp",
        b"push-type",
        b"x-signature",
        b"x-tc-timestamp",
        b"x-acs-date",
        b"authtoken",
    ]
    headers = tuple(data.draw(st.dictionaries(st.sampled_from(names), st.binary(max_size=80), max_size=4)).items())
    body = data.draw(st.binary(max_size=200))
    path += data.draw(st.sampled_from(["", "?", "?access_token=%ff", "/x", "?key=1&key=2"]))
    request = Request(
        data.draw(st.sampled_from(["POST", "GET"])), path, ((b"content-type", kind.encode()), *headers), body, len(body)
    )
    assert isinstance(judge(vendor).vendor.judge(request, None), Answer)
