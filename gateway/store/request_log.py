"""Request ids of batches that a journal has let go, on disk for a day: files of blocks beside the journal.

    folder/00000007.ids = block | block | ...        block = header (16 bytes) | entries of 24 bytes

A block is written and synced before the batches that it stands for are let go, so an id is in one of the two places at
any time, or in both. A process writes files of its own: what another's death left of a last block is passed over. A
damaged block before others is named, and the others are read. Files go whole, when all that is in them is too old or
enough newer entries follow.

Every method blocks. Raises StoreError as the log journal does.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.store.log_file import LogFile, store_error

#: (k, 3) uint64: see core/request_ids.py.
Entries = npt.NDArray[np.uint64]

#: magic, entries, CRC-32 of the entries, and of the twelve bytes before.
_BLOCK = struct.Struct("<4sIII")
_MAGIC = b"\xa7IDS"
_ENTRY_BYTES = 24
#: Entries of one file: 24 MB, an eighteenth of the default limit, so that forgetting goes in small portions.
FILE_ENTRIES = 1 << 20
#: Entries of one portion that is read: a quiet gateway writes blocks of one entry, and an index takes thousands of them
#: together in the time of forty blocks that come alone (5 ms).
_PORTION_ENTRIES = 8192


class _File(NamedTuple):
    path: Path
    entries: int
    newest_unix_ms: int


class RequestLog:
    """ids_max: entries worth keeping. file_type: how files are opened; tests put faults there."""

    def __init__(
        self, folder: Path, *, ids_max: int, file_entries: int = FILE_ENTRIES, file_type: type[LogFile] = LogFile
    ) -> None:
        self._folder = folder
        self._ids_max = ids_max
        self._file_entries = file_entries
        self._file_type = file_type
        self._old: list[_File] = []
        self._file: LogFile | None = None
        self._end = self._entries = self._newest_unix_ms = 0
        #: Files with damaged blocks, known when `load` is through.
        self.damaged: list[Path] = []
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._paths = sorted(folder.glob("*.ids"))
        except OSError as error:
            raise store_error(folder, error) from error
        self._next = 1 + (int(self._paths[-1].stem) if self._paths else 0)

    def load(self) -> Iterator[Entries]:
        """Every entry that is there, oldest first, in portions. To be read to its end before the first append."""
        for path in self._paths:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise store_error(path, error) from error
            blocks, is_damaged = _blocks(data)
            if is_damaged:
                self.damaged.append(path)
            entries = np.frombuffer(b"".join(blocks), "<u8").reshape(-1, 3)
            for first in range(0, len(entries), _PORTION_ENTRIES):
                yield entries[first : first + _PORTION_ENTRIES]
            newest = int((entries[:, 1] >> np.uint64(16)).max(initial=0))
            self._old.append(_File(path, len(entries), newest))

    def forget_loaded(self, paths: Sequence[Path]) -> None:
        """These files, which were there when the log was opened, are gone: what they held stands elsewhere."""
        try:
            for path in paths:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise store_error(self._folder, error) from error
        self._old = [old for old in self._old if old.path not in paths]

    @property
    def paths_at_start(self) -> list[Path]:
        """Its files when it was opened."""
        return list(self._paths)

    def append(self, entries: Entries, forget_before_unix_ms: int) -> None:
        """The entries are durable."""
        data = np.ascontiguousarray(entries, "<u8").tobytes()
        head = struct.pack("<4sII", _MAGIC, len(entries), zlib.crc32(data))
        head += struct.pack("<I", zlib.crc32(head))
        try:
            if self._file is None or self._entries >= self._file_entries:
                self._begin(forget_before_unix_ms)
            assert self._file is not None
            self._file.write_durable((head, data), self._end)
        except OSError as error:
            raise store_error(self._folder, error) from error
        self._end += len(head) + len(data)
        self._entries += len(entries)
        self._newest_unix_ms = max(self._newest_unix_ms, int((entries[:, 1] >> np.uint64(16)).max()))

    def _begin(self, forget_before_unix_ms: int) -> None:
        """The next file is written to; old ones that nobody needs are gone."""
        self._seal()
        self._file = self._file_type(self._folder / f"{self._next:08d}.ids", is_new=True)
        self._next += 1
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        kept = 0
        for old in reversed(self._old[:]):
            if kept >= self._ids_max or old.newest_unix_ms < forget_before_unix_ms:
                self._old.remove(old)
                with suppress(OSError):
                    old.path.unlink()
            kept += old.entries

    def _seal(self) -> None:
        if self._file is not None:
            self._old.append(_File(self._file.path, self._entries, self._newest_unix_ms))
            self._file.close()
            self._file = None
        self._end = self._entries = self._newest_unix_ms = 0

    def close(self) -> None:
        self._seal()


def _blocks(data: bytes) -> tuple[list[memoryview], bool]:
    """The entries of a file's whole blocks, and whether one of them stands behind something that is none."""
    found: list[memoryview] = []
    at, is_damaged, is_skipping = 0, False, False
    while 0 <= at <= len(data) - _BLOCK.size:
        magic, count, checksum, head = _BLOCK.unpack_from(data, at)
        start = at + _BLOCK.size
        stop = start + count * _ENTRY_BYTES
        entries = memoryview(data)[start:stop]
        is_whole = magic == _MAGIC and head == zlib.crc32(data[start - _BLOCK.size : start - 4])
        if is_whole and count and zlib.crc32(entries) == checksum:
            found.append(entries)
            is_damaged |= is_skipping
            is_skipping = False
            at = stop
        else:
            # A torn end is followed by nothing.
            is_skipping = True
            at = data.find(_MAGIC, at + 1)
    return found, is_damaged
