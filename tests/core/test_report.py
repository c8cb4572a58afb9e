"""Reports over ledger pages, against looking at each row."""

from __future__ import annotations

from collections.abc import Generator

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gateway.batch import Batch, TaskSegment
from gateway.content import Variant
from gateway.core import report
from gateway.core.home import Home
from gateway.core.report import Hop, RowsSeen, rows_of_device, see_rows, select_rows, source_rows, sum_task, trace_row
from gateway.ledger import FINAL_STATES, NO_VERDICT, Burst, Channel, Flag, LedgerPage, Reason, Receipt, State
from gateway.message_id import BatchAddress, to_text
from gateway.page_history import Kind
from gateway.verdict import Verdict

BORN = 500.0
TASK = b"t" * 16


def page_of(n: int, *, born: float = BORN, ids: np.ndarray | None = None, **columns: object) -> LedgerPage:
    ids = np.zeros((n, 16), np.uint8) if ids is None else ids
    address = BatchAddress(1_700_000_000_000, 0, 0)
    return LedgerPage(
        Batch(address, 0, born, n, device_ids=ids, message_ids=ids, variants=[Variant("t", "b")], **columns)  # type: ignore[arg-type]
    )


def never(_start: float, _stop: float) -> bool:
    return False


row_facts = st.tuples(
    st.sampled_from(list(State)),
    st.sampled_from(list(Channel)),
    st.sampled_from(list(Reason)),
    st.sampled_from(list(Receipt)),
    st.sampled_from([0, Flag.WAITED_OFFLINE, Flag.HANDED_OVER, Flag.HANDED_OVER | Flag.WAITED_OFFLINE, Flag.TRUNCATED]),
    st.integers(1, 5000),
)


def write(page: LedgerPage, facts: list[tuple]) -> None:
    """Rows as they might stand: a report only reads."""
    for row, (state, channel, reason, receipt, flags, ms) in enumerate(facts):
        page.state[row], page.channel[row], page.reason[row] = state, channel, reason
        page.receipt[row], page.flags[row] = receipt, flags
        page.final_ms[row] = ms if state in FINAL_STATES else 0


class PlainMoves:
    """Moves of the clock as `DevelopmentClock.moved_between` answers for them."""

    def __init__(self, moves: list[tuple[float, float]]) -> None:
        self.moves = moves

    def __call__(self, start: float, stop: float) -> bool:
        return any(start <= before and after <= stop for before, after in self.moves)


@given(
    st.lists(st.tuples(st.lists(row_facts, min_size=1, max_size=12), st.data()), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=3),
)
def test_the_sums_of_a_task_agree_with_counting_row_by_row(pages: list, moves: list) -> None:
    moved = PlainMoves([(BORN + at, BORN + at + by + 0.0004) for at, by in moves])
    slices, rows = [], []
    for facts, data in pages:
        page = page_of(len(facts))
        write(page, facts)
        first = data.draw(st.integers(0, page.n - 1))
        n = data.draw(st.integers(1, page.n - first))
        page.n_routed = data.draw(st.integers(0, page.n))
        slices.append((page, TaskSegment(TASK, first, n)))
        rows += facts[first : first + n]
    sums = sum_task(slices, moved)
    assert sums.rows == len(rows)
    assert sums.states.tolist() == [sum(row[0] is state for row in rows) for state in State]
    assert sums.by_channel.tolist() == [
        [sum(row[0] is state and row[1] is channel for row in rows) for state in State] for channel in Channel
    ]
    assert {Reason(code): count for code, count in enumerate(sums.reasons.tolist()) if count} == {
        reason: count for reason in Reason if (count := sum(row[2] is reason for row in rows))
    }
    assert sums.receipts.tolist() == [sum(row[3] is receipt for row in rows) for receipt in Receipt]
    assert sums.handed_over == sum(bool(row[4] & Flag.HANDED_OVER) for row in rows)
    assert sums.is_routed == all(page.n_routed >= segment.first + segment.n for page, segment in slices)
    assert sums.submitted_unix_ms == 1_700_000_000_000
    good = [row for row in rows if row[0] in (State.DEVICE_ACKED, State.VENDOR_ACCEPTED)]
    waited = [row for row in good if row[4] & Flag.WAITED_OFFLINE]
    assert sums.n_waited == len(waited)
    rest = [row for row in good if not row[4] & Flag.WAITED_OFFLINE]
    # A stage time is cut to whole milliseconds: the move lies before it if it ended within that millisecond.
    was_moved = [row for row in rest if moved(BORN, BORN + (row[5] + 1) / 1000)]
    assert sums.n_moved == len(was_moved)
    measured: dict[Channel, list[int]] = {}
    for row in rest:
        if row not in was_moved:
            measured.setdefault(row[1], []).append(row[5])
    assert {channel: times.tolist() for channel, times in sums.latencies_ms.items()} == measured


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=2),
)
def test_rows_during_whose_life_the_clock_was_moved_are_no_latencies(times: list[int], moves: list) -> None:
    moved = PlainMoves([(BORN + at, BORN + at + by) for at, by in moves])
    page = page_of(len(times))
    page.move(np.arange(page.n), State.DEVICE_ACKED)
    page.final_ms[:] = [1000 * at + 500 for at in times]
    sums = sum_task([(page, TaskSegment(TASK, 0, page.n))], moved)
    kept = [1000 * at + 500 for at in times if not moved(BORN, BORN + at + 0.5)]
    assert sums.n_moved == len(times) - len(kept)
    assert [at for column in sums.latencies_ms.values() for at in column.tolist()] == kept


def test_no_slices_sum_to_nothing() -> None:
    sums = sum_task([], never)
    assert (sums.rows, sums.is_routed, sums.latencies_ms, sums.submitted_unix_ms) == (0, True, {}, 0)


def test_a_row_that_ends_in_the_millisecond_of_a_move_is_no_latency() -> None:
    page = page_of(1)
    moves = PlainMoves([(BORN + 1.0, BORN + 3601.0002)])
    page.move(np.array([0]), State.DEVICE_ACKED)
    page.channel[:] = Channel.LONG_LINK
    page.final_ms[:] = page.stamp(BORN + 3601.0009)
    sums = sum_task([(page, TaskSegment(TASK, 0, 1))], moves)
    assert (sums.n_moved, sums.latencies_ms) == (1, {})


@given(
    st.lists(row_facts, min_size=1, max_size=15),
    st.none() | st.frozensets(st.sampled_from([int(state) for state in State])),
    st.none() | st.frozensets(st.sampled_from([int(reason) for reason in Reason])),
    st.data(),
)
def test_selected_rows_agree_with_looking_at_each(
    facts: list, states: frozenset[int] | None, reasons: frozenset[int] | None, data: st.DataObject
) -> None:
    page = page_of(len(facts))
    write(page, facts)
    first = data.draw(st.integers(0, page.n - 1))
    segment = TaskSegment(TASK, first, data.draw(st.integers(1, page.n - first)))
    start = data.draw(st.integers(0, segment.n))
    expected = [
        row
        for row in range(segment.first + start, segment.first + segment.n)
        if (states is None or facts[row][0] in states) and (reasons is None or facts[row][2] in reasons)
    ]
    assert select_rows(page, segment, start, states=states, reasons=reasons).tolist() == expected


@pytest.mark.parametrize(("column", "expected"), [(None, [2, 0]), ([9, 8, 7, 6, 5], [5, 7])])
def test_source_rows_are_places_in_the_submit_as_sent(column: list[int] | None, expected: list[int]) -> None:
    page = page_of(5, source_rows=None if column is None else np.array(column, np.uint32))
    found = source_rows(page, TaskSegment(TASK, 2, 3), np.array([4, 2]))
    assert (found.dtype, found.tolist()) == (np.uint32, expected)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.integers(0, 20), st.none() | st.integers(0, 20))
def test_rows_of_a_device_agree_with_comparing_each(owners: list[int], first: int, stop: int | None) -> None:
    # Ids that share one half, so that both are looked at.
    known = [b"a" * 16, b"a" * 8 + b"b" * 8, b"b" * 8 + b"a" * 8]
    ids = np.frombuffer(b"".join(known[owner] for owner in owners), np.uint8).reshape(-1, 16)
    page = page_of(len(owners), ids=ids)
    for owner, device_id in enumerate(known):
        expected = [row for row in range(len(owners))[first:stop] if owners[row] == owner]
        assert rows_of_device(page, device_id, first, stop).tolist() == expected


# Trace


def burst_of(rows: list[int], attempt: int, issued: float, answered_ms: int, verdict: int, name: str = "") -> Burst:
    k = len(rows)
    verdicts = np.full(k, NO_VERDICT, np.uint8)
    answered = np.zeros(k, np.uint32)
    verdicts[-1], answered[-1] = verdict, answered_ms
    names = {k - 1: name} if name else {}
    column = np.array(rows, np.uint16)
    return Burst(7, attempt, Channel.APNS, 42, column, issued, answered, verdicts, names)


def test_the_trace_of_a_fresh_row_ends_with_where_it_is() -> None:
    page = page_of(2)
    assert trace_row(page, 1) == [Hop(0, "submitted"), Hop(0, "state", state=State.QUEUED)]


def test_the_trace_of_a_retried_row_tells_each_attempt_in_order() -> None:
    page = page_of(3)
    page.routed_ms[:] = 2
    page.bursts = [
        burst_of([0, 2], 1, BORN + 1 / 64, 15, Verdict.UNAVAILABLE, "InternalServerError"),
        burst_of([0, 1], 1, BORN + 1 / 32, 9, Verdict.ACCEPTED),
        burst_of([2], 2, BORN + 2.5, 20, Verdict.ACCEPTED),
    ]
    page.move(np.array([2]), State.IN_FLIGHT)
    page.move(np.array([2]), State.VENDOR_ACCEPTED)
    page.channel[2] = Channel.APNS
    page.final_ms[2] = 2520
    page.receipt[2] = Receipt.DELIVERED
    page.batch.message_ids[2] = 7
    page.hear(np.array([2]), Kind.DELIVERED, BORN + 4)
    page.flags[2] = Flag.TRUNCATED | Flag.HANDED_OVER
    apns, its_id = (Channel.APNS, 42), to_text(bytes([7]) * 16)
    assert trace_row(page, 2) == [
        Hop(0, "submitted"),
        Hop(2, "routed"),
        Hop(15, "issued", *apns, 1),
        Hop(30, "answered", *apns, 1, Verdict.UNAVAILABLE, "InternalServerError", request=its_id),
        Hop(2500, "issued", *apns, 2),
        Hop(2520, "answered", *apns, 2, Verdict.ACCEPTED, request=its_id),
        Hop(2520, "state", Channel.APNS, state=State.VENDOR_ACCEPTED, text="truncated, handed_over"),
        # Long after its state.
        Hop(4000, "receipt", Channel.APNS, receipt=Receipt.DELIVERED),
    ]
    # Not answered yet: the attempt stands there without an answer.
    assert [hop.what for hop in trace_row(page, 0)] == ["submitted", "routed", "issued", "issued", "state"]


def test_the_trace_of_the_long_link_tells_when_the_socket_took_the_row() -> None:
    page = page_of(1)
    page.routed_ms[:] = 1
    page.channel[:] = Channel.LONG_LINK
    page.move(np.array([0]), State.IN_FLIGHT)
    page.issued_ms[:] = 3
    page.attempts[:] = 2
    page.move(np.array([0]), State.DEVICE_ACKED)
    page.final_ms[:] = 8
    assert trace_row(page, 0) == [
        Hop(0, "submitted"),
        Hop(1, "routed"),
        Hop(3, "sent to the device", Channel.LONG_LINK, attempt=2),
        Hop(8, "state", Channel.LONG_LINK, state=State.DEVICE_ACKED),
        Hop(8, "receipt", Channel.LONG_LINK, receipt=Receipt.DELIVERED),
    ]


def test_the_trace_tells_each_receipt_with_its_time_and_what_was_tried_before() -> None:
    page = page_of(1)
    row = np.array([0])
    page.channel[:] = Channel.LONG_LINK
    page.issued_ms[:] = 2
    page.left_link(row, BORN + 1)
    page.channel[:] = Channel.HUAWEI
    page.fell_back(row, BORN + 2)
    page.channel[:] = Channel.ALIYUN_SMS
    page.move(row, State.IN_FLIGHT)
    page.move(row, State.VENDOR_ACCEPTED)
    page.final_ms[:] = 2100
    page.receipt[:] = Receipt.CLICKED
    # Out of order, and one of them again.
    for kind, at in ((Kind.CLICKED, 3), (Kind.DELIVERED, 4), (Kind.CLICKED, 5), (Kind.NOTIFICATIONS_CLOSED, 6)):
        page.hear(row, kind, BORN + at)
    sms = Channel.ALIYUN_SMS
    assert trace_row(page, 0) == [
        Hop(0, "submitted"),
        Hop(2, "sent to the device", Channel.LONG_LINK),
        Hop(1000, "handed over", Channel.LONG_LINK),
        Hop(2000, "fell back", Channel.HUAWEI),
        Hop(2100, "state", sms, state=State.VENDOR_ACCEPTED),
        Hop(3000, "receipt", sms, receipt=Receipt.CLICKED),
        Hop(4000, "receipt", sms, receipt=Receipt.DELIVERED),
        Hop(6000, "receipt", sms, text="notifications_closed"),
    ]


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 500), st.sampled_from(list(Verdict))), max_size=5))
def test_the_hops_of_a_trace_are_in_order_of_time(attempts: list[tuple[int, int, Verdict]]) -> None:
    page = page_of(1)
    page.bursts = [
        burst_of([0], number + 1, BORN + ms / 1000, answered, verdict)
        for number, (ms, answered, verdict) in enumerate(attempts)
    ]
    hops = trace_row(page, 0)
    times = [hop.at_ms for hop in hops]
    assert times == sorted(times)
    assert [hop.what for hop in hops].count("answered") == len(attempts)
    assert hops[-1].what == "state"


# All open rows, a few pages at a time


class Silence:
    """An observer that looks away."""

    def moved(self, *told: object) -> None: ...

    def finished(self, *told: object) -> None: ...

    def receipts_rose(self, *told: object) -> None: ...


def home_with(pages: list[int]) -> tuple[Home, list[LedgerPage]]:
    """A home with pages of so many rows."""
    wide = 1 << 30
    home = Home(
        secret=bytes(32),
        journal=0,
        observer=Silence(),
        now=0.0,
        ledger_bytes_max=wide,
        rows_open_max=wide,
        change_rows_max=wide,
    )
    made = []
    for n in pages:
        made.append(open_page(home, n))
    return home, made


def open_page(home: Home, n: int) -> LedgerPage:
    ids = np.zeros((n, 16), np.uint8)
    address = home.next_address(1, 0.0)
    return home.open(Batch(address, 0, 0.0, n, device_ids=ids, message_ids=ids, variants=[Variant("t", "b")]), 0.0)


def look(home: Home, begun: Generator[None, None, RowsSeen] | None = None) -> tuple[RowsSeen, int]:
    """What is seen, and in how many steps."""
    seeing, steps = begun or see_rows(home), 1
    while True:
        try:
            next(seeing)
        except StopIteration as end:
            return end.value, steps
        steps += 1


@given(st.lists(st.lists(st.sampled_from([None, State.HELD, State.WAITING, State.EXPIRED]), min_size=1), max_size=8))
def test_open_rows_of_all_pages_agree_with_counting_row_by_row(states: list[list[State | None]]) -> None:
    home, pages = home_with([len(each) for each in states])
    for page, wanted in zip(pages, states, strict=True):
        for row, state in enumerate(wanted):
            if state is not None:
                home.move(page, np.array([row]), state, Reason.DEVICE_OFFLINE, 1.0)
    seen, _ = look(home)
    flat = [state for each in states for state in each]
    assert seen == RowsSeen([flat.count(None), flat.count(State.HELD), 0, flat.count(State.WAITING)], 0)


def test_rows_are_looked_at_a_few_pages_at_a_time_and_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_SEEN_PAGES", 2)
    home, pages = home_with([3] * 5)
    assert look(home) == (RowsSeen([15, 0, 0, 0], 0), 3)
    pages[0].state[1] = State.FAILED
    assert look(home)[0] == RowsSeen([15, 0, 0, 0], 1)
    home.rows_open += 10
    assert look(home)[0] == RowsSeen([15, 0, 0, 0], 11)
    monkeypatch.setattr(report, "_SEEN_PAGES", 100)
    monkeypatch.setattr(report, "_SEEN_ROWS", 5)
    assert look(home)[1] == 3


@pytest.mark.parametrize("change", ["ended", "opened"])
def test_rows_that_move_between_two_steps_are_no_fault(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(report, "_SEEN_PAGES", 1)
    home, pages = home_with([2, 2])
    seeing = see_rows(home)
    next(seeing)
    if change == "ended":
        home.move(pages[0], np.arange(2), State.EXPIRED, Reason.TTL_PASSED, 1.0)
    else:
        open_page(home, 1)
    assert look(home, seeing)[0].not_conserved is None
    assert look(home)[0].not_conserved == 0
