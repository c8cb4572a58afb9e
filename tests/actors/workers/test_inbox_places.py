"""InboxPlaces: rows wait in their owner's inbox and in their home's page; whoever is killed, none has two holders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.inbox_places import InboxPlaces
from gateway.content import Variant
from gateway.core.addresses import number_of
from gateway.core.home import row_tags
from gateway.ledger import Channel, LedgerPage, Reason, State
from gateway.store.memory import MemoryInbox
from gateway.store.ports import InboxQuery

HOME, OWNER = 0, 1


class Site:
    """Two workers; the inbox of each outlives it, as one on a disk does."""

    def __init__(self, cluster: Any, nursery: trio.Nursery) -> None:
        self.cluster = cluster
        self._nursery = nursery
        self.stores = [MemoryInbox(rows_per_device_max=100, rows_max=10_000) for _ in cluster.workers]
        self.places: list[InboxPlaces] = []
        self._scopes: list[trio.CancelScope] = []
        for index in range(len(cluster.workers)):
            self._join(index)

    def _join(self, index: int) -> None:
        worker = self.cluster.workers[index]
        world = worker.world
        world.inbox._store = self.stores[index]
        places = InboxPlaces(
            home=world.home,
            clock=world.clock,
            store=self.stores[index],
            ownership=self.cluster.ownership,
            me=index,
            node=0,
            links=worker.links,
            spread=worker.spread,
            pages=world.inbox,
            forget=world.inbox.forget_stored,
            on_arrived=worker.stops.arrived,
        )
        world.inbox.places = places
        scope = trio.CancelScope()
        self.places[index:] = [places, *self.places[index + 1 :]]
        self._scopes[index:] = [scope, *self._scopes[index + 1 :]]
        self._nursery.start_soon(self._run, places, scope)

    @staticmethod
    async def _run(places: InboxPlaces, scope: trio.CancelScope) -> None:
        with scope:
            await places.run()

    async def kill(self, index: int) -> None:
        self._scopes[index].cancel()
        await self.cluster.kill(index)

    async def revive(self, index: int, devices: list[bytes]) -> None:
        twin = self.cluster.workers[index] = self.cluster._make(index)
        for device in devices:
            twin.world.register(1, Channel(device[0]), first=int.from_bytes(device[7:], "big"))
        # Before others hear of it and send what they have for it.
        self._join(index)
        await self.cluster._up(twin)

    async def tags(self, index: int) -> list[int]:
        found: list[int] = (await self.stores[index].find(InboxQuery(), 1000)).tags.tolist()
        return found

    def shadows_open(self, index: int) -> int:
        rows: int = self.cluster.world(index).home.shadows.rows_open
        return rows


@pytest.fixture
async def site(make_cluster: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any) -> Site:
    cluster = await make_cluster()
    made = Site(cluster, nursery)
    await cluster.settle()
    return made


def numbered(n: int, **fields: Any) -> list[Variant]:
    return [Variant(f"row {number}", "body", **fields) for number in range(n)]


async def test_a_stored_row_is_its_homes_again_and_goes_to_its_device_when_it_returns(site: Site) -> None:
    cluster = site.cluster
    (device,) = cluster.owned_by(OWNER, 1, Channel.NONE)
    page: LedgerPage = await cluster.send(HOME, [device] * 3, numbered(3))
    assert cluster.world(HOME).states(page) == {"held": 3}
    assert page.rests
    assert site.shadows_open(OWNER) == 0
    assert await site.tags(OWNER) == row_tags(number_of(page.batch.address), np.arange(3)).tolist()
    assert await site.tags(HOME) == []
    owner = cluster.world(OWNER)
    owner.go_online(device)
    await cluster.settle()
    assert owner.sockets.titles(device) == [f"row {number}" for number in range(3)]
    assert cluster.world(HOME).states(page) == {"in_flight": 3}
    assert not page.rests
    assert await site.tags(OWNER) == []
    owner.acknowledge(device, 3)
    await cluster.settle()
    assert cluster.world(HOME).states(page) == {"device_acked": 3}
    assert site.shadows_open(OWNER) == 0


async def test_what_a_window_has_no_room_for_goes_back_and_comes_when_it_has(site: Site) -> None:
    cluster = site.cluster
    (device,) = cluster.owned_by(OWNER, 1, Channel.NONE)
    page = await cluster.send(HOME, [device] * 7, numbered(7))
    owner = cluster.world(OWNER)
    owner.go_online(device, window=2)
    for delivered in (2, 4, 6, 7):
        await cluster.settle()
        assert len(owner.sockets.titles(device)) == delivered
        assert len(await site.tags(OWNER)) == 7 - delivered
        first = delivered - 2 if delivered < 7 else 6
        owner.acknowledge(device, delivered - first, first=first)
    await cluster.settle()
    assert owner.sockets.titles(device) == [f"row {number}" for number in range(7)]
    assert cluster.world(HOME).states(page) == {"device_acked": 7}


async def test_rows_that_end_at_their_home_leave_the_inbox_of_their_owner(site: Site) -> None:
    cluster = site.cluster
    devices = cluster.owned_by(OWNER, 2, Channel.NONE) + cluster.owned_by(HOME, 1, Channel.NONE)
    short = await cluster.send(HOME, devices, Variant("short", "body", ttl_s=30))
    long_ = await cluster.send(HOME, devices, Variant("long", "body", ttl_s=3000))
    assert (len(await site.tags(OWNER)), len(await site.tags(HOME))) == (4, 2)
    await cluster.world(HOME).wait(40)
    await cluster.settle()
    assert cluster.world(HOME).states(short) == {"expired": 3}
    assert (len(await site.tags(OWNER)), len(await site.tags(HOME))) == (2, 1)
    cluster.world(HOME).control.stop_rows(long_, np.arange(3))
    await cluster.settle()
    assert cluster.world(HOME).states(long_) == {"cancelled": 3}
    assert await site.tags(OWNER) == await site.tags(HOME) == []


async def test_rows_that_their_owner_ends_end_at_their_home(site: Site) -> None:
    cluster = site.cluster
    (device,) = cluster.owned_by(OWNER, 1, Channel.NONE)
    pages = [
        await cluster.send(home, [device], Variant(f"of {home}", "body", collapse_id="same"))
        for home in (HOME, OWNER, HOME)
    ]
    await cluster.world(HOME).wait(1)
    states = [cluster.world(home).states(page) for home, page in zip((HOME, OWNER, HOME), pages, strict=True)]
    assert states == [{"dropped": 1}, {"dropped": 1}, {"held": 1}]
    assert cluster.world(HOME).reasons(pages[0]) == ["collapsed"]
    await site.places[OWNER].end(number_of(pages[2].batch.address), np.arange(1), State.CANCELLED, Reason.STOPPED)
    await cluster.settle()
    assert cluster.world(HOME).states(pages[2]) == {"cancelled": 1}


async def test_rows_wait_through_the_death_of_their_owner(site: Site) -> None:
    cluster = site.cluster
    (device,) = cluster.owned_by(OWNER, 1, Channel.NONE)
    page = await cluster.send(HOME, [device] * 2, numbered(2))
    await site.kill(OWNER)
    assert cluster.world(HOME).states(page) == {"held": 2}
    # What ends meanwhile is told when it is back.
    cluster.world(HOME).control.stop_rows(page, np.arange(1))
    await site.revive(OWNER, [device])
    await cluster.world(HOME).wait(1)
    assert len(await site.tags(OWNER)) == 1
    owner = cluster.world(OWNER)
    owner.go_online(device)
    await owner.wait(2)
    assert owner.sockets.titles(device) == ["row 1"]
    owner.acknowledge(device, 1)
    await cluster.settle()
    assert cluster.world(HOME).states(page) == {"cancelled": 1, "device_acked": 1}


async def test_a_row_that_was_recalled_is_put_again_when_its_owner_dies_with_it(site: Site) -> None:
    cluster = site.cluster
    (device,) = cluster.owned_by(OWNER, 1, Channel.NONE)
    page = await cluster.send(HOME, [device], Variant("title", "body"))
    cluster.world(OWNER).go_online(device)
    await cluster.settle()
    assert await site.tags(OWNER) == []
    await site.kill(OWNER)
    await site.revive(OWNER, [device])
    await cluster.world(HOME).wait(1)
    assert cluster.world(HOME).states(page) == {"held": 1}
    assert len(await site.tags(OWNER)) == 1


async def test_rows_whose_home_died_with_their_page_are_forgotten_and_those_not_given_back_are_delivered(
    site: Site,
) -> None:
    """In memory alone, as here, a page ends with its home; from an archive it would come back."""
    cluster = site.cluster
    (device,) = cluster.owned_by(OWNER, 1, Channel.NONE)
    await cluster.send(HOME, [device], Variant("given back", "body"))
    await site.kill(HOME)
    await site.revive(HOME, [])
    owner = cluster.world(OWNER)
    owner.go_online(device)
    await owner.wait(2)
    assert owner.sockets.titles(device) == []
    assert await site.tags(OWNER) == []


async def test_a_number_that_was_given_again_does_not_lead_to_somebody_elses_row(site: Site) -> None:
    """A home that lost its pages begins with numbers that stand in inboxes still."""
    cluster = site.cluster
    lost, known = cluster.owned_by(OWNER, 2, Channel.NONE)
    before = await cluster.send(HOME, [lost], Variant("lost", "body"))
    await site.kill(HOME)
    await site.revive(HOME, [])
    page = await cluster.send(HOME, [known], Variant("of another", "body"))
    assert number_of(page.batch.address) == number_of(before.batch.address)
    owner = cluster.world(OWNER)
    owner.go_online(lost)
    await owner.wait(2)
    assert owner.sockets.titles(lost) == []
    assert cluster.world(HOME).states(page) == {"held": 1}
    owner.go_online(known)
    await owner.wait(2)
    assert owner.sockets.titles(known) == ["of another"]
