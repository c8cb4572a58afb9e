"""Consents in SQLite: one database of keyed hashes and counts (core/consents.py). No openid stands in it.

    consents.db  consents  key (16 bytes) -> left

Written are the counts that a key has, not what was added to it, so a write may be done twice.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trio

from gateway.batch import OwnershipEpoch
from gateway.consent_columns import Changed
from gateway.errors import StoreCorrupt
from gateway.store.database import Database, EpochGuard, named_errors
from gateway.store.turns import Turns

#: 4 GiB hold some 90 million keys; a limit beyond any table in memory.
BYTES_MAX = 4 << 30
#: Keys of one turn of a load: some 30 ms.
_LOAD_KEYS = 65_536
_KEY_BYTES = 16
SCHEMA = ("CREATE TABLE consents (key BLOB PRIMARY KEY, left INTEGER NOT NULL) WITHOUT ROWID;",)


class SqliteConsents:
    """Opening blocks. Raises StoreInUse, StoreCorrupt, StoreFull, StoreReadOnly, StoreError."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, SCHEMA, bytes_max=BYTES_MAX)
        self._epochs = EpochGuard([self.database])
        self.turns = Turns(self.database.place, commit=self.database.commit, undo=self.database.undo)

    def close(self) -> None:
        """Blocks; no call may be under way."""
        self.database.close()

    async def write(self, epoch: OwnershipEpoch, changed: Changed) -> None:
        """These keys have these counts, durably; those with none are gone. Raises StaleEpoch, StoreError."""
        await trio.lowlevel.checkpoint()
        number = self._epochs.check(epoch)
        await self.turns.run(lambda: self._write(number, changed))

    async def load(self) -> Changed:
        """All of it. Raises StoreError."""
        last, blobs, counts = b"", list[bytes](), list[int]()
        while rows := await self.turns.run(lambda after=last: self._read(after)):  # type: ignore[misc]
            blobs += [key for key, _ in rows]
            counts += [left for _, left in rows]
            last = rows[-1][0]
        if any(len(key) != _KEY_BYTES for key in blobs):
            raise StoreCorrupt(self.database.place, "a key is not 16 bytes")
        keys = np.frombuffer(b"".join(blobs), "<u8").reshape(-1, 2)
        return Changed(keys, np.array(counts, np.uint16))

    def _write(self, epoch: int, changed: Changed) -> None:
        rows = [
            (key.tobytes(), left)
            for key, left in zip(changed.keys.astype("<u8", copy=False), changed.left.tolist(), strict=True)
        ]
        with named_errors(self.database.place):
            run = self.database.write(epoch).executemany
            run("REPLACE INTO consents VALUES (?, ?)", [row for row in rows if row[1]])
            run("DELETE FROM consents WHERE key = ?", [(key,) for key, left in rows if not left])

    def _read(self, after: bytes) -> list[tuple[bytes, int]]:
        with named_errors(self.database.place):
            query = "SELECT key, left FROM consents WHERE key > ? ORDER BY key LIMIT ?"
            return self.database.read.execute(query, (after, _LOAD_KEYS)).fetchall()
