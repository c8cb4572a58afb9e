"""ForeignMarks: rows of other holders leave when the home's journal has their marks, within one window over all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch
from gateway.columns import Rows
from gateway.content import Variant
from gateway.core.foreign_marks import Answered, ForeignMarks
from gateway.core.trail import Trail
from gateway.ledger import Channel, LedgerPage, State
from gateway.message_id import BatchAddress

WINDOW = 5
LANE = Channel.APNS


class Home:
    """A journal whose records become durable when the test says so. held: rows that a worker still has announced."""

    def __init__(self, issued_rows_max: int = WINDOW) -> None:
        self.trail = Trail(issued_rows_max=issued_rows_max)
        self.marks = ForeignMarks(self.trail, self.still)
        self.held: dict[tuple[int, int], set[int]] = {}
        self.position = 0

    def page(self, n: int, sequence: int = 0, *, is_followed: bool = True) -> LedgerPage:
        batch = Batch(
            BatchAddress(1, 0, sequence),
            0,
            0.0,
            n,
            device_ids=np.zeros((n, 16), np.uint8),
            variants=[Variant("t", "b")],
        )
        page = LedgerPage(batch)
        page.channel[:] = LANE
        if is_followed:
            self.trail.follow(page, sequence)
        return page

    def still(self, page: LedgerPage, rows: Rows, worker: int) -> Rows:
        held = self.held.get((page.batch.address.sequence, worker), set())
        return np.array([row for row in rows.tolist() if row in held], np.intp)

    def announce(self, page: LedgerPage, rows: list[int], worker: int, number: int, channel: Channel = LANE) -> None:
        self.held.setdefault((page.batch.address.sequence, worker), set()).update(rows)
        at = np.array(rows, np.intp)
        page.channel[at] = channel
        self.marks.announced(worker, number, page, at)

    def write(self) -> int:
        """The next record is durable; rows in it that it calls issued."""
        taken = self.trail.take(100)
        assert taken is not None
        self.position += 1
        issued = taken.issued_rows
        for ring in self.trail.written(taken, self.position):
            ring()
        return issued

    def end(self, page: LedgerPage, rows: list[int]) -> None:
        at = np.array(rows, np.intp)
        page.move(at, State.IN_FLIGHT, None)
        page.move(at, State.VENDOR_ACCEPTED, None)
        self.trail.moved(page, at, State.VENDOR_ACCEPTED)


def test_a_number_is_answered_when_the_record_of_its_marks_is_durable_and_not_before() -> None:
    home = Home()
    page = home.page(4)
    home.announce(page, [1, 3], worker=2, number=7)
    assert home.marks.advance() == []
    assert home.write() == 2
    assert home.marks.advance() == [Answered(2, 7)]
    assert home.marks.advance() == []


def test_rows_wait_where_their_window_has_no_room_whoever_holds_the_others() -> None:
    home = Home()
    page = home.page(12)
    home.announce(page, [0, 1, 2], worker=1, number=1)
    home.announce(page, [4, 5, 6], worker=2, number=1)
    home.announce(page, [8], worker=3, number=1)
    home.write()
    # Two of the second fit and are marked; it is answered for all of its rows, and the third waits behind it.
    assert home.marks.advance() == [Answered(1, 1)]
    assert home.trail.issued_rows() == WINDOW
    home.end(page, [0, 1])
    # Room comes back when the outcome is durable.
    assert home.marks.advance() == []
    home.write()
    assert home.marks.advance() == []
    home.write()
    assert home.marks.advance() == [Answered(2, 1), Answered(3, 1)]
    assert home.trail.issued_rows() == WINDOW


def test_a_row_that_ended_while_it_waited_for_room_is_left_out() -> None:
    home = Home(2)
    page = home.page(6)
    home.announce(page, [0, 1], worker=1, number=1)
    home.announce(page, [2, 3], worker=1, number=2)
    home.write()
    assert home.marks.advance() == [Answered(1, 1)]
    home.held[0, 1] -= {2, 3}
    home.end(page, [0])
    home.write()
    # Nothing of it is marked, and its holder need not wait.
    assert home.marks.advance() == [Answered(1, 2)]
    assert home.trail.issued_rows() == 1


def test_what_a_dead_worker_announced_is_not_marked_any_more() -> None:
    home = Home(1)
    page = home.page(6)
    for worker in (1, 2, 3):
        home.announce(page, [worker], worker=worker, number=1)
    home.marks.forget(2)
    home.end(page, [1])
    home.write()
    home.write() if home.trail.has_dirty else None
    assert home.marks.advance() == [Answered(1, 1)]
    home.write()
    assert home.marks.advance() == [Answered(3, 1)]


def test_a_page_without_a_journal_is_answered_for_at_once() -> None:
    home = Home()
    home.announce(home.page(3, is_followed=False), [0, 1], worker=1, number=4)
    home.marks.answer(1, 5)
    assert home.marks.advance() == [Answered(1, 4), Answered(1, 5)]
    alone = ForeignMarks(None, home.still)
    alone.announced(1, 6, home.page(1, 9, is_followed=False), np.array([0]))
    assert alone.advance() == [Answered(1, 6)]


def test_a_row_that_was_marked_so_before_needs_no_record_and_no_room() -> None:
    home = Home(2)
    page = home.page(4)
    home.announce(page, [0, 1], worker=1, number=1)
    home.write()
    assert home.marks.advance() == [Answered(1, 1)]
    # A home that comes back remembers its marks; its holder announces all of its rows anew.
    home.announce(page, [0, 1], worker=1, number=2)
    assert home.marks.advance() == [Answered(1, 2)]
    assert not home.trail.has_dirty


@given(st.data())
def test_no_window_is_exceeded_and_every_number_is_answered_once_whatever_happens(data: Any) -> None:
    home = Home()
    pages = [home.page(30, sequence) for sequence in range(2)]
    free = {(place, row) for place in range(2) for row in range(30)}
    out: list[tuple[int, int]] = []
    asked: list[Answered] = []
    answered: list[Answered] = []
    for number in range(1, data.draw(st.integers(1, 12)) + 1):
        place = data.draw(st.integers(0, 1))
        rows = sorted(row for at, row in free if at == place)[: data.draw(st.integers(1, WINDOW))]
        if rows:
            free -= {(place, row) for row in rows}
            out += [(place, row) for row in rows]
            worker = data.draw(st.integers(1, 3))
            asked.append(Answered(worker, number))
            home.announce(pages[place], rows, worker, number)
        if data.draw(st.booleans()) and home.trail.has_dirty:
            home.write()
        answered += home.marks.advance()
        assert home.trail.issued_rows() <= WINDOW
        if data.draw(st.booleans()):
            _end_marked(home, pages, out, data.draw(st.integers(0, 5)))
    while out or home.trail.has_dirty:
        before = len(out), home.trail.has_dirty
        _end_marked(home, pages, out, 30)
        if home.trail.has_dirty:
            home.write()
        answered += home.marks.advance()
        assert home.trail.issued_rows() <= WINDOW
        assert (len(out), home.trail.has_dirty) != before or home.trail.has_dirty
    assert sorted(answered) == sorted(asked)


def _end_marked(home: Home, pages: list[LedgerPage], out: list[tuple[int, int]], n: int) -> None:
    """Up to n rows that are marked end at their holder."""
    for place, row in [one for one in out if pages[one[0]].trail.marked[one[1]]][:n]:  # type: ignore[union-attr]
        home.end(pages[place], [row])
        out.remove((place, row))
        for held in home.held.values():
            held.discard(-1)


@pytest.mark.parametrize("channel", [Channel.APNS, Channel.LONG_LINK])
def test_a_report_of_two_channels_waits_for_both(channel: Channel) -> None:
    home = Home(1)
    page = home.page(4)
    home.announce(page, [3], worker=2, number=1, channel=channel)
    home.write()
    assert home.marks.advance() == [Answered(2, 1)]
    rows, channels = np.array([0, 1]), np.array([Channel.LONG_LINK, Channel.APNS], np.uint8)
    page.channel[rows] = channels
    home.held[0, 1] = {0, 1}
    home.marks.announced(1, 9, page, rows)
    home.write()
    assert home.marks.advance() == []
    home.end(page, [3])
    home.write()
    home.marks.advance()
    home.write()
    assert home.marks.advance() == [Answered(1, 9)]


def test_home_that_ends_lets_no_row_leave_any_more() -> None:
    """Neither those that ask from then on, nor those that wait for room: nobody would hear what became of them."""
    home = Home()
    page = home.page(10)
    home.announce(page, [0, 1, 2, 3, 4], worker=1, number=1)
    home.announce(page, [5, 6], worker=2, number=2)
    home.write()
    assert home.marks.advance() == [Answered(1, 1)]
    home.end(page, [0, 1, 2, 3, 4])
    home.marks.close()
    home.announce(page, [7], worker=1, number=3)
    home.write()
    assert home.marks.advance() == []
    assert home.trail.issued_rows() == 0
