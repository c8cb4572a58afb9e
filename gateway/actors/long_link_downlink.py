"""The way down: many rows to connected devices in one call, and what became of them. Part of the long-link actor.

A row that is taken has an entry in `InFlight` until its PUBACK, the end of its connection, or its time is up. Nothing
here waits; a row for which there is no room is not taken, and counted under the limit that stood in its way.
"""

from __future__ import annotations

import numpy as np

from gateway.actors.long_link_port import LongLinkSettings
from gateway.columns import I32, I64, U8, U16, U32, Bool, Pieces, Rows, fixed_rows, hex_lower, take_pieces
from gateway.net.edge import Edge
from gateway.net.edge_table import FLAG_QOS_1, FLAG_SUBSCRIBED, ConnectionTable, Count
from gateway.wire.mqtt.in_flight import InFlight, Settled
from gateway.wire.mqtt.publish import publish_packets

_ONE = np.uint16(1)
_SUBSCRIPTION = np.uint8(FLAG_SUBSCRIBED | FLAG_QOS_1)


class Downlink:
    """Windows and packet identifiers of all connections. Shares table and edge with the actor that owns it."""

    def __init__(self, settings: LongLinkSettings, table: ConnectionTable, edge: Edge) -> None:
        self._window = settings.in_flight_per_device_max
        self._ack_timeout_s = settings.ack_timeout_s
        self._table = table
        self._edge = edge
        self.in_flight = InFlight(settings.in_flight_max)
        self._sent_qos_0: list[I64] = []
        self.n_published = 0

    def _count(self, counter: Count, by: int) -> None:
        self._table.count_at[counter] += by

    def deliver(self, fds: I32, generations: U32, device_ids: U8, tags: I64, payload: Pieces, now: float) -> Bool:
        """(n,) true where the row was taken. Arguments as in `LongLink.deliver`."""
        n = len(fds)
        flags = self._table.flags.take(fds, mode="clip") & _SUBSCRIPTION
        flags[~self._table.is_live(fds, generations)] = 0
        taken = np.zeros(n, np.bool_)
        for qos, send in ((FLAG_SUBSCRIBED | FLAG_QOS_1, self._send_qos_1), (FLAG_SUBSCRIBED, self._send_qos_0)):
            wanted = np.flatnonzero(flags == qos)
            if len(wanted) == n:
                return send(fds, generations, device_ids, tags, payload, now)
            if len(wanted):
                part, ids = take_pieces(payload, wanted), device_ids.take(wanted, axis=0)
                taken[wanted] = send(fds[wanted], generations[wanted], ids, tags[wanted], part, now)
        self._count(Count.REFUSED_OFFLINE, int(np.count_nonzero(flags & FLAG_SUBSCRIBED == 0)))
        return taken

    def _send_qos_1(self, fds: I32, generations: U32, device_ids: U8, tags: I64, payload: Pieces, now: float) -> Bool:
        n = len(fds)
        taken = np.zeros(n, np.bool_)
        ranks = ranks_within(fds)
        rows = np.flatnonzero(self._table.in_flight[fds] + ranks < self._window)
        if len(rows) < n:
            self._count(Count.REFUSED_WINDOW, n - len(rows))
            entries = self.in_flight.add(fds[rows], generations[rows], tags[rows], now)
        else:
            entries = self.in_flight.add(fds, generations, tags, now)
        has_entry = entries >= 0
        n_entries = int(np.count_nonzero(has_entry))
        if n_entries < len(entries):
            self._count(Count.REFUSED_IN_FLIGHT_MAX, len(entries) - n_entries)
            rows, entries = rows[has_entry], entries[has_entry]
        if not len(rows):
            return taken
        if len(rows) != n:
            fds, device_ids, payload = fds[rows], device_ids.take(rows, axis=0), take_pieces(payload, rows)
        topics = (b"d/", hex_lower(device_ids), b"/down")
        packets = publish_packets(topics, self.in_flight.packet_ids(entries), payload, len(rows))
        written = self._write(fds, packets, bool(np.count_nonzero(ranks)), now)
        if np.count_nonzero(written) < len(written):
            self.in_flight.release(entries[~written])
            rows, fds = rows[written], fds[written]
        # With a scalar of the column's own type: any other takes numpy's slow path, twenty times slower.
        np.add.at(self._table.in_flight, fds, _ONE)
        self._count(Count.DELIVERED, len(rows))
        taken[rows] = True
        return taken

    def _send_qos_0(self, fds: I32, generations: U32, device_ids: U8, tags: I64, payload: Pieces, now: float) -> Bool:
        """Writes rows of devices that subscribed with QoS 0; `take_sent_qos_0` gives them back."""
        topics = (b"d/", hex_lower(device_ids), b"/down")
        packets = publish_packets(topics, None, payload, len(fds))
        written = self._write(fds, packets, bool(np.count_nonzero(ranks_within(fds))), now)
        self._count(Count.DELIVERED_QOS_0, int(np.count_nonzero(written)))
        self._sent_qos_0.append(tags[written])
        self._edge.wake()
        return written

    def _write(self, fds: I32, packets: U8 | list[bytes], has_repeats: bool, now: float) -> Bool:
        """Writes rows, one write per connection; (n,) true where the row is on its way."""
        n = len(fds)
        rows = packets if isinstance(packets, list) else fixed_rows(packets)
        targets: list[int] = fds.tolist()
        written = np.ones(n, np.bool_)
        if not has_repeats:
            written[self._edge.write_rows(targets, rows, now)] = False
        else:
            groups: dict[int, list[int]] = {}
            for position, fd in enumerate(targets):
                groups.setdefault(fd, []).append(position)
            members = list(groups.values())
            joined = [b"".join([rows[position] for position in group]) for group in members]
            for failed in self._edge.write_rows(list(groups), joined, now):
                written[members[failed]] = False
        n_written = int(np.count_nonzero(written))
        self.n_published += n_written
        self._count(Count.REFUSED_PENDING, n - n_written)
        return written

    def settle(self, fds: I32, generations: U32, packet_ids: U16) -> Settled:
        """Ends what these PUBACKs acknowledge and opens the windows again."""
        settled = self.in_flight.settle(fds, generations, packet_ids)
        late = int(np.count_nonzero(settled.is_late))
        self._count(Count.PUBACKS, len(settled.tags) - late)
        self._count(Count.PUBACKS_LATE, late)
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

    def take_lost(self) -> I64:
        """Tags of the rows whose connection has ended; each once."""
        tags = self.in_flight.release_ended(self._table.generation)
        self._count(Count.LOST_WITH_CONNECTION, len(tags))
        return tags

    def take_sent_qos_0(self) -> I64:
        """Tags of the rows written with QoS 0 since the last call."""
        if not self._sent_qos_0:
            return np.zeros(0, np.int64)
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
