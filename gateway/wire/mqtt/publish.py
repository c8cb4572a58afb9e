"""MQTT 3.1.1 and 5.0 in columns: PUBLISH packets of many devices in one go, and many one-packet PUBACKs read in one go.

Source: OASIS MQTT 3.1.1 and 5.0, sections 3.3 (PUBLISH) and 3.4 (PUBACK).

One PUBLISH of QoS 1:

    0x32|DUP   remaining length (1..4)   topic length (2)   topic   packet id (2)   payload
    `- head, same for equal lengths -----------------------'        `- column      `- pieces

A 5.0 packet has its properties between packet id and payload; here they have one length for all rows of a call.
When no piece is ragged all rows have one length: they are filled as ONE 2-D array. Otherwise each row is joined once.
Every function has a plain twin in `tests/wire/mqtt/test_publish.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import (
    I64,
    U8,
    U16,
    U32,
    Bool,
    Pieces,
    TextColumn,
    fill,
    join,
    pieces_lengths,
    pieces_width,
)
from gateway.errors import LocalProtocolError
from gateway.wire.mqtt.fields import encode_variable
from gateway.wire.mqtt.packets import REMAINING_LENGTH_MAX

_PUBLISH_QOS_0 = 0x30
_PUBLISH_QOS_1 = 0x32
_DUP = 0x08
#: PUBACK and its remaining length, as the upper half of a big-endian number.
_PUBACK_HEAD = 0x4002


def publish_packets(
    topics: Pieces,
    packet_ids: U16 | None,
    payload: Pieces,
    n: int,
    *,
    is_duplicate: bool = False,
    properties: Pieces = (),
) -> U8 | list[bytes]:
    """n PUBLISH packets: a C-contiguous (n, width) uint8 array when all have one length, else one bytes per row.

    topics: pieces of n rows, each at most 65,535 bytes. packet_ids: (n,) none of them 0 for QoS 1, None for QoS 0.
    properties: what `publish_properties` made for 5.0, () for 3.1.1.
    Raises: LocalProtocolError when a packet would not fit MQTT's length fields, or has packet id 0, or DUP at QoS 0.
    """
    middle: Pieces = ()
    first = _PUBLISH_QOS_0
    if packet_ids is None:
        if is_duplicate:
            raise LocalProtocolError("DUP is set on a PUBLISH of QoS 0")
    else:
        if np.count_nonzero(packet_ids) < n:
            raise LocalProtocolError("packet identifier is 0")
        first = _PUBLISH_QOS_1 | (_DUP if is_duplicate else 0)
        middle = (packet_ids.astype(">u2").view(np.uint8).reshape(n, 2),)
    middle_width = pieces_width(middle + properties)
    if middle_width is None:
        raise LocalProtocolError("properties are ragged")
    middle += properties
    topic_width = pieces_width(topics)
    payload_width = pieces_width(payload)
    if topic_width is not None and payload_width is not None:
        head = _head(first, topic_width, middle_width + payload_width)
        return fill((head, *topics, *middle, *payload), 0, n)
    topic_lengths: I64 = pieces_lengths(topics, n)
    rest_lengths: I64 = pieces_lengths(payload, n) + middle_width
    return join((_heads(first, topic_lengths, rest_lengths), *topics, *middle, *payload), 0, n)


#: The one downlink topic of a device has this alias, where the client takes any.
DOWNLINK_ALIAS = 1
_ALIAS = b"\x23" + DOWNLINK_ALIAS.to_bytes(2, "big")


def publish_properties(expiry_s: U32 | None, *, has_alias: bool = False) -> Pieces:
    """The property section of n PUBLISH packets of 5.0 (section 3.3.2.3): what is left of each message's life, or none,
    and the topic alias.

    expiry_s: (n,) seconds, or None for rows that never expire. has_alias: the topic sets the alias, or is left out.
    """
    alias = _ALIAS if has_alias else b""
    if expiry_s is None:
        return (bytes((len(alias),)) + alias,)
    head = bytes((5 + len(alias),)) + alias + b"\x02"
    return (head, expiry_s.astype(">u4").view(np.uint8).reshape(len(expiry_s), 4))


def publish_lengths(topic_bytes: int, middle_bytes: int, payload_lengths: I64) -> I64:
    """(n,) bytes of whole PUBLISH packets: middle_bytes are those of packet id and properties."""
    remaining = payload_lengths + (2 + topic_bytes + middle_bytes)
    digits = 1 + (remaining >= 1 << 7).astype(np.int64) + (remaining >= 1 << 14) + (remaining >= 1 << 21)
    lengths: I64 = remaining + digits + 1
    return lengths


def _head(first: int, topic_bytes: int, rest_bytes: int) -> bytes:
    """Fixed header and topic length of one packet."""
    remaining = 2 + topic_bytes + rest_bytes
    if topic_bytes > 65_535:
        raise LocalProtocolError(f"topic is {topic_bytes} bytes, limit 65535")
    if remaining > REMAINING_LENGTH_MAX:
        raise LocalProtocolError(f"packet is {remaining} bytes, limit {REMAINING_LENGTH_MAX}")
    return bytes((first,)) + encode_variable(remaining) + topic_bytes.to_bytes(2, "big")


def _heads(first: int, topic_lengths: I64, rest_lengths: I64) -> U8 | TextColumn:
    """Heads of rows of different length: columns where all remaining lengths take two bytes, as nearly all do, else
    encoded once per distinct pair of lengths."""
    remaining = 2 + topic_lengths + rest_lengths
    if len(remaining) and int(remaining.min()) >= 1 << 7 and int(remaining.max()) < 1 << 14:
        out = np.empty((len(remaining), 5), np.uint8)
        out[:, 0] = first
        # MQTT 3.1.1 section 2.2.3: seven bits a byte, the lowest first, the top bit says that more follow.
        out[:, 1] = remaining & 0x7F | 0x80
        out[:, 2] = remaining >> 7
        out[:, 3] = topic_lengths >> 8
        out[:, 4] = topic_lengths & 0xFF
        return out
    known: dict[tuple[int, int], bytes] = {}
    heads: list[bytes] = []
    for lengths in zip(topic_lengths.tolist(), rest_lengths.tolist(), strict=True):
        head = known.get(lengths)
        if head is None:
            head = known[lengths] = _head(first, *lengths)
        heads.append(head)
    return TextColumn.from_rows(heads)


class Pubacks(NamedTuple):
    """Which of many reads are PUBACKs and nothing else, and what they acknowledge."""

    is_puback: Bool
    """(n,) over the reads."""
    packet_ids: U16
    """Those of all true reads, in their order, never 0: a read with that identifier goes to the packet parser."""
    counts: I64 | None = None
    """(number of true reads,) how many each has; None: one each."""

    def take(self, which: Bool) -> Pubacks:
        """The same without the true reads that are not chosen. which: (number of true reads,)."""
        is_puback = self.is_puback.copy()
        is_puback[self.is_puback] = which
        if self.counts is None:
            return Pubacks(is_puback, self.packet_ids[which])
        return Pubacks(is_puback, self.packet_ids[np.repeat(which, self.counts)], self.counts[which])


def split_pubacks(reads: Sequence[bytes]) -> Pubacks:
    """The commonest uplink by far, one PUBACK of 4 bytes or several, found in all reads of a turn at once."""
    n = len(reads)
    lengths = np.fromiter(map(len, reads), np.int64, n)
    is_puback: Bool = lengths & 3 == 0
    n_even = np.count_nonzero(is_puback)
    if not n_even:
        return Pubacks(is_puback, np.zeros(0, np.uint16))
    even = reads if n_even == n else [data for data in reads if not len(data) & 3]
    found = read_pubacks(np.frombuffer(b"".join(even), np.uint8).reshape(-1, 4))
    if len(found.is_puback) == n_even:
        is_puback[is_puback] = found.is_puback
        return Pubacks(is_puback, found.packet_ids)
    counts = lengths[is_puback] >> 2
    # No read is empty: an end is no read.
    are_all = np.logical_and.reduceat(found.is_puback, np.cumsum(counts) - counts)
    is_puback[is_puback] = are_all
    packet_ids = found.packet_ids[np.repeat(are_all, counts)[found.is_puback]]
    return Pubacks(is_puback, packet_ids, counts[are_all])


def are_pubacks(words: U8) -> bool:
    """Reads of four bytes each, (n, 4) C-contiguous, are PUBACKs all of them, and none has identifier 0: the usual
    turn, for which nothing need be picked out."""
    numbers = words.view(">u4")
    # Between their smallest and largest numbers there is no other head.
    low, high = int(numbers.min()), int(numbers.max())
    return low >> 16 == _PUBACK_HEAD == high >> 16 and low & 0xFFFF != 0


def packet_ids_of(words: U8) -> U16:
    """(n,) of reads that are PUBACKs all of them."""
    ids: U16 = words.view(">u4").ravel().astype(np.uint16)
    return ids


def read_pubacks(words: U8) -> Pubacks:
    """The same for reads that are known to have four bytes each: (n, 4)."""
    numbers = np.ascontiguousarray(words).view(">u4").ravel()
    packet_ids = numbers.astype(np.uint16)
    is_puback: Bool = (numbers >> np.uint32(16) == np.uint32(_PUBACK_HEAD)) & (packet_ids != 0)
    if np.count_nonzero(is_puback) < len(is_puback):
        packet_ids = packet_ids[is_puback]
    return Pubacks(is_puback, packet_ids)
