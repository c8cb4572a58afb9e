"""Some rows of an archived page are what the whole page says of them, however they come, change and are written."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.actors import page_forms
from gateway.actors.page_forms import changes_form
from gateway.batch import Batch, TaskSegment
from gateway.columns import TextColumn
from gateway.content import FallbackStep, Variant
from gateway.core.counters import others_of, tally_pages
from gateway.errors import LocalProtocolError
from gateway.ledger import Burst, Channel, LedgerPage, State
from gateway.message_id import BatchAddress
from gateway.page_history import RECEIPT_KINDS, Kind
from gateway.store import page_rows
from gateway.store.packing import pack_page
from gateway.store.page_changes import STATE_COLUMNS
from gateway.store.page_rows import RowsOfPage, add_rows, become_whole, few_of, overlay, rows_in
from gateway.store.pages import page_of, page_parts
from gateway.tally import PageTally

_NOW_UNIX_MS = 1_700_000_010_123
_N = 1500
_VARIANTS = [Variant(title="t", body="b {{name}}"), Variant(title="u", body="c", plan_id="p")]
_STEPS = st.sampled_from(["load", "change", "write", "look", "whole", "leave"])
_MOST = {"state": 10, "receipt": 3, "flags": 200, "reason": 40, "channel": 20, "attempts": 3}


def make_page(n: int = _N, **more: object) -> LedgerPage:
    rng = np.random.default_rng(5)
    batch = Batch(
        BatchAddress(1_700_000_000_123, 3, 77),
        2,
        500.0,
        n,
        device_ids=rng.integers(0, 256, (n, 16), np.uint8),
        message_ids=np.zeros((n, 16), np.uint8),
        variants=more.pop(
            "variants", [Variant(title="t", body="b {{name}}"), Variant(title="u", body="c", plan_id="p")]
        ),  # type: ignore[arg-type]
        variant_index=rng.integers(0, 2, n, np.uint16),
        segments=[TaskSegment(bytes([9]) * 16, 0, n // 2, "early"), TaskSegment(bytes([8]) * 16, n // 2, n - n // 2)],
        variables={"name": TextColumn.from_rows([b"%d" % row * (row % 5) for row in range(n)])},
        **more,  # type: ignore[arg-type]
    )
    page = LedgerPage(batch)
    page.state[:] = State.HELD
    page.state[rng.integers(0, n, n // 3)] = State.DEVICE_ACKED
    page.final_ms[:] = rng.integers(0, 1 << 20, n)
    page.counts[:] = np.bincount(page.state, minlength=len(State))
    return page


def change(pages: list[LedgerPage], rows: np.ndarray, rng: np.random.Generator) -> None:
    """Whatever a row can be, and bursts and receipts now and then; the same in each."""
    values = {
        name: rng.integers(0, _MOST.get(name, 1 << 20), len(rows)).astype(dtype)
        for name, dtype in STATE_COLUMNS.items()
    }
    kinds, heard, burst = rng.integers(0, RECEIPT_KINDS, len(rows)).astype(np.uint8), *rng.integers(0, 2, 2).tolist()
    for page in pages:
        page.counts -= np.bincount(page.state[rows], minlength=len(State))
        for name, column in values.items():
            getattr(page, name)[rows] = column
        page.counts += np.bincount(page.state[rows], minlength=len(State))
        page.note_changes(rows)
        if heard:
            page.hear(rows, kinds, 1003.0)
            page.left_link(rows, 1004.0)
            page.fell_back(rows, 1005.0)
        if burst:
            columns = (rows.astype(np.uint16), 501.0, np.full(len(rows), 7, np.uint32), np.full(len(rows), 1, np.uint8))
            page.bursts.append(Burst(len(page.bursts), 1, Channel.APNS, 1, *columns, {0: "x"}, -1, {}))


def past_by_row(page: LedgerPage) -> dict[int, list[tuple[Kind, int, int]]]:
    history = page.history
    return {} if history is None else {row: history.of_row(row) for row in np.unique(history.rows).tolist()}


def assert_same(found: LedgerPage, page: LedgerPage) -> None:
    for name in STATE_COLUMNS:
        assert getattr(found, name).tolist() == getattr(page, name).tolist(), name
    assert past_by_row(found) == past_by_row(page)
    assert [burst.rows.tolist() for burst in found.bursts] == [burst.rows.tolist() for burst in page.bursts]


def assert_same_rows(few: LedgerPage, page: LedgerPage, archived: LedgerPage) -> None:
    assert few.here is not None
    rows = few.here.rows
    for name in STATE_COLUMNS:
        assert getattr(few, name)[rows].tolist() == getattr(page, name)[rows].tolist(), name
    assert few.batch.device_ids[rows].tolist() == page.batch.device_ids[rows].tolist()
    assert few.batch.variant_index is not None
    assert few.batch.variant_index[rows].tolist() == page.batch.variant_index[rows].tolist()  # type: ignore[index]
    # Texts of rows that had ended are not there.
    texts, whole = few.batch.variables["name"], archived.batch.variables["name"]
    assert texts.take(rows).rows() == whole.take(rows).rows()
    assert [texts.row(row) for row in rows.tolist()] == [whole.row(row) for row in rows.tolist()]
    assert texts.lengths()[rows].tolist() == whole.lengths()[rows].tolist()
    past = past_by_row(page)
    assert past_by_row(few) == {row: past[row] for row in rows.tolist() if row in past}
    assert few.counts.tolist() == page.counts.tolist()
    assert few.history is None or few.history.n - few.history.written <= few.history.n
    assert tally_pages([few], 0)[0].cells == tally_pages([page], 0)[0].cells


def page_now(own: list[bytes], log: list[bytes]) -> LedgerPage:
    return page_of(b"".join([*own, *log]), now=510.0, now_unix_ms=_NOW_UNIX_MS)


@given(
    st.lists(
        st.tuples(st.sampled_from(["load", "change", "write", "look", "whole", "leave"]), st.integers(1, 3)),
        max_size=14,
    ),
    st.integers(0, 1 << 16),
)
def test_a_few_rows_are_as_the_whole_page_says_through_loads_changes_and_writes(
    steps: list[tuple[str, int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    page = make_page()
    # Of so many rows that some are loaded that have a past.
    change([page], np.sort(rng.choice(60, 20, replace=False)), rng)
    own, log = [bytes(part) for part in page_parts(page)], list[bytes]()
    packed = pack_page(page_parts(page))
    few: LedgerPage | None = None
    is_written = True
    for step, n in [("load", 3), *steps, ("whole", 1)]:
        if step == "load":
            rows = np.sort(rng.choice(60, n, replace=False))
            rows = rows if few is None or few.here is None else rows[~few.here.has(rows)]
            (tally,) = tally_pages([page_now(own, log)], 0)
            found = rows_in(packed, rows, log, tally)
            if found is None or not len(rows):
                assert not len(rows)
            elif few is None:
                few = few_of(found, now=510.0, now_unix_ms=_NOW_UNIX_MS)
                few.others = others_of(few, rows, tally, 0)
            else:
                add_rows(few, found)
                assert few.others is not None
                few.others = others_of(few, rows, few.others, 0)
        elif few is None:
            continue
        elif step == "change":
            assert few.here is not None
            change([page, few], np.sort(rng.choice(few.here.rows, min(n, len(few.here)), replace=False)), rng)
            is_written = False
        elif step == "write":
            made = changes_form(few, PageTally({}))
            assert not made.in_place
            log.append(made.record)
            assert few.archived is not None
            few.archived.is_durable = is_written = True
        elif step == "look":
            seen = page_now(own, log)
            overlay(seen, few)
            assert_same(seen, page)
        elif step == "whole":
            whole = page_now(own, log)
            become_whole(few, whole)
            few.counts[:] = np.bincount(few.state, minlength=len(State))
            assert_same(few, page)
            assert few.counts.tolist() == page.counts.tolist()
            assert few.batch.device_ids.tolist() == page.batch.device_ids.tolist()
            # What of it is nowhere yet is written, and nothing is twice.
            copy = few.archived
            assert copy is not None
            log.append(changes_form(few, PageTally({})).record)
            assert_same(page_now(own, log), page)
            assert copy.records == len(log)
            few, is_written = None, True
        elif step == "leave" and is_written:
            few = None
        if few is not None:
            assert_same_rows(few, page, page_now(own, log))


def rows_of(page: LedgerPage, rows: list[int]) -> RowsOfPage | None:
    return rows_in(pack_page(page_parts(page)), np.array(rows), [], tally_pages([page], 0)[0])


def test_what_costs_as_much_as_the_page_is_not_read_by_rows() -> None:
    assert rows_of(make_page(), [3]) is not None
    small = make_page(page_rows.ROWS_MIN - 1)
    chained = make_page(variants=[Variant(title="t", body="b", fallback=[FallbackStep("apns", 60)])] * 2)
    for page, rows in ((small, [3]), (chained, [3]), (make_page(), [_N])):
        assert rows_of(page, rows) is None
    singles = make_page()
    singles.batch.segments = [TaskSegment(bytes(16), row, 1) for row in range(_N)]
    assert rows_of(singles, [3]) is None
    heard = make_page()
    for kind in (Kind.DELIVERED, Kind.DISPLAYED, Kind.CLICKED):
        heard.hear(np.arange(_N), kind, 600.0)
    assert rows_of(heard, [3]) is None


def test_a_look_at_rows_that_are_not_here_is_an_error_and_no_answer() -> None:
    found = rows_of(make_page(), [3, 700])
    assert found is not None
    page = few_of(found, now=0.0, now_unix_ms=0)
    assert page.state[700] == page.state[np.array([700])][0]
    for wrong in (4, 701, 1499, 0):
        with pytest.raises(LocalProtocolError):
            page.state[wrong]
        with pytest.raises(LocalProtocolError):
            page.state[np.array([3, wrong])] = 1
    with pytest.raises(LocalProtocolError):
        page.state == State.HELD  # noqa: B015
    with pytest.raises(LocalProtocolError):
        np.flatnonzero(page.state)
    with pytest.raises(LocalProtocolError):
        page.state[np.ones(_N, np.bool_)]
    with pytest.raises(LocalProtocolError):
        page.batch.device_ids[np.array([5])]
    with pytest.raises(TypeError):
        np.zeros(2, np.uint8) + page.state


@given(st.integers(0, 1 << 30))
def test_damage_in_the_blocks_of_a_row_is_seen(at: int) -> None:
    page = make_page()
    packed = bytearray(pack_page(page_parts(page)))
    expected = rows_of(page, [7])
    packed[at % len(packed)] ^= 0x10
    try:
        found = rows_in(bytes(packed), np.array([7]), [], tally_pages([page], 0)[0])
    except ValueError:
        return
    # It was in the blocks of another row, or made the page one of another form, which is read whole.
    assert expected is not None
    if found is not None:
        for mine, other in itertools.chain(
            zip(found.states.values(), expected.states.values(), strict=True),
            zip(found.columns.values(), expected.columns.values(), strict=True),
        ):
            assert mine.tolist() == other.tolist()
        assert found.texts == expected.texts


def test_records_beside_a_page_are_few_or_it_is_made_whole() -> None:
    found = rows_of(make_page(), [3])
    assert found is not None
    page = few_of(found, now=0.0, now_unix_ms=0)
    page.note_changes(np.array([3]))
    assert page_forms.may_amend(page)
    assert page.archived is not None
    page.archived.records = page_forms.RECORDS_MAX
    assert not page_forms.may_amend(page)
