"""Uplink exchanges of QoS 2 that wait for their PUBREL: the only thing about a device's uplink that outlives a packet,
and, where its session is stored, its connection.

Source: OASIS MQTT 3.1.1 and 5.0, sections 4.1 and 4.3.3, method B: the message goes on with its PUBLISH, the identifier
is kept.
"""

from __future__ import annotations


class Exchanges:
    """fd -> packet identifiers, and device slot -> those of absent sessions; an entry exists only while there is one.

    Bounded per connection by the caller. parked_max: identifiers of all absent sessions together.
    """

    def __init__(self, parked_max: int) -> None:
        self._parked_max = parked_max
        self._open: dict[int, set[int]] = {}
        self._parked: dict[int, set[int]] = {}
        self.n_parked = 0

    def __len__(self) -> int:
        """Connections that have one."""
        return len(self._open)

    def count(self, fd: int) -> int:
        return len(self._open.get(fd, ()))

    def has(self, fd: int, packet_id: int) -> bool:
        return packet_id in self._open.get(fd, ())

    def begin(self, fd: int, packet_id: int) -> None:
        self._open.setdefault(fd, set()).add(packet_id)

    def end(self, fd: int, packet_id: int) -> bool:
        """True where there was one."""
        packet_ids = self._open.get(fd)
        if packet_ids is None or packet_id not in packet_ids:
            return False
        packet_ids.discard(packet_id)
        if not packet_ids:
            del self._open[fd]
        return True

    def forget(self, fd: int) -> None:
        """The connection is over."""
        self._open.pop(fd, None)

    def park(self, fd: int, slot: int) -> bool:
        """The connection is over, its session is not. False, and all is as it was, when there is no room."""
        packet_ids = self._open.get(fd)
        if packet_ids is None:
            return True
        if self.n_parked + len(packet_ids) > self._parked_max:
            return False
        self._parked[slot] = self._open.pop(fd)
        self.n_parked += len(packet_ids)
        return True

    def resume(self, slot: int, fd: int) -> None:
        packet_ids = self._parked.pop(slot, None)
        if packet_ids is not None:
            self.n_parked -= len(packet_ids)
            self._open[fd] = packet_ids

    def drop(self, slot: int) -> None:
        """The stored session is over."""
        self.n_parked -= len(self._parked.pop(slot, ()))

    def parked_slots(self) -> list[int]:
        return list(self._parked)
