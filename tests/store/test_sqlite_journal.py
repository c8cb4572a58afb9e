"""The SQLite journal keeps the contract, and what is SQLite's own: locks, limits, damaged rows, older programs."""

from __future__ import annotations

import itertools
import sqlite3
from pathlib import Path

import pytest
from contract import EPOCH, NEWER, OLDER, JournalContract, record_of, replayed, together

from gateway.errors import StaleEpoch, StoreCorrupt, StoreFull, StoreInUse, StoreReadOnly
from gateway.store import threaded
from gateway.store.ports import JournalRecord
from gateway.store.sqlite_journal import SqliteJournal


class TestSqliteJournal(JournalContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> object:
        self.path = tmp_path
        self.numbers = itertools.count()
        self.opened: list[SqliteJournal] = []
        yield
        for journal in self.opened:
            journal.close()

    def open(self) -> SqliteJournal:
        journal = SqliteJournal(self.path / f"{next(self.numbers)}.db")
        self.opened.append(journal)
        return journal


def big(name: int, size: int = 1000) -> JournalRecord:
    return JournalRecord(1, (bytes([name]) * size,))


async def test_a_reopened_journal_has_what_was_appended_and_not_released(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    positions = await journal.append(NEWER, [record_of(name) for name in range(5)])
    await journal.release(NEWER, positions[2:])
    left = await replayed(journal)
    journal.close()
    journal = SqliteJournal(path)
    assert await replayed(journal) == left
    assert (await journal.append(NEWER, [record_of(1)]))[0] > positions[-1]
    for epoch in (OLDER, EPOCH):
        with pytest.raises(StaleEpoch):
            await journal.append(epoch, [record_of(1)])
    journal.close()


async def test_appends_that_wait_share_one_transaction(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    statements: list[str] = []
    journal._database.set_trace_callback(statements.append)
    await together(*(lambda n=name: journal.append(EPOCH, [record_of(n)]) for name in range(50)))
    # One statement is one transaction and three entries into the interpreter; the epoch is announced once.
    inserts = [text for text in statements if text.startswith("INSERT")]
    assert len(inserts) <= 2
    assert len(statements) <= len(inserts) + 1
    assert len(await replayed(journal)) == 50
    journal.close()


async def test_a_replay_goes_on_where_its_read_ahead_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threaded, "READ_BYTES_MAX", 1500)
    journal = SqliteJournal(tmp_path / "journal.db")
    await journal.append(EPOCH, [big(name) for name in range(7)])
    assert [record[1][0] for _, record in await replayed(journal)] == list(range(7))
    journal.close()


async def test_a_database_is_opened_once(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    with pytest.raises(StoreInUse):
        SqliteJournal(tmp_path / "journal.db")
    journal.close()


async def test_a_database_of_a_newer_program_is_refused_by_name(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "journal.db") as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(StoreCorrupt, match="schema 2"):
        SqliteJournal(tmp_path / "journal.db")


async def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"something else" * 1000)
    with pytest.raises(StoreCorrupt, match=r"journal\.db"):
        SqliteJournal(tmp_path / "journal.db")


async def test_a_damaged_record_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    positions = await journal.append(EPOCH, [big(name) for name in range(3)])
    journal.close()
    data = path.read_bytes()
    at = data.index(bytes([1]) * 1000)
    path.write_bytes(data[:at] + b"x" + data[at + 1 :])
    journal = SqliteJournal(path)
    with pytest.raises(StoreCorrupt, match=f"position {positions[1]}") as damage:
        await replayed(journal)
    assert damage.value.position == positions[1]
    assert [at for at, _ in await replayed(journal, positions[1] + 1)] == [positions[2]]
    journal.close()


async def test_a_full_database_is_named_what_was_there_stays_and_release_makes_room(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", bytes_max=200_000)
    positions: list[int] = []
    with pytest.raises(StoreFull, match=r"journal\.db"):  # noqa: PT012
        while True:
            positions += await journal.append(EPOCH, [big(1, 20_000), big(2, 100)])
    assert [at for at, _ in await replayed(journal)] == positions
    await journal.release(EPOCH, positions[:4])
    await journal.append(EPOCH, [big(3, 20_000)])
    journal.close()


async def test_a_read_only_database_is_named_and_can_be_read(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    (at,) = await journal.append(EPOCH, [big(1)])
    journal._database.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreReadOnly, match=r"journal\.db"):
        await journal.append(EPOCH, [big(2)])
    with pytest.raises(StoreReadOnly):
        await journal.release(EPOCH, [at])
    assert [record[1][0] for _, record in await replayed(journal)] == [1]
    journal.close()
