"""DeviceColumns: whole states of devices as columns, as the registry keeps them and the device table gives and takes.

One shape for the write of one registration and for the load of a million devices; nothing in it is a Python object per
device. A device is known by (app, id).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import I64, U8, U16, U32, U64, TextColumn
from gateway.tag_columns import TagColumns, concatenate_tags, run_places
from gateway.text_numbers import merge_numbered


class DeviceColumns(NamedTuple):
    """n devices. device_ids: (n, 16) uint8. shards: (n,) uint16, a fixed function of the id. apps: (n,) uint16, the
    app's position in the configuration. channels, flags: (n,) uint8 as in the device table.

    tokens: n rows, empty for devices without one. Times: (n,) uint32 Unix seconds, 0 for never. profiles: (n,) uint32
    rows of `profile_texts`, which are platform, app version and time zone with a zero byte between. aliases: n rows,
    UTF-8, or None where no device has one. tags: of n devices, or None.
    """

    device_ids: U8
    shards: U16
    apps: U16
    channels: U8
    flags: U8
    tokens: TextColumn
    registered_unix_s: U32
    proven_unix_s: U32
    first_seen_unix_s: U32
    last_seen_unix_s: U32
    profiles: U32
    profile_texts: TextColumn
    aliases: TextColumn | None = None
    tags: TagColumns | None = None

    @property
    def n(self) -> int:
        return len(self.device_ids)

    def take(self, rows: I64) -> DeviceColumns:
        """The devices at the given positions, in their order. Profile texts are shared."""
        return self._chosen(
            rows,
            lambda column: take_texts(column, rows),
            None if self.tags is None else self.tags.take(rows),
        )

    def part(self, start: int, stop: int) -> DeviceColumns:
        """The devices start..stop. Next to nothing is copied."""
        return self._chosen(
            slice(start, stop),
            lambda column: _cut(column, start, stop),
            None if self.tags is None else self.tags.part(start, stop),
        )

    def _chosen(
        self, rows: I64 | slice, texts: Callable[[TextColumn], TextColumn], tags: TagColumns | None
    ) -> DeviceColumns:
        return DeviceColumns(
            device_ids=self.device_ids[rows],
            shards=self.shards[rows],
            apps=self.apps[rows],
            channels=self.channels[rows],
            flags=self.flags[rows],
            tokens=texts(self.tokens),
            registered_unix_s=self.registered_unix_s[rows],
            proven_unix_s=self.proven_unix_s[rows],
            first_seen_unix_s=self.first_seen_unix_s[rows],
            last_seen_unix_s=self.last_seen_unix_s[rows],
            profiles=self.profiles[rows],
            profile_texts=self.profile_texts,
            aliases=None if self.aliases is None else texts(self.aliases),
            tags=tags,
        )


def _cut(column: TextColumn, start: int, stop: int) -> TextColumn:
    """The rows start..stop with a blob of their own: of a part whose blob is the whole's, a look at all its bytes would
    cost each part what it costs the whole."""
    offsets = column.offsets[start : stop + 1]
    return TextColumn(column.blob[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])


def no_devices() -> DeviceColumns:
    """n = 0."""
    u8, u16, u32 = np.zeros(0, np.uint8), np.zeros(0, np.uint16), np.zeros(0, np.uint32)
    return DeviceColumns(
        u8.reshape(0, 16), u16, u16, u8, u8, empty_texts(0), u32, u32, u32, u32, u32, empty_texts(0), None, None
    )


def empty_texts(n: int) -> TextColumn:
    """n rows without a byte."""
    return TextColumn(b"", np.zeros(n + 1, np.uint32))


def take_texts(column: TextColumn, rows: I64) -> TextColumn:
    """As `TextColumn.take`, without a bytes object per row: a gather of all bytes where rows differ in length."""
    fixed = column.fixed()
    lengths = column.lengths()[rows]
    offsets = np.zeros(len(rows) + 1, np.uint32)
    np.cumsum(lengths, out=offsets[1:])
    if fixed is not None:
        return TextColumn(fixed[rows].tobytes(), offsets)
    places = run_places(column.offsets[:-1].astype(np.int64)[rows], lengths)
    return TextColumn(np.frombuffer(column.blob, np.uint8)[places].tobytes(), offsets)


def concatenate(parts: Sequence[DeviceColumns]) -> DeviceColumns:
    """The devices of all parts, one after another; equal profile texts become one row."""
    if not parts:
        return no_devices()
    if len(parts) == 1:
        return parts[0]
    profiles, profile_texts = merge_numbered([(part.profiles, part.profile_texts) for part in parts])
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in (
            "device_ids",
            "shards",
            "apps",
            "channels",
            "flags",
            "registered_unix_s",
            "proven_unix_s",
            "first_seen_unix_s",
            "last_seen_unix_s",
        )
    }
    return DeviceColumns(
        **columns,
        tokens=TextColumn.concatenate([part.tokens for part in parts]),
        profiles=profiles,
        profile_texts=profile_texts,
        aliases=_concatenate_texts([part.aliases for part in parts], [part.n for part in parts]),
        tags=concatenate_tags([part.tags for part in parts], [part.n for part in parts]),
    )


def _concatenate_texts(columns: Sequence[TextColumn | None], counts: Sequence[int]) -> TextColumn | None:
    if all(column is None for column in columns):
        return None
    return TextColumn.concatenate(
        [empty_texts(n) if column is None else column for column, n in zip(columns, counts, strict=True)]
    )


def mixed_keys(ids: U8, apps: U16) -> U64:
    """(n,) uint64, equal for equal devices, and hardly ever for others unless somebody chose their ids."""
    words = np.ascontiguousarray(ids).view("<u8")
    mixed: U64 = words[:, 0] ^ words[:, 1] * _MIX_HIGH ^ apps * _MIX_APP
    mixed ^= mixed >> np.uint64(32)
    return mixed


#: Odd: 2^64 / golden ratio, and Steele and Vigna's multiplier of a 64-bit generator.
_MIX_HIGH = np.uint64(0x9E3779B97F4A7C15)
_MIX_APP = np.uint64(0xD1342543DE82EF95)


def keep_last(columns: DeviceColumns) -> I64:
    """(k,) positions, in order, of the last row of each (app, id)."""
    mixed = np.sort(mixed_keys(columns.device_ids, columns.apps))
    if not (mixed[1:] == mixed[:-1]).any():
        return np.arange(columns.n)
    words = np.ascontiguousarray(columns.device_ids).view("<u8")
    order = np.lexsort((columns.apps, words[:, 1], words[:, 0]))
    low, high, apps = words[order, 0], words[order, 1], columns.apps[order]
    is_last = np.ones(len(order), np.bool_)
    is_last[:-1] = (low[1:] != low[:-1]) | (high[1:] != high[:-1]) | (apps[1:] != apps[:-1])
    # lexsort is stable: among equal keys the last in the columns stands last.
    positions: I64 = np.sort(order[is_last])
    return positions
