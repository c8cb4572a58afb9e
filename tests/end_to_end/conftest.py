"""A whole site on loopback, long because all these tests share it.

The simulators are a process, a worker is in this one or is `pushgw serve`, devices are moved by hand.

The simulators run once per module and are emptied between tests; workers are made per test, with the limits that the
test is about. Where a test fails, the ends of their logs stand in its report.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from bench import ports
from bench.devices import mqtt
from gateway.app import Worker, load
from gateway.cli.demo.channels import vendor_tables
from gateway.cli.toml_text import to_toml
from gateway.client.requests import DeviceState
from gateway.client.trio_client import TrioClient, open_trio_client
from gateway.core.identity import device_password
from gateway.observe.log import Level, Log
from vendors import REGISTRY

ROOT = Path(__file__).resolve().parents[2]
SECRET = b"the secret of the shop"
#: Seconds for a process to say that it is ready: imports on a busy machine.
READY_S = 120.0
#: For one call of a client to be answered.
CALL_S = 30.0
#: For what a test waits for, on a machine that is busy; it takes a second on one that is not.
WAIT_S = 60.0
#: Of each log in the report of a test that fails, and so many logs, the newest.
LOG_TAIL_CHARS = 6_000
LOGS_MAX = 6
#: What may be shown: logs of processes and of workers in this process, as long as their folders are there.
_logs: list[Path] = []
_simulators_up: list[Simulators] = []
#: Timeouts of the configuration. On a busy machine seconds pass between two steps of a process, so that only tests of
#: timeouts, marked `timed(short=True)`, beside which nothing heavy runs, have short ones.
PATIENT: dict[str, dict[str, Any]] = {
    "rpc": {"hello_timeout_s": 30.0, "frame_timeout_s": 30.0},
    "long_link": {"handshake_timeout_s": 30.0, "packet_timeout_s": 30.0, "ack_timeout_s": 30.0},
    "http2": {"connect_timeout_s": 10.0, "request_timeout_s": 30.0},
}
IMPATIENT: dict[str, dict[str, Any]] = {
    "rpc": {"hello_timeout_s": 1.0, "frame_timeout_s": 1.0},
    "long_link": {"handshake_timeout_s": 1.0, "packet_timeout_s": 1.0, "ack_timeout_s": 1.0},
    "http2": {"connect_timeout_s": 2.0, "request_timeout_s": 3.0},
}
_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? ([0-9.e+-]+)$")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A failure on a machine that nobody can log in to must be understood from its print."""
    report = yield
    _logs[:] = [log for log in _logs if log.exists()]
    if report.failed:
        for log in _logs[-LOGS_MAX:]:
            if text := log.read_text(errors="replace"):
                report.sections.append((f"end of {log.name}", _tail(text)))
        for simulators in _simulators_up:
            with contextlib.suppress(Exception):
                found = {"counts": simulators.call("GET", "/statistics"), "refused": simulators.call("GET", "/refused")}
                report.sections.append(("simulators", _tail(json.dumps(found))))
    return report


def _tail(text: str) -> str:
    cut = f"({len(text) - LOG_TAIL_CHARS} characters before)\n" if len(text) > LOG_TAIL_CHARS else ""
    return cut + text[-LOG_TAIL_CHARS:]


def shown_on_failure(log: Path) -> Path:
    """The log, known to the report of a test that fails."""
    if log not in _logs:
        _logs.append(log)
    return log


class Process:
    """A child with one line of JSON on stdout when it is ready; ended by its id."""

    def __init__(self, *arguments: str, directory: Path) -> None:
        self.log = shown_on_failure(directory / f"{arguments[0]}-{time.monotonic_ns()}.log")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                cwd=directory,
            )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.log.read_text()[-2000:]
        self.ready: dict[str, Any] = json.loads(line)

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end_by(self, number: signal.Signals) -> int:
        self.signal(number)
        return await trio.to_thread.run_sync(self.wait)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        code = self._process.wait(timeout_s)
        self._close()
        return code

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                # Longer than any gateway here drains, and than its supervisor waits for workers.
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class Site:
    """Simulators that run: their ready line and their control port."""

    def __init__(self, ready: dict[str, Any]) -> None:
        self.ready = ready

    def call(self, method: str, path: str, body: Any = None) -> Any:
        control = self.ready["control"]
        connection = http.client.HTTPConnection(control["host"], control["port"], timeout=CALL_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode()
            assert response.status == 200, text
            return (
                [json.loads(line) for line in text.splitlines()] if path.startswith("/received") else json.loads(text)
            )
        finally:
            connection.close()

    def received(self, simulator: str) -> list[dict[str, Any]]:
        """The rows that a simulator has recorded."""
        rows: list[dict[str, Any]] = self.call("GET", f"/received?simulator={simulator}")
        return rows


class Simulators(Site):
    """The simulators of a module, whose process `stop` and `start` bring back on the same ports."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = {name: {"port": ports.free_port()} for name in ("apns", "fcm")}
        self._process: Process | None = None
        self.start()

    def start(self) -> None:
        config = self._directory / "simulators.toml"
        limits = {"device_messages_per_minute": 0, "device_messages_per_hour": 0}
        table = {
            "received": {"keep_texts": True},
            "apns": self._ports["apns"],
            "fcm": limits | self._ports["fcm"],
        }
        config.write_text(to_toml(table))
        folder = self._directory / "simulators"
        folder.mkdir(exist_ok=True)
        options = ["--config", str(config), "--dir", str(folder), "--json", "--exit-with-parent"]
        self._process = Process("bench.simulators", *options, directory=self._directory)
        self.ready = self._process.ready
        _simulators_up.append(self)

    def stop(self) -> None:
        assert self._process is not None
        if self in _simulators_up:
            _simulators_up.remove(self)
        self._process.end()

    def fault(self, simulator: str, kind: str, **fields: Any) -> None:
        self.call("PUT", "/fault", {"simulator": simulator, "kind": kind} | fields)

    def copies(self, simulator: str) -> Counter[str]:
        """Message id -> copies that the simulator has recorded."""
        return Counter({row["message_id"].replace("-", ""): row["copies"] for row in self.received(simulator)})

    def reset(self) -> None:
        self.call("DELETE", "/fault")
        self.call("POST", "/reset")


class Phone:
    """One device on MQTT. received: message id (hex) -> copies without DUP."""

    def __init__(self, device_id: bytes) -> None:
        self.device_id = device_id
        self.received: Counter[str] = Counter()
        self.payloads: list[dict[str, Any]] = []
        self.acknowledges = True
        self.stream: trio.SocketStream | None = None

    async def connect(self, port: int, nursery: trio.Nursery) -> Phone:
        """Connected and subscribed; it reads until its stream is closed."""
        stream = self.stream = await trio.open_tcp_stream("127.0.0.1", port)
        try:
            reader = await self._log_in(stream)
        except BaseException:
            # Nobody else would; the collector would complain in the middle of another test.
            stream.socket.close()
            raise
        nursery.start_soon(self._read, reader)
        return self

    async def _log_in(self, stream: trio.SocketStream) -> mqtt.Reader:
        name = self.device_id.hex()
        await stream.send_all(mqtt.connect(name, "shop", device_password(SECRET, name), 60))
        reader = mqtt.Reader()
        (connack,) = await self._packets(reader)
        assert connack.code == 0
        await stream.send_all(mqtt.subscribe(1, f"d/{name}/down", 1))
        # What waited for the device may come in the same read.
        suback, *pushes = await self._packets(reader)
        assert suback.codes == b"\x01"
        for push in pushes:
            await self._on_packet(stream, push)
        return reader

    async def _packets(self, reader: mqtt.Reader) -> list[Any]:
        assert self.stream is not None
        with trio.fail_after(CALL_S):
            while True:
                data = await self.stream.receive_some(65536)
                assert data, "the gateway closed the connection"
                packets = reader.receive_data(bytes(data))
                if packets:
                    return packets

    async def _read(self, reader: mqtt.Reader) -> None:
        assert self.stream is not None
        async with self.stream:
            await self._take(self.stream, reader)

    async def _take(self, stream: trio.SocketStream, reader: mqtt.Reader) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await stream.receive_some(65536):
                for packet in reader.receive_data(bytes(data)):
                    await self._on_packet(stream, packet)

    async def _on_packet(self, stream: trio.SocketStream, packet: Any) -> None:
        if isinstance(packet, mqtt.Publish):
            payload = json.loads(packet.payload)
            self.payloads.append(payload)
            self.received[payload["message_id"].replace("-", "")] += not packet.is_dup
            if self.acknowledges:
                await stream.send_all(mqtt.puback(packet.packet_id))

    async def close(self) -> None:
        assert self.stream is not None
        await self.stream.aclose()

    async def keep_connected(self, port: int, chance: random.Random | None = None) -> None:
        """It is online whenever its worker is there; with a chance it goes away now and then, and its rows wait."""
        while True:
            async with trio.open_nursery() as nursery:
                try:
                    await self.connect(port, nursery)
                except (OSError, AssertionError, trio.TooSlowError, trio.BrokenResourceError):
                    # A gateway that was killed in the middle of the handshake.
                    if self.stream is not None:
                        await self.close()
                    await trio.sleep(0.05)
                    continue
                until = math.inf if chance is None else trio.current_time() + chance.uniform(0.1, 0.5)
                while self.stream is not None and self.stream.socket.fileno() >= 0:
                    await trio.sleep(0.02)
                    if trio.current_time() > until:
                        await self.close()
                        assert chance is not None
                        await trio.sleep(chance.uniform(0.1, 0.8))


class Gateway:
    """A running worker as its users see it: addresses, a client, metrics."""

    def __init__(self, ready: dict[str, Any], client: TrioClient, operator: TrioClient) -> None:
        self.ready = ready
        self.client = client
        self.operator = operator
        self.worker: Worker | None = None

    @property
    def rpc_port(self) -> int:
        return int(self.ready["rpc"][0].rsplit(":", 1)[1])

    @property
    def link_port(self) -> int:
        return int(self.ready["long_link"][0].rsplit(":", 1)[1])

    async def metrics(self) -> dict[tuple[str, str], float]:
        """(name, values of its labels joined by a comma) -> value, as a scrape shows them."""
        host, port = self.ready["http"].removeprefix("http://").rsplit(":", 1)

        def scrape() -> str:
            connection = http.client.HTTPConnection(host, int(port), timeout=CALL_S)
            try:
                connection.request("GET", "/metrics")
                return connection.getresponse().read().decode()
            finally:
                connection.close()

        found: dict[tuple[str, str], float] = {}
        page = await trio.to_thread.run_sync(scrape)
        for line in page.splitlines():
            match = _SAMPLE.match(line)
            if match is not None:
                name, labels, value = match.groups()
                found[name, ",".join(text for _, text in _LABEL.findall(labels or ""))] = float(value)
        return found

    async def register(self, n: int, channel: str = "apns", *, first: int = 0, proven_unix_s: int = 1) -> list[bytes]:
        """n devices of that channel ("": long link only); returns their ids. proven_unix_s 0: their tokens are new."""
        ids = [os.urandom(8) + number.to_bytes(8, "big") for number in range(first, first + n)]
        tokens = {
            "apns": lambda one: one.hex() * 2,
            "fcm": lambda one: "fcm-token-" + one.hex() * 3,
            "": lambda one: "",
        }
        states = [
            DeviceState(device_id=one, channel=channel, token=tokens[channel](one), proven_unix_s=proven_unix_s)
            for one in ids
        ]
        answer = await self.client.register_devices(states)
        assert answer.registered == n
        return ids

    async def states(self, task_id: bytes) -> dict[str, int]:
        counts = await self.client.task_state(task_id)
        assert sum(counts.states.values()) == counts.accepted, "not conserved"
        return counts.states

    async def until_final(self, task_id: bytes, timeout_s: float = WAIT_S) -> Any:
        """The task's counts when no row is open any more."""
        with trio.fail_after(timeout_s):
            while True:
                counts = await self.client.task_state(task_id)
                assert sum(counts.states.values()) == counts.accepted, "not conserved"
                if counts.is_final:
                    return counts
                await trio.sleep(0.02)

    async def until_written(self) -> None:
        """The journal has written what it has to say, so that a kill takes nothing of it: nothing new over ten
        questions, each of which takes the loop a turn and more."""

        async def writes() -> float:
            found = await self.metrics()
            return sum(n for (name, _), n in found.items() if name == "pushgw_journal_write_seconds_count")

        with trio.fail_after(WAIT_S):
            before, same = await writes(), 0
            while same < 10:
                await trio.sleep(0.05)
                now = await writes()
                before, same = now, same + 1 if now == before else 0

    async def rows(self, task_id: bytes) -> list[tuple[str, str, int]]:
        """(message id, state, flags) of every row."""
        page = await self.client.task_rows(task_id, 0, 60_000)
        names = (await self.client.welcome()).names.states
        ids = bytes(page.message_ids)
        return [(ids[16 * k : 16 * k + 16].hex(), names[page.state[k]], page.flags[k]) for k in range(page.n)]


def config_table(
    directory: Path,
    simulators: dict[str, Any] | None,
    vendors: dict[str, Any] | None = None,
    *,
    is_impatient: bool = False,
    **over: Any,
) -> dict[str, Any]:
    """A configuration for tests. vendors: their tables, beside those of the simulators. `over` lays tables over it,
    those of a vendor's name over the app's. copies: further apps like the first, `shop1`, `shop2` ... app: further
    keys of theirs.
    """
    timeouts = IMPATIENT if is_impatient else PATIENT
    copies, app_keys = over.pop("copies", 0), over.pop("app", {})
    secret = directory / "app.secret"
    secret.touch(mode=0o600)
    secret.write_bytes(SECRET)
    table: dict[str, Any] = {
        "gateway": {"data_dir": str(directory / "data"), "drain_s": 5.0},
        "dev": {"clock": True},
        "rpc": {"listeners": [{"address": "tcp://127.0.0.1:0"}]} | timeouts["rpc"],
        "operator": {"socket": str(directory / "operator.sock")},
        "http": {"address": "tcp://127.0.0.1:0"},
        "long_link": {"listeners": [{"address": "tcp://127.0.0.1:0"}]} | timeouts["long_link"],
        "devices": {"devices_max": 10_000, "token_bytes_max": 4_000_000},
        "retry": {"first_s": 0.2, "factor": 1.5, "wait_s_min": 0.1, "throttled_s": 0.5, "cap_s": 900.0},
        "breaker": {"open_s": 0.2, "open_s_max": 0.5},
        "http2": timeouts["http2"],
        "observe": {"log_level": "warning"},
    }
    vendors = (vendor_tables(simulators) if simulators is not None else {}) | (vendors or {})
    for name, values in over.items():
        tables = vendors if name in REGISTRY else table
        tables[name] = tables.get(name, {}) | values
    app = {"key": "shop", "secrets": [{"file": str(secret)}], "durability": "memory"} | app_keys
    table["apps"] = [app | vendors, *({**app, "key": f"shop{n}"} | vendors for n in range(1, copies + 1))]
    return table


@pytest.fixture(scope="module")
def _simulators() -> Iterator[Simulators]:
    directory = tempfile.mkdtemp(prefix="pg-")
    running = Simulators(Path(directory))
    yield running
    running.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def simulators(_simulators: Simulators) -> Simulators:
    """Shared by the module; empty and without faults."""
    _simulators.reset()
    return _simulators


@pytest.fixture
def own_simulators(folder: Path) -> Iterator[Simulators]:
    """For tests that stop them."""
    running = Simulators(folder)
    yield running
    running.stop()


def _is_impatient(request: pytest.FixtureRequest) -> bool:
    mark = request.node.get_closest_marker("timed")
    return mark is not None and mark.kwargs.get("short", False)


@contextlib.asynccontextmanager
async def _clients(ready: dict[str, Any], timeout_s: float = CALL_S) -> AsyncIterator[Gateway]:
    """timeout_s: of the app's calls, which are repeated so long while the gateway says that it cannot take them."""
    async with (
        open_trio_client(ready["rpc"][0], "shop", SECRET, timeout_s=timeout_s) as client,
        open_trio_client(ready["operator"], role="operator", timeout_s=CALL_S) as operator,
    ):
        yield Gateway(ready, client, operator)


@pytest.fixture
def open_gateway(
    folder: Path, request: pytest.FixtureRequest
) -> Callable[..., contextlib.AbstractAsyncContextManager[Gateway]]:
    """A worker in this process for the block: `async with open_gateway(simulators.ready, rpc={...}) as gateway`."""

    @contextlib.asynccontextmanager
    async def run(simulators: dict[str, Any] | None = None, **over: Any) -> AsyncIterator[Gateway]:
        file = folder / "gateway.toml"
        over["is_impatient"] = _is_impatient(request)
        file.write_text(to_toml(config_table(folder, simulators, **over)))
        config = load(str(file))
        config.gateway.data_dir.mkdir(exist_ok=True)
        with shown_on_failure(folder / "gateway.log").open("a") as lines:
            worker = Worker(config, log=Log(stream=lines, level=Level.INFO))
            started = trio.Event()
            told: list[Any] = []

            def on_ready(addresses: Any) -> None:
                told.append(addresses._asdict())
                started.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.run, on_ready)
                with trio.fail_after(READY_S):
                    await started.wait()
                async with _clients(told[0]) as gateway:
                    gateway.worker = worker
                    yield gateway
                nursery.cancel_scope.cancel()
            worker.close()

    return run


def _write_config(folder: Path, simulators: dict[str, Any] | None, over: dict[str, Any]) -> Path:
    file = folder / "gateway.toml"
    over["observe"] = {"log_level": "info"} | over.get("observe", {})
    file.write_text(to_toml(config_table(folder, simulators, **over)))
    return file


@contextlib.contextmanager
def _serving(folder: Path, *, is_impatient: bool) -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def start(simulators: dict[str, Any] | None, **over: dict[str, Any]) -> Process:
        file = _write_config(folder, simulators, over | {"is_impatient": is_impatient})
        running.append(Process("gateway", "serve", "--config", str(file), "--ready-json", directory=folder))
        return running[-1]

    yield start
    for process in running:
        process.end()


@pytest.fixture
def serve(folder: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Process]]:
    """`pushgw serve` as a process; ended after the test."""
    with _serving(folder, is_impatient=_is_impatient(request)) as start:
        yield start


@pytest.fixture(scope="module")
def serve_for_all(request: pytest.FixtureRequest) -> Iterator[Callable[..., Process]]:
    """`pushgw serve` as a process that several tests of a module share; ended after the last."""
    is_impatient = _is_impatient(request)
    with tempfile.TemporaryDirectory(prefix="pg-") as name, _serving(Path(name), is_impatient=is_impatient) as start:
        yield start


@pytest.fixture
def configure(folder: Path) -> Callable[..., Path]:
    """The configuration file that `serve` would start with."""
    return lambda simulators=None, **over: _write_config(folder, simulators, over)


@pytest.fixture
def open_clients() -> Callable[[dict[str, Any]], contextlib.AbstractAsyncContextManager[Gateway]]:
    return _clients


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    return ports.free_port


@pytest.fixture
def new_phone() -> Callable[[bytes], Phone]:
    return Phone


@pytest.fixture
def resent() -> Callable[[Sequence[tuple[str, str, int]]], set[str]]:
    """Message ids that a receiver may see more than once: resent uncertain, handed over, or uncertain."""
    from gateway.ledger import Flag

    def of(rows: Sequence[tuple[str, str, int]]) -> set[str]:
        marks = int(Flag.RESENT_UNCERTAIN | Flag.HANDED_OVER)
        return {message for message, state, flags in rows if flags & marks or state == "uncertain"}

    return of


@pytest.fixture(scope="session")
def simulate() -> Callable[..., contextlib.AbstractContextManager[Site]]:
    """`with simulate(folder, "--only", "oppo,vivo", table={...}) as site`: simulators of a test's own."""

    @contextlib.contextmanager
    def run(folder: Path, *options: str, table: dict[str, Any] | None = None) -> Iterator[Site]:
        config = folder / "simulators.toml"
        config.write_text(to_toml(table or {}))
        common = ["--config", str(config), "--dir", str(folder), "--json", "--exit-with-parent"]
        process = Process("bench.simulators", *common, *options, directory=folder)
        try:
            yield Site(process.ready)
        finally:
            process.end()

    return run
