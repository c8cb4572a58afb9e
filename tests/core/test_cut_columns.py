"""Cutting columns against the plain twin: `truncate.cut`, row by row."""

from __future__ import annotations

import itertools

import numpy as np
import regex  # type: ignore[import-untyped]  # ships no types
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import TextColumn
from gateway.core import cut_columns
from gateway.core.cut_columns import KNOWN_BYTES_MIN, cut_rows, plain_ends, shorten_rows
from gateway.core.truncate import JSON_BYTES, SURE_PAIRS, cut, shorten, shorten_plain

#: Characters that join their neighbours, beside plain ones of one to four bytes.
NASTY = [
    *"ab \"\\\n\x01",
    "中", "，", "é", "\u0301", "\u200d", "👨", "👩", "👍", "🏽", "❤", "\ufe0f", "\u20e3", "🇨", "🇳",
    "한", "\u1100", "\u1161", "\u11a8", "क", "\u094d", "ष", "ि", "\u0600", "\r", "\U000e0067", "\U00020000",
]  # fmt: skip
texts = st.one_of(
    st.text(st.sampled_from(NASTY), max_size=40),
    st.text(st.sampled_from("ab中🎉"), max_size=60),
    st.text(st.characters(codec="utf-8"), max_size=30),
)
units = st.sampled_from(["code_points", "half_width", "utf8_bytes"])
marks = st.sampled_from(["…", "", "...", "…更多"])


@given(st.lists(texts, max_size=12), st.integers(0, 50), units, marks)
def test_a_column_is_cut_as_its_rows_are_one_by_one(rows: list[str], limit: int, unit: str, mark: str) -> None:
    column, shortened = cut_rows(TextColumn.from_texts(rows), limit, unit, mark)
    twins = [cut(row, limit, unit, mark) for row in rows]
    assert [row.decode() for row in column.rows()] == [twin.text for twin in twins]
    assert column.lengths().tolist() == [len(twin.text.encode()) for twin in twins]
    assert shortened.tolist() == [index for index, twin in enumerate(twins) if twin.was_cut]


PLAIN = st.text(st.sampled_from([piece for piece in NASTY if piece not in '"\\\n\x01\r']), min_size=1, max_size=80)


@given(st.lists(st.tuples(PLAIN, st.integers(0, 300)), min_size=1, max_size=12), marks)
def test_rows_are_shortened_to_limits_of_their_own_as_one_by_one(told: list[tuple[str, int]], mark: str) -> None:
    # Often enough for array calls.
    told = told * (1 + 32 // len(told))
    rows = [(text.encode(), min(limit, len(text.encode()) - 1)) for text, limit in told]
    made = shorten_rows([row for row, _ in rows], np.array([limit for _, limit in rows]), mark)
    for (row, limit), got in zip(rows, made, strict=True):
        if got is not None:
            assert got.decode() == shorten(row.decode(), limit, JSON_BYTES, mark).text


@given(st.lists(st.tuples(PLAIN, PLAIN, st.integers(0, 90)), min_size=1, max_size=6), PLAIN, marks)
def test_texts_are_cut_where_they_lie_as_they_are_when_they_are_taken_out(
    told: list[tuple[str, str, int]], beginning: str, mark: str
) -> None:
    head = (beginning * KNOWN_BYTES_MIN)[: KNOWN_BYTES_MIN + 8]
    rows = [(head + text + rest).encode() for text, rest, _ in told]
    sizes = [min(KNOWN_BYTES_MIN + at, len(row) - 1) for row, (_, _, at) in zip(rows, told, strict=True)]
    stops = np.cumsum([len(row) for row in rows])
    starts = stops - [len(row) for row in rows]
    ends, is_sure = plain_ends(b"".join(rows), stops, starts + sizes)
    for row, size, end, sure in zip(rows, sizes, (ends - starts).tolist(), is_sure.tolist(), strict=True):
        if sure:
            assert row[:end].decode() + mark == shorten(row.decode(), size + len(mark.encode()), JSON_BYTES, mark).text
        assert sure == (shorten_plain(row, size, "") is not None)


def test_most_cuts_between_words_and_ideographs_are_sure() -> None:
    rows = ["您的订单已发货 your order 🎉 has shipped".encode() * 9] * 60
    assert None not in shorten_rows(rows, np.arange(100, 160), "…")


def test_the_table_of_characters_says_what_the_patterns_of_sure_boundaries_say() -> None:
    codes = [*itertools.chain(range(0x3501), range(0x4DB0, 0x4E10), range(0x9FF0, 0xAD00), range(0xD700, 0xD7B0))]
    codes += [*range(0xF900, 0x10000), *range(0x1F000, cut_columns._TABLE_END)]
    for number, pair in enumerate(SURE_PAIRS):
        for side, pattern in enumerate(pair):
            compiled = regex.compile(pattern, regex.V1)
            bit = 1 << (2 * number + side)
            claimed = [code for code in codes if cut_columns._KINDS[code] & bit]
            # Where the table is silent, `shorten` decides; where it speaks, it has to be right.
            assert len(claimed) > 400
            assert all(compiled.fullmatch(chr(code)) for code in claimed)


def test_bytes_that_are_no_utf_8_end_in_some_text() -> None:
    broken = [b"\x80\x80\x80\x80\x80", b"abc\xff\xfe\xfd\xfc", b"\xe4\xb8" * 9, b"\xf0" * 12, b"\xbf"]
    for unit in ("code_points", "half_width", "utf8_bytes"):
        for limit in range(9):
            assert len(cut_rows(TextColumn.from_rows(broken), limit, unit, "…").column) == len(broken)
