"""The long link with several workers: what they cost together, a crowd of devices, and a worker that dies.

Further lines of `bench longlink`, with the same generator. Sources are 127.0.0.2 and up, one for each generator.
For development: `--set rounds=N` for two_workers and storm, `--set devices=N` for the crowd.

    two_workers  CPU per million deliveries of two workers over that of one, rounds of two gateways alternating; how
                 evenly the two share it; the wall-clock ratio. Submits go over 16 RPC connections, so both are homes
    crowd        180,000 connections on twelve workers, 5 % of them reconnecting per minute, 2,000 pushes per second to
                 devices drawn at random: latency from before the submit to the generator, and rows lost
    storm        one of two workers is killed; how long until all its devices are back, which come within five seconds,
                 as phones do that draw their wait; and what the vendor lanes of the others feel of it: p99 from the
                 intended submit to the verdict as its sender sees it, over that of the window without the storm
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from contextlib import closing
from pathlib import Path

from bench.harness import Line, Options, progress
from bench.longlink_fleet import Fleet, ratios
from bench.longlink_servers import Gateway, cpu_s, family
from bench.vendor_strict import simulators
from gateway.cli.demo.channels import vendor_tables
from gateway.cli.demo.processes import Children
from gateway.content import Variant

WORKLOADS = ("two_workers", "crowd", "storm")
#: Connections of one generator or worker: 20,000 files each, less what else is open.
PER_PROCESS = 15_000
#: Two busy cores have taken 100 seconds for a third of the crowd.
_CONNECTED_S_MAX = 900.0
#: Submits between two words on how it goes: ten seconds.
_PROGRESS_TICKS = 200


def two_workers(folder: Path, options: Options) -> Line:
    n, rounds, pushes = (200, 2, 2) if options.smoke else (5_000, 9, 10)
    rounds = int(options.extra.get("rounds", rounds))
    progress(f"longlink two_workers: {rounds} rounds of {pushes} messages to each of {n:,} devices ...")
    rates: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    shares = []
    with Children(folder) as children:
        gateways = {k: Gateway(children, folder / f"workers-{k}", n, workers=k, n_clients=16) for k in (1, 2)}
        with closing(gateways[1]), closing(gateways[2]):
            fleets = {k: Fleet(children, f"fleet-{k}") for k in gateways}
            for k, gateway in gateways.items():
                fleets[k].connect(gateway, n)
                fleets[k].push(gateway, n, 16)
            for number in range(rounds):
                for k in (1, 2) if number % 2 == 0 else (2, 1):
                    before = {pid: cpu_s(pid, alone=True) for pid in family(gateways[k].pid())}
                    took_s = fleets[k].push(gateways[k], n, pushes)
                    spent = sorted(cpu_s(pid, alone=True) - was for pid, was in before.items())
                    rates[k].append(n * pushes / took_s)
                    cpu[k].append(sum(spent) / (n * pushes) * 1e6)
                    if k == 2:
                        shares.append(spent[-1] / sum(spent))
    figures = {
        "devices": n,
        "rounds": rounds,
        "rows_per_s_one": round(statistics.median(rates[1])),
        "rows_per_s": round(statistics.median(rates[2])),
        "cpu_s_per_million_one": round(statistics.median(cpu[1]), 2),
        "cpu_s_per_million": round(statistics.median(cpu[2]), 2),
        **ratios("cpu_ratio_to_one_worker", cpu[2], cpu[1]),
        "cpu_ratio_to_one_worker_limit": 1.18,
        **ratios("ratio_to_one_worker", rates[2], rates[1]),
        "busiest_worker_share": round(statistics.median(shares), 3),
        "busiest_worker_share_limit": 0.6,
    }
    progress(
        f"  {figures['cpu_ratio_to_one_worker']} of one worker's CPU, {figures['ratio_to_one_worker']} of its rate"
    )
    return figures


def crowd(folder: Path, options: Options) -> Line:
    workers, per_fleet, seconds = (2, 200, 3.0) if options.smoke else (12, PER_PROCESS, 60.0)
    per_fleet = int(options.extra.get("devices", workers * per_fleet)) // workers
    n = workers * per_fleet
    # Owners are drawn by a hash: some have a little more than their share.
    at_most = per_fleet + max(500, per_fleet // 20)
    progress(f"longlink crowd: {n:,} devices on {workers} workers ...")
    source = random.Random(options.seed)
    with (
        Children(folder) as children,
        closing(Gateway(children, folder / "gateway", at_most, workers=workers, n_clients=workers * 2)) as gateway,
    ):
        started = time.monotonic()
        fleets = [Fleet(children, f"fleet-{k}") for k in range(workers)]
        for k, fleet in enumerate(fleets):
            fleet.begin(gateway, k * per_fleet, per_fleet, sources=[f"127.0.0.{2 + k}"], comes_back_within_s=0.05)
        _wait_connected(fleets, per_fleet, started)
        connected_s = time.monotonic() - started
        progress(f"  connected after {connected_s:.1f} s; {seconds:g} s of pushes ...")
        for fleet in fleets:
            fleet.call("latencies")
            fleet.call("churn", per_s=0.05 * per_fleet / 60)
        tasks, rows, late_s = _pushes(gateway, n, seconds, source)
        states = _final(gateway, tasks, rows)
        seen = [fleet.call("statistics") for fleet in fleets]
        for fleet in fleets:
            fleet.call("churn", per_s=0.0)
        spent = sum(cpu_s(pid, alone=True) for pid in family(gateway.pid()))
    by_fleet = [each["latency_ms"] for each in seen if each["latency_ms"]]
    figures = {
        "devices": n,
        "workers": workers,
        "connected_s": round(connected_s, 1),
        "seconds": seconds,
        "rows": rows,
        "states": states,
        "not_acknowledged": rows - states.get("device_acked", 0),
        "received": sum(each["received"] for each in seen),
        "dup": sum(each["dup"] for each in seen),
        "churned": sum(each["churned"] for each in seen),
        "lost_connections": sum(each["lost"] for each in seen),
        "submits_late_ms_max": round(late_s * 1000, 1),
        "latency_p50_ms": round(statistics.median(each["p50"] for each in by_fleet), 1),
        # Of the worst generator: each has seen one in twelve of the messages.
        "latency_p99_ms": round(max(each["p99"] for each in by_fleet), 1),
        "latency_p99_ms_median": round(statistics.median(each["p99"] for each in by_fleet), 1),
        "latency_max_ms": round(max(each["max"] for each in by_fleet), 1),
        "latency_p99_ms_limit": 100.0,
        "gateway_cpu_s": round(spent, 1),
    }
    progress(f"  p99 {figures['latency_p99_ms']} ms, {figures['not_acknowledged']} of {rows:,} rows not acknowledged")
    return figures


def _wait_connected(fleets: list[Fleet], per_fleet: int, started: float) -> None:
    """All devices of all fleets are connected; a word from time to time, since a busy machine takes minutes."""
    for k, fleet in enumerate(fleets):
        while (ready := fleet.call("wait", what="ready", n=per_fleet, timeout_s=10.0)["ready"]) < per_fleet:
            took_s = time.monotonic() - started
            progress(f"  fleet {k + 1} of {len(fleets)}: {ready:,} of {per_fleet:,} connected after {took_s:.0f} s")
            assert took_s < _CONNECTED_S_MAX, f"fleet {k + 1}: {ready} of {per_fleet} devices are connected"


def _pushes(gateway: Gateway, n: int, seconds: float, source: random.Random) -> tuple[list[bytes], int, float]:
    """2,000 rows a second in submits of 100, open loop: (task ids, rows, latest submit in seconds)."""
    tasks, rows, late_s = [], 0, 0.0
    started = time.monotonic()
    for tick in range(round(seconds / 0.05)):
        due = started + tick * 0.05
        time.sleep(max(0.0, due - time.monotonic()))
        late_s = max(late_s, time.monotonic() - due)
        if tick and tick % _PROGRESS_TICKS == 0:
            progress(f"  {rows:,} rows after {tick * 0.05:.0f} s, latest submit {late_s * 1000:.0f} ms late")
        devices = source.sample(range(n), 100)
        tasks.append(gateway.push_to(devices))
        rows += len(devices)
    return tasks, rows, late_s


def _final(gateway: Gateway, tasks: list[bytes], rows: int) -> dict[str, int]:
    """The states of all rows, once none is open, or after a minute."""
    deadline = time.monotonic() + 60.0
    while True:
        states: dict[str, int] = {}
        for task in tasks:
            for state, count in gateway.clients[0].task_state(task).states.items():
                states[state] = states.get(state, 0) + count
        is_open = any(states.get(name) for name in ("queued", "held", "in_flight", "waiting"))
        if (sum(states.values()) == rows and not is_open) or time.monotonic() > deadline:
            return {state: count for state, count in states.items() if count}
        time.sleep(0.5)


def storm(folder: Path, options: Options) -> Line:
    n, rounds, seconds = (400, 1, 3.0) if options.smoke else (10_000, 5, 12.0)
    rounds = int(options.extra.get("rounds", rounds))
    progress(f"longlink storm: {rounds} rounds, one of two workers with {n:,} devices is killed ...")
    back_s, with_ms, without_ms = [], [], []
    with Children(folder) as children, simulators(folder / "apns", apns={}) as ready:
        # Tokens that no device of the gateway holds would each be a probe.
        vendors = {"apns": vendor_tables(ready)["apns"] | {"probes": False}}
        with closing(Gateway(children, folder / "gateway", n, workers=2, vendors=vendors)) as gateway:
            fleet = Fleet(children, "fleet")
            fleet.begin(gateway, 0, n, sources=["127.0.0.2"], comes_back_within_s=5.0)
            fleet.wait_ready(n)
            for _ in range(rounds):
                workers = family(gateway.pid())[1:]
                before = {pid: cpu_s(pid, alone=True) for pid in workers}
                without_ms.append(_vendor_p99_ms(gateway, seconds))
                # The sender's own worker has worked the most; another one dies.
                victim = min(workers, key=lambda pid: cpu_s(pid, alone=True) - before[pid])
                lost = fleet.call("statistics")["lost"]
                os.kill(victim, signal.SIGKILL)
                killed_ns = time.monotonic_ns()
                with_ms.append(_vendor_p99_ms(gateway, seconds))
                done = fleet.wait_ready(n)
                assert done["lost"] > lost, "no device lost its connection"
                back_s.append((done["ready_ns"] - killed_ns) / 1e9)
    figures = {
        "devices": n,
        "rounds": rounds,
        "back_s": round(statistics.median(back_s), 1),
        "back_s_max": round(max(back_s), 1),
        "back_s_limit": 30.0,
        "vendor_p99_ms": round(statistics.median(with_ms), 1),
        "vendor_p99_ms_without": round(statistics.median(without_ms), 1),
        **ratios("ratio_to_no_storm", with_ms, without_ms),
        "ratio_to_no_storm_limit": 1.10,
    }
    progress(f"  all back after {figures['back_s']} s; vendor p99 {figures['ratio_to_no_storm']} of that without")
    return figures


def _vendor_p99_ms(gateway: Gateway, seconds: float) -> float:
    """p99 from the intended submit to the verdict, 250 rows a second, each a submit of its own."""
    client = gateway.clients[0]
    content = Variant(title="Storm", body="Does anybody notice?", strategy=2, ttl_s=60)
    sent: list[tuple[bytes, float]] = []
    started = time.monotonic()
    for tick in range(round(seconds * 250)):
        due = started + tick / 250
        time.sleep(max(0.0, due - time.monotonic()))
        late_ms = (time.monotonic() - due) * 1000
        answer = client.submit([content], [("apns", f"{tick:064x}")])
        assert answer.accepted == 1, f"a row was refused: {answer.refused}"
        sent.append((answer.task_id, late_ms))
    latencies = []
    for task, late_ms in sent:
        while not (found := client.task_state(task)).is_final:
            time.sleep(0.01)
        assert found.states.get("vendor_accepted") == 1, found.states
        latencies.append(found.latency_ms["all"].max + late_ms)
    return sorted(latencies)[int(0.99 * (len(latencies) - 1))]


MEASURE = {"two_workers": two_workers, "crowd": crowd, "storm": storm}
