"""Addresses of several journals in one home: told apart, and the same ids whoever has them."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from gateway.core.addresses import SHADOWS_FROM, Addresses, as_sent, number_of
from gateway.core.ownership import WORKERS_MAX, Ownership, journal_of
from gateway.message_id import SEQUENCES_MAX, BatchAddress, RowAddress, encode

SECRET = b"0123456789abcdef"
indexes = st.integers(0, WORKERS_MAX - 1)
sequences = st.integers(0, SEQUENCES_MAX - 1)


@given(indexes, sequences, st.integers(1, 16), st.integers(0, 3))
def test_every_batch_has_one_home_which_keeps_it_apart_from_its_own(
    index: int, sequence: int, workers: int, node: int
) -> None:
    ownership = Ownership(workers)
    address = BatchAddress(5, journal_of(node, index), sequence)
    homes = [
        Addresses(SECRET, own, adopted)
        for own, *adopted in (ownership.journals_of(worker, node) for worker in range(workers))
    ]
    ours = [home for home in homes if home.is_ours(address)]
    (home,) = ours
    kept = home.kept(address)
    assert home.kept(kept) == kept
    assert as_sent(kept) == address
    assert number_of(kept) == number_of(address)
    assert home.sequence_of(number_of(address)) == kept.sequence < SHADOWS_FROM
    assert home.of_sequence(5, kept.sequence) == kept
    assert [one.sequence_of(number_of(address)) for one in homes if one is not home] == [None] * (workers - 1)
    # Its own batches keep their sequences; none of another journal has one of those.
    assert (kept.sequence == sequence) == (index < workers or number_of(address) == sequence)
    identifier = encode(SECRET, RowAddress(address, 7))
    assert home.decode(identifier) == RowAddress(kept, 7)
    assert all(one.decode(identifier) is None for one in homes if one is not home)
