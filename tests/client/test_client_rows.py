"""JSONL lines -> rows -> submits, checked by decoding the submits as the gateway does."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.requests import Target
from gateway.client.rows import LineFault, LineSubmit, Row, build_submits, parse_line, parse_lines
from gateway.content import Click, FallbackStep, Variant
from gateway.ledger import VENDOR_CHANNELS
from gateway.wire.rpc import codec
from gateway.wire.rpc.submit import decode_submit

ID = ["11" * 16, "aB" * 16]


def line(**fields: Any) -> str:
    return json.dumps({"to": ID[0], "title": "t", "body": "b"} | fields)


def fault_of(text: str | bytes) -> tuple[str, str]:
    found = parse_line(text, 7)
    assert isinstance(found, LineFault), found
    assert found.line == 7
    return found.field, found.text


def rows_of(text: str) -> list[Row]:
    found = parse_line(text, 1)
    assert isinstance(found, list), found
    return found


def test_line_with_every_key_becomes_one_row() -> None:
    (row,) = rows_of(
        line(
            data={"k": "v", "n": 1, "f": 0.5, "b": True},
            ttl_s=0,
            strategy={"default": 1, "apns": 2},
            category="marketing",
            collapse_id="c",
            badge=3,
            sound="s",
            image="https://example.com/a.png",
            click={"type": "url", "value": "https://example.com"},
            vars={"x": "y"},
            plan_id="p",
            custom_callback="c",
        )
    )
    assert row.target == bytes.fromhex(ID[0])
    assert row.variables == {"x": "y"}
    assert row.variant == Variant(
        "t",
        "b",
        data={"k": "v", "n": 1, "f": 0.5, "b": True},
        ttl_s=0,
        strategy={"default": 1, "apns": 2},
        category="marketing",
        collapse_id="c",
        badge=3,
        sound="s",
        image="https://example.com/a.png",
        click=Click("url", "https://example.com"),
        class_="marketing",
        plan_id="p",
        custom_callback="c",
    )


def test_line_defaults_are_the_gateways_own() -> None:
    (row,) = rows_of(line(category="news"))
    assert row.variant == Variant("t", "b", category="news")
    assert (row.variant.ttl_s, row.variant.class_, row.variables) == (7200, "system", None)


def test_line_may_name_tokens_and_lists() -> None:
    token = {"vendor": "apns", "token": "abc"}
    assert [row.target for row in rows_of(line(to=token))] == [("apns", "abc")]
    abroad = {"vendor": "xiaomi", "token": "abc", "region": "eu"}
    assert [row.target for row in rows_of(line(to=abroad))] == [("xiaomi_eu", "abc")]
    assert [row.target for row in rows_of(line(to=[*ID, token]))] == [*map(bytes.fromhex, ID), ("apns", "abc")]


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("", "", "not JSON"),
        ("{", "", "not JSON"),
        (b'{"title":"\xff"}', "", "not JSON"),
        ("[" * 100_000, "", "not JSON"),
        ("[]", "", "not a JSON object"),
        (line(colour="red"), "colour", "unknown key 'colour'"),
        (json.dumps({"to": ID[0], "body": "b"}), "title", "title is required"),
        (json.dumps({"to": ID[0], "title": "t"}), "body", "body is required"),
        (json.dumps({"title": "t", "body": "b"}), "to", "to is required"),
        (line(to=None), "to", "to is required"),
        (line(to="11"), "to", "32 hex digits"),
        (line(to="1111-" + "1" * 31), "to", "32 hex digits"),
        (line(to="x" * 32), "to", "32 hex digits"),
        (line(to=[]), "to", "empty list"),
        (line(to=[ID[0], 5]), "to", "to[1] is int, expected str or object"),
        (line(to={"vendor": "nokia", "token": "x"}), "to", "vendor 'nokia' is not known"),
        (
            line(to={"vendor": "oppo", "token": "x", "region": "eu"}),
            "to",
            "region is 'eu', of 'oppo', expected one of cn",
        ),
        (line(to={"vendor": "long_link", "token": "x"}), "to", "vendor 'long_link' is not known"),
        (line(to={"vendor": "apns", "token": ""}), "to", "token is 0 characters"),
        (line(to={"vendor": "apns"}), "to", "missing required field `token`"),
        (line(title=5), "title", "title is int, expected str"),
        (line(ttl_s="1"), "ttl_s", "ttl_s is str, expected int"),
        (line(ttl_s=True), "ttl_s", "ttl_s is bool, expected int"),
        (line(ttl_s=-1), "ttl_s", "ttl_s is -1"),
        (line(strategy=5), "strategy", "expected 1, 2, 3 or 4"),
        (line(strategy=0), "strategy", "expected 1, 2, 3 or 4"),
        (line(strategy={"default": 1, "apns": "2"}), "strategy", "strategy.apns is str, expected int"),
        (line(strategy={"apns": 0}), "strategy", "expected 1, 2, 3 or 4"),
        (line(data={"j": "", "k": []}), "data", "data.k is array, expected"),
        (line(data={"j": 1, "k": None}), "data", "data.k is null, expected"),
        (line(click={"type": "app", "extra": 1}), "click", "unknown field"),
        (line(click={"type": "jump"}), "click", "click.type is 'jump', expected one of app, url, intent, payload"),
        (line(action="jump"), "action", "action is 'jump', expected one of notification, transmission, revoke, badge"),
        (line(click="x"), "click", "click is str, expected object"),
        (line(image="ftp://x"), "image", "not an http or https URL"),
        (line(vars={"a": "", "b": 1}), "vars", "vars.b is int, expected str"),
        (line(body="{{a}} {{b}}", vars={"b": ""}), "vars", "variable a is missing"),
        (line(data={"k": "{{a}}"}, vars={}), "vars", "variable a is missing"),
        (line(vars={f"v{k}": "" for k in range(65)}), "vars", "65 variables, limit 64"),
        (line(fallback=[{"channel": "fcm"}]), "fallback", "missing required field `after_s`"),
        (line(fallback=[{"channel": "pager", "after_s": 60}]), "fallback", "no channel of a vendor"),
        (
            line(fallback=[{"channel": "fcm", "after_s": 60, "target": "phone"}]),
            "fallback",
            "variable phone is missing",
        ),
    ],
)
def test_line_that_is_faulty_is_refused_with_field_and_reason(text: str | bytes, field: str, reason: str) -> None:
    found_field, found_text = fault_of(text)
    assert found_field == field
    assert reason in found_text


def test_line_braces_are_literal_without_vars() -> None:
    (row,) = rows_of(line(body="{{name}}"))
    assert row.variables is None


def test_lines_keep_their_numbers_and_use_defaults_only_where_to_is_missing() -> None:
    lines = [line(), "  ", json.dumps({"title": "a", "body": ""}), "{", json.dumps({"title": "b", "body": ""})]
    defaults: itertools.count[int] = itertools.count(1)
    targets = (bytes([k]) * 16 for k in defaults)
    found = list(parse_lines(lines, default_to=targets))
    assert [(item.line, type(item).__name__) for item in found] == [
        (1, "Row"),
        (3, "Row"),
        (4, "LineFault"),
        (5, "Row"),
    ]
    assert [item.target for item in found if isinstance(item, Row)] == [bytes.fromhex(ID[0]), b"\1" * 16, b"\2" * 16]
    assert [type(item) for item in parse_lines(lines[2:3])] == [LineFault]


def test_submits_share_identical_contents_and_keep_lines_with_vars_apart() -> None:
    rows = [
        row
        for number, text in enumerate([line(), line(vars={"a": "1"}), line(to=ID), line(title="x"), line(vars={})], 1)
        for row in parse_line(text, number)
        if isinstance(row, Row)
    ]
    plain, with_vars = sorted(build_submits(rows), key=lambda found: found.submit.variables is not None)
    assert plain.lines == [1, 3, 3, 4]
    assert [variant.title for variant in plain.submit.contents] == ["t", "x"]
    assert with_vars.lines == [2, 5]
    assert with_vars.submit.index is None
    decoded = decode_submit(codec.encode(with_vars.submit))
    assert decoded.variables["a"].rows() == [b"1", b""]


def test_submits_end_at_their_limits() -> None:
    rows = [Row(k, bytes([k]) * 16, Variant("x" * 100, str(k)), None) for k in range(1, 8)]
    assert [len(found.lines) for found in build_submits(rows, rows_max=3)] == [3, 3, 1]
    assert len(list(build_submits(rows, bytes_max=300))) > 2
    names = [found.submit.request_id for found in build_submits(rows, rows_max=3, request_id="job")]
    assert names == ["job-1", "job-2", "job-3"]
    many = [Row(k, b"\1" * 16, Variant("", ""), {f"v{k}-{j}": "" for j in range(30)}) for k in range(5)]
    assert [len(found.lines) for found in build_submits(many)] == [2, 2, 1]


TARGETS = st.one_of(
    st.sampled_from([bytes([k]) * 16 for k in (1, 2, 3)]),
    st.tuples(st.sampled_from(["apns", "fcm"]), st.sampled_from(["ab", "cd", "ef"])),
)
ROWS = st.builds(
    Row,
    st.integers(1, 1000),
    TARGETS,
    st.sampled_from([Variant("t", "b"), Variant("{{x}}", "b"), Variant("t", "你好", ttl_s=5)]),
    st.none() | st.fixed_dictionaries({"x": st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=5)}),
)


@given(rows=st.lists(ROWS, max_size=20), rows_max=st.integers(1, 8))
def test_submits_hold_every_row_once_and_the_gateway_reads_the_same(rows: list[Row], rows_max: int) -> None:
    seen = [found for submit in build_submits(rows, rows_max=rows_max) for found in read_back(submit)]
    for has_variables in (False, True):
        mine = [row for row in rows if (row.variables is not None) == has_variables]
        assert [row for row in seen if (row.variables is not None) == has_variables] == mine


def read_back(found: LineSubmit) -> list[Row]:
    submission = decode_submit(codec.encode(found.submit))
    assert submission.n == len(found.lines) == found.submit.n
    names = {int(channel): name for name, channel in VENDOR_CHANNELS.items()}
    out = []
    for row in range(submission.n):
        channel = 0 if submission.channels is None else int(submission.channels[row])
        target: Target = submission.device_ids[row].tobytes()
        if channel:
            assert submission.tokens is not None
            target = (names[channel], submission.tokens.row(row).decode())
        variant = submission.variants[0 if submission.variant_index is None else int(submission.variant_index[row])]
        variables = None
        if found.submit.variables is not None:
            variables = {name: column.row(row).decode() for name, column in submission.variables.items()}
        out.append(Row(found.lines[row], target, variant, variables))
    return out


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_line_of_any_bytes_is_rows_or_a_fault(text: str | bytes) -> None:
    assert isinstance(parse_line(text, 1), list | LineFault)


@given(
    st.dictionaries(
        st.sampled_from(["to", "title", "body", "vars", "data", "click", "strategy", "ttl_s", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_line_of_any_json_is_rows_or_a_fault(value: dict[str, Any]) -> None:
    found = parse_line(json.dumps(value), 1)
    assert isinstance(found, list | LineFault)
    if isinstance(found, list):
        for submit in build_submits(found):
            msgspec.msgpack.decode(codec.encode(submit.submit))


def test_line_says_where_a_row_goes_on_and_with_which_target() -> None:
    steps = [{"channel": "aliyun_sms", "after_s": 600, "target": "phone"}]
    (row,) = rows_of(line(fallback=steps, vars={"phone": "13800000001"}))
    assert row.variant.fallback == (FallbackStep("aliyun_sms", 600, "phone"),)
    assert row.variables == {"phone": "13800000001"}
