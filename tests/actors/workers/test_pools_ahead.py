"""A worker that begins opens the vendor connections that the others have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from gateway.actors.pools_ahead import PATIENCE_S, PoolsAhead
from gateway.core.shadow import Life


class PoolTwin:
    def __init__(self, *, is_ready: bool = False, takes_s: float = 0.01) -> None:
        self.is_ready = is_ready
        self.opened = 0
        self.takes_s = takes_s

    async def open_ahead(self) -> None:
        self.opened += 1
        await trio.sleep(self.takes_s)
        self.is_ready = True


async def test_worker_that_begins_opens_what_the_living_have_open(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster(3)
    lives = [worker.life for worker in cluster.workers]
    PoolsAhead({"shop/apns": PoolTwin(is_ready=True), "shop/fcm": PoolTwin()}, cluster.workers[0].links)
    PoolsAhead({"shop/apns": PoolTwin(is_ready=True), "gone/fcm": PoolTwin(is_ready=True)}, cluster.workers[2].links)
    mine = {"shop/apns": PoolTwin(), "shop/fcm": PoolTwin()}
    await PoolsAhead(mine, cluster.workers[1].links).open([lives[0], lives[2]])
    assert (mine["shop/apns"].opened, mine["shop/apns"].is_ready) == (1, True)
    assert mine["shop/fcm"].opened == 0


async def test_worker_that_begins_waits_neither_for_a_vendor_nor_for_the_dead(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster(3)
    lives = [worker.life for worker in cluster.workers]
    PoolsAhead({"shop/apns": PoolTwin(is_ready=True)}, cluster.workers[0].links)
    await cluster.kill(2)
    mine = {"shop/apns": PoolTwin(takes_s=1000)}
    began = trio.current_time()
    await PoolsAhead(mine, cluster.workers[1].links).open([lives[0], lives[2], Life(7, 99)])
    assert (mine["shop/apns"].opened, mine["shop/apns"].is_ready) == (1, False)
    assert trio.current_time() - began <= PATIENCE_S + 0.001


async def test_worker_that_begins_alone_opens_nothing(make_cluster: Callable[..., Any], autojump_clock: Any) -> None:
    cluster = await make_cluster()
    mine = {"shop/apns": PoolTwin()}
    await PoolsAhead(mine, cluster.workers[1].links).open([])
    assert mine["shop/apns"].opened == 0
