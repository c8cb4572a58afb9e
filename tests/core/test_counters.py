"""Counters against looking at each row: whatever moves, the totals are what a recount says."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.batch import Batch, TaskSegment
from gateway.content import Class, Variant
from gateway.core.counters import STEP_PAGES, Counters, portions, row_keys, tally_pages, tally_rows
from gateway.core.home import Home, mark
from gateway.core.receipt_reports import add_flags
from gateway.ledger import LEGAL_MOVES, Channel, Flag, LedgerPage, Reason, Receipt, State
from gateway.message_id import BatchAddress
from gateway.receipts import Event
from gateway.tally import (
    PageTally,
    TallyKey,
    add_keys,
    add_tallies,
    columns_of,
    day_of,
    decode_tally,
    encode_tally,
    rows_in,
    went_on,
)

UNIX_MS = 1_700_000_000_000
OFFSET_S = 28_800
WIDE = 1 << 40
DAYS = range(1 << 20)

contents = st.builds(
    lambda plan, class_: Variant("t", "b", plan_id=plan, class_=class_),
    st.sampled_from(["", "spring", "autumn"]),
    st.sampled_from(["system", "marketing"]),
)


class Nobody:
    def moved(self, *_: object) -> None: ...

    def finished(self, *_: object) -> None: ...

    def receipts_rose(self, *_: object) -> None: ...


def plain_tally(page: LedgerPage, rows: range | None = None) -> Counter[tuple]:
    """Row by row, in the users' words."""
    counts: Counter[tuple] = Counter()
    for row in rows or range(page.n):
        variant = page.batch.variant_of(row)
        group = next((s.group for s in page.batch.segments if s.first <= row < s.first + s.n), "")
        day = (page.batch.born_unix_ms + OFFSET_S * 1000) // 86_400_000
        key = TallyKey(day, page.batch.app, variant.plan_id, group, int(Class[variant.class_.upper()]))
        fact = (
            int(page.channel[row]),
            int(page.state[row]),
            int(page.reason[row]),
            int(page.receipt[row]),
            bool(page.attempts[row]),
            bool(page.flags[row] & Flag.NOTIFICATION_CLOSED),
        )
        counts[key, fact] += 1
    return counts


def in_words(totals: object) -> Counter[tuple]:
    """Cells taken apart again."""
    counts: Counter[tuple] = Counter()
    for key, cells in dict(totals).items():  # type: ignore[call-overload]
        columns = columns_of(cells)
        for at in range(len(columns.rows)):
            *fact, n = (column[at].item() for column in columns)
            counts[key, tuple(fact)] += n
    return counts


def batch_of(
    address: BatchAddress, variants: list[Variant], index: list[int] | None, segments: list[TaskSegment], n: int
) -> Batch:
    ids = np.zeros((n, 16), np.uint8)
    return Batch(
        address,
        0,
        0.0,
        n,
        device_ids=ids,
        message_ids=ids,
        variants=variants,
        variant_index=None if index is None else np.array(index, np.uint16),
        segments=segments,
    )


def segments_of(sizes: list[tuple[int, str]]) -> list[TaskSegment]:
    firsts = np.cumsum([0, *(n for n, _ in sizes)]).tolist()
    return [
        TaskSegment(at.to_bytes(16, "big"), first, n, group)
        for at, (first, (n, group)) in enumerate(zip(firsts, sizes, strict=False))
    ]


class CountersMachine(RuleBasedStateMachine):
    """Pages come, move, get receipts, are counted or not, and leave memory."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Home(
            secret=bytes(32),
            journal=1,
            observer=Nobody(),
            ledger_bytes_max=WIDE,
            rows_open_max=WIDE,
            change_rows_max=WIDE,
            now=0.0,
        )
        self.gone: Counter[tuple] = Counter()

    @rule(
        variants=st.lists(contents, min_size=1, max_size=3),
        sizes=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["", "a", "b"])), min_size=1, max_size=3),
        data=st.data(),
        days=st.integers(0, 2),
    )
    def open(self, variants: list[Variant], sizes: list[tuple[int, str]], data: st.DataObject, days: int) -> None:
        n = sum(size for size, _ in sizes)
        index = None
        if len(variants) > 1:
            index = data.draw(st.lists(st.integers(0, len(variants) - 1), min_size=n, max_size=n))
        address = self.home.next_address(UNIX_MS + days * 86_400_000, 0.0)
        self.home.open(batch_of(address, variants, index, segments_of(sizes), n), 0.0)

    def _choose(self, data: st.DataObject) -> tuple[LedgerPage, np.ndarray]:
        page = data.draw(st.sampled_from(sorted(self.home.pages(), key=lambda page: page.batch.address.sequence)))
        rows = data.draw(st.lists(st.integers(0, page.n - 1), unique=True, max_size=page.n))
        return page, np.array(rows, np.int64)

    @precondition(lambda self: self.home.statistics().pages)
    @rule(
        data=st.data(),
        to=st.sampled_from(list(State)),
        reason=st.sampled_from([None, Reason.NONE, Reason.RETRY, Reason.TOKEN_DEAD]),
        channel=st.sampled_from(list(Channel)),
        is_sent=st.booleans(),
    )
    def move(self, data: st.DataObject, to: State, reason: Reason | None, channel: Channel, is_sent: bool) -> None:
        page, rows = self._choose(data)
        rows = rows[LEGAL_MOVES[page.state[rows], to]]
        # As holders do: their columns first, then the move.
        page.channel[rows] = channel
        page.attempts[rows] += is_sent
        self.home.move(page, rows, to, reason, 1.0)

    @precondition(lambda self: self.home.statistics().pages)
    @rule(data=st.data(), channel=st.sampled_from(list(Channel)))
    def route(self, data: st.DataObject, channel: Channel) -> None:
        """A row that stays queued gets a channel without a move."""
        page, rows = self._choose(data)
        page.channel[rows[page.state[rows] == State.QUEUED]] = channel

    @precondition(lambda self: self.home.statistics().pages)
    @rule(data=st.data(), receipt=st.sampled_from([Receipt.DELIVERED, Receipt.CLICKED]), is_closed=st.booleans())
    def receive(self, data: st.DataObject, receipt: Receipt, is_closed: bool) -> None:
        page, rows = self._choose(data)
        if is_closed:
            mark(page, rows, Flag.NOTIFICATION_CLOSED)
        self.home.raise_receipts(page, rows, receipt, 1.0)

    @rule(only_ended=st.booleans())
    def count(self, only_ended: bool) -> None:
        for portion in self.home.counters.portions(only_ended=only_ended):
            self.home.counters.settle(portion)

    @rule()
    def evict(self) -> None:
        """Memory is short: pages without open rows leave."""
        pages = {page.batch.address.sequence: page for page in self.home.pages()}
        self.home._ledger_bytes_max = 0
        self.home.evict_some()
        self.home._ledger_bytes_max = WIDE
        for sequence, page in pages.items():
            if self.home.page(sequence) is None:
                self.gone += plain_tally(page)

    @invariant()
    def the_totals_are_a_recount(self) -> None:
        for portion in self.home.counters.portions():
            self.home.counters.settle(portion)
        recount: Counter[tuple] = Counter()
        for page in self.home.pages():
            recount += plain_tally(page)
        counters = self.home.counters
        assert in_words(counters.totals()) == recount
        assert in_words(counters.gone()) == self.gone
        assert counters.n_cells == sum(map(len, counters.totals().values())) + sum(map(len, counters.gone().values()))


class LazyCountersMachine(CountersMachine):
    """The same, asked only at the end: nothing hangs on being counted in between."""

    @invariant()
    def the_totals_are_a_recount(self) -> None:
        return

    def teardown(self) -> None:
        CountersMachine.the_totals_are_a_recount(self)


class ArchivedCountersMachine(CountersMachine):
    """Beside an archive: pages are written in any state, leave memory when it has them as they are, and come back.
    What memory adds to the archive is what all pages say, at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.archive: dict[int, PageTally] = {}
        self.away: dict[int, LedgerPage] = {}

    def _is_saved(self, page: LedgerPage) -> bool:
        (now,) = tally_pages([page], OFFSET_S)
        return self.archive.get(page.batch.address.sequence) == now

    @precondition(lambda self: self.home.statistics().pages)
    @rule(data=st.data(), also=st.sampled_from([None, Receipt.DELIVERED, Receipt.DISPLAYED]))
    def write(self, data: st.DataObject, also: Receipt | None) -> None:
        """also: it changes between being read and being durable."""
        page, rows = self._choose(data)
        tally = self.home.counters.settled(page)
        if also is not None:
            self.home.raise_receipts(page, rows, also, 1.0)
        self.archive[page.batch.address.sequence] = tally
        self.home.counters.archived(page, tally)

    @rule()
    def evict(self) -> None:
        self.home.may_drop = self._is_saved
        pages = {page.batch.address.sequence: page for page in self.home.pages()}
        self.home._ledger_bytes_max = 0
        self.home.evict_some()
        self.home._ledger_bytes_max = WIDE
        self.away |= {at: page for at, page in pages.items() if self.home.page(at) is None}

    @precondition(lambda self: self.away)
    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.away)))
        page = self.away.pop(sequence)
        page.archived_tally = self.archive[sequence]
        self.home.adopt(page)

    @invariant()
    def the_totals_are_a_recount(self) -> None:
        for portion in self.home.counters.portions():
            self.home.counters.settle(portion)
        recount: Counter[tuple] = Counter()
        for page in (*self.home.pages(), *self.away.values()):
            recount += plain_tally(page)
        archived = [tally.cells for tally in self.archive.values()]
        assert in_words(add_keys([self.home.counters.totals(), *archived], DAYS)) == recount
        assert not self.home.counters.gone()


TestCounters = CountersMachine.TestCase
TestLazyCounters = LazyCountersMachine.TestCase
TestArchivedCounters = ArchivedCountersMachine.TestCase
TestCounters.settings = TestLazyCounters.settings = settings(stateful_step_count=25)
TestArchivedCounters.settings = settings(stateful_step_count=25)


@given(st.lists(st.tuples(contents, st.sampled_from(["", "x", "y"]), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_part_of_a_page_is_counted_like_its_rows(rows: list[tuple]) -> None:
    n = len(rows)
    page = LedgerPage(
        batch_of(
            BatchAddress(UNIX_MS, 0, 0),
            [content for content, _, _ in rows],
            list(range(n)),
            segments_of([(1, group) for _, group, _ in rows]),
            n,
        )
    )
    page.attempts[:] = [attempts for _, _, attempts in rows]
    for first in range(n):
        assert in_words(tally_rows(page, first, n, OFFSET_S)) == plain_tally(page, range(first, n))
    (tally,) = tally_pages([page], OFFSET_S)
    assert in_words(tally.cells) == plain_tally(page)
    assert decode_tally(encode_tally(tally)) == tally


def test_a_batch_of_thousands_of_plans_and_groups_has_a_key_for_each_pair_that_occurs() -> None:
    n = 3000
    variants = [Variant("t", "b", plan_id=str(row)) for row in range(n)]
    segments = segments_of([(1, f"g{row}") for row in range(n)])
    keys, index = row_keys(batch_of(BatchAddress(UNIX_MS, 0, 0), variants, list(range(n)), segments, n), OFFSET_S)
    assert index is not None
    assert len(keys) == n
    assert all(keys[at].plan == keys[at].group[1:] == str(row) for row, at in enumerate(index.tolist()))


def test_receipts_and_flags_of_a_page_that_has_ended_and_was_counted_are_counted() -> None:
    machine = CountersMachine()
    home = machine.home
    batch = batch_of(home.next_address(UNIX_MS, 0.0), [Variant("t", "b")], None, segments_of([(2, "")]), 2)
    page = home.open(batch, 0.0)
    rows = np.arange(2)
    home.move(page, rows, State.IN_FLIGHT, None, 1.0)
    home.move(page, rows, State.VENDOR_ACCEPTED, Reason.NONE, 1.0)
    for change in (
        lambda: home.raise_receipts(page, rows[:1], Receipt.DELIVERED, 2.0),
        lambda: home.raise_receipts(page, rows, Receipt.CLICKED, 3.0),
        lambda: add_flags(home, page, rows[1:], np.array([Event.NOTIFICATIONS_CLOSED], np.uint8), 4.0),
    ):
        machine.count(True)
        assert not list(home.counters.portions())
        change()
        machine.the_totals_are_a_recount()


def test_rows_that_went_on_are_counted_under_the_channel_that_they_left_and_stay_one_row() -> None:
    machine = CountersMachine()
    home = machine.home
    batch = batch_of(home.next_address(UNIX_MS, 0.0), [Variant("t", "b")], None, segments_of([(2, "a"), (2, "b")]), 4)
    page = home.open(batch, 0.0)
    rows = np.arange(3)
    page.channel[rows], page.issued_ms[rows] = Channel.LONG_LINK, 5
    home.move(page, rows, State.IN_FLIGHT, None, 1.0)
    for _ in range(2):
        # Twice from the same channel: one row that left it.
        page.left_link(rows, 2.0)
    page.channel[1:3] = Channel.HUAWEI
    page.fell_back(np.array([2]), 3.0)
    page.channel[2] = Channel.ALIYUN_SMS
    home.move(page, rows, State.QUEUED, Reason.FALLBACK, 3.0)
    machine.count(False)
    cells = list(home.counters.totals().values())
    assert went_on(cells) == {Channel.LONG_LINK: 3, Channel.HUAWEI: 1}
    assert sum(map(rows_in, cells)) == page.n == 4
    machine.the_totals_are_a_recount()
    assert went_on(tally_rows(page, 0, 2, OFFSET_S).values()) == {Channel.LONG_LINK: 2}
    history = page.history
    assert history is not None
    assert [kind.name for kind, _, _ in history.of_row(2)] == ["LINK_ATTEMPT", "HANDED_OVER"] * 2 + ["FELL_BACK"]


def test_a_page_is_of_one_task_only_when_all_its_segments_are() -> None:
    two = segments_of([(1, ""), (1, "")])
    of_two = LedgerPage(batch_of(BatchAddress(UNIX_MS, 0, 0), [Variant("t", "b")], None, two, 2))
    of_one = LedgerPage(
        batch_of(BatchAddress(UNIX_MS, 0, 0), [Variant("t", "b")], None, [two[0], two[0]._replace(first=1)], 2)
    )
    assert [tally.is_one_task for tally in tally_pages([of_two, of_one], OFFSET_S)] == [False, True]


def test_a_day_begins_where_the_offset_says() -> None:
    midnight_in_shanghai = 1_700_064_000_000  # 2023-11-15 16:00 UTC
    assert day_of(midnight_in_shanghai - 1, OFFSET_S) + 1 == day_of(midnight_in_shanghai, OFFSET_S)
    assert day_of(midnight_in_shanghai - 1, 0) == day_of(midnight_in_shanghai, 0)


def test_pages_are_counted_a_step_at_a_time() -> None:
    small = [LedgerPage(batch_of(BatchAddress(UNIX_MS, 0, at), [Variant("t", "b")], None, [], 1)) for at in range(250)]
    large = [LedgerPage(batch_of(BatchAddress(UNIX_MS, 0, 0), [Variant("t", "b")], None, [], 65_536))] * 2
    assert [len(part) for part in portions(small)] == [STEP_PAGES, STEP_PAGES, 50]
    assert [len(part) for part in portions([*large, small[0]])] == [1, 1, 1]


def test_beyond_its_limit_the_oldest_days_of_pages_that_are_nowhere_are_forgotten() -> None:
    counters = Counters(day_offset_s=0, cells_max=3)
    pages = []
    for day in range(5):
        address = BatchAddress(day * 86_400_000, 0, day)
        pages.append(LedgerPage(batch_of(address, [Variant("t", "b")], None, [], 2)))
        counters.touch(pages[-1])
        counters.left(pages[-1])
    assert [key.day for key in counters.gone()] == [2, 3, 4]
    counters.settle([LedgerPage(batch_of(BatchAddress(5 * 86_400_000, 0, 5), [Variant("t", "b")], None, [], 1))])
    assert [key.day for key in counters.gone()] == [3, 4]
    assert (counters.days_forgotten, counters.n_cells) == (3, 3)


def test_bytes_that_are_no_tally_are_refused() -> None:
    with pytest.raises(ValueError, match="tally"):
        decode_tally(b"\xc1")


def test_tallies_are_added_up_by_day_and_what_comes_to_nothing_is_left_out() -> None:
    key, later = TallyKey(1, 0, "", "", 0), TallyKey(2, 0, "", "", 0)
    parts = [PageTally({key: {1: 2, 2: 1}}), PageTally({key: {1: -2}, later: {1: 1}})]
    assert add_tallies(parts, range(1, 2)) == {key: {2: 1}}
    assert add_tallies(parts, DAYS) == {key: {2: 1}, later: {1: 1}}


@pytest.mark.parametrize("share_with_reason", [0.0, 0.3])
def test_a_large_page_is_counted_as_its_rows_say(share_with_reason: float) -> None:
    n = 1500
    random = np.random.default_rng(11)
    small, large = (
        LedgerPage(batch_of(BatchAddress(UNIX_MS, 0, at), [Variant("t", "b")], None, segments_of([(rows, "a")]), rows))
        for at, rows in enumerate((5, n))
    )
    large.channel[:] = random.integers(0, len(Channel), n)
    large.state[:] = random.integers(0, len(State), n)
    large.receipt[:] = random.integers(0, len(Receipt), n)
    large.flags[:] = random.integers(0, 256, n)
    large.attempts[:] = random.integers(0, 3, n)
    large.reason[:] = np.where(random.random(n) < share_with_reason, int(Reason.RETRY), 0)
    for page, tally in zip((large, small), tally_pages([large, small], OFFSET_S), strict=True):
        assert in_words(tally.cells) == plain_tally(page)
