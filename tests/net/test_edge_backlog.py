"""Rows that wait for their turn to be written are bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gateway.net.edge_backlog import BACKLOG_ROWS_MAX
from gateway.net.edge_settings import ListenerSettings
from gateway.net.edge_table import Count
from gateway.wire.mqtt.session import SessionState


@pytest.mark.parametrize("limit", ["rows", "bytes"])
def test_backlog_writes_at_once_what_is_too_much(start: Callable[..., Any], limit: str) -> None:
    bench = start(ListenerSettings(port=0))
    for opened in range(2):
        bench.connect()
        bench.until_open(opened + 1)
    fds = bench.table.state.nonzero()[0].astype(np.int32)
    states = bench.table.state[fds]
    bench.table.state[fds] = SessionState.CONNECTED
    generations = bench.table.generation[fds]
    packet = np.zeros((2, 1 if limit == "rows" else 1 << 20), np.uint8)
    calls = BACKLOG_ROWS_MAX // 2 if limit == "rows" else 2
    backlog = bench.edge.backlog
    for _ in range(calls):
        backlog.add(fds, generations, packet, bench.now)
    assert (len(backlog), bench.count(Count.BYTES_OUT)) == (2 * calls, 0)
    backlog.add(fds, generations, packet, bench.now)
    assert len(backlog) == 2 * calls
    assert backlog.size_bytes == packet.size * calls
    assert bench.count(Count.BYTES_OUT) > 0
    bench.table.state[fds] = states
