"""One system call for many sockets says of each what its own call would have said."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from gateway.net.ring import Ring

ENTRIES, ROOM = 64, 32


@pytest.fixture
def ring() -> Iterator[Ring]:
    try:
        made = Ring(ENTRIES, ROOM)
    except OSError as error:
        pytest.skip(f"no io_uring here: {error}")
    yield made
    made.close()


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(3 * ENTRIES // 2):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(theirs)
            theirs.setblocking(False)
            made.append((ours, theirs))
        yield made


def descriptors(pairs: list[tuple[socket.socket, socket.socket]]) -> np.ndarray:
    return np.array([ours.fileno() for ours, _ in pairs], np.int32)


def test_rows_of_any_length_reach_their_sockets_and_answers_come_back(
    ring: Ring, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    # More rounds than the rings have slots, so that both go round several times.
    source = random.Random(7)
    for _ in range(20):
        chosen = source.sample(pairs, source.randint(1, len(pairs)))
        rows = [source.randbytes(source.randint(1, 50)) for _ in chosen]
        lengths = np.array([len(row) for row in rows], np.int64)
        sent = ring.send(descriptors(chosen), b"".join(rows), np.cumsum(lengths) - lengths, lengths)
        assert sent.tolist() == lengths.tolist()
        for (_, theirs), row in zip(chosen, rows, strict=True):
            assert theirs.recv(100) == row
            theirs.send(row)
        for at in range(0, len(chosen), ENTRIES):
            part = slice(at, at + ENTRIES)
            received, buffer = ring.receive(descriptors(chosen[part]))
            assert received.tolist() == np.minimum(lengths[part], ROOM).tolist()
            for position, row in enumerate(rows[part]):
                assert buffer[position, : received[position]].tobytes() == row[:ROOM]
        for ours, _ in chosen:
            ours.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                ours.recv(100)


def test_each_result_is_that_of_its_own_call(ring: Ring, pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    silent, ended, says = pairs[:3]
    ended[1].close()
    fd = os.dup(0)
    os.close(fd)
    says[1].send(b"hello")
    fds = np.array([silent[0].fileno(), ended[0].fileno(), fd, says[0].fileno()], np.int32)
    lengths, buffer = ring.receive(fds)
    assert lengths.tolist() == [-errno.EAGAIN, 0, -errno.EBADF, 5]
    assert buffer[3, :5].tobytes() == b"hello"
    while silent[0].send(bytes(1 << 20), socket.MSG_DONTWAIT) == 1 << 20:
        pass
    with contextlib.suppress(BlockingIOError):
        while True:
            silent[0].send(bytes(100), socket.MSG_DONTWAIT)
    # MSG_NOSIGNAL: nobody there is a result, too.
    sent = ring.send(fds, np.zeros((4, 10), np.uint8), np.arange(4) * 10, np.full(4, 10))
    assert sent.tolist() == [-errno.EAGAIN, -errno.EPIPE, -errno.EBADF, 10]


def test_closed_ring_holds_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    try:
        ring = Ring(ENTRIES, ROOM)
    except OSError as error:
        pytest.skip(f"no io_uring here: {error}")
    ring.close()
    del ring
    assert set(os.listdir("/proc/self/fd")) == before
