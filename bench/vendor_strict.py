"""What does a row cost and suffer on its way through a lane, on good and on bad days of a vendor?

Further lines of `bench vendor`, against the strict simulators (each in a process of its own, as is our client, see
bench/vendor_strict_client.py). A line gives the median of its rounds, and the smallest and the largest.

    queued_shared, queued_distinct  1,000,000 rows wait in the lane; `bytes_per_row_beyond_text`: growth of the process
                                    less the texts, per row; pages, journal and queue are in it, devices are not
    latency_added                   (first byte handed to the kernel - row taken by the lane) + (verdict written -
                                    answer readable) per row, open loop at half of what simulator and we take together
    new_tokens_5_percent_dead       no token is proven, one in twenty is dead: rows per second with probing over those
                                    without, rounds alternating
    neighbour_of_*                  p99 from the intended submit to the verdict at one app's vendor while the vendor of
                                    another app has a fault, over that of the window without it; windows alternate
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.harness import Line, Options, begun, calibrate, line, progress, report_of
from bench.ports import free_port
from bench.vendor_strict_client import AppPlan, Job
from gateway.cli.toml_text import to_toml

QUEUED_ROWS = 1_000_000
DRAIN_ROWS = 6_000
#: Devices; the simulators have no limit per device, so each may get any number of rows.
TOKENS = 10_000
RATE_PER_S = 250.0
WINDOW_S = 4.0
LATENCY_S = 5.0
ROUNDS = 5
DEAD_SHARE = 0.05
_RUN_TIMEOUT_S = 400.0
#: What the far vendor does; None: its port is closed.
FAULTS: dict[str, dict[str, Any] | None] = {
    "slow_vendor": {"kind": "latency", "ms": 3_000},
    # Some seven a second: each costs a handshake at both ends.
    "goaway_storm": {"kind": "goaway", "form": "double", "share": 0.03},
    "resets": {"kind": "reset_socket", "share": 0.03},
    "503_bursts": {
        "kind": "errors",
        "mix": [{"share": 1.0, "status": 503, "reason": "UNAVAILABLE", "retry_after_s": 1}],
    },
    "refused_connections": None,
}
WORKLOADS = (
    "queued_shared",
    "queued_distinct",
    "latency_added",
    "new_tokens_5_percent_dead",
    *(f"neighbour_of_{name}" for name in FAULTS),
)


def run(options: Options) -> Iterator[Line]:
    """The lines that are asked for."""
    wanted = [name for name in WORKLOADS if not options.only or name in options.only]
    if not wanted:
        return
    folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-strict-"))
    try:
        for workload, figures in _measure(StrictBench(folder, options), wanted):
            yield line("vendor", workload, **figures)
    finally:
        shutil.rmtree(folder)


def _measure(bench: StrictBench, wanted: list[str]) -> Iterator[tuple[str, Line]]:
    for content in ("shared", "distinct"):
        if f"queued_{content}" in wanted:
            yield f"queued_{content}", bench.queued(content)
    if "latency_added" in wanted:
        yield "latency_added", bench.latency()
    if "new_tokens_5_percent_dead" in wanted:
        yield "new_tokens_5_percent_dead", bench.probing()
    faults = {name: fault for name, fault in FAULTS.items() if f"neighbour_of_{name}" in wanted}
    if faults:
        for name, figures in bench.neighbours(faults).items():
            yield f"neighbour_of_{name}", figures


class StrictBench:
    def __init__(self, folder: Path, options: Options) -> None:
        self._folder = folder
        self._options = options
        self._rounds = 1 if options.smoke else ROUNDS

    def queued(self, content: str) -> Line:
        rows = 30_000 if self._options.smoke else QUEUED_ROWS
        progress(f"vendor queued_{content}: {rows:,} rows wait in the lane ...")
        with simulators(self._folder / "queued", apns={}) as ready:
            app = self._app(ready)
            # One submit more, which warms up.
            figures = self._client(job="queued", apps=[app], rows=rows + app.tokens, content=content)
        progress(f"  {figures['bytes_per_row_beyond_text']} bytes a row beyond its text")
        return {**figures, "bytes_per_row_max": 200}

    def latency(self) -> Line:
        rows = 1_000 if self._options.smoke else DRAIN_ROWS
        progress(f"vendor latency_added: {self._rounds} rounds of {self._seconds(LATENCY_S):g} s, open loop ...")
        with simulators(self._folder / "latency", apns={}) as ready:
            app = self._app(ready, settings={"connections_max": 1})
            seconds = self._seconds(LATENCY_S)
            report, calibration = self._calibrated(job="latency", apps=[app], rows=rows, seconds=seconds)
        rounds = report.pop("rounds")
        figures = {
            **report,
            "rows": sum(each["added"]["rows"] for each in rounds),
            "rounds": len(rounds),
            **_spread("added", [each["added"] for each in rounds]),
            **_spread("whole", [each["whole"] for each in rounds]),
            "added_p99_ms_limit": 5.0,
            **calibration,
        }
        progress(f"  p99 {figures['added_p99_ms']} ms added at {figures['rate_per_s']} rows/s")
        return figures

    def probing(self) -> Line:
        rows = 1_000 if self._options.smoke else DRAIN_ROWS
        progress(
            f"vendor new_tokens_5_percent_dead: {self._rounds} rounds of {rows:,} rows with and without probes ..."
        )
        rates: dict[bool, list[float]] = {True: [], False: []}
        states: Line = {}
        before = calibrate()
        fates = [{"fate": "BadDeviceToken", "share": DEAD_SHARE}]
        with simulators(self._folder / "probing", apns={"fates": fates}) as ready:
            for number in range(self._rounds):
                # Whoever is first has the cold caches; so they take turns.
                for probes in (True, False) if number % 2 == 0 else (False, True):
                    app = self._app(ready, settings={"probes": probes}, is_proven=False, tokens=rows)
                    report = self._client(job="drain", apps=[app], rows=rows)
                    rates[probes].append(rows / report["elapsed_s"])
                    states = report["states"]
        ratios = [on / off for on, off in zip(rates[True], rates[False], strict=True)]
        figures = {
            "rows": rows,
            "rounds": self._rounds,
            "states": states,
            "ratio_to_probing_off": round(statistics.median(ratios), 3),
            "ratio_to_probing_off_min": round(min(ratios), 3),
            "ratio_to_probing_off_max": round(max(ratios), 3),
            "rows_per_s": round(statistics.median(rates[True])),
            "rows_per_s_probing_off": round(statistics.median(rates[False])),
            "calibration_before": before,
            "calibration_after": calibrate(),
        }
        progress(f"  {figures['rows_per_s']} rows/s, {figures['ratio_to_probing_off']} of that without probes")
        return figures

    def neighbours(self, faults: dict[str, dict[str, Any] | None]) -> dict[str, Line]:
        seconds = self._seconds(WINDOW_S)
        progress(f"vendor neighbours: {self._rounds} rounds of {2 * len(faults)} windows of {seconds:g} s ...")
        limits = {"device_messages_per_minute": 0, "device_messages_per_hour": 0}
        with simulators(self._folder / "near", apns={}) as near, simulators(self._folder / "far", fcm=limits) as far:
            gone = far | {"fcm": far["fcm"] | {"port": free_port()}}
            far_faults = {name: fault and {"simulator": "fcm", **fault} for name, fault in faults.items()}
            report, calibration = self._calibrated(
                job="neighbours",
                apps=[
                    self._app(near, tokens=2_000),
                    AppPlan(key="far", vendor="fcm", ready=far, tokens=2_000),
                    # Its tokens are fetched where they always are; only the vendor's own port is closed.
                    AppPlan(
                        key="gone",
                        vendor="fcm",
                        ready=far,
                        tokens=2_000,
                        settings={"host": gone["fcm"]["host"], "port": gone["fcm"]["port"]},
                    ),
                ],
                seconds=seconds,
                rate_per_s=RATE_PER_S,
                faults=far_faults,
            )
        assert report["not_conserved"] == 0
        lines = {}
        for name in faults:
            windows, base = report["windows"][name]["with"], report["windows"][name]["without"]
            ratios = [with_["p99_ms"] / without["p99_ms"] for with_, without in zip(windows, base, strict=True)]
            lines[name] = {
                "rate_per_s": RATE_PER_S,
                "seconds": seconds,
                "rounds": len(windows),
                "ratio_to_no_fault": round(statistics.median(ratios), 3),
                "ratio_to_no_fault_min": round(min(ratios), 3),
                "ratio_to_no_fault_max": round(max(ratios), 3),
                "ratio_to_no_fault_limit": 1.10,
                **_spread("with_fault", windows),
                **_spread("without", base),
                **calibration,
            }
            progress(f"  {name}: p99 {lines[name]['ratio_to_no_fault']} of that without the fault")
        return lines

    def _seconds(self, seconds: float) -> float:
        return 0.4 if self._options.smoke else seconds

    def _app(self, ready: Line, **over: Any) -> AppPlan:
        tokens = 1_000 if self._options.smoke else TOKENS
        return AppPlan(**{"key": "near", "vendor": "apns", "ready": ready, "tokens": tokens} | over)

    def _calibrated(self, **job: Any) -> tuple[Line, Line]:
        before = calibrate()
        report = self._client(rounds=self._rounds, **job)
        return report, {"calibration_before": before, "calibration_after": calibrate()}

    def _client(self, **job: Any) -> Line:
        plan = Job(seed=self._options.seed, **job)
        return report_of("bench.vendor_strict_client", msgspec.json.encode(plan).decode(), _RUN_TIMEOUT_S)


@contextlib.contextmanager
def simulators(folder: Path, **tables: Line) -> Iterator[Line]:
    """A process with the simulators of these tables; yields its ready line."""
    folder.mkdir(exist_ok=True)
    config = folder / "simulators.toml"
    config.write_text(to_toml({"received": {"requests_kept": 0}, **tables}))
    options = ["--config", str(config), "--dir", str(folder), "--json", "--exit-with-parent"]
    with begun("bench.simulators", *options) as (_, ready):
        yield json.loads(ready)


def _spread(name: str, rounds: list[Line]) -> Line:
    """Median, smallest and largest p99 of the rounds, and the medians of the other figures."""
    p99 = [each["p99_ms"] for each in rounds]
    return {
        f"{name}_p50_ms": round(statistics.median(each["p50_ms"] for each in rounds), 3),
        f"{name}_p99_ms": round(statistics.median(p99), 3),
        f"{name}_p99_ms_min": min(p99),
        f"{name}_p99_ms_max": max(p99),
        f"{name}_p999_ms": round(statistics.median(each["p999_ms"] for each in rounds), 3),
        f"{name}_max_ms": max(each["max_ms"] for each in rounds),
    }
