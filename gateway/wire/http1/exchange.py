"""One TCP connection, one request at a time (RFC 9112 section 9.3.2 without pipelining: a POST is not idempotent).

    idle --assign--> assigned --data_to_send--> sent --final head--> headed --end of body--> idle
                                                 | ^                   |
                                          interim+-+                   +--> closed, where it does not persist

What became of a request is an `Outcome`. A connection that ends with one under way:

    assigned   surely not processed: it goes over another connection
    sent       nobody knows. RFC 9112 section 9.3.1 forbids to send a POST again unless we know that it was not applied,
               and an end of the connection proves nothing, on a connection used before no more than on a new one
    headed     the status is good; the answer is incomplete
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from gateway.errors import LocalProtocolError, RemoteProtocolError
from gateway.wire.h2.events import AnswerDetail
from gateway.wire.http1.bodies import ChunkedBody, CloseBody, Kept, LengthBody
from gateway.wire.http1.heads import Framing, Head, HeadReader
from gateway.wire.http1.settings import Http1Config

_OK = 200


class Phase(enum.Enum):
    IDLE = "idle"
    ASSIGNED = "assigned"
    SENT = "sent"
    HEADED = "headed"
    CLOSED = "closed"


class Outcome(NamedTuple):
    """detail: None for a bare 200."""

    tag: int
    status: int
    detail: AnswerDetail | None


class Exchange:
    """tag and deadline are those of the request under way. `is_persistent`: another request may follow. idle_s: for how
    long the server keeps the connection, infinite when it does not say. served: requests answered."""

    __slots__ = (
        "_body",
        "_config",
        "_head",
        "_heads",
        "_interim",
        "_request",
        "_rest",
        "deadline",
        "idle_s",
        "is_persistent",
        "phase",
        "served",
        "tag",
    )

    def __init__(self, config: Http1Config, heads: HeadReader) -> None:
        self._config = config
        self._heads = heads
        self._request = b""
        self._rest = b""
        self._head: Head | None = None
        self._body: LengthBody | ChunkedBody | CloseBody | None = None
        self._interim = 0
        self.phase = Phase.IDLE
        self.tag = -1
        self.deadline = 0.0
        self.idle_s = float("inf")
        self.is_persistent = True
        self.served = 0

    def assign(self, tag: int, request: bytes, deadline: float) -> None:
        """The request leaves with the next `data_to_send`."""
        if self.phase is not Phase.IDLE or not self.is_persistent:
            raise LocalProtocolError(f"a request for a connection that is {self.phase.value}")
        self.phase = Phase.ASSIGNED
        self.tag, self._request, self.deadline = tag, request, deadline

    def data_to_send(self) -> bytes:
        """The bytes of the request; it counts as sent from now on."""
        if self.phase is not Phase.ASSIGNED:
            return b""
        self.phase = Phase.SENT
        data, self._request = self._request, b""
        return data

    def receive_data(self, data: bytes) -> Outcome | None:
        """The answer, when it is complete. Raises RemoteProtocolError; the caller then calls `end`."""
        if self.phase is Phase.SENT:
            data = self._rest + data if self._rest else data
            rest = self._receive_head(data)
        elif self.phase is Phase.HEADED:
            assert self._body is not None
            rest = self._body.receive(data)
        elif self.phase is Phase.CLOSED or not data:
            return None
        else:
            # RFC 9112 section 9.2: never the answer to a request yet to come.
            raise RemoteProtocolError("bytes that no request asked for")
        if rest is None:
            return None
        if rest:
            self.is_persistent = False  # more than was asked for: who knows what the next answer would be
        return self._answered(is_complete=True)

    def receive_end(self, *, is_clean: bool) -> Outcome | None:
        """The peer ends its side; is_clean: not cut off (over TLS: with its goodbye). The caller then calls `end`.

        A body that only the end of the connection delimits is complete if the end is clean (RFC 9112 section 9.8).
        """
        if self.phase is Phase.HEADED and isinstance(self._body, CloseBody):
            return self._answered(is_complete=is_clean)
        return None

    def end(self) -> Outcome | None:
        """The connection is over. Gives the answer of which only a part came; what else was under way, `phase` told."""
        outcome = self._answered(is_complete=False) if self.phase is Phase.HEADED else None
        self.phase = Phase.CLOSED
        return outcome

    def _receive_head(self, data: bytes) -> bytes | None:
        """The rest behind the whole message, None while it is incomplete."""
        limit = self._config.header_bytes_max
        while True:
            # Seen again as it grows: at most `header_bytes_max`, and a vendor's head comes in one piece.
            at = data.find(b"\r\n\r\n")
            if at > limit or (at < 0 and len(data) > limit + 3):
                raise RemoteProtocolError(f"head is over {limit} bytes (header_bytes_max)")
            if at < 0:
                self._rest = data
                return None
            head = self._heads.head(data[:at])
            data = data[at + 4 :]
            if not head.is_interim:
                break
            self._interim += 1
            if self._interim > self._config.interim_max:
                raise RemoteProtocolError(f"interim responses are over {self._config.interim_max} (interim_max)")
        self._rest = b""
        self._head = head
        self.phase = Phase.HEADED
        self.is_persistent = head.keeps_alive
        self.idle_s = head.idle_s
        kept = Kept(self._config)
        match head.framing:
            case Framing.NONE:
                return data
            case Framing.LENGTH:
                self._body = LengthBody(kept, head.length)
            case Framing.CHUNKED:
                self._body = ChunkedBody(kept, self._config.header_bytes_max)
            case Framing.UNTIL_CLOSE:
                self._body = CloseBody(kept)
        return self._body.receive(data)

    def _answered(self, *, is_complete: bool) -> Outcome:
        head, body = self._head, self._body
        assert head is not None
        tag = self.tag
        kept, cut = (b"", 0) if body is None else (body.kept.data, body.kept.cut)
        is_bare = head.status == _OK and not kept and not head.headers and is_complete and not cut
        detail = None if is_bare else AnswerDetail(head.headers, kept, cut, is_complete)
        self._head = self._body = None
        self._interim = 0
        self.tag = -1
        self.served += 1
        self.phase = Phase.IDLE
        return Outcome(tag, head.status, detail)
