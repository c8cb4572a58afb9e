"""MessageId: arrays against the plain twin, round trips, forgeries, and the vectors that other languages use."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.message_id import (
    JOURNALS_MAX,
    MESSAGE_DOMAIN,
    ROWS_MAX,
    SEQUENCES_MAX,
    TASK_DOMAIN,
    UNIX_MS_MAX,
    BatchAddress,
    MessageIds,
    RowAddress,
    decode,
    encode,
    encode_rows,
    from_text,
    text_parts,
    to_text,
)

SECRET = bytes(range(32))
VECTORS = json.loads((Path(__file__).parent / "vectors" / "message_id.json").read_text())
DOCUMENT = (Path(__file__).parent.parent / "docs" / "message-id.md").read_text()

secrets = st.binary(min_size=16, max_size=64)
domains = st.sampled_from([MESSAGE_DOMAIN, TASK_DOMAIN])
batches = st.builds(
    BatchAddress, st.integers(0, UNIX_MS_MAX), st.integers(0, JOURNALS_MAX - 1), st.integers(0, SEQUENCES_MAX - 1)
)
row_numbers = st.integers(0, ROWS_MAX - 1)


@given(
    secrets,
    batches,
    st.lists(row_numbers, max_size=20),
    domains,
    st.sampled_from([np.uint16, np.int32, np.int64, np.uint64]),
)
def test_encode_rows_agrees_with_encoding_one_by_one(secret, batch, rows, domain, dtype) -> None:
    ids = encode_rows(secret, batch, np.array(rows, dtype), domain)
    assert ids.shape == (len(rows), 16)
    assert ids.dtype == np.uint8
    assert [one.tobytes() for one in ids] == [encode(secret, RowAddress(batch, row), domain) for row in rows]


@given(secrets, batches, st.lists(row_numbers, min_size=1, max_size=20))
def test_ids_made_when_they_are_asked_for_are_those_of_their_rows(secret, batch, rows) -> None:
    wanted = encode_rows(secret, batch, np.array(rows))
    own, some = MessageIds(secret, batch), MessageIds(secret, batch, np.array(rows, np.uint16))
    at = np.arange(len(rows))[::-1]
    assert own[np.array(rows)].tobytes() == own.take(np.array(rows), axis=0).tobytes() == wanted.tobytes()
    assert some[at].tobytes() == wanted[at].tobytes()
    assert own[rows[0]].tobytes() == some[0].tobytes() == wanted[0].tobytes()
    with pytest.raises(TypeError):
        iter(own)


@given(secrets, batches, row_numbers, domains)
def test_an_id_decodes_to_its_address_under_its_own_domain_only(secret, batch, row, domain) -> None:
    address = RowAddress(batch, row)
    made = encode(secret, address, domain)
    assert decode(secret, made, domain) == address
    other = TASK_DOMAIN if domain == MESSAGE_DOMAIN else MESSAGE_DOMAIN
    # 24 bits of check: one in 16 million passes by chance, and then as the same address.
    assert decode(secret, made, other) in (None, address)


@given(batches, row_numbers)
def test_an_id_is_a_uuid_of_version_8_and_orders_by_time(batch, row) -> None:
    made = uuid.UUID(bytes=encode(SECRET, RowAddress(batch, row)))
    assert made.variant == uuid.RFC_4122
    assert made.version == 8
    assert made.int >> 80 == batch.unix_ms


@given(batches, row_numbers, st.integers(0, 127))
def test_a_flipped_bit_never_leads_to_the_same_row(batch, row, bit) -> None:
    address = RowAddress(batch, row)
    value = int.from_bytes(encode(SECRET, address), "big") ^ 1 << bit
    assert decode(SECRET, value.to_bytes(16, "big")) != address


def test_forged_ids_are_refused_but_for_the_chance_of_24_bits() -> None:
    random = np.random.default_rng(1)
    ids = random.integers(0, 256, (20_000, 16), np.uint8)
    ids[:, 6] = 0x80 | ids[:, 6] & 0x0F
    ids[:, 8] = 0x80 | ids[:, 8] & 0x3F
    # Expected: 20,000 / 2**24 = 0.0012 of them.
    assert sum(decode(SECRET, one.tobytes()) is not None for one in ids) <= 1


def test_the_check_differs_between_secrets_batches_and_rows() -> None:
    batch = BatchAddress(1_700_000_000_000, 3, 9)
    rows = np.arange(ROWS_MAX)
    checks = encode_rows(SECRET, batch, rows)[:, 13:].astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    # 65,536 draws of 2**24 values collide 128 times on average; a weak mix would collide in thousands.
    assert len(np.unique(checks)) > ROWS_MAX - 400
    other = encode_rows(SECRET, batch._replace(sequence=10), rows)[:, 13:].astype(np.uint32)
    assert np.count_nonzero((other @ np.array([65536, 256, 1], np.uint32)) == checks) < 10
    assert decode(b"another secret of some length", encode(SECRET, RowAddress(batch, 0))) is None


@pytest.mark.parametrize("size", [0, 15, 17])
def test_decode_refuses_other_lengths(size: int) -> None:
    assert decode(SECRET, bytes(size)) is None


@given(st.binary(min_size=16, max_size=16))
def test_decode_is_total_over_sixteen_bytes(identifier: bytes) -> None:
    address = decode(SECRET, identifier)
    assert address is None or encode(SECRET, address) == identifier


@pytest.mark.parametrize(
    "address",
    [
        RowAddress(BatchAddress(-1, 0, 0), 0),
        RowAddress(BatchAddress(UNIX_MS_MAX + 1, 0, 0), 0),
        RowAddress(BatchAddress(0, JOURNALS_MAX, 0), 0),
        RowAddress(BatchAddress(0, -1, 0), 0),
        RowAddress(BatchAddress(0, 0, SEQUENCES_MAX), 0),
        RowAddress(BatchAddress(0, 0, -1), 0),
        RowAddress(BatchAddress(0, 0, 0), ROWS_MAX),
        RowAddress(BatchAddress(0, 0, 0), -1),
    ],
)
def test_an_address_outside_of_its_field_is_refused(address: RowAddress) -> None:
    with pytest.raises(ValueError, match="limit"):
        encode(SECRET, address)
    if 0 <= address.row < ROWS_MAX:
        with pytest.raises(ValueError, match="limit"):
            encode_rows(SECRET, address.batch, np.array([address.row]))


# Text


@given(st.binary(min_size=16, max_size=16))
def test_text_is_that_of_the_uuid_library_and_comes_back(identifier: bytes) -> None:
    text = to_text(identifier)
    assert text == str(uuid.UUID(bytes=identifier))
    for form in (text, text.upper(), identifier.hex(), identifier.hex().upper()):
        assert from_text(form) == identifier


@given(batches, st.lists(row_numbers, max_size=8))
def test_texts_of_a_batch_agree_with_the_text_of_each_id(batch, rows) -> None:
    ids = encode_rows(SECRET, batch, np.array(rows, np.int64))
    shared, rest = text_parts(ids)
    assert rest.shape == (len(ids), 10)
    assert [(shared + row.tobytes()).decode() for row in rest] == [to_text(one.tobytes()) for one in ids]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " " * 32,
        " " * 36,
        "00 " * 10 + "00",
        "0" * 31,
        "0" * 33,
        "0" * 36,
        "-" * 4 + "0" * 32,
        "0" * 32 + "-" * 4,
        "0000000-00000-0000-0000-000000000000",
        "00000000-0000-0000-0000-00000000000g",
        "00000000-0000-0000-0000-0000000000\n0",
        "\u0660" * 32,
        "{" + "0" * 30 + "}",
        "0" * 32 + "\n",
    ],
)
def test_text_of_any_other_form_is_no_id(text: str) -> None:
    assert from_text(text) is None


@given(st.text(max_size=40))
def test_from_text_gives_sixteen_bytes_or_none(text: str) -> None:
    found = from_text(text)
    assert found is None or (len(found) == 16 and text.replace("-", "").lower() == found.hex())


# Vectors


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["name"])
def test_valid_vectors_encode_and_decode(vector) -> None:
    secret, domain = bytes.fromhex(vector["secret"]), vector["domain"].encode()
    address = RowAddress(BatchAddress(vector["unix_ms"], vector["journal"], vector["sequence"]), vector["row"])
    identifier = bytes.fromhex(vector["id"])
    assert encode(secret, address, domain) == identifier
    assert decode(secret, identifier, domain) == address
    assert to_text(identifier) == vector["text"]
    assert from_text(vector["text"]) == identifier


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["name"])
def test_invalid_vectors_are_refused(vector) -> None:
    secret, domain = bytes.fromhex(vector["secret"]), vector["domain"].encode()
    assert decode(secret, bytes.fromhex(vector["id"]), domain) is None


def test_the_worked_example_of_the_document_is_a_vector() -> None:
    example = next(vector for vector in VECTORS["valid"] if vector["name"] == "worked example")
    for key in ("secret", "id", "text"):
        assert example[key] in DOCUMENT
    for key in ("unix_ms", "journal", "sequence", "row"):
        assert str(example[key]) in DOCUMENT.replace(",", "")
