"""Connections that change process: two edges in one process pass them on as two processes would, over a real socket."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import CloseReason
from gateway.net import fd_passing
from gateway.net.edge_settings import ListenerSettings
from gateway.net.edge_table import Count

Start = Callable[..., Any]
PLAIN = ListenerSettings(port=0)


class Way:
    """From one edge to another: what is passed on is adopted."""

    def __init__(self, acceptor: Any, owner: Any) -> None:
        self.acceptor = acceptor
        self.owner = owner
        self.give, self.take = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def pass_on(self, fd: int, address: str = "", data: bytes = b"") -> bool:
        fd_passing.send_connection(self.give, fd, address, data)
        return True

    def arrive(self) -> int:
        passed = fd_passing.receive_connection(self.take)
        assert passed is not None
        assert self.owner.edge.moves.adopt(passed.fd, passed.address, self.owner.now)
        if passed.data:
            self.owner.received[passed.fd] = passed.data
        return passed.fd

    def close(self) -> None:
        self.give.close()
        self.take.close()


@pytest.fixture
def way(start: Start, tls: ListenerSettings) -> Iterator[Way]:
    """The acceptor has a plain and a TLS listener."""
    made = Way(start(PLAIN, tls, pending_bytes_max=100_000), start(PLAIN, pending_bytes_max=100_000))
    yield made
    made.close()


def the_fd(bench: Any) -> int:
    (fd,) = [fd for fd in range(bench.table.high_water) if bench.table.state_at[fd]]
    return fd


def test_plain_connection_goes_whole_with_its_address_and_what_was_read(way: Way) -> None:
    client = way.acceptor.connect()
    client.sendall(b"CONNECT")
    way.acceptor.until(lambda: way.acceptor.received)
    fd = the_fd(way.acceptor)
    assert way.pass_on(fd, way.acceptor.edge.address_of(fd), way.acceptor.received[fd])
    way.acceptor.edge.moves.release(fd)
    theirs = way.arrive()
    assert (way.owner.received[theirs], way.owner.edge.address_of(theirs)) == (b"CONNECT", "127.0.0.1")
    way.owner.edge.write(theirs, b"CONNACK", way.owner.now)
    assert client.recv(100) == b"CONNACK"
    client.sendall(b" and more")
    # What comes now is the owner's; the acceptor, whose kernel knew the same open file, hears nothing of it.
    way.acceptor.turn()
    way.owner.until(lambda: way.owner.received[theirs] == b"CONNECT and more")
    assert way.acceptor.table.n_open == 0
    assert way.acceptor.closed() == {}
    assert way.acceptor.edge.statistics()["handshaking"] == 0
    assert (way.acceptor.count(Count.MOVED), way.owner.count(Count.ADOPTED)) == (1, 1)
    client.close()
    way.owner.until(way.owner.closed)
    assert way.owner.closed() == {CloseReason.PEER_CLOSED: 1}


class Relayed:
    """A TLS client whose connection has become a relay."""

    def __init__(self, way: Way, certificate: Path, tls_client: Any) -> None:
        self.client = tls_client(way.acceptor, certificate, listener=1)
        self.client.send(b"CONNECT")
        way.acceptor.until(lambda: way.acceptor.received)
        self.fd = the_fd(way.acceptor)
        assert way.acceptor.edge.moves.relay(self.fd, lambda end: way.pass_on(end, "192.0.2.7", b"CONNECT"))
        self.theirs = way.arrive()


@pytest.fixture
def relayed(way: Way, certificate: Path, tls_client: Any) -> Relayed:
    return Relayed(way, certificate, tls_client)


def test_relay_carries_both_ways_and_owner_sees_a_plain_connection(way: Way, relayed: Relayed) -> None:
    assert way.owner.edge.address_of(relayed.theirs) == "192.0.2.7"
    assert way.owner.edge.statistics()["layered"] == 0
    way.owner.edge.write(relayed.theirs, b"CONNACK", way.owner.now)
    assert relayed.client.receive(7) == b"CONNACK"
    relayed.client.send(b"PUBACK")
    way.owner.until(lambda: way.owner.received[relayed.theirs] == b"CONNECTPUBACK")
    assert way.acceptor.received[relayed.fd] == b"CONNECT"
    assert way.acceptor.edge.statistics()["handshaking"] == 0
    # Nothing is expected of it here, however long it is silent: that is the owner's affair.
    way.acceptor.now += 10_000
    assert way.acceptor.edge.close_overdue(way.acceptor.now, 10) == 0


def test_end_of_the_client_is_the_end_at_the_owner(way: Way, relayed: Relayed) -> None:
    relayed.client.socket.close()
    way.acceptor.until(way.acceptor.closed)
    way.owner.until(way.owner.closed)
    assert way.owner.closed() == {CloseReason.PEER_CLOSED: 1}
    assert way.acceptor.table.n_open == 0
    assert not way.acceptor.edge.moves.outer
    assert not way.acceptor.edge.moves.inner


def test_end_at_the_owner_is_the_end_of_the_client_after_its_last_words(way: Way, relayed: Relayed) -> None:
    way.owner.edge.write(relayed.theirs, b"DISCONNECT", way.owner.now)
    way.owner.edge.close(relayed.theirs, CloseReason.BANNED)
    assert relayed.client.receive(10) == b"DISCONNECT"
    way.acceptor.until(way.acceptor.closed)
    assert way.acceptor.closed() == {CloseReason.RELAY_ENDED: 1}


def test_client_whose_owner_ends_it_in_the_poll_in_which_it_speaks_is_not_read_any_more(
    way: Way, relayed: Relayed
) -> None:
    """Its number is nobody's then, or a file that another thread has just opened."""
    edge = way.acceptor.edge
    way.owner.edge.close(relayed.theirs, CloseReason.BANNED)
    relayed.client.tls.write(b"PUBACK")
    relayed.client.flush()
    select.select([relayed.fd], [], [], 5)
    reads = edge.poll(way.acceptor.now)
    assert way.acceptor.closed() == {CloseReason.RELAY_ENDED: 1}
    assert (reads.fds, reads.ended) == ([], [])


def test_client_that_does_not_read_stalls_the_owner_and_gets_everything_once_it_does(
    way: Way, relayed: Relayed
) -> None:
    payload = os.urandom(1000)
    sent = 0
    while not way.owner.edge.has_pending(relayed.theirs):
        way.owner.edge.write(relayed.theirs, payload, way.owner.now)
        sent += 1
        way.acceptor.turn(0)
        assert sent < 20_000, "nothing ever filled up"
    # A stalled relay keeps little: what the acceptor holds is one read, the rest is in the kernel and at the owner.
    assert way.acceptor.edge.statistics()["pending_bytes"] < 200_000
    before = way.acceptor.count(Count.READS)
    way.acceptor.turn()
    assert way.acceptor.count(Count.READS) == before
    got = b""
    while len(got) < sent * 1000:
        got += relayed.client.receive(1)
        way.owner.turn(0)
    assert got == payload * sent
    relayed.client.send(b"PUBACK")
    way.owner.until(lambda: way.owner.received[relayed.theirs].endswith(b"PUBACK"))


def test_owner_that_reads_nothing_costs_its_client_the_connection(way: Way, relayed: Relayed) -> None:
    for _ in range(2000):
        if way.acceptor.closed():
            break
        relayed.client.send(bytes(1000))
    assert way.acceptor.closed() == {CloseReason.SLOW_CONSUMER: 1}


def test_relay_that_cannot_be_passed_on_changes_nothing(way: Way, certificate: Path, tls_client: Any) -> None:
    client = tls_client(way.acceptor, certificate, listener=1)
    client.send(b"CONNECT")
    way.acceptor.until(lambda: way.acceptor.received)
    fd = the_fd(way.acceptor)
    assert not way.acceptor.edge.moves.relay(fd, lambda end: False)
    assert way.acceptor.edge.address_of(fd) == "127.0.0.1"
    client.send(b" again")
    way.acceptor.until(lambda: way.acceptor.received[fd] == b"CONNECT again")


def test_adopted_connection_of_a_refused_address_is_closed_and_counted(way: Way) -> None:
    way.owner.edge.refusal_of = lambda address, now: CloseReason.BANNED
    client = way.acceptor.connect()
    way.acceptor.until_open(1)
    fd = the_fd(way.acceptor)
    assert not way.owner.edge.moves.adopt(os.dup(fd), "192.0.2.1", way.owner.now)
    assert way.owner.closed() == {CloseReason.BANNED: 1}
    assert way.owner.count(Count.REFUSED_ADDRESS) == 1
    way.acceptor.edge.moves.release(fd)
    assert client.recv(1) == b""


def test_connection_that_was_lost_on_the_way_is_counted(way: Way) -> None:
    assert not way.owner.edge.moves.adopt(-1, "", way.owner.now)
    assert way.owner.count(Count.MOVES_LOST) == 1


def test_a_full_house_lets_its_own_devices_in_before_those_that_wait_for_another(start: Start) -> None:
    way = Way(start(PLAIN), start(PLAIN, connections_max=10))
    try:
        waiting = [way.owner.connect() for _ in range(10)]
        way.owner.until_open(10)
        devices = []
        for n in range(10):
            devices.append(way.acceptor.connect())
            way.acceptor.until_open(1)
            fd = the_fd(way.acceptor)
            way.pass_on(fd)
            way.acceptor.edge.moves.release(fd)
            way.owner.edge.end_handshake(way.arrive())
            assert way.owner.table.n_open == 10
            assert way.owner.count(Count.EVICTED_HANDSHAKING_MAX) == n + 1
            # The one that has shaken hands longest has gone.
            assert waiting[n].recv(1) == b""
        late = way.acceptor.connect()
        way.acceptor.until_open(1)
        assert not way.owner.edge.moves.adopt(os.dup(the_fd(way.acceptor)), "", way.owner.now)
        assert way.owner.count(Count.REFUSED_CONNECTIONS_MAX) == 1
        assert len(devices) == 10
        late.close()
    finally:
        way.close()
