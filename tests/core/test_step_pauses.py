"""How long the long link's loop pauses after a step: a wait, and until when answers gather."""

from __future__ import annotations

import pytest

from gateway.core.step_pauses import FEW_GAP_S, MANY_WAIT_S, MANY_WAIT_S_MAX, SHORT_GAP_S, SMALL_STEP, StepPauses


def after(n_reads: int, n_others: int, n_in_flight: int, *, is_short: bool = False) -> tuple[float, float]:
    """(wait_s, gather_until) of a step that ended at 100."""
    pauses = StepPauses()
    pauses.is_short = is_short
    pauses.on_step(100.0, n_reads, n_others, n_in_flight)
    return pauses.wait_s, pauses.gather_until


def test_few_answers_with_many_to_come_are_given_time_at_once() -> None:
    assert after(n_reads=255, n_others=0, n_in_flight=256)[0] == pytest.approx(MANY_WAIT_S, rel=0.01)
    assert after(n_reads=128, n_others=0, n_in_flight=256) == (2 * MANY_WAIT_S, 0.0)
    assert after(n_reads=3, n_others=0, n_in_flight=256) == (MANY_WAIT_S_MAX, 0.0)


@pytest.mark.parametrize(
    ("came_s", "n_reads", "wait_s"),
    [
        (0.001, 128, 2 * MANY_WAIT_S),  # they came in no time: as if in `MANY_WAIT_S`
        (0.004, 200, 0.004 * 256 / 200),
        (0.006, 128, MANY_WAIT_S_MAX),
        (1.0, 255, MANY_WAIT_S_MAX),
    ],
)
def test_answers_are_given_time_by_the_rate_at_which_they_came(came_s: float, n_reads: int, wait_s: float) -> None:
    pauses = StepPauses()
    # Nobody was to answer for a while, and that while counts for nothing.
    pauses.on_step(90.0, 3, 0, 0)
    pauses.on_delivered(100.0, 1_000)
    pauses.on_delivered(100.0001, 2_000)
    pauses.on_step(100.0 + came_s, n_reads, 0, 1_000)
    assert pauses.wait_s == pytest.approx(wait_s)
    # From then on between two steps.
    pauses.on_delivered(100.0 + 2 * came_s, 1_000)
    pauses.on_step(100.0 + 2 * came_s, n_reads, 0, 1_000)
    assert pauses.wait_s == pytest.approx(wait_s)


def test_pause_ends_for_whoever_comes() -> None:
    pauses = StepPauses()
    pauses.on_step(100.0, 3, 0, 500)
    pauses.end()
    assert (pauses.wait_s, pauses.gather_until) == (0.0, 0.0)


def test_few_answers_with_some_to_come_let_the_next_one_wait_for_company() -> None:
    assert after(n_reads=1, n_others=0, n_in_flight=7) == (0.0, 100.0 + FEW_GAP_S)


@pytest.mark.parametrize(
    ("n_reads", "n_others", "n_in_flight"),
    [
        (1, 0, 0),  # the last answer
        (0, 0, 7),  # nothing was there: a timer
        (3, 1, 500),  # somebody connected, left or said something
        (256, 0, 500),  # worth a step
    ],
)
def test_steps_of_other_kinds_ask_for_no_pause(n_reads: int, n_others: int, n_in_flight: int) -> None:
    assert after(n_reads, n_others, n_in_flight) == (0.0, 0.0)


@pytest.mark.parametrize(("n_in_flight", "gap_s"), [(1, FEW_GAP_S), (255, FEW_GAP_S), (256, MANY_WAIT_S)])
def test_first_answer_to_rows_that_were_sent_waits_for_the_others(n_in_flight: int, gap_s: float) -> None:
    pauses = StepPauses()
    pauses.on_delivered(100.0, n_in_flight)
    assert (pauses.wait_s, pauses.gather_until) == (0.0, 100.0 + gap_s)


def test_nobody_waits_for_answers_to_rows_that_were_not_sent() -> None:
    pauses = StepPauses()
    pauses.on_delivered(100.0, 0)
    assert (pauses.wait_s, pauses.gather_until) == (0.0, 0.0)


def test_first_of_many_answers_waits_for_the_others_after_a_step_that_found_none() -> None:
    assert after(n_reads=0, n_others=0, n_in_flight=256) == (0.0, 100.0 + MANY_WAIT_S)


def test_step_that_was_cut_short_is_followed_by_the_next_however_few_it_found() -> None:
    pauses = StepPauses()
    pauses.on_step(100.0, 3, 0, 500, is_cut=True)
    assert (pauses.wait_s, pauses.gather_until) == (0.0, 0.0)


def test_pause_is_forgotten_by_the_next_step() -> None:
    pauses = StepPauses()
    pauses.on_step(100.0, 1, 0, 7)
    pauses.on_step(100.001, 1, 1, 7)
    assert (pauses.wait_s, pauses.gather_until) == (0.0, 0.0)


@pytest.mark.parametrize(("n_reads", "n_others", "n_in_flight"), [(1, 0, 0), (0, 0, 7), (3, 1, 0), (8, 7, 255)])
def test_small_steps_wait_for_company_where_processors_are_short(n_reads: int, n_others: int, n_in_flight: int) -> None:
    assert after(n_reads, n_others, n_in_flight, is_short=True) == (0.0, 100.0 + SHORT_GAP_S)


@pytest.mark.parametrize(
    ("n_reads", "n_others", "n_in_flight"), [(SMALL_STEP, 0, 0), (0, SMALL_STEP, 7), (300, 0, 7), (3, 1, 256)]
)
def test_steps_that_had_company_wait_for_nobody_there_either(n_reads: int, n_others: int, n_in_flight: int) -> None:
    assert after(n_reads, n_others, n_in_flight, is_short=True) == after(n_reads, n_others, n_in_flight)


def test_where_processors_are_short_a_step_that_may_have_more_is_followed_at_once() -> None:
    pauses = StepPauses()
    pauses.is_short = True
    pauses.on_step(100.0, 3, 0, 7, is_cut=True)
    assert (pauses.wait_s, pauses.gather_until) == (0.0, 0.0)


@pytest.mark.parametrize(("n_in_flight", "gap_s"), [(1, SHORT_GAP_S), (255, SHORT_GAP_S), (256, MANY_WAIT_S)])
def test_answers_to_few_rows_wait_longer_there(n_in_flight: int, gap_s: float) -> None:
    pauses = StepPauses()
    pauses.is_short = True
    pauses.on_delivered(100.0, n_in_flight)
    assert (pauses.wait_s, pauses.gather_until) == (0.0, 100.0 + gap_s)
