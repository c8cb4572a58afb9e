"""LaneActor in bad times: closed gates, refused credentials, vendors that are down, crashes and cancellations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from gateway.content import Variant
from gateway.core.retry import RetryPolicy
from gateway.errors import CloseReason
from gateway.ledger import Channel


def content(**fields: Any) -> Variant:
    return Variant("title", "body", **{"strategy": 2} | fields)


# -- gates


async def test_lane_closes_only_for_the_row_where_one_device_is_throttled(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    await world.send(world.register(1), content())
    world.apns.last.answer(429, b'{"reason":"TooManyRequests"}')
    await world.send(world.register(1, first=5), content())
    assert len(world.apns.requests()) == 2


async def test_lane_holds_what_comes_for_a_throttled_device_and_sends_it_afterwards(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    policy = RetryPolicy(first_s=1.0, factor=2.0, jitter=0.0, attempts_max=4, throttle_s=20.0)
    world = make_world(policy=policy)
    await world.start(nursery)
    throttled, other = world.register(2, proven_unix_s=1)
    await world.send([throttled], content())
    world.apns.last.answer(429, b'{"reason":"TooManyRequests"}')
    began = world.clock.monotonic()
    page = await world.send([throttled, other], content())
    assert len(world.apns.requests()) == 2, "the first row, and the other device's"
    assert world.states(page) == {"waiting": 1, "in_flight": 1}
    assert world.reasons(page) == ["throttled", "none"]
    with trio.fail_after(60):
        while len(world.apns.requests()) < 4:
            await trio.sleep(0.5)
    assert world.clock.monotonic() - began >= 20.0
    world.apns.last.answer(n=3)
    assert world.states(page) == {"vendor_accepted": 2}


async def test_lane_gate_of_scope_app_closes_all_classes_of_that_vendor_and_no_other(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    fcm = world.register(3, Channel.FCM)
    apns = world.register(1, first=50)
    page = await world.send(fcm[:1], content())
    quota = b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"errorCode":"QUOTA_EXCEEDED"}]}}'
    world.fcm.last.answer(429, quota, headers={b"retry-after": b"20"})
    system = await world.send(fcm[1:2], content())
    marketing = await world.send(fcm[2:], content(class_="marketing"))
    other = await world.send(apns, content())
    await world.wait(18)
    assert len(world.fcm.requests()) == 1
    assert world.states(other) == {"in_flight": 1}
    await world.wait(15)
    assert len(world.fcm.requests()) == 4
    assert [world.states(each) for each in (page, system, marketing)] == [{"in_flight": 1}] * 3


async def test_lane_tells_rows_that_expire_before_a_closed_gate_why(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    fcm = world.register(2, Channel.FCM)
    await world.send(fcm[:1], content())
    quota = b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"errorCode":"QUOTA_EXCEEDED"}]}}'
    world.fcm.last.answer(429, quota, headers={b"retry-after": b"60"})
    page = await world.send(fcm[1:], content(ttl_s=10))
    await world.wait(12)
    assert world.states(page) == {"expired": 1}
    assert world.reasons(page) == ["throttled"]


# -- credentials


async def test_lane_has_a_refused_credential_replaced_and_tries_once_more(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(policy=RetryPolicy(credential_s=1.0, jitter=0.0))
    credential = world.credentials[Channel.APNS]
    await world.start(nursery)
    page = await world.send(world.register(3), content())
    world.apns.last.answer(403, b'{"reason":"MissingProviderToken"}', n=3)
    assert credential.refused_values == [b"bearer one"]
    assert world.states(page) == {"waiting": 3}
    credential.value = b"bearer two"
    await world.wait(2)
    assert [headers["authorization"] for _, headers, _ in world.apns.requests()[3:]] == ["bearer two"] * 3
    world.apns.last.answer()
    world.apns.last.answer(403, b'{"reason":"MissingProviderToken"}', n=2)
    assert world.states(page) == {"vendor_accepted": 1, "failed": 2}
    assert world.reasons(page)[1:] == ["credential_refused"] * 2
    world.assert_one_verdict_per_attempt(page)


async def test_lane_names_the_credential_that_was_refused_not_the_one_that_followed_it(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    credential = world.credentials[Channel.APNS]
    await world.start(nursery)
    await world.send(world.register(1), content())
    credential.value = b"bearer two"
    world.apns.last.answer(403, b'{"reason":"MissingProviderToken"}')
    assert credential.refused_values == [b"bearer one"]


async def test_lane_replaces_a_connection_that_has_seen_an_expired_credential(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await world.send(world.register(2), content())
    first = world.apns.last
    world.credentials[Channel.APNS].value = b"bearer two"
    first.answer(403, b'{"reason":"ExpiredProviderToken"}')
    assert first.drained is not None
    first.answer()
    await world.wait(3)
    assert world.apns.last is not first
    world.apns.last.answer()
    assert world.states(page) == {"vendor_accepted": 2}


async def test_lane_keeps_a_credential_that_the_vendor_says_changes_too_often(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await world.send(world.register(1), content())
    world.apns.last.answer(429, b'{"reason":"TooManyProviderTokenUpdates"}')
    credential = world.credentials[Channel.APNS]
    assert (credential.kept, credential.refused_values) == (1, [])
    await world.wait(55)
    assert len(world.apns.requests()) == 1
    await world.wait(60)
    assert world.states(page) == {"in_flight": 1}


@pytest.mark.parametrize(
    ("why", "reason"),
    [("down", "vendor_unavailable"), ("no credential yet", "vendor_unavailable"), ("denied", "credential_refused")],
)
async def test_lane_says_why_rows_that_never_left_expired(
    why: str, reason: str, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    credential = world.credentials[Channel.APNS]
    if why == "down":
        world.apns.fails_with = CloseReason.CONNECT_FAILED
    else:
        world.apns.fails_with = CloseReason.CONNECT_FAILED if why != "denied" else None
        credential.value = None
        credential.is_denied = why == "denied"
    await world.start(nursery)
    page = await world.send(world.register(2), content(ttl_s=30))
    await world.wait(31)
    assert world.states(page) == {"expired": 2}
    assert world.reasons(page) == [reason] * 2
    assert not page.bursts


# -- crash, cancellation


class CrashingRenderer:
    """The lane's renderer, which raises at the given calls."""

    def __init__(self, renderer: Any, crashes: set[int]) -> None:
        self._renderer = renderer
        self._crashes = crashes
        self._calls = 0

    def render(self, *args: Any) -> Any:
        self._calls += 1
        if self._calls in self._crashes:
            raise ZeroDivisionError("a bug in a vendor file")
        return self._renderer.render(*args)


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_lane_that_crashed_in_rendering_has_all_its_rows_when_it_runs_again(
    at: int, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(burst_rows_max=4)
    nursery.start_soon(world.router.run)
    for pool in world.pools.values():
        nursery.start_soon(pool.run)
    lane = world.lane()
    lane._renderer = CrashingRenderer(lane._renderer, {at})
    page = await world.send(world.register(12), content())
    with pytest.raises(BaseExceptionGroup) as crash:
        await lane.run()
    assert crash.group_contains(ZeroDivisionError)
    nursery.start_soon(lane.run)
    await world.settle()
    assert world.states(page) == {"in_flight": 12}
    assert len({path for path, _, _ in world.apns.requests()}) == len(world.apns.requests()) == 12


async def test_lane_cancelled_at_any_checkpoint_loses_and_repeats_nothing(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(burst_rows_max=2, connections_max=1)
    world.apns.streams_max = 3
    nursery.start_soon(world.router.run)
    nursery.start_soon(world.pools[Channel.APNS].run)
    lane = world.lane()
    page = await world.send(world.register(12), content())
    for steps in list(range(1, 8)) * 4:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(lane.run)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        if world.apns.connections and world.apns.last.open:
            world.apns.last.answer()
    nursery.start_soon(lane.run)
    await world.settle()
    while world.apns.last.open:
        world.apns.last.answer(n=len(world.apns.last.open))
        await world.settle()
    assert world.states(page) == {"vendor_accepted": 12}
    assert len(world.apns.requests()) == 12
    world.assert_one_verdict_per_attempt(page)


async def test_lane_takes_answers_while_it_does_not_run(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Between a crash and the restart the connection goes on; its events find their bursts."""
    world = make_world()
    nursery.start_soon(world.router.run)
    nursery.start_soon(world.pools[Channel.APNS].run)
    lane = world.lane()
    page = await world.send(world.register(3), content())
    with trio.move_on_after(1):
        await lane.run()
    world.apns.last.answer()
    world.apns.last.answer(503)
    assert world.states(page) == {"vendor_accepted": 1, "waiting": 1, "in_flight": 1}
    nursery.start_soon(lane.run)
    await world.wait(3)
    world.apns.last.answer(n=2)
    assert world.states(page) == {"vendor_accepted": 3}


async def test_lane_is_idle_only_when_nothing_is_queued_or_in_flight(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    world.apns.gate = trio.Event()
    await world.start(nursery)
    lane = world.lane()
    assert lane.is_idle
    assert not lane.has_rows
    await world.send(world.register(1), content())
    assert lane.has_rows
    assert not lane.is_idle
    world.apns.gate.set()
    await world.settle()
    assert not lane.has_rows
    assert not lane.is_idle
    world.apns.last.answer()
    assert lane.is_idle


async def test_lane_is_a_bulkhead(make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any) -> None:
    """A vendor that is down delays nobody else."""
    world = make_world(lane_rows_max=5)
    world.apns.fails_with = CloseReason.CERTIFICATE_INVALID
    await world.start(nursery)
    stuck = await world.send(world.register(20), content())
    free = await world.send(world.register(5, Channel.FCM), content())
    assert world.states(free) == {"in_flight": 5}
    assert world.states(stuck) == {"queued": 20}
    assert world.router.parked_rows == 15
    assert math.isfinite(world.home.next_deadline())
