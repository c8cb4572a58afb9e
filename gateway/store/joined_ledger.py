"""Ledger archives of several journals as one: a worker's own, and those of journals that it answers for.

Each journal's pages are in a database of their own, under the sequences that its worker gave them; with another number
of workers a database has another worker, and no page moves. Here the pages of an adopted journal have its worker's
index before their sequence (core/addresses.py): `sequence = worker << 22 | sequence`; the worker's own have none.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from gateway.batch import OwnershipEpoch
from gateway.columns import Rows
from gateway.message_id import SEQUENCES_MAX
from gateway.store.page_rows import RowsOfPage
from gateway.store.ports import ArchivedPage, DayCounts, HeldPage, LedgerArchive, PageChanges, PageKey
from gateway.tally import PageTally, add_keys


class JoinedLedger:
    """own: of the worker's journal. adopted: by their workers' index, which is not 0."""

    def __init__(self, own: LedgerArchive, adopted: Mapping[int, LedgerArchive]) -> None:
        self._all: dict[int, LedgerArchive] = {0: own, **adopted}

    def _split(self, keys: Sequence[PageKey]) -> dict[int, list[PageKey]]:
        found: dict[int, list[PageKey]] = {}
        for key in keys:
            found.setdefault(key.sequence // SEQUENCES_MAX, []).append(key)
        return {worker: some for worker, some in found.items() if worker in self._all}

    async def write(self, epoch: OwnershipEpoch, pages: Sequence[ArchivedPage]) -> None:
        """As the port says. Raises StaleEpoch, StoreError."""
        by_worker: dict[int, list[ArchivedPage]] = {}
        for page in pages:
            by_worker.setdefault(page.key.sequence // SEQUENCES_MAX, []).append(page._replace(key=_inner(page.key)))
        for worker, some in by_worker.items():
            await self._all[worker].write(epoch, some)

    async def amend(self, epoch: OwnershipEpoch, changes: Sequence[PageChanges]) -> set[PageKey]:
        """As the port says. Raises StaleEpoch, StoreError."""
        by_worker: dict[int, list[PageChanges]] = {}
        for one in changes:
            by_worker.setdefault(one.key.sequence // SEQUENCES_MAX, []).append(one._replace(key=_inner(one.key)))
        missing: set[PageKey] = set()
        for worker, some in by_worker.items():
            missing |= {_outer(worker, key) for key in await self._all[worker].amend(epoch, some)}
        return missing

    async def read(self, key: PageKey) -> bytes | None:
        """As the port says. Raises StoreError."""
        archive = self._all.get(key.sequence // SEQUENCES_MAX)
        return None if archive is None else await archive.read(_inner(key))

    async def read_rows(self, key: PageKey, rows: Rows) -> RowsOfPage | None:
        """As the port says. Raises StoreError."""
        archive = self._all.get(key.sequence // SEQUENCES_MAX)
        return None if archive is None else await archive.read_rows(_inner(key), rows)

    async def known(self, keys: Sequence[PageKey]) -> set[PageKey]:
        """As the port says. Raises StoreError."""
        found: set[PageKey] = set()
        for worker, some in self._split(keys).items():
            found |= {_outer(worker, key) for key in await self._all[worker].known([_inner(key) for key in some])}
        return found

    async def held(self, after: PageKey | None, pages_max: int) -> list[HeldPage]:
        """As the port says. Raises StoreError."""
        parts = [
            [page._replace(key=_outer(worker, page.key)) for page in await one.held(_behind(worker, after), pages_max)]
            for worker, one in self._all.items()
        ]
        return list(heapq.merge(*parts))[:pages_max]

    async def newest(self, sequence: int | None) -> PageKey | None:
        """As the port says; of all: the newest of the worker's own journal. Raises StoreError."""
        worker = 0 if sequence is None else sequence // SEQUENCES_MAX
        archive = self._all.get(worker)
        if archive is None:
            return None
        key = await archive.newest(None if sequence is None else sequence % SEQUENCES_MAX)
        return None if key is None else _outer(worker, key)

    async def parts(self, task_id: bytes) -> list[PageKey]:
        """As the port says. Raises StoreError."""
        return sorted([_outer(worker, key) for worker, one in self._all.items() for key in await one.parts(task_id)])

    async def with_device(self, keys: Sequence[PageKey] | int, device_hash: int, rows_max: int) -> list[PageKey]:
        """As the port says. Raises StoreError."""
        asked: Mapping[int, Sequence[PageKey] | int]
        if isinstance(keys, int):
            asked = dict.fromkeys(self._all, keys)
        else:
            asked = {worker: [_inner(key) for key in some] for worker, some in self._split(keys).items()}
        found = [
            _outer(worker, key)
            for worker, some in asked.items()
            for key in await self._all[worker].with_device(some, device_hash, rows_max)
        ]
        # Newest first, as one archive answers for an app.
        return sorted(found, reverse=True) if isinstance(keys, int) else sorted(found)

    async def tallies(self, keys: Sequence[PageKey]) -> list[PageTally | None]:
        """As the port says. Raises StoreError."""
        found: dict[PageKey, PageTally | None] = {}
        for worker, some in self._split(keys).items():
            found.update(zip(some, await self._all[worker].tallies([_inner(key) for key in some]), strict=True))
        return [found.get(key) for key in keys]

    async def counts(self, first_day: int, last_day: int) -> DayCounts:
        """As the port says. Raises StoreError."""
        parts = [await one.counts(first_day, last_day) for one in self._all.values()]
        days = range(first_day, last_day + 1)
        return DayCounts(add_keys([one.kept for one in parts], days), add_keys([one.gone for one in parts], days))

    async def keys(self, app: int | None, unix_ms: range, after: PageKey | None, keys_max: int) -> list[PageKey]:
        """As the port says. Raises StoreError."""
        parts = [
            [_outer(worker, key) for key in await one.keys(app, unix_ms, _behind(worker, after), keys_max)]
            for worker, one in self._all.items()
        ]
        return list(heapq.merge(*parts))[:keys_max]

    async def changed(self, app: int, since_unix_ms: int, after: PageKey | None, keys_max: int) -> list[PageKey]:
        """As the port says. Raises StoreError."""
        parts = [
            [_outer(worker, key) for key in await one.changed(app, since_unix_ms, _behind(worker, after), keys_max)]
            for worker, one in self._all.items()
        ]
        return list(heapq.merge(*parts))[:keys_max]

    async def told(self, app: int) -> int | None:
        """As the port says: up to when it was of each journal. Raises StoreError."""
        found = [unix_ms for one in self._all.values() if (unix_ms := await one.told(app)) is not None]
        return min(found, default=None)

    async def tell(self, epoch: OwnershipEpoch, app: int, unix_ms: int) -> None:
        """As the port says. Raises StaleEpoch, StoreError."""
        for one in self._all.values():
            await one.tell(epoch, app, unix_ms)

    async def forget_days(self, epoch: OwnershipEpoch, before_day: int) -> None:
        """As the port says. Raises StaleEpoch, StoreError."""
        for one in self._all.values():
            await one.forget_days(epoch, before_day)

    async def forget(self, epoch: OwnershipEpoch, keys: Sequence[PageKey]) -> None:
        """As the port says. Raises StaleEpoch, StoreError."""
        for worker, some in self._split(keys).items():
            await self._all[worker].forget(epoch, [_inner(key) for key in some])

    async def retain(self, epoch: OwnershipEpoch, oldest_unix_ms: int, bytes_max: int) -> int:
        """As the port says; each journal's pages have that many bytes. Raises StaleEpoch, StoreError."""
        return sum([await one.retain(epoch, oldest_unix_ms, bytes_max) for one in self._all.values()])


def _inner(key: PageKey) -> PageKey:
    return key._replace(sequence=key.sequence % SEQUENCES_MAX)


def _outer(worker: int, key: PageKey) -> PageKey:
    return key._replace(sequence=worker * SEQUENCES_MAX + key.sequence)


def _behind(worker: int, after: PageKey | None) -> PageKey | None:
    """The same place in the order of one archive's own keys, which need not be a key."""
    return None if after is None else after._replace(sequence=after.sequence - worker * SEQUENCES_MAX)
