"""The checks before a registration, against loops."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gateway.columns import TextColumn
from gateway.core.registration import Registrations, earlier_of_equal, form_faults


def batch_of(tokens, channels, **more):
    n = len(tokens)
    return Registrations(
        np.zeros((n, 16), np.uint8),
        np.array(channels, np.uint8),
        TextColumn.from_rows(tokens),
        np.zeros(n, np.uint32),
        **more,
    )


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=30))
def test_earlier_of_equal_agrees_with_a_loop(rows):
    # Hashes of different keys collide on purpose.
    hashes = np.array([key // 2 for key, _ in rows], np.uint64)
    is_chosen = np.array([chosen for _, chosen in rows], np.bool_)
    found = earlier_of_equal(hashes, is_chosen, lambda index: bytes([rows[index][0]]))
    expected = [
        chosen and any(later == key and is_later for later, is_later in rows[index + 1 :])
        for index, (key, chosen) in enumerate(rows)
    ]
    assert found.tolist() == expected


def test_form_faults_name_the_row_and_the_field():
    faults = form_faults(batch_of([b"t", b"", b"t", b"", b"x" * 4097], [1, 1, 0, 0, 2]))
    assert {index: (fault.field, fault.text) for index, fault in faults.items()} == {
        1: ("token", "token is empty, and a channel is given"),
        2: ("channel", "channel is missing, and a token is given"),
        4: ("token", "token is 4097 bytes, limit 4096"),
    }


@pytest.mark.parametrize(
    "more",
    [
        {"aliases": TextColumn.from_rows([b"a"])},
        {"tags": TextColumn.from_rows([b"a"])},
        {"tags": TextColumn.from_rows([b"a"]), "tag_counts": np.array([1, 1], np.uint32)},
        {"tags": TextColumn.from_rows([b"a"]), "tag_counts": np.array([1], np.uint32)},
    ],
)
def test_columns_that_do_not_fit_together_are_a_bug_of_the_caller(more):
    with pytest.raises(ValueError, match=r"registration|tag_counts|tags"):
        form_faults(batch_of([b"t", b"t"], [1, 1], **more))
