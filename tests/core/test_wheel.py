"""TimingWheel against a sorted list."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.wheel import TimingWheel
from gateway.errors import Overloaded

DAY_S = 86_400.0
#: Near, a few rounds away, and the forty days of the longest TTL.
waits = st.one_of(st.floats(-5, 3), st.floats(0, 200), st.floats(0, 40 * DAY_S))


class WheelMachine(RuleBasedStateMachine):
    """The model: a list of (deadline, number); what is due is what has a deadline up to now, a tick later at most."""

    TICK_S = 0.1

    def __init__(self):
        super().__init__()
        self.now = 1234.5
        self.wheel = TimingWheel(tick_s=self.TICK_S, slots=16, now=self.now, items_max=1000)
        self.waiting: dict[int, tuple[float, object]] = {}
        self.gone = []
        self.number = 0

    @rule(wait=waits)
    def add(self, wait):
        deadline = self.now + wait
        timer = self.wheel.add(deadline, self.number)
        # A deadline in the past counts as the next tick.
        self.waiting[self.number] = (max(deadline, self.now), timer)
        self.number += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        _, timer = self.waiting.pop(number)
        assert self.wheel.cancel(timer) == number
        self.gone.append(timer)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def cancel_what_is_gone(self, data):
        assert self.wheel.cancel(data.draw(st.sampled_from(self.gone))) is None

    @rule(step=st.one_of(st.floats(0, 3), st.floats(0, 100), st.floats(0, 41 * DAY_S), st.floats(-10, 0)))
    def expire(self, step):
        self._expire(self.now + step)

    @rule()
    def expire_at_the_next_deadline(self):
        deadline = self.wheel.next_deadline()
        if deadline is not None and deadline >= self.now:
            self._expire(deadline)

    def _expire(self, now):
        due = self.wheel.expire(now)
        self.now = max(self.now, now)
        assert len(due) == len(set(due))
        ticks = []
        for number in due:
            deadline, timer = self.waiting.pop(number)
            assert deadline <= now
            ticks.append((timer.tick, number))
            self.gone.append(timer)
        assert ticks == sorted(ticks)
        for deadline, _ in self.waiting.values():
            assert deadline > self.now - 2 * self.TICK_S

    @invariant()
    def counts_and_next_deadline_agree(self):
        assert len(self.wheel) == len(self.waiting)
        statistics = self.wheel.statistics()
        assert statistics.added == statistics.items + statistics.expired + statistics.cancelled
        deadline = self.wheel.next_deadline()
        if not self.waiting:
            assert deadline is None
        else:
            assert deadline <= min(deadline for deadline, _ in self.waiting.values()) + 2 * self.TICK_S


TestWheelMachine = WheelMachine.TestCase


@given(st.lists(st.floats(0, 40 * DAY_S), max_size=60), st.floats(0.001, 3), st.integers(1, 300))
def test_following_next_deadline_expires_everything_in_order_and_in_time(deadlines, tick_s, slots):
    wheel: TimingWheel[float] = TimingWheel(tick_s=tick_s, slots=slots, now=0.0, items_max=1000)
    for deadline in deadlines:
        wheel.add(deadline, deadline)
    seen = []
    while (now := wheel.next_deadline()) is not None:
        due = wheel.expire(now)
        # Without a cancel a deadline is never a false alarm.
        assert due
        assert all(now - 2 * tick_s <= deadline <= now for deadline in due)
        seen += due
    assert sorted(seen) == sorted(deadlines)


def test_a_jump_of_forty_days_costs_what_is_due_and_not_what_is_skipped():
    wheel: TimingWheel[int] = TimingWheel(tick_s=0.001, slots=64, now=0.0, items_max=10)
    wheel.add(40 * DAY_S, 1)
    wheel.add(39 * DAY_S, 0)
    # 3.5 billion ticks: this test would not end if they were walked.
    assert wheel.expire(40 * DAY_S + 1) == [0, 1]
    assert wheel.next_deadline() is None


@pytest.mark.parametrize("tick_s", [0.1, 0.05, 0.3, 1 / 3, 0.7])
def test_every_tick_fires_at_the_very_time_it_names(tick_s):
    # k * tick_s / tick_s is a hair below k for some k: the wheel would answer its own deadline with nothing.
    wheel: TimingWheel[int] = TimingWheel(tick_s=tick_s, slots=64, now=0.0, items_max=3000)
    for tick in range(1, 3000):
        wheel.add(tick * tick_s, tick)
    for tick in range(1, 3000):
        assert wheel.next_deadline() == tick * tick_s
        assert wheel.expire(tick * tick_s) == [tick]


def test_a_clock_that_steps_back_changes_nothing():
    wheel: TimingWheel[str] = TimingWheel(tick_s=1.0, slots=8, now=100.0, items_max=10)
    wheel.add(105.0, "a")
    assert wheel.expire(50.0) == []
    assert wheel.next_deadline() == 105.0
    assert wheel.expire(105.0) == ["a"]


def test_a_full_wheel_says_which_limit():
    wheel: TimingWheel[int] = TimingWheel(tick_s=1.0, slots=8, now=0.0, items_max=2)
    timer = wheel.add(1.0, 1)
    wheel.add(9.0, 2)
    with pytest.raises(Overloaded, match="wheel_items_max is 2, limit 2"):
        wheel.add(1.0, 3)
    assert wheel.cancel(timer) == 1
    wheel.add(1.0, 3)
    assert wheel.expire(10.0) == [3, 2]


def test_rounds_emptied_by_cancel_leave_nothing_behind():
    wheel: TimingWheel[int] = TimingWheel(tick_s=1.0, slots=4, now=0.0, items_max=10)
    for _ in range(100):
        assert wheel.cancel(wheel.add(1000.0, 7)) == 7
    assert wheel.statistics().far_rounds == 1
    assert wheel.next_deadline() is None
    assert wheel.statistics().far_rounds == 0


def test_items_that_are_none_can_be_cancelled_once():
    wheel: TimingWheel[None] = TimingWheel(tick_s=1.0, slots=4, now=0.0, items_max=10)
    timer = wheel.add(2.0, None)
    wheel.cancel(timer)
    assert len(wheel) == 0
    wheel.cancel(timer)
    assert len(wheel) == 0


@pytest.mark.parametrize(("tick_s", "slots"), [(0, 8), (-1, 8), (float("nan"), 8), (1, 0)])
def test_wheel_refuses_senseless_sizes(tick_s, slots):
    with pytest.raises(ValueError, match="expected both to be positive"):
        TimingWheel(tick_s=tick_s, slots=slots, now=0.0, items_max=1)
