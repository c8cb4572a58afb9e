"""StoreDesk: what operators and apps ask of the stores: erase and block devices, list and purge stored rows, back up.

Erasing and blocking are audited, whoever asks: a line with the app and how many, never a device id.
Waits for: the registry, the inbox store, LedgerActor, a backup. Is waited for by: Service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import trio

from gateway.actors.inbox import InboxActor
from gateway.actors.page_source import PageSource
from gateway.actors.registry import RegistryActor
from gateway.batch import OwnershipEpoch
from gateway.clock import Clock
from gateway.columns import I32, I64
from gateway.core.addresses import number_of
from gateway.core.devices import DeviceTable
from gateway.core.home import Home, split_by_sequence
from gateway.errors import GatewayError
from gateway.ledger import Reason, State
from gateway.store.ports import Inbox, InboxQuery
from gateway.wire.rpc import messages
from gateway.wire.rpc.columns_in import id_column
from gateway.wire.rpc.faults import BadRequest

#: Rows purged in one step of the loop.
_PURGE_ROWS = 4096
#: Devices erased or blocked in one step.
_DEVICE_ROWS = 500
Request: TypeAlias = (
    messages.EraseDevices | messages.BlockDevices | messages.StoredRows | messages.PurgeStored | messages.Backup
)
Answer: TypeAlias = (
    messages.DevicesErased
    | messages.DevicesBlocked
    | messages.StoredRowsFound
    | messages.StoredPurged
    | messages.BackedUp
)


class Audit(Protocol):
    def audit(self, command: str, fields: Mapping[str, object]) -> None: ...


class Copies(Protocol):
    """Copies of this worker's stores, in these steps: a row goes from the journal to the archive, and from the inbox to
    its device, so several workers take each step together."""

    async def begin_copy(self, folder: Path) -> None: ...

    async def copy_pages(self, folder: Path) -> None: ...

    async def copy_inbox(self, folder: Path) -> None: ...

    async def end_copy(self, folder: Path) -> dict[str, int]: ...


class StoreDesk:
    """registry: None where devices are in memory only. pages: where tasks are found. inbox_actor: whose `places` know
    where the pages of stored rows are. copies: of every store; None where nothing is on the disk."""

    def __init__(
        self,
        *,
        devices: DeviceTable,
        registry: RegistryActor | None,
        pages: PageSource,
        inbox_actor: InboxActor,
        inbox: Inbox,
        epoch: OwnershipEpoch,
        home: Home,
        clock: Clock,
        audit: Audit,
        copies: Copies | None,
    ) -> None:
        self._devices = devices
        self._registry = registry
        self._pages = pages
        self._inbox_actor = inbox_actor
        #: Where a task's rows stand in the inboxes, as spans of tags; several workers: asked at its home.
        self.find_spans: Callable[[bytes], Awaitable[Sequence[tuple[int, int]]]] = self.spans
        self._inbox = inbox
        self._epoch = epoch
        self._home = home
        self._clock = clock
        self._audit = audit
        #: Several workers copy together.
        self.copies = copies

    async def answer(self, message: Request, app: int | None, app_key: str) -> Answer:
        """app: the one asked about; None: all, for questions of operators. Raises BadRequest, StoreError."""
        match message:
            case messages.EraseDevices():
                return await self._erase(message, _one(app), app_key)
            case messages.BlockDevices():
                return await self._block(message, _one(app), app_key)
            case messages.StoredRows():
                return await self._stored(message, app)
            case messages.PurgeStored():
                return await self._purge(message, app)
            case messages.Backup():
                return await self._copy(message)

    async def _erase(self, message: messages.EraseDevices, app: int, app_key: str) -> messages.DevicesErased:
        ids = id_column("device_ids", message.device_ids, message.n)
        erased = rows_ended = 0
        for first in range(0, message.n, _DEVICE_ROWS):
            part = np.ascontiguousarray(ids[first : first + _DEVICE_ROWS])
            for device_id in part:
                rows_ended += await self._end_rows(InboxQuery(app=app, device_id=device_id.tobytes()))
            rows = self._known(part, app)
            erased += len(rows)
            if self._registry is None:
                self._devices.remove(rows)
                await trio.lowlevel.checkpoint()
            else:
                await self._registry.erase(app, rows)
        self._audit.audit("devices erased", {"app": app_key, "devices": erased, "stored_rows": rows_ended})
        return messages.DevicesErased(id=message.id, erased=erased)

    async def _block(self, message: messages.BlockDevices, app: int, app_key: str) -> messages.DevicesBlocked:
        rows = self._known(id_column("device_ids", message.device_ids, message.n), app)
        self._devices.block(rows, message.blocked)
        if self._registry is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._registry.wait_written()
        word = "devices blocked" if message.blocked else "devices unblocked"
        self._audit.audit(word, {"app": app_key, "devices": len(rows)})
        return messages.DevicesBlocked(id=message.id, known=len(rows))

    def _known(self, ids: np.ndarray[tuple[int, int], np.dtype[np.uint8]], app: int) -> I32:
        """Rows of the devices that are known, each once."""
        rows = np.unique(self._devices.find(np.ascontiguousarray(ids), app))
        known: I32 = rows[rows >= 0].astype(np.int32)
        return known

    async def _stored(self, message: messages.StoredRows, app: int | None) -> messages.StoredRowsFound:
        query = await self._query(message, app)
        count = await self._inbox.count(query)
        found = await self._inbox.find(query, message.n)
        return messages.StoredRowsFound(
            id=message.id,
            rows=count.rows,
            bytes=count.bytes,
            devices=count.devices,
            n=len(found.tags),
            device_ids=np.ascontiguousarray(found.device_ids).reshape(-1).data,
            born_unix_ms=_u64(found.born_unix_ms),
            deadline_unix_ms=_u64(found.deadlines_unix_ms),
        )

    async def _purge(self, message: messages.PurgeStored, app: int | None) -> messages.StoredPurged:
        return messages.StoredPurged(id=message.id, rows=await self._end_rows(await self._query(message, app)))

    async def _query(self, message: messages.StoredRows | messages.PurgeStored, app: int | None) -> InboxQuery:
        spans = None
        if message.task_id is not None:
            spans = self._inbox_actor.places.spans(await self.find_spans(message.task_id))
        before = None
        if message.older_than_s:
            before = self._clock.unix_ms() - int(message.older_than_s * 1000)
        return InboxQuery(app=app, device_id=message.device_id, tags=spans, born_before_unix_ms=before)

    async def spans(self, task_id: bytes) -> list[tuple[int, int]]:
        """First and last tag of each piece of a task of this home. Raises StoreError."""
        found = []
        async with aclosing(self._pages.task_slices(task_id)) as slices:
            async for page, segment in slices:
                first = number_of(page.batch.address) << 16 | segment.first
                found.append((first, first + segment.n - 1))
        return found

    async def _end_rows(self, query: InboxQuery) -> int:
        """Stored rows that the query names are gone, cancelled where they still waited; how many there were."""
        ended = 0
        while True:
            tags = (await self._inbox.find(query, _PURGE_ROWS)).tags
            if not len(tags):
                return ended
            for number, rows in split_by_sequence(tags):
                await self._inbox_actor.places.end(number, rows, State.CANCELLED, Reason.STOPPED)
            await self._inbox.forget(self._epoch, tags)
            ended += len(tags)
            query = query._replace(first_tag=int(tags[-1]) + 1)

    async def _copy(self, message: messages.Backup) -> messages.BackedUp:
        copies, folder = self._where_to(message)
        try:
            await copies.begin_copy(folder)
            await copies.copy_pages(folder)
            await copies.copy_inbox(folder)
            files = await copies.end_copy(folder)
        except GatewayError as error:
            raise BadRequest("folder", str(error)) from error
        return messages.BackedUp(id=message.id, files=files)

    def _where_to(self, message: messages.Backup) -> tuple[Copies, Path]:
        """Who copies, and where to. Raises BadRequest."""
        if self.copies is None:
            raise BadRequest("folder", "nothing is on the disk: store.data_dir is not set", code="not_found")
        folder = Path(message.folder)
        if not folder.is_absolute():
            raise BadRequest("folder", f"{message.folder!r} is not an absolute path")
        return self.copies, folder


def _one(app: int | None) -> int:
    if app is None:
        raise BadRequest("app_key", "expected the key of an app")
    return app


def _u64(column: I64) -> memoryview:
    return np.ascontiguousarray(column.astype("<u8")).view(np.uint8).data
