"""Duplicate targets against a plain set, chance collisions and adversaries included."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import TextColumn
from gateway.wire.rpc.duplicates import duplicate_ids, duplicate_targets, duplicate_texts


def plain(rows: list[object]) -> list[bool]:
    seen: set[object] = set()
    out = []
    for row in rows:
        out.append(row in seen)
        seen.add(row)
    return out


def flags(found: object, n: int) -> list[bool]:
    return [False] * n if found is None else np.asarray(found).tolist()


@given(
    st.lists(st.one_of(st.integers(0, 40), st.integers(0, 2**128 - 1), st.integers(0, 40).map(lambda k: k << 120))),
    st.sampled_from(["big", "little"]),
)
def test_duplicate_ids_agrees_with_a_set(values: list[int], order: str) -> None:
    raw = b"".join(value.to_bytes(16, order) for value in values)  # type: ignore[arg-type]
    ids = np.frombuffer(raw, np.uint8).reshape(-1, 16).copy()
    assert flags(duplicate_ids(ids), len(values)) == plain(list(values))


def test_duplicate_ids_finds_a_few_among_many_and_keeps_the_first() -> None:
    random = np.random.default_rng(7)
    ids = random.integers(0, 256, (20_000, 16)).astype(np.uint8)
    ids[19_999] = ids[5]
    ids[12_000] = ids[5]
    ids[300] = ids[299]
    found = duplicate_ids(ids)
    assert found is not None
    assert np.flatnonzero(found).tolist() == [300, 12_000, 19_999]


def test_duplicate_ids_is_exact_where_all_ids_share_one_slot() -> None:
    # Words that differ only in what the mix throws away would be an attack on time, never on the answer.
    multiplier = pow(0xBF58476D1CE4E5B9, -1, 2**64)
    low_bits = [k * multiplier % 2**64 for k in range(3000)]
    ids = np.zeros((3000, 2), np.uint64)
    ids[:, 1] = low_bits
    assert duplicate_ids(ids.view(np.uint8).reshape(3000, 16)) is None
    ids[2999] = ids[17]
    found = duplicate_ids(ids.view(np.uint8).reshape(3000, 16))
    assert found is not None
    assert np.flatnonzero(found).tolist() == [2999]


def test_duplicate_ids_is_exact_where_all_ids_are_mixed_to_one_number() -> None:
    first = np.arange(1, 3001, dtype=np.uint64)
    ids = np.zeros((3000, 2), np.uint64)
    ids[:, 0], ids[:, 1] = first, first * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(5)
    assert duplicate_ids(ids.view(np.uint8).reshape(3000, 16)) is None
    ids[2000] = ids[17]
    assert flags(duplicate_ids(ids.view(np.uint8).reshape(3000, 16)), 3000).index(True) == 2000


@given(st.lists(st.binary(max_size=2)))
def test_duplicate_texts_agrees_with_a_set(rows: list[bytes]) -> None:
    assert flags(duplicate_texts(rows), len(rows)) == plain(list(rows))


@given(st.lists(st.tuples(st.sampled_from([0, 2, 3]), st.sampled_from([b"a", b"b", b"cc"]))))
def test_duplicate_targets_keeps_channels_apart(rows: list[tuple[int, bytes]]) -> None:
    ids = np.zeros((len(rows), 16), np.uint8)
    for position, (channel, text) in enumerate(rows):
        if channel == 0:
            ids[position, : len(text)] = np.frombuffer(text, np.uint8)
    tokens = TextColumn.from_rows([text if channel else b"" for channel, text in rows])
    channels = np.array([channel for channel, _ in rows], np.uint8)
    assert flags(duplicate_targets(ids, channels, tokens), len(rows)) == plain(list(rows))
