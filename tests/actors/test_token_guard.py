"""TokenGuard in its place: dead tokens are removed, unless too many die at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import trio
import trio.testing

from gateway.content import Variant
from gateway.core.unregister_guard import GuardSettings
from gateway.ledger import Channel

SETTINGS = GuardSettings(window_s=100.0, rows_min=10, held_max=1000)
DEAD = b'{"reason":"BadDeviceToken"}'
CONTENT = Variant("title", "body", strategy=2)


async def deliver(world: Any, devices: list[bytes], dead: int) -> Any:
    """A message to each; the vendor calls the tokens of the first `dead` dead, all in one event."""
    page = await world.send(devices, CONTENT)
    if dead:
        world.apns.last.answer(400, DEAD, n=dead)
    if len(devices) > dead:
        world.apns.last.answer(n=len(devices) - dead)
    return page


def with_token(world: Any, devices: list[bytes]) -> int:
    return sum(bool(world.token(device)) for device in devices)


def counted(world: Any, outcome: str) -> float:
    return float(world.metrics.removals_held_back.value("shop", Channel.APNS, outcome))


async def test_a_normal_mix_of_dead_tokens_is_removed(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(guard=SETTINGS)
    await world.start(nursery)
    devices = world.register(100)
    await deliver(world, devices[5:], 0)
    page = await deliver(world, devices[:5], 5)
    assert with_token(world, devices) == 95
    assert world.states(page) == {"failed": 5}
    assert world.metrics.tokens_dead.value(Channel.APNS) == 5
    assert world.metrics.unregister_guard_holding.value("shop", Channel.APNS) == 0


async def test_tokens_are_kept_when_nearly_all_die_and_the_rows_end_all_the_same(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(guard=SETTINGS)
    await world.start(nursery)
    devices = world.register(60)
    page = await deliver(world, devices, 60)
    assert world.states(page) == {"failed": 60}
    assert world.reasons(page) == ["token_dead"] * 60
    assert with_token(world, devices) == 60
    assert world.metrics.tokens_dead.value(Channel.APNS) == 0
    assert world.metrics.unregister_guard_holding.value("shop", Channel.APNS) == 1
    assert world.metrics.removals_held.value("shop", Channel.APNS) == 60
    assert counted(world, "held") == 60
    lines = [json.loads(line) for line in world.log_lines.getvalue().splitlines()]
    (line,) = [line for line in lines if line["event"] == "unregister guard holds"]
    assert (line["app"], line["vendor"], line["dead_share"]) == ("shop", "apns", 1.0)
    assert "dead_share_max" in line["mend"]
    # the other vendor's dead tokens are nobody's concern here
    fcm = world.register(1, Channel.FCM, first=500)
    await world.send(fcm, CONTENT)
    unregistered = {"error": {"code": 404, "status": "NOT_FOUND", "details": [{"@type": FCM_ERROR, **GONE}]}}
    world.fcm.last.answer(404, json.dumps(unregistered).encode())
    assert with_token(world, fcm) == 0


FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
GONE = {"errorCode": "UNREGISTERED"}


async def test_when_the_share_is_normal_again_held_removals_are_left_to_the_next_message(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(guard=SETTINGS)
    await world.start(nursery)
    devices = world.register(60)
    await deliver(world, devices[:20], 20)
    await world.wait(200)
    await deliver(world, devices[20:], 0)
    assert world.metrics.unregister_guard_holding.value("shop", Channel.APNS) == 0
    assert counted(world, "rechecked") == 20
    assert world.metrics.removals_held.value("shop", Channel.APNS) == 0
    assert with_token(world, devices) == 60
    # one of them is dead indeed, and now it goes
    await deliver(world, devices[:1], 1)
    assert with_token(world, devices) == 59


async def test_held_removals_are_carried_out_where_the_operator_says_so_but_for_devices_that_came_back(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(guard=SETTINGS._replace(removes_after_spike=True))
    await world.start(nursery)
    devices = world.register(60)
    await deliver(world, devices[:20], 20)
    assert with_token(world, devices) == 60
    unix_s = world.clock.unix_ms() // 1000
    again = world.registration(devices[:3], Channel.APNS, [device.hex().encode() * 2 for device in devices[:3]])
    world.devices.register(0, again, unix_s + 5)
    fresh = world.registration(devices[3:5], Channel.APNS, [b"ab" * 32, b"cd" * 32])
    world.devices.register(0, fresh, unix_s)
    await world.wait(200)
    await deliver(world, devices[20:], 0)
    assert counted(world, "removed") == 15
    assert counted(world, "rechecked") == 5
    assert [bool(world.token(device)) for device in devices[:6]] == [True] * 5 + [False]


async def test_the_list_of_held_removals_drops_its_oldest(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(guard=SETTINGS._replace(held_max=15, removes_after_spike=True))
    await world.start(nursery)
    devices = world.register(80)
    await deliver(world, devices[:10], 10)
    await deliver(world, devices[10:20], 10)
    assert world.guards[0, Channel.APNS].held_rows == 15
    assert (counted(world, "held"), counted(world, "dropped")) == (20, 5)
    await world.wait(200)
    await deliver(world, devices[20:], 0)
    assert [bool(world.token(device)) for device in devices[:20]] == [True] * 5 + [False] * 15


async def test_held_tokens_are_suspect_and_one_that_is_proven_meanwhile_is_not_removed(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(guard=SETTINGS._replace(removes_after_spike=True))
    await world.start(nursery)
    devices = world.register(60)
    slots = world.devices.find(np.frombuffer(b"".join(devices[:20]), np.uint8).reshape(20, 16), 0)
    hashes = world.devices.token_hashes(slots)
    world.devices.prove_tokens(slots, hashes, 1)
    await deliver(world, devices[:20], 20)
    assert not world.devices.routing(slots).proven_unix_s.any()
    world.devices.prove_tokens(slots[:4], hashes[:4], 2)
    await world.wait(200)
    await deliver(world, devices[20:], 0)
    assert [bool(world.token(device)) for device in devices[:20]] == [True] * 4 + [False] * 16
