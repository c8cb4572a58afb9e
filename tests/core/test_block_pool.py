"""Blocks of a pool: they never overlap, and join again."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.core.block_pool import BlockPool
from gateway.errors import Overloaded


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=60))
def test_blocks_never_overlap_and_join_again(steps):
    pool = BlockPool(256, "slots_max")
    taken: list[tuple[int, int]] = []
    for is_take, number in steps:
        if is_take:
            size = 1 << number
            try:
                start = pool.take(size)
            except Overloaded:
                assert sum(size for _, size in taken) + size > 128 or size > 64
                continue
            assert start % size == 0
            taken.append((start, size))
        elif taken:
            pool.give(*taken.pop(number % len(taken)))
        covered = [slot for start, size in taken for slot in range(start, start + size)]
        assert len(covered) == len(set(covered)) == pool.taken
    for block in taken:
        pool.give(*block)
    assert pool.take(256) == 0


@given(st.integers(0, 5), st.integers(1, 40), st.integers(0, 8))
def test_blocks_taken_together_are_given_back_alone(number, count, n_before):
    """Also where the pool has room for so many, but not side by side."""
    pool = BlockPool(256, "slots_max")
    size = 1 << number
    before = [pool.take(16) for _ in range(2 * n_before)]
    for start in before[::2]:
        pool.give(start, 16)
    starts = []
    try:
        while len(starts) < count:
            n, start = pool.take_some(size, count - len(starts))
            assert 1 <= n <= count - len(starts)
            starts += range(start, start + n * size, size)
    except Overloaded:
        with pytest.raises(Overloaded, match="slots_max"):
            pool.take(size)
    covered = [slot for start in starts for slot in range(start, start + size)]
    covered += [slot for start in before[1::2] for slot in range(start, start + 16)]
    assert len(covered) == len(set(covered)) == pool.taken
    for start in starts[::-1]:
        pool.give(start, size)
    for start in before[1::2]:
        pool.give(start, 16)
    assert pool.take(256) == 0
