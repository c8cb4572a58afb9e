"""Journal records: a batch comes back as it was, whatever its columns; damaged bytes are refused, never guessed at."""

from __future__ import annotations

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given

from gateway.batch import NO_IDS, Batch, TaskSegment
from gateway.columns import TextColumn
from gateway.content import Click, Variant
from gateway.message_id import BatchAddress
from gateway.store.records import BATCH_RECORD, decode_batch, encode_batch

COLUMNS = {
    "device_ids": np.uint8,
    "variant_index": np.uint16,
    "channels": np.uint8,
    "duplicates": np.bool_,
    "source_rows": np.uint32,
}

scalars = st.text(max_size=4) | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans()
variants = st.builds(
    Variant,
    title=st.text(max_size=6),
    body=st.text(max_size=6),
    data=st.none() | st.dictionaries(st.text(max_size=3), scalars, max_size=3),
    ttl_s=st.integers(0, 3_456_000),
    strategy=st.integers(0, 4) | st.just({"default": 1, "apns": 2}),
    badge=st.none() | st.integers(0, 9),
    click=st.none() | st.just(Click("url", "https://example.org")),
    class_=st.sampled_from(["system", "marketing"]),
    raw=st.none() | st.just({"apns": msgspec.Raw(b'{"aps":{"badge":1}}'), "fcm": msgspec.Raw(b"{}")}),
)


labels = st.sampled_from(["", "north", "名"])


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    n = draw(st.integers(1, 6))
    made = draw(st.lists(variants, min_size=1, max_size=3))

    def column(dtype: type, values: st.SearchStrategy) -> np.ndarray | None:
        return draw(st.none() | st.lists(values, min_size=n, max_size=n).map(lambda found: np.array(found, dtype)))

    def text() -> TextColumn:
        return TextColumn.from_rows(draw(st.lists(st.binary(max_size=5), min_size=n, max_size=n)))

    names = draw(st.lists(st.sampled_from(["x", "a:b", "", "tokens.blob", "名"]), unique=True, max_size=3))
    return Batch(
        BatchAddress(draw(st.integers(0, 2**48 - 1)), draw(st.integers(0, 4095)), draw(st.integers(0, 2**22 - 1))),
        draw(st.integers(0, 99)),
        7.5,
        n,
        device_ids=np.frombuffer(draw(st.binary(min_size=16 * n, max_size=16 * n)), np.uint8).reshape(n, 16),
        message_ids=np.ones((n, 16), np.uint8),
        variants=made,
        variant_index=column(np.uint16, st.integers(0, len(made) - 1)) if len(made) > 1 else None,
        channels=column(np.uint8, st.integers(0, 10)),
        tokens=text() if draw(st.booleans()) else None,
        duplicates=column(np.bool_, st.booleans()),
        source_rows=column(np.uint32, st.integers(0, 2**32 - 1)),
        variables={name: text() for name in names},
        segments=[
            TaskSegment(draw(st.binary(min_size=16, max_size=16)), 0, 1, draw(labels), draw(st.booleans())),
            TaskSegment(b"t" * 16, 1, n - 1, draw(labels), draw(st.booleans())),
        ],
    )


def payload_of(batch: Batch) -> bytes:
    record = encode_batch(batch)
    assert record.kind == BATCH_RECORD
    payload = b"".join(bytes(buffer) for buffer in record.buffers)
    assert record.payload_bytes() == len(payload)
    return payload


def plain_variant(variant: Variant) -> tuple:
    raw = None if variant.raw is None else {name: bytes(value) for name, value in variant.raw.items()}
    return msgspec.structs.replace(variant, raw=None), raw


@given(batches())
def test_a_batch_comes_back_from_its_record_with_values_and_types(batch: Batch) -> None:
    back = decode_batch(payload_of(batch), born=99.0)
    assert (back.address, back.app, back.n, back.born) == (batch.address, batch.app, batch.n, 99.0)
    assert back.born_unix_ms == batch.born_unix_ms
    assert [plain_variant(variant) for variant in back.variants] == [plain_variant(v) for v in batch.variants]
    assert back.segments == batch.segments
    assert back.device_ids.shape == (batch.n, 16)
    for name, dtype in COLUMNS.items():
        before, after = getattr(batch, name), getattr(back, name)
        assert (after is None) == (before is None), name
        if before is not None:
            assert after.dtype == dtype
            assert after.tolist() == before.tolist()
    assert (back.tokens is None) == (batch.tokens is None)
    if batch.tokens is not None:
        assert back.tokens.rows() == batch.tokens.rows()
    assert list(back.variables) == list(batch.variables)
    for name, column in batch.variables.items():
        assert back.variables[name].rows() == column.rows()
    # Its home makes them from the address.
    assert back.message_ids is NO_IDS


@given(batches(), st.integers(1, 5))
def test_a_column_that_is_no_contiguous_array_is_written_all_the_same(batch: Batch, step: int) -> None:
    wide = np.zeros((batch.n * step, 16), np.uint8)
    wide[::step] = batch.device_ids
    before = batch.device_ids.tolist()
    batch.device_ids = wide[::step]
    assert decode_batch(payload_of(batch), born=0.0).device_ids.tolist() == before


def test_columns_go_into_the_record_without_a_copy() -> None:
    ids = np.arange(64, dtype=np.uint8).reshape(4, 16)
    batch = Batch(BatchAddress(1, 2, 3), 0, 0.0, 4, device_ids=ids, message_ids=ids, variants=[Variant("t", "b")])
    views = [np.frombuffer(buffer, np.uint8) for buffer in encode_batch(batch).buffers if len(buffer) == ids.nbytes]
    assert any(np.shares_memory(view, ids) for view in views)


@given(batches(), st.data())
def test_a_record_cut_short_or_grown_is_refused(batch: Batch, data: st.DataObject) -> None:
    payload = payload_of(batch)
    for damaged in (payload[: data.draw(st.integers(0, len(payload) - 1))], payload + b"\x00"):
        with pytest.raises(ValueError):
            decode_batch(damaged, born=0.0)


@given(batches(), st.data())
def test_a_damaged_record_is_refused_or_read_and_raises_nothing_else(batch: Batch, data: st.DataObject) -> None:
    payload = bytearray(payload_of(batch))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        back = decode_batch(bytes(payload), born=0.0)
    except ValueError:
        return
    assert back.n >= 1
    for column in (back.tokens, *back.variables.values()):
        assert column is None or len(column.rows()) == back.n


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):
        decode_batch(payload, born=0.0)


def header_of(**changes: object) -> bytes:
    fields = {
        "address": (1, 2, 3),
        "app": 0,
        "n": 2,
        "variants": [Variant("t", "b")],
        "raws": {},
        "segments": [],
        "columns": [("device_ids", 32)],
    }
    header = msgspec.msgpack.encode({**fields, **changes})
    return len(header).to_bytes(4, "little") + header


GOOD_IDS = bytes(32)


def test_the_plainest_record_is_read() -> None:
    assert decode_batch(header_of() + GOOD_IDS, born=0.0).n == 2


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({"columns": []}, b""),
        ({"columns": [("device_ids", 31)]}, bytes(31)),
        ({"columns": [("device_ids", 32), ("x", -32)]}, b""),
        ({"n": 0, "columns": [("device_ids", 0)]}, b""),
        ({"n": 65_537}, GOOD_IDS),
        ({"n": 3}, GOOD_IDS),
        ({"columns": [("device_ids", 32), ("channels", 3)]}, GOOD_IDS + bytes(3)),
        ({"columns": [("device_ids", 32), ("variant_index", 3)]}, GOOD_IDS + bytes(3)),
        ({"columns": [("device_ids", 32), ("tokens.blob", 3)]}, GOOD_IDS + b"abc"),
        (
            {"columns": [("device_ids", 32), ("tokens.offsets", 12), ("tokens.blob", 3)]},
            GOOD_IDS + np.array([0, 5, 3], "<u4").tobytes() + b"abc",
        ),
        (
            {"columns": [("device_ids", 32), ("var.offsets:x", 12), ("var.blob:x", 3)]},
            GOOD_IDS + np.array([0, 1, 2], "<u4").tobytes() + b"abc",
        ),
        ({"raws": {5: {"apns": b"{}"}}}, GOOD_IDS),
        ({"unknown": 1}, GOOD_IDS),
        ({"variants": [{"title": "t"}]}, GOOD_IDS),
        ({"address": (1, 2)}, GOOD_IDS),
    ],
    ids=str,
)
def test_columns_that_do_not_fit_the_header_are_refused(changes: dict[str, object], columns: bytes) -> None:
    with pytest.raises(ValueError):
        decode_batch(header_of(**changes) + columns, born=0.0)
