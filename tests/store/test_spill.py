"""Spill: a page whose long columns are on the disk is used like one in memory."""

from __future__ import annotations

import gc
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gateway.batch import Batch
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.errors import StoreError, StoreFull
from gateway.ledger import PAGE_BYTES, LedgerPage, State
from gateway.message_id import BatchAddress
from gateway.page_history import Kind
from gateway.store.pages import page_parts
from gateway.store.spill import ROWS_MIN, Spill

_BATCH = ("device_ids", "message_ids", "channels", "variant_index", "source_rows", "duplicates")
_PAGE = ("state", "routed_ms", "issued_ms", "final_ms", "token_hashes", "slots")


def page_of(seed: int, n: int = ROWS_MIN, *, has_texts: bool = True) -> LedgerPage:
    rng = np.random.default_rng(seed)
    texts = TextColumn.from_rows([b"x" * int(size) for size in rng.integers(0, 9, n)])
    batch = Batch(
        BatchAddress(1_700_000_000_000, 0, seed),
        0,
        0.0,
        n,
        device_ids=rng.integers(0, 256, (n, 16), np.uint8),
        message_ids=rng.integers(0, 256, (n, 16), np.uint8),
        variants=[Variant("t", "b")],
        channels=rng.integers(0, 3, n).astype(np.uint8) if has_texts else None,
        tokens=TextColumn.from_rows([b"%d" % row for row in range(n)]) if has_texts else None,
        variables={"a": texts, "b": texts, "c": TextColumn.from_rows([b""] * n)} if has_texts else None,
        duplicates=rng.integers(0, 2, n).astype(np.bool_) if seed % 2 else None,
    )
    page = LedgerPage(batch)
    page.n_routed = n
    page.final_ms[:] = rng.integers(0, 1 << 32, n)
    return page


def columns(page: LedgerPage) -> list[bytes | None]:
    """All that a page is, in one comparable value."""
    arrays = [getattr(page.batch, name) for name in _BATCH] + [getattr(page, name) for name in _PAGE]
    found = [None if array is None else np.asarray(array).tobytes() for array in arrays]
    batch = page.batch
    for column in [*batch.variables.values(), *([] if batch.tokens is None else [batch.tokens])]:
        found += [column.blob, column.offsets.tobytes(), b"|".join(column.rows()), column.row(3)]
        found += [column.take(np.array([5, 1, 7])).blob, column.part(2, 9).blob, bytes(column.is_json_plain)]
    return [*found, b"".join(page_parts(page))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 16), has_texts=st.booleans())
async def test_a_spilled_page_is_what_it_was_and_changes_like_any(tmp_path: Path, seed: int, has_texts: bool) -> None:
    spill = Spill(tmp_path, bytes_max=1 << 30, segment_bytes=1 << 20)
    page, twin = page_of(seed, has_texts=has_texts), page_of(seed, has_texts=has_texts)
    before = page.memory_bytes()
    await spill.take(page)
    assert columns(page) == columns(twin)
    assert page.memory_bytes() == PAGE_BYTES + page.batch.objects_bytes + 26 * page.n < before
    rows = np.array([3, 9, page.n - 1])
    for one in (page, twin):
        one.move(rows, State.IN_FLIGHT)
        one.issued_ms[rows] = 77
        one.hear(rows, Kind.CLICKED, 5.0)
    assert columns(page) == columns(twin)
    assert not spill.takes(page)
    assert list(tmp_path.iterdir()) == []


async def test_segments_are_bounded_and_go_with_the_last_of_their_pages(tmp_path: Path) -> None:
    spill = Spill(tmp_path, bytes_max=2 << 20, segment_bytes=1 << 20)
    pages: list[LedgerPage] = []

    async def fill() -> None:
        while True:
            pages.append(page_of(len(pages)))
            await spill.take(pages[-1])

    with pytest.raises(StoreFull, match="spill_bytes_max is 2097152 bytes, 2097152 are in use"):
        await fill()
    refused = pages.pop()
    assert len(pages) > 10
    assert refused.is_spilled is False
    assert columns(refused) == columns(page_of(len(pages)))
    del refused
    half = pages[len(pages) // 2 :]
    # A column is enough to keep its segment.
    kept = pages[0].batch.device_ids
    pages.clear()
    gc.collect()
    assert spill.bytes == 2 << 20
    assert kept.any()
    del kept
    gc.collect()
    assert spill.bytes == 1 << 20
    await spill.take(page_of(1))
    half.clear()


async def test_small_pages_stay_and_a_disk_that_refuses_changes_nothing(tmp_path: Path) -> None:
    small, large, unrouted = page_of(1, ROWS_MIN - 1), page_of(2), page_of(3)
    unrouted.n_routed -= 1
    assert [Spill.takes(page) for page in (small, large, unrouted)] == [False, True, False]
    spill = Spill(tmp_path / "gone", bytes_max=1 << 30)
    with pytest.raises(StoreError, match="gone"):
        await spill.take(large)
    assert large.is_spilled is False
    assert columns(large) == columns(page_of(2))
    assert spill.bytes == 0
