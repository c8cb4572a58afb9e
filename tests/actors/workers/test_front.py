"""Front: a client may be connected to any worker and is answered as if there were one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import trio

from gateway.client.requests import DeviceState, device_status_request, register_request, submit_request
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.core.callback_lines import Signer, lines_of
from gateway.core.identity import device_password
from gateway.errors import Overloaded, StoreCorrupt
from gateway.ledger import State
from gateway.message_id import to_text
from gateway.wire.rpc import messages
from gateway.wire.rpc.server import Requested


def submit(devices: Sequence[bytes], request_id: str = "") -> Any:
    return submit_request(Variant("title", "body"), devices, request_id=request_id)


async def test_registration_reaches_each_devices_owner_and_is_answered_as_one(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(3)
    ids = [bytes([7]) + number.to_bytes(15, "big") for number in range(1, 40)]
    devices = [DeviceState(device_id=one, channel="apns", token=one.hex() * 2) for one in ids]
    for client in offices.clients():
        answer = await client.ask(register_request(devices, want_passwords=True))
        assert (answer.id, answer.registered, answer.refused_count) == (5, 39, 0)
        column = TextColumn(answer.passwords.blob, np.frombuffer(answer.passwords.offsets, "<u4"))
        assert column.row(11) == device_password(b"secret", ids[11].hex()).encode()
    known = [int(offices.cluster.world(index).devices.statistics().devices) for index in range(3)]
    assert sum(known) == 39
    assert min(known) > 0
    for client in offices.clients():
        status = await client.ask(device_status_request(ids))
        assert list(status.is_known) == [1] * 39
        found = await client.ask(messages.Device(id=7, device_id=ids[3]))
        assert found.facts["app"] == "shop"
        missing = await client.ask(messages.Device(id=8, device_id=bytes(16)))
        assert (missing.id, missing.code) == (8, "not_found")
        unknown = await client.ask(messages.Device(id=9, alias="nobody"))
        assert (unknown.id, unknown.code) == (9, "not_found")


async def test_task_and_trace_are_answered_by_their_home_wherever_they_are_asked_for(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(2)
    cluster = offices.cluster
    devices = [*cluster.owned_by(0, 2), *cluster.owned_by(1, 2)]
    tasks = []
    for client in offices.clients():
        done = await client.ask(submit(devices))
        assert (done.accepted, client.granted) == (4, 4)
        tasks.append(done.task_id)
    for index in (0, 1):
        cluster.answer_all(index)
    await cluster.settle()
    for client in offices.clients():
        for task in tasks:
            counts = await client.ask(messages.TaskState(id=5, task_id=task))
            assert counts.states == {"vendor_accepted": 4}
            rows = await client.ask(messages.TaskRows(id=5, task_id=task))
            assert rows.n == 4
            way = await client.ask(messages.Trace(id=5, task_id=task, device_id=devices[3]))
            assert {hop.what for hop in way.hops} == {"submitted", "routed", "issued", "answered", "state"}
            again = await client.ask(messages.Trace(id=5, message_id=way.message_id))
            assert again.hops == way.hops
        found = await client.ask(messages.Device(id=7, device_id=devices[3]))
        assert len(found.facts["messages"]) == 2
        forged = await client.ask(messages.TaskState(id=5, task_id=bytes(16)))
        assert forged.code == "not_found"


async def test_submit_with_a_request_id_has_one_home_and_one_answer(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(3)
    devices = offices.cluster.owned_by(0, 3)
    homes = set()
    for number in range(16):
        answers = [await client.ask(submit(devices, f"request {number}")) for client in offices.clients()]
        assert len({answer.task_id for answer in answers}) == 1
        homes.add(int.from_bytes(answers[0].task_id[6:8], "big") & 0xFFF)
        other = await offices.client(1).ask(submit(devices[:1], f"request {number}"))
        assert other.code == "request_id_reused"
    assert homes == {0, 1, 2}
    sent = sum(len(offices.cluster.world(index).apns.requests()) for index in range(3))
    assert sent == 16 * 3


async def test_request_that_needs_a_worker_that_is_down_is_told_to_come_back(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(2)
    cluster = offices.cluster
    (device,) = cluster.owned_by(1, 1)
    await offices.kill(1)
    client = offices.client(0)
    answer = await client.ask(device_status_request([device]))
    assert (answer.id, answer.code, answer.retry_after_ms) == (5, "overloaded", 1000)
    with pytest.raises(Overloaded):
        await offices.fronts[0].register(
            register_request([DeviceState(device_id=device, channel="apns", token="t" * 64)]), "shop"
        )
    await offices.revive(1, [device])
    await cluster.settle()
    assert list((await client.ask(device_status_request([device]))).is_known) == [1]


@pytest.mark.parametrize("broken", [0, 1])
async def test_store_that_cannot_be_read_fails_the_request_that_needs_it_and_no_other(
    broken: int, open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    """A device's last messages are asked of every worker; a request that waits meanwhile must not end with it."""
    offices = await open_offices(2)
    cluster = offices.cluster
    (device,) = cluster.owned_by(1 - broken, 1)

    async def fail(app: int, device_id: bytes) -> Any:
        raise StoreCorrupt("ledger", "page 7 of 8: cut short")

    offices.fronts[broken]._service.last_messages = fail
    client, other = offices.client(0), offices.client(0)
    other.front.request(other, Requested(messages.SubscribeReceipts(id=5), 0, {}))
    answer = await client.ask(messages.Device(id=7, device_id=device))
    assert (answer.id, answer.code) == (7, "internal")
    assert "page 7 of 8: cut short" in answer.text
    page = await cluster.send(1, [device])
    cluster.answer_all(1 - broken)
    await trio.sleep(1)
    assert page.counts[State.VENDOR_ACCEPTED] == 1
    assert sum(one.n for one in other.answers) == 1, "the stream goes on"


def ids_of(page: Any) -> list[bytes]:
    return [bytes(page.message_ids[16 * k : 16 * k + 16]) for k in range(page.n)]


async def test_receipts_of_all_homes_come_in_one_stream_within_the_clients_credit(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(3)
    cluster = offices.cluster
    targets = [device for index in range(3) for device in cluster.owned_by(index, 5)]
    client = offices.client(0, credit=7)
    client.front.request(client, Requested(messages.SubscribeReceipts(id=5), 0, {}))
    await trio.sleep(0.1)
    for other in offices.clients():
        await other.ask(submit(targets))
    for index in range(3):
        cluster.answer_all(index)
    await trio.sleep(1)
    seen = [one for page in client.answers for one in ids_of(page)]
    assert len(seen) == 7
    while client.session.credit == 0 and len(seen) < 45:
        client.session.credit = 7
        client.front.credited(client, 5)
        await trio.sleep(1)
        seen = [one for page in client.answers for one in ids_of(page)]
    assert len(set(seen)) == len(seen) == 45
    # From any page on, another client at another worker gets the rest.
    middle = len(client.answers) // 2
    late = offices.client(2)
    cursor = client.answers[middle].cursor
    late.front.request(late, Requested(messages.SubscribeReceipts(id=5, cursor=cursor), 0, {}))
    await trio.sleep(1)
    rest = [one for page in client.answers[middle + 1 :] for one in ids_of(page)]
    assert sorted(one for page in late.answers for one in ids_of(page)) == sorted(rest)
    late.front.cancelled(late, 5)
    client.front.closed(client)
    await cluster.settle()


async def test_stream_goes_on_with_the_next_life_of_a_worker_and_a_cursor_of_the_last_is_expired(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(2)
    cluster = offices.cluster
    client = offices.client(0)
    client.front.request(client, Requested(messages.SubscribeReceipts(id=5), 0, {}))
    await trio.sleep(0.1)
    (device,) = cluster.owned_by(0, 1)
    await offices.client(1).ask(submit([device]))
    cluster.answer_all(0)
    await trio.sleep(1)
    assert [page.n for page in client.answers] == [0, 1]
    await offices.kill(1)
    await offices.revive(1)
    await cluster.settle()
    await offices.client(1).ask(submit([device]))
    cluster.answer_all(0)
    await trio.sleep(1)
    assert [page.n for page in client.answers] == [0, 1, 1]
    for cursor in (client.answers[0].cursor, b"12 bytes....", b"x" * 32):
        late = offices.client(1)
        refused = await late.ask(messages.SubscribeReceipts(id=5, cursor=cursor))
        assert refused.code == "cursor_expired"
    cluster.workers[0].nursery.cancel_scope.cancel()


async def test_stream_tells_when_it_is_in_place_and_nothing_of_any_worker_is_missing_from_then_on(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    """The empty first page is an answer of all workers: what is submitted elsewhere after it must come."""
    offices = await open_offices(3)
    devices = [device for index in range(3) for device in offices.cluster.owned_by(index, 2)]
    client = offices.client(0)
    begun = await client.ask(messages.SubscribeReceipts(id=5))
    assert (begun.n, len(begun.cursor)) == (0, 3 * 16)
    for other in offices.clients():
        await other.ask(submit(devices))
    for index in range(3):
        offices.cluster.answer_all(index)
    await trio.sleep(1)
    assert sum(page.n for page in client.answers) == 3 * 6
    # The connection is lost before any other page: the first one's cursor is good for all of them.
    late = offices.client(1)
    late.front.request(late, Requested(messages.SubscribeReceipts(id=5, cursor=begun.cursor), 0, {}))
    await trio.sleep(1)
    assert sum(page.n for page in late.answers) == 3 * 6
    for each in (client, late):
        each.front.closed(each)


async def test_stream_that_begins_while_a_worker_is_down_has_everything_of_its_next_life(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(2)
    cluster = offices.cluster
    (device,) = cluster.owned_by(0, 1)
    await offices.kill(1)
    client = offices.client(0)
    assert (await client.ask(messages.SubscribeReceipts(id=5))).n == 0
    await offices.revive(1)
    await cluster.settle()
    # Before the stream has looked again.
    await offices.client(1).ask(submit([device]))
    cluster.answer_all(0)
    await trio.sleep(1)
    assert [page.n for page in client.answers] == [0, 1]
    client.front.closed(client)


def came(offices: Any, index: int, *devices: bytes) -> None:
    """These devices of that worker are online."""
    presence = offices.presences[index]
    table = presence._devices
    for device in devices:
        presence.came(table.find_one(device, 0))


async def test_presence_of_all_workers_comes_in_one_stream_and_ends_with_the_life_of_any(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(3)
    devices = [offices.cluster.owned_by(index, 1)[0] for index in range(3)]
    client = offices.client(2)
    begun = await client.ask(messages.SubscribePresence(id=5))
    assert begun.n == 0
    for index, device in enumerate(devices):
        came(offices, index, device)
    await trio.sleep(1)
    seen = sorted(bytes(page.device_ids) for page in client.answers if page.n)
    assert seen == sorted(devices)
    # Somebody else goes on from its first page, at another worker, within the room that he has.
    late = offices.client(0, credit=2)
    late.front.request(late, Requested(messages.SubscribePresence(id=5, cursor=begun.cursor), 0, {}))
    await trio.sleep(1)
    assert sum(page.n for page in late.answers) == 2
    await offices.kill(1)
    await offices.revive(1)
    await trio.sleep(1)
    assert client.answers[-1].code == "cursor_expired"
    late.front.cancelled(late, 5)


async def test_end_of_rows_whose_home_died_is_told_by_their_holder(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    """The ledger died with the home; the rows did not, and whoever submitted them hears what became of each, once."""
    offices = await open_offices(2)
    cluster = offices.cluster
    devices = cluster.owned_by(0, 4)
    client = offices.client(0)
    assert (await client.ask(messages.SubscribeReceipts(id=5))).n == 0
    done = await offices.client(1).ask(submit(devices))
    sent = cluster.world(0).apns.connections[0]
    sent.answer(n=1)
    await trio.sleep(1)
    assert sum(page.n for page in client.answers) == 1
    await offices.kill(1)
    sent.answer(400, n=1)
    await trio.sleep(1)
    await offices.revive(1)
    await cluster.settle()
    cluster.answer_all(0, 400)
    await trio.sleep(1)
    seen = [one for page in client.answers for one in ids_of(page)]
    assert len(seen) == len(set(seen)) == 4
    states = [state for page in client.answers for state in page.state]
    assert states == [State.VENDOR_ACCEPTED] + [State.FAILED] * 3
    assert (await client.ask(messages.TaskState(id=6, task_id=done.task_id))).code == "not_found"
    # Callbacks have the task that it was.
    changes, _ = cluster.world(0).home.changes(0, 10)
    lines = [line for change in changes for line in lines_of(change, np.arange(len(change.rows)), Signer("shop", b"s"))]
    assert [json.loads(line)["taskid"] for line in lines] == [to_text(done.task_id)] * 3
    client.front.closed(client)
