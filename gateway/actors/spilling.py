"""Spilling: when the ledger's memory is short, ids, targets and texts of rows that cannot leave it go to the disk.

    Home.on_short --> LedgerActor --> make_room: oldest pages with queued, in-flight or waiting rows --> store/spill.py

Pages without open rows, and those whose rows all wait in the inbox, are not spilled: the archive takes them, and then
nothing of them stays. Part of LedgerActor. Waits for: the disk, in a thread.
"""

from __future__ import annotations

from typing import Protocol

from gateway.core.home import Home
from gateway.errors import StoreError
from gateway.ledger import LedgerPage

#: Pages looked at for one that may be spilled; a tenth of a microsecond each.
_LOOK_PAGES = 2048
#: Pages are spilled until so much of the ledger's memory is taken: a submit that comes meanwhile is refused, so room is
#: made for some at once.
_SHARE = 0.875


class SpillPort(Protocol):
    def takes(self, page: LedgerPage) -> bool: ...

    async def take(self, page: LedgerPage) -> None: ...


class SpillObserver(Protocol):
    def spilled(self, pages: int) -> None: ...

    def not_spilled(self, error: StoreError) -> None: ...


class Spilling:
    def __init__(self, *, home: Home, spill: SpillPort, observer: SpillObserver) -> None:
        self._home = home
        self._spill = spill
        self._observer = observer

    async def make_room(self) -> None:
        """The oldest pages take less memory, until enough is free or none of them can. Where the disk refuses, they
        stay, and it is told. If cancelled: some do."""
        while (page := self._next()) is not None:
            try:
                await self._spill.take(page)
            except StoreError as error:
                self._observer.not_spilled(error)
                return
            self._observer.spilled(1)
            if self._home.page(page.batch.address.sequence) is page:
                self._home.resized(page)

    def _next(self) -> LedgerPage | None:
        pages = self._home.crowding(_LOOK_PAGES, _SHARE)
        return next((page for page in pages if not page.rests and self._spill.takes(page)), None)
