"""The proof: what was submitted, what the ledger says, what the receivers have. Pure; every failing check has a text.

conserved   per task the states sum to the rows accepted; accepted + refused = rows counted by the reader;
            per channel the rows in vendor_accepted and device_acked are the very message ids its receivers have;
            each at its own target; no row is open
duplicates  second copies, other than MQTT redeliveries with DUP and rows the ledger itself had marked: handed over
            unacknowledged, sent again after an uncertain attempt, or ended uncertain
intact      every text is the submitted one, or, for a row marked as cut, a proper cut of it
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.cli.demo.cutting import are_intact, digest_of
from gateway.ledger import Flag
from gateway.wire.rpc.messages import TaskCounts

LONG_LINK = "long_link"
#: Final states that say a receiver has the row.
_TAKEN = ("vendor_accepted", "device_acked")
_MAY_ARRIVE_TWICE = Flag.HANDED_OVER | Flag.RESENT_UNCERTAIN
#: Faults told one by one; a lost thousand needs no thousand lines.
_TOLD_MAX = 5


class Notification(NamedTuple):
    """One line of the file as its receivers should see it. targets: device ids, and `target_of` each token."""

    title: str
    body: str
    targets: frozenset[bytes]


class LedgerRow(NamedTuple):
    """One row as the gateway tells it. line: of the file."""

    line: int
    device_id: bytes
    state: str
    reason: str
    channel: str
    flags: int


class Arrival(NamedTuple):
    """One message id at one receiver. target: device id on the long link, else `target_of` the token.

    copies: without DUP. texts: (title, body) where the receiver kept them. is_one_line: its channel has line ends
    of its own, so that texts are compared by `one_line`.
    """

    channel: str
    message_id: bytes
    target: bytes
    sha256: str
    copies: int
    texts: tuple[str, str] | None
    is_one_line: bool = False


class Evidence(NamedTuple):
    """Everything the proof is made from. device_tokens: device id -> `target_of` its token.

    rows_read: rows counted by the reader of the file. refused: by the reader or by the gateway.
    """

    rows_read: int
    refused: int
    counts: Sequence[TaskCounts]
    rows: Mapping[bytes, LedgerRow]
    arrivals: Sequence[Arrival]
    notifications: Mapping[int, Notification]
    device_tokens: Mapping[bytes, bytes]


class Proof(NamedTuple):
    """received: distinct message ids per channel. faults: why it is not conserved or not intact, for people."""

    conserved: bool
    texts_intact: bool
    duplicates: int
    received: dict[str, int]
    faults: list[str]


def target_of(token: str) -> bytes:
    """How a vendor's receiver names a target: the first half of sha256(token)."""
    return hashlib.sha256(token.encode()).digest()[:16]


def prove(evidence: Evidence, channels: Iterable[str]) -> Proof:
    """channels: those that receivers were asked for; a channel without receivers proves nothing."""
    received = {channel: _ids(evidence, channel) for channel in channels}
    books = [*_check_books(evidence), *_check_arrivals(evidence, received), *_check_targets(evidence)]
    texts = _check_texts(evidence)
    return Proof(
        conserved=not books,
        texts_intact=not texts,
        duplicates=_duplicates(evidence),
        received={channel: len(ids) for channel, ids in received.items()},
        faults=books + texts,
    )


def _ids(evidence: Evidence, channel: str) -> set[bytes]:
    return {arrival.message_id for arrival in evidence.arrivals if arrival.channel == channel}


def _check_books(evidence: Evidence) -> list[str]:
    faults: list[str] = []
    accepted = sum(one.accepted for one in evidence.counts)
    if accepted + evidence.refused != evidence.rows_read:
        faults.append(f"{accepted} rows accepted + {evidence.refused} refused, but {evidence.rows_read} read")
    if len(evidence.rows) != accepted:
        faults.append(f"{accepted} rows accepted, but the ledger lists {len(evidence.rows)}")
    for number, one in enumerate(evidence.counts, 1):
        if sum(one.states.values()) != one.accepted:
            faults.append(f"task {number}: states sum to {sum(one.states.values())}, accepted {one.accepted}")
        if not one.is_final:
            faults.append(f"task {number}: rows are open: {one.states}")
    told = Counter(row.state for row in evidence.rows.values())
    counted = Counter[str]()
    for one in evidence.counts:
        counted.update(one.states)
    if +counted != told:
        faults.append(f"the tasks count {dict(+counted)}, the rows are {dict(told)}")
    return faults


def _check_arrivals(evidence: Evidence, received: Mapping[str, set[bytes]]) -> list[str]:
    faults: list[str] = []
    taken: dict[str, set[bytes]] = {channel: set() for channel in received}
    for message_id, row in evidence.rows.items():
        if row.state in _TAKEN:
            taken.setdefault(row.channel, set()).add(message_id)
    for channel, ids in taken.items():
        found = received.get(channel, set())
        lost = ids - found
        # A row that may have arrived more than once has arrived on the way it left, too; the ledger has said so.
        extra = {one for one in found - ids if one not in evidence.rows or not _may_arrive_twice(evidence.rows[one])}
        if lost:
            faults.append(f"{channel}: {len(lost)} rows taken by receivers that do not have them{_some(lost)}")
        if extra:
            faults.append(f"{channel}: {len(extra)} messages at receivers that the ledger does not know{_some(extra)}")
    return faults


def _check_targets(evidence: Evidence) -> list[str]:
    wrong: set[bytes] = set()
    for arrival in evidence.arrivals:
        row = evidence.rows.get(arrival.message_id)
        if row is None:
            continue
        targets = evidence.notifications[row.line].targets
        expected = row.device_id if arrival.channel == LONG_LINK else evidence.device_tokens.get(row.device_id, b"")
        if any(row.device_id):
            is_right = arrival.target == expected and row.device_id in targets
        else:
            is_right = arrival.target in targets
        if not is_right:
            wrong.add(arrival.message_id)
    return [f"{len(wrong)} messages at targets they were not for{_some(wrong)}"] if wrong else []


def _check_texts(evidence: Evidence) -> list[str]:
    changed: dict[str, set[bytes]] = {}
    for arrival in evidence.arrivals:
        row = evidence.rows.get(arrival.message_id)
        if row is not None and not _is_intact(arrival, row, evidence.notifications[row.line]):
            changed.setdefault(arrival.channel, set()).add(arrival.message_id)
    return [f"{channel}: {len(ids)} messages with changed texts{_some(ids)}" for channel, ids in changed.items()]


def _is_intact(arrival: Arrival, row: LedgerRow, notification: Notification) -> bool:
    whole = whole_of(arrival, notification)
    if arrival.sha256 == digest_of(*whole):
        # Whole is right even for a row marked as cut: it may have been cut for another channel first.
        return True
    if not row.flags & Flag.TRUNCATED or arrival.texts is None:
        return False
    return arrival.sha256 == digest_of(*arrival.texts) and are_intact(arrival.texts, whole)


def whole_of(arrival: Arrival, notification: Notification) -> tuple[str, str]:
    """The texts as this receiver should see them, if nothing is cut."""
    title, body = notification.title, notification.body
    return (one_line(title), one_line(body)) if arrival.is_one_line else (title, body)


def one_line(text: str) -> str:
    """The text with one blank for each run of blanks and line ends, and none at its ends: what channels with line ends
    of their own are compared by."""
    return " ".join(text.split())


def _duplicates(evidence: Evidence) -> int:
    copies = Counter[bytes]()
    for arrival in evidence.arrivals:
        copies[arrival.message_id] += arrival.copies
    return sum(
        n - 1
        for message_id, n in copies.items()
        if n > 1 and (message_id not in evidence.rows or not _may_arrive_twice(evidence.rows[message_id]))
    )


def _may_arrive_twice(row: LedgerRow) -> bool:
    return bool(row.flags & _MAY_ARRIVE_TWICE) or row.state == "uncertain"


def _some(ids: set[bytes]) -> str:
    told = ", ".join(sorted(one.hex() for one in ids)[:_TOLD_MAX])
    return f": {told}" + (" ..." if len(ids) > _TOLD_MAX else "")
