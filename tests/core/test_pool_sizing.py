"""Pool sizing: Little's law against a queue that is simulated one request at a time, and steps that stay in bounds."""

from __future__ import annotations

import heapq
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.pool_sizing import (
    HEAD_ROOM,
    LATENCY_S_START,
    PATIENCE_S,
    Kind,
    Load,
    Step,
    Surplus,
    connections_wanted,
    next_step,
)


@given(
    rate=st.floats(10, 5000),
    latency_s=st.floats(0.01, 2.0),
    seed=st.integers(0, 1 << 32),
    streams=st.integers(1, 2000),
)
def test_load_measures_rate_and_latency_without_timing_a_request(
    rate: float, latency_s: float, seed: int, streams: int
) -> None:
    """Every request is simulated; the plain twin is the truth that was simulated."""
    load = Load(0.0)
    jitter = random.Random(seed)
    burst = max(1, round(rate / 50))
    ends: list[float] = []
    now = 0.0
    while now < max(4.0, 6 * latency_s):
        now += burst / rate
        while ends and ends[0] <= now:
            load.on_ended(1, heapq.heappop(ends))
        load.on_sent(burst, now)
        for _ in range(burst):
            heapq.heappush(ends, now + latency_s * jitter.uniform(0.8, 1.2))
        load.measure(now)
    assert load.in_flight == len(ends)
    assert load.rate_per_s == pytest.approx(rate, rel=0.25, abs=2 * burst)
    assert load.latency_s == pytest.approx(latency_s, rel=0.35)
    wanted = connections_wanted(
        rate_per_s=load.rate_per_s,
        latency_s=load.latency_s,
        in_flight=load.in_flight,
        waiting=0,
        streams=streams,
        rate_per_s_max=math.inf,
    )
    # enough for what is in flight, and not twice as many and one
    assert wanted * streams >= load.rate_per_s * load.latency_s
    assert (wanted - 1) * streams <= load.rate_per_s * load.latency_s * HEAD_ROOM


def test_load_without_answers_believes_in_a_slow_vendor_more_and_more() -> None:
    load = Load(0.0)
    load.on_sent(10, 0.0)
    seen = [LATENCY_S_START]
    for step in range(1, 20):
        load.measure(step * 0.5)
        seen.append(load.latency_s)
    assert seen == sorted(seen)
    assert seen[-1] >= 0.5


@given(
    rate=st.floats(0, 1e6),
    latency_s=st.floats(0, 10),
    in_flight=st.integers(0, 10_000),
    waiting=st.integers(0, 1_000_000),
    streams=st.integers(1, 1000),
    rate_max=st.floats(1, 1e6),
)
def test_wanted_rises_with_the_load_and_is_bounded_by_the_bucket(
    rate: float, latency_s: float, in_flight: int, waiting: int, streams: int, rate_max: float
) -> None:
    def wanted(**more: float) -> int:
        found = {
            "rate_per_s": rate,
            "latency_s": latency_s,
            "in_flight": in_flight,
            "waiting": waiting,
            "streams": streams,
            "rate_per_s_max": rate_max,
        }
        return connections_wanted(**(found | more))  # type: ignore[arg-type]

    assert (wanted() == 0) == (in_flight == 0 and waiting == 0)
    assert wanted(latency_s=latency_s * 2) >= wanted()
    assert wanted(streams=streams * 2) <= wanted()
    if waiting:
        assert wanted(waiting=waiting * 2) >= wanted()
    assert wanted() <= 1 + max(rate, rate_max) * latency_s * HEAD_ROOM / streams


KINDS = st.builds(
    Kind,
    connections=st.integers(0, 8),
    on_the_way=st.integers(0, 2),
    wanted=st.integers(0, 10),
    starved_s=st.sampled_from([0.0, PATIENCE_S / 2, PATIENCE_S, 10.0]),
    most=st.integers(0, 8),
    due=st.integers(0, 8),
)


@given(mine=KINDS, other=KINDS, connections_max=st.integers(1, 8))
def test_a_step_stays_below_every_ceiling_and_needs_a_reason(mine: Kind, other: Kind, connections_max: int) -> None:
    match next_step(mine, other, connections_max):
        case Step.OPEN:
            assert mine.connections + other.connections < connections_max
            assert mine.connections < mine.most
            assert not mine.on_the_way
            assert mine.wanted > mine.connections or mine.starved_s >= PATIENCE_S
        case Step.TAKE_OVER:
            assert mine.connections < mine.most
            assert mine.connections < mine.due or (other.connections > other.wanted and not other.starved_s)
        case Step.NOTHING:
            is_calm = mine.wanted <= mine.connections and mine.starved_s < PATIENCE_S
            is_full = mine.connections + other.connections >= connections_max
            assert is_calm or mine.on_the_way or mine.connections >= mine.most or is_full


@given(
    connections_max=st.integers(2, 8),
    wanted=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40),
)
def test_steps_end_and_give_each_role_what_is_due_to_it(connections_max: int, wanted: list[tuple[int, int]]) -> None:
    """Both roles take steps until none wants to; two starving roles must not take from each other for ever."""
    half = connections_max // 2
    most, due = (connections_max, half), (connections_max - half, half)
    have = [0, 0]
    for pair in wanted:
        for _ in range(4 * connections_max):
            kinds = [
                Kind(have[role], 0, pair[role], 10.0 if pair[role] > have[role] else 0.0, most[role], due[role])
                for role in (0, 1)
            ]
            steps = [next_step(kinds[0], kinds[1], connections_max), next_step(kinds[1], kinds[0], connections_max)]
            if steps == [Step.NOTHING, Step.NOTHING]:
                break
            role = 0 if steps[0] is not Step.NOTHING else 1
            have[role] += 1
            if steps[role] is Step.TAKE_OVER:
                have[1 - role] -= 1
            assert min(have) >= 0
            assert sum(have) <= connections_max
            assert have[1] <= half
        else:
            pytest.fail(f"the roles take from each other for ever: {pair}, {have}")
        for role in (0, 1):
            assert have[role] >= min(pair[role], due[role])


def test_surplus_is_what_was_not_wanted_for_the_whole_time() -> None:
    surplus = Surplus(4, 40.0, 0.0)
    surplus.on_wanted(3, 100.0)
    surplus.on_wanted(1, 120.0)
    assert not surplus.is_surplus(3, 139.0)
    assert surplus.is_surplus(3, 140.0)
    assert not surplus.is_surplus(1, 159.0)
    assert surplus.is_surplus(1, 160.0)
    assert not surplus.is_surplus(0, 1e9)
    surplus.on_wanted(9, 200.0)
    assert not surplus.is_surplus(4, 239.0)
