"""What a row costs that waits: part of `python -m bench durable`.

    core_active    rows accepted, durable and queued whose vendors cannot be reached: growth of the process per row,
                   without the text that came with it

The worker is that of `core_disk`; no device is online, and connections never come about. Batches of 10,000 rows with
one shared content, and with texts that differ per row.
"""

from __future__ import annotations

import ctypes
import gc
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio

from bench.core import APP_KEY, BenchWorker, CoreBench
from bench.core_transport import FeedStream
from bench.harness import Line, Options, line, progress, resident_bytes
from bench.workloads import jobs

WORKLOADS = ("shared", "distinct")
ROWS = 1_000_000
BATCH_ROWS = 10_000
BYTES_PER_ROW_MAX = 64
_POLL_S = 0.01


class _UnreachedWorker(BenchWorker):
    """Whose vendors never answer a connection attempt."""

    def _open_connection(self, open_stream: Any, on_events: Any) -> Any:
        async def connect() -> trio.abc.Stream:
            await trio.sleep_forever()
            raise AssertionError("a sleep for ever ended")

        return super(BenchWorker, self)._open_connection(connect, on_events)


def run(options: Options) -> Iterator[Line]:
    if options.only and "core_active" not in options.only:
        return
    rows = 2_000 if options.smoke else ROWS
    batch_rows = 500 if options.smoke else BATCH_ROWS
    for workload in WORKLOADS:
        progress(f"durable core_active {workload}: {rows:,} rows that wait ...")
        folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
        try:
            # Fewer would be fewer connections than a configuration may have.
            bench = CoreBench(folder, max(2 * rows, 20_000), options.seed, durability="disk")
            figures = trio.run(_waiting, bench, workload, rows, batch_rows)
        finally:
            shutil.rmtree(folder)
            gc.collect()
        progress(f"  {figures['bytes_per_row_beyond_text']} bytes a row beyond its text")
        yield line(
            "durable",
            "core_active",
            content=workload,
            batch_rows=batch_rows,
            rows=rows,
            **figures,
            bytes_per_row_max=BYTES_PER_ROW_MAX,
        )


async def _waiting(bench: CoreBench, workload: str, rows: int, batch_rows: int) -> Line:
    worker = _UnreachedWorker(bench.config)
    bench.prepare(worker)
    feed = FeedStream(APP_KEY, bench.secret)
    try:
        async with trio.open_nursery() as nursery:
            ready = trio.Event()
            nursery.start_soon(worker.run, lambda _: ready.set())
            await ready.wait()
            nursery.start_soon(worker.rpc.converse, feed, "rpc")
            await feed.wait_welcome()
            await worker.stores.wait_written()
            frames = feed.encode([job.submit for job in jobs(workload, rows, batch_rows, bench.ids, bench.seed)])
            text_bytes = sum(
                len(column.blob)
                for job in jobs(workload, rows, batch_rows, bench.ids, bench.seed)
                for column in job.variables.values()
            )
            # What is made once (lanes, first pages, buffers of the journal) is there before it is measured.
            first, rest = frames[: len(frames) // 10], frames[len(frames) // 10 :]
            measured = sum(count for count, _ in rest)
            await _put(worker, feed, first)
            before = _settled_bytes()
            await _put(worker, feed, rest)
            grown = _settled_bytes() - before
            assert worker.home.rows_open == rows, "rows did not wait"
            nursery.cancel_scope.cancel()
    finally:
        worker.close()
    text = text_bytes / rows
    return {
        "text_bytes_per_row": round(text, 1),
        "bytes_per_row": round(grown / measured, 1),
        "bytes_per_row_beyond_text": round(grown / measured - text, 1),
        "peak_rss_bytes": resident_bytes(),
    }


def _settled_bytes() -> int:
    """Memory that is in use: what was freed is the kernel's again, else new rows would lie in it and look free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


async def _put(worker: BenchWorker, feed: FeedStream, frames: list[tuple[int, bytes]]) -> None:
    """Returns when the rows are answered, durable and queued."""
    wanted = worker.home.rows_open
    answers = feed.answers + len(frames)
    for rows, frame in frames:
        feed.put(frame, rows)
        wanted += rows
        # Frames that wait to be read are no part of what is measured.
        while feed.pending_rows or worker.intake.rows:  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(_POLL_S)
    while feed.answers < answers or worker.home.rows_open < wanted:  # noqa: ASYNC110 - as above
        await trio.sleep(_POLL_S)
