"""The ring of changes: it says of rows what their batch says, and of archived pages it keeps no more than that."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch, TaskSegment
from gateway.content import Variant
from gateway.core.changes import few_rows, told_batch
from gateway.ledger import LedgerPage
from gateway.message_id import BatchAddress, MessageIds

_ADDRESS = BatchAddress(1_700_000_000_123, 3, 77)


def make_batch(n: int, variants: int, sizes: list[int], *, has_ids: bool = False) -> Batch:
    rng = np.random.default_rng(3)
    firsts = np.cumsum([0, *sizes]).tolist()
    return Batch(
        _ADDRESS,
        2,
        500.0,
        n,
        device_ids=rng.integers(0, 256, (n, 16), np.uint8),
        message_ids=rng.integers(0, 256, (n, 16), np.uint8) if has_ids else MessageIds(bytes(32), _ADDRESS),
        variants=[Variant(title=str(at), body="b") for at in range(variants)],
        variant_index=rng.integers(0, variants, n).astype(np.uint16) if variants > 1 else None,
        segments=[TaskSegment(bytes([at]) * 16, first, size) for at, (first, size) in enumerate(zip(firsts, sizes))],  # noqa: B905
    )


@given(st.data())
def test_a_batch_of_few_rows_says_of_them_what_the_whole_says(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    n = sum(sizes)
    batch = make_batch(n, data.draw(st.integers(1, 4)), sizes, has_ids=data.draw(st.booleans()))
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1)), np.intp)
    few = few_rows(batch, rows)
    assert (few.app, few.address) == (batch.app, batch.address)
    for asked in (rows, rows.astype(np.uint16)[::-1]):
        assert few.device_ids[asked].tolist() == batch.device_ids[asked].tolist()
        assert few.message_ids[asked].tolist() == batch.message_ids[asked].tolist()
    for row in rows.tolist():
        assert few.device_ids[row].tobytes() == batch.device_ids[row].tobytes()
        assert few.variant_of(row) is batch.variant_of(row)
    assert list(few.segments) == [
        one for one in batch.segments if np.any((rows >= one.first) & (rows < one.first + one.n))
    ]


@pytest.mark.parametrize(("saved", "n_rows", "lives"), [(-1, 1, True), (0, 1, False), (0, 60, True)])
def test_a_change_of_few_rows_of_an_archived_page_does_not_keep_its_columns(
    saved: int, n_rows: int, lives: bool
) -> None:
    class Column(np.ndarray[Any, Any]):
        """An array that may be watched."""

    page = LedgerPage(make_batch(100, 1, [100]))
    page.saved = saved
    page.batch.device_ids = page.batch.device_ids.view(Column)
    watched = weakref.ref(page.batch.device_ids)
    told = told_batch(page, np.arange(n_rows))
    del page
    gc.collect()
    assert (watched() is not None) == lives
    assert told.n == 100
