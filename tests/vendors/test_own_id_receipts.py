"""Receipts by numbers of the vendor's own: Tencent Cloud SMS, WeChat's events (plain, encrypted, XML, JSON), and
DingTalk, which is asked."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from gateway.receipts import Callback, ConsentsTold, Event, NotTaken, Outcome, Told, VendorReceipt
from vendors import dingtalk as dingtalk_vendor
from vendors import tencent_sms as tencent_vendor
from vendors import wechat as wechat_vendor
from vendors.receipts import READERS, dingtalk, wechat

NOW_UNIX_S = 1_763_700_001.5
STAMP = "1763700001"
TOKEN, APPID, OPENID = "console-token", "wx0000000000000001", "o" * 28
KEY = base64.b64encode(bytes(range(32))).decode().rstrip("=")
WECHAT = wechat_vendor.Settings(appid=APPID, app_secret_file="s", callback_secret_file="c")
XML = f"""<xml><ToUserName><![CDATA[gh_1]]></ToUserName><FromUserName><![CDATA[{OPENID}]]></FromUserName>
<CreateTime>1763700000</CreateTime><MsgType><![CDATA[event]]></MsgType>
<Event><![CDATA[subscribe_msg_sent_event]]></Event><SubscribeMsgSentEvent><List>
<TemplateId><![CDATA[T]]></TemplateId><MsgID>1700827132819554304</MsgID><ErrorCode>%s</ErrorCode>
<ErrorStatus><![CDATA[success]]></ErrorStatus></List></SubscribeMsgSentEvent></xml>"""


def signed(*more: str) -> str:
    return hashlib.sha1("".join(sorted([TOKEN, STAMP, "n", *more])).encode()).hexdigest()


def query(**changes: str) -> str:
    given = {"signature": signed(), "timestamp": STAMP, "nonce": "n", "openid": OPENID} | changes
    return "&".join(f"{name}={value}" for name, value in given.items())


def event(text: str, given: str | None = None, secret: str = TOKEN, now: float = NOW_UNIX_S) -> Any:
    reader: Any = READERS["wechat"].reader(WECHAT, secret.encode())
    return reader.read(Callback({}, query() if given is None else given, text.encode()), now)


def wanted(of: Event) -> list[VendorReceipt]:
    return [VendorReceipt(of, "", (OPENID,), 1_763_700_000_000, own_id="1700827132819554304")]


def test_wechats_event_is_read_in_xml_and_json() -> None:
    assert event(XML % "0") == wanted(Event.DELIVERED)
    assert event(XML % "7") == wanted(Event.UNDELIVERED)
    told = {"TemplateId": "T", "MsgID": 1700827132819554304, "ErrorCode": 0, "ErrorStatus": "success"}
    head = {"FromUserName": OPENID, "CreateTime": 1763700000, "MsgType": "event", "Event": "subscribe_msg_sent_event"}
    for listed in (told, [told], told | {"MsgID": "1700827132819554304", "ErrorCode": "0"}):
        assert event(json.dumps(head | {"List": listed})) == wanted(Event.DELIVERED)
    # Others of the same address are taken, and say nothing here.
    assert event(XML.replace("subscribe_msg_sent_event", "user_enter_tempsession") % "0") == []
    assert event(XML.replace("subscribe_msg_sent_event", "subscribe_msg_popup_event") % "0") == []


@pytest.mark.parametrize("form", ["xml", "json"])
def test_wechat_says_what_users_chose_where_somebody_wants_to_know(form: str) -> None:
    def told(name: str, *choices: tuple[str, str], at: int = 1763700000) -> ConsentsTold:
        lists = [{"TemplateId": one, "SubscribeStatusString": said, "PopupScene": "2"} for one, said in choices]
        if form == "json":
            head = {"FromUserName": OPENID, "CreateTime": at, "MsgType": "event", "Event": name}
            text = json.dumps(head | {"List": lists if len(lists) != 1 else lists[0]})
        else:
            inner = "".join(
                "<List>" + "".join(f"<{key}><![CDATA[{value}]]></{key}>" for key, value in one.items()) + "</List>"
                for one in lists
            )
            text = f"""<xml><FromUserName><![CDATA[{OPENID}]]></FromUserName><CreateTime>{at}</CreateTime>
            <MsgType><![CDATA[event]]></MsgType><Event><![CDATA[{name}]]></Event><SubscribeMsgPopupEvent>{inner}
            </SubscribeMsgPopupEvent></xml>"""
        settings = msgspec.structs.replace(WECHAT, consent_events=True)
        reader: Any = READERS["wechat"].reader(settings, TOKEN.encode())
        found: ConsentsTold = reader.read(Callback({}, query(), text.encode()), NOW_UNIX_S)
        return found

    popup = told("subscribe_msg_popup_event", ("T", "accept"), ("U", "reject"), ("V", "accept"))
    assert popup[:3] == (OPENID, ["T", "V"], [])
    change = told("subscribe_msg_change_event", ("T", "reject"))
    assert change[:3] == (OPENID, [], ["T"])
    again = told("subscribe_msg_popup_event", ("T", "accept"), ("U", "reject"), ("V", "accept"))
    later = told("subscribe_msg_popup_event", ("T", "accept"), ("V", "accept"), at=1763700001)
    assert popup.event_id == again.event_id
    assert len({popup.event_id, change.event_id, later.event_id}) == 3
    assert event("<xml></xml>") is NotTaken.UNREADABLE


@pytest.mark.parametrize(
    "given",
    ["", query(signature="x"), query(nonce="m"), query(timestamp="1763700002"), query(timestamp="é"), "a=b&" * 50],
)
def test_wechats_event_is_believed_with_its_signature_alone(given: str) -> None:
    assert event(XML % "0", given) is NotTaken.UNPROVEN
    assert event(XML % "0", secret="") is NotTaken.UNPROVEN
    assert event(XML % "0", now=NOW_UNIX_S + 700) is NotTaken.UNPROVEN


def sealed(text: str, appid: str = APPID) -> str:
    plain = b"r" * 16 + len(text.encode()).to_bytes(4, "big") + text.encode() + appid.encode()
    padding = 32 - len(plain) % 32
    key = bytes(range(32))
    sealer = Cipher(algorithms.AES(key), modes.CBC(key[:16])).encryptor()
    return base64.b64encode(sealer.update(plain + bytes([padding]) * padding) + sealer.finalize()).decode()


def test_wechats_encrypted_event_is_opened_where_the_key_is_known() -> None:
    box, secret = sealed(XML % "0"), f"{TOKEN}\n{KEY}"
    given = query(msg_signature=signed(box))
    for body in (f"<xml><Encrypt><![CDATA[{box}]]></Encrypt></xml>", json.dumps({"Encrypt": box})):
        assert event(body, given, secret) == wanted(Event.DELIVERED)
        # The signature of the address alone does not cover the body.
        assert event(body, query(msg_signature=signed()), secret) is NotTaken.UNPROVEN
    # A plain one could be anybody's.
    assert event(XML % "0", query(), secret) is NotTaken.UNPROVEN
    for wrong in (
        sealed(XML % "0", "wx2"),
        base64.b64encode(b"x" * 31).decode(),
        base64.b64encode(b"x" * 48).decode(),
        "%",
    ):
        body = json.dumps({"Encrypt": wrong})
        assert event(body, query(msg_signature=signed(wrong)), secret) is NotTaken.UNREADABLE
    with pytest.raises(ValueError, match="EncodingAESKey"):
        READERS["wechat"].reader(WECHAT, f"{TOKEN}\nshort".encode())


@pytest.mark.parametrize("piece", ["<a><![CDATA[", "<a><![CDATA[x]]>", "<a><![CDATA[" + "]" * 100, "<List>", "<a>"])
@pytest.mark.parametrize("secret", [TOKEN, f"{TOKEN}\n{KEY}"])
def test_wechats_reader_takes_little_time_for_a_body_of_half_a_megabyte(piece: str, secret: str) -> None:
    """An encrypted one is looked at before anybody has proven anything; 3 s of the loop each, it was once."""
    text = piece * ((512 << 10) // len(piece)) + "<Event>subscribe_msg_sent_event</Event>"
    began = time.thread_time()
    event(text, secret=secret)
    assert time.thread_time() - began < 0.5


def test_wechats_texts_may_hold_what_ends_a_leaf_or_a_section_elsewhere() -> None:
    inside = "a]]b</ErrorStatus><c>]" + "d" * 5000
    text = (XML % "0").replace("[success]", f"[{inside}]").replace("<CreateTime>", "<![CDATA[<x><CreateTime>")
    assert event(text) == wanted(Event.DELIVERED)


def test_wechats_check_of_the_address_gets_its_echo_back() -> None:
    reader: Any = READERS["wechat"].reader(WECHAT, TOKEN.encode())
    assert reader.greet(query(echostr="9137"), NOW_UNIX_S) == (200, b"9137", "text/plain")
    for wrong in (query(), query(echostr="<script>"), query(echostr="9", signature="x"), "", "a=b&" * 50):
        assert reader.greet(wrong, NOW_UNIX_S) == wechat.REPLIES.unproven


@given(st.text(max_size=200) | st.from_regex(r"<xml>(<[A-Z][a-z]+>.{0,9}){0,9}</xml>"), st.booleans())
def test_no_event_raises(text: str, is_sealed: bool) -> None:
    if is_sealed:
        event(f"<Encrypt>{text}</Encrypt>", query(msg_signature=signed(text)), f"{TOKEN}\n{KEY}")
    told = event(text)
    assert isinstance(told, NotTaken) or all(isinstance(one, VendorReceipt) for one in told)


def test_tencents_statuses_name_number_and_sid() -> None:
    head = {"user_receive_time": "2026-11-22 11:00:00", "nationcode": "86", "description": "x"}
    ok = head | {"mobile": "13800000001", "report_status": "SUCCESS", "errmsg": "DELIVRD", "sid": "2645:1"}
    abroad = head | {"nationcode": "", "mobile": "15550001", "report_status": "FAIL", "sid": "2645:2"}
    odd = head | {"mobile": "13800000003", "report_status": "PERHAPS", "sid": 7}
    reader: Any = READERS["tencent_sms"].reader(None, b"")
    told = reader.read(Callback({}, "", json.dumps([ok, abroad, odd]).encode()), NOW_UNIX_S)
    assert told == [
        VendorReceipt(Event.DELIVERED, "", ("+8613800000001",), own_id="2645:1"),
        VendorReceipt(Event.UNDELIVERED, "", ("+15550001",), own_id="2645:2"),
        VendorReceipt(Event.UNKNOWN, "", ("+8613800000003",), name="code_PERHAPS", own_id=""),
    ]
    assert json.loads(reader.replies.taken.body)["result"] == 0


def test_answers_tell_what_vendors_call_messages() -> None:
    tencent = tencent_vendor.TencentSms(
        tencent_vendor.Settings(secret_id="i", sdk_app_id="1", secret_key_file="s", callback_secret_file="c")
    )
    statuses = [{"SerialNo": "2645:1", "Code": "Ok"}, {"SerialNo": "", "Code": "x"}, {"SerialNo": "x" * 129}, 7]
    assert tencent.own_ids(json.dumps({"Response": {"SendStatusSet": statuses}}).encode()) == ["2645:1"]
    wechat_one = wechat_vendor.Wechat(WECHAT)
    assert wechat_one.own_ids(b'{"errcode":0,"msgid":1700827132819554304}') == ("1700827132819554304",)
    notices = dingtalk_vendor.Dingtalk(dingtalk_vendor.Settings(app_key_id="d", agent_id=7, app_secret_file="s"))
    assert notices.own_ids(b'{"errcode":0,"task_id":256271667526}') == ("256271667526",)
    for vendor in (tencent, wechat_one, notices):
        assert vendor.keeps_own_ids
        for body in (b"", b"{}", b"[]", b'{"task_id":"x y","msgid":[],"Response":[]}', b"\xff"):
            assert not vendor.own_ids(body)


ASKER = dingtalk.Asker(dingtalk_vendor.Settings(app_key_id="d", agent_id=7, app_secret_file="s"))


def test_dingtalk_is_asked_by_agent_and_task() -> None:
    asked = ASKER.question("256271667526", b"TOKEN")
    assert asked.path == "/topapi/message/corpconversation/getsendresult?access_token=TOKEN"
    assert json.loads(asked.body) == {"agent_id": 7, "task_id": 256271667526}


def test_dingtalks_lists_become_receipts_and_settle_when_nobody_is_unread() -> None:
    lists = {"read_user_id_list": ["a"], "unread_user_id_list": ["b", 7], "forbidden_user_id_list": ["c"]}
    lists |= {"failed_user_id_list": ["d"], "invalid_user_id_list": ["e"], "invalid_dept_id_list": [1]}
    told = ASKER.read(200, json.dumps({"errcode": 0, "send_result": lists}).encode())
    assert told == Outcome(
        [
            VendorReceipt(Event.DISPLAYED, "", ["a"]),
            VendorReceipt(Event.DELIVERED, "", ["b"]),
            VendorReceipt(Event.QUOTA, "", ["c"]),
            VendorReceipt(Event.UNDELIVERED, "", ["d"]),
            VendorReceipt(Event.TOKEN_MUTED, "", ["e"]),
        ],
        is_settled=False,
    )
    told = ASKER.read(200, b'{"errcode":0,"send_result":{"read_user_id_list":["a"]}}')
    assert told == Outcome([VendorReceipt(Event.DISPLAYED, "", ["a"])], is_settled=True)
    # Nothing of it is known yet.
    assert ASKER.read(200, b'{"errcode":0,"send_result":{}}') == Outcome([], is_settled=False)


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b'{"errcode":90018}', Told.LATER),
        (200, b'{"errcode":-1}', Told.LATER),
        (200, b'{"errcode":42001}', Told.CREDENTIAL),
        (200, b'{"errcode":40035}', Told.REFUSED),
        (200, b'{"errcode":88}', Told.REFUSED),
        (200, b'{"errcode":0}', Told.LATER),
        (200, b"", Told.LATER),
        (503, b"<html>", Told.LATER),
        (404, b"", Told.REFUSED),
    ],
)
def test_what_dingtalk_says_instead_of_an_outcome(status: int, body: bytes, told: Told) -> None:
    assert ASKER.read(status, body) is told


@given(
    st.integers(0, 999),
    st.binary(max_size=40) | st.text(max_size=20).map(lambda t: json.dumps({"errcode": 0, "send_result": t}).encode()),
)
def test_no_outcome_raises(status: int, body: bytes) -> None:
    assert isinstance(ASKER.read(status, body), Outcome | Told)
