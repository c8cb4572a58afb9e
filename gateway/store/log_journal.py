"""The journal as a plain log: preallocated segments in a folder, one durable write per commit.

    folder/lock                    held by the one process that has the journal open
    folder/0000000007.log          a segment (store/log_segment.py); the newest is written to
    folder/0000000008.log.spare    the next one, prepared; the one a dead process left is deleted at the next start

A segment whose records are all released is deleted, but for the newest, which knows the next position and the epoch.
One record that lives long keeps its segment on the disk, and only that.

Room is kept for what must be written about batches that were accepted: batches are taken only while a spare segment is
there, so on a full disk a whole segment is left for the rest.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gateway.errors import StoreCorrupt, StoreError, StoreFull, StoreInUse
from gateway.store.log_file import LogFile, store_error
from gateway.store.log_segment import (
    EPOCH_RECORD,
    SEGMENT_HEADER_BYTES,
    Segment,
    flags_bytes,
    record_bytes,
    segment_name,
)
from gateway.store.ports import BATCH_RECORD, JournalRecord
from gateway.store.threaded import ReadAhead, Sealed, ThreadedJournal

#: 16 MiB are zeroed in about 12 ms, which is what the commit pays that begins a segment; smaller ones would make a file
#: per second at 16 MB/s. A larger group gets a larger segment.
SEGMENT_BYTES = 16 << 20
#: Offsets are 32 bits; a group beyond half of that is a mistake of the caller's limits.
GROUP_LIMIT_BYTES = 1 << 31
#: 4 GiB hold 10 million rows of 163-byte tokens, texts and ids that nobody could deliver yet.
BYTES_MAX = 4 << 30
#: Segments beyond `bytes_max` for what is about accepted batches: 3 million rows' marks each.
_RESERVED_SEGMENTS = 4


class LogStatistics(NamedTuple):
    """records: not released. bytes: of all segments. cut_bytes: torn tail found when the journal was opened."""

    records: int
    segments: int
    bytes: int
    cut_bytes: int


class LogJournal(ThreadedJournal):
    """Opening reads every segment, and blocks.

    segment_bytes, bytes_max: see SEGMENT_BYTES, BYTES_MAX. file_type: how files are opened; tests put faults there.

    Raises StoreInUse, StoreCorrupt (a segment that is none), StoreFull, StoreReadOnly, StoreError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        bytes_max: int = BYTES_MAX,
        file_type: type[LogFile] = LogFile,
    ) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._bytes_max = bytes_max
        self._file_type = file_type
        self._segments: dict[int, Segment] = {}
        self._spare: Segment | None = None
        self._broken: StoreError | None = None
        self._looked_at = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise store_error(folder, error) from error
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        epoch = max(segment.epoch for segment in self._segments.values())
        self._cut_bytes = self._newest.cut_bytes
        super().__init__(str(folder), epoch)

    def _open(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreInUse(str(self._folder), "another process has this journal open") from error
        try:
            for left in (*self._folder.glob("*.log.new"), *self._folder.glob("*.log.spare")):
                left.unlink()
            paths = sorted(self._folder.glob("*.log"))
            for path in paths:
                file = self._file_type(path)
                try:
                    segment = Segment.load(file, is_last=path is paths[-1])
                except BaseException:
                    file.close()
                    raise
                self._segments[segment.number] = segment
            if not paths:
                self._promote(self._prepare(1, self._segment_bytes, 0, 0))
        except OSError as error:
            raise store_error(self._folder, error) from error
        for segment in list(self._segments.values()):
            self._delete_if_done(segment)
        with suppress(StoreError):
            # A full disk is told to the first who appends a batch.
            self._keep_spare()

    def statistics(self) -> LogStatistics:
        segments = list(self._segments.values())
        return LogStatistics(
            sum(len(segment.live) for segment in segments),
            len(segments),
            sum(segment.size for segment in segments),
            self._cut_bytes,
        )

    def is_in_place(self) -> bool:
        """Its segments still stand under their names. Asks the file system alone, so it may be called beside a turn."""
        return all(segment.file.is_in_place() for segment in list(self._segments.values()))

    def close(self) -> None:
        for segment in self._segments.values():
            segment.file.close()
        self._segments.clear()
        if self._spare is not None:
            self._discard(self._spare)
            self._spare = None
        os.close(self._lock)
        self._broken = StoreError(str(self._folder), "the journal is closed")

    # in the thread

    def commit(self, records: Sequence[Sealed]) -> Sequence[int]:
        group = list(records)
        size = sum(record_bytes(record.size) for record in group)
        if self._broken is not None:
            raise self._broken
        if size > GROUP_LIMIT_BYTES:
            raise StoreFull(str(self._folder), f"records of one append are {size} bytes, limit {GROUP_LIMIT_BYTES}")
        self._look_at_one()
        has_batch = any(record.kind == BATCH_RECORD for record in group)
        if has_batch:
            self._keep_spare()
        segment = self._newest
        if not segment.has_room(size, len(group)):
            segment = self._next_segment(size, len(group), has_batch=has_batch)
        start = segment.end
        try:
            segment.file.write_durable(segment.pack(group), start)
        except OSError as error:
            fault = store_error(segment.file.path, error)
            self._take_back(segment, start, start + size, fault)
            raise fault from error
        self._check_in_place(segment)
        return segment.added(group)

    def _check_in_place(self, segment: Segment) -> None:
        if not segment.file.is_in_place():
            self._broken = StoreError(str(segment.file.path), "the file was removed while it was in use")
            raise self._broken

    def _look_at_one(self) -> None:
        """One of the older segments is there; each commit looks at the next of them, some 2 us. What it holds is
        nowhere else, and nobody writes to it who would notice. Raises StoreError."""
        older = [number for number, segment in self._segments.items() if segment.live]
        if len(older) > 1:
            self._looked_at += 1
            self._check_in_place(self._segments[older[self._looked_at % len(older)]])

    def _take_back(self, segment: Segment, start: int, end: int, fault: StoreError) -> None:
        """Nothing of the failed group will be replayed. Where that cannot be made sure, nothing is written any more:
        the kernel forgets pages whose write failed, so a second sync would succeed without them."""
        try:
            segment.wipe(start, end)
        except OSError:
            self._broken = fault

    def let_go(self, epoch: int, positions: Sequence[int]) -> None:
        if not self._segments:
            raise self._broken or StoreError(str(self._folder), "the journal is closed")
        by_segment: dict[int, list[int]] = {}
        for position in set(positions):
            by_segment.setdefault(position >> 32, []).append(position & 0xFFFFFFFF)
        touched = [self._segments[number] for number in by_segment if number in self._segments]
        for segment in touched:
            try:
                segment.release(by_segment[segment.number])
            except OSError as error:
                raise store_error(segment.file.path, error) from error
        if epoch > max(segment.epoch for segment in self._segments.values()):
            self.commit([Sealed(EPOCH_RECORD, epoch, (), 0, 0)])
        for segment in touched:
            # The commit may have ended the newest, and deleted it.
            if segment.number in self._segments:
                self._delete_if_done(segment)

    def read(self, position: int, bytes_max: int) -> ReadAhead:
        found: list[tuple[int, JournalRecord]] = []
        size = 0
        for number in sorted(self._segments):
            segment = self._segments[number]
            for offset in segment.live:
                at = number << 32 | offset
                if at < position:
                    continue
                if size >= bytes_max:
                    return ReadAhead(found, at)
                try:
                    record = segment.record(offset)
                except StoreCorrupt as error:
                    return ReadAhead(found, None, error)
                except OSError as error:
                    return ReadAhead(found, None, store_error(segment.file.path, error))
                found.append((at, record))
                size += record.payload_bytes()
        return ReadAhead(found, None)

    # segments

    @property
    def _newest(self) -> Segment:
        return self._segments[max(self._segments)]

    def _next_segment(self, group_bytes: int, records: int, *, has_batch: bool) -> Segment:
        """A new segment with room for the group. Raises StoreFull at bytes_max, and what the disk says."""
        full, spare = self._newest, self._spare
        size = max(self._segment_bytes, SEGMENT_HEADER_BYTES + flags_bytes(self._segment_bytes, records) + group_bytes)
        kept = sum(segment.size for segment in self._segments.values() if segment.live)
        limit = self._bytes_max + (0 if has_batch else _RESERVED_SEGMENTS * self._segment_bytes)
        if kept + size > limit:
            raise StoreFull(
                str(self._folder), f"journal would be {kept + size} bytes with a new segment, limit {limit}"
            )
        segment: Segment | None = None
        after: Segment | None = None
        try:
            if spare is None or not spare.has_room(group_bytes, records):
                number = full.number + (1 if spare is None else 2)
                segment = self._prepare(number, size, full.epoch, records)
            else:
                segment = spare
            try:
                # The one after it must be there first: it is what is left to those that are no batches.
                after = self._prepare(segment.number + 1, self._segment_bytes, full.epoch, 0)
            except OSError:
                if has_batch:
                    raise
            if segment.epoch != full.epoch:
                segment.announce(full.epoch)
            self._promote(segment)
        except OSError as error:
            # What were left of them would stand in the way of the next of their numbers.
            for made in (segment, after):
                if made is not None and made is not spare:
                    self._discard(made)
            raise store_error(self._folder, error) from error
        if spare is not None and segment is not spare:
            self._discard(spare)
        self._spare = after
        self._delete_if_done(full)
        return segment

    def _keep_spare(self) -> None:
        """A spare segment is there. Raises StoreError when none can be made."""
        if self._spare is not None:
            return
        try:
            self._spare = self._prepare(self._newest.number + 1, self._segment_bytes, self._newest.epoch, 0)
        except OSError as error:
            raise store_error(self._folder, error) from error

    def _prepare(self, number: int, size: int, epoch: int, records: int) -> Segment:
        """A whole segment that is not in use yet. Raises OSError; then nothing of it is left."""
        path = self._folder / (segment_name(number) + ".spare")
        file = self._file_type(path, is_new=True)
        try:
            return Segment.create(file, number, size, epoch, flags_bytes(self._segment_bytes, records))
        except BaseException:
            file.close()
            with suppress(OSError):
                path.unlink()
            raise

    def _promote(self, segment: Segment) -> None:
        """The segment appears under its name and is the newest. Raises OSError; then it is what it was."""
        spare_path, path = segment.file.path, self._folder / segment_name(segment.number)
        spare_path.rename(path)
        segment.file.path = path
        try:
            self._sync_folder()
        except OSError:
            with suppress(OSError):
                path.rename(spare_path)
                segment.file.path = spare_path
            raise
        self._segments[segment.number] = segment

    def _discard(self, segment: Segment) -> None:
        """A segment that was not in use is gone."""
        with suppress(OSError):
            segment.file.path.unlink()
        segment.file.close()

    def _delete_if_done(self, segment: Segment) -> None:
        if segment.live or segment is self._newest:
            return
        # A segment that comes back with a power failure has its releases in it, or is read again.
        with suppress(OSError):
            segment.file.path.unlink()
        segment.file.close()
        del self._segments[segment.number]

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
