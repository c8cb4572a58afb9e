"""The edge over real sockets, driven step by step with a clock of its own: limits, timeouts, slow readers."""

from __future__ import annotations

import os
import resource
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.errors import CloseReason, ConfigError
from gateway.net.edge import Edge, Pace, Reads
from gateway.net.edge_settings import EdgeSettings, ListenerSettings
from gateway.net.edge_table import CLOSE_REASON_INDEX, FLAG_PARTIAL, FLAG_PENDING, ConnectionTable, Count

LOOPBACK = (ListenerSettings(port=0),)


class Bench:
    """An edge with a listener on loopback, and client sockets; `now` is set by hand."""

    def __init__(self, **limits: Any) -> None:
        settings = EdgeSettings(listeners=LOOPBACK, **limits)
        self.now = 100.0
        self.table = ConnectionTable(settings.files_max, settings.connections_max, now=self.now)
        self.edge = Edge(settings, self.table)
        self.address = self.edge.listen()[0]
        self.clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.address, timeout=5)
        self.clients.append(client)
        return client

    def turn(self, wait_s: float = 5.0) -> Reads:
        """Waits until the edge has something, then polls and accepts once, and closes what has ended."""
        select.select([self.edge.fileno()], [], [], wait_s)
        reads = self.edge.poll(self.now)
        for fd, reason in reads.ended:
            self.edge.close(fd, reason)
        self.edge.accept(self.now)
        return reads

    def connect_and_accept(self) -> tuple[socket.socket, int]:
        """(client, the edge's descriptor of it)."""
        client = self.connect()
        known = set(self.table.state.nonzero()[0].tolist())
        while True:
            self.turn()
            new = set(self.table.state.nonzero()[0].tolist()) - known
            if new:
                return client, new.pop()

    def log_in(self, fd: int, slot: int) -> None:
        self.table.log_in(fd, slot, 0, bytes(16), 60, self.now)
        self.edge.end_handshake(fd)

    def closed(self, reason: CloseReason) -> int:
        return int(self.table.closed[CLOSE_REASON_INDEX[reason]])

    def count(self, counter: Count) -> int:
        return int(self.table.counts[counter])

    def dispose(self) -> None:
        for client in self.clients:
            client.close()
        self.edge.close_some(CloseReason.SHUTDOWN, self.table.files_max)
        self.edge.dispose()


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.dispose()


def is_closed(client: socket.socket) -> bool:
    client.settimeout(5)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def start(benches: list[Bench], **limits: Any) -> Bench:
    bench = Bench(**limits)
    benches.append(bench)
    return bench


def test_edge_reads_what_came_and_reports_the_end(benches: list[Bench]) -> None:
    bench = start(benches)
    client, fd = bench.connect_and_accept()
    client.sendall(b"hello")
    reads = bench.turn()
    assert (reads.fds, reads.data, reads.ended) == ([fd], [b"hello"], [])
    client.close()
    assert bench.turn().ended == [(fd, CloseReason.PEER_CLOSED)]
    assert bench.closed(CloseReason.PEER_CLOSED) == 1
    assert bench.table.n_open == 0


def test_edge_reads_a_long_message_in_pieces_of_read_bytes(benches: list[Bench]) -> None:
    bench = start(benches, read_bytes=64)
    client, _ = bench.connect_and_accept()
    client.sendall(bytes(150))
    pieces = [bench.turn().data[0] for _ in range(3)]
    assert list(map(len, pieces)) == [64, 64, 22]


def test_reset_by_the_peer_has_its_own_reason(benches: list[Bench]) -> None:
    bench = start(benches)
    client, _ = bench.connect_and_accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    bench.turn()
    assert bench.closed(CloseReason.PEER_RESET) == 1


def test_silent_connection_is_closed_at_the_handshake_timeout(benches: list[Bench]) -> None:
    bench = start(benches, handshake_timeout_s=3.0)
    client, _ = bench.connect_and_accept()
    bench.now += 2.9
    assert bench.edge.close_overdue(bench.now, 100) == 0
    bench.now += 0.2
    assert bench.edge.close_overdue(bench.now, 100) == 1
    assert is_closed(client)
    assert bench.closed(CloseReason.HANDSHAKE_TIMEOUT) == 1


def test_connected_one_is_closed_after_its_keepalive_and_reported_with_its_generation(benches: list[Bench]) -> None:
    bench = start(benches)
    client, fd = bench.connect_and_accept()
    bench.log_in(fd, slot=7)
    generation = int(bench.table.generation[fd])
    bench.now += 91.0
    assert bench.edge.close_overdue(bench.now, 100) == 1
    assert is_closed(client)
    closed = bench.edge.take_closed()
    assert (closed.slots.tolist(), closed.fds.tolist(), closed.generations.tolist()) == ([7], [fd], [generation])
    assert closed.reasons == [CloseReason.KEEPALIVE_TIMEOUT]
    assert not bench.edge.has_closed()


def test_flood_of_silent_connections_evicts_the_oldest_and_lets_new_ones_in(benches: list[Bench]) -> None:
    bench = start(benches, handshaking_max=100, handshaking_per_address_max=60)
    silent = [bench.connect() for _ in range(500)]
    while bench.count(Count.ACCEPTED) < 500:
        bench.turn()
    assert bench.table.n_open == 60
    assert bench.count(Count.EVICTED_HANDSHAKING_PER_ADDRESS_MAX) == 440
    assert bench.closed(CloseReason.TOO_MANY_CONNECTIONS) == 440
    assert all(is_closed(client) for client in silent[:440])
    honest, fd = bench.connect_and_accept()
    honest.sendall(b"x")
    assert bench.turn().fds == [fd]


def test_total_of_handshakes_is_bounded_over_all_addresses(benches: list[Bench]) -> None:
    bench = start(benches, handshaking_max=10, handshaking_per_address_max=8)
    for number in range(20):
        client = socket.socket()
        client.bind((f"127.0.0.{2 + number % 4}", 0))
        client.connect(bench.address)
        bench.clients.append(client)
    while bench.count(Count.ACCEPTED) < 20:
        bench.turn()
    assert bench.edge.statistics()["handshaking"] == 10
    assert bench.count(Count.EVICTED_HANDSHAKING_MAX) == 10
    assert bench.count(Count.EVICTED_HANDSHAKING_PER_ADDRESS_MAX) == 0


def test_connections_max_refuses_newcomers_when_nobody_is_left_to_evict(benches: list[Bench]) -> None:
    bench = start(benches, connections_max=2)
    first, first_fd = bench.connect_and_accept()
    _, second_fd = bench.connect_and_accept()
    bench.log_in(first_fd, 1)
    # One of the two still shakes hands: it makes room.
    _, third_fd = bench.connect_and_accept()
    assert bench.count(Count.EVICTED_HANDSHAKING_MAX) == 1
    bench.log_in(third_fd, 2)
    late = bench.connect()
    while not bench.count(Count.REFUSED_CONNECTIONS_MAX):
        bench.turn()
    assert is_closed(late)
    assert bench.table.n_connected == 2
    assert first_fd != second_fd
    first.sendall(b"still here")
    assert bench.turn().data == [b"still here"]


def test_edge_pauses_accepting_when_descriptors_run_out_and_goes_on_later(benches: list[Bench]) -> None:
    bench = start(benches, accept_pause_s=0.5)
    client = bench.connect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = socket.socket()
    limit = lowest_free.fileno()
    lowest_free.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        bench.turn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert bench.count(Count.ACCEPT_PAUSED) == 1
    assert bench.table.n_open == 0
    assert bench.edge.accept_again_at == bench.now + 0.5
    bench.now += 0.4
    bench.edge.resume_accepting(bench.now)
    bench.turn(wait_s=0)
    assert bench.table.n_open == 0
    bench.now += 0.2
    bench.edge.resume_accepting(bench.now)
    bench.turn()
    assert bench.table.n_open == 1
    assert not select.select([client], [], [], 0)[0]


def test_edge_rests_from_accepting_and_a_pause_that_has_begun_is_not_made_shorter(benches: list[Bench]) -> None:
    bench = start(benches, accept_pause_s=0.5)
    bench.edge.rest_accepting(bench.now + 0.04)
    client = bench.connect()
    bench.turn(wait_s=0.05)
    assert bench.table.n_open == 0
    bench.edge.rest_accepting(bench.now + 9.0)
    assert bench.edge.accept_again_at == bench.now + 0.04
    assert bench.count(Count.ACCEPT_PAUSED) == 0
    bench.now += 0.05
    bench.edge.resume_accepting(bench.now)
    bench.turn()
    assert bench.table.n_open == 1
    assert not select.select([client], [], [], 0)[0]
    bench.edge.rest_accepting(bench.now + 0.04)
    bench.edge.stop_listening()
    assert bench.edge.accept_again_at is None


def test_partial_packet_is_kept_joined_and_timed_out(benches: list[Bench]) -> None:
    bench = start(benches, half_packet_timeout_s=5.0, handshake_timeout_s=60.0)
    client, fd = bench.connect_and_accept()
    edge = bench.edge
    assert edge.join_partial(fd, b"ab") == b"ab"
    edge.keep_partial(fd, b"ab", 0, bench.now)
    assert bench.table.flags[fd] & FLAG_PARTIAL
    bench.now += 4.0
    joined = edge.join_partial(fd, b"cd")
    assert joined == b"abcd"
    edge.keep_partial(fd, joined, 0, bench.now)
    # Another byte does not buy time, a whole packet does.
    assert edge.close_overdue(bench.now + 0.9, 9) == 0
    joined = edge.join_partial(fd, b"e")
    edge.keep_partial(fd, joined, 4, bench.now)
    assert edge.statistics()["partial_bytes"] == 1
    assert edge.close_overdue(bench.now + 4.9, 9) == 0
    assert edge.close_overdue(bench.now + 5.1, 9) == 1
    assert is_closed(client)
    assert bench.closed(CloseReason.HALF_FRAME_TIMEOUT) == 1
    assert edge.statistics() | {"listeners": 0} == dict.fromkeys(edge.statistics(), 0)


def test_partial_packet_that_is_completed_leaves_no_trace(benches: list[Bench]) -> None:
    bench = start(benches)
    _, fd = bench.connect_and_accept()
    bench.edge.keep_partial(fd, b"ab", 0, bench.now)
    joined = bench.edge.join_partial(fd, b"c")
    bench.edge.keep_partial(fd, joined, 3, bench.now)
    assert bench.edge.statistics()["partial"] == bench.edge.statistics()["partial_bytes"] == 0
    assert not bench.table.flags[fd] & FLAG_PARTIAL


def test_partial_bytes_over_all_connections_are_bounded_by_evicting_the_oldest(benches: list[Bench]) -> None:
    bench = start(benches, partial_total_bytes_max=100)
    clients = [bench.connect_and_accept() for _ in range(3)]
    for _, fd in clients:
        bench.edge.keep_partial(fd, bytes(40), 0, bench.now)
    assert is_closed(clients[0][0])
    assert bench.edge.statistics()["partial_bytes"] == 80
    assert bench.count(Count.EVICTED_PARTIAL_BYTES_MAX) == 1


def fill_socket(bench: Bench, fd: int) -> int:
    """Writes until the peer's and our buffers are full and something is pending; returns the bytes written."""
    total = 0
    while not bench.table.flags[fd] & FLAG_PENDING:
        assert bench.edge.write_rows([fd], [bytes(1_000)], bench.now) == []
        total += 1_000
    return total


def test_slow_reader_gets_everything_in_order_once_it_reads(benches: list[Bench]) -> None:
    bench = start(benches, send_buffer_bytes=4_096)
    client, fd = bench.connect_and_accept()
    total = fill_socket(bench, fd)
    assert bench.edge.write_rows([fd], [b"the end"], bench.now) == []
    received = bytearray()
    while len(received) < total + 7:
        received += client.recv(65_536)
        bench.turn(wait_s=0.01)
    assert received == bytes(total) + b"the end"
    assert bench.edge.statistics()["pending"] == bench.edge.statistics()["pending_bytes"] == 0
    assert not bench.table.flags[fd] & FLAG_PENDING
    assert bench.count(Count.BYTES_OUT) == total + 7


def test_slow_reader_is_closed_when_it_stalls_too_long(benches: list[Bench]) -> None:
    bench = start(benches, send_buffer_bytes=4_096, stall_timeout_s=30.0, handshake_timeout_s=600.0)
    _, fd = bench.connect_and_accept()
    fill_socket(bench, fd)
    assert bench.edge.close_overdue(bench.now + 29.0, 9) == 0
    assert bench.edge.close_overdue(bench.now + 30.0, 9) == 1
    assert bench.closed(CloseReason.SLOW_CONSUMER) == 1
    assert bench.edge.statistics()["pending_bytes"] == 0


def test_rows_beyond_pending_bytes_max_are_not_taken(benches: list[Bench]) -> None:
    bench = start(benches, send_buffer_bytes=4_096, pending_bytes_max=2_000)
    _, fd = bench.connect_and_accept()
    other, other_fd = bench.connect_and_accept()
    fill_socket(bench, fd)
    assert bench.edge.write_rows([fd, other_fd], [bytes(2_000), b"hello"], bench.now) == [0]
    assert other.recv(100) == b"hello"
    assert bench.edge.write_rows([other_fd], [bytes(2_001)], bench.now) == [0]


def test_control_packets_that_pile_up_close_the_connection(benches: list[Bench]) -> None:
    bench = start(benches, send_buffer_bytes=4_096, pending_bytes_max=2_000)
    _, fd = bench.connect_and_accept()
    fill_socket(bench, fd)
    for _ in range(1_001):
        if not bench.table.state[fd]:
            break
        bench.edge.write(fd, b"\xd0\x00", bench.now)
    assert bench.closed(CloseReason.SLOW_CONSUMER) == 1


def test_total_of_pending_output_stops_every_stalled_connection(benches: list[Bench]) -> None:
    bench = start(benches, send_buffer_bytes=4_096, pending_total_bytes_max=1)
    _, fd = bench.connect_and_accept()
    other, other_fd = bench.connect_and_accept()
    fill_socket(bench, fd)
    assert bench.edge.write_rows([fd, other_fd], [b"x", b"y"], bench.now) == [0]
    assert other.recv(10) == b"y"


def test_row_for_a_peer_that_is_gone_is_not_taken_and_the_connection_ends_once(benches: list[Bench]) -> None:
    bench = start(benches)
    client, fd = bench.connect_and_accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    assert bench.edge.write_rows([fd], [b"x"], bench.now) == [0]
    bench.edge.write(fd, b"y", bench.now)
    assert bench.table.n_open == 1
    bench.turn()
    assert bench.table.n_open == 0
    assert int(bench.table.closed.sum()) == 1


def test_wake_makes_the_edge_readable_once(benches: list[Bench]) -> None:
    bench = start(benches)
    assert not select.select([bench.edge.fileno()], [], [], 0)[0]
    bench.edge.wake()
    assert select.select([bench.edge.fileno()], [], [], 0)[0]
    bench.turn()
    assert not select.select([bench.edge.fileno()], [], [], 0)[0]


def test_stopped_listener_refuses_and_open_connections_go_on(benches: list[Bench]) -> None:
    bench = start(benches)
    client, fd = bench.connect_and_accept()
    bench.edge.stop_listening()
    bench.edge.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        bench.connect()
    client.sendall(b"x")
    assert bench.turn().fds == [fd]


def test_address_in_use_is_a_config_error_that_names_the_listener(benches: list[Bench]) -> None:
    bench = start(benches)
    taken = EdgeSettings(listeners=(ListenerSettings(port=bench.address[1]),))
    edge = Edge(taken, bench.table)
    try:
        with pytest.raises(ConfigError, match=r"long_link.listeners\[0\]"):
            edge.listen()
    finally:
        edge.dispose()


def test_pace_follows_the_measured_cost_within_its_bounds() -> None:
    pace = Pace(0.002, fewest=16, most=1_024)
    for _ in range(100):
        pace.on_step(200, 200 * 10e-6)
    assert 95 <= pace.items() <= 105
    for _ in range(100):
        pace.on_step(1_000, 1.0)
    assert pace.items() == 16
    for _ in range(1_000):
        pace.on_step(1_000, 1_000 * 1e-9)
    assert pace.items() == 1_024
    pace.on_step(0, 5.0)
    assert pace.items() == 1_024


def test_pace_survives_a_moment_in_which_the_system_ran_somebody_else() -> None:
    pace = Pace(0.002, fewest=16, most=1_024)
    for _ in range(100):
        pace.on_step(100, 100 * 10e-6)
    pace.on_step(100, 1.0)
    assert pace.items() >= 80


def test_settings_that_contradict_each_other_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match="files_max = 100: expected more than connections_max"):
        EdgeSettings(files_max=100, connections_max=100)
    with pytest.raises(ConfigError, match="handshaking_per_address_max"):
        EdgeSettings(handshaking_max=10, handshaking_per_address_max=11)


def test_edge_stops_accepting_before_the_reserve_of_files_is_touched(benches: list[Bench]) -> None:
    bench = start(benches, files_max=4096, files_reserve=64, connections_max=1000, accept_pause_s=5.0)
    bench.connect_and_accept()
    # Descriptors are given out lowest first: with those below the mark taken, the next one is in the reserve.
    taken = []
    while not taken or taken[-1] < 4096 - 64 - 1:
        taken.append(os.open("/dev/null", os.O_RDONLY))
    try:
        late = bench.connect()
        for _ in range(1000):
            bench.turn()
            if bench.count(Count.ACCEPTED) == 2:
                break
        assert bench.count(Count.REFUSED_FILES_RESERVE) == 1
        assert is_closed(late)
        assert bench.closed(CloseReason.TOO_MANY_CONNECTIONS) == 1
        assert bench.edge.accept_again_at == pytest.approx(bench.now + 5.0)
        assert bench.table.n_open == 1
    finally:
        for fd in taken:
            os.close(fd)


def test_edge_closes_unread_what_comes_from_a_refused_address(benches: list[Bench]) -> None:
    bench = start(benches)
    asked = []

    def refusal_of(address: str, now: float) -> CloseReason | None:
        asked.append((address, now))
        return CloseReason.BANNED

    bench.edge.refusal_of = refusal_of
    client = bench.connect()
    for _ in range(1000):
        bench.turn()
        if bench.count(Count.ACCEPTED):
            break
    assert is_closed(client)
    assert asked == [("127.0.0.1", bench.now)]
    assert (bench.count(Count.ACCEPTED), bench.closed(CloseReason.BANNED), bench.table.n_open) == (1, 1, 0)


def test_edge_knows_the_address_of_a_connection_until_its_handshake_ends(benches: list[Bench]) -> None:
    bench = start(benches)
    _, fd = bench.connect_and_accept()
    assert bench.edge.address_of(fd) == "127.0.0.1"
    bench.edge.end_handshake(fd)
    assert bench.edge.address_of(fd) == ""
