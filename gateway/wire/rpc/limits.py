"""Every limit of one RPC connection, with its reason. Defaults are those of configs/reference.toml."""

from __future__ import annotations

import msgspec

#: Before hello a peer is nobody: enough for a hello with a 1 KiB app key, small enough for 10,000 silent connections.
FRAME_BYTES_MAX_BEFORE_HELLO = 64 << 10
CONTENTS_MAX = 1 << 16
ROWS_MAX = 1 << 20
VENDORS_MAX = 64
VARIABLES_MAX = 64
REQUEST_ID_CHARACTERS_MAX = 128
GROUP_CHARACTERS_MAX = 128
APP_KEY_CHARACTERS_MAX = 256
#: Devices of one device_status; a step of the loop answers so many.
STATUS_ROWS_MAX = 1000
#: The longest token any vendor documents is far below (FCM: no stated maximum, about 200 seen).
TOKEN_BYTES_MAX = 4096
#: Registered texts (platform, version, zone, alias): one line each.
REGISTERED_TEXT_BYTES_MAX = 128
#: A tag (gateway/core/details.py).
TAG_CHARACTERS_MAX = 32
#: Aliases of one audience: as many as GeTui takes in one list; ten devices each, so that their ids are 160 KB at most.
AUDIENCE_ALIASES_MAX = 1000
#: All tags of one device, joined.
TAGS_BYTES_MAX = 4096


class RpcLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one connection. Raises ValueError when they contradict each other."""

    #: Bytes of one payload, either direction: 65,536 rows of ids and 200 bytes of variables each.
    frame_bytes_max: int = 16 << 20
    #: Seconds until hello has arrived whole: one round trip and a slow TLS peer.
    hello_timeout_s: float = 5.0
    #: Seconds from the first to the last byte of one frame: 16 MiB at 4.5 Mbit/s.
    frame_timeout_s: float = 30.0
    #: Rows of one submit. At 60 ns per row this many decode within 8 ms, the step that the loop can still bear.
    submit_rows_max: int = 131_072
    #: Rows that may be under way unanswered per connection: two of the largest submits.
    credit_rows: int = 262_144
    #: Payload bytes of submits that may be under way per connection: two of the largest frames.
    credit_bytes: int = 32 << 20
    #: Requests without an answer per connection; each costs one dictionary entry here and a task at most in the actor.
    requests_in_flight_max: int = 1024
    #: Refused rows that one answer lists; the count is always true.
    refused_rows_max: int = 1000
    #: Bytes of one variable in one row: vendors cut whole texts at 4096 bytes.
    variable_bytes_max: int = 4096
    #: Streams (subscribe_receipts) per connection.
    streams_max: int = 16

    #: What an overloaded answer asks the client to wait: a few batches' time.
    overloaded_retry_ms: int = 200

    def __post_init__(self) -> None:
        if self.frame_bytes_max < FRAME_BYTES_MAX_BEFORE_HELLO:
            raise ValueError(f"frame_bytes_max is {self.frame_bytes_max}, at least {FRAME_BYTES_MAX_BEFORE_HELLO}")
        if not 0 < self.submit_rows_max <= ROWS_MAX:
            raise ValueError(f"submit_rows_max is {self.submit_rows_max}, expected 1 to {ROWS_MAX}")
        if self.credit_rows < self.submit_rows_max:
            raise ValueError(f"credit_rows is {self.credit_rows}, at least submit_rows_max {self.submit_rows_max}")
        if self.credit_bytes < self.frame_bytes_max:
            raise ValueError(f"credit_bytes is {self.credit_bytes}, at least frame_bytes_max {self.frame_bytes_max}")
        for name in ("hello_timeout_s", "frame_timeout_s", "requests_in_flight_max", "streams_max"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in ("refused_rows_max", "variable_bytes_max"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
