"""The way down: many rows to connected devices in one call, and what became of them. Part of the long-link actor.

A row that is taken has an entry in `InFlight` until its PUBACK, the end of its connection, or its time is up. Nothing
here waits; a row for which there is no room is not taken, and counted under the limit that stood in its way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from gateway.actors.long_link_port import LongLinkSettings
from gateway.columns import (
    I32,
    I64,
    U8,
    U16,
    U32,
    Bool,
    Pieces,
    Rows,
    fixed_rows,
    hex_lower,
    pieces_lengths,
    pieces_width,
    take_pieces,
)
from gateway.net.edge import Edge
from gateway.net.edge_table import (
    FLAG_ALIAS,
    FLAG_ALIAS_SET,
    FLAG_MQTT_5,
    FLAG_QOS_1,
    FLAG_SUBSCRIBED,
    NO_PACKET_BYTES_MAX,
    ConnectionTable,
    Count,
)
from gateway.wire.mqtt.in_flight import InFlight, Settled
from gateway.wire.mqtt.publish import publish_lengths, publish_packets, publish_properties

_ONE = np.uint16(1)
_NO_TAGS = np.zeros(0, np.int64)
#: What decides over the form of a PUBLISH. 3.1.1 with QoS 1 comes first: a call of such rows alone is one group.
_KIND = np.uint8(FLAG_SUBSCRIBED | FLAG_QOS_1 | FLAG_MQTT_5 | FLAG_ALIAS | FLAG_ALIAS_SET)
_ALIASED = FLAG_MQTT_5 | FLAG_ALIAS
_ALIAS_BITS = FLAG_ALIAS | FLAG_ALIAS_SET
_KINDS = tuple(
    FLAG_SUBSCRIBED | qos | version
    for qos in (FLAG_QOS_1, 0)
    for version in (0, FLAG_MQTT_5, _ALIASED | FLAG_ALIAS_SET, _ALIASED)
)
_USUAL_KIND = bytes([_KINDS[0]])
#: More than any call has.
_MANY = 1 << 30
#: d/<32 hex digits>/down
_TOPIC_BYTES = 39

Expiry: TypeAlias = Callable[[Rows], U32]
"""Positions of rows in a call of `deliver` -> (n,) seconds that are left of their lives. Called for MQTT 5.0 only."""


class _Group(NamedTuple):
    """Rows of one kind. properties: of 5.0, () for 3.1.1. is_aliased: the client knows the topic by its alias."""

    fds: I32
    generations: U32
    device_ids: U8
    tags: I64
    payload: Pieces
    properties: Pieces = ()
    is_aliased: bool = False

    def take(self, rows: Rows) -> _Group:
        return _Group(
            self.fds[rows],
            self.generations[rows],
            self.device_ids.take(rows, axis=0),
            self.tags[rows],
            take_pieces(self.payload, rows),
            take_pieces(self.properties, rows),
            self.is_aliased,
        )

    def topics(self) -> Pieces:
        return () if self.is_aliased else (b"d/", hex_lower(self.device_ids), b"/down")


class Downlink:
    """Windows and packet identifiers of all connections. Shares table and edge with the actor that owns it."""

    def __init__(self, settings: LongLinkSettings, table: ConnectionTable, edge: Edge) -> None:
        self._window = settings.in_flight_per_device_max
        self._ack_timeout_s = settings.ack_timeout_s
        self._table = table
        self._edge = edge
        self.in_flight = InFlight(settings.in_flight_max)
        #: Rows of a call that are written at once; of a longer one all are left to the backlog.
        self.rows_at_once: Callable[[], int] = lambda: _MANY
        self._sent_qos_0: list[I64] = []
        self.n_published = 0

    def _count(self, counter: Count, by: int) -> None:
        self._table.count_at[counter] += by

    def deliver(
        self,
        fds: I32,
        generations: U32,
        device_ids: U8,
        tags: I64,
        payload: Pieces,
        now: float,
        expiry_s: Expiry | None = None,
    ) -> Bool:
        """(n,) true where the row was taken. Arguments as in `LongLink.deliver`."""
        n = len(fds)
        flags = self._table.flags.take(fds, mode="clip") & _KIND
        flags *= self._table.is_live(fds, generations).view(np.uint8)
        every = _Group(fds, generations, device_ids, tags, payload)
        if flags.tobytes() == _USUAL_KIND * n:
            return self._send_qos_1(every, _KINDS[0], now)
        taken = np.zeros(n, np.bool_)
        n_left = n
        for kind in _KINDS:
            wanted = np.flatnonzero(flags == kind)
            if not len(wanted):
                continue
            n_left -= len(wanted)
            group = every if len(wanted) == n else every.take(wanted)
            if kind & FLAG_MQTT_5:
                group = group._replace(
                    properties=publish_properties(
                        None if expiry_s is None else expiry_s(wanted), has_alias=bool(kind & FLAG_ALIAS)
                    ),
                    is_aliased=bool(kind & FLAG_ALIAS_SET),
                )
                short = self._short_enough(group, 2 if kind & FLAG_QOS_1 else 0)
                if len(short) < len(wanted):
                    wanted, group = wanted[short], group.take(short)
            sent = self._send_qos_1(group, kind, now) if kind & FLAG_QOS_1 else self._send_qos_0(group, now)
            if kind & _ALIAS_BITS == FLAG_ALIAS:
                # Each of these rows had the topic beside the alias; from the next call on the alias is enough.
                self._table.flags[group.fds[sent]] |= np.uint8(FLAG_ALIAS_SET)
            taken[wanted] = sent
            if not n_left:
                return taken
        self._count(Count.REFUSED_OFFLINE, int(np.count_nonzero(flags & FLAG_SUBSCRIBED == 0)))
        return taken

    def _short_enough(self, group: _Group, packet_id_bytes: int) -> Rows:
        """Rows whose PUBLISH fits into the client's Maximum Packet Size [MQTT-3.1.2-24]."""
        limits = self._table.packet_bytes_max[group.fds]
        n = len(limits)
        if not n or int(limits.min()) == NO_PACKET_BYTES_MAX:
            return np.arange(n)
        middle = packet_id_bytes + (pieces_width(group.properties) or 0)
        topic_bytes = 0 if group.is_aliased else _TOPIC_BYTES
        short = np.flatnonzero(publish_lengths(topic_bytes, middle, pieces_lengths(group.payload, n)) <= limits)
        self._count(Count.REFUSED_CLIENT_PACKET_BYTES_MAX, n - len(short))
        return short

    def _send_qos_1(self, group: _Group, kind: int, now: float) -> Bool:
        n = len(group.fds)
        taken = np.zeros(n, np.bool_)
        ranks = ranks_within(group.fds)
        has_repeats = bool(np.count_nonzero(ranks))
        window = self._table.window[group.fds] if kind & FLAG_MQTT_5 else self._window
        open_before = self._table.in_flight.take(group.fds)
        has_room = (open_before + ranks if has_repeats else open_before) < window
        rows = has_room.nonzero()[0]
        if len(rows) < n:
            self._count(Count.REFUSED_WINDOW, n - len(rows))
            entries = self.in_flight.add(group.fds[rows], group.generations[rows], group.tags[rows], now)
        else:
            entries = self.in_flight.add(group.fds, group.generations, group.tags, now)
        has_entry = entries >= 0
        n_entries = int(np.count_nonzero(has_entry))
        if n_entries < len(entries):
            self._count(Count.REFUSED_IN_FLIGHT_MAX, len(entries) - n_entries)
            rows, entries = rows[has_entry], entries[has_entry]
        if not len(rows):
            return taken
        if len(rows) != n:
            group = group.take(rows)
        packet_ids = self.in_flight.packet_ids(entries)
        packets = publish_packets(group.topics(), packet_ids, group.payload, len(rows), properties=group.properties)
        fds = group.fds
        written = self._write(fds, group.generations, packets, has_repeats, now)
        n_written = int(np.count_nonzero(written))
        self._count(Count.DELIVERED, n_written)
        if n_written == n and not has_repeats:
            # The usual call: every row of it, each of another device.
            self._table.in_flight[fds] += _ONE
            return written
        if n_written < len(written):
            self.in_flight.release(entries[~written])
            rows, fds = rows[written], fds[written]
        # With a scalar of the column's own type: any other takes numpy's slow path, twenty times slower.
        np.add.at(self._table.in_flight, fds, _ONE)
        taken[rows] = True
        return taken

    def _send_qos_0(self, group: _Group, now: float) -> Bool:
        """Writes rows of devices that subscribed with QoS 0; `take_sent_qos_0` gives them back."""
        n = len(group.fds)
        packets = publish_packets(group.topics(), None, group.payload, n, properties=group.properties)
        has_repeats = bool(np.count_nonzero(ranks_within(group.fds)))
        written = self._write(group.fds, group.generations, packets, has_repeats, now)
        self._count(Count.DELIVERED_QOS_0, int(np.count_nonzero(written)))
        self._sent_qos_0.append(group.tags[written])
        self._edge.wake()
        return written

    def redeliver(
        self,
        fds: I32,
        device_ids: U8,
        packet_ids: U16,
        payload: Pieces,
        now: float,
        expiry_s: Expiry | None = None,
    ) -> Bool:
        """Sends rows of resumed sessions again, with DUP and under the identifiers they had; (n,) true where it did.

        They are in flight already. The topic goes in full: an alias does not outlive its connection [MQTT-3.3.2-7].
        """
        is_5 = self._table.flags[fds] & np.uint8(FLAG_MQTT_5) != 0
        sent = np.zeros(len(fds), np.bool_)
        no_tags = np.zeros(len(fds), np.int64)
        for version_5 in (False, True):
            rows = np.flatnonzero(is_5 == version_5)
            if not len(rows):
                continue
            group = _Group(fds, packet_ids.astype(np.uint32), device_ids, no_tags, payload).take(rows)
            if version_5:
                properties = publish_properties(None if expiry_s is None else expiry_s(rows))
                group = group._replace(properties=properties)
                short = self._short_enough(group, 2)
                rows, group = rows[short], group.take(short)
            ids = packet_ids[rows]
            packets = publish_packets(
                group.topics(), ids, group.payload, len(rows), is_duplicate=True, properties=group.properties
            )
            has_repeats = bool(np.count_nonzero(ranks_within(group.fds)))
            sent[rows] = self._write(group.fds, self._table.generation[group.fds], packets, has_repeats, now)
        self._count(Count.REDELIVERED, int(np.count_nonzero(sent)))
        return sent

    def _write(self, fds: I32, generations: U32, packets: U8 | list[bytes], has_repeats: bool, now: float) -> Bool:
        """Writes rows, one write per connection, or leaves them to the backlog; (n,) true where it did either."""
        n = len(fds)
        backlog = self._edge.backlog
        written = np.ones(n, np.bool_)
        if not has_repeats:
            if len(backlog) or n > self.rows_at_once():
                backlog.add(fds, generations, packets, now)
            elif failed := self._edge.calls.write(fds, packets, now):
                written[failed] = False
        else:
            rows = packets if isinstance(packets, list) else fixed_rows(packets)
            groups: dict[int, list[int]] = {}
            for position, fd in enumerate(fds.tolist()):
                groups.setdefault(fd, []).append(position)
            members = list(groups.values())
            joined = [b"".join([rows[position] for position in group]) for group in members]
            if len(backlog) or len(members) > self.rows_at_once():
                first = [group[0] for group in members]
                backlog.add(fds[first], generations[first], joined, now)
            else:
                for device in self._edge.write_rows(list(groups), joined, now):
                    written[members[device]] = False
        n_written = int(np.count_nonzero(written))
        self.n_published += n_written
        self._count(Count.REFUSED_PENDING, n - n_written)
        return written

    def settle(self, fds: I32, generations: U32, packet_ids: U16) -> Settled:
        """Ends what these PUBACKs acknowledge and opens the windows again."""
        settled = self._settle(fds, generations, packet_ids)
        late = int(np.count_nonzero(settled.is_late))
        self._count(Count.PUBACKS, len(settled.tags) - late)
        self._count(Count.PUBACKS_LATE, late)
        return settled

    def settle_refused(self, fds: I32, generations: U32, packet_ids: U16) -> I64:
        """The same for PUBACKs that say the device did not take the message: tags of rows that had not lapsed."""
        settled = self._settle(fds, generations, packet_ids)
        self._count(Count.PUBACKS_REFUSED, len(settled.tags))
        tags: I64 = settled.tags[~settled.is_late]
        return tags

    def _settle(self, fds: I32, generations: U32, packet_ids: U16) -> Settled:
        settled = self.in_flight.settle(fds, generations, packet_ids)
        self._count(Count.PUBACKS_UNKNOWN, settled.n_unknown)
        # A connection that has ended since has its counter at zero already.
        live = settled.fds[self._table.in_flight[settled.fds] > 0]
        np.subtract.at(self._table.in_flight, live, _ONE)
        return settled

    def lapse(self, now: float) -> I64:
        """Tags of the rows whose PUBACK has not come in time; each once."""
        tags = self.in_flight.lapse(now - self._ack_timeout_s)
        self._count(Count.LAPSED, len(tags))
        return tags

    def take_sent_qos_0(self) -> I64:
        """Tags of the rows written with QoS 0 since the last call."""
        if not self._sent_qos_0:
            return _NO_TAGS
        tags, self._sent_qos_0 = np.concatenate(self._sent_qos_0), []
        return tags


def ranks_within(fds: I32) -> Rows:
    """(n,) how many earlier rows have the same descriptor: 0 for the first of each."""
    n = len(fds)
    in_order = np.sort(fds)
    if not np.count_nonzero(in_order[1:] == in_order[:-1]):
        return np.zeros(n, np.int64)
    order = np.argsort(fds, kind="stable")
    in_order = fds[order]
    is_first = np.ones(n, np.bool_)
    np.not_equal(in_order[1:], in_order[:-1], out=is_first[1:])
    positions = np.arange(n)
    ranks = np.empty(n, np.int64)
    ranks[order] = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    return ranks
