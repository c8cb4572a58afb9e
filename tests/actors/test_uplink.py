"""UplinkActor: reports count for the reporting device alone, changes keep the rest of a registration."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.device_reports import DeviceReports
from gateway.actors.long_link_port import Later, UplinkAnswer
from gateway.actors.registering import registrations
from gateway.actors.uplink import UplinkActor
from gateway.core.uplink_rates import UplinkRates
from gateway.errors import Overloaded, StoreFull, StoreUnavailable
from gateway.ledger import Channel, Flag, Receipt, State
from gateway.message_id import to_text
from gateway.observe.counting import UplinkCounts
from gateway.wire.rpc import messages
from gateway.wire.rpc.registration import check_registration


class Desk:
    """The service's `register`, and what is written of states."""

    def __init__(self, world: Any, apps_on_disk: tuple[int, ...] = (), **limits: int) -> None:
        self.world = world
        self.fault: Exception | None = None
        self.states: list[Any] = []
        self.is_open = trio.Event()
        self.is_open.set()
        observer = UplinkCounts(world.metrics, ["shop", "news"])
        self.actor = UplinkActor(
            devices=world.devices,
            reports=DeviceReports(devices=world.devices, home=world.home, clock=world.clock, observer=observer),
            clock=world.clock,
            rates=UplinkRates(
                5_000,
                events_per_minute=limits.get("events", 1_000),
                changes_per_hour=limits.get("changes", 1_000),
                now=world.clock.monotonic(),
            ),
            observer=observer,
            app_keys=["shop", "news"],
            changes_max=limits.get("changes_max", 100),
            register=self.register,
            states=self,
            wait_written=self.wait_written,
            apps_on_disk=apps_on_disk,
        )

    async def wait_written(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault

    async def register(self, message: messages.RegisterDevices, app_key: str) -> messages.DevicesRegistered:
        await self.is_open.wait()
        assert app_key == "shop"
        registration = check_registration(message)
        done = self.world.devices.register(0, registrations(registration), 1_000)
        await self.wait_written()
        return messages.DevicesRegistered(id=1, registered=1 - len(done.faults), refused_count=len(done.faults))

    def change_state(self, slot: int, report: Any) -> None:
        self.states.append((slot, report.apply(0)))

    def switch_notifications(self, slot: int, *, is_on: bool) -> None:
        self.world.devices.switch_notifications(slot, is_on=is_on)

    def say(self, device: bytes, event: str, said: Any, app: int = 0, later: Later | None = None) -> UplinkAnswer:
        slot = self.world.devices.find_one(device, app)
        payload = said if isinstance(said, bytes) else json.dumps(said).encode()
        return self.actor.take(slot, app, device, event, payload, later)

    def refused(self, why: str) -> int:
        return int(self.world.metrics.refusals.value(f"uplink.{why}"))


def ids_of(page: Any) -> list[str]:
    return [to_text(row.tobytes()) for row in page.batch.message_ids[np.arange(page.n)]]


async def acknowledged_page(world: Any, nursery: trio.Nursery, devices: list[bytes]) -> Any:
    await world.start(nursery)
    for device in devices:
        world.go_online(device)
    page = await world.send(devices)
    for device in devices:
        world.acknowledge(device)
    return page


async def test_device_reports_its_own_rows_as_displayed_and_clicked(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    devices = world.register(2)
    page = await acknowledged_page(world, nursery, devices)
    desk, ids = Desk(world), ids_of(page)
    assert desk.say(devices[0], "displayed", {"message_id": ids[0]}) is UplinkAnswer.TAKEN
    desk.say(devices[1], "clicked", {"message_ids": [ids[1], ids[0]]})
    assert page.receipt.tolist() == [Receipt.DISPLAYED, Receipt.CLICKED]
    assert desk.refused("not_the_target") == 1
    # A receipt never falls, and an id that is not ours is no row.
    desk.say(devices[1], "displayed", {"message_ids": [ids[1], "01935a7e-6c00-8001-9000-00000100abcd"]})
    assert page.receipt.tolist() == [Receipt.DISPLAYED, Receipt.CLICKED]
    assert desk.refused("unknown_message") == 1
    assert world.states(page) == {"device_acked": 2}
    assert world.metrics.uplink_events.value("displayed") == 2


async def test_row_that_was_not_shown_is_flagged(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    (device,) = world.register(1)
    page = await acknowledged_page(world, nursery, [device])
    Desk(world).say(device, "closed", {"message_id": ids_of(page)[0]})
    assert page.flags[0] & Flag.NOTIFICATION_CLOSED
    assert page.receipt[0] == Receipt.DELIVERED


async def test_same_device_id_of_another_app_is_not_the_target(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    (device,) = world.register(1)
    page = await acknowledged_page(world, nursery, [device])
    world.owner.connect(1, device, 7, 1, 0.0)
    desk = Desk(world)
    desk.say(device, "displayed", {"message_id": ids_of(page)[0]}, app=1)
    assert (page.receipt[0], desk.refused("not_the_target")) == (Receipt.DELIVERED, 1)


async def test_row_whose_target_is_a_token_belongs_to_the_device_that_has_it(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    owner, other = world.register(2)
    page = await world.send([(Channel.APNS, world.token(owner))])
    desk, ids = Desk(world), ids_of(page)
    desk.say(other, "displayed", {"message_id": ids[0]})
    assert (page.receipt[0], desk.refused("not_the_target")) == (Receipt.NONE, 1)
    world.apns.last.answer()
    desk.say(owner, "displayed", {"message_id": ids[0]})
    assert page.receipt[0] == Receipt.DISPLAYED


async def test_displayed_report_of_an_uncertain_row_makes_it_accepted(make_world: Callable[..., Any]) -> None:
    world = make_world()
    (device,) = world.register(1)
    page = world.open([device])
    for state in (State.IN_FLIGHT, State.UNCERTAIN):
        world.home.move(page, np.array([0]), state, None, trio.current_time())
    Desk(world).say(device, "displayed", {"message_id": ids_of(page)[0]})
    assert world.states(page) == {"vendor_accepted": 1}


async def test_changes_keep_the_rest_of_a_registration(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    (device,) = world.register(1, proven_unix_s=77)
    token = world.token(device)
    desk = Desk(world)
    nursery.start_soon(desk.actor.run)

    async def say(event: str, said: Any) -> Any:
        assert desk.say(device, event, said) is UplinkAnswer.TAKEN
        await world.settle()
        return world.devices.device(world.devices.find_one(device, 0))

    assert (await say("tags", {"set": ["a", "b"]})).tags == (b"a", b"b")
    assert (await say("alias", {"alias": "user 7"})).alias == b"user 7"
    found = await say("tags", {"add": ["c"], "remove": ["a"]})
    assert (found.tags, found.alias, found.token, found.channel) == ((b"b", b"c"), b"user 7", token, Channel.APNS)
    assert found.proven_unix_s == 77
    newer = "ab" * 32
    found = await say("token", {"channel": "apns", "token": newer})
    # A new token is not proven.
    assert (found.token, found.proven_unix_s, found.tags) == (newer.encode(), 0, (b"b", b"c"))
    found = await say("token", {"channel": "", "token": ""})
    assert (found.token, found.channel, found.alias) == (b"", 0, b"user 7")
    await say("switch", {"on": False})
    slot = world.devices.find_one(device, 0)
    assert world.devices.are_notifications_off(slot)
    # Registrations leave the switch alone.
    await say("alias", {"alias": ""})
    assert world.devices.are_notifications_off(slot)
    await say("switch", {"on": True})
    assert not world.devices.are_notifications_off(slot)


async def test_muted_token_stays_muted_until_the_device_reports_one(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    (device,) = world.register(1)
    slots = np.array([world.devices.find_one(device, 0)], np.int32)
    world.devices.mute_tokens(slots, world.devices.token_hashes(slots))
    desk = Desk(world)
    nursery.start_soon(desk.actor.run)
    desk.say(device, "tags", {"add": ["a"]})
    await world.settle()
    assert world.devices.device(int(slots[0])).is_muted
    desk.say(device, "token", {"channel": "apns", "token": world.token(device).decode()})
    await world.settle()
    assert not world.devices.device(int(slots[0])).is_muted


async def test_change_that_the_registry_refuses_is_counted_and_the_next_goes_on(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    (device,) = world.register(1)
    desk = Desk(world)
    nursery.start_soon(desk.actor.run)
    desk.say(device, "tags", {"set": [f"tag {n}" for n in range(11)]})  # tag_bindings_max of the world is 10
    desk.say(device, "token", {"channel": "nokia", "token": "x"})
    desk.say(device, "alias", {"alias": "user"})
    await world.settle()
    assert (desk.refused("registration"), desk.refused("unknown_channel")) == (1, 1)
    assert world.devices.device(world.devices.find_one(device, 0)).alias == b"user"


@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        (StoreFull("/var/store", "no space left"), "not_durable"),
        (StoreUnavailable("no space left", retry_after_s=1.0), "registration"),
    ],
)
async def test_change_that_the_disk_does_not_take_is_not_acknowledged_and_the_next_is_when_it_does(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, fault: Exception, counted: str
) -> None:
    world = make_world()
    first, second = world.register(2)
    desk = Desk(world, apps_on_disk=(0,))
    told: list[tuple[str, bool]] = []
    nursery.start_soon(desk.actor.run)
    desk.fault = fault
    desk.say(first, "alias", {"alias": "a"}, later=lambda is_durable: told.append(("alias", is_durable)))
    desk.say(second, "switch", {"on": False}, later=lambda is_durable: told.append(("switch", is_durable)))
    await world.settle()
    assert (told, desk.refused(counted), len(desk.actor)) == ([("alias", False), ("switch", False)], 2, 0)
    desk.fault = None
    desk.say(first, "alias", {"alias": "a"}, later=lambda is_durable: told.append(("alias", is_durable)))
    await world.settle()
    assert told[2:] == [("alias", True)]


async def test_states_and_custom_events_are_passed_on_and_unknown_ones_counted(make_world: Callable[..., Any]) -> None:
    world = make_world()
    (device,) = world.register(1)
    desk = Desk(world)
    assert desk.say(device, "state", {"foreground": True}) is UplinkAnswer.TAKEN
    assert desk.states == [(world.devices.find_one(device, 0), 3)]
    assert desk.say(device, "90017", b"anything") is UplinkAnswer.TAKEN
    assert world.metrics.custom_events.value("shop", "90017") == 1
    assert world.metrics.uplink_events.value("custom") == 1
    assert desk.say(device, "unheard-of", b"") is UplinkAnswer.TAKEN
    assert desk.refused("unknown_event") == 1
    assert desk.say(device, "state", b"{") is UplinkAnswer.MALFORMED
    assert desk.refused("malformed") == 1


async def test_one_device_may_not_report_more_than_its_share(make_world: Callable[..., Any]) -> None:
    world = make_world()
    first, second = world.register(2)
    desk = Desk(world, events=3, changes=1)
    desk.say(first, "tags", {"add": ["a"]})
    with pytest.raises(Overloaded):
        desk.say(first, "tags", {"add": ["b"]})
    assert desk.refused("change_rate") == 1
    desk.say(first, "90001", b"")
    with pytest.raises(Overloaded):
        desk.say(first, "90001", b"")
    assert desk.refused("rate") == 1
    desk.say(second, "90001", b"")


async def test_full_mailbox_refuses_and_a_crash_or_a_cancellation_loses_no_change(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    devices = world.register(3)
    desk = Desk(world, changes_max=2)
    desk.is_open = trio.Event()
    for device in devices[:2]:
        desk.say(device, "alias", {"alias": device.hex()})
    with pytest.raises(Overloaded):
        desk.say(devices[2], "alias", {"alias": "x"})
    assert desk.refused("changes_max") == 1
    with trio.move_on_after(1):
        await desk.actor.run()
    assert len(desk.actor) == 2
    desk.is_open.set()
    nursery.start_soon(desk.actor.run)
    await world.settle()
    aliases = [world.devices.device(world.devices.find_one(device, 0)).alias.decode() for device in devices]
    assert aliases == [devices[0].hex(), devices[1].hex(), ""]


async def test_change_of_a_device_that_was_removed_meanwhile_is_counted(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    (device,) = world.register(1)
    desk = Desk(world)
    desk.say(device, "alias", {"alias": "x"})
    world.devices.remove(np.array([world.devices.find_one(device, 0)], np.int32))
    nursery.start_soon(desk.actor.run)
    await world.settle()
    assert desk.refused("unknown_device") == 1
