"""Restarts: the wait doubles, crashes long ago are forgotten, ten within a minute are the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.restarts import BACKOFF_FIRST_S, BACKOFF_MAX_S, CRASHES_MAX, WINDOW_S, Restarts


def test_wait_doubles_up_to_its_limit() -> None:
    restarts = Restarts()
    waits = [restarts.on_crash(float(at)) for at in range(CRASHES_MAX)]
    assert waits[:3] == [BACKOFF_FIRST_S, 2 * BACKOFF_FIRST_S, 4 * BACKOFF_FIRST_S]
    assert waits[-1] == BACKOFF_MAX_S
    assert restarts.is_over


def test_crash_that_is_long_ago_counts_no_more() -> None:
    restarts = Restarts()
    for at in range(CRASHES_MAX - 1):
        restarts.on_crash(float(at))
    assert restarts.on_crash(2 * WINDOW_S) == BACKOFF_FIRST_S
    assert not restarts.is_over


@given(st.lists(st.floats(0, 30), min_size=1, max_size=40))
def test_end_comes_exactly_when_a_window_holds_too_many(gaps: list[float]) -> None:
    restarts, now, times = Restarts(), 0.0, []
    for gap in gaps:
        now += gap
        times.append(now)
        restarts.on_crash(now)
        assert restarts.is_over == (sum(now - at < WINDOW_S for at in times) >= CRASHES_MAX)
