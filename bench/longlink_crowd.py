"""The long link with several workers: what they cost together, and a crowd of devices.

Further lines of `bench longlink`, with the same generator. Devices of the crowd come from 127.0.1.1 and up: the third
number is the generator's, with an address for every 5,000 of its devices.
For development: `--set rounds=N` for two_workers; `--set devices=N`, `workers=N` and `seconds=N` for the crowd.

    two_workers  CPU per million deliveries of two workers over that of one, rounds of two gateways alternating; how
                 evenly the two share it; the wall-clock ratio. Submits go over 16 RPC connections, so both are homes.
                 Rounds begin when the process that waits to be a worker is there: its start is not of the rows
    crowd        180,000 connections on twelve workers, 5 % of them reconnecting per minute, 2,000 pushes per second to
                 devices drawn at random: latencies, and rows lost

Inside the crowd's clock: from the moment at which a submit of 100 rows is due (open loop: 20 a second, whether the ones
before have been answered or not) to the generator that has read the message (`latency`), or to the socket of the device
(`latency_at_socket`, see the generator). Twelve generators, twelve workers and the submitter share the machine. Before
the clock starts the gateway has come to rest after the connects, and the same load has run for ten seconds.
`others_cores` is what the machine spent on neither: where it is not small, the tail is not the gateway's alone.
"""

from __future__ import annotations

import random
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import Line, Options, progress
from bench.longlink_fleet import Fleet, ratios
from bench.longlink_servers import Gateway, cpu_s, family, machine_cpu_s
from bench.longlink_storm import storm, storm_restart, wait_whole
from bench.open_loop import Sent, quantiles, send_open_loop
from gateway.cli.demo.processes import Children
from gateway.client.blocking import BlockingClient

#: Connections of one generator or worker: 20,000 files each, less what else is open.
PER_PROCESS = 15_000
#: Linux looks for a free port among those of one parity first (14,116 by default). Once an address has used them up
#: each connect goes through all of them, which takes the kernel 1.8 ms; a phone has an address of its own.
_PER_SOURCE = 5_000
#: Two busy cores have taken 100 seconds for a third of the crowd, and far longer for all of it.
_CONNECTED_S_MAX = 1_800.0
SUBMITS_PER_S, SUBMIT_ROWS = 20.0, 100


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
            wait_whole(gateways[2])
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
    workers, per_fleet, seconds, warm_up_s = (2, 200, 3.0, 1.0) if options.smoke else (12, PER_PROCESS, 60.0, 10.0)
    workers = int(options.extra.get("workers", workers))
    per_fleet = int(options.extra.get("devices", workers * per_fleet)) // workers
    seconds = float(options.extra.get("seconds", seconds))
    n = workers * per_fleet
    # Owners are drawn by a hash: some have a little more than their share.
    at_most = per_fleet + max(500, per_fleet // 20)
    progress(f"longlink crowd: {n:,} devices on {workers} workers ...")
    with (
        Children(folder) as children,
        closing(Gateway(children, folder / "gateway", at_most, workers=workers, n_clients=workers * 2)) as gateway,
    ):
        pids = family(gateway.pid())
        started = time.monotonic()
        fleets = [Fleet(children, f"fleet-{k}") for k in range(workers)]
        for k, fleet in enumerate(fleets):
            sources = [f"127.0.{1 + k}.{1 + j}" for j in range(-(-per_fleet // _PER_SOURCE))]
            fleet.begin(gateway, k * per_fleet, per_fleet, sources=sources, comes_back_within_s=0.05)
        _wait_connected(fleets, per_fleet, started)
        connected_s = time.monotonic() - started
        connect_cpu_s = sum(cpu_s(pid, alone=True) for pid in pids)
        idle_cores = _wait_quiet(pids)
        progress(
            f"  connected after {connected_s:.1f} s, then idle at {idle_cores:.2f} cores; {seconds:g} s of pushes ..."
        )
        for fleet in fleets:
            fleet.call("latencies")
            fleet.call("churn", per_s=0.05 * per_fleet / 60)
        load = Load(gateway, n, options.seed)
        load.push(warm_up_s)
        _final(gateway, load)
        for fleet in fleets:
            fleet.call("latencies")
        before = _spent(pids, fleets)
        asked = load.push(seconds)
        gateway_s, generators_s, submitter_s, machine_s = _spent(pids, fleets) - before
        states = _final(gateway, load)
        seen = [fleet.call("statistics") for fleet in fleets]
        latencies = [fleet.call("take_latencies") for fleet in fleets]
        for fleet in fleets:
            fleet.call("churn", per_s=0.0)
    read_ms = quantiles([us / 1000 for each in latencies for us in each["latency_us"]])
    at_socket_ms = quantiles([us / 1000 for each in latencies for us in each["at_socket_us"]])
    answered_ms = quantiles([(each.ended - each.due) * 1000 for each in asked])
    figures: Line = {
        "devices": n,
        "workers": workers,
        "connected_s": round(connected_s, 1),
        "connect_cpu_s": round(connect_cpu_s, 1),
        "idle_cores": round(idle_cores, 3),
        "seconds": seconds,
        "rows": load.rows,
        "states": states,
        "not_acknowledged": load.rows - states.get("device_acked", 0),
        "received": sum(each["received"] for each in seen),
        "measured": sum(len(each["latency_us"]) for each in latencies),
        "dup": sum(each["dup"] for each in seen),
        "churned": sum(each["churned"] for each in seen),
        "lost_connections": sum(each["lost"] for each in seen),
        "submits_late_ms_max": round(max(each.began - each.due for each in asked) * 1000, 1),
        **{f"answer_{name}_ms": round(value, 1) for name, value in answered_ms.items()},
        **{f"latency_{name}_ms": round(value, 1) for name, value in read_ms.items()},
        **{f"latency_at_socket_{name}_ms": round(value, 1) for name, value in at_socket_ms.items()},
        # Spread over the minute, or one moment in which everything stood still?
        "answer_max_ms_by_second": _by_second(asked),
        "latency_p99_ms_limit": 100.0,
        "gateway_cores": round(gateway_s / seconds, 2),
        "generator_cores": round(generators_s / seconds, 2),
        "submitter_cores": round(submitter_s / seconds, 2),
        # Interrupts are in it, and whatever else the machine does.
        "others_cores": round((machine_s - gateway_s - generators_s - submitter_s) / seconds, 2),
    }
    progress(
        f"  p99 {figures['latency_p99_ms']} ms, {figures['latency_at_socket_p99_ms']} at the socket; "
        f"{figures['not_acknowledged']} of {load.rows:,} rows not acknowledged"
    )
    return figures


class Load:
    """2,000 rows a second to devices drawn at random, in submits of 100, open loop."""

    def __init__(self, gateway: Gateway, n_devices: int, seed: int) -> None:
        self._gateway = gateway
        self._n_devices = n_devices
        self._seed = seed
        self.tasks: list[bytes] = []

    @property
    def rows(self) -> int:
        return len(self.tasks) * SUBMIT_ROWS

    def push(self, seconds: float) -> list[Sent[bytes]]:
        first = len(self.tasks)

        def request(client: BlockingClient, number: int, due: float) -> bytes:
            devices = random.Random(self._seed + first + number).sample(range(self._n_devices), SUBMIT_ROWS)
            return self._gateway.submit(client, devices, round(due * 1e9))

        done = send_open_loop(self._gateway.clients, SUBMITS_PER_S, seconds, request)
        self.tasks += [each.answer for each in done]
        return done


def _by_second(asked: list[Sent[bytes]]) -> list[float]:
    """The longest answer to the submits that were due in each second."""
    found: dict[int, float] = {}
    for each in asked:
        second = int(each.due - asked[0].due)
        found[second] = max(found.get(second, 0.0), each.ended - each.due)
    return [round(found[second] * 1000, 1) for second in sorted(found)]


def _spent(pids: list[int], fleets: list[Fleet]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """CPU seconds of gateway, generators, this process, and the whole machine."""
    of_fleets = sum(float(fleet.call("figures")["cpu_s"]) for fleet in fleets)
    of_gateway = sum(cpu_s(pid, alone=True) for pid in pids)
    return np.array([of_gateway, of_fleets, time.process_time(), machine_cpu_s()])


def _wait_quiet(pids: list[int]) -> float:
    """Cores that these processes take while nobody does anything: of the last second, when it is not less than in the
    one before, or after half a minute."""
    deadline, last = time.monotonic() + 30.0, float("inf")
    while True:
        before, began = sum(cpu_s(pid, alone=True) for pid in pids), time.monotonic()
        time.sleep(1.0)
        cores = (sum(cpu_s(pid, alone=True) for pid in pids) - before) / (time.monotonic() - began)
        if cores >= 0.8 * last or time.monotonic() > deadline:
            return cores
        last = cores


def _wait_connected(fleets: list[Fleet], per_fleet: int, started: float) -> None:
    """All devices of all fleets are connected; a word from time to time, since a busy machine takes minutes."""
    for k, fleet in enumerate(fleets):
        while (ready := fleet.call("wait", what="ready", n=per_fleet, timeout_s=10.0)["ready"]) < per_fleet:
            took_s = time.monotonic() - started
            progress(f"  fleet {k + 1} of {len(fleets)}: {ready:,} of {per_fleet:,} connected after {took_s:.0f} s")
            assert took_s < _CONNECTED_S_MAX, f"fleet {k + 1}: {ready} of {per_fleet} devices are connected"


def _final(gateway: Gateway, load: Load) -> dict[str, int]:
    """The states of all rows, once none is open, or after a minute."""
    deadline = time.monotonic() + 60.0
    done: dict[bytes, dict[str, int]] = {}
    while True:
        for task in load.tasks:
            if task not in done:
                found = gateway.clients[0].task_state(task)
                if found.is_final or time.monotonic() > deadline:
                    done[task] = dict(found.states)
        if len(done) == len(load.tasks):
            states: dict[str, int] = {}
            for one in done.values():
                for state, count in one.items():
                    states[state] = states.get(state, 0) + count
            return {state: count for state, count in states.items() if count}
        time.sleep(0.5)


MEASURE = {"two_workers": two_workers, "crowd": crowd, "storm": storm, "storm_restart": storm_restart}
