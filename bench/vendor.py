"""How fast does one of our connections to a vendor run beside a C client, and what does a request cost it?

Our client is a real lane of a worker over TLS (bench/vendor_client.py says what is inside of the clock); the other is
`h2load`. Both send the same body size, headers, connections, streams (1,000) and token paths, to the same server;
each runs in a process of its own, and rounds alternate. A line gives medians of the rounds' figures and ratios:

    ratio_to_h2load       requests per second, ours / h2load's of the same round
    cpu_ratio_to_h2load   CPU per request, ours / h2load's; what h2load spends on starting is taken off
    server_bound          the server had over 95 % of its core in our rounds: the rate says little about the clients

Workloads: `shared` (one content, body of about 200 bytes), `body_1k`, `distinct` (a text per row; h2load sends one
body of the mean size), `connections_4`, all against `nghttpd -m 1000`; and `unique_header`, `unique_header_huffman`
(an `apns-id` of its own in each answer) beside `constant_header`, against bench/vendor_responder.py.
`cpu_ratio_to_constant` is then our CPU per request over that with constant headers.

The tokens' paths are empty files (hard links), so nghttpd answers 200 with an empty body, as a vendor does; unknown
paths would be 404 with a body of its own, and every row a rejection. h2load's apns-id and body are the same for all
requests, because it cannot vary them. Rows in the lane and uniqueness of ids are ours alone to pay.

Memory of waiting rows, added latency, probing and bad neighbours: bench/vendor_strict.py, in the same run.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench import vendor_strict
from bench.harness import Line, Options, begun, calibrate, line, progress, report_of
from bench.ports import free_port
from bench.simulators.tls import make_tls_files

TOOLS = ("nghttpd", "h2load")
STREAMS_MAX = 1000
TOKENS = 10_000
TOKENS_SMOKE = 500
ROUNDS = 5
SERVER_BOUND_SHARE = 0.95
_RUN_TIMEOUT_S = 180.0
#: Debian keeps daemons where a plain user's PATH does not look.
_EXTRA_PATH = ":/usr/sbin:/sbin:/usr/local/sbin"


class Workload(NamedTuple):
    """content: what the client makes of it. header: None for nghttpd, else the responder's mode. rows: per round."""

    name: str
    content: str
    connections: int
    header: str | None
    rows: int


WORKLOADS = (
    Workload("shared", "shared", 1, None, 200_000),
    Workload("body_1k", "body_1k", 1, None, 100_000),
    Workload("distinct", "distinct", 1, None, 200_000),
    Workload("connections_4", "shared", 4, None, 200_000),
    Workload("constant_header", "shared", 1, "constant", 200_000),
    Workload("unique_header", "shared", 1, "unique", 200_000),
    Workload("unique_header_huffman", "shared", 1, "unique_huffman", 200_000),
)


def run(options: Options) -> Iterator[Line]:
    path = os.environ.get("PATH", "") + _EXTRA_PATH
    tools = {name: shutil.which(name, path=path) for name in TOOLS}
    missing = [name for name, found in tools.items() if found is None]
    if missing:
        progress(f"vendor: skipped, {', '.join(missing)} not installed (packages nghttp2-server and nghttp2-client)")
        yield line("vendor", "all beside h2load", skipped=f"missing: {', '.join(missing)}")
    else:
        folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-vendor-"))
        try:
            yield from _measure_all(VendorBench(folder, {name: str(found) for name, found in tools.items()}, options))
        finally:
            shutil.rmtree(folder)
    yield from vendor_strict.run(options)


def _measure_all(bench: VendorBench) -> Iterator[Line]:
    constant_cpu_us: float | None = None
    for workload in WORKLOADS:
        if bench.options.only and workload.name not in bench.options.only:
            continue
        figures = bench.measure(workload)
        if workload.name == "constant_header":
            constant_cpu_us = figures["cpu_us_per_request"]
        elif workload.header is not None and constant_cpu_us:
            figures["cpu_ratio_to_constant"] = round(figures["cpu_us_per_request"] / constant_cpu_us, 3)
        yield line("vendor", workload.name, **figures)


class Server:
    """A server process and the CPU it has used."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def cpu_s(self) -> float:
        """Of all its threads so far."""
        spent = 0
        for stat in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
            spent += int(stat.read_text().split()[0])
        return spent / 1e9


class Run(NamedTuple):
    """One client's run: seconds, CPU seconds of the client, CPU seconds of the server, what else it said."""

    elapsed_s: float
    cpu_s: float
    server_cpu_s: float
    report: Line


class VendorBench:
    def __init__(self, folder: Path, tools: dict[str, str], options: Options) -> None:
        self.options = options
        self._folder = folder
        self._tools = tools
        self._tls = make_tls_files(folder / "tls")
        tokens = [secrets.token_hex(32) for _ in range(TOKENS_SMOKE if options.smoke else TOKENS)]
        self._n_tokens = len(tokens)
        self._tokens_file = folder / "tokens"
        self._tokens_file.write_text("\n".join(tokens))
        base = folder / "www" / "3" / "device"
        base.mkdir(parents=True)
        (folder / "www" / "empty").touch()
        for token in tokens:
            os.link(folder / "www" / "empty", base / token)

    def measure(self, workload: Workload) -> Line:
        rows = self._n_tokens * 4 if self.options.smoke else workload.rows
        rounds = 1 if self.options.smoke else ROUNDS
        progress(f"vendor {workload.name}: {rounds} rounds of {rows:,} requests by each client ...")
        before = calibrate()
        with self._serve(workload) as server:
            # Warm-up; it also tells what h2load is to send.
            warm_up = self._run_ours(server, workload, min(rows, 4 * self._n_tokens))
            request = warm_up.report
            start_cpu_s = self._run_h2load(server, workload, workload.connections, request).cpu_s
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(warm_up if self.options.smoke else self._run_ours(server, workload, rows))
                theirs.append(self._run_h2load(server, workload, rows, request))
        figures = _figures(ours, theirs, rows, start_cpu_s)
        progress(
            f"  {figures['requests_per_s']:,} requests/s, {figures['ratio_to_h2load']} of h2load's; CPU "
            f"{figures['cpu_us_per_request']} us a request, {figures['cpu_ratio_to_h2load']} of h2load's"
        )
        return {
            "connections": workload.connections,
            "streams": STREAMS_MAX,
            "body_bytes": request["body_bytes"],
            "requests": rows,
            "rounds": rounds,
            "server": "nghttpd" if workload.header is None else f"responder, {workload.header} header",
            "answers": "200, empty body",
            **figures,
            "calibration_before": before,
            "calibration_after": calibrate(),
            "calibration_unit": "million additions per s",
        }

    @contextlib.contextmanager
    def _serve(self, workload: Workload) -> Iterator[Server]:
        pem = str(self._tls.good)
        if workload.header is not None:
            arguments = json.dumps({"certificate": pem, "key": pem, "header": workload.header})
            with begun("bench.vendor_responder", arguments) as (process, port):
                yield Server(process, int(port))
        else:
            yield from self._serve_nghttpd(pem)

    def _serve_nghttpd(self, pem: str) -> Iterator[Server]:
        port = free_port()
        www = str(self._folder / "www")
        command = [
            self._tools["nghttpd"],
            "-a",
            "127.0.0.1",
            "-d",
            www,
            "-m",
            str(STREAMS_MAX),
            str(port),
            pem,
            pem,
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        _wait_listening(process, port)
        try:
            yield Server(process, port)
        finally:
            process.terminate()
            process.communicate(timeout=10)

    def _run_ours(self, server: Server, workload: Workload, rows: int) -> Run:
        task = {
            "port": server.port,
            "ca_file": str(self._tls.ca),
            "tokens_file": str(self._tokens_file),
            "workload": workload.content,
            "rows": rows,
            "connections": workload.connections,
            "seed": self.options.seed,
        }
        server_before = server.cpu_s()
        report = report_of("bench.vendor_client", json.dumps(task), _RUN_TIMEOUT_S)
        return Run(report["elapsed_s"], report["cpu_s"], server.cpu_s() - server_before, report)

    def _run_h2load(self, server: Server, workload: Workload, rows: int, request: Line) -> Run:
        body = self._folder / "body"
        body.write_text(request["body"][: request["body_bytes"]].ljust(request["body_bytes"]))
        uris = self._folder / "uris"
        tokens = self._tokens_file.read_text().split()
        uris.write_text("".join(f"https://127.0.0.1:{server.port}/3/device/{token}\n" for token in tokens))
        command = [self._tools["h2load"], "-n", str(rows), "-c", str(workload.connections), "-t", "1"]
        command += ["-m", str(STREAMS_MAX), "-d", str(body), "-i", str(uris)]
        for name, value in request["headers"].items():
            command += ["-H", f"{name}: {value}"]
        server_before = server.cpu_s()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, timeout=_RUN_TIMEOUT_S, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, f"h2load failed: {done.stderr[-2000:]}"
        assert f"{rows} succeeded" in done.stdout, f"h2load was not answered: {done.stdout[-2000:]}"
        return Run(
            _h2load_elapsed_s(done.stdout),
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            server.cpu_s() - server_before,
            {},
        )


def _wait_listening(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, f"nghttpd ended with {process.returncode}"
            assert time.monotonic() < deadline, "nghttpd does not listen"
            time.sleep(0.02)
        else:
            return


def _h2load_elapsed_s(text: str) -> float:
    """From `finished in 936.81ms, 106744.89 req/s, 2.76MB/s`."""
    word = next(each for each in text.splitlines() if each.startswith("finished in")).split()[2].rstrip(",")
    for unit, factor in (("ms", 1e-3), ("us", 1e-6), ("s", 1.0)):
        if word.endswith(unit):
            return float(word.removesuffix(unit)) * factor
    raise AssertionError(f"h2load's time is {word!r}")


def _figures(ours: list[Run], theirs: list[Run], rows: int, start_cpu_s: float) -> Line:
    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    def share(runs: list[Run]) -> float:
        return round(median(each.server_cpu_s / each.elapsed_s for each in runs), 3)

    ratios = [b.elapsed_s / a.elapsed_s for a, b in zip(ours, theirs, strict=True)]
    cpu_ratios = [a.cpu_s / max(b.cpu_s - start_cpu_s, 1e-3) for a, b in zip(ours, theirs, strict=True)]
    figures: dict[str, Any] = {
        "ratio_to_h2load": round(statistics.median(ratios), 3),
        "ratio_to_h2load_min": round(min(ratios), 3),
        "ratio_to_h2load_max": round(max(ratios), 3),
        "cpu_ratio_to_h2load": round(statistics.median(cpu_ratios), 3),
        "requests_per_s": round(median(rows / each.elapsed_s for each in ours)),
        "h2load_requests_per_s": round(median(rows / each.elapsed_s for each in theirs)),
        "cpu_us_per_request": round(median(each.cpu_s / rows * 1e6 for each in ours), 3),
        "h2load_cpu_us_per_request": round(median((each.cpu_s - start_cpu_s) / rows * 1e6 for each in theirs), 3),
        "server_cpu_share": share(ours),
        "server_cpu_share_h2load": share(theirs),
        "loop_lag_ms_max": max(each.report["loop_lag_ms_max"] for each in ours),
        "client_peak_rss_bytes": max(each.report["peak_rss_bytes"] for each in ours),
        "connections_open": max(each.report["connections_open"] for each in ours),
    }
    figures["server_bound"] = figures["server_cpu_share"] > SERVER_BOUND_SHARE
    return figures
