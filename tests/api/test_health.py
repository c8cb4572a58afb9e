"""The HTTP listener: right answers, bounds that hold, one close reason per connection."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import h11
import httpx
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.conversation import HttpSettings
from gateway.api.health import HealthServer
from gateway.errors import CloseReason
from gateway.observe.exposition import Page
from gateway.observe.metric_types import OTHER
from gateway.observe.metrics import Metrics


class House:
    """A server with all it needs, and what it counted."""

    def __init__(self, settings: HttpSettings | None = None) -> None:
        self.metrics = Metrics()
        self.not_ready: list[str] = []
        self.accepts: list[str] = []
        self.pages_now = self.pages_at_once = 0
        self.server = HealthServer(self.page, lambda: self.not_ready, self.metrics, settings)

    async def page(self, accept: str) -> Page:
        self.accepts.append(accept)
        self.pages_now += 1
        self.pages_at_once = max(self.pages_at_once, self.pages_now)
        await trio.sleep(0.01)
        self.pages_now -= 1
        return Page("text/plain; version=0.0.4", b"# page\n")

    def closes(self) -> dict[str, int]:
        """Close reasons that were counted."""
        counts = {reason.value: int(self.metrics.closes.value("http", reason.value)) for reason in CloseReason}
        return {reason: n for reason, n in counts.items() if n}

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[trio.StapledStream]:
        """The client's end of one connection over memory; the server's end is served meanwhile."""
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server.converse, theirs)
            yield ours
            await ours.aclose()


async def ask(stream: trio.abc.Stream, data: bytes, method: bytes = b"GET") -> tuple[h11.Response, bytes]:
    """Sends bytes as they are and reads one answer as h11 understands it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target=b"/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    await stream.send_all(data)
    response, body = None, b""
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(bytes(await stream.receive_some(65536)))
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert response is not None
            return response, body


def get(path: str, method: str = "GET", headers: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n".encode()


async def test_healthz_answers_while_the_loop_turns() -> None:
    house = House()
    async with house.client() as stream:
        response, body = await ask(stream, get("/healthz"))
    assert (response.status_code, body) == (200, b"ok\n")
    assert house.metrics.http_requests.value("/healthz", "200") == 1


async def test_readyz_lists_why_no_work_should_come() -> None:
    house = House()
    async with house.client() as stream:
        assert (await ask(stream, get("/readyz")))[0].status_code == 200
        house.not_ready = ["draining", "apns/shop has no credential"]
        response, body = await ask(stream, get("/readyz"))
    assert (response.status_code, body) == (503, b"draining\napns/shop has no credential\n")


async def test_metrics_page_is_made_for_what_the_scraper_accepts(autojump_clock: trio.testing.MockClock) -> None:
    house = House()
    async with house.client() as stream:
        response, body = await ask(stream, get("/metrics?x=1", headers="Accept: application/openmetrics-text\r\n"))
    assert (response.status_code, body) == (200, b"# page\n")
    assert dict(response.headers)[b"content-type"] == b"text/plain; version=0.0.4"
    assert house.accepts == ["application/openmetrics-text"]


async def test_pages_are_made_one_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    house = House()
    statuses: list[int] = []

    async def scrape() -> None:
        async with house.client() as stream:
            statuses.append((await ask(stream, get("/metrics")))[0].status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(scrape)
    assert statuses == [200] * 5
    assert house.pages_at_once == 1


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    house = House()
    async with house.client() as stream:
        expected, _ = await ask(stream, get("/healthz"))
        response, body = await ask(stream, get("/healthz", "HEAD"), method=b"HEAD")
        again, _ = await ask(stream, get("/healthz"))
    assert (response.status_code, body) == (200, b"")
    assert dict(response.headers)[b"content-length"] == dict(expected.headers)[b"content-length"]
    assert again.status_code == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/"), 404),
        (get("/healthz/"), 404),
        (get("/metrics", "POST"), 405),
        (get("/healthz", "DELETE"), 405),
        (get("http://h/healthz"), 200),
        (get("*", "OPTIONS"), 404),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
    ],
)
async def test_request_gets_its_status(request_bytes: bytes, status: int) -> None:
    house = House()
    async with house.client() as stream:
        response, _ = await ask(stream, request_bytes)
    assert response.status_code == status
    if status == 405:
        assert dict(response.headers)[b"allow"] == b"GET, HEAD"


async def test_paths_that_are_not_ours_share_one_label() -> None:
    house = House()
    async with house.client() as stream:
        for path in ("/a", "/b", "/wp-login.php"):
            await ask(stream, get(path))
    assert house.metrics.http_requests.value(OTHER, "404") == 3
    assert house.metrics.http_requests.labels[0].values == []


async def test_requests_sent_at_once_are_answered_in_turn() -> None:
    house = House()
    async with house.client() as stream:
        await stream.send_all(get("/healthz") + get("/nowhere"))
        data = b""
        while data.count(b"HTTP/1.1") < 2 or not data.endswith(b"here\n"):
            data += bytes(await stream.receive_some(65536))
    assert data.index(b"HTTP/1.1 200") < data.index(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n", 400, CloseReason.PROTOCOL_ERROR),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400, CloseReason.PROTOCOL_ERROR),
        (b"GET /healthz HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 20_000, 431, CloseReason.FRAME_TOO_LARGE),
        (get("/healthz", headers="Content-Length: x\r\n"), 400, CloseReason.PROTOCOL_ERROR),
    ],
)
async def test_malformed_request_is_answered_and_closed(
    sent: bytes, status: int, reason: CloseReason, autojump_clock: trio.testing.MockClock
) -> None:
    house = House()
    async with house.client() as stream:
        response, _ = await ask(stream, sent)
        assert response.status_code == status
        assert dict(response.headers)[b"connection"] == b"close"
        assert await stream.receive_some(1) == b""
    assert house.closes() == {reason.value: 1}


async def test_head_whose_body_is_malformed_is_answered_without_one(autojump_clock: trio.testing.MockClock) -> None:
    """h11 takes no body for it, and what it raises would end the worker."""
    house = House()
    async with house.client() as stream:
        await stream.send_all(b"HEAD /healthz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n")
        answer = b""
        while data := bytes(await stream.receive_some(65536)):
            answer += data
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"\r\n\r\n")
    assert house.closes() == {CloseReason.PROTOCOL_ERROR.value: 1}


async def test_request_with_a_body_is_answered_and_closed(autojump_clock: trio.testing.MockClock) -> None:
    house = House()
    async with house.client() as stream:
        response, _ = await ask(stream, get("/healthz", headers="Content-Length: 1000000\r\n") + b"x" * 100)
        assert dict(response.headers)[b"connection"] == b"close"
        assert await stream.receive_some(1) == b""
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("sent", "after_s", "reason"),
    [
        (b"", 5.0, CloseReason.HANDSHAKE_TIMEOUT),
        (b"GET /healthz HT", 5.0, CloseReason.HALF_FRAME_TIMEOUT),
    ],
)
async def test_silent_connection_is_closed_in_time(
    sent: bytes, after_s: float, reason: CloseReason, autojump_clock: trio.testing.MockClock
) -> None:
    house = House()
    start = trio.current_time()
    async with house.client() as stream:
        if sent:
            await stream.send_all(sent)
        assert await stream.receive_some(1) == b""
        assert trio.current_time() - start == pytest.approx(after_s)
    assert house.closes() == {reason.value: 1}


async def test_head_that_drips_in_is_cut_at_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    house = House()
    start = trio.current_time()
    async with house.client() as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            while trio.current_time() - start < 100:
                await stream.send_all(b"G")
                await trio.sleep(1)
    assert trio.current_time() - start <= 7
    assert house.closes() == {"half_frame_timeout": 1}


async def test_kept_connection_is_closed_when_idle(autojump_clock: trio.testing.MockClock) -> None:
    house = House()
    async with house.client() as stream:
        await ask(stream, get("/healthz"))
        start = trio.current_time()
        assert await stream.receive_some(1) == b""
        assert trio.current_time() - start == pytest.approx(60.0)
    assert house.closes() == {"idle": 1}


async def test_peer_that_does_not_read_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    house = House()
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.server.converse, theirs)
        await ours.send_all(get("/healthz"))
    assert house.closes() == {"slow_consumer": 1}


async def test_peer_that_goes_away_is_named_so(autojump_clock: trio.testing.MockClock) -> None:
    house = House()
    async with house.client():
        pass
    async with house.client() as stream:
        await stream.send_all(b"GET /hea")
    assert house.closes() == {"peer_closed": 2}


async def test_connections_beyond_the_limit_are_closed_and_counted() -> None:
    house = House(HttpSettings(connections_max=2))
    async with house.client() as first, house.client() as second:
        for stream in (first, second):
            await ask(stream, get("/healthz"))
        async with house.client() as third:
            assert await third.receive_some(1) == b""
        assert house.metrics.connections_open.value("http") == 2
    assert house.metrics.refusals.value("http.connections_max") == 1
    assert house.metrics.connections.value("http") == 2
    assert house.metrics.connections_open.value("http") == 0


async def test_connections_are_closed_as_shutdown_when_the_server_ends() -> None:
    house = House()
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(house.server.converse, theirs)
        await ask(ours, get("/healthz"))
        nursery.cancel_scope.cancel()
    assert house.closes() == {"shutdown": 1}


async def test_connection_whose_answer_fails_is_closed_as_an_error_of_ours() -> None:
    class Broken(House):
        async def page(self, accept: str) -> Page:
            raise IndexError("no such page")

    house = Broken()
    with pytest.RaisesGroup(IndexError):
        async with house.client() as stream:
            await stream.send_all(get("/metrics"))
            assert await stream.receive_some(100) == b""
    assert house.closes() == {"internal_error": 1}


async def test_server_answers_a_client_of_another_house_over_tcp() -> None:
    house = House()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, house.server.converse, listeners)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert (await client.get("/healthz")).text == "ok\n"
            assert (await client.head("/metrics")).headers["content-length"] == "7"
            assert (await client.get("/readyz")).status_code == 200
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        # the answer arrives although nobody read the body: no reset throws it away
        response, _ = await ask(stream, get("/healthz", "POST", "Content-Length: 30000\r\n") + b"x" * 30_000)
        assert response.status_code == 405
        await stream.aclose()
        nursery.cancel_scope.cancel()


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=5))
def test_any_bytes_end_in_one_named_close_reason(data: bytes, cuts: list[int]) -> None:
    """The fuzz law: whatever comes, in whatever pieces, nothing but an answer and a close reason follows."""
    house = House()

    async def main() -> None:
        async with house.client() as stream:
            rest = data
            with trio.move_on_after(100):
                for cut in cuts:
                    await stream.send_all(rest[:cut])
                    rest = rest[cut:]
                await stream.send_all(rest)
                await stream.send_eof()
                while await stream.receive_some(65536):
                    pass

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert sum(house.closes().values()) == 1
