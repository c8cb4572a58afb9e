"""Several HTTP/1.1 connections to one place, seen as one connection of a pool: rows in, events out.

Theory of operation. The owner offers rows (`send_requests`); they wait in a queue for a socket. The owner opens as many
sockets as `sockets_wanted` says, tells of each `connected` or `connect_failed`, writes `data_to_send` of those that
`take_writable` names, tells `written`, feeds what it reads, closes those that `take_closing` names, and calls
`on_deadline` at `next_deadline`. Every tag comes back exactly once through `take_events`, in the events of HTTP/2:

    Answers      a final status came
    Refused      not one byte left: its time ran out in the queue, or the bundle drains
    Reset        its socket ended before an answer (by the peer), or the answer is none (not by the peer); not known
    TimedOut     its deadline passed; the socket is closed, since HTTP/1.1 cannot cancel a request otherwise
    Terminated   the bundle is over. refused: still in the queue. uncertain: under way

Sockets that end are replaced as rows need them: a server may close after each answer. A bundle ends when it drains, is
closed, or its last socket ends without ever having answered: then somebody else (the pool) must think about when to try
again. While others live, a failed one only delays the next by `connect_retry_s`.

A socket that is idle is used newest first, so that those beyond need fall idle, and are closed by us before the server
does it (`socket_idle_s`, or less where its Keep-Alive says so).
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np

from gateway.columns import I64
from gateway.errors import CloseReason, LocalProtocolError, RemoteProtocolError
from gateway.vendor import Requests
from gateway.wire.h2.events import (
    AnswerDetail,
    Answers,
    Event,
    Refused,
    RefusedWhy,
    Reset,
    Terminated,
    TimedOut,
    Writable,
)
from gateway.wire.http1.exchange import Exchange, Outcome, Phase
from gateway.wire.http1.heads import HeadReader, Reported
from gateway.wire.http1.requests import encode_requests
from gateway.wire.http1.settings import Http1Config

#: A server that says `timeout=60` starts to count when its answer leaves; ours is not to arrive just then.
_IDLE_MARGIN_S = 1.0


class Statistics(NamedTuple):
    """One bundle at one moment. open_streams: rows taken and not ended; the word is HTTP/2's, and the pool's."""

    open_streams: int
    capacity: int
    is_draining: bool
    is_terminated: bool
    sockets: int
    connecting: int
    in_flight: int
    queued: int
    sent: int
    answered: int
    heads_parsed: int


class Closing(NamedTuple):
    """A socket that is to be closed, and why; the one close reason of that connection."""

    number: int
    reason: CloseReason
    text: str


class _Row(NamedTuple):
    tag: int
    request: bytes
    deadline: float


class _Socket:
    """is_writing: the owner has bytes of it that the kernel has not taken."""

    __slots__ = ("exchange", "idle_since", "is_writing")

    def __init__(self, exchange: Exchange, now: float) -> None:
        self.exchange = exchange
        self.idle_since = now
        self.is_writing = False


class Bundle:
    """Not reentrant; owned by one actor. `now` is monotonic seconds."""

    def __init__(self, config: Http1Config) -> None:
        self._config = config
        self._heads = HeadReader(Reported(config.keep_headers, config.ignored_headers))
        self._queue: deque[_Row] = deque()
        self._sockets: dict[int, _Socket] = {}
        #: Numbers of sockets without a request, the last used last.
        self._idle: list[int] = []
        self._connecting: set[int] = set()
        self._numbers = 0
        self._connect_at = -math.inf
        self._writable: list[int] = []
        self._closing: list[Closing] = []
        self._is_connected = False
        self._drain_reason: CloseReason | None = None
        self._is_terminated = False
        self._wakes_at = math.inf
        self._sent = self._answered = 0
        self._events: list[Event] = []
        self._outcomes: list[Outcome] = []

    # Asking

    def is_leaving(self) -> bool:
        """No further request will ever be taken."""
        return self._drain_reason is not None or self._is_terminated

    def capacity(self) -> int:
        """Requests that may be taken now; 0 before the first socket is connected."""
        if not self._is_connected or self._drain_reason is not None or self._is_terminated:
            return 0
        return self._config.sockets_max + self._config.queue_max - self.open_count()

    def sockets_wanted(self, now: float) -> int:
        """How many `connecting` calls are due: one at first, then as the queue asks for them."""
        if self._is_terminated or self._drain_reason is not None or now < self._connect_at:
            return 0
        lacking = len(self._queue) if self._is_connected else 1
        connecting = len(self._connecting)
        room = self._config.sockets_max - len(self._sockets) - connecting
        return max(0, min(lacking - connecting, room, self._config.connecting_max - connecting))

    @property
    def is_connected(self) -> bool:
        """The first socket was connected."""
        return self._is_connected

    @property
    def is_terminated(self) -> bool:
        return self._is_terminated

    @property
    def has_events(self) -> bool:
        return bool(self._outcomes or self._events)

    def next_deadline(self) -> float:
        """When `on_deadline` wants to be called, or earlier; infinite after the end."""
        return math.inf if self._is_terminated else self._wakes_at

    def statistics(self) -> Statistics:
        return Statistics(
            open_streams=self.open_count(),
            capacity=self.capacity(),
            is_draining=self._drain_reason is not None,
            is_terminated=self._is_terminated,
            sockets=len(self._sockets),
            connecting=len(self._connecting),
            in_flight=self.open_count() - len(self._queue),
            queued=len(self._queue),
            sent=self._sent,
            answered=self._answered,
            heads_parsed=self._heads.parsed_count,
        )

    def open_count(self) -> int:
        """Rows taken and not ended."""
        return len(self._queue) + len(self._sockets) - len(self._idle)

    # Requests

    def send_requests(self, requests: Requests, start: int, tags: I64, *, now: float, deadline: float) -> int:
        """Rows start.. are taken as far as there is room; returns how many. tags: (m,) int64, distinct while open.

        Raises LocalProtocolError for a deadline that is not after now, or a row that HTTP/1.1 cannot carry.
        """
        if not deadline > now:
            raise LocalProtocolError(f"deadline is {deadline - now:g} s from now, must be after now")
        count = min(requests.n - start, len(tags), self.capacity())
        if count <= 0:
            return 0
        encoded = encode_requests(requests, start, start + count)
        self._queue.extend(map(_Row, tags[:count].tolist(), encoded, [deadline] * count))
        self._wakes_at = min(self._wakes_at, deadline, self._connect_at if self._connect_at > now else math.inf)
        self._assign_waiting()
        return count

    def _assign_waiting(self) -> None:
        while self._queue and self._idle:
            self._assign(self._idle.pop())

    def _assign(self, number: int) -> None:
        """The socket, which is idle, has the next row."""
        self._sockets[number].exchange.assign(*self._queue.popleft())
        self._writable.append(number)

    def take_writable(self) -> list[int]:
        """Sockets that got a request since the last call."""
        writable, self._writable = self._writable, []
        return writable

    def data_to_send(self, number: int) -> bytes:
        """The request of a socket; it counts as sent from now on. `written` is due when the kernel has all of it."""
        socket = self._sockets.get(number)
        if socket is None:
            return b""
        data = socket.exchange.data_to_send()
        if data:
            self._sent += 1
            socket.is_writing = True
        return data

    def written(self, number: int, now: float) -> None:
        socket = self._sockets.get(number)
        if socket is None:
            return
        socket.is_writing = False
        if socket.exchange.phase is Phase.IDLE:
            self._release(number, socket, now)

    # Sockets

    def connecting(self) -> int:
        """The number of the socket that the owner now begins to open."""
        self._numbers += 1
        self._connecting.add(self._numbers)
        return self._numbers

    def connected(self, number: int, now: float) -> None:
        self._connecting.discard(number)
        if self._is_terminated:
            return
        self._sockets[number] = socket = _Socket(Exchange(self._config, self._heads), now)
        if not self._is_connected:
            self._is_connected = True
            self._events.append(Writable())
        self._release(number, socket, now)

    def connect_failed(self, number: int, reason: CloseReason, text: str, now: float) -> None:
        self._connecting.discard(number)
        self._on_failure(reason, text, now)

    def _release(self, number: int, socket: _Socket, now: float) -> None:
        """The socket takes the next row, waits for one, or is closed, if it is of no more use."""
        if not socket.exchange.is_persistent:
            self._close(number, CloseReason.PEER_CLOSED, "the connection was not to persist", now)
        elif self._drain_reason is not None:
            self._close(number, self._drain_reason, "", now)
        elif self._queue:
            self._idle.append(number)
            self._assign(self._idle.pop())
        else:
            self._idle.append(number)
            socket.idle_since = now
            self._wakes_at = min(self._wakes_at, self._idle_until(socket))

    def _idle_until(self, socket: _Socket) -> float:
        told = max(socket.exchange.idle_s - _IDLE_MARGIN_S, 0.0)
        return socket.idle_since + min(self._config.socket_idle_s, told)

    # What the peer says

    def receive_data(self, number: int, data: bytes, now: float) -> None:
        """What a socket read. Faults of the peer close it; bytes for a socket that is gone are ignored."""
        socket = self._sockets.get(number)
        if socket is None:
            return
        try:
            outcome = socket.exchange.receive_data(data)
        except RemoteProtocolError as error:
            self._close(number, CloseReason.PROTOCOL_ERROR, str(error), now, is_by_peer=False)
            return
        if outcome is None:
            return
        self._outcomes.append(outcome)
        self._answered += 1
        if socket.is_writing and socket.exchange.is_persistent:
            # Answered before it was asked to the end; the socket is free when the rest of the request has gone.
            return
        self._release(number, socket, now)

    def receive_end(self, number: int, now: float, *, is_clean: bool) -> None:
        """The peer has closed its side; is_clean: over TLS with its goodbye."""
        socket = self._sockets.get(number)
        if socket is None:
            return
        outcome = socket.exchange.receive_end(is_clean=is_clean)
        if outcome is not None:
            self._outcomes.append(outcome)
            self._answered += 1
        self._close(number, CloseReason.PEER_CLOSED, "", now)

    def connection_lost(self, number: int, reason: CloseReason, now: float) -> None:
        self._close(number, reason, "", now)

    def _close(self, number: int, reason: CloseReason, text: str, now: float, *, is_by_peer: bool = True) -> None:
        """The socket is over, whatever it was doing; what it had under way ends or goes back."""
        self._closing.append(Closing(number, reason, text))
        exchange = self._part(number, is_by_peer=is_by_peer)
        if self._drain_reason is not None:
            self._end_if_drained()
        elif exchange.served == 0 and reason is not CloseReason.IDLE:
            self._on_failure(reason, text, now)
        self._assign_waiting()

    def _part(self, number: int, *, is_by_peer: bool) -> Exchange:
        """The socket is forgotten and its row has an end, or is first in the queue again."""
        exchange = self._sockets.pop(number).exchange
        if number in self._idle:
            self._idle.remove(number)
        phase, row = exchange.phase, _Row(exchange.tag, exchange.data_to_send(), exchange.deadline)
        outcome = exchange.end()
        if outcome is not None:
            self._outcomes.append(outcome)
            self._answered += 1
        elif phase is Phase.SENT:
            self._emit(Reset(np.array([row.tag], np.int64), 0, is_by_peer))
        elif phase is Phase.ASSIGNED:
            if self._drain_reason is None:
                self._queue.appendleft(row)
            else:
                self._emit(Refused(np.array([row.tag], np.int64), RefusedWhy.NOT_WRITTEN))
        return exchange

    def _on_failure(self, reason: CloseReason, text: str, now: float) -> None:
        """A socket came to nothing. The last one takes the bundle with it."""
        if self._is_terminated:
            return
        if self._sockets or self._connecting:
            self._connect_at = now + self._config.connect_retry_s
            self._wakes_at = min(self._wakes_at, self._connect_at)
        else:
            self._terminate(reason, text)

    # The end

    def drain(self, reason: CloseReason) -> None:
        """No new requests; rows that wait in the queue go back; ends with `reason` when those under way have ended."""
        if self._is_terminated or self._drain_reason is not None:
            return
        self._drain_reason = reason
        if self._queue:
            self._emit(Refused(np.array([row.tag for row in self._queue], np.int64), RefusedWhy.NOT_WRITTEN))
            self._queue.clear()
        for number in [number for number, socket in self._sockets.items() if not socket.is_writing]:
            if self._sockets[number].exchange.phase in (Phase.IDLE, Phase.ASSIGNED):
                self._closing.append(Closing(number, reason, ""))
                self._part(number, is_by_peer=True)
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if not self._sockets and not self._is_terminated:
            assert self._drain_reason is not None
            self._terminate(self._drain_reason, "")

    def close(self, reason: CloseReason, text: str = "") -> None:
        """Ends now."""
        if not self._is_terminated:
            self._terminate(reason, text)

    def _terminate(self, reason: CloseReason, text: str) -> None:
        refused, uncertain = [row.tag for row in self._queue], []
        self._queue.clear()
        for number, socket in self._sockets.items():
            self._closing.append(Closing(number, reason, text))
            exchange = socket.exchange
            if exchange.phase is Phase.ASSIGNED:
                refused.append(exchange.tag)
            elif exchange.phase is Phase.SENT:
                uncertain.append(exchange.tag)
            outcome = exchange.end()
            if outcome is not None:
                self._outcomes.append(outcome)
                self._answered += 1
        self._closing.extend(Closing(number, reason, text) for number in self._connecting)
        self._sockets.clear()
        self._idle.clear()
        self._connecting.clear()
        self._is_terminated = True
        self._emit(Terminated(reason, np.array(refused, np.int64), np.array(uncertain, np.int64), 0, text))

    # Time

    def on_deadline(self, now: float) -> None:
        """What is due by now has ended; also when called too early."""
        if self._is_terminated:
            return
        late = [row.tag for row in self._queue if row.deadline <= now]
        if late:
            self._queue = deque([row for row in self._queue if row.deadline > now])
            self._emit(Refused(np.array(late, np.int64), RefusedWhy.NOT_WRITTEN))
        for number, socket in list(self._sockets.items()):
            if self._is_terminated:
                return
            self._check_time(number, socket, now)
        self._wakes_at = min(
            [row.deadline for row in self._queue]
            + [self._due_at(number, socket) for number, socket in self._sockets.items()]
            + ([self._connect_at] if self._queue and self._connect_at > now else []),
            default=math.inf,
        )

    def _due_at(self, number: int, socket: _Socket) -> float:
        return self._idle_until(socket) if number in self._idle else socket.exchange.deadline

    def _check_time(self, number: int, socket: _Socket, now: float) -> None:
        if now < self._due_at(number, socket):
            return
        if number in self._idle:
            self._close(number, CloseReason.IDLE, "", now)
            return
        exchange = socket.exchange
        if exchange.phase is Phase.SENT:
            self._emit(TimedOut(np.array([exchange.tag], np.int64)))
            exchange.phase = Phase.CLOSED
        self._close(number, CloseReason.LIVENESS_TIMEOUT, "no answer in time", now)

    # Events

    def take_events(self) -> list[Event]:
        """What has happened since the last call; answers of many sockets are one event."""
        self._gather()
        events, self._events = self._events, []
        return events

    def _emit(self, event: Event) -> None:
        self._gather()
        self._events.append(event)

    def _gather(self) -> None:
        if not self._outcomes:
            return
        outcomes, self._outcomes = self._outcomes, []
        n = len(outcomes)
        details: dict[int, AnswerDetail] = {
            at: outcome.detail for at, outcome in enumerate(outcomes) if outcome.detail is not None
        }
        tags = np.fromiter([outcome.tag for outcome in outcomes], np.int64, n)
        status = np.fromiter([outcome.status for outcome in outcomes], np.uint16, n)
        self._events.append(Answers(tags, status, details))

    def take_closing(self) -> list[Closing]:
        closing, self._closing = self._closing, []
        return closing
