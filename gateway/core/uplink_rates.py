"""How often a device may report: two columns over all devices, 4 bytes each, and no object.

Each cell is the time at which the device would have used up what it took (the "theoretical arrival time" of the generic
cell rate algorithm, ITU-T I.371 annex A), in hundredths of a second: a device may be ahead of the clock by `burst`
intervals. Indexed by device slot, so that reconnecting does not help; a slot that becomes another device's is at worst
as far ahead as that one was.
"""

from __future__ import annotations

import enum

import numpy as np

from gateway.core.reserved import Reserved

_TICKS_PER_S = 100
#: 497 days; the column starts anew with the process.
_TICKS_MAX = 0xFFFFFFFF


class RateKind(enum.IntEnum):
    EVENTS = 0
    """All that a device sends."""
    CHANGES = 1
    """What is written to the registry, beside."""


class UplinkRates:
    """One owner. now: seconds of one monotonic clock."""

    def __init__(self, slots_max: int, *, events_per_minute: int, changes_per_hour: int, now: float) -> None:
        """A minute's events and an hour's changes may come at once."""
        self._epoch = now
        # In small pages: most devices report nothing for hours.
        self._reserved = [Reserved(slots_max // 2 + 1) for _ in RateKind]
        self._due = [reserved.words.view(np.uint32).data for reserved in self._reserved]
        self._interval = [
            max(1, 60 * _TICKS_PER_S // events_per_minute),
            max(1, 3600 * _TICKS_PER_S // changes_per_hour),
        ]
        self._burst = [60 * _TICKS_PER_S, 3600 * _TICKS_PER_S]

    def take(self, kind: RateKind, slot: int, now: float) -> bool:
        """One more from this device; false, and nothing is taken, when it has had its share."""
        ticks = int((now - self._epoch) * _TICKS_PER_S)
        due, interval = max(self._due[kind][slot], ticks), self._interval[kind]
        if due + interval - ticks > self._burst[kind]:
            return False
        self._due[kind][slot] = min(due + interval, _TICKS_MAX)
        return True
