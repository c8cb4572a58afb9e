"""In-memory twins of the store ports: the reference the contract suite holds every adapter against.

Nothing survives the process. Each twin checks the epoch, repeats safely, and yields to the loop as an adapter would.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import numpy as np
import trio

from gateway.batch import OwnershipEpoch
from gateway.columns import I64, U8, U16, Rows
from gateway.device_columns import DeviceColumns, concatenate
from gateway.errors import StoreCorrupt
from gateway.store.epochs import NewestEpoch
from gateway.store.packing import pack_page
from gateway.store.page_rows import RowsOfPage, rows_in
from gateway.store.pages import short_hashes
from gateway.store.ports import (
    ArchivedPage,
    DayCounts,
    HeldPage,
    InboxCount,
    InboxFound,
    InboxPut,
    InboxQuery,
    InboxRows,
    JournalRecord,
    Kept,
    PageChanges,
    PageKey,
)
from gateway.tally import PageTally, add_tallies


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


class _InboxRow(NamedTuple):
    device_id: bytes
    app: int
    born_unix_ms: int
    deadline_unix_ms: int
    size: int
    collapse: int


class MemoryInbox:
    """Tags per device in compact arrays, bounded per device and in all.

    Limits: see [inbox] in configs/reference.toml.
    """

    def __init__(
        self,
        *,
        rows_per_device_max: int,
        rows_max: int,
        bytes_per_device_max: int = 1 << 62,
        bytes_max: int = 1 << 62,
    ) -> None:
        self._epochs = NewestEpoch()
        self._rows_per_device_max = rows_per_device_max
        self._rows_max = rows_max
        self._bytes_per_device_max = bytes_per_device_max
        self._bytes_max = bytes_max
        self._devices: dict[bytes, array[int]] = {}
        self._rows: dict[int, _InboxRow] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    async def put(self, epoch: OwnershipEpoch, rows: InboxRows) -> InboxPut:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        kept = np.full(len(rows.tags), Kept.YES, np.uint8)
        replaced: list[int] = []
        ids = np.ascontiguousarray(rows.device_ids).tobytes()
        columns = (rows.column("apps"), rows.born(), rows.deadlines_unix_ms, rows.column("sizes"))
        fields = zip(*(column.tolist() for column in (*columns, rows.column("collapse"))), strict=True)
        added: dict[int, int] = {}
        for index, (tag, values) in enumerate(zip(rows.tags.tolist(), fields, strict=True)):
            row = _InboxRow(ids[16 * index : 16 * index + 16], *values)
            known = self._rows.get(tag)
            if known is not None and known.born_unix_ms >= row.born_unix_ms:
                continue
            # What is left of an older batch, whose number was given again.
            self._remove(tag)
            older = self._older(row)
            if older is None:
                kept[index] = Kept.SUPERSEDED
                continue
            for other in older:
                self._remove(other)
                if other in added:
                    kept[added.pop(other)] = Kept.SUPERSEDED
                else:
                    replaced.append(other)
            if self._has_room(row):
                self._rows[tag] = row
                self._devices.setdefault(row.device_id, array("q")).append(tag)
                self._bytes += row.size
                added[tag] = index
            else:
                kept[index] = Kept.NO_ROOM
        return InboxPut(kept, np.array(replaced, np.int64))

    def _older(self, row: _InboxRow) -> list[int] | None:
        """Tags that the row replaces; None where a newer one of its collapse id is there."""
        tags = self._devices.get(row.device_id, ()) if row.collapse else ()
        same = [tag for tag in tags if self._rows[tag].collapse == row.collapse]
        return None if any(self._rows[tag].born_unix_ms > row.born_unix_ms for tag in same) else same

    def _has_room(self, row: _InboxRow) -> bool:
        tags = self._devices.get(row.device_id, ())
        size = sum(self._rows[tag].size for tag in tags) if row.size else 0
        return (
            len(self._rows) < self._rows_max
            and self._bytes + row.size <= self._bytes_max
            and len(tags) < self._rows_per_device_max
            and size + row.size <= self._bytes_per_device_max
        )

    def _remove(self, tag: int) -> bool:
        row = self._rows.pop(tag, None)
        if row is None:
            return False
        self._bytes -= row.size
        kept = self._devices[row.device_id]
        kept.remove(tag)
        if not kept:
            del self._devices[row.device_id]
        return True

    async def peek(self, device_id: bytes, rows_max: int) -> I64:
        await trio.lowlevel.checkpoint()
        tags = self._devices.get(device_id)
        return np.zeros(0, np.int64) if tags is None else np.array(tags[:rows_max], np.int64)

    async def forget(self, epoch: OwnershipEpoch, tags: I64) -> int:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        return sum(self._remove(tag) for tag in tags.tolist())

    def holds(self, device_id: bytes) -> bool:
        return device_id in self._devices

    async def count(self, query: InboxQuery) -> InboxCount:
        await trio.lowlevel.checkpoint()
        found = [row for tag, row in self._rows.items() if _is_asked_for(tag, row, query)]
        return InboxCount(len(found), sum(row.size for row in found), len({row.device_id for row in found}))

    async def find(self, query: InboxQuery, rows_max: int) -> InboxFound:
        await trio.lowlevel.checkpoint()
        tags = sorted(tag for tag, row in self._rows.items() if _is_asked_for(tag, row, query))[:rows_max]
        rows = [self._rows[tag] for tag in tags]
        ids = np.frombuffer(b"".join(row.device_id for row in rows), np.uint8).reshape(-1, 16)
        columns = np.array([row[1:5] for row in rows], np.int64).reshape(-1, 4)
        return InboxFound(np.array(tags, np.int64), ids, columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3])


def _is_asked_for(tag: int, row: _InboxRow, query: InboxQuery) -> bool:
    return (
        tag >= query.first_tag
        and query.app in (None, row.app)
        and query.device_id in (None, row.device_id)
        and (query.tags is None or any(first <= tag <= last for first, last in query.tags))
        and (query.born_before_unix_ms is None or row.born_unix_ms < query.born_before_unix_ms)
        and (query.over_at_unix_ms is None or row.deadline_unix_ms <= query.over_at_unix_ms)
    )


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

    async def count(self) -> int:
        await trio.lowlevel.checkpoint()
        return len(self._devices)

    async def load(self, shards: range) -> AsyncIterator[DeviceColumns]:
        found = [device for device in self._devices.values() if int(device.shards[0]) in shards]
        for at in range(0, len(found), 4096):
            await trio.lowlevel.checkpoint()
            yield concatenate(found[at : at + 4096])

    async def tidy(self) -> None:
        await trio.lowlevel.checkpoint()


class MemoryLedgerArchive:
    """Pages in a dict by (unix_ms, sequence)."""

    def __init__(self) -> None:
        self._epochs = NewestEpoch()
        self._pages: dict[PageKey, ArchivedPage] = {}
        self._records: dict[PageKey, list[bytes]] = {}
        self._gone: list[PageTally] = []
        self._told: dict[int, int] = {}

    async def write(self, epoch: OwnershipEpoch, pages: Sequence[ArchivedPage]) -> None:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        for page in pages:
            self._pages[page.key] = page
            self._records.pop(page.key, None)

    async def amend(self, epoch: OwnershipEpoch, changes: Sequence[PageChanges]) -> set[PageKey]:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        for one in changes:
            page = self._pages.get(one.key)
            if page is not None:
                self._pages[one.key] = page._replace(
                    held=one.held,
                    deadline_unix_ms=one.deadline_unix_ms,
                    tally=one.tally,
                    changed_unix_ms=max(one.changed_unix_ms, page.changed_unix_ms),
                )
                records = self._records.setdefault(one.key, [])
                if one.in_place:
                    records.clear()
                records.append(one.record)
        return {one.key for one in changes} - self._pages.keys()

    async def read(self, key: PageKey) -> bytes | None:
        await trio.lowlevel.checkpoint()
        page = self._pages.get(key)
        return None if page is None else b"".join([*page.parts, *self._records.get(key, ())])

    async def read_rows(self, key: PageKey, rows: Rows) -> RowsOfPage | None:
        await trio.lowlevel.checkpoint()
        page = self._pages.get(key)
        try:
            return (
                None if page is None else rows_in(pack_page(page.parts), rows, self._records.get(key, ()), page.tally)
            )
        except ValueError as error:
            raise StoreCorrupt("ledger", f"page {key.sequence} of {key.unix_ms}: {error}") from error

    async def known(self, keys: Sequence[PageKey]) -> set[PageKey]:
        await trio.lowlevel.checkpoint()
        return self._pages.keys() & set(keys)

    async def held(self, after: PageKey | None, pages_max: int) -> list[HeldPage]:
        await trio.lowlevel.checkpoint()
        keys = sorted(key for key, page in self._pages.items() if page.held and (after is None or key > after))
        pages = [self._pages[key] for key in keys[:pages_max]]
        return [HeldPage(page.key, page.held, page.deadline_unix_ms) for page in pages]

    async def newest(self, sequence: int | None) -> PageKey | None:
        await trio.lowlevel.checkpoint()
        return max((key for key in self._pages if sequence in (None, key.sequence)), default=None)

    async def parts(self, task_id: bytes) -> list[PageKey]:
        await trio.lowlevel.checkpoint()
        return sorted(key for key, page in self._pages.items() if task_id in page.long_tasks)

    async def with_device(self, keys: Sequence[PageKey] | int, device_hash: int, rows_max: int) -> list[PageKey]:
        await trio.lowlevel.checkpoint()
        if isinstance(keys, int):
            app, chosen, rows = keys, [], 0
            for key in sorted((key for key, page in self._pages.items() if page.app == app), reverse=True):
                chosen.append(key)
                rows += self._pages[key].rows
                if rows >= rows_max:
                    break
            keys = chosen
        wanted = device_hash & 0xFFFFFFFF
        return [key for key in keys if key in self._pages and wanted in short_hashes(self._pages[key].device_ids)]

    async def tallies(self, keys: Sequence[PageKey]) -> list[PageTally | None]:
        await trio.lowlevel.checkpoint()
        return [self._pages[key].tally if key in self._pages else None for key in keys]

    async def counts(self, first_day: int, last_day: int) -> DayCounts:
        await trio.lowlevel.checkpoint()
        days = range(first_day, last_day + 1)
        return DayCounts(
            add_tallies([page.tally for page in self._pages.values()], days), add_tallies(self._gone, days)
        )

    async def keys(self, app: int | None, unix_ms: range, after: PageKey | None, keys_max: int) -> list[PageKey]:
        await trio.lowlevel.checkpoint()
        found = sorted(key for key, page in self._pages.items() if app in (None, page.app) and key.unix_ms in unix_ms)
        return [key for key in found if after is None or key > after][:keys_max]

    async def changed(self, app: int, since_unix_ms: int, after: PageKey | None, keys_max: int) -> list[PageKey]:
        await trio.lowlevel.checkpoint()
        pages = [page for page in self._pages.values() if page.app == app and page.changed_unix_ms]
        found = sorted(page.key for page in pages if page.changed_unix_ms >= since_unix_ms)
        return [key for key in found if after is None or key > after][:keys_max]

    async def told(self, app: int) -> int | None:
        await trio.lowlevel.checkpoint()
        return self._told.get(app)

    async def tell(self, epoch: OwnershipEpoch, app: int, unix_ms: int) -> None:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        self._told[app] = unix_ms

    async def forget_days(self, epoch: OwnershipEpoch, before_day: int) -> None:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        self._gone = [
            PageTally({key: cells for key, cells in tally.cells.items() if key.day >= before_day})
            for tally in self._gone
        ]

    async def forget(self, epoch: OwnershipEpoch, keys: Sequence[PageKey]) -> None:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        for key in keys:
            self._drop(key)

    def _drop(self, key: PageKey) -> None:
        page = self._pages.pop(key, None)
        self._records.pop(key, None)
        if page is not None:
            self._gone.append(page.tally)

    async def retain(self, epoch: OwnershipEpoch, oldest_unix_ms: int, bytes_max: int) -> int:
        await trio.lowlevel.checkpoint()
        self._epochs.check(epoch)
        total = sum(self._page_bytes(page) for page in self._pages.values())
        gone = []
        for key in sorted(key for key, page in self._pages.items() if not page.held):
            if key.unix_ms >= oldest_unix_ms and total <= bytes_max:
                break
            gone.append(key)
            total -= self._page_bytes(self._pages[key])
        for key in gone:
            self._drop(key)
        return len(gone)

    def _page_bytes(self, page: ArchivedPage) -> int:
        records = sum(len(record) for record in self._records.get(page.key, ()))
        return sum(memoryview(part).nbytes for part in page.parts) + records + 4 * page.rows
