"""Presence: who is online, since when and from where, for the RPC; the history of how many; each change as it comes.

Reads the device table and the connection table of the long link; writes to them only what devices say of themselves.
Requests are answered at once: a call names at most 1,000 devices, and counting all that are online takes a millisecond
per ten thousand. Counting a tag looks at the tags of each device online, in slices. Waits for: the clock. Is waited for
by: nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import trio

from gateway.actors.merged_presence import PresenceSource
from gateway.actors.presence_stream import PresenceStreams
from gateway.actors.rpc_streams import Streams
from gateway.clock import Clock
from gateway.columns import I32, U8, U16, TextColumn
from gateway.core.admission import AddressClass
from gateway.core.devices import DeviceTable
from gateway.core.presence import SLOT_S, OnlineHistory, PlatformCounts, TagHistory, count_platforms
from gateway.core.presence_log import Change, PresenceLog
from gateway.core.uplink import AppState, StateReport
from gateway.net.edge_table import ConnectionTable
from gateway.wire.mqtt.session import SessionState
from gateway.wire.rpc.columns_in import id_column
from gateway.wire.rpc.messages import DeviceStatus, DeviceStatuses, OnlineCounted, OnlineCounts, Texts

#: Devices whose tags are looked at in one step: a dict look-up and a comparison each, 0.3 us.
_TAG_ROWS = 4096
#: So many devices are noted one by one: columns of so few cost more.
_FEW_ROWS = 8
#: How often the end of a slot is looked for: a development clock may move in between.
_LOOK_S = 5.0


class Link(Protocol):
    """What is needed of the long link."""

    @property
    def table(self) -> ConnectionTable: ...


class Presence:
    """link: the long link that is there now; another one after a crash. now: its monotonic time.

    changes_max: changes kept for those who follow; incarnation: names this life of them in cursors.
    """

    def __init__(
        self,
        *,
        n_apps: int,
        devices: DeviceTable,
        link: Callable[[], Link],
        clock: Clock,
        now: Callable[[], float],
        changes_max: int = 1 << 16,
        tags_max: int = 64,
        incarnation: int = 0,
    ) -> None:
        self._devices = devices
        self._link = link
        self._clock = clock
        self._now = now
        self.history = OnlineHistory(n_apps)
        self.tags = TagHistory(tags_max)
        self._log = PresenceLog(changes_max)
        self._incarnation = incarnation

    async def run(self) -> None:
        """Records a slot whenever one has ended. If cancelled: the history stays as it is."""
        seen = self._now_unix_s() // SLOT_S
        while True:
            now_unix_s = self._now_unix_s()
            if now_unix_s // SLOT_S != seen:
                seen = now_unix_s // SLOT_S
                self.history.record(now_unix_s, self.counts())
                for app_index, tag in self.tags.followed(now_unix_s):
                    self.tags.record(now_unix_s, app_index, tag, await self._count_tag(tag.encode(), app_index))
            await trio.sleep(min(_LOOK_S, SLOT_S - now_unix_s % SLOT_S))

    def _now_unix_s(self) -> int:
        return self._clock.unix_ms() // 1000

    # Changes

    def streams(self, streams: Streams) -> PresenceStreams:
        """What answers `subscribe_presence`."""
        return PresenceStreams(self._log, self._incarnation, streams)

    def source(self) -> PresenceSource:
        """What answers it where there are several workers: this one's part."""
        return PresenceSource(self._log)

    def came(self, row: int) -> None:
        """The device is online, and was not."""
        self._record_one(row, Change.ONLINE)

    def went(self, rows: I32) -> None:
        """These devices are offline, and were not."""
        if len(rows) <= _FEW_ROWS:
            for row in rows.tolist():
                self._record_one(row, Change.OFFLINE)
            return
        apps = self._devices.presence(rows).app
        states = np.zeros(len(rows), np.uint8)
        self._log.record(self._devices.ids(rows), apps, Change.OFFLINE, states, self._clock.unix_ms())

    def change_state(self, slot: int, report: StateReport) -> None:
        """A connected device has said something of itself; one that is gone meanwhile has not."""
        table = self._link().table
        fd = table.slots.find(slot)
        if fd < 0:
            return
        state = report.apply(table.app_state_at[fd])
        if state != table.app_state_at[fd]:
            table.app_state_at[fd] = state
            self._record_one(slot, Change.STATE)

    def switch_notifications(self, slot: int, *, is_on: bool) -> None:
        """What the user of a device wants of notifications, which stays when it is away."""
        if self._devices.switch_notifications(slot, is_on=is_on):
            self._record_one(slot, Change.STATE)

    def state_of(self, slot: int) -> int:
        """Bits of `AppState`."""
        table = self._link().table
        fd = table.slots.find(slot)
        off = AppState.NOTIFICATIONS_OFF if self._devices.are_notifications_off(slot) else 0
        return int(off if fd < 0 else table.app_state_at[fd] | off)

    def _record_one(self, row: int, change: Change) -> None:
        state = self.state_of(row) if change is Change.STATE else 0
        devices = self._devices
        self._log.record_one(devices.id_of(row), devices.app_of(row), change, state, self._clock.unix_ms())

    # One device, or a thousand

    def statuses(self, message: DeviceStatus, app_index: int) -> DeviceStatuses:
        """Columns of n devices. Raises BadRequest for ids without their form."""
        return self._statuses(
            message.id, self._devices.find(id_column("device_ids", message.device_ids, message.n), app_index)
        )

    def _statuses(self, request_id: int, rows: I32) -> DeviceStatuses:
        found = self._devices.presence(rows)
        is_online = found.fd >= 0
        online = np.flatnonzero(is_online)
        table = self._link().table
        # A crash of the long link leaves nobody online, but a call may come before the owner has heard of it.
        online = online[table.is_live(found.fd[online], found.generation[online])]
        fds = found.fd[online]
        last_seen = found.since_unix_s.astype(np.int64)
        heard = self._now_unix_s() - table.heard_ago_s(fds, self._now()).astype(np.int64)
        last_seen[online] = np.maximum(last_seen[online], heard)
        address_class = np.zeros(len(rows), np.uint8)
        address_class[online] = table.address_class[fds]
        names = TextColumn.from_texts([self._devices.platform(number) for number in found.profile.tolist()])
        return DeviceStatuses(
            id=request_id,
            n=len(rows),
            is_known=_column(rows >= 0, "u1"),
            is_online=_column(is_online, "u1"),
            since_unix_s=_column(found.since_unix_s, "<u4"),
            last_seen_unix_s=_column(last_seen, "<u4"),
            address_class=_column(address_class, "u1"),
            platform=Texts(bytes(names.blob), _column(names.offsets, "<u4")),
        )

    def facts(self, row: int) -> dict[str, Any]:
        """Of one known device, for people."""
        status = self._statuses(1, np.array([row], np.int32))
        return {
            "is_online": bool(status.is_online[0]),
            "since_unix_s": int.from_bytes(status.since_unix_s, "little"),
            "last_seen_unix_s": int.from_bytes(status.last_seen_unix_s, "little"),
            "address_class": AddressClass(status.address_class[0]).name.lower(),
            "app_state": state_words(self.state_of(row)),
        }

    # How many

    def _online_rows(self) -> tuple[I32, U16]:
        """Device row and app of every session."""
        table = self._link().table
        fds = np.flatnonzero(table.state[: table.high_water] == np.uint8(SessionState.CONNECTED))
        return table.slot[fds], table.app[fds]

    def counts(self) -> PlatformCounts:
        """(app index, platform) -> devices online now."""
        rows, apps = self._online_rows()
        return count_platforms(apps, self._devices.profiles(rows), self._devices.platform)

    async def counted(self, message: OnlineCounts, app_index: int) -> OnlineCounted:
        """Now and the last 24 hours, and the same of a tag, if one is named. If cancelled: nothing changes."""
        now = {platform: n for (app, platform), n in self.counts().items() if app == app_index}
        past = self.history.of_app(app_index)
        platforms = [*past.platforms, *(platform for platform in sorted(now) if platform not in past.platforms)]
        online = np.zeros((len(past.at_unix_s), len(platforms)), np.uint32)
        online[:, : len(past.platforms)] = past.online
        tagged = tag_at = tag_history = None
        if message.tag:
            at_unix_s, tag_online = self.tags.ask(app_index, message.tag, self._now_unix_s())
            tag_at, tag_history = _column(at_unix_s, "<u4"), _column(tag_online, "<u4")
            tagged = await self._count_tag(message.tag.encode(), app_index)
        return OnlineCounted(
            id=message.id,
            platforms=platforms,
            online=_column([now.get(platform, 0) for platform in platforms], "<u4"),
            n=len(past.at_unix_s),
            at_unix_s=_column(past.at_unix_s, "<u4"),
            history=_column(online, "<u4"),
            tagged=tagged,
            tag_at_unix_s=tag_at,
            tag_history=tag_history,
        )

    async def online_ids(self, app_index: int, tag: bytes) -> U8:
        """(n, 16) ids of the app's devices that are online now, of those with the tag where it is not empty.

        If cancelled: nothing changes.
        """
        rows, apps = self._online_rows()
        ours = rows[apps == app_index]
        ids = self._devices.ids(ours)
        if tag:
            has_tag = np.zeros(len(ours), np.bool_)
            for first in range(0, len(ours), _TAG_ROWS):
                part = ours[first : first + _TAG_ROWS]
                has_tag[first : first + len(part)] = self._devices.have_tag(part, tag)
                await trio.lowlevel.checkpoint()
            ids = ids[has_tag]
        return ids

    async def _count_tag(self, tag: bytes, app_index: int) -> int:
        rows, apps = self._online_rows()
        ours = rows[apps == app_index]
        n_tagged = 0
        for first in range(0, len(ours), _TAG_ROWS):
            n_tagged += int(self._devices.have_tag(ours[first : first + _TAG_ROWS], tag).sum())
            await trio.lowlevel.checkpoint()
        return n_tagged


def state_words(state: int) -> dict[str, bool]:
    """What is known of a device's state, for people."""
    known = {
        "is_foreground": (AppState.FOREGROUND_KNOWN, AppState.FOREGROUND),
        "is_screen_on": (AppState.SCREEN_KNOWN, AppState.SCREEN_ON),
    }
    return {name: bool(state & bit) for name, (said, bit) in known.items() if state & said}


def _column(values: Any, dtype: str) -> memoryview:
    return memoryview(np.ascontiguousarray(values, dtype).tobytes())
