"""The long link's payload: which keys stand in it, and what a raw object may change."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.core.downlink import PAYLOAD_BYTES_MAX_DEFAULT, Downlink, downlink_template
from gateway.vendor import Refusal, RequestTemplate, Slot


def payload_of(variant: Variant, *, with_variables: bool = False) -> Any:
    made = downlink_template(variant, with_variables=with_variables)
    assert isinstance(made, RequestTemplate)
    assert made.path == made.headers == ()
    parts = [b"<" + part.name.encode() + b">" if isinstance(part, Slot) else part for part in made.body]
    return json.loads(b"".join(parts))


def raw(value: object) -> dict[str, msgspec.Raw]:
    return {"long_link": msgspec.Raw(msgspec.json.encode(value))}


BARE = {"message_id": "<message_id>", "type": "notification", "title": "<title>", "body": "<body>"}


def test_empty_options_are_absent() -> None:
    assert payload_of(Variant("t", "b")) == BARE
    assert payload_of(Variant("", "", data={})) == BARE


def test_all_options_stand_in_the_payload() -> None:
    variant = Variant(
        "t",
        "b",
        data={"a": 1, "b": True, "message": "{{x}}"},
        click=Click("url", "https://x.cn/{{x}}"),
        image="https://x.cn/a.png",
        badge=0,
        sound="ring",
        collapse_id="o-1",
        category="ORDER",
    )
    assert payload_of(variant, with_variables=True) == BARE | {
        "data": {"a": 1, "b": True, "message": "<var:x>"},
        "click": {"type": "url", "value": "https://x.cn/<var:x>"},
        "image": "https://x.cn/a.png",
        "badge": 0,
        "sound": "ring",
        "collapse_id": "<collapse_id>",
        "category": "ORDER",
    }
    assert payload_of(variant)["data"]["message"] == "{{x}}"


def test_raw_is_merged_but_may_not_touch_what_both_ends_rely_on() -> None:
    assert payload_of(Variant("t", "b", raw=raw({"title": None, "x": {"y": 1}}))) == {
        key: value for key, value in BARE.items() if key != "title"
    } | {"x": {"y": 1}}
    for key in ("message_id", "type"):
        made = downlink_template(Variant("t", "b", raw=raw({key: 1})), with_variables=False)
        assert made == Refusal("raw", f"raw.long_link key {key} is the gateway's own")


@pytest.mark.parametrize(("payload_bytes_max", "expected"), [(None, PAYLOAD_BYTES_MAX_DEFAULT), (500, 500)])
def test_the_limit_is_that_of_the_config(payload_bytes_max: int | None, expected: int) -> None:
    downlink = Downlink() if payload_bytes_max is None else Downlink(payload_bytes_max)
    assert downlink.limits(Variant("t", "b")).payload_bytes_max == expected


def test_a_revoke_of_one_message_names_it_beside_the_collapse_id_it_may_have() -> None:
    one = Variant("", "", action="revoke", data={"revokes": "{{which}}"})
    assert payload_of(one, with_variables=True) == {
        "message_id": "<message_id>",
        "type": "revoke",
        "revokes": "<var:which>",
    }


def test_each_action_has_the_keys_it_needs_and_no_other() -> None:
    full = {"data": {"a": 1}, "collapse_id": "o-1", "category": "ORDER", "badge": 3, "sound": "x", "image": "https://x"}
    head = {"message_id": "<message_id>"}
    assert payload_of(Variant("t", "b", action="transmission", **full)) == head | {
        "type": "transmission",
        "body": "<body>",
        "data": {"a": 1},
        "collapse_id": "<collapse_id>",
        "category": "ORDER",
    }
    revoke = Variant("t", "b", action="revoke", **full)
    assert payload_of(revoke) == head | {"type": "revoke", "collapse_id": "<collapse_id>"}
    assert payload_of(Variant("t", "b", action="badge", **full)) == head | {"type": "badge", "badge": 3}
