"""A service that is told by HTTP: a real server in a thread, a gateway in this process, devices that acknowledge."""

from __future__ import annotations

import hashlib
import http.server
import json
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.client.requests import DeviceState
from gateway.content import Variant


class Service:
    """answers: statuses of the next requests, 200 afterwards; 0 closes the connection without a word."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.requests: list[tuple[dict[str, str], list[dict[str, Any]]]] = []
        service = self

        class Receiver(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                status = service.answers.pop(0) if service.answers else 200
                lines = [json.loads(line) for line in body.split("\n")]
                service.requests.append(({**{k.lower(): v for k, v in self.headers.items()}, "path": self.path}, lines))
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *args: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/receipts"

    def lines(self, *, answered: bool = True) -> list[dict[str, Any]]:
        return [line for _, lines in self.requests for line in lines]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.close()


@pytest.fixture
def callback(service: Service, folder: Path) -> Callable[..., dict[str, Any]]:
    """The app's keys."""

    def make(**fields: Any) -> dict[str, Any]:
        (folder / "callback.secret").write_text("hush")
        return {"callback": {"url": service.url, "secret_file": str(folder / "callback.secret")} | fields}

    return make


async def until(is_so: Callable[[], Any]) -> None:
    with trio.fail_after(60):
        while not is_so():
            await trio.sleep(0.02)


async def test_a_service_is_told_of_each_end_in_the_form_that_it_can_check(
    open_gateway: Callable[..., Any], new_phone: Callable[[bytes], Any], service: Service, callback: Callable[..., Any]
) -> None:
    async with (
        open_gateway(app=callback(app_id="getui-id", batch_rows_max=2)) as gateway,
        trio.open_nursery() as nursery,
    ):
        (online, away) = await gateway.register(2, "")
        await new_phone(online).connect(gateway.link_port, nursery)
        order = '{"order": "春 7"}\n'
        task = await gateway.client.submit(
            Variant("t", "b", custom_callback=order), [online, away, b"stranger of sixt"]
        )
        await until(lambda: len(service.lines()) == 2)
        await gateway.client.stop_task(task.task_id)
        await until(lambda: len(service.lines()) == 3)
        found = {line["cid"]: line for line in service.lines()}
        assert {cid: (line["code"], line["actionId"]) for cid, line in found.items()} == {
            online.hex(): ("200", "0"),
            b"stranger of sixt".hex(): ("401", ""),
            away.hex(): ("500", ""),
        }
        assert found[away.hex()]["desc"] == "cancelled stopped long_link"
        for line in service.lines():
            signed = line["appid"] + line["cid"] + line["taskid"] + line["msgid"] + "hush"
            assert (line["appid"], line["sign"]) == ("getui-id", hashlib.md5(signed.encode()).hexdigest())
            assert line["taskid"].replace("-", "") == task.task_id.hex()
            assert line["custom_callback"] == order
        assert all(len(lines) <= 2 for _, lines in service.requests)
        headers, _ = service.requests[-1]
        assert (headers["path"], headers["content-type"]) == ("/receipts", "text/plain; charset=utf-8")
        # The stream goes on behind what the service was told.
        async with gateway.client.subscribe_receipts(bytes.fromhex(headers["x-pushgw-cursor"])) as pages:
            other = await gateway.client.submit(Variant("t", "b"), [b"stranger of sixt"])
            async for page in pages:
                if page.n:
                    break
            assert page.n == 1
        assert other.accepted == 1
        nursery.cancel_scope.cancel()


async def test_lines_are_repeated_until_they_are_answered_and_come_in_order(
    open_gateway: Callable[..., Any], service: Service, callback: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.actors.callbacks._RETRY_FIRST_S", 0.05)
    service.answers = [503, 0, 429, 200, 404]
    async with open_gateway(app=callback(batch_rows_max=1)) as gateway:
        tasks = [await gateway.client.submit(Variant("t", "b"), [b"stranger of sixt"]) for _ in range(3)]
        # Four times the first, then the second, which the service refuses, and the third.
        await until(lambda: len(service.requests) == 6)
        told = [line["taskid"].replace("-", "") for line in service.lines()]
        assert told == [task.task_id.hex() for task in [tasks[0]] * 4 + tasks[1:]]
        await until(lambda: gateway.worker.metrics.callback_rows.value("shop", "answered") == 2)
        assert gateway.worker.metrics.callback_rows.value("shop", "refused") == 1
        assert gateway.worker.metrics.callback_retries.value("shop") == 3


async def test_a_service_that_is_down_costs_counted_rows_and_no_memory_beyond_the_queue(
    open_gateway: Callable[..., Any],
    service: Service,
    callback: Callable[..., Any],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.actors.callbacks._RETRY_FIRST_S", 0.05)
    service.answers = [500] * 1000
    async with open_gateway(app=callback(attempts_max=2, queue_rows_max=5, batch_rows_max=1)) as gateway:
        rows = gateway.worker.metrics.callback_rows
        for _ in range(20):
            await gateway.client.submit(Variant("t", "b"), [b"stranger of sixt"])
        await until(lambda: rows.value("shop", "dropped") + rows.value("shop", "undelivered") == 20)
        assert rows.value("shop", "dropped") >= 5
        lost = [line for line in (folder / "gateway.log").read_text().splitlines() if "callbacks lost" in line]
        assert len(lost) == 20
        cursors = [bytes.fromhex(json.loads(line)["after_cursor"]) for line in lost]
        # The ring still has what was lost.
        first = min(cursors, key=lambda cursor: struct.unpack("<QI", cursor))
        async with gateway.client.subscribe_receipts(first) as pages:
            seen = 0
            async for page in pages:
                seen += page.n
                if seen >= 20:
                    break
        service.answers = []
        await gateway.client.submit(Variant("t", "b"), [b"stranger of sixt"])
        await until(lambda: rows.value("shop", "answered") == 1)


async def test_what_was_not_told_when_the_process_ended_is_told_by_the_next_and_once_told_no_more(
    open_gateway: Callable[..., Any],
    service: Service,
    callback: Callable[..., Any],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a row in an archived page, of one that ended in a batch that is still open, and of one in memory."""
    monkeypatch.setattr("gateway.actors.callbacks._NOTE_S", 0.05)
    monkeypatch.setattr("gateway.actors.callback_history.MARGIN_MS", 0)
    stranger, kept = b"stranger of sixt", {"store": {"data_dir": str(folder / "store"), "shard_groups": 1}}
    disk = callback(attempts_max=100, batch_rows_max=1, with_alias=True) | {"durability": "disk"}
    service.answers = [500] * 1000
    async with open_gateway(app=disk, **kept) as gateway:
        ledger = gateway.worker.stores.ledger
        away = bytes([7]) * 16
        await gateway.client.register_devices([DeviceState(device_id=away, alias="春")])
        ended = await gateway.client.submit(Variant("t", "b"), [stranger])
        half = await gateway.client.submit(Variant("t", "b", custom_callback="order 7"), [stranger, away])
        await until(lambda: service.requests and not ledger.unsaved_pages)
        await until(lambda: not gateway.worker.disk.trail.has_dirty)
    service.requests.clear()
    service.answers = []
    async with open_gateway(app=disk, **kept) as gateway:
        await until(lambda: len(service.lines()) >= 2)
        new = await gateway.client.submit(Variant("t", "b"), [stranger])
        await until(lambda: len(service.lines()) >= 3)
        tasks = [line["taskid"].replace("-", "") for line in service.lines()]
        assert sorted(tasks) == sorted(task.task_id.hex() for task in (ended, half, new))
        echoed = [line["taskid"].replace("-", "") for line in service.lines() if "custom_callback" in line]
        assert echoed == [half.task_id.hex()]
        assert {(line["cid"], line["code"]) for line in service.lines()} == {(stranger.hex(), "401")}
        ledger, last = gateway.worker.stores.ledger, max(line["recvtime"] for line in service.lines())
        with trio.fail_after(30):
            while (await ledger.told(0)) <= last:
                await trio.sleep(0.02)
        # What rests goes to the archive, as it would by itself after a while.
        await ledger.flush()
        await until(lambda: gateway.worker.disk.journal.statistics().records == 1)
    service.requests.clear()
    async with open_gateway(app=disk, **kept) as gateway:
        await gateway.client.stop_task(half.task_id)
        await until(service.lines)
        assert [(line["cid"], line["code"], line["alias"]) for line in service.lines()] == [(away.hex(), "500", "春")]
        assert service.lines()[0]["custom_callback"] == "order 7"


def cursors_of(service: Service) -> dict[str, tuple[str, str]]:
    """By journal: the cursor of a request with one line, and that line's message id."""
    return {
        lines[0]["msgid"].replace("-", "")[12:16]: (headers["x-pushgw-cursor"], lines[0]["msgid"].replace("-", ""))
        for headers, lines in service.requests
    }


@pytest.mark.slow
async def test_several_workers_tell_after_a_kill_what_none_of_them_had_told_and_each_names_its_cursor(
    serve: Callable[..., Any],
    open_clients: Callable[..., Any],
    service: Service,
    callback: Callable[..., Any],
    folder: Path,
) -> None:
    """And one worker alone, afterwards, tells what both had not."""
    stranger, away = b"stranger of sixt", bytes([7]) * 16
    over: dict[str, Any] = {
        "app": callback(attempts_max=100, batch_rows_max=1) | {"durability": "disk"},
        "store": {"data_dir": str(folder / "store")},
        "ledger": {"held_write_s": 0.1},
    }
    service.answers = [500] * 100_000
    process = await trio.to_thread.run_sync(lambda: serve(None, **over, gateway={"workers": 2}))
    async with open_clients(process.ready) as gateway:
        await gateway.client.register_devices([DeviceState(device_id=away)])

        async def submit_to_both() -> list[str]:
            """Who is home of a submit follows from its request id, which is chance here."""
            tasks: dict[str, str] = {}
            while set(tasks) != {"8000", "8001"}:
                task = (await gateway.client.submit(Variant("t", "b"), [stranger, away])).task_id.hex()
                told.add(task)
                tasks[task[12:16]] = task
            return list(tasks.values())

        told: set[str] = set()
        for task in await submit_to_both():
            while await gateway.states(bytes.fromhex(task)) != {"dropped": 1, "held": 1}:
                await trio.sleep(0.02)
        # Each tells of the rows of its own, again and again, and says where it is.
        await until(lambda: set(cursors_of(service)) == {"8000", "8001"})
        for cursor, message_id in cursors_of(service).values():
            async with gateway.client.subscribe_receipts(bytes.fromhex(cursor)) as pages:
                await submit_to_both()
                seen: set[str] = set()
                async for page in pages:
                    seen |= {bytes(page.message_ids[16 * at :][:16]).hex() for at in range(page.n)}
                    if {one[12:16] for one in seen} == {"8000", "8001"}:
                        break
                assert message_id not in seen
        await process.end_by(signal.SIGKILL)
    service.requests.clear()
    service.answers = []
    process = await trio.to_thread.run_sync(lambda: serve(None, **over))
    async with open_clients(process.ready) as gateway:

        def ended(cid: bytes) -> set[str]:
            return {line["taskid"].replace("-", "") for line in service.lines() if line["cid"] == cid.hex()}

        await until(lambda: ended(stranger) == told)
        for task in told:
            await gateway.client.stop_task(bytes.fromhex(task))
        await until(lambda: ended(away) == told)
