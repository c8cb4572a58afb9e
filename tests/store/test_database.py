"""What a database of a store keeps when its files are pulled away under it, and when a commit was cut in its middle."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import trio
from contract import EPOCH, tags_of
from contract_inbox import rows_for
from contract_ledger import page_for

from gateway.errors import StoreError
from gateway.store.database import Database, named_errors
from gateway.store.ports import InboxQuery, PageKey
from gateway.store.sqlite_inbox import SqliteInbox
from gateway.store.sqlite_ledger import SqliteLedgerArchive

LIMITS = {"rows_per_device_max": 1000, "rows_max": 1000, "bytes_per_device_max": 1 << 40, "bytes_max": 1 << 40}


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_a_database_that_is_removed_under_us_takes_nothing_more(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "inbox.db"
    inbox = SqliteInbox(path, **LIMITS)
    await inbox.put(EPOCH, rows_for([(0, 1)]))
    path.with_name(path.name + suffix).unlink()
    with pytest.raises(StoreError, match="removed while it was in use"):
        await inbox.put(EPOCH, rows_for([(0, 2)]))
    # What it had can be asked for, and nothing of the refused call is counted.
    assert (await inbox.peek(bytes(rows_for([(0, 1)]).device_ids[0]), 10)).tolist() == [1]
    assert len(inbox) == 1
    inbox.close()


async def test_a_database_that_was_replaced_by_another_takes_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    archive = SqliteLedgerArchive(path)
    await archive.write(EPOCH, [page_for(1)])
    shutil.copyfile(path, tmp_path / "other.db")
    (tmp_path / "other.db").replace(path)
    with pytest.raises(StoreError, match="removed while it was in use"):
        await archive.write(EPOCH, [page_for(2)])
    archive.close()


@pytest.mark.parametrize("seed", range(6))
async def test_a_commit_that_was_cut_leaves_what_was_durable_before(tmp_path: Path, seed: int) -> None:
    """The power goes while the last commit is written: some of its bytes are on the disk, others are not."""
    chance = random.Random(seed)
    log = tmp_path / "inbox.db-wal"
    inbox = SqliteInbox(tmp_path / "inbox.db", **LIMITS)
    archive = SqliteLedgerArchive(tmp_path / "ledger.db")
    noise = np.random.default_rng(seed)
    for number in range(chance.randrange(1, 20)):
        await inbox.put(EPOCH, rows_for([(0, 2 * number), (1, 2 * number + 1)]))
    await archive.write(EPOCH, [page_for(1, noise.bytes(50_000))])
    durable_bytes = {log: log.stat().st_size, tmp_path / "ledger.db-wal": (tmp_path / "ledger.db-wal").stat().st_size}
    rows = len(inbox)
    await inbox.put(EPOCH, rows_for([(2, tag) for tag in range(100, 200)]))
    await archive.write(EPOCH, [page_for(1, b"new" * 50_000), page_for(2, noise.bytes(50_000))])
    copies = tmp_path / "after"
    copies.mkdir()
    for path, size in durable_bytes.items():
        data = bytearray(path.read_bytes())
        assert len(data) > size
        cut = chance.randrange(size, len(data))
        # Sectors may also have been written out of order: behind the cut stands anything.
        (copies / path.name).write_bytes(bytes(data[:cut]) + chance.randbytes(len(data) - cut))
        name = path.name.removesuffix("-wal")
        shutil.copyfile(tmp_path / name, copies / name)
    inbox.close()
    archive.close()
    inbox = SqliteInbox(copies / "inbox.db", **LIMITS)
    assert len(inbox) == (await inbox.count(InboxQuery())).rows == rows
    assert not len((await inbox.find(InboxQuery(tags=[(100, 200)]), 1000)).tags)
    assert (await inbox.put(EPOCH, rows_for([(2, 300)]))).kept.tolist() == [1]
    inbox.close()
    archive = SqliteLedgerArchive(copies / "ledger.db")
    found = await archive.read(PageKey(1000, 1))
    assert found is not None
    assert len(found) == 100_000
    assert await archive.read(PageKey(1000, 2)) is None
    archive.close()


async def test_a_slow_disk_holds_nobody_up_but_those_who_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Database.commit

    def slow(self: Database) -> None:
        time.sleep(0.2)
        kept(self)

    inbox = SqliteInbox(tmp_path / "inbox.db", **LIMITS)
    monkeypatch.setattr(Database, "commit", slow)
    turns = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.put, EPOCH, rows_for([(0, 1)]))
        # These come while the first is written, and share the next turn.
        for tag in range(2, 40):
            nursery.start_soon(inbox.put, EPOCH, rows_for([(0, tag)]))
        with trio.move_on_after(0.15):
            while True:
                turns += 1
                await trio.sleep(0)
    assert turns > 100
    assert sorted((await inbox.peek(bytes(rows_for([(0, 1)]).device_ids[0]), 100)).tolist()) == [*range(1, 40)]
    assert await inbox.forget(EPOCH, tags_of(1)) == 1
    inbox.close()


def test_what_the_system_refuses_is_told_with_its_path_once_and_without_a_number(tmp_path: Path) -> None:
    missing, file = tmp_path / "missing", tmp_path / "file"
    file.touch()
    with pytest.raises(StoreError) as told, named_errors(str(missing)):
        missing.read_bytes()
    assert str(told.value) == f"{missing}: No such file or directory"
    # Another path than the place is said.
    with pytest.raises(StoreError) as told, named_errors(str(file)):
        (file / "backup.json").read_bytes()
    assert str(told.value) == f"{file}: Not a directory ({file / 'backup.json'})"
