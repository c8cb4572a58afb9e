"""Details: what is known of a device beside its address: platform, app version, time zone, alias, tags.

None of it is read when a row is routed, so it may cost Python objects, but each kind has a limit:

* platform, app version and time zone repeat over devices: each distinct triple is a *profile* with a number;
* an alias (the caller's own user id) stands for up to 10 devices of its app, and a device has one alias;
* a device has up to 100 tags, and each distinct tag text is kept once.

Dicts are split into 1,024 parts, so that the growth of one is a short step (a dict of a million entries takes 50 ms).
The limits are those the compatible APIs promise their callers: 10 devices per alias of 40 characters, 100 tags of 32
characters per device (facts on compatible APIs, section A.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import I32, U32
from gateway.content import Fault

DEVICES_PER_ALIAS_MAX = 10
TAGS_PER_DEVICE_MAX = 100
#: 40 characters of up to 4 bytes.
ALIAS_BYTES_MAX = 160
#: 32 characters of up to 4 bytes.
TAG_BYTES_MAX = 128
#: Platform, app version, time zone: short names; the longest time zone has 32 characters.
PROFILE_TEXT_BYTES_MAX = 64

_PARTS = 1024


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
    aliases: int
    devices_with_alias: int
    tags: int
    tag_bindings: int


class Details:
    """Aliases and tags by device row, and the profiles. One owner; the table tells it which rows are whose."""

    __slots__ = (
        "_alias_bindings",
        "_alias_of",
        "_alias_rows",
        "_aliases_max",
        "_tag_bindings",
        "_tag_bindings_max",
        "_tag_counts",
        "_tags_of",
        "profiles",
    )

    def __init__(self, *, profiles_max: int, aliases_max: int, tag_bindings_max: int) -> None:
        """aliases_max: devices with an alias. tag_bindings_max: (device, tag) pairs."""
        self.profiles = Profiles(profiles_max)
        self._aliases_max = aliases_max
        self._tag_bindings_max = tag_bindings_max
        self._alias_rows: list[dict[tuple[int, bytes], tuple[int, ...]]] = [{} for _ in range(_PARTS)]
        self._alias_of: list[dict[int, tuple[int, bytes]]] = [{} for _ in range(_PARTS)]
        self._tags_of: list[dict[int, tuple[bytes, ...]]] = [{} for _ in range(_PARTS)]
        #: tag -> (its one object, devices that have it): so equal tags of many devices are one object.
        self._tag_counts: list[dict[bytes, tuple[bytes, int]]] = [{} for _ in range(_PARTS)]
        self._alias_bindings = 0
        self._tag_bindings = 0

    def alias(self, row: int) -> bytes:
        """The alias of a device, empty when it has none."""
        return self._alias_of[row % _PARTS].get(row, (0, b""))[1]

    def tags(self, row: int) -> tuple[bytes, ...]:
        return self._tags_of[row % _PARTS].get(row, ())

    def alias_rows(self, app_index: int, alias: bytes) -> I32:
        """(k,) int32, the devices of an alias, at most `DEVICES_PER_ALIAS_MAX`, first bound first."""
        key = (app_index, alias)
        return np.array(self._alias_rows[hash(key) % _PARTS].get(key, ()), np.int32)

    def write(self, row: int, app_index: int, alias: bytes, tags: Sequence[bytes]) -> None:
        """Afterwards the device has this alias (none if empty) and these tags. `DetailsPlan` has checked the limits."""
        if self._alias_of[row % _PARTS].get(row, (app_index, b"")) != (app_index, alias):
            self._unbind_alias(row)
            if alias:
                self._bind_alias(row, (app_index, alias))
        self._unbind_tags(row)
        if tags:
            self._tags_of[row % _PARTS][row] = tuple(self._keep_tag(tag) for tag in tags)
            self._tag_bindings += len(tags)

    def forget(self, row: int) -> None:
        """Afterwards the device has neither alias nor tags."""
        self._unbind_alias(row)
        self._unbind_tags(row)

    def _bind_alias(self, row: int, key: tuple[int, bytes]) -> None:
        part = self._alias_rows[hash(key) % _PARTS]
        part[key] = (*part.get(key, ()), row)
        self._alias_of[row % _PARTS][row] = key
        self._alias_bindings += 1

    def _unbind_alias(self, row: int) -> None:
        key = self._alias_of[row % _PARTS].pop(row, None)
        if key is None:
            return
        part = self._alias_rows[hash(key) % _PARTS]
        left = tuple(other for other in part[key] if other != row)
        if left:
            part[key] = left
        else:
            del part[key]
        self._alias_bindings -= 1

    def _unbind_tags(self, row: int) -> None:
        tags = self._tags_of[row % _PARTS].pop(row, ())
        for tag in tags:
            part = self._tag_counts[hash(tag) % _PARTS]
            kept, count = part[tag]
            if count == 1:
                del part[tag]
            else:
                part[tag] = (kept, count - 1)
        self._tag_bindings -= len(tags)

    def _keep_tag(self, tag: bytes) -> bytes:
        part = self._tag_counts[hash(tag) % _PARTS]
        kept, count = part.get(tag, (tag, 0))
        part[tag] = (kept, count + 1)
        return kept

    def statistics(self) -> DetailsStatistics:
        return DetailsStatistics(
            len(self.profiles),
            sum(map(len, self._alias_rows)),
            self._alias_bindings,
            sum(map(len, self._tag_counts)),
            self._tag_bindings,
        )

    def plan(self) -> DetailsPlan:
        return DetailsPlan(self, self._aliases_max - self._alias_bindings, self._tag_bindings_max - self._tag_bindings)


class DetailsPlan:
    """Which rows of one batch fit the limits of `Details`, before anything is written.

    It counts what the batch adds and not what it gives up, so at a limit it errs towards refusing.
    """

    __slots__ = ("_added", "_alias_room", "_details", "_tag_room")

    def __init__(self, details: Details, alias_room: int, tag_room: int) -> None:
        self._details = details
        self._alias_room = alias_room
        self._tag_room = tag_room
        self._added: dict[tuple[int, bytes], int] = {}

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
        if n_tags > max(self._tag_room, 0):
            limit = self._details._tag_bindings_max
            return Fault(
                "tags",
                f"tags of all devices would be {limit - self._tag_room + n_tags}, limit {limit} (tag_bindings_max)",
            )
        fault = self._check_alias(row, app_index, alias) if alias else None
        if fault is None:
            self._tag_room -= n_tags
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
                "alias", f"devices with an alias would pass the limit of {self._details._aliases_max} (aliases_max)"
            )
        self._alias_room -= 1
        self._added[key] = self._added.get(key, 0) + 1
        return None
