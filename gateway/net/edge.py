"""The long-link edge: bare file descriptors in one epoll set, whose own descriptor is awaited from trio.

For an idle connection nothing exists but its row in `ConnectionTable` and what the kernel keeps. Partial input, pending
output and handshakes in progress have entries in side tables while they last; each table has a limit with a name, and
dict order tells the oldest entry, which is the one that has to go.

The edge moves bytes and closes connections; what the bytes mean is the long-link actor's affair. It never waits: every
call does a bounded piece of work and returns.

Theory of operation
* Level-triggered, one read of at most `read_bytes` per connection and poll. No second read that would only find out
  that there is nothing more (a system call per message), and the kernel's ready list keeps it fair. Edge-triggered
  was measured no faster (11 to 14 us of CPU per push and PUBACK either way, 5,000 devices).
* Where the system has io_uring, one system call serves the sockets of a poll, or of a call of rows (edge_calls.py).
* A poll first reads everything, then the actor decides, then listeners accept: a descriptor that was closed is not
  reused before the reads that were made of it are dealt with.
* Socket options are set on the listener and inherited by what it accepts (Linux): no call per connection.
* Out of descriptors (EMFILE, ENFILE) or memory, accepting pauses instead of spinning; clients stay in the queue.
* PROXY headers, TLS and WebSocket are layers between a descriptor and MQTT (edge_codec.py), in a side table that is
  empty where they are not used. Reads for their handshakes, which may cost a signature, are counted per step; what is
  too much stays in the kernel. Limits of pending output are checked before a layer encodes: what it has encoded must be
  sent, so that pending output may be over its limit by what the layers add to one write.
* A connection that ends in a layer is reported as ended by the poll after, so that MQTT sees first what came before. A
  write error closes nothing by itself: epoll reports the same descriptor, so each connection ends in one place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import I32, I64, U32, fixed_rows
from gateway.errors import CloseReason, ConfigError
from gateway.net.edge_backlog import WriteBacklog
from gateway.net.edge_calls import EdgeCalls, Fours, all_readable
from gateway.net.edge_codec import Layers
from gateway.net.edge_handshakes import ADOPTED, Handshakes
from gateway.net.edge_layers import LayerTable
from gateway.net.edge_listen import open_listener
from gateway.net.edge_moves import EdgeMoves
from gateway.net.edge_partial import PartialTable
from gateway.net.edge_settings import EdgeSettings
from gateway.net.edge_table import CLOSE_REASON_INDEX, FLAG_MQTT_5, FLAG_PENDING, ConnectionTable, Count
from gateway.pace import Pace
from gateway.wire.mqtt.session import SessionState

#: EMFILE, ENFILE: no descriptor; ENOBUFS, ENOMEM: no kernel memory. As in trio's serve_listeners.
_ACCEPT_PAUSE_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

#: The peer is gone; there is nobody to say anything to.
_NO_LAST_WORDS = frozenset({CloseReason.PEER_RESET, CloseReason.TLS_ERROR, CloseReason.TLS_HANDSHAKE_FAILED})


class Reads(NamedTuple):
    """What one poll read. fds and data have one length; no descriptor comes twice, in `fours` neither."""

    fds: list[int]
    data: list[bytes]
    ended: list[tuple[int, CloseReason]]
    fours: Fours = Fours()


class Closed(NamedTuple):
    """Connections that ended since the last `take_closed`, those that never logged in left out.

    session_expiry_s, flags, in_flight: (n,) int64, as the table had them at the end.
    """

    slots: I32
    fds: I32
    generations: U32
    reasons: list[CloseReason]
    session_expiry_s: I64
    flags: I64
    in_flight: I64


class Edge:
    """Sockets, side tables and closes of the long link. Owned by one actor; not thread-safe."""

    def __init__(
        self,
        settings: EdgeSettings,
        table: ConnectionTable,
        farewell: Callable[[CloseReason, int], bytes | None] = lambda reason, packet_bytes_max: None,
    ) -> None:
        """farewell: the last words to a connection flagged MQTT 5.0, by the reason for which it is closed and by the
        longest packet that its client takes."""
        self.settings = settings
        self._farewell = farewell
        self._table = table
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._listeners: dict[int, socket.socket] = {}
        self._listener_index: dict[int, int] = {}
        # In turns: one with a long queue must not keep the others waiting.
        self._ready_listeners: dict[int, None] = {}
        self.accept_again_at: float | None = None  # When a pause or rest of accepting ends.
        # Side tables: an entry exists while there is something to keep. Oldest first.
        self.layers = LayerTable(settings, table)
        self.handshakes = Handshakes()
        self.partial = PartialTable(settings, table, self.close)
        self.join_partial, self.keep_partial = self.partial.join, self.partial.keep
        self._pending: dict[int, bytearray] = {}
        self._pending_since: dict[int, float] = {}
        self._pending_total_bytes = 0
        self._ended: list[tuple[CloseReason, int, int, int, int, int, int]] = []
        self.moves = EdgeMoves(self, table, self._epoll)
        self.calls = EdgeCalls(self, table, is_batched=settings.io_uring)
        self.backlog = WriteBacklog(table, self.calls, self._write_late)
        self.pace = Pace(settings.step_s_max)
        #: The last poll found as much as it asked for.
        self.may_have_more = False
        self.refusal_of: Callable[[str, float], CloseReason | None] = lambda address, now: None
        """Asked at accept with (address, now): why nothing is read from there."""

    def fileno(self) -> int:
        """The descriptor to wait on until `poll` has something to do."""
        return self._epoll.fileno()

    def wake(self) -> None:
        """Makes the descriptor readable, so that whoever waits on it looks up. Nothing, once it is disposed of."""
        if self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)

    def statistics(self) -> dict[str, int]:
        """Sizes of the side tables, entries and bytes."""
        return {
            "handshaking": len(self.handshakes),
            "partial": len(self.partial),
            "partial_bytes": self.partial.total_bytes,
            "pending": len(self._pending),
            "pending_bytes": self._pending_total_bytes,
            "backlog": len(self.backlog),
            "backlog_bytes": self.backlog.size_bytes,
            "listeners": len(self._listeners),
            "layered": len(self.layers.by_fd),
            "opening": len(self.layers.opening),
        }

    # Listening and accepting.

    def listen(self) -> list[tuple[str, int]]:
        """Opens all listeners and returns their (host, port). Raises: ConfigError for an address that cannot be had."""
        addresses = []
        self.layers.load_certificates()
        for index, settings in enumerate(self.settings.listeners):
            key = f"long_link.listeners[{index}].address"
            try:
                listener = open_listener(settings, self.settings)
            except OSError as error:
                where, why = f"{settings.host}:{settings.port}", error.strerror or error
                raise ConfigError(key, where, f"an address to bind ({why})") from error
            self._listeners[listener.fileno()] = listener
            self._listener_index[listener.fileno()] = index
            self._epoll.register(listener.fileno(), select.EPOLLIN)
            name = listener.getsockname()
            addresses.append((str(name[0]), int(name[1])))
        return addresses

    def stop_listening(self) -> None:
        """No connection is accepted from now on. Idempotent."""
        for fd, listener in self._listeners.items():
            if self.accept_again_at is None:
                self._epoll.unregister(fd)
            listener.close()
        self._listeners.clear()
        self._listener_index.clear()
        self._ready_listeners.clear()
        self.accept_again_at = None

    def accept(self, now: float, accepts_max: int | None = None) -> int:
        """Accepts what the last poll announced, at most `accepts_per_step` or accepts_max; returns how many."""
        accepted, settings_max = 0, self.settings.accepts_per_step
        for _ in range(settings_max if accepts_max is None else min(settings_max, accepts_max)):
            if not self._ready_listeners:
                break
            fd = next(iter(self._ready_listeners))
            listener = self._listeners[fd]
            try:
                connection, address = listener.accept()
            except BlockingIOError:
                del self._ready_listeners[fd]
                continue
            except OSError as error:
                if error.errno in _ACCEPT_PAUSE_ERRNOS:
                    self._pause_accepting(now)
                # Anything else concerns the one connection that died in the queue (accept(2), "Error handling").
                continue
            accepted += 1
            del self._ready_listeners[fd]
            self._ready_listeners[fd] = None
            index = self._listener_index[fd]
            # Behind a balancer its own address is that of everybody; who it is stands in the header.
            source = "" if self.settings.listeners[index].proxy_protocol else str(address[0])
            if self._is_welcome(connection, source, now):
                self._take_in(connection, source, index, now)
        # Level-triggered: a listener with more in its queue is announced again by the next poll.
        self._ready_listeners.clear()
        return accepted

    def _is_welcome(self, connection: socket.socket, address: str, now: float) -> bool:
        """False for a connection that was closed at once, counted, because of its address or for want of files."""
        reason = self.refusal_of(address, now) if address else None
        limit = Count.REFUSED_ADDRESS
        if reason is None:
            # Descriptors are given out lowest first: so many files are open when one of this number comes.
            if connection.fileno() < self.settings.files_max - self.settings.files_reserve:
                return True
            limit, reason = Count.REFUSED_FILES_RESERVE, CloseReason.TOO_MANY_CONNECTIONS
            self._pause_accepting(now)
        connection.close()
        self._table.count_at[Count.ACCEPTED] += 1
        self._table.count_at[limit] += 1
        self._table.closed_at[CLOSE_REASON_INDEX[reason]] += 1
        return False

    def _pause_accepting(self, now: float) -> None:
        self.rest_accepting(now + self.settings.accept_pause_s)
        self._table.count_at[Count.ACCEPT_PAUSED] += 1

    def rest_accepting(self, until: float) -> None:
        """Who connects until then stays in the kernel's queue. A pause that has begun stays as it is."""
        if self.accept_again_at is None:
            for fd in self._listeners:
                self._epoll.unregister(fd)
            self._ready_listeners.clear()
            self.accept_again_at = until

    def resume_accepting(self, now: float) -> None:
        """Ends a pause that is over."""
        if self.accept_again_at is not None and now >= self.accept_again_at:
            self.accept_again_at = None
            for fd in self._listeners:
                self._epoll.register(fd, select.EPOLLIN)

    def _take_in(self, connection: socket.socket, address: str, listener_index: int, now: float) -> None:
        table, settings, listener = self._table, self.settings, self.settings.listeners[listener_index]
        table.count_at[Count.ACCEPTED] += 1
        if connection.fileno() >= table.files_max or (table.n_open >= settings.connections_max and not self.handshakes):
            self._turn_away(connection, Count.REFUSED_CONNECTIONS_MAX)
            return
        if listener.is_layered and self.layers.is_full():
            if not self.layers.opening:
                self._turn_away(connection, Count.REFUSED_LAYERED_CONNECTIONS_MAX)
                return
            self._evict(self.layers.opening.first_to_go(), Count.EVICTED_LAYERED_CONNECTIONS_MAX)
        connection.setblocking(False)
        fd = connection.detach()
        if not self._make_room_at(address) and (
            len(self.handshakes) >= settings.handshaking_max or table.n_open >= settings.connections_max
        ):
            self._evict(self.handshakes.first_to_go(), Count.EVICTED_HANDSHAKING_MAX)
        self.begin_handshake(fd, address, now, listener_index)
        self.layers.add(fd, listener_index, now)

    def begin_handshake(self, fd: int, address: str, now: float, listener_index: int = ADOPTED) -> None:
        """The descriptor is a connection of which CONNECT is expected."""
        self._epoll.register(fd, select.EPOLLIN)
        self._table.open(fd, now + self.settings.handshake_timeout_s)
        self.handshakes.begin(fd, listener_index, address)

    def _turn_away(self, connection: socket.socket, limit: Count) -> None:
        connection.close()
        self._table.count_at[limit] += 1
        self._table.closed_at[CLOSE_REASON_INDEX[CloseReason.TOO_MANY_CONNECTIONS]] += 1

    def _make_room_at(self, address: str) -> bool:
        """One more may shake hands from this address; true when the oldest one had to go for it."""
        if self.handshakes.count_at(address) < self.settings.handshaking_per_address_max:
            return False
        self._evict(self.handshakes.oldest_at(address), Count.EVICTED_HANDSHAKING_PER_ADDRESS_MAX)
        return True

    def _on_real_address(self, fd: int, address: str, now: float) -> None:
        """A balancer has said who is there: from now on it counts as one of that address, unless that is refused."""
        reason = self.refusal_of(address, now)
        if reason is not None:
            self._table.count_at[Count.REFUSED_ADDRESS] += 1
            self.close(fd, reason)
            return
        self._make_room_at(address)
        self.handshakes.set_address(fd, address)

    def has_room(self) -> bool:
        """One more connection may be here; of a full house the one that has shaken hands longest goes for it."""
        if self._table.n_open >= self.settings.connections_max:
            if not self.handshakes:
                return False
            self._evict(self.handshakes.first_to_go(), Count.EVICTED_HANDSHAKING_MAX)
        return True

    def _evict(self, fd: int, limit: Count) -> None:
        self._table.count_at[limit] += 1
        self.close(fd, CloseReason.TOO_MANY_CONNECTIONS)

    def address_of(self, fd: int) -> str:
        """Where a connection that shakes hands comes from; "" once it has, or where it is not known."""
        return self.handshakes.address_of(fd)

    def end_handshake(self, fd: int) -> None:
        """The connection no longer counts as shaking hands. Idempotent."""
        self.handshakes.end(fd)

    # Reading.

    def poll(self, now: float) -> Reads:
        """Reads once from each of the connections that have something, at most as many as fit into a step."""
        ended = self.layers.take_ending()
        opening, n_openings = self.layers.opening.listener_of, 0
        inner, has_inner = self.moves.inner, bool(self.moves.inner)
        listeners, wake_fd, readable, writable = self._listeners, self._wake_fd, select.EPOLLIN, select.EPOLLOUT
        ready_max = self.pace.items()
        ready = self._epoll.poll(0, ready_max)
        self.may_have_more = len(ready) >= ready_max
        # The usual poll needs no look at each.
        to_read = [] if opening or inner else all_readable(ready, listeners, wake_fd)
        for fd, events in () if to_read else ready:
            if fd in listeners:
                self._ready_listeners[fd] = None
                continue
            if fd == wake_fd:
                os.eventfd_read(fd)
                continue
            if inner and fd in inner:
                self.moves.take_inner(fd, events, now)
                continue
            if events != readable and events & writable:
                self._flush(fd)
                if events == writable:
                    continue
            if opening and fd in opening:
                n_openings += 1
                if n_openings > self.settings.openings_per_step:
                    continue
            to_read.append(fd)
        if has_inner:
            # An owner may have ended its client just now, whose number is nobody's any more, or another thread's.
            to_read = [fd for fd in to_read if self._table.state_at[fd]]
        fds, reads, fours = self.calls.read(to_read, ended)
        self._table.count_at[Count.READS] += len(fds) + len(fours.fds)
        self._table.count_at[Count.BYTES_IN] += sum(map(len, reads)) + fours.words.size
        if self.layers.by_fd:
            fds, reads, fours = fds + fours.fds.tolist(), reads + fixed_rows(fours.words), Fours()
            fds, reads = self._through_layers(fds, reads, now)
            if self.moves.outer:
                fds, reads = self.moves.take_outer(fds, reads)
            ended += self.layers.take_ending(after=set(fds))
        return Reads(fds, reads, ended, fours)

    def _through_layers(self, fds: list[int], reads: list[bytes], now: float) -> tuple[list[int], list[bytes]]:
        """The same reads as MQTT sees them; those that bring it nothing are left out."""
        by_fd, state_at = self.layers.by_fd, self._table.state_at
        kept: list[tuple[int, bytes]] = []
        for fd, data in zip(fds, reads, strict=True):
            layers = by_fd.get(fd)
            if layers is None:
                kept.append((fd, data))
                continue
            payload, answer, address = self.layers.receive_data(fd, layers, data)
            if address is not None:
                self._on_real_address(fd, address, now)
            if answer and state_at[fd] != SessionState.FREE:
                if self._has_room(fd, len(answer)):
                    self._put(fd, answer, now)
                else:
                    self.close(fd, CloseReason.SLOW_CONSUMER)
            if payload:
                kept.append((fd, payload))
        # Some may have been closed meanwhile: evicted, or because they do not read what they are answered.
        kept = [row for row in kept if state_at[row[0]] != SessionState.FREE]
        return [fd for fd, _ in kept], [data for _, data in kept]

    # Writing.

    def write(self, fd: int, data: bytes | bytearray, now: float) -> None:
        """Writes a control packet, or keeps it as pending; a peer that lets too much pile up is closed."""
        if not self._has_room(fd, len(data)):
            self.close(fd, CloseReason.SLOW_CONSUMER)
            return
        layers = self.layers.by_fd.get(fd)
        self._put(fd, data if layers is None else layers.send(bytes(data)), now)

    def _write_late(self, fd: int, data: bytes, now: float) -> None:
        """The same for a row that was taken before."""
        if self.is_pending_full():
            self.close(fd, CloseReason.SLOW_CONSUMER)
        else:
            self.write(fd, data, now)

    def _has_room(self, fd: int, size: int) -> bool:
        """Whether the connection may be given that much output; always, while none is pending."""
        pending = self._pending.get(fd)
        return pending is None or (
            len(pending) + size <= self.settings.pending_bytes_max and not self.is_pending_full()
        )

    def _put(self, fd: int, data: bytes | bytearray, now: float) -> None:
        """Writes or keeps what there was room for, in the form in which it goes to the socket."""
        if fd in self._pending:
            self.hold(fd, data, now)
            return
        try:
            sent = os.write(fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        self._table.count_at[Count.WRITES] += 1
        self._table.count_at[Count.BYTES_OUT] += sent
        if sent != len(data):
            self.hold(fd, data[sent:], now)

    def write_rows(self, fds: Sequence[int], packets: Sequence[bytes | memoryview], now: float) -> list[int]:
        """Writes one buffer per connection, no connection twice; returns the positions that were not taken.

        Not taken: pending output full, or the peer is gone. What is taken is on its way or pending, whole.
        """
        failed: list[int] = []
        write, pending, pending_bytes_max = os.write, self._pending, self.settings.pending_bytes_max
        is_full = self.is_pending_full()
        bytes_out = 0
        by_fd, n_layered = self.layers.by_fd, 0
        for position, (fd, packet) in enumerate(zip(fds, packets, strict=True)):
            if by_fd and (layers := by_fd.get(fd)) is not None:
                n_layered += 1
                if is_full or len(pending.get(fd, b"")) + len(packet) > pending_bytes_max:
                    failed.append(position)
                else:
                    self._put(fd, layers.send(bytes(packet)), now)
                    is_full = self.is_pending_full()
                continue
            if fd in pending:
                if is_full or len(pending[fd]) + len(packet) > pending_bytes_max:
                    failed.append(position)
                else:
                    self.hold(fd, packet, now)
                continue
            if len(packet) > pending_bytes_max:
                failed.append(position)
                continue
            try:
                sent = write(fd, packet)
            except BlockingIOError:
                if is_full:
                    failed.append(position)
                    continue
                sent = 0
            except OSError:
                failed.append(position)
                continue
            bytes_out += sent
            if sent != len(packet):
                self.hold(fd, packet[sent:], now)
                is_full = self.is_pending_full()
        self._table.count_at[Count.WRITES] += len(fds) - n_layered  # `_put` has counted those
        self._table.count_at[Count.BYTES_OUT] += bytes_out
        return failed

    @property
    def is_plain(self) -> bool:
        """Nobody has pending output or a layer."""
        return not self._pending and not self.layers.by_fd

    def is_pending_full(self) -> bool:
        return self._pending_total_bytes >= self.settings.pending_total_bytes_max

    def hold(self, fd: int, data: bytes | bytearray | memoryview, now: float) -> None:
        """What the kernel did not take waits until it does."""
        pending = self._pending.get(fd)
        if pending is None:
            self._table.count_at[Count.WRITES_SHORT] += 1
            self._pending[fd] = bytearray(data)
            self._pending_since[fd] = now
            self._table.flags_at[fd] |= FLAG_PENDING
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        else:
            pending += data
        self._pending_total_bytes += len(data)

    def _flush(self, fd: int) -> None:
        """Writes pending output as far as the kernel takes it. An error is left to the read of the same descriptor."""
        pending = self._pending.get(fd)
        if pending is None:
            return
        try:
            sent = os.write(fd, pending)
        except OSError:
            return
        self._table.count_at[Count.WRITES] += 1
        self._table.count_at[Count.BYTES_OUT] += sent
        del pending[:sent]
        self._pending_total_bytes -= sent
        if not pending:
            self._drop_pending(fd)
            self._epoll.modify(fd, select.EPOLLIN)
            self.moves.client_read_all(fd)

    def has_pending(self, fd: int) -> bool:
        """Output of the connection waits for its peer to read."""
        return fd in self._pending

    def _drop_pending(self, fd: int) -> None:
        pending = self._pending.pop(fd, None)
        if pending is not None:
            del self._pending_since[fd]
            self._pending_total_bytes -= len(pending)
            self._table.flags_at[fd] &= ~FLAG_PENDING & 0xFF

    # Ending.

    def close_overdue(self, now: float, closes_max: int) -> int:
        """Closes at most `closes_max` connections that have been silent, half-spoken or slow for too long."""
        table = self._table
        closes = 0
        for fd in table.overdue(now)[:closes_max].tolist():
            connected = table.state_at[fd] == SessionState.CONNECTED
            self.close(fd, CloseReason.KEEPALIVE_TIMEOUT if connected else CloseReason.HANDSHAKE_TIMEOUT)
            closes += 1
        for since, timeout_s, reason in (
            (self.partial.since, self.settings.half_packet_timeout_s, CloseReason.HALF_FRAME_TIMEOUT),
            (self._pending_since, self.settings.stall_timeout_s, CloseReason.SLOW_CONSUMER),
        ):
            while since and closes < closes_max:
                fd, began = next(iter(since.items()))
                if now - began < timeout_s:
                    break
                self.close(fd, reason)
                closes += 1
        return closes

    def close(self, fd: int, reason: CloseReason) -> None:
        """Ends an open connection, counted under its one reason; reported by the next `take_closed`."""
        table = self._table
        if table.flags_at[fd] & FLAG_MQTT_5 and fd not in self._pending:
            # Pending output means a packet cut in two: nothing may follow it. What is held back now is dropped below.
            farewell = self._farewell(reason, table.packet_bytes_max_at[fd])
            if farewell is not None:
                table.count_at[Count.FAREWELLS] += 1
                self.write(fd, farewell, 0.0)
        was_pending = fd in self._pending
        layers = self.forget(fd)
        if layers is not None and not was_pending and reason not in _NO_LAST_WORDS:
            self._say_last_words(fd, layers, reason)
        self.moves.end(fd)
        table.closed_at[CLOSE_REASON_INDEX[reason]] += 1
        if table.state_at[fd] == SessionState.CONNECTED:
            last = (table.session_expiry_s_at[fd], table.flags_at[fd], table.in_flight_at[fd])
            self._ended.append((reason, table.slot_at[fd], fd, table.generation_at[fd], *last))
        table.free(fd)
        # The kernel drops a closed descriptor from the epoll set by itself.
        os.close(fd)

    def forget(self, fd: int) -> Layers | None:
        """The side tables have nothing of the connection any more; returns its layers."""
        self.end_handshake(fd)
        self.partial.drop(fd)
        self._drop_pending(fd)
        return self.layers.remove(fd)

    def _say_last_words(self, fd: int, layers: Layers, reason: CloseReason) -> None:
        """Close and close_notify, as far as the kernel takes them at once."""
        words = layers.close(reason)
        if words:
            with contextlib.suppress(OSError):
                os.write(fd, words)

    def has_closed(self) -> bool:
        return bool(self._ended)

    def take_closed(self) -> Closed:
        """The logged-in connections that ended since the last call, in the order in which they did."""
        ended, self._ended = self._ended, []
        slots, fds, generations, *last = np.array([row[1:] for row in ended], np.int64).reshape(len(ended), 6).T
        reasons = [row[0] for row in ended]
        return Closed(slots.astype(np.int32), fds.astype(np.int32), generations.astype(np.uint32), reasons, *last)

    def close_some(self, reason: CloseReason, closes_max: int) -> int:
        """Closes up to `closes_max` connections, whatever they are doing; returns how many."""
        fds = np.flatnonzero(self._table.state[: self._table.high_water])[:closes_max].tolist()
        for fd in fds:
            self.close(fd, reason)
        return len(fds)

    def dispose(self) -> None:
        """Gives the descriptors of the edge itself back. All connections must be closed before."""
        self.stop_listening()
        self.calls.dispose()
        self.backlog.clear()
        self._epoll.close()
        os.close(self._wake_fd)
        self._wake_fd = -1
