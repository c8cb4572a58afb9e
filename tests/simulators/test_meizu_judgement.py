"""The judge of Meizu: the example of the fact sheet, the signature vectors, each refusal, tasks, receipts."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

import pytest

from bench.simulators.meizu import signature

PUSH = "/garcia/api/server/push/varnished/pushByPushId"
DATA = "/garcia/api/server/push/unvarnished/pushByPushId"
TASK = "/garcia/api/server/push/pushTask/getTaskId"
TASK_PUSH = "/garcia/api/server/push/task/varnished/pushByPushId"
A = "RA500000000000000000000000000000000000000001"
B = "RA500000000000000000000000000000000000000002"
BAR = {"title": "t", "content": "c"}
EXTRA = {"callback": "https://gw.example.com/cb", "callback.param": "job-1", "callback.type": "3"}


def _ask(meizu, path=PUSH, *, sign=None, secret=None, **changes):
    form = {"appId": "110000", "pushIds": A, "messageJson": json.dumps({"noticeBarInfo": BAR})} | changes
    form = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in form.items()
        if value is not None
    }
    form["sign"] = signature(form, secret or meizu.known["app_secret"]) if sign is None else sign
    return meizu.ask(path, list(form.items()))


def _code(answer):
    return json.loads(answer.body)["code"]


def _message(**parts):
    return {"noticeBarInfo": BAR} | parts


def test_meizu_signature_is_that_of_the_published_vectors():
    form = {"appId": "110000", "pushIds": A, "messageJson": '{"noticeBarInfo":{"title":"t","content":"c"}}'}
    assert signature(form, "secretdemo") == "168f2b8ed7c0b71d3c2c71887c79ea61"
    form = {
        "appId": "10000",
        "pushIds": "RA50c6348036344485d01776773577c64740465480a6b",
        "messageJson": '{"title":"title","content":"content","pushTimeInfo":{"offLine":1,"validTime":24}}',
    }
    assert signature(form, "<APP_SECRET>") == "ac076ff25d9900015a681cb5172aa53b"


def test_meizu_answers_the_example_as_the_sheet_does(judge):
    meizu = judge("meizu", app_secret="secretdemo", fates=[{"fate": "110002", "tokens": [A]}])
    body = (
        f"appId=110000&pushIds={A}&messageJson=%7B%22noticeBarInfo%22%3A%7B%22title%22%3A%22t%22%2C%22content%22%3A"
        "%22c%22%7D%7D&sign=168f2b8ed7c0b71d3c2c71887c79ea61"
    )
    answer = meizu.ask(PUSH, body.encode(), content_type="application/x-www-form-urlencoded;charset=UTF-8")
    said = json.loads(answer.body)
    assert (said["code"], said["message"], said["value"], said["redirect"]) == ("200", "", {"110002": [A]}, "")
    assert (len(said["msgId"]), answer.rows) == (32, ())


def test_meizu_accepts_a_full_message(judge):
    meizu = judge("meizu")
    message = _message(
        noticeExpandInfo={"noticeExpandType": 1, "noticeExpandContent": "long"},
        clickTypeInfo={"clickType": 1, "activity": "com.example.app.MainActivity", "parameters": {"k": "v"}},
        pushTimeInfo={"offLine": 1, "validTime": 72},
        advanceInfo={"notifyKey": "k1", "notificationType": {"vibrate": 1}},
        extra=EXTRA,
    )
    answer = _ask(meizu, messageJson=message, pushIds=f"{A},{B}")
    assert (_code(answer), json.loads(answer.body)["value"]) == ("200", {})
    assert [(row.token, row.title, row.body, row.reference) for row in answer.rows] == [
        (A, "t", "c", "job-1"),
        (B, "t", "c", "job-1"),
    ]


FAULTS = {
    "another app": ({"appId": "1"}, "110000"),
    "no sign": ({"sign": ""}, "1006"),
    "upper case sign": ({"sign": "A" * 32}, "1006"),
    "another secret": ({"secret": "x"}, "1006"),
    "no ids": ({"pushIds": None}, "110004"),
    "101 ids": ({"pushIds": ",".join([A] * 101)}, "1005"),
    "no message": ({"messageJson": None}, "110004"),
    "no json": ({"messageJson": "x"}, "1005"),
    "no notice": ({"messageJson": {"extra": {}}}, "110004"),
    "title of 33": ({"messageJson": {"noticeBarInfo": {"title": "题" * 33, "content": "c"}}}, "1005"),
    "content of 101": ({"messageJson": {"noticeBarInfo": {"title": "t", "content": "x" * 101}}}, "1005"),
    "empty title": ({"messageJson": {"noticeBarInfo": {"title": "", "content": "c"}}}, "1005"),
    "class 2": ({"messageJson": {"noticeBarInfo": BAR | {"noticeMsgType": 2}}}, "1005"),
    "ttl of 0": ({"messageJson": _message(pushTimeInfo={"validTime": 0})}, "1005"),
    "ttl of 73": ({"messageJson": _message(pushTimeInfo={"validTime": 73})}, "1005"),
    "ttl as a text": ({"messageJson": _message(pushTimeInfo={"validTime": "24"})}, "1005"),
    "key of 9": ({"messageJson": _message(advanceInfo={"notifyKey": "123456789"})}, "1005"),
    "no activity": ({"messageJson": _message(clickTypeInfo={"clickType": 1})}, "110004"),
    "unknown field": ({"messageJson": _message(colour=1)}, "1005"),
    "unknown parameter": ({"colour": "1"}, "1005"),
    "callback of 129": ({"messageJson": _message(extra={"callback": "https://x/" + "x" * 119})}, "1005"),
    "callback not registered": ({"messageJson": _message(extra={"callback": "https://y"})}, "1005"),
    "param of 65": ({"messageJson": _message(extra={"callback.param": "x" * 65})}, "1005"),
    "data messages are closed": ({"path": DATA, "messageJson": {"content": "c"}}, "110053"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_meizu_refuses(judge, case):
    changes, code = FAULTS[case]
    answer = _ask(judge("meizu", callback_urls=["https://gw.example.com/cb"]), **changes)
    said = json.loads(answer.body)
    assert (answer.status, said["code"], said["value"], answer.rows) == (200, code, "", ())


def test_meizu_takes_data_messages_when_open(judge):
    answer = _ask(judge("meizu", unvarnished=True), DATA, messageJson={"title": "t", "content": "data"})
    assert (_code(answer), answer.rows[0].body) == ("200", "data")


def test_meizu_lists_targets_by_code(judge):
    fates = [{"fate": "110002", "tokens": [B]}, {"fate": "110010", "tokens": [A[:-1] + "3"]}]
    answer = _ask(judge("meizu", fates=fates), pushIds=f"{A},{B},{A[:-1]}3,short")
    assert json.loads(answer.body)["value"] == {"110002": [B], "110010": [A[:-1] + "3"], "110003": ["short"]}
    assert [row.token for row in answer.rows] == [A]


def test_meizu_pushes_a_task_in_two_steps(judge):
    meizu = judge("meizu")
    made = json.loads(_ask(meizu, TASK, pushType="0", pushIds=None).body)
    assert made["code"] == "200"
    for targets in (A, B):
        answer = _ask(meizu, TASK_PUSH, taskId=made["value"]["taskId"], pushIds=targets, messageJson=None)
        assert (_code(answer), [row.token for row in answer.rows]) == ("200", [targets])
    assert _code(_ask(meizu, TASK_PUSH, taskId="0", messageJson=None)) == "110032"
    assert _code(_ask(meizu, TASK, pushType="1", pushIds=None)) == "1005"


def test_meizu_caps_public_messages_per_device_at_once(judge):
    meizu = judge("meizu", device_messages_per_minute=0)
    private = _message(noticeBarInfo=BAR | {"noticeMsgType": 1})
    values = [json.loads(_ask(meizu).body)["value"] for _ in range(4)]
    assert values == [{}] * 3 + [{"110011": [A]}]
    assert json.loads(_ask(meizu, messageJson=private).body)["value"] == {}
    meizu.clock.advance(12 * 3600)
    assert json.loads(_ask(meizu).body)["value"] == {}


def test_meizu_folds_more_than_five_messages_in_a_minute(judge):
    meizu = judge("meizu", public_per_device_per_day=0)
    assert [json.loads(_ask(meizu).body)["value"] for _ in range(6)] == [{}] * 5 + [{"520": [A]}]
    meizu.clock.advance(60)
    assert json.loads(_ask(meizu).body)["value"] == {}


@pytest.mark.parametrize(("counts", "codes"), [("targets", ["200", "110010"]), ("requests", ["200", "200"])])
def test_meizu_rate_counts_targets_or_requests(judge, counts, codes):
    meizu = judge("meizu", rate_per_s=2, rate_counts=counts)
    assert [_code(_ask(meizu, pushIds=f"{A},{B}")) for _ in range(2)] == codes


def test_meizu_receipts_are_a_form_with_the_access_token(judge):
    meizu = judge("meizu", receipts={"displayed_share": 1.0, "clicked_share": 1.0})
    answer = _ask(meizu, pushIds=f"{A},{B}", messageJson=_message(extra=EXTRA))
    [callback] = meizu.vendor.callbacks(answer.receipts)
    form = parse_qs(callback.body.decode())
    assert form["access_token"] == ["sim-meizu-access-token"]
    message_id = json.loads(answer.body)["msgId"]
    assert json.loads(form["cb"][0]) == {
        f"{message_id}-{kind}": {"param": "job-1", "type": kind, "targets": [A, B]} for kind in (1, 2)
    }
    only = EXTRA | {"callback.type": "1"}
    assert meizu.events(_ask(meizu, messageJson=_message(extra=only))) == ["1"]
