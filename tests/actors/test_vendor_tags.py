"""Tags: every tag finds its burst and its position, in whatever order they come back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.actors.vendor_tags import make_tags, runs_by_burst, split_by_burst


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


@given(
    bursts=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 40)), min_size=1, max_size=4),
    swaps=st.lists(st.tuples(st.integers(0, 159), st.integers(0, 159)), max_size=3),
)
def test_runs_name_the_same_requests_as_tags_one_by_one(
    bursts: list[tuple[int, int]], swaps: list[tuple[int, int]]
) -> None:
    tags = np.concatenate([make_tags(3, burst, n) for burst, n in bursts])
    for one, other in swaps:
        a, b = one % len(tags), other % len(tags)
        tags[[a, b]] = tags[[b, a]]
    runs = runs_by_burst(tags)
    plain = [(tag >> 16 & 0xFFFFFFFF, tag & 0xFFFF) for tag in tags.tolist()]
    if runs is None:
        assert swaps, "whole bursts are few runs"
    else:
        assert [(burst, place) for burst, first, stop in runs for place in range(first, stop)] == plain


def test_run_ends_where_the_next_burst_goes_on_in_numbers() -> None:
    # The last place of one burst and the first of the next are neighbours as numbers.
    tags = np.concatenate([make_tags(0, 6, 1 << 16)[-2:], make_tags(0, 7, 2)])
    assert runs_by_burst(tags) is None
