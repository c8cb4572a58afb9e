"""A process that is made ahead rests between its imports, until it is told what it is."""

from __future__ import annotations

import pytest

from gateway.app_spare import Rests


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits: list[float] = []
        self.is_told = False

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.is_told


def test_each_piece_of_work_is_followed_by_a_rest_three_times_as_long() -> None:
    clock = Clock()
    rests = Rests(clock.wait, lambda: clock.now_s)
    for worked_s in (0.001, 0.001, 0.01, 0.0, 3.0):
        clock.now_s += worked_s
        assert rests.find_spec("json", None) is None
    # The first two are one piece; the last one is a library in one piece.
    assert clock.waits == pytest.approx([0.006, 0.03, 0.2])


def test_one_that_is_told_what_it_is_rests_no_more() -> None:
    clock = Clock()
    rests = Rests(clock.wait, lambda: clock.now_s)
    clock.is_told = True
    for _ in range(3):
        clock.now_s += 0.01
        rests.find_spec("json", None)
    assert (len(clock.waits), rests.is_over) == (1, True)
