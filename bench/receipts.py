"""How many receipts of vendors does one core of the gateway take?

Unit: receipts per CPU second of the gateway's process (`receipts_per_cpu_s`), and requests; beside it what a single
client got through (`*_per_s`), with the time of one request. Inside the clock: HTTP/1.1 over TCP, the signature
(Huawei), parsing, finding the row among 65,536 of its batch by its token, counters, the ring for subscribers, and the
journal: the app is on disk, and a request is answered when what it says is durable. Outside: TLS, which most sites end
in front of us. Rows are drawn at random; the clock stops when the last receipt is dealt with. 32 connections with one
request under way on each: what comes within a window shares its commit.

    gathered   10 receipts in a request, as Huawei sends them, signed
    single     one receipt in a request, as OPPO sends them
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.harness import Line, Options, calibrate, line, progress
from bench.receipts_workload import KEY, USER, WORKLOADS, Workload, posts
from gateway.cli.toml_text import to_toml

PAGES = 4
CONNECTIONS = 32
_TICK = os.sysconf("SC_CLK_TCK")


def run(options: Options) -> Iterator[Line]:
    for workload in WORKLOADS:
        if options.only and workload.name not in options.only:
            continue
        size = workload._replace(requests=100) if options.smoke else workload
        progress(f"receipts: {size.requests} requests of {size.receipts} ...")
        before = calibrate()
        with tempfile.TemporaryDirectory(prefix="pushgw-bench-") as folder:
            figures = _measure(size, Path(folder), options.seed)
        yield line("receipts", workload.name, **figures, calibration=before)


def _config(folder: Path) -> Path:
    (folder / "app").write_bytes(b"a secret of the app")
    (folder / "key").write_bytes(KEY)
    (folder / "id").write_bytes(bytes(range(32)))
    vendors = {
        "huawei": {"client_id": "1", "client_secret_file": str(folder / "key"), "callback_user": USER}
        | {"callback_secret_file": str(folder / "key")},
        "oppo": {"app_key_id": "1", "master_secret_file": str(folder / "key")},
    }
    table = {
        "gateway": {"data_dir": str(folder), "message_id_secret_file": str(folder / "id")},
        "receipts": {"listeners": [{"address": "tcp://127.0.0.1:0"}]},
        "http": {"address": "tcp://127.0.0.1:0"},
        "observe": {"log_level": "error"},
        "store": {"data_dir": str(folder / "store"), "shard_groups": 1},
        "apps": [{"key": "shop", "secrets": [{"file": str(folder / "app")}], "durability": "disk", **vendors}],
    }
    file = folder / "gateway.toml"
    file.write_text(to_toml(table))
    return file


def _measure(workload: Workload, folder: Path, seed: int) -> Line:
    command = [sys.executable, "-m", "bench.receipts_server", str(_config(folder)), str(PAGES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        told = json.loads(server.stdout.readline())
        bodies = posts(workload, told["batches"][workload.channel.name.lower()], bytes(range(32)), seed)
        warm = min(100, len(bodies) // 4)
        port = int(told["address"].rsplit(":", 1)[1])
        asyncio.run(_post_all(port, bodies[:warm]))
        _drained(server, warm * workload.receipts)
        cpu, started = _cpu_s(server.pid), time.perf_counter()
        times = asyncio.run(_post_all(port, bodies[warm:]))
        counts = _drained(server, workload.requests * workload.receipts)
        elapsed, cpu = time.perf_counter() - started, _cpu_s(server.pid) - cpu
        server.stdin.close()
        server.wait(20)
    n = len(bodies) - warm
    outcomes = counts["outcomes"]
    assert outcomes["counted"] + outcomes["repeated"] == workload.requests * workload.receipts, counts
    times.sort()
    return {
        "requests": n,
        "receipts": n * workload.receipts,
        "receipts_per_cpu_s": round(n * workload.receipts / max(cpu, 1e-3)),
        "requests_per_cpu_s": round(n / max(cpu, 1e-3)),
        "receipts_per_s": round(n * workload.receipts / elapsed),
        "cpu_us_per_request": round(cpu / n * 1e6, 1),
        "request_ms_p50": round(times[n // 2] * 1000, 2),
        "request_ms_p99": round(times[int(n * 0.99)] * 1000, 2),
        "request_ms_max": round(times[-1] * 1000, 2),
        "longest_step_ms": counts["longest_step_ms"],
        "repeated": outcomes["repeated"],
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _drained(server: subprocess.Popen[str], receipts: int) -> dict[str, Any]:
    """The gateway's counts when it has dealt with so many receipts."""
    assert server.stdin is not None
    assert server.stdout is not None
    deadline = time.monotonic() + 60
    while True:
        server.stdin.write("\n")
        server.stdin.flush()
        counts: dict[str, Any] = json.loads(server.stdout.readline())
        if sum(counts["outcomes"].values()) >= receipts:
            return counts
        assert time.monotonic() < deadline, counts
        time.sleep(0.002)


async def _post_all(port: int, bodies: list[bytes]) -> list[float]:
    """Posts each over one of some kept connections, one at a time on each; seconds of each."""
    left = deque(bodies)
    times: list[float] = []
    await asyncio.gather(*[_connection(port, left, times) for _ in range(CONNECTIONS)])
    return times


async def _connection(port: int, left: deque[bytes], times: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while left:
        body = left.popleft()
        started = time.perf_counter()
        writer.write(body)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        times.append(time.perf_counter() - started)
    writer.close()
    await writer.wait_closed()
