"""Presence: how many devices are online, by app and platform or tag, now and over the last 24 hours.

    online rows --> count_platforms --> (app, platform) -> devices --> OnlineHistory (a ring of 144 slots of 10 minutes)

A *series* is one app and one platform as the device's registration names it ("" where it names none). Platforms are
callers' texts, so series are bounded: beyond `series_max` a platform counts as `other`, of its app. The ring is one
array, 4 bytes per slot and series. A slot holds what was online when it ended; slots in which nobody looked (the
process slept, the clock moved) are not in the ring, and each carries its time.

An app has far more tags than anybody looks at, and each has to be looked for among all that are online: those that
somebody asked for within the last 24 hours are followed, from the first question on (`TagHistory`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from gateway.columns import I64, U16, U32

SLOT_S = 600
SLOTS = 144
OTHER = "other"
#: Two arrays of the ring, their objects and the tag itself.
TAG_CURVE_BYTES = SLOTS * 12 + 500
#: Apps times platforms: sixteen apps with a dozen platforms each, and what callers misspell.
SERIES_MAX = 256

#: Apps times profiles up to which devices are counted by place: for 15,000 of them a tenth of a sort.
_PAIRS_COUNTED_MAX = 1 << 16

#: (app index, platform) -> devices online.
PlatformCounts: TypeAlias = dict[tuple[int, str], int]


class AppHistory(NamedTuple):
    """platforms: names of the columns. at_unix_s: (n,) ends of the slots, oldest first. online: (n, platforms)."""

    platforms: list[str]
    at_unix_s: U32
    online: U32


def count_platforms(apps: U16, profiles: U32, platform_of: Callable[[int], str]) -> PlatformCounts:
    """apps, profiles: (n,) of the devices online. platform_of: the platform of a profile number, once per number."""
    found: PlatformCounts = {}
    if not len(profiles):
        return found
    width = int(profiles.max()) + 1
    numbers = apps.astype(np.int64) * width + profiles
    if width * (int(apps.max()) + 1) <= _PAIRS_COUNTED_MAX:
        by_place = np.bincount(numbers)
        pairs = by_place.nonzero()[0]
        counts = by_place[pairs]
    else:
        pairs, counts = np.unique(numbers, return_counts=True)
    for pair, n in zip(pairs.tolist(), counts.tolist(), strict=True):
        key = (pair // width, platform_of(pair % width))
        found[key] = found.get(key, 0) + n
    return found


class OnlineHistory:
    """The ring. One owner; time is an argument."""

    def __init__(self, n_apps: int, series_max: int = SERIES_MAX) -> None:
        """series_max: beside the `other` of each app."""
        self._series_max = n_apps + series_max
        #: The first ones are each app's `other`, so that there is always a place.
        self._columns = {(app, OTHER): app for app in range(n_apps)}
        self._online: U32 = np.zeros((SLOTS, self._series_max), np.uint32)
        #: (slots,) number of the slot that each place of the ring holds; 0: none yet.
        self._numbers: I64 = np.zeros(SLOTS, np.int64)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._numbers))

    def record(self, now_unix_s: int, counts: PlatformCounts) -> bool:
        """Keeps the counts as those of the slot that ended last; false when it has some already."""
        number = now_unix_s // SLOT_S
        place = number % SLOTS
        # A clock that stepped back finds its slots taken, by later ones too, and leaves them alone.
        if self._numbers[place] >= number:
            return False
        self._numbers[place] = number
        self._online[place] = 0
        for key, n in counts.items():
            self._online[place, self._column(key)] += n
        return True

    def _column(self, key: tuple[int, str]) -> int:
        column = self._columns.get(key)
        if column is not None:
            return column
        if len(self._columns) >= self._series_max:
            return key[0]
        column = self._columns[key] = len(self._columns)
        return column

    def of_app(self, app_index: int) -> AppHistory:
        """The last 24 hours of one app."""
        newest = int(self._numbers.max())
        is_held = self._numbers > max(0, newest - SLOTS)
        places = np.flatnonzero(is_held)
        places = places[np.argsort(self._numbers[places])]
        series = [(platform, column) for (app, platform), column in self._columns.items() if app == app_index]
        online = self._online[np.ix_(places, np.array([column for _, column in series], np.int64))]
        if not online[:, 0].any():
            series, online = series[1:], online[:, 1:]
        at_unix_s = (self._numbers[places] * SLOT_S).astype(np.uint32)
        return AppHistory([platform for platform, _ in series], at_unix_s, online)


class _Curve:
    """numbers: (slots,) as in `OnlineHistory`; online: (slots,)."""

    __slots__ = ("asked_unix_s", "numbers", "online")

    def __init__(self, asked_unix_s: int) -> None:
        self.asked_unix_s = asked_unix_s
        self.numbers: I64 = np.zeros(SLOTS, np.int64)
        self.online: U32 = np.zeros(SLOTS, np.uint32)


class TagHistory:
    """Devices online with the tags that somebody asked for: 1.7 KB each. One owner; time is an argument."""

    def __init__(self, tags_max: int) -> None:
        """tags_max: of all apps; beyond it the one that was asked for longest ago is forgotten."""
        self._tags_max = tags_max
        #: In the order of the last questions.
        self._curves: dict[tuple[int, str], _Curve] = {}
        self.forgotten = 0
        """Tags that fell out before their 24 hours were over."""

    def __len__(self) -> int:
        return len(self._curves)

    def ask(self, app_index: int, tag: str, now_unix_s: int) -> tuple[U32, U32]:
        """(ends of the slots, oldest first; devices online then) as far as they are known; the tag is followed for 24
        hours from now on."""
        curve = self._curves.pop((app_index, tag), None) or _Curve(now_unix_s)
        curve.asked_unix_s = now_unix_s
        if len(self._curves) >= self._tags_max:
            del self._curves[next(iter(self._curves))]
            self.forgotten += 1
        self._curves[app_index, tag] = curve
        places = np.flatnonzero(curve.numbers > max(0, int(curve.numbers.max()) - SLOTS))
        places = places[np.argsort(curve.numbers[places])]
        return (curve.numbers[places] * SLOT_S).astype(np.uint32), curve.online[places]

    def followed(self, now_unix_s: int) -> list[tuple[int, str]]:
        """(app index, tag) of those that are to be counted; those that nobody asked for in 24 hours are forgotten."""
        for key, curve in list(self._curves.items()):
            if now_unix_s - curve.asked_unix_s > SLOTS * SLOT_S:
                del self._curves[key]
        return list(self._curves)

    def record(self, now_unix_s: int, app_index: int, tag: str, n: int) -> None:
        """Keeps the count as that of the slot that ended last, unless it has one or nobody follows the tag."""
        curve = self._curves.get((app_index, tag))
        number = now_unix_s // SLOT_S
        if curve is not None and curve.numbers[number % SLOTS] < number:
            curve.numbers[number % SLOTS] = number
            curve.online[number % SLOTS] = n
