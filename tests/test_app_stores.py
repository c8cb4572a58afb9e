"""A worker with a store folder: what it was told and what it kept is there after it ended, in order or not."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.app import Ready, Worker, load
from gateway.cli.toml_text import to_toml
from gateway.client.requests import DeviceState
from gateway.client.trio_client import TrioClient, open_trio_client
from gateway.content import Variant
from gateway.errors import StoreError, StoreInUse
from gateway.observe.log import Log

SECRET = b"the secret of the shop"


@pytest.fixture
def folder() -> Iterator[Path]:
    # Short, because socket paths are: pytest's own directories can be too long for them.
    name = tempfile.mkdtemp(prefix="pg-")
    yield Path(name)
    shutil.rmtree(name, ignore_errors=True)


def make_worker(folder: Path, **over: dict[str, Any]) -> Worker:
    (folder / "app.secret").write_bytes(SECRET)
    table: dict[str, Any] = {
        "gateway": {"data_dir": str(folder / "data"), "drain_s": 2.0},
        "rpc": {"listeners": [{"address": "tcp://127.0.0.1:0"}]},
        "operator": {"socket": str(folder / "operator.sock")},
        "http": {"address": "tcp://127.0.0.1:0"},
        "long_link": {"listeners": [{"address": "tcp://127.0.0.1:0"}]},
        "devices": {"devices_max": 1000, "token_bytes_max": 1_000_000},
        "store": {"data_dir": str(folder / "store"), "shard_groups": 2},
        "apps": [{"key": "shop", "secrets": [{"file": str(folder / "app.secret")}]}],
    }
    for name, values in over.items():
        table[name] = table.get(name, {}) | values
    (folder / "gateway.toml").write_text(to_toml(table))
    config = load(str(folder / "gateway.toml"))
    config.gateway.data_dir.mkdir(exist_ok=True)
    return Worker(config, log=Log(stream=io.StringIO()))


@contextlib.asynccontextmanager
async def serving(worker: Worker, *, is_killed: bool = False) -> AsyncIterator[TrioClient]:
    """A client of the running worker, which is cut off or ends in order afterwards."""
    readies: list[Ready] = []
    has_ended = trio.Event()

    async def run() -> None:
        try:
            await worker.run(readies.append)
        finally:
            has_ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.fail_after(20):
            while not readies:
                await trio.sleep(0.01)
        async with open_trio_client(readies[0].rpc[0], "shop", SECRET) as client:
            yield client
        if is_killed:
            nursery.cancel_scope.cancel()
        else:
            worker.stop()
            await has_ended.wait()


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_registered_device_is_known_after_a_restart(folder: Path, is_killed: bool) -> None:
    device_id = bytes([7]) * 16
    async with serving(make_worker(folder), is_killed=is_killed) as client:
        done = await client.register_devices([DeviceState(device_id=device_id, alias="ann", tags=("vip", "east"))])
        assert done.registered == 1
        before = await client.device(device_id=device_id)
    async with serving(make_worker(folder)) as client:
        after = await client.device(device_id=device_id)
        assert after.facts == before.facts
        assert (after.facts["alias"], after.facts["tags"]) == ("ann", ["vip", "east"])
        assert (await client.device(alias="ann")).device_id == device_id


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_message_is_traced_after_a_restart(folder: Path, is_killed: bool) -> None:
    device_id = bytes([7]) * 16
    async with serving(make_worker(folder), is_killed=is_killed) as client:
        await client.register_devices([DeviceState(device_id=device_id)])
        done = await client.submit(Variant(title="t", body="b", strategy=2), [device_id])
        before = await client.trace(task_id=done.task_id, device_id=device_id)
        assert before.hops[-1].reason == "no_channel"
        # Nothing waits for the archive but the test: a moment is enough.
        await trio.sleep(0.3)
    async with serving(make_worker(folder)) as client:
        after = await client.trace(task_id=done.task_id, device_id=device_id)
        assert (after.message_id, after.hops) == (before.message_id, before.hops)
        assert (await client.trace(message_id=before.message_id)).hops == before.hops
        assert (await client.task_state(done.task_id)).states == {"dropped": 1}
        again = await client.submit(Variant(title="t", body="b", strategy=2), [device_id])
        assert again.task_id != done.task_id


async def test_apps_that_changed_their_order_are_refused(folder: Path) -> None:
    make_worker(folder).stores.close()
    (folder / "store" / "apps.json").write_text('["bank", "shop"]')
    with pytest.raises(StoreError, match="apps were bank, shop; the configuration has shop: keep their order"):
        make_worker(folder)


async def test_a_second_gateway_on_the_same_store_is_refused(folder: Path) -> None:
    async with serving(make_worker(folder)):
        with pytest.raises(StoreInUse, match=r"group-000\.db"):
            make_worker(folder)


async def test_without_a_store_folder_nothing_is_written(folder: Path) -> None:
    worker = make_worker(folder)
    worker.stores.close()
    shutil.rmtree(folder / "store")
    table = (folder / "gateway.toml").read_text()
    start = table.index("[store]")
    (folder / "gateway.toml").write_text(table[:start] + table[table.index("[", start + 1) :])
    async with serving(Worker(load(str(folder / "gateway.toml")), log=Log(stream=io.StringIO()))) as client:
        await client.register_devices([DeviceState(device_id=bytes([7]) * 16)])
    assert not (folder / "store").exists()
