"""ProbeLane: a bad token stalls nobody but other unproven ones, and every row still ends once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import trio

from gateway.content import Variant
from gateway.errors import CloseReason
from gateway.ledger import Channel, Reason, State
from gateway.wire.h2.events import Refused, RefusedWhy

WAIT_S = 5.0


def tokens_on(world: Any) -> list[set[str]]:
    """The tokens that each connection was asked for."""
    return [
        {path.removeprefix("/3/device/") for path, _, _ in connection.requests} for connection in world.apns.connections
    ]


def tokens_of(world: Any, devices: list[bytes]) -> set[str]:
    return {world.token(device).decode() for device in devices}


def proven(world: Any, devices: list[bytes]) -> list[bool]:
    return [world.devices.device(world.devices.find_one(device, 0)).proven_unix_s > 0 for device in devices]


async def busy(world: Any) -> Any:
    """Proven rows were sent just now: the normal connections are not quiet."""
    return await world.send(world.register(5, first=500, proven_unix_s=1))


async def test_rows_with_unproven_tokens_go_over_connections_of_their_own(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(has_probes=True, connections_max=4)
    await world.start(nursery)
    await busy(world)
    good, new = world.register(30, first=0, proven_unix_s=1), world.register(20, first=100)
    page = await world.send([*good, *new])
    statistics = world.pools[Channel.APNS].statistics()
    assert (statistics.connections, statistics.probe_connections) == (2, 1)
    shares = tokens_on(world)
    for tokens in shares:
        assert not (tokens & tokens_of(world, new)) or not (tokens & tokens_of(world, good))
    assert set.union(*shares) & tokens_of(world, new)
    for _ in range(20):
        for connection in world.apns.connections:
            connection.answer(n=len(connection.open))
        await world.settle()
    assert world.states(page) == {"vendor_accepted": 50}
    world.assert_one_verdict_per_attempt(page)
    assert world.metrics.rows_probed.value(Channel.APNS) == 20
    assert world.metrics.probe_waits_over.value(Channel.APNS) == 0


async def test_an_accepted_probe_proves_its_token_once(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(has_probes=True)
    await world.start(nursery)
    devices = world.register(3)
    await world.send(devices)
    assert proven(world, devices) == [False] * 3
    world.apns.last.answer(n=2)
    world.apns.last.answer(status=410, body=b'{"reason":"Unregistered"}')
    await world.settle()
    assert proven(world, devices) == [True, True, False]
    probed = world.metrics.rows_probed.value(Channel.APNS)
    assert probed == 3
    calls: list[int] = []
    prove = world.devices.prove_tokens
    world.router._devices = Recorder(world.devices, lambda *found: (calls.append(len(found[0])), prove(*found)))
    await world.send(devices[:2])
    world.apns.last.answer(n=2)
    await world.settle()
    assert calls == []
    assert world.metrics.rows_probed.value(Channel.APNS) == probed


class Recorder:
    """The device table with one call listened to."""

    def __init__(self, table: Any, prove_tokens: Callable[..., Any]) -> None:
        self._table = table
        self.prove_tokens = prove_tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)


async def test_a_token_that_was_registered_anew_after_its_death_is_probed_again(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(has_probes=True)
    await world.start(nursery)
    devices = world.register(2, proven_unix_s=1)
    await world.send(devices)
    # dead since long before the registration: the token stays, under suspicion
    world.apns.last.answer(status=410, body=b'{"reason":"Unregistered","timestamp":1000}')
    world.apns.last.answer(status=429, body=b'{"reason":"TooManyRequests"}')
    await world.settle()
    assert proven(world, devices) == [False, False]
    assert all(world.token(device) for device in devices)
    assert world.metrics.rows_probed.value(Channel.APNS) == 0
    await world.wait(10)
    assert world.metrics.rows_probed.value(Channel.APNS) == 1, "the retry of the second"


def tokens_on_one(connection: Any) -> set[str]:
    return {path.removeprefix("/3/device/") for path, _, _ in connection.requests}


async def test_waits_that_ran_out_are_counted_and_no_row_waits_longer(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Proven rows all the time, a probe that never answers: the others go with the proven ones after the wait."""
    world = make_world(has_probes=True, connections_max=2, probe_wait_s=WAIT_S)
    world.apns.streams_max = 5
    await world.start(nursery)
    await world.send(world.register(1, first=700, proven_unix_s=1))
    new = world.register(12)
    page = await world.send(new)
    probe = next(one for one in world.apns.connections if tokens_on_one(one) & tokens_of(world, new))
    normal = next(one for one in world.apns.connections if one is not probe)
    assert world.states(page) == {"in_flight": 5, "queued": 7}
    for half_second in range(10):
        await world.send(world.register(1, first=710 + half_second, proven_unix_s=1))
        normal.answer(n=len(normal.open))
        assert world.states(page) == {"in_flight": 5, "queued": 7}
        await world.wait(0.5)
    normal.answer(n=len(normal.open))
    await world.settle()
    assert tokens_on_one(normal) & tokens_of(world, new)
    normal.answer(n=len(normal.open))
    await world.settle()
    normal.answer(n=len(normal.open))
    await world.settle()
    assert world.states(page) == {"in_flight": 5, "vendor_accepted": 7}
    assert world.metrics.probe_waits_over.value(Channel.APNS) == 7
    probe.answer(n=5)
    world.assert_one_verdict_per_attempt(page)


async def test_probes_may_use_a_quiet_normal_connection(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """A first message to one new token needs no connection of its own when nobody else is sending."""
    world = make_world(has_probes=True, connections_max=4)
    await world.start(nursery)
    page = await world.send(world.register(1))
    assert world.states(page) == {"in_flight": 1}
    assert len(world.apns.connections) == 1
    assert world.pools[Channel.APNS].statistics().probe_connections == 0


async def test_probes_take_half_of_the_connections_and_give_them_back(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(has_probes=True, connections_max=4)
    world.apns.streams_max = 4
    await world.start(nursery)
    pool = world.pools[Channel.APNS]
    good = await world.send(world.register(60, first=600, proven_unix_s=1))
    await world.wait(2.0)
    assert pool.statistics()[:2] == (4, 4)
    new = await world.send(world.register(60))
    # undivided rows stand behind proven ones: those have to leave first
    while world.states(good) != {"vendor_accepted": 60}:
        for connection in world.apns.connections:
            connection.answer(n=len(connection.open))
        await world.settle()
        assert pool.statistics().probe_connections <= 2
    again = await world.send(world.register(60, first=600))
    for _ in range(100):
        for connection in world.apns.connections:
            connection.answer(n=len(connection.open))
        await world.settle()
    assert world.states(new) == world.states(again) == {"vendor_accepted": 60}
    assert pool.statistics().connections == 4


async def test_refused_probes_go_again_without_counting_as_attempts(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(has_probes=True)
    await world.start(nursery)
    devices = world.register(6)
    page = await world.send(devices)
    last = world.apns.last
    last.answer(status=400, body=b'{"reason":"BadDeviceToken"}')
    last.tell(Refused, RefusedWhy.REFUSED_STREAM, n=5)
    await world.settle()
    for _ in range(6):
        if world.apns.last.open:
            world.apns.last.answer(n=len(world.apns.last.open))
        await world.settle()
    assert world.states(page) == {"vendor_accepted": 5, "failed": 1}
    assert page.attempts.tolist() == [1] * 6
    world.assert_one_verdict_per_attempt(page)


async def test_rows_that_ended_elsewhere_leave_the_probes_before_they_cost_a_request(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(has_probes=True, connections_max=2)
    world.apns.streams_max = 1
    await world.start(nursery)
    page = await world.send(world.register(5), Variant("title", "body", strategy=2, ttl_s=60))
    await world.wait(2.0)
    sent = len(world.apns.requests())
    world.home.move(page, np.flatnonzero(page.state == State.QUEUED)[:2], State.CANCELLED, Reason.NONE, 0.0)
    await world.wait(100)
    assert world.states(page)["cancelled"] == 2
    assert len(world.apns.requests()) == sent
    world.apns.last.answer(n=len(world.apns.last.open))
    await world.settle()
    assert "queued" not in world.states(page)


async def test_rows_that_wait_for_a_probe_count_against_the_limit_of_their_lane(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(has_probes=True, connections_max=2, lane_rows_max=10, burst_rows_max=1)
    world.apns.streams_max = 1
    await world.start(nursery)
    await world.send(world.register(50))
    lane = world.lane()
    assert lane.probes is not None
    # a row in hand, on its way from one half to the other or to a connection, is in neither queue
    assert lane.lane.rows + lane.probes.waiting_rows <= 10 + 2
    assert world.router.parked_rows > 0


async def test_rows_survive_the_end_of_their_probe_connection(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(has_probes=True, connections_max=2)
    await world.start(nursery)
    page = await world.send(world.register(4))
    world.apns.last.close(CloseReason.PEER_RESET)
    for _ in range(10):
        await world.wait(5)
        if world.apns.last.open:
            world.apns.last.answer(n=len(world.apns.last.open))
    assert world.states(page) == {"vendor_accepted": 4}
