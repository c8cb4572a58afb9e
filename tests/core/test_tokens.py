"""TokenStore against a dict of texts; grouping by length against a loop. More of TokenIndex is in `test_devices.py`."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from gateway.columns import TextColumn
from gateway.core.records import DeviceRecords
from gateway.core.segments import HashKey
from gateway.core.tokens import EXTENT_BYTES, TOKEN_BYTES_MAX, FreeRows, TokenIndex, TokenStore, by_length


@given(st.lists(st.binary(max_size=6), max_size=30))
def test_by_length_agrees_with_a_loop(texts):
    groups = list(by_length(TextColumn.from_rows(texts)))
    assert [group.length for group in groups] == sorted({len(text) for text in texts if text})
    seen = {}
    for group in groups:
        assert group.texts.shape == (len(group.positions), group.length)
        for position, text in zip(group.positions.tolist(), group.texts, strict=True):
            seen[position] = text.tobytes()
    assert seen == {index: text for index, text in enumerate(texts) if text}


@given(st.lists(st.one_of(st.lists(st.integers(0, 2**32 - 1), max_size=9), st.integers(0, 12)), max_size=20))
def test_free_rows_are_a_stack(steps):
    free, model = FreeRows(), []
    for step in steps:
        if isinstance(step, int):
            taken = free.take(step).tolist()
            assert taken == model[max(0, len(model) - step) :]
            del model[max(0, len(model) - step) :]
        else:
            free.give(np.array(step, np.uint32))
            model += step
        assert len(free) == len(model)


def _texts(length, count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, length), dtype=np.uint8)


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([1, 7, 64, 163, 1000, TOKEN_BYTES_MAX]), st.integers(0, 80)),
        max_size=25,
    )
)
def test_token_store_keeps_every_text_and_never_passes_its_limit(steps):
    limit = 6 * EXTENT_BYTES
    store = TokenStore(limit)
    model: dict[tuple[int, int], bytes] = {}
    for seed, (is_new, length, count) in enumerate(steps):
        if is_new:
            rows = store.allocate(length, count)
            texts = _texts(length, len(rows), seed)
            store.write(length, rows, texts)
            for row, text in zip(rows.tolist(), texts, strict=True):
                assert (length, row) not in model
                model[length, row] = text.tobytes()
        else:
            rows = [row for known, row in model if known == length][:count]
            if rows:
                store.free(length, np.array(rows, np.uint32))
                for row in rows:
                    del model[length, row]
    for (length, row), text in model.items():
        assert store.gather(length, np.array([row])).tobytes() == text
    statistics = store.statistics()
    assert statistics.tokens == len(model)
    assert statistics.used_bytes == sum(length for length, _ in model) <= statistics.extent_bytes <= limit


def test_a_full_token_store_gives_what_it_has_and_again_what_is_freed():
    store = TokenStore(2 * EXTENT_BYTES)
    rows = store.allocate(64, 5_000)
    assert len(rows) == len(set(rows.tolist())) == 2 * EXTENT_BYTES // 64
    assert len(store.allocate(64, 1)) == 0
    # Extents do not change hands.
    assert len(store.allocate(65, 1)) == 0
    store.free(64, rows[:10])
    assert sorted(store.allocate(64, 20).tolist()) == sorted(rows[:10].tolist())


def test_neighbouring_extents_of_different_lengths_do_not_touch():
    store = TokenStore(20 * EXTENT_BYTES)
    written = []
    for turn in range(4):
        for length in (163, 64, 4096, 141):
            count = EXTENT_BYTES // length
            rows = store.allocate(length, count)
            texts = _texts(length, count, turn * 10_000 + length)
            store.write(length, rows, texts)
            written.append((length, rows, texts))
    for length, rows, texts in written:
        assert (store.gather(length, rows) == texts).all()


def test_token_index_compares_app_channel_and_text_even_where_hashes_are_equal():
    records = DeviceRecords(4)
    index = TokenIndex(records, HashKey(bytes(16)), tokens_max=4, token_bytes_max=EXTENT_BYTES)
    text, other = b"t" * 64, b"o" * 64

    def column(app, channel, text):
        return index.column(app, np.array([channel], np.uint8), TextColumn.from_rows([text]))

    right, first = column(7, 2, text), np.array([0])
    records.app[1] = 7
    token_rows, has_room = index.allocate(right.lengths)
    assert has_room.all()
    index.attach(np.array([1], np.int32), right, first, token_rows)
    assert index.find(right, first).tolist() == [1]
    assert index.holds(np.array([1], np.int32), right).tolist() == [True]
    for app, channel, its_text in ((7, 3, text), (8, 2, text), (7, 2, other), (7, 2, text[:63]), (7, 2, b"")):
        wrong = column(app, channel, its_text)
        assert wrong.hashes != right.hashes
        assert index.find(wrong, first).tolist() == [-1]
        assert index.find(wrong._replace(hashes=right.hashes), first).tolist() == [-1]
