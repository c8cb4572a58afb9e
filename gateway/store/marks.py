"""Journal records beside batches: marks of rows, and how far a journal has counted.

    marks record = header length (4 bytes, little-endian) | header (MessagePack)
                   | rows | states | reasons | channels | flags

Each column holds all rows of the record one after another: uint16 little-endian, then four of uint8. So a record of
many batches is five arrays, and encoding costs nothing per row. unix_ms: when the record was made; the newest one in a
journal is how late it was at least when the process ended, whatever the wall clock says afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from gateway.ledger import State
from gateway.marks import RowMarks
from gateway.store.headed import headed_record, read_header
from gateway.store.ports import COUNT_RECORD, MARKS_RECORD, MOVED_RECORD, JournalRecord


class _Header(msgspec.Struct, array_like=True):
    unix_ms: int
    sequences: list[int]
    counts: list[Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]]


class Count(msgspec.Struct, array_like=True, frozen=True):
    """unix_ms: newest label given to a batch. sequence: the next one to give. incarnation: starts of this journal."""

    incarnation: int
    unix_ms: int
    sequence: int


class Moved(msgspec.Struct, array_like=True, frozen=True):
    """What the journal of that worker held up to this position, and belongs here, is here."""

    source: int
    position: int


class Marks(NamedTuple):
    unix_ms: int
    marks: list[RowMarks]


_ENCODER = msgspec.msgpack.Encoder()
_HEADERS = msgspec.msgpack.Decoder(_Header)
_COUNTS = msgspec.msgpack.Decoder(Count)
_MOVED = msgspec.msgpack.Decoder(Moved)


def encode_marks(unix_ms: int, marks: Sequence[RowMarks]) -> JournalRecord:
    """One record of all these marks, in their order. Copies the columns."""
    header = _ENCODER.encode(_Header(unix_ms, [mark.sequence for mark in marks], [len(mark.rows) for mark in marks]))
    columns = [np.concatenate([mark[which] for mark in marks]) for which in range(1, 6)]
    columns[0] = columns[0].astype("<u2", copy=False)
    return headed_record(MARKS_RECORD, header, *(column.view(np.uint8).data for column in columns))


def decode_marks(payload: bytes | memoryview) -> Marks:
    """The marks of a record's payload. Raises ValueError for a payload that `encode_marks` did not make."""
    view, header, at = read_header(payload, _HEADERS, "marks record")
    n = sum(header.counts)
    if len(header.sequences) != len(header.counts) or len(view) != at + 6 * n:
        raise ValueError(f"marks record is {len(view)} bytes, expected {at + 6 * n} for {n} rows")
    rows = np.frombuffer(view, "<u2", n, at)
    states, reasons, channels, flags = np.frombuffer(view, np.uint8, 4 * n, at + 2 * n).reshape(4, n)
    if n and int(states.max()) >= len(State):
        raise ValueError(f"marks record has state {int(states.max())}, expected less than {len(State)}")
    found: list[RowMarks] = []
    first = 0
    for sequence, count in zip(header.sequences, header.counts, strict=True):
        part = slice(first, first + count)
        found.append(RowMarks(sequence, rows[part], states[part], reasons[part], channels[part], flags[part]))
        first += count
    return Marks(header.unix_ms, found)


def encode_count(count: Count) -> JournalRecord:
    return JournalRecord(COUNT_RECORD, (_ENCODER.encode(count),))


def decode_count(payload: bytes | memoryview) -> Count:
    """Raises ValueError for a payload that `encode_count` did not make."""
    try:
        return _COUNTS.decode(payload)
    except msgspec.DecodeError as error:
        raise ValueError(f"count record: {error}") from error


def encode_moved(moved: Moved) -> JournalRecord:
    return JournalRecord(MOVED_RECORD, (_ENCODER.encode(moved),))


def decode_moved(payload: bytes | memoryview) -> Moved:
    """Raises ValueError for a payload that `encode_moved` did not make."""
    try:
        return _MOVED.decode(payload)
    except msgspec.DecodeError as error:
        raise ValueError(f"moved record: {error}") from error
