"""Many sockets at once: with one system call for all of them, and with one for each, the edge does the same."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gateway.errors import CloseReason
from gateway.net.edge import Edge
from gateway.net.edge_calls import all_readable
from gateway.net.edge_settings import ListenerSettings
from gateway.net.edge_table import FLAG_PENDING, Count

N = 40


@pytest.fixture(params=[True, False], ids=["batched", "one_by_one"])
def many(request: pytest.FixtureRequest, start: Callable[..., Any]) -> Callable[..., Any]:
    def started(**limits: Any) -> Any:
        bench = start(ListenerSettings(port=0), io_uring=request.param, **limits)
        if request.param and not bench.edge.calls.is_batched:
            pytest.skip("no io_uring here")
        assert bench.edge.calls.is_batched == request.param
        return bench

    return started


def connect_all(bench: Any, n: int = N) -> list[tuple[socket.socket, int]]:
    """(client, the edge's descriptor of it)."""
    pairs = []
    for opened in range(n):
        known = set(bench.table.state.nonzero()[0].tolist())
        client = bench.connect()
        bench.until_open(opened + 1)
        pairs.append((client, (set(bench.table.state.nonzero()[0].tolist()) - known).pop()))
    return pairs


def test_what_many_clients_say_arrives_whole_whatever_its_length(many: Callable[..., Any]) -> None:
    bench = many()
    pairs = connect_all(bench)
    lengths = (2, 4, 127, 128, 129, 5_000)
    said = {fd: bytes([at]) * lengths[at % len(lengths)] for at, (_, fd) in enumerate(pairs)}
    for client, fd in pairs:
        client.sendall(said[fd])
    bench.until(lambda: bench.count(Count.BYTES_IN) == sum(map(len, said.values())))
    assert bench.received == said


def test_read_bytes_bounds_a_read(many: Callable[..., Any]) -> None:
    bench = many(read_bytes=64)
    pairs = connect_all(bench)
    for client, _ in pairs:
        client.sendall(bytes(100))
    bench.until(lambda: len(bench.received) == N)
    assert max(map(len, bench.received.values())) <= 128
    bench.until(lambda: all(len(data) == 100 for data in bench.received.values()))


def test_ends_among_many_reads_are_told_apart(many: Callable[..., Any]) -> None:
    bench = many()
    pairs = connect_all(bench)
    for client, _ in pairs[2:]:
        client.sendall(b"hello")
    pairs[0][0].close()
    pairs[1][0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    pairs[1][0].close()
    bench.until(lambda: len(bench.received) == N - 2 and bench.table.n_open == N - 2)
    assert bench.closed() == {CloseReason.PEER_CLOSED: 1, CloseReason.PEER_RESET: 1}


@pytest.mark.parametrize("is_ragged", [False, True])
def test_rows_for_many_wait_where_one_does_not_read_and_fail_where_one_is_gone(
    many: Callable[..., Any], is_ragged: bool
) -> None:
    bench = many(send_buffer_bytes=4_096)
    pairs = connect_all(bench)
    fds = np.array([fd for _, fd in pairs], np.int32)
    slow, slow_fd = pairs[3]
    before = fill(bench.edge, slow_fd, bench)
    # The peer's RST arrives within close(): over loopback the kernel has dealt with it when the call returns.
    pairs[5][0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    pairs[5][0].close()
    rows = [bytes([65 + at % 26]) * (300 + at * is_ragged) for at in range(N)]
    packets: Any = rows if is_ragged else np.frombuffer(b"".join(rows), np.uint8).reshape(N, 300)
    assert bench.edge.calls.write(fds, packets, bench.now) == [5]
    for at, (client, _) in enumerate(pairs):
        if at not in (3, 5):
            assert receive(client, len(rows[at])) == rows[at]
    received = bytearray()
    while len(received) < before + len(rows[3]):
        received += slow.recv(65_536)
        bench.turn(0.01)
    assert received == bytes(before) + rows[3]
    assert not bench.table.flags[slow_fd] & FLAG_PENDING


def test_row_of_which_the_kernel_takes_a_part_waits_with_the_rest(many: Callable[..., Any]) -> None:
    bench = many(send_buffer_bytes=4_096)
    pairs = connect_all(bench)
    fds = np.array([fd for _, fd in pairs], np.int32)
    n_rounds = 0
    while not bench.edge.statistics()["pending"]:
        assert bench.edge.calls.write(fds, np.full((N, 100_000), n_rounds, np.uint8), bench.now) == []
        n_rounds += 1
    for client, _ in pairs:
        received = bytearray()
        while len(received) < n_rounds * 100_000:
            client.settimeout(0.001)
            try:
                received += client.recv(1 << 20)
            except TimeoutError:
                bench.turn(0.0)
        assert received == b"".join(bytes([number]) * 100_000 for number in range(n_rounds))
    assert bench.edge.statistics()["pending_bytes"] == 0
    assert bench.count(Count.BYTES_OUT) == N * n_rounds * 100_000


def fill(edge: Edge, fd: int, bench: Any) -> int:
    """Writes until something is pending; returns the bytes written."""
    total = 0
    while not bench.table.flags[fd] & FLAG_PENDING:
        assert edge.write_rows([fd], [bytes(1_000)], bench.now) == []
        total += 1_000
    return total


def receive(client: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = client.recv(n - len(data))
        assert part
        data += part
    return data


@pytest.mark.parametrize(
    ("ready", "found"),
    [
        ([], []),
        ([(7, select.EPOLLIN), (9, select.EPOLLIN)], [7, 9]),
        ([(7, select.EPOLLIN), (3, select.EPOLLIN)], []),  # a listener
        ([(4, select.EPOLLIN), (7, select.EPOLLIN)], []),  # a ring of the bell
        ([(7, select.EPOLLIN), (9, select.EPOLLOUT)], []),
        ([(7, select.EPOLLIN), (9, select.EPOLLIN | select.EPOLLOUT)], []),
        ([(7, select.EPOLLIN | select.EPOLLHUP)], []),
        ([(7, select.EPOLLOUT)], []),
    ],
)
def test_polls_need_no_look_at_each_where_all_have_something_to_read_and_nothing_else(
    ready: list[tuple[int, int]], found: list[int]
) -> None:
    assert all_readable(ready, {3: None}, 4) == found
