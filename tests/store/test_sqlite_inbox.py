"""The inbox on disk keeps the contract, and what is its own: restarts, counters that err on one side only, a disk that
is full, and what a row costs."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from contract import EPOCH, NEWER, tags_of
from contract_inbox import DEVICES, FAR_UNIX_MS, InboxContract, peeked, rows_for
from hypothesis import given

from gateway.errors import StaleEpoch, StoreCorrupt, StoreError, StoreFull, StoreInUse
from gateway.store import inbox_entries, inbox_filing, inbox_index, inbox_merge, sqlite_inbox
from gateway.store.database import Database
from gateway.store.inbox_filing import Filing, device_hash, device_hashes
from gateway.store.ports import InboxQuery, InboxRows, Kept
from gateway.store.sqlite_inbox import SCHEMA, SqliteInbox

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


class TestSqliteInboxInManyGenerations(_OnDisk):
    """Two rows are sealed, two generations are merged, and each step does a little."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_small(monkeypatch)


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_inbox, "FOUND_ROWS", 2)
    monkeypatch.setattr(sqlite_inbox, "PUT_ROWS", 3)
    for module in (inbox_entries, inbox_index):
        monkeypatch.setattr(module, "BLOCK_ENTRIES", 2)
    for module in (inbox_merge, inbox_index):
        monkeypatch.setattr(module, "SEAL_ENTRIES", 3)
    monkeypatch.setattr(inbox_merge, "FAN_OUT", 2)
    monkeypatch.setattr(inbox_entries, "MARKS", 4)
    monkeypatch.setattr(inbox_index, "_STEP_ENTRIES", 2)
    monkeypatch.setattr(inbox_index, "_DELETED", 1)
    monkeypatch.setattr(inbox_index, "_DELETED_WORK", 1)
    monkeypatch.setattr(inbox_index, "_REST_ENTRIES", 0)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=8)),
        st.tuples(st.just("forget"), st.lists(st.integers(0, 40), max_size=12)),
        st.tuples(st.just("fail"), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=8)),
        st.tuples(st.just("crash"), st.just([])),
    ),
    max_size=40,
)


@given(steps)
async def test_an_index_that_is_merged_cut_and_opened_again_has_what_was_durable(steps: list[tuple]) -> None:
    with pytest.MonkeyPatch.context() as patched, tempfile.TemporaryDirectory() as folder:
        patched.setattr(Database, "synchronous", "OFF")
        make_small(patched)
        path = Path(folder) / "inbox.db"
        inbox = SqliteInbox(path, **LIMITS)
        model: list[tuple[int, int]] = []
        for name, argument in steps:
            if name == "put":
                await inbox.put(EPOCH, rows_for(argument))
                for device, tag in argument:
                    if tag not in [other for _, other in model]:
                        model.append((device, tag))
            elif name == "forget":
                await inbox.forget(EPOCH, tags_of(*argument))
                model = [row for row in model if row[1] not in argument]
            elif name == "fail":
                with pytest.MonkeyPatch.context() as failing:
                    failing.setattr(inbox.database, "commit", disk_that_fails)
                    if argument:
                        with pytest.raises(StoreError):
                            await inbox.put(EPOCH, rows_for(argument))
            else:
                # What a crash leaves: the files of an inbox that was not closed in any order of its own.
                inbox = reopened(inbox, path)
            assert await peeked(inbox) == [[tag for one, tag in model if one == device] for device in range(3)]
            assert len(inbox) == len(model)
            for device, _ in model:
                assert inbox.holds(DEVICES[device])
        inbox.close()


def disk_that_fails() -> None:
    raise StoreError("inbox.db", "disk I/O error")


async def test_a_merge_whose_commit_fails_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "synchronous", "OFF")
    make_small(monkeypatch)
    path = tmp_path / "inbox.db"
    inbox = SqliteInbox(path, **LIMITS)
    for tag in range(90):
        await inbox.put(EPOCH, rows_for([(tag % 3, tag)]))
        if tag % 4 == 0:
            with pytest.MonkeyPatch.context() as failing:
                failing.setattr(inbox.database, "commit", disk_that_fails)
                with pytest.raises(StoreError):
                    await inbox.put(EPOCH, rows_for([(0, 1000 + tag)]))
    expected = [[tag for tag in range(90) if tag % 3 == device] for device in range(3)]
    assert await peeked(inbox) == expected
    (sealed,) = inbox.database.read.execute("SELECT sum(entries) FROM generations WHERE state = 1").fetchone()
    assert sealed > 60
    inbox = reopened(inbox, path)
    assert (await peeked(inbox), len(inbox)) == (expected, 90)
    inbox.close()


async def test_merged_generations_leave_the_disk_and_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "synchronous", "OFF")
    make_small(monkeypatch)
    monkeypatch.setattr(inbox_merge, "FAN_OUT", 4)
    inbox = SqliteInbox(tmp_path / "inbox.db", **LIMITS)
    run = inbox.database.read.execute
    for tag in range(300):
        await inbox.put(EPOCH, rows_for([(tag % 3, tag)]))
        (generations,) = run("SELECT count(*) FROM generations WHERE state = 1").fetchone()
        (blocks,) = run("SELECT count(*) FROM blocks").fetchone()
        assert generations <= 16
        # Twice while they are merged, and a block that is not full at the end of each.
        assert blocks <= 2 * (tag // 2 + 1) + generations
    (recent,) = run("SELECT count(*) FROM recent").fetchone()
    assert recent < 20
    for tag in range(300):
        await inbox.forget(EPOCH, tags_of(tag))
    assert await peeked(inbox) == [[], [], []]
    # What has left is not kept for ever: generations of it are merged away beside what comes and goes.
    for tag in range(1000, 1060):
        await inbox.put(EPOCH, rows_for([(0, tag)]))
        await inbox.forget(EPOCH, tags_of(tag))
    (blocks,) = run("SELECT count(*) FROM blocks").fetchone()
    assert blocks < 30
    (generations,) = run("SELECT count(*) FROM generations").fetchone()
    assert generations < 16
    inbox.close()


async def test_a_device_that_returns_costs_a_read_for_each_generation_that_may_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "synchronous", "OFF")
    monkeypatch.setattr(inbox_index, "SEAL_ENTRIES", 500)
    monkeypatch.setattr(inbox_merge, "SEAL_ENTRIES", 500)
    inbox = SqliteInbox(tmp_path / "inbox.db", **LIMITS | {"rows_max": 1 << 20})
    random = np.random.default_rng(1)
    ids = random.integers(0, 256, (6000, 16), np.uint8)
    for first in range(0, 6000, 100):
        at = np.arange(first, first + 100)
        await inbox.put(EPOCH, InboxRows(ids[at], at, np.full(100, FAR_UNIX_MS)))
    (generations,) = inbox.database.read.execute("SELECT count(*) FROM generations WHERE state = 1").fetchone()
    assert generations >= 4
    statements: list[str] = []
    inbox.database.read.set_trace_callback(statements.append)
    looks = range(0, 5000, 50)
    for at in looks:
        assert (await inbox.peek(ids[at].tobytes(), 10)).tolist() == [at]
    # One block of the index, and the rows; a filter errs for one of eighty.
    assert len(statements) / len(looks) < 2.3
    statements.clear()
    strangers = random.integers(0, 256, (500, 16), np.uint8)
    for one in strangers:
        assert not len(await inbox.peek(one.tobytes(), 10))
    assert len(statements) < 50
    inbox.close()


@pytest.mark.parametrize("is_cut", [False, True])
async def test_an_inbox_of_the_first_schema_is_brought_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cut: bool
) -> None:
    monkeypatch.setattr(Database, "synchronous", "OFF")
    path, n = tmp_path / "inbox.db", 900
    old = Database(path, SCHEMA[:1], bytes_max=1 << 30)
    rows = [
        (tag, DEVICES[tag % 3], device_hash(DEVICES[tag % 3]), 1, 50 + tag, FAR_UNIX_MS, n - tag, tag % 7, 0)
        for tag in range(n)
    ]
    old.write(3).executemany("INSERT INTO rows VALUES (?,?,?,?,?,?,?,?,?)", rows)
    old.commit()
    old.close()
    monkeypatch.setattr(inbox_index, "_OLD_ROWS", 100)
    if is_cut:
        with pytest.MonkeyPatch.context() as failing:
            calls = itertools.count()
            failing.setattr(
                inbox_index.InboxIndex, "commit", lambda self: None if next(calls) < 4 else disk_that_fails()
            )
            with pytest.raises(StoreError):
                SqliteInbox(path, **LIMITS)
    inbox = SqliteInbox(path, **LIMITS | {"rows_per_device_max": 1000})
    # In the order of their arrival, which was that of falling tags.
    assert await peeked(inbox, 1000) == [[tag for tag in range(n - 1, -1, -1) if tag % 3 == d] for d in range(3)]
    assert (len(inbox), (await inbox.count(InboxQuery())).bytes) == (n, sum(tag % 7 for tag in range(n)))
    assert (inbox.newest_at_start, inbox.newest_born_at_start) == ((50 + n - 1, n - 1), 50 + n - 1)
    await inbox.put(NEWER, rows_for([(0, 5000)]))
    assert (await peeked(inbox, 1000))[0][-1] == 5000
    assert not inbox.database.read.execute("SELECT 1 FROM sqlite_master WHERE name = 'by_device'").fetchall()
    inbox.close()


async def test_rows_of_one_call_that_go_in_several_turns_replace_each_other_as_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.sqlite_inbox.PUT_ROWS", 2)
    inbox = SqliteInbox(tmp_path / "inbox.db", **LIMITS)
    before = rows_for([(1, 9)])._replace(collapse=tags_of(4), born_unix_ms=tags_of(1))
    await inbox.put(EPOCH, before)
    rows = rows_for([(0, 1), (1, 2), (0, 3), (1, 4), (0, 5)])
    rows = rows._replace(collapse=tags_of(4, 4, 4, 4, 4), born_unix_ms=tags_of(2, 2, 3, 1, 3))
    kept, replaced = await inbox.put(EPOCH, rows)
    assert kept.tolist() == [Kept.SUPERSEDED, Kept.YES, Kept.SUPERSEDED, Kept.SUPERSEDED, Kept.YES]
    assert replaced.tolist() == [9]
    assert await peeked(inbox) == [[5], [2], []]
    inbox.close()
