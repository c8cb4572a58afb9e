"""The address of a request that carries many rows: what stands in its callback parameter (DESIGN.md section 2).

    bytes 0..10    11  the batch: 48 bits Unix ms, 12 bits journal, 22 bits sequence, 6 bits zero
    bytes 11..14    4  the request's number, counted by the process that made it from a random one on
    bytes 15..22    8  MAC: BLAKE2b under the gateway's secret

As text 46 lower-case hex digits: every vendor's callback parameter takes that (OPPO, the shortest, 50 ASCII). A receipt
that brings it names tokens; the row is found among the batch's token hashes. It is a different text from a message id
(36 characters) at a glance and by its length.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

import numpy as np

from gateway.columns import U8
from gateway.message_id import BatchAddress

TEXT_CHARACTERS = 46
NUMBERS_MAX = 1 << 32
_DOMAIN = b"burst"
_MAC_BYTES = 8


class BurstAddress(NamedTuple):
    """Which request of which batch."""

    batch: BatchAddress
    number: int


def _mac(secret: bytes, head: bytes) -> bytes:
    return hashlib.blake2b(head, key=secret, digest_size=_MAC_BYTES, person=_DOMAIN).digest()


def _batch_bytes(batch: BatchAddress) -> bytes:
    return (batch.unix_ms << 40 | batch.journal << 28 | batch.sequence << 6).to_bytes(11, "big")


def encode(secret: bytes, address: BurstAddress) -> str:
    """The callback parameter of one request."""
    head = _batch_bytes(address.batch) + address.number.to_bytes(4, "big")
    return (head + _mac(secret, head)).hex()


def encode_numbers(secret: bytes, batch: BatchAddress, first: int, count: int) -> U8:
    """(count, 46) uint8: the texts of requests first, first + 1, ... One MAC per request, which carries many rows."""
    texts = [encode(secret, BurstAddress(batch, (first + at) % NUMBERS_MAX)) for at in range(count)]
    return np.frombuffer("".join(texts).encode(), np.uint8).reshape(count, TEXT_CHARACTERS)


def decode(secret: bytes, text: str) -> BurstAddress | None:
    """The address in a callback parameter, or None when it is not one of ours (form or MAC)."""
    if len(text) != TEXT_CHARACTERS or not text.isascii() or not text.isalnum() or text != text.lower():
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    head, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    if not hmac.compare_digest(_mac(secret, head), mac):
        return None
    value = int.from_bytes(head[:11], "big")
    if value & 0x3F:
        return None
    batch = BatchAddress(value >> 40, value >> 28 & 0xFFF, value >> 6 & 0x3FFFFF)
    return BurstAddress(batch, int.from_bytes(head[11:], "big"))
