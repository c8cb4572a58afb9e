"""UplinkActor: what devices report is carried out: receipts rise, registrations change, counts grow.

    long link --> DeviceOwner.uplink --> take() --+--> at once: receipts (device_reports.py), states of the app, counts
                                                  +--> mailbox --> run(): changes of the registry, some devices at once

A device of an app on disk is acknowledged when what it said is durable: `later` is told.

Changes are written through `register`, the one way into the
registry, as whole states: the device's own with the one thing changed.

The mailbox holds `changes_max` changes; beyond it a device is told `Overloaded` and reports again. Waits for: register.
Is waited for by: nobody.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.actors.device_reports import DeviceReports
from gateway.actors.long_link_port import Later, UplinkAnswer
from gateway.actors.waiting import Wait
from gateway.clock import Clock
from gateway.core.devices import DeviceTable
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
from gateway.errors import Overloaded, StoreError
from gateway.ledger import CHANNEL_NAMES, Channel
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.messages import DevicesRegistered, RegisterDevices, Texts

#: A device that was told to slow down may come back after it.
_RETRY_S = 60.0
#: Changes carried out at once.
_AT_ONCE = 64


class _Change(NamedTuple):
    app_index: int
    device_id: bytes
    change: Uplink
    later: Later | None


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
        reports: DeviceReports,
        clock: Clock,
        rates: UplinkRates,
        observer: UplinkObserver,
        app_keys: Sequence[str],
        changes_max: int,
        register: Callable[[RegisterDevices, str], Awaitable[DevicesRegistered]],
        states: States,
        wait_written: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        apps_on_disk: Collection[int] = (),
    ) -> None:
        """register: as `Service.register`. wait_written: until what was changed is in the registry on the disk."""
        self._wait_written = wait_written
        self._apps_on_disk = apps_on_disk
        self._devices = devices
        self._reports = reports
        self._clock = clock
        self._rates = rates
        self._observer = observer
        self._app_keys = app_keys
        self._changes_max = changes_max
        self._register = register
        self._states = states
        self._bell = Bell()
        self._changes: deque[_Change] = deque()

    def __len__(self) -> int:
        """Changes that wait."""
        return len(self._changes)

    def take(
        self, slot: int, app_index: int, device_id: bytes, event: str, payload: bytes, later: Later | None = None
    ) -> UplinkAnswer:
        """One message of a device is carried out, or is in the mailbox. Raises: Overloaded."""
        if app_index not in self._apps_on_disk:
            later = None
        if not self._rates.take(RateKind.EVENTS, slot, self._clock.monotonic()):
            self._observer.refused("rate")
            raise Overloaded("uplink events of one device", 0, 0, retry_after_s=_RETRY_S)
        try:
            uplink = parse_uplink(event, payload)
        except MalformedUplink:
            self._observer.refused("malformed")
            return UplinkAnswer.MALFORMED
        if isinstance(uplink, CHANGES):
            self._enqueue(slot, app_index, device_id, uplink, later)
        elif isinstance(uplink, Report):
            self._reports.report(app_index, device_id, uplink, None if later is None else Wait(later))
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
        is_later = later is not None and isinstance(uplink, (*CHANGES, Report))
        return UplinkAnswer.LATER if is_later else UplinkAnswer.TAKEN

    # Changes of the registry.

    def _enqueue(self, slot: int, app_index: int, device_id: bytes, change: Uplink, later: Later | None) -> None:
        if len(self._changes) >= self._changes_max:
            self._observer.refused("changes_max")
            raise Overloaded("uplink changes", len(self._changes), self._changes_max)
        if not self._rates.take(RateKind.CHANGES, slot, self._clock.monotonic()):
            self._observer.refused("change_rate")
            raise Overloaded("uplink changes of one device", 0, 0, retry_after_s=_RETRY_S)
        self._changes.append(_Change(app_index, device_id, change, later))
        self._bell.ring()

    async def run(self) -> None:
        """Carries changes out until cancelled. If cancelled: those that wait do so until the next run."""
        self._bell.ring()
        while True:
            await self._bell.wait()
            while self._changes:
                await self._change_some()

    async def _change_some(self) -> None:
        """The oldest changes, of different devices: their writes share a commit."""
        chosen: dict[tuple[int, bytes], _Change] = {}
        for change in itertools.islice(self._changes, _AT_ONCE):
            if (change.app_index, change.device_id) in chosen:
                break
            chosen[change.app_index, change.device_id] = change
        not_durable: set[tuple[int, bytes]] = set()
        async with trio.open_nursery() as nursery:
            for change in chosen.values():
                nursery.start_soon(self._try, change, not_durable)
        for key in chosen:
            change = self._changes.popleft()
            if change.later is not None:
                change.later(key not in not_durable)

    async def _try(self, change: _Change, not_durable: set[tuple[int, bytes]]) -> None:
        """The change is carried out; where the disk, or a limit, does not take it, the device is in not_durable."""
        try:
            await self._change(change.app_index, change.device_id, change.change)
        except Overloaded:
            self._observer.refused("registration")
        except StoreError:
            self._observer.refused("not_durable")
        else:
            return
        not_durable.add((change.app_index, change.device_id))

    async def _change(self, app_index: int, device_id: bytes, change: Uplink) -> None:
        """Raises: Overloaded, StoreError; then the device is to say it again."""
        slot = self._devices.find_one(device_id, app_index)
        if slot < 0:
            # It was removed since.
            self._observer.refused("unknown_device")
            return
        if isinstance(change, Switch):
            self._states.switch_notifications(slot, is_on=change.is_on)
            if app_index in self._apps_on_disk:
                await self._wait_written()
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
        except BadRequest:
            # Saying it again would not help.
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
