"""Downlink messages of QoS 1 that wait for their PUBACK, in columns: no object per message, no dict.

An entry is a position in the columns; its packet identifier follows from the position:

    packet id = entry mod 65,535 + 1          page = entry div 65,535

so a PUBACK (connection, packet id) can only mean one entry per page, and one vectorised compare per page finds those of
a whole turn. Entries of one connection with equal packet id never coexist [MQTT-2.3.1-4]: `add` moves a row to another
entry when some other page already holds that pair. Columns are reserved once and touched only up to `high_water`.

An entry lives until its PUBACK comes or its connection ends. One that waits too long *lapses*: it is reported once and
its row goes elsewhere, but the identifier stays taken, because the device may still answer with it; such a late PUBACK
is told apart from one in time.

Source: OASIS MQTT 3.1.1 sections 2.3.1 and 4.3.2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.columns import I32, I64, U8, U16, U32

F64 = npt.NDArray[np.float64]
PAGE_ENTRIES = 65_535
_FREE, _WAITING, _LAPSED = 0, 1, 2
#: How often `add` looks for other entries for rows whose identifier is taken. A clash needs the same 1 of 65,535
#: identifiers among the few that one device has in flight; four in a row is out of reach of chance.
_MOVES_MAX = 4


class Settled(NamedTuple):
    """What a batch of PUBACKs settled. Arrays of one length, except n_unknown."""

    fds: I32
    tags: I64
    sent_at: F64
    is_late: npt.NDArray[np.bool_]
    n_unknown: int
    """PUBACKs that matched nothing: repeated ones, or for identifiers never used."""


class InFlight:
    """The table. Owned by one actor. All times are `now`, seconds of one monotonic clock."""

    def __init__(self, entries_max: int, *, page_entries: int = PAGE_ENTRIES) -> None:
        """page_entries: smaller in tests only, so that pages are many."""
        self.entries_max = entries_max
        self._page = page_entries
        self.high_water = 0
        """Entries ever used: scans stop here."""
        self._status = np.zeros(entries_max, np.uint8)
        self._fds = np.zeros(entries_max, np.int32)
        self._generations = np.zeros(entries_max, np.uint32)
        self._tags = np.zeros(entries_max, np.int64)
        self._sent_at = np.zeros(entries_max, np.float64)
        self._freed = np.empty(entries_max, np.int32)
        self._n_freed = 0

    def __len__(self) -> int:
        """Entries taken, lapsed ones included."""
        return self.high_water - self._n_freed

    def n_waiting(self) -> int:
        """Entries whose row is still ours to wait for. Scans the table."""
        return int(np.count_nonzero(self._status[: self.high_water] == _WAITING))

    def add(self, fds: I32, generations: U32, tags: I64, now: float) -> I64:
        """Takes an entry for each row and returns their positions; -1 where the table is full."""
        wanted = len(fds)
        got = self._allocate(wanted)
        if len(got) == wanted:
            self._put(got, fds, generations, tags, now)
            clashing = self._clashing(got)
            if not len(clashing):
                return got
            self.release(got)
        else:
            self._give_back(got)
        return self._add_some(fds, generations, tags, now)

    def _put(self, entries: I64, fds: I32, generations: U32, tags: I64, now: float) -> None:
        self._status[entries] = _WAITING
        self._fds[entries] = fds
        self._generations[entries] = generations
        self._tags[entries] = tags
        self._sent_at[entries] = now

    def _add_some(self, fds: I32, generations: U32, tags: I64, now: float) -> I64:
        """`add` where the table is nearly full or identifiers clash."""
        entries = np.full(len(fds), -1, np.int64)
        rows = np.arange(len(fds))
        aside: list[I64] = []
        for _ in range(_MOVES_MAX):
            got = self._allocate(len(rows))
            rows = rows[: len(got)]
            entries[rows] = got
            self._put(got, fds[rows], generations[rows], tags[rows], now)
            clashing = self._clashing(got)
            if not len(clashing):
                break
            self._status[got[clashing]] = _FREE
            aside.append(got[clashing])
            rows = rows[clashing]
            entries[rows] = -1
        for unused in aside:
            self._give_back(unused)
        return entries

    def _allocate(self, k: int) -> I64:
        """Up to k free entries, recently freed ones first: they are in the cache, and the high water stays low."""
        reused = min(k, self._n_freed)
        self._n_freed -= reused
        fresh = min(k - reused, self.entries_max - self.high_water)
        got = np.empty(reused + fresh, np.int64)
        got[:reused] = self._freed[self._n_freed : self._n_freed + reused]
        got[reused:] = np.arange(self.high_water, self.high_water + fresh)
        self.high_water += fresh
        return got

    def _give_back(self, entries: I64) -> None:
        self._freed[self._n_freed : self._n_freed + len(entries)] = entries
        self._n_freed += len(entries)

    def _clashing(self, entries: I64) -> I64:
        """Positions in `entries` whose (connection, packet id) some other page holds too."""
        if self.high_water <= self._page:
            return np.zeros(0, np.int64)
        clashes = np.zeros(len(entries), np.bool_)
        column = entries % self._page
        for base in range(0, self.high_water, self._page):
            other = base + column
            inside = (other < self.high_water) & (other != entries)
            other = np.where(inside, other, entries)
            clashes |= (
                inside
                & (self._status[other] != _FREE)
                & (self._fds[other] == self._fds[entries])
                & (self._generations[other] == self._generations[entries])
            )
        return np.flatnonzero(clashes)

    def packet_ids(self, entries: I64) -> U16:
        """(n,) entries -> (n,) packet identifiers, never 0."""
        return (entries % self._page + 1).astype(np.uint16)

    def settle(self, fds: I32, generations: U32, packet_ids: U16) -> Settled:
        """Ends the entries that these PUBACKs acknowledge, each once however often it is repeated.

        fds, generations, packet_ids: (n,) who acknowledges what; identifiers are never 0.
        """
        column = packet_ids.astype(np.int64) - 1
        found: list[I64] = []
        for base in range(0, self.high_water, self._page):
            entries = base + column
            if base + self._page > self.high_water:
                inside = entries < self.high_water
                entries = np.where(inside, entries, 0)
            else:
                inside = np.ones(len(entries), np.bool_)
            matches = (
                inside
                & (self._status[entries] != _FREE)
                & (self._fds[entries] == fds)
                & (self._generations[entries] == generations)
            )
            found.append(entries[matches])
        entries = np.concatenate(found) if found else np.zeros(0, np.int64)
        if len(entries) > 1:
            ordered = np.sort(entries)
            if np.count_nonzero(ordered[1:] == ordered[:-1]):
                _, first = np.unique(entries, return_index=True)
                entries = entries[np.sort(first)]
        settled = Settled(
            self._fds[entries],
            self._tags[entries],
            self._sent_at[entries],
            self._status[entries] == _LAPSED,
            len(fds) - len(entries),
        )
        self.release(entries)
        return settled

    def release(self, entries: I64) -> None:
        """Frees taken entries, each named once, without a word to anybody."""
        self._status[entries] = _FREE
        self._give_back(entries)

    def lapse(self, sent_before: float) -> I64:
        """Marks entries sent before that time as lapsed and returns their tags; each is returned once."""
        used = self.high_water
        late = np.flatnonzero((self._status[:used] == _WAITING) & (self._sent_at[:used] < sent_before))
        self._status[late] = _LAPSED
        tags: I64 = self._tags[late]
        return tags

    def release_ended(self, generation_by_fd: U32) -> I64:
        """Frees the entries of connections that have ended and returns the tags of those that had not lapsed.

        generation_by_fd: the live generation of each file descriptor; an entry of another generation has ended.
        """
        used = self.high_water
        status: U8 = self._status[:used]
        ended = np.flatnonzero((status != _FREE) & (generation_by_fd[self._fds[:used]] != self._generations[:used]))
        tags: I64 = self._tags[ended[status[ended] == _WAITING]]
        self.release(ended)
        return tags
