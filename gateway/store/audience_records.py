"""Journal records of audiences: who is to get a content, and how far that has come.

    audience record = header length (4 bytes, little-endian) | header (MessagePack) | ids, 16 bytes each
    reached record  = MessagePack

An audience that is a list is as many records as its ids need, `IDS_MAX` in each; one that is a walk over the registered
devices (core/audience_walk.py) is one record without ids. They stand in one append with its first batch, and each
later batch with the record of how far it reaches. So a device is either in a batch that is durable or among those to
come, and in no moment both or neither.

Fields that were added stand last and have defaults: records of an earlier version are read as they were meant.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from gateway.columns import U8
from gateway.content import Variant
from gateway.store.headed import headed_record, read_header
from gateway.store.ports import AUDIENCE_RECORD, REACHED_RECORD, JournalRecord

#: Ids of one record: a megabyte.
IDS_MAX = 65_536
_ID_BYTES = 16
Count = Annotated[int, Meta(ge=0)]


class WalkRecord(msgspec.Struct, array_like=True, frozen=True):
    """Whose devices a walk looks for: those with the tag, b"" for all, that were first seen until then."""

    tag: bytes
    until_unix_s: Count


class _Header(msgspec.Struct, array_like=True):
    task_id: bytes
    app_key: str
    #: Without `raw`, which is JSON; that stands beside it by vendor.
    variant: Variant
    raw: dict[str, bytes]
    rows_per_s: float | None
    #: Devices: of a list, so many ids; of a walk, as counted at the submit.
    total: Count
    first: Count
    walk: WalkRecord | None = None


class Reached(msgspec.Struct, array_like=True, frozen=True):
    """The first `rows` devices of the task's audience have their batches. unix_ms: when the last of them was made.
    left: of a walk, what is to come; each a `Stretch`."""

    task_id: bytes
    rows: Count
    unix_ms: Count
    left: tuple[tuple[Count, bytes, Count, Count], ...] = ()


class AudiencePart(NamedTuple):
    """Devices first.. of an audience of `total`. ids: (k, 16) uint8; none of a walk."""

    task_id: bytes
    app_key: str
    variant: Variant
    rows_per_s: float | None
    total: int
    first: int
    ids: U8
    walk: WalkRecord | None = None


_ENCODER = msgspec.msgpack.Encoder()
_HEADERS = msgspec.msgpack.Decoder(_Header)
_REACHED = msgspec.msgpack.Decoder(Reached)


def encode_audience(
    task_id: bytes, app_key: str, variant: Variant, rows_per_s: float | None, ids: U8
) -> list[JournalRecord]:
    """The records of an audience that is a list; the buffers are views of the ids."""
    heading = _heading(task_id, app_key, variant, rows_per_s, len(ids))
    records: list[JournalRecord] = []
    for first in range(0, len(ids), IDS_MAX):
        header = _ENCODER.encode(replace(heading, first=first))
        part = np.ascontiguousarray(ids[first : first + IDS_MAX]).reshape(-1).data
        records.append(headed_record(AUDIENCE_RECORD, header, part))
    return records


def encode_walk(
    task_id: bytes, app_key: str, variant: Variant, rows_per_s: float | None, devices: int, walk: WalkRecord
) -> JournalRecord:
    """The record of an audience that is a walk over the registered devices."""
    header = _ENCODER.encode(replace(_heading(task_id, app_key, variant, rows_per_s, devices), walk=walk))
    return headed_record(AUDIENCE_RECORD, header)


def _heading(task_id: bytes, app_key: str, variant: Variant, rows_per_s: float | None, total: int) -> _Header:
    raw = {vendor: bytes(text) for vendor, text in (variant.raw or {}).items()}
    return _Header(task_id, app_key, replace(variant, raw=None), raw, rows_per_s, total, 0)


def decode_audience(payload: bytes | memoryview) -> AudiencePart:
    """Raises ValueError for a payload that `encode_audience` did not make."""
    view, header, at = read_header(payload, _HEADERS, "audience record")
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
        header.walk,
    )


def encode_reached(reached: Reached) -> JournalRecord:
    return JournalRecord(REACHED_RECORD, (_ENCODER.encode(reached),))


def decode_reached(payload: bytes | memoryview) -> Reached:
    """Raises ValueError for a payload that `encode_reached` did not make."""
    try:
        return _REACHED.decode(payload)
    except msgspec.DecodeError as error:
        raise ValueError(f"reached record: {error}") from error
