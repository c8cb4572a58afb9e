"""Details: what is known of a device beside its address: platform, app version, time zone, alias, tags.

None of it is read when a row is routed. Nothing of it is a Python object per device:

* platform, app version and time zone repeat over devices: each distinct triple is a *profile* with a number;
* an alias (the caller's own user id) stands for up to 10 devices of its app, and a device has one alias
  (`keyed_texts.py`);
* a device has up to 100 tags, and each distinct tag text is kept once (`tags.py`).

The limits are those the compatible APIs promise their callers: 10 devices per alias of 40 characters, 100 tags of 32
characters per device (facts on compatible APIs, section A.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import I32, U32, U64, Bool, TextColumn
from gateway.content import Fault
from gateway.core.chains import BYTES_PER_CELL, Padded, n_cells_of, padded
from gateway.core.keyed_texts import KeyedTexts
from gateway.core.segment_filling import SegmentsFilling
from gateway.core.segments import HashKey
from gateway.core.tags import TAG_BYTES_MAX, DeviceTags
from gateway.errors import Overloaded
from gateway.tag_columns import TagColumns

DEVICES_PER_ALIAS_MAX = 10
TAGS_PER_DEVICE_MAX = 100
#: 40 characters of up to 4 bytes.
ALIAS_BYTES_MAX = 160
#: Bytes per device with an alias at most: its text with links, its word, its entries in the index.
BYTES_PER_ALIAS = n_cells_of(ALIAS_BYTES_MAX) * BYTES_PER_CELL + 8 + 32
#: Platform, app version, time zone: short names; the longest time zone has 32 characters.
PROFILE_TEXT_BYTES_MAX = 64


class Profile(NamedTuple):
    """UTF-8 texts, empty when unknown."""

    platform: bytes = b""
    app_version: bytes = b""
    time_zone: bytes = b""


class Profiles:
    """Distinct profiles with numbers; 0 is the empty one. Numbers without devices are used again when all are out."""

    __slots__ = ("_counts", "_free", "_limit", "_numbers", "_profiles")

    def __init__(self, profiles_max: int) -> None:
        self._limit = profiles_max
        self._profiles: list[Profile] = [Profile()]
        self._numbers: dict[Profile, int] = {Profile(): 0}
        self._free: list[int] = []
        self._counts = np.zeros(profiles_max + 1, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def profile(self, number: int) -> Profile:
        return self._profiles[number]

    def number(self, profile: Profile) -> int | Fault:
        """The profile's number, a new one if need be; valid until `reclaim` unless devices are counted for it."""
        number = self._numbers.get(profile)
        if number is not None:
            return number
        for field, text in zip(Profile._fields, profile, strict=True):
            if len(text) > PROFILE_TEXT_BYTES_MAX:
                return Fault(field, f"{field} is {len(text)} bytes, limit {PROFILE_TEXT_BYTES_MAX}")
        if self._free:
            number = self._free.pop()
            self._profiles[number] = profile
        elif len(self._profiles) <= self._limit:
            number = len(self._profiles)
            self._profiles.append(profile)
        else:
            count = len(self._numbers)
            return Fault("app_version", f"distinct profiles are {count}, limit {self._limit} (profiles_max)")
        self._numbers[profile] = number
        return number

    def count(self, numbers: U32, change: int) -> None:
        """So many devices more (1) or less (-1) have these profiles, one per element."""
        np.add.at(self._counts, numbers, change)

    def reclaim(self) -> None:
        """Between batches: when no number is left, those without devices become free."""
        if self._free or len(self._profiles) <= self._limit:
            return
        for number in np.flatnonzero(self._counts[1:] == 0).tolist():
            del self._numbers[self._profiles[number + 1]]
            self._free.append(number + 1)


class DetailsStatistics(NamedTuple):
    profiles: int
    devices_with_alias: int
    tags: int
    tag_bindings: int


class Details:
    """Aliases and tags by device row, and the profiles. One owner; the table tells it which rows are whose."""

    __slots__ = ("_tags", "aliases", "aliases_max", "profiles", "tag_bindings_max", "tags_max")

    def __init__(
        self,
        key: HashKey,
        *,
        devices_max: int,
        profiles_max: int,
        aliases_max: int,
        tags_max: int,
        tag_bindings_max: int,
    ) -> None:
        """aliases_max: devices with an alias. tags_max: distinct tags. tag_bindings_max: (device, tag) pairs."""
        self.profiles = Profiles(profiles_max)
        self.aliases_max = aliases_max
        self.tags_max = tags_max
        self.tag_bindings_max = tag_bindings_max
        self.aliases = KeyedTexts(
            key, rows_max=devices_max, texts_max=aliases_max, text_bytes_max=ALIAS_BYTES_MAX, name="aliases_max"
        )
        self._tags = DeviceTags(key, devices_max=devices_max, tags_max=tags_max, bindings_max=tag_bindings_max)

    def alias(self, row: int) -> bytes:
        """The alias of a device, empty when it has none."""
        return self.aliases.one(row)

    def tags(self, row: int) -> tuple[bytes, ...]:
        return self._tags.of(row)

    def have_tag(self, rows: I32, tag: bytes) -> Bool:
        """(n,) which devices have the tag."""
        return self._tags.have(rows, tag)

    def alias_rows(self, app_index: int, alias: bytes) -> I32:
        """(k,) int32, the devices of an alias, at most `DEVICES_PER_ALIAS_MAX`, in the order of their rows."""
        if not 0 < len(alias) <= ALIAS_BYTES_MAX:
            return np.zeros(0, np.int32)
        return self.aliases.find_all(alias, app_index)

    def columns(self, rows: I32) -> tuple[TextColumn, TagColumns]:
        """Aliases and tags of the devices."""
        return self.aliases.column(rows), self._tags.columns(rows)

    def write(self, rows: I32, app_index: int, aliases: TextColumn | None, tags: TagColumns | None) -> None:
        """Afterwards the devices, distinct and of one app, have these aliases (none if empty) and these tags.

        `DetailsPlan` has checked the limits of a registration. Raises Overloaded where what was stored passes one.
        """
        if aliases is None:
            self.aliases.drop(rows)
        else:
            texts = padded(aliases.blob, aliases.offsets[:-1].astype(np.int64), aliases.lengths())
            changed = np.flatnonzero(~self.aliases.have(rows, texts, app_index))
            self.aliases.drop(rows[changed])
            bound = changed[texts.lengths[changed] > 0]
            if len(self.aliases) + len(bound) > self.aliases_max:
                raise Overloaded("aliases_max", len(self.aliases) + len(bound), self.aliases_max)
            self.aliases.put(rows[bound], texts.take(bound), app_index)
        self._tags.write(rows, tags)

    def load(
        self, rows: I32, app_index: int, aliases: TextColumn | None, tags: TagColumns | None, filling: SegmentsFilling
    ) -> None:
        """`write` of many devices of which nothing is known yet; see `KeyedTexts.load`."""
        if aliases is not None:
            lengths = aliases.lengths()
            bound = np.flatnonzero(lengths > 0)
            if len(self.aliases) + len(bound) > self.aliases_max:
                raise Overloaded("aliases_max", len(self.aliases) + len(bound), self.aliases_max)
            starts = aliases.offsets[:-1].astype(np.int64)
            texts = padded(aliases.blob, starts[bound], lengths[bound])
            self.aliases.load(rows[bound], texts, app_index, filling)
        self._tags.write(rows, tags)

    def forget(self, rows: I32) -> None:
        """Afterwards the devices have neither alias nor tags."""
        self.aliases.drop(rows)
        self._tags.write(rows, None)

    def n_unknown(self, tags: TextColumn) -> int:
        """How many of the texts, none longer than a tag may be, are no device's tag."""
        return int((self._tags.find(tags) < 0).sum())

    def tag_hashes(self, tags: Padded) -> U64:
        """(n,) equal for equal texts, and hardly ever for others."""
        return self._tags.hashes(tags)

    def statistics(self) -> DetailsStatistics:
        return DetailsStatistics(len(self.profiles), len(self.aliases), len(self._tags), self._tags.bindings)

    def plan(self) -> DetailsPlan:
        return DetailsPlan(
            self,
            self.aliases_max - len(self.aliases),
            self.tag_bindings_max - self._tags.bindings,
            self.tags_max - len(self._tags),
        )


class DetailsPlan:
    """Which rows of one batch fit the limits of `Details`, before anything is written.

    It counts what the batch adds and not what it gives up, so at a limit it errs towards refusing.
    """

    __slots__ = ("_added", "_alias_room", "_binding_room", "_details", "_new_tags", "_tag_room")

    def __init__(self, details: Details, alias_room: int, binding_room: int, tag_room: int) -> None:
        self._details = details
        self._alias_room = alias_room
        self._binding_room = binding_room
        self._tag_room = tag_room
        self._added: dict[tuple[int, bytes], int] = {}
        self._new_tags: set[bytes] = set()

    def faults(
        self, rows: I32, app_index: int, aliases: TextColumn | None, tags: TagColumns | None
    ) -> list[tuple[int, Fault]]:
        """(position, why not) of the rows that do not fit, as `check` of one row after the other finds them.

        rows: (n,) of known devices, -1 for new ones. A batch that fits by far costs no loop: only rows that may not fit
        are looked at one by one, and all of them where the room of a limit may end within the batch.
        """
        is_doubtful = np.zeros(len(rows), np.bool_)
        is_tight = False
        if aliases is not None:
            is_new, is_doubtful = self._new_aliases(rows, app_index, aliases)
            is_tight = int(is_new.sum()) > self._alias_room
        if tags is not None:
            is_doubtful |= self._have_doubtful_tags(tags)
            is_tight |= len(tags.numbers) > self._binding_room
            # Tags out of form are not looked for; then every text counts as new.
            is_tight |= len(tags.texts) > self._tag_room and (
                bool(is_doubtful.any()) or self._details.n_unknown(tags.texts) > self._tag_room
            )
        if is_tight:
            is_doubtful[:] = True
        found = []
        for index in np.flatnonzero(is_doubtful).tolist():
            its_tags = () if tags is None else tags.of(index)
            alias = b"" if aliases is None else aliases.row(index)
            fault = self.check(int(rows[index]), app_index, alias, its_tags)
            if fault is not None:
                found.append((index, fault))
        return found

    def _new_aliases(self, rows: I32, app_index: int, aliases: TextColumn) -> tuple[Bool, Bool]:
        """(n,) rows with an alias that they do not have yet, and those of them of which more has to be known."""
        lengths = aliases.lengths()
        is_long = lengths > ALIAS_BYTES_MAX
        lengths[is_long] = 0
        texts = padded(aliases.blob, aliases.offsets[:-1].astype(np.int64), lengths)
        index = self._details.aliases
        is_new = (lengths > 0) & ~index.have(rows, texts, app_index)
        new = np.flatnonzero(is_new)
        texts = texts.take(new)
        is_shared = (index.find(texts, app_index) >= 0) | _repeated(index.hashes(texts, app_index))
        is_doubtful = is_long
        is_doubtful[new[is_shared]] = True
        return is_new | is_long, is_doubtful

    def _have_doubtful_tags(self, tags: TagColumns) -> Bool:
        """(n,) rows with too many tags, with one out of form, or maybe one twice."""
        counts = tags.counts.astype(np.int64)
        is_doubtful: Bool = counts > TAGS_PER_DEVICE_MAX
        lengths = tags.texts.lengths()
        is_odd = (lengths == 0) | (lengths > TAG_BYTES_MAX)
        owners = np.repeat(np.arange(len(counts)), counts)
        is_doubtful[owners[is_odd[tags.numbers]]] = True
        lengths[is_odd] = 0
        texts = padded(tags.texts.blob, tags.texts.offsets[:-1].astype(np.int64), lengths)
        sums = self._details.tag_hashes(texts)[tags.numbers]
        order = np.lexsort((sums, owners))
        is_twice = (sums[order[1:]] == sums[order[:-1]]) & (owners[order[1:]] == owners[order[:-1]])
        is_doubtful[owners[order[1:][is_twice]]] = True
        return is_doubtful

    def check(self, row: int, app_index: int, alias: bytes, tags: Sequence[bytes]) -> Fault | None:
        """None when the write of one device fits, which is then counted; else why not. row: -1 for a new device."""
        n_tags = len(tags)
        if n_tags > TAGS_PER_DEVICE_MAX:
            return Fault("tags", f"tags are {n_tags}, limit {TAGS_PER_DEVICE_MAX} per device (tags_per_device_max)")
        if len(set(tags)) != n_tags:
            return Fault("tags", "tags name one tag twice")
        for tag in tags:
            if not 0 < len(tag) <= TAG_BYTES_MAX:
                return Fault("tags", f"a tag is {len(tag)} bytes, expected 1 to {TAG_BYTES_MAX}")
        if n_tags > max(self._binding_room, 0):
            limit = self._details.tag_bindings_max
            return Fault(
                "tags",
                f"tags of all devices would be {limit - self._binding_room + n_tags}, limit {limit} (tag_bindings_max)",
            )
        new = {tag for tag in tags if tag not in self._new_tags}
        new = {tag for tag in new if self._details.n_unknown(TextColumn.from_rows([tag]))}
        if len(new) > self._tag_room:
            return Fault("tags", f"distinct tags would pass the limit of {self._details.tags_max} (tags_max)")
        fault = self._check_alias(row, app_index, alias) if alias else None
        if fault is None:
            self._binding_room -= n_tags
            self._tag_room -= len(new)
            self._new_tags |= new
        return fault

    def _check_alias(self, row: int, app_index: int, alias: bytes) -> Fault | None:
        if len(alias) > ALIAS_BYTES_MAX:
            return Fault("alias", f"alias is {len(alias)} bytes, limit {ALIAS_BYTES_MAX}")
        holders = self._details.alias_rows(app_index, alias)
        if row in holders:
            return None
        key = (app_index, alias)
        n_devices = len(holders) + self._added.get(key, 0)
        if n_devices >= DEVICES_PER_ALIAS_MAX:
            return Fault(
                "alias", f"alias has {n_devices} devices, limit {DEVICES_PER_ALIAS_MAX} (devices_per_alias_max)"
            )
        if self._alias_room <= 0:
            return Fault(
                "alias", f"devices with an alias would pass the limit of {self._details.aliases_max} (aliases_max)"
            )
        self._alias_room -= 1
        self._added[key] = self._added.get(key, 0) + 1
        return None


def _repeated(hashes: U64) -> Bool:
    """(n,) those that stand there more than once."""
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    is_repeated: Bool = counts[inverse] > 1
    return is_repeated
