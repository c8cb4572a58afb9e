"""The judge of Xiaomi: the example of the fact sheet, each refusal, channels, quotas, regions, receipts."""

from __future__ import annotations

import json
import uuid
from urllib.parse import parse_qs, parse_qsl

import pytest

REGID = "/v3/message/regid"
MULTI = "/v2/multi_messages/regids"
A, B = "dEmO+regidA=", "dEmO+regidB="
KEY = "key=sim-xiaomi-app-secret"
EXAMPLE = (
    "registration_id=dEmO%2BregidA%3D%2CdEmO%2BregidB%3D&restricted_package_name=com.example.app&pass_through=0"
    "&title=%E8%AE%A2%E5%8D%95&description=%E5%B7%B2%E5%8F%91%E8%B4%A7&payload=%257B%2522k%2522%253A1%257D"
    "&notify_type=-1&notify_id=42&time_to_live=3600000&extra.channel_id=112233&extra.template_id=T0001"
    "&extra.template_param=%7B%22no%22%3A%22A1%22%7D&extra.notify_effect=1"
    "&extra.callback=https%3A%2F%2Fgw.example.com%2Fcb%2Fmi&extra.callback.param=job-1&extra.callback.type=1267"
)
SECTION = {"channels": {"112233": "private", "news": "public"}, "templates": {"T0001": ["no"]}}


def _form(**changes):
    """The example with fields replaced (_ for . in extra names: extra__x); None leaves one out."""
    form = dict(parse_qsl(EXAMPLE)) | {key.replace("extra__", "extra."): value for key, value in changes.items()}
    return [(key, value) for key, value in form.items() if value is not None]


def _ask(xiaomi, form=None, path=REGID, *, key=KEY, **changes):
    return xiaomi.ask(path, _form(**changes) if form is None else form, authorization=key)


def _code(answer):
    return json.loads(answer.body)["code"]


def test_xiaomi_accepts_the_example_and_lists_the_bad_regid(judge):
    xiaomi = judge("xiaomi", fates=[{"fate": "bad_regid", "tokens": [B]}], **SECTION)
    kind = "application/x-www-form-urlencoded"
    answer = xiaomi.ask(REGID, EXAMPLE.encode(), authorization=KEY, content_type=kind)
    said = json.loads(answer.body)
    assert (said["result"], said["code"], said["description"]) == ("ok", 0, "成功")
    assert said["data"]["bad_regids"] == B
    assert said["info"] == "Received push messages for 2 REGID"
    [row] = answer.rows
    assert (row.token, row.title, row.body, row.reference) == (A, "订单", "已发货", "job-1")
    [due] = [one for one in answer.receipts if one.event == "1"]
    assert (due.url, due.token, due.reference, due.message_id) == (
        "https://gw.example.com/cb/mi",
        A,
        "job-1",
        said["data"]["id"],
    )


def test_xiaomi_finds_the_message_id_of_a_single_row_in_the_payload(judge):
    message_id = uuid.uuid4()
    payload = f"%7B%22message_id%22%3A%22{message_id}%22%7D"
    [row] = _ask(judge("xiaomi", **SECTION), registration_id=A, payload=payload).rows
    assert row.message_id == message_id.bytes


FAULTS = {
    "no targets": ({"registration_id": None}, 10016),
    "1001 targets": ({"registration_id": ",".join([A] * 1_001)}, 10017),
    "another package": ({"restricted_package_name": "com.other"}, 22006),
    "blank title": ({"title": "  "}, 10041),
    "title of 50": ({"title": "题" * 50}, 10041),
    "description of 128": ({"description": "x" * 128}, 10041),
    "no title": ({"title": None}, 10041),
    "payload too long": ({"payload": "x" * 4_097}, 65009),
    "pass_through 2": ({"pass_through": "2"}, 10017),
    "data without payload": ({"pass_through": "1", "payload": None}, 10016),
    "notify_type 8": ({"notify_type": "8"}, 10017),
    "notify_id negative": ({"notify_id": "-1"}, 10017),
    "ttl of no number": ({"time_to_live": "1h"}, 10017),
    "ttl over ten days": ({"time_to_live": str(10 * 86_400_000 + 1)}, 10017),
    "unknown field": ({"colour": "1"}, 10008),
    "no channel": ({"extra__channel_id": None}, 27001),
    "unknown channel": ({"extra__channel_id": "1"}, 27001),
    "unknown template": ({"extra__template_id": "T2"}, 10017),
    "template name": ({"extra__template_param": '{"nr":"A1"}'}, 10017),
    "template value blank": ({"extra__template_param": '{"no":" "}'}, 10017),
    "template value of 129": ({"extra__template_param": json.dumps({"no": "x" * 129})}, 10017),
    "template emoji": ({"extra__template_param": '{"no":"\U0001f600"}'}, 10017),
    "template no json": ({"extra__template_param": "no"}, 10017),
    "effect without url": ({"extra__notify_effect": "3"}, 10016),
    "effect 4": ({"extra__notify_effect": "4"}, 10017),
    "jobkey": ({"extra__jobkey": "_a"}, 10017),
    "callback": ({"extra__callback": "gw.example.com"}, 65037),
    "callback param": ({"extra__callback.param": "x" * 257}, 65036),
    "callback type 4": ({"extra__callback.type": "4"}, 10017),
    "eleven pairs": ({f"extra__k{index}": "v" for index in range(11)}, 65014),
    "pair too long": ({"extra__k": "v" * 1_024}, 65015),
}


@pytest.mark.parametrize("case", FAULTS)
def test_xiaomi_refuses(judge, case):
    changes, code = FAULTS[case]
    answer = _ask(judge("xiaomi", **SECTION), **changes)
    said = json.loads(answer.body)
    assert (answer.status, said["result"], said["code"], answer.rows) == (200, "error", code, ())
    assert "id" not in said.get("data", {})


def test_xiaomi_takes_titles_at_the_limit_and_public_messages_for_one_day(judge):
    xiaomi = judge("xiaomi", **SECTION)
    assert _code(_ask(xiaomi, title="题" * 49, description="\U0001f600" * 127)) == 0
    public = {"extra__channel_id": "news", "extra__template_id": None, "extra__template_param": None}
    assert _code(_ask(xiaomi, time_to_live=str(86_400_000), **public)) == 0
    assert _code(_ask(xiaomi, time_to_live=str(86_400_001), **public)) == 10017


@pytest.mark.parametrize("key", ["", "key=wrong", "Key=sim-xiaomi-app-secret", "Bearer sim-xiaomi-app-secret"])
def test_xiaomi_refuses_strangers(judge, key):
    assert _code(_ask(judge("xiaomi", **SECTION), key=key)) == 21301


def test_xiaomi_refuses_other_paths_methods_and_bodies(judge):
    xiaomi = judge("xiaomi", **SECTION)
    assert _code(_ask(xiaomi, path="/v3/message/all")) == 10020
    assert _code(xiaomi.ask(REGID, _form(), method="GET", authorization=KEY)) == 10021
    assert _code(xiaomi.ask(REGID, {"registration_id": A}, authorization=KEY)) == 10008
    assert _code(_ask(xiaomi, [*_form(), ("title", "again")])) == 10008
    assert _code(_ask(judge("xiaomi", fates=[{"fate": "bad_regid", "share": 1.0}], **SECTION))) == 20301


def _multi(*entries):
    return [("messages", json.dumps(entries, ensure_ascii=False))]


def _entry(target, channel="112233", **extra):
    message = {"title": f"t {target}", "description": "d", "restricted_package_name": "com.example.app", "notify_id": 1}
    return {"target": target, "message": message | {"extra": {"channel_id": channel} | extra}}


def test_xiaomi_sends_a_text_of_its_own_to_each(judge):
    xiaomi = judge("xiaomi", fates=[{"fate": "bad_regid", "tokens": [B]}], public_per_day=1, **SECTION)
    entries = [_entry(A), _entry(B), _entry(A + "1", "news"), _entry(A + "2", "news"), _entry(A + "3", "news")]
    answer = _ask(xiaomi, _multi(*entries), MULTI)
    said = json.loads(answer.body)
    assert (said["code"], said["data"]["bad_regids"]) == (0, B)
    assert said["data"]["channel_exceed_quota"] == "news:2"
    assert [(row.token, row.title) for row in answer.rows] == [(A, f"t {A}"), (A + "1", f"t {A}1")]
    assert answer.row_reasons == {"bad_regid": 1, "quota": 2}


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ([("messages", "x")], 10017),
        ([("message", "[]")], 10016),
        (_multi({"target": A}), 10017),
        (_multi(_entry(A, "1")), 27001),
        (_multi(*[_entry(A)] * 1_001), 10017),
    ],
)
def test_xiaomi_refuses_a_batch(judge, form, code):
    assert _code(_ask(judge("xiaomi", **SECTION), form, MULTI)) == code


def test_xiaomi_tells_the_quota_and_ends_at_it(judge):
    xiaomi = judge("xiaomi", public_per_day=3, **SECTION)
    public = {"extra__channel_id": "news", "extra__template_id": None, "time_to_live": "1"}
    public |= {"extra__template_param": None}
    first = json.loads(_ask(xiaomi, **public).body)
    assert (first["data"]["day_quota"], first["data"]["day_acked"]) == ("3", "2")
    assert _code(_ask(xiaomi, **public)) == 0
    over = json.loads(_ask(xiaomi, **public).body)
    assert (over["code"], over["description"]) == (200001, "exceed quota, quota: 3, have acked: 4")
    assert _code(_ask(xiaomi)) == 0  # private messages have no limit
    answer = xiaomi.ask("/v1/trace/quota/get", method="GET", authorization=KEY)
    assert json.loads(answer.body)["data"] == {"day_quota": "3", "day_acked": "4"}
    assert _code(xiaomi.ask("/v1/trace/quota/get", method="GET", authorization=KEY)) == 10027
    xiaomi.clock.advance(12 * 3600)
    assert _code(_ask(xiaomi, **public)) == 0


def test_xiaomi_device_cap_is_told_by_receipt(judge):
    xiaomi = judge("xiaomi", channel_required=False, receipts={"callback_url": "http://x"}, public_per_day=0)
    plain = {"registration_id": A, "extra__channel_id": None, "extra__template_id": None, "extra__callback": None}
    plain |= {"extra__template_param": None, "extra__callback.type": "131"}
    assert [xiaomi.events(_ask(xiaomi, **plain)) for _ in range(2)] == [["1"], ["128"]]
    [callback] = xiaomi.vendor.callbacks(_ask(xiaomi, **plain).receipts)
    [report] = json.loads(parse_qs(callback.body.decode())["data"][0]).values()
    assert (report["type"], report["extra"]) == (128, {"ack": "3", "quota": "10000"})


def test_xiaomi_counts_requests_not_targets(judge):
    xiaomi = judge("xiaomi", rate_per_s=2, **SECTION)
    assert [_code(_ask(xiaomi)) for _ in range(3)] == [0, 0, 200002]
    xiaomi.clock.advance(1)
    assert _code(_ask(xiaomi)) == 0


def test_xiaomi_device_of_another_region_is_told_by_receipt(judge):
    prefixes = {"ru": "ru", "cn": "cn"}
    keys = SECTION | {"regions": ["cn", "ru"], "region_prefixes": prefixes, "region": "ru"}
    xiaomi = judge("xiaomi", **keys)
    answer = _ask(xiaomi, registration_id="ruRegid00,cnRegid00,xxRegid00")
    assert [due.event for due in answer.receipts] == ["1", "16", "1"]
    assert len(answer.rows) == 3


def test_xiaomi_receipts_are_a_form_keyed_by_message_id(judge):
    fates = [{"fate": "invalid", "tokens": [B]}, {"fate": "replaced", "tokens": ["dEmO+old="]}]
    xiaomi = judge("xiaomi", fates=fates, **SECTION)
    answer = _ask(xiaomi, registration_id=f"{A},{B},dEmO+old=")
    first, second = (
        json.loads(parse_qs(one.body.decode())["data"][0]) for one in xiaomi.vendor.callbacks(answer.receipts)
    )
    message_id = json.loads(answer.body)["data"]["id"]
    assert first[message_id]["targets"] == f"{A},dEmO+old="
    assert first[message_id]["replaceTarget"] == {"dEmO+old=": "dEmO+old=New"}
    assert (second[message_id]["type"], second[message_id]["errorCode"], second[message_id]["param"]) == (
        16,
        1,
        "job-1",
    )


def test_xiaomi_sends_only_the_receipts_asked_for(judge):
    keys = SECTION | {"receipts": {"displayed_share": 1.0, "clicked_share": 1.0}}
    xiaomi = judge("xiaomi", fates=[{"fate": "invalid", "tokens": [B]}], **keys)
    assert xiaomi.events(_ask(xiaomi)) == ["1", "2", "16"]
    assert xiaomi.events(_ask(xiaomi, **{"extra__callback.type": None})) == ["1", "2"]
    assert xiaomi.events(_ask(xiaomi, **{"extra__callback.type": "1"})) == ["1"]
    assert xiaomi.events(_ask(xiaomi, extra__callback=None)) == []
