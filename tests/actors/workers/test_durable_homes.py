"""Rows whose home has a journal on the disk: they leave their holder when the home has their marks durably, wait while
it is down, and go on from its journal when it is back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.held_rows import HeldRows
from gateway.core.options import AppDefaults, compile_options
from gateway.core.recovery import leave_out, recover, resend_table
from gateway.core.shadow import Life
from gateway.core.trail import Trail
from gateway.ledger import Channel, LedgerPage, State
from gateway.marks import RowMarks
from gateway.store.records import decode_batch, encode_batch

HOLDER, HOME = 0, 1
pytestmark = pytest.mark.usefixtures("small_pages_by_rows")


class Homes:
    """Two workers, both with journals; that of the second outlives it: `records` and `marks` are what is durable."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.records: list[bytes] = []
        self.marks: list[RowMarks] = []
        self.desks = [self.desk(index) for index in range(2)]
        for index in range(2):
            self.follow(index)

    def desk(self, index: int) -> HeldRows:
        worker = self.cluster.workers[index]
        return HeldRows(worker.world.home, worker.spread.holders, worker.links)

    def follow(self, index: int) -> None:
        self.cluster.world(index).home.shadows.awaits_home = lambda _app: True

    async def send(self, targets: list[Any], **columns: Any) -> LedgerPage:
        page: LedgerPage = await self.cluster.send(HOME, targets, **columns)
        self.records.append(b"".join(encode_batch(page.batch).buffers))
        return page

    async def write(self) -> list[RowMarks]:
        """The next record of the home is durable, and batches that have ended are gone."""
        trail = self.cluster.world(HOME).trail
        found: list[RowMarks] = await self.cluster.world(HOME).write_marks()
        self.marks += found
        for ring in trail.released(trail.take_final(100)):
            ring()
        await self.cluster.settle()
        return found

    def sent(self, index: int = HOLDER) -> int:
        return len(self.cluster.world(index).apns.requests())

    async def come_back(self, devices: list[bytes]) -> list[LedgerPage]:
        await self.cluster.revive(HOME, devices)
        self.follow(HOME)
        world, desk = self.cluster.world(HOME), self.desk(HOME)
        await desk.ask([self.cluster.workers[HOLDER].life])
        pages = []
        for record in self.records:
            batch = decode_batch(record, born=world.clock.monotonic())
            page = world.home.open(batch, world.clock.monotonic())
            world.trail.follow(page, 1)
            marks = [mark for mark in self.marks if mark.sequence == batch.address.sequence]
            elsewhere = leave_out(world.home, page, marks, desk.held(page))
            options = compile_options(batch, AppDefaults(1, frozenset()))
            table = resend_table(system=False, marketing=False)
            recover(world.home, page, marks, options, table, world.clock.monotonic(), elsewhere)
            desk.adopt(page)
            pages.append(page)
        await desk.adopted()
        for page in pages:
            world.router.route(page)
        await self.cluster.settle()
        return pages


@pytest.fixture
def make_homes(cluster_type: Any, make_world: Callable[..., Any], nursery: trio.Nursery) -> Callable[..., Any]:
    async def make(issued_rows_max: int = 64) -> Homes:
        def make_durable(**fields: Any) -> Any:
            return make_world(**fields, trail=Trail(issued_rows_max=issued_rows_max))

        cluster = cluster_type(nursery, make_durable, 2)
        await cluster.start()
        return Homes(cluster)

    return make


def states(page: LedgerPage) -> list[str]:
    return [State(code).name.lower() for code in page.state.tolist()]


async def test_rows_of_a_vendor_leave_when_their_home_has_written_them_down(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    homes = await make_homes()
    page = await homes.send(homes.cluster.owned_by(HOLDER, 3))
    assert homes.sent() == 0
    (mark,) = await homes.write()
    assert (mark.rows.tolist(), set(mark.states.tolist())) == ([0, 1, 2], {State.IN_FLIGHT})
    assert set(mark.channels.tolist()) == {Channel.APNS}
    assert homes.sent() == 3
    homes.cluster.answer_all(HOLDER)
    await homes.cluster.settle()
    assert states(page) == ["vendor_accepted"] * 3
    # Its window has room again when that is durable, too.
    assert homes.cluster.world(HOME).trail.issued_rows() == 3
    await homes.write()
    assert homes.cluster.world(HOME).trail.issued_rows() == 0


async def test_rows_for_a_phone_leave_when_their_home_has_written_them_down(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    homes = await make_homes()
    cluster = homes.cluster
    (phone,) = cluster.owned_by(HOLDER, 1, Channel.NONE)
    cluster.world(HOLDER).go_online(phone)
    page = await homes.send([phone])
    sockets = cluster.world(HOLDER).sockets
    assert not sockets.sent
    (mark,) = await homes.write()
    assert mark.channels.tolist() == [Channel.LONG_LINK]
    assert len(sockets.sent[phone]) == 1
    cluster.world(HOLDER).acknowledge(phone)
    await cluster.settle()
    assert states(page) == ["device_acked"]


async def test_a_window_bounds_the_rows_of_all_holders_and_room_is_given_in_turn(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    homes = await make_homes(issued_rows_max=4)
    cluster = homes.cluster
    pages = [await homes.send(cluster.owned_by(HOLDER, 3)) for _ in range(3)]
    seen = []
    for _ in range(12):
        await homes.write()
        assert cluster.world(HOME).trail.issued_rows() <= 4
        seen.append(homes.sent())
        cluster.answer_all(HOLDER)
        await cluster.settle()
    assert homes.sent() == 9
    assert seen[0] == 3, "the second has a part of the room, and leaves with the rest"
    assert all(states(page) == ["vendor_accepted"] * 3 for page in pages)


async def test_rows_wait_while_their_home_is_down_and_go_once_when_it_is_back(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    homes = await make_homes()
    cluster = homes.cluster
    marked, unmarked = cluster.owned_by(HOLDER, 2), cluster.owned_by(HOLDER, 2)
    await homes.send(marked)
    await homes.write()
    await homes.send(unmarked)
    assert homes.sent() == 2
    await cluster.kill(HOME)
    # Others have their way meanwhile.
    own = await cluster.send(HOLDER, cluster.owned_by(HOLDER, 2))
    await cluster.world(HOLDER).write_marks()
    await cluster.settle()
    assert homes.sent() == 4
    cluster.answer_all(HOLDER)
    await cluster.settle()
    assert states(own) == ["vendor_accepted"] * 2
    first, second = await homes.come_back([])
    assert states(first) == ["vendor_accepted"] * 2
    assert homes.sent() == 4
    await homes.write()
    assert homes.sent() == 6
    cluster.answer_all(HOLDER)
    await cluster.settle()
    assert states(second) == ["vendor_accepted"] * 2
    assert homes.sent() == 6
    assert cluster.world(HOME).home.rows_not_conserved() == 0


async def test_after_the_death_of_both_the_journal_knows_which_rows_may_have_left(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    homes = await make_homes()
    cluster = homes.cluster
    await homes.send(cluster.owned_by(HOLDER, 2))
    await homes.write()
    waits = cluster.owned_by(HOLDER, 2)
    await homes.send(waits)
    await cluster.kill(HOME)
    await cluster.kill(HOLDER)
    await cluster.revive(HOLDER, waits)
    homes.follow(HOLDER)
    homes.desks[HOLDER] = homes.desk(HOLDER)
    left, stayed = await homes.come_back([])
    assert states(left) == ["uncertain"] * 2
    assert homes.sent() == 0
    assert states(stayed) == ["queued"] * 2
    await homes.write()
    assert homes.sent() == 2
    assert states(stayed) == ["in_flight"] * 2


async def test_a_holder_that_dies_after_its_rows_were_adopted_leaves_those_uncertain_that_are_marked(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    homes = await make_homes()
    cluster = homes.cluster
    await homes.send(cluster.owned_by(HOLDER, 2))
    await homes.write()
    waits = cluster.owned_by(HOLDER, 2)
    await homes.send(waits)
    await cluster.kill(HOME)
    left, stayed = await homes.come_back([])
    assert cluster.world(HOME).trail.issued_rows() >= 2
    await cluster.kill(HOLDER)
    assert states(left) == ["uncertain"] * 2
    assert states(stayed) == ["queued"] * 2
    assert cluster.world(HOME).home.rows_not_conserved() == 0


async def test_a_stopped_burst_does_not_keep_the_rest_of_it_back(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    """A row ended while its burst waited for the answer: the others leave."""
    homes = await make_homes()
    cluster = homes.cluster
    page = await homes.send(cluster.owned_by(HOLDER, 3))
    holder = cluster.world(HOLDER).home
    (shadow,) = holder.shadows
    holder.move(shadow, np.array([1]), State.CANCELLED, None, cluster.world(HOLDER).clock.monotonic())
    await cluster.settle()
    for _ in range(3):
        await homes.write()
    assert homes.sent() == 2
    cluster.answer_all(HOLDER)
    await cluster.settle()
    assert states(page) == ["vendor_accepted", "cancelled", "vendor_accepted"]


async def test_a_home_does_not_wait_for_a_worker_that_died_before_it_could_be_told(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    homes = await make_homes()
    links = homes.cluster.workers[HOME].links
    with trio.fail_after(1):
        await links.wait_linked([homes.cluster.workers[HOLDER].life, Life(HOLDER, 99)])
