"""Values of templates: variables become slots, raw objects merge as RFC 7396 says."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.content import template_parts
from gateway.template_values import merge_patch, raw_object, scalar_text, scalar_value, text_value
from gateway.vendor import Slot, parse_template


def filled(value: object, variables: dict[str, str]) -> Any:
    """The JSON value with its slots filled in as the renderer does."""
    parts = parse_template(msgspec.json.encode({"v": value}))
    text = "".join(
        json.dumps(variables[part.name[4:]])[1:-1] if isinstance(part, Slot) else part.decode() for part in parts
    )
    return json.loads(text)["v"]


@given(
    st.lists(st.sampled_from(["{{x}}", "{{y}}", "{", "}}", '"', "\\", "\n", "中", "a", "\x00"])).map("".join),
    st.text(),
    st.text(),
)
def test_a_text_with_slots_filled_is_the_text_with_variables_put_in(text: str, x: str, y: str) -> None:
    # Pieces may make up a name of their own, as "{", "{", "a" and "}}" do; a row without its value never gets here.
    assume({*template_parts(text)[1::2]} <= {"x", "y"})
    variables = {"x": x.encode("utf-8", "replace").decode(), "y": y.encode("utf-8", "replace").decode()}
    expected = "".join(
        variables.get(part.removeprefix("{{").removesuffix("}}"), part) if part in ("{{x}}", "{{y}}") else part
        for part in split(text)
    )
    assert filled(text_value(text, with_variables=True), variables) == expected
    assert filled(text_value(text, with_variables=False), variables) == text


def split(text: str) -> list[str]:
    """The text cut before and after each {{x}} and {{y}}."""
    for name in ("{{x}}", "{{y}}"):
        text = text.replace(name, f"\x01{name}\x01")
    return text.split("\x01")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (True, "true"), (1.5, "1.5"), ("x", "x"), (-0.0, "-0.0"), (10**15, "1000000000000000")],
)
def test_scalars_keep_their_type_or_become_text(value: Any, text: str) -> None:
    assert scalar_value(value, with_variables=False) == value
    assert scalar_text(value, with_variables=False) == text


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    # The examples of RFC 7396 appendix A whose target and patch are objects.
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_follows_the_examples_of_rfc_7396(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


def test_a_raw_object_is_an_object_of_bounded_depth_or_a_text() -> None:
    def of(text: bytes) -> object:
        return raw_object({"apns": msgspec.Raw(text)}, "apns")

    assert of(b'{"a":1}') == {"a": 1}
    assert raw_object(None, "apns") == {}
    assert raw_object({"fcm": msgspec.Raw(b"x")}, "apns") == {}
    assert of(b"1") == "raw.apns is not a JSON object"
    assert of(b"{") == "raw.apns is not valid JSON"
    assert of(b'{"a":"\xff"}') == "raw.apns is not valid JSON"
    assert isinstance(of(b'{"a":' * 31 + b"1" + b"}" * 31), dict)
    assert of(b'{"a":' * 40 + b"1" + b"}" * 40) == "raw.apns is nested deeper than 32 levels"
    assert of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000) == "raw.apns is not valid JSON"


@pytest.mark.parametrize(
    ("raw", "tree"),
    [
        ({"/aps/alert/title": "x"}, {"aps": {"alert": {"title": "x"}}}),
        ({"aps": {"badge": 1}, "/aps/sound": None}, {"aps": {"badge": 1, "sound": None}}),
        ({"/a~1b/m~0n": [1]}, {"a/b": {"m~n": [1]}}),
        ({"/~01": 1}, {"~1": 1}),
        ({"/": 1}, {"": 1}),
        ({"": 1}, {"": 1}),
    ],
)
def test_a_pointer_sets_what_a_nested_object_would(raw: dict[str, Any], tree: dict[str, Any]) -> None:
    assert raw_object({"apns": msgspec.Raw(json.dumps(raw).encode())}, "apns") == tree


@pytest.mark.parametrize(
    ("raw", "wrong"),
    [
        ({"a": 1, "/a/b": 2}, "raw.apns has a pointer through 'a', which is no object"),
        ({"/a/b": 1, "a": {"b": 2}}, "raw.apns has a pointer to 'b', which is set twice"),
        ({"/a~2": 1}, "raw.apns has a pointer with a ~ that is neither ~0 nor ~1"),
        ({"/a" * 40: 1}, "raw.apns has a pointer of more than 32 levels"),
        ({"/a" * 32: {"b": 1}}, "raw.apns is nested deeper than 32 levels"),
    ],
)
def test_a_pointer_that_leads_nowhere_is_refused(raw: dict[str, Any], wrong: str) -> None:
    assert raw_object({"apns": msgspec.Raw(json.dumps(raw).encode())}, "apns") == wrong
