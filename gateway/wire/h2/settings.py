"""Settings of both sides (RFC 9113 section 6.5): ours are configuration, the peer's change in mid-connection."""

from __future__ import annotations

import enum
import struct

import msgspec

from gateway.errors import RemoteProtocolError
from gateway.wire.h2.frames import (
    FRAME_BYTES_MAX,
    FRAME_BYTES_MIN,
    STREAM_ID_MAX,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    ErrorCode,
)
from gateway.wire.hpack.tables import TABLE_BYTES_DEFAULT


class Setting(enum.IntEnum):
    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and habits of one client connection. Every number: unit in the name, reason here."""

    #: Streams we open at once, whatever the peer allows; 1000 is what APNs gives.
    streams_max: int = 1000
    #: Wait for the peer's SETTINGS before the first request: APNs begins with a limit of one stream, and what is
    #: sent above it comes back refused. Costs one round trip per connection.
    is_settings_awaited: bool = True
    #: The dynamic table we allow the peer. 0 makes every answer self-contained, so that a header that differs per
    #: answer (apns-id) does not change the decoder's state each time (DESIGN.md section 5; docs/http2.md for figures).
    header_table_bytes: int = 0
    #: The dynamic table we use towards the peer, if it allows as much.
    encoder_table_bytes_max: int = TABLE_BYTES_DEFAULT
    #: Header names whose values change too often to be worth a table entry even where a burst has one value for all.
    unindexed_headers: frozenset[bytes] = frozenset({b"apns-id", b"apns-expiration", b"apns-collapse-id"})
    #: Receive window of one stream. An answer of a vendor is a few hundred bytes; larger ones get credit as they come.
    stream_window_bytes: int = WINDOW_DEFAULT
    #: Receive window of the connection: streams_max answers of 4 KiB without waiting for credit.
    connection_window_bytes: int = 4 << 20
    #: Largest frame we accept; announced only if it is not the default.
    frame_bytes_max: int = FRAME_BYTES_MIN
    #: Decoded header list of one answer, names + values + 32 each.
    header_list_bytes_max: int = 32 << 10
    #: Encoded header block of one answer over all its CONTINUATION frames.
    header_block_bytes_max: int = 32 << 10
    #: Kept of one answer's body; what is beyond is counted and cut.
    body_bytes_max: int = 64 << 10
    #: Bodies of 200 answers are kept (FCM's message name); without, they are counted and dropped.
    is_ok_body_kept: bool = True
    #: Headers kept of 200 answers; of other answers all are kept but `ignored_headers`.
    keep_headers: frozenset[bytes] = frozenset()
    #: Headers that differ per answer and tell us nothing: apns-id is our own message id, apns-unique-id is for Apple's
    #: console. Answers that differ in these alone share one decoded head.
    ignored_headers: frozenset[bytes] = frozenset({b"apns-id", b"apns-unique-id"})
    #: Requests whose DATA may wait for windows at once (bodies larger than the peer's windows).
    uploads_max: int = 8
    #: How long a request that was begun may wait for credit before the connection is given up: credit comes within a
    #: round trip from a peer that gives any, and a connection without it carries nothing ever again.
    window_timeout_s: float = 5.0
    #: How long the peer may take to acknowledge our SETTINGS, from the beginning of the connection: as long as a whole
    #: round of silence and PING takes.
    settings_timeout_s: float = 40.0
    #: Silence after which a PING asks whether the peer lives, and how long it may take to answer.
    ping_idle_s: float = 30.0
    ping_timeout_s: float = 10.0
    #: Answers to the peer's PING and SETTINGS waiting to be written; more is a flood.
    control_frames_max: int = 1000
    #: Ids run out at 2**31 - 1 (RFC 9113 section 5.1.1); lower only in tests.
    stream_id_max: int = STREAM_ID_MAX

    def announced(self) -> dict[int, int]:
        values = {
            int(Setting.ENABLE_PUSH): 0,
            int(Setting.INITIAL_WINDOW_SIZE): self.stream_window_bytes,
            int(Setting.MAX_HEADER_LIST_SIZE): self.header_list_bytes_max,
        }
        if self.header_table_bytes != TABLE_BYTES_DEFAULT:
            values[int(Setting.HEADER_TABLE_SIZE)] = self.header_table_bytes
        if self.frame_bytes_max != FRAME_BYTES_MIN:
            values[int(Setting.MAX_FRAME_SIZE)] = self.frame_bytes_max
        return values


class PeerSettings:
    """What the peer has announced; the RFC's initial values until then."""

    __slots__ = ("frame_bytes_max", "header_table_bytes", "initial_window", "is_known", "streams_max")

    def __init__(self) -> None:
        self.is_known = False
        self.header_table_bytes = TABLE_BYTES_DEFAULT
        #: None: no limit.
        self.streams_max: int | None = None
        self.initial_window = WINDOW_DEFAULT
        self.frame_bytes_max = FRAME_BYTES_MIN

    def apply(self, payload: bytes) -> list[int]:
        """Takes a SETTINGS payload in; returns the values of HEADER_TABLE_SIZE in order, all of which the encoder
        must see (RFC 7541 section 4.2).

        Raises RemoteProtocolError for a value out of range; unknown settings are ignored.
        """
        table_sizes: list[int] = []
        for key, value in struct.iter_unpack(">HL", payload):
            match key:
                case Setting.HEADER_TABLE_SIZE:
                    self.header_table_bytes = value
                    table_sizes.append(value)
                case Setting.ENABLE_PUSH:
                    if value != 0:
                        raise _out_of_range("ENABLE_PUSH", value, ErrorCode.PROTOCOL_ERROR)
                case Setting.MAX_CONCURRENT_STREAMS:
                    self.streams_max = value
                case Setting.INITIAL_WINDOW_SIZE:
                    if value > WINDOW_MAX:
                        raise _out_of_range("INITIAL_WINDOW_SIZE", value, ErrorCode.FLOW_CONTROL_ERROR)
                    self.initial_window = value
                case Setting.MAX_FRAME_SIZE:
                    if not FRAME_BYTES_MIN <= value <= FRAME_BYTES_MAX:
                        raise _out_of_range("MAX_FRAME_SIZE", value, ErrorCode.PROTOCOL_ERROR)
                    self.frame_bytes_max = value
                case _:
                    pass
        self.is_known = True
        return table_sizes


def _out_of_range(name: str, value: int, code: ErrorCode) -> RemoteProtocolError:
    return RemoteProtocolError(f"{name} is {value}, out of range from a server", wire_code=code)
