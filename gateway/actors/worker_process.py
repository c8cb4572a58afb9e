"""WorkerProcess: one worker as its supervisor sees it: started, spoken to, watched, started again when it has ended.

    WAITING --start--> STARTING --ready--> READY --restart--> LEAVING --kept--> READY
       ^                  |                  |                   |
       +------------------+---- it ended ----+-------------------+------> ENDED, once the gateway stops

A crash is followed by a restart after a backoff (core/restarts.py), counted and logged; an end that was asked for by
one at once. Each start has an incarnation of its own. Waits for: the process, its control socket, the clock. What is
sent to a worker that does not read waits here; those are a few short messages about workers, and it is killed when it
does not answer `ping` (worker_rounds.py) for STUCK_S.

A killed process with thousands of sockets is waited for longest while the kernel closes them. Its control socket is
closed first (app_worker.py). So when that socket ends and the kernel has begun to end the process, none of whose code
runs from then on, the others are told (`_say_ended`); the next life is started when the process is gone. One that left
in order says itself that it is over.
"""

from __future__ import annotations

import enum
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import trio

from gateway.actors.bell import Bell
from gateway.actors.spare_process import Begun, begin, end
from gateway.core.restarts import CRASHES_MAX, Restarts
from gateway.errors import GatewayError
from gateway.wire.worker_control import (
    BadControlFrame,
    Kept,
    Linked,
    Message,
    Over,
    Ready,
    Start,
    SupervisorEnd,
    ToSupervisor,
    encode,
)

#: From exec to `ready`: a second on an idle machine, several when all cores have other work.
START_S = 60.0
#: A worker whose loop has not answered for so long does nothing for anybody: a step is 2 ms.
STUCK_S = 30.0
#: How often each worker is asked for a sign of life, one after the other.
WATCH_S = 5.0
COMMAND = (sys.executable, "-m", "gateway.app_worker")
_READ_BYTES = 65_536
#: As gateway/cli/exit_codes.py has it.
_USAGE = 2
#: Of a process that the kernel is ending (include/linux/sched.h); proc(5) has the flags as the ninth field of `stat`.
_PF_EXITING = 0x4


class WorkerState(enum.Enum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    ENDED = "ended"


#: A life that ended in one of these had been ready.
_SERVED = (WorkerState.READY, WorkerState.LEAVING)


class WorkerLost(GatewayError):
    """A worker ends as often as it is started; the fault stays, and the gateway must not look alive."""


class WorkerRefused(GatewayError):
    """A worker says that the configuration, or what the disk holds, cannot be served; what is wrong stands in its own
    line before."""


class Company(Protocol):
    """The supervisor of all of them. Its calls return at once."""

    def started(self, worker: WorkerProcess) -> None:
        """It has a new incarnation, which is starting."""
        ...

    def told(self, worker: WorkerProcess, message: ToSupervisor) -> None: ...

    def ended(self, worker: WorkerProcess, incarnation: int) -> None:
        """That incarnation will never say anything again."""
        ...

    def crashed(self, worker: WorkerProcess, code: int, restart_in_s: float) -> None: ...


class Plan(NamedTuple):
    """How a worker is started. start: what it is told first. files: descriptors that it inherits."""

    start: Start
    files: Sequence[int]


class WorkerProcess:
    def __init__(
        self,
        worker: int,
        plan: Callable[[int], Plan],
        company: Company,
        *,
        command: Sequence[str] = COMMAND,
        crashes_max: int = CRASHES_MAX,
        start_s: float = START_S,
        take_spare: Callable[[], Begun | None] = lambda: None,
    ) -> None:
        """plan: makes the plan of this worker's next incarnation. command: what is run, with the descriptor added.
        take_spare: one that runs already, where there is one."""
        self.worker = worker
        self.state = WorkerState.WAITING
        self.incarnation = 0
        #: Its socket for other workers is open.
        self.is_linked = False
        self.pid: int | None = None
        self.restarts = 0
        self._plan = plan
        self._command = command
        self._company = company
        self._start_s = start_s
        self._take_spare = take_spare
        self._crashes = Restarts(crashes_max)
        self._unsent = bytearray()
        self._bell = Bell()
        self._process: trio.Process | None = None
        self._is_stopping = False
        #: In which state this life ended, once the company has been told.
        self._ended_in: WorkerState | None = None
        self._heard_at = 0.0
        self._stop_now = trio.Event()

    @property
    def is_running(self) -> bool:
        return self.state in (WorkerState.STARTING, WorkerState.READY, WorkerState.LEAVING)

    @property
    def last_ended(self) -> tuple[int, int]:
        """Worker and the last incarnation that has ended, at least: all before one that runs have."""
        return self.worker, self.incarnation - (1 if self.is_running and self.incarnation else 0)

    def send(self, message: Message) -> None:
        """The worker reads it in turn; one that does not run never hears of it."""
        if self.is_running:
            self._unsent += encode(message)
            self._bell.ring()

    def leaves(self) -> None:
        """Its next end is one that was asked for."""
        self.state = WorkerState.LEAVING

    def stop(self) -> None:
        """It is not started again; one that waits for its restart has ended."""
        self._is_stopping = True
        self._stop_now.set()

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def run(self) -> None:
        """Returns when it has ended after `stop`. Raises: WorkerLost, WorkerRefused. If cancelled: it is killed."""
        was_ready = False
        while not self._is_stopping:
            plan = self._plan(self.worker)
            self.incarnation = plan.start.incarnation
            code = await self._live(plan)
            self._say_ended()
            was_leaving, was_ready = self._ended_in is WorkerState.LEAVING, was_ready or self._ended_in in _SERVED
            self.pid = None
            if self._is_stopping:
                break
            if code == _USAGE and not was_ready:
                raise WorkerRefused(f"worker {self.worker} refuses the configuration")
            self.restarts += 1
            if was_leaving and code == 0:
                continue
            backoff_s = self._crashes.on_crash(trio.current_time())
            self._company.crashed(self, code, backoff_s)
            if self._crashes.is_over:
                raise WorkerLost(
                    f"worker {self.worker} ended {self._crashes.count} times in a row, the last with {code}"
                )
            with trio.move_on_after(backoff_s):
                await self._stop_now.wait()
        self.state = WorkerState.ENDED

    def _say_ended(self) -> None:
        """Its company knows, once for each life."""
        if self._ended_in is None:
            self._ended_in = self.state
            self.state = WorkerState.WAITING
            self.is_linked = False
            self._company.ended(self, self.incarnation)

    async def _live(self, plan: Plan) -> int:
        """One process, from start to end; its exit code, negative for a signal."""
        self._unsent = bytearray(encode(plan.start))
        self.state = WorkerState.STARTING
        self._ended_in = None
        self._heard_at = trio.current_time() + self._start_s - STUCK_S
        process, stream = self._take_spare() or await begin(self._command, plan.files)
        async with stream:
            self._process = process
            self.pid = process.pid
            self._company.started(self)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream)
                    nursery.start_soon(self._read, stream)
                    nursery.start_soon(self._watch)
                    await process.wait()
                    nursery.cancel_scope.cancel()
            finally:
                self._process = None
                await end(process)
        assert process.returncode is not None
        return process.returncode

    async def _read(self, stream: trio.abc.Stream) -> None:
        machine = SupervisorEnd()
        try:
            while data := await stream.receive_some(_READ_BYTES):
                self._heard_at = trio.current_time()
                for message in machine.receive_data(bytes(data)):
                    if isinstance(message, Ready) or (isinstance(message, Kept) and self.state is WorkerState.LEAVING):
                        self.state = WorkerState.READY
                    elif isinstance(message, Linked):
                        self.is_linked = True
                    elif isinstance(message, Over):
                        if self.state is WorkerState.LEAVING:
                            self._say_ended()
                        continue
                    self._company.told(self, message)
            if self.pid is not None and is_ending(self.pid):
                self._say_ended()
        except BadControlFrame:
            self.kill()
        except trio.BrokenResourceError:
            # With what it had not read; the same end.
            if self.pid is not None and is_ending(self.pid):
                self._say_ended()

    async def _write(self, stream: trio.abc.Stream) -> None:
        while True:
            while self._unsent:
                data, self._unsent = bytes(self._unsent), bytearray()
                try:
                    await stream.send_all(data)
                except trio.BrokenResourceError:
                    return
            await self._bell.wait()

    async def _watch(self) -> None:
        """Kills the process when nothing has come of it for too long; the supervisor asks for a sign of life."""
        while trio.current_time() < self._heard_at + STUCK_S:  # noqa: ASYNC110 - the deadline moves with each message
            await trio.sleep_until(self._heard_at + STUCK_S)
        self.kill()


def is_ending(pid: int) -> bool:
    """True when the kernel has begun to end that child of ours, or has ended it: none of its code will run again."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            # Behind the name, which may hold anything: state, parent, group, session, terminal, its group, flags.
            return bool(int(stream.read().rpartition(b")")[2].split()[6]) & _PF_EXITING)
    except OSError:
        return False


def describe_end(code: int) -> str:
    """An exit code in words: `signal SIGKILL`, `code 1`."""
    if code >= 0:
        return f"code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
