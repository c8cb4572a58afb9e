"""Uplink exchanges of QoS 2 that wait for their PUBREL: the only thing about a device's uplink that outlives a packet.

Source: OASIS MQTT 3.1.1 and 5.0, section 4.3.3, method B: the message goes on with its PUBLISH, the identifier is kept.
"""

from __future__ import annotations


class Exchanges:
    """fd -> packet identifiers; an entry exists only while there is one. Bounded per connection by the caller."""

    def __init__(self) -> None:
        self._open: dict[int, set[int]] = {}

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
