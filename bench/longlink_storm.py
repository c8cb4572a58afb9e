"""Reconnect storms: a worker's devices come back to its next life, and what vendor lanes feel of it meanwhile.

Further lines of `bench longlink`. For development: `--set rounds=N`, `--set seconds=N`.

    storm          kill -9 of one of two workers: all its connections end in one moment
    storm_restart  `pushgw restart`: both workers leave and are started anew, one after the other, and close their
                   devices bit by bit

Devices come back within twenty seconds, as phones do that draw their wait; `back_s` runs from the death, or from the
moment in which the second worker began to leave, until all are back, and 30 s are required of each worker;
`all_back_s_max` from the command that restarts both. A window begins with the death or the command and is
as long as a storm may take, 30 s; it alternates with one without a storm, of the same length and load. `vendor_*` is
the p99 over all rows of a window over that of the one without (1.10 required); `vendor_first_*` the same over rows that
were due in its first ten seconds. `verdict_first_*` is the older figure, to the verdict instead of to the vendor; a
worker that is started anew has no verdicts of before, so it is in `storm` alone.

Inside the clock of a row: from the moment at which its submit is due (open loop, 100 single rows a second on sixteen
connections) to its arrival at the simulator, in whole milliseconds of the simulator's clock. In `storm` all connections
are to the worker that lives; half of the request ids have their home at the other one. Every row has to arrive.

Phones have processors of their own; these have two with the gateway, the simulator and the submitter. So the process
that stands for them runs at low priority (`nice` 19): it hears of 5,000 ends and connects again while nobody else has
work; `devices_cpu_s` is what that takes of a storm's window. No row from submit to vendor passes through it. On a busy
machine devices come back later for it. Simulator, submitter and the dying worker have the priority of the living one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from bench.harness import Line, Options, progress
from bench.longlink_fleet import Fleet, ratios
from bench.longlink_servers import Gateway, cpu_s, family
from bench.open_loop import Sent, quantiles, send_open_loop
from bench.vendor_strict import simulators
from gateway.cli.control_port import ControlPort
from gateway.cli.demo.channels import vendor_tables
from gateway.cli.demo.processes import Children
from gateway.client.blocking import BlockingClient
from gateway.content import Variant

_ROWS_PER_S = 100.0
#: A request whose turn comes when none is free waits for the bench, not for the gateway: six were too few when busy.
_CLIENTS = 16
_FIRST_S = 10.0
#: As docs/device-protocol.md has it for a connection that the gateway's end gave up.
_COMES_BACK_WITHIN_S = 20.0
#: All rows of a window have arrived, and all verdicts are there, so long after its last submit, or the run fails.
_ARRIVAL_S, _VERDICTS_S = 20.0, 40.0
_RESTART_S = 120.0
#: Of the process of the devices.
_NICE = 19
#: A connection's state in /proc/net/tcp.
_ESTABLISHED, _LISTENING = "01", "0A"
#: The next process that waits to be a worker is made ten seconds after the last was taken.
_WHOLE_S = 60.0


class _Window(NamedTuple):
    """Milliseconds of each row to the vendor, and of those that were due first; and to the verdict of those."""

    all_ms: list[float]
    first_ms: list[float]
    verdict_first_ms: list[float]


class _Site:
    """What a storm is made in."""

    def __init__(self, gateway: Gateway, fleet: Fleet, control: ControlPort, n: int) -> None:
        self.gateway, self.fleet, self.n = gateway, fleet, n
        self.clients: list[BlockingClient] = []
        self._control = control
        self._n_tokens = 0
        self.twice = 0

    def window(self, seconds: float, *, with_verdicts: bool) -> _Window:
        """Rows that are due in so many seconds; returns when all have arrived and their verdicts are there."""
        first = self._n_tokens
        ahead_s = time.time() - time.monotonic()

        def submit(client: BlockingClient, number: int, due: float) -> bytes:
            content = Variant(title="Storm", body="Does anybody notice?", strategy=2, ttl_s=60)
            answer = client.submit([content], [("apns", _token(first + number))])
            assert answer.accepted == 1, f"a row was refused: {answer.refused}"
            return answer.task_id

        sent = send_open_loop(self.clients, _ROWS_PER_S, seconds, submit)
        self._n_tokens += len(sent)
        arrived = self._arrivals(first, len(sent))
        due_ms = [(each.due + ahead_s) * 1000 for each in sent]
        all_ms = [max(0.0, at - due) for at, due in zip(arrived, due_ms, strict=True)]
        n_first = sum(each.due < sent[0].due + _FIRST_S for each in sent)
        verdicts: list[float] = []
        if with_verdicts:
            deadline = time.monotonic() + _VERDICTS_S
            verdicts = [_verdict_ms(self.clients[0], each, ahead_s, deadline) for each in sent[:n_first]]
        return _Window(all_ms, all_ms[:n_first], verdicts)

    def _arrivals(self, first: int, n: int) -> list[float]:
        """Unix milliseconds at which the vendor had the rows of these tokens."""
        wanted = {_target(first + number): number for number in range(n)}
        deadline = time.monotonic() + _ARRIVAL_S
        while True:
            found: dict[int, float] = {}
            for row in self._control.received():
                number = wanted.get(row["target"])
                if number is not None:
                    self.twice += number in found
                    found.setdefault(number, float(row["arrived_unix_ms"]))
            if len(found) == n:
                return [found[number] for number in range(n)]
            assert time.monotonic() < deadline, f"{n - len(found)} of {n} rows have not arrived"
            self.twice = 0
            time.sleep(0.2)


def _token(number: int) -> str:
    return f"{number:064x}"


def _target(number: int) -> str:
    """As the simulator names the token."""
    return hashlib.sha256(_token(number).encode()).digest()[:16].hex()


def _verdict_ms(client: BlockingClient, sent: Sent[bytes], ahead_s: float, deadline: float) -> float:
    while not (found := client.task_state(sent.answer)).is_final:
        assert time.monotonic() < deadline, f"a row is still {found.states}"
        time.sleep(0.01)
    assert found.states.get("vendor_accepted") == 1, found.states
    return max(0.0, found.submitted_unix_ms + found.latency_ms["all"].max - (sent.due + ahead_s) * 1000)


@contextlib.contextmanager
def _site(folder: Path, n: int) -> Iterator[_Site]:
    with Children(folder) as children, simulators(folder / "apns", apns={}) as ready:
        # Tokens that no device of the gateway holds would each be a probe.
        vendors = {"apns": vendor_tables(ready)["apns"] | {"probes": False}}
        with closing(Gateway(children, folder / "gateway", n, workers=2, vendors=vendors)) as gateway:
            fleet = Fleet(children, "fleet")
            fleet.call("nice", by=_NICE)
            site = _Site(gateway, fleet, ControlPort(ready["control"]["host"], ready["control"]["port"]), n)
            try:
                yield site
            finally:
                for client in site.clients:
                    client.close()


def storm(folder: Path, options: Options) -> Line:
    with _site(folder, 400 if options.smoke else 10_000) as site:
        site.clients, survivor = _clients_of_one_worker(site.gateway)

        def kill() -> int:
            (victim,) = set(_workers(site.gateway)) - {survivor}
            os.kill(victim, signal.SIGKILL)
            return time.monotonic_ns()

        return _measure("storm", site, options, kill, with_verdicts=True)


def storm_restart(folder: Path, options: Options) -> Line:
    with _site(folder, 400 if options.smoke else 10_000) as site:
        site.clients = [site.gateway.client() for _ in range(_CLIENTS)]
        under_way: list[threading.Thread] = []
        outcomes: list[str] = []
        first_took_s: list[float] = []

        def restart() -> int:
            def call() -> None:
                operator = BlockingClient(site.gateway.ready["operator"], role="operator", timeout_s=_RESTART_S)
                with closing(operator):
                    workers = operator.restart().workers
                outcomes.extend(one.outcome for one in workers)
                first_took_s.append(workers[0].took_ms / 1000)

            under_way.append(threading.Thread(target=call))
            began_ns = time.monotonic_ns()
            under_way[-1].start()
            return began_ns

        def until() -> float:
            under_way[-1].join()
            return first_took_s[-1]

        figures = _measure("storm_restart", site, options, restart, until=until)
        assert outcomes == ["restarted"] * 2 * len(under_way), outcomes
        return figures


def _measure(
    name: str,
    site: _Site,
    options: Options,
    begin: Callable[[], int],
    *,
    until: Callable[[], float] = lambda: 0.0,
    with_verdicts: bool = False,
) -> Line:
    """begin: starts a storm and says when, in monotonic nanoseconds. until: waits for its end, and says how many
    seconds after its start the last worker began to leave."""
    rounds, seconds = (1, 3.0) if options.smoke else (5, 30.0)
    rounds = int(options.extra.get("rounds", rounds))
    seconds = float(options.extra.get("seconds", seconds))
    progress(f"longlink {name}: {rounds} rounds, two workers with {site.n:,} devices ...")
    site.fleet.begin(site.gateway, 0, site.n, sources=["127.0.0.2"], comes_back_within_s=_COMES_BACK_WITHIN_S)
    site.fleet.wait_ready(site.n)
    site.window(min(3.0, seconds), with_verdicts=False)
    back_s: list[float] = []
    all_back_s: list[float] = []
    devices_cpu_s: list[float] = []
    storms: list[_Window] = []
    quiet: list[_Window] = []
    for _ in range(rounds):
        wait_whole(site.gateway)
        quiet.append(site.window(seconds, with_verdicts=with_verdicts))
        before = site.fleet.call("figures")
        began_ns = begin()
        storms.append(site.window(seconds, with_verdicts=with_verdicts))
        last_began_s = until()
        done = site.fleet.wait_ready(site.n)
        lost = done["lost"] - before["lost"]
        assert lost > 0, "no device lost its connection"
        devices_cpu_s.append(done["cpu_s"] - before["cpu_s"])
        all_back_s.append((done["ready_ns"] - began_ns) / 1e9)
        back_s.append(all_back_s[-1] - last_began_s)
        here, there = _p99s(storms[-1].all_ms, quiet[-1].all_ms)
        first_here, first_there = _p99s(storms[-1].first_ms, quiet[-1].first_ms)
        progress(
            f"  {lost:,} back after {back_s[-1]:.1f} s; p99 {here:.1f} ms, without {there:.1f}; "
            f"of the first rows {first_here:.1f}, without {first_there:.1f}"
        )
    figures: Line = {
        "devices": site.n,
        "rounds": rounds,
        "window_s": seconds,
        "rows_per_s": _ROWS_PER_S,
        "rows_in_a_window": len(storms[0].all_ms),
        "rows_arrived_twice": site.twice,
        "back_s": round(statistics.median(back_s), 1),
        "back_s_max": round(max(back_s), 1),
        "all_back_s_max": round(max(all_back_s), 1),
        "back_s_limit": 30.0,
        "devices_cpu_s": round(statistics.median(devices_cpu_s), 2),
        **_figures("vendor", [each.all_ms for each in storms], [each.all_ms for each in quiet]),
        "vendor_ratio_limit": 1.10,
        **_figures("vendor_first", [each.first_ms for each in storms], [each.first_ms for each in quiet]),
    }
    if with_verdicts:
        pairs = [each.verdict_first_ms for each in storms], [each.verdict_first_ms for each in quiet]
        figures |= _figures("verdict_first", *pairs)
    progress(
        f"  all back after {figures['back_s']} s; vendor p99 {figures['vendor_ratio']} of that without, "
        f"{figures['vendor_first_ratio']} in the first {_FIRST_S:g} s"
    )
    return figures


def _p99s(*windows: list[float]) -> list[float]:
    return [quantiles(each)["p99"] for each in windows]


def _figures(name: str, storms: list[list[float]], quiet: list[list[float]]) -> Line:
    """Over all windows, and the ratio of each to the one before it."""
    found: Line = {}
    for suffix, windows in ("", storms), ("_without", quiet):
        found |= {f"{name}_{key}_ms{suffix}": round(value, 1) for key, value in quantiles([*chain(*windows)]).items()}
    return found | ratios(f"{name}_ratio", _p99s(*storms), _p99s(*quiet))


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


def wait_whole(gateway: Gateway) -> None:
    """Two workers, and a process that waits to be the next, are there and at rest: what a death costs is counted where
    it happens, and what it leaves to do is not counted as a quiet window."""
    deadline = time.monotonic() + _WHOLE_S
    while len(family(gateway.pid())) < 4 or len(_workers(gateway)) < 2:
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
