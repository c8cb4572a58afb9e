"""LoginTurns: logins have a share of a step while others have work, and all of it alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.login_turns import HOLD_S, OTHERS_S, STORM_REST_S, LoginTurns

SHARED_S, ALONE_S = 0.0005, 0.002


def let_in(turns: LoginTurns, each_s: float) -> int:
    count = 0
    while not turns.is_over:
        turns.spend(each_s)
        count += 1
    return count


def test_logins_have_the_whole_step_while_nobody_else_uses_the_loop() -> None:
    turns = LoginTurns(SHARED_S, ALONE_S)
    for number in range(5):
        turns.begin(number * (ALONE_S + OTHERS_S / 2), 1.0 + number)
        assert let_in(turns, ALONE_S / 10) in (10, 11)
        assert turns.accepts_max(0, 1.0 + number) == 64
        turns.end(number * (ALONE_S + OTHERS_S / 2) + ALONE_S)


def test_logins_share_a_step_with_whoever_has_used_the_loop_lately() -> None:
    turns = LoginTurns(SHARED_S, ALONE_S)
    turns.end(1.0)
    turns.begin(1.0 + 2 * OTHERS_S, 5.0)
    assert let_in(turns, SHARED_S / 2) == 2
    assert turns.accepts_max(0, 5.0) == 16
    turns.end(1.1)
    # Others wait for an answer meanwhile, and will be back.
    turns.begin(1.1, 5.0 + HOLD_S / 2)
    assert let_in(turns, SHARED_S / 2) == 2
    turns.end(1.2)
    turns.begin(1.2, 5.0 + 2 * HOLD_S)
    assert let_in(turns, SHARED_S / 2) == 8


def test_nobody_is_accepted_while_many_wait() -> None:
    turns = LoginTurns(SHARED_S, ALONE_S)
    assert [turns.accepts_max(waiting, 0.0) for waiting in (0, 63, 64, 5_000)] == [64, 64, 0, 0]


@given(st.lists(st.tuples(st.floats(0, 0.01), st.floats(1e-5, 0.005)), max_size=50))
def test_every_step_lets_one_in_and_no_more_begin_than_its_share_holds(steps: list[tuple[float, float]]) -> None:
    turns, cpu_s = LoginTurns(SHARED_S, ALONE_S), 0.0
    for others_s, each_s in steps:
        cpu_s += others_s
        turns.begin(cpu_s, 1.0)
        n = let_in(turns, each_s)
        assert n >= 1
        assert (n - 1) * each_s < ALONE_S + 1e-12
        if others_s > OTHERS_S:
            assert (n - 1) * each_s < SHARED_S + 1e-12
        cpu_s += n * each_s
        turns.end(cpu_s)


def test_first_of_a_step_has_its_place_however_long_it_takes() -> None:
    turns = LoginTurns(SHARED_S, ALONE_S)
    turns.begin(1.0, 0.0)
    turns.spend(0.1)
    assert turns.is_over
    turns.begin(2.0, 0.0)
    assert not turns.is_over
    assert turns.accepts_max(1, 0.0) == pytest.approx(16)


def rests(gap_s: float, n: int, *, each: int = 1) -> list[float]:
    """What is rested after each of n that came so many seconds apart."""
    turns = LoginTurns(SHARED_S, ALONE_S)
    return [turns.came(each, 100.0 + number * gap_s) for number in range(n)]


def test_newcomers_of_a_storm_gather() -> None:
    # 250 a second.
    found = rests(0.004, 60)
    assert found[:7] == [0.0] * 7
    assert found[20:] == [STORM_REST_S] * 40
    # The same storm, in the portions that it comes in then.
    assert rests(STORM_REST_S, 20, each=10)[1:] == [STORM_REST_S] * 19


@pytest.mark.parametrize(("gap_s", "each"), [(0.002, 10), (0.01, 20), (STORM_REST_S, 64), (0.1, 256)])
def test_newcomers_that_have_company_enough_do_not_wait_for_more(gap_s: float, each: int) -> None:
    found = rests(gap_s, 200, each=each)
    assert not any(found[20:])


@pytest.mark.parametrize(("gap_s", "n"), [(0.02, 500), (0.1, 50), (10.0, 5)])
def test_newcomers_that_come_singly_wait_for_nobody(gap_s: float, n: int) -> None:
    assert not any(rests(gap_s, n))


def test_storm_that_is_over_is_forgotten() -> None:
    turns = LoginTurns(SHARED_S, ALONE_S)
    assert turns.came(50, 100.0) == STORM_REST_S
    assert turns.came(1, 101.0) == 0.0


def test_who_connects_again_and_again_alone_is_soon_let_in_at_once_again() -> None:
    """A client that waits for each answer: what it rests ends what looked like a storm."""
    turns, now, rested = LoginTurns(SHARED_S, ALONE_S), 100.0, 0
    for _ in range(200):
        rest_s = turns.came(1, now)
        rested += rest_s > 0.0
        now += 0.003 + rest_s
    assert 0 < rested < 100
