"""The walk of an audience: each registered device once, whatever happens to the table or to the walker meanwhile."""

from __future__ import annotations

import hashlib
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gateway.columns import TextColumn
from gateway.core import audience_walk
from gateway.core.audience_walk import Members, Stretch, Wanted, count, look, to_come, whole
from gateway.core.devices import DeviceLimits, DeviceTable
from gateway.core.ownership import SHARDS
from gateway.core.registration import Registrations
from gateway.core.segments import HashKey, device_shard

KEY = HashKey(b"a secret of sixteen bytes or more")
LIMITS = DeviceLimits(devices_max=5000, token_bytes_max=1 << 16, aliases_max=100, tag_bindings_max=10_000)
APP, OTHER = 0, 1
TAG = b"fans"


def device(number: int) -> bytes:
    return hashlib.md5(b"%d" % number).digest()


#: Of one shard, so that places within a shard are met.
TOGETHER = [one for one in map(device, range(100_000)) if device_shard(one) == 7][:20]
IDS = [device(number) for number in range(30)] + TOGETHER


def register(table: DeviceTable, ids: list[bytes], now: int, *, app: int = APP, tags: tuple[bytes, ...] = ()) -> None:
    n = len(ids)
    table.register(
        app,
        Registrations(
            np.frombuffer(b"".join(ids), np.uint8).reshape(n, 16),
            np.zeros(n, np.uint8),
            TextColumn.from_rows([b""] * n),
            np.zeros(n, np.uint32),
            tag_counts=np.full(n, len(tags), np.uint32),
            tags=TextColumn.from_rows(list(tags) * n),
        ),
        now,
    )


def erase(table: DeviceTable, one: bytes, app: int = APP) -> None:
    row = table.find_one(one, app)
    if row >= 0:
        table.remove(np.array([row], np.int32))


def members(table: DeviceTable, tag: bytes = b"", app: int = APP) -> Members:
    left, found = Stretch(0, b"", SHARDS), Members(0, 0)
    while not left.is_through:
        some, left = count(table, app, tag, left)
        found = found.plus(some)
    return found


def texts(ids: np.ndarray) -> list[bytes]:
    return [one.tobytes() for one in ids]


def walk_all(
    table: DeviceTable, wanted: Wanted, rows_max: int, stretches: tuple[Stretch, ...] = tuple(whole(16))
) -> list[bytes]:
    found: list[bytes] = []
    for stretch in stretches:
        left = stretch
        while not left.is_through:
            ids, left = look(table, wanted, left, rows_max)
            assert len(ids) <= rows_max
            found += texts(ids)
    return found


@given(
    ids=st.lists(st.sampled_from(IDS), unique=True),
    others=st.lists(st.sampled_from(IDS), unique=True),
    tagged=st.lists(st.sampled_from(IDS), unique=True),
    late=st.lists(st.sampled_from(IDS), unique=True),
    rows_max=st.integers(1, 12),
    groups=st.sampled_from([1, 16, SHARDS]),
    workers=st.integers(1, 3),
)
def test_a_walk_finds_what_a_sorted_list_of_the_same_devices_has(
    ids: list[bytes],
    others: list[bytes],
    tagged: list[bytes],
    late: list[bytes],
    rows_max: int,
    groups: int,
    workers: int,
) -> None:
    table = DeviceTable(LIMITS, KEY)
    seen: dict[bytes, int] = {}
    for now, some, tags in ((100, ids, ()), (101, tagged, (TAG,)), (200, late, ())):
        if some:
            register(table, some, now, tags=tags)
            seen = dict.fromkeys(some, now) | seen
    if others:
        register(table, others, 50, app=OTHER)
    stretches = tuple(whole(groups, workers))
    turns = workers if groups == SHARDS else 1
    in_order = sorted(
        (one for one, now in seen.items() if now <= 101),
        key=lambda one: (device_shard(one) % turns, device_shard(one), one),
    )
    assert walk_all(table, Wanted(APP, b"", 101), rows_max, stretches) == in_order
    with_tag = [one for one in in_order if one in tagged and one not in late]
    assert walk_all(table, Wanted(APP, TAG, 101), rows_max, stretches) == with_tag
    assert members(table) == Members(len(seen), max(seen.values(), default=0))
    assert members(table, TAG).devices == len(with_tag)


#: What comes between two chunks of a walk.
events = st.one_of(
    st.tuples(st.just("register"), st.sampled_from(IDS)),
    st.tuples(st.just("erase"), st.sampled_from(IDS)),
    st.tuples(st.sampled_from(["grow", "crash", "regroup"]), st.just(b"")),
)


@given(
    first=st.lists(st.sampled_from(IDS), unique=True, min_size=1),
    steps=st.lists(st.tuples(st.lists(events, max_size=4), st.integers(1, 9), st.booleans()), max_size=60),
)
def test_every_device_registered_at_the_submit_gets_one_row_whatever_comes_between(
    first: list[bytes], steps: list[tuple[list[tuple[str, bytes]], int, bool]]
) -> None:
    """A chunk is durable together with the place that it reaches, or neither is: then the walk is where it was."""
    table = DeviceTable(LIMITS, KEY)
    register(table, first, 100)
    wanted = Wanted(APP, b"", members(table).newest_unix_s)
    rows: Counter[bytes] = Counter()
    durable = whole(16)
    left = list(durable)
    always = set(first)
    now, n_grown = 100, 0
    for between, rows_max, is_durable in [*steps, *[([], 9, True)] * 5000]:
        for what, one in between:
            now += 1
            if what == "register":
                register(table, [one], now)
            elif what == "erase":
                erase(table, one)
                always.discard(one)
            elif what == "grow":
                register(table, [device(1_000_000 + n_grown + k) for k in range(300)], now)
                n_grown += 300
            elif what == "crash":
                left = list(durable)
            else:
                # Another number of groups at the next start: a stretch is cut where its owner changes.
                cuts = [(one.first + one.stop + 1) // 2 for one in left]
                left = [
                    part
                    for one, cut in zip(left, cuts, strict=True)
                    for part in (one._replace(stop=cut), Stretch(cut, b"", one.stop))
                ]
                left = to_come(left)
        if not left:
            break
        ids, rest = look(table, wanted, left[0], rows_max)
        if is_durable:
            rows.update(texts(ids))
            left = to_come([rest, *left[1:]])
            durable = list(left)
    assert not left
    assert set(rows.values()) <= {1}
    assert always <= rows.keys() <= set(first)


def test_who_is_registered_in_a_later_second_is_not_in_it_and_a_clock_set_back_leaves_nobody_out() -> None:
    table = DeviceTable(LIMITS, KEY)
    register(table, IDS[:5], 500)
    # The clock was set back.
    register(table, IDS[5:8], 90)
    newest = members(table).newest_unix_s
    assert newest == 500
    register(table, IDS[8:10], 501)
    assert sorted(walk_all(table, Wanted(APP, b"", newest), 100)) == sorted(IDS[:8])


def test_a_device_that_was_erased_and_came_back_is_not_sent_to_twice() -> None:
    table = DeviceTable(LIMITS, KEY)
    register(table, TOGETHER, 100)
    in_order = sorted(TOGETHER)
    ids, left = look(table, Wanted(APP, b"", 100), Stretch(0, b"", SHARDS), 100)
    while not len(ids):
        ids, left = look(table, Wanted(APP, b"", 100), left, 3)
    assert texts(ids)[:3] == in_order[:3]
    erase(table, in_order[0])
    # In the same second, so that nothing but the place tells him from the others.
    register(table, [in_order[0]], 100)
    rest: list[bytes] = []
    while not left.is_through:
        more, left = look(table, Wanted(APP, b"", 100), left, 4)
        rest += texts(more)
    assert texts(ids) + rest == in_order


@pytest.mark.parametrize("step", [1, 2])
def test_a_step_looks_at_no_more_than_its_share(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience_walk, "LOOK_ROWS", 10)
    table = DeviceTable(LIMITS, KEY)
    ids = [device(number) for number in range(300)] + TOGETHER
    register(table, ids, 100)
    sizes = Counter(map(device_shard, ids))
    left, counted = Stretch(0, b"", SHARDS, step), 0
    while not left.is_through:
        before = left
        some, left = count(table, APP, b"", left)
        counted += some.devices
        shards = range(before.first, left.first, step)
        assert 1 <= len(shards) <= 256
        # A shard is looked at whole: those of a hundred million devices have as many as some steps.
        assert len(shards) == 1 or sum(sizes[shard] for shard in shards) <= 10
    assert counted == sum(n for shard, n in sizes.items() if shard % step == 0)
