"""How many rows a lane renders at once: by cost, and by how long texts are."""

from __future__ import annotations

import numpy as np

from gateway.actors.lane_paces import LanePaces
from gateway.batch import Batch
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.ledger import LedgerPage
from gateway.message_id import BatchAddress

ROWS_MAX = 4096
FEWEST = 64


def page(text_bytes: int, n: int = 100) -> LedgerPage:
    variables = {"a": TextColumn.from_rows([b"x" * text_bytes] * n)} if text_bytes else {}
    ids = np.zeros((n, 16), np.uint8)
    batch = Batch(
        BatchAddress(1, 0, 0),
        0,
        0.0,
        n,
        device_ids=ids,
        message_ids=ids,
        variants=[Variant("t", "b")],
        variables=variables,
    )
    return LedgerPage(batch)


def taught(text_bytes: int, row_s: float) -> LanePaces:
    paces = LanePaces(0.002, rows_max=ROWS_MAX)
    for _ in range(200):
        paces.on_step(page(text_bytes), 200, 200 * row_s)
    return paces


def test_first_texts_of_all_are_rendered_a_few_at_a_time() -> None:
    assert LanePaces(0.002, rows_max=ROWS_MAX).rows_max(page(100)) == FEWEST


def test_page_with_texts_as_long_as_before_begins_at_full_pace() -> None:
    paces = taught(100, 2e-6)
    assert 700 < paces.rows_max(page(100)) <= 800
    assert paces.rows_max(page(50)) == paces.rows_max(page(100))


def test_page_with_longer_texts_begins_slower_and_goes_on_by_what_it_costs() -> None:
    paces = taught(100, 2e-6)
    longer = page(400)
    assert 175 <= paces.rows_max(longer) <= 200
    assert paces.rows_max(page(100_000)) == FEWEST
    assert 175 <= paces.rows_max(longer) <= 200
    paces.on_step(longer, 200, 200 * 2e-6)
    assert paces.rows_max(longer) > 700


def test_texts_that_differ_say_nothing_of_those_that_do_not() -> None:
    paces = taught(100, 2e-5)
    for _ in range(200):
        paces.on_step(page(0), ROWS_MAX, ROWS_MAX * 1e-7)
    assert paces.rows_max(page(0)) == paces.rows_max(None) == ROWS_MAX
    assert paces.rows_max(page(100)) < 100
