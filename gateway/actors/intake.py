"""Intake: gathers submissions into batches, makes them durable, answers, and hands the pages to the router.

    submit() --> Gather (one per app) --gather_ms--> Batch --> journal.append --> Home.open --> reply --> router

A submission is answered after its batch is durable. Back-pressure: `submit` raises Overloaded when the home has no
room, when the router has parked too much, or when too many rows wait to be gathered; nothing is queued beyond that.
Waits for: the journal. Is waited for by: nobody (replies are calls).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import trio

from gateway.actors.bell import Bell
from gateway.batch import Batch, OwnershipEpoch, RowFault, Submission
from gateway.clock import Clock
from gateway.core.gather import Gather, Part, build_batch
from gateway.core.home import Home
from gateway.errors import GatewayError, Overloaded
from gateway.ledger import LedgerPage
from gateway.store.ports import Journal
from gateway.store.records import encode_batch

#: Finished batches whose records are released together; before that the next batch takes them along.
_RELEASE_BATCHES = 64


class Accepted(NamedTuple):
    """The answer to a submit. rows: became rows (duplicates included). faults: refused rows, never rows."""

    task_id: bytes
    rows: int
    duplicates: int
    faults: Sequence[RowFault]


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


class _Call:
    """One submit under way; `parts_left` of its parts are not durable yet."""

    __slots__ = (
        *("duplicates", "faults", "is_long", "key", "parts", "parts_left", "replies", "rows", "since", "task_id"),
    )

    def __init__(self, submission: Submission, reply: Reply, key: tuple[int, str] | None, since: float) -> None:
        self.replies = [reply]
        self.key = key
        self.rows = submission.n
        self.faults = submission.faults
        self.duplicates = 0 if submission.duplicates is None else int(submission.duplicates.sum())
        self.task_id: bytes | None = None
        self.is_long = False
        self.parts = 0
        self.parts_left = 0
        self.since = since


class _Answered(NamedTuple):
    digest: bytes
    call: _Call
    answer: Accepted | None


class Intake:
    """gather_s: how long arrivals are gathered. gather_rows_max: rows that may wait to become durable.

    request_ids_max: idempotency keys kept; the oldest are forgotten first.
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
        gather_rows_max: int,
        batch_bytes_max: int,
        request_ids_max: int,
    ) -> None:
        self._home = home
        self._journal = journal
        self._epoch = epoch
        self._secret = secret
        self._clock = clock
        self._route = route
        self._observer = observer
        self._gather_s = gather_s
        self._gather_rows_max = gather_rows_max
        self._batch_bytes_max = batch_bytes_max
        self._request_ids_max = request_ids_max
        self._gathers: dict[int, Gather[_Call]] = {}
        self._rows = 0
        self._requests: OrderedDict[tuple[int, str], _Answered] = OrderedDict()
        self._bell = Bell()
        self._full = trio.Event()
        self._is_stopped = False
        #: Journal position of each batch that is not final, by sequence, and those that may go.
        self._positions: dict[int, int] = {}
        self._to_release: list[int] = []
        self._durable: deque[tuple[Batch, list[Part[_Call]]]] = deque()
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
    ) -> None:
        """The reply is called once, when the rows are durable or cannot become so.

        digest: what a repeated request_id is compared by, the same for the same body.
        is_part: the task has rows in other submissions, too; task_id: of the task, once it has one.

        Raises Overloaded, RequestIdReused, ShuttingDown: then nothing was taken and the reply will not be called.
        A submission without rows is answered by `Accepted` with an empty task id, at once.
        """
        if self._is_stopped:
            raise ShuttingDown("the gateway is shutting down")
        key = None
        if submission.request_id:
            key = (app, submission.request_id)
            if self._is_repeat(key, digest, reply):
                return
        if submission.n == 0:
            nothing = Accepted(b"", 0, 0, submission.faults)
            if key is not None:
                self._remember(key, _Answered(digest, _Call(submission, reply, key, 0.0), nothing))
            reply(nothing)
            return
        if self._rows + submission.n > self._gather_rows_max:
            raise Overloaded("rows waiting to become durable", self._rows, self._gather_rows_max, retry_after_s=0.05)
        self._home.check_room(self._rows + submission.n)
        call = _Call(submission, reply, key, self._clock.monotonic())
        gather = self._gathers.get(app)
        if gather is None:
            gather = self._gathers[app] = Gather(bytes_max=self._batch_bytes_max)
        call.parts = call.parts_left = gather.add(submission, call)
        call.is_long = is_part or call.parts > 1
        call.task_id = task_id or None
        self._rows += submission.n
        if key is not None:
            self._remember(key, _Answered(digest, call, None))
        if gather.is_full:
            self._full.set()
        self._bell.ring()

    def _remember(self, key: tuple[int, str], answered: _Answered) -> None:
        self._requests[key] = answered
        while len(self._requests) > self._request_ids_max:
            self._requests.popitem(last=False)

    def _is_repeat(self, key: tuple[int, str], digest: bytes, reply: Reply) -> bool:
        """True when the call was seen before: it gets the first answer, now or when there is one."""
        earlier = self._requests.get(key)
        if earlier is None:
            return False
        if earlier.digest != digest:
            raise RequestIdReused(key[1])
        if earlier.answer is None:
            earlier.call.replies.append(reply)
        else:
            reply(earlier.answer)
        return True

    @property
    def rows(self) -> int:
        """Rows that wait to become durable."""
        return self._rows

    async def run(self) -> None:
        """Makes batches until cancelled. If cancelled: what was gathered but not durable is not answered."""
        # What a crashed run had gathered is still there.
        self._bell.ring()
        await self._open_durable()
        while True:
            await self._bell.wait()
            # The rest of this turn of the loop, or gather_ms, whichever is longer; a whole batch does not wait.
            if self._rows:
                with trio.move_on_after(self._gather_s):
                    await self._full.wait()
                self._full = trio.Event()
                await self._flush()
            await self._release()

    def _on_final(self, sequence: int) -> None:
        """The last row of a batch has ended: its record need not be kept."""
        position = self._positions.pop(sequence, None)
        if position is not None:
            self._to_release.append(position)
            if len(self._to_release) >= _RELEASE_BATCHES:
                self._bell.ring()

    async def _release(self) -> None:
        if self._to_release:
            positions, self._to_release = self._to_release, []
            await self._journal.release(self._epoch, positions)

    async def stop(self) -> None:
        """No submission is taken any more; returns when all that were taken are durable and answered."""
        self._is_stopped = True
        self._full.set()
        self._bell.ring()
        while self._rows:
            await self._clock.sleep_until(self._clock.monotonic() + 0.005)

    async def _flush(self) -> None:
        """Everything pending is durable, answered and on its way. One journal call per turn (group commit)."""
        while self._rows:
            made: list[tuple[Batch, list[Part[_Call]]]] = []
            for app, gather in self._gathers.items():
                parts = gather.take()
                if parts:
                    made.append((self._build(app, parts), parts))
                    await trio.lowlevel.checkpoint()
            if not made:
                return
            try:
                records = [encode_batch(batch) for batch, _ in made]
                positions = await self._journal.append(self._epoch, records)
            except GatewayError as error:
                for _, parts in made:
                    self._refuse(parts, error)
                raise
            except BaseException:
                # Nobody knows what the store did; the next run asks it again.
                for batch, parts in made:
                    self._gathers[batch.app].put_back(parts)
                raise
            for (batch, parts), position in zip(made, positions, strict=True):
                self._positions[batch.address.sequence] = position
                self._durable.append((batch, parts))
            await self._open_durable()

    async def _open_durable(self) -> None:
        """Batches that are durable are answered and on their way, whatever became of the run that made them so."""
        while self._durable:
            self._open(*self._durable.popleft())
            await trio.lowlevel.checkpoint()

    def _build(self, app: int, parts: list[Part[_Call]]) -> Batch:
        now = self._clock.monotonic()
        address = self._home.next_address(self._clock.unix_ms())
        batch = build_batch(address, app, now, parts, [part.call.task_id for part in parts], self._secret)
        for part, segment in zip(parts, batch.segments, strict=True):
            part.call.task_id = segment.task_id
        self._observer.gathered(now - parts[0].call.since)
        return batch

    def _open(self, batch: Batch, parts: list[Part[_Call]]) -> None:
        long_tasks = [part.call.task_id for part in parts if part.call.is_long and part.call.task_id]
        page = self._home.open(batch, self._clock.monotonic(), long_tasks)
        self._rows -= batch.n
        self._observer.accepted(batch.app, batch.n, 1)
        try:
            for part in parts:
                call = part.call
                call.parts_left -= 1
                if call.parts_left == 0:
                    self._answer(call)
        finally:
            # Whatever an answer may bring, the rows are on their way.
            self._route(page)

    def _answer(self, call: _Call) -> None:
        answer = Accepted(call.task_id or b"", call.rows, call.duplicates, call.faults)
        if call.key is not None and call.key in self._requests:
            self._requests[call.key] = self._requests[call.key]._replace(answer=answer)
        for reply in call.replies:
            reply(answer)

    def _refuse(self, parts: list[Part[_Call]], error: GatewayError) -> None:
        for part in parts:
            self._rows -= part.submission.n
            call = part.call
            if call.key is not None:
                self._requests.pop(call.key, None)
            for reply in call.replies:
                reply(error)
            call.replies.clear()
