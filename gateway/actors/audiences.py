"""Audiences: one content for many devices of an app, as one task: all of them, those with a tag, those of aliases.

    submit_audience --> source (audience_sources.py) --> chunk --> Intake --> chunk --> ... --> end
                                                            ^ at its speed, and when there is room again

Registered devices, online or not, are walked over (core/audience_walk.py); their rows go the ordinary way, by strategy,
blacklist and notification switch. Devices that are online (`online_only`), and those of aliases, are listed at the
submit. So are all where they are not known after a restart: the app is in the journal and the devices are not on disk.

A chunk goes when its time has come (`rows_per_s` of the call) and there is room, so that an urgent message waits for at
most one chunk of each broadcast. Room means, of devices that are online only: no row of the chunk before is queued any
more. Of others: none is unrouted or before the long link, and at most `queued_rows_max` of the audience wait for
vendors or other workers: a vendor that is slow or down holds up the others only when so many wait for it. Rows are
accepted chunk by chunk: a task grows until its audience is through, and until then it is not final.

Where the app's journal is on the disk, the audience stands there in one append with its first chunk, and how far it has
come with each later one (`store/audience_records.py`); the next process goes on where this one ended. Of an app in
memory, what an ended process had not yet sent was never accepted, and is gone.

Bounds: `running_max` audiences, of 16 bytes per device each where they are lists. Waits for: the intake's answers, the
clock, other workers. Is waited for by: nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import trio

from gateway.actors.audience_sources import (
    AudienceFinder,
    ListedDevices,
    RegisteredDevices,
    Source,
    Taken,
    list_registered,
)
from gateway.actors.intake import Accepted, Attached, Intake
from gateway.batch import Submission
from gateway.clock import Clock
from gateway.content import Variant
from gateway.core.audience_walk import Stretch, Wanted
from gateway.core.home import Home
from gateway.core.stopping import TaskStopped
from gateway.errors import GatewayError, Overloaded
from gateway.ledger import Channel, LedgerPage, State
from gateway.store.audience_records import Reached, encode_audience, encode_reached, encode_walk
from gateway.store.ports import JournalRecord

#: Between two looks at whether there is room; routing a chunk takes some milliseconds, a vendor longer.
_LOOK_S, _LOOK_S_MAX = 0.005, 0.1


class Who(NamedTuple):
    """Whose devices: all of the app; those with the tag, where it is not empty; those of the aliases, where there are
    any. online_only: of these, those that are online now."""

    tag: bytes = b""
    aliases: tuple[bytes, ...] = ()
    online_only: bool = False


class AudienceObserver(Protocol):
    def running(self, audiences: int) -> None: ...

    def ended(self, audience_rows: int, rows_left: int) -> None: ...


class AudienceJournal(NamedTuple):
    """The journal on disk, as audiences use it. apps: numbers of those that are in it. let_go: of records that nobody
    needs any more. knows_devices: registered devices are known after a restart, too."""

    apps: Collection[int]
    app_keys: Sequence[str]
    let_go: Callable[[Sequence[int]], None]
    knows_devices: bool = True


class Started(NamedTuple):
    """task_id: empty when there is nobody. devices: how many the audience has. unknown: positions of aliases that no
    device has, or, of an audience of devices that are online, no such device."""

    task_id: bytes
    devices: int
    unknown: Sequence[int] = ()


class _Found(NamedTuple):
    """See `Started.unknown`."""

    source: Source
    unknown: list[int]


class _Open(NamedTuple):
    """Rows of a chunk of which some may be queued."""

    page: LedgerPage
    rows: slice


class Audience:
    """One that is under way: `reached` of its devices have their batches. positions: of its records. queued_rows_max:
    rows of it that may be queued while the next chunk goes."""

    def __init__(
        self,
        app: int,
        variant: Variant,
        source: Source,
        rows_per_s: float | None,
        began: float,
        *,
        reached: int = 0,
        queued_rows_max: int = 0,
    ) -> None:
        self.app = app
        self.variant = variant
        self.source = source
        self.queued_rows_max = queued_rows_max
        #: Chunks with rows that are queued; the newest is there if it has any.
        self.open: deque[_Open] = deque()
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
        """Devices that have no row yet: of a walk as many as were counted, so about."""
        return 0 if self.source.is_through else max(0, self.source.devices - self.reached)


class Audiences:
    """chunk_rows: rows that go at once. queued_rows_max: see the module's docstring. running_max: audiences that are
    not through. check_room: raises Overloaded when too many rows are parked."""

    def __init__(
        self,
        *,
        intake: Intake,
        home: Home,
        clock: Clock,
        observer: AudienceObserver,
        finder: AudienceFinder,
        chunk_rows: int,
        queued_rows_max: int,
        running_max: int,
        journal: AudienceJournal | None = None,
        check_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._intake = intake
        self._home = home
        self._clock = clock
        self._observer = observer
        self.finder = finder
        self._chunk_rows = chunk_rows
        self._queued_rows_max = queued_rows_max
        self._running_max = running_max
        self._journal = journal
        self._check_room = check_room
        self._running: dict[bytes, Audience] = {}
        self._n_starting = 0
        self._nursery: trio.Nursery | None = None

    def is_running(self, task_id: bytes) -> bool:
        """The task will have further rows."""
        return task_id in self._running

    def size(self, task_id: bytes) -> int:
        """Devices of a running audience; 0 of none."""
        found = self._running.get(task_id)
        return 0 if found is None else found.source.devices

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

    def walk(self, wanted: Wanted, devices: int, left: Sequence[Stretch]) -> RegisteredDevices:
        """A source out of what a record says."""
        return RegisteredDevices(self.finder, wanted, devices, left)

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
        who: Who,
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
            source, unknown = await self._find(app, who)
            is_nobody = source.is_through
            if is_nobody and (not request_id or who.aliases):
                return Started(b"", 0, unknown)
            room = 0 if who.online_only else self._queued_rows_max
            began = self._clock.monotonic()
            audience = Audience(app, variant, source, rows_per_s, began, queued_rows_max=room)
            answer = await self._send(audience, request_id, digest)
            if answer is None or not answer.task_id:
                return Started(b"", 0, unknown)
            if answer.is_repeat:
                return Started(answer.task_id, self.size(answer.task_id), unknown)
            audience.task_id = answer.task_id
            if not source.is_through:
                self.resume(audience)
            return Started(answer.task_id, source.devices, unknown)
        finally:
            self._n_starting -= 1

    async def _find(self, app: int, who: Who) -> _Found:
        """Who is in it, and which aliases nobody has. Raises Overloaded."""
        finder = self.finder
        if who.aliases:
            found = await finder.of_aliases(app, who.aliases, online_only=who.online_only)
            # A device has one alias, but an alias may be named twice.
            ids = np.unique(np.concatenate(found), axis=0)
            return _Found(ListedDevices(ids), [place for place, some in enumerate(found) if not len(some)])
        if who.online_only:
            return _Found(ListedDevices(await finder.online(app, who.tag)), [])
        members = await finder.count(app, who.tag)
        wanted = Wanted(app, who.tag, members.newest_unix_s)
        source = self.walk(wanted, members.devices, finder.whole() if members.devices else [])
        journal = self._journal
        if journal is not None and app in journal.apps and not journal.knows_devices:
            return _Found(await list_registered(source), [])
        return _Found(source, [])

    async def _follow(self, audience: Audience) -> None:
        # Of a run before this one.
        audience.scope = trio.CancelScope()
        try:
            with audience.scope:
                if audience.in_flight is not None:
                    # A run before this one left its chunk to the intake.
                    await audience.in_flight.wait()
                self._remember_open(audience, newest_only=False)
                while not audience.source.is_through and not audience.is_stopped:
                    if audience.rows_per_s is not None:
                        await self._clock.sleep_until(audience.began + audience.reached / audience.rows_per_s)
                    await self._wait_room(audience)
                    try:
                        self._check_room()
                        await self._send(audience)
                    except Overloaded as error:
                        await self._clock.sleep_until(self._clock.monotonic() + error.retry_after_s)
                    else:
                        self._remember_open(audience, newest_only=True)
            self._end(audience)
        except TaskStopped:
            self._end(audience)
        except GatewayError:
            # The store or the gateway ends: how far it came stands in the task's counts, and on the disk.
            del self._running[audience.task_id]
            self._observer.ended(audience.source.devices, 0 if audience.positions else audience.rows_left)
        self._observer.running(len(self._running))

    def _end(self, audience: Audience) -> None:
        """The audience is through, or stopped: no record of it is needed."""
        del self._running[audience.task_id]
        audience.is_over = True
        self._let_go(audience.positions)
        self._observer.ended(audience.source.devices, audience.rows_left)

    # -- room

    def _remember_open(self, audience: Audience, *, newest_only: bool) -> None:
        parts = self._home.find_task(audience.task_id)
        if not newest_only:
            audience.open.clear()
        for page, segment in parts[-1:] if newest_only else parts:
            audience.open.append(_Open(page, slice(segment.first, segment.first + segment.n)))

    async def _wait_room(self, audience: Audience) -> None:
        look_s = _LOOK_S
        while not _has_room(audience):
            await trio.sleep(look_s)
            look_s = min(look_s * 1.25, _LOOK_S_MAX)

    async def _send(self, audience: Audience, request_id: str = "", digest: bytes = b"") -> Accepted | None:
        """The next chunk is durable; None where nobody was left. Raises: as `start`. If cancelled: it is on its way,
        and `in_flight` until it is durable or refused."""
        source = audience.source
        taken = await source.take(self._chunk_size(audience))
        n, first = len(taken.ids), audience.reached
        if not n and audience.task_id:
            source.commit(taken)
            return None
        submission = Submission(
            request_id=request_id,
            variants=(audience.variant,),
            n=n,
            source_rows=np.arange(first, first + n, dtype=np.uint32),
            device_ids=taken.ids,
            channels=None,
            tokens=None,
            variant_index=None,
            variables={},
            duplicates=None,
            faults=(),
        )
        is_whole = taken.is_last and not audience.task_id
        answered = audience.in_flight = trio.Event()
        answers: list[Accepted | GatewayError] = []

        def reply(answer: Accepted | GatewayError) -> None:
            if isinstance(answer, Accepted) and not answer.is_repeat:
                audience.reached = first + n
                source.commit(taken)
            answers.append(answer)
            answered.set()

        self._intake.submit(
            audience.app,
            submission,
            reply,
            digest=digest,
            task_id=audience.task_id,
            is_part=not is_whole,
            attached=None if is_whole else self._attached(audience, first + n, taken),
        )
        await answered.wait()
        answer = answers[0]
        if isinstance(answer, GatewayError):
            raise answer
        return answer

    def _chunk_size(self, audience: Audience) -> int:
        """A second's worth of a slow audience, so that each second has its N rows and not every tenth all of them."""
        if audience.rows_per_s is None:
            return self._chunk_rows
        return max(1, min(self._chunk_rows, int(audience.rows_per_s)))

    # -- on the disk

    def _attached(self, audience: Audience, reached: int, taken: Taken) -> Attached | None:
        """What is written with the chunk: that it reaches so far; with the first one, the audience itself."""
        journal = self._journal
        if journal is None or audience.app not in journal.apps:
            return None
        is_first = not audience.positions

        def make(task_id: bytes) -> list[JournalRecord]:
            records = _records(audience, task_id, journal.app_keys[audience.app]) if is_first else []
            return [*records, encode_reached(Reached(task_id, reached, self._clock.unix_ms(), tuple(taken.left)))]

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


def _records(audience: Audience, task_id: bytes, app_key: str) -> list[JournalRecord]:
    source, variant, rows_per_s = audience.source, audience.variant, audience.rows_per_s
    if source.walk is not None:
        return [encode_walk(task_id, app_key, variant, rows_per_s, source.devices, source.walk)]
    assert isinstance(source, ListedDevices)
    return encode_audience(task_id, app_key, variant, rows_per_s, source.ids)


def _has_room(audience: Audience) -> bool:
    """The next chunk may go: no row of the newest is unrouted or before the long link, and not too many are queued in
    all. Chunks without a queued row are forgotten."""
    n_queued = 0
    is_before_link = False
    for _ in range(len(audience.open)):
        one = audience.open.popleft()
        page, rows = one
        is_queued = page.state[rows] == State.QUEUED
        if n := int(np.count_nonzero(is_queued)):
            audience.open.append(one)
            n_queued += n
            is_before_link = page.n_routed < rows.stop or bool(
                (is_queued & (page.channel[rows] == Channel.LONG_LINK)).any()
            )
        else:
            is_before_link = False
    return not is_before_link and n_queued <= audience.queued_rows_max
