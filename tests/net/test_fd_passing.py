"""Descriptors over a Unix socket: whole messages, a full queue, an end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.net import fd_passing


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """(giver, taker), connected as two workers are."""
    path = str(tmp_path / "d.sock")
    with fd_passing.listen(path) as listener, fd_passing.open_socket() as giver:
        giver.connect(path)
        taker, _ = listener.accept()
        with taker:
            taker.setblocking(False)
            yield giver, taker


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(address=st.ip_addresses().map(str) | st.just(""), data=st.binary(max_size=fd_passing.DATA_BYTES_MAX))
def test_connection_arrives_with_its_address_and_bytes(
    pair: tuple[socket.socket, socket.socket], address: str, data: bytes
) -> None:
    giver, taker = pair
    reading, writing = os.pipe()
    fd_passing.send_connection(giver, writing, address, data)
    os.close(writing)
    passed = fd_passing.receive_connection(taker)
    assert passed is not None
    assert (passed.address, passed.data) == (address, data)
    assert not os.get_inheritable(passed.fd)
    os.write(passed.fd, b"same")
    os.close(passed.fd)
    assert os.read(reading, 10) == b"same"
    os.close(reading)


def test_full_queue_says_so_and_takes_more_when_it_was_read(pair: tuple[socket.socket, socket.socket]) -> None:
    giver, taker = pair
    sent = 0
    try:
        while sent < 100_000:
            fd_passing.send_connection(giver, 0, "192.0.2.1", bytes(1000))
            sent += 1
    except BlockingIOError:
        assert sent > 10
    for _ in range(sent):
        passed = fd_passing.receive_connection(taker)
        assert passed is not None
        os.close(passed.fd)
    with pytest.raises(BlockingIOError):
        fd_passing.receive_connection(taker)
    fd_passing.send_connection(giver, 0, "", b"")


def test_end_of_the_giver_is_seen_and_a_gone_taker_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    giver, taker = pair
    giver.close()
    assert fd_passing.receive_connection(taker) is None
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    second.close()
    with first, pytest.raises(OSError, match="pipe"):
        fd_passing.send_connection(first, 0, "", b"x")
