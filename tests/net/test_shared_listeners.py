"""Addresses that several processes listen on: reserved once, shared by those who belong together, by nobody else."""

from __future__ import annotations

import socket

import pytest
import trio

from gateway.errors import ConfigError
from gateway.net.shared_listeners import AcceptQueue, adopt_listener, open_shared_listeners, reserve


def test_reserved_address_has_a_port_and_takes_no_connection() -> None:
    held = reserve("http.address", "127.0.0.1", 0)
    try:
        assert held.port > 0
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect((held.host, held.port))
    finally:
        held.close()


def test_address_of_another_gateway_is_refused_though_that_one_would_share_it() -> None:
    theirs = reserve("http.address", "127.0.0.1", 0)
    try:
        with pytest.raises(ConfigError, match=r"rpc\.listeners"):
            reserve("rpc.listeners[0].address", "127.0.0.1", theirs.port)
    finally:
        theirs.close()


async def test_two_listeners_of_one_reserved_address_both_take_connections() -> None:
    held = reserve("http.address", "127.0.0.1", 0)
    first = open_shared_listeners("127.0.0.1", held.port)
    second = open_shared_listeners("127.0.0.1", held.port)
    taken = [0, 0]

    async def count(at: int, stream: trio.SocketStream) -> None:
        taken[at] += 1
        await stream.send_all(b"x")

    async with trio.open_nursery() as nursery:
        for at, listeners in enumerate((first, second)):
            nursery.start_soon(trio.serve_listeners, lambda stream, at=at: count(at, stream), listeners)
        for _ in range(64):
            stream = await trio.open_tcp_stream("127.0.0.1", held.port)
            assert await stream.receive_some(1) == b"x"
            await stream.aclose()
        nursery.cancel_scope.cancel()
    held.close()
    assert sum(taken) == 64
    assert min(taken) > 0


async def test_inherited_listener_accepts() -> None:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    address = listening.getsockname()
    listener = adopt_listener(listening.detach())
    async with listener, await trio.open_tcp_stream(*address):
        stream = await listener.accept()
        await stream.aclose()


async def test_connections_that_wait_in_the_queue_of_a_listener_that_closes_are_not_reset() -> None:
    held = reserve("http.address", "127.0.0.1", 0)
    (first,) = open_shared_listeners("127.0.0.1", held.port)
    queue = AcceptQueue(first)
    early = [await trio.open_tcp_stream("127.0.0.1", held.port) for _ in range(3)]
    await first.aclose()
    (second,) = open_shared_listeners("127.0.0.1", held.port)
    waiting = queue.close()
    assert len(waiting) == 3
    for ours, theirs in zip(early, waiting, strict=True):
        await theirs.send_all(b"x")
        assert await ours.receive_some(1) == b"x"
        await theirs.aclose()
        await ours.aclose()
    # What comes now is the other worker's.
    stream = await trio.open_tcp_stream("127.0.0.1", held.port)
    async with await second.accept() as theirs:
        await theirs.send_all(b"y")
        assert await stream.receive_some(1) == b"y"
    await stream.aclose()
    await second.aclose()
    held.close()
