"""The judge of Honor: the example of the fact sheet, each refusal of the addendum's table, caps, receipts."""

from __future__ import annotations

import copy
import json

import pytest

SEND = "/api/v1/104400001/sendMessage"
A, B = "BAEAAAAAB.fakeTokenAAA", "BAEAAAAAB.fakeTokenBBB"
EXAMPLE = {
    "token": [A, B],
    "data": '{"order_id":"8841"}',
    "notification": {"title": "Order shipped", "body": "Parcel 8841 left the depot"},
    "android": {
        "ttl": "86400s",
        "biTag": "task-77",
        "targetUserType": 0,
        "notification": {
            "title": "Order shipped",
            "body": "Parcel 8841 left the depot",
            "clickAction": {"type": 3},
            "importance": "NORMAL",
            "notifyId": 8841,
            "badge": {"addNum": 1, "badgeClass": "com.example.app.MainActivity"},
        },
    },
}
LOW = "LOW"


def _token(honor, path="/auth/token", **changes):
    form = {"grant_type": "client_credentials"} | {key: honor.known[key] for key in ("client_id", "client_secret")}
    return honor.ask(path, list((form | changes).items()))


def _bearer(honor, path="/auth/token"):
    return f"Bearer {json.loads(_token(honor, path).body)['access_token']}"


def _ask(honor, body=EXAMPLE, path=SEND, **changes):
    headers = {"authorization": _bearer(honor), "timestamp": str(int(honor.clock.now_unix_s() * 1000))} | changes
    return honor.ask(path, body, **headers)


def _changed(notification=None, android=None, **fields):
    body = copy.deepcopy(EXAMPLE) | fields
    body["android"] |= android or {}
    body["android"]["notification"] |= notification or {}
    return body


def _code(answer):
    return json.loads(answer.body)["code"]


def test_honor_accepts_the_example_and_lists_the_expired_token(judge):
    honor = judge("honor", fates=[{"fate": "expired", "tokens": [B]}], receipts={"callback_url": "http://x"})
    answer = _ask(honor)
    said = json.loads(answer.body)
    assert (answer.status, said["code"], said["message"]) == (200, 200, "success")
    assert said["data"]["sendResult"] is True
    assert (said["data"]["failTokens"], said["data"]["expireTokens"]) == ([], [B])
    assert [row.token for row in answer.rows] == [A]
    assert honor.events(answer) == ["40000002"]


def test_honor_tells_failed_tokens_with_the_code_for_parts(judge):
    honor = judge("honor", fates=[{"fate": "fail", "tokens": [B]}], code_form="text")
    said = json.loads(_ask(honor).body)
    assert (said["code"], said["data"]["failTokens"]) == ("80100000", [B])


@pytest.mark.parametrize("path", ["/auth/token", "/auth/realms/developer/protocol/openid-connect/token"])
def test_honor_issues_tokens_on_both_paths_and_counts_them(judge, path):
    honor = judge("honor")
    assert _code(_ask(honor, authorization=_bearer(honor, path))) == 200
    assert honor.seen[f"token path {path}"] >= 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"grant_type": "password"}, "invalid_grant"),
        ({"client_id": "104400001"}, "invalid_client"),
        ({"client_secret": "app secret"}, "unauthorized_client"),
    ],
)
def test_honor_token_endpoint_refuses(judge, changes, error):
    answer = _token(judge("honor"), **changes)
    assert (answer.is_success, json.loads(answer.body)["error"]) == (False, error)


FAULTS = {
    "no tokens": (_changed(token=[]), 10300),
    "an empty token": (_changed(token=[""]), 10300),
    "a repeated token": (_changed(token=[A, A]), 80300006),
    "1001 tokens": (_changed(token=[f"t{index}" for index in range(1_001)]), 80300010),
    "too large": (_changed(data="x" * 4_097), 80300008),
    "unknown field": (_changed(colour=1), 80100003),
    "ttl as a number": (_changed(android={"ttl": 86400}), 80100003),
    "ttl too long": (_changed(android={"ttl": "1296001s"}), 400),
    "no right for the class": (_changed(), 80200022),
    "image in marketing": (_changed({"importance": LOW, "image": "https://x/a.png"}), 80200050),
    "sensitive": (_changed({"importance": LOW, "body": "forbidden"}), 80200056),
    "receipt id": (_changed({"importance": LOW}, {"receiptId": "other"}), 80200020),
    "badge without class": (_changed({"importance": LOW, "badge": {"addNum": 1}}), 400),
    "big text differs": (_changed({"importance": LOW, "style": 1, "bigTitle": "a", "bigBody": "b"}), 400),
    "click of type 2": (_changed({"importance": LOW, "clickAction": {"type": 2}}), 400),
    "nothing": ({"token": [A]}, 80100003),
}


@pytest.mark.parametrize("case", FAULTS)
def test_honor_refuses(judge, case):
    body, code = FAULTS[case]
    honor = judge("honor", self_classification=False, sensitive_words=["forbidden"], receipt_ids=["RCP"])
    answer = _ask(honor, body)
    assert (_code(answer), answer.rows) == (code, ())
    assert answer.status == (400 if code == 400 else 200)


def test_honor_refuses_strangers_and_wrong_clocks(judge):
    honor = judge("honor")
    assert _ask(honor, authorization="Bearer x").status == 403
    assert _ask(honor, path="/api/v1/1/sendMessage").status == 404
    assert _ask(honor, path="/v1/104400001/messages:send").status == 404
    assert _code(_ask(honor, timestamp="")) == 10001
    for wrong in ("1763697600", "now", str(int((honor.clock.now_unix_s() - 601) * 1000))):
        assert _code(_ask(honor, timestamp=wrong)) == 10207
    bearer = _bearer(honor)
    honor.clock.advance(3_601)
    assert _code(_ask(honor, authorization=bearer)) == 403


def test_honor_refuses_when_no_token_is_valid(judge):
    assert _code(_ask(judge("honor", fates=[{"fate": "expired", "share": 1.0}]))) == 80300007


def test_honor_takes_fields_that_single_sources_name_and_counts_them(judge):
    honor = judge("honor")
    assert _code(_ask(honor, _changed({"channelId": "c"}, {"category": "IM"}))) == 200
    assert honor.seen["variant field android.notification.channelId"] == 1
    lenient = judge("honor", unknown_fields="count")
    assert _code(_ask(lenient, _changed(colour=1))) == 200
    assert lenient.seen["unknown field colour"] == 1


def test_honor_marketing_is_capped_per_device_and_told_by_receipt(judge):
    honor = judge("honor", receipts={"callback_url": "http://x"})
    low = _changed({"importance": LOW}, token=[A])
    assert [honor.events(_ask(honor, low)) for _ in range(3)] == [["40000002"]] * 2 + [["40000009"]]
    assert honor.events(_ask(honor, _changed(token=[A]))) == ["40000002"]
    honor.clock.advance(12 * 3600)
    assert honor.events(_ask(honor, low)) == ["40000002"]


def test_honor_test_messages_have_a_cap_that_is_told_at_once(judge):
    honor = judge("honor", test_messages_per_day=1)
    test = _changed(android={"targetUserType": 1})
    assert [_code(_ask(honor, test)) for _ in range(2)] == [200, 80200047]


def test_honor_holds_messages_at_night_when_asked_to(judge):
    honor = judge("honor", night="held", receipts={"callback_url": "http://x"})
    assert honor.events(_ask(honor)) == ["40000002"] * 2
    honor.clock.advance(12 * 3600)
    assert honor.events(_ask(honor)) == ["40000013"] * 2
    honor.clock.advance(6 * 3600)
    assert honor.events(_ask(honor)) == ["40000002"] * 2


def test_honor_rate_is_answered_with_503(judge):
    honor = judge("honor", rate_per_s=2)
    assert [_ask(honor).status for _ in range(2)] == [200, 503]


def test_honor_receipts_name_token_tag_and_request(judge):
    honor = judge("honor", receipts={"callback_url": "http://x"}, fates=[{"fate": "not_installed", "tokens": [B]}])
    answer = _ask(honor)
    [callback] = honor.vendor.callbacks(answer.receipts)
    first, second = json.loads(callback.body)["statuses"]
    assert set(first) == {"biTag", "appid", "token", "status", "timestamp", "requestId"}
    assert (first["status"], second["status"], first["biTag"]) == (40000002, 40000003, "task-77")
    assert first["requestId"] == json.loads(answer.body)["data"]["requestId"]
