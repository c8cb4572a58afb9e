"""Profiles, aliases and tags: limits, and a plain model of what is bound to whom."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gateway.columns import TextColumn
from gateway.content import Fault
from gateway.core.details import Details, Profile, Profiles
from gateway.core.segments import HashKey
from gateway.tag_columns import TagColumns

KEY = HashKey(b"a secret of sixteen bytes or more")


def make(**limits):
    defaults = {"devices_max": 100, "profiles_max": 10, "aliases_max": 100, "tags_max": 50, "tag_bindings_max": 1000}
    return Details(KEY, **defaults | limits)


def tag_columns(lists):
    """As registrations bring them: a text for each time that it occurs."""
    counts = np.array([len(its) for its in lists], np.uint32)
    texts = TextColumn.from_rows([tag for its in lists for tag in its])
    return TagColumns(counts, np.arange(len(texts), dtype=np.uint32), texts)


def write(details, app, rows):
    """rows: row -> (alias, tags)"""
    details.write(
        np.array(list(rows), np.int32),
        app,
        TextColumn.from_rows([alias for alias, _ in rows.values()]),
        tag_columns([its_tags for _, its_tags in rows.values()]),
    )


aliases = st.sampled_from([b"", b"user-1", "用户二".encode(), b"u3"])
tags = st.lists(st.sampled_from([b"vip", b"new", b"beta"]), unique=True)
device_rows = st.integers(1, 12)


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.dictionaries(device_rows, st.tuples(aliases, tags), min_size=1, max_size=4))
        | st.sets(device_rows, max_size=4),
        max_size=12,
    )
)
def test_details_agree_with_a_plain_model(steps):
    details = make()
    model = {}
    for step in steps:
        if isinstance(step, set):
            details.forget(np.array(sorted(step), np.int32))
            for row in step:
                model.pop(row, None)
        else:
            # A device is of one app for good: its row says which.
            app, rows = step
            rows = {2 * row + app: its for row, its in rows.items()}
            write(details, app, rows)
            model |= rows
    for row in range(2, 26):
        assert (details.alias(row), details.tags(row)) == (
            model.get(row, (b"", ()))[0],
            tuple(model.get(row, (b"", ()))[1]),
        )
    bound = [(row % 2, alias) for row, (alias, _) in model.items() if alias]
    for app, alias in set(bound):
        expected = sorted(row for row, (its_alias, _) in model.items() if its_alias == alias and row % 2 == app)
        assert details.alias_rows(app, alias).tolist() == expected
    statistics = details.statistics()
    assert statistics.devices_with_alias == len(bound)
    assert statistics.tag_bindings == sum(len(its_tags) for _, its_tags in model.values())
    assert statistics.tags == len({tag for _, its_tags in model.values() for tag in its_tags})


faulty_tags = st.lists(st.sampled_from([b"vip", b"new", b"x", b"y", b"", b"t" * 129, b"t" * 128]), max_size=4)


@given(
    st.dictionaries(device_rows, st.tuples(aliases, tags), max_size=12),
    st.lists(st.tuples(device_rows | st.just(-1), aliases | st.just(b"a" * 161), tags | faulty_tags), max_size=14),
    st.integers(0, 4),
    st.integers(0, 10),
    st.integers(0, 2),
)
def test_faults_of_a_batch_are_those_of_one_row_after_the_other(known, batch, aliases_left, bindings_left, tags_left):
    probe = make()
    write(probe, 0, known)
    has = probe.statistics()
    details = make(
        aliases_max=max(1, has.devices_with_alias + aliases_left),
        tag_bindings_max=max(1, has.tag_bindings + bindings_left),
        tags_max=max(1, has.tags + tags_left),
    )
    write(details, 0, known)
    one_by_one = details.plan()
    expected = []
    for at, (row, alias, its_tags) in enumerate(batch):
        fault = one_by_one.check(row, 0, alias, its_tags)
        expected += [] if fault is None else [(at, fault)]
    found = details.plan().faults(
        np.array([row for row, _, _ in batch], np.int32),
        0,
        TextColumn.from_rows([alias for _, alias, _ in batch]),
        tag_columns([its_tags for _, _, its_tags in batch]),
    )
    assert found == expected


def test_an_alias_stands_for_ten_devices_and_says_so():
    details = make()
    write(details, 0, {row: (b"user", []) for row in range(1, 10)})
    plan = details.plan()
    assert plan.check(-1, 0, b"user", []) is None
    fault = plan.check(-1, 0, b"user", [])
    assert fault == Fault("alias", "alias has 10 devices, limit 10 (devices_per_alias_max)")
    # A device that has it keeps it, and another app has an alias of its own.
    assert plan.check(3, 0, b"user", []) is None
    assert plan.check(-1, 1, b"user", []) is None


def test_limits_over_all_devices_are_named_with_their_value():
    details = make(aliases_max=1, tags_max=2, tag_bindings_max=3)
    plan = details.plan()
    assert plan.check(-1, 0, b"a", [b"x", b"y"]) is None
    assert plan.check(-1, 0, b"", [b"z"]) == Fault("tags", "distinct tags would pass the limit of 2 (tags_max)")
    assert "limit of 1 (aliases_max)" in plan.check(-1, 0, b"b", []).text
    assert plan.check(-1, 0, b"", [b"x", b"y"]) == Fault(
        "tags", "tags of all devices would be 4, limit 3 (tag_bindings_max)"
    )
    assert plan.check(-1, 0, b"", [b"x"]) is None


@pytest.mark.parametrize(
    ("alias", "its_tags", "text"),
    [
        (b"a" * 161, [], "alias is 161 bytes, limit 160"),
        (b"", [b"t%d" % n for n in range(101)], "tags are 101, limit 100 per device"),
        (b"", [b"t" * 129], "a tag is 129 bytes, expected 1 to 128"),
        (b"", [b""], "a tag is 0 bytes"),
        (b"", [b"same", b"same"], "tags name one tag twice"),
    ],
)
def test_faults_of_form_say_what_is_wrong(alias, its_tags, text):
    assert text in make().plan().check(-1, 0, alias, its_tags).text


def test_a_refused_row_takes_nothing_from_the_limits():
    plan = make(tag_bindings_max=2).plan()
    assert plan.check(-1, 0, b"a" * 161, [b"x", b"y"]) is not None
    assert plan.check(-1, 0, b"", [b"x", b"y"]) is None


def test_profiles_are_numbered_once_and_used_again_when_nobody_has_them():
    profiles = Profiles(2)
    first, second = Profile(b"ios", b"1.0", b"Asia/Shanghai"), Profile(b"android", b"2")
    assert profiles.number(Profile()) == 0
    assert [profiles.number(first), profiles.number(second), profiles.number(first)] == [1, 2, 1]
    profiles.count(np.array([1, 1, 2], np.uint32), 1)
    fault = profiles.number(Profile(b"web"))
    assert fault == Fault("app_version", "distinct profiles are 3, limit 2 (profiles_max)")
    profiles.count(np.array([2], np.uint32), -1)
    profiles.reclaim()
    assert profiles.number(Profile(b"web")) == 2
    assert profiles.profile(2) == Profile(b"web")
    assert profiles.profile(1) == first
    assert isinstance(profiles.number(second), Fault)


def test_profile_texts_have_a_limit():
    assert Profiles(2).number(Profile(b"x" * 65)) == Fault("platform", "platform is 65 bytes, limit 64")
