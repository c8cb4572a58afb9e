"""MQTT 3.1.1: the bodies of a client's packets into values, and what of a CONNECT 5.0 shares. Sans-IO, stateless.

Source: OASIS MQTT Version 3.1.1 (29 October 2014); the numbers in square brackets are its normative statements.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.wire.mqtt.fields import (
    read_binary,
    read_packet_id,
    read_text,
    read_topic_filter,
    read_topic_name,
    refuse,
)
from gateway.wire.mqtt.packet_types import (
    VERSION_3_1_1,
    Connect,
    ConnectCode,
    Disconnect,
    Packet,
    PacketType,
    Pingreq,
    Puback,
    Publish,
    Pubrel,
    Subscribe,
    Unsubscribe,
)


def parse_3_1_1(kind: int, flags: int, body: bytes) -> Packet:
    """The packet of that type; its flags have been checked. Raises: RemoteProtocolError."""
    match kind:
        case PacketType.PUBACK:
            return Puback(_only_packet_id(body, "PUBACK"))
        case PacketType.PUBLISH:
            return _parse_publish(flags, body)
        case PacketType.PINGREQ:
            if body:
                refuse("PINGREQ has a body")
            return Pingreq()
        case PacketType.CONNECT:
            return _parse_connect(body)
        case PacketType.SUBSCRIBE:
            return _parse_subscribe(body)
        case PacketType.UNSUBSCRIBE:
            return _parse_unsubscribe(body)
        case PacketType.PUBREL:
            return Pubrel(_only_packet_id(body, "PUBREL"))
        case _:
            if body:
                refuse("DISCONNECT has a body")
            return Disconnect()


def _only_packet_id(body: bytes, name: str) -> int:
    if len(body) != 2:
        refuse(f"{name} has a remaining length of {len(body)}, expected 2")
    return read_packet_id(body, 0)


class ConnectHead(NamedTuple):
    """The part of a CONNECT that 3.1.1 and 5.0 lay out alike."""

    flags: int
    keepalive_s: int
    end: int


def connect_level(body: bytes) -> tuple[int, int]:
    """(protocol level, position after it). Raises: RemoteProtocolError for another protocol, or another 3.1 name."""
    name, at = read_text(body, 0, "protocol name")
    if name not in {"MQTT", "MQIsdp"}:
        refuse("protocol name is neither MQTT nor MQIsdp")  # [MQTT-3.1.2-1]: no CONNACK to a stranger
    if len(body) < at + 1:
        refuse("CONNECT ends before its protocol level")
    level = body[at]
    if name != "MQTT" or level < VERSION_3_1_1:
        refuse(f"protocol level is {level}, expected 4 or 5", ConnectCode.UNACCEPTABLE_PROTOCOL_VERSION)
    return level, at + 1


def connect_head(body: bytes, at: int) -> ConnectHead:
    """Connect flags and keep alive."""
    if len(body) < at + 3:
        refuse("CONNECT ends before its keep alive")
    flags = body[at]
    will_qos = flags >> 3 & 3
    if flags & 1:
        refuse("reserved flag of CONNECT is set")  # [MQTT-3.1.2-3]
    if will_qos == 3 or (not flags & 4 and flags & 0x38):
        refuse("will flags of CONNECT contradict each other")  # [MQTT-3.1.2-11, -13, -14, -15]
    return ConnectHead(flags, body[at + 1] << 8 | body[at + 2], at + 3)


def connect_credentials(body: bytes, at: int, flags: int) -> tuple[str | None, bytes | None]:
    """User name and password, which end the packet."""
    user_name: str | None = None
    password: bytes | None = None
    if flags & 0x80:
        user_name, at = read_text(body, at, "user name")
    if flags & 0x40:
        password, at = read_binary(body, at, "password")
    if at != len(body):
        refuse("CONNECT is longer than its fields")
    return user_name, password


def _parse_connect(body: bytes) -> Connect:
    _, at = connect_level(body)
    flags, keepalive_s, at = connect_head(body, at)
    if flags & 0x40 and not flags & 0x80:
        refuse("CONNECT has a password without a user name")  # [MQTT-3.1.2-22]
    client_id, at = read_text(body, at, "client identifier")
    if flags & 4:
        _, at = read_topic_name(body, at, "will topic")
        _, at = read_binary(body, at, "will message")
    user_name, password = connect_credentials(body, at, flags)
    return Connect(client_id, bool(flags & 2), keepalive_s, user_name, password, bool(flags & 4))


def _parse_publish(flags: int, body: bytes) -> Publish:
    qos = flags >> 1 & 3
    if qos == 3:
        refuse("QoS of PUBLISH is 3")  # [MQTT-3.3.1-4]
    if qos == 0 and flags & 8:
        refuse("PUBLISH of QoS 0 has DUP set")  # [MQTT-3.3.1-2]
    topic, at = read_topic_name(body, 0, "topic name")
    packet_id = 0
    if qos:
        packet_id = read_packet_id(body, at)
        at += 2
    return Publish(topic, body[at:], qos, packet_id, bool(flags & 8), bool(flags & 1))


def _parse_subscribe(body: bytes) -> Subscribe:
    packet_id, at = read_packet_id(body, 0), 2
    filters: list[tuple[str, int]] = []
    while at < len(body):
        topic_filter, at = read_topic_filter(body, at)
        if at >= len(body):
            refuse("SUBSCRIBE ends before a requested QoS")
        qos = body[at]
        if qos > 2:
            refuse(f"requested QoS byte is {qos}, expected 0, 1 or 2")  # [MQTT-3-8.3-4]
        at += 1
        filters.append((topic_filter, qos))
    if not filters:
        refuse("SUBSCRIBE has no topic filter")  # [MQTT-3.8.3-3]
    return Subscribe(packet_id, tuple(filters))


def _parse_unsubscribe(body: bytes) -> Unsubscribe:
    packet_id, at = read_packet_id(body, 0), 2
    filters: list[str] = []
    while at < len(body):
        topic_filter, at = read_topic_filter(body, at)
        filters.append(topic_filter)
    if not filters:
        refuse("UNSUBSCRIBE has no topic filter")  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id, tuple(filters))
