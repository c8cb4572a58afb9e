"""ReceiptNotes: who told of receipts hears once, when they are durable; and at a start they do again what they did."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch
from gateway.content import Variant
from gateway.core.home import Home
from gateway.core.options import AppDefaults, compile_options
from gateway.core.receipt_notes import ReceiptNotes
from gateway.core.receipt_reports import RECEIPTS, add_flags
from gateway.core.recovery import recover, resend_table
from gateway.core.trail import Trail
from gateway.ledger import FINAL_STATES, Channel, Flag, LedgerPage, Reason, Receipt, State
from gateway.marks import RowMarks
from gateway.page_history import RowNotes
from gateway.receipts import Event
from gateway.store.receipt_records import decode_receipts, encode_receipts

N = 6
STATES = [State.IN_FLIGHT, State.WAITING, State.VENDOR_ACCEPTED, State.FAILED, State.UNCERTAIN, State.DEVICE_ACKED]
HEARD = [event for event in Event if event < Event.PENDING]


class Silence:
    def moved(self, *told: object) -> None: ...

    def finished(self, *told: object) -> None: ...

    def receipts_rose(self, *told: object) -> None: ...


class World:
    """A home whose app 0 is on the disk, and what its journal is told."""

    def __init__(self) -> None:
        self.home = Home(
            secret=b"a secret of sixteen",
            journal=1,
            observer=Silence(),
            ledger_bytes_max=1 << 30,
            rows_open_max=1 << 30,
            change_rows_max=1000,
            now=0.0,
        )
        self.home.trail = Trail(issued_rows_max=100)
        self.notes = ReceiptNotes([0])
        self.home.on_heard = self.notes.note
        self.told: list[tuple[str, bool]] = []

    def open(self, app: int = 0) -> LedgerPage:
        ids = np.zeros((N, 16), np.uint8)
        address = self.home.next_address(1_800_000_000_000, 0.0)
        page = self.home.open(Batch(address, app, 0.0, N, device_ids=ids, variants=[Variant("t", "b")]), 0.0)
        assert self.home.trail is not None
        if not app:
            self.home.trail.follow(page, 1)
        return page

    def hear(self, page: LedgerPage, row: int, event: Event) -> None:
        rows = np.array([row])
        add_flags(self.home, page, rows, np.array([event], np.uint8), 1.0)
        self.home.raise_receipts(page, rows, Receipt(int(RECEIPTS[event])), 1.0)

    def wait(self, name: str) -> None:
        self.notes.wait(lambda is_durable: self.told.append((name, is_durable)))


def test_everybody_who_told_before_a_record_was_taken_hears_when_it_is_durable_and_nobody_else() -> None:
    world = World()
    page, other = world.open(), world.open(app=1)
    world.wait("nothing")
    world.hear(other, 0, Event.CLICKED)
    world.wait("in memory")
    assert world.told == [("nothing", True), ("in memory", True)]
    world.hear(page, 0, Event.CLICKED)
    world.hear(page, 1, Event.TOKEN_DEAD)
    world.wait("first")
    assert world.notes.is_awaited
    taken = world.notes.take()
    assert taken is not None
    # The same again, which is being written; and something new.
    world.hear(page, 0, Event.CLICKED)
    world.wait("again")
    world.hear(page, 0, Event.DELIVERED)
    world.wait("second")
    assert world.told[2:] == []
    world.notes.written(taken, 7)
    assert world.told[2:] == [("first", True), ("again", True)]
    taken = world.notes.take()
    assert taken is not None
    assert taken.notes[0].kinds.tolist() == [Event.DELIVERED]
    world.notes.unwritten(taken)
    assert world.told[4:] == [("second", False)]
    # It is tried again.
    taken = world.notes.take()
    assert taken is not None
    world.notes.written(taken, 8)
    assert world.notes.take() is None
    world.wait("at last")
    assert world.told[5:] == [("at last", True)]


def test_records_go_when_all_their_pages_are_kept_elsewhere_and_not_before() -> None:
    world = World()
    world.notes.has_archive = True
    pages = [world.open(), world.open()]
    for page in pages:
        world.hear(page, 0, Event.DELIVERED)
    taken = world.notes.take()
    assert taken is not None
    world.notes.written(taken, 7)
    world.hear(pages[0], 1, Event.DELIVERED)
    taken = world.notes.take()
    assert taken is not None
    # The archive got it while the record was written: nobody needs the record.
    pages[0].saved = pages[0].changes
    world.notes.archived(pages[0])
    world.notes.written(taken, 8)
    assert world.notes.take_free() == [8]
    world.notes.archived(pages[0])
    assert world.notes.take_free() == []
    world.notes.archived(pages[1])
    assert world.notes.take_free() == [7]


marks = st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from([Channel.LONG_LINK, Channel.HUAWEI])), max_size=N)
events = st.lists(st.tuples(st.integers(0, N - 1), st.sampled_from(HEARD)), max_size=10)


@pytest.mark.hypothesis
@given(marks, events, st.booleans())
def test_after_a_start_rows_are_as_a_plain_reading_of_marks_and_receipts_says(
    marked: list[tuple[State, Channel]], heard: list[tuple[int, Event]], resends: bool
) -> None:
    before = World()
    page = before.open()
    page.channel[: len(marked)] = [channel for _, channel in marked]
    for row, event in heard:
        page.hear(np.array([row]), np.array([event], np.uint8), 1.0)
    notes: list[RowNotes] = []
    if page.history is not None:
        before.notes.note(page)
        taken = before.notes.take()
        assert taken is not None
        notes = decode_receipts(b"".join(encode_receipts(taken.notes).buffers))
    after = World()
    again = after.open()
    k = len(marked)
    mark = RowMarks(
        0,
        np.arange(k, dtype=np.uint16),
        np.array([state for state, _ in marked], np.uint8),
        np.full(k, Reason.FALLBACK, np.uint8),
        np.array([channel for _, channel in marked], np.uint8),
        np.zeros(k, np.uint8),
    )
    options = compile_options(again.batch, AppDefaults())
    table = resend_table(system=resends, marketing=resends)
    recover(after.home, again, [mark] if k else [], options, table, 10.0, notes=notes)
    for row in range(N):
        mine = [event for one, event in heard if one == row]
        highest = max((int(RECEIPTS[event]) for event in mine), default=0)
        state, channel = marked[row] if row < k else (State.QUEUED, Channel.NONE)
        on_link = channel is Channel.LONG_LINK
        if state is State.IN_FLIGHT:
            goes_again = on_link or (resends and not mine)
            assert bool(again.flags[row] & Flag.RESENT_UNCERTAIN) == goes_again
            state = State.QUEUED if goes_again else State.UNCERTAIN
        if state is State.UNCERTAIN and mine:
            state = State.VENDOR_ACCEPTED
        if state not in FINAL_STATES and highest:
            state = State.DEVICE_ACKED if on_link else State.VENDOR_ACCEPTED
        assert again.state[row] == state
        assert again.receipt[row] == max(highest, 1 if state is State.DEVICE_ACKED else 0)
        past = [] if again.history is None else again.history.of_row(row)
        assert past == ([] if page.history is None else page.history.of_row(row))
    assert again.counts.tolist() == np.bincount(again.state, minlength=len(State)).tolist()
    assert after.home.rows_not_conserved() == 0
    # What an earlier process wrote is not written again.
    assert again.history is None or again.history.written == again.history.n
