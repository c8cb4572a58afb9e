"""Home one rule at a time: addresses, tasks, eviction, expiry, cursors. Its laws are in test_home_laws.py."""

from __future__ import annotations

import gc
import itertools
import math
import weakref

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gateway import message_id
from gateway.batch import Batch, TaskSegment
from gateway.columns import TextColumn
from gateway.content import TTL_S_MAX, Variant
from gateway.core.home import Home, mark, row_tags, split_by_sequence
from gateway.core.lifetimes import NOW_OR_NEVER_S, expiry_reasons, row_deadlines, seconds_left
from gateway.errors import Overloaded
from gateway.ledger import Flag, LedgerPage, Reason, Receipt, State
from gateway.message_id import TASK_DOMAIN, BatchAddress, RowAddress

SECRET = bytes(range(32))
UNIX_MS = 1_700_000_000_000
JOURNAL = 6


class Silence:
    """An observer that looks away: what the home tells is held against the model in test_home_laws.py."""

    def moved(self, *told: object) -> None: ...

    def finished(self, *told: object) -> None: ...

    def receipts_rose(self, *told: object) -> None: ...


def home_of(**limits: int) -> Home:
    wide = {"ledger_bytes_max": 1 << 30, "rows_open_max": 1 << 30, "change_rows_max": 1 << 30}
    return Home(secret=SECRET, journal=JOURNAL, observer=Silence(), now=0.0, **{**wide, **limits})


def batch_of(
    home: Home, n: int, *, born: float = 0.0, ttls: tuple[int, ...] = (7200,), segments: tuple = (), **columns: object
) -> Batch:
    address = home.next_address(UNIX_MS + int(born * 1000), born)
    ids = np.random.default_rng(n).integers(0, 256, (n, 16), np.uint8)
    variants = [Variant("t", "b", ttl_s=ttl) for ttl in ttls]
    zeros = np.zeros((n, 16), np.uint8)
    return Batch(
        address, 0, born, n, device_ids=ids, message_ids=zeros, variants=variants, segments=segments, **columns
    )  # type: ignore[arg-type]


def rows_of(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def finish(home: Home, page: LedgerPage, now: float = 1.0, rows: np.ndarray | None = None) -> None:
    home.move(page, np.arange(page.n) if rows is None else rows, State.FAILED, Reason.REJECTED_BY_VENDOR, now)


def lifetime(ttl_s: int) -> float:
    return ttl_s if ttl_s else NOW_OR_NEVER_S


# Addresses


@given(st.lists(st.integers(0, 100), max_size=20))
def test_the_time_of_addresses_never_goes_back(times: list[int]) -> None:
    home = home_of()
    addresses = [home.next_address(at, 0.0) for at in times]
    assert [address.unix_ms for address in addresses] == list(itertools.accumulate(times, max))
    assert [address.sequence for address in addresses] == list(range(len(times)))
    assert {address.journal for address in addresses} <= {JOURNAL}


def test_sequences_start_again_and_pass_over_a_page_that_is_still_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_id, "SEQUENCES_MAX", 8)
    home = home_of(ledger_bytes_max=1, change_rows_max=1)
    slow = home.open(batch_of(home, 2), 0.0)
    for now in range(0, 40, 2):
        batch = batch_of(home, 1, born=float(now), ttls=(1,))
        assert batch.address.sequence != slow.batch.address.sequence
        finish(home, home.open(batch, float(now)))
        assert list(home.due(now + 1.5)) == []
    assert home.page(slow.batch.address.sequence) is slow
    assert home.rows_open == 2


@given(st.integers(1, 40))
def test_message_ids_lead_to_page_and_row(n: int) -> None:
    home = home_of()
    page = home.open(batch_of(home, n), 0.0)
    for row in range(n):
        identifier = page.batch.message_ids[row].tobytes()
        assert home.find_row(identifier) == (page, row)
        assert identifier == message_id.encode(SECRET, RowAddress(page.batch.address, row))


def test_an_id_of_elsewhere_finds_nothing() -> None:
    home = home_of()
    page = home.open(batch_of(home, 3), 0.0)
    address = page.batch.address
    encode = message_id.encode
    for identifier in (
        bytes(16),
        b"",
        encode(SECRET, RowAddress(address, 3)),
        encode(SECRET, RowAddress(address._replace(journal=JOURNAL + 1), 0)),
        encode(SECRET, RowAddress(address._replace(sequence=99), 0)),
        encode(SECRET, RowAddress(address._replace(unix_ms=address.unix_ms + 1), 0)),
        encode(bytes(32), RowAddress(address, 0)),
        encode(SECRET, RowAddress(address, 0), TASK_DOMAIN),
    ):
        assert home.find_row(identifier) is None
    assert home.find_task(encode(SECRET, RowAddress(address, 0))) == []


# Tasks


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30))
def test_each_task_of_a_batch_finds_its_own_segment(sizes: list[int]) -> None:
    home = home_of()
    batch = batch_of(home, sum(sizes))
    firsts = [0, *itertools.accumulate(sizes)]
    batch.segments = [
        TaskSegment(message_id.encode(SECRET, RowAddress(batch.address, first), TASK_DOMAIN), first, n)
        for first, n in zip(firsts, sizes, strict=False)
    ]
    page = home.open(batch, 0.0)
    for segment in batch.segments:
        assert home.find_task(segment.task_id) == [(page, segment)]
    for row in set(range(batch.n)) - set(firsts):
        inside = message_id.encode(SECRET, RowAddress(batch.address, row), TASK_DOMAIN)
        assert home.find_task(inside) == []


def long_task(home: Home, n_batches: int) -> tuple[bytes, list[LedgerPage]]:
    """A task with a segment in each of several batches, between rows of other tasks."""
    pages = []
    task_id = b""
    for _ in range(n_batches):
        batch = batch_of(home, 6)
        own = [message_id.encode(SECRET, RowAddress(batch.address, first), TASK_DOMAIN) for first in (0, 2, 5)]
        task_id = task_id or own[1]
        batch.segments = [TaskSegment(own[0], 0, 2), TaskSegment(task_id, 2, 3), TaskSegment(own[2], 5, 1)]
        pages.append(home.open(batch, 0.0, [task_id]))
    return task_id, pages


def test_a_long_task_has_a_segment_in_each_of_its_batches_in_order() -> None:
    home = home_of()
    task_id, pages = long_task(home, 4)
    other, others = long_task(home, 2)
    assert home.find_task(task_id) == [(page, page.batch.segments[1]) for page in pages]
    assert home.find_task(other) == [(page, page.batch.segments[1]) for page in others]
    assert home.find_task(pages[2].batch.segments[0].task_id) == [(pages[2], pages[2].batch.segments[0])]


def test_a_task_that_later_batches_add_to_is_found_from_its_first_batch_on() -> None:
    home = home_of()
    first = batch_of(home, 3)
    task_id = message_id.encode(SECRET, RowAddress(first.address, 0), TASK_DOMAIN)
    first.segments = [TaskSegment(task_id, 0, 3)]
    begun = home.open(first, 0.0)
    assert home.find_task(task_id) == [(begun, first.segments[0])]
    later = batch_of(home, 7)
    own = message_id.encode(SECRET, RowAddress(later.address, 2), TASK_DOMAIN)
    later.segments = [
        TaskSegment(task_id, 0, 2, is_continued=True),
        TaskSegment(own, 2, 1),
        TaskSegment(task_id, 3, 1, is_continued=True),
        TaskSegment(task_id, 4, 2, is_continued=True),
        TaskSegment(task_id, 6, 1, "north", is_continued=True),
    ]
    added = home.open(later, 0.0, [task_id])
    # Neighbours of one group are read as one.
    found = [(page, segment.first, segment.n, segment.group) for page, segment in home.find_task(task_id)]
    assert found == [(begun, 0, 3, ""), (added, 0, 2, ""), (added, 3, 3, ""), (added, 6, 1, "north")]
    assert home.find_task(own) == [(added, later.segments[1])]


def test_a_long_task_keeps_what_is_left_when_some_of_its_pages_are_evicted() -> None:
    home = home_of(ledger_bytes_max=6 * 58 * 4)
    task_id, pages = long_task(home, 4)
    for evicted in (1, 3):
        finish(home, pages[evicted])
    for _ in range(3):
        home.open(batch_of(home, 6), 0.0)
    assert [home.page(page.batch.address.sequence) is page for page in pages] == [True, False, True, False]
    assert [page for page, _ in home.find_task(task_id)] == [pages[0], pages[2]]


@pytest.mark.parametrize("gone", [(0,), (1,), (2,), (0, 1), (1, 2), (2, 0), (2, 1, 0), (0, 1, 2)])
def test_a_long_task_has_its_pages_in_order_again_when_they_have_come_back(gone: tuple[int, ...]) -> None:
    home = home_of()
    task_id, pages = long_task(home, 3)
    for page in pages:
        mine = page.batch.segments[1]
        page.batch.segments[1] = mine._replace(is_continued=page is not pages[0])
        home.move(page, np.arange(page.n), State.HELD, None, 1.0)
    home.may_drop = lambda page: page.batch.address.sequence in gone
    home._ledger_bytes_max = 0
    home.evict()
    assert home.task_pages(task_id) == [page for page in pages if page.batch.address.sequence not in gone]
    home._ledger_bytes_max = 1 << 30
    for sequence in gone:
        home.adopt(pages[sequence])
    assert home.task_pages(task_id) == pages
    assert home.rows_not_conserved() == 0


# Room and eviction


def test_room_is_refused_above_the_limit_of_open_rows() -> None:
    home = home_of(rows_open_max=10)
    page = home.open(batch_of(home, 8), 0.0)
    home.check_room(2)
    with pytest.raises(Overloaded) as refused:
        home.check_room(3)
    assert (refused.value.limit, refused.value.value, refused.value.limit_value) == ("open rows", 11, 10)
    finish(home, page, rows=rows_of(0))
    home.check_room(3)


def test_final_pages_leave_oldest_first_and_open_ones_stay() -> None:
    home = home_of()
    size = home.open(batch_of(home, 10), 0.0).memory_bytes()
    home = home_of(ledger_bytes_max=3 * size)
    pages = [home.open(batch_of(home, 10), 0.0) for _ in range(3)]
    finish(home, pages[1])
    finish(home, pages[2])
    assert home.statistics().ledger_bytes == 3 * size
    late = home.open(batch_of(home, 10), 0.0)
    left = [home.page(page.batch.address.sequence) for page in (*pages, late)]
    assert left == [pages[0], None, pages[2], late]
    statistics = home.statistics()
    assert (statistics.pages, statistics.pages_evicted, statistics.ledger_bytes) == (3, 1, 3 * size)
    assert set(home.pages()) == {pages[0], pages[2], late}


def test_a_page_whose_rows_have_ended_keeps_nothing_of_what_they_said() -> None:
    home = home_of()
    batch = batch_of(home, 2)
    batch.variables = {"name": TextColumn.from_rows([b"x" * 1000, b"y"])}
    page = home.open(batch, 0.0)
    full = home.ledger_bytes
    finish(home, page, rows=rows_of(0))
    assert (home.ledger_bytes, page.batch.variables["name"].row(1)) == (full, b"y")
    finish(home, page, rows=rows_of(1))
    assert page.batch.variables == {}
    assert home.ledger_bytes == page.memory_bytes() < full - 1000


def test_room_is_refused_while_pages_that_may_not_leave_fill_the_ledger() -> None:
    home = home_of(ledger_bytes_max=1)
    page = home.open(batch_of(home, 3), 0.0)
    with pytest.raises(Overloaded) as refused:
        home.check_room(1)
    assert refused.value.limit == "ledger bytes"
    finish(home, page)
    home.check_room(1)
    assert home.statistics().pages == 0
    assert home.statistics().ledger_bytes == 0


def test_many_slow_pages_do_not_keep_final_ones_in_memory() -> None:
    home = home_of(ledger_bytes_max=1)
    for _ in range(200):
        home.open(batch_of(home, 1), 0.0)
    done = home.open(batch_of(home, 1), 0.0)
    finish(home, done)
    for _ in range(4):
        with pytest.raises(Overloaded):
            home.check_room(1)
    assert home.page(done.batch.address.sequence) is None
    assert home.statistics().pages == 200


def test_an_evicted_page_is_freed_though_its_ttl_runs_on() -> None:
    home = home_of(ledger_bytes_max=1, change_rows_max=1)
    batch = batch_of(home, 4, ttls=(TTL_S_MAX,))
    column = weakref.ref(batch.device_ids)
    finish(home, home.open(batch, 0.0))
    del batch
    # Its change leaves the ring, and the page the ledger.
    finish(home, home.open(batch_of(home, 2), 0.0))
    home.check_room(1)
    gc.collect()
    assert column() is None


# Expiry


@pytest.mark.parametrize("ttl", [0, 1, 7200, TTL_S_MAX])
def test_a_row_expires_at_its_deadline_and_within_a_tick(ttl: int) -> None:
    home = home_of()
    page = home.open(batch_of(home, 3, born=100.0, ttls=(ttl,)), 100.0)
    deadline = 100.0 + lifetime(ttl)
    assert deadline <= home.next_deadline() <= deadline + 0.05
    assert list(home.due(deadline - 0.01)) == []
    ((found, rows),) = home.due(deadline + 0.1)
    assert found is page
    assert rows.tolist() == [0, 1, 2]


def test_now_or_never_leaves_time_for_one_attempt() -> None:
    home = home_of()
    page = home.open(batch_of(home, 1, ttls=(0,)), 0.0)
    assert row_deadlines(page.batch, rows_of(0)).tolist() == [NOW_OR_NEVER_S]
    assert 0 < NOW_OR_NEVER_S < 60


def test_a_row_in_flight_is_looked_at_again_a_second_later() -> None:
    home = home_of()
    page = home.open(batch_of(home, 2, ttls=(10,)), 0.0)
    home.move(page, rows_of(0, 1), State.IN_FLIGHT, Reason.NONE, 1.0)
    assert list(home.due(10.5)) == []
    home.move(page, rows_of(1), State.WAITING, Reason.RETRY, 10.6)
    assert home.next_deadline() <= 11.56
    ((_, rows),) = home.due(11.6)
    assert rows.tolist() == [1]
    home.move(page, rows, State.EXPIRED, Reason.TTL_PASSED, 11.6)
    home.move(page, rows_of(0), State.VENDOR_ACCEPTED, Reason.NONE, 11.7)
    assert list(home.due(12.7)) == []
    assert home.next_deadline() == math.inf


def test_a_look_that_is_broken_off_loses_no_page() -> None:
    home = home_of()
    pages = [home.open(batch_of(home, 1, ttls=(1,)), 0.0) for _ in range(3)]
    due = home.due(5.0)
    page, rows = next(due)
    home.move(page, rows, State.EXPIRED, Reason.TTL_PASSED, 5.0)
    due.close()
    found = [page for page, _ in home.due(7.0)]
    assert sorted(map(id, found)) == sorted(map(id, set(pages) - {page}))


def test_a_finished_page_is_not_due() -> None:
    home = home_of()
    finish(home, home.open(batch_of(home, 3, ttls=(5,)), 0.0))
    assert list(home.due(100.0)) == []
    assert home.next_deadline() == math.inf


def test_a_step_of_the_clock_over_all_ttls_ends_every_row() -> None:
    home = home_of()
    ttls = (0, 60, 86_400, TTL_S_MAX)
    index = np.arange(40).astype(np.uint16) % 4
    for _ in range(5):
        home.open(batch_of(home, 40, ttls=ttls, variant_index=index), 0.0)
    for page, rows in home.due(TTL_S_MAX + 1.0):
        home.move(page, rows, State.EXPIRED, Reason.TTL_PASSED, TTL_S_MAX + 1.0)
    assert home.rows_open == 0


# Changes


def test_a_cursor_that_fell_out_of_the_ring_is_told() -> None:
    home = home_of(change_rows_max=4)
    page = home.open(batch_of(home, 10), 0.0)
    for row in range(6):
        finish(home, page, rows=rows_of(row))
    assert home.changes(0, 10) is None
    assert home.changes(1, 10) is None
    changes, cursor = home.changes(2, 3)
    assert [change.rows.tolist() for change in changes] == [[2], [3], [4]]
    changes, cursor = home.changes(cursor, 10)
    assert [change.rows.tolist() for change in changes] == [[5]]
    assert cursor == home.next_cursor == 6
    assert home.changes(cursor, 10) == ([], cursor)
    statistics = home.statistics()
    assert (statistics.changes_first, statistics.changes_next) == (2, 6)


def test_a_change_of_more_rows_than_the_ring_holds_leaves_it_empty() -> None:
    home = home_of(change_rows_max=4)
    finish(home, home.open(batch_of(home, 5), 0.0))
    assert home.changes(0, 1) is None
    assert home.changes(1, 1) == ([], 1)


def test_a_change_tells_rows_state_reason_channel_and_time() -> None:
    home = home_of()
    page = home.open(batch_of(home, 3, born=10.0), 10.0)
    page.channel[:] = [1, 2, 3]
    home.move(page, rows_of(2, 0), State.DEVICE_ACKED, Reason.NONE, 11.5)
    home.raise_receipts(page, rows_of(0), Receipt.DISPLAYED, 12.0)
    (first, second), _ = home.changes(0, 10)
    assert first.batch is page.batch
    assert (first.rows.tolist(), first.state, first.receipt.tolist()) == ([2, 0], State.DEVICE_ACKED, [0, 0])
    assert np.broadcast_to(first.channel, 2).tolist() == [3, 1]
    assert first.at_unix_ms == page.batch.born_unix_ms + 1500
    assert (second.rows.tolist(), second.receipt.tolist()) == ([0], [Receipt.DISPLAYED])
    assert second.state.tolist() == [State.DEVICE_ACKED]
    assert second.at_unix_ms == page.batch.born_unix_ms + 2000


def test_open_moves_are_no_changes() -> None:
    home = home_of()
    page = home.open(batch_of(home, 2), 0.0)
    home.move(page, rows_of(0), State.IN_FLIGHT, Reason.NONE, 1.0)
    home.move(page, rows_of(1), State.HELD, Reason.DEVICE_OFFLINE, 1.0)
    home.move(page, rows_of(), State.FAILED, Reason.NONE, 1.0)
    assert home.next_cursor == 0


# Columns against plain twins


@given(
    st.lists(st.sampled_from([0, 1, 7200, TTL_S_MAX]), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.data(),
)
def test_row_deadlines_agree_with_each_rows_variant(ttls: list[int], index: list[int], data: st.DataObject) -> None:
    home = home_of()
    variants = np.array([number % len(ttls) for number in index], np.uint16)
    batch = batch_of(home, len(index), born=50.0, ttls=tuple(ttls), variant_index=variants if len(ttls) > 1 else None)
    rows = data.draw(st.lists(st.integers(0, batch.n - 1), max_size=12))
    expected = [50.0 + lifetime(batch.variant_of(row).ttl_s) for row in rows]
    assert row_deadlines(batch, rows_of(*rows)).tolist() == expected
    now = data.draw(st.floats(0, 2 * TTL_S_MAX))
    left = [max(1, int(deadline - now)) for deadline in expected]
    assert seconds_left(batch, rows_of(*rows), now).tolist() == left


@given(
    st.lists(
        st.tuples(
            st.sampled_from([State.QUEUED, State.HELD, State.WAITING]),
            st.sampled_from([Reason.NONE, Reason.RETRY, Reason.FALLBACK, Reason.THROTTLED, Reason.HAND_OVER]),
        ),
        min_size=1,
        max_size=10,
    ),
    st.sampled_from([Reason.TTL_PASSED, Reason.VENDOR_UNAVAILABLE]),
)
def test_expiry_reasons_agree_with_each_row(rows: list[tuple[State, Reason]], why_queued: Reason) -> None:
    home = home_of()
    page = home.open(batch_of(home, len(rows)), 0.0)
    for row, (state, reason) in enumerate(rows):
        if state is not State.QUEUED:
            home.move(page, rows_of(row), state, reason, 0.0)
        page.reason[row] = reason

    def plain(state: State, reason: Reason) -> Reason:
        if state is State.HELD:
            return Reason.DEVICE_OFFLINE
        return why_queued if reason in (Reason.NONE, Reason.RETRY, Reason.FALLBACK) else reason

    before = page.reason.tolist()
    found = expiry_reasons(page, np.arange(len(rows)), why_queued)
    assert found.tolist() == [plain(state, reason) for state, reason in rows]
    assert page.reason.tolist() == before


tags = st.tuples(st.sampled_from([0, 1, 2, message_id.SEQUENCES_MAX - 1]), st.integers(0, 65_535))


@given(st.lists(tags, max_size=25))
def test_tags_split_by_batch_agree_with_a_dict_and_keep_their_order(addresses: list[tuple[int, int]]) -> None:
    columns = [row_tags(sequence, np.array([row], np.uint16)) for sequence, row in addresses]
    found = split_by_sequence(np.concatenate(columns) if columns else np.zeros(0, np.int64))
    expected: dict[int, list[int]] = {}
    for sequence, row in addresses:
        expected.setdefault(sequence, []).append(row)
    assert {sequence: rows.tolist() for sequence, rows in found} == expected
    assert len(found) == len(expected)


@given(st.integers(0, message_id.SEQUENCES_MAX - 1), st.lists(st.integers(0, 65_535), max_size=9))
def test_row_tags_are_sequence_and_row_in_one_number(sequence: int, rows: list[int]) -> None:
    for dtype in (np.uint16, np.int64):
        assert row_tags(sequence, np.array(rows, dtype)).tolist() == [sequence << 16 | row for row in rows]


def test_marks_add_up() -> None:
    home = home_of()
    page = home.open(batch_of(home, 3), 0.0)
    mark(page, rows_of(0, 1), Flag.TRUNCATED)
    mark(page, rows_of(1), Flag.HANDED_OVER)
    assert page.flags.tolist() == [Flag.TRUNCATED, Flag.TRUNCATED | Flag.HANDED_OVER, 0]


def test_an_address_is_that_of_its_batch() -> None:
    home = home_of()
    assert home.next_address(5, 0.0) == BatchAddress(5, JOURNAL, 0)


@given(st.permutations([(5, 100), (7, 90), (6, 100), (message_id.SEQUENCES_MAX - 1, 80)]))
def test_numbers_go_on_behind_the_newest_that_any_store_names_whoever_is_asked_first(known: list) -> None:
    home = home_of()
    for sequence, unix_ms in known:
        home.begin_after(sequence, unix_ms)
    address = home.next_address(50, 0.0)
    assert (address.sequence, address.unix_ms) == (7, 100)


def test_numbers_that_have_begun_again_go_on_behind_the_newest() -> None:
    home = home_of()
    for sequence in (message_id.SEQUENCES_MAX - 1, 2, 0, message_id.SEQUENCES_MAX - 2):
        home.begin_after(sequence, 100)
    assert home.next_address(50, 0.0).sequence == 3


def test_a_page_whose_rows_all_wait_may_leave_and_keeps_its_place_in_every_count() -> None:
    home = home_of(ledger_bytes_max=1, rows_open_max=10)
    home.may_drop = lambda page: page.rests
    rested, due = [], []
    home.on_rest, home.on_away_due = rested.append, due.append
    page = home.open(batch_of(home, 8, ttls=(60,)), 0.0)
    page.keeping += 8
    home.move(page, np.arange(8), State.HELD, Reason.DEVICE_OFFLINE, 0.0)
    assert not home.evict_some()
    home.kept(page, 7)
    assert rested == []
    home.kept(page, 1)
    assert rested == [page]
    home._ledger_bytes_max = 300
    assert home.evict_some()
    sequence = page.batch.address.sequence
    assert (home.page(sequence), home.away_pages.rows, home.rows_open) == (None, 8, 8)
    assert home.rows_not_conserved() == 0
    assert home.statistics().ledger_bytes == 300
    # Rows that are away leave room for others, and their number is not given again.
    home._ledger_bytes_max = 1 << 30
    home.check_room(10)
    home._next_sequence = sequence
    assert home.next_address(UNIX_MS, 0.0).sequence != sequence
    # When they are due somebody has to bring them back.
    assert list(home.due(61.0)) == []
    assert due == [page.batch.address]
    home.adopt(page)
    assert (home.page(sequence), home.away_pages.rows, home.rows_open) == (page, 0, 8)
    home.look_again(page.batch.address, 61.0)
    ((found, rows),) = home.due(61.1)
    assert (found, len(rows)) == (page, 8)
