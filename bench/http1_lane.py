"""`lane` of `bench http1`: a worker whose HTTP/1.1 lane is filled before the clock starts.

Rows are submitted over the RPC session of the worker, routed, and wait in the lane: its credential is held back until
all of them are there. Inside the clock: bucket, render, HTTP/1.1, TLS, answers classified from their JSON bodies,
verdicts written to the ledger. Outside: RPC, intake, routing, the first socket's handshake.
"""

from __future__ import annotations

import gc
import resource
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import trio

import vendors
from bench.core_transport import FeedStream
from bench.harness import Line, peak_rss_bytes
from bench.worker import register, running
from gateway.app import Worker
from gateway.client.requests import UNSENT, little_endian
from gateway.columns import TextColumn
from gateway.config import Config, load_config
from gateway.content import Variant
from gateway.ledger import Channel, State
from gateway.vendor import HttpVersion, Limits, RequestTemplate, Slot, parse_template, slot_json
from gateway.verdict import Answer, Verdict
from gateway.wire.rpc.messages import Submit
from vendors import VendorEntry
from vendors.auth.credential import Issued, SecretPlace
from vendors.connecting import ConnectingSettings
from vendors.http_answer import by_status_class, decode_object

APP_KEY = "bench"
NAME = "xiaomi"
#: Bytes of a request's body beside the text: the message's fields and ids.
_FRAME_BYTES = 120
_ROWS_PER_SUBMIT = 2000
_POLL_S = 0.005
_RUN_TIMEOUT_S = 120.0


class Settings(ConnectingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str
    port: int
    ca_file: str
    secret_file: str
    rate_per_s: float = 1e9
    burst: int = 1_000_000_000
    connections_max: int = 1
    http_version: HttpVersion = "1.1"


class BenchVendor:
    """One message a request, as the smallest vendors have it; errors in the body of a 200."""

    name: ClassVar[str] = NAME
    bad_tokens_stall: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def authority(self) -> tuple[str, int]:
        return self._settings.host, self._settings.port

    def limits(self, variant: Variant) -> Limits:
        return Limits(4096)

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate:
        names = ("registration_id", "notify_id", "title", "description")
        slots = ("token", "message_id", "title", "body")
        body = msgspec.json.encode({name: slot_json(slot) for name, slot in zip(names, slots, strict=True)})
        headers = (
            (b"authorization", (Slot("authorization"),)),
            (b"content-type", (b"application/json;charset=UTF-8",)),
            (b"user-agent", (b"pushgw",)),
        )
        return RequestTemplate((b"/v3/message/regid",), headers, parse_template(body))

    def check_token(self, token: str) -> str:
        return "" if token.isalnum() and token.isascii() else "token is not alphanumeric"

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        if status != 200:
            return by_status_class(status, "", headers)
        return Answer(Verdict.ACCEPTED if decode_object(body).get("code") == 0 else Verdict.UNCERTAIN)


class _Credential:
    gap_s = 1.0

    def issue(self, now_unix_s: float, *, fresh: bool = False) -> Issued:
        return Issued(b"key=Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6", 4e9, 4e9)


def measure_lane(task: Any) -> Line:
    """task: of `bench/http1_client.py`."""
    vendors.REGISTRY[NAME] = VendorEntry(
        Settings, BenchVendor, lambda settings: SecretPlace(settings.secret_file, ""), lambda *_: _Credential()
    )
    folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
    try:
        return trio.run(_measure, task, folder)
    finally:
        shutil.rmtree(folder)


async def _measure(task: Any, folder: Path) -> Line:
    secret = secrets.token_hex(32).encode()
    worker = Worker(_config(task, folder, secret))
    ids = np.random.default_rng(1).integers(0, 256, (_ROWS_PER_SUBMIT, 16), np.uint8)
    register(worker, 0, ids, Channel.XIAOMI, TextColumn.from_rows([each.tobytes().hex().encode() for each in ids]))
    feed = FeedStream(APP_KEY, secret)
    with trio.fail_after(_RUN_TIMEOUT_S):
        async with running(worker, feed):
            warm_up = max(task.requests // 10, task.connections)
            await _post(worker, feed, ids, warm_up, task.body_bytes)
            figures = await _post(worker, feed, ids, task.requests, task.body_bytes)
    states = sum(page.counts for page in worker.home.pages())
    accepted = int(states[State.VENDOR_ACCEPTED])
    assert accepted == warm_up + task.requests, f"{accepted} of {warm_up + task.requests} rows accepted"
    return {**figures, "peak_rss_bytes": peak_rss_bytes()}


async def _post(worker: Worker, feed: FeedStream, ids: Any, n: int, body_bytes: int) -> Line:
    """n rows wait in the lane, then go; returns when every one is final."""
    (built,) = worker.vendor_lanes
    keeper: Any = built.keeper
    keeper.get_nowait = lambda: None
    submits = []
    for start in range(0, n, len(ids)):
        count = min(len(ids), n - start)
        content = Variant(title="Hello", body="a" * (body_bytes - _FRAME_BYTES), strategy=2)
        columns = little_endian(ids[:count].reshape(-1), "u1")
        submits.append(Submit(id=UNSENT, contents=[content], n=count, device_ids=columns))
    for rows, frame in feed.encode(submits):
        feed.put(frame, rows)
    while sum(actor.lane.rows for actor in built.lanes) < n:  # noqa: ASYNC110 - lanes tell nobody that they are full
        await trio.sleep(_POLL_S)
    gc.collect()
    worker.step_watch.take_longest()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    del keeper.get_nowait
    for lane in built.lanes:
        lane.ring()
    while worker.home.rows_open:  # noqa: ASYNC110 - the home tells nobody that it is done
        await trio.sleep(_POLL_S)
    elapsed = time.perf_counter() - started
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "elapsed_s": elapsed,
        "cpu_s": spent.ru_utime + spent.ru_stime - usage.ru_utime - usage.ru_stime,
        "cpu_system_s": spent.ru_stime - usage.ru_stime,
        "loop_lag_ms_max": round(worker.step_watch.take_longest().duration_s * 1000, 2),
    }


def _config(task: Any, folder: Path, secret: bytes) -> Config:
    """configs/bench.toml with one app and one vendor at our address; the bucket lets everything pass."""
    (folder / "secret").write_bytes(secret)
    vendor = {
        "host": "127.0.0.1",
        "port": task.port,
        "ca_file": task.ca_file,
        "secret_file": str(folder / "secret"),
    }
    return load_config(
        Path(__file__).resolve().parent.parent / "configs" / "bench.toml",
        overrides={
            "gateway": {"data_dir": str(folder / "data")},
            "http1": {"sockets_max": task.connections, "queue_max": task.connections},
            "devices": {"devices_max": 10_000, "token_bytes_max": 1 << 20},
            "rpc": {"listeners": []},
            "http": {"address": "tcp://127.0.0.1:0"},
            "long_link": {"listeners": []},
            "apps": [{"key": APP_KEY, "secrets": [{"file": str(folder / "secret")}], NAME: vendor}],
        },
    )
