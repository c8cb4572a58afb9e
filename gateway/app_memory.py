"""What the C library does with memory that is given back.

A burst is a few arrays of a hundred kilobytes to a few megabytes that live for a millisecond. glibc maps such sizes
anew each time and gives them back to the kernel, which clears their pages: 5 % of the core path's CPU. Memory below
these limits stays with the process instead, to be used by the next burst.

Source: mallopt(3). Other C libraries have no such call and are left alone.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
#: Larger blocks are tables of the whole gateway, made once.
MAPPED_BYTES_MIN = 16 << 20
#: Free memory at the end of the heap that is kept: some bursts of the largest payloads at once.
KEPT_BYTES_MAX = 64 << 20


def keep_freed_memory() -> bool:
    """Freed blocks of up to `MAPPED_BYTES_MIN` are kept from now on, process-wide; false where that cannot be said."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX))
