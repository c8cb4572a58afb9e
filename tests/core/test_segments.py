"""Segments against a dict, with hashes made to collide; the hashes against their one-row twins."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.segment_filling import SegmentsFilling
from gateway.core.segments import SHARD_COUNT, BlockPool, HashKey, Segments, device_shard, device_shards
from gateway.errors import Overloaded

KEY = HashKey(b"a secret of sixteen bytes or more")


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=20))
def test_device_shards_agree_with_the_shard_of_one_id(ids):
    rows = np.frombuffer(b"".join(ids), np.uint8).reshape(len(ids), 16)
    assert device_shards(rows).tolist() == [device_shard(row) for row in ids]


def test_device_shard_is_fixed_for_all_time():
    # Databases are split by these numbers: a change here loses every device.
    assert device_shard(bytes(16)) == 0
    assert device_shard(bytes(range(16))) == 2785
    assert device_shard(bytes.fromhex("0123456789abcdef0123456789abcdef")) == 2136


@pytest.mark.parametrize("place", range(0, 13, 2))
@pytest.mark.parametrize("order", ["little", "big"])
def test_device_shards_spread_counters_wherever_they_stand_in_the_id(place, order):
    n = 100 * SHARD_COUNT
    ids = np.zeros((n, 16), np.uint8)
    counter = np.arange(n, dtype="<u4" if order == "little" else ">u4")
    ids[:, place : place + 4] = counter.view(np.uint8).reshape(n, 4)
    counts = np.bincount(device_shards(ids), minlength=SHARD_COUNT)
    # 100 on average; random ids give 60 to 145.
    assert counts.min() > 30
    assert counts.max() < 250


@given(st.integers(0, 40), st.data())
def test_hash_rows_agree_with_the_hash_of_one_row(width, data):
    rows = data.draw(st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=8))
    salts = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(rows), max_size=len(rows)))
    matrix = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)
    assert KEY.hash_rows(matrix, salts[0]).tolist() == [KEY.hash_one(row, salts[0]) for row in rows]
    hashes = KEY.hash_rows(matrix, np.array(salts, np.uint64)).tolist()
    assert hashes == [KEY.hash_one(row, salt) for row, salt in zip(rows, salts, strict=True)]


def test_hash_rows_do_not_need_contiguous_rows():
    rows = np.arange(320, dtype=np.uint8).reshape(10, 32)[:, 8:24]
    assert KEY.hash_rows(rows).tolist() == [KEY.hash_one(row.tobytes()) for row in rows]


def test_hashes_depend_on_secret_salt_and_every_byte():
    row = bytes(range(64))
    other = HashKey(b"another secret of sixteen bytes")
    hashes = {KEY.hash_one(row), KEY.hash_one(row, 1), other.hash_one(row)}
    for at in range(64):
        hashes.add(KEY.hash_one(row[:at] + b"\xff" + row[at + 1 :]) >> 32)
    assert len(hashes) == 67


def test_upper_half_of_hashes_of_counters_falls_evenly_into_slots():
    ids = np.zeros((64 * 256, 16), np.uint8)
    ids[:, 12:16] = np.arange(len(ids), dtype=">u4").view(np.uint8).reshape(-1, 4)
    counts = np.bincount((KEY.hash_rows(ids) >> np.uint64(32)).astype(np.int64) & 255, minlength=256)
    assert counts.min() >= 16
    assert counts.max() <= 192


def test_hash_key_refuses_a_short_secret():
    with pytest.raises(ValueError, match="15 bytes, expected at least 16"):
        HashKey(bytes(15))


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


def _nobody(_index, rows):
    return np.zeros(len(rows), np.bool_)


class SegmentsMachine(RuleBasedStateMachine):
    """Keys are numbers; hashes have few fingerprints and homes, so that probes are long, wrap and meet twins."""

    def __init__(self):
        super().__init__()
        self.segments = Segments(400, "slots_max")
        self.rows: dict[int, int] = {}
        self.keys = np.full(5000, -1)
        self.next_row = 0

    def shards(self, keys):
        return np.array(keys, np.int64) % 3

    def hashes(self, keys):
        # Every fifth key has a fingerprint near the end of any segment, and many share one.
        keys = np.array(keys, np.uint64)
        fingerprints = np.where(keys % 5 == 0, np.uint64(0xFFFF_FFFF) - keys % 2, keys % 16)
        return fingerprints << np.uint64(32) | keys

    @initialize(keys=st.lists(st.integers(0, 150), max_size=80, unique=True), n_parts=st.integers(1, 3))
    def load(self, keys, n_parts):
        filling = SegmentsFilling(self.segments, 1 << 17)
        self.rows = {key: row for row, key in enumerate(keys)}
        self.next_row = len(keys)
        for part in range(n_parts):
            some = keys[part::n_parts]
            rows = np.array([self.rows[key] for key in some], np.int32)
            self.keys[rows] = some
            filling.add(self.shards(some), self.hashes(some), rows)
        for _ in filling.steps():
            pass

    @rule(keys=st.lists(st.integers(0, 150), max_size=40, unique=True))
    def insert(self, keys):
        keys = [key for key in keys if key not in self.rows]
        rows = np.arange(self.next_row, self.next_row + len(keys), dtype=np.int32)
        self.next_row = (self.next_row + len(keys)) % 4000
        while set(rows.tolist()) & set(self.rows.values()):
            rows += 1
        self.segments.insert(self.shards(keys), self.hashes(keys), rows)
        self.keys[rows] = keys
        self.rows.update(zip(keys, rows.tolist(), strict=True))

    @rule(keys=st.lists(st.integers(0, 150), max_size=40, unique=True))
    def insert_one_by_one(self, keys):
        for key in keys:
            if key not in self.rows:
                while self.next_row in self.rows.values():
                    self.next_row = (self.next_row + 1) % 4000
                self.segments.insert_one(int(self.shards([key])[0]), int(self.hashes([key])[0]), self.next_row)
                self.keys[self.next_row] = key
                self.rows[key] = self.next_row

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def remove(self, data):
        known = data.draw(st.lists(st.sampled_from(sorted(self.rows)), unique=True))
        keys = [*known, 151]
        rows = np.array([*[self.rows.pop(key) for key in known], 4999], np.int32)
        removed = self.segments.remove(self.shards(keys), self.hashes(keys), rows)
        assert removed.tolist() == [True] * len(known) + [False]

    @rule(keys=st.lists(st.integers(0, 160), max_size=60))
    def find(self, keys):
        wanted = np.array(keys, np.int64)
        found = self.segments.find(
            self.shards(keys), self.hashes(keys), lambda index, rows: self.keys[rows] == wanted[index]
        )
        assert found.tolist() == [self.rows.get(key, -1) for key in keys]
        for key, key_hash, shard in zip(keys, self.hashes(keys).tolist(), self.shards(keys).tolist(), strict=True):
            row = self.segments.find_one(shard, key_hash, lambda row, key=key: self.keys[row] == key)
            assert row == self.rows.get(key, -1)

    @invariant()
    def counts_and_rows_agree(self):
        assert len(self.segments) == len(self.rows) == self.segments.statistics().live
        for shard in range(3):
            expected = sorted(row for key, row in self.rows.items() if key % 3 == shard)
            assert sorted(self.segments.rows_of(shard).tolist()) == expected
        statistics = self.segments.statistics()
        assert statistics.live + statistics.tombstones <= 0.6 * statistics.slots


TestSegmentsMachine = SegmentsMachine.TestCase
TestSegmentsMachine.settings = settings(stateful_step_count=30)


def test_a_full_pool_refuses_a_single_key_and_stays_as_it_was():
    segments = Segments(1, "slots_max")
    inserted = 0

    def fill():
        nonlocal inserted
        for shard in range(SHARD_COUNT):
            for key in range(1_000):
                segments.insert_one(shard, key << 32 | shard, inserted)
                inserted += 1

    with pytest.raises(Overloaded, match="slots_max"):
        fill()
    assert len(segments) == inserted
    assert segments.find_one(0, 0, lambda row: row == 0) == 0


def test_growth_of_one_segment_is_a_short_step_at_a_million_devices():
    n, step = 1_000_000, 1_000
    rng = np.random.default_rng(20)
    ids = rng.integers(0, 256, (n, 16), dtype=np.uint8)
    segments = Segments(n, "slots_max")
    for first in range(0, n, step):
        some = ids[first : first + step]
        segments.insert(
            device_shards(some), KEY.hash_rows(some), np.arange(first + 1, first + 1 + step, dtype=np.int32)
        )
    statistics = segments.statistics()
    assert statistics.live == n
    # One table of this size would have moved 600,000 entries at once.
    assert statistics.longest_rebuild <= 320
    # Shards fill up together; a batch of a thousand keys touches the growth of some of them.
    assert statistics.longest_step <= 12_000
    assert statistics.moved_entries <= 1.5 * n
    words = ids.view("<u8")
    some = rng.integers(0, n, 20_000)

    def verify(index, rows):
        return (words[rows - 1] == words[some[index]]).all(axis=1)

    assert (segments.find(device_shards(ids[some]), KEY.hash_rows(ids[some]), verify) == some + 1).all()
    unknown = rng.integers(0, 256, (5_000, 16), dtype=np.uint8)
    assert (segments.find(device_shards(unknown), KEY.hash_rows(unknown), _nobody) == -1).all()


def test_churn_does_not_grow_a_segment():
    segments = Segments(1000, "slots_max")
    hashes = np.random.default_rng(5).integers(0, 2**63, 5_000).astype(np.uint64)
    shards = np.zeros(10, np.int64)
    segments.insert(shards, hashes[:10], np.arange(10, dtype=np.int32))
    slots = segments.statistics().slots
    for first in range(10, 5_000, 10):
        old, new = np.arange(first - 10, first, dtype=np.int32), np.arange(first, first + 10, dtype=np.int32)
        assert segments.remove(shards, hashes[old], old).all()
        segments.insert(shards, hashes[new], new)
    assert segments.statistics().slots <= 2 * slots
    assert sorted(segments.rows_of(0).tolist()) == list(range(4990, 5000))


def test_a_new_key_takes_the_place_of_a_removed_one():
    segments = Segments(100, "slots_max")
    hashes = np.random.default_rng(8).integers(0, 2**63, 4).astype(np.uint64)
    shards, rows = np.zeros(4, np.int64), np.arange(4, dtype=np.int32)
    for _ in range(3):
        segments.insert(shards, hashes, rows)
        assert segments.statistics()[:2] == (4, 0)
        segments.remove(shards, hashes, rows)
        assert segments.statistics()[:2] == (0, 4)
    assert segments.statistics().rebuilds == 1


def test_a_full_pool_raises_and_changes_nothing():
    segments = Segments(8, "slots_max")
    rng = np.random.default_rng(6)
    hashes = rng.integers(0, 2**63, 400_000).astype(np.uint64)
    rows_of_shard: dict[int, np.ndarray] = {}

    def fill():
        for shard in range(400):
            rows = np.arange(900 * shard, 900 * (shard + 1), dtype=np.int32)
            segments.insert(np.full(900, shard), hashes[rows], rows)
            rows_of_shard[shard] = rows

    with pytest.raises(Overloaded, match=r"slots_max is \d+, limit 262144"):
        fill()
    n = 900 * len(rows_of_shard)
    assert len(segments) == n
    for known, rows in rows_of_shard.items():
        found = segments.find(
            np.full(900, known), hashes[rows], lambda _index, candidates, rows=rows: candidates == rows
        )
        assert found.tolist() == rows.tolist()
    assert not len(segments.rows_of(len(rows_of_shard)))


def test_several_blocks_for_one_call_are_taken_all_or_none():
    segments = Segments(8, "slots_max")
    rng = np.random.default_rng(7)
    hashes = rng.integers(0, 2**63, 600_000).astype(np.uint64)
    first = np.repeat(np.arange(100), 900)
    segments.insert(first, hashes[: len(first)], np.arange(len(first), dtype=np.int32))
    many = np.repeat(np.arange(100, 400), 900)
    rows = np.arange(len(first), len(first) + len(many), dtype=np.int32)
    before = segments.statistics()
    with pytest.raises(Overloaded):
        segments.insert(many, hashes[rows], rows)
    assert segments.statistics() == before
    # What the failed call had taken is free again. The pool has 127 blocks of 2,048 slots beside the empty one.
    n_fit = 27 * 900
    segments.insert(many[:n_fit], hashes[rows[:n_fit]], rows[:n_fit])
    assert len(segments) == len(first) + n_fit


def test_keys_of_one_home_slot_are_found_however_long_their_probes_are():
    table = Segments(1000, "slots_max")
    n = 100
    # All have one shard and one home slot, so that the last stands a hundred slots behind it, around the segment's end.
    hashes = (np.arange(1, 2 * n + 1, dtype=np.uint64) << np.uint64(42)) | np.uint64(1000 << 32)
    shards = np.full(2 * n, 7, np.int64)
    rows = np.arange(n, dtype=np.int32)
    table.insert(shards[:n], hashes[:n], rows)
    table.remove(shards[: n // 2], hashes[: n // 2], rows[: n // 2])
    found = table.find(shards, hashes, lambda index, candidates: np.ones(len(candidates), np.bool_))
    assert found.tolist() == [-1] * (n // 2) + list(range(n // 2, n)) + [-1] * n
