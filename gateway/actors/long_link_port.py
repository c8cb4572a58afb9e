"""What the long link and the rest of the gateway have to know of each other: its settings and the ports it calls.

The router is the *owner* of devices and rows; `Owner` is what the long link tells it. All columns of one call have one
length, and arrays belong to the callee from then on.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Annotated, NamedTuple, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.actors.long_link_acks import OWED_BYTES, OWED_MAX
from gateway.columns import I32, I64, U16, U32, Bool
from gateway.errors import CloseReason
from gateway.net.edge_settings import EdgeSettings

F64 = npt.NDArray[np.float64]


def _meta(description: str, ge: float = 1, le: float | None = None) -> msgspec.Meta:
    return msgspec.Meta(ge=ge, le=le, description=description)


class LongLinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of sessions and deliveries; those of sockets are in `edge`."""

    edge: EdgeSettings = EdgeSettings()
    in_flight_per_device_max: Annotated[
        int, _meta("rows of one device without PUBACK; a phone that wakes up is not flooded", 1, 65_535)
    ] = 32
    in_flight_max: Annotated[int, _meta("rows without PUBACK over all devices; 38 bytes each")] = 262_140
    session_expiry_s_max: Annotated[
        int, _meta("a session outlives its connection for so long at most; a day finds the phone of a commuter", 0)
    ] = 86_400
    sessions_max: Annotated[
        int, _meta("sessions of absent devices, 49 bytes each; the one that would expire first goes for a newer one", 0)
    ] = 262_144
    exchanges_parked_max: Annotated[
        int, _meta("QoS 2 exchanges of all absent sessions; phones have one or none, some 240 bytes each", 0)
    ] = 16_384
    deliveries_max: Annotated[
        int, _meta("sendings of one row over one resumed session; a phone that crashes at it loses it then", 1, 255)
    ] = 4
    server_reference: Annotated[str, msgspec.Meta(max_length=255)] = ""
    """Where MQTT 5.0 devices are sent to that find no room, or lose this server by its end; empty: nowhere."""
    is_moved: bool = False
    """All devices are sent there."""
    packet_bytes_max: Annotated[
        int, _meta("one uplink packet; events are small. Clients read no larger Maximum Packet Size", 64, 268_435_455)
    ] = 65_536
    connect_bytes_max: Annotated[int, _meta("a CONNECT: ids and a password, and a will that is thrown away", 64)] = (
        4_096
    )
    ack_timeout_s: Annotated[float, _meta("a row without PUBACK goes to another channel after it", 0.001)] = 5.0
    keepalive_s_max: Annotated[
        int, _meta("keep alive in force for a device that asks for none or for more; finds dead sockets", 1, 65_535)
    ] = 1_200
    qos_2_unreleased_max: Annotated[int, _meta("uplink QoS 2 messages of one device waiting for PUBREL")] = 64
    tick_s: Annotated[float, _meta("period of the scans over deadlines", 0.001)] = 1.0

    def memory_bytes_max(self) -> int:
        """What the long link may take of the worker's memory budget when every limit is reached at once.

        A row of the connection table has 64 bytes and its two cells of the slot index 8 to 16; an entry in flight has
        34 and its place in the list of free ones 4; a stored session has 33 and 16 in its index; a handshake has
        entries in two dicts, about 300; acknowledgements that are owed have a bound of their own. A connection with
        layers has some 16 KiB and at most two TLS records beside.
        """
        edge = self.edge
        return (
            edge.files_max * 64
            + edge.connections_max * 16
            + self.in_flight_max * 38
            + self.sessions_max * 49
            + self.exchanges_parked_max * 240
            + OWED_MAX * OWED_BYTES
            + edge.handshaking_max * 300
            + (edge.layered_connections_max * (50 << 10) if any(one.is_layered for one in edge.listeners) else 0)
            + edge.pending_total_bytes_max
            + edge.partial_total_bytes_max
        )


class App(Protocol):
    """What the long link has to know of an app."""

    @property
    def index(self) -> int: ...
    @property
    def secrets(self) -> tuple[bytes, ...]: ...


class Unacknowledged(enum.Enum):
    """Why a row that had been taken comes back."""

    CONNECTION_CLOSED = "connection_closed"
    ACK_TIMEOUT = "ack_timeout"
    REFUSED = "refused"
    """The device answered that it does not take it (MQTT 5.0, a reason code from 0x80 on)."""
    QOS_0 = "qos_0"
    """Written, but the device subscribed with QoS 0: nobody will ever say whether it came."""


#: Whether what a message said is durable.
Later: TypeAlias = Callable[[bool], None]


class UplinkAnswer(enum.Enum):
    """What became of a message of a device."""

    TAKEN = "taken"
    MALFORMED = "malformed"
    """Its payload has not the form of its event. Sending it again would not help: it is acknowledged in 3.1.1."""
    LATER = "later"
    """It is acknowledged when what it says is durable: `later` is called once, with False if it cannot be."""


class Owner(Protocol):
    """Whoever owns devices and rows (the router). Columns of one call have one length; arrays belong to the callee."""

    def connect(self, app_index: int, device_id: bytes, fd: int, generation: int, now: float) -> int:
        """The device's slot, or a negative number to refuse it (banned). Raises: Overloaded (CONNACK code 3)."""

    def subscribed(self, slots: I32, fds: I32, generations: U32, now: float) -> None:
        """These devices take downlink of QoS 1 from now on: the moment to send what waited for them."""

    def disconnected(self, slots: I32, fds: I32, generations: U32, reasons: list[CloseReason]) -> None:
        """These connections are over. A takeover's new connection has been announced by `connect` before."""

    def acknowledged(self, tags: I64, sent_at: F64, now: float) -> None:
        """PUBACKs in time: these rows are with their devices."""

    def acknowledged_late(self, tags: I64, sent_at: F64, now: float) -> None:
        """PUBACKs of rows that were given back as ACK_TIMEOUT before."""

    def unacknowledged(self, tags: I64, why: Unacknowledged) -> None:
        """These rows are the owner's again."""

    def resumed(self, tags: I64, fds: I32, generations: U32, packet_ids: U16) -> Bool:
        """Rows in flight whose devices came back to their sessions: each is to be given to `LongLink.redeliver` before
        this returns. (n,) true where it was sent again; where it was not, the row is the owner's."""
        ...

    def uplink(self, slot: int, device_id: bytes, event: str, payload: bytes, later: Later | None) -> UplinkAnswer:
        """A message of a device. later: None where nobody waits (QoS 0); it may be called before this returns LATER.
        Raises: Overloaded (it gets no PUBACK and sends it again)."""
        ...


class LongLinkStatistics(NamedTuple):
    """A snapshot. counts, closed, packets: name -> value since start."""

    connections: int
    connected: int
    in_flight: int
    side_tables: dict[str, int]
    counts: dict[str, int]
    closed: dict[str, int]
    packets_in: dict[str, int]
    packets_out: dict[str, int]
    connacks: dict[str, int]
