"""Sessions of absent devices: a row of columns each, found by device slot, and no object.

    slot       i32   device slot of the owner's table
    device_id  16 B  a slot may be another device's by the time somebody comes back to it
    expires_at f64   seconds of the long link's clock
    flags      u8    FLAG_SUBSCRIBED and FLAG_QOS_1 as they were

29 bytes, 4 in the list of free rows, and 8 to 16 in the index. What a session holds beside are its parked entries in
`InFlight` (for `ack_timeout_s` at most) and its open QoS 2 exchanges (`Exchanges`).

Source: OASIS MQTT 3.1.1 section 3.1.2.4, MQTT 5.0 sections 3.1.2.4, 3.1.2.11.2 and 4.1.
"""

from __future__ import annotations

import numpy as np

from gateway.columns import I32
from gateway.core.reserved import Reserved
from gateway.net.edge_slots import SlotIndex
from gateway.net.edge_table import FLAG_QOS_1, FLAG_SUBSCRIBED

#: When all rows are taken, this share of them goes, those first that would expire first: one look at the column makes
#: room for thousands.
_EVICTED_SHARE = 64
#: `expires_at` of a free row.
_NEVER = np.inf
_KEPT_FLAGS = FLAG_SUBSCRIBED | FLAG_QOS_1


class StoredSessions:
    """The columns. One owner; times are its monotonic `now`."""

    def __init__(self, sessions_max: int) -> None:
        self.sessions_max = sessions_max
        self._slots = np.zeros(sessions_max, np.int32)
        self._slot_at = self._slots.data
        # In small pages: a few sessions must not cost megabytes.
        self._reserved = Reserved(2 * sessions_max)
        self._id_at = self._reserved.words.data.cast("B") if sessions_max else memoryview(b"")
        self._expires_at = np.zeros(sessions_max, np.float64)
        self._flags = np.zeros(sessions_max, np.uint8)
        self._index = SlotIndex(max(1, sessions_max), self._slot_at)
        self._freed = np.empty(sessions_max, np.int32)
        self._n_freed = 0
        self._high_water = 0

    def __len__(self) -> int:
        return self._high_water - self._n_freed

    def put(self, slot: int, device_id: bytes, flags: int, expires_at: float) -> I32:
        """The session of a device that has none here is kept; returns the slots of those that had to go for it."""
        evicted = np.zeros(0, np.int32)
        if len(self) >= self.sessions_max:
            n = -(-self.sessions_max // _EVICTED_SHARE)
            evicted = self._forget(np.argpartition(self._expires_at, n - 1)[:n].astype(np.int32))
        if self._n_freed:
            self._n_freed -= 1
            row = int(self._freed[self._n_freed])
        else:
            row = self._high_water
            self._high_water += 1
        self._slot_at[row] = slot
        self._id_at[row * 16 : row * 16 + 16] = device_id
        self._expires_at[row] = expires_at
        self._flags[row] = flags & _KEPT_FLAGS
        self._index.insert(slot, row)
        return evicted

    def take(self, slot: int, device_id: bytes, now: float) -> int | None:
        """The flags of the device's session, which is no longer here; None where there was none, or only one that is
        over or another device's."""
        row = self._index.find(slot)
        if row < 0:
            return None
        is_good = bytes(self._id_at[row * 16 : row * 16 + 16]) == device_id and self._expires_at[row] > now
        flags = int(self._flags[row])
        self._forget(np.array([row], np.int32))
        return flags if is_good else None

    def expire(self, now: float) -> I32:
        """Slots of the sessions that are over; they are no longer here."""
        return self._forget(np.flatnonzero(self._expires_at[: self._high_water] <= now).astype(np.int32))

    def clear(self) -> None:
        self._forget(np.flatnonzero(self._expires_at[: self._high_water] < _NEVER).astype(np.int32))

    def _forget(self, rows: I32) -> I32:
        slots = self._slots[rows]
        for slot, row in zip(slots.tolist(), rows.tolist(), strict=True):
            self._index.remove(slot, row)
        self._expires_at[rows] = _NEVER
        self._freed[self._n_freed : self._n_freed + len(rows)] = rows
        self._n_freed += len(rows)
        return slots
