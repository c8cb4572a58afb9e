"""The ledger archive on disk keeps the contract; pages come back as they were; damage and other versions are named."""

from __future__ import annotations

import itertools
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from contract import EPOCH
from contract_ledger import LedgerArchiveContract, changes_for, page_for
from hypothesis import given

from gateway.batch import Batch, TaskSegment
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.errors import StoreCorrupt
from gateway.ledger import OPEN_STATES, Burst, Channel, LedgerPage, State
from gateway.message_id import SEQUENCES_MAX, BatchAddress
from gateway.page_history import RECEIPT_KINDS
from gateway.store.database import Database
from gateway.store.joined_ledger import JoinedLedger
from gateway.store.packing import pack_page, unpack_page
from gateway.store.pages import page_of, page_parts
from gateway.store.ports import PageKey
from gateway.store.sqlite_ledger import SCHEMA, SqliteLedgerArchive


class TestSqliteLedgerArchive(LedgerArchiveContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
        monkeypatch.setattr(Database, "synchronous", "OFF")
        self.path = tmp_path
        self.numbers = itertools.count()
        self.opened: list[SqliteLedgerArchive] = []
        yield
        self.close()

    def close(self) -> None:
        for archive in self.opened:
            archive.close()
        self.opened.clear()

    def open(self) -> SqliteLedgerArchive:
        self.close()
        archive = SqliteLedgerArchive(self.path / f"{next(self.numbers)}.db")
        self.opened.append(archive)
        return archive


class TestJoinedLedgerOfOne(TestSqliteLedgerArchive):
    """Beside archives of other journals a worker's own pages are where they were."""

    def open(self) -> JoinedLedger:  # type: ignore[override]
        own = super().open()
        others = [SqliteLedgerArchive(self.path / f"other-{next(self.numbers)}.db") for _ in range(2)]
        self.opened += others
        return JoinedLedger(own, dict(zip((3, 5), others, strict=True)))


async def test_pages_of_several_journals_are_kept_apart_and_found_together(tmp_path: Path) -> None:
    """The same sequence in each; a worker's index stands before those of the others."""
    own, other = (SqliteLedgerArchive(tmp_path / f"{name}.db") for name in ("own", "other"))
    joined = JoinedLedger(own, {3: other})
    far = 3 * SEQUENCES_MAX
    page = page_for(1, b"one")
    await joined.write(EPOCH, [page._replace(key=PageKey(1000, sequence)) for sequence in (1, far + 1, 2)])
    assert await own.read(PageKey(1000, 1)) == await other.read(PageKey(1000, 1)) == b"oneone"
    keys = [PageKey(1000, 1), PageKey(1000, 2), PageKey(1000, far + 1)]
    assert await joined.known([*keys, PageKey(1000, 5 * SEQUENCES_MAX)]) == set(keys)
    assert await joined.keys(None, range(0, 9999), None, 10) == keys
    assert await joined.keys(None, range(0, 9999), keys[0], 10) == keys[1:]
    assert await joined.keys(None, range(0, 9999), keys[1], 1) == keys[2:]
    assert await joined.newest(None) == PageKey(1000, 2)
    assert await joined.newest(far + 1) == PageKey(1000, far + 1)
    assert len(await joined.tallies(keys)) == 3
    amended = [changes_for(1, b"!")._replace(key=key) for key in (keys[0], keys[2], PageKey(1000, far + 9))]
    assert await joined.amend(EPOCH, amended) == {PageKey(1000, far + 9)}
    assert await own.read(PageKey(1000, 1)) == await other.read(PageKey(1000, 1)) == b"oneone!"
    await joined.forget(EPOCH, [keys[2]])
    assert await other.read(PageKey(1000, 1)) is None
    assert await joined.known(keys) == set(keys[:2])
    own.close()
    other.close()


async def test_a_reopened_archive_has_its_pages(tmp_path: Path) -> None:
    archive = SqliteLedgerArchive(tmp_path / "ledger.db")
    await archive.write(EPOCH, [page_for(1, b"kept")])
    archive.close()
    archive = SqliteLedgerArchive(tmp_path / "ledger.db")
    assert await archive.read(PageKey(1000, 1)) == b"keptkept"
    archive.database.read.execute("PRAGMA user_version = 6")
    archive.close()
    with pytest.raises(StoreCorrupt, match="schema 6, this version knows up to 5"):
        SqliteLedgerArchive(tmp_path / "ledger.db")


async def test_an_archive_of_the_version_before_has_room_for_changes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    older = Database(path, SCHEMA[:4], bytes_max=1 << 30)
    older.write(1).execute(
        "INSERT INTO pages VALUES (?,?,?,?,?,?,?)", (1, 1000, 0, 2, 9, b"", pack_page([b"kept", b"kept"]))
    )
    older.commit()
    older.close()
    archive = SqliteLedgerArchive(path)
    assert await archive.amend(EPOCH, [changes_for(1, b"!")]) == set()
    assert await archive.read(PageKey(1000, 1)) == b"keptkept!"
    archive.close()


@pytest.mark.parametrize("n", [1, 3000, 40_000])
async def test_a_device_of_a_large_page_is_found_wherever_its_hash_stands(tmp_path: Path, n: int) -> None:
    """At both ends of the column, where hashes repeat, and where they are not spread as they should be."""
    rng = np.random.default_rng(n)
    archive = SqliteLedgerArchive(tmp_path / "ledger.db")
    key = PageKey(1000, 1)
    await archive.write(EPOCH, [page_for(1, devices=2)])
    for hashes in (
        rng.integers(0, 1 << 32, n, np.uint32),
        rng.integers(0, 1 << 10, n, np.uint32),
        rng.integers((1 << 32) - (1 << 10), 1 << 32, n, np.uint32),
        np.full(n, 7, np.uint32),
    ):
        column = np.sort(hashes)
        archive.database.write(1).execute("UPDATE pages SET hashes = ?", (column.astype("<u4").tobytes(),))
        archive.database.commit()
        asked = [*column[:3], *column[-3:], *rng.choice(column, 20), *rng.integers(0, 1 << 32, 20, np.uint32)]
        for wanted in asked:
            found = await archive.with_device([key, PageKey(1000, 2)], int(wanted), 0)
            assert found == ([key] if wanted in column else [])
    archive.database.write(1).execute("UPDATE pages SET hashes = ?", (b"",))
    archive.database.commit()
    assert await archive.with_device([key], 7, 0) == []
    archive.close()


# pages as bytes

SECRET_IDS = np.random.default_rng(5).integers(0, 256, (50, 16), np.uint8)


def page_of_rows(n: int, rng: np.random.Generator) -> LedgerPage:
    batch = Batch(
        BatchAddress(1_700_000_000_123, 3, 77),
        2,
        500.0,
        n,
        device_ids=SECRET_IDS[:n].copy(),
        message_ids=np.zeros((n, 16), np.uint8),
        variants=[Variant(title="标题", body="b"), Variant(title="t", body="c", collapse_id="x")],
        variant_index=rng.integers(0, 2, n).astype(np.uint16),
        variables={"name": TextColumn.from_rows([b"n%d" % row for row in range(n)])},
        segments=[TaskSegment(bytes([9]) * 16, 0, n)],
    )
    page = LedgerPage(batch)
    for name in ("state", "receipt", "flags", "reason", "channel", "attempts"):
        getattr(page, name)[:] = rng.integers(0, 4, n)
    for name in ("routed_ms", "issued_ms", "final_ms", "token_hashes"):
        getattr(page, name)[:] = rng.integers(0, 1 << 32, n)
    rows = np.arange(n, dtype=np.uint16)[::2]
    answered = rng.integers(0, 1000, len(rows)).astype(np.uint32)
    verdicts = rng.integers(0, 5, len(rows)).astype(np.uint8)
    names = ({0: "BadDeviceToken"}, -1, {0: "request-1"} if n % 3 else None)
    page.bursts.append(Burst(4, 1, Channel.APNS, 12, rows, 500.25, answered, verdicts, *names))
    again = (rows[:3], 500.5, answered[:3] + 7, verdicts[:3])
    page.bursts.append(Burst(5, 2, Channel.APNS, 12, *again, {}, -1, {}))
    if n % 2:
        rows = rng.integers(0, n, 2 * n)
        page.hear(rows, rng.integers(0, RECEIPT_KINDS, 2 * n).astype(np.uint8), 1003.0)
        page.left_link(np.unique(rows), 1004.0)
    return page


@given(st.integers(1, 50), st.integers(0, 1 << 16))
def test_a_page_comes_back_as_it_was_on_the_clock_of_another_process(n: int, seed: int) -> None:
    page = page_of_rows(n, np.random.default_rng(seed))
    data = unpack_page(pack_page(page_parts(page)))
    found = page_of(data, now=9000.0, now_unix_ms=1_700_000_010_123)
    assert found.batch.born == 8990.0
    assert found.batch.address == page.batch.address
    assert (found.batch.app, found.batch.segments) == (page.batch.app, page.batch.segments)
    assert (found.batch.device_ids == page.batch.device_ids).all()
    assert found.batch.variables["name"].rows() == page.batch.variables["name"].rows()
    assert list(found.batch.variants) == list(page.batch.variants)
    for name in ("state", "receipt", "flags", "reason", "channel", "attempts"):
        assert (getattr(found, name) == getattr(page, name)).all()
    for name in ("routed_ms", "issued_ms", "final_ms", "token_hashes"):
        assert (getattr(found, name) == getattr(page, name)).all()
        getattr(found, name)[:] = 0
    assert (found.history is None) == (page.history is None)
    if found.history is not None and page.history is not None:
        for name in ("rows", "kinds", "channels", "at_ms", "heard"):
            assert getattr(found.history, name).tolist() == getattr(page.history, name).tolist()
    assert [burst.request_ids for burst in found.bursts] == [burst.request_ids or {} for burst in page.bursts]
    assert found.counts.tolist() == np.bincount(page.state, minlength=len(State)).tolist()
    assert found.n_routed == n
    assert_same_bursts(found, page)


def assert_same_bursts(found: LedgerPage, page: LedgerPage) -> None:
    for old, new in zip(page.bursts, found.bursts, strict=True):
        assert new.issued - found.batch.born == pytest.approx(old.issued - page.batch.born)
        for name in ("number", "attempt", "channel", "connection", "names"):
            assert getattr(new, name) == getattr(old, name)
        for name in ("rows", "answered", "verdicts"):
            assert getattr(new, name).tolist() == getattr(old, name).tolist()


def test_a_page_whose_bursts_have_their_columns_in_the_header_is_read() -> None:
    page = page_of_rows(7, np.random.default_rng(1))
    page.history = None
    _, header, *parts = page_parts(page)
    stored = msgspec.msgpack.decode(header)
    for burst, (rows, answered, verdicts) in zip(
        stored["bursts"], ((one.rows, one.answered, one.verdicts) for one in page.bursts), strict=True
    ):
        burst[5:8] = rows.tobytes(), answered.tobytes(), verdicts.tobytes()
        del burst[-1]
    before = msgspec.msgpack.encode(stored)
    data = b"".join([len(before).to_bytes(4, "little"), before, *parts[:-3]])
    assert_same_bursts(page_of(data, now=9000.0, now_unix_ms=1_700_000_010_123), page)


@given(st.lists(st.tuples(st.sampled_from(State), st.text(max_size=5), st.booleans()), min_size=1, max_size=30))
def test_a_page_has_no_tokens_and_of_variables_only_what_open_rows_say(rows: list[tuple[State, str, bool]]) -> None:
    n = len(rows)
    batch = Batch(
        BatchAddress(1_700_000_000_123, 3, 77),
        2,
        500.0,
        n,
        device_ids=np.zeros((n, 16), np.uint8),
        message_ids=np.zeros((n, 16), np.uint8),
        variants=[Variant(title="t", body="b")],
        channels=np.array([2 * has_token for _, _, has_token in rows], np.uint8),
        tokens=TextColumn.from_rows([b"secret" if has_token else b"" for _, _, has_token in rows]),
        variables={"name": TextColumn.from_texts([text for _, text, _ in rows])},
        target_hashes=np.arange(n, dtype=np.uint32),
    )
    page = LedgerPage(batch)
    page.state[:] = [state for state, _, _ in rows]
    data = unpack_page(pack_page(page_parts(page)))
    assert b"secret" not in data
    found = page_of(data, now=9000.0, now_unix_ms=1_700_000_010_123).batch
    assert found.tokens is None
    assert found.target_hashes is not None
    assert found.target_hashes.tolist() == list(range(n))
    kept = [text.encode() if state in OPEN_STATES else b"" for state, text, _ in rows]
    assert found.variables["name"].rows() == kept if any(state in OPEN_STATES for state, _, _ in rows) else True
    assert batch.tokens is not None


@given(st.data())
def test_damaged_pages_are_refused_or_named(data: st.DataObject) -> None:
    packed = bytearray(pack_page(page_parts(page_of_rows(5, np.random.default_rng(1)))))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match=r"page|record"):
        page_of(unpack_page(bytes(packed)), now=0.0, now_unix_ms=0)


def test_a_full_page_of_one_content_is_small() -> None:
    rng = np.random.default_rng(2)
    n = 65_536
    batch = Batch(
        BatchAddress(1_700_000_000_123, 3, 77),
        0,
        0.0,
        n,
        device_ids=rng.integers(0, 256, (n, 16), np.uint8),
        message_ids=np.zeros((n, 16), np.uint8),
        variants=[Variant(title="t", body="b")],
        segments=[TaskSegment(bytes(16), 0, n)],
    )
    assert len(pack_page(page_parts(LedgerPage(batch)))) / n < 20
