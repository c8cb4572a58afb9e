"""Audiences: one content for all devices of an app that are online, or those of them with a tag, as one task.

    submit_audience --> who is online now (ids, taken once) --> chunk --> Intake --> chunk --> ... --> end
                                                                  ^ at its speed, and when the one before is routed

A chunk goes when its time has come (`rows_per_s` of the call) and no row of the chunk before is queued any more, so
that an urgent message waits for at most one chunk of each broadcast. Rows are accepted chunk by chunk: a task grows
until its audience is through, and until then it is not final.

Where the app's journal is on the disk, the audience stands there in one append with its first chunk, and how far it has
come with each later one (`store/audience_records.py`); the next process goes on where this one ended. Of an app in
memory, what an ended process had not yet sent was never accepted, and is gone.

Bounds: `running_max` audiences of 16 bytes per device each. Waits for: the intake's answers, the clock. Is waited for
by: nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import trio

from gateway.actors.intake import Accepted, Attached, Intake
from gateway.batch import Submission
from gateway.clock import Clock
from gateway.columns import U8
from gateway.content import Variant
from gateway.core.home import Home
from gateway.core.stopping import TaskStopped
from gateway.errors import GatewayError, Overloaded
from gateway.ledger import State
from gateway.store.audience_records import Reached, encode_audience, encode_reached
from gateway.store.ports import JournalRecord

#: Between two looks at whether a chunk is routed; routing one takes some milliseconds.
_LOOK_S = 0.005

#: (app number, tag or b"") -> (n, 16) ids of devices that are online.
FindAudience = Callable[[int, bytes], Awaitable[U8]]


class AudienceObserver(Protocol):
    def running(self, audiences: int) -> None: ...

    def ended(self, audience_rows: int, rows_left: int) -> None: ...


class AudienceJournal(NamedTuple):
    """The journal on disk, as audiences use it. apps: numbers of those that are in it. let_go: of records that nobody
    needs any more."""

    apps: Collection[int]
    app_keys: Sequence[str]
    let_go: Callable[[Sequence[int]], None]


class Started(NamedTuple):
    """task_id: empty when nobody is online. devices: how many the audience has."""

    task_id: bytes
    devices: int


class Audience:
    """One that is under way: the first `reached` of its ids have their batches. positions, mark: of its records."""

    def __init__(
        self, app: int, variant: Variant, ids: U8, rows_per_s: float | None, began: float, *, reached: int = 0
    ) -> None:
        self.app = app
        self.variant = variant
        self.ids = ids
        self.rows_per_s = rows_per_s
        self.began = began
        self.reached = reached
        self.task_id = b""
        self.positions: list[int] = []
        self.scope = trio.CancelScope()
        self.is_stopped = self.is_over = False
        #: The newest chunk has been answered; None before the first.
        self.in_flight: trio.Event | None = None

    @property
    def rows_left(self) -> int:
        return max(0, len(self.ids) - self.reached)


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
        journal: AudienceJournal | None = None,
    ) -> None:
        self._intake = intake
        self._home = home
        self._clock = clock
        self._observer = observer
        self.find = find
        self._chunk_rows = chunk_rows
        self._running_max = running_max
        self._journal = journal
        self._running: dict[bytes, Audience] = {}
        self._n_starting = 0
        self._nursery: trio.Nursery | None = None

    def is_running(self, task_id: bytes) -> bool:
        """The task will have further rows."""
        return task_id in self._running

    def size(self, task_id: bytes) -> int:
        """Devices of a running audience; 0 of none."""
        found = self._running.get(task_id)
        return 0 if found is None else len(found.ids)

    def stop(self, task_id: bytes) -> None:
        """An audience that is not through sends no more."""
        found = self._running.get(task_id)
        if found is not None:
            found.is_stopped = True
            found.scope.cancel()

    def resume(self, audience: Audience) -> None:
        """One that an ended process was not through with goes on."""
        self._running[audience.task_id] = audience
        self._observer.running(len(self._running))
        if self._nursery is not None:
            self._nursery.start_soon(self._follow, audience)

    async def run(self) -> None:
        """Keeps the tasks of running audiences. If cancelled: they go on with the next run."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for audience in self._running.values():
                    nursery.start_soon(self._follow, audience)
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def start(
        self,
        app: int,
        variant: Variant,
        tag: bytes,
        rows_per_s: float | None,
        *,
        request_id: str = "",
        digest: bytes = b"",
    ) -> Started:
        """The first chunk is durable; the others follow. A repeated request id gets the task of its first call; where
        that is through, its devices are the rows of the task (0 here).

        Raises: Overloaded, RequestIdReused, ShuttingDown, or what the intake answers. If cancelled: the first chunk may
        be on its way.
        """
        n_running = len(self._running) + self._n_starting
        if self._nursery is None or n_running >= self._running_max:
            raise Overloaded("audiences.running_max", n_running, self._running_max, retry_after_s=1.0)
        self._n_starting += 1
        try:
            ids = await self.find(app, tag)
            if not len(ids) and not request_id:
                return Started(b"", 0)
            audience = Audience(app, variant, ids, rows_per_s, self._clock.monotonic())
            answer = await self._send(audience, request_id, digest)
            if answer.is_repeat:
                return Started(answer.task_id, self.size(answer.task_id))
            if not len(ids):
                return Started(b"", 0)
            audience.task_id = answer.task_id
            if audience.rows_left:
                self.resume(audience)
            return Started(answer.task_id, len(ids))
        finally:
            self._n_starting -= 1

    async def _follow(self, audience: Audience) -> None:
        rows_per_s = audience.rows_per_s
        # Of a run before this one.
        audience.scope = trio.CancelScope()
        try:
            with audience.scope:
                if audience.in_flight is not None:
                    # A run before this one left its chunk to the intake.
                    await audience.in_flight.wait()
                while audience.rows_left and not audience.is_stopped:
                    if rows_per_s is not None:
                        await self._clock.sleep_until(audience.began + audience.reached / rows_per_s)
                    await self._wait_routed(audience.task_id)
                    try:
                        await self._send(audience)
                    except Overloaded as error:
                        await self._clock.sleep_until(self._clock.monotonic() + error.retry_after_s)
            self._end(audience)
        except TaskStopped:
            self._end(audience)
        except GatewayError:
            # The store or the gateway ends: how far it came stands in the task's counts, and on the disk.
            del self._running[audience.task_id]
            self._observer.ended(len(audience.ids), 0 if audience.positions else audience.rows_left)
        self._observer.running(len(self._running))

    def _end(self, audience: Audience) -> None:
        """The audience is through, or stopped: no record of it is needed."""
        del self._running[audience.task_id]
        audience.is_over = True
        self._let_go(audience.positions)
        self._observer.ended(len(audience.ids), audience.rows_left)

    async def _wait_routed(self, task_id: bytes) -> None:
        """No row of the newest chunk is queued."""
        while parts := self._home.find_task(task_id):
            page, segment = parts[-1]
            if not (page.state[segment.first : segment.first + segment.n] == State.QUEUED).any():
                return
            await trio.sleep(_LOOK_S)

    async def _send(self, audience: Audience, request_id: str = "", digest: bytes = b"") -> Accepted:
        """The next chunk is durable. Raises: as `start`. If cancelled: it is on its way, and `in_flight` until it is
        durable or refused."""
        first = audience.reached
        chunk = audience.ids[first : first + self._chunk_rows]
        submission = Submission(
            request_id=request_id,
            variants=(audience.variant,),
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
        is_whole = len(chunk) == len(audience.ids)
        answered = audience.in_flight = trio.Event()
        answers: list[Accepted | GatewayError] = []

        def reply(answer: Accepted | GatewayError) -> None:
            if isinstance(answer, Accepted) and not answer.is_repeat:
                audience.reached = first + len(chunk)
            answers.append(answer)
            answered.set()

        self._intake.submit(
            audience.app,
            submission,
            reply,
            digest=digest,
            task_id=audience.task_id,
            is_part=not is_whole,
            attached=None if is_whole else self._attached(audience, first + len(chunk)),
        )
        await answered.wait()
        answer = answers[0]
        if isinstance(answer, GatewayError):
            raise answer
        return answer

    # -- on the disk

    def _attached(self, audience: Audience, reached: int) -> Attached | None:
        """What is written with the chunk: that it reaches so far; with the first one, the audience itself."""
        journal = self._journal
        if journal is None or audience.app not in journal.apps:
            return None
        is_first = not audience.positions

        def make(task_id: bytes) -> list[JournalRecord]:
            records: list[JournalRecord] = []
            if is_first:
                key = journal.app_keys[audience.app]
                records = encode_audience(task_id, key, audience.variant, audience.rows_per_s, audience.ids)
            return [*records, encode_reached(Reached(task_id, reached, self._clock.unix_ms()))]

        def placed(positions: Sequence[int]) -> None:
            if audience.is_over:
                # It was stopped while this chunk was on its way.
                self._let_go(positions)
                return
            if not is_first:
                self._let_go([audience.positions.pop()])
            audience.positions += positions

        return Attached(make, placed)

    def _let_go(self, positions: Sequence[int]) -> None:
        if self._journal is not None and positions:
            self._journal.let_go(positions)
