"""DeviceGates against a dictionary."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.device_gates import DeviceGates

slots_of = st.lists(st.integers(-1, 8), max_size=6)


def column(slots: list[int]) -> np.ndarray:
    return np.array(slots, np.int32)


@given(st.lists(st.tuples(slots_of, st.floats(0.1, 20.0), st.floats(0.0, 8.0)), max_size=12), slots_of)
def test_gates_agree_with_a_dictionary(closings: list[tuple[list[int], float, float]], asked: list[int]) -> None:
    gates = DeviceGates()
    plain: dict[int, float] = {}
    now = 0.0
    for slots, wait_s, passed_s in closings:
        gates.close(column(slots), np.full(len(slots), now + wait_s), now)
        for slot in slots:
            if slot >= 0:
                plain[slot] = max(plain.get(slot, -math.inf), now + wait_s)
        now += passed_s
        ends = [plain.get(slot, -math.inf) for slot in asked]
        found = gates.closed_until(column(asked), now)
        if any(end > now for end in ends):
            assert found is not None
            assert [end > now for end in found.tolist()] == [end > now for end in ends]
            assert [end for end in found.tolist() if end > now] == [end for end in ends if end > now]
        else:
            assert found is None


def test_gates_are_bounded_and_those_forgotten_would_open_first() -> None:
    gates = DeviceGates(devices_max=3)
    gates.close(column([1, 2, 3, 4, 5]), np.array([10.0, 50.0, 30.0, 20.0, 40.0]), 0.0)
    assert len(gates) == 3
    found = gates.closed_until(column([1, 2, 3, 4, 5]), 0.0)
    assert found is not None
    assert found.tolist() == [-math.inf, 50.0, 30.0, -math.inf, 40.0]


def test_gates_that_have_opened_are_forgotten() -> None:
    gates = DeviceGates()
    gates.close(column([1, 2]), np.array([5.0, 9.0]), 0.0)
    gates.close(column([3]), np.array([20.0]), 6.0)
    assert len(gates) == 2
