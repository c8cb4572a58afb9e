"""The listener of vendors' receipts: what each request is told, and that nothing but a receipt of a vendor gets in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import h11
import pytest
import trio
import trio.testing

from gateway.api.conversation import HttpSettings
from gateway.api.receipts import Endpoint, ReceiptsSite
from gateway.errors import CloseReason
from gateway.ledger import Channel
from gateway.observe.metrics import Metrics
from gateway.receipts import Event, VendorReceipt
from vendors.receipts import READERS


class Settings:
    """Of a vendor whose console signs."""

    callback_user = "user"


class Site:
    """A listener with Huawei (signed) and OPPO of one app; what was taken."""

    def __init__(self, settings: HttpSettings | None = None) -> None:
        self.metrics = Metrics()
        self.taken: list[tuple[int, Channel, list[VendorReceipt]]] = []
        self.has_room = True
        self.told: list[Callable[[bool], None]] = []
        #: What the desk says at once; None: nothing yet.
        self.is_durable: bool | None = True
        self.not_ready: Sequence[str] = ()
        endpoints = {
            "shop/huawei": Endpoint(0, Channel.HUAWEI, READERS["huawei"].reader(Settings(), b"key")),
            "shop/oppo": Endpoint(0, Channel.OPPO, READERS["oppo"].reader(None, b"")),
        }
        self.site = ReceiptsSite(
            endpoints,
            self,
            self.metrics,
            settings or HttpSettings(body_bytes_max=1000),
            now_unix_s=lambda: 1.0,
            not_ready=lambda: self.not_ready,
        )

    def take(
        self, app: int, channel: Channel, receipts: list[VendorReceipt], told: Callable[[bool], None] | None = None
    ) -> bool:
        if self.has_room:
            self.taken.append((app, channel, receipts))
            assert told is not None
            self.told.append(told)
            if self.is_durable is not None:
                told(self.is_durable)
        return self.has_room

    async def ask(self, *requests: bytes) -> list[tuple[int, bytes]]:
        """Status and body of each request of one connection."""
        ours, theirs = trio.testing.memory_stream_pair()
        found: list[tuple[int, bytes]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.site.converse, theirs)
            client = h11.Connection(h11.CLIENT)
            for request in requests:
                client.send(h11.Request(method="POST", target="/", headers=[("Host", "h")]))
                client.send(h11.EndOfMessage())
                await ours.send_all(request)
                found.append(await self._answer(client, ours))
                if client.their_state is h11.DONE:
                    client.start_next_cycle()
            await ours.aclose()
        return found

    async def _answer(self, client: h11.Connection, stream: trio.abc.Stream) -> tuple[int, bytes]:
        status, body = 0, b""
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            else:
                return status, body

    def outcome(self, channel: Channel, name: str) -> int:
        return int(self.metrics.receipt_requests.value(channel, name))


def post(path: str, body: bytes, method: str = "POST") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


GOOD = json.dumps([{"registrationIds": "a,b", "param": "p", "eventType": "push_arrive"}]).encode()


async def test_receipts_are_taken_one_request_after_the_other_on_one_connection(autojump_clock: Any) -> None:
    site = Site()
    told = await site.ask(post("/v1/receipts/shop/oppo", GOOD), post("/v1/receipts/shop/oppo?x=1", GOOD))
    assert told == [(200, b"ok")] * 2
    receipt = VendorReceipt(Event.DELIVERED, "p", ["a", "b"])
    assert site.taken == [(0, Channel.OPPO, [receipt])] * 2
    assert site.outcome(Channel.OPPO, "taken") == 2


@pytest.mark.parametrize(
    ("path", "body", "method", "status", "outcome"),
    [
        ("/v1/receipts/shop/oppo", b"no json", "POST", 400, "unreadable"),
        ("/v1/receipts/shop/oppo", b"x" * 1001, "POST", 413, "too_large"),
        ("/v1/receipts/shop/oppo", GOOD, "PUT", 405, "method"),
        ("/v1/receipts/shop/huawei", b'{"statuses":[]}', "POST", 401, "unproven"),
        ("/v1/receipts/shop/apns", GOOD, "POST", 404, ""),
        ("/v1/receipts/other/oppo", GOOD, "POST", 404, ""),
        ("/v1/receipts/", GOOD, "POST", 404, ""),
        ("/", GOOD, "POST", 404, ""),
    ],
)
async def test_what_is_no_receipt_is_refused(
    path: str, body: bytes, method: str, status: int, outcome: str, autojump_clock: Any
) -> None:
    site = Site()
    ((told, _),) = await site.ask(post(path, body, method))
    assert (told, site.taken) == (status, [])
    channel = Channel.HUAWEI if path.endswith("huawei") else Channel.OPPO
    assert not outcome or site.outcome(channel, outcome) == 1


async def test_vendor_is_asked_to_come_again_while_there_is_no_room_or_the_worker_is_not_ready(
    autojump_clock: Any,
) -> None:
    site = Site()
    site.has_room = False
    assert [status for status, _ in await site.ask(post("/v1/receipts/shop/oppo", GOOD))] == [503]
    site.has_room, site.not_ready = True, ["starting or stopping"]
    assert [status for status, _ in await site.ask(post("/v1/receipts/shop/oppo", GOOD))] == [503]
    assert site.outcome(Channel.OPPO, "busy") == 2
    assert site.taken == []


async def test_a_vendor_is_told_taken_when_its_receipts_are_durable_and_else_to_come_again(autojump_clock: Any) -> None:
    site = Site()
    site.is_durable = None
    told: list[int] = []

    async def ask() -> None:
        told.extend([status for status, _ in await site.ask(post("/v1/receipts/shop/oppo", GOOD))])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(1)
        assert told == []
        site.told[0](True)
        await trio.testing.wait_all_tasks_blocked()
        assert told == [200]
        nursery.start_soon(ask)
        await trio.sleep(1)
        # The disk refuses.
        site.told[1](False)
        await trio.testing.wait_all_tasks_blocked()
        # Nobody says anything: a vendor does not wait for ever.
        nursery.start_soon(ask)
    assert told == [200, 503, 503]
    assert (site.outcome(Channel.OPPO, "taken"), site.outcome(Channel.OPPO, "not_durable")) == (1, 2)


async def test_connections_are_bounded_and_each_ends_for_one_reason(autojump_clock: Any) -> None:
    site = Site(HttpSettings(connections_max=1, idle_timeout_s=5.0))
    async with trio.open_nursery() as nursery:
        held, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(site.site.converse, theirs)
        await trio.testing.wait_all_tasks_blocked()
        refused, theirs = trio.testing.memory_stream_pair()
        await site.site.converse(theirs)
        assert await refused.receive_some(10) == b""
        assert site.metrics.refusals.value("receipts.connections_max") == 1
        await held.send_all(b"POST /v1/rec")
        assert await held.receive_some(10) == b""
    assert site.metrics.closes.value("receipts", CloseReason.HALF_FRAME_TIMEOUT.value) == 1
