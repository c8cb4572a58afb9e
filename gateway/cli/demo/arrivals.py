"""What receivers have, as the proof wants it: a message id for each arrival.

A request that carries one content for many targets names no message id. Its receiver knows the callback parameter, of
which the first 22 hex digits are the batch, and the target; the row is the one of that batch that was for that target.
Where one target got several messages of a batch, the texts decide, and what the proof then finds is a wrong text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from gateway.cli.demo.channels import CHANNELS
from gateway.cli.demo.cutting import are_intact, digest_of
from gateway.cli.demo.proof import Arrival, LedgerRow, Notification, one_line, whole_of

#: Of a message id and of a callback parameter alike: time, journal and sequence of the batch; in a message id, version
#: and variant of the UUID stand between (docs/message-id.md).
_BATCH_DIGITS = 22
#: Digits of a callback parameter that name many rows.
_REFERENCE_DIGITS = 46

_Key = tuple[int, bytes]


class _Open(NamedTuple):
    """A row of the ledger that no arrival has been found for."""

    message_id: bytes
    notification: Notification


class Rows:
    """The rows of the ledger by batch and target. device_tokens: device id -> `target_of` its token."""

    def __init__(
        self,
        rows: Mapping[bytes, LedgerRow],
        notifications: Mapping[int, Notification],
        device_tokens: Mapping[bytes, bytes],
    ) -> None:
        self._open: dict[_Key, list[_Open]] = defaultdict(list)
        for message_id, row in rows.items():
            notification = notifications[row.line]
            if any(row.device_id):
                targets: Iterable[bytes] = (device_tokens.get(row.device_id, b""),)
            else:
                targets = notification.targets
            for target in targets:
                self._open[_batch_of(message_id), target].append(_Open(message_id, notification))

    def named(self, arrival: Arrival, reference: str) -> Arrival:
        """The arrival under the message id of its row; as it came where there is none."""
        if len(reference) != _REFERENCE_DIGITS:
            return arrival
        found = self._open.get((int(reference[:_BATCH_DIGITS], 16) >> 6, arrival.target), [])
        for is_it in (_is_whole, _is_cut):
            for one in found:
                if is_it(arrival, one.notification):
                    found.remove(one)
                    return arrival._replace(message_id=one.message_id)
        return arrival._replace(message_id=found.pop(0).message_id) if found else arrival


def _batch_of(message_id: bytes) -> int:
    """Time, journal and sequence as one number, as a callback parameter has them in its first 82 bits."""
    value = int.from_bytes(message_id, "big")
    unix_ms, journal, sequence = value >> 80, value >> 64 & 0xFFF, value >> 40 & 0x3FFFFF
    return unix_ms << 34 | journal << 22 | sequence


def _is_whole(arrival: Arrival, notification: Notification) -> bool:
    return arrival.sha256 == digest_of(*whole_of(arrival, notification))


def _is_cut(arrival: Arrival, notification: Notification) -> bool:
    return arrival.texts is not None and are_intact(arrival.texts, whole_of(arrival, notification))


def vendor_arrivals(received: Iterable[Mapping[str, Any]], rows: Rows) -> Iterator[Arrival]:
    """received: what `GET /received` of the simulators says."""
    for row in received:
        target, message_id = bytes.fromhex(row["target"]), bytes.fromhex(row["message_id"])
        arrival = Arrival(row["simulator"], message_id, target, row["sha256"], row["copies"], texts_of(row))
        yield rows.named(_as_message(arrival), row.get("reference", ""))


def _as_message(arrival: Arrival) -> Arrival:
    """The arrival with the texts of its message, where the vendor knows parameters of a template only."""
    read, is_one_line = CHANNELS[arrival.channel].texts, CHANNELS[arrival.channel].is_one_line
    if read is None or arrival.texts is None or digest_of(*arrival.texts) != arrival.sha256:
        return arrival
    try:
        texts = read(*arrival.texts)
    except (ValueError, KeyError, TypeError):
        return arrival
    if is_one_line:
        texts = one_line(texts[0]), one_line(texts[1])
    return arrival._replace(texts=texts, sha256=digest_of(*texts), is_one_line=is_one_line)


def texts_of(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Title and body, where the receiver kept them."""
    return (row["title"], row["body"]) if "title" in row else None
