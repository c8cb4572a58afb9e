"""Peers: who lives, told to watchers once."""

from __future__ import annotations

from gateway.actors.peers import Peers


class Watcher:
    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []

    def peer_up(self, worker: int, incarnation: int) -> None:
        self.told.append(("up", worker, incarnation))

    def peer_died(self, worker: int, incarnation: int) -> None:
        self.told.append(("died", worker, incarnation))

    def peer_draining(self, worker: int, incarnation: int, *, is_over: bool) -> None:
        self.told.append(("over" if is_over else "drains", worker, incarnation))


def test_watcher_is_told_once_of_each_life_however_often_the_supervisor_says_so() -> None:
    """A worker that starts hears of another that became ready meanwhile, and of all when it is ready itself."""
    peers, watcher = Peers(), Watcher()
    peers.up(0, 7)
    peers.watch(watcher)
    peers.up(0, 7)
    peers.drains(0, 7, is_over=False)
    peers.up(0, 7)
    assert peers.draining == {0}
    peers.died(0, 7)
    peers.up(0, 9)
    assert watcher.told == [("up", 0, 7), ("drains", 0, 7), ("died", 0, 7), ("up", 0, 9)]
    assert (peers.alive, peers.draining) == ({0: 9}, set())
