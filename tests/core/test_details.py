"""Profiles, aliases and tags: limits, and a plain model of what is bound to whom."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gateway.content import Fault
from gateway.core.details import Details, Profile, Profiles


def make(**limits):
    return Details(**{"profiles_max": 10, "aliases_max": 100, "tag_bindings_max": 1000, **limits})


aliases = st.sampled_from([b"", b"user-1", "用户二".encode(), b"u3"])
tags = st.lists(st.sampled_from([b"vip", b"new", b"beta"]), unique=True)


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 1025, 1026]), st.integers(0, 1), aliases, tags, st.booleans()), max_size=40
    )
)
def test_details_agree_with_a_plain_model(writes):
    details = make()
    model = {}
    app_of = {}
    for row, app, alias, its_tags, is_forgotten in writes:
        app = app_of.setdefault(row, app)
        if is_forgotten:
            details.forget(row)
            model.pop(row, None)
        else:
            details.write(row, app, alias, its_tags)
            model[row] = (alias, tuple(its_tags))
    for row in app_of:
        assert (details.alias(row), details.tags(row)) == model.get(row, (b"", ()))
    bound = [(app_of[row], alias) for row, (alias, _) in model.items() if alias]
    for app, alias in set(bound):
        expected = {row for row, (its_alias, _) in model.items() if its_alias == alias and app_of[row] == app}
        assert set(details.alias_rows(app, alias).tolist()) == expected
    statistics = details.statistics()
    assert statistics.devices_with_alias == len(bound)
    assert statistics.aliases == len(set(bound))
    assert statistics.tag_bindings == sum(len(its_tags) for _, its_tags in model.values())
    assert statistics.tags == len({tag for _, its_tags in model.values() for tag in its_tags})


def test_an_alias_stands_for_ten_devices_and_says_so():
    details = make()
    for row in range(1, 10):
        details.write(row, 0, b"user", [])
    plan = details.plan()
    assert plan.check(-1, 0, b"user", []) is None
    fault = plan.check(-1, 0, b"user", [])
    assert fault == Fault("alias", "alias has 10 devices, limit 10 (devices_per_alias_max)")
    # A device that has it keeps it, and another app has an alias of its own.
    assert plan.check(3, 0, b"user", []) is None
    assert plan.check(-1, 1, b"user", []) is None


def test_limits_over_all_devices_are_named_with_their_value():
    details = make(aliases_max=1, tag_bindings_max=3)
    plan = details.plan()
    assert plan.check(-1, 0, b"a", [b"x", b"y"]) is None
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


def test_equal_tags_are_one_object():
    details = make()
    details.write(1, 0, b"", [bytes(bytearray(b"some tag"))])
    details.write(2, 0, b"", [bytes(bytearray(b"some tag"))])
    assert details.tags(1)[0] is details.tags(2)[0]


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
