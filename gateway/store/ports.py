"""The store ports: what durable storage must do for the gateway. Contract of DESIGN.md section 4.

Every call is async, takes a whole slice, and may be pipelined; no call reads what the same caller has just written; no
rule depends on a transaction over two stores or two shards. A move between stores is: put at the new holder (idempotent
by message id and attempt), wait until durable, then let go at the old. Every write carries the ownership epoch; an
adapter raises StaleEpoch for an older one than it has seen.

Adapters: the in-memory twins in `store/memory.py`; of the journal also `store/log_journal.py` and
`store/sqlite_journal.py`; all behind one suite (tests/store/contract.py).
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np

from gateway.batch import OwnershipEpoch
from gateway.columns import I64, U8, U16, Rows
from gateway.device_columns import DeviceColumns
from gateway.tally import PageTally, TallyKey

if TYPE_CHECKING:
    from gateway.store.page_rows import RowsOfPage

Buffers: TypeAlias = Sequence[bytes | memoryview]


#: JournalRecord.kind of a batch (store/records.py).
BATCH_RECORD = 1
#: What became of rows of batches (store/marks.py), and how far a journal has counted (store/marks.py).
MARKS_RECORD = 2
COUNT_RECORD = 3
#: Who is to get a content, and how far that has come (store/audience_records.py).
AUDIENCE_RECORD = 4
REACHED_RECORD = 5
#: Receipts that came for rows (store/receipt_records.py).
RECEIPTS_RECORD = 6
#: How far another journal's records have been copied into this one (store/marks.py); of no use once that is over.
MOVED_RECORD = 7


class JournalRecord(NamedTuple):
    """kind: one of the above. buffers: the payload in parts, written one after another, never copied together.

    Everything but batches is about what was accepted before: an adapter keeps room for it when batches find none.
    """

    kind: int
    buffers: Buffers

    def payload_bytes(self) -> int:
        return sum(len(memoryview(buffer).cast("B")) for buffer in self.buffers)


class Journal(Protocol):
    """An append-only log of one worker's accepted batches."""

    async def append(self, epoch: OwnershipEpoch, records: Sequence[JournalRecord]) -> Sequence[int]:
        """All records are durable; returns the position of each, for `release`. Positions only grow.

        Raises StoreError where the disk refuses; none of the records is taken then (store/threaded.py has the one case
        in which nobody knows). If cancelled: all or none of the records will be replayed.
        """
        ...

    def replay(self, position: int) -> AsyncIterator[tuple[int, JournalRecord]]:
        """(position, record) of every record at or after `position` that was not released, in order."""
        ...

    async def release(self, epoch: OwnershipEpoch, positions: Sequence[int]) -> None:
        """The records at these positions are durably gone. Unknown positions are ignored (a repeated release).

        Durably, because marks may only go after the batch that they are about: else a batch would come back without
        them, and rows that are final would be sent again.
        """
        ...


class InboxRows(NamedTuple):
    """Rows kept for devices that are away; k rows.

    device_ids: (k, 16) uint8. tags: (k,) int64 home address of the row (sequence << 16 | row). deadlines_unix_ms: (k,)
    int64. The rest (k,) int64, None for zeros: apps; born_unix_ms, when the row was submitted (None: as the tags say);
    sizes, bytes of text; collapse, a hash of the collapse id, 0 without one.
    """

    device_ids: U8
    tags: I64
    deadlines_unix_ms: I64
    apps: I64 | None = None
    born_unix_ms: I64 | None = None
    sizes: I64 | None = None
    collapse: I64 | None = None

    def column(self, name: str) -> I64:
        """One of the last four, with its zeros."""
        found: I64 | None = getattr(self, name)
        return np.zeros(len(self.tags), np.int64) if found is None else found

    def part(self, start: int, stop: int) -> InboxRows:
        """Rows start..stop of all columns."""
        return InboxRows(*[None if column is None else column[start:stop] for column in self])  # type: ignore[arg-type]

    def born(self) -> I64:
        """Tags of one home only grow, so they are a birth for who gave none."""
        return self.tags if self.born_unix_ms is None else self.born_unix_ms


class Kept(enum.IntEnum):
    """What became of a row of `put`."""

    NO_ROOM = 0
    YES = 1
    #: A newer row of its collapse id is there.
    SUPERSEDED = 2


class InboxPut(NamedTuple):
    """kept: (k,) uint8 `Kept`. replaced: tags that are gone, because newer rows of their collapse id came."""

    kept: U8
    replaced: I64


class InboxQuery(NamedTuple):
    """Which rows; None: any. tags: spans, both ends included: the rows of a task. first_tag: where to go on."""

    app: int | None = None
    device_id: bytes | None = None
    tags: Sequence[tuple[int, int]] | None = None
    born_before_unix_ms: int | None = None
    over_at_unix_ms: int | None = None
    first_tag: int = 0


class InboxCount(NamedTuple):
    rows: int
    bytes: int
    devices: int


class InboxFound(NamedTuple):
    """Columns of k rows in the order of their tags; device_ids (k, 16) uint8, the others (k,) int64."""

    tags: I64
    device_ids: U8
    apps: I64
    born_unix_ms: I64
    deadlines_unix_ms: I64
    sizes: I64


class Inbox(Protocol):
    """Per device, ordered by arrival, bounded in rows and bytes; of one collapse id of a device the newest stays."""

    async def put(self, epoch: OwnershipEpoch, rows: InboxRows) -> InboxPut:
        """Rows are kept; a tag that is there already is not stored twice. One whose row was born later is another row
        of a number that was given again, and takes its place."""
        ...

    async def peek(self, device_id: bytes, rows_max: int) -> I64:
        """The oldest tags of the device, at most rows_max; they stay until `forget`, when they have a new holder."""
        ...

    async def forget(self, epoch: OwnershipEpoch, tags: I64) -> int:
        """Rows that have another holder, or ended elsewhere, are gone; returns how many were there."""
        ...

    def holds(self, device_id: bytes) -> bool:
        """True where the device may have rows. Never false for a device that has some; costs no read."""
        ...

    async def count(self, query: InboxQuery) -> InboxCount:
        """How much is stored of what the query names."""
        ...

    async def find(self, query: InboxQuery, rows_max: int) -> InboxFound:
        """The first rows of what the query names, at most rows_max."""
        ...

    def __len__(self) -> int: ...


class Registry(Protocol):
    """Devices by shard, in columns: whole-state writes, erase, and a stream of all of them at start."""

    async def write(self, epoch: OwnershipEpoch, devices: DeviceColumns) -> None:
        """The devices are as the columns say, durably. One that stands there twice is what came last."""
        ...

    async def erase(self, epoch: OwnershipEpoch, app: int, device_ids: U8, shards: U16) -> None:
        """The devices, ids (k, 16) of one app, are not known; nothing of them is kept. Unknown ones are ignored."""
        ...

    async def count(self) -> int:
        """About how many devices a load of all shards brings, those of the last changes left out."""
        ...

    def load(self, shards: range) -> AsyncIterator[DeviceColumns]:
        """The devices of these shards, each once, thousands at a time. Those of apps that are not configured stay."""
        ...

    async def tidy(self) -> None:
        """Does a little of what may wait, so that a load stays short. To be called after writes were answered."""
        ...


class PageKey(NamedTuple):
    """A page by its batch: sequences are used again, with another time."""

    unix_ms: int
    sequence: int


class ArchivedPage(NamedTuple):
    """One page. parts: its bytes as `store/pages.py` makes them. device_ids: (n, 16) uint8, the targets of its rows.
    long_tasks: ids of its tasks that began in other batches: the page in which one began follows from its id. held:
    rows that wait in the inbox, and the first deadline of them; 0: all have ended."""

    key: PageKey
    app: int
    rows: int
    device_ids: U8
    long_tasks: Sequence[bytes]
    parts: Sequence[bytes | memoryview]
    held: int = 0
    deadline_unix_ms: int = 0
    #: What the archive's counters count for it.
    tally: PageTally = PageTally({})
    #: When a row of it last ended or had a receipt, for pages that somebody is told of; else 0.
    changed_unix_ms: int = 0


class PageChanges(NamedTuple):
    """Changes of one page that is there. record: as `store/page_changes.py` makes it. in_place: it stands for all that
    are there, too. The rest as in `ArchivedPage`, of the page as it is with them."""

    key: PageKey
    app: int
    record: bytes
    in_place: bool
    held: int
    deadline_unix_ms: int
    tally: PageTally
    changed_unix_ms: int = 0


class DayCounts(NamedTuple):
    """Rows of archived pages by key and cell. gone: of pages that retention has deleted."""

    kept: dict[TallyKey, dict[int, int]]
    gone: dict[TallyKey, dict[int, int]]


class HeldPage(NamedTuple):
    """A page with rows that wait in the inbox; as in `ArchivedPage`."""

    key: PageKey
    held: int
    deadline_unix_ms: int


class LedgerArchive(Protocol):
    """Ledger pages that may leave memory."""

    async def write(self, epoch: OwnershipEpoch, pages: Sequence[ArchivedPage]) -> None:
        """The pages are durable, in place of older ones of the same keys."""
        ...

    async def amend(self, epoch: OwnershipEpoch, changes: Sequence[PageChanges]) -> set[PageKey]:
        """The records are durable beside their pages, until those are written again; returns the keys of pages that
        are not there, whose records are not kept."""
        ...

    async def read(self, key: PageKey) -> bytes | None:
        """The joined parts of a page, and its records in their order; None where there is none."""
        ...

    async def read_rows(self, key: PageKey, rows: Rows) -> RowsOfPage | None:
        """What the page is by now for these rows (rising), without the rest of it, and what is counted for it; None
        where it has to be read whole, or is not there."""
        ...

    async def known(self, keys: Sequence[PageKey]) -> set[PageKey]:
        """Those of the pages that are there."""
        ...

    async def held(self, after: PageKey | None, pages_max: int) -> list[HeldPage]:
        """Pages with held rows, in the order of their keys, from the first one behind `after` on."""
        ...

    async def newest(self, sequence: int | None) -> PageKey | None:
        """The newest page of a sequence, or of all."""
        ...

    async def parts(self, task_id: bytes) -> list[PageKey]:
        """The pages of a task that has rows in several batches, oldest first."""
        ...

    async def with_device(self, keys: Sequence[PageKey] | int, device_hash: int, rows_max: int) -> list[PageKey]:
        """Those of the pages, or of an app's newest pages of so many rows, that may have rows of the device."""
        ...

    async def tallies(self, keys: Sequence[PageKey]) -> list[PageTally | None]:
        """What is counted for each of the pages; None for one that is not there."""
        ...

    async def counts(self, first_day: int, last_day: int) -> DayCounts:
        """The tallies of all pages of these days, added up."""
        ...

    async def keys(self, app: int | None, unix_ms: range, after: PageKey | None, keys_max: int) -> list[PageKey]:
        """Pages whose batches were born in that time, oldest first, from behind `after` on."""
        ...

    async def changed(self, app: int, since_unix_ms: int, after: PageKey | None, keys_max: int) -> list[PageKey]:
        """The app's pages whose `changed_unix_ms` is that or later, in the order of their keys, from behind `after`."""
        ...

    async def told(self, app: int) -> int | None:
        """Up to when the app's service was told of changes, as `tell` said last; None where it never did."""
        ...

    async def tell(self, epoch: OwnershipEpoch, app: int, unix_ms: int) -> None:
        """The app's service was told of every change before that."""
        ...

    async def forget_days(self, epoch: OwnershipEpoch, before_day: int) -> None:
        """Counts of pages that are gone, of days before that, are gone too."""
        ...

    async def forget(self, epoch: OwnershipEpoch, keys: Sequence[PageKey]) -> None:
        """The pages are gone; what was counted for them stays until `forget_days`."""
        ...

    async def retain(self, epoch: OwnershipEpoch, oldest_unix_ms: int, bytes_max: int) -> int:
        """Pages older than that are gone, and the oldest of the others while all are larger; returns how many. Those
        with held rows stay: their time is another."""
        ...
