"""Stopped tasks on the disk, beside the journal: a stop outlives a crash, and so does what it refuses. Without a
journal they stand in store.data_dir, where there is one: pages of apps in memory outlive the process there.

data_dir/journal/0007/stopped/     a log in the form of the request ids' (store/request_log.py): the address that a
                                   task's id stands for, with the time of the stop in the place of the key
store.data_dir/stopped/0007/       the same
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import trio

from gateway.clock import Clock
from gateway.core.request_ids import address_of, entry
from gateway.message_id import TASK_DOMAIN, decode, encode
from gateway.store.log_file import LogFile
from gateway.store.request_log import RequestLog


class StoppedLog:
    """tasks_max: worth keeping. age_s: how long after its begin a task can be named. Raises StoreError."""

    def __init__(
        self,
        folder: Path,
        secret: bytes,
        clock: Clock,
        *,
        tasks_max: int,
        age_s: float,
        file_type: type[LogFile] = LogFile,
    ) -> None:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        self._folder, self._tasks_max = folder, tasks_max
        self._log = RequestLog(folder, ids_max=tasks_max, file_type=file_type)
        self._secret = secret
        self._clock = clock
        self._age_s = age_s
        # Its file has one position to write at: two stops write one after the other.
        self._turn = trio.Lock()

    def load(self) -> Iterator[tuple[bytes, int]]:
        """Task ids and when they were stopped, in that order. To be read to its end before the first `remember`."""
        for entries in self._log.load():
            for unix_ms, place, rest in entries.tolist():
                yield encode(self._secret, address_of(place, rest), TASK_DOMAIN), unix_ms

    def load_all(self, folders: Iterable[Path] | None = None) -> Iterator[tuple[bytes, int]]:
        """The same with those of logs in these folders, or beside it: of workers whose pages another one has now. What
        one of them is just writing may be missing."""
        for folder in sorted(self._folder.parent.iterdir() if folders is None else folders):
            if folder != self._folder:
                beside = StoppedLog(folder, self._secret, self._clock, tasks_max=self._tasks_max, age_s=self._age_s)
                yield from beside.load()
                beside.close()
        yield from self.load()

    async def remember(self, task_id: bytes, unix_ms: int) -> None:
        """The stop is durable. Raises StoreError. If cancelled: it may be."""
        address = decode(self._secret, task_id, TASK_DOMAIN)
        if address is None:
            return
        entries = np.array([entry(unix_ms, 0, address)], np.uint64)
        forget_before_ms = self._clock.unix_ms() - int(self._age_s * 1000)
        async with self._turn:
            await trio.to_thread.run_sync(self._log.append, entries, forget_before_ms)

    def close(self) -> None:
        self._log.close()
