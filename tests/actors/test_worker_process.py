"""A worker's process as the supervisor sees it; the workers are scripts of a few lines that speak its protocol."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import trio
import trio.testing

from gateway.actors.worker_process import (
    STUCK_S,
    Plan,
    WorkerLost,
    WorkerProcess,
    WorkerRefused,
    WorkerState,
    describe_end,
    is_ending,
)
from gateway.wire.worker_control import Kept, Ping, Pong, Ready, Restart, Start, Stop

#: Says `ready`, then does what the rest of the script says with `control`, the socket, and `frames`, what it reads.
PREAMBLE = """
import socket, sys
from gateway.wire import worker_control as wire
control, end = socket.socket(fileno=int(sys.argv[1])), wire.WorkerEnd()
def read():
    data = control.recv(65536)
    return end.receive_data(data) if data else None
start = read()[0]
def say(message):
    control.sendall(wire.encode(message))
"""


class Company:
    """Writes down what it is told; `changed` is rung each time."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.changed = trio.Event()

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self.changed.set()
        self.changed = trio.Event()

    def started(self, worker: WorkerProcess) -> None:
        self._note("started", worker.incarnation)

    def told(self, worker: WorkerProcess, message: Any) -> None:
        self._note("told", message)

    def ended(self, worker: WorkerProcess, incarnation: int) -> None:
        self._note("ended", incarnation)

    def crashed(self, worker: WorkerProcess, code: int, restart_in_s: float) -> None:
        self._note("crashed", code)

    async def until(self, *event: Any, times: int = 1) -> None:
        with trio.fail_after(60):
            while self.events.count(event) < times:
                await self.changed.wait()


def worker_of(script: str, company: Company, **limits: Any) -> WorkerProcess:
    incarnations = iter(range(1, 1000))

    def plan(worker: int) -> Plan:
        start = Start(
            worker=worker,
            workers=2,
            incarnation=next(incarnations),
            run_folder="",
            config_file="",
            config_text=b"",
            rpc=[],
            long_link=[],
            http="",
            unix_listeners={},
            metric_files=[],
            clock_offset_s=0,
        )
        return Plan(start, [])

    return WorkerProcess(0, plan, company, command=(sys.executable, "-c", PREAMBLE + script), **limits)


OBEDIENT = """
say(wire.Ready())
while (said := read()) is not None:
    for message in said:
        if isinstance(message, wire.Stop):
            sys.exit(0)
        if isinstance(message, wire.Restart):
            sys.exit(0) if message.may_lose else say(wire.Kept(rows_open={"held": 1}))
sys.exit(0)
"""


async def test_worker_is_started_again_after_a_crash_with_another_incarnation() -> None:
    company = Company()
    worker = worker_of(OBEDIENT, company)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await company.until("told", Ready())
        assert worker.state is WorkerState.READY
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        await company.until("told", Ready(), times=2)
        worker.send(Stop())
        worker.stop()
    assert company.events == [
        ("started", 1),
        ("told", Ready()),
        ("ended", 1),
        ("crashed", -signal.SIGKILL),
        ("started", 2),
        ("told", Ready()),
        ("ended", 2),
    ]
    assert (worker.state, worker.restarts) == (WorkerState.ENDED, 1)


async def test_worker_that_was_asked_to_leave_is_back_without_a_crash() -> None:
    company = Company()
    worker = worker_of(OBEDIENT, company)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await company.until("told", Ready())
        worker.send(Restart(spread_s=0, may_lose=False))
        worker.leaves()
        await company.until("told", Kept(rows_open={"held": 1}))
        assert worker.state is WorkerState.READY
        worker.send(Restart(spread_s=0, may_lose=True))
        worker.leaves()
        await company.until("told", Ready(), times=2)
        assert not [event for event in company.events if event[0] == "crashed"]
        nursery.cancel_scope.cancel()


async def test_worker_that_says_it_is_over_has_ended_for_the_others_before_its_process_has() -> None:
    company = Company()
    script = """
say(wire.Over())
say(wire.Ready())
while isinstance(read()[0], wire.Restart):
    say(wire.Over())
sys.exit(0)
"""
    worker = worker_of(script, company)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await company.until("told", Ready())
        # Nobody has asked it to leave: its end is the end of its process.
        assert ("ended", 1) not in company.events
        worker.send(Restart(spread_s=0, may_lose=False))
        worker.leaves()
        await company.until("ended", 1)
        assert worker._process is not None
        assert worker._process.returncode is None
        worker.kill()
        await company.until("told", Ready(), times=2)
        nursery.cancel_scope.cancel()
    assert company.events.count(("ended", 1)) == 1


async def test_cancelled_supervision_kills_the_process() -> None:
    company = Company()
    worker = worker_of("say(wire.Ready())\nimport time\nread()\ntime.sleep(1000)", company)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await company.until("told", Ready())
        pid = worker.pid
        nursery.cancel_scope.cancel()
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_worker_that_refuses_the_configuration_is_not_tried_again() -> None:
    company = Company()
    with pytest.raises(WorkerRefused):
        await worker_of("sys.exit(2)", company).run()
    assert company.events == [("started", 1), ("ended", 1)]


async def test_worker_that_ends_again_and_again_is_given_up() -> None:
    company = Company()
    with pytest.raises(WorkerLost, match="ended 3 times in a row, the last with 7"):
        await worker_of("sys.exit(7)", company, crashes_max=3).run()
    assert len([event for event in company.events if event[0] == "started"]) == 3


async def test_worker_that_gives_no_sign_of_life_is_killed() -> None:
    company = Company()
    worker = worker_of("import time\ntime.sleep(1000)", company, start_s=0.2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await company.until("crashed", -signal.SIGKILL)
        nursery.cancel_scope.cancel()


async def test_worker_whose_loop_is_stuck_is_killed(mock_clock: trio.testing.MockClock) -> None:
    company = Company()
    script = """
say(wire.Ready())
for number in range(3):
    (message,) = read()
    say(wire.Pong(round=message.round))
import time
time.sleep(1000)
"""
    worker = worker_of(script, company)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await company.until("told", Ready())
        for number in range(3):
            # Each answer is a sign of life for as long again.
            mock_clock.jump(STUCK_S - 1)
            worker.send(Ping(round=number))
            await company.until("told", Pong(round=number))
        worker.send(Ping(round=3))
        mock_clock.jump(STUCK_S - 1)
        await trio.testing.wait_all_tasks_blocked()
        assert worker.state is WorkerState.READY
        assert [event for event in company.events if event[0] == "crashed"] == []
        mock_clock.jump(2)
        await company.until("crashed", -signal.SIGKILL)
        nursery.cancel_scope.cancel()


async def test_worker_that_speaks_another_protocol_is_killed() -> None:
    company = Company()
    worker = worker_of("control.sendall(bytes(8))\nimport time\ntime.sleep(1000)", company)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await company.until("crashed", -signal.SIGKILL)
        nursery.cancel_scope.cancel()


async def test_stop_during_the_wait_for_a_restart_ends_it() -> None:
    company = Company()
    worker = worker_of("sys.exit(1)", company)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run)
            await company.until("crashed", 1)
            worker.stop()
    assert worker.state is WorkerState.ENDED


def test_ends_are_described_in_words() -> None:
    assert [describe_end(code) for code in (1, -9, -200)] == ["code 1", "signal SIGKILL", "signal 200"]


def test_process_is_ending_once_the_kernel_has_begun_to_end_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert not is_ending(child.pid)
        child.kill()
        # Waited for, and left for `wait` to reap.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_ending(child.pid)
        child.wait()
        assert not is_ending(child.pid)
