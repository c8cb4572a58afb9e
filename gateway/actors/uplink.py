"""UplinkActor: what devices report is carried out: receipts rise, registrations change, counts grow.

    long link --> DeviceOwner.uplink --> take() --+--> at once: receipts, states of the app, counts
                                                  +--> mailbox --> run(): changes of the registry, one device at a time

A report counts for rows of the reporting device alone. Changes are written through `register`, the one way into the
registry, as whole states: the device's own with the one thing changed.

The mailbox holds `changes_max` changes; beyond it a device is told `Overloaded` and reports again. Waits for: register.
Is waited for by: nobody.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import numpy as np

from gateway.actors.bell import Bell
from gateway.actors.ledger import AskArchive
from gateway.actors.long_link_port import UplinkAnswer
from gateway.clock import Clock
from gateway.columns import Rows
from gateway.core.devices import DeviceTable
from gateway.core.home import Home, mark
from gateway.core.uplink import (
    CHANGES,
    AliasChange,
    CustomEvent,
    Ignored,
    MalformedUplink,
    Report,
    StateReport,
    Switch,
    TagChange,
    TokenUpload,
    Uplink,
    parse_uplink,
)
from gateway.core.uplink_rates import RateKind, UplinkRates
from gateway.errors import Overloaded
from gateway.ledger import CHANNEL_NAMES, Channel, LedgerPage
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.messages import DevicesRegistered, RegisterDevices, Texts

#: A device that was told to slow down may come back after it.
_RETRY_S = 60.0


class UplinkObserver(Protocol):
    def taken(self, event: str) -> None: ...

    def refused(self, why: str) -> None: ...

    def custom(self, app_index: int, number: int) -> None: ...


class States(Protocol):
    """Where it stands what devices say of themselves."""

    def change_state(self, slot: int, report: StateReport) -> None:
        """A connected device's state is changed, and whoever follows presence is told."""

    def switch_notifications(self, slot: int, *, is_on: bool) -> None:
        """The same for what its user wants of notifications, which stays when it is away."""


class UplinkActor:
    def __init__(
        self,
        *,
        devices: DeviceTable,
        home: Home,
        clock: Clock,
        rates: UplinkRates,
        observer: UplinkObserver,
        app_keys: Sequence[str],
        changes_max: int,
        register: Callable[[RegisterDevices, str], Awaitable[DevicesRegistered]],
        states: States,
    ) -> None:
        """register: as `Service.register`."""
        self._devices = devices
        self._home = home
        self._clock = clock
        self._rates = rates
        self._observer = observer
        self._app_keys = app_keys
        self._changes_max = changes_max
        self._register = register
        self._states = states
        self._bell = Bell()
        #: (app index, device id, change)
        self._changes: deque[tuple[int, bytes, Uplink]] = deque()
        #: As `DeviceOwner.ask_archive`.
        self.ask_archive: AskArchive | None = None

    def __len__(self) -> int:
        """Changes that wait."""
        return len(self._changes)

    def take(self, slot: int, app_index: int, device_id: bytes, event: str, payload: bytes) -> UplinkAnswer:
        """One message of a device is carried out, or is in the mailbox. Raises: Overloaded."""
        if not self._rates.take(RateKind.EVENTS, slot, self._clock.monotonic()):
            self._observer.refused("rate")
            raise Overloaded("uplink events of one device", 0, 0, retry_after_s=_RETRY_S)
        try:
            uplink = parse_uplink(event, payload)
        except MalformedUplink:
            self._observer.refused("malformed")
            return UplinkAnswer.MALFORMED
        if isinstance(uplink, CHANGES):
            self._enqueue(slot, app_index, device_id, uplink)
        elif isinstance(uplink, Report):
            self._report(app_index, device_id, uplink)
        elif isinstance(uplink, StateReport):
            self._states.change_state(slot, uplink)
        elif isinstance(uplink, CustomEvent):
            self._observer.custom(app_index, uplink.number)
            event = "custom"
        else:
            assert isinstance(uplink, Ignored)
            self._observer.refused("unknown_event")
            return UplinkAnswer.TAKEN
        self._observer.taken(event)
        return UplinkAnswer.TAKEN

    # Receipts.

    def _report(self, app_index: int, device_id: bytes, report: Report) -> None:
        by_page: dict[int, tuple[LedgerPage, list[int]]] = {}
        for message_id in report.message_ids:
            found = self._home.find_row(message_id)
            if found is None:
                self._report_late(app_index, device_id, message_id, report)
            elif not self._is_target(*found, app_index, device_id):
                self._observer.refused("not_the_target")
            else:
                page, row = found
                by_page.setdefault(page.batch.address.sequence, (page, []))[1].append(row)
        for page, chosen in by_page.values():
            self._take_report(page, np.array(chosen, np.intp), report)

    def _take_report(self, page: LedgerPage, rows: Rows, report: Report) -> None:
        if report.flag is not None:
            mark(page, rows, report.flag)
        self._home.raise_receipts(page, rows, report.receipt, self._clock.monotonic())

    def _report_late(self, app_index: int, device_id: bytes, message_id: bytes, report: Report) -> None:
        """Of a row whose page has left memory, or was never there."""
        address = self._home.address_of(message_id)
        missing = functools.partial(self._observer.refused, "unknown_message")

        def take(page: LedgerPage, rows: Rows) -> None:
            if address is None or page.batch.address != address.batch or not len(rows):
                missing()
            elif not self._is_target(page, int(rows[0]), app_index, device_id):
                self._observer.refused("not_the_target")
            else:
                self._take_report(page, rows, report)

        rows = np.array([] if address is None else [address.row], np.intp)
        if (
            address is None
            or self.ask_archive is None
            or not self.ask_archive(address.batch.sequence, rows, take, missing)
        ):
            missing()

    def _is_target(self, page: LedgerPage, row: int, app_index: int, device_id: bytes) -> bool:
        """Whether the row was for this device: by its id, or for the token that it has."""
        batch = page.batch
        if batch.app != app_index:
            return False
        if batch.channels is None or not batch.channels[row]:
            return bool(batch.device_ids[row].tobytes() == device_id)
        slot = self._devices.find_one(device_id, app_index)
        if slot < 0 or not page.token_hashes[row]:
            return False
        own = self._devices.token_hashes(np.array([slot], np.int32))
        return bool(own[0] == page.token_hashes[row])

    # Changes of the registry.

    def _enqueue(self, slot: int, app_index: int, device_id: bytes, change: Uplink) -> None:
        if len(self._changes) >= self._changes_max:
            self._observer.refused("changes_max")
            raise Overloaded("uplink changes", len(self._changes), self._changes_max)
        if not self._rates.take(RateKind.CHANGES, slot, self._clock.monotonic()):
            self._observer.refused("change_rate")
            raise Overloaded("uplink changes of one device", 0, 0, retry_after_s=_RETRY_S)
        self._changes.append((app_index, device_id, change))
        self._bell.ring()

    async def run(self) -> None:
        """Carries changes out until cancelled. If cancelled: those that wait do so until the next run."""
        self._bell.ring()
        while True:
            await self._bell.wait()
            while self._changes:
                await self._change(*self._changes[0])
                self._changes.popleft()

    async def _change(self, app_index: int, device_id: bytes, change: Uplink) -> None:
        slot = self._devices.find_one(device_id, app_index)
        if slot < 0:
            # It was removed since.
            self._observer.refused("unknown_device")
            return
        if isinstance(change, Switch):
            self._states.switch_notifications(slot, is_on=change.is_on)
            return
        device = self._devices.device(slot)
        channel = Channel(device.channel).name.lower() if device.channel else ""
        token, alias, tags = device.token, device.alias, tuple(tag.decode() for tag in device.tags)
        proven_unix_s = device.proven_unix_s
        if isinstance(change, TokenUpload):
            if change.channel and change.channel not in CHANNEL_NAMES:
                self._observer.refused("unknown_channel")
                return
            if (channel, token) != (change.channel, change.token.encode()):
                proven_unix_s = 0
            channel, token = change.channel, change.token.encode()
        elif isinstance(change, TagChange):
            tags = change.apply(tags)
        elif isinstance(change, AliasChange):
            alias = change.alias.encode()
        profile = device.profile
        request = RegisterDevices(
            id=1,
            n=1,
            device_ids=memoryview(device_id),
            channels=[channel] if channel else [],
            channel_index=memoryview(b"\x01") if channel else None,
            tokens=_text(token) if channel else None,
            proven_unix_s=memoryview(proven_unix_s.to_bytes(4, "little")),
            platform=_text(profile.platform),
            app_version=_text(profile.app_version),
            time_zone=_text(profile.time_zone),
            alias=_text(alias),
            tags=_text("\n".join(tags).encode()),
        )
        try:
            answer = await self._register(request, self._app_keys[app_index])
        except (BadRequest, Overloaded):
            self._observer.refused("registration")
            return
        if answer.refused_count:
            self._observer.refused("registration")
        elif device.is_muted and not isinstance(change, TokenUpload):
            # Only the token itself ends what its vendor asked for.
            rows = np.array([slot], np.int32)
            self._devices.mute_tokens(rows, self._devices.token_hashes(rows))


def _text(value: bytes) -> Texts | None:
    """A column of one row; absent where it says nothing."""
    if not value:
        return None
    return Texts(value, memoryview(np.array([0, len(value)], "<u4").tobytes()))
