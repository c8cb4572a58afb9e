"""Columns of bytes: every array routine against a plain twin that looks at one row at a time."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import (
    TextColumn,
    decimal,
    fill,
    fixed_rows,
    hex_lower,
    holds_pair,
    join,
    join_all,
    json_escape,
    json_escape_column,
    piece_rows,
    piece_width,
    pieces_lengths,
    pieces_width,
    uuid_text,
)

rows_of_bytes = st.lists(st.binary(max_size=12), max_size=30)
texts = st.lists(st.text(max_size=8), max_size=20)


def fixed(rows: list[bytes], width: int) -> np.ndarray:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)


# TextColumn


@given(rows_of_bytes)
def test_a_text_column_gives_back_its_rows(rows: list[bytes]) -> None:
    column = TextColumn.from_rows(rows)
    assert len(column) == len(rows)
    assert column.rows() == rows
    assert [column.row(index) for index in range(len(rows))] == rows
    assert column.lengths().tolist() == [len(row) for row in rows]
    assert column.blob == b"".join(rows)
    assert column.offsets.dtype == np.uint32
    assert column.offsets[0] == 0
    assert column.offsets[-1] == len(column.blob)


@given(texts)
def test_a_text_column_of_texts_holds_utf8(rows: list[str]) -> None:
    assert [row.decode() for row in TextColumn.from_texts(rows).rows()] == rows


@given(st.lists(rows_of_bytes, max_size=5))
def test_concatenated_columns_are_their_rows_in_order(parts: list[list[bytes]]) -> None:
    column = TextColumn.concatenate([TextColumn.from_rows(part) for part in parts])
    assert column.rows() == [row for part in parts for row in part]


@given(st.data(), st.lists(st.binary(max_size=6), min_size=1, max_size=30))
def test_take_agrees_with_picking_rows_one_by_one(data: st.DataObject, rows: list[bytes]) -> None:
    positions = data.draw(
        st.lists(st.integers(0, len(rows) - 1), max_size=40)
        | st.integers(0, len(rows) - 1).flatmap(
            lambda first: st.integers(first, len(rows)).map(lambda stop: list(range(first, stop)))
        )
    )
    dtype = data.draw(st.sampled_from([np.uint16, np.uint32, np.int32, np.int64, np.intp]))
    taken = TextColumn.from_rows(rows).take(np.array(positions, dtype))
    assert taken.rows() == [rows[position] for position in positions]
    assert int(taken.offsets[-1]) == len(taken.blob)


@pytest.mark.parametrize("positions", [[65_535], [65_535, 0], [65_535, 65_535], [0, 65_535], [65_534, 65_535]])
def test_take_reaches_the_last_row_of_a_full_batch_by_uint16(positions: list[int]) -> None:
    rows = [b"%d" % index for index in range(65_536)]
    taken = TextColumn.from_rows(rows).take(np.array(positions, np.uint16))
    assert taken.rows() == [rows[position] for position in positions]


@pytest.mark.parametrize("positions", [[5, 0], [65_535, 0], [3, 4, 4, 6]])
def test_take_does_not_mistake_uint16_positions_that_wrap_for_a_run(positions: list[int]) -> None:
    rows = [b"%d" % index for index in range(65_536)]
    assert TextColumn.from_rows(rows).take(np.array(positions, np.uint16)).rows() == [rows[p] for p in positions]


@given(st.data(), st.integers(1, 300), st.sampled_from([np.uint16, np.uint32, np.int64]))
def test_take_of_all_but_few_rows_agrees_with_picking_them_one_by_one(
    data: st.DataObject, n: int, dtype: type[np.integer]
) -> None:
    rows = [b"%d" % row * (row % 4) for row in range(n)]
    gone = set(data.draw(st.lists(st.integers(0, n - 1), max_size=1 + n // 8)))
    positions = [row for row in range(n) if row not in gone]
    taken = TextColumn.from_rows(rows).take(np.array(positions, dtype))
    assert taken.rows() == [rows[position] for position in positions]
    assert taken.offsets.dtype == np.uint32
    assert int(taken.offsets[-1]) == len(taken.blob)


@pytest.mark.parametrize(
    "positions",
    [
        [*range(65_500, 65_536), *range(200), *range(65_000, 65_264)],
        [*range(100), *range(50, 150)],
        [*range(100, 200), *range(300, 400), *range(200, 300)],
    ],
    ids=["wraps", "repeats", "falls"],
)
def test_take_of_runs_in_any_order_agrees_with_picking_rows_one_by_one(positions: list[int]) -> None:
    rows = [b"%d" % row for row in range(1 << 16)]
    taken = TextColumn.from_rows(rows).take(np.array(positions, np.uint16))
    assert taken.rows() == [rows[position] for position in positions]


@given(st.data(), st.integers(0, 5), st.integers(32, 60), st.integers(0, 3))
def test_take_of_rows_of_one_length_agrees_with_picking_them_one_by_one(
    data: st.DataObject, width: int, n: int, first: int
) -> None:
    rows = [(b"%05d" % row)[5 - width :] for row in range(3 + n)]
    whole = TextColumn.from_rows(rows)
    assert whole.blob == b"".join(rows)  # a blob with offsets, as it comes out of a call
    column = whole.part(first, first + n)
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=30, max_size=40))
    taken = column.take(np.array(positions, np.uint16))
    assert taken.rows() == [rows[first + position] for position in positions]
    assert (int(taken.offsets[-1]), taken.width()) == (len(taken.blob), width)
    fixed = column.fixed()
    assert fixed is not None
    assert [row.tobytes() for row in fixed] == rows[first : first + n]


def test_take_of_nothing_is_an_empty_column() -> None:
    for rows in ([], [b"a", b"b"]):
        taken = TextColumn.from_rows(rows).take(np.zeros(0, np.int64))
        assert (len(taken), taken.blob) == (0, b"")


@given(rows_of_bytes)
def test_width_and_fixed_agree_with_the_set_of_lengths(rows: list[bytes]) -> None:
    column = TextColumn.from_rows(rows)
    lengths = {len(row) for row in rows}
    assert column.width() == (lengths.pop() if len(lengths) == 1 else None)
    view = column.fixed()
    if column.width() is None:
        assert view is None
    else:
        assert view.shape == (len(rows), column.width())
        assert [row.tobytes() for row in view] == rows
        assert not view.flags.writeable


def test_a_column_tells_its_size_and_none_of_its_bytes() -> None:
    assert repr(TextColumn.from_rows([b"a token", b"b"])) == "<TextColumn of 2 rows, 8 bytes>"


@pytest.mark.parametrize("is_moved", [False, True])
@pytest.mark.parametrize("is_cut", [False, True])
@given(data=st.data(), rows=st.lists(st.binary(max_size=6), min_size=1, max_size=12))
def test_rows_that_were_picked_are_those_rows_wherever_their_text_is_by_then(
    data: st.DataObject, rows: list[bytes], is_cut: bool, is_moved: bool
) -> None:
    column = TextColumn.from_rows(rows)
    positions = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=12))
    expected = [rows[position] for position in positions]
    picked = column.take(np.array(positions))
    if is_cut:
        kept = {index: data.draw(st.integers(0, len(expected[index]))) for index in range(0, len(expected), 2)}
        picked = picked.shortened(np.array([*kept], np.intp), np.array([*kept.values()], np.intp), b"..")
        for index, length in kept.items():
            expected[index] = expected[index][:length] + b".."
    if is_moved:
        column.move(memoryview(bytearray(column.blob)), column.offsets.copy())
    again = data.draw(st.permutations(range(len(expected))))
    for start, stop in ((0, len(expected)), (1, len(expected)), (1, 2)):
        part = picked.part(start, stop)
        assert part.rows() == piece_rows(picked, start, stop) == expected[start:stop]
        assert part.lengths().tolist() == [len(row) for row in expected[start:stop]]
    assert [picked.row(index) for index in range(len(expected))] == expected
    assert picked.take(np.array(again)).rows() == [expected[index] for index in again]
    assert (picked.blob, picked.rows()) == (b"".join(expected), expected)


def test_a_few_rows_do_not_keep_the_text_of_many() -> None:
    column = TextColumn.from_rows([b"x" * (index % 3) for index in range(1000)])
    few, some = column.take(np.array([1, 500, 2])), column.take(np.arange(0, 1000, 3))
    assert (few.spans(), few.rows()) == (None, [b"x", b"xx", b"xx"])
    spans = some.spans()
    assert spans is not None
    assert spans.blob is column.blob


@given(st.lists(st.binary(max_size=5), max_size=6), st.sampled_from([b"\xe2\x81", b"ab", b"aa"]))
def test_a_pair_is_found_at_even_and_at_odd_places(rows: list[bytes], pair: bytes) -> None:
    rows = [row.replace(b"\x00", pair).replace(b"\x01", pair[:1]) for row in rows]
    column = TextColumn.from_rows(rows)
    assert holds_pair(column.blob, pair) == (pair in b"".join(rows))
    taken = column.take(np.arange(len(rows))[::-2])
    # Asked once for all that are taken out of a column.
    assert taken.may_hold(pair) or not any(pair in row for row in taken.rows())
    assert column.may_hold(pair) == (pair in b"".join(rows))


# Pieces


@st.composite
def pieces_of_rows(draw: st.DrawFn, ragged: bool = True) -> tuple[int, tuple, list[list[bytes]]]:
    """(n, pieces, the bytes of each piece by row)."""
    n = draw(st.integers(0, 8))
    pieces: list = []
    plain: list[list[bytes]] = []
    kinds = ["constant", "fixed", "ragged"] if ragged else ["constant", "fixed"]
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=6)):
        if kind == "constant":
            constant = draw(st.binary(max_size=4))
            pieces.append(constant)
            plain.append([constant] * n)
            continue
        width = draw(st.integers(0, 4))
        size = st.binary(min_size=width, max_size=width) if kind == "fixed" else st.binary(max_size=4)
        rows = draw(st.lists(size, min_size=n, max_size=n))
        pieces.append(fixed(rows, width) if kind == "fixed" else TextColumn.from_rows(rows))
        plain.append(rows)
    return n, tuple(pieces), plain


@given(st.data(), pieces_of_rows())
def test_join_agrees_with_joining_row_by_row(data: st.DataObject, case: tuple) -> None:
    n, pieces, plain = case
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    joined = [b"".join(rows[row] for rows in plain) for row in range(start, stop)]
    assert join(pieces, start, stop) == joined
    assert join_all(pieces, start, stop) == b"".join(joined)
    for piece, rows in zip(pieces, plain, strict=True):
        assert piece_rows(piece, start, stop) == rows[start:stop]


@given(pieces_of_rows())
def test_widths_and_lengths_agree_with_the_joined_rows(case: tuple) -> None:
    n, pieces, plain = case
    whole = [b"".join(rows[row] for rows in plain) for row in range(n)]
    assert pieces_lengths(pieces, n).tolist() == [len(row) for row in whole]
    has_ragged = any(isinstance(piece, TextColumn) for piece in pieces)
    assert (pieces_width(pieces) is None) == has_ragged
    if not has_ragged:
        assert all(len(row) == pieces_width(pieces) for row in whole)
        assert pieces_width(pieces) == sum(piece_width(piece) for piece in pieces)


@given(st.data(), pieces_of_rows(ragged=False))
def test_fill_agrees_with_join(data: st.DataObject, case: tuple) -> None:
    n, pieces, plain = case
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    out = fill(pieces, start, stop)
    assert out.shape == (stop - start, pieces_width(pieces))
    assert [row.tobytes() for row in out] == [b"".join(rows[row] for rows in plain) for row in range(start, stop)]
    out[:] = 0xEE  # it is the caller's to write into
    assert join(pieces, start, stop) == [b"".join(rows[row] for rows in plain) for row in range(start, stop)]


@given(st.integers(0, 6).flatmap(lambda k: st.lists(st.binary(min_size=k, max_size=k), max_size=10)))
def test_fixed_rows_gives_each_row_with_all_of_its_bytes(rows: list[bytes]) -> None:
    width = len(rows[0]) if rows else 3
    assert fixed_rows(np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)) == rows


def test_fill_refuses_a_ragged_piece() -> None:
    with pytest.raises(TypeError, match="ragged"):
        fill((TextColumn.from_rows([b"a"]),), 0, 1)


# Digits


@given(st.integers(0, 6).flatmap(lambda k: st.lists(st.binary(min_size=k, max_size=k), max_size=10)))
def test_hex_of_rows_agrees_with_hex_of_each(rows: list[bytes]) -> None:
    width = len(rows[0]) if rows else 3
    digits = hex_lower(fixed(rows, width))
    assert [row.tobytes() for row in digits] == [row.hex().encode() for row in rows]
    wide = np.full((len(rows), width + 3), 0xEE, np.uint8)
    wide[:, 1 : 1 + width] = fixed(rows, width)
    assert hex_lower(wide[:, 1 : 1 + width]).tobytes() == digits.tobytes()


def test_every_pair_of_bytes_has_its_digits() -> None:
    pairs = np.arange(65_536, dtype=">u2").view(np.uint8).reshape(-1, 2)
    assert hex_lower(pairs).tobytes() == pairs.tobytes().hex().encode()


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=10))
def test_uuid_text_agrees_with_the_uuid_library(rows: list[bytes]) -> None:
    texts = uuid_text(fixed(rows, 16))
    assert [row.tobytes().decode() for row in texts] == [str(uuid.UUID(bytes=row)) for row in rows]


@given(
    st.sampled_from([np.uint32, np.int64, np.uint64]).flatmap(
        lambda dtype: st.lists(st.integers(0, int(np.iinfo(dtype).max)), max_size=10).map(lambda v: np.array(v, dtype))
    ),
    st.integers(0, 21),
)
def test_decimal_agrees_with_formatting_each_number(values: np.ndarray, width: int) -> None:
    digits = decimal(values, width)
    plain = [(f"{value:0{width}d}"[-width:] if width else "").encode() for value in values.tolist()]
    assert [row.tobytes() for row in digits] == plain


# Texts

json_texts = st.text(alphabet=st.sampled_from('a"\\\n\t\x00\x1f\x7f/中🙂') | st.characters(codec="utf-8"), max_size=10)


@given(json_texts)
def test_json_escape_makes_the_inside_of_a_json_string(text: str) -> None:
    escaped = json_escape(text.encode())
    assert json.loads(b'"' + escaped + b'"') == text


@given(st.lists(json_texts, max_size=10))
def test_json_escape_of_a_column_agrees_with_each_row(rows: list[str]) -> None:
    column = TextColumn.from_texts(rows)
    assert json_escape_column(column).rows() == [json_escape(row.encode()) for row in rows]
    assert column.rows() == [row.encode() for row in rows]


def test_json_escape_returns_a_harmless_column_as_it_is() -> None:
    column = TextColumn.from_texts(["plain", "中文", ""])
    assert json_escape_column(column) is column


@given(st.lists(json_texts, max_size=10))
def test_a_column_is_json_plain_when_nothing_in_it_is_escaped(rows: list[str]) -> None:
    column = TextColumn.from_texts(rows)
    assert column.is_json_plain == all(json_escape(row.encode()) == row.encode() for row in rows)


@given(st.lists(st.binary(max_size=6), max_size=12), st.data())
def test_a_part_of_a_column_has_its_rows_and_lengths_whether_joined_or_not(
    rows: list[bytes], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    lengths = np.array([len(row) for row in rows], np.int64)
    joined = TextColumn.from_rows(rows)
    assert joined.blob == b"".join(rows)
    for column in (joined, TextColumn.from_rows(rows), TextColumn.from_rows(rows, lengths)):
        part = column.part(start, stop)
        assert part.rows() == rows[start:stop]
        assert part.lengths().tolist() == lengths[start:stop].tolist()
        assert [part.row(index) for index in range(stop - start)] == rows[start:stop]
        assert part.take(np.arange(stop - start)[::-1]).rows() == rows[start:stop][::-1]
