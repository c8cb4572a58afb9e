"""Devices out of a table and back into an empty one. What a machine of all changes proves stands in test_devices.py."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.columns import TextColumn
from gateway.core.devices import DeviceLimits, DeviceTable
from gateway.core.records import FLAG_BLOCKED, FLAG_CLOSED
from gateway.core.registration import Registrations
from gateway.core.segments import HashKey
from gateway.device_columns import concatenate
from gateway.errors import Overloaded

KEY = HashKey(b"a secret of sixteen bytes or more")
IDS = [bytes([number]) * 16 for number in range(12)]
TOKENS = [b"a" * 64, b"b" * 64]
LIMITS = DeviceLimits(devices_max=20, token_bytes_max=1 << 20, aliases_max=20, tag_bindings_max=50, profiles_max=8)


def ids_of(ids):
    return np.frombuffer(b"".join(ids), np.uint8).reshape(len(ids), 16)


def register(table, rows, now=100, **more):
    """rows: (id, channel, token) each."""
    batch = Registrations(
        ids_of([row[0] for row in rows]),
        np.array([row[1] for row in rows], np.uint8),
        TextColumn.from_rows([row[2] for row in rows]),
        np.zeros(len(rows), np.uint32),
        **more,
    )
    return table.register(0, batch, now)


def rows_of(table, ids):
    return table.find(ids_of(ids), 0)


def array(values, dtype=np.int32):
    return np.array(values, dtype)


def restore(table, parts):
    """How many tokens were lost."""
    restoring = table.restoring(sum(part.n for part in parts))
    for part in parts:
        restoring.add(part)
    for _ in restoring.end():
        pass
    return restoring.n_lost


@pytest.fixture
def table():
    return DeviceTable(LIMITS, KEY)


def test_a_stored_token_that_two_devices_hold_is_the_later_ones(table):
    """Two shard groups may disagree after a crash between their writes; in either order, in one part or two."""
    for is_first_later, is_one_part in ((False, False), (True, False), (False, True), (True, True)):
        parts = []
        for at in (0, 1):
            one = DeviceTable(LIMITS, KEY)
            register(one, [(IDS[at], 1, TOKENS[0])], now=200 if (at == 0) == is_first_later else 100)
            one.mute_tokens(rows_of(one, [IDS[at]]), one.token_hashes(rows_of(one, [IDS[at]])))
            parts.append(one.export(rows_of(one, [IDS[at]])))
        loaded = DeviceTable(LIMITS, KEY)
        assert restore(loaded, [concatenate(parts)] if is_one_part else parts) == 1
        rows = rows_of(loaded, IDS[:2]).tolist()
        holder, loser = rows if is_first_later else rows[::-1]
        assert (loaded.device(holder).token, loaded.device(loser).token) == (TOKENS[0], b"")
        assert (loaded.device(holder).is_muted, loaded.device(loser).is_muted) == (True, False)
        assert loaded.statistics().muted == 1


def test_a_table_too_small_for_what_was_stored_says_which_limit(table):
    register(table, [(device_id, 1, TOKENS[0] + device_id[:1]) for device_id in IDS])
    stored = table.export(rows_of(table, IDS))
    with pytest.raises(Overloaded, match="devices_max is 12, limit 11"):
        DeviceTable(DeviceLimits(devices_max=11, token_bytes_max=1 << 20), KEY).restoring(12).add(stored)


def test_a_switched_off_device_is_filtered_until_a_registration_says_otherwise(table):
    register(table, [(IDS[0], 1, TOKENS[0]), (IDS[1], 1, TOKENS[1])], is_closed=np.array([True, False]))
    rows = rows_of(table, IDS[:2])
    assert table.routing(rows).filters.tolist() == [FLAG_CLOSED, 0]
    assert [table.device(row).is_closed for row in rows.tolist()] == [True, False]
    register(table, [(IDS[0], 1, TOKENS[0])])
    assert table.routing(rows).filters.tolist() == [0, 0]


def test_a_blocked_device_stays_blocked_when_it_registers_and_after_a_restart(table):
    register(table, [(IDS[0], 1, TOKENS[0]), (IDS[1], 0, b"")])
    rows = rows_of(table, IDS[:2])
    table.block(rows[:1], True)
    register(table, [(IDS[0], 1, TOKENS[1])])
    assert table.routing(rows).filters.tolist() == [FLAG_BLOCKED, 0]
    loaded = DeviceTable(LIMITS, KEY)
    restore(loaded, [table.export(rows)])
    rows = rows_of(loaded, IDS[:2])
    assert [loaded.device(row).is_blocked for row in rows.tolist()] == [True, False]
    loaded.block(rows[:1], False)
    assert loaded.routing(rows).filters.tolist() == [0, 0]


def test_first_seen_is_when_a_device_came_and_last_seen_when_it_was_online(table):
    register(table, [(IDS[0], 0, b"")], now=50)
    register(table, [(IDS[0], 0, b"")], now=60)
    row = table.find_one(IDS[0], 0)
    table.set_online(row, 3, 1, 70)
    loaded = DeviceTable(LIMITS, KEY)
    restore(loaded, [table.export(array([row]))])
    device = loaded.device(loaded.find_one(IDS[0], 0))
    assert (device.first_seen_unix_s, device.registered_unix_s, device.last_seen_unix_s, device.fd) == (50, 60, 70, -1)
