"""Metrics of several workers: one page by name, counters that outlive their process, gauges that do not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.metric_types import MetricSet, counter, gauge, histogram, open_label
from gateway.observe.shared import SharedColumns, make_memory, merge

NAMES_MAX = 3


class Sample(MetricSet):
    plain = counter("things", "Without labels")
    by_name = counter("things", "An open label", shape=("round", "square"), name=open_label())
    level = gauge("things", "A gauge", name=open_label())
    highest = gauge("things", "The largest counts", "max")
    lowest = gauge("things", "The smallest counts", "min")
    wait_s = histogram("seconds", "A histogram", (0.1, 1.0), name=open_label())


class Memory:
    """Descriptors of some workers, and their columns as any process maps them."""

    def __init__(self, workers: int) -> None:
        self.fds = [make_memory(Sample, label_values_max=NAMES_MAX, apps=2) for _ in range(workers)]

    def columns(self, worker: int) -> SharedColumns:
        return SharedColumns(self.fds[worker], Sample, label_values_max=NAMES_MAX, apps=2)

    def start(self, worker: int, incarnation: int = 1) -> Sample:
        opened = self.columns(worker).open(incarnation)
        assert isinstance(opened, Sample)
        return opened

    def page(self) -> dict[str, float]:
        sample = Sample(label_values_max=NAMES_MAX)
        copies = [self.columns(worker).copy() for worker in range(len(self.fds))]
        text = merge(sample, copies).render().body.decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory(2)
    yield made
    for fd in made.fds:
        os.close(fd)


def test_labels_of_two_workers_are_brought_together_by_name(memory: Memory) -> None:
    first, second = memory.start(0), memory.start(1)
    first.by_name.add(1, "round", "shop")
    first.by_name.add(2, "round", "bank")
    second.by_name.add(10, "round", "bank")
    second.by_name.add(20, "square", "taxi")
    page = memory.page()
    assert page['pushgw_by_name_total{name="shop",shape="round"}'] == 1
    assert page['pushgw_by_name_total{name="bank",shape="round"}'] == 12
    assert page['pushgw_by_name_total{name="taxi",shape="square"}'] == 20


def test_counters_of_a_worker_go_on_after_its_restart_and_its_gauges_do_not(memory: Memory) -> None:
    first = memory.start(0)
    first.plain.add(5)
    first.by_name.add(3, "round", "shop")
    first.level.set(7, "x")
    first.wait_s.observe(0.05, "x")
    memory.columns(0).died()
    page = memory.page()
    assert page["pushgw_plain_total"] == 5
    assert page['pushgw_by_name_total{name="shop",shape="round"}'] == 3
    assert page['pushgw_wait_seconds_count{name="x"}'] == 1
    assert 'pushgw_level{name="x"}' not in page
    again = memory.start(0, incarnation=2)
    again.plain.add(1)
    again.by_name.add(1, "round", "bank")
    again.by_name.add(1, "round", "shop")
    page = memory.page()
    assert page["pushgw_plain_total"] == 6
    assert page['pushgw_by_name_total{name="shop",shape="round"}'] == 4
    assert page['pushgw_by_name_total{name="bank",shape="round"}'] == 1
    assert page['pushgw_level{name="x"}'] == 0


def test_gauges_of_living_workers_become_what_the_table_says(memory: Memory) -> None:
    first, second = memory.start(0), memory.start(1)
    for metrics, value in ((first, 3), (second, 5)):
        metrics.level.set(value, "x")
        metrics.highest.set(value)
        metrics.lowest.set(value)
    page = memory.page()
    assert (page['pushgw_level{name="x"}'], page["pushgw_highest"], page["pushgw_lowest"]) == (8, 5, 3)
    memory.columns(0).died()
    page = memory.page()
    assert (page['pushgw_level{name="x"}'], page["pushgw_highest"], page["pushgw_lowest"]) == (5, 5, 5)


def test_who_is_no_worker_counts_in_sums_and_its_unset_gauges_are_not_the_smallest(memory: Memory) -> None:
    """The supervisor keeps no credential and no request ids: with its zeros one would seem to have expired."""
    first, supervisor = memory.start(0), memory.start(1)
    for metrics, value in ((first, 3), (supervisor, 0)):
        metrics.level.set(value + 1, "x")
        metrics.plain.add(1)
        metrics.lowest.set(value)
    copies = [memory.columns(number).copy() for number in range(2)]
    text = merge(Sample(label_values_max=NAMES_MAX), copies[:1], copies[1:]).render().body.decode()
    assert {"pushgw_lowest 3.0", "pushgw_plain_total 2.0", 'pushgw_level{name="x"} 5.0'} <= set(text.splitlines())


def test_values_beyond_their_number_share_other_in_the_merged_page(memory: Memory) -> None:
    first, second = memory.start(0), memory.start(1)
    for name in ("a", "b", "c", "d", "e"):
        first.by_name.add(1, "round", name)
    second.by_name.add(1, "round", "e")
    page = memory.page()
    assert page['pushgw_by_name_total{name="other",shape="round"}'] == 2
    assert page['pushgw_by_name_total{name="e",shape="round"}'] == 1


def test_name_that_is_too_long_for_its_place_shares_other(memory: Memory) -> None:
    first = memory.start(0)
    first.by_name.add(1, "round", "x" * 300)
    assert memory.page()['pushgw_by_name_total{name="other",shape="round"}'] == 1


def test_values_without_a_name_are_not_looked_at(memory: Memory) -> None:
    """What is not touched takes no memory: most of the table of a worker is room for names that never come."""
    fd = make_memory(Sample, label_values_max=100_000, apps=1)
    try:
        columns = SharedColumns(fd, Sample, label_values_max=100_000, apps=1)
        metrics = columns.open(1)
        assert isinstance(metrics, Sample)
        metrics.by_name.add(1, "round", "shop")
        metrics.level.set(3, "shop")
        copied = columns.copy()
        columns.start_over("highest")
        assert os.fstat(fd).st_blocks * 512 < os.fstat(fd).st_size / 50
    finally:
        os.close(fd)
    assert [block.shape for block in copied.blocks] == [(2, 2), (), (2,), (), (), (1, 4)]
    assert [copied.blocks[0].tolist(), copied.blocks[2].tolist()] == [[[1, 0], [0, 0]], [3, 0]]


def test_maximum_since_the_last_scrape_starts_over_in_the_memory_of_each(memory: Memory) -> None:
    first = memory.start(0)
    first.highest.set(9)
    memory.columns(0).start_over("highest")
    assert first.highest.value() == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["round", "square"]), st.sampled_from("abcde"), st.integers(1, 9)),
        max_size=30,
    )
)
def test_merged_counter_equals_the_sum_of_what_was_added(adds: list[tuple[int, str, str, int]]) -> None:
    """The twin: a dictionary. Which names share `other` depends on the worker; the sum does not."""
    memory = Memory(2)
    try:
        workers = [memory.start(0), memory.start(1)]
        known: list[dict[str, None]] = [{}, {}]
        expected: dict[tuple[str, str], int] = {}
        for worker, shape, name, n in adds:
            workers[worker].by_name.add(n, shape, name)
            if name not in known[worker] and len(known[worker]) < NAMES_MAX:
                known[worker][name] = None
            shown = name if name in known[worker] else "other"
            expected[shown, shape] = expected.get((shown, shape), 0) + n
        page = memory.page()
        found = {key: value for key, value in page.items() if key.startswith("pushgw_by_name_total") and value}
        assert found == {
            f'pushgw_by_name_total{{name="{name}",shape="{shape}"}}': n for (name, shape), n in expected.items()
        }
    finally:
        for fd in memory.fds:
            os.close(fd)
