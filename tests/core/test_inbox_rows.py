"""What the inbox is told of rows, as one row at a time would say it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.core.inbox_rows import collapse_hash, stored_columns
from gateway.message_id import BatchAddress


@given(st.lists(st.tuples(st.integers(0, 1), st.text(max_size=4)), min_size=1, max_size=6), st.data())
def test_columns_say_of_each_row_what_its_variant_and_texts_do(given_rows: list, data: st.DataObject) -> None:
    variants = [Variant(title="标题", body="b", collapse_id="c"), Variant(title="t", body="长" * 5)]
    n = len(given_rows)
    batch = Batch(
        BatchAddress(1_700_000_000_000, 0, 1),
        3,
        0.0,
        n,
        device_ids=np.zeros((n, 16), np.uint8),
        message_ids=np.zeros((n, 16), np.uint8),
        variants=variants,
        variant_index=np.array([variant for variant, _ in given_rows], np.uint16),
        variables={"name": TextColumn.from_texts([text for _, text in given_rows])},
    )
    rows = data.draw(st.lists(st.integers(0, n - 1), unique=True))
    found = stored_columns(batch, np.array(rows, np.intp))
    for at, row in enumerate(rows):
        variant, text = variants[given_rows[row][0]], given_rows[row][1]
        assert found["sizes"][at] == sum(len(part.encode()) for part in (variant.title, variant.body, text))
        assert found["collapse"][at] == collapse_hash(3, variant.collapse_id)
        assert (found["apps"][at], found["born_unix_ms"][at]) == (3, 1_700_000_000_000)


def test_collapse_ids_of_two_apps_are_two() -> None:
    assert collapse_hash(0, "") == collapse_hash(1, "") == 0
    assert len({collapse_hash(0, "a"), collapse_hash(1, "a"), collapse_hash(0, "b"), 0}) == 4
    assert 0 < collapse_hash(0, "a") < 1 << 63
