"""What exists per connection of the long link: a row of columns, indexed by file descriptor, and nothing else.

    generation u32   who had this descriptor: a pair (fd, generation) names one connection for ever
    state      u8    SessionState; 0 = no connection
    flags      u8    the FLAG_ bits below
    slot       i32   device slot of the owner's table, -1 before CONNECT
    app        u16   app index
    keepalive  u16   seconds, as enforced
    deadline   u32   tenths of a second since the table was made; 0 = none
    in_flight  u16   downlink messages of QoS 1 without PUBACK
    device_id  16 B
    address_class u8 core/admission.py, of the address it came from
    window     u16   MQTT 5.0 only: the client's Receive Maximum
    packet_max u32   MQTT 5.0 only: the client's Maximum Packet Size, bytes
    session_expiry u32  seconds that the session outlives its connection, as granted
    aliases    8 u16 MQTT 5.0 only: what the client's topic aliases stand for (long_link_aliases.py)
    app_state  u8    what the device says of itself (core/uplink.py)

64 bytes, and 8 in the slot index. The columns are reserved for `files_max` descriptors and touched only where there is
a connection. Each column exists twice over one memory: as a numpy array for whole turns, and as a memoryview (suffix
`_at`) because reading one element of a numpy array costs three times as much.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from gateway.columns import I32, Bool, Rows
from gateway.errors import CloseReason
from gateway.net.edge_slots import SlotIndex
from gateway.wire.mqtt.session import SessionState

FLAG_SUBSCRIBED = 1
FLAG_QOS_1 = 2
FLAG_PARTIAL = 4
FLAG_PENDING = 8
FLAG_MQTT_5 = 16
FLAG_SESSION_EXPIRY = 32
"""MQTT 5.0: its CONNECT asked for a session that outlives the connection, so its DISCONNECT may change that."""
FLAG_ALIAS = 64
"""MQTT 5.0: the client takes a topic alias."""
FLAG_ALIAS_SET = 128
"""It has been told what the alias stands for."""

#: Topic Alias Maximum of uplink. A phone reports some eight kinds of events over and over.
TOPIC_ALIAS_MAX = 8
_NO_ALIASES = bytes(2 * TOPIC_ALIAS_MAX)

#: Maximum Packet Size of a client that gave none.
NO_PACKET_BYTES_MAX = 0xFFFFFFFF
#: MQTT-3.1.2-24: a client is gone after one and a half times its keep alive; here in tenths of a second per second.
_KEEPALIVE_TENTHS = 15
#: As numpy compares it at once: an enum member costs six times as much.
_CONNECTED = np.uint8(SessionState.CONNECTED)


class Count(enum.IntEnum):
    """Counters of the edge and its sessions, positions in one uint64 column. All rise only."""

    ACCEPTED = 0
    ACCEPT_PAUSED = enum.auto()
    """Accepting paused because the process or the system is out of file descriptors or memory."""
    REFUSED_CONNECTIONS_MAX = enum.auto()
    REFUSED_LAYERED_CONNECTIONS_MAX = enum.auto()
    """Connections to a listener with TLS or WebSocket, when there are as many of those as may be."""
    EVICTED_LAYERED_CONNECTIONS_MAX = enum.auto()
    PROXY_HEADERS = enum.auto()
    PROXY_HEADERS_REFUSED = enum.auto()
    TLS_HANDSHAKES = enum.auto()
    TLS_HANDSHAKES_FAILED = enum.auto()
    WEBSOCKET_UPGRADES = enum.auto()
    WEBSOCKET_UPGRADES_REFUSED = enum.auto()
    CERTIFICATE_RELOADS = enum.auto()
    CERTIFICATE_RELOADS_FAILED = enum.auto()
    """A changed certificate could not be loaded; the one before stays in use."""
    REFUSED_FILES_RESERVE = enum.auto()
    """Closed because only the reserve of file descriptors was left; accepting pauses then."""
    REFUSED_ADDRESS = enum.auto()
    """Closed unread: a banned address, or one that rests after wrong passwords (`pushgw_logins_refused_total`)."""
    EVICTED_HANDSHAKING_MAX = enum.auto()
    EVICTED_HANDSHAKING_PER_ADDRESS_MAX = enum.auto()
    EVICTED_PARTIAL_BYTES_MAX = enum.auto()
    BYTES_IN = enum.auto()
    BYTES_OUT = enum.auto()
    READS = enum.auto()
    WRITES = enum.auto()
    WRITES_SHORT = enum.auto()
    """Writes of which the kernel took only a part, or nothing: the rest waits as pending output."""
    LOGINS = enum.auto()
    LOGINS_WAITED = enum.auto()
    """Connections that stood in line for their login, because others of this worker had work."""
    SUBSCRIPTIONS_GRANTED = enum.auto()
    SUBSCRIPTIONS_REFUSED = enum.auto()
    UPLINK = enum.auto()
    UPLINK_TOPIC_REFUSED = enum.auto()
    UPLINK_OVERLOADED = enum.auto()
    SESSIONS_STORED = enum.auto()
    """Sessions that stayed when their connection ended."""
    SESSIONS_RESUMED = enum.auto()
    SESSIONS_EXPIRED = enum.auto()
    SESSIONS_DISCARDED = enum.auto()
    """Stored sessions that their device ended itself, with a clean start."""
    EVICTED_SESSIONS_MAX = enum.auto()
    """Stored sessions that ended before their time, because there are as many as may be."""
    REFUSED_EXCHANGES_MAX = enum.auto()
    """Sessions not stored: their open QoS 2 exchanges found no room."""
    REDELIVERED = enum.auto()
    """Rows sent again with DUP after a session was resumed; not counted as delivered again."""
    REFUSED_REDELIVERY = enum.auto()
    """Rows of a resumed session that were handed over instead: sent too often, or the client takes less now."""
    REDIRECTED = enum.auto()
    """Clients of MQTT 5.0 that were told another server."""
    FAREWELLS = enum.auto()
    """DISCONNECT packets with which the edge itself ended a connection of MQTT 5.0."""
    DELIVERED = enum.auto()
    """Rows written to a socket or its pending output."""
    DELIVERED_QOS_0 = enum.auto()
    REFUSED_OFFLINE = enum.auto()
    """Rows not taken: connection gone, another generation, or not subscribed."""
    REFUSED_WINDOW = enum.auto()
    REFUSED_IN_FLIGHT_MAX = enum.auto()
    REFUSED_CLIENT_PACKET_BYTES_MAX = enum.auto()
    """Rows not taken: longer than the Maximum Packet Size that the client gave in its CONNECT."""
    REFUSED_PENDING = enum.auto()
    """Rows not taken: pending output full, or the write failed."""
    PUBACKS = enum.auto()
    PUBACKS_LATE = enum.auto()
    PUBACKS_UNKNOWN = enum.auto()
    PUBACKS_REFUSED = enum.auto()
    """Rows that a device answered with a reason code from 0x80 on: it did not take them."""
    LAPSED = enum.auto()
    LOST_WITH_CONNECTION = enum.auto()
    MOVED = enum.auto()
    """Connections handed to the worker that owns their device; it counts them as ADOPTED, and their end."""
    ADOPTED = enum.auto()
    RELAYED = enum.auto()
    """Connections whose TLS or WebSocket ends here and whose device is another worker's."""
    MOVES_WAITED = enum.auto()
    """CONNECTs kept until the owner of their device was there to take them, or until their time was over."""
    MOVES_LOST = enum.auto()
    """Connections that came from another worker when no file descriptor was left for them."""


CLOSE_REASONS: tuple[CloseReason, ...] = tuple(CloseReason)
CLOSE_REASON_INDEX = {reason: index for index, reason in enumerate(CLOSE_REASONS)}


class ConnectionTable:
    """The columns, the slot index, and the counters. Owned by the long-link actor; times are its monotonic `now`."""

    def __init__(self, files_max: int, connections_max: int, *, now: float) -> None:
        self.files_max = files_max
        self._epoch = now - 1.0  # so that no deadline is 0, which means none
        self.generation = np.zeros(files_max, np.uint32)
        self.state = np.zeros(files_max, np.uint8)
        self.flags = np.zeros(files_max, np.uint8)
        self.slot = np.zeros(files_max, np.int32)
        self.app = np.zeros(files_max, np.uint16)
        self.keepalive_s = np.zeros(files_max, np.uint16)
        self.deadline = np.zeros(files_max, np.uint32)
        self.in_flight = np.zeros(files_max, np.uint16)
        self.device_id = np.zeros((files_max, 16), np.uint8)
        self.address_class = np.zeros(files_max, np.uint8)
        self.window = np.zeros(files_max, np.uint16)
        self.packet_bytes_max = np.zeros(files_max, np.uint32)
        self.session_expiry_s = np.zeros(files_max, np.uint32)
        self.aliases = np.zeros((files_max, TOPIC_ALIAS_MAX), np.uint16)
        self.app_state = np.zeros(files_max, np.uint8)
        self.generation_at = self.generation.data
        self.state_at = self.state.data
        self.flags_at = self.flags.data
        self.slot_at = self.slot.data
        self._app_at = self.app.data
        self._keepalive_at = self.keepalive_s.data
        self._deadline_at = self.deadline.data
        self.in_flight_at = self.in_flight.data
        self._window_at = self.window.data
        self.packet_bytes_max_at = self.packet_bytes_max.data
        self.session_expiry_s_at = self.session_expiry_s.data
        self._aliases_at = self.aliases.data.cast("B")
        self.app_state_at = self.app_state.data
        self._device_id_at = self.device_id.data.cast("B")
        self.slots = SlotIndex(connections_max, self.slot_at)
        self.high_water = 0
        """One more than the highest descriptor ever open: scans stop here."""
        self.n_open = 0
        self.n_connected = 0
        self.n_ended = 0
        """Connections that are over: while it stays the same, all pairs of (fd, generation) do."""
        self.counts = np.zeros(len(Count), np.uint64)
        self.count_at = self.counts.data
        self.closed = np.zeros(len(CLOSE_REASONS), np.uint64)
        self.closed_at = self.closed.data

    def tenths(self, now: float) -> int:
        return int((now - self._epoch) * 10)

    def open(self, fd: int, deadline: float) -> None:
        """The descriptor becomes a connection that shakes hands until `deadline`."""
        if self.generation_at[fd] == 0:
            self.generation_at[fd] = 1
        self.state_at[fd] = SessionState.HANDSHAKING
        self.flags_at[fd] = 0
        self.slot_at[fd] = -1
        self.in_flight_at[fd] = 0
        self._deadline_at[fd] = self.tenths(deadline)
        self.high_water = max(self.high_water, fd + 1)
        self.n_open += 1

    def log_in(
        self,
        fd: int,
        slot: int,
        app_index: int,
        device_id: bytes,
        keepalive_s: int,
        now: float,
        *,
        session_expiry_s: int = 0,
    ) -> None:
        """The connection belongs to a device from now on. The slot must not be in the index."""
        self.state_at[fd] = SessionState.CONNECTED
        self.session_expiry_s_at[fd] = session_expiry_s
        self.app_state_at[fd] = 0
        self.slot_at[fd] = slot
        self._app_at[fd] = app_index
        self._device_id_at[fd * 16 : fd * 16 + 16] = device_id
        self._keepalive_at[fd] = keepalive_s
        self._deadline_at[fd] = self.tenths(now) + keepalive_s * _KEEPALIVE_TENTHS
        self.slots.insert(slot, fd)
        self.n_connected += 1

    def log_in_5(
        self, fd: int, window: int, packet_bytes_max: int, *, may_keep_session: bool, takes_alias: bool
    ) -> None:
        """The connection of the last `log_in` speaks MQTT 5.0, with these limits of the client. No alias is known."""
        self.flags_at[fd] |= (
            FLAG_MQTT_5 | (FLAG_SESSION_EXPIRY if may_keep_session else 0) | (FLAG_ALIAS if takes_alias else 0)
        )
        first = fd * len(_NO_ALIASES)
        self._aliases_at[first : first + len(_NO_ALIASES)] = _NO_ALIASES
        self._window_at[fd] = window
        self.packet_bytes_max_at[fd] = packet_bytes_max

    def app_of(self, fd: int) -> int:
        """The app index of a connected descriptor."""
        return self._app_at[fd]

    def device_id_of(self, fd: int) -> bytes:
        return bytes(self._device_id_at[fd * 16 : fd * 16 + 16])

    def heard_ago_s(self, fds: I32, now: float) -> npt.NDArray[np.float64]:
        """(n,) seconds since these connected descriptors sent something: what is missing of their keepalive."""
        full = self.keepalive_s[fds].astype(np.int64) * _KEEPALIVE_TENTHS
        ago: npt.NDArray[np.float64] = (self.tenths(now) - self.deadline[fds].astype(np.int64) + full) / 10.0
        return np.maximum(ago, 0.0)

    def find_devices(self, app_index: int, device_ids: frozenset[bytes]) -> list[int]:
        """Descriptors of an app's connected devices that are among the ids."""
        is_ours = self.state[: self.high_water] == _CONNECTED
        is_ours &= self.app[: self.high_water] == app_index
        fds = np.flatnonzero(is_ours)
        # Half an id first, for all of them at once: hardly any other device has the same half.
        halves = np.array([int.from_bytes(one[:8], "little") for one in device_ids], np.uint64)
        suspects = fds[np.isin(self.device_id[fds, :8].copy().view("<u8")[:, 0], halves)]
        return [fd for fd in suspects.tolist() if self.device_id_of(fd) in device_ids]

    def rest(self, fd: int) -> None:
        """Nothing is expected of the connection here: another worker watches over it."""
        self._deadline_at[fd] = 0

    def free(self, fd: int) -> None:
        """The connection is over: its (fd, generation) matches nothing any more."""
        if self.state_at[fd] == SessionState.CONNECTED:
            self.slots.remove(self.slot_at[fd], fd)
            self.n_connected -= 1
        self.state_at[fd] = SessionState.FREE
        self.flags_at[fd] = 0
        self.in_flight_at[fd] = 0
        self._deadline_at[fd] = 0
        # 0 is no generation; a descriptor is reused 4 billion times before one comes back.
        self.generation_at[fd] = self.generation_at[fd] % 0xFFFFFFFF + 1
        self.n_open -= 1
        self.n_ended += 1

    def touch(self, fds: Rows, now: float) -> None:
        """Connected descriptors have just been heard: their keepalive starts anew. Others keep their deadline."""
        heard = fds[self.state[fds] == _CONNECTED]
        self.deadline[heard] = self.keepalive_s[heard].astype(np.uint32) * _KEEPALIVE_TENTHS + self.tenths(now)

    def overdue(self, now: float) -> Rows:
        """Descriptors whose deadline has passed: handshaking ones and silent ones. One scan over one column."""
        deadline = self.deadline[: self.high_water]
        # Unsigned: no deadline (0) becomes the highest value of all.
        return np.flatnonzero(deadline - np.uint32(1) < self.tenths(now))

    def is_live(self, fds: I32, generations: npt.NDArray[np.uint32]) -> Bool:
        """(n,) true where the pair names a connection that is logged in."""
        # As unsigned numbers, negative descriptors are beyond all others.
        live: Bool = fds.view(np.uint32) < self.files_max
        live &= self.generation.take(fds, mode="clip") == generations
        live &= self.state.take(fds, mode="clip") == _CONNECTED
        return live
