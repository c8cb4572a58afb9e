"""PROXY protocol version 2: who is really there, told by a load balancer before anything else. Sans-IO.

Source: "The PROXY protocol", HAProxy, version 2.9 (2025-05), section 2.2.

    signature (12)   version|command (1)   family|transport (1)   length (2)   addresses, TLVs (length)

The header is required where a listener expects it: without it, whoever reaches the port could be anybody. It says who
the peer is and nothing checks that, so such a listener must be reachable from the balancer only. TLVs are skipped; that
includes the CRC32c one, which a receiver may leave unsupported (section 2.2.4).
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from gateway.errors import RemoteProtocolError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
#: Signature, command, family and length: what says how long the rest is.
FIXED_BYTES = 16

_VERSION_2 = 0x20
_LOCAL, _PROXY = 0, 1
_UNSPECIFIED, _TCP_4, _TCP_6 = 0x00, 0x11, 0x21
#: Two addresses and two ports (section 2.2.2).
_ADDRESS_BYTES = {_TCP_4: 12, _TCP_6: 36}


class ProxyHeader(NamedTuple):
    """address: of the real peer, as text; None where the balancer speaks for itself (LOCAL) or does not know."""

    address: str | None
    size: int
    """Bytes of the header; what follows them is the connection's own."""


def parse_proxy_header(data: bytes | bytearray, bytes_max: int) -> ProxyHeader | None:
    """The header that `data` begins with, or None while it is incomplete.

    A wrong byte is found when it comes, not when the header would be complete. bytes_max: of the whole header.
    Raises: RemoteProtocolError for anything that is not such a header, or a longer one.
    """
    if data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
        raise RemoteProtocolError("no PROXY protocol v2 signature")
    if len(data) > 12 and data[12] not in (_VERSION_2 | _LOCAL, _VERSION_2 | _PROXY):
        raise RemoteProtocolError(f"version and command are {data[12]:#04x}, known are 0x20 and 0x21")
    if len(data) < FIXED_BYTES:
        return None
    family, length = data[13], int.from_bytes(data[14:16], "big")
    size = FIXED_BYTES + length
    if size > bytes_max:
        raise RemoteProtocolError(f"PROXY header is {size} bytes, limit {bytes_max}")
    is_local = data[12] == _VERSION_2 | _LOCAL
    address_bytes = _ADDRESS_BYTES.get(family)
    if not is_local and family != _UNSPECIFIED:
        if address_bytes is None:
            raise RemoteProtocolError(f"family and transport are {family:#04x}, not TCP over IPv4 or IPv6")
        if length < address_bytes:
            raise RemoteProtocolError(f"addresses have {length} bytes, expected {address_bytes}")
    if len(data) < size:
        return None
    if is_local or address_bytes is None:
        return ProxyHeader(None, size)
    source = data[FIXED_BYTES : FIXED_BYTES + (4 if family == _TCP_4 else 16)]
    address = ipaddress.ip_address(bytes(source))
    # A balancer that listens on IPv6 for both: the same phone must count as the same address.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return ProxyHeader(str(mapped or address), size)
