"""TargetPaces: no span holds more messages than it may, whatever comes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.target_paces import TargetPaces
from gateway.vendor import TargetPace


def hashes(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def test_what_is_over_waits_for_the_place_of_what_left() -> None:
    paces = TargetPaces(TargetPace(2, 60.0))
    assert paces.take(hashes(7), 0.0).tolist() == [0.0]
    assert paces.take(hashes(7, 7, 7, 7, 8), 10.0).tolist() == [0.0, 50.0, 60.0, 110.0, 0.0]
    assert paces.take(hashes(7), 59.9).tolist() == [60.0 - 59.9]
    assert paces.take(hashes(7, 7), 60.0).tolist() == [0.0, 10.0]


def test_the_quietest_target_is_forgotten_first() -> None:
    paces = TargetPaces(TargetPace(1, 60.0), targets_max=2)
    paces.take(hashes(1, 2), 0.0)
    paces.take(hashes(1), 1.0)
    paces.take(hashes(3), 2.0)
    assert len(paces) == 2
    assert paces.take(hashes(1, 3), 3.0).all()


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.floats(0, 30, allow_subnormal=False), st.lists(st.integers(0, 2), max_size=6)), max_size=30),
)
def test_no_span_holds_more_than_it_may_and_none_waits_without_need(
    messages: int, steps: list[tuple[float, list[int]]]
) -> None:
    """The plain twin: one message after the other."""
    paces, now = TargetPaces(TargetPace(messages, 60.0)), 0.0
    left: dict[int, list[float]] = {}
    for pause, targets in steps:
        now += pause
        told = paces.take(hashes(*targets), now).tolist()
        for target, wait_s in zip(targets, told, strict=True):
            recent = [at for at in left.get(target, []) if at > now - 60.0]
            assert (wait_s <= 0) == (len(recent) < messages)
            if wait_s <= 0:
                left.setdefault(target, []).append(now)
