"""How fast is the registry: written by registrations, and loaded at start?

Unit: devices. Workload: DEVICES devices of one app with a vendor token of 64 hex digits, a profile of a few hundred and
times; `details` has an alias and three tags of a thousand for every device beside that.

    write    `Registry.write` in calls of 1,000 devices as registrations make them, tidied as the actor does: the log,
             its folds and their syncs. Inside of the clock: export from the table, the thread, write and sync
    load     the registry as those writes left it, a tenth of it in the logs, opened by a new table: reading, checksums,
             the indexes. Inside of the clock: everything from `load` to the last step of the table's end; outside:
             opening the databases
    details  the same load with aliases and tags

Figures are of one process, and `cpu_s_per_million` is its CPU time with the store's thread.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import trio

from bench.harness import Line, Options, calibrate, line, progress
from gateway.batch import OwnershipEpoch
from gateway.columns import TextColumn, hex_lower
from gateway.core.devices import DeviceLimits, DeviceTable
from gateway.core.registration import Registrations
from gateway.core.segments import HashKey
from gateway.store.sqlite_registry import SqliteRegistry

DEVICES = 1_000_000
SMOKE_DEVICES = 2_000
TAGS = 1000
CALL_ROWS = 1000
REGISTER_ROWS = 500
_EPOCH = OwnershipEpoch(1)
_KEY = HashKey(bytes(32))


def run(options: Options) -> Iterator[Line]:
    before = calibrate()
    n = SMOKE_DEVICES if options.smoke else DEVICES
    for name in ("load", "details"):
        if options.only and name not in options.only and not (name == "load" and "write" in options.only):
            continue
        folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
        try:
            progress(f"registry: {name}, {n} devices ...")
            table = _table(n)
            _register(table, n, options.seed, has_details=name == "details")
            written = trio.run(_write, folder, table)
            loaded = trio.run(_load, folder, n)
        finally:
            shutil.rmtree(folder)
        common = {"devices": n, "calibration": before, "calibration_unit": "million additions per s"}
        if name == "load":
            yield line("registry", "write", batch_rows=CALL_ROWS, **written, **common)
        yield line("registry", name, **loaded, **common)


def _table(n: int) -> DeviceTable:
    return DeviceTable(DeviceLimits(devices_max=n, token_bytes_max=max(n * 72, 1 << 20)), _KEY)


def _register(table: DeviceTable, n: int, seed: int, *, has_details: bool) -> None:
    random = np.random.default_rng(seed)
    for first in range(0, n, REGISTER_ROWS):
        count = min(REGISTER_ROWS, n - first)
        ids = random.integers(0, 256, (count, 16), np.uint8)
        digits = hex_lower(random.integers(0, 256, (count, 32), np.uint8))
        texts = [b"%d.%d" % (number % 20, number % 15) for number in range(first, first + count)]
        batch = Registrations(
            ids=ids,
            channels=np.full(count, 2, np.uint8),
            tokens=TextColumn(digits.tobytes(), np.arange(count + 1, dtype=np.uint32) * np.uint32(64)),
            proven_unix_s=np.full(count, 1_800_000_000, np.uint32),
            app_versions=TextColumn.from_rows(texts),
        )
        if has_details:
            batch = batch._replace(
                aliases=TextColumn.from_rows([b"user-%d" % number for number in range(first, first + count)]),
                tag_counts=np.full(count, 3, np.uint32),
                tags=TextColumn.from_rows([b"tag-%d" % number for number in _tags(random, count)]),
            )
        table.register(0, batch, 1_800_000_000)


def _tags(random: np.random.Generator, n: int) -> list[int]:
    """Three different ones for each of n devices."""
    picked: list[int] = (random.integers(0, TAGS // 3, (n, 3)) * 3 + np.arange(3)).ravel().tolist()
    return picked


async def _write(folder: Path, table: DeviceTable) -> Line:
    registry = SqliteRegistry(folder, ["bench"])
    rows = np.concatenate(list(table.changes.blocks()))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    for first in range(0, len(rows), CALL_ROWS):
        await registry.write(_EPOCH, table.export(rows[first : first + CALL_ROWS]))
        await registry.tidy()
    figures = _figures(len(rows), started, usage)
    while registry.statistics().folds < 16 and len(rows) > SMOKE_DEVICES:
        folds = registry.statistics().folds
        await registry.tidy()
        if registry.statistics().folds == folds and not any(group.needs_fold for group in registry._groups):
            break
    figures["bytes_per_device"] = round(registry.file_bytes() / len(rows), 1)
    registry.close()
    return figures


async def _load(folder: Path, n: int) -> Line:
    registry = SqliteRegistry(folder, ["bench"])
    table = _table(n)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    longest_s = 0.0
    started = time.perf_counter()
    restoring = table.restoring(await registry.count())
    async for devices in registry.load(range(4096)):
        step = time.perf_counter()
        restoring.add(devices)
        longest_s = max(longest_s, time.perf_counter() - step)
    step = time.perf_counter()
    for _ in restoring.end():
        longest_s = max(longest_s, time.perf_counter() - step)
        step = time.perf_counter()
    figures = _figures(n, started, usage)
    figures["longest_step_ms"] = round(longest_s * 1000, 2)
    assert len(table) == n, f"{len(table)} devices loaded, {n} written"
    registry.close()
    return figures


def _figures(n: int, started: float, usage: resource.struct_rusage) -> Line:
    elapsed_s = time.perf_counter() - started
    spent = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = spent.ru_utime + spent.ru_stime - usage.ru_utime - usage.ru_stime
    return {
        "rows_per_s": round(n / elapsed_s),
        "rows_per_cpu_s": round(n / cpu_s),
        "elapsed_s": round(elapsed_s, 3),
        "cpu_s_per_million": round(cpu_s / n * 1e6, 3),
    }
