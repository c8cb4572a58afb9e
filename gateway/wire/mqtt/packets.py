"""MQTT 3.1.1 control packets: bytes of a client into values, values of the server into bytes. Sans-IO, stateless.

Source: OASIS MQTT Version 3.1.1 (29 October 2014); the numbers in square brackets are its normative statements.
Only the server's side is here: packets that a server never receives are refused by `next_packet`, and only those that
it sends are encoded. PUBLISH downlink is columnar and lives in `publish.py`.

Law, held by the tests: any bytes are accepted, or are the beginning of something acceptable, or raise
`RemoteProtocolError`; nothing else. How the bytes were cut into pieces makes no difference to the packets.

Choices where the text leaves one:
* a remaining length in more bytes than needed is accepted (3.1.1 does not forbid it, 5.0 does);
* a CONNECT of another protocol level is refused before the rest of it is read, since another level may lay it out
  otherwise; the wire code of the exception is the CONNACK return code to send [MQTT-3.1.2-2].
"""

from __future__ import annotations

import enum
from typing import NamedTuple, NoReturn, TypeAlias

from gateway.errors import RemoteProtocolError

#: The longest fixed header: one byte of type and flags, four of remaining length (section 2.2.3).
FIXED_HEADER_BYTES_MAX = 5
REMAINING_LENGTH_MAX = 268_435_455
PROTOCOL_LEVEL_3_1_1 = 4


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


class ConnectCode(enum.IntEnum):
    """CONNACK return codes, table 3.1."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_VERSION = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


class Connect(NamedTuple):
    """A CONNECT of protocol level 4. The will is checked for form and given up: a push edge has nobody to tell."""

    client_id: str
    clean_session: bool
    keepalive_s: int
    user_name: str | None
    password: bytes | None
    has_will: bool


class Publish(NamedTuple):
    """An uplink message. packet_id is 0 for QoS 0 only."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    is_duplicate: bool
    is_retained: bool


class Subscribe(NamedTuple):
    packet_id: int
    filters: tuple[tuple[str, int], ...]
    """(topic filter, requested QoS 0..2) in the order of the packet."""


class Unsubscribe(NamedTuple):
    packet_id: int
    filters: tuple[str, ...]


class Puback(NamedTuple):
    packet_id: int


class Pubrel(NamedTuple):
    packet_id: int


class Pingreq(NamedTuple):
    pass


class Disconnect(NamedTuple):
    pass


Packet: TypeAlias = Connect | Publish | Subscribe | Unsubscribe | Puback | Pubrel | Pingreq | Disconnect


class FrameTooLarge(RemoteProtocolError):
    """The client announced a packet longer than we take. Known from the first bytes; the rest is never read."""

    def __init__(self, packet_bytes: int, packet_bytes_max: int) -> None:
        self.packet_bytes = packet_bytes
        super().__init__(f"packet is {packet_bytes} bytes, limit {packet_bytes_max}")


def _refuse(text: str, wire_code: int = 0) -> NoReturn:
    raise RemoteProtocolError(text, wire_code=wire_code)


#: Flags of the fixed header that each type must carry [MQTT-2.2.2-2]; PUBLISH uses its own. A type that is missing
#: here never goes from client to server, or answers something that we never send (PUBREC and PUBCOMP: no QoS 2 down).
_REQUIRED_FLAGS: dict[int, int] = {
    PacketType.CONNECT: 0,
    PacketType.PUBACK: 0,
    PacketType.PUBREL: 2,
    PacketType.SUBSCRIBE: 2,
    PacketType.UNSUBSCRIBE: 2,
    PacketType.PINGREQ: 0,
    PacketType.DISCONNECT: 0,
}


def frame_length(data: bytes | bytearray, start: int, packet_bytes_max: int) -> tuple[int, int] | None:
    """(bytes of the fixed header, bytes of the whole packet) at `start`, or None while the header is incomplete.

    Raises: FrameTooLarge, RemoteProtocolError for a remaining length of more than four bytes.
    """
    remaining, shift, at = 0, 0, start + 1
    end = len(data)
    while True:
        if at >= end:
            return None
        value = data[at]
        at += 1
        remaining |= (value & 127) << shift
        if value < 128:
            break
        shift += 7
        if shift > 21:
            _refuse("remaining length has more than 4 bytes")
    header = at - start
    if header + remaining > packet_bytes_max:
        raise FrameTooLarge(header + remaining, packet_bytes_max)
    return header, header + remaining


def next_packet(data: bytes | bytearray, start: int, packet_bytes_max: int) -> tuple[Packet, int] | None:
    """(the packet at `start`, where the next one begins), or None while it is incomplete.

    The first byte is judged as soon as it is there, so that garbage is refused without waiting for its length.
    Raises: RemoteProtocolError (wire_code = CONNACK return code to send before closing, or 0), FrameTooLarge.
    """
    if start >= len(data):
        return None
    first = data[start]
    kind = first >> 4
    if kind != PacketType.PUBLISH:
        required = _REQUIRED_FLAGS.get(kind)
        if required is None:
            _refuse(f"packet type {kind} is not for a server of this kind")
        if first & 15 != required:
            _refuse(f"flags of packet type {kind} are {first & 15}, expected {required}")
    lengths = frame_length(data, start, packet_bytes_max)
    if lengths is None:
        return None
    header, total = lengths
    if start + total > len(data):
        return None
    body = bytes(data[start + header : start + total])
    return _parse(kind, first & 15, body), start + total


def _parse(kind: int, flags: int, body: bytes) -> Packet:
    match kind:
        case PacketType.PUBACK:
            return Puback(_only_packet_id(body, "PUBACK"))
        case PacketType.PUBLISH:
            return _parse_publish(flags, body)
        case PacketType.PINGREQ:
            if body:
                _refuse("PINGREQ has a body")
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
                _refuse("DISCONNECT has a body")
            return Disconnect()


def _packet_id(body: bytes, at: int) -> int:
    if len(body) < at + 2:
        _refuse("packet ends before its packet identifier")
    packet_id = body[at] << 8 | body[at + 1]
    if packet_id == 0:
        _refuse("packet identifier is 0")  # [MQTT-2.3.1-1]
    return packet_id


def _only_packet_id(body: bytes, name: str) -> int:
    if len(body) != 2:
        _refuse(f"{name} has a remaining length of {len(body)}, expected 2")
    return _packet_id(body, 0)


def _binary(body: bytes, at: int, name: str) -> tuple[bytes, int]:
    """(the length-prefixed field at `at`, position after it)."""
    start = at + 2
    if len(body) < start:
        _refuse(f"packet ends before the length of its {name}")
    end = start + (body[at] << 8 | body[at + 1])
    if len(body) < end:
        _refuse(f"packet ends inside its {name}")
    return body[start:end], end


def _text(body: bytes, at: int, name: str) -> tuple[str, int]:
    """A UTF-8 string, section 1.5.3. Python's decoder refuses what [MQTT-1.5.3-1] forbids and keeps a BOM [-3]."""
    raw, end = _binary(body, at, name)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"{name} is not UTF-8") from error
    if "\0" in text:
        _refuse(f"{name} contains U+0000")  # [MQTT-1.5.3-2]
    return text, end


def _topic_name(body: bytes, at: int, name: str) -> tuple[str, int]:
    topic, at = _text(body, at, name)
    if not topic:
        _refuse(f"{name} is empty")  # [MQTT-4.7.3-1]
    if "+" in topic or "#" in topic:
        _refuse(f"{name} contains a wildcard")  # [MQTT-3.3.2-2]
    return topic, at


def _topic_filter(body: bytes, at: int) -> tuple[str, int]:
    topic_filter, at = _text(body, at, "topic filter")
    if not topic_filter:
        _refuse("topic filter is empty")
    levels = topic_filter.split("/")
    for index, level in enumerate(levels):
        if "#" in level and (level != "#" or index != len(levels) - 1):
            _refuse("topic filter has a # that is not its last level")  # [MQTT-4.7.1-2]
        if "+" in level and level != "+":
            _refuse("topic filter has a + that does not fill its level")  # [MQTT-4.7.1-3]
    return topic_filter, at


def _parse_connect(body: bytes) -> Connect:
    name, at = _text(body, 0, "protocol name")
    if name not in {"MQTT", "MQIsdp"}:
        _refuse("protocol name is neither MQTT nor MQIsdp")  # [MQTT-3.1.2-1]: no CONNACK to a stranger
    if len(body) < at + 1:
        _refuse("CONNECT ends before its protocol level")
    level = body[at]
    if level != PROTOCOL_LEVEL_3_1_1 or name != "MQTT":
        _refuse(f"protocol level is {level}, expected 4", ConnectCode.UNACCEPTABLE_PROTOCOL_VERSION)
    if len(body) < at + 4:
        _refuse("CONNECT ends before its keep alive")
    flags = body[at + 1]
    keepalive_s = body[at + 2] << 8 | body[at + 3]
    at += 4
    has_will = bool(flags & 4)
    will_qos = flags >> 3 & 3
    if flags & 1:
        _refuse("reserved flag of CONNECT is set")  # [MQTT-3.1.2-3]
    if will_qos == 3 or (not has_will and flags & 0x38):
        _refuse("will flags of CONNECT contradict each other")  # [MQTT-3.1.2-11, -13, -14, -15]
    if flags & 0x40 and not flags & 0x80:
        _refuse("CONNECT has a password without a user name")  # [MQTT-3.1.2-22]
    client_id, at = _text(body, at, "client identifier")
    if has_will:
        _, at = _topic_name(body, at, "will topic")
        _, at = _binary(body, at, "will message")
    user_name: str | None = None
    password: bytes | None = None
    if flags & 0x80:
        user_name, at = _text(body, at, "user name")
    if flags & 0x40:
        password, at = _binary(body, at, "password")
    if at != len(body):
        _refuse("CONNECT is longer than its fields")
    return Connect(client_id, bool(flags & 2), keepalive_s, user_name, password, has_will)


def _parse_publish(flags: int, body: bytes) -> Publish:
    qos = flags >> 1 & 3
    if qos == 3:
        _refuse("QoS of PUBLISH is 3")  # [MQTT-3.3.1-4]
    if qos == 0 and flags & 8:
        _refuse("PUBLISH of QoS 0 has DUP set")  # [MQTT-3.3.1-2]
    topic, at = _topic_name(body, 0, "topic name")
    packet_id = 0
    if qos:
        packet_id = _packet_id(body, at)
        at += 2
    return Publish(topic, body[at:], qos, packet_id, bool(flags & 8), bool(flags & 1))


def _parse_subscribe(body: bytes) -> Subscribe:
    packet_id, at = _packet_id(body, 0), 2
    filters: list[tuple[str, int]] = []
    while at < len(body):
        topic_filter, at = _topic_filter(body, at)
        if at >= len(body):
            _refuse("SUBSCRIBE ends before a requested QoS")
        qos = body[at]
        if qos > 2:
            _refuse(f"requested QoS byte is {qos}, expected 0, 1 or 2")  # [MQTT-3-8.3-4]
        at += 1
        filters.append((topic_filter, qos))
    if not filters:
        _refuse("SUBSCRIBE has no topic filter")  # [MQTT-3.8.3-3]
    return Subscribe(packet_id, tuple(filters))


def _parse_unsubscribe(body: bytes) -> Unsubscribe:
    packet_id, at = _packet_id(body, 0), 2
    filters: list[str] = []
    while at < len(body):
        topic_filter, at = _topic_filter(body, at)
        filters.append(topic_filter)
    if not filters:
        _refuse("UNSUBSCRIBE has no topic filter")  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id, tuple(filters))


# What the server says.

PINGRESP = b"\xd0\x00"
#: SUBACK return code of a refused filter, section 3.9.3.
SUBSCRIPTION_REFUSED = 0x80


def encode_remaining_length(length: int) -> bytes:
    """Section 2.2.3, non-normative algorithm. length: 0..REMAINING_LENGTH_MAX, checked by the caller."""
    out = bytearray()
    while True:
        length, digit = length >> 7, length & 127
        if not length:
            out.append(digit)
            return bytes(out)
        out.append(digit | 128)


def encode_connack(code: ConnectCode, *, is_session_present: bool = False) -> bytes:
    """Section 3.2. A refusal never says session present [MQTT-3.2.2-4]."""
    present = is_session_present and code is ConnectCode.ACCEPTED
    return bytes((0x20, 2, present, code))


def encode_suback(packet_id: int, codes: bytes) -> bytes:
    """codes: one byte per topic filter, in their order: granted QoS or SUBSCRIPTION_REFUSED [MQTT-3.8.4-5]."""
    return b"\x90" + encode_remaining_length(2 + len(codes)) + packet_id.to_bytes(2, "big") + codes


def encode_unsuback(packet_id: int) -> bytes:
    return b"\xb0\x02" + packet_id.to_bytes(2, "big")


def encode_puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def encode_pubrec(packet_id: int) -> bytes:
    return b"\x50\x02" + packet_id.to_bytes(2, "big")


def encode_pubcomp(packet_id: int) -> bytes:
    return b"\x70\x02" + packet_id.to_bytes(2, "big")
