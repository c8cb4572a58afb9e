"""ReportPost: reports about rows whose home, or about devices whose owner, is another worker.

    send(worker, what, head, body, rows) --> queue of that worker --one question under way--> answer: dealt with

One question to a worker at a time, so that a worker that is busy gets few large ones. A worker that is not there is
waited for, `KEEP_S` at most: it is back in seconds, and what is still here then is dropped and counted. Bounded by
`rows_max` reports in all queues; beyond it `send` says no and the caller counts.

Waits for: the answers of other workers, which wait for nobody. Is waited for by: nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import trio

from gateway.actors.bell import Bell
from gateway.actors.waiting import Wait
from gateway.actors.worker_links import WorkerGone
from gateway.errors import Overloaded

#: What a worker answers that could not make durable what it was told.
NOT_DURABLE = b"not durable"
#: A worker that has died is back in two or three seconds.
KEEP_S = 30.0
_AGAIN_S = 0.2


class AskLinks(Protocol):
    async def ask(self, worker: int, what: str, head: dict[str, Any], body: bytes | memoryview = b"") -> memoryview: ...


class _Letter(NamedTuple):
    what: str
    head: dict[str, Any]
    body: bytes
    rows: int
    sent_at: float
    wait: Wait | None


class ReportPost:
    """rows_max: reports that may wait. on_dropped: told how many could not be handed over."""

    def __init__(self, links: AskLinks, *, rows_max: int, on_dropped: Callable[[int], None]) -> None:
        self._links = links
        self._rows_max = rows_max
        self._on_dropped = on_dropped
        self._queues: dict[int, deque[_Letter]] = {}
        self._bell = Bell()
        self._rows = 0
        self._busy: set[int] = set()

    def __len__(self) -> int:
        """Reports that wait."""
        return self._rows

    def send(
        self, worker: int, what: str, head: dict[str, Any], body: bytes, rows: int, wait: Wait | None = None
    ) -> bool:
        """They are on their way; False where too many wait. wait: a part of it is done when the other worker answers,
        and well if that says nothing."""
        if self._rows + rows > self._rows_max:
            return False
        if wait is not None:
            wait.hold()
        letter = _Letter(what, head, body, rows, trio.current_time(), wait)
        self._queues.setdefault(worker, deque()).append(letter)
        self._rows += rows
        self._bell.ring()
        return True

    async def run(self) -> None:
        """Carries until cancelled. If cancelled: what was under way may have arrived, and goes again."""
        self._busy.clear()
        async with trio.open_nursery() as nursery:
            self._bell.ring()
            while True:
                await self._bell.wait()
                for worker, queue in self._queues.items():
                    if queue and worker not in self._busy:
                        self._busy.add(worker)
                        nursery.start_soon(self._carry, worker, queue)

    async def _carry(self, worker: int, queue: deque[_Letter]) -> None:
        while queue:
            letter, is_good = queue[0], False
            try:
                is_good = not len(await self._links.ask(worker, letter.what, letter.head, letter.body))
            except (WorkerGone, Overloaded):
                if trio.current_time() - letter.sent_at <= KEEP_S:
                    await trio.sleep(_AGAIN_S)
                    continue
                self._on_dropped(letter.rows)
            queue.popleft()
            self._rows -= letter.rows
            if letter.wait is not None:
                letter.wait.done(is_good)
        self._busy.discard(worker)
