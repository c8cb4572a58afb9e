"""The connection actor against a small `h2` server, over trio's memory streams and over real TLS."""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import numpy as np
import pytest
import trio
import trio.testing
from h2.settings import SettingCodes

from gateway.actors.vendor_connection import ConnectionLimits, VendorConnection
from gateway.errors import CloseReason
from gateway.net.tls import ConnectFailed, client_context, open_tls_stream
from gateway.vendor import Requests
from gateway.wire.h2.events import Answers, Event, Refused, Terminated, TimedOut, Writable
from gateway.wire.h2.settings import ClientConfig

PING_OF_7_BYTES = b"\x00\x00\x07\x06\x00\x00\x00\x00\x00" + bytes(7)


class Server:
    """Answers each request at once with 200, unless `is_holding`; `held` are the streams that wait."""

    def __init__(self, stream: trio.abc.Stream, *, streams_max: int = 100) -> None:
        self.stream = stream
        self.machine = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.machine.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: streams_max})
        self.is_holding = False
        self.held: list[int] = []
        self.requests = 0
        self.goaways: list[int] = []

    async def run(self) -> None:
        self.machine.initiate_connection()
        await self.flush()
        try:
            async for data in self.stream:
                for event in self.machine.receive_data(data):
                    self.take(event)
                await self.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    def take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.DataReceived():
                self.machine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.requests += 1
                if self.is_holding:
                    self.held.append(event.stream_id)
                else:
                    self.answer(event.stream_id)
            case h2.events.ConnectionTerminated():
                self.goaways.append(int(event.error_code))
            case _:
                pass

    def answer(self, stream_id: int) -> None:
        self.machine.send_headers(stream_id, [(b":status", b"200")], end_stream=True)

    async def flush(self) -> None:
        data = self.machine.data_to_send()
        if data:
            await self.stream.send_all(data)


class Owner:
    """What a lane is to its connection: keeps the events and what has become of each tag."""

    def __init__(
        self,
        open_stream: Callable[[], Awaitable[trio.abc.Stream]],
        limits: ConnectionLimits | None = None,
        **config: object,
    ) -> None:
        self.events: list[Event] = []
        self.connection = VendorConnection(
            open_stream=open_stream,
            config=ClientConfig(**config),
            limits=limits or ConnectionLimits(),
            on_events=self.take,
        )
        self.tag = 0
        self.reason: CloseReason | None = None

    def take(self, connection: VendorConnection, events: list[Event]) -> None:
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
        return [tag for event in self.of(Answers) for tag in event.tags.tolist()]

    def terminated(self) -> Terminated:
        (event,) = self.of(Terminated)
        assert event is self.events[-1]
        return event


@pytest.fixture(scope="module")
def tls_files(write_certificate: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


async def connected(nursery: trio.Nursery, limits: ConnectionLimits | None = None, **config: object):
    """(owner, server, client's end) over memory streams, after SETTINGS went both ways."""
    ours, theirs = trio.testing.memory_stream_pair()

    async def open_stream() -> trio.abc.Stream:
        return ours

    owner = Owner(open_stream, limits, **config)
    server = Server(theirs)
    nursery.start_soon(server.run)
    await nursery.start(owner.run)
    await trio.testing.wait_all_tasks_blocked()
    return owner, server, ours


async def test_rows_are_answered_and_drain_says_goodbye(nursery: trio.Nursery) -> None:
    owner, server, _ = await connected(nursery)
    assert owner.connection.capacity() == 100
    assert owner.send(150) == 100
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(owner.answered()) == list(range(100))
    assert owner.send(50) == 50
    owner.connection.drain(5)
    assert owner.connection.capacity() == 0
    assert owner.send() == 0
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(owner.answered()) == list(range(150))
    assert owner.reason is CloseReason.SHUTDOWN
    assert owner.terminated().uncertain.tolist() == []
    assert server.goaways == [0]


async def test_nothing_is_taken_before_the_connection_stands(nursery: trio.Nursery) -> None:
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
    assert len(owner.terminated().refused) == 0


async def test_failed_connect_is_the_close_reason(nursery: trio.Nursery) -> None:
    async def fail() -> trio.abc.Stream:
        raise ConnectFailed("push.example", 443, CloseReason.CONNECT_TIMEOUT, "over 5 s")

    owner = Owner(fail)
    await nursery.start(owner.run)
    await trio.testing.wait_all_tasks_blocked()
    assert owner.reason is owner.terminated().reason is CloseReason.CONNECT_TIMEOUT


async def test_lost_connection_gives_sent_rows_back_as_uncertain(nursery: trio.Nursery) -> None:
    owner, server, _ = await connected(nursery)
    server.is_holding = True
    owner.send(3)
    await trio.testing.wait_all_tasks_blocked()
    await server.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert owner.reason is CloseReason.PEER_CLOSED
    assert owner.terminated().uncertain.tolist() == [0, 1, 2]


async def test_rows_that_never_left_come_back_as_refused(nursery: trio.Nursery) -> None:
    owner, server, _ = await connected(nursery)
    server.is_holding = True
    owner.send(2)
    await trio.testing.wait_all_tasks_blocked()
    owner.send(3)
    owner.connection.abort(CloseReason.CREDENTIAL_REPLACED)
    await trio.testing.wait_all_tasks_blocked()
    assert owner.reason is CloseReason.CREDENTIAL_REPLACED
    assert owner.terminated().uncertain.tolist() == [0, 1]
    assert owner.terminated().refused.tolist() == [2, 3, 4]


async def test_cancelled_actor_gives_its_rows_back(nursery: trio.Nursery) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            owner, server, _ = await connected(inner)
            server.is_holding = True
            owner.send(2)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert owner.terminated().uncertain.tolist() == [0, 1]
    assert owner.connection.close_reason is CloseReason.SHUTDOWN


async def test_actor_cancelled_while_writing_gives_its_rows_back(nursery: trio.Nursery) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            owner, _, ours = await connected(inner)
            ours.send_stream.send_all_hook = trio.sleep_forever
            owner.send(2)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert owner.terminated().uncertain.tolist() == [0, 1]


async def test_fault_of_the_owner_gives_its_rows_back_and_is_not_swallowed() -> None:
    class Fault(Exception):
        pass

    class BadOwner(Owner):
        def take(self, connection: VendorConnection, events: list[Event]) -> None:
            super().take(connection, events)
            if isinstance(events[0], Answers):
                raise Fault

    ours, theirs = trio.testing.memory_stream_pair()

    async def open_stream() -> trio.abc.Stream:
        return ours

    owner = BadOwner(open_stream)
    server = Server(theirs)
    with pytest.RaisesGroup(pytest.RaisesExc(Fault), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            await nursery.start(owner.run)
            await trio.testing.wait_all_tasks_blocked()
            server.is_holding = True
            owner.send(2)
            await trio.testing.wait_all_tasks_blocked()
            server.answer(1)
            await server.flush()
            await trio.sleep_forever()
    assert owner.connection.close_reason is CloseReason.INTERNAL_ERROR
    assert owner.terminated().uncertain.tolist() == [1]


async def test_requests_time_out_and_silence_ends_the_connection(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    owner, server, _ = await connected(nursery, ping_idle_s=30, ping_timeout_s=10)
    server.is_holding = True
    start = trio.current_time()
    owner.send(2, timeout_s=5)
    owner.send(1, timeout_s=1000)
    await trio.sleep(6)
    assert [event.tags.tolist() for event in owner.of(TimedOut)] == [[0, 1]]
    # The server answers PINGs, so the connection lives on.
    await trio.sleep(100)
    assert owner.reason is None
    assert owner.connection.statistics().open_streams == 1
    server.stream.receive_stream.receive_some_hook = trio.sleep_forever  # from now on it reads nothing
    await trio.sleep(100)
    assert owner.reason is CloseReason.LIVENESS_TIMEOUT
    assert owner.terminated().uncertain.tolist() == [2]
    assert trio.current_time() - start < 250


async def test_peer_that_stops_reading_is_back_pressure_then_the_end(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    limits = ConnectionLimits(unsent_bytes_max=1000)
    owner, _, ours = await connected(nursery, limits)
    go_on = trio.Event()
    pump = ours.send_stream.send_all_hook

    async def pump_later() -> None:
        await go_on.wait()
        await pump()

    ours.send_stream.send_all_hook = pump_later
    assert owner.send(1, b"a" * 2000) == 1
    await trio.testing.wait_all_tasks_blocked()
    assert owner.connection.capacity() == 0
    assert owner.send() == 0
    go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    assert Writable() in owner.events
    assert owner.send() == 1
    await trio.testing.wait_all_tasks_blocked()
    ours.send_stream.send_all_hook = trio.sleep_forever
    owner.send(3)
    await trio.sleep(100)
    assert owner.reason is CloseReason.LIVENESS_TIMEOUT
    assert owner.terminated().uncertain.tolist() == [2, 3, 4]


async def test_drain_ends_in_time_even_when_answers_do_not_come(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    owner, server, _ = await connected(nursery)
    server.is_holding = True
    owner.send(2)
    await trio.testing.wait_all_tasks_blocked()
    start = trio.current_time()
    owner.connection.drain(3, CloseReason.CREDENTIAL_REPLACED)
    await trio.sleep(5)
    assert owner.reason is CloseReason.CREDENTIAL_REPLACED
    assert owner.terminated().uncertain.tolist() == [0, 1]
    assert trio.current_time() - start == pytest.approx(5)


async def test_goaway_of_the_peer_refuses_and_ends(nursery: trio.Nursery) -> None:
    owner, server, _ = await connected(nursery)
    server.is_holding = True
    owner.send(3)
    await trio.testing.wait_all_tasks_blocked()
    server.answer(1)
    server.machine.close_connection(last_stream_id=1)
    await server.flush()
    await trio.testing.wait_all_tasks_blocked()
    assert owner.answered() == [0]
    assert [event.tags.tolist() for event in owner.of(Refused)] == [[1, 2]]
    assert owner.reason is CloseReason.GOAWAY


async def test_fault_of_the_peer_is_told_with_its_code(nursery: trio.Nursery) -> None:
    owner, server, _ = await connected(nursery)
    server.is_holding = True
    owner.send(1)
    await trio.testing.wait_all_tasks_blocked()
    await server.stream.send_all(PING_OF_7_BYTES)
    await trio.testing.wait_all_tasks_blocked()
    assert server.goaways == [6]
    # what the peer was still sending is read: a socket closed with bytes unread is reset, and GOAWAY lost with it
    assert owner.reason is None
    await server.stream.send_all(bytes(100_000))
    await server.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert owner.reason is CloseReason.PROTOCOL_ERROR


async def test_peer_that_goes_on_after_its_fault_is_left_in_time(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    owner, server, _ = await connected(nursery, ConnectionLimits(close_timeout_s=2.0))
    begun = trio.current_time()
    await server.stream.send_all(PING_OF_7_BYTES)

    async def go_on() -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await server.stream.send_all(bytes(1000))
                await trio.sleep(0.01)

    await go_on()
    await trio.testing.wait_all_tasks_blocked()
    assert owner.reason is CloseReason.PROTOCOL_ERROR
    assert trio.current_time() - begun == pytest.approx(2.0, abs=0.1)


async def test_owner_may_send_from_within_on_events(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def open_stream() -> trio.abc.Stream:
        return ours

    class Busy(Owner):
        def take(self, connection: VendorConnection, events: list[Event]) -> None:
            super().take(connection, events)
            if self.tag < 1000:
                self.send(min(1000 - self.tag, 64))

    owner = Busy(open_stream)
    server = Server(theirs)
    nursery.start_soon(server.run)
    await nursery.start(owner.run)
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(owner.answered()) == list(range(1000))


async def test_timings_tell_when_a_burst_was_taken_and_handed_over(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    owner, _, ours = await connected(nursery)
    owner.connection.take_timings()
    gate = trio.Event()
    ours.send_stream.send_all_hook = gate.wait
    owner.send(1)
    await trio.testing.wait_all_tasks_blocked()
    owner.send(7)
    mock_clock.jump(0.5)
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    first, second = owner.connection.take_timings()
    assert (first.rows, second.rows) == (1, 7)
    assert first.handed_s == first.taken_s
    assert second.handed_s == pytest.approx(second.taken_s + 0.5)
    assert owner.connection.take_timings() == []


async def test_rows_over_real_tls_are_answered(nursery: trio.Nursery, tls_files: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls_files)
    context.set_alpn_protocols(["h2"])
    servers: list[Server] = []

    async def serve(stream: trio.abc.Stream) -> None:
        servers.append(Server(stream))
        await servers[-1].run()

    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
    port = listeners[0].transport_listener.socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    client = client_context(ca_file=tls_files)

    async def open_stream() -> trio.abc.Stream:
        return await open_tls_stream("127.0.0.1", port, client, server_hostname="localhost", connect_timeout_s=5)

    total = 2000
    done = trio.Event()

    class Busy(Owner):
        def take(self, connection: VendorConnection, events: list[Event]) -> None:
            super().take(connection, events)
            if self.tag < total:
                self.send(total - self.tag, b"a" * 200)
            if len(self.answered()) == total:
                done.set()

    owner = Busy(open_stream)
    nursery.start_soon(owner.run)
    with trio.fail_after(60):
        await done.wait()
    assert sorted(owner.answered()) == list(range(total))
    assert servers[0].requests == total
    timings = owner.connection.take_timings()
    assert sum(timing.rows for timing in timings) == total
    assert all(0 <= timing.handed_s - timing.taken_s < math.inf for timing in timings)
    owner.connection.drain(5)
    with trio.fail_after(60):
        while owner.reason is None:
            await trio.testing.wait_all_tasks_blocked()
    assert owner.reason is CloseReason.SHUTDOWN
