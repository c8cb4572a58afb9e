"""Which connection a device slot has: a hash table of file descriptors, 8 bytes per connection, no object per entry.

Needed once per CONNECT and once per close, to find the older connection of the same device (takeover) and to forget it.
A column indexed by slot would touch a page of memory for each of a million devices that happens to be online; a dict
costs about 100 bytes per entry. The key is not stored: it is the `slot` column of the descriptor found.

Linear probing, load at most one half, deletion by shifting back, so that nothing ever has to be rehashed.
"""

from __future__ import annotations

import numpy as np

#: Fibonacci hashing: 2**32 divided by the golden ratio, odd. Slots are dense integers, so any spread will do.
_MULTIPLIER = 2_654_435_769


class SlotIndex:
    """slot -> fd for at most `connections_max` connections. `slots` is the caller's int32 column, indexed by fd."""

    def __init__(self, connections_max: int, slots: memoryview) -> None:
        bits = max(4, (2 * connections_max - 1).bit_length())
        self._mask = (1 << bits) - 1
        self._shift = 32 - bits if bits < 32 else 0
        self._slots = slots
        # fd + 1, 0 is empty; np.zeros leaves pages untouched until a connection needs them.
        self._cells = np.zeros(1 << bits, np.int32).data
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def _home(self, slot: int) -> int:
        return ((slot * _MULTIPLIER & 0xFFFFFFFF) >> self._shift) & self._mask

    def find(self, slot: int) -> int:
        """The descriptor of the slot, or -1."""
        cells, slots, mask = self._cells, self._slots, self._mask
        at = self._home(slot)
        while cells[at]:
            if slots[cells[at] - 1] == slot:
                return cells[at] - 1
            at = (at + 1) & mask
        return -1

    def insert(self, slot: int, fd: int) -> None:
        """Enters a slot that is not there; `slots[fd]` must already be the slot."""
        cells, mask = self._cells, self._mask
        at = self._home(slot)
        while cells[at]:
            at = (at + 1) & mask
        cells[at] = fd + 1
        self._count += 1

    def remove(self, slot: int, fd: int) -> None:
        """Forgets a slot that is there with this descriptor; `slots[fd]` must still be the slot."""
        cells, slots, mask = self._cells, self._slots, self._mask
        hole = self._home(slot)
        while cells[hole] != fd + 1:
            if not cells[hole]:
                raise KeyError(slot)
            hole = (hole + 1) & mask
        self._count -= 1
        at = hole
        while True:
            at = (at + 1) & mask
            if not cells[at]:
                break
            home = self._home(slots[cells[at] - 1])
            # The entry may fill the hole unless its home lies cyclically after the hole and not after the entry.
            if (at - home) & mask >= (at - hole) & mask:
                cells[hole] = cells[at]
                hole = at
        cells[hole] = 0
