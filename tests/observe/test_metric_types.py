"""Counters, gauges and histograms: columns that count right, bounded label values, plain twins."""

from __future__ import annotations

import enum
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.metric_types import (
    OTHER,
    MetricSet,
    counter,
    gauge,
    histogram,
    log_bounds,
    open_label,
)


class Colour(enum.IntEnum):
    RED = 0
    GREEN = 1
    BLUE = 4


class Sample(MetricSet):
    plain = counter("things", "Without labels")
    by_colour = counter("things", "Two fixed labels", shape=("round", "square"), colour=Colour)
    by_name = counter("things", "An open label", name=open_label())
    level = gauge("things", "A gauge", shape=("round", "square"))
    wait_s = histogram("seconds", "A histogram", (0.1, 1.0, 10.0), shape=("round", "square"))


def test_counter_adds_by_name_by_position_and_by_enum() -> None:
    metrics = Sample()
    metrics.plain.add()
    metrics.plain.add(2)
    metrics.by_colour.add(3, "square", "green")
    metrics.by_colour.add(4, 1, Colour.GREEN)
    assert metrics.plain.value() == 3
    assert metrics.by_colour.value("square", Colour.GREEN) == 7
    assert metrics.by_colour.total() == 7


def test_cell_shares_its_memory_with_the_metric() -> None:
    metrics = Sample()
    cell = metrics.by_colour.cell("square", "blue")
    cell.add(2)
    metrics.by_colour.add(1, "square", "blue")
    assert cell.value == metrics.by_colour.value("square", "blue") == 3
    metrics.level.cell("round").set(9)
    assert metrics.level.value("round") == 9
    assert metrics.plain.cell().value == 0


def test_wrong_number_of_labels_is_refused() -> None:
    metrics = Sample()
    with pytest.raises(TypeError, match="by_colour has 2 labels, 1 given"):
        metrics.by_colour.add(1, "round")


def test_unknown_name_of_a_fixed_label_is_refused() -> None:
    with pytest.raises(KeyError, match="no value of label colour"):
        Sample().by_colour.add(1, "round", "mauve")


def test_gauge_keeps_the_largest_when_told_so() -> None:
    metrics = Sample()
    for value in (1.0, 5.0, 3.0):
        metrics.level.raise_to(value, "round")
    assert metrics.level.value("round") == 5.0
    metrics.level.set(0.0, "round")
    assert metrics.level.value("round") == 0.0


def test_open_label_puts_what_is_too_many_under_other() -> None:
    metrics = Sample(label_values_max=2)
    for name in ("a", "b", "c", "d", "a", OTHER):
        metrics.by_name.add(1, name)
    assert metrics.by_name.labels[0].values == ["a", "b"]
    assert [metrics.by_name.value(name) for name in ("a", "b", OTHER)] == [2, 1, 3]


@given(st.lists(st.text(max_size=3)), st.integers(1, 5))
def test_open_label_loses_no_count_whatever_its_values(names: list[str], limit: int) -> None:
    metrics = Sample(label_values_max=limit)
    for name in names:
        metrics.by_name.add(1, name)
    assert metrics.by_name.total() == len(names)
    assert len(metrics.by_name.labels[0].values) <= limit


def test_two_sets_share_nothing() -> None:
    first, second = Sample(), Sample()
    first.by_name.add(1, "x")
    first.plain.add()
    assert second.array.sum() == 0
    assert second.by_name.labels[0].values == []
    assert Sample.plain.values.sum() == 0


def test_set_lives_in_the_array_it_is_given() -> None:
    size = len(Sample().array)
    array = np.zeros(size)
    metrics = Sample(array=array)
    metrics.wait_s.observe(0.5, "round")
    metrics.by_colour.add(2, "round", "red")
    assert array.sum() == 2 + 1 + 0.5
    with pytest.raises(ValueError, match=f"the metrics need {size}"):
        Sample(array=np.zeros(size - 1))


def test_arrays_of_two_workers_add_up() -> None:
    workers = [Sample(), Sample()]
    for worker in workers:
        worker.by_colour.add(2, "round", "red")
    both = Sample(array=workers[0].array + workers[1].array)
    assert both.by_colour.value("round", "red") == 4


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (0.1, 0), (0.1000001, 1), (1.0, 1), (10.0, 2), (11.0, 3)])
def test_histogram_bucket_holds_values_up_to_its_bound(value: float, bucket: int) -> None:
    metrics = Sample()
    metrics.wait_s.observe(value, "round")
    cells = metrics.wait_s.values[0]
    assert cells[bucket] == 1
    assert cells[:-1].sum() == 1
    assert cells[-1] == value


@given(st.lists(st.tuples(st.floats(0, 1000), st.integers(0, 5)), max_size=30))
def test_histogram_of_many_equals_one_at_a_time(rows: list[tuple[float, int]]) -> None:
    many, one = Sample(), Sample()
    values = [value for value, _ in rows]
    weights = [weight for _, weight in rows]
    many.wait_s.observe_many(values, "square", weights=weights)
    many.wait_s.observe_many(values, "round")
    for value, weight in rows:
        one.wait_s.observe(value, "square", weight=weight)
        one.wait_s.observe(value, "round")
    np.testing.assert_allclose(many.wait_s.values, one.wait_s.values)
    assert many.wait_s.count("round") == len(rows)


def test_histogram_quantile_is_the_bound_above_the_share() -> None:
    wait = Sample().wait_s
    assert math.isnan(wait.quantile(0.5, "round"))
    wait.observe_many([0.05] * 98 + [0.5, 100.0], "round")
    assert wait.quantile(0.5, "round") == 0.1
    assert wait.quantile(0.99, "round") == 1.0
    assert wait.quantile(1.0, "round") == math.inf


def test_log_bounds_cover_the_range_and_rise() -> None:
    bounds = log_bounds(1e-4, 100.0, 5)
    assert bounds[0] == 1e-4
    assert bounds[-1] == 100.0
    assert len(bounds) == 6 * 5 + 1
    assert list(bounds) == sorted(set(bounds))


def test_exported_name_writes_units_out() -> None:
    metrics = Sample()
    assert metrics.wait_s.exported_name == "pushgw_wait_seconds"
    assert metrics.plain.exported_name == "pushgw_plain_total"
    assert metrics.level.exported_name == "pushgw_level"


def test_counter_follows_a_count_that_begins_anew() -> None:
    metrics = Sample()
    for total in (5, 8, 8, 2, 3):
        metrics.by_name.follow(total, "x")
    assert metrics.by_name.value("x") == 8 + 3
    assert metrics.by_name.followed("x") == 3


def test_counter_that_follows_nothing_is_known_at_zero() -> None:
    metrics = Sample()
    metrics.by_name.follow(0, "x")
    assert metrics.by_name.labels[0].values == ["x"]
