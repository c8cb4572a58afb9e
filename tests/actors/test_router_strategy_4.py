"""Router, strategy 4: the vendor first, the long link when the vendor did not take the row or kept it waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from gateway.clock import DevelopmentClock
from gateway.content import Variant
from gateway.core.retry import RetryPolicy
from gateway.errors import CloseReason
from gateway.ledger import Channel


def content(**fields: Any) -> Variant:
    return Variant("title", "body", **fields)


# -- strategy 4


async def test_router_falls_back_to_the_long_link_on_a_final_verdict(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    online, offline = world.register(2)
    world.go_online(online)
    page = await world.send([online, offline], content(strategy=4))
    assert page.channel.tolist() == [Channel.APNS] * 2
    world.apns.last.answer(400, b'{"reason":"BadCollapseId"}', n=2)
    await world.settle()
    assert world.states(page) == {"in_flight": 1, "held": 1}
    assert page.channel.tolist() == [Channel.LONG_LINK] * 2
    world.acknowledge(online)
    world.go_online(offline)
    await world.settle()
    world.acknowledge(offline)
    assert world.states(page) == {"device_acked": 2}
    assert len(world.apns.requests()) == 2


async def test_router_does_not_fall_back_where_the_strategy_does_not_say_so(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device], content(strategy=2))
    world.apns.last.answer(400, b'{"reason":"BadCollapseId"}')
    await world.settle()
    assert world.states(page) == {"failed": 1}
    assert world.reasons(page) == ["rejected_by_vendor"]
    assert world.sockets.sent == {}


@pytest.mark.parametrize("end", ["accepted", "uncertain"])
async def test_router_does_not_fall_back_on_what_the_vendor_took_or_may_have_taken(
    end: str, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(policy=RetryPolicy(resends_uncertain=False))
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device], content(strategy=4))
    if end == "accepted":
        world.apns.last.answer()
    else:
        world.apns.last.close(CloseReason.PEER_RESET)
    await world.wait(60)
    assert world.states(page) == {{"accepted": "vendor_accepted", "uncertain": "uncertain"}[end]: 1}
    assert world.sockets.sent == {}


async def test_router_lets_a_row_of_strategy_4_wait_for_a_vendor_only_so_long(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(strategy4_wait_s=10.0)
    world.apns.fails_with = CloseReason.CONNECT_FAILED
    await world.start(nursery)
    online, offline, other = world.register(3)
    world.go_online(online)
    page = await world.send([online, offline], content(strategy=4))
    plain = await world.send([other], content(strategy=2))
    await world.wait(9)
    assert world.states(page) == {"queued": 2}
    await world.wait(2)
    assert world.states(page) == {"in_flight": 1, "held": 1}
    assert world.states(plain) == {"queued": 1}
    world.acknowledge(online)
    world.apns.fails_with = None
    await world.wait(60)
    assert world.states(page) == {"device_acked": 1, "held": 1}
    assert len(world.apns.requests()) == 1


@pytest.mark.parametrize("answer", ["503", "429"])
async def test_router_lets_a_row_that_waits_for_a_retry_fall_back_after_the_wait(
    answer: str, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """UNAVAILABLE and THROTTLED wait for the vendor up to strategy4_wait_s first."""
    world = make_world(strategy4_wait_s=10.0, policy=RetryPolicy(first_s=200.0, throttle_s=200.0))
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device], content(strategy=4))
    world.apns.last.answer(int(answer), b'{"reason":"TooManyRequests"}' if answer == "429" else b"")
    assert world.states(page) == {"waiting": 1}
    await world.wait(5)
    assert world.states(page) == {"waiting": 1}
    await world.wait(6)
    assert world.states(page) == {"in_flight": 1}
    assert page.channel[0] == Channel.LONG_LINK
    world.acknowledge(device)
    await world.wait(1000)
    assert world.states(page) == {"device_acked": 1}
    assert len(world.apns.requests()) == 1


async def test_router_lets_a_row_fall_back_that_was_in_flight_when_its_wait_ended(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """An attempt under way keeps its answer; if that is `unavailable`, the row has waited long enough."""
    world = make_world(strategy4_wait_s=10.0, policy=RetryPolicy(first_s=200.0))
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device], content(strategy=4))
    await world.wait(12)
    assert world.states(page) == {"in_flight": 1}
    assert page.channel[0] == Channel.APNS
    world.apns.last.answer(503)
    await world.wait(5)
    assert page.channel[0] == Channel.LONG_LINK
    assert world.states(page) == {"in_flight": 1}
    assert world.sockets.titles(device) == ["title"]


async def test_router_does_not_send_a_row_back_to_the_vendor_that_refused_it(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """It falls back, and the device's socket has no room just now: it waits for the device."""
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device, window=0)
    page = await world.send([device], content(strategy=4))
    world.apns.last.answer(400, b'{"reason":"BadCollapseId"}')
    await world.wait(3)
    assert len(world.apns.requests()) == 1
    assert world.states(page) == {"held": 1}


async def test_router_gives_up_waiting_by_the_development_clock_too(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    clock = DevelopmentClock()
    world = make_world(clock=clock, strategy4_wait_s=10.0)
    world.apns.fails_with = CloseReason.CONNECT_FAILED
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device], content(strategy=4))
    clock.advance(11)
    await world.wait(0.2)
    assert page.channel[0] == Channel.LONG_LINK
