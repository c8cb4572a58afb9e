"""TLS below the edge, over real sockets: what gets through, and each way it can end."""

from __future__ import annotations

import os
import shutil
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import CloseReason, ConfigError
from gateway.net.edge import Edge
from gateway.net.edge_settings import EdgeSettings, ListenerSettings
from gateway.net.edge_table import Count

Start = Callable[..., Any]
PLAIN = ListenerSettings(port=0)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_carries_both_ways(
    start: Start, tls: ListenerSettings, certificate: Path, version: ssl.TLSVersion, tls_client: Any
) -> None:
    bench = start(tls)
    bench.echoes = True
    client = tls_client(bench, certificate, minimum_version=version, maximum_version=version)
    client.send(b"hello")
    assert client.receive(5) == b"hello"
    assert client.tls.version() == version.name.replace("v1_", "v1.")
    assert bench.count(Count.TLS_HANDSHAKES) == 1
    assert bench.edge.statistics()["opening"] == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_device_that_comes_back_resumes_its_session(
    start: Start, tls: ListenerSettings, certificate: Path, version: ssl.TLSVersion, tls_client: Any
) -> None:
    bench = start(tls)
    bench.echoes = True
    first = tls_client(bench, certificate, minimum_version=version, maximum_version=version)
    first.send(b"x")
    assert first.receive(1) == b"x"  # the ticket has come by now
    second = tls_client(bench, certificate, earlier=first)
    second.send(b"y")
    assert second.receive(1) == b"y"
    assert second.tls.session_reused


def test_tls_does_not_depend_on_chunks(start: Start, tls: ListenerSettings, certificate: Path, tls_client: Any) -> None:
    bench = start(tls)
    bench.echoes = True
    client = tls_client(bench, certificate)
    client.chunk = 1
    client.send(b"a" * 100)
    assert client.receive(100) == b"a" * 100


def test_old_tls_is_refused_by_name(start: Start, tls: ListenerSettings) -> None:
    bench = start(tls)
    client = bench.connect()
    hello = b"\x03\x02" + bytes(32) + b"\x00" + b"\x00\x04\xc0\x0a\xc0\x14" + b"\x01\x00"  # TLS 1.1
    client.sendall(b"\x16\x03\x01\x00" + bytes((len(hello) + 4,)) + b"\x01\x00\x00" + bytes((len(hello),)) + hello)
    bench.until(bench.closed)
    assert bench.closed() == {CloseReason.TLS_HANDSHAKE_FAILED: 1}
    assert client.recv(100)[-1] == 70  # alert protocol_version


@pytest.mark.parametrize("data", [b"\x10\x20\x00\x04MQTT", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05xxxxx"])
def test_garbage_instead_of_a_client_hello_is_told_so_and_closed_by_name(
    start: Start, tls: ListenerSettings, data: bytes
) -> None:
    bench = start(tls)
    client = bench.connect()
    client.sendall(data)
    bench.until(bench.closed)
    assert bench.closed() == {CloseReason.TLS_HANDSHAKE_FAILED: 1}
    assert bench.count(Count.TLS_HANDSHAKES_FAILED) == 1
    # OpenSSL answers what looks like TLS only
    assert client.recv(100)[:1] == (b"\x15" if data[0] == 0x16 else b"")


def test_client_hello_that_never_ends_is_bounded_in_bytes(start: Start, tls: ListenerSettings) -> None:
    bench = start(tls, tls_handshake_bytes_max=4_096)
    client = bench.connect()
    # a ClientHello of 60,000 bytes, in records of 1,000
    hello = b"\x01\x00\xea\x60\x03\x03" + bytes(32) + b"\x00" + b"\xe0\x00" + bytes(60_000)
    for at in range(0, 8_000, 1_000):
        client.sendall(b"\x16\x03\x01\x03\xe8" + hello[at : at + 1_000])
    bench.until(bench.closed)
    assert bench.closed() == {CloseReason.TLS_HANDSHAKE_FAILED: 1}
    assert bench.count(Count.BYTES_IN) < 8_000


def test_slow_client_hello_is_closed_at_the_handshake_timeout(start: Start, tls: ListenerSettings) -> None:
    bench = start(tls, handshake_timeout_s=3.0)
    client = bench.connect()
    bench.until_open(1)
    for byte in b"\x16\x03\x01\x02\x00\x01":
        client.sendall(bytes((byte,)))
        bench.turn()
        bench.now += 0.6
        bench.edge.close_overdue(bench.now, 100)
    assert bench.closed() == {CloseReason.HANDSHAKE_TIMEOUT: 1}


def test_handshakes_of_one_step_are_bounded_and_leave_the_others_room(
    start: Start, tls: ListenerSettings, certificate: Path
) -> None:
    bench = start(tls, PLAIN, openings_per_step=2)
    clients = [bench.connect() for _ in range(5)]
    plain = bench.connect(1)
    bench.until_open(6)
    for client in clients:
        client.sendall(b"garbage")
    plain.sendall(b"hello")
    time.sleep(0.05)  # all are in the kernel
    bench.turn()
    assert bench.closed() == {CloseReason.TLS_HANDSHAKE_FAILED: 2}
    assert list(bench.received.values()) == [b"hello"]
    bench.turn()
    bench.turn()
    assert bench.closed() == {CloseReason.TLS_HANDSHAKE_FAILED: 5}


def test_end_of_tls_is_said_and_understood(
    start: Start, tls: ListenerSettings, certificate: Path, tls_client: Any
) -> None:
    bench = start(tls)
    first, second = tls_client(bench, certificate), tls_client(bench, certificate)
    first.send(b"bye")
    second.send(b"x")
    with pytest.raises(ssl.SSLWantReadError):
        first.tls.unwrap()
    first._pump()
    bench.until(bench.closed)
    assert bench.closed() == {CloseReason.PEER_CLOSED: 1}
    assert b"bye" in bench.received.values()
    bench.edge.close_some(CloseReason.SHUTDOWN, 10)
    # close_notify: the end is read as an end, not as a cut
    assert second.act(lambda: second.tls.read(10)) == b""


def test_broken_record_is_a_tls_error_after_what_came_before(
    start: Start, tls: ListenerSettings, certificate: Path, tls_client: Any
) -> None:
    bench = start(tls)
    client = tls_client(bench, certificate)
    client.shake_hands()
    client.tls.write(b"before")
    client.socket.sendall(client._outgoing.read() + b"\x17\x03\x03\x00\x20" + bytes(32))
    bench.until(bench.closed)
    assert bench.closed() == {CloseReason.TLS_ERROR: 1}
    assert list(bench.received.values()) == [b"before"]


def test_slow_reader_over_tls_gets_every_byte_in_order_or_is_closed(
    start: Start, tls: ListenerSettings, certificate: Path, tls_client: Any
) -> None:
    bench = start(tls, send_buffer_bytes=8_192, pending_bytes_max=100_000)
    client = tls_client(bench, certificate)
    client.send(b"x")
    (fd,) = bench.received
    rows = [bytes((n,)) * 10_000 for n in range(40)]
    taken = [row for row in rows if not bench.edge.write_rows([fd], [row], bench.now)]
    assert 0 < len(taken) < len(rows)
    assert bench.edge.statistics()["pending_bytes"] < 100_000 + 10 * 40
    assert client.receive(10_000 * len(taken)) == b"".join(taken)
    assert bench.edge.statistics()["pending"] == 0
    while bench.table.n_open:
        bench.edge.write(fd, rows[0], bench.now)
    assert bench.closed() == {CloseReason.SLOW_CONSUMER: 1}


def test_packet_larger_than_a_record_arrives(
    start: Start, tls: ListenerSettings, certificate: Path, tls_client: Any
) -> None:
    bench = start(tls)
    client = tls_client(bench, certificate)
    client.send(b"x")
    (fd,) = bench.received
    data = os.urandom(200_000)
    bench.edge.write(fd, data, bench.now)
    assert client.receive(len(data)) == data


def test_changed_certificate_is_used_by_the_next_device_and_ends_no_connection(
    start: Start, tmp_path: Path, write_certificate: Callable[..., Path], tls_client: Any
) -> None:
    used = tmp_path / "used.pem"
    old, new = write_certificate(tmp_path / "old.pem"), write_certificate(tmp_path / "new.pem")
    shutil.copy(old, used)
    bench = start(ListenerSettings(port=0, cert_file=str(used)), certificate_check_s=10.0)
    told: list[tuple[str, str]] = []
    bench.edge.layers.on_certificate = lambda file, fault: told.append((file, fault))
    bench.echoes = True
    before = tls_client(bench, old)
    before.send(b"1")
    new_ca = shutil.copy(new, tmp_path / "new-ca.pem")
    os.replace(new, used)
    # not looked at again yet
    tls_client(bench, old).shake_hands()
    bench.now += 10.1
    tls_client(bench, used).shake_hands()
    bench.now += 10.1
    tls_client(bench, used).shake_hands()
    assert bench.count(Count.CERTIFICATE_RELOADS) == 1
    assert told == [(str(used), "")]
    before.send(b"2")
    assert before.receive(2) == b"12"
    # half of a renewal, or a mistake: the one before stays
    used.write_text("no certificate")
    bench.now += 10.1
    shutil.copy(used, tmp_path / "ca.pem")
    with pytest.raises(ssl.SSLCertVerificationError):
        tls_client(bench, old).shake_hands()
    assert bench.count(Count.CERTIFICATE_RELOADS_FAILED) == 1
    assert bench.count(Count.CERTIFICATE_RELOADS) == 1
    # said once, counted each time it is looked at
    bench.now += 10.1
    tls_client(bench, new_ca).shake_hands()
    assert bench.count(Count.CERTIFICATE_RELOADS_FAILED) == 2
    ((file, fault),) = told[1:]
    assert (file, "PEM" in fault) == (str(used), True)
    used.unlink()
    bench.now += 10.1
    tls_client(bench, new_ca).shake_hands()
    assert "No such file" in told[2][1]


@pytest.mark.parametrize("name", ["c.pem", "absent.pem"])
def test_certificate_that_cannot_be_used_is_a_config_error(start: Start, tmp_path: Path, name: str) -> None:
    (tmp_path / "c.pem").write_text("nothing")
    bench = start(PLAIN)
    bad = EdgeSettings(listeners=(PLAIN, ListenerSettings(port=0, cert_file=str(tmp_path / name))))
    edge = Edge(bad, bench.table)
    with pytest.raises(ConfigError, match=r"long_link.listeners\[1\].cert_file"):
        edge.listen()
    edge.dispose()


def test_number_of_layered_connections_is_bounded_and_plain_ones_are_not_in_it(
    start: Start, tls: ListenerSettings, certificate: Path, tls_client: Any
) -> None:
    bench = start(tls, PLAIN, layered_connections_max=2)
    bench.connect()
    bench.until_open(1)
    first, second = tls_client(bench, certificate), tls_client(bench, certificate)
    first.shake_hands()
    second.shake_hands()
    # whoever said nothing had to go
    assert bench.count(Count.EVICTED_LAYERED_CONNECTIONS_MAX) == 1
    bench.connect()
    bench.until(lambda: bench.count(Count.REFUSED_LAYERED_CONNECTIONS_MAX))
    bench.connect(1)
    bench.until_open(3)
    assert bench.closed() == {CloseReason.TOO_MANY_CONNECTIONS: 2}
