"""Numbers of texts against the texts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import TextColumn
from gateway.text_numbers import distinct, merge_numbered

texts = st.lists(st.sampled_from([b"", b"a", b"b", b"ab", b"abc"]), max_size=6)


@given(texts)
def test_distinct_texts_stand_there_once(rows):
    numbers, column = distinct(TextColumn.from_rows(rows))
    assert [column.row(number) for number in numbers.tolist()] == rows
    assert sorted(column.rows()) == sorted(set(rows))


@given(
    st.lists(
        texts.flatmap(
            lambda rows: st.tuples(
                st.just(rows), st.lists(st.integers(0, len(rows) - 1), max_size=6) if rows else st.just([])
            )
        ),
        min_size=1,
        max_size=4,
    )
)
def test_merged_numbers_mean_what_they_meant_in_texts_that_stand_there_once(parts):
    numbers, column = merge_numbered(
        [(np.array(numbers, np.uint32), TextColumn.from_rows(rows)) for rows, numbers in parts]
    )
    meant = [rows[number] for rows, numbers in parts for number in numbers]
    assert [column.row(number) for number in numbers.tolist()] == meant
    assert sorted(column.rows()) == sorted(set(meant))
