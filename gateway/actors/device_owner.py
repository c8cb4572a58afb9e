"""DeviceOwner: what the long link tells of devices and rows, carried to the device table, the home and the router.

The long link calls it from its own turn of the loop; nothing here blocks. A device whose password is right is known
from then on, registered or not: its password proves that the app's own server issued its id.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from gateway.actors.inbox import InboxActor, Offer
from gateway.actors.ledger import AskArchive
from gateway.actors.long_link_port import F64, Later, Unacknowledged, UplinkAnswer
from gateway.actors.resending import Resent
from gateway.actors.router import Router
from gateway.clock import Clock
from gateway.columns import I32, I64, U16, U32, Bool, Rows
from gateway.core.devices import DeviceTable
from gateway.core.home import Home, row_tags, split_by_sequence
from gateway.errors import CloseReason, Overloaded
from gateway.ledger import Channel, LedgerPage, Reason, Receipt, State


class OwnerObserver(Protocol):
    def acknowledged(self, page: LedgerPage, rows: Rows, now: float) -> None: ...

    def late(self, rows: int) -> None: ...

    def stray(self, tags: int) -> None: ...

    def app_full(self, app_index: int) -> None: ...


#: States of a row that an acknowledgement ends, whoever was to have it next.
_ENDED_BY_ACK = np.array([state in (State.QUEUED, State.HELD, State.WAITING) for state in State], np.bool_)


#: When the inbox offers a row again that comes back, where no other channel takes it.
_OFFERS = {
    Unacknowledged.CONNECTION_CLOSED: Offer.NOW,
    Unacknowledged.ACK_TIMEOUT: Offer.LATER,
    Unacknowledged.REFUSED: Offer.NEXT_SESSION,
    Unacknowledged.QOS_0: Offer.NEXT_SESSION,
}


class DeviceOwner:
    def __init__(
        self,
        *,
        devices: DeviceTable,
        home: Home,
        router: Router,
        inbox: InboxActor,
        clock: Clock,
        observer: OwnerObserver,
        connections_max: Sequence[int] = (),
        online_elsewhere: Callable[[int], int] = lambda app_index: 0,
        set_online: Callable[[int, int], None] = lambda app_index, devices: None,
    ) -> None:
        """connections_max: by app index, devices online at most; an app beyond the list has no limit of its own.

        online_elsewhere: devices of an app that are online at other workers. set_online: told how many are here, for
        them; the numbers of two workers may be a moment apart.
        """
        self._devices = devices
        self._home = home
        self._router = router
        self._inbox = inbox
        self._clock = clock
        self._observer = observer
        self._connections_max = connections_max
        #: Asks for a page that left memory and says whether it will come, with whom to tell then.
        self.ask_archive: AskArchive | None = None
        self._online_elsewhere = online_elsewhere
        self._set_online = set_online
        #: Devices that came online, and went; see `Presence`.
        self.on_came: Callable[[int], None] = lambda row: None
        self.on_went: Callable[[I32], None] = lambda rows: None
        #: (device slot, app index, device id, event, payload, later); see `UplinkActor.take`.
        self.on_uplink: Callable[[int, int, bytes, str, bytes, Later | None], UplinkAnswer] | None = None

    def connect(self, app_index: int, device_id: bytes, fd: int, generation: int, now: float) -> int:
        """The device's row; it is registered bare if it was unknown.

        Raises Overloaded at `devices_max`, and at the app's `connections_max` for a device that is not online already.
        """
        now_unix_s = self._clock.unix_ms() // 1000
        row = self._devices.find_one(device_id, app_index)
        if app_index < len(self._connections_max) and (row < 0 or not self._devices.is_online(row)):
            online = self._devices.online_count(app_index) + self._online_elsewhere(app_index)
            limit = self._connections_max[app_index]
            if online >= limit:
                self._observer.app_full(app_index)
                raise Overloaded("apps.connections_max", online, limit, retry_after_s=10.0)
        if row < 0:
            row = self._devices.add_bare(device_id, app_index, now_unix_s)
        if self._devices.set_online(row, fd, generation, now_unix_s) is None:
            self.on_came(row)
        self._set_online(app_index, self._devices.online_count(app_index))
        return row

    def subscribed(self, slots: I32, fds: I32, generations: U32, now: float) -> None:
        """What waited for these devices is sent now."""
        for device_id in self._devices.ids(slots):
            self._inbox.came_back(device_id.tobytes())

    def disconnected(self, slots: I32, fds: I32, generations: U32, reasons: list[CloseReason]) -> None:
        """These devices are offline, unless they are connected elsewhere by now."""
        gone = self._devices.set_offline(slots, fds, generations, self._clock.unix_ms() // 1000)
        self.on_went(slots[gone])
        for app_index in range(len(self._connections_max)):
            self._set_online(app_index, self._devices.online_count(app_index))

    def acknowledged(self, tags: I64, sent_at: F64, now: float) -> None:
        """The rows are with their devices."""
        for sequence, rows in split_by_sequence(tags):
            self._acknowledged(sequence, rows, is_late=False)

    def acknowledged_late(self, tags: I64, sent_at: F64, now: float) -> None:
        """Rows that were taken back before: whoever has not issued them yet will not; the others are only noted."""
        self._observer.late(len(tags))
        for sequence, rows in split_by_sequence(tags):
            self._acknowledged(sequence, rows, is_late=True)

    def _acknowledged(self, sequence: int, rows: Rows, *, is_late: bool) -> None:
        page = self._home.page_with(sequence, rows)
        if page is None:
            # Rows of a page that left memory have ended, or wait for their device: whatever came is late for them.
            stray = functools.partial(self._observer.stray, len(rows))
            if self.ask_archive is None or not self.ask_archive(sequence, rows, self._acknowledged_archived, stray):
                stray()
            return
        self._acknowledge(page, rows, is_late=is_late)

    def _acknowledged_archived(self, page: LedgerPage, rows: Rows) -> None:
        self._acknowledge(page, rows, is_late=True)

    def _acknowledge(self, page: LedgerPage, rows: Rows, *, is_late: bool) -> None:
        sequence = page.batch.address.sequence
        now = self._clock.monotonic()
        if not is_late and page.are_all(rows, State.IN_FLIGHT, Channel.LONG_LINK):
            done = rows
        else:
            states, is_ours = page.state[rows], page.are(rows, State.IN_FLIGHT, Channel.LONG_LINK)
            ends = _ENDED_BY_ACK[states] if is_late else _ENDED_BY_ACK[states] | is_ours
            done = rows[ends]
            self._inbox.acknowledged_late(page, rows)
            page.channel[done] = Channel.LONG_LINK
            self._home.raise_receipts(page, rows[~ends], Receipt.DELIVERED, now)
            self._inbox.forget(row_tags(sequence, rows[states == State.HELD]))
        self._home.move(
            page,
            done,
            State.DEVICE_ACKED,
            Reason.NONE,
            now,
            channel=Channel.LONG_LINK,
            receipt=Receipt.DELIVERED,
        )
        self._observer.acknowledged(page, done, now)
        if self._inbox.has_full_windows:
            for device_id in page.batch.device_ids[rows]:
                self._inbox.room_appeared(device_id.tobytes())

    def unacknowledged(self, tags: I64, why: Unacknowledged) -> None:
        for sequence, rows in split_by_sequence(tags):
            page = self._home.page_with(sequence, rows)
            if page is not None:
                self._router.unacknowledged(page, rows, _OFFERS[why])

    def resumed(self, tags: I64, fds: I32, generations: U32, packet_ids: U16) -> Bool:
        """Rows whose devices came back to their sessions go again, those that the long link still holds."""
        sequences, parts = tags >> 16, []
        for sequence in np.unique(sequences).tolist():
            which = np.flatnonzero(sequences == sequence)
            rows = (tags[which] & 0xFFFF).astype(np.intp)
            page = self._home.page_with(sequence, rows)
            if page is None:
                self._observer.stray(len(which))
            else:
                parts.append(Resent(page, rows, which))
        return self._router.resending.redeliver(parts, fds, packet_ids)

    def uplink(self, slot: int, device_id: bytes, event: str, payload: bytes, later: Later | None) -> UplinkAnswer:
        """What a device reports. Raises: Overloaded."""
        if self.on_uplink is None:
            return UplinkAnswer.TAKEN
        return self.on_uplink(slot, self._devices.app_of(slot), device_id, event, payload, later)
