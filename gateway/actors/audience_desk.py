"""AudienceDesk: what this worker knows of audiences: its devices that are online, of an alias, or registered.

Asked by its own Audiences and, of several workers, by those of all others (audience_peers.py). Each call looks at a
step's worth of devices and yields. Before it names further ones to a walk it waits, `ROUTED_S` at most, until what it
has to route is routed: rows of an urgent message stand behind one chunk here, not behind many.
Waits for: the loop, the router. Is waited for by: nobody here.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import trio

from gateway.columns import U8
from gateway.core.audience_walk import Looked, Members, Stretch, Wanted, count, look, whole
from gateway.core.devices import DeviceTable
from gateway.core.ownership import SHARDS

#: Aliases looked up in one step: some five microseconds each.
_ALIASES_PER_STEP = 256
#: Steps of one `take`, some 60 ms: the asker learns how far it came, and a stop is not kept waiting.
_STEPS_MAX = 64
#: A worker whose router never has time names the next devices all the same, so late, and goes on doing so for a while:
#: a chunk may ask for each of its stretches.
ROUTED_S, _UNROUTED_S = 1.0, 10.0
_LOOK_S = 0.005


class AudienceDesk:
    """online: (app, tag) -> ids of devices online. is_busy: the router has more than a chunk to route."""

    def __init__(
        self,
        *,
        devices: DeviceTable,
        online: Callable[[int, bytes], Awaitable[U8]],
        is_busy: Callable[[], bool] = lambda: False,
        shard_groups: int = SHARDS,
    ) -> None:
        self._devices = devices
        self._online = online
        self._is_busy = is_busy
        self._shard_groups = shard_groups
        #: Nobody waits for the router before that: it was waited for in vain.
        self._waits_from = -math.inf

    async def online(self, app: int, tag: bytes) -> U8:
        """(n, 16) ids of devices that are online, of those with the tag where it is not empty."""
        return await self._online(app, tag)

    async def of_aliases(self, app: int, aliases: Sequence[bytes], *, online_only: bool) -> list[U8]:
        """(k, 16) ids of each alias's devices: k is 0 where nobody has it, or nobody who is online."""
        found: list[U8] = []
        for place, alias in enumerate(aliases):
            rows = self._devices.alias_rows(app, alias)
            if online_only:
                rows = rows[[self._devices.is_online(row) for row in rows.tolist()]]
            found.append(self._devices.ids(rows))
            if place % _ALIASES_PER_STEP == _ALIASES_PER_STEP - 1:
                await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return found

    async def count(self, app: int, tag: bytes) -> Members:
        """Who is registered here. If cancelled: nothing changes."""
        sum_, left = Members(0, 0), Stretch(0, b"", SHARDS)
        while not left.is_through:
            found, left = count(self._devices, app, tag, left)
            sum_ = sum_.plus(found)
            await trio.lowlevel.checkpoint()
        return sum_

    def owner(self, shard: int) -> int:
        return 0

    def whole(self) -> list[Stretch]:
        """What a walk begins with."""
        return whole(self._shard_groups)

    async def take(self, wanted: Wanted, stretch: Stretch, rows_max: int) -> Looked:
        """The next devices of shards of this worker. If cancelled: nothing changes."""
        await self._wait_routed()
        parts: list[U8] = []
        room = rows_max
        for _ in range(_STEPS_MAX):
            ids, stretch = look(self._devices, wanted, stretch, room)
            parts.append(ids)
            room -= len(ids)
            await trio.lowlevel.checkpoint()
            if not room or stretch.is_through:
                break
        return Looked(np.concatenate(parts), stretch)

    async def _wait_routed(self) -> None:
        """The router has time, or has had none for so long that nobody waits for it: once, not for each stretch."""
        if trio.current_time() < self._waits_from:
            return
        with trio.move_on_after(ROUTED_S):
            while self._is_busy():  # noqa: ASYNC110 (the router rings nobody when it is through)
                await trio.sleep(_LOOK_S)
            return
        self._waits_from = trio.current_time() + _UNROUTED_S
