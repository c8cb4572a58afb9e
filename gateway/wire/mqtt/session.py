"""The rules of a long-link session over MQTT 3.1.1 and 5.0: what each packet means in each state. Sans-IO, stateless.

A session has no object. What lasts is a row of the edge's columns (`net/edge_table.py`); the rules are this table and
a few plain functions, and the actor carries out what they say.

                 accepted                 CONNECT, identity good
      FREE  ----------------> HANDSHAKING ----------------------> CONNECTED
        ^                          |  anything else                  |  DISCONNECT, fault, timeout, takeover
        +--------------------------+---------------------------------+

Source: OASIS MQTT 3.1.1 and 5.0; identity and topics: DESIGN.md section 6, `docs/device-protocol.md`.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from gateway.errors import RemoteProtocolError
from gateway.wire.mqtt.packets import (
    SUBSCRIPTION_REFUSED,
    Connect,
    ConnectCode,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Publish,
    Pubrel,
    Subscribe,
    Unsubscribe,
)
from gateway.wire.mqtt.reason_codes import ReasonCode


class SessionState(enum.IntEnum):
    """Stored in a uint8 column; FREE is 0 so that fresh memory is right."""

    FREE = 0
    HANDSHAKING = 1
    CONNECTED = 2


class Act(enum.Enum):
    """What the actor has to do for a packet."""

    LOG_IN = enum.auto()
    TAKE_UPLINK = enum.auto()
    ACKNOWLEDGE = enum.auto()
    COMPLETE_UPLINK = enum.auto()
    GRANT = enum.auto()
    WITHDRAW = enum.auto()
    PONG = enum.auto()
    LEAVE = enum.auto()


#: A missing pair breaks the protocol: the first packet is a CONNECT [MQTT-3.1.0-1], and there is one [MQTT-3.1.0-2].
TRANSITIONS: Final[dict[tuple[int, type[Packet]], Act]] = {
    (SessionState.HANDSHAKING, Connect): Act.LOG_IN,
    (SessionState.CONNECTED, Publish): Act.TAKE_UPLINK,
    (SessionState.CONNECTED, Puback): Act.ACKNOWLEDGE,
    (SessionState.CONNECTED, Pubrel): Act.COMPLETE_UPLINK,
    (SessionState.CONNECTED, Subscribe): Act.GRANT,
    (SessionState.CONNECTED, Unsubscribe): Act.WITHDRAW,
    (SessionState.CONNECTED, Pingreq): Act.PONG,
    (SessionState.CONNECTED, Disconnect): Act.LEAVE,
}


def act_for(state: int, packet: Packet) -> Act:
    """What the packet asks for. Raises: RemoteProtocolError when it may not come in this state."""
    act = TRANSITIONS.get((state, type(packet)))
    if act is None:
        text = f"{type(packet).__name__.upper()} may not come in state {SessionState(state).name}"
        raise RemoteProtocolError(text, wire_code=ReasonCode.PROTOCOL_ERROR)
    return act


#: The shortest limit of a client with which every answer but a PUBLISH or a long SUBACK fits: CONNACK has 35 at most.
CLIENT_PACKET_BYTES_MIN: Final = 64

_DEVICE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
#: Events are names, not paths: they become labels and columns, so their alphabet and length are closed.
_EVENT = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def is_device_id(client_id: str) -> bool:
    """True for 32 lower-case hex digits, the only client identifiers there are."""
    return _DEVICE_ID.fullmatch(client_id) is not None


def connect_refusal(connect: Connect) -> ConnectCode | None:
    """Why a CONNECT is refused whatever its password, or None; an empty identifier is [MQTT-3.1.3-8, -9]."""
    if not is_device_id(connect.client_id):
        return ConnectCode.IDENTIFIER_REJECTED
    if connect.user_name is None or connect.password is None:
        return ConnectCode.BAD_USER_NAME_OR_PASSWORD
    return None


def connect_refusal_5(connect: Connect) -> ReasonCode | None:
    """What only MQTT 5.0 lets a client ask for and this edge cannot give, or None."""
    if connect.properties.authentication_method is not None:
        return ReasonCode.BAD_AUTHENTICATION_METHOD  # [MQTT-4.12.0-1]
    limit = connect.properties.maximum_packet_size_bytes
    if limit is not None and limit < CLIENT_PACKET_BYTES_MIN:
        return ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
    return None


#: What an app developer reads beside the code of a refusal. It tells nobody which part of a credential was wrong.
REFUSAL_TEXTS: Final = {
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: "client identifier is not a device id, 32 lower-case hex digits",
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: "user name, password and client identifier do not go together",
    ReasonCode.BAD_AUTHENTICATION_METHOD: "enhanced authentication is not offered",
    ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR: f"maximum packet size is below {CLIENT_PACKET_BYTES_MIN}",
    ReasonCode.BANNED: "device or network is banned by the operator",
    ReasonCode.SERVER_MOVED: "this server takes no more devices",
}


def check_disconnect(disconnect: Disconnect, *, may_keep_session: bool) -> None:
    """Raises: RemoteProtocolError where it asks for a session that its CONNECT did not ask for [MQTT-3.14.2-2]."""
    if disconnect.properties.session_expiry_interval_s and not may_keep_session:
        text = "DISCONNECT has a session expiry interval and its CONNECT had none"
        raise RemoteProtocolError(text, wire_code=ReasonCode.PROTOCOL_ERROR)


def downlink_topic(device_id_hex: str) -> str:
    return f"d/{device_id_hex}/down"


def grant(subscribe: Subscribe, device_id_hex: str) -> tuple[bytes, int | None]:
    """(SUBACK return codes, granted QoS of the downlink topic or None when this packet does not ask for it).

    A device may subscribe to its own downlink and to nothing else; QoS 2 is granted as 1 (section 3.8.4 allows less
    than asked). Of two entries for one filter the later counts [MQTT-3.8.4-3].
    """
    own = downlink_topic(device_id_hex)
    granted: int | None = None
    codes = bytearray()
    for topic_filter, qos in subscribe.filters:
        if topic_filter == own:
            granted = min(qos, 1)
            codes.append(granted)
        else:
            codes.append(SUBSCRIPTION_REFUSED)
    return bytes(codes), granted


def uplink_event(topic: str, device_id_hex: str) -> str | None:
    """The event of `d/<own id>/up/<event>`, or None for a topic the device may not publish to."""
    prefix = f"d/{device_id_hex}/up/"
    if not topic.startswith(prefix):
        return None
    event = topic[len(prefix) :]
    return event if _EVENT.fullmatch(event) else None
