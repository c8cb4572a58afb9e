"""MessageId: an address in the form of a UUID version 8 (RFC 9562 section 5.8). Contract of DESIGN.md section 2.

    bits 127..80   48  Unix ms of the batch; a label, never goes back within a journal
    bits  79..76    4  version, 8
    bits  75..64   12  journal number
    bits  63..62    2  variant, binary 10
    bits  61..40   22  sequence of the batch in its journal
    bits  39..24   16  row
    bits  23..0    24  keyed check

The check lets a forged or mistyped id be refused without a look-up. It is derived per batch by BLAKE2b under the
gateway's secret and spread over the rows by a keyed multiply-xor mix. Somebody who collects many ids of one batch could
in time learn that batch's row keys and no other's; that is accepted, since a receipt counts only when the reporting
device or token is that row's target.

Bytes are big-endian as in the RFC. For readers in other languages: docs/message-id.md, tests/vectors/message_id.json.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

import numpy as np

from gateway.columns import U8, U64, Rows, hex_lower

ROWS_MAX = 1 << 16
SEQUENCES_MAX = 1 << 22
JOURNALS_MAX = 1 << 12
UNIX_MS_MAX = (1 << 48) - 1
_CHECK_BITS = 24
_CHECK_MASK = (1 << _CHECK_BITS) - 1
_WORD = (1 << 64) - 1
#: What all ids of a batch share: time, journal, sequence; as bytes, and as characters of the text.
_BATCH_BYTES = 11
_BATCH_CHARACTERS = 26
#: Domain of the check: a task id is the address of the task's first row under another domain, so that neither
#: passes for the other.
MESSAGE_DOMAIN = b"message"
TASK_DOMAIN = b"task"


class BatchAddress(NamedTuple):
    """Where a batch is: its journal and its sequence there, with the time it was made."""

    unix_ms: int
    journal: int
    sequence: int


class RowAddress(NamedTuple):
    batch: BatchAddress
    row: int


def _high(batch: BatchAddress) -> int:
    if not 0 <= batch.unix_ms <= UNIX_MS_MAX:
        raise ValueError(f"unix_ms is {batch.unix_ms}, limit {UNIX_MS_MAX}")
    if not 0 <= batch.journal < JOURNALS_MAX:
        raise ValueError(f"journal is {batch.journal}, limit {JOURNALS_MAX - 1}")
    if not 0 <= batch.sequence < SEQUENCES_MAX:
        raise ValueError(f"sequence is {batch.sequence}, limit {SEQUENCES_MAX - 1}")
    return batch.unix_ms << 16 | 8 << 12 | batch.journal


def _row_keys(secret: bytes, domain: bytes, high: int, sequence: int) -> tuple[int, int, int]:
    """Three 64-bit keys of one batch; the multipliers are odd, so that no row loses information."""
    digest = hashlib.blake2b(
        high.to_bytes(8, "big") + sequence.to_bytes(4, "big"), key=secret, digest_size=24, person=domain
    ).digest()
    words = [int.from_bytes(digest[at : at + 8], "big") for at in (0, 8, 16)]
    return words[0], words[1] | 1, words[2] | 1


def _check(keys: tuple[int, int, int], row: int) -> int:
    mixed = (row ^ keys[0]) * keys[1] & _WORD
    mixed ^= mixed >> 32
    mixed = mixed * keys[2] & _WORD
    return mixed >> (64 - _CHECK_BITS)


def encode_rows(secret: bytes, batch: BatchAddress, rows: Rows, domain: bytes = MESSAGE_DOMAIN) -> U8:
    """The ids of the given rows: (n, 16) uint8. secret: 16 to 64 bytes, the same in all workers."""
    high = _high(batch)
    keys = _row_keys(secret, domain, high, batch.sequence)
    row: U64 = rows.astype(np.uint64)
    mixed = (row ^ np.uint64(keys[0])) * np.uint64(keys[1])
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(keys[2])
    low = row << np.uint64(24)
    low |= mixed >> np.uint64(64 - _CHECK_BITS)
    low |= np.uint64(2 << 62 | batch.sequence << 40)
    out = np.empty((len(row), 2), ">u8")
    out[:, 0] = high
    out[:, 1] = low
    return out.view(np.uint8).reshape(len(row), 16)


class MessageIds:
    """The ids of a batch's rows, made when they are asked for: 16 bytes a row that need no memory.

    Indexed like the column (n, 16) uint8 that they stand for, by one row or an array of them.
    """

    __slots__ = ("_batch", "_rows", "_secret")
    #: It does not know how many there are.
    __iter__ = None

    def __init__(self, secret: bytes, batch: BatchAddress, rows: Rows | None = None) -> None:
        """rows: the row in the id for each row here; None: the same."""
        self._secret = secret
        self._batch = batch
        self._rows = rows

    def __getitem__(self, rows: Rows | int) -> U8:
        if isinstance(rows, np.ndarray):
            return self.take(rows)
        row = int(rows if self._rows is None else self._rows[rows])
        return np.frombuffer(encode(self._secret, RowAddress(self._batch, row)), np.uint8)

    def take(self, rows: Rows, axis: int = 0) -> U8:
        """(len(rows), 16). axis: 0, as of the column."""
        return encode_rows(self._secret, self._batch, rows if self._rows is None else self._rows.take(rows))


def text_parts(ids: U8) -> tuple[bytes, U8]:
    """(n, 16) ids of one batch -> what their canonical texts share, 26 characters, and the rest, (n, 10).

    A burst's rows have one batch, and their texts stand in every request: this is a sixth of `columns.uuid_text`.
    """
    shared = to_text(ids[0].tobytes())[:_BATCH_CHARACTERS].encode() if len(ids) else bytes(_BATCH_CHARACTERS)
    return shared, hex_lower(ids[:, _BATCH_BYTES:])


def encode(secret: bytes, address: RowAddress, domain: bytes = MESSAGE_DOMAIN) -> bytes:
    """One id: 16 bytes. The plain twin of `encode_rows`, and the maker of task ids."""
    if not 0 <= address.row < ROWS_MAX:
        raise ValueError(f"row is {address.row}, limit {ROWS_MAX - 1}")
    batch = address.batch
    high = _high(batch)
    check = _check(_row_keys(secret, domain, high, batch.sequence), address.row)
    low = 2 << 62 | batch.sequence << 40 | address.row << 24 | check
    return (high << 64 | low).to_bytes(16, "big")


def decode(secret: bytes, message_id: bytes, domain: bytes = MESSAGE_DOMAIN) -> RowAddress | None:
    """The address in an id, or None when it is not one of ours (form or check)."""
    if len(message_id) != 16:
        return None
    value = int.from_bytes(message_id, "big")
    high, low = value >> 64, value & _WORD
    if high >> 12 & 15 != 8 or low >> 62 != 2:
        return None
    batch = BatchAddress(high >> 16, high & 0xFFF, low >> 40 & (SEQUENCES_MAX - 1))
    row = low >> 24 & 0xFFFF
    if _check(_row_keys(secret, domain, high, batch.sequence), row) != low & _CHECK_MASK:
        return None
    return RowAddress(batch, row)


def batch_of(message_id: bytes) -> BatchAddress:
    """The batch that one of our own ids names; the check is not looked at."""
    value = int.from_bytes(message_id, "big")
    return BatchAddress(value >> 80, value >> 64 & 0xFFF, value >> 40 & (SEQUENCES_MAX - 1))


def to_text(message_id: bytes) -> str:
    """16 bytes -> canonical lower-case 8-4-4-4-12 text."""
    digits = message_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_TEXT = re.compile(r"([0-9A-Fa-f]{8})(-?)([0-9A-Fa-f]{4})\2([0-9A-Fa-f]{4})\2([0-9A-Fa-f]{4})\2([0-9A-Fa-f]{12})")


def from_text(text: str) -> bytes | None:
    """Canonical text or 32 hex digits, either case -> 16 bytes; None for anything else."""
    # Not `bytes.fromhex` alone: it passes over blanks.
    return bytes.fromhex(text.replace("-", "")) if _TEXT.fullmatch(text) else None
