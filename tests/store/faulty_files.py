"""Disks that fail, for the log journal: a layer over the real file that forgets what was not synced, or refuses."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
import trio.testing

from gateway.store.log_file import LogFile
from gateway.store.ports import Buffers

#: What a disk writes as a whole.
SECTOR = 512


class PowerLoss(OSError):
    """The machine lost power in the middle of a write: the caller never learns what became of it."""


class Disk:
    """What the files of one journal share.

    syncs: calls that made something durable. fails_after: writes until power is lost (None: never). errno: what writes
    and new files are refused with. half: a refused write has left half of itself.
    """

    def __init__(self) -> None:
        self.syncs = 0
        self.calls: list[str] = []
        self.fails_after: int | None = None
        self.errno: int | None = None
        self.refuses_sync = False
        #: No new file finds room, while those that are there can be written to.
        self.refuses_new = False
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._unsynced: dict[Path, dict[int, bytes]] = {}
        disk = self

        class FaultyFile(LogFile):
            def __init__(self, path: Path, *, is_new: bool = False) -> None:
                if is_new:
                    disk.refuse()
                    if disk.refuses_new:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                super().__init__(path, is_new=is_new)

            def write(self, data: bytes, offset: int) -> None:
                disk.calls.append("write")
                self._remember(offset, len(data))
                if disk.errno is not None:
                    super().write(data[: len(data) // 2], offset)
                    disk.refuse()
                super().write(data, offset)
                disk.lose_power()

            def write_durable(self, buffers: Buffers, offset: int) -> None:
                assert disk._goes_on.wait(60)
                disk.calls.append("write_durable")
                data = b"".join(buffers)
                self._remember(offset, len(data))
                if disk.errno is not None:
                    super().write(data[: len(data) // 2], offset)
                    disk.refuse()
                if disk.fails_after is None:
                    super().write_durable(buffers, offset)
                else:
                    super().write(data, offset)
                    disk.lose_power()
                disk.synced(self.path)

            def sync(self) -> None:
                disk.calls.append("sync")
                if disk.refuses_sync:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                super().sync()
                disk.synced(self.path)

            def _remember(self, offset: int, size: int) -> None:
                kept = disk._unsynced.setdefault(self.path, {})
                for at in range(offset - offset % SECTOR, offset + size, SECTOR):
                    kept.setdefault(at, os.pread(self._fd, SECTOR, at))

        self.file_type: type[LogFile] = FaultyFile

    async def together(self, *calls: Callable[[], Awaitable[Any]]) -> None:
        """All calls wait before anything that they ask for is durable."""
        self._goes_on.clear()
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            self._goes_on.set()

    def refuse(self) -> None:
        if self.errno is not None:
            raise OSError(self.errno, os.strerror(self.errno))

    def lose_power(self) -> None:
        if self.fails_after is not None:
            if self.fails_after <= 0:
                self.refuses_sync = True
                self.errno = errno.EIO
                raise PowerLoss(errno.EIO, "power loss")
            self.fails_after -= 1

    def synced(self, path: Path) -> None:
        self.syncs += 1
        self._unsynced.pop(path, None)

    def forget(self, chance: random.Random) -> int:
        """Each sector that was not synced is as before or as written, by chance; how many went back."""
        gone = 0
        for path, sectors in self._unsynced.items():
            if not path.exists():
                continue
            with open(path, "r+b") as stream:
                for at, before in sectors.items():
                    if chance.random() < 0.5:
                        stream.seek(at)
                        stream.write(before)
                        gone += 1
        self._unsynced.clear()
        return gone
