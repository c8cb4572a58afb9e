"""Lane against a model of plain rows: none lost, none taken twice, limits and turns kept."""

from __future__ import annotations

import math
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.batch import Batch
from gateway.content import Class, Priority, Variant
from gateway.core.bucket import TokenBucket
from gateway.core.lane import Lane, LaneKey, LaneSlice
from gateway.ledger import Channel, LedgerPage, State
from gateway.message_id import BatchAddress

KEY = LaneKey(0, Channel.APNS, Class.SYSTEM)
HIGH, NORMAL = Priority.HIGH, Priority.NORMAL


def page_of(n: int, channel: Channel = Channel.APNS) -> LedgerPage:
    ids = np.zeros((n, 16), np.uint8)
    page = LedgerPage(
        Batch(BatchAddress(0, 0, 0), 0, 0.0, n, device_ids=ids, message_ids=ids, variants=[Variant("t", "b")])
    )
    page.channel[:] = channel
    return page


def lane_of(*, rate: float = math.inf, burst: int = 1, rows_max: int = 1000) -> Lane:
    return Lane(KEY, TokenBucket(rate, burst, now=0.0), rows_max=rows_max)


def rows_of(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def issue(taken: LaneSlice) -> list[int]:
    """What the actor does with a slice that a connection took."""
    taken.page.move(taken.rows, State.IN_FLIGHT)
    return taken.rows.tolist()


# The model

N_PAGES, PAGE_ROWS = 3, 8


class LaneMachine(RuleBasedStateMachine):
    """Rows of three pages come and go; other holders take some away while they are queued."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rows_max = 12
        self.bucket = TokenBucket(2, 6, now=0.0)
        self.lane = Lane(KEY, self.bucket, rows_max=self.rows_max)
        self.pages = [page_of(PAGE_ROWS, Channel.NONE) for _ in range(N_PAGES)]
        self.fresh = [list(range(PAGE_ROWS)) for _ in range(N_PAGES)]
        #: Rows that the lane must still give out, and rows it was given that have left for elsewhere.
        self.queued: set[tuple[int, int]] = set()
        self.gone: set[tuple[int, int]] = set()
        self.issued: Counter[tuple[int, int]] = Counter()

    def number(self, page: LedgerPage) -> int:
        return next(index for index, one in enumerate(self.pages) if one is page)

    @rule(which=st.integers(0, N_PAGES - 1), count=st.integers(1, 4), priority=st.sampled_from([HIGH, NORMAL]))
    def offer(self, which: int, count: int, priority: Priority) -> None:
        rows = self.fresh[which][:count]
        page = self.pages[which]
        page.channel[rows] = Channel.APNS
        before = self.lane.rows
        taken = self.lane.offer(page, rows_of(*rows), priority)
        assert taken == min(len(rows), max(0, self.rows_max - before))
        assert self.lane.rows == before + taken
        self.queued |= {(which, row) for row in rows[:taken]}
        self.fresh[which] = self.fresh[which][taken:]

    @rule(room=st.integers(1, 6), outcome=st.sampled_from(["issued", "put back", "in part"]))
    def take(self, room: int, outcome: str) -> None:
        self.bucket.take(self.now, 0)
        level = self.bucket.statistics().level
        taken = self.lane.take(self.now, room)
        if taken is None:
            # Only an empty bucket or an empty lane gives nothing.
            assert not self.queued or level < 1
            return
        which = self.number(taken.page)
        keys = [(which, row) for row in taken.rows.tolist()]
        assert 1 <= len(keys) <= room
        assert len(set(keys)) == len(keys)
        assert set(keys) <= self.queued
        assert len(keys) <= level
        assert self.bucket.statistics().level == pytest.approx(level - len(keys))
        sent = {"issued": len(keys), "put back": 0, "in part": len(keys) // 2}[outcome]
        if sent:
            taken.page.move(taken.rows[:sent], State.IN_FLIGHT)
            self.queued -= set(keys[:sent])
            self.issued.update(keys[:sent])
        rest = taken.rows[sent:]
        if len(rest):
            before = self.bucket.statistics().level
            self.lane.put_back(taken.page, rest)
            assert self.bucket.statistics().level == pytest.approx(min(6.0, before + len(rest)))

    @precondition(lambda self: self.queued)
    @rule(data=st.data(), way=st.sampled_from(["ended", "rerouted"]))
    def leave(self, data: st.DataObject, way: str) -> None:
        """The row's TTL passed, a late acknowledgement came, or its wait ended: nobody tells the lane."""
        key = data.draw(st.sampled_from(sorted(self.queued)))
        page = self.pages[key[0]]
        if way == "ended":
            page.move(rows_of(key[1]), State.EXPIRED)
        else:
            page.channel[key[1]] = Channel.LONG_LINK
        self.queued.discard(key)
        self.gone.add(key)

    @precondition(lambda self: self.issued)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.issued)))
        page = self.pages[key[0]]
        if page.state[key[1]] != State.IN_FLIGHT:
            return
        page.move(rows_of(key[1]), State.QUEUED)
        level = self.bucket.statistics().level
        self.lane.put_back(page, rows_of(key[1]), returns_tokens=False)
        assert self.bucket.statistics().level == level
        self.queued.add(key)

    @rule(by=st.sampled_from([0.25, 0.5, 1.0, 5.0]))
    def wait(self, by: float) -> None:
        self.now += by

    @rule()
    def drain(self) -> None:
        """With time and room enough everything that is queued comes out, once."""
        found: list[tuple[int, int]] = []
        for _ in range(200):
            self.now += 3.0
            while (taken := self.lane.take(self.now, 4)) is not None:
                which = self.number(taken.page)
                found += [(which, row) for row in issue(taken)]
            if self.lane.is_empty:
                break
        assert Counter(found) == Counter(self.queued)
        self.issued.update(found)
        self.queued.clear()
        assert self.lane.rows == 0
        assert self.lane.next_deadline() == math.inf

    @invariant()
    def sizes_fit(self) -> None:
        rows, high, normal = self.lane.statistics()
        # Rows that left are still hints in the queue, until they come up.
        assert len(self.queued) <= rows == self.lane.rows <= len(self.queued) + len(self.gone)
        assert self.lane.is_empty == (high + normal == 0)
        assert not self.lane.is_empty or not self.queued


TestLane = LaneMachine.TestCase
TestLane.settings = settings(stateful_step_count=30)


# One by one


def test_an_offer_takes_the_prefix_that_fits() -> None:
    lane = lane_of(rows_max=5)
    page = page_of(10)
    assert lane.offer(page, np.arange(3), HIGH) == 3
    assert lane.offer(page, np.arange(3, 10), NORMAL) == 2
    assert lane.offer(page, np.arange(5, 10), HIGH) == 0
    assert lane.offer(page, rows_of(), HIGH) == 0
    assert lane.rows == 5


def test_rows_that_come_back_stand_first_whatever_the_limit() -> None:
    lane = lane_of(rows_max=2)
    page = page_of(6)
    lane.offer(page, rows_of(0, 1), HIGH)
    lane.put_back(page, rows_of(4, 5), returns_tokens=False)
    assert lane.rows == 4
    assert lane.offer(page, rows_of(2), HIGH) == 0
    assert lane.take(0.0, 2).rows.tolist() == [4, 5]


def test_high_priority_goes_first() -> None:
    lane = lane_of()
    page, urgent = page_of(2), page_of(2)
    lane.offer(page, rows_of(0, 1), NORMAL)
    lane.offer(urgent, rows_of(0, 1), HIGH)
    assert lane.take(0.0, 10).page is urgent


def test_a_slice_is_of_one_page() -> None:
    lane = lane_of()
    pages = [page_of(4), page_of(4)]
    for page, rows in ((pages[0], (0, 1)), (pages[0], (2,)), (pages[1], (0,)), (pages[0], (3,))):
        lane.offer(page, rows_of(*rows), HIGH)
    taken = []
    while (one := lane.take(0.0, 10)) is not None:
        taken.append((pages.index(one.page), issue(one)))
    assert taken == [(0, [0, 1, 2]), (1, [0]), (0, [3])]


@pytest.mark.parametrize("rate", [math.inf, 1.0])
def test_a_flood_of_urgent_rows_does_not_starve_the_normal_ones(rate: float) -> None:
    """As the actor asks: at each wake-up until there is no more. With a slow bucket every second answer is None."""
    lane = lane_of(rate=rate, rows_max=10_000)
    normal = page_of(1)
    lane.offer(normal, rows_of(0), NORMAL)
    takes = 0
    for now in range(40):
        flood = page_of(1)
        lane.offer(flood, rows_of(0), HIGH)
        limit = 1 if rate == math.inf else 10
        for _ in range(limit):
            taken = lane.take(float(now), 1)
            if taken is None:
                break
            takes += 1
            issue(taken)
            if taken.page is normal:
                assert takes <= 9
                return
    pytest.fail(f"the normal row was not among {takes} takes")


def test_normal_rows_get_their_turn_but_no_more_than_that() -> None:
    lane = lane_of(rows_max=10_000)
    normal, urgent = page_of(400), page_of(400)
    for row in range(400):
        lane.offer(normal, rows_of(row), NORMAL)
        lane.offer(urgent, rows_of(row), HIGH)
    order = []
    for _ in range(160):
        taken = lane.take(0.0, 1)
        issue(taken)
        order.append(taken.page is normal)
    assert sum(order) == 20


def test_the_bucket_bounds_what_leaves_and_tells_when_more_may() -> None:
    lane = lane_of(rate=2.0, burst=3)
    page = page_of(10)
    assert lane.next_deadline() == math.inf
    lane.offer(page, np.arange(10), HIGH)
    assert lane.next_deadline() <= 0.0
    assert issue(lane.take(0.0, 10)) == [0, 1, 2]
    assert lane.take(0.0, 10) is None
    assert lane.rows == 7
    deadline = lane.next_deadline()
    assert deadline == pytest.approx(0.5)
    assert issue(lane.take(deadline, 10)) == [3]


def test_a_lane_without_rate_never_has_a_deadline() -> None:
    lane = lane_of(rate=0.0)
    lane.offer(page_of(3), np.arange(3), HIGH)
    issue(lane.take(0.0, 1))
    assert lane.take(100.0, 1) is None
    assert lane.next_deadline() == math.inf


def test_rows_put_back_give_their_tokens_back() -> None:
    lane = lane_of(rate=1.0, burst=4)
    page = page_of(4)
    lane.offer(page, np.arange(4), HIGH)
    taken = lane.take(0.0, 4)
    lane.put_back(page, taken.rows[1:])
    assert lane.bucket.statistics().level == 3.0
    lane.put_back(page, rows_of(), returns_tokens=True)
    assert lane.bucket.statistics().level == 3.0


@pytest.mark.parametrize("room", [0, -1])
def test_nothing_is_taken_without_room(room: int) -> None:
    lane = lane_of()
    page = page_of(2)
    lane.offer(page, np.arange(2), HIGH)
    assert lane.take(0.0, room) is None
    assert lane.rows == 2


def test_rows_that_left_cost_no_token_and_no_room() -> None:
    lane = lane_of(rate=1.0, burst=2)
    page = page_of(6)
    lane.offer(page, np.arange(6), HIGH)
    page.move(rows_of(0, 1), State.EXPIRED)
    page.channel[2] = Channel.FCM
    assert lane.take(0.0, 2).rows.tolist() == [3, 4]
    assert lane.bucket.statistics().level == 0.0


def test_a_lane_of_rows_that_all_left_is_empty_after_a_look() -> None:
    lane = lane_of(rate=1.0, burst=5)
    page = page_of(4)
    lane.offer(page, rows_of(0, 1), HIGH)
    lane.offer(page, rows_of(2, 3), NORMAL)
    page.move(np.arange(4), State.DROPPED)
    assert lane.take(0.0, 5) is None
    assert lane.is_empty
    assert lane.rows == 0
    assert lane.bucket.statistics().level == 5.0


def test_a_row_that_left_and_came_back_is_taken_once() -> None:
    """It fell back to another channel and was routed here again, while its first place in the queue still stood."""
    lane = lane_of()
    page = page_of(4)
    lane.offer(page, rows_of(0, 1, 2), HIGH)
    page.channel[1] = Channel.LONG_LINK
    page.channel[1] = Channel.APNS
    lane.offer(page, rows_of(1, 3), HIGH)
    found: list[int] = []
    while (taken := lane.take(0.0, 10)) is not None:
        found += issue(taken)
    assert sorted(found) == [0, 1, 2, 3]
