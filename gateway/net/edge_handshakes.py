"""Side tables of the edge: connections that shake hands, by their listener and by where they come from.

When there are as many as may be, the oldest goes for a newer one: whoever says something is through in a round trip,
whoever is silent is old. It is the oldest of the listener that has most of them, so that a flood at one listener takes
its own and leaves the handshakes at the others alone: each has an equal share, and more while others have less.
"""

from __future__ import annotations

#: Connections that another worker has accepted have no listener here; among themselves they are like those of one.
ADOPTED = -1


class ByListener:
    """Connections in the order in which they came, each listener's by themselves."""

    __slots__ = ("_by_listener", "listener_of")

    def __init__(self) -> None:
        self.listener_of: dict[int, int] = {}
        """By file descriptor."""
        self._by_listener: dict[int, dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self.listener_of)

    def add(self, fd: int, listener: int) -> None:
        self.listener_of[fd] = listener
        self._by_listener.setdefault(listener, {})[fd] = None

    def discard(self, fd: int) -> None:
        listener = self.listener_of.pop(fd, None)
        if listener is not None:
            del self._by_listener[listener][fd]

    def first_to_go(self) -> int:
        """The oldest of the listener that has most. There must be one."""
        fullest = max(self._by_listener, key=lambda listener: len(self._by_listener[listener]))
        return next(iter(self._by_listener[fullest]))


class Handshakes:
    """Connections of which CONNECT is expected, and their addresses: "" while a balancer has not said it yet."""

    __slots__ = ("_address_of", "_by_address", "_waiting")

    def __init__(self) -> None:
        self._address_of: dict[int, str] = {}
        self._by_address: dict[str, dict[int, None]] = {}
        self._waiting = ByListener()

    def __len__(self) -> int:
        return len(self._address_of)

    def begin(self, fd: int, listener: int, address: str) -> None:
        self._waiting.add(fd, listener)
        self.set_address(fd, address)

    def set_address(self, fd: int, address: str) -> None:
        """Where it comes from; it had none so far."""
        self._address_of[fd] = address
        if address:
            self._by_address.setdefault(address, {})[fd] = None

    def end(self, fd: int) -> None:
        """The connection no longer counts as shaking hands. Idempotent."""
        self._waiting.discard(fd)
        address = self._address_of.pop(fd, None)
        if address:
            neighbours = self._by_address[address]
            del neighbours[fd]
            if not neighbours:
                del self._by_address[address]

    def address_of(self, fd: int) -> str:
        """Empty once it has shaken hands, or where it is not known."""
        return self._address_of.get(fd, "")

    def count_at(self, address: str) -> int:
        return len(self._by_address.get(address, ()))

    def oldest_at(self, address: str) -> int:
        """There must be one."""
        return next(iter(self._by_address[address]))

    def first_to_go(self) -> int:
        """As `ByListener.first_to_go`."""
        return self._waiting.first_to_go()

    def addresses(self) -> list[str]:
        """Of all, the oldest first."""
        return list(self._address_of.values())

    def listeners(self) -> list[int]:
        """The same: ADOPTED, or positions in the settings."""
        return list(self._waiting.listener_of.values())
