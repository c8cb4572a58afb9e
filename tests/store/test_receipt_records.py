"""Receipts come back from their records as they went in; anything else is refused by name."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.page_history import RowNotes
from gateway.store.ports import RECEIPTS_RECORD
from gateway.store.receipt_records import decode_receipts, encode_receipts


@st.composite
def row_notes(draw: st.DrawFn) -> RowNotes:
    rows = draw(st.lists(st.integers(0, 65_535), max_size=20))
    small = st.lists(st.integers(0, 255), min_size=len(rows), max_size=len(rows))
    times = st.lists(st.integers(0, (1 << 32) - 1), min_size=len(rows), max_size=len(rows))
    return RowNotes(
        draw(st.integers(0, (1 << 48) - 1)),
        draw(st.integers(0, (1 << 22) - 1)),
        np.array(rows, np.uint16),
        np.array(draw(small), np.uint8),
        np.array(draw(small), np.uint8),
        np.array(draw(times), np.uint32),
    )


@pytest.mark.hypothesis
@given(st.lists(row_notes(), min_size=1, max_size=5))
def test_receipts_come_back_as_they_went_in(notes: list[RowNotes]) -> None:
    record = encode_receipts(notes)
    assert record.kind == RECEIPTS_RECORD
    payload = b"".join(record.buffers)
    found = decode_receipts(payload)
    assert [one[:2] for one in found] == [one[:2] for one in notes]
    for old, new in zip(notes, found, strict=True):
        assert [column.tolist() for column in new[2:]] == [column.tolist() for column in old[2:]]
    with pytest.raises(ValueError, match="receipts record"):
        decode_receipts(payload + b"\0")
    with pytest.raises(ValueError, match="receipts record"):
        decode_receipts(payload[:3])


@pytest.mark.hypothesis
@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_read_and_never_worse(payload: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_receipts(payload)
