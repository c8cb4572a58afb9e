"""Router: presence x strategy -> the way of each row. A decision over one slice of a batch; no I/O, no moves.

    find devices -> presence, channel, token -> one table look-up per row -> rows by way

A slice is a few thousand rows, so that a step stays short; what is looked up here is looked up once per row.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from gateway.columns import I32, U8, U32, Bool, Rows
from gateway.content import Class, Priority
from gateway.core.device_answers import Routing
from gateway.core.devices import DeviceTable
from gateway.core.options import Options
from gateway.core.records import FLAG_BLOCKED
from gateway.core.strategy import Route, after_long_link_failure, after_vendor_failure, decide
from gateway.ledger import Channel, LedgerPage, Reason, State


class Devices(Protocol):
    """What the router needs of the device table."""

    def locate(self, ids: U8, app_index: int) -> tuple[I32, Routing]:
        """(n,) row of each device, -1 unknown, and what is known of it."""
        ...


class VendorRows(NamedTuple):
    """Rows for one lane, of one priority."""

    channel: Channel
    class_: Class
    priority: Priority
    rows: Rows


class Routed(NamedTuple):
    """Rows of one slice by way; each row stands in exactly one column.

    fds, generations: where the devices of `long_link` are connected.
    """

    long_link: Rows
    fds: I32
    generations: U32
    vendor: list[VendorRows]
    inbox: Rows
    dropped: list[tuple[Reason, Rows]]
    failed: Rows
    expired: Rows


_DROP_REASONS = {
    Route.DROP_NO_CHANNEL: Reason.NO_CHANNEL,
    Route.DROP_UNKNOWN: Reason.UNKNOWN_DEVICE,
    Route.DROP_OFFLINE: Reason.DEVICE_OFFLINE,
    Route.DROP_BLOCKED: Reason.DEVICE_BLOCKED,
    Route.DROP_CLOSED: Reason.NOTIFICATIONS_CLOSED,
}


class _Facts(NamedTuple):
    """What is known of the devices of k rows; columns (k,). kinds: class << 1 | priority, one number where the rows
    share it."""

    is_known: Bool
    is_online: Bool
    has_token: Bool
    channels: U8
    fds: I32
    generations: U32
    filters: U8
    strategies: U8
    is_now_or_never: Bool
    kinds: U8 | int


def _look_up(
    page: LedgerPage, rows: Rows, devices: Devices, options: Options, has_lane: Bool, span: slice | None = None
) -> _Facts:
    """span: the same rows, where they are neighbours in order."""
    batch = page.batch
    if span is None:
        page.slots[rows], found = devices.locate(batch.device_ids.take(rows, axis=0), batch.app)
    else:
        page.slots[span], found = devices.locate(batch.device_ids[span], batch.app)
    kinds: U8 | int
    if batch.variant_index is None:
        # One variant: what it says is a number, or a row of the table by channel.
        strategies = options.strategies[0].take(found.channel)
        is_now_or_never = np.full(len(rows), options.is_now_or_never[0])
        kinds = int(options.classes[0]) << 1 | int(options.priorities[0])
    else:
        index = options.variant_index(batch, rows)
        strategies = options.strategies[index, found.channel]
        is_now_or_never = options.is_now_or_never[index]
        kinds = options.kinds(index)
    return _Facts(
        is_known=found.is_known,
        is_online=found.is_online,
        has_token=found.has_token & has_lane.take(found.channel),
        channels=found.channel,
        fds=found.fd,
        generations=found.generation,
        filters=found.filters,
        strategies=strategies,
        is_now_or_never=is_now_or_never,
        kinds=kinds,
    )


def route(
    page: LedgerPage, rows: Rows, devices: Devices, options: Options, has_lane: Bool, span: slice | None = None
) -> Routed:
    """The first way of queued rows. has_lane: (channels,) bool, which channels this app has lanes for. span: the same
    rows, where they are neighbours in order: their columns need not be gathered."""
    batch = page.batch
    if batch.channels is not None:
        is_token = batch.channels[rows] != 0
        if is_token.any():
            return _route_tokens(page, rows, is_token, devices, options, has_lane)
    return _route_devices(page, rows, devices, options, has_lane, span)


def _route_tokens(
    page: LedgerPage, rows: Rows, is_token: Bool, devices: Devices, options: Options, has_lane: Bool
) -> Routed:
    """Rows whose target is a token go to that vendor, whatever the strategy: nobody said which device it is."""
    batch = page.batch
    targets = rows[is_token]
    assert batch.channels is not None
    index = options.variant_index(batch, targets)
    # What no vendor may show has no way to a token.
    is_for_vendors = options.is_for_vendors[index]
    dropped = [] if is_for_vendors.all() else [(Reason.NO_CHANNEL, targets[~is_for_vendors])]
    targets, index = targets[is_for_vendors], index[is_for_vendors]
    vendor = by_lane(targets, batch.channels[targets], options.kinds(index))
    rest = rows[~is_token]
    if not len(rest):
        empty = _sort(rest, np.zeros(0, np.uint8), None)
        return empty._replace(vendor=vendor, dropped=dropped)
    routed = _route_devices(page, rest, devices, options, has_lane)
    return routed._replace(vendor=vendor + routed.vendor, dropped=dropped + routed.dropped)


def _route_devices(
    page: LedgerPage, rows: Rows, devices: Devices, options: Options, has_lane: Bool, span: slice | None = None
) -> Routed:
    facts = _look_up(page, rows, devices, options, has_lane, span)
    routes = decide(
        facts.strategies,
        is_known=facts.is_known,
        is_online=facts.is_online,
        has_token=facts.has_token,
        ttl_zero=facts.is_now_or_never,
    )
    if np.count_nonzero(facts.filters):
        routes[facts.filters != 0] = Route.DROP_CLOSED
        routes[(facts.filters & FLAG_BLOCKED) != 0] = Route.DROP_BLOCKED
    return _sort(rows, routes, facts)


def reroute_after_vendor(page: LedgerPage, rows: Rows, devices: Devices, options: Options, has_lane: Bool) -> Routed:
    """The next way of rows that a vendor finally did not take. Rows with a token target fail."""
    batch = page.batch
    facts = _look_up(page, rows, devices, options, has_lane)
    routes = after_vendor_failure(facts.strategies, is_online=facts.is_online, ttl_zero=facts.is_now_or_never)
    routes[~facts.is_known] = Route.FAIL
    if batch.channels is not None:
        routes[batch.channels[rows] != 0] = Route.FAIL
    return _sort(rows, routes, facts)


def reroute_after_long_link(page: LedgerPage, rows: Rows, devices: Devices, options: Options, has_lane: Bool) -> Routed:
    """The next way of rows that a socket took and nobody acknowledged."""
    facts = _look_up(page, rows, devices, options, has_lane)
    routes = after_long_link_failure(facts.strategies, has_token=facts.has_token, ttl_zero=facts.is_now_or_never)
    return _sort(rows, routes, facts)


def reroute_offline(page: LedgerPage, rows: Rows, devices: Devices, options: Options, has_lane: Bool) -> Routed:
    """The way of rows whose device seemed online but whose socket would not take them."""
    facts = _look_up(page, rows, devices, options, has_lane)
    routes = decide(
        facts.strategies,
        is_known=facts.is_known,
        is_online=np.zeros(len(rows), np.bool_),
        has_token=facts.has_token,
        ttl_zero=facts.is_now_or_never,
    )
    return _sort(rows, routes, facts)


_TWO_BITS = np.uint16(2)
#: As numbers of their columns' types.
_CODES = [np.uint8(which) for which in Route]
_QUEUED = np.uint8(State.QUEUED)
assert not State.QUEUED, "queued rows are those whose state is zero"
_NO_FDS: I32 = np.zeros(0, np.int32)
_NO_GENERATIONS: U32 = np.zeros(0, np.uint32)


def _sort(rows: Rows, routes: U8, facts: _Facts | None) -> Routed:
    counts = np.bincount(routes, minlength=len(Route)).tolist()
    none = rows[:0]

    def at(which: Route) -> Rows:
        # Not the enum member: comparing a column with one costs ten times as much as with a number of its own type.
        return (routes == _CODES[which]).nonzero()[0] if counts[which] else none

    online = at(Route.LONG_LINK)
    vendor: list[VendorRows] = []
    if counts[Route.VENDOR] and facts is not None:
        to_vendor = at(Route.VENDOR)
        kinds = facts.kinds if isinstance(facts.kinds, int) else facts.kinds[to_vendor]
        vendor = by_lane(rows[to_vendor], facts.channels[to_vendor], kinds)
    return Routed(
        long_link=rows[online],
        fds=_NO_FDS if facts is None else facts.fds[online],
        generations=_NO_GENERATIONS if facts is None else facts.generations[online],
        vendor=vendor,
        inbox=rows[at(Route.INBOX)] if counts[Route.INBOX] else none,
        dropped=[(reason, rows[at(drop)]) for drop, reason in _DROP_REASONS.items() if counts[drop]],
        failed=rows[at(Route.FAIL)] if counts[Route.FAIL] else none,
        expired=rows[at(Route.EXPIRE)] if counts[Route.EXPIRE] else none,
    )


def by_lane(rows: Rows, channels: U8, kinds: U8 | int) -> list[VendorRows]:
    """Rows grouped by channel, class and priority; a handful of groups, each in order. kinds: as in `_Facts`."""
    if not len(rows):
        return []
    if isinstance(kinds, int):
        codes, shift, kind = channels, 0, kinds
    else:
        codes, shift, kind = channels.astype(np.uint16) << _TWO_BITS | kinds, 2, 0
    present = np.bincount(codes).nonzero()[0].tolist()
    if len(present) == 1:
        return [_vendor_rows(present[0], shift, kind, rows)]
    return [_vendor_rows(code, shift, kind, rows[codes == codes.dtype.type(code)]) for code in present]


def _vendor_rows(code: int, shift: int, kind: int, rows: Rows) -> VendorRows:
    kind |= code & (1 << shift) - 1
    return VendorRows(Channel(code >> shift), Class(kind >> 1), Priority(kind & 1), rows)


def live_rows(page: LedgerPage, first: int, stop: int) -> Rows:
    """Rows first..stop that are still queued (duplicates and cancelled rows are not), and not with another worker."""
    rows = np.arange(first, stop)
    states = page.state[first:stop]
    rows = rows if not np.count_nonzero(states) else rows[states == _QUEUED]
    return rows if page.away is None else rows[page.away[rows] == 0]


def slots_of(devices: DeviceTable, page: LedgerPage, rows: Rows, channel: Channel) -> I32:
    """Where the devices of these rows are now: by id, or by token where the target is a token."""
    batch = page.batch
    slots = devices.find(batch.device_ids.take(rows, axis=0), batch.app)
    if batch.channels is not None and batch.tokens is not None:
        by_token = np.flatnonzero(batch.channels[rows] != 0)
        slots[by_token] = devices.find_tokens(channel, batch.tokens.take(rows[by_token]), batch.app)
    return slots
