"""The configuration as one of several workers sees it: reserved ports, and its share of what holds for the gateway.

Three kinds of limits (configs/reference.toml says for each key which it is, where it is not the first):

* per worker: memory, files, connections of clients, queues. What a process can hold; two workers hold twice as much.
* divided: what the outside sees of the gateway as one (rates and connections towards vendors, requests for identities,
  rows that a crash makes uncertain, bytes of the journal). Each worker has an equal share, at least one; rows and
  devices are spread evenly by hash, so the shares fill evenly.
* counted together: `apps.connections_max`, in the workers' shared columns (app_siblings.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from gateway.config_sections import Config, LinkListener, Listener
from gateway.config_types import Address

#: As `journal.issued_rows_max` at least: what waits for a device is marked a window of the long link at a time.
ISSUED_ROWS_MIN = 64


def share_of_worker(config: Config, workers: int) -> Config:
    """What is divided, divided."""
    replace = msgspec.structs.replace
    http, http2 = config.http, config.http2
    return replace(
        config,
        http=replace(
            http,
            devices_per_s=http.devices_per_s / workers,
            devices_burst_max=math.ceil(http.devices_burst_max / workers),
        ),
        http2=replace(http2, connections_max=math.ceil(http2.connections_max / workers)),
        journal=replace(
            config.journal,
            issued_rows_max=max(ISSUED_ROWS_MIN, math.ceil(config.journal.issued_rows_max / workers)),
            bytes_max=max(2 * config.journal.segment_bytes, config.journal.bytes_max // workers),
        ),
        apps=[
            replace(app, vendors={name: _vendor_share(settings, workers) for name, settings in app.vendors.items()})
            for app in config.apps
        ],
    )


def _vendor_share(settings: msgspec.Struct, workers: int) -> msgspec.Struct:
    """The keys by which vendors limit an app; a vendor's Settings has those that it needs."""
    shares: dict[str, object] = {}
    for field in settings.__struct_fields__:
        value = getattr(settings, field)
        if field in ("connections_max", "burst"):
            shares[field] = math.ceil(value / workers)
        elif field == "rate_per_s":
            shares[field] = value / workers
    return msgspec.structs.replace(settings, **shares)


def with_addresses(
    config: Config, *, rpc: Sequence[str], long_link: Sequence[str], http: str, receipts: Sequence[str] = ()
) -> Config:
    """The listeners have these addresses, in the order of the configuration."""
    replace = msgspec.structs.replace
    rpc_listeners: list[Listener] = [
        replace(listener, address=Address.parse(text)) for listener, text in zip(config.rpc.listeners, rpc, strict=True)
    ]
    links: list[LinkListener] = [
        replace(listener, address=Address.parse(text))
        for listener, text in zip(config.long_link.listeners, long_link, strict=True)
    ]
    receipt_listeners: list[Listener] = [
        replace(listener, address=Address.parse(text))
        for listener, text in zip(config.receipts.listeners, receipts, strict=True)
    ]
    return replace(
        config,
        receipts=replace(config.receipts, listeners=receipt_listeners),
        rpc=replace(config.rpc, listeners=rpc_listeners),
        long_link=replace(config.long_link, listeners=links),
        http=replace(config.http, address=Address.parse(http)),
    )
