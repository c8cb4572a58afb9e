"""PresenceStreams: an app's devices as they come, go and speak of themselves, as far as its client has room."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.presence import Presence
from gateway.actors.presence_stream import PresenceStreams
from gateway.actors.rpc_streams import Streams
from gateway.clock import DevelopmentClock
from gateway.columns import TextColumn
from gateway.core.devices import DeviceLimits, DeviceTable
from gateway.core.presence_log import Change
from gateway.core.registration import Registrations
from gateway.core.segments import HashKey
from gateway.core.uplink import AppState, StateReport
from gateway.net.edge_table import ConnectionTable
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import BadRequest


class ConnectionTwin:
    """One client: how many rows it has room for, and the changes it got: (device, change, state)."""

    def __init__(self) -> None:
        self.session = self
        self.credit = 0
        self.rows: list[tuple[int, int, int]] = []
        self.cursor = b""
        self.is_gone = False
        self.has_begun = False

    def stream_credit(self, stream: int) -> int:
        return self.credit

    def answer(self, page: messages.PresenceChanges) -> bool:
        if self.is_gone:
            return False
        assert page.n <= self.credit
        assert (page.n > 0) is self.has_begun
        self.has_begun = True
        assert page.n == len(page.change) == len(page.state) == len(page.device_ids) // 16 == len(page.at_unix_ms) // 8
        self.credit -= page.n
        self.cursor = page.cursor
        self.rows += [(page.device_ids[16 * row], page.change[row], page.state[row]) for row in range(page.n)]
        return True


class Stage:
    """Presence over a device table of apps 0 and 1; device k has the id of sixteen bytes k."""

    def __init__(self, changes_max: int = 100, incarnation: int = 7) -> None:
        self.table = ConnectionTable(64, 40, now=0.0)
        self.devices = DeviceTable(DeviceLimits(100, 1 << 16, 1, 1), HashKey(b"k" * 32))
        self.presence = Presence(
            n_apps=2,
            devices=self.devices,
            link=lambda: self,
            clock=DevelopmentClock(),
            now=trio.current_time,
            changes_max=changes_max,
            incarnation=incarnation,
        )
        self.all = Streams()
        self.streams: PresenceStreams = self.presence.streams(self.all)

    def device(self, number: int, app: int = 0) -> int:
        ids = np.full((1, 16), number, np.uint8)
        row = self.devices.find(ids, app)[0]
        if row >= 0:
            return int(row)
        none = Registrations(
            ids, np.zeros(1, np.uint8), TextColumn(b"", np.zeros(2, np.uint32)), np.zeros(1, np.uint32)
        )
        return int(self.devices.register(app, none, 1).rows[0])

    def connect(self, number: int, fd: int, app: int = 0) -> int:
        slot = self.device(number, app)
        self.table.open(fd, 10.0)
        self.table.log_in(fd, slot, app, bytes([number]) * 16, 60, 0.0)
        self.presence.came(slot)
        return slot

    def follow(
        self, nursery: trio.Nursery, credit: int = 1_000, cursor: bytes = b"", app: int = 0
    ) -> tuple[ConnectionTwin, list[BadRequest]]:
        connection, errors = ConnectionTwin(), []
        connection.credit = credit
        position = self.streams.check_cursor(cursor)

        async def run() -> None:
            try:
                await self.streams.run(connection, messages.SubscribePresence(id=3), position, app)
            except BadRequest as error:
                errors.append(error)

        nursery.start_soon(run)
        return connection, errors


async def test_stream_tells_who_comes_goes_and_what_they_say(nursery: trio.Nursery, autojump_clock: Any) -> None:
    stage = Stage()
    stage.connect(9, 9)
    mine, _ = stage.follow(nursery)
    other, _ = stage.follow(nursery, app=1)
    await trio.sleep(1)
    slot = stage.connect(1, 1)
    stage.connect(2, 2, app=1)
    stage.presence.change_state(slot, StateReport(True, None))
    stage.presence.change_state(slot, StateReport(True, None))  # nothing new
    stage.presence.switch_notifications(slot, is_on=False)
    stage.presence.switch_notifications(slot, is_on=False)
    await trio.sleep(1)
    stage.table.free(1)
    stage.presence.change_state(slot, StateReport(False, None))  # it is gone
    stage.presence.went(np.array([slot], np.int32))
    await trio.sleep(1)
    foreground = AppState.FOREGROUND_KNOWN | AppState.FOREGROUND
    assert mine.rows == [
        (1, Change.ONLINE, 0),
        (1, Change.STATE, foreground),
        (1, Change.STATE, foreground | AppState.NOTIFICATIONS_OFF),
        (1, Change.OFFLINE, 0),
    ]
    assert other.rows == [(2, Change.ONLINE, 0)]
    assert stage.presence.state_of(slot) == AppState.NOTIFICATIONS_OFF


async def test_stream_waits_for_credit_and_goes_on_from_a_cursor(nursery: trio.Nursery, autojump_clock: Any) -> None:
    stage = Stage()
    start, _ = stage.follow(nursery, credit=2)
    await trio.sleep(1)
    for number in range(1, 6):
        stage.connect(number, number)
    await trio.sleep(1)
    assert [row[0] for row in start.rows] == [1, 2]
    again, _ = stage.follow(nursery, cursor=start.cursor)
    start.credit += 1
    stage.all.credited(start, 3)  # type: ignore[arg-type]
    await trio.sleep(1)
    assert [row[0] for row in start.rows] == [1, 2, 3]
    assert [row[0] for row in again.rows] == [3, 4, 5]


async def test_stream_that_falls_behind_ends_and_says_so(nursery: trio.Nursery, autojump_clock: Any) -> None:
    stage = Stage(changes_max=3)
    slow, errors = stage.follow(nursery, credit=1)
    await trio.sleep(1)
    stage.connect(1, 1)
    await trio.sleep(1)
    for number in range(2, 7):
        stage.connect(number, number)
    slow.credit = 10
    stage.all.credited(slow, 3)  # type: ignore[arg-type]
    await trio.sleep(1)
    assert [error.code for error in errors] == ["cursor_expired"]
    with pytest.raises(BadRequest, match="gone"):
        stage.streams.check_cursor(slow.cursor)
    assert len(stage.all) == 0


async def test_cursor_of_another_life_or_of_none_is_refused() -> None:
    stage, other = Stage(incarnation=7), Stage(incarnation=8)
    stage.connect(1, 1)
    other.connect(1, 1)
    mine = other.streams._cursor(1)
    assert other.streams.check_cursor(mine) == 1
    for cursor in (mine, b"x", mine + b"x"):
        with pytest.raises(BadRequest):
            stage.streams.check_cursor(cursor)


async def test_stream_ends_when_its_client_cancels_or_is_gone(nursery: trio.Nursery, autojump_clock: Any) -> None:
    stage = Stage()
    cancelled, _ = stage.follow(nursery)
    closed, _ = stage.follow(nursery)
    deaf, _ = stage.follow(nursery)
    await trio.sleep(1)
    deaf.is_gone = True
    stage.all.cancelled(cancelled, 3)  # type: ignore[arg-type]
    stage.all.closed(closed)  # type: ignore[arg-type]
    stage.connect(1, 1)
    await trio.sleep(1)
    assert (cancelled.rows, closed.rows) == ([], [])
    assert len(stage.all) == 0
