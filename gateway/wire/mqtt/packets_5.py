"""MQTT 5.0: the bodies of a client's packets into values. Sans-IO, stateless.

What this edge does not offer is refused here where the standard makes it an error of the packet alone: retained
messages, subscription identifiers, wildcard and shared subscriptions are all declared as not available
in CONNACK (`answers.py`), so a client that uses one breaks the protocol, with a reason code of its own.

Source: OASIS MQTT Version 5.0 (7 March 2019); the numbers in square brackets are its normative statements.
"""

from __future__ import annotations

from gateway.wire.mqtt.fields import (
    check_topic_name,
    read_binary,
    read_packet_id,
    read_text,
    read_topic_filter,
    read_topic_name,
    refuse,
)
from gateway.wire.mqtt.packet_types import (
    VERSION_5,
    Connect,
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
from gateway.wire.mqtt.packets_3_1_1 import connect_credentials, connect_head
from gateway.wire.mqtt.properties import NO_PROPERTIES, Carrier, Properties, read_properties
from gateway.wire.mqtt.reason_codes import DISCONNECT_CODES, PUBACK_CODES, PUBREL_CODES, ReasonCode


def parse_5(kind: int, flags: int, body: bytes) -> Packet:
    """The packet of that type, CONNECT excepted; its flags have been checked. Raises: RemoteProtocolError."""
    match kind:
        case PacketType.PUBACK:
            return Puback(*_parse_acknowledgement(body, "PUBACK", PUBACK_CODES))
        case PacketType.PUBLISH:
            return _parse_publish(flags, body)
        case PacketType.PINGREQ:
            if body:
                refuse("PINGREQ has a body")
            return Pingreq()
        case PacketType.SUBSCRIBE:
            return _parse_subscribe(body)
        case PacketType.UNSUBSCRIBE:
            return _parse_unsubscribe(body)
        case PacketType.PUBREL:
            return Pubrel(*_parse_acknowledgement(body, "PUBREL", PUBREL_CODES))
        case _:
            return _parse_disconnect(body)


def parse_connect_5(body: bytes, at: int) -> Connect:
    """The CONNECT whose protocol level ends at `at`. Raises: RemoteProtocolError with the code for its CONNACK."""
    flags, keepalive_s, at = connect_head(body, at)
    properties, at = read_properties(body, at, Carrier.CONNECT)
    if properties.authentication_data is not None and properties.authentication_method is None:
        refuse("CONNECT has authentication data without a method", ReasonCode.PROTOCOL_ERROR)  # section 3.1.2.11.10
    client_id, at = read_text(body, at, "client identifier")
    if flags & 4:
        will, at = read_properties(body, at, Carrier.WILL)
        _check_message(will)
        _, at = read_topic_name(body, at, "will topic")
        _, at = read_binary(body, at, "will payload")
    user_name, password = connect_credentials(body, at, flags)
    if flags & 0x20:
        refuse("CONNECT has a will to be retained", ReasonCode.RETAIN_NOT_SUPPORTED)  # [MQTT-3.2.2-13]
    return Connect(client_id, bool(flags & 2), keepalive_s, user_name, password, bool(flags & 4), VERSION_5, properties)


def _check_message(properties: Properties) -> None:
    if properties.response_topic is not None:
        check_topic_name(properties.response_topic, "response topic")  # [MQTT-3.3.2-14]


def _parse_publish(flags: int, body: bytes) -> Publish:
    qos = flags >> 1 & 3
    if qos == 3:
        refuse("QoS of PUBLISH is 3")  # [MQTT-3.3.1-4]
    if qos == 0 and flags & 8:
        refuse("PUBLISH of QoS 0 has DUP set")  # [MQTT-3.3.1-2]
    topic, at = read_text(body, 0, "topic name")
    if topic:
        check_topic_name(topic, "topic name")
    packet_id = 0
    if qos:
        packet_id = read_packet_id(body, at)
        at += 2
    properties, at = read_properties(body, at, Carrier.PUBLISH)
    _check_message(properties)
    if properties.subscription_identifier is not None:
        refuse("PUBLISH of a client has a subscription identifier", ReasonCode.PROTOCOL_ERROR)  # [MQTT-3.3.4-6]
    if properties.topic_alias == 0:
        refuse("topic alias is 0", ReasonCode.TOPIC_ALIAS_INVALID)  # [MQTT-3.3.2-8]; our maximum: `Sessions`
    if not topic and properties.topic_alias is None:
        refuse("topic name is empty and there is no topic alias", ReasonCode.PROTOCOL_ERROR)  # section 3.3.2.1
    if flags & 1:
        refuse("PUBLISH is to be retained", ReasonCode.RETAIN_NOT_SUPPORTED)  # [MQTT-3.2.2-14]
    return Publish(topic, body[at:], qos, packet_id, bool(flags & 8), False, properties)


def _parse_acknowledgement(body: bytes, name: str, codes: frozenset[int]) -> tuple[int, int, Properties]:
    """Packet identifier, and reason code and properties where they are not left out (sections 3.4.2, 3.6.2)."""
    packet_id = read_packet_id(body, 0)
    if len(body) == 2:
        return packet_id, ReasonCode.SUCCESS, NO_PROPERTIES
    code, properties = _code_and_properties(body, 2, name, codes, Carrier.PUBACK)
    return packet_id, code, properties


def _code_and_properties(
    body: bytes, at: int, name: str, codes: frozenset[int], carrier: Carrier
) -> tuple[int, Properties]:
    code = body[at]
    at += 1
    properties = NO_PROPERTIES
    if at < len(body):
        properties, at = read_properties(body, at, carrier)
    if at != len(body):
        refuse(f"{name} is longer than its fields")
    if code not in codes:
        refuse(f"reason code of {name} is 0x{code:02x}", ReasonCode.PROTOCOL_ERROR)
    return code, properties


def _parse_disconnect(body: bytes) -> Disconnect:
    if not body:
        return Disconnect()
    return Disconnect(*_code_and_properties(body, 0, "DISCONNECT", DISCONNECT_CODES, Carrier.DISCONNECT))


def _parse_subscribe(body: bytes) -> Subscribe:
    packet_id = read_packet_id(body, 0)
    properties, at = read_properties(body, 2, Carrier.SUBSCRIBE)
    filters: list[tuple[str, int]] = []
    while at < len(body):
        topic_filter, at = read_topic_filter(body, at)
        if at >= len(body):
            refuse("SUBSCRIBE ends before its subscription options")
        options = body[at]
        at += 1
        if options & 0xC0:
            refuse("reserved bits of subscription options are set")  # [MQTT-3.8.3-5]
        if options & 3 == 3 or options & 0x30 == 0x30:
            # Section 3.8.3.1: a QoS of 3 and a retain handling of 3 are Protocol Errors.
            refuse(f"subscription options are 0x{options:02x}", ReasonCode.PROTOCOL_ERROR)
        filters.append((topic_filter, options & 3))
    if not filters:
        refuse("SUBSCRIBE has no topic filter", ReasonCode.PROTOCOL_ERROR)  # [MQTT-3.8.3-2]
    if properties.subscription_identifier is not None:
        refuse("SUBSCRIBE has a subscription identifier", ReasonCode.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED)
    for topic_filter, _ in filters:
        if topic_filter.startswith("$share/"):
            refuse("SUBSCRIBE is for a shared subscription", ReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED)
        if "+" in topic_filter or "#" in topic_filter:
            refuse("SUBSCRIBE is for a wildcard", ReasonCode.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED)
    return Subscribe(packet_id, tuple(filters), properties)


def _parse_unsubscribe(body: bytes) -> Unsubscribe:
    packet_id = read_packet_id(body, 0)
    properties, at = read_properties(body, 2, Carrier.UNSUBSCRIBE)
    filters: list[str] = []
    while at < len(body):
        topic_filter, at = read_topic_filter(body, at)
        filters.append(topic_filter)
    if not filters:
        refuse("UNSUBSCRIBE has no topic filter", ReasonCode.PROTOCOL_ERROR)  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id, tuple(filters), properties)
