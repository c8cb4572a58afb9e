"""A device at the wrong worker: its connection goes on, waits, or stays; the long link over real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from bench.devices.mqtt import field, framed
from gateway.core.identity import device_password
from gateway.errors import CloseReason

SECRET = b"app secret"
OURS, THEIRS = bytes([1]) * 16, bytes([2]) * 16


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


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    made = Elsewhere()
    yield made
    for fd, _, _ in made.given:
        os.close(fd)


@pytest.fixture
def site(new_link_site: Callable[..., Any], elsewhere: Elsewhere) -> Any:
    return new_link_site(elsewhere=elsewhere)


@pytest.fixture
def websocket(new_link_site: Callable[..., Any], elsewhere: Elsewhere) -> Any:
    return new_link_site(elsewhere=elsewhere, is_websocket=True)


def connect_packet(device_id: bytes, password: str | None = None, *, clean: int = 2) -> bytes:
    name = device_id.hex()
    password = device_password(SECRET, name) if password is None else password
    rest = b"".join(field(text.encode()) for text in (name, "app", password))
    return framed(0x10, field(b"MQTT") + bytes([4, 0xC0 | clean, 0, 60]) + rest)


def test_device_of_another_worker_goes_there_with_all_that_was_read(site: Any) -> None:
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


def test_device_of_another_worker_over_a_websocket_is_relayed_with_its_address_and_packet(websocket: Any) -> None:
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


def test_device_of_this_worker_stays(site: Any) -> None:
    client = site.connect(connect_packet(OURS))
    site.until(lambda: site.owner.online)
    assert client.recv(4) == b"\x20\x02\x00\x00"
    assert site.elsewhere.given == []


def test_device_whose_password_is_wrong_is_its_owner_s_to_refuse(site: Any) -> None:
    site.connect(connect_packet(THEIRS, "wrong"))
    site.until(lambda: site.elsewhere.given)
    assert site.link.statistics().closed["bad_credentials"] == 0


def test_connect_that_names_no_device_is_refused_here(site: Any) -> None:
    client = site.connect(connect_packet(b"short"))
    site.until(lambda: site.link.statistics().closed["bad_identity"])
    assert client.recv(4) == b"\x20\x02\x00\x02"


def test_device_waits_for_an_owner_that_is_away_and_goes_there_when_it_is_back(site: Any) -> None:
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


def test_device_waits_no_longer_than_a_handshake_may_take(site: Any) -> None:
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


def test_adopted_connection_is_answered_as_if_it_had_been_accepted_here(site: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        packet = connect_packet(OURS)
        site.link.adopt(theirs.detach(), "192.0.2.9", packet[:20])
        ours.sendall(packet[20:])
        site.until(lambda: site.owner.online)
        assert ours.recv(4) == b"\x20\x02\x00\x00"
    site.until(lambda: site.link.statistics().closed["peer_closed"])
    assert site.count("adopted") == 1


def test_worker_that_drains_adopts_nothing(site: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        site.link.stop(10.0)
        site.link.adopt(theirs.detach(), "192.0.2.9", connect_packet(OURS))
        assert ours.recv(1) == b""
    assert site.count("moves_lost") == 1


async def test_connections_are_closed_evenly_over_the_spread(
    new_link_site: Callable[..., Any], autojump_clock: Any
) -> None:
    site = new_link_site(clock=trio.current_time)
    link = site.link
    for _ in range(20):
        site.connect()
    site.until(lambda: link.statistics().connections == 20)
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


def test_connection_that_comes_for_a_crashed_long_link_is_closed(site: Any) -> None:
    """Until there is another one. Whoever brings it goes on, and does not take its peers' sockets with it."""
    ours, theirs = socket.socketpair()
    site.link.dispose()
    site.link.adopt(theirs.detach(), "192.0.2.7", connect_packet(OURS))
    with ours:
        ours.settimeout(5)
        assert ours.recv(100) == b""
    assert site.count("moves_lost") == 1
