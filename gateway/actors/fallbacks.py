"""Fallbacks: rows go on along their chains, by time or because they failed. Part of the router, which owns it.

One entry in a wheel per batch and moment at which rows of it may be due, however many rows there are. What needs to
survive a crash is in the journal: the batch with its options and targets, and that a row waits for a receipt
(core/trail.py). Times count from the batch's birth, so a restart neither shortens nor lengthens them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.clock import Clock
from gateway.columns import I64, U8, Bool, Rows
from gateway.core.fallback import (
    NO_STEP,
    due_rows,
    next_steps,
    region_channels,
    step_channels,
    steps_taken,
    times,
    waits_for_receipt,
)
from gateway.core.home import Home, row_tags
from gateway.core.options import Options
from gateway.core.router import Devices, VendorRows, by_lane
from gateway.core.wheel import TimingWheel
from gateway.ledger import Channel, LedgerPage, Reason, State
from gateway.message_id import SEQUENCES_MAX, BatchAddress

#: Nobody was there to be reached, as far as the first way goes; a user who wants none is left alone on all ways.
NOT_REACHED = (Reason.UNKNOWN_DEVICE, Reason.NO_CHANNEL, Reason.DEVICE_OFFLINE, Reason.TOKEN_MUTED, Reason.INBOX_FULL)
_TICK_S = 0.05
#: Rows that are with a vendor or a device when they are due are looked at again after this long.
_LOOK_AGAIN_S = 1.0


class FallbackObserver(Protocol):
    def fell_back(self, channel: Channel, rows: int) -> None:
        """So many rows went on to that channel."""


class Ways(NamedTuple):
    """What the router lends: the options of rows, the channels that its app has, the lanes, and the inbox."""

    options: Callable[[LedgerPage, Rows], Options]
    has_lane: Callable[[LedgerPage], Bool]
    offer: Callable[[LedgerPage, VendorRows], None]
    forget: Callable[[I64], None]


class Fallbacks:
    """See the module's docstring."""

    def __init__(self, *, home: Home, devices: Devices, clock: Clock, observer: FallbackObserver, ways: Ways) -> None:
        self._home = home
        self._devices = devices
        self._clock = clock
        self._observer = observer
        self._ways = ways
        self._wheel: TimingWheel[BatchAddress] = TimingWheel(
            tick_s=_TICK_S, slots=1024, now=clock.monotonic(), items_max=SEQUENCES_MAX
        )

    def follow(self, page: LedgerPage) -> None:
        """Rows of the page go on when their time comes."""
        for after_s in times(page.batch):
            self._wheel.add(page.batch.born + after_s, page.batch.address)

    def next_deadline(self) -> float:
        deadline = self._wheel.next_deadline()
        return math.inf if deadline is None else deadline

    def on_time(self, now: float) -> None:
        """Rows whose time has come and who have not reached anybody go on."""
        for address in self._wheel.expire(now):
            page = self._home.page(address.sequence)
            if page is None or page.batch.address != address or not page.n_open:
                continue
            rows, has_more = due_rows(page, now - page.batch.born + _TICK_S, self._ways.has_lane(page))
            if has_more:
                self._wheel.add(now + _LOOK_AGAIN_S, address)
            if len(rows):
                self.move_on(page, rows)

    def move_on(self, page: LedgerPage, rows: Rows) -> Rows:
        """Rows go to the next channel of their chain. Returns those that have none."""
        if not len(rows):
            return rows
        steps = next_steps(page, rows, self._ways.has_lane(page))
        is_left = steps != NO_STEP
        going, steps = rows[is_left], steps[is_left]
        if len(going):
            channels = self._at_devices(page, going, step_channels(page, going, steps))
            now = self._clock.monotonic()
            held = going[page.state[going] == State.HELD]
            is_queued = page.state[going] == State.QUEUED
            page.fell_back(going, now)
            self._home.move(page, going[~is_queued], State.QUEUED, Reason.FALLBACK, now)
            page.reason[going[is_queued]] = Reason.FALLBACK
            if len(held):
                self._ways.forget(row_tags(page.batch.address.sequence, held))
            page.attempts[going] = 0
            page.token_hashes[going] = 0
            page.channel[going] = channels
            self._offer(page, going)
        ended: Rows = rows[~is_left]
        return ended

    def resume(self, page: LedgerPage, rows: Rows) -> Rows:
        """Queued rows that are on a step of their chain go to its lane. Returns those that are before the first."""
        is_here = steps_taken(page, rows) != 0
        here = rows[is_here & self._ways.has_lane(page)[page.channel[rows]]]
        if len(here):
            page.channel[here] = self._at_devices(page, here, page.channel[here])
            self._offer(page, here)
        before: Rows = rows[~is_here]
        return before

    def _at_devices(self, page: LedgerPage, rows: Rows, channels: U8) -> U8:
        """Where these rows go whose steps have those channels. The page knows their devices then: it may never have
        been routed, after a restart."""
        page.slots[rows], found = self._devices.locate(page.batch.device_ids.take(rows, axis=0), page.batch.app)
        of_devices = found.channel * found.is_known
        return region_channels(page, rows, channels, of_devices, self._ways.has_lane(page))

    def _offer(self, page: LedgerPage, rows: Rows) -> None:
        options = self._ways.options(page, rows)
        index = options.variant_index(page.batch, rows)
        for group in by_lane(rows, page.channel[rows], options.kinds(index)):
            self._observer.fell_back(group.channel, len(group.rows))
            self._ways.offer(page, group)

    def after_failure(self, page: LedgerPage, rows: Rows) -> tuple[Rows, Rows]:
        """Rows that a vendor finally did not take: those before the first step, and those that have no step left. The
        others have gone on."""
        is_on_step = steps_taken(page, rows) != 0
        return rows[~is_on_step], self.move_on(page, rows[is_on_step])

    def undelivered(self, page: LedgerPage, rows: Rows) -> None:
        """The vendor took these rows and says now that their receivers will not get them."""
        waiting = rows[waits_for_receipt(page, rows)]
        if page.away is not None:
            waiting = waiting[page.away[waiting] == 0]
        self.move_on(page, waiting)

    def holds(self, page: LedgerPage, rows: Rows) -> Bool:
        """(k,) which rows are the chain's: they wait for a receipt, or are on a step."""
        held: Bool = waits_for_receipt(page, rows) | (steps_taken(page, rows) != 0)
        return held
