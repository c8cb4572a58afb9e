"""Escapes against their plain twins: the standard library."""

from __future__ import annotations

import json
from urllib.parse import quote, unquote_to_bytes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import TextColumn
from gateway.escapes import column_of, escape, escape_column, escape_token, form_escape

texts = st.text(st.sampled_from('aZ09-._~ "\\&=+%/,;\n\x01中é🎉'), max_size=20)
chains = st.text(st.sampled_from("jfl"), max_size=4)


def twin(text: str, chain: str) -> bytes:
    """One text, by the standard library."""
    for step in chain:
        match step:
            case "j":
                text = json.dumps(text, ensure_ascii=False)[1:-1]
            case "l":
                text = "".join(" " if ord(letter) < 0x20 or letter == "\x7f" else letter for letter in text)
            case _:
                text = quote(text, safe="")
    return text.encode()


@given(texts, chains)
def test_one_text_agrees_with_the_standard_library(text: str, chain: str) -> None:
    assert escape(text.encode(), chain) == twin(text, chain)


@given(st.lists(texts, max_size=12), chains)
def test_a_column_is_its_rows_escaped_one_by_one(rows: list[str], chain: str) -> None:
    column = escape_column(TextColumn.from_texts(rows), chain)
    assert column.rows() == [twin(row, chain) for row in rows]


@given(st.binary(max_size=60))
def test_a_form_value_can_be_read_back_and_has_no_separator(raw: bytes) -> None:
    escaped = form_escape(raw)
    assert unquote_to_bytes(escaped) == raw
    assert not set(escaped) & set(b"&=+ ;,")


@pytest.mark.parametrize("chain", ["", "j", "f", "jf", "jff"])
def test_tokens_stand_as_they_are_unless_a_form_needs_more(chain: str) -> None:
    plain = np.frombuffer(b"abcdef", np.uint8).reshape(2, 3)
    assert escape_token(plain, chain) is plain
    odd = np.frombuffer(b"a+b/c=", np.uint8).reshape(2, 3)
    made = escape_token(odd, chain)
    rows = made.rows() if isinstance(made, TextColumn) else column_of(made).rows()  # type: ignore[arg-type]
    assert rows == [twin(text, chain.replace("j", "")) for text in ("a+b", "/c=")]


def test_an_unknown_step_is_an_error() -> None:
    with pytest.raises(KeyError):
        escape(b"x", "q")
