"""InboxActor: what waits for a device is kept, is handed out in order when it returns, and is never lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from gateway.actors.long_link_port import Unacknowledged
from gateway.batch import OwnershipEpoch
from gateway.content import Variant
from gateway.ledger import Channel, Flag, Reason, State
from gateway.store.memory import MemoryInbox
from gateway.store.ports import InboxRows


class InboxTwin(MemoryInbox):
    """The in-memory store with a gate before each call, and faults. calls: names of the calls that were made."""

    def __init__(self, *, rows_per_device_max: int = 100, rows_max: int = 10_000) -> None:
        super().__init__(rows_per_device_max=rows_per_device_max, rows_max=rows_max)
        self.gate = trio.Event()
        self.gate.set()
        self.gated = {"put", "peek", "forget"}
        self.calls: list[str] = []
        self.fails_at: dict[str, int] = {}

    async def _enter(self, name: str) -> None:
        self.calls.append(name)
        if name in self.gated:
            await self.gate.wait()
        self._fail(f"before {name}")

    def _fail(self, where: str) -> None:
        if self.fails_at.get(where, 0) > 0:
            self.fails_at[where] -= 1
            raise OSError(f"the disk is gone {where}")

    async def put(self, *args: Any) -> Any:
        await self._enter("put")
        kept = await super().put(*args)
        self._fail("after put")
        return kept

    async def peek(self, *args: Any) -> Any:
        await self._enter("peek")
        found = await super().peek(*args)
        self._fail("after peek")
        return found

    async def forget(self, *args: Any) -> Any:
        await self._enter("forget")
        gone = await super().forget(*args)
        self._fail("after forget")
        return gone


def numbered(n: int, *, first: int = 0, **fields: Any) -> list[Variant]:
    return [Variant(f"row {number}", "body", **fields) for number in range(first, first + n)]


def titles(n: int, first: int = 0) -> list[str]:
    return [f"row {number}" for number in range(first, first + n)]


async def test_inbox_keeps_rows_of_an_absent_device_and_gives_them_when_it_returns(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    page = await world.send([device] * 3, numbered(3))
    assert world.states(page) == {"held": 3}
    assert world.reasons(page) == ["device_offline"] * 3
    assert (page.flags & Flag.WAITED_OFFLINE).all()
    assert len(world.inbox_store) == 3
    world.go_online(device)
    await world.settle()
    assert world.sockets.titles(device) == titles(3)
    assert world.states(page) == {"in_flight": 3}
    world.acknowledge(device, 3)
    await world.settle()
    assert world.states(page) == {"device_acked": 3}
    assert len(world.inbox_store) == 0


async def test_inbox_gives_rows_of_several_batches_in_the_order_of_their_arrival(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    for first in range(0, 20, 4):
        await world.send([device] * 4, numbered(4, first=first))
    world.go_online(device, window=100)
    await world.settle()
    assert world.sockets.titles(device) == titles(20)


@pytest.mark.parametrize("batches", [1, 7])
async def test_inbox_gives_more_than_a_window_in_turns_and_in_order(
    batches: int, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Seventy rows wait, the device takes ten at a time: each acknowledgement lets the next ones through."""
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    per_batch = 70 // batches
    pages = [
        await world.send([device] * per_batch, numbered(per_batch, first=per_batch * number))
        for number in range(batches)
    ]
    world.go_online(device, window=10)
    await world.wait(1)
    assert world.sockets.titles(device) == titles(10)
    for first in range(0, 70, 5):
        world.acknowledge(device, 5, first=first)
        await world.wait(1)
    assert world.sockets.titles(device) == titles(70)
    assert [world.states(page) for page in pages] == [{"device_acked": per_batch}] * batches
    assert len(world.inbox_store) == 0


async def test_inbox_rests_while_a_device_takes_nothing(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """A full window is no reason to ask the store again and again: the acknowledgement wakes it."""
    store = InboxTwin()
    world = make_world(inbox_store=store)
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    page = await world.send([device] * 5, numbered(5))
    world.go_online(device, window=2)
    await world.settle()
    calls = len(store.calls)
    await world.wait(10)
    assert len(store.calls) - calls <= 2
    assert world.sockets.calls < 10
    assert world.states(page) == {"held": 3, "in_flight": 2}
    assert world.sockets.titles(device) == titles(2)


async def test_inbox_gives_what_a_full_window_sent_to_it_when_the_window_opens(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """The device never was away: rows that its window had no room for wait here for its acknowledgements."""
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    world.go_online(device, window=4)
    page = await world.send([device] * 10, numbered(10, strategy=3))
    assert world.states(page) == {"in_flight": 4, "held": 6}
    world.acknowledge(device, 4)
    await world.wait(1)
    world.acknowledge(device, 4, first=4)
    await world.wait(1)
    assert world.sockets.titles(device) == titles(10)
    assert world.states(page) == {"device_acked": 8, "in_flight": 2}


async def test_inbox_loses_nothing_when_a_device_takes_only_some_of_several_batches(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """One take from the store may hold rows of many pages; those behind the first refusal wait, they do not vanish."""
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    pages = [await world.send([device], numbered(1, first=number)) for number in range(4)]
    fd = world.go_online(device, window=1)
    await world.wait(1)
    assert world.sockets.titles(device) == ["row 0"]
    world.acknowledge(device, 1)
    world.sockets.windows[device] = 0
    await world.wait(1)
    world.go_offline(fd)
    await world.wait(1)
    world.go_online(device, window=10)
    await world.wait(1)
    assert world.sockets.titles(device) == titles(4)
    world.acknowledge(device, 3, first=1)
    await world.wait(1)
    assert [world.states(page) for page in pages] == [{"device_acked": 1}] * 4


async def test_inbox_looks_again_after_the_write_for_a_device_that_returned_meanwhile(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """The device comes back after the decision to keep its row and before the row is in the store."""
    store = InboxTwin()
    world = make_world(inbox_store=store)
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    store.gate = trio.Event()
    page = await world.send([device], numbered(1))
    assert store.calls == ["put"]
    assert world.states(page) == {"held": 1}
    world.go_online(device)
    await world.settle()
    assert world.sockets.titles(device) == []
    store.gate.set()
    await world.settle()
    assert world.sockets.titles(device) == ["row 0"]
    assert world.states(page) == {"in_flight": 1}


async def test_inbox_keeps_rows_of_a_device_that_leaves_again_before_it_gets_them(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    store = InboxTwin()
    world = make_world(inbox_store=store)
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    page = await world.send([device] * 2, numbered(2))
    store.gate = trio.Event()
    fd = world.go_online(device)
    await world.settle()
    world.go_offline(fd)
    store.gate.set()
    await world.settle()
    assert world.states(page) == {"held": 2}
    assert world.sockets.titles(device) == []
    world.go_online(device)
    await world.settle()
    assert world.sockets.titles(device) == titles(2)


async def test_a_device_that_returns_does_not_wait_for_what_is_written_for_others(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """One look, and its row is at its socket, while a slow disk takes rows of others and more of them wait."""
    store = InboxTwin()
    world = make_world(inbox_store=store)
    await world.start(nursery)
    back, away = world.register(2, Channel.NONE)
    await world.send([back], numbered(1))
    store.gate, store.gated = trio.Event(), {"put"}
    pages = [await world.send([away] * 2, numbered(2, first=first)) for first in (1, 3)]
    store.calls.clear()
    world.go_online(back)
    await world.settle()
    assert world.sockets.titles(back) == titles(1)
    assert store.calls == ["peek", "forget"]
    assert len(store) == 0
    store.gate.set()
    await world.settle()
    assert [world.states(page) for page in pages] == [{"held": 2}] * 2
    assert len(store) == 4


async def test_a_device_is_not_drained_while_rows_of_it_are_written(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    store = InboxTwin()
    world = make_world(inbox_store=store)
    await world.start(nursery)
    device, other = world.register(2, Channel.NONE)
    await world.send([device] * 2, numbered(2))
    store.gate, store.gated = trio.Event(), {"put"}
    await world.send([other, device], numbered(2, first=2))
    store.calls.clear()
    world.go_online(device)
    await world.settle()
    assert (world.sockets.titles(device), store.calls) == ([], [])
    store.gate.set()
    await world.settle()
    assert world.sockets.titles(device) == [*titles(2), "row 3"]


async def test_rows_of_a_device_are_not_written_while_it_is_drained(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """A row that comes back to be kept stays, although its drain has yet to take it out of the store."""
    store = InboxTwin()
    world = make_world(inbox_store=store)
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    page = await world.send([device] * 2, numbered(2))
    store.gate, store.gated = trio.Event(), {"forget"}
    fd = world.go_online(device)
    await world.settle()
    assert world.sockets.titles(device) == titles(2)
    store.calls.clear()
    tags = world.sockets.tags(device)
    world.go_offline(fd)
    world.owner.unacknowledged(tags, Unacknowledged.CONNECTION_CLOSED)
    await world.settle()
    assert store.calls == []
    store.gate.set()
    await world.settle()
    assert store.calls == ["put"]
    assert world.states(page) == {"held": 2}
    assert len(store) == 2


async def test_inbox_without_room_drops_the_row_and_says_why(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(inbox_store=InboxTwin(rows_per_device_max=3))
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    page = await world.send([device] * 5, numbered(5))
    assert world.states(page) == {"held": 3, "dropped": 2}
    assert world.reasons(page)[3:] == ["inbox_full"] * 2
    world.go_online(device)
    await world.settle()
    assert world.sockets.titles(device) == titles(3)


async def test_inbox_never_drops_a_row_that_it_has_kept_for_want_of_room(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Rows that the returning device did not take go back; newer ones that came meanwhile do not push them out."""
    store = InboxTwin(rows_per_device_max=4)
    world = make_world(inbox_store=store)
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    old = await world.send([device] * 4, numbered(4, strategy=3))
    fd = world.go_online(device, window=1)
    await world.wait(1)
    world.go_offline(fd)
    world.owner.unacknowledged(world.sockets.tags(device), Unacknowledged.REFUSED)
    newer = await world.send([device] * 4, numbered(4, first=4, strategy=3))
    await world.wait(1)
    assert world.states(old) == {"held": 4}
    assert world.states(newer) == {"dropped": 4}


async def test_inbox_forgets_rows_that_expired(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    page = await world.send([device] * 3, numbered(2, ttl_s=60) + numbered(1, first=2, ttl_s=6000))
    await world.wait(70)
    assert world.states(page) == {"expired": 2, "held": 1}
    assert world.reasons(page)[:2] == ["device_offline"] * 2
    assert len(world.inbox_store) == 1
    world.go_online(device)
    await world.settle()
    assert world.sockets.titles(device) == ["row 2"]


async def test_inbox_forgets_what_it_was_told_while_it_was_forgetting(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    store = InboxTwin()
    world = make_world(inbox_store=store)
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    page = await world.send([device] * 2, numbered(2))
    tags = np.array(sorted(store._rows), np.int64)
    store.gate = trio.Event()
    world.inbox.forget(tags[:1])
    await world.settle()
    world.inbox.forget(tags[1:])
    store.gate.set()
    await world.settle()
    assert len(store) == 0
    assert world.states(page) == {"held": 2}


async def test_inbox_does_not_send_a_held_row_that_ended_meanwhile(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    store = InboxTwin()
    world = make_world(inbox_store=store)
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    page = await world.send([device] * 2, numbered(2))
    store.gate = trio.Event()
    world.go_online(device)
    await world.settle()
    world.home.move(page, np.array([0]), State.CANCELLED, Reason.NONE, trio.current_time())
    store.gate.set()
    await world.settle()
    assert world.sockets.titles(device) == ["row 1"]
    assert world.states(page) == {"cancelled": 1, "in_flight": 1}


async def test_inbox_asks_nothing_for_a_device_without_stored_rows(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    store = InboxTwin()
    world = make_world(inbox_store=store)
    await world.start(nursery)
    for device in world.register(10, Channel.NONE):
        world.go_online(device)
    await world.settle()
    assert store.calls == []


@pytest.mark.parametrize(
    "where", ["before put", "after put", "before peek", "after peek", "before forget", "after forget"]
)
async def test_inbox_that_crashed_goes_on_with_what_it_had(
    where: str, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """The store fails once; the restarted actor brings every row to the device that is back, once each, in order."""
    store = InboxTwin()
    world = make_world(inbox_store=store)
    (device,) = world.register(1, Channel.NONE)
    nursery.start_soon(world.router.run)
    store.fails_at[where] = 1
    page = world.open([device] * 3, numbered(3))
    world.router.route(page)
    for step in ("keep", "return"):
        if step == "return":
            world.go_online(device)
        with (
            pytest.RaisesGroup(pytest.RaisesExc(OSError, match=where), allow_unwrapped=True, flatten_subgroups=True)
            if where.endswith("put") is (step == "keep")
            else trio.move_on_after(1)
        ):
            await world.inbox.run()
    with trio.move_on_after(1):
        await world.inbox.run()
    assert world.sockets.titles(device) == titles(3)
    assert world.states(page) == {"in_flight": 3}


@pytest.mark.parametrize("call", ["put", "peek", "forget"])
async def test_inbox_cancelled_in_a_store_call_goes_on_in_its_next_run(
    call: str, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    store = InboxTwin()
    world = make_world(inbox_store=store)
    (device,) = world.register(1, Channel.NONE)
    nursery.start_soon(world.router.run)
    store.gate, store.gated = trio.Event(), {call}
    page = world.open([device] * 3, numbered(3))
    world.router.route(page)
    await world.settle()
    for _ in range(2):
        with trio.move_on_after(1):
            await world.inbox.run()
        if call != "put":
            world.go_online(device)
    assert store.calls[-1] == call
    store.gate.set()
    with trio.move_on_after(1):
        await world.inbox.run()
    if call == "put":
        world.go_online(device)
        with trio.move_on_after(1):
            await world.inbox.run()
    assert world.sockets.titles(device) == titles(3)
    assert world.states(page) == {"in_flight": 3}


async def test_a_newer_row_of_a_collapse_id_ends_the_one_that_waits(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    first = await world.send([device] * 2, [Variant("old", "b", collapse_id="score"), Variant("other", "b")])
    await trio.sleep(1)
    second = await world.send([device], [Variant("new", "b", collapse_id="score")])
    assert world.states(first) == {"dropped": 1, "held": 1}
    assert world.reasons(first)[0] == "collapsed"
    world.go_online(device)
    await world.settle()
    assert world.sockets.titles(device) == ["other", "new"]
    assert world.states(second) == {"in_flight": 1}


class _SlowForget(InboxTwin):
    """What it does while rows that were taken are removed from it."""

    on_forget: Callable[[], None] = staticmethod(lambda: None)

    async def forget(self, *args: Any) -> Any:
        on_forget, self.on_forget = self.on_forget, lambda: None
        on_forget()
        return await super().forget(*args)


async def test_window_that_opens_while_what_it_took_leaves_the_store_is_not_missed(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """All of a full window's acknowledgements come in one read; no other would ever wake the rest."""
    store = _SlowForget()
    world = make_world(inbox_store=store)
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    page = await world.send([device] * 5, numbered(5))
    store.on_forget = lambda: world.acknowledge(device, 2)
    world.go_online(device, window=2)
    await world.wait(10)
    assert world.states(page) == {"device_acked": 2, "in_flight": 2, "held": 1}


async def test_a_sweep_removes_what_is_over_and_has_no_page_and_nothing_else(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    nursery.start_soon(world.inbox.sweep)
    (device,) = world.register(1, Channel.NONE)
    page = await world.send([device], numbered(1, ttl_s=86_400))
    now = world.clock.unix_ms()
    ids = np.frombuffer(device * 2, np.uint8).reshape(2, 16)
    left_behind = InboxRows(ids, np.array([77 << 16, 78 << 16]), np.array([now - 1, now + 10_000_000]))
    await world.inbox_store.put(OwnershipEpoch(1), left_behind)
    assert len(world.inbox_store) == 3
    await trio.sleep(700)
    assert (len(world.inbox_store), world.inbox.swept) == (2, 1)
    assert world.states(page) == {"held": 1}


async def test_a_row_that_was_not_acknowledged_is_offered_again_while_its_device_stays(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    silent, deaf = world.register(2, Channel.NONE)
    for device in (silent, deaf):
        world.go_online(device)
    page = await world.send([silent, deaf], numbered(2))
    world.owner.unacknowledged(world.sockets.tags(silent), Unacknowledged.ACK_TIMEOUT)
    world.owner.unacknowledged(world.sockets.tags(deaf), Unacknowledged.QOS_0)
    await world.wait(59)
    assert world.states(page) == {"held": 2}
    await world.wait(2)
    assert world.sockets.titles(silent) == titles(1) * 2
    world.acknowledge(silent, 1, first=1)
    await world.wait(600)
    # Whether that one came nobody would ever say: it waits for the next session.
    assert world.states(page) == {"held": 1, "device_acked": 1}
    assert page.flags[0] & Flag.HANDED_OVER
    assert world.sockets.titles(deaf) == titles(1, first=1)


async def test_a_window_that_opens_without_an_acknowledgement_is_found_open(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    await world.send([device] * 2, numbered(2))
    fd = world.go_online(device, window=0)
    await world.wait(1)
    world.sockets.windows[device] = 32
    await world.wait(60)
    assert world.sockets.titles(device) == titles(2)
    world.go_offline(fd)
    await world.wait(200)
    assert not world.inbox.has_full_windows


async def test_tags_of_a_number_that_was_given_again_lead_to_nobody_elses_row(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    lost, known = world.register(2, Channel.NONE)
    page = await world.send([known], numbered(1))
    first = page.batch.address.sequence << 16
    ids = np.frombuffer(lost * 2, np.uint8).reshape(2, 16)
    await world.inbox_store.forget(OwnershipEpoch(1), np.array([first]))
    await world.inbox_store.put(OwnershipEpoch(1), InboxRows(ids, np.array([first, first + 9]), np.full(2, 1 << 60)))
    world.go_online(lost)
    await world.wait(1)
    assert world.sockets.titles(lost) == []
    assert len(world.inbox_store) == 0
    assert world.states(page) == {"held": 1}
