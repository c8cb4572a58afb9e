"""Entries of the inbox's index: what is sorted, sealed and merged says the same as lists of what came and left."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from gateway.store.inbox_entries import (
    BLOCK_ENTRIES,
    Entries,
    Generation,
    Recent,
    blocks_of,
    entries_of,
    filter_places,
    filters_of,
    in_order,
    joined,
    settled,
)
from gateway.store.inbox_merge import FAN_OUT, SEAL_ENTRIES, Merge, Source, to_merge

#: Hashes that collide, that are far apart, and the outermost ones.
hashes = st.one_of(st.integers(0, 3), st.sampled_from([-(1 << 63), (1 << 63) - 1]), st.integers(-(1 << 63), 2**63 - 1))


def entries(rows: list[tuple[int, int, int]]) -> Entries:
    columns = np.array(rows, np.int64).reshape(-1, 3).T.copy()
    return Entries(*columns)


def rows_of(found: Entries) -> list[tuple[int, int, int]]:
    return list(zip(*(column.tolist() for column in found), strict=True))


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Rows that come, leave, and come again, of a few devices and tags."""
    there: set[tuple[int, int]] = set()
    history = []
    for one_hash, tag, size in draw(st.lists(st.tuples(hashes, st.integers(0, 5), st.integers(0, 9)), max_size=60)):
        row = (one_hash, tag)
        history.append((one_hash, tag, ~size if row in there else size))
        there ^= {row}
    return history


def left_of(history: list[tuple[int, int, int]]) -> dict[tuple[int, int], int]:
    """Rows that are there, and those that left without having come: how often more."""
    left: dict[tuple[int, int], int] = {}
    for one_hash, tag, size in history:
        left[one_hash, tag] = left.get((one_hash, tag), 0) + (-1 if size < 0 else 1)
    return {row: n for row, n in left.items() if n}


@given(histories(), st.integers(0, 60))
def test_settled_entries_are_those_of_rows_that_did_not_come_and_leave(history: list, first: int) -> None:
    # A part of a history may begin with the end of a row that came before.
    part = history[first:]
    found = rows_of(settled(in_order(entries(part))))
    assert left_of(found) == left_of(part)
    assert len(found) == len(left_of(part))
    assert [row[0] for row in found] == sorted(row[0] for row in found)


@given(histories(), st.lists(st.integers(0, 60), max_size=5), st.integers(1, 9), st.integers(1, 5))
def test_a_merge_in_steps_is_one_sort_of_all(history: list, cuts: list, entries_max: int, read: int) -> None:
    ends = sorted(min(cut, len(history)) for cut in cuts)
    parts = [in_order(entries(history[a:b])) for a, b in zip([0, *ends], [*ends, len(history)], strict=True)]

    def source(part: Entries) -> Source:
        pieces = iter([part.part(at, at + read) for at in range(0, len(part.hashes), read)])
        return Source(lambda: next(pieces, None))

    merge = Merge([source(part) for part in parts], entries_max)
    found, taken = [], 0
    while not merge.is_over:
        n, some = merge.step()
        taken += n
        found.append(some)
    assert taken == len(history)
    assert left_of(rows_of(joined(found))) == left_of(history)
    assert (np.diff(joined(found).hashes.astype(object)) >= 0).all()


@given(st.integers(0, 3 * BLOCK_ENTRIES), st.integers(0, 9))
def test_blocks_give_back_their_entries(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    given_ = in_order(
        Entries(
            random.integers(-(1 << 63), (1 << 63) - 1, n),
            random.integers(0, 1 << 44, n),
            random.integers(-(1 << 31), (1 << 31) - 1, n),
        )
    )
    blocks = blocks_of(given_)
    assert rows_of(entries_of(blocks)) == rows_of(given_)
    assert {len(block) for block in blocks[:-1]} <= {4000}


@given(st.lists(hashes, max_size=50), st.integers(1, 3))
def test_a_generation_never_denies_what_it_has_and_names_its_blocks(given_: list[int], copies: int) -> None:
    ordered = np.sort(np.repeat(np.array(given_ * 40, np.int64), copies))
    generation = Generation(1, 1, len(ordered), ordered[::BLOCK_ENTRIES].copy(), filters_of(ordered))
    for one in given_:
        assert generation.may_hold(one, filter_places(one))
        blocks = generation.blocks_with(one)
        inside = ordered[blocks.start * BLOCK_ENTRIES : blocks.stop * BLOCK_ENTRIES]
        assert (inside == one).sum() == (ordered == one).sum()


def test_a_filter_lets_one_of_fifty_strangers_pass_at_most() -> None:
    random = np.random.default_rng(1)
    ordered = np.sort(random.integers(-(1 << 63), (1 << 63) - 1, 20_000))
    generation = Generation(1, 1, len(ordered), ordered[::BLOCK_ENTRIES].copy(), filters_of(ordered))
    strangers = random.integers(-(1 << 63), (1 << 63) - 1, 5000).tolist()
    assert sum(generation.may_hold(one, filter_places(one)) for one in strangers) < 100


@given(st.lists(st.lists(st.tuples(hashes, st.integers(0, 99)), max_size=9), max_size=12))
def test_what_is_recent_is_found_in_the_order_in_which_it_came(calls: list) -> None:
    recent = Recent()
    for until, call in enumerate(calls, 1):
        recent.add(entries([(one_hash, tag, 0) for one_hash, tag in call]), until)
    made = [row for call in calls for row in call]
    assert (recent.n, recent.until) == (len(made), len(calls))
    for one_hash in {row[0] for row in made}:
        assert recent.may_hold(one_hash)
        found = [tag for part in recent.find(one_hash) for tag in part.tags.tolist()]
        assert found == [tag for other, tag in made if other == one_hash]
    assert len(recent.runs) <= 8


@given(st.lists(st.integers(1, 3 * SEAL_ENTRIES), min_size=1, max_size=400), st.floats(0, 1))
def test_generations_stay_few_whatever_is_sealed(sealed: list[int], share_there: float) -> None:
    sizes: list[int] = []
    written = 0
    for n in sealed:
        sizes.append(n)
        while (chosen := to_merge(sizes, int(share_there * sum(sizes)))) is not None:
            assert len(chosen) > 1
            merged = sum(sizes[chosen.start : chosen.stop])
            written += merged
            if chosen == range(len(sizes)):
                # What has left is not written any more.
                merged = max(int(share_there * merged), 1)
            sizes[chosen.start : chosen.stop] = [merged]
    assert len(sizes) <= 4 * FAN_OUT
    assert written <= 8 * sum(sealed)
