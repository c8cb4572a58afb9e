"""VendorPool: the connections of one (app, vendor) credential, shared by that vendor's lanes.

Keeps at least one connection while there is work, as many as Little's law asks for (core/pool_sizing.py), closes those
that were not needed for long, and reconnects with backoff. It decides nothing about rows: a lane asks for room, sends,
and gets every event of its own tags back.

Connections have a role. Probes carry rows with unproven tokens (core/probing.py); the role is a label that may change,
since a vendor dislikes connections that come and go. While no proven row is waiting or was sent lately, probes may use
the normal connections too: there is nobody whom a bad token could stall.

Waits for: the network. Is waited for by: nobody (lanes are rung when room appears).
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.actors.vendor_breaker import VendorBreaker
from gateway.actors.vendor_ceiling import Ceiling
from gateway.actors.vendor_tags import split_by_lane, tag_count
from gateway.clock import Clock
from gateway.columns import I64
from gateway.core.bucket import TokenBucket
from gateway.core.pool_sizing import (
    HEAD_ROOM,
    PATIENCE_S,
    Kind,
    Load,
    Step,
    Surplus,
    connections_wanted,
    next_step,
)
from gateway.core.probing import ProbeWindow, probes_max
from gateway.errors import CloseReason
from gateway.ledger import Reason
from gateway.vendor import Requests
from gateway.wire.h2.events import Answers, Event, Terminated

BACKOFF_FIRST_S = 0.1
#: Apple takes rapid connect and disconnect for an attack; half a minute between tries is slow enough for anybody.
BACKOFF_MAX_S = 30.0
#: A vendor that ends connections as fast as they are opened gets this many, after `connections_max` and these: each
#: costs a handshake on the loop that all apps share. In quiet times all connections may be replaced at once.
OPENS_PER_S = 1.0
OPENS_SPARE = 3
#: How long requests may stay open on a connection that is being replaced.
REPLACE_TIMEOUT_S = 30.0
#: We closed it ourselves, so it says nothing of the vendor.
_WANTED_ENDS = frozenset(
    {CloseReason.SHUTDOWN, CloseReason.IDLE, CloseReason.CREDENTIAL_REPLACED, CloseReason.RECLAIMED}
)
#: A connection takes the next burst when its room is this share of what it has open.
FREE_SHARE = 0.5
#: Probes use normal connections when no proven row was sent for so long: several round trips around the world.
LEND_AFTER_S = 1.0


class Role(enum.IntEnum):
    """What a connection is for, and of which kind the rows of a lane are. A number, since it is looked up per burst."""

    NORMAL = 0
    PROBE = 1


class Connection(Protocol):
    """What the pool needs of `actors/vendor_connection.py`."""

    def capacity(self) -> int:
        """Requests it would take now; 0 while it is not connected, full, or on its way out."""
        ...

    def send(self, requests: Requests, start: int, tags: I64, deadline: float) -> int:
        """Takes the longest prefix of rows start.. that fits; returns how many."""
        ...

    def open_requests(self) -> int:
        """Requests without an answer; 0 while it is not connected."""
        ...

    def is_leaving(self) -> bool:
        """It takes no further request, ever."""
        ...

    def drain(self, timeout_s: float, reason: CloseReason) -> None:
        """No new requests; ends when the open ones have ended."""
        ...

    async def run(self) -> CloseReason:
        """Connects and works until the connection is over."""
        ...


class _Link:
    """A connection with its number. is_open: the peer has said something. has_answered: and answered a request.
    streams: most requests that it has been seen to take. window: how many are risked at once, while probes are among
    them. used_at: when it last took or answered any."""

    __slots__ = (*("connection", "has_answered", "is_open", "number", "role", "streams", "text", "used_at", "window"),)

    def __init__(self, number: int, role: Role) -> None:
        self.number = number
        self.role = role
        self.window: ProbeWindow | None = None
        self.is_open = False
        self.has_answered = False
        self.text = ""
        self.streams = 0
        self.used_at = -math.inf
        self.connection: Connection

    def room(self, role: Role) -> int:
        """Requests of that kind that it would take now."""
        capacity = self.connection.capacity()
        if role is Role.NORMAL or not capacity:
            return capacity
        if self.window is None:
            self.window = ProbeWindow()
        return min(capacity, self.window.room(self.connection.open_requests()))


#: Makes a connection that reports its events to the given callback.
OpenConnection = Callable[[Callable[[object, list[Event]], None]], Connection]


class LanePort(Protocol):
    """What the pool needs of a lane."""

    def on_answers(self, connection: int, events: list[Event]) -> None: ...

    def ring(self) -> None: ...

    @property
    def has_rows(self) -> bool: ...

    @property
    def waiting_rows(self) -> int:
        """Rows that have not left it."""
        ...


class PoolPort(Protocol):
    """What a lane sees of its connections: a pool, or as much of one as its rows may use (`actors/probe_lane.py`)."""

    @property
    def not_before(self) -> float: ...

    @property
    def gate_reason(self) -> Reason: ...

    @property
    def is_ready(self) -> bool: ...

    def add_lane(self, lane: LanePort) -> int: ...

    def capacity(self, wanted: int) -> int: ...

    def send(self, requests: Requests, start: int, tags: I64, deadline: float) -> tuple[int, int]: ...

    def close_gate(self, until: float, reason: Reason) -> None: ...

    def replace_connection(self, number: int) -> None: ...


class PoolObserver(Protocol):
    def connected(self, number: int) -> None: ...

    def closed(self, number: int, reason: CloseReason, text: str) -> None: ...


class PoolStatistics(NamedTuple):
    connections: int
    ready: int
    open_requests: int
    last_close: CloseReason | None
    probe_connections: int


class VendorPool:
    """connections_max: ceiling of this pool; ceiling: of all pools together. idle_s: a connection that was not needed
    for so long is closed. streams_max: requests that one connection takes at most. rate_per_s_max: what the token
    bucket of its lanes lets through."""

    def __init__(
        self,
        *,
        open_connection: OpenConnection,
        connections_max: int,
        idle_s: float,
        clock: Clock,
        observer: PoolObserver,
        breaker: VendorBreaker,
        streams_max: int = 1000,
        rate_per_s_max: float = math.inf,
        ceiling: Ceiling | None = None,
    ) -> None:
        self._open = open_connection
        self._connections_max = connections_max
        self._idle_s = idle_s
        self._clock = clock
        self._observer = observer
        self._streams_max = streams_max
        self._rate_per_s_max = rate_per_s_max
        self._ceiling = ceiling or Ceiling(connections_max)
        self._ceiling.add(self)
        self._lanes: list[LanePort] = []
        self._role_of: list[Role] = []
        self._lanes_of: dict[Role, list[LanePort]] = {role: [] for role in Role}
        now = clock.monotonic()
        self._loads = {role: Load(now) for role in Role}
        self._surplus = {role: Surplus(connections_max, idle_s, now) for role in Role}
        #: Since when the rows of a role have found no room at all.
        self._full_since: dict[Role, float | None] = dict.fromkeys(Role)
        #: The connection whose room a lane of that role was told last.
        self._offered: dict[Role, _Link | None] = dict.fromkeys(Role)
        self._probes_max = probes_max(connections_max)
        self._proven_sent_at = -math.inf
        self._links: dict[int, _Link] = {}
        self._numbers = 0
        self._failures = 0
        self._connect_at = -math.inf
        self._opens = TokenBucket(OPENS_PER_S, connections_max + OPENS_SPARE, now=now)
        self._bell = Bell()
        self.breaker = breaker
        breaker.connect(ring=self._ring_all, in_flight=self._open_requests)
        self._is_draining = False
        #: A connection is wanted before there are rows.
        self._is_ahead = False
        #: The first connection is there, or has failed.
        self._has_tried = trio.Event()
        self._all_closed = trio.Event()
        self._last_close: CloseReason | None = None
        #: The vendor wants nothing from this app before this time (monotonic), and why.
        self.not_before = -math.inf
        self.gate_reason = Reason.NONE

    def add_lane(self, lane: LanePort, role: Role = Role.NORMAL) -> int:
        """The lane's number in tags. role: of its rows."""
        self._lanes.append(lane)
        self._role_of.append(role)
        self._lanes_of[role].append(lane)
        return len(self._lanes) - 1

    # -- used by lanes

    def capacity(self, wanted: int, role: Role = Role.NORMAL) -> int:
        """Requests that one connection would take now. Rings the pool when there is none.

        A connection that is nearly full counts as full while more is wanted than it has room for: its answers are on
        their way, and one burst for many freed streams costs a fraction of many bursts for a few.
        """
        best, link = self._roomiest(role)
        self._offered[role] = link
        if best == 0 or link is None:
            is_new = self._full_since[role] is None
            if is_new:
                self._full_since[role] = self._clock.monotonic()
            if len(self._links) < self._connections_max or (is_new and self._has_probes()):
                self._bell.ring()
            return 0
        self._full_since[role] = None
        if best < wanted and best < link.connection.open_requests() * FREE_SHARE:
            return 0
        return self.breaker.room(best)

    def send(
        self, requests: Requests, start: int, tags: I64, deadline: float, role: Role = Role.NORMAL
    ) -> tuple[int, int]:
        """(requests taken, number of the connection that took them); the one with most room is asked, which is the
        one whose room the lane was just told."""
        link = self._offered[role]
        self._offered[role] = None
        best = 0 if link is None else link.room(role)
        if not best:
            best, link = self._roomiest(role)
        if link is None:
            self._bell.ring()
            return 0, -1
        room = self.breaker.room(len(tags) if role is Role.NORMAL else best)
        taken = link.connection.send(requests, start, tags[:room], deadline)
        self.breaker.sent(taken)
        if taken:
            now = link.used_at = self._clock.monotonic()
            if role is Role.NORMAL:
                link.window = None if link.role is Role.NORMAL else link.window
                self._proven_sent_at = now
            load = self._loads[role]
            load.on_sent(taken, now)
            # Before the last stream is taken: the next connection should be there by then.
            if len(self._links) < self._connections_max and load.in_flight * HEAD_ROOM > self._room_of(role):
                self._bell.ring()
        return taken, link.number

    def _room_of(self, role: Role) -> int:
        """Requests that the connections of that role take together, as far as is known."""
        return self._streams() * sum(link.role is role for link in self._links.values())

    def _roomiest(self, role: Role) -> tuple[int, _Link | None]:
        """The connection for rows of that kind with most room for them."""
        is_lent = role is Role.PROBE and self._may_lend()
        best, chosen = 0, None
        # A plain loop: asked several times per burst, and of a few connections.
        for link in self._links.values():
            if link.role is role or is_lent:
                room = link.room(role)
                if room > best or chosen is None:
                    best, chosen = room, link
        return best, chosen

    def _has_probes(self) -> bool:
        """With all connections open that may be, one of them can still change its role, where there are two."""
        return bool(self._lanes_of[Role.PROBE])

    def _may_lend(self) -> bool:
        """Probes may use normal connections: no proven row would feel it."""
        is_quiet = self._clock.monotonic() - self._proven_sent_at >= LEND_AFTER_S
        return is_quiet and not any(lane.has_rows for lane in self._lanes_of[Role.NORMAL])

    def close_gate(self, until: float, reason: Reason) -> None:
        """No lane of this app sends to the vendor before `until`."""
        if until > self.not_before:
            self.not_before, self.gate_reason = until, reason
        for lane in self._lanes:
            lane.ring()

    def replace_connection(self, number: int) -> None:
        """The connection drains and another one may be opened: it is of no more use to us."""
        link = self._links.get(number)
        if link is not None:
            link.connection.drain(REPLACE_TIMEOUT_S, CloseReason.CREDENTIAL_REPLACED)
        self._bell.ring()

    @property
    def is_ready(self) -> bool:
        return any(link.is_open for link in self._links.values())

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            connections=len(self._links),
            ready=sum(link.is_open for link in self._links.values()),
            open_requests=self._open_requests(),
            last_close=self._last_close,
            probe_connections=sum(link.role is Role.PROBE for link in self._links.values()),
        )

    def _open_requests(self) -> int:
        return sum(link.connection.open_requests() for link in self._links.values())

    def _ring_all(self) -> None:
        self._bell.ring()
        for lane in self._lanes:
            lane.ring()

    # -- events

    def _on_events(self, link: _Link, events: list[Event]) -> None:
        """Called by a connection's reader; every event goes to the lanes whose tags it carries."""
        if not link.is_open and not isinstance(events[0], Terminated):
            link.is_open = True
            self._has_tried.set()
            self._observer.connected(link.number)
        if not link.has_answered and any(isinstance(event, Answers) for event in events):
            link.has_answered = True
            self._failures = 0
        if link.window is not None:
            for event in events:
                if isinstance(event, Answers):
                    accepted = int(np.count_nonzero(event.status == 200))
                    link.window.on_answers(accepted, len(event.status) - accepted)
        if isinstance(events[-1], Terminated):
            link.text = events[-1].text
        now = link.used_at = self._clock.monotonic()
        if len(self._lanes) == 1:
            self._loads[self._role_of[0]].on_ended(sum(map(tag_count, events)), now)
            self._lanes[0].on_answers(link.number, events)
            events = []
        for event in events:
            for lane, part in split_by_lane(event):
                self._loads[self._role_of[lane]].on_ended(tag_count(part), now)
                self._lanes[lane].on_answers(link.number, [part])
        for lane_port in self._lanes:
            if lane_port.has_rows:
                lane_port.ring()

    # -- the actor

    async def run(self) -> None:
        """Keeps connections until cancelled. If cancelled: they are closed and their open requests reported."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._retire_surplus)
                while True:
                    await self._open_next(nursery)
        finally:
            self._ceiling.withdraw(self)

    async def _open_next(self, nursery: trio.Nursery) -> None:
        """Opens what is wanted now, or waits until that may have changed."""
        self.breaker.check_deadline()
        now = self._clock.monotonic()
        role = self._role_to_open(now)
        begin_at = max(self._connect_at, self._opens.next_deadline() or -math.inf)
        if role is not None and now >= begin_at:
            if self._ceiling.take(self, now):
                self._opens.take(now, 1)
                self._start(nursery.start_soon, role, now)
                return
        else:
            self._ceiling.withdraw(self)
        if role is not None and now < begin_at:
            await trio.sleep(begin_at - now)
            return
        with self._clock.move_on_at(self._look_again_at(now)):
            await self._bell.wait()

    async def open_ahead(self) -> None:
        """There is a connection before the first row, or it has failed. If cancelled: it comes when it can."""
        self._is_ahead = True
        self._bell.ring()
        await self._has_tried.wait()

    async def drain(self, timeout_s: float) -> None:
        """No further requests; returns when the open ones have ended and the connections closed, or the time is up."""
        self._is_draining = True
        for link in self._links.values():
            link.connection.drain(timeout_s, CloseReason.SHUTDOWN)
        if self._links:
            with trio.move_on_after(timeout_s):
                await self._all_closed.wait()

    def _role_to_open(self, now: float) -> Role | None:
        """The role of which a connection is to be opened now. Where all that may be are open, one may change its role
        instead; that is done here and now."""
        if self._is_draining or now < self.not_before or not self.breaker.may_connect:
            return None
        if self._is_ahead and not self._links:
            return Role.NORMAL
        kinds = {role: self._kind(role, now) for role in Role}
        for role, other in ((Role.NORMAL, Role.PROBE), (Role.PROBE, Role.NORMAL)):
            match next_step(kinds[role], kinds[other], self._connections_max):
                case Step.OPEN:
                    return role
                case Step.TAKE_OVER:
                    self._take_over(role, now)
                case _:
                    pass
        return None

    def _kind(self, role: Role, now: float) -> Kind:
        links = [link for link in self._links.values() if link.role is role and not link.connection.is_leaving()]
        wanted = self._wanted(role, now)
        self._surplus[role].on_wanted(wanted, now)
        if role is Role.PROBE and self._may_lend():
            wanted = max(0, wanted - sum(link.role is Role.NORMAL for link in self._links.values()))
        full_since = self._full_since[role]
        has_rows = any(lane.has_rows for lane in self._lanes_of[role])
        if not has_rows:
            self._full_since[role] = full_since = None
        return Kind(
            connections=len(links),
            on_the_way=sum(not link.is_open for link in links),
            wanted=wanted,
            starved_s=now - full_since if has_rows and full_since is not None else 0.0,
            most=self._probes_max if role is Role.PROBE else self._connections_max,
            due=self._probes_max if role is Role.PROBE else self._connections_max - self._probes_max,
        )

    def _wanted(self, role: Role, now: float) -> int:
        """Connections of that role by Little's law."""
        load = self._loads[role]
        load.measure(now)
        return connections_wanted(
            rate_per_s=load.rate_per_s,
            latency_s=load.latency_s,
            in_flight=load.in_flight,
            waiting=self.breaker.room(sum(lane.waiting_rows for lane in self._lanes_of[role])),
            streams=self._streams(),
            rate_per_s_max=self._rate_per_s_max,
        )

    def _streams(self) -> int:
        """Requests that one connection takes, as far as is known: one that has answered says so."""
        known = 0
        for link in self._links.values():
            if link.has_answered:
                room = link.connection.capacity() + link.connection.open_requests()
                link.streams = max(link.streams, min(room, self._streams_max))
                known = max(known, link.streams)
        return known or self._streams_max

    def _look_again_at(self, now: float) -> float:
        """When patience with full connections ends, the gate opens or the breaker moves; else the bell rings."""
        ends = [since + PATIENCE_S for since in self._full_since.values() if since is not None]
        ends += [self.not_before, self.breaker.next_deadline()]
        return min((end for end in ends if end > now), default=math.inf)

    def _take_over(self, role: Role, now: float) -> None:
        """The least busy connection of the other role gets this one."""
        others = [link for link in self._links.values() if link.role is not role and not link.connection.is_leaving()]
        min(others, key=lambda link: link.connection.open_requests()).role = role
        self._full_since[role] = None
        self._offered = dict.fromkeys(Role)
        for lane in self._lanes_of[role]:
            lane.ring()

    def _start(self, start_soon: Callable[..., None], role: Role, now: float) -> None:
        self._numbers += 1
        self._is_ahead = False
        link = _Link(self._numbers, role)
        link.used_at = now
        link.connection = self._open(lambda _connection, events: self._on_events(link, events))
        self._links[link.number] = link
        # Patience begins anew: the next one waits until this one is full too.
        self._full_since = dict.fromkeys(Role)
        self._surplus[role].on_wanted(sum(one.role is role for one in self._links.values()), now)
        start_soon(self._run_link, link)

    # -- used by the ceiling of all pools

    def quietest(self) -> tuple[float, int] | None:
        """(when it was last used, number) of the connection without requests that was used longest ago; None where
        each has some, or rows wait for them."""
        if any(lane.has_rows for lane in self._lanes):
            return None
        return min(
            (
                (link.used_at, link.number)
                for link in self._links.values()
                if link.is_open and not link.connection.is_leaving() and not link.connection.open_requests()
            ),
            default=None,
        )

    def spare(self) -> int:
        """Connections beyond the first."""
        return sum(not link.connection.is_leaving() for link in self._links.values()) - 1

    def has_none(self) -> bool:
        return not self._links

    def reclaim(self, number: int | None = None) -> bool:
        """That connection, or the least busy one, is let go for the sake of another app; False where none is open."""
        ready = [link for link in self._links.values() if link.is_open and not link.connection.is_leaving()]
        chosen = [link for link in ready if number is None or link.number == number]
        if chosen:
            min(chosen, key=lambda link: link.connection.open_requests()).connection.drain(
                REPLACE_TIMEOUT_S, CloseReason.RECLAIMED
            )
        return bool(chosen)

    def ring(self) -> None:
        self._bell.ring()

    async def _run_link(self, link: _Link) -> None:
        reason = CloseReason.INTERNAL_ERROR
        try:
            reason = await link.connection.run()
        finally:
            del self._links[link.number]
            self._has_tried.set()
            self._ceiling.give_back()
            now = self._clock.monotonic()
            if not link.has_answered and now >= self._connect_at:
                # Also one that connected and died before its first answer: that must not become a storm either. Those
                # that end while another try is being waited for are one failure with it.
                self._failures += 1
                # Bounded before it is computed: a vendor may be away for longer than a float has powers of two.
                backoff_s = min(BACKOFF_FIRST_S * 2.0 ** min(self._failures - 1, 30), BACKOFF_MAX_S)
                # Jitter from half to the whole, so that many pools do not knock together.
                self._connect_at = now + backoff_s * random.uniform(0.5, 1.0)
            self._last_close = reason
            self._observer.closed(link.number, reason, link.text)
            if not link.has_answered and reason not in _WANTED_ENDS:
                self.breaker.connect_failed()
            if self._is_draining and not self._links:
                self._all_closed.set()
            self._ring_all()

    async def _retire_surplus(self) -> None:
        """Lets go of connections that were not needed for `idle_s`, the least busy first."""
        while True:
            await trio.sleep(min(self._idle_s / 4, 15.0))
            now = self._clock.monotonic()
            for role, surplus in self._surplus.items():
                links = [
                    link for link in self._links.values() if link.role is role and not link.connection.is_leaving()
                ]
                surplus.on_wanted(self._wanted(role, now), now)
                surplus.on_wanted(1, max((link.used_at for link in links), default=-math.inf))
                links.sort(key=lambda link: (link.connection.open_requests(), link.used_at), reverse=True)
                while surplus.is_surplus(len(links), now):
                    links.pop().connection.drain(REPLACE_TIMEOUT_S, CloseReason.IDLE)
