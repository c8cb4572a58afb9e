"""What the inbox wants to know of a batch's rows beside their address: app, birth, bytes, collapse id; as columns."""

from __future__ import annotations

import hashlib
from typing import TypedDict

import numpy as np

from gateway.batch import Batch
from gateway.columns import I64, Rows
from gateway.content import Variant


class StoredColumns(TypedDict):
    """(k,) int64 each."""

    apps: I64
    born_unix_ms: I64
    sizes: I64
    collapse: I64


def stored_columns(batch: Batch, rows: Rows) -> StoredColumns:
    """Of k rows; a loop over their contents. sizes: bytes of the text that a device is shown."""
    k = len(rows)
    own = np.zeros(k, np.int64)
    for column in batch.variables.values():
        own += column.lengths()[rows]
    return StoredColumns(
        apps=np.full(k, batch.app, np.int64),
        born_unix_ms=np.full(k, batch.born_unix_ms, np.int64),
        sizes=batch.of_contents(rows, text_bytes, np.int64) + own,
        collapse=batch.of_contents(rows, lambda variant: collapse_hash(batch.app, variant.collapse_id), np.int64),
    )


def text_bytes(variant: Variant) -> int:
    """Title and body, as UTF-8."""
    return len(variant.title.encode()) + len(variant.body.encode())


def collapse_hash(app: int, collapse_id: str) -> int:
    """63 bits, never 0, of a collapse id of an app; 0 without one."""
    if not collapse_id:
        return 0
    digest = hashlib.blake2b(b"%d/%s" % (app, collapse_id.encode()), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 or 1
