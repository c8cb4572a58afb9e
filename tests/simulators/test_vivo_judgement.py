"""The judge of vivo: the examples of the fact sheet, the signature vector, each refusal, both steps, receipts."""

from __future__ import annotations

import json

import pytest

from bench.simulators.vivo import auth_signature

A, B = "15000000000000000000001", "15000000000000000000002"
EXAMPLE = {
    "appId": 10004,
    "regId": A,
    "notifyType": 4,
    "title": "新消息",
    "content": "小红:你好",
    "timeToLive": 3600,
    "skipType": 4,
    "skipContent": "intent:#Intent;component=com.example.app/.MainActivity;S.conv=c1;end",
    "networkType": -1,
    "classification": 1,
    "category": "IM",
    "clientCustomMap": {"conv": "c1"},
    "requestId": "gw-000001",
    "pushMode": 0,
    "notifyId": 42,
    "extra": {"callback": "https://gw.example.com/cb/vivo", "callback.param": "job-1"},
}
OPERATIONAL = {"classification": 0, "category": "MARKETING"}


def _auth(vivo, **changes):
    stamp = int(vivo.clock.now_unix_s() * 1000)
    sign = auth_signature("10004", vivo.known["app_key"], str(stamp), vivo.known["app_secret"])
    body = {"appId": 10004, "appKey": vivo.known["app_key"], "timestamp": stamp, "sign": sign} | changes
    return vivo.ask("/message/auth", {key: value for key, value in body.items() if value is not None})


class Asking:
    """A judge with a token, and a fresh request id for each request that names none."""

    def __init__(self, vivo):
        self.vivo = vivo
        self.token = json.loads(_auth(vivo).body)["authToken"]
        self.count = 0

    def post(self, path, body, token=None):
        return self.vivo.ask(path, body, authtoken=self.token if token is None else token)

    def body(self, **changes):
        self.count += 1
        fields = EXAMPLE | {"requestId": f"r{self.count}"} | changes
        return {key: value for key, value in fields.items() if value is not None}

    def send(self, **changes):
        return self.post("/message/send", self.body(**changes))

    def save(self, **changes):
        return self.post("/message/saveListPayload", self.body(regId=None, **changes))

    def push(self, task_id, reg_ids, **changes):
        self.count += 1
        body = {"appId": 10004, "regIds": reg_ids, "taskId": task_id, "requestId": f"r{self.count}"} | changes
        return self.post("/message/pushToList", {key: value for key, value in body.items() if value is not None})


@pytest.fixture
def asking(judge):
    return lambda **section: Asking(judge("vivo", **section))


def _result(answer):
    return json.loads(answer.body)["result"]


def test_vivo_signature_is_that_of_the_published_vector():
    expected = "74ee3f19b82816de5f3640bc57a7f27e"
    assert auth_signature("10004", "ak-demo", "1700000000000", "as-demo") == expected


def test_vivo_accepts_the_example(asking):
    vivo = asking()
    answer = vivo.post("/message/send", EXAMPLE)
    said = json.loads(answer.body)
    assert (said["result"], said["desc"], said["requestId"]) == (0, "请求成功", "gw-000001")
    assert said["taskId"].isdigit()
    [row] = answer.rows
    assert (row.token, row.title, row.body, row.reference) == (A, "新消息", "小红:你好", "job-1")
    [due] = answer.receipts
    assert (due.url, due.message_id, due.event) == ("https://gw.example.com/cb/vivo", said["taskId"], "0")


AUTH_FAULTS = {
    "no appId": ({"appId": None}, 10200),
    "no appKey": ({"appKey": ""}, 10201),
    "wrong appKey": ({"appKey": "x"}, 10202),
    "no timestamp": ({"timestamp": None}, 10203),
    "no sign": ({"sign": None}, 10204),
    "appId as a text": ({"appId": "10004"}, 10205),
    "wrong sign": ({"sign": "x"}, 10206),
    "seconds": ({"timestamp": 1763697600}, 10207),
    "timestamp as a text": ({"timestamp": "1763697600000"}, 10207),
}


@pytest.mark.parametrize("case", AUTH_FAULTS)
def test_vivo_refuses_a_wrong_auth(judge, case):
    changes, code = AUTH_FAULTS[case]
    assert _result(_auth(judge("vivo"), **changes)) == code


def test_vivo_auth_has_a_limit_per_second_and_a_life_of_a_day(judge):
    vivo = judge("vivo", auth_calls_per_s=2)
    assert [_result(_auth(vivo)) for _ in range(3)] == [0, 0, 10093]
    vivo.clock.advance(1)
    asking = Asking(vivo)
    vivo.clock.advance(86_399)
    assert _result(asking.send()) == 0
    vivo.clock.advance(1)
    assert _result(asking.send()) == 10000
    assert _result(asking.post("/message/send", EXAMPLE, token="")) == 10000


FAULTS = {
    "another appId": ({"appId": 10005}, 10094),
    "appId as a text": ({"appId": "10004"}, 10094),
    "no regId": ({"regId": None}, 10050),
    "no requestId": ({"requestId": None}, 10352),
    "requestId of 65": ({"requestId": "x" * 65}, 10353),
    "notifyType 5": ({"notifyType": 5}, 10054),
    "no title": ({"title": None}, 10055),
    "empty title": ({"title": ""}, 10055),
    "title of 41": ({"title": "题" * 41}, 10056),
    "empty content": ({"content": ""}, 10057),
    "content of 101": ({"content": "x" * 101}, 10058),
    "ttl of 59": ({"timeToLive": 59}, 10059),
    "ttl as a text": ({"timeToLive": "60"}, 10059),
    "skipType 5": ({"skipType": 5}, 10060),
    "no skipContent": ({"skipContent": None}, 10060),
    "skipContent of 2049": ({"skipContent": "x" * 2_049}, 10060),
    "networkType 0": ({"networkType": 0}, 10065),
    "custom map of numbers": ({"clientCustomMap": {"a": 1}}, 10067),
    "custom map too large": ({"clientCustomMap": {"a": "x" * 1_024}}, 10067),
    "unknown field": ({"colour": 1}, 10095),
    "notifyId 0": ({"notifyId": 0}, 10095),
    "category unknown": ({"category": "CHAT"}, 10096),
    "category of the other class": ({"category": "MARKETING"}, 10097),
    "extra key": ({"extra": {"param": "x"}}, 10304),
    "callback of 129": ({"extra": {"callback": "https://x/" + "x" * 119}}, 10305),
    "param of 193": ({"extra": {"callback.param": "x" * 193}}, 10306),
    "sensitive": ({"content": "forbidden"}, 10103),
}


@pytest.mark.parametrize("case", FAULTS)
def test_vivo_refuses(asking, case):
    changes, code = FAULTS[case]
    answer = asking(sensitive_words=["forbidden"]).send(**changes)
    assert (answer.status, _result(answer), answer.rows) == (200, code, ())


def test_vivo_counts_what_the_older_counting_refuses(asking):
    vivo = asking()
    assert _result(vivo.send(title="题" * 40, timeToLive=100_000)) == 0
    assert vivo.vivo.seen["title over the older limit"] == 1
    assert vivo.vivo.seen["timeToLive over one day"] == 1


def test_vivo_has_rules_for_texts_when_asked_to(asking):
    vivo = asking(content_rules=True)
    assert [_result(vivo.send(content=text)) for text in ("hello 1", "测试一下", "你好{}", "你好")] == [10104] * 3 + [0]
    assert _result(asking(content_rules=True, test_users=[A]).send(content="hello", pushMode=1)) == 0


STATUSES = {"not_existing": (10302, 1), "uninstalled": (10311, 2), "offline": (10311, 3), "muted": (10311, 2)}


@pytest.mark.parametrize("fate", STATUSES)
def test_vivo_names_the_invalid_user(asking, fate):
    result, status = STATUSES[fate]
    answer = asking(fates=[{"fate": fate, "tokens": [A]}]).send()
    said = json.loads(answer.body)
    assert (said["result"], said["invalidUser"]) == (result, {"status": status, "userid": A})
    assert answer.rows == ()


def test_vivo_test_pushes_reach_test_users_only(asking):
    vivo = asking(test_users=[A])
    assert _result(vivo.send(pushMode=1)) == 0
    assert json.loads(vivo.send(pushMode=1, regId=B).body)["invalidUser"]["status"] == 4


def test_vivo_answers_a_repeated_request_again_and_sends_nothing(asking):
    vivo = asking(operational_per_device_per_day=0)
    first, second = (vivo.send(requestId="same") for _ in range(2))
    assert (second.body, second.rows, second.receipts) == (first.body, (), ())
    throttled = asking(rate_per_s=1)
    assert [_result(throttled.send(requestId=name)) for name in "ab"] == [0, 10072]
    throttled.vivo.clock.advance(1)
    assert len(throttled.send(requestId="b").rows) == 1  # what was throttled has not been learnt


def test_vivo_pushes_a_saved_message_to_a_list(asking):
    vivo = asking(fates=[{"fate": "not_existing", "tokens": [B]}], receipts={"callback_url": "http://x"})
    saved = json.loads(vivo.save().body)
    assert (saved["result"], set(saved)) == (0, {"result", "desc", "taskId"})
    answer = vivo.push(saved["taskId"], [A, B], requestId="gw-000002")
    said = json.loads(answer.body)
    assert (said["result"], said["requestId"]) == (0, "gw-000002")
    assert said["invalidUsers"] == [{"status": 1, "userid": B}]
    assert [(row.token, row.title) for row in answer.rows] == [(A, "新消息")]
    assert answer.receipts == ()  # the older receipts are for single pushes
    assert len(vivo.push(saved["taskId"], [A, "v2-" + "x" * 60]).rows) == 2
    assert vivo.vivo.seen["regId of v2"] == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"regIds": [A]}, 10152),
        ({"regIds": [A] * 1_001}, 10152),
        ({"regIds": None}, 10150),
        ({"regIds": [1, 2]}, 10153),
        ({"taskId": None}, 10151),
        ({"taskId": "1"}, 10155),
        ({"requestId": None}, 10352),
    ],
)
def test_vivo_refuses_a_list(asking, changes, code):
    vivo = asking()
    task_id = json.loads(vivo.save().body)["taskId"]
    assert _result(vivo.push(task_id, [A, B], **changes)) == code


def test_vivo_saved_messages_expire_and_are_counted(asking):
    vivo = asking(saves_per_day=1, saved_life_s=60)
    task_id = json.loads(vivo.save().body)["taskId"]
    assert _result(vivo.save()) == 10252
    vivo.vivo.clock.advance(60)
    assert _result(vivo.push(task_id, [A, B])) == 10155


def test_vivo_quotas_are_of_the_class(asking):
    vivo = asking(operational_per_day=2, operational_per_device_per_day=0)
    assert [_result(vivo.send(**OPERATIONAL)) for _ in range(3)] == [0, 0, 10070]
    assert _result(vivo.send()) == 0
    assert vivo.vivo.seen["calls after the quota was used up"] == 1
    vivo.vivo.clock.advance(12 * 3600)
    assert _result(vivo.send(**OPERATIONAL)) == 0
    few = asking(system_per_day=1)
    assert [_result(few.send()) for _ in range(2)] == [0, 10073]


def test_vivo_does_not_show_more_than_a_device_may_get(asking):
    vivo = asking()
    answers = [vivo.send(**OPERATIONAL) for _ in range(3)]
    assert [_result(answer) for answer in answers] == [0, 0, 0]
    assert [len(answer.receipts) for answer in answers] == [1, 1, 0]


def test_vivo_refuses_operational_messages_at_night_and_closed_classes(asking):
    vivo = asking(night="refused")
    assert _result(vivo.send(**OPERATIONAL)) == 0
    vivo.vivo.clock.advance(11 * 3600)
    assert _result(vivo.send(**OPERATIONAL)) == 10071
    assert _result(vivo.send()) == 0
    assert _result(asking(system_open=False).send()) == 10082


def test_vivo_tells_statistics_of_a_task(asking):
    vivo = asking()
    task_id = json.loads(vivo.send().body)["taskId"]
    answer = vivo.vivo.ask(f"/report/getStatistics?taskIds={task_id},1", method="GET", authtoken=vivo.token)
    [told] = json.loads(answer.body)["statistics"]
    assert (told["taskId"], told["send"]) == (task_id, 1)


@pytest.mark.parametrize(("form", "more"), [("ack", {"ackTime", "ackType"}), ("legacy", set())])
def test_vivo_receipts_are_keyed_by_task(asking, form, more):
    vivo = asking(receipt_form=form, callback_ids={"7": "http://y"})
    task_id = json.loads(vivo.save(extra={"callback.id": "7", "callback.param": "p"}).body)["taskId"]
    answer = vivo.push(task_id, [A, B])
    assert {due.url for due in answer.receipts} == {"http://y"}
    [callback] = vivo.vivo.vendor.callbacks(answer.receipts)
    report = json.loads(callback.body)[task_id]
    assert set(report) == {"param", "targets"} | more
    assert (report["param"], report["targets"]) == ("p", f"{A},{B}")
