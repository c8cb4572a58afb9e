"""Devices that connect to a worker which does not own them: their connection goes to the owner, once, with CONNECT.

The owner checks the password, answers, and has the device's presence and rows with it; here only the form of the
CONNECT is looked at, since it has to name a device before there is an owner. While that worker is away, or its queue is
full, the CONNECT stays with the bytes that are not yet parsed: time and number of handshakes bound it like any other.

Part of the long-link actor, which owns it; nothing here waits.
"""

from __future__ import annotations

import enum
from typing import Protocol

from gateway.net.edge import Edge
from gateway.net.edge_table import ConnectionTable, Count
from gateway.wire.mqtt.packets import Connect
from gateway.wire.mqtt.session import connect_refusal, connect_refusal_5


class Elsewhere(Protocol):
    """The other workers."""

    def owner(self, device_id: bytes) -> int:
        """The worker that owns the device; -1: this one."""
        ...

    def pass_on(self, worker: int, fd: int, address: str, data: bytes) -> bool:
        """That worker has the connection; the descriptor may be closed here. False: not now."""
        ...


class Move(enum.Enum):
    STAYS = enum.auto()
    """The device is ours, or the CONNECT is to be refused as it is."""
    GONE = enum.auto()
    WAITS = enum.auto()


class Moves:
    """waiting: descriptors whose owner could not take them, by worker."""

    def __init__(self, elsewhere: Elsewhere, table: ConnectionTable, edge: Edge) -> None:
        self._elsewhere = elsewhere
        self._table = table
        self._edge = edge
        self._waiting: dict[int, dict[int, int]] = {}

    def consider(self, fd: int, connect: Connect, data: bytes) -> Move:
        """Where the connection belongs; data: the CONNECT and what came after it. GONE: nothing may be done with it
        any more, whoever reads for it."""
        if connect_refusal(connect) is not None or connect_refusal_5(connect) is not None:
            return Move.STAYS
        worker = self._elsewhere.owner(bytes.fromhex(connect.client_id))
        if worker < 0:
            return Move.STAYS
        is_gone = self._relay(fd, worker, data) if fd in self._edge.layers.by_fd else self._move(fd, worker, data)
        if is_gone:
            return Move.GONE
        self._table.count_at[Count.MOVES_WAITED] += 1
        self._waiting.setdefault(worker, {})[fd] = self._table.generation_at[fd]
        return Move.WAITS

    def _move(self, fd: int, worker: int, data: bytes) -> bool:
        if not self._elsewhere.pass_on(worker, fd, self._edge.address_of(fd), data):
            return False
        self._edge.moves.release(fd)
        return True

    def _relay(self, fd: int, worker: int, data: bytes) -> bool:
        address = self._edge.address_of(fd)
        return self._edge.moves.relay(fd, lambda end: self._elsewhere.pass_on(worker, end, address, data))

    def take_waiting(self, worker: int) -> list[tuple[int, int]]:
        """(fd, generation) of those that waited for this worker: it may take them now."""
        return list(self._waiting.pop(worker, {}).items())
