"""Spans of a task are asked for at its home, whose error is the asker's error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from gateway.actors.joined_spans import JoinedSpans, Spans, SpansUnread
from gateway.actors.worker_links import WorkerGone
from gateway.errors import StoreCorrupt

TASK = bytes(range(16))


class Archive:
    """What a home has; broken: it cannot be read."""

    def __init__(self, spans: Spans) -> None:
        self.spans = spans
        self.is_broken = False

    async def read(self, task_id: bytes) -> Spans:
        await trio.lowlevel.checkpoint()
        if self.is_broken:
            raise StoreCorrupt("ledger-001.db", "page 7 has another checksum")
        return self.spans if task_id == TASK else []


async def test_a_home_that_cannot_read_its_archive_says_so_to_whoever_asks(
    make_cluster: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    archives = [Archive([]), Archive([(5, 9), (1 << 40, 1 << 41)])]
    joined = [
        JoinedSpans(archive.read, cluster.workers[worker].links, home_of=lambda task: 1, me=worker)
        for worker, archive in enumerate(archives)
    ]
    # Where its actor does not run yet, nothing was read.
    with pytest.raises(SpansUnread, match=f"task {TASK.hex()} at worker 1: is starting or stopping"):
        await joined[0].find(TASK)
    for one in joined:
        nursery.start_soon(one.run)
    await trio.testing.wait_all_tasks_blocked()
    for one in joined:
        assert await one.find(TASK) == archives[1].spans
        assert await one.find(bytes(16)) == []
    archives[1].is_broken = True
    with pytest.raises(SpansUnread, match=f"task {TASK.hex()} at worker 1: ledger-001.db: page 7"):
        await joined[0].find(TASK)
    with pytest.raises(StoreCorrupt):
        await joined[1].find(TASK)
    # It fails alone: the next question is answered.
    archives[1].is_broken = False
    assert await joined[0].find(TASK) == archives[1].spans
    await cluster.kill(1)
    with pytest.raises(WorkerGone):
        await joined[0].find(TASK)
