"""WebSocket below the edge, over real sockets, with wsproto as the client."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wsproto
from wsproto import events

from gateway.errors import CloseReason
from gateway.net.edge_settings import ListenerSettings
from gateway.net.edge_table import Count

Start = Callable[..., Any]
WEBSOCKET = ListenerSettings(port=0, is_websocket=True)


def upgraded(bench: Any, send: Callable[[bytes], None], receive: Callable[[int], bytes]) -> wsproto.WSConnection:
    """A wsproto client that has shaken hands."""
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    send(client.send(events.Request(host="localhost", target="/mqtt", subprotocols=["mqtt"])))
    found: list[events.Event] = []
    while not found:
        client.receive_data(receive(1))
        found = list(client.events())
    assert isinstance(found[0], events.AcceptConnection)
    assert found[0].subprotocol == "mqtt"
    return client


def plain(bench: Any, client: socket.socket) -> tuple[Callable[[bytes], None], Callable[[int], bytes]]:
    def send(data: bytes) -> None:
        client.sendall(data)
        bench.turn()

    def receive(n: int) -> bytes:
        bench.turn(0.01)
        return client.recv(1 << 16)

    return send, receive


def test_websocket_carries_both_ways_and_answers_pings(start: Start) -> None:
    bench = start(WEBSOCKET)
    bench.echoes = True
    send, receive = plain(bench, bench.connect())
    client = upgraded(bench, send, receive)
    send(client.send(events.BytesMessage(b"hello")) + client.send(events.Ping(b"there?")))
    found: list[events.Event] = []
    while len(found) < 2:
        client.receive_data(receive(1))
        found += client.events()
    assert events.Pong(payload=bytearray(b"there?")) in found
    assert events.BytesMessage(data=bytearray(b"hello")) in found
    assert bench.count(Count.WEBSOCKET_UPGRADES) == 1


def test_websocket_over_tls_is_both_upon_each_other(start: Start, certificate: Path, tls_client: Any) -> None:
    bench = start(ListenerSettings(port=0, cert_file=str(certificate), is_websocket=True))
    bench.echoes = True
    tls_client = tls_client(bench, certificate)
    client = upgraded(bench, tls_client.send, tls_client.receive)
    tls_client.send(client.send(events.BytesMessage(b"hello")))
    client.receive_data(tls_client.receive(1))
    assert list(client.events()) == [events.BytesMessage(data=bytearray(b"hello"))]
    bench.edge.close_some(CloseReason.SHUTDOWN, 10)
    client.receive_data(tls_client.receive(1))
    (closed,) = client.events()
    assert isinstance(closed, events.CloseConnection)
    assert closed.code == 1001
    assert tls_client.act(lambda: tls_client.tls.read(10)) == b""


def test_close_of_the_client_is_answered_after_its_last_message_was_heard(start: Start) -> None:
    bench = start(WEBSOCKET)
    send, receive = plain(bench, bench.connect())
    client = upgraded(bench, send, receive)
    send(client.send(events.BytesMessage(b"last")) + client.send(events.CloseConnection(1000)))
    bench.until(bench.closed)
    assert list(bench.received.values()) == [b"last"]
    assert bench.closed() == {CloseReason.PEER_CLOSED: 1}
    client.receive_data(receive(1))
    (closed,) = client.events()
    assert isinstance(closed, events.CloseConnection)


def test_end_in_a_layer_does_not_hit_the_next_owner_of_the_descriptor(start: Start) -> None:
    bench = start(WEBSOCKET)
    send, receive = plain(bench, bench.connect())
    client = upgraded(bench, send, receive)
    bench.clients[0].sendall(
        client.send(events.BytesMessage(b"DISCONNECT")) + client.send(events.CloseConnection(1000))
    )
    bench.connect()
    time.sleep(0.05)  # both are in the kernel
    (fd,) = bench.edge.poll(bench.now).fds
    bench.edge.close(fd, CloseReason.CLIENT_DISCONNECT)
    bench.edge.accept(bench.now)
    assert bench.table.state_at[fd]
    bench.turn()
    bench.turn()
    assert bench.table.state_at[fd]
    assert bench.closed() == {CloseReason.CLIENT_DISCONNECT: 1}


@pytest.mark.parametrize(
    "data", [b"\x10\x20\x00\x04MQTT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x00\x05"]
)
def test_connection_that_does_not_upgrade_is_refused_in_http_and_by_name(start: Start, data: bytes) -> None:
    bench = start(WEBSOCKET)
    client = bench.connect()
    client.sendall(data)
    bench.until(bench.closed)
    assert bench.closed() == {CloseReason.WEBSOCKET_UPGRADE_REFUSED: 1}
    assert bench.count(Count.WEBSOCKET_UPGRADES_REFUSED) == 1
    assert client.recv(1_000).startswith(b"HTTP/1.1 400 ")


def test_slow_upgrade_is_closed_at_the_handshake_timeout(start: Start) -> None:
    bench = start(WEBSOCKET, handshake_timeout_s=3.0)
    bench.connect().sendall(b"GET /mqtt HTTP/1.1\r\nHost:")
    bench.until_open(1)
    bench.turn()
    bench.now += 3.2
    bench.edge.close_overdue(bench.now, 100)
    assert bench.closed() == {CloseReason.HANDSHAKE_TIMEOUT: 1}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"\x82\x01a", CloseReason.WEBSOCKET_ERROR),
        (b"\x81\x81mask\x00", CloseReason.WEBSOCKET_ERROR),
        (b"\x82\xff" + (300_000).to_bytes(8, "big"), CloseReason.FRAME_TOO_LARGE),
    ],
)
def test_bad_frame_ends_by_name_after_what_came_before(start: Start, bad: bytes, reason: CloseReason) -> None:
    bench = start(WEBSOCKET)
    send, receive = plain(bench, bench.connect())
    client = upgraded(bench, send, receive)
    send(client.send(events.BytesMessage(b"before")) + bad)
    bench.until(bench.closed)
    assert bench.closed() == {reason: 1}
    assert list(bench.received.values()) == [b"before"]


def test_client_that_pings_and_never_reads_is_closed_as_slow(start: Start) -> None:
    bench = start(WEBSOCKET, send_buffer_bytes=4_096, pending_bytes_max=20_000)
    raw = bench.connect()
    send, receive = plain(bench, raw)
    client = upgraded(bench, send, receive)
    pings = client.send(events.Ping(bytes(125))) * 20
    raw.setblocking(False)
    while not bench.closed():
        try:
            raw.send(pings)
        except BlockingIOError:
            pass
        except OSError:
            break
        bench.turn(0.01)
    assert bench.closed() == {CloseReason.SLOW_CONSUMER: 1}
