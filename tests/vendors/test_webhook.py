"""Webhook and UPS: the contract of docs/vendors/webhook.md, signatures over what is carried, verdicts."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.verdict import Verdict
from vendors.webhook import ERRORS, Settings, Ups, Webhook

SETTINGS = Settings(host="hook.example.com", secret_file="s", app="shop", paths={"call": "/calls"})
VENDOR = Webhook(SETTINGS)


def check_signature(request: Any, secret: bytes = b"credential") -> None:
    """The twin: what a receiver does."""
    stamp, _, told = request.headers["x-signature"].partition(",v1=")
    signed = stamp.removeprefix("t=").encode() + b"." + request.body
    assert told == hmac.new(secret, signed, hashlib.sha256).hexdigest()
    assert stamp == "t=1763700000"


def test_a_message_has_the_fields_of_the_contract(render: Callable[..., Any]) -> None:
    variant = Variant(
        'T "q"',
        "B",
        data={"k": 1},
        ttl_s=60,
        category="order",
        collapse_id='c"1',
        badge=3,
        image="https://i.example.com/a.png",
        click=Click("url", "https://example.com/?a=b"),
        class_="marketing",
    )
    made = render(VENDOR, variant, ["user-1"])
    (request,) = made.requests
    message_id = json.loads(request.body)["messages"][0]["message_id"]
    assert json.loads(request.body) == {
        "app": "shop",
        "messages": [
            {
                "message_id": message_id,
                "target": "user-1",
                "title": 'T "q"',
                "body": "B",
                "ttl_s": 60,
                "class": "marketing",
                "data": {"message_id": message_id, "k": 1},
                "category": "order",
                "collapse_id": 'c"1',
                "url": "https://example.com/?a=b",
                "image": "https://i.example.com/a.png",
                "badge": 3,
            }
        ],
    }
    assert request.headers["x-request-id"] == message_id
    check_signature(request)


CONTENTS: dict[str, dict[str, Any]] = {
    "one content": {"variants": Variant("t", "b")},
    "variables": {"variants": Variant("t", "b {{x}}"), "variables": {"x": ['a"', "长" * 9, "c"]}},
    "many contents": {"variants": [Variant(f"t{n}", "b\n" * n) for n in range(3)]},
}


@pytest.mark.parametrize("case", CONTENTS)
@pytest.mark.parametrize("rows_max", [1000, 2, 1])
def test_every_way_of_rendering_is_signed_over_what_it_carries(
    render: Callable[..., Any], case: str, rows_max: int
) -> None:
    vendor = Webhook(msgspec.structs.replace(SETTINGS, rows_per_request_max=rows_max))
    changes = dict(CONTENTS[case])
    made = render(vendor, changes.pop("variants"), ["A", "B", "C"], authorization=b"s3cret", **changes)
    assert [len(request.rows) for request in made.requests] == {1000: [3], 2: [2, 1], 1: [1, 1, 1]}[rows_max]
    targets, requests = [], set()
    for request in made.requests:
        check_signature(request, b"s3cret")
        targets += [message["target"] for message in json.loads(request.body)["messages"]]
        requests.add(request.headers["x-request-id"])
    assert sorted(targets) == ["A", "B", "C"]
    assert len(requests) == len(made.requests)


def test_a_category_has_its_own_path_and_its_own_requests(render: Callable[..., Any]) -> None:
    made = render(VENDOR, [Variant("t", "b", category=name) for name in ("call", "", "call")], ["A", "B", "C"])
    paths = {
        message["target"]: request.path for request in made.requests for message in json.loads(request.body)["messages"]
    }
    assert paths == {"A": "/calls", "B": "/hook", "C": "/calls"}


def test_raw_patches_the_message_and_not_its_address(render: Callable[..., Any]) -> None:
    patch = {"webhook": msgspec.Raw(b'{"data":{"own":true},"badge":null}')}
    (request,) = render(VENDOR, Variant("t", "b", badge=1, raw=patch), ["A"]).requests
    message = json.loads(request.body)["messages"][0]
    assert message["data"]["own"] is True
    assert "badge" not in message
    made = render(VENDOR, Variant("t", "b", raw={"webhook": msgspec.Raw(b'{"target":"x"}')}), ["A"])
    assert [part[1] for part in made.refused] == ["raw"]
    # The UPS channel has a passthrough of its own.
    (request,) = render(Ups(SETTINGS), Variant("t", "b", raw={"ups": msgspec.Raw(b'{"badge":7}')}), ["A"]).requests
    assert json.loads(request.body)["messages"][0]["badge"] == 7


def test_a_long_body_is_cut_and_a_long_category_refused(render: Callable[..., Any]) -> None:
    made = render(VENDOR, Variant("t", "长" * 20_000), ["A"])
    message = json.loads(made.requests[0].body)["messages"][0]
    assert message["body"].endswith("…")
    assert made.truncated == [0]
    assert len(made.requests[0].body) <= SETTINGS.message_bytes_max
    (refused,) = render(VENDOR, Variant("t", "b", category="c" * 65), ["A"]).refused
    assert refused[1:] == ("category", "category is 65 characters, limit 64 (webhook)")


TABLE = """
CREDENTIAL bad_signature not_found
REJECTED bad_body bad_field bad_request_id too_many
THROTTLED too_fast
UNAVAILABLE unavailable
"""


def test_every_error_of_the_contract_has_its_verdict() -> None:
    seen: set[str] = set()
    for line in TABLE.strip().splitlines():
        verdict, *errors = line.split()
        seen |= set(errors)
        for error in errors:
            answer = VENDOR.classify(400, {b"retry-after": b"7"}, json.dumps({"error": error}).encode())
            assert (answer.verdict.name, answer.name, answer.retry_after_s) == (verdict, error, 7.0)
    assert seen == set(ERRORS)
    unknown = VENDOR.classify(418, {}, b'{"error":"teapot"}')
    assert (unknown.verdict, unknown.name, unknown.is_unknown) == (Verdict.REJECTED, "teapot", True)


def test_rejected_messages_are_known_by_their_place() -> None:
    body = (
        b'{"accepted":1,"rejected":[{"index":0,"reason":"target_dead","is_target_dead":true},'
        b'{"index":2,"reason":"refused","is_target_dead":false}]}'
    )
    told = VENDOR.judge(200, {}, body, is_distinct=True)
    assert told.rest.verdict is Verdict.ACCEPTED
    assert {place: answer.verdict.name for place, answer in told.by_position.items()} == {
        0: "TOKEN_DEAD",
        2: "REJECTED",
    }
    assert VENDOR.classify(200, {}, body).verdict is Verdict.TOKEN_DEAD
    for nameless in (b"{}", b'{"index":"0"}', b'{"index":-1}', b'{"index":true}', b"7"):
        told = VENDOR.judge(200, {}, b'{"accepted":1,"rejected":[' + nameless + b"]}", is_distinct=True)
        assert told.rest.verdict is Verdict.UNCERTAIN


@pytest.mark.parametrize(
    "changes",
    [{"host": ""}, {"path": "hook"}, {"paths": {"a": "/b c"}}, {"app": "a" * 65}, {"message_bytes_max": 10}],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"host": "a.b", "secret_file": "s"} | changes, Settings)


def test_two_processes_that_render_one_batch_have_no_request_in_common(render: Callable[..., Any]) -> None:
    """Their requests would count as repetitions, and the second one's rows would be lost."""
    seen = [
        render(VENDOR, Variant("t", "b"), ["A", "B", "C"], first_number=first).requests[0].headers["x-request-id"]
        for first in (0, 1 << 31, (1 << 32) - 1)
    ]
    assert len(set(seen)) == 3
