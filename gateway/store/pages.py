"""Ledger pages as bytes and back: the batch as in its journal record, the state columns, the burst log; packed.

    page = header length (4 bytes) | header (MessagePack) | batch record | columns | columns of all bursts | log

The log is what the archive has beside the page: rows that changed after it was written (page_changes.py).

What stands in the archive of these bytes is `store/packing.py`'s.

What a row was sent to is not in its page (privacy: pages hold device ids and token hashes, never tokens or phone
numbers): of targets that are tokens there are the keyed hashes, and of variables, which may name the target of a
fallback, the values of rows that are still open, since a device that returns is shown their text. Rows of batches with
fallbacks and rows whose target is a token never wait in an inbox, so nobody needs their targets from here.

Message ids are left out: they follow from the batch's address and the gateway's secret. Stage times are milliseconds
after the batch's birth and stay so; what is on the monotonic clock (`Burst.issued`) is written as seconds after it.
"""

from __future__ import annotations

import struct

import msgspec
import numpy as np

from gateway.archived_copy import ArchivedCopy
from gateway.batch import Batch
from gateway.columns import U8, U32, Bool, TextColumn
from gateway.ledger import IS_FINAL, LedgerPage, Receipt, State
from gateway.page_history import PageHistory
from gateway.store.inbox_filing import device_hashes
from gateway.store.page_bursts import BURST_COLUMNS, StoredBurst, stored_burst
from gateway.store.page_changes import (
    PAST_COLUMNS,
    STATE_COLUMNS,
    apply_changes,
    read_bursts,
    read_column,
    restore_past,
)
from gateway.store.records import decode_batch, encode_batch

_LENGTH = struct.Struct("<I")


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    batch_bytes: int
    n: int
    bursts: list[StoredBurst]
    #: Of an earlier version: whether a column with the time of each row's highest receipt stands behind the others.
    has_receipt_ms: bool = False
    #: Entries of the history, whose columns stand behind the others.
    past: int = 0


_ENCODER = msgspec.msgpack.Encoder()
PAGE_DECODER = msgspec.msgpack.Decoder(_Header)


def page_parts(page: LedgerPage) -> list[bytes | memoryview]:
    """The page's bytes in parts, columns as views of their type. State columns are copied, since the page may change
    afterwards; the batch's do not change. Costs per column and burst. The batch has its `target_hashes` where it has
    tokens."""
    batch = page.batch
    record = encode_batch(without_targets(batch, ~IS_FINAL[page.state]))
    bursts = [stored_burst(burst, batch.born) for burst in page.bursts]
    past = page.history
    header = _ENCODER.encode(_Header(record.payload_bytes(), page.n, bursts, past=0 if past is None else past.n))
    columns = [np.array(getattr(page, name), dtype).data for name, dtype in STATE_COLUMNS.items()]
    if past is not None:
        columns += [np.array(getattr(past, name), dtype).data for name, dtype in PAST_COLUMNS.items()]
    if bursts:
        for name, dtype in BURST_COLUMNS.items():
            together = np.concatenate([getattr(burst, name) for burst in page.bursts])
            columns.append(together.astype(dtype, copy=False).data)
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


def page_of(data: bytes, *, now: float, now_unix_ms: int) -> LedgerPage:
    """The page, without message ids. now, now_unix_ms: one moment on both clocks. Raises ValueError."""
    try:
        (size,) = _LENGTH.unpack_from(data)
        at = _LENGTH.size + size
        header = PAGE_DECODER.decode(memoryview(data)[_LENGTH.size : at])
    except (struct.error, msgspec.DecodeError) as error:
        raise ValueError(f"page header: {error}") from error
    batch = decode_batch(data[at : at + header.batch_bytes], born=0.0)
    at += header.batch_bytes
    batch.born = now - (now_unix_ms - batch.born_unix_ms) / 1000
    page = LedgerPage(batch)
    for name, dtype in STATE_COLUMNS.items():
        column, at = read_column(data, dtype, page.n, at)
        getattr(page, name)[:] = column
    if header.has_receipt_ms:
        receipt_ms, at = read_column(data, "<u4", page.n, at)
        rows = np.flatnonzero((receipt_ms != 0) & (page.receipt != Receipt.NONE))
        page.history = PageHistory(page.n)
        page.history.restore(rows, page.receipt[rows] - np.uint8(1), page.channel[rows], receipt_ms[rows])
    if header.past:
        at = restore_past(page, data, header.past, at)
    page.bursts, at = read_bursts(page, header.bursts, data, at)
    if at > len(data) or header.n != page.n:
        raise ValueError(f"page is {len(data)} bytes, its columns end at {at}")
    page.archived = archived_copy(page, has_texts=bool(batch.variables))
    apply_changes(page, memoryview(data)[at:])
    page.archived.is_durable = True
    page.counts[:] = np.bincount(page.state, minlength=len(State))
    page.n_routed = page.n
    return page


def archived_copy(page: LedgerPage, *, has_texts: bool) -> ArchivedCopy:
    """What the archive has of the page, which is to be written as it is now."""
    past = 0 if page.history is None else page.history.n
    return ArchivedCopy(page.n, past, len(page.bursts), has_texts=has_texts)


def short_hashes(device_ids: U8) -> U32:
    """(n,) uint32, sorted: the column beside each page. Rows whose target is a token have an id of zeros."""
    return np.sort((device_hashes(device_ids) & 0xFFFFFFFF).astype(np.uint32))
