"""Holders: home always knows who has each row, and a death loses none and ends none twice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.batch import Batch
from gateway.columns import Bool, Rows
from gateway.content import Variant
from gateway.core.holders import Holders, Reported
from gateway.core.home import Home
from gateway.core.outcomes import Outcomes
from gateway.core.shadow import Life, ShadowPage
from gateway.core.slices import cut_batch
from gateway.ledger import FINAL_STATES, LEGAL_MOVES, Channel, Flag, LedgerPage, Reason, Receipt, State

SECRET = b"message id secret"


class Silent:
    """A home's observer that keeps the count of moves, to be compared with the columns."""

    def __init__(self) -> None:
        self.into = np.zeros(len(State), np.int64)

    def moved(self, page: Any, rows: Any, to: State, reason: Any, channel: Any) -> None:
        self.into[to] += len(rows)

    def finished(self, *args: Any) -> None: ...

    def receipts_rose(self, *args: Any) -> None: ...


def make_home(observer: Any = None) -> Home:
    return Home(
        secret=SECRET,
        journal=0,
        observer=observer or Silent(),
        ledger_bytes_max=1 << 30,
        rows_open_max=1 << 20,
        change_rows_max=1 << 20,
        now=0.0,
    )


def open_page(home: Home, n: int, *, ttl_s: int = 3600) -> LedgerPage:
    batch = Batch(
        home.next_address(1_700_000_000_000, 0.0),
        0,
        0.0,
        n,
        device_ids=np.zeros((n, 16), np.uint8),
        message_ids=np.zeros((n, 16), np.uint8),
        variants=[Variant("title", "body", ttl_s=ttl_s)],
    )
    return home.open(batch, 0.0)


def hand_out(holders: Holders, page: LedgerPage, rows: Rows, owner: Home, worker: int, life: Life) -> ShadowPage:
    holders.give(page, rows, worker)
    return owner.open_shadow(life, cut_batch(page.batch, rows), rows.astype(np.uint16), 100)


def all_resend(page: LedgerPage, rows: Rows) -> Bool:
    return np.ones(len(rows), np.bool_)


def none_resend(page: LedgerPage, rows: Rows) -> Bool:
    return np.zeros(len(rows), np.bool_)


HOME = Life(0, 1)


def report_all(owner: Home, holders: Holders, worker: int, now: float = 1.0) -> list[Reported]:
    found = []
    while (news := owner.shadows.take_news(HOME, now, with_late=True)) is not None:
        page, rows, outcomes = news
        found.append(holders.report(worker, outcomes, now))
        page.told(rows)
    return found


def test_report_moves_rows_at_home_over_the_steps_it_leaves_out() -> None:
    watch = Silent()
    home, owner = make_home(watch), make_home()
    holders = Holders(home)
    page = open_page(home, 4)
    shadow = hand_out(holders, page, np.array([1, 3]), owner, 1, HOME)
    rows = np.arange(2)
    shadow.channel[rows] = Channel.APNS
    shadow.attempts[rows] = 1
    owner.move(shadow, rows, State.IN_FLIGHT, None, 0.5)
    owner.move(shadow, rows, State.VENDOR_ACCEPTED, Reason.NONE, 0.7)
    assert report_all(owner, holders, 1) == [Reported(2, 0)]
    assert page.state.tolist() == [State.QUEUED, State.VENDOR_ACCEPTED, State.QUEUED, State.VENDOR_ACCEPTED]
    assert page.channel.tolist() == [0, Channel.APNS, 0, Channel.APNS]
    assert page.final_ms.tolist() == [0, 700, 0, 700]
    assert watch.into[State.IN_FLIGHT] == 2
    assert (holders.rows_at(1), home.rows_open, home.rows_not_conserved()) == (0, 2, 0)


def test_report_of_rows_that_the_worker_does_not_hold_is_dropped() -> None:
    home, owner = make_home(), make_home()
    holders = Holders(home)
    page = open_page(home, 4)
    shadow = hand_out(holders, page, np.array([1, 3]), owner, 1, HOME)
    owner.move(shadow, np.arange(2), State.DROPPED, Reason.NO_CHANNEL, 0.5)
    assert report_all(owner, holders, 2) == [Reported(0, 2)]
    shadow.touch(np.arange(2))
    list(holders.take_back(1, all_resend, 1.0))
    assert report_all(owner, holders, 1) == [Reported(0, 2)]
    assert page.state.tolist() == [State.QUEUED] * 4


def test_acknowledgement_is_one_change_at_home() -> None:
    home, owner = make_home(), make_home()
    holders, page = Holders(home), open_page(home, 4)
    shadow = hand_out(holders, page, np.arange(4), owner, 1, Life(0, 1))
    acked = np.array([0, 2])
    owner.move(shadow, np.arange(4), State.IN_FLIGHT, None, 1.0, channel=Channel.LONG_LINK)
    shadow.channel[:] = Channel.LONG_LINK
    owner.move(shadow, acked, State.DEVICE_ACKED, Reason.NONE, 2.0, receipt=Receipt.DELIVERED)
    cursor = home.next_cursor
    news = owner.shadows.take_news(Life(0, 1), 2.0, with_late=True)
    assert news is not None
    assert holders.report(1, news[2], 2.0) == Reported(4, 0)
    found = home.changes(cursor, 100)
    assert found is not None
    assert [(change.rows.tolist(), change.receipt.tolist()) for change in found[0]] == [([0, 2], [1, 1])]
    assert page.receipt.tolist() == [1, 0, 1, 0]
    assert page.channel.tolist() == [Channel.LONG_LINK] * 4


def test_receipt_that_comes_late_rises_at_home_and_ends_uncertainty() -> None:
    home, owner = make_home(), make_home()
    holders = Holders(home)
    page = open_page(home, 2)
    shadow = hand_out(holders, page, np.arange(2), owner, 1, HOME)
    owner.move(shadow, np.arange(2), State.IN_FLIGHT, None, 0.5)
    owner.move(shadow, np.arange(2), State.UNCERTAIN, Reason.NO_ANSWER, 0.5)
    report_all(owner, holders, 1)
    assert page.state.tolist() == [State.UNCERTAIN] * 2
    owner.raise_receipts(shadow, np.array([1]), Receipt.DELIVERED, 1.0)
    report_all(owner, holders, 1)
    assert page.state.tolist() == [State.UNCERTAIN, State.VENDOR_ACCEPTED]
    assert page.receipt.tolist() == [0, Receipt.DELIVERED]
    assert (home.rows_open, home.rows_not_conserved()) == (0, 0)


def test_expiry_of_rows_elsewhere_is_their_holders_to_find() -> None:
    home, owner = make_home(), make_home()
    holders = Holders(home)
    page = open_page(home, 2, ttl_s=10)
    hand_out(holders, page, np.array([0]), owner, 1, HOME)
    assert [(found is page, rows.tolist()) for found, rows in home.due(11.0)] == [(True, [1])]
    assert [rows.tolist() for _, rows in owner.due(11.0)] == [[0]]
    # Looked at again soon: they may have come back.
    assert home.next_deadline() <= 12.1


def test_death_routes_unsent_rows_again_and_ends_sent_ones_as_the_rule_says() -> None:
    home, owner = make_home(), make_home()
    holders = Holders(home)
    page = open_page(home, 7)
    shadow = hand_out(holders, page, np.arange(7), owner, 1, HOME)
    shadow.channel[:] = Channel.APNS
    # 0: nothing was told, perhaps it has just been shown; 1: announced; 2: sent; 3: waits for a retry; 4: sent on the
    # long link; 5: ended; 6: waits in a lane.
    owner.announce(shadow, np.array([1, 2, 3, 5]))
    owner.move(shadow, np.array([2, 3, 5]), State.IN_FLIGHT, None, 0.5)
    owner.move(shadow, np.array([3]), State.WAITING, Reason.THROTTLED, 0.5)
    owner.move(shadow, np.array([5]), State.VENDOR_ACCEPTED, Reason.NONE, 0.5)
    shadow.channel[4] = Channel.LONG_LINK
    owner.move(shadow, np.array([4]), State.IN_FLIGHT, None, 0.5)
    shadow.touch(np.array([6]))
    report_all(owner, holders, 1)
    (returned,) = holders.take_back(1, none_resend, 1.0)
    assert returned.again.tolist() == [0, 3, 4, 6]
    assert returned.uncertain.tolist() == [1, 2]
    assert [State(state).name for state in page.state.tolist()] == [
        *("QUEUED", "UNCERTAIN", "UNCERTAIN", "QUEUED", "QUEUED", "VENDOR_ACCEPTED", "QUEUED"),
    ]
    assert page.reason[[1, 2]].tolist() == [Reason.PROCESS_ENDED] * 2
    assert np.flatnonzero(page.flags & Flag.RESENT_UNCERTAIN).tolist() == [0, 4]
    assert (home.rows_open, home.rows_not_conserved(), holders.rows_at(1)) == (4, 0, 0)


def test_taking_back_that_was_interrupted_goes_on_where_it_was() -> None:
    home, owner = make_home(), make_home()
    holders = Holders(home)
    pages = [open_page(home, 3) for _ in range(4)]
    for page in pages:
        hand_out(holders, page, np.arange(3), owner, 1, HOME)
    first = next(holders.take_back(1, all_resend, 1.0))
    rest = list(holders.take_back(1, all_resend, 1.0))
    assert {id(each.page) for each in (first, *rest)} == {id(page) for page in pages}
    assert (len(rest), holders.rows_at(1)) == (3, 0)
    assert list(holders.take_back(1, all_resend, 1.0)) == []


class Machine(RuleBasedStateMachine):
    """One home, two owners that die and come back; a twin keeps who has each row and what it last heard, row by row."""

    @initialize()
    def begin(self) -> None:
        self.watch = Silent()
        self.home = make_home(self.watch)
        self.holders = Holders(self.home)
        self.owners = {worker: make_home() for worker in (1, 2)}
        self.pages: list[LedgerPage] = []
        #: (page, row) -> worker; what each row was last reported as.
        self.holder: dict[tuple[int, int], int] = {}
        self.known: dict[tuple[int, int], State] = {}
        self.out: dict[tuple[int, int], bool] = {}
        self.shadows: dict[int, list[ShadowPage]] = {1: [], 2: []}
        self.now = 0.0

    @rule(n=st.integers(1, 6))
    def submit(self, n: int) -> None:
        self.pages.append(open_page(self.home, n))
        for row in range(n):
            self.known[len(self.pages) - 1, row] = State.QUEUED

    @rule(data=st.data(), worker=st.sampled_from([1, 2]))
    def hand_out(self, data: Any, worker: int) -> None:
        here = sorted(at for at, state in self.known.items() if state is State.QUEUED and at not in self.holder)
        if not here:
            return
        page = data.draw(st.sampled_from(here))[0]
        rows = [row for at, row in here if at == page]
        chosen = np.array(sorted(data.draw(st.sets(st.sampled_from(rows), min_size=1))))
        shadow = hand_out(self.holders, self.pages[page], chosen, self.owners[worker], worker, HOME)
        self.shadows[worker].append(shadow)
        self.holder.update({(page, row): worker for row in chosen.tolist()})

    @rule(data=st.data(), worker=st.sampled_from([1, 2]), steps=st.integers(1, 4))
    def move(self, data: Any, worker: int, steps: int) -> None:
        self.now += 0.1
        owner = self.owners[worker]
        for _ in range(steps if self.shadows[worker] else 0):
            shadow = data.draw(st.sampled_from(self.shadows[worker]))
            row = data.draw(st.integers(0, shadow.n - 1))
            state = State(int(shadow.state[row]))
            to = data.draw(st.sampled_from([State(to) for to in np.flatnonzero(LEGAL_MOVES[state])] or [None]))
            rows = np.array([row])
            if to is State.IN_FLIGHT:
                shadow.channel[row] = data.draw(st.sampled_from([Channel.LONG_LINK, Channel.APNS]))
                if shadow.channel[row] == Channel.APNS:
                    owner.announce(shadow, rows)
            if to is not None:
                owner.move(shadow, rows, to, Reason.NONE, self.now)

    @rule(worker=st.sampled_from([1, 2]), times=st.integers(1, 3), with_late=st.booleans())
    def report(self, worker: int, times: int, with_late: bool) -> None:
        for _ in range(times):
            news = self.owners[worker].shadows.take_news(HOME, self.now, with_late=with_late)
            if news is None:
                return
            shadow, rows, outcomes = news
            shadow.told(rows)
            assert self.holders.report(worker, outcomes, self.now).dropped == 0
            self.hear(outcomes)

    def hear(self, outcomes: Outcomes) -> None:
        page = next(i for i, page in enumerate(self.pages) if page.batch.address == outcomes.address)
        for at, row in enumerate(outcomes.rows.tolist()):
            self.known[page, row] = State(int(outcomes.state[at]))
            at_vendor = outcomes.channel[at] > Channel.LONG_LINK
            is_sent = outcomes.state[at] == State.IN_FLIGHT or bool(outcomes.is_announced[at])
            self.out[page, row] = bool(at_vendor) and is_sent

    @rule(worker=st.sampled_from([1, 2]), resend=st.booleans())
    def die(self, worker: int, resend: bool) -> None:
        """What was not reported is lost with the process."""
        self.owners[worker], self.shadows[worker] = make_home(), []
        again = set()
        for page, rows, _ in self.holders.take_back(worker, all_resend if resend else none_resend, self.now):
            again |= {(self.pages.index(page), row) for row in rows.tolist()}
        wanted = set()
        for at in [at for at, holder in self.holder.items() if holder == worker]:
            del self.holder[at]
            if self.known[at] in FINAL_STATES:
                continue
            if self.out.get(at, False) and not resend:
                self.known[at] = State.UNCERTAIN
            else:
                self.known[at] = State.QUEUED
                wanted.add(at)
        assert again == wanted

    @invariant()
    def home_knows_what_it_was_told_and_loses_nothing(self) -> None:
        if not hasattr(self, "home"):
            return
        for (page, row), state in self.known.items():
            assert self.pages[page].state[row] == state
        assert self.home.rows_not_conserved() == 0
        assert self.home.rows_open == sum(state not in FINAL_STATES for state in self.known.values())
        open_at = [at for at in self.holder if self.known[at] not in FINAL_STATES]
        for worker in (1, 2):
            assert self.holders.rows_at(worker) == sum(self.holder[at] == worker for at in open_at)
        for page in self.pages:
            assert page.counts.sum() == page.n
            assert np.bincount(page.state, minlength=len(State)).tolist() == page.counts.tolist()


TestHolders = Machine.TestCase
TestHolders.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(1, 30), st.integers(1, 30))
def test_rows_at_a_worker_are_those_given_less_those_ended(n: int, ended: int) -> None:
    home, owner = make_home(), make_home()
    holders = Holders(home)
    page = open_page(home, n)
    shadow = hand_out(holders, page, np.arange(n), owner, 1, HOME)
    ended = min(n, ended)
    owner.move(shadow, np.arange(ended), State.DROPPED, Reason.NO_CHANNEL, 0.5)
    assert holders.rows_at(1) == n
    report_all(owner, holders, 1)
    assert holders.rows_at(1) == n - ended
    assert owner.shadows.rows_open == n - ended
    assert home.next_deadline() < math.inf
