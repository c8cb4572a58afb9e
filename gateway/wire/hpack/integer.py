"""Prefixed integers (RFC 7541 section 5.1)."""

from __future__ import annotations

from gateway.errors import RemoteProtocolError
from gateway.wire.hpack.codes import COMPRESSION_ERROR

#: Larger numbers than this mean nothing in HPACK (a length or an index of 4 GiB); the bound also stops a peer from
#: sending a number without end.
INTEGER_MAX = (1 << 32) - 1


def encode_integer(value: int, prefix_bits: int, flags: int = 0) -> bytes:
    """The number with the representation's pattern `flags` in the bits above the prefix."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((flags | value,))
    out = bytearray((flags | limit,))
    value -= limit
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_integer(data: bytes, at: int, prefix_bits: int) -> tuple[int, int]:
    """(value, position after it).

    Raises RemoteProtocolError when the number is cut off or larger than INTEGER_MAX.
    """
    limit = (1 << prefix_bits) - 1
    end = len(data)
    if at >= end:
        raise RemoteProtocolError("header block ends inside a number", wire_code=COMPRESSION_ERROR)
    value = data[at] & limit
    at += 1
    if value < limit:
        return value, at
    shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value += (byte & 0x7F) << shift
        if value > INTEGER_MAX or shift > 35:
            raise RemoteProtocolError(f"number in a header block over {INTEGER_MAX}", wire_code=COMPRESSION_ERROR)
        if byte < 0x80:
            return value, at
        shift += 7
    raise RemoteProtocolError("header block ends inside a number", wire_code=COMPRESSION_ERROR)
