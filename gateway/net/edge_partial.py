"""Side table of the edge: the bytes of packets that are not complete yet, with the time since when.

An entry exists while a packet is half spoken. All together are bounded by `partial_total_bytes_max`; the connection
whose packet was begun longest ago has to go.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import CloseReason
from gateway.net.edge_settings import EdgeSettings
from gateway.net.edge_table import FLAG_PARTIAL, ConnectionTable, Count


class PartialTable:
    """Owned by the edge. since: by descriptor, the oldest first."""

    def __init__(
        self, settings: EdgeSettings, table: ConnectionTable, close: Callable[[int, CloseReason], None]
    ) -> None:
        self._settings = settings
        self._table = table
        self._close = close
        self._kept: dict[int, bytearray] = {}
        self.since: dict[int, float] = {}
        self.total_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def join(self, fd: int, data: bytes) -> bytes | bytearray:
        """The bytes of a connection that are not yet parsed: what was kept of it and what has come."""
        kept = self._kept.get(fd)
        if kept is None:
            return data
        kept += data
        self.total_bytes += len(data)
        return kept

    def keep(self, fd: int, data: bytes | bytearray, parsed: int, now: float) -> None:
        """Keeps what `join` returned from position `parsed` on; its clock starts with its first byte."""
        kept = self._kept.get(fd)
        if kept is not None:
            if parsed == 0:
                self._limit()
                return
            self.drop(fd)
        if parsed == len(data):
            return
        rest = bytearray(memoryview(data)[parsed:])
        self._kept[fd] = rest
        self.since[fd] = now
        self.total_bytes += len(rest)
        self._table.flags_at[fd] |= FLAG_PARTIAL
        self._limit()

    def drop(self, fd: int) -> None:
        """Nothing is kept of the connection. Idempotent."""
        kept = self._kept.pop(fd, None)
        if kept is not None:
            del self.since[fd]
            self.total_bytes -= len(kept)
            self._table.flags_at[fd] &= ~FLAG_PARTIAL & 0xFF

    def _limit(self) -> None:
        while self.total_bytes > self._settings.partial_total_bytes_max:
            self._table.count_at[Count.EVICTED_PARTIAL_BYTES_MAX] += 1
            self._close(next(iter(self._kept)), CloseReason.HALF_FRAME_TIMEOUT)
