"""`pushgw demo`: the story, stage by stage; every wait has a limit and a name.

simulators, gateway, devices start -> devices register, some connect -> every line is submitted -> what can end has
ended -> half of the offline devices return -> the clock moves past the longest TTL, every row ends -> proof
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from importlib.resources import files
from itertools import cycle
from pathlib import Path
from types import FrameType
from typing import Any

from gateway.cli.control_port import ControlPort
from gateway.cli.demo.arrivals import Rows, texts_of, vendor_arrivals
from gateway.cli.demo.channels import CHANNELS
from gateway.cli.demo.configs import APP_KEY, app_secret, base_config, write_gateway_config, write_simulators_config
from gateway.cli.demo.cutting import filled
from gateway.cli.demo.devices import DemoDevice, make_devices, registration, returning
from gateway.cli.demo.fleet import Fleet, ids_of
from gateway.cli.demo.processes import READY_S, Child, Children
from gateway.cli.demo.proof import LONG_LINK, Arrival, Evidence, LedgerRow, Notification, prove, target_of
from gateway.cli.demo.report import Outcome, exit_code, measured, show
from gateway.cli.demo.watching import Watch, open_by_state
from gateway.cli.exit_codes import UsageError
from gateway.cli.lines import LineReader, open_lines
from gateway.cli.output import Output
from gateway.client.blocking import BlockingClient
from gateway.client.rows import ROWS_MAX, Row, build_submits
from gateway.content import TTL_S_DEFAULT
from gateway.wire.rpc.messages import CodeNames, Submit, TaskCounts

#: Rows or pushes that each receiver loses or repeats with --fault: enough to be seen, few enough to be looked for.
_FAULT_ROWS = 3
#: A demo shows several tasks where it has enough rows for them.
_SUBMIT_ROWS_MIN = 200
_SUBMITS = 20
_REGISTER_ROWS = 5_000
_PAGE_ROWS = 20_000
#: Seconds for what moves by itself: a floor for retries and hand-overs (5 s each), and time per thousand rows.
_SETTLE_S = 15.0
_SETTLE_S_PER_THOUSAND = 1.0
_QUIET_S = 0.3
#: Seconds beyond the longest TTL: expiry works in steps of a fraction of one.
_BEYOND_TTL_S = 120.0
_CALL_S = 30.0
_REFUSALS_TOLD_MAX = 20


def run(options: argparse.Namespace, output: Output) -> int:
    """The demo has run, its processes have ended, its directory is gone."""
    begun = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="pushgw-demo-"))
    try:
        with _terminated_as_interrupted():
            base = base_config(options.config)
            file = options.input or files("bench") / "samples" / "notifications.jsonl"
            with open_lines(str(file)) as lines, Children(directory) as children:
                notifications = lines.readlines()
                if not any(line.strip() for line in notifications):
                    raise UsageError(f"{file}: has no notification: that would prove nothing")
                outcome = Demo(options, output, directory, children, begun).play(notifications, base)
                show(outcome, output)
        return exit_code(outcome)
    finally:
        if options.keep:
            output.progress(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that no process and no directory is left behind."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Demo:
    """One run. What it learns on the way stands in its fields; `play` is the order."""

    def __init__(
        self, options: argparse.Namespace, output: Output, directory: Path, children: Children, begun: float
    ) -> None:
        self._options = options
        self._output = output
        self._directory = directory
        self._children = children
        self._begun = begun
        self._devices: list[DemoDevice] = []
        self._notifications: dict[int, Notification] = {}
        self._longest_ttl_s = TTL_S_DEFAULT
        #: Per submit that was accepted: task id, lines of its rows, and when it was meant to leave (Unix ms).
        self._sent: list[tuple[bytes, list[int]]] = []
        self._intended_unix_ms: dict[bytes, float] = {}
        self._refused_by_gateway = 0
        self._refusals: list[str] = []

    def play(self, lines: list[bytes], base: dict[str, Any]) -> Outcome:
        """Raises DemoFailed, UsageError, CallFailed, GatewayUnreachable."""
        ready = self._start_simulators()
        control = ControlPort(ready["control"]["host"], ready["control"]["port"])
        listening = self._start_gateway(base, ready)
        secret = app_secret(self._directory)
        host, port = listening["long_link"][0].removeprefix("tcp://").rsplit(":", 1)
        fleet = Fleet(self._children, host, int(port), APP_KEY, secret)
        with (
            BlockingClient(listening["rpc"][0], APP_KEY, secret, timeout_s=_CALL_S) as client,
            BlockingClient(
                "unix://" + listening["operator"].removeprefix("unix://"), role="operator", timeout_s=_CALL_S
            ) as operator,
        ):
            self._admit_devices(client, fleet)
            self._arm_fault(control, fleet)
            reader = self._submit(client, lines)
            watch = Watch(client, [task for task, _ in self._sent], self._children.check)
            self._settle(watch, fleet)
            self._bring_devices_back(watch, fleet)
            before_move = watch.counts()
            self._move_clock(control, operator, watch)
            return self._judge(client, watch, control, fleet, reader, before_move)

    # -- starting

    def _start_simulators(self) -> dict[str, Any]:
        config = write_simulators_config(self._directory)
        folder = self._directory / "simulators"
        folder.mkdir()
        options = ["--config", str(config), "--dir", str(folder), "--json", "--exit-with-parent"]
        child = self._children.start("simulators", ["bench.simulators", *options, "--only", ",".join(CHANNELS)])
        ready = child.read_json("its ready line", READY_S)
        self._tell(f"{len(CHANNELS)} simulators: {', '.join(CHANNELS)}")
        return ready

    def _start_gateway(self, base: dict[str, Any], simulators: dict[str, Any]) -> dict[str, Any]:
        config = write_gateway_config(base, self._directory, simulators, self._options.devices)
        options = ["serve", "--config", str(config), "--ready-json", "--exit-with-parent"]
        child: Child = self._children.start("gateway", ["gateway", *options])
        listening = child.read_json("its ready line", READY_S)
        self._tell(f"gateway: rpc {listening['rpc'][0]}, long link {listening['long_link'][0]}")
        return listening

    def _admit_devices(self, client: BlockingClient, fleet: Fleet) -> None:
        self._devices = make_devices(self._options.devices, self._options.online, secrets.token_hex(8))
        now_unix_s = int(time.time())
        for first in range(0, len(self._devices), _REGISTER_ROWS):
            chosen = self._devices[first : first + _REGISTER_ROWS]
            client.register_devices([registration(device, now_unix_s) for device in chosen])
        online = [device for device in self._devices if device.is_online]
        fleet.connect(online)
        self._tell(f"devices: {len(self._devices):,} registered, {len(online):,} online")

    def _arm_fault(self, control: ControlPort, fleet: Fleet) -> None:
        kind: str | None = self._options.fault
        if kind is not None:
            control.arm_fault({"kind": kind, "for_requests": _FAULT_ROWS})
            fleet.arm_fault(kind, _FAULT_ROWS)
            self._tell(f"fault: each receiver will {kind} its next {_FAULT_ROWS} messages")

    # -- the way of the rows

    def _submit(self, client: BlockingClient, lines: list[bytes]) -> LineReader:
        """Every line is submitted; lines without `to` go to one device each, in turn."""
        reader = LineReader(lines, default_to=cycle([device.device_id for device in self._devices]))
        rows_max = min(ROWS_MAX, max(_SUBMIT_ROWS_MIN, len(lines) // _SUBMITS))
        waiting: deque[tuple[list[int], float]] = deque()

        def requests() -> Iterator[Submit]:
            # Different lines are different messages, also where a small number of devices gets them in turn.
            rows = self._noted(reader.rows())
            for made in build_submits(rows, rows_max=rows_max, allow_duplicates=True):
                waiting.append((made.lines, time.time() * 1000))
                yield made.submit

        for answer in client.submit_many(requests()):
            numbers, intended_unix_ms = waiting.popleft()
            self._refused_by_gateway += answer.refused_count
            self._refusals += [f"line {numbers[one.row]}: {one.field}: {one.text}" for one in answer.refused]
            if answer.accepted:
                self._sent.append((answer.task_id, numbers))
                self._intended_unix_ms[answer.task_id] = intended_unix_ms
        self._tell(f"submitted: {reader.n_rows:,} rows in {len(self._sent)} tasks")
        return reader

    def _noted(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows as they pass, with what their receivers should see noted down."""
        for row in rows:
            target = target_of(row.target[1]) if isinstance(row.target, tuple) else row.target
            if isinstance(target, str):
                target = bytes.fromhex(target)
            known = self._notifications.get(row.line)
            if known is None:
                variant, variables = row.variant, row.variables
                texts = filled(variant.title, variables), filled(variant.body, variables)
                self._notifications[row.line] = Notification(*texts, frozenset({target}))
                self._longest_ttl_s = max(self._longest_ttl_s, variant.ttl_s)
            else:
                self._notifications[row.line] = known._replace(targets=known.targets | {target})
            yield row

    def _settle(self, watch: Watch, fleet: Fleet) -> None:
        with self._output.bar("rows ended", self._n_rows) as look:
            is_settled = watch.wait_settled(self._settle_s, look)
        fleet.wait_idle(_QUIET_S, self._settle_s)
        rest = open_by_state(watch.counts())
        self._tell(f"first wave: open rows: {rest}" + ("" if is_settled else f", after {self._settle_s:g} s"))

    def _bring_devices_back(self, watch: Watch, fleet: Fleet) -> None:
        back = returning(self._devices)
        fleet.connect(back)
        with self._output.bar("rows ended", self._n_rows) as look:
            is_fetched = watch.wait_fetched(ids_of(back), self._settle_s, look)
        fleet.wait_idle(_QUIET_S, self._settle_s)
        rest = open_by_state(watch.counts())
        late = "" if is_fetched else f", some still for them after {self._settle_s:g} s"
        self._tell(f"{len(back):,} devices are back: open rows: {rest}{late}")

    def _move_clock(self, control: ControlPort, operator: BlockingClient, watch: Watch) -> None:
        """Every row has ended. The simulators move first: a credential must not come from their future."""
        seconds = self._longest_ttl_s + _BEYOND_TTL_S
        control.advance_clock(seconds)
        operator.clock_advance(seconds)
        with self._output.bar("rows ended", self._n_rows) as look:
            is_final = watch.wait_final(self._settle_s, look)
        rest = open_by_state(watch.counts())
        late = "" if is_final else f", after {self._settle_s:g} s"
        self._tell(f"clock moved by {seconds:,.0f} s: open rows: {rest}{late}")

    # -- the proof

    def _judge(
        self,
        client: BlockingClient,
        watch: Watch,
        control: ControlPort,
        fleet: Fleet,
        reader: LineReader,
        before_move: list[TaskCounts],
    ) -> Outcome:
        counts = watch.fresh()
        rows = self._ledger_rows(client)
        refused = reader.n_faults + self._refused_by_gateway
        tokens = {device.device_id: target_of(device.token) for device in self._devices if device.token}
        named = Rows(rows, self._notifications, tokens)
        arrivals = [*_device_arrivals(fleet), *vendor_arrivals(control.received(), named)]
        evidence = Evidence(reader.n_rows, refused, counts, rows, arrivals, self._notifications, tokens)
        proof = prove(evidence, (LONG_LINK, *CHANNELS))
        faults = [f"line {one.line}: {one.field or 'line'}: {one.text}" for one in reader.faults]
        for text in (faults + self._refusals)[:_REFUSALS_TOLD_MAX]:
            self._output.error(text)
        return Outcome(
            rows_read=reader.n_rows,
            refused=refused,
            counts=counts,
            rows=rows,
            measured=measured(before_move, self._intended_unix_ms),
            proof=proof,
            duration_s=time.monotonic() - self._begun,
        )

    def _ledger_rows(self, client: BlockingClient) -> dict[bytes, LedgerRow]:
        """Every row of every task by message id, as the gateway tells it."""
        names: CodeNames = client.welcome().names
        found: dict[bytes, LedgerRow] = {}
        for task, lines in self._sent:
            first: int | None = 0
            while first is not None:
                page = client.task_rows(task, first, _PAGE_ROWS)
                places, ids, devices = page.row.cast("I"), bytes(page.message_ids), bytes(page.device_ids)
                for k in range(page.n):
                    found[ids[16 * k : 16 * k + 16]] = LedgerRow(
                        lines[places[k]],
                        devices[16 * k : 16 * k + 16],
                        names.states[page.state[k]],
                        names.reasons[page.reason[k]],
                        names.channels[page.channel[k]],
                        page.flags[k],
                    )
                first = page.next_first
        return found

    # -- small things

    @property
    def _n_rows(self) -> int:
        return sum(len(lines) for _, lines in self._sent)

    @property
    def _settle_s(self) -> float:
        return _SETTLE_S + _SETTLE_S_PER_THOUSAND * self._n_rows / 1000

    def _tell(self, text: str) -> None:
        self._output.progress(f"{time.monotonic() - self._begun:6.1f} s  {text}")


def _device_arrivals(fleet: Fleet) -> Iterator[Arrival]:
    for row in fleet.received():
        target, copies = bytes.fromhex(row["device_id"]), row["copies"]
        yield Arrival(LONG_LINK, bytes.fromhex(row["message_id"]), target, row["sha256"], copies, texts_of(row))
