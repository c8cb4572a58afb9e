"""What the server says in each version: one function per packet, the version an argument. Sans-IO, stateless.

In 3.1.1 most answers have no place for a reason; there an exchange that fails gets no answer, or the connection ends.

Source: OASIS MQTT 3.1.1 and 5.0, sections 3.2, 3.4 to 3.7, 3.9, 3.11, 3.14.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import CloseReason
from gateway.wire.mqtt import packets as mqtt
from gateway.wire.mqtt.fields import encode_variable
from gateway.wire.mqtt.packet_types import VERSION_5, Connect, ConnectCode
from gateway.wire.mqtt.properties import NO_PROPERTIES, Properties, encode_properties
from gateway.wire.mqtt.reason_codes import ReasonCode

#: CONNACK, section 3.2.2.2. A device that may not connect is one that the operator has banned.
CONNECT_REASONS: Final = {
    ConnectCode.ACCEPTED: ReasonCode.SUCCESS,
    ConnectCode.UNACCEPTABLE_PROTOCOL_VERSION: ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    ConnectCode.IDENTIFIER_REJECTED: ReasonCode.CLIENT_IDENTIFIER_NOT_VALID,
    ConnectCode.SERVER_UNAVAILABLE: ReasonCode.SERVER_BUSY,
    ConnectCode.BAD_USER_NAME_OR_PASSWORD: ReasonCode.BAD_USER_NAME_OR_PASSWORD,
    ConnectCode.NOT_AUTHORIZED: ReasonCode.BANNED,
}


def offer(
    connect: Connect,
    *,
    keepalive_s: int,
    receive_maximum: int,
    packet_bytes_max: int,
    session_expiry_s: int = 0,
    topic_alias_max: int = 0,
) -> Properties:
    """What an accepting CONNACK declares (section 3.2.2.3). session_expiry_s: as granted.

    Absent and therefore: Maximum QoS 2 (for uplink), no Assigned Client Identifier.
    """
    asked_s = connect.properties.session_expiry_interval_s or 0
    return Properties(
        # Absent would mean that we keep what the client asked for.
        session_expiry_interval_s=session_expiry_s if session_expiry_s != asked_s else None,
        server_keep_alive_s=keepalive_s if keepalive_s != connect.keepalive_s else None,
        receive_maximum=receive_maximum,
        topic_alias_maximum=topic_alias_max or None,
        retain_available=0,
        maximum_packet_size_bytes=packet_bytes_max,
        wildcard_subscription_available=0,
        subscription_identifier_available=0,
        shared_subscription_available=0,
    )


def connack_5(code: ReasonCode, properties: Properties = NO_PROPERTIES, *, is_session_present: bool = False) -> bytes:
    """A refusal never says session present [MQTT-3.2.2-6]."""
    present = is_session_present and code is ReasonCode.SUCCESS
    body = bytes((present, code)) + encode_properties(properties)
    return b"\x20" + encode_variable(len(body)) + body


def connack(
    version: int,
    code: ConnectCode,
    properties: Properties = NO_PROPERTIES,
    *,
    is_session_present: bool = False,
) -> bytes:
    if version == VERSION_5:
        return connack_5(CONNECT_REASONS[code], properties, is_session_present=is_session_present)
    return mqtt.encode_connack(code, is_session_present=is_session_present)


def refusal_5(connect: Connect, code: ReasonCode, text: str, server_reference: str | None = None) -> bytes:
    """5.0 only. A CONNACK that refuses, and says where to go (with USE_ANOTHER_SERVER, SERVER_MOVED) and why.

    What does not fit into the client's Maximum Packet Size is left out, the text first [MQTT-3.1.2-24, MQTT-3.2.2-19];
    without a reference a client may look elsewhere for it (section 4.11). A client that asked for no problem
    information gets no text (section 3.1.2.11.7).
    """
    asked = connect.properties
    limit = asked.maximum_packet_size_bytes or mqtt.REMAINING_LENGTH_MAX
    reasons = (text,) if text and asked.request_problem_information != 0 else ()
    for reason in (*reasons, None):
        packet = connack_5(code, Properties(reason_string=reason, server_reference=server_reference))
        if len(packet) <= limit:
            return packet
    return connack_5(code)


def suback(version: int, packet_id: int, codes: bytes) -> bytes:
    """codes: as `session.grant` gave them."""
    if version != VERSION_5:
        return mqtt.encode_suback(packet_id, codes)
    body = packet_id.to_bytes(2, "big") + b"\x00" + codes.replace(_REFUSED_3_1_1, _REFUSED_5)
    return b"\x90" + encode_variable(len(body)) + body


_REFUSED_3_1_1 = bytes((mqtt.SUBSCRIPTION_REFUSED,))
_REFUSED_5 = bytes((ReasonCode.NOT_AUTHORIZED,))


def unsuback(version: int, packet_id: int, had_subscription: list[bool]) -> bytes:
    """had_subscription: one per topic filter, in their order [MQTT-3.11.3-1]."""
    if version != VERSION_5:
        return mqtt.encode_unsuback(packet_id)
    codes = bytes(ReasonCode.SUCCESS if had else ReasonCode.NO_SUBSCRIPTION_EXISTED for had in had_subscription)
    body = packet_id.to_bytes(2, "big") + b"\x00" + codes
    return b"\xb0" + encode_variable(len(body)) + body


def puback_refused(packet_id: int, code: ReasonCode) -> bytes:
    """5.0 only."""
    return b"\x40\x03" + packet_id.to_bytes(2, "big") + bytes((code,))


def pubrec_refused(packet_id: int, code: ReasonCode) -> bytes:
    """5.0 only. The exchange ends with it: no PUBREL follows (section 4.3.3)."""
    return b"\x50\x03" + packet_id.to_bytes(2, "big") + bytes((code,))


def pubcomp(version: int, packet_id: int, *, is_known: bool) -> bytes:
    """Success takes the short form, which is the same in both versions (section 3.7.2.1)."""
    if version == VERSION_5 and not is_known:
        return b"\x70\x03" + packet_id.to_bytes(2, "big") + bytes((ReasonCode.PACKET_IDENTIFIER_NOT_FOUND,))
    return mqtt.encode_pubcomp(packet_id)


def disconnect(code: ReasonCode, text: str = "", packet_bytes_max: int = mqtt.REMAINING_LENGTH_MAX) -> bytes:
    """5.0 only. The text goes with it as Reason String where the client's limit has room for it [MQTT-3.14.2-4]."""
    short = b"\xe0\x01" + bytes((code,))
    if not text:
        return short
    body = bytes((code,)) + encode_properties(Properties(reason_string=text))
    packet = b"\xe0" + encode_variable(len(body)) + body
    return packet if len(packet) <= packet_bytes_max else short


#: What a 5.0 client is told when the edge ends its connection for its own reasons (sections 3.14.2.1, 4.13). Faults of
#: packets are told by whoever finds them, with a code of their own. A slow consumer has no room for a last word.
FAREWELLS: Final = {
    CloseReason.KEEPALIVE_TIMEOUT: disconnect(ReasonCode.KEEP_ALIVE_TIMEOUT),
    CloseReason.TAKEN_OVER: disconnect(ReasonCode.SESSION_TAKEN_OVER),
    CloseReason.SHUTDOWN: disconnect(ReasonCode.SERVER_SHUTTING_DOWN),
    CloseReason.HALF_FRAME_TIMEOUT: disconnect(ReasonCode.MALFORMED_PACKET, "packet was not complete in time"),
    CloseReason.BANNED: disconnect(ReasonCode.ADMINISTRATIVE_ACTION),
}


def farewell(reason: CloseReason, packet_bytes_max: int, server_reference: str = "") -> bytes | None:
    """The last word to a 5.0 client, or None. Whoever must leave is told where to go, if that is known and fits."""
    if reason is CloseReason.SHUTDOWN and server_reference:
        body = bytes((ReasonCode.USE_ANOTHER_SERVER,)) + encode_properties(
            Properties(server_reference=server_reference)
        )
        packet = b"\xe0" + encode_variable(len(body)) + body
        if len(packet) <= packet_bytes_max:
            return packet
    return FAREWELLS.get(reason)
