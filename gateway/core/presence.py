"""Presence: how many devices are online, by app and platform, now and over the last 24 hours.

    online rows --> count_platforms --> (app, platform) -> devices --> OnlineHistory (a ring of 144 slots of 10 minutes)

A *series* is one app and one platform as the device's registration names it ("" where it names none). Platforms are
callers' texts, so series are bounded: beyond `series_max` a platform counts as `other`, of its app. The ring is one
array, 4 bytes per slot and series. A slot holds what was online when it ended; slots in which nobody looked (the
process slept, the clock moved) are not in the ring, and each carries its time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from gateway.columns import I64, U16, U32

SLOT_S = 600
SLOTS = 144
OTHER = "other"
#: Apps times platforms: sixteen apps with a dozen platforms each, and what callers misspell.
SERIES_MAX = 256

#: (app index, platform) -> devices online.
PlatformCounts: TypeAlias = dict[tuple[int, str], int]


class AppHistory(NamedTuple):
    """platforms: names of the columns. at_unix_s: (n,) ends of the slots, oldest first. online: (n, platforms)."""

    platforms: list[str]
    at_unix_s: U32
    online: U32


def count_platforms(apps: U16, profiles: U32, platform_of: Callable[[int], str]) -> PlatformCounts:
    """apps, profiles: (n,) of the devices online. platform_of: the platform of a profile number, once per number."""
    pairs, counts = np.unique(apps.astype(np.uint64) << np.uint64(32) | profiles, return_counts=True)
    found: PlatformCounts = {}
    for pair, n in zip(pairs.tolist(), counts.tolist(), strict=True):
        key = (pair >> 32, platform_of(pair & 0xFFFFFFFF))
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
