"""What every benchmark shares: the machine, the calibration loop, the lines it prints.

A benchmark file answers one question and offers `run(options) -> Iterator[dict]`; one dict is one measurement. Lines go
to stdout as JSON (`--json`) or as a table, progress goes to stderr, `--out` keeps a copy of the JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

Line = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """smoke: the smallest sizes that still run every path. only: names of workloads, all when empty."""

    smoke: bool = False
    seed: int = 20261121
    only: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)


Benchmark = Callable[[Options], Iterator[Line]]


def progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@cache
def commit() -> str:
    """The commit the tree is at, with + when it was changed; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+" if dirty else "")


@cache
def machine() -> Line:
    cpu = "unknown"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:
        for line in stream:
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def peak_rss_bytes() -> int:
    """Of this process since its start."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def calibrate(rounds: int = 3) -> float:
    """Million additions per second of a fixed pure-Python loop, the best of some rounds: what this core gives now."""
    n = 400_000
    best = 0.0
    for _ in range(rounds):
        started = time.perf_counter()
        total = 0
        for value in range(n):
            total += value & 7
        best = max(best, n / (time.perf_counter() - started) / 1e6)
    return round(best, 2)


def report_of(module: str, task: str, timeout_s: float) -> Line:
    """What a process of its own measured: it is given the task as JSON, and prints its report as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, task], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{module} failed: {done.stderr[-3000:]}"
    report: Line = json.loads(done.stdout)
    return report


@contextlib.contextmanager
def begun(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """(process, its first line) of a Python module that serves until the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.terminate()
        process.communicate(timeout=10)


def line(benchmark: str, workload: str, **figures: Any) -> Line:
    """One measurement with what every line carries."""
    return {
        "benchmark": benchmark,
        "workload": workload,
        **figures,
        "peak_rss_bytes": peak_rss_bytes(),
        "machine": machine(),
        "commit": commit(),
        "arguments": sys.argv[1:],
    }
