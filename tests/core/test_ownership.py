"""Ownership: every worker that is told the same numbers has the same map, and everything has exactly one owner."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.ownership import (
    NODES_MAX,
    SHARDS,
    WORKERS_MAX,
    Ownership,
    journal_of,
    shard_of_name,
    split_by_owner,
)
from gateway.core.segments import device_shard

IDS = st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=40)


@given(IDS, st.integers(1, 16))
def test_owners_of_many_ids_are_those_of_each_alone(ids: list[bytes], workers: int) -> None:
    ownership = Ownership(workers)
    column = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16)
    owners = ownership.owners(column)
    assert owners.tolist() == [ownership.owner(each) for each in ids]
    for each, owner in zip(ids, owners.tolist(), strict=True):
        shard = device_shard(each)
        assert sum(span.first <= shard < span.stop for span in ownership.groups_of(owner)) == 1


@given(st.sampled_from([1, 2, 4, 8, 16, 32, 64]), st.data())
def test_every_shard_has_one_owner_and_no_worker_has_more_than_a_group_above_its_share(
    shard_groups: int, data: st.DataObject
) -> None:
    workers = data.draw(st.integers(1, shard_groups))
    ownership = Ownership(workers, shard_groups=shard_groups)
    seen = np.zeros(SHARDS, np.int64)
    for worker in range(workers):
        for first, stop in ownership.groups_of(worker):
            seen[first:stop] += 1
            assert ownership.group_of_shard(first) == ownership.group_of_shard(stop - 1)
    assert (seen == 1).all()
    sizes = [len(ownership.groups_of(worker)) for worker in range(workers)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("workers", "shard_groups"), [(0, 16), (17, 16), (65, 128), (1, 3), (1, 0)])
def test_ownership_refuses_numbers_that_do_not_fit(workers: int, shard_groups: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        Ownership(workers, shard_groups=shard_groups)


def test_names_are_spread_over_workers_and_stay_where_they_are() -> None:
    ownership = Ownership(4)
    owners = [ownership.owner_of_name(f"credential/app{number}/apns") for number in range(400)]
    assert min(np.bincount(owners)) > 60
    # For all time: a thing that is kept where its name says must be found there again.
    assert shard_of_name("credential/shop/apns") == 2268


@given(st.integers(1, 16), st.integers(0, NODES_MAX - 1))
def test_every_journal_of_the_node_is_open_at_exactly_one_worker(workers: int, node: int) -> None:
    ownership = Ownership(workers)
    opened = [(number, worker) for worker in range(workers) for number in ownership.journals_of(worker, node)]
    assert sorted(number for number, _ in opened) == [journal_of(node, index) for index in range(WORKERS_MAX)]
    assert all(ownership.worker_of_journal(number, node) == worker for number, worker in opened)
    assert [ownership.journals_of(worker, node)[0] for worker in range(workers)] == [
        journal_of(node, worker) for worker in range(workers)
    ]
    other = (node + 1) % NODES_MAX
    assert ownership.worker_of_journal(journal_of(other, 0), node) is None


def test_journal_numbers_end_where_message_ids_do() -> None:
    assert journal_of(NODES_MAX - 1, WORKERS_MAX - 1) == 4095
    with pytest.raises(ValueError, match="limits"):
        journal_of(NODES_MAX, 0)


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 5))
def test_split_names_each_position_once(owners: list[int], me: int) -> None:
    mine, others = split_by_owner(np.array(owners, np.uint8), me)
    assert mine.tolist() == [at for at, owner in enumerate(owners) if owner == me]
    assert {worker: positions.tolist() for worker, positions in others} == {
        worker: [at for at, owner in enumerate(owners) if owner == worker] for worker in set(owners) - {me}
    }


@given(st.integers(1, 16), st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=50))
def test_home_of_a_request_follows_from_the_key_that_is_kept_of_its_id(workers: int, keys: list[int]) -> None:
    ownership = Ownership(workers)
    found = ownership.homes_of_requests(np.array(keys, np.uint64))
    assert found.tolist() == [ownership.home_of_request(key) for key in keys]
    # As the index of the ids has its shards: what is looked for together stands together.
    assert found.tolist() == [
        next(w for w in range(workers) for group in ownership.groups_of(w) if group.first <= key >> 52 < group.stop)
        for key in keys
    ]
