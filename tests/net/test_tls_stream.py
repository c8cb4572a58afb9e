"""TlsStream against trio's own TLS server: the contract of a stream, all records at once, ends, cancellation."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from bench.simulators.tls import make_tls_files
from gateway.net.tls import client_context
from gateway.net.tls_stream import TlsStream

Pair = tuple[TlsStream, trio.SSLStream[trio.SocketStream]]


@pytest.fixture(scope="module")
def open_pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Awaitable[Pair]]:
    """Opens our client and trio's server on two ends of a TCP connection, after their handshake."""
    files = make_tls_files(tmp_path_factory.mktemp("tls"))
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(files.good)
    context = client_context(ca_file=files.ca, alpn=())

    async def open_(*, https_compatible: bool = True) -> Pair:
        accepted: list[trio.SocketStream] = []
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        tcp = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        accepted.append(await listener.accept())
        await listener.aclose()
        ours = TlsStream(tcp, context, "localhost")
        theirs = trio.SSLStream(accepted[0], server_context, server_side=True, https_compatible=https_compatible)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.do_handshake)
            nursery.start_soon(theirs.do_handshake)
        return ours, theirs

    return open_


async def close(pair: Pair) -> None:
    for stream in pair:
        await trio.aclose_forcefully(stream)


async def test_bytes_go_both_ways_at_once(open_pair) -> None:
    ours, theirs = pair = await open_pair()
    data = bytes(range(256)) * 4096
    received: dict[str, bytes] = {}

    async def receive(stream: trio.abc.Stream, name: str) -> None:
        got = b""
        while len(got) < len(data):
            got += await stream.receive_some()
        received[name] = got

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for stream, name in ((ours, "ours"), (theirs, "theirs")):
                nursery.start_soon(stream.send_all, data)
                nursery.start_soon(receive, stream, name)
    assert received == {"ours": data, "theirs": data}
    await close(pair)


async def test_all_records_that_are_there_come_at_once(open_pair) -> None:
    ours, theirs = pair = await open_pair()
    for part in (b"a" * 100, b"b" * 100, b"c" * 100):
        await theirs.send_all(part)
    await trio.testing.wait_all_tasks_blocked()
    assert await ours.receive_some() == b"a" * 100 + b"b" * 100 + b"c" * 100
    await theirs.send_all(b"d" * 100)
    assert await ours.receive_some(60) == b"d" * 60
    assert await ours.receive_some(60) == b"d" * 40
    await close(pair)


async def test_goodbye_of_the_peer_is_the_end_behind_its_last_bytes(open_pair) -> None:
    ours, theirs = pair = await open_pair(https_compatible=False)  # trio's other servers say none
    await theirs.send_all(b"last")
    await theirs.aclose()
    assert await ours.receive_some() == b"last"
    assert await ours.receive_some() == b""
    assert await ours.receive_some() == b""
    assert ours.said_goodbye
    await close(pair)


async def test_end_without_goodbye_is_an_end(open_pair) -> None:
    ours, theirs = pair = await open_pair()
    await trio.aclose_forcefully(theirs.transport_stream)
    assert await ours.receive_some() == b""
    assert not ours.said_goodbye
    await close(pair)


async def test_close_says_goodbye(open_pair) -> None:
    ours, theirs = await open_pair()
    await ours.send_all(b"last")
    await ours.aclose()
    assert await theirs.receive_some() == b"last"
    # Without the goodbye the server, asked strictly, would call the stream broken.
    theirs._https_compatible = False
    assert await theirs.receive_some() == b""
    await trio.aclose_forcefully(theirs)


async def test_half_closed_stream_still_receives(open_pair) -> None:
    ours, theirs = pair = await open_pair()
    await ours.send_all(b"the last")
    await ours.send_eof()
    assert await theirs.receive_some() == b"the last"
    assert await theirs.receive_some() == b""
    got = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, b"x" * 100_000)
        while len(got) < 100_000:
            got += await ours.receive_some()
    assert got == b"x" * 100_000
    await theirs.aclose()
    assert await ours.receive_some() == b""
    await close(pair)


async def test_closed_stream_refuses_and_wakes_who_waits(open_pair) -> None:
    ours, theirs = pair = await open_pair()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await ours.aclose()
    for call in (ours.receive_some, lambda: ours.send_all(b"x"), ours.wait_send_all_might_not_block):
        with pytest.raises(trio.ClosedResourceError):
            await call()
    await ours.aclose()
    await close(pair)
    assert theirs is not None


async def test_second_task_on_one_direction_is_refused(open_pair) -> None:
    ours, _ = pair = await open_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await ours.receive_some()
        nursery.cancel_scope.cancel()
    await close(pair)


async def test_cancelled_receive_loses_nothing(open_pair) -> None:
    ours, theirs = pair = await open_pair()
    with trio.move_on_after(0):
        await ours.receive_some()
    await theirs.send_all(b"hello")
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.receive_some()
    assert scope.cancelled_caught
    assert await ours.receive_some() == b"hello"
    await close(pair)


async def test_sender_waits_while_the_peer_does_not_read(open_pair) -> None:
    ours, theirs = pair = await open_pair()
    data = b"x" * (32 << 20)
    sent = trio.Event()

    async def send() -> None:
        await ours.send_all(data)
        sent.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            assert not sent.is_set()
            left = len(data)
            while left:
                left -= len(await theirs.receive_some(1 << 20))
        assert sent.is_set()
    await close(pair)


async def test_garbage_breaks_the_stream(open_pair) -> None:
    ours, theirs = pair = await open_pair()
    await theirs.transport_stream.send_all(b"this is no record of TLS")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await ours.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"x")
    await close(pair)


async def test_reset_connection_breaks_the_stream(open_pair) -> None:
    ours, theirs = pair = await open_pair()
    await ours.send_all(b"never read")
    await trio.testing.wait_all_tasks_blocked()
    # Closing a socket with unread bytes resets the connection.
    await trio.aclose_forcefully(theirs.transport_stream)
    with pytest.raises(trio.BrokenResourceError) as caught:
        await ours.send_all(b"x" * (32 << 20))
    assert isinstance(caught.value.__cause__, ConnectionError)
    await close(pair)
