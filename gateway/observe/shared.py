"""Metrics of several workers in memory that their supervisor holds, and one page made of all of them.

Each worker writes into columns of its own, so nothing is locked; whoever is scraped reads all. The memory outlives the
process that writes: a worker that is started again goes on where its counters stood. Gauges are of a living process:
they begin at 0 with it, and those of a dead one do not count.

Layout of one worker's memory, all in host byte order:

    header   64 bytes   u64 layout (a hash of the table), u64 incarnation (0: no living process), u64 bytes of names
    names    one record per new value of an open label, in the order of their places: u16 label, u16 length, UTF-8
    online   (apps,) f64   devices online now, for limits that hold over all workers
    cells    f64, the MetricSet's array

A name's record is written before its cells are; the length of the names is written last. A reader that sees cells
without their name leaves them to the next page. The columns are merged by name: the same label value may stand at
another place in each worker.

A table has room for hundreds of values of each open label, several megabytes a worker, of which a few percent are ever
met. So nobody looks at all of it: what was never written takes no memory, and reading it would.

It is anonymous memory (memfd_create), not a file on disk: a page of a mapped file that is being written back blocks
whoever writes to it, for as long as the disk takes.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.observe.exposition import Snapshot, View
from gateway.observe.metric_types import F64, Gauge, Kind, Label, Metric, MetricSet, known_block

_HEADER_BYTES = 64
_LAYOUT, _INCARNATION, _NAMES_BYTES = 0, 1, 2
_RECORD = struct.Struct("=HH")
#: Room per value of an open label; most are names of apps, codes and paths. What is full shares `other`.
_NAME_BYTES = 40
#: A longer value has no place of its own.
_NAME_BYTES_MAX = 255


class _Plan(NamedTuple):
    """Where things lie. open_labels: (metric, axis) by label number."""

    layout: int
    names_at: int
    online_at: int
    cells_at: int
    size: int
    open_labels: list[tuple[int, int]]


def _plan(metrics: MetricSet, apps: int) -> _Plan:
    open_labels = [
        (position, axis)
        for position, metric in enumerate(metrics.metrics)
        for axis, label in enumerate(metric.labels)
        if label.is_open
    ]
    room = sum(metrics.metrics[position].labels[axis].values_max for position, axis in open_labels)
    names_at = _HEADER_BYTES
    online_at = names_at + -(-room * (_NAME_BYTES + _RECORD.size) // 8) * 8
    cells_at = online_at + 8 * apps
    text = ";".join(
        f"{metric.name}:{metric.shape}:{[list(label.values) for label in metric.labels if not label.is_open]}"
        for metric in metrics.metrics
    )
    digest = hashlib.blake2b(f"{apps};{text}".encode(), digest_size=8).digest()
    size = cells_at + 8 * len(metrics.array)
    return _Plan(int.from_bytes(digest, "little") or 1, names_at, online_at, cells_at, size, open_labels)


def make_memory(kind: type[MetricSet], *, label_values_max: int, apps: int) -> int:
    """A descriptor of memory for one worker, inheritable; it lasts as long as somebody has it open."""
    plan = _plan(kind(label_values_max=label_values_max), apps)
    fd = os.memfd_create("pushgw-metrics", 0)
    os.ftruncate(fd, plan.size)
    return fd


class SharedColumns:
    """One worker's memory, mapped. The same class reads and writes; only the worker itself may write, but for `died`
    and `start_over`."""

    def __init__(self, fd: int, kind: type[MetricSet], *, label_values_max: int, apps: int) -> None:
        self._kind = kind
        self._label_values_max = label_values_max
        self._sample = kind(label_values_max=label_values_max)
        self._plan = _plan(self._sample, apps)
        self._map = mmap.mmap(fd, self._plan.size)
        self._header = np.frombuffer(self._map, np.uint64, _HEADER_BYTES // 8)
        self.online: F64 = np.frombuffer(self._map, np.float64, apps, self._plan.online_at)
        """(apps,) devices online at this worker."""
        self.cells: F64 = np.frombuffer(self._map, np.float64, len(self._sample.array), self._plan.cells_at)
        self._views: list[tuple[Metric, F64]] = []
        at = 0
        for metric in self._sample.metrics:
            size = math.prod(metric.shape)
            self._views.append((metric, self.cells[at : at + size].reshape(metric.shape)))
            at += size

    @property
    def is_alive(self) -> bool:
        return bool(self._header[_INCARNATION])

    def died(self) -> None:
        """The process that wrote here is gone: its gauges and its devices no longer count."""
        self._header[_INCARNATION] = 0
        self.online[:] = 0

    def open(self, incarnation: int) -> MetricSet:
        """The metrics of a worker that has just been started; counters as the incarnation before left them."""
        metrics = self._kind(label_values_max=self._label_values_max, array=self.cells)
        layout = int(self._header[_LAYOUT])
        if layout and layout != self._plan.layout:
            self._header[:] = 0
            self.cells[:] = 0
        self._header[_LAYOUT] = self._plan.layout
        self.online[:] = 0
        for metric in metrics.metrics if layout else ():
            if metric.kind is Kind.GAUGE:
                metric.values[...] = 0
        for number, values in enumerate(self.names()):
            position, axis = self._plan.open_labels[number]
            label = metrics.metrics[position].labels[axis]
            label.restore(values)
            label.keep = _Keeper(self, number)
        self._header[_INCARNATION] = incarnation
        return metrics

    def keep_name(self, number: int, value: str) -> bool:
        """The value has the next place of that open label; False when there is no room for its name."""
        name = value.encode(errors="replace")
        at = int(self._header[_NAMES_BYTES])
        end = at + _RECORD.size + len(name)
        if len(name) > _NAME_BYTES_MAX or self._plan.names_at + end > self._plan.online_at:
            return False
        start = self._plan.names_at + at
        self._map[start : start + _RECORD.size + len(name)] = _RECORD.pack(number, len(name)) + name
        self._header[_NAMES_BYTES] = end
        return True

    def names(self) -> list[list[str]]:
        """The values of each open label, by its number, in the order of their places."""
        found: list[list[str]] = [[] for _ in self._plan.open_labels]
        data = self._map[self._plan.names_at : self._plan.names_at + int(self._header[_NAMES_BYTES])]
        at = 0
        while at < len(data):
            number, size = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            found[number].append(data[at : at + size].decode(errors="replace"))
            at += size
        return found

    def start_over(self, metric_name: str) -> None:
        """The cells of one metric are 0: a maximum since the last scrape begins anew."""
        for metric, values in self._views:
            if metric.name == metric_name:
                values[...] = 0

    def copy(self) -> Copied:
        """This moment, of the values that have names. Names first: one that comes between the two is left to the next
        page. Under a millisecond, and for a thread: with twelve workers it is more than a step."""
        is_alive, names = self.is_alive, self.names()
        blocks: list[F64] = []
        counts = iter([len(values) for values in names])
        for metric, values in self._views:
            known = [next(counts) if label.is_open else None for label in metric.labels]
            blocks.append(known_block(values, known))
        return Copied(is_alive, blocks, names)


class _Keeper:
    """Remembers new values of one open label."""

    __slots__ = ("_columns", "_number")

    def __init__(self, columns: SharedColumns, number: int) -> None:
        self._columns = columns
        self._number = number

    def __call__(self, value: str) -> bool:
        return self._columns.keep_name(self._number, value)


class Copied(NamedTuple):
    """One worker's memory at a moment. blocks: of each metric the values that have names; on the axis of an open label
    those of its names, then `other`'s. names: by number of the open label."""

    is_alive: bool
    blocks: list[F64]
    names: list[list[str]]


def merge(sample: MetricSet, workers: Sequence[Copied], others: Sequence[Copied] = ()) -> Snapshot:
    """One page of all workers. Counters and histograms of all are added, those of dead ones, too; gauges of the living
    become their sum, or the largest or smallest where the table says so. sample: the table, its values unused.

    others: who is no worker, and so has not set most gauges: none of its zeros is the smallest."""
    views: list[View] = []
    number = 0
    for position, metric in enumerate(sample.metrics):
        is_smallest = isinstance(metric, Gauge) and metric.merge == "min"
        who = workers if is_smallest else (*workers, *others)
        counting = [worker for worker in who if worker.is_alive or metric.kind is not Kind.GAUGE]
        parts = [worker.blocks[position] for worker in counting]
        names: list[list[list[str]]] = []
        for label in metric.labels:
            if label.is_open:
                names.append([worker.names[number] for worker in counting])
                number += 1
            else:
                names.append([label.values for _ in counting])
        views.append(_merge_metric(metric, parts, names))
    return Snapshot(views)


def _merge_metric(metric: Metric, parts: Sequence[F64], names: Sequence[Sequence[Sequence[str]]]) -> View:
    """parts: one per worker; names: by axis and worker."""
    union = [_union(label, per_worker) for label, per_worker in zip(metric.labels, names, strict=True)]
    labels = tuple((label.name, tuple(values)) for label, values in zip(metric.labels, union, strict=True))
    places = [{name: place for place, name in enumerate(values)} for values in union]
    shape = [len(values) + label.is_open for label, values in zip(metric.labels, union, strict=True)]
    own = metric.shape[len(shape) :]
    merged: F64 = np.zeros((*shape, *own))
    is_met = np.zeros((*shape, *own), np.bool_)
    rule = metric.merge if isinstance(metric, Gauge) else "sum"
    has_open = any(label.is_open for label in metric.labels)
    for worker, block in enumerate(parts):
        put = []
        for axis, label in enumerate(metric.labels) if has_open else ():
            target = [places[axis][name] for name in names[axis][worker]]
            put.append([*target, len(union[axis])] if label.is_open else range(shape[axis]))
        index = np.ix_(*put, *map(range, own)) if has_open else ...
        if rule == "sum":
            merged[index] += block
        else:
            choose = np.maximum if rule == "max" else np.minimum
            merged[index] = np.where(is_met[index], choose(merged[index], block), block)
            is_met[index] = True
    return View(metric, labels, merged)


def _union(label: Label, per_worker: Sequence[Sequence[str]]) -> list[str]:
    """All names of a label, in the order in which they are met; a fixed label's own, holes included."""
    if not label.is_open:
        return list(label.values)
    return list(dict.fromkeys(name for names in per_worker for name in names))
