"""Tags of devices against a dict of tuples."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gateway.columns import TextColumn
from gateway.core.segments import HashKey
from gateway.core.tags import DeviceTags
from gateway.errors import Overloaded
from gateway.tag_columns import TagColumns, concatenate_tags, no_tags, tags_from_joined

KEY = HashKey(b"a secret of sixteen bytes or more")
TAGS = [b"vip", b"new", "北京".encode(), b"t" * 128, b"beta", b"a", b"b"]
tag_lists = st.lists(st.sampled_from(TAGS), unique=True)
joined = st.lists(tag_lists.map(b"\n".join), max_size=6)


def columns_of(lists):
    return tags_from_joined(TextColumn.from_rows([b"\n".join(tags) for tags in lists]))


def array(values):
    return np.array(values, np.int32)


def lists_of(columns):
    return [columns.of(at) for at in range(len(columns.counts))]


@given(st.lists(st.dictionaries(st.integers(1, 12), tag_lists, min_size=1, max_size=5), max_size=8), st.booleans())
def test_tags_agree_with_a_dict(writes, may_repeat):
    tags, model = DeviceTags(KEY, devices_max=12, tags_max=10, bindings_max=200), {}
    for write in writes:
        columns = columns_of(write.values())
        if may_repeat:
            # As registrations bring them: a text for each time that it occurs.
            columns = TagColumns(
                columns.counts,
                np.arange(len(columns.numbers), dtype=np.uint32),
                columns.texts.take(columns.numbers),
            )
        tags.write(array(list(write)), columns if any(write.values()) else None)
        model |= {row: tuple(its) for row, its in write.items()}
    rows = array(range(1, 13))
    expected = [model.get(row, ()) for row in rows.tolist()]
    assert [tags.of(row) for row in rows.tolist()] == expected
    assert lists_of(tags.columns(rows)) == expected
    for tag in TAGS:
        assert tags.have(array([-1, *rows]), tag).tolist() == [False, *(tag in its for its in expected)]
    assert len(tags) == len({tag for its in expected for tag in its})
    assert tags.bindings == sum(map(len, expected))


def test_more_distinct_tags_than_the_limit_are_refused_and_change_nothing():
    tags = DeviceTags(KEY, devices_max=5, tags_max=2, bindings_max=20)
    tags.write(array([1]), columns_of([[b"a", b"b"]]))
    with pytest.raises(Overloaded, match="tags_max is 3, limit 2"):
        tags.write(array([1, 2]), columns_of([[b"a"], [b"c"]]))
    assert (tags.of(1), tags.of(2)) == ((b"a", b"b"), ())
    tags.write(array([1]), None)
    tags.write(array([2]), columns_of([[b"c", b"d"]]))
    assert tags.of(2) == (b"c", b"d")


def _rows(part):
    """A part of devices that never had tags has two of them."""
    return [b""] * 2 if part is None else part


@given(st.lists(joined | st.none(), max_size=4), st.data())
def test_columns_of_tags_are_taken_and_joined_as_lists_are(parts, data):
    lists = [[tuple(row.split(b"\n")) if row else () for row in _rows(part)] for part in parts]
    columns = concatenate_tags(
        [None if part is None else tags_from_joined(TextColumn.from_rows(part)) for part in parts],
        list(map(len, lists)),
    )
    whole = [one for part in lists for one in part]
    assert (columns is None) == all(part is None for part in parts)
    if columns is None:
        columns = no_tags(len(whole))
    assert lists_of(columns) == whole
    wanted = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=6)) if whole else []
    assert lists_of(columns.take(np.array(wanted, np.int64))) == [whole[at] for at in wanted]
