r"""Who is to come of an audience, chunk by chunk: out of a list of ids, or out of a walk over the registered devices.

    AudienceFinder (here, or all workers) --> ListedDevices      ids are kept: devices online now, those of aliases
                                        \--> RegisteredDevices   a place is kept: all devices, those with a tag

A chunk is taken, and committed when it is durable: what was taken and refused is taken again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from gateway.actors.worker_links import WorkerGone
from gateway.columns import U8
from gateway.core.audience_walk import Looked, Members, Stretch, Wanted, to_come
from gateway.errors import Overloaded
from gateway.store.audience_records import WalkRecord

#: A worker that was killed is back after about so long.
BACK_S = 1.0


class AudienceFinder(Protocol):
    """Knows the devices: of this worker (audience_desk.py), or of all (audience_peers.py).

    All but `take` raise Overloaded while a worker is not there; `take` raises WorkerGone, Overloaded.
    """

    async def online(self, app: int, tag: bytes) -> U8: ...

    async def of_aliases(self, app: int, aliases: Sequence[bytes], *, online_only: bool) -> list[U8]: ...

    async def count(self, app: int, tag: bytes) -> Members: ...

    def owner(self, shard: int) -> int: ...

    async def take(self, wanted: Wanted, stretch: Stretch, rows_max: int) -> Looked: ...

    def whole(self) -> list[Stretch]: ...


class Taken(NamedTuple):
    """ids: (k, 16) uint8, the next chunk. left: of a walk, what is to come behind it. is_last: nobody is."""

    ids: U8
    left: list[Stretch]
    is_last: bool


class Source(Protocol):
    """devices: of the whole audience, as counted when it was submitted. walk: what a record says of it."""

    devices: int

    @property
    def walk(self) -> WalkRecord | None: ...

    @property
    def is_through(self) -> bool: ...

    async def take(self, rows_max: int) -> Taken: ...

    def commit(self, taken: Taken) -> None: ...


class ListedDevices:
    """ids: (n, 16) uint8, of all. reached: so many are through."""

    walk: WalkRecord | None = None

    def __init__(self, ids: U8, reached: int = 0) -> None:
        self.ids = ids
        self.devices = len(ids)
        self._reached = reached

    @property
    def is_through(self) -> bool:
        return self._reached >= len(self.ids)

    async def take(self, rows_max: int) -> Taken:
        stop = self._reached + rows_max
        return Taken(self.ids[self._reached : stop], [], stop >= len(self.ids))

    def commit(self, taken: Taken) -> None:
        self._reached += len(taken.ids)


class RegisteredDevices:
    """devices: as counted at the submit. left: what is to come."""

    def __init__(self, finder: AudienceFinder, wanted: Wanted, devices: int, left: Sequence[Stretch]) -> None:
        self._finder = finder
        self._wanted = wanted
        self.devices = devices
        self.walk: WalkRecord | None = WalkRecord(wanted.tag, wanted.until_unix_s)
        self._left = to_come(left)

    @property
    def is_through(self) -> bool:
        return not self._left

    async def take(self, rows_max: int) -> Taken:
        """The next devices, at least one unless that was all. Shards whose worker is not there are left for later.

        Raises Overloaded where no other shards are left. If cancelled: nothing changes.
        """
        left, parts, room = list(self._left), [np.zeros((0, 16), np.uint8)], rows_max
        gone: set[int] = set()
        for at, stretch in enumerate(left):
            while room and not left[at].is_through and (owner := self._finder.owner(stretch.first)) not in gone:
                try:
                    found = await self._finder.take(self._wanted, left[at], room)
                except WorkerGone:
                    gone.add(owner)
                    break
                left[at] = found.rest
                parts.append(found.ids)
                room -= len(found.ids)
        left = to_come(left)
        if room == rows_max and left:
            # Nobody was there to get a row, so nothing has to be durable.
            self._left = left
            raise Overloaded("workers that answer", 0, len(gone), retry_after_s=BACK_S)
        return Taken(np.concatenate(parts), left, not left)

    def commit(self, taken: Taken) -> None:
        self._left = taken.left


async def list_registered(source: RegisteredDevices) -> ListedDevices:
    """The same audience as a list. Raises Overloaded."""
    parts = [np.zeros((0, 16), np.uint8)]
    while not source.is_through:
        taken = await source.take(1 << 16)
        source.commit(taken)
        parts.append(taken.ids)
    return ListedDevices(np.concatenate(parts))
