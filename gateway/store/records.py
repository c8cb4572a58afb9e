"""Journal records: a batch as buffers and back. Columns go in as they are in memory, so encoding costs per column.

    record = header length (4 bytes, little-endian) | header (MessagePack map) | columns one after another

The header names the columns in their order with their byte lengths. All arrays are little-endian and C-contiguous.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np

from gateway.batch import Batch, TaskSegment
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.message_id import BatchAddress
from gateway.store.ports import JournalRecord

#: JournalRecord.kind of a batch.
BATCH_RECORD = 1
_LENGTH = struct.Struct("<I")


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    address: tuple[int, int, int]
    app: int
    n: int
    variants: list[Variant]
    segments: list[tuple[bytes, int, int]]
    columns: list[tuple[str, int]]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Header)


def _view(array: np.ndarray[Any, Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def encode_batch(batch: Batch) -> JournalRecord:
    """The record of a batch; the buffers are views of the batch's columns, so the batch must not change afterwards."""
    columns: list[tuple[str, bytes | memoryview]] = [("device_ids", _view(batch.device_ids))]
    if batch.channels is not None:
        columns.append(("channels", _view(batch.channels)))
    if batch.variant_index is not None:
        columns.append(("variant_index", _view(batch.variant_index)))
    if batch.duplicates is not None:
        columns.append(("duplicates", _view(batch.duplicates)))
    if batch.source_rows is not None:
        columns.append(("source_rows", _view(batch.source_rows)))
    texts = dict(batch.variables)
    if batch.tokens is not None:
        columns += [("tokens.offsets", _view(batch.tokens.offsets)), ("tokens.blob", batch.tokens.blob)]
    for name, column in texts.items():
        columns += [(f"var.offsets:{name}", _view(column.offsets)), (f"var.blob:{name}", column.blob)]
    header = _ENCODER.encode(
        _Header(
            address=(batch.address.unix_ms, batch.address.journal, batch.address.sequence),
            app=batch.app,
            n=batch.n,
            variants=list(batch.variants),
            segments=[(segment.task_id, segment.first, segment.n) for segment in batch.segments],
            columns=[(name, len(buffer)) for name, buffer in columns],
        )
    )
    return JournalRecord(BATCH_RECORD, (_LENGTH.pack(len(header)), header, *(buffer for _, buffer in columns)))


def decode_batch(payload: bytes, *, born: float) -> Batch:
    """The batch of a record's payload, without message ids (the router makes them from the address).

    born: what the batch's birth is on this process's monotonic clock. Raises ValueError or msgspec.DecodeError for a
    payload that `encode_batch` did not make.
    """
    (size,) = _LENGTH.unpack_from(payload)
    header = _DECODER.decode(payload[4 : 4 + size])
    found: dict[str, bytes] = {}
    at = 4 + size
    for name, length in header.columns:
        found[name] = payload[at : at + length]
        at += length
    if at != len(payload):
        raise ValueError(f"record of {len(payload)} bytes, its columns end at {at}")

    def text(prefix: str, suffix: str) -> TextColumn:
        return TextColumn(found[f"{prefix}.blob{suffix}"], np.frombuffer(found[f"{prefix}.offsets{suffix}"], "<u4"))

    names = [name.partition(":")[2] for name in found if name.startswith("var.blob:")]
    index = found.get("variant_index")
    channels = found.get("channels")
    duplicates = found.get("duplicates")
    source_rows = found.get("source_rows")
    return Batch(
        BatchAddress(*header.address),
        header.app,
        born,
        header.n,
        device_ids=np.frombuffer(found["device_ids"], np.uint8).reshape(header.n, 16),
        message_ids=np.zeros((header.n, 16), np.uint8),
        variants=header.variants,
        variant_index=None if index is None else np.frombuffer(index, "<u2"),
        channels=None if channels is None else np.frombuffer(channels, np.uint8),
        tokens=text("tokens", "") if "tokens.blob" in found else None,
        duplicates=None if duplicates is None else np.frombuffer(duplicates, np.bool_),
        source_rows=None if source_rows is None else np.frombuffer(source_rows, "<u4"),
        variables={name: text("var", f":{name}") for name in names},
        segments=[TaskSegment(*segment) for segment in header.segments],
    )
