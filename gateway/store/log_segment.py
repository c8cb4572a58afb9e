"""One segment of the log journal: the form of its bytes, and what is found in it after a crash.

    segment = header (64 bytes) | flags | record | record | ... | zeros to its preallocated size
    flags   = one byte per record, in their order: 0 held, RELEASED
    record  = header (48 bytes) | payload | zeros to a multiple of 8
    group   = the records of one commit: each of its headers says where the group begins and ends

A position is segment number << 32 | offset of the record. All checksums are CRC-32; those of headers begin with the
segment's salt, a random word, so that no payload can pass for a record. Flags stand side by side, so that a release of
many records is one write; a write each would enter the interpreter for each. Rejected: flags through a memory map,
since a disk that turns read-only would end the process with SIGBUS.

Theory of operation. A commit is one durable write, and the next begins after it. So after a crash only the last group
may be incomplete, and which of its pages reached the disk is up to chance. Walking the headers from the front ends at
zeros (the clean end), or at what is no header:

- a later group is found behind: that group was begun after this place was durable. The place is **damaged**; it is a
  hole in which at least one record is missing, a replay reports it, and walking goes on behind it.
- none is found, or the last group's payloads are not what its headers say: a **torn tail**, never acknowledged. It is
  overwritten with zeros, so that nothing of it can be found later.

Damage to the very last group cannot be told from a torn one and is cut, too: no log without a second copy can.
"""

from __future__ import annotations

import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gateway.errors import StoreCorrupt
from gateway.store.log_file import LogFile
from gateway.store.ports import JournalRecord
from gateway.store.threaded import Sealed

#: magic, version, number, epoch, size, salt, bytes of flags; then its CRC-32.
_SEGMENT = struct.Struct("<8sIIQQII")
_MAGIC = b"PUSHGWJL"
_VERSION = 1
SEGMENT_HEADER_BYTES = 64
#: magic, length of the payload, position, epoch, group start, group end, number of the flag, kind, CRC-32 of the
#: payload; then its own CRC-32.
_RECORD = struct.Struct("<4sIQQIIIII")
_RECORD_MAGIC = b"\xa7REC"
_CRC = struct.Struct("<I")
RECORD_HEADER_BYTES = _RECORD.size + _CRC.size
#: Not a value that zeros or a single wrong bit would give. Everything else is read as held.
_RELEASED = 0x5A
#: Segment bytes per flag: the smallest record of a batch has some 400 bytes; more of them begin a new segment early.
_BYTES_PER_FLAG = 256
#: A record that only carries an epoch; never replayed. JournalRecord.kind begins at 1.
EPOCH_RECORD = 0
_ALIGNMENT = 8
_PADS = tuple(bytes(n) for n in range(_ALIGNMENT))


class _Header(NamedTuple):
    length: int
    epoch: int
    group_start: int
    group_end: int
    flag: int
    kind: int
    checksum: int

    def end(self, at: int) -> int:
        return at + record_bytes(self.length)


def record_bytes(payload_bytes: int) -> int:
    """What a record takes in a segment."""
    size = RECORD_HEADER_BYTES + payload_bytes
    return size + -size % _ALIGNMENT


def flags_bytes(segment_bytes: int, records: int) -> int:
    """The flags of a segment of about that size, with room for that many records at least."""
    count = max(segment_bytes // _BYTES_PER_FLAG, records)
    return count + -count % _ALIGNMENT


def segment_name(number: int) -> str:
    return f"{number:010d}.log"


class _Live(NamedTuple):
    """A record that is not released. length: of its payload, -1 for a hole. flag: its number."""

    length: int
    flag: int


_HOLE = _Live(-1, -1)


class Segment:
    """An open segment.

    live: by offset. end: where the next group goes. size: preallocated bytes. flags: one per record there may be.
    cut_bytes: of a torn tail that was overwritten. epoch: the newest found.
    """

    def __init__(self, file: LogFile, number: int, size: int, epoch: int, salt: int, flags: bytes) -> None:
        self.file = file
        self.number = number
        self.size = size
        self.epoch = epoch
        self.end = self._start = SEGMENT_HEADER_BYTES + len(flags)
        self.live: dict[int, _Live] = {}
        self.cut_bytes = 0
        self._salt = salt
        self._flags = bytearray(flags)
        self._records = 0

    @classmethod
    def create(cls, file: LogFile, number: int, size: int, epoch: int, flags: int) -> Segment:
        """An empty segment, durable. Zeros are written, not only allocated: commits into them take half the time."""
        segment = cls(file, number, size, epoch, secrets.randbits(32), bytes(flags))
        file.write(segment._packed_header(), 0)
        file.zero(SEGMENT_HEADER_BYTES, size)
        file.sync()
        return segment

    def _packed_header(self) -> bytes:
        header = _SEGMENT.pack(
            _MAGIC, _VERSION, self.number, self.epoch, self.size, self._salt, self._start - SEGMENT_HEADER_BYTES
        )
        header += _CRC.pack(zlib.crc32(header))
        return header + bytes(SEGMENT_HEADER_BYTES - len(header))

    def announce(self, epoch: int) -> None:
        """The segment, which is not in use yet, was made in an older epoch; now it says this one, durably."""
        self.epoch = epoch
        self.file.write_durable((self._packed_header(),), 0)

    @classmethod
    def load(cls, file: LogFile, *, is_last: bool) -> Segment:
        """The segment as it was left; a torn tail of the last one is cut. Raises StoreCorrupt for a bad header."""
        data = file.read(0, file.size())
        place = str(file.path)
        if len(data) < SEGMENT_HEADER_BYTES:
            raise StoreCorrupt(place, f"segment is {len(data)} bytes, expected at least {SEGMENT_HEADER_BYTES}")
        magic, version, number, epoch, size, salt, flags = _SEGMENT.unpack_from(data)
        (checksum,) = _CRC.unpack_from(data, _SEGMENT.size)
        if magic != _MAGIC or checksum != zlib.crc32(data[: _SEGMENT.size]):
            raise StoreCorrupt(place, "segment header does not agree with its checksum")
        if version != _VERSION:
            raise StoreCorrupt(place, f"segment has format {version}, this version reads format {_VERSION}")
        if segment_name(number) != Path(file.path).name:
            raise StoreCorrupt(place, f"segment has number {number}, its name says otherwise")
        if len(data) != size:
            raise StoreCorrupt(place, f"segment is {len(data)} bytes, it was made with {size}")
        found = data[SEGMENT_HEADER_BYTES : SEGMENT_HEADER_BYTES + flags]
        segment = cls(file, number, size, epoch, salt, found)
        segment._walk(data, is_last=is_last)
        return segment

    # what is in it

    def _walk(self, data: bytes, *, is_last: bool) -> None:
        at = group_start = self._start
        group: dict[int, _Header] = {}
        last: dict[int, _Header] = {}
        while True:
            header = self._header(data, at)
            if header is not None and header.group_start == group_start and header.end(at) <= header.group_end:
                group[at] = header
                at = header.end(at)
                if at == header.group_end:
                    self._take(last)
                    last, group, group_start = group, {}, at
                continue
            found = self._later_group(data, at)
            if found is None:
                break
            self._take(last)
            self._take(group)
            self.live[at] = _HOLE
            self._take(self._rest_of_group(data, at, found, group_start))
            last, group, at, group_start = {}, {}, found, found
        is_torn = bool(np.frombuffer(data, np.uint8, offset=group_start).any())
        if not is_last:
            # Sealed segments end in zeros: what was torn was cut before the next segment was begun.
            self._take(last)
            if is_torn:
                self._take(group)
                self.live[at] = _HOLE
            self.end = group_start
            return
        if not is_torn and not all(_is_whole(data, offset, header) for offset, header in last.items()):
            group_start, is_torn = next(iter(last)), True
            last = {}
        self._take(last)
        self.end = group_start
        if is_torn:
            self.cut_bytes = len(data.rstrip(b"\0")) - group_start
            self.wipe(group_start, group_start + self.cut_bytes)

    def _take(self, group: dict[int, _Header]) -> None:
        """What the headers say is in the segment; payloads are judged when they are read."""
        for offset, header in group.items():
            self.epoch = max(self.epoch, header.epoch)
            self._records = header.flag + 1
            if header.kind != EPOCH_RECORD and self._flags[header.flag] != _RELEASED:
                self.live[offset] = _Live(header.length, header.flag)

    def _header(self, data: bytes, at: int, *, base: int = 0) -> _Header | None:
        """The record header at this offset of the segment, None where there is none. data begins at `base`."""
        start = at - base
        if start + RECORD_HEADER_BYTES > len(data):
            return None
        magic, length, position, epoch, *rest = _RECORD.unpack_from(data, start)
        if magic != _RECORD_MAGIC or position != self.number << 32 | at:
            return None
        end = start + _RECORD.size
        if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[start:end], self._salt):
            return None
        return _Header(length, epoch, *rest)

    def _later_group(self, data: bytes, at: int) -> int | None:
        """Where the first group begins that begins behind `at`."""
        for offset, header in self._headers(data, at + 1, len(data)):
            if header.group_start == offset:
                return offset
        return None

    def _rest_of_group(self, data: bytes, at: int, end: int, group_start: int) -> dict[int, _Header]:
        """Records of a damaged group that stand behind the damage."""
        return {at: header for at, header in self._headers(data, at + 1, end) if header.group_start == group_start}

    def _headers(self, data: bytes, at: int, end: int) -> Iterator[tuple[int, _Header]]:
        """Whatever is a record header between two offsets, wherever it stands."""
        while (at := data.find(_RECORD_MAGIC, at, end)) >= 0:
            header = self._header(data, at)
            if header is not None:
                yield at, header
            at += 1

    # what goes in and out

    def has_room(self, size: int, records: int) -> bool:
        return self.end + size <= self.size and self._records + records <= len(self._flags)

    def pack(self, records: list[Sealed]) -> list[bytes | memoryview]:
        """The bytes of a group at the end of the segment, in parts."""
        start = at = self.end
        end = start + sum(record_bytes(record.size) for record in records)
        parts: list[bytes | memoryview] = []
        for index, record in enumerate(records, self._records):
            header = _RECORD.pack(
                *(_RECORD_MAGIC, record.size, self.number << 32 | at, record.epoch),
                *(start, end, index, record.kind, record.checksum),
            )
            header += _CRC.pack(zlib.crc32(header, self._salt))
            parts += [header, *record.buffers, _PADS[-(len(header) + record.size) % _ALIGNMENT]]
            at += record_bytes(record.size)
        return parts

    def added(self, records: list[Sealed]) -> list[int]:
        """The packed group is durable; the position of each record."""
        positions = []
        for record in records:
            positions.append(self.number << 32 | self.end)
            if record.kind != EPOCH_RECORD:
                self.live[self.end] = _Live(record.size, self._records)
            self._records += 1
            self.end += record_bytes(record.size)
            self.epoch = max(self.epoch, record.epoch)
        return positions

    def wipe(self, start: int, end: int) -> None:
        """What a failed or torn group left is gone, durably."""
        self.file.zero(start, min(end, self.size))
        self.file.sync()

    def release(self, offsets: Sequence[int]) -> None:
        """The records are durably marked, in one write. Offsets where no held record begins are ignored."""
        gone = [offset for offset in offsets if offset in self.live]
        indexes = [self.live[offset].flag for offset in gone if self.live[offset] != _HOLE]
        if indexes:
            flags, first, last = bytearray(self._flags), min(indexes), max(indexes)
            for index in indexes:
                flags[index] = _RELEASED
            self.file.write_durable((bytes(flags[first : last + 1]),), SEGMENT_HEADER_BYTES + first)
            self._flags = flags
        for offset in gone:
            del self.live[offset]

    def record(self, offset: int) -> JournalRecord:
        """The record at the offset. Raises StoreCorrupt, OSError."""
        length = self.live[offset].length
        place, at = str(self.file.path), self.number << 32 | offset
        if length < 0:
            raise StoreCorrupt(place, f"no record begins at byte {offset}, but others follow", position=at)
        data = self.file.read(offset, RECORD_HEADER_BYTES + length)
        header = self._header(data, offset, base=offset)
        if header is None or not _is_whole(data, 0, header):
            raise StoreCorrupt(place, f"record at byte {offset} does not agree with its checksum", position=at)
        return JournalRecord(header.kind, (memoryview(data)[RECORD_HEADER_BYTES:],))


def _is_whole(data: bytes, at: int, header: _Header) -> bool:
    payload = memoryview(data)[at + RECORD_HEADER_BYTES : at + RECORD_HEADER_BYTES + header.length]
    return len(payload) == header.length and zlib.crc32(payload) == header.checksum
