"""Downlink messages of QoS 1 that wait for their PUBACK, in columns: no object per message, no dict.

An entry is a position in the columns; its packet identifier follows from the position:

    packet id = entry mod 65,535 + 1          page = entry div 65,535

so a PUBACK (connection, packet id) can only mean one entry per page, and one vectorised compare per page finds those of
a whole turn. Entries of one connection with equal packet id never coexist [MQTT-2.3.1-4]: `add` moves a row to another
entry when some other page already holds that pair. Columns are reserved once and touched only up to `high_water`.

An entry lives until its PUBACK comes or its session ends. One that waits too long *lapses*: it is reported once and
its row goes elsewhere, but the identifier stays taken, because the device may still answer with it; such a late PUBACK
is told apart from one in time.

                 add                 PUBACK, or the session ends
      FREE ------------> WAITING --------------------------------> FREE
                          |  ^ |  too long                           ^ ^
         connection ends, |  | +-----------> LAPSED -----------------+ |  PUBACK (late), or the connection ends
        its session stays v  | session resumed, sent again             |
                         PARKED ---------------------------------------+  too long, or the session ends

A parked entry has no connection: its descriptor is -1, and the device's slot stands in the column of generations. It
keeps its place, so its row is sent again under the same packet identifier.

Source: OASIS MQTT 3.1.1 sections 2.3.1, 4.3.2 and 4.4, MQTT 5.0 sections 2.2.1, 4.3.2 and 4.4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.columns import I32, I64, U16, U32, Bool

F64 = npt.NDArray[np.float64]
PAGE_ENTRIES = 65_535
_FREE, _WAITING, _LAPSED, _PARKED = 0, 1, 2, 3
_ONE, _TWO = np.uint8(1), np.uint8(2)
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


class Resumed(NamedTuple):
    """Entries that belong to a connection again and are to be sent once more. Columns of one length, by connection and
    in the order in which their rows were first sent. n_sent: how often each has been sent."""

    entries: I64
    fds: I32
    generations: U32
    tags: I64
    n_sent: npt.NDArray[np.uint8]

    def take(self, which: Bool | slice) -> Resumed:
        return Resumed(
            self.entries[which], self.fds[which], self.generations[which], self.tags[which], self.n_sent[which]
        )


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
        self._serials = np.zeros(entries_max, np.int64)
        self._n_sent = np.zeros(entries_max, np.uint8)
        self._next_serial = 0
        self.n_parked = 0
        """Entries of absent sessions: scans for them are spared while there are none."""
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
            self._put(got, fds, generations, tags, now, np.arange(wanted))
            clashing = self._clashing(got)
            if not len(clashing):
                self._next_serial += wanted
                return got
            self.release(got)
        else:
            self._give_back(got)
        return self._add_some(fds, generations, tags, now)

    def _put(self, entries: I64, fds: I32, generations: U32, tags: I64, now: float, rows: I64) -> None:
        """rows: where each stands in the call of `add`, which is the order of sending."""
        self._status[entries] = _WAITING
        self._fds[entries] = fds
        self._generations[entries] = generations
        self._tags[entries] = tags
        self._sent_at[entries] = now
        self._serials[entries] = self._next_serial + rows
        self._n_sent[entries] = 1

    def _add_some(self, fds: I32, generations: U32, tags: I64, now: float) -> I64:
        """`add` where the table is nearly full or identifiers clash."""
        entries = np.full(len(fds), -1, np.int64)
        rows = np.arange(len(fds))
        aside: list[I64] = []
        for _ in range(_MOVES_MAX):
            got = self._allocate(len(rows))
            rows = rows[: len(got)]
            entries[rows] = got
            self._put(got, fds[rows], generations[rows], tags[rows], now, rows)
            clashing = self._clashing(got)
            if not len(clashing):
                break
            self._status[got[clashing]] = _FREE
            aside.append(got[clashing])
            rows = rows[clashing]
            entries[rows] = -1
        for unused in aside:
            self._give_back(unused)
        self._next_serial += len(fds)
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
        # While one page is enough there is nothing to divide: an entry's column is its number.
        columns = entries if self.high_water <= self._page else entries % self._page
        return (columns + 1).astype(np.uint16)

    def settle(self, fds: I32, generations: U32, packet_ids: U16) -> Settled:
        """Ends the entries that these PUBACKs acknowledge, each once however often it is repeated.

        fds, generations, packet_ids: (n,) who acknowledges what; identifiers are never 0.
        """
        column = packet_ids.astype(np.int64)
        column -= 1
        found: list[I64] = []
        for base in range(0, self.high_water, self._page):
            entries = base + column if base else column
            # Beyond the last page's end the last entry stands in, and matches nothing.
            at = np.minimum(entries, self.high_water - 1)
            matches = self._fds.take(at) == fds
            matches &= self._generations.take(at) == generations
            matches &= self._status.take(at) != _FREE
            matches &= at == entries
            found.append(entries if np.count_nonzero(matches) == len(entries) else entries[matches])
        entries = found[0] if len(found) == 1 else np.concatenate(found) if found else np.zeros(0, np.int64)
        # Each writes its position; who reads back another's acknowledges the same as that one. The order of sending is
        # of no more use to entries that end.
        positions = np.arange(len(entries))
        self._serials[entries] = positions
        if np.count_nonzero(self._serials.take(entries) != positions):
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

    def _ended(self, generation_by_fd: U32) -> I64:
        """Entries whose connection is over. generation_by_fd: the live generation of each file descriptor."""
        used = self.high_water
        # Waiting or lapsed; unsigned, so that a free one is beyond both.
        has_connection = self._status[:used] - _ONE < _TWO
        return np.flatnonzero(has_connection & (generation_by_fd[self._fds[:used]] != self._generations[:used]))

    def release_ended(self, generation_by_fd: U32) -> I64:
        """Frees the entries of connections that have ended and returns the tags of those that had not lapsed."""
        ended = self._ended(generation_by_fd)
        tags: I64 = self._tags[ended[self._status[ended] == _WAITING]]
        self.release(ended)
        return tags

    # Stored sessions.

    def park(self, generation_by_fd: U32, fds: I32, slots: I32) -> None:
        """The entries of these connections, which have ended, belong to the stored sessions of their devices now.

        fds, slots: (k,) each connection once. What had lapsed has left the session: those entries are freed.
        """
        ended = self._ended(generation_by_fd)
        order = np.argsort(fds, kind="stable")
        places = np.searchsorted(fds[order], self._fds[ended])
        places = np.minimum(places, len(fds) - 1)
        is_theirs = fds[order][places] == self._fds[ended]
        ended, places = ended[is_theirs], places[is_theirs]
        is_waiting = self._status[ended] == _WAITING
        self.release(ended[~is_waiting])
        parked = ended[is_waiting]
        self._status[parked] = _PARKED
        self._generations[parked] = slots[order][places[is_waiting]].astype(np.uint32)
        self._fds[parked] = -1
        self.n_parked += len(parked)

    def _parked_of(self, slots: I32) -> tuple[I64, I64]:
        """Parked entries of these (k,) distinct slots, and the position of each one's slot."""
        parked = np.flatnonzero(self._status[: self.high_water] == _PARKED)
        order = np.argsort(slots, kind="stable")
        wanted = slots[order].astype(np.uint32)
        places = np.minimum(np.searchsorted(wanted, self._generations[parked]), len(slots) - 1)
        is_theirs = wanted[places] == self._generations[parked]
        return parked[is_theirs], order[places[is_theirs]]

    def resume(self, slots: I32, fds: I32, generations: U32, now: float) -> Resumed:
        """The entries of these devices belong to their new connections from now on and wait for a PUBACK anew.

        slots, fds, generations: (k,) distinct devices. Nothing may have been added for these connections yet, so that
        no identifier is there twice.
        """
        if not self.n_parked:
            entries, positions = np.zeros(0, np.int64), np.zeros(0, np.int64)
        else:
            entries, positions = self._parked_of(slots)
        order = np.lexsort((self._serials[entries], positions))
        entries, positions = entries[order], positions[order]
        self.n_parked -= len(entries)
        self._status[entries] = _WAITING
        self._fds[entries] = fds[positions]
        self._generations[entries] = generations[positions]
        self._sent_at[entries] = now
        self._n_sent[entries] += _ONE
        n_sent = self._n_sent[entries]
        return Resumed(entries, fds[positions], generations[positions], self._tags[entries], n_sent)

    def still_of(self, resumed: Resumed) -> Bool:
        """(n,) entries that still wait on the connection they were resumed for."""
        at = resumed.entries
        is_same: Bool = self._status[at] == _WAITING
        is_same &= (self._fds[at] == resumed.fds) & (self._generations[at] == resumed.generations)
        is_same &= self._tags[at] == resumed.tags
        return is_same

    def lapse_parked(self, sent_before: float) -> I64:
        """Frees the parked entries sent before that time and returns their tags."""
        if not self.n_parked:
            return np.zeros(0, np.int64)
        used = self.high_water
        return self._unpark(np.flatnonzero((self._status[:used] == _PARKED) & (self._sent_at[:used] < sent_before)))

    def release_parked(self, slots: I32 | None) -> I64:
        """Frees the parked entries of these distinct devices, None: of all, and returns their tags."""
        if not self.n_parked or (slots is not None and not len(slots)):
            return np.zeros(0, np.int64)
        if slots is None:
            return self._unpark(np.flatnonzero(self._status[: self.high_water] == _PARKED))
        return self._unpark(self._parked_of(slots)[0])

    def _unpark(self, entries: I64) -> I64:
        tags: I64 = self._tags[entries]
        self.n_parked -= len(entries)
        self.release(entries)
        return tags
