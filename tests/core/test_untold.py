"""Untold: what a page says of rows that nobody was told of, against a look at each row."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from gateway.batch import Batch
from gateway.content import Variant
from gateway.core.untold import changed_unix_ms, untold
from gateway.ledger import FINAL_STATES, LedgerPage, Receipt, State
from gateway.message_id import BatchAddress
from gateway.page_history import Kind

BORN = 1_700_000_000_000

rows = st.tuples(
    st.sampled_from(State), st.integers(0, 50), st.sampled_from(Receipt), st.integers(0, 50), st.integers(0, 3)
)


def page_of(made: list[tuple[State, int, Receipt, int, int]], *, has_receipts: bool) -> LedgerPage:
    n = len(made)
    batch = Batch(
        BatchAddress(BORN, 0, 1),
        0,
        0.0,
        n,
        device_ids=np.zeros((n, 16), np.uint8),
        message_ids=np.zeros((n, 16), np.uint8),
        variants=[Variant("t", "b")],
    )
    page = LedgerPage(batch)
    page.state[:], page.final_ms[:] = [row[0] for row in made], [row[1] for row in made]
    page.receipt[:], page.channel[:] = [row[2] for row in made], [row[4] for row in made]
    if has_receipts:
        for row, (_, _, receipt, receipt_ms, _) in enumerate(made):
            if receipt and receipt_ms:
                page.hear(np.array([row]), Kind(receipt - 1), receipt_ms / 1000)
                # What came later, and was less, is no rise.
                page.hear(np.array([row]), Kind.DELIVERED, 0.05)
    return page


@given(st.lists(rows, min_size=1, max_size=20), st.booleans(), st.integers(-5, 60))
def test_untold_finds_each_row_that_ended_or_was_reported_since(
    made: list[tuple[State, int, Receipt, int, int]], has_receipts: bool, since: int
) -> None:
    page = page_of(made, has_receipts=has_receipts)
    ends, receipts = [], []
    for row, (state, final_ms, receipt, receipt_ms, channel) in enumerate(made):
        if state in FINAL_STATES and (final_ms >= since or not final_ms):
            is_acked = state is State.DEVICE_ACKED
            ends.append((row, state, Receipt.DELIVERED if is_acked else Receipt.NONE, channel))
        if has_receipts and receipt and receipt_ms and receipt_ms >= since:
            receipts.append((row, state, receipt, channel))
    found = [
        list(zip(*(np.asarray(column).tolist() for column in (c.rows, c.state, c.receipt, c.channel)), strict=True))
        for c in untold(page, BORN + since)
    ]
    assert found == [part for part in (ends, receipts) if part]
    times = [row[1] for row in made]
    if page.history is not None:
        times += page.history.at_ms.tolist()
    assert changed_unix_ms(page) == (BORN + max(times) if max(times) else 0)
    for change in untold(page, BORN + since):
        assert BORN <= change.at_unix_ms <= BORN + 50
