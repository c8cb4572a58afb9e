"""Recovery: what becomes of rows agrees with a plain reading of their marks, one row and one mark at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch
from gateway.content import Class, Variant
from gateway.core.home import Home
from gateway.core.options import AppDefaults, compile_options
from gateway.core.recovery import leave_out, newest_marks, recover, resend_table, urgency
from gateway.core.trail import Trail
from gateway.ledger import FINAL_STATES, Channel, Flag, LedgerPage, Reason, State
from gateway.marks import RowMarks

N = 8
_AGAIN = int(Flag.RESENT_UNCERTAIN)
STATES = [State.QUEUED, State.IN_FLIGHT, State.VENDOR_ACCEPTED, State.DEVICE_ACKED, State.FAILED, State.UNCERTAIN]


class Silence:
    def moved(self, *told: object) -> None: ...

    def finished(self, *told: object) -> None: ...

    def receipts_rose(self, *told: object) -> None: ...


def home_of() -> Home:
    home = Home(
        secret=b"a secret of sixteen",
        journal=1,
        observer=Silence(),
        ledger_bytes_max=1 << 30,
        rows_open_max=1 << 30,
        change_rows_max=1000,
        now=0.0,
    )
    home.trail = Trail(issued_rows_max=100)
    return home


def page_of(home: Home, *, born: float = 0.0, duplicates: list[int] | None = None) -> LedgerPage:
    """Rows 0..3 are of a system message, the others of marketing; the TTLs are 100 and 200 seconds."""
    ids = np.zeros((N, 16), np.uint8)
    doubled = None
    if duplicates is not None:
        doubled = np.zeros(N, np.bool_)
        doubled[duplicates] = True
    batch = Batch(
        home.next_address(1_800_000_000_000, 0.0),
        0,
        born,
        N,
        device_ids=ids,
        message_ids=ids,
        variants=[Variant("t", "b", ttl_s=100), Variant("t", "b", ttl_s=200, class_="marketing")],
        variant_index=np.array([0, 0, 0, 0, 1, 1, 1, 1], np.uint16),
        duplicates=doubled,
    )
    page = home.open(batch, 0.0)
    assert home.trail is not None
    home.trail.follow(page, 1, is_recovered=True)
    return page


@st.composite
def row_marks(draw: st.DrawFn) -> RowMarks:
    rows = sorted(draw(st.sets(st.integers(0, N - 1), min_size=1)))
    k = len(rows)
    states = draw(st.lists(st.sampled_from(STATES), min_size=k, max_size=k))
    channels = draw(st.lists(st.sampled_from([Channel.LONG_LINK, Channel.APNS]), min_size=k, max_size=k))
    flags = draw(st.lists(st.sampled_from([0, int(Flag.HANDED_OVER)]), min_size=k, max_size=k))
    return RowMarks(
        0,
        np.array(rows, np.uint16),
        np.array(states, np.uint8),
        np.full(k, Reason.THROTTLED, np.uint8),
        np.array(channels, np.uint8),
        np.array(flags, np.uint8),
    )


@pytest.mark.hypothesis
@given(marks=st.lists(row_marks(), max_size=6), system=st.booleans(), marketing=st.booleans())
def test_rows_become_what_a_plain_reading_of_their_marks_says(
    marks: list[RowMarks], system: bool, marketing: bool
) -> None:
    home = home_of()
    page = page_of(home)
    options = compile_options(page.batch, AppDefaults())
    table = resend_table(system=system, marketing=marketing)
    sums = recover(home, page, marks, options, table, 10.0)
    known: dict[int, tuple[int, int, int]] = {}
    for mark in marks:
        for row, state, channel, flags in zip(mark.rows, mark.states, mark.channels, mark.flags, strict=True):
            if int(row) in known and known[int(row)][0] in FINAL_STATES and int(state) not in FINAL_STATES:
                continue
            known[int(row)] = (int(state), int(channel), int(flags))
    resent = uncertain = final = 0
    for row in range(N):
        state, channel, flags = known.get(row, (State.QUEUED, 0, 0))
        if state == State.IN_FLIGHT:
            goes_again = channel == Channel.LONG_LINK or (system if row < 4 else marketing)
            state = State.QUEUED if goes_again else State.UNCERTAIN
            resent += goes_again
            uncertain += not goes_again
            assert bool(page.flags[row] & Flag.RESENT_UNCERTAIN) == goes_again
            assert page.reason[row] == (Reason.NO_ANSWER if goes_again else Reason.PROCESS_ENDED)
        elif state in FINAL_STATES:
            final += 1
            assert page.reason[row] == Reason.THROTTLED
        assert page.state[row] == state
        assert page.flags[row] & Flag.HANDED_OVER == flags
    assert (sums.resent, sums.uncertain, sums.final, sums.expired) == (resent, uncertain, final, 0)
    assert sums.unsent == N - resent - uncertain - final
    assert page.counts.tolist() == np.bincount(page.state, minlength=len(State)).tolist()
    assert home.rows_open == page.n_open
    assert home.rows_not_conserved() == 0


def test_rows_whose_time_is_over_expire_whatever_they_were() -> None:
    home = home_of()
    page = page_of(home, born=-150.0)
    columns = [np.array([value, value], np.uint8) for value in (State.IN_FLIGHT, 0, Channel.LONG_LINK, 0)]
    marks = RowMarks(0, np.array([0, 7], np.uint16), *columns)
    sums = recover(
        home, page, [marks], compile_options(page.batch, AppDefaults()), resend_table(system=True, marketing=True), 0.0
    )
    assert (sums.expired, sums.resent, sums.unsent) == (4, 1, 3)
    assert set(page.state[:4].tolist()) == {State.EXPIRED}


def test_duplicates_stay_dropped() -> None:
    home = home_of()
    page = page_of(home, duplicates=[1, 5])
    sums = recover(
        home, page, [], compile_options(page.batch, AppDefaults()), resend_table(system=True, marketing=True), 0.0
    )
    assert sums.unsent == N - 2
    assert page.state[[1, 5]].tolist() == [State.DROPPED] * 2


def test_marks_beyond_the_batch_are_passed_over() -> None:
    columns = [np.array([State.FAILED, State.FAILED], np.uint8)] * 4
    assert newest_marks(4, [RowMarks(0, np.array([3, 4], np.uint16), *columns)]).rows.tolist() == [3]


def test_what_is_urgent_comes_first() -> None:
    def of(*variants: Variant) -> tuple[int, int]:
        home = home_of()
        ids = np.zeros((1, 16), np.uint8)
        batch = Batch(home.next_address(1, 0.0), 0, 0.0, 1, device_ids=ids, message_ids=ids, variants=variants)
        return urgency(compile_options(batch, AppDefaults()))

    high, promotion = Variant("t", "b"), Variant("t", "b", class_="marketing")
    normal = Variant("t", "b", priority="normal")
    assert of(high) < of(promotion) < of(normal)
    assert of(normal, high) == of(high)
    assert Class.SYSTEM < Class.MARKETING


def test_rows_that_a_living_worker_holds_are_left_out_with_what_is_known_of_them() -> None:
    home = home_of()
    page = page_of(home)
    known = [State.IN_FLIGHT, State.QUEUED, State.VENDOR_ACCEPTED, State.IN_FLIGHT]
    columns = [np.array(column, np.uint8) for column in (known, [0] * 4, [Channel.APNS] * 4, [_AGAIN] * 4)]
    marks = [RowMarks(0, np.arange(4, dtype=np.uint16), *columns)]
    left = leave_out(home, page, marks, np.array([0, 1, 2, 4]))
    # One that has ended is nobody's any more, whoever remembers it; one that was sent again before stays known as such.
    assert left.tolist() == [0, 1, 4]
    assert page.flags.tolist() == [_AGAIN, _AGAIN, 0, 0, 0, 0, 0, 0]
    assert home.trail is not None
    assert (page.channel[0], home.trail.issued_rows()) == (Channel.APNS, 1)
    # The rest is dealt with as ever, and these are left alone.
    options = compile_options(page.batch, AppDefaults(1, frozenset()))
    table = resend_table(system=True, marketing=False)
    found = recover(home, page, marks, options, table, 150.0, left)
    assert (found.elsewhere, found.final, found.resent) == (3, 1, 0)
    states = [State(state) for state in page.state.tolist()]
    assert states[:3] == [State.QUEUED, State.QUEUED, State.VENDOR_ACCEPTED]
    assert (states[3], states[4]) == (State.EXPIRED, State.QUEUED)
