"""Stored sessions carried out: what stays when a connection ends, and what a device finds that comes back to it.

    connection ends --> session stored, its rows parked --+--> CONNECT without clean start: rows again, DUP, same ids
                                                          +--> ack_timeout_s after they were sent: handed over
                                                          +--> clean start, expiry, eviction, the end of the process:
                                                               the session is over, its rows are handed over at once

A parked row is held by the long link as one in flight is (one holder at any time), and no longer than one in flight: so
a device that does not come back delays nothing. A row is sent `deliveries_max` times over resumed sessions; a phone
that crashes at each sight of it must not keep it from its other channel for ever.

Part of the long-link actor, which owns it; nothing here waits or closes.
"""

from __future__ import annotations

import collections

import numpy as np

from gateway.actors.long_link_downlink import Downlink, ranks_within
from gateway.actors.long_link_exchanges import Exchanges
from gateway.actors.long_link_port import LongLinkSettings, Owner
from gateway.actors.long_link_stored import StoredSessions
from gateway.columns import I32, I64, Bool
from gateway.errors import CloseReason
from gateway.net.edge import Closed
from gateway.net.edge_table import FLAG_MQTT_5, ConnectionTable, Count
from gateway.wire.mqtt.in_flight import Resumed

#: Rows sent again in one step: a millisecond if each belongs to another batch, and so is rendered by itself.
_ROWS_PER_STEP = 16
_NO_TAGS = np.zeros(0, np.int64)
#: With these the session ends, too: the process does, or the device may not come back.
_ENDS_SESSION = frozenset({CloseReason.SHUTDOWN, CloseReason.BANNED})


class Resumption:
    """Shares table, downlink, exchanges and owner with the actor."""

    def __init__(
        self,
        settings: LongLinkSettings,
        table: ConnectionTable,
        downlink: Downlink,
        exchanges: Exchanges,
        owner: Owner,
    ) -> None:
        self._settings = settings
        self._table = table
        self._in_flight = downlink.in_flight
        self._exchanges = exchanges
        self._owner = owner
        self.stored = StoredSessions(settings.sessions_max)
        self._is_ending = False
        self._lost: list[I64] = []
        #: Connections of this step that came back to a session: (slot, fd, generation).
        self._came_back: list[tuple[int, int, int]] = []
        self._to_send: collections.deque[Resumed] = collections.deque()

    def _count(self, counter: Count, by: int = 1) -> None:
        self._table.count_at[counter] += by

    # What a closed connection leaves behind.

    def on_closed(self, closed: Closed, now: float) -> None:
        """Sessions that outlive these connections are stored; rows of the others are lost, see `take_lost`."""
        is_kept: Bool = closed.session_expiry_s > 0
        if self._is_ending:
            is_kept[:] = False
        for index in range(len(closed.fds)):
            fd, slot = int(closed.fds[index]), int(closed.slots[index])
            is_kept[index] &= closed.reasons[index] not in _ENDS_SESSION
            if is_kept[index] and not self._exchanges.park(fd, slot):
                self._count(Count.REFUSED_EXCHANGES_MAX)
                is_kept[index] = False
            if not is_kept[index]:
                self._exchanges.forget(fd)
                continue
            expires_at = now + int(closed.session_expiry_s[index])
            evicted = self.stored.put(slot, self._table.device_id_of(fd), int(closed.flags[index]), expires_at)
            if len(evicted):
                self._count(Count.EVICTED_SESSIONS_MAX, len(evicted))
                self._end(evicted)
        self._count(Count.SESSIONS_STORED, int(np.count_nonzero(is_kept)))
        has_rows = closed.in_flight > 0
        parked = is_kept & has_rows
        if parked.any():
            self._in_flight.park(self._table.generation, closed.fds[parked], closed.slots[parked])
        if (has_rows & ~is_kept).any():
            self._lost.append(self._in_flight.release_ended(self._table.generation))
        if self._in_flight.n_parked and not is_kept.all():
            # Of one that came back in this very step and is gone again before its rows were its own.
            self._lost.append(self._in_flight.release_parked(np.unique(closed.slots[~is_kept])))

    def _end(self, slots: I32) -> None:
        """These stored sessions are over."""
        for slot in slots.tolist():
            self._exchanges.drop(slot)
        self._lost.append(self._in_flight.release_parked(slots))

    def take_lost(self) -> I64:
        """Tags of rows that no session holds any more; each once."""
        if not self._lost:
            return _NO_TAGS
        lost, self._lost = self._lost, []
        tags: I64 = np.concatenate(lost)
        self._count(Count.LOST_WITH_CONNECTION, len(tags))
        return tags

    def tick(self, now: float) -> None:
        """Ends the sessions whose time is up, and what was parked for too long leaves its session."""
        expired = self.stored.expire(now)
        if len(expired):
            self._count(Count.SESSIONS_EXPIRED, len(expired))
            self._end(expired)
        lapsed = self._in_flight.lapse_parked(now - self._settings.ack_timeout_s)
        if len(lapsed):
            self._lost.append(lapsed)

    def end_all(self) -> None:
        """No session outlives its connection from now on; the stored ones are over."""
        self._is_ending = True
        self.stored.clear()
        for slot in self._exchanges.parked_slots():
            self._exchanges.drop(slot)
        self._lost.append(self._in_flight.release_parked(None))

    # What a device finds that comes back.

    def find(self, slot: int, device_id: bytes, now: float, *, is_clean_start: bool) -> int | None:
        """The flags of the stored session that a CONNECT goes on with, or None; either way none is stored any more."""
        n_stored = len(self.stored)
        flags = self.stored.take(slot, device_id, now)
        if flags is not None and not is_clean_start:
            self._count(Count.SESSIONS_RESUMED)
            return flags
        if len(self.stored) < n_stored:
            self._count(Count.SESSIONS_EXPIRED if flags is None else Count.SESSIONS_DISCARDED)
            self._end(np.array([slot], np.int32))
        return None

    def on_resumed(self, slot: int, fd: int) -> None:
        """The connection, which has just logged in, has the session of its device; its rows follow in this step."""
        self._exchanges.resume(slot, fd)
        if self._in_flight.n_parked:
            self._came_back.append((slot, fd, self._table.generation_at[fd]))

    @property
    def is_idle(self) -> bool:
        """Nothing waits to be sent again."""
        return not self._came_back and not self._to_send

    def claim(self, now: float) -> None:
        """Parked rows belong to the new connections: before anything else is given to those."""
        if not self._came_back:
            return
        columns, self._came_back = np.array(self._came_back, np.int64), []
        slots, fds = columns[:, 0].astype(np.int32), columns[:, 1].astype(np.int32)
        generations = columns[:, 2].astype(np.uint32)
        live = self._table.is_live(fds, generations)
        resumed = self._in_flight.resume(slots[live], fds[live], generations[live], now)
        is_5 = self._table.flags[resumed.fds] & np.uint8(FLAG_MQTT_5) != 0
        window = np.where(is_5, self._table.window[resumed.fds], self._settings.in_flight_per_device_max)
        is_good = (resumed.n_sent <= self._settings.deliveries_max) & (ranks_within(resumed.fds) < window)
        if not is_good.all():
            self._count(Count.REFUSED_REDELIVERY, int(np.count_nonzero(~is_good)))
            self._lost.append(resumed.tags[~is_good])
            self._in_flight.release(resumed.entries[~is_good])
            resumed = resumed.take(is_good)
        if len(resumed.entries):
            np.add.at(self._table.in_flight, resumed.fds, np.uint16(1))
            self._to_send.append(resumed)

    def send(self, now: float) -> bool:
        """Sends as many of the claimed rows again as a step has room for; true when some are left."""
        self.claim(now)
        if not self._to_send:
            return False
        first = self._to_send.popleft()
        if len(first.entries) > _ROWS_PER_STEP:
            self._to_send.appendleft(first.take(slice(_ROWS_PER_STEP, None)))
            first = first.take(slice(0, _ROWS_PER_STEP))
        # Some may have been acknowledged, or parked again, since they were claimed.
        rows = first.take(self._in_flight.still_of(first))
        if len(rows.entries):
            packet_ids = self._in_flight.packet_ids(rows.entries)
            is_sent = self._owner.resumed(rows.tags, rows.fds, rows.generations, packet_ids)
            left = rows.take(~is_sent)
            # The owner has them again, or did not know them.
            left = left.take(self._in_flight.still_of(left))
            self._in_flight.release(left.entries)
            np.subtract.at(self._table.in_flight, left.fds, np.uint16(1))
            self._count(Count.REFUSED_REDELIVERY, len(left.entries))
        return bool(self._to_send)

    def sizes(self) -> dict[str, int]:
        return {
            "stored_sessions": len(self.stored),
            "parked_rows": self._in_flight.n_parked,
            "parked_exchanges": self._exchanges.n_parked,
        }
