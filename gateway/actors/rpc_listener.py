"""RpcListener: the RPC's connections. Per connection one reader and one writer around a ServerSession.

    bytes --> ServerSession --> Requested --> service --> session.send --> writer --> bytes

Answers are written by whoever has them, when he has them; the writer is rung. Nobody waits for a slow client: what it
does not read is bounded by `unsent_bytes_max`, then it is closed with SLOW_CONSUMER.

A connection that has not said hello is nobody. At most `hellos_max` of them are kept; the oldest goes when another one
comes, so that ten thousand silent connections cannot keep a real client out. Waits for: sockets only.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import trio

from gateway.actors.bell import Bell
from gateway.errors import CloseReason, Overloaded
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.limits import RpcLimits
from gateway.wire.rpc.messages import Answer, StreamPage
from gateway.wire.rpc.server import (
    Closed,
    Event,
    HelloAccepted,
    LookUpSecret,
    Requested,
    ServerSession,
    StreamCancelled,
    StreamCredited,
)

#: One read: what it brings is decoded in one step of the loop, so its size follows the measured cost. A thousand
#: small submits fill 256 KiB and take 30 ms; the columns of one large submit take a fraction of a millisecond.
_READ_BYTES_MIN = 4 << 10
_READ_BYTES_MAX = 256 << 10
_STEP_S = 0.002
_READ_SHARE = 0.7
#: Time for the last frames to reach a peer that may not be reading.
_GOODBYE_S = 1.0


class RpcObserver(Protocol):
    def opened(self, listener: str) -> None: ...

    def closed(self, listener: str, reason: CloseReason) -> None: ...

    def received(self, size: int) -> None: ...

    def sent(self, size: int) -> None: ...


class Session(Protocol):
    """Who asks, as the service sees it."""

    @property
    def role(self) -> Literal["app", "operator"] | None: ...
    @property
    def app_key(self) -> str: ...
    @property
    def name(self) -> str: ...
    def stream_credit(self, stream_id: int) -> int: ...


class Caller(Protocol):
    """Where an answer goes: a connection of this worker, or another worker for one of its own."""

    @property
    def session(self) -> Session: ...
    def answer(self, message: Answer | StreamPage) -> bool: ...
    def refuse(self, request_id: int, cause: BadRequest | Overloaded) -> None: ...
    def grant(self, rows: int, payload_bytes: int) -> None: ...


class Service(Protocol):
    """What answers requests; see `actors/service.py`."""

    def open(self, connection: RpcConnection, hello: HelloAccepted) -> None:
        """The peer has proven who it is."""
        ...

    def request(self, connection: RpcConnection, requested: Requested) -> None:
        """Answers now or later with `connection.answer`; must not block."""
        ...

    def credited(self, connection: RpcConnection, stream: int) -> None: ...

    def cancelled(self, connection: RpcConnection, stream: int) -> None: ...

    def closed(self, connection: RpcConnection) -> None: ...


class Buffers:
    """Bytes of unfinished frames over all connections of a listener; what one peer has begun others must not pay."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used = 0

    def change(self, before: int, after: int) -> bool:
        """False when the sum has reached its limit."""
        self.used += after - before
        return self.used <= self.bytes_max


class RpcConnection:
    """One peer. Everything but `run` is called from other actors' turns and returns at once."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        session: ServerSession,
        service: Service,
        observer: RpcObserver,
        *,
        unsent_bytes_max: int,
        buffers: Buffers,
        on_hello: Callable[[], None],
    ) -> None:
        self.session = session
        self._stream = stream
        self._service = service
        self._observer = observer
        self._unsent_bytes_max = unsent_bytes_max
        self._buffers = buffers
        self._buffered = 0
        self._on_hello = on_hello
        self._bell = Bell()
        self._scope = trio.CancelScope()
        self.is_known = False
        self._is_draining = False
        self._read_bytes = _READ_BYTES_MIN * 4
        self._granted_rows = 0
        self._granted_bytes = 0

    def answer(self, message: Answer | StreamPage) -> bool:
        """The message is on its way; False when the peer is gone. A peer that does not read is closed."""
        if not self.session.send(message):
            return False
        self._bell.ring()
        self._end_if_drained()
        if self.session.pending_bytes > self._unsent_bytes_max:
            self.end(CloseReason.SLOW_CONSUMER)
            return False
        return True

    def refuse(self, request_id: int, cause: BadRequest | Overloaded) -> None:
        """The `error` answer that fits the exception is on its way."""
        self.session.send_refusal(request_id, cause)
        self._bell.ring()
        self._end_if_drained()

    def grant(self, rows: int, payload_bytes: int) -> None:
        """Room for submits has come back; told to the client with the next write, many grants as one frame."""
        self._granted_rows += rows
        self._granted_bytes += payload_bytes
        self._bell.ring()

    def end(self, reason: CloseReason) -> None:
        """The connection closes; what was answered before is still written, if the peer takes it."""
        self._take(self.session.end(reason))
        # The writer may be stuck in a socket that nobody reads.
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + _GOODBYE_S)
        self._bell.ring()

    def begin_leaving(self) -> None:
        """The peer knows that it should go on elsewhere; requests are taken as before."""
        self._take(self.session.begin_leaving())
        self._bell.ring()

    def begin_shutdown(self) -> None:
        """No further requests; the connection ends when the last answer is written."""
        self._is_draining = True
        self._take(self.session.begin_shutdown())
        self._bell.ring()
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._is_draining and self.session.open_requests == 0 and self.session.close_reason is None:
            self.end(CloseReason.SHUTDOWN)

    async def run(self) -> CloseReason:
        """Serves until the connection is over. If cancelled: it is closed at once."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
                    self._bell.ring()
        finally:
            self._take(self.session.peer_closed(CloseReason.SHUTDOWN))
            self._buffers.change(self._buffered, 0)
            if self.is_known:
                self._service.closed(self)
            await trio.aclose_forcefully(self._stream)
        return self.session.close_reason or CloseReason.INTERNAL_ERROR

    async def _read(self) -> None:
        session = self.session
        while session.close_reason is None:
            data: bytes | bytearray | None = None
            with trio.move_on_at(session.next_deadline()):
                try:
                    data = await self._stream.receive_some(self._read_bytes)
                except trio.BrokenResourceError:
                    self._take(session.peer_closed(CloseReason.PEER_RESET))
                    return
                except trio.ClosedResourceError:
                    self._take(session.peer_closed())
                    return
            if data is None:
                self._take(session.on_deadline(trio.current_time()))
            elif not data:
                self._take(session.peer_closed())
            else:
                self._observer.received(len(data))
                started = time.thread_time()
                self._take(session.receive_data(data, trio.current_time()))
                self._bound_buffer()
                self._adapt(len(data), time.thread_time() - started)
            if session.pending_bytes or session.close_reason is not None:
                # Most reads bring nothing that the session answers itself; whoever has an answer later rings for it.
                self._bell.ring()

    def _bound_buffer(self) -> None:
        before, self._buffered = self._buffered, self.session.buffered_bytes
        if not self._buffers.change(before, self._buffered) and self._buffered > before:
            self.end(CloseReason.BUFFERS_FULL)
            # What it held is free for the others at once, not when its last bytes are gone.
            self._buffers.change(self._buffered, 0)
            self._buffered = 0

    def _adapt(self, size: int, took_s: float) -> None:
        """Reads so much at once that decoding it takes most of a step: small reads make small batches."""
        if took_s > _STEP_S or size == self._read_bytes:
            fitting = int(size * _READ_SHARE * _STEP_S / max(took_s, 1e-6))
            # At most double: one cheap read says little about the next.
            self._read_bytes = max(_READ_BYTES_MIN, min(_READ_BYTES_MAX, 2 * self._read_bytes, fitting))

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case HelloAccepted():
                    self.is_known = True
                    self._on_hello()
                    self._service.open(self, event)
                case Requested():
                    self._service.request(self, event)
                case StreamCredited(id=stream):
                    self._service.credited(self, stream)
                case StreamCancelled(id=stream):
                    self._service.cancelled(self, stream)
                case Closed():
                    self._bell.ring()

    async def _write(self) -> None:
        session = self.session
        while True:
            if self._granted_rows or self._granted_bytes:
                rows, payload_bytes = self._granted_rows, self._granted_bytes
                self._granted_rows = self._granted_bytes = 0
                session.grant(rows, payload_bytes)
            data = session.data_to_send()
            if data:
                try:
                    with trio.move_on_after(_GOODBYE_S if session.close_reason else float("inf")):
                        await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._take(session.peer_closed(CloseReason.PEER_RESET))
                    self._scope.cancel()
                    return
                self._observer.sent(len(data))
            elif session.close_reason is not None:
                with trio.move_on_after(_GOODBYE_S):
                    await self._stream.aclose()
                self._scope.cancel()
                return
            else:
                await self._bell.wait()


class RpcListener:
    """Accepts connections on any number of listeners. connections_max: known ones; hellos_max: those without hello.

    frames_bytes_max: unfinished frames of all connections together.
    """

    def __init__(
        self,
        *,
        limits: RpcLimits,
        service: Service,
        observer: RpcObserver,
        look_up_secret: LookUpSecret,
        connections_max: int,
        hellos_max: int,
        unsent_bytes_max: int,
        frames_bytes_max: int,
    ) -> None:
        self._limits = limits
        self._service = service
        self._observer = observer
        self._look_up_secret = look_up_secret
        self._connections_max = connections_max
        self._hellos_max = hellos_max
        self._unsent_bytes_max = unsent_bytes_max
        self._buffers = Buffers(frames_bytes_max)
        self._connections: set[RpcConnection] = set()
        self._silent: OrderedDict[RpcConnection, None] = OrderedDict()
        self._number = 0
        #: Connections that have proven who they are.
        self._n_known = 0
        self._is_leaving = False
        self._is_shutting_down = False

    def __len__(self) -> int:
        return len(self._connections)

    async def converse(self, stream: trio.abc.Stream, name: str, *, has_trusted_peer: bool = False) -> None:
        """Serves one accepted connection to its end; its close reason is counted under the listener's name."""
        self._observer.opened(name)
        if self._n_known >= self._connections_max or self._is_shutting_down:
            why = CloseReason.SHUTDOWN if self._is_shutting_down else CloseReason.TOO_MANY_CONNECTIONS
            await trio.aclose_forcefully(stream)
            self._observer.closed(name, why)
            return
        while len(self._silent) >= self._hellos_max:
            oldest, _ = self._silent.popitem(last=False)
            oldest.end(CloseReason.TOO_MANY_CONNECTIONS)
        self._number += 1
        session = ServerSession(
            self._limits,
            lookup_secret=self._look_up_secret,
            nonce=os.urandom(32),
            now=trio.current_time(),
            name=f"{name}-{self._number}",
            has_trusted_peer=has_trusted_peer,
        )
        connection = RpcConnection(
            stream,
            session,
            self._service,
            self._observer,
            unsent_bytes_max=self._unsent_bytes_max,
            buffers=self._buffers,
            on_hello=lambda: self._is_known(connection),
        )
        self._connections.add(connection)
        self._silent[connection] = None
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._silent.pop(connection, None)
            if connection.is_known:
                self._n_known -= 1
            self._observer.closed(name, session.close_reason or CloseReason.INTERNAL_ERROR)

    def _is_known(self, connection: RpcConnection) -> None:
        self._silent.pop(connection, None)
        self._n_known += 1
        if self._n_known > self._connections_max:
            # They were fewer when it connected; the last to say who it is goes.
            connection.end(CloseReason.TOO_MANY_CONNECTIONS)
        elif self._is_leaving:
            connection.begin_leaving()

    def begin_leaving(self) -> None:
        """Clients are told to go on elsewhere, those too that connect now, and are served until they have."""
        self._is_leaving = True
        for connection in list(self._connections):
            connection.begin_leaving()

    def begin_shutdown(self) -> None:
        """No further connections and requests; present connections end when their answers are written."""
        self._is_shutting_down = True
        for connection in list(self._connections):
            connection.begin_shutdown()

    def end_shutdown(self) -> None:
        """New connections are served again; those that were told to end do."""
        self._is_leaving = self._is_shutting_down = False
