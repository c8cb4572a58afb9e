"""Audiences over several workers: each says whom it has, and walks its own shards for whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.audience_desk import AudienceDesk
from gateway.actors.audience_peers import JoinedDesk
from gateway.actors.audience_sources import RegisteredDevices
from gateway.columns import U8
from gateway.core.audience_walk import Wanted
from gateway.errors import Overloaded
from gateway.ledger import Channel


class Desks:
    """The desk of each worker of a cluster; online: the ids that are online there."""

    def __init__(self, cluster: Any, nursery: trio.Nursery) -> None:
        self.cluster = cluster
        self.nursery = nursery
        self.joined: dict[int, JoinedDesk] = {}
        self.is_busy = False

    def open(self, worker: int, online: list[bytes]) -> JoinedDesk:
        async def find(app: int, tag: bytes) -> U8:
            await trio.lowlevel.checkpoint()
            return np.frombuffer(b"".join(online), np.uint8).reshape(-1, 16)

        cluster = self.cluster
        desk = AudienceDesk(devices=cluster.world(worker).devices, online=find, is_busy=lambda: self.is_busy)
        self.joined[worker] = JoinedDesk(desk, cluster.workers[worker].links, cluster.ownership, worker)
        return self.joined[worker]

    def run(self, worker: int) -> None:
        self.nursery.start_soon(self.joined[worker].run)


async def walk(desk: JoinedDesk, rows_max: int = 3) -> list[bytes]:
    members = await desk.count(0, b"")
    source = RegisteredDevices(desk, Wanted(0, b"", members.newest_unix_s), members.devices, desk.whole())
    found: list[bytes] = []
    while not source.is_through:
        taken = await source.take(rows_max)
        source.commit(taken)
        found += [one.tobytes() for one in taken.ids]
    assert len(found) == members.devices
    return found


async def test_a_walk_finds_the_devices_of_all_workers_and_each_once(
    make_cluster: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    mine, others = cluster.owned_by(0, 5, Channel.NONE), cluster.owned_by(1, 4, Channel.NONE)
    desks = Desks(cluster, nursery)
    for worker, online in ((0, mine[:2]), (1, others[:1])):
        desks.open(worker, online)
        desks.run(worker)
    for desk in desks.joined.values():
        assert sorted(await walk(desk)) == sorted(mine + others)
        assert sorted(one.tobytes() for one in await desk.online(0, b"")) == sorted(mine[:2] + others[:1])
    aliases = await desks.joined[0].of_aliases(0, [b"nobody"], online_only=False)
    assert [len(one) for one in aliases] == [0]
    # A worker that always has something to route names its devices all the same, later.
    desks.is_busy = True
    began = trio.current_time()
    assert len(await walk(desks.joined[0], 1)) == 9
    # Each of the two was waited for once, and not for each of nine chunks.
    assert 1.0 <= trio.current_time() - began <= 4.0


async def test_while_a_worker_is_down_nobody_is_counted_and_a_walk_goes_on_without_it_until_it_is_back(
    make_cluster: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    mine, others = cluster.owned_by(0, 5, Channel.NONE), cluster.owned_by(1, 4, Channel.NONE)
    desks = Desks(cluster, nursery)
    for worker in (0, 1):
        desks.open(worker, [])
        desks.run(worker)
    desk = desks.joined[0]
    # A registry would keep when they were first seen; here they come back as new ones.
    source = RegisteredDevices(desk, Wanted(0, b"", 1 << 31), 9, desk.whole())
    await cluster.kill(1)
    with pytest.raises(Overloaded, match="workers that answer"):
        await desk.count(0, b"")
    with pytest.raises(Overloaded, match="workers that answer"):
        await desk.of_aliases(0, [b"ada"], online_only=False)
    taken = await source.take(100)
    assert sorted(one.tobytes() for one in taken.ids) == sorted(mine)
    assert not taken.is_last
    source.commit(taken)
    with pytest.raises(Overloaded):
        await source.take(100)
    await cluster.revive(1, others)
    desks.open(1, [])
    desks.run(1)
    taken = await source.take(100)
    assert sorted(one.tobytes() for one in taken.ids) == sorted(others)
    assert taken.is_last


async def test_a_question_to_a_desk_that_has_crashed_is_answered_by_its_next_run(
    make_cluster: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    cluster.owned_by(1, 4, Channel.NONE)
    desks = Desks(cluster, nursery)
    for worker in (0, 1):
        desks.open(worker, [])
    counted: list[int] = []

    async def ask() -> None:
        counted.append((await desks.joined[0].count(0, b"")).devices)

    nursery.start_soon(ask)
    await trio.sleep(10)
    assert counted == []
    desks.run(1)
    await trio.sleep(1)
    assert counted == [4]
