"""The client side of MQTT 3.1.1 that a phone needs: CONNECT, SUBSCRIBE, PUBACK, PINGREQ, DISCONNECT. No I/O.

Source: MQTT Version 3.1.1, OASIS Standard, 29 October 2014; section numbers beside the code.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

PACKET_BYTES_MAX = 262_144  # a push is a few KB; more is a broken server, and memory times thousands of devices

PINGREQ = b"\xc0\x00"  # 3.12
DISCONNECT = b"\xe0\x00"  # 3.14


class MqttError(Exception):
    """The server broke the protocol; the text says how."""


@dataclass(frozen=True, slots=True)
class Connack:
    """3.2: return code 0 = accepted."""

    is_session_present: bool
    code: int


@dataclass(frozen=True, slots=True)
class Suback:
    """3.9: one return code per topic filter; 0x80 = refused."""

    packet_id: int
    codes: bytes


@dataclass(frozen=True, slots=True)
class Publish:
    """3.3: packet_id is 0 for QoS 0."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    is_dup: bool
    is_retained: bool


@dataclass(frozen=True, slots=True)
class Pingresp:
    """3.13."""


Packet = Connack | Suback | Publish | Pingresp


def connect(client_id: str, user: str, password: str, keepalive_s: int) -> bytes:
    """3.1: CONNECT with clean session, user name and password."""
    flags = 0x80 | 0x40 | 0x02
    body = b"\x00\x04MQTT\x04" + bytes([flags]) + struct.pack(">H", keepalive_s)
    return framed(0x10, body + _text(client_id) + _text(user) + _text(password))


def subscribe(packet_id: int, topic_filter: str, qos: int) -> bytes:
    """3.8: SUBSCRIBE to one filter."""
    return framed(0x82, struct.pack(">H", packet_id) + _text(topic_filter) + bytes([qos]))


def puback(packet_id: int) -> bytes:
    """3.4."""
    return struct.pack(">BBH", 0x40, 2, packet_id)


class Reader:
    """Bytes from the server in, packets out; split anywhere."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> list[Packet]:
        """The packets that `data` completed.

        Raises:
            MqttError: a packet is malformed, too large, or none that a server may send to this client.
        """
        self._buffer += data
        packets = []
        begin = 0
        while True:
            head = self._fixed_header(begin)
            if head is None:
                break
            first, body_begin, end = head
            if len(self._buffer) < end:
                break
            packets.append(_decode(first, bytes(self._buffer[body_begin:end])))
            begin = end
        del self._buffer[:begin]
        return packets

    def _fixed_header(self, begin: int) -> tuple[int, int, int] | None:
        """(first byte, begin of the body, end of the packet), or None while incomplete. 2.2."""
        length = 0
        for index in range(4):
            position = begin + 1 + index
            if position >= len(self._buffer):
                return None
            byte = self._buffer[position]
            length |= (byte & 0x7F) << (7 * index)
            if not byte & 0x80:
                if length > PACKET_BYTES_MAX:
                    raise MqttError(f"packet is {length} bytes, limit {PACKET_BYTES_MAX}")
                return self._buffer[begin], position + 1, position + 1 + length
        raise MqttError("remaining length has more than four bytes")


def _decode(first: int, body: bytes) -> Packet:
    match first >> 4:
        case 2 if first == 0x20 and len(body) == 2 and body[0] in (0, 1):
            return Connack(bool(body[0]), body[1])
        case 9 if first == 0x90 and len(body) >= 3:
            return Suback(struct.unpack_from(">H", body)[0], body[2:])
        case 3:
            return _publish(first & 0x0F, body)
        case 13 if first == 0xD0 and not body:
            return Pingresp()
        case kind:
            raise MqttError(f"packet type {kind}, flags {first & 0x0F}, {len(body)} bytes")


def _publish(flags: int, body: bytes) -> Publish:
    qos = flags >> 1 & 3
    if qos > 1:
        raise MqttError(f"publish with QoS {qos}, subscribed with 1")
    if len(body) < 2:
        raise MqttError("publish without a topic")
    end = 2 + int.from_bytes(body[:2], "big")
    if len(body) < end + 2 * qos:
        raise MqttError("publish is cut")
    try:
        topic = body[2:end].decode()
    except UnicodeDecodeError as error:
        raise MqttError("topic is not UTF-8") from error
    packet_id = 0
    if qos:
        packet_id = int.from_bytes(body[end : end + 2], "big")
        end += 2
        if not packet_id:
            raise MqttError("packet id is 0")  # 2.3.1
    return Publish(topic, body[end:], qos, packet_id, bool(flags & 8), bool(flags & 1))


def field(data: bytes) -> bytes:
    """1.5.3: a text, or binary data, behind its length."""
    if len(data) > 65_535:
        raise ValueError(f"field is {len(data)} bytes, limit 65535 (MQTT 1.5.3)")
    return struct.pack(">H", len(data)) + data


def _text(text: str) -> bytes:
    return field(text.encode())


def framed(first: int, body: bytes) -> bytes:
    """2.2: type and flags, then the remaining length digit by digit, then the body."""
    length = len(body)
    encoded = bytearray([first])
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(encoded) + body
