"""The vendor port's words: slots in template bytes and their way back."""

from __future__ import annotations

import itertools
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.vendor import Slot, parse_template, slot_json, slot_text

names = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
constants = st.binary(max_size=8).map(lambda text: text.replace(b"\x00", b""))


@given(st.lists(constants | names.map(Slot), max_size=10))
def test_a_template_comes_apart_into_the_parts_it_was_made_of(parts: list[bytes | Slot]) -> None:
    text = b"".join(slot_text(part.name) if isinstance(part, Slot) else part for part in parts)
    found = parse_template(text)
    assert [part for part in found if isinstance(part, Slot)] == [part for part in parts if isinstance(part, Slot)]
    assert b"".join(slot_text(part.name) if isinstance(part, Slot) else part for part in found) == text
    # Constants are joined and never empty, so that a renderer has as few pieces as there can be.
    assert all(part for part in found if isinstance(part, bytes))
    assert not any(isinstance(a, bytes) and isinstance(b, bytes) for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("text", [b"\x00", b"a\x00title", slot_text("title") + b"\x00", slot_text("a")[:-1]])
def test_a_slot_that_is_not_closed_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not closed"):
        parse_template(text)


def test_an_empty_template_has_no_parts() -> None:
    assert parse_template(b"") == ()


@given(st.text(max_size=8), names)
def test_a_slot_in_json_stands_alone_whatever_the_caller_writes(text: str, name: str) -> None:
    """Text of a caller cannot make a slot: JSON escapes NUL."""
    encoded = msgspec.json.encode({"caller": text.encode("utf-8", "replace").decode(), "slot": slot_json(name)})
    found = parse_template(encoded)
    assert [part for part in found if isinstance(part, Slot)] == [Slot(name)]
    filled = b"".join(b"value" if isinstance(part, Slot) else part for part in found)
    assert json.loads(filled)["slot"] == "value"
