"""Stored rows go to the inboxes of their owners, whole and once, also when it was cut before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from contract import EPOCH

from gateway.columns import U8
from gateway.store.database import Database
from gateway.store.inbox_moves import inbox_path, move_rows
from gateway.store.ports import InboxRows
from gateway.store.sqlite_inbox import SqliteInbox

LIMITS = {"rows_per_device_max": 100, "rows_max": 10_000, "bytes_per_device_max": 1 << 20, "bytes_max": 1 << 30}


def by_first_byte(workers: int) -> object:
    return lambda ids: (ids[:, 0] % workers).astype(np.uint8)


def rows_of(n: int) -> InboxRows:
    ids: U8 = np.zeros((n, 16), np.uint8)
    ids[:, 0] = np.arange(n) % 7
    return InboxRows(ids, np.arange(n, dtype=np.int64), np.full(n, 10**13, np.int64))


def opened(folder: Path, worker: int) -> SqliteInbox:
    return SqliteInbox(inbox_path(folder, worker), worker=worker, **LIMITS)


async def test_rows_are_where_their_devices_are_whatever_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "synchronous", "OFF")
    monkeypatch.setattr("gateway.store.inbox_moves._ROWS", 9)
    first = opened(tmp_path, 0)
    await first.put(EPOCH, rows_of(70))
    first.close()
    for workers in (3, 2, 1):
        moved = move_rows(tmp_path, by_first_byte(workers), workers_max=64)  # type: ignore[arg-type]
        assert moved > 0
        assert move_rows(tmp_path, by_first_byte(workers), workers_max=64) == 0  # type: ignore[arg-type]
        seen: list[int] = []
        for worker in range(3):
            inbox = opened(tmp_path, worker)
            for device in range(7):
                tags = await inbox.peek(bytes([device, *[0] * 15]), 100)
                if device % workers == worker:
                    assert tags.tolist() == list(range(device, 70, 7))
                    seen += tags.tolist()
                else:
                    assert not len(tags)
            inbox.close()
        assert sorted(seen) == list(range(70))


async def test_a_row_that_stands_in_both_after_a_cut_is_stored_once(tmp_path: Path) -> None:
    for worker in (0, 1):
        inbox = opened(tmp_path, worker)
        await inbox.put(EPOCH, rows_of(2))
        inbox.close()
    move_rows(tmp_path, by_first_byte(2), workers_max=64)  # type: ignore[arg-type]
    counts = []
    for worker in (0, 1):
        inbox = opened(tmp_path, worker)
        counts.append(len(inbox))
        inbox.close()
    assert counts == [1, 1]
