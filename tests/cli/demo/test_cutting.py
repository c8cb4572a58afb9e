"""cutting.py judges the gateway's cutting; here the two are held against each other, and against made-up mistakes."""

from __future__ import annotations

import hashlib

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.demo.cutting import MARK, are_intact, digest_of, filled, is_boundary, is_cut_of
from gateway.core.truncate import JSON_BYTES, cut

FAMILY = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"
texts = st.lists(st.sampled_from([FAMILY, "e\u0301", "你", "a", "\U0001f1e8\U0001f1f3", "\n", MARK]), max_size=30).map(
    "".join
)


@given(texts, st.integers(3, 120))
def test_what_the_gateway_cuts_is_a_proper_cut(whole: str, limit: int) -> None:
    shown, was_cut = cut(whole, limit, JSON_BYTES)
    assert (shown == whole) if not was_cut else is_cut_of(shown, whole)


@given(texts)
def test_a_cut_is_proper_at_boundaries_and_nowhere_else(whole: str) -> None:
    ends = {0} | {found.end() for found in regex.finditer(r"\X", whole)}
    for at in range(len(whole)):
        assert is_boundary(whole, at) == (at in ends)
        assert is_cut_of(whole[:at] + MARK, whole) == (at in ends)
        assert not is_cut_of(whole[:at], whole) or whole[:at].endswith(MARK)


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "hello",
        "hello wor",
        "hello wor...",
        "Hello wor" + MARK,
        "hello world" + MARK,
        "hello wor" + MARK + MARK,
        "hello worX" + MARK,
    ],
)
def test_what_is_no_beginning_with_a_mark_is_no_cut(shown: str) -> None:
    assert not is_cut_of(shown, "hello world")


@pytest.mark.parametrize(
    ("shown", "is_right"),
    [
        (("title", "body is" + MARK), True),
        (("tit" + MARK, "body is long"), True),
        (("tit" + MARK, ""), True),
        (("tit" + MARK, "body" + MARK), True),
        # nothing is cut, though the row says so and the digest differed
        (("title", "body is long"), False),
        # the body is gone while the title had room
        (("title", ""), False),
        (("", "body is long"), False),
        (("tit" + MARK, "another body"), False),
        (("tit", "body is" + MARK), False),
    ],
)
def test_title_and_body_are_whole_or_properly_cut(shown: tuple[str, str], is_right: bool) -> None:
    assert are_intact(shown, ("title", "body is long")) is is_right


def test_variables_are_filled_in_only_where_there_are_any() -> None:
    text = "{{name}} owes {{ name }} {{x}}"
    assert filled(text, None) == text
    assert filled(text, {"name": "Ann {{x}}", "x": "1"}) == "Ann {{x}} owes {{ name }} 1"


def test_the_digest_is_that_of_the_receivers() -> None:
    assert digest_of("标题", "b") == hashlib.sha256("标题".encode() + b"\0b").hexdigest()
    assert digest_of("a", "b") != digest_of("ab", "")
