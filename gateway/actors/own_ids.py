"""Numbers that vendors give to messages, on their way from the lanes to the receipts that name them.

    lane --answers--> OwnIdTap.told() --+--> OwnIdBook: remembered until a report names them (Tencent SMS, WeChat)
                                        +--> OutcomePolls: asked for later (DingTalk)

    report --OwnIdBook.named()--> the same report with an address, as if the vendor had given ours back
                       |
                       +-- unknown: looked at again (the answer may still be under way), then told to other workers

None of this waits for anybody, or is waited for.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import msgspec
import numpy as np

from gateway import burst_address, message_id
from gateway.burst_address import BurstAddress
from gateway.clock import Clock
from gateway.columns import U64, Rows
from gateway.core.own_ids import UNKNOWN_REPORTS_MAX, OwnIds
from gateway.ledger import Channel, LedgerPage
from gateway.message_id import BatchAddress
from gateway.receipts import Event, VendorReceipt

#: Called with the batch, at its home, of messages that a vendor calls so.
OnOwnIds: TypeAlias = Callable[[BatchAddress, Sequence[str]], None]
#: A report may overtake the answer that tells its number: it is looked at again, so often, so much later.
_LOOKS_MAX = 4
_LOOK_AGAIN_S = 0.5


class OwnIdTap:
    """Of one (app, vendor), from its lanes. Nobody listens until `on_ids` is set."""

    def __init__(self) -> None:
        self.on_ids: OnOwnIds = lambda _batch, _ids: None

    def told(self, page: LedgerPage, rows: Rows, ids: Sequence[str]) -> None:
        """The vendor took rows of the page, these among them, and calls the messages so."""
        # A slice of another home's batch has an address of its own; the home's is in its message ids.
        self.on_ids(message_id.batch_of(page.batch.message_ids[int(rows[0])].tobytes()), ids)


class BookObserver(Protocol):
    def own_ids(self, remembered: int, fallen: int) -> None:
        """How many are remembered now, and how many more had to make room before their time."""


class _Unknown(NamedTuple):
    due: float
    app: int
    channel: Channel
    receipts: list[VendorReceipt]
    looks: int


class Known(NamedTuple):
    """Receipts with an address, and those whose number nobody here has been told."""

    known: list[VendorReceipt]
    unknown: list[VendorReceipt]


class OwnIdBook:
    """Of one worker. secret: of addresses. ids: what is remembered."""

    def __init__(self, secret: bytes, ids: OwnIds, *, clock: Clock, observer: BookObserver) -> None:
        self._secret = secret
        self._ids = ids
        self._clock = clock
        self._observer = observer
        self._unknown: deque[_Unknown] = deque()
        self._waiting = 0
        self._fallen = 0

    def told(self, app: int, channel: Channel, batch: BatchAddress, ids: Sequence[str]) -> None:
        """The vendor calls messages of this batch so."""
        self._ids.add(self._hashes(app, channel, ids), batch, self._clock.monotonic())
        fallen, self._fallen = self._ids.fallen - self._fallen, self._ids.fallen
        self._observer.own_ids(len(self._ids), fallen)

    def named(self, app: int, channel: Channel, receipts: Sequence[VendorReceipt]) -> Known:
        """Each receipt that bears a number under the address of its batch."""
        found = self._ids.find(self._hashes(app, channel, [one.own_id for one in receipts]), self._clock.monotonic())
        known: list[VendorReceipt] = []
        unknown: list[VendorReceipt] = []
        for index, one in enumerate(receipts):
            if not one.own_id:
                known.append(one)
            elif found.is_known[index]:
                known.append(one._replace(own_id="", address=address_of(self._secret, found.batch(index))))
            else:
                unknown.append(one)
        return Known(known, unknown)

    def _hashes(self, app: int, channel: Channel, ids: Sequence[str]) -> U64:
        """(k,) keyed: who reports could otherwise choose numbers that share a bucket."""
        person = b"%d/%d" % (app, channel)
        digests = [
            hashlib.blake2b(one.encode("utf-8", "replace"), key=self._secret, digest_size=8, person=person).digest()
            for one in ids
        ]
        return np.frombuffer(b"".join(digests), np.uint64)

    # -- receipts that overtook the answer

    @property
    def next_look(self) -> float:
        """When some are to be looked at again; never: inf."""
        return self._unknown[0].due if self._unknown else float("inf")

    def park(self, app: int, channel: Channel, receipts: list[VendorReceipt], looks: int) -> bool:
        """They are looked at again; False: often enough, or there is no room."""
        if looks >= _LOOKS_MAX or self._waiting + len(receipts) > UNKNOWN_REPORTS_MAX:
            return False
        self._waiting += len(receipts)
        self._unknown.append(_Unknown(self._clock.monotonic() + _LOOK_AGAIN_S, app, channel, receipts, looks + 1))
        return True

    def take_due(self) -> list[tuple[int, Channel, list[VendorReceipt], int]]:
        """(app, channel, receipts, looks) of those whose time has come."""
        now, due = self._clock.monotonic(), []
        while self._unknown and self._unknown[0].due <= now:
            one = self._unknown.popleft()
            self._waiting -= len(one.receipts)
            due.append((one.app, one.channel, one.receipts, one.looks))
        return due


def address_of(secret: bytes, batch: BatchAddress) -> str:
    """A callback parameter of the batch, as a request of many rows would have had it: the token says which row."""
    return burst_address.encode(secret, BurstAddress(batch, 0))


_PACKED = msgspec.json.Decoder(list[tuple[int, str, list[str], int, str]])


def pack_receipts(receipts: Sequence[VendorReceipt]) -> bytes:
    """Receipts that name numbers, for another worker."""
    return msgspec.json.encode([(one.event, one.own_id, one.tokens, one.at_unix_ms, one.name) for one in receipts])


def unpack_receipts(body: bytes | memoryview) -> list[VendorReceipt]:
    """Raises ValueError for anything else."""
    told = _PACKED.decode(body)
    return [VendorReceipt(Event(event), "", tokens, at, name, own_id) for event, own_id, tokens, at, name in told]
