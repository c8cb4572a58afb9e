"""The rates of devices against a bucket kept by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.uplink_rates import RateKind, UplinkRates


class Bucket:
    """The plain twin: `limit` tokens per `window` seconds, a window's worth at most."""

    def __init__(self, limit: int, window_s: float) -> None:
        self.interval_s = window_s / limit
        self.window_s = window_s
        self.used_up_at = 0.0

    def take(self, now: float) -> bool:
        due = max(self.used_up_at, now) + self.interval_s
        if due - now > self.window_s + 1e-9:
            return False
        self.used_up_at = due
        return True


@given(
    st.sampled_from([1, 2, 60, 120]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3_000)), max_size=200),
)
def test_rates_are_those_of_a_bucket_per_device(limit: int, steps: list[tuple[int, int]]) -> None:
    rates = UplinkRates(3, events_per_minute=limit, changes_per_hour=1, now=7.0)
    buckets = [Bucket(limit, 60.0) for _ in range(4)]
    now = 0.0
    for slot, passed_ms in steps:
        now += round(passed_ms / 10) / 100
        assert rates.take(RateKind.EVENTS, slot, 7.0 + now + 1e-6) == buckets[slot].take(now)


def test_changes_are_counted_by_themselves_and_a_refusal_costs_nothing() -> None:
    rates = UplinkRates(1, events_per_minute=2, changes_per_hour=1, now=0.0)
    assert [rates.take(RateKind.EVENTS, 1, 0.0) for _ in range(4)] == [True, True, False, False]
    assert [rates.take(RateKind.CHANGES, 1, 0.0) for _ in range(2)] == [True, False]
    assert rates.take(RateKind.EVENTS, 0, 0.0)
    assert [rates.take(RateKind.EVENTS, 1, 30.0) for _ in range(2)] == [True, False]
    assert rates.take(RateKind.CHANGES, 1, 3_600.0)
