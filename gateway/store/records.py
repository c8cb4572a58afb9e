"""Journal records: a batch as buffers and back. Columns go in as they are in memory, so encoding costs per column.

    record = header length (4 bytes, little-endian) | header (MessagePack map) | columns one after another

The header names the columns in their order with their byte lengths. All arrays are little-endian and C-contiguous.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from gateway.batch import Batch, RequestMark, TaskSegment
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.message_id import ROWS_MAX, BatchAddress
from gateway.store.ports import BATCH_RECORD, JournalRecord

_LENGTH = struct.Struct("<I")


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    address: tuple[int, int, int]
    app: int
    n: Annotated[int, msgspec.Meta(ge=1, le=ROWS_MAX)]
    #: Without their `raw`, which is JSON and would not fit into MessagePack as it is.
    variants: list[Variant]
    #: Position of a variant -> vendor -> its raw JSON.
    raws: dict[int, dict[str, bytes]]
    segments: list[tuple[bytes, int, int]]
    columns: list[tuple[str, Annotated[int, msgspec.Meta(ge=0)]]]
    #: The app's key: its index is another one when the configuration has changed.
    app_key: str = ""
    requests: list[tuple[int, int, int]] = []
    #: Position of a segment -> its group, where it has one; and the segments of tasks that began in other batches.
    groups: dict[int, str] = {}
    continued: list[int] = []


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Header)


def _view(array: np.ndarray[Any, Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def encode_batch(batch: Batch, app_key: str = "") -> JournalRecord:
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
    if batch.target_hashes is not None:
        columns.append(("target_hashes", _view(batch.target_hashes)))
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
            variants=[variant if variant.raw is None else replace(variant, raw=None) for variant in batch.variants],
            raws={
                position: {vendor: bytes(raw) for vendor, raw in variant.raw.items()}
                for position, variant in enumerate(batch.variants)
                if variant.raw is not None
            },
            segments=[(segment.task_id, segment.first, segment.n) for segment in batch.segments],
            columns=[(name, len(buffer)) for name, buffer in columns],
            app_key=app_key,
            requests=[(request.row, request.key, request.digest) for request in batch.requests],
            groups={position: segment.group for position, segment in enumerate(batch.segments) if segment.group},
            continued=[position for position, segment in enumerate(batch.segments) if segment.is_continued],
        )
    )
    return JournalRecord(BATCH_RECORD, (_LENGTH.pack(len(header)), header, *(buffer for _, buffer in columns)))


class UnknownApp(ValueError):
    """The record is of an app that is not there any more. sequence: of the batch."""

    def __init__(self, app_key: str, sequence: int) -> None:
        self.sequence = sequence
        super().__init__(f"batch of app {app_key!r}, which is not configured")


def decode_batch(
    payload: bytes | memoryview, *, born: Callable[[int], float] | float, apps: Mapping[str, int] | None = None
) -> Batch:
    """The batch of a record's payload, without message ids (the router makes them from the address).

    born: what the batch's birth is on this process's monotonic clock, or how it follows from its Unix ms. apps: index
    of each app by its key; without it the index of the record holds.

    Raises UnknownApp for one that is not in `apps`, and ValueError for a payload that `encode_batch` did not make.
    """
    if len(payload) < _LENGTH.size:
        raise ValueError(f"record is {len(payload)} bytes, expected a header length")
    (size,) = _LENGTH.unpack_from(payload)
    at = _LENGTH.size + size
    header = _decode_header(payload[_LENGTH.size : at])
    app = header.app
    if apps is not None:
        if header.app_key not in apps:
            raise UnknownApp(header.app_key, header.address[2])
        app = apps[header.app_key]
    columns = _Columns(header.n)
    for name, length in header.columns:
        columns.found[name] = payload[at : at + length]
        at += length
    if at != len(payload):
        raise ValueError(f"record is {len(payload)} bytes, its columns end at {at}")
    names = [name.partition(":")[2] for name in columns.found if name.startswith("var.blob:")]
    device_ids = columns.array("device_ids", "u1", 16)
    if device_ids is None:
        raise ValueError("record has no column device_ids")
    return Batch(
        BatchAddress(*header.address),
        app,
        born if isinstance(born, float) else born(header.address[0]),
        header.n,
        device_ids=device_ids.reshape(header.n, 16),
        variants=header.variants,
        variant_index=columns.array("variant_index", "<u2"),
        channels=columns.array("channels", "u1"),
        tokens=columns.text("tokens", "") if "tokens.blob" in columns.found else None,
        duplicates=columns.array("duplicates", "?"),
        source_rows=columns.array("source_rows", "<u4"),
        variables={name: columns.text("var", f":{name}") for name in names},
        segments=_segments(header),
        requests=[RequestMark(*request) for request in header.requests],
        target_hashes=columns.array("target_hashes", "<u4"),
    )


def read_heading(payload: bytes | memoryview) -> tuple[BatchAddress, list[RequestMark]]:
    """Address and request ids of a record's batch. Raises ValueError for a payload that `encode_batch` did not make."""
    try:
        (size,) = _LENGTH.unpack_from(payload)
        header = _DECODER.decode(payload[_LENGTH.size : _LENGTH.size + size])
    except (struct.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"record header: {error}") from error
    return BatchAddress(*header.address), [RequestMark(*request) for request in header.requests]


def _decode_header(data: bytes | memoryview) -> _Header:
    """With its variants' `raw`. Raises ValueError."""
    try:
        header = _DECODER.decode(data)
        for position, raw in header.raws.items():
            with_raw = {vendor: msgspec.Raw(text) for vendor, text in raw.items()}
            header.variants[position] = replace(header.variants[position], raw=with_raw)
    except (msgspec.DecodeError, UnicodeDecodeError, IndexError) as error:
        raise ValueError(f"record header: {error}") from error
    return header


def _segments(header: _Header) -> list[TaskSegment]:
    continued = frozenset(header.continued)
    return [
        TaskSegment(*segment, header.groups.get(position, ""), position in continued)
        for position, segment in enumerate(header.segments)
    ]


class BatchHead(NamedTuple):
    """What a record says of all rows of its batch. columns: the buffers behind it, in their order, and their bytes."""

    address: BatchAddress
    app: int
    n: int
    variants: list[Variant]
    segments: list[TaskSegment]
    columns: list[tuple[str, int]]


def decode_head(data: bytes | memoryview) -> BatchHead:
    """data: the second of the buffers that `encode_batch` made. Raises ValueError for others."""
    header = _decode_header(data)
    return BatchHead(
        BatchAddress(*header.address),
        header.app,
        header.n,
        header.variants,
        _segments(header),
        header.columns,
    )


class _Columns:
    """The columns of a record by name; n rows."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.found: dict[str, bytes | memoryview] = {}

    def array(self, name: str, dtype: str, per_row: int = 1) -> np.ndarray[Any, Any] | None:
        """(n * per_row,), or None where the record has no such column."""
        data = self.found.get(name)
        return None if data is None else _array(name, data, dtype, self.n * per_row)

    def text(self, prefix: str, suffix: str) -> TextColumn:
        blob, name = self.found[f"{prefix}.blob{suffix}"], f"{prefix}.offsets{suffix}"
        offsets = _array(name, self.found.get(name, b""), "<u4", self.n + 1)
        if offsets[0] != 0 or offsets[-1] != len(blob) or bool(np.any(offsets[1:] < offsets[:-1])):
            raise ValueError(f"record column {name} does not fit its blob of {len(blob)} bytes")
        return TextColumn(bytes(blob), offsets)


def _array(name: str, data: bytes | memoryview, dtype: str, length: int) -> np.ndarray[Any, Any]:
    if len(data) != length * np.dtype(dtype).itemsize:
        raise ValueError(f"record column {name} is {len(data)} bytes, expected {length} of {dtype}")
    return np.frombuffer(data, dtype)
