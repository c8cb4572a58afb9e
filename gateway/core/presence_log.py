"""Changes of presence: a ring of columns over all apps, with positions for cursors.

    position % rows_max --> device_id 16 B, app u16, change u8, state u8, at_unix_ms u64        28 bytes

A follower that falls behind the ring has missed something, and is told so. A position is the count of changes before
it, so it grows for as long as the process lives.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

import numpy as np

from gateway.columns import U8, U16, U64, Rows
from gateway.core.reserved import Reserved

ROW_BYTES = 28


class Change(enum.IntEnum):
    """The numbers go over the RPC: append only."""

    OFFLINE = 0
    ONLINE = 1
    STATE = 2
    """The device said something new of itself."""


class Changes(NamedTuple):
    """n changes in their order. state: bits of `core.uplink.AppState`, as they were just after each."""

    device_ids: U8
    changes: U8
    states: U8
    at_unix_ms: U64


class PresenceLog:
    """One owner. app_index: of the change; changes of other apps are passed over by `read`."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        # In small pages: ten thousand phones that connect must not cost megabytes.
        self._reserved = Reserved(2 * rows_max)
        self._words = self._reserved.words.reshape(rows_max, 2)
        self._ids: U8 = self._words.view(np.uint8)
        self._apps: U16 = np.zeros(rows_max, np.uint16)
        self._changes: U8 = np.zeros(rows_max, np.uint8)
        self._states: U8 = np.zeros(rows_max, np.uint8)
        self._at_unix_ms: U64 = np.zeros(rows_max, np.uint64)
        self.next_position = 0

    @property
    def first_position(self) -> int:
        return max(0, self.next_position - self._rows_max)

    def record(self, device_ids: U8, apps: U16, change: Change, states: U8, now_unix_ms: int) -> None:
        """n devices, (n, 16) ids and (n,) apps and states, changed in the same way; the oldest rows make room."""
        n = len(device_ids)
        kept = min(n, self._rows_max)
        places = np.arange(self.next_position + n - kept, self.next_position + n) % self._rows_max
        self._ids[places] = device_ids[n - kept :]
        self._apps[places] = apps[n - kept :]
        self._changes[places] = change
        self._states[places] = states[n - kept :]
        self._at_unix_ms[places] = now_unix_ms
        self.next_position += n

    def record_one(self, device_id: bytes, app_index: int, change: Change, state: int, now_unix_ms: int) -> None:
        """The same of one device: phones come and go one by one, and columns of one row cost ten times as much."""
        place = self.next_position % self._rows_max
        self._words[place] = struct.unpack("<QQ", device_id)
        self._apps[place] = app_index
        self._changes[place] = change
        self._states[place] = state
        self._at_unix_ms[place] = now_unix_ms
        self.next_position += 1

    def read(self, position: int, app_index: int, rows_max: int, looked_at_max: int) -> tuple[Changes, int] | None:
        """Changes of one app from a position on, at most rows_max, and where to go on; None for a position that has
        fallen out of the ring. looked_at_max: changes of all apps that are gone through."""
        if not self.first_position <= position <= self.next_position:
            return None
        stop = min(position + looked_at_max, self.next_position)
        places = np.arange(position, stop) % self._rows_max
        ours: Rows = np.flatnonzero(self._apps[places] == app_index)
        if len(ours) > rows_max:
            stop = position + int(ours[rows_max])
            ours = ours[:rows_max]
        chosen = places[ours]
        return (
            Changes(self._ids[chosen], self._changes[chosen], self._states[chosen], self._at_unix_ms[chosen]),
            stop,
        )
