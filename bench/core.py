"""How many rows per second does one core take from RPC bytes to bytes for the vendors and calls of the edge?

Inside the clock: decode, check, gather, journal (in memory), route over 1,000,000 registered devices (30 % online, all
with an APNs or FCM token), bucket, truncation, render, HTTP/2 frames, answers decoded, verdicts and acknowledgements
written to the ledger. It is the worker that `serve` runs, in one process on one core, with two parts replaced:

* each vendor connection's socket, by a counting transport that honours 1,000 streams and answers every request with
  the bytes of a 200 (no TLS);
* the edge's system calls, by a counter that acknowledges in the next turn (`longlink_rows` in each line).

Outside: encoding the submits, the sockets, the kernel. Bytes handed over are sampled (at least 1 %) and compared
afterwards, by `h2`, `json` and an MQTT parser, with what each row's submit asked for; a mismatch fails the run.
"""

from __future__ import annotations

import gc
import json
import math
import resource
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import trio

from bench.core_check import Sample, check
from bench.core_transport import CountingEdge, CountingStream, FeedStream
from bench.harness import Line, Options, calibrate, line, progress
from bench.workloads import Job, jobs
from gateway.app import Worker
from gateway.columns import U8, TextColumn, hex_lower
from gateway.config import Config, load_config
from gateway.core.registration import Registrations
from gateway.ledger import Channel, State
from vendors.auth.credential import Issued

APP_KEY = "bench"
#: (workload, rows per submit, rows in all): enough rows for half a second or more of each.
LINES = (
    ("shared", 10_000, 1_000_000),
    ("template", 10_000, 500_000),
    ("distinct", 10_000, 200_000),
    ("shared", 100, 200_000),
    ("template", 100, 100_000),
    ("distinct", 100, 50_000),
    ("single", 1, 60_000),
)
ONLINE_SHARE = 0.3
#: Rows under way at once: enough to keep every lane busy, few enough that a latency would still mean something.
OPEN_ROWS = 60_000
#: Submits without an answer: below `rpc.requests_in_flight_max`, as every client has to stay.
OPEN_REQUESTS = 1000
WARM_UP_SHARE = 0.1
#: How often the driver looks whether there is room for more. A client is told by a credit frame; an event would be set
#: from inside of what is measured.
POLL_S = 0.005
PUTS_PER_STEP = 256


def run(options: Options) -> Iterator[Line]:
    n_devices = 20_000 if options.smoke else 1_000_000
    for workload, batch_rows, rows in LINES:
        name = f"{workload}@{batch_rows}"
        if options.only and workload not in options.only and name not in options.only:
            continue
        # Each line in a process of its own would measure the same; a fresh worker per line keeps them independent.
        wanted = min(rows, n_devices // 2, batch_rows * 4) if options.smoke else rows
        folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
        try:
            yield _measure(workload, batch_rows, max(wanted, 200), n_devices, folder, options)
        finally:
            shutil.rmtree(folder)
        gc.collect()


def _measure(workload: str, batch_rows: int, rows: int, n_devices: int, folder: Path, options: Options) -> Line:
    before = calibrate()
    bench = CoreBench(folder, n_devices, options.seed)
    progress(f"core {workload}, {batch_rows} rows a submit: {rows:,} rows over {n_devices:,} devices ...")
    warm_up = list(jobs(workload, max(batch_rows, int(rows * WARM_UP_SHARE)), batch_rows, bench.ids, options.seed + 1))
    measured = list(jobs(workload, rows, batch_rows, bench.ids, options.seed))
    figures = bench.run(warm_up, measured)
    checked = check(bench.samples(), measured, bench.ids, bench.tokens, bench.channels)
    progress(f"  {figures['rows_per_s']:,} rows/s; {checked['checked_rows']:,} rows compared with their input")
    return line(
        "core",
        workload,
        batch_rows=batch_rows,
        rows=rows,
        devices=n_devices,
        **figures,
        **checked,
        calibration_before=before,
        calibration_after=calibrate(),
        calibration_unit="million additions per s",
    )


class BenchWorker(Worker):
    """The worker of `serve` with a counting transport in place of sockets."""

    def __init__(self, config: Config) -> None:
        self.streams: list[CountingStream] = []
        # As `serve` does: with the interpreter's own 5 ms a store's thread waits so long for a loop that is busy.
        sys.setswitchinterval(config.gateway.switch_interval_ms / 1000)
        super().__init__(config)

    def _open_connection(self, open_stream: Any, on_events: Any) -> Any:
        stream = CountingStream()

        async def connect() -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            return stream

        connection = super()._open_connection(connect, on_events)
        stream.attach(connection)
        self.streams.append(stream)
        return connection


class CoreBench:
    """durability: of its app; "disk", which puts the stores there, too, is measured by `bench durable`."""

    def __init__(self, folder: Path, n_devices: int, seed: int, *, durability: str = "memory") -> None:
        self.seed = seed
        self.secret = secrets.token_hex(32).encode()
        self._folder = folder
        self._n = n_devices
        rng = np.random.default_rng(seed)
        self.ids: U8 = rng.integers(0, 256, (n_devices, 16), np.uint8)
        # Even devices have APNs tokens (64 hex digits), odd ones FCM tokens of the usual 163 characters.
        self.channels = np.where(np.arange(n_devices) % 2 == 0, Channel.APNS, Channel.FCM).astype(np.uint8)
        apns = hex_lower(rng.integers(0, 256, (n_devices, 32), np.uint8))
        alphabet = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8)
        fcm = alphabet[rng.integers(0, 64, (n_devices, 163), np.uint8)]
        fcm[:, 22] = ord(":")
        self.tokens = TextColumn.from_rows(
            [(apns if index % 2 == 0 else fcm)[index].tobytes() for index in range(n_devices)]
        )
        self.online = rng.permutation(n_devices)[: int(n_devices * ONLINE_SHARE)]
        self.config = _config(folder, self.secret, len(self.online), n_devices, durability)

    def run(self, warm_up: list[Job], measured: list[Job]) -> Line:
        return trio.run(self._run, warm_up, measured)

    def samples(self) -> list[Sample]:
        return [Sample(stream.channel, stream.chunks) for stream in self._worker.streams] + [
            Sample(Channel.LONG_LINK, self._edge.chunks)
        ]

    async def _run(self, warm_up: list[Job], measured: list[Job]) -> Line:
        self._worker = worker = BenchWorker(self.config)
        self.prepare(worker)
        self._edge = CountingEdge(worker.long_link, self.online, self.ids, worker.devices)
        feed = FeedStream(APP_KEY, self.secret)
        async with trio.open_nursery() as nursery:
            ready = trio.Event()
            nursery.start_soon(worker.run, lambda _: ready.set())
            await ready.wait()
            nursery.start_soon(self._edge.acknowledge)
            nursery.start_soon(worker.rpc.converse, feed, "rpc")
            await feed.wait_welcome()
            # A million devices that are written to a registry on the disk were registered long ago in what is measured.
            await worker.stores.wait_written()
            await self._push(feed, worker, feed.encode([job.submit for job in warm_up]))
            frames = feed.encode([job.submit for job in measured])
            for stream in (*worker.streams, self._edge):
                stream.start_sampling()
            gc.collect()
            gc.freeze()
            # This task's own preparations were a step too; it ends here.
            await trio.lowlevel.checkpoint()
            worker.step_watch.take_longest()
            edge_rows, answered = self._edge.rows, feed.answers
            usage = resource.getrusage(resource.RUSAGE_SELF)
            started = time.perf_counter()
            await self._push(feed, worker, frames)
            elapsed = time.perf_counter() - started
            spent = resource.getrusage(resource.RUSAGE_SELF)
            longest = worker.step_watch.take_longest()
            gc.unfreeze()
            rows = sum(job.submit.n for job in measured)
            assert feed.answers - answered == len(measured), "a submit was not answered"
            states = sum(page.counts for page in list(worker.home.pages())[-len(measured) - 1 :])
            acked = self._edge.rows - edge_rows
            assert acked > rows * ONLINE_SHARE / 2, (
                f"the long link took {acked} of {rows} rows: the counter is not in use"
            )
            nursery.cancel_scope.cancel()
        worker.close()
        cpu_s = spent.ru_utime + spent.ru_stime - usage.ru_utime - usage.ru_stime
        return {
            "rows_per_s": round(rows / elapsed),
            "cpu_s_per_million": round(cpu_s / rows * 1e6, 3),
            "loop_lag_ms_max": round(longest.duration_s * 1000, 2),
            "longest_step": longest.task,
            "longlink_rows": self._edge.rows - edge_rows,
            "vendor_bytes": sum(stream.bytes for stream in worker.streams),
            "states": {state.name.lower(): int(states[state]) for state in State if states[state]},
        }

    async def _push(self, feed: FeedStream, worker: BenchWorker, frames: list[tuple[int, bytes]]) -> None:
        """Hands the frames to the RPC session as fast as rows become final; returns when all are."""
        home, intake = worker.home, worker.intake
        answered = feed.answers
        for number, (rows, frame) in enumerate(frames):
            if number % PUTS_PER_STEP == 0:
                # A client's writes come bit by bit too; this task must not be the longest step.
                await trio.lowlevel.checkpoint()
            while (  # noqa: ASYNC110 - see POLL_S
                feed.pending_rows + intake.rows + home.rows_open >= OPEN_ROWS
                or number - (feed.answers - answered) >= OPEN_REQUESTS
            ):
                await trio.sleep(POLL_S)
            feed.put(frame, rows)
        # Rows of a large submit that is being checked stand in none of these counts, but it has no answer yet.
        while (  # noqa: ASYNC110 - see POLL_S
            feed.pending_rows or intake.rows or home.rows_open or feed.answers - answered < len(frames)
        ):
            await trio.sleep(POLL_S)

    def prepare(self, worker: BenchWorker) -> None:
        """The worker has the devices, and an FCM credential for the whole run: OAuth is outside of the question."""
        self._register(worker)
        for built in worker.vendor_lanes:
            if built.channel is Channel.FCM:
                built.keeper._put(Issued(b"Bearer bench", math.inf, math.inf))

    def _register(self, worker: BenchWorker) -> None:
        now_unix_s = int(time.time())
        for at in range(0, self._n, 50_000):
            stop = min(at + 50_000, self._n)
            done = worker.devices.register(
                0,
                Registrations(
                    self.ids[at:stop],
                    self.channels[at:stop],
                    self.tokens.take(np.arange(at, stop)),
                    # Tokens that work, as nearly all do but in an app's first campaign: no probes.
                    np.full(stop - at, now_unix_s, np.uint32),
                ),
                now_unix_s=now_unix_s,
            )
            assert not done.faults, "devices were refused"


def _config(folder: Path, secret: bytes, online: int, n_devices: int, durability: str) -> Config:
    """configs/bench.toml with keys made for this run; rates so high that the bucket lets everything pass."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    def pem(key: Any) -> bytes:
        return bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    (folder / "secret").write_bytes(secret)
    (folder / "apns.p8").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    account = {
        "type": "service_account",
        "project_id": "bench",
        "private_key_id": "bench",
        "private_key": pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)).decode(),
        "client_email": "bench@bench.invalid",
        "token_uri": "https://127.0.0.1:1/token",
    }
    (folder / "fcm.json").write_text(json.dumps(account))
    rates = {"rate_per_s": 1e9, "burst": 1_000_000_000, "connections_max": 1, "host": "127.0.0.1"}
    base = Path(__file__).resolve().parent.parent / "configs" / "bench.toml"
    stores = {"store": {"data_dir": str(folder / "stores")}} if durability == "disk" else {}
    return load_config(
        base,
        overrides={
            **stores,
            "gateway": {"data_dir": str(folder / "data"), "memory_bytes_max": 16 << 30},
            "ledger": {"ledger_memory_bytes_max": 2 << 30, "receipt_log_rows_max": 1_000_000},
            "devices": {"devices_max": max(n_devices, 1000), "token_bytes_max": n_devices * 256 + (1 << 20)},
            "rpc": {"listeners": [], "credit_rows": 8_000_000, "credit_bytes": 1 << 31, "frames_bytes_max": 1 << 31},
            "http": {"address": "tcp://127.0.0.1:0"},
            "long_link": {
                "listeners": [{"address": "tcp://127.0.0.1:0"}],
                "connections_max": online + 1,
                "files_max": online + 2048,
            },
            "apps": [
                {
                    "key": APP_KEY,
                    "secrets": [{"file": str(folder / "secret")}],
                    "durability": durability,
                    "apns": {
                        "team_id": "BENCHTEAM1",
                        "key_id": "BENCHKEY01",
                        "topic": "com.example.bench",
                        "key_file": str(folder / "apns.p8"),
                        **rates,
                    },
                    "fcm": {"project_id": "bench", "service_account_file": str(folder / "fcm.json"), **rates},
                }
            ],
        },
    )
