"""Our client of bench/vendor_strict.py, a process of its own: the worker that `serve` runs, against strict simulators.

    python -m bench.vendor_strict_client '{"job": "open", ...}'

    queued      rows are routed and wait in the lane, whose connection is held back: what a waiting row costs in memory
    drain       rows wait in the lane, then all leave at once: how many a second the vendor and we manage together
    latency     the same first; then rows come at half of that rate, open loop: what we add to a row's way
    neighbours  two apps with a vendor each; one has a fault or none, the other is timed from the intended submit on

Rows are submitted over RPC sessions inside of the process. Open loop: they are due at fixed times, whether or not
earlier ones were answered, and a late submit counts as latency.
"""

from __future__ import annotations

import gc
import http.client
import json
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import trio

from bench.core_transport import FeedStream
from bench.harness import Line, peak_rss_bytes, resident_bytes
from bench.vendor_client import contents
from bench.vendor_stopwatch import Stopwatch, percentiles
from bench.worker import GatedWorker, register, running
from gateway.cli.demo.channels import vendor_tables
from gateway.client.requests import UNSENT, little_endian, texts
from gateway.columns import U8, TextColumn
from gateway.config import load_config
from gateway.content import Variant
from gateway.core.breaker import BreakerState
from gateway.ledger import CHANNEL_NAMES, State
from gateway.wire.rpc.messages import Submit

SUBMIT_ROWS = 10_000
TICK_S = 0.004
#: Rows of the vendor with the fault end after so long, so that one window leaves little to the next.
FAR_TTL_S = 3
#: Submitted until its breaker is closed again.
TRIAL_ROWS = 10
_POLL_S = 0.005
_RUN_TIMEOUT_S = 300.0


class AppPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One app with one vendor. ready: the ready line of its simulators. tokens: how many devices it has.

    settings: laid over the vendor's table. is_proven: its tokens are vouched for.
    """

    key: str
    vendor: str
    ready: dict[str, Any]
    tokens: int
    settings: dict[str, Any] = {}
    is_proven: bool = True


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """rows: in all (queued, drain, latency's first part). seconds, rate_per_s: of open loops; rate 0 = half of what was
    measured. faults: name -> what is PUT to the control port of the last app's simulators; null: its port is closed."""

    job: str
    apps: list[AppPlan]
    seed: int
    rows: int = 0
    content: str = "shared"
    seconds: float = 0.0
    rate_per_s: float = 0.0
    rounds: int = 1
    faults: dict[str, dict[str, Any] | None] = {}


class Site:
    """A worker with its apps' devices and one RPC session per app."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self._secret = secrets.token_hex(32).encode()
        (folder / "secret").write_bytes(self._secret)
        self.worker = GatedWorker(_config(job, folder))
        self.rows_put = 0
        self.feeds = [FeedStream(app.key, self._secret) for app in job.apps]
        self._source = np.random.default_rng([job.seed, os.getpid()])
        self.ids = [self._register(index, app) for index, app in enumerate(job.apps)]

    def _register(self, index: int, app: AppPlan) -> U8:
        ids: U8 = self._source.integers(0, 256, (app.tokens, 16), np.uint8)
        prefix = b"" if app.vendor == "apns" else b"fcm-token-"
        tokens = TextColumn.from_rows([prefix + row.tobytes().hex().encode() * 2 for row in ids])
        channel, proven = CHANNEL_NAMES[app.vendor], int(app.is_proven)
        register(self.worker, index, ids, channel, tokens, proven_unix_s=proven)
        return ids

    async def run(self, measure: Callable[[Site], Awaitable[Line]]) -> Line:
        with trio.fail_after(_RUN_TIMEOUT_S):
            async with running(self.worker, *self.feeds):
                figures = await measure(self)
        return {**figures, "peak_rss_bytes": peak_rss_bytes()}

    def submits(self, app: int, rows: int, n: int, *, ttl_s: int | None = None) -> list[tuple[int, bytes, int]]:
        """(rows, frame, bytes of text) of submits of n rows each or of all its devices, over those in turn."""
        source = random.Random(self.job.seed)
        ids = self.ids[app]
        n = min(n, len(ids))
        made = []
        for begin in range(0, rows, n):
            count = min(n, rows - begin)
            chosen = ids[np.arange(begin, begin + count) % len(ids)]
            content, columns = contents(self.job.content, count, source)
            if ttl_s is not None:
                content = msgspec.structs.replace(content, ttl_s=ttl_s)
            submit = _submit(content, columns, chosen)
            ((_, frame),) = self.feeds[app].encode([submit])
            made.append((count, frame, sum(len(column.blob) for column in columns.values())))
        return made

    def queued(self) -> int:
        return sum(
            actor.lane.rows for built in self.worker.vendor_lanes for actor in (*built.lanes, *built.probe_lanes)
        )

    async def until_final(self) -> None:
        """All that was put has been accepted, and no row is open."""
        while self.worker.home.rows_open or self.rows_accepted() < self.rows_put:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(_POLL_S)

    def put(self, app: int, rows: int, frame: bytes) -> None:
        self.rows_put += rows
        self.feeds[app].put(frame, rows)

    def rows_accepted(self) -> int:
        return sum(int(page.counts.sum()) for page in self.worker.home.pages())

    async def fill(self, frames: Sequence[tuple[int, bytes, int]]) -> None:
        """All rows wait in the lane of the first app."""
        wanted = self.queued()
        for rows, frame, _ in frames:
            self.put(0, rows, frame)
            wanted += rows
            # Not all at once: frames that wait to be read are no part of what is measured.
            while self.queued() < wanted:  # noqa: ASYNC110 - lanes tell nobody that they are full
                await trio.sleep(_POLL_S)

    def counts(self) -> dict[str, int]:
        states = sum(page.counts for page in self.worker.home.pages())
        return {state.name.lower(): int(states[state]) for state in State if states[state]}


def _submit(content: Variant, columns: Mapping[str, TextColumn], ids: U8) -> Submit:
    return Submit(
        id=UNSENT,
        contents=[content],
        n=len(ids),
        device_ids=little_endian(ids.reshape(-1), "u1"),
        variables={name: texts(column) for name, column in columns.items()} or None,
    )


async def queued(site: Site) -> Line:
    frames = site.submits(0, site.job.rows, SUBMIT_ROWS)
    first, rest = frames[:1], frames[1:]
    # What is made once (lane, variants, first pages) is there before it is measured.
    await site.fill(first)
    rows = sum(rows for rows, _, _ in rest)
    text_bytes = sum(size for _, _, size in rest)
    before = resident_bytes()
    # The frames stand in memory before and after; whoever keeps a part of one does not make it look cheaper.
    await site.fill(rest)
    gc.collect()
    after = resident_bytes()
    assert site.queued() == rows + first[0][0]
    return {
        "rows": rows,
        "text_bytes_per_row": round(text_bytes / rows, 1),
        "bytes_per_row": round((after - before) / rows, 1),
        "bytes_per_row_beyond_text": round((after - before - text_bytes) / rows, 1),
    }


async def drain(site: Site) -> Line:
    await site.fill(site.submits(0, site.job.rows, SUBMIT_ROWS))
    return {**await _let_go(site), "states": site.counts()}


async def _let_go(site: Site) -> Line:
    gc.collect()
    cpu = time.process_time()
    started = time.perf_counter()
    site.worker.gate.set()
    await site.until_final()
    elapsed = time.perf_counter() - started
    return {"elapsed_s": elapsed, "cpu_s": time.process_time() - cpu}


async def latency(site: Site) -> Line:
    """The vendor's rate first; then half of it, with a stopwatch on each row."""
    await site.fill(site.submits(0, site.job.rows, SUBMIT_ROWS))
    done = await _let_go(site)
    taken_per_s = site.job.rows / done["elapsed_s"]
    rate = site.job.rate_per_s or taken_per_s / 2
    watch = Stopwatch(site.worker, site.worker.vendor_lanes[0], site.worker.opened)
    rounds = []
    with watch:
        for _ in range(site.job.rounds):
            watch.reset()
            await _open_loop(site, {0: rate}, watch)
            await site.until_final()
            rounds.append({"added": percentiles(watch.added_s), "whole": percentiles(watch.whole_s)})
    return {"simulator_takes_per_s": round(taken_per_s), "rate_per_s": round(rate), "rounds": rounds}


async def neighbours(site: Site) -> Line:
    """Rounds of two windows per fault, without and with it, in turn first; figures are of the first app.

    Each window with a fault has one without beside it: the machine is another one half a minute later.
    """
    site.worker.gate.set()
    watch = Stopwatch(site.worker, site.worker.vendor_lanes[0], [])
    rate, far, gone = site.job.rate_per_s, 1, 2
    windows: dict[str, dict[str, list[Line]]] = {name: {"with": [], "without": []} for name in site.job.faults}
    with watch:
        # Warm-up: connections, credentials, templates.
        await _open_loop(site, {0: rate, far: rate}, watch, seconds=min(1.0, site.job.seconds))
        await site.until_final()
        for number in range(site.job.rounds):
            for name, kept in windows.items():
                for is_faulty in (False, True) if number % 2 == 0 else (True, False):
                    fault = site.job.faults[name] if is_faulty else None
                    other = gone if is_faulty and fault is None else far
                    if fault is not None:
                        await trio.to_thread.run_sync(_control, site.job.apps[far].ready, "PUT", fault)
                    watch.reset()
                    await _open_loop(site, {0: rate, other: rate}, watch)
                    if fault is not None:
                        await trio.to_thread.run_sync(_control, site.job.apps[far].ready, "DELETE", None)
                    await site.until_final()
                    if fault is not None:
                        await _make_well(site, far)
                    kept["with" if is_faulty else "without"].append(percentiles(watch.whole_s))
    metrics = site.worker.metrics
    return {"windows": windows, "states": site.counts(), "not_conserved": metrics.rows_not_conserved.value()}


async def _make_well(site: Site, app: int) -> None:
    """The app's vendor is sent to again: a breaker left open would spare the next windows the work of its rows."""
    breaker = site.worker.vendor_lanes[app].pool.breaker
    while breaker.state is not BreakerState.CLOSED:
        for rows, frame, _ in site.submits(app, TRIAL_ROWS, TRIAL_ROWS, ttl_s=FAR_TTL_S):
            site.put(app, rows, frame)
        await site.until_final()


async def _open_loop(site: Site, rates: dict[int, float], watch: Stopwatch, *, seconds: float | None = None) -> None:
    """Each app gets its rate in rows per second, in ticks that are due whatever became of the ticks before."""
    ticks = round((site.job.seconds if seconds is None else seconds) / TICK_S)
    frames = {}
    for app, rate in rates.items():
        n = max(1, round(rate * TICK_S))
        every = max(1, round(n / (rate * TICK_S)))
        ttl_s = FAR_TTL_S if app else None
        frames[app] = deque(site.submits(app, n * -(-ticks // every), n, ttl_s=ttl_s)), every
    gc.collect()
    started = trio.current_time() + TICK_S
    for tick in range(ticks):
        due = started + tick * TICK_S
        await trio.sleep_until(due)
        for app, (waiting, every) in frames.items():
            # Apps take turns, so that neither always stands behind the other in the same turn of the loop.
            if (tick + app) % every == 0 and waiting:
                rows, frame, _ = waiting.popleft()
                if app == 0:
                    watch.due(rows, due)
                site.put(app, rows, frame)


def _control(ready: dict[str, Any], method: str, fault: dict[str, Any] | None) -> None:
    where = ready["control"]
    connection = http.client.HTTPConnection(where["host"], where["port"], timeout=10)
    try:
        connection.request(method, "/fault", None if fault is None else json.dumps(fault))
        response = connection.getresponse()
        assert response.status == 200, response.read()
    finally:
        connection.close()


def _config(job: Job, folder: Path) -> Any:
    devices = sum(app.tokens for app in job.apps)
    apps = []
    for app in job.apps:
        settings = vendor_tables(app.ready)[app.vendor] | {"rate_per_s": 1e9, "burst": 1_000_000_000} | app.settings
        apps.append({"key": app.key, "secrets": [{"file": str(folder / "secret")}], app.vendor: settings})
    return load_config(
        Path(__file__).resolve().parent.parent / "configs" / "bench.toml",
        overrides={
            "gateway": {"data_dir": str(folder / "data")},
            "devices": {"devices_max": max(devices, 1000), "token_bytes_max": devices * 256 + (1 << 20)},
            "rpc": {"listeners": [], "credit_rows": 8_000_000, "credit_bytes": 1 << 31, "frames_bytes_max": 1 << 31},
            "http": {"address": "tcp://127.0.0.1:0"},
            # An opening is not doubled here: each window with a fault is to be the first of its day.
            "breaker": {"open_s_max": 5.0},
            "http2": {"request_timeout_s": 4.0 if job.job == "neighbours" else 30.0},
            "long_link": {"listeners": []},
            "apps": apps,
        },
    )


JOBS = {"queued": queued, "drain": drain, "latency": latency, "neighbours": neighbours}


async def _work(job: Job, folder: Path) -> Line:
    return await Site(job, folder).run(JOBS[job.job])


def main() -> None:
    job = msgspec.json.decode(sys.argv[1], type=Job)
    folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
    try:
        sys.stdout.write(json.dumps(trio.run(_work, job, folder)) + "\n")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
