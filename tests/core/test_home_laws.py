"""Home against a model of plain rows, in any order of events: conservation, expiry, receipts, changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.batch import Batch
from gateway.content import TTL_S_MAX, Variant
from gateway.core.home import Home
from gateway.core.lifetimes import NOW_OR_NEVER_S
from gateway.errors import LocalProtocolError
from gateway.ledger import FINAL_STATES, LEGAL_MOVES, OPEN_STATES, LedgerPage, Reason, Receipt, State

UNIX_MS = 1_700_000_000_000
#: No limit is met here.
WIDE = 1 << 30


class Observer:
    """Counts what the home tells."""

    def __init__(self) -> None:
        self.moved_to: Counter[State] = Counter()
        self.finished_rows = 0
        self.rose: Counter[Receipt] = Counter()

    def moved(self, page: LedgerPage, rows: np.ndarray, to: State, *rest: object) -> None:
        self.moved_to[to] += len(rows)

    def finished(self, page: LedgerPage, rows: np.ndarray, *rest: object) -> None:
        self.finished_rows += len(rows)

    def receipts_rose(self, rows: int, receipt: Receipt, *rest: object) -> None:
        self.rose[receipt] += rows


def batch_of(home: Home, n: int, *, born: float, ttls: list[int], **columns: object) -> Batch:
    ids = np.zeros((n, 16), np.uint8)
    variants = [Variant("t", "b", ttl_s=ttl) for ttl in ttls]
    address = home.next_address(UNIX_MS + int(born * 1000), born)
    return Batch(address, 0, born, n, device_ids=ids, message_ids=ids, variants=variants, **columns)  # type: ignore[arg-type]


def rows_of(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@dataclass
class PlainRow:
    deadline: float
    state: State = State.QUEUED
    reason: int = 0
    receipt: Receipt = Receipt.NONE


def lifetime(ttl_s: int) -> float:
    return ttl_s if ttl_s else NOW_OR_NEVER_S


class HomeMachine(RuleBasedStateMachine):
    """Whole seconds; `due` is asked half a second later, so that no result hangs on a rounded tick."""

    def __init__(self) -> None:
        super().__init__()
        self.observer = Observer()
        self.home = Home(
            secret=bytes(32),
            journal=1,
            observer=self.observer,
            ledger_bytes_max=WIDE,
            rows_open_max=WIDE,
            change_rows_max=WIDE,
            now=0.0,
        )
        self.now = 0
        self.rows: dict[tuple[int, int], PlainRow] = {}
        self.pages: dict[int, LedgerPage] = {}
        self.events: Counter = Counter()
        self.moves: Counter[State] = Counter()
        self.rose: Counter[Receipt] = Counter()
        self.cursor = 0
        self.seen: Counter = Counter()

    def _moved(self, key: tuple[int, int], to: State, reason: int) -> None:
        row = self.rows[key]
        row.state, row.reason = to, reason
        self.moves[to] += 1
        if to in FINAL_STATES:
            self._told(key)

    def _told(self, key: tuple[int, int]) -> None:
        """Subscribers see the row as it is after the change."""
        row = self.rows[key]
        self.events[(*key, row.state, row.reason, row.receipt)] += 1

    @rule(
        ttls=st.lists(st.sampled_from([0, 1, 4, 30, TTL_S_MAX]), min_size=1, max_size=3),
        index=st.lists(st.integers(0, 2), min_size=1, max_size=5),
        duplicates=st.none() | st.lists(st.booleans(), min_size=5, max_size=5),
    )
    def open(self, ttls: list[int], index: list[int], duplicates: list[bool] | None) -> None:
        n = len(index)
        variants = [number % len(ttls) for number in index]
        batch = batch_of(
            self.home,
            n,
            born=float(self.now),
            ttls=ttls,
            variant_index=np.array(variants, np.uint16) if len(ttls) > 1 else None,
            duplicates=None if duplicates is None else np.array(duplicates[:n]),
        )
        page = self.home.open(batch, float(self.now))
        sequence = batch.address.sequence
        self.pages[sequence] = page
        for row in range(n):
            variant = variants[row] if len(ttls) > 1 else 0
            self.rows[sequence, row] = PlainRow(self.now + lifetime(ttls[variant]))
            if duplicates is not None and duplicates[row]:
                self._moved((sequence, row), State.DROPPED, Reason.DUPLICATE_TARGET)

    @precondition(lambda self: self.pages)
    @rule(
        data=st.data(),
        to=st.sampled_from(list(State)),
        reason=st.sampled_from([Reason.NONE, Reason.RETRY, Reason.THROTTLED]),
        as_column=st.booleans(),
    )
    def move(self, data: st.DataObject, to: State, reason: Reason, as_column: bool) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.pages)))
        page = self.pages[sequence]
        rows = data.draw(st.lists(st.integers(0, page.n - 1), unique=True, max_size=page.n))
        is_legal = all(LEGAL_MOVES[self.rows[sequence, row].state, to] for row in rows)
        why = np.full(len(rows), reason, np.uint8) if as_column else reason
        if is_legal:
            self.home.move(page, rows_of(*rows), to, why, self.now)
            for row in rows:
                self._moved((sequence, row), to, int(reason))
        else:
            with pytest.raises(LocalProtocolError):
                self.home.move(page, rows_of(*rows), to, why, self.now)

    @precondition(lambda self: any(row.state is State.QUEUED for row in self.rows.values()))
    @rule(share=st.integers(1, 3))
    def issue(self, share: int) -> None:
        """Part of what is queued goes into flight, so that deadlines pass meanwhile."""
        self._move_all(State.QUEUED, State.IN_FLIGHT, share)

    @precondition(lambda self: any(row.state is State.IN_FLIGHT for row in self.rows.values()))
    @rule(
        to=st.sampled_from([State.QUEUED, State.WAITING, State.UNCERTAIN, State.DEVICE_ACKED]), share=st.integers(1, 3)
    )
    def answer(self, to: State, share: int) -> None:
        self._move_all(State.IN_FLIGHT, to, share)

    def _move_all(self, before: State, after: State, share: int) -> None:
        """Every row in one state, or every second or third."""
        for sequence, page in self.pages.items():
            rows = [row for row in range(page.n) if self.rows[sequence, row].state is before][::share]
            self.home.move(page, rows_of(*rows), after, Reason.RETRY, self.now)
            for row in rows:
                self._moved((sequence, row), after, Reason.RETRY)

    @precondition(lambda self: self.pages)
    @rule(data=st.data(), receipt=st.sampled_from([Receipt.DELIVERED, Receipt.DISPLAYED, Receipt.CLICKED]))
    def receipts(self, data: st.DataObject, receipt: Receipt) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.pages)))
        page = self.pages[sequence]
        rows = data.draw(st.lists(st.integers(0, page.n - 1), unique=True, max_size=page.n))
        rose = self.home.raise_receipts(page, rows_of(*rows), receipt, self.now)
        assert rose.tolist() == [row for row in rows if self.rows[sequence, row].receipt < receipt]
        for row in rose.tolist():
            self.rows[sequence, row].receipt = receipt
            self.rose[receipt] += 1
        for row in rows:
            if self.rows[sequence, row].state is State.UNCERTAIN:
                self._moved((sequence, row), State.VENDOR_ACCEPTED, Reason.NONE)
        for row in rose.tolist():
            self._told((sequence, row))

    @rule(by=st.sampled_from([2, 3, 5, 40, 86_400, TTL_S_MAX]))
    def expire(self, by: int) -> None:
        self.now += by
        at = self.now + 0.5
        expected = {
            key
            for key, row in self.rows.items()
            if row.state in OPEN_STATES and row.state is not State.IN_FLIGHT and row.deadline <= at
        }
        found = []
        for page, rows in self.home.due(at):
            found += [(page.batch.address.sequence, row) for row in rows.tolist()]
            self.home.move(page, rows, State.EXPIRED, Reason.TTL_PASSED, at)
        assert sorted(found) == sorted(expected)
        for key in expected:
            self._moved(key, State.EXPIRED, Reason.TTL_PASSED)
        # Whatever may still expire has a time at which it will be looked at.
        open_deadlines = [row.deadline for row in self.rows.values() if row.state in OPEN_STATES]
        if open_deadlines:
            assert self.home.next_deadline() <= max(min(open_deadlines), at + 1.0) + 0.06

    @rule(changes_max=st.integers(1, 4))
    def subscribe(self, changes_max: int) -> None:
        answer = self.home.changes(self.cursor, changes_max)
        assert answer is not None
        changes, self.cursor = answer
        assert len(changes) <= changes_max
        for change in changes:
            sequence = change.batch.address.sequence
            columns = [
                np.broadcast_to(np.asarray(column), len(change.rows)).tolist()
                for column in (change.rows, change.state, change.reason, change.receipt)
            ]
            for row, state, reason, receipt in zip(*columns, strict=True):
                self.seen[sequence, row, state, reason, receipt] += 1
        if self.cursor == self.home.next_cursor:
            assert self.seen == self.events

    @invariant()
    def counts_equal_a_recount(self) -> None:
        for sequence, page in self.pages.items():
            plain = [self.rows[sequence, row] for row in range(page.n)]
            assert [State(code) for code in page.state] == [row.state for row in plain]
            assert page.reason.tolist() == [row.reason for row in plain]
            assert page.receipt.tolist() == [row.receipt for row in plain]
            assert page.counts.tolist() == np.bincount(page.state, minlength=len(State)).tolist()
            assert int(page.counts.sum()) == page.n
            assert [at > 0 for at in page.final_ms.tolist()] == [row.state in FINAL_STATES for row in plain]
        n_open = sum(row.state in OPEN_STATES for row in self.rows.values())
        assert self.home.rows_open == self.home.statistics().rows_open == n_open

    @invariant()
    def the_observer_saw_every_move(self) -> None:
        assert self.observer.moved_to == self.moves
        assert self.observer.rose == self.rose
        # A receipt may settle a row that was uncertain: then it is told twice.
        assert self.observer.finished_rows == sum(self.moves[state] for state in FINAL_STATES)


TestHome = HomeMachine.TestCase
TestHome.settings = settings(stateful_step_count=25)
