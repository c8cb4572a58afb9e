"""The MQTT 3.1.1 codec: form rules of the OASIS text, chunking, and the fuzz law."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.devices.mqtt import field, framed
from gateway.errors import RemoteProtocolError
from gateway.wire.mqtt import packets as mqtt
from gateway.wire.mqtt.fields import encode_variable
from gateway.wire.mqtt.properties import NO_PROPERTIES

LIMIT = 70_000


def connect_body(*, flags: int = 0xC2, level: int = 4, name: bytes = b"MQTT", rest: bytes | None = None) -> bytes:
    if rest is None:
        rest = field(b"0" * 32) + field(b"app") + field(b"password")
    return field(name) + bytes([level, flags]) + (300).to_bytes(2, "big") + rest


def parse(data: bytes, limit: int = LIMIT) -> mqtt.Packet:
    found = mqtt.next_packet(data, 0, limit)
    assert found is not None
    packet, end = found
    assert end == len(data)
    return packet


def drive(chunks: Iterable[bytes], limit: int = LIMIT) -> tuple[list[mqtt.Packet], str | None, int]:
    """(packets, text of the error or None, bytes left over) of a stream that comes in chunks."""
    buffer = bytearray()
    packets: list[mqtt.Packet] = []
    for chunk in chunks:
        buffer += chunk
        at = 0
        try:
            while (found := mqtt.next_packet(buffer, at, limit)) is not None:
                packet, at = found
                packets.append(packet)
        except RemoteProtocolError as error:
            return packets, str(error), 0
        del buffer[:at]
    return packets, None, len(buffer)


# Whatever a well-behaved client sends, as (bytes, expected packet).

texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20)
topics = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0+#"), min_size=1, max_size=20)
filters = st.lists(st.one_of(st.just("+"), st.text("abc", max_size=4)), min_size=2, max_size=4).map(
    "/".join
) | topics.map(lambda topic: topic + "/#")
packet_ids = st.integers(1, 65_535)


def encode(packet: mqtt.Packet) -> bytes:
    """The plain client-side encoder, for round trips."""
    match packet:
        case mqtt.Connect():
            flags = (packet.clean_session << 1) | (packet.has_will * 0x2C)
            rest = field(packet.client_id.encode())
            if packet.has_will:
                rest += field(b"will/topic") + field(b"\x00gone")
            if packet.user_name is not None:
                flags |= 0x80
                rest += field(packet.user_name.encode())
            if packet.password is not None:
                flags |= 0x40
                rest += field(packet.password)
            return framed(0x10, field(b"MQTT") + bytes([4, flags]) + packet.keepalive_s.to_bytes(2, "big") + rest)
        case mqtt.Publish():
            first = 0x30 | packet.is_duplicate << 3 | packet.qos << 1 | packet.is_retained
            packet_id = packet.packet_id.to_bytes(2, "big") if packet.qos else b""
            return framed(first, field(packet.topic.encode()) + packet_id + packet.payload)
        case mqtt.Subscribe():
            entries = b"".join(field(name.encode()) + bytes([qos]) for name, qos in packet.filters)
            return framed(0x82, packet.packet_id.to_bytes(2, "big") + entries)
        case mqtt.Unsubscribe():
            entries = b"".join(field(name.encode()) for name in packet.filters)
            return framed(0xA2, packet.packet_id.to_bytes(2, "big") + entries)
        case mqtt.Puback():
            return framed(0x40, packet.packet_id.to_bytes(2, "big"))
        case mqtt.Pubrel():
            return framed(0x62, packet.packet_id.to_bytes(2, "big"))
        case mqtt.Pingreq():
            return b"\xc0\x00"
        case mqtt.Disconnect():
            return b"\xe0\x00"


def _publish(topic: str, payload: bytes, qos: int, packet_id: int, dup: bool, retained: bool) -> mqtt.Publish:
    return mqtt.Publish(topic, payload, qos, packet_id if qos else 0, dup and qos > 0, retained)


def _connect(client: str, clean: bool, keepalive: int, user: str | None, password: bytes, will: bool) -> mqtt.Connect:
    return mqtt.Connect(client, clean, keepalive, user, None if user is None else password, will)


#: 3.1.1 has none; hypothesis would invent some for a field with a default.
none = st.just(NO_PROPERTIES)
any_packet: st.SearchStrategy[mqtt.Packet] = st.one_of(
    st.builds(
        _connect, texts, st.booleans(), st.integers(0, 65_535), st.none() | texts, st.binary(max_size=50), st.booleans()
    ),
    st.builds(_publish, topics, st.binary(max_size=300), st.integers(0, 2), packet_ids, st.booleans(), st.booleans()),
    st.builds(
        mqtt.Subscribe,
        packet_ids,
        st.lists(st.tuples(filters, st.integers(0, 2)), min_size=1, max_size=4).map(tuple),
        none,
    ),
    st.builds(mqtt.Unsubscribe, packet_ids, st.lists(filters, min_size=1, max_size=4).map(tuple), none),
    st.builds(mqtt.Puback, packet_ids, st.just(0), none),
    st.builds(mqtt.Pubrel, packet_ids, st.just(0), none),
    st.just(mqtt.Pingreq()),
    st.just(mqtt.Disconnect()),
)


@given(any_packet)
def test_packet_survives_the_round_trip_with_its_type(packet: mqtt.Packet) -> None:
    parsed = parse(encode(packet))
    assert type(parsed) is type(packet)
    assert parsed == packet


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid stream with a few bytes replaced, removed or put in: near enough to be dangerous."""
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
@example(b"\x30\x80\x80\x80\x80\x01")
def test_codec_accepts_or_raises_remote_protocol_error_and_nothing_else(data: bytes) -> None:
    packets, error, rest = drive([data], 1_000)
    assert error is not None or rest <= len(data)
    for packet in packets:
        assert parse(encode(packet)) == packet


@given(streams, st.data())
def test_codec_gives_the_same_packets_however_the_stream_is_cut(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=5)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    whole = drive([data], 1_000)
    assert drive([data[i : i + 1] for i in range(len(data))], 1_000) == whole
    assert drive(pieces, 1_000) == whole


REFUSED = {
    "reserved type 0": b"\x00\x00",
    "reserved type 15": b"\xf0\x00",
    "CONNACK from a client": b"\x20\x02\x00\x00",
    "SUBACK from a client": b"\x90\x03\x00\x01\x00",
    "PINGRESP from a client": b"\xd0\x00",
    "PUBREC without QoS 2 downlink": b"\x50\x02\x00\x01",
    "PUBCOMP without QoS 2 downlink": b"\x70\x02\x00\x01",
    "CONNECT with flags": b"\x11",
    "SUBSCRIBE without its flags": b"\x80",
    "UNSUBSCRIBE without its flags": b"\xa0",
    "PUBREL without its flags": b"\x60",
    "PINGREQ with flags": b"\xc1",
    "DISCONNECT with flags": b"\xe8",
    "PUBACK with flags": b"\x42",
    "remaining length of five bytes": b"\x30\xff\xff\xff\xff",
    "PINGREQ with a body": b"\xc0\x01\x00",
    "DISCONNECT with a body": b"\xe0\x01\x00",
    "PUBACK too long": b"\x40\x03\x00\x01\x00",
    "PUBACK too short": b"\x40\x01\x00",
    "PUBACK of packet identifier 0": b"\x40\x02\x00\x00",
    "PUBREL of packet identifier 0": b"\x62\x02\x00\x00",
    "PUBLISH of QoS 3": framed(0x36, field(b"t") + b"\x00\x01"),
    "PUBLISH of QoS 0 with DUP": framed(0x38, field(b"t")),
    "PUBLISH with packet identifier 0": framed(0x32, field(b"t") + b"\x00\x00"),
    "PUBLISH without packet identifier": framed(0x32, field(b"t") + b"\x00"),
    "PUBLISH without topic": framed(0x30, field(b"")),
    "PUBLISH to a wildcard +": framed(0x30, field(b"a/+")),
    "PUBLISH to a wildcard #": framed(0x30, field(b"#")),
    "PUBLISH with NUL in its topic": framed(0x30, field(b"a\0b")),
    "PUBLISH with a surrogate in its topic": framed(0x30, field(b"a\xed\xa0\x80")),
    "PUBLISH that ends inside its topic": framed(0x30, b"\x00\x05ab"),
    "PUBLISH that ends before its topic": framed(0x30, b"\x00"),
    "SUBSCRIBE without a filter": framed(0x82, b"\x00\x01"),
    "SUBSCRIBE with packet identifier 0": framed(0x82, b"\x00\x00" + field(b"t") + b"\x01"),
    "SUBSCRIBE without a QoS": framed(0x82, b"\x00\x01" + field(b"t")),
    "SUBSCRIBE with QoS 3": framed(0x82, b"\x00\x01" + field(b"t") + b"\x03"),
    "SUBSCRIBE with reserved bits": framed(0x82, b"\x00\x01" + field(b"t") + b"\x81"),
    "SUBSCRIBE to an empty filter": framed(0x82, b"\x00\x01" + field(b"") + b"\x01"),
    "SUBSCRIBE with # in the middle": framed(0x82, b"\x00\x01" + field(b"a/#/b") + b"\x01"),
    "SUBSCRIBE with # beside text": framed(0x82, b"\x00\x01" + field(b"a#") + b"\x01"),
    "SUBSCRIBE with + beside text": framed(0x82, b"\x00\x01" + field(b"a+/b") + b"\x01"),
    "UNSUBSCRIBE without a filter": framed(0xA2, b"\x00\x01"),
    "UNSUBSCRIBE without packet identifier": framed(0xA2, b""),
    "CONNECT of another protocol": framed(0x10, connect_body(name=b"HTTP")),
    "CONNECT with its reserved flag": framed(0x10, connect_body(flags=0xC3)),
    "CONNECT with will QoS but no will": framed(0x10, connect_body(flags=0xCA)),
    "CONNECT with will retain but no will": framed(0x10, connect_body(flags=0xE2)),
    "CONNECT with will QoS 3": framed(0x10, connect_body(flags=0xDE)),
    "CONNECT with a password but no user name": framed(0x10, connect_body(flags=0x42)),
    "CONNECT longer than its fields": framed(0x10, connect_body() + b"x"),
    "CONNECT that ends before its flags": framed(0x10, field(b"MQTT") + b"\x04"),
    "CONNECT that ends before its level": framed(0x10, field(b"MQTT")),
    "CONNECT that ends inside its keep alive": framed(0x10, field(b"MQTT") + b"\x04\xc2\x00"),
    "CONNECT without its client identifier": framed(0x10, connect_body(rest=b"")),
    "CONNECT without its password": framed(0x10, connect_body(rest=field(b"0" * 32) + field(b"app"))),
    "CONNECT with a client identifier that is not UTF-8": framed(0x10, connect_body(flags=2, rest=field(b"\xff"))),
}


@pytest.mark.parametrize("data", list(REFUSED.values()), ids=list(REFUSED))
def test_codec_refuses_what_the_standard_forbids(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        mqtt.next_packet(data, 0, LIMIT)
    assert caught.value.wire_code == 0
    assert not isinstance(caught.value, mqtt.FrameTooLarge)


@pytest.mark.parametrize(("level", "name"), [(3, b"MQIsdp"), (3, b"MQTT"), (0, b"MQTT"), (4, b"MQIsdp")])
def test_connect_of_another_protocol_level_is_refused_with_connack_code_1(level: int, name: bytes) -> None:
    # Another level may lay the rest out otherwise: nothing behind the level may be looked at.
    body = field(name) + bytes([level]) + b"\xff\xff\xff"
    with pytest.raises(RemoteProtocolError) as caught:
        parse(framed(0x10, body))
    assert caught.value.wire_code == mqtt.ConnectCode.UNACCEPTABLE_PROTOCOL_VERSION


def test_packet_over_the_limit_is_refused_from_its_header_alone() -> None:
    assert mqtt.next_packet(b"\x30\x62" + bytes(10), 0, 100) is None
    with pytest.raises(mqtt.FrameTooLarge) as caught:
        mqtt.next_packet(b"\x30\x63", 0, 100)
    assert caught.value.packet_bytes == 101


def test_byte_order_mark_stays_in_a_text() -> None:
    packet = parse(framed(0x30, field("\ufefftopic".encode())))
    assert isinstance(packet, mqtt.Publish)
    assert packet.topic == "\ufefftopic"


def test_packets_that_follow_each_other_are_found_where_the_last_one_ended() -> None:
    data = b"\xc0\x00" + framed(0x40, b"\x00\x07") + b"\xe0"
    assert mqtt.next_packet(data, 0, LIMIT) == (mqtt.Pingreq(), 2)
    assert mqtt.next_packet(data, 2, LIMIT) == (mqtt.Puback(7), 6)
    assert mqtt.next_packet(data, 6, LIMIT) is None
    assert mqtt.next_packet(data, 7, LIMIT) is None


@pytest.mark.parametrize(
    ("length", "digits"),
    [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (16_383, b"\xff\x7f"),
        (16_384, b"\x80\x80\x01"),
        (2_097_151, b"\xff\xff\x7f"),
        (2_097_152, b"\x80\x80\x80\x01"),
        (268_435_455, b"\xff\xff\xff\x7f"),
    ],
)
def test_remaining_length_is_encoded_as_in_table_2_4(length: int, digits: bytes) -> None:
    assert encode_variable(length) == digits
    header = len(digits) + 1
    assert mqtt.frame_length(b"\x30" + digits, 0, 300_000_000) == (header, header + length)


def test_server_packets_have_the_bytes_of_the_standard() -> None:
    assert mqtt.encode_connack(mqtt.ConnectCode.ACCEPTED) == b"\x20\x02\x00\x00"
    assert mqtt.encode_connack(mqtt.ConnectCode.ACCEPTED, is_session_present=True) == b"\x20\x02\x01\x00"
    assert mqtt.encode_connack(mqtt.ConnectCode.NOT_AUTHORIZED, is_session_present=True) == b"\x20\x02\x00\x05"
    assert mqtt.encode_suback(10, b"\x01\x80") == b"\x90\x04\x00\x0a\x01\x80"
    assert mqtt.encode_suback(1, bytes(200)) == b"\x90\xca\x01\x00\x01" + bytes(200)
    assert mqtt.encode_unsuback(258) == b"\xb0\x02\x01\x02"
    assert mqtt.encode_puback(258) == b"\x40\x02\x01\x02"
    assert mqtt.encode_pubrec(258) == b"\x50\x02\x01\x02"
    assert mqtt.encode_pubcomp(258) == b"\x70\x02\x01\x02"
    assert mqtt.PINGRESP == b"\xd0\x00"
