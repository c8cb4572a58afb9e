"""LinkSession: one end of a link between two workers, sans-IO.

    receive_data(data) -> events      send(message), send_slice(slice)      data_to_send(bytes_max) -> bytes

Theory of operation. Both ends say hello at once; the first frame of a peer must be its hello, and what is sent before
it has come waits. Then two streams share the socket: *outcomes and control*, which are never refused and go first, and
*rows*, which go by credit in rows and bytes that the receiver has given. The receiver always reads: a slice that
arrives has its room already, so that a link never stalls and two workers that are full of each other's rows still hear
what became of their own.

One slice may overdraw the bytes: it goes while there is any credit left, so that a row larger than all credit moves,
too. Anything that the peer does against these rules raises RemoteProtocolError; the session is of no use afterwards.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import NamedTuple, TypeAlias

from gateway.errors import LocalProtocolError, RemoteProtocolError
from gateway.wire.rpc.framing import FrameReader, FrameTooLarge, frame
from gateway.wire.worker_link.messages import (
    UNREADABLE,
    VERSION,
    Answer,
    Ask,
    Credit,
    Hello,
    Marked,
    Message,
    Outcomes,
    Slice,
    decode,
    encode,
)

#: A slice of rows with long texts or a whole relayed submit: `rpc.frame_bytes_max` at its greatest, with something
#: over.
FRAME_BYTES_MAX = (256 << 20) + (1 << 20)


class LinkLimits(NamedTuple):
    """What this end gives its peer at the start: rows and bytes of slices that may be under way to it."""

    credit_rows: int
    credit_bytes: int


class Opened(NamedTuple):
    """The peer has said who it is."""

    hello: Hello


class Closed(NamedTuple):
    """The peer's end is gone, between two frames or (is_clean false) within one."""

    is_clean: bool


Event: TypeAlias = Opened | Slice | Outcomes | Credit | Ask | Answer | Marked | Closed


class _Phase(enum.Enum):
    GREETING = 0
    OPEN = 1
    CLOSED = 2


class LinkSession:
    """hello: what this end says of itself."""

    def __init__(self, hello: Hello) -> None:
        self._hello = hello
        self._phase = _Phase.GREETING
        self._reader = FrameReader(FRAME_BYTES_MAX)
        self._control: deque[bytes] = deque()
        self._rows: deque[bytes] = deque()
        self._greeting: bytes | None = frame(encode(hello))
        self.peer: Hello | None = None
        #: What this end may still send.
        self.room_rows = 0
        self.room_bytes = 0
        #: What the peer may still send.
        self._given_rows = hello.credit_rows
        self._given_bytes = hello.credit_bytes
        self.unsent_bytes = 0

    @property
    def is_open(self) -> bool:
        return self._phase is _Phase.OPEN

    @property
    def has_control(self) -> bool:
        """Reports, answers or credit wait to be sent."""
        return bool(self._control)

    # -- sending

    def send(self, message: Outcomes | Ask | Answer | Marked) -> None:
        """The message is on its way, before all rows."""
        self._append(self._control, message)

    def give(self, rows: int, size: int) -> None:
        """The peer may send so much more."""
        if rows or size:
            self._given_rows += rows
            self._given_bytes += size
            self._append(self._control, Credit(rows, size))

    def send_slice(self, slice_: Slice) -> int:
        """The rows are on their way; returns what they cost in bytes. Raises LocalProtocolError without credit."""
        if not self.has_room(slice_.n):
            raise LocalProtocolError(f"{slice_.n} rows, credit {self.room_rows} rows and {self.room_bytes} bytes")
        size = len(slice_.record)
        self.room_rows -= slice_.n
        self.room_bytes -= size
        self._append(self._rows, slice_)
        return size

    def has_room(self, rows: int = 1) -> bool:
        """So many rows may be sent as one slice now."""
        return self._phase is _Phase.OPEN and self.room_rows >= rows and self.room_bytes > 0

    def _append(self, queue: deque[bytes], message: Message) -> None:
        data = frame(encode(message))
        self.unsent_bytes += len(data)
        queue.append(data)

    def data_to_send(self, bytes_max: int = 1 << 18) -> bytes:
        """The next frames, outcomes and control first; at least one where there is one, else about bytes_max."""
        if self._greeting is not None:
            greeting, self._greeting = self._greeting, None
            return greeting
        if self._phase is not _Phase.OPEN:
            return b""
        taken: list[bytes] = []
        size = 0
        for queue in (self._control, self._rows):
            while queue and size < bytes_max:
                taken.append(queue.popleft())
                size += len(taken[-1])
        self.unsent_bytes -= size
        return taken[0] if len(taken) == 1 else b"".join(taken)

    # -- receiving

    def receive_data(self, data: bytes | bytearray) -> list[Event]:
        """What the peer said. b"": its end is gone. Raises RemoteProtocolError."""
        if self._phase is _Phase.CLOSED:
            return []
        if not data:
            self._phase = _Phase.CLOSED
            return [Closed(not self._reader.has_partial)]
        events: list[Event] = []
        try:
            self._reader.feed(data)
            while (payload := self._reader.next_payload()) is not None:
                events.append(self._on_message(decode(payload)))
        except UNREADABLE as error:
            raise self._broken(f"not a message of a link: {error}") from error
        except FrameTooLarge as error:
            raise self._broken(str(error)) from error
        return events

    def _broken(self, text: str) -> RemoteProtocolError:
        self._phase = _Phase.CLOSED
        return RemoteProtocolError(text)

    def _on_message(self, message: Message) -> Event:
        if isinstance(message, Hello):
            return self._on_hello(message)
        if self._phase is _Phase.GREETING:
            raise self._broken("a message before hello")
        if isinstance(message, Slice):
            if self._given_rows < message.n or self._given_bytes <= 0:
                raise self._broken(
                    f"a slice of {message.n} rows, credit {self._given_rows} rows and {self._given_bytes} bytes"
                )
            self._given_rows -= message.n
            self._given_bytes -= len(message.record)
        elif isinstance(message, Credit):
            self.room_rows += message.rows
            self.room_bytes += message.bytes
        return message

    def _on_hello(self, hello: Hello) -> Opened:
        ours = self._hello
        if self._phase is not _Phase.GREETING:
            raise self._broken("a second hello")
        if hello.version != VERSION or hello.workers != ours.workers:
            raise self._broken(
                f"version {hello.version} of {hello.workers} workers, expected {VERSION} of {ours.workers}"
            )
        if hello.worker == ours.worker:
            raise self._broken(f"worker {hello.worker} is this one")
        self._phase = _Phase.OPEN
        self.peer = hello
        self.room_rows += hello.credit_rows
        self.room_bytes += hello.credit_bytes
        return Opened(hello)
