"""Limits and habits of one bundle of HTTP/1.1 connections. Every number: unit in the name, reason here."""

from __future__ import annotations

import msgspec


class Http1Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    #: TCP connections of one bundle, and so requests in flight: HTTP/1.1 has one a connection (we do not pipeline).
    #: 16 at a vendor's 50 ms are 320 requests/s, and with a thousand tokens each 320,000 messages/s.
    sockets_max: int = 16
    #: Rows taken that no socket has begun to send. As many again as sockets: each finds its next request waiting, and
    #: the lane comes back with half a bundle at a time instead of a row.
    queue_max: int = 16
    #: Handshakes under way at once: each costs a millisecond of CPU on either side.
    connecting_max: int = 4
    #: After a socket that failed while others live, the next one is tried no earlier.
    connect_retry_s: float = 1.0
    #: A socket without requests for so long is closed by us: before the 60 s after which most servers close theirs,
    #: since a request that meets a closing socket ends uncertain. A server that says less (Keep-Alive: timeout) gets
    #: less.
    socket_idle_s: float = 50.0
    #: Of one response head, final or interim, and of the trailers.
    header_bytes_max: int = 32 << 10
    #: Interim (1xx) responses before the final one; a server that has more to say is playing with us.
    interim_max: int = 8
    #: Kept of one answer's body; what is beyond is counted and cut.
    body_bytes_max: int = 256 << 10
    #: An answer larger than this ends its connection: reading on would cost more than a new one.
    body_bytes_read_max: int = 1 << 20
    #: Headers kept of 200 answers; of other answers all are kept but `ignored_headers`.
    keep_headers: frozenset[bytes] = frozenset()
    ignored_headers: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        if min(self.sockets_max, self.connecting_max, self.body_bytes_max) < 1 or self.queue_max < 0:
            raise ValueError("sockets_max, connecting_max and body_bytes_max must be positive, queue_max not negative")
