"""A worker's end of the control socket: what it passes on, what it answers, and that its end is an end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import memory_stream_pair

from gateway.actors.control_port import ControlPort
from gateway.actors.peers import Peers
from gateway.wire.worker_control import (
    AllRefreshed,
    AskRefresh,
    Kept,
    Over,
    PeerDied,
    PeerDraining,
    PeerUp,
    Ping,
    Pong,
    Ready,
    Refresh,
    Refreshed,
    Restart,
    Stop,
    SupervisorEnd,
    Whole,
    WorkerEnd,
    encode,
)


class Worker:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.did: list[Any] = []
        self.rows_open: dict[str, int] = {}

    def stop(self) -> None:
        self.did.append(("stop",))

    async def leave(self, spread_s: float, *, may_lose: bool) -> dict[str, int]:
        await trio.sleep(1)
        self.did.append(("leave", spread_s, may_lose))
        return self.rows_open

    async def refresh(self) -> None:
        self.did.append("refresh")


class Watcher:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def peer_up(self, worker: int, incarnation: int) -> None:
        self.told.append(("up", worker, incarnation))

    def peer_died(self, worker: int, incarnation: int) -> None:
        self.told.append(("died", worker, incarnation))

    def peer_draining(self, worker: int, incarnation: int, *, is_over: bool) -> None:
        self.told.append(("draining", worker, incarnation, is_over))


class Setting:
    def __init__(self) -> None:
        self.supervisor, theirs = memory_stream_pair()
        self.worker, self.peers = Worker(), Peers()
        self.port = ControlPort(theirs, self.peers, WorkerEnd(), [PeerUp(worker=3, incarnation=9)])
        self.heard = SupervisorEnd()

    async def say(self, *messages: Any) -> None:
        await self.supervisor.send_all(b"".join(map(encode, messages)))
        await trio.testing.wait_all_tasks_blocked()

    async def answers(self) -> list[Any]:
        return list(self.heard.receive_data(bytes(await self.supervisor.receive_some(65_536))))


@asynccontextmanager
async def running() -> AsyncIterator[Setting]:
    setting = Setting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.port.run, setting.worker)
        await trio.testing.wait_all_tasks_blocked()
        yield setting
        nursery.cancel_scope.cancel()


async def test_peers_are_known_in_the_order_in_which_it_happened(autojump_clock: trio.abc.Clock) -> None:
    async with running() as setting:
        watcher = Watcher()
        setting.peers.watch(watcher)
        await setting.say(
            PeerUp(worker=1, incarnation=4),
            PeerDraining(worker=1, incarnation=4, is_over=False),
            PeerDied(worker=1, incarnation=4),
            PeerUp(worker=1, incarnation=10),
            PeerDied(worker=1, incarnation=4),
        )
        assert watcher.told == [
            ("up", 3, 9),
            ("up", 1, 4),
            ("draining", 1, 4, False),
            ("died", 1, 4),
            ("up", 1, 10),
            ("died", 1, 4),
        ]
        assert setting.peers.alive == {3: 9, 1: 10}
        assert setting.peers.draining == set()


async def test_end_of_the_supervisor_ends_it(autojump_clock: trio.abc.Clock) -> None:
    setting = Setting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.port.run, setting.worker)
        await setting.supervisor.aclose()
    assert setting.worker.did == []


async def test_worker_is_told_to_stop_and_why_the_whole_is_not_ready(autojump_clock: trio.abc.Clock) -> None:
    async with running() as setting:
        assert setting.port.not_ready == ["starting"]
        setting.port.ready()
        assert await setting.answers() == [Ready()]
        await setting.say(Whole(not_ready=["worker 1 is waiting"]), Stop())
        assert setting.port.not_ready == ["worker 1 is waiting"]
        assert setting.worker.did == [("stop",)]


async def test_gauges_are_refreshed_when_asked_and_asked_for_once_per_page(autojump_clock: trio.abc.Clock) -> None:
    async with running() as setting:
        await setting.say(Refresh(round=8))
        assert await setting.answers() == [Refreshed(round=8)]
        done: list[float] = []

        async def refresh_all() -> None:
            began = trio.current_time()
            await setting.port.refresh_all()
            done.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refresh_all)
            (asked,) = await setting.answers()
            assert isinstance(asked, AskRefresh)
            await setting.say(AllRefreshed(round=asked.round + 1), AllRefreshed(round=asked.round))
        assert done == [0.0]


async def test_sign_of_life_is_no_work(autojump_clock: trio.abc.Clock) -> None:
    async with running() as setting:
        await setting.say(Ping(round=0), Ping(round=7))
        assert await setting.answers() == [Pong(round=0), Pong(round=7)]
        assert setting.worker.did == []


async def test_page_does_not_wait_for_ever_for_the_others(autojump_clock: trio.abc.Clock) -> None:
    async with running() as setting:
        began = trio.current_time()
        await setting.port.refresh_all()
        assert trio.current_time() - began == 1.0


async def test_worker_that_leaves_says_nothing_and_one_that_stays_says_why(autojump_clock: trio.abc.Clock) -> None:
    async with running() as setting:
        await setting.say(Restart(spread_s=2.0, may_lose=True))
        await trio.sleep(2)
        assert setting.worker.did == [("leave", 2.0, True)]
        setting.worker.rows_open = {"held": 3}
        await setting.say(Restart(spread_s=2.0, may_lose=False), Refresh(round=1))
        await trio.sleep(2)
        # Nothing else waits while it drains.
        assert await setting.answers() == [Refreshed(round=1), Kept(rows_open={"held": 3})]


async def test_worker_says_that_it_is_over_where_it_leaves_for_a_restart(autojump_clock: trio.abc.Clock) -> None:
    async with running() as setting:
        # It was stopped: that is known.
        await setting.port.over()
        setting.worker.rows_open = {"held": 1}
        await setting.say(Restart(spread_s=1, may_lose=False))
        await trio.sleep(2)
        assert await setting.answers() == [Kept(rows_open={"held": 1})]
        await setting.port.over()
        setting.worker.rows_open = {}
        await setting.say(Restart(spread_s=1, may_lose=False))
        await trio.sleep(2)
        await setting.port.over()
        assert await setting.answers() == [Over()]
