"""CountWindow against a list of everything that was ever added."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from gateway.core.count_window import SLOTS, CountWindow


class PlainWindow:
    """Every addition with the number of its slot; sums by looking at all of them."""

    def __init__(self, span_s: float, kept_min: int) -> None:
        self.slot_s, self.kept_min = span_s / SLOTS, kept_min
        self.added: list[tuple[int, tuple[int, ...]]] = []

    def add(self, now: float, *counts: int) -> None:
        number = int(now // self.slot_s)
        self.settle(number)
        if any(counts):
            self.added.append((max([number, *(at for at, _ in self.added)]), counts))
        self.settle(number)

    def settle(self, number: int) -> None:
        for old in sorted({at for at, _ in self.added if at <= number - SLOTS}):
            left = [entry for entry in self.added if entry[0] > old]
            if self.kept_min and sum(map(sum, (counts for _, counts in left))) < self.kept_min:
                return
            self.added = left

    def sums(self) -> list[int]:
        return [sum(counts[kind] for _, counts in self.added) for kind in range(2)]


@given(
    st.sampled_from([0, 1, 7, 100]),
    st.lists(st.tuples(st.integers(-3, 400), st.integers(0, 50), st.integers(0, 50)), max_size=60),
)
def test_window_agrees_with_a_list_of_everything(kept_min: int, steps: list[tuple[int, int, int]]) -> None:
    window, plain = CountWindow(2, span_s=10.0, kept_min=kept_min), PlainWindow(10.0, kept_min)
    now = 1000.0
    for step, first, second in steps:
        now += step / 16
        window.add(now, first, second)
        plain.add(now, first, second)
        assert window.sums == plain.sums()
        assert window.total == sum(window.sums)


def test_window_forgets_what_is_older_than_its_span() -> None:
    window = CountWindow(1, span_s=10.0)
    window.add(100.0, 5)
    window.add(108.5, 1)
    assert window.total == 6
    window.settle(110.5)
    assert window.total == 1
    window.settle(1e6)
    assert (window.total, window.sums) == (0, [0])


def test_window_keeps_old_counts_until_younger_ones_are_enough() -> None:
    window = CountWindow(1, span_s=10.0, kept_min=5)
    window.add(100.0, 4)
    window.add(200.0, 4)
    assert window.total == 8
    window.add(300.0, 1)
    assert window.total == 5
    window.clear()
    assert window.total == 0
