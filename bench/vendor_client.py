"""Our client of `bench vendor`, a process of its own: a worker whose lane is filled before the clock starts.

    python -m bench.vendor_client '{"port": ..., "ca_file": ..., "tokens_file": ..., "workload": ..., ...}'

It is the worker that `serve` runs. Rows are submitted over its RPC session, routed, and wait in the lane, because the
first connection is held back until all of them are there. Inside the clock: TCP and TLS handshakes, bucket, render,
HTTP/2 frames, TLS, answers decoded, verdicts written to the ledger. Outside: RPC, intake, routing. One JSON line says
how long it took, what it cost, and what a request looked like, so that the other client can send the same.
"""

from __future__ import annotations

import gc
import json
import random
import resource
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import trio

from bench.core_transport import FeedStream
from bench.harness import Line, peak_rss_bytes
from bench.worker import GatedWorker, register, running
from gateway.client.requests import UNSENT, little_endian, texts
from gateway.columns import I64, TextColumn, row_bytes
from gateway.config import Config, load_config
from gateway.content import Variant
from gateway.ledger import Channel, State
from gateway.vendor import Requests
from gateway.wire.rpc.messages import Submit

APP_KEY = "bench"
TOPIC = "com.example.bench"
#: Characters of the body text that make a request's body about 200 bytes (as the prototypes had) and about 1 KiB.
TEXT_CHARACTERS = 80
TEXT_CHARACTERS_1K = 900
#: Texts that differ per row have lengths between these; the mean is TEXT_CHARACTERS.
DISTINCT_CHARACTERS = (40, 120)
_POLL_S = 0.005
_RUN_TIMEOUT_S = 120.0


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """tokens_file: one device token a line. rows: requests in all; a multiple of the number of tokens."""

    port: int
    ca_file: str
    tokens_file: str
    workload: str
    rows: int
    connections: int
    seed: int


class ClientWorker(GatedWorker):
    """It remembers, too, what it sent last."""

    def __init__(self, config: Config) -> None:
        self.last_requests: Requests | None = None
        super().__init__(config)

    def _open_connection(self, open_stream: Any, on_events: Any) -> Any:
        connection = super()._open_connection(open_stream, on_events)
        send = connection.send

        def remember(requests: Requests, start: int, tags: I64, deadline: float) -> int:
            self.last_requests = requests
            return send(requests, start, tags, deadline)

        connection.send = remember
        return connection


def contents(workload: str, n: int, source: random.Random) -> tuple[Variant, Mapping[str, TextColumn]]:
    """The content of a submit of n rows, and the texts of its rows."""
    alphabet = "abcdefghijklmnopqrstuvwxyz     "
    if workload == "distinct":
        low, high = DISTINCT_CHARACTERS
        rows = ["".join(source.choices(alphabet, k=source.randint(low, high))) for _ in range(n)]
        return Variant(title="Hello", body="{{body}}"), {"body": TextColumn.from_texts(rows)}
    size = TEXT_CHARACTERS_1K if workload == "body_1k" else TEXT_CHARACTERS
    return Variant(title="Hello", body="".join(source.choices(alphabet, k=size))), {}


def measure(task: Task) -> Line:
    folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
    try:
        return trio.run(_measure, task, folder, Path(task.tokens_file).read_bytes().split())
    finally:
        shutil.rmtree(folder)


async def _measure(task: Task, folder: Path, tokens: list[bytes]) -> Line:
    secret = secrets.token_hex(32).encode()
    worker = ClientWorker(_config(task, folder, secret, len(tokens)))
    ids = np.random.default_rng(task.seed).integers(0, 256, (len(tokens), 16), np.uint8)
    # Proven: the question is the connection, not probing.
    register(worker, 0, ids, Channel.APNS, TextColumn.from_rows(tokens))
    feed = FeedStream(APP_KEY, secret)
    with trio.fail_after(_RUN_TIMEOUT_S):
        async with running(worker, feed):
            lanes = [actor.lane for built in worker.vendor_lanes for actor in built.lanes]
            for rows, frame in feed.encode(_submits(task, ids)):
                feed.put(frame, rows)
            while sum(lane.rows for lane in lanes) < task.rows:  # noqa: ASYNC110 - lanes tell nobody that they are full
                await trio.sleep(_POLL_S)
            figures = await _drain(worker)
    states = sum(page.counts for page in worker.home.pages())
    accepted = int(states[State.VENDOR_ACCEPTED])
    assert accepted == task.rows, f"{accepted} of {task.rows} rows accepted"
    return {**figures, **_request(worker), "peak_rss_bytes": peak_rss_bytes()}


async def _drain(worker: ClientWorker) -> Line:
    """Lets the lane go; returns when every row is final."""
    gc.collect()
    gc.freeze()
    await trio.lowlevel.checkpoint()
    worker.step_watch.take_longest()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    worker.gate.set()
    while worker.home.rows_open:  # noqa: ASYNC110 - the home tells nobody that it is done
        await trio.sleep(_POLL_S)
    elapsed = time.perf_counter() - started
    spent = resource.getrusage(resource.RUSAGE_SELF)
    longest = worker.step_watch.take_longest()
    connections = sum(built.pool.statistics().connections for built in worker.vendor_lanes)
    return {
        "elapsed_s": elapsed,
        "cpu_s": spent.ru_utime + spent.ru_stime - usage.ru_utime - usage.ru_stime,
        "cpu_system_s": spent.ru_stime - usage.ru_stime,
        "connections_open": connections,
        "loop_lag_ms_max": round(longest.duration_s * 1000, 2),
    }


def _request(worker: ClientWorker) -> Line:
    """The last request as the other client is to send it."""
    requests = worker.last_requests
    assert requests is not None
    lengths = [len(row_bytes(requests.body, row)) for row in range(requests.n)]
    last = requests.n - 1
    return {
        "headers": {name.decode(): row_bytes(pieces, last).decode() for name, pieces in requests.headers},
        "body": row_bytes(requests.body, last).decode(),
        "body_bytes": round(sum(lengths) / len(lengths)),
    }


def _submits(task: Task, ids: np.ndarray[Any, np.dtype[np.uint8]]) -> list[Submit]:
    source = random.Random(task.seed)
    submits = []
    for _ in range(task.rows // len(ids)):
        content, columns = contents(task.workload, len(ids), source)
        submits.append(
            Submit(
                id=UNSENT,
                contents=[content],
                n=len(ids),
                device_ids=little_endian(ids.reshape(-1), "u1"),
                variables={name: texts(column) for name, column in columns.items()} or None,
            )
        )
    return submits


def _config(task: Task, folder: Path, secret: bytes, n_devices: int) -> Config:
    """configs/bench.toml with one app and one vendor at our address; the bucket lets everything pass."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    (folder / "secret").write_bytes(secret)
    (folder / "apns.p8").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    apns = {
        "team_id": "BENCHTEAM1",
        "key_id": "BENCHKEY01",
        "topic": TOPIC,
        "key_file": str(folder / "apns.p8"),
        "host": "127.0.0.1",
        "port": task.port,
        "ca_file": task.ca_file,
        "rate_per_s": 1e9,
        "burst": 1_000_000_000,
        "connections_max": task.connections,
    }
    return load_config(
        Path(__file__).resolve().parent.parent / "configs" / "bench.toml",
        overrides={
            "gateway": {"data_dir": str(folder / "data")},
            "devices": {"devices_max": max(n_devices, 1000), "token_bytes_max": n_devices * 256 + (1 << 20)},
            "rpc": {"listeners": [], "credit_rows": 8_000_000, "credit_bytes": 1 << 31, "frames_bytes_max": 1 << 31},
            "http": {"address": "tcp://127.0.0.1:0"},
            "long_link": {"listeners": []},
            "apps": [{"key": APP_KEY, "secrets": [{"file": str(folder / "secret")}], "apns": apns}],
        },
    )


def main() -> None:
    task = msgspec.json.decode(sys.argv[1], type=Task)
    sys.stdout.write(json.dumps(measure(task)) + "\n")


if __name__ == "__main__":
    main()
