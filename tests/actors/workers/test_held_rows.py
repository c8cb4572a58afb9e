"""HeldRows: a home that comes back with its journal asks the living what they hold, and sends none of it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gateway.actors.held_rows import HeldRows
from gateway.batch import OwnershipEpoch
from gateway.ledger import Channel, LedgerPage, State
from gateway.store.memory import MemoryJournal
from gateway.store.records import decode_batch, encode_batch


class Homes:
    """Two workers; the journal of the second outlives it, as one on a disk does."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.journal = MemoryJournal()
        self.desks = [self.desk(index) for index in range(len(cluster.workers))]
        for worker in cluster.workers:
            worker.world.home.shadows.awaits_home = lambda _app: True

    def desk(self, index: int) -> HeldRows:
        worker = self.cluster.workers[index]
        return HeldRows(worker.world.home, worker.spread.holders, worker.links)

    async def send(self, targets: list[Any]) -> LedgerPage:
        page: LedgerPage = self.cluster.world(1).open(targets)
        await self.journal.append(OwnershipEpoch(1), [encode_batch(page.batch)])
        self.cluster.world(1).router.route(page)
        await self.cluster.settle()
        return page

    async def come_back(self, devices: list[bytes], *, asks: bool = True) -> list[LedgerPage]:
        """The next life of the home: asks, opens what its journal has, adopts, routes the rest."""
        await self.cluster.revive(1, devices)
        world, desk = self.cluster.world(1), self.desk(1)
        pages = []
        if asks:
            await desk.ask()
        async for _, record in self.journal.replay(0):
            batch = decode_batch(b"".join(record.buffers), born=world.clock.monotonic())
            pages.append(world.home.open(batch, world.clock.monotonic()))
            desk.adopt(pages[-1])
        await desk.adopted()
        for page in pages:
            world.router.route(page)
        await self.cluster.settle()
        return pages

    def sent(self, index: int) -> int:
        return len(self.cluster.world(index).apns.requests())


@pytest.fixture
def make_homes(make_cluster: Callable[..., Any]) -> Callable[..., Any]:
    async def make() -> Homes:
        return Homes(await make_cluster(2))

    return make


def states(page: LedgerPage) -> list[str]:
    return [State(code).name.lower() for code in page.state.tolist()]


async def test_new_home_sends_nothing_again_that_a_living_worker_holds_and_hears_of_its_end(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    homes = await make_homes()
    cluster = homes.cluster
    theirs, mine = cluster.owned_by(0, 4), cluster.owned_by(1, 2)
    (away,) = cluster.owned_by(0, 1, Channel.NONE)
    await homes.send([*theirs, mine[0], away, mine[1]])
    vendor = cluster.world(0).apns.connections[0]
    # One has ended and was reported, one ends while nobody is its home.
    vendor.answer(n=1)
    await cluster.settle()
    await cluster.kill(1)
    vendor.answer(n=1)
    await cluster.settle()
    (page,) = await homes.come_back(mine)
    # What was here alone goes from the journal; what is there does not.
    assert (homes.sent(0), homes.sent(1)) == (4, 2)
    assert states(page) == ["vendor_accepted"] * 2 + ["in_flight"] * 3 + ["held"] + ["in_flight"]
    cluster.answer_all(0)
    cluster.answer_all(1)
    cluster.world(0).go_online(away)
    await cluster.settle()
    cluster.world(0).acknowledge(away)
    await cluster.settle()
    assert states(page) == ["vendor_accepted"] * 5 + ["device_acked", "vendor_accepted"]
    home = cluster.world(1).home
    assert (home.rows_open, home.rows_not_conserved()) == (0, 0)
    assert cluster.workers[1].spread.holders.rows_at(0) == 0
    assert cluster.world(0).home.shadows.rows_for_the_dead == 0


async def test_new_home_that_does_not_ask_sends_such_rows_twice(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    """What the question is for."""
    homes = await make_homes()
    await homes.send(homes.cluster.owned_by(0, 3))
    await homes.cluster.kill(1)
    await homes.come_back([], asks=False)
    assert homes.sent(0) == 6


async def test_holder_that_dies_after_it_was_adopted_from_is_taken_back_from(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    homes = await make_homes()
    cluster = homes.cluster
    devices = cluster.owned_by(0, 3)
    await homes.send(devices)
    await cluster.kill(1)
    (page,) = await homes.come_back([])
    assert states(page) == ["in_flight"] * 3
    await cluster.kill(0)
    # They may have arrived, and their class does not resend.
    assert states(page) == ["uncertain"] * 3
    assert cluster.world(1).home.rows_not_conserved() == 0


async def test_rows_that_the_new_home_does_not_know_are_told_by_their_holder(
    make_homes: Callable[..., Any], autojump_clock: Any
) -> None:
    homes = await make_homes()
    cluster = homes.cluster
    devices = cluster.owned_by(0, 2)
    await homes.send(devices)
    homes.journal = MemoryJournal()
    await cluster.kill(1)
    cluster.world(0).apns.connections[0].answer(n=1)
    await cluster.settle()
    holder = cluster.world(0).home
    assert holder.next_cursor == 0
    assert await homes.come_back([]) == []
    cluster.answer_all(0)
    await cluster.settle()
    changes, _ = holder.changes(0, 10)
    assert np.concatenate([change.rows for change in changes]).tolist() == [0, 1]
    assert (holder.shadows.rows_open, len(holder.shadows)) == (0, 0)
