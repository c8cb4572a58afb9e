"""Router: takes batches from the intake, decides each row's way, and carries it out.

    route() --> slices --> core.router --> long link | lane | inbox | dropped
                              ^
        vendor_failed() ------+  (strategy 4)
        unacknowledged() -----+  (hand-over from the long link)

Also the end of all rows by time: it sweeps what the home says is due. A row is with one holder at any time: its page
says which, and a row that is handed over is taken from the old holder first.

Waits for: its bell. Is waited for by: nobody; lanes that are full leave rows parked here, bounded by `parked_rows_max`,
beyond which intake is refused (`check_room`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.actors.fallbacks import NOT_REACHED, FallbackObserver, Fallbacks, Ways
from gateway.actors.inbox import InboxActor, Offer
from gateway.actors.lane import LaneActor
from gateway.actors.link_feed import ForLink, LinkFeed, LongLinkPort, mark_held, rows_of_one_call
from gateway.actors.precedence import Precedence
from gateway.actors.rendering import LinkPayload, LinkRenderer
from gateway.actors.resending import RedeliverPort, Resending
from gateway.actors.token_guard import TokenGuard
from gateway.clock import Clock
from gateway.columns import I32, U8, U32, Bool, Rows
from gateway.content import Class, Priority
from gateway.core.devices import SINCE_UNKNOWN, DeviceTable
from gateway.core.home import Home, row_tags
from gateway.core.lane import LaneKey
from gateway.core.lifetimes import expiry_reasons, seconds_left
from gateway.core.options import AppDefaults, Options, compile_options
from gateway.core.router import (
    Routed,
    VendorRows,
    live_rows,
    reroute_after_long_link,
    reroute_after_vendor,
    reroute_offline,
    route,
    slots_of,
)
from gateway.core.shadow import ShadowPage, stay_here
from gateway.core.stopping import go_on
from gateway.core.trail import Trail
from gateway.core.wheel import TimingWheel
from gateway.errors import Overloaded
from gateway.ledger import Channel, Flag, LedgerPage, Reason, State

_N_CHANNELS = len(Channel)
#: Strategy 4.
_VENDOR_FIRST = np.uint8(4)
#: Between two sweeps.
_SWEEP_S = 0.05
#: Slices of strategy 4 that may wait for a vendor at once; one per batch and lane.
_WAITS_MAX = 1 << 20
#: Rows of strategy 4 that are in flight when their wait ends are looked at again after this long.
_LOOK_AGAIN_S = 1.0


class SpreadPort(Protocol):
    """Takes rows whose devices other workers own; see `actors/spread.py`."""

    def send_elsewhere(self, page: LedgerPage, rows: Rows) -> Rows: ...

    def check_room(self) -> None: ...


class RouterObserver(FallbackObserver, Protocol):
    def routed(self, page: LedgerPage, seconds: float) -> None: ...

    def delivered_to_edge(self, rows: int) -> None: ...

    def handed_over(self, rows: int) -> None: ...

    def tokens_dead(self, channel: Channel, rows: int, forgotten: int) -> None: ...

    def tokens_muted(self, channel: Channel, muted: int) -> None: ...

    def truncated(self, rows: int) -> None: ...


class _Parked(NamedTuple):
    page: LedgerPage
    rows: Rows
    priority: Priority


class Router:
    """defaults: by app index. slice_rows: rows decided in one step; chosen so that a step stays within `step_ms_max`.

    strategy4_wait_s: how long a row of strategy 4 waits for a vendor that cannot take it before it falls back.
    remembers_devices: `devices` has outlived the process before, so that who is unknown was never known.
    """

    def __init__(
        self,
        *,
        home: Home,
        devices: DeviceTable,
        inbox: InboxActor,
        renderer: LinkRenderer,
        clock: Clock,
        observer: RouterObserver,
        defaults: Sequence[AppDefaults],
        slice_rows: int,
        parked_rows_max: int,
        strategy4_wait_s: float,
        trail: Trail | None = None,
        remembers_devices: bool = False,
        precedence: Precedence | None = None,
    ) -> None:
        self._home = home
        self._devices = devices
        self._inbox = inbox
        self._renderer = renderer
        self._clock = clock
        self._observer = observer
        self._defaults = defaults
        self._slice_rows = slice_rows
        self._strategy4_wait_s = strategy4_wait_s
        self._parked_rows_max = parked_rows_max
        self._long_link: LongLinkPort | None = None
        self.resending = Resending(renderer, clock, self._link, self._not_resent)
        self._lanes: dict[LaneKey, LaneActor] = {}
        self._has_lane: dict[int, Bool] = {}
        self._guards: Mapping[tuple[int, Channel], TokenGuard] = {}
        self._pages: deque[LedgerPage] = deque()
        self._parked: dict[LaneKey, deque[_Parked]] = {}
        self.parked_rows = 0
        self.queued_rows = 0
        self._bell = Bell(precedence)
        self._waits: TimingWheel[_Parked] = TimingWheel(
            tick_s=_SWEEP_S, slots=1024, now=clock.monotonic(), items_max=_WAITS_MAX
        )
        self._sweep_bell = Bell()
        self._sweep_at = -math.inf  #: When the sweeper looks up by itself; -inf while it is about to.
        ways = Ways(self._options, self.lanes_of, self._offer, inbox.forget)
        self.fallbacks = Fallbacks(home=home, devices=devices, clock=clock, observer=observer, ways=ways)
        self._trail = trail
        self._remembers_devices = remembers_devices
        self._link_feed = LinkFeed(self._link_rows_max, self._feed, trail, self._send_rest, precedence)
        self._spread: SpreadPort | None = None
        #: Rows that came back from workers that died.
        self._again: deque[tuple[LedgerPage, Rows]] = deque()
        #: Called with each page that has been routed.
        self.on_routed: Callable[[LedgerPage], None] = lambda _page: None

    def connect_spread(self, spread: SpreadPort) -> None:
        """Names who takes rows of devices that are not this worker's. A worker alone has none."""
        self._spread = spread

    def connect_link(self, long_link: LongLinkPort) -> None:
        """Names the long link rows are given to; again when a crashed one was replaced."""
        self._long_link = long_link

    def _link(self) -> RedeliverPort:
        assert self._long_link is not None
        return self._long_link

    def _not_resent(self, page: LedgerPage, rows: Rows) -> None:
        self.unacknowledged(page, rows, Offer.NOW)

    def connect(self, lanes: Mapping[LaneKey, LaneActor], guards: Mapping[tuple[int, Channel], TokenGuard]) -> None:
        """Names the lanes rows are given to, and the guard of each (app index, vendor). Called once, before `run`."""
        self._lanes = dict(lanes)
        self._guards = guards
        for app, channel, _ in lanes:
            self._has_lane.setdefault(app, np.zeros(_N_CHANNELS, np.bool_))[channel] = True

    # -- from the intake

    def check_room(self) -> None:
        """Raises Overloaded when too many rows are parked before full lanes."""
        if self.parked_rows >= self._parked_rows_max:
            raise Overloaded("parked rows", self.parked_rows, self._parked_rows_max)

    def route_again(self, page: LedgerPage, rows: Rows) -> None:
        """Rows that are QUEUED and have nobody who holds them are routed anew."""
        self._again.append((page, rows))
        self.queued_rows += len(rows)
        self._bell.ring()
        self._sweep_bell.ring()

    def route(self, page: LedgerPage) -> None:
        """The page's rows will be routed, in order of arrival. Bounded by the home's open rows."""
        self._pages.append(page)
        self.queued_rows += page.n
        self._bell.ring()
        if self._home.next_deadline() < self._sweep_at:
            self._sweep_bell.ring()

    async def run(self) -> None:
        """Routes until cancelled. If cancelled: the page under way goes on with its next slice in the next run."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            nursery.start_soon(self._link_feed.run)
            # What a crashed run had queued is still there.
            self._bell.ring()
            while True:
                await self._bell.wait()
                while self._pages:
                    page = self._pages[0]
                    await self._route_page(page)
                    self._pages.popleft()
                    self._observer.routed(page, self._clock.monotonic() - page.batch.born)
                    self.on_routed(page)
                while self._again:
                    await self._route_again(*self._again.popleft())

    def parked(self) -> dict[LaneKey, int]:
        """Rows parked before each lane."""
        return {key: sum(len(parked.rows) for parked in queue) for key, queue in self._parked.items()}

    @property
    def is_idle(self) -> bool:
        """No row waits to be routed or to be given to the edge."""
        return not self.queued_rows and self._link_feed.is_idle

    async def _route_page(self, page: LedgerPage) -> None:
        options = self._options(page)
        left = page.n - page.n_routed
        if page.batch.has_fallback and not page.n_routed:
            self.fallbacks.follow(page)
            self._sweep_bell.ring()
        # Slices of equal size: a short last one would cost nearly as much as a full one.
        size = -(-left // -(-left // self._slice_rows)) if left else 1
        for first in range(page.n_routed, page.n, size):
            stop = min(first + size, page.n)
            rows = live_rows(page, first, stop)
            if page.batch.has_fallback:
                rows = self.fallbacks.resume(page, rows)
            if self._spread is not None and not isinstance(page, ShadowPage):
                rows = self._spread.send_elsewhere(page, rows)
            if len(rows):
                span = slice(first, stop) if len(rows) == stop - first else None
                routed = route(page, rows, self._devices, options, self.lanes_of(page), span)
                page.routed_ms[first:stop] = page.stamp(self._clock.monotonic())
                self._carry_out(page, routed, options, at_once=True)
            page.n_routed = stop
            self.queued_rows -= stop - first
            if stop < page.n or len(self._pages) > 1 or self._again:
                await self._bell.pause()

    async def _route_again(self, page: LedgerPage, rows: Rows) -> None:
        options = self._options(page, rows)
        for first in range(0, len(rows), self._slice_rows):
            part = rows[first : first + self._slice_rows]
            self.queued_rows -= len(part)
            part = part[page.state[part] == State.QUEUED]
            if page.batch.has_fallback:
                part = self.fallbacks.resume(page, part)
            if self._spread is not None:
                part = self._spread.send_elsewhere(page, part)
            if len(part):
                self._carry_out(page, route(page, part, self._devices, options, self.lanes_of(page)), options)
            await trio.lowlevel.checkpoint()

    def _options(self, page: LedgerPage, rows: Rows | None = None) -> Options:
        return compile_options(page.batch, self._defaults[page.batch.app], rows)

    def lanes_of(self, page: LedgerPage) -> Bool:
        """(channels,) which channels the page's app has lanes for."""
        found = self._has_lane.get(page.batch.app)
        return np.zeros(_N_CHANNELS, np.bool_) if found is None else found

    # -- carrying out

    def _carry_out(
        self, page: LedgerPage, routed: Routed, options: Options, offer: Offer = Offer.NOW, *, at_once: bool = False
    ) -> None:
        """Every row has its next holder or its end. offer: as in `InboxActor.keep`; at_once: as in `LinkFeed.add`."""
        now = self._clock.monotonic()
        for reason, rows in routed.dropped:
            if reason is Reason.UNKNOWN_DEVICE and not self._remembers_devices and _is_recovered(page):
                # Known when it was accepted: devices registered before a restart are not there until they come again.
                page.channel[rows] = Channel.LONG_LINK
                self._inbox.keep(page, rows)
                continue
            goes_on = page.batch.has_fallback and reason in NOT_REACHED
            self._end(page, self.fallbacks.move_on(page, rows) if goes_on else rows, reason, now)
        self._fail(page, routed.failed, now)
        if len(routed.expired):
            self._home.move(page, routed.expired, State.EXPIRED, Reason.TTL_PASSED, now)
        for group in routed.vendor:
            self._to_lane(page, group, options, now)
        if len(routed.long_link):
            page.channel[routed.long_link] = Channel.LONG_LINK
            self._link_feed.add(ForLink(page, routed.long_link, routed.fds, routed.generations), at_once=at_once)
        if len(routed.inbox):
            page.channel[routed.inbox] = Channel.LONG_LINK
            self._inbox.keep(page, routed.inbox, offer)

    def _fail(self, page: LedgerPage, rows: Rows, now: float) -> None:
        """Rows have no way left, but for their chain. Their reasons stand beside them."""
        if len(rows):
            left = self.fallbacks.move_on(page, rows) if page.batch.has_fallback else rows
            self._home.move(page, left, State.FAILED, None, now)

    def _end(self, page: LedgerPage, rows: Rows, reason: Reason, now: float) -> None:
        self._home.move(page, rows, State.DROPPED, reason, now)

    def _to_lane(self, page: LedgerPage, group: VendorRows, options: Options, now: float) -> None:
        rows = group.rows
        states = page.state[rows]
        # Rows that come from elsewhere (a timer, the long link) are queued again; queued ones, zeros, stay so.
        if np.count_nonzero(states):
            self._home.move(page, rows[states.nonzero()], State.QUEUED, None, now)
        page.channel[rows] = group.channel
        self._limit_wait(page, group, options, now)
        self._offer(page, group)

    def _offer(self, page: LedgerPage, group: VendorRows) -> None:
        """Rows that are QUEUED for that channel are in its lane, or parked before it."""
        rows = group.rows
        key = LaneKey(page.batch.app, group.channel, group.class_)
        taken = self._lanes[key].offer(page, rows, group.priority) if not self._parked.get(key) else 0
        if taken < len(rows):
            self._parked.setdefault(key, deque()).append(_Parked(page, rows[taken:], group.priority))
            self.parked_rows += len(rows) - taken

    def _limit_wait(self, page: LedgerPage, group: VendorRows, options: Options, now: float) -> None:
        """Rows of strategy 4 do not wait for a vendor longer than `strategy4_wait_s`."""
        if np.count_nonzero(options.strategies == _VENDOR_FIRST):
            self._waits.add(now + self._strategy4_wait_s, _Parked(page, group.rows, group.priority))
            self._sweep_bell.ring()

    def _stop_waiting(self, now: float) -> None:
        """Rows of strategy 4 that still wait for their vendor fall back; those in flight keep their attempt."""
        for page, rows, priority in self._waits.expire(now):
            states = page.state[rows]
            at_vendor = page.channel[rows] > Channel.LONG_LINK
            in_flight = rows[at_vendor & (states == State.IN_FLIGHT)]
            if len(in_flight):
                # They may come back to wait; then they have waited long enough.
                self._waits.add(now + _LOOK_AGAIN_S, _Parked(page, in_flight, priority))
            is_waiting = at_vendor & ((states == State.QUEUED) | (states == State.WAITING))
            if page.batch.has_fallback:
                is_waiting &= ~self.fallbacks.holds(page, rows)
            options = self._options(page, rows)
            index = options.variant_index(page.batch, rows)
            is_waiting &= options.strategies[index, page.channel[rows]] == _VENDOR_FIRST
            waiting = rows[is_waiting]
            if len(waiting):
                self.vendor_failed(page, waiting, self._why(page, waiting))

    def lane_has_room(self, lane: LaneActor) -> None:
        """A lane took rows off its queue: what is parked for it moves up."""
        key = lane.lane.key
        parked = self._parked.get(key)
        while parked:
            page, rows, priority = parked[0]
            taken = lane.offer(page, rows, priority)
            self.parked_rows -= taken
            if taken < len(rows):
                parked[0] = _Parked(page, rows[taken:], priority)
                return
            parked.popleft()

    def _link_rows_max(self, page: LedgerPage) -> int:
        assert self._long_link is not None
        return rows_of_one_call(page, self._long_link.deliver_rows_max())

    def _send_rest(self) -> bool:
        return self._long_link is not None and self._long_link.send_rest()

    def _feed(self, work: ForLink) -> None:
        page = work.page
        if not page.are_all(work.rows, State.QUEUED, Channel.LONG_LINK):
            work = work.take(page.are(work.rows, State.QUEUED, Channel.LONG_LINK))
        left = self._to_long_link(work, self._clock.monotonic())
        if len(left):
            self._unmark(page, left)
            options = self._options(page, left)
            self._carry_out(page, self._after_refused_link(page, left, options), options)

    def _after_refused_link(self, page: LedgerPage, rows: Rows, options: Options) -> Routed:
        """The next way of rows that no socket took. Strategy 4 has had its vendor: it does not ask it again."""
        lanes = self.lanes_of(page)
        fell_back = rows[page.reason[rows] == Reason.FALLBACK]
        if not len(fell_back):
            return reroute_offline(page, rows, self._devices, options, lanes)
        first = reroute_offline(page, rows[page.reason[rows] != Reason.FALLBACK], self._devices, options, lanes)
        second = reroute_after_long_link(page, fell_back, self._devices, options, lanes)
        return first._replace(
            inbox=np.concatenate([first.inbox, second.inbox]),
            vendor=first.vendor + second.vendor,
            expired=np.concatenate([first.expired, second.expired]),
            failed=np.concatenate([first.failed, second.failed]),
        )

    def _to_long_link(self, work: ForLink, now: float) -> Rows:
        """Gives rows to their sockets; returns those that no socket took, still where they were."""
        page, rows, fds, generations = work
        if not len(rows):
            return rows
        batch = page.batch
        payloads, refused = self._renderer.render(page, rows, batch.born_unix_ms / 1000 + now - batch.born)
        for wrong, reason in refused:
            self._end(page, wrong, reason, now)
        left = [
            self._deliver(page, group, fds[group.positions], generations[group.positions], now) for group in payloads
        ]
        return np.concatenate(left) if left else rows[:0]

    def _deliver(self, page: LedgerPage, group: LinkPayload, fds: I32, generations: U32, now: float) -> Rows:
        """One call of the edge; returns the rows that it did not take."""
        assert self._long_link is not None
        rows = group.rows
        tags = row_tags(page.batch.address.sequence, rows)
        ids = page.batch.device_ids.take(rows, axis=0)
        left = _lifetimes(page, rows, now)
        taken = self._long_link.deliver(fds, generations, ids, tags, group.payload, trio.current_time(), left)
        sent = rows if np.count_nonzero(taken) == len(rows) else rows[taken]
        if len(sent):
            page.channel[sent] = Channel.LONG_LINK
            self._home.move(page, sent, State.IN_FLIGHT, None, now, channel=Channel.LONG_LINK)
            page.attempts[sent] = np.minimum(page.attempts[sent], np.uint8(254)) + np.uint8(1)
            page.issued_ms[sent] = page.stamp(now)
            self._observer.delivered_to_edge(len(sent))
            if np.count_nonzero(group.truncated):
                cut = rows[taken & group.truncated]
                page.flags[cut] |= np.uint8(Flag.TRUNCATED)
                self._observer.truncated(len(cut))
        return rows[:0] if sent is rows else rows[~taken]

    # -- from lanes

    def vendor_failed(self, page: LedgerPage, rows: Rows, reasons: U8) -> None:
        """A vendor finally did not take these rows: they fail, or fall back if their strategy says so."""
        now = self._clock.monotonic()
        page.reason[rows] = reasons
        if page.stopped is not None:
            is_stopped = page.stopped[rows]
            self._home.move(page, rows[is_stopped], State.FAILED, None, now)
            rows = rows[~is_stopped]
        if page.batch.has_fallback:
            rows, ended = self.fallbacks.after_failure(page, rows)
            self._home.move(page, ended, State.FAILED, None, now)
        options = self._options(page, rows)
        routed = reroute_after_vendor(page, rows, self._devices, options, self.lanes_of(page))
        self._fail(page, routed.failed, now)
        falls_back = np.concatenate([routed.long_link, routed.inbox])
        if len(falls_back):
            page.fell_back(falls_back, now)
            in_lane = page.state[falls_back] == State.QUEUED
            self._home.move(page, falls_back[~in_lane], State.QUEUED, Reason.FALLBACK, now)
            page.reason[falls_back[in_lane]] = Reason.FALLBACK
            self._carry_out(page, routed._replace(failed=rows[:0]), options)

    def token_dead(self, page: LedgerPage, rows: Rows, dead_since_unix_ms: Sequence[int | None]) -> None:
        """The registry forgets the tokens of these rows' devices, unless they were registered again since or the guard
        holds removals back."""
        page.flags[rows] |= np.uint8(Flag.TOKEN_DEAD)
        channel = Channel(int(page.channel[rows[0]]))
        slots = slots_of(self._devices, page, rows, channel)
        known = slots >= 0
        since = np.array([SINCE_UNKNOWN if at is None else at for at in dead_since_unix_ms], np.int64)
        guard = self._guards[page.batch.app, channel]
        forgotten = guard.forget(slots[known], page.token_hashes[rows[known]], since[known])
        self._observer.tokens_dead(channel, len(rows), forgotten)

    def token_muted(self, page: LedgerPage, rows: Rows) -> None:
        """The tokens of these rows' devices are kept, and not sent to until they register again."""
        channel = Channel(int(page.channel[rows[0]]))
        slots = slots_of(self._devices, page, rows, channel)
        known = slots >= 0
        muted = self._devices.mute_tokens(slots[known], page.token_hashes[rows[known]])
        self._observer.tokens_muted(channel, int(muted.sum()))

    def tokens_proven(self, page: LedgerPage, rows: Rows) -> None:
        """The vendor took these probes: their tokens need none from now on."""
        slots = slots_of(self._devices, page, rows, Channel(int(page.channel[rows[0]])))
        known = slots >= 0
        self._devices.prove_tokens(slots[known], page.token_hashes[rows[known]], self._clock.unix_ms() // 1000)

    def tokens_suspect(self, page: LedgerPage, rows: Rows) -> None:
        """The vendor refused these rows for the sake of their devices: the tokens are probed again."""
        slots = slots_of(self._devices, page, rows, Channel(int(page.channel[rows[0]])))
        known = slots >= 0
        self._devices.suspect_tokens(slots[known], page.token_hashes[rows[known]])

    # -- from the long link
    def unacknowledged(self, page: LedgerPage, rows: Rows, offer: Offer) -> None:
        """Sockets closed or stayed silent: these rows pass to their next holder, counted and marked."""
        held = rows[page.are(rows, State.IN_FLIGHT, Channel.LONG_LINK)]
        if not len(held):
            return
        now = self._clock.monotonic()
        page.flags[held] |= np.uint8(Flag.HANDED_OVER)
        page.left_link(held, now)
        self._home.move(page, held, State.QUEUED, Reason.HAND_OVER, now)
        held = go_on(self._home, page, held, now)
        self._observer.handed_over(len(held))
        options = self._options(page, held)
        routed = reroute_after_long_link(page, held, self._devices, options, self.lanes_of(page))
        self._carry_out(page, routed, options, offer)

    # -- from the inbox

    def online_ids(self, app: int, device_ids: U8) -> list[bytes]:
        _, found = self._devices.locate(device_ids, app)
        return [row.tobytes() for row in device_ids[found.is_online]]

    async def mark_held(self, page: LedgerPage, rows: Rows) -> bool:
        """As `link_feed.mark_held`."""
        return await mark_held(self._trail, page, rows)

    def deliver_held(self, page: LedgerPage, rows: Rows) -> Rows:
        """Rows of one device whose time has come back: to its socket. Returns those that stay HELD."""
        if not len(rows):
            return rows
        _, found = self._devices.locate(page.batch.device_ids.take(rows, axis=0), page.batch.app)
        online = rows[found.is_online]
        work = ForLink(page, online, found.fd[found.is_online], found.generation[found.is_online])
        left = self._to_long_link(work, self._clock.monotonic())
        held = np.sort(np.concatenate([left, rows[~found.is_online]]))
        self._unmark(page, held)
        return held

    def _unmark(self, page: LedgerPage, rows: Rows) -> None:
        """Rows that were to leave did not."""
        if self._trail is not None:
            self._trail.unmark(page, rows)
        stay_here(page, rows)

    # -- by time

    def sweep_soon(self) -> None:
        """The home has rows that are due sooner than it said."""
        self._sweep_bell.ring()

    async def _sweep(self) -> None:
        """Ends rows whose TTL has passed, and waits that have lasted long enough, page by page."""
        while True:
            waits = self._waits.next_deadline()
            deadline = min(self._home.next_deadline(), self.fallbacks.next_deadline())
            self._sweep_at = min(deadline, math.inf if waits is None else waits)
            with self._clock.move_on_at(self._sweep_at):
                await self._sweep_bell.wait()
            now, self._sweep_at = self._clock.monotonic(), -math.inf
            self._stop_waiting(now)
            self.fallbacks.on_time(now)
            for page, rows in self._home.due(now):
                self._expire(page, rows, now)
                await trio.lowlevel.checkpoint()
            # Several pages that fall due together share a sweep, and the sweeper cannot spin.
            await trio.sleep(_SWEEP_S)

    def _expire(self, page: LedgerPage, rows: Rows, now: float) -> None:
        reasons = self._why(page, rows)
        held = rows[page.state[rows] == State.HELD]
        self._home.move(page, rows, State.EXPIRED, reasons, now)
        self._inbox.forget(row_tags(page.batch.address.sequence, held))

    def _why(self, page: LedgerPage, rows: Rows) -> U8:
        """(k,) what each row has waited for."""
        reasons = np.zeros(len(rows), np.uint8)
        channels = page.channel[rows]
        for channel in np.unique(channels).tolist():
            at = channels == channel
            reasons[at] = expiry_reasons(page, rows[at], self._waiting_reason(page, Channel(channel)))
        return reasons

    def _waiting_reason(self, page: LedgerPage, channel: Channel) -> Reason:
        lanes = [self._lanes.get(LaneKey(page.batch.app, channel, class_)) for class_ in Class]
        reasons = [lane.waiting_reason() for lane in lanes if lane is not None and lane.holds_rows]
        return reasons[0] if reasons else Reason.TTL_PASSED


def _is_recovered(page: LedgerPage) -> bool:
    return page.trail is not None and page.trail.is_recovered


def _lifetimes(page: LedgerPage, rows: Rows, now: float) -> Callable[[Rows], U32]:
    """Positions among the rows -> seconds of life that are left: asked for rows of MQTT 5.0 only."""
    return lambda positions: seconds_left(page.batch, rows[positions], now)
