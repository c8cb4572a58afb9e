"""VendorPool: the connections of one (app, vendor) credential, shared by that vendor's lanes.

Keeps at least one connection while there is work, opens another when all are full, closes those that were idle for
long, and reconnects with backoff. It decides nothing about rows: a lane asks for room, sends, and gets every event of
its own tags back.

Connections have a role. Probes carry rows with unproven tokens (core/probing.py); the role is a label that may change,
since a vendor dislikes connections that come and go. While no proven row is waiting or was sent lately, probes may use
the normal connections too: there is nobody whom a bad token could stall.

A tag is `lane << 48 | burst << 16 | position`, so events find their lane and burst without a table per stream.

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
from gateway.clock import Clock
from gateway.columns import I64, Rows
from gateway.core.probing import ProbeWindow, probes_max
from gateway.errors import CloseReason
from gateway.ledger import Reason
from gateway.vendor import Requests
from gateway.wire.h2.events import Answers, Event, Refused, Reset, Terminated, TimedOut

_LANE_SHIFT = 48
BACKOFF_FIRST_S = 0.1
#: Apple takes rapid connect and disconnect for an attack; half a minute between tries is slow enough for anybody.
BACKOFF_MAX_S = 30.0
#: How long requests may stay open on a connection that is being replaced.
REPLACE_TIMEOUT_S = 30.0
#: A connection takes the next burst when its room is this share of what it has open.
FREE_SHARE = 0.5
#: Probes use normal connections when no proven row was sent for so long: several round trips around the world.
LEND_AFTER_S = 1.0


class Role(enum.Enum):
    """What a connection is for, and of which kind the rows of a lane are."""

    NORMAL = "normal"
    PROBE = "probe"


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

    def drain(self, timeout_s: float, reason: CloseReason) -> None:
        """No new requests; ends when the open ones have ended."""
        ...

    async def run(self) -> CloseReason:
        """Connects and works until the connection is over."""
        ...


class _Link:
    """A connection with its number. is_open: the peer has said something. has_answered: and answered a request.
    window: how many requests are risked at once, while probes are among them."""

    __slots__ = ("connection", "has_answered", "idle_since", "is_open", "number", "role", "text", "window")

    def __init__(self, number: int, role: Role) -> None:
        self.number = number
        self.role = role
        self.window: ProbeWindow | None = None
        self.is_open = False
        self.has_answered = False
        self.text = ""
        self.idle_since = math.inf
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
    """connections_max: ceiling; idle_s: a connection without requests for so long is closed."""

    def __init__(
        self,
        *,
        open_connection: OpenConnection,
        connections_max: int,
        idle_s: float,
        clock: Clock,
        observer: PoolObserver,
    ) -> None:
        self._open = open_connection
        self._connections_max = connections_max
        self._idle_s = idle_s
        self._clock = clock
        self._observer = observer
        self._lanes: list[LanePort] = []
        self._lanes_of: dict[Role, list[LanePort]] = {role: [] for role in Role}
        self._probes_max = probes_max(connections_max)
        self._proven_sent_at = -math.inf
        self._links: dict[int, _Link] = {}
        self._numbers = 0
        self._failures = 0
        self._connect_at = -math.inf
        self._bell = Bell()
        self._is_draining = False
        self._all_closed = trio.Event()
        self._last_close: CloseReason | None = None
        #: The vendor wants nothing from this app before this time (monotonic), and why.
        self.not_before = -math.inf
        self.gate_reason = Reason.NONE

    def add_lane(self, lane: LanePort, role: Role = Role.NORMAL) -> int:
        """The lane's number in tags. role: of its rows."""
        self._lanes.append(lane)
        self._lanes_of[role].append(lane)
        return len(self._lanes) - 1

    # -- used by lanes

    def capacity(self, wanted: int, role: Role = Role.NORMAL) -> int:
        """Requests that one connection would take now. Rings the pool when there is none.

        A connection that is nearly full counts as full while more is wanted than it has room for: its answers are on
        their way, and one burst for many freed streams costs a fraction of many bursts for a few.
        """
        best, link = self._roomiest(role)
        if best == 0 or link is None:
            if self._wanted_role() is not None:
                self._bell.ring()
            return 0
        if best < wanted and best < link.connection.open_requests() * FREE_SHARE:
            return 0
        return best

    def send(
        self, requests: Requests, start: int, tags: I64, deadline: float, role: Role = Role.NORMAL
    ) -> tuple[int, int]:
        """(requests taken, number of the connection that took them); the one with most room is asked."""
        best, link = self._roomiest(role)
        if link is None:
            self._bell.ring()
            return 0, -1
        taken = link.connection.send(requests, start, tags if role is Role.NORMAL else tags[:best], deadline)
        link.idle_since = math.inf
        if role is Role.NORMAL and taken:
            link.window = None if link.role is Role.NORMAL else link.window
            self._proven_sent_at = self._clock.monotonic()
        return taken, link.number

    def _roomiest(self, role: Role) -> tuple[int, _Link | None]:
        """The connection for rows of that kind with most room for them."""
        is_lent = role is Role.PROBE and self._may_lend()
        return max(
            ((link.room(role), link) for link in self._links.values() if link.role is role or is_lent),
            default=(0, None),
            key=_room,
        )

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
            open_requests=sum(link.connection.open_requests() for link in self._links.values()),
            last_close=self._last_close,
            probe_connections=sum(link.role is Role.PROBE for link in self._links.values()),
        )

    # -- events

    def _on_events(self, link: _Link, events: list[Event]) -> None:
        """Called by a connection's reader; every event goes to the lanes whose tags it carries."""
        if not link.is_open and not isinstance(events[0], Terminated):
            link.is_open = True
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
        if len(self._lanes) == 1:
            self._lanes[0].on_answers(link.number, events)
        else:
            for event in events:
                for lane, part in _split_by_lane(event):
                    self._lanes[lane].on_answers(link.number, [part])
        for lane_port in self._lanes:
            if lane_port.has_rows:
                lane_port.ring()

    # -- the actor

    async def run(self) -> None:
        """Keeps connections until cancelled. If cancelled: they are closed and their open requests reported."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._retire_idle)
            while True:
                role = self._wanted_role()
                if role is not None:
                    now = self._clock.monotonic()
                    if now < self._connect_at:
                        await trio.sleep(self._connect_at - now)
                        continue
                    self._start(nursery.start_soon, role)
                    continue
                await self._bell.wait()

    async def drain(self, timeout_s: float) -> None:
        """No further requests; returns when the open ones have ended and the connections closed, or the time is up."""
        self._is_draining = True
        for link in self._links.values():
            link.connection.drain(timeout_s, CloseReason.SHUTDOWN)
        if self._links:
            with trio.move_on_after(timeout_s):
                await self._all_closed.wait()

    def _wanted_role(self) -> Role | None:
        """Another connection is opened when there are rows, no room for them anywhere, and none is on its way. With
        all connections open that may be, one of them changes its role instead."""
        links = self._links.values()
        if self._is_draining or not all(link.is_open for link in links):
            return None
        for role in Role:
            ours = [link for link in links if link.role is role]
            if role is Role.PROBE and len(ours) >= self._probes_max:
                continue
            if not any(lane.has_rows for lane in self._lanes_of[role]) or any(link.room(role) for link in ours):
                continue
            if len(links) < self._connections_max:
                return role
            self._relabel(role, [link for link in links if link.role is not role])
        return None

    def _relabel(self, role: Role, others: list[_Link]) -> None:
        """The least busy of the other connections gets this role. A probe only while no row waits for one."""
        if not others or (role is Role.NORMAL and any(lane.has_rows for lane in self._lanes_of[Role.PROBE])):
            return
        min(others, key=lambda link: link.connection.open_requests()).role = role
        for lane in self._lanes_of[role]:
            lane.ring()

    def _start(self, start_soon: Callable[..., None], role: Role) -> None:
        self._numbers += 1
        link = _Link(self._numbers, role)
        link.connection = self._open(lambda _connection, events: self._on_events(link, events))
        self._links[link.number] = link
        start_soon(self._run_link, link)

    async def _run_link(self, link: _Link) -> None:
        reason = CloseReason.INTERNAL_ERROR
        try:
            reason = await link.connection.run()
        finally:
            del self._links[link.number]
            if not link.has_answered:
                # Also one that connected and died before its first answer: that must not become a storm either.
                self._failures += 1
                backoff_s = min(BACKOFF_FIRST_S * 2 ** (self._failures - 1), BACKOFF_MAX_S)
                # Jitter from half to the whole, so that many pools do not knock together.
                self._connect_at = self._clock.monotonic() + backoff_s * random.uniform(0.5, 1.0)
            self._last_close = reason
            self._observer.closed(link.number, reason, link.text)
            if self._is_draining and not self._links:
                self._all_closed.set()
            self._bell.ring()
            for lane in self._lanes:
                lane.ring()

    async def _retire_idle(self) -> None:
        while True:
            await trio.sleep(min(self._idle_s / 4, 15.0))
            now = self._clock.monotonic()
            for link in self._links.values():
                if not link.is_open or link.connection.open_requests():
                    link.idle_since = math.inf
                    continue
                link.idle_since = min(link.idle_since, now)
                if now - link.idle_since >= self._idle_s:
                    link.connection.drain(REPLACE_TIMEOUT_S, CloseReason.IDLE)


def _room(candidate: tuple[int, _Link | None]) -> int:
    return candidate[0]


def make_tags(lane: int, burst: int, count: int) -> I64:
    """Tags of a burst's requests, in order of position."""
    return np.arange(count, dtype=np.int64) | np.int64(lane << _LANE_SHIFT | burst << 16)


def split_by_burst(tags: I64) -> list[tuple[int, Rows, Rows]]:
    """(burst, positions in the event, positions in the burst) for each burst among the tags of one lane."""
    places: Rows = tags & 0xFFFF
    if len(tags) and not _differing_bits(tags) >> 16:
        return [(int(tags[0]) >> 16 & 0xFFFFFFFF, np.arange(len(tags)), places)]
    bursts = (tags >> 16) & 0xFFFFFFFF
    return [
        (int(burst), indexes, places[indexes])
        for burst in np.unique(bursts)
        for indexes in (np.flatnonzero(bursts == burst),)
    ]


def _split_by_lane(event: Event) -> list[tuple[int, Event]]:
    """The event in one part per lane; events without tags concern no lane."""
    match event:
        case Answers(tags=tags) | Refused(tags=tags) | Reset(tags=tags) | TimedOut(tags=tags) if _has_one_lane(tags):
            return [(int(tags[0]) >> _LANE_SHIFT, event)]
        case Answers(tags=tags, status=status, details=details):
            parts: list[tuple[int, Event]] = []
            for lane, where in _lanes_of(tags):
                places = {int(old): new for new, old in enumerate(where)} if details else {}
                kept = {places[old]: detail for old, detail in details.items() if old in places}
                parts.append((lane, Answers(tags[where], status[where], kept)))
            return parts
        case Refused(tags=tags) | Reset(tags=tags) | TimedOut(tags=tags):
            return [(lane, event._replace(tags=tags[where])) for lane, where in _lanes_of(tags)]
        case Terminated(refused=refused, uncertain=uncertain):
            lanes = {lane for lane, _ in (*_lanes_of(refused), *_lanes_of(uncertain))}
            return [
                (
                    lane,
                    event._replace(
                        refused=refused[refused >> _LANE_SHIFT == lane],
                        uncertain=uncertain[uncertain >> _LANE_SHIFT == lane],
                    ),
                )
                for lane in lanes
            ]
        case _:
            return []


def _has_one_lane(tags: I64) -> bool:
    """True for the usual event, which needs no splitting."""
    return len(tags) > 0 and not _differing_bits(tags) >> _LANE_SHIFT


def _differing_bits(tags: I64) -> int:
    """The bits in which any of the tags differs from the first; two array calls tell about lane and burst."""
    return int(np.bitwise_or.reduce(tags ^ tags[0]))


def _lanes_of(tags: I64) -> list[tuple[int, Rows]]:
    lanes = tags >> _LANE_SHIFT
    if len(lanes) and bool((lanes == lanes[0]).all()):
        return [(int(lanes[0]), np.arange(len(lanes)))]
    return [(int(lane), np.flatnonzero(lanes == lane)) for lane in np.unique(lanes)]
