"""PROXY headers below the edge, over real sockets, and listeners with different layers."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import CloseReason
from gateway.net.edge_settings import ListenerSettings
from gateway.net.edge_table import Count
from gateway.wire.proxy_v2 import SIGNATURE

Start = Callable[..., Any]
PROXY = ListenerSettings(port=0, proxy_protocol=True)
PLAIN = ListenerSettings(port=0)


def header(source: str = "203.0.113.7", tlvs: bytes = b"") -> bytes:
    body = socket.inet_aton(source) + socket.inet_aton("192.0.2.1") + struct.pack(">HH", 50_000, 1883) + tlvs
    return SIGNATURE + b"\x21\x11" + struct.pack(">H", len(body)) + body


LOCAL = SIGNATURE + b"\x20\x00\x00\x00"


def test_connection_behind_a_balancer_becomes_a_plain_one_with_its_real_address(start: Start) -> None:
    bench = start(PROXY)
    client = bench.connect()
    client.sendall(header() + b"hello")
    bench.until(lambda: bench.received)
    assert list(bench.received.values()) == [b"hello"]
    assert bench.edge.handshakes.addresses() == ["203.0.113.7"]
    assert bench.edge.statistics()["layered"] == 0
    assert bench.count(Count.PROXY_HEADERS) == 1


def test_header_byte_by_byte_gives_the_same(start: Start) -> None:
    bench = start(PROXY)
    client = bench.connect()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in header(tlvs=b"\x04\x00\x01x") + b"hello":
        client.sendall(bytes((byte,)))
        bench.turn()
    bench.until(lambda: list(bench.received.values()) == [b"hello"])
    assert bench.edge.handshakes.addresses() == ["203.0.113.7"]


@pytest.mark.parametrize(
    "data", [b"\x10\x20\x00\x04MQTT", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", header()[:12] + b"\x11"]
)
def test_connection_without_a_proper_header_is_closed_by_name(start: Start, data: bytes) -> None:
    bench = start(PROXY)
    client = bench.connect()
    client.sendall(data)
    bench.until(bench.closed)
    assert bench.closed() == {CloseReason.PROXY_HEADER_INVALID: 1}
    assert bench.count(Count.PROXY_HEADERS_REFUSED) == 1
    assert bench.received == {}


def test_half_a_header_is_closed_at_the_handshake_timeout(start: Start) -> None:
    bench = start(PROXY, handshake_timeout_s=3.0)
    bench.connect().sendall(header()[:20])
    bench.until_open(1)
    bench.turn()
    bench.now += 3.2
    bench.edge.close_overdue(bench.now, 100)
    assert bench.closed() == {CloseReason.HANDSHAKE_TIMEOUT: 1}


def test_limit_per_address_holds_for_real_addresses_and_not_for_the_balancer(start: Start) -> None:
    bench = start(PROXY, handshaking_max=100, handshaking_per_address_max=2)
    for _ in range(5):
        bench.connect().sendall(LOCAL)
        bench.connect()
    bench.until_open(10)
    bench.until(lambda: bench.count(Count.PROXY_HEADERS) == 5)
    assert bench.closed() == {}
    for _ in range(3):
        bench.connect().sendall(header("203.0.113.1"))
    bench.connect().sendall(header("203.0.113.2"))
    bench.until(lambda: bench.count(Count.PROXY_HEADERS) == 9)
    assert bench.count(Count.EVICTED_HANDSHAKING_PER_ADDRESS_MAX) == 1
    assert bench.closed() == {CloseReason.TOO_MANY_CONNECTIONS: 1}
    bench.edge.close_some(CloseReason.SHUTDOWN, 100)
    assert bench.edge.handshakes.addresses() == []


def test_refused_addresses_behind_a_balancer_are_known_by_the_header_and_the_balancer_is_never_refused(
    start: Start,
) -> None:
    bench = start(PROXY)
    asked: list[str] = []

    def refusal_of(address: str, now: float) -> CloseReason | None:
        asked.append(address)
        return CloseReason.BANNED if address != "203.0.113.8" else None

    bench.edge.refusal_of = refusal_of
    bench.connect().sendall(header("203.0.113.7") + b"let me in")
    bench.connect().sendall(header("203.0.113.8") + b"hello")
    bench.until(lambda: bench.received and bench.closed())
    assert list(bench.received.values()) == [b"hello"]
    assert bench.closed() == {CloseReason.BANNED: 1}
    assert bench.count(Count.REFUSED_ADDRESS) == 1
    assert sorted(asked) == ["203.0.113.7", "203.0.113.8"]
    assert (bench.edge.handshakes.count_at("203.0.113.8"), bench.edge.handshakes.count_at("203.0.113.7")) == (1, 0)
    assert [bench.edge.handshakes.oldest_at("203.0.113.8")] == list(bench.received)


def test_data_of_a_connection_that_a_later_header_evicts_in_the_same_poll_is_dropped(start: Start) -> None:
    bench = start(PROXY, handshaking_per_address_max=1)
    first = bench.connect()
    first.sendall(header())
    bench.until(lambda: bench.count(Count.PROXY_HEADERS) == 1)
    second = bench.connect()
    bench.until_open(2)
    first.sendall(b"too late")
    second.sendall(header() + b"hello")
    time.sleep(0.05)  # both are in the kernel
    bench.until(lambda: bench.received)
    assert list(bench.received.values()) == [b"hello"]
    assert bench.closed() == {CloseReason.TOO_MANY_CONNECTIONS: 1}


def test_listeners_have_their_own_layers(
    start: Start, tls: ListenerSettings, certificate: Path, tls_client: Any
) -> None:
    bench = start(PLAIN, tls, PROXY)
    bench.connect(0).sendall(b"plain")
    tls_client(bench, certificate, listener=1).send(b"over TLS")
    bench.connect(2).sendall(header() + b"proxied")
    bench.until(lambda: sorted(bench.received.values()) == [b"over TLS", b"plain", b"proxied"])
    assert bench.edge.statistics()["layered"] == 1


def test_proxy_header_comes_before_tls(start: Start, certificate: Path, tls_client: Any) -> None:
    bench = start(ListenerSettings(port=0, proxy_protocol=True, cert_file=str(certificate)))
    bench.echoes = True
    client = tls_client(bench, certificate, before=header())
    client.send(b"hello")
    assert client.receive(5) == b"hello"
    assert bench.edge.handshakes.addresses() == ["203.0.113.7"]
    assert (bench.count(Count.PROXY_HEADERS), bench.count(Count.TLS_HANDSHAKES)) == (1, 1)


def test_flood_at_one_listener_ends_its_own_handshakes_and_none_at_the_others(start: Start) -> None:
    bench = start(PLAIN, PLAIN, handshaking_max=10, handshaking_per_address_max=8)

    def connect(listener: int, n: int) -> None:
        for number in range(n):
            source = (f"127.0.0.{2 + number % 10}", 0)
            bench.clients.append(socket.create_connection(bench.addresses[listener], 5, source))

    connect(1, 3)
    bench.until_open(3)
    connect(0, 30)
    bench.until(lambda: bench.count(Count.ACCEPTED) == 33)
    assert bench.count(Count.EVICTED_HANDSHAKING_MAX) == 23
    for client in bench.clients[:3]:
        client.sendall(b"still here")
    bench.until(lambda: len(bench.received) == 3)
    # An equal share for each: the other one's flood does not take this one's, either.
    connect(1, 30)
    bench.until(lambda: bench.count(Count.ACCEPTED) == 63)
    assert sorted(bench.edge.handshakes.listeners()) == [0] * 5 + [1] * 5


def test_flood_of_silent_connections_over_tls_leaves_the_upgrades_of_websockets_alone(
    start: Start, tls: ListenerSettings
) -> None:
    bench = start(tls, ListenerSettings(port=0, is_websocket=True), layered_connections_max=6)
    browser = bench.connect(1)
    bench.until_open(1)
    for _ in range(20):
        bench.connect(0)
    bench.until(lambda: bench.count(Count.ACCEPTED) == 21)
    assert bench.count(Count.EVICTED_LAYERED_CONNECTIONS_MAX) == 15
    browser.sendall(b"no upgrade\r\n\r\n")
    bench.until(lambda: bench.count(Count.WEBSOCKET_UPGRADES_REFUSED))


def test_listener_with_a_long_queue_does_not_keep_the_others_waiting(start: Start) -> None:
    bench = start(PLAIN, PLAIN, accepts_per_step=4)
    for _ in range(40):
        bench.connect(0)
    for _ in range(2):
        bench.connect(1)
    bench.turn()
    assert sorted(bench.edge.handshakes.listeners()) == [0, 0, 1, 1]
