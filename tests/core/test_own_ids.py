"""OwnIds against a dictionary: the newest of each number, as long as it is there."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.own_ids import OwnIds
from gateway.message_id import BatchAddress


def keys(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def batch(number: int) -> BatchAddress:
    return BatchAddress(1_763_700_000_000 + number, 4095, (1 << 22) - 1 - number)


#: Few buckets, so that chains are long: the lower bits are what a bucket is.
numbers = st.integers(0, 7).map(lambda n: n << 40 | n % 2)


@pytest.mark.parametrize("ids_max", [1, 5, 3000])
@given(steps=st.lists(st.tuples(st.integers(0, 20), st.lists(numbers, max_size=8)), max_size=40))
def test_it_is_a_dictionary_that_forgets_the_oldest(ids_max: int, steps: list[tuple[int, list[int]]]) -> None:
    ids, twin, now = OwnIds(ids_max, 50.0), OrderedDict[int, tuple[int, int, int]](), 0
    told = fallen = 0
    for number, (pause, values) in enumerate(steps):
        now += pause
        ids.add(keys(*values), batch(number), float(now))
        for value in values:
            twin[told] = (value, number, now)
            told += 1
        while len(twin) > ids_max:
            _, (_, _, born) = twin.popitem(last=False)
            fallen += born + 50 > now
        assert len(ids) == len(twin)
        asked = sorted({n << 40 | n % 2 for n in range(9)})
        found = ids.find(keys(*asked), float(now))
        newest = {value: (of, born) for value, of, born in twin.values()}
        for index, value in enumerate(asked):
            of, born = newest.get(value, (0, -100))
            assert bool(found.is_known[index]) == (born + 50 > now)
            if found.is_known[index]:
                assert found.batch(index) == batch(of)
    assert ids.fallen == fallen


def test_it_grows_to_its_limit_and_finds_all_of_a_large_number() -> None:
    ids, random = OwnIds(100_000, 1e6), np.random.default_rng(1)
    told = random.integers(0, 1 << 63, 150_000, np.uint64)
    for start in range(0, len(told), 10_000):
        ids.add(told[start : start + 10_000], batch(start // 10_000), 1.0)
    assert (len(ids), ids.fallen) == (100_000, 50_000)
    found = ids.find(told, 2.0)
    assert found.is_known.tolist() == [False] * 50_000 + [True] * 100_000
    assert found.batch(149_999) == batch(14)
    assert not ids.find(told[50_000:], 1e6 + 2).is_known.any()
