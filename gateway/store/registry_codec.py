"""Devices as bytes and back: columns as they are in memory, so that reading a million of them costs per column.

    blob = CRC-32 of the rest (4 bytes) | header length (4 bytes) | header (MessagePack map) | columns one after another

Numbers are little-endian. The header names the columns with their byte lengths. SQLite's checksums cover its
write-ahead log and not the database; hence one of our own.
"""

from __future__ import annotations

import struct
import zlib
from typing import Annotated, Any

import msgspec
import numpy as np

from gateway.columns import U8, TextColumn
from gateway.device_columns import DeviceColumns
from gateway.tag_columns import TagColumns, tags_from_joined

_FRONT = struct.Struct("<II")
#: A head is shorter: the names and lengths of some twenty columns.
HEAD_BYTES_MAX = 1024
#: Field of DeviceColumns -> how it stands in the blob.
_NUMBERS = {
    "device_ids": "u1",
    "shards": "<u2",
    "apps": "<u2",
    "channels": "u1",
    "flags": "u1",
    "registered_unix_s": "<u4",
    "proven_unix_s": "<u4",
    "first_seen_unix_s": "<u4",
    "last_seen_unix_s": "<u4",
    "profiles": "<u4",
}
#: One row per device, but for the profiles.
_TEXTS = ("tokens", "profile_texts", "aliases")
#: Tags as one text per device, as schema 1 wrote them.
_JOINED_TAGS = "tags"


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    n: Annotated[int, msgspec.Meta(ge=0)]
    columns: list[tuple[str, Annotated[int, msgspec.Meta(ge=0)]]]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Header)


def encode_devices(devices: DeviceColumns) -> bytes:
    """The blob."""
    parts: list[tuple[str, bytes]] = [
        (name, np.ascontiguousarray(getattr(devices, name), dtype).tobytes()) for name, dtype in _NUMBERS.items()
    ]
    for name in _TEXTS:
        column: TextColumn | None = getattr(devices, name)
        if column is not None:
            parts += _text_parts(name, column)
    if (tags := devices.tags) is not None:
        parts += [
            ("tag_counts", tags.counts.astype(np.uint8).tobytes()),
            ("tag_numbers", tags.numbers.astype("<u4").tobytes()),
        ]
        parts += _text_parts("tag_texts", tags.texts)
    header = _ENCODER.encode(_Header(devices.n, [(name, len(data)) for name, data in parts]))
    rest = b"".join([header, *(data for _, data in parts)])
    return _FRONT.pack(zlib.crc32(rest), len(header)) + rest


def _text_parts(name: str, column: TextColumn) -> list[tuple[str, bytes]]:
    offsets = column.offsets - column.offsets[0]
    return [(f"{name}.offsets", offsets.astype("<u4").tobytes()), (f"{name}.blob", _blob(column))]


def _blob(column: TextColumn) -> bytes:
    blob = column.blob
    first, last = int(column.offsets[0]), int(column.offsets[-1])
    return blob if (first, last) == (0, len(blob)) else blob[first:last]


def decode_devices(blob: bytes) -> DeviceColumns:
    """The devices of a blob; views of it. Raises ValueError for one that `encode_devices` did not make."""
    if len(blob) < _FRONT.size:
        raise ValueError(f"devices are {len(blob)} bytes, expected a head")
    checksum, size = _FRONT.unpack_from(blob)
    if zlib.crc32(memoryview(blob)[_FRONT.size :]) != checksum:
        raise ValueError("devices do not agree with their checksum")
    at = _FRONT.size + size
    try:
        header = _DECODER.decode(memoryview(blob)[_FRONT.size : at])
    except msgspec.DecodeError as error:
        raise ValueError(f"devices: header: {error}") from error
    found: dict[str, tuple[int, int]] = {}
    for name, length in header.columns:
        found[name] = (at, length)
        at += length
    if at != len(blob):
        raise ValueError(f"devices are {len(blob)} bytes, their columns end at {at}")
    numbers = {name: _array(blob, found, name, dtype) for name, dtype in _NUMBERS.items()}
    numbers["device_ids"] = numbers["device_ids"].reshape(-1, 16)
    if any(len(column) != header.n for column in numbers.values()):
        raise ValueError("devices: columns differ in length")
    texts = {name: _text(blob, found, name) for name in _TEXTS if f"{name}.blob" in found}
    if any(len(column) != header.n for name, column in texts.items() if name != "profile_texts"):
        raise ValueError("devices: texts differ in length")
    return DeviceColumns(**numbers, **texts, tags=_tags(blob, found, header.n))  # type: ignore[arg-type]


def _tags(blob: bytes, found: dict[str, tuple[int, int]], n: int) -> TagColumns | None:
    if f"{_JOINED_TAGS}.blob" in found:
        tags = tags_from_joined(_text(blob, found, _JOINED_TAGS))
    elif "tag_counts" in found:
        counts, numbers = _array(blob, found, "tag_counts", "u1"), _array(blob, found, "tag_numbers", "<u4")
        tags = TagColumns(counts, numbers, _text(blob, found, "tag_texts"))
    else:
        return None
    if len(tags.counts) != n or int(tags.counts.sum(dtype=np.int64)) != len(tags.numbers):
        raise ValueError("devices: tags differ in length")
    if int(tags.numbers.max(initial=0)) >= max(len(tags.texts), 1):
        raise ValueError("devices: tags without a text")
    return tags


def count_devices(head: bytes) -> int:
    """How many devices the blob has that begins so, as far as it says; 0 where that cannot be read."""
    try:
        return _DECODER.decode(head[_FRONT.size : _FRONT.size + _FRONT.unpack_from(head)[1]]).n
    except (struct.error, msgspec.DecodeError):
        return 0


def _array(blob: bytes, found: dict[str, tuple[int, int]], name: str, dtype: str) -> np.ndarray[Any, Any]:
    if name not in found:
        raise ValueError(f"devices: no column {name}")
    at, length = found[name]
    return np.frombuffer(blob, dtype, length // np.dtype(dtype).itemsize, at)


def _text(blob: bytes, found: dict[str, tuple[int, int]], name: str) -> TextColumn:
    offsets = _array(blob, found, f"{name}.offsets", "<u4")
    at, length = found[f"{name}.blob"]
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != length or bool(np.any(offsets[1:] < offsets[:-1])):
        raise ValueError(f"devices: offsets of {name} do not fit {length} bytes")
    return TextColumn(blob[at : at + length], offsets)


def encode_keys(ids: U8, app: int) -> bytes:
    """Devices of one app that are erased: app (2 bytes) and ids."""
    return struct.pack("<H", app) + np.ascontiguousarray(ids).tobytes()


def decode_keys(blob: bytes) -> tuple[int, U8]:
    """(app, (n, 16) uint8)"""
    (app,) = struct.unpack_from("<H", blob)
    return app, np.frombuffer(blob, np.uint8, offset=2).reshape(-1, 16)
