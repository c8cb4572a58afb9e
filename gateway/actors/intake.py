"""Intake: gathers submissions into batches, makes them durable, answers, and hands the pages to the router.

    submit() --> Gather (one per app) --Patience--> Batch --> journal.append --> Home.open --> reply --> router

A submission is answered after its batch is durable: on disk for apps that say so, in memory for the others. The two go
side by side, so that an app in memory never waits for a disk. Back-pressure: `submit` raises Overloaded when the home
has no room, when the router has parked too much, when too many rows wait to be gathered, or when the disk refuses;
nothing is queued beyond that. A submission that was cut into several batches becomes durable in one append, whole or
not at all: a caller who was not answered and asks again must not meet half of his rows.

Waits for: the journals. Is waited for by: nobody (replies are calls).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

import trio

from gateway.actors.bell import Bell
from gateway.actors.patience import Patience
from gateway.actors.precedence import Precedence
from gateway.batch import Batch, OwnershipEpoch, RequestMark, RowFault, Submission
from gateway.clock import Clock, ElapsedUnix
from gateway.core.gather import Gather, Part, build_batch
from gateway.core.home import Home
from gateway.core.request_ids import RequestIds, digest_bits, entry, request_key
from gateway.core.stopping import StoppedTasks
from gateway.errors import GatewayError, Overloaded, StoreUnavailable
from gateway.ledger import LedgerPage
from gateway.message_id import TASK_DOMAIN, RowAddress, encode
from gateway.store.ports import Journal, JournalRecord
from gateway.store.records import encode_batch

#: Finished batches whose records are released together; before that the next batch takes them along.
_RELEASE_BATCHES = 64
#: Rows that wait for no further company: what a batch costs beside its rows is less than a tenth of it by then.
_ENOUGH_ROWS = 1024


class Accepted(NamedTuple):
    """The answer to a submit. rows: became rows (duplicates included). faults: refused rows, never rows. is_repeat: the
    request id was answered before."""

    task_id: bytes
    rows: int
    duplicates: int
    faults: Sequence[RowFault]
    is_repeat: bool = False


class Attached(NamedTuple):
    """Records that are appended with the last batch of a submission, all of it or nothing; of apps on disk only. make:
    the records, by the submission's task. placed: called with their positions once they are durable."""

    make: Callable[[bytes], Sequence[JournalRecord]]
    placed: Callable[[Sequence[int]], None]


class RequestIdReused(GatewayError):
    """The caller used a request_id again with another body."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request_id {request_id!r} was used before with another body")


class ShuttingDown(GatewayError):
    """Nobody is at fault: intake has stopped."""


Reply = Callable[[Accepted | GatewayError], None]


class IntakeObserver(Protocol):
    def accepted(self, app: int, rows: int, batches: int) -> None: ...

    def gathered(self, wait_s: float) -> None: ...


class Durable(Protocol):
    """The journal on disk, as `actors/journal.py` offers it."""

    def check(self) -> None: ...

    async def append(self, records: Sequence[JournalRecord]) -> Sequence[int]: ...

    def follow(self, page: LedgerPage, position: int) -> None: ...


class TaskGate(Protocol):
    """Which tasks take no rows any more, as `actors/task_control.py` knows it."""

    stopped: StoppedTasks

    def opened(self, page: LedgerPage) -> None: ...


class _Call:
    """One submit under way; `parts_left` of its parts are not durable yet. key: of its request id, 0 without one."""

    __slots__ = (
        *("attached", "digest", "duplicates", "faults", "is_long", "key", "parts"),
        *("parts_left", "replies", "rows", "since", "task_id"),
    )

    def __init__(self, submission: Submission, reply: Reply, key: int, digest: bytes, since: float) -> None:
        self.replies = [reply]
        self.key = key
        self.digest = digest
        self.rows = submission.n
        self.faults = submission.faults
        self.duplicates = _duplicates(submission)
        self.attached: Attached | None = None
        self.task_id: bytes | None = None
        self.is_long = False
        self.parts = 0
        self.parts_left = 0
        self.since = since


class _Side:
    """What waits for one journal. durable: batches that have it behind them and are not opened yet."""

    def __init__(self, disk: Durable | None, patience: Patience) -> None:
        self.disk = disk
        self.patience = patience
        self.gathers: dict[int, Gather[_Call]] = {}
        self.rows = 0
        self.bell = Bell()
        #: Calls with attached records whose last batch is not made yet.
        self.attached: list[_Call] = []
        self.durable: deque[tuple[Batch, list[Part[_Call]], int]] = deque()


class Intake:
    """gather_s, gather_busy_s: how long arrivals are gathered, see patience.py.

    gather_rows_max: rows that may wait to become durable.

    journal: of apps in memory; disk: of the apps with those indexes. app_keys: by index. request_ids: what was
    answered before.
    """

    def __init__(
        self,
        *,
        home: Home,
        journal: Journal,
        epoch: OwnershipEpoch,
        secret: bytes,
        clock: Clock,
        route: Callable[[LedgerPage], None],
        observer: IntakeObserver,
        gather_s: float,
        gather_busy_s: float,
        gather_rows_max: int,
        batch_bytes_max: int,
        request_ids: RequestIds,
        app_keys: Sequence[str],
        disk: Durable | None = None,
        disk_apps: Collection[int] = (),
        tasks: TaskGate | None = None,
        precedence: Precedence | None = None,
    ) -> None:
        self._precedence = precedence or Precedence()
        self._home = home
        self._journal = journal
        self._epoch = epoch
        self._secret = secret
        self._clock = clock
        #: How old request ids are: a wall clock that is set forward must not make a retry a second message.
        self._ages = ElapsedUnix(clock)
        self._route = route
        self._observer = observer
        self._gather_rows_max = gather_rows_max
        self._batch_bytes_max = batch_bytes_max
        self._request_ids = request_ids
        self._app_keys = app_keys
        self._tasks = tasks
        self._sides = [
            _Side(journal, Patience(gather_s, gather_busy_s, precedence=self._precedence))
            for journal in ([None] if disk is None else [None, disk])
        ]
        self._side_of = [self._sides[app in disk_apps] for app in range(len(app_keys))]
        self._rows = 0
        #: Submits with a request id that are not answered yet.
        self._pending: dict[int, _Call] = {}
        self._is_stopped = False
        self._is_stopped_in_memory = False
        #: Journal position of each batch in memory that is not final, by sequence, and those that may go.
        self._positions: dict[int, int] = {}
        self._to_release: list[int] = []
        home.on_final = self._on_final

    def submit(
        self,
        app: int,
        submission: Submission,
        reply: Reply,
        *,
        digest: bytes = b"",
        task_id: bytes = b"",
        is_part: bool = False,
        attached: Attached | None = None,
    ) -> None:
        """The reply is called once, when the rows are durable or cannot become so.

        digest: what a repeated request_id is compared by, the same for the same body.
        is_part: the task has rows in other submissions, too; task_id: of the task, once it has one.

        Raises Overloaded, RequestIdReused, TaskStopped, ShuttingDown: then nothing was taken and the reply will not be
        called. A submission without rows is answered by `Accepted` with an empty task id, at once.
        """
        key = request_key(self._secret, self._app_keys[app], submission.request_id) if submission.request_id else 0
        # To its end: whoever takes what is declined here does not know it.
        if key and self._is_repeat(key, digest, submission, reply, task_id):
            return
        if self._is_stopped or (self._is_stopped_in_memory and self._side_of[app].disk is None):
            raise ShuttingDown("the gateway is shutting down")
        if task_id and self._tasks is not None:
            self._tasks.stopped.check(task_id)
        if submission.n == 0:
            if key:
                now_ms = self._ages.unix_ms()
                self._request_ids.remember(entry(key, digest_bits(digest), None, unix_ms=now_ms), now_ms)
            reply(Accepted(b"", 0, 0, submission.faults))
            return
        side = self._side_of[app]
        if side.disk is not None:
            side.disk.check()
        if self._rows + submission.n > self._gather_rows_max:
            raise Overloaded("rows waiting to become durable", self._rows, self._gather_rows_max, retry_after_s=0.05)
        self._home.check_room(self._rows + submission.n)
        call = _Call(submission, reply, key, digest, self._clock.monotonic())
        gather = side.gathers.get(app)
        if gather is None:
            gather = side.gathers[app] = Gather(bytes_max=self._batch_bytes_max)
        call.parts = call.parts_left = gather.add(submission, call)
        call.is_long = is_part or call.parts > 1
        call.task_id = task_id or None
        if attached is not None and side.disk is not None:
            call.attached = attached
            side.attached.append(call)
        self._rows += submission.n
        side.rows += submission.n
        if key:
            self._pending[key] = call
        if side.rows >= _ENOUGH_ROWS:
            side.patience.end()
        side.bell.ring()

    def _is_repeat(self, key: int, digest: bytes, submission: Submission, reply: Reply, task_id: bytes) -> bool:
        """True when the call was seen before: it gets the first answer, now or when there is one."""
        pending = self._pending.get(key)
        if pending is not None:
            if pending.digest != digest:
                raise RequestIdReused(submission.request_id)
            pending.replies.append(reply)
            return True
        known = self._request_ids.find(key, self._ages.unix_ms())
        if known is None:
            return False
        if known.digest != digest_bits(digest):
            raise RequestIdReused(submission.request_id)
        # The same body was judged the same way; only the task's id had to be remembered.
        if known.address is None:
            task_id = b""
        elif not task_id:
            task_id = encode(self._secret, known.address, TASK_DOMAIN)
        reply(Accepted(task_id, submission.n, _duplicates(submission), submission.faults, is_repeat=True))
        return True

    @property
    def rows(self) -> int:
        """Rows that wait to become durable."""
        return self._rows

    async def run(self) -> None:
        """Makes batches until cancelled. If cancelled: what was gathered but not durable is not answered."""
        self._ages.begin()
        memory, *disk = self._sides
        if not disk:
            await self._run_side(memory)
            return
        async with trio.open_nursery() as nursery:
            for side in self._sides:
                nursery.start_soon(self._run_side, side)

    async def _run_side(self, side: _Side) -> None:
        # What a crashed run had gathered is still there.
        side.bell.ring()
        await self._open_durable(side)
        while True:
            await side.bell.wait()
            if side.rows:
                await side.patience.wait_company()
                await self._flush(side)
            if side.disk is None:
                await self._release()

    def _on_final(self, sequence: int) -> None:
        """The last row of a batch has ended: its record need not be kept."""
        position = self._positions.pop(sequence, None)
        if position is not None:
            self._to_release.append(position)
            if len(self._to_release) >= _RELEASE_BATCHES:
                self._sides[0].bell.ring()

    async def _release(self) -> None:
        if self._to_release:
            positions, self._to_release = self._to_release, []
            await self._journal.release(self._epoch, positions)

    def stop_in_memory(self) -> None:
        """No submission of an app that is in this memory alone is taken any more; those on the disk go on."""
        self._is_stopped_in_memory = True

    async def stop(self) -> None:
        """No submission is taken any more; returns when all that were taken are durable and answered."""
        self._is_stopped = True
        for side in self._sides:
            side.patience.end()
            side.bell.ring()
        while self._rows:
            await self._clock.sleep_until(self._clock.monotonic() + 0.005)

    async def _flush(self, side: _Side) -> None:
        """Everything pending is durable, answered and on its way. One journal call per turn (group commit)."""
        while side.rows:
            await side.patience.wait_rest()
            made = await self._make(side)
            if not made:
                return
            extra = self._attached(side, made) if side.attached else []
            try:
                records = [encode_batch(batch, self._app_keys[batch.app]) for batch, _ in made]
                records += [record for _, more in extra for record in more]
                if side.disk is None:
                    positions = await self._journal.append(self._epoch, records)
                else:
                    positions = await side.disk.append(records)
                    _place(extra, positions[len(made) :])
            except GatewayError as error:
                for _, parts in made:
                    self._refuse(side, parts, error)
                if isinstance(error, StoreUnavailable):
                    # The disk is at fault and has been named; the next submit hears of it at once.
                    continue
                raise
            except BaseException:
                # Nobody knows what the store did; the next run asks it again.
                for batch, parts in reversed(made):
                    side.gathers[batch.app].put_back(parts)
                raise
            side.durable.extend(
                (batch, parts, position) for (batch, parts), position in zip(made, positions[: len(made)], strict=True)
            )
            await self._open_durable(side)

    def _attached(
        self, side: _Side, made: Sequence[tuple[Batch, list[Part[_Call]]]]
    ) -> list[tuple[Attached, Sequence[JournalRecord]]]:
        """What is to be appended with these batches."""
        last = {id(part.call) for _, parts in made for part in parts if part.piece == part.call.parts - 1}
        return [
            (call.attached, call.attached.make(call.task_id or b""))
            for call in side.attached
            if call.attached is not None and id(call) in last
        ]

    async def _make(self, side: _Side) -> list[tuple[Batch, list[Part[_Call]]]]:
        """A batch of each app that has any, and all batches of a submission that is in several."""
        made: list[tuple[Batch, list[Part[_Call]]]] = []
        for app, gather in side.gathers.items():
            parts = gather.take()
            while parts:
                batch = self._build(app, parts)
                made.append((batch, parts))
                if batch.n > _ENOUGH_ROWS:
                    # The building of a large one is a step; after a small one a turn would only make its answers late.
                    await trio.lowlevel.checkpoint()
                last = parts[-1]
                parts = gather.take() if last.piece < last.call.parts - 1 else []
        return made

    async def _open_durable(self, side: _Side) -> None:
        """Batches that are durable are answered and on their way, whatever became of the run that made them so."""
        while side.durable:
            self._open(side, *side.durable.popleft())
            await trio.lowlevel.checkpoint()
        self._precedence.answered()

    def _build(self, app: int, parts: list[Part[_Call]]) -> Batch:
        now = self._clock.monotonic()
        address = self._home.next_address(self._clock.unix_ms(), now)
        batch = build_batch(address, app, now, parts, [part.call.task_id for part in parts], self._secret)
        for part, segment in zip(parts, batch.segments, strict=True):
            part.call.task_id = segment.task_id
        batch.requests = [
            RequestMark(segment.first, part.call.key, digest_bits(part.call.digest))
            for part, segment in zip(parts, batch.segments, strict=True)
            if part.call.key and part.piece == 0
        ]
        self._observer.gathered(now - parts[0].call.since)
        return batch

    def _open(self, side: _Side, batch: Batch, parts: list[Part[_Call]], position: int) -> None:
        long_tasks = [part.call.task_id for part in parts if part.call.is_long and part.call.task_id]
        page = self._home.open(batch, self._clock.monotonic(), list(dict.fromkeys(long_tasks)))
        if side.disk is not None:
            side.disk.follow(page, position)
        elif page.n_open:
            self._positions[batch.address.sequence] = position
        else:
            self._to_release.append(position)
        if self._tasks is not None:
            self._tasks.opened(page)
        self._rows -= batch.n
        side.rows -= batch.n
        self._observer.accepted(batch.app, batch.n, 1)
        ages_ms = self._ages.unix_ms() if batch.requests else 0
        for mark in batch.requests:
            # Before the last part of a cut submission is opened, which is in the same append.
            address = RowAddress(batch.address, mark.row)
            self._request_ids.remember(entry(mark.key, mark.digest, address), ages_ms)
        try:
            for part in parts:
                call = part.call
                call.parts_left -= 1
                if call.parts_left == 0:
                    self._answer(side, call)
        finally:
            # Whatever an answer may bring, the rows are on their way.
            self._route(page)

    def _answer(self, side: _Side, call: _Call) -> None:
        if call.attached is not None:
            _detach(side, call)
        if call.key:
            self._pending.pop(call.key, None)
        answer = Accepted(call.task_id or b"", call.rows, call.duplicates, call.faults)
        for place, reply in enumerate(call.replies):
            reply(answer._replace(is_repeat=True) if place else answer)

    def _refuse(self, side: _Side, parts: list[Part[_Call]], error: GatewayError) -> None:
        for part in parts:
            self._rows -= part.submission.n
            side.rows -= part.submission.n
            call = part.call
            _detach(side, call)
            self._pending.pop(call.key, None)
            for reply in call.replies:
                reply(error)
            call.replies.clear()


def _detach(side: _Side, call: _Call) -> None:
    if call.attached is not None:
        call.attached = None
        side.attached.remove(call)


def _place(extra: Sequence[tuple[Attached, Sequence[JournalRecord]]], positions: Sequence[int]) -> None:
    """Each attached record has its place."""
    at = 0
    for attached, records in extra:
        attached.placed(positions[at : at + len(records)])
        at += len(records)


def _duplicates(submission: Submission) -> int:
    return 0 if submission.duplicates is None else int(submission.duplicates.sum())
