"""Marks and counts come back from their records as they went in; anything else is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger import State
from gateway.marks import RowMarks
from gateway.store.marks import Count, decode_count, decode_marks, encode_count, encode_marks
from gateway.store.ports import COUNT_RECORD, MARKS_RECORD


@st.composite
def row_marks(draw: st.DrawFn) -> RowMarks:
    rows = draw(st.lists(st.integers(0, 65_535), min_size=1, max_size=20, unique=True))
    small = st.lists(st.integers(0, 10), min_size=len(rows), max_size=len(rows))
    columns = [np.array(draw(small), np.uint8) for _ in range(4)]
    return RowMarks(draw(st.integers(0, (1 << 22) - 1)), np.array(rows, np.uint16), *columns)


@pytest.mark.hypothesis
@given(st.lists(row_marks(), min_size=1, max_size=5), st.integers(0, (1 << 48) - 1))
def test_marks_come_back_as_they_went_in(marks: list[RowMarks], unix_ms: int) -> None:
    record = encode_marks(unix_ms, marks)
    assert record.kind == MARKS_RECORD
    found = decode_marks(b"".join(record.buffers))
    assert found.unix_ms == unix_ms
    assert len(found.marks) == len(marks)
    for mark, back in zip(marks, found.marks, strict=True):
        assert mark.sequence == back.sequence
        for column, other in zip(mark[1:], back[1:], strict=True):
            assert (column.dtype, column.tolist()) == (other.dtype, other.tolist())


@pytest.mark.hypothesis
@given(row_marks(), st.data())
def test_what_was_changed_or_cut_is_refused_or_read_never_anything_else(mark: RowMarks, data: st.DataObject) -> None:
    payload = bytearray(b"".join(encode_marks(5, [mark]).buffers))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    for text in (bytes(payload), bytes(payload[:at]), bytes(payload) + b"x"):
        try:
            decode_marks(text)
        except ValueError:
            continue


def test_a_state_that_does_not_exist_is_refused() -> None:
    one = np.array([len(State)], np.uint8)
    mark = RowMarks(1, np.array([0], np.uint16), one, one, one, one)
    with pytest.raises(ValueError, match=f"state {len(State)}"):
        decode_marks(b"".join(encode_marks(1, [mark]).buffers))


def test_a_count_comes_back_and_what_is_none_is_refused() -> None:
    count = Count(3, 1_800_000_000_000, 17)
    record = encode_count(count)
    assert record.kind == COUNT_RECORD
    assert decode_count(b"".join(record.buffers)) == count
    with pytest.raises(ValueError, match="count record"):
        decode_count(b"\x00")
