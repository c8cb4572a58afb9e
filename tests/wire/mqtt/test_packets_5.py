"""The MQTT 5.0 codec: round trips, the fuzz law, form rules and their codes, paho's properties as referee."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from bench.devices.mqtt import field, framed
from gateway.errors import CloseReason, RemoteProtocolError
from gateway.wire.mqtt import answers
from gateway.wire.mqtt import packets as mqtt
from gateway.wire.mqtt.fields import read_variable
from gateway.wire.mqtt.packet_types import VERSION_5, ConnectFault
from gateway.wire.mqtt.properties import (
    NO_PROPERTIES,
    RULES,
    Carrier,
    Form,
    Properties,
    encode_properties,
    read_properties,
)
from gateway.wire.mqtt.reason_codes import DISCONNECT_CODES, PUBACK_CODES, PUBREL_CODES, ReasonCode
from gateway.wire.mqtt.session import CLIENT_PACKET_BYTES_MIN

LIMIT = 70_000


# Any property section that a packet may carry.

texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=12)
topics = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0+#"), min_size=1, max_size=12)
packet_ids = st.integers(1, 65_535)
VALUES: dict[Form, st.SearchStrategy[Any]] = {
    Form.FLAG: st.integers(0, 1),
    Form.U16: st.integers(1, 0xFFFF),
    Form.U32: st.integers(1, 0xFFFFFFFF),
    Form.VARIABLE: st.integers(1, 268_435_455),
    Form.TEXT: topics,
    Form.BINARY: st.binary(max_size=20),
    Form.PAIR: st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(tuple),
}


def properties_of(carrier: Carrier, *without: str) -> st.SearchStrategy[Properties]:
    # Every field by name: hypothesis would invent values for those that are left out.
    fields = {
        rule.field: st.none() | VALUES[rule.form]
        if rule.carriers & carrier and rule.field not in without
        else st.none()
        for rule in RULES
    }
    return st.builds(Properties, **fields)


def test_the_table_of_properties_has_the_fields_in_their_order() -> None:
    assert [rule.field for rule in RULES] == list(Properties._fields)
    assert len(RULES) == len({rule.identifier for rule in RULES}) == 27


@given(st.sampled_from(list(Carrier)), st.data())
def test_properties_survive_the_round_trip(carrier: Carrier, data: st.DataObject) -> None:
    properties = data.draw(properties_of(carrier))
    section = encode_properties(properties)
    assert read_properties(b"x" + section + b"y", 1, carrier) == (properties, len(section) + 1)


PAHO_TYPES = {
    Carrier.CONNECT: PacketTypes.CONNECT,
    Carrier.CONNACK: PacketTypes.CONNACK,
    Carrier.PUBLISH: PacketTypes.PUBLISH,
    Carrier.WILL: PacketTypes.WILLMESSAGE,
    Carrier.PUBACK: PacketTypes.PUBACK,
    Carrier.SUBSCRIBE: PacketTypes.SUBSCRIBE,
    Carrier.SUBACK: PacketTypes.SUBACK,
    Carrier.UNSUBSCRIBE: PacketTypes.UNSUBSCRIBE,
    Carrier.DISCONNECT: PacketTypes.DISCONNECT,
    Carrier.AUTH: PacketTypes.AUTH,
}
PAHO_NAMES = {
    "message_expiry_interval_s": "MessageExpiryInterval",
    "session_expiry_interval_s": "SessionExpiryInterval",
    "server_keep_alive_s": "ServerKeepAlive",
    "will_delay_interval_s": "WillDelayInterval",
    "maximum_qos": "MaximumQoS",
    "user_properties": "UserProperty",
    "maximum_packet_size_bytes": "MaximumPacketSize",
}


def paho_name(name: str) -> str:
    return PAHO_NAMES.get(name, name.title().replace("_", ""))


@given(st.sampled_from(list(PAHO_TYPES)), st.data())
def test_paho_reads_what_we_write_and_we_read_what_paho_writes(carrier: Carrier, data: st.DataObject) -> None:
    properties = data.draw(properties_of(carrier))
    # paho takes the largest packet that lengths can express for the largest that may be announced; the standard does
    # not (section 3.1.2.11.4).
    assume((properties.maximum_packet_size_bytes or 0) <= mqtt.REMAINING_LENGTH_MAX)
    theirs = PahoProperties(PAHO_TYPES[carrier])
    for name, value in properties._asdict().items():
        if value is not None:
            for one in value if name == "user_properties" else (value,):
                setattr(theirs, paho_name(name), one)
    packed = bytes(theirs.pack())
    assert read_properties(packed, 0, carrier) == (properties, len(packed))
    back = PahoProperties(PAHO_TYPES[carrier])
    section = encode_properties(properties)
    _, length = back.unpack(section)
    assert length == len(section)
    for name, value in properties._asdict().items():
        if value is not None:
            got = getattr(back, paho_name(name))
            if name in {"subscription_identifier", "user_properties"}:
                assert tuple(got) == (value if name == "user_properties" else (value,))
            else:
                assert got == value


@pytest.mark.parametrize("rule", RULES, ids=[rule.field for rule in RULES])
def test_property_belongs_to_the_packets_that_paho_knows_it_in(rule: Any) -> None:
    reference = PahoProperties(PacketTypes.CONNECT)
    names = {identifier: name for name, identifier in reference.names.items()}
    allowed = reference.properties[rule.identifier][1]
    assert names[rule.identifier].replace(" ", "").lower() == paho_name(rule.field).lower()
    for carrier, kind in PAHO_TYPES.items():
        if rule.field == "server_reference" and carrier is Carrier.DISCONNECT:
            continue
        assert bool(rule.carriers & carrier) == (kind in allowed), carrier


# Whatever a well-behaved client sends.

WILL = encode_properties(Properties(will_delay_interval_s=5, user_properties=(("a", "b"),), response_topic="r"))


def encode(packet: mqtt.Packet) -> bytes:
    """The plain client-side encoder, for round trips. Options that are given up on the way in are set."""
    match packet:
        case mqtt.Connect():
            flags = packet.clean_session << 1 | packet.has_will * 0x0C
            rest = field(packet.client_id.encode())
            if packet.has_will:
                rest += WILL + field(b"will/topic") + field(b"\x00gone")
            if packet.user_name is not None:
                flags |= 0x80
                rest += field(packet.user_name.encode())
            if packet.password is not None:
                flags |= 0x40
                rest += field(packet.password)
            head = field(b"MQTT") + bytes([5, flags]) + packet.keepalive_s.to_bytes(2, "big")
            return framed(0x10, head + encode_properties(packet.properties) + rest)
        case mqtt.Publish():
            first = 0x30 | packet.is_duplicate << 3 | packet.qos << 1
            packet_id = packet.packet_id.to_bytes(2, "big") if packet.qos else b""
            properties = encode_properties(packet.properties)
            return framed(first, field(packet.topic.encode()) + packet_id + properties + packet.payload)
        case mqtt.Subscribe():
            entries = b"".join(field(name.encode()) + bytes([0x2C | qos]) for name, qos in packet.filters)
            head = packet.packet_id.to_bytes(2, "big") + encode_properties(packet.properties)
            return framed(0x82, head + entries)
        case mqtt.Unsubscribe():
            entries = b"".join(field(name.encode()) for name in packet.filters)
            return framed(0xA2, packet.packet_id.to_bytes(2, "big") + encode_properties(packet.properties) + entries)
        case mqtt.Puback() | mqtt.Pubrel():
            body = packet.packet_id.to_bytes(2, "big")
            if packet.properties != NO_PROPERTIES:
                body += bytes([packet.reason_code]) + encode_properties(packet.properties)
            elif packet.reason_code:
                body += bytes([packet.reason_code])
            return framed(0x40 if isinstance(packet, mqtt.Puback) else 0x62, body)
        case mqtt.Pingreq():
            return b"\xc0\x00"
        case mqtt.Disconnect():
            if packet.properties != NO_PROPERTIES:
                return framed(0xE0, bytes([packet.reason_code]) + encode_properties(packet.properties))
            return framed(0xE0, bytes([packet.reason_code]) if packet.reason_code else b"")


def _connect(
    client: str, clean: bool, keepalive: int, user: str | None, password: bytes | None, will: bool, said: Properties
) -> mqtt.Connect:
    if said.authentication_method is None:
        said = said._replace(authentication_data=None)
    return mqtt.Connect(client, clean, keepalive, user, password, will, VERSION_5, said)


def _publish(topic: str, payload: bytes, qos: int, packet_id: int, dup: bool, said: Properties) -> mqtt.Publish:
    return mqtt.Publish(topic, payload, qos, packet_id if qos else 0, dup and qos > 0, False, said)


publishes = st.builds(
    _publish,
    topics,
    st.binary(max_size=300),
    st.integers(0, 2),
    packet_ids,
    st.booleans(),
    properties_of(Carrier.PUBLISH, "subscription_identifier"),
)
any_packet: st.SearchStrategy[mqtt.Packet] = st.one_of(
    st.builds(
        _connect,
        texts,
        st.booleans(),
        st.integers(0, 65_535),
        st.none() | texts,
        st.none() | st.binary(max_size=50),
        st.booleans(),
        properties_of(Carrier.CONNECT),
    ),
    publishes,
    st.builds(
        mqtt.Subscribe,
        packet_ids,
        st.lists(st.tuples(topics.map(lambda t: "d/" + t), st.integers(0, 2)), min_size=1, max_size=4).map(tuple),
        properties_of(Carrier.SUBSCRIBE, "subscription_identifier"),
    ),
    st.builds(
        mqtt.Unsubscribe,
        packet_ids,
        st.lists(topics, min_size=1, max_size=4).map(tuple),
        properties_of(Carrier.UNSUBSCRIBE),
    ),
    st.builds(mqtt.Puback, packet_ids, st.sampled_from(sorted(PUBACK_CODES)), properties_of(Carrier.PUBACK)),
    st.builds(mqtt.Pubrel, packet_ids, st.sampled_from(sorted(PUBREL_CODES)), properties_of(Carrier.PUBACK)),
    st.just(mqtt.Pingreq()),
    st.builds(mqtt.Disconnect, st.sampled_from(sorted(DISCONNECT_CODES)), properties_of(Carrier.DISCONNECT)),
)


def parse(data: bytes, limit: int = LIMIT) -> mqtt.Packet:
    found = mqtt.next_packet(data, 0, limit, VERSION_5)
    assert found is not None
    assert found[1] == len(data)
    return found[0]


def drive(chunks: Iterable[bytes], limit: int = LIMIT) -> tuple[list[mqtt.Packet], tuple[str, int] | None, int]:
    """(packets, text and code of the error or None, bytes left over) of a stream that comes in chunks."""
    buffer = bytearray()
    packets: list[mqtt.Packet] = []
    for chunk in chunks:
        buffer += chunk
        at = 0
        try:
            while (found := mqtt.next_packet(buffer, at, limit, VERSION_5)) is not None:
                packet, at = found
                packets.append(packet)
        except RemoteProtocolError as error:
            return packets, (str(error), error.wire_code), 0
        del buffer[:at]
    return packets, None, len(buffer)


@given(any_packet)
def test_packet_of_5_survives_the_round_trip_with_its_type(packet: mqtt.Packet) -> None:
    parsed = parse(encode(packet))
    assert type(parsed) is type(packet)
    assert parsed == packet


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(b"".join(encode(packet) for packet in draw(st.lists(any_packet, min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data) - 1)) if data else 0
        match draw(st.integers(0, 2)):
            case 0 if data:
                data[at] = draw(st.integers(0, 255))
            case 1 if data:
                del data[at]
            case _:
                data.insert(at, draw(st.integers(0, 255)))
    return bytes(data)


streams = mutated() | st.binary(max_size=100)


@given(streams)
@example(b"\xe0\x02\x00\x80")
@example(b"\x40\x04\x00\x01\x00\x05")
def test_codec_of_5_accepts_or_raises_remote_protocol_error_and_nothing_else(data: bytes) -> None:
    packets, error, rest = drive([data], 1_000)
    assert error is not None or rest <= len(data)
    if error is not None:
        # 0 becomes Malformed Packet; 1 is CONNACK's code for a CONNECT of an older protocol.
        assert error[1] <= 1 or ReasonCode(error[1]) >= ReasonCode.UNSPECIFIED_ERROR
    for packet in packets:
        if not isinstance(packet, mqtt.Connect) or packet.version == VERSION_5:
            assert parse(encode(packet)) == packet


@given(streams, st.data())
def test_codec_of_5_gives_the_same_packets_however_the_stream_is_cut(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=5)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    whole = drive([data], 1_000)
    assert drive([data[i : i + 1] for i in range(len(data))], 1_000) == whole
    assert drive(pieces, 1_000) == whole


T = field(b"t")
ID = b"\x00\x01"
MALFORMED = 0
REFUSED: dict[str, tuple[bytes, int]] = {
    "remaining length with a byte too many": (b"\xc0\x80\x00", MALFORMED),
    "property length with a byte too many": (framed(0x30, T + b"\x80\x00"), MALFORMED),
    "property length of five bytes": (framed(0x30, T + b"\xff\xff\xff\xff\x01"), MALFORMED),
    "properties longer than the packet": (framed(0x30, T + b"\x05\x02\x00"), MALFORMED),
    "property cut by its length": (framed(0x30, T + b"\x03\x02\x00\x00\x00\x01"), MALFORMED),
    "unknown property": (framed(0x30, T + b"\x02\x7f\x00"), MALFORMED),
    "property of another packet": (framed(0x30, T + b"\x03\x21\x00\x01"), MALFORMED),
    "property twice": (framed(0x30, T + b"\x04\x01\x00\x01\x00"), ReasonCode.PROTOCOL_ERROR),
    "flag that is 2": (framed(0x30, T + b"\x02\x01\x02"), ReasonCode.PROTOCOL_ERROR),
    "content type that is not UTF-8": (framed(0x30, T + b"\x04\x03\x00\x01\xff"), MALFORMED),
    "response topic with a wildcard": (framed(0x30, T + b"\x04\x08\x00\x01#"), MALFORMED),
    "subscription identifier in PUBLISH": (framed(0x30, T + b"\x02\x0b\x01"), ReasonCode.PROTOCOL_ERROR),
    "topic alias 0": (framed(0x30, T + b"\x03\x23\x00\x00"), ReasonCode.TOPIC_ALIAS_INVALID),
    "no topic and no alias": (framed(0x30, field(b"") + b"\x00"), ReasonCode.PROTOCOL_ERROR),
    "PUBLISH to a wildcard": (framed(0x30, field(b"a/#") + b"\x00"), MALFORMED),
    "PUBLISH without its property length": (framed(0x30, T), MALFORMED),
    "PUBLISH to be retained": (framed(0x31, T + b"\x00"), ReasonCode.RETAIN_NOT_SUPPORTED),
    "PUBLISH of QoS 3": (framed(0x36, T + ID + b"\x00"), MALFORMED),
    "PUBLISH of QoS 0 with DUP": (framed(0x38, T + b"\x00"), MALFORMED),
    "PUBLISH with packet identifier 0": (framed(0x32, T + b"\x00\x00\x00"), MALFORMED),
    "PUBACK with a code of another packet": (framed(0x40, ID + b"\x92"), ReasonCode.PROTOCOL_ERROR),
    "PUBACK longer than its fields": (framed(0x40, ID + b"\x00\x00x"), MALFORMED),
    "PUBACK of packet identifier 0": (framed(0x40, b"\x00\x00"), MALFORMED),
    "PUBREL with a code of another packet": (framed(0x62, ID + b"\x80"), ReasonCode.PROTOCOL_ERROR),
    "PUBREC": (framed(0x50, ID), MALFORMED),
    "DISCONNECT with a code of servers": (b"\xe0\x01\x8e", ReasonCode.PROTOCOL_ERROR),
    "DISCONNECT longer than its fields": (b"\xe0\x03\x00\x00\x00", MALFORMED),
    "AUTH": (b"\xf0\x00", ReasonCode.PROTOCOL_ERROR),
    "PINGREQ with a body": (b"\xc0\x01\x00", MALFORMED),
    "SUBSCRIBE without a filter": (framed(0x82, ID + b"\x00"), ReasonCode.PROTOCOL_ERROR),
    "SUBSCRIBE without options": (framed(0x82, ID + b"\x00" + T), MALFORMED),
    "SUBSCRIBE with reserved options": (framed(0x82, ID + b"\x00" + T + b"\x41"), MALFORMED),
    "SUBSCRIBE with QoS 3": (framed(0x82, ID + b"\x00" + T + b"\x03"), ReasonCode.PROTOCOL_ERROR),
    "SUBSCRIBE with retain handling 3": (framed(0x82, ID + b"\x00" + T + b"\x31"), ReasonCode.PROTOCOL_ERROR),
    "SUBSCRIBE with an identifier": (
        framed(0x82, ID + b"\x02\x0b\x01" + T + b"\x01"),
        ReasonCode.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
    ),
    "SUBSCRIBE to a shared subscription": (
        framed(0x82, ID + b"\x00" + field(b"$share/g/t") + b"\x01"),
        ReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED,
    ),
    "SUBSCRIBE to a wildcard": (
        framed(0x82, ID + b"\x00" + field(b"d/+/down") + b"\x01"),
        ReasonCode.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED,
    ),
    "SUBSCRIBE with # in the middle": (framed(0x82, ID + b"\x00" + field(b"a/#/b") + b"\x01"), MALFORMED),
    "UNSUBSCRIBE without a filter": (framed(0xA2, ID + b"\x00"), ReasonCode.PROTOCOL_ERROR),
    "SUBSCRIBE without its flags": (b"\x80", MALFORMED),
}


@pytest.mark.parametrize(("data", "code"), list(REFUSED.values()), ids=list(REFUSED))
def test_codec_of_5_refuses_with_the_reason_code_of_the_standard(data: bytes, code: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        mqtt.next_packet(data, 0, LIMIT, VERSION_5)
    assert caught.value.wire_code == code
    assert not isinstance(caught.value, mqtt.FrameTooLarge)


def connect_body(properties: bytes = b"\x00", flags: int = 0xC2, level: int = 5, rest: bytes | None = None) -> bytes:
    rest = field(b"0" * 32) + field(b"app") + field(b"password") if rest is None else rest
    return field(b"MQTT") + bytes([level, flags]) + b"\x00\x3c" + properties + rest


CONNECT_FAULTS: dict[str, tuple[bytes, int]] = {
    "reserved flag": (framed(0x10, connect_body(flags=0xC3)), ReasonCode.MALFORMED_PACKET),
    "will QoS without will": (framed(0x10, connect_body(flags=0xCA)), ReasonCode.MALFORMED_PACKET),
    "receive maximum 0": (framed(0x10, connect_body(b"\x03\x21\x00\x00")), ReasonCode.PROTOCOL_ERROR),
    "maximum packet size 0": (framed(0x10, connect_body(b"\x05\x27\x00\x00\x00\x00")), ReasonCode.PROTOCOL_ERROR),
    "session expiry twice": (
        framed(0x10, connect_body(b"\x0a" + b"\x11\x00\x00\x00\x01" * 2)),
        ReasonCode.PROTOCOL_ERROR,
    ),
    "property of PUBLISH": (framed(0x10, connect_body(b"\x03\x23\x00\x01")), ReasonCode.MALFORMED_PACKET),
    "authentication data alone": (framed(0x10, connect_body(b"\x04\x16\x00\x01x")), ReasonCode.PROTOCOL_ERROR),
    "will to be retained": (
        framed(0x10, connect_body(flags=0x26, rest=field(b"id") + b"\x00" + T + field(b"gone"))),
        ReasonCode.RETAIN_NOT_SUPPORTED,
    ),
    "longer than its fields": (framed(0x10, connect_body() + b"x"), ReasonCode.MALFORMED_PACKET),
    "without its client identifier": (framed(0x10, connect_body(rest=b"")), ReasonCode.MALFORMED_PACKET),
    "ends inside its keep alive": (framed(0x10, field(b"MQTT") + b"\x05\xc2\x00"), ReasonCode.MALFORMED_PACKET),
    "protocol level 6": (framed(0x10, field(b"MQTT") + b"\x06\xff\xff"), ReasonCode.UNSUPPORTED_PROTOCOL_VERSION),
    "remaining length too long": (
        b"\x10" + bytes([len(connect_body()) | 0x80, 0]) + connect_body(),
        ReasonCode.MALFORMED_PACKET,
    ),
}


@pytest.mark.parametrize(("data", "code"), list(CONNECT_FAULTS.values()), ids=list(CONNECT_FAULTS))
@pytest.mark.parametrize("version", [4, 5])
def test_connect_of_5_that_cannot_be_taken_names_the_code_of_its_connack(data: bytes, code: int, version: int) -> None:
    with pytest.raises(ConnectFault) as caught:
        mqtt.next_packet(data, 0, LIMIT, version)
    assert caught.value.wire_code == code


def test_connect_of_5_may_have_a_password_without_a_user_name() -> None:
    packet = parse(framed(0x10, connect_body(flags=0x42, rest=field(b"id") + field(b"secret"))))
    assert packet == mqtt.Connect("id", True, 60, None, b"secret", False, VERSION_5)


# What the server says, judged by paho's readers.


def split(packet: bytes) -> tuple[int, bytes]:
    length, at = read_variable(packet, 1, "remaining length")
    assert at + length == len(packet)
    return packet[0], packet[at:]


@given(
    st.integers(0, 65_535),
    st.none() | st.integers(0, 100),
    st.integers(1, 65_535),
    # paho reads no larger Maximum Packet Size, and no packet is longer by more than its header (section 2.1.4).
    st.integers(64, mqtt.REMAINING_LENGTH_MAX),
    st.integers(0, 50),
    st.booleans(),
)
def test_connack_declares_what_is_not_offered(
    asked: int, session_s: int | None, receive: int, size: int, granted_s: int, is_present: bool
) -> None:
    said = Properties(session_expiry_interval_s=session_s)
    connect = mqtt.Connect("id", True, asked, "app", b"p", False, VERSION_5, said)
    keepalive_s = min(asked or 1_200, 1_200)
    granted_s = min(session_s or 0, granted_s)
    offer = answers.offer(
        connect,
        keepalive_s=keepalive_s,
        receive_maximum=receive,
        packet_bytes_max=size,
        session_expiry_s=granted_s,
        topic_alias_max=8,
    )
    packet = answers.connack(VERSION_5, mqtt.ConnectCode.ACCEPTED, offer, is_session_present=is_present)
    assert len(packet) <= CLIENT_PACKET_BYTES_MIN
    first, body = split(packet)
    assert (first, body[:2]) == (0x20, bytes((is_present, 0)))
    refused = answers.connack(VERSION_5, mqtt.ConnectCode.NOT_AUTHORIZED, is_session_present=is_present)
    assert refused[2] == 0
    theirs = PahoProperties(PacketTypes.CONNACK)
    theirs.unpack(body[2:])
    assert theirs.json() | {"ServerKeepAlive": 0, "SessionExpiryInterval": 0} == {
        "ReceiveMaximum": receive,
        "MaximumPacketSize": size,
        "TopicAliasMaximum": 8,
        "RetainAvailable": 0,
        "WildcardSubscriptionAvailable": 0,
        "SubscriptionIdentifierAvailable": 0,
        "SharedSubscriptionAvailable": 0,
        "ServerKeepAlive": 0,
        "SessionExpiryInterval": 0,
    }
    assert getattr(theirs, "ServerKeepAlive", asked) == keepalive_s
    # Absent means that we keep what was asked for (section 3.2.2.3.2).
    assert getattr(theirs, "SessionExpiryInterval", session_s or 0) == granted_s


def test_answers_have_the_bytes_of_their_version() -> None:
    banned = mqtt.ConnectCode.NOT_AUTHORIZED
    assert answers.connack(4, banned) == b"\x20\x02\x00\x05"
    assert answers.connack(5, banned) == b"\x20\x03\x00\x8a\x00"
    assert answers.suback(4, 10, b"\x01\x80") == b"\x90\x04\x00\x0a\x01\x80"
    assert answers.suback(5, 10, b"\x01\x80") == b"\x90\x05\x00\x0a\x00\x01\x87"
    assert answers.unsuback(4, 1, [True]) == b"\xb0\x02\x00\x01"
    assert answers.unsuback(5, 1, [True, False]) == b"\xb0\x05\x00\x01\x00\x00\x11"
    assert answers.pubcomp(4, 7, is_known=False) == b"\x70\x02\x00\x07"
    assert answers.pubcomp(5, 7, is_known=True) == b"\x70\x02\x00\x07"
    assert answers.pubcomp(5, 7, is_known=False) == b"\x70\x03\x00\x07\x92"
    assert answers.puback_refused(7, ReasonCode.QUOTA_EXCEEDED) == b"\x40\x03\x00\x07\x97"
    assert answers.pubrec_refused(7, ReasonCode.QUOTA_EXCEEDED) == b"\x50\x03\x00\x07\x97"
    assert answers.disconnect(ReasonCode.SESSION_TAKEN_OVER) == b"\xe0\x01\x8e"
    assert answers.disconnect(ReasonCode.MALFORMED_PACKET, "why") == b"\xe0\x08\x81\x06\x1f\x00\x03why"
    assert answers.disconnect(ReasonCode.MALFORMED_PACKET, "why", 9) == b"\xe0\x01\x81"
    assert all(len(farewell) <= CLIENT_PACKET_BYTES_MIN for farewell in answers.FAREWELLS.values())


def asking(**properties: int) -> mqtt.Connect:
    return mqtt.Connect("id", True, 60, "app", b"p", False, VERSION_5, Properties(**properties))  # type: ignore[arg-type]


def test_reason_of_a_refusal_is_told_where_it_fits_and_is_wanted() -> None:
    short = b"\x20\x03\x00\x8a\x00"
    told = b"\x20\x09\x00\x8a\x06\x1f\x00\x03why"
    assert answers.refusal_5(asking(), ReasonCode.BANNED, "why") == told
    assert answers.refusal_5(asking(request_problem_information=1), ReasonCode.BANNED, "why") == told
    assert answers.refusal_5(asking(maximum_packet_size_bytes=len(told)), ReasonCode.BANNED, "why") == told
    assert answers.refusal_5(asking(maximum_packet_size_bytes=len(told) - 1), ReasonCode.BANNED, "why") == short
    assert answers.refusal_5(asking(request_problem_information=0), ReasonCode.BANNED, "why") == short
    assert answers.refusal_5(asking(), ReasonCode.BANNED, "") == short


def test_server_reference_is_told_where_it_fits() -> None:
    code, place = ReasonCode.USE_ANOTHER_SERVER, "b.example:8883"
    both = answers.refusal_5(asking(), code, "why", place)
    assert both == b"\x20\x1a\x00\x9c\x17\x1c\x00\x0eb.example:8883\x1f\x00\x03why"
    assert answers.refusal_5(asking(maximum_packet_size_bytes=28), code, "why", place) == both
    # The text goes first, then the place.
    referred = b"\x20\x14\x00\x9c\x11\x1c\x00\x0eb.example:8883"
    assert answers.refusal_5(asking(maximum_packet_size_bytes=27), code, "why", place) == referred
    assert answers.refusal_5(asking(maximum_packet_size_bytes=22), code, "why", place) == referred
    assert answers.refusal_5(asking(maximum_packet_size_bytes=21), code, "why", place) == b"\x20\x03\x00\x9c\x00"
    assert answers.farewell(CloseReason.SHUTDOWN, 64, "b:1") == b"\xe0\x08\x9c\x06\x1c\x00\x03b:1"
    assert answers.farewell(CloseReason.SHUTDOWN, 9, "b:1") == b"\xe0\x01\x8b"
    assert answers.farewell(CloseReason.SHUTDOWN, 64) == b"\xe0\x01\x8b"
    assert answers.farewell(CloseReason.PEER_RESET, 64, "b:1") is None
