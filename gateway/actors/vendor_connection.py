"""One connection to a vendor: owns a TLS stream and the HTTP/2 machine on it.

Three tasks: a reader, a writer, a clock. The machine decides, they carry out. The owner (a lane) calls `send` and gets
every tag back through `on_events`, called in the reader's or clock's turn; it must not block, and may call `send`.

Back-pressure: bytes rendered but not yet taken by the kernel are bounded by `unsent_bytes_max`; above it `capacity()`
is 0 until a `Writable` event. A peer that stops reading therefore costs that much memory and, through the deadlines of
its requests and the PING deadline, ends as LIVENESS_TIMEOUT.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
import trio

from gateway.columns import I64
from gateway.errors import CloseReason
from gateway.net.tls import ConnectFailed, close_reason_of
from gateway.vendor import Requests
from gateway.wire.h2.connection import ClientConnection, Statistics
from gateway.wire.h2.events import Event, Terminated, Writable
from gateway.wire.h2.settings import ClientConfig

OnEvents: TypeAlias = Callable[["VendorConnection", list[Event]], None]
OpenStream: TypeAlias = Callable[[], Awaitable[trio.abc.Stream]]

_READ_BYTES_MAX = 256 << 10
#: Bursts whose timing waits to be collected; the oldest are forgotten.
_TIMINGS_MAX = 1024


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    #: Four bursts of 1,000 requests of 250 bytes: enough to keep the writer busy for a turn of the loop.
    unsent_bytes_max: int = 1 << 20
    #: For the last frames and the TLS goodbye; nobody's request waits for it.
    close_timeout_s: float = 1.0


class BurstTiming(NamedTuple):
    """Of one `send`: rows, when it took them, and when their first byte was handed to the kernel (monotonic s)."""

    rows: int
    taken_s: float
    handed_s: float


class VendorConnection:
    """States: connecting, open, draining, closed. `close_reason` is None until closed, then never changes."""

    def __init__(
        self, *, open_stream: OpenStream, config: ClientConfig, limits: ConnectionLimits, on_events: OnEvents
    ) -> None:
        self._open_stream = open_stream
        self._config = config
        self._limits = limits
        self._on_events = on_events
        self._machine: ClientConnection | None = None
        self._writing_bytes = 0
        self._is_starved = False
        self._write_wanted = trio.Event()
        self._rearm_wanted = trio.Event()
        self._armed_for = math.inf
        self._is_draining = False
        self._drain_reason = CloseReason.SHUTDOWN
        self._scope = trio.CancelScope()
        self._untimed: list[tuple[int, float]] = []
        self._timings: deque[BurstTiming] = deque(maxlen=_TIMINGS_MAX)
        self.close_reason: CloseReason | None = None

    # The owner's calls

    def capacity(self) -> int:
        """Requests that `send` may take now."""
        machine = self._machine
        if machine is None or not self._has_buffer(machine):
            return 0
        return machine.capacity()

    def _has_buffer(self, machine: ClientConnection) -> bool:
        """It takes requests, and their bytes have room."""
        if self._is_draining:
            return False
        if machine.unsent_bytes() + self._writing_bytes >= self._limits.unsent_bytes_max:
            self._is_starved = True
            return False
        return True

    def send(self, requests: Requests, start: int, tags: I64, deadline: float) -> int:
        """Rows start.. are on their way as far as there is room; returns how many. tags as in
        `ClientConnection.send_requests`; deadline: monotonic s, per request."""
        machine = self._machine
        # What the machine has room for it asks itself.
        if machine is None or not self._has_buffer(machine):
            return 0
        now = trio.current_time()
        taken = machine.send_requests(requests, start, tags, now=now, deadline=deadline)
        if taken:
            self._untimed.append((taken, now))
            self._wake()
        return taken

    @property
    def machine(self) -> ClientConnection:
        """For who looks on, once connected."""
        assert self._machine is not None
        return self._machine

    def open_requests(self) -> int:
        """Requests without an answer; 0 while connecting."""
        return 0 if self._machine is None else self._machine.open_streams()

    def is_leaving(self) -> bool:
        """It takes no further request, ever."""
        return self._is_draining or (self._machine is not None and self._machine.is_leaving())

    def statistics(self) -> Statistics | None:
        """None while connecting."""
        return None if self._machine is None else self._machine.statistics()

    def take_timings(self) -> list[BurstTiming]:
        """Timings since the last call, the oldest forgotten beyond a bound."""
        timings = list(self._timings)
        self._timings.clear()
        return timings

    def drain(self, timeout_s: float, reason: CloseReason = CloseReason.SHUTDOWN) -> None:
        """No new requests from now on; closes with `reason` when the open ones have ended, at the latest after
        timeout_s."""
        if self._is_draining or self.close_reason is not None:
            return
        self._is_draining = True
        self._drain_reason = reason
        if self._machine is None:
            self.abort(reason)
            return
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + timeout_s)
        self._dispatch(self._machine.drain(reason))
        self._wake()

    def abort(self, reason: CloseReason = CloseReason.SHUTDOWN) -> None:
        """Closes now; open requests go back as refused or uncertain."""
        if self.close_reason is not None:
            return
        if self._machine is None:
            self._close_without_machine(reason)
        else:
            self._dispatch(self._machine.close(reason))
        self._scope.cancel()

    # The actor

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> CloseReason:
        """Connects, serves until the end, and returns the one reason for it, after `Terminated` went to the owner.

        `started()` once connected, or once it is clear that it will not be (`close_reason` tells).
        If cancelled: open requests went back through `Terminated` (SHUTDOWN), the stream is closed without goodbye.
        """
        try:
            with self._scope:
                await self._connect_and_serve(task_status)
        except BaseException:
            # Whatever went wrong, the tags go back. Cancellation is told by the scope, because it may come in a group.
            is_cancelled = trio.current_effective_deadline() == -math.inf
            self.abort(CloseReason.SHUTDOWN if is_cancelled else CloseReason.INTERNAL_ERROR)
            raise
        if self.close_reason is None:
            self.abort(self._drain_reason)  # it drained for longer than it was given
        assert self.close_reason is not None
        return self.close_reason

    async def _connect_and_serve(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            stream = await self._open_stream()
        except ConnectFailed as error:
            self._close_without_machine(error.reason, str(error))
            task_status.started()
            return
        try:
            self._machine = ClientConnection(config=self._config, now=trio.current_time())
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream, self._machine, nursery.cancel_scope)
                nursery.start_soon(self._keep_time, self._machine, nursery.cancel_scope)
                await self._read(stream, self._machine)
                nursery.cancel_scope.cancel()
            await self._say_goodbye(stream, self._machine)
        finally:
            await trio.aclose_forcefully(stream)

    async def _read(self, stream: trio.abc.Stream, machine: ClientConnection) -> None:
        while not machine.is_terminated():
            try:
                data = await stream.receive_some(_READ_BYTES_MAX)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                events = machine.connection_lost(close_reason_of(error))
            else:
                now = trio.current_time()
                if data:
                    events = machine.receive_data(bytes(data), now=now)
                else:
                    events = machine.connection_lost(CloseReason.PEER_CLOSED)
            self._dispatch(events)
            self._wake()

    async def _write(self, stream: trio.abc.Stream, machine: ClientConnection, done: trio.CancelScope) -> None:
        while not machine.is_terminated():
            data = machine.data_to_send()
            if not data:
                await self._write_wanted.wait()
                self._write_wanted = trio.Event()
                continue
            handed = trio.current_time()
            self._timings.extend(BurstTiming(rows, taken, handed) for rows, taken in self._untimed)
            self._untimed.clear()
            self._writing_bytes = len(data)
            try:
                await stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # What the peer said before it went may still wait to be read (a GOAWAY, the last answers): the reader
                # finds the end by itself.
                return
            self._writing_bytes = 0
            if self._is_starved and self.capacity():
                self._is_starved = False
                self._dispatch([Writable()])
        done.cancel()

    async def _keep_time(self, machine: ClientConnection, done: trio.CancelScope) -> None:
        while not machine.is_terminated():
            self._armed_for = machine.next_deadline()
            with trio.move_on_at(self._armed_for):
                await self._rearm_wanted.wait()
                self._rearm_wanted = trio.Event()
            now = trio.current_time()
            if now >= machine.next_deadline():
                self._dispatch(machine.on_deadline(now))
                self._wake()
        done.cancel()

    async def _say_goodbye(self, stream: trio.abc.Stream, machine: ClientConnection) -> None:
        """The last frames (GOAWAY) and the TLS goodbye, if the peer takes them in time."""
        if self._writing_bytes:
            return  # a write was cut off in the middle; anything behind it would be garbage to the peer
        with trio.move_on_after(self._limits.close_timeout_s):
            try:
                data = machine.data_to_send()
                if data:
                    await stream.send_all(data)
                if self.close_reason is CloseReason.PROTOCOL_ERROR:
                    await _read_away(stream)
                await stream.aclose()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    def _wake(self) -> None:
        """The writer and the clock look at the machine again, if it has something for them."""
        machine = self._machine
        if machine is None:
            return
        if machine.unsent_bytes() or machine.is_terminated():
            self._write_wanted.set()
        if machine.next_deadline() < self._armed_for or machine.is_terminated():
            self._rearm_wanted.set()

    def _dispatch(self, events: list[Event]) -> None:
        if not events:
            return
        if isinstance(events[-1], Terminated):
            self.close_reason = events[-1].reason
        self._on_events(self, events)

    def _close_without_machine(self, reason: CloseReason, text: str = "") -> None:
        none = np.zeros(0, np.int64)
        self._dispatch([Terminated(reason, none, none, 0, text)])


async def _read_away(stream: trio.abc.Stream) -> None:
    """Nothing of what the peer had sent is left unread: else the kernel would reset the connection when it is closed,
    and the peer would lose our last frame with the code that says what was wrong (RFC 9113 section 5.4.1)."""
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    while await stream.receive_some(_READ_BYTES_MAX):
        pass
