"""UnregisterGuard and its list, against twins that keep everything row by row."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from gateway.core.unregister_guard import GuardSettings, HeldRemovals, Removals, UnregisterGuard

SETTINGS = GuardSettings(window_s=100.0, rows_min=50, dead_share_max=0.5, dead_share_normal=0.2, held_max=10)


def test_a_normal_share_of_dead_tokens_is_removed() -> None:
    guard = UnregisterGuard(SETTINGS)
    for second in range(1000):
        assert not guard.on_verdicts(95, 5, float(second))
    assert not guard.is_holding
    assert guard.share() == 0.05


def test_a_spike_holds_back_the_very_burst_that_brings_it() -> None:
    guard = UnregisterGuard(SETTINGS)
    assert guard.on_verdicts(0, 50, 1.0)
    assert guard.is_holding
    assert not guard.on_verdicts(0, 50, 2.0), "told once"


def test_few_verdicts_are_no_spike() -> None:
    guard = UnregisterGuard(SETTINGS)
    assert not guard.on_verdicts(0, 49, 1.0)
    assert not guard.is_holding
    assert guard.on_verdicts(0, 1, 2.0)


def test_it_is_normal_again_only_below_the_lower_limit() -> None:
    guard = UnregisterGuard(SETTINGS)
    guard.on_verdicts(40, 60, 1.0)
    assert not guard.on_verdicts(100, 0, 2.0), "a share of 0.3"
    assert guard.on_verdicts(100, 0, 3.0), "a share of 0.2"
    assert not guard.is_holding


def test_a_pause_does_not_end_a_spike_and_new_verdicts_do() -> None:
    """Nothing was proven meanwhile; and the last verdicts of a quiet app stay in force."""
    guard = UnregisterGuard(SETTINGS)
    guard.on_verdicts(0, 60, 1.0)
    assert not guard.on_verdicts(0, 0, 100_000.0)
    assert guard.is_holding
    assert not guard.on_verdicts(10, 0, 100_001.0)
    assert guard.on_verdicts(40, 0, 100_002.0)


def test_a_quiet_app_is_guarded_too() -> None:
    """One verdict an hour, all of them dead: the window reaches as far back as it must."""
    guard = UnregisterGuard(SETTINGS)
    began = [hour for hour in range(200) if guard.on_verdicts(0, 1, hour * 3600.0)]
    assert began == [49]


def test_a_limit_of_one_switches_it_off() -> None:
    guard = UnregisterGuard(SETTINGS._replace(dead_share_max=1.0))
    assert not guard.on_verdicts(0, 1000, 1.0)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, 12.0, 300.0]), st.integers(0, 40), st.integers(0, 40)), max_size=80)
)
def test_guard_agrees_with_a_twin_that_looks_at_single_verdicts(bursts: list[tuple[float, int, int]]) -> None:
    guard, now = UnregisterGuard(SETTINGS), 0.0
    verdicts: list[tuple[int, bool]] = []
    is_holding = False
    for wait_s, alive, dead in bursts:
        now += wait_s
        slot = int(now // 10.0)
        verdicts += [(slot, False)] * alive + [(slot, True)] * dead
        for old in sorted({at for at, _ in verdicts if at <= slot - 10}):
            left = [verdict for verdict in verdicts if verdict[0] > old]
            if len(left) < 50:
                break
            verdicts = left
        if len(verdicts) >= 50:
            share = sum(is_dead for _, is_dead in verdicts) / len(verdicts)
            is_holding = share > (0.2 if is_holding else 0.5)
        guard.on_verdicts(alive, dead, now)
        assert guard.is_holding == is_holding


def removals(first: int, n: int) -> Removals:
    rows = np.arange(first, first + n, dtype=np.int32)
    return Removals(rows, rows.astype(np.uint32) + 7, rows.astype(np.int64) * 1000)


@given(
    st.sampled_from([1, 10, 100, 1000]),
    st.lists(st.tuples(st.sampled_from(["put", "put", "take", "clear"]), st.integers(0, 150)), max_size=60),
)
def test_the_list_agrees_with_a_plain_one(rows_max: int, steps: list[tuple[str, int]]) -> None:
    held, plain, first = HeldRemovals(rows_max), list[int](), 0
    for name, n in steps:
        match name:
            case "put":
                dropped = held.put(removals(first, n))
                plain += range(first, first + n)
                first += n
                assert dropped == max(0, len(plain) - rows_max)
                plain = plain[dropped:]
            case "take":
                taken = held.take(n)
                assert taken.rows.tolist() == plain[:n]
                assert taken.token_hashes.tolist() == [row + 7 for row in taken.rows.tolist()]
                assert taken.dead_since_unix_ms.tolist() == [row * 1000 for row in taken.rows.tolist()]
                plain = plain[n:]
            case "clear":
                assert held.clear() == len(plain)
                plain.clear()
        assert held.rows == len(plain)
