"""UnregisterGuard: whether dead tokens are removed, or held back because too many die at once. A machine.

A wrong topic, the other environment's key or another project's account make a vendor call every token dead, just as a
million uninstalls would (facts/vendors-international.md, section 6.1). So the share of TOKEN_DEAD among the verdicts
that judge a token is watched; above `dead_share_max` the removals are held back, below `dead_share_normal` they go on.

    NORMAL --- share > dead_share_max ---> HOLDING
       ^                                      |
       +----- share <= dead_share_normal -----+

The window looks back `window_s`, and further while it would hold fewer than `rows_min` verdicts: a quiet app is
judged by its last ones. Before the first `rows_min` of a process nothing is held back, so a misconfiguration costs
fewer than that many tokens.

`HeldRemovals` is the bounded list of what was held back, as columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gateway.columns import I32, I64, U32
from gateway.core.count_window import CountWindow

#: Removals a list has room for at first.
_ROWS_FIRST = 64


class GuardSettings(NamedTuple):
    """Units, defaults and reasons: [unregister_guard] in configs/reference.toml."""

    window_s: float = 600.0
    rows_min: int = 50
    dead_share_max: float = 0.5
    dead_share_normal: float = 0.2
    held_max: int = 100_000
    removes_after_spike: bool = False


class UnregisterGuard:
    """One (app, vendor). now: monotonic seconds."""

    __slots__ = ("_settings", "_window", "is_holding")

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._window = CountWindow(2, span_s=settings.window_s, kept_min=settings.rows_min)
        self.is_holding = False

    def on_verdicts(self, alive: int, dead: int, now: float) -> bool:
        """alive: rows whose token the vendor took or only muted. dead: TOKEN_DEAD rows. Returns whether `is_holding`
        changed. Told before the removals of the same burst are asked for."""
        window, settings = self._window, self._settings
        window.add(now, alive, dead)
        if window.total < settings.rows_min:
            return False
        limit = settings.dead_share_normal if self.is_holding else settings.dead_share_max
        is_above = window.sums[1] > limit * window.total
        if is_above == self.is_holding:
            return False
        self.is_holding = is_above
        return True

    def share(self) -> float:
        """Of dead tokens among the verdicts of the window."""
        return self._window.sums[1] / self._window.total if self._window.total else 0.0


class Removals(NamedTuple):
    """n removals. rows: (n,) int32 of the device table. token_hashes: (n,) uint32. dead_since_unix_ms: (n,) int64."""

    rows: I32
    token_hashes: U32
    dead_since_unix_ms: I64

    def take(self, which: slice) -> Removals:
        return Removals(self.rows[which], self.token_hashes[which], self.dead_since_unix_ms[which])


class HeldRemovals:
    """At most `rows_max` removals, oldest first: a ring of columns, 16 bytes each, that grows by doubling. The same
    token may stand in it twice: removing it twice changes nothing, and looking for repeats costs more than a step."""

    __slots__ = ("_columns", "_first", "_rows_max", "rows")

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._columns = _empty(min(rows_max, _ROWS_FIRST))
        self._first = 0
        self.rows = 0

    def put(self, removals: Removals) -> int:
        """They stand last; returns how many of the oldest were dropped for them."""
        wanted = self.rows + len(removals.rows)
        dropped = max(0, wanted - self._rows_max)
        newest = removals.take(slice(max(0, len(removals.rows) - self._rows_max), None))
        self._skip(min(dropped, self.rows))
        n = len(newest.rows)
        self._grow(self.rows + n)
        at = (self._first + self.rows + np.arange(n)) % len(self._columns.rows)
        columns = self._columns
        columns.rows[at] = newest.rows
        columns.token_hashes[at] = newest.token_hashes
        columns.dead_since_unix_ms[at] = newest.dead_since_unix_ms
        self.rows += n
        return dropped

    def take(self, rows: int) -> Removals:
        """The oldest `rows`, or all; they are no longer here."""
        n = min(rows, self.rows)
        at = (self._first + np.arange(n)) % max(1, len(self._columns.rows))
        columns = self._columns
        taken = Removals(columns.rows[at], columns.token_hashes[at], columns.dead_since_unix_ms[at])
        self._skip(n)
        return taken

    def clear(self) -> int:
        """Returns how many there were; their memory is given back."""
        rows = self.rows
        self._columns = _empty(min(self._rows_max, _ROWS_FIRST))
        self._first = self.rows = 0
        return rows

    def _skip(self, rows: int) -> None:
        self._first = (self._first + rows) % max(1, len(self._columns.rows))
        self.rows -= rows

    def _grow(self, rows: int) -> None:
        size = len(self._columns.rows)
        if rows <= size:
            return
        n = self.rows
        old = self.take(n)
        self._columns = _empty(min(self._rows_max, max(rows, 2 * size)))
        self._first = 0
        self.put(old)


def _empty(size: int) -> Removals:
    return Removals(np.zeros(size, np.int32), np.zeros(size, np.uint32), np.zeros(size, np.int64))
