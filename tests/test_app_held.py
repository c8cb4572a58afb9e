"""Rows that wait for devices leave memory with their pages, and go on from the disk: by return, by time, by hand, after
a start. A worker in this process with real files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from bench.devices import mqtt
from gateway.app import Ready, Worker
from gateway.app_stores import files_elsewhere, folders_elsewhere
from gateway.client.errors import CallFailed
from gateway.client.requests import DeviceState
from gateway.client.trio_client import TrioClient, open_trio_client
from gateway.config import Config
from gateway.content import FallbackStep, Variant
from gateway.core.identity import device_password
from gateway.errors import StoreError
from gateway.observe.log import Log
from gateway.store import backup
from gateway.store.packing import unpack_page

#: These tests are about changes beside a page, and rows that are read without it; others write and read theirs whole.
pytestmark = pytest.mark.usefixtures("small_pages_by_rows")
SECRET = b"the secret of the shop"
DEVICES = 200
TASKS = 8
#: Of 58 bytes a row: two pages of this test, and what is known of those that are away.
LEDGER_BYTES = 58 * DEVICES * 2 + 300 * TASKS


@pytest.fixture
def make_worker(make_config: Callable[..., Config], folder: Path) -> Callable[..., Worker]:
    def make(durability: str, stream: io.StringIO | None = None, **vendors: Any) -> Worker:
        config = make_config(
            app={"durability": durability} | vendors,
            dev={"clock": True},
            store={"data_dir": str(folder / "store"), "shard_groups": 1},
        )
        worker = Worker(config, log=Log(stream=stream or io.StringIO()))
        # Smaller than a configuration may have it.
        worker.home._ledger_bytes_max, worker.home._rows_open_max = LEDGER_BYTES, 2 * DEVICES
        return worker

    return make


@contextlib.asynccontextmanager
async def serving(worker: Worker) -> AsyncIterator[tuple[TrioClient, int]]:
    """A client of the running worker and its port for devices; it is cut off afterwards."""
    readies: list[Ready] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, readies.append)
        with trio.fail_after(60):
            while not readies:
                await trio.sleep(0.01)
        async with open_trio_client(readies[0].rpc[0], "shop", SECRET, timeout_s=60.0) as client:
            yield client, int(readies[0].long_link[0].rsplit(":", 1)[1])
        nursery.cancel_scope.cancel()
    worker.close()


async def received(port: int, device_id: bytes, n: int, silent: list[trio.SocketStream] | None = None) -> list[bytes]:
    """What the device gets when it connects: n messages. silent: it acknowledges nothing and stays, in the list."""
    name, found, reader = device_id.hex(), [], mqtt.Reader()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream if silent is None else contextlib.nullcontext():
        await stream.send_all(mqtt.connect(name, "shop", device_password(SECRET, name), 60))
        await stream.send_all(mqtt.subscribe(1, f"d/{name}/down", 1))
        with trio.fail_after(60):
            while len(found) < n:
                for packet in reader.receive_data(bytes(await stream.receive_some(65536))):
                    if isinstance(packet, mqtt.Publish):
                        found.append(packet.payload)
                        if silent is None:
                            await stream.send_all(mqtt.puback(packet.packet_id))
        # The last acknowledgement is with the gateway before the connection ends.
        await stream.send_all(b"\xc0\x00")
        with trio.fail_after(60):
            assert await stream.receive_some(65536)
    if silent is not None:
        silent.append(stream)
    return [payload.split(b'"title":"')[1].split(b'"')[0] for payload in found]


async def until_away(worker: Worker, pages: int) -> None:
    with trio.fail_after(60):
        while len(worker.home.away_pages) < pages:
            await trio.sleep(0.01)


@pytest.mark.parametrize("durability", ["disk", "memory"])
async def test_pages_of_held_rows_leave_memory_and_come_back_when_they_are_needed(
    make_worker: Callable[..., Worker], folder: Path, durability: str
) -> None:
    ids = [number.to_bytes(16, "big") for number in range(1, DEVICES + 1)]
    worker = make_worker(durability)
    tasks: list[bytes] = []
    async with serving(worker) as (client, port):
        await client.register_devices([DeviceState(device_id=one) for one in ids])
        for number in range(TASKS):
            ttl_s = 600 if number < 2 else 6000
            # The client asks again while memory is short.
            done = await client.submit(Variant(title=f"task {number}", body="b", ttl_s=ttl_s), ids)
            tasks.append(done.task_id)
            assert worker.home.statistics().ledger_bytes <= LEDGER_BYTES + 58 * DEVICES
        await until_away(worker, TASKS - 2)
        assert worker.home.statistics().ledger_bytes <= LEDGER_BYTES
        assert worker.rows_open()["held"] == worker.home.rows_open == TASKS * DEVICES
        assert (await client.task_state(tasks[0])).states == {"held": DEVICES}
        # By return: in their order, once.
        assert await received(port, ids[5], TASKS) == [f"task {number}".encode() for number in range(TASKS)]
        # By time.
        worker.clock.advance(700)  # type: ignore[attr-defined]
        for task in tasks[:2]:
            await until_states(client, task, {"expired": DEVICES - 1, "device_acked": 1})
        assert (await client.task_state(tasks[3])).states == {"held": DEVICES - 1, "device_acked": 1}
        hops = (await client.trace(task_id=tasks[4], device_id=ids[5])).hops
        assert hops[-1].receipt == "delivered"
        # By hand.
        async with open_trio_client(f"unix://{folder / 'operator.sock'}", role="operator") as operator:
            assert (await operator.purge_stored(task_id=tasks[3])).rows == DEVICES - 1
        assert (await client.task_state(tasks[3])).states == {"cancelled": DEVICES - 1, "device_acked": 1}
        assert (await client.stop_task(tasks[5])).cancelled == DEVICES - 1
        assert (await client.task_state(tasks[5])).states == {"cancelled": DEVICES - 1, "device_acked": 1}
        assert worker.home.rows_not_conserved() == 0
        with trio.fail_after(60):
            while worker.stores.ledger.unsaved_pages or worker.home.evict_some() is False:  # type: ignore[union-attr]
                await trio.sleep(0.05)
        assert worker.home.statistics().ledger_bytes <= LEDGER_BYTES
        if durability == "memory":
            # With a journal nothing need be written that has changed since.
            await worker.stores.flush()
    # After a start: nothing of these pages is read before somebody needs it.
    worker = make_worker(durability)
    async with serving(worker) as (client, port):
        left = TASKS - 4
        assert worker.home.rows_open == left * (DEVICES - 1)
        assert await received(port, ids[7], left) == [
            f"task {number}".encode() for number in range(TASKS) if number not in (0, 1, 3, 5)
        ]
        assert (await client.task_state(tasks[-1])).states == {"held": DEVICES - 2, "device_acked": 2}
        assert worker.home.rows_not_conserved() == 0


async def until_states(client: TrioClient, task_id: bytes, states: dict[str, int]) -> None:
    with trio.fail_after(60):
        while (found := (await client.task_state(task_id)).states) != states:
            await trio.sleep(0.02)
    assert found == states


async def forever(*_: Any, **__: Any) -> Any:
    await trio.sleep_forever()


async def refuse(*_: Any) -> Any:
    await trio.lowlevel.checkpoint()
    raise StoreError("journal", "not now")


async def until(is_so: Any) -> None:
    with trio.fail_after(60):
        while not is_so():
            await trio.sleep(0.01)


async def test_a_batch_stays_in_the_journal_until_the_archive_has_its_page(make_worker: Callable[..., Worker]) -> None:
    """What became of its rows survives whatever of both writes a crash finds done."""
    worker = make_worker("disk")
    assert worker.disk is not None
    (archive,) = worker.stores._archives
    content = Variant(title="t", body="b", strategy=2)
    async with serving(worker) as (client, _):
        await client.register_devices([DeviceState(device_id=bytes([7]) * 16)])
        ended = await client.submit(content, [bytes([7]) * 16], request_id="one")
        # The count of the numbers given stays.
        await until(lambda: worker.disk.journal.statistics().records == 1)  # type: ignore[union-attr]
        archive.write = forever  # type: ignore[method-assign]
        unsaved = await client.submit(content, [bytes([7]) * 16, bytes([9]) * 16], request_id="two")
        await until(lambda: not worker.disk.trail.has_dirty)  # type: ignore[union-attr]
        await trio.sleep(0.2)
        assert worker.disk.journal.statistics().records == 3
        reasons = (await client.task_state(unsaved.task_id)).reasons
        assert reasons == {"no_channel": 1, "unknown_device": 1}
    worker = make_worker("disk")
    assert worker.disk is not None
    # Now the other half: the archive gets the page, and the journal cannot let its batch go.
    worker.disk.journal.release = refuse  # type: ignore[method-assign]
    async with serving(worker) as (client, _):
        assert (await client.task_state(ended.task_id)).reasons == {"no_channel": 1}
        assert (await client.task_state(unsaved.task_id)).reasons == reasons
        await until(lambda: not worker.stores.ledger.unsaved_pages)  # type: ignore[union-attr]
        hops = (await client.trace(task_id=unsaved.task_id, device_id=bytes([9]) * 16)).hops
    worker = make_worker("disk")
    async with serving(worker) as (client, _):
        assert list(worker.home.pages()) == []
        assert worker.metrics.rows_recovered.value("final") == 2
        assert worker.metrics.rows_recovered.value("unsent") == 0
        assert (await client.trace(task_id=unsaved.task_id, device_id=bytes([9]) * 16)).hops == hops
        again = await client.submit(content, [bytes([7]) * 16, bytes([9]) * 16], request_id="two")
        assert again.task_id == unsaved.task_id
        await until(lambda: worker.disk.journal.statistics().records == 1)  # type: ignore[union-attr]
        new = await client.submit(content, [bytes([7]) * 16])
        assert new.task_id not in (ended.task_id, unsaved.task_id)


@pytest.mark.parametrize("durability", ["disk", "memory"])
async def test_a_held_row_that_was_with_its_device_at_a_crash_is_uncertain(
    make_worker: Callable[..., Worker], durability: str
) -> None:
    """Its batch had left the journal. With one the row goes again, and says so; without, nobody knows."""
    device_id, other = bytes([7]) * 16, bytes([8]) * 16
    worker = make_worker(durability)
    async with serving(worker) as (client, port):
        await client.register_devices([DeviceState(device_id=one) for one in (device_id, other)])
        done = await client.submit(Variant(title="only", body="b"), [device_id, other])
        assert worker.stores.ledger is not None
        await until(lambda: worker.stores.ledger._resting)  # type: ignore[union-attr]
        worker.home.on_short()
        await until(lambda: next(worker.home.pages()).is_saved)
        if worker.disk is not None:
            await until(lambda: worker.disk.journal.statistics().records == 1)  # type: ignore[union-attr]
        # It leaves memory, and comes back with the device.
        worker.home._ledger_bytes_max = 0
        worker.home.evict_some()
        worker.home._ledger_bytes_max = LEDGER_BYTES
        assert list(worker.home.pages()) == []
        silent: list[trio.SocketStream] = []
        assert await received(port, device_id, 1, silent) == [b"only"]
        assert worker.rows_open()["in_flight"] == 1
    await silent[0].aclose()
    worker = make_worker(durability)
    async with serving(worker) as (client, port):
        if durability == "disk":
            assert worker.metrics.rows_recovered.value("resent") == 1
            assert await received(port, device_id, 1) == [b"only"]
            await until_states(client, done.task_id, {"held": 1, "device_acked": 1})
        assert await received(port, other, 1) == [b"only"]
        uncertain = {"device_acked": 1, "uncertain": 1}
        await until_states(client, done.task_id, {"device_acked": 2} if durability == "disk" else uncertain)
        assert worker.home.rows_not_conserved() == 0


async def test_receipts_for_unknown_erased_and_final_rows_change_nothing_but_what_they_may(
    make_worker: Callable[..., Worker],
) -> None:
    """From a device, about rows in memory, in the archive, and of nobody."""
    device_id = bytes([7]) * 16
    worker = make_worker("disk")
    async with serving(worker) as (client, port):
        await client.register_devices([DeviceState(device_id=device_id)])
        done = await client.submit(Variant(title="only", body="b"), [device_id, bytes([9]) * 16])
        assert await received(port, device_id, 1) == [b"only"]
        await until_states(client, done.task_id, {"device_acked": 1, "dropped": 1})
        rows = await client.task_rows(done.task_id, 0, 10)
        ids = [bytes(rows.message_ids)[at : at + 16] for at in (0, 16)]
        await until(lambda: not worker.stores.ledger.unsaved_pages)  # type: ignore[union-attr]
        # It leaves memory: the reports are about a page in the archive.
        worker.home._ledger_bytes_max = 0
        worker.home.evict_some()
        worker.home._ledger_bytes_max = LEDGER_BYTES
        assert list(worker.home.pages()) == []
        refusals = worker.metrics.refusals
        refused = refusals.value("uplink.unknown_message")
        await report(port, device_id, "displayed", [ids[0], os.urandom(16)])
        assert refusals.value("uplink.unknown_message") == refused + 1
        await until_receipts(client, done.task_id, {"displayed": 1})
        # Not its row, and not a device any more.
        await report(port, device_id, "clicked", [ids[1]])
        assert refusals.value("uplink.not_the_target") == 1
        await client.erase_devices([device_id])
        await report(port, device_id, "clicked", [ids[0]])
        await until_receipts(client, done.task_id, {"clicked": 1})
        # Lower and again: nothing falls, nothing is sent.
        await report(port, device_id, "displayed", [ids[0]])
        counts = await client.task_state(done.task_id)
        assert (counts.states, counts.receipts) == ({"device_acked": 1, "dropped": 1}, {"clicked": 1})
        assert await received(port, device_id, 0) == []
        assert worker.home.rows_not_conserved() == 0


async def test_what_a_device_was_acknowledged_is_there_after_a_crash(make_worker: Callable[..., Worker]) -> None:
    """Reports of rows in memory and in the archive, and a change of its registration."""
    device_id = bytes([7]) * 16
    worker = make_worker("disk")
    async with serving(worker) as (client, port):
        await client.register_devices([DeviceState(device_id=device_id)])
        tasks = [await client.submit(Variant(title=title, body="b"), [device_id]) for title in ("first", "second")]
        assert await received(port, device_id, 2) == [b"first", b"second"]
        ids = []
        for done in tasks:
            await until_states(client, done.task_id, {"device_acked": 1})
            ids.append(bytes((await client.task_rows(done.task_id, 0, 10)).message_ids))
        await until(lambda: not worker.stores.ledger.unsaved_pages)  # type: ignore[union-attr]
        worker.home._ledger_bytes_max = 0
        worker.home.evict_some()
        worker.home._ledger_bytes_max = LEDGER_BYTES
        assert list(worker.home.pages()) == []
        await report(port, device_id, "displayed", ids[:1])
        await report(port, device_id, "clicked", ids)
        await report(port, device_id, "tags", [], said={"add": ["night"]})
    # No archive was told of it, only the journal and the registry.
    worker = make_worker("disk")
    async with serving(worker) as (client, _):
        for done in tasks:
            await until_receipts(client, done.task_id, {"clicked": 1})
        hops = (await client.trace(message_id=ids[0])).hops
        assert [hop.receipt for hop in hops if hop.what == "receipt"] == ["delivered", "displayed", "clicked"]
        assert [hop.at_unix_ms for hop in hops] == sorted(hop.at_unix_ms for hop in hops)
        device = worker.devices.device(worker.devices.find_one(device_id, 0))
        assert device.tags == (b"night",)
        assert worker.home.rows_not_conserved() == 0
        assert worker.disk is not None
        # The archive has them a while later; then the journal need not.
        await worker.stores.ledger.flush()  # type: ignore[union-attr]
        await until(lambda: worker.disk.journal.statistics().records == 1)  # type: ignore[union-attr]
        worker.home._ledger_bytes_max = 0
        worker.home.evict_some()
        worker.home._ledger_bytes_max = LEDGER_BYTES
        assert (await client.trace(message_id=ids[0])).hops == hops


async def until_receipts(client: TrioClient, task_id: bytes, receipts: dict[str, int]) -> None:
    with trio.fail_after(60):
        while (found := (await client.task_state(task_id)).receipts) != receipts:
            await trio.sleep(0.02)
    assert found == receipts


async def report(port: int, device_id: bytes, event: str, message_ids: list[bytes], said: Any = None) -> None:
    """The device reports, and the gateway has taken it."""
    name = device_id.hex()
    payload = json.dumps(said or {"message_ids": [str(uuid.UUID(bytes=one)) for one in message_ids]}).encode()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(mqtt.connect(name, "shop", device_password(SECRET, name), 60))
        topic = f"d/{name}/up/{event}".encode()
        body = len(topic).to_bytes(2, "big") + topic + b"\x00\x01" + payload
        await stream.send_all(b"\x32" + mqtt_length(len(body)) + body)
        found = b""
        with trio.fail_after(60):
            # CONNACK, PUBACK.
            while len(found) < 8:
                found += bytes(await stream.receive_some(65536))
        assert found[4:6] == b"\x40\x02"


def mqtt_length(n: int) -> bytes:
    """MQTT 3.1.1, section 2.2.3."""
    return bytes([n]) if n < 128 else bytes([n & 0x7F | 0x80, n >> 7])


def dead_vendor(folder: Path) -> dict[str, Any]:
    """The section of a vendor of text messages where nobody answers."""
    (folder / "sms.secret").write_bytes(b"s")
    return {
        "access_key_id": "key",
        "access_key_secret_file": str(folder / "sms.secret"),
        "sign_name": "Shop",
        "templates": {"default": {"id": "SMS_1", "params": {"content": "{{body}}"}}},
        "host": "127.0.0.1",
        "port": 1,
    }


def holding(folder: Path, texts: list[bytes]) -> set[str]:
    """Names of the files below the folder that have one of the texts."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name for path in files if any(text in path.read_bytes() for text in texts)}


def archived_pages(folder: Path) -> list[bytes]:
    """What the archive's pages hold, which are compressed there."""
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as database:
        return [unpack_page(page) for (page,) in database.execute("SELECT page FROM pages")] + [
            record for (record,) in database.execute("SELECT record FROM changes")
        ]


async def test_pages_and_logs_hold_no_tokens_and_no_phone_numbers_and_the_journal_only_while_rows_are_open(
    make_worker: Callable[..., Worker],
    folder: Path,
) -> None:
    """Numbers as targets, as what a fallback names, and as the token of a device."""
    sms = dead_vendor(folder)
    numbers = [f"1397731{n:04d}" for n in range(9)]
    texts = [number.encode() for number in numbers]
    ids = [bytes([n]) * 16 for n in range(1, 7)]
    log = io.StringIO()
    worker = make_worker("disk", log, aliyun_sms=sms)
    async with serving(worker) as (client, port):
        states = [DeviceState(device_id=one) for one in ids]
        states[5] = DeviceState(device_id=ids[5], channel="aliyun_sms", token=numbers[8])
        await client.register_devices(states)
        to_numbers = await client.submit(
            Variant("t", "b", strategy=2), [("aliyun_sms", one) for one in (*numbers[:4], numbers[8])]
        )
        step = FallbackStep("aliyun_sms", 3600, "phone")
        content = Variant("t", "b", fallback=(step,), ttl_s=86_400)
        with_chain = await client.submit(content, ids[:4], variables={"phone": numbers[4:8]})
        named = await client.submit(Variant("{{name}}", "b"), ids[:2], variables={"name": ["first", "second"]})
        assert await received(port, ids[0], 2) == [b"t", b"first"]
        assert holding(folder / "data" / "journal", texts[:8])
        assert (await client.stop_task(to_numbers.task_id)).cancelled == 5
        assert (await client.stop_task(with_chain.task_id)).cancelled == 3
        # What is held is written, too.
        await worker.stores.flush()
        await until(lambda: worker.disk.journal.statistics().records == 1)  # type: ignore[union-attr]
        assert (folder / "store" / "ledger.db-wal").stat().st_size > 0
        assert holding(folder / "store", texts[:8]) == set()
    assert holding(folder / "store", texts[:8]) == set()
    # A device's token is in the registry, which sends to it.
    assert holding(folder / "store", texts) == {"group-000.db"}
    pages = archived_pages(folder / "store")
    assert len(pages) == 3
    assert not any(text in page for text in [*texts, b"first"] for page in pages)
    assert any(b"second" in page for page in pages)
    assert log.getvalue()
    assert not any(text in log.getvalue().encode() for text in texts)
    worker = make_worker("disk", aliyun_sms=sms)
    async with serving(worker) as (client, port):
        assert await received(port, ids[1], 1) == [b"second"]
        await until_states(client, named.task_id, {"device_acked": 2})
        # By the hash of its token the device is known as the target of a row, and of no other.
        sent = bytes((await client.task_rows(to_numbers.task_id, 0, 10)).message_ids)
        await report(port, ids[5], "displayed", [sent[at : at + 16] for at in range(0, 5 * 16, 16)])
        await until_receipts(client, to_numbers.task_id, {"displayed": 1})
        assert worker.metrics.refusals.value("uplink.not_the_target") == 4


async def test_a_stop_of_an_app_in_memory_outlives_the_process_where_its_pages_do(
    make_worker: Callable[..., Worker], folder: Path
) -> None:
    device_id = bytes([7]) * 16
    worker = make_worker("memory")
    async with serving(worker) as (client, _):
        await client.register_devices([DeviceState(device_id=device_id)])
        done = await client.submit(Variant("t", "b"), [device_id])
        await worker.stores.flush()
        assert (await client.stop_task(done.task_id)).cancelled == 1
        async with open_trio_client(f"unix://{folder / 'operator.sock'}", role="operator", timeout_s=60.0) as operator:
            files = (await operator.backup(str(folder / "copy"))).files
        assert [name for name in files if name.startswith("stopped/0000/")]
    worker = make_worker("memory")
    async with serving(worker) as (client, port):
        with pytest.raises(CallFailed, match="was stopped"):
            await client.submit(Variant("t", "b"), [device_id], task_id=done.task_id)
        assert await received(port, device_id, 0) == []
        await until_states(client, done.task_id, {"cancelled": 1})
        assert worker.home.rows_not_conserved() == 0


async def test_more_rows_are_queued_than_memory_has_room_for_their_texts(
    make_worker: Callable[..., Worker], folder: Path
) -> None:
    worker = make_worker("disk", aliyun_sms=dead_vendor(folder))
    worker.home._rows_open_max, n = 20_000, 1500
    worker.home._ledger_bytes_max = 2 * 100 * n
    async with serving(worker) as (client, _):
        # The client asks again while room is made.
        for first in range(0, 7 * n, n):
            targets = [("aliyun_sms", f"139{row:08d}") for row in range(first, first + n)]
            await client.submit(Variant("t", "b"), targets, variables={"name": [f"a name of some length {first}"] * n})
        assert worker.rows_open()["queued"] == worker.home.rows_open == 7 * n
        assert worker.metrics.pages_spilled.value() >= 4
        worker.stores.refresh_gauges()
        assert worker.metrics.store_bytes.value("spill") > 0


async def test_a_backup_has_what_is_in_the_journal_alone(make_worker: Callable[..., Worker], folder: Path) -> None:
    away, online = bytes([7]) * 16, bytes([8]) * 16
    worker = make_worker("disk")
    async with serving(worker) as (client, port):
        await client.register_devices([DeviceState(device_id=one) for one in (away, online)])
        held = await client.submit(Variant(title="held", body="b"), [away], request_id="one")
        silent: list[trio.SocketStream] = []
        # What waits for it is nothing yet: it is subscribed a moment later.
        await received(port, online, 0, silent)
        await until(lambda: worker.devices.statistics().online == 1)
        flying = await client.submit(Variant(title="flying", body="b"), [online], request_id="two")
        await until_states(client, flying.task_id, {"in_flight": 1})
        async with open_trio_client(f"unix://{folder / 'operator.sock'}", role="operator", timeout_s=60.0) as operator:
            files = (await operator.backup(str(folder / "copy"))).files
        assert [name for name in files if name.startswith("journal/0000/") and name.endswith(".log")]
        assert not [name for name in files if "lock" in name or "spare" in name]
        # Not in the copy.
        await client.submit(Variant(title="later", body="b"), [away])
    await silent[0].aclose()
    config = worker.config
    assert config.store.data_dir is not None
    shutil.rmtree(config.store.data_dir)
    with pytest.raises(StoreError, match="is not empty"):
        restore(folder, worker)
    shutil.rmtree(config.store.data_dir)
    shutil.rmtree(config.gateway.data_dir / "journal")
    restore(folder, worker)
    worker = make_worker("disk")
    async with serving(worker) as (client, port):
        assert worker.metrics.rows_recovered.value("resent") == 1
        await until_states(client, held.task_id, {"held": 1})
        again = await client.submit(Variant(title="flying", body="b"), [online], request_id="two")
        assert again.task_id == flying.task_id
        assert await received(port, online, 1) == [b"flying"]
        assert await received(port, away, 1) == [b"held"]
        assert worker.home.rows_not_conserved() == 0


def restore(folder: Path, worker: Worker) -> None:
    assert worker.config.store.data_dir is not None
    backup.restore(
        folder / "copy",
        worker.config.store.data_dir,
        others=files_elsewhere(worker.config),
        folders=folders_elsewhere(worker.config),
    )


@pytest.mark.parametrize(
    ("durability", "removed", "kept"),
    [
        ("disk", "", {"rows_in_journal": 1, "rows_in_stores": 4, "rows_lost": 0}),
        ("disk", "store/ledger.db", {"rows_in_journal": 1, "rows_in_stores": 0, "rows_lost": 4}),
        ("disk", "store/inbox.db", {"rows_in_journal": 1, "rows_in_stores": 0, "rows_lost": 4}),
        ("disk", "data/journal", {"rows_in_journal": 0, "rows_in_stores": 4, "rows_lost": 1}),
        ("memory", "", {"rows_in_journal": 0, "rows_in_stores": 4, "rows_lost": 1}),
        ("memory", "store/ledger.db", {"rows_in_journal": 0, "rows_in_stores": 0, "rows_lost": 5}),
    ],
)
async def test_what_a_stopping_worker_leaves_is_counted_where_a_start_would_find_it(
    make_worker: Callable[..., Worker], folder: Path, durability: str, removed: str, kept: dict[str, int]
) -> None:
    """Four rows wait for their devices, their page is in the archive and their batch is not in the journal any more;
    one waits for a vendor that is down."""
    ids = [bytes([number]) * 16 for number in range(1, 5)]
    stream = io.StringIO()
    worker = make_worker(durability, stream, aliyun_sms=dead_vendor(folder))
    worker.home._ledger_bytes_max = 1 << 30
    async with trio.open_nursery() as nursery:
        readies: list[Ready] = []
        nursery.start_soon(worker.run, readies.append)
        await until(lambda: readies)
        async with open_trio_client(readies[0].rpc[0], "shop", SECRET, timeout_s=60.0) as client:
            await client.register_devices([DeviceState(device_id=one) for one in ids])
            held = await client.submit(Variant(title="held", body="b"), ids)
            await until_states(client, held.task_id, {"held": 4})
            await until(lambda: all(page.rests for page in worker.home.pages()))
            await worker.stores.flush()
            if worker.disk is not None:
                # What is left is the count of the numbers given.
                await until(lambda: worker.disk.journal.statistics().records == 1)  # type: ignore[union-attr]
            await client.submit(Variant("t", "b"), [("aliyun_sms", "13900000000")], variables={"name": ["x"]})
        if removed:
            path = folder / removed
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        worker.stop()
    worker.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (stopped,) = [line for line in lines if line["event"] == "stopped"]
    assert {name: stopped[name] for name in kept} == kept
    gone = [
        line
        for line in lines
        if line["event"] in ("databases are gone, and what they held", "the journal is gone, and what it held")
    ]
    assert bool(gone) == bool(removed)
    assert not gone or str(folder / removed) in str(gone[0])
