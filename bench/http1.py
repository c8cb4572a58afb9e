"""What does a request over HTTP/1.1 cost with httpx, httpcore, h11 by hand and our own connection, all on trio?

Each client posts bodies of 1 KiB over 16 persistent connections to the same server (bench/http1_responder.py), in a
process of its own; rounds are interleaved, and a line has the medians of its rounds. Clients: bench/http1_client.py
says what each is, and what is inside of the clock; `lane` is our connection under a whole worker. Workloads are named
client and transport, `h11_tls` or `h11_clear`; a worker only speaks TLS.

    requests_per_s       of wall time; the server has the other core
    cpu_us_per_request   of the client's process; its reverse is what a core of its own would do
    requests_per_core_s  that reverse
    server_bound         the server had over 95 % of its core: the rate says little about the client, its CPU does
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.harness import Line, Options, begun, calibrate, line, progress, report_of
from bench.simulators.tls import TlsFiles, make_tls_files
from bench.vendor import SERVER_BOUND_SHARE, Server

CONNECTIONS = 16
BODY_BYTES = 1024
ROUNDS = 3
REQUESTS_SMOKE = 200
_RUN_TIMEOUT_S = 180.0


class Workload(NamedTuple):
    """requests: per round, some seconds' worth."""

    client: str
    has_tls: bool
    requests: int

    @property
    def name(self) -> str:
        return f"{self.client}_{'tls' if self.has_tls else 'clear'}"


WORKLOADS = (
    Workload("httpx", False, 2_000),
    Workload("httpcore", False, 3_000),
    Workload("h11", False, 15_000),
    Workload("connection", False, 20_000),
    Workload("httpx", True, 2_000),
    Workload("httpcore", True, 3_000),
    Workload("h11", True, 15_000),
    Workload("connection", True, 20_000),
    Workload("lane", True, 20_000),
)


def run(options: Options) -> Iterator[Line]:
    folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-http1-"))
    try:
        files = make_tls_files(folder / "tls")
        for has_tls in (False, True):
            chosen = [
                workload
                for workload in WORKLOADS
                if workload.has_tls is has_tls and (not options.only or workload.name in options.only)
            ]
            if chosen:
                yield from _measure(chosen, files if has_tls else None, options)
    finally:
        shutil.rmtree(folder)


def _measure(workloads: list[Workload], files: TlsFiles | None, options: Options) -> Iterator[Line]:
    """One server for all clients of a transport, and their rounds in turn."""
    rounds = 1 if options.smoke else ROUNDS
    reports: dict[Workload, list[Line]] = {workload: [] for workload in workloads}
    before = calibrate()
    with _serve(files) as server:
        for number in range(rounds):
            for workload in workloads:
                progress(f"http1 {workload.name}: round {number + 1} of {rounds} ...")
                reports[workload].append(_run_client(workload, server, files, options))
    after = calibrate()
    for workload, done in reports.items():
        figures = _figures(done)
        progress(f"  {workload.name}: {figures['requests_per_s']:,}/s, {figures['cpu_us_per_request']} us a request")
        yield line(
            "http1",
            workload.name,
            connections=CONNECTIONS,
            body_bytes=BODY_BYTES,
            requests=done[0]["requests"],
            rounds=rounds,
            **figures,
            calibration_before=before,
            calibration_after=after,
            calibration_unit="million additions per s",
        )


def _figures(done: list[Line]) -> dict[str, Any]:
    def median(key: str) -> float:
        return statistics.median(report[key] / report["requests"] for report in done)

    cpu_s = median("cpu_s")
    share = statistics.median(report["server_cpu_s"] / report["elapsed_s"] for report in done)
    return {
        "requests_per_s": round(1 / median("elapsed_s")),
        "requests_per_core_s": round(1 / cpu_s),
        "cpu_us_per_request": round(cpu_s * 1e6, 1),
        "cpu_system_us_per_request": round(median("cpu_system_s") * 1e6, 1),
        "server_cpu_us_per_request": round(median("server_cpu_s") * 1e6, 1),
        "server_cpu_share": round(share, 3),
        "server_bound": share > SERVER_BOUND_SHARE,
        "client_peak_rss_bytes": max(report["peak_rss_bytes"] for report in done),
        "loop_lag_ms_max": max(report.get("loop_lag_ms_max", 0.0) for report in done),
    }


def _run_client(workload: Workload, server: Server, files: TlsFiles | None, options: Options) -> Line:
    requests = REQUESTS_SMOKE if options.smoke else workload.requests
    task = {
        "client": workload.client,
        "port": server.port,
        "ca_file": None if files is None else str(files.ca),
        "requests": requests,
        "connections": CONNECTIONS,
        "body_bytes": BODY_BYTES,
    }
    spent_before = server.cpu_s()
    report = report_of("bench.http1_client", json.dumps(task), _RUN_TIMEOUT_S)
    # The warm-up, a tenth of the requests, was before the clock; the server's CPU covers both.
    warm_up = max(requests // 10, CONNECTIONS)
    share = requests / (requests + warm_up)
    return {**report, "requests": requests, "server_cpu_s": (server.cpu_s() - spent_before) * share}


@contextlib.contextmanager
def _serve(files: TlsFiles | None) -> Iterator[Server]:
    pem = None if files is None else str(files.good)
    with begun("bench.http1_responder", json.dumps({"certificate": pem, "key": pem})) as (process, port):
        yield Server(process, int(port))
