"""The registry's part of the contract of the store ports; see contract.py."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from contract import CUTS, EPOCH, Cut, EpochsContract, ids_of, together
from hypothesis import given

from gateway.batch import OwnershipEpoch
from gateway.columns import TextColumn
from gateway.device_columns import DeviceColumns, concatenate, no_devices
from gateway.ledger import Channel
from gateway.store.ports import Registry
from gateway.tag_columns import tags_from_joined


def columns_of(devices: dict[int, bytes], app: int = 0) -> DeviceColumns:
    """number -> what stands in every column of that device."""
    n = len(devices)
    numbers = np.array(list(devices), np.uint32)
    words = [len(word) + sum(word) for word in devices.values()]
    profile_texts = [b"profile %d" % (word % 3) for word in words]
    return DeviceColumns(
        device_ids=ids_of([bytes([number]) * 16 for number in devices]) if n else no_devices().device_ids,
        shards=(numbers * 400).astype(np.uint16),
        apps=np.full(n, app, np.uint16),
        # Regions of vendors among them: the channel is all that says where a device is.
        channels=np.array([word % len(Channel) for word in words], np.uint8),
        flags=np.array([word % 16 for word in words], np.uint8),
        tokens=TextColumn.from_rows([b"token-" + word if word else b"" for word in devices.values()]),
        registered_unix_s=np.array([word + 1 for word in words], np.uint32),
        proven_unix_s=np.array([word + 2 for word in words], np.uint32),
        first_seen_unix_s=np.array([word + 3 for word in words], np.uint32),
        last_seen_unix_s=np.array([word + 4 for word in words], np.uint32),
        profiles=np.arange(n, dtype=np.uint32)[::-1].copy(),
        profile_texts=TextColumn.from_rows(profile_texts[::-1]),
        aliases=TextColumn.from_rows([b"alias-" + word for word in devices.values()]),
        tags=tags_from_joined(TextColumn.from_rows([b"a\nb" * (len(word) % 2) for word in devices.values()])),
    )


def plain_devices(columns: DeviceColumns) -> dict[tuple[int, int], tuple[Any, ...]]:
    """(app, number) -> everything that is known of the device."""
    found = {}
    for index in range(columns.n):
        number = int(columns.device_ids[index][0])
        assert columns.device_ids[index].tobytes() == bytes([number]) * 16
        found[int(columns.apps[index]), number] = (
            int(columns.shards[index]),
            int(columns.channels[index]),
            int(columns.flags[index]),
            columns.tokens.row(index),
            int(columns.registered_unix_s[index]),
            int(columns.proven_unix_s[index]),
            int(columns.first_seen_unix_s[index]),
            int(columns.last_seen_unix_s[index]),
            columns.profile_texts.row(int(columns.profiles[index])),
            b"" if columns.aliases is None else columns.aliases.row(index),
            () if columns.tags is None else columns.tags.of(index),
        )
    return found


async def loaded(registry: Registry, shards: range = range(4096)) -> dict[tuple[int, int], tuple[Any, ...]]:
    found: dict[tuple[int, int], tuple[Any, ...]] = {}
    async for columns in registry.load(shards):
        part = plain_devices(columns)
        assert len(part) == columns.n
        assert not found.keys() & part.keys()
        found |= part
    return found


async def erase(registry: Registry, *numbers: int, app: int = 0, epoch: OwnershipEpoch = EPOCH) -> None:
    devices = columns_of(dict.fromkeys(numbers, b""))
    await registry.erase(epoch, app, devices.device_ids, devices.shards)


device_writes = st.dictionaries(st.integers(0, 9), st.binary(max_size=6), max_size=5)


class RegistryContract(EpochsContract):
    """Stores are opened for two apps."""

    @abstractmethod
    def open(self) -> Registry: ...

    def writes(self, store: Registry, epoch: OwnershipEpoch) -> list[Callable[[], Awaitable[Any]]]:
        return [lambda: store.write(epoch, columns_of({1: b"a"})), lambda: erase(store, 1, epoch=epoch)]

    async def content(self, store: Registry) -> Any:
        return await loaded(store)

    @given(
        st.lists(
            st.tuples(st.integers(0, 1), device_writes)
            | st.tuples(st.integers(0, 1), st.lists(st.integers(0, 9), max_size=5))
            | st.just("tidy"),
            max_size=8,
        )
    )
    async def test_registry_agrees_with_a_dict(self, steps: list) -> None:
        registry = self.open()
        model: dict[tuple[int, int], tuple[Any, ...]] = {}
        for step in steps:
            if step == "tidy":
                await registry.tidy()
            elif isinstance(step[1], dict):
                app, devices = step
                await registry.write(EPOCH, columns_of(devices, app))
                model |= plain_devices(columns_of(devices, app))
            else:
                app, numbers = step
                await erase(registry, *numbers, app=app)
                model = {key: device for key, device in model.items() if key[0] != app or key[1] not in numbers}
            assert await loaded(registry) == model

    @pytest.mark.parametrize("shards", [range(0), range(400), range(400, 401), range(800, 2001), range(4096)])
    async def test_only_the_shards_asked_for_are_loaded(self, shards: range) -> None:
        registry = self.open()
        devices = columns_of(dict.fromkeys(range(10), b"x"))
        await registry.write(EPOCH, devices)
        expected = {key: device for key, device in plain_devices(devices).items() if device[0] in shards}
        assert await loaded(registry, shards) == expected

    async def test_a_device_written_twice_in_a_call_is_what_came_last(self) -> None:
        registry = self.open()
        both = concatenate([columns_of({1: b"first", 2: b"x"}), columns_of({1: b"second"})])
        await registry.write(EPOCH, both)
        assert await loaded(registry) == plain_devices(columns_of({2: b"x", 1: b"second"}))

    async def test_one_id_in_two_apps_is_two_devices(self) -> None:
        registry = self.open()
        await registry.write(EPOCH, columns_of({1: b"here"}, 0))
        await registry.write(EPOCH, columns_of({1: b"there"}, 1))
        await erase(registry, 1, app=0)
        assert await loaded(registry) == plain_devices(columns_of({1: b"there"}, 1))

    @pytest.mark.parametrize("cut", CUTS)
    async def test_a_cut_write_can_be_repeated(self, cut: int) -> None:
        registry = self.open()
        old, new = {1: b"old", 2: b"old"}, {1: b"new", 3: b"new"}
        await registry.write(EPOCH, columns_of(old))
        done, _ = await Cut(cut).run(lambda: registry.write(EPOCH, columns_of(new)))
        found = await loaded(registry)
        before, after = plain_devices(columns_of(old)), plain_devices(columns_of(old | new))
        assert found[0, 2] == before[0, 2]
        assert found[0, 1] in (before[0, 1], after[0, 1])
        assert not done or found == after
        await registry.write(EPOCH, columns_of(new))
        assert await loaded(registry) == after

    @pytest.mark.parametrize("cut", CUTS)
    async def test_a_cut_erase_can_be_repeated(self, cut: int) -> None:
        registry = self.open()
        await registry.write(EPOCH, columns_of({1: b"a", 2: b"b", 3: b"c"}))
        await Cut(cut).run(lambda: erase(registry, 1, 2))
        await erase(registry, 1, 2)
        assert await loaded(registry) == plain_devices(columns_of({3: b"c"}))

    async def test_a_load_stands_writes_beside_it(self) -> None:
        registry = self.open()
        devices = columns_of(dict.fromkeys(range(10), b"x"))
        await registry.write(EPOCH, devices)
        found, _, _ = await together(
            lambda: loaded(registry), lambda: registry.write(EPOCH, columns_of({0: b"y", 10: b"y"})), registry.tidy
        )
        kept = {key: device for key, device in plain_devices(devices).items() if key != (0, 0)}
        assert {key: device for key, device in found.items() if key not in ((0, 0), (0, 10))} == kept

    async def test_thousands_of_devices_come_back_in_chunks(self) -> None:
        registry = self.open()
        n = 10_000
        ids = np.arange(2 * n, dtype=np.uint64).view(np.uint8).reshape(n, 16)
        one = columns_of({1: b"x"})
        devices = one.take(np.zeros(n, np.intp))._replace(
            device_ids=ids,
            shards=(np.arange(n) % 4096).astype(np.uint16),
            tokens=TextColumn.from_rows([b"%d" % number for number in range(n)]),
        )
        for first in range(0, n, 2500):
            await registry.write(EPOCH, devices.take(np.arange(first, first + 2500)))
        chunks = [columns async for columns in registry.load(range(4096))]
        assert len(chunks) > 1
        seen = {
            device_id.tobytes(): token
            for columns in chunks
            for device_id, token in zip(columns.device_ids, columns.tokens.rows(), strict=True)
        }
        assert seen == {ids[number].tobytes(): b"%d" % number for number in range(n)}
