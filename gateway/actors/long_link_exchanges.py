"""Uplink exchanges of QoS 2 that wait for their PUBREL: the only thing about a device's uplink that outlives a packet,
and, where its session is stored, its connection.

Source: OASIS MQTT 3.1.1 and 5.0, sections 4.1 and 4.3.3, method B: the message goes on with its PUBLISH, the identifier
is kept. While the message is not durable yet, its acknowledgement is kept beside it: when it cannot be made durable the
exchange ends, wherever it is by then, and the device's next copy is a new message.
"""

from __future__ import annotations

from functools import partial

from gateway.actors.long_link_acks import OwedAck


class _Open(set[int]):
    """Packet identifiers of one device. fd, slot: where they stand; -1: not there. waiting: acknowledgements of those
    that are not durable yet, by identifier."""

    __slots__ = ("fd", "slot", "waiting")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.slot = -1
        self.waiting: dict[int, OwedAck] | None = None


class Exchanges:
    """fd -> packet identifiers, and device slot -> those of absent sessions; an entry exists only while there is one.

    Bounded per connection by the caller. parked_max: identifiers of all absent sessions together.
    """

    def __init__(self, parked_max: int) -> None:
        self._parked_max = parked_max
        self._open: dict[int, _Open] = {}
        self._parked: dict[int, _Open] = {}
        self.n_parked = 0

    def __len__(self) -> int:
        """Connections that have one."""
        return len(self._open)

    def count(self, fd: int) -> int:
        return len(self._open.get(fd, ()))

    def has(self, fd: int, packet_id: int) -> bool:
        return packet_id in self._open.get(fd, ())

    def waiting(self, fd: int, packet_id: int) -> OwedAck | None:
        """The acknowledgement of a message that is not durable yet."""
        packet_ids = self._open.get(fd)
        return None if packet_ids is None or not packet_ids.waiting else packet_ids.waiting.get(packet_id)

    def begin(self, fd: int, packet_id: int, ack: OwedAck | None = None) -> None:
        """ack: where the message is not durable yet; it tells when it is, or that it never will be."""
        packet_ids = self._open.get(fd)
        if packet_ids is None:
            packet_ids = self._open[fd] = _Open(fd)
        packet_ids.add(packet_id)
        if ack is not None:
            packet_ids.waiting = packet_ids.waiting or {}
            packet_ids.waiting[packet_id] = ack
            ack.settled = partial(self._settled, packet_ids, packet_id, ack)

    def _settled(self, packet_ids: _Open, packet_id: int, ack: OwedAck, is_durable: bool) -> None:
        if packet_ids.waiting is None or packet_ids.waiting.get(packet_id) is not ack:
            # The exchange has ended, or the device began another under its identifier.
            return
        self._stop_waiting(packet_ids, packet_id)
        if not is_durable:
            self._discard(packet_ids, packet_id)

    def _stop_waiting(self, packet_ids: _Open, packet_id: int) -> None:
        if packet_ids.waiting is not None:
            packet_ids.waiting.pop(packet_id, None)
            if not packet_ids.waiting:
                packet_ids.waiting = None

    def _discard(self, packet_ids: _Open, packet_id: int) -> None:
        packet_ids.discard(packet_id)
        if packet_ids.slot >= 0:
            self.n_parked -= 1
            if not packet_ids:
                del self._parked[packet_ids.slot]
        elif packet_ids.fd >= 0 and not packet_ids:
            del self._open[packet_ids.fd]

    def end(self, fd: int, packet_id: int) -> bool:
        """True where there was one."""
        packet_ids = self._open.get(fd)
        if packet_ids is None or packet_id not in packet_ids:
            return False
        self._stop_waiting(packet_ids, packet_id)
        self._discard(packet_ids, packet_id)
        return True

    def forget(self, fd: int) -> None:
        """The connection is over."""
        packet_ids = self._open.pop(fd, None)
        if packet_ids is not None:
            packet_ids.fd = -1

    def park(self, fd: int, slot: int) -> bool:
        """The connection is over, its session is not. False, and all is as it was, when there is no room."""
        packet_ids = self._open.get(fd)
        if packet_ids is None:
            return True
        if self.n_parked + len(packet_ids) > self._parked_max:
            return False
        self._parked[slot] = self._open.pop(fd)
        packet_ids.fd, packet_ids.slot = -1, slot
        self.n_parked += len(packet_ids)
        return True

    def resume(self, slot: int, fd: int) -> None:
        packet_ids = self._parked.pop(slot, None)
        if packet_ids is not None:
            self.n_parked -= len(packet_ids)
            self._open[fd] = packet_ids
            packet_ids.fd, packet_ids.slot = fd, -1

    def drop(self, slot: int) -> None:
        """The stored session is over."""
        packet_ids = self._parked.pop(slot, None)
        if packet_ids is not None:
            self.n_parked -= len(packet_ids)
            packet_ids.slot = -1

    def parked_slots(self) -> list[int]:
        return list(self._parked)
