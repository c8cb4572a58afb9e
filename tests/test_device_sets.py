"""Which devices are in a set, against a set of Python's; with ids made so that their hashes are equal."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from gateway.device_columns import mixed_keys
from gateway.device_sets import DeviceSet

#: Equal for the hash: what the upper half adds, the lower one takes away.
ODD = 0x9E3779B97F4A7C15
ALIKE = [(ODD * high % (1 << 64)).to_bytes(8, "little") + high.to_bytes(8, "little") for high in range(4)]
OTHERS = [bytes([number]) * 16 for number in range(6)]
devices = st.lists(st.tuples(st.sampled_from(ALIKE + OTHERS), st.integers(0, 2)), max_size=12)


def columns(some):
    ids = np.frombuffer(b"".join(device_id for device_id, _ in some), np.uint8).reshape(len(some), 16)
    return ids, np.array([app for _, app in some], np.uint16)


@given(devices, devices)
def test_a_set_of_devices_has_what_was_put_in(known, asked):
    found = DeviceSet(*columns(known))
    assert len(found) == len(known)
    assert found.have(*columns(asked)).tolist() == [device in set(known) for device in asked]


def test_the_ids_that_are_made_alike_are():
    assert len(set(mixed_keys(*columns([(device_id, 1) for device_id in ALIKE])).tolist())) == 1
