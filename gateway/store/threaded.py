"""A journal whose file work is done in a thread: group commit, checksums, read-ahead. Adapters say only what blocks.

    append, release, replay --> waiting --> one turn in a thread: commit all records, then let go, then read --> answers

How calls come together is told in `turn_taking.py`.

The interpreter is entered three times per commit at most (a busy main thread keeps each entry waiting for up to one
switch interval): when the turn begins, and after each call that lets other threads run. Hence checksums of payloads,
which let others run above 5 KiB, are made on the loop before the turn, in slices with a checkpoint between.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import trio

from gateway.batch import OwnershipEpoch
from gateway.errors import StoreError, StoreFull
from gateway.store.epochs import NewestEpoch
from gateway.store.ports import BATCH_RECORD, Buffers, JournalRecord
from gateway.store.turn_taking import Call, TurnTaking

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


class _Append(Call):
    __slots__ = ("has_batch", "positions", "records", "size")

    def __init__(self, records: list[Sealed]) -> None:
        super().__init__()
        self.records = records
        self.has_batch = any(record.kind == BATCH_RECORD for record in records)
        self.size = sum(record.size for record in records)
        self.positions: Sequence[int] = ()


class _Release(Call):
    __slots__ = ("epoch", "positions")

    def __init__(self, epoch: int, positions: Sequence[int]) -> None:
        super().__init__()
        self.epoch = epoch
        self.positions = positions


class _Read(Call):
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
        self._turns: TurnTaking[Call] = TurnTaking(place, choose=_group, perform=self._perform)
        #: Called in the thread at once when batches are durable; their callers hear of it by a turn of the loop.
        self.on_durable: Callable[[], None] = lambda: None

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
        await self._turns.take_part(call)
        return call.positions

    async def release(self, epoch: OwnershipEpoch, positions: Sequence[int]) -> None:
        """As the port says. Raises StaleEpoch, StoreError (then some of the records may be released)."""
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        await self._turns.take_part(_Release(epoch.number, positions))

    async def replay(self, position: int) -> AsyncIterator[tuple[int, JournalRecord]]:
        """As the port says. Raises StoreCorrupt at a damaged record; a replay from behind it goes on."""
        at: int | None = position
        while at is not None:
            await trio.lowlevel.checkpoint()
            call = _Read(at)
            await self._turns.take_part(call)
            for found in call.found.records:
                yield found
            if call.found.fault is not None:
                raise call.found.fault
            at = call.found.next_position

    def _perform(self, calls: list[Call]) -> None:
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
        if any(call.has_batch for call in appends):
            self.on_durable()
        return True

    def _perform_rest(self, calls: list[Call]) -> None:
        for call in calls:
            try:
                if isinstance(call, _Release):
                    self.let_go(call.epoch, call.positions)
                elif isinstance(call, _Read):
                    call.found = self.read(call.position, READ_BYTES_MAX)
            except StoreError as error:
                call.error = error


def _group(waiting: deque[Call]) -> list[Call]:
    """Calls of the next turn, all appends or none: those that wait of the kind of the oldest, up to the limits of one
    commit. An append is answered when it is durable, and not after what is let go beside it."""
    calls: list[Call] = []
    others: list[Call] = []
    size = records = 0
    for _ in range(len(waiting)):
        try:
            call = waiting.popleft()
        except IndexError:
            # Cancelled meanwhile.
            break
        if isinstance(call, _Append) != isinstance((calls or [call])[0], _Append):
            others.append(call)
            continue
        if isinstance(call, _Append):
            size += call.size
            records += len(call.records)
            if calls and (size > GROUP_BYTES_MAX or records > GROUP_RECORDS_MAX):
                others.append(call)
                break
        calls.append(call)
    waiting.extendleft(reversed(others))
    return calls


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
