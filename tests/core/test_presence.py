"""Presence: counts by app and platform, and a ring of 24 hours that stays bounded."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.presence import OTHER, SLOT_S, SLOTS, OnlineHistory, count_platforms

#: The last number is beyond what is counted by place.
PLATFORMS = {0: "", 1: "ios", 2: "android", 3: "android", 65_535: "tv"}
START = 3_000_000 * SLOT_S


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(sorted(PLATFORMS))), max_size=50))
def test_platforms_are_counted_as_a_plain_loop_counts_them(devices: list[tuple[int, int]]) -> None:
    apps = np.array([app for app, _ in devices], np.uint16)
    profiles = np.array([profile for _, profile in devices], np.uint32)
    expected = Counter((app, PLATFORMS[profile]) for app, profile in devices)
    assert count_platforms(apps, profiles, PLATFORMS.__getitem__) == expected


def test_history_holds_one_look_per_slot() -> None:
    history = OnlineHistory(1)
    assert history.record(START, {(0, "ios"): 5})
    assert not history.record(START + SLOT_S - 1, {(0, "ios"): 6})
    assert history.record(START + SLOT_S, {(0, "ios"): 7, (0, "android"): 1})
    found = history.of_app(0)
    assert (found.platforms, found.at_unix_s.tolist()) == (["ios", "android"], [START, START + SLOT_S])
    assert found.online.tolist() == [[5, 0], [7, 1]]


def test_history_forgets_what_is_older_than_a_day_even_over_a_gap() -> None:
    history = OnlineHistory(1)
    for slot in range(SLOTS + 10):
        history.record(START + slot * SLOT_S, {(0, "ios"): slot})
    assert len(history) == SLOTS
    assert history.of_app(0).online[:, 0].tolist() == list(range(10, SLOTS + 10))
    later = START + (SLOTS + 10 + 100) * SLOT_S
    history.record(later, {(0, "ios"): 1})
    times = history.of_app(0).at_unix_s.tolist()
    assert times == sorted(times)
    assert times[-1] == later
    assert times[0] > later - SLOTS * SLOT_S


def test_history_after_a_step_back_of_the_clock_keeps_what_it_has() -> None:
    history = OnlineHistory(1)
    history.record(START + 5 * SLOT_S, {(0, "ios"): 5})
    assert not history.record(START + (5 - SLOTS) * SLOT_S, {(0, "ios"): 9})
    assert history.of_app(0).online.tolist() == [[5]]


def test_history_counts_platforms_beyond_its_series_as_other_of_their_app() -> None:
    history = OnlineHistory(2, series_max=2)
    history.record(START, {(0, "a"): 1, (1, "b"): 2, (0, "c"): 4, (0, "d"): 8, (1, "e"): 16})
    first, second = history.of_app(0), history.of_app(1)
    assert (first.platforms, first.online.tolist()) == ([OTHER, "a"], [[12, 1]])
    assert (second.platforms, second.online.tolist()) == ([OTHER, "b"], [[16, 2]])


@given(
    st.lists(st.tuples(st.integers(0, 400), st.dictionaries(st.sampled_from("abc"), st.integers(1, 9))), max_size=40)
)
def test_history_agrees_with_a_plain_list(looks: list[tuple[int, dict[str, int]]]) -> None:
    history, plain, slot = OnlineHistory(1), {}, 0
    for later, counts in looks:
        slot += later
        history.record(START + slot * SLOT_S, {(0, name): n for name, n in counts.items()})
        plain.setdefault(slot, counts)
    plain = {at: counts for at, counts in plain.items() if at > max(plain) - SLOTS}
    found = history.of_app(0)
    assert found.at_unix_s.tolist() == [START + at * SLOT_S for at in plain]
    for row, counts in zip(found.online.tolist(), plain.values(), strict=True):
        assert {name: n for name, n in zip(found.platforms, row, strict=True) if n} == counts
