"""TokenRenewals: a vendor's receipt names the token that has taken the place of another (Xiaomi's `replaceTarget`).

    receipt --keep()--> the new token, here and at the other workers
       |
       +-- event TOKEN_REPLACED --> rows of that token (their home) --> owner of the device --replace()--> the table

The event goes the way of dead tokens: only a row that was sent to the old token leads to a device, and only a device
that has it still gets the new one. The text does not fit in those columns, so it goes ahead of them, to every worker:
such receipts are rare. What has not come when its event does, or fell out, is left: the device will register its token
by itself.

Called by the receipt desk; waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np

from gateway.actors.token_guard import TokenGuard
from gateway.clock import Clock
from gateway.columns import I32, TextColumn
from gateway.core.device_answers import Device
from gateway.core.devices import DeviceTable
from gateway.core.registration import Registrations
from gateway.errors import Overloaded
from gateway.ledger import Channel

#: New tokens that wait for their event, which comes within moments; a few hundred bytes each. The oldest make room.
RENEWALS_MAX = 4_096

CheckToken = Callable[[str], str]


class Neighbours(Protocol):
    """Other workers; see `app_receipts.py`."""

    def send(self, worker: int, what: str, head: dict[str, Any], body: bytes, rows: int) -> bool: ...

    def others(self) -> Iterable[int]: ...


class TokenRenewals:
    """Of one worker. guards, check_token: by (app index, vendor); what guards hold back is not replaced either."""

    def __init__(
        self,
        *,
        devices: DeviceTable,
        guards: Mapping[tuple[int, Channel], TokenGuard],
        check_token: Mapping[tuple[int, Channel], CheckToken],
        clock: Clock,
        neighbours: Neighbours | None = None,
        renewals_max: int = RENEWALS_MAX,
    ) -> None:
        self._devices = devices
        self._guards = guards
        self._check_token = check_token
        self._clock = clock
        self._neighbours = neighbours
        self._renewals_max = renewals_max
        #: (app, vendor, old token) -> new token.
        self._new: dict[tuple[int, Channel, bytes], bytes] = {}

    def __len__(self) -> int:
        return len(self._new)

    def keep(self, app: int, channel: Channel, old: str, new: str) -> None:
        """A receipt with an address of ours says so; its event comes."""
        check = self._check_token.get((app, channel))
        if check is None or check(old) or check(new):
            return
        self._put(app, channel, old.encode(), new.encode())
        if self._neighbours is not None:
            head, body = {"app": app, "channel": int(channel)}, msgspec.json.encode((old, new))
            for worker in self._neighbours.others():
                self._neighbours.send(worker, "renewals", head, body, 1)

    def on_renewal(self, head: dict[str, Any], body: memoryview) -> None:
        """The same from another worker. Raises ValueError for what is none."""
        old, new = msgspec.json.decode(body, type=tuple[str, str])
        self._put(head["app"], Channel(head["channel"]), old.encode(), new.encode())

    def _put(self, app: int, channel: Channel, old: bytes, new: bytes) -> None:
        self._new.pop((app, channel, old), None)
        if len(self._new) >= self._renewals_max:
            del self._new[next(iter(self._new))]
        self._new[app, channel, old] = new

    def replace(self, app: int, channel: Channel, slots: I32) -> int:
        """The vendor says that the tokens of these devices have others in their place. Returns how many have theirs."""
        guard = self._guards.get((app, channel))
        if guard is not None and guard.is_holding:
            return 0
        return sum(self._replace_one(app, channel, slot) for slot in np.unique(slots).tolist())

    def _replace_one(self, app: int, channel: Channel, slot: int) -> bool:
        device = self._devices.device(slot)
        new = self._new.pop((app, channel, device.token), b"")
        if not new or device.channel != channel:
            return False
        tokens = TextColumn.from_rows([new])
        if int(self._devices.find_tokens(channel, tokens, app)[0]) >= 0:
            # Registered already; it stays with whom it is.
            return False
        is_muted = device.is_muted
        try:
            self._devices.register(app, _with_token(device, tokens), self._clock.unix_ms() // 1000)
        except Overloaded:
            return False
        if is_muted:
            # Only a registration by the device itself ends what its vendor asked for.
            rows = np.array([slot], np.int32)
            self._devices.mute_tokens(rows, self._devices.token_hashes(rows))
        return True


def _with_token(device: Device, tokens: TextColumn) -> Registrations:
    """The whole state of the device, with another token, which nobody has proven."""

    def text(value: bytes) -> TextColumn | None:
        return TextColumn.from_rows([value]) if value else None

    return Registrations(
        np.frombuffer(device.device_id, np.uint8).reshape(1, 16),
        np.array([device.channel], np.uint8),
        tokens,
        np.zeros(1, np.uint32),
        platforms=text(device.profile.platform),
        app_versions=text(device.profile.app_version),
        time_zones=text(device.profile.time_zone),
        aliases=text(device.alias),
        tag_counts=np.array([len(device.tags)], np.uint32) if device.tags else None,
        tags=TextColumn.from_rows(device.tags) if device.tags else None,
        is_closed=np.array([device.is_closed]),
    )
