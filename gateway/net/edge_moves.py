"""Connections of the edge that change process, before their CONNECT has been answered.

A connection over plain TCP goes whole: `release` forgets it here, `adopt` takes it in over there, and nothing of it is
left behind. One whose TLS or WebSocket ends in this process cannot: what OpenSSL knows of it is here. It stays and
becomes a *relay*: the other process gets one end of a socket pair and takes it for a plain connection, and what MQTT
says passes through:

    client <--TLS--> socket, layers   [this process]   pair <---> pair   [the owner]   MQTT

Bounds: a relay reads from its pair only while the client has no pending output, so that a slow reader is the owner's
slow reader; what the pair does not take is bounded by `pending_bytes_max`, like a client's output, and then the relay
is closed. A relay costs two descriptors here and one at the owner.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.errors import CloseReason
from gateway.net.edge_table import CLOSE_REASON_INDEX, ConnectionTable, Count

if TYPE_CHECKING:
    from gateway.net.edge import Edge

#: One read of what the owner says: a burst of messages to one device.
_READ_BYTES = 65_536


class EdgeMoves:
    """Owned by the edge. outer: client's descriptor -> our end of its pair; inner: the way back."""

    def __init__(self, edge: Edge, table: ConnectionTable, epoll: select.epoll) -> None:
        self._edge = edge
        self._table = table
        self._epoll = epoll
        self.outer: dict[int, int] = {}
        self.inner: dict[int, int] = {}
        self._unsent: dict[int, bytearray] = {}
        self._resting: set[int] = set()

    def adopt(self, fd: int, address: str, now: float) -> bool:
        """A connection that another process has accepted shakes hands here; False where it was closed instead.

        fd: -1 for one that was lost on the way, for want of descriptors or because nothing is taken any more.
        """
        edge, table = self._edge, self._table
        if fd < 0:
            table.count_at[Count.MOVES_LOST] += 1
            return False
        table.count_at[Count.ADOPTED] += 1
        reason = edge.refusal_of(address, now) if address else None
        limit = Count.REFUSED_ADDRESS
        # Those that shake hands here may be other workers': where all houses are full of them, each waiting for room in
        # another one, nobody's own devices would ever get in.
        if reason is None and (fd >= edge.settings.files_max - edge.settings.files_reserve or not edge.has_room()):
            limit, reason = Count.REFUSED_CONNECTIONS_MAX, CloseReason.TOO_MANY_CONNECTIONS
        if reason is not None:
            os.close(fd)
            table.count_at[limit] += 1
            table.closed_at[CLOSE_REASON_INDEX[reason]] += 1
            return False
        os.set_blocking(fd, False)
        edge.begin_handshake(fd, address, now)
        return True

    def release(self, fd: int) -> None:
        """The connection is another process's; here nothing is left of it. It has not ended: no close is counted."""
        self._table.count_at[Count.MOVED] += 1
        # The other process has the same open file: the kernel would go on reporting it here.
        self._epoll.unregister(fd)
        self._edge.forget(fd)
        self._table.free(fd)
        os.close(fd)

    def relay(self, fd: int, pass_on: Callable[[int], bool]) -> bool:
        """What the layers of this connection bring goes to a socket pair from now on; False: nothing has changed.

        pass_on: gives its other end to the owner, as a descriptor that is closed here afterwards; False if it cannot.
        """
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            return False
        with ours, theirs:
            settings = self._edge.settings
            if max(ours.fileno(), theirs.fileno()) >= settings.files_max - settings.files_reserve:
                return False
            ours.setblocking(False)
            theirs.setblocking(False)
            if not pass_on(theirs.fileno()):
                return False
            inner = ours.detach()
        self._edge.end_handshake(fd)
        self._edge.partial.drop(fd)
        self._table.rest(fd)
        self._table.count_at[Count.RELAYED] += 1
        self.outer[fd] = inner
        self.inner[inner] = fd
        self._epoll.register(inner, select.EPOLLIN)
        return True

    def take_inner(self, inner: int, events: int, now: float) -> None:
        """The owner has said something, or takes what waited for it, or has ended the connection."""
        fd = self.inner[inner]
        if events & select.EPOLLOUT:
            self._flush(inner)
        if not events & ~select.EPOLLOUT:
            return
        try:
            data = os.read(inner, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._edge.write(fd, data, now)
            if self._edge.has_pending(fd) and fd in self.outer:
                self._epoll.unregister(inner)
                self._resting.add(inner)
        else:
            self._edge.close(fd, CloseReason.RELAY_ENDED)

    def client_read_all(self, fd: int) -> None:
        """The client has no pending output any more: the owner is read again."""
        inner = self.outer.get(fd, -1)
        if inner in self._resting:
            self._resting.discard(inner)
            waits = select.EPOLLOUT if inner in self._unsent else 0
            self._epoll.register(inner, select.EPOLLIN | waits)

    def take_outer(self, fds: list[int], reads: list[bytes]) -> tuple[list[int], list[bytes]]:
        """The reads without those of relays, which are on their way to the owners."""
        kept = [(fd, data) for fd, data in zip(fds, reads, strict=True) if not self._pass_in(fd, data)]
        return [fd for fd, _ in kept], [data for _, data in kept]

    def _pass_in(self, fd: int, data: bytes) -> bool:
        inner = self.outer.get(fd)
        if inner is None:
            return False
        unsent = self._unsent.get(inner)
        if unsent is None:
            try:
                sent = os.write(inner, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The owner has gone; the pair says so itself at the next poll.
                return True
            if sent == len(data):
                return True
            unsent = self._unsent[inner] = bytearray()
            data = data[sent:]
            if inner not in self._resting:
                self._epoll.modify(inner, select.EPOLLIN | select.EPOLLOUT)
        unsent += data
        if len(unsent) > self._edge.settings.pending_bytes_max:
            self._edge.close(fd, CloseReason.SLOW_CONSUMER)
        return True

    def _flush(self, inner: int) -> None:
        unsent = self._unsent.get(inner)
        if unsent is None:
            return
        try:
            sent = os.write(inner, unsent)
        except OSError:
            return
        del unsent[:sent]
        if not unsent:
            del self._unsent[inner]
            self._epoll.modify(inner, select.EPOLLIN)

    def end(self, fd: int) -> None:
        """The client's connection is over; the owner sees the end of its pair."""
        inner = self.outer.pop(fd, None)
        if inner is not None:
            del self.inner[inner]
            self._unsent.pop(inner, None)
            self._resting.discard(inner)
            os.close(inner)
