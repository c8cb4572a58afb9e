"""One file of the log journal, as the journal needs the operating system: whole writes, durable writes, named errors.

Tests put a layer in its place that forgets what was not synced (tests/store/faulty_files.py).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from gateway.errors import StoreError, StoreFull, StoreReadOnly
from gateway.store.ports import Buffers

#: UIO_MAXIOV of Linux.
_BUFFERS_MAX = 1024
_ZEROS = bytes(1 << 20)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def store_error(place: Path | str, error: OSError) -> StoreError:
    """The error of the operating system in the gateway's words."""
    text = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return StoreFull(str(place), f"disk is full ({text})")
    if error.errno in _READ_ONLY:
        return StoreReadOnly(str(place), f"disk cannot be written ({text})")
    return StoreError(str(place), text)


class LogFile:
    """An open file. Every method blocks and raises OSError."""

    def __init__(self, path: Path, *, is_new: bool = False) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if is_new else 0), 0o600)
        found = os.fstat(self._fd)
        self._place = (found.st_dev, found.st_ino)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def write(self, data: bytes, offset: int) -> None:
        """In the file, and durable after the next sync."""
        while data:
            written = os.pwrite(self._fd, data, offset)
            data, offset = data[written:], offset + written

    def write_durable(self, buffers: Buffers, offset: int) -> None:
        """Durable, in one call of the system where it takes all of it.

        RWF_DSYNC is write and fdatasync in one: the thread enters the interpreter once for both, which counts when the
        main thread is busy.
        """
        left: list[bytes | memoryview] = [buffer for buffer in buffers if len(buffer)]
        while left:
            written = os.pwritev(self._fd, left[:_BUFFERS_MAX], offset, os.RWF_DSYNC)
            offset += written
            while left and written >= memoryview(left[0]).nbytes:
                written -= memoryview(left.pop(0)).nbytes
            if written:
                left[0] = memoryview(left[0]).cast("B")[written:]

    def zero(self, start: int, end: int) -> None:
        """Bytes from start to end are zero and have their place on the disk; durable after the next sync."""
        for at in range(start, end, len(_ZEROS)):
            self.write(_ZEROS[: min(len(_ZEROS), end - at)], at)

    def is_in_place(self) -> bool:
        """The file still stands under its name: a deleted one takes writes, too, and nobody will ever read them."""
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._place

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
