"""Connections of a vendor that speaks HTTP/1.1: bundles of sockets, counted socket by socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from gateway.actors.vendor_connection_http1 import Http1VendorConnection
from gateway.actors.vendor_pool import OpenConnection
from gateway.config import Config
from gateway.config_settings import http1_config
from gateway.observe.counting import SocketCounts
from gateway.wire.h2.events import Event


def bundle_opener(
    config: Config, open_stream: Callable[[], Awaitable[trio.abc.Stream]], observer: SocketCounts
) -> OpenConnection:
    """What a pool opens its connections with."""
    settings = http1_config(config)

    def open_bundle(on_events: Callable[[object, list[Event]], None]) -> Http1VendorConnection:
        return Http1VendorConnection(
            open_stream=open_stream,
            config=settings,
            close_timeout_s=config.http2.close_timeout_s,
            on_events=on_events,
            observer=observer,
        )

    return open_bundle
