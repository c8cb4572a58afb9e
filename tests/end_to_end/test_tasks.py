"""Tasks of many submits, with their labels; tasks that are stopped; a gateway in this process, real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.__main__ import main
from gateway.client.asyncio_client import AsyncioClient
from gateway.client.blocking import BlockingClient
from gateway.client.errors import CallFailed
from gateway.client.trio_client import open_trio_client
from gateway.content import Variant
from gateway.message_id import to_text

SECRET = b"the secret of the shop"


def content(**fields: Any) -> Variant:
    return Variant("title", "body", **fields)


async def refused(call: Any, code: str) -> str:
    with pytest.raises(CallFailed) as caught:
        await call
    assert caught.value.code == code
    return str(caught.value)


async def command(*arguments: str) -> int:
    """A `pushgw` command in a thread: its exit code."""
    return await trio.to_thread.run_sync(main, list(arguments))


async def test_many_submits_are_one_task_with_groups_and_plans(open_gateway: Callable[..., Any]) -> None:
    async with open_gateway(copies=1) as gateway:
        devices = await gateway.register(6, "")
        first = await gateway.client.submit(content(plan_id="spring"), devices[:3], group="north")
        # Six single submits at once: they share batches, and the task.
        answers: list[Any] = []

        async def add(device: bytes) -> None:
            made = await gateway.client.submit(
                content(plan_id="summer"), [device], group="south", task_id=first.task_id
            )
            answers.append(made)

        async with trio.open_nursery() as nursery:
            for device in devices:
                nursery.start_soon(add, device)
        assert {answer.task_id for answer in answers} == {first.task_id}
        counts = await gateway.client.task_state(first.task_id)
        assert (counts.accepted, counts.states) == (9, {"held": 9})
        assert counts.groups == {"north": 3, "south": 6}
        assert counts.plans == {"spring": 3, "summer": 6}
        page = await gateway.client.task_rows(first.task_id)
        assert page.n == 9
        assert list(page.row.cast("I")) == [0, 1, 2] + [0] * 6
        hops = await gateway.client.trace(first.task_id, devices[5])
        assert (hops.task_id, hops.group, hops.plan_id) == (first.task_id, "south", "summer")
        async with open_trio_client(gateway.ready["rpc"][0], "shop1", SECRET, timeout_s=10.0) as stranger:
            await refused(stranger.submit(content(), devices[:1], task_id=first.task_id), "not_found")
            await refused(stranger.stop_task(first.task_id), "not_found")
        await refused(gateway.client.submit(content(), devices[:1], task_id=bytes(16)), "not_found")


async def test_a_repeated_submit_into_a_task_is_done_once_and_names_the_task(open_gateway: Callable[..., Any]) -> None:
    async with open_gateway() as gateway:
        devices = await gateway.register(2, "")
        first = await gateway.client.submit(content(), devices[:1])
        for _ in range(2):
            again = await gateway.client.submit(content(), devices[1:], task_id=first.task_id, request_id="one")
            assert again.task_id == first.task_id
        assert (await gateway.client.task_state(first.task_id)).accepted == 2
        # Into no task it is another call.
        await refused(gateway.client.submit(content(), devices[1:], request_id="one"), "request_id_reused")


async def test_a_stopped_task_ends_and_takes_no_rows_through_any_client(open_gateway: Callable[..., Any]) -> None:
    async with open_gateway() as gateway, trio.open_nursery() as nursery:
        devices = await gateway.register(5, "")
        task = await gateway.client.submit(content(), devices)
        stopped = await gateway.client.stop_task(task.task_id)
        assert (stopped.cancelled, stopped.may_have_arrived, stopped.accepted) == (5, 0, 5)
        assert (stopped.states, stopped.is_final) == ({"cancelled": 5}, True)
        assert stopped.channels == {"long_link": {"cancelled": 5}}
        counts = await gateway.client.task_state(task.task_id)
        assert counts.reasons == {"stopped": 5}
        text = await refused(gateway.client.submit(content(), devices, task_id=task.task_id), "task_stopped")
        assert to_text(task.task_id) in text
        address = gateway.ready["rpc"][0]

        def ask_blocking() -> Any:
            with BlockingClient(address, "shop", SECRET, timeout_s=10.0) as client:
                return client.stop_task(task.task_id)

        again = await trio.to_thread.run_sync(ask_blocking)
        assert (again.cancelled, again.states) == (0, {"cancelled": 5})
        assert hasattr(AsyncioClient, "stop_task")
        assert len(gateway.worker.inbox_store) == 0
        nursery.cancel_scope.cancel()


async def test_an_operator_stops_a_task_at_night(
    open_gateway: Callable[..., Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_gateway() as gateway:
        devices = await gateway.register(3, "")
        lines = folder / "lines.jsonl"
        lines.write_text("".join(json.dumps({"to": one.hex(), "title": "t", "body": "b"}) + "\n" for one in devices))
        config = ["--config", str(folder / "gateway.toml")]
        address = ["--address", gateway.ready["rpc"][0]]
        submit = ["submit", str(lines), *config, *address, "--json", "--group", "night"]
        assert await command(*submit) == 0
        (task,) = json.loads(capsys.readouterr().out)["tasks"]
        assert await command(*submit, "--task", task) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["tasks"], report["accepted"], report["states"]) == ([task], 3, {"held": 6})
        assert await command("stop", task, *config) == 0
        assert "6 of 6 rows cancelled by this call" in capsys.readouterr().out
        assert await command("task", task, *config, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["states"], told["groups"], told["plans"]) == ({"cancelled": 6}, {"night": 6}, {})
        assert await command(*submit, "--task", task) == 2
        assert "was stopped at 20" in capsys.readouterr().err


async def test_a_stop_outlives_the_process_where_the_journal_is_on_the_disk(open_gateway: Callable[..., Any]) -> None:
    disk = {"app": {"durability": "disk"}}
    async with open_gateway(**disk) as gateway:
        devices = await gateway.register(4, "")
        task = await gateway.client.submit(content(), devices[:3])
        more = await gateway.client.submit(content(), devices[3:], task_id=task.task_id)
        other = await gateway.client.submit(content(), devices)
        assert more.task_id == task.task_id
        # As if the process ended before the outcomes of the rows could be written.
        gateway.worker.disk.trail.take = lambda pages_max: None
        assert (await gateway.client.stop_task(task.task_id)).cancelled == 4
    async with open_gateway(**disk) as gateway:
        counts = await gateway.client.task_state(task.task_id)
        assert (counts.states, counts.reasons) == ({"cancelled": 4}, {"stopped": 4})
        assert await gateway.states(other.task_id) == {"held": 4}
        await refused(gateway.client.submit(content(), devices, task_id=task.task_id), "task_stopped")


async def test_a_revoked_task_is_taken_back_from_devices_and_what_stays_shown_is_said(
    open_gateway: Callable[..., Any], new_phone: Callable[[bytes], Any], simulators: Any
) -> None:
    async with open_gateway(simulators.ready) as gateway, trio.open_nursery() as nursery:
        (online, away), (at_vendor,) = await gateway.register(2, ""), await gateway.register(1, "apns")
        phone = await new_phone(online).connect(gateway.link_port, nursery)
        task = await gateway.client.submit(content(), [online, away, at_vendor])
        with trio.fail_after(60):
            while await gateway.states(task.task_id) != {"device_acked": 1, "held": 1, "vendor_accepted": 1}:
                await trio.sleep(0.02)
        revoked = await gateway.client.revoke_task(task.task_id)
        assert revoked.cancelled == 1
        assert revoked.channels == {"long_link": {"not_shown": 1, "revoked": 1}, "apns": {"cannot": 1}}
        counts = await gateway.until_final(revoked.revoke_task_id)
        assert counts.states == {"device_acked": 1}
        shown, taken_back = phone.payloads
        assert taken_back == {
            "message_id": taken_back["message_id"],
            "type": "revoke",
            "revokes": shown["message_id"],
        }
        nursery.cancel_scope.cancel()


async def test_a_replacement_takes_the_place_of_what_is_shown_on_every_channel_that_can(
    open_gateway: Callable[..., Any], new_phone: Callable[[bytes], Any], simulators: Any, folder: Path, capsys: Any
) -> None:
    async with open_gateway(simulators.ready) as gateway, trio.open_nursery() as nursery:
        (online,), (at_vendor,) = await gateway.register(1, ""), await gateway.register(1, "apns")
        phone = await new_phone(online).connect(gateway.link_port, nursery)
        task = await gateway.client.submit(content(collapse_id="offer"), [online, at_vendor])
        await gateway.until_final(task.task_id)
        (folder / "sorry.json").write_text('{"title": "Sorry", "body": "A mistake."}')
        arguments = ["revoke", to_text(task.task_id), "--config", str(folder / "gateway.toml")]
        assert await command(*arguments, "--replace-with", str(folder / "sorry.json"), "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert told["channels"] == {"long_link": {"replaced": 1}, "apns": {"replaced": 1}}
        counts = await gateway.until_final(bytes.fromhex(told["revoke_task"].replace("-", "")))
        assert counts.states == {"device_acked": 1, "vendor_accepted": 1}
        assert [(one["title"], one["collapse_id"]) for one in phone.payloads] == [
            ("title", "offer"),
            ("Sorry", "offer"),
        ]
        rows = await trio.to_thread.run_sync(simulators.call, "GET", "/received?simulator=apns")
        assert sorted(row["title"] for row in rows) == ["Sorry", "title"]
        assert await command(*arguments) == 0
        assert "STAYS SHOWN" in capsys.readouterr().out
        with pytest.raises(CallFailed, match="a replacement is a notification"):
            await gateway.client.revoke_task(task.task_id, replacement=content(collapse_id="other"))
        nursery.cancel_scope.cancel()


async def test_an_audience_on_disk_goes_on_in_the_next_process_and_reaches_each_device_once(
    open_gateway: Callable[..., Any], new_phone: Callable[[bytes], Any], folder: Path
) -> None:
    # With stores, so that rows that had ended are still known afterwards.
    disk = {"app": {"durability": "disk"}, "audiences": {"chunk_rows_max": 2}, "store": {"data_dir": str(folder / "s")}}
    async with open_gateway(**disk) as gateway, trio.open_nursery() as nursery:
        devices = await gateway.register(7, "")
        for device in devices:
            await new_phone(device).connect(gateway.link_port, nursery)
        ask = {"tag": "", "rows_per_s": 8.0, "request_id": "goal"}
        started = await gateway.client.submit_audience(content(), **ask)
        assert started.devices == 7
        # The same call again is the same audience.
        again = await gateway.client.submit_audience(content(), **ask)
        assert (again.task_id, again.devices) == (started.task_id, 7)
        with trio.fail_after(60):
            while (await gateway.client.task_state(started.task_id)).accepted < 4:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    async with open_gateway(**disk) as gateway:
        with trio.fail_after(60):
            while (await gateway.client.task_state(started.task_id)).accepted < 7:
                await trio.sleep(0.02)
        await trio.sleep(0.5)
        page = await gateway.client.task_rows(started.task_id)
        found = [bytes(page.device_ids)[16 * row : 16 * row + 16] for row in range(page.n)]
        assert sorted(found) == sorted(devices)
        assert sorted(page.row.cast("I")) == list(range(7))
        again = await gateway.client.submit_audience(content(), **ask)
        assert (again.task_id, again.devices) == (started.task_id, 7)
        await refused(gateway.client.submit_audience(content(), request_id="goal"), "request_id_reused")


async def test_a_stopped_audience_does_not_go_on_in_the_next_process(
    open_gateway: Callable[..., Any], new_phone: Callable[[bytes], Any]
) -> None:
    disk = {"app": {"durability": "disk"}, "audiences": {"chunk_rows_max": 1}}
    async with open_gateway(**disk) as gateway, trio.open_nursery() as nursery:
        for device in await gateway.register(3, ""):
            await new_phone(device).connect(gateway.link_port, nursery)
        audiences = gateway.worker.audiences
        # As if the process ended before the audience's records could be let go.
        audiences._journal = audiences._journal._replace(let_go=lambda positions: None)
        started = await gateway.client.submit_audience(content(), rows_per_s=0.1)
        stopped = await gateway.client.stop_task(started.task_id)
        assert (stopped.accepted, stopped.is_final) in [(1, True), (1, False)]
        with trio.fail_after(60):
            while not (await gateway.client.task_state(started.task_id)).is_final:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    async with open_gateway(**disk) as gateway:
        assert not gateway.worker.audiences.is_running(started.task_id)
        journal = gateway.worker.disk.journal
        with trio.fail_after(60):
            while 4 in [record.kind async for _, record in journal.replay(0)]:
                await trio.sleep(0.02)
        assert not gateway.worker.audiences.is_running(started.task_id)
