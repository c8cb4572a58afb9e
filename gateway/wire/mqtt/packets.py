"""MQTT control packets: bytes of a client into values, values of the server into bytes. Sans-IO, stateless.

Sources: OASIS MQTT Version 3.1.1 (29 October 2014) and Version 5.0 (7 March 2019); the numbers in square brackets are
their normative statements. `docs/mqtt.md` lists them with place and test.
Only the server's side is here: packets that a server never receives are refused by `next_packet`, and only those that
it sends are encoded (those of 5.0 in `answers.py`). PUBLISH downlink is columnar and lives in `publish.py`.

Law, held by the tests: any bytes are accepted, or are the beginning of something acceptable, or raise
`RemoteProtocolError`; nothing else. How the bytes were cut into pieces makes no difference to the packets.

Which version speaks is the connection's affair and an argument here; a CONNECT says it itself.

Choices where the text leaves one:
* a remaining length in more bytes than needed is accepted in 3.1.1, which does not forbid it, and refused in 5.0;
* a CONNECT of an unknown protocol level is refused before the rest of it is read, since it may be laid out otherwise;
  the wire code of the exception is the code of the CONNACK to send [MQTT-3.1.2-2].
"""

from __future__ import annotations

from gateway.errors import RemoteProtocolError
from gateway.wire.mqtt.fields import encode_variable, refuse
from gateway.wire.mqtt.packet_types import (
    FIXED_HEADER_BYTES_MAX,
    REMAINING_LENGTH_MAX,
    VERSION_3_1_1,
    VERSION_5,
    Connect,
    ConnectCode,
    ConnectFault,
    Disconnect,
    FrameTooLarge,
    Packet,
    PacketType,
    Pingreq,
    Puback,
    Publish,
    Pubrel,
    Subscribe,
    Unsubscribe,
)
from gateway.wire.mqtt.packets_3_1_1 import connect_level, parse_3_1_1
from gateway.wire.mqtt.packets_5 import parse_5, parse_connect_5
from gateway.wire.mqtt.reason_codes import ReasonCode

__all__ = [
    "FIXED_HEADER_BYTES_MAX",
    "PINGRESP",
    "REMAINING_LENGTH_MAX",
    "SUBSCRIPTION_REFUSED",
    "TYPE_OF",
    "VERSION_3_1_1",
    "VERSION_5",
    "Connect",
    "ConnectCode",
    "ConnectFault",
    "Disconnect",
    "FrameTooLarge",
    "Packet",
    "PacketType",
    "Pingreq",
    "Puback",
    "Publish",
    "Pubrel",
    "Subscribe",
    "Unsubscribe",
    "encode_connack",
    "encode_puback",
    "encode_pubcomp",
    "encode_pubrec",
    "encode_suback",
    "encode_unsuback",
    "frame_length",
    "next_packet",
]

#: Of what `next_packet` returns.
TYPE_OF: dict[type[Packet], PacketType] = {
    Connect: PacketType.CONNECT,
    Publish: PacketType.PUBLISH,
    Puback: PacketType.PUBACK,
    Pubrel: PacketType.PUBREL,
    Subscribe: PacketType.SUBSCRIBE,
    Unsubscribe: PacketType.UNSUBSCRIBE,
    Pingreq: PacketType.PINGREQ,
    Disconnect: PacketType.DISCONNECT,
}
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
            refuse("remaining length has more than 4 bytes")
    header = at - start
    if header + remaining > packet_bytes_max:
        raise FrameTooLarge(header + remaining, packet_bytes_max)
    return header, header + remaining


def next_packet(
    data: bytes | bytearray, start: int, packet_bytes_max: int, version: int = VERSION_3_1_1
) -> tuple[Packet, int] | None:
    """(the packet at `start`, where the next one begins), or None while it is incomplete.

    The first byte is judged as soon as it is there, so that garbage is refused without waiting for its length.
    Raises: RemoteProtocolError (wire_code = the code to send before closing, or 0), ConnectFault, FrameTooLarge.
    """
    if start >= len(data):
        return None
    first = data[start]
    kind = first >> 4
    if kind != PacketType.PUBLISH:
        required = _REQUIRED_FLAGS.get(kind)
        if required is None:
            if kind == PacketType.AUTH and version == VERSION_5:
                # [MQTT-4.12.0-7]: no AUTH after a CONNECT without an authentication method, and we take none with one.
                refuse("AUTH without an authentication method", ReasonCode.PROTOCOL_ERROR)
            refuse(f"packet type {kind} is not for a server of this kind")
        if first & 15 != required:
            refuse(f"flags of packet type {kind} are {first & 15}, expected {required}")
    lengths = frame_length(data, start, packet_bytes_max)
    if lengths is None:
        return None
    header, total = lengths
    if start + total > len(data):
        return None
    body = bytes(data[start + header : start + total])
    is_minimal = header == 1 + len(encode_variable(len(body)))
    if kind == PacketType.CONNECT:
        return _parse_connect(body, is_minimal), start + total
    if version != VERSION_5:
        return parse_3_1_1(kind, first & 15, body), start + total
    if not is_minimal:
        refuse("remaining length has more bytes than it needs")  # [MQTT-1.5.5-1]
    return parse_5(kind, first & 15, body), start + total


def _parse_connect(body: bytes, is_minimal: bool) -> Packet:
    level, at = connect_level(body)
    if level == VERSION_3_1_1:
        return parse_3_1_1(PacketType.CONNECT, 0, body)
    if level != VERSION_5:
        raise ConnectFault(
            f"protocol level is {level}, expected 4 or 5", wire_code=ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        )
    try:
        if not is_minimal:
            refuse("remaining length has more bytes than it needs")
        return parse_connect_5(body, at)
    except RemoteProtocolError as error:
        raise ConnectFault(str(error), wire_code=error.wire_code or ReasonCode.MALFORMED_PACKET) from error


# What the server says.

PINGRESP = b"\xd0\x00"
#: SUBACK return code of a refused filter, section 3.9.3.
SUBSCRIPTION_REFUSED = 0x80


def encode_connack(code: ConnectCode, *, is_session_present: bool = False) -> bytes:
    """Section 3.2. A refusal never says session present [MQTT-3.2.2-4]."""
    present = is_session_present and code is ConnectCode.ACCEPTED
    return bytes((0x20, 2, present, code))


def encode_suback(packet_id: int, codes: bytes) -> bytes:
    """codes: one byte per topic filter, in their order: granted QoS or SUBSCRIPTION_REFUSED [MQTT-3.8.4-5]."""
    return b"\x90" + encode_variable(2 + len(codes)) + packet_id.to_bytes(2, "big") + codes


def encode_unsuback(packet_id: int) -> bytes:
    return b"\xb0\x02" + packet_id.to_bytes(2, "big")


def encode_puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def encode_pubrec(packet_id: int) -> bytes:
    return b"\x50\x02" + packet_id.to_bytes(2, "big")


def encode_pubcomp(packet_id: int) -> bytes:
    return b"\x70\x02" + packet_id.to_bytes(2, "big")
