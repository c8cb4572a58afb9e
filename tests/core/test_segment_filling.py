"""A table that was filled against one into which the same keys were put one by one. That a filled table goes on like
any other, with hashes made to collide, stands in test_segments.py."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gateway.core.segment_filling import SegmentsFilling
from gateway.core.segments import SHARD_COUNT, Segments, hash_shards, rows_of_entries


def fill(n, hashes, n_slices=3, drop=None, n_expected=None):
    segments = Segments(n, "slots_max")
    filling = SegmentsFilling(segments, n if n_expected is None else n_expected, drop)
    rows = np.arange(1, len(hashes) + 1, dtype=np.int32)
    for part in np.array_split(np.random.default_rng(1).permutation(len(hashes)), n_slices):
        filling.add(hash_shards(hashes[part]), hashes[part], rows[part])
    return segments, sum(1 for _ in filling.steps())


@pytest.mark.parametrize("n_expected", [0, 100, 60_000, 10_000_000])
def test_a_filled_table_has_what_one_has_that_grew(n_expected):
    n = 60_000
    hashes = np.random.default_rng(2).integers(0, 1 << 63, n).astype(np.uint64) << np.uint64(1)
    rows = np.arange(1, n + 1, dtype=np.int32)
    filled, n_steps = fill(n, hashes, n_expected=n_expected)
    grown = Segments(n, "slots_max")
    grown.insert(hash_shards(hashes), hashes, rows)
    assert n_steps == {0: 1, 100: 1, 60_000: 4, 10_000_000: 256}[n_expected]
    for segments in (filled, grown):
        assert (segments.find(hash_shards(hashes), hashes, lambda _, found: found >= 0) == rows).all()
    some = range(0, SHARD_COUNT, 97)
    assert [sorted(filled.rows_of(s).tolist()) for s in some] == [sorted(grown.rows_of(s).tolist()) for s in some]
    assert filled.statistics().live == n
    assert filled.statistics().slots <= grown.statistics().slots
    assert filled.statistics().rebuilds == 0


def test_a_range_of_segments_that_are_larger_than_65536_slots_is_filled_too():
    """16-bit numbers do not count them."""
    n = 40_000
    hashes = (np.random.default_rng(3).integers(0, 1 << 32, n).astype(np.uint64) << np.uint64(32)) + np.uint64(1 << 20)
    filled, _ = fill(n, hashes)
    found = filled.find(hash_shards(hashes), hashes, lambda _, rows: rows >= 0)
    assert (hashes[found - 1] == hashes).all()
    assert filled.statistics().slots == 1 << 17


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=60), st.integers(1, 3))
def test_twins_are_told_apart_before_they_are_in(keys, n_slices):
    """Of each fingerprint the last row stays, as a plain loop says."""
    hashes = np.array([shard << 20 | number << 36 for shard, number in keys], np.uint64)

    def drop(entries):
        rows = rows_of_entries(entries)
        fingerprints = hashes[rows - 1]
        assert all((fingerprints == one).sum() > 1 for one in fingerprints)
        return np.array([row != rows[fingerprints == one].max() for row, one in zip(rows, fingerprints, strict=True)])

    filled, _ = fill(max(len(keys), 1), hashes, n_slices, drop)
    expected = {key: row for row, key in enumerate(keys, 1)}
    assert len(filled) == len(expected)
    for (shard, number), row in expected.items():
        assert filled.find_one(shard, number << 36, lambda found, row=row: found == row) == row
        assert filled.candidates(shard, number << 36) == [row]
