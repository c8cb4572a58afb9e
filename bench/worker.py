"""A worker of `serve` in a benchmark's client process: its devices, its RPC sessions, and a gate before vendors."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import trio

from bench.core_transport import FeedStream
from gateway.app import Worker
from gateway.columns import U8, TextColumn
from gateway.config import Config
from gateway.core.registration import Registrations
from gateway.ledger import Channel


class GatedWorker(Worker):
    """Its connections to vendors wait for `gate`; it remembers them."""

    def __init__(self, config: Config) -> None:
        self.gate = trio.Event()
        self.opened: list[Any] = []
        super().__init__(config)

    def _open_connection(self, open_stream: Any, on_events: Any) -> Any:
        async def open_when_told() -> trio.abc.Stream:
            await self.gate.wait()
            stream: trio.abc.Stream = await open_stream()
            return stream

        connection = super()._open_connection(open_when_told, on_events)
        self.opened.append(connection)
        return connection


def register(
    worker: Worker, app_index: int, ids: U8, channel: Channel, tokens: TextColumn, *, proven_unix_s: int = 1
) -> None:
    """The devices are the worker's. proven_unix_s: 0 for tokens of which nothing is known."""
    columns = Registrations(
        ids, np.full(len(ids), channel, np.uint8), tokens, np.full(len(ids), proven_unix_s, np.uint32)
    )
    done = worker.devices.register(app_index, columns, now_unix_s=int(time.time()))
    assert not done.faults, "devices were refused"


@asynccontextmanager
async def running(worker: Worker, *feeds: FeedStream) -> AsyncIterator[trio.Nursery]:
    """The worker runs and has greeted every feed; at the end it is cancelled."""
    async with trio.open_nursery() as nursery:
        ready = trio.Event()
        nursery.start_soon(worker.run, lambda _: ready.set())
        await ready.wait()
        for feed in feeds:
            nursery.start_soon(worker.rpc.converse, feed, "rpc")
            await feed.wait_welcome()
        yield nursery
        nursery.cancel_scope.cancel()
