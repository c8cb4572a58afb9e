"""MQTT 5.0 properties: bytes into values, values into bytes. Sans-IO, stateless.

One literal table says of each property its identifier, its type, and whose packets may carry it. Reading takes any of
them where the table allows; only what the gateway says itself is ever written, by `encode_properties`.

What is wrong is told apart as section 4.13 wants it: an identifier that is unknown or does not belong into the packet,
or bytes that are no value of its type, is a Malformed Packet (wire code 0, sent as 0x81); a property that comes twice,
or with a value that is forbidden, is a Protocol Error (0x82).

Source: OASIS MQTT Version 5.0 section 2.2.2, table 2-4, and the property lists of section 3.
"""

from __future__ import annotations

import enum
from typing import Any, Final, NamedTuple

from gateway.errors import LocalProtocolError
from gateway.wire.mqtt.fields import encode_variable, read_binary, read_integer, read_text, read_variable, refuse
from gateway.wire.mqtt.reason_codes import ReasonCode


class Carrier(enum.IntFlag):
    """Whose property section it is: packets, and the will inside a CONNECT."""

    CONNECT = enum.auto()
    CONNACK = enum.auto()
    PUBLISH = enum.auto()
    WILL = enum.auto()
    PUBACK = enum.auto()
    """PUBREC, PUBREL and PUBCOMP have the same list."""
    SUBSCRIBE = enum.auto()
    SUBACK = enum.auto()
    """UNSUBACK has the same list."""
    UNSUBSCRIBE = enum.auto()
    DISCONNECT = enum.auto()
    AUTH = enum.auto()


class Form(enum.Enum):
    """Section 1.5, less FLAG: a byte that is 0 or 1."""

    FLAG = enum.auto()
    U16 = enum.auto()
    U32 = enum.auto()
    VARIABLE = enum.auto()
    TEXT = enum.auto()
    BINARY = enum.auto()
    PAIR = enum.auto()


class Properties(NamedTuple):
    """What a property section said; None where it said nothing."""

    payload_format_indicator: int | None = None
    message_expiry_interval_s: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_identifier: int | None = None
    session_expiry_interval_s: int | None = None
    assigned_client_identifier: str | None = None
    server_keep_alive_s: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    will_delay_interval_s: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user_properties: tuple[tuple[str, str], ...] | None = None
    maximum_packet_size_bytes: int | None = None
    wildcard_subscription_available: int | None = None
    subscription_identifier_available: int | None = None
    shared_subscription_available: int | None = None


NO_PROPERTIES: Final = Properties()


class Rule(NamedTuple):
    identifier: int
    field: str
    form: Form
    carriers: Carrier
    is_zero_forbidden: bool = False


_MESSAGE = Carrier.PUBLISH | Carrier.WILL
_LOGIN = Carrier.CONNECT | Carrier.CONNACK
_EVERY = Carrier(sum(Carrier))

#: Table 2-4, in the order of `Properties`.
RULES: Final[tuple[Rule, ...]] = (
    Rule(0x01, "payload_format_indicator", Form.FLAG, _MESSAGE),
    Rule(0x02, "message_expiry_interval_s", Form.U32, _MESSAGE),
    Rule(0x03, "content_type", Form.TEXT, _MESSAGE),
    Rule(0x08, "response_topic", Form.TEXT, _MESSAGE),
    Rule(0x09, "correlation_data", Form.BINARY, _MESSAGE),
    Rule(0x0B, "subscription_identifier", Form.VARIABLE, Carrier.PUBLISH | Carrier.SUBSCRIBE, True),
    Rule(0x11, "session_expiry_interval_s", Form.U32, _LOGIN | Carrier.DISCONNECT),
    Rule(0x12, "assigned_client_identifier", Form.TEXT, Carrier.CONNACK),
    Rule(0x13, "server_keep_alive_s", Form.U16, Carrier.CONNACK),
    Rule(0x15, "authentication_method", Form.TEXT, _LOGIN | Carrier.AUTH),
    Rule(0x16, "authentication_data", Form.BINARY, _LOGIN | Carrier.AUTH),
    Rule(0x17, "request_problem_information", Form.FLAG, Carrier.CONNECT),
    Rule(0x18, "will_delay_interval_s", Form.U32, Carrier.WILL),
    Rule(0x19, "request_response_information", Form.FLAG, Carrier.CONNECT),
    Rule(0x1A, "response_information", Form.TEXT, Carrier.CONNACK),
    Rule(0x1C, "server_reference", Form.TEXT, Carrier.CONNACK | Carrier.DISCONNECT),
    Rule(
        0x1F,
        "reason_string",
        Form.TEXT,
        Carrier.CONNACK | Carrier.PUBACK | Carrier.SUBACK | Carrier.DISCONNECT | Carrier.AUTH,
    ),
    Rule(0x21, "receive_maximum", Form.U16, _LOGIN, True),
    Rule(0x22, "topic_alias_maximum", Form.U16, _LOGIN),
    Rule(0x23, "topic_alias", Form.U16, Carrier.PUBLISH),
    Rule(0x24, "maximum_qos", Form.FLAG, Carrier.CONNACK),
    Rule(0x25, "retain_available", Form.FLAG, Carrier.CONNACK),
    Rule(0x26, "user_properties", Form.PAIR, _EVERY),
    Rule(0x27, "maximum_packet_size_bytes", Form.U32, _LOGIN, True),
    Rule(0x28, "wildcard_subscription_available", Form.FLAG, Carrier.CONNACK),
    Rule(0x29, "subscription_identifier_available", Form.FLAG, Carrier.CONNACK),
    Rule(0x2A, "shared_subscription_available", Form.FLAG, Carrier.CONNACK),
)
_RULE_OF = {rule.identifier: (position, rule) for position, rule in enumerate(RULES)}


def read_properties(body: bytes, at: int, carrier: Carrier) -> tuple[Properties, int]:
    """The property section at `at`, its length included. Raises: RemoteProtocolError."""
    length, at = read_variable(body, at, "property length")
    if not length:
        return NO_PROPERTIES, at
    end = at + length
    if len(body) < end:
        refuse("packet ends inside its properties")
    section = body[:end]
    found: list[Any] = list(NO_PROPERTIES)
    pairs: list[tuple[str, str]] = []
    while at < end:
        identifier, at = read_variable(section, at, "property identifier")
        position, rule = _RULE_OF.get(identifier, (-1, None))
        if rule is None or not rule.carriers & carrier:
            refuse(f"property 0x{identifier:02x} does not belong into {carrier.name}")
        if rule.form is Form.PAIR:
            name, at = read_text(section, at, "user property")
            value, at = read_text(section, at, "user property")
            pairs.append((name, value))
            found[position] = ()
            continue
        if found[position] is not None:
            refuse(f"property {rule.field} comes twice", ReasonCode.PROTOCOL_ERROR)
        found[position], at = _read_value(section, at, rule)
    if pairs:
        found[_PAIRS_POSITION] = tuple(pairs)
    return Properties._make(found), at


_PAIRS_POSITION = Properties._fields.index("user_properties")
_SIZES = {Form.FLAG: 1, Form.U16: 2, Form.U32: 4}


def _read_value(section: bytes, at: int, rule: Rule) -> tuple[int | str | bytes, int]:
    form = rule.form
    if form is Form.TEXT:
        return read_text(section, at, rule.field)
    if form is Form.BINARY:
        return read_binary(section, at, rule.field)
    if form is Form.VARIABLE:
        value, at = read_variable(section, at, rule.field)
    else:
        value, at = read_integer(section, at, _SIZES[form], rule.field)
    if form is Form.FLAG and value > 1:
        refuse(f"property {rule.field} is {value}, expected 0 or 1", ReasonCode.PROTOCOL_ERROR)
    if rule.is_zero_forbidden and not value:
        refuse(f"property {rule.field} is 0", ReasonCode.PROTOCOL_ERROR)
    return value, at


def encode_properties(properties: Properties) -> bytes:
    """The property section with its length. Raises: LocalProtocolError for a text of more than 65,535 bytes."""
    out = bytearray()
    values: tuple[Any, ...] = tuple(properties)
    for rule, value in zip(RULES, values, strict=True):
        if value is None:
            continue
        if rule.form is Form.PAIR:
            for name, text in value:
                out += bytes((rule.identifier,)) + _prefixed(name.encode()) + _prefixed(text.encode())
            continue
        out.append(rule.identifier)
        if rule.form is Form.TEXT:
            out += _prefixed(value.encode())
        elif rule.form is Form.BINARY:
            out += _prefixed(value)
        elif rule.form is Form.VARIABLE:
            out += encode_variable(value)
        else:
            out += value.to_bytes(_SIZES[rule.form], "big")
    return encode_variable(len(out)) + bytes(out)


def _prefixed(data: bytes) -> bytes:
    if len(data) > 65_535:
        raise LocalProtocolError(f"property is {len(data)} bytes, limit 65535")
    return len(data).to_bytes(2, "big") + data
