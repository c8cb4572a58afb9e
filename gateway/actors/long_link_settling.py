"""What devices acknowledged, gathered until it is worth the owner's while. Part of the long-link actor.

    PUBACKs of a poll, columns --+
    PUBACKs among other packets -+--> gathered --settle--> Downlink: windows open --> owner: rows have ended

Settling costs some 150 us beside its rows, twice that in a cold cache. So a poll that another one follows for certain,
because it was cut short or because the next step is due in a moment, leaves its PUBACKs for that one, up to
`ACKS_TOGETHER` of them or `GATHER_S`. After any other they are settled at once: where little is to do nobody waits.
Whatever ends a connection, or gives up waiting for a row, settles first what was read before.

Of a poll that brought PUBACKs alone nothing but that is looked at before they are settled (`add_read`).
"""

from __future__ import annotations

import numpy as np

from gateway.actors.long_link_downlink import Downlink
from gateway.actors.long_link_port import Owner, Unacknowledged
from gateway.columns import I32, U8, U16, U32
from gateway.net.edge_table import ConnectionTable
from gateway.wire.mqtt.publish import packet_ids_of

#: As many as are settled in half a millisecond: beyond them the fixed cost is small beside the rows.
ACKS_TOGETHER = 768
#: What rows wait at most that were acknowledged, and a pause of `core/step_pauses.py`: of two workers each has half of
#: the PUBACKs, and in half of this time had half as many to settle.
GATHER_S = 0.02


class Acknowledgements:
    """Owned by the long link."""

    def __init__(self, table: ConnectionTable, downlink: Downlink, owner: Owner) -> None:
        self._table = table
        self._downlink = downlink
        self._owner = owner
        #: (fds, generations, (n, 4) uint8 their PUBACKs as read) of polls that brought nothing else.
        self._read: list[tuple[I32, U32, U8]] = []
        #: (fds, generations, packet ids) of other polls.
        self._polled: list[tuple[I32, U32, U16]] = []
        #: The same of packets that went through the parser, one each.
        self._parsed: list[tuple[int, int, int]] = []
        self._refused: list[tuple[int, int, int]] = []
        self._since = 0.0
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add_read(self, fds: I32, generations: U32, words: U8, now: float) -> None:
        """PUBACKs of sessions as they were read, each whole and alone; their keepalive starts anew when they are
        settled."""
        self._count(len(fds), now)
        self._read.append((fds, generations, words))

    def add(self, fds: I32, generations: U32, packet_ids: U16, now: float) -> None:
        """PUBACKs of one poll."""
        self._count(len(fds), now)
        self._polled.append((fds, generations, packet_ids))

    def add_one(self, fd: int, generation: int, packet_id: int, now: float, *, is_taken: bool) -> None:
        """is_taken: False, the device says that it did not take the message."""
        self._count(1, now)
        (self._parsed if is_taken else self._refused).append((fd, generation, packet_id))

    def _count(self, n: int, now: float) -> None:
        if not self._n:
            self._since = now
        self._n += n

    def may_wait(self, now: float) -> bool:
        """There are not so many yet, and not for so long, that they would not wait for those of the next poll."""
        return self._n < ACKS_TOGETHER and now - self._since < GATHER_S

    def settle(self, now: float) -> None:
        """The owner knows of all that was gathered."""
        if not self._n:
            return
        polled, self._polled, self._n = self._polled, [], 0
        if self._read:
            fds, generations, words = map(np.concatenate, zip(*self._read, strict=True))
            self._read = []
            self._table.touch(fds, now)
            polled.append((fds, generations, packet_ids_of(words)))
        if self._parsed:
            polled.append(_columns(self._parsed))
            self._parsed = []
        refused, self._refused = self._refused, []
        if polled:
            fds, generations, ids = polled[0] if len(polled) == 1 else map(np.concatenate, zip(*polled, strict=True))
            self._settle(fds, generations, ids, now)
        if refused:
            tags = self._downlink.settle_refused(*_columns(refused))
            if len(tags):
                self._owner.unacknowledged(tags, Unacknowledged.REFUSED)

    def _settle(self, fds: I32, generations: U32, packet_ids: U16, now: float) -> None:
        settled = self._downlink.settle(fds, generations, packet_ids)
        late = settled.is_late
        if not late.any():
            if len(settled.tags):
                self._owner.acknowledged(settled.tags, settled.sent_at, now)
            return
        if not late.all():
            self._owner.acknowledged(settled.tags[~late], settled.sent_at[~late], now)
        self._owner.acknowledged_late(settled.tags[late], settled.sent_at[late], now)


def _columns(rows: list[tuple[int, int, int]]) -> tuple[I32, U32, U16]:
    array = np.array(rows, np.int64)
    return array[:, 0].astype(np.int32), array[:, 1].astype(np.uint32), array[:, 2].astype(np.uint16)
