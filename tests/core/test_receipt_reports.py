"""Receipts and rows: which rows a receipt is about, against a plain twin; what each event does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway import burst_address, message_id
from gateway.batch import Batch
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.core.receipt_reports import (
    EFFECTS,
    ROW_UNKNOWN,
    DeviceWords,
    Reports,
    address,
    find_rows,
    pack_reports,
    pack_words,
    read_address,
    strongest,
    unpack_reports,
    unpack_words,
)
from gateway.ledger import Channel, LedgerPage, Receipt
from gateway.message_id import BatchAddress, RowAddress
from gateway.receipts import Event, VendorReceipt

SECRET = b"sixteen bytes or more"
BATCH = BatchAddress(1_763_700_000_000, 5, 77)
OTHER = BatchAddress(1_763_700_000_001, 5, 78)


def page_of(hashes: list[int], channels: list[int]) -> LedgerPage:
    n = len(hashes)
    ids = np.zeros((n, 16), np.uint8)
    page = LedgerPage(Batch(BATCH, 0, 0.0, n, device_ids=ids, message_ids=ids, variants=[Variant("t", "b")]))
    page.token_hashes[:] = hashes
    page.channel[:] = channels
    return page


def reports_of(rows: list[int], hashes: list[int], events: list[int] | None = None) -> Reports:
    n = len(rows)
    return Reports(
        np.array(rows, np.int32),
        np.array(hashes, np.uint32),
        np.array(events if events is not None else [0] * n, np.uint8),
        np.full(n, -1, np.int64),
    )


# Few distinct hashes, some with equal lower halves, so that tokens meet and tables collide.
HASHES = st.sampled_from([0, 1, 2, 3, 1 << 16 | 1, 2 << 16 | 1, 9, 10, 11, 12, 13])
CHANNELS = st.sampled_from([0, int(Channel.HUAWEI), int(Channel.OPPO)])


@given(
    rows=st.lists(st.tuples(HASHES, CHANNELS), min_size=1, max_size=30),
    reports=st.lists(st.tuples(st.integers(-1, 35), HASHES), max_size=20),
)
def test_rows_are_found_as_by_a_look_at_each(rows: list[tuple[int, int]], reports: list[tuple[int, int]]) -> None:
    page = page_of([one for one, _ in rows], [channel for _, channel in rows])
    found = find_rows(page, Channel.HUAWEI, reports_of([row for row, _ in reports], [one for _, one in reports]))
    wanted = [
        (index, row)
        for index, (named, token) in enumerate(reports)
        for row, (own, channel) in enumerate(rows)
        if token and token == own and channel == Channel.HUAWEI and named in (ROW_UNKNOWN, row)
    ]
    assert sorted(zip(found.reports.tolist(), found.rows.tolist(), strict=True)) == wanted
    assert found.missing.tolist() == sorted(set(range(len(reports))) - {index for index, _ in wanted})


def test_a_callback_parameter_leads_to_its_batch_and_row() -> None:
    burst = burst_address.encode(SECRET, burst_address.BurstAddress(BATCH, 3))
    assert read_address(SECRET, burst) == (BATCH, ROW_UNKNOWN)
    row = message_id.to_text(message_id.encode(SECRET, RowAddress(BATCH, 12)))
    assert read_address(SECRET, row) == (BATCH, 12)
    task = message_id.to_text(message_id.encode(SECRET, RowAddress(BATCH, 12), message_id.TASK_DOMAIN))
    wrong = [burst[:-1] + ("0" if burst[-1] != "0" else "1"), row.upper(), row.replace("-", ""), task, "", "x" * 46]
    assert [read_address(SECRET, text) for text in wrong] == [None] * len(wrong)
    assert read_address(b"another secret, also long", burst) is None


@given(texts=st.lists(st.text(max_size=50), max_size=5))
def test_a_strangers_callback_parameter_is_no_address(texts: list[str]) -> None:
    assert [read_address(SECRET, text) for text in texts] == [None] * len(texts)


def plain_hash(tokens: TextColumn) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array([1 + sum(token) for token in tokens.rows()], np.uint32)


def test_receipts_are_sorted_by_batch_and_strangers_are_counted() -> None:
    first = burst_address.encode(SECRET, burst_address.BurstAddress(BATCH, 3))
    second = message_id.to_text(message_id.encode(SECRET, RowAddress(OTHER, 2)))
    receipts = [
        VendorReceipt(Event.DELIVERED, first, ["a", "b"], 7),
        VendorReceipt(Event.CLICKED, second, ["c"], 8),
        VendorReceipt(Event.TOKEN_DEAD, first, ["d"]),
        VendorReceipt(Event.DELIVERED, "forged-" + first[:39], ["e", "f"]),
        VendorReceipt(Event.DELIVERED, "", ["g"]),
    ]
    found = address(SECRET, receipts, plain_hash)
    assert (found.forged, found.without_address) == (2, 1)
    assert list(found.by_batch) == [BATCH, OTHER]
    of_first, of_second = found.by_batch[BATCH], found.by_batch[OTHER]
    assert of_first.rows.tolist() == [ROW_UNKNOWN] * 3
    assert of_first.token_hashes.tolist() == [98, 99, 101]
    assert of_first.events.tolist() == [Event.DELIVERED, Event.DELIVERED, Event.TOKEN_DEAD]
    assert of_first.at_unix_ms.tolist() == [7, 7, -1]
    assert (of_second.rows.tolist(), of_second.events.tolist()) == ([2], [Event.CLICKED])
    assert address(SECRET, [], plain_hash).by_batch == {}


def test_a_token_that_no_text_can_be_raises_nothing() -> None:
    first = burst_address.encode(SECRET, burst_address.BurstAddress(BATCH, 3))
    found = address(SECRET, [VendorReceipt(Event.DELIVERED, first, ["\ud800", ""])], plain_hash)
    assert len(found.by_batch[BATCH].rows) == 2


def test_every_event_has_its_effect_and_only_three_raise_a_receipt() -> None:
    assert set(EFFECTS) == set(Event)
    raised = {event: receipt for event, (receipt, _) in EFFECTS.items() if receipt}
    assert raised == {
        Event.DELIVERED: Receipt.DELIVERED,
        Event.DISPLAYED: Receipt.DISPLAYED,
        Event.CLICKED: Receipt.CLICKED,
    }


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=20))
def test_each_row_gets_the_highest_of_its_receipts(pairs: list[tuple[int, int]]) -> None:
    rows, receipts = np.array([row for row, _ in pairs], np.intp), np.array([one for _, one in pairs], np.uint8)
    found = {row: receipt for receipt, of in strongest(rows, receipts) for row in of.tolist()}
    assert found == {row: max(one for at, one in pairs if at == row) for row, _ in pairs}


def test_columns_between_workers_come_back_as_they_were() -> None:
    reports = reports_of([1, ROW_UNKNOWN], [7, 8], [2, 4])
    assert all((a == b).all() for a, b in zip(reports, unpack_reports(memoryview(pack_reports(reports))), strict=True))
    ids = np.arange(32, dtype=np.uint8).reshape(2, 16)
    words = DeviceWords(ids, np.array([1, 2], np.uint32), np.array([4, 5], np.uint8), np.array([5, -1], np.int64))
    assert all((a == b).all() for a, b in zip(words, unpack_words(memoryview(pack_words(words))), strict=True))
    for broken in (pack_reports(reports)[:-1], pack_reports(reports_of([1], [7], [200]))):
        try:
            unpack_reports(memoryview(broken))
        except ValueError:
            continue
        raise AssertionError("columns that do not fit were taken")
