"""Trail: what is written of rows agrees with what they are, windows bound what may be uncertain, records go when nobody
needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.batch import Batch
from gateway.content import Variant
from gateway.core.home import Home
from gateway.core.trail import Taken, Trail
from gateway.ledger import IS_FINAL, Channel, LedgerPage, Reason, State
from gateway.marks import NO_POSITION, RowMarks

ROWS = 6
WINDOW = 8
CHANNELS = (Channel.LONG_LINK, Channel.APNS)


class Silence:
    def moved(self, *told: object) -> None: ...

    def finished(self, *told: object) -> None: ...

    def receipts_rose(self, *told: object) -> None: ...


def home_with(trail: Trail) -> Home:
    home = Home(
        secret=b"a secret of sixteen",
        journal=1,
        observer=Silence(),
        ledger_bytes_max=1 << 30,
        rows_open_max=1 << 30,
        change_rows_max=1000,
        now=0.0,
    )
    home.trail = trail
    return home


def page_of(home: Home, n: int = ROWS) -> LedgerPage:
    ids = np.zeros((n, 16), np.uint8)
    address = home.next_address(1_800_000_000_000, 0.0)
    return home.open(Batch(address, 0, 0.0, n, device_ids=ids, message_ids=ids, variants=[Variant("t", "b")]), 0.0)


def silent() -> None: ...


class TrailAgainstADisk(RuleBasedStateMachine):
    """A disk of records: what a replay of them says must never be less than what receivers may have seen."""

    def __init__(self) -> None:
        super().__init__()
        self.trail = Trail(issued_rows_max=WINDOW)
        self.home = home_with(self.trail)
        self.pages: dict[int, LedgerPage] = {}
        self.batches: set[int] = set()
        self.records: dict[int, list[RowMarks]] = {}
        self.positions = 0
        self.taken: Taken | None = None
        #: (sequence, row) -> channel where somebody outside may have it.
        self.outside: dict[tuple[int, int], Channel] = {}
        self.final: dict[tuple[int, int], int] = {}

    @rule()
    def accept(self) -> None:
        page = page_of(self.home)
        self.positions += 1
        self.batches.add(page.batch.address.sequence)
        self.pages[page.batch.address.sequence] = page
        self.trail.follow(page, self.positions)

    def choose(self, data: Any, state: State) -> tuple[LedgerPage, np.ndarray] | None:
        found = [page for page in self.pages.values() if (page.state == state).any()]
        if not found:
            return None
        page = data.draw(st.sampled_from(found))
        rows = np.flatnonzero(page.state == state)
        return page, rows[: data.draw(st.integers(1, len(rows)))]

    @rule(data=st.data(), channel=st.sampled_from(CHANNELS))
    def issue(self, data: Any, channel: Channel) -> None:
        """Rows are marked; those whose mark is durable leave."""
        chosen = self.choose(data, State.QUEUED)
        if chosen is None:
            return
        page, rows = chosen
        rows = rows[: self.trail.room(0, channel, silent)]
        if not len(rows):
            return
        page.channel[rows] = channel
        ticket = self.trail.mark(page, rows, channel, silent)
        if self.trail.is_durable(ticket):
            self.home.move(page, rows, State.IN_FLIGHT, None, 1.0)
            for row in rows.tolist():
                self.outside[page.batch.address.sequence, row] = channel

    @rule(data=st.data(), to=st.sampled_from([State.VENDOR_ACCEPTED, State.FAILED, State.UNCERTAIN]))
    def end(self, data: Any, to: State) -> None:
        chosen = self.choose(data, State.IN_FLIGHT)
        if chosen is not None:
            self.home.move(*chosen, to, Reason.NONE, 2.0)

    @rule(data=st.data(), to=st.sampled_from([State.QUEUED, State.WAITING, State.HELD]))
    def come_back(self, data: Any, to: State) -> None:
        chosen = self.choose(data, State.IN_FLIGHT)
        if chosen is not None:
            page, rows = chosen
            self.home.move(page, rows, to, None, 2.0)
            self.home.move(page, rows[page.state[rows] != State.QUEUED], State.QUEUED, None, 2.0)
            for row in rows.tolist():
                self.outside.pop((page.batch.address.sequence, row))

    @rule(data=st.data())
    def drop(self, data: Any) -> None:
        chosen = self.choose(data, State.QUEUED)
        if chosen is not None:
            self.home.move(*chosen, State.DROPPED, Reason.STOPPED, 2.0)

    @rule(data=st.data())
    def take_back(self, data: Any) -> None:
        chosen = self.choose(data, State.QUEUED)
        if chosen is not None:
            self.trail.unmark(*chosen)

    @precondition(lambda self: self.taken is None)
    @rule(pages_max=st.integers(1, 3))
    def begin_record(self, pages_max: int) -> None:
        self.taken = self.trail.take(pages_max)

    @precondition(lambda self: self.taken is not None)
    @rule(works=st.sampled_from([True, True, False]))
    def end_record(self, works: bool) -> None:
        assert self.taken is not None
        if works:
            self.positions += 1
            self.records[self.positions] = self.taken.marks
            self.trail.written(self.taken, self.positions)
        else:
            self.trail.unwritten(self.taken)
            # What leaves now is not covered; nobody claims that it is.
            for mark in self.taken.marks:
                for row in mark.rows[mark.states == State.IN_FLIGHT].tolist():
                    self.uncovered = True
                    self.outside.pop((mark.sequence, row), None)
        self.taken = None

    uncovered = False

    @rule()
    def let_go(self) -> None:
        gone = self.trail.take_final(2)
        pages = [batch.page for batch in gone]
        free = self.trail.take_free()
        for page in pages:
            self.batches.discard(page.batch.address.sequence)
        for position in free:
            del self.records[position]
        self.trail.released(gone)
        for page in pages:
            del self.pages[page.batch.address.sequence]
            for row in range(page.n):
                self.outside.pop((page.batch.address.sequence, row), None)

    def replayed(self) -> dict[tuple[int, int], int]:
        """State by row, as a restart would find it."""
        found: dict[tuple[int, int], int] = {}
        for position in sorted(self.records):
            for mark in self.records[position]:
                if mark.sequence not in self.batches:
                    continue
                for row, state in zip(mark.rows.tolist(), mark.states.tolist(), strict=True):
                    if not IS_FINAL[found.get((mark.sequence, row), 0)] or IS_FINAL[state]:
                        found[mark.sequence, row] = state
        return found

    @invariant()
    def what_is_outside_is_known(self) -> None:
        if self.uncovered:
            return
        found = self.replayed()
        for key in self.outside:
            state = found.get(key, 0)
            assert state == State.IN_FLIGHT or IS_FINAL[state], f"row {key} would be sent again uncounted"

    @invariant()
    def what_is_written_as_final_is_final(self) -> None:
        for (sequence, row), state in self.replayed().items():
            if IS_FINAL[state]:
                page = self.pages[sequence]
                assert IS_FINAL[page.state[row]]

    @invariant()
    def uncertain_rows_fit_their_windows(self) -> None:
        if self.uncovered:
            return
        uncertain = sum(state == State.IN_FLIGHT for state in self.replayed().values())
        assert uncertain <= WINDOW * len(CHANNELS)
        assert 0 <= self.trail.issued_rows() <= WINDOW * len(CHANNELS)

    def teardown(self) -> None:
        """Everything ends: nothing is left of it, neither on the disk nor in the windows."""
        if self.taken is not None:
            self.end_record(True)
        for page in list(self.pages.values()):
            for state in (State.QUEUED, State.IN_FLIGHT):
                rows = np.flatnonzero(page.state == state)
                to = State.DROPPED if state is State.QUEUED else State.FAILED
                self.home.move(page, rows, to, Reason.NONE, 3.0)
        while self.trail.has_dirty:
            taken = self.trail.take(10)
            assert taken is not None
            self.positions += 1
            self.records[self.positions] = taken.marks
            self.trail.written(taken, self.positions)
        while self.trail.has_final:
            self.let_go()
        assert (self.batches, self.records) == (set(), {})
        assert self.trail.issued_rows() == 0


TestTrailAgainstADisk = pytest.mark.hypothesis(TrailAgainstADisk.TestCase)
TestTrailAgainstADisk.settings = settings(stateful_step_count=40)


@pytest.fixture
def trail() -> Trail:
    return Trail(issued_rows_max=4)


@pytest.fixture
def page(trail: Trail) -> LedgerPage:
    page = page_of(home_with(trail))
    trail.follow(page, 10)
    return page


def written(trail: Trail, position: int) -> list[Callable[[], None]]:
    taken = trail.take(100)
    assert taken is not None
    return trail.written(taken, position)


def test_a_page_of_which_nothing_is_marked_has_no_columns_of_its_own(trail: Trail, page: LedgerPage) -> None:
    other = page_of(home_with(trail))
    trail.follow(other, 11)
    assert page.trail is not None
    assert other.trail is not None
    assert np.shares_memory(page.trail.marked, other.trail.dirty)
    trail.unmark(page, np.arange(2))
    assert not page.trail.marked.flags.writeable
    trail.mark(page, np.arange(2), Channel.APNS, silent)
    assert page.trail.marked.any()
    assert not any(column.any() for column in (other.trail.marked, other.trail.is_sure, other.trail.dirty))


def test_a_mark_is_durable_when_its_record_is_and_its_waiter_is_rung(trail: Trail, page: LedgerPage) -> None:
    rung: list[int] = []

    def ring() -> None:
        rung.append(1)

    ticket = trail.mark(page, np.arange(3), Channel.APNS, ring)
    assert trail.is_urgent
    assert not trail.is_durable(ticket)
    for each in written(trail, 11):
        each()
    assert trail.is_durable(ticket)
    assert rung == [1]
    # The same rows again need no record, also while another of the page waits for one.
    assert trail.is_durable(trail.mark(page, np.arange(2), Channel.APNS, ring))
    other = trail.mark(page, np.arange(3, 4), Channel.APNS, ring)
    assert not trail.is_durable(other)
    assert trail.is_durable(trail.mark(page, np.arange(2), Channel.APNS, ring))


def test_rows_of_a_page_that_no_journal_holds_need_no_mark(trail: Trail) -> None:
    page = page_of(home_with(trail))
    assert trail.is_durable(trail.mark(page, np.arange(3), Channel.APNS, silent))
    trail.unmark(page, np.arange(3))
    assert not trail.has_dirty


def test_a_full_window_rings_when_an_outcome_is_durable(trail: Trail, page: LedgerPage) -> None:
    rung: list[int] = []
    trail.mark(page, np.arange(4), Channel.APNS, silent)
    written(trail, 11)
    assert trail.room(0, Channel.APNS, lambda: rung.append(1)) == 0
    # Another channel and another app have windows of their own.
    assert trail.room(0, Channel.FCM, silent) == trail.room(1, Channel.APNS, silent) == 4
    trail.unmark(page, np.arange(2))
    assert trail.room(0, Channel.APNS, silent) == 0
    for each in written(trail, 12):
        each()
    assert rung == [1]
    assert trail.room(0, Channel.APNS, silent) == 2


def test_a_batch_that_ends_before_anything_was_written_costs_its_release_alone(trail: Trail) -> None:
    home = home_with(trail)
    page = page_of(home)
    trail.follow(page, 10)
    home.move(page, np.arange(ROWS), State.DROPPED, Reason.UNKNOWN_DEVICE, 1.0)
    assert not trail.has_dirty
    (gone,) = trail.take_final(10)
    assert gone.page is page
    trail.released([gone])
    assert trail.take_free() == []


def test_records_of_marks_go_after_every_batch_that_they_are_about(trail: Trail) -> None:
    home = home_with(trail)
    first, second = page_of(home), page_of(home)
    for position, page in ((1, first), (2, second)):
        trail.follow(page, position)
        trail.mark(page, np.arange(2), Channel.APNS, silent)
    written(trail, 3)
    for page in (first, second):
        assert trail.take_free() == []
        home.move(page, np.arange(ROWS), State.DROPPED, Reason.STOPPED, 1.0)
        assert trail.take_free() == []
        trail.released(trail.take_final(10))
    assert trail.take_free() == [3]


def test_with_an_archive_a_final_batch_waits_for_it_and_its_outcomes_do_not(trail: Trail) -> None:
    trail.awaits_archive = True
    home = home_with(trail)
    page = page_of(home)
    trail.follow(page, 1)
    trail.mark(page, np.arange(ROWS), Channel.APNS, silent)
    take_and_write(trail, 2)
    home.move(page, np.arange(ROWS), State.IN_FLIGHT, None, 1.0)
    home.move(page, np.arange(ROWS), State.VENDOR_ACCEPTED, Reason.NONE, 1.0)
    assert trail.take_final(10) == []
    # The room in its window comes back with the record, not with the archive.
    assert trail.issued_rows() == ROWS
    take_and_write(trail, 3)
    assert trail.issued_rows() == 0
    trail.archived(page)
    trail.archived(page)
    (gone,) = trail.take_final(10)
    assert (gone.page, gone.trail.position) == (page, 1)
    trail.released([gone])
    assert trail.take_free() == [2, 3]


def test_a_batch_of_held_rows_leaves_with_the_archive_and_what_is_marked_later_stands_alone(trail: Trail) -> None:
    trail.awaits_archive = True
    home = home_with(trail)
    page = page_of(home)
    trail.follow(page, 1)
    home.move(page, np.arange(ROWS), State.HELD, Reason.DEVICE_OFFLINE, 1.0)
    trail.archived(page)
    (batch,) = trail.take_final(10)
    # One goes to its device before the journal has let the batch go.
    trail.mark(page, np.array([2]), Channel.LONG_LINK, silent)
    trail.archived(page)
    assert trail.take_final(10) == []
    trail.released([batch])
    assert trail.has_dirty
    (mark,) = take_and_write(trail, 5).marks
    assert (mark.rows.tolist(), mark.states.tolist()) == ([2], [State.IN_FLIGHT])
    assert trail.take_free() == []
    assert trail.issued_rows() == 1
    home.move(page, np.array([2]), State.IN_FLIGHT, None, 1.0)
    home.move(page, np.array([2]), State.DEVICE_ACKED, Reason.NONE, 1.0)
    trail.archived(page)
    (rest,) = trail.take_final(10)
    assert (rest.trail.position, rest.trail.records) == (NO_POSITION, [5])
    trail.released([rest])
    assert trail.take_free() == [5]
    assert trail.issued_rows() == 0
    # Nothing is left to be let go.
    trail.archived(page)
    assert not trail.has_final


def take_and_write(trail: Trail, position: int) -> Taken:
    taken = trail.take(10)
    assert taken is not None
    trail.written(taken, position)
    return taken
