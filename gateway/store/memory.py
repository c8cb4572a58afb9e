"""In-memory twins of the store ports: the reference the contract suite holds every adapter against.

Nothing survives the process. Each twin checks the epoch, repeats safely, and yields to the loop as an adapter would.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Sequence

import numpy as np
import trio

from gateway.batch import OwnershipEpoch
from gateway.columns import I64, U8
from gateway.store.epochs import NewestEpoch
from gateway.store.ports import DeviceRecords, InboxRows, JournalRecord


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
    """Device records in a dict."""

    def __init__(self) -> None:
        self._epochs = NewestEpoch()
        self._records: dict[bytes, tuple[int, bytes]] = {}

    async def write(self, epoch: OwnershipEpoch, devices: DeviceRecords) -> None:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        ids = np.ascontiguousarray(devices.device_ids).tobytes()
        for index, (shard, payload) in enumerate(zip(devices.shards.tolist(), devices.payloads, strict=True)):
            self._records[ids[16 * index : 16 * index + 16]] = (shard, payload)

    async def erase(self, epoch: OwnershipEpoch, device_ids: U8) -> int:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        ids = np.ascontiguousarray(device_ids).tobytes()
        keys = [ids[at : at + 16] for at in range(0, len(ids), 16)]
        return sum(self._records.pop(key, None) is not None for key in keys)

    async def load(self, shards: range) -> AsyncIterator[DeviceRecords]:
        found = [(key, shard, payload) for key, (shard, payload) in self._records.items() if shard in shards]
        for at in range(0, len(found), 4096):
            await trio.lowlevel.checkpoint()
            chunk = found[at : at + 4096]
            ids = np.frombuffer(b"".join(key for key, _, _ in chunk), np.uint8).reshape(-1, 16)
            yield DeviceRecords(ids, np.array([shard for _, shard, _ in chunk], np.uint16), [p for _, _, p in chunk])


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
