"""Ceiling: many apps share few connections; the quietest makes room, and nobody is kept out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import trio
import trio.testing

from gateway.actors.vendor_breaker import VendorBreaker
from gateway.actors.vendor_ceiling import Ceiling
from gateway.actors.vendor_pool import Role, VendorPool
from gateway.actors.vendor_tags import make_tags
from gateway.clock import SystemClock
from gateway.core.breaker import BreakerSettings
from gateway.errors import CloseReason
from gateway.vendor import Requests

CEILING = 3


class App:
    """A pool with a lane that sends whatever it can, as soon as it can."""

    def __init__(self, vendor: Any, ceiling: Ceiling, *, connections_max: int = 2) -> None:
        self.vendor = vendor
        self.ended: list[CloseReason] = []
        self.pool = VendorPool(
            open_connection=vendor.open,
            connections_max=connections_max,
            idle_s=3600.0,
            clock=SystemClock(),
            observer=self,
            breaker=VendorBreaker(BreakerSettings(), clock=SystemClock(), observer=self),
            ceiling=ceiling,
        )
        self.pool.add_lane(self)
        self.rows = 0
        self._burst = 0

    # as a lane

    @property
    def has_rows(self) -> bool:
        return self.rows > 0

    @property
    def waiting_rows(self) -> int:
        return self.rows

    def on_answers(self, connection: int, events: list[Any]) -> None:
        pass

    def ring(self) -> None:
        room = self.pool.capacity(self.rows) if self.rows else 0
        if room:
            n = min(room, self.rows)
            requests = Requests(n, b"vendor.example", (b"/",), (), (b"{}",))
            taken, _ = self.pool.send(requests, 0, make_tags(0, self._burst, n), trio.current_time() + 30)
            self._burst += 1
            self.rows -= taken

    def want(self, rows: int) -> None:
        self.rows += rows
        self.ring()

    # as an observer

    def moved(self, state: Any, cause: Any, open_s: float) -> None:
        raise AssertionError("no breaker opens here")

    def connected(self, number: int) -> None:
        pass

    def closed(self, number: int, reason: CloseReason, text: str) -> None:
        self.ended.append(reason)

    # the far end

    def answer(self) -> None:
        for connection in self.vendor.connections:
            if connection.open:
                connection.answer(n=len(connection.open))


def make_apps(n: int, new_vendor: Callable[[], Any], nursery: trio.Nursery, ceiling: Ceiling, **more: Any) -> list[App]:
    apps = [App(new_vendor(), ceiling, **more) for _ in range(n)]
    for app in apps:
        nursery.start_soon(app.pool.run)
    return apps


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_the_quietest_idle_connection_makes_room_for_an_app_that_needs_one(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    ceiling = Ceiling(CEILING)
    apps = make_apps(5, new_vendor, nursery, ceiling)
    order = [2, 0, 1]
    for index in order:
        apps[index].want(1)
        await settle()
        apps[index].answer()
        await trio.sleep(10)
    assert ceiling.connections == CEILING
    for newcomer, quietest in ((3, 2), (4, 0)):
        apps[newcomer].want(1)
        await settle()
        assert apps[newcomer].rows == 0, "it could send at once"
        assert apps[quietest].ended == [CloseReason.RECLAIMED]
        assert ceiling.connections == CEILING
        apps[newcomer].answer()
        await trio.sleep(10)
    assert ceiling.reclaimed == 2
    assert apps[1].ended == []


async def test_a_busy_connection_is_not_taken_from_an_app_that_has_one(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    ceiling = Ceiling(CEILING)
    apps = make_apps(4, new_vendor, nursery, ceiling)
    for app in apps[:3]:
        app.want(1)
        await settle()
    apps[3].want(1)
    await trio.sleep(60)
    assert apps[3].rows == 1
    assert [app.ended for app in apps] == [[], [], [], []]
    # the first that has its answer makes room
    apps[1].answer()
    apps[3].want(1)
    await settle()
    assert apps[3].rows == 0
    assert apps[1].ended == [CloseReason.RECLAIMED]


async def test_an_app_without_any_gets_one_of_an_app_that_has_several(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    ceiling = Ceiling(CEILING)
    rich, poor = make_apps(2, new_vendor, nursery, ceiling, connections_max=CEILING)
    rich.vendor.streams_max = 2
    rich.want(100)
    for _ in range(10):
        await trio.sleep(1)
        rich.ring()
    assert ceiling.connections == CEILING
    poor.want(1)
    await settle()
    assert poor.rows == 1
    # the least busy connection of the rich one ends its requests first
    rich.answer()
    await settle()
    assert poor.rows == 0
    assert rich.ended == [CloseReason.RECLAIMED]
    assert ceiling.connections == CEILING


async def test_an_app_without_any_asks_again_where_the_connections_to_spare_were_still_on_their_way(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """One for proven rows and one for probes begin at once; neither can be let go before it is open."""
    ceiling = Ceiling(2)
    rich, poor = App(new_vendor(), ceiling), App(new_vendor(), ceiling)
    probes = App(rich.vendor, Ceiling(1))
    rich.pool.add_lane(probes, Role.PROBE)
    rich.vendor.gate = trio.Event()
    rich.rows = probes.rows = 5
    for app in (rich, poor):
        nursery.start_soon(app.pool.run)
    await trio.sleep(1)
    assert ceiling.connections == 2
    poor.want(1)
    await trio.sleep(1)
    rich.vendor.gate.set()
    await trio.sleep(1)
    rich.want(0)
    poor.want(0)
    await trio.sleep(60)
    assert rich.ended == [CloseReason.RECLAIMED]
    assert poor.rows == 0


async def test_an_app_that_wants_more_takes_only_what_was_idle_for_long(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Two apps that send in turn must not take each other's connections with every message."""
    ceiling = Ceiling(2)
    rich, other = make_apps(2, new_vendor, nursery, ceiling)
    other.want(1)
    await settle()
    other.answer()
    rich.vendor.streams_max = 1
    rich.want(5)
    for _ in range(10):
        await trio.sleep(5)
        rich.ring()
    assert (other.ended, ceiling.connections) == ([], 2)
    for _ in range(4):
        await trio.sleep(5)
        rich.ring()
    assert other.ended == [CloseReason.RECLAIMED]
    assert rich.rows == 3


async def test_thirty_apps_in_turn_all_send_through_three_connections(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    ceiling = Ceiling(CEILING)
    apps = make_apps(30, new_vendor, nursery, ceiling)
    chance = np.random.default_rng(7)
    sent = np.zeros(30, int)
    for _ in range(300):
        index = int(chance.integers(30))
        apps[index].want(1)
        sent[index] += 1
        await trio.sleep(0.5)
        for app in apps:
            app.answer()
        assert ceiling.connections <= CEILING
    await trio.sleep(60)
    for app in apps:
        app.answer()
    assert sum(app.rows for app in apps) == 0
    assert [sum(len(one.tags) for one in app.vendor.connections) for app in apps] == sent.tolist()


async def test_connections_of_a_pool_that_ends_are_given_back(
    new_vendor: Callable[[], Any], autojump_clock: Any
) -> None:
    ceiling = Ceiling(CEILING)
    async with trio.open_nursery() as nursery:
        apps = make_apps(2, new_vendor, nursery, ceiling)
        for app in apps:
            app.want(1)
        await settle()
        assert ceiling.connections == 2
        nursery.cancel_scope.cancel()
    assert ceiling.connections == 0
