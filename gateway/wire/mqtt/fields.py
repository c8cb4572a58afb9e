"""The data types of MQTT, read from a packet's body; shared by both versions. Sans-IO, stateless.

Source: OASIS MQTT 3.1.1 section 1.5, OASIS MQTT 5.0 section 1.5. Every reader takes the body and a position and returns
the value with the position after it. What is wrong raises `RemoteProtocolError` with wire code 0; in MQTT 5.0 that
stands for reason code 0x81, Malformed Packet.
"""

from __future__ import annotations

from typing import NoReturn

from gateway.errors import RemoteProtocolError


def refuse(text: str, wire_code: int = 0) -> NoReturn:
    """Raises: RemoteProtocolError."""
    raise RemoteProtocolError(text, wire_code=wire_code)


def read_packet_id(body: bytes, at: int) -> int:
    """The two bytes at `at`, not 0."""
    if len(body) < at + 2:
        refuse("packet ends before its packet identifier")
    packet_id = body[at] << 8 | body[at + 1]
    if packet_id == 0:
        refuse("packet identifier is 0")  # [MQTT-2.3.1-1], 5.0: [MQTT-2.2.1-3]
    return packet_id


def read_integer(body: bytes, at: int, size: int, name: str) -> tuple[int, int]:
    """`size` bytes, big-endian."""
    end = at + size
    if len(body) < end:
        refuse(f"packet ends inside its {name}")
    return int.from_bytes(body[at:end], "big"), end


def read_variable(body: bytes, at: int, name: str) -> tuple[int, int]:
    """A variable byte integer in the fewest bytes possible [MQTT-1.5.5-1]."""
    value = shift = 0
    start = at
    while True:
        if at >= len(body):
            refuse(f"packet ends inside its {name}")
        digit = body[at]
        at += 1
        value |= (digit & 127) << shift
        if digit < 128:
            break
        shift += 7
        if shift > 21:
            refuse(f"{name} has more than 4 bytes")
    if digit == 0 and at - start > 1:
        refuse(f"{name} has more bytes than it needs")
    return value, at


def read_binary(body: bytes, at: int, name: str) -> tuple[bytes, int]:
    """(the length-prefixed field at `at`, position after it)."""
    start = at + 2
    if len(body) < start:
        refuse(f"packet ends before the length of its {name}")
    end = start + (body[at] << 8 | body[at + 1])
    if len(body) < end:
        refuse(f"packet ends inside its {name}")
    return body[start:end], end


def read_text(body: bytes, at: int, name: str) -> tuple[str, int]:
    """A UTF-8 string, section 1.5.3 (5.0: 1.5.4). Python's decoder refuses what [MQTT-1.5.3-1] forbids, keeps a BOM."""
    raw, end = read_binary(body, at, name)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"{name} is not UTF-8") from error
    if "\0" in text:
        refuse(f"{name} contains U+0000")  # [MQTT-1.5.3-2]
    return text, end


def check_topic_name(topic: str, name: str) -> None:
    """Raises: RemoteProtocolError."""
    if not topic:
        refuse(f"{name} is empty")  # [MQTT-4.7.3-1]
    if "+" in topic or "#" in topic:
        refuse(f"{name} contains a wildcard")  # [MQTT-3.3.2-2]


def read_topic_name(body: bytes, at: int, name: str) -> tuple[str, int]:
    topic, at = read_text(body, at, name)
    check_topic_name(topic, name)
    return topic, at


def read_topic_filter(body: bytes, at: int) -> tuple[str, int]:
    topic_filter, at = read_text(body, at, "topic filter")
    if not topic_filter:
        refuse("topic filter is empty")
    levels = topic_filter.split("/")
    for index, level in enumerate(levels):
        if "#" in level and (level != "#" or index != len(levels) - 1):
            refuse("topic filter has a # that is not its last level")  # [MQTT-4.7.1-2]
        if "+" in level and level != "+":
            refuse("topic filter has a + that does not fill its level")  # [MQTT-4.7.1-3]
    return topic_filter, at


def encode_variable(value: int) -> bytes:
    """Section 1.5.5 (3.1.1: 2.2.3). value: 0 to 268,435,455, checked by the caller."""
    out = bytearray()
    while True:
        value, digit = value >> 7, value & 127
        if not value:
            out.append(digit)
            return bytes(out)
        out.append(digit | 128)
