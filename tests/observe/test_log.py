"""Log lines: valid JSON, bounded, nothing secret in them."""

from __future__ import annotations

import enum
import io
import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import CloseReason
from gateway.observe.log import Level, Log
from gateway.observe.redact import Redacted, is_sensitive, redact_text, short_hash

APNS_TOKEN = "00aa11bb22cc33dd44ee55ff66007711882299330044115522663377448855ff"
FCM_TOKEN = "dQw4w9WgXcQ_0123456789:APA91b" + "H7_xY-z" * 20
JWT = "eyJhbGciOiJFUzI1NiIsImtpZCI6IkFCQyJ9.eyJpc3MiOiJURUFNIiwiaWF0IjoxfQ.c2lnbmF0dXJl"
DEVICE_ID = "0123456789abcdef0123456789abcdef"
MESSAGE_ID = "01890a5d-ac96-8b7c-8d1e-0123456789ab"


class Written:
    """A log over a string, with a clock that stands until it is moved."""

    def __init__(self, **arguments: Any) -> None:
        self.stream = io.StringIO()
        self.now = 1_700_000_000.25
        self.suppressed = 0
        self.levels: list[Level] = []
        self.log = Log(
            stream=self.stream,
            unix_s=lambda: self.now,
            on_line=self.levels.append,
            on_suppressed=self._suppress,
            **arguments,
        )

    def _suppress(self) -> None:
        self.suppressed += 1

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def test_line_is_one_json_object_with_the_fixed_fields_first() -> None:
    written = Written()
    written.log.bind(actor="lane apns/shop").warning("throttled", rows=1000)
    text = written.stream.getvalue()
    assert text.count("\n") == 1
    assert list(json.loads(text).items()) == [
        ("time", "2023-11-14T22:13:20.250Z"),
        ("level", "warning"),
        ("actor", "lane apns/shop"),
        ("event", "throttled"),
        ("rows", 1000),
    ]
    assert written.levels == [Level.WARNING]


def test_levels_below_the_limit_write_nothing() -> None:
    written = Written(level=Level.WARNING)
    written.log.debug("a")
    written.log.info("b")
    written.log.warning("c")
    written.log.error("d")
    assert [line["event"] for line in written.lines] == ["c", "d"]


def test_bound_fields_are_added_and_may_be_replaced() -> None:
    written = Written()
    narrow = written.log.bind(actor="a", app="shop").bind(app="other")
    narrow.info("x")
    written.log.info("y")
    assert [(line.get("actor"), line.get("app")) for line in written.lines] == [("a", "other"), (None, None)]


@pytest.mark.parametrize("secret", [APNS_TOKEN, FCM_TOKEN, JWT, "-----BEGIN PRIVATE KEY-----\nMIGT\n-----END"])
@pytest.mark.parametrize("field", ["text", "reason", "peer"])
def test_what_looks_like_a_secret_is_hidden_in_any_field(secret: str, field: str) -> None:
    written = Written()
    written.log.info("x", **{field: f"before {secret} after", "nested": {"deep": [secret]}})
    text = written.stream.getvalue()
    assert secret not in text
    assert secret[20:50] not in text
    assert "before <redacted " in text


@pytest.mark.parametrize("field", ["token", "device_token", "admin_key", "password", "Authorization", "phone"])
@pytest.mark.parametrize("value", ["13800138000", b"bytes", ["13800138000"], {"a": "13800138000"}, 13800138000])
def test_sensitive_fields_are_hidden_whatever_they_hold(field: str, value: object) -> None:
    written = Written()
    written.log.info("x", **{field: value})
    assert "13800138000" not in written.stream.getvalue()
    assert written.lines[0][field].startswith("<redacted ")


def test_ids_of_ours_stay_readable() -> None:
    written = Written()
    written.log.info("x", device=DEVICE_ID, message=MESSAGE_ID, raw=bytes.fromhex(DEVICE_ID), key_id="ABC123DEFG")
    line = written.lines[0]
    assert line["device"] == line["raw"] == DEVICE_ID
    assert line["message"] == MESSAGE_ID
    assert line["key_id"] == "ABC123DEFG"


def test_redacted_shows_the_same_hash_for_the_same_value_in_every_text_form() -> None:
    first, second = Redacted(APNS_TOKEN), Redacted(APNS_TOKEN.encode())
    assert first == second
    assert len({first, second, Redacted("other")}) == 2
    assert repr(first) == str(first) == f"{first}" == f"<redacted {short_hash(APNS_TOKEN)}>"
    assert APNS_TOKEN[:8] not in repr(first)


@given(st.text(alphabet=string.hexdigits, min_size=64, max_size=200))
def test_every_long_run_of_hex_is_hidden(token: str) -> None:
    assert token not in redact_text(f"token={token};")


@given(st.text(max_size=40))
def test_short_texts_pass_as_they_are(text: str) -> None:
    assert redact_text(text) == text


def test_sensitive_names_are_told_from_names_about_secrets() -> None:
    assert all(map(is_sensitive, ("token", "x_secret", "API_KEY", "phone")))
    assert not any(map(is_sensitive, ("key_id", "key_file", "tokens_dead", "monkey", "n_token_rows")))


class Plain(enum.Enum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (CloseReason.PEER_RESET, "peer_reset"),
        (Level.INFO, "info"),
        (Plain.ONE, "one"),
        (np.int64(5), 5),
        (np.float64(0.5), 0.5),
        (float("nan"), None),
        (None, None),
        (True, True),
        (("a", 1), ["a", 1]),
        ({1: 2}, {"1": 2}),
        (Path("a/b"), "a/b"),
        (ValueError("why"), "why"),
        ("\ud800", "?"),
        (2**80, str(2**80)),
        (np.array([1, 2]), "[1 2]"),
    ],
)
def test_values_are_shown_as_plain_json(value: object, shown: object) -> None:
    written = Written()
    written.log.info("x", value=value)
    assert written.lines[0]["value"] == shown


def test_long_texts_and_lists_are_cut() -> None:
    written = Written()
    written.log.info("x", text="a b " * 5000, rows=list(range(1000)))
    line = written.lines[0]
    assert line["text"].endswith("... (20000 characters)")
    assert len(line["rows"]) == 50
    assert len(written.stream.getvalue()) < 16_384


def test_fields_cannot_replace_the_fixed_ones() -> None:
    written = Written()
    written.log.info("x", time="never", level="loud")
    line = written.lines[0]
    assert (line["level"], line["level_"], line["time_"]) == ("info", "loud", "never")


def test_a_storm_of_one_event_is_cut_and_counted() -> None:
    written = Written(lines_per_s_max=3)
    for _ in range(10):
        written.log.info("storm")
    written.log.info("calm")
    written.now += 1
    written.log.info("storm")
    assert [line["event"] for line in written.lines] == ["storm"] * 3 + ["calm", "storm"]
    assert written.lines[-1]["left_out"] == 7
    assert "left_out" not in written.lines[0]
    assert written.suppressed == 7


def test_crash_names_error_and_place() -> None:
    def inner() -> None:
        raise ValueError(f"token {APNS_TOKEN}")

    written = Written()
    with pytest.raises(ValueError) as caught:
        inner()
    written.log.crash("actor_crashed", caught.value, actor="edge")
    line = written.lines[0]
    assert (line["level"], line["error"], line["actor"]) == ("error", "ValueError", "edge")
    assert line["frames"][-1].startswith("test_log.py:")
    assert line["frames"][-1].endswith(" inner")
    assert APNS_TOKEN not in written.stream.getvalue()


class Broken(io.StringIO):
    def write(self, text: str, /) -> int:
        raise BrokenPipeError


def test_a_log_nobody_reads_stops_nothing() -> None:
    suppressed = []
    Log(stream=Broken(), on_suppressed=lambda: suppressed.append(1)).info("x")
    closed = io.StringIO()
    closed.close()
    Log(stream=closed, on_suppressed=lambda: suppressed.append(1)).info("x")
    assert len(suppressed) == 2
