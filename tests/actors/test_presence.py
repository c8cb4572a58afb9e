"""Presence as an actor: it records each ten minutes once, whatever the clock does."""

from __future__ import annotations

from typing import Any

import numpy as np
import trio

from gateway.actors.presence import Presence
from gateway.clock import DevelopmentClock
from gateway.columns import TextColumn
from gateway.core.devices import DeviceLimits, DeviceTable
from gateway.core.presence import SLOT_S
from gateway.core.registration import Registrations
from gateway.core.segments import HashKey
from gateway.net.edge_table import ConnectionTable
from gateway.wire.rpc.messages import DeviceStatus, OnlineCounts


class Link:
    def __init__(self) -> None:
        self.table = ConnectionTable(64, 40, now=0.0)


def make(clock: DevelopmentClock, tags_max: int = 2) -> tuple[Presence, Link, DeviceTable]:
    link = Link()
    limits = DeviceLimits(devices_max=10, token_bytes_max=1 << 16, aliases_max=1, tag_bindings_max=10)
    devices = DeviceTable(limits, HashKey(b"k" * 32))
    presence = Presence(
        n_apps=1, devices=devices, link=lambda: link, clock=clock, now=trio.current_time, tags_max=tags_max
    )
    return presence, link, devices


async def test_presence_records_a_slot_when_it_ends_and_answers_the_history(autojump_clock: Any) -> None:
    clock = DevelopmentClock()
    presence, link, _ = make(clock)
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


async def test_tag_that_somebody_asked_for_has_a_curve_from_then_on(autojump_clock: Any) -> None:
    clock = DevelopmentClock()
    presence, link, devices = make(clock)
    for number in range(3):
        device_id = bytes([number + 1]) * 16
        link.table.open(5 + number, 10.0)
        link.table.log_in(5 + number, devices.add_bare(device_id, 0, 1_000), 0, device_id, 60, 0.0)
    texts = TextColumn.from_texts(["vip", "vip", "new"])
    ids = np.frombuffer(b"".join(bytes([row + 1]) * 16 for row in range(3)), np.uint8).reshape(3, 16)
    none = TextColumn(b"", np.zeros(4, np.uint32))
    columns = Registrations(
        ids, np.zeros(3, np.uint8), none, np.zeros(3, np.uint32), tag_counts=np.ones(3, np.uint32), tags=texts
    )
    assert not devices.register(0, columns, 1_000).faults

    async def asked(tag: str) -> tuple[int | None, list[int]]:
        answer = await presence.counted(OnlineCounts(id=1, tag=tag), 0)
        assert answer.tag_history is not None
        assert answer.tag_at_unix_s is not None
        assert not (np.frombuffer(answer.tag_at_unix_s, "<u4") % SLOT_S).any()
        return answer.tagged, np.frombuffer(answer.tag_history, "<u4").tolist()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(presence.run)
        await trio.sleep(1)

        async def slots(n: int) -> None:
            for _ in range(n):
                clock.advance(SLOT_S)
                await trio.sleep(20)

        assert await asked("vip") == (2, [])
        await slots(2)
        assert await asked("new") == (1, [])
        link.table.free(5)
        await slots(1)
        assert await asked("new") == (1, [1])
        assert await asked("vip") == (1, [2, 2, 1])
        # A third one: of the two that are kept, the one asked for longest ago goes, and is counted.
        assert (await asked("other"), presence.tags.forgotten) == ((0, []), 1)
        await slots(1)
        assert await asked("vip") == (1, [2, 2, 1, 1])
        assert await asked("new") == (1, [])
        # Nobody asks for a day: nothing is counted any more, and that is no refusal.
        forgotten = presence.tags.forgotten
        await slots(146)
        assert (len(presence.tags), presence.tags.forgotten) == (0, forgotten)
        nursery.cancel_scope.cancel()


async def test_device_online_was_seen_when_it_last_sent_something_and_one_that_is_gone_when_it_left(
    autojump_clock: Any,
) -> None:
    clock = DevelopmentClock()
    presence, link, devices = make(clock)
    ids = [bytes([number]) * 16 for number in (1, 2, 3)]
    began = trio.current_time()
    link.table = ConnectionTable(64, 40, now=began)
    since = clock.unix_ms() // 1000
    for fd, device_id in ((5, ids[0]), (6, ids[1])):
        row = devices.add_bare(device_id, 0, since)
        link.table.open(fd, began + 10.0)
        link.table.log_in(fd, row, 0, device_id, 600, began)
        devices.set_online(row, fd, link.table.generation_at[fd], since)
    await trio.sleep(100)
    clock.advance(100)
    link.table.touch(np.array([5]), trio.current_time())
    await trio.sleep(50)
    clock.advance(50)
    answer = presence.statuses(DeviceStatus(id=1, n=3, device_ids=memoryview(b"".join(ids))), 0)
    assert list(answer.is_known) == [1, 1, 0]
    assert list(answer.is_online) == [1, 1, 0]
    assert np.frombuffer(answer.since_unix_s, "<u4").tolist() == [since, since, 0]
    seen = np.frombuffer(answer.last_seen_unix_s, "<u4").tolist()
    assert [seen[0] - since in (100, 101), seen[1] - since in (0, 1), seen[2]] == [True, True, 0]
