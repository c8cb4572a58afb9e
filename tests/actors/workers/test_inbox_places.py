"""InboxPlaces: rows wait in their owner's inbox and in their home's page; whoever is killed, none has two holders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.long_link_port import Unacknowledged
from gateway.content import Variant
from gateway.core.addresses import number_of
from gateway.core.home import row_tags
from gateway.core.shadow import Life
from gateway.core.slices import cut_batch
from gateway.ledger import Channel, LedgerPage, Reason, Receipt, State
from gateway.store.ports import InboxQuery

HOME, OWNER = 0, 1
pytestmark = pytest.mark.usefixtures("small_pages_by_rows")


@pytest.fixture
async def site(make_site: Callable[..., Any], autojump_clock: Any) -> Any:
    return await make_site()


def numbered(n: int, **fields: Any) -> list[Variant]:
    return [Variant(f"row {number}", "body", **fields) for number in range(n)]


async def test_a_stored_row_is_its_homes_again_and_goes_to_its_device_when_it_returns(
    site: Any, autojump_clock: Any
) -> None:
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


async def test_what_a_window_has_no_room_for_goes_back_and_comes_when_it_has(site: Any, autojump_clock: Any) -> None:
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


async def test_rows_that_end_at_their_home_leave_the_inbox_of_their_owner(site: Any, autojump_clock: Any) -> None:
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


async def test_rows_that_their_owner_ends_end_at_their_home(site: Any, autojump_clock: Any) -> None:
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


async def test_rows_wait_through_the_death_of_their_owner(site: Any, autojump_clock: Any) -> None:
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


async def test_a_row_that_was_recalled_is_put_again_when_its_owner_dies_with_it(site: Any, autojump_clock: Any) -> None:
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
    site: Any, autojump_clock: Any
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


async def test_a_number_that_was_given_again_does_not_lead_to_somebody_elses_row(
    site: Any, autojump_clock: Any
) -> None:
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


async def test_rows_of_one_batch_that_were_stored_out_of_their_order_come_back(site: Any, autojump_clock: Any) -> None:
    cluster = site.cluster
    (device,) = cluster.owned_by(OWNER, 1, Channel.NONE)
    owner = cluster.world(OWNER)
    fd = owner.go_online(device)
    page = await cluster.send(HOME, [device] * 3, numbered(3))
    owner.go_offline(fd)
    tags = owner.sockets.tags(device)
    owner.owner.unacknowledged(tags[::-1], Unacknowledged.CONNECTION_CLOSED)
    await cluster.settle()
    assert cluster.world(HOME).states(page) == {"held": 3}
    assert site.shadows_open(OWNER) == 0
    owner.sockets.sent.clear()
    owner.go_online(device)
    await owner.wait(5)
    assert sorted(owner.sockets.titles(device)) == [f"row {number}" for number in range(3)]


async def test_rows_that_come_when_nobody_waits_for_them_any_more_are_not_lost(site: Any, autojump_clock: Any) -> None:
    cluster = site.cluster
    (device,) = cluster.owned_by(OWNER, 1, Channel.NONE)
    page = await cluster.send(HOME, [device], Variant("title", "body"))
    number = number_of(page.batch.address)
    with trio.CancelScope() as scope:
        scope.cancel()
        await site.places[OWNER].locate(number, np.arange(1), device)
    await cluster.settle()
    assert site.shadows_open(OWNER) == 1
    cluster.world(OWNER).go_online(device)
    await cluster.settle()
    assert cluster.world(OWNER).sockets.titles(device) == ["title"]


async def test_a_row_that_is_acknowledged_after_it_was_given_back_ends_at_its_home(
    site: Any, autojump_clock: Any
) -> None:
    cluster = site.cluster
    (device,) = cluster.owned_by(OWNER, 1, Channel.NONE)
    owner = cluster.world(OWNER)
    owner.go_online(device)
    page = await cluster.send(HOME, [device], Variant("title", "body"))
    tags = owner.sockets.tags(device)
    owner.owner.unacknowledged(tags, Unacknowledged.ACK_TIMEOUT)
    await cluster.settle()
    assert (cluster.world(HOME).states(page), site.shadows_open(OWNER)) == ({"held": 1}, 0)
    owner.owner.acknowledged_late(tags, np.zeros(1), 0.0)
    await cluster.settle()
    assert cluster.world(HOME).states(page) == {"device_acked": 1}
    assert page.receipt.tolist() == [Receipt.DELIVERED]
    await owner.wait(61)
    assert await site.tags(OWNER) == []
    assert owner.sockets.titles(device) == ["title"]


async def test_a_row_that_went_out_before_it_was_given_back_stays_with_its_owner(
    site: Any, autojump_clock: Any
) -> None:
    """It was stored, its device returned and left at once, and it is not in the store again yet."""
    cluster = site.cluster
    (device,) = cluster.owned_by(OWNER, 1, Channel.NONE)
    owner = cluster.world(OWNER)
    page = await cluster.send(HOME, [device], Variant("title", "body"))
    fd = owner.go_online(device)
    await cluster.settle()
    (shadow,) = [one for one in owner.home.shadows if one.n_open]
    shadow.goes_back[:] = shadow.may_go_back = True
    owner.go_offline(fd)
    owner.owner.unacknowledged(owner.sockets.tags(device), Unacknowledged.CONNECTION_CLOSED)
    assert not shadow.goes_back.any()
    await cluster.settle()
    assert cluster.world(HOME).states(page) == {"held": 1}
    assert await site.tags(OWNER) == row_tags(number_of(page.batch.address), np.arange(1)).tolist()


async def test_rows_of_a_task_are_found_in_the_inbox_of_each_worker_and_nobody_elses(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Inboxes in memory: worker 1 keeps rows of a batch of its own, and of one of worker 0 with the same sequence."""
    home, world = make_world(), make_world(journal=1)
    await world.start(nursery)
    devices = world.register(4, Channel.NONE)
    own = await world.send(devices[:2], numbered(2))
    theirs = home.open(devices, numbered(4))
    rows = np.array([1, 3])
    shadow = world.home.open_shadow(Life(0, 1), cut_batch(theirs.batch, rows), rows.astype(np.uint16), 100)
    world.router.route(shadow)
    await world.settle()
    assert own.batch.address.sequence == theirs.batch.address.sequence
    assert (world.states(own), world.states(shadow)) == ({"held": 2}, {"held": 2})

    async def found(page: LedgerPage, first: int, last: int) -> list[bytes]:
        number = number_of(page.batch.address) << 16
        query = InboxQuery(tags=world.inbox.places.spans([(number | first, number | last)]))
        return [ids.tobytes() for ids in (await world.inbox_store.find(query, 100)).device_ids]

    assert await found(own, 0, 1) == devices[:2]
    assert await found(own, 1, 1) == devices[1:2]
    assert await found(theirs, 0, 3) == [devices[1], devices[3]]
    assert await found(theirs, 2, 3) == [devices[3]]
    assert await found(theirs, 2, 2) == []
