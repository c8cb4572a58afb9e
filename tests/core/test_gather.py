"""Gather: nothing lost, order kept, limits held; merged batches against a list of rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import message_id
from gateway.batch import NO_IDS, Submission
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.core.gather import GATHER_ROWS, Gather, Part, build_batch, split
from gateway.message_id import ROWS_MAX, TASK_DOMAIN, BatchAddress

SECRET = bytes(range(32))
ADDRESS = BatchAddress(1_700_000_000_000, 1, 77)


class Row(NamedTuple):
    """One row of a submission, plainly."""

    source: int
    device_id: bytes
    channel: int
    token: bytes
    variant: Variant
    variables: dict[str, bytes]
    is_duplicate: bool


def rows_of_submission(submission: Submission) -> list[Row]:
    return [
        Row(
            row if submission.source_rows is None else int(submission.source_rows[row]),
            submission.device_ids[row].tobytes(),
            0 if submission.channels is None else int(submission.channels[row]),
            b"" if submission.tokens is None else submission.tokens.row(row),
            submission.variants[0 if submission.variant_index is None else int(submission.variant_index[row])],
            {name: column.row(row) for name, column in submission.variables.items()},
            False if submission.duplicates is None else bool(submission.duplicates[row]),
        )
        for row in range(submission.n)
    ]


def rows_of_batch(batch) -> list[Row]:
    segment_of = {row: segment for segment in batch.segments for row in range(segment.first, segment.first + segment.n)}
    return [
        Row(
            row - segment_of[row].first if batch.source_rows is None else int(batch.source_rows[row]),
            batch.device_ids[row].tobytes(),
            0 if batch.channels is None else int(batch.channels[row]),
            b"" if batch.tokens is None else batch.tokens.row(row),
            batch.variant_of(row),
            {name: column.row(row) for name, column in batch.variables.items()},
            False if batch.duplicates is None else bool(batch.duplicates[row]),
        )
        for row in range(batch.n)
    ]


def plain(n: int, name: str = "", **fields: object) -> Submission:
    ids = np.random.default_rng(n).integers(0, 256, (n, 16), np.uint8)
    made = Submission(name, [Variant(name, "b")], n, None, ids, None, None, None, {}, None, ())
    return made._replace(**fields)


@st.composite
def submissions(draw: st.DrawFn, names: tuple[str, ...] | None = None, n_max: int = 6) -> Submission:
    n = draw(st.integers(1, n_max))
    variants = [Variant(str(number), "b") for number in range(draw(st.integers(1, 3)))]
    if names is None:
        names = draw(st.sampled_from([(), ("x",), ("x", "y")]))

    def maybe(made: st.SearchStrategy) -> object:
        return draw(st.none() | made)

    def column(dtype: type, values: st.SearchStrategy) -> st.SearchStrategy:
        return st.lists(values, min_size=n, max_size=n).map(lambda found: np.array(found, dtype))

    texts = st.lists(st.binary(max_size=5), min_size=n, max_size=n).map(TextColumn.from_rows)
    return Submission(
        request_id="",
        variants=variants,
        n=n,
        source_rows=maybe(st.lists(st.integers(0, 99), min_size=n, max_size=n, unique=True).map(sorted).map(np.uint32)),
        device_ids=draw(column(np.uint8, st.integers(0, 255)))[:, None] * np.ones(16, np.uint8),
        channels=maybe(column(np.uint8, st.integers(0, 3))),
        tokens=maybe(texts),
        variant_index=draw(column(np.uint16, st.integers(0, len(variants) - 1))) if len(variants) > 1 else None,
        variables={name: draw(texts) for name in names},
        duplicates=maybe(column(np.bool_, st.booleans())),
        faults=(),
    )


# Splitting


@given(submissions(n_max=12), st.integers(1, 12))
def test_split_pieces_are_the_rows_in_order_and_no_larger_than_asked(submission: Submission, rows_max: int) -> None:
    pieces = split(submission, rows_max, 1 << 20)
    assert [row for piece in pieces for row in rows_of_submission(piece)] == rows_of_submission(submission)
    assert all(1 <= piece.n <= rows_max for piece in pieces)
    assert len(pieces) == -(-submission.n // rows_max)


def test_a_submission_that_fits_is_not_copied() -> None:
    submission = plain(5)
    assert split(submission, 5, 1 << 20)[0] is submission


@given(submissions(n_max=12), st.integers(1, 40))
def test_split_pieces_hold_no_more_text_than_asked_but_for_a_single_row(submission: Submission, bytes_max: int) -> None:
    pieces = split(submission, 100, bytes_max)
    assert [row for piece in pieces for row in rows_of_submission(piece)] == rows_of_submission(submission)
    assert all(piece.n == 1 or piece.row_text_bytes() <= bytes_max for piece in pieces)


# Gathering


@given(st.lists(submissions(), max_size=12), st.integers(1, 12), st.integers(0, 60))
def test_every_part_is_taken_once_in_order_and_within_the_limits(
    calls: list[Submission], rows_max: int, bytes_max: int
) -> None:
    gather: Gather[int] = Gather(rows_max=rows_max, bytes_max=bytes_max)
    for call, submission in enumerate(calls):
        gather.add(submission, call)
    assert gather.rows == sum(submission.n for submission in calls)
    taken: list[Part[int]] = []
    last: list[Part[int]] = []
    while parts := gather.take():
        # A single call may be larger than the limits; several may not.
        if len(parts) > 1:
            assert sum(part.submission.n for part in parts) <= rows_max
            assert sum(part.submission.text_bytes() for part in parts) <= bytes_max
        assert len({frozenset(part.submission.variables) for part in parts}) == 1
        # Nothing was left out that had room.
        if last and last[0].submission.variables.keys() == parts[0].submission.variables.keys():
            both = [part.submission for part in (*last, parts[0])]
            rows, size = sum(only.n for only in both), sum(only.text_bytes() for only in both)
            assert rows > rows_max or size > bytes_max
        last = parts
        taken += parts
        assert gather.rows == sum(submission.n for submission in calls) - sum(part.submission.n for part in taken)
    rows = [row for part in taken for row in rows_of_submission(part.submission)]
    assert rows == [row for submission in calls for row in rows_of_submission(submission)]
    assert [part.call for part in taken] == sorted(part.call for part in taken)
    for call in range(len(calls)):
        pieces = [part.piece for part in taken if part.call == call]
        assert pieces == list(range(len(pieces)))
        assert pieces
    assert gather.rows == 0
    assert gather.take() == []


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.integers(5, 12))
def test_a_batch_takes_as_many_calls_as_fit(sizes: list[int], rows_max: int) -> None:
    gather: Gather[int] = Gather(rows_max=rows_max)
    for call, size in enumerate(sizes):
        gather.add(plain(size), call)
    while parts := gather.take():
        after = parts[-1].call + 1
        if after < len(sizes):
            assert sum(part.submission.n for part in parts) + sizes[after] > rows_max


def test_one_row_calls_share_one_batch() -> None:
    gather: Gather[int] = Gather()
    for call in range(1000):
        gather.add(plain(1), call)
    assert len(gather.take()) == 1000


@pytest.mark.parametrize(
    ("n", "pieces"),
    [(ROWS_MAX, [ROWS_MAX]), (ROWS_MAX + 1, [ROWS_MAX, 1]), (2 * ROWS_MAX + 5, [ROWS_MAX, ROWS_MAX, 5])],
)
def test_a_call_larger_than_a_batch_comes_in_pieces(n: int, pieces: list[int]) -> None:
    submission = plain(n)
    gather: Gather[str] = Gather()
    assert gather.add(submission, "call") == len(pieces)
    ids, sources = [], []
    for index, size in enumerate(pieces):
        (part,) = gather.take()
        assert (part.submission.n, part.call, part.piece) == (size, "call", index)
        ids.append(part.submission.device_ids)
        sources.append(part.submission.source_rows)
    assert gather.rows == 0
    assert np.array_equal(np.concatenate(ids), submission.device_ids)
    if len(pieces) > 1:
        assert np.array_equal(np.concatenate(sources), np.arange(n))


def test_the_last_piece_of_a_large_call_shares_its_batch_with_what_came_after() -> None:
    gather: Gather[str] = Gather()
    gather.add(plain(ROWS_MAX + 3), "large")
    gather.add(plain(4), "small")
    assert [part.submission.n for part in gather.take()] == [ROWS_MAX]
    assert [(part.call, part.piece, part.submission.n) for part in gather.take()] == [("large", 1, 3), ("small", 0, 4)]


def test_a_call_with_other_variables_waits_for_the_next_batch() -> None:
    gather: Gather[str] = Gather()
    text = TextColumn.from_rows([b"v"])
    for call, names in (("a", ["x"]), ("b", ["x"]), ("c", ["y"]), ("d", []), ("e", ["x"])):
        gather.add(plain(1, variables=dict.fromkeys(names, text)), call)
    batches = []
    while parts := gather.take():
        batches.append([part.call for part in parts])
    assert batches == [["a", "b"], ["c"], ["d"], ["e"]]


def test_a_batch_has_no_more_variants_than_its_index_can_name() -> None:
    variants = [Variant(str(number), "") for number in range(40_000)]
    gather: Gather[int] = Gather(bytes_max=1 << 30)
    for call in range(2):
        gather.add(plain(2, variants=variants, variant_index=np.array([0, 39_999], np.uint16)), call)
    assert [part.call for part in gather.take()] == [0]
    assert [part.call for part in gather.take()] == [1]


def test_gathering_stops_before_a_whole_batch() -> None:
    gather: Gather[int] = Gather()
    gather.add(plain(GATHER_ROWS - 1), 0)
    gather.add(plain(1), 1)
    gather.add(plain(1), 2)
    assert [part.call for part in gather.take()] == [0, 1]


# Building


@given(
    st.sampled_from([(), ("x",), ("x", "y")]).flatmap(
        lambda names: st.lists(submissions(names=names), min_size=1, max_size=6)
    ),
    st.data(),
)
def test_a_batch_is_the_rows_of_its_parts_in_order(made: list[Submission], data: st.DataObject) -> None:
    parts = [Part(submission, None, 0) for submission in made]
    given_ids = [data.draw(st.none() | st.just(bytes([index]) * 16)) for index in range(len(parts))]
    batch = build_batch(ADDRESS, 4, 12.5, parts, given_ids, SECRET)
    assert (batch.address, batch.app, batch.born, batch.n) == (
        ADDRESS,
        4,
        12.5,
        sum(part.submission.n for part in parts),
    )
    assert rows_of_batch(batch) == [row for submission in made for row in rows_of_submission(submission)]
    assert batch.message_ids is NO_IDS
    first = 0
    for segment, submission, task_id in zip(batch.segments, made, given_ids, strict=True):
        assert (segment.first, segment.n) == (first, submission.n)
        own = message_id.encode(SECRET, message_id.RowAddress(ADDRESS, first), TASK_DOMAIN)
        assert segment.task_id == (task_id or own)
        first += submission.n


def test_variants_beyond_a_byte_keep_their_place_when_batches_merge() -> None:
    many = [Variant(str(number), "") for number in range(300)]
    index = np.arange(299, -1, -1).astype(np.uint16)
    parts = [Part(plain(300, variants=many, variant_index=index), None, 0), Part(plain(2, "last"), None, 0)]
    batch = build_batch(ADDRESS, 0, 0.0, parts, [None, None], SECRET)
    assert [batch.variant_of(row).title for row in (0, 299, 300, 301)] == ["299", "0", "last", "last"]


def test_parts_of_one_task_keep_the_position_in_their_own_call() -> None:
    address, secret = BatchAddress(1, 2, 3), b"k" * 32
    calls = [plain(2, "a", group="north"), plain(3, "b"), plain(1, "c")]
    parts = [Part(call, number, 0) for number, call in enumerate(calls)]
    batch = build_batch(address, 0, 0.0, parts, [b"t" * 16, None, b"t" * 16], secret)
    assert batch.source_rows is not None
    assert batch.source_rows.tolist() == [0, 1, 0, 1, 2, 0]
    found = [(segment.first, segment.n, segment.group, segment.is_continued) for segment in batch.segments]
    assert found == [(0, 2, "north", True), (2, 3, "", False), (5, 1, "", True)]
