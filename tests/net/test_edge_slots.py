"""The slot index against a dict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.edge_slots import SlotIndex

CONNECTIONS = 12
#: Slots that crowd into few homes as well as spread ones.
slots = st.integers(0, 40) | st.sampled_from([2**31 - 1, 2**30, 610 * 1_000_003 % 2**31])


@given(st.lists(st.tuples(slots, st.integers(0, CONNECTIONS - 1)), max_size=80))
def test_slot_index_agrees_with_a_dict(steps: list[tuple[int, int]]) -> None:
    column = np.full(CONNECTIONS, -1, np.int32)
    index = SlotIndex(CONNECTIONS, column.data)
    model: dict[int, int] = {}
    for slot, fd in steps:
        if int(column[fd]) in model and model[int(column[fd])] == fd:
            # The connection is in use: it ends.
            old = int(column[fd])
            index.remove(old, fd)
            del model[old]
            column[fd] = -1
        elif slot not in model:
            column[fd] = slot
            index.insert(slot, fd)
            model[slot] = fd
        assert len(index) == len(model)
        for known in {slot for slot, _ in steps}:
            assert index.find(known) == model.get(known, -1)


def test_slot_index_holds_as_many_as_it_was_made_for() -> None:
    column = np.arange(1_000, dtype=np.int32) * 7_919
    index = SlotIndex(1_000, column.data)
    for fd, slot in enumerate(column.tolist()):
        index.insert(slot, fd)
    assert [index.find(slot) for slot in column.tolist()] == list(range(1_000))
    for fd, slot in enumerate(column.tolist()):
        index.remove(slot, fd)
        assert index.find(slot) == -1
    assert len(index) == 0


def test_slot_index_does_not_forget_what_it_does_not_know() -> None:
    index = SlotIndex(4, np.zeros(4, np.int32).data)
    with pytest.raises(KeyError):
        index.remove(3, 0)
