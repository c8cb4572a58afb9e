"""The far end of the generic webhook: the contract of docs/vendors/webhook.md."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid

import pytest

IDS = [str(uuid.UUID(int=index)) for index in range(1, 4)]


def _ask(webhook, messages=None, *, secret="sim-webhook-secret", age_s=0, request_id=None, body=None, **headers):
    messages = [{"message_id": IDS[0], "target": "t1", "title": "t", "body": "b"}] if messages is None else messages
    body = json.dumps({"app": "shop", "messages": messages} if body is None else body).encode()
    stamp = str(int(webhook.clock.now_unix_s()) - age_s)
    signed = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"x_signature": f"t={stamp},v1={signed}", "x_request_id": request_id or uuid.uuid4().hex} | headers
    return webhook.ask("/hook", body, **headers)


def test_webhook_takes_messages_and_rejects_some(judge):
    webhook = judge("webhook", fates=[{"fate": "dead", "tokens": ["t2"]}, {"fate": "refused", "tokens": ["t3"]}])
    messages = [{"message_id": IDS[index], "target": f"t{index + 1}", "title": "t", "body": "b"} for index in range(3)]
    answer = _ask(webhook, messages)
    assert answer.status == 200
    assert json.loads(answer.body) == {
        "accepted": 1,
        "rejected": [
            {"index": 1, "message_id": IDS[1], "reason": "target_dead", "is_target_dead": True},
            {"index": 2, "message_id": IDS[2], "reason": "refused", "is_target_dead": False},
        ],
    }
    assert [row.message_id for row in answer.rows] == [uuid.UUID(IDS[0]).bytes]


FAULTS = {
    "another secret": ({"secret": "x"}, 401, "bad_signature"),
    "old": ({"age_s": 301}, 401, "bad_signature"),
    "no signature": ({"x_signature": ""}, 401, "bad_signature"),
    "no request id": ({"x_request_id": ""}, 400, "bad_request_id"),
    "no messages": ({"messages": []}, 400, "bad_field"),
    "no target": ({"messages": [{"message_id": IDS[0]}]}, 400, "bad_field"),
    "no uuid": ({"messages": [{"message_id": "x" * 32, "target": "t"}]}, 400, "bad_field"),
    "unknown field": ({"messages": [{"message_id": IDS[0], "target": "t", "colour": 1}]}, 400, "bad_field"),
    "too many": ({"messages": [{"message_id": IDS[0], "target": "t"}] * 3}, 413, "too_many"),
    "a list": ({"body": []}, 400, "bad_body"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_webhook_refuses(judge, case):
    changes, status, error = FAULTS[case]
    answer = _ask(judge("webhook", messages_max=2), **changes)
    assert (answer.status, json.loads(answer.body)["error"], answer.rows) == (status, error, ())


def test_webhook_answers_a_repeated_request_again_and_takes_nothing(judge):
    webhook = judge("webhook")
    first, second = (_ask(webhook, request_id="same") for _ in range(2))
    assert (len(first.rows), second.rows, second.body) == (1, (), first.body)


def test_webhook_throttles_with_429(judge):
    webhook = judge("webhook", rate_per_s=1)
    assert [_ask(webhook).status for _ in range(2)] == [200, 429]


def test_webhook_receipts_are_signed(judge):
    section = {"callback_url": "http://x", "displayed_share": 1.0, "clicked_share": 1.0}
    webhook = judge("webhook", receipts=section, fates=[{"fate": "closed", "tokens": ["t2"]}])
    messages = [{"message_id": IDS[index], "target": f"t{index + 1}"} for index in range(2)]
    answer = _ask(webhook, messages)
    [callback] = webhook.vendor.callbacks(answer.receipts)
    told = json.loads(callback.body)["receipts"]
    assert [(one["target"], one["event"]) for one in told] == [
        ("t1", "delivered"),
        ("t1", "displayed"),
        ("t1", "clicked"),
        ("t2", "closed"),
    ]
    assert told[0]["message_id"] == IDS[0]
    stamp, signed = dict(callback.headers)["x-signature"].removeprefix("t=").split(",v1=")
    expected = hmac.new(b"sim-webhook-secret", f"{stamp}.".encode() + callback.body, hashlib.sha256).hexdigest()
    assert signed == expected
