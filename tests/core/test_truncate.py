"""Truncation against a plain twin that drops graphemes one by one."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import TextColumn
from gateway.core import truncate
from gateway.core.truncate import JSON_BYTES, Cut, cut, measure, measure_rows, shorten, shorten_plain

UNITS = sorted(truncate.COSTS)

#: Characters that join their neighbours, beside plain ones: the nasty part of Unicode in a small alphabet.
NASTY = [
    *"ab \"\\\n\x01",
    "中", "，", "é", "e", "\u0301", "\u200d", "👨", "👩", "👧", "👍", "🏽", "❤", "\ufe0f", "1", "\u20e3",
    "🇨", "🇳", "🇺", "한", "\u1100", "\u1161", "\u11a8", "क", "\u094d", "ष", "ि", "ก", "ำ", "\u0600", "\r", "\n",
    "\U000e0067", "\U000e007f", "🏴", "〰", "\u2067", "\u2068", "\u2069", "ש",
]  # fmt: skip
texts = st.one_of(st.text(st.sampled_from(NASTY), max_size=60), st.text(st.characters(codec="utf-8"), max_size=40))
marks = st.sampled_from(["…", "", "...", "…更多"])


def plain_measure(text: str, unit: str) -> int:
    match unit:
        case "code_points":
            return len(text)
        case "half_width":
            return sum(1 if ord(character) < 0x80 else 2 for character in text)
        case "utf8_bytes":
            return len(text.encode())
        case _:
            # json.dumps escapes DEL as it is and NUL to 0x1f as we do
            return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def plain_open_isolates(text: str) -> int:
    is_open = 0
    for character in text:
        if character in "\u2066\u2067\u2068":
            is_open += 1
        elif character == "\u2069" and is_open:
            is_open -= 1
    return is_open


def plain_cut(text: str, limit: int, unit: str, mark: str) -> Cut:
    if plain_measure(text, unit) <= limit:
        return Cut(text, False)
    graphemes = regex.findall(r"\X", text)
    while graphemes:
        graphemes.pop()
        shorter = "".join(graphemes)
        shorter += "\u2069" * plain_open_isolates(shorter) + mark
        if plain_measure(shorter, unit) <= limit:
            return Cut(shorter, True)
    return Cut("", True)


@given(texts, st.integers(0, 120), st.sampled_from(UNITS), marks)
def test_cut_agrees_with_a_twin_that_drops_graphemes_one_by_one(text: str, limit: int, unit: str, mark: str) -> None:
    assert cut(text, limit, unit, mark) == plain_cut(text, limit, unit, mark)


@given(texts, st.sampled_from(UNITS))
def test_measure_agrees_with_its_twin(text: str, unit: str) -> None:
    assert measure(text, unit) == plain_measure(text, unit)


@given(st.lists(texts, max_size=8), st.sampled_from(UNITS))
def test_measure_rows_agrees_with_measure(rows: list[str], unit: str) -> None:
    lengths = measure_rows(TextColumn.from_texts(rows), unit)
    assert lengths.tolist() == [plain_measure(row, unit) for row in rows]


@pytest.mark.parametrize(
    ("text", "limit", "kept"),
    [
        ("ab👨‍👩‍👧cd", 5, "ab…"),
        ("ab👨‍👩‍👧cd", 8, "ab👨‍👩‍👧cd"[:7] + "…"),
        ("🇨🇳🇺🇸🇨🇳", 4, "🇨🇳…"),
        ("🇨🇳🇺🇸🇨🇳", 5, "🇨🇳🇺🇸…"),
        ("e\u0301e\u0301e\u0301", 4, "e\u0301…"),
        ("订单已发货", 3, "订单…"),
        ("订单", 2, "订单"),
        ("1\ufe0f\u20e3x", 3, "…"),
        ("abc", 0, ""),
        ("", 0, ""),
    ],
)
def test_cut_keeps_whole_graphemes_of_known_examples(text: str, limit: int, kept: str) -> None:
    assert cut(text, limit, "code_points").text == kept


@pytest.mark.parametrize(
    ("text", "limit", "kept"),
    [
        ("\u2067שלום עולם\u2069 says he", 8, "\u2067שלום \u2069…"),
        ("\u2067שלום\u2069 says he", 9, "\u2067שלום\u2069 s…"),
        ("ab\u2067\u2068של", 5, "ab…"),
        ("\u2066" * 500, 400, "…"),
    ],
)
def test_a_cut_closes_the_isolates_that_it_leaves_open(text: str, limit: int, kept: str) -> None:
    """Else mark and neighbours would stand in the direction of the text that was cut."""
    shorter = cut(text, limit, "code_points").text
    assert plain_open_isolates(shorter) == 0
    assert len(shorter) <= limit
    assert shorter.replace("\u2067\u2069", "") == kept


def test_half_width_counts_a_chinese_character_as_two() -> None:
    title = "订" * 20 + "a"
    assert measure(title, "half_width") == 41
    assert cut(title, 40, "half_width") == Cut("订" * 19 + "…", True)
    assert cut(title, 41, "half_width") == Cut(title, False)


def test_a_cut_behind_an_escaped_character_counts_its_escapes() -> None:
    text = '"' * 10
    assert cut(text, 20, "json_bytes") == Cut(text, False)
    assert cut(text, 19, "json_bytes") == Cut('"' * 8 + "…", True)


@pytest.mark.parametrize("other", ["a", "한", "😀", "\u0301", "\u1100", "🇨", "क", "\u094d"])
def test_a_sure_boundary_is_one_with_every_neighbour_there_is(other: str) -> None:
    boundary = regex.compile(truncate._BOUNDARY, regex.V1)
    # Of the blocks of ideographs, syllables and private characters the first ones stand for all.
    codes = [
        *range(0x3500),
        *range(0x4DB0, 0x4E10),
        *range(0x9FF0, 0xAD00),
        *range(0xF8F0, 0x13500),
        *range(0x1F000, 0x1FB00),
    ]
    claimed = 0
    for character in map(chr, codes):
        for pair in (other + character, character + other):
            if boundary.fullmatch(pair) is None:
                continue
            claimed += 1
            for before in ("", "क\u094d", "👩"):
                assert before + pair[0] in _prefixes(before + pair), pair.encode("unicode_escape")
    assert claimed > 1_000


@pytest.mark.parametrize("binder", ["\u0600", "\u200d", "\U000110bd"])
def test_a_prefix_sign_or_joiner_is_never_next_to_a_sure_boundary(binder: str) -> None:
    boundary = regex.compile(truncate._BOUNDARY, regex.V1)
    assert not any(boundary.fullmatch(binder + chr(code)) for code in range(0x3500))


def _prefixes(text: str) -> list[str]:
    """The beginnings of the text that end at a grapheme boundary."""
    return list(itertools.accumulate(regex.findall(r"\X", text)))


def test_cost_of_a_cut_does_not_grow_with_the_text_behind_it() -> None:
    def cost(text: str) -> float:
        best = 1.0
        for _ in range(5):
            start = time.perf_counter()
            assert cut(text, 4000, "json_bytes").was_cut
            best = min(best, time.perf_counter() - start)
        return best

    short = '订单 "x" 👨‍👩‍👧 ' * 1_000
    long = short * 100
    assert cost(long) < 20 * cost(short) + 0.001


def test_a_text_of_one_endless_grapheme_is_cut_to_the_mark() -> None:
    text = "e" + "\u0301" * 5_000
    assert cut(text, 100, "utf8_bytes") == Cut("…", True)


def test_measure_rows_of_an_empty_column_is_empty() -> None:
    assert measure_rows(TextColumn.from_rows([]), "json_bytes").tolist() == []
    assert measure_rows(TextColumn(b"", np.zeros(3, np.uint32)), "half_width").tolist() == [0, 0]


PLAIN = st.text(alphabet=st.characters(exclude_characters='"\\', exclude_categories=("Cs", "Cc")), max_size=120)
JOINED = st.lists(
    st.sampled_from(["a", "字", "e\u0301", "👨‍👩‍👧‍👦", "🇨🇳", "🇨", "\u200d", "각", "\u1100", "क्ष", "\u0600", "❤️"]),
    max_size=90,
).map("".join)


@given(st.one_of(PLAIN, JOINED), st.integers(0, 400))
def test_shorten_plain_agrees_with_shorten_wherever_its_window_is_enough(text: str, limit: int) -> None:
    raw = text.encode()
    if len(raw) <= limit:
        return
    quick = shorten_plain(raw, limit)
    if quick is not None:
        assert quick.decode() == shorten(text, limit, JSON_BYTES).text


def test_shorten_plain_gives_up_on_a_grapheme_that_is_wider_than_its_window() -> None:
    raw = ("a" + "\u0301" * 500).encode()
    assert shorten_plain(raw, 600) is None
    assert shorten(raw.decode(), 600, JSON_BYTES).text == "…"


def test_shorten_plain_keeps_every_byte_that_fits() -> None:
    assert shorten_plain(("字" * 300).encode(), 603) == ("字" * 200 + "…").encode()
