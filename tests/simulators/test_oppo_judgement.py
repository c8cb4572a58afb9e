"""The judge of OPPO: the example of the fact sheet, the signature vector, each refusal, both steps, receipts."""

from __future__ import annotations

import json
import uuid

import pytest

from bench.simulators.exchange import Request
from bench.simulators.oppo import auth_signature

PATH = "/server/v1/message/notification/"
A = "CN_00000000000000000000000000000001"
B = "CN_00000000000000000000000000000002"
EXAMPLE = {
    "target_type": 2,
    "target_value": A,
    "verify_registration_id": True,
    "notification": {
        "app_message_id": "gw-000001",
        "style": 1,
        "title": "新消息",
        "content": "你好",
        "click_action_type": 4,
        "click_action_activity": "com.example.app.MainActivity",
        "action_parameters": '{"conv":"c1"}',
        "off_line": True,
        "off_line_ttl": 86400,
        "channel_id": "messages",
        "category": "IM",
        "notify_level": 2,
        "private_msg_template_id": "tpl1",
        "private_title_parameters": {"name": "A"},
        "private_content_parameters": {"text": "你好"},
        "call_back_url": "https://gw.example.com/cb/oppo",
        "call_back_parameter": "job-1",
    },
}
PUBLIC = {"title": "t", "content": "c", "call_back_url": "https://gw.example.com/cb", "call_back_parameter": "job-2"}


def _auth(oppo, **changes):
    stamp = str(int(oppo.clock.now_unix_s() * 1000))
    sign = auth_signature(oppo.known["app_key"], stamp, oppo.known["master_secret"])
    form = {"app_key": oppo.known["app_key"], "timestamp": stamp, "sign": sign} | changes
    return oppo.ask("/server/v1/auth", [(key, value) for key, value in form.items() if value is not None])


def _token(oppo):
    return json.loads(_auth(oppo).body)["data"]["auth_token"]


def _ask(oppo, name, fields, *, token=None):
    token = _token(oppo) if token is None else token
    pairs = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in fields.items()]
    return oppo.ask(PATH + name, [("auth_token", token), *pairs])


def _unicast(oppo, target=None, **changes):
    notification = {key: value for key, value in (EXAMPLE["notification"] | changes).items() if value is not None}
    message = EXAMPLE | {"notification": notification, "target_value": target or A}
    return _ask(oppo, "unicast", {"message": message})


def _code(answer):
    return json.loads(answer.body)["code"]


def test_oppo_signature_is_that_of_the_published_vector():
    expected = "97d8d09aeb308c5c111462c5d367acd7f5bf77acb96a1d5c2ad1fdc6f168b1fd"
    assert auth_signature("ak_demo", "1700000000000", "ms_demo") == expected


def test_oppo_accepts_the_example(judge):
    oppo = judge("oppo")
    answer = _ask(oppo, "unicast", {"message": EXAMPLE})
    said = json.loads(answer.body)
    assert (answer.status, said["code"], said["message"]) == (200, 0, "success")
    assert said["data"]["messageId"].startswith("30000001-1-1-")
    [row] = answer.rows
    assert (row.token, row.title, row.body, row.reference) == (A, "新消息", "你好", "job-1")
    [due] = answer.receipts
    assert (due.url, due.event, due.message_id) == (
        "https://gw.example.com/cb/oppo",
        "push_arrive",
        said["data"]["messageId"],
    )


AUTH_FAULTS = {
    "no key": ({"app_key": None}, 15),
    "unknown key": ({"app_key": "x"}, 14),
    "no sign": ({"sign": None}, 17),
    "wrong sign": ({"sign": "x"}, 16),
    "no timestamp": ({"timestamp": None}, 18),
    "seconds": ({"timestamp": "1763697600"}, 19),
    "eleven minutes off": ({"timestamp": "1763698260000"}, 19),
}


@pytest.mark.parametrize("case", AUTH_FAULTS)
def test_oppo_refuses_a_wrong_auth(judge, case):
    changes, code = AUTH_FAULTS[case]
    assert _code(_auth(judge("oppo"), **changes)) == code


def test_oppo_token_is_wanted_in_each_call_and_lives_a_day(judge):
    oppo = judge("oppo")
    token = _token(oppo)
    assert _code(_ask(oppo, "unicast", {"message": EXAMPLE}, token="")) == 29
    assert _code(_ask(oppo, "unicast", {"message": EXAMPLE}, token="x")) == 11
    assert _token(oppo) != token
    oppo.clock.advance(86_399)
    assert _code(_ask(oppo, "unicast", {"message": EXAMPLE}, token=token)) == 0
    oppo.clock.advance(1)
    assert _code(_ask(oppo, "unicast", {"message": EXAMPLE}, token=token)) == 11


FAULTS = {
    "no title": ({"title": None}, 40),
    "empty content": ({"content": ""}, 41),
    "title of 51": ({"title": "题" * 51}, 41),
    "content of 51": ({"content": "x" * 51}, 41),
    "content of 129 in style 2": ({"content": "x" * 129, "style": 2}, 41),
    "big picture": ({"style": 3}, 41),
    "sub title": ({"sub_title": "x" * 11}, 41),
    "no activity": ({"click_action_activity": None}, 40),
    "no url": ({"click_action_type": 2}, 40),
    "parameters are no json": ({"action_parameters": "x"}, 41),
    "ttl as a text": ({"off_line_ttl": "3600"}, 41),
    "unknown field": ({"colour": 1}, 41),
    "callback too long": ({"call_back_url": "https://x/" + "x" * 200}, 41),
    "callback parameter": ({"call_back_parameter": "x" * 101}, 41),
    "category not approved": ({"category": "ORDER"}, 67),
    "category unknown": ({"category": "CHAT"}, 41),
    "level without category": ({"category": None}, 67),
    "level without grant": ({"notify_level": 16}, 67),
    "template missing": ({"private_msg_template_id": None}, 54),
    "template unknown": ({"private_msg_template_id": "tpl2"}, 54),
    "template names": ({"private_title_parameters": {"nick": "A"}}, 54),
    "template value": ({"private_title_parameters": {"name": 1}}, 41),
}


@pytest.mark.parametrize("case", FAULTS)
def test_oppo_refuses(judge, case):
    changes, code = FAULTS[case]
    oppo = judge("oppo", categories=["IM"], templates={"tpl1": ["name", "text"]}, templates_required=True)
    answer = _unicast(oppo, **changes)
    assert (answer.status, _code(answer), answer.rows) == (200, code, ())


@pytest.mark.parametrize("target", ["x", A.lower(), A + "1", "intl_0001", f"OPPO_{A}_"])
def test_oppo_refuses_targets_that_are_no_registration_id_of_its_region(judge, target):
    assert _code(_unicast(judge("oppo"), target)) == 10000
    assert _code(_unicast(judge("oppo", bad_target_code="41"), target)) == 41
    assert _code(_unicast(judge("oppo"), f"{A};{B}")) == 41


@pytest.mark.parametrize("target", [A, A[3:], f"OPPO_{A}"])
def test_oppo_takes_all_forms_of_a_registration_id(judge, target):
    assert _code(_unicast(judge("oppo"), target)) == 0
    intl = judge("oppo", regions=["cn", "intl"], region="intl")
    assert (_code(_unicast(intl, target)), _code(_unicast(intl, "oppo_0001"))) == (10000, 0)


def test_oppo_delivers_an_app_message_id_once_per_target(judge):
    oppo = judge("oppo")
    assert [_code(_unicast(oppo)) for _ in range(2)] == [0, 32]
    assert _code(_unicast(oppo, B)) == 0
    assert _code(_unicast(oppo, app_message_id="gw-2")) == 0
    throttled = judge("oppo", rate_per_s=1)
    assert [_code(_unicast(throttled, app_message_id=name)) for name in ("1", "2")] == [0, -2]
    throttled.clock.advance(1)
    assert _code(_unicast(throttled, app_message_id="2")) == 0  # what was throttled has not been learnt


def test_oppo_answers_a_batch_in_its_order(judge):
    oppo = judge("oppo", fates=[{"fate": "invalid", "tokens": [B]}])
    other = A[:-1] + "3"
    batch = [EXAMPLE | {"target_value": target} for target in (A, B, other)]
    answer = _ask(oppo, "unicast_batch", {"messages": batch})
    first, second, third = json.loads(answer.body)["data"]
    assert (first["registrationId"], third["registrationId"]) == (A, other)
    assert (second["registrationId"], second["errorCode"]) == (B, 10000)
    assert set(second) == {"registrationId", "errorCode", "errorMessage"}
    assert [row.token for row in answer.rows] == [A, other]
    assert _code(_ask(oppo, "unicast_batch", {"messages": batch * 400})) == 41
    assert _code(_ask(oppo, "unicast_batch", {"messages": "x"})) == 41
    assert _code(_ask(oppo, "unicast_batch", {})) == 40


def _save(oppo, **changes):
    return _ask(oppo, "save_message_content", PUBLIC | changes)


def _broadcast(oppo, message_id, targets, **changes):
    fields = {"message_id": message_id, "target_type": "2", "target_value": ";".join(targets)} | changes
    return _ask(oppo, "broadcast", fields)


@pytest.mark.parametrize(("form", "listed"), [("list", [B]), ("text", B)])
def test_oppo_broadcasts_a_saved_message_and_tells_failed_targets_by_code(judge, form, listed):
    oppo = judge("oppo", fates=[{"fate": "invalid", "tokens": [B]}], failed_form=form)
    message_id = json.loads(_save(oppo).body)["data"]["message_id"]
    answer = _broadcast(oppo, message_id, [A, B])
    data = json.loads(answer.body)["data"]
    assert (data["message_id"], data["10000"]) == (message_id, listed)
    assert data["task_id"]
    assert [(row.token, row.title, row.reference) for row in answer.rows] == [(A, "t", "job-2")]
    assert json.loads(_broadcast(oppo, message_id, [A]).body)["data"]["task_id"] != data["task_id"]


def test_oppo_refuses_broadcasts(judge):
    oppo = judge("oppo", saves_per_day=2)
    message_id = json.loads(_save(oppo).body)["data"]["message_id"]
    assert _code(_broadcast(oppo, "x", [A])) == 31
    assert _code(_broadcast(oppo, message_id, [A] * 1_001)) == 41
    assert _code(_broadcast(oppo, message_id, [A], target_type="1")) == 41
    assert _code(_save(oppo, category="IM")) == 67  # service messages go one by one
    assert _code(_save(oppo, off_line_ttl=3600, off_line=True, click_action_type=0)) == 0
    assert _code(_save(oppo)) == 42


def test_oppo_saves_an_app_message_id_once(judge):
    oppo = judge("oppo")
    message_id = json.loads(_save(oppo, app_message_id="m1").body)["data"]["message_id"]
    assert _code(_save(oppo, app_message_id="m1")) == 32
    lenient = judge("oppo", repeated_save="same_id")
    first, second = (json.loads(_save(lenient, app_message_id="m1").body)["data"] for _ in range(2))
    assert first == second
    assert first["message_id"] != message_id


def test_oppo_rate_counts_targets(judge):
    oppo = judge("oppo", rate_per_s=100)
    message_id = json.loads(_save(oppo).body)["data"]["message_id"]
    targets = [f"{index:032x}" for index in range(200)]
    assert _code(_broadcast(oppo, message_id, targets)) == 0
    assert _code(_broadcast(oppo, message_id, targets)) == -2
    oppo.clock.advance(1)
    assert _code(_broadcast(oppo, message_id, targets)) == -2  # the bucket is still in debt
    oppo.clock.advance(2)
    assert _code(_broadcast(oppo, message_id, targets)) == 0


def test_oppo_public_messages_have_caps_and_service_messages_have_none(judge):
    oppo = judge("oppo", public_per_day=3)
    public = {"category": "MARKETING", "notify_level": 1, "private_msg_template_id": None}
    answers = [_unicast(oppo, app_message_id=f"m{index}", **public) for index in range(4)]
    assert [_code(answer) for answer in answers] == [0, 0, 0, 33]
    assert [oppo.events(answer) for answer in answers[:3]] == [["push_arrive"]] * 2 + [["user_daily_limit"]]
    assert _code(_unicast(oppo)) == 0
    header = ((b"auth_token", _token(oppo).encode()),)
    permit = oppo.vendor.judge(Request("GET", "/server/v1/feedback/fetch_push_permit", header, b"", 0), None)
    assert json.loads(permit.body)["data"] == {"total": 3, "remain": 0}
    oppo.clock.advance(12 * 3600)
    assert _code(_unicast(oppo, app_message_id="m9", **public)) == 0


def test_oppo_receipts_are_an_array_with_joined_targets(judge):
    oppo = judge("oppo", fates=[{"fate": "regid_invalid", "tokens": [B]}])
    message_id = json.loads(_save(oppo, call_back_parameter=uuid.uuid4().hex).body)["data"]["message_id"]
    answer = _broadcast(oppo, message_id, [A, B, A[3:]])
    [callback] = oppo.vendor.callbacks(answer.receipts)
    arrived, invalid = json.loads(callback.body)
    assert (arrived["eventType"], arrived["registrationIds"]) == ("push_arrive", f"{A},{A[3:]}")
    assert (invalid["eventType"], invalid["registrationIds"]) == ("regid_invalid", B)
    assert (arrived["messageId"], arrived["appId"]) == (message_id, "30000001")
    assert arrived["taskId"] == json.loads(answer.body)["data"]["task_id"]
    assert callback.n_reports == 3
