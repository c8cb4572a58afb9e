"""The control packets of a client as values, for MQTT 3.1.1 and 5.0 alike; a 3.1.1 packet has no properties.

Source: OASIS MQTT 3.1.1 and 5.0, sections 2.1 and 3.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

from gateway.errors import RemoteProtocolError
from gateway.wire.mqtt.properties import NO_PROPERTIES, Properties

#: The longest fixed header: one byte of type and flags, four of remaining length (section 2.2.3).
FIXED_HEADER_BYTES_MAX = 5
REMAINING_LENGTH_MAX = 268_435_455
VERSION_3_1_1 = 4
VERSION_5 = 5


class PacketType(enum.IntEnum):
    """Section 2.2.1, table 2.1."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15
    """MQTT 5.0 only."""


class ConnectCode(enum.IntEnum):
    """CONNACK return codes, table 3.1."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_VERSION = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


class Connect(NamedTuple):
    """A CONNECT. The will is checked for form and given up: a push edge has nobody to tell.

    clean_session: named Clean Start in 5.0. properties: of the packet, not of the will.
    """

    client_id: str
    clean_session: bool
    keepalive_s: int
    user_name: str | None
    password: bytes | None
    has_will: bool
    version: int = VERSION_3_1_1
    properties: Properties = NO_PROPERTIES


class Publish(NamedTuple):
    """An uplink message. packet_id is 0 for QoS 0 only."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    is_duplicate: bool
    is_retained: bool
    properties: Properties = NO_PROPERTIES


class Subscribe(NamedTuple):
    packet_id: int
    filters: tuple[tuple[str, int], ...]
    """(topic filter, requested QoS 0..2) in the order of the packet.

    The other options of 5.0 are checked and given up: what they choose (own messages, retained ones) never comes."""
    properties: Properties = NO_PROPERTIES


class Unsubscribe(NamedTuple):
    packet_id: int
    filters: tuple[str, ...]
    properties: Properties = NO_PROPERTIES


class Puback(NamedTuple):
    packet_id: int
    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


class Pubrel(NamedTuple):
    packet_id: int
    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


class Pingreq(NamedTuple):
    pass


class Disconnect(NamedTuple):
    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


Packet: TypeAlias = Connect | Publish | Subscribe | Unsubscribe | Puback | Pubrel | Pingreq | Disconnect


class FrameTooLarge(RemoteProtocolError):
    """The client announced a packet longer than we take. Known from the first bytes; the rest is never read."""

    def __init__(self, packet_bytes: int, packet_bytes_max: int) -> None:
        self.packet_bytes = packet_bytes
        super().__init__(f"packet is {packet_bytes} bytes, limit {packet_bytes_max}")


class ConnectFault(RemoteProtocolError):
    """A CONNECT that says it is MQTT 5.0, or newer, and cannot be taken: its answer is a CONNACK in the form of 5.0."""
