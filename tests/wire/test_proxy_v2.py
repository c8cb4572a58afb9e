"""PROXY protocol v2: what a balancer says, chunk by chunk, and everything that is not that."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RemoteProtocolError
from gateway.wire.proxy_v2 import SIGNATURE, ProxyHeader, parse_proxy_header

LIMIT = 4_096


def header(source: str, *, command: int = 1, tlvs: bytes = b"", family: int | None = None) -> bytes:
    """As section 2.2 of the specification lays it out."""
    address = ipaddress.ip_address(source)
    body = address.packed + address.packed + struct.pack(">HH", 50_000, 1883) + tlvs
    if family is None:
        family = 0x11 if address.version == 4 else 0x21
    return SIGNATURE + bytes((0x20 | command, family)) + struct.pack(">H", len(body)) + body


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8::7", "2001:db8::7"),
        # a balancer that listens on IPv6 for both
        ("::ffff:203.0.113.7", "203.0.113.7"),
    ],
)
def test_header_says_who_is_there_and_how_long_it_is(source: str, said: str) -> None:
    data = header(source, tlvs=b"\x04\x00\x03abc")
    assert parse_proxy_header(data + b"\x10\x20", LIMIT) == ProxyHeader(said, len(data))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(header("203.0.113.7", command=0), id="LOCAL, the balancer itself"),
        pytest.param(SIGNATURE + b"\x20\x00\x00\x00", id="LOCAL without addresses"),
        pytest.param(SIGNATURE + b"\x21\x00\x00\x03\x04\x00\x00", id="UNSPEC"),
    ],
)
def test_header_without_a_peer_has_no_address(data: bytes) -> None:
    assert parse_proxy_header(data, LIMIT) == ProxyHeader(None, len(data))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 5 6\r\n", "signature"),
        (b"\x10\x20\x00\x04MQTT", "signature"),
        (SIGNATURE + b"\x11", "version and command"),
        (SIGNATURE + b"\x22", "version and command"),
        (SIGNATURE + b"\x21\x12\x00\x0c", "family"),
        (SIGNATURE + b"\x21\x31\x00\xd8", "family"),
        (SIGNATURE + b"\x21\x11\x00\x0b", "expected 12"),
        (SIGNATURE + b"\x21\x21\x00\x23", "expected 36"),
        (SIGNATURE + b"\x21\x11\x0f\xf1", "4097 bytes, limit 4096"),
    ],
)
def test_header_that_is_none_is_refused_as_soon_as_it_shows(data: bytes, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=said):
        parse_proxy_header(data, LIMIT)


@given(st.sampled_from(["203.0.113.7", "2001:db8::7"]), st.binary(max_size=60))
def test_header_is_incomplete_until_its_last_byte(source: str, tlvs: bytes) -> None:
    data = header(source, tlvs=tlvs)
    assert [parse_proxy_header(data[:n], LIMIT) for n in range(len(data))] == [None] * len(data)
    assert parse_proxy_header(data, LIMIT) == ProxyHeader(source, len(data))


@given(st.binary(max_size=80), st.integers(0, 30))
def test_any_bytes_are_a_header_or_a_protocol_error(noise: bytes, kept: int) -> None:
    data = header("203.0.113.7")[:kept] + noise
    try:
        found = parse_proxy_header(data, LIMIT)
    except RemoteProtocolError:
        return
    assert found is None or 16 <= found.size <= len(data)
