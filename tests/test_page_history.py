"""PageHistory: each receipt of a row stands in it once, in the order in which they came, as a plain list would say."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.page_history import ATTEMPTS_PER_ROW_MAX, RECEIPT_KINDS, Kind, PageHistory

N = 5
calls = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, RECEIPT_KINDS - 1)), max_size=6),
        st.sampled_from([None, Kind.HANDED_OVER, Kind.LINK_ATTEMPT]),
    ),
    max_size=8,
)


@given(calls)
def test_a_history_says_what_a_plain_list_says(made: list[tuple[list[tuple[int, int]], Kind | None]]) -> None:
    history, plain = PageHistory(N), list[tuple[int, int, int, int]]()
    attempts = 0
    for at, (pairs, attempt) in enumerate(made):
        rows = np.array([row for row, _ in pairs], np.intp)
        channels, times = np.full(len(rows), at + 1, np.uint8), np.full(len(rows), at, np.uint32)
        if attempt is not None:
            history.attempted(rows, attempt, channels, times)
            room = max(0, ATTEMPTS_PER_ROW_MAX * N - attempts)
            attempts += len(pairs[:room])
            plain += [(row, int(attempt), at + 1, at) for row, _ in pairs[:room]]
            continue
        n_new = history.hear(rows, np.array([kind for _, kind in pairs], np.uint8), channels, times)
        new = []
        for row, kind in pairs:
            if not any(one[:2] == (row, kind) for one in [*plain, *new]):
                new.append((row, kind, at + 1, at))
        assert n_new == len(new)
        plain += new
    columns = (history.rows, history.kinds, history.channels, history.at_ms)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == plain
    for row in range(N):
        assert history.of_row(row) == [(Kind(kind), channel, at) for one, kind, channel, at in plain if one == row]
    receipt = np.array([2] * N, np.uint8)
    rows, times = history.rose(receipt)
    assert list(zip(rows.tolist(), times.tolist(), strict=True)) == [
        (row, at) for row, kind, _, at in plain if kind == Kind.DISPLAYED
    ]
    again = PageHistory(N)
    again.restore(history.rows.astype(np.intp), history.kinds, history.channels, history.at_ms)
    assert again.heard.tolist() == history.heard.tolist()
    assert again.written == again.n == history.n


def test_a_page_of_which_nobody_said_anything_pays_a_byte_a_row_at_most() -> None:
    history = PageHistory(1000)
    assert history.memory_bytes() == 1000
    history.hear(np.arange(10), np.zeros(10, np.uint8), np.zeros(10, np.uint8), np.zeros(10, np.uint32))
    assert history.memory_bytes() == 1000 + 16 * 8
