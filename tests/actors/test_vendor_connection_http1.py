"""The bundle's actor against a small h11 server, over trio's memory streams and over real TLS."""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import h11
import numpy as np
import pytest
import trio
import trio.testing

from bench.simulators.tls import make_tls_files
from gateway.actors.vendor_connection_http1 import Http1VendorConnection
from gateway.errors import CloseReason
from gateway.net.tls import ALPN_HTTP1, ConnectFailed, TlsSessions, client_context, open_tls_stream
from gateway.vendor import Requests
from gateway.wire.h2.events import Answers, Event, Refused, Reset, Terminated, TimedOut, Writable
from gateway.wire.http1.settings import Http1Config


class Server:
    """All ends of one owner. Answers each request at once with 200 and a body, unless `is_holding`. open: the sockets
    that stand. held: those whose request waits for `answer`."""

    def __init__(self) -> None:
        self.is_holding = False
        self.open: list[trio.abc.Stream] = []
        self.held: list[tuple[trio.abc.Stream, h11.Connection]] = []
        self.bodies: list[bytes] = []
        self._go_on = trio.Event()

    async def serve(self, stream: trio.abc.Stream) -> None:
        machine = h11.Connection(h11.SERVER)
        self.open.append(stream)
        try:
            while await self._read(stream, machine):
                if self.is_holding:
                    self.held.append((stream, machine))
                    await self._go_on.wait()
                else:
                    await self.answer(stream, machine)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.open.remove(stream)
            await trio.aclose_forcefully(stream)

    async def _read(self, stream: trio.abc.Stream, machine: h11.Connection) -> bool:
        """A whole request has come; False: the peer has closed."""
        body = b""
        while True:
            event = machine.next_event()
            if event is h11.NEED_DATA:
                machine.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.bodies.append(body)
                return True
            elif isinstance(event, h11.ConnectionClosed):
                return False

    async def answer(self, stream: trio.abc.Stream, machine: h11.Connection, status: int = 200) -> None:
        body = b"{}"
        head = h11.Response(status_code=status, headers=[("content-length", str(len(body)))])
        parts = [machine.send(head), machine.send(h11.Data(data=body)), machine.send(h11.EndOfMessage())]
        machine.start_next_cycle()
        await stream.send_all(b"".join(part for part in parts if part))

    async def answer_held(self) -> None:
        held, self.held = self.held, []
        self._go_on.set()
        self._go_on = trio.Event()
        for stream, machine in held:
            await self.answer(stream, machine)


class Owner:
    """What a lane is to its connection: keeps the events and what has become of each tag."""

    def __init__(self, open_stream: Callable[[], Awaitable[trio.abc.Stream]], **config: object) -> None:
        self.events: list[Event] = []
        self.connection = Http1VendorConnection(
            open_stream=open_stream,
            config=Http1Config(**config),
            close_timeout_s=1.0,
            on_events=self.take,
            observer=self,
        )
        self.tag = 0
        self.reason: CloseReason | None = None
        self.sockets = 0
        self.closed_sockets: list[CloseReason] = []

    def connected(self) -> None:
        self.sockets += 1

    def closed(self, reason: CloseReason, text: str, *, was_open: bool) -> None:
        self.sockets -= was_open
        self.closed_sockets.append(reason)

    def take(self, connection: Http1VendorConnection, events: list[Event]) -> None:
        assert connection is self.connection
        self.events += events

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.reason = await self.connection.run(task_status)

    def send(self, n: int = 1, body: bytes = b"{}", timeout_s: float = 60) -> int:
        requests = Requests(n, b"push.example", (b"/p",), ((b"x-a", (b"1",)),), (body,))
        tags = np.arange(self.tag, self.tag + n, dtype=np.int64)
        taken = self.connection.send(requests, 0, tags, trio.current_time() + timeout_s)
        self.tag += taken
        return taken

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def answered(self) -> list[int]:
        return sorted(tag for event in self.of(Answers) for tag in event.tags.tolist())

    def tags(self, kind: type) -> list[int]:
        return [tag for event in self.of(kind) for tag in event.tags.tolist()]

    def terminated(self) -> Terminated:
        (event,) = self.of(Terminated)
        assert event is self.events[-1]
        return event


async def connected(nursery: trio.Nursery, **config: object) -> tuple[Owner, Server, list[trio.StapledStream]]:
    """(owner, server, client's ends), after the first socket stood."""
    server, ends = Server(), []

    async def open_stream() -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = trio.testing.memory_stream_pair()
        ends.append(ours)
        nursery.start_soon(server.serve, theirs)
        return ours

    owner = Owner(open_stream, **config)
    await nursery.start(owner.run)
    await trio.testing.wait_all_tasks_blocked()
    return owner, server, ends


async def test_rows_are_answered_over_several_sockets_and_drain_closes_them(nursery: trio.Nursery) -> None:
    owner, server, _ = await connected(nursery, sockets_max=4, queue_max=6)
    assert owner.events == [Writable()]
    assert owner.send(20) == 10
    await trio.testing.wait_all_tasks_blocked()
    assert owner.answered() == list(range(10))
    assert owner.sockets == 4
    assert owner.of(Answers)[-1].details[0].body == b"{}"
    assert owner.connection.open_requests() == 0
    owner.connection.drain(5)
    assert (owner.connection.capacity(), owner.send()) == (0, 0)
    await trio.testing.wait_all_tasks_blocked()
    assert owner.reason is owner.terminated().reason is CloseReason.SHUTDOWN
    assert (owner.sockets, owner.closed_sockets, server.open) == (0, [CloseReason.SHUTDOWN] * 4, [])


async def test_answers_of_one_turn_are_told_at_once(nursery: trio.Nursery) -> None:
    owner, server, ends = await connected(nursery, sockets_max=8)
    server.is_holding = True
    owner.send(8)
    await trio.testing.wait_all_tasks_blocked()
    for end in ends:
        end.receive_stream.put_data(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    assert owner.answered() == list(range(8))
    assert len(owner.of(Answers)) <= 2  # the turn in which they came may be cut in two by the order of tasks


async def test_nothing_is_taken_before_a_socket_stands(nursery: trio.Nursery) -> None:
    async def never() -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    owner = Owner(never)
    nursery.start_soon(owner.run)
    await trio.testing.wait_all_tasks_blocked()
    assert (owner.connection.capacity(), owner.send(), owner.connection.statistics()) == (0, 0, None)
    owner.connection.abort()
    await trio.testing.wait_all_tasks_blocked()
    assert owner.reason is CloseReason.SHUTDOWN
    assert owner.closed_sockets == [CloseReason.SHUTDOWN]


async def test_failed_connect_is_the_close_reason(nursery: trio.Nursery) -> None:
    async def fail() -> trio.abc.Stream:
        raise ConnectFailed("push.example", 443, CloseReason.CONNECT_TIMEOUT, "over 5 s")

    owner = Owner(fail)
    await nursery.start(owner.run)
    await trio.testing.wait_all_tasks_blocked()
    assert owner.reason is owner.terminated().reason is CloseReason.CONNECT_TIMEOUT
    assert "over 5 s" in owner.terminated().text
    assert (owner.sockets, owner.closed_sockets) == (0, [CloseReason.CONNECT_TIMEOUT])


async def test_lost_socket_ends_its_own_row_only(nursery: trio.Nursery) -> None:
    owner, server, _ = await connected(nursery, sockets_max=3)
    owner.send(3)
    await trio.testing.wait_all_tasks_blocked()
    server.is_holding = True
    owner.send(3)
    await trio.testing.wait_all_tasks_blocked()
    await server.held.pop()[0].aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert len(owner.tags(Reset)) == 1
    assert owner.of(Reset)[0].is_by_peer
    await server.answer_held()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(owner.answered() + owner.tags(Reset)) == list(range(6))
    assert owner.reason is None
    assert owner.closed_sockets == [CloseReason.PEER_CLOSED]


async def test_abort_tells_what_was_sent_from_what_was_not(nursery: trio.Nursery) -> None:
    owner, server, ends = await connected(nursery, sockets_max=2, queue_max=2, connecting_max=2)
    server.is_holding = True
    owner.send(2)
    await trio.testing.wait_all_tasks_blocked()
    owner.send(2)
    owner.connection.abort(CloseReason.CREDENTIAL_REPLACED)
    await trio.testing.wait_all_tasks_blocked()
    assert owner.reason is CloseReason.CREDENTIAL_REPLACED
    assert owner.terminated().uncertain.tolist() == [0, 1]
    assert owner.terminated().refused.tolist() == [2, 3]
    assert len(ends) == 2


async def test_cancelled_actor_gives_its_rows_back(nursery: trio.Nursery) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            owner, server, _ = await connected(inner, sockets_max=2)
            server.is_holding = True
            owner.send(2)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert owner.terminated().uncertain.tolist() == [0, 1]
    assert owner.connection.close_reason is CloseReason.SHUTDOWN
    assert owner.sockets == 0


async def test_actor_cancelled_while_writing_or_connecting_gives_its_rows_back(nursery: trio.Nursery) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            owner, _, ends = await connected(inner, sockets_max=2, queue_max=3)
            ends[0].send_stream.send_all_hook = trio.sleep_forever
            owner.send(1)
            await trio.testing.wait_all_tasks_blocked()
            owner.send(3)  # another socket is begun
            scope.cancel()
    assert owner.terminated().uncertain.tolist() == [0]
    assert owner.terminated().refused.tolist() == [1, 2, 3]


async def test_fault_of_the_owner_gives_its_rows_back_and_is_not_swallowed() -> None:
    class Fault(Exception):
        pass

    with pytest.RaisesGroup(pytest.RaisesExc(Fault), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            owner, server, _ = await connected(nursery, sockets_max=2)

            def take(connection: Http1VendorConnection, events: list[Event]) -> None:
                owner.events += events
                if isinstance(events[0], Answers):
                    raise Fault

            owner.connection._on_events = take
            server.is_holding = True
            owner.send(2)
            await trio.testing.wait_all_tasks_blocked()
            await server.answer(*server.held.pop(0))
            await trio.sleep_forever()
    assert owner.connection.close_reason is CloseReason.INTERNAL_ERROR
    assert owner.terminated().uncertain.tolist() == [1]


async def test_requests_time_out_each_with_its_socket(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    owner, server, _ = await connected(nursery, sockets_max=3, queue_max=0)
    owner.send(3)
    await trio.sleep(1)
    server.is_holding = True
    owner.send(2, timeout_s=5)
    owner.send(1, timeout_s=50)
    await trio.sleep(6)
    assert sorted(owner.tags(TimedOut)) == [3, 4]
    assert owner.closed_sockets == [CloseReason.LIVENESS_TIMEOUT] * 2
    await trio.sleep(100)
    assert sorted(owner.tags(TimedOut)) == [3, 4, 5]
    assert owner.reason is None  # the vendor answered before, and the next row opens a socket
    server.is_holding = False
    assert owner.send(1) == 1
    await trio.sleep(1)
    assert owner.answered() == [0, 1, 2, 6]


async def test_a_vendor_that_never_answers_ends_the_bundle_so_that_the_pool_backs_off(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    owner, server, _ = await connected(nursery, sockets_max=1, queue_max=1)
    server.is_holding = True
    owner.send(2, timeout_s=5)
    await trio.sleep(6)
    assert owner.reason is CloseReason.LIVENESS_TIMEOUT
    assert sorted(owner.tags(TimedOut) + owner.tags(Refused) + owner.terminated().refused.tolist()) == [0, 1]


async def test_idle_sockets_are_closed_and_the_bundle_stays(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    owner, server, _ = await connected(nursery, sockets_max=3, socket_idle_s=50.0)
    owner.send(3)
    await trio.sleep(1)
    assert owner.sockets == 3
    await trio.sleep(60)
    assert (owner.sockets, owner.closed_sockets, server.open) == (0, [CloseReason.IDLE] * 3, [])
    owner.send(1)
    await trio.sleep(1)
    assert owner.answered() == [0, 1, 2, 3]


async def test_drain_ends_in_time_even_when_answers_do_not_come(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    owner, server, _ = await connected(nursery, sockets_max=2)
    server.is_holding = True
    owner.send(3)
    await trio.sleep(0.1)
    owner.connection.drain(3, CloseReason.CREDENTIAL_REPLACED)
    await trio.sleep(1)
    assert (owner.tags(Refused), owner.reason) == ([2], None)
    await trio.sleep(4)
    assert owner.reason is CloseReason.CREDENTIAL_REPLACED
    assert owner.terminated().uncertain.tolist() == [0, 1]


async def test_an_answer_is_read_while_the_request_is_still_being_written(nursery: trio.Nursery) -> None:
    owner, server, ends = await connected(nursery, sockets_max=1)
    go_on, pump = trio.Event(), ends[0].send_stream.send_all_hook

    async def pump_part_then_wait() -> None:
        await pump()
        await go_on.wait()

    ends[0].send_stream.send_all_hook = pump_part_then_wait
    owner.send(2)
    await trio.testing.wait_all_tasks_blocked()
    assert owner.answered() == [0]
    assert len(server.bodies) == 1
    go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    assert owner.answered() == [0, 1]


async def test_drain_ends_a_socket_whose_task_has_not_begun(nursery: trio.Nursery, autojump_clock: object) -> None:
    """The rows of one step want a second socket, and the same step ends the bundle."""
    owner, server, ends = await connected(nursery, sockets_max=4)
    assert owner.send(2) == 2
    owner.connection.drain(30)
    began = trio.current_time()
    await trio.sleep(5)
    assert owner.reason is CloseReason.SHUTDOWN
    assert trio.current_time() - began == pytest.approx(5)
    assert sorted(owner.tags(Refused)) == [0, 1]
    assert (owner.sockets, len(owner.closed_sockets), server.open) == (0, 2, [])
    assert len(ends) == 1, "nobody connects for it"


async def test_owner_may_send_and_drain_from_within_on_events(nursery: trio.Nursery) -> None:
    owner, _, _ = await connected(nursery, sockets_max=4)
    take = owner.take

    def take_and_go_on(connection: Http1VendorConnection, events: list[Event]) -> None:
        take(connection, events)
        if owner.tag < 500:
            owner.send(min(500 - owner.tag, 16))
        elif owner.connection.open_requests() == 0 and owner.connection.close_reason is None:
            connection.drain(5)

    owner.connection._on_events = take_and_go_on
    owner.send(1)
    await trio.testing.wait_all_tasks_blocked()
    assert owner.answered() == list(range(500))
    assert owner.reason is CloseReason.SHUTDOWN


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory):
    return make_tls_files(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_a_body_that_ends_with_its_connection_is_whole_only_after_a_tls_goodbye(
    nursery: trio.Nursery, tls_files, says_goodbye: bool
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls_files.good)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await (stream.aclose() if says_goodbye else trio.aclose_forcefully(stream))

    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    port = listeners[0].transport_listener.socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    client = client_context(ca_file=Path(tls_files.ca), alpn=(ALPN_HTTP1,))

    async def open_stream() -> trio.abc.Stream:
        return await open_tls_stream("127.0.0.1", port, client, connect_timeout_s=5, alpn=ALPN_HTTP1)

    owner = Owner(open_stream)
    nursery.start_soon(owner.run)
    with trio.fail_after(60):
        while not owner.send(1):
            await trio.sleep(0.01)
        while not owner.answered():
            await trio.sleep(0.01)
    detail = owner.of(Answers)[0].details[0]
    assert (detail.body, detail.is_complete) == (b"abc", says_goodbye)


@pytest.mark.parametrize("alpn", [["http/1.1"], [], ["h2"]])  # without a match OpenSSL's server says nothing
async def test_rows_over_real_tls_are_answered_and_sessions_resumed(
    nursery: trio.Nursery, tls_files, alpn: list[str]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls_files.good)
    if alpn:
        context.set_alpn_protocols(alpn)
    server = Server()
    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
    port = listeners[0].transport_listener.socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, server.serve, listeners)
    client = client_context(ca_file=Path(tls_files.ca), alpn=(ALPN_HTTP1,))
    sessions = TlsSessions()

    async def open_stream() -> trio.abc.Stream:
        return await open_tls_stream("127.0.0.1", port, client, connect_timeout_s=5, alpn=ALPN_HTTP1, sessions=sessions)

    owner = Owner(open_stream, sockets_max=4)
    nursery.start_soon(owner.run)
    with trio.fail_after(60):
        while not owner.connection.capacity():
            await trio.sleep(0.01)
        for _ in range(20):
            owner.send(16, b"a" * 1024)
            while len(owner.answered()) < owner.tag:
                await trio.sleep(0.005)
    assert owner.answered() == list(range(owner.tag))
    assert owner.tag == 320
    assert server.bodies == [b"a" * 1024] * 320
    assert sessions.handshakes == 4
    assert sessions.resumed >= 1
    owner.connection.drain(5)
    with trio.fail_after(60):
        while owner.reason is None or server.open:
            await trio.sleep(0.01)
    assert owner.reason is CloseReason.SHUTDOWN
    assert math.isinf(owner.connection._bundle.next_deadline())
