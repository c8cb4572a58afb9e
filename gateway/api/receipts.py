"""POST /v1/receipts/APP/VENDOR: where vendors report what became of messages. HTTP/1.1 over api/conversation.py.

    request --reader of the vendor--> receipts --desk.take--> the vendor's own "taken"
                                |                    +-- no room, or not ready: "busy", so that it comes again
                                +-- no receipt, or its signature is not the vendor's: refused in the vendor's words

A vendor is told "taken" when its receipts are as durable as the app asks for, also where some of them are forged or
about nobody's row: sending them again would change nothing. What the readers prove and what they say is in
vendors/receipts; which paths there are follows from the vendors that the apps have. A vendor that signs nothing has a
secret in its path, `/v1/receipts/APP/VENDOR/SECRET` (`ReaderEntry.path_secret`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import h11
import trio

from gateway.api.conversation import HttpAnswer, HttpListener, HttpSettings, path_of, query_of
from gateway.ledger import Channel
from gateway.observe.metric_types import OTHER
from gateway.observe.metrics import Metrics
from gateway.receipts import Callback, ConsentsTold, NotTaken, ReceiptReader, Reply, VendorReceipt

PREFIX = "/v1/receipts/"
#: A vendor whose receipts are not durable after so long is told to come again; vendors wait three to ten seconds.
DURABLE_S = 5.0


class Desk(Protocol):
    def take(
        self, app: int, channel: Channel, receipts: list[VendorReceipt], told: Callable[[bool], None] | None = None
    ) -> bool:
        """They will be dealt with; False when too many wait already. told: called when what they say is as durable as
        the app asks for, or, with False, is not."""
        ...


class Endpoint(NamedTuple):
    """One vendor of one app."""

    app: int
    channel: Channel
    reader: ReceiptReader


class _Answer:
    """What the desk says of the receipts of one request."""

    __slots__ = ("event", "is_good", "is_there")

    def __init__(self) -> None:
        self.is_there = self.is_good = False
        self.event = trio.Event()

    def told(self, is_good: bool) -> None:
        self.is_there, self.is_good = True, is_good
        self.event.set()


class ReceiptsSite:
    """endpoints: by what stands behind the prefix, `APP/VENDOR`. not_ready: why nothing should be taken now.
    take_consents: False: the event should come again."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        desk: Desk,
        metrics: Metrics,
        settings: HttpSettings,
        *,
        now_unix_s: Callable[[], float],
        not_ready: Callable[[], Sequence[str]],
        take_consents: Callable[[int, ConsentsTold], Awaitable[bool]] | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._desk = desk
        self._metrics = metrics
        self._now_unix_s = now_unix_s
        self._not_ready = not_ready
        self._take_consents = take_consents
        self.converse = HttpListener("receipts", self, metrics, settings).converse

    def _endpoint(self, request: h11.Request) -> Endpoint | None:
        path = path_of(request.target)
        return self._endpoints.get(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else None

    def takes_body(self, request: h11.Request) -> bool:
        return request.method == b"POST" and self._endpoint(request) is not None

    async def answer(self, request: h11.Request, body: bytes | None = None) -> HttpAnswer:
        # A connection that always has its next request ready must let others have their turn.
        await trio.lowlevel.checkpoint()
        endpoint = self._endpoint(request)
        if endpoint is None:
            self.count(OTHER, 404)
            return HttpAnswer(404, b"no receipts are taken here\n")
        outcome, reply = await self._deal_with(endpoint, request, body)
        self._metrics.receipt_requests.add(1, endpoint.channel, outcome)
        self.count(PREFIX, reply.status)
        return HttpAnswer(reply.status, reply.body, reply.content_type)

    async def _deal_with(self, endpoint: Endpoint, request: h11.Request, body: bytes | None) -> tuple[str, Reply]:
        replies = endpoint.reader.replies
        greet = getattr(endpoint.reader, "greet", None)
        if request.method == b"GET" and greet is not None:
            return "greeting", greet(query_of(request.target), self._now_unix_s())
        if request.method != b"POST":
            return "method", Reply(405, b"only POST\n", "text/plain")
        if body is None:
            return "too_large", replies.unreadable._replace(status=413)
        if self._not_ready():
            return "busy", replies.busy
        told = endpoint.reader.read(Callback(dict(request.headers), query_of(request.target), body), self._now_unix_s())
        if told is NotTaken.UNREADABLE:
            return "unreadable", replies.unreadable
        if isinstance(told, NotTaken):
            return "unproven", replies.unproven
        if isinstance(told, ConsentsTold):
            is_taken = self._take_consents is None or await self._take_consents(endpoint.app, told)
            return ("taken", replies.taken) if is_taken else ("busy", replies.busy)
        answer = _Answer()
        if not self._desk.take(endpoint.app, endpoint.channel, told, answer.told):
            return "busy", replies.busy
        if not answer.is_there:
            with trio.move_on_after(DURABLE_S):
                await answer.event.wait()
        return ("taken", replies.taken) if answer.is_good else ("not_durable", replies.busy)

    def count(self, path: str, status: int) -> None:
        self._metrics.http_requests.add(1, path, str(status))
