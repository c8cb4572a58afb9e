"""Strings in linked cells: a pool against a dict."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gateway.columns import TextColumn
from gateway.core.chains import CELL_BYTES, Chains, Padded, padded, padded_texts
from gateway.errors import Overloaded

strings = st.lists(st.binary(max_size=50), max_size=8)


@given(strings)
def test_padded_texts_are_the_rows_with_zeros_behind(rows):
    found = padded_texts(TextColumn.from_rows(rows))
    width = -(-max(map(len, rows), default=0) // CELL_BYTES) * CELL_BYTES
    assert [row.tobytes() for row in found.words] == [row.ljust(width, b"\0") for row in rows]
    assert found.lengths.tolist() == list(map(len, rows))
    assert found.column().rows() == rows


def test_runs_anywhere_in_a_blob_are_padded_alike():
    found = padded(b"0123456789", np.array([8, 0, 10, 3]), np.array([2, 3, 0, 7]))
    assert found.column().rows() == [b"89", b"012", b"", b"3456789"]


@given(st.lists(st.tuples(strings, st.sets(st.integers(0, 20))), max_size=5))
def test_a_pool_of_chains_agrees_with_a_dict(steps):
    chains = Chains(1000, "cells_max")
    kept: dict[int, tuple[int, bytes]] = {}
    serial = 0
    for rows, dropped in steps:
        heads = chains.write(padded_texts(TextColumn.from_rows(rows)))
        for head, row in zip(heads.tolist(), rows, strict=True):
            assert (head == 0) == (row == b"")
            kept[serial] = (head, row)
            serial += 1
        gone = [kept.pop(number) for number in dropped & kept.keys()]
        chains.free(*columns(gone))
        found = chains.read(*columns(list(kept.values())))
        assert found.column().rows() == [row for _, row in kept.values()]
        assert chains.cells_used == sum(-(-len(row) // CELL_BYTES) for _, row in kept.values())


def columns(kept):
    heads = np.array([head for head, _ in kept], np.uint32)
    return heads, np.array([len(row) for _, row in kept], np.int64)


def test_a_full_pool_says_which_limit_and_takes_nothing():
    chains = Chains(3, "cells_max")
    (head,) = chains.write(padded_texts(TextColumn.from_rows([b"a" * 33])))
    with pytest.raises(Overloaded, match="cells_max is 4, limit 3"):
        chains.write(padded_texts(TextColumn.from_rows([b"b"])))
    chains.free(np.array([head]), np.array([33]))
    assert chains.cells_used == 0
    chains.write(Padded(np.ones((3, 2), np.uint64), np.full(3, 16)))
