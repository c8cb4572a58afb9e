"""Ledger pages as bytes and back: the batch as in its journal record, the state columns, the burst log; compressed.

    page = version (1 byte) | zlib of: header length (4 bytes) | header (MessagePack) | batch record | columns | bursts

What a row was sent to is not in its page (privacy: pages hold device ids and token hashes, never tokens or phone
numbers): of targets that are tokens there are the keyed hashes, and of variables, which may name the target of a
fallback, the values of rows that are still open, since a device that returns is shown their text. Rows of batches with
fallbacks and rows whose target is a token never wait in an inbox, so nobody needs their targets from here.

Message ids are left out: they follow from the batch's address and the gateway's secret. Stage times are milliseconds
after the batch's birth and stay so; what is on the monotonic clock (`Burst.issued`) is written as seconds after it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from gateway.batch import Batch
from gateway.columns import U8, U32, Bool, TextColumn
from gateway.ledger import IS_FINAL, Burst, Channel, LedgerPage, Receipt, State
from gateway.page_history import PageHistory
from gateway.store.inbox_filing import device_hashes
from gateway.store.records import decode_batch, encode_batch

_VERSION = b"\x01"
_LENGTH = struct.Struct("<I")
#: Level 1: state columns are runs and shrink to nothing, device ids are random and do not shrink at any level.
_LEVEL = 1
_COLUMNS = {
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
#: Of the history, in this order: the widest first, so that views stay aligned.
_PAST_COLUMNS = {"at_ms": "<u4", "rows": "<u2", "kinds": "u1", "channels": "u1"}


class _Burst(msgspec.Struct, array_like=True):
    """issued_s: after the birth of the batch. rows, answered, verdicts: bytes of the columns."""

    number: int
    attempt: int
    channel: int
    connection: int
    issued_s: float
    rows: bytes
    answered: bytes
    verdicts: bytes
    names: dict[int, str]
    first_request: int = -1
    request_ids: dict[int, str] = msgspec.field(default_factory=dict)


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    batch_bytes: int
    n: int
    bursts: list[_Burst]
    #: Of an earlier version: whether a column with the time of each row's highest receipt stands behind the others.
    has_receipt_ms: bool = False
    #: Entries of the history, whose columns stand behind the others.
    past: int = 0


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Header)


def page_parts(page: LedgerPage) -> list[bytes | memoryview]:
    """What `pack_page` takes. State columns are copied, since the page may change afterwards; the batch's do not change
    and are views. Costs per column and burst. The batch has its `target_hashes` where it has tokens."""
    batch = page.batch
    record = encode_batch(without_targets(batch, ~IS_FINAL[page.state]))
    bursts = [
        _Burst(
            burst.number,
            burst.attempt,
            int(burst.channel),
            burst.connection,
            burst.issued - batch.born,
            burst.rows.tobytes(),
            burst.answered.tobytes(),
            burst.verdicts.tobytes(),
            dict(burst.names),
            burst.first_request,
            dict(burst.request_ids or {}),
        )
        for burst in page.bursts
    ]
    past = page.history
    header = _ENCODER.encode(_Header(record.payload_bytes(), page.n, bursts, past=0 if past is None else past.n))
    columns = [np.ascontiguousarray(getattr(page, name), dtype).tobytes() for name, dtype in _COLUMNS.items()]
    if past is not None:
        columns += [getattr(past, name).astype(dtype).tobytes() for name, dtype in _PAST_COLUMNS.items()]
    return [_LENGTH.pack(len(header)), header, *record.buffers, *columns]


def without_targets(batch: Batch, is_open: Bool) -> Batch:
    """The batch as its page has it: no tokens, and of variables the values of open rows alone. is_open: (n,)."""
    variables = batch.variables
    if batch.tokens is None and (not variables or bool(is_open.all())):
        return batch
    if not is_open.any():
        variables = {}
    elif not is_open.all():
        variables = {name: _only(column, is_open) for name, column in variables.items()}
    return Batch(
        batch.address,
        batch.app,
        batch.born,
        batch.n,
        device_ids=batch.device_ids,
        message_ids=batch.message_ids,
        variants=batch.variants,
        variant_index=batch.variant_index,
        channels=batch.channels,
        duplicates=batch.duplicates,
        source_rows=batch.source_rows,
        variables=variables,
        segments=batch.segments,
        requests=batch.requests,
        target_hashes=batch.target_hashes,
    )


def _only(column: TextColumn, chosen: Bool) -> TextColumn:
    """The column with the texts of the chosen rows; the others are empty."""
    lengths = column.lengths()
    kept = np.frombuffer(column.blob, np.uint8)[np.repeat(chosen, lengths)]
    offsets = np.zeros(len(column) + 1, np.uint32)
    np.cumsum(np.where(chosen, lengths, 0), out=offsets[1:])
    return TextColumn(kept.tobytes(), offsets)


def pack_page(parts: Sequence[bytes | memoryview]) -> bytes:
    """The page's bytes. Lets other threads run while it compresses."""
    return _VERSION + zlib.compress(b"".join(parts), _LEVEL)


def unpack_page(data: bytes) -> bytes:
    """What `page_of` takes. Lets other threads run. Raises ValueError for damaged bytes."""
    if data[:1] != _VERSION:
        raise ValueError(f"page has version {data[:1].hex()}, expected {_VERSION.hex()}")
    try:
        return zlib.decompress(memoryview(data)[1:])
    except zlib.error as error:
        raise ValueError(f"page: {error}") from error


def page_of(data: bytes, *, now: float, now_unix_ms: int) -> LedgerPage:
    """The page, without message ids. now, now_unix_ms: one moment on both clocks. Raises ValueError."""
    try:
        (size,) = _LENGTH.unpack_from(data)
        at = _LENGTH.size + size
        header = _DECODER.decode(memoryview(data)[_LENGTH.size : at])
    except (struct.error, msgspec.DecodeError) as error:
        raise ValueError(f"page header: {error}") from error
    batch = decode_batch(data[at : at + header.batch_bytes], born=0.0)
    at += header.batch_bytes
    batch.born = now - (now_unix_ms - batch.born_unix_ms) / 1000
    page = LedgerPage(batch)
    for name, dtype in _COLUMNS.items():
        column: np.ndarray[Any, Any] = np.frombuffer(data, dtype, page.n, at)
        getattr(page, name)[:] = column
        at += column.nbytes
    if header.has_receipt_ms:
        receipt_ms = np.frombuffer(data, "<u4", page.n, at)
        at += receipt_ms.nbytes
        rows = np.flatnonzero((receipt_ms != 0) & (page.receipt != Receipt.NONE))
        page.history = PageHistory(page.n)
        page.history.restore(rows, page.receipt[rows] - np.uint8(1), page.channel[rows], receipt_ms[rows])
    if header.past:
        past: dict[str, Any] = {}
        for name, dtype in _PAST_COLUMNS.items():
            past[name] = np.frombuffer(data, dtype, header.past, at)
            at += past[name].nbytes
        if int(past["rows"].max()) >= page.n:
            raise ValueError(f"page has {page.n} rows, its history names {int(past['rows'].max())}")
        page.history = PageHistory(page.n)
        page.history.restore(past["rows"].astype(np.intp), past["kinds"], past["channels"], past["at_ms"])
    if at != len(data) or header.n != page.n:
        raise ValueError(f"page is {len(data)} bytes, its columns end at {at}")
    page.counts[:] = np.bincount(page.state, minlength=len(State))
    page.n_routed = page.n
    page.bursts = [_burst(burst, batch) for burst in header.bursts]
    return page


def _burst(stored: _Burst, batch: Batch) -> Burst:
    return Burst(
        number=stored.number,
        attempt=stored.attempt,
        channel=Channel(stored.channel),
        connection=stored.connection,
        rows=np.frombuffer(stored.rows, np.uint16),
        issued=stored.issued_s + batch.born,
        answered=np.frombuffer(stored.answered, np.uint32),
        verdicts=np.frombuffer(stored.verdicts, np.uint8),
        names=stored.names,
        first_request=stored.first_request,
        request_ids=stored.request_ids,
    )


def short_hashes(device_ids: U8) -> U32:
    """(n,) uint32, sorted: the column beside each page. Rows whose target is a token have an id of zeros."""
    return np.sort((device_hashes(device_ids) & 0xFFFFFFFF).astype(np.uint32))
