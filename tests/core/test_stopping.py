"""Stopping: which rows end, which make no further attempt, and which tasks are known as stopped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch
from gateway.content import Variant
from gateway.core.home import Home
from gateway.core.stopping import StoppedTasks, TaskStopped, go_on, stop_rows, unsettled
from gateway.ledger import Flag, Reason, State

SECRET = bytes(range(32))


class Silence:
    def moved(self, *told: object) -> None: ...

    def finished(self, *told: object) -> None: ...

    def receipts_rose(self, *told: object) -> None: ...


def page_with(states: list[int], away: list[int] | None = None, flags: list[int] | None = None) -> tuple[Home, Any]:
    """A page of a home whose rows are in these states."""
    limits = {"ledger_bytes_max": 1 << 30, "rows_open_max": 1 << 30, "change_rows_max": 1 << 30}
    home = Home(secret=SECRET, journal=0, observer=Silence(), now=0.0, **limits)
    n = len(states)
    zeros = np.zeros((n, 16), np.uint8)
    address = home.next_address(1_700_000_000_000, 0.0)
    page = home.open(Batch(address, 0, 0.0, n, device_ids=zeros, message_ids=zeros, variants=[Variant("t", "b")]), 0.0)
    page.state[:] = states
    page.counts[:] = np.bincount(page.state, minlength=len(State))
    home.rows_open = page.n_open
    page.away = None if away is None else np.array(away, np.uint8)
    page.flags[:] = flags or [0] * n
    return home, page


def plain_stop(state: int, away: int) -> int:
    """The twin: one row at a time."""
    if state in (State.QUEUED, State.HELD, State.WAITING) and not away:
        return State.CANCELLED
    return state


@given(st.data(), st.lists(st.sampled_from(list(State)), min_size=1, max_size=20), st.booleans())
def test_a_stop_cancels_what_nobody_has_in_flight_and_leaves_the_rest(
    data: st.DataObject, states: list[State], has_away: bool
) -> None:
    n = len(states)
    away = data.draw(st.lists(st.sampled_from([0, 2, 0x83]), min_size=n, max_size=n)) if has_away else None
    flags = data.draw(st.lists(st.sampled_from([0, 1, 8, 16, 32]), min_size=n, max_size=n))
    chosen = sorted(data.draw(st.sets(st.integers(0, n - 1))))
    home, page = page_with([int(state) for state in states], away, flags)
    done = stop_rows(home, page, np.array(chosen, np.intp), 1.0)
    after = [plain_stop(state, away[row] if away else 0) for row, state in enumerate(states)]
    assert page.state.tolist() == [after[row] if row in chosen else state for row, state in enumerate(states)]
    ended = [row for row in range(n) if page.state[row] != states[row]]
    assert page.reason[ended].tolist() == [Reason.STOPPED] * len(ended)
    assert done.cancelled == len(ended)
    assert done.held.tolist() == [row for row in ended if states[row] is State.HELD]
    assert done.may_have_arrived == sum(flags[row] in (Flag.HANDED_OVER, Flag.RESENT_UNCERTAIN) for row in ended)
    assert home.rows_not_conserved() == 0
    assert unsettled(page, 0, n) == any(
        away and away[row] and states[row] in (State.QUEUED, State.HELD, State.WAITING) for row in range(n)
    )


@given(st.data(), st.lists(st.sampled_from([State.QUEUED, State.WAITING]), min_size=1, max_size=12))
def test_rows_that_come_back_go_on_unless_their_task_was_stopped_meanwhile(
    data: st.DataObject, states: list[State]
) -> None:
    n = len(states)
    stopped = sorted(data.draw(st.sets(st.integers(0, n - 1))))
    home, page = page_with([State.IN_FLIGHT] * n)
    stop_rows(home, page, np.array(stopped, np.intp), 1.0)
    assert page.state.tolist() == [State.IN_FLIGHT] * n
    for row, state in enumerate(states):
        home.move(page, np.array([row]), state, Reason.RETRY, 2.0)
    back = sorted(data.draw(st.sets(st.integers(0, n - 1))))
    assert go_on(home, page, np.array(back, np.intp), 2.0).tolist() == [row for row in back if row not in stopped]
    expected = [State.CANCELLED if row in back and row in stopped else state for row, state in enumerate(states)]
    assert page.state.tolist() == expected


def test_without_a_stop_every_row_goes_on() -> None:
    home, page = page_with([State.QUEUED] * 3)
    rows = np.arange(3)
    assert go_on(home, page, rows, 1.0) is rows


def test_the_newest_stopped_tasks_are_known_and_refused() -> None:
    tasks = StoppedTasks(2)
    for number in range(3):
        assert tasks.add(bytes([number]) * 16, 1000 + number)
    assert not tasks.add(bytes([2]) * 16, 5000)
    assert len(tasks) == 2
    tasks.check(bytes(16))
    with pytest.raises(TaskStopped) as refused:
        tasks.check(bytes([2]) * 16)
    assert refused.value.stopped_unix_ms == 1002
    assert tasks.of([bytes(16), bytes([1]) * 16]) == {bytes([1]) * 16}
