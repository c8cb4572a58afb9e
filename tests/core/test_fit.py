"""Fitting two texts: which one gives way, and when neither can."""

from __future__ import annotations

import json

import pytest

from gateway.core.fit import Fitted, Room, TooLong, fit
from gateway.vendor import FieldLimit, Limits


def made(title: bytes, body: bytes, was_cut: bool) -> Fitted:
    """The texts JSON-escaped, and as they are."""
    return Fitted(title, body, was_cut, json.loads(b'"%s"' % title), json.loads(b'"%s"' % body))


def fitted(
    title: str,
    body: str,
    *,
    payload: int = 100,
    overhead: int = 80,
    title_limit: FieldLimit | None = None,
    body_limit: FieldLimit | None = None,
    n_title: int = 1,
    n_body: int = 1,
    may_cut: bool = True,
) -> Fitted | TooLong:
    room = Room(Limits(payload, title_limit, body_limit), overhead, n_title, n_body)
    return fit(title, body, room, mark="…", may_cut=may_cut, channel="apns")


def test_texts_that_fit_to_the_byte_stay_as_they_are() -> None:
    assert fitted("0123456789", 'a"c\n567') == made(b"0123456789", b'a\\"c\\n567', False)


def test_the_body_gives_way_first() -> None:
    assert fitted("0123456789", "0123456789x") == made(b"0123456789", "0123456…".encode(), True)


def test_the_title_gives_way_when_not_even_an_empty_body_fits() -> None:
    assert fitted("0123456789" * 3, "body") == made("01234567890123456…".encode(), b"", True)


def test_a_body_of_which_not_even_the_mark_fits_is_dropped_for_the_title() -> None:
    assert fitted("012345678901234567", "body") == made(b"012345678901234567", b"", True)


@pytest.mark.parametrize(
    ("title", "body", "overhead"), [("t", "", 101), ("", "body", 98), ("ttt", "b", 98), ("", "", 101)]
)
def test_a_row_of_which_no_text_is_left_is_too_long(title: str, body: str, overhead: int) -> None:
    outcome = fitted(title, body, overhead=overhead)
    assert outcome == TooLong("payload", f"payload without texts is {overhead} bytes, limit 100 (apns)")


def test_fields_are_cut_to_their_own_limits_before_the_payload() -> None:
    outcome = fitted(
        "订单订单", "0123456789", title_limit=FieldLimit("half_width", 6), body_limit=FieldLimit("code_points", 5)
    )
    assert outcome == made("订单…".encode(), "0123…".encode(), True)


@pytest.mark.parametrize(
    ("title", "body", "expected"),
    [
        ("t" * 6, "b", TooLong("title", "title is 6 code points, limit 5 (apns)")),
        ("t", "b" * 9, TooLong("body", "body is 9 bytes, limit 8 (apns)")),
        ("t", "b", made(b"t", b"b", False)),
    ],
)
def test_without_cutting_the_first_limit_broken_is_named(title: str, body: str, expected: object) -> None:
    outcome = fitted(
        title, body, title_limit=FieldLimit("code_points", 5), body_limit=FieldLimit("utf8_bytes", 8), may_cut=False
    )
    assert outcome == expected


def test_a_text_that_stands_twice_counts_twice_and_one_that_is_not_there_not_at_all() -> None:
    assert fitted("tt", "0123456789", n_body=2) == made(b"tt", "012345…".encode(), True)
    assert fitted("t" * 500, "0123456789", n_title=0) == made(b"t" * 500, b"0123456789", False)
    assert fitted("tt", "b" * 500, n_body=0) == made(b"tt", b"b" * 500, False)
