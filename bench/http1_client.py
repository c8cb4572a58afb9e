"""One client of `bench http1`, a process of its own: so many POSTs over so many persistent connections, all on trio.

    python -m bench.http1_client '{"client": "ours", "port": ..., "ca_file": ..., ...}'

httpx       one AsyncClient, a task per connection
httpcore    one AsyncConnectionPool, a task per connection
h11         a socket and an h11.Connection per task, and nothing else: what the library itself can do
connection  gateway/actors/vendor_connection_http1.py, offered bursts as a lane does
lane        the same under a real worker: rows wait in a lane, verdicts are written to the ledger (bench/http1_lane.py)

Inside the clock: connecting, requests, answers read to their end with status and body looked at. A warm-up of a tenth
goes before it. One JSON line says how long it took and what it cost.
"""

from __future__ import annotations

import functools
import gc
import json
import resource
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import httpcore
import httpx
import msgspec
import numpy as np
import trio

from bench.harness import Line, peak_rss_bytes
from bench.http1_responder import BODY
from gateway.actors.vendor_connection_http1 import Http1VendorConnection
from gateway.columns import TextColumn
from gateway.errors import CloseReason
from gateway.net.tls import ALPN_HTTP1, client_context, open_tls_stream
from gateway.vendor import Requests
from gateway.wire.h2.events import Answers, Event
from gateway.wire.http1.settings import Http1Config

PATH = "/v3/message/regid"
HEADERS = {
    "content-type": "application/json;charset=UTF-8",
    "authorization": "key=Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6",
    "user-agent": "pushgw",
}
_READ_BYTES = 64 << 10


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ca_file: None for clear text. requests: in all."""

    client: str
    port: int
    ca_file: str | None
    requests: int
    connections: int
    body_bytes: int


Post = Callable[[Task, int], Awaitable[None]]


def bodies(task: Task, n: int) -> list[bytes]:
    """n bodies of one size and different content, as messages to different devices."""
    return [b'{"registration_id":"%016x","payload":"' % at + b"a" * (task.body_bytes - 40) + b'"}' for at in range(n)]


def _context(task: Task) -> ssl.SSLContext | None:
    return None if task.ca_file is None else client_context(ca_file=task.ca_file, alpn=(ALPN_HTTP1,))


async def _open_stream(task: Task, context: ssl.SSLContext | None) -> trio.abc.Stream:
    if context is None:
        return await trio.open_tcp_stream("127.0.0.1", task.port)
    return await open_tls_stream("127.0.0.1", task.port, context, connect_timeout_s=10, alpn=ALPN_HTTP1)


async def _in_tasks(task: Task, n: int, post: Callable[[bytes], Awaitable[tuple[int, bytes]]]) -> None:
    """n posts by as many tasks as there are connections."""
    left = iter(bodies(task, n))

    async def work() -> None:
        for body in left:
            status, answer = await post(body)
            assert (status, answer) == (200, BODY)

    async with trio.open_nursery() as nursery:
        for _ in range(task.connections):
            nursery.start_soon(work)


async def with_httpx(task: Task, measure: Callable[[Post], Awaitable[Line]]) -> Line:
    limits = httpx.Limits(max_connections=task.connections, max_keepalive_connections=task.connections)
    url = f"{'http' if task.ca_file is None else 'https'}://127.0.0.1:{task.port}{PATH}"
    async with httpx.AsyncClient(verify=_context(task) or True, limits=limits, trust_env=False) as client:

        async def post(body: bytes) -> tuple[int, bytes]:
            answer = await client.post(url, content=body, headers=HEADERS)
            return answer.status_code, answer.content

        return await measure(functools.partial(_in_tasks, post=post))


async def with_httpcore(task: Task, measure: Callable[[Post], Awaitable[Line]]) -> Line:
    url = f"{'http' if task.ca_file is None else 'https'}://127.0.0.1:{task.port}{PATH}"
    async with httpcore.AsyncConnectionPool(
        ssl_context=_context(task), max_connections=task.connections, max_keepalive_connections=task.connections
    ) as pool:

        async def post(body: bytes) -> tuple[int, bytes]:
            answer = await pool.request("POST", url, headers=HEADERS, content=body)
            return answer.status, answer.content

        return await measure(functools.partial(_in_tasks, post=post))


async def with_h11(task: Task, measure: Callable[[Post], Awaitable[Line]]) -> Line:
    context = _context(task)
    streams = [(await _open_stream(task, context), h11.Connection(h11.CLIENT)) for _ in range(task.connections)]
    names = [("host", f"127.0.0.1:{task.port}"), *HEADERS.items()]

    async def post(body: bytes) -> tuple[int, bytes]:
        stream, machine = streams.pop()
        head = h11.Request(method="POST", target=PATH, headers=[*names, ("content-length", str(len(body)))])
        parts = [machine.send(head), machine.send(h11.Data(data=body)), machine.send(h11.EndOfMessage())]
        await stream.send_all(b"".join(part for part in parts if part))
        status, answer = 0, b""
        while True:
            event: Any = machine.next_event()
            if event is h11.NEED_DATA:
                machine.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                answer += event.data
            else:
                assert isinstance(event, h11.EndOfMessage)
                break
        machine.start_next_cycle()
        streams.append((stream, machine))
        return status, answer

    return await measure(functools.partial(_in_tasks, post=post))


class _Quiet:
    def connected(self) -> None: ...

    def closed(self, reason: CloseReason, text: str, *, was_open: bool) -> None: ...


class _Owner:
    """Offers the rows of bursts as there is room, and counts answers."""

    def __init__(self, task: Task) -> None:
        self._headers = tuple((name.encode(), (value.encode(),)) for name, value in HEADERS.items())
        self._authority = f"127.0.0.1:{task.port}".encode()
        context = _context(task)
        config = Http1Config(sockets_max=task.connections, queue_max=task.connections)
        self.connection = Http1VendorConnection(
            open_stream=lambda: _open_stream(task, context),
            config=config,
            close_timeout_s=1.0,
            on_events=self._on_events,
            observer=_Quiet(),
        )
        self._requests: Requests | None = None
        self._start = self._answered = 0
        self._done = trio.Event()

    def _on_events(self, connection: Http1VendorConnection, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Answers):
                assert (event.status == 200).all()
                assert all(event.details[at].body == BODY for at in range(len(event.tags)))
                self._answered += len(event.tags)
        self._offer()

    def _offer(self) -> None:
        requests = self._requests
        if requests is None:
            return
        room = min(self.connection.capacity(), requests.n - self._start)
        if room:
            tags = np.arange(self._start, self._start + room, dtype=np.int64)
            self._start += self.connection.send(requests, self._start, tags, trio.current_time() + 30)
        if self._answered == requests.n:
            self._done.set()

    async def post(self, task: Task, n: int) -> None:
        column = TextColumn.from_rows(bodies(task, n))
        self._requests = Requests(n, self._authority, (PATH.encode(),), self._headers, (column,))
        self._start = self._answered = 0
        self._done = trio.Event()
        self._offer()
        await self._done.wait()


async def with_connection(task: Task, measure: Callable[[Post], Awaitable[Line]]) -> Line:
    owner = _Owner(task)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.connection.run)
        line = await measure(owner.post)
        nursery.cancel_scope.cancel()
    return line


CLIENTS: dict[str, Callable[[Task, Callable[[Post], Awaitable[Line]]], Awaitable[Line]]] = {
    "httpx": with_httpx,
    "httpcore": with_httpcore,
    "h11": with_h11,
    "connection": with_connection,
}


async def _measured(task: Task, post: Post) -> Line:
    await post(task, max(task.requests // 10, task.connections))
    gc.collect()
    gc.freeze()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    await post(task, task.requests)
    elapsed = time.perf_counter() - started
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "elapsed_s": elapsed,
        "cpu_s": spent.ru_utime + spent.ru_stime - usage.ru_utime - usage.ru_stime,
        "cpu_system_s": spent.ru_stime - usage.ru_stime,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def measure(task: Task) -> Line:
    if task.client == "lane":
        from bench.http1_lane import measure_lane

        return measure_lane(task)
    return trio.run(CLIENTS[task.client], task, functools.partial(_measured, task))


def main() -> None:
    task = msgspec.json.decode(sys.argv[1], type=Task)
    sys.stdout.write(json.dumps(measure(task)) + "\n")


if __name__ == "__main__":
    main()
