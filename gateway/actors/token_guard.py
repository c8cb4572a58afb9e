"""TokenGuard: between the verdict TOKEN_DEAD and the device table, one per (app, vendor).

While too many tokens die at once (core/unregister_guard.py) their removals are held back: rows end as the vendor said,
but no device loses its token; each is suspect, so that the next message to it is a probe. When the rate is normal
again, what was held back is either forgotten (`recheck`, the default: the next message to each device asks the vendor
anew, and by then a dead one is removed as usual) or carried out (`remove`), a portion with each burst, but for tokens
that are proven again. Which is right only a human can know: tokens that a misconfiguration called dead are alive.

Called by lanes (`on_verdicts`, through VerdictWatch) and by the router (`forget`); waits for nobody.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gateway.clock import Clock
from gateway.columns import I32, I64, U32
from gateway.core.devices import SINCE_UNKNOWN, DeviceTable
from gateway.core.unregister_guard import GuardSettings, HeldRemovals, Removals, UnregisterGuard

#: Held removals carried out with one burst: about 0.3 ms.
PORTION_ROWS = 1000


class GuardObserver(Protocol):
    def holding(self, is_holding: bool, share: float, held: int) -> None:
        """Holding began or ended. held: removals that wait."""
        ...

    def held(self, rows: int, dropped: int, held: int) -> None:
        """rows more were held back, the oldest `dropped` fell out, `held` wait now."""
        ...

    def released(self, rechecked: int, removed: int, held: int) -> None:
        """Removals left the list: left to the next message, or carried out."""
        ...


class TokenGuard:
    """See the module's docstring."""

    def __init__(self, settings: GuardSettings, *, devices: DeviceTable, clock: Clock, observer: GuardObserver) -> None:
        self._removes = settings.removes_after_spike
        self._machine = UnregisterGuard(settings)
        self._held = HeldRemovals(settings.held_max)
        self._devices = devices
        self._clock = clock
        self._observer = observer

    @property
    def is_holding(self) -> bool:
        return self._machine.is_holding

    @property
    def held_rows(self) -> int:
        return self._held.rows

    def on_verdicts(self, alive: int, dead: int) -> None:
        """What the verdicts of a burst say of its tokens."""
        if self._machine.on_verdicts(alive, dead, self._clock.monotonic()):
            self._observer.holding(self._machine.is_holding, self._machine.share(), self._held.rows)
        if self._held.rows and not self._machine.is_holding:
            self._release()

    def forget(self, rows: I32, token_hashes: U32, dead_since_unix_ms: I64) -> int:
        """The tokens are removed from the table, or held back. Returns how many devices lost theirs."""
        if not self._machine.is_holding:
            return int(self._devices.forget_tokens(rows, token_hashes, dead_since_unix_ms).sum())
        # A device that registers after this moment is not meant, whether the vendor named a time or not.
        self._devices.suspect_tokens(rows, token_hashes)
        since = np.where(dead_since_unix_ms == SINCE_UNKNOWN, self._clock.unix_ms(), dead_since_unix_ms)
        dropped = self._held.put(Removals(rows, token_hashes, since))
        self._observer.held(len(rows), dropped, self._held.rows)
        return 0

    def _release(self) -> None:
        if not self._removes:
            rechecked = self._held.clear()
            self._observer.released(rechecked, 0, 0)
            return
        portion = self._held.take(PORTION_ROWS)
        # They were suspect when they were held back; one that is proven again is alive.
        is_dead = self._devices.routing(portion.rows).proven_unix_s == 0
        removed = int(self._devices.forget_tokens(*(column[is_dead] for column in portion)).sum())
        self._observer.released(len(portion.rows) - removed, removed, self._held.rows)
