"""Addresses of requests of many rows: round trip, form, forgery."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.burst_address import NUMBERS_MAX, TEXT_CHARACTERS, BurstAddress, decode, encode, encode_numbers
from gateway.message_id import JOURNALS_MAX, SEQUENCES_MAX, UNIX_MS_MAX, BatchAddress

SECRET = b"0123456789abcdef"
batches = st.builds(
    BatchAddress, st.integers(0, UNIX_MS_MAX), st.integers(0, JOURNALS_MAX - 1), st.integers(0, SEQUENCES_MAX - 1)
)
addresses = st.builds(BurstAddress, batches, st.integers(0, NUMBERS_MAX - 1))


@given(addresses)
def test_an_address_is_read_back_and_is_50_ascii_characters_at_most(address: BurstAddress) -> None:
    text = encode(SECRET, address)
    assert len(text) == TEXT_CHARACTERS <= 50
    assert text.isascii()
    assert decode(SECRET, text) == address


@given(addresses, st.integers(0, TEXT_CHARACTERS - 1), st.sampled_from("0123456789abcdef"))
def test_a_changed_character_is_no_address(address: BurstAddress, at: int, character: str) -> None:
    text = encode(SECRET, address)
    forged = text[:at] + character + text[at + 1 :]
    assert decode(SECRET, forged) == (address if forged == text else None)


@given(st.text(max_size=60) | st.binary(max_size=30).map(bytes.hex))
def test_other_texts_are_no_address(text: str) -> None:
    assert decode(SECRET, text) is None


@given(addresses)
def test_another_secret_reads_nothing(address: BurstAddress) -> None:
    assert decode(b"another secret..", encode(SECRET, address)) is None


@given(batches, st.integers(0, NUMBERS_MAX - 1), st.integers(0, 5))
def test_numbers_in_a_row_are_the_addresses_one_by_one(batch: BatchAddress, first: int, count: int) -> None:
    texts = encode_numbers(SECRET, batch, first, count)
    assert texts.shape == (count, TEXT_CHARACTERS)
    for at in range(count):
        address = BurstAddress(batch, (first + at) % NUMBERS_MAX)
        assert texts[at].tobytes().decode() == encode(SECRET, address)
