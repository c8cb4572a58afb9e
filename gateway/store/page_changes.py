"""Records beside an archived page: rows that changed after it was written, as they are now.

    log     = record, record, ...                       in the order in which they were made
    record  = length of the rest (4 bytes) | CRC-32 of what follows | form (1 byte) | body
    body    = header length (4 bytes) | header (MessagePack) | rows | state columns of these rows
              | columns of new entries of the history | columns of new bursts

A page of 65,536 rows is 1.3 MB and takes 5 ms to write; a changed row is some 50 bytes here. A record says what rows
are, not what happened to them: to apply one twice changes nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from gateway.archived_copy import LOGGED
from gateway.columns import Bool, Rows
from gateway.ledger import Burst, LedgerPage
from gateway.page_history import PageHistory
from gateway.store.page_bursts import BURST_COLUMNS, StoredBurst, burst_of, stored_burst

_HEAD = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_PLAIN, _PACKED = b"\x00", b"\x01"
#: Shorter ones gain less than zlib costs.
_PACKED_BYTES_MIN = 512
_LEVEL = 1

#: Of each row, in this order.
STATE_COLUMNS = {
    "state": "u1",
    "receipt": "u1",
    "flags": "u1",
    "reason": "u1",
    "channel": "u1",
    "attempts": "u1",
    "routed_ms": "<u4",
    "issued_ms": "<u4",
    "final_ms": "<u4",
    "token_hashes": "<u4",
}
#: Of each entry of the history, in this order: the widest first, so that views stay aligned.
PAST_COLUMNS = {"at_ms": "<u4", "rows": "<u2", "kinds": "u1", "channels": "u1"}
PastColumns: TypeAlias = dict[str, np.ndarray[Any, Any]]
#: What one row and one entry of the history take in a record.
ROW_BYTES = 2 + sum(np.dtype(dtype).itemsize for dtype in STATE_COLUMNS.values())
PAST_BYTES = sum(np.dtype(dtype).itemsize for dtype in PAST_COLUMNS.values())


class _Header(msgspec.Struct, array_like=True):
    """n: rows. past: entries of the history."""

    n: int
    past: int
    bursts: list[StoredBurst]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Header)


def encode_changes(page: LedgerPage, rows: Rows, first_past: int, first_burst: int) -> bytes:
    """What the rows (rising) are now, entries of the history from the first one on, and bursts."""
    past, bursts = page.history, page.bursts[first_burst:]
    n_past = 0 if past is None else past.n - first_past
    header = _ENCODER.encode(_Header(len(rows), n_past, [stored_burst(burst, page.batch.born) for burst in bursts]))
    parts = [_LENGTH.pack(len(header)), header, rows.astype("<u2").tobytes()]
    parts += [getattr(page, name)[rows].astype(dtype).tobytes() for name, dtype in STATE_COLUMNS.items()]
    if past is not None and n_past:
        parts += [getattr(past, name)[first_past:].astype(dtype).tobytes() for name, dtype in PAST_COLUMNS.items()]
    for name, dtype in BURST_COLUMNS.items() if bursts else ():
        parts += [getattr(burst, name).astype(dtype).tobytes() for burst in bursts]
    body = b"".join(parts)
    form = _PLAIN
    if len(body) >= _PACKED_BYTES_MIN:
        form, body = _PACKED, zlib.compress(body, _LEVEL)
    return _HEAD.pack(4 + 1 + len(body), zlib.crc32(form + body)) + form + body


def apply_changes(page: LedgerPage, log: memoryview) -> None:
    """The page, as its own bytes say, is as its log says; but for the counts of its states. Raises ValueError."""
    assert page.archived is not None
    for header, body, at in _records(log):
        _apply(page, header, body, at)
        page.archived.records += 1
    page.archived.log_bytes = len(log)


def _records(log: memoryview) -> Iterator[tuple[_Header, bytes, int]]:
    """Header and body of each record, and where in the body its columns begin. Raises ValueError."""
    at = 0
    while at < len(log):
        try:
            size, checksum = _HEAD.unpack_from(log, at)
            rest = log[at + _HEAD.size : at + 4 + size]
            if len(rest) != size - 4 or checksum != zlib.crc32(rest):
                raise ValueError(f"record at byte {at} of the log does not agree with its checksum")
            body = zlib.decompress(rest[1:]) if rest[:1] == _PACKED else bytes(rest[1:])
            (length,) = _LENGTH.unpack_from(body)
            header = _DECODER.decode(body[_LENGTH.size : _LENGTH.size + length])
        except (struct.error, msgspec.DecodeError, zlib.error) as error:
            raise ValueError(f"record at byte {at} of the log: {error}") from error
        yield header, body, _LENGTH.size + length
        at += 4 + size


class LoggedRows(NamedTuple):
    """What a log says of some of a page's rows. past: columns of their entries, as in PAST_COLUMNS. bursts: how many it
    has of all rows."""

    is_logged: Bool
    past: list[PastColumns]
    bursts: int
    records: int


def logged_rows(log: memoryview, rows: Rows, states: dict[str, np.ndarray[Any, Any]]) -> LoggedRows:
    """Puts what the log says of the rows (rising) into the state columns of them. Raises ValueError."""
    is_logged = np.zeros(len(rows), np.bool_)
    past: list[PastColumns] = []
    bursts = records = 0
    for header, body, first in _records(log):
        logged, at = read_column(body, "<u2", header.n, first)
        places = np.minimum(logged.searchsorted(rows), max(header.n - 1, 0))
        found = np.flatnonzero(logged[places] == rows) if header.n else places[:0]
        for name, dtype in STATE_COLUMNS.items():
            column, at = read_column(body, dtype, header.n, at)
            if len(found):
                states[name][found] = column[places[found]]
        is_logged[found] = True
        if header.past:
            entries, at = read_past(body, header.past, at)
            past.append(past_of(entries, rows))
        bursts += len(header.bursts)
        records += 1
    return LoggedRows(is_logged, past, bursts, records)


def _apply(page: LedgerPage, header: _Header, body: bytes, at: int) -> None:
    rows_column, at = read_column(body, "<u2", header.n, at)
    rows: Rows = rows_column.astype(np.intp)
    if header.n and int(rows.max()) >= page.n:
        raise ValueError(f"page has {page.n} rows, its log names {int(rows.max())}")
    for name, dtype in STATE_COLUMNS.items():
        column, at = read_column(body, dtype, header.n, at)
        getattr(page, name)[rows] = column
    if header.past:
        at = restore_past(page, body, header.past, at)
    bursts, at = read_bursts(page, header.bursts, body, at)
    page.bursts.extend(bursts)
    if at != len(body):
        raise ValueError(f"record is {len(body)} bytes, its columns end at {at}")
    assert page.archived is not None
    past = 0 if page.history is None else page.history.n
    page.archived.marks[rows] = LOGGED
    page.archived.past_logged, page.archived.bursts_logged = past, len(page.bursts)


# -- columns, here and in the page's own bytes


def read_column(data: bytes, dtype: str, n: int, at: int) -> tuple[np.ndarray[Any, Any], int]:
    """(n,) a view, and where what follows begins."""
    column: np.ndarray[Any, Any] = np.frombuffer(data, dtype, n, at)
    return column, at + column.nbytes


def read_past(data: bytes, n: int, at: int) -> tuple[PastColumns, int]:
    """Columns of n entries of a history, and where what follows begins."""
    past: PastColumns = {}
    for name, dtype in PAST_COLUMNS.items():
        past[name], at = read_column(data, dtype, n, at)
    return past, at


def past_of(past: PastColumns, rows: Rows) -> PastColumns:
    """The entries about these rows."""
    chosen = np.isin(past["rows"], rows)
    return {name: column[chosen] for name, column in past.items()}


def restore_past(page: LedgerPage, data: bytes, n: int, at: int) -> int:
    """The page's history goes on with these entries; returns where what follows begins. Raises ValueError."""
    past, at = read_past(data, n, at)
    if int(past["rows"].max()) >= page.n:
        raise ValueError(f"page has {page.n} rows, its history names {int(past['rows'].max())}")
    if page.history is None:
        page.history = PageHistory(page.n)
    page.history.restore(past["rows"].astype(np.intp), past["kinds"], past["channels"], past["at_ms"])
    return at


def read_bursts(page: LedgerPage, stored: Sequence[StoredBurst], data: bytes, at: int) -> tuple[list[Burst], int]:
    """The bursts, whose columns stand there one burst behind the other; and where what follows begins."""
    sizes = [burst.n for burst in stored]
    columns: list[np.ndarray[Any, Any]] = []
    for dtype in BURST_COLUMNS.values():
        column, at = read_column(data, dtype, sum(sizes), at)
        columns.append(column)
    ends = np.cumsum(sizes).tolist()
    return [
        burst_of(burst, page.batch, [column[end - burst.n : end] for column in columns])
        for burst, end in zip(stored, ends, strict=True)
    ], at
