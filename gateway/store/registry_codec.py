"""Devices as bytes and back: columns as they are in memory, so that reading a million of them costs per column.

    blob = CRC-32 of the rest (4 bytes) | header length (4 bytes) | header (MessagePack map) | columns one after another

Numbers are little-endian. The header names the columns with their byte lengths. SQLite's checksums cover its
write-ahead log and not the database; hence one of our own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from gateway.columns import I64, U8, TextColumn
from gateway.device_columns import DeviceColumns, concatenate, no_devices
from gateway.tag_columns import TagColumns, tags_from_joined
from gateway.text_numbers import merge_numbered

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
#: Bytes of a device in each of them.
_WIDTHS = {name: 16 if name == "device_ids" else np.dtype(dtype).itemsize for name, dtype in _NUMBERS.items()}
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


class StoredBlob(NamedTuple):
    """A blob whose checksum and head are right. n: devices. columns: name -> where in the blob it stands, and bytes."""

    blob: bytes
    n: int
    columns: dict[str, tuple[int, int]]


def open_blob(blob: bytes) -> StoredBlob:
    """Raises ValueError for one that `encode_devices` did not make."""
    if len(blob) < _FRONT.size:
        raise ValueError(f"devices are {len(blob)} bytes, expected a head")
    checksum, size = _FRONT.unpack_from(blob)
    rest = memoryview(blob)[_FRONT.size :]
    if zlib.crc32(rest) != checksum:
        raise ValueError("devices do not agree with their checksum")
    try:
        header = _DECODER.decode(rest[:size])
    except msgspec.DecodeError as error:
        raise ValueError(f"devices: header: {error}") from error
    at, n = _FRONT.size + size, header.n
    columns: dict[str, tuple[int, int]] = {}
    for name, length in header.columns:
        columns[name] = (at, length)
        at += length
    if at != len(blob):
        raise ValueError(f"devices are {len(blob)} bytes, their columns end at {at}")
    for name, width in _WIDTHS.items():
        if columns.get(name, (0, -1))[1] != n * width:
            raise ValueError(f"devices: {n} have no whole column {name}")
    for name in ("tokens", "aliases", _JOINED_TAGS):
        if f"{name}.blob" in columns and columns.get(f"{name}.offsets", (0, 0))[1] != 4 * (n + 1):
            raise ValueError("devices: texts differ in length")
    return StoredBlob(blob, n, columns)


def decode_devices(blob: bytes) -> DeviceColumns:
    """The devices of a blob. Raises ValueError for one that `encode_devices` did not make."""
    return decode_blobs([open_blob(blob)])


def decode_blobs(parts: Sequence[StoredBlob]) -> DeviceColumns:
    """The devices of all blobs, one after another; of a single one they are views. A log of thousands of registrations
    is as many blobs, and an array for each column of each would cost more than the devices do.

    Raises ValueError as `decode_devices`.
    """
    if not parts:
        return no_devices()
    if any(f"{_JOINED_TAGS}.blob" in part.columns for part in parts) and len(parts) > 1:
        return concatenate([decode_blobs([part]) for part in parts])
    numbers = {name: _array(parts, name, dtype) for name, dtype in _NUMBERS.items()}
    numbers["device_ids"] = numbers["device_ids"].reshape(-1, 16)
    profile_texts, n_texts = _texts(parts, "profile_texts", [0] * len(parts))
    if len(parts) > 1:
        bases = np.repeat(np.cumsum(n_texts) - n_texts, [part.n for part in parts])
        numbers["profiles"], profile_texts = merge_numbered(
            [((numbers["profiles"] + bases).astype(np.uint32), profile_texts)]
        )
    counts = [part.n for part in parts]
    return DeviceColumns(
        **numbers,
        profile_texts=profile_texts,
        tokens=_texts(parts, "tokens", counts)[0],
        aliases=_texts(parts, "aliases", counts)[0] if _any_has(parts, "aliases.blob") else None,
        tags=_tags(parts),
    )


def _any_has(parts: Sequence[StoredBlob], name: str) -> bool:
    return any(name in part.columns for part in parts)


def _tags(parts: Sequence[StoredBlob]) -> TagColumns | None:
    if _any_has(parts, f"{_JOINED_TAGS}.blob"):
        (part,) = parts
        tags = tags_from_joined(_texts(parts, _JOINED_TAGS, [part.n])[0])
    elif not _any_has(parts, "tag_counts"):
        return None
    else:
        counts = np.concatenate(
            [
                _array([part], "tag_counts", "u1") if "tag_counts" in part.columns else np.zeros(part.n, np.uint8)
                for part in parts
            ]
        )
        numbers = _array(parts, "tag_numbers", "<u4")
        texts, n_texts = _texts(parts, "tag_texts", [0] * len(parts))
        if len(parts) > 1:
            n_numbers = [part.columns.get("tag_numbers", (0, 0))[1] // 4 for part in parts]
            bases = np.repeat(np.cumsum(n_texts) - n_texts, n_numbers)
            numbers, texts = merge_numbered([((numbers + bases).astype(np.uint32), texts)])
        tags = TagColumns(counts, numbers, texts)
    if len(tags.counts) != sum(part.n for part in parts):
        raise ValueError("devices: tags differ in length")
    if int(tags.counts.sum(dtype=np.int64)) != len(tags.numbers):
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


def _array(parts: Sequence[StoredBlob], name: str, dtype: str) -> np.ndarray[Any, Any]:
    """The numbers of all parts that have the column, one after another."""
    if len(parts) == 1:
        at, length = parts[0].columns.get(name, (0, 0))
        return np.frombuffer(parts[0].blob, dtype, length // np.dtype(dtype).itemsize, at)
    return np.frombuffer(_joined(parts, name), dtype)


def _joined(parts: Sequence[StoredBlob], name: str) -> bytes:
    spans = [(part.blob, *part.columns.get(name, (0, 0))) for part in parts]
    return b"".join([blob[at : at + length] for blob, at, length in spans])


def _texts(parts: Sequence[StoredBlob], name: str, counts: Sequence[int]) -> tuple[TextColumn, I64]:
    """The texts of all parts as one column, and (parts,) how many each has. counts: of a part without the column."""
    offsets = _array(parts, f"{name}.offsets", "<u4")
    places = [part.columns.get(f"{name}.offsets") for part in parts]
    has = np.array([place is not None for place in places])
    rows = np.array(
        [n if place is None else place[1] // 4 - 1 for place, n in zip(places, counts, strict=True)], np.int64
    )
    sizes = np.array([part.columns.get(f"{name}.blob", (0, 0))[1] for part in parts], np.int64)
    if (rows < 0).any():
        raise ValueError(f"devices: no offsets of {name}")
    if len(parts) == 1 and has[0]:
        if offsets[0] != 0 or offsets[-1] != sizes[0] or bool(np.any(offsets[1:] < offsets[:-1])):
            raise ValueError(f"devices: offsets of {name} do not fit {sizes[0]} bytes")
        return TextColumn(_joined(parts, f"{name}.blob"), offsets), rows
    # Where the offsets of each part that has them begin and end among all.
    ends = np.cumsum(rows[has] + 1)
    begins = ends - rows[has] - 1
    lengths = np.zeros(int(rows.sum()), np.int64)
    if len(ends):
        steps = np.diff(offsets.astype(np.int64))
        is_step = np.ones(len(steps), np.bool_)
        is_step[ends[:-1] - 1] = False
        if offsets[begins].any() or (offsets[ends - 1] != sizes[has]).any() or (steps[is_step] < 0).any():
            raise ValueError(f"devices: offsets of {name} do not fit {int(sizes.sum())} bytes")
        lengths[np.repeat(has, rows)] = steps[is_step]
    whole = np.zeros(len(lengths) + 1, np.uint32)
    np.cumsum(lengths, out=whole[1:])
    return TextColumn(_joined(parts, f"{name}.blob"), whole), rows


def encode_keys(ids: U8, app: int) -> bytes:
    """Devices of one app that are erased: app (2 bytes) and ids."""
    return struct.pack("<H", app) + np.ascontiguousarray(ids).tobytes()


def decode_keys(blob: bytes) -> tuple[int, U8]:
    """(app, (n, 16) uint8)"""
    (app,) = struct.unpack_from("<H", blob)
    return app, np.frombuffer(blob, np.uint8, offset=2).reshape(-1, 16)
