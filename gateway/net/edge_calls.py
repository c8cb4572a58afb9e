"""The edge's system calls for many sockets: one for all of them where the system has io_uring, one for each where not.

Both ways do the same and are tested against each other. Few sockets are dealt with one by one: a batch costs some 20 us
before its first byte, as much as a dozen calls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gateway.columns import I32, I64, U8, Rows, fixed_rows
from gateway.errors import CloseReason
from gateway.net.edge_table import FLAG_PENDING, ConnectionTable, Count
from gateway.net.ring import Ring

if TYPE_CHECKING:
    from gateway.net.edge import Edge

#: Sockets in one batch at most: what one poll reports at most.
_BATCH_MAX = 1_024
#: From so many sockets on a batch pays.
_BATCH_MIN = 16
#: Room for one socket in a batch of reads: a PUBACK has 4 bytes, PINGREQ 2. Whoever fills it is read once more.
_FIRST_READ_BYTES = 128
_PUBACK_BYTES = 4
_READABLE = {select.EPOLLIN}
_PENDING = np.uint8(FLAG_PENDING)
_NO_FDS = np.zeros(0, np.int32)
_NO_WORDS = np.zeros((0, _PUBACK_BYTES), np.uint8)


class Fours(NamedTuple):
    """Reads of exactly four bytes, the length of a PUBACK: who sent them, (n,), and what, (n, 4)."""

    fds: I32 = _NO_FDS
    words: U8 = _NO_WORDS


def all_readable(ready: Sequence[tuple[int, int]], listeners: Mapping[int, object], wake_fd: int) -> list[int]:
    """The descriptors that a poll found, where all are connections that have something to read and nothing else; none
    where any is not."""
    events = dict(ready)
    if wake_fd in events or not listeners.keys().isdisjoint(events) or set(events.values()) != _READABLE:
        return []
    return list(events)


class EdgeCalls:
    """Owned by the edge. Reads and writes the sockets of plain and layered connections alike."""

    def __init__(self, edge: Edge, table: ConnectionTable, *, is_batched: bool) -> None:
        self._edge = edge
        self._table = table
        self._first_bytes = min(_FIRST_READ_BYTES, edge.settings.read_bytes)
        self._ring: Ring | None = None
        if is_batched:
            with contextlib.suppress(OSError):
                self._ring = Ring(_BATCH_MAX, self._first_bytes)

    @property
    def is_batched(self) -> bool:
        """The system lets us have many sockets in one call."""
        return self._ring is not None

    def dispose(self) -> None:
        """Gives the ring's descriptor back. Idempotent."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    # Reading.

    def read(self, fds: list[int], ended: list[tuple[int, CloseReason]]) -> tuple[list[int], list[bytes], Fours]:
        """Reads once from each of these: (who sent something, what, and those that sent four bytes).

        Who has ended is added to `ended`; who has nothing to say is left out.
        """
        if self._ring is None or len(fds) < _BATCH_MIN:
            return *self._read_each(fds, ended), Fours()
        who, data, fours = [], [], []
        for at in range(0, len(fds), _BATCH_MAX):
            part = np.array(fds[at : at + _BATCH_MAX], np.int32)
            lengths, buffer = self._ring.receive(part)
            is_four = lengths == _PUBACK_BYTES
            if np.count_nonzero(is_four) == len(part):
                # The usual turn.
                fours.append(Fours(part, buffer[:, :_PUBACK_BYTES].copy()))
                continue
            fours.append(Fours(part[is_four], buffer[is_four, :_PUBACK_BYTES]))
            others = np.flatnonzero(~is_four)
            for position, fd, length in zip(
                others.tolist(), part[others].tolist(), lengths[others].tolist(), strict=True
            ):
                if length > 0:
                    first = buffer[position, :length].tobytes()
                    who.append(fd)
                    data.append(first if length < self._first_bytes else first + self._read_on(fd))
                elif length != -errno.EAGAIN:
                    ended.append((fd, CloseReason.PEER_RESET if length else CloseReason.PEER_CLOSED))
        return who, data, fours[0] if len(fours) == 1 else Fours(*map(np.concatenate, zip(*fours, strict=True)))

    def _read_on(self, fd: int) -> bytes:
        """What else is there of one read; an end of the connection is seen by the next poll."""
        left = self._edge.settings.read_bytes - self._first_bytes
        try:
            return os.read(fd, left) if left else b""
        except OSError:
            return b""

    def _read_each(self, fds: list[int], ended: list[tuple[int, CloseReason]]) -> tuple[list[int], list[bytes]]:
        who: list[int] = []
        data: list[bytes] = []
        read, size = os.read, self._edge.settings.read_bytes
        for fd in fds:
            try:
                found = read(fd, size)
            except BlockingIOError:
                continue
            except OSError:
                ended.append((fd, CloseReason.PEER_RESET))
                continue
            if found:
                who.append(fd)
                data.append(found)
            else:
                ended.append((fd, CloseReason.PEER_CLOSED))
        return who, data

    # Writing.

    def write(self, fds: I32, packets: U8 | list[bytes], now: float) -> list[int]:
        """Writes one packet per connection, no connection twice; returns the positions of those not taken, as
        `Edge.write_rows` does. packets: (n, width) C-contiguous, or n of them."""
        edge, n = self._edge, len(fds)
        if self._ring is not None and n >= _BATCH_MIN and not isinstance(packets, list) and edge.is_plain:
            width = packets.shape[1]
            if width <= edge.settings.pending_bytes_max:
                # The usual call: nobody is apart, and offsets are a range.
                offsets = np.arange(0, n * width, width)
                return self._take_sent(fds, packets, width, self._ring.send(fds, packets, offsets, width), now)
        if isinstance(packets, list):
            lengths = np.fromiter(map(len, packets), np.int64, n)
        else:
            lengths = np.full(n, packets.shape[1])
        is_long = int(lengths.max(initial=0)) > edge.settings.pending_bytes_max
        if self._ring is None or n < _BATCH_MIN or is_long or edge.is_pending_full():
            return edge.write_rows(fds.tolist(), packets if isinstance(packets, list) else fixed_rows(packets), now)
        is_apart = self._table.flags[fds] & _PENDING != 0
        if edge.layers.by_fd:
            is_apart |= np.fromiter(map(edge.layers.by_fd.__contains__, fds.tolist()), np.bool_, n)
        failed: list[int] = []
        free = np.arange(n)
        if np.count_nonzero(is_apart):
            # What waits of these connections goes first; what a layer encodes has a length of its own.
            free, apart = np.flatnonzero(~is_apart), np.flatnonzero(is_apart)
            rows = [bytes(packets[position]) for position in apart.tolist()]
            failed = apart[edge.write_rows(fds[apart].tolist(), rows, now)].tolist()
        offsets = np.cumsum(lengths) - lengths
        blob = b"".join(packets) if isinstance(packets, list) else packets
        sent = self._ring.send(fds[free], blob, offsets[free], lengths[free])
        left = self._take_sent(fds, packets, lengths, sent, now, free)
        return failed + left

    def _take_sent(
        self, fds: I32, packets: U8 | list[bytes], lengths: I64 | int, sent: I32, now: float, free: Rows | None = None
    ) -> list[int]:
        """Holds what the kernel did not take; the positions of those not taken. sent: of these of the packets, None:
        of all."""
        edge, n = self._edge, len(sent)
        failed: list[int] = []
        self._table.count_at[Count.WRITES] += n
        if isinstance(lengths, int) and np.count_nonzero(sent == lengths) == n:
            self._table.count_at[Count.BYTES_OUT] += n * lengths
            return failed
        wanted = lengths if free is None or isinstance(lengths, int) else lengths[free]
        for which in np.flatnonzero(sent != wanted).tolist():
            position, taken = which if free is None else int(free[which]), int(sent[which])
            if taken < 0 and (taken != -errno.EAGAIN or edge.is_pending_full()):
                failed.append(position)
            else:
                edge.hold(int(fds[position]), bytes(packets[position])[max(0, taken) :], now)
        self._table.count_at[Count.BYTES_OUT] += int(sent[sent > 0].sum())
        return failed
