"""The HTTP listener of /metrics, /healthz, /readyz (GET and HEAD) and /v1/devices (POST): h11 on trio.

    /healthz   200 while the event loop turns. A supervisor restarts the process when it does not answer.
    /readyz    200 when work may be sent here, else 503 with one reason per line. A load balancer looks at it.
    /metrics   the page of observe/scrape.py; one at a time, others wait their turn.
    /v1/devices  a device id and its password for an app that proves its secret (api/devices.py).
    /v1/consents what users of a mini program agreed to, reported by an app that proves its secret (api/consents.py).

Connections and their bounds are those of api/conversation.py. Only the bodies of POSTs to the last two are
read.

Source: RFC 9110 section 15.5.6 (405 with Allow).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import h11
import trio

from gateway.api.consents import ConsentsPort
from gateway.api.conversation import JSON, HttpAnswer, HttpListener, HttpSettings, path_of
from gateway.api.devices import DeviceAnswer, DeviceDesk, SignedDesk, too_large
from gateway.observe.exposition import Page
from gateway.observe.metric_types import OTHER
from gateway.observe.metrics import Metrics

_DEVICES = "/v1/devices"
_CONSENTS = "/v1/consents"
_PATHS = ("/metrics", "/healthz", "/readyz", _DEVICES, _CONSENTS)


class HealthServer:
    """Answers on the connections of any number of listeners; one object per process.

    page: makes the metrics page for an Accept header. not_ready: why no work should come here; empty when it may.
    desk: answers POST /v1/devices, consents: POST /v1/consents; without one the path is not there.
    """

    def __init__(
        self,
        page: Callable[[str], Awaitable[Page]],
        not_ready: Callable[[], Sequence[str]],
        metrics: Metrics,
        settings: HttpSettings | None = None,
        desk: DeviceDesk | None = None,
        consents: ConsentsPort | None = None,
    ) -> None:
        self._page = page
        named: dict[str, SignedDesk | None] = {_DEVICES: desk, _CONSENTS: consents}
        self._desks = {path: one for path, one in named.items() if one is not None}
        self._not_ready = not_ready
        self._metrics = metrics
        self._settings = settings or HttpSettings()
        # Not for state: a page costs tens of milliseconds of a thread, and two at a time would be twice the same.
        self._page_turn = trio.CapacityLimiter(1)
        self.converse = HttpListener("http", self, metrics, self._settings).converse

    def takes_body(self, request: h11.Request) -> bool:
        """Whether the request's body is wanted."""
        return request.method == b"POST" and path_of(request.target) in self._desks

    async def answer(self, request: h11.Request, body: bytes | None = None) -> HttpAnswer:
        """What to say to a request; counts it. body: None where it was not read, or had no end within its limit."""
        path = path_of(request.target)
        known = path in self._desks or path in _PATHS[:3]
        if not known:
            here = [each for each in _PATHS if each in self._desks or each in _PATHS[:3]]
            answer = HttpAnswer(404, f"not found: {', '.join(here)} are here\n".encode())
        elif path in self._desks:
            answer = await self._answer_signed(self._desks[path], request, body)
        elif request.method not in (b"GET", b"HEAD"):
            answer = HttpAnswer(405, b"only GET and HEAD\n", headers=(("Allow", "GET, HEAD"),))
        elif path == "/metrics":
            accept = next((value.decode("latin-1") for name, value in request.headers if name == b"accept"), "")
            async with self._page_turn:
                page = await self._page(accept)
            answer = HttpAnswer(200, page.body, page.content_type)
        elif path == "/readyz" and (reasons := self._not_ready()):
            answer = HttpAnswer(503, "".join(f"{reason}\n" for reason in reasons).encode())
        else:
            answer = HttpAnswer(200, b"ok\n")
        self.count(path if known else OTHER, answer.status)
        return answer

    async def _answer_signed(self, desk: SignedDesk, request: h11.Request, body: bytes | None) -> HttpAnswer:
        if request.method != b"POST":
            return HttpAnswer(405, b"only POST\n", headers=(("Allow", "POST"),))
        if reasons := self._not_ready():
            return HttpAnswer(503, "".join(f"{reason}\n" for reason in reasons).encode())
        if body is None:
            said = too_large(self._settings.body_bytes_max + 1, self._settings.body_bytes_max)
        else:
            said = await desk.answer(request.headers, body)
        self._count_signed(said)
        wait = () if said.retry_after_s is None else (("Retry-After", str(said.retry_after_s)),)
        return HttpAnswer(said.status, said.body, JSON, wait)

    def _count_signed(self, said: DeviceAnswer) -> None:
        # Nobody has proven to be an app that has no secret: its name must not become a label.
        app_key = said.app_key or OTHER
        self._metrics.device_requests.add(1, app_key, said.outcome)
        if said.secret_index >= 0:
            self._metrics.secret_uses.add(1, app_key, str(said.secret_index), "http")

    def count(self, path: str, status: int) -> None:
        self._metrics.http_requests.add(1, path, str(status))
