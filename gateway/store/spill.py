"""Spill: what batches say of open rows, on the disk instead of in memory, while nobody looks at it.

    in memory: a row's states, stage times and hashes                      26 bytes a row, looked at and written always
    spilled:   its ids, its target, its texts, which contents it has       16 bytes a row and its texts, never written

A page whose rows are queued, in flight or wait for a retry stays an object that lanes, wheels and connections hold;
only the columns of its batch move, into mapped files, and are used from there as before: the kernel reads what is
touched, and takes the memory back when it needs it. So a page may be spilled in any state, nobody has to wait for one,
and no rule about rows knows of it. What is written again and again stays: a write to a mapped page may wait for the
disk.

The files have no name: they end with the process, as the memory did whose place they take; the journal is what outlives
it. One goes when the last of its columns does.

Rejected: pages as objects that come and go in any state, as held ones do. Every queue that holds a row would need an
address instead, a second way for rows whose page is away, and a way back at each deadline.

A read that the disk refuses ends the process (SIGBUS), and recovery follows. Blocks are reserved beforehand, so that a
full disk refuses a segment and nothing else.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import trio

from gateway.batch import Batch
from gateway.columns import TextColumn
from gateway.errors import StoreFull
from gateway.ledger import LedgerPage
from gateway.store.log_file import store_error

#: Two file descriptors each: 256 for 8 GiB, and a page of 65,536 rows with texts takes 2 to 12 MiB.
SEGMENT_BYTES = 64 << 20
#: Smaller pages cost more as objects than as columns.
ROWS_MIN = 1024
#: Columns begin at multiples of a cache line.
_ALIGNED = 64
_COLUMNS = ("device_ids", "channels", "variant_index", "source_rows", "duplicates", "target_hashes")

_Array: TypeAlias = np.ndarray[Any, Any]


class Spill:
    """folder: where the files are, which nobody sees. bytes_max: of all segments together."""

    def __init__(self, folder: Path, *, bytes_max: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._segment_bytes = segment_bytes
        self._segment: tuple[int, mmap.mmap] | None = None
        self._end = 0
        #: Segments that are in use: descriptor -> bytes. Entered in the thread, and left wherever a last column goes.
        self._live: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """Of all segments that are in use."""
        return sum(list(self._live.values()))

    @staticmethod
    def takes(page: LedgerPage) -> bool:
        """Whether it is worth it, and its rows have been routed: what is routed next is looked at at once."""
        return page.n >= ROWS_MIN and not page.is_spilled and page.n_routed == page.n

    async def take(self, page: LedgerPage) -> None:
        """The columns of the page's batch are on the disk. One call at a time.

        Raises StoreFull, StoreError; then nothing has changed. If cancelled: the same.
        """
        batch = page.batch
        names = [name for name in _COLUMNS if getattr(batch, name) is not None]
        texts = _texts(batch)
        arrays = [getattr(batch, name) for name in names]
        arrays += [array for column in texts for array in (np.frombuffer(column.blob, np.uint8), column.offsets)]
        views = await self._run(arrays)
        n = len(names)
        for name, view in zip(names, views[:n], strict=True):
            setattr(batch, name, view)
        for column, blob, offsets in zip(texts, views[n::2], views[n + 1 :: 2], strict=True):
            column.move(blob.data, offsets)
        page.is_spilled = True

    async def _run(self, arrays: Sequence[_Array]) -> list[_Array]:
        return await trio.to_thread.run_sync(self._write, arrays)

    # in the thread

    def _write(self, arrays: Sequence[_Array]) -> list[_Array]:
        """The same arrays as views of a segment. Raises StoreFull, StoreError."""
        offsets = np.cumsum([0, *(-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays)]).tolist()
        try:
            if self._segment is None or self._end + offsets[-1] > len(self._segment[1]):
                self._segment = self._new_segment(max(offsets[-1], self._segment_bytes))
                self._end = 0
            descriptor, mapped = self._segment
            views = []
            for array, offset in zip(arrays, offsets, strict=False):
                at = self._end + offset
                if os.pwrite(descriptor, np.ascontiguousarray(array).data, at) != array.nbytes:
                    raise OSError(errno.EIO, "a write was cut short")
                # Of no bytes there is nothing to look at.
                view = np.frombuffer(mapped, array.dtype, array.size, at) if array.size else array
                views.append(view.reshape(array.shape))
            self._end += offsets[-1]
        except OSError as error:
            raise store_error(self._folder, error) from error
        return views

    def _new_segment(self, size: int) -> tuple[int, mmap.mmap]:
        if self.bytes + size > self._bytes_max:
            raise StoreFull(str(self._folder), f"spill_bytes_max is {self._bytes_max} bytes, {self.bytes} are in use")
        with tempfile.TemporaryFile(dir=self._folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            # Private: whoever wrote to a column would write to memory, and to no other's.
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
            descriptor = os.dup(file.fileno())
        self._live[descriptor] = size
        # Columns hold their segment; it goes with the last of them.
        weakref.finalize(mapped, self._gone, descriptor)
        return descriptor, mapped

    def _gone(self, descriptor: int) -> None:
        # Before its number may be another's.
        del self._live[descriptor]
        os.close(descriptor)


def _texts(batch: Batch) -> list[TextColumn]:
    """Each text column once: one may stand under two names."""
    columns = [*batch.variables.values(), *([] if batch.tokens is None else [batch.tokens])]
    return list({id(column): column for column in columns}.values())
