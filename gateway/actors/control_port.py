"""ControlPort: a worker's end of the control socket. Reads what the supervisor says, keeps what it says last.

Its end means that the supervisor is gone, however that came about: `run` returns, and the worker ends. Waits for: its
socket only. What it sends is a few short frames; those that wait are bounded by what the supervisor asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, assert_never

import trio

from gateway.actors.bell import Bell
from gateway.actors.peers import Peers
from gateway.core.shadow import Life
from gateway.wire.worker_control import (
    AllRefreshed,
    AskRefresh,
    Kept,
    Linked,
    Message,
    Met,
    Over,
    PeerDied,
    PeerDraining,
    PeerLinked,
    PeerUp,
    Ping,
    Pong,
    Ready,
    Refresh,
    Refreshed,
    Restart,
    Start,
    Stop,
    ToWorker,
    Whole,
    WorkerEnd,
    encode,
)

_READ_BYTES = 65_536
#: How long a scrape waits for the other workers; one whose loop is stuck must not make the page late.
_REFRESH_S = 1.0


class Controlled(Protocol):
    """The worker, as the supervisor moves it."""

    def stop(self) -> None:
        """Drain and end."""
        ...

    async def leave(self, spread_s: float, *, may_lose: bool) -> dict[str, int]:
        """Drain and end, unless rows would be lost: those by state, and the worker goes on. Empty: it ends."""
        ...

    async def refresh(self) -> None:
        """Gauges say how it is now."""
        ...


class ControlPort:
    """One object per worker process."""

    def __init__(
        self, stream: trio.abc.Stream, peers: Peers, received: WorkerEnd, more: Sequence[ToWorker] = ()
    ) -> None:
        """received: the machine that has read `start`; more: what came with it."""
        self._stream = stream
        self._peers = peers
        self._received = received
        self._more = list(more)
        self._unsent = bytearray()
        self._bell = Bell()
        self._is_leaving = False
        self._is_written = trio.Event()
        self._round = 0
        self._rounds: dict[int, trio.Event] = {}
        self.not_ready: list[str] = ["starting"]
        """Why the gateway as a whole takes no work."""

    async def run(self, worker: Controlled) -> None:
        """Returns when the supervisor is gone. If cancelled: nothing more is read or sent."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            for message in self._more:
                self._take(nursery, worker, message)
            try:
                while data := await self._stream.receive_some(_READ_BYTES):
                    for message in self._received.receive_data(bytes(data)):
                        self._take(nursery, worker, message)
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()

    def linked(self) -> None:
        """The supervisor learns that other workers can be heard."""
        self._send(Linked())

    def ready(self) -> None:
        """The supervisor learns that the listeners are open."""
        self._send(Ready())

    async def over(self) -> None:
        """Where the worker leaves for a restart, the supervisor can read that it has. If cancelled: maybe."""
        if self._is_leaving:
            self._is_written = trio.Event()
            self._send(Over())
            await self._is_written.wait()

    async def refresh_all(self) -> None:
        """Every worker that answers in time has set its gauges. If cancelled: some have."""
        self._round += 1
        number, done = self._round, trio.Event()
        self._rounds[number] = done
        self._send(AskRefresh(round=number))
        try:
            with trio.move_on_after(_REFRESH_S):
                await done.wait()
        finally:
            del self._rounds[number]

    def _take(self, nursery: trio.Nursery, worker: Controlled, message: ToWorker) -> None:
        match message:
            case PeerLinked():
                self._peers.linked(message.worker, message.incarnation)
            case Met():
                self._peers.met([Life(*one) for one in message.down])
            case PeerUp():
                self._peers.up(message.worker, message.incarnation)
            case PeerDied():
                self._peers.died(message.worker, message.incarnation)
            case PeerDraining():
                self._peers.drains(message.worker, message.incarnation, is_over=message.is_over)
            case Whole():
                self.not_ready = message.not_ready
            case Ping():
                self._send(Pong(round=message.round))
            case Refresh():
                nursery.start_soon(self._answer, worker.refresh, Refreshed(round=message.round))
            case AllRefreshed():
                if message.round in self._rounds:
                    self._rounds[message.round].set()
            case Stop():
                worker.stop()
            case Restart():
                nursery.start_soon(self._leave, worker, message)
            case Start():
                # A second one: the connection has one, read before this object was made.
                return
            case _:
                assert_never(message)

    async def _answer(self, act: Callable[[], Awaitable[None]], answer: Message) -> None:
        await act()
        self._send(answer)

    async def _leave(self, worker: Controlled, message: Restart) -> None:
        rows_open = await worker.leave(message.spread_s, may_lose=message.may_lose)
        self._is_leaving = not rows_open
        if rows_open:
            self._send(Kept(rows_open=rows_open))

    def _send(self, message: Message) -> None:
        self._unsent += encode(message)
        self._bell.ring()

    async def _write(self) -> None:
        while True:
            while self._unsent:
                data, self._unsent = bytes(self._unsent), bytearray()
                try:
                    await self._stream.send_all(data)
                except trio.BrokenResourceError:
                    return
            self._is_written.set()
            await self._bell.wait()
