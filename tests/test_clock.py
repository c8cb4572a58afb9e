"""Clocks: readings that never go back, sleepers that wake when a moved clock says so."""

from __future__ import annotations

import math
import time

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.clock import DevelopmentClock, ElapsedUnix, SystemClock


class WallClock:
    """Stands in for time.time."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("kind", [SystemClock, DevelopmentClock])
def test_unix_ms_never_goes_back_when_the_wall_clock_does(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = WallClock(1_700_000_000.5)
    monkeypatch.setattr(time, "time", wall)
    clock = kind()
    assert clock.unix_ms() == 1_700_000_000_500
    wall.now -= 3600
    assert clock.unix_ms() == 1_700_000_000_500
    wall.now += 3600.25
    assert clock.unix_ms() == 1_700_000_000_750


async def test_elapsed_unix_ms_go_on_with_the_monotonic_clock_whatever_is_done_to_the_wall_clock(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = WallClock(1_700_000_000.0)
    monkeypatch.setattr(time, "time", wall)
    elapsed = ElapsedUnix(SystemClock())
    elapsed.begin()
    for step_s, told_s in ((0.0, 0), (86_400.0, 10), (-86_400.0 * 3, 20), (86_400.0 * 9, 30)):
        wall.now += step_s
        assert elapsed.unix_ms() == 1_700_000_000_000 + told_s * 1000
        await trio.sleep(10)


@pytest.mark.parametrize("kind", [SystemClock, DevelopmentClock])
async def test_monotonic_is_the_loops_clock_until_it_is_moved(kind, mock_clock: MockClock) -> None:
    clock = kind()
    start = clock.monotonic()
    mock_clock.jump(2.5)
    assert clock.monotonic() == pytest.approx(start + 2.5)
    assert not clock.moved_between(start, start + 2.5)


@pytest.mark.parametrize("kind", [SystemClock, DevelopmentClock])
async def test_sleepers_wake_at_their_deadline(kind, autojump_clock: MockClock) -> None:
    clock = kind()
    start = clock.monotonic()
    await clock.sleep_until(start + 7.0)
    assert clock.monotonic() == pytest.approx(start + 7.0)
    await clock.sleep_until(start)
    assert clock.monotonic() == pytest.approx(start + 7.0)
    with clock.move_on_at(start + 9.0) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert clock.monotonic() == pytest.approx(start + 9.0)


@pytest.mark.parametrize("kind", [SystemClock, DevelopmentClock])
async def test_a_sleep_for_ever_ends_only_by_cancellation(kind, autojump_clock: MockClock) -> None:
    clock = kind()
    with trio.move_on_after(1e6) as scope:
        await clock.sleep_until(math.inf)
    assert scope.cancelled_caught


async def test_moving_the_clock_moves_both_readings(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", WallClock(1_000.0))
    clock = DevelopmentClock()
    start = clock.monotonic()
    clock.advance(3600.5)
    assert clock.monotonic() == pytest.approx(start + 3600.5)
    assert clock.unix_ms() == 4_600_500
    clock.advance(0)
    assert clock.unix_ms() == 4_600_500


@pytest.mark.parametrize("seconds", [-1.0, -1e-9, math.inf, math.nan])
async def test_the_clock_is_moved_forward_by_a_finite_time_only(seconds: float) -> None:
    clock = DevelopmentClock()
    with pytest.raises(ValueError, match="expected 0 or more"):
        clock.advance(seconds)
    assert not clock.moved_between(-math.inf, math.inf)


async def test_moving_the_clock_wakes_those_whose_time_has_come_and_no_others(mock_clock: MockClock) -> None:
    clock = DevelopmentClock()
    start = clock.monotonic()
    awake: list[int] = []

    async def sleep(seconds: int) -> None:
        await clock.sleep_until(start + seconds)
        awake.append(seconds)

    async with trio.open_nursery() as nursery:
        for seconds in (10, 100, 1000):
            nursery.start_soon(sleep, seconds)
        await wait_all_tasks_blocked()
        clock.advance(99.5)
        await wait_all_tasks_blocked()
        assert awake == [10]
        # The rest of a wait passes on the loop's clock as before.
        mock_clock.jump(0.5)
        await wait_all_tasks_blocked()
        assert awake == [10, 100]
        clock.advance(40 * 86_400)
        await wait_all_tasks_blocked()
        assert awake == [10, 100, 1000]


async def test_a_scope_that_was_left_is_not_touched_by_later_moves(mock_clock: MockClock) -> None:
    clock = DevelopmentClock()
    with clock.move_on_at(clock.monotonic() + 5) as left:
        pass
    deadline = left.deadline
    clock.advance(100)
    assert left.deadline == deadline
    assert not left.cancelled_caught


async def test_a_scope_entered_after_a_move_counts_from_the_moved_clock(autojump_clock: MockClock) -> None:
    clock = DevelopmentClock()
    clock.advance(1000)
    loop_before = trio.current_time()
    await clock.sleep_until(clock.monotonic() + 3)
    assert trio.current_time() - loop_before == pytest.approx(3.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=6), st.integers(0, 60), st.integers(0, 60))
async def test_moved_between_finds_the_moves_that_lie_in_a_span(moves: list, first: int, second: int) -> None:
    loop = MockClock()
    clock = DevelopmentClock()
    # Whole seconds on a clock that this test alone moves.
    clock._system.monotonic = loop.current_time  # type: ignore[method-assign]
    base = clock.monotonic()
    spans: list[tuple[float, float]] = []
    for wait, by in moves:
        loop.jump(wait)
        before = clock.monotonic()
        clock.advance(by)
        spans.append((before, before + by))
    start, stop = base + min(first, second), base + max(first, second)
    assert clock.moved_between(start, stop) == any(start <= before and after <= stop for before, after in spans)
