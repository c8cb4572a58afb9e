"""The inbox on disk keeps the contract, and what is its own: restarts, counters that err on one side only, a disk that
is full, and what a row costs."""

from __future__ import annotations

import itertools
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from contract import EPOCH, NEWER, tags_of
from contract_inbox import DEVICES, FAR_UNIX_MS, InboxContract, peeked, rows_for
from hypothesis import given

from gateway.errors import StaleEpoch, StoreCorrupt, StoreFull, StoreInUse
from gateway.store import inbox_filing
from gateway.store.database import Database
from gateway.store.inbox_filing import Filing, device_hash, device_hashes
from gateway.store.ports import InboxQuery, InboxRows
from gateway.store.sqlite_inbox import SqliteInbox

LIMITS = {"rows_per_device_max": 100, "rows_max": 1000, "bytes_per_device_max": 1 << 40, "bytes_max": 1 << 40}


class _OnDisk(InboxContract):
    buckets = 1 << 20

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
        monkeypatch.setattr(Database, "synchronous", "OFF")
        monkeypatch.setattr(inbox_filing, "BUCKETS", self.buckets)
        monkeypatch.setattr(inbox_filing, "BUCKETS_MAX", self.buckets)
        self.path = tmp_path
        self.numbers = itertools.count()
        self.opened: list[SqliteInbox] = []
        yield
        self.close()

    def close(self) -> None:
        for inbox in self.opened:
            inbox.close()
        self.opened.clear()

    def open(self, **limits: int) -> SqliteInbox:
        self.close()
        inbox = SqliteInbox(self.path / f"{next(self.numbers)}.db", **LIMITS | limits)
        self.opened.append(inbox)
        return inbox


class TestSqliteInbox(_OnDisk):
    pass


class TestSqliteInboxWhoseDevicesShareOneCounter(_OnDisk):
    """Every look has to go to the database."""

    buckets = 1


def reopened(inbox: SqliteInbox, path: Path) -> SqliteInbox:
    inbox.close()
    return SqliteInbox(path, **LIMITS)


async def test_a_reopened_inbox_has_its_rows_counts_and_order(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    inbox = SqliteInbox(path, **LIMITS)
    await inbox.put(NEWER, rows_for([(0, 30), (1, 1), (0, 10)])._replace(sizes=tags_of(5, 6, 7)))
    inbox = reopened(inbox, path)
    assert await peeked(inbox) == [[30, 10], [1], []]
    assert (len(inbox), (await inbox.count(InboxQuery())).bytes) == (3, 18)
    assert inbox.holds(DEVICES[0])
    assert not inbox.holds(DEVICES[2])
    await inbox.put(NEWER, rows_for([(0, 5)]))
    assert (await peeked(inbox))[0] == [30, 10, 5]
    with pytest.raises(StaleEpoch):
        await inbox.put(EPOCH, rows_for([(0, 6)]))
    inbox.close()


async def test_a_device_without_rows_costs_no_read(tmp_path: Path) -> None:
    inbox = SqliteInbox(tmp_path / "inbox.db", **LIMITS)
    await inbox.put(EPOCH, rows_for([(0, 1)]))
    statements: list[str] = []
    inbox.database.read.set_trace_callback(statements.append)
    assert (await inbox.peek(DEVICES[1], 10)).tolist() == []
    assert statements == []
    await inbox.forget(EPOCH, tags_of(1))
    statements.clear()
    assert (await inbox.peek(DEVICES[0], 10)).tolist() == []
    assert statements == []
    inbox.close()


async def test_a_full_disk_refuses_a_put_and_leaves_what_was_there(tmp_path: Path) -> None:
    inbox = SqliteInbox(tmp_path / "inbox.db", **LIMITS | {"rows_per_device_max": 10_000, "rows_max": 1 << 30})
    await inbox.put(EPOCH, rows_for([(0, 1)]))
    inbox.database.read.execute("PRAGMA max_page_count = 1")
    many = np.arange(10, 100_010)
    ids = np.zeros((len(many), 16), np.uint8)
    ids[:, :8] = many.astype("<u8").view(np.uint8).reshape(-1, 8)
    with pytest.raises(StoreFull):
        await inbox.put(EPOCH, InboxRows(ids, many, np.full(len(many), FAR_UNIX_MS)))
    assert len(inbox) == 1
    assert await peeked(inbox) == [[1], [], []]
    assert not inbox.holds(ids[5].tobytes())
    inbox.database.read.execute("PRAGMA max_page_count = 100000")
    assert (await inbox.put(EPOCH, rows_for([(1, 2)]))).kept.tolist() == [1]
    inbox.close()


async def test_a_second_process_and_a_newer_schema_are_refused(tmp_path: Path) -> None:
    inbox = SqliteInbox(tmp_path / "inbox.db", **LIMITS)
    with pytest.raises(StoreInUse):
        SqliteInbox(tmp_path / "inbox.db", **LIMITS)
    inbox.database.read.execute("PRAGMA user_version = 7")
    inbox.close()
    with pytest.raises(StoreCorrupt, match=r"inbox\.db: database has schema 7, this version knows up to 2"):
        SqliteInbox(tmp_path / "inbox.db", **LIMITS)


async def test_a_row_costs_a_few_hundred_bytes_of_disk_at_most(tmp_path: Path) -> None:
    n = 20_000
    inbox = SqliteInbox(tmp_path / "inbox.db", **LIMITS | {"rows_max": 1 << 30})
    ids = np.random.default_rng(1).integers(0, 256, (n, 16), np.uint8)
    for first in range(0, n, 5000):
        at = np.arange(first, first + 5000)
        await inbox.put(
            EPOCH, InboxRows(ids[at], at + (1 << 30), np.full(5000, FAR_UNIX_MS), born_unix_ms=at + (1 << 40))
        )
    assert len(inbox) == n
    inbox.close()
    assert (tmp_path / "inbox.db").stat().st_size / n < 200


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=10))
def test_hashes_of_many_devices_are_those_of_each(ids: list[bytes]) -> None:
    columns = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16)
    assert device_hashes(columns).tolist() == [device_hash(one) for one in ids]


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 9), st.booleans()), max_size=20))
def test_a_filing_that_is_undone_is_as_before(steps: list[tuple[int, int, bool]]) -> None:
    filing = Filing(1 << 10)
    kept: dict[int, list[int]] = {}
    for one, size, is_committed in steps:
        filing.add(np.array([one]), np.array([size]))
        if is_committed:
            filing.commit()
            kept.setdefault(one, []).append(size)
        else:
            filing.undo()
    assert (filing.rows, filing.bytes) == (sum(map(len, kept.values())), sum(map(sum, kept.values())))
    for one in range(-5, 6):
        rows, size = filing.at_most(np.array([one]))
        assert filing.may_hold(one) == (one in kept)
        assert (rows.tolist(), size.tolist()) == ([len(kept.get(one, []))], [sum(kept.get(one, []))])
