"""TaskReports: what is said of a task is true of the rows that it names."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import numpy as np
import trio

from gateway.actors.task_reports import TaskReports
from gateway.batch import TaskSegment
from gateway.ledger import Channel, Reason, State
from gateway.wire.rpc import messages


class Growing:
    """Pages of a task that gets its last row, and ends, while the first are counted."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self.is_running = True

    async def task_slices(self, task_id: bytes, device_id: bytes | None = None) -> AsyncGenerator[Any, None]:
        yield self._page, TaskSegment(task_id, 0, self._page.n)
        await trio.lowlevel.checkpoint()
        self.is_running = False


async def test_task_that_grew_while_it_was_counted_is_not_final_yet(make_world: Callable[..., Any]) -> None:
    world = make_world()
    page = world.open(world.register(2, Channel.NONE))
    world.home.move(page, np.arange(2), State.DROPPED, Reason.NO_CHANNEL, trio.current_time())
    pages = Growing(page)
    reports = TaskReports(pages, world.clock, lambda _task: pages.is_running)  # type: ignore[arg-type]
    asked = messages.TaskState(id=1, task_id=bytes(16))
    assert not (await reports.counts(asked, lambda _page: True)).is_final
    assert (await reports.counts(asked, lambda _page: True)).is_final
