"""Batch: limits of its size, the variant of a row, and what a submission weighs."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch, Submission
from gateway.columns import TextColumn
from gateway.content import Texts, Variant
from gateway.core.gather import Gather
from gateway.message_id import ROWS_MAX, BatchAddress

ADDRESS = BatchAddress(1_700_000_000_000, 2, 5)


def batch_of(n: int, variants: list[Variant], **columns: object) -> Batch:
    ids = np.zeros((n, 16), np.uint8)
    return Batch(ADDRESS, 3, 10.0, n, device_ids=ids, message_ids=ids, variants=variants, **columns)  # type: ignore[arg-type]


def submission_of(n: int, **fields: object) -> Submission:
    empty = Submission("", [Variant("t", "b")], n, None, np.zeros((n, 16), np.uint8), None, None, None, {}, None, ())
    return empty._replace(**fields)


@pytest.mark.parametrize("n", [0, -1, ROWS_MAX + 1])
def test_a_batch_of_no_rows_or_too_many_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"a batch of {n} rows, limit 65536"):
        Batch(
            ADDRESS,
            0,
            0.0,
            n,
            device_ids=np.zeros((0, 16), np.uint8),
            message_ids=np.zeros((0, 16), np.uint8),
            variants=[],
        )


@pytest.mark.parametrize("n", [1, ROWS_MAX])
def test_a_batch_keeps_what_it_was_given(n: int) -> None:
    batch = batch_of(n, [Variant("t", "b")])
    assert (batch.n, batch.app, batch.born, batch.born_unix_ms) == (n, 3, 10.0, ADDRESS.unix_ms)
    assert batch.variables == {}
    assert repr(batch) == f"<Batch 2/5 app 3, {n} rows>"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_the_variant_of_a_row_is_the_one_its_index_names(index: list[int]) -> None:
    variants = [Variant(str(number), "") for number in range(4)]
    batch = batch_of(len(index), variants, variant_index=np.array(index, np.uint16))
    assert [batch.variant_of(row).title for row in range(batch.n)] == [str(number) for number in index]
    assert batch_of(5, variants).variant_of(4).title == "0"


@given(
    st.lists(st.text(alphabet="ab", max_size=9), max_size=3),
    st.lists(st.binary(max_size=9), min_size=2, max_size=2),
    st.lists(st.binary(max_size=9), min_size=2, max_size=2),
)
def test_a_submission_weighs_its_contents_tokens_and_variables(
    titles: list[str], tokens: list[bytes], values: list[bytes]
) -> None:
    submission = submission_of(
        2,
        variants=[Variant(title, "body") for title in titles],
        tokens=TextColumn.from_rows(tokens),
        variables={"x": TextColumn.from_rows(values), "y": TextColumn.from_rows(values)},
    )
    expected = sum(len(title) + 4 for title in titles) + sum(map(len, tokens)) + 2 * sum(map(len, values))
    assert submission.text_bytes() == expected


@pytest.mark.parametrize(
    "options",
    [
        {"data": {"k": "x" * 5000, "n": 1}},
        {"texts": {"apns": Texts("x" * 2500, None), "fcm": Texts(None, "x" * 2500)}},
        {"raw": {"apns": msgspec.Raw(b'"' + b"x" * 4998 + b'"')}},
    ],
)
def test_a_submission_weighs_whatever_its_contents_say(options: dict[str, Any]) -> None:
    submission = submission_of(2, variants=[Variant("title", "body", **options)])
    assert 5000 <= submission.text_bytes() < 5100
    assert submission.text_bytes() <= submission.text_bytes_at_most()
    # Gathered with others it would have made a record of any size.
    gather: Gather[int] = Gather(bytes_max=12_000)
    for call in range(5):
        gather.add(submission, call)
    assert [len(gather.take()) for _ in range(3)] == [2, 2, 1]


def test_a_submission_without_rows_weighs_nothing() -> None:
    assert submission_of(0).text_bytes() == 0


@pytest.mark.parametrize(("n_contents", "rows"), [(1, [0, 5]), (3, [4]), (3, [0, 1, 2, 3]), (6, [5, 0]), (6, [])])
def test_contents_of_rows_are_asked_no_more_often_than_there_are_rows_or_contents(
    n_contents: int, rows: list[int]
) -> None:
    variants = [Variant(title=str(number), body="") for number in range(n_contents)]
    index = np.arange(6, dtype=np.uint16) % np.uint16(n_contents)
    batch = batch_of(6, variants, variant_index=index if n_contents > 1 else None)
    asked: list[Variant] = []

    def ask(variant: Variant) -> int:
        asked.append(variant)
        return int(variant.title)

    found = batch.of_contents(np.array(rows, np.intp), ask, np.int64)
    assert (found.tolist(), found.dtype) == ([int(index[row]) for row in rows], np.int64)
    # Thousands of single messages are one batch, and their answers come a few at a time.
    assert len(asked) <= max(1, min(len(rows), n_contents))
