"""`pushgw serve` with several workers: reserves addresses, starts workers, tells each of the others, stops them all.

    Supervisor --start, peer_up, stop ...--> WorkerProcess --control socket--> app_worker.py
        |
        +-- OperatorService: one operator socket over all workers (app_operator.py)

What it keeps: the configuration's text as it was at start, the shared columns of the metrics, the last incarnation.
It is not in the way of any row, device or request; when it ends, however it ends, the workers do.

Shutdown: all workers drain at once, each within `drain_s`; those that have not ended some seconds later are killed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from gateway.actors.spare_process import COMMAND, SpareProcess
from gateway.actors.worker_process import (
    Plan,
    WorkerLost,
    WorkerProcess,
    WorkerRefused,
    WorkerState,
    describe_end,
)
from gateway.actors.worker_rounds import WorkerRounds
from gateway.app import Ready
from gateway.app_journal import DataDir
from gateway.app_journals_ready import make_data_ready
from gateway.app_operator import OperatorService, open_operator
from gateway.app_parts import make_log
from gateway.app_run_folder import RunFolder
from gateway.app_signals import serve_until_signal
from gateway.app_worker import map_columns
from gateway.cli.exit_codes import ExitCode
from gateway.config import Config, make_missing_secrets, message_id_secret
from gateway.config_types import Address
from gateway.errors import Overloaded
from gateway.net.shared_listeners import Reservation, reserve
from gateway.net.unix import open_unix_listener
from gateway.observe.metrics import Metrics
from gateway.observe.process import read_process, record_process
from gateway.observe.shared import make_memory
from gateway.wire.rpc.messages import WorkerRestart
from gateway.wire.worker_control import (
    AllRefreshed,
    AskRefresh,
    Kept,
    Linked,
    Message,
    Met,
    PeerDied,
    PeerDraining,
    PeerLinked,
    PeerUp,
    Pong,
    Refreshed,
    Restart,
    Start,
    Stop,
    ToSupervisor,
    Whole,
)

#: What a worker that drains in time needs beyond `drain_s`: its last phase has a second, and a busy machine.
_STOP_GRACE_S = 5.0
#: Of a rolling restart, between one worker and the next: what waited for the one that has come back is let in, and its
#: code has run once, before it takes the clients of the next one, too.
_REST_S = 1.0


class Supervisor:
    """Built within the loop, then `run` once. Raises ConfigError for what cannot be had."""

    def __init__(self, config: Config, config_file: Path, config_text: bytes) -> None:
        self.config = config
        self._config_file = config_file.resolve()
        self._config_text = config_text
        workers = config.gateway.workers
        self.run_folder = RunFolder(config.gateway.data_dir)
        values_max, apps = config.observe.label_values_max, len(config.apps)
        self._files = [make_memory(Metrics, label_values_max=values_max, apps=apps) for _ in range(workers + 1)]
        self._columns = map_columns(config, [os.dup(fd) for fd in self._files])
        metrics = self._columns[workers].open(1)
        assert isinstance(metrics, Metrics)
        self.metrics = metrics
        self.log = make_log(config, metrics).bind(actor="supervisor")
        self.spare = SpareProcess(COMMAND, self._inherited, config.gateway.spare_after_s)
        self.workers = [
            WorkerProcess(worker, self._plan, self, take_spare=self.spare.take) for worker in range(workers)
        ]
        self.clock_offset_s = 0.0
        self._reservations: list[Reservation] = []
        self._unix_listeners: dict[str, trio.SocketListener] = {}
        self._rpc: list[str] = []
        self._long_link: list[str] = []
        self._http = ""
        self._receipts: list[str] = []
        self._changed = trio.Event()
        self._kept: dict[int, dict[str, int]] = {}
        self._is_restarting = False
        self._stopping = trio.Event()
        self._failure: WorkerLost | WorkerRefused | None = None
        self.rounds = WorkerRounds(self.workers, self._record_process)

    # -- running

    async def run(self, ready: Callable[[Any], None] | None = None) -> None:
        """Serves until `stop`, then all workers have drained. Raises: ConfigError, WorkerLost, WorkerRefused."""
        await self._reserve()
        try:
            async with trio.open_nursery() as nursery:
                await self._run(nursery, ready)
            if self._failure is not None:
                raise self._failure
        finally:
            for held in self._reservations:
                held.close()
            for listener in self._unix_listeners.values():
                listener.socket.close()
            for fd in self._files:
                os.close(fd)

    async def _run(self, nursery: trio.Nursery, ready: Callable[[Any], None] | None) -> None:
        service = OperatorService(self)
        async with trio.open_nursery() as serving:
            operator = await open_operator(serving, self, service)
            serving.start_soon(self.rounds.watch)
            serving.start_soon(self.rounds.run)
            for worker in self.workers:
                nursery.start_soon(self._keep, worker)
            serving.start_soon(functools.partial(self._announce, operator, ready))
            if self.config.gateway.spare_after_s:
                serving.start_soon(self.spare.run)
            await self._stopping.wait()
            serving.cancel_scope.cancel()
        self.log.info("stopping", drain_s=self.config.gateway.drain_s)
        for worker in self.workers:
            worker.send(Stop())
            worker.stop()
        with trio.move_on_after(self.config.gateway.drain_s + _STOP_GRACE_S):
            await self._wait_for(lambda: not any(worker.is_running for worker in self.workers))
        for worker in self.workers:
            if worker.is_running:
                self.log.warning("worker killed: it did not end in time", worker=worker.worker)
            worker.kill()
        self.log.info("stopped")

    async def _keep(self, worker: WorkerProcess) -> None:
        """One that cannot work ends the gateway; the others drain."""
        try:
            await worker.run()
        except (WorkerLost, WorkerRefused) as error:
            self._failure = error
            self.stop()

    def stop(self) -> None:
        """`run` ends all workers and returns. A second call changes nothing."""
        self._stopping.set()

    async def _announce(self, operator: str, ready: Callable[[Any], None] | None) -> None:
        await self._wait_for(lambda: all(worker.state is WorkerState.READY for worker in self.workers))
        found = Ready(self._rpc, operator, self._http.replace("tcp:", "http:"), self._long_link, self._receipts)
        self.log.info("all workers ready", workers=len(self.workers), **found._asdict())
        if ready is not None:
            ready(found._asdict())

    async def _reserve(self) -> None:
        """Every address is ours, with its port."""
        config = self.config
        for index, listener in enumerate(config.rpc.listeners):
            address = listener.address
            if address.scheme == "unix":
                opened = await open_unix_listener(address.path, mode=0o600, key=f"rpc.listeners[{index}].address")
                self._unix_listeners[address.path] = opened
                self._rpc.append(str(address))
            else:
                self._rpc.append(self._hold(f"rpc.listeners[{index}].address", address))
        self._long_link = [
            self._hold(f"long_link.listeners[{index}].address", listener.address)
            for index, listener in enumerate(config.long_link.listeners)
        ]
        self._http = self._hold("http.address", config.http.address)
        self._receipts = [
            self._hold(f"receipts.listeners[{index}].address", listener.address)
            for index, listener in enumerate(config.receipts.listeners)
        ]

    def _hold(self, key: str, address: Address) -> str:
        held = reserve(key, address.host, address.port)
        self._reservations.append(held)
        return str(Address(address.scheme, held.host, held.port))

    def _plan(self, worker: int) -> Plan:
        listeners = {path: listener.socket.fileno() for path, listener in self._unix_listeners.items()}
        start = Start(
            worker=worker,
            workers=len(self.workers),
            incarnation=self.run_folder.next_incarnation(),
            run_folder=str(self.run_folder.path),
            config_file=str(self._config_file),
            config_text=self._config_text,
            rpc=self._rpc,
            long_link=self._long_link,
            http=self._http,
            receipts=self._receipts,
            unix_listeners=listeners,
            metric_files=self._files,
            clock_offset_s=self.clock_offset_s,
            living=[(other.worker, other.incarnation) for other in self.workers if other.is_linked],
        )
        return Plan(start, self._inherited())

    def _inherited(self) -> list[int]:
        """Descriptors that every worker has."""
        return [*self._files, *(listener.socket.fileno() for listener in self._unix_listeners.values())]

    # -- what workers are told of each other

    def started(self, worker: WorkerProcess) -> None:
        self.log.info("worker started", worker=worker.worker, pid=worker.pid, incarnation=worker.incarnation)
        self._change()

    def told(self, worker: WorkerProcess, message: ToSupervisor) -> None:
        match message:
            case Pong() | Refreshed():
                self.rounds.answered(message.round, worker.worker)
                return
            case AskRefresh():
                self.rounds.refresh(functools.partial(worker.send, AllRefreshed(round=message.round)))
                return
            case Kept():
                self._kept[worker.worker] = message.rows_open
                self._tell_others(worker, PeerDraining(**_name(worker), is_over=True))
            case Linked():
                for other in self.workers:
                    if other is not worker and other.is_linked:
                        worker.send(PeerLinked(**_name(other)))
                worker.send(Met(down=[other.last_ended for other in self.workers if not other.is_linked]))
                self._tell_others(worker, PeerLinked(**_name(worker)))
            case _:
                for other in self.workers:
                    if other is not worker and other.state in (WorkerState.READY, WorkerState.LEAVING):
                        worker.send(PeerUp(**_name(other)))
                self._tell_others(worker, PeerUp(**_name(worker)))
        self._change()

    def ended(self, worker: WorkerProcess, incarnation: int) -> None:
        self._columns[worker.worker].died()
        self._tell_others(worker, PeerDied(worker=worker.worker, incarnation=incarnation))
        self.rounds.ended(worker.worker)
        self._change()

    def crashed(self, worker: WorkerProcess, code: int, restart_in_s: float) -> None:
        self.metrics.worker_restarts.add(1, str(worker.worker))
        self.log.error("worker ended", worker=worker.worker, how=describe_end(code), restart_in_s=restart_in_s)

    def is_ready(self, worker: int) -> bool:
        return self.workers[worker].state is WorkerState.READY

    def not_ready(self) -> list[str]:
        """Why no work should come to the gateway."""
        return [
            f"worker {worker.worker} is {worker.state.value}"
            for worker in self.workers
            if worker.state is not WorkerState.READY
        ]

    def _change(self) -> None:
        """All learn what the whole is now; whoever waits for a state looks again."""
        self.metrics.workers_ready.set(sum(worker.state is WorkerState.READY for worker in self.workers))
        for worker in self.workers:
            worker.send(Whole(not_ready=self.not_ready()))
        self._changed.set()
        self._changed = trio.Event()

    def _tell_others(self, worker: WorkerProcess, message: Message) -> None:
        for other in self.workers:
            if other is not worker:
                other.send(message)

    async def _wait_for(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()

    def _record_process(self) -> None:
        record_process(self.metrics, read_process())

    # -- rolling restart

    async def restart(self, *, may_lose: bool) -> list[WorkerRestart]:
        """One worker after the other has been started anew, or goes on because rows would have been lost.

        Raises: Overloaded while another restart is under way. If cancelled: the worker that is draining goes on to.
        """
        if self._is_restarting:
            raise Overloaded("restarts at once", 1, 1, retry_after_s=5.0)
        self._is_restarting = True
        try:
            done: list[WorkerRestart] = []
            for worker in self.workers:
                if done:
                    await trio.sleep(_REST_S)
                done.append(await self._restart_one(worker, may_lose=may_lose))
            return done
        finally:
            self._is_restarting = False

    async def _restart_one(self, worker: WorkerProcess, *, may_lose: bool) -> WorkerRestart:
        # Never two at once: one that has just crashed is waited for.
        await self._wait_for(lambda: not self.not_ready())
        # Its next life imports while it sends its devices away, not while they wait for it.
        self.spare.hurry()
        began, incarnation = trio.current_time(), worker.incarnation
        self._kept.pop(worker.worker, None)
        self._tell_others(worker, PeerDraining(**_name(worker), is_over=False))
        # They answer in order: what is its devices' waits with them from now on, and is not sent to one that ends.
        await self.rounds.wait_heard()
        worker.send(Restart(spread_s=self.config.gateway.restart_spread_s, may_lose=may_lose))
        worker.leaves()
        self._change()
        await self._wait_for(
            lambda: (
                worker.worker in self._kept or (worker.incarnation != incarnation and worker.state is WorkerState.READY)
            )
        )
        rows_open = self._kept.pop(worker.worker, {})
        took_ms = round((trio.current_time() - began) * 1000)
        return WorkerRestart(worker.worker, "kept" if rows_open else "restarted", rows_open, took_ms)

    def describe(self) -> list[dict[str, Any]]:
        """The workers for `pushgw status`."""
        return [
            {
                "worker": worker.worker,
                "state": worker.state.value,
                "pid": worker.pid,
                "incarnation": worker.incarnation,
                "restarts": worker.restarts,
            }
            for worker in self.workers
        ]


def _name(worker: WorkerProcess) -> dict[str, int]:
    return {"worker": worker.worker, "incarnation": worker.incarnation}


def supervise(
    config: Config, config_file: Path, config_text: bytes, *, ready: Callable[[dict[str, Any]], None] | None = None
) -> int:
    """Runs the gateway until SIGTERM or SIGINT; returns the exit code. Raises: ConfigError, WorkerLost."""
    data_dir = DataDir(config.gateway.data_dir)
    make_missing_secrets(config)
    # Made once, here, and not by several workers at the same time.
    message_id_secret(config)
    make_data_ready(config)
    try:
        serve_until_signal(lambda: Supervisor(config, config_file, config_text), ready)
    except WorkerRefused:
        return ExitCode.USAGE
    finally:
        data_dir.close()
    return ExitCode.GOOD
