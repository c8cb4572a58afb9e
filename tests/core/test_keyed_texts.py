"""Texts by row and rows by text, against dicts."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from gateway.columns import TextColumn
from gateway.core.chains import padded_texts
from gateway.core.keyed_texts import KeyedTexts
from gateway.core.segments import HashKey

KEY = HashKey(b"a secret of sixteen bytes or more")
TEXTS = [b"user-1", b"user-2", b"user-1\0", b"u" * 16, b"u" * 17, "用户二".encode() * 12]


def make(rows_max=50):
    return KeyedTexts(KEY, rows_max=rows_max, texts_max=rows_max, text_bytes_max=160, name="texts_max")


def texts_of(rows):
    return padded_texts(TextColumn.from_rows(rows))


def array(values, dtype=np.int32):
    return np.array(values, dtype)


steps = st.lists(
    st.dictionaries(st.integers(1, 30), st.sampled_from(TEXTS), max_size=6) | st.sets(st.integers(1, 30), max_size=6),
    max_size=8,
)


@given(steps)
def test_texts_agree_with_a_dict(steps):
    texts, model = make(), {}
    for step in steps:
        if isinstance(step, set):
            texts.drop(array(sorted(step)))
            model = {row: value for row, value in model.items() if row not in step}
        else:
            new = {row: (text, row % 2) for row, text in step.items() if row not in model}
            salts = array([salt for _, salt in new.values()], np.uint16)
            texts.put(array(list(new)), texts_of([text for text, _ in new.values()]), salts)
            model |= new
    rows = array(range(-1, 31))
    assert texts.column(rows).rows() == [model.get(row, (b"", 0))[0] for row in rows.tolist()]
    assert [texts.one(row) for row in range(1, 31)] == [model.get(row, (b"", 0))[0] for row in range(1, 31)]
    assert len(texts) == len(model)
    for salt in (0, 1):
        found = texts.find(texts_of([*TEXTS, b""]), salt).tolist()
        assert found.pop() == -1
        for text, row in zip(TEXTS, found, strict=True):
            expected = [number for number, value in sorted(model.items()) if value == (text, salt)]
            assert texts.find_all(text, salt).tolist() == expected
            assert row in expected if expected else row == -1
            is_same = texts.have(rows, texts_of([text] * len(rows)), salt)
            assert rows[is_same].tolist() == expected


def test_texts_that_were_loaded_are_found_as_if_they_had_been_put():
    loaded, put = make(20_000), make(20_000)
    rows = np.arange(1, 20_001, dtype=np.int32)
    # Every tenth text is that of two rows.
    texts = texts_of([b"user-%d" % (row - (row % 10 == 0)) for row in rows.tolist()])
    salts = (rows % 20 // 11).astype(np.uint16)
    filling = loaded.filling(20_000)
    for at in range(0, 20_000, 2000):
        some = np.arange(at, at + 2000)
        loaded.load(rows[some], texts.take(some), salts[some], filling)
        put.put(rows[some], texts.take(some), salts[some])
    for _ in filling.steps():
        pass
    assert len(loaded) == len(put) == 20_000
    for text, salt in ((b"user-9", 0), (b"user-9", 1), (b"user-17", 1), (b"user-10", 0)):
        assert loaded.find_all(text, salt).tolist() == put.find_all(text, salt).tolist()
    assert loaded.have(rows, texts, salts).all()
    assert loaded.have(loaded.find(texts, salts), texts, salts).all()
