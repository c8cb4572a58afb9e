"""One HTTP/1.1 listener: connections, their limits and deadlines, requests in turn. h11 on trio.

A `Site` says what to answer; this file knows no path. Bounds: `connections_max` (more are closed at once and counted as
a refusal), a deadline for the head of a request from its first byte and from connect, an idle deadline between
requests, a limit on the size of a head, a deadline for the peer to take an answer. A body is read where the site wants
it, to `body_bytes_max` and within the same deadline as a head; after any other body the answer says `Connection:
close`, and the connection ends.

Source: RFC 9112 (HTTP/1.1; section 9.6 on closing), RFC 9110 section 9.3.2 (HEAD).
"""

from __future__ import annotations

from email.utils import formatdate
from typing import NamedTuple, Protocol

import h11
import trio

from gateway.errors import CloseReason
from gateway.observe.metric_types import OTHER
from gateway.observe.metrics import Metrics

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
_RECEIVE_BYTES = 16_384
#: How long and how much a closing connection is read on, so that the peer sees the answer and not a reset.
_LINGER_S = 1.0
_LINGER_BYTES = 1 << 16


class HttpSettings(NamedTuple):
    """Limits of one listener; reasons beside the defaults in configs/reference.toml, sections [http], [receipts]."""

    connections_max: int = 64
    header_timeout_s: float = 5.0
    idle_timeout_s: float = 60.0
    header_bytes_max: int = 16_384
    body_bytes_max: int = 16_384
    #: Time for the peer to take one answer.
    send_timeout_s: float = 10.0


class HttpAnswer(NamedTuple):
    status: int
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


class Site(Protocol):
    """What one listener is about."""

    def takes_body(self, request: h11.Request) -> bool:
        """Whether the request's body is wanted."""
        ...

    async def answer(self, request: h11.Request, body: bytes | None = None) -> HttpAnswer:
        """What to say to a request; counts it. body: None where it was not read, or had no end within its limit."""
        ...

    def count(self, path: str, status: int) -> None:
        """A request that never reached `answer` was refused."""
        ...


class HttpListener:
    """The connections of any number of sockets; one object per process and site. name: of the listener, in metrics."""

    def __init__(self, name: str, site: Site, metrics: Metrics, settings: HttpSettings) -> None:
        self._name = name
        self._site = site
        self._metrics = metrics
        self._settings = settings
        self._n_open = 0

    async def converse(self, stream: trio.abc.Stream) -> None:
        """One connection, from accept to its one close reason; the stream is closed afterwards.

        If cancelled: the connection is closed at once.
        """
        async with stream:
            if self._n_open >= self._settings.connections_max:
                self._metrics.refusals.add(1, f"{self._name}.connections_max")
                return
            self._n_open += 1
            self._metrics.connections.add(1, self._name)
            self._metrics.connections_open.set(self._n_open, self._name)
            reason = CloseReason.INTERNAL_ERROR
            try:
                reason = await _Conversation(self._site, stream, self._settings).run()
            except trio.Cancelled:
                reason = CloseReason.SHUTDOWN
                raise
            finally:
                self._n_open -= 1
                self._metrics.connections_open.set(self._n_open, self._name)
                self._metrics.closes.add(1, self._name, reason.value)


class _Conversation:
    """One connection: requests in turn until either side ends it."""

    def __init__(self, site: Site, stream: trio.abc.Stream, settings: HttpSettings) -> None:
        self._site = site
        self._stream = stream
        self._settings = settings
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=settings.header_bytes_max)

    async def run(self) -> CloseReason:
        try:
            return await self._run()
        except trio.BrokenResourceError:
            return CloseReason.PEER_RESET

    async def _run(self) -> CloseReason:
        is_first = True
        while True:
            method = b""
            try:
                request = await self._next_request(is_first=is_first)
                if isinstance(request, CloseReason):
                    return request
                method = request.method
                body: bytes | None = None
                if self._site.takes_body(request):
                    found = await self._read_body()
                    if isinstance(found, CloseReason):
                        return found
                    body, has_body = found, found is None
                else:
                    has_body = not isinstance(self._http.next_event(), h11.EndOfMessage)
            except h11.RemoteProtocolError as error:
                return await self._refuse(error, with_body=method != b"HEAD")
            answer = await self._site.answer(request, body)
            if not await self._send(answer, with_body=request.method != b"HEAD", closing=has_body):
                return CloseReason.SLOW_CONSUMER
            if has_body or self._http.our_state is not h11.DONE:
                await self._linger()
                return CloseReason.PEER_CLOSED
            self._http.start_next_cycle()
            is_first = False

    async def _next_request(self, *, is_first: bool) -> h11.Request | CloseReason:
        """The next request's head, or why there is none. Raises h11.RemoteProtocolError."""
        settings = self._settings
        has_bytes = bool(self._http.trailing_data[0])
        wait_s = settings.header_timeout_s if is_first or has_bytes else settings.idle_timeout_s
        deadline = trio.current_time() + wait_s
        while (event := self._http.next_event()) is h11.NEED_DATA:
            with trio.move_on_at(deadline) as scope:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
            if scope.cancelled_caught:
                if has_bytes:
                    return CloseReason.HALF_FRAME_TIMEOUT
                return CloseReason.HANDSHAKE_TIMEOUT if is_first else CloseReason.IDLE
            if not data:
                return CloseReason.PEER_CLOSED
            if not has_bytes:
                has_bytes = True
                deadline = trio.current_time() + settings.header_timeout_s
            self._http.receive_data(bytes(data))
        return event if isinstance(event, h11.Request) else CloseReason.PEER_CLOSED

    async def _read_body(self) -> bytes | CloseReason | None:
        """The whole body; None for one above the limit; or why there is none. Raises h11.RemoteProtocolError."""
        if self._http.they_are_waiting_for_100_continue:
            await self._stream.send_all(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        body = bytearray()
        deadline = trio.current_time() + self._settings.header_timeout_s
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.EndOfMessage):
                return bytes(body)
            if isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._settings.body_bytes_max:
                    return None
                continue
            if event is not h11.NEED_DATA:
                return CloseReason.PEER_CLOSED
            with trio.move_on_at(deadline) as scope:
                self._http.receive_data(bytes(await self._stream.receive_some(_RECEIVE_BYTES)))
            if scope.cancelled_caught:
                return CloseReason.HALF_FRAME_TIMEOUT

    async def _refuse(self, error: h11.RemoteProtocolError, *, with_body: bool) -> CloseReason:
        status = error.error_status_hint
        self._site.count(OTHER, status)
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(HttpAnswer(status, b"malformed request\n"), with_body=with_body, closing=True)
            await self._linger()
        return CloseReason.FRAME_TOO_LARGE if status == 431 else CloseReason.PROTOCOL_ERROR

    async def _send(self, answer: HttpAnswer, *, with_body: bool, closing: bool) -> bool:
        """Whether the peer took the whole answer in time."""
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            *answer.headers,
            *((("Connection", "close"),) if closing else ()),
        ]
        data = self._http.send(h11.Response(status_code=answer.status, headers=headers))
        if with_body:
            data += self._http.send(h11.Data(data=answer.body))
        data += self._http.send(h11.EndOfMessage())
        with trio.move_on_after(self._settings.send_timeout_s) as scope:
            await self._stream.send_all(data)
        return not scope.cancelled_caught

    async def _linger(self) -> None:
        """Ends our side first and reads on for a moment: closing with unread bytes would reset the answer away."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        left = _LINGER_BYTES
        with trio.move_on_after(_LINGER_S):
            while left > 0 and (data := await self._stream.receive_some(_RECEIVE_BYTES)):
                left -= len(data)


def path_of(target: bytes) -> str:
    """The path of a request target in origin form or absolute form, without its query (RFC 9112 section 3.2)."""
    text = target.decode("latin-1")
    if text.startswith("http://"):
        text = "/" + text.removeprefix("http://").partition("/")[2]
    return text.partition("?")[0]


def query_of(target: bytes) -> str:
    """What stands behind the question mark."""
    return target.decode("latin-1").partition("?")[2]
