"""What does a row that waits for its device cost, and how fast does it come back?

`--only store` leaves out the last workload, `--only drain` the others; `--set rows=N`, for development.

Unit: rows of one content for as many devices, put in slices of 5,120 as the router makes them.

    put      rows kept, durable, per second, and of the last tenth; per second of CPU, with the store's thread; bytes
             written per row; disk_bytes_per_row after the write-ahead log was written back; memory of the process at
             the end, above what it had with the inbox open and empty
    open     rows filed per second when the inbox is opened by a new process
    peek     one device is back: from the call to its rows, p50, p99, max, in ms (the drain begins with it)
    absent   the same for a device without rows
    forget   rows that were handed out leave, in slices of 32 by 64 tasks at once
    drain    at a gateway's socket, from CONNACK to the first stored row: bench/inbox_drain.py
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import trio

from bench import inbox_drain
from bench.durable_held import rss_bytes
from bench.harness import Line, Options, calibrate, line, progress
from gateway.batch import OwnershipEpoch
from gateway.store.ports import InboxRows
from gateway.store.sqlite_inbox import SqliteInbox

ROWS = 1_000_000
SMOKE_ROWS = 10_000
SLICE_ROWS = 5120
BATCH_ROWS = 65_536
LOOKS = 2000
FORGOTTEN = 64_000
_EPOCH = OwnershipEpoch(1)


def run(options: Options) -> Iterator[Line]:
    before = calibrate()
    n = int(options.extra.get("rows", SMOKE_ROWS if options.smoke else ROWS))
    progress(f"inbox: {n} rows ...")
    folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
    try:
        if set(options.only) != {"drain"}:
            for name, figures in trio.run(_measure, folder / "inbox.db", n, options.seed):
                yield line("inbox", name, rows=n, **figures, calibration=before)
        if not options.only or "drain" in options.only:
            yield line("inbox", "drain", **inbox_drain.run(options), calibration=before)
    finally:
        shutil.rmtree(folder)


def _open(path: Path, n: int) -> SqliteInbox:
    return SqliteInbox(path, rows_per_device_max=100, rows_max=2 * n, bytes_per_device_max=1 << 20, bytes_max=1 << 60)


async def _measure(path: Path, n: int, seed: int) -> list[tuple[str, Line]]:
    random = np.random.default_rng(seed)
    ids = random.integers(0, 256, (n, 16), np.uint8)
    ids.sum()
    inbox = _open(path, n)
    empty = rss_bytes()
    last_tenth = n * 9 // 10 // SLICE_ROWS * SLICE_ROWS
    started, cpu_started, wrote = time.perf_counter(), time.process_time(), written_bytes()
    for first in range(0, n, SLICE_ROWS):
        if first == last_tenth:
            tenth_started, tenth_cpu_started = time.perf_counter(), time.process_time()
        at = np.arange(first, min(first + SLICE_ROWS, n))
        tags = (at // BATCH_ROWS + 7 << 16) | at % BATCH_ROWS
        constant = np.ones(len(at), np.int64)
        rows = InboxRows(
            ids[at],
            tags,
            constant * 1_800_000_000_000,
            apps=constant,
            born_unix_ms=constant * 1_799_000_000_000,
            sizes=constant * 120,
        )
        await inbox.put(_EPOCH, rows)
    ended, cpu_ended = time.perf_counter(), time.process_time()
    put = {
        "rows_per_s": round(n / (ended - started)),
        "rows_per_s_last_tenth": round((n - last_tenth) / (ended - tenth_started)),
        "rows_per_cpu_s": round(n / (cpu_ended - cpu_started)),
        "rows_per_cpu_s_last_tenth": round((n - last_tenth) / (cpu_ended - tenth_cpu_started)),
        "written_bytes_per_row": round((written_bytes() - wrote) / n),
        "rss_grown_bytes": rss_bytes() - empty,
    }
    inbox.close()
    size = os.stat(path).st_size
    started = time.perf_counter()
    inbox = _open(path, n)
    open_s = time.perf_counter() - started
    looks = min(LOOKS, n)
    found = await _looks(inbox, [ids[at].tobytes() for at in random.integers(0, n, looks)], 1)
    absent = await _looks(inbox, [one.tobytes() for one in random.integers(0, 256, (looks, 16), np.uint8)], 0)
    tags = np.array([(at // BATCH_ROWS + 7 << 16) | at % BATCH_ROWS for at in range(min(FORGOTTEN, n))], np.int64)
    started = time.perf_counter()
    await _forget(inbox, tags)
    forget_s = time.perf_counter() - started
    inbox.close()
    return [
        ("put", put | {"disk_bytes_per_row": round(size / n, 1)}),
        ("open", {"rows_per_s": round(n / open_s)}),
        ("peek", found),
        ("absent", absent),
        ("forget", {"rows_per_s": round(len(tags) / forget_s)}),
    ]


def written_bytes() -> int:
    """By this process to files, so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"])


async def _looks(inbox: SqliteInbox, devices: list[bytes], expected: int) -> Line:
    times = []
    for device_id in devices:
        started = time.perf_counter()
        tags = await inbox.peek(device_id, 32)
        times.append((time.perf_counter() - started) * 1000)
        assert len(tags) >= expected, f"{len(tags)} rows, expected {expected}"
    p50, p99 = np.percentile(times, [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3), "max_ms": round(max(times), 3)}


async def _forget(inbox: SqliteInbox, tags: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    parts = iter(np.array_split(tags, max(1, len(tags) // 32)))

    async def work() -> None:
        for part in parts:
            assert await inbox.forget(_EPOCH, part) == len(part)

    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(work)
