"""What does it cost until a batch is on the disk, and which adapter of the journal is the better one?

Unit: one append of one record, a batch of 1, 100 or 10,000 rows with one shared content and device ids as targets,
encoded once beforehand. Inside of the clock: checksum, waiting for the turn, the thread, write and sync, and what an
adapter does from time to time (a new segment, a checkpoint of the write-ahead log). Outside: making and encoding the
batch, opening the journal.

    piped   16 tasks append as fast as they are answered: group commit at work. MB/s and commits/s
    idle    one task appends, nothing else runs: what a lonely submit waits
    busy    one task appends, another computes in steps of 1 ms of pure Python: what a submit waits under load, for each
            switch interval of the interpreter (how long a thread asks before it takes the interpreter from another)
    busy_short  the same in steps of 0.2 ms, which are usual here: a thread that asks for longer than a step starves

After these, the core path with journal and stores on disk: bench/durable_core.py, what a row costs that waits:
bench/durable_active.py, and rows for devices that are away: bench/durable_held.py. Workloads of `--only`: `log_piped`
and so on, core_disk, core_answer, core_recovery, core_active, held.

answer: append called until it has returned. commit: the same as the thread sees it, without the way there and back. The
yardstick `bare` is one write and fdatasync of as many bytes into a preallocated file, by the main thread. Cells are
visited in turn, ROUNDS times, because the disk is shared; samples of a cell are taken together.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trio

from bench import durable_active, durable_core, durable_held
from bench.harness import Line, Options, calibrate, line, progress
from gateway.batch import Batch, OwnershipEpoch, TaskSegment
from gateway.content import Variant
from gateway.message_id import BatchAddress
from gateway.store.log_journal import LogJournal
from gateway.store.ports import JournalRecord
from gateway.store.records import encode_batch
from gateway.store.sqlite_journal import SqliteJournal
from gateway.store.threaded import Sealed, ThreadedJournal

ROWS = (1, 100, 10_000)
#: The interpreter's default is the first.
SWITCH_INTERVALS_S = (0.005, 0.0002, 0.00005)
PIPED_TASKS = 16
#: Load -> how long a step of the computing task is.
STEPS_S = {"busy": 0.001, "busy_short": 0.0002}
ROUNDS = 3
CELL_S = 0.5
SMOKE_CELL_S = 0.02
#: Beyond what a cell of half a second can write here.
_JOURNAL_BYTES_MAX = 16 << 30
_EPOCH = OwnershipEpoch(1)


class _Timed(ThreadedJournal):
    """commit_s: what each commit took as the thread saw it."""

    commit_s: list[float]

    def commit(self, records: Sequence[Sealed]) -> Sequence[int]:
        started = time.perf_counter()
        positions = super().commit(records)  # type: ignore[safe-super]
        self.commit_s.append(time.perf_counter() - started)
        return positions


class _TimedLog(_Timed, LogJournal):
    pass


class _TimedSqlite(_Timed, SqliteJournal):
    pass


def _open(adapter: str, folder: Path) -> _Timed:
    if adapter == "log":
        journal: _Timed = _TimedLog(folder, bytes_max=_JOURNAL_BYTES_MAX)
    else:
        journal = _TimedSqlite(folder / "journal.db", bytes_max=_JOURNAL_BYTES_MAX)
    journal.commit_s = []
    return journal


class Cell(NamedTuple):
    adapter: str
    rows: int
    load: str
    switch_interval_s: float


@dataclass
class Samples:
    """Of all rounds of a cell. Seconds; the last three are per round."""

    answer_s: list[float] = field(default_factory=list)
    commit_s: list[float] = field(default_factory=list)
    elapsed_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    steps_per_s: list[float] = field(default_factory=list)


def run(options: Options) -> Iterator[Line]:
    yield from _adapters(options)
    yield from durable_core.run(options)
    yield from durable_active.run(options)
    if not options.only or "held" in options.only:
        yield durable_held.run(options)


def _adapters(options: Options) -> Iterator[Line]:
    before = calibrate()
    cells = [cell for cell in _cells() if not options.only or f"{cell.adapter}_{cell.load}" in options.only]
    if not cells:
        return
    samples = {cell: Samples() for cell in cells}
    records = {rows: _record(rows, options.seed) for rows in ROWS}
    bare: dict[int, list[float]] = {rows: [] for rows in ROWS}
    duration_s = SMOKE_CELL_S if options.smoke else CELL_S
    kept = sys.getswitchinterval()
    try:
        for number in range(1 if options.smoke else ROUNDS):
            progress(f"durable: round {number + 1}, {len(cells)} cells of {duration_s:g} s ...")
            for rows in ROWS:
                bare[rows].append(_bare_per_s(records[rows], duration_s))
            for cell in cells:
                sys.setswitchinterval(cell.switch_interval_s)
                trio.run(_measure, cell, records[cell.rows], duration_s, samples[cell])
    finally:
        sys.setswitchinterval(kept)
    after = calibrate()
    for cell in cells:
        yield line(
            "durable",
            f"{cell.adapter}_{cell.load}",
            **_figures(cell, samples[cell], records[cell.rows].payload_bytes()),
            bare_commits_per_s=round(float(np.median(bare[cell.rows]))),
            calibration_before=before,
            calibration_after=after,
            calibration_unit="million additions per s",
        )


def _cells() -> Iterator[Cell]:
    """The adapters stand side by side, so that they meet the same minute of the disk."""
    default = SWITCH_INTERVALS_S[0]
    for rows, load in itertools.product(ROWS, ("piped", "idle", *STEPS_S)):
        for interval_s in SWITCH_INTERVALS_S if load in STEPS_S else (default,):
            for adapter in ("log", "sqlite"):
                yield Cell(adapter, rows, load, interval_s)


async def _measure(cell: Cell, record: JournalRecord, duration_s: float, samples: Samples) -> None:
    folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
    journal = _open(cell.adapter, folder)
    try:
        # Warm-up: the thread is there, statements are prepared.
        for _ in range(3):
            await journal.append(_EPOCH, [record])
        journal.commit_s.clear()
        steps = 0
        until = time.perf_counter() + duration_s

        async def append() -> None:
            while (called := time.perf_counter()) < until:
                await journal.append(_EPOCH, [record])
                samples.answer_s.append(time.perf_counter() - called)

        async def compute(step_s: float) -> None:
            nonlocal steps
            while True:
                ends = time.perf_counter() + step_s
                while time.perf_counter() < ends:
                    steps += 1
                await trio.lowlevel.checkpoint()

        usage = resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            if cell.load in STEPS_S:
                nursery.start_soon(compute, STEPS_S[cell.load])
            async with trio.open_nursery() as appends:
                for _ in range(PIPED_TASKS if cell.load == "piped" else 1):
                    appends.start_soon(append)
            nursery.cancel_scope.cancel()
        elapsed_s = time.perf_counter() - started
        spent = resource.getrusage(resource.RUSAGE_SELF)
        samples.elapsed_s.append(elapsed_s)
        samples.cpu_s.append(spent.ru_utime + spent.ru_stime - usage.ru_utime - usage.ru_stime)
        samples.steps_per_s.append(steps / elapsed_s)
        samples.commit_s += journal.commit_s
    finally:
        journal.close()
        shutil.rmtree(folder)


def _figures(cell: Cell, samples: Samples, record_bytes: int) -> dict[str, Any]:
    elapsed_s, appends = sum(samples.elapsed_s), len(samples.answer_s)
    figures: dict[str, Any] = {
        "batch_rows": cell.rows,
        "record_bytes": record_bytes,
        "switch_interval_ms": cell.switch_interval_s * 1000,
        "appends": appends,
        "appends_per_s": round(appends / elapsed_s),
        "commits_per_s": round(len(samples.commit_s) / elapsed_s),
        "mb_per_s": round(appends * record_bytes / elapsed_s / 1e6, 1),
        "rows_per_s": round(appends * cell.rows / elapsed_s),
        **_percentiles("answer_ms", samples.answer_s),
        **_percentiles("commit_ms", samples.commit_s),
    }
    if cell.load in STEPS_S:
        # What a short interval costs the others: rounds of the computing task.
        figures["busy_rounds_per_s"] = round(float(np.median(samples.steps_per_s)))
    else:
        figures["cpu_s_per_million"] = round(sum(samples.cpu_s) / appends / cell.rows * 1e6, 3)
    return figures


def _percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    values = np.array(seconds) * 1000
    found = {"p50": 50.0, "p99": 99.0, "p999": 99.9, "max": 100.0}
    return {f"{name}_{text}": round(float(np.percentile(values, share)), 3) for text, share in found.items()}


def _record(rows: int, seed: int) -> JournalRecord:
    ids = np.random.default_rng(seed).integers(0, 256, (rows, 16), np.uint8)
    batch = Batch(
        BatchAddress(1_800_000_000_000, 0, 1),
        0,
        0.0,
        rows,
        device_ids=ids,
        message_ids=np.zeros((rows, 16), np.uint8),
        variants=[Variant(title="您的订单已发货", body="your order has shipped and will be with you tomorrow " * 2)],
        segments=[TaskSegment(bytes(16), 0, rows)],
    )
    return encode_batch(batch)


def _bare_per_s(record: JournalRecord, duration_s: float) -> float:
    """Writes and syncs of as many bytes per second, into a file of 64 MiB that is zeroed beforehand."""
    data = b"".join(record.buffers)
    size = 64 << 20
    with tempfile.TemporaryFile(prefix="pushgw-bench-") as stream:
        descriptor = stream.fileno()
        for at in range(0, size, 1 << 20):
            os.pwrite(descriptor, bytes(1 << 20), at)
        os.fsync(descriptor)
        at = count = 0
        started = time.perf_counter()
        while (elapsed_s := time.perf_counter() - started) < duration_s:
            os.pwrite(descriptor, data, at)
            os.fdatasync(descriptor)
            count += 1
            at = (at + len(data)) % (size - len(data))
    return count / elapsed_s
