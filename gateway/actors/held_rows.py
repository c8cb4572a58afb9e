"""HeldRows: what a new home asks the living before it replays its journal. DESIGN.md section 4, Holders.

    new life of a home                                        a worker that holds rows of the life before
      ask() ---------------------- "held" -----------------> shadows of any earlier life of that worker
      opens the pages of its journal <--- addresses, rows ---
      held(page), adopt(page): those rows are elsewhere, and not sent
      adopted() ------------------ "adopted": addresses ---> they have a home again; all their rows are reported to it

So a row that a living worker holds is never sent a second time, whatever the journal knew of it, and its outcome comes
as any other: rows that ended while they had no home are kept for `KEEP_S` (core/shadow.py). Rows that were given back
to the home are its own again, whether it has heard of that or not. What a worker held that has
died too is for the journal's own marks to say. Shadows that the new home does not know are orphans for good.

Waits for: answers of other workers, which wait for nobody. Is waited for by: nobody.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec
import numpy as np

from gateway.actors.worker_links import Reply, WorkerGone, WorkerLinks
from gateway.columns import Rows
from gateway.core.holders import Holders
from gateway.core.home import Home
from gateway.core.shadow import Life
from gateway.ledger import LedgerPage
from gateway.message_id import BatchAddress

_Address = tuple[int, int, int]
#: Of each batch: its address, and the rows' positions at home, (k,) little-endian uint16.
_HELD = msgspec.msgpack.Decoder(list[tuple[_Address, bytes]])
_ADOPTED = msgspec.msgpack.Decoder(list[_Address])


class _Held(NamedTuple):
    life: Life
    rows: Rows


class HeldRows:
    """holders: of this home. Each worker has one, since each answers the others."""

    def __init__(self, home: Home, holders: Holders, links: WorkerLinks) -> None:
        self._home = home
        self._holders = holders
        self._links = links
        self._held: dict[BatchAddress, list[_Held]] = {}
        self._adopted: dict[Life, list[_Address]] = {}
        links.answer_with("held", self._on_held)
        links.answer_with("adopted", self._on_adopted)

    # -- as a new home, in this order, before any row of the journal is routed

    async def ask(self, living: Collection[Life] = ()) -> int:
        """It is known what every linked worker holds of earlier lives of this home; returns how many rows. If
        cancelled: of some.

        living: those that a link is waited for with first, unless they die.
        """
        await self._links.wait_linked(living)
        n = 0
        for life in self._links.lives():
            self._adopted[life] = []
            try:
                answer = _HELD.decode(await self._links.ask(life.worker, "held", {}))
            except WorkerGone:
                # What it held has died with it.
                continue
            for address, rows in answer:
                held = _Held(life, np.frombuffer(rows, "<u2").astype(np.intp))
                self._held.setdefault(BatchAddress(*address), []).append(held)
                n += len(held.rows)
        return n

    def held(self, page: LedgerPage) -> Rows:
        """Rows of a page from the journal that living workers hold."""
        lives = self._links.lives()
        found = [held.rows for held in self._held.get(page.batch.address, ()) if held.life in lives]
        rows = np.concatenate(found) if found else np.zeros(0, np.intp)
        return rows[rows < page.n]

    def adopt(self, page: LedgerPage) -> int:
        """Those rows are with their holders; returns how many. The final ones of them are known to be."""
        n = 0
        for life, rows in self._held.pop(page.batch.address, ()):
            if life in self._links.lives():
                self._holders.adopt(page, rows[rows < page.n], life.worker)
                address = page.batch.address
                self._adopted[life].append((address.unix_ms, address.journal, address.sequence))
                n += len(rows)
        return n

    async def adopted(self) -> None:
        """The holders know which rows have a home again, and report; others may ask what they like from now on. If
        cancelled: some do not know it."""
        self._held.clear()
        self._links.is_serving = True
        adopted, self._adopted = self._adopted, {}
        for life, addresses in adopted.items():
            try:
                await self._links.ask(life.worker, "adopted", {}, msgspec.msgpack.encode(addresses))
            except WorkerGone:
                continue  # its rows are taken back, as after any death

    # -- as a holder

    def _on_held(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        pages = self._home.shadows.of_earlier_lives(life)
        reply(
            msgspec.msgpack.encode(
                [(tuple(page.home_address), page.home_rows[~page.is_back].astype("<u2").tobytes()) for page in pages]
            )
        )

    def _on_adopted(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        self._home.shadows.adopt(life, {BatchAddress(*address) for address in _ADOPTED.decode(body)})
        reply(b"")
