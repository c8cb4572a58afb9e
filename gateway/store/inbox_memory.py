"""What an inbox on the disk keeps in memory, at most, for its limits: part of `gateway.memory_bytes_max`."""

from __future__ import annotations

from gateway.store.inbox_entries import BLOCK_ENTRIES, FILTER_BYTES, MARKS
from gateway.store.inbox_filing import buckets_for
from gateway.store.inbox_merge import ENTRIES_PER_ROW_MAX, SEAL_ENTRIES
from gateway.store.sqlite_inbox import CACHE_BYTES

#: Rows and bytes of a counter.
_COUNTER_BYTES = 8
#: Of an entry that is not sealed: three numbers, and as much again while its run is joined with another.
_RECENT_BYTES = 48
#: A filter and the first hash of a block; while generations are merged, of those and of the one that they become.
_BLOCK_BYTES = 2 * (FILTER_BYTES + 8)


def index_bytes(rows_max: int, rows_per_device_max: int) -> int:
    """Some 4 bytes a row, and 67 MiB."""
    counters = _COUNTER_BYTES * buckets_for(rows_max, rows_per_device_max)
    # What is recent, and what of it is being sealed.
    recent = 2 * (SEAL_ENTRIES * _RECENT_BYTES + MARKS)
    blocks = int(rows_max * ENTRIES_PER_ROW_MAX + 4 * SEAL_ENTRIES) // BLOCK_ENTRIES
    return counters + recent + blocks * _BLOCK_BYTES + CACHE_BYTES
