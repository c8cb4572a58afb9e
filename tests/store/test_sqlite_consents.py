"""Consents on the disk: counts as they were written last, whoever wrote; nothing of keys that have none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from gateway.batch import OwnershipEpoch
from gateway.consent_columns import Changed
from gateway.errors import StaleEpoch, StoreCorrupt
from gateway.store import sqlite_consents
from gateway.store.sqlite_consents import SqliteConsents

EPOCH = OwnershipEpoch(3)


def changed(counts: dict[int, int]) -> Changed:
    keys = np.array([[number, number << 40] for number in counts], np.uint64).reshape(-1, 2)
    return Changed(keys, np.array(list(counts.values()), np.uint16))


def plain(found: Changed) -> dict[int, int]:
    assert all(high == low << 40 for low, high in found.keys.tolist())
    return dict(zip(found.keys[:, 0].tolist(), found.left.tolist(), strict=True))


@contextmanager
def opened(path: Path) -> Iterator[SqliteConsents]:
    with closing(SqliteConsents(path)) as store:
        yield store


async def test_a_store_gives_back_what_was_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_consents, "_LOAD_KEYS", 3)  # several turns of a load
    path = tmp_path / "consents.db"
    with opened(path) as store:
        assert plain(await store.load()) == {}
        await store.write(EPOCH, changed({number: number for number in range(1, 11)}))
        await store.write(EPOCH, changed({2: 0, 3: 65_535, 20: 0}))
        # Twice is as good as once.
        await store.write(EPOCH, changed({2: 0, 3: 65_535, 20: 0}))
    expected = {number: number for number in range(1, 11)} | {3: 65_535}
    del expected[2]
    with opened(path) as store:
        assert plain(await store.load()) == expected


async def test_a_writer_of_an_older_epoch_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "consents.db") as store:
        await store.write(EPOCH, changed({1: 1}))
        with pytest.raises(StaleEpoch):
            await store.write(OwnershipEpoch(2), changed({1: 9}))
        assert plain(await store.load()) == {1: 1}


async def test_a_key_without_its_form_is_named(tmp_path: Path) -> None:
    with opened(tmp_path / "consents.db") as store:
        store.database.write(0).execute("INSERT INTO consents VALUES (?, 1)", (b"short",))
        store.database.commit()
        with pytest.raises(StoreCorrupt, match="16 bytes"):
            await store.load()


@settings(max_examples=15)
@given(writes=st.lists(st.dictionaries(st.integers(1, 8), st.integers(0, 3), max_size=8), max_size=5))
def test_random_writes_agree_with_a_dictionary(
    writes: list[dict[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("consents") / "consents.db"
    known: dict[int, int] = {}
    with opened(path) as store:
        for counts in writes:
            store._write(3, changed(counts))
            known |= counts
        store.database.commit()
    with opened(path) as store:
        found = {int.from_bytes(key[:8], "little"): left for key, left in store._read(b"")}
    assert found == {number: left for number, left in known.items() if left}
