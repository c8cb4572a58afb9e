"""An inbox whose disk is full: rows stay in their pages, each try is counted, and the log has a line a minute."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import trio

from gateway.content import Variant
from gateway.errors import StoreFull
from gateway.ledger import Channel
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.observe.store_counts import InboxCounts
from gateway.store.memory import MemoryInbox


class _FullDisk(MemoryInbox):
    is_full = True

    async def put(self, *args: Any) -> Any:
        if self.is_full:
            raise StoreFull("inbox.db", "disk is full")
        return await super().put(*args)


async def test_a_full_disk_keeps_rows_in_their_pages_and_is_tried_again(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    store = _FullDisk(rows_per_device_max=100, rows_max=1000)
    world = make_world(inbox_store=store)
    metrics, stream = Metrics(), io.StringIO()
    counts = InboxCounts(metrics, Log(stream=stream))
    world.inbox._on_error, world.inbox._on_works = counts.failed, counts.works
    await world.start(nursery)
    (device,) = world.register(1, Channel.NONE)
    page = await world.send([device] * 3, [Variant(f"row {number}", "body") for number in range(3)])
    await trio.sleep(90.5)
    assert world.states(page) == {"held": 3}
    assert len(store) == 0
    store.is_full = False
    await trio.sleep(2)
    assert len(store) == 3
    # Each try is counted; a line says that it fails, one a minute that it still does, and one that it works again.
    tries = metrics.store_failures.value("inbox", "StoreFull")
    assert tries >= 90
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["failures"]) for line in lines] == [
        ("inbox not written, trying again", 1),
        ("inbox not written, trying again", 60),
        ("inbox works again", tries),
    ]
    world.go_online(device)
    await world.settle()
    assert world.sockets.titles(device) == ["row 0", "row 1", "row 2"]
