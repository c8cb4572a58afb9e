"""In-memory twins of the store ports: the reference the contract suite holds every adapter against.

Nothing survives the process. Each twin checks the epoch, repeats safely, and yields to the loop as an adapter would.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Sequence

import numpy as np
import trio

from gateway.batch import OwnershipEpoch
from gateway.columns import I64, U8, U16
from gateway.device_columns import DeviceColumns, concatenate
from gateway.store.epochs import NewestEpoch
from gateway.store.ports import InboxRows, JournalRecord


class MemoryJournal:
    """Records in a dict by position; the buffers are kept as given, so nothing is copied."""

    def __init__(self) -> None:
        self._epochs = NewestEpoch()
        self._records: dict[int, JournalRecord] = {}
        self._next = 0

    async def append(self, epoch: OwnershipEpoch, records: Sequence[JournalRecord]) -> Sequence[int]:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        positions = range(self._next, self._next + len(records))
        self._records.update(zip(positions, records, strict=True))
        self._next += len(records)
        return positions

    async def replay(self, position: int) -> AsyncIterator[tuple[int, JournalRecord]]:
        for at in sorted(at for at in self._records if at >= position):
            await trio.lowlevel.checkpoint()
            record = self._records.get(at)
            if record is not None:
                yield at, record

    async def release(self, epoch: OwnershipEpoch, positions: Sequence[int]) -> None:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        for position in positions:
            self._records.pop(position, None)

    def __len__(self) -> int:
        return len(self._records)


class MemoryInbox:
    """Tags per device in compact arrays, bounded per device and in all.

    rows_per_device_max, rows_max: see [inbox] in configs/reference.toml.
    """

    def __init__(self, *, rows_per_device_max: int, rows_max: int) -> None:
        self._epochs = NewestEpoch()
        self._rows_per_device_max = rows_per_device_max
        self._rows_max = rows_max
        self._devices: dict[bytes, array[int]] = {}
        self._owner_of: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._owner_of)

    async def put(self, epoch: OwnershipEpoch, rows: InboxRows) -> U8:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        kept = np.zeros(len(rows.tags), np.uint8)
        ids = np.ascontiguousarray(rows.device_ids).tobytes()
        for index, tag in enumerate(rows.tags.tolist()):
            if tag in self._owner_of:
                kept[index] = 1
                continue
            device_id = ids[16 * index : 16 * index + 16]
            tags = self._devices.get(device_id)
            if len(self._owner_of) >= self._rows_max or (tags is not None and len(tags) >= self._rows_per_device_max):
                continue
            if tags is None:
                tags = self._devices[device_id] = array("q")
            tags.append(tag)
            self._owner_of[tag] = device_id
            kept[index] = 1
        return kept

    async def peek(self, device_id: bytes, rows_max: int) -> I64:
        await trio.lowlevel.checkpoint()
        tags = self._devices.get(device_id)
        return np.zeros(0, np.int64) if tags is None else np.array(tags[:rows_max], np.int64)

    async def forget(self, epoch: OwnershipEpoch, tags: I64) -> int:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        gone = 0
        for tag in tags.tolist():
            device_id = self._owner_of.pop(tag, None)
            if device_id is None:
                continue
            gone += 1
            kept = self._devices[device_id]
            kept.remove(tag)
            if not kept:
                del self._devices[device_id]
        return gone

    def holds(self, device_id: bytes) -> bool:
        return device_id in self._devices


class MemoryRegistry:
    """Devices in a dict by (app, id), each as columns of one row."""

    def __init__(self) -> None:
        self._epochs = NewestEpoch()
        self._devices: dict[tuple[int, bytes], DeviceColumns] = {}

    async def write(self, epoch: OwnershipEpoch, devices: DeviceColumns) -> None:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        for index in range(devices.n):
            key = (int(devices.apps[index]), devices.device_ids[index].tobytes())
            self._devices[key] = devices.take(np.array([index]))

    async def erase(self, epoch: OwnershipEpoch, app: int, device_ids: U8, shards: U16) -> None:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        for device_id in device_ids:
            self._devices.pop((app, device_id.tobytes()), None)

    async def load(self, shards: range) -> AsyncIterator[DeviceColumns]:
        found = [device for device in self._devices.values() if int(device.shards[0]) in shards]
        for at in range(0, len(found), 4096):
            await trio.lowlevel.checkpoint()
            yield concatenate(found[at : at + 4096])

    async def tidy(self) -> None:
        await trio.lowlevel.checkpoint()


class MemoryLedgerArchive:
    def __init__(self) -> None:
        self._epochs = NewestEpoch()
        self._pages: dict[int, bytes] = {}

    async def write(self, epoch: OwnershipEpoch, sequence: int, page: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        self._pages[sequence] = page

    async def read(self, sequence: int) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self._pages.get(sequence)

    async def forget(self, epoch: OwnershipEpoch, sequences: Sequence[int]) -> None:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        for sequence in sequences:
            self._pages.pop(sequence, None)
