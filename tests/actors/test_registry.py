"""RegistryActor: what changes in the table is written, who waits knows when, a failing disk loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
import trio
import trio.testing

from gateway.actors.registry import RegistryActor
from gateway.batch import OwnershipEpoch
from gateway.columns import U8, U16, TextColumn
from gateway.core.devices import DeviceLimits, DeviceTable
from gateway.core.registration import Registrations
from gateway.core.segments import HashKey
from gateway.device_columns import DeviceColumns
from gateway.errors import StoreError, StoreFull
from gateway.store.memory import MemoryRegistry

EPOCH = OwnershipEpoch(1)
KEY = HashKey(bytes(32))
LIMITS = DeviceLimits(devices_max=5000, token_bytes_max=1 << 20)


class _Disk(MemoryRegistry):
    """A registry whose disk may be slow or full."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False
        self.gate: trio.Event | None = None
        self.writes: list[int] = []

    async def write(self, epoch: OwnershipEpoch, devices: DeviceColumns) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.is_full:
            raise StoreFull("registry", "disk is full")
        await super().write(epoch, devices)
        self.writes.append(devices.n)

    async def erase(self, epoch: OwnershipEpoch, app: int, device_ids: U8, shards: U16) -> None:
        if self.is_full:
            raise StoreFull("registry", "disk is full")
        await super().erase(epoch, app, device_ids, shards)


class _Observer:
    def __init__(self) -> None:
        self.devices = 0
        self.failures: list[StoreError] = []
        self.loads: list[tuple[int, int]] = []

    def written(self, devices: int) -> None:
        self.devices += devices

    def write_failed(self, error: StoreError) -> None:
        self.failures.append(error)

    def loaded(self, devices: int, lost_tokens: int) -> None:
        self.loads.append((devices, lost_tokens))


class World:
    def __init__(self, store: _Disk) -> None:
        self.store = store
        self.table = DeviceTable(LIMITS, KEY)
        self.observer = _Observer()
        self.actor = RegistryActor(
            store=store, epoch=EPOCH, devices=self.table, observer=self.observer, seen_write_s=300.0
        )

    def register(self, first: int, n: int, app: int = 0) -> np.ndarray:
        ids = np.zeros((n, 16), np.uint8)
        ids[:, :4] = np.arange(first, first + n, dtype="<u4").view(np.uint8).reshape(n, 4)
        texts = TextColumn.from_rows([b"token%d" % number for number in range(first, first + n)])
        batch = Registrations(ids, np.full(n, 1, np.uint8), texts, np.zeros(n, np.uint32))
        return self.table.register(app, batch, 100).rows


@pytest.fixture
async def world(autojump_clock: object, nursery: trio.Nursery) -> World:
    made = World(_Disk())
    await made.actor.load()
    nursery.start_soon(made.actor.run)
    return made


async def known(store: _Disk) -> int:
    """Devices that a restart would find."""
    again = World(store)
    await again.actor.load()
    return len(again.table)


def marked(world: World) -> list[int]:
    """Rows that the registry has not got."""
    return [row for block in world.table.changes.blocks() for row in block.tolist()]


async def test_a_registration_is_durable_when_the_wait_returns(world: World, autojump_clock: object) -> None:
    world.register(0, 3)
    await world.actor.wait_written()
    assert await known(world.store) == 3
    assert world.observer.devices == 3


async def test_registrations_that_come_during_a_write_go_together_in_the_next(
    world: World, autojump_clock: object
) -> None:
    world.store.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for at in range(20):
            world.register(at, 1)
            nursery.start_soon(world.actor.wait_written)
            await trio.testing.wait_all_tasks_blocked()
        world.store.gate.set()
    assert world.store.writes == [1, 19]


async def test_a_full_disk_is_told_to_who_waits_and_nothing_is_given_up(world: World, autojump_clock: object) -> None:
    world.store.is_full = True
    world.register(0, 2)
    with pytest.raises(StoreFull, match="disk is full"):
        await world.actor.wait_written()
    assert world.observer.failures
    world.store.is_full = False
    await trio.sleep(2)
    assert await known(world.store) == 2
    await world.actor.wait_written()


async def test_when_a_device_was_seen_is_written_now_and_then(world: World, autojump_clock: object) -> None:
    (row,) = world.register(0, 1).tolist()
    await world.actor.wait_written()
    world.table.set_online(row, 5, 1, 777)
    await trio.sleep(200)
    assert world.store.writes == [1]
    await trio.sleep(200)
    assert world.store.writes == [1, 1]
    again = World(world.store)
    await again.actor.load()
    assert again.table.device(1).last_seen_unix_s == 777


async def test_a_flush_writes_everything_that_is_marked(world: World, autojump_clock: object) -> None:
    (row,) = world.register(0, 1).tolist()
    await world.actor.wait_written()
    world.table.set_online(row, 5, 1, 777)
    await world.actor.flush()
    assert world.store.writes == [1, 1]


async def test_a_load_of_thousands_is_written_in_slices_and_marks_nothing(world: World, autojump_clock: object) -> None:
    world.register(0, 2500)
    await world.actor.wait_written()
    assert world.store.writes == [1000, 1000, 500]
    again = World(world.store)
    await again.actor.load()
    assert again.observer.loads == [(2500, 0)]
    assert marked(again) == []


async def test_an_erased_device_is_unknown_here_and_after_a_restart(world: World, autojump_clock: object) -> None:
    rows = world.register(0, 3)
    await world.actor.wait_written()
    await world.actor.erase(0, rows[:1])
    assert len(world.table) == 2
    assert await known(world.store) == 2
    world.store.is_full = True
    with pytest.raises(StoreFull):
        await world.actor.erase(0, rows[1:2])


async def test_a_device_erased_while_it_is_written_is_not_marked_again(world: World, autojump_clock: object) -> None:
    rows = world.register(1, 2)
    world.store.gate = trio.Event()
    world.store.is_full = True
    await trio.testing.wait_all_tasks_blocked()
    world.table.remove(rows[:1])
    world.store.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert marked(world) == rows[1:].tolist()


async def test_a_cancelled_actor_leaves_its_marks_to_the_next_run(autojump_clock: object) -> None:
    world = World(_Disk())
    await world.actor.load()
    world.store.gate = trio.Event()
    rows = world.register(0, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.actor.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert marked(world) == rows.tolist()
    world.store.gate.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.actor.run)
        await world.actor.wait_written()
        nursery.cancel_scope.cancel()
    assert await known(world.store) == 2


async def test_the_registry_is_behind_until_changes_are_durable_and_a_failing_disk_is_not_waited_for(
    world: World, autojump_clock: object
) -> None:
    assert not world.actor.is_behind
    world.store.gate = trio.Event()
    world.register(0, 3)
    assert world.actor.is_behind
    await trio.sleep(1)
    # It is being written.
    assert world.actor.is_behind
    world.register(3, 1)
    world.store.gate.set()
    await world.actor.wait_written()
    assert not world.actor.is_behind
    assert await known(world.store) == 4
    world.store.is_full = True
    world.register(4, 1)
    await trio.sleep(0.1)
    assert not world.actor.is_behind
    world.store.is_full = False
    await trio.sleep(2)
    assert await known(world.store) == 5
