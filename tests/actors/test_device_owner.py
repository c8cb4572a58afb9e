"""DeviceOwner: presence, acknowledgements in time and late ones, and what a closed socket leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.device_owner import DeviceOwner
from gateway.actors.long_link_port import Unacknowledged, UplinkAnswer
from gateway.content import Variant
from gateway.core.devices import DeviceLimits, DeviceTable
from gateway.core.home import row_tags
from gateway.core.segments import HashKey
from gateway.errors import CloseReason, Overloaded
from gateway.ledger import Channel, Flag, Receipt, State
from gateway.observe.counting import OwnerCounts


def hand_over(world: Any, device: bytes, n: int = 1, why: Unacknowledged = Unacknowledged.ACK_TIMEOUT) -> Any:
    """The device's first n rows come back from its socket; returns their tags."""
    tags = world.sockets.tags(device)[:n]
    world.owner.unacknowledged(tags, why)
    return tags


def receipts(page: Any) -> list[int]:
    return page.receipt.tolist()


async def test_owner_knows_a_device_from_its_password_alone(make_world: Callable[..., Any]) -> None:
    world = make_world()
    device = b"never registered"
    slot = world.owner.connect(0, device, 7, 3, trio.current_time())
    found = world.devices.device(slot)
    assert (found.device_id, found.fd, found.generation, found.token) == (device, 7, 3, b"")
    assert world.devices.find_one(device, 0) == slot
    assert world.devices.find_one(device, 1) == -1


async def test_owner_keeps_what_a_registered_device_is_known_by(make_world: Callable[..., Any]) -> None:
    world = make_world()
    (device,) = world.register(1)
    before = world.devices.find_one(device, 0)
    assert world.owner.connect(0, device, 7, 3, 0.0) == before
    assert world.token(device) != b""


async def test_owner_refuses_an_unknown_device_when_the_table_is_full(make_world: Callable[..., Any]) -> None:
    world = make_world()
    limits = DeviceLimits(devices_max=2, token_bytes_max=1 << 20, aliases_max=1, tag_bindings_max=1)
    owner = DeviceOwner(
        devices=DeviceTable(limits, HashKey(b"k" * 32)),
        home=world.home,
        router=world.router,
        inbox=world.inbox,
        clock=world.clock,
        observer=OwnerCounts(world.metrics),
    )
    slots = [owner.connect(0, bytes([number]) * 16, number, 1, 0.0) for number in (1, 2)]
    with pytest.raises(Overloaded):
        owner.connect(0, bytes([3]) * 16, 3, 1, 0.0)
    assert owner.connect(0, bytes([1]) * 16, 4, 1, 0.0) == slots[0]


async def test_owner_ends_acknowledged_rows_once(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device] * 2)
    world.acknowledge(device, 2)
    world.acknowledge(device, 2)
    assert world.states(page) == {"device_acked": 2}
    assert receipts(page) == [Receipt.DELIVERED] * 2
    assert world.metrics.row_moves.value(Channel.LONG_LINK, State.DEVICE_ACKED) == 2


async def test_owner_counts_acknowledgements_of_rows_that_are_not_in_memory(make_world: Callable[..., Any]) -> None:
    world = make_world()
    world.owner.acknowledged(row_tags(77, np.arange(3)), np.zeros(3), 0.0)
    assert world.metrics.refusals.value("acknowledgement_of_unknown_row") == 3


@pytest.mark.parametrize("why", [Unacknowledged.ACK_TIMEOUT, Unacknowledged.CONNECTION_CLOSED, Unacknowledged.QOS_0])
async def test_owner_hands_unacknowledged_rows_over_to_the_vendor(
    why: Unacknowledged, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    fd = world.go_online(device)
    page = await world.send([device] * 3)
    assert world.states(page) == {"in_flight": 3}
    if why is Unacknowledged.CONNECTION_CLOSED:
        world.go_offline(fd)
    hand_over(world, device, 2, why)
    await world.settle()
    assert len(world.apns.requests()) == 2
    assert page.channel.tolist() == [Channel.APNS, Channel.APNS, Channel.LONG_LINK]
    assert [bool(flags & Flag.HANDED_OVER) for flags in page.flags.tolist()] == [True, True, False]
    assert world.metrics.rows_handed_over_unacked.value() == 2
    world.apns.last.answer(n=2)
    assert world.states(page) == {"vendor_accepted": 2, "in_flight": 1}


async def test_owner_hands_over_only_rows_that_the_long_link_still_holds(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """A row that was acknowledged, or handed over before, does not go twice."""
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device] * 2)
    world.acknowledge(device, 1)
    hand_over(world, device, 2)
    hand_over(world, device, 2)
    await world.settle()
    assert len(world.apns.requests()) == 1
    assert world.metrics.rows_handed_over_unacked.value() == 1
    assert world.states(page) == {"device_acked": 1, "in_flight": 1}


async def test_owner_late_acknowledgement_cancels_a_hand_over_that_is_still_queued(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    world.apns.gate = trio.Event()
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device] * 2)
    tags = hand_over(world, device, 2)
    await world.settle()
    assert world.states(page) == {"queued": 2}
    world.owner.acknowledged_late(tags[:1], np.zeros(1), trio.current_time())
    assert world.states(page) == {"queued": 1, "device_acked": 1}
    assert (page.channel[0], page.receipt[0]) == (Channel.LONG_LINK, Receipt.DELIVERED)
    world.apns.gate.set()
    await world.settle()
    assert len(world.apns.requests()) == 1
    assert world.metrics.late_acknowledgements.value() == 1


async def test_owner_late_acknowledgement_of_an_issued_row_is_only_noted(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device])
    tags = hand_over(world, device)
    await world.settle()
    world.owner.acknowledged_late(tags, np.zeros(1), trio.current_time())
    assert world.states(page) == {"in_flight": 1}
    assert receipts(page) == [Receipt.DELIVERED]
    world.apns.last.answer()
    assert world.states(page) == {"vendor_accepted": 1}
    assert receipts(page) == [Receipt.DELIVERED]


async def test_owner_late_acknowledgement_of_a_row_that_waits_for_a_retry_ends_it(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device])
    tags = hand_over(world, device)
    await world.settle()
    world.apns.last.answer(503)
    assert world.states(page) == {"waiting": 1}
    world.owner.acknowledged_late(tags, np.zeros(1), trio.current_time())
    assert world.states(page) == {"device_acked": 1}
    await world.wait(100)
    assert len(world.apns.requests()) == 1


async def test_owner_late_acknowledgement_of_a_held_row_takes_it_out_of_the_inbox(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    fd = world.go_online(device)
    page = await world.send([device])
    world.go_offline(fd)
    tags = hand_over(world, device)
    await world.settle()
    assert world.states(page) == {"held": 1}
    world.owner.acknowledged_late(tags, np.zeros(1), trio.current_time())
    await world.settle()
    assert world.states(page) == {"device_acked": 1}
    assert len(world.inbox_store) == 0
    world.go_online(device)
    await world.settle()
    assert len(world.sockets.sent[device]) == 1


async def test_owner_late_acknowledgement_of_a_final_row_changes_only_its_receipt(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device], Variant("t", "b", ttl_s=60, strategy=3))
    world.sockets.live.clear()
    tags = hand_over(world, device)
    await world.wait(100)
    assert world.states(page) == {"expired": 1}
    world.owner.acknowledged_late(tags, np.zeros(1), trio.current_time())
    assert world.states(page) == {"expired": 1}
    assert receipts(page) == [Receipt.DELIVERED]


async def test_owner_takes_rows_of_several_batches_in_one_call(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    devices = world.register(3, Channel.NONE)
    for device in devices:
        world.go_online(device)
    pages = [await world.send(devices) for _ in range(3)]
    tags = np.concatenate([world.sockets.tags(device) for device in devices])
    world.owner.acknowledged(tags, np.zeros(len(tags)), trio.current_time())
    assert [world.states(page) for page in pages] == [{"device_acked": 3}] * 3


async def test_owner_takes_a_device_offline_only_for_its_own_connection(make_world: Callable[..., Any]) -> None:
    """A takeover: the new connection was announced before the old one's end."""
    world = make_world()
    (device,) = world.register(1)
    slot = world.owner.connect(0, device, 5, 1, 0.0)
    world.owner.connect(0, device, 6, 1, 0.0)
    end = [CloseReason.TAKEN_OVER]
    world.owner.disconnected(np.array([slot], np.int32), np.array([5], np.int32), np.array([1], np.uint32), end)
    assert world.devices.device(slot).fd == 6
    world.owner.disconnected(np.array([slot], np.int32), np.array([6], np.int32), np.array([1], np.uint32), end)
    assert world.devices.device(slot).fd < 0


async def test_owner_passes_on_what_devices_say(make_world: Callable[..., Any]) -> None:
    world = make_world()
    (device,) = world.register(1)
    slot = world.devices.find_one(device, 0)
    assert world.owner.uplink(slot, device, "displayed", b"{}", None) is UplinkAnswer.TAKEN
    heard: list[tuple[Any, ...]] = []

    def hear(*args: Any) -> UplinkAnswer:
        heard.append(args)
        return UplinkAnswer.MALFORMED

    world.owner.on_uplink = hear
    assert world.owner.uplink(slot, device, "displayed", b"{}", None) is UplinkAnswer.MALFORMED
    assert heard == [(slot, 0, device, "displayed", b"{}", None)]


async def test_owner_refuses_a_device_beyond_its_apps_connections_and_not_one_that_comes_again(
    make_world: Callable[..., Any],
) -> None:
    world = make_world()
    owner = DeviceOwner(
        devices=world.devices,
        home=world.home,
        router=world.router,
        inbox=world.inbox,
        clock=world.clock,
        observer=OwnerCounts(world.metrics, ["shop", "news"]),
        connections_max=[2],
    )
    first, second, third = (bytes([number]) * 16 for number in (1, 2, 3))
    rows = [owner.connect(0, one, fd, 1, 0.0) for fd, one in ((5, first), (6, second))]
    with pytest.raises(Overloaded) as caught:
        owner.connect(0, third, 7, 1, 0.0)
    assert (caught.value.limit, caught.value.value, caught.value.limit_value) == ("apps.connections_max", 2, 2)
    assert world.metrics.logins_refused.value("shop", "app_connections_max") == 1
    assert owner.connect(0, first, 8, 1, 0.0) == rows[0]
    assert owner.connect(1, third, 9, 1, 0.0) >= 0
    owner.disconnected(
        np.array([rows[1]], np.int32), np.array([6], np.int32), np.array([1], np.uint32), [CloseReason.PEER_CLOSED]
    )
    assert owner.connect(0, third, 10, 1, 0.0) >= 0


# Sessions that are resumed.


def resume(world: Any, fd: int, tags: Any) -> list[bool]:
    n = len(tags)
    found = world.owner.resumed(
        tags, np.full(n, fd, np.int32), np.ones(n, np.uint32), np.arange(50, 50 + n).astype(np.uint16)
    )
    return found.tolist()


async def test_owner_sends_rows_of_a_resumed_session_again_and_they_stay_where_they_are(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    fd = world.go_online(device)
    first = await world.send([device], Variant("one", "b", ttl_s=100))
    second = await world.send([device, device], [Variant("two", "b"), Variant("three", "b")])
    tags = world.sockets.tags(device)
    world.go_offline(fd)
    world.sockets.seconds_left.clear()
    await world.wait(2.0)
    fd = world.go_online(device)
    # In the order in which they were sent, whatever batches and contents they are of.
    assert resume(world, fd, tags[[1, 0, 2]]) == [True] * 3
    assert [(packet_id, payload["title"]) for packet_id, payload in world.sockets.again[device]] == [
        (50, "two"),
        (51, "one"),
        (52, "three"),
    ]
    assert world.sockets.seconds_left[1] == 98
    assert (world.states(first), world.states(second)) == ({"in_flight": 1}, {"in_flight": 2})
    world.owner.acknowledged(tags, np.zeros(3), trio.current_time())
    assert (world.states(first), world.states(second)) == ({"device_acked": 1}, {"device_acked": 2})
    assert world.metrics.rows_handed_over_unacked.value() == 0


async def test_owner_hands_over_what_cannot_be_sent_again(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    fd = world.go_online(device)
    page = await world.send([device] * 2)
    tags = world.sockets.tags(device)
    world.go_offline(fd)
    # Gone again before its rows could be.
    assert resume(world, fd, tags) == [False, False]
    await world.settle()
    assert len(world.apns.requests()) == 2
    assert world.metrics.rows_handed_over_unacked.value() == 2
    # They are the vendor's now: a session that is resumed later gets none of them.
    fd = world.go_online(device)
    assert resume(world, fd, tags) == [False, False]
    assert resume(world, fd, row_tags(77, np.arange(1))) == [False]
    assert world.sockets.again == {}
    assert world.states(page) == {"in_flight": 2}


async def test_owner_tells_presence_who_came_and_went_once(make_world: Callable[..., Any]) -> None:
    world = make_world()
    told: list[Any] = []
    world.owner.on_came = lambda row: told.append(("came", row))
    world.owner.on_went = lambda rows: told.append(("went", rows.tolist()))
    slot = world.owner.connect(0, b"d" * 16, 5, 1, 0.0)
    world.owner.connect(0, b"d" * 16, 6, 1, 0.0)
    slots, ones = np.array([slot], np.int32), np.ones(1, np.uint32)
    world.owner.disconnected(slots, np.array([5], np.int32), ones, [CloseReason.TAKEN_OVER])
    world.owner.disconnected(slots, np.array([6], np.int32), ones, [CloseReason.PEER_CLOSED])
    assert told == [("came", slot), ("went", []), ("went", [slot])]


@pytest.mark.parametrize("why", [Unacknowledged.ACK_TIMEOUT, Unacknowledged.REFUSED, Unacknowledged.QOS_0])
async def test_row_for_the_inbox_is_not_sent_again_over_the_connection_that_did_not_acknowledge_it(
    why: Unacknowledged, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """[MQTT-4.4.0-1]: a message is resent when its device comes back, and at no other time."""
    world = make_world(strategy=3)
    await world.start(nursery)
    (device,) = world.register(1)
    fd = world.go_online(device)
    page = await world.send([device])
    hand_over(world, device, 1, why)
    await world.wait(30.0)
    assert (world.states(page), len(world.sockets.sent[device])) == ({"held": 1}, 1)
    world.go_offline(fd)
    world.go_online(device)
    await world.settle()
    assert (world.states(page), len(world.sockets.sent[device])) == ({"in_flight": 1}, 2)


async def test_row_whose_connection_closed_goes_at_once_to_the_one_that_replaced_it(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(strategy=3)
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device])
    world.go_online(device)
    hand_over(world, device, 1, Unacknowledged.CONNECTION_CLOSED)
    await world.settle()
    assert (world.states(page), len(world.sockets.sent[device])) == ({"in_flight": 1}, 2)


async def test_row_that_could_not_be_sent_again_goes_to_a_device_that_is_there_all_the_same(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Its newer connection was taken over by one newer still before the row could go."""
    world = make_world(strategy=3)
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_offline(world.go_online(device))
    fd = world.go_online(device)
    page = await world.send([device])
    tags = world.sockets.tags(device)
    world.go_offline(fd)
    world.go_online(device)
    assert resume(world, fd, tags) == [False]
    await world.settle()
    assert (world.states(page), len(world.sockets.sent[device])) == ({"in_flight": 1}, 2)
