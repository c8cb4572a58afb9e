"""InboxActor: keeps rows for devices that are away, and hands them out when they come back.

    router --keep()--> inbox.put --(device came meanwhile?)--> drain
    device subscribed --> drain --> inbox.peek --> long link --> inbox.forget

Presence is racy: a device may come back between the decision to keep a row and the write. So presence is asked again
after each write (store, then look again), but for rows that a connected device has had and not acknowledged (`Offer`):
it would get them over and over. They are offered again after `offer_again_s`, like what a window had no room for:
one entry per device, in order of time. A row's text is in its page, which may be in the archive: it is brought back
first.

Rows are kept and handed out by two tasks beside each other, so that a device that returns does not wait for what is to
be kept for others. Of one device it is one or the other: its drain waits for a put that has rows of it, and a put for a
drain (a row that comes back to be kept must not be forgotten by the drain that had handed it out).

Waits for: the inbox store, LedgerActor. Is waited for by: nobody.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.actors.inbox_places import OwnPlaces, Places
from gateway.batch import OwnershipEpoch
from gateway.clock import Clock
from gateway.columns import I64, U8, Rows
from gateway.core.home import Home, row_tags, split_by_sequence
from gateway.core.inbox_rows import stored_columns
from gateway.core.lifetimes import row_deadlines
from gateway.core.shadow import ShadowPage
from gateway.errors import StoreError
from gateway.ledger import Flag, LedgerPage, Reason, State
from gateway.store.ports import Inbox, InboxQuery, InboxRows, Kept

#: Rows taken for one device at a time: one window of the long link.
TAKE_ROWS_MAX = 32
#: Devices drained at once. A turn of the store takes a millisecond or two: 64 of them are 30,000 devices a second.
DRAINS_MAX = 64
#: How often rows whose time is over are looked for, and how many at once. A look goes through all rows in a thread,
#: some 2 s for 10 million; what it finds are rows that a crash left behind.
SWEEP_S = 600.0
_SWEEP_ROWS = 10_000
#: Devices whose time to be offered rows again has come, looked at in one step: some 10 us each.
_AGAIN_DEVICES = 128
#: How long an inbox whose disk failed is left alone, and rows of which their home can say nothing yet: operators need
#: seconds to make room, workers to come back.
_RETRY_S = 1.0


def _nobody(_error: BaseException) -> None:
    """The store in memory has no disk that could fail."""


class Offer(enum.Enum):
    """When a row that is kept is offered to its device, if that is connected."""

    NOW = "now"
    #: It had the row and has not acknowledged it: after `offer_again_s`. Its window bounds how much it gets in vain.
    LATER = "later"
    #: It refused the row, or subscribed with QoS 0, so that nobody would ever say whether the row came.
    NEXT_SESSION = "next session"


class InboxOwner(Protocol):
    def online_ids(self, app: int, device_ids: U8) -> list[bytes]:
        """Those of the devices that can be delivered to now. device_ids: (k, 16) uint8."""
        ...

    async def mark_held(self, page: LedgerPage, rows: Rows) -> bool:
        """A journal on disk knows that these rows are about to be delivered. False: not now, their home is down."""
        ...

    def deliver_held(self, page: LedgerPage, rows: Rows) -> Rows:
        """Hands held rows to the long link; returns those it did not take, still HELD."""
        ...


class InboxActor:
    def __init__(
        self,
        *,
        store: Inbox,
        epoch: OwnershipEpoch,
        home: Home,
        clock: Clock,
        offer_again_s: float = 60.0,
        on_error: Callable[[BaseException], None] = _nobody,
        on_works: Callable[[], None] = lambda: None,
    ) -> None:
        """offer_again_s: see [inbox] in configs/reference.toml. on_error: told of each error of the disk; the work is
        tried again. on_works: all of what failed has worked."""
        self._store = store
        self._offer_again_s = offer_again_s
        self._on_error, self._on_works = on_error, on_works
        #: What failed when it was tried last.
        self._failing: set[Bell] = set()
        self._epoch = epoch
        self._home = home
        self._clock = clock
        #: Of rows to keep and to forget.
        self._bell = Bell()
        self._drain_bell = Bell()
        #: A drain has ended.
        self._ended_bell = Bell()
        self._to_keep: deque[tuple[LedgerPage, Rows, Offer]] = deque()
        self._to_drain: deque[bytes] = deque()
        self._queued_drains: set[bytes] = set()
        self._to_forget: deque[I64] = deque()
        #: Devices that came back while rows were to be kept, which may be theirs, and after which put they are drained
        #: for those; in that order.
        self._after_puts: dict[bytes, int] = {}
        self._puts_done = 0
        #: (k, 16) devices of the put under way; and those that are being drained.
        self._putting: U8 = np.zeros((0, 16), np.uint8)
        self._draining: set[bytes] = set()
        #: Devices that are online and whose window had no room for what waits for them.
        self._full: set[bytes] = set()
        #: Devices that were online and did not take, or not acknowledge, what waits for them, with app index and when
        #: they are offered it again (trio's clock); in that order. Bounded by the devices that are online.
        self._again: dict[bytes, tuple[int, float]] = {}
        self._owner: InboxOwner | None = None
        #: The page of a sequence, for a change in this step of the loop; from the archive, where there is one.
        self.fetch: Callable[[int], Awaitable[LedgerPage | None]] = self._page_in_memory
        #: The same, of which these rows may be all that is in memory.
        self.fetch_rows: Callable[[int, Rows], Awaitable[LedgerPage | None]] = self._whole_page
        #: The same of rows that have left the store, and end now.
        self.fetch_to_end: Callable[[int], Awaitable[LedgerPage | None]] = self._page_in_memory
        self.places: Places = OwnPlaces(home, clock, self)
        #: Devices of whose rows nothing could be said, and when they are looked at again; in that order.
        self._later: dict[bytes, float] = {}
        #: Rows that a sweep has removed.
        self.swept = 0
        #: Rows of batches that were submitted until then may have been delivered by a process that did not live to
        #: write it down; 0: none.
        self.doubtful_until_unix_ms = 0

    def connect(self, owner: InboxOwner) -> None:
        self._owner = owner

    async def _page_in_memory(self, sequence: int) -> LedgerPage | None:
        return self._home.page(sequence)

    async def _whole_page(self, sequence: int, _rows: Rows) -> LedgerPage | None:
        return await self.fetch(sequence)

    def keep(self, page: LedgerPage, rows: Rows, offer: Offer = Offer.NOW) -> None:
        """The rows are HELD from now on; they are in the store a moment later. Bounded by the home's open rows."""
        now = self._clock.monotonic()
        page.flags[rows] |= np.uint8(Flag.WAITED_OFFLINE)
        page.keeping += len(rows)
        self._home.move(page, rows, State.HELD, Reason.DEVICE_OFFLINE, now)
        self._to_keep.append((page, rows, offer))
        self._bell.ring()

    def came_back(self, device_id: bytes) -> None:
        """The device can be delivered to; a device without stored rows costs one look-up."""
        if self._to_keep:
            self._drain_after(device_id, len(self._to_keep))
        self._queue_drain(device_id)

    def _queue_drain(self, device_id: bytes) -> None:
        if device_id not in self._queued_drains and self._store.holds(device_id):
            self._queued_drains.add(device_id)
            self._to_drain.append(device_id)
            self._drain_bell.ring()

    def _drain_after(self, device_id: bytes, n_puts: int) -> None:
        self._after_puts.pop(device_id, None)
        self._after_puts[device_id] = self._puts_done + n_puts

    @property
    def has_full_windows(self) -> bool:
        return bool(self._full)

    @property
    def is_at_rest(self) -> bool:
        """The store knows everything that this actor does."""
        return not (self._to_keep or self._to_drain or self._to_forget)

    def room_appeared(self, device_id: bytes) -> None:
        """The device's window has room again."""
        if device_id in self._full:
            self._full.discard(device_id)
            self.came_back(device_id)

    def acknowledged_late(self, page: LedgerPage, rows: Rows) -> None:
        """Their devices have these rows of a page here, whoever holds them by now."""
        self.places.acknowledged(page, rows)

    def forget(self, tags: I64) -> None:
        """Rows of pages here, sequence << 16 | row, that ended elsewhere need not be kept."""
        if len(tags):
            self.forget_stored(self.places.stored(tags))

    def forget_stored(self, tags: I64) -> None:
        """The same of tags as the store has them."""
        if len(tags):
            self._to_forget.append(tags)
            self._bell.ring()

    async def run(self) -> None:
        """Works until cancelled. If cancelled: what was not written or handed out yet is so by the next run."""
        # What a crashed run had queued is still there.
        self._bell.ring()
        self._drain_bell.ring()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._try, self._bell, self._keep_all)
            nursery.start_soon(self._try, self._drain_bell, self._drain_all)

    async def _try(self, bell: Bell, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            with trio.move_on_at(self._next_look() if bell is self._drain_bell else math.inf):
                await bell.wait()
            try:
                await work()
            except* StoreError as errors:
                # Everything is still queued, and the rows are in their pages.
                for error in errors.exceptions:
                    self._on_error(error)
                self._failing.add(bell)
                await trio.sleep(_RETRY_S)
                bell.ring()
            else:
                if bell in self._failing:
                    self._failing.discard(bell)
                    if not self._failing:
                        self._on_works()

    def _next_look(self) -> float:
        return min(next(iter(self._later.values()), math.inf), next(iter(self._again.values()), (0, math.inf))[1])

    def _look_later(self, app: int, device_ids: Sequence[bytes]) -> None:
        """These devices are offered what waits for them once more after `offer_again_s`, if they are online then."""
        for device_id in device_ids:
            self._again.setdefault(device_id, (app, trio.current_time() + self._offer_again_s))
        self._drain_bell.ring()

    def _look_soon(self, device_id: bytes) -> None:
        """Nothing can be said now of some of the device's rows."""
        self._later.setdefault(device_id, trio.current_time() + _RETRY_S)
        self._drain_bell.ring()

    def _offer_again(self, now: float) -> None:
        """Some of the devices whose time has come; the others in the next round."""
        assert self._owner is not None
        for device_id, at in list(itertools.islice(self._later.items(), _AGAIN_DEVICES)):
            if at > now:
                break
            del self._later[device_id]
            self.came_back(device_id)
        for device_id, (app, at) in list(itertools.islice(self._again.items(), _AGAIN_DEVICES)):
            if at > now:
                return
            del self._again[device_id]
            self._full.discard(device_id)
            for online in self._owner.online_ids(app, np.frombuffer(device_id, np.uint8).reshape(1, 16)):
                self.came_back(online)

    async def sweep(self) -> None:
        """Until cancelled: rows whose time is over, and whose page nobody has any more, leave the store. Those that
        have a page are ended by the home, which tells `forget`."""
        while True:
            await trio.sleep(SWEEP_S)
            first_tag = 0
            try:
                while True:
                    query = InboxQuery(over_at_unix_ms=self._clock.unix_ms(), first_tag=first_tag)
                    tags = (await self._store.find(query, _SWEEP_ROWS)).tags
                    if not len(tags):
                        break
                    gone = [
                        row_tags(number, rows)
                        for number, rows in split_by_sequence(tags)
                        if self.places.is_nobodys(number)
                    ]
                    if gone:
                        self.swept += await self._store.forget(self._epoch, np.concatenate(gone))
                    first_tag = int(tags[-1]) + 1
            except StoreError as error:
                self._on_error(error)

    async def _keep_all(self) -> None:
        """Nothing is to be kept or forgotten. If it fails: what was not done is."""
        while self._to_keep or self._to_forget:
            if self._to_keep:
                page, rows, _ = self._to_keep[0]
                await self._put(*self._to_keep[0])
                self._to_keep.popleft()
                self._home.kept(page, len(rows))
                self._puts_done += 1
                while self._after_puts and next(iter(self._after_puts.values())) <= self._puts_done:
                    device_id = next(iter(self._after_puts))
                    del self._after_puts[device_id]
                    self._queue_drain(device_id)
            else:
                tags = self._to_forget[0]
                await self._store.forget(self._epoch, tags)
                self._to_forget.popleft()

    async def _wait_drained(self, device_ids: U8) -> None:
        """None of the devices, or of a few others, is being drained."""
        words = np.ascontiguousarray(device_ids).view("<u8")[:, 0]
        while self._draining:
            draining = np.frombuffer(b"".join(self._draining), "<u8")[::2]
            if not np.isin(draining, words).any():
                break
            await self._ended_bell.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _drain_all(self) -> None:
        """As `_keep_all`, of devices that are back."""
        self._offer_again(trio.current_time())
        while self._to_drain:
            await self._drain_some()

    async def _put(self, page: LedgerPage, rows: Rows, offer: Offer) -> None:
        assert self._owner is not None
        batch = page.batch
        await self._wait_drained(batch.device_ids[rows])
        rows = rows[page.state[rows] == State.HELD]
        deadlines = batch.born_unix_ms + ((row_deadlines(batch, rows) - batch.born) * 1000).astype(np.int64)
        tags = self.places.tags(page, rows)
        stored = InboxRows(batch.device_ids[rows], tags, deadlines, **stored_columns(batch, rows))
        self._putting = stored.device_ids
        try:
            kept, replaced = await self._store.put(self._epoch, stored)
        finally:
            self._putting = self._putting[:0]
        is_held, now = page.state[rows] == State.HELD, self._clock.monotonic()
        self._home.move(page, rows[(kept == Kept.NO_ROOM) & is_held], State.DROPPED, Reason.INBOX_FULL, now)
        self._home.move(page, rows[(kept == Kept.SUPERSEDED) & is_held], State.DROPPED, Reason.COLLAPSED, now)
        # Rows that ended while they were written were not there to be forgotten yet.
        self.forget_stored(tags[(kept == Kept.YES) & ~is_held])
        self.places.kept(page, rows[(kept == Kept.YES) & is_held])
        for number, older in split_by_sequence(replaced):
            await self.places.end(number, older, State.DROPPED, Reason.COLLAPSED)
        online = [] if offer is Offer.NEXT_SESSION else self._owner.online_ids(batch.app, batch.device_ids[rows])
        if offer is Offer.LATER:
            self._look_later(batch.app, online)
        else:
            for device_id in online:
                self.came_back(device_id)

    async def _drain_some(self) -> None:
        """Devices that are back get what waits for them, many at once: their reads and writes share turns."""
        devices = [self._to_drain[index] for index in range(min(len(self._to_drain), DRAINS_MAX))]
        # From here on a further return of a device asks for a further drain.
        self._queued_drains.difference_update(devices)
        async with trio.open_nursery() as nursery:
            for device_id in devices:
                nursery.start_soon(self._drain, device_id)
        for _ in devices:
            self._to_drain.popleft()

    async def _drain(self, device_id: bytes) -> None:
        """Hands out the device's rows in their order, until it takes no more; they leave the store as they are taken.

        What its window has no room for waits for an acknowledgement, or for the device's next return.
        """
        self._draining.add(device_id)
        try:
            await self._drain_alone(device_id)
        finally:
            self._draining.discard(device_id)
            self._ended_bell.ring()

    async def _drain_alone(self, device_id: bytes) -> None:
        assert self._owner is not None
        while self._store.holds(device_id):
            if (self._putting == np.frombuffer(device_id, np.uint8)).all(axis=1).any():
                self._drain_after(device_id, 1)
                return
            tags = await self._store.peek(device_id, TAKE_ROWS_MAX)
            gone: list[I64] = []
            is_full = False
            for number, rows in split_by_sequence(tags):
                located = await self.places.locate(number, rows, device_id)
                stays = [located.later]
                if len(located.later):
                    self._look_soon(device_id)
                for page, places, at in located.found:
                    is_held = page.state[at] == State.HELD
                    held = at[is_held]
                    if not _has_marks(page) and page.batch.born_unix_ms <= self.doubtful_until_unix_ms:
                        # No journal says whether it was issued.
                        page.flags[held] |= np.uint8(Flag.RESENT_UNCERTAIN)
                    may_leave = not is_full and await self._owner.mark_held(page, held)
                    held = held[page.state[held] == State.HELD]
                    left = self._owner.deliver_held(page, held) if may_leave else held
                    if len(left):
                        self.places.kept(page, left)
                        # They are not marked any more, if they were.
                        self._home.kept(page, 0)
                    is_homes = self.places.given_back(page, at)
                    stays.append(places[np.isin(at, left) | is_homes])
                    if is_homes.any() or (len(left) and not may_leave and not is_full):
                        self._look_soon(device_id)
                    if len(left) and may_leave and not is_full:
                        # Before anything is waited for: the acknowledgements may all come meanwhile.
                        is_full = True
                        self._full.add(device_id)
                        self._look_later(page.batch.app, [device_id])
                gone.append(row_tags(number, np.setdiff1d(rows, np.concatenate(stays))))
            done = np.concatenate(gone) if gone else tags[:0]
            if len(done):
                await self._store.forget(self._epoch, done)
            if is_full or not len(done):
                return


def _has_marks(page: LedgerPage) -> bool:
    """A journal on disk, this worker's or that of the rows' home, says which of its rows were issued."""
    return page.trail is not None or (isinstance(page, ShadowPage) and page.asked is not None)
