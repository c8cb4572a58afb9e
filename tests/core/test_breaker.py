"""Breaker: literal dialogues, totality of its table, and the laws that hold in any dialogue."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.core.breaker import (
    _TABLE,
    UNLIMITED,
    Breaker,
    BreakerCause,
    BreakerSettings,
    BreakerState,
    Outcomes,
    _Input,
)
from gateway.errors import LocalProtocolError

SETTINGS = BreakerSettings(
    window_s=10.0,
    rows_min=20,
    failure_share=0.5,
    all_failing_s=1.0,
    connect_failures_max=3,
    credential_refusals_max=3,
    open_s=5.0,
    open_s_max=60.0,
    trial_rows_max=4,
)
CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN


class Dialogue:
    """A breaker with its clock. Each call returns the state afterwards."""

    def __init__(self, settings: BreakerSettings = SETTINGS) -> None:
        self.breaker = Breaker(settings)
        self.now = 1000.0

    def tell(self, in_flight: int = 0, **counts: int) -> BreakerState:
        self.breaker.on_outcomes(Outcomes(**counts), self.now, in_flight=in_flight)
        return self.breaker.state

    def open(self, in_flight: int = 0) -> float:
        """Opened by failures; returns how long it stays open."""
        assert self.tell(in_flight, failed=20) is OPEN
        return self.breaker.next_deadline() - self.now

    def wait(self) -> BreakerState:
        """Until the deadline."""
        self.now = self.breaker.next_deadline()
        assert self.breaker.on_deadline(self.now) is not None
        return self.breaker.state


def test_it_opens_when_the_share_of_failures_reaches_the_limit_and_not_before() -> None:
    told = Dialogue()
    assert told.tell(answered=60) is CLOSED
    assert told.tell(failed=59) is CLOSED
    assert told.breaker.room() == UNLIMITED
    assert told.tell(failed=1) is OPEN
    assert told.breaker.cause is BreakerCause.FAILURES
    assert told.breaker.room() == 0


def test_few_failures_are_no_share() -> None:
    told = Dialogue()
    assert told.tell(failed=19) is CLOSED
    assert told.tell(answered=19) is CLOSED
    assert told.tell(failed=1) is OPEN


def test_failures_that_are_older_than_the_window_do_not_count() -> None:
    told = Dialogue()
    told.tell(failed=19)
    told.now += 20
    assert told.tell(failed=19) is CLOSED
    assert told.tell(failed=1) is OPEN


def test_answers_never_open_it_even_where_old_failures_are_left_in_the_window() -> None:
    told = Dialogue()
    told.tell(answered=30)
    told.now += 8
    told.tell(failed=20)
    told.now += 3
    # The old answers are gone and the share is above the limit, but what comes in now is good.
    assert told.tell(answered=1) is CLOSED


def test_nothing_but_failures_for_a_while_opens_it_whatever_good_answers_the_window_holds() -> None:
    told = Dialogue()
    told.tell(answered=10_000)
    assert told.tell(failed=10) is CLOSED
    told.now += 0.99
    assert told.tell(failed=10) is CLOSED
    told.now += 0.01
    assert told.tell(failed=1) is OPEN
    assert told.breaker.cause is BreakerCause.FAILURES


def test_a_lost_connection_with_a_thousand_rows_does_not_open_it_at_once() -> None:
    told = Dialogue()
    told.tell(answered=10_000)
    assert told.tell(failed=1_000) is CLOSED
    assert told.tell(failed=1_000) is CLOSED


@pytest.mark.parametrize("sign_of_life", ["answered", "refused"])
def test_a_single_answer_among_failures_begins_their_while_anew(sign_of_life: str) -> None:
    told = Dialogue()
    told.tell(answered=10_000)
    told.tell(failed=100)
    told.now += 0.9
    told.tell(**{sign_of_life: 1}, failed=1)
    told.now += 0.9
    assert told.tell(failed=100) is CLOSED
    told.now += 1.0
    assert told.tell(failed=1) is OPEN


def test_few_failures_do_not_open_it_however_long_they_are_alone() -> None:
    told = Dialogue()
    told.tell(answered=10_000)
    for _ in range(19):
        told.now += 0.4
        assert told.tell(failed=1) is CLOSED
    told.now += 0.4
    assert told.tell(failed=1) is OPEN


def test_connects_that_fail_in_a_row_open_it_and_an_answer_begins_the_row_anew() -> None:
    told = Dialogue()
    breaker = told.breaker
    for _ in range(2):
        assert breaker.on_connect_failure(told.now, in_flight=0) is None
    told.tell(answered=1)
    for _ in range(2):
        assert breaker.on_connect_failure(told.now, in_flight=0) is None
    moved = breaker.on_connect_failure(told.now, in_flight=0)
    assert moved is not None
    assert (moved.state, moved.cause, moved.until) == (OPEN, BreakerCause.CONNECT, told.now + 5.0)
    # the one connect that tries afterwards is enough to open it again
    told.wait()
    assert breaker.state is HALF_OPEN
    assert breaker.on_connect_failure(told.now, in_flight=0) is not None
    assert breaker.next_deadline() == told.now + 10.0


def test_after_its_time_it_lets_a_few_rows_try_and_closes_when_those_have_ended_well() -> None:
    told = Dialogue()
    told.open()
    assert told.breaker.on_deadline(told.now + 4.9) is None
    assert told.wait() is HALF_OPEN
    assert told.breaker.room() == 4
    told.breaker.on_sent(3, told.now)
    assert told.breaker.room() == 1
    assert told.tell(answered=2) is HALF_OPEN, "the third could still fail"
    assert told.tell(answered=1) is CLOSED
    assert told.breaker.room() == UNLIMITED
    assert told.breaker.cause is BreakerCause.NONE
    assert told.breaker.next_deadline() == math.inf
    # what was counted before is forgotten
    assert told.tell(failed=19) is CLOSED


def test_openings_grow_to_the_maximum_and_begin_anew_when_the_vendor_was_well_for_a_window() -> None:
    told = Dialogue()
    waits = [told.open()]
    for _ in range(6):
        told.wait()
        told.breaker.on_sent(2, told.now)
        assert told.tell(failed=1) is HALF_OPEN, "one of four"
        assert told.tell(failed=1) is OPEN
        waits.append(told.breaker.next_deadline() - told.now)
    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    told.wait()
    told.tell(answered=3)
    assert told.open() == 60.0, "closed for a moment only"
    told.wait()
    told.tell(answered=3)
    told.now += 10.1
    assert told.open() == 5.0


def test_the_share_decides_about_trials() -> None:
    told = Dialogue()
    told.open()
    told.wait()
    assert told.tell(answered=3, failed=1) is CLOSED
    told = Dialogue()
    told.open()
    told.wait()
    assert told.tell(answered=2, failed=2) is OPEN
    told = Dialogue()
    told.open()
    told.wait()
    told.breaker.on_sent(4, told.now)
    assert told.tell(answered=3) is HALF_OPEN
    assert told.tell(failed=1) is CLOSED, "the last word is bad, the whole is not"


def test_late_failures_of_what_was_in_flight_when_it_opened_prove_nothing() -> None:
    told = Dialogue()
    told.open(in_flight=100)
    assert told.tell(in_flight=70, failed=30) is OPEN
    told.wait()
    told.breaker.on_sent(4, told.now)
    assert told.tell(in_flight=4, failed=70) is HALF_OPEN
    # none of those is left, so these are trials
    assert told.tell(in_flight=3, failed=1) is HALF_OPEN
    assert told.tell(in_flight=2, failed=1) is OPEN


def test_no_more_late_failures_are_expected_than_are_in_flight() -> None:
    """Rows that were given back unprocessed end without a word here; the count of them must not linger."""
    told = Dialogue()
    told.open(in_flight=100)
    told.wait()
    told.breaker.on_sent(4, told.now)
    # The four that try cannot be told from what was in flight before, but nothing else is left of that.
    told.tell(in_flight=4)
    assert told.tell(in_flight=0, failed=4) is HALF_OPEN
    assert told.tell(in_flight=0, failed=2) is OPEN


def test_a_row_that_tries_alone_decides_when_it_is_answered_and_not_when_it_fails() -> None:
    told = Dialogue()
    told.open()
    told.wait()
    for _ in range(2):
        told.breaker.on_sent(1, told.now)
        assert told.breaker.state is HALF_OPEN
        told.tell(failed=1)
    assert told.breaker.state is OPEN, "two of four"
    told.wait()
    told.breaker.on_sent(1, told.now)
    assert told.tell(answered=1) is CLOSED


def test_late_answers_close_it_while_it_tries_and_change_nothing_before() -> None:
    told = Dialogue()
    told.open(in_flight=50)
    assert told.tell(answered=10) is OPEN
    told.wait()
    assert told.tell(answered=10) is CLOSED


def test_trials_that_were_not_sent_after_all_may_be_sent_again() -> None:
    told = Dialogue()
    told.open()
    told.wait()
    told.breaker.on_sent(4, told.now)
    assert told.breaker.room() == 0
    told.tell(void=3)
    assert told.breaker.room() == 3
    told.tell(void=50)
    assert told.breaker.room() == 4


def test_trials_that_lead_nowhere_are_followed_by_others() -> None:
    told = Dialogue()
    told.open()
    told.wait()
    told.breaker.on_sent(4, told.now)
    assert told.breaker.next_deadline() == told.now + 60.0
    told.now += 60.0
    assert told.breaker.on_deadline(told.now) is None
    assert (told.breaker.state, told.breaker.room()) == (HALF_OPEN, 4)


def test_refusals_of_the_credential_in_a_row_open_it_for_the_longest_time_and_one_row_tries() -> None:
    told = Dialogue()
    told.tell(refused=2)
    assert told.tell(answered=1) is CLOSED
    told.tell(refused=2)
    assert told.tell(refused=1) is OPEN
    assert told.breaker.cause is BreakerCause.CREDENTIAL
    assert told.breaker.next_deadline() == told.now + 60.0
    told.wait()
    assert told.breaker.room() == 1
    told.breaker.on_sent(1, told.now)
    assert told.tell(refused=1) is OPEN
    assert told.breaker.next_deadline() == told.now + 60.0


def test_a_new_credential_is_tried_at_once_and_does_not_end_another_trouble() -> None:
    told = Dialogue()
    assert told.breaker.on_credential_lost(told.now, in_flight=0) is not None
    moved = told.breaker.on_credential_issued(told.now)
    assert moved is not None
    assert (moved.state, told.breaker.room()) == (HALF_OPEN, 1)
    assert told.tell(answered=1) is CLOSED
    told.open()
    assert told.breaker.on_credential_issued(told.now) is None
    assert told.breaker.state is OPEN


def test_refusals_of_the_credential_that_was_replaced_do_not_count_against_the_new_one() -> None:
    told = Dialogue()
    told.tell(refused=2)
    told.breaker.on_credential_issued(told.now)
    assert told.tell(refused=2) is CLOSED


@pytest.mark.parametrize("state", BreakerState)
@pytest.mark.parametrize("given_", _Input)
def test_every_pair_moves_to_a_state_or_is_our_bug(state: BreakerState, given_: _Input) -> None:
    breaker = Breaker(SETTINGS)
    breaker.state, breaker.cause = state, BreakerCause.FAILURES
    if (state, given_) in _TABLE:
        breaker._move(given_, 1000.0, BreakerCause.FAILURES)
        assert breaker.state is _TABLE[state, given_][1]
    else:
        # the one thing that cannot happen: a closed breaker waits for nothing
        assert (state, given_) == (CLOSED, _Input.WAITED)
        with pytest.raises(LocalProtocolError):
            breaker._move(given_, 1000.0, BreakerCause.FAILURES)


# -- any dialogue


class Model:
    """What anybody may rely on, kept apart from the machine: the plain list of outcomes, and who is at the vendor."""

    def __init__(self) -> None:
        self.told = Dialogue()
        self.in_flight = 0
        #: (time, answered or refused, failed) since the last close.
        self.outcomes: list[tuple[float, int, int]] = []
        self.opened_at = -math.inf
        self.n_trials = 0

    def step(self, name: str, amount: int) -> None:
        breaker, now = self.told.breaker, self.told.now
        before = breaker.state
        match name:
            case "wait":
                self.told.now = now = now + amount / 4
                breaker.on_deadline(now)
            case "send":
                n = min(amount, breaker.room())
                self.in_flight += n
                self.n_trials += n if before is HALF_OPEN else 0
                if n:
                    breaker.on_sent(n, now)
            case "answered" | "failed" | "refused" | "void":
                n = min(amount, self.in_flight)
                self.in_flight -= n
                counts: dict[str, Any] = {name: n}
                if before is CLOSED and name != "void":
                    self.outcomes.append((now, 0 if name == "failed" else n, n if name == "failed" else 0))
                breaker.on_outcomes(Outcomes(**counts), now, in_flight=self.in_flight)
                self.check(before, name, n)
            case "connect":
                breaker.on_connect_failure(now, in_flight=self.in_flight)
            case "lost":
                breaker.on_credential_lost(now, in_flight=self.in_flight)
            case "issued":
                breaker.on_credential_issued(now)
        self.laws(before)

    def check(self, before: BreakerState, name: str, n: int) -> None:
        breaker = self.told.breaker
        if before is CLOSED and name == "failed" and n and breaker.state is CLOSED:
            # What is surely in the window (a slot less than its span) must not have asked for an opening.
            young = [(good, bad) for at, good, bad in self.outcomes if at > self.told.now - 9.0]
            good, bad = (sum(column) for column in zip(*young, strict=True))
            old = sum(good for at, good, _ in self.outcomes if self.told.now - 10.0 <= at <= self.told.now - 9.0)
            assert bad < 0.5 * (good + bad + old) or good + bad < 20
        if before is HALF_OPEN and name == "answered" and n >= SETTINGS.trial_rows_max:
            assert breaker.state is CLOSED
        if before is OPEN:
            assert breaker.state is OPEN

    def laws(self, before: BreakerState) -> None:
        breaker, now = self.told.breaker, self.told.now
        room = {CLOSED: UNLIMITED, OPEN: 0, HALF_OPEN: breaker.room()}[breaker.state]
        assert breaker.room() == room
        assert 0 <= room <= SETTINGS.trial_rows_max or breaker.state is CLOSED
        assert (breaker.cause is BreakerCause.NONE) == (breaker.state is CLOSED)
        if breaker.state is OPEN:
            assert now < breaker.next_deadline() <= now + SETTINGS.open_s_max
        if breaker.state is CLOSED:
            assert breaker.next_deadline() == math.inf
        if breaker.state is HALF_OPEN and not room:
            assert breaker.next_deadline() < math.inf, "a wait without an end"
        if before is not CLOSED and breaker.state is CLOSED:
            self.outcomes.clear()


steps = st.tuples(
    st.sampled_from(["wait", "send", "answered", "failed", "refused", "void", "connect", "lost", "issued"]),
    st.integers(1, 60),
)


@given(st.lists(steps, max_size=120))
def test_the_laws_hold_in_any_dialogue(dialogue: list[tuple[str, int]]) -> None:
    model = Model()
    for name, amount in dialogue:
        model.step(name, amount)


@given(st.lists(steps, max_size=120))
def test_a_vendor_that_is_well_again_is_sent_to_again(dialogue: list[tuple[str, int]]) -> None:
    """Whatever happened, with answers only it closes within the longest opening and the longest wait for trials."""
    model = Model()
    for name, amount in dialogue:
        model.step(name, amount)
    begun = model.told.now
    while model.told.breaker.state is not CLOSED:
        model.step("wait", 4)
        model.step("send", 100)
        model.step("answered", 100)
        assert model.told.now - begun <= 2 * SETTINGS.open_s_max + 1
