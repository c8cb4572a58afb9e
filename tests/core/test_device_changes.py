"""DeviceChanges beside sets: what is to be written at once is told once, what is not written comes back."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.device_changes import LATER, NOW, DeviceChanges

ROWS = st.lists(st.integers(0, 19), max_size=6)


class Changes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.changes = DeviceChanges(19)
        self.now: set[int] = set()
        self.later: set[int] = set()
        self.rung = 0
        self.is_followed = False

    @precondition(lambda self: not self.is_followed)
    @rule()
    def follow(self) -> None:
        """Until then nothing is kept for anybody but the marks."""
        assert not self.changes._pending
        self.changes.follow(self.ring)
        self.is_followed = True

    def ring(self) -> None:
        self.rung += 1

    @rule(rows=ROWS)
    def mark(self, rows: list[int]) -> None:
        rung = self.rung
        self.changes.mark(np.array(rows, np.int64))
        self.now |= set(rows)
        assert self.rung == rung + (self.is_followed and bool(rows))

    @rule(rows=ROWS)
    def mark_later(self, rows: list[int]) -> None:
        self.changes.mark_later(np.array(rows, np.int64))
        self.later |= set(rows)

    @rule(rows=ROWS)
    def remove(self, rows: list[int]) -> None:
        self.changes.drop(np.array(rows, np.int64))
        self.now -= set(rows)
        self.later -= set(rows)

    @precondition(lambda self: self.is_followed)
    @rule(n_written=st.integers(0, 20))
    def write(self, n_written: int) -> None:
        """The first rows are written, the others come back."""
        rows = self.changes.take()
        assert rows.tolist() == sorted(self.now)
        written = rows[:n_written]
        self.changes.drop(written)
        self.now -= set(written.tolist())
        self.later -= set(written.tolist())
        self.changes.come_back(rows[n_written:])

    @invariant()
    def the_marks_are_known(self) -> None:
        assert np.concatenate(list(self.changes.blocks())).tolist() == sorted(self.now | self.later)
        every = np.arange(20, dtype=np.int32)
        assert self.changes.still(every, NOW).tolist() == sorted(self.now)
        assert self.changes.still(every, LATER).tolist() == sorted(self.later)


TestChanges = Changes.TestCase
