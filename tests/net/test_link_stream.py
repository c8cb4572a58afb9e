"""LinkStream: small messages cost no turn, large ones and a full socket give theirs away, ends are told as by trio."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from gateway.net.link_stream import SMALL_BYTES, LinkStream


@pytest.fixture
def pair() -> tuple[LinkStream, LinkStream]:
    ours, theirs = (
        LinkStream(trio.SocketStream(trio.socket.from_stdlib_socket(end)))
        for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    )
    return ours, theirs


async def test_small_message_is_sent_without_a_checkpoint_and_a_large_one_is_not(
    pair: tuple[LinkStream, LinkStream],
) -> None:
    ours, theirs = pair
    with trio.testing.assert_no_checkpoints():
        await ours.send_all(b"x" * SMALL_BYTES)
    assert await theirs.receive_some(1 << 20) == b"x" * SMALL_BYTES
    with trio.testing.assert_checkpoints():
        await ours.send_all(b"y" * (SMALL_BYTES + 1))
    async with ours, theirs:
        pass


async def test_reader_gives_its_turn_away_even_while_there_is_more(pair: tuple[LinkStream, LinkStream]) -> None:
    ours, theirs = pair
    async with ours, theirs:
        await ours.send_all(b"abcdef")
        for part in (b"abc", b"def"):
            with trio.testing.assert_checkpoints():
                assert await theirs.receive_some(3) == part


async def test_more_than_the_socket_holds_arrives_whole_and_in_order(
    pair: tuple[LinkStream, LinkStream], nursery: trio.Nursery
) -> None:
    ours, theirs = pair
    data = bytes(range(256)) * 8192
    nursery.start_soon(ours.send_all, memoryview(data))
    found = b""
    async with ours, theirs:
        while len(found) < len(data):
            found += await theirs.receive_some(100_000)
    assert found == data


async def test_end_of_the_peer_is_empty_bytes_for_the_reader_and_broken_for_the_writer(
    pair: tuple[LinkStream, LinkStream],
) -> None:
    ours, theirs = pair
    await theirs.send_all(b"last words")
    await theirs.aclose()
    async with ours:
        assert await ours.receive_some() == b"last words"
        assert await ours.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"hello?")


async def test_closing_wakes_who_waits_and_refuses_what_comes(
    pair: tuple[LinkStream, LinkStream], nursery: trio.Nursery
) -> None:
    ours, theirs = pair
    heard: list[str] = []

    async def listen() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some()
        heard.append("closed")

    nursery.start_soon(listen)
    await trio.testing.wait_all_tasks_blocked()
    await ours.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert heard == ["closed"]
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()
    await ours.aclose()
    await theirs.aclose()
