"""Journal records of receipts: entries that histories of pages have grown by (`page_history.RowNotes`).

    receipts record = header length (4 bytes, little-endian) | header (MessagePack) | at_ms | rows | kinds | channels

As in records of marks, each column holds the entries of all pages one after another: uint32 and uint16 little-endian,
then two of uint8. unix_ms and sequences name the batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from gateway.page_history import RowNotes
from gateway.store.headed import headed_record, read_header
from gateway.store.ports import RECEIPTS_RECORD, JournalRecord

_BYTES_PER_ENTRY = 8


class _Header(msgspec.Struct, array_like=True):
    unix_ms: list[int]
    sequences: list[int]
    counts: list[Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]]


_ENCODER = msgspec.msgpack.Encoder()
_HEADERS = msgspec.msgpack.Decoder(_Header)


def encode_receipts(notes: Sequence[RowNotes]) -> JournalRecord:
    """One record of all these notes, in their order. Copies the columns."""
    header = _ENCODER.encode(
        _Header([one.unix_ms for one in notes], [one.sequence for one in notes], [len(one.rows) for one in notes])
    )
    columns = (
        np.concatenate([one.at_ms for one in notes]).astype("<u4", copy=False),
        np.concatenate([one.rows for one in notes]).astype("<u2", copy=False),
        np.concatenate([one.kinds for one in notes]),
        np.concatenate([one.channels for one in notes]),
    )
    return headed_record(RECEIPTS_RECORD, header, *(column.view(np.uint8).data for column in columns))


def decode_receipts(payload: bytes | memoryview) -> list[RowNotes]:
    """The notes of a record's payload. Raises ValueError for a payload that `encode_receipts` did not make."""
    view, header, at = read_header(payload, _HEADERS, "receipts record")
    n = sum(header.counts)
    lengths = {len(header.unix_ms), len(header.sequences), len(header.counts)}
    if len(lengths) != 1 or len(view) != at + _BYTES_PER_ENTRY * n:
        raise ValueError(f"receipts record is {len(view)} bytes, expected {at + _BYTES_PER_ENTRY * n} for {n} entries")
    at_ms = np.frombuffer(view, "<u4", n, at)
    rows = np.frombuffer(view, "<u2", n, at + 4 * n)
    kinds, channels = np.frombuffer(view, np.uint8, 2 * n, at + 6 * n).reshape(2, n)
    found: list[RowNotes] = []
    first = 0
    for unix_ms, sequence, count in zip(header.unix_ms, header.sequences, header.counts, strict=True):
        part = slice(first, first + count)
        found.append(RowNotes(unix_ms, sequence, rows[part], kinds[part], channels[part], at_ms[part]))
        first += count
    return found
