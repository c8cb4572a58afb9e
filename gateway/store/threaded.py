"""A journal whose file work is done in a thread: group commit, checksums, read-ahead. Adapters say only what blocks.

    append, release, replay --> waiting --> one turn in a thread: commit all records, then let go, then read --> answers

Theory of operation. A call that finds no turn under way begins one and takes every waiting call into it; those that
come meanwhile wait and go together in the next turn. So a commit is as large as what arrived during the last one, an
idle journal commits at once, and there is no task and no timer of its own. A turn, once begun, ends: a cancelled call
that is part of it has happened, one that only waited has not.

The interpreter is entered three times per commit at most (a busy main thread keeps each entry waiting for up to one
switch interval): when the turn begins, and after each call that lets other threads run. Hence checksums of payloads,
which let others run above 5 KiB, are made on the loop before the turn, in slices with a checkpoint between.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import trio

from gateway.batch import OwnershipEpoch
from gateway.errors import StoreError, StoreFull
from gateway.store.epochs import NewestEpoch
from gateway.store.ports import BATCH_RECORD, Buffers, JournalRecord

#: Records of one commit, in bytes; a single larger one still goes. 16 MiB are some 20 ms of a disk with 800 MB/s, the
#: longest a call that just missed the turn waits.
GROUP_BYTES_MAX = 16 << 20
#: Records of one commit. A header and a dozen columns each: 64 are below the 1,024 buffers that one write may have.
GROUP_RECORDS_MAX = 64
#: Read ahead by a replay, in bytes; the record that reaches it is still read.
READ_BYTES_MAX = 4 << 20
#: Bytes summed in one step of the loop: 0.5 ms at the 2.3 GB/s of zlib, a quarter of the step budget.
_CHECKSUM_SLICE_BYTES = 1 << 20


class Sealed(NamedTuple):
    """A record ready to be written. size: of the payload, bytes. checksum: CRC-32 of the payload."""

    kind: int
    epoch: int
    buffers: Buffers
    size: int
    checksum: int


class ReadAhead(NamedTuple):
    """Records in order of position. next_position: where to go on, None at the end. fault: what stands behind them."""

    records: list[tuple[int, JournalRecord]]
    next_position: int | None
    fault: StoreError | None = None


class _Call:
    """One call of the port. error: what became of it, when it is done."""

    __slots__ = ("error", "event", "is_done")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.error: StoreError | None = None
        self.is_done = False


class _Append(_Call):
    __slots__ = ("has_batch", "positions", "records", "size")

    def __init__(self, records: list[Sealed]) -> None:
        super().__init__()
        self.records = records
        self.has_batch = any(record.kind == BATCH_RECORD for record in records)
        self.size = sum(record.size for record in records)
        self.positions: Sequence[int] = ()


class _Release(_Call):
    __slots__ = ("epoch", "positions")

    def __init__(self, epoch: int, positions: Sequence[int]) -> None:
        super().__init__()
        self.epoch = epoch
        self.positions = positions


class _Read(_Call):
    __slots__ = ("found", "position")

    def __init__(self, position: int) -> None:
        super().__init__()
        self.position = position
        self.found = ReadAhead([], None)


class ThreadedJournal(ABC):
    """The journal port over three blocking methods; at most one of them runs at any time.

    place: the file or folder, for errors. epoch: the newest that the store has seen in earlier runs.
    """

    def __init__(self, place: str, epoch: int) -> None:
        self._place = place
        self._epochs = NewestEpoch(epoch)
        self._waiting: deque[_Call] = deque()
        self._is_turning = False
        # Of our own: a turn must not wait behind forty other uses of threads.
        self._limiter = trio.CapacityLimiter(1)

    @abstractmethod
    def commit(self, records: Sequence[Sealed]) -> Sequence[int]:
        """All records are durable, or none is there; the position of each. Blocks. Raises StoreError."""

    @abstractmethod
    def let_go(self, epoch: int, positions: Sequence[int]) -> None:
        """The records at these positions are not read again. Blocks. Raises StoreError."""

    @abstractmethod
    def read(self, position: int, bytes_max: int) -> ReadAhead:
        """Records at or after `position`, until bytes_max is reached. Blocks. Raises StoreError."""

    @abstractmethod
    def close(self) -> None:
        """Files are closed; no call may be under way. Blocks."""

    async def append(self, epoch: OwnershipEpoch, records: Sequence[JournalRecord]) -> Sequence[int]:
        """As the port says. Raises StaleEpoch, StoreError.

        After StoreError none of the records will be replayed, but where the disk failed so that nobody knows what is on
        it: then all or none, and the journal takes nothing more.
        """
        sealed = [await _seal(epoch.number, record) for record in records]
        if not sealed:
            await trio.lowlevel.checkpoint()
            self._epochs.check(epoch)
            return []
        # No more than that: the turn waits anyway, and each turn of a busy loop costs the answer a step.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._epochs.check(epoch)
        call = _Append(sealed)
        await self._take_part(call)
        return call.positions

    async def release(self, epoch: OwnershipEpoch, positions: Sequence[int]) -> None:
        """As the port says. Raises StaleEpoch, StoreError (then some of the records may be released)."""
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        await self._take_part(_Release(epoch.number, positions))

    async def replay(self, position: int) -> AsyncIterator[tuple[int, JournalRecord]]:
        """As the port says. Raises StoreCorrupt at a damaged record; a replay from behind it goes on."""
        at: int | None = position
        while at is not None:
            await trio.lowlevel.checkpoint()
            call = _Read(at)
            await self._take_part(call)
            for found in call.found.records:
                yield found
            if call.found.fault is not None:
                raise call.found.fault
            at = call.found.next_position

    async def _take_part(self, call: _Call) -> None:
        """The call was part of a turn. If cancelled: it was part of one, or of none and never will be."""
        self._waiting.append(call)
        while not call.is_done:
            if not self._is_turning:
                await self._turn()
                continue
            call.event = trio.Event()
            try:
                await call.event.wait()
            except trio.Cancelled:
                if call in self._waiting:
                    self._waiting.remove(call)
                    # It may have been this call's part to begin the next turn.
                    self._wake_next()
                raise
        if call.error is not None:
            # Each caller has an exception of his own; one raised by several tasks would collect their tracebacks.
            raise type(call.error)(call.error.place, call.error.what) from call.error

    async def _turn(self) -> None:
        """What waits, up to a group's limits, is done. Not cancellable: a write cannot be called back."""
        calls = self._group()
        self._is_turning = True
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._perform, calls, limiter=self._limiter)
        except BaseException:
            for call in calls:
                call.error = call.error or StoreError(self._place, "the turn crashed; nobody knows what was written")
            raise
        finally:
            self._is_turning = False
            for call in calls:
                call.is_done = True
                call.event.set()
            self._wake_next()

    def _wake_next(self) -> None:
        """The oldest waiting call begins the next turn and takes the others along."""
        if self._waiting and not self._is_turning:
            self._waiting[0].event.set()

    def _group(self) -> list[_Call]:
        calls: list[_Call] = []
        size = records = 0
        while self._waiting:
            call = self._waiting[0]
            if isinstance(call, _Append):
                size += call.size
                records += len(call.records)
                if calls and (size > GROUP_BYTES_MAX or records > GROUP_RECORDS_MAX):
                    break
            calls.append(self._waiting.popleft())
        return calls

    def _perform(self, calls: list[_Call]) -> None:
        """In the thread. Loops are over calls and records, which are batches; never over rows."""
        appends = [call for call in calls if isinstance(call, _Append)]
        if appends and not self._perform_appends(appends):
            # Batches found no room; what is about earlier ones has room of its own.
            self._perform_appends([call for call in appends if not call.has_batch])
        self._perform_rest([call for call in calls if not isinstance(call, _Append)])

    def _perform_appends(self, appends: list[_Append]) -> bool:
        """One commit; False when the store is full and some of the calls may fit without the others."""
        if not appends:
            return True
        try:
            positions = self.commit([record for call in appends for record in call.records])
        except StoreError as error:
            for call in appends:
                call.error = error
            return not isinstance(error, StoreFull) or len({call.has_batch for call in appends}) < 2
        first = 0
        for call in appends:
            call.error = None
            call.positions = positions[first : first + len(call.records)]
            first += len(call.records)
        return True

    def _perform_rest(self, calls: list[_Call]) -> None:
        for call in calls:
            try:
                if isinstance(call, _Release):
                    self.let_go(call.epoch, call.positions)
                elif isinstance(call, _Read):
                    call.found = self.read(call.position, READ_BYTES_MAX)
            except StoreError as error:
                call.error = error


async def _seal(epoch: int, record: JournalRecord) -> Sealed:
    checksum = size = 0
    for buffer in record.buffers:
        view = memoryview(buffer).cast("B")
        size += len(view)
        for at in range(0, len(view), _CHECKSUM_SLICE_BYTES):
            checksum = zlib.crc32(view[at : at + _CHECKSUM_SLICE_BYTES], checksum)
            if len(view) > _CHECKSUM_SLICE_BYTES:
                await trio.lowlevel.checkpoint()
    return Sealed(record.kind, epoch, record.buffers, size, checksum)
