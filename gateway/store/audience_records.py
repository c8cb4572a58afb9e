"""Journal records of audiences: who is to get a content, and how far that has come.

    audience record = header length (4 bytes, little-endian) | header (MessagePack) | ids, 16 bytes each
    reached record  = MessagePack

An audience is as many records as its ids need, `IDS_MAX` in each; they stand in one append with its first batch, and
each later batch with the record of how far it reaches. So a device is either in a batch that is durable or among those
to come, and in no moment both or neither.
"""

from __future__ import annotations

import struct
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from gateway.columns import U8
from gateway.content import Variant
from gateway.store.ports import AUDIENCE_RECORD, REACHED_RECORD, JournalRecord

#: Ids of one record: a megabyte.
IDS_MAX = 65_536
_LENGTH = struct.Struct("<I")
_ID_BYTES = 16
Count = Annotated[int, Meta(ge=0)]


class _Header(msgspec.Struct, array_like=True):
    task_id: bytes
    app_key: str
    #: Without `raw`, which is JSON; that stands beside it by vendor.
    variant: Variant
    raw: dict[str, bytes]
    rows_per_s: float | None
    total: Count
    first: Count


class Reached(msgspec.Struct, array_like=True, frozen=True):
    """The first `rows` devices of the task's audience have their batches. unix_ms: when the last of them was made."""

    task_id: bytes
    rows: Count
    unix_ms: Count


class AudiencePart(NamedTuple):
    """Devices first.. of an audience of `total`. ids: (k, 16) uint8."""

    task_id: bytes
    app_key: str
    variant: Variant
    rows_per_s: float | None
    total: int
    first: int
    ids: U8


_ENCODER = msgspec.msgpack.Encoder()
_HEADERS = msgspec.msgpack.Decoder(_Header)
_REACHED = msgspec.msgpack.Decoder(Reached)


def encode_audience(
    task_id: bytes, app_key: str, variant: Variant, rows_per_s: float | None, ids: U8
) -> list[JournalRecord]:
    """The records of an audience; the buffers are views of the ids."""
    raw = {vendor: bytes(text) for vendor, text in (variant.raw or {}).items()}
    bare = replace(variant, raw=None)
    records: list[JournalRecord] = []
    for first in range(0, len(ids), IDS_MAX):
        header = _ENCODER.encode(_Header(task_id, app_key, bare, raw, rows_per_s, len(ids), first))
        part = np.ascontiguousarray(ids[first : first + IDS_MAX]).reshape(-1).data
        records.append(JournalRecord(AUDIENCE_RECORD, (_LENGTH.pack(len(header)), header, part)))
    return records


def decode_audience(payload: bytes | memoryview) -> AudiencePart:
    """Raises ValueError for a payload that `encode_audience` did not make."""
    view = memoryview(payload)
    if len(view) < _LENGTH.size:
        raise ValueError(f"audience record is {len(view)} bytes, expected a header length")
    (size,) = _LENGTH.unpack_from(view)
    at = _LENGTH.size + size
    try:
        header = _HEADERS.decode(view[_LENGTH.size : at])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"audience record: {error}") from error
    ids = np.frombuffer(view[at:], np.uint8)
    if len(ids) % _ID_BYTES:
        raise ValueError(f"audience record has {len(ids)} bytes of ids")
    variant = header.variant
    if header.raw:
        variant = replace(variant, raw={vendor: msgspec.Raw(text) for vendor, text in header.raw.items()})
    return AudiencePart(
        header.task_id,
        header.app_key,
        variant,
        header.rows_per_s,
        header.total,
        header.first,
        ids.reshape(-1, _ID_BYTES),
    )


def encode_reached(reached: Reached) -> JournalRecord:
    return JournalRecord(REACHED_RECORD, (_ENCODER.encode(reached),))


def decode_reached(payload: bytes | memoryview) -> Reached:
    """Raises ValueError for a payload that `encode_reached` did not make."""
    try:
        return _REACHED.decode(payload)
    except msgspec.DecodeError as error:
        raise ValueError(f"reached record: {error}") from error
