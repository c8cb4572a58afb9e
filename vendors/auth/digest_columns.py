"""Digests of whole columns: what signs every request of a burst.

Source: RFC 2104 (HMAC), FIPS 180-4 (SHA-256), RFC 1321 (MD5).

Of a short text a digest costs far more in OpenSSL's set-up than in hashing: a copy of one that has been begun costs
half of what a new one does, and `hmac` makes several. So what all texts begin with is digested once, and only copies of
that meet the rows. Plain twins: `hashlib` and `hmac`, row by row (`tests/vendors/auth/test_digest_columns.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from gateway.columns import U8, Pieces, hex_lower

if TYPE_CHECKING:
    from hashlib import _Hash

#: Keys that are kept as begun digests, a quarter of a KiB each: one for each vendor section, with room.
_KEYS_MAX = 256
#: RFC 2104 section 2: the key is padded to a block and xored with one of two bytes.
_BLOCK_BYTES = 64
_INNER, _OUTER = bytes(byte ^ 0x36 for byte in range(256)), bytes(byte ^ 0x5C for byte in range(256))


def sha256_hex(lead: bytes, texts: Sequence[bytes]) -> U8:
    """(n, 64) lower-case hex: SHA-256 of lead + text for each text."""
    return _finished(hashlib.sha256(lead).copy, texts)


def md5_hex(lead: bytes, texts: Sequence[bytes]) -> U8:
    """(n, 32) lower-case hex: MD5 of lead + text for each text."""
    return _finished(hashlib.md5(lead, usedforsecurity=False).copy, texts)


def hmac_sha256_hex(key: bytes, lead: bytes, texts: Sequence[bytes]) -> U8:
    """(n, 64) lower-case hex: HMAC-SHA256 of lead + text for each text."""
    inner, outer = _begun(key)
    inner = inner.copy()
    inner.update(lead)
    begun, finish = inner.copy, outer.copy
    made: list[bytes] = []
    for text in texts:
        digest, final = begun(), finish()
        digest.update(text)
        final.update(digest.digest())
        made.append(final.digest())
    return _hex(made)


def constant_of(field: Pieces) -> bytes:
    """A field of a signature that is the same for all requests of a burst."""
    assert all(isinstance(piece, bytes) for piece in field), "this field differs from row to row"
    return b"".join([piece for piece in field if isinstance(piece, bytes)])


def lead_of(field: Pieces) -> tuple[bytes, Pieces]:
    """What the field begins with in all rows, and the rest of it."""
    first = field[0] if field else b""
    return (first, field[1:]) if isinstance(first, bytes) else (b"", field)


def _finished(begun: Callable[[], _Hash], texts: Sequence[bytes]) -> U8:
    made: list[bytes] = []
    for text in texts:
        digest = begun()
        digest.update(text)
        made.append(digest.digest())
    return _hex(made)


@lru_cache(maxsize=_KEYS_MAX)
def _begun(key: bytes) -> tuple[_Hash, _Hash]:
    """The inner and the outer digest of an HMAC, which have taken the key. To be copied, never to be fed."""
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\x00")
    return hashlib.sha256(block.translate(_INNER)), hashlib.sha256(block.translate(_OUTER))


def _hex(digests: list[bytes]) -> U8:
    if not digests:
        return np.zeros((0, 0), np.uint8)
    return hex_lower(np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1))
