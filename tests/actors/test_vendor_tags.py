"""Tags: every tag finds its burst and its position, in whatever order they come back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.actors.vendor_tags import make_tags, split_by_burst


@given(
    lane=st.integers(0, 1000),
    bursts=st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 50)), min_size=1, max_size=5, unique_by=lambda b: b[0]
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_tags_find_their_burst_and_position(lane: int, bursts: list[tuple[int, int]], seed: int) -> None:
    tags = np.concatenate([make_tags(lane, burst, n) for burst, n in bursts])
    tags = np.random.default_rng(seed).permutation(tags)
    assert (tags >> 48 == lane).all()
    plain: dict[int, list[tuple[int, int]]] = {}
    for index, tag in enumerate(tags.tolist()):
        plain.setdefault(tag >> 16 & 0xFFFFFFFF, []).append((index, tag & 0xFFFF))
    found = {
        burst: list(zip(indexes.tolist(), places.tolist(), strict=True))
        for burst, indexes, places in split_by_burst(tags)
    }
    assert found == plain


def test_no_tags_are_split_into_no_bursts() -> None:
    assert split_by_burst(np.zeros(0, np.int64)) in ([], [(0, [], [])])
