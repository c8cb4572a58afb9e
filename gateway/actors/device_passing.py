"""DevicePassing: takes connections of devices from the other workers, and gives them theirs.

One Unix socket per pair of workers and direction (`devices-<worker>.sock` in the run folder, net/fd_passing.py); a peer
that is up is connected to at once, so that handing over is one system call in the long link's step. A socket whose
queue is full is waited for here; the connection waits with the long link. Waits for: its sockets. Is waited for by:
nobody.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Protocol

import trio

from gateway.actors.bell import Bell
from gateway.actors.peers import Peers, WorkerPlace
from gateway.core.ownership import Ownership
from gateway.net import fd_passing

#: Connections taken in one step of the loop, 15 to 40 us each; their CONNECT is looked at in the long link's steps.
_TAKEN_PER_STEP = 16


class Adopter(Protocol):
    """The long link."""

    def adopt(self, fd: int, address: str, data: bytes) -> None: ...

    def adopted(self, n: int) -> float: ...

    def owner_is_back(self, worker: int) -> None: ...


class DevicePassing:
    """One per worker that is not alone; what the long link calls `Elsewhere`, and a watcher of the peers."""

    def __init__(self, place: WorkerPlace, peers: Peers, ownership: Ownership, adopter: Callable[[], Adopter]) -> None:
        """adopter: the long link of this moment; a crashed one is replaced."""
        self._place = place
        self._peers = peers
        self._ownership = ownership
        self._adopter = adopter
        self._links: dict[int, socket.socket] = {}
        self._full: set[int] = set()
        self._bell = Bell()
        self._listener: socket.socket | None = None

    # -- giving

    def owner(self, device_id: bytes) -> int:
        worker = self._ownership.owner(device_id)
        return -1 if worker == self._place.worker else worker

    def pass_on(self, worker: int, fd: int, address: str, data: bytes) -> bool:
        link = self._links.get(worker)
        if link is None or worker in self._full or worker in self._peers.draining:
            return False
        if len(data) > fd_passing.DATA_BYTES_MAX:
            # It says that much before it has been answered: it gets no answer.
            return False
        try:
            try:
                fd_passing.send_connection(link, fd, address, data)
            except ConnectionError:
                # It has gone; the supervisor will say so, and say when there is another one. Or it lives, and who took
                # from this socket has crashed and runs again: nobody will say that.
                if not self._connect(worker):
                    return False
                fd_passing.send_connection(self._links[worker], fd, address, data)
        except BlockingIOError:
            self._full.add(worker)
            self._bell.ring()
            return False
        except OSError:
            self._drop(worker)
            return False
        return True

    def _connect(self, worker: int) -> bool:
        """There is a new socket to that worker, if it listens."""
        self._drop(worker)
        link = fd_passing.open_socket()
        try:
            link.connect(self._path(worker))
        except OSError:
            link.close()
            return False
        self._links[worker] = link
        return True

    def peer_up(self, worker: int, incarnation: int) -> None:
        if self._connect(worker):
            self._adopter().owner_is_back(worker)

    def peer_died(self, worker: int, incarnation: int) -> None:
        if self._peers.alive.get(worker) is None:
            self._drop(worker)

    def peer_draining(self, worker: int, incarnation: int, *, is_over: bool) -> None:
        if is_over:
            self._adopter().owner_is_back(worker)

    def _drop(self, worker: int) -> None:
        self._full.discard(worker)
        link = self._links.pop(worker, None)
        if link is not None:
            trio.lowlevel.notify_closing(link)
            link.close()

    def _path(self, worker: int) -> str:
        return f"{self._place.run_folder}/devices-{worker}.sock"

    # -- taking

    def listen(self) -> None:
        """Peers can connect from now on. Raises: OSError."""
        path = self._path(self._place.worker)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of the incarnation before
        self._listener = fd_passing.listen(path)

    async def run(self) -> None:
        """Takes what comes and finds out when a full queue has room. If cancelled: the peers see the end of theirs."""
        assert self._listener is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_for_room, nursery)
            while True:
                await trio.lowlevel.wait_readable(self._listener)
                with contextlib.suppress(BlockingIOError):
                    peer, _ = self._listener.accept()
                    peer.setblocking(False)
                    nursery.start_soon(self._take, peer)

    def close(self) -> None:
        """Nothing is given or taken any more."""
        for worker in list(self._links):
            self._drop(worker)
        if self._listener is not None:
            trio.lowlevel.notify_closing(self._listener)
            self._listener.close()
            self._listener = None

    async def _take(self, peer: socket.socket) -> None:
        with peer:
            while True:
                await trio.lowlevel.wait_readable(peer)
                taken = 0
                try:
                    while taken < _TAKEN_PER_STEP:
                        passed = fd_passing.receive_connection(peer)
                        if passed is None:
                            return
                        self._adopter().adopt(*passed)
                        taken += 1
                except BlockingIOError:
                    # Those of a storm come together (core/login_turns.py).
                    if rest_s := self._adopter().adopted(taken):
                        await trio.sleep(rest_s)
                except OSError:
                    return

    async def _wait_for_room(self, nursery: trio.Nursery) -> None:
        watched: set[int] = set()
        while True:
            await self._bell.wait()
            for worker in self._full & set(self._links) - watched:
                watched.add(worker)
                nursery.start_soon(self._wait_writable, worker, self._links[worker], watched)

    async def _wait_writable(self, worker: int, link: socket.socket, watched: set[int]) -> None:
        try:
            await trio.lowlevel.wait_writable(link)
        except trio.ClosedResourceError:
            return
        finally:
            watched.discard(worker)
            # The socket of its next life may be full by now, and was not watched while this one was.
            self._bell.ring()
        self._full.discard(worker)
        self._adopter().owner_is_back(worker)
