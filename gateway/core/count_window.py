"""CountWindow: how many of each kind there were of late. Breaker and unregister guard judge by it.

Counts are kept per slot of a tenth of the span, so that a call costs the same however many rows it tells of. A slot
leaves when it is older than the span; where `kept_min` is given, not before the younger ones hold so many: the share
of a kind among three is no share, and a quiet app would otherwise never be judged.
"""

from __future__ import annotations

from collections import deque

#: Slots of one span: a window then forgets in steps of a tenth, and holds eleven small lists.
SLOTS = 10


class CountWindow:
    """n_kinds counts. span_s: seconds looked back. kept_min: counts that are kept whatever their age."""

    __slots__ = ("_kept_min", "_slot_s", "_slots", "sums", "total")

    def __init__(self, n_kinds: int, *, span_s: float, kept_min: int = 0) -> None:
        self._slot_s = span_s / SLOTS
        self._kept_min = kept_min
        #: (number of the slot, its counts); a slot without counts is not there.
        self._slots: deque[tuple[int, list[int]]] = deque()
        self.sums = [0] * n_kinds
        self.total = 0

    def add(self, now: float, *counts: int) -> None:
        """One count per kind, as of now. A clock that stepped back counts into the newest slot."""
        number = int(now // self._slot_s)
        slots = self._slots
        if slots and slots[-1][0] == number and slots[0][0] > number - SLOTS:
            # The usual call: nothing is too old, and the newest slot is the one.
            newest = slots[-1][1]
            for kind, count in enumerate(counts):
                newest[kind] += count
                self.sums[kind] += count
                self.total += count
            return
        self.settle(now)
        if not any(counts):
            return
        if not slots or slots[-1][0] < number:
            slots.append((number, [0] * len(self.sums)))
        newest = slots[-1][1]
        for kind, count in enumerate(counts):
            newest[kind] += count
            self.sums[kind] += count
            self.total += count
        self.settle(now)

    def settle(self, now: float) -> None:
        """What is too old is gone."""
        slots = self._slots
        oldest_kept = int(now // self._slot_s) - SLOTS + 1
        while slots and slots[0][0] < oldest_kept:
            n = sum(slots[0][1])
            if self._kept_min and self.total - n < self._kept_min:
                return
            for kind, count in enumerate(slots.popleft()[1]):
                self.sums[kind] -= count
            self.total -= n

    def clear(self) -> None:
        self._slots.clear()
        self.sums = [0] * len(self.sums)
        self.total = 0
