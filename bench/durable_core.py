"""The core path with journal and stores on disk: part of `python -m bench durable`.

The worker, devices and transports are those of `bench core`; the app's durability is "disk" and `store.data_dir` is
given, so inside of the clock are also the commit of each batch, the marks before bytes leave, outcomes, the pages that
go to the ledger archive and the release of batches. The registry has its devices before the clock starts.

    core_disk      rows/s of submits of 10,000 rows with one shared content, and of single submits
    core_answer    single submits, open loop: from the intended send to the answer; a client with as many open requests
                   as it may have waits, and that time counts. At half of the rate that core_disk measured, whatever it
                   is, and at half of the required 15,000 a second where that is less
    core_recovery  a journal of unsent rows, written beforehand: from opening it to rows on their way
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import trio

from bench.core import APP_KEY, OPEN_REQUESTS, BenchWorker, CoreBench
from bench.core_transport import CountingEdge, FeedStream
from bench.harness import Line, Options, calibrate, line, progress
from bench.workloads import jobs
from gateway.batch import Batch, OwnershipEpoch, TaskSegment
from gateway.clock import SystemClock
from gateway.columns import F64
from gateway.content import Variant
from gateway.message_id import BatchAddress
from gateway.observe.loop_lag import LongestStep
from gateway.store.log_journal import LogJournal
from gateway.store.records import encode_batch
from gateway.wire.rpc import codec
from gateway.wire.rpc.framing import FrameReader
from gateway.wire.rpc.messages import Error, Submitted

#: (workload, rows per submit, rows in all)
LINES = (("shared", 10_000, 1_000_000), ("single", 1, 60_000))
ANSWER_SINGLES = 20_000
RECOVERY_ROWS = 10_000_000
#: How often submits that are due are put, as many clients' writes come together; it counts as their latency.
_PUT_S = 0.001
#: Longer than all submits take at a tenth of the rate that is asked for.
_ANSWERS_S_MAX = 120.0
#: What the kinds of answers look like in MessagePack: counted while it runs, read afterwards.
_SUBMITTED, _ERROR = b"\xa9submitted", b"\xa5error"
_BATCH_ROWS = 10_000
_EPOCH = OwnershipEpoch(1)
SINGLES_REQUIRED_PER_S = 15_000


def run(options: Options) -> Iterator[Line]:
    if not options.only or "core_disk" in options.only or "core_answer" in options.only:
        singles_per_s = 0.0
        for workload, batch_rows, rows in LINES:
            measured = _measure(workload, batch_rows, max(2 * batch_rows, 600) if options.smoke else rows, options)
            singles_per_s = float(measured["rows_per_s"])
            yield measured
        yield _answers("half of the measured rate", singles_per_s / 2, options)
        yield _answers("half of the required rate", min(SINGLES_REQUIRED_PER_S, singles_per_s) / 2, options)
    if not options.only or "core_recovery" in options.only:
        yield _recovery(20_000 if options.smoke else RECOVERY_ROWS, options)


class _Folder:
    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path)
        gc.collect()


def _measure(workload: str, batch_rows: int, rows: int, options: Options) -> Line:
    n_devices = 20_000 if options.smoke else 1_000_000
    before = calibrate()
    with _Folder() as folder:
        bench = CoreBench(folder, n_devices, options.seed, durability="disk")
        progress(f"durable core_disk {workload}, {batch_rows} rows a submit: {rows:,} rows ...")
        warm_up = list(jobs(workload, max(batch_rows, rows // 10), batch_rows, bench.ids, options.seed + 1))
        measured = list(jobs(workload, rows, batch_rows, bench.ids, options.seed))
        figures = bench.run(warm_up, measured)
    return line(
        "durable",
        "core_disk",
        content=workload,
        batch_rows=batch_rows,
        rows=rows,
        **figures,
        calibration_before=before,
        calibration_after=calibrate(),
        calibration_unit="million additions per s",
    )


class _TimedFeed(FeedStream):
    """answered: how many requests have an answer, of whatever kind."""

    def __init__(self, app_key: str, secret: bytes) -> None:
        super().__init__(app_key, secret)
        self.answered = 0
        self._chunks: list[tuple[float, bytes]] = []

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._reader is None:
            # A socket has the bytes in this moment, before its caller lets others run.
            taken = bytes(data)
            self._chunks.append((time.perf_counter(), taken))
            self.answered += taken.count(_SUBMITTED) + taken.count(_ERROR)
        await super().send_all(data)

    def answered_at(self) -> F64:
        """When each submit was answered, in their order. Raises AssertionError for one that was not accepted."""
        reader = FrameReader(1 << 20)
        found: dict[int, float] = {}
        for at, data in self._chunks:
            reader.feed(data)
            while (payload := reader.next_payload()) is not None:
                message = codec.decode_from_server(payload)
                assert not isinstance(message, Error), f"a submit was refused: {message.text}"
                if isinstance(message, Submitted):
                    found[message.id] = at
        return np.array([found[number] for number in sorted(found)])


def _answers(load: str, per_s: float, options: Options) -> Line:
    count = 300 if options.smoke else ANSWER_SINGLES
    before = calibrate()
    with _Folder() as folder:
        bench = CoreBench(folder, 20_000 if options.smoke else 200_000, options.seed, durability="disk")
        progress(f"durable core_answer: {count:,} single submits at {per_s:,.0f} a second ...")
        seconds, longest = trio.run(_answer_times, bench, count, per_s)
    percentiles = {
        f"answer_ms_{name}": round(float(np.percentile(seconds, share)) * 1000, 2)
        for name, share in (("p50", 50), ("p99", 99), ("p999", 99.9), ("max", 100))
    }
    return line(
        "durable",
        "core_answer",
        content="single",
        batch_rows=1,
        load=load,
        offered_per_s=round(per_s),
        submits=count,
        **percentiles,
        loop_lag_ms_max=round(longest.duration_s * 1000, 2),
        longest_step=longest.task,
        calibration_before=before,
        calibration_after=calibrate(),
        calibration_unit="million additions per s",
    )


async def _answer_times(bench: CoreBench, count: int, per_s: float) -> tuple[F64, LongestStep]:
    worker = BenchWorker(bench.config)
    bench.prepare(worker)
    edge = CountingEdge(worker.long_link, bench.online, bench.ids, worker.devices)
    feed = _TimedFeed(APP_KEY, bench.secret)
    warm_up = count // 5
    try:
        async with trio.open_nursery() as nursery:
            ready = trio.Event()
            nursery.start_soon(worker.run, lambda _: ready.set())
            await ready.wait()
            nursery.start_soon(edge.acknowledge)
            nursery.start_soon(worker.rpc.converse, feed, "rpc")
            await feed.wait_welcome()
            await worker.stores.wait_written()
            work = jobs("single", warm_up + count, 1, bench.ids, bench.seed)
            frames = feed.encode([job.submit for job in work])
            gc.collect()
            gc.freeze()
            await trio.lowlevel.checkpoint()
            worker.step_watch.take_longest()
            intended = time.perf_counter() + 0.01 + np.arange(len(frames)) / per_s
            put = 0
            with trio.move_on_after(_ANSWERS_S_MAX):
                while put < len(frames):
                    due = int(np.searchsorted(intended, time.perf_counter(), "right"))
                    # As every client, it waits for answers where it has as many requests open as it may; the time that
                    # a submit waits for that counts.
                    for rows, frame in frames[put : min(due, feed.answered + OPEN_REQUESTS)]:
                        feed.put(frame, rows)
                        put += 1
                    await trio.sleep(_PUT_S)
                while feed.answered < len(frames):  # noqa: ASYNC110 - once, at the end
                    await trio.sleep(0.01)
            assert feed.answered == len(frames), (
                f"{feed.answered} of {len(frames)} submits were answered after {_ANSWERS_S_MAX} s"
            )
            longest = worker.step_watch.take_longest()
            gc.unfreeze()
            nursery.cancel_scope.cancel()
    finally:
        worker.close()
    return (feed.answered_at() - intended)[warm_up:], longest


def _recovery(rows: int, options: Options) -> Line:
    before = calibrate()
    with _Folder() as folder:
        bench = CoreBench(folder, 20_000, options.seed, durability="disk")
        progress(f"durable core_recovery: a journal of {rows:,} unsent rows ...")
        size = trio.run(_fill, bench, rows, options.seed)
        figures = trio.run(_recover, bench)
    assert figures["rows"] == rows, "rows are missing after the recovery"
    return line(
        "durable",
        "core_recovery",
        content="shared",
        batch_rows=_BATCH_ROWS,
        journal_bytes=size,
        **figures,
        calibration_before=before,
        calibration_after=calibrate(),
        calibration_unit="million additions per s",
    )


async def _fill(bench: CoreBench, rows: int, seed: int) -> int:
    """The journal that a gateway leaves whose vendors are away: nothing in it was issued."""
    journal = LogJournal(bench.config.gateway.data_dir / "journal" / "0000", bytes_max=16 << 30)
    chance = np.random.default_rng(seed)
    label = SystemClock().unix_ms()
    size = 0
    for sequence in range(rows // _BATCH_ROWS):
        batch = Batch(
            BatchAddress(label + sequence, 0, sequence),
            0,
            0.0,
            _BATCH_ROWS,
            device_ids=chance.integers(0, 256, (_BATCH_ROWS, 16), np.uint8),
            message_ids=np.zeros((_BATCH_ROWS, 16), np.uint8),
            variants=[Variant(title="您的订单已发货", body="your order has shipped and will be with you tomorrow")],
            segments=[TaskSegment(sequence.to_bytes(16, "big"), 0, _BATCH_ROWS)],
        )
        record = encode_batch(batch, APP_KEY)
        size += record.payload_bytes()
        await journal.append(_EPOCH, [record])
    journal.close()
    return size


async def _recover(bench: CoreBench) -> Line:
    gateway = msgspec.structs.replace(bench.config.gateway, open_rows_max=20_000_000)
    bench.config = msgspec.structs.replace(bench.config, gateway=gateway)
    started = time.perf_counter()
    worker = BenchWorker(bench.config)
    opened = time.perf_counter()
    rows = 0
    try:
        assert worker.disk is not None
        for page in await worker.disk.recover(worker.request_ids):
            worker.router.route(page)
            rows += page.n_open
        seconds = time.perf_counter() - started
    finally:
        worker.close()
    return {
        "rows": rows,
        "recovery_s": round(seconds, 3),
        "open_s": round(opened - started, 3),
        "rows_per_s": round(rows / seconds),
    }
