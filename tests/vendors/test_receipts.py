"""The readers of receipts: one shape, the sheets' own examples, and no body of a stranger that raises."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.receipts import TIME_UNKNOWN, Callback, Event, NotTaken, Replies, VendorReceipt
from vendors import REGISTRY
from vendors.receipts import (
    ASKERS,
    READERS,
    aliyun_sms,
    dingtalk,
    email,
    harmony,
    honor,
    huawei,
    meizu,
    oppo,
    tencent_sms,
    vivo,
    webhook,
    wechat,
    xiaomi,
)

MODULES = {
    "huawei": huawei,
    "harmony": harmony,
    "honor": honor,
    "xiaomi": xiaomi,
    "oppo": oppo,
    "vivo": vivo,
    "meizu": meizu,
    "webhook": webhook,
    "ups": webhook,
    "aliyun_sms": aliyun_sms,
    "tencent_sms": tencent_sms,
    "wechat": wechat,
    "email": email,
}
NOW_UNIX_S = 1_763_700_001.5


class Unsigned(msgspec.Struct):
    """What the readers ask of Settings, of an app whose console signs nothing."""

    callback_user: str = ""
    callback_secret_file: str = ""
    callback_secret_env: str = ""
    callback_token_file: str = ""
    callback_token_env: str = ""


def reader(name: str, secret: bytes = b"", **settings: str) -> Any:
    return READERS[name].reader(Unsigned(**settings), secret)


def post(body: bytes, **headers: str) -> Callback:
    return Callback({name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}, "", body)


def form(**fields: Any) -> bytes:
    return urlencode({key: v if isinstance(v, str) else json.dumps(v) for key, v in fields.items()}).encode()


def read(name: str, body: bytes) -> Any:
    return reader(name).read(post(body), NOW_UNIX_S)


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_reader_has_its_tables_and_a_vendor(name: str) -> None:
    module = MODULES[name]
    assert name in REGISTRY
    assert module.EVENTS
    assert all(isinstance(event, Event) for event in module.EVENTS.values())
    assert Event.UNKNOWN not in module.EVENTS.values()
    assert isinstance(module.REPLIES, Replies)
    assert 200 <= module.REPLIES.taken.status < 300
    # So that a vendor that comes again does so where it helps, and only there.
    assert module.REPLIES.busy.status == 503
    assert 400 <= module.REPLIES.unreadable.status < 500
    assert 400 <= module.REPLIES.unproven.status < 500
    assert reader(name).replies is module.REPLIES
    assert READERS[name].secret_place(Unsigned()) is None


@pytest.mark.parametrize("name", sorted(READERS))
@given(
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "statuses",
                        "token",
                        "biTag",
                        "status",
                        "deliveryStatus",
                        "param",
                        "type",
                        "targets",
                        "ackType",
                        "registrationIds",
                        "eventType",
                        "timestamp",
                        "result",
                        "x",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_body_raises(name: str, body: bytes) -> None:
    for sent in (body, form(data=body.decode("latin-1")), form(cb=body.decode("latin-1"))):
        told = read(name, sent)
        assert isinstance(told, NotTaken) or all(isinstance(receipt, VendorReceipt) for receipt in told)


@pytest.mark.parametrize("name", sorted(READERS))
@pytest.mark.parametrize("body", [b"", b"{", b"[]x", b"\xff\xfe", b"null", b"7", b'"text"'])
def test_what_is_no_receipt_is_unreadable(name: str, body: bytes) -> None:
    wanted = NotTaken.UNPROVEN if name in ("webhook", "ups", "wechat") else NotTaken.UNREADABLE
    assert read(name, body) is wanted


def test_huawei_reads_the_sheets_example() -> None:
    body = (
        b'{"statuses":[{"biTag":"task-77","appid":"104000001","token":"IQAAAACy0fakeTokenAAA","status":0,'
        b'"timestamp":1763700001234,"requestId":"157440955549500001002006"}]}'
    )
    assert read("huawei", body) == [
        VendorReceipt(Event.DELIVERED, "task-77", ("IQAAAACy0fakeTokenAAA",), 1_763_700_001_234)
    ]
    assert huawei.REPLIES.taken.body == b'{"code":"0","message":"success"}'


def test_harmony_reads_the_sheets_example_and_cards() -> None:
    entry = {
        "biTag": "task-77", "pushType": 0, "token": "MAMzFakeTokenAAA", "requestId": "169000000000000000001701",
        "appPackageName": "com.example.app", "deliveryStatus": {"result": 0, "timestamp": 1_763_700_001_234},
    }  # fmt: skip
    card = {"token": "MAMz2", "pushType": 1, "biTag": "b", "formStatus": {"formId": 3, "result": 262, "timestamp": 5}}
    assert read("harmony", json.dumps({"statuses": [entry, card]}).encode()) == [
        VendorReceipt(Event.DELIVERED, "task-77", ("MAMzFakeTokenAAA",), 1_763_700_001_234),
        VendorReceipt(Event.QUOTA, "b", ("MAMz2",), 5),
    ]


def test_honor_believes_only_its_own_prefix() -> None:
    def entry(status: int) -> dict[str, Any]:
        return {"biTag": "b", "appid": "1", "token": "t", "status": status, "timestamp": 5, "requestId": "r"}

    told = read(
        "honor", json.dumps({"statuses": [entry(40000002), entry(40000003), entry(3), entry(50000003)]}).encode()
    )
    assert [receipt.event for receipt in told] == [Event.DELIVERED, Event.TOKEN_DEAD, Event.UNKNOWN, Event.UNKNOWN]
    assert told[3].name == "code_50000003"


def test_xiaomi_reads_many_messages_and_targets_and_whose_bar_is_off() -> None:
    data = {
        "m1": {"param": "a", "type": 1, "targets": "r1,r2", "barStatus": "Disable", "timestamp": 5},
        "m2": {"param": "b", "type": 16, "targets": "r3", "errorCode": 1, "timestamp": 6},
        "m3": {"param": "c", "type": 16, "targets": "r4", "errorCode": 2},
        "m4": {"param": "d", "type": 2, "targets": "r5", "barStatus": "Disable"},
        "m5": {"param": "e", "type": 128, "targets": "r6", "extra": {"ack": "1", "quota": "2"}},
    }
    assert read("xiaomi", form(data=data)) == [
        VendorReceipt(Event.DELIVERED, "a", ["r1", "r2"], 5),
        VendorReceipt(Event.TOKEN_DEAD, "b", ["r3"], 6),
        VendorReceipt(Event.UNDELIVERED, "c", ["r4"]),
        VendorReceipt(Event.CLICKED, "d", ["r5"]),
        VendorReceipt(Event.NOTIFICATIONS_CLOSED, "d", ["r5"]),
        VendorReceipt(Event.QUOTA, "e", ["r6"]),
    ]


def test_xiaomi_names_new_tokens_before_what_it_says_of_the_old_ones() -> None:
    replaced = {"r1": "n1", "r2": "r2", "": "n", "r3": 5, "r4": ""}
    data = {
        "m1": {"param": "a", "type": 16, "targets": "r1", "timestamp": 5, "replaceTarget": replaced},
        "m2": {"param": "b", "type": 1, "targets": "r5", "replaceTarget": ["r5"]},
    }
    assert read("xiaomi", form(data=data)) == [
        VendorReceipt(Event.TOKEN_REPLACED, "a", ["r1"], 5, new_token="n1"),
        VendorReceipt(Event.TOKEN_DEAD, "a", ["r1"], 5),
        VendorReceipt(Event.DELIVERED, "b", ["r5"]),
    ]


def test_oppo_reads_an_array_of_entries() -> None:
    entry = {"messageId": "m", "appId": "1", "taskId": "m", "registrationIds": "r1,r2", "eventTime": "1763700001234",
             "param": "p", "eventType": "push_arrive"}  # fmt: skip
    other = entry | {"eventType": "daily_cap", "registrationIds": "r3"}
    assert read("oppo", json.dumps([entry, other]).encode()) == [
        VendorReceipt(Event.DELIVERED, "p", ["r1", "r2"], 1_763_700_001_234),
        VendorReceipt(Event.UNKNOWN, "p", ["r3"], 1_763_700_001_234, "code_daily_cap"),
    ]


def test_vivo_reads_both_forms() -> None:
    body = {"1": {"param": "a", "targets": "1,2"}, "2": {"param": "b", "targets": "3", "ackTime": 5, "ackType": "0"},
            "3": {"param": "c", "targets": "4", "ackTime": 5, "ackType": "9"}}  # fmt: skip
    assert read("vivo", json.dumps(body).encode()) == [
        VendorReceipt(Event.DELIVERED, "a", ["1", "2"]),
        VendorReceipt(Event.DELIVERED, "b", ["3"], 5),
        VendorReceipt(Event.UNKNOWN, "c", ["4"], 5, "code_9"),
    ]


def test_meizu_reads_its_form_and_wants_its_token_where_it_is_configured() -> None:
    reports = {
        "NS1-1": {"param": "p", "type": 1, "targets": ["i1", "i2"]},
        "NS1-2": {"param": "p", "type": 2, "targets": ["i1"]},
    }
    body = form(cb=reports, access_token="console")
    wanted = [VendorReceipt(Event.DELIVERED, "p", ["i1", "i2"]), VendorReceipt(Event.CLICKED, "p", ["i1"])]
    assert read("meizu", body) == wanted
    checked = reader("meizu", b"console", callback_token_env="X")
    assert checked.read(post(body), NOW_UNIX_S) == wanted
    for forged in (form(cb=reports, access_token="other"), form(cb=reports)):
        assert checked.read(post(forged), NOW_UNIX_S) is NotTaken.UNPROVEN


KEY = b"a key that the console made\x00\xff"
STATUSES = b'{"statuses":[{"biTag":"b","token":"t","status":0}]}'


def signature(key: bytes, stamp_ms: int, user: str = "user", nonce: str = "n-1") -> str:
    digest = hmac.new(key, f"{stamp_ms}{nonce}{user}".encode(), hashlib.sha256).digest()
    return f"timestamp={stamp_ms}; nonce={nonce}; value={base64.b64encode(digest).decode()}"


@pytest.mark.parametrize("name", ["huawei", "harmony"])
@pytest.mark.parametrize("secret", [KEY, base64.b64encode(KEY)])
def test_a_signed_receipt_is_taken_whichever_form_the_secret_has(name: str, secret: bytes) -> None:
    signed = reader(name, secret, callback_user="user", callback_secret_env="X")
    header = signature(KEY, int(NOW_UNIX_S * 1000))
    assert signed.read(post(STATUSES, x_huawei_callback_id=header), NOW_UNIX_S) != NotTaken.UNPROVEN


@pytest.mark.parametrize(
    "header",
    [
        "",
        "timestamp=; nonce=; value=",
        signature(b"another key", int(NOW_UNIX_S * 1000)),
        signature(KEY, int(NOW_UNIX_S * 1000), user="another"),
        signature(KEY, int(NOW_UNIX_S * 1000) - 700_000),
        signature(KEY, int(NOW_UNIX_S * 1000) + 700_000),
        signature(KEY, int(NOW_UNIX_S * 1000)).replace("nonce=n-1", "nonce=n-2"),
        "timestamp=ä; value=é",
    ],
)
def test_a_receipt_with_a_wrong_or_an_old_signature_is_unproven(header: str) -> None:
    signed = reader("huawei", KEY, callback_user="user", callback_secret_env="X")
    assert signed.read(post(STATUSES, x_huawei_callback_id=header), NOW_UNIX_S) is NotTaken.UNPROVEN


def test_where_the_secret_is_stands_in_the_settings() -> None:
    place = READERS["huawei"].secret_place(Unsigned(callback_user="u", callback_secret_file="f"))
    assert place == ("f", "")
    assert READERS["meizu"].secret_place(Unsigned(callback_token_env="E")) == ("", "E")


@pytest.mark.parametrize(
    ("name", "own", "wrong"),
    [
        ("huawei", {"client_id": "1", "client_secret_env": "X"}, {"callback_user": "u"}),
        ("huawei", {"client_id": "1", "client_secret_env": "X"}, {"callback_secret_env": "u"}),
        ("harmony", {"project_id": "1", "account_key_env": "X"},
         {"callback_user": "u", "callback_secret_env": "a", "callback_secret_file": "b"}),
        ("meizu", {"app_id": "1", "app_secret_env": "X"}, {"callback_token_env": "a", "callback_token_file": "b"}),
    ],
)  # fmt: skip
def test_half_a_proof_is_refused_in_the_configuration(name: str, own: dict[str, str], wrong: dict[str, str]) -> None:
    settings = REGISTRY[name].settings
    settings(**own)
    with pytest.raises(ValueError, match="callback_"):
        settings(**own, **wrong)


def test_a_time_that_is_none_is_unknown() -> None:
    for stamp in (-1, 0, True, "x", "9" * 16, 1 << 60, None, 1.5):
        body = json.dumps({"statuses": [{"biTag": "b", "token": "t", "status": 0, "timestamp": stamp}]}).encode()
        assert read("huawei", body)[0].at_unix_ms == TIME_UNKNOWN


def test_the_readers_files_are_the_registry() -> None:
    files = {path.stem for path in Path(huawei.__file__).parent.glob("*.py")} - {"__init__", "parts"}
    assert files - set(ASKERS) | {"ups"} == set(READERS) == set(MODULES)
    assert set(ASKERS) == {dingtalk.__name__.rpartition(".")[2]}


def test_webhook_reads_what_its_secret_has_signed() -> None:
    body = json.dumps(
        {"receipts": [{"message_id": "m", "target": "t", "event": "target_dead", "unix_ms": 1_763_700_001_000}]}
    ).encode()
    secret, stamp = b"both ends know it", str(int(NOW_UNIX_S))
    signed = hmac.new(secret, f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    known = reader("webhook", secret)
    assert known.read(post(body, x_signature=f"t={stamp},v1={signed}"), NOW_UNIX_S) == [
        VendorReceipt(Event.TOKEN_DEAD, "m", ("t",), 1_763_700_001_000)
    ]
    for header in (f"t={stamp},v1={signed[:-1]}0x", f"t=1,v1={signed}", f"v1={signed}", "t=é,v1=é", ""):
        assert known.read(post(body, x_signature=header), NOW_UNIX_S) is NotTaken.UNPROVEN
    assert known.read(post(body, x_signature=f"t={stamp},v1={signed}"), NOW_UNIX_S + 3600) is NotTaken.UNPROVEN
    # Without a secret nobody is believed.
    empty = hmac.new(b"", f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert reader("ups").read(post(body, x_signature=f"t={stamp},v1={empty}"), NOW_UNIX_S) is NotTaken.UNPROVEN


def test_aliyun_sms_reads_its_report_and_is_told_what_it_wants_to_hear() -> None:
    def entry(**fields: Any) -> dict[str, Any]:
        return {"phone_number": "13800000001", "err_code": "DELIVERED", "biz_id": "9^0", "out_id": "o"} | fields

    body = json.dumps([entry(success=True), entry(success=False, err_code="MK:0001"), entry()]).encode()
    assert read("aliyun_sms", body) == [
        VendorReceipt(Event.DELIVERED, "o", ("13800000001",)),
        VendorReceipt(Event.UNDELIVERED, "o", ("13800000001",)),
        VendorReceipt(Event.UNKNOWN, "o", ("13800000001",), name="no_success"),
    ]
    assert json.loads(aliyun_sms.REPLIES.taken.body)["code"] == 0
