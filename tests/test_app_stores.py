"""A worker with a store folder: what it was told and what it kept is there after it ended, in order or not."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.__main__ import main
from gateway.app import Ready, Worker, load
from gateway.app_stores import files_elsewhere
from gateway.app_stores_ready import make_stores_ready
from gateway.client.errors import CallFailed
from gateway.client.loss_calls import LossOf
from gateway.client.requests import DeviceState
from gateway.client.trio_client import TrioClient, open_trio_client
from gateway.config import Config
from gateway.content import Variant
from gateway.errors import StoreCorrupt, StoreError, StoreInUse
from gateway.observe.log import Log
from gateway.store import backup
from gateway.store.database import Database
from gateway.store.inbox_moves import clean_mark
from gateway.wire.rpc.messages import TaskCounts

SECRET = b"the secret of the shop"


@pytest.fixture
def make_worker(make_config: Callable[..., Config], folder: Path) -> Callable[..., Worker]:
    def make(*, lines: io.StringIO | None = None, keeps: bool = True, durability: str = "memory") -> Worker:
        """keeps: with a store folder."""
        store = {"data_dir": str(folder / "store")} if keeps else {}
        config = make_config(app={"ttl_s_max": 259_200, "durability": durability}, store=store | {"shard_groups": 2})
        return Worker(config, log=Log(stream=lines or io.StringIO()))

    return make


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
        with trio.fail_after(60):
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
async def test_a_registered_device_is_known_after_a_restart(
    make_worker: Callable[..., Worker], is_killed: bool
) -> None:
    device_id = bytes([7]) * 16
    async with serving(make_worker(), is_killed=is_killed) as client:
        done = await client.register_devices([DeviceState(device_id=device_id, alias="ann", tags=("vip", "east"))])
        assert done.registered == 1
        before = await client.device(device_id=device_id)
    async with serving(make_worker()) as client:
        after = await client.device(device_id=device_id)
        assert after.facts == before.facts
        assert (after.facts["alias"], after.facts["tags"]) == ("ann", ["vip", "east"])
        assert (await client.device(alias="ann")).device_id == device_id


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_message_is_traced_after_a_restart(make_worker: Callable[..., Worker], is_killed: bool) -> None:
    device_id = bytes([7]) * 16
    async with serving(make_worker(), is_killed=is_killed) as client:
        await client.register_devices([DeviceState(device_id=device_id)])
        done = await client.submit(Variant(title="t", body="b", strategy=2, plan_id="spring"), [device_id])
        before = await client.trace(task_id=done.task_id, device_id=device_id)
        assert before.hops[-1].reason == "no_channel"
        lost = [await client.loss(of) for of in (LossOf(task_id=done.task_id), LossOf(plan_id="spring"), LossOf())]
        assert [[line.cause for line in one.losses] for one in lost] == [["no_channel"]] * 3
        # Nothing waits for the archive but the test: a moment is enough.
        await trio.sleep(0.3)
    async with serving(make_worker()) as client:
        after = await client.trace(task_id=done.task_id, device_id=device_id)
        assert (after.message_id, after.hops) == (before.message_id, before.hops)
        assert (await client.trace(message_id=before.message_id)).hops == before.hops
        assert (await client.task_state(done.task_id)).states == {"dropped": 1}
        found = [await client.loss(of) for of in (LossOf(task_id=done.task_id), LossOf(plan_id="spring"), LossOf())]
        assert [(one.channels, one.losses) for one in found] == [(one.channels, one.losses) for one in lost]
        assert (await client.count_rows(LossOf(), recount=True)).differing == 0
        again = await client.submit(Variant(title="t", body="b", strategy=2), [device_id])
        assert again.task_id != done.task_id


async def test_apps_that_changed_their_order_are_refused(make_worker: Callable[..., Worker], folder: Path) -> None:
    make_worker().stores.close()
    (folder / "store" / "apps.json").write_text('["bank", "shop"]')
    with pytest.raises(StoreError, match="apps were bank, shop; the configuration has shop: keep their order"):
        make_worker()


def operator(folder: Path) -> AbstractAsyncContextManager[TrioClient]:
    return open_trio_client(f"unix://{folder / 'operator.sock'}", role="operator")


async def waiting(folder: Path, client: TrioClient, device_ids: list[bytes]) -> TaskCounts:
    """A task whose rows wait for these devices, in the inbox."""
    done = await client.submit(Variant(title="t", body="bb", strategy=3), device_ids)
    async with operator(folder) as asking:
        with trio.fail_after(60):
            while (await asking.stored_rows(task_id=done.task_id)).rows < len(device_ids):
                await trio.sleep(0.02)
    counts = await client.task_state(done.task_id)
    assert counts.states == {"held": len(device_ids)}
    return counts


@pytest.mark.parametrize("is_killed", [False, True])
async def test_what_waited_when_a_process_died_bears_the_mark_that_it_may_come_twice(
    make_worker: Callable[..., Worker], folder: Path, is_killed: bool
) -> None:
    """The inbox of an app in memory learns of a delivery a moment after it; nothing else says whether it was made."""
    mark = clean_mark(folder / "store", 0)
    worker = make_worker()
    async with serving(worker, is_killed=is_killed) as client:
        assert not mark.exists()
        assert worker.inbox.doubtful_until_unix_ms == 0
        await client.register_devices([DeviceState(device_id=bytes([7]) * 16)])
        await waiting(folder, client, [bytes([7]) * 16])
    assert mark.exists() is not is_killed
    worker = make_worker()
    async with serving(worker) as client:
        assert (worker.inbox.doubtful_until_unix_ms > 0) is is_killed


@pytest.mark.parametrize(("ended", "doubtful"), [((0, 1), False), ((0,), True), ((), True)])
async def test_another_number_of_workers_makes_all_rows_doubtful_where_one_died(
    make_worker: Callable[..., Worker], folder: Path, ended: tuple[int, ...], doubtful: bool
) -> None:
    worker = make_worker()
    worker.stores.close()
    (folder / "store" / "workers").write_text("2\n")
    for number in ended:
        clean_mark(folder / "store", number).touch()
    make_stores_ready(load(str(folder / "gateway.toml")))
    assert clean_mark(folder / "store", 0).exists() is not doubtful
    assert not clean_mark(folder / "store", 1).exists()


@pytest.mark.parametrize("name", ["registry/group-001.db", "inbox.db", "ledger.db"])
async def test_a_database_that_is_gone_at_a_start_is_named_and_not_made_anew(
    make_worker: Callable[..., Worker], folder: Path, name: str
) -> None:
    """Else what it held would be lost without a word: rows that wait for a device without their page, devices."""
    worker = make_worker()
    worker.stores.close()
    config = load(str(folder / "gateway.toml"))
    make_stores_ready(config)
    path = folder / "store" / name
    path.unlink()
    with pytest.raises(StoreError, match=f"{name}: is gone: restore a backup"):
        make_stores_ready(config)
    # As it says.
    path.touch()
    make_stores_ready(config)
    make_worker().stores.close()


async def test_stored_rows_are_counted_listed_and_purged_by_device_task_and_age(
    make_worker: Callable[..., Worker], folder: Path
) -> None:
    ids = [bytes([number]) * 16 for number in range(1, 5)]
    async with serving(make_worker()) as client, operator(folder) as asking:
        await client.register_devices([DeviceState(device_id=one) for one in ids])
        first, second = await waiting(folder, client, ids[:3]), await waiting(folder, client, ids[2:])
        found = await asking.stored_rows(app_key="shop")
        assert (found.rows, found.bytes, found.devices, found.n) == (5, 15, 4, 5)
        assert bytes(found.device_ids) == b"".join(ids[:3] + ids[2:])
        assert (await asking.stored_rows(task_id=second.task_id)).rows == 2
        assert (await asking.stored_rows(device_id=ids[2])).rows == 2
        assert (await asking.stored_rows(older_than_s=3600)).rows == 0
        assert (await asking.purge_stored(task_id=first.task_id, device_id=ids[2])).rows == 1
        assert (await client.task_state(first.task_id)).states == {"held": 2, "cancelled": 1}
        assert (await asking.purge_stored(app_key="shop")).rows == 4
        assert (await client.task_state(second.task_id)).states == {"cancelled": 2}
        assert (await asking.stored_rows()).rows == 0
        with pytest.raises(CallFailed, match="not configured"):
            await asking.stored_rows(app_key="bank")


async def test_an_erased_device_is_gone_everywhere_and_the_log_says_so(
    make_worker: Callable[..., Worker], folder: Path
) -> None:
    ids = [bytes([number]) * 16 for number in range(1, 4)]
    lines = io.StringIO()
    worker = make_worker(lines=lines)
    async with serving(worker) as client:
        await client.register_devices([DeviceState(device_id=one, alias=f"user {one[0]}") for one in ids])
        task = await waiting(folder, client, ids)
        assert (await client.erase_devices([ids[0], bytes([99]) * 16])).erased == 1
        with pytest.raises(CallFailed, match="has no device of id"):
            await client.device(device_id=ids[0])
        assert (await client.task_state(task.task_id)).states == {"held": 2, "cancelled": 1}
    files = b"".join(path.read_bytes() for path in (folder / "store" / "registry").iterdir())
    assert b"user 1" not in files
    assert b"user 2" in files
    (line,) = [json.loads(line) for line in lines.getvalue().splitlines() if "devices erased" in line]
    assert (line["app"], line["devices"], line["stored_rows"]) == ("shop", 1, 1)
    assert ids[0].hex() not in lines.getvalue()
    async with serving(make_worker()) as client:
        with pytest.raises(CallFailed, match="has no device of id"):
            await client.device(device_id=ids[0])
        assert (await client.device(device_id=ids[1])).facts["alias"] == "user 2"


async def test_a_blocked_device_gets_nothing_until_it_is_unblocked_also_after_a_restart(
    make_worker: Callable[..., Worker],
) -> None:
    ids = [bytes([1]) * 16, bytes([2]) * 16]

    async def reasons(client: TrioClient) -> dict[str, int]:
        done = await client.submit(Variant(title="t", body="b", strategy=2), ids)
        with trio.fail_after(60):
            while not (counts := await client.task_state(done.task_id)).is_final:
                await trio.sleep(0.02)
        return counts.reasons

    async with serving(make_worker()) as client:
        await client.register_devices([DeviceState(device_id=one) for one in ids])
        assert (await client.block_devices([ids[0], bytes([9]) * 16])).known == 1
        assert await reasons(client) == {"device_blocked": 1, "no_channel": 1}
    async with serving(make_worker()) as client:
        await client.register_devices([DeviceState(device_id=one) for one in ids])
        assert await reasons(client) == {"device_blocked": 1, "no_channel": 1}
        await client.block_devices([ids[0]], blocked=False)
        assert await reasons(client) == {"no_channel": 2}


async def test_a_backup_of_a_running_gateway_is_restored_and_recounted(
    make_worker: Callable[..., Worker], folder: Path
) -> None:
    ids = [bytes([number]) * 16 for number in range(1, 6)]
    copy = folder / "copy"
    worker = make_worker()
    config = worker.config
    async with serving(worker) as client, operator(folder) as asking:
        await client.register_devices([DeviceState(device_id=one, tags=("vip",)) for one in ids[:4]])
        await waiting(folder, client, ids[:3])
        done = await client.submit(Variant(title="t", body="b", strategy=2), ids[:2])
        counts = await client.task_state(done.task_id)
        files = (await asking.backup(str(copy))).files
        assert {"inbox.db", "ledger.db", "hash.key", "apps.json", "registry/group-000.db"} <= files.keys()
        # What comes afterwards is not in the copy.
        await client.register_devices([DeviceState(device_id=ids[4])])
        with pytest.raises(CallFailed, match="is not empty"):
            await asking.backup(str(copy))
        with pytest.raises(CallFailed, match="not an absolute path"):
            await asking.backup("somewhere")
    with pytest.raises(StoreError, match="is not empty"):
        backup.restore(copy, folder / "store", others={})
    shutil.rmtree(folder / "store")
    (folder / "data" / "message_id.secret").unlink()
    backup.restore(copy, folder / "store", others=files_elsewhere(config))
    worker = make_worker()
    assert len(worker.inbox_store) == 3
    async with serving(worker) as client:
        for one in ids[:4]:
            assert (await client.device(device_id=one)).facts["tags"] == ["vip"]
        with pytest.raises(CallFailed, match="has no device of id"):
            await client.device(device_id=ids[4])
        assert (await client.task_state(done.task_id)).states == counts.states


def test_a_backup_that_is_not_whole_is_refused(folder: Path) -> None:
    copy = folder / "copy"
    with pytest.raises(StoreCorrupt, match=r"backup\.json is missing"):
        backup.restore(copy, folder / "store", others={})
    backup.prepare(copy)
    Database(copy / "inbox.db", ("CREATE TABLE t (x);",), bytes_max=1 << 20).close()
    backup.finish(copy, others={})
    (copy / "inbox.db").write_bytes(b"something else")
    with pytest.raises(StoreCorrupt, match=r"inbox\.db: is not the file"):
        backup.restore(copy, folder / "store", others={})
    assert not (folder / "store").exists()


async def test_a_second_gateway_on_the_same_store_is_refused(make_worker: Callable[..., Worker]) -> None:
    async with serving(make_worker()):
        with pytest.raises(StoreInUse, match=r"group-000\.db"):
            make_worker()


@pytest.mark.parametrize(
    ("durability", "keeps", "is_said"), [("disk", False, 1), ("memory", False, 0), ("disk", True, 0)]
)
async def test_an_app_on_disk_without_a_store_folder_is_named_at_the_start(
    make_worker: Callable[..., Worker], durability: str, keeps: bool, is_said: int
) -> None:
    lines = io.StringIO()
    async with serving(make_worker(lines=lines, keeps=keeps, durability=durability)):
        pass
    said = [line for line in map(json.loads, lines.getvalue().splitlines()) if "store.data_dir" in line["event"]]
    assert [line["apps_on_disk"] for line in said] == [["shop"]] * is_said


async def test_without_a_store_folder_nothing_is_written(make_worker: Callable[..., Worker], folder: Path) -> None:
    async with serving(make_worker(keeps=False)) as client, operator(folder) as asking:
        await client.register_devices([DeviceState(device_id=bytes([7]) * 16)])
        with pytest.raises(CallFailed, match="nothing is on the disk"):
            await asking.backup(str(folder / "copy"))
    assert not (folder / "store").exists()


async def test_a_message_may_not_wait_longer_than_its_apps_tier_allows(make_worker: Callable[..., Worker]) -> None:
    async with serving(make_worker()) as client:
        contents = [Variant(title="t", body="b", ttl_s=259_200), Variant(title="t", body="b", ttl_s=259_201)]
        done = await client.submit(contents, [bytes([1]) * 16, bytes([2]) * 16], index=[0, 1])
        assert done.accepted == 1
        ((row, field, text),) = [(one.row, one.field, one.text) for one in done.refused]
        assert (row, field) == (1, "ttl_s")
        assert text.endswith("ttl_s is 259201, limit 259200 (apps.ttl_s_max)")


async def test_the_command_line_lists_purges_and_backs_up(
    make_worker: Callable[..., Worker], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device_id = bytes([5]) * 16

    async def pushgw(*arguments: str) -> dict[str, Any]:
        code = await trio.to_thread.run_sync(main, list(arguments))
        assert code == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    asking = ("--address", f"unix://{folder / 'operator.sock'}", "--json")
    async with serving(make_worker()) as client:
        await client.register_devices([DeviceState(device_id=device_id)])
        await waiting(folder, client, [device_id])
        found = await pushgw("inbox", "list", "--app", "shop", *asking)
        assert (found["rows"], found["devices"], found["listed"][0]["device_id"]) == (1, 1, device_id.hex())
        assert (await pushgw("backup", str(folder / "copy"), *asking))["files"]["inbox.db"] > 0
        assert (await pushgw("inbox", "purge", "--device", device_id.hex(), *asking))["purged_rows"] == 1
    shutil.rmtree(folder / "store")
    done = await pushgw("restore", str(folder / "copy"), "--config", str(folder / "gateway.toml"), "--json")
    assert done["bytes"] > 0
    worker = make_worker()
    assert len(worker.inbox_store) == 1
    worker.stores.close()
