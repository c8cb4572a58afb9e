"""TimingWheel: deadlines of slices, from the next tick to forty days, at O(1) each.

Two levels. The *near* wheel has a slot per tick of the current round of `slots` ticks. Whatever lies in a later
round waits in that round's slot of the *far* table and spills into the near wheel when its round begins, so an item
moves once at most.

    tick      ... 511 | 512 513 514 ... 1023 | 1024 ...
    round           0 |  1 = current: near   |  2, 3, ...: far, one slot each

A bit per near slot and a heap of far rounds find the next deadline without scanning, so a clock that jumps forty days
costs no more than what it makes due. Items are opaque (column slices); nothing here is per row.

Precision: an item never fires before its deadline and at most one tick after it, if `expire` is called in time.
"""

from __future__ import annotations

import heapq
import math
from typing import Generic, NamedTuple, TypeVar

from gateway.errors import Overloaded

T = TypeVar("T")


class Timer(NamedTuple):
    """What `cancel` needs. Opaque to the caller."""

    tick: int
    serial: int


class WheelStatistics(NamedTuple):
    """items: waiting. far_rounds: rounds after the current one that have items."""

    items: int
    far_rounds: int
    added: int
    expired: int
    cancelled: int


class TimingWheel(Generic[T]):
    """Items with deadlines in monotonic seconds. Time is an argument; a step back of it changes nothing."""

    __slots__ = (
        "_added",
        "_cancelled",
        "_expired",
        "_far",
        "_far_first",
        "_far_rounds",
        "_items_max",
        "_near",
        "_near_bits",
        "_now_tick",
        "_round",
        "_slots",
        "_tick_s",
    )

    def __init__(self, *, tick_s: float, slots: int, now: float, items_max: int) -> None:
        """tick_s: precision. slots: ticks per round. items_max: a wheel of slices needs one per slice that waits.

        Raises ValueError for a tick or slot count that is not positive.
        """
        if not tick_s > 0 or slots < 1:
            raise ValueError(f"tick_s is {tick_s} and slots is {slots}, expected both to be positive")
        self._tick_s = tick_s
        self._slots = slots
        self._items_max = items_max
        #: The last tick that has expired, and the round of the tick after it.
        self._now_tick = self._tick_at(now)
        self._round = (self._now_tick + 1) // slots
        #: Slots are dicts as ordered sets: cancelling is O(1) and leaves nothing behind.
        self._near: list[dict[int, T]] = [{} for _ in range(slots)]
        self._near_bits = 0
        #: round -> its items, and its first tick that was asked for. Rounds emptied by `cancel` go when they come up.
        self._far: dict[int, dict[Timer, T]] = {}
        self._far_first: dict[int, int] = {}
        self._far_rounds: list[int] = []
        self._added = 0
        self._expired = 0
        self._cancelled = 0

    def __len__(self) -> int:
        return self._added - self._expired - self._cancelled

    def add(self, deadline: float, item: T) -> Timer:
        """Afterwards `expire` returns the item once, at the deadline or within a tick after it.

        A deadline in the past is due at the next tick. Raises Overloaded at `items_max`.
        """
        if len(self) >= self._items_max:
            raise Overloaded("wheel_items_max", len(self), self._items_max)
        timer = Timer(max(self._tick_from(deadline), self._now_tick + 1), self._added)
        self._added += 1
        round_number = timer.tick // self._slots
        if round_number == self._round:
            self._put_near(timer, item)
            return timer
        if round_number not in self._far:
            self._far[round_number] = {}
            self._far_first[round_number] = timer.tick
            heapq.heappush(self._far_rounds, round_number)
        self._far[round_number][timer] = item
        self._far_first[round_number] = min(self._far_first[round_number], timer.tick)
        return timer

    def cancel(self, timer: Timer) -> T | None:
        """The item, which will not expire any more; None if it has expired or was cancelled before."""
        far = self._far.get(timer.tick // self._slots)
        if far is not None:
            if timer not in far:
                return None
            item = far.pop(timer)
        else:
            slot = timer.tick % self._slots
            if timer.tick <= self._now_tick or timer.serial not in self._near[slot]:
                return None
            item = self._near[slot].pop(timer.serial)
            if not self._near[slot]:
                self._near_bits &= ~(1 << slot)
        self._cancelled += 1
        return item

    def expire(self, now: float) -> list[T]:
        """The items that are due, by deadline tick, then in the order they were added."""
        target = self._tick_at(now)
        if target <= self._now_tick:
            return []
        due: list[T] = []
        round_number = (target + 1) // self._slots
        if round_number > self._round:
            self._drain_near(self._slots, due)
            while self._far_rounds and self._far_rounds[0] < round_number:
                due.extend(item for _, item in sorted(self._pop_far().items(), key=_by_timer))
            self._round = round_number
            if self._far_rounds and self._far_rounds[0] == round_number:
                for timer, item in self._pop_far().items():
                    self._put_near(timer, item)
        self._drain_near(target + 1 - round_number * self._slots, due)
        self._now_tick = target
        self._expired += len(due)
        return due

    def next_deadline(self) -> float | None:
        """When `expire` should be called next; None when nothing waits. Too early only after a cancel."""
        if self._near_bits:
            slot = (self._near_bits & -self._near_bits).bit_length() - 1
            return (self._round * self._slots + slot) * self._tick_s
        while self._far_rounds and not self._far[self._far_rounds[0]]:
            self._pop_far()
        if not self._far_rounds:
            return None
        return self._far_first[self._far_rounds[0]] * self._tick_s

    def statistics(self) -> WheelStatistics:
        return WheelStatistics(len(self), len(self._far), self._added, self._expired, self._cancelled)

    def _tick_at(self, now: float) -> int:
        """The last tick whose time is not after `now`; the corrections undo the rounding of the division."""
        tick = math.floor(now / self._tick_s)
        while tick * self._tick_s > now:
            tick -= 1
        while (tick + 1) * self._tick_s <= now:
            tick += 1
        return tick

    def _tick_from(self, deadline: float) -> int:
        """The first tick whose time is not before `deadline`."""
        tick = self._tick_at(deadline)
        return tick if tick * self._tick_s >= deadline else tick + 1

    def _put_near(self, timer: Timer, item: T) -> None:
        slot = timer.tick % self._slots
        self._near[slot][timer.serial] = item
        self._near_bits |= 1 << slot

    def _drain_near(self, end: int, due: list[T]) -> None:
        """Moves the items of all slots before `end` to `due`."""
        while bits := self._near_bits & ((1 << end) - 1):
            slot = (bits & -bits).bit_length() - 1
            due.extend(self._near[slot].values())
            self._near[slot] = {}
            self._near_bits &= ~(1 << slot)

    def _pop_far(self) -> dict[Timer, T]:
        """The items of the next far round, which is forgotten."""
        round_number = heapq.heappop(self._far_rounds)
        del self._far_first[round_number]
        return self._far.pop(round_number)


def _by_timer(entry: tuple[Timer, object]) -> Timer:
    return entry[0]
