"""What a simulator has received: one row per message id, made to hold millions.

A row is an entry of a dict from the 16 message id bytes to a position in columns that only grow. A row of a request
with many targets has no message id of its own: what names it there is the reference (callback parameter, bi_tag ...)
that the sender had echoed, together with the token; see `row_of`.

    digests  32 bytes a row   sha256(title UTF-8 + one zero byte + body UTF-8); an absent text is empty
    targets  16 bytes a row   first half of sha256(token): proves the addressee, keeps no token
    copies   uint32           how often the row arrived
    arrivals uint64           Unix ms of the first copy, by the simulators' clock
    references uint32         position in a list of the texts that name requests; 0 is the empty one

That is about 220 bytes of process memory a row, most of it the dict. Texts are kept only when asked for, up to a limit.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DIGEST_BYTES = 32
TARGET_BYTES = 16
BINARY_ROW = struct.Struct("<16s32s16sIQ")  # message id, digest, target, copies, arrived Unix ms: 76 bytes
ROWS_PER_CHUNK = 2_000  # rows handed out between two looks at the socket; about 300 KB of JSON


def digest_of(title: str, body: str) -> bytes:
    """sha256(title_utf8 + 0x00 + body_utf8), 32 bytes. A lone surrogate is kept as its three bytes."""
    return hashlib.sha256(
        title.encode("utf-8", "surrogatepass") + b"\x00" + body.encode("utf-8", "surrogatepass")
    ).digest()


def target_of(token: str) -> bytes:
    """First 16 bytes of sha256(token)."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()[:TARGET_BYTES]


@dataclass(frozen=True, slots=True)
class Message:
    """One accepted notification: 16 message id bytes, the device token as sent, the two texts (absent = empty).

    reference: what the sender wanted echoed in receipts, where it is no message id.
    """

    message_id: bytes
    token: str
    title: str
    body: str
    reference: str = ""


def row_of(reference: str, token: str, title: str, body: str, *, is_single: bool) -> Message:
    """The row that `reference` names for `token`.

    In a request with one target a reference in the form of a UUID (with or without hyphens) is the message id. Any
    other names many rows, of which sha256(reference + zero byte + token) picks one; an empty one names nothing and the
    row gets a fresh id.
    """
    named = message_id_in(reference) if is_single else None
    if named is not None:
        return Message(named, token, title, body)
    if not reference:
        return Message(uuid.uuid4().bytes, token, title, body)
    shown = reference.encode("utf-8", "replace").decode()  # it goes into GET /received, which is UTF-8
    return Message(target_of(f"{reference}\0{token}"), token, title, body, shown)


def message_id_in(text: str) -> bytes | None:
    """The 16 bytes of a UUID of 32 or 36 characters; None for any other text."""
    try:
        return uuid.UUID(text).bytes if len(text) in (32, 36) else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows at one moment. Columns are shared with the store, which only appends; `copies` may still rise."""

    ids: list[bytes]
    digests: bytearray
    targets: bytearray
    copies: array[int]
    arrivals: array[int]
    references: array[int]
    reference_texts: list[str]
    texts: dict[bytes, tuple[str, str]]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One dict per row, in order of arrival; `title` and `body` only where the texts were kept."""
        for index, message_id in enumerate(self.ids):
            row: dict[str, Any] = {
                "message_id": message_id.hex(),
                "sha256": self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES].hex(),
                "copies": self.copies[index],
                "target": self.targets[index * TARGET_BYTES : (index + 1) * TARGET_BYTES].hex(),
                "arrived_unix_ms": self.arrivals[index],
            }
            if self.references[index]:
                row["reference"] = self.reference_texts[self.references[index]]
            texts = self.texts.get(message_id)
            if texts is not None:
                row["title"], row["body"] = texts
            yield row

    def binary(self) -> Iterator[bytes]:
        """One BINARY_ROW per row, in order of arrival."""
        for index, message_id in enumerate(self.ids):
            yield BINARY_ROW.pack(
                message_id,
                self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES],
                self.targets[index * TARGET_BYTES : (index + 1) * TARGET_BYTES],
                self.copies[index],
                self.arrivals[index],
            )


class Received:
    """Rows received by one simulator.

    Args:
        rows_max: rows held; later ones are counted in `overflow` and not recorded (then a proof must fail loudly).
        keep_texts: keep title and body per message id.
        texts_bytes_max: UTF-8 bytes of kept texts; beyond it texts are counted in `texts_dropped`.
    """

    def __init__(self, *, rows_max: int, keep_texts: bool, texts_bytes_max: int) -> None:
        self.rows_max = rows_max
        self.keep_texts = keep_texts
        self.texts_bytes_max = texts_bytes_max
        self.reset()

    def reset(self) -> None:
        """No row is held. Snapshots taken before stay valid."""
        self._index: dict[bytes, int] = {}
        self._ids: list[bytes] = []
        self._digests = bytearray()
        self._targets = bytearray()
        self._copies: array[int] = array("I")
        self._arrivals: array[int] = array("Q")
        self._references: array[int] = array("I")
        self._reference_texts = [""]
        self._reference_index = {"": 0}
        self._texts: dict[bytes, tuple[str, str]] = {}
        self._texts_bytes = 0
        self.second_copies = 0
        self.overflow = 0
        self.texts_dropped = 0
        self.changed_texts = 0
        self.changed_targets = 0

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, message: Message, arrived_unix_ms: int) -> None:
        """Record one copy. A second copy with other texts or another target is counted as such; the first one stays."""
        digest = digest_of(message.title, message.body)
        target = target_of(message.token)
        index = self._index.get(message.message_id)
        if index is not None:
            self._copies[index] += 1
            self.second_copies += 1
            self.changed_texts += self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] != digest
            self.changed_targets += self._targets[index * TARGET_BYTES : (index + 1) * TARGET_BYTES] != target
            return
        if len(self._ids) >= self.rows_max:
            self.overflow += 1
            return
        self._index[message.message_id] = len(self._ids)
        self._ids.append(message.message_id)
        self._digests += digest
        self._targets += target
        self._copies.append(1)
        self._arrivals.append(arrived_unix_ms)
        self._references.append(self._position_of(message.reference))
        if self.keep_texts:
            self._keep_texts(message)

    def _position_of(self, reference: str) -> int:
        position = self._reference_index.get(reference)
        if position is None:
            position = self._reference_index[reference] = len(self._reference_texts)
            self._reference_texts.append(reference)
        return position

    def _keep_texts(self, message: Message) -> None:
        size = len(message.title.encode("utf-8", "surrogatepass")) + len(message.body.encode("utf-8", "surrogatepass"))
        if self._texts_bytes + size > self.texts_bytes_max:
            self.texts_dropped += 1
            return
        self._texts_bytes += size
        self._texts[message.message_id] = (message.title, message.body)

    def snapshot(self) -> Snapshot:
        """The rows held now; O(rows) for the list of ids, nothing else is copied.

        The byte columns are extended only at their end and are indexed only below the number of ids taken here, so
        rows that arrive while a snapshot is being sent change nothing in it but `copies`.
        """
        return Snapshot(
            list(self._ids),
            self._digests,
            self._targets,
            self._copies,
            self._arrivals,
            self._references,
            self._reference_texts,
            self._texts,
        )

    def statistics(self) -> dict[str, int | bool]:
        """Rows, copies in all, second copies, and what did not fit."""
        return {
            "rows": len(self._ids),
            "copies": len(self._ids) + self.second_copies,
            "second_copies": self.second_copies,
            "changed_texts": self.changed_texts,
            "changed_targets": self.changed_targets,
            "overflow": self.overflow,
            "texts_kept": len(self._texts),
            "texts_dropped": self.texts_dropped,
        }
