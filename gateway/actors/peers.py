"""The other workers as this one knows them: who lives, in which incarnation. Told by the supervisor, in order.

Whoever keeps something per worker (links, hand-over of devices) adds a watcher; a watcher is told at once of those that
live already. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gateway.core.shadow import Life


class WorkerPlace(NamedTuple):
    """Which worker this process is. incarnation: u32, grows with every start of any worker of this data folder.

    run_folder: sockets of this start of the gateway, for this user alone; "" where a worker runs alone.
    """

    worker: int = 0
    workers: int = 1
    incarnation: int = 1
    run_folder: str = ""

    @property
    def is_alone(self) -> bool:
        return self.workers == 1


class LinkWatcher(Protocol):
    """Of the links alone: told of a worker before it is ready, so that a home that is back can ask who holds its
    rows."""

    def peer_linked(self, worker: int, incarnation: int) -> None:
        """That worker's socket for links is open; it takes no rows yet."""
        ...


class MeetingWatcher(Protocol):
    """Of who answers for request ids."""

    def peers_met(self, down: Sequence[Life]) -> None:
        """Everybody who was linked when this worker was has been named; down: the others, with what ended of them."""
        ...


class PeerWatcher(Protocol):
    def peer_up(self, worker: int, incarnation: int) -> None:
        """That worker's sockets in the run folder are open."""
        ...

    def peer_died(self, worker: int, incarnation: int) -> None:
        """It will never say anything again. May come for one whose `peer_up` never came."""
        ...

    def peer_draining(self, worker: int, incarnation: int, *, is_over: bool) -> None:
        """It is about to end and wants no new rows; is_over: it goes on after all."""
        ...


class Peers:
    """One object per worker process; empty for a worker alone."""

    def __init__(self) -> None:
        self.alive: dict[int, int] = {}
        """Worker -> incarnation, without this one."""
        self.draining: set[int] = set()
        self._linked: dict[int, int] = {}
        self._watchers: list[PeerWatcher] = []
        self._link_watchers: list[LinkWatcher] = []
        self._meeting_watchers: list[MeetingWatcher] = []

    def watch_links(self, watcher: LinkWatcher) -> None:
        self._link_watchers.append(watcher)
        for worker, incarnation in self._linked.items():
            watcher.peer_linked(worker, incarnation)

    def linked(self, worker: int, incarnation: int) -> None:
        """Watchers of links are told once of each life."""
        if incarnation not in (self._linked.get(worker), self.alive.get(worker)):
            self._linked[worker] = incarnation
            for watcher in self._link_watchers:
                watcher.peer_linked(worker, incarnation)

    def watch_meeting(self, watcher: MeetingWatcher) -> None:
        """Before this worker says that it is linked."""
        self._meeting_watchers.append(watcher)

    def met(self, down: Sequence[Life]) -> None:
        for watcher in self._meeting_watchers:
            watcher.peers_met(down)

    def watch(self, watcher: PeerWatcher) -> None:
        self._watchers.append(watcher)
        for worker, incarnation in self.alive.items():
            watcher.peer_up(worker, incarnation)

    def up(self, worker: int, incarnation: int) -> None:
        """Watchers are told once of each life, though the supervisor tells a worker that has just become ready of all,
        those included that became ready while it started."""
        if self.alive.get(worker) == incarnation:
            return
        self.alive[worker] = incarnation
        self.draining.discard(worker)
        for watcher in self._watchers:
            watcher.peer_up(worker, incarnation)

    def died(self, worker: int, incarnation: int) -> None:
        if self._linked.get(worker) == incarnation:
            del self._linked[worker]
        if self.alive.get(worker) == incarnation:
            del self.alive[worker]
            self.draining.discard(worker)
        for watcher in self._watchers:
            watcher.peer_died(worker, incarnation)

    def drains(self, worker: int, incarnation: int, *, is_over: bool) -> None:
        if self.alive.get(worker) == incarnation:
            (self.draining.discard if is_over else self.draining.add)(worker)
        for watcher in self._watchers:
            watcher.peer_draining(worker, incarnation, is_over=is_over)
