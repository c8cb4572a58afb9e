"""latency.py: several tasks' percentiles put together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.demo.latency import Measured, percentile

times = st.lists(st.floats(0.1, 1e4), min_size=3, max_size=3).map(sorted)
tasks = st.builds(
    lambda n, points, delay: Measured(n, *points, delay_ms=delay), st.integers(1, 1000), times, st.floats(0, 500)
)


@given(tasks)
def test_one_task_keeps_its_own_percentiles(task: Measured) -> None:
    assert percentile([task], 0.5) == pytest.approx(task.p50 + task.delay_ms, abs=0.01)
    assert percentile([task], 0.99) == pytest.approx(task.p99 + task.delay_ms, abs=0.01)


@given(st.lists(tasks, min_size=1, max_size=5))
def test_a_percentile_lies_between_those_of_the_tasks(several: list[Measured]) -> None:
    for share, own in ((0.5, lambda one: one.p50), (0.99, lambda one: one.p99)):
        ends = [own(one) + one.delay_ms for one in several]
        found = percentile(several, share)
        assert found is not None
        assert min(ends) - 0.01 <= found <= max(ends) + 0.01


@given(tasks, st.integers(2, 4))
def test_equal_tasks_together_are_like_one(task: Measured, n: int) -> None:
    assert percentile([task] * n, 0.99) == pytest.approx(percentile([task], 0.99), abs=0.01)


def test_the_larger_task_weighs_more() -> None:
    fast, slow = Measured(990, 1.0, 2.0, 3.0), Measured(10, 100.0, 200.0, 300.0)
    median, high = percentile([fast, slow], 0.5), percentile([fast, slow], 0.999)
    assert median is not None
    assert median < 2.0
    assert high is not None
    assert high > 100.0


def test_without_rows_there_is_no_percentile() -> None:
    assert percentile([], 0.5) is None
    assert percentile([Measured(0, 0.0, 0.0, 0.0)], 0.99) is None
