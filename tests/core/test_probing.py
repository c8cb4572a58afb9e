"""Probing: no row waits longer for a probe than it may, and what is risked at once follows what was refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.probing import ProbeBacklog, ProbeWindow, probes_max

WAIT_S = 5.0
GRAIN_S = WAIT_S / 64


@pytest.mark.parametrize(("connections", "probes"), [(1, 0), (2, 1), (3, 1), (4, 2), (8, 4)])
def test_probes_are_at_most_half_of_the_connections(connections: int, probes: int) -> None:
    assert probes_max(connections) == probes


STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "leave", "return"]), st.integers(0, 20), st.floats(0, 2)), max_size=60
)


@given(steps=STEPS)
def test_backlog_counts_the_rows_that_have_waited_too_long(steps: list[tuple[str, int, float]]) -> None:
    """The plain twin keeps the time of every row. Rows may become overdue one grain early, never late."""
    backlog = ProbeBacklog(WAIT_S)
    waiting: list[float] = []
    away: list[float] = []
    now = 100.0
    for kind, n, pause in steps:
        now += pause
        match kind:
            case "enter":
                backlog.on_entered(n, now)
                waiting += [now] * n
            case "leave":
                away += waiting[:n]
                waiting = waiting[n:]
            case _:
                # refused unprocessed: first in the line again, the oldest first
                waiting = away[-n:] + waiting if n else waiting
                away = away[:-n] if n else away
        found = backlog.overdue(len(waiting), now)
        late = sum(entered + WAIT_S <= now for entered in waiting)
        early = sum(entered + WAIT_S - GRAIN_S <= now for entered in waiting)
        assert late <= found <= early
        deadline = backlog.next_deadline(len(waiting), now)
        if not waiting:
            assert deadline == math.inf
        elif found:
            assert deadline == now
        else:
            assert waiting[0] + WAIT_S - GRAIN_S - 1e-9 <= deadline <= waiting[0] + WAIT_S + 1e-9


def test_backlog_keeps_few_marks_however_many_rows_come() -> None:
    backlog = ProbeBacklog(WAIT_S)
    for step in range(10_000):
        backlog.on_entered(7, step * 0.001)
        backlog.overdue(0, step * 0.001)
    assert len(backlog._marks) <= 65


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 5)), max_size=50))
def test_window_never_closes_and_never_grows_beyond_twice_what_was_accepted(
    answers: list[tuple[int, int]],
) -> None:
    window = ProbeWindow()
    run = 0
    for accepted, rejected in answers:
        before = window.rows
        window.on_answers(accepted, rejected)
        run += accepted
        if rejected:
            assert window.rows == max(2 * run // rejected, 8)
            run = 0
        else:
            assert window.rows == before + accepted
        assert window.room(window.rows) == 0
        assert window.room(0) >= 8


def test_window_opens_within_a_few_round_trips_when_nothing_is_refused() -> None:
    window = ProbeWindow()
    rounds = 0
    while window.rows < 1000:
        window.on_answers(window.rows, 0)
        rounds += 1
    assert rounds <= 4
