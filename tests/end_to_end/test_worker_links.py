"""Rows and requests over links between real workers: processes, Unix sockets, simulators, devices."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.client.errors import CallFailed
from gateway.client.loss_calls import LossOf
from gateway.client.trio_client import open_trio_client
from gateway.content import Variant
from gateway.core.ownership import SHARDS, Ownership
from gateway.ledger import Receipt

SECRET = b"the secret of the shop"
#: For a process to be started again, imports included, on a busy machine.
BACK_S = 90.0


def content(title: str = "title", **fields: Any) -> Variant:
    return Variant(title=title, body="body", **fields)


@contextlib.asynccontextmanager
async def clients_of_each(gateway: Any, workers: int = 2) -> AsyncIterator[list[Any]]:
    """Clients until each worker has one or more: who accepts a connection is the kernel's to say."""
    async with contextlib.AsyncExitStack() as stack:
        clients: list[Any] = []
        while True:
            client = open_trio_client(gateway.ready["rpc"][0], "shop", SECRET, timeout_s=10.0)
            clients.append(await stack.enter_async_context(client))
            await clients[-1].welcome()
            facts = (await gateway.operator.status()).facts["workers"]
            # One of each is the operator's.
            if all(one["connections"] >= 2 for one in facts):
                break
            assert len(clients) < 64
        yield clients


def varint(n: int) -> bytes:
    """Remaining length of an MQTT packet, of less than 16,384 bytes."""
    return bytes([n]) if n < 128 else bytes([n & 0x7F | 0x80, n >> 7])


def owners(devices: list[bytes], workers: int = 2) -> list[int]:
    ownership = Ownership(workers, shard_groups=SHARDS)
    return [ownership.owner(device) for device in devices]


async def losses_are_the_same_at_each(clients: list[Any], tasks: list[bytes]) -> None:
    """Whoever is asked adds up what all workers counted, and finds the rows of all of them."""
    of_task, of_app = {"vendor": 60, "link": 20}, len(tasks)
    for client in clients:
        found = await client.loss(LossOf(task_id=tasks[0]))
        assert found.channels == {
            "long_link": [of_task["link"]] * 5 + [0, 0],
            "apns": [of_task["vendor"]] * 4 + [0, 0, 0],
        }
        found = await client.loss(LossOf())
        assert (found.channels["apns"][3], found.channels["long_link"][4]) == (60 * of_app, 20 * of_app)
        assert (await client.count_rows(LossOf(), recount=True)).differing == 0
        ids, cursor = set(), b""
        while True:
            page = await client.loss_rows(LossOf(), "no_receipt", n=50, cursor=cursor)
            ids |= {bytes(page.message_ids[16 * at : 16 * at + 16]) for at in range(page.n)}
            cursor = page.next_cursor
            if not cursor:
                break
        assert len(ids) == 60 * of_app


async def test_any_worker_takes_rows_for_all_devices_and_answers_for_all(
    simulators: Any, serve: Callable[..., Any], open_clients: Callable[..., Any], new_phone: Callable[[bytes], Any]
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, gateway={"workers": 2}))
    async with (
        open_clients(process.ready) as gateway,
        clients_of_each(gateway) as clients,
        trio.open_nursery() as nursery,
    ):
        devices = await gateway.register(60, "apns")
        bare = await gateway.register(20, "", first=100)
        assert set(owners(devices)) == set(owners(bare)) == {0, 1}
        phones = [await new_phone(device).connect(gateway.link_port, nursery) for device in bare]
        tasks = []
        for number, client in enumerate(clients):
            gateway.client = client
            done = await client.submit(content(f"of {number}"), devices + bare)
            assert done.accepted == 80
            tasks.append(done.task_id)
            found = await gateway.until_final(done.task_id)
            assert found.states == {"vendor_accepted": 60, "device_acked": 20}
        # Everybody says the same of each task, of each device, and of who is online.
        for task in tasks:
            told = [(await client.task_state(task)).states for client in clients]
            assert told == [{"vendor_accepted": 60, "device_acked": 20}] * len(clients)
            hops = [(await client.trace(task_id=task, device_id=devices[0])).hops for client in clients]
            assert all([hop.what for hop in way] == [hop.what for hop in hops[0]] for way in hops)
            assert {hop.verdict for hop in hops[0]} >= {"accepted"}
            traced = await clients[0].trace(task_id=task, device_id=devices[0])
            named = [await client.trace(message_id=traced.message_id) for client in clients]
            assert [(one.task_id, one.hops) for one in named] == [(task, traced.hops)] * len(clients)
        await losses_are_the_same_at_each(clients, tasks)
        for client in clients:
            status = await client.device_status(bare + devices)
            assert list(status.is_online) == [1] * 20 + [0] * 60
            assert list(status.is_known) == [1] * 80
            assert np.frombuffer((await client.online_counts()).online, "<u4").sum() == 20
            found = await client.device(bare[0])
            assert found.facts["is_online"]
            assert len(found.facts["messages"]) == len(tasks)
        # What a device says of a message counts, whichever worker is its home.
        displayed = int(Receipt.DISPLAYED)
        topic, ids = f"d/{bare[0].hex()}/up/displayed".encode(), list(phones[0].received)
        said = json.dumps({"message_ids": ids}).encode()
        publish = b"\x30" + varint(2 + len(topic) + len(said)) + len(topic).to_bytes(2, "big") + topic + said
        await phones[0].stream.send_all(publish)
        with trio.fail_after(60):
            for task in tasks:
                while displayed not in (page := await clients[0].task_rows(task)).receipt:
                    await trio.sleep(0.02)
                assert bytes(page.receipt).count(displayed) == 1
        # Each of them saw each message once.
        assert all(list(phone.received.values()) == [1] * len(tasks) for phone in phones)
        copies = simulators.copies("apns")
        assert (len(copies), set(copies.values())) == (60 * len(tasks), {1})
        page = await gateway.metrics()
        assert page["pushgw_link_rows_total", "sent"] == page["pushgw_link_rows_total", "received"] > 0
        assert page.get(("pushgw_link_rows_total", "report_dropped"), 0) == 0
        assert page["pushgw_rows_not_conserved", ""] == 0
        nursery.cancel_scope.cancel()


async def test_repeated_request_id_finds_its_first_answer_at_any_worker(
    simulators: Any, serve: Callable[..., Any], open_clients: Callable[..., Any]
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, gateway={"workers": 2}))
    async with open_clients(process.ready) as gateway, clients_of_each(gateway) as clients:
        devices = await gateway.register(4, "apns")
        for number in range(6):
            name = f"request {number}"
            told = {(await client.submit(content(), devices, request_id=name)).task_id for client in clients}
            assert len(told) == 1
            with pytest.raises(CallFailed, match="request_id_reused"):
                await clients[-1].submit(content("another"), devices, request_id=name)
            await gateway.until_final(told.pop())
        assert len(simulators.copies("apns")) == 6 * 4


async def test_receipts_of_all_workers_come_in_one_stream_each_once(
    simulators: Any, serve: Callable[..., Any], open_clients: Callable[..., Any]
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, gateway={"workers": 2}))
    async with open_clients(process.ready) as gateway, clients_of_each(gateway) as clients:
        devices = await gateway.register(30, "apns")
        seen: list[bytes] = []
        cursor = b""
        for part in range(2):
            async with clients[0].subscribe_receipts(cursor) as stream, trio.open_nursery() as nursery:

                async def submit() -> None:
                    for client in clients:
                        await client.submit(content(), devices)

                nursery.start_soon(submit)
                wanted = (part + 1) * len(clients) * 30
                with trio.fail_after(60):
                    while len(seen) < wanted:
                        page = await stream.__anext__()
                        ids = bytes(page.message_ids)
                        seen += [ids[16 * k : 16 * k + 16] for k in range(page.n)]
                        cursor = page.cursor
        assert len(set(seen)) == len(seen) == 2 * len(clients) * 30


async def test_worker_killed_in_mid_flow_costs_no_row_and_doubles_none_but_those_that_say_so(
    simulators: Any, serve: Callable[..., Any], open_clients: Callable[..., Any], resent: Callable[..., set[str]]
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, gateway={"workers": 2}))
    async with open_clients(process.ready) as gateway, clients_of_each(gateway) as clients:
        devices = await gateway.register(400, "apns")
        facts = (await gateway.operator.status()).facts["workers"]
        tasks: list[tuple[int, bytes]] = []
        victim = facts[1]
        for round_ in range(6):
            for client in clients:
                with contextlib.suppress(Exception):
                    done = await client.submit(content(f"round {round_}"), devices)
                    tasks.append((round_, done.task_id))
            if round_ == 2:
                os.kill(victim["pid"], signal.SIGKILL)
        ended: list[bytes] = []
        lost = 0
        with trio.fail_after(BACK_S * 2):
            for _, task in tasks:
                while True:
                    try:
                        counts = await gateway.client.task_state(task)
                    except CallFailed as error:
                        if error.error.code == "not_found":
                            # Its home was the worker that died, and journals are in memory here.
                            lost += 1
                            break
                        await trio.sleep(0.1)
                        continue
                    assert sum(counts.states.values()) == counts.accepted, "not conserved"
                    if counts.is_final:
                        ended.append(task)
                        break
                    await trio.sleep(0.1)
        assert ended
        copies = simulators.copies("apns")
        for task in ended:
            rows = await gateway.rows(task)
            may_double = resent(rows)
            for message, state, _ in rows:
                assert copies[message] <= 1 or message in may_double
                assert state != "vendor_accepted" or copies[message] >= 1
        page = await gateway.metrics()
        assert page["pushgw_rows_not_conserved", ""] == 0
