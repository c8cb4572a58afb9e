"""Presence as an actor: it records each ten minutes once, whatever the clock does."""

from __future__ import annotations

from typing import Any

import numpy as np
import trio

from gateway.actors.presence import Presence
from gateway.clock import DevelopmentClock
from gateway.core.devices import DeviceLimits, DeviceTable
from gateway.core.presence import SLOT_S
from gateway.core.segments import HashKey
from gateway.net.edge_table import ConnectionTable
from gateway.wire.rpc.messages import OnlineCounts


class Link:
    def __init__(self) -> None:
        self.table = ConnectionTable(64, 40, now=0.0)


def make(clock: DevelopmentClock) -> tuple[Presence, Link]:
    link = Link()
    limits = DeviceLimits(devices_max=10, token_bytes_max=1 << 16, aliases_max=1, tag_bindings_max=1)
    devices = DeviceTable(limits, HashKey(b"k" * 32))
    return Presence(n_apps=1, devices=devices, link=lambda: link, clock=clock, now=trio.current_time), link


async def test_presence_records_a_slot_when_it_ends_and_answers_the_history(autojump_clock: Any) -> None:
    clock = DevelopmentClock()
    presence, link = make(clock)
    link.table.open(5, 10.0)
    link.table.log_in(5, 0, 0, bytes(16), 60, 0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(presence.run)
        await trio.sleep(1)
        assert len(presence.history) == 0
        for slots in (1, 1, 1, 2):
            # Wall time does not jump with the loop's: it is moved, and the loop lets the actor look.
            clock.advance(slots * SLOT_S)
            await trio.sleep(20)
        nursery.cancel_scope.cancel()
    answer = await presence.counted(OnlineCounts(id=1), 0)
    # Three slots passed and were recorded; of the two that the clock jumped over, the last.
    assert answer.n == 4
    assert np.frombuffer(answer.history, "<u4").tolist() == [1] * 4
    assert answer.platforms == [""]
    times = np.frombuffer(answer.at_unix_s, "<u4")
    assert not (times % SLOT_S).any()
