"""DeviceGates: devices that one vendor of one app wants left alone for a while.

A vendor may bound what one device gets (FCM: 240 messages a minute and 5,000 an hour; APNs: "too many consecutive
requests") and say so in the answer to one row. What waits behind that row for the same device would get the same
answer, and each costs a request and a mark against the sender. So the device's gate stays closed for all of this app's
lanes to that vendor, until the time the vendor named, else as long as a throttled row waits (`throttle_s`).

Devices are known by their row in the device table; a target that is a token without a device has none and is not gated.
A row of the table that changes hands in the meantime makes its new device wait, too, for seconds at most.

Sources: firebase.google.com/docs/cloud-messaging/throttling-and-quotas; developer.apple.com, "Handling notification
responses from APNs", TooManyRequests.
"""

from __future__ import annotations

import math

import numpy as np

from gateway.columns import F64, I32

#: Devices whose gate may be closed at once. 12 bytes each; beyond it those forgotten first would open first anyway.
DEVICES_MAX = 16_384


class DeviceGates:
    """One owner per (app, vendor); its lanes share it. Times are monotonic seconds."""

    __slots__ = ("_devices_max", "_slots", "_until", "latest")

    def __init__(self, devices_max: int = DEVICES_MAX) -> None:
        self._devices_max = devices_max
        #: Sorted and distinct, with the end of each beside it.
        self._slots: I32 = np.zeros(0, np.int32)
        self._until: F64 = np.zeros(0, np.float64)
        self.latest = -math.inf

    def __len__(self) -> int:
        return len(self._slots)

    def close(self, slots: I32, until: F64, now: float) -> None:
        """These devices, (k,), -1 for none, get nothing before `until`; an end that was later stays."""
        known = slots >= 0
        kept = self._until > now
        all_slots = np.concatenate([self._slots[kept], slots[known]])
        ends = np.concatenate([self._until[kept], until[known]])
        distinct, place = np.unique(all_slots, return_inverse=True)
        latest = np.full(len(distinct), -math.inf)
        np.maximum.at(latest, place, ends)
        if len(distinct) > self._devices_max:
            chosen = np.sort(np.argsort(-latest, kind="stable")[: self._devices_max])
            distinct, latest = distinct[chosen], latest[chosen]
        self._slots, self._until = distinct, latest
        self.latest = float(latest.max()) if len(latest) else -math.inf

    def closed_until(self, slots: I32, now: float) -> F64 | None:
        """(n,) when the gate of each device opens, -inf where it is open; None while none of these is closed, which
        nearly always is known without a look."""
        if now >= self.latest:
            return None
        place = np.minimum(np.searchsorted(self._slots, slots), len(self._slots) - 1)
        until = np.where(self._slots[place] == slots, self._until[place], -math.inf)
        return until if bool((until > now).any()) else None
