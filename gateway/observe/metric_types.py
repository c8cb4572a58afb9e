"""Counters, gauges and histograms over numpy columns.

One metric is a small array with one axis per label. An increment is an index and an addition; a burst adds a whole
column of counts with one call, so the hot path pays per burst and not per row. All values of a `MetricSet` live in one
flat float64 array (exact for whole numbers up to 2**53), so that it can be placed in shared memory and the sets of
several workers can be added up.

    class Metrics(MetricSet):
        frames = counter("frames", "Frames received", listener=LISTENERS)      # one line per metric

    metrics = Metrics()
    metrics.frames.add(3, "rpc")                # by label name
    cell = metrics.frames.cell("rpc")           # resolved once ...
    cell.add(3)                                 # ... for hot places

Labels are fixed (an enum or a tuple of names: every combination is exported as zero from the start) or `open_label()`
(values appear as they are met; at most `label_values_max`, all further ones share `other`).
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

F64: TypeAlias = npt.NDArray[np.float64]
#: A label's value: its name, or its position (an IntEnum member counts as its position).
LabelValue: TypeAlias = str | int
#: What a fixed label is declared with.
LabelNames: TypeAlias = Sequence[str] | type[enum.Enum]
OTHER = "other"
#: How the values that several workers have for one gauge become one.
Merge: TypeAlias = Literal["sum", "max", "min"]
#: Different values of an open label unless the set is made with another limit (config: observe.label_values_max).
LABEL_VALUES_MAX = 64


class Kind(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Label:
    """One axis of a metric: a name and its values. Values are only ever appended."""

    __slots__ = ("_index", "is_open", "keep", "name", "values", "values_max")

    def __init__(self, name: str, values: Sequence[str], *, is_open: bool, values_max: int) -> None:
        self.name = name
        self.is_open = is_open
        self.values_max = values_max
        self.values = list(values)
        self._index = {value: index for index, value in enumerate(self.values)}
        self.keep: Callable[[str], bool] = lambda value: True
        """Asked for each new value of an open label: whether there is a place for its name (observe/shared.py)."""

    def restore(self, values: Sequence[str]) -> None:
        """An open label has these values, in this order: those that its cells were written under."""
        self.values = list(values)
        self._index = {value: index for index, value in enumerate(self.values)}

    @property
    def size(self) -> int:
        """Length of the axis; the last place of an open label is `other`."""
        return self.values_max + 1 if self.is_open else len(self.values)

    def index(self, value: LabelValue) -> int:
        """The position of a value; an open label takes a new one in, or answers with `other`'s when it is full.

        Raises KeyError for a name that a fixed label does not have.
        """
        if not isinstance(value, str):
            return value
        index = self._index.get(value)
        if index is not None:
            return index
        if not self.is_open:
            raise KeyError(f"{value!r} is no value of label {self.name}")
        if value == OTHER or len(self.values) >= self.values_max or not self.keep(value):
            return self.values_max
        self.values.append(value)
        self._index[value] = len(self.values) - 1
        return len(self.values) - 1

    def fresh(self, values_max: int) -> Label:
        return Label(self.name, [] if self.is_open else self.values, is_open=self.is_open, values_max=values_max)


class open_label:  # noqa: N801 - reads as the function it is used as
    """Declares a label whose values are not known beforehand."""


def _label(name: str, declared: LabelNames | open_label) -> Label:
    if isinstance(declared, open_label):
        return Label(name, [], is_open=True, values_max=LABEL_VALUES_MAX)
    if isinstance(declared, type):
        values = [str(member.value if isinstance(member.value, str) else member.name.lower()) for member in declared]
        positions = [member.value for member in declared if isinstance(member.value, int)]
        if positions and positions != list(range(len(positions))):
            values = _with_gaps(declared)
    else:
        values = list(declared)
    return Label(name, values, is_open=False, values_max=len(values))


def _with_gaps(declared: type[enum.Enum]) -> list[str]:
    """An IntEnum with holes in its numbers: holes get an empty name and are never exported."""
    names = [""] * (max(int(member.value) for member in declared) + 1)
    for member in declared:
        names[int(member.value)] = member.name.lower()
    return names


class Metric:
    """One line of the table: name, kind, unit, help, labels; and its values once it belongs to a set.

    values: (size of label 1, size of label 2, ...) float64, a view into the set's array.
    """

    kind: Kind
    #: Cells per combination of labels.
    cells = 1

    def __init__(self, unit: str, help_text: str, labels: Sequence[Label]) -> None:
        self.name = ""
        self.unit = unit
        self.help = help_text
        self.labels = tuple(labels)
        self.attach(np.zeros(self.shape, np.float64))

    def attach(self, values: F64) -> None:
        """The metric's values lie there from now on; C-contiguous, of the metric's shape."""
        self.values = values
        #: The same memory, flat: one element of a memoryview costs half of one of an array.
        self._flat: Any = values.reshape(-1).data
        self._places: dict[tuple[LabelValue, ...], int] = {}
        self._followed: dict[tuple[LabelValue, ...], float] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        own = () if self.cells == 1 else (self.cells,)
        return tuple(label.size for label in self.labels) + own

    @property
    def exported_name(self) -> str:
        """The name in the exposition: `pushgw_`, units written out, counters with `_total`."""
        base = self.name
        if base.endswith("_s"):
            base = base[:-2] + "_seconds"
        return "pushgw_" + base + ("_total" if self.kind is Kind.COUNTER else "")

    def fresh(self, name: str, label_values_max: int) -> Self:
        """The same metric with values of its own."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.name = name
        made.labels = tuple(label.fresh(label_values_max) for label in self.labels)
        return made

    def place(self, labels: tuple[LabelValue, ...]) -> int:
        """Position of the first cell of these label values in the flat values. Looked up once: combinations are few."""
        place = self._places.get(labels)
        if place is None:
            index = self.index(labels)
            self.values[index]  # raises IndexError for a position that a label does not have
            place = self.cells * (int(np.ravel_multi_index(index, self.shape[: len(index)])) if index else 0)
            if not any(label.is_open and at == label.values_max for label, at in zip(self.labels, index, strict=True)):
                # What shares `other` has no bound and is looked up each time.
                self._places[labels] = place
        return place

    def index(self, labels: tuple[LabelValue, ...]) -> tuple[int, ...]:
        """Positions of label values; raises TypeError when one is missing."""
        if len(labels) != len(self.labels):
            raise TypeError(f"{self.name} has {len(self.labels)} labels, {len(labels)} given")
        return tuple(label.index(value) for label, value in zip(self.labels, labels, strict=True))


class Cell:
    """One value of a counter or gauge, resolved once for a hot place."""

    __slots__ = ("_at", "_values")

    def __init__(self, values: Any, at: int) -> None:
        """values: a flat memoryview of float64."""
        self._values = values
        self._at = at

    def add(self, n: float = 1) -> None:
        self._values[self._at] += n

    def set(self, value: float) -> None:
        self._values[self._at] = value

    @property
    def value(self) -> float:
        return float(self._values[self._at])


class _Cells(Metric):
    def cell(self, *labels: LabelValue) -> Cell:
        """The cell of one combination of labels; shares its memory with the metric."""
        return Cell(self._flat, self.place(labels))

    def value(self, *labels: LabelValue) -> float:
        return float(self.values[self.index(labels)])

    def total(self) -> float:
        return float(self.values.sum())


class Counter(_Cells):
    """Only ever rises."""

    kind = Kind.COUNTER

    def add(self, n: float = 1, *labels: LabelValue) -> None:
        at = self._places.get(labels)
        self._flat[self.place(labels) if at is None else at] += n

    def follow(self, total: float, *labels: LabelValue) -> None:
        """Adds what a count that somebody else keeps has grown by since the last call; one that is smaller than it was
        has begun anew at 0, since its keeper was replaced."""
        before = self._followed.get(labels, 0.0)
        self._followed[labels] = total
        grown = total - before if total >= before else total
        if grown:
            self.add(grown, *labels)
        else:
            self.place(labels)  # the combination is known, at 0

    def followed(self, *labels: LabelValue) -> float:
        """What `follow` was last told; 0 before."""
        return self._followed.get(labels, 0.0)


class Gauge(_Cells):
    """Rises and falls; owners set it when it changes or just before a scrape. merge: over several workers."""

    kind = Kind.GAUGE
    merge: Merge = "sum"

    def set(self, value: float, *labels: LabelValue) -> None:
        self._flat[self.place(labels)] = value

    def raise_to(self, value: float, *labels: LabelValue) -> None:
        """Keeps the largest value seen; who reads it may set it back."""
        at = self.place(labels)
        self._flat[at] = max(self._flat[at], value)


def log_bounds(first: float, last: float, per_decade: int = 5) -> tuple[float, ...]:
    """Upper bounds of buckets, evenly spaced on a log scale from first to at least last, rounded to 3 digits."""
    bounds: list[float] = []
    step = 0
    while not bounds or bounds[-1] < last:
        bounds.append(float(f"{first * 10 ** (step / per_decade):.2e}"))
        step += 1
    return tuple(bounds)


#: 0.1 ms to 100 s, five buckets per decade: a quantile read from it is off by at most 58 %, enough to see a change;
#: figures for reports come from the ledger's own columns.
LATENCY_BOUNDS_S = log_bounds(1e-4, 100.0)


class Histogram(Metric):
    """Counts of values in fixed buckets on a log scale. Cells: one per bucket, one above the last, then the sum."""

    kind = Kind.HISTOGRAM

    def __init__(self, unit: str, help_text: str, labels: Sequence[Label], bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.cells = len(self.bounds) + 2
        self._bounds: F64 = np.array(self.bounds, np.float64)
        super().__init__(unit, help_text, labels)

    def observe(self, value: float, *labels: LabelValue, weight: float = 1) -> None:
        # `place`, but for a call: two of these per burst and move.
        at = self._places.get(labels)
        if at is None:
            at = self.place(labels)
        self._flat[at + bisect_left(self.bounds, value)] += weight
        self._flat[at + self.cells - 1] += value * weight

    def observe_many(self, values: npt.ArrayLike, *labels: LabelValue, weights: npt.ArrayLike | None = None) -> None:
        """values: (n,) in the metric's unit; weights: (n,) how often each occurred, or None for once."""
        column = np.asarray(values, np.float64)
        weight = None if weights is None else np.asarray(weights, np.float64)
        cells = self.values[self.index(labels)]
        places = np.searchsorted(self._bounds, column, side="left")
        cells[:-1] += np.bincount(places, weights=weight, minlength=self.cells - 1)
        cells[-1] += column.sum() if weight is None else column @ weight

    def count(self, *labels: LabelValue) -> float:
        return float(self.values[self.index(labels)][:-1].sum())

    def quantile(self, share: float, *labels: LabelValue) -> float:
        """The upper bound of the bucket that holds the share (0.99 for p99); NaN without values, inf above the last."""
        counts = self.values[self.index(labels)][:-1]
        total = counts.sum()
        if total == 0:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(counts), share * total, side="left"))
        return self.bounds[place] if place < len(self.bounds) else float("inf")


def counter(unit: str, help_text: str, **labels: LabelNames | open_label) -> Counter:
    return Counter(unit, help_text, [_label(name, declared) for name, declared in labels.items()])


def gauge(unit: str, help_text: str, merge: Merge = "sum", **labels: LabelNames | open_label) -> Gauge:
    made = Gauge(unit, help_text, [_label(name, declared) for name, declared in labels.items()])
    made.merge = merge
    return made


def histogram(
    unit: str, help_text: str, bounds: Sequence[float] = LATENCY_BOUNDS_S, **labels: LabelNames | open_label
) -> Histogram:
    return Histogram(unit, help_text, [_label(name, declared) for name, declared in labels.items()], bounds)


def known_block(values: F64, known: Sequence[int | None]) -> F64:
    """A copy of those values of a metric that have names. known: by axis with a label, how many of its first places
    have one; None for all of a fixed label's. The last place of an open label, `other`'s, follows."""
    block = values
    for axis, count in enumerate(known):
        if count is not None:
            block = block.take([*range(count), values.shape[axis] - 1], axis)
    return values.copy() if block is values else block


class MetricSet:
    """All metrics of one worker: the declarations of the class body, each with values of its own.

    array: (cells,) float64, the values of every metric one after the other; given by the caller (shared memory) or
    made here. Its layout depends only on the class and label_values_max.
    """

    def __init__(self, *, label_values_max: int = LABEL_VALUES_MAX, array: F64 | None = None) -> None:
        self.metrics: list[Metric] = []
        for name in dir(type(self)):
            declared = getattr(type(self), name)
            if isinstance(declared, Metric):
                made = declared.fresh(name, label_values_max)
                self.metrics.append(made)
                setattr(self, name, made)
        sizes = [int(np.prod(metric.shape, dtype=np.int64)) for metric in self.metrics]
        self.array: F64 = np.zeros(sum(sizes), np.float64) if array is None else array
        if len(self.array) != sum(sizes):
            raise ValueError(f"the array has {len(self.array)} cells, the metrics need {sum(sizes)}")
        at = 0
        for metric, size in zip(self.metrics, sizes, strict=True):
            metric.attach(self.array[at : at + size].reshape(metric.shape))
            at += size
