"""What all sections of the configuration are made of."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections."""


class Http2Section(Frozen, frozen=True, kw_only=True):
    """HTTP/2 behaviour of the front; see h2_server.Http2Rules."""

    header_table_size: Count = 4_096
    streams_max: Positive = 1_000
    streams_before_auth: Positive = 1
    initial_window_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 65_535
    frame_bytes_max: Annotated[int, msgspec.Meta(ge=16_384, le=2**24 - 1)] = 16_384
    header_list_bytes_max: Positive = 8_000
    strict_streams: bool = True
    excess_streams: Literal["refuse", "goaway"] = "refuse"
    success_form: Literal["headers", "data", "mixed"] = "headers"
    idle_stream_s: Seconds = 30.0
    idle_close_s: Seconds = 0.0
    errors_until_disconnect: Count = 0


class PlainHttp2Section(Http2Section, frozen=True, kw_only=True):
    """The same for vendors of whom nothing is known: a common web server's defaults."""

    streams_max: Positive = 128
    streams_before_auth: Positive = 128
    header_list_bytes_max: Positive = 32_768
    strict_streams: bool = False
    idle_close_s: Seconds = 60.0
