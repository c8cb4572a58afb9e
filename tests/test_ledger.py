"""The ledger's words: the transition table over every pair of states, and pages against a list of rows."""

from __future__ import annotations

import gc
import itertools
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch, TaskSegment
from gateway.columns import TextColumn
from gateway.content import Scalar, Variant
from gateway.errors import LocalProtocolError
from gateway.ledger import (
    CHANNEL_NAMES,
    FINAL_STATES,
    IS_FINAL,
    LEGAL_MOVES,
    OPEN_STATES,
    VENDOR_CHANNELS,
    Channel,
    Flag,
    LedgerPage,
    Reason,
    Receipt,
    State,
)
from gateway.message_id import BatchAddress

#: Which moves are legal: a row per state before, a column per state after, both in the order of `State`.
TABLE = """
                 Q  H  I  W  VA DA F  E  D  U  C
queued           .  x  x  x  .  x  x  x  x  .  x
held             x  .  x  .  .  x  .  x  x  .  x
in_flight        x  x  .  x  x  x  x  x  .  x  .
waiting          x  x  .  .  x  x  x  x  x  .  x
vendor_accepted  .  .  .  .  .  .  .  .  .  .  .
device_acked     .  .  .  .  .  .  .  .  .  .  .
failed           .  .  .  .  .  .  .  .  .  .  .
expired          .  .  .  .  .  .  .  .  .  .  .
dropped          .  .  .  .  .  .  .  .  .  .  .
uncertain        .  .  .  .  x  .  .  .  .  .  .
cancelled        .  .  .  .  .  .  .  .  .  .  .
"""
EXPECTED = {
    State[line.split()[0].upper()]: [cell == "x" for cell in line.split()[1:]] for line in TABLE.strip().split("\n")[1:]
}
PAIRS = list(itertools.product(State, State))
IS_UINT8 = np.iinfo(np.uint8).max


def page_of(n: int, born: float = 0.0, **columns: object) -> LedgerPage:
    ids = np.zeros((n, 16), np.uint8)
    address = BatchAddress(0, 0, 0)
    variants = [Variant("t", "b")]
    return LedgerPage(Batch(address, 0, born, n, device_ids=ids, message_ids=ids, variants=variants, **columns))  # type: ignore[arg-type]


def in_states(states: list[State]) -> LedgerPage:
    """A page whose rows are in the given states, by legal moves only."""
    page = page_of(len(states))
    for row, state in enumerate(states):
        for step in way_to(state):
            page.move(np.array([row]), step)
    return page


def way_to(state: State) -> list[State]:
    if state is State.QUEUED:
        return []
    return [State.IN_FLIGHT, state] if state in (State.VENDOR_ACCEPTED, State.UNCERTAIN) else [state]


def recount(page: LedgerPage) -> list[int]:
    return np.bincount(page.state, minlength=len(State)).tolist()


# The table


def test_the_table_lists_every_pair_of_states() -> None:
    assert list(EXPECTED) == list(State)
    assert LEGAL_MOVES.tolist() == [EXPECTED[state] for state in State]


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=[f"{a.name}-{b.name}".lower() for a, b in PAIRS])
def test_every_move_is_made_or_refused_as_the_table_says(before: State, after: State) -> None:
    page = in_states([before, before])
    if EXPECTED[before][after]:
        came = page.move(np.array([1]), after, Reason.RETRY)
        assert came.tolist() == [int(state is before) for state in State]
        assert [State(code) for code in page.state] == [before, after]
        assert page.reason.tolist() == [Reason.NONE, Reason.RETRY]
    else:
        with pytest.raises(LocalProtocolError, match=f"1 rows may not move from {before.name} to {after.name}"):
            page.move(np.array([1]), after, Reason.RETRY)
        assert [State(code) for code in page.state] == [before, before]
    assert page.counts.tolist() == recount(page)


def test_final_states_are_left_only_by_a_receipt_for_an_uncertain_row() -> None:
    assert set(State) == OPEN_STATES | FINAL_STATES
    assert not OPEN_STATES & FINAL_STATES
    assert [State(code) for code in np.flatnonzero(IS_FINAL)] == sorted(FINAL_STATES)
    leaving = [(before, after) for before, after in PAIRS if before in FINAL_STATES and LEGAL_MOVES[before, after]]
    assert leaving == [(State.UNCERTAIN, State.VENDOR_ACCEPTED)]


def test_every_open_row_can_come_to_an_end() -> None:
    for state in OPEN_STATES:
        assert any(LEGAL_MOVES[state, final] for final in FINAL_STATES)


@pytest.mark.parametrize("words", [Channel, State, Receipt, Reason, Flag])
def test_codes_fit_a_byte_and_are_distinct(words) -> None:
    codes = [int(word) for word in words]
    assert len(set(codes)) == len(codes)
    assert min(codes) >= 0
    assert max(codes) <= IS_UINT8


def test_flags_are_single_bits() -> None:
    assert all(int(flag).bit_count() == 1 for flag in Flag)


def test_channel_names_lead_back_to_their_channels() -> None:
    assert {channel: name for name, channel in CHANNEL_NAMES.items()} == {
        channel: channel.name.lower() for channel in Channel if channel is not Channel.NONE
    }
    assert set(CHANNEL_NAMES) - set(VENDOR_CHANNELS) == {"long_link"}


# Pages


def test_a_new_page_holds_every_row_queued_and_nothing_else() -> None:
    page = page_of(5)
    assert page.counts.tolist() == recount(page) == [5] + [0] * 10
    assert page.n_open == 5
    for column in (page.receipt, page.flags, page.reason, page.channel, page.attempts):
        assert (column.dtype, column.tolist()) == (np.uint8, [0] * 5)
    for column in (page.routed_ms, page.issued_ms, page.final_ms, page.token_hashes):
        assert (column.dtype, column.tolist()) == (np.uint32, [0] * 5)
    assert page.slots.tolist() == [-1] * 5
    assert page.bursts == []


steps = st.lists(
    st.tuples(
        st.lists(st.integers(0, 7), unique=True, max_size=8),
        st.sampled_from(list(State)),
        st.sampled_from([Reason.NONE, Reason.RETRY, Reason.QUOTA_EXHAUSTED]),
        st.booleans(),
        st.sampled_from([np.uint16, np.int64]),
    ),
    max_size=25,
)


@given(st.lists(st.sampled_from(list(State)), min_size=8, max_size=8), steps)
def test_moves_of_columns_agree_with_moves_row_by_row(states: list[State], steps: list) -> None:
    page = in_states(states)
    plain, why = list(states), page.reason.tolist()
    for rows, to, reason, has_reasons, dtype in steps:
        reasons = [int(reason) + index % 2 for index in range(len(rows))] if has_reasons else [int(reason)] * len(rows)
        given_reason = np.array(reasons, np.uint8) if has_reasons else reason
        if all(EXPECTED[plain[row]][to] for row in rows):
            came = page.move(np.array(rows, dtype), to, given_reason)
            assert came.tolist() == [sum(plain[row] is state for row in rows) for state in State]
            for row, code in zip(rows, reasons, strict=True):
                plain[row], why[row] = to, code
        else:
            with pytest.raises(LocalProtocolError):
                page.move(np.array(rows, dtype), to, given_reason)
        assert [State(code) for code in page.state] == plain
        assert page.reason.tolist() == why
        assert page.counts.tolist() == recount(page)
        assert int(page.counts.sum()) == page.n
        assert page.n_open == sum(state in OPEN_STATES for state in plain)


@pytest.mark.parametrize(
    ("now", "stamp"),
    [(100.0, 1), (100.0004, 1), (100.0015, 1), (100.5, 500), (99.0, 1), (100.0 + 40 * 86400, 3_456_000_000)],
)
def test_a_stamp_is_milliseconds_after_birth_and_never_zero(now: float, stamp: int) -> None:
    assert page_of(1, born=100.0).stamp(now) == stamp
    assert stamp <= np.iinfo(np.uint32).max


@pytest.mark.parametrize("n", [1, 50, 4096])
@pytest.mark.parametrize("data", [None, {"order": "1234567"}])
def test_memory_of_single_messages_is_what_they_take(n: int, data: dict[str, Scalar] | None) -> None:
    """A batch of single messages has a content and a segment for each row: ten times what its columns take."""
    payload = msgspec.msgpack.encode([Variant(f"Order {row}", f"Order {row} is on its way", data) for row in range(n)])

    def made() -> LedgerPage:
        variants = msgspec.msgpack.decode(payload, type=list[Variant])
        segments = [TaskSegment((1 << 64 | row).to_bytes(16, "big"), row, 1) for row in range(n)]
        ids, index = np.zeros((n, 16), np.uint8), np.arange(n, dtype=np.uint16)
        address = BatchAddress(1 << 40, 300, 1 << 20)
        return LedgerPage(
            Batch(address, 0, 1e6, n, device_ids=ids, variants=variants, variant_index=index, segments=segments)
        )

    made().memory_bytes()
    gc.collect()
    tracemalloc.start()
    try:
        pages = [made() for _ in range(max(1, 500 // n))]
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] / len(pages)
    finally:
        tracemalloc.stop()
    assert 0.8 * taken < pages[0].memory_bytes() < 1.25 * taken


def test_memory_grows_with_rows_tokens_and_variables() -> None:
    bare = page_of(10).memory_bytes()
    tokens = TextColumn.from_rows([b"x" * 64] * 10)
    assert page_of(20).memory_bytes() == bare + 10 * 42
    assert page_of(10, tokens=tokens, variables={"a": tokens, "b": tokens}).memory_bytes() == bare + 3 * 640 + 2 * 40
