"""Router: each row gets its next holder or its end, exactly one of them, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.actors.long_link_port import Unacknowledged
from gateway.content import Class, Variant
from gateway.errors import CloseReason, Overloaded
from gateway.ledger import Channel, Flag, Reason, State


def content(**fields: Any) -> Variant:
    return Variant("title", "body", **fields)


# -- the first way


async def test_router_sends_each_row_the_way_its_strategy_and_presence_say(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    online, offline = world.register(2)
    (bare_online,) = world.register(1, Channel.NONE, first=10)
    (bare_offline,) = world.register(1, Channel.NONE, first=11)
    world.go_online(online)
    world.go_online(bare_online)
    targets = [online, offline, bare_online, bare_offline]
    expected = {
        1: ["long_link", "apns", "long_link", "held"],
        2: ["apns", "apns", "no_channel", "no_channel"],
        3: ["long_link", "held", "long_link", "held"],
        4: ["apns", "apns", "long_link", "held"],
    }
    for strategy, ways in expected.items():
        page = await world.send(targets, content(strategy=strategy))
        found = []
        for row in range(4):
            if page.state[row] == State.DROPPED:
                found.append(world.reasons(page)[row])
            elif page.state[row] == State.HELD:
                found.append("held")
            else:
                assert page.state[row] == State.IN_FLIGHT
                found.append(Channel(int(page.channel[row])).name.lower())
        assert found == ways, strategy


async def test_router_tells_the_long_link_how_long_each_row_still_lives(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (online,) = world.register(1)
    (bare_offline,) = world.register(1, Channel.NONE, first=10)
    world.go_online(online)
    page = await world.send([online, bare_offline], content(strategy=1, ttl_s=600))
    assert page.state[1] == State.HELD
    (at_once,) = world.sockets.seconds_left
    assert 599 <= at_once <= 600
    await trio.sleep(100)
    world.go_online(bare_offline)
    await trio.sleep(1)
    assert 498 <= world.sockets.seconds_left[-1] <= 500


async def test_router_drops_rows_of_unknown_devices_and_says_why(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (known,) = world.register(1)
    page = await world.send([b"u" * 16, known])
    assert world.states(page) == {"dropped": 1, "in_flight": 1}
    assert world.reasons(page)[0] == "unknown_device"


async def test_router_sends_rows_with_a_token_target_to_that_vendor(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await world.send([(Channel.APNS, b"a" * 64), (Channel.FCM, b"fcm-token")])
    assert [path for path, _, _ in world.apns.requests()] == ["/3/device/" + "a" * 64]
    assert [body["message"]["token"] for _, _, body in world.fcm.requests()] == ["fcm-token"]
    assert page.channel.tolist() == [Channel.APNS, Channel.FCM]


@pytest.mark.parametrize("slice_rows", [1, 7, 64])
async def test_router_routes_a_page_slice_by_slice_and_counts_it_down(
    slice_rows: int, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(slice_rows=slice_rows)
    await world.start(nursery)
    page = world.open(world.register(20))
    world.router.route(page)
    assert world.router.queued_rows == 20
    assert not world.router.is_idle
    await world.settle()
    assert (world.router.queued_rows, page.n_routed, world.router.is_idle) == (0, 20, True)
    assert (page.routed_ms > 0).all()
    assert world.states(page) == {"in_flight": 20}


async def test_router_leaves_rows_alone_that_ended_before_their_turn(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    devices = world.register(3)
    page = world.open([*devices, devices[0]], duplicates=np.array([False, False, False, True]))
    world.home.move(page, np.array([1]), State.CANCELLED, Reason.NONE, trio.current_time())
    world.router.route(page)
    await world.settle()
    assert world.states(page) == {"in_flight": 2, "cancelled": 1, "dropped": 1}
    assert world.reasons(page)[3] == "duplicate_target"
    assert len(world.apns.requests()) == 2


@pytest.mark.parametrize("at", ["first slice", "middle"])
async def test_router_cancelled_in_a_page_goes_on_with_the_next_slice(
    at: str, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(slice_rows=4)
    devices = world.register(12, Channel.NONE)
    for device in devices:
        world.go_online(device)
    nursery.start_soon(world.inbox.run)
    page = world.open(devices)
    world.router.route(page)
    for _ in range(2 if at == "first slice" else 6):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(world.router.run)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                scope.cancel()
    nursery.start_soon(world.router.run)
    await world.settle()
    assert world.states(page) == {"in_flight": 12}
    assert [len(world.sockets.sent[device]) for device in devices] == [1] * 12
    assert world.router.queued_rows == 0


class CrashingSockets:
    """Lets calls through to the sockets, but raises at the given call, before or after it."""

    def __init__(self, sockets: Any, at: int, *, after: bool) -> None:
        self.sockets = sockets
        self.left = at
        self.after = after

    def deliver_rows_max(self) -> int:
        return 3

    def send_rest(self) -> bool:
        return False

    def deliver(self, *args: Any) -> Any:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise ValueError("a bug in the edge")
        return self.sockets.deliver(*args)


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_router_that_crashed_goes_on_with_every_row(
    at: int, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(slice_rows=5)
    devices = world.register(12, Channel.NONE)
    for device in devices:
        world.go_online(device)
    world.router.connect_link(CrashingSockets(world.sockets, at, after=False))
    page = world.open(devices)
    world.router.route(page)
    with pytest.raises(BaseExceptionGroup) as crash:
        await world.router.run()
    assert crash.group_contains(ValueError, match="a bug in the edge")
    await world.start(nursery)
    assert world.states(page) == {"in_flight": 12}
    assert [len(world.sockets.sent[device]) for device in devices] == [1] * 12


# -- full lanes


async def test_router_parks_rows_before_a_full_lane_and_moves_them_up(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(lane_rows_max=10, parked_rows_max=100, burst_rows_max=5, connections_max=1)
    world.apns.streams_max = 5
    world.apns.gate = trio.Event()
    await world.start(nursery)
    devices = world.register(40)
    pages = [await world.send(devices[first : first + 10]) for first in range(0, 40, 10)]
    assert world.router.parked_rows == 30
    assert world.lane().lane.rows == 10
    world.apns.gate.set()
    await world.settle()
    for _ in range(8):
        assert world.apns.last.open_requests() == 5
        world.apns.last.answer(n=5)
        await world.settle()
    assert world.router.parked_rows == 0
    assert [world.states(page) for page in pages] == [{"vendor_accepted": 10}] * 4
    # nothing was sent twice and nothing overtook what was parked before it
    paths = [path for path, _, _ in world.apns.requests()]
    assert paths == ["/3/device/" + world.token(device).decode() for device in devices]


async def test_router_tells_intake_when_too_much_is_parked(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(lane_rows_max=4, parked_rows_max=10)
    world.apns.gate = trio.Event()
    await world.start(nursery)
    devices = world.register(14)
    await world.send(devices[:13])
    world.router.check_room()
    await world.send(devices[13:])
    with pytest.raises(Overloaded) as refused:
        world.router.check_room()
    assert (refused.value.value, refused.value.limit_value) == (10, 10)
    world.apns.gate.set()
    await world.settle()
    world.router.check_room()


async def test_router_ends_parked_rows_when_their_ttl_passes(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(lane_rows_max=4)
    world.apns.fails_with = CloseReason.CONNECT_FAILED
    await world.start(nursery)
    page = await world.send(world.register(10), content(ttl_s=60))
    await world.wait(61)
    assert world.states(page) == {"expired": 10}
    assert set(world.reasons(page)) == {"vendor_unavailable"}
    world.apns.fails_with = None
    (device,) = world.register(1, first=50)
    later = await world.send([device])
    await world.wait(60)
    assert world.states(later) == {"in_flight": 1}
    assert world.router.parked_rows == 0


# -- sockets that do not take a row


async def test_router_sends_rows_elsewhere_that_no_socket_takes(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """The device seemed online; its connection is another one by now, or full."""
    world = make_world()
    await world.start(nursery)
    (with_token,) = world.register(1)
    (without,) = world.register(1, Channel.NONE, first=5)
    for device in (with_token, without):
        world.go_online(device, window=0)
    page = await world.send([with_token, without])
    assert world.states(page) == {"in_flight": 1, "held": 1}
    assert page.channel.tolist() == [Channel.APNS, Channel.LONG_LINK]
    assert not (page.flags & Flag.HANDED_OVER).any()
    assert world.metrics.rows_handed_over_unacked.value() == 0


async def test_router_keeps_a_device_s_rows_in_order_on_the_long_link(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(slice_rows=3)
    world.sockets.rows_max = 2
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device, window=100)
    for first in range(0, 30, 10):
        world.router.route(world.open([device] * 10, [Variant(f"{first + k}", "b") for k in range(10)]))
    await world.settle()
    assert world.sockets.titles(device) == [str(number) for number in range(30)]


async def test_router_drops_a_row_that_cannot_be_shown_on_the_long_link(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Data too large for one message of the long link cannot be cut."""
    world = make_world()
    await world.start(nursery)
    device, other = world.register(2, Channel.NONE)
    world.go_online(device)
    world.go_online(other)
    page = await world.send([device, other], [content(data={"blob": "x" * 20_000}), content()])
    assert world.states(page) == {"dropped": 1, "in_flight": 1}
    assert world.reasons(page)[0] in ("content_too_long", "content_refused")


async def test_router_marks_rows_whose_text_was_cut_for_the_long_link(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    device, other = world.register(2, Channel.NONE)
    world.go_online(device)
    world.go_online(other)
    page = await world.send([device, other], [Variant("t", "long " * 8000), content()])
    assert [bool(flags & Flag.TRUNCATED) for flags in page.flags.tolist()] == [True, False]
    shown = world.sockets.sent[device][0][1]["body"]
    assert shown.endswith("…")
    assert ("long " * 8000).startswith(shown[:-1].rstrip())
    assert world.metrics.rows_truncated.value(Channel.LONG_LINK) == 1


# -- hand-over


@pytest.mark.parametrize(
    ("strategy", "channel", "state"),
    [(1, Channel.APNS, "in_flight"), (1, Channel.NONE, "held"), (3, Channel.APNS, "held"), (4, Channel.NONE, "held")],
)
async def test_router_hands_unacknowledged_rows_to_their_next_holder(
    strategy: int,
    channel: Channel,
    state: str,
    make_world: Callable[..., Any],
    nursery: trio.Nursery,
    autojump_clock: Any,
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1, channel)
    fd = world.go_online(device)
    page = await world.send([device], content(strategy=strategy))
    world.go_offline(fd)
    world.owner.unacknowledged(world.sockets.tags(device), Unacknowledged.CONNECTION_CLOSED)
    await world.settle()
    assert world.states(page) == {state: 1}
    assert page.flags[0] & Flag.HANDED_OVER


async def test_router_ends_an_unacknowledged_row_that_was_for_now_or_never(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    world.go_online(device)
    page = await world.send([device], content(ttl_s=0))
    assert world.states(page) == {"in_flight": 1}
    world.owner.unacknowledged(world.sockets.tags(device), Unacknowledged.ACK_TIMEOUT)
    assert world.states(page) == {"expired": 1}
    assert world.reasons(page) == ["ttl_passed"]


# -- tokens


async def test_router_forgets_a_dead_token_unless_it_was_registered_again_since(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    dead, renewed, silent = world.register(3)
    page = await world.send([dead, renewed, silent])
    now_ms = world.clock.unix_ms()
    world.apns.last.answer(410, b'{"reason":"Unregistered","timestamp":%d}' % (now_ms + 60_000))
    # the vendor's word is older than the registration
    world.apns.last.answer(410, b'{"reason":"Unregistered","timestamp":%d}' % (now_ms - 86_400_000))
    world.apns.last.answer(400, b'{"reason":"BadDeviceToken"}')
    await world.settle()
    assert world.states(page) == {"failed": 3}
    assert world.reasons(page) == ["token_dead"] * 3
    assert (page.flags & Flag.TOKEN_DEAD).all()
    assert [bool(world.token(device)) for device in (dead, renewed, silent)] == [False, True, False]
    assert world.metrics.tokens_dead.value(Channel.APNS) == 2
    again = await world.send([dead, renewed])
    assert again.state.tolist() == [State.HELD, State.IN_FLIGHT]


async def test_router_does_not_forget_the_token_that_replaced_the_dead_one(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    await world.send([device])
    world.register(1, Channel.FCM)  # another device; numbers do not matter
    slot = world.devices.find_one(device, 0)
    old = world.token(device)
    new = b"f" * 64
    world.devices.register(0, world.registration([device], Channel.APNS, [new]), world.clock.unix_ms() // 1000)
    world.apns.last.answer(400, b'{"reason":"BadDeviceToken"}')
    await world.settle()
    assert old != new
    assert world.devices.device(slot).token == new


async def test_router_forgets_the_token_of_a_token_target(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    page = await world.send([(Channel.APNS, world.token(device))])
    world.apns.last.answer(400, b'{"reason":"BadDeviceToken"}')
    await world.settle()
    assert world.reasons(page) == ["token_dead"]
    assert world.token(device) == b""


# -- time


async def test_router_ends_rows_by_their_own_ttl(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    devices = world.register(3, Channel.NONE)
    page = await world.send(devices, [content(ttl_s=10), content(ttl_s=100), content(ttl_s=20_000)])
    await world.wait(11)
    assert world.states(page) == {"expired": 1, "held": 2}
    await world.wait(90)
    assert world.states(page) == {"expired": 2, "held": 1}
    await world.wait(20_000)
    assert world.states(page) == {"expired": 3}


async def test_router_leaves_rows_in_flight_to_their_answer_when_the_ttl_passes(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await world.send(world.register(2), content(ttl_s=10))
    await world.wait(20)
    assert world.states(page) == {"in_flight": 2}
    world.apns.last.answer()
    world.apns.last.answer(503)
    await world.wait(2)
    assert world.states(page) == {"vendor_accepted": 1, "expired": 1}
    assert world.reasons(page)[1] == "vendor_unavailable"


async def test_router_sends_a_row_for_now_or_never_once(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    with_token, other = world.register(2)
    (absent,) = world.register(1, Channel.NONE, first=9)
    page = await world.send([with_token, other, absent], content(ttl_s=0))
    assert world.states(page) == {"in_flight": 2, "dropped": 1}
    assert world.reasons(page)[2] == "device_offline"
    world.apns.last.answer()
    world.apns.last.answer(503, headers={b"retry-after": b"600"})
    await world.wait(10)
    assert world.states(page) == {"vendor_accepted": 1, "expired": 1, "dropped": 1}
    assert len(world.apns.requests()) == 2


@given(data=st.data())
def test_router_conserves_rows_whatever_devices_and_vendors_do(data: st.DataObject, request: Any) -> None:
    """A small storm: rows of every strategy, sockets and vendors that do as they like; in the end all rows ended,
    each once, and what receivers saw fits what the pages say."""
    make_world = request.getfixturevalue("make_world")

    async def main() -> None:
        world = make_world(lane_rows_max=8, burst_rows_max=4, slice_rows=5, strategy4_wait_s=5.0)
        world.apns.streams_max = 3
        devices = world.register(6) + world.register(3, Channel.NONE, first=20)
        fds: dict[bytes, int] = {}
        pages = []
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            for _ in range(data.draw(st.integers(3, 12))):
                step = data.draw(st.sampled_from(["send", "send", "link", "unlink", "ack", "lose", "answer", "break"]))
                device = data.draw(st.sampled_from(devices))
                if step == "send":
                    targets = data.draw(st.lists(st.sampled_from(devices), min_size=1, max_size=6))
                    variants = [
                        content(strategy=data.draw(st.integers(1, 4)), ttl_s=data.draw(st.sampled_from([0, 30, 600])))
                        for _ in targets
                    ]
                    pages.append(await world.send(targets, variants))
                elif step == "link" and device not in fds:
                    fds[device] = world.go_online(device, window=data.draw(st.integers(0, 3)))
                elif step == "unlink" and device in fds:
                    world.go_offline(fds.pop(device))
                    world.owner.unacknowledged(world.sockets.tags(device), Unacknowledged.CONNECTION_CLOSED)
                elif step == "ack" and device in fds:
                    world.acknowledge(device, len(world.sockets.tags(device)))
                elif step == "lose" and device in fds:
                    world.owner.unacknowledged(world.sockets.tags(device), Unacknowledged.ACK_TIMEOUT)
                elif step == "answer" and world.apns.connections and world.apns.last.open:
                    status = data.draw(st.sampled_from([200, 200, 400, 410, 429, 503]))
                    world.apns.last.answer(status, b'{"reason":"BadCollapseId"}' if status == 400 else b"{}")
                elif step == "break" and world.apns.connections and world.apns.last.is_up:
                    refused = data.draw(st.integers(0, len(world.apns.last.open)))
                    world.apns.last.close(CloseReason.PEER_RESET, refused=refused)
                await world.wait(data.draw(st.sampled_from([0, 1, 7])))
                for page in pages:
                    world.states(page)
            # the end of the storm: everybody answers, and time passes
            for _ in range(12):
                for connection in world.apns.connections:
                    if connection.is_up and connection.open:
                        connection.answer(n=len(connection.open))
                await world.wait(60)
                for device in fds:
                    world.owner.unacknowledged(world.sockets.tags(device), Unacknowledged.ACK_TIMEOUT)
            assert all(page.n_open == 0 for page in pages), [world.states(page) for page in pages]
            assert world.home.rows_open == 0
            assert world.router.parked_rows == 0
            assert len(world.inbox_store) == 0
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_router_lanes_are_named_by_app_vendor_and_class(make_world: Callable[..., Any]) -> None:
    async def main() -> None:
        world = make_world()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            page = await world.send(world.register(2), [content(), content(class_="marketing")])
            assert world.states(page) == {"in_flight": 2}
            assert [len(page.bursts) for page in [page]] == [2]
            assert world.lane(Channel.APNS, Class.MARKETING).is_idle is False
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("strategy", [1, 2, 4])
async def test_router_sends_what_is_no_notification_over_the_long_link_alone(
    strategy: int, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Whatever the app's default says: a vendor would show it."""
    world = make_world(strategy=strategy)
    await world.start(nursery)
    online, away = world.register(2)
    world.go_online(online)
    page = await world.send(
        [online, away, (Channel.APNS, world.token(away))], Variant("t", "b", action="badge", badge=2)
    )
    assert [State(code).name for code in page.state.tolist()] == ["IN_FLIGHT", "HELD", "DROPPED"]
    assert page.reason[2] == Reason.NO_CHANNEL
    world.owner.unacknowledged(world.sockets.tags(online), Unacknowledged.ACK_TIMEOUT)
    await world.settle()
    assert world.apns.requests() == []
    assert page.state[0] == State.HELD
    world.go_online(away)
    await world.settle()
    ((_, payload),) = world.sockets.sent[away]
    assert payload.keys() == {"message_id", "type", "badge"}


async def test_router_sends_a_transmission_whose_body_is_cut_to_fit(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    world.go_online(device)
    await world.send([device], Variant("", "b" * 60_000, action="transmission", data={"k": 1}))
    ((_, payload),) = world.sockets.sent[device]
    assert payload["type"] == "transmission"
    assert 15_000 < len(payload["body"]) < 16_384
