"""BlockPool: power-of-two blocks of one reserved array, as segments of a hash table are (`segments.py`)."""

from __future__ import annotations

import contextlib

from gateway.columns import U64
from gateway.core.reserved import Reserved
from gateway.errors import Overloaded


class BlockPool:
    """Power-of-two blocks of one reserved array: a buddy allocator. Block starts are multiples of their size."""

    __slots__ = ("_free", "_reserved", "capacity", "entries", "name", "taken")

    def __init__(self, capacity: int, name: str) -> None:
        """capacity: entries, a power of two. Reserved, not touched."""
        self.name = name
        self.capacity = capacity
        self._reserved = Reserved(capacity)
        self.entries: U64 = self._reserved.words
        self.taken = 0
        #: size -> starts of free blocks; a dict as ordered set, so that the last freed (warm) block goes first.
        self._free: dict[int, dict[int, None]] = {capacity: {0: None}}

    def take(self, size: int) -> int:
        """The start of an all-zero block of `size` entries, a power of two. Raises Overloaded when none is left."""
        found = size
        while not self._free.get(found):
            found *= 2
            if found > self.capacity:
                raise Overloaded(self.name, self.taken + size, self.capacity)
        start, _ = self._free[found].popitem()
        while found > size:
            found //= 2
            self._free.setdefault(found, {})[start + found] = None
        self.taken += size
        self._reserved.has_grown(self.taken * self.entries.itemsize)
        return start

    def take_some(self, size: int, count: int) -> tuple[int, int]:
        """(n, start): n blocks of `size` side by side, as many as are free at once, up to `count`; each is given back
        alone. Raises Overloaded when there is not one."""
        n = 1 << count.bit_length() - 1
        while n > 1:
            with contextlib.suppress(Overloaded):
                return n, self.take(size * n)
            n //= 2
        return 1, self.take(size)

    def give(self, start: int, size: int) -> None:
        """Takes an all-zero block back and joins it with its free buddies."""
        self.taken -= size
        while size < self.capacity:
            free = self._free.get(size, {})
            buddy = start ^ size
            if buddy not in free:
                break
            del free[buddy]
            start &= ~size
            size *= 2
        self._free.setdefault(size, {})[start] = None
