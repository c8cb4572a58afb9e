"""Exceptions are for broken promises; a vendor's answer is a verdict (verdict.py), never an exception.

Each class says who is at fault. Text form: what, value, limit; no device token, key or phone number in any text.
"""

from __future__ import annotations

import enum


class GatewayError(Exception):
    """Root of all exceptions of this project. Never raised itself."""


class ConfigError(GatewayError):
    """The operator's configuration is wrong. Says file, key, value and what was expected."""

    def __init__(self, key: str, value: object, expected: str, *, file: str = "") -> None:
        self.key = key
        self.value = value
        self.expected = expected
        self.file = file
        super().__init__(f"{file or 'config'}: {key} = {value!r}: expected {expected}")


class Overloaded(GatewayError):
    """Nobody is at fault: a named limit is reached and the caller should come back after `retry_after_s`."""

    def __init__(self, limit: str, value: int, limit_value: int, *, retry_after_s: float = 1.0) -> None:
        self.limit = limit
        self.value = value
        self.limit_value = limit_value
        self.retry_after_s = retry_after_s
        super().__init__(f"{limit} is {value}, limit {limit_value}; retry after {retry_after_s:g} s")


class StoreUnavailable(Overloaded):
    """The disk is at fault: what must be durable before it is answered cannot be taken now, and nothing of it was.

    what: in words, with the place. store: which one.
    """

    def __init__(self, what: str, *, retry_after_s: float, store: str = "journal") -> None:
        super().__init__(store, 0, 0, retry_after_s=retry_after_s)
        self.args = (f"nothing can be made durable: {what}; retry after {retry_after_s:g} s",)


class ProtocolError(GatewayError):
    """A rule of a wire protocol was broken. Abstract: raise one of the two below.

    wire_code: the code the protocol has for it (an HTTP/2 error code, an MQTT reason code), or 0.
    """

    def __init__(self, text: str, *, wire_code: int = 0) -> None:
        if type(self) is ProtocolError:
            raise TypeError("ProtocolError is abstract")
        self.wire_code = wire_code
        super().__init__(text)


class LocalProtocolError(ProtocolError):
    """We broke the rule: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rule. The connection is closed with `wire_code` where the protocol has one."""


class StaleEpoch(GatewayError):
    """A write carried an older ownership epoch than the store has seen: the writer lost its shard group."""

    def __init__(self, epoch: int, newest: int) -> None:
        self.epoch = epoch
        self.newest = newest
        super().__init__(f"ownership epoch is {epoch}, newest seen {newest}")


class StoreError(GatewayError):
    """The disk, or what is on it, is at fault. Nothing of a refused write is kept; what was there stays as it was.

    place: the file or folder.
    """

    def __init__(self, place: str, what: str) -> None:
        self.place = place
        self.what = what
        super().__init__(f"{place}: {what}")


class StoreFull(StoreError):
    """The disk, or the store's own limit, has no room. Writes work again when there is room."""


class StoreReadOnly(StoreError):
    """The place can be read and not written."""


class StoreCorrupt(StoreError):
    """What was read is not what was written.

    position: of the damaged record in a journal, -1 where it is not a record; a replay from position + 1 goes on.
    """

    def __init__(self, place: str, what: str, *, position: int = -1) -> None:
        self.position = position
        super().__init__(place, what)


class StoreInUse(StoreError):
    """Another process, or another store of this one, has the place open."""


class CloseReason(enum.Enum):
    """Why a connection ended. Every connection ends with exactly one; each is a label of a counter."""

    # either side, any protocol
    PEER_CLOSED = "peer_closed"
    PEER_RESET = "peer_reset"
    PROTOCOL_ERROR = "protocol_error"
    SHUTDOWN = "shutdown"
    INTERNAL_ERROR = "internal_error"
    TLS_ERROR = "tls_error"
    # servers
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    HALF_FRAME_TIMEOUT = "half_frame_timeout"
    FRAME_TOO_LARGE = "frame_too_large"
    #: Unfinished frames of all peers together reached their limit; this one had the last word.
    BUFFERS_FULL = "buffers_full"
    BAD_CREDENTIALS = "bad_credentials"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    SLOW_CONSUMER = "slow_consumer"
    IDLE = "idle"
    # the long link
    KEEPALIVE_TIMEOUT = "keepalive_timeout"
    TAKEN_OVER = "taken_over"
    CLIENT_DISCONNECT = "client_disconnect"
    BAD_IDENTITY = "bad_identity"
    UNSUPPORTED_VERSION = "unsupported_version"
    #: The client needs something of its protocol that is not offered here.
    UNSUPPORTED_FEATURE = "unsupported_feature"
    #: What a balancer has to say first did not come, or was not what PROXY protocol v2 knows.
    PROXY_HEADER_INVALID = "proxy_header_invalid"
    TLS_HANDSHAKE_FAILED = "tls_handshake_failed"
    WEBSOCKET_UPGRADE_REFUSED = "websocket_upgrade_refused"
    WEBSOCKET_ERROR = "websocket_error"
    BANNED = "banned"
    #: It was told another server.
    REDIRECTED = "redirected"
    #: Too many wrong passwords came from its address: nothing is read from there for a while.
    LOGIN_BACKOFF = "login_backoff"
    #: The worker that owns the device has ended a connection whose TLS or WebSocket ended here.
    RELAY_ENDED = "relay_ended"
    # connections to vendors
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    CERTIFICATE_INVALID = "certificate_invalid"
    ALPN_MISMATCH = "alpn_mismatch"
    GOAWAY = "goaway"
    LIVENESS_TIMEOUT = "liveness_timeout"
    #: The peer gave no credit for the rest of a request in time.
    WINDOW_STALLED = "window_stalled"
    STREAM_IDS_EXHAUSTED = "stream_ids_exhausted"
    CREDENTIAL_REPLACED = "credential_replaced"
    #: Another app needed the place under the ceiling of all connections to vendors.
    RECLAIMED = "reclaimed"
