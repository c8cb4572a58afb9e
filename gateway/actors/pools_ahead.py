"""PoolsAhead: a worker that begins among others opens the vendor connections that they have before it takes work.

    worker that begins --which vendors are in use?--> every living one
      <------------------ names of their pools that are connected
      opens one connection of each, for at most PATIENCE_S, then takes rows

Its first rows would wait for a TCP and a TLS handshake else, and a worker begins when its devices come back. One that
begins alone opens a connection with the first row, as ever: nobody can say which vendors it will need. Asks at most
once; the answer is a name for each (app, vendor). Waits for: answers of other workers, the network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import msgspec
import trio

from gateway.actors.worker_links import Reply, WorkerGone, WorkerLinks
from gateway.core.shadow import Life
from gateway.errors import Overloaded

WHAT = "vendor pools"
#: A handshake around the world; what is not there by then comes later, and its first rows wait as they did.
PATIENCE_S = 0.5

_NAMES: msgspec.msgpack.Decoder[list[str]] = msgspec.msgpack.Decoder(list[str])


class Pool(Protocol):
    @property
    def is_ready(self) -> bool: ...

    async def open_ahead(self) -> None:
        """A connection is there, or it has failed."""
        ...


class PoolsAhead:
    """pools: by a name that is the same at all workers."""

    def __init__(self, pools: Mapping[str, Pool], links: WorkerLinks) -> None:
        self._pools = pools
        self._links = links
        links.answer_with(WHAT, self._on_ask)

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        reply(msgspec.msgpack.encode([name for name, pool in self._pools.items() if pool.is_ready]))

    async def open(self, living: Collection[Life]) -> None:
        """What they use is connected here, too, unless that takes longer. If cancelled: the rest comes with rows."""
        with trio.move_on_after(PATIENCE_S):
            await self._links.wait_linked(living)
            async with trio.open_nursery() as nursery:
                begun: set[str] = set()
                for life in living:
                    nursery.start_soon(self._open_as, life, nursery, begun)

    async def _open_as(self, life: Life, nursery: trio.Nursery, begun: set[str]) -> None:
        try:
            names = _NAMES.decode(await self._links.ask(life.worker, WHAT, {}))
        except (WorkerGone, Overloaded):
            return
        for name in names:
            if name in self._pools and name not in begun:
                begun.add(name)
                nursery.start_soon(self._pools[name].open_ahead)
