"""The registry on disk keeps the contract, and what is its own: restarts, folds, apps that come and go, what an erase
leaves in the files, damaged snapshots, databases of other versions."""

from __future__ import annotations

import itertools
import sqlite3
import zlib
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from contract import EPOCH, NEWER, OLDER
from contract_registry import RegistryContract, columns_of, erase, loaded, plain_devices
from hypothesis import given

from gateway.columns import TextColumn
from gateway.device_columns import DeviceColumns, concatenate, keep_last, take_texts
from gateway.errors import StaleEpoch, StoreCorrupt, StoreError, StoreInUse
from gateway.store import sqlite_registry
from gateway.store.database import Database
from gateway.store.registry_codec import count_devices, decode_blobs, decode_devices, encode_devices, open_blob
from gateway.store.sqlite_registry import SqliteRegistry
from gateway.tag_columns import TagColumns

APPS = ("shop", "bank")


class _OnDisk(RegistryContract):
    fold_bytes_min = 1 << 20

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
        monkeypatch.setattr(sqlite_registry, "FOLD_BYTES_MIN", self.fold_bytes_min)
        monkeypatch.setattr(Database, "synchronous", "OFF")
        self.path = tmp_path
        self.numbers = itertools.count()
        self.opened: list[SqliteRegistry] = []
        yield
        self.close()

    def close(self) -> None:
        for registry in self.opened:
            registry.close()
        self.opened.clear()

    def open(self) -> SqliteRegistry:
        # One at a time: hypothesis opens hundreds, and each has its files.
        self.close()
        registry = SqliteRegistry(self.path / str(next(self.numbers)), APPS, shard_groups=2)
        self.opened.append(registry)
        return registry


class TestSqliteRegistry(_OnDisk):
    pass


class TestSqliteRegistryThatFoldsAlways(_OnDisk):
    """Every tidy folds a block of every log."""

    fold_bytes_min = 0


def reopened(registry: SqliteRegistry, path: Path, apps: tuple[str, ...] = APPS) -> SqliteRegistry:
    registry.close()
    return SqliteRegistry(path, apps, shard_groups=4)


async def folded(registry: SqliteRegistry) -> None:
    """Whatever is in the logs stands in snapshots."""
    while registry.statistics().log_bytes:
        await registry.tidy()


async def test_a_reopened_registry_knows_every_device_folded_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = SqliteRegistry(tmp_path, APPS, shard_groups=4)
    await registry.write(NEWER, columns_of({1: b"a", 2: b"b", 3: b"c"}))
    expected = plain_devices(columns_of({1: b"a", 2: b"b", 3: b"c"}))
    registry = reopened(registry, tmp_path)
    assert await loaded(registry) == expected
    monkeypatch.setattr(sqlite_registry, "FOLD_BYTES_MIN", 0)
    await folded(registry)
    assert registry.statistics().folds > 0
    assert await loaded(registry) == expected
    registry = reopened(registry, tmp_path)
    assert await loaded(registry) == expected
    for epoch in (OLDER, EPOCH):
        with pytest.raises(StaleEpoch):
            await registry.write(epoch, columns_of({1: b"z"}))
    registry.close()


async def test_a_process_that_ends_between_two_blocks_of_a_fold_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_registry, "FOLD_BYTES_MIN", 0)
    registry = SqliteRegistry(tmp_path, APPS, shard_groups=4)
    model: dict = {}
    monkeypatch.setattr(Database, "synchronous", "OFF")
    for round_ in range(9):
        devices = {number: b"%d" % (round_ * number) for number in range(10) if (number + round_) % 3}
        await registry.write(EPOCH, columns_of(devices))
        model |= plain_devices(columns_of(devices))
        # 64 blocks a group: the fold is somewhere in the middle each time.
        for _ in range(round_ * 3):
            await registry.tidy()
        if round_ % 4 == 3:
            await erase(registry, round_ % 10)
            model.pop((0, round_ % 10), None)
        assert await loaded(registry) == model
        registry = reopened(registry, tmp_path)
        assert await loaded(registry) == model
    registry.close()


async def test_apps_are_known_by_their_keys_not_by_their_order(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path, ("shop", "bank"), shard_groups=4)
    await registry.write(EPOCH, columns_of({1: b"of the shop"}, 0))
    await registry.write(EPOCH, columns_of({1: b"of the bank", 2: b"x"}, 1))
    registry = reopened(registry, tmp_path, ("new", "bank"))
    assert await loaded(registry) == plain_devices(columns_of({1: b"of the bank", 2: b"x"}, 1))
    registry = reopened(registry, tmp_path, ("bank", "shop"))
    found = await loaded(registry)
    assert found == {
        **plain_devices(columns_of({1: b"of the bank", 2: b"x"}, 0)),
        **plain_devices(columns_of({1: b"of the shop"}, 1)),
    }
    registry.close()


async def test_an_erased_device_is_in_no_file(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path, APPS, shard_groups=4)
    await registry.write(EPOCH, columns_of({7: b"secret", 9: b"neighbour"}))

    def files() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert b"token-secret" in files()
    assert bytes([7]) * 16 in files()
    await erase(registry, 7)
    assert b"token-secret" not in files()
    assert bytes([7]) * 16 not in files()
    assert b"token-neighbour" in files()
    registry.close()


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path, APPS, shard_groups=4)
    with pytest.raises(StoreInUse):
        SqliteRegistry(tmp_path, APPS, shard_groups=4)
    registry.close()


async def test_another_number_of_shard_groups_is_refused(tmp_path: Path) -> None:
    SqliteRegistry(tmp_path, APPS, shard_groups=4).close()
    with pytest.raises(StoreError, match=r"has 4 shard groups, the configuration 8 \(shard_groups\)"):
        SqliteRegistry(tmp_path, APPS, shard_groups=8)


async def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    SqliteRegistry(tmp_path, APPS, shard_groups=1).close()
    database = sqlite3.connect(tmp_path / "group-000.db")
    database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(StoreCorrupt, match="schema 9, this version knows up to 2"):
        SqliteRegistry(tmp_path, APPS, shard_groups=1)


async def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path, APPS, shard_groups=1)
    await registry.write(EPOCH, columns_of({1: b"a"}))
    registry.close()
    database = sqlite3.connect(tmp_path / "group-000.db")
    database.execute("UPDATE log SET data = CAST(substr(data, 1, 60) || x'00' || substr(data, 62) AS BLOB)")
    database.commit()
    database.close()
    registry = SqliteRegistry(tmp_path, APPS, shard_groups=1)
    with pytest.raises(StoreCorrupt, match=r"group-000\.db: log at 1: .*checksum"):
        await loaded(registry)
    registry.close()


# columns


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), st.binary(max_size=4)), max_size=12))
def test_the_last_of_equal_devices_is_kept_in_order(devices: list[tuple[int, int, bytes]]) -> None:
    columns = concatenate([columns_of({number: word}, app) for number, app, word in devices])
    kept = columns.take(keep_last(columns))
    last = {(app, number): index for index, (number, app, _) in enumerate(devices)}
    expected = [devices[index] for index in sorted(last.values())]
    found = [(int(kept.device_ids[at][0]), int(kept.apps[at])) for at in range(kept.n)]
    assert found == [(number, app) for number, app, _ in expected]
    for at, (number, app, word) in enumerate(expected):
        assert plain_devices(kept.take(np.array([at]))) == plain_devices(columns_of({number: word}, app))


@given(st.lists(st.binary(max_size=5), max_size=8), st.data())
def test_texts_are_taken_as_row_by_row(rows: list[bytes], data: st.DataObject) -> None:
    column = columns_of(dict(enumerate(rows))).tokens
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)) if rows else []
    taken = take_texts(column, np.array(wanted, np.int64))
    assert taken.rows() == [column.row(at) for at in wanted]


@given(st.dictionaries(st.integers(0, 9), st.binary(max_size=6), max_size=6), st.booleans())
def test_devices_come_back_from_their_bytes(devices: dict[int, bytes], has_details: bool) -> None:
    columns = columns_of(devices)
    if not has_details:
        columns = columns._replace(aliases=None, tags=None)
    assert plain_devices(decode_devices(encode_devices(columns))) == plain_devices(columns)


def as_schema_1(devices: dict[int, bytes]) -> bytes:
    """The blob as version 1 of the schema had it: tags of a device as one text."""
    columns = columns_of(devices)
    assert columns.tags is not None
    blob = encode_devices(columns._replace(tags=None))
    size = int.from_bytes(blob[4:8], "little")
    header = msgspec.msgpack.decode(blob[8 : 8 + size])
    tags = TextColumn.from_rows([b"\n".join(columns.tags.of(at)) for at in range(columns.n)])
    parts = {"tags.offsets": tags.offsets.astype("<u4").tobytes(), "tags.blob": tags.blob}
    header["columns"] += [[name, len(data)] for name, data in parts.items()]
    head = msgspec.msgpack.encode(header)
    rest = head + blob[8 + size :] + b"".join(parts.values())
    return zlib.crc32(rest).to_bytes(4, "little") + len(head).to_bytes(4, "little") + rest


@given(st.dictionaries(st.integers(0, 9), st.binary(max_size=6), max_size=6))
def test_devices_of_the_first_schema_come_back_with_their_tags(devices: dict[int, bytes]) -> None:
    assert plain_devices(decode_devices(as_schema_1(devices))) == plain_devices(columns_of(devices))


@given(
    st.lists(
        st.tuples(st.dictionaries(st.integers(0, 50), st.binary(max_size=6), max_size=4), st.sampled_from("dpa1")),
        max_size=6,
    )
)
def test_blobs_that_are_decoded_together_are_what_each_is_alone(parts: list[tuple[dict[int, bytes], str]]) -> None:
    """With details, plain, with aliases alone, of schema 1."""
    blobs = []
    for devices, kind in parts:
        columns = columns_of(devices)
        if kind in "pa":
            columns = columns._replace(tags=None, aliases=None if kind == "p" else columns.aliases)
        blobs.append(as_schema_1(devices) if kind == "1" else encode_devices(columns))
    together = decode_blobs([open_blob(blob) for blob in blobs])
    expected = [row for blob in blobs for row in plain_rows(decode_devices(blob))]
    assert plain_rows(together) == expected
    assert len(blobs) < 2 or len(set(together.profile_texts.rows())) == len(together.profile_texts)


def plain_rows(columns: DeviceColumns) -> list[dict[tuple[int, int], tuple[Any, ...]]]:
    """A device may stand in several blobs."""
    return [plain_devices(columns.take(np.array([at]))) for at in range(columns.n)]


@given(st.dictionaries(st.integers(0, 9), st.binary(max_size=6), max_size=8), st.data())
def test_a_part_of_columns_is_their_rows(devices: dict[int, bytes], data: st.DataObject) -> None:
    columns = columns_of(devices)
    start = data.draw(st.integers(0, columns.n))
    stop = data.draw(st.integers(start, columns.n))
    rows = np.arange(start, stop)
    assert plain_rows(columns.part(start, stop)) == plain_rows(columns.take(rows))
    assert plain_rows(columns.part(start, stop).take(rows - start)) == plain_rows(columns.take(rows))


async def test_a_load_gives_what_the_log_says_and_snapshots_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones together, slice by slice, and each device once."""
    monkeypatch.setattr(sqlite_registry, "_CHUNK_ROWS", 3)
    registry = SqliteRegistry(tmp_path, APPS)
    for apps in (0, 1):
        await registry.write(EPOCH, columns_of(dict.fromkeys(range(10), b"old"), apps))
    for number in range(16):
        await registry.turns.run(lambda g=number: registry._groups[g].fold_some(100))  # type: ignore[misc]
    await registry.write(EPOCH, columns_of({1: b"newer", 4: b"newer"}, 1))
    await registry.write(EPOCH, columns_of({1: b"newest", 10: b""}, 1))
    chunks = [columns.n async for columns in registry.load(range(4096))]
    assert max(chunks) <= 3
    now = dict.fromkeys(range(10), b"old") | {1: b"newest", 4: b"newer", 10: b""}
    assert await loaded(registry) == plain_devices(columns_of(dict.fromkeys(range(10), b"old"))) | plain_devices(
        columns_of(now, 1)
    )
    registry.close()


async def test_the_heads_of_the_snapshots_say_how_many_devices_there_are(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path, APPS)
    assert await registry.count() == 0
    await registry.write(EPOCH, columns_of(dict.fromkeys(range(10), b"x")))
    await erase(registry, 3)
    for group in range(16):
        await registry.turns.run(lambda g=group: registry._groups[g].fold_some(100))  # type: ignore[misc]
    assert await registry.count() == 9
    assert count_devices(b"") == count_devices(b"12345678 no head") == 0
    registry.close()


@given(st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    blob = bytearray(encode_devices(columns_of({1: b"abc", 2: b""})))
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="devices"):
        decode_devices(bytes(blob))


@pytest.mark.parametrize(
    ("counts", "numbers", "what"),
    [([1], [0, 0], "differ in length"), ([1, 1], [0, 0], "differ in length"), ([1], [1], "without a text")],
)
def test_tags_that_do_not_fit_together_are_refused(counts: list[int], numbers: list[int], what: str) -> None:
    tags = TagColumns(np.array(counts, np.uint8), np.array(numbers, np.uint32), TextColumn.from_rows([b"a"]))
    with pytest.raises(ValueError, match=what):
        decode_devices(encode_devices(columns_of({1: b"abc"})._replace(tags=tags)))


def test_cut_bytes_are_refused() -> None:
    blob = encode_devices(columns_of({1: b"abc"}))
    for size in range(len(blob)):
        with pytest.raises(ValueError, match="devices"):
            decode_devices(blob[:size])


def test_no_devices_concatenate_to_none() -> None:
    assert concatenate([]).n == 0
    assert isinstance(concatenate([]), DeviceColumns)
