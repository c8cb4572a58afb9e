"""The HTTP listener of /metrics, /healthz, /readyz (GET and HEAD) and /v1/devices (POST): h11 on trio.

    /healthz   200 while the event loop turns. A supervisor restarts the process when it does not answer.
    /readyz    200 when work may be sent here, else 503 with one reason per line. A load balancer looks at it.
    /metrics   the page of observe/scrape.py; one at a time, others wait their turn.
    /v1/devices  a device id and its password for an app that proves its secret (api/devices.py).

Bounds: `connections_max` (more are closed at once and counted as a refusal), a deadline for the head of a request from
its first byte and from connect, an idle deadline between requests, a limit on the size of a head, a deadline for the
peer to take an answer. Only the body of a POST to /v1/devices is read, to `body_bytes_max` and within the same deadline
as a head; after any other body the answer says `Connection: close`, and the connection ends.

Source: RFC 9112 (HTTP/1.1; section 9.6 on closing), RFC 9110 sections 9.3.2 (HEAD) and 15.5.6 (405 with Allow).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from typing import NamedTuple

import h11
import trio

from gateway.api.devices import DeviceAnswer, DeviceDesk, too_large
from gateway.errors import CloseReason
from gateway.observe.exposition import Page
from gateway.observe.metric_types import OTHER
from gateway.observe.metrics import Metrics

_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_DEVICES = "/v1/devices"
_PATHS = ("/metrics", "/healthz", "/readyz", _DEVICES)
_RECEIVE_BYTES = 4096
#: How long and how much a closing connection is read on, so that the peer sees the answer and not a reset.
_LINGER_S = 1.0
_LINGER_BYTES = 1 << 16


class HealthSettings(NamedTuple):
    """Limits of the listener; reasons beside the defaults in configs/reference.toml, section [http]."""

    connections_max: int = 64
    header_timeout_s: float = 5.0
    idle_timeout_s: float = 60.0
    header_bytes_max: int = 16_384
    body_bytes_max: int = 16_384
    #: Time for the peer to take one answer.
    send_timeout_s: float = 10.0


class _Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()


class HealthServer:
    """Answers on the connections of any number of listeners; one object per process.

    page: makes the metrics page for an Accept header. not_ready: why no work should come here; empty when it may.
    desk: answers POST /v1/devices; without one the path is not there.
    """

    def __init__(
        self,
        page: Callable[[str], Awaitable[Page]],
        not_ready: Callable[[], Sequence[str]],
        metrics: Metrics,
        settings: HealthSettings | None = None,
        desk: DeviceDesk | None = None,
    ) -> None:
        self._page = page
        self._desk = desk
        self._not_ready = not_ready
        self._metrics = metrics
        self._settings = settings or HealthSettings()
        # Not for state: a page costs tens of milliseconds of a thread, and two at a time would be twice the same.
        self._page_turn = trio.CapacityLimiter(1)
        self._n_open = 0

    async def converse(self, stream: trio.abc.Stream) -> None:
        """One connection, from accept to its one close reason; the stream is closed afterwards.

        If cancelled: the connection is closed at once.
        """
        async with stream:
            if self._n_open >= self._settings.connections_max:
                self._metrics.refusals.add(1, "http.connections_max")
                return
            self._n_open += 1
            self._metrics.connections.add(1, "http")
            self._metrics.connections_open.set(self._n_open, "http")
            reason = CloseReason.SHUTDOWN
            try:
                reason = await _Conversation(self, stream, self._settings).run()
            finally:
                self._n_open -= 1
                self._metrics.connections_open.set(self._n_open, "http")
                self._metrics.closes.add(1, "http", reason.value)

    def takes_body(self, request: h11.Request) -> bool:
        """Whether the request's body is wanted."""
        return self._desk is not None and request.method == b"POST" and _path(request.target) == _DEVICES

    async def answer(self, request: h11.Request, body: bytes | None = None) -> _Answer:
        """What to say to a request; counts it. body: None where it was not read, or had no end within its limit."""
        path = _path(request.target)
        known = path in _PATHS and (path != _DEVICES or self._desk is not None)
        if not known:
            answer = _Answer(404, f"not found: {', '.join(_PATHS)} are here\n".encode())
        elif path == _DEVICES:
            answer = await self._answer_devices(request, body)
        elif request.method not in (b"GET", b"HEAD"):
            answer = _Answer(405, b"only GET and HEAD\n", headers=(("Allow", "GET, HEAD"),))
        elif path == "/metrics":
            accept = next((value.decode("latin-1") for name, value in request.headers if name == b"accept"), "")
            async with self._page_turn:
                page = await self._page(accept)
            answer = _Answer(200, page.body, page.content_type)
        elif path == "/readyz" and (reasons := self._not_ready()):
            answer = _Answer(503, "".join(f"{reason}\n" for reason in reasons).encode())
        else:
            answer = _Answer(200, b"ok\n")
        self.count(path if known else OTHER, answer.status)
        return answer

    async def _answer_devices(self, request: h11.Request, body: bytes | None) -> _Answer:
        if self._desk is None or request.method != b"POST":
            return _Answer(405, b"only POST\n", headers=(("Allow", "POST"),))
        if reasons := self._not_ready():
            return _Answer(503, "".join(f"{reason}\n" for reason in reasons).encode())
        if body is None:
            said = too_large(self._settings.body_bytes_max + 1, self._settings.body_bytes_max)
        else:
            said = await self._desk.answer(request.headers, body)
        self._count_devices(said)
        wait = () if said.retry_after_s is None else (("Retry-After", str(said.retry_after_s)),)
        return _Answer(said.status, said.body, _JSON, wait)

    def _count_devices(self, said: DeviceAnswer) -> None:
        # Nobody has proven to be an app that has no secret: its name must not become a label.
        app_key = said.app_key or OTHER
        self._metrics.device_requests.add(1, app_key, said.outcome)
        if said.secret_index >= 0:
            self._metrics.secret_uses.add(1, app_key, str(said.secret_index), "http")

    def count(self, path: str, status: int) -> None:
        self._metrics.http_requests.add(1, path, str(status))


class _Conversation:
    """One connection: requests in turn until either side ends it."""

    def __init__(self, server: HealthServer, stream: trio.abc.Stream, settings: HealthSettings) -> None:
        self._server = server
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
            try:
                request = await self._next_request(is_first=is_first)
                if isinstance(request, CloseReason):
                    return request
                body: bytes | None = None
                if self._server.takes_body(request):
                    found = await self._read_body()
                    if isinstance(found, CloseReason):
                        return found
                    body, has_body = found, found is None
                else:
                    has_body = not isinstance(self._http.next_event(), h11.EndOfMessage)
            except h11.RemoteProtocolError as error:
                return await self._refuse(error)
            answer = await self._server.answer(request, body)
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

    async def _refuse(self, error: h11.RemoteProtocolError) -> CloseReason:
        status = error.error_status_hint
        self._server.count(OTHER, status)
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(_Answer(status, b"malformed request\n"), with_body=True, closing=True)
            await self._linger()
        return CloseReason.FRAME_TOO_LARGE if status == 431 else CloseReason.PROTOCOL_ERROR

    async def _send(self, answer: _Answer, *, with_body: bool, closing: bool) -> bool:
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


def _path(target: bytes) -> str:
    """The path of a request target in origin form or absolute form, without its query (RFC 9112 section 3.2)."""
    text = target.decode("latin-1")
    if text.startswith("http://"):
        text = "/" + text.removeprefix("http://").partition("/")[2]
    return text.partition("?")[0]
