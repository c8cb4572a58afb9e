"""What devices may report: each form, and what has none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.uplink import (
    EVENTS,
    UNKNOWN,
    AliasChange,
    AppState,
    CustomEvent,
    Ignored,
    MalformedUplink,
    Report,
    StateReport,
    Switch,
    TagChange,
    TokenUpload,
    custom_number,
    event_of_number,
    number_of_event,
    parse_uplink,
)
from gateway.ledger import Flag, Receipt

ID = "01935a7e-6c00-8001-9000-00000100abcd"
ID_BYTES = bytes.fromhex(ID.replace("-", ""))
GOOD: list[tuple[str, Any, Any]] = [
    ("token", {"channel": "fcm", "token": "abc"}, TokenUpload("fcm", "abc")),
    ("token", {"channel": "", "token": ""}, TokenUpload("", "")),
    ("token", {"channel": "xiaomi", "token": "abc", "region": "eu"}, TokenUpload("xiaomi_eu", "abc")),
    ("displayed", {"message_id": ID}, Report((ID_BYTES,), Receipt.DISPLAYED)),
    ("clicked", {"message_ids": [ID, ID]}, Report((ID_BYTES,), Receipt.CLICKED)),
    ("closed", {"message_id": ID}, Report((ID_BYTES,), Receipt.DELIVERED, Flag.NOTIFICATION_CLOSED)),
    ("switch", {"on": False}, Switch(False)),
    ("tags", {"set": ["a", "b"]}, TagChange(("a", "b"), (), ())),
    ("tags", {"add": ["a"], "remove": ["b"]}, TagChange(None, ("a",), ("b",))),
    ("alias", {"alias": "user 7"}, AliasChange("user 7")),
    ("state", {"foreground": True}, StateReport(True, None)),
    ("state", {"screen": False, "unheard": [1]}, StateReport(None, False)),
]


@pytest.mark.parametrize(("event", "said", "meant"), GOOD)
def test_report_in_its_form_is_read(event: str, said: Any, meant: Any) -> None:
    assert parse_uplink(event, json.dumps(said).encode()) == meant


BAD = [
    ("token", {"channel": "fcm", "token": ""}),
    ("token", {"channel": "fcm", "token": "abc", "region": "eu"}),
    ("token", {"channel": "xiaomi", "token": "abc", "region": "europe"}),
    ("token", {"channel": "fcm"}),
    ("token", {"channel": "fcm", "token": "a\nb"}),
    ("token", {"channel": "fcm", "token": "x" * 10_000}),
    ("displayed", {}),
    ("displayed", {"message_id": "nonsense"}),
    ("clicked", {"message_ids": [ID] * 101}),
    ("clicked", {"message_id": ID, "message_ids": [ID] * 100}),
    ("clicked", {"message_ids": [ID, "x"]}),
    ("switch", {"on": 1}),
    ("tags", {"set": ["a"], "add": ["b"]}),
    ("tags", {"add": [""]}),
    ("tags", {"add": ["a\nb"]}),
    ("tags", {"add": ["x"] * 101}),
    ("tags", {"add": ["x" * 129]}),
    ("alias", {"alias": None}),
    ("alias", {"alias": "\ud800"}),
    ("state", {"screen": "on"}),
    ("state", [1]),
]


@pytest.mark.parametrize(("event", "said"), BAD)
def test_report_without_its_form_is_refused(event: str, said: Any) -> None:
    with pytest.raises(MalformedUplink):
        parse_uplink(event, json.dumps(said).encode())


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("said", [b"[" * 60_000, b'{"x":' + b"[" * 60_000, b'{"x":' + b'{"a":' * 10_000])
def test_report_that_is_nested_too_deep_is_refused(event: str, said: bytes) -> None:
    """Or one device ends the connections of all."""
    with pytest.raises(MalformedUplink):
        parse_uplink(event, said)


@given(st.sampled_from([*EVENTS, "90000", "x"]), st.binary(max_size=60))
def test_any_payload_is_read_or_refused_and_nothing_else(event: str, payload: bytes) -> None:
    try:
        parse_uplink(event, payload)
    except MalformedUplink:
        assert event in EVENTS


@pytest.mark.parametrize("event", ["90000", "90999", "90077"])
def test_custom_event_is_a_number_and_its_payload_its_own_affair(event: str) -> None:
    assert parse_uplink(event, b"\xff") == CustomEvent(int(event))


@pytest.mark.parametrize("event", ["91000", "89999", "090000", "9000", "90 00", "9000\u0663", "shown"])
def test_event_that_is_not_known_is_ignored(event: str) -> None:
    assert custom_number(event) is None
    assert parse_uplink(event, b"\xff") == Ignored()


def test_events_and_numbers_of_aliases_are_the_same_thing() -> None:
    for event in (*EVENTS, "90000", "90999", None):
        number = number_of_event(event)
        assert 0 < number <= 0xFFFF
        assert event_of_number(number) == event
    assert event_of_number(number_of_event("unheard-of")) == UNKNOWN
    assert UNKNOWN not in EVENTS


def test_tags_are_added_removed_or_set_each_once() -> None:
    change = TagChange(None, ("c", "a", "c"), ("b",))
    assert change.apply(("a", "b")) == ("a", "c")
    assert TagChange(("x", "x"), (), ()).apply(("a",)) == ("x",)


def test_state_keeps_what_is_not_said() -> None:
    both = AppState.FOREGROUND_KNOWN | AppState.FOREGROUND | AppState.SCREEN_KNOWN | AppState.SCREEN_ON
    assert StateReport(True, True).apply(0) == both
    assert StateReport(False, None).apply(both) == both & ~AppState.FOREGROUND
    assert StateReport(None, None).apply(AppState.NOTIFICATIONS_OFF) == AppState.NOTIFICATIONS_OFF
