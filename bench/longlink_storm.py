"""A reconnect storm: a worker dies, its devices come back, and what others' vendor lanes feel of it.

A further line of `bench longlink`. For development: `--set rounds=N`.

    storm        one of two workers is killed; how long until all its devices are back, which come within five seconds,
                 as phones do that draw their wait; and p99 of the vendor lanes of the other worker over that of a
                 window of the same length without a storm. Windows alternate

Inside the clock of a vendor row: from the moment at which its submit is due (open loop, 50 single rows a second on six
connections, all to the worker that lives) to the verdict in its home, in whole milliseconds. The simulator answers at
once and is on the same two cores, as is the generator of the devices, and the process that is started again.
A window is bounded, and so is the wait for its verdicts: a round takes half a minute at most, or fails.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from contextlib import closing
from itertools import chain
from pathlib import Path

from bench.harness import Line, Options, progress
from bench.longlink_fleet import Fleet, ratios
from bench.longlink_servers import Gateway, cpu_s, family
from bench.open_loop import Sent, quantiles, send_open_loop
from bench.vendor_strict import simulators
from gateway.cli.demo.channels import vendor_tables
from gateway.cli.demo.processes import Children
from gateway.client.blocking import BlockingClient
from gateway.content import Variant

_ROWS_PER_S = 50.0
_CLIENTS = 6
_COMES_BACK_WITHIN_S = 5.0
#: All verdicts of a window are there so long after its last submit, or the run fails.
_VERDICTS_S = 20.0
#: A connection's state in /proc/net/tcp.
_ESTABLISHED, _LISTENING = "01", "0A"
#: The next process that waits to be a worker is made ten seconds after the last was taken.
_WHOLE_S = 60.0


def storm(folder: Path, options: Options) -> Line:
    n, rounds, seconds = (400, 1, 2.0) if options.smoke else (10_000, 5, 10.0)
    rounds = int(options.extra.get("rounds", rounds))
    progress(f"longlink storm: {rounds} rounds, one of two workers with {n:,} devices is killed ...")
    back_s: list[float] = []
    with_ms: list[list[float]] = []
    without_ms: list[list[float]] = []
    with Children(folder) as children, simulators(folder / "apns", apns={}) as ready:
        # Tokens that no device of the gateway holds would each be a probe.
        vendors = {"apns": vendor_tables(ready)["apns"] | {"probes": False}}
        with closing(Gateway(children, folder / "gateway", n, workers=2, vendors=vendors)) as gateway:
            clients, survivor = _clients_of_one_worker(gateway)
            fleet = Fleet(children, "fleet")
            fleet.begin(gateway, 0, n, sources=["127.0.0.2"], comes_back_within_s=_COMES_BACK_WITHIN_S)
            fleet.wait_ready(n)
            # Warm-up.
            _vendor_ms(clients, min(3.0, seconds))
            for _ in range(rounds):
                _wait_whole(gateway)
                without_ms.append(_vendor_ms(clients, seconds))
                (victim,) = set(_workers(gateway)) - {survivor}
                lost = fleet.call("statistics")["lost"]
                os.kill(victim, signal.SIGKILL)
                killed_ns = time.monotonic_ns()
                with_ms.append(_vendor_ms(clients, seconds))
                done = fleet.wait_ready(n)
                assert done["lost"] > lost, "no device lost its connection"
                back_s.append((done["ready_ns"] - killed_ns) / 1e9)
                here, there = quantiles(with_ms[-1])["p99"], quantiles(without_ms[-1])["p99"]
                progress(
                    f"  {done['lost'] - lost:,} back after {back_s[-1]:.1f} s; p99 {here:.0f} ms, without {there:.0f}"
                )
            for client in clients:
                client.close()
    all_with, all_without = quantiles(list(chain(*with_ms))), quantiles(list(chain(*without_ms)))
    figures: Line = {
        "devices": n,
        "rounds": rounds,
        "window_s": seconds,
        "back_s": round(statistics.median(back_s), 1),
        "back_s_max": round(max(back_s), 1),
        "back_s_limit": 30.0,
        **{f"vendor_{name}_ms": round(value, 1) for name, value in all_with.items()},
        **{f"vendor_{name}_ms_without": round(value, 1) for name, value in all_without.items()},
        "ratio_to_no_storm_all_windows": round(all_with["p99"] / all_without["p99"], 3),
        **ratios(
            "ratio_to_no_storm",
            [quantiles(each)["p99"] for each in with_ms],
            [quantiles(each)["p99"] for each in without_ms],
        ),
        "ratio_to_no_storm_limit": 1.10,
    }
    progress(f"  all back after {figures['back_s']} s; vendor p99 {figures['ratio_to_no_storm']} of that without")
    return figures


def _clients_of_one_worker(gateway: Gateway) -> tuple[list[BlockingClient], int]:
    """Clients whose connections the kernel gave to the same worker, and its process; who answers them says nothing of
    that, since a submit goes to the home of its request id."""
    by_worker: dict[int, list[BlockingClient]] = {pid: [] for pid in _workers(gateway)}
    port = _port(gateway)
    before = {pid: _sockets(pid, port, _ESTABLISHED) for pid in by_worker}
    while True:
        client = gateway.client()
        client.welcome()
        now = {pid: _sockets(pid, port, _ESTABLISHED) for pid in by_worker}
        (worker,) = [pid for pid in by_worker if now[pid] != before[pid]]
        before = now
        by_worker[worker].append(client)
        if len(by_worker[worker]) == _CLIENTS:
            for each in chain(*(clients for pid, clients in by_worker.items() if pid != worker)):
                each.close()
            return by_worker[worker], worker


def _port(gateway: Gateway) -> int:
    return int(gateway.ready["rpc"][0].rpartition(":")[2])


def _workers(gateway: Gateway) -> list[int]:
    """Their processes: those that listen. The supervisor and a process that waits to be a worker do not."""
    return [pid for pid in family(gateway.pid())[1:] if _sockets(pid, _port(gateway), _LISTENING)]


def _wait_whole(gateway: Gateway) -> None:
    """Two workers, and a process that waits to be the next, are there and at rest: what a death costs is counted where
    it happens, and what it leaves to do is not counted as a quiet window."""
    deadline = time.monotonic() + _WHOLE_S
    while len(family(gateway.pid())) < 4:
        assert time.monotonic() < deadline, "no process waits to be a worker"
        time.sleep(0.1)
    (waiting,) = set(family(gateway.pid())[1:]) - set(_workers(gateway))
    spent_s = -1.0
    while (spent_now_s := cpu_s(waiting, alone=True)) > spent_s:
        assert time.monotonic() < deadline, "a process that is to wait is not through with its start"
        spent_s = spent_now_s
        time.sleep(0.5)


def _sockets(pid: int, port: int, state: str) -> int:
    """Sockets in that state that this process has at that port of its own."""
    opened = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            opened.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == state and f"socket:[{row[9]}]" in opened for row in rows)


def _submit(client: BlockingClient, number: int, due: float) -> bytes:
    content = Variant(title="Storm", body="Does anybody notice?", strategy=2, ttl_s=60)
    answer = client.submit([content], [("apns", f"{number:064x}")])
    assert answer.accepted == 1, f"a row was refused: {answer.refused}"
    return answer.task_id


def _vendor_ms(clients: list[BlockingClient], seconds: float) -> list[float]:
    """From due to the verdict, of each row of a window; returns when all are there."""
    ahead_s = time.time() - time.monotonic()
    sent = send_open_loop(clients, _ROWS_PER_S, seconds, _submit)
    deadline = time.monotonic() + _VERDICTS_S
    return [_verdict_ms(clients[0], each, ahead_s, deadline) for each in sent]


def _verdict_ms(client: BlockingClient, sent: Sent[bytes], ahead_s: float, deadline: float) -> float:
    while not (found := client.task_state(sent.answer)).is_final:
        assert time.monotonic() < deadline, f"a row is still {found.states}"
        time.sleep(0.01)
    assert found.states.get("vendor_accepted") == 1, found.states
    return max(0.0, found.submitted_unix_ms + found.latency_ms["all"].max - (sent.due + ahead_s) * 1000)
