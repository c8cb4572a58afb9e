"""A connection to a vendor that speaks HTTP/1.1: a bundle of sockets, to its pool and its lanes one connection.

The machine (wire/http1/bundle.py) decides which row goes over which socket and when another is opened or closed. Here
each socket has two tasks, a reader and a writer: the reader is always there, so that a vendor's goodbye is seen as it
comes and an answer may come before its request has left. One more task reports: what all sockets heard in one turn of
the loop reaches the owner as one list of events, since settling a row costs a lane little and a call of it much.

The owner calls `send` and gets every tag back through `on_events`, called in the reporter's turn; it must not block,
and may call `send`, `drain` or `abort`. Memory is bounded by the rows in flight (`sockets_max + queue_max`), each with
its request and at most `header_bytes_max + body_bytes_max` of its answer.

Waits for: the network. Is waited for by: nobody.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol, TypeAlias

import trio

from gateway.actors.bell import Bell
from gateway.columns import I64
from gateway.errors import CloseReason
from gateway.net.tls import ConnectFailed, close_reason_of
from gateway.net.tls_stream import TlsStream
from gateway.vendor import Requests
from gateway.wire.h2.events import Event, Terminated
from gateway.wire.http1.bundle import Bundle, Statistics
from gateway.wire.http1.settings import Http1Config

OnEvents: TypeAlias = Callable[["Http1VendorConnection", list[Event]], None]
OpenStream: TypeAlias = Callable[[], Awaitable[trio.abc.Stream]]

_READ_BYTES_MAX = 64 << 10


class SocketObserver(Protocol):
    """Each socket is a connection with one close reason; the bundle is none."""

    def connected(self) -> None: ...

    def closed(self, reason: CloseReason, text: str, *, was_open: bool) -> None:
        """was_open: it was connected before."""
        ...


class _End(NamedTuple):
    reason: CloseReason
    text: str


class _Socket:
    """What the tasks of one socket share. end: why it is over, once it is. is_writing: a write has begun and has not
    come to its end, so a goodbye behind it would be garbage."""

    __slots__ = ("end", "is_writing", "scope", "write_wanted")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.write_wanted = trio.Event()
        self.end: _End | None = None
        self.is_writing = False


class Http1VendorConnection:
    """States: connecting, open, draining, closed. `close_reason` is None until closed, then never changes."""

    def __init__(
        self,
        *,
        open_stream: OpenStream,
        config: Http1Config,
        close_timeout_s: float,
        on_events: OnEvents,
        observer: SocketObserver,
    ) -> None:
        """close_timeout_s: for the TLS goodbye of one socket; nobody's request waits for it."""
        self._open_stream = open_stream
        self._close_timeout_s = close_timeout_s
        self._on_events = on_events
        self._observer = observer
        self._bundle = Bundle(config)
        self._sockets: dict[int, _Socket] = {}
        self._nursery: trio.Nursery | None = None
        self._news = Bell()
        self._rearm_wanted = trio.Event()
        self._armed_for = math.inf
        self._scope = trio.CancelScope()
        self._drain_reason = CloseReason.SHUTDOWN
        self.close_reason: CloseReason | None = None

    # The owner's calls

    def capacity(self) -> int:
        """Requests that `send` may take now."""
        return self._bundle.capacity()

    def send(self, requests: Requests, start: int, tags: I64, deadline: float) -> int:
        """Rows start.. are on their way as far as there is room; returns how many. tags as in
        `Bundle.send_requests`; deadline: monotonic s, per request."""
        taken = self._bundle.send_requests(requests, start, tags, now=trio.current_time(), deadline=deadline)
        if taken:
            self._carry_out()
        return taken

    def open_requests(self) -> int:
        """Requests taken and not ended."""
        return self._bundle.open_count()

    def is_leaving(self) -> bool:
        """It takes no further request, ever."""
        return self._bundle.is_leaving()

    def statistics(self) -> Statistics | None:
        """None while connecting."""
        return self._bundle.statistics() if self._bundle.is_connected else None

    def drain(self, timeout_s: float, reason: CloseReason = CloseReason.SHUTDOWN) -> None:
        """No new requests from now on; those not yet written go back. Closes with `reason` when the others have ended,
        at the latest after timeout_s."""
        if self.close_reason is not None:
            return
        self._drain_reason = reason
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + timeout_s)
        self._bundle.drain(reason)
        self._carry_out()

    def abort(self, reason: CloseReason = CloseReason.SHUTDOWN) -> None:
        """Closes now; open requests go back as refused or uncertain."""
        self._bundle.close(reason)
        self._carry_out()

    # The actor

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> CloseReason:
        """Connects, serves until the end, and returns the one reason for it, after `Terminated` went to the owner.

        If cancelled: open requests went back through `Terminated` (SHUTDOWN), the streams are closed without goodbye.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery, trio.open_nursery() as clock:
                    clock.start_soon(self._keep_time)
                    self._carry_out()
                    task_status.started()
                    await self._report()
                    clock.cancel_scope.cancel()
                    # The sockets, told to close, say goodbye.
        except BaseException:
            # Whatever went wrong, the tags go back. Cancellation is told by the scope, because it may come in a group.
            is_cancelled = trio.current_effective_deadline() == -math.inf
            self._end(CloseReason.SHUTDOWN if is_cancelled else CloseReason.INTERNAL_ERROR)
            raise
        self._end(self._drain_reason)  # it drained for longer than it was given
        assert self.close_reason is not None
        return self.close_reason

    async def _report(self) -> None:
        """Until `Terminated`: what the machine has to tell goes to the owner, once a turn."""
        while self.close_reason is None:
            if not self._bundle.has_events:
                await self._news.wait()
            self._tell()
            await trio.lowlevel.checkpoint()

    def _tell(self) -> None:
        events = self._bundle.take_events()
        if not events:
            return
        if isinstance(events[-1], Terminated):
            self.close_reason = events[-1].reason
        self._on_events(self, events)

    def _end(self, reason: CloseReason) -> None:
        """The rest of the tags goes back now: no task is left that could report it."""
        self._nursery = None
        self.abort(reason)
        if self.close_reason is None:
            self._tell()

    def _carry_out(self) -> None:
        """What the machine has decided since the last call."""
        bundle, nursery = self._bundle, self._nursery
        for number in bundle.take_writable():
            if number in self._sockets:
                self._sockets[number].write_wanted.set()
        for closing in bundle.take_closing():
            socket = self._sockets.get(closing.number)
            if socket is not None and socket.end is None:
                socket.end = _End(closing.reason, closing.text)
                socket.scope.cancel()
        if nursery is not None:
            for _ in range(bundle.sockets_wanted(trio.current_time())):
                # Known from now on: it may be told to close before its task has begun.
                number, socket = bundle.connecting(), _Socket()
                self._sockets[number] = socket
                nursery.start_soon(self._run_socket, number, socket)
        if bundle.has_events:
            self._news.ring()
        if bundle.next_deadline() < self._armed_for:
            self._rearm_wanted.set()

    async def _keep_time(self) -> None:
        while True:
            self._armed_for = self._bundle.next_deadline()
            with trio.move_on_at(self._armed_for):
                await self._rearm_wanted.wait()
                self._rearm_wanted = trio.Event()
            now = trio.current_time()
            if now >= self._bundle.next_deadline():
                self._bundle.on_deadline(now)
                self._carry_out()

    # One socket

    async def _run_socket(self, number: int, socket: _Socket) -> None:
        """From connecting to closed. If cancelled: the stream is closed without goodbye, and `run` says what becomes
        of its row."""
        stream: trio.abc.Stream | None = None
        try:
            with socket.scope:
                try:
                    stream = await self._open_stream()
                except ConnectFailed as error:
                    socket.end = _End(error.reason, str(error))
                    self._bundle.connect_failed(number, error.reason, str(error), trio.current_time())
                    self._carry_out()
                else:
                    await self._serve(number, socket, stream)
            if stream is not None:
                await self._say_goodbye(socket, stream)
        finally:
            # Told first: the last await raises if this was cancelled.
            end = socket.end or _End(CloseReason.SHUTDOWN, "")
            self._observer.closed(end.reason, end.text, was_open=stream is not None)
            del self._sockets[number]
            if stream is not None:
                await trio.aclose_forcefully(stream)

    async def _serve(self, number: int, socket: _Socket, stream: trio.abc.Stream) -> None:
        """Until the machine wants the socket closed, which cancels this."""
        self._observer.connected()
        self._bundle.connected(number, trio.current_time())
        self._carry_out()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, number, socket, stream)
            await self._read(number, stream)
            # The machine knows of the end, and answers it with the cancellation.

    async def _read(self, number: int, stream: trio.abc.Stream) -> None:
        """Until the peer's side ends."""
        bundle = self._bundle
        while True:
            try:
                data = await stream.receive_some(_READ_BYTES_MAX)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                bundle.connection_lost(number, close_reason_of(error), trio.current_time())
                break
            now = trio.current_time()
            if not data:
                bundle.receive_end(number, now, is_clean=not isinstance(stream, TlsStream) or stream.said_goodbye)
                break
            bundle.receive_data(number, bytes(data), now)
            self._carry_out()
        self._carry_out()

    async def _write(self, number: int, socket: _Socket, stream: trio.abc.Stream) -> None:
        while True:
            await socket.write_wanted.wait()
            socket.write_wanted = trio.Event()
            data = self._bundle.data_to_send(number)
            if not data:
                continue
            socket.is_writing = True
            try:
                await stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # What the peer said before it went may still wait to be read (an early answer): the reader finds the
                # end by itself.
                return
            socket.is_writing = False
            self._bundle.written(number, trio.current_time())
            self._carry_out()

    async def _say_goodbye(self, socket: _Socket, stream: trio.abc.Stream) -> None:
        """The TLS goodbye, if the peer takes it in time."""
        if socket.is_writing:
            return
        with trio.move_on_after(self._close_timeout_s):
            try:
                await stream.aclose()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
