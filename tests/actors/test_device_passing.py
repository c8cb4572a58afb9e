"""Connections between workers: two actors in one process, over the sockets that two processes have."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from gateway.actors.device_passing import DevicePassing
from gateway.actors.peers import Peers, WorkerPlace
from gateway.core.ownership import Ownership
from gateway.net import fd_passing


class Link:
    """Takes what the long link would take."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes]] = []
        self.together: list[tuple[float, int]] = []
        self.rest_s = 0.0
        self.back: list[int] = []

    def adopt(self, fd: int, address: str, data: bytes) -> None:
        self.taken.append((address, data))
        os.close(fd)

    def adopted(self, n: int) -> float:
        self.together.append((trio.current_time(), n))
        return self.rest_s

    def owner_is_back(self, worker: int) -> None:
        self.back.append(worker)


class Site:
    """A worker with its peers."""

    def __init__(self, worker: int, folder: Path) -> None:
        self.link, self.peers = Link(), Peers()
        place = WorkerPlace(worker, 2, worker + 1, str(folder))
        self.passing = DevicePassing(place, self.peers, Ownership(2), lambda: self.link)
        self.passing.listen()
        self.peers.watch(self.passing)


@asynccontextmanager
async def two(folder: Path, *, is_taking: bool = True) -> AsyncIterator[tuple[Site, Site]]:
    first, second = Site(0, folder), Site(1, folder)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.passing.run)
        if is_taking:
            nursery.start_soon(second.passing.run)
        first.peers.up(1, 2)
        yield first, second
        nursery.cancel_scope.cancel()
    first.passing.close()
    second.passing.close()


async def until_adopted(site: Site, n: int) -> None:
    with trio.fail_after(60):
        while len(site.link.taken) < n:
            await trio.lowlevel.checkpoint()


async def test_connection_goes_to_the_peer_that_is_up(tmp_path: Path) -> None:
    async with two(tmp_path) as (first, second):
        assert first.link.back == [1]
        assert first.passing.pass_on(1, 0, "192.0.2.1", b"CONNECT")
        await until_adopted(second, 1)
        assert second.link.taken == [("192.0.2.1", b"CONNECT")]
        # Nobody has said that the other direction is there.
        assert not second.passing.pass_on(0, 0, "", b"")


async def test_owner_is_whoever_the_map_says(tmp_path: Path) -> None:
    async with two(tmp_path) as (first, second):
        ownership = Ownership(2)
        for _ in range(50):
            device = os.urandom(16)
            owners = (first.passing.owner(device), second.passing.owner(device))
            assert owners == ((-1, 0) if ownership.owner(device) == 0 else (1, -1))


async def test_peer_that_drains_gets_nothing_until_it_goes_on(tmp_path: Path) -> None:
    async with two(tmp_path) as (first, _):
        first.peers.drains(1, 2, is_over=False)
        assert not first.passing.pass_on(1, 0, "", b"x")
        first.peers.drains(1, 2, is_over=True)
        assert first.link.back == [1, 1]
        assert first.passing.pass_on(1, 0, "", b"x")


async def test_dead_peer_gets_nothing_and_its_successor_everything(tmp_path: Path) -> None:
    async with two(tmp_path) as (first, second):
        first.peers.died(1, 2)
        assert not first.passing.pass_on(1, 0, "", b"x")
        first.peers.up(1, 5)
        # The end of the incarnation before is told once more: it ends nothing.
        first.peers.died(1, 2)
        assert first.passing.pass_on(1, 0, "", b"x")
        await until_adopted(second, 1)


async def test_full_queue_is_told_of_when_it_has_room(tmp_path: Path) -> None:
    async with two(tmp_path, is_taking=False) as (first, second):
        sent = 0
        while first.passing.pass_on(1, 0, "", bytes(1000)):
            sent += 1
            assert sent < 100_000
        await trio.testing.wait_all_tasks_blocked()
        assert first.link.back == [1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.passing.run)
            await until_adopted(second, sent)
            with trio.fail_after(60):
                while first.link.back != [1, 1]:
                    await trio.lowlevel.checkpoint()
            assert first.passing.pass_on(1, 0, "", b"x")
            await until_adopted(second, sent + 1)
            nursery.cancel_scope.cancel()


async def test_client_that_says_too_much_before_it_is_answered_goes_nowhere(tmp_path: Path) -> None:
    async with two(tmp_path) as (first, _):
        assert not first.passing.pass_on(1, 0, "", bytes(fd_passing.DATA_BYTES_MAX + 1))
        assert first.passing.pass_on(1, 0, "", b"x")


async def test_socket_that_is_left_of_a_crash_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "devices-0.sock").touch()
    site = Site(0, tmp_path)
    site.passing.close()
    with pytest.raises(FileNotFoundError):
        Site(0, tmp_path / "missing")


async def test_queue_that_fills_up_as_the_peer_is_replaced_is_watched_too(tmp_path: Path) -> None:
    """The watch of the socket before ends at the same moment: whichever comes first, nothing stays full."""
    async with two(tmp_path, is_taking=False) as (first, second):
        for incarnation in range(2, 7):
            while first.passing.pass_on(1, 0, "", bytes(1000)):
                pass
            await trio.testing.wait_all_tasks_blocked()
            first.peers.died(1, incarnation)
            first.peers.up(1, incarnation + 1)
            while first.passing.pass_on(1, 0, "", bytes(1000)):
                pass
            n_back = len(first.link.back)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(second.passing.run)
                with trio.fail_after(60):
                    while len(first.link.back) == n_back:
                        await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()


async def test_peer_whose_taker_crashed_and_runs_again_gets_connections_as_before(tmp_path: Path) -> None:
    """The peer lives, so nobody says that its sockets are others now."""
    async with two(tmp_path, is_taking=False) as (first, second):
        for taken in (1, 2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(second.passing.run)
                await trio.testing.wait_all_tasks_blocked()
                assert first.passing.pass_on(1, 0, "192.0.2.1", b"CONNECT")
                await until_adopted(second, taken)
                nursery.cancel_scope.cancel()
    assert second.link.taken == [("192.0.2.1", b"CONNECT")] * 2


async def test_connections_of_a_storm_are_taken_together(tmp_path: Path) -> None:
    async with two(tmp_path) as (first, second):
        second.link.rest_s = 0.05
        for number in range(30):
            assert first.passing.pass_on(1, 0, "", bytes([number]))
            await trio.sleep(0.004)
        await until_adopted(second, 30)
        assert [data for _, data in second.link.taken] == [bytes([number]) for number in range(30)]
        assert sum(n for _, n in second.link.together) == 30
        looks = [at for at, _ in second.link.together]
        assert len(looks) <= 12, "a look at each, though they were to come together"
        assert min(after - before for before, after in itertools.pairwise(looks)) >= 0.05


async def test_connections_that_come_at_once_are_taken_without_rest_until_none_is_left(tmp_path: Path) -> None:
    async with two(tmp_path, is_taking=False) as (first, second):
        for _ in range(40):
            assert first.passing.pass_on(1, 0, "", b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.passing.run)
            await until_adopted(second, 40)
            await trio.testing.wait_all_tasks_blocked()
            # Sixteen a step; the rest is after the look that found no more.
            assert [n for _, n in second.link.together] == [8]
            nursery.cancel_scope.cancel()
