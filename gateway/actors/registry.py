"""RegistryActor: carries changes of the device table to the registry on disk, and fills the table from it at start.

    Service, DeviceOwner, router --> DeviceTable (marks rows) --bell--> export --> Registry.write
                                     wait_written() <-- durable

The table is the truth while the process runs; the registry is what a start knows of it. Changes that were promised to
somebody are written at once, all that are there together; when a device was seen is written every `seen_write_s`.
After an error of the disk the rows are marked again and tried later: nothing is given up, and who waits is told.

Waits for: the registry store. Is waited for by: Service (registrations are answered when they are durable).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.batch import OwnershipEpoch
from gateway.columns import I32
from gateway.core.device_changes import LATER, NOW
from gateway.core.devices import DeviceTable
from gateway.core.segments import SHARD_COUNT
from gateway.errors import StoreError
from gateway.store.ports import Registry

#: Devices of one write: exported in about a millisecond of the loop.
_WRITE_ROWS = 1000
#: How long a registry whose disk failed is left alone; operators need seconds to make room.
_RETRY_S = 1.0


class RegistryObserver(Protocol):
    def written(self, devices: int) -> None: ...

    def write_failed(self, error: StoreError) -> None: ...

    def loaded(self, devices: int, lost_tokens: int) -> None: ...


class _Waiter:
    __slots__ = ("error", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.error: StoreError | None = None


class RegistryActor:
    """seen_write_s: see [store] in configs/reference.toml."""

    def __init__(
        self,
        *,
        store: Registry,
        epoch: OwnershipEpoch,
        devices: DeviceTable,
        observer: RegistryObserver,
        seen_write_s: float,
    ) -> None:
        self._store = store
        self._epoch = epoch
        self._devices = devices
        self._observer = observer
        self._seen_write_s = seen_write_s
        self._bell = Bell()
        self._waiters: list[_Waiter] = []
        #: Changes that are to be written at once, and how many of them are durable.
        self._changes = self._written = 0
        self._is_failing = False

    async def load(self) -> None:
        """The table, empty so far, knows every device of the registry; changes are followed from now on.

        Raises StoreError, and Overloaded where a limit of the table is smaller than what was stored.
        """
        restoring = self._devices.restoring(await self._store.count())
        async for devices in self._store.load(range(SHARD_COUNT)):
            restoring.add(devices)
        for _ in restoring.end():
            await trio.lowlevel.checkpoint()
        self._observer.loaded(restoring.n, restoring.n_lost)
        self._devices.changes.follow(self._on_change)

    def _on_change(self) -> None:
        self._changes += 1
        self._bell.ring()

    @property
    def is_behind(self) -> bool:
        """Devices have changed, and it is not durable yet. A disk that fails is not waited for: that takes seconds."""
        return self._changes != self._written and not self._is_failing

    async def wait_written(self) -> None:
        """Every change of the table so far that is written at once is durable. Raises StoreError where it is not."""
        waiter = _Waiter()
        self._waiters.append(waiter)
        self._bell.ring()
        await waiter.event.wait()
        if waiter.error is not None:
            raise type(waiter.error)(waiter.error.place, waiter.error.what) from waiter.error

    async def erase(self, app_index: int, rows: I32) -> None:
        """The devices, known and distinct, are unknown, here and on the disk. Raises StoreError; then they may be there
        again after a restart, and the caller says so."""
        columns = self._devices.export(rows)
        self._devices.remove(rows)
        await self._store.erase(self._epoch, app_index, columns.device_ids, columns.shards)

    async def run(self) -> None:
        """Works until cancelled. If cancelled: what is marked stays marked for the next run."""
        # What a crashed run had to do is still there.
        self._bell.ring()
        next_seen = trio.current_time() + self._seen_write_s
        while True:
            with trio.move_on_at(next_seen):
                await self._bell.wait()
            kinds = NOW
            if trio.current_time() >= next_seen:
                kinds |= LATER
                next_seen = trio.current_time() + self._seen_write_s
            if not await self._write(kinds):
                await trio.sleep(_RETRY_S)
                self._bell.ring()

    async def flush(self) -> None:
        """Everything that is marked is durable: the end of a shutdown. Raises StoreError."""
        await self._write_marked(NOW | LATER)

    async def _write(self, kinds: int) -> bool:
        """Whether everything marked with the kinds is durable; those that waited for it know."""
        waiters = list(self._waiters)
        changes = self._changes
        error: StoreError | None = None
        try:
            await self._write_marked(kinds)
            self._written = changes
        except StoreError as failed:
            error = failed
            self._observer.write_failed(failed)
        self._is_failing = error is not None
        del self._waiters[: len(waiters)]
        for waiter in waiters:
            waiter.error = error
            waiter.event.set()
        if error is None:
            await self._tidy()
        return error is None

    async def _write_marked(self, kinds: int) -> None:
        changes = self._devices.changes
        rows, n_written = changes.take(), 0
        try:
            for first in range(0, len(rows), _WRITE_ROWS):
                await self._write_rows(rows[first : first + _WRITE_ROWS])
                n_written = first + _WRITE_ROWS
        finally:
            changes.come_back(rows[n_written:])
        if kinds & LATER:
            for block in changes.blocks():
                await trio.lowlevel.checkpoint()
                for first in range(0, len(block), _WRITE_ROWS):
                    await self._write_rows(block[first : first + _WRITE_ROWS])

    async def _write_rows(self, rows: I32) -> None:
        changes = self._devices.changes
        # Some may have been removed, or written, while the slices before were.
        part = changes.still(rows)
        if not len(part):
            return
        devices = self._devices.export(part)
        changes.drop(part)
        try:
            await self._store.write(self._epoch, devices)
        except BaseException:
            # Also when cancelled: nobody knows, and a second write of the same changes nothing.
            self._mark_again(part, devices.device_ids)
            raise
        self._observer.written(len(part))

    def _mark_again(self, rows: I32, device_ids: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> None:
        """Those of the rows that are still the same devices; others have marks of their own."""
        is_same = (self._devices.ids(rows) == device_ids).all(axis=1)
        self._devices.changes.mark(rows[is_same])

    async def _tidy(self) -> None:
        try:
            await self._store.tidy()
        except StoreError as error:
            self._observer.write_failed(error)
