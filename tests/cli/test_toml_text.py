"""toml_text.py: what we write, the standard library reads back."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.toml_text import to_toml

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
scalars = (
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
)
tables = st.recursive(
    st.dictionaries(keys, scalars | st.lists(scalars, max_size=3), max_size=4),
    lambda inner: st.dictionaries(keys, scalars | inner | st.lists(inner, min_size=1, max_size=3), max_size=4),
    max_leaves=12,
)


@given(tables)
def test_a_table_reads_back_as_itself(table: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(table)) == table


def test_arrays_of_tables_keep_their_order_and_their_own_tables() -> None:
    table = {"apps": [{"key": "a", "apns": {"port": 1}}, {"key": "b", "secrets": [{"file": "x"}, {"env": "Y"}]}]}
    assert tomllib.loads(to_toml(table)) == table


def test_a_value_without_a_form_in_toml_is_an_error() -> None:
    with pytest.raises(TypeError, match="NoneType"):
        to_toml({"key": None})
