"""Audiences: one content for all devices of an app that are online, or those of them with a tag, as one task.

    submit_audience --> who is online now (ids, taken once) --> chunk --> Intake --> chunk --> ... --> end
                                                                  ^ at its speed, and when the one before is routed

A chunk goes when its time has come (`rows_per_s` of the call) and no row of the chunk before is queued any more, so
that an urgent message waits for at most one chunk of each broadcast. Rows are accepted chunk by chunk: a task grows
until its audience is through, and until then it is not final. What an ended process had not yet sent of an audience was
never accepted, and is gone.

Bounds: `running_max` audiences of 16 bytes per device each. Waits for: the intake's answers, the clock. Is waited for
by: nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import numpy as np
import trio

from gateway.actors.intake import Accepted, Intake
from gateway.batch import Submission
from gateway.clock import Clock
from gateway.columns import U8
from gateway.content import Variant
from gateway.core.home import Home
from gateway.errors import GatewayError, Overloaded
from gateway.ledger import State

#: Between two looks at whether a chunk is routed; routing one takes some milliseconds.
_LOOK_S = 0.005

#: (app number, tag or b"") -> (n, 16) ids of devices that are online.
FindAudience = Callable[[int, bytes], Awaitable[U8]]


class AudienceObserver(Protocol):
    def running(self, audiences: int) -> None: ...

    def ended(self, audience_rows: int, rows_left: int) -> None: ...


class Started(NamedTuple):
    """task_id: empty when nobody is online. devices: how many the audience has."""

    task_id: bytes
    devices: int


class Audiences:
    """chunk_rows: rows that go at once. running_max: audiences that are not through."""

    def __init__(
        self,
        *,
        intake: Intake,
        home: Home,
        clock: Clock,
        observer: AudienceObserver,
        find: FindAudience,
        chunk_rows: int,
        running_max: int,
    ) -> None:
        self._intake = intake
        self._home = home
        self._clock = clock
        self._observer = observer
        self.find = find
        self._chunk_rows = chunk_rows
        self._running_max = running_max
        self._running: dict[bytes, trio.CancelScope] = {}
        self._n_starting = 0
        self._nursery: trio.Nursery | None = None

    def is_running(self, task_id: bytes) -> bool:
        """The task will have further rows."""
        return task_id in self._running

    def stop(self, task_id: bytes) -> None:
        """An audience that is not through sends no more."""
        scope = self._running.get(task_id)
        if scope is not None:
            scope.cancel()

    async def run(self) -> None:
        """Keeps the tasks of running audiences. If cancelled: what they have not sent is not sent."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def start(self, app: int, variant: Variant, tag: bytes, rows_per_s: float | None) -> Started:
        """The first chunk is durable; the others follow.

        Raises: Overloaded, ShuttingDown, or what the intake answers. If cancelled: the first chunk may be on its way.
        """
        n_running = len(self._running) + self._n_starting
        if self._nursery is None or n_running >= self._running_max:
            raise Overloaded("audiences.running_max", n_running, self._running_max, retry_after_s=1.0)
        self._n_starting += 1
        try:
            ids = await self.find(app, tag)
            if not len(ids):
                return Started(b"", 0)
            began = self._clock.monotonic()
            task_id = await self._send(app, variant, ids, 0, b"")
            if len(ids) > self._chunk_rows:
                scope = self._running[task_id] = trio.CancelScope()
                self._observer.running(len(self._running))
                self._nursery.start_soon(self._follow, app, variant, ids, rows_per_s, began, task_id, scope)
            return Started(task_id, len(ids))
        finally:
            self._n_starting -= 1

    async def _follow(
        self,
        app: int,
        variant: Variant,
        ids: U8,
        rows_per_s: float | None,
        began: float,
        task_id: bytes,
        scope: trio.CancelScope,
    ) -> None:
        first = self._chunk_rows
        try:
            with scope:
                while first < len(ids):
                    if rows_per_s is not None:
                        await self._clock.sleep_until(began + first / rows_per_s)
                    await self._wait_routed(task_id)
                    try:
                        await self._send(app, variant, ids, first, task_id)
                    except Overloaded as error:
                        await self._clock.sleep_until(self._clock.monotonic() + error.retry_after_s)
                        continue
                    first += self._chunk_rows
        except GatewayError:
            # The store or the gateway ends: how far it came stands in the task's counts.
            return
        finally:
            self._running.pop(task_id, None)
            self._observer.running(len(self._running))
            self._observer.ended(len(ids), max(0, len(ids) - first))

    async def _wait_routed(self, task_id: bytes) -> None:
        """No row of the newest chunk is queued."""
        while parts := self._home.find_task(task_id):
            page, segment = parts[-1]
            if not (page.state[segment.first : segment.first + segment.n] == State.QUEUED).any():
                return
            await trio.sleep(_LOOK_S)

    async def _send(self, app: int, variant: Variant, ids: U8, first: int, task_id: bytes) -> bytes:
        """The chunk is durable; returns its task. Raises: as `start`."""
        chunk = ids[first : first + self._chunk_rows]
        submission = Submission(
            request_id="",
            variants=(variant,),
            n=len(chunk),
            source_rows=np.arange(first, first + len(chunk), dtype=np.uint32),
            device_ids=chunk,
            channels=None,
            tokens=None,
            variant_index=None,
            variables={},
            duplicates=None,
            faults=(),
        )
        is_whole = len(chunk) == len(ids)
        answered = trio.Event()
        answers: list[Accepted | GatewayError] = []

        def reply(answer: Accepted | GatewayError) -> None:
            answers.append(answer)
            answered.set()

        self._intake.submit(app, submission, reply, task_id=task_id, is_part=not is_whole)
        await answered.wait()
        answer = answers[0]
        if isinstance(answer, GatewayError):
            raise answer
        return answer.task_id
