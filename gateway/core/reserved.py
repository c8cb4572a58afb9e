"""Reserved memory: a table's address space at its largest, of which only what is written costs memory.

Rows of a table in use are scattered, so huge pages save a third of a look-up's page walks; a table that holds little
yet would pay for 2 MiB at each first touch instead of 4 KiB, which for a worker with ten thousand phones is more than
all their rows. So huge pages are asked for when a table has grown into them. (numpy asks for them at once, for any
array of 4 MiB and more.)
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

from gateway.columns import U64

#: A table is scattered over so much memory before huge pages are worth theirs.
HUGE_FROM_BYTES = 4 << 20
_WORD_BYTES = 8


class Reserved:
    """`words`: (count,) uint64, all zero, page-aligned. It lives as long as this object or any view of it."""

    __slots__ = ("_has_huge_pages", "_memory", "words")

    def __init__(self, count: int) -> None:
        size = max(count, 1) * _WORD_BYTES
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._has_huge_pages = False
        self.words: U64 = np.frombuffer(self._memory, np.uint64, count)

    def has_grown(self, used_bytes: int) -> None:
        """Says how much of it is in use; from `HUGE_FROM_BYTES` on the rest comes in huge pages. Cheap to call."""
        if not self._has_huge_pages and used_bytes >= HUGE_FROM_BYTES:
            self._has_huge_pages = True
            # A kernel without huge pages refuses; that is a slower table, not a fault.
            with contextlib.suppress(OSError, AttributeError):
                self._memory.madvise(mmap.MADV_HUGEPAGE)
