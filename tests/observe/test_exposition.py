"""The scraped text, read back by prometheus-client's own parsers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.ledger import State
from gateway.observe.exposition import Page, snapshot
from gateway.observe.metric_types import OTHER
from gateway.observe.metrics import Metrics
from gateway.observe.process import read_process, record_process
from gateway.observe.scrape import Scrape

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(page: Page) -> Samples:
    text = page.body.decode()
    families = parse_openmetrics(text) if "openmetrics" in page.content_type else parse_text(text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"])
def test_page_is_read_back_with_the_values_counted(accept: str) -> None:
    metrics = Metrics()
    metrics.row_moves.add(7, "apns", State.IN_FLIGHT)
    metrics.rows_accepted.add(5, 'a "quoted"\nname\\')
    metrics.lane_rows.set(3, "fcm", "marketing")
    metrics.delivery_s.observe_many([0.01, 0.02, 1000.0], "long_link")
    read = samples(snapshot(metrics).render(accept))
    assert read["pushgw_row_moves_total", (("channel", "apns"), ("state", "in_flight"))] == 7
    assert read["pushgw_rows_accepted_total", (("app", 'a "quoted"\nname\\'),)] == 5
    assert read["pushgw_lane_rows", (("message_class", "marketing"), ("vendor", "fcm"))] == 3
    assert read["pushgw_delivery_seconds_count", (("channel", "long_link"),)] == 3
    assert read["pushgw_delivery_seconds_sum", (("channel", "long_link"),)] == pytest.approx(1000.03)
    assert read["pushgw_delivery_seconds_bucket", (("channel", "long_link"), ("le", "+Inf"))] == 3


def test_buckets_are_cumulative() -> None:
    metrics = Metrics()
    metrics.loop_lag_s.observe_many([0.00001, 0.0005, 0.5])
    read = samples(snapshot(metrics).render())
    buckets = sorted(
        (float(dict(labels)["le"]), value)
        for (name, labels), value in read.items()
        if name == "pushgw_loop_lag_seconds_bucket"
    )
    counts = [value for _, value in buckets]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == 3


def test_fixed_labels_are_exported_as_zero_from_the_start_and_open_ones_as_they_are_met() -> None:
    metrics = Metrics()
    read = samples(snapshot(metrics).render())
    assert read["pushgw_verdicts_total", (("vendor", "apns"), ("verdict", "uncertain"))] == 0
    assert not any(name == "pushgw_refusals_total" for name, _ in read)
    metrics.refusals.add(1, "rpc.connections_max")
    assert ("pushgw_refusals_total", (("name", "rpc.connections_max"),)) in samples(snapshot(metrics).render())


def test_numbers_that_no_enum_member_has_are_not_exported() -> None:
    read = samples(snapshot(Metrics()).render())
    reasons = {dict(labels)["reason"] for name, labels in read if name == "pushgw_row_reasons_total"}
    assert "" not in reasons
    assert {"none", "token_dead", "stopped"} <= reasons


def test_other_is_exported_once_it_was_used() -> None:
    metrics = Metrics(label_values_max=1)
    for name in ("first", "second"):
        metrics.refusals.add(1, name)
    read = samples(snapshot(metrics).render())
    assert read["pushgw_refusals_total", (("name", OTHER),)] == 1


def test_snapshot_keeps_the_values_of_its_moment() -> None:
    metrics = Metrics()
    moment = snapshot(metrics)
    metrics.rows_duplicate.add(1)
    metrics.refusals.add(1, "late")
    read = samples(moment.render())
    assert read["pushgw_rows_duplicate_total", ()] == 0
    assert not any(name == "pushgw_refusals_total" for name, _ in read)


def test_process_figures_are_those_of_a_living_process() -> None:
    figures = read_process()
    assert figures.memory_bytes > 1 << 20
    assert figures.open_files >= 3
    assert 0 < figures.cpu_s < time.time()


def test_cpu_time_never_falls() -> None:
    metrics = Metrics()
    figures = read_process()
    record_process(metrics, figures)
    record_process(metrics, figures._replace(cpu_s=figures.cpu_s - 0.001))
    assert metrics.cpu_s.value() == figures.cpu_s


async def test_scrape_refreshes_gauges_and_starts_maxima_over() -> None:
    metrics = Metrics()
    metrics.longest_step_s.set(0.25)
    metrics.longest_lag_s.set(0.5)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    def refresh() -> Iterator[None]:
        before = turns
        yield
        yield
        # Others had a turn between two parts.
        metrics.inbox_rows.set(42 if turns > before else 0)

    scrape = Scrape(metrics, refresh)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        await scrape.refresh()
        nursery.cancel_scope.cancel()
    scrape = Scrape(metrics)
    first = samples(await scrape.page())
    assert first["pushgw_inbox_rows", ()] == 42
    assert first["pushgw_longest_step_seconds", ()] == 0.25
    assert first["pushgw_memory_bytes", ()] > 0
    second = samples(await scrape.page())
    assert second["pushgw_longest_step_seconds", ()] == 0
    assert second["pushgw_longest_lag_seconds", ()] == 0
