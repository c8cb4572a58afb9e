"""Fallback chains: rows that reach nobody go on to another channel, once, and a receipt before that ends it.

APNs is the first vendor, FCM stands for the channel that is fallen back to, with targets from a column of the submit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.columns import TextColumn
from gateway.content import FallbackStep, Variant
from gateway.core.options import AppDefaults, compile_options
from gateway.core.recovery import newest_marks, recover, resend_table
from gateway.core.retry import RetryPolicy
from gateway.core.trail import Trail
from gateway.ledger import Channel, LedgerPage, Reason, Receipt, State
from gateway.wire.h2.events import TimedOut

AFTER_S = 600
PHONES = ["+8613800000001", "+8613800000002", "+8613800000003"]


def content(strategy: int = 2, **fields: Any) -> Variant:
    step = FallbackStep("fcm", AFTER_S, "phone")
    return Variant("title", "body", strategy=strategy, **{"fallback": (step,)} | fields)


async def send(
    world: Any, targets: list[Any], variant: Variant | None = None, phones: list[str] = PHONES
) -> LedgerPage:
    column = TextColumn.from_texts(phones[: len(targets)])
    page: LedgerPage = await world.send(targets, variant or content(), variables={"phone": column})
    return page


@pytest.fixture
async def world(make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any) -> Any:
    made = make_world(policy=RetryPolicy(first_s=1.0, jitter=0.0))
    await made.start(nursery)
    return made


def fell_back_to(world: Any) -> list[str]:
    """The targets of what the second vendor got, in order."""
    return [body["message"]["token"] if "message" in body else path for path, _, body in requests(world.fcm)]


def requests(vendor: Any) -> list[Any]:
    return [request for connection in vendor.connections for request in connection.requests]


async def test_row_that_nobody_has_seen_goes_on_when_its_time_comes(world: Any, autojump_clock: Any) -> None:
    page = await send(world, world.register(2))
    world.apns.last.answer(n=2)
    await world.settle()
    assert world.states(page) == {"waiting": 2}
    assert world.reasons(page) == ["fallback", "fallback"]
    await world.wait(AFTER_S - 5)
    assert requests(world.fcm) == []
    await world.wait(10)
    assert world.states(page) == {"in_flight": 2}
    assert sorted(fell_back_to(world)) == PHONES[:2]
    world.fcm.last.answer(n=2)
    await world.settle()
    assert world.states(page) == {"vendor_accepted": 2}
    assert page.channel.tolist() == [Channel.FCM] * 2
    assert len(requests(world.apns)) == 2
    assert world.metrics.rows_fell_back.value(Channel.FCM) == 2
    assert world.home.rows_not_conserved() == 0


async def test_receipt_before_its_time_ends_the_chain(world: Any, autojump_clock: Any) -> None:
    page = await send(world, world.register(2))
    world.apns.last.answer(n=2)
    await world.wait(100)
    world.home.raise_receipts(page, np.array([0]), Receipt.DELIVERED, world.clock.monotonic())
    assert world.states(page) == {"vendor_accepted": 1, "waiting": 1}
    await world.wait(AFTER_S)
    assert fell_back_to(world) == [PHONES[1]]


async def test_receipt_that_comes_before_the_answer_ends_the_chain(world: Any, autojump_clock: Any) -> None:
    page = await send(world, world.register(1))
    world.home.raise_receipts(page, np.array([0]), Receipt.DISPLAYED, world.clock.monotonic())
    world.apns.last.answer()
    await world.settle()
    assert world.states(page) == {"vendor_accepted": 1}
    await world.wait(AFTER_S * 2)
    assert requests(world.fcm) == []


async def test_final_failure_goes_on_at_once(world: Any, autojump_clock: Any) -> None:
    page = await send(world, world.register(1))
    world.apns.last.answer(400, b'{"reason":"BadDeviceToken"}')
    await world.settle()
    assert fell_back_to(world) == PHONES[:1]
    world.fcm.last.answer(400, b"{}")
    await world.settle()
    assert world.states(page) == {"failed": 1}
    await world.wait(AFTER_S * 2)
    assert len(requests(world.fcm)) == 1
    assert world.home.rows_not_conserved() == 0


async def test_word_of_the_vendor_that_it_will_not_arrive_goes_on_at_once(world: Any, autojump_clock: Any) -> None:
    page = await send(world, world.register(2))
    world.apns.last.answer(n=2)
    await world.settle()
    world.router.fallbacks.undelivered(page, np.array([1]))
    await world.settle()
    assert fell_back_to(world) == [PHONES[1]]
    assert world.states(page) == {"waiting": 1, "in_flight": 1}


async def test_device_that_nobody_knows_is_reached_at_its_other_target_at_once(world: Any, autojump_clock: Any) -> None:
    page = await send(world, [b"unknown device 1"])
    assert fell_back_to(world) == PHONES[:1]
    assert world.states(page) == {"in_flight": 1}


async def test_blocked_device_is_left_alone_on_all_channels(world: Any, autojump_clock: Any) -> None:
    (device,) = world.register(1)
    world.devices.block(world.devices.find(np.frombuffer(device, np.uint8).reshape(1, 16), 0), True)
    page = await send(world, [device])
    assert world.states(page) == {"dropped": 1}
    assert requests(world.fcm) == []


async def test_row_that_waits_for_its_device_leaves_the_inbox_and_the_device_gets_nothing_later(
    world: Any, autojump_clock: Any
) -> None:
    (device,) = world.register(1, Channel.NONE)
    page = await send(world, [device], content(strategy=3))
    assert world.states(page) == {"held": 1}
    await world.wait(AFTER_S + 5)
    assert fell_back_to(world) == PHONES[:1]
    world.go_online(device)
    await world.settle()
    assert world.states(page) == {"in_flight": 1}
    assert page.channel.tolist() == [Channel.FCM]


async def test_device_that_acknowledges_ends_the_chain(world: Any, autojump_clock: Any) -> None:
    (device,) = world.register(1)
    world.go_online(device)
    page = await send(world, [device], content(strategy=1))
    world.acknowledge(device)
    await world.wait(AFTER_S * 2)
    assert world.states(page) == {"device_acked": 1}
    assert requests(world.fcm) == []


async def test_row_in_flight_at_its_time_keeps_its_attempt_and_goes_on_after_it(
    world: Any, autojump_clock: Any
) -> None:
    page = await send(world, world.register(1))
    await world.wait(AFTER_S + 5)
    assert world.states(page) == {"in_flight": 1}
    assert requests(world.fcm) == []
    world.apns.last.answer()
    await world.wait(3)
    assert fell_back_to(world) == PHONES[:1]


async def test_lost_answer_waits_for_a_receipt_like_an_accepted_row(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(policy=RetryPolicy(first_s=1.0, jitter=0.0, resends_uncertain=False))
    await world.start(nursery)
    page = await send(world, world.register(1))
    world.apns.last.tell(TimedOut)
    await world.settle()
    assert world.states(page) == {"waiting": 1}
    await world.wait(AFTER_S + 5)
    assert fell_back_to(world) == PHONES[:1]
    # The last channel has no further step: nobody knows, and that is its end.
    world.fcm.last.tell(TimedOut)
    await world.settle()
    assert world.states(page) == {"uncertain": 1}


async def test_two_steps_are_taken_in_their_order_and_a_channel_that_the_app_lacks_is_passed_over(
    world: Any, autojump_clock: Any
) -> None:
    steps = (FallbackStep("meizu", 10, "phone"), FallbackStep("fcm", 20, "phone"))
    page = await send(world, world.register(1), content(fallback=steps))
    world.apns.last.answer()
    await world.wait(15)
    assert world.states(page) == {"waiting": 1}
    await world.wait(10)
    assert fell_back_to(world) == PHONES[:1]


async def test_row_without_any_other_channel_ends_as_ever(world: Any, autojump_clock: Any) -> None:
    page = await send(world, world.register(1), content(fallback=(FallbackStep("meizu", 10, "phone"),)))
    world.apns.last.answer()
    await world.settle()
    assert world.states(page) == {"vendor_accepted": 1}


async def test_empty_target_is_none(world: Any, autojump_clock: Any) -> None:
    page = await send(world, world.register(2), phones=["", PHONES[1]])
    world.apns.last.answer(n=2)
    await world.wait(AFTER_S + 5)
    assert fell_back_to(world) == [PHONES[1]]
    assert world.states(page) == {"failed": 1, "in_flight": 1}
    assert world.reasons(page)[0] == "no_channel"


async def test_without_a_named_target_the_devices_own_token_of_that_channel_is_used(
    world: Any, autojump_clock: Any
) -> None:
    (device,) = world.register(1, Channel.FCM)
    page = await send(world, [device], content(strategy=3, fallback=(FallbackStep("fcm", 30),)))
    await world.wait(35)
    assert fell_back_to(world) == [world.token(device).decode()]
    assert world.states(page) == {"in_flight": 1}


@pytest.fixture
async def regional(make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any) -> Any:
    """Of Xiaomi the app has the mainland and Europe."""
    channels = (Channel.XIAOMI, Channel.XIAOMI_EU)
    made = make_world(policy=RetryPolicy(first_s=1.0, jitter=0.0), more_channels=channels)
    await made.start(nursery)
    return made


def asked(world: Any, channel: Channel) -> int:
    return len(requests(world.vendors[channel]))


async def test_step_that_names_a_vendor_finds_the_token_of_each_region_that_the_app_has(
    regional: Any, autojump_clock: Any
) -> None:
    world = regional
    homes = [Channel.XIAOMI, Channel.XIAOMI_EU, Channel.XIAOMI_IN, Channel.APNS]
    devices = [world.register(1, channel)[0] for channel in homes]
    steps = (FallbackStep("xiaomi", 30), FallbackStep("fcm", AFTER_S, "phone"))
    column = TextColumn.from_texts([f"+{number}" for number in range(4)])
    page = await world.send(devices, content(strategy=3, fallback=steps), variables={"phone": column})
    await world.wait(35)
    # Of the region that the app lacks, and of another vendor, there is no token: they go on at once.
    assert page.channel.tolist() == [Channel.XIAOMI, Channel.XIAOMI_EU, Channel.FCM, Channel.FCM]
    assert world.states(page) == {"in_flight": 4}
    assert (asked(world, Channel.XIAOMI), asked(world, Channel.XIAOMI_EU)) == (1, 1)
    for channel in (Channel.XIAOMI, Channel.XIAOMI_EU):
        (body,) = [body for _, _, body in requests(world.vendors[channel])]
        assert body["message"]["token"] == world.token(devices[homes.index(channel)]).decode()
    for channel in (Channel.XIAOMI, Channel.XIAOMI_EU):
        world.vendors[channel].last.answer(400, b"{}")
    await world.settle()
    # Each has taken the step once.
    assert page.channel.tolist() == [Channel.FCM] * 4
    await world.wait(AFTER_S * 2)
    assert (asked(world, Channel.XIAOMI), asked(world, Channel.XIAOMI_EU)) == (1, 1)
    assert world.home.rows_not_conserved() == 0


async def test_step_with_a_target_and_a_region_that_has_a_step_of_its_own_go_where_they_say(
    regional: Any, autojump_clock: Any
) -> None:
    world = regional
    devices = world.register(2, Channel.XIAOMI_EU)
    named = content(strategy=3, fallback=(FallbackStep("xiaomi", 30, "phone"),))
    both = content(strategy=3, fallback=(FallbackStep("xiaomi", 30), FallbackStep("xiaomi_eu", 60)))
    column = TextColumn.from_texts(["d+token/of/a/variable=", ""])
    page = await world.send(devices, [named, both], variables={"phone": column})
    await world.wait(35)
    assert page.channel.tolist() == [Channel.XIAOMI, Channel.XIAOMI_EU]
    assert (asked(world, Channel.XIAOMI), asked(world, Channel.XIAOMI_EU)) == (1, 1)
    world.vendors[Channel.XIAOMI_EU].last.answer(400, b"{}")
    await world.settle()
    assert page.state.tolist() == [State.IN_FLIGHT, State.FAILED]


@pytest.mark.parametrize("state", [State.WAITING, State.IN_FLIGHT])
async def test_after_a_restart_a_step_finds_its_device_in_its_region(
    regional: Any, autojump_clock: Any, state: State
) -> None:
    """WAITING: the first vendor had taken the row. IN_FLIGHT: it was at its step."""
    world = regional
    trail = Trail(issued_rows_max=100)
    (device,) = world.register(1, Channel.XIAOMI_EU)
    page = world.open([device], content(fallback=(FallbackStep("xiaomi", AFTER_S),)))
    trail.follow(page, 1)
    rows = np.arange(1)
    page.channel[rows] = Channel.APNS if state == State.WAITING else Channel.XIAOMI_EU
    page.move(rows, State.IN_FLIGHT)
    trail.mark(page, rows, Channel(int(page.channel[0])), lambda: None)
    if state == State.WAITING:
        page.move(rows, State.WAITING, Reason.FALLBACK)
        trail.moved(page, rows, State.WAITING)
    taken = trail.take(10)
    assert taken is not None
    found = world.open([device], content(fallback=(FallbackStep("xiaomi", AFTER_S),)))
    options = compile_options(found.batch, AppDefaults())
    resends = resend_table(system=True, marketing=False)
    recover(world.home, found, taken.marks, options, resends, world.clock.monotonic())
    world.router.route(found)
    await world.wait(AFTER_S + 5)
    assert found.channel.tolist() == [Channel.XIAOMI_EU]
    assert world.states(found) == {"in_flight": 1}
    assert asked(world, Channel.XIAOMI_EU) == 1


async def test_row_of_strategy_4_that_waits_for_a_receipt_is_not_given_to_the_long_link(
    world: Any, autojump_clock: Any
) -> None:
    (device,) = world.register(1)
    page = await send(world, [device], content(strategy=4))
    world.apns.last.answer()
    world.go_online(device)
    await world.wait(60)
    assert world.states(page) == {"waiting": 1}
    await world.wait(AFTER_S)
    assert fell_back_to(world) == PHONES[:1]


async def test_a_crash_of_the_router_forgets_no_row(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await send(world, world.register(3))
    world.apns.last.answer(n=3)
    await world.settle()
    with trio.CancelScope() as scope:
        scope.cancel()
        await world.router.run()
    await world.wait(AFTER_S + 5)
    assert sorted(fell_back_to(world)) == PHONES
    assert world.states(page) == {"in_flight": 3}


async def test_restart_goes_on_waiting_and_sends_nothing_to_the_first_vendor_again(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """One row that waits for its receipt, one that its second vendor has, one that was never sent."""
    trail = Trail(issued_rows_max=100)
    page = LedgerPage(plain_batch())
    trail.follow(page, 1)
    rows = np.arange(2)
    page.channel[rows] = Channel.APNS
    page.move(rows, State.IN_FLIGHT)
    trail.mark(page, rows, Channel.APNS, lambda: None)
    page.move(rows, State.WAITING, Reason.FALLBACK)
    trail.moved(page, rows, State.WAITING)
    page.move(rows[1:], State.QUEUED, Reason.FALLBACK)
    page.channel[1] = Channel.FCM
    trail.mark(page, rows[1:], Channel.FCM, lambda: None)
    page.move(rows[1:], State.IN_FLIGHT, None)
    taken = trail.take(10)
    assert taken is not None
    marks = newest_marks(3, taken.marks)
    assert marks.states.tolist() == [State.WAITING, State.IN_FLIGHT]

    world = make_world()
    await world.start(nursery)
    found = world.open(world.register(3), content(), variables={"phone": TextColumn.from_texts(PHONES)})
    options = compile_options(found.batch, AppDefaults())
    done = recover(
        world.home, found, taken.marks, options, resend_table(system=True, marketing=False), world.clock.monotonic()
    )
    assert (done.resent, done.unsent) == (1, 2)
    world.router.route(found)
    await world.settle()
    assert world.states(found) == {"waiting": 1, "in_flight": 2}
    # It is the receipt that it waits for, and no second attempt.
    assert found.reason[0] == Reason.FALLBACK
    assert fell_back_to(world) == [PHONES[1]]
    assert len(requests(world.apns)) == 1
    world.apns.last.answer()
    await world.wait(AFTER_S + 5)
    assert sorted(fell_back_to(world)) == sorted(PHONES)
    assert len(requests(world.apns)) == 1
    assert world.home.rows_not_conserved() == 0


def plain_batch() -> Any:
    from gateway.batch import Batch
    from gateway.message_id import BatchAddress

    ids = np.zeros((3, 16), np.uint8)
    variables = {"phone": TextColumn.from_texts(PHONES)}
    return Batch(
        BatchAddress(1, 0, 0), 0, 0.0, 3, device_ids=ids, message_ids=ids, variants=[content()], variables=variables
    )


async def test_receipt_at_the_home_ends_the_chain_of_a_row_that_another_worker_holds(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """The holder has a shadow of the row; what its home was told arrives there in columns."""
    from gateway.actors.receipt_desk import ReceiptDesk
    from gateway.core.receipt_reports import ROW_UNKNOWN, Reports, pack_reports
    from gateway.core.shadow import Life
    from gateway.core.slices import cut_batch
    from gateway.observe.receipts import ReceiptCounts
    from gateway.receipts import Event

    home, holder = make_world(), make_world(journal=1)
    await holder.start(nursery)
    devices = holder.register(3)
    origin = home.open(devices, content(), variables={"phone": TextColumn.from_texts(PHONES)})
    rows = np.array([0, 2])
    shadow = holder.home.open_shadow(Life(0, 1), cut_batch(origin.batch, rows), rows.astype(np.uint16), 100)
    holder.router.route(shadow)
    await holder.settle()
    news = holder.home.shadows.take_news(Life(0, 1), holder.clock.monotonic())
    assert news is not None
    # Their home has heard that they leave.
    shadow.told(news[1])
    await holder.settle()
    holder.apns.last.answer(n=2)
    await holder.settle()
    assert shadow.state.tolist() == [State.WAITING] * 2
    desk = ReceiptDesk(
        secret=b"x" * 32,
        home=holder.home,
        devices=holder.devices,
        guards={},
        switch=holder,
        clock=holder.clock,
        observer=ReceiptCounts(holder.metrics),
        receipts_max=10,
    )
    reports = Reports(
        np.array([ROW_UNKNOWN], np.int32), shadow.token_hashes[1:].copy(), np.array([Event.DELIVERED], np.uint8),
        np.array([-1], np.int64),
    )  # fmt: skip
    head = {"batch": list(origin.batch.address), "channel": int(Channel.APNS)}
    desk.on_held_reports(head, memoryview(pack_reports(reports)))
    assert shadow.state.tolist() == [State.WAITING, State.VENDOR_ACCEPTED]
    assert shadow.receipt.tolist() == [Receipt.NONE, Receipt.DELIVERED]
    await holder.wait(AFTER_S + 5)
    # The next attempt is announced anew.
    assert fell_back_to(holder) == []
    news = holder.home.shadows.take_news(Life(0, 1), holder.clock.monotonic())
    assert news is not None
    shadow.told(news[1])
    await holder.settle()
    assert fell_back_to(holder) == [PHONES[0]]
