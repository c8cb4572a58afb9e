"""The connection table: deadlines and liveness against plain twins, generations, takeover index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.edge_table import ConnectionTable
from gateway.wire.mqtt.session import SessionState

FILES = 8


def make_table() -> ConnectionTable:
    return ConnectionTable(FILES, FILES, now=1_000.0)


@given(
    st.lists(st.tuples(st.integers(0, FILES - 1), st.integers(1, 100), st.booleans()), unique_by=lambda row: row[0]),
    st.integers(0, 200),
)
def test_overdue_agrees_with_looking_at_each_connection(rows: list[tuple[int, int, bool]], later: int) -> None:
    table = make_table()
    expected = []
    for fd, seconds, is_connected in rows:
        table.open(fd, 1_000.0 + seconds)
        deadline = 1_000.0 + seconds
        if is_connected:
            table.log_in(fd, fd + 100, 0, bytes(16), seconds, 1_000.0)
            deadline = 1_000.0 + 1.5 * seconds
        if deadline <= 1_000.0 + later:
            expected.append(fd)
    assert table.overdue(1_000.0 + later).tolist() == sorted(expected)


def test_touch_prolongs_connected_ones_by_one_and_a_half_keepalives_and_no_others() -> None:
    table = make_table()
    for fd in (1, 2):
        table.open(fd, 1_010.0)
    table.log_in(2, 5, 0, bytes(16), 10, 1_000.0)
    table.touch(np.array([1, 2]), 1_009.0)
    assert table.overdue(1_023.9).tolist() == [1]
    assert table.overdue(1_024.0).tolist() == [1, 2]


def test_longest_keepalive_of_an_old_worker_fits_its_column() -> None:
    table = make_table()
    ten_years_on = 1_000.0 + 10 * 365 * 86_400
    table.open(1, ten_years_on)
    table.log_in(1, 5, 0, bytes(16), 65_535, ten_years_on)
    assert table.overdue(ten_years_on + 98_302.0).tolist() == []
    assert table.overdue(ten_years_on + 98_303.0).tolist() == [1]


pairs = st.lists(st.tuples(st.integers(-3, FILES + 3), st.integers(0, 3)), max_size=10)


@given(pairs, st.sets(st.integers(0, FILES - 1)), st.sets(st.integers(0, FILES - 1)))
def test_is_live_agrees_with_looking_at_each_pair(
    asked: list[tuple[int, int]], opened: set[int], logged_in: set[int]
) -> None:
    table = make_table()
    for fd in opened:
        table.open(fd, 1_010.0)
        table.free(fd)
        table.open(fd, 1_010.0)
        if fd in logged_in:
            table.log_in(fd, fd, 0, bytes(16), 10, 1_000.0)
    fds = np.array([fd for fd, _ in asked], np.int32)
    generations = np.array([generation for _, generation in asked], np.uint32)
    # Opened, freed and opened again: the second generation.
    expected = [fd in opened and fd in logged_in and generation == 2 for fd, generation in asked]
    assert table.is_live(fds, generations).tolist() == expected


def test_connection_that_ends_leaves_nothing_behind_but_its_generation() -> None:
    table = make_table()
    table.open(3, 1_010.0)
    table.log_in(3, 77, 1, bytes(range(16)), 10, 1_000.0)
    assert table.device_id_of(3) == bytes(range(16))
    assert (table.n_open, table.n_connected, table.slots.find(77)) == (1, 1, 3)
    table.free(3)
    assert (table.n_open, table.n_connected, table.slots.find(77)) == (0, 0, -1)
    assert table.state[3] == SessionState.FREE
    assert table.overdue(99_999.0).tolist() == []
    assert table.generation[3] == 2


@pytest.mark.parametrize(("before", "after"), [(1, 2), (0xFFFFFFFE, 0xFFFFFFFF), (0xFFFFFFFF, 1)])
def test_generation_goes_round_without_ever_being_0(before: int, after: int) -> None:
    table = make_table()
    table.open(3, 1_010.0)
    table.generation[3] = before
    table.free(3)
    assert table.generation[3] == after


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=30), st.sets(st.integers(0, 9), max_size=6))
def test_table_finds_the_devices_of_an_app_as_a_plain_loop_would(
    devices: list[tuple[int, int]], wanted: set[int]
) -> None:
    table = ConnectionTable(64, 40, now=0.0)

    def device_id(number: int) -> bytes:
        # Several share their first half.
        return bytes([number % 3]) * 8 + bytes([number]) * 8

    for fd, (app, number) in enumerate(devices, 5):
        table.open(fd, 10.0)
        if number % 4:
            table.log_in(fd, fd, app, device_id(number), 60, 0.0)
    expected = [fd for fd, (app, number) in enumerate(devices, 5) if app == 1 and number in wanted and number % 4]
    assert table.find_devices(1, frozenset(map(device_id, wanted))) == expected
