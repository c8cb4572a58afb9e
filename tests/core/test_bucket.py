"""TokenBucket against exact fractions, and the promises that callers build on."""

from __future__ import annotations

import math
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.core.bucket import TokenBucket


class PlainBucket:
    """The same in exact arithmetic."""

    def __init__(self, rate, burst, now):
        self.rate, self.burst, self.level, self.at = Fraction(rate), burst, Fraction(burst), Fraction(now)

    def settle(self, now):
        self.level = min(self.level + max(Fraction(now) - self.at, 0) * self.rate, Fraction(self.burst))
        self.at = Fraction(now)

    def take(self, now, wanted):
        self.settle(now)
        granted = min(wanted, math.floor(self.level))
        self.level -= granted
        return granted

    def give_back(self, count):
        self.level = min(self.level + count, Fraction(self.burst))

    def set_rate(self, now, rate, burst):
        self.settle(now)
        self.rate, self.burst = Fraction(rate), burst
        self.level = min(self.level, Fraction(burst))


# Steps of 1/64 s and whole rates are exact in floats, so the twins must agree to the row.
step_s = st.integers(-200, 2_000).map(lambda n: n / 64)
rates = st.integers(0, 5_000)
bursts = st.integers(1, 10_000)
actions = st.one_of(
    st.tuples(st.just("take"), step_s, st.integers(0, 20_000)),
    st.tuples(st.just("give_back"), st.integers(0, 100)),
    st.tuples(st.just("set_rate"), step_s, rates, bursts),
)


@given(rates, bursts, st.lists(actions, max_size=40))
def test_bucket_agrees_with_exact_arithmetic(rate, burst, steps):
    now = 1000.0
    bucket, plain = TokenBucket(rate, burst, now=now), PlainBucket(rate, burst, now)
    for name, *arguments in steps:
        if name != "give_back":
            now += arguments[0]
            arguments[0] = now
        assert getattr(bucket, name)(*arguments) == getattr(plain, name)(*arguments)
        assert bucket.statistics().level == plain.level >= 0


@given(
    st.floats(0.001, 1e6),
    bursts,
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 20_000)), min_size=1, max_size=40),
)
def test_bucket_never_lets_more_through_than_burst_and_rate(rate, burst, steps):
    now = start = 12_345.678
    bucket = TokenBucket(rate, burst, now=now)
    total = 0
    for wait, wanted in steps:
        now += wait
        granted = bucket.take(now, wanted)
        assert 0 <= granted <= wanted
        total += granted
        assert total <= burst + rate * (now - start) * (1 + 1e-9) + 1e-6
        assert bucket.statistics().level >= 0
    assert bucket.statistics().taken == total


@given(st.floats(0.001, 1e6), bursts, st.integers(0, 20_000), st.integers(1, 20_000), st.floats(0, 1e7))
def test_next_deadline_is_when_so_many_rows_may_go_and_not_long_before(rate, burst, first, wanted, now):
    bucket = TokenBucket(rate, burst, now=now)
    bucket.take(now, first)
    deadline = bucket.next_deadline(wanted)
    goal = min(wanted, burst)
    early = TokenBucket(rate, burst, now=now)
    early.take(now, first)
    if deadline > now:
        assert early.take(now + (deadline - now) * 0.9 - 1e-6, goal) < goal
    assert bucket.take(deadline, goal) == goal


def test_a_clock_that_steps_back_earns_nothing_and_does_not_stop_the_lane():
    bucket = TokenBucket(10, 10, now=1000.0)
    assert bucket.take(1000.0, 10) == 10
    assert bucket.take(400.0, 10) == 0
    assert bucket.take(400.5, 10) == 5


def test_a_rate_of_zero_gives_the_burst_and_no_deadline():
    bucket = TokenBucket(0, 3, now=0.0)
    assert bucket.next_deadline(3) == 0.0
    assert bucket.take(5.0, 10) == 3
    assert bucket.next_deadline() is None
    assert bucket.take(1e9, 1) == 0


def test_an_infinite_rate_gives_everything_and_can_be_bounded_later():
    bucket = TokenBucket(math.inf, 1, now=0.0)
    assert bucket.take(0.0, 1_000_000) == 1_000_000
    assert bucket.next_deadline(7) == 0.0
    bucket.give_back(5)
    assert bucket.statistics().taken == 999_995
    bucket.set_rate(1.0, 2, 4)
    assert bucket.take(1.0, 100) <= 4
    assert bucket.take(2.0, 100) == 2


def test_give_back_never_passes_the_burst():
    bucket = TokenBucket(1, 5, now=0.0)
    bucket.give_back(100)
    assert bucket.take(0.0, 100) == 5


@pytest.mark.parametrize(("rate", "burst"), [(-1, 1), (math.nan, 1), (1, 0)])
def test_bucket_refuses_senseless_limits_and_keeps_the_old(rate, burst):
    with pytest.raises(ValueError, match="expected"):
        TokenBucket(rate, burst, now=0.0)
    bucket = TokenBucket(2, 3, now=0.0)
    with pytest.raises(ValueError, match="expected"):
        bucket.set_rate(1.0, rate, burst)
    assert bucket.statistics()[:2] == (2, 3)
