"""InboxActor: keeps rows for devices that are away, and hands them out when they come back.

    router --keep()--> inbox.put --(device came meanwhile?)--> drain
    device subscribed --> drain --> inbox.peek --> long link --> inbox.forget

Presence is racy: a device may come back between the decision to keep a row and the write. So presence is asked again
after each write (store, then look again), but for rows that a connected device has had and not acknowledged: those wait
for its next return, since the same connection would get them over and over. Waits for: the inbox store. Is waited for
by: nobody.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np

from gateway.actors.bell import Bell
from gateway.batch import OwnershipEpoch
from gateway.clock import Clock
from gateway.columns import I64, Rows
from gateway.core.home import Home, row_deadlines, row_tags, split_by_sequence
from gateway.ledger import Flag, LedgerPage, Reason, State
from gateway.store.ports import Inbox, InboxRows

#: Rows taken for one device at a time: one window of the long link.
TAKE_ROWS_MAX = 32


class InboxOwner(Protocol):
    def online_ids(self, page: LedgerPage, rows: Rows) -> list[bytes]:
        """Ids of the rows' devices that can be delivered to now."""
        ...

    async def mark_held(self, page: LedgerPage, rows: Rows) -> None:
        """A journal on disk knows that these rows are about to be delivered."""
        ...

    def deliver_held(self, page: LedgerPage, rows: Rows) -> Rows:
        """Hands held rows to the long link; returns those it did not take, still HELD."""
        ...


class InboxActor:
    def __init__(self, *, store: Inbox, epoch: OwnershipEpoch, home: Home, clock: Clock) -> None:
        self._store = store
        self._epoch = epoch
        self._home = home
        self._clock = clock
        self._bell = Bell()
        self._to_keep: deque[tuple[LedgerPage, Rows, bool]] = deque()
        self._to_drain: deque[bytes] = deque()
        self._queued_drains: set[bytes] = set()
        self._to_forget: deque[I64] = deque()
        #: Devices that are online and whose window had no room for what waits for them.
        self._full: set[bytes] = set()
        self._owner: InboxOwner | None = None

    def connect(self, owner: InboxOwner) -> None:
        self._owner = owner

    def keep(self, page: LedgerPage, rows: Rows, *, is_silent: bool = False) -> None:
        """The rows are HELD from now on; they are in the store a moment later. Bounded by the home's open rows.

        is_silent: their devices are connected and did not acknowledge them.
        """
        now = self._clock.monotonic()
        page.flags[rows] |= np.uint8(Flag.WAITED_OFFLINE)
        self._home.move(page, rows, State.HELD, Reason.DEVICE_OFFLINE, now)
        self._to_keep.append((page, rows, is_silent))
        self._bell.ring()

    def came_back(self, device_id: bytes) -> None:
        """The device can be delivered to; a device without stored rows costs one look-up."""
        if device_id not in self._queued_drains and (self._store.holds(device_id) or self._to_keep):
            self._queued_drains.add(device_id)
            self._to_drain.append(device_id)
            self._bell.ring()

    @property
    def has_full_windows(self) -> bool:
        return bool(self._full)

    def room_appeared(self, device_id: bytes) -> None:
        """The device's window has room again."""
        if device_id in self._full:
            self._full.discard(device_id)
            self.came_back(device_id)

    def forget(self, tags: I64) -> None:
        """Rows that ended elsewhere need not be kept."""
        if len(tags):
            self._to_forget.append(tags)
            self._bell.ring()

    async def run(self) -> None:
        """Works until cancelled. If cancelled: what was not written or handed out yet is so by the next run."""
        # What a crashed run had queued is still there.
        self._bell.ring()
        while True:
            await self._bell.wait()
            while self._to_keep or self._to_drain or self._to_forget:
                if self._to_keep:
                    await self._put(*self._to_keep[0])
                    self._to_keep.popleft()
                elif self._to_forget:
                    tags = self._to_forget[0]
                    await self._store.forget(self._epoch, tags)
                    self._to_forget.popleft()
                else:
                    device_id = self._to_drain[0]
                    # From here on a further return of the device asks for a further drain.
                    self._queued_drains.discard(device_id)
                    await self._drain(device_id)
                    self._to_drain.popleft()

    async def _put(self, page: LedgerPage, rows: Rows, is_silent: bool) -> None:
        assert self._owner is not None
        batch = page.batch
        rows = rows[page.state[rows] == State.HELD]
        deadlines = batch.born_unix_ms + ((row_deadlines(batch, rows) - batch.born) * 1000).astype(np.int64)
        tags = row_tags(batch.address.sequence, rows)
        kept = await self._store.put(self._epoch, InboxRows(batch.device_ids[rows], tags, deadlines))
        is_held = page.state[rows] == State.HELD
        self._home.move(page, rows[(kept == 0) & is_held], State.DROPPED, Reason.INBOX_FULL, self._clock.monotonic())
        # Rows that ended while they were written were not there to be forgotten yet.
        self.forget(tags[(kept == 1) & ~is_held])
        for device_id in () if is_silent else self._owner.online_ids(page, rows):
            self.came_back(device_id)

    async def _drain(self, device_id: bytes) -> None:
        """Hands out the device's rows in their order, until it takes no more; they leave the store as they are taken.

        What its window has no room for waits for an acknowledgement, or for the device's next return.
        """
        assert self._owner is not None
        while self._store.holds(device_id):
            tags = await self._store.peek(device_id, TAKE_ROWS_MAX)
            gone: list[I64] = []
            is_full = False
            for sequence, rows in split_by_sequence(tags):
                page = self._home.page(sequence)
                if page is None:
                    gone.append(row_tags(sequence, rows))
                    continue
                held = rows[page.state[rows] == State.HELD]
                if not is_full:
                    await self._owner.mark_held(page, held)
                    held = rows[page.state[rows] == State.HELD]
                left = held if is_full else self._owner.deliver_held(page, held)
                gone.append(row_tags(sequence, np.setdiff1d(rows, left)))
                is_full = is_full or len(left) > 0
            done = np.concatenate(gone) if gone else tags[:0]
            if len(done):
                await self._store.forget(self._epoch, done)
            if is_full:
                self._full.add(device_id)
            if is_full or not len(done):
                return
