"""The text that Prometheus scrapes, from the columns of a `MetricSet`.

prometheus-client writes the format; what we bring is a collector, so that no metric object of that library stands on
the hot path. Writing ten thousand lines takes tens of milliseconds: owners call `snapshot()` on the loop (a copy of one
array) and `render()` in a thread.

Source: Prometheus exposition format 0.0.4 and OpenMetrics 1.0, by way of prometheus_client.exposition.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE_OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from gateway.observe.metric_types import F64, OTHER, Histogram, Kind, Label, Metric, MetricSet, known_block


class Page(NamedTuple):
    """What an HTTP answer needs."""

    content_type: str
    body: bytes


class View(NamedTuple):
    """One metric at the moment of the snapshot. labels: name and values of each axis; the last place of the axis of an
    open label is `other`'s, whose name is not among the values."""

    metric: Metric
    labels: tuple[tuple[str, tuple[str, ...]], ...]
    values: F64


class Snapshot(Collector):
    """The values of a moment; immutable, so it may be rendered in a thread."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views

    def collect(self) -> Iterator[Family]:
        for view in self._views:
            yield _family(view)

    def render(self, accept: str = "") -> Page:
        """The page in the format the scraper accepts; OpenMetrics only when it asks for it."""
        registry = CollectorRegistry()
        registry.register(self)
        if "application/openmetrics-text" in accept:
            # the library leaves this one function without types
            return Page(CONTENT_TYPE_OPENMETRICS, generate_openmetrics(registry))  # type: ignore[no-untyped-call]
        return Page(CONTENT_TYPE_LATEST, generate_latest(registry))

    def describe(self) -> Iterator[Family]:
        """Nothing: the names are unique by construction, and collecting twice would cost a page."""
        return iter(())


def snapshot(metrics: MetricSet) -> Snapshot:
    """A copy of all values that have names, and the names of open labels, well under a millisecond."""
    views: list[View] = []
    for metric in metrics.metrics:
        labels = tuple((label.name, tuple(label.values)) for label in metric.labels)
        known = [len(label.values) if label.is_open else None for label in metric.labels]
        views.append(View(metric, labels, known_block(metric.values, known)))
    return Snapshot(views)


def _family(view: View) -> Family:
    metric = view.metric
    name = metric.exported_name
    base = name.removesuffix("_total") if metric.kind is Kind.COUNTER else name
    family = Family(base, metric.help, metric.kind.value)
    for labels, place in _combinations(view):
        if isinstance(metric, Histogram):
            _histogram(family, metric, labels, view.values[place])
        else:
            family.add_sample(name, labels, float(view.values[place]))
    return family


def _combinations(view: View) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Each combination of label values with its place. Names of fixed labels always; of open ones as they were met."""
    axes = [
        _axis(view, axis, label, values)
        for axis, (label, (_, values)) in enumerate(zip(view.metric.labels, view.labels, strict=True))
    ]
    names = [name for name, _ in view.labels]
    for places in itertools.product(*axes):
        yield dict(zip(names, (value for value, _ in places), strict=True)), tuple(place for _, place in places)


def _axis(view: View, axis: int, label: Label, values: tuple[str, ...]) -> list[tuple[str, int]]:
    places = [(value, place) for place, value in enumerate(values) if value]
    last = view.values.shape[axis] - 1
    if label.is_open and view.values.take(last, axis=axis).any():
        places.append((OTHER, last))
    return places


def _histogram(family: Family, metric: Histogram, labels: dict[str, str], cells: F64) -> None:
    name = metric.exported_name
    running = np.cumsum(cells[:-1]).tolist()
    for bound, count in zip((*metric.bounds, float("inf")), running, strict=True):
        shown = "+Inf" if bound == float("inf") else repr(bound)
        family.add_sample(name + "_bucket", {**labels, "le": shown}, count)
    family.add_sample(name + "_count", labels, running[-1])
    family.add_sample(name + "_sum", labels, float(cells[-1]))
