"""Records of audiences: they come back as they were, and what is no record is refused by name."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app_audiences import FoundAudiences
from gateway.content import Variant
from gateway.store import audience_records
from gateway.store.audience_records import Reached, decode_audience, decode_reached, encode_audience, encode_reached
from gateway.store.ports import AUDIENCE_RECORD, REACHED_RECORD

TASK = bytes(range(16))
RAW = {"apns": msgspec.Raw(b'{"aps":{"badge":1}}')}


def payload(record: object) -> bytes:
    return b"".join(bytes(buffer) for buffer in record.buffers)  # type: ignore[attr-defined]


@given(st.integers(1, 40), st.integers(1, 20), st.sampled_from([None, 2.5]))
def test_an_audience_comes_back_from_as_many_records_as_it_needs(
    n: int, ids_max: int, rows_per_s: float | None
) -> None:
    ids = np.random.default_rng(n).integers(0, 256, (n, 16), np.uint8)
    variant = Variant("t", "b", ttl_s=60, raw=RAW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audience_records, "IDS_MAX", ids_max)
        records = encode_audience(TASK, "shop", variant, rows_per_s, ids)
    assert len(records) == -(-n // ids_max)
    found = FoundAudiences()
    for position, record in reversed(list(enumerate(records))):
        assert record.kind == AUDIENCE_RECORD
        found.add(position, decode_audience(payload(record)))
    mark = encode_reached(Reached(TASK, n - 1, 77))
    assert mark.kind == REACHED_RECORD
    found.reached(100, decode_reached(payload(encode_reached(Reached(TASK, 0, 5)))))
    found.reached(101, decode_reached(payload(mark)))
    (saved,) = found.saved({"shop": 2})
    assert (saved.app, saved.rows_per_s, saved.reached, saved.reached_unix_ms) == (2, rows_per_s, n - 1, 77)
    assert np.array_equal(saved.ids, ids)
    assert saved.variant.raw is not None
    assert bytes(saved.variant.raw["apns"]) == bytes(RAW["apns"])
    assert (sorted(saved.positions), saved.reached_position) == (list(range(len(records))), 101)
    assert found.spent == [100]


def test_what_is_through_or_not_whole_is_spent_and_what_is_of_an_unknown_app_stays() -> None:
    ids = np.zeros((3, 16), np.uint8)
    through, orphan, stranger = (bytes([number]) * 16 for number in range(3))
    found = FoundAudiences()
    for position, (task_id, app_key) in enumerate([(through, "shop"), (stranger, "gone")]):
        (record,) = encode_audience(task_id, app_key, Variant("t", "b"), None, ids)
        found.add(position, decode_audience(payload(record)))
    found.reached(10, Reached(through, 3, 0))
    found.reached(11, Reached(orphan, 1, 0))
    found.reached(12, Reached(stranger, 1, 0))
    assert found.saved({"shop": 0}) == []
    assert sorted(found.spent) == [0, 10, 11]


@pytest.mark.parametrize("data", [b"", b"\x01\x00\x00\x00", b"\x01\x00\x00\x00\x91", b"\xff" * 9])
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="record"):
        decode_audience(data)
    with pytest.raises(ValueError, match="record"):
        decode_reached(data)
