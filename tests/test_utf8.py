"""UTF-8 by columns of bytes, against `bytes.decode`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import TextColumn
from gateway.utf8 import is_utf8, utf8_good_rows, utf8_good_rows_in_steps

#: Long enough that it is not decoded.
FILLER = "推送é🙂".encode() * 1_500
#: Bytes on both sides of every border of RFC 3629.
BORDERS = bytes.fromhex("00 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 f8 ff")


def decodes(row: bytes) -> bool:
    try:
        row.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.lists(st.binary(max_size=4) | st.text(max_size=3).map(str.encode), max_size=12))
def test_good_rows_are_those_that_decode(rows: list[bytes]) -> None:
    assert utf8_good_rows(TextColumn.from_rows(rows)).tolist() == [decodes(row) for row in rows]


@given(st.text(alphabet="aé中🙂", max_size=12), st.data())
def test_rows_that_cut_a_sequence_in_a_valid_blob_are_found(text: str, data: st.DataObject) -> None:
    blob = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(blob)), max_size=6)))
    column = TextColumn(blob, np.array([0, *cuts, len(blob)], np.uint32))
    assert utf8_good_rows(column).tolist() == [decodes(row) for row in column.rows()]


def test_good_rows_are_looked_for_in_steps_and_a_bad_one_is_found_in_the_last() -> None:
    rows = ["推送".encode() * 100] * 5_000
    for last, expected in (("好".encode(), True), (b"\xff", False)):
        column = TextColumn.from_rows([*rows, last])
        assert sum(1 for _ in utf8_good_rows_in_steps(column)) >= len(column.blob) >> 21
        assert utf8_good_rows(column).tolist() == [True] * len(rows) + [expected]


@pytest.mark.parametrize("follow", [b"", b"\x80", b"\x80\x80", b"\xbf\xbf\xbf"])
def test_every_first_byte_bears_the_second_ones_that_decoding_bears(follow: bytes) -> None:
    for first in range(0x80, 0x100):
        for second in BORDERS:
            text = FILLER + bytes((first, second)) + follow + b"."
            assert is_utf8(text, 0, len(text)) == decodes(text), text[len(FILLER) :]


@given(st.lists(st.sampled_from(BORDERS), max_size=6).map(bytes), st.integers(0, 3), st.integers(0, 2))
def test_a_long_text_is_utf8_when_it_decodes_wherever_the_fault_is(odd: bytes, cut: int, place: int) -> None:
    """cut: bytes that are missing at the end of the filler, which is a character of four."""
    head = FILLER[: len(FILLER) - cut]
    text = (odd + head, head + odd, head + odd + FILLER)[place]
    assert is_utf8(text, 0, len(text)) == decodes(text)
    assert is_utf8(b"\xff" + text + b"\x80", 1, 1 + len(text)) == decodes(text)


@pytest.mark.parametrize("last", ["é", "中", "🙂"])
def test_a_long_text_that_ends_within_a_character_is_not_utf8(last: str) -> None:
    raw = FILLER + last.encode()
    assert is_utf8(raw, 0, len(raw))
    for stop in range(len(FILLER) + 1, len(raw)):
        assert not is_utf8(raw, 0, stop)


@given(st.text(alphabet="aé中🙂ก힣\U000e0067\U0010ffff", min_size=1, max_size=20))
def test_a_long_text_of_any_script_is_utf8(text: str) -> None:
    raw = (text * (1 + len(FILLER) // len(text))).encode()
    assert is_utf8(raw, 0, len(raw))
