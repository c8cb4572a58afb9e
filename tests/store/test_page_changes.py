"""Records beside a page: its bytes and its log say what the page is, however its changes were cut into records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.actors import page_forms
from gateway.actors.page_forms import changes_form, may_amend
from gateway.batch import Batch, TaskSegment
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.ledger import Burst, Channel, LedgerPage, State
from gateway.message_id import BatchAddress
from gateway.page_history import RECEIPT_KINDS
from gateway.store.page_changes import ROW_BYTES, STATE_COLUMNS
from gateway.store.pages import archived_copy, page_of, page_parts
from gateway.tally import PageTally

_NOW_UNIX_MS = 1_700_000_010_123
_N = 300


def make_page(n: int = _N, **more: object) -> LedgerPage:
    ids = np.random.default_rng(5).integers(0, 256, (n, 16), np.uint8)
    batch = Batch(
        BatchAddress(1_700_000_000_123, 3, 77),
        2,
        500.0,
        n,
        device_ids=ids,
        message_ids=np.zeros((n, 16), np.uint8),
        variants=[Variant(title="t", body="b", ttl_s=600)],
        segments=[TaskSegment(bytes([9]) * 16, 0, n)],
        **more,  # type: ignore[arg-type]
    )
    page = LedgerPage(batch)
    page.state[:] = State.HELD
    page.counts[:] = np.bincount(page.state, minlength=len(State))
    return page


def change(page: LedgerPage, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Whatever a row can be, and a burst and receipts now and then."""
    for name, dtype in STATE_COLUMNS.items():
        most = len(State) - 1 if name == "state" else 200
        getattr(page, name)[rows] = rng.integers(0, most, len(rows)).astype(dtype)
    page.note_changes(rows)
    if len(rows) and rng.integers(2):
        page.hear(rows, rng.integers(0, RECEIPT_KINDS, len(rows)).astype(np.uint8), 1003.0)
        page.left_link(np.unique(rows), 1004.0)
    if len(rows) and rng.integers(2):
        answered, verdicts = np.full(len(rows), 7, np.uint32), np.full(len(rows), 1, np.uint8)
        number = len(page.bursts)
        page.bursts.append(
            Burst(number, 1, Channel.APNS, 1, rows.astype(np.uint16), 501.0, answered, verdicts, {0: "x"}, -1, {})
        )
    page.counts[:] = np.bincount(page.state, minlength=len(State))


def assert_same(found: LedgerPage, page: LedgerPage) -> None:
    for name in STATE_COLUMNS:
        assert getattr(found, name).tolist() == getattr(page, name).tolist(), name
    assert found.counts.tolist() == page.counts.tolist()
    assert (found.history is None) == (page.history is None)
    if found.history is not None and page.history is not None:
        for name in ("rows", "kinds", "channels", "at_ms", "heard"):
            assert getattr(found.history, name).tolist() == getattr(page.history, name).tolist(), name
        assert found.history._attempts == page.history._attempts
    assert [burst._replace(issued=0.0)[:4] for burst in found.bursts] == [burst[:4] for burst in page.bursts]
    for old, new in zip(page.bursts, found.bursts, strict=True):
        assert new.issued - found.batch.born == pytest.approx(old.issued - page.batch.born)
        for one, other in ((old.rows, new.rows), (old.answered, new.answered), (old.verdicts, new.verdicts)):
            assert one.tolist() == other.tolist()


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=8), st.integers(0, 1 << 16), st.integers(1, 4))
def test_a_page_and_its_log_are_the_page_as_it_is(steps: list[tuple[int, bool]], seed: int, records_max: int) -> None:
    """Records one by one, and now and then one in place of all; the page may be read, and go on, in between."""
    rng = np.random.default_rng(seed)
    page = make_page()
    change(page, rng.choice(_N, 50, replace=False), rng)
    own = b"".join(page_parts(page))
    page.archived = archived_copy(page, has_texts=False)
    log: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_forms, "RECORDS_MAX", records_max)
        for n, is_read_again in steps:
            change(page, np.sort(rng.choice(_N, n, replace=False)), rng)
            made = changes_form(page, PageTally({}))
            log = [made.record] if made.in_place else [*log, made.record]
            assert made.held == np.count_nonzero(page.state == State.HELD)
            found = page_of(own + b"".join(log), now=9000.0, now_unix_ms=_NOW_UNIX_MS)
            assert_same(found, page)
            assert found.archived is not None
            assert len(log) <= records_max
            assert (found.archived.records, found.archived.log_bytes) == (len(log), sum(map(len, log)))
            if is_read_again:
                page = found
    assert not len(page_of(own, now=9000.0, now_unix_ms=_NOW_UNIX_MS).archived.changed(since_page=True))  # type: ignore[union-attr]


def test_a_changed_row_is_some_fifty_bytes() -> None:
    page = make_page()
    page.archived = archived_copy(page, has_texts=False)
    page.note_changes(np.array([17]))
    assert len(changes_form(page, PageTally({})).record) < 60


@given(st.data())
def test_a_damaged_log_is_refused(data: st.DataObject) -> None:
    page = make_page(20)
    own = b"".join(page_parts(page))
    page.archived = archived_copy(page, has_texts=False)
    change(page, np.arange(5), np.random.default_rng(1))
    log = bytearray(changes_form(page, PageTally({})).record)
    log[data.draw(st.integers(0, len(log) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="log"):
        page_of(own + bytes(log), now=0.0, now_unix_ms=0)
    with pytest.raises(ValueError, match="log"):
        page_of(own + bytes(log[: data.draw(st.integers(1, len(log) - 1))]), now=0.0, now_unix_ms=0)


def test_a_page_is_written_whole_where_its_log_would_grow_too_long_and_where_texts_have_to_go() -> None:
    n = page_forms.AMENDED_ROWS_MIN
    page = make_page(n)
    assert not may_amend(page)
    page.archived = archived_copy(page, has_texts=False)
    # Somebody is writing it, or has tried to.
    assert not may_amend(page)
    page.archived.is_durable = True
    assert may_amend(page)
    few = page_forms.LOG_BYTES_PER_ROW_MAX * n // ROW_BYTES
    page.note_changes(np.arange(few))
    assert may_amend(page)
    page.note_changes(np.arange(few + 1))
    assert not may_amend(page)

    named = make_page(n, variables={"name": TextColumn.from_rows([b"n"] * n)})
    named.archived = archived_copy(named, has_texts=True)
    named.archived.is_durable = True
    named.note_changes(np.array([1]))
    assert may_amend(named)
    named.counts[:] = 0
    assert not may_amend(named)

    small = make_page(n - 1)
    small.archived = archived_copy(small, has_texts=False)
    small.archived.is_durable = True
    assert not may_amend(small)
