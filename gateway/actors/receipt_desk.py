"""ReceiptDesk: what vendors report is carried to the rows and devices that it speaks of.

    listener --take()--> queue --run()--> by batch --+--> page of this home: receipts, flags, uncertain -> accepted
                                                     +--> page in the archive: brought back first
                                                     +--> other worker's journal: over the links (report_post.py)
    rows found --> words about devices --> their owner: dead tokens (under a guard), muted ones, closed notifications

The vendor is answered when what its receipts say is durable, for apps on disk: rows of this home are noted in its
journal (core/receipt_notes.py), another worker says so of its own; all requests of one window share a commit. Apps in
memory answer when they are queued. `receipts_max` bounds the queue, and beyond it the listener says `busy`. A receipt
changes no custody but that of an uncertain row, and of one that waits to be sent once more although the first attempt
arrived. What comes twice, late, in another order or for a row of somebody else is counted and changes nothing
(core/receipt_reports.py).

Waits for: nobody. Is waited for by: nobody.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.actors.own_ids import OwnIdBook, pack_receipts, unpack_receipts
from gateway.actors.token_guard import TokenGuard
from gateway.actors.token_renewals import TokenRenewals
from gateway.actors.waiting import Wait
from gateway.clock import Clock
from gateway.columns import U8, Rows
from gateway.core.devices import SINCE_UNKNOWN, DeviceTable
from gateway.core.holders import AWAY_WORKER
from gateway.core.home import Home
from gateway.core.receipt_notes import ReceiptNotes
from gateway.core.receipt_reports import (
    EARLY_REPORTS_MAX,
    RECEIPTS,
    ROW_UNKNOWN,
    DeviceWords,
    Reports,
    add_flags,
    address,
    device_words,
    find_rows,
    pack_reports,
    pack_words,
    read_address,
    remember_tokens,
    strongest,
    unpack_reports,
    unpack_words,
)
from gateway.ledger import IS_FINAL, Channel, LedgerPage, Reason, Receipt, State
from gateway.message_id import BatchAddress
from gateway.receipts import TIME_UNKNOWN, Event, VendorReceipt

#: Tokens of one step; about a millisecond.
_SLICE_TOKENS = 1024
#: How long the first receipt waits for others; vendors tell minutes late.
_GATHER_S = 0.005
#: A receipt may overtake the report of the worker that sent its row: it is looked at again, so often, so much later.
_LOOKS_MAX = 4
_LOOK_AGAIN_S = 0.5


class DeskObserver(Protocol):
    def events(self, channel: Channel, events: U8) -> None:
        """(k,) uint8, events of rows that were found."""

    def outcome(self, channel: Channel, outcome: str, receipts: int) -> None: ...

    def unknown(self, channel: Channel, name: str, receipts: int) -> None: ...

    def tokens_dead(self, channel: Channel, rows: int, forgotten: int) -> None: ...

    def tokens_muted(self, channel: Channel, muted: int) -> None: ...

    def tokens_replaced(self, channel: Channel, replaced: int) -> None: ...


class NotificationSwitch(Protocol):
    def switch_notifications(self, slot: int, *, is_on: bool) -> None: ...


class Neighbours(Protocol):
    """Other workers; see `app_receipts.py`."""

    def worker_of(self, batch: BatchAddress) -> int | None:
        """Who is home of the batch; None: nobody here."""

    def split(self, device_ids: U8) -> tuple[Rows, list[tuple[int, Rows]]]:
        """Positions of devices that this worker owns, and those of each other worker."""

    def send(
        self, worker: int, what: str, head: dict[str, Any], body: bytes, rows: int, wait: Wait | None = None
    ) -> bool:
        """They are on their way; False where too many wait. wait: a part of it is done when they are dealt with."""
        ...

    def others(self) -> Iterable[int]: ...


class _Told(NamedTuple):
    app: int
    channel: Channel
    receipts: list[VendorReceipt]
    tokens: int
    wait: Wait | None


class _Early(NamedTuple):
    due: float
    batch: BatchAddress
    app: int
    channel: Channel
    reports: Reports
    looks: int
    wait: Wait | None


#: Asks the archive for a page: its sequence, no rows, whom to tell, whom to tell when there is none.
BringBack = Callable[[int, Rows, Callable[[LedgerPage, Rows], None], Callable[[], None]], bool]


class ReceiptDesk:
    """receipts_max: tokens of receipts that may wait here. guards: between dead tokens and the device table, by (app
    index, vendor). notes: what the journal on disk is told; apps_on_disk: whose receipts it is told."""

    def __init__(
        self,
        *,
        secret: bytes,
        home: Home,
        devices: DeviceTable,
        guards: Mapping[tuple[int, Channel], TokenGuard],
        switch: NotificationSwitch,
        clock: Clock,
        observer: DeskObserver,
        receipts_max: int,
        bring_back: BringBack | None = None,
        neighbours: Neighbours | None = None,
        own_ids: OwnIdBook | None = None,
        renewals: TokenRenewals | None = None,
        notes: ReceiptNotes | None = None,
        apps_on_disk: Collection[int] = (),
    ) -> None:
        self._notes = notes
        self._apps_on_disk = apps_on_disk
        self._own_ids = own_ids
        self._renewals = renewals
        self._secret = secret
        self._home = home
        self._devices = devices
        self._guards = guards
        self._switch = switch
        self._clock = clock
        self._observer = observer
        self._receipts_max = receipts_max
        self._bring_back = bring_back
        self._neighbours = neighbours
        self._queue: deque[_Told] = deque()
        self._early: deque[_Early] = deque()
        self._early_rows = 0
        self._bell = Bell()
        self.waiting = 0
        #: Called with rows of a page of which a vendor said that their receiver will not get them.
        self.on_undelivered: Callable[[LedgerPage, Rows], None] = lambda _page, _rows: None

    # -- from the listener

    def take(
        self, app: int, channel: Channel, receipts: list[VendorReceipt], told: Callable[[bool], None] | None = None
    ) -> bool:
        """They will be dealt with; False when too many wait already. told: called when what they say is as durable as
        the app asks for, or, with False, is not."""
        tokens = sum(len(receipt.tokens) for receipt in receipts)
        if self.waiting and self.waiting + tokens > self._receipts_max:
            return False
        wait = None if told is None or app not in self._apps_on_disk else Wait(told)
        if tokens:
            self._queue.append(_Told(app, channel, receipts, tokens, wait))
            self.waiting += tokens
            self._bell.ring()
        elif wait is not None:
            wait.done()
        if told is not None and wait is None:
            told(True)
        return True

    async def run(self) -> None:
        """Works until cancelled. If cancelled: what waits does so until the next run."""
        self._bell.ring()
        while True:
            # Parked reports are few and seconds old: the machine's clock is near enough.
            due = self._early[0].due if self._early else float("inf")
            due = due if self._own_ids is None else min(due, self._own_ids.next_look)
            with trio.move_on_after(max(0.0, due - self._clock.monotonic())):
                await self._bell.wait()
                # What comes in the same moment is dealt with together: it costs as much as one alone.
                await trio.sleep(_GATHER_S)
            while self._queue:
                self._deal_with_next()
                await trio.lowlevel.checkpoint()
            self._look_again()
            await trio.lowlevel.checkpoint()

    def _deal_with_next(self) -> None:
        """A slice of what waits, of one vendor of one app."""
        app, channel, receipts, tokens, wait = self._queue.popleft()
        receipts, waits = list(receipts), [wait]
        while self._queue and tokens < _SLICE_TOKENS and self._queue[0][:2] == (app, channel):
            more = self._queue.popleft()
            receipts += more.receipts
            tokens += more.tokens
            waits.append(more.wait)
        now_part, rest = _cut(receipts, _SLICE_TOKENS)
        if rest:
            # Of the last request alone: the ones before it would have filled the slice.
            left = sum(len(receipt.tokens) for receipt in rest)
            self._queue.appendleft(_Told(app, channel, rest, left, waits[-1]))
            tokens -= left
            if waits[-1] is not None:
                waits[-1].hold()
        self.waiting -= tokens
        all_of_them = [wait for wait in waits if wait is not None]
        if not all_of_them:
            self._deal_with(app, channel, now_part)
            return

        def tell(is_good: bool) -> None:
            for one in all_of_them:
                one.done(is_good)

        slice_wait = Wait(tell)
        self._deal_with(app, channel, now_part, wait=slice_wait)
        self._when_durable(app, slice_wait)

    def _when_durable(self, app: int, wait: Wait | None) -> None:
        """A part of it is done when everything that was noted so far is durable."""
        if wait is None:
            return
        if self._notes is None or app not in self._apps_on_disk:
            wait.done()
        else:
            self._notes.wait(wait.done)

    def _deal_with(
        self, app: int, channel: Channel, receipts: list[VendorReceipt], looks: int = 0, wait: Wait | None = None
    ) -> None:
        if self._own_ids is not None and any(receipt.own_id for receipt in receipts):
            receipts = self._named(self._own_ids, app, channel, receipts, looks)
        for receipt in receipts:
            if receipt.event is Event.UNKNOWN:
                self._observer.unknown(channel, receipt.name, len(receipt.tokens))
            elif receipt.event is Event.TOKEN_REPLACED:
                self._keep_new_token(app, channel, receipt)
        found = address(self._secret, receipts, lambda tokens: self._devices.hash_tokens(channel, tokens, app))
        self._count(channel, "no_address", found.without_address)
        self._count(channel, "forged", found.forged)
        for batch, reports in found.by_batch.items():
            self._route(batch, app, channel, reports, wait)

    def _keep_new_token(self, app: int, channel: Channel, receipt: VendorReceipt) -> None:
        if self._renewals is None or not receipt.tokens or read_address(self._secret, receipt.address) is None:
            return
        self._renewals.keep(app, channel, receipt.tokens[0], receipt.new_token)

    def _route(self, batch: BatchAddress, app: int, channel: Channel, reports: Reports, wait: Wait | None) -> None:
        if self._home.is_ours(batch):
            self.apply(batch, app, channel, reports, wait=wait)
            return
        worker = None if self._neighbours is None else self._neighbours.worker_of(batch)
        if worker is None or self._neighbours is None:
            self._count(channel, "unknown_row", len(reports.rows))
            return
        head = {"batch": list(batch), "app": app, "channel": int(channel)}
        if not self._neighbours.send(worker, "receipts", head, pack_reports(reports), len(reports.rows), wait):
            self._count(channel, "dropped", len(reports.rows))

    # -- receipts that name the vendor's own number

    def _named(
        self, book: OwnIdBook, app: int, channel: Channel, receipts: list[VendorReceipt], looks: int
    ) -> list[VendorReceipt]:
        """Those whose number this worker was told, under an address. The others are looked at again, and at last told
        to the other workers."""
        known, unknown = book.named(app, channel, receipts)
        if unknown and not book.park(app, channel, unknown, looks):
            others = () if self._neighbours is None else self._neighbours.others()
            body, head = pack_receipts(unknown), {"app": app, "channel": int(channel)}
            sent = [
                self._neighbours.send(one, "own_ids", head, body, len(unknown)) for one in others if self._neighbours
            ]
            self._count(channel, "passed_on" if any(sent) else "unknown_id", len(unknown))
        return known

    def on_own_ids(self, head: dict[str, Any], body: memoryview) -> None:
        """Receipts whose numbers another worker was not told. Raises ValueError for what is none."""
        if self._own_ids is not None:
            known, _ = self._own_ids.named(head["app"], Channel(head["channel"]), unpack_receipts(body))
            self._deal_with(head["app"], Channel(head["channel"]), known)

    # -- at the home of the rows

    def on_reports(self, head: dict[str, Any], body: memoryview, told: Callable[[bool], None]) -> None:
        """Reports that another worker received; `told` is called when they are durable. Raises ValueError for columns
        that do not fit."""
        reports, wait = unpack_reports(body), Wait(told)
        self.apply(BatchAddress(*head["batch"]), head["app"], Channel(head["channel"]), reports, wait=wait)
        self._when_durable(head["app"], wait)

    def apply(
        self,
        batch: BatchAddress,
        app: int,
        channel: Channel,
        reports: Reports,
        looks: int = 0,
        wait: Wait | None = None,
    ) -> None:
        """Reports about a batch of this home do what they do. wait: has parts for what is done later."""
        batch = self._home.addresses.kept(batch)
        page = self._home.page(batch.sequence)
        if page is None and self._bring_back is not None:
            then = functools.partial(self._brought_back, batch, app, channel, reports, wait)
            missing = functools.partial(self._brought_back, batch, app, channel, reports, wait, None)
            if self._bring_back(batch.sequence, np.zeros(0, np.intp), then, missing):
                if wait is not None:
                    wait.hold()
                return
        self._apply_to(page, batch, app, channel, reports, looks, wait)

    def _brought_back(
        self,
        batch: BatchAddress,
        app: int,
        channel: Channel,
        reports: Reports,
        wait: Wait | None,
        page: LedgerPage | None,
        _rows: Rows | None = None,
    ) -> None:
        self._apply_to(page, batch, app, channel, reports, _LOOKS_MAX, wait)
        self._when_durable(app, wait)

    def _apply_to(
        self,
        page: LedgerPage | None,
        batch: BatchAddress,
        app: int,
        channel: Channel,
        reports: Reports,
        looks: int,
        wait: Wait | None,
    ) -> None:
        if page is None or page.batch.address != batch or page.batch.app != app:
            self._count(channel, "unknown_row", len(reports.rows))
            return
        found = find_rows(page, channel, reports)
        is_recovered = page.trail is not None and page.trail.is_recovered
        if len(found.missing) and is_recovered and remember_tokens(page, channel, self._devices):
            found = find_rows(page, channel, reports)
        if len(found.missing):
            missing = reports.take(found.missing)
            is_early = page.away is not None and looks < _LOOKS_MAX
            if not is_early or not self._park(_Early(0.0, batch, app, channel, missing, looks + 1, wait)):
                self._count(channel, "not_the_target", len(found.missing))
        if len(found.rows):
            self._raise(page, channel, found.rows, reports.take(found.reports))

    def _raise(self, page: LedgerPage, channel: Channel, rows: Rows, reports: Reports) -> None:
        now = self._clock.monotonic()
        told = RECEIPTS[reports.events]
        rose = 0
        for receipt, of_rows in strongest(rows, told):
            rose += len(self._home.raise_receipts(page, of_rows, receipt, now))
            if receipt >= Receipt.DELIVERED:
                self._call_off(page, of_rows, now)
        add_flags(self._home, page, rows, reports.events, now)
        n_repeated = int(np.count_nonzero(told)) - rose
        self._count(channel, "repeated", n_repeated)
        self._count(channel, "counted", len(rows) - n_repeated)
        self._observer.events(channel, reports.events)
        lost = np.unique(rows[_is_lost(reports.events)])
        if len(lost):
            self.on_undelivered(page, lost)
        if page.batch.has_fallback and page.away is not None:
            self._tell_holders(page, channel, rows, reports)
        words = device_words(page, rows, reports, channel, self._devices)
        guard = self._guards.get((page.batch.app, channel))
        if guard is not None:
            # Told here, the dead ones where their devices are: homes and owners are spread alike over the workers.
            guard.on_verdicts(int(np.count_nonzero(reports.events == Event.DELIVERED)), 0)
        if len(words.events):
            self._tell_owners(page.batch.app, channel, words)

    def _tell_holders(self, page: LedgerPage, channel: Channel, rows: Rows, reports: Reports) -> None:
        """Rows whose chain another worker carries out: it must know what the vendor said."""
        if page.away is None or self._neighbours is None:
            return
        workers = np.where(IS_FINAL[page.state[rows]], 0, page.away[rows] & AWAY_WORKER)
        for worker in np.unique(workers[workers > 0]).tolist():
            told = reports.take(workers == worker)
            head = {"batch": list(page.batch.address), "channel": int(channel)}
            if not self._neighbours.send(worker - 1, "held_receipts", head, pack_reports(told), len(told.rows)):
                self._count(channel, "dropped", len(told.rows))

    def on_held_reports(self, head: dict[str, Any], body: memoryview) -> None:
        """What the home of rows that this worker holds was told of them. Raises ValueError for columns that do not
        fit."""
        channel, reports = Channel(head["channel"]), unpack_reports(body)
        # A row has another number here; its token is the same.
        reports = reports._replace(rows=np.full(len(reports.rows), ROW_UNKNOWN, np.int32))
        now = self._clock.monotonic()
        for page in self._home.shadows.of_batch(BatchAddress(*head["batch"])):
            found = find_rows(page, channel, reports)
            events = reports.events[found.reports]
            for receipt, of_rows in strongest(found.rows, RECEIPTS[events]):
                self._home.raise_receipts(page, of_rows, receipt, now)
            add_flags(self._home, page, found.rows, events, now)
            lost = np.unique(found.rows[_is_lost(events)])
            if len(lost):
                self.on_undelivered(page, lost)

    def _call_off(self, page: LedgerPage, rows: Rows, now: float) -> None:
        """Rows that are about to be sent once more, although they arrived, are not; their holder may be elsewhere."""
        states = page.state[rows]
        again = rows[(states == State.WAITING) | ((states == State.QUEUED) & (page.attempts[rows] > 0))]
        if page.away is not None:
            again = again[page.away[again] == 0]
        if len(again):
            self._home.move(page, again[page.state[again] == State.QUEUED], State.WAITING, None, now)
            self._home.move(page, again, State.VENDOR_ACCEPTED, Reason.NONE, now)

    # -- receipts that overtook the report of the worker that sent their rows

    def _park(self, early: _Early) -> bool:
        n = len(early.reports.rows)
        if self._early_rows + n > EARLY_REPORTS_MAX:
            return False
        self._early_rows += n
        if early.wait is not None:
            early.wait.hold()
        self._early.append(early._replace(due=self._clock.monotonic() + _LOOK_AGAIN_S))
        self._bell.ring()
        return True

    def _look_again(self) -> None:
        for app, channel, receipts, looks in () if self._own_ids is None else self._own_ids.take_due():
            self._deal_with(app, channel, receipts, looks)
        now = self._clock.monotonic()
        while self._early and self._early[0].due <= now:
            early = self._early.popleft()
            self._early_rows -= len(early.reports.rows)
            self.apply(early.batch, early.app, early.channel, early.reports, early.looks, early.wait)
            self._when_durable(early.app, early.wait)

    # -- at the owner of the devices

    def _tell_owners(self, app: int, channel: Channel, words: DeviceWords) -> None:
        if self._neighbours is None:
            self.act_on_devices(app, channel, words)
            return
        mine, others = self._neighbours.split(words.device_ids)
        if len(mine):
            self.act_on_devices(app, channel, words.take(mine))
        for worker, positions in others:
            body = pack_words(words.take(positions))
            head = {"app": app, "channel": int(channel)}
            if not self._neighbours.send(worker, "device_words", head, body, len(positions)):
                self._count(channel, "dropped", len(positions))

    def on_words(self, head: dict[str, Any], body: memoryview) -> None:
        """What another worker's receipts say of devices of this one. Raises ValueError for columns that do not fit."""
        self.act_on_devices(head["app"], Channel(head["channel"]), unpack_words(body))

    def act_on_devices(self, app: int, channel: Channel, words: DeviceWords) -> None:
        """The device table knows what the vendor said of k devices."""
        guard = self._guards.get((app, channel))
        dead = np.flatnonzero(words.events == Event.TOKEN_DEAD)
        if guard is not None:
            guard.on_verdicts(0, len(dead))
        slots = self._devices.find(words.device_ids, app)
        is_known = slots >= 0
        replaced = np.flatnonzero(is_known & (words.events == Event.TOKEN_REPLACED))
        if len(replaced) and self._renewals is not None:
            # First: what is said of the old token does not hold for the new one.
            is_own = self._devices.token_hashes(slots[replaced]) == words.token_hashes[replaced]
            n_replaced = self._renewals.replace(app, channel, slots[replaced[is_own]])
            self._observer.tokens_replaced(channel, n_replaced)
        dead = dead[is_known[dead]]
        if len(dead) and guard is not None:
            since = np.minimum(words.at_unix_ms[dead], self._clock.unix_ms())
            since[words.at_unix_ms[dead] == TIME_UNKNOWN] = SINCE_UNKNOWN
            forgotten = guard.forget(slots[dead], words.token_hashes[dead], since)
            self._observer.tokens_dead(channel, len(dead), forgotten)
        muted = np.flatnonzero(is_known & (words.events == Event.TOKEN_MUTED))
        if len(muted):
            done = self._devices.mute_tokens(slots[muted], words.token_hashes[muted])
            self._observer.tokens_muted(channel, int(done.sum()))
        closed = np.flatnonzero(is_known & (words.events == Event.NOTIFICATIONS_CLOSED))
        if len(closed):
            # Of the token that the device has now: an earlier installation says nothing.
            is_own = self._devices.token_hashes(slots[closed]) == words.token_hashes[closed]
            for slot in np.unique(slots[closed[is_own]]).tolist():
                self._switch.switch_notifications(slot, is_on=False)

    def _count(self, channel: Channel, outcome: str, receipts: int) -> None:
        if receipts > 0:
            self._observer.outcome(channel, outcome, receipts)


_LOST = np.zeros(len(Event), np.bool_)
_LOST[[Event.NOTIFICATIONS_CLOSED, Event.TOKEN_DEAD, Event.TOKEN_MUTED, Event.QUOTA, Event.UNDELIVERED]] = True


def _is_lost(events: U8) -> Any:
    """(k,) bool, whether the message of each is lost for good."""
    return _LOST[events]


def _cut(receipts: list[VendorReceipt], tokens_max: int) -> tuple[list[VendorReceipt], list[VendorReceipt]]:
    """The receipts of at most so many tokens, at least one token, and the rest."""
    left = tokens_max
    for index, receipt in enumerate(receipts):
        tokens = receipt.tokens
        if len(tokens) > left:
            before, after = receipts[:index], receipts[index + 1 :]
            return (
                [*before, receipt._replace(tokens=tokens[:left])],
                [receipt._replace(tokens=tokens[left:]), *after],
            )
        left -= len(tokens)
    return receipts, []
