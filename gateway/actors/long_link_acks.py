"""Acknowledgements of uplink that wait until what the device said is durable. Part of the long-link actor.

    PUBLISH --owner: LATER--> owed, in its order --resolve(durable)--> PUBACK, and those behind it
                                              --resolve(not)----> MQTT 5.0: 0x97; 3.1.1: nothing

Acknowledgements go out in the order in which the messages came [MQTT-4.6.0-2]: while one waits, those behind it
do, too. A device whose connection ends gets none and sends its messages again. `settled` is called all the same: an
exchange of QoS 2 may outlive its connection, and must not when its message is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gateway.net.edge_table import ConnectionTable
from gateway.wire.mqtt.packet_types import PacketType

#: Acknowledgements that one device may be owed, and all devices together: of a commit of 10 ms that is 1.6 million a
#: second. Beyond it devices are told to come again.
OWED_PER_DEVICE_MAX = 64
OWED_MAX = 16_384
#: The object, its message's address and what will call it.
OWED_BYTES = 400


class OwedAck:
    """kind, packet: what is said when it is durable; refusal: when it is not, where the version has a word for it.
    settled: told then which of both, whatever became of the connection. repeats: of copies of the message that came
    meanwhile; they are resolved with it."""

    __slots__ = ("_acks", "_place", "is_durable", "kind", "packet", "refusal", "repeats", "settled")

    def __init__(self, acks: OwedAcks, place: tuple[int, int]) -> None:
        self._acks = acks
        self._place = place
        self.is_durable: bool | None = None
        self.kind = PacketType.PUBACK
        self.packet = self.refusal = b""
        self.settled: Callable[[bool], object] = _nothing
        self.repeats: list[OwedAck] = []

    def resolve(self, is_durable: bool) -> None:
        """What the message said is durable, or could not be made so."""
        self.is_durable = is_durable
        self.settled(is_durable)
        self._acks.flush(*self._place)
        for repeat in self.repeats:
            repeat.resolve(is_durable)

    def repeat(self, ack: OwedAck) -> None:
        """That one is of a copy of the same message. Those whose connection has ended meanwhile are let go."""
        self.repeats = [one for one in self.repeats if self._acks.is_connected(*one._place)]
        self.repeats.append(ack)


def _nothing(is_durable: bool) -> None:
    """A message that nobody remembers may come again anyway."""


class OwedAcks:
    """write: to a connection. count: called with the kind of each packet that is written."""

    def __init__(
        self, table: ConnectionTable, write: Callable[[int, bytes], None], count: Callable[[PacketType], None]
    ) -> None:
        self._table = table
        self._write = write
        self._count = count
        self._n = 0
        #: By connection: its generation, and its acknowledgements in the order of its messages.
        self._owed: dict[int, tuple[int, deque[OwedAck]]] = {}

    def __len__(self) -> int:
        return self._n

    def is_full(self, fd: int) -> bool:
        """Nothing more may be owed to the device, or to anybody."""
        return self._n >= OWED_MAX or len(self._of(fd)) >= OWED_PER_DEVICE_MAX

    def is_connected(self, fd: int, generation: int) -> bool:
        return self._table.generation_at[fd] == generation

    def open(self, fd: int) -> OwedAck:
        """One that may have to wait; it does from `say` on."""
        return OwedAck(self, (fd, self._table.generation_at[fd]))

    def say(self, fd: int, ack: OwedAck, *, is_later: bool) -> bool:
        """The acknowledgement is said in its turn, when it is resolved if is_later; False: it may be said at once."""
        owed = self._of(fd)
        if not is_later:
            if not owed:
                return False
            ack.is_durable = True
        elif ack.is_durable is not None:
            # Before `settled` could be named.
            ack.settled(ack.is_durable)
            if not owed:
                if ack.is_durable:
                    return False
                ack.packet = ack.refusal
                return not ack.refusal
        if not owed:
            self._owed[fd] = (self._table.generation_at[fd], owed)
        owed.append(ack)
        self._n += 1
        return True

    def flush(self, fd: int, generation: int) -> None:
        """What nothing waits for any more is written."""
        found = self._owed.get(fd)
        if found is None or found[0] != generation:
            return
        if self._table.generation_at[fd] != generation:
            self._forget(fd)
            return
        owed, out = found[1], b""
        while owed and owed[0].is_durable is not None:
            ack = owed.popleft()
            self._n -= 1
            packet = ack.packet if ack.is_durable else ack.refusal
            if packet:
                self._count(ack.kind)
                out += packet
        if not owed:
            del self._owed[fd]
        if out:
            self._write(fd, out)

    def _of(self, fd: int) -> deque[OwedAck]:
        found = self._owed.get(fd)
        if found is not None and found[0] != self._table.generation_at[fd]:
            self._forget(fd)
            found = None
        return deque() if found is None else found[1]

    def _forget(self, fd: int) -> None:
        """Of a connection that has ended."""
        self._n -= len(self._owed.pop(fd)[1])
