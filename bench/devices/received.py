"""What the fleet has received: one row per message id and device, in columns that only grow.

`copies` counts arrivals without the DUP flag, `copies_dup` those with it: a redelivery after a lost acknowledgement is
MQTT doing its work, a second copy without DUP is a duplicate.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from typing import Any

DIGEST_BYTES = 32
KEY_BYTES = 32  # message id and device id, 16 bytes each


def digest_of(title: str, body: str) -> bytes:
    """sha256(title UTF-8 + one zero byte + body UTF-8)."""
    return hashlib.sha256(
        title.encode("utf-8", "surrogatepass") + b"\x00" + body.encode("utf-8", "surrogatepass")
    ).digest()


class Received:
    """Rows received by all devices of one fleet.

    Args:
        rows_max: rows held; later ones are counted in `overflow` and not recorded.
        keep_texts: keep title and body of each row, up to `texts_bytes_max` UTF-8 bytes in all.
    """

    def __init__(self, *, rows_max: int, keep_texts: bool, texts_bytes_max: int) -> None:
        self._rows_max = rows_max
        self._keep_texts = keep_texts
        self._texts_bytes_max = texts_bytes_max
        self._index: dict[bytes, int] = {}
        self._keys: list[bytes] = []
        self._digests = bytearray()
        self._copies: array[int] = array("I")
        self._copies_dup: array[int] = array("I")
        self._arrivals: array[int] = array("Q")
        self._texts: dict[int, tuple[str, str]] = {}
        self._texts_bytes = 0
        self.overflow = 0
        self.texts_dropped = 0
        self.changed_texts = 0

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, message_id: bytes, device_id: bytes, title: str, body: str, *, is_dup: bool, unix_ms: int) -> None:
        """Record one arrival. A later copy with other texts is counted in `changed_texts`; the first texts stay."""
        key = message_id + device_id
        digest = digest_of(title, body)
        index = self._index.get(key)
        if index is None:
            if len(self._keys) >= self._rows_max:
                self.overflow += 1
                return
            index = self._index[key] = len(self._keys)
            self._keys.append(key)
            self._digests += digest
            self._copies.append(0)
            self._copies_dup.append(0)
            self._arrivals.append(unix_ms)
            if self._keep_texts:
                self._keep(index, title, body)
        elif self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] != digest:
            self.changed_texts += 1
        (self._copies_dup if is_dup else self._copies)[index] += 1

    def rows(self) -> Iterator[dict[str, Any]]:
        """One dict per row in order of arrival; those that arrive meanwhile are included."""
        for index, key in enumerate(self._keys):
            row: dict[str, Any] = {
                "message_id": key[:16].hex(),
                "device_id": key[16:].hex(),
                "sha256": self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES].hex(),
                "copies": self._copies[index],
                "copies_dup": self._copies_dup[index],
                "arrived_unix_ms": self._arrivals[index],
            }
            texts = self._texts.get(index)
            if texts is not None:
                row["title"], row["body"] = texts
            yield row

    def statistics(self) -> dict[str, int]:
        """Rows, arrivals with and without DUP, and what did not fit."""
        return {
            "rows": len(self._keys),
            "copies": sum(self._copies),
            "copies_dup": sum(self._copies_dup),
            "changed_texts": self.changed_texts,
            "overflow": self.overflow,
            "texts_dropped": self.texts_dropped,
        }

    def _keep(self, index: int, title: str, body: str) -> None:
        size = len(title.encode("utf-8", "surrogatepass")) + len(body.encode("utf-8", "surrogatepass"))
        if self._texts_bytes + size > self._texts_bytes_max:
            self.texts_dropped += 1
            return
        self._texts_bytes += size
        self._texts[index] = (title, body)
