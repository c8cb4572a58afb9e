"""The ring of presence changes against a list."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.presence_log import ROW_BYTES, Change, PresenceLog

devices = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2), st.integers(0, 31)), min_size=1, max_size=9)


@given(
    st.integers(1, 12),
    st.lists(st.tuples(devices, st.sampled_from(Change)), max_size=8),
    st.integers(0, 2),
    st.integers(1, 4),
    st.integers(1, 7),
)
def test_reader_gets_all_changes_of_its_app_in_order_or_is_told_that_it_missed_some(
    rows_max: int, steps: list[tuple[list[tuple[int, int, int]], Change]], app: int, page: int, look: int
) -> None:
    log = PresenceLog(rows_max)
    plain: list[tuple[int, int, int, int, int]] = []
    for at, (rows, change) in enumerate(steps):
        ids = np.array([[number] * 16 for number, _, _ in rows], np.uint8)
        apps = np.array([one for _, one, _ in rows], np.uint16)
        states = np.array([state for _, _, state in rows], np.uint8)
        if len(rows) == 1:
            log.record_one(ids.tobytes(), rows[0][1], change, rows[0][2], 1_000 + at)
        else:
            log.record(ids, apps, change, states, 1_000 + at)
        plain += [(number, one, int(change), state, 1_000 + at) for number, one, state in rows]
    assert log.next_position == len(plain)
    first = max(0, len(plain) - rows_max)
    assert log.read(first - 1, app, page, look) is None
    assert log.read(len(plain) + 1, app, page, look) is None
    position, got = first, []
    while position < len(plain):
        found = log.read(position, app, page, look)
        assert found is not None
        changes, after = found
        assert len(changes.changes) <= page
        assert position < after <= position + look
        got += [
            (int(one[0]), app, change, state, at)
            for one, change, state, at in zip(
                changes.device_ids,
                changes.changes.tolist(),
                changes.states.tolist(),
                changes.at_unix_ms.tolist(),
                strict=True,
            )
        ]
        position = after
    assert got == [row for row in plain[first:] if row[1] == app]


def test_row_costs_what_the_budget_says() -> None:
    log = PresenceLog(10)
    columns = (log._ids, log._apps, log._changes, log._states, log._at_unix_ms)
    assert sum(column.nbytes for column in columns) == 10 * ROW_BYTES
