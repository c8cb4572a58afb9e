"""A device at the wrong worker: its connection goes on, waits, or stays; the long link over real sockets."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import trio

from gateway.actors.long_link import LongLink
from gateway.actors.long_link_port import LongLinkSettings
from gateway.core.identity import device_password
from gateway.errors import CloseReason
from gateway.net.edge_settings import EdgeSettings, ListenerSettings

SECRET = b"app secret"
OURS, THEIRS = bytes([1]) * 16, bytes([2]) * 16


class App(NamedTuple):
    index: int = 0
    secrets: tuple[bytes, ...] = (SECRET,)


class Owner:
    """Knows every device; what else it is told does not matter here."""

    def __init__(self) -> None:
        self.online: list[bytes] = []

    def connect(self, app_index: int, device_id: bytes, fd: int, generation: int, now: float) -> int:
        self.online.append(device_id)
        return len(self.online) - 1

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *columns: None


class Elsewhere:
    """Worker 1 owns THEIRS; it takes connections while `is_there`. given: what it has, descriptors of its own."""

    def __init__(self) -> None:
        self.is_there = True
        self.given: list[tuple[int, str, bytes]] = []

    def owner(self, device_id: bytes) -> int:
        return 1 if device_id == THEIRS else -1

    def pass_on(self, worker: int, fd: int, address: str, data: bytes) -> bool:
        if self.is_there:
            self.given.append((os.dup(fd), address, data))
        return self.is_there


class Site:
    def __init__(self, *, is_websocket: bool = False, **limits: Any) -> None:
        self.now = 100.0
        self.owner, self.elsewhere = Owner(), Elsewhere()
        edge = EdgeSettings(listeners=(ListenerSettings(port=0, is_websocket=is_websocket),), **limits)
        self.link = LongLink(
            LongLinkSettings(edge=edge),
            {"app": App()},
            self.owner,
            clock=lambda: self.now,
            elsewhere=self.elsewhere,
        )
        (self.address,) = self.link.listen()
        self.clients: list[socket.socket] = []

    def connect(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(self.address, timeout=5)
        client.sendall(data)
        self.clients.append(client)
        return client

    def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < deadline
            select.select([self.link.edge.fileno()], [], [], 0.02)
            self.link.step(self.now)
            self.link.tick(self.now)

    def count(self, name: str) -> int:
        return self.link.statistics().counts[name]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for fd, _, _ in self.elsewhere.given:
            os.close(fd)
        self.link.dispose()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture
def websocket() -> Iterator[Site]:
    made = Site(is_websocket=True)
    yield made
    made.close()


def connect_packet(device_id: bytes, password: str | None = None, *, clean: int = 2) -> bytes:
    name = device_id.hex().encode()
    secret = (device_password(SECRET, name.decode()) if password is None else password).encode()
    fields = [b"MQTT", name, b"app", secret]
    protocol, client, user, proof = (len(field).to_bytes(2, "big") + field for field in fields)
    body = protocol + bytes([4, 0xC0 | clean, 0, 60]) + client + user + proof
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 + 128, len(body) // 128])
    return b"\x10" + length + body


def test_device_of_another_worker_goes_there_with_all_that_was_read(site: Site) -> None:
    packet = connect_packet(THEIRS)
    client = site.connect(packet + b"\xc0\x00")
    site.until(lambda: site.elsewhere.given)
    ((fd, address, data),) = site.elsewhere.given
    assert (address, data) == ("127.0.0.1", packet + b"\xc0\x00")
    assert site.link.statistics().connections == 0
    assert site.owner.online == []
    os.write(fd, b"hello")
    assert client.recv(10) == b"hello"


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


def test_device_of_another_worker_over_a_websocket_is_relayed_with_its_address_and_packet(websocket: Site) -> None:
    site = websocket
    packet = connect_packet(THEIRS)
    # One masked binary frame; a mask of zeros changes nothing.
    frame = bytes((0x82, 0x80 | len(packet))) + bytes(4) + packet
    assert len(packet) < 126
    site.connect(UPGRADE + frame)
    site.until(lambda: site.elsewhere.given)
    ((_, address, data),) = site.elsewhere.given
    assert (address, data) == ("127.0.0.1", packet)
    assert (site.count("relayed"), site.link.statistics().connections, site.owner.online) == (1, 1, [])


def test_device_of_this_worker_stays(site: Site) -> None:
    client = site.connect(connect_packet(OURS))
    site.until(lambda: site.owner.online)
    assert client.recv(4) == b"\x20\x02\x00\x00"
    assert site.elsewhere.given == []


def test_device_whose_password_is_wrong_is_its_owner_s_to_refuse(site: Site) -> None:
    site.connect(connect_packet(THEIRS, "wrong"))
    site.until(lambda: site.elsewhere.given)
    assert site.link.statistics().closed["bad_credentials"] == 0


def test_connect_that_names_no_device_is_refused_here(site: Site) -> None:
    client = site.connect(connect_packet(b"short"))
    assert site.until(lambda: site.link.statistics().closed["bad_identity"]) is None
    assert client.recv(4) == b"\x20\x02\x00\x02"


def test_device_waits_for_an_owner_that_is_away_and_goes_there_when_it_is_back(site: Site) -> None:
    site.elsewhere.is_there = False
    packet = connect_packet(THEIRS)
    client = site.connect(packet)
    site.until(lambda: site.count("moves_waited"))
    client.sendall(b"\xc0\x00")
    site.until(lambda: site.count("moves_waited") == 2)
    assert site.link.statistics().connections == 1
    site.elsewhere.is_there = True
    site.link.owner_is_back(2)
    site.until(lambda: not site.link.edge.statistics()["pending"])
    assert site.elsewhere.given == []
    site.link.owner_is_back(1)
    site.until(lambda: site.elsewhere.given)
    assert site.elsewhere.given[0][2] == packet + b"\xc0\x00"
    assert site.link.edge.statistics()["partial"] == site.link.statistics().connections == 0


def test_device_waits_no_longer_than_a_handshake_may_take(site: Site) -> None:
    site.elsewhere.is_there = False
    client = site.connect(connect_packet(THEIRS))
    site.until(lambda: site.count("moves_waited"))
    site.now += 11
    site.until(lambda: site.link.statistics().closed["handshake_timeout"])
    assert client.recv(1) == b""
    # Its descriptor may be another connection by now: the owner's return does not concern that one.
    other = site.connect(connect_packet(OURS)[:10])
    site.until(lambda: site.link.edge.statistics()["partial"] == 1)
    site.link.owner_is_back(1)
    other.sendall(connect_packet(OURS)[10:])
    site.until(lambda: site.owner.online)
    assert site.elsewhere.given == []


def test_adopted_connection_is_answered_as_if_it_had_been_accepted_here(site: Site) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        packet = connect_packet(OURS)
        site.link.adopt(theirs.detach(), "192.0.2.9", packet[:20])
        ours.sendall(packet[20:])
        site.until(lambda: site.owner.online)
        assert ours.recv(4) == b"\x20\x02\x00\x00"
    site.until(lambda: site.link.statistics().closed["peer_closed"])
    assert site.count("adopted") == 1


def test_worker_that_drains_adopts_nothing(site: Site) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        site.link.stop(10.0)
        site.link.adopt(theirs.detach(), "192.0.2.9", connect_packet(OURS))
        assert ours.recv(1) == b""
    assert site.count("moves_lost") == 1


async def test_connections_are_closed_evenly_over_the_spread(autojump_clock: Any) -> None:
    owner = Owner()
    edge = EdgeSettings(listeners=(ListenerSettings(port=0),))
    link = LongLink(LongLinkSettings(edge=edge), {"app": App()}, owner, clock=trio.current_time)
    (address,) = link.listen()
    clients = [socket.create_connection(address) for _ in range(20)]
    while link.statistics().connections < 20:
        link.step(trio.current_time())
    times: list[float] = []
    close = link.edge.close

    def note(fd: int, reason: CloseReason) -> None:
        times.append(trio.current_time())
        close(fd, reason)

    link.edge.close = note  # type: ignore[method-assign]
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        link.stop(0.0, 4.0)
        await link.wait_stopped()
    assert len(times) == 20
    assert 3.5 < times[-1] - began < 4.5
    assert max(times.count(at) for at in times) <= 2
    for client in clients:
        client.close()


def test_connection_that_comes_for_a_crashed_long_link_is_closed(site: Site) -> None:
    """Until there is another one. Whoever brings it goes on, and does not take its peers' sockets with it."""
    ours, theirs = socket.socketpair()
    site.link.dispose()
    site.link.adopt(theirs.detach(), "192.0.2.7", connect_packet(OURS))
    with ours:
        ours.settimeout(5)
        assert ours.recv(100) == b""
    assert site.count("moves_lost") == 1
