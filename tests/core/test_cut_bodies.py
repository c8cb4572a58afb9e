"""Bodies that are cut in their last value, against the same bodies joined first."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import TextColumn, join, json_escape_column
from gateway.core.cut_bodies import Bodies
from gateway.vendor import Slot

PARTS = (b'{"body":"', Slot("body"), b'"}')
OVERHEAD_BYTES = len(PARTS[0]) + len(PARTS[2])
texts = st.lists(st.sampled_from([*"ab中é🎉", "👨\u200d👩", "\u0301"]), max_size=30).map("".join)
#: What JSON escapes, what isolates a direction, and what hides where its graphemes end.
odd = st.sampled_from(["", '"', "\u2066", "🇨🇳" * 12, "e" + "\u0301" * 99])
marks = st.sampled_from(["…", "", "…更多", '"'])


@given(
    st.lists(st.tuples(texts, texts), min_size=1, max_size=8),
    odd,
    st.sampled_from([b"Dear ", b"", "\u2066".encode(), b"\\n"]),
    st.integers(100, 420),
    marks,
)
def test_what_is_cut_where_it_lies_is_what_is_cut_of_the_joined_text(
    told: list[tuple[str, str]], odd: str, constant: bytes, limit: int, mark: str
) -> None:
    n = len(told)
    names = TextColumn.from_texts([name for name, _ in told])
    lasts = TextColumn.from_texts([odd + text + "ab 中文🎉" * 25 + text for _, text in told])
    digits = np.frombuffer(b"0123456789" * n, np.uint8).reshape(n, 10)
    pieces = (constant, names.take(np.arange(n)), digits, json_escape_column(lasts.take(np.arange(n))))
    rows = join(pieces, 0, n)
    sizes = np.array([len(row) + OVERHEAD_BYTES for row in rows], np.int64)
    over = np.flatnonzero(sizes > limit)
    bodies = Bodies(pieces, sizes, limit, PARTS, mark)
    cut, done = bodies.cut_last(over)
    shorter = bodies.shorter(over)
    assert join(cut, 0, n) == [shorter[row] if row in over[done].tolist() else rows[row] for row in range(n)]
    assert cut[:-1] == pieces[:-1]


def test_nearly_all_texts_are_cut_where_they_lie() -> None:
    column = TextColumn.from_texts([f"{number} 您的订单已发货 your order 🎉 has shipped " * 9 for number in range(200)])
    assert column.blob
    pieces = (b"Dear customer, ", column.take(np.arange(150)))
    sizes = np.array([len(row) + OVERHEAD_BYTES for row in join(pieces, 0, 150)], np.int64)
    _, done = Bodies(pieces, sizes, 400, PARTS, "…").cut_last(np.arange(150))
    assert np.count_nonzero(done) == 150


def test_what_stands_before_a_text_that_lies_among_others_is_not_its_beginning() -> None:
    # Flags are pairs of letters: one letter more before them, and the pairs are others.
    column = TextColumn.from_texts(["🇨🇳" * 60 + "ab🇨"] * 3)
    assert column.blob
    pieces = (b"x", column.take(np.arange(3)))
    rows = join(pieces, 0, 3)
    sizes = np.array([len(row) + OVERHEAD_BYTES for row in rows], np.int64)
    for limit in range(80, 400):
        bodies = Bodies(pieces, sizes, limit, PARTS, "…")
        cut, done = bodies.cut_last(np.arange(3))
        shorter = bodies.shorter(np.arange(3))
        assert join(cut, 0, 3) == [shorter[row] if done[row] else rows[row] for row in range(3)]
