"""WorkerRounds: what the supervisor asks its workers again and again: whether they live, and to set their gauges.

    watch             ping ------> one worker, WATCH_S / workers later the next <------ pong
    wait_heard        ping ------> all of them                                  <------ pong
    run               refresh ---> one worker, and when it has answered the next <----- refreshed

Twelve workers on two cores that are all asked in one moment are busy together, and whoever waits for a message of
theirs waits for all twelve. So one is asked after the other, and a sign of life is not the work of a scrape. A scrape
goes on without an answer after a moment: one that is slow must not keep the others waiting.

Sent to a worker that does not read, pings wait until it is killed for its silence (worker_process.py): STUCK_S /
WATCH_S of some 20 bytes. Waits for: answers, the clock. Is waited for by: a scrape, for REFRESH_S at most; a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from gateway.actors.bell import Bell
from gateway.actors.worker_process import WATCH_S
from gateway.wire.worker_control import Message, Ping, Refresh

#: How long a scrape waits for all: as the worker waits that was scraped (control_port.py), less the way there.
REFRESH_S = 0.8
#: In this time all have been asked to set their gauges, whether they answer or not.
ASKED_S = 0.1
#: A worker answers between two steps of its loop; on a machine with other work that may take a while.
HEARD_S = 5.0


class Asked(Protocol):
    """A worker as this actor needs it."""

    @property
    def is_running(self) -> bool: ...

    def send(self, message: Message) -> None: ...


class WorkerRounds:
    """workers: in order of their numbers. before: called before each round of gauges."""

    def __init__(self, workers: Sequence[Asked], before: Callable[[], None] = lambda: None) -> None:
        self._workers = workers
        self._before = before
        self._round = 0
        #: Who has not answered, by round.
        self._waiting: dict[int, set[int]] = {}
        self._changed = trio.Event()
        self._bell = Bell()
        #: Called when all have set their gauges once more.
        self._askers: list[Callable[[], None]] = []

    # -- told

    def refresh(self, done: Callable[[], None]) -> None:
        """All gauges are set once more, and then `done` is called. Who asks while that is under way waits for the next
        time, together with all others that do."""
        self._askers.append(done)
        self._bell.ring()

    def answered(self, number: int, worker: int) -> None:
        """The worker has answered that round; 0: a sign of life."""
        if number in self._waiting:
            self._waiting[number].discard(worker)
            self._change()

    def ended(self, worker: int) -> None:
        """That worker answers nothing any more."""
        for waiting in self._waiting.values():
            waiting.discard(worker)
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- doing

    async def watch(self) -> None:
        """Asks each worker every WATCH_S whether it lives, until cancelled."""
        while True:
            for worker in self._workers:
                await trio.sleep(WATCH_S / len(self._workers))
                worker.send(Ping(round=0))

    async def wait_heard(self) -> None:
        """Every worker has read what it was sent before, or does not read in time."""
        number, waiting = self._begin()
        for worker in self._workers:
            worker.send(Ping(round=number))
        try:
            with trio.move_on_after(HEARD_S):
                while waiting:
                    await self._changed.wait()
        finally:
            del self._waiting[number]

    async def run(self) -> None:
        """Serves those who call `refresh`, until cancelled."""
        while True:
            await self._bell.wait()
            if askers := self._askers:
                self._askers = []
                await self._refresh()
                for done in askers:
                    done()

    async def _refresh(self) -> None:
        self._before()
        number, waiting = self._begin()
        began = trio.current_time()
        try:
            for place, worker in enumerate(self._workers):
                worker.send(Refresh(round=number))
                with trio.move_on_at(began + ASKED_S * (place + 1) / len(self._workers)):
                    while place in waiting:
                        await self._changed.wait()
            with trio.move_on_at(began + REFRESH_S):
                while waiting:
                    await self._changed.wait()
        finally:
            del self._waiting[number]

    def _begin(self) -> tuple[int, set[int]]:
        """A new round's number, and who is to answer it."""
        self._round += 1
        waiting = self._waiting[self._round] = {
            place for place, worker in enumerate(self._workers) if worker.is_running
        }
        return self._round, waiting
