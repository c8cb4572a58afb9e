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


def offer(connect: Connect, *, keepalive_s: int, receive_maximum: int, packet_bytes_max: int) -> Properties:
    """What an accepting CONNACK declares (section 3.2.2.3).

    Absent and therefore: Maximum QoS 2 (for uplink), Topic Alias Maximum 0, no Assigned Client Identifier.
    """
    asks_for_session = bool(connect.properties.session_expiry_interval_s)
    return Properties(
        # Absent would mean that we keep what the client asked for.
        session_expiry_interval_s=0 if asks_for_session else None,
        server_keep_alive_s=keepalive_s if keepalive_s != connect.keepalive_s else None,
        receive_maximum=receive_maximum,
        retain_available=0,
        maximum_packet_size_bytes=packet_bytes_max,
        wildcard_subscription_available=0,
        subscription_identifier_available=0,
        shared_subscription_available=0,
    )


def connack_5(code: ReasonCode, properties: Properties = NO_PROPERTIES) -> bytes:
    """Session present is always 0: no session outlives its connection."""
    body = bytes((0, code)) + encode_properties(properties)
    return b"\x20" + encode_variable(len(body)) + body


def connack(version: int, code: ConnectCode, properties: Properties = NO_PROPERTIES) -> bytes:
    if version == VERSION_5:
        return connack_5(CONNECT_REASONS[code], properties)
    return mqtt.encode_connack(code)


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
}
